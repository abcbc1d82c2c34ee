//! Who runs the workload of a cell, by name.
//!
//! ```
//! use mesh_benches::contestant::Contestant;
//!
//! let engine = Contestant::named("raft").unwrap();
//! let mut cluster = (engine.start)("3n_16B_64".parse().unwrap());
//! assert_eq!(cluster.run(1000).entries, 1000);
//! ```

use crate::cluster::{Cell, Cluster};
use crate::ours::{Engine, Nodes, WireEngine};

/// One way to run a Raft cluster in one thread.
#[derive(Clone, Copy, Debug)]
pub struct Contestant {
    /// What its figures begin with.
    pub name: &'static str,
    /// Builds the cluster of a cell and elects a leader.
    pub start: fn(Cell) -> Box<dyn Cluster>,
    /// Whom it is compared with.
    pub rivals: &'static [&'static str],
}

fn boxed<C: Cluster + 'static>(cell: Cell) -> Box<dyn Cluster> {
    Box::new(C::start(cell))
}

impl Contestant {
    /// All of them, in the order they run and are shown.
    pub const ALL: &'static [Self] = &[
        Self { name: "raft", start: boxed::<Engine>, rivals: &["raftrs", "openraft"] },
        #[cfg(feature = "peers")]
        Self { name: "raftrs", start: boxed::<crate::peers::RaftRs>, rivals: &[] },
        Self { name: "raft_wire", start: boxed::<WireEngine>, rivals: &[] },
        Self { name: "node", start: boxed::<Nodes>, rivals: &["openraft", "openraft_alpha"] },
        #[cfg(feature = "peers")]
        Self { name: "openraft", start: boxed::<crate::peers::Openraft>, rivals: &[] },
        #[cfg(feature = "peers")]
        Self { name: "openraft_alpha", start: boxed::<crate::peers::OpenraftAlpha>, rivals: &[] },
    ];

    /// The contestant of this name.
    ///
    /// # Errors
    /// A sentence that lists them, when there is none.
    pub fn named(name: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|contestant| contestant.name == name).copied();
        found.ok_or_else(|| {
            let known: Vec<_> = Self::ALL.iter().map(|contestant| contestant.name).collect();
            format!("there is no contestant {name:?}: choose from {}", known.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rivals_are_contestants_where_peers_are_built() {
        let rivals = || Contestant::ALL.iter().flat_map(|contestant| contestant.rivals);
        assert_eq!(rivals().all(|name| Contestant::named(name).is_ok()), cfg!(feature = "peers"));
        assert!(Contestant::named("rafts").unwrap_err().contains("\"rafts\""));
    }
}
