//! What the application asks of a membership, and what it is told.

use std::future::Future;

use mesh_core::{CallError, Handle, NodeId, from_call_error, reply};

use super::Membership;
use super::member::{Member, Profile, ProfileTooLong};

/// What the application asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MembershipCommand {
    /// Take part, through these nodes and those named before; again where the node had left.
    Join {
        /// Nodes to join through. At most 256 are remembered.
        seeds: Vec<NodeId>,
    },
    /// Ask these nodes, unless they are members, and keep asking for a while where they do not answer. A node that is
    /// leaving, or has left, ignores it.
    Meet {
        /// Nodes that may be members. At most 256 that did not answer are remembered, the latest.
        nodes: Vec<NodeId>,
    },
    /// Say good-bye. Answered when the node need not stay any longer.
    Leave,
    /// Say something else of the node.
    SetProfile(Profile),
    /// Who is there.
    Members,
    /// How things are.
    Status,
}

/// The answer to a [`MembershipCommand`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MembershipReply {
    /// The seeds are being contacted.
    Joining,
    /// To [`MembershipCommand::Meet`].
    Meeting,
    /// To [`MembershipCommand::Leave`].
    Left(Result<(), LeaveError>),
    /// To [`MembershipCommand::SetProfile`].
    ProfileSet(Result<(), SetProfileError>),
    /// To [`MembershipCommand::Members`]: first the node itself.
    Members(Vec<Member>),
    /// To [`MembershipCommand::Status`].
    Status(MembershipStatus),
}

/// Why a node did not leave.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LeaveError {
    /// It has left already, or is about to.
    #[error("the node has left already")]
    NotIn,
    /// It was asked to join again meanwhile.
    #[error("the node was asked to join again")]
    Joined,
    /// The command queue of the node is full. Try again later.
    #[error("the node is busy: its command queue is full")]
    Busy,
    /// The node stopped.
    #[error("the node has stopped")]
    Stopped,
}

/// Why a profile was not set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SetProfileError {
    /// Part of it is too long.
    #[error(transparent)]
    TooLong(#[from] ProfileTooLong),
    /// The command queue of the node is full. Try again later.
    #[error("the node is busy: its command queue is full")]
    Busy,
    /// The node stopped.
    #[error("the node has stopped")]
    Stopped,
}

from_call_error!(LeaveError, SetProfileError);

/// How things are with a membership.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MembershipStatus {
    /// Which node.
    pub node: NodeId,
    /// Its incarnation: how often it had to assert itself.
    pub incarnation: u64,
    /// The digest of all it knows. Nodes that know the same have the same.
    pub digest: u64,
    /// Others that are alive.
    pub alive: usize,
    /// Others that are suspected.
    pub suspected: usize,
    /// Others that are remembered as down or left.
    pub gone: usize,
    /// The local health score: 0 is good, more makes its probes slower.
    pub health: u8,
    /// Members of whom there are news to tell.
    pub news: usize,
    /// Bytes that the table of members takes, beside profiles of more than 14 bytes.
    pub memory: usize,
}

/// What a membership tells unasked.
///
/// Of each member there come, in order: first `Joined`; then, while it is live, `Updated`, and `Suspected`
/// and `Refuted` in turn; then `Down` or `Left`; then `Rejoined`, or `Forgotten` and perhaps `Joined`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MembershipEvent {
    /// A member was heard of for the first time.
    Joined(Member),
    /// A member says something else of itself: it may be reached elsewhere.
    Updated(Member),
    /// A member does not answer somebody. It is still a member.
    Suspected {
        /// Which one.
        node: NodeId,
        /// Its incarnation.
        incarnation: u64,
    },
    /// A suspected member answered.
    Refuted {
        /// Which one.
        node: NodeId,
        /// Its incarnation, which it raised.
        incarnation: u64,
    },
    /// A member did not answer in time.
    Down {
        /// Which one.
        node: NodeId,
        /// Its incarnation.
        incarnation: u64,
    },
    /// A member said good-bye.
    Left {
        /// Which one.
        node: NodeId,
        /// Its incarnation.
        incarnation: u64,
    },
    /// A member that was down or had left is there again.
    Rejoined(Member),
    /// A member that was down or had left for long is not remembered any more, or there was no more room for it; or this
    /// node slept, or had left, for so long that it has to begin anew, and remembers nobody.
    Forgotten {
        /// Which one.
        node: NodeId,
    },
    /// This node had to assert itself: others thought something else of it.
    Asserted {
        /// Its incarnation now.
        incarnation: u64,
    },
}

impl MembershipEvent {
    /// Of which other node it tells, and at which incarnation.
    pub const fn told(&self) -> Option<(NodeId, u64)> {
        match self {
            Self::Joined(member) | Self::Updated(member) | Self::Rejoined(member) => {
                Some((member.node, member.incarnation))
            }
            Self::Suspected { node, incarnation }
            | Self::Refuted { node, incarnation }
            | Self::Down { node, incarnation }
            | Self::Left { node, incarnation } => Some((*node, *incarnation)),
            Self::Forgotten { .. } | Self::Asserted { .. } => None,
        }
    }
}

/// The calls of a membership's [`Handle`].
///
/// ```
/// use mesh_core::{CallError, Handle, NodeId};
/// use mesh_gossip::membership::{Membership, MembershipHandle};
///
/// async fn show(membership: &Handle<Membership>) -> Result<(), CallError> {
///     membership.join([NodeId(1)]).await?;
///     for member in membership.members().await? {
///         println!("{} is {:?}", member.node, member.status);
///     }
///     Ok(())
/// }
/// ```
pub trait MembershipHandle {
    /// Takes part, through `seeds` and those named before; again where the node had left.
    ///
    /// Answered at once: [`MembershipEvent::Joined`] tells of each member that is found.
    fn join(
        &self,
        seeds: impl IntoIterator<Item = NodeId>,
    ) -> impl Future<Output = Result<(), CallError>> + Send + 'static;

    /// Makes the acquaintance of nodes that may be members: of whom a transport or a discovery came across. Each that is no
    /// member is asked six times within about a minute, until it answers, and seldom after that. A node that is leaving, or has
    /// left, ignores it: only [`join`](Self::join) brings it back.
    ///
    /// Answered at once.
    fn meet(
        &self,
        nodes: impl IntoIterator<Item = NodeId>,
    ) -> impl Future<Output = Result<(), CallError>> + Send + 'static;

    /// Says good-bye, and waits until the node need not stay any longer.
    fn leave(&self) -> impl Future<Output = Result<(), LeaveError>> + Send + 'static;

    /// Says something else of the node.
    fn set_profile(&self, profile: Profile) -> impl Future<Output = Result<(), SetProfileError>> + Send + 'static;

    /// Who is there: first the node itself, then all others it knows, those that are down or have left
    /// included.
    fn members(&self) -> impl Future<Output = Result<Vec<Member>, CallError>> + Send + 'static;

    /// How things are.
    fn status(&self) -> impl Future<Output = Result<MembershipStatus, CallError>> + Send + 'static;
}

impl MembershipHandle for Handle<Membership> {
    fn join(
        &self,
        seeds: impl IntoIterator<Item = NodeId>,
    ) -> impl Future<Output = Result<(), CallError>> + Send + 'static {
        let call = self.call(MembershipCommand::Join { seeds: seeds.into_iter().collect() });
        async move { reply!(call, MembershipReply::Joining => Ok(())) }
    }

    fn meet(
        &self,
        nodes: impl IntoIterator<Item = NodeId>,
    ) -> impl Future<Output = Result<(), CallError>> + Send + 'static {
        let call = self.call(MembershipCommand::Meet { nodes: nodes.into_iter().collect() });
        async move { reply!(call, MembershipReply::Meeting => Ok(())) }
    }

    fn leave(&self) -> impl Future<Output = Result<(), LeaveError>> + Send + 'static {
        let call = self.call(MembershipCommand::Leave);
        async move { reply!(call, MembershipReply::Left(result) => result) }
    }

    fn set_profile(&self, profile: Profile) -> impl Future<Output = Result<(), SetProfileError>> + Send + 'static {
        let call = self.call(MembershipCommand::SetProfile(profile));
        async move { reply!(call, MembershipReply::ProfileSet(result) => result) }
    }

    fn members(&self) -> impl Future<Output = Result<Vec<Member>, CallError>> + Send + 'static {
        let call = self.call(MembershipCommand::Members);
        async move { reply!(call, MembershipReply::Members(members) => Ok(members)) }
    }

    fn status(&self) -> impl Future<Output = Result<MembershipStatus, CallError>> + Send + 'static {
        let call = self.call(MembershipCommand::Status);
        async move { reply!(call, MembershipReply::Status(status) => Ok(status)) }
    }
}
