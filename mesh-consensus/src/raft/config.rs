//! Timeouts and limits.

use std::time::Duration;

use mesh_core::frame::FRAME_LEN_MAX;

use crate::log::Entry;
use crate::session::SESSIONS_MAX;

/// What a message takes beside the entries or snapshot bytes in it, at most.
const MESSAGE_OVERHEAD: usize = 16 * 1024;

/// Timeouts and limits of one Raft group. All nodes should have the same.
///
/// `max_append_bytes`, `command_len_max` and `snapshot_chunk_bytes` are what is in one message or record. They
/// are checked against [`FRAME_LEN_MAX`]. Where the transport carries shorter frames or the log takes shorter
/// records, they must be shorter than those by what stands beside it: 16 KiB is enough for any group, 400
/// bytes for one of three. A longer message is dropped and counted as `messages_too_long` each time it
/// is sent, so that a follower in need of it gets no further, and a longer record stops the node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RaftConfig {
    /// How long a follower waits for its leader before it tries to become one.
    ///
    /// Each wait is drawn from this up to twice this. Longer tolerates slow links and pauses,
    /// shorter notices a dead leader sooner. Default: 1 s.
    pub election_timeout: Duration,
    /// How often a leader shows that it is there. Default: 100 ms.
    pub heartbeat_interval: Duration,
    /// Ask whether an election could be won before starting it, so that a node that was cut off
    /// does not depose a leader that works (thesis 9.6). Default: on.
    pub pre_vote: bool,
    /// A leader that has not heard from a majority for an election timeout steps down, and nodes
    /// that hear from a leader do not vote for others (thesis 6.2 and 4.2.3). Default: on.
    pub check_quorum: bool,
    /// For how long a change of the configuration waits for new servers to catch up before it is given
    /// up. Default: 10 min.
    pub catch_up_timeout: Duration,
    /// How long a read may wait for a leader, its majority and the state machine before it is refused.
    /// Default: 5 s.
    pub read_timeout: Duration,
    /// How many reads may wait. Default: 65,536.
    pub max_pending_reads: usize,
    /// Allows [`ReadPolicy::Lease`](super::ReadPolicy::Lease): followers promise the leader not to vote
    /// for others for an election timeout, and keep the promise over a restart. Default: off.
    ///
    /// This and `election_timeout` must not be changed node by node: a follower that starts again without it,
    /// or with a shorter timeout, forgets a promise that a lease may rest on. Stop the whole group first.
    pub lease_reads: bool,
    /// By how much the clocks of two nodes may run apart, in millionths, for lease reads to be
    /// linearizable. Clocks that jump break any such bound. Default: 10,000, one in a hundred.
    pub clock_drift_ppm: u32,
    /// After how long without anything to do a group falls silent until there is: no heartbeats and no
    /// election timeouts. Its leader's failure is noticed when the transport loses the link to it, or
    /// when somebody wants something of the group. For nodes with many groups. Default: never.
    pub quiesce_after: Option<Duration>,
    /// Entries in one append, in bytes; one longer entry still goes alone. Default: 1 MiB.
    pub max_append_bytes: usize,
    /// Bytes on their way to one follower and not acknowledged. Default: 16 MiB.
    pub max_inflight_bytes: usize,
    /// Appends on their way to one follower and not acknowledged. Default: 1024.
    pub max_inflight_messages: usize,
    /// Bytes proposed and not applied yet. Above it proposals wait in the command queue; the few
    /// that come past it are answered `Overloaded`. Default: 64 MiB.
    pub max_uncommitted_bytes: usize,
    /// The longest encoded command, in bytes. Default: 1 MiB.
    pub command_len_max: usize,
    /// A snapshot is taken once this many bytes have been applied since the last. Default: 64 MiB.
    pub snapshot_log_bytes: usize,
    /// Bytes of entries kept below a snapshot, for followers that are a little behind. Default: 8 MiB.
    pub trailing_log_bytes: usize,
    /// Bytes of a snapshot in one message. Default: 256 KiB.
    pub snapshot_chunk_bytes: usize,
    /// Chunks of a snapshot on their way to one follower. Default: 4.
    pub max_inflight_chunks: usize,
    /// The longest snapshot taken or received, in bytes. Default: 1 GiB.
    pub snapshot_len_max: u64,
    /// Bytes of snapshots in memory while they are received and until they are installed, at most. Chunks
    /// over it are not taken, and are sent again. Default: 1 GiB.
    pub max_incoming_snapshot_bytes: u64,
    /// Bytes of snapshots that a replica sends a second, to all followers together; at least a chunk an
    /// election timeout. Default: as many as the disk reads and the windows allow.
    pub snapshot_bytes_per_s: Option<u64>,
    /// Let a follower that is up to date send its snapshot to another that needs one, so that the leader
    /// need not. The leader sends its own where none can. Default: off.
    pub snapshot_from_followers: bool,
    /// The most client sessions there are; the one not used for longest makes room for another. It counts
    /// for the sessions that are opened while this node leads. Default: 1024.
    pub max_sessions: u32,
    /// A follower hands proposals on to the leader, once, instead of answering `NotLeader`. If the answer
    /// does not come within two election timeouts, or its output is too long for a message, it is `Unknown`.
    /// Default: off.
    pub forward_proposals: bool,
    /// Breaks one rule on purpose.
    #[cfg(feature = "planted")]
    pub plant: Option<super::Plant>,
}

impl Default for RaftConfig {
    fn default() -> Self {
        Self {
            election_timeout: Duration::from_secs(1),
            heartbeat_interval: Duration::from_millis(100),
            pre_vote: true,
            check_quorum: true,
            catch_up_timeout: Duration::from_secs(600),
            read_timeout: Duration::from_secs(5),
            max_pending_reads: 1 << 16,
            lease_reads: false,
            clock_drift_ppm: 10_000,
            quiesce_after: None,
            max_append_bytes: 1 << 20,
            max_inflight_bytes: 16 << 20,
            max_inflight_messages: 1024,
            max_uncommitted_bytes: 64 << 20,
            command_len_max: 1 << 20,
            snapshot_log_bytes: 64 << 20,
            trailing_log_bytes: 8 << 20,
            snapshot_chunk_bytes: 256 << 10,
            max_inflight_chunks: 4,
            snapshot_len_max: 1 << 30,
            max_incoming_snapshot_bytes: 1 << 30,
            snapshot_bytes_per_s: None,
            snapshot_from_followers: false,
            max_sessions: 1024,
            forward_proposals: false,
            #[cfg(feature = "planted")]
            plant: None,
        }
    }
}

impl RaftConfig {
    /// Checks that the values can work together.
    ///
    /// # Errors
    /// [`ConfigError`] with a sentence that says what to change.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let no = |text: String| Err(ConfigError(text));
        let zeros = [
            ("heartbeat_interval", self.heartbeat_interval.is_zero()),
            ("election_timeout", self.election_timeout.is_zero()),
            ("catch_up_timeout", self.catch_up_timeout.is_zero()),
            ("read_timeout", self.read_timeout.is_zero()),
            ("max_pending_reads", self.max_pending_reads == 0),
            ("quiesce_after", self.quiesce_after == Some(Duration::ZERO)),
            ("max_append_bytes", self.max_append_bytes == 0),
            ("max_inflight_bytes", self.max_inflight_bytes == 0),
            ("max_inflight_messages", self.max_inflight_messages == 0),
            ("max_uncommitted_bytes", self.max_uncommitted_bytes == 0),
            ("command_len_max", self.command_len_max == 0),
            ("snapshot_log_bytes", self.snapshot_log_bytes == 0),
            ("snapshot_chunk_bytes", self.snapshot_chunk_bytes == 0),
            ("max_inflight_chunks", self.max_inflight_chunks == 0),
            ("snapshot_len_max", self.snapshot_len_max == 0),
            ("max_sessions", self.max_sessions == 0),
        ];
        if let Some((name, _)) = zeros.iter().find(|(_, zero)| *zero) {
            return no(format!("{name} is 0: it must be more"));
        }
        if self.election_timeout <= self.heartbeat_interval {
            return no(format!(
                "election_timeout is {:?} and heartbeat_interval {:?}: the timeout must be longer, ten times is usual",
                self.election_timeout, self.heartbeat_interval,
            ));
        }
        if self.lease_reads && !self.check_quorum {
            return no("lease_reads is on and check_quorum off: a lease rests on it, turn both on".to_owned());
        }
        // Twice the timeout is drawn from, and times are counted in nanoseconds.
        if self.election_timeout > Duration::from_secs(24 * 3600) {
            return no(format!("election_timeout is {:?}: a day is the most there may be", self.election_timeout));
        }
        let waits = [("catch_up_timeout", self.catch_up_timeout), ("read_timeout", self.read_timeout)];
        if let Some((name, wait)) = waits.iter().find(|(_, wait)| *wait > Duration::from_secs(24 * 3600)) {
            return no(format!("{name} is {wait:?}: a day is the most there may be"));
        }
        if self.max_sessions > SESSIONS_MAX {
            return no(format!("max_sessions is {}: {SESSIONS_MAX} is the most there may be", self.max_sessions));
        }
        let limit = FRAME_LEN_MAX - MESSAGE_OVERHEAD;
        let in_frame = [
            ("max_append_bytes", self.max_append_bytes),
            ("command_len_max", self.command_len_max.saturating_add(Entry::OVERHEAD)),
            ("snapshot_chunk_bytes", self.snapshot_chunk_bytes),
        ];
        if self.max_incoming_snapshot_bytes < self.snapshot_len_max {
            return no(format!(
                "max_incoming_snapshot_bytes is {} and snapshot_len_max {}: the longest snapshot must fit, raise the first",
                self.max_incoming_snapshot_bytes, self.snapshot_len_max,
            ));
        }
        if let Some(rate) = self.snapshot_bytes_per_s
            && u128::from(rate) * self.election_timeout.as_millis() < self.snapshot_chunk_bytes as u128 * 1000
        {
            return no(format!(
                "snapshot_bytes_per_s is {rate}: a chunk of {} bytes takes longer than election_timeout, raise the one or lower the other",
                self.snapshot_chunk_bytes,
            ));
        }
        if let Some((name, len)) = in_frame.iter().find(|(_, len)| *len > limit) {
            return no(format!("{name} makes messages of {len} bytes, but a frame has room for {limit}: lower it"));
        }
        Ok(())
    }
}

/// Why a configuration cannot work: a sentence that says what to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub(super) String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(RaftConfig::default().validate(), Ok(()));
    }

    #[test]
    fn what_cannot_work_is_refused_with_the_value_and_the_bound() {
        let refused = |change: fn(&mut RaftConfig)| {
            let mut config = RaftConfig::default();
            change(&mut config);
            config.validate().unwrap_err().to_string()
        };
        assert!(refused(|c| c.election_timeout = Duration::ZERO).contains("election_timeout is 0"));
        assert!(refused(|c| c.heartbeat_interval = Duration::from_secs(1)).contains("must be longer"));
        assert!(refused(|c| c.election_timeout = Duration::MAX).contains("a day is the most"));
        assert!(refused(|c| c.max_append_bytes = FRAME_LEN_MAX).contains("max_append_bytes makes messages"));
        assert!(refused(|c| c.command_len_max = usize::MAX).contains("command_len_max makes messages"));
        assert!(refused(|c| c.snapshot_chunk_bytes = 0).contains("snapshot_chunk_bytes is 0"));
        assert!(refused(|c| c.max_incoming_snapshot_bytes = 5).contains("the longest snapshot must fit"));
        assert!(refused(|c| c.snapshot_bytes_per_s = Some(200_000)).contains("takes longer than election_timeout"));
        assert!(refused(|c| c.max_sessions = 0).contains("max_sessions is 0"));
        assert!(refused(|c| c.max_sessions = u32::MAX).contains("65536 is the most"));
        assert!(refused(|c| c.snapshot_bytes_per_s = Some(0)).contains("snapshot_bytes_per_s is 0"));
    }
}
