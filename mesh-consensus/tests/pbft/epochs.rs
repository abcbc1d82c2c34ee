//! Changes of the members in the simulator: who decides when, who is believed, and who goes on.

use std::time::Duration;

use mesh_consensus::pbft::{
    AuthMode, ChangeRefused, Message, PbftHandle, ProposeError, Reconfiguration, ReconfigureError, ReplicaSet,
};
use mesh_core::NodeId;

use crate::byzantine::group_with;
use crate::group::{ADMINISTRATORS, Group, Node, change, config, founders, in_all_modes, key, member};
use crate::liar::{self, Lie};

const SECOND: Duration = Duration::from_secs(1);

/// Proposes at a node for some time.
fn load(group: &mut Group, at: NodeId, rounds: usize) {
    for _ in 0..rounds {
        group.propose(at);
        group.run(Duration::from_millis(30));
    }
}

/// The node of a replica.
fn node(at: u8) -> NodeId {
    key(at).node_id()
}

#[test]
fn a_group_grows_and_shrinks_under_load() {
    in_all_modes(|n, auth| {
        let mut group = Group::new(1, n, config(auth));
        let client = group.add_client();
        load(&mut group, client, 5);
        for at in n + 1..=n + 3 {
            group.add_replica(at, None);
        }
        for more in [1, 3, 1, 0] {
            load(&mut group, client, 5);
            group.change_to(client, 1..=n + more, 20 * SECOND);
            assert_eq!(group.members().len(), usize::from(n + more));
        }
        load(&mut group, client, 5);
        group.finish(10 * SECOND);
        assert_eq!((group.answered(), group.members().epoch()), (30, 4));
        for at in n + 1..=n + 3 {
            let removed = group.replica(node(at)).unwrap();
            assert!(!removed.is_member() && !removed.takes_part());
        }
    });
}

#[test]
fn all_replicas_are_replaced_at_once_and_the_old_ones_switched_off() {
    in_all_modes(|n, auth| {
        let mut group = Group::new(2, n, config(auth));
        let client = group.add_client();
        load(&mut group, client, 10);
        for at in n + 1..=2 * n {
            group.add_replica(at, None);
        }
        group.change_to(client, n + 1..=2 * n, 20 * SECOND);
        let before = group.propose(client);
        assert!(group.run_until(5 * SECOND, Group::all_answered));
        for at in 1..=n {
            group.sim.crash(node(at));
        }
        load(&mut group, client, 20);
        group.finish(10 * SECOND);
        assert!(group.answered() == 31 && group.answers().contains(&before));
        assert!(group.working().iter().all(|node| group.replica(*node).unwrap().stable() > 16));
    });
}

#[test]
fn keys_are_rotated_one_after_the_other() {
    in_all_modes(|n, auth| {
        let mut group = Group::new(3, n, config(auth));
        let client = group.add_client();
        let mut members: Vec<u8> = (1..=n).collect();
        for at in 0..n {
            load(&mut group, client, 2);
            members[usize::from(at)] = 60 - at;
            group.add_replica(60 - at, None);
            group.change_to(client, members.clone(), 20 * SECOND);
            group.sim.crash(node(at + 1));
            group.correct.retain(|working| *working != node(at + 1));
        }
        group.finish(10 * SECOND);
        assert_eq!((group.members().epoch(), group.answered()), (u64::from(n), 2 * usize::from(n)));
    });
}

#[test]
fn a_replica_that_starts_long_after_it_was_added_comes_in() {
    in_all_modes(|n, auth| {
        let mut group = Group::new(4, n, config(auth));
        let client = group.add_client();
        group.change_to(client, 1..=n + 1, 20 * SECOND);
        load(&mut group, client, 40);
        let late = group.add_replica(n + 1, None);
        assert!(group.run_until(20 * SECOND, |group| group.takes_part(late)));
        // One that is given what is known today need not hear of it from those who were there first.
        let later = group.members();
        group.change_to(client, 1..=n, 20 * SECOND);
        let given = std::mem::replace(&mut group.replicas, later);
        let other = group.add_replica(n + 2, None);
        group.replicas = given;
        group.change_to(client, (1..=n).chain([n + 2]), 20 * SECOND);
        load(&mut group, client, 5);
        group.finish(10 * SECOND);
        assert!(group.takes_part(other) && !group.takes_part(late));
    });
}

#[test]
fn replicas_that_were_away_while_the_members_changed_find_out_whether_they_are_members() {
    in_all_modes(|n, auth| {
        let mut group = Group::new(5, n, config(auth));
        let client = group.add_client();
        for at in n + 1..=n + 2 {
            group.add_replica(at, None);
        }
        group.change_to(client, 1..=n + 2, 20 * SECOND);
        let (away, removed) = (node(1), node(2));
        group.sim.crash(away);
        let staying = |at: &u8| *at != 1;
        let wait = |group: &mut Group, members: Vec<u8>| {
            let change = change(&group.members(), members);
            let epoch = change.epoch;
            group.reconfigure(client, change);
            assert!(group.run_until(20 * SECOND, |group| group.members().epoch() == epoch));
        };
        wait(&mut group, (1..=n + 1).collect());
        group.sim.crash(removed);
        group.sim.restart(away);
        assert!(group.run_until(20 * SECOND, |group| group.takes_part(away)), "{:?}", group.replica(away));
        wait(&mut group, (1..=n + 2).filter(|at| *at != 2).collect());
        load(&mut group, client, 20);
        group.sim.restart(removed);
        assert!(group.run_until(5 * SECOND, |group| group.replica(removed).is_some_and(|node| !node.is_member())));
        assert!((1..=n).filter(staying).count() > 2);
        group.finish(20 * SECOND);
        assert!(group.accused().is_empty());
    });
}

#[test]
fn power_is_lost_again_and_again_while_the_members_change() {
    in_all_modes(|n, auth| {
        for seed in 0..6 {
            let mut group = Group::new(seed, n, config(auth));
            let client = group.add_client();
            for at in n + 1..=n + 2 {
                group.add_replica(at, None);
            }
            let nodes = group.nodes.clone();
            for more in [2, 1] {
                let change = change(&group.members(), 1 + seed as u8 % 2..=n + more);
                let epoch = change.epoch;
                group.reconfigure(client, change);
                group.crash_in_turn(client, &nodes, 3 * nodes.len());
                assert!(group.run_until(60 * SECOND, |group| group.members().epoch() == epoch), "seed {seed}");
            }
            group.finish(60 * SECOND);
            let working = group.working();
            assert!(group.run_until(20 * SECOND, |group| working.iter().all(|node| group.takes_part(*node))));
        }
    });
}

#[test]
fn the_whole_group_loses_power_at_every_moment_of_a_change() {
    in_all_modes(|n, auth| {
        for step in 0..12 {
            let mut group = Group::new(step, n, config(auth));
            let client = group.add_client();
            group.propose(client);
            let new = group.add_replica(n + 1, None);
            group.finish(2 * SECOND);
            group.reconfigure(client, change(&group.members(), 2..=n + 1));
            group.run(Duration::from_millis(20 * step));
            let nodes = group.nodes.clone();
            nodes.iter().for_each(|node| group.sim.crash(*node));
            nodes.iter().for_each(|node| group.sim.restart(*node));
            assert!(group.run_until(30 * SECOND, |group| group.takes_part(new)), "step {step}");
            group.propose(client);
            group.finish(20 * SECOND);
        }
    });
}

#[test]
fn disks_lost_before_and_after_a_change_count_as_faults_and_no_more() {
    in_all_modes(|n, auth| {
        for seed in 0..3 {
            let mut group = Group::new(seed, n, config(auth));
            let client = group.add_client();
            load(&mut group, client, 5);
            group.add_replica(n + 1, None);
            let change = change(&group.members(), 1..=n + 1);
            group.reconfigure(client, change);
            group.run(Duration::from_millis(100 * seed));
            let lost = group.nodes[seed as usize];
            group.lose_disk(lost);
            let joined = |group: &Group| group.members().epoch() == 1 && group.takes_part(lost);
            assert!(group.run_until(60 * SECOND, joined), "seed {seed}: {:?}", group.replica(lost));
            load(&mut group, client, 5);
            group.lose_disk(node(n + 1));
            assert!(group.run_until(60 * SECOND, |group| group.takes_part(node(n + 1))));
            group.finish(20 * SECOND);
        }
    });
}

/// A primary that makes no batch that nobody asked for, and so does not bring the epoch to its end.
#[test]
pub fn a_primary_that_does_not_go_to_the_end_of_the_epoch_is_deposed() {
    in_all_modes(|n, auth| {
        let faults = (n - 1) / 3;
        let lazy: Lie = std::sync::Arc::new(|_, _, to, message| match message {
            Message::PrePrepare(told) if told.batch.is_empty() => Vec::new(),
            other => vec![(to, other)],
        });
        let mut group = group_with(1, n, auth, 1..=faults, &lazy);
        let client = group.add_client();
        group.add_replica(n + 1, None);
        group.change_to(client, 1..=n + 1, 60 * SECOND);
        group.propose(client);
        group.finish(20 * SECOND);
    });
}

/// Liars among those who stay, those who go and those who come, as many as each epoch survives.
fn with_liars(lie: &Lie, seeds: u64) {
    in_all_modes(|n, auth| {
        let faults = (n - 1) / 3;
        for seed in 0..seeds {
            let mut group = group_with(seed, n, auth, 1..=faults, lie);
            let client = group.add_client();
            for at in n + 1..=n + 3 {
                let is_liar = at == n + 1;
                group.add_replica(at, is_liar.then(|| liar::boot(at, &founders(n), auth, lie.clone())));
            }
            load(&mut group, client, 5);
            group.change_to(client, 1..=n + 3, 90 * SECOND);
            load(&mut group, client, 10);
            // Some of the liars go, and f shrinks with them.
            group.change_to(client, faults + 1..=n + 3, 90 * SECOND);
            load(&mut group, client, 10);
            group.finish(60 * SECOND);
            assert_eq!(group.answered(), 25);
        }
    });
}

#[test]
fn liars_in_the_old_and_the_new_set_that_do_whatever_may_hurt_break_nothing() {
    with_liars(&liar::chaotic(), 2);
}

#[test]
fn what_was_said_in_another_epoch_is_said_again_in_vain() {
    with_liars(&liar::replay(), 1);
}

#[test]
fn primaries_that_tell_replicas_of_different_batches_around_a_change_fork_nothing() {
    in_all_modes(|n, auth| {
        let faults = (n - 1) / 3;
        for seed in 0..3 {
            let mut group = group_with(seed, n, auth, 1..=faults, &liar::equivocate(1..=faults));
            let client = group.add_client();
            for at in n + 1..=n + 2 {
                group.add_replica(at, None);
            }
            for members in [1..=n + 1, 1..=n + 2, 2..=n + 2] {
                load(&mut group, client, 5);
                group.change_to(client, members, 90 * SECOND);
            }
            group.finish(60 * SECOND);
        }
    });
}

#[test]
fn silent_liars_stop_no_change() {
    with_liars(&liar::silent(), 1);
}

#[test]
fn one_change_at_a_time_is_executed_by_whom_it_is_for_and_the_rest_is_refused() {
    in_all_modes(|n, auth| {
        let mut group = Group::new(6, n, config(auth));
        let (client, other) = (group.add_client(), group.add_client());
        let replicas = group.members();
        let good = change(&replicas, 1..=n + 1);
        let unsigned = Reconfiguration { signatures: Vec::new(), ..good.clone() };
        let one = Reconfiguration { signatures: good.signatures[..1].to_vec(), ..good.clone() };
        let twice = Reconfiguration { signatures: [good.signatures[0]; 2].to_vec(), ..good.clone() };
        let of_others = Reconfiguration { members: (2..=n + 1).map(member).collect(), ..good.clone() };
        let elsewhere = {
            let administrators = replicas.administrators().clone();
            let group = ReplicaSet::administered("elsewhere", (1..=n).map(member), administrators).unwrap();
            change(&group, 1..=n + 1)
        };
        for bad in [unsigned, one, twice, of_others, elsewhere] {
            group.reconfigure(client, bad);
            assert!(group.run_until(5 * SECOND, |group| group.decisions().iter().all(Option::is_some)));
            let refused = Some(Err(ReconfigureError::Refused(ChangeRefused::NotAuthorised)));
            assert_eq!(group.decisions().last(), Some(&refused));
        }
        let few = Reconfiguration { members: (1..4).map(member).collect(), ..good.clone() };
        let later = Reconfiguration { epoch: 2, ..good.clone() };
        let refused = |refused| Some(Err(ReconfigureError::Refused(refused)));
        for (bad, why) in
            [(few, ChangeRefused::Impossible { members: 3 }), (later, ChangeRefused::WrongEpoch { epoch: 0 })]
        {
            group.reconfigure(client, bad);
            assert!(group.run_until(5 * SECOND, |group| group.decisions().iter().all(Option::is_some)));
            assert_eq!(group.decisions().last(), Some(&refused(why)));
        }
        // Of two, one is executed.
        group.reconfigure(client, good.clone());
        assert!(group.run_until(5 * SECOND, |group| group.decisions().iter().all(Option::is_some)));
        let upcoming = group.decisions().last().cloned().flatten().unwrap().unwrap();
        assert!(upcoming.epoch == 1 && upcoming.after.is_multiple_of(8));
        group.reconfigure(other, change(&replicas, 1..=n + 2));
        assert!(group.run_until(5 * SECOND, |group| group.decisions().iter().all(Option::is_some)));
        assert_eq!(group.decisions().last(), Some(&refused(ChangeRefused::Pending { epoch: 1 })));
        assert!(group.run_until(10 * SECOND, |group| group.members().epoch() == 1));
        group.reconfigure(client, good);
        assert!(group.run_until(5 * SECOND, |group| group.decisions().iter().all(Option::is_some)));
        assert_eq!(group.decisions().last(), Some(&refused(ChangeRefused::WrongEpoch { epoch: 1 })));
        group.finish(5 * SECOND);
        assert_eq!(group.members().begins_after(), upcoming.after);
    });
}

#[test]
fn who_is_no_replica_takes_no_proposals_and_says_so() {
    in_all_modes(|n, auth| {
        let mut group = Group::new(7, n, config(auth));
        let client = group.add_client();
        let new = group.add_replica(n + 1, None);
        let ask = |group: &mut Group, at: NodeId| {
            let Node::Replica(handle) = group.sim.handle(at) else { panic!("{at:?} is no replica") };
            let (answer, status) = (handle.propose(1_000_000), handle.status());
            let status = group.sim.wait(SECOND, status).unwrap().unwrap().unwrap();
            (group.sim.wait(SECOND, answer).unwrap(), status)
        };
        let (answer, status) = ask(&mut group, new);
        assert_eq!((answer, status.is_member, status.takes_part), (Err(ProposeError::NotMember), false, false));
        group.change_to(client, 2..=n + 1, 20 * SECOND);
        let (answer, status) = ask(&mut group, node(1));
        assert_eq!((answer, status.epoch), (Err(ProposeError::NotMember), 1));
        assert!(!status.is_member && !status.takes_part);
        group.propose(new);
        group.finish(5 * SECOND);
    });
}

#[test]
fn clients_learn_who_the_replicas_are_and_can_prove_it() {
    in_all_modes(|n, auth| {
        let mut group = Group::new(8, n, config(auth));
        let (busy, idle) = (group.add_client(), group.add_client());
        for at in n + 1..=n + 2 {
            group.add_replica(at, None);
        }
        for members in [1..=n + 1, 1..=n + 2, 2..=n + 2, 2..=n + 1, 2..=n + 2, 3..=n + 2] {
            if members.clone().count() >= 4 {
                group.change_to(busy, members, 20 * SECOND);
            }
        }
        let known = |group: &mut Group, at: NodeId| {
            let asked = match group.sim.handle(at) {
                Node::Client(handle) => group.sim.wait(SECOND, handle.configuration()),
                _ => panic!("no client"),
            };
            asked.unwrap().unwrap()
        };
        assert_eq!(known(&mut group, idle).replicas.epoch(), 0, "it asked for nothing");
        group.propose(idle);
        group.propose(busy);
        group.finish(10 * SECOND);
        for client in [idle, busy] {
            let configuration = known(&mut group, client);
            assert_eq!(configuration.replicas, group.members());
            assert_eq!(founders(n).follow(&configuration.changes).as_ref(), Ok(&configuration.replicas));
            let mut forged = configuration.changes.clone();
            forged[1].members.swap(0, 1);
            assert!(founders(n).follow(&forged).is_err());
            assert!(founders(n).follow(&configuration.changes[1..]).is_err());
        }
        let answer = group.read(idle);
        assert_eq!(group.sim.wait(5 * SECOND, answer).flatten().map(|journal| journal.len()), Some(2));
    });
}

#[test]
fn groups_without_administrators_keep_their_members() {
    let replicas = ReplicaSet::new("tests", (1..=4).map(member)).unwrap();
    let change = Reconfiguration::new(&replicas, (1..=5).map(member).collect()).unwrap();
    assert!(change.signed_by(&replicas, &key(ADMINISTRATORS[0])).signatures.is_empty());
    let stranger = std::sync::Arc::new(key(9));
    let refused =
        mesh_consensus::pbft::Pbft::new(config(AuthMode::Macs), replicas, stranger, crate::group::Journal::default());
    assert!(refused.unwrap_err().to_string().contains("nobody can add it"));
}
