//! What is aggregated, and how often.

use std::time::Duration;

use super::mass::NUMBERS_MAX;

/// A number that each node has one of.
#[derive(Clone, Debug, PartialEq)]
pub struct Variable {
    /// What it is called.
    pub name: String,
    /// No node has less: what is below is taken for this. It also bounds what a liar can do.
    pub low: f64,
    /// No node has more.
    pub high: f64,
    /// The upper bounds of buckets, ascending, for quantiles; without any there are none.
    pub bounds: Vec<f64>,
}

impl Variable {
    /// A variable between bounds.
    pub fn new(name: impl Into<String>, low: f64, high: f64) -> Self {
        Self { name: name.into(), low, high, bounds: Vec::new() }
    }

    /// Asks for quantiles, told as the upper bound of the bucket they fall into.
    #[must_use]
    pub fn with_quantiles(mut self, bounds: impl IntoIterator<Item = f64>) -> Self {
        self.bounds = bounds.into_iter().collect();
        self
    }

    /// How many buckets there are: one more than bounds.
    pub(super) fn buckets(&self) -> usize {
        if self.bounds.is_empty() { 0 } else { self.bounds.len() + 1 }
    }

    pub(super) fn bucket_of(&self, value: f64) -> usize {
        self.bounds.partition_point(|bound| *bound < value)
    }

    /// The value as it is counted.
    pub(super) fn clamp(&self, value: f64) -> f64 {
        if value.is_nan() { self.low } else { value.clamp(self.low, self.high) }
    }
}

/// What is aggregated, and how often. All nodes must be given the same variables.
#[derive(Clone, Debug, PartialEq)]
pub struct AggregationConfig {
    /// A round: each node passes shares on once. Default: 2 s.
    pub interval: Duration,
    /// To how many peers shares are passed in a round. Default: 2.
    pub fan_out: u32,
    /// How many rounds an epoch has. Then all begin again with the values of then, without the nodes that are
    /// gone. Default: 32; a thousand nodes agree within one per cent after 20 to 30.
    pub rounds: u32,
    /// What is aggregated.
    pub variables: Vec<Variable>,
    /// How many peers there may be. Default: 65,536.
    pub peers_max: usize,
}

impl Default for AggregationConfig {
    fn default() -> Self {
        Self { interval: Duration::from_secs(2), fan_out: 2, rounds: 32, variables: Vec::new(), peers_max: 1 << 16 }
    }
}

/// No round takes longer: a day.
const INTERVAL_MAX: Duration = Duration::from_secs(24 * 3600);

/// No epoch has more rounds.
const ROUNDS_MAX: u32 = 1 << 20;

/// A configuration that cannot work, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct AggregationConfigError(String);

impl AggregationConfig {
    /// Checks that it can work.
    ///
    /// # Errors
    /// A sentence that names the value and the bound.
    pub fn validate(&self) -> Result<(), AggregationConfigError> {
        let refuse = |why| Err(AggregationConfigError(why));
        if self.interval.is_zero() || self.fan_out == 0 || self.rounds == 0 || self.peers_max == 0 {
            return refuse("interval, fan_out, rounds and peers_max must be more than zero".to_owned());
        }
        if self.interval > INTERVAL_MAX || self.rounds > ROUNDS_MAX {
            let Self { interval, rounds, .. } = self;
            return refuse(format!(
                "interval is {interval:?} and rounds {rounds}: they must be at most {INTERVAL_MAX:?} and {ROUNDS_MAX}"
            ));
        }
        if self.fan_out > 16 {
            return refuse(format!("fan_out is {}: more than 16 is a broadcast", self.fan_out));
        }
        for Variable { name, low, high, bounds } in &self.variables {
            if !(low.is_finite() && high.is_finite() && low < high) {
                return refuse(format!("{name} is from {low} to {high}: bounds must be finite, the lower one first"));
            }
            let ascending = bounds.is_sorted_by(|a, b| a < b) && bounds.iter().all(|bound| bound.is_finite());
            if !ascending {
                return refuse(format!("the buckets of {name} are not in ascending order"));
            }
        }
        // Extremes take two numbers a variable.
        let numbers: usize = self.variables.iter().map(|variable| 1 + variable.buckets()).sum();
        if numbers > NUMBERS_MAX || 2 * self.variables.len() > NUMBERS_MAX {
            return refuse(format!(
                "the variables and their buckets are {numbers} numbers: {NUMBERS_MAX} fit into a packet"
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_works_and_each_rule_is_checked() {
        assert_eq!(AggregationConfig::default().validate(), Ok(()));
        let refused = |change: fn(&mut AggregationConfig)| {
            let mut config = AggregationConfig::default();
            change(&mut config);
            config.validate().expect_err("it cannot work").to_string()
        };
        assert!(refused(|c| c.interval = Duration::ZERO).contains("more than zero"));
        assert!(refused(|c| c.interval = Duration::MAX).contains("interval"));
        assert!(refused(|c| c.rounds = u32::MAX).contains("rounds"));
        assert!(refused(|c| c.fan_out = 17).contains("broadcast"));
        assert!(refused(|c| c.fan_out = u32::MAX).contains("broadcast"));
        assert_eq!(AggregationConfig { peers_max: usize::MAX, ..AggregationConfig::default() }.validate(), Ok(()));
        assert!(refused(|c| c.variables = vec![Variable::new("x", 1.0, 1.0)]).contains("lower one first"));
        assert!(refused(|c| c.variables = vec![Variable::new("x", 0.0, f64::NAN)]).contains("finite"));
        let wide = |c: &mut AggregationConfig| {
            c.variables = vec![Variable::new("x", 0.0, 1.0).with_quantiles((0..200).map(f64::from))];
        };
        assert!(refused(wide).contains("fit into a packet"));
        let back =
            |c: &mut AggregationConfig| c.variables = vec![Variable::new("x", 0.0, 1.0).with_quantiles([0.5, 0.4])];
        assert!(refused(back).contains("ascending"));
    }
}
