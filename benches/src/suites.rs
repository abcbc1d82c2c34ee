//! The suites of the `report` program.

mod cost;
mod durable;
mod raft;
mod sim;
mod tcp;
mod wal;

use crate::report::{Effort, Report};

/// A group of figures that are measured together.
#[derive(Clone, Copy, Debug)]
pub struct Suite {
    /// What one asks for.
    pub name: &'static str,
    measure: fn(Effort, &mut Report) -> Result<(), SuiteError>,
}

impl Suite {
    /// Every suite, in the order `all` runs them.
    pub const ALL: [Self; 4] = [
        Self { name: "sim", measure: sim::measure },
        Self { name: "wal", measure: wal::measure },
        Self { name: "tcp", measure: tcp::measure },
        Self { name: "raft", measure: raft::measure },
    ];

    /// The suites of these names, where `all` stands for every one.
    ///
    /// # Errors
    /// A sentence that lists the suites, when there is none of a name.
    pub fn named(names: &[String]) -> Result<Vec<Self>, String> {
        let unknown = |name: &&String| *name != "all" && Self::ALL.iter().all(|suite| suite.name != name.as_str());
        if let Some(name) = names.iter().find(unknown) {
            let known = Self::ALL.map(|suite| suite.name).join(", ");
            return Err(format!("there is no suite {name:?}: choose from {known} and all"));
        }
        let asked = |suite: &Self| names.iter().any(|name| name == "all" || name == suite.name);
        Ok(Self::ALL.into_iter().filter(asked).collect())
    }

    /// Measures and adds what it found.
    ///
    /// # Errors
    /// [`SuiteError`] when the disk or the network fails.
    pub fn measure(&self, effort: Effort, report: &mut Report) -> Result<(), SuiteError> {
        (self.measure)(effort, report)
    }
}

/// Why a suite could not be measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SuiteError {
    /// The operating system refused.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The durable log failed.
    #[error(transparent)]
    Wal(#[from] mesh_core::WalError),
    /// The TCP transport failed.
    #[error(transparent)]
    Tcp(#[from] crate::tcp_pair::TcpPairError),
}

/// Ours by theirs, run by run.
fn ratios(ours: &[f64], theirs: &[f64]) -> Vec<f64> {
    ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_are_found_by_name() {
        let names = |suites: &[&str]| {
            let suites = Suite::named(&suites.iter().map(|&name| name.to_owned()).collect::<Vec<_>>())?;
            Ok::<_, String>(suites.into_iter().map(|suite| suite.name).collect::<Vec<_>>())
        };
        assert_eq!(names(&["raft", "raft"]), Ok(vec!["raft"]));
        assert_eq!(names(&["raft", "all"]), Ok(Suite::ALL.map(|suite| suite.name).to_vec()));
        assert!(names(&["raft", "rafts"]).unwrap_err().contains("\"rafts\""));
    }
}
