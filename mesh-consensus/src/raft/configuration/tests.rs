use mesh_core::wire::{from_slice, to_bytes};
use proptest::prelude::*;

use super::*;

fn nodes(ids: &[u128]) -> BTreeSet<NodeId> {
    ids.iter().copied().map(NodeId).collect()
}

fn membership(voters: &[u128], learners: &[u128], witnesses: &[u128]) -> Membership {
    Membership { voters: nodes(voters), learners: nodes(learners), witnesses: nodes(witnesses) }
}

/// The replica with which a node was set up.
fn first_replica(node: NodeId) -> ReplicaId {
    ReplicaId(node.0 as u64 + 100)
}

fn in_service(node: NodeId) -> Heard {
    Heard { replica: first_replica(node), caught_up: true }
}

fn voter(id: u128) -> Member {
    Member { replica: first_replica(NodeId(id)), ..Member::new(NodeId(id)) }
}

fn witness(id: u128) -> Member {
    Member { witness: true, ..voter(id) }
}

fn learner(id: u128) -> Member {
    Member::new(NodeId(id))
}

/// A formed group that is not joint.
fn group(voters: &[u128], learners: &[u128], witnesses: &[u128]) -> Configuration {
    let members = voters.iter().map(|id| voter(*id)).chain(witnesses.iter().map(|id| witness(*id)));
    let learners = learners.iter().map(|id| learner(*id)).collect();
    Configuration { learners, ..Configuration::new(members).unwrap() }
}

fn joint(incoming: &[u128], outgoing: &[u128]) -> Configuration {
    group(outgoing, &[], &[])
        .enter_joint(&membership(incoming, &[], &[]))
        .unwrap()
        .with_replicas(|node| Some(first_replica(node)))
}

// What is asked.

#[test]
fn a_configuration_tells_who_is_in_it() {
    let configuration = group(&[1, 2, 3], &[4], &[5]).enter_joint(&membership(&[2, 4], &[1], &[5])).unwrap();
    assert_eq!(configuration.voters(), [voter(2), learner(4), witness(5)]);
    assert_eq!(configuration.outgoing(), [voter(1), voter(2), voter(3), witness(5)]);
    assert_eq!(configuration.learners(), []);
    assert_eq!(configuration.learners_next(), [learner(1)]);
    let all: Vec<_> = configuration.members().map(|member| member.node.0).collect();
    assert_eq!(all, [1, 2, 3, 4, 5]);
    assert!(configuration.is_joint() && configuration.is_genesis() && !configuration.is_empty());
    assert!([1, 2, 3, 4, 5].into_iter().all(|id| configuration.is_voter(NodeId(id))));
    assert_eq!(configuration.member(NodeId(3)), Some(voter(3)));
    assert!(!configuration.is_member(NodeId(6)));
    let learns = group(&[1], &[2], &[]);
    assert!(learns.is_member(NodeId(2)) && !learns.is_voter(NodeId(2)));
}

#[test]
fn the_empty_configuration_decides_nothing() {
    let empty = Configuration::default();
    assert!(empty.is_empty() && !empty.is_joint() && !empty.is_genesis());
    assert_eq!(empty.commit_index(|_| 9), 0);
    assert_eq!(empty.vote_result(|_| Some(true)), VoteResult::Lost);
}

#[test]
fn few_voters_are_counted_without_the_heap() {
    let heap = |voters| Counted::of(vec![1u64; voters].into_iter()).many.capacity();
    assert_eq!([0, 1, 16].map(heap), [0; 3]);
    assert!(heap(17) > 0);
}

#[test]
fn replicas_are_filled_in_where_unknown_and_never_changed() {
    let genesis = Configuration::new([1, 2].map(NodeId)).unwrap();
    assert!(genesis.is_genesis());
    let half = genesis.with_replicas(|node| (node == NodeId(1)).then_some(ReplicaId(7)));
    assert!(half.is_genesis());
    let formed = half.with_replicas(|_| Some(ReplicaId(8)));
    assert!(!formed.is_genesis());
    assert_eq!(formed.voters().iter().map(|voter| voter.replica.0).collect::<Vec<_>>(), [7, 8]);
    assert_eq!(group(&[1], &[2], &[]).with_replicas(|_| Some(ReplicaId(8))), group(&[1], &[2], &[]));
}

#[test]
fn a_replica_that_votes_in_both_halves_has_one_name() {
    let genesis = Configuration::new([1, 2].map(NodeId)).unwrap();
    let joint = genesis.enter_joint(&membership(&[2, 3], &[], &[])).unwrap();
    let mut drawn = 0;
    let filled = joint.with_replicas(|_| {
        drawn += 1;
        Some(ReplicaId(drawn))
    });
    assert!(!filled.is_genesis());
    assert_eq!(filled.broken_rule(), None);
}

#[test]
fn replica_ids_print_as_digits_of_one_length() {
    assert_eq!(ReplicaId(0xabc).to_string(), "0000000000000abc");
    assert_eq!(ReplicaId::UNKNOWN.to_string(), "unknown");
}

// What is refused, and with which words.

#[test]
fn what_witnesses_have_reached_is_in_no_copy_of_the_data() {
    let reached = |member: &Member| member.node.0 as u64 * 10;
    let single = group(&[1, 2], &[], &[3, 4, 5]);
    assert!(single.has_witness() && !group(&[1, 2], &[3], &[]).has_witness());
    assert_eq!((single.commit_index(reached), single.data_index(reached)), (30, 20));
    // Each half of a joint configuration needs a copy of its own.
    let joint = group(&[4], &[], &[5, 6]).enter_joint(&membership(&[1, 2], &[], &[5, 6])).unwrap();
    assert_eq!(joint.data_index(reached), 20);
    let joint = group(&[1], &[], &[5, 6]).enter_joint(&membership(&[3, 4], &[], &[5, 6])).unwrap();
    assert_eq!(joint.data_index(reached), 10);
}

#[test]
fn a_group_of_nobody_of_witnesses_or_of_twins_is_refused() {
    let new = |members: &[Member]| Configuration::new(members.iter().copied()).map(|_| ());
    assert_eq!(new(&[]), Err(ChangeRefused::NoVoters));
    assert_eq!(new(&[witness(1), witness(2)]), Err(ChangeRefused::NoDataVoter));
    assert_eq!(new(&[voter(1), witness(2), witness(3)]), Ok(()));
    assert_eq!(new(&[voter(1), voter(2), witness(1)]), Err(ChangeRefused::TwiceNamed { node: NodeId(1) }));
    let many: Vec<_> = (0..=MEMBERS_MAX as u128).map(voter).collect();
    assert_eq!(new(&many[1..]), Ok(()));
    assert_eq!(new(&many), Err(ChangeRefused::TooMany { count: MEMBERS_MAX + 1, limit: MEMBERS_MAX }));
}

#[test]
fn every_way_of_changing_refuses_a_target_that_cannot_be() {
    let configuration = group(&[1, 2, 3], &[4], &[5]);
    let many: Vec<_> = (0..=MEMBERS_MAX as u128).collect();
    let node = |id| NodeId(id);
    for (target, refused) in [
        (membership(&[], &[], &[]), ChangeRefused::NoVoters),
        (membership(&[], &[1], &[]), ChangeRefused::NoVoters),
        (membership(&[], &[], &[5]), ChangeRefused::NoDataVoter),
        (membership(&[1, 2], &[2], &[]), ChangeRefused::TwiceNamed { node: node(2) }),
        (membership(&[1, 2], &[], &[2]), ChangeRefused::TwiceNamed { node: node(2) }),
        (membership(&[1], &[5], &[5]), ChangeRefused::TwiceNamed { node: node(5) }),
        (membership(&[1, 2, 3, 5], &[], &[]), ChangeRefused::WitnessToData { node: node(5) }),
        (membership(&[1, 2, 3], &[5], &[]), ChangeRefused::WitnessToData { node: node(5) }),
        (membership(&[1, 2], &[], &[3, 5]), ChangeRefused::DataToWitness { node: node(3) }),
        (membership(&[1, 2, 3], &[], &[4, 5]), ChangeRefused::DataToWitness { node: node(4) }),
        (membership(&many, &[], &[]), ChangeRefused::TooMany { count: MEMBERS_MAX + 1, limit: MEMBERS_MAX }),
    ] {
        assert_eq!(configuration.simple(&target), Err(refused.clone()), "{target:?}");
        assert_eq!(configuration.enter_joint(&target), Err(refused.clone()), "{target:?}");
        assert_eq!(configuration.step_toward(&target, in_service), Err(refused), "{target:?}");
    }
}

#[test]
fn a_configuration_that_is_not_ready_refuses_changes() {
    let target = membership(&[1, 2], &[], &[]);
    let joint = joint(&[1, 2], &[1, 3]);
    assert_eq!(joint.simple(&target), Err(ChangeRefused::JointPending));
    assert_eq!(joint.enter_joint(&target), Err(ChangeRefused::JointPending));
    assert_eq!(group(&[1], &[], &[]).leave_joint(), Err(ChangeRefused::NotJoint));
    assert_eq!(group(&[1], &[], &[]).auto_leave(), None);
    let empty = Configuration::default();
    assert_eq!(empty.simple(&target), Err(ChangeRefused::NotMember));
    assert_eq!(empty.enter_joint(&target), Err(ChangeRefused::NotMember));
    assert_eq!(empty.step_toward(&target, in_service), Err(ChangeRefused::NotMember));
    let genesis = Configuration::new([1, 2].map(NodeId)).unwrap();
    assert_eq!(genesis.step_toward(&target, in_service), Err(ChangeRefused::NotFormed));
}

#[test]
fn a_simple_change_is_of_one_voter() {
    let configuration = group(&[1, 2, 3], &[4], &[5]);
    for (target, changed) in [
        (membership(&[1, 2, 3], &[], &[5]), 0),
        (membership(&[1, 2, 3, 4], &[], &[5]), 1),
        (membership(&[1, 2], &[3, 4, 6, 7], &[5]), 1),
        (membership(&[1, 2, 3], &[4], &[]), 1),
        (membership(&[1, 2, 4], &[], &[5]), 2),
        (membership(&[1, 2, 3, 4, 6], &[], &[5]), 2),
        (membership(&[1], &[], &[5]), 2),
        (membership(&[1, 2, 3], &[], &[6]), 2),
    ] {
        let refused = configuration.simple(&target).err();
        assert_eq!(refused, (changed > 1).then_some(ChangeRefused::TooManyVoters { changed }), "{target:?}");
    }
}

#[test]
fn a_change_counts_those_who_leave_with_it() {
    let ids = |range: std::ops::Range<u128>| range.collect::<Vec<_>>();
    let configuration = group(&ids(0..200), &[], &[]);
    let refused = Err(ChangeRefused::TooMany { count: 300, limit: MEMBERS_MAX });
    let target = membership(&ids(100..300), &[], &[]);
    assert_eq!(configuration.enter_joint(&target), refused);
    assert_eq!(configuration.step_toward(&target, in_service).map(|_| ()), refused.map(|_: Configuration| ()));
}

#[test]
fn refusals_say_what_to_do() {
    let node = NodeId(4);
    for (refused, says) in [
        (ChangeRefused::NotCaughtUp { node }, "n4 did not catch up"),
        (ChangeRefused::WitnessToData { node }, "remove it in one change, then add it in another"),
        (ChangeRefused::TooManyVoters { changed: 2 }, "enter a joint configuration"),
        (ChangeRefused::TooMany { count: 256, limit: 255 }, "256 servers, and 255 is the most"),
    ] {
        assert!(refused.to_string().contains(says), "{refused}");
    }
}

// The steps.

#[test]
fn joint_configurations_keep_replicas_and_hold_demoted_voters_back() {
    let configuration = group(&[1, 2, 3], &[4, 6], &[]);
    let joint = configuration.enter_joint(&membership(&[1, 4], &[3, 5], &[])).unwrap();
    assert_eq!(joint.voters(), [voter(1), learner(4)]);
    assert_eq!(joint.outgoing(), [voter(1), voter(2), voter(3)]);
    assert_eq!((joint.learners(), joint.learners_next()), (&[learner(5)][..], &[learner(3)][..]));
    let left = joint.leave_joint().unwrap();
    assert_eq!((left.voters(), left.outgoing()), (joint.voters(), &[][..]));
    assert_eq!((left.learners(), left.learners_next()), (&[learner(3), learner(5)][..], &[][..]));
    assert_eq!(joint.auto_leave(), Some(left.clone()));
    assert_eq!(Membership::of(&joint), Membership::of(&left));
}

#[test]
fn a_simple_change_demotes_at_once() {
    let demoted = group(&[1, 2, 3], &[4], &[]).simple(&membership(&[1, 2], &[3], &[])).unwrap();
    assert_eq!(demoted, group(&[1, 2], &[3], &[]));
}

#[test]
fn each_step_is_the_first_that_is_due() {
    let append = |configuration: &Configuration| Step::Append(configuration.clone());
    let wiped = |ids: &'static [u128]| {
        move |node: NodeId| match ids.contains(&node.0) {
            true => Heard { replica: ReplicaId(node.0 as u64 + 200), caught_up: false },
            false => in_service(node),
        }
    };
    let three = group(&[1, 2, 3], &[], &[]);

    // 1. Joint is left, whatever else there is to do.
    let joint = joint(&[1, 2, 3], &[1, 2, 4]);
    assert_eq!(joint.step_toward(&membership(&[1, 2, 5], &[], &[]), wiped(&[3])), Ok(append(&three)));

    // 2. Wiped voters, one at a time, if their votes are wanted, before any other change.
    let target = membership(&[1, 2, 3, 4], &[], &[]);
    assert_eq!(three.step_toward(&target, wiped(&[2, 3])), Ok(append(&group(&[1, 3], &[2], &[]))));
    assert_eq!(group(&[1, 3], &[2], &[]).step_toward(&target, wiped(&[2, 3])), Ok(append(&group(&[1], &[2, 3], &[]))));
    assert_eq!(
        three.step_toward(&membership(&[1, 2], &[], &[]), wiped(&[3])),
        Ok(append(&group(&[1, 2], &[], &[]))),
        "a wiped voter that goes anyway is not kept",
    );
    let mut with_witness = group(&[1], &[], &[2, 3]);
    let restored = with_witness.step_toward(&membership(&[1], &[], &[2, 3]), wiped(&[3]));
    with_witness.voters.pop();
    with_witness.learners.push(Member::witness(NodeId(3)));
    assert_eq!(restored, Ok(append(&with_witness)), "a wiped witness is still a witness");
    assert_eq!(
        group(&[1], &[], &[2, 3]).step_toward(&membership(&[1, 4], &[], &[2, 3]), wiped(&[1])),
        Err(ChangeRefused::NoDataVoter)
    );
    assert_eq!(
        group(&[1], &[], &[]).step_toward(&membership(&[1], &[], &[]), wiped(&[1])),
        Err(ChangeRefused::NoDataVoter)
    );

    // 3. All new servers learn first.
    let target = membership(&[1, 2, 4], &[5], &[6]);
    let mut learning = group(&[1, 2, 3], &[4, 5], &[]);
    learning.learners.push(Member::witness(NodeId(6)));
    assert_eq!(three.step_toward(&target, in_service), Ok(append(&learning)));

    // 4. Those who shall vote catch up, and must be known.
    let behind = |node: NodeId| Heard { caught_up: false, ..in_service(node) };
    let silent = |node: NodeId| Heard { replica: ReplicaId::UNKNOWN, ..in_service(node) };
    let awaited = Ok(Step::CatchUp(vec![NodeId(4), NodeId(6)]));
    assert_eq!(learning.step_toward(&target, behind), awaited);
    assert_eq!(learning.step_toward(&target, silent), awaited);

    // 5. Voters change, named as they answer.
    let Ok(Step::Append(both)) = learning.step_toward(&target, in_service) else { panic!("a joint configuration") };
    assert_eq!(both.voters(), [voter(1), voter(2), voter(4), witness(6)]);
    assert_eq!(both.outgoing(), three.voters());
    assert_eq!(both.learners(), [learner(5)]);
    let one_more = membership(&[1, 2, 3, 4], &[], &[]);
    let added = group(&[1, 2, 3, 4], &[], &[]);
    assert_eq!(group(&[1, 2, 3], &[4], &[]).step_toward(&one_more, in_service), Ok(append(&added)));

    // 6. and 7. Learners, and then nothing.
    assert_eq!(learning.step_toward(&Membership::of(&three), in_service), Ok(append(&three)));
    assert_eq!(three.step_toward(&Membership::of(&three), silent), Ok(Step::Done));
}

// The wire.

#[test]
fn bytes_that_break_a_rule_do_not_decode() {
    let raw = |voters: &[Member], outgoing: &[Member], learners: &[Member], learners_next: &[Member]| {
        let configuration = Configuration {
            voters: voters.to_vec(),
            outgoing: outgoing.to_vec(),
            learners: learners.to_vec(),
            learners_next: learners_next.to_vec(),
            later: Vec::new(),
        };
        from_slice::<Configuration>(&to_bytes(&configuration))
    };
    let (a, b, c, w) = (voter(1), voter(2), voter(3), witness(4));
    let wiped = Member { replica: ReplicaId(9), ..a };
    assert!(raw(&[], &[], &[], &[]).is_ok());
    assert!(raw(&[a, b, w], &[a, c], &[learner(5)], &[learner(3)]).is_ok());
    for (bytes, rule) in [
        (raw(&[b, a], &[], &[], &[]), "not in order"),
        (raw(&[a, a], &[], &[], &[]), "not in order"),
        (raw(&[a], &[c, b], &[], &[]), "not in order"),
        (raw(&[a], &[], &[learner(3), learner(2)], &[]), "not in order"),
        (raw(&[a], &[b, c], &[], &[learner(3), learner(2)]), "not in order"),
        (raw(&[], &[a], &[], &[]), "no voter with data"),
        (raw(&[], &[], &[learner(1)], &[]), "no voter with data"),
        (raw(&[w], &[], &[], &[]), "no voter with data"),
        (raw(&[a], &[w], &[], &[]), "no voter with data"),
        (raw(&[a, b], &[wiped, b], &[], &[]), "named in two ways"),
        (raw(&[a, witness(2)], &[b], &[], &[]), "named in two ways"),
        (raw(&[a], &[], &[learner(1)], &[]), "votes and learns"),
        (raw(&[a], &[b], &[learner(2)], &[]), "votes and learns"),
        (raw(&[a], &[], &[], &[learner(2)]), "is to learn"),
        (raw(&[a, b], &[b], &[], &[learner(2)]), "is to learn"),
        (raw(&[a], &[b, w], &[], &[learner(4)]), "is to learn"),
        (raw(&[a], &[b], &[], &[Member::witness(NodeId(2))]), "is to learn"),
        (raw(&[a], &[], &[b], &[]), "named by its replica"),
        (raw(&[a], &[b], &[], &[b]), "named by its replica"),
    ] {
        assert!(matches!(bytes, Err(DecodeError::Invalid(broken)) if broken.contains(rule)), "{rule}: {bytes:?}");
    }
    let many: Vec<_> = (0..=MEMBERS_MAX as u128).map(voter).collect();
    let claimed = many.len() as u64;
    assert_eq!(raw(&many, &[], &[], &[]), Err(DecodeError::Length { claimed, limit: MEMBERS_MAX }));
    let learners: Vec<_> = (MEMBERS_MAX as u128..300).map(learner).collect();
    let refused = raw(&many[..MEMBERS_MAX], &[], &learners, &[]);
    assert!(matches!(refused, Err(DecodeError::Invalid(broken)) if broken.contains("too many")), "{refused:?}");
}

// The model. A quorum is a set of replicas, and a replica is a node *with* its disk.

type Replica = (NodeId, ReplicaId);

/// Whether the replicas that `has` are a quorum, by counting.
fn is_quorum(configuration: &Configuration, has: impl Fn(Replica) -> bool) -> bool {
    let decides =
        |half: &[Member]| 2 * half.iter().filter(|voter| has((voter.node, voter.replica))).count() > half.len();
    decides(configuration.voters()) && (configuration.outgoing().is_empty() || decides(configuration.outgoing()))
}

/// Whether each quorum of the one shares a replica with each quorum of the other, by going through all.
fn quorums_overlap(one: &Configuration, other: &Configuration) -> bool {
    let voters = [one, other].into_iter().flat_map(|c| c.voters().iter().chain(c.outgoing()));
    let all: Vec<Replica> =
        voters.map(|voter| (voter.node, voter.replica)).collect::<BTreeSet<_>>().into_iter().collect();
    (0u32..1 << all.len()).all(|set| {
        let inside =
            |replica: Replica| all.iter().position(|known| *known == replica).is_some_and(|at| set >> at & 1 == 1);
        !(is_quorum(one, inside) && is_quorum(other, |replica| !inside(replica)))
    })
}

/// Whether a configuration may follow another in a log, told without the functions under test.
fn is_legal(from: &Configuration, to: &Configuration) -> bool {
    let voters = |half: &[Member]| half.iter().map(|voter| (voter.node, voter.replica)).collect::<BTreeSet<_>>();
    let change = match (from.is_joint(), to.is_joint()) {
        (false, false) => voters(from.voters()).symmetric_difference(&voters(to.voters())).count() <= 1,
        (false, true) => from.voters() == to.outgoing(),
        (true, false) => from.voters() == to.voters(),
        (true, true) => false,
    };
    change && to.broken_rule().is_none() && quorums_overlap(from, to)
}

/// What a node is in a group, or shall be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Nothing,
    Voter,
    Learner,
    Witness,
    /// A witness that is not made a voter yet.
    LearningWitness,
}

impl Part {
    const TARGET: [Self; 4] = [Self::Nothing, Self::Voter, Self::Learner, Self::Witness];
    const ALL: [Self; 5] = [Self::Nothing, Self::Voter, Self::Learner, Self::Witness, Self::LearningWitness];
}

fn ids(parts: &[Part], part: Part) -> Vec<u128> {
    let with_ids = parts.iter().zip(1u128..);
    with_ids.filter(|(have, _)| **have == part).map(|(_, id)| id).collect()
}

fn target_of(parts: &[Part]) -> Membership {
    membership(&ids(parts, Part::Voter), &ids(parts, Part::Learner), &ids(parts, Part::Witness))
}

/// The group in which nodes 1, 2, ... have these parts, where there can be one.
fn group_of(parts: &[Part]) -> Option<Configuration> {
    if ids(parts, Part::Voter).is_empty() {
        return None;
    }
    let mut group = group(&ids(parts, Part::Voter), &ids(parts, Part::Learner), &ids(parts, Part::Witness));
    let witnesses = ids(parts, Part::LearningWitness).into_iter().map(|id| Member::witness(NodeId(id)));
    group.learners = in_order(group.learners.iter().copied().chain(witnesses));
    Some(group)
}

fn every(parts: &[Part], nodes: u32) -> Vec<Vec<Part>> {
    let kinds = parts.len();
    (0..kinds.pow(nodes)).map(|n| (0..nodes).map(|at| parts[n / kinds.pow(at) % kinds]).collect()).collect()
}

/// All groups of up to four nodes, and all targets.
#[test]
fn quorums_overlap_after_every_transition_that_is_allowed() {
    let starts: Vec<_> = every(&Part::ALL, 4).iter().filter_map(|parts| group_of(parts)).collect();
    let targets: Vec<_> = every(&Part::TARGET, 4).iter().map(|parts| target_of(parts)).collect();
    let mut allowed = [0; 3];
    let name = |configuration: Configuration| configuration.with_replicas(|node| Some(first_replica(node)));
    for (start, target) in starts.iter().flat_map(|start| targets.iter().map(move |target| (start, target))) {
        if let Ok(next) = start.simple(target).map(name) {
            assert!(is_legal(start, &next), "{start:?} {next:?}");
            assert_eq!(Membership::of(&next), *target);
            allowed[0] += 1;
        }
        if let Ok(next) = start.enter_joint(target).map(name) {
            assert!(is_legal(start, &next), "{start:?} {next:?}");
            let left = next.leave_joint().unwrap();
            assert!(is_legal(&next, &left), "{next:?} {left:?}");
            assert_eq!(Membership::of(&left), *target);
            allowed[1] += 1;
        }
        allowed[2] += usize::from(target.validate().is_ok());
    }
    assert!(allowed.iter().all(|count| *count > 1000), "{allowed:?}");
}

fn parts(kinds: &'static [Part], nodes: std::ops::RangeInclusive<usize>) -> impl Strategy<Value = Vec<Part>> {
    prop::collection::vec(prop::sample::select(kinds), nodes)
}

/// A group of up to six nodes, joint or not.
fn any_configuration() -> impl Strategy<Value = Configuration> {
    let from_to = (parts(&Part::ALL, 1..=6), prop::option::of(parts(&Part::TARGET, 6..=6)));
    from_to.prop_filter_map("no such group", |(from, to)| {
        let start = group_of(&from)?;
        let next = to.and_then(|to| start.enter_joint(&target_of(&to)).ok());
        Some(next.map_or(start, |joint| joint.with_replicas(|node| Some(first_replica(node)))))
    })
}

proptest! {
    #[test]
    fn the_commit_index_is_the_highest_on_a_quorum(
        configuration in any_configuration(),
        reached in prop::collection::vec(0u64..9, 7),
    ) {
        let at = |node: NodeId| reached[node.0 as usize];
        let expected = (0..9).rev().find(|index| is_quorum(&configuration, |(node, _)| at(node) >= *index));
        prop_assert_eq!(configuration.commit_index(|voter| at(voter.node)), expected.unwrap());
    }

    /// More voters than are counted on the stack, in either half.
    #[test]
    fn large_groups_count_the_same(
        incoming in 1..40u128,
        outgoing in 1..40u128,
        shift in 0..40u128,
        reached in prop::collection::vec(0u64..9, 80),
    ) {
        let names = |range: std::ops::Range<u128>| range.collect::<Vec<_>>();
        let configuration = joint(&names(shift..shift + incoming), &names(0..outgoing));
        let at = |node: NodeId| reached[node.0 as usize];
        let expected = (0..9).rev().find(|index| is_quorum(&configuration, |(node, _)| at(node) >= *index));
        prop_assert_eq!(configuration.commit_index(|voter| at(voter.node)), expected.unwrap());
    }

    /// A vote is won or lost when no vote that is missing can change that.
    #[test]
    fn a_vote_is_decided_when_the_missing_votes_cannot_change_it(
        configuration in any_configuration(),
        cast in prop::collection::vec(prop::option::of(any::<bool>()), 7),
    ) {
        let vote = |node: NodeId| cast[node.0 as usize];
        let outcome = |missing: u32| {
            is_quorum(&configuration, |(node, _)| vote(node).unwrap_or(missing >> node.0 & 1 == 1))
        };
        let outcomes: BTreeSet<_> = (0..1 << 7).map(outcome).collect();
        let expected = match (outcomes.contains(&true), outcomes.contains(&false)) {
            (true, true) => VoteResult::Pending,
            (true, false) => VoteResult::Won,
            _ => VoteResult::Lost,
        };
        prop_assert_eq!(configuration.vote_result(|voter| vote(voter.node)), expected);
    }

    /// From any configuration, with any disks wiped, to any target.
    #[test]
    fn steps_are_legal_and_reach_every_target(
        start in any_configuration(),
        to in parts(&Part::TARGET, 6..=6),
        keep_kinds in prop::bool::weighted(0.9),
        wiped in prop::collection::vec(prop::bool::weighted(0.3), 7),
    ) {
        let mut target = target_of(&to);
        if keep_kinds {
            // Witnesses stay witnesses, and data stays data: most targets would be refused for that else.
            let is_witness = |node: &NodeId| start.member(*node).map(|member| member.witness);
            target.voters.retain(|node| is_witness(node) != Some(true));
            target.learners.retain(|node| is_witness(node) != Some(true));
            target.witnesses.retain(|node| is_witness(node) != Some(false));
        }
        let replica = |node: NodeId| ReplicaId(first_replica(node).0 + if wiped[node.0 as usize] { 100 } else { 0 });
        let mut caught_up = BTreeSet::new();
        let mut now = start;
        let mut steps = 0;
        loop {
            let heard = |node: NodeId| Heard { replica: replica(node), caught_up: caught_up.contains(&node) };
            match now.step_toward(&target, heard) {
                Ok(Step::Append(next)) => {
                    prop_assert!(is_legal(&now, &next), "{now:?} {next:?}");
                    let was_voter = |voter: &Member| now.voters().contains(voter);
                    for voter in next.voters().iter().filter(|voter| !was_voter(voter)) {
                        prop_assert!(now.is_joint() || now.learners().contains(&voter.without_replica()), "{now:?} {next:?}");
                        prop_assert!(now.is_joint() || caught_up.contains(&voter.node));
                        prop_assert_eq!(voter.replica, replica(voter.node));
                    }
                    now = next;
                }
                Ok(Step::CatchUp(behind)) => {
                    prop_assert!(!behind.is_empty() && behind.iter().all(|node| !caught_up.contains(node)));
                    caught_up.extend(behind);
                }
                Ok(Step::Done) => break,
                Err(refused) => {
                    let data_is_lost = now.voters().iter().all(|v| v.witness || v.replica != replica(v.node));
                    let changes_kind = target.members().any(|wanted| {
                        now.member(wanted.node).is_some_and(|member| member.witness != wanted.witness)
                    });
                    match refused {
                        ChangeRefused::NoVoters | ChangeRefused::NoDataVoter if target.voters.is_empty() => {}
                        ChangeRefused::NoDataVoter => prop_assert!(data_is_lost, "{now:?}"),
                        ChangeRefused::WitnessToData { .. } | ChangeRefused::DataToWitness { .. } => prop_assert!(changes_kind),
                        other => prop_assert!(false, "{other}"),
                    }
                    return Ok(());
                }
            }
            steps += 1;
            // Leave, a wiped voter each, learn, catch up, change, leave.
            prop_assert!(steps <= 5 + 6, "{now:?} {target:?}");
        }
        prop_assert_eq!(Membership::of(&now), target);
        prop_assert!(now.voters().iter().all(|voter| voter.replica == replica(voter.node)));
        prop_assert!(!now.is_joint());
    }

    #[test]
    fn what_is_sent_is_received(configuration in any_configuration()) {
        prop_assert_eq!(configuration.broken_rule(), None);
        prop_assert_eq!(from_slice(&to_bytes(&configuration)), Ok(configuration));
    }

    /// Bytes from anyone: refused, or a configuration that keeps the rules and has this one encoding.
    #[test]
    fn forged_bytes_are_refused_or_sound(
        configuration in any_configuration(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        len in any::<prop::sample::Index>(),
        cut in any::<bool>(),
    ) {
        let mut bytes = to_bytes(&configuration).to_vec();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if cut {
            bytes.truncate(len.index(bytes.len()));
        }
        if let Ok(decoded) = from_slice::<Configuration>(&bytes) {
            prop_assert_eq!(decoded.broken_rule(), None);
            prop_assert_eq!(to_bytes(&decoded), bytes);
        }
    }
}
