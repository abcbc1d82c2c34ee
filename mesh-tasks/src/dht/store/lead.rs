//! What the leader of a shard does: it orders changes, has its followers keep them, and answers once a majority has.
//!
//! A read changes nothing, but its answer must not be one of a leader that others have superseded without its knowing:
//! after it came, a majority is asked whether they still obey this one. All reads that wait share a question.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::Duration;

use mesh_core::{Bytes, Instant, NodeId};

use super::message::{Ask, Kept, MESSAGE_BYTES, Message, Op, Outcome};
use super::record::Record;
use super::shard::{Asked, Change, Content, Done, Origin, RECENT_BYTES, ShardId, Stamp, What, Write};
use super::{Context, DhtStore};
use crate::group::Replica;
use crate::task::Epoch;

/// The most messages with changes that are on their way to a follower.
const WINDOW: u32 = 16;

/// The most changes of a shard that a majority does not have yet, and the most reads that wait.
const UNDER_WAY_MAX: usize = 1024;

/// The most nodes whose writes to a shard are remembered.
const SESSIONS_MAX: usize = 4096;

/// The most writes of a node to a shard that may be under way; twice as many are remembered.
pub(super) const WRITES_MAX: usize = 64;

/// The most deleted keys that a change gives up. Where there are as many, they are given up soon.
const COLLECTED_MAX: usize = 256;

/// The most bytes of deleted keys of a shard that are given up at a time: with the last changes of it, which are at hand for
/// those who lag behind, there is room for other ones. Where there are more, they are given up soon, too.
const COLLECTED_BYTES: usize = RECENT_BYTES / 4;

/// How often what is not urgent is looked after.
const TIDY_EVERY: Duration = Duration::from_secs(1);

/// What is done as soon as a majority has a change.
#[derive(Clone, Debug)]
pub(super) enum Effect {
    /// Somebody hears of a write.
    Answer(Origin, u64, Outcome),
    /// All hear who leads the shard, and keeps it.
    Tell,
    /// The former replicas count no more.
    Regroup,
    /// Those who keep it no more forget it.
    Dismiss,
}

/// A read that waits.
#[derive(Clone, Debug)]
struct Read {
    /// For this change to count,
    number: u64,
    /// and for a majority to answer this question.
    round: u64,
    origin: Origin,
    request: u64,
    outcome: Outcome,
}

/// A follower as the leader sees it.
#[derive(Clone, Debug, Default)]
pub(super) struct Follower {
    /// It has everything up to here; `None` where it is not known to be on the line.
    pub(super) acked: Option<Stamp>,
    sent: Stamp,
    in_flight: u32,
    pub(super) sent_at: Option<Instant>,
    /// It is being made equal.
    pub(super) syncing: bool,
    /// The last question that it answered.
    checked: u64,
}

/// What the leader of a shard knows beside it.
#[derive(Debug)]
pub(super) struct Lead {
    pub(super) epoch: Epoch,
    pub(super) since: Instant,
    pub(super) followers: BTreeMap<Replica, Follower>,
    waiting: VecDeque<(u64, Effect)>,
    reads: VecDeque<Read>,
    /// The last question that was asked, and when.
    round: u64,
    asked_at: Instant,
    /// A majority has all changes of the epoch up to this one.
    pub(super) counted: u64,
    /// What followers are made equal to.
    pub(super) snapshot: Option<Content>,
    /// Replicas that are to forget it, and up to which change. They must have said so before they keep it again.
    pub(super) leaving: BTreeMap<Replica, Stamp>,
    /// Since when the sessions of nodes that are gone are known here.
    idle: BTreeMap<Origin, Instant>,
}

impl fmt::Display for Lead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} count", self.counted)?;
        for (replica, follower) in &self.followers {
            match follower.acked {
                Some(at) => write!(f, ", {} has {at}", replica.node)?,
                None => write!(f, ", {} may have less", replica.node)?,
            }
        }
        self.leaving.keys().try_for_each(|replica| write!(f, ", {} leaves", replica.node))
    }
}

impl Lead {
    pub(super) const fn new(epoch: Epoch, now: Instant) -> Self {
        Self {
            epoch,
            since: now,
            followers: BTreeMap::new(),
            waiting: VecDeque::new(),
            reads: VecDeque::new(),
            round: 0,
            asked_at: now,
            counted: 0,
            snapshot: None,
            leaving: BTreeMap::new(),
            idle: BTreeMap::new(),
        }
    }

    /// What a follower has, as it said itself.
    pub(super) fn note_at(&mut self, replica: Replica, at: Stamp) {
        let follower = self.followers.entry(replica).or_default();
        (follower.acked, follower.sent, follower.in_flight) = (Some(at), at, 0);
    }

    /// Up to which change of this epoch a follower has all.
    fn acked(&self, replica: &Replica) -> u64 {
        let acked = self.followers.get(replica).and_then(|follower| follower.acked);
        acked.filter(|at| at.epoch == self.epoch).map_or(0, |at| at.number)
    }

    fn checked(&self, replica: &Replica) -> u64 {
        self.followers.get(replica).map_or(0, |follower| follower.checked)
    }
}

impl DhtStore {
    // Requests.

    /// Does what is asked for, where this node leads the key's shard.
    pub(super) fn serve(&mut self, cx: &mut Context<'_>, origin: Origin, ask: Ask) {
        let Ask { number, answered, key, op } = ask;
        let id = self.shard_of(&key);
        let known = self.known_epoch(id);
        let (is_full, read_only) = (self.is_full(&key, &op), self.read_only);
        let Some(shard) = self.shards.get_mut(&id).filter(|shard| shard.lead.is_some()) else {
            return self.answer(cx, origin, number, Outcome::Elsewhere(known));
        };
        // Whoever asks is not gone, whatever is said of it.
        if let Some(lead) = &mut shard.lead {
            lead.idle.remove(&origin);
        }
        let content = shard.content();
        let present = content.get(&key).and_then(|entry| Some((entry.value.clone()?, entry.version)));
        if matches!(op, Op::Get) {
            let outcome = present.map_or(Outcome::Absent, |(value, version)| Outcome::Found(value, version));
            return self.read(cx, id, origin, number, outcome);
        }
        let session = content.sessions.get(&origin);
        if session.is_some_and(|session| number < session.answered) {
            // It was answered, and this copy of it is late.
            return;
        }
        if let Some(done) = session.and_then(|session| session.done.get(&number)).copied() {
            self.meter.repeated.increment();
            return self.when_counted(cx, id, Effect::Answer(origin, number, done.into()));
        }
        if read_only {
            return self.answer(cx, origin, number, Outcome::ReadOnly);
        }
        // The first that was not answered is always let in: the others are forgotten only behind it.
        let remembered = session.map_or(0, |session| session.done.range(answered..).count());
        let is_busy = (number > answered && remembered >= 2 * WRITES_MAX)
            || shard.lead.as_ref().is_some_and(|lead| lead.waiting.len() >= UNDER_WAY_MAX);
        if is_busy {
            return self.answer(cx, origin, number, Outcome::Later);
        }
        if is_full || (session.is_none() && content.sessions.len() >= SESSIONS_MAX) {
            return self.answer(cx, origin, number, Outcome::Full);
        }
        let present = present.map_or(0, |(_, version)| version);
        let value = match op {
            Op::PutIf(_, expected) if expected != present => Err(Done::Conflict(present)),
            Op::Delete if present == 0 => Err(Done::Absent),
            Op::Put(value) | Op::PutIf(value, _) => Ok(Some(value)),
            Op::Delete | Op::Get => Ok(None),
        };
        let version = content.next_version(&key);
        let done = value.as_ref().err().copied().unwrap_or(Done::Written(version));
        let asked = Asked { origin, number, answered };
        let what = value.map_or_else(
            |done| What::Unwritten(asked, done),
            |value| What::Written(asked, Write { key, value, version }),
        );
        self.propose(cx, id, what, Some(Effect::Answer(origin, number, done.into())));
    }

    /// Whether there is no room for what is asked.
    fn is_full(&self, key: &Bytes, op: &Op) -> bool {
        let (Op::Put(value) | Op::PutIf(value, _)) = op else { return false };
        let before = self.shards.get(&self.shard_of(key)).and_then(|shard| shard.content().get(key));
        let bytes = self.kept_bytes + key.len() + value.len() - before.map_or(0, |entry| entry.len(key));
        bytes > self.config.bytes_max || (before.is_none() && self.kept_keys >= self.config.keys_max)
    }

    /// Answers as soon as it is certain that nobody else leads the shard, and what was read counts.
    fn read(&mut self, cx: &mut Context<'_>, id: ShardId, origin: Origin, request: u64, outcome: Outcome) {
        let Some(shard) = self.shards.get_mut(&id) else { return };
        let number = shard.at().number;
        let Some(lead) = &mut shard.lead else { return };
        if lead.reads.len() >= UNDER_WAY_MAX {
            return self.answer(cx, origin, request, Outcome::Later);
        }
        lead.reads.push_back(Read { number, round: lead.round + 1, origin, request, outcome });
        self.reading.insert(id);
        self.count(cx, id);
    }

    // Changes.

    /// Makes a change; what is left is done once it counts.
    pub(super) fn propose(&mut self, cx: &mut Context<'_>, id: ShardId, what: What, effect: Option<Effect>) {
        let Some(shard) = self.shards.get_mut(&id) else { return };
        let at = shard.at();
        let Some(lead) = &mut shard.lead else { return };
        let number = if at.epoch == lead.epoch { at.number + 1 } else { 1 };
        let change = Change { at: Stamp { epoch: lead.epoch, number }, what };
        lead.waiting.extend(effect.map(|effect| (number, effect)));
        self.take_change(cx, id, change);
        self.dirty.insert(id);
        self.count(cx, id);
    }

    /// Takes the next change of a shard into what is kept here.
    pub(super) fn take_change(&mut self, cx: &mut Context<'_>, id: ShardId, change: Change) {
        let Some(shard) = self.shards.get_mut(&id) else { return };
        let before = (shard.content().keys(), shard.content().bytes());
        let record = self.config.durable.then(|| change.clone());
        shard.apply(change);
        let after = (shard.content().keys(), shard.content().bytes());
        self.kept_keys = self.kept_keys + after.0 - before.0;
        self.kept_bytes = self.kept_bytes + after.1 - before.1;
        if let Some(change) = record {
            self.persist(cx, || Record::Changed(id, change));
        }
    }

    /// Does something once all changes made so far count.
    pub(super) fn when_counted(&mut self, cx: &mut Context<'_>, id: ShardId, effect: Effect) {
        let Some(shard) = self.shards.get_mut(&id) else { return };
        let number = shard.at().number;
        if let Some(lead) = &mut shard.lead {
            lead.waiting.push_back((number, effect));
            self.count(cx, id);
        }
    }

    /// Finds out which changes count by now, and does what waited for them.
    pub(super) fn count(&mut self, cx: &mut Context<'_>, id: ShardId) {
        let me = self.replica();
        let Some(shard) = self.shards.get_mut(&id) else { return };
        let (group, own) = (shard.group().clone(), shard.at().number);
        let Some(lead) = &mut shard.lead else { return };
        let has = |lead: &Lead, replica: &Replica| if *replica == me { own } else { lead.acked(replica) };
        let mut numbers: Vec<u64> = lead.followers.keys().map(|replica| lead.acked(replica)).chain([own]).collect();
        numbers.sort_unstable();
        let counts = |number: &u64| group.is_majority(|replica| has(lead, replica) >= *number);
        if let Some(counted) = numbers.into_iter().rev().take_while(|number| *number > lead.counted).find(counts) {
            lead.counted = counted;
        }
        let mut due = Vec::new();
        while lead.waiting.front().is_some_and(|(number, _)| *number <= lead.counted) {
            due.extend(lead.waiting.pop_front().map(|(_, effect)| effect));
        }
        while let Some(read) = lead.reads.front() {
            let is_sure = |replica: &Replica| *replica == me || lead.checked(replica) >= read.round;
            if read.number > lead.counted || !group.is_majority(is_sure) {
                break;
            }
            let Some(Read { origin, request, outcome, .. }) = lead.reads.pop_front() else { break };
            due.push(Effect::Answer(origin, request, outcome));
        }
        for effect in due {
            match effect {
                Effect::Answer(origin, number, outcome) => self.answer(cx, origin, number, outcome),
                Effect::Tell => self.tell_route(id),
                Effect::Regroup => self.on_regrouped(cx, id),
                Effect::Dismiss => self.send_dismissals(cx, id),
            }
        }
    }

    /// Leads no more: somebody else does, or will.
    pub(super) fn step_down(&mut self, id: ShardId) {
        let Some(lead) = self.shards.get_mut(&id).and_then(|shard| shard.lead.take()) else { return };
        // Requests of this node are sent elsewhere; other nodes send theirs again.
        let waiting = lead.waiting.into_iter().filter_map(|(_, effect)| match effect {
            Effect::Answer(origin, number, _) => Some((origin, number)),
            _ => None,
        });
        let numbers: Vec<u64> = waiting
            .chain(lead.reads.into_iter().map(|read| (read.origin, read.request)))
            .filter(|(origin, _)| origin.node == self.me)
            .map(|(_, number)| number)
            .collect();
        self.send_again(numbers);
    }

    /// Somebody obeys a higher epoch.
    fn on_higher_epoch(&mut self, id: ShardId, epoch: Epoch) {
        let Some(shard) = self.shards.get_mut(&id) else { return };
        if shard.lead.as_ref().is_some_and(|lead| lead.epoch < epoch) {
            shard.promised = shard.promised.max(epoch);
            self.step_down(id);
        }
    }

    // Followers.

    /// Sends what changed.
    pub(super) fn send_dirty(&mut self, cx: &mut Context<'_>) {
        for id in std::mem::take(&mut self.dirty) {
            let Some(shard) = self.shards.get(&id).filter(|shard| shard.lead.is_some()) else { continue };
            let others: Vec<Replica> = shard.group().all().filter(|replica| replica.node != self.me).copied().collect();
            for replica in others {
                if self.is_alive(&replica) {
                    self.send_changes(cx, id, replica);
                }
            }
        }
    }

    fn send_changes(&mut self, cx: &mut Context<'_>, id: ShardId, replica: Replica) {
        let (now, again) = (cx.now(), self.config.resend_after);
        while let Some(shard) = self.shards.get_mut(&id) {
            let at = shard.at();
            let Some(lead) = &mut shard.lead else { return };
            let epoch = lead.epoch;
            let follower = lead.followers.entry(replica).or_default();
            let is_known = follower.acked.is_some();
            let is_due = follower.sent_at.is_none_or(|sent_at| now.since(sent_at) >= again);
            let has_more = follower.sent < at && follower.in_flight < WINDOW;
            // An empty message finds out where a follower is.
            if follower.syncing || (is_known && !has_more) || (!is_known && !is_due) {
                return;
            }
            let after = if is_known { follower.sent } else { at };
            let Some(changes) = shard.changes_after(after).map(fitting) else {
                return self.offer(cx, id, replica);
            };
            if let Some(follower) = shard.lead.as_mut().and_then(|lead| lead.followers.get_mut(&replica)) {
                follower.sent = changes.last().map_or(after, |change| change.at);
                follower.in_flight += 1;
                follower.sent_at = Some(now);
            }
            self.say(cx, replica.node, Message::Append(id, epoch, after, changes));
        }
    }

    pub(super) fn on_appended(&mut self, cx: &mut Context<'_>, from: NodeId, id: ShardId, epoch: Epoch, kept: Kept) {
        let Some(replica) = self.replica_of(from) else { return };
        let Some(shard) = self.shards.get_mut(&id) else { return };
        let at = match kept {
            Kept::Stale(epoch) => return self.on_higher_epoch(id, epoch),
            Kept::Upto(at) | Kept::Apart(at) => at,
        };
        let is_on_line = matches!(kept, Kept::Upto(_)) || shard.has_change(at);
        let is_learner = shard.group().learners.contains(&replica);
        let Some(lead) = shard.lead.as_mut().filter(|lead| lead.epoch == epoch) else { return };
        let Some(follower) = lead.followers.get_mut(&replica) else { return };
        if let Kept::Upto(at) = kept {
            follower.in_flight = follower.in_flight.saturating_sub(1);
            follower.acked = Some(follower.acked.map_or(at, |acked| acked.max(at)));
            follower.sent = follower.sent.max(at);
            follower.sent_at = Some(cx.now());
            follower.syncing = false;
            self.repair_wanted |= is_learner;
        } else if follower.syncing || follower.acked.is_some_and(|acked| acked >= at && acked.epoch == epoch) {
            // It came in another order than it was said.
            return;
        } else if is_on_line {
            lead.note_at(replica, at);
        } else {
            return self.offer(cx, id, replica);
        }
        self.dirty.insert(id);
        self.count(cx, id);
    }

    // Whether others still obey.

    /// Asks for all reads that came since the last time.
    pub(super) fn send_checks(&mut self, cx: &mut Context<'_>) {
        let now = cx.now();
        let mut checks: BTreeMap<NodeId, Vec<(ShardId, Epoch, u64)>> = BTreeMap::new();
        for id in std::mem::take(&mut self.reading) {
            let me = self.me;
            let Some(shard) = self.shards.get_mut(&id) else { continue };
            let others: Vec<Replica> = shard.group().all().filter(|replica| replica.node != me).copied().collect();
            let Some(lead) = &mut shard.lead else { continue };
            let Some(last) = lead.reads.back() else { continue };
            (lead.round, lead.asked_at) = (last.round.max(lead.round), now);
            for replica in others {
                let is_open = lead.followers.entry(replica).or_default().checked < lead.round;
                if is_open {
                    checks.entry(replica.node).or_default().push((id, lead.epoch, lead.round));
                }
            }
        }
        for (node, questions) in checks {
            self.say(cx, node, Message::Check(questions));
        }
    }

    pub(super) fn on_check(&mut self, cx: &mut Context<'_>, from: NodeId, questions: Vec<(ShardId, Epoch, u64)>) {
        let mut answers = Vec::new();
        for (id, epoch, round) in questions {
            match self.shards.get(&id).map(|shard| shard.promised) {
                Some(promised) if promised == epoch && epoch.node == from => answers.push((id, epoch, round)),
                Some(promised) if promised > epoch => {
                    self.say(cx, from, Message::Appended(id, epoch, Kept::Stale(promised)));
                }
                _ => {}
            }
        }
        if !answers.is_empty() {
            self.say(cx, from, Message::Checked(answers));
        }
    }

    pub(super) fn on_checked(&mut self, cx: &mut Context<'_>, from: NodeId, answers: Vec<(ShardId, Epoch, u64)>) {
        let Some(replica) = self.replica_of(from) else { return };
        for (id, epoch, round) in answers {
            let lead = self.shards.get_mut(&id).and_then(|shard| shard.lead.as_mut());
            let Some(lead) = lead.filter(|lead| lead.epoch == epoch && round <= lead.round) else { continue };
            if let Some(follower) = lead.followers.get_mut(&replica) {
                follower.checked = follower.checked.max(round);
                self.count(cx, id);
            }
        }
    }

    // Time.

    /// What was not answered for long is said again; what was deleted long ago is forgotten.
    pub(super) fn look_after_led(&mut self, cx: &mut Context<'_>) {
        let (now, again) = (cx.now(), self.config.resend_after);
        let led: Vec<ShardId> =
            self.shards.iter().filter(|(_, shard)| shard.lead.is_some()).map(|(id, _)| *id).collect();
        for id in led {
            let Some(shard) = self.shards.get_mut(&id) else { continue };
            let (at, group) = (shard.at(), shard.group().clone());
            let Some(lead) = &mut shard.lead else { continue };
            let mut to_offer = Vec::new();
            lead.followers.retain(|replica, _| group.all().any(|member| member == replica));
            for (replica, follower) in &mut lead.followers {
                if follower.sent_at.is_some_and(|sent_at| now.since(sent_at) < again) || follower.acked == Some(at) {
                    continue;
                }
                match follower.acked {
                    _ if follower.syncing => to_offer.push(*replica),
                    Some(acked) => (follower.sent, follower.in_flight) = (acked, 0),
                    None => {}
                }
                self.dirty.insert(id);
            }
            if !lead.followers.values().any(|follower| follower.syncing) {
                lead.snapshot = None;
            }
            let is_dismissing = !lead.leaving.is_empty() && now.since(self.tidied_at) >= TIDY_EVERY;
            if !lead.reads.is_empty() && now.since(lead.asked_at) >= again {
                self.reading.insert(id);
            }
            if is_dismissing {
                self.send_dismissals(cx, id);
            }
            for replica in to_offer.into_iter().filter(|replica| self.is_alive(replica)).collect::<Vec<_>>() {
                self.offer(cx, id, replica);
            }
        }
    }

    /// Forgets what was deleted a while ago, and who will not ask again.
    pub(super) fn tidy(&mut self, cx: &mut Context<'_>) {
        let now = cx.now();
        if now.since(self.tidied_at) < TIDY_EVERY {
            return;
        }
        self.tidied_at = now;
        let collects = now.since(self.collected_at) >= self.config.collect_every;
        if collects {
            self.collected_at = now;
        }
        // Whoever asks for something again does so before its deadline.
        let idle_for = self.config.deadline * 2;
        let led: Vec<ShardId> =
            self.shards.iter().filter(|(_, shard)| shard.lead.is_some()).map(|(id, _)| *id).collect();
        for id in led {
            let Some(shard) = self.shards.get(&id) else { continue };
            let content = shard.content();
            let away = content.sessions.keys().filter(|origin| !self.is_living(origin));
            let away: Vec<Origin> = away.copied().collect();
            let are_many = content.deleted() >= COLLECTED_MAX || content.deleted_bytes() > COLLECTED_BYTES;
            let is_due = collects || are_many;
            let deleted = if is_due { content.first_deleted(COLLECTED_BYTES) } else { Vec::new() };
            let Some(lead) = self.shards.get_mut(&id).and_then(|shard| shard.lead.as_mut()) else { continue };
            lead.idle.retain(|origin, _| away.contains(origin));
            let mut ended = away;
            ended.retain(|origin| now.since(*lead.idle.entry(*origin).or_insert(now)) >= idle_for);
            if !ended.is_empty() {
                self.propose(cx, id, What::Ended(ended), None);
            }
            self.meter.collected.add(deleted.len() as u64);
            for keys in deleted.chunks(COLLECTED_MAX) {
                self.propose(cx, id, What::Collected(keys.to_vec()), None);
            }
        }
    }
}

/// The first changes, as many as fit into a message.
fn fitting<'a>(changes: impl Iterator<Item = &'a Change>) -> Vec<Change> {
    let mut bytes = 0;
    let fits = |change: &&Change| {
        let fits = bytes < MESSAGE_BYTES;
        bytes += change.len();
        fits
    };
    changes.take_while(fits).cloned().collect()
}
