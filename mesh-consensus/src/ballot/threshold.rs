//! How many members must approve, exactly.

use std::fmt;

use mesh_core::{DecodeError, Reader, Wire};

/// The share of an electorate that must approve, as a fraction: more than zero, at most one. Default: 67/100.
///
/// ```
/// use mesh_consensus::ballot::Threshold;
///
/// assert_eq!(Threshold::default().needed(4), 3);
/// assert_eq!(Threshold::new(2, 3)?.needed(9), 6);
/// assert_eq!(Threshold::hundredths(51)?.needed(100), 51);
/// assert!(Threshold::hundredths(101).is_err());
/// # Ok::<(), mesh_consensus::ballot::ThresholdError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Threshold {
    numerator: u32,
    denominator: u32,
}

/// Why two numbers are no threshold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a threshold is more than zero and at most one, not {numerator}/{denominator}")]
pub struct ThresholdError {
    /// The number above.
    pub numerator: u32,
    /// The number below.
    pub denominator: u32,
}

impl Default for Threshold {
    fn default() -> Self {
        Self { numerator: 67, denominator: 100 }
    }
}

impl Threshold {
    /// `numerator / denominator` of the members.
    ///
    /// # Errors
    /// [`ThresholdError`] when it is zero or more than one.
    pub const fn new(numerator: u32, denominator: u32) -> Result<Self, ThresholdError> {
        if numerator == 0 || numerator > denominator {
            return Err(ThresholdError { numerator, denominator });
        }
        Ok(Self { numerator, denominator })
    }

    /// So many hundredths of the members: 67 for two thirds, as it is mostly said.
    ///
    /// # Errors
    /// [`ThresholdError`] when it is zero or more than a hundred.
    pub const fn hundredths(hundredths: u32) -> Result<Self, ThresholdError> {
        Self::new(hundredths, 100)
    }

    /// The number above.
    pub const fn numerator(self) -> u32 {
        self.numerator
    }

    /// The number below.
    pub const fn denominator(self) -> u32 {
        self.denominator
    }

    /// The least number of approvals that is at least this share of `members`: the product, rounded up.
    pub const fn needed(self, members: usize) -> usize {
        (members as u128 * self.numerator as u128).div_ceil(self.denominator as u128) as usize
    }
}

impl fmt::Display for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.numerator, self.denominator)
    }
}

impl Wire for Threshold {
    fn encode(&self, out: &mut Vec<u8>) {
        self.numerator.encode(out);
        self.denominator.encode(out);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (numerator, denominator) = (Wire::decode(reader)?, Wire::decode(reader)?);
        Self::new(numerator, denominator).map_err(|_| DecodeError::Invalid("no share of an electorate"))
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::wire;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn two_thirds_as_it_is_mostly_said_are_rounded_up() {
        let needed = |members| Threshold::default().needed(members);
        assert_eq!([1, 2, 3, 4, 10, 16, 100, 128, 1024].map(needed), [1, 2, 3, 3, 7, 11, 67, 86, 687]);
        assert_eq!(Threshold::new(u32::MAX, u32::MAX).unwrap().needed(usize::MAX), usize::MAX);
        assert_eq!(Threshold::new(1, u32::MAX).unwrap().needed(1024), 1);
    }

    #[test]
    fn a_forged_share_does_not_decode() {
        for (numerator, denominator) in [(0_u32, 0_u32), (0, 1), (2, 1), (u32::MAX, 0)] {
            assert!(wire::from_bytes::<Threshold>(&wire::to_bytes(&(numerator, denominator))).is_err());
            assert_eq!(Threshold::new(numerator, denominator), Err(ThresholdError { numerator, denominator }));
        }
    }

    proptest! {
        #[test]
        fn it_is_the_least_number_that_reaches_the_share(
            members in 1..=4096_usize, numerator in 1..=u32::MAX, more in 0..=u32::MAX,
        ) {
            let threshold = Threshold::new(numerator, numerator.saturating_add(more)).unwrap();
            let reaches = |approvals: usize| {
                approvals as u128 * u128::from(threshold.denominator()) >= members as u128 * u128::from(numerator)
            };
            let needed = threshold.needed(members);
            prop_assert!((1..=members).contains(&needed));
            prop_assert!(reaches(needed) && !reaches(needed - 1));
            prop_assert_eq!(wire::from_bytes::<Threshold>(&wire::to_bytes(&threshold)), Ok(threshold));
        }
    }
}
