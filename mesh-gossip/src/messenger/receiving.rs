//! What others have called this node for: each call is taken once.
//!
//! As in the sessions of NFS 4.1 (RFC 8881) a caller gives each of its calls a *slot*, and a higher number than the one
//! before it in that slot, which is over then. So one number and one answer for each slot is all there is to remember.
//!
//! A *session* is with one life of a caller. Who calls must have asked this node in its present life, and was given a
//! *pass*, whose issues are numbered: the calls of a former life of the caller have a lower one than those of the present
//! life, and those of a session that was dropped none above [`sealed`](Receiving::sealed). Nothing is kept of those who only ask.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mesh_core::{Bytes, Instant, NodeId};

use super::config::MessengerConfig;
use super::message::{CallId, Pass};

/// Strangers are forgotten at most this often: passes that were given just before are lost with them.
const SWEEP: Duration = Duration::from_secs(10);

/// What an answer takes beside its bytes, about.
const KEPT_OVERHEAD: usize = 64;

/// What is known of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The application has it, and has not answered.
    Held,
    /// The application has answered.
    Answered(Bytes),
    /// It is a notice.
    Noticed,
    /// It was not taken.
    Refused,
    /// It may have been handled, and there is no answer any more.
    Gone,
}

/// What becomes of a call that came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is new: it must be [taken](Receiving::take), or refused.
    New,
    /// It was taken before.
    Known(State),
    /// Its caller has given it up.
    Over,
    /// Its pass is not, or no longer, of a session here.
    NoPass,
    /// There is no room for another session.
    NoRoom,
}

/// The place of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct At {
    pub(super) from: NodeId,
    pub(super) call: CallId,
    pub(super) slot: u16,
}

#[derive(Clone, Debug)]
struct Slot {
    number: u64,
    state: State,
    /// Whether it came over others, too.
    relayed: bool,
    /// Until when its caller waits.
    until: Instant,
}

impl Default for Slot {
    fn default() -> Self {
        Self { number: 0, state: State::Gone, relayed: false, until: Instant::ZERO }
    }
}

#[derive(Clone, Debug)]
struct Session {
    /// Of the caller.
    life: u64,
    /// Passes up to this one are of a session that was dropped.
    floor: u64,
    /// The newest pass that was used.
    newest: u64,
    slots: Vec<Slot>,
}

impl Session {
    fn holds_any(&self) -> bool {
        self.slots.iter().any(|slot| slot.state == State::Held)
    }
}

/// Slots by the time at which they expire.
type Expiry = BTreeSet<(Instant, NodeId, u16)>;

/// The calls of others.
#[derive(Clone, Debug, Default)]
pub(super) struct Receiving {
    /// Of this node.
    life: u64,
    /// How many passes were given.
    issued: u64,
    /// Passes up to this one open no session.
    sealed: u64,
    peers: BTreeMap<NodeId, Session>,
    strangers: BTreeMap<NodeId, Session>,
    swept: Option<Instant>,
    held: Expiry,
    kept: Expiry,
    kept_bytes: usize,
}

impl Receiving {
    pub(super) fn start(&mut self, life: u64) {
        self.life = life;
    }

    /// How many requests wait for the application.
    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    /// A pass, for who asks; `None` where there is no room for its session.
    pub(super) fn pass(&mut self, now: Instant, from: NodeId, is_peer: bool, config: &MessengerConfig) -> Option<Pass> {
        let has_session = self.peers.contains_key(&from) || self.strangers.contains_key(&from);
        if !is_peer && !has_session && !self.has_room(now, config) {
            return None;
        }
        self.issued += 1;
        Some(Pass { life: self.life, issue: self.issued })
    }

    /// Whether there is room for one more stranger. Those that wait for nothing make room, all at once.
    fn has_room(&mut self, now: Instant, config: &MessengerConfig) -> bool {
        let full = self.strangers.len() >= config.strangers_max;
        if full && self.swept.is_none_or(|swept| now.since(swept) >= SWEEP) {
            self.swept = Some(now);
            let idle = |(node, session): (&NodeId, &Session)| (!session.holds_any()).then_some(*node);
            let idle: Vec<_> = self.strangers.iter().filter_map(idle).collect();
            idle.into_iter().for_each(|node| self.drop_session(node));
        }
        self.strangers.len() < config.strangers_max
    }

    /// A stranger was named as a peer.
    pub(super) fn add_peer(&mut self, node: NodeId) {
        if let Some(session) = self.strangers.remove(&node) {
            self.peers.insert(node, session);
        }
    }

    /// A peer is one no more: it is a stranger, or forgotten where there is no room.
    pub(super) fn remove_peer(&mut self, node: NodeId, config: &MessengerConfig) {
        if self.strangers.len() >= config.strangers_max {
            self.drop_session(node);
        } else if let Some(session) = self.peers.remove(&node) {
            self.strangers.insert(node, session);
        }
    }

    /// Forgets a session: its calls are not taken again, under whatever pass there was.
    fn drop_session(&mut self, node: NodeId) {
        if self.end_session(node) {
            self.sealed = self.issued;
        }
    }

    fn end_session(&mut self, node: NodeId) -> bool {
        let Some(session) = self.peers.remove(&node).or_else(|| self.strangers.remove(&node)) else { return false };
        for (at, slot) in session.slots.into_iter().enumerate() {
            self.release((slot.until, node, at as u16), &slot.state);
        }
        true
    }

    /// A slot holds or keeps nothing more.
    fn release(&mut self, key: (Instant, NodeId, u16), state: &State) {
        match state {
            State::Held => {
                self.held.remove(&key);
            }
            State::Answered(body) => {
                self.kept.remove(&key);
                self.kept_bytes -= body.len() + KEPT_OVERHEAD;
            }
            State::Noticed | State::Refused | State::Gone => {}
        }
    }

    fn session(&mut self, node: NodeId) -> Option<&mut Session> {
        self.peers.get_mut(&node).or_else(|| self.strangers.get_mut(&node))
    }

    fn slot(&mut self, at: At) -> Option<&mut Slot> {
        let session = self.session(at.from).filter(|session| session.life == at.call.life)?;
        session.slots.get_mut(usize::from(at.slot)).filter(|slot| slot.number == at.call.number)
    }

    /// The session of a call, opened if its pass is new.
    fn admit(
        &mut self,
        now: Instant,
        at: At,
        pass: Pass,
        is_peer: bool,
        config: &MessengerConfig,
    ) -> Result<(), Verdict> {
        if pass.life != self.life || pass.issue > self.issued {
            return Err(Verdict::NoPass);
        }
        let life = at.call.life;
        let replaces = match self.session(at.from) {
            Some(session) if session.life == life && pass.issue > session.floor => {
                session.newest = session.newest.max(pass.issue);
                return Ok(());
            }
            Some(session) if session.life == life || pass.issue <= session.newest => return Err(Verdict::NoPass),
            // A new life of a caller takes the place of the old one.
            Some(_) => true,
            None => false,
        };
        if !replaces && !is_peer && !self.has_room(now, config) {
            return Err(Verdict::NoRoom);
        }
        // Also where room was made just now.
        if pass.issue <= self.sealed {
            return Err(Verdict::NoPass);
        }
        self.end_session(at.from);
        let session = Session { life, floor: self.sealed, newest: pass.issue, slots: Vec::new() };
        if is_peer { &mut self.peers } else { &mut self.strangers }.insert(at.from, session);
        Ok(())
    }

    /// What becomes of a call. `is_whole` tells that all of it is here, so that it could be taken.
    pub(super) fn look_up(
        &mut self,
        now: Instant,
        at: At,
        pass: Pass,
        (is_peer, is_whole, relayed): (bool, bool, bool),
        config: &MessengerConfig,
    ) -> Verdict {
        if usize::from(at.slot) >= config.per_peer_max {
            return Verdict::Known(State::Refused);
        }
        if let Err(verdict) = self.admit(now, at, pass, is_peer, config) {
            return verdict;
        }
        let Some(session) = self.session(at.from) else { return Verdict::NoPass };
        let number = session.slots.get(usize::from(at.slot)).map_or(0, |slot| slot.number);
        match at.call.number.cmp(&number) {
            std::cmp::Ordering::Less => Verdict::Over,
            std::cmp::Ordering::Greater if is_whole => Verdict::New,
            std::cmp::Ordering::Greater => Verdict::NoPass,
            std::cmp::Ordering::Equal => {
                let slot = self.slot(at);
                Verdict::Known(slot.map_or(State::Gone, |slot| {
                    slot.relayed |= relayed;
                    slot.state.clone()
                }))
            }
        }
    }

    /// Whether one more request can wait for the application.
    pub(super) fn can_hold(&self, from: NodeId, config: &MessengerConfig) -> bool {
        let by_strangers = || self.held.iter().filter(|(_, node, _)| self.strangers.contains_key(node)).count();
        self.held.len() < config.held_max
            && (!self.strangers.contains_key(&from) || by_strangers() < config.held_max.div_ceil(2))
    }

    /// Takes a new call: what had its slot is over.
    pub(super) fn take(&mut self, at: At, state: State, relayed: bool, until: Instant) {
        let Some(session) = self.session(at.from) else { return };
        let index = usize::from(at.slot);
        if session.slots.len() <= index {
            session.slots.resize_with(index + 1, Slot::default);
        }
        let holds = state == State::Held;
        let slot = Slot { number: at.call.number, state, relayed, until };
        let old = std::mem::replace(&mut session.slots[index], slot);
        self.release((old.until, at.from, at.slot), &old.state);
        if holds {
            self.held.insert((until, at.from, at.slot));
        }
    }

    /// The application has answered, or cannot; whether it was waited for, and if so, whether the call came over others.
    pub(super) fn answer(&mut self, at: At, answer: Option<Bytes>, config: &MessengerConfig) -> Option<bool> {
        let slot = self.slot(at).filter(|slot| slot.state == State::Held)?;
        let (key, relayed) = ((slot.until, at.from, at.slot), slot.relayed);
        let added = answer.as_ref().map(|body| body.len() + KEPT_OVERHEAD);
        slot.state = answer.map_or(State::Gone, State::Answered);
        self.held.remove(&key);
        if let Some(added) = added {
            self.kept.insert(key);
            self.kept_bytes += added;
        }
        while self.kept_bytes > config.kept_bytes_max && self.drop_kept() {}
        Some(relayed)
    }

    /// Drops the answer that is wanted for the shortest time.
    fn drop_kept(&mut self) -> bool {
        let Some(key) = self.kept.first().copied() else { return false };
        self.expire(key);
        true
    }

    fn expire(&mut self, key: (Instant, NodeId, u16)) {
        let (_, node, slot) = key;
        let slot = self.session(node).and_then(|session| session.slots.get_mut(usize::from(slot)));
        let state = slot.map_or(State::Gone, |slot| std::mem::replace(&mut slot.state, State::Gone));
        self.release(key, &state);
        self.held.remove(&key);
        self.kept.remove(&key);
    }

    /// Drops what nobody waits for any more.
    pub(super) fn tidy(&mut self, now: Instant) {
        while let Some(due) = self.tidy_at().filter(|due| *due <= now) {
            let first =
                [self.held.first(), self.kept.first()].into_iter().flatten().find(|(at, ..)| *at == due).copied();
            let Some(key) = first else { return };
            self.expire(key);
        }
    }

    /// When there is something to drop.
    pub(super) fn tidy_at(&self) -> Option<Instant> {
        [self.held.first(), self.kept.first()].into_iter().flatten().map(|(at, ..)| *at).min()
    }

    /// Sessions, slots, and bytes of answers that are kept.
    #[cfg(test)]
    pub(super) fn size(&self) -> (usize, usize, usize) {
        let sessions = || self.peers.values().chain(self.strangers.values());
        (sessions().count(), sessions().map(|session| session.slots.len()).sum(), self.kept_bytes)
    }
}
