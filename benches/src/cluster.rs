//! The workload that every contestant runs: a cluster in one process that takes proposals.

use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;

use crate::stats::percentile;

/// One cell of the matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    /// How many nodes there are.
    pub nodes: usize,
    /// Bytes of one proposal.
    pub payload: usize,
    /// Proposals without an answer at any time.
    pub in_flight: usize,
}

impl Cell {
    /// All cells: 3 and 5 nodes, 16 B, 256 B and 4 KiB, 1, 64 and 1024 in flight.
    pub fn all() -> impl Iterator<Item = Self> {
        [3, 5].into_iter().flat_map(|nodes| {
            [16, 256, 4096].into_iter().flat_map(move |payload| {
                [1, 64, 1024].into_iter().map(move |in_flight| Self { nodes, payload, in_flight })
            })
        })
    }

    /// The cells that show how cost grows: with 256 B on 3 nodes, 1 and 64 in flight, one of the three is
    /// changed at a time.
    pub fn growth() -> impl Iterator<Item = Self> {
        let base = [1, 64].map(|in_flight| Self { nodes: 3, payload: 256, in_flight });
        let nodes = [3, 5, 7, 9].into_iter().flat_map(move |nodes| base.map(|cell| Self { nodes, ..cell }));
        let payloads = [16, 64, 1024, 4096, 16384];
        let payloads = payloads.into_iter().flat_map(move |payload| base.map(|cell| Self { payload, ..cell }));
        let in_flight = [4, 16, 256, 1024].map(|in_flight| Self { in_flight, ..base[0] });
        nodes.chain(payloads).chain(in_flight)
    }

    /// How the cell is named in figures, as in `3n_256B_64`.
    pub fn name(&self) -> String {
        format!("{}n_{}B_{}", self.nodes, self.payload, self.in_flight)
    }

    /// What is proposed. Clones share the bytes, so a contestant that copies them pays for it.
    pub fn payload(&self) -> Bytes {
        Bytes::from(vec![0x5a; self.payload])
    }
}

impl FromStr for Cell {
    type Err = String;

    /// Reads what [`name`](Self::name) writes. No part may be 0.
    fn from_str(name: &str) -> Result<Self, String> {
        let mut parts = name.splitn(3, '_');
        let mut number = |unit: &str| parts.next()?.strip_suffix(unit)?.parse().ok().filter(|number| *number > 0);
        let cell = (|| Some(Self { nodes: number("n")?, payload: number("B")?, in_flight: number("")? }))();
        cell.ok_or_else(|| format!("{name:?} is no cell: write nodes, payload and in flight as in 3n_256B_64"))
    }
}

/// Brings the allocator into the state of a process that has run for a while.
///
/// Until it has seen a large block freed, the system's allocator gives every larger one back to the
/// kernel and faults it in anew, page by page, and the first contestant would pay for that.
pub fn warm_heap() {
    drop(std::hint::black_box(vec![1u8; 31 << 20]));
}

/// A cluster with a leader.
pub trait Cluster {
    /// Builds the cluster of `cell` and elects a leader.
    fn start(cell: Cell) -> Self
    where
        Self: Sized;

    /// Proposes `entries` entries, [`Cell::in_flight`] at a time, until all nodes have applied them.
    fn run(&mut self, entries: u64) -> Run;
}

/// What a run took.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// Entries applied on all nodes.
    pub entries: u64,
    /// How long that took.
    pub elapsed: Duration,
    /// Nanoseconds from a proposal to its answer: of all with one in flight, else of one at a time.
    pub latencies: Vec<u64>,
}

impl Run {
    /// Entries a second.
    pub fn rate(&self) -> f64 {
        self.entries as f64 / self.elapsed.as_secs_f64()
    }

    /// A percentile of the latency, in microseconds.
    pub fn latency_us(&mut self, percent: usize) -> f64 {
        percentile(&mut self.latencies, percent) as f64 / 1e3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_eighteen_cells_with_distinct_names() {
        let names: std::collections::BTreeSet<_> = Cell::all().map(|cell| cell.name()).collect();
        assert_eq!(names.len(), 18);
        assert!(names.contains("3n_256B_1024"));
        assert!(Cell::all().all(|cell| cell.name().parse() == Ok(cell)));
    }

    #[test]
    fn what_is_no_cell_is_refused() {
        for name in ["", "3n", "3n_256B", "3n_256_64", "0n_256B_64", "3n_256B_0", "3n_256B_64_"] {
            assert!(name.parse::<Cell>().unwrap_err().contains(name), "{name}");
        }
    }
}
