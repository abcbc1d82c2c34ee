//! What the swarm found, for people and for programs.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::script::Told;
use super::stage::FIGURES;

/// The outcome of a run.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Report {
    /// Whether everything below is as it must be.
    pub(crate) ok: bool,
    /// What is not as it must be.
    pub(crate) problems: Vec<String>,
    /// How many agents there were at first, each a process, and in the end.
    pub(crate) agents: usize,
    pub(crate) agents_at_the_end: usize,
    /// The seed of the order of tasks and writes.
    pub(crate) seed: u64,
    /// How many files were indexed, in how many tasks, and what was counted.
    pub(crate) files: u64,
    pub(crate) tasks: usize,
    pub(crate) bytes: u64,
    pub(crate) lines: u64,
    pub(crate) words: u64,
    /// A digest of the index as one process alone counts, and how many agents have the same.
    pub(crate) index: String,
    pub(crate) index_equal: usize,
    /// How many executions there were at least: more than tasks where some were executed again. Those that an agent made
    /// between its last word and its end are unknown.
    pub(crate) executions: u64,
    /// Records that were acknowledged, and on how many agents the catalogue holds them all and nothing else.
    pub(crate) acknowledged: usize,
    pub(crate) catalogues_equal: usize,
    /// How often a write had to be sent again: its outcome was unknown, or nobody led.
    pub(crate) retries: u64,
    /// The longest time without an acknowledged write, in ms.
    pub(crate) longest_stall_ms: f64,
    /// Lines of agents that were dropped, because this process was too busy to take them.
    pub(crate) unheard: u64,
    /// What the script and the agents put into the shared memory, and on how many agents it is the same.
    pub(crate) remembered: usize,
    pub(crate) memories_equal: usize,
    /// How many agents there are by the estimate of each, and how many estimates are near what there are.
    pub(crate) estimates: Vec<f64>,
    pub(crate) estimates_right: usize,
    /// Decisions by pBFT, and how many replicas have made the same.
    pub(crate) decisions: usize,
    pub(crate) replicas_equal: usize,
    /// The troubles, and how long it took to recover from each.
    pub(crate) script: Vec<Told>,
    /// The twelve figures of all agents together: frames a second, view changes and migrations are added up, all else is the
    /// mean.
    pub(crate) metrics: BTreeMap<String, f64>,
    /// The report of each agent.
    pub(crate) performance: Vec<serde_json::Value>,
    /// From the first process to the last.
    pub(crate) seconds: f64,
    /// Where the agents' data is, when it was kept.
    pub(crate) kept: Option<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "index         {} files, {} bytes, {} lines, {} words in {} tasks and at least {} executions; {} agents have what one \
             process counts alone: {}",
            self.files, self.bytes, self.lines, self.words, self.tasks, self.executions, self.index_equal, self.index
        )?;
        writeln!(
            f,
            "catalogue     {} records acknowledged, {} sent again; {} agents hold all of them; longest time without a write \
             {:.0} ms",
            self.acknowledged, self.retries, self.catalogues_equal, self.longest_stall_ms
        )?;
        writeln!(f, "memory        {} entries, the same at {} agents", self.remembered, self.memories_equal)?;
        let (least, most) = self
            .estimates
            .iter()
            .fold((f64::INFINITY, 0.0_f64), |(least, most), estimate| (least.min(*estimate), most.max(*estimate)));
        if !self.estimates.is_empty() {
            writeln!(
                f,
                "aggregation   {least:.2} to {most:.2} agents by their own estimates, of which {} are right",
                self.estimates_right
            )?;
        }
        writeln!(f, "decisions     {}, the same at {} replicas", self.decisions, self.replicas_equal)?;
        for told in &self.script {
            writeln!(f, "{:<13} recovered in {:.0} ms: {}", told.step, told.recovery_ms, told.seen)?;
        }
        for (name, value) in &self.metrics {
            let unit = FIGURES.iter().find(|figure| figure.name == name).map_or("", |figure| figure.unit);
            let line = format!("{name:<22} {value:.2} {unit}");
            writeln!(f, "{}", line.trim_end())?;
        }
        if let Some(kept) = &self.kept {
            writeln!(f, "data          kept in {kept}")?;
        }
        for problem in &self.problems {
            writeln!(f, "PROBLEM       {problem}")?;
        }
        write!(f, "{} after {:.0} s", if self.ok { "all is well" } else { "something is wrong" }, self.seconds)
    }
}
