//! The sizes and seeds that the tests of clusters run at.
//!
//! Each test names its own, small enough for every change. Where the environment says so it runs at others:
//!
//! ```text
//! NODES=1024 cargo test --release -p mesh-gossip --test scenarios              all of a file, by one seed
//! NODES=256,1024 SEEDS=0..3 cargo test --release -p mesh-gossip --test store   at two sizes, by three seeds of each
//! ```
//!
//! `NODES` is a list of numbers of nodes, of 5 at least, as tests name some of their nodes. `SEEDS` is a range; without it
//! sizes that were asked for have the seed 0. `SEEDS` without `NODES` gives a test's own sizes other seeds. Of a run that
//! fails the command is printed that repeats it.

#![allow(dead_code, unreachable_pub, reason = "each test target uses a part of it")]

use std::env::{self, VarError};
use std::ops::Range;
use std::thread;

/// A number of nodes, and the seeds that it runs by.
pub type Size = (usize, Range<u64>);

/// The sizes of a test for which one seed of each is enough.
pub const ONE_SEED_EACH: [Size; 3] = [(5, 1..2), (16, 2..3), (128, 3..4)];

/// A seed gives the same run each time, and another seed another: `run` gives a simulation's digest and how many events
/// it had.
pub fn repeats(run: impl Fn(u64) -> (u64, u64)) {
    assert_eq!(run(1), run(1));
    assert_ne!(run(1).0, run(2).0);
}

/// As many nodes as are few enough for what grows with their square, and for long times.
pub const MOST_BY_DEFAULT: usize = 128;

/// The runs of a test, one after the other. When the test fails in one of them, it tells how to repeat that.
pub struct Runs {
    left: std::vec::IntoIter<Size>,
    now: Option<Size>,
}

/// The sizes with a seed each: a test's own, or those that were asked for.
pub fn runs(own: impl IntoIterator<Item = Size>) -> impl Iterator<Item = (usize, u64)> {
    each_seed(groups(own))
}

/// The same, for a test that makes sense up to a number of nodes only; `why` is told in place of larger ones.
pub fn runs_up_to(most: usize, why: &str, own: impl IntoIterator<Item = Size>) -> impl Iterator<Item = (usize, u64)> {
    each_seed(Runs::of(sizes(own).into_iter().filter(|(nodes, _)| {
        if *nodes > most {
            println!("left out at {nodes} nodes: {why}");
        }
        *nodes <= most
    })))
}

/// The sizes with all seeds of each, for a test that compares seeds.
pub fn groups(own: impl IntoIterator<Item = Size>) -> Runs {
    Runs::of(sizes(own))
}

fn each_seed(groups: Runs) -> impl Iterator<Item = (usize, u64)> {
    let seeds = groups.left.clone().flat_map(|(nodes, seeds)| seeds.map(move |seed| (nodes, seed..seed + 1)));
    Runs::of(seeds.collect::<Vec<_>>()).map(|(nodes, seeds)| (nodes, seeds.start))
}

impl Runs {
    fn of(sizes: impl IntoIterator<Item = Size>) -> Self {
        Self { left: sizes.into_iter().collect::<Vec<_>>().into_iter(), now: None }
    }
}

impl Iterator for Runs {
    type Item = Size;

    fn next(&mut self) -> Option<Size> {
        self.now = self.left.next();
        self.now.clone()
    }
}

impl Drop for Runs {
    fn drop(&mut self) {
        let Some((nodes, Range { start, end })) = self.now.as_ref().filter(|_| thread::panicking()) else { return };
        let (file, thread) = (env!("CARGO_CRATE_NAME"), thread::current());
        let test = thread.name().unwrap_or_default();
        println!(
            "It failed with {nodes} nodes and seed {start}{}. Again:",
            if end - start > 1 { " or later" } else { "" }
        );
        println!("NODES={nodes} SEEDS={start}..{end} cargo test --release -p mesh-gossip --test {file} {test}");
    }
}

fn sizes(own: impl IntoIterator<Item = Size>) -> Vec<Size> {
    let (nodes, seeds) = (asked("NODES").map(|text| nodes_of(&text)), asked("SEEDS").map(|text| seeds_of(&text)));
    chosen(own.into_iter().collect(), nodes, seeds)
}

/// What an environment variable says, if it is there.
fn asked(variable: &str) -> Option<String> {
    match env::var(variable) {
        Ok(text) => Some(text),
        Err(VarError::NotPresent) => None,
        Err(error) => panic!("{variable}: {error}"),
    }
}

/// A test's own sizes, or what was asked for instead.
pub fn chosen(own: Vec<Size>, nodes: Option<Vec<usize>>, seeds: Option<Range<u64>>) -> Vec<Size> {
    match (nodes, seeds) {
        (Some(nodes), seeds) => {
            let seeds = seeds.unwrap_or(0..1);
            nodes.into_iter().map(|nodes| (nodes, seeds.clone())).collect()
        }
        (None, Some(seeds)) => own.into_iter().map(|(nodes, _)| (nodes, seeds.clone())).collect(),
        (None, None) => own,
    }
}

/// # Panics
/// When it is not a list of numbers of 5 or more.
pub fn nodes_of(text: &str) -> Vec<usize> {
    let number = |part: &str| part.trim().parse().ok().filter(|nodes| *nodes >= 5);
    let numbers: Option<_> = text.split(',').map(number).collect();
    numbers
        .unwrap_or_else(|| panic!("NODES is numbers of nodes, of 5 at least, as in NODES=256,1024, and not {text:?}"))
}

/// # Panics
/// When it is not a range with a seed in it.
pub fn seeds_of(text: &str) -> Range<u64> {
    let range = || {
        let (start, end) = text.split_once("..")?;
        Some(start.trim().parse().ok()?..end.trim().parse().ok()?)
    };
    let range = range().filter(|range| !range.is_empty());
    range.unwrap_or_else(|| panic!("SEEDS is a range of seeds that is not empty, as in SEEDS=0..3, and not {text:?}"))
}
