//! Forwarding: a follower hands proposals on to the leader, and the answers back.
//!
//! A forwarded proposal is sent once. If the answer does not come, the client is told that the outcome
//! is unknown, at once where another leader turns up; only who proposed in a session may send the same
//! again. A network may deliver a message twice, though, so a leader takes each forward once: forwards are
//! numbered within an *epoch*, which is another one each time the replica starts, and count only in the
//! term they were sent in. So what a leader remembers of them it can forget with its leadership. It hears
//! only the replicas that the configuration names, so there is not much to remember.

use std::collections::BTreeMap;

use mesh_core::{Bytes, Context, DecodeError, Instant, NodeId, Reader, RequestId, StateMachine, Wire, wire};

use super::command::{ProposeError, RaftReply};
use super::configuration::{MEMBERS_MAX, ReplicaId};
use super::exactly_once::{Outcome, check_body, refusal};
use super::message::{Forward, Forwarded, ForwardedAnswer, Message};
use super::{Raft, Role, Timer};
use crate::log::{Entry, EntryKind};
use crate::session::SessionId;

/// Forwards of one follower that wait for their answer, at most.
const FORWARDS_MAX: usize = 4096;

/// Election timeouts after which the answer to a forward is no longer waited for: by then another node
/// may lead.
const TIMEOUTS: u32 = 2;

/// Who waits for the answer to a proposal.
#[derive(Clone, Debug, Hash)]
pub(super) enum Asker {
    /// The application here.
    Here(RequestId),
    /// A follower that handed it on.
    Elsewhere(Box<Origin>),
}

/// Where a forward comes from.
#[derive(Clone, Debug, Hash)]
pub(super) struct Origin {
    node: NodeId,
    term: u64,
    epoch: u64,
    id: u64,
}

impl Asker {
    /// Answers a proposal, not behind the log: a majority has it on disk, or it came to nothing.
    pub(super) fn answer<S: StateMachine>(
        self,
        cx: &mut Context<'_, Raft<S>>,
        kind: EntryKind,
        (index, term): (u64, u64),
        outcome: Outcome<S::Output>,
    ) {
        match self {
            Self::Here(request) => {
                if let Some(reply) = outcome.into_reply(kind, index, term) {
                    cx.reply_volatile(request, reply);
                }
            }
            Self::Elsewhere(origin) => {
                let answer = |output| Ok(ForwardedAnswer { index, term, output });
                let result = match outcome {
                    Outcome::Applied(output) => answer(wire::to_bytes(&output)),
                    Outcome::Opened(_) | Outcome::Kept | Outcome::Closed | Outcome::Nothing => answer(Bytes::new()),
                    Outcome::Refused(error) => Err(error),
                };
                origin.send(cx, result);
            }
        }
    }

    /// Tells that a proposal came to nothing, or that nobody knows.
    pub(super) fn refuse<S: StateMachine>(self, cx: &mut Context<'_, Raft<S>>, kind: EntryKind, error: ProposeError) {
        match self {
            Self::Here(request) => cx.reply_volatile(request, refusal(kind, error)),
            Self::Elsewhere(origin) => origin.send(cx, Err(error)),
        }
    }
}

impl Origin {
    fn send<S: StateMachine>(&self, cx: &mut Context<'_, Raft<S>>, result: Result<ForwardedAnswer, ProposeError>) {
        let forwarded = Forwarded { term: self.term, epoch: self.epoch, id: self.id, result };
        cx.send_volatile(self.node, Message::Forwarded(forwarded));
    }
}

/// The proposals that this node handed on, and what it knows as a leader of those of others.
#[derive(Clone, Debug, Default, Hash)]
pub(super) struct Forwards {
    /// Of this start of the node; 0 where nothing is forwarded.
    epoch: u64,
    last_id: u64,
    /// By number, and so by age.
    waiting: BTreeMap<u64, Waiting>,
    waiting_bytes: usize,
    /// What each follower forwarded in this term: in which epoch, and which numbers.
    seen: BTreeMap<ReplicaId, (u64, Seen)>,
}

#[derive(Clone, Debug, Hash)]
struct Waiting {
    request: RequestId,
    kind: EntryKind,
    leader: NodeId,
    term: u64,
    size: usize,
    due: Instant,
}

/// Which numbers were seen. Those more than 63 behind the highest count as seen.
#[derive(Clone, Copy, Debug, Hash)]
struct Seen {
    highest: u64,
    /// Bit n is for n below the highest.
    recent: u64,
}

impl Seen {
    const NONE: Self = Self { highest: 0, recent: 1 };

    /// Whether a number is seen for the first time.
    const fn is_new(&mut self, number: u64) -> bool {
        if number > self.highest {
            let ahead = number - self.highest;
            self.recent = if ahead < 64 { self.recent << ahead } else { 0 } | 1;
            self.highest = number;
            return true;
        }
        let behind = self.highest - number;
        if behind >= 64 || self.recent & (1 << behind) != 0 {
            return false;
        }
        self.recent |= 1 << behind;
        true
    }
}

impl Forwards {
    /// Numbers forwards from about here on. A node that starts draws the number, or an answer to a forward of
    /// a disk that it has lost could pass for one to a forward of this disk.
    pub(super) const fn number_from(&mut self, number: u64) {
        self.last_id = number >> 1;
    }

    /// A new term is led: what was forwarded in another does not count.
    pub(super) fn forget_seen(&mut self) {
        self.seen.clear();
    }

    fn take(&mut self, id: u64) -> Option<Waiting> {
        let waiting = self.waiting.remove(&id)?;
        self.waiting_bytes -= waiting.size;
        Some(waiting)
    }
}

impl<S: StateMachine> Raft<S> {
    /// Begins the epoch of this start. Its record makes sure that the next start has a higher one.
    pub(super) fn begin_forwarding(&mut self, cx: &mut Context<'_, Self>) {
        if self.config.forward_proposals {
            self.persist_hard_state(cx);
            self.forwards.epoch = self.persisted.0;
        }
    }

    /// Hands a proposal of the application on to the leader, if that is wanted and one is known.
    pub(super) fn forward(
        &mut self,
        cx: &mut Context<'_, Self>,
        request: RequestId,
        kind: EntryKind,
        encode: impl FnOnce(&mut Vec<u8>),
    ) {
        let refuse = |cx: &mut Context<'_, Self>, error| cx.reply_volatile(request, refusal(kind, error));
        let may = self.role == Role::Follower && self.config.forward_proposals && !self.is_witness();
        if self.read_only {
            return refuse(cx, ProposeError::ReadOnly);
        }
        let leader = self.leader.filter(|_| may);
        let Some(leader) = leader else {
            return refuse(cx, ProposeError::NotLeader { leader: self.leader });
        };
        let mut body = Vec::new();
        encode(&mut body);
        let (len, limit) = (body.len(), self.config.command_len_max);
        if len > limit {
            return refuse(cx, ProposeError::TooLarge { len, limit });
        }
        let (size, forwards) = (len + Entry::OVERHEAD, &mut self.forwards);
        if forwards.waiting.len() >= FORWARDS_MAX
            || forwards.waiting_bytes + size > self.config.max_uncommitted_bytes.max(size)
        {
            return refuse(cx, ProposeError::Overloaded);
        }
        let timeout = TIMEOUTS * self.config.election_timeout;
        if forwards.waiting.is_empty() {
            cx.set_timer(Timer::ForwardDue, timeout);
        }
        forwards.last_id += 1;
        forwards.waiting_bytes += size;
        let (id, epoch) = (forwards.last_id, forwards.epoch);
        let (term, replica) = (self.hard.term, self.hard.replica);
        forwards.waiting.insert(id, Waiting { request, kind, leader, term, size, due: cx.now() + timeout });
        let forward = Message::Forward(Forward { term, replica, epoch, id, kind, body: Bytes::from(body) });
        if cx.durable().0 >= epoch {
            cx.send_volatile(leader, forward);
        } else {
            // A crash could take the epoch back, and then another start would use the same.
            cx.send(leader, forward);
        }
    }

    pub(super) fn on_forward_due(&mut self, cx: &mut Context<'_, Self>) {
        let now = cx.now();
        self.give_up_oldest(cx, |waiting| waiting.due <= now);
    }

    /// Another leader than the one that was asked will hardly answer: gives up what only that one could.
    pub(super) fn give_up_forwards(&mut self, cx: &mut Context<'_, Self>) {
        if let Some(leader) = self.leader {
            let term = self.hard.term;
            self.give_up_oldest(cx, |waiting| (waiting.leader, waiting.term) != (leader, term));
        }
    }

    /// Tells of the oldest forwards, as long as they are lost, that nobody knows what comes of them.
    fn give_up_oldest(&mut self, cx: &mut Context<'_, Self>, is_lost: impl Fn(&Waiting) -> bool) {
        while let Some((id, first)) = self.forwards.waiting.first_key_value() {
            if !is_lost(first) {
                return cx.set_timer(Timer::ForwardDue, first.due.since(cx.now()));
            }
            let id = *id;
            let Some(Waiting { request, kind, .. }) = self.forwards.take(id) else { break };
            let error = match planted!(self, LostForwardSaidToBeNowhere) {
                true => ProposeError::NotLeader { leader: self.leader },
                false => ProposeError::Unknown,
            };
            cx.reply_volatile(request, refusal(kind, error));
        }
        cx.cancel_timer(Timer::ForwardDue);
    }

    /// The replica of a member that counts.
    fn named_replica(&self, node: NodeId) -> Option<ReplicaId> {
        let named = self.configuration().member(node)?.replica;
        let answers = || self.peers.iter().find(|peer| peer.id == node).map(|peer| peer.replica);
        if named.is_known() { Some(named) } else { answers() }
    }

    /// A member hands on a proposal.
    pub(super) fn on_forward(&mut self, cx: &mut Context<'_, Self>, from: NodeId, forward: Forward) {
        let Forward { term, replica, epoch, id, kind, body } = forward;
        let origin = Origin { node: from, term, epoch, id };
        if self.role != Role::Leader || term != self.hard.term {
            // It may be a late copy of one that was taken when this node led that term, perhaps with a
            // disk that it has lost, and then it is not true that the proposal went nowhere.
            let is_named = self.own_member().is_some_and(|member| member.replica == self.hard.replica);
            let never_led = self.hard.voted_for.is_none_or(|candidate| candidate.node != self.me);
            if term == self.hard.term && is_named && never_led {
                origin.send(cx, Err(ProposeError::NotLeader { leader: self.leader }));
            }
            return;
        }
        if self.named_replica(from) != Some(replica) {
            return;
        }
        if self.forwards.seen.len() > 2 * MEMBERS_MAX {
            // Those of disks that are no more: who answers as one after the other is not remembered for it.
            let named: Vec<_> = self.configuration().members().filter_map(|m| self.named_replica(m.node)).collect();
            self.forwards.seen.retain(|replica, _| named.contains(replica));
        }
        let (known, seen) = self.forwards.seen.entry(replica).or_insert((epoch, Seen::NONE));
        if epoch > *known {
            (*known, *seen) = (epoch, Seen::NONE);
        }
        let seen_before = epoch < *known || !seen.is_new(id);
        if seen_before && !planted!(self, ForwardTakenAgain) {
            return;
        }
        if check_body::<S>(kind, &body).is_err() {
            return self.misbehaved(cx, from, "it forwards a proposal that does not decode");
        }
        self.last_active = cx.now();
        self.propose(cx, Asker::Elsewhere(Box::new(origin)), kind, |out| out.extend_from_slice(&body));
    }

    /// The leader answers a forward.
    pub(super) fn on_forwarded(&mut self, cx: &mut Context<'_, Self>, from: NodeId, forwarded: Forwarded) {
        let Forwarded { epoch, id, result, .. } = forwarded;
        let asked = self.forwards.waiting.get(&id).is_some_and(|waiting| waiting.leader == from);
        if epoch != self.forwards.epoch || !asked {
            return;
        }
        let Some(Waiting { request, kind, .. }) = self.forwards.take(id) else { return };
        if self.forwards.waiting.is_empty() {
            cx.cancel_timer(Timer::ForwardDue);
        }
        cx.reply_volatile(request, self.read_answer(kind, result));
    }

    fn read_answer(
        &self,
        kind: EntryKind,
        result: Result<ForwardedAnswer, ProposeError>,
    ) -> RaftReply<S::Output, S::Answer> {
        let ForwardedAnswer { index, term, output } = match result {
            Ok(answer) => answer,
            Err(error) => return refusal(kind, error),
        };
        let outcome = match kind {
            EntryKind::OpenSession => Outcome::Opened(SessionId(index)),
            EntryKind::KeepSession => Outcome::Kept,
            EntryKind::CloseSession => Outcome::Closed,
            _ => match wire::from_bytes(&output) {
                Ok(output) => Outcome::Applied(output),
                Err(_) => Outcome::Refused(ProposeError::Unknown),
            },
        };
        outcome.into_reply(kind, index, term).unwrap_or_else(|| refusal(kind, ProposeError::Unknown))
    }
}

impl Wire for ProposeError {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::NotLeader { leader } => (0u8, *leader).encode(out),
            Self::Overloaded => out.push(1),
            Self::TooLarge { len, limit } => (2u8, *len as u64, *limit as u64).encode(out),
            Self::Unknown => out.push(3),
            Self::SessionExpired => out.push(4),
            Self::SessionStale => out.push(5),
            Self::SessionWindowFull => out.push(6),
            Self::Busy => out.push(7),
            Self::Stopped => out.push(8),
            Self::Transferring { to } => (9u8, *to).encode(out),
            Self::ReadOnly => out.push(10),
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let type_name = "ProposeError";
        let number = |number: u64| usize::try_from(number).map_err(|_| DecodeError::OutOfRange { type_name });
        Ok(match u8::decode(reader)? {
            0 => Self::NotLeader { leader: Wire::decode(reader)? },
            1 => Self::Overloaded,
            2 => Self::TooLarge { len: number(Wire::decode(reader)?)?, limit: number(Wire::decode(reader)?)? },
            3 => Self::Unknown,
            4 => Self::SessionExpired,
            5 => Self::SessionStale,
            6 => Self::SessionWindowFull,
            7 => Self::Busy,
            8 => Self::Stopped,
            9 => Self::Transferring { to: Wire::decode(reader)? },
            10 => Self::ReadOnly,
            variant => return Err(DecodeError::UnknownVariant { type_name, variant: variant.into() }),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_number_is_new_once(numbers in prop::collection::vec(prop_oneof![0..200u64, any::<u64>()], 0..300)) {
            let (mut seen, mut model) = (Seen::NONE, BTreeSet::from([0]));
            for number in numbers {
                let highest = model.last().copied().unwrap_or(0);
                let expected = !model.contains(&number) && number + 64 > highest;
                prop_assert_eq!(seen.is_new(number), expected, "{}", number);
                if expected {
                    model.insert(number);
                }
            }
        }
    }
}
