//! How a node sees the mesh, as a line of text that another process reads.

use std::collections::{BTreeMap, BTreeSet};

use mesh_core::NodeId;
use mesh_examples::json_lines;
use mesh_gossip::metrics::{Opinion, Report};
use serde::{Deserialize, Serialize};

/// How a node sees the mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Table {
    /// Whether it may go on, or only read.
    pub(crate) goes_on: bool,
    /// By whose leave.
    pub(crate) coordinator: Option<NodeId>,
    /// How many vote on which side goes on.
    pub(crate) voters: Option<usize>,
    /// Who is alive, itself included.
    pub(crate) alive: BTreeSet<NodeId>,
    pub(crate) suspected: BTreeSet<NodeId>,
    /// Who is down, or has left.
    pub(crate) gone: BTreeSet<NodeId>,
    /// Where each is.
    pub(crate) zones: BTreeMap<NodeId, u16>,
    /// Its neighbours in the overlay.
    pub(crate) links: BTreeSet<NodeId>,
    /// Whom each node thinks down, by its last report.
    pub(crate) down_by: BTreeMap<NodeId, BTreeSet<NodeId>>,
}

impl Table {
    /// Whom a node thinks down.
    pub(crate) fn down_of(report: &Report) -> BTreeSet<NodeId> {
        report.opinions.iter().filter(|(_, opinion)| *opinion == Opinion::Down).map(|(node, _)| *node).collect()
    }
}

json_lines!(Table);
