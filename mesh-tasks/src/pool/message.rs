//! What nodes say to each other, and its wire form.
//!
//! What is sent is an [`Envelope`]: from one [life](crate::life) of a node to one life of another. Times are relative, as the clocks of two nodes have
//! nothing to do with each other. A message is a version, a kind and fields. Of a newer version, fields after those
//! known here are skipped, and unknown kinds do not decode: the host drops and counts them.

use std::sync::Arc;
use std::time::Duration;

use mesh_core::{Bytes, NodeId, wire_enum, wire_message, wire_struct};

use super::circle::Reach;
use super::entry::{Met, Version};
use crate::auction::{AuctionId, SealedBid};
use crate::capability::{Capabilities, Requirements, Resources};
use crate::group::Group;
use crate::life;
use crate::task::{Epoch, Failure, State, TaskId, TaskSpec, Token};
use crate::work_stealing::Hint;

/// The version of the message format.
const VERSION: u8 = 2;

/// The most names of tasks in a message.
pub(super) const NAMES_MAX: usize = 1024;

/// About how many bytes of tasks are put into a message, but for a single task.
pub(super) const MESSAGE_BYTES: usize = 256 << 10;

/// A message between two lives.
pub type Envelope = life::Envelope<Message>;

/// What a node has to do, and can.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// How many tasks it executes.
    pub running: u32,
    /// How many it can execute at a time.
    pub slots: u32,
    /// How many wait at it to be executed.
    pub waiting: u32,
    /// It takes no more tasks.
    pub draining: bool,
}

wire_struct!(Load { running, slots, waiting, draining });

/// Who a node is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    /// Drawn when it started with an empty log: whoever lost what it kept is another replica.
    pub incarnation: u64,
    /// For how long it has been running.
    pub runs_for: Duration,
    /// What it can do and has.
    pub capabilities: Arc<Capabilities>,
    /// How busy it is.
    pub load: Load,
    /// Whether it knows that the receiver drains.
    pub heeds_drain: bool,
    /// Whether it wants to know the same of the receiver.
    pub asks: bool,
}

wire_struct!(Hello { incarnation, runs_for, capabilities, load, heeds_drain, asks });

/// A task as its owner wants it kept, or as a replica has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which task.
    pub task: TaskId,
    /// Of all changes of the task, the one with the highest version counts.
    pub version: Version,
    /// Who keeps it.
    pub group: Arc<Group>,
    /// How many leases of it were granted.
    pub attempts: u32,
    /// In which epoch the last one was granted.
    pub granted: Epoch,
    /// How many of its attempts failed.
    pub failures: u32,
    /// Where it is in its life.
    pub state: State,
    /// What it need not wait for any more.
    pub met: Met,
    /// When it may be executed.
    pub ready_in: Duration,
    /// When it is too late.
    pub expires_in: Option<Duration>,
    /// What is to be done, unless the receiver knows.
    pub spec: Option<Arc<TaskSpec>>,
}

wire_struct!(Change { task, version, group, attempts, granted, failures, state, met, ready_in, expires_in, spec });

impl Change {
    /// What it takes in a message, roughly.
    pub(super) fn len(&self) -> usize {
        let Group { members, former, learners } = &*self.group;
        let replicas = 24 * (members.len() + former.len() + learners.len());
        160 + replicas + self.met.len() + self.state.size() + self.spec.as_ref().map_or(0, |spec| spec.size())
    }
}

/// A lease on its way to the node that executes the task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// What its holder shows when it says something of the task.
    pub token: Token,
    /// The owner of the task.
    pub owner: NodeId,
    /// When it is too late.
    pub expires_in: Option<Duration>,
    /// What is to be done.
    pub spec: Arc<TaskSpec>,
}

wire_struct!(Lease { token, owner, expires_in, spec });

/// A task for which bids are asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announced {
    /// Which auction of it.
    pub auction: AuctionId,
    /// What it needs.
    pub requirements: Requirements,
}

wire_struct!(Announced { auction, requirements });

/// A claim of the ownership of a task, as of a ballot (Lamport 1998): a majority of those who keep it must promise to
/// obey no lower epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Which task.
    pub task: TaskId,
    /// The epoch that is claimed.
    pub epoch: Epoch,
    /// What the claimant has.
    pub has: Version,
}

wire_struct!(Claim { task, epoch, has });

/// The answer to a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Promise {
    /// It obeys no lower epoch, and this is what it has where that is newer.
    Given(TaskId, Epoch, Option<Box<Change>>),
    /// It has promised this epoch, which is no lower.
    Refused(TaskId, Epoch),
    /// It does not keep the task.
    Unknown(TaskId, Epoch),
}

wire_enum!(Promise { 0 => Given(task, epoch, newer), 1 => Refused(task, epoch), 2 => Unknown(task, epoch) });

/// What a holder says of its lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Its token.
    pub token: Token,
    /// What came of it.
    pub result: Reported,
}

wire_struct!(Report { token, result });

impl Report {
    /// What it takes in a message, roughly.
    pub(super) fn len(&self) -> usize {
        let said = match &self.result {
            Reported::Completed(result) => result.len(),
            Reported::Failed(failure) => failure.size(),
            Reported::GivenBack => 0,
        };
        64 + said
    }
}

/// See [`Report`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reported {
    /// It was executed.
    Completed(Bytes),
    /// The attempt failed.
    Failed(Failure),
    /// It was not begun, and somebody else may do it.
    GivenBack,
}

wire_enum!(Reported { 0 => Completed(result), 1 => Failed(failure), 2 => GivenBack });

/// What is known of a task where it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// The answer of its owner.
    Here(Box<TaskStatus>),
    /// This is its owner.
    At(NodeId),
    /// Nothing.
    Unknown,
}

wire_enum!(Known { 0 => Here(status), 1 => At(owner), 2 => Unknown });

/// How a task is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TaskStatus {
    /// Its owner.
    pub owner: NodeId,
    /// Where it is in its life.
    pub state: State,
    /// How many leases of it were granted.
    pub attempts: u32,
    /// How many attempts failed.
    pub failures: u32,
    /// What its executor said last of how far it is.
    pub progress: Bytes,
    /// How far it waits, where its owner tells another owner.
    pub(super) reach: Option<Reach>,
}

wire_struct!(TaskStatus { owner, state, attempts, failures, progress, reach });

impl Known {
    /// What it takes in a message, roughly.
    pub(super) fn len(&self) -> usize {
        64 + if let Self::Here(status) = self { status.state.size() + status.progress.len() } else { 0 }
    }
}

/// Why a task was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// As many tasks wait as may. Try later.
    #[error("the queue of {node} is full: try later")]
    Full {
        /// Whose queue.
        node: NodeId,
    },
    /// Its node is cut off from most others, or was told to take no tasks.
    #[error("{node} takes no tasks: it is cut off from the others, or leaves")]
    ReadOnly {
        /// Which node.
        node: NodeId,
    },
    /// It breaks a limit of that node.
    #[error("{node} refuses it: a limit is lower there")]
    Limit {
        /// Which node.
        node: NodeId,
    },
    /// So much waits that tasks of this priority are refused, to have room for those of higher ones. Try later.
    #[error("{node} has so much to do that it takes no tasks of priority {priority}: try later")]
    Shed {
        /// Which node.
        node: NodeId,
        /// The priority of the task.
        priority: u8,
    },
}

wire_enum!(Refusal { 0 => Full { node }, 1 => ReadOnly { node }, 2 => Limit { node }, 3 => Shed { node, priority } });

/// What a node says to another.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// Who it is.
    Hello(Hello),
    /// How busy it is, and what of its resources is free.
    Status(Load, Resources),
    /// Own this task of that node. It was passed on so often.
    Submit(TaskId, NodeId, u8, Arc<TaskSpec>),
    /// The task is kept safely now, or refused.
    Submitted(TaskId, Option<Refusal>),
    /// Keep these tasks, and forget those that are not newer. Numbered by receiver.
    Replicate(u64, Vec<Change>, Vec<(TaskId, Version)>),
    /// Done up to that number; but these obey a higher epoch, of these it does not know what is to be done, and for these
    /// it has no room.
    Replicated(u64, Vec<(TaskId, Epoch)>, Vec<TaskId>, Vec<TaskId>),
    /// Obey me.
    Claim(Vec<Claim>),
    /// The answers.
    Promise(Vec<Promise>),
    /// Own these: they are yours by the ring.
    TakeOver(Vec<TaskId>),
    /// Give me work: so many tasks come first here that could begin; whether it was a guess, and the next one is asked of
    /// somebody else; and so much of the resources is free.
    Steal(u32, bool, Resources),
    /// There is none, but there may be some there. The asker's name is kept.
    NoWork(Option<Hint>),
    /// No need to keep my name.
    FoundWork,
    /// Execute these. Numbered by receiver, one at a time. There is more there.
    Offer(u64, Vec<Lease>, Option<Hint>),
    /// They arrived, and all but these are taken.
    Taken(u64, Vec<Token>),
    /// What came of these.
    Report(Vec<Report>),
    /// These reports count; these leases are lost; and these tasks are owned by others.
    Answers(Vec<Token>, Vec<Token>, Vec<(Token, NodeId)>),
    /// These are still worked on.
    Renew(Vec<Token>),
    /// They are renewed. Not told with the reports that count: a report may be on its way meanwhile.
    Renewed(Vec<Token>),
    /// These tasks are mine now: report to me.
    Owned(Vec<Token>),
    /// How far it is.
    Progress(Token, Bytes),
    /// How are these?
    Ask(Vec<TaskId>),
    /// So. It will be told again when they are settled.
    Told(Vec<(TaskId, Known)>),
    /// Cancel it.
    Cancel(TaskId),
    /// How busy are you?
    AskLoad,
    /// Who bids for these? Those others are decided.
    Announce(Vec<Announced>, Vec<AuctionId>),
    /// Bids, for the receiver alone. The sender has room for so many of these tasks.
    Bids(Vec<SealedBid>, u32),
}

wire_message!(Message: version VERSION {
    0 => Hello(hello),
    1 => Status(load, free),
    2 => Submit(task, origin, hops, spec),
    3 => Submitted(task, refusal),
    4 => Replicate(number, changes, forget),
    5 => Replicated(number, stale, lacking, refused),
    6 => Claim(claims),
    7 => Promise(promises),
    8 => TakeOver(tasks),
    9 => Steal(ahead, guessed, free),
    10 => NoWork(hint),
    11 => FoundWork,
    12 => Offer(number, leases, more),
    13 => Taken(number, declined),
    14 => Report(reports),
    15 => Answers(counted, lost, elsewhere),
    16 => Renew(tokens),
    17 => Owned(tokens),
    18 => Progress(token, note),
    19 => Ask(tasks),
    20 => Told(known),
    21 => Cancel(task),
    22 => Renewed(tokens),
    23 => AskLoad,
    24 => Announce(auctions, decided),
    25 => Bids(bids, room),
});

#[cfg(test)]
mod tests {
    use mesh_core::wire;

    use super::*;
    use crate::group::Replica;
    use crate::task::Outcome;

    fn all() -> Vec<Message> {
        let (task, node) = (TaskId(7), NodeId(3));
        let epoch = Epoch { number: 2, node, life: 9 };
        let token = Token { task, epoch, attempt: 1 };
        let spec = Arc::new(TaskSpec::new("work").keyed("key").after([TaskId(1)]));
        let members = vec![Replica { node, incarnation: 5 }];
        let change = Change {
            task,
            version: Version { epoch, number: 4 },
            group: Arc::new(Group { members: members.clone(), former: members.clone(), learners: members }),
            attempts: 1,
            granted: epoch,
            failures: 1,
            state: State::Settled(Outcome::Dead(Failure::Error("no".to_owned()))),
            met: Met::default(),
            ready_in: Duration::from_secs(1),
            expires_in: Some(Duration::from_secs(2)),
            spec: Some(spec.clone()),
        };
        let lease = Lease { token, owner: node, expires_in: None, spec: spec.clone() };
        let status = TaskStatus {
            owner: node,
            state: State::Leased { holder: node },
            attempts: 1,
            failures: 0,
            progress: Bytes::from_static(b"half"),
            reach: Some(Reach { task, far: 3 }),
        };
        let hello = Hello { incarnation: 5, asks: true, ..Hello::default() };
        vec![
            Message::Hello(hello),
            Message::Status(Load { running: 1, slots: 2, waiting: 3, draining: true }, Resources::new().with("gpu", 2)),
            Message::Submit(task, node, 1, spec),
            Message::Submitted(task, Some(Refusal::Full { node })),
            Message::Replicate(1, vec![change.clone()], vec![(task, change.version)]),
            Message::Replicated(1, vec![(task, epoch)], vec![task], vec![task]),
            Message::Claim(vec![Claim { task, epoch, has: change.version }]),
            Message::Promise(vec![Promise::Given(task, epoch, Some(Box::new(change))), Promise::Unknown(task, epoch)]),
            Message::TakeOver(vec![task]),
            Message::Steal(4, true, Resources::new().with("gpu", 1)),
            Message::NoWork(Some(Hint { node, waiting: 1 })),
            Message::FoundWork,
            Message::Offer(1, vec![lease], None),
            Message::Taken(1, vec![token]),
            Message::Report(vec![Report { token, result: Reported::Completed(Bytes::from_static(b"done")) }]),
            Message::Answers(vec![token], vec![token], vec![(token, node)]),
            Message::Renew(vec![token]),
            Message::Renewed(vec![token]),
            Message::Owned(vec![token]),
            Message::Progress(token, Bytes::from_static(b"half")),
            Message::Ask(vec![task]),
            Message::Told(vec![(task, Known::Here(Box::new(status))), (task, Known::At(node)), (task, Known::Unknown)]),
            Message::Cancel(task),
            Message::AskLoad,
            Message::Announce(
                vec![Announced { auction: AuctionId::first(7), requirements: Requirements::new().requires("gpu", 2) }],
                vec![AuctionId::first(8)],
            ),
            Message::Bids(vec![SealedBid { auction: AuctionId::first(7), incarnation: 4, bid: None }], 3),
        ]
    }

    #[test]
    fn nothing_takes_more_than_is_reckoned_with() {
        for message in all() {
            match &message {
                Message::Replicate(_, changes, _) => {
                    changes.iter().for_each(|change| assert!(wire::to_bytes(change).len() <= change.len()));
                }
                Message::Report(reports) => {
                    reports.iter().for_each(|report| assert!(wire::to_bytes(report).len() <= report.len()));
                }
                Message::Told(answers) => {
                    answers.iter().for_each(|(_, known)| assert!(wire::to_bytes(known).len() <= known.len()));
                }
                _ => {}
            }
        }
    }

    #[test]
    fn messages_come_back_as_they_were_and_cut_ones_do_not() {
        for message in all() {
            let envelope = Envelope { from: 1, to: 2, message };
            let bytes = wire::to_bytes(&envelope);
            assert_eq!(wire::from_bytes::<Envelope>(&bytes), Ok(envelope.clone()));
            for len in 0..bytes.len() {
                assert!(wire::from_bytes::<Envelope>(&bytes.slice(..len)).is_err(), "{envelope:?} cut to {len}");
            }
        }
    }
}
