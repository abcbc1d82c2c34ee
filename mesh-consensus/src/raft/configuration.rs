//! Who is in a group, and how that changes.
//!
//! A [`Configuration`] says which servers vote and which only receive the log. It changes by steps
//! that keep the quorums of neighbouring configurations overlapping: a *simple* change adds or
//! removes one voter; any other enters a *joint* configuration, in which the incoming and the
//! outgoing voters decide together, and leaves it again (Raft 6, thesis 4). Voters are named by
//! node *and* by [`ReplicaId`], so a server that lost its disk is not the voter it was.
//!
//! Everything here is a pure function. [`Configuration::step_toward`] is the plan of a whole change.
//!
//! ```
//! use mesh_consensus::raft::{ChangeRefused, Configuration, Heard, Membership, ReplicaId, Step};
//! use mesh_core::NodeId;
//!
//! let nodes = |ids: &[u128]| ids.iter().copied().map(NodeId).collect();
//! let heard = |node: NodeId| Heard { replica: ReplicaId(node.0 as u64 + 100), caught_up: true };
//! let mut configuration = Configuration::new([1, 2, 3].map(NodeId))?.with_replicas(|node| Some(heard(node).replica));
//!
//! // Node 4 replaces node 3: it learns, then the voters of both sets decide together, then the new ones do.
//! let target = Membership { voters: nodes(&[1, 2, 4]), ..Membership::default() };
//! let mut steps = 0;
//! while let Step::Append(next) = configuration.step_toward(&target, heard)? {
//!     configuration = next;
//!     steps += 1;
//! }
//! assert_eq!(steps, 3);
//! assert_eq!(Membership::of(&configuration), target);
//! # Ok::<(), ChangeRefused>(())
//! ```

use std::collections::BTreeSet;
use std::fmt;

use mesh_core::{DecodeError, NodeId, Reader, Wire, wire_struct};

use crate::quorum::{self, VoteResult};

/// The most servers a configuration may name, those of both halves and learners together.
pub const MEMBERS_MAX: usize = 255;

/// Up to this many voters of a half are counted without a heap allocation.
const INLINE_VOTERS: usize = 16;

/// Names the disk of a server: drawn at random when a replica starts with an empty one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ReplicaId(pub u64);

impl ReplicaId {
    /// Not known yet.
    pub const UNKNOWN: Self = Self(0);

    /// Whether this names a disk.
    pub const fn is_known(self) -> bool {
        self.0 != Self::UNKNOWN.0
    }
}

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_known() { write!(f, "{:016x}", self.0) } else { f.write_str("unknown") }
    }
}

impl fmt::Debug for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

wire_struct!(ReplicaId { 0 });

/// A server of a group.
#[derive(Clone, Copy, Debug, PartialEq, Hash, Eq)]
pub struct Member {
    /// The server.
    pub node: NodeId,
    /// Which replica of that server votes. Unknown for a learner, and in a group that has not formed.
    pub replica: ReplicaId,
    /// Whether it votes, or shall vote, without keeping data.
    pub witness: bool,
}

wire_struct!(Member { node, replica, witness });

impl Member {
    /// A server that keeps data, its replica not known yet.
    pub const fn new(node: NodeId) -> Self {
        Self { node, replica: ReplicaId::UNKNOWN, witness: false }
    }

    /// A server that keeps no data, its replica not known yet.
    pub const fn witness(node: NodeId) -> Self {
        Self { witness: true, ..Self::new(node) }
    }

    /// Whether what this replica of the server says counts: it is the one that is named, or none is.
    pub(super) const fn counts(&self, replica: ReplicaId) -> bool {
        !self.replica.is_known() || self.replica.0 == replica.0
    }

    const fn without_replica(self) -> Self {
        Self { replica: ReplicaId::UNKNOWN, ..self }
    }
}

impl From<NodeId> for Member {
    fn from(node: NodeId) -> Self {
        Self::new(node)
    }
}

/// Who votes in a group and who learns.
///
/// The default is empty: that of a node that waits to be added.
#[derive(Clone, Debug, Default, PartialEq, Hash, Eq)]
pub struct Configuration {
    // Each in order of the nodes.
    voters: Vec<Member>,
    outgoing: Vec<Member>,
    learners: Vec<Member>,
    learners_next: Vec<Member>,
    /// What a later version says of the group, encoded: kept, and passed on as it is.
    later: Vec<u8>,
}

impl Configuration {
    /// The configuration of a new group of these voters.
    ///
    /// # Errors
    /// [`ChangeRefused`] when there is no voter with data, a node is named twice, or there are more
    /// than [`MEMBERS_MAX`].
    pub fn new(voters: impl IntoIterator<Item = impl Into<Member>>) -> Result<Self, ChangeRefused> {
        let voters = in_order(voters.into_iter().map(Into::into));
        if let Some(pair) = voters.windows(2).find(|pair| pair[0].node == pair[1].node) {
            return Err(ChangeRefused::TwiceNamed { node: pair[0].node });
        }
        if voters.is_empty() {
            return Err(ChangeRefused::NoVoters);
        }
        Self { voters, ..Self::default() }.checked()
    }

    /// Those whose majority decides; in a joint configuration, the incoming half.
    pub fn voters(&self) -> &[Member] {
        &self.voters
    }

    /// In a joint configuration, those whose majority decides too; else none.
    pub fn outgoing(&self) -> &[Member] {
        &self.outgoing
    }

    /// Those who receive the log and do not vote.
    pub fn learners(&self) -> &[Member] {
        &self.learners
    }

    /// Outgoing voters that become learners when the joint configuration is left.
    pub fn learners_next(&self) -> &[Member] {
        &self.learners_next
    }

    /// Whether nobody is named: the configuration of a node that waits to be added.
    pub const fn is_empty(&self) -> bool {
        self.voters.is_empty()
    }

    /// Whether two majorities decide.
    pub const fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Whether the replica of some voter is not known: the group has not formed yet.
    pub fn is_genesis(&self) -> bool {
        self.voters.iter().chain(&self.outgoing).any(|voter| !voter.replica.is_known())
    }

    /// Whether some voter keeps no data.
    pub fn has_witness(&self) -> bool {
        self.voters.iter().chain(&self.outgoing).any(|voter| voter.witness)
    }

    /// Whether `node` votes, in either half.
    pub fn is_voter(&self, node: NodeId) -> bool {
        find(&self.voters, node).or_else(|| find(&self.outgoing, node)).is_some()
    }

    /// Whether `node` votes or learns.
    pub fn is_member(&self, node: NodeId) -> bool {
        self.member(node).is_some()
    }

    /// How `node` is named here.
    pub fn member(&self, node: NodeId) -> Option<Member> {
        [&self.voters, &self.outgoing, &self.learners].into_iter().find_map(|members| find(members, node))
    }

    /// All who vote or learn: each node once, in order.
    pub fn members(&self) -> impl Iterator<Item = Member> + use<> {
        let mut members = in_order(self.voters.iter().chain(&self.outgoing).chain(&self.learners).copied());
        members.dedup_by_key(|member| member.node);
        members.into_iter()
    }

    /// The highest index that a quorum has reached, given how far each voter has come.
    ///
    /// A voter in both halves is asked about twice. No heap allocation is made up to 16 voters a half.
    pub fn commit_index(&self, mut reached: impl FnMut(&Member) -> u64) -> u64 {
        let mut incoming = Counted::of(self.voters.iter().map(&mut reached));
        if self.outgoing.is_empty() {
            return quorum::commit_index(incoming.as_mut_slice());
        }
        let mut outgoing = Counted::of(self.outgoing.iter().map(&mut reached));
        quorum::joint_commit_index(incoming.as_mut_slice(), outgoing.as_mut_slice())
    }

    /// The highest index that a voter with data has reached, in a joint configuration one of each half.
    ///
    /// Where witnesses are a majority, they must not commit among themselves what nobody would have.
    pub fn data_index(&self, mut reached: impl FnMut(&Member) -> u64) -> u64 {
        let mut best = |half: &[Member]| half.iter().filter(|voter| !voter.witness).map(&mut reached).max();
        let incoming = best(&self.voters).unwrap_or(0);
        best(&self.outgoing).map_or(incoming, |outgoing| incoming.min(outgoing))
    }

    /// How a vote stands: both halves must win it, and it is lost when either half has lost it.
    ///
    /// `None` is a vote not cast yet. A voter in both halves is asked about twice.
    pub fn vote_result(&self, mut vote: impl FnMut(&Member) -> Option<bool>) -> VoteResult {
        let mut incoming = Counted::of(self.voters.iter().map(&mut vote));
        let mut outgoing = Counted::of(self.outgoing.iter().map(&mut vote));
        quorum::joint_vote_result(incoming.as_mut_slice(), outgoing.as_mut_slice())
    }

    /// This configuration with unknown replicas of voters filled in, where `replica` tells them.
    #[must_use]
    pub fn with_replicas(&self, mut replica: impl FnMut(NodeId) -> Option<ReplicaId>) -> Self {
        let mut filled = self.clone();
        for voter in &mut filled.voters {
            if !voter.replica.is_known() {
                voter.replica = replica(voter.node).unwrap_or_default();
            }
        }
        for voter in &mut filled.outgoing {
            if !voter.replica.is_known() {
                voter.replica = match find(&filled.voters, voter.node) {
                    Some(same) => same.replica,
                    None => replica(voter.node).unwrap_or_default(),
                };
            }
        }
        filled
    }

    /// The configuration of `target`, where at most one voter differs and any learners do.
    ///
    /// A majority of either set then overlaps one of the other (thesis 4.1). The replica of a new
    /// voter is unknown: see [`with_replicas`](Self::with_replicas).
    ///
    /// # Errors
    /// [`ChangeRefused`], above all [`TooManyVoters`](ChangeRefused::TooManyVoters) and
    /// [`JointPending`](ChangeRefused::JointPending).
    pub fn simple(&self, target: &Membership) -> Result<Self, ChangeRefused> {
        self.check_change(target)?;
        let changed = self.changed_voters(target);
        if changed > 1 {
            return Err(ChangeRefused::TooManyVoters { changed });
        }
        let learners = target.learners.iter().copied().map(Member::new).collect();
        let (voters, later) = (self.voters_of(target), self.later.clone());
        Self { voters, learners, later, ..Self::default() }.checked()
    }

    /// The joint configuration on the way to `target`: its voters and those of now decide together.
    ///
    /// A voter that becomes a learner does so when the joint configuration is left. The replica of a
    /// new voter is unknown: see [`with_replicas`](Self::with_replicas).
    ///
    /// # Errors
    /// [`ChangeRefused`], above all [`JointPending`](ChangeRefused::JointPending).
    pub fn enter_joint(&self, target: &Membership) -> Result<Self, ChangeRefused> {
        self.check_change(target)?;
        let (learners_next, learners) =
            target.learners.iter().copied().map(Member::new).partition(|learner| self.is_voter(learner.node));
        let (voters, outgoing, later) = (self.voters_of(target), self.voters.clone(), self.later.clone());
        Self { voters, outgoing, learners, learners_next, later }.checked()
    }

    /// The configuration after this joint one: the incoming voters decide alone.
    ///
    /// # Errors
    /// [`ChangeRefused::NotJoint`] when this is none.
    pub fn leave_joint(&self) -> Result<Self, ChangeRefused> {
        self.auto_leave().ok_or(ChangeRefused::NotJoint)
    }

    /// What a leader appends by itself once this configuration is committed: a joint one is left.
    pub fn auto_leave(&self) -> Option<Self> {
        self.is_joint().then(|| Self {
            voters: self.voters.clone(),
            learners: in_order(self.learners.iter().chain(&self.learners_next).copied()),
            later: self.later.clone(),
            ..Self::default()
        })
    }

    /// The next step of a change to `target`, given this committed configuration.
    ///
    /// In this order:
    /// 1. A joint configuration is left.
    /// 2. A voter whose disk was wiped, as its answers tell, becomes a learner until it has caught up:
    ///    one at a time, and only where the target wants its vote.
    /// 3. Servers that are not members yet become learners.
    /// 4. Those of them that shall vote catch up.
    /// 5. The voters change: one by a simple change, more through a joint configuration. New voters
    ///    are named with the replica heard; one whose replica is unknown is never made a voter.
    /// 6. Learners that are left over go.
    ///
    /// Each step is legal on its own, so that a change can be given up or replaced by another at any
    /// time, and a new leader can go on from any of them.
    ///
    /// # Errors
    /// [`ChangeRefused`] when the target cannot be reached from here, or no voter with data would be left
    /// on the way.
    pub fn step_toward(
        &self,
        target: &Membership,
        mut heard: impl FnMut(NodeId) -> Heard,
    ) -> Result<Step, ChangeRefused> {
        target.validate()?;
        if let Some(left) = self.auto_leave() {
            return Ok(Step::Append(left));
        }
        self.check_change(target)?;
        if self.is_genesis() {
            return Err(ChangeRefused::NotFormed);
        }
        let mut is_wiped = |voter: &Member| {
            let answers = heard(voter.node).replica;
            answers.is_known() && answers != voter.replica
        };
        if let Some(wiped) = self.voters.iter().find(|voter| target.is_voter(voter.node) && is_wiped(voter)) {
            return self.demoted(wiped.node).map(Step::Append);
        }
        let new: Vec<_> = target.members().filter(|member| !self.is_member(member.node)).collect();
        if !new.is_empty() {
            return self.with_learners(new).map(Step::Append);
        }
        let mut may_vote = |node| {
            let heard = heard(node);
            heard.caught_up && heard.replica.is_known()
        };
        let new_voters = target.voters().filter(|voter| !self.is_voter(voter.node));
        let behind: Vec<_> = new_voters.map(|voter| voter.node).filter(|node| !may_vote(*node)).collect();
        if !behind.is_empty() {
            return Ok(Step::CatchUp(behind));
        }
        let next = if self.changed_voters(target) <= 1 { self.simple(target)? } else { self.enter_joint(target)? };
        let next = next.with_replicas(|node| Some(heard(node).replica));
        Ok(if next == *self { Step::Done } else { Step::Append(next) })
    }

    /// This configuration with the voter `node` as a learner, its replica forgotten.
    fn demoted(&self, node: NodeId) -> Result<Self, ChangeRefused> {
        let (demoted, voters): (Vec<_>, _) = self.voters.iter().copied().partition(|voter| voter.node == node);
        Self { voters, ..self.clone() }.with_learners(demoted.into_iter().map(Member::without_replica))
    }

    fn with_learners(&self, new: impl IntoIterator<Item = Member>) -> Result<Self, ChangeRefused> {
        let learners = in_order(self.learners.iter().copied().chain(new));
        Self { learners, ..self.clone() }.checked()
    }

    /// The voters of `target`, named as they are here.
    fn voters_of(&self, target: &Membership) -> Vec<Member> {
        in_order(target.voters().map(|voter| find(&self.voters, voter.node).unwrap_or(voter)))
    }

    /// How many servers vote either here or in `target`, but not in both.
    fn changed_voters(&self, target: &Membership) -> usize {
        let removed = self.voters.iter().filter(|voter| !target.is_voter(voter.node)).count();
        let added = target.voters().filter(|voter| find(&self.voters, voter.node).is_none()).count();
        removed + added
    }

    /// Refuses what no change may do, in however many steps.
    fn check_change(&self, target: &Membership) -> Result<(), ChangeRefused> {
        target.validate()?;
        if self.is_empty() {
            return Err(ChangeRefused::NotMember);
        }
        if self.is_joint() {
            return Err(ChangeRefused::JointPending);
        }
        for wanted in target.members() {
            let node = wanted.node;
            match self.member(node) {
                Some(member) if member.witness && !wanted.witness => return Err(ChangeRefused::WitnessToData { node }),
                Some(member) if !member.witness && wanted.witness => return Err(ChangeRefused::DataToWitness { node }),
                _ => {}
            }
        }
        Ok(())
    }

    fn checked(self) -> Result<Self, ChangeRefused> {
        if self.voters.iter().all(|voter| voter.witness) {
            return Err(ChangeRefused::NoDataVoter);
        }
        let count = self.members().count();
        if count > MEMBERS_MAX {
            return Err(ChangeRefused::TooMany { count, limit: MEMBERS_MAX });
        }
        Ok(self)
    }

    /// The rule that this configuration breaks: none, unless it was received.
    fn broken_rule(&self) -> Option<&'static str> {
        let Self { voters, outgoing, learners, learners_next, .. } = self;
        if *self == Self::default() {
            return None;
        }
        let sorted = |members: &Vec<Member>| members.is_sorted_by(|a, b| a.node < b.node);
        let data_voter = |members: &[Member]| members.iter().any(|voter| !voter.witness);
        let rules = [
            (
                "the servers of a configuration are not in order",
                [voters, outgoing, learners, learners_next].into_iter().all(sorted),
            ),
            (
                "a configuration has no voter with data",
                data_voter(voters) && (outgoing.is_empty() || data_voter(outgoing)),
            ),
            (
                "a voter of both halves is named in two ways",
                voters.iter().all(|voter| find(outgoing, voter.node).is_none_or(|same| same == *voter)),
            ),
            ("a server votes and learns", learners.iter().all(|learner| !self.is_voter(learner.node))),
            (
                "a server is to learn that is no outgoing voter with data",
                learners_next.iter().all(|next| {
                    let voted_with_data = find(outgoing, next.node).is_some_and(|voter| !voter.witness);
                    voted_with_data && !next.witness && find(voters, next.node).is_none()
                }),
            ),
            (
                "a learner is named by its replica",
                learners.iter().chain(learners_next).all(|learner| !learner.replica.is_known()),
            ),
            ("a configuration has too many servers", self.members().count() <= MEMBERS_MAX),
        ];
        rules.into_iter().find_map(|(broken, holds)| (!holds).then_some(broken))
    }
}

/// Its fields in a frame of their own, so that a later version can add some.
impl Wire for Configuration {
    fn encode(&self, out: &mut Vec<u8>) {
        let mut fields = Vec::new();
        for members in [&self.voters, &self.outgoing, &self.learners, &self.learners_next] {
            members.encode(&mut fields);
        }
        fields.extend_from_slice(&self.later);
        fields.encode(out);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let len = reader.take_len()?;
        let mut fields = reader.sub(len)?;
        let configuration = Self {
            voters: decode_members(&mut fields)?,
            outgoing: decode_members(&mut fields)?,
            learners: decode_members(&mut fields)?,
            learners_next: decode_members(&mut fields)?,
            later: fields.remaining().to_vec(),
        };
        configuration.broken_rule().map_or(Ok(configuration), |broken| Err(DecodeError::Invalid(broken)))
    }
}

fn decode_members(reader: &mut Reader<'_>) -> Result<Vec<Member>, DecodeError> {
    let len = reader.take_len()?;
    if len > MEMBERS_MAX {
        return Err(DecodeError::Length { claimed: len as u64, limit: MEMBERS_MAX });
    }
    (0..len).map(|_| Member::decode(reader)).collect()
}

fn in_order(members: impl Iterator<Item = Member>) -> Vec<Member> {
    let mut members: Vec<_> = members.collect();
    members.sort_by_key(|member| member.node);
    members
}

fn find(members: &[Member], node: NodeId) -> Option<Member> {
    let at = members.binary_search_by_key(&node, |member| member.node).ok()?;
    members.get(at).copied()
}

/// One value for each voter of a half, on the stack where they are few.
struct Counted<T> {
    few: [T; INLINE_VOTERS],
    many: Vec<T>,
    len: usize,
}

impl<T: Copy + Default> Counted<T> {
    #[inline]
    fn of(values: impl ExactSizeIterator<Item = T>) -> Self {
        let mut counted = Self { few: [T::default(); INLINE_VOTERS], many: Vec::new(), len: values.len() };
        if counted.len > INLINE_VOTERS {
            counted.many = values.collect();
        } else {
            counted.few.iter_mut().zip(values).for_each(|(slot, value)| *slot = value);
        }
        counted
    }

    fn as_mut_slice(&mut self) -> &mut [T] {
        if self.len > INLINE_VOTERS { &mut self.many } else { &mut self.few[..self.len] }
    }
}

/// The servers that a change should end with.
#[derive(Clone, Debug, Default, PartialEq, Hash, Eq)]
pub struct Membership {
    /// Those who vote and keep data. At least one.
    pub voters: BTreeSet<NodeId>,
    /// Those who receive the log and do not vote.
    pub learners: BTreeSet<NodeId>,
    /// Those who vote and keep no data.
    pub witnesses: BTreeSet<NodeId>,
}

impl Membership {
    /// The servers of a configuration; of a joint one, those that are there once it is left.
    ///
    /// A witness that is not made a voter yet counts as a witness.
    pub fn of(configuration: &Configuration) -> Self {
        let Configuration { voters, learners, learners_next, .. } = configuration;
        let nodes = |members: &[Member], witness| -> BTreeSet<_> {
            members.iter().filter(|member| member.witness == witness).map(|member| member.node).collect()
        };
        Self {
            voters: nodes(voters, false),
            learners: &nodes(learners, false) | &nodes(learners_next, false),
            witnesses: &nodes(voters, true) | &nodes(learners, true),
        }
    }

    /// Checks that a group can be of these servers.
    ///
    /// # Errors
    /// [`ChangeRefused`] when there is no voter with data, a node is in two sets, or there are more
    /// than [`MEMBERS_MAX`].
    pub fn validate(&self) -> Result<(), ChangeRefused> {
        let Self { voters, learners, witnesses } = self;
        if voters.is_empty() {
            return Err(if witnesses.is_empty() { ChangeRefused::NoVoters } else { ChangeRefused::NoDataVoter });
        }
        let twice = self
            .members()
            .map(|member| member.node)
            .find(|node| [voters, learners, witnesses].into_iter().filter(|set| set.contains(node)).count() > 1);
        if let Some(node) = twice {
            return Err(ChangeRefused::TwiceNamed { node });
        }
        let count = self.members().count();
        if count > MEMBERS_MAX {
            return Err(ChangeRefused::TooMany { count, limit: MEMBERS_MAX });
        }
        Ok(())
    }

    /// The same servers, but these do not vote: those with data learn, witnesses are left out.
    pub(super) fn without_votes_of(&self, nodes: &[NodeId]) -> Self {
        let mut fewer = self.clone();
        for node in nodes {
            if fewer.voters.remove(node) {
                fewer.learners.insert(*node);
            }
            fewer.witnesses.remove(node);
        }
        fewer
    }

    fn is_voter(&self, node: NodeId) -> bool {
        self.voters.contains(&node) || self.witnesses.contains(&node)
    }

    /// All who vote, with data or without.
    fn voters(&self) -> impl Iterator<Item = Member> {
        let witnesses = self.witnesses.iter().copied().map(Member::witness);
        self.voters.iter().copied().map(Member::new).chain(witnesses)
    }

    fn members(&self) -> impl Iterator<Item = Member> {
        self.voters().chain(self.learners.iter().copied().map(Member::new))
    }
}

/// What a leader knows of a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// The replica that answers under this node id now; unknown where none did.
    pub replica: ReplicaId,
    /// Whether it is so near the end of the log that its vote would not hold the group up.
    pub caught_up: bool,
}

/// What comes next in a change of membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing: the target is reached.
    Done,
    /// Append this configuration, and ask again when it is committed.
    Append(Configuration),
    /// Wait until these servers have caught up.
    CatchUp(Vec<NodeId>),
}

/// Why a change of membership is refused.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeRefused {
    /// This node has no configuration that could change.
    #[error("this node is not in a group yet: ask a member of the group, or wait until this node is added")]
    NotMember,
    /// The first leader of the group has not named the replicas of its voters yet.
    #[error("the group has not formed yet: try again when it has a leader")]
    NotFormed,
    /// Nobody would vote.
    #[error("the group would have no voters: name at least one server that votes")]
    NoVoters,
    /// Only witnesses would vote.
    #[error("no voter would keep data: name at least one voter that is no witness and has not lost its disk")]
    NoDataVoter,
    /// A server is in two sets, or twice in one.
    #[error("{node} is named twice: name it once, as a voter, a learner or a witness")]
    TwiceNamed {
        /// The server.
        node: NodeId,
    },
    /// A joint configuration must be left first.
    #[error("the group is in a joint configuration: leave it first")]
    JointPending,
    /// There is no joint configuration to leave.
    #[error("the configuration is not joint: there is nothing to leave")]
    NotJoint,
    /// More voters differ than a simple change allows.
    #[error("{changed} voters would change, and a simple change is of one: enter a joint configuration instead")]
    TooManyVoters {
        /// How many would be added or removed.
        changed: usize,
    },
    /// A server that shall vote did not catch up.
    #[error("{node} did not catch up with the log: see that it runs and can be reached, then try again")]
    NotCaughtUp {
        /// The server.
        node: NodeId,
    },
    /// A witness has no data to become a voter or learner with.
    #[error("{node} is a witness and keeps no data: remove it in one change, then add it in another")]
    WitnessToData {
        /// The server.
        node: NodeId,
    },
    /// A server that keeps data is not made a witness in place.
    #[error("{node} keeps data and is not made a witness: remove it in one change, then add it in another")]
    DataToWitness {
        /// The server.
        node: NodeId,
    },
    /// The group would be larger than allowed, counting those who leave with the same change.
    #[error("the group would have {count} servers, and {limit} is the most: name fewer, or remove some first")]
    TooMany {
        /// How many there would be.
        count: usize,
        /// [`MEMBERS_MAX`].
        limit: usize,
    },
}

#[cfg(test)]
mod tests;
