//! How a node sees the mesh, as a line of text that another process reads.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use mesh_core::NodeId;
use mesh_gossip::metrics::{Opinion, Report};
use mesh_gossip::partition::Mode;

/// How a node sees the mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Table {
    /// What it may do.
    pub(crate) mode: Mode,
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

fn join(nodes: &BTreeSet<NodeId>, by: &str) -> String {
    nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(by)
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let zones: Vec<_> = self.zones.iter().map(|(node, zone)| format!("{node}:{zone}")).collect();
        let opinions: Vec<_> = self.down_by.iter().map(|(node, down)| format!("{node}:{}", join(down, "+"))).collect();
        let coordinator = self.coordinator.map(|node| node.to_string()).unwrap_or_default();
        write!(
            f,
            "{};{coordinator};{};{};{};{};{};{};{}",
            if self.mode == Mode::Continue { "continue" } else { "read-only" },
            self.voters.unwrap_or_default(),
            join(&self.alive, ","),
            join(&self.suspected, ","),
            join(&self.gone, ","),
            zones.join(","),
            join(&self.links, ","),
            opinions.join(","),
        )
    }
}

/// A line that is no [`Table`].
#[derive(Debug)]
pub(crate) struct NoTable;

fn list<T: FromStr, L: FromIterator<T>>(text: &str, by: char) -> Result<L, NoTable> {
    text.split(by).filter(|item| !item.is_empty()).map(|item| item.parse().map_err(|_| NoTable)).collect()
}

fn pairs(text: &str) -> impl Iterator<Item = Result<(NodeId, &str), NoTable>> {
    text.split(',').filter(|item| !item.is_empty()).map(|item| {
        let (node, rest) = item.split_once(':').ok_or(NoTable)?;
        Ok((node.parse().map_err(|_| NoTable)?, rest))
    })
}

impl FromStr for Table {
    type Err = NoTable;

    fn from_str(line: &str) -> Result<Self, NoTable> {
        let fields: Vec<_> = line.split(';').collect();
        let [mode, coordinator, voters, alive, suspected, gone, zones, links, opinions] = fields[..] else {
            return Err(NoTable);
        };
        let zone = |pair: Result<(NodeId, &str), NoTable>| {
            let (node, zone) = pair?;
            Ok((node, zone.parse().map_err(|_| NoTable)?))
        };
        let opinion = |pair: Result<(NodeId, &str), NoTable>| {
            let (node, down) = pair?;
            Ok((node, list(down, '+')?))
        };
        Ok(Self {
            mode: if mode == "continue" { Mode::Continue } else { Mode::ReadOnly },
            coordinator: list::<_, Vec<_>>(coordinator, ',')?.pop(),
            voters: list::<_, Vec<_>>(voters, ',')?.pop().filter(|voters| *voters > 0),
            alive: list(alive, ',')?,
            suspected: list(suspected, ',')?,
            gone: list(gone, ',')?,
            zones: pairs(zones).map(zone).collect::<Result<_, _>>()?,
            links: list(links, ',')?,
            down_by: pairs(opinions).map(opinion).collect::<Result<_, _>>()?,
        })
    }
}
