//! Submissions that come more than once, and what is answered.

use super::others::{
    C, LIFE, claims, creation, first_epoch, hello, keep, key_of_a, one_of_three, own_again, owned, say,
};
use super::*;
use crate::pool::message::Claim;
use crate::task::{Epoch, Policy};

/// Two tasks that the ring has this node own.
fn ours(pool: &Harness<TaskPool>) -> [TaskId; 2] {
    let names = (1..).map(|at: u128| TaskId(at << 64 | 7));
    let mut ours = names.filter(|task| pool.protocol.ring.owner(task.0) == Some(A));
    [(); 2].map(|()| ours.next().expect("there are more"))
}

fn spec() -> Arc<TaskSpec> {
    Arc::new(TaskSpec::new("x").by(Policy::Dht))
}

/// Another node submits a task, and the others keep all that they are told; what it hears.
fn answers(pool: &mut Harness<TaskPool>, task: TaskId) -> Vec<Option<Refusal>> {
    say(pool, B, Message::Submit(task, B, 0, spec()));
    let mut answers = Vec::new();
    loop {
        let sent = pool.sent();
        if sent.is_empty() {
            return answers;
        }
        for (node, envelope) in sent {
            match envelope.message {
                Message::Replicate(number, ..) => {
                    say(pool, node, Message::Replicated(number, vec![], vec![], vec![]));
                }
                Message::Submitted(of, answer) if of == task => answers.push(answer),
                _ => {}
            }
        }
    }
}

/// A task that another node owns, and this one keeps.
fn kept(pool: &mut Harness<TaskPool>, task: TaskId) -> Entry {
    let epoch = first_epoch(B);
    let entry = Entry::new(spec(), pool.protocol.group_of(task, A), epoch, Instant::ZERO);
    say(pool, B, Message::Replicate(1, vec![entry.change(task, true, Instant::ZERO)], vec![]));
    entry
}

/// Ends a task that is owned here, and one more, so that it is forgotten.
fn end(pool: &mut Harness<TaskPool>, task: TaskId) {
    pool.command(PoolCommand::Cancel(task));
    keep(pool);
    let more = owned(pool, TaskSpec::new("more"));
    pool.command(PoolCommand::Cancel(more));
    keep(pool);
    assert!(!pool.protocol.tasks.contains_key(&task));
}

#[test]
fn a_submission_without_a_key_that_comes_twice_is_answered_in_the_same_way_and_creates_nothing() {
    let config = PoolConfig { queue_max: 1, retain_max: 1, ..PoolConfig::default() };
    let mut pool = one_of_three(config);
    let [refused, done] = ours(&pool);
    // One that is refused, though there is room later.
    let other = owned(&mut pool, TaskSpec::new("fills it"));
    let full = Some(Refusal::Full { node: A });
    assert_eq!(answers(&mut pool, refused), [full]);
    pool.command(PoolCommand::Cancel(other));
    keep(&mut pool);
    assert_eq!(answers(&mut pool, refused), [full]);
    assert_eq!(pool.protocol.status().owned, 0);
    // But where it is kept by now, that counts.
    kept(&mut pool, refused);
    own_again(&mut pool, refused);
    assert_eq!(answers(&mut pool, refused), [None]);
    pool.command(PoolCommand::Cancel(refused));
    keep(&mut pool);
    // One that is over and forgotten, however long after it was submitted.
    for waits in [Duration::ZERO, Duration::from_secs(15)] {
        assert_eq!(answers(&mut pool, done), [None]);
        pool.pass(waits);
        keep(&mut pool);
        end(&mut pool, done);
        assert_eq!(answers(&mut pool, done), [None]);
        assert!(!pool.protocol.tasks.contains_key(&done));
        // Not for ever.
        pool.pass(Duration::from_secs(60));
        assert_eq!(pool.protocol.answers.len(), 0);
    }
}

#[test]
fn a_submission_that_comes_again_is_answered_by_whoever_owned_its_task_last_or_kept_it() {
    for is_owned in [true, false] {
        let mut pool = one_of_three(PoolConfig { retain_max: 1, ..PoolConfig::default() });
        let [task, _] = ours(&pool);
        let mut entry = kept(&mut pool, task);
        if is_owned {
            own_again(&mut pool, task);
            end(&mut pool, task);
        } else {
            entry.state = State::Settled(Outcome::Cancelled);
            entry.version.number += 1;
            say(&mut pool, B, Message::Replicate(2, vec![entry.change(task, false, Instant::ZERO)], vec![]));
            say(&mut pool, B, Message::Replicate(3, vec![], vec![(task, entry.version)]));
        }
        assert!(!pool.protocol.tasks.contains_key(&task));
        assert_eq!(answers(&mut pool, task), [None]);
        assert!(!pool.protocol.tasks.contains_key(&task), "{is_owned}");
    }
}

#[test]
fn who_gave_up_a_task_that_is_not_over_has_no_answer_to_its_submission() {
    let mut pool = one_of_three(PoolConfig::default());
    let [task, _] = ours(&pool);
    let entry = kept(&mut pool, task);
    say(&mut pool, B, Message::Replicate(2, vec![], vec![(task, entry.version)]));
    assert!(!pool.protocol.tasks.contains_key(&task), "its owner gave it up");
    pool.sent();
    say(&mut pool, B, Message::Submit(task, B, 0, spec()));
    let is_told = |(_, envelope): &(NodeId, Envelope)| envelope.message == Message::Submitted(task, None);
    assert!(!pool.sent().iter().any(is_told), "nobody else has it yet");
}

#[test]
fn who_submits_a_task_and_keeps_it_knows_that_it_is_over_though_its_owner_is_gone() {
    let mut pool = one_of_three(PoolConfig { retain_max: 1, ..PoolConfig::default() });
    // One that the ring has another node own.
    let (task, request) = loop {
        let request = submit(&mut pool, TaskSpec::new("x").by(Policy::Dht));
        let of = |(to, envelope): (NodeId, Envelope)| match envelope.message {
            Message::Submit(task, ..) if to == B => Some(task),
            _ => None,
        };
        if let Some(task) = pool.sent().into_iter().find_map(of) {
            break (task, request);
        }
        keep(&mut pool);
    };
    let mut entry = kept(&mut pool, task);
    entry.state = State::Settled(Outcome::Cancelled);
    entry.version.number += 1;
    say(&mut pool, B, Message::Replicate(2, vec![entry.change(task, false, Instant::ZERO)], vec![]));
    say(&mut pool, B, Message::Replicate(3, vec![], vec![(task, entry.version)]));
    for node in [B, C] {
        pool.command(PoolCommand::RemovePeer(node));
    }
    pool.pass(Duration::from_secs(1));
    assert!(matches!(reply(&mut pool, request), PoolReply::Submitted(Ok(of)) if of == task));
    assert!(!pool.protocol.tasks.contains_key(&task), "it is not executed once more");
}

#[test]
fn who_waits_for_its_answer_hears_it_though_its_task_has_no_place_and_is_over() {
    let mut pool = one_of_three(PoolConfig { retain_max: 1, ..PoolConfig::default() });
    let task = TaskId(7);
    let submit = Message::Submit(task, B, 8, Arc::new(TaskSpec::new("x")));
    // A node that drains has others own what is submitted there, by any policy.
    say(&mut pool, B, submit.clone());
    keep(&mut pool);
    end(&mut pool, task);
    say(&mut pool, B, submit);
    assert!(pool.sent().iter().any(|(_, envelope)| envelope.message == Message::Submitted(task, None)));
    assert!(!pool.protocol.tasks.contains_key(&task));
}

#[test]
fn a_submission_is_not_answered_before_a_majority_has_its_task_though_it_came_before() {
    let mut pool = one_of_three(PoolConfig::default());
    let [task, _] = ours(&pool);
    say(&mut pool, B, Message::Submit(task, B, 0, spec()));
    // The others keep another creation of it, which this one gives way to.
    let other = first_epoch(NodeId(0));
    for (node, envelope) in pool.sent() {
        if let Message::Replicate(number, ..) = envelope.message {
            say(&mut pool, node, Message::Replicated(number, vec![(task, other)], vec![], vec![]));
        }
    }
    assert!(!pool.protocol.tasks.contains_key(&task));
    pool.sent();
    say(&mut pool, B, Message::Submit(task, B, 0, spec()));
    let is_told = |(_, envelope): &(NodeId, Envelope)| envelope.message == Message::Submitted(task, None);
    let sent = pool.sent();
    assert!(!sent.iter().any(is_told), "nobody else has it: {sent:?}");
    let number = sent.into_iter().find_map(|(to, envelope)| match envelope.message {
        Message::Replicate(number, ..) if to == C => Some(number),
        _ => None,
    });
    say(&mut pool, C, Message::Replicated(number.expect("it is to be kept"), vec![], vec![], vec![]));
    assert!(pool.sent().iter().any(is_told));
}

/// The next claim of this node.
fn next_claim(pool: &mut Harness<TaskPool>) -> Epoch {
    let claimed = (0..100).find_map(|_| {
        pool.pass(Duration::from_millis(100));
        claims(pool).last().map(|(_, claim)| claim.epoch)
    });
    claimed.expect("nobody else owns it")
}

/// This node keeps what `creator` created, it or C, and B a creation of `rival`; C knows nothing. Who keeps what this node
/// owns once both have answered its first claim, C before B, and its second.
fn claims_against(creator: NodeId, rival: NodeId, keepers: &[NodeId]) -> [Option<Vec<NodeId>>; 2] {
    let mut pool = one_of_three(PoolConfig::default());
    pool.command(PoolCommand::AddPeer { node: NodeId(4), zone: 0 });
    let [task, _] = ours(&pool);
    let theirs = creation(&pool, rival, task, spec(), keepers.iter().copied());
    if creator == A {
        say(&mut pool, B, Message::Submit(task, B, 0, spec()));
    } else {
        let change = creation(&pool, creator, task, spec(), [creator, A, B]);
        say(&mut pool, creator, Message::Replicate(1, vec![change], vec![]));
    }
    let epoch = Epoch { number: 2, node: B, life: LIFE };
    say(&mut pool, B, Message::Claim(vec![Claim { task, epoch, has: theirs.version }]));
    assert!(!pool.protocol.owns(task));
    pool.sent();
    let mut claimed = Epoch::default();
    [(); 2].map(|()| {
        // It asks again before it makes another claim.
        while !pool.protocol.owns(task) && next_claim(&mut pool) == claimed {}
        claimed = pool.protocol.tasks.get(&task).expect("it is kept").promised;
        say(&mut pool, C, Message::Promise(vec![Promise::Unknown(task, claimed)]));
        say(&mut pool, B, Message::Promise(vec![Promise::Given(task, claimed, Some(Box::new(theirs.clone())))]));
        let entry = pool.protocol.tasks.get(&task).filter(|entry| entry.owned.is_some());
        entry.map(|entry| entry.group.members.iter().map(|replica| replica.node).collect())
    })
}

#[test]
fn of_two_creations_that_a_third_node_does_not_know_that_is_gone_on_with_which_may_count() {
    let both = |keepers: &[NodeId]| [Some(keepers.to_vec()), Some(keepers.to_vec())];
    // C may have kept that of B after it said that it does not know it, and before B promised. Its own this node knows not
    // to count.
    assert_eq!(claims_against(A, B, &[B, C, A]), both(&[B, C, A]));
    let other = NodeId(4);
    assert_eq!(claims_against(A, other, &[other, A, B, C]), both(&[other, A, B, C]));
    // Either may have counted, before B promised: of the second claim C knows that B's does not.
    assert_eq!(claims_against(C, B, &[B, A, C]), [None, Some(vec![C, A, B])]);
}

#[test]
fn who_just_started_asks_those_who_were_there_before_others_that_just_started() {
    let mut pool = pool(PoolConfig::default());
    let [old, new] = [2..6, 6..40].map(|ids| ids.map(NodeId).collect::<Vec<_>>());
    for (nodes, runs_for) in [(&old, Duration::from_secs(3600)), (&new, Duration::from_secs(3))] {
        for node in nodes {
            pool.command(PoolCommand::AddPeer { node: *node, zone: 0 });
            say(&mut pool, *node, Message::Hello(Hello { runs_for, ..hello() }));
        }
    }
    let now = pool.now();
    for task in (1..100_u128).map(|at| TaskId(at << 64 | 7)) {
        let keepers = pool.protocol.keepers(task, now);
        assert!(old.iter().all(|node| keepers.contains(node)), "{keepers:?}");
    }
    // What they kept has moved by then.
    pool.pass(Duration::from_secs(61));
    let now = pool.now();
    assert!(
        (1..100_u128).any(|at| pool.protocol.keepers(TaskId(at << 64 | 7), now).iter().all(|node| new.contains(node)))
    );
}

#[test]
fn who_drains_and_comes_back_is_asked_again_for_a_key() {
    let mut pool = one_of_three(PoolConfig::default());
    let drains = Load { draining: true, ..Load::default() };
    say(&mut pool, B, Message::Status(drains, Resources::new()));
    let key = key_of_a(&pool);
    let task = TaskId::of_key(&key);
    submit(&mut pool, TaskSpec::new("x").keyed(key));
    pool.command(PoolCommand::RemovePeer(B));
    pool.pass(Duration::from_millis(100));
    pool.command(PoolCommand::AddPeer { node: B, zone: 0 });
    say(&mut pool, B, Message::Hello(Hello { load: drains, ..hello() }));
    pool.sent();
    say(&mut pool, C, Message::Told(vec![(task, Known::Unknown)]));
    let asks = |(to, envelope): &(NodeId, Envelope)| *to == B && envelope.message == Message::Ask(vec![task]);
    assert!(pool.sent().iter().any(asks));
    assert!(!pool.protocol.tasks.contains_key(&task));
}

#[test]
fn who_looks_for_a_key_and_is_given_it_by_another_says_that_it_is_kept() {
    let mut pool = one_of_three(PoolConfig::default());
    let (task, spec) = (TaskId::of_key(b"key"), TaskSpec::new("x").keyed("key"));
    let request = submit(&mut pool, spec.clone());
    let change = creation(&pool, B, task, Arc::new(spec), [B, C, A]);
    say(&mut pool, B, Message::Replicate(1, vec![change], vec![]));
    own_again(&mut pool, task);
    pool.pass(Duration::from_millis(500));
    keep(&mut pool);
    assert!(matches!(reply(&mut pool, request), PoolReply::Submitted(Ok(of)) if of == task));
}
