//! Membership: configurations in the log, and changing them (thesis chapter 4).
//!
//! A configuration is in force as soon as it is in the log, committed or not. A change to any set of
//! servers is one call; the leader takes the steps that [`Configuration::step_toward`] plans, one
//! configuration entry at a time, each committed before the next: new servers come in as learners,
//! become voters when they have caught up, through a joint configuration where more than one voter
//! differs.

use std::collections::VecDeque;
use std::sync::Arc;

use mesh_core::{Context, Instant, LogIndex, NodeId, RequestId, StateMachine, wire};

use super::command::{CatchingUp, ChangeError, ChangeStatus, Changed, RaftEvent, RaftReply};
use super::configuration::{Configuration, Heard, Member, Membership, ReplicaId, Step};
use super::message::{Intent, Message, NUMBER_MAX, NotMember};
use super::progress::Progress;
use super::{Raft, Role};
use crate::log::{Entries, Entry, EntryKind};

/// The configurations of the log: the one it begins with and those in it.
#[derive(Clone, Debug, Default, Hash)]
pub(super) struct Configurations {
    base: (u64, Arc<Configuration>),
    later: VecDeque<(u64, Arc<Configuration>)>,
}

impl Configurations {
    /// The one in force at `index`, where the log or a snapshot begins.
    pub(super) fn after(index: u64, configuration: Configuration) -> Self {
        Self { base: (index, Arc::new(configuration)), later: VecDeque::new() }
    }

    /// A snapshot with the configuration in force at `index` takes the place of the log up to there;
    /// after it the log goes on to `last`.
    pub(super) fn restart(&mut self, index: u64, configuration: Configuration, last: u64) {
        self.base = (index, Arc::new(configuration));
        self.later.retain(|(at, _)| index < *at && *at <= last);
    }

    /// The last one in the log: the one in force.
    pub(super) fn newest(&self) -> &Arc<Configuration> {
        &self.later.back().unwrap_or(&self.base).1
    }

    /// Where that one stands.
    pub(super) fn newest_index(&self) -> u64 {
        self.later.back().unwrap_or(&self.base).0
    }

    /// The one in force at an index.
    pub(super) fn at(&self, index: u64) -> &Configuration {
        let before = self.later.partition_point(|(at, _)| *at <= index);
        &before.checked_sub(1).and_then(|at| self.later.get(at)).unwrap_or(&self.base).1
    }

    /// Notes a configuration that was added to the log. What a snapshot covers is in its own already.
    pub(super) fn push(&mut self, index: u64, configuration: Configuration) {
        if index > self.base.0 {
            self.later.push_back((index, Arc::new(configuration)));
        }
    }

    /// The entries after `index` are gone; whether a configuration went with them.
    pub(super) fn truncate_after(&mut self, index: u64) -> bool {
        let before = self.later.len();
        self.later.retain(|(at, _)| *at <= index);
        self.later.len() < before
    }

    /// The entries up to `index` are compacted.
    pub(super) fn compact(&mut self, index: u64) {
        while let Some((at, configuration)) = self.later.front().filter(|(at, _)| *at <= index) {
            self.base = (*at, Arc::clone(configuration));
            self.later.pop_front();
        }
    }
}

/// A change of the membership on its way.
#[derive(Clone, Debug, Hash)]
pub(super) struct Change {
    request: RequestId,
    target: Membership,
    /// What to return to when it is given up.
    before: Membership,
    /// When it began to wait for servers to catch up, and for whom.
    waiting: Option<(Instant, Vec<NodeId>)>,
    /// Why it is given up.
    given_up: Option<ChangeError>,
}

impl<S: StateMachine> Raft<S> {
    /// The configuration in force: the last one in the log.
    pub fn configuration(&self) -> &Configuration {
        self.configurations.newest()
    }

    /// Whether the configuration in force is committed.
    pub(super) fn configuration_is_committed(&self) -> bool {
        self.configurations.newest_index() <= self.commit_index
    }

    /// Whether the configuration in force is committed, not joint, counts this node as a voter, and nobody
    /// is still to be told that it left: there is nothing to do about it, which is so nearly always.
    ///
    /// What is committed stays, so its place says which configuration it was.
    pub(super) fn is_settled(&self) -> bool {
        self.settled == Some(self.configurations.newest_index())
    }

    /// Looks whether the configuration in force [is settled](Self::is_settled).
    pub(super) fn settle(&mut self) {
        let configuration = self.configuration();
        let stays = !configuration.is_joint() && configuration.is_voter(self.me);
        let settled = stays
            && self.configuration_is_committed()
            && self.removed_at.is_none()
            && self.peers.iter().all(|peer| peer.leaving.is_none());
        self.settled = settled.then(|| self.configurations.newest_index());
    }

    /// This node as the configuration in force has it.
    pub(super) fn own_member(&self) -> Option<Member> {
        self.configuration().member(self.me)
    }

    /// Whether this node could lead: a voter with data, on the disk that the configuration names, and there
    /// is a term after this one.
    ///
    /// As long as it is not known to be committed that this node votes no more, it may be the only one
    /// that can get it committed: then its voting in the configuration before is enough (thesis 4.2.2).
    pub(super) fn can_lead(&self) -> bool {
        let vote = |configuration: &Configuration| {
            let data = |member: &Member| !member.witness || planted!(self, WitnessCampaigns);
            configuration.member(self.me).filter(|member| configuration.is_voter(self.me) && data(member))
        };
        let before = || vote(self.configurations.at(self.configurations.newest_index().saturating_sub(1)));
        let may = vote(self.configuration()).is_some_and(|_| !self.is_replaced())
            || !self.configuration_is_committed() && before().is_some_and(|me| me.replica == self.hard.replica);
        let later_term = self.hard.term + 1 < NUMBER_MAX;
        may && later_term
            && self.removed_at.is_none()
            && !self.halted
            && (!self.hard.witness || planted!(self, WitnessCampaigns))
    }

    /// Whether the disk of this node is another than the one that the configuration counts on.
    pub(super) fn is_replaced(&self) -> bool {
        self.own_member().is_some_and(|member| !member.counts(self.hard.replica))
    }

    /// Whether this node was a member of its group and is none any more, as far as it knows.
    pub(super) fn is_removed(&self) -> bool {
        let configuration = self.configuration();
        let left = self.configuration_is_committed() && !configuration.is_empty() && !configuration.is_member(self.me);
        (left || self.removed_at.is_some()) && self.hard.replica.is_known()
    }

    /// Answers a server that asks for a vote and is no member, as far as is committed here. It was away when
    /// it was removed, and the leader does not send it anything any more.
    pub(super) fn tell_if_not_member(&self, cx: &mut Context<'_, Self>, candidate: NodeId) {
        let configuration = self.configurations.at(self.commit_index);
        if let Some(committed) = self.log.position(self.commit_index)
            && self.commit_index > 0
            && !configuration.is_empty()
            && !configuration.is_member(candidate)
        {
            cx.send_volatile(candidate, Message::NotMember(NotMember { term: self.hard.term, committed }));
        }
    }

    /// Where this log ends before what is committed, this node cannot be elected, be it a member again by
    /// now: to be silent holds up nobody. Where the log has it, the configuration there is in it, too.
    pub(super) fn on_not_member(&mut self, cx: &mut Context<'_, Self>, from: NodeId, told: &NotMember) {
        let NotMember { committed, .. } = *told;
        // Only voters are asked, so only they have an answer.
        if self.role == Role::Leader || !self.configuration().is_voter(from) {
            return;
        }
        if self.log.term_at(committed.index) == Some(committed.term) {
            self.commit_index = self.commit_index.max(committed.index);
        } else if self.log.last() < committed {
            self.removed_at = self.removed_at.max(Some(committed));
            self.settled = None;
        }
        if !self.can_lead() {
            self.become_follower(cx, self.hard.term, self.leader);
        }
    }

    /// Adds entries to the log, in memory now and on disk soon.
    pub(super) fn append(&mut self, cx: &mut Context<'_, Self>, entries: Entries) {
        let first = self.log.last().index + 1;
        let mut changed = false;
        for (entry, index) in entries.iter().zip(first..) {
            match entry.kind {
                EntryKind::Configuration => {
                    if let Ok(configuration) = wire::from_bytes::<Configuration>(&entry.payload) {
                        self.configurations.push(index, configuration);
                        changed = true;
                    }
                }
                EntryKind::Omitted => self.become_witness(cx),
                _ => {}
            }
        }
        self.persist_entries(cx, entries);
        if changed {
            self.on_configuration(cx);
        }
    }

    /// Drops the entries after `index`, and the configurations among them.
    pub(super) fn truncate_after(&mut self, cx: &mut Context<'_, Self>, index: u64) {
        self.log.truncate_after(index);
        if self.configurations.truncate_after(index) {
            self.on_configuration(cx);
        }
    }

    /// Another configuration is in force.
    pub(super) fn on_configuration(&mut self, cx: &mut Context<'_, Self>) {
        self.sync_peers(cx.now());
        if self.is_replaced() {
            cx.emit(RaftEvent::ReplicaReplaced { node: self.me });
        }
        self.check_disk(cx);
        cx.emit(RaftEvent::ConfigurationChanged {
            index: LogIndex(self.configurations.newest_index()),
            configuration: Arc::clone(self.configurations.newest()),
        });
    }

    /// Has a progress for each member but this node. A leader keeps those that leave for a while, so
    /// that they hear of it.
    pub(super) fn sync_peers(&mut self, now: Instant) {
        let configuration = Arc::clone(self.configurations.newest());
        let (leads, until) = (self.role == Role::Leader, now + 2 * self.config.election_timeout);
        self.peers.retain_mut(|peer| {
            match configuration.is_member(peer.id) {
                true if peer.leaving.is_some() => return false,
                true => peer.leaving = None,
                false => peer.leaving = peer.leaving.or(Some(until)),
            }
            leads || peer.leaving.is_none()
        });
        let others = || configuration.members().filter(|member| member.node != self.me);
        self.peers.reserve_exact(others().count().saturating_sub(self.peers.len()));
        for member in others() {
            if let Some(peer) = self.peers.iter_mut().find(|peer| peer.id == member.node) {
                peer.witness = member.witness;
            } else {
                let mut peer = Progress::new(member.node);
                peer.witness = member.witness;
                self.sessions_begun += 1;
                peer.reset(self.sessions_begun, now, self.log.last().index);
                self.peers.push(peer);
            }
        }
        self.peers.sort_unstable_by_key(|peer| peer.id);
    }

    /// Leaves those alone that have heard that they are no members any more, or had time to.
    fn forget_leavers(&mut self, now: Instant) {
        let (index, commit) = (self.configurations.newest_index(), self.commit_index);
        let gone = |peer: &Progress| peer.match_index >= index && peer.commit_told >= index;
        self.peers.retain(|peer| peer.leaving.is_none_or(|until| now < until && !(commit >= index && gone(peer))));
    }

    /// How far a member's log is on its disk, as far as that counts.
    ///
    /// It counts only where the replica that answers is the one that the configuration names: one that
    /// lost its disk may have forgotten votes and entries that others rely on.
    pub(super) fn reached(&self, member: &Member, of: impl Fn(&Progress) -> u64, mine: u64) -> u64 {
        if member.node == self.me {
            return if member.counts(self.hard.replica) { mine } else { 0 };
        }
        let counts = |peer: &&Progress| peer.id == member.node && member.counts(peer.replica);
        self.peers.iter().find(counts).map_or(0, of)
    }

    pub(super) fn on_change_membership(&mut self, cx: &mut Context<'_, Self>, request: RequestId, target: Membership) {
        let error = if self.role != Role::Leader {
            Some(ChangeError::NotLeader { leader: self.leader })
        } else if self.change.is_some() {
            Some(ChangeError::InProgress)
        } else if let Some(transfer) = &self.transfer {
            Some(ChangeError::Transferring { to: transfer.to() })
        } else {
            // Refused at once where it could never be done.
            let plan = self.configuration().step_toward(&target, |_| Heard::default());
            plan.err().map(ChangeError::Refused)
        };
        if let Some(error) = error {
            return cx.reply_volatile(request, RaftReply::MembershipChanged(Err(error)));
        }
        let before = Membership::of(self.configuration());
        self.peers.iter_mut().for_each(Progress::forget_catch_up);
        self.change = Some(Change { request, target, before, waiting: None, given_up: None });
    }

    /// Takes the next step of a change, once the one before is committed.
    pub(super) fn drive_change(&mut self, cx: &mut Context<'_, Self>) {
        if self.change.is_none() && self.is_settled() {
            return;
        }
        self.forget_leavers(cx.now());
        // Not before an entry of this term is committed either, or two leaders could change the
        // configuration in two directions (the single-server bug).
        let ready = self.configuration_is_committed() && self.commit_index >= self.term_start
            || planted!(self, ChangeBeforeTermStart);
        if !ready {
            return;
        }
        if self.change.is_none() {
            match self.configuration().auto_leave() {
                Some(next) => self.append_configuration(cx, &next),
                None if !self.configuration().is_voter(self.me) => self.hand_over_and_step_down(cx),
                None => {}
            }
            return;
        }
        self.take_step(cx);
    }

    fn take_step(&mut self, cx: &mut Context<'_, Self>) {
        let Some(mut change) = self.change.take() else { return };
        let (now, last, within) = (cx.now(), self.log.last().index, self.config.election_timeout);
        let configuration = Arc::clone(self.configurations.newest());
        let (me, newest) = ((self.me, self.hard.replica), self.rounds.newest());
        let peers = &mut self.peers;
        let step = configuration.step_toward(&change.target, |node| {
            if node == me.0 {
                return Heard { replica: me.1, caught_up: true };
            }
            let peer = peers.iter_mut().find(|peer| peer.id == node && peer.leaving.is_none());
            let Some(peer) = peer else { return Heard::default() };
            let caught_up = peer.catch_up(now, last, newest, within) || planted!(self, PromoteBeforeCaughtUp);
            Heard { replica: peer.replica, caught_up }
        });
        match step {
            Ok(Step::Done) => {
                let index = LogIndex(self.configurations.newest_index());
                let result = match change.given_up {
                    Some(error) => Err(error),
                    None => Ok(Changed { index, configuration: (*configuration).clone() }),
                };
                cx.reply_volatile(change.request, RaftReply::MembershipChanged(result));
                return;
            }
            Ok(Step::Append(next)) => {
                change.waiting = None;
                self.append_configuration(cx, &next);
            }
            Ok(Step::CatchUp(nodes)) => {
                if change.waiting.is_none() {
                    // They need not wait for the next heartbeat to show that they are there.
                    self.begin_round(cx, Intent::Heartbeat);
                }
                let (since, waiting) = change.waiting.get_or_insert((now, Vec::new()));
                let late = now.since(*since) >= self.config.catch_up_timeout;
                *waiting = nodes;
                if late {
                    let nodes = std::mem::take(waiting);
                    // What voted before and is late itself, on a new disk, is not waited for again.
                    change.target = change.before.without_votes_of(&nodes);
                    change.before = change.target.clone();
                    change.given_up.get_or_insert(ChangeError::CatchUpTimedOut { nodes });
                }
            }
            Err(refused) => {
                let error = change.given_up.unwrap_or(ChangeError::Refused(refused));
                return cx.reply_volatile(change.request, RaftReply::MembershipChanged(Err(error)));
            }
        }
        self.change = Some(change);
    }

    /// Puts a configuration into the log of this leader; it is in force from now on.
    pub(super) fn append_configuration(&mut self, cx: &mut Context<'_, Self>, configuration: &Configuration) {
        // Proposals taken before it stand before it.
        self.append_batch(cx);
        let payload = wire::to_bytes(configuration);
        let entry = Entry { term: self.hard.term, kind: EntryKind::Configuration, payload };
        self.append(cx, std::iter::once(entry).collect());
    }

    /// Tells whoever asked for a change that this node does not lead any more.
    pub(super) fn give_up_change(&mut self, cx: &mut Context<'_, Self>) {
        if let Some(change) = self.change.take() {
            cx.reply_volatile(change.request, RaftReply::MembershipChanged(Err(ChangeError::Unknown)));
        }
    }

    /// How a change stands, for the status.
    pub(super) fn change_status(&self) -> Option<ChangeStatus> {
        let change = self.change.as_ref()?;
        let waiting = change.waiting.iter().flat_map(|(_, nodes)| nodes);
        let catching_up = waiting.filter_map(|node| {
            let (match_index, goal) = self.peers.iter().find(|peer| peer.id == *node)?.catching_up();
            Some(CatchingUp { node: *node, match_index: LogIndex(match_index), goal: LogIndex(goal) })
        });
        Some(ChangeStatus { target: change.target.clone(), catching_up: catching_up.collect() })
    }

    /// The replica that answers for a peer; whether its answer is of use.
    ///
    /// One that answers as another replica than before has lost its disk: nothing that the other one
    /// acknowledged is known of it.
    pub(super) fn note_replica(
        &mut self,
        cx: &mut Context<'_, Self>,
        from: NodeId,
        session: u64,
        replica: ReplicaId,
    ) -> bool {
        let Some(peer) = self.peers.iter_mut().find(|peer| peer.id == from) else { return false };
        if peer.session != session && !planted!(self, AnyReplicationSession) {
            return false;
        }
        peer.heard = cx.now();
        if peer.replica != replica {
            let before = std::mem::replace(&mut peer.replica, replica);
            let named = self.configurations.newest().member(from).map_or(ReplicaId::UNKNOWN, |member| member.replica);
            if named.is_known() && named != replica {
                cx.emit(RaftEvent::ReplicaReplaced { node: from });
            }
            if before.is_known() {
                self.sessions_begun += 1;
                peer.reset(self.sessions_begun, cx.now(), self.log.last().index);
                peer.replica = replica;
                return false;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(voters: &[u128]) -> Configuration {
        Configuration::new(voters.iter().map(|node| NodeId(*node))).unwrap()
    }

    #[test]
    fn the_last_configuration_in_the_log_is_in_force_and_truncation_restores_the_one_before() {
        let mut configurations = Configurations::after(4, of(&[1]));
        configurations.push(3, of(&[9]));
        assert_eq!(**configurations.newest(), of(&[1]), "a snapshot covers it");
        configurations.push(6, of(&[1, 2]));
        configurations.push(9, of(&[1, 2, 3]));
        assert_eq!(configurations.newest_index(), 9);
        assert_eq!(*configurations.at(8), of(&[1, 2]));
        assert_eq!(*configurations.at(5), of(&[1]));
        assert!(!configurations.truncate_after(9));
        assert!(configurations.truncate_after(8));
        assert_eq!(**configurations.newest(), of(&[1, 2]));
        configurations.compact(7);
        assert_eq!(**configurations.newest(), of(&[1, 2]));
        assert_eq!(configurations.newest_index(), 6);
    }
}
