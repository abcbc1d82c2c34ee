//! What the swarm found, for people and for programs.

use std::fmt;

use serde::Serialize;

/// The outcome of a run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    /// Whether everything below is as it must be.
    pub(crate) ok: bool,
    /// What is not as it must be.
    pub(crate) problems: Vec<String>,
    /// How many nodes took part, each a process.
    pub(crate) nodes: usize,
    /// The seed of the order of writes.
    pub(crate) seed: u64,
    /// How many files there were.
    pub(crate) records: u64,
    /// How many records were acknowledged.
    pub(crate) acknowledged: u64,
    /// How many acknowledged records were read back and are what the files say.
    pub(crate) verified: u64,
    /// How often a write had to be sent again: its outcome was unknown or there was no leader.
    pub(crate) retries: u64,
    /// Acknowledged writes a second, the time without a leader included.
    pub(crate) writes_per_s: f64,
    /// Seconds from the first write to the last acknowledgement.
    pub(crate) seconds: f64,
    /// How many leaders were killed.
    pub(crate) leaders_killed: u64,
    /// Milliseconds from the kill until another node led.
    pub(crate) leaderless_ms: f64,
    /// Milliseconds in which no write was acknowledged, at the longest.
    pub(crate) longest_stall_ms: f64,
    /// The Raft term at the end.
    pub(crate) term: u64,
    /// The digest of each node's store at the end.
    pub(crate) digests: Vec<String>,
    /// Where the nodes' data is, when it was kept.
    pub(crate) kept: Option<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "records       {} written, {} acknowledged, {} read back",
            self.records, self.acknowledged, self.verified
        )?;
        writeln!(
            f,
            "writes        {:.0}/s over {:.2} s, {} sent again",
            self.writes_per_s, self.seconds, self.retries
        )?;
        if self.leaders_killed > 0 {
            writeln!(f, "chaos         {} leader killed and restarted", self.leaders_killed)?;
            writeln!(
                f,
                "no leader     {:.0} ms; longest time without a write {:.0} ms",
                self.leaderless_ms, self.longest_stall_ms
            )?;
        }
        writeln!(f, "term          {} at the end", self.term)?;
        let mut digests = self.digests.clone();
        digests.dedup();
        match &digests[..] {
            [digest] => writeln!(f, "stores        all {} hold {}", self.nodes, &digest[..digest.len().min(16)])?,
            _ => writeln!(f, "stores        differ: {}", self.digests.join(", "))?,
        }
        if let Some(kept) = &self.kept {
            writeln!(f, "data          kept in {kept}")?;
        }
        for problem in &self.problems {
            writeln!(f, "PROBLEM       {problem}")?;
        }
        write!(f, "{}", if self.ok { "all is well" } else { "something is wrong" })
    }
}
