//! A follower as its leader sees it.

use std::collections::VecDeque;
use std::time::Duration;

use mesh_core::{Instant, NodeId};

use super::config::RaftConfig;
use super::configuration::ReplicaId;
use super::message::Append;
use super::stream::Stream;

/// What the leader knows of a follower, and how it supplies it.
#[derive(Clone, Debug, Hash)]
pub(super) struct Progress {
    pub(super) id: NodeId,
    /// Numbers what is sent under this progress: answers to anything else count for nothing.
    pub(super) session: u64,
    /// The replica that answers, once one does.
    pub(super) replica: ReplicaId,
    /// It has our log up to here on disk.
    pub(super) match_index: u64,
    /// The next entry to send; always after `match_index`.
    pub(super) next_index: u64,
    pub(super) state: State,
    /// When it last answered.
    pub(super) heard: Instant,
    /// The newest round that it has answered.
    pub(super) round: u64,
    /// When the newest round began for which it promised the lease.
    pub(super) leased: Instant,
    /// It keeps no data, so commands are not sent to it.
    pub(super) witness: bool,
    /// It is no member any more: until when it is still told so.
    pub(super) leaving: Option<Instant>,
    catching_up: Option<CatchUp>,
    /// The commit index that it has been told and can act on.
    pub(super) commit_told: u64,
    /// The transport's queue to it is full.
    pub(super) congested: bool,
    inflight: Inflight,
}

/// What a new server has to catch up with at a time (thesis 4.2.1): a log, and a question whether it is there.
#[derive(Clone, Copy, Debug, Hash)]
struct CatchUp {
    /// The last index when it began.
    goal: u64,
    /// The newest round that followers had been asked to answer when it began.
    after: u64,
    began: Instant,
    /// The one before took less than an election timeout.
    done: bool,
}

/// How a follower is supplied.
#[derive(Clone, Debug, Hash)]
pub(super) enum State {
    /// The place where the logs agree is not known: one append, then its answer.
    Probe { sent: bool },
    /// Entries are streamed without waiting for answers, as far as the window allows.
    Replicate,
    /// What it needs is compacted: a snapshot is streamed.
    Snapshot(Stream),
    /// The same, and another follower streams it.
    Lent(Lent),
}

/// A snapshot that another follower sends.
#[derive(Clone, Debug, Hash)]
pub(super) struct Lent {
    pub(super) by: NodeId,
    /// Bytes that have arrived without a gap, as the other one tells.
    pub(super) received: u64,
    /// When they last grew.
    pub(super) active: Instant,
}

impl Lent {
    pub(super) fn received(&mut self, received: u64, now: Instant) {
        if received > self.received {
            self.active = now;
        }
        self.received = received;
    }
}

impl Progress {
    pub(super) fn new(id: NodeId) -> Self {
        Self {
            id,
            session: 0,
            replica: ReplicaId::UNKNOWN,
            match_index: 0,
            next_index: 1,
            state: State::Probe { sent: false },
            heard: Instant::ZERO,
            round: 0,
            leased: Instant::ZERO,
            witness: false,
            leaving: None,
            catching_up: None,
            commit_told: 0,
            congested: false,
            inflight: Inflight::default(),
        }
    }

    /// Starts over under a new session, as the leader of a new term does.
    pub(super) fn reset(&mut self, session: u64, now: Instant, last_index: u64) {
        *self = Self { session, heard: now, congested: self.congested, witness: self.witness, ..Self::new(self.id) };
        self.probe_from(last_index + 1);
    }

    /// Whether it has caught up with a log that ends at `last_index`, while the leader's newest round is
    /// `newest`: what the log had at one time it had within an election timeout, so that counting on it does
    /// not hold up commits for longer (thesis 4.2.1), and it answered to something that it was asked
    /// since. Only the last time counts, and the one that runs must not take longer either: it
    /// may have fallen behind since.
    pub(super) fn catch_up(&mut self, now: Instant, last_index: u64, newest: u64, within: Duration) -> bool {
        let next = CatchUp { goal: last_index, after: newest, began: now, done: false };
        let current = self.catching_up.get_or_insert(next);
        if self.match_index >= current.goal && self.round > current.after {
            *current = CatchUp { done: now.since(current.began) <= within, ..next };
        }
        current.done && now.since(current.began) <= within
    }

    /// From here on it has to show again that it has caught up: what it showed before may be its past.
    pub(super) const fn forget_catch_up(&mut self) {
        self.catching_up = None;
    }

    /// What it lacks, as its match index and the index it has to reach.
    pub(super) fn catching_up(&self) -> (u64, u64) {
        (self.match_index, self.catching_up.map_or(0, |current| current.goal))
    }

    /// Goes back to asking where the logs agree.
    pub(super) fn probe_from(&mut self, next_index: u64) {
        self.next_index = next_index.max(self.match_index + 1);
        self.commit_told = self.commit_told.min(self.next_index - 1);
        self.inflight.clear();
        self.state = State::Probe { sent: false };
    }

    /// Whether it lacks what another follower lacks, and may be sent it too.
    pub(super) fn is_level_with(&self, other: &Self, config: &RaftConfig) -> bool {
        let place = |peer: &Self| (peer.next_index, peer.commit_told, peer.session, peer.witness);
        let streams = |peer: &Self| matches!(peer.state, State::Replicate) && peer.is_open(config);
        place(self) == place(other) && streams(self) && streams(other)
    }

    /// Whether it has not been told of a commit that it can act on.
    pub(super) fn lacks_commit(&self, commit: u64) -> bool {
        commit.min(self.next_index - 1) > self.commit_told && !self.congested && matches!(self.state, State::Replicate)
    }

    /// Notes an append as sent.
    pub(super) fn appended(&mut self, append: &Append) {
        let last = append.prev.index + append.entries.len() as u64;
        self.commit_told = self.commit_told.max(append.commit.min(last));
        if !append.entries.is_empty() {
            self.sent(last, append.entries.size());
        }
    }

    /// Notes entries as sent, up to and with `last`.
    fn sent(&mut self, last: u64, size: usize) {
        if let State::Probe { sent } = &mut self.state {
            // Where the logs agree is still to be told.
            *sent = true;
        } else {
            self.next_index = last + 1;
            self.inflight.push(last, size);
        }
    }

    /// Whether entries may be sent now.
    pub(super) fn is_open(&self, config: &RaftConfig) -> bool {
        !self.congested
            && match self.state {
                State::Probe { sent } => !sent,
                State::Replicate => {
                    self.inflight.sizes.len() < config.max_inflight_messages
                        && self.inflight.size < config.max_inflight_bytes
                }
                State::Snapshot(_) | State::Lent(_) => false,
            }
    }

    /// Notes that the follower has everything up to `match_index`; whether that is news.
    pub(super) fn accepted(&mut self, match_index: u64) -> bool {
        self.inflight.free_to(match_index);
        let news = match_index > self.match_index;
        self.match_index = self.match_index.max(match_index);
        self.next_index = self.next_index.max(self.match_index + 1);
        news
    }

    /// Keeps no room for appends on their way.
    pub(super) fn release_room(&mut self) {
        self.inflight.sizes.shrink_to_fit();
    }

    /// Streams from here on.
    pub(super) fn replicate(&mut self) {
        if !matches!(self.state, State::Replicate) {
            self.inflight.clear();
            self.next_index = self.match_index + 1;
            self.state = State::Replicate;
        }
    }
}

/// What was sent and not acknowledged.
#[derive(Clone, Debug, Default, Hash)]
struct Inflight {
    /// The last index and the size of each append, oldest first.
    sizes: VecDeque<(u64, usize)>,
    size: usize,
}

impl Inflight {
    fn push(&mut self, last: u64, size: usize) {
        self.sizes.push_back((last, size));
        self.size += size;
    }

    fn free_to(&mut self, index: u64) {
        while let Some((last, size)) = self.sizes.front().copied()
            && last <= index
        {
            self.sizes.pop_front();
            self.size -= size;
        }
    }

    fn clear(&mut self) {
        self.sizes.clear();
        self.size = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_match_index_never_goes_back_and_next_stays_after_it() {
        let mut progress = Progress::new(NodeId(2));
        progress.reset(1, Instant::ZERO, 9);
        assert!(progress.accepted(5));
        assert!(!progress.accepted(3));
        assert_eq!(progress.match_index, 5);
        progress.probe_from(2);
        assert_eq!(progress.next_index, 6);
    }

    #[test]
    fn a_server_has_caught_up_once_that_takes_less_than_an_election_timeout() {
        let second = Duration::from_secs(1);
        let mut progress = Progress::new(NodeId(2));
        // The leader begins a round every second, and this one is answered.
        let mut at = |seconds: u64, match_index, last_index| {
            progress.round = seconds;
            progress.accepted(match_index);
            progress.catch_up(Instant::ZERO + second * seconds as u32, last_index, seconds, second)
        };
        assert!(!at(0, 0, 1000), "it begins");
        assert!(!at(10, 900, 2000));
        assert!(!at(20, 1000, 3000), "it took twenty seconds");
        assert!(!at(22, 3000, 3100), "it took two");
        assert!(at(23, 3100, 3200), "it took one");
        assert!(!at(25, 3100, 3300), "it has not had the rest for two");
    }

    #[test]
    fn a_server_has_not_caught_up_before_it_answers_what_it_was_asked_since() {
        let (second, now) = (Duration::from_secs(1), Instant::ZERO);
        let mut progress = Progress::new(NodeId(2));
        progress.accepted(9);
        progress.round = 5;
        assert!(!progress.catch_up(now, 9, 5, second), "it has everything, and may be gone");
        assert!(!progress.catch_up(now, 9, 6, second));
        progress.round = 6;
        assert!(progress.catch_up(now, 9, 6, second));
        progress.forget_catch_up();
        assert!(!progress.catch_up(now, 9, 6, second));
    }

    #[test]
    fn the_window_closes_by_bytes_and_by_messages_and_opens_with_answers() {
        let config = RaftConfig { max_inflight_bytes: 100, max_inflight_messages: 3, ..RaftConfig::default() };
        let mut progress = Progress::new(NodeId(2));
        progress.accepted(1);
        progress.replicate();
        progress.sent(2, 60);
        assert!(progress.is_open(&config));
        progress.sent(3, 60);
        assert!(!progress.is_open(&config), "bytes");
        progress.accepted(2);
        assert!(progress.is_open(&config));
        progress.sent(4, 1);
        progress.sent(5, 1);
        assert!(!progress.is_open(&config), "messages");
        progress.accepted(5);
        assert!(progress.is_open(&config));
        progress.congested = true;
        assert!(!progress.is_open(&config));
    }
}
