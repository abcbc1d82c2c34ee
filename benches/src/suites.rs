//! The suites of the `report` program.

mod aggregate;
mod broadcast;
mod cost;
mod durable;
mod groups;
pub(crate) mod growth;
mod matrix;
mod membership;
pub(crate) mod pbft;
pub(crate) mod pool;
mod sim;
mod store;
mod tasks;
mod tcp;
mod together;
mod wal;

use crate::report::{Report, Settings};

/// A group of figures that are measured together.
#[derive(Clone, Copy, Debug)]
pub struct Suite {
    /// What one asks for to get this suite alone.
    pub name: &'static str,
    /// What one asks for to get all that belong together.
    pub family: &'static str,
    measure: fn(&Settings, &mut Report) -> Result<(), SuiteError>,
}

impl Suite {
    /// Every suite, in the order `all` runs them.
    pub const ALL: [Self; 16] = [
        Self { name: "sim", family: "sim", measure: sim::measure },
        Self { name: "wal", family: "wal", measure: wal::measure },
        Self { name: "tcp", family: "tcp", measure: tcp::measure },
        Self { name: "matrix", family: "raft", measure: matrix::measure },
        Self { name: "cost", family: "raft", measure: cost::measure },
        Self { name: "durable", family: "raft", measure: durable::measure },
        Self { name: "groups", family: "raft", measure: groups::measure },
        Self { name: "pbft", family: "pbft", measure: pbft::measure },
        Self { name: "membership", family: "gossip", measure: membership::measure },
        Self { name: "store", family: "gossip", measure: store::measure },
        Self { name: "broadcast", family: "gossip", measure: broadcast::measure },
        Self { name: "aggregate", family: "gossip", measure: aggregate::measure },
        Self { name: "growth", family: "gossip", measure: growth::measure },
        Self { name: "together", family: "gossip", measure: together::measure },
        Self { name: "tasks", family: "tasks", measure: tasks::measure },
        Self { name: "pool", family: "tasks", measure: pool::measure },
    ];

    /// The suites of these names or families, where `all` stands for every one.
    ///
    /// # Errors
    /// A sentence that lists what there is, when there is none of a name.
    pub fn named(names: &[String]) -> Result<Vec<Self>, String> {
        let is = |suite: &Self, name: &str| [suite.name, suite.family, "all"].contains(&name);
        if let Some(name) = names.iter().find(|name| !Self::ALL.iter().any(|suite| is(suite, name))) {
            let known = Self::ALL.map(|suite| suite.name).join(", ");
            return Err(format!("there is no suite {name:?}: choose from {known}, raft, gossip and all"));
        }
        Ok(Self::ALL.into_iter().filter(|suite| names.iter().any(|name| is(suite, name))).collect())
    }

    /// Measures and adds what it found.
    ///
    /// # Errors
    /// [`SuiteError`] when the disk or the network fails.
    pub fn measure(&self, settings: &Settings, report: &mut Report) -> Result<(), SuiteError> {
        (self.measure)(settings, report)
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
    /// etcd cannot be measured.
    #[error("etcd: {0}")]
    Etcd(String),
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
        assert_eq!(names(&["durable", "wal", "wal"]), Ok(vec!["wal", "durable"]));
        assert_eq!(names(&["raft"]), Ok(vec!["matrix", "cost", "durable", "groups"]));
        assert_eq!(names(&["raft", "all"]), Ok(Suite::ALL.map(|suite| suite.name).to_vec()));
        assert!(names(&["raft", "rafts"]).unwrap_err().contains("\"rafts\""));
    }
}
