//! Suspicion: how long a member has to answer before it is down (SWIM 4.2, Lifeguard IV-B).
//!
//! The more nodes suspect it the less time it has. Towards the end of it the node itself calls the
//! suspected member: only who does not answer this either is declared down or gone, and only what the node
//! has seen so itself. So what others say costs a healthy member an answer, not its place.

use std::time::Duration;

use mesh_core::{Instant, NodeId};

use super::member::hash_of;
use super::message::{Claim, Kind, Marks, Message, Ping};
use super::meter::Count;
use super::{Cx, Membership, MembershipEvent, Status, times};

/// A suspected member is called so often before it is declared down.
const LAST_CALLS: u32 = 2;

/// Why and since when a member is suspected.
#[derive(Clone, Debug)]
pub(super) struct Suspicion {
    /// In time that the node was awake.
    since: Instant,
    marks: Marks,
    /// Whether somebody said that it is down, or has left.
    said: Option<Status>,
    calls: u32,
    /// When it was called last, in time that the node was awake.
    called_at: Option<Instant>,
}

impl Suspicion {
    /// What is told of it.
    pub(super) const fn claim(&self) -> Claim {
        match self.said {
            Some(Status::Left) => Claim::Left(0),
            _ => Claim::Suspect(self.marks),
        }
    }
}

/// A short mark for a node that suspects.
const fn mark_of(node: NodeId) -> u32 {
    (hash_of(node) >> 32) as u32
}

impl Membership {
    /// This node got no answer.
    pub(super) fn suspect(&mut self, cx: &mut Cx<'_>, node: NodeId) {
        let Some(incarnation) = self.table.get(node).map(|entry| entry.incarnation) else { return };
        let mut marks = Marks::default();
        marks.add(mark_of(self.me));
        self.on_suspected(cx, node, incarnation, marks);
    }

    /// Some suspect a member that is live, as far as is known here.
    pub(super) fn on_suspected(&mut self, cx: &mut Cx<'_>, node: NodeId, incarnation: u64, marks: Marks) {
        let suspicion = self.suspicion_of(cx, node, incarnation);
        if suspicion.marks.add_all(&marks) {
            self.publish(cx, node, false);
        }
    }

    /// Others say that a member is down, or has left. It has less time to answer, but it has some.
    pub(super) fn on_said_to_be_gone(&mut self, cx: &mut Cx<'_>, node: NodeId, incarnation: u64, status: Status) {
        let suspicion = self.suspicion_of(cx, node, incarnation);
        if suspicion.said != Some(Status::Left) && suspicion.said != Some(status) {
            suspicion.said = Some(status);
            self.publish(cx, node, false);
        }
    }

    /// The suspicion against a live member at this incarnation or a later one; a new one where there is none.
    fn suspicion_of(&mut self, cx: &mut Cx<'_>, node: NodeId, incarnation: u64) -> &mut Suspicion {
        if self.table.get(node).is_some_and(|entry| entry.incarnation < incarnation) {
            self.suspicions.remove(&node);
            self.table.change(node, |entry| entry.incarnation = incarnation);
        }
        let since = self.awake.time(cx.now());
        self.suspicions.entry(node).or_insert_with(|| {
            self.table.change(node, |entry| entry.status = Status::Suspect);
            self.meter.count(Count::Suspicions);
            cx.emit(MembershipEvent::Suspected { node, incarnation });
            Suspicion { since, marks: Marks::default(), said: None, calls: 0, called_at: None }
        })
    }

    /// How long a suspected member has to answer, from when it was suspected.
    fn patience(&self, node: NodeId, suspicion: &Suspicion) -> Duration {
        if suspicion.said == Some(Status::Left) {
            return LAST_CALLS * self.config.probe_timeout;
        }
        let nodes = self.table.live() + 1;
        let flaps = self.table.get(node).map_or(0, |entry| entry.flaps).clamp(1, FLAPS_MAX);
        let factor = self.config.suspicion_factor * (nodes as f64).log10().max(1.0) * f64::from(flaps);
        let min = times(self.config.probe_period, factor);
        let others_max = self.config.suspicion_confirmations.min(nodes.saturating_sub(2));
        let others = suspicion.marks.as_slice().len().saturating_sub(1);
        if suspicion.said.is_some() || others >= others_max {
            return min;
        }
        let share = (others as f64 + 1.0).ln() / (others_max as f64 + 1.0).ln();
        times(min, self.config.suspicion_max_factor * (1.0 - share) + share)
    }

    /// Calls those whose time is nearly over, and declares those down whose time is.
    pub(super) fn watch_suspicions(&mut self, cx: &mut Cx<'_>) {
        let now = self.awake.time(cx.now());
        let mut due = Vec::new();
        for (node, suspicion) in &self.suspicions {
            let end = suspicion.since + self.patience(*node, suspicion);
            let calls_left = LAST_CALLS.saturating_sub(suspicion.calls);
            // Where others' suspicions cut its time short, it has that of a round trip to each call still.
            let is_answer_due = suspicion.called_at.is_none_or(|at| now >= at + self.config.probe_timeout);
            if is_answer_due && now + calls_left * self.config.probe_timeout >= end {
                due.push((*node, suspicion.calls));
            }
        }
        for (node, calls) in due {
            if calls >= LAST_CALLS {
                self.give_up(cx, node);
            } else {
                self.last_call(cx, node);
            }
        }
    }

    /// Others may be why it is called, so that its answer makes this node compare nothing.
    fn last_call(&mut self, cx: &mut Cx<'_>, node: NodeId) {
        let now = self.awake.time(cx.now());
        if let Some(suspicion) = self.suspicions.get_mut(&node) {
            suspicion.calls += 1;
            suspicion.called_at = Some(now);
        }
        self.call(cx, node);
    }

    /// Asks a member whether it is there, and says what is thought of it. By which number.
    pub(super) fn call(&mut self, cx: &mut Cx<'_>, node: NodeId) -> u16 {
        let (seq, digest) = (self.next_seq(), self.digest());
        let updates = self.about(cx.now(), node).into_iter().collect();
        cx.send(node, Message(Kind::Ping(Ping { seq, digest, updates })));
        seq
    }

    fn give_up(&mut self, cx: &mut Cx<'_>, node: NodeId) {
        let said = self.suspicions.get(&node).and_then(|suspicion| suspicion.said);
        let Some(incarnation) = self.table.get(node).map(|entry| entry.incarnation) else { return };
        match said {
            Some(Status::Left) => self.on_gone(cx, node, incarnation, Status::Left, 0),
            _ => {
                self.meter.count(Count::Downs);
                self.on_gone(cx, node, incarnation, Status::Down, 0);
            }
        }
    }

    /// A suspected member answered this node: whoever else misses it, its time begins anew.
    pub(super) fn excuse(&mut self, cx: &Cx<'_>, node: NodeId) {
        let now = self.awake.time(cx.now());
        if let Some(suspicion) = self.suspicions.get_mut(&node) {
            (suspicion.since, suspicion.calls, suspicion.called_at) = (now, 0, None);
        }
    }
}

/// Who comes and goes is given so many times as much time, at most.
const FLAPS_MAX: u8 = 8;
