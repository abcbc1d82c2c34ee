//! Others that are played by hand: what they say of themselves, keep, and take over.

use super::*;
use crate::group::{Group, Replica};
use crate::pool::message::Claim;
use crate::task::Epoch;

pub(super) const C: NodeId = NodeId(3);
pub(super) const LIFE: u32 = 5;
const INCARNATION: u64 = 7;

/// A pool that knows two others.
pub(super) fn one_of_three(config: PoolConfig) -> Harness<TaskPool> {
    let mut pool = pool(PoolConfig { policy: Policy::Steal, successors: 2, ..config });
    for node in [B, C] {
        meet(&mut pool, node);
    }
    pool.sent();
    pool
}

/// What a node says of itself.
pub(super) fn hello() -> Hello {
    Hello { incarnation: INCARNATION, ..Hello::default() }
}

/// Another node is there.
pub(super) fn meet(pool: &mut Harness<TaskPool>, node: NodeId) {
    pool.command(PoolCommand::AddPeer { node, zone: 0 });
    say(pool, node, Message::Hello(hello()));
}

pub(super) fn say(pool: &mut Harness<TaskPool>, from: NodeId, message: Message) {
    let to = pool.protocol.boot;
    pool.receive(from, Envelope { from: LIFE, to, message });
}

/// Some nodes, as those who keep a task.
pub(super) fn group(pool: &Harness<TaskPool>, nodes: impl IntoIterator<Item = NodeId>) -> Arc<Group> {
    let me = pool.protocol.replica();
    let replica = |node| if node == A { me } else { Replica { node, incarnation: INCARNATION } };
    Arc::new(Group { members: nodes.into_iter().map(replica).collect(), ..Group::default() })
}

/// A task as who created it has it kept by some nodes.
pub(super) fn creation(
    pool: &Harness<TaskPool>,
    by: NodeId,
    task: TaskId,
    spec: Arc<TaskSpec>,
    kept_by: impl IntoIterator<Item = NodeId>,
) -> Change {
    Entry::new(spec, group(pool, kept_by), first_epoch(by), Instant::ZERO).change(task, true, Instant::ZERO)
}

/// The epoch in which a node created a task.
pub(super) const fn first_epoch(node: NodeId) -> Epoch {
    Epoch { number: 1, node, life: LIFE }
}

/// The others keep all that they are told.
pub(super) fn keep(pool: &mut Harness<TaskPool>) {
    loop {
        let sent = pool.sent();
        if sent.is_empty() {
            return;
        }
        for (node, envelope) in sent {
            if let Message::Replicate(number, ..) = envelope.message {
                say(pool, node, Message::Replicated(number, vec![], vec![], vec![]));
            }
        }
    }
}

/// A task that is owned here, and kept by all.
pub(super) fn owned(pool: &mut Harness<TaskPool>, spec: TaskSpec) -> TaskId {
    let request = submit(pool, spec);
    keep(pool);
    match reply(pool, request) {
        PoolReply::Submitted(Ok(task)) => task,
        other => panic!("{other:?}"),
    }
}

/// What another node says of a task once it has taken that over.
pub(super) fn taken_over(pool: &Harness<TaskPool>, task: TaskId) -> Change {
    let entry = pool.protocol.tasks.get(&task).expect("it is kept");
    let epoch = Epoch { number: entry.version.epoch.number + 1, node: B, life: LIFE };
    Change { version: Version { epoch, number: 1 }, ..entry.change(task, true, Instant::ZERO) }
}

pub(super) fn own_again(pool: &mut Harness<TaskPool>, task: TaskId) {
    say(pool, B, Message::TakeOver(vec![task]));
    let claimed = pool.protocol.tasks.get(&task).expect("it is kept").promised;
    say(pool, B, Message::Promise(vec![Promise::Given(task, claimed, None)]));
    assert!(pool.protocol.owns(task));
    keep(pool);
}

/// A key that the ring gives to this node.
pub(super) fn key_of_a(pool: &Harness<TaskPool>) -> Bytes {
    let key = (0..64_u8).find(|key| pool.protocol.ring.owner(TaskId::of_key(&[*key]).0) == Some(A));
    Bytes::copy_from_slice(&[key.expect("one is of this node")])
}

/// The claims among what was sent since this was asked last: of which tasks, in which epochs, and to whom.
pub(super) fn claims(pool: &mut Harness<TaskPool>) -> Vec<(NodeId, Claim)> {
    let claims = pool.sent().into_iter().filter_map(|(to, envelope)| match envelope.message {
        Message::Claim(claims) => Some(claims.into_iter().map(move |claim| (to, claim))),
        _ => None,
    });
    claims.flatten().collect()
}
