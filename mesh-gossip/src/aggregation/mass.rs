//! What is divided and passed on: sums over all nodes, of which every node holds a part.

use mesh_core::{DecodeError, Reader, Wire};

use super::config::Variable;

/// Up to this many numbers are in one share, so that it fits into a packet.
pub const NUMBERS_MAX: usize = 128;

/// A share of nodes above this is made up: honest shares come to a few nodes at most.
const NODES_MAX: f64 = 1024.0;

/// What rounding may add to a sum that lies at its bound.
const TOLERANCE: f64 = 1e-6;

/// A part of the sums over all nodes.
///
/// Whatever is added to one part is taken from another, so the sums over all parts stay what they were when the
/// epoch began: that is all of push-sum's invariant.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mass {
    /// How many nodes.
    pub nodes: f64,
    /// The weight of the node that is counted from: 1 in all.
    pub origin: f64,
    /// For each variable its sum, then how many nodes are in each of its buckets.
    pub sums: Vec<f64>,
}

impl Mass {
    /// The mass of one node with these values.
    pub(super) fn of(variables: &[Variable], values: &[f64], origin: bool) -> Self {
        let mut sums = Vec::new();
        for (variable, value) in variables.iter().zip(values) {
            sums.push(*value);
            let bucket = variable.bucket_of(*value);
            sums.extend((0..variable.buckets()).map(|at| if at == bucket { 1.0 } else { 0.0 }));
        }
        Self { nodes: 1.0, origin: if origin { 1.0 } else { 0.0 }, sums }
    }

    /// Takes one of `parts` equal parts off.
    pub(super) fn take(&mut self, parts: u32) -> Self {
        let part = 1.0 / f64::from(parts.max(1));
        let taken = Self {
            nodes: self.nodes * part,
            origin: self.origin * part,
            sums: self.sums.iter().map(|sum| sum * part).collect(),
        };
        self.nodes -= taken.nodes;
        self.origin -= taken.origin;
        self.sums.iter_mut().zip(&taken.sums).for_each(|(sum, taken)| *sum -= taken);
        taken
    }

    /// Adds a part.
    pub(super) fn add(&mut self, part: &Self) {
        self.nodes += part.nodes;
        self.origin += part.origin;
        self.sums.iter_mut().zip(&part.sums).for_each(|(sum, part)| *sum += part);
    }

    /// Whether nodes whose values are within bounds can have such a mass.
    pub(super) fn is_possible(&self, variables: &[Variable]) -> bool {
        let slack = TOLERANCE * (1.0 + self.nodes.abs());
        let within = |number: f64, low: f64, high: f64| {
            let slack = slack * (1.0 + low.abs().max(high.abs()));
            number >= low - slack && number <= high + slack
        };
        let len: usize = variables.iter().map(|variable| 1 + variable.buckets()).sum();
        if self.sums.len() != len || !within(self.origin, 0.0, 1.0) || !(self.nodes >= 0.0 && self.nodes <= NODES_MAX) {
            return false;
        }
        let mut sums = self.sums.iter().copied();
        variables.iter().all(|variable| {
            let (low, high) = (variable.low * self.nodes, variable.high * self.nodes);
            let sum = sums.next().is_some_and(|sum| within(sum, low.min(high), high.max(low)));
            sum & sums.by_ref().take(variable.buckets()).all(|count| within(count, 0.0, self.nodes))
        })
    }
}

/// A number in eight bytes. One that is none does not decode.
#[derive(Clone, Copy, Debug)]
pub(super) struct Number(pub(super) f64);

impl Wire for Number {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0.to_le_bytes());
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let number = f64::from_le_bytes(Wire::decode(reader)?);
        if number.is_finite() {
            Ok(Self(number))
        } else {
            Err(DecodeError::Invalid("a number that is none, or infinite"))
        }
    }
}

pub(super) fn encode_numbers(numbers: impl ExactSizeIterator<Item = f64>, out: &mut Vec<u8>) {
    (numbers.len() as u64).encode(out);
    numbers.for_each(|number| Number(number).encode(out));
}

pub(super) fn decode_numbers(reader: &mut Reader<'_>) -> Result<Vec<f64>, DecodeError> {
    let len = reader.take_len()?;
    if len > NUMBERS_MAX {
        return Err(DecodeError::Length { claimed: len as u64, limit: NUMBERS_MAX });
    }
    (0..len).map(|_| Number::decode(reader).map(|number| number.0)).collect()
}

impl Wire for Mass {
    fn encode(&self, out: &mut Vec<u8>) {
        Number(self.nodes).encode(out);
        Number(self.origin).encode(out);
        encode_numbers(self.sums.iter().copied(), out);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (nodes, origin) = (Number::decode(reader)?.0, Number::decode(reader)?.0);
        Ok(Self { nodes, origin, sums: decode_numbers(reader)? })
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::{Bytes, wire};

    use super::*;

    fn variables() -> Vec<Variable> {
        vec![Variable::new("load", 0.0, 1.0).with_quantiles([0.25, 0.5, 0.75]), Variable::new("heat", -10.0, 100.0)]
    }

    #[test]
    fn what_is_taken_off_and_added_again_is_what_it_was() {
        let whole = Mass::of(&variables(), &[0.6, -3.0], true);
        assert_eq!(whole.sums, [0.6, 0.0, 0.0, 1.0, 0.0, -3.0]);
        let mut rest = whole.clone();
        let third = rest.take(3);
        assert!((rest.nodes - 2.0 / 3.0).abs() < 1e-12 && (third.nodes - 1.0 / 3.0).abs() < 1e-12);
        rest.add(&third);
        assert!((rest.nodes - whole.nodes).abs() < 1e-12 && (rest.sums[5] - whole.sums[5]).abs() < 1e-12);
    }

    #[test]
    fn a_mass_that_no_nodes_can_have_is_told() {
        let variables = variables();
        let good = Mass::of(&variables, &[1.0, 100.0], true);
        assert!(good.is_possible(&variables));
        let bad = |change: fn(&mut Mass)| {
            let mut mass = good.clone();
            change(&mut mass);
            !mass.is_possible(&variables)
        };
        assert!(bad(|mass| mass.nodes = -1.0));
        assert!(bad(|mass| mass.nodes = 1e9));
        assert!(bad(|mass| mass.nodes = f64::NAN));
        assert!(bad(|mass| mass.origin = 2.0));
        assert!(bad(|mass| mass.sums[0] = 1.1));
        assert!(bad(|mass| mass.sums[0] = -0.1));
        assert!(bad(|mass| mass.sums[2] = 1.1));
        assert!(bad(|mass| mass.sums[5] = f64::NAN));
        assert!(bad(|mass| mass.sums.push(0.0)));
        assert!(bad(|mass| mass.sums.clear()));
    }

    #[test]
    fn it_comes_back_as_it_was_sent_and_numbers_that_are_none_do_not() {
        let mass = Mass::of(&variables(), &[0.1, 7.5], false);
        assert_eq!(wire::from_bytes::<Mass>(&wire::to_bytes(&mass)), Ok(mass.clone()));
        let infinite = wire::to_bytes(&Mass { nodes: f64::INFINITY, ..mass });
        assert!(wire::from_bytes::<Mass>(&infinite).is_err());
        let mut long = vec![0; 16];
        (NUMBERS_MAX as u64 + 1).encode(&mut long);
        long.resize(long.len() + 8 * (NUMBERS_MAX + 1), 0);
        assert!(matches!(wire::from_bytes::<Mass>(&Bytes::from(long)), Err(DecodeError::Length { .. })));
    }
}
