//! A peer as its observer sees it.

use std::collections::BTreeMap;
use std::time::Duration;

use mesh_core::{Instant, NodeId};

use super::config::HeartbeatConfig;
use super::message::{Beat, Heard};
use super::phi::PhiDetector;

/// How far a peer is suspected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// It is heard of as usual.
    Alive,
    /// Its heartbeat is late.
    Late,
    /// This node cannot hear it, but another one can: a link is down, not a node.
    Unreachable,
    /// It is silent for too long, and others are asked.
    Suspected,
    /// A quorum of its observers agrees that it is silent.
    Failed,
}

/// What an observer knows of a peer.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) detector: PhiDetector,
    /// Its newest heartbeat.
    pub(super) beat: Option<Beat>,
    /// The last of the life before: what comes late from that life does not count.
    former: Option<Beat>,
    pub(super) level: Level,
    /// Numbers the questions about it.
    pub(super) round: u64,
    /// The question that was last answered by somebody who hears it.
    pub(super) refuted_in: u64,
    /// The other observers that said that they do not hear it either, and when.
    silent: BTreeMap<NodeId, Instant>,
}

impl Peer {
    pub(super) fn new(config: &HeartbeatConfig, now: Instant) -> Self {
        let mut detector = PhiDetector::new(config.phi.clone(), config.interval);
        // It has this long to be heard of at all.
        detector.heard(now);
        Self {
            detector,
            beat: None,
            former: None,
            level: Level::Alive,
            round: 0,
            refuted_in: 0,
            silent: BTreeMap::new(),
        }
    }

    /// Takes a heartbeat; whether it is a new one.
    pub(super) fn heard(&mut self, beat: Beat, now: Instant) -> bool {
        let news = match self.beat {
            Some(known) if known.life == beat.life => beat.sequence > known.sequence,
            // Of a life that ended. Where the one that came after it is silent, the order may have been another:
            // something was repeated from long ago.
            Some(_) if self.is_former(beat) => {
                self.level >= Level::Unreachable && self.former.is_some_and(|former| beat.sequence > former.sequence)
            }
            _ => true,
        };
        if news {
            self.former = self.beat.filter(|known| known.life != beat.life).or(self.former);
            self.beat = Some(beat);
            self.detector.heard(now);
            self.silent.clear();
        }
        news
    }

    fn is_former(&self, beat: Beat) -> bool {
        self.former.is_some_and(|former| former.life == beat.life)
    }

    /// What to tell others who ask about it: what was heard, or that nothing is. `None` where it was never heard
    /// of, and there was no time to be.
    pub(super) fn opinion(&self, now: Instant) -> Option<Option<Heard>> {
        if self.level >= Level::Unreachable {
            return Some(None);
        }
        let (beat, last) = (self.beat?, self.detector.last()?);
        Some(Some(Heard { beat, ago: now.since(last) }))
    }

    /// Whether what another one heard is newer than what this node did.
    pub(super) fn is_news(&self, heard: &Heard, now: Instant) -> bool {
        let silence = self.detector.last().map_or(Duration::MAX, |last| now.since(last));
        match self.beat {
            Some(known) if known.life == heard.beat.life => heard.beat.sequence > known.sequence,
            _ => !self.is_former(heard.beat) && heard.ago < silence,
        }
    }

    /// Another observer does not hear it either.
    pub(super) fn is_silent_to(&mut self, observer: NodeId, now: Instant) {
        self.silent.insert(observer, now);
    }

    /// Another observer hears it, or watches it no more.
    pub(super) fn is_heard_by(&mut self, observer: NodeId) {
        self.silent.remove(&observer);
    }

    /// How many observers do not hear it, this node among them.
    pub(super) fn silent_to(&mut self, now: Instant, counts_for: Duration) -> usize {
        self.silent.retain(|_, said| now.since(*said) <= counts_for);
        1 + self.silent.len()
    }

    pub(super) fn forget_opinions(&mut self) {
        self.silent.clear();
    }
}
