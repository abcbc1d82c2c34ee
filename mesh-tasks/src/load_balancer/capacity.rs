//! How many nodes a load needs, from what was measured.
//!
//! ```
//! use mesh_tasks::load_balancer::capacity::{CapacityPlan, Measured};
//!
//! // 12 nodes complete 900 tasks a second while 60 % of them are in use.
//! let measured = Measured { nodes: 12, tasks_per_s: 900.0, utilisation: 0.6 };
//! let plan = CapacityPlan { peak_tasks_per_s: 2000.0, ..CapacityPlan::default() };
//! // Each could do 125 a second; 2,500 are to be possible.
//! assert_eq!(plan.nodes(&measured), Ok(20));
//! ```

use std::time::Duration;

use super::LoadSummary;

/// What nodes were seen to do, over some time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// How many nodes.
    pub nodes: u32,
    /// How many tasks all of them completed a second.
    pub tasks_per_s: f64,
    /// Which share of them was in use, on average, from 0 to 1.
    pub utilisation: f64,
}

impl Measured {
    /// What a [`Survey`](crate::pool::Survey) found of the loads, and how many tasks all nodes together completed in which
    /// time: the counter `tasks_completed` of each tells that. Loads above 1, of nodes that have more to do than they can,
    /// count as 1.
    pub fn by(loads: &LoadSummary, completed: u64, time: Duration) -> Self {
        Self {
            nodes: u32::try_from(loads.nodes).unwrap_or(u32::MAX),
            tasks_per_s: completed as f64 / time.as_secs_f64(),
            utilisation: loads.mean.min(1.0),
        }
    }
}

/// What nodes are to be enough for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CapacityPlan {
    /// The most tasks that come in a second. Default: 0.
    pub peak_tasks_per_s: f64,
    /// How much more is to be possible. Default: 0.25; from 0 to 10.
    pub headroom: f64,
    /// How many nodes may be down without the load being too much. Default: 0.
    pub spare_nodes: u32,
}

impl Default for CapacityPlan {
    fn default() -> Self {
        Self { peak_tasks_per_s: 0.0, headroom: 0.25, spare_nodes: 0 }
    }
}

/// Why it cannot be told how many nodes are needed.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CapacityError {
    /// A number is outside of its bounds.
    #[error("{name} is {value}; it must be {bounds}")]
    OutOfBounds {
        /// Which number.
        name: &'static str,
        /// What it is.
        value: f64,
        /// What it may be.
        bounds: &'static str,
    },
    /// More nodes would be needed than can be counted.
    #[error("more than {} nodes would be needed", u32::MAX)]
    TooMany,
}

impl CapacityPlan {
    /// How many nodes are needed, of those that were measured; 1 at least.
    ///
    /// # Errors
    /// [`CapacityError`] where a number is none that this can be told from.
    pub fn nodes(&self, measured: &Measured) -> Result<u32, CapacityError> {
        let peak = self.peak_tasks_per_s;
        let checks = [
            ("peak_tasks_per_s", peak, peak.is_finite() && peak >= 0.0, "at least 0"),
            ("headroom", self.headroom, (0.0..=10.0).contains(&self.headroom), "from 0 to 10"),
            ("nodes", measured.nodes.into(), measured.nodes > 0, "at least 1"),
            (
                "tasks_per_s",
                measured.tasks_per_s,
                measured.tasks_per_s.is_finite() && measured.tasks_per_s > 0.0,
                "more than 0",
            ),
            (
                "utilisation",
                measured.utilisation,
                measured.utilisation > 0.0 && measured.utilisation <= 1.0,
                "above 0 and at most 1",
            ),
        ];
        if let Some((name, value, _, bounds)) = checks.into_iter().find(|(_, _, is_good, _)| !is_good) {
            return Err(CapacityError::OutOfBounds { name, value, bounds });
        }
        let of_each = measured.tasks_per_s / (f64::from(measured.nodes) * measured.utilisation);
        let needed = (peak * (1.0 + self.headroom) / of_each).ceil().max(1.0) + f64::from(self.spare_nodes);
        if needed <= f64::from(u32::MAX) { Ok(needed as u32) } else { Err(CapacityError::TooMany) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEASURED: Measured = Measured { nodes: 10, tasks_per_s: 500.0, utilisation: 0.5 };

    fn plan(peak: f64) -> CapacityPlan {
        CapacityPlan { peak_tasks_per_s: peak, ..CapacityPlan::default() }
    }

    #[test]
    fn a_quarter_more_than_the_peak_is_possible() {
        // 100 a second each.
        assert_eq!(plan(800.0).nodes(&MEASURED), Ok(10));
        assert_eq!(plan(801.0).nodes(&MEASURED), Ok(11));
        assert_eq!(CapacityPlan { headroom: 0.0, ..plan(800.0) }.nodes(&MEASURED), Ok(8));
        assert_eq!(CapacityPlan { spare_nodes: 2, ..plan(800.0) }.nodes(&MEASURED), Ok(12));
        assert_eq!(plan(0.0).nodes(&MEASURED), Ok(1));
    }

    #[test]
    fn a_survey_tells_what_nodes_can_do() {
        let loads = LoadSummary { nodes: 10, mean: 0.5, ..LoadSummary::default() };
        let minute = Duration::from_secs(60);
        assert_eq!(Measured::by(&loads, 30_000, minute), MEASURED);
        let swamped = Measured::by(&LoadSummary { mean: 3.0, ..loads.clone() }, 30_000, minute);
        assert_eq!(plan(800.0).nodes(&swamped), Ok(20), "each can do 50 a second");
        // Where nothing was measured, that is said.
        for nothing in [Measured::by(&loads, 0, minute), Measured::by(&loads, 1, Duration::ZERO)] {
            assert!(matches!(plan(1.0).nodes(&nothing), Err(CapacityError::OutOfBounds { name: "tasks_per_s", .. })));
        }
    }

    #[test]
    fn numbers_that_tell_nothing_are_named() {
        let name = |plan: CapacityPlan, measured| match plan.nodes(&measured) {
            Err(CapacityError::OutOfBounds { name, .. }) => name,
            other => panic!("{other:?}"),
        };
        for bad in [f64::NAN, f64::INFINITY, -1.0] {
            assert_eq!(name(plan(bad), MEASURED), "peak_tasks_per_s");
            assert_eq!(name(CapacityPlan { headroom: bad, ..plan(1.0) }, MEASURED), "headroom");
            assert_eq!(name(plan(1.0), Measured { tasks_per_s: bad, ..MEASURED }), "tasks_per_s");
            assert_eq!(name(plan(1.0), Measured { utilisation: bad, ..MEASURED }), "utilisation");
        }
        assert_eq!(name(plan(1.0), Measured { utilisation: 0.0, ..MEASURED }), "utilisation");
        assert_eq!(name(plan(1.0), Measured { nodes: 0, ..MEASURED }), "nodes");
        assert_eq!(plan(1e300).nodes(&MEASURED), Err(CapacityError::TooMany));
    }
}
