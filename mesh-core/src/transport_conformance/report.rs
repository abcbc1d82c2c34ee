//! What came of the checks.

use std::fmt;

use super::{Check, Failure};

/// What came of one check.
#[derive(Debug)]
pub enum Outcome {
    /// It held.
    Passed,
    /// It did not run: the transport does not promise this (a field of [`Promises`](super::Promises), or
    /// `restart`).
    NotPromised(&'static str),
    /// It failed, and how.
    Failed(Failure),
}

/// What came of all checks. Displays as one line each.
#[derive(Debug)]
pub struct Report {
    outcomes: Vec<(Check, Outcome)>,
}

/// A transport does not keep its contract, or not its promises.
#[derive(Debug, thiserror::Error)]
#[error("the transport does not conform:\n{0}")]
pub struct NotConformant(pub Report);

impl Report {
    pub(super) const fn new(outcomes: Vec<(Check, Outcome)>) -> Self {
        Self { outcomes }
    }

    /// Each check with its outcome, in the order in which they ran.
    pub fn outcomes(&self) -> &[(Check, Outcome)] {
        &self.outcomes
    }

    /// The checks that failed, and how.
    pub fn failures(&self) -> impl Iterator<Item = (Check, &Failure)> {
        self.outcomes.iter().filter_map(|(check, outcome)| match outcome {
            Outcome::Failed(failure) => Some((*check, failure)),
            Outcome::Passed | Outcome::NotPromised(_) => None,
        })
    }

    /// The report, if nothing failed.
    ///
    /// # Errors
    /// [`NotConformant`], with the report in it, if a check did.
    pub fn into_result(self) -> Result<Self, NotConformant> {
        if self.failures().next().is_none() { Ok(self) } else { Err(NotConformant(self)) }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (check, outcome) in &self.outcomes {
            match outcome {
                Outcome::Passed => writeln!(f, "ok    {check:?}")?,
                Outcome::NotPromised(promise) => writeln!(f, "-     {check:?}: `{promise}` is not promised")?,
                Outcome::Failed(failure) => writeln!(f, "FAIL  {check:?}: {failure}")?,
            }
        }
        Ok(())
    }
}
