//! As many liars as a group survives, at every place, and what they must not bring about.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mesh_consensus::pbft::{AuthMode, Pbft};

use crate::group::{Boot, Group, Journal, PBFT, config, founders, in_all_modes, key};
use crate::liar::{self, Lie};

const SECOND: Duration = Duration::from_secs(1);

/// A group in which the replicas at some places lie.
pub fn group_with(seed: u64, n: u8, auth: AuthMode, liars: impl IntoIterator<Item = u8>, lie: &Lie) -> Group {
    let faulty: BTreeMap<u8, Boot> =
        liars.into_iter().map(|at| (at, liar::boot(at, &founders(n), auth, lie.clone()))).collect();
    Group::with_faulty(seed, n, config(auth), &faulty)
}

/// Proposes for some seconds, and waits until all is answered.
pub fn load_and_finish(group: &mut Group, within: Duration) {
    let client = group.add_client();
    for round in 0..40 {
        group.propose(client);
        group.propose(group.correct[round % group.correct.len()]);
        group.run(Duration::from_millis(50));
    }
    group.finish(within);
}

#[test]
fn an_honest_liar_is_a_replica() {
    in_all_modes(|n, auth| {
        let mut group = group_with(1, n, auth, [1], &liar::honest());
        load_and_finish(&mut group, 2 * SECOND);
    });
}

#[test]
pub fn a_primary_that_tells_replicas_of_different_batches_forks_nothing_and_is_deposed() {
    in_all_modes(|n, auth| {
        let faults = (n - 1) / 3;
        for seed in 0..4 {
            let mut group = group_with(seed, n, auth, 1..=faults, &liar::equivocate(1..=faults));
            load_and_finish(&mut group, 40 * SECOND);
        }
    });
}

#[test]
fn a_replica_that_the_primary_keeps_in_the_dark_executes_all_the_same() {
    in_all_modes(|n, auth| {
        let dark = key(n).node_id();
        let mut group = group_with(1, n, auth, [1], &liar::keep_in_the_dark(dark));
        let client = group.add_client();
        for _ in 0..40 {
            group.propose(client);
            group.run(Duration::from_millis(50));
        }
        group.finish(10 * SECOND);
        assert!(
            group.correct.iter().filter(|node| **node != dark).all(|node| group.replica(*node).unwrap().view() == 0)
        );
    });
}

#[test]
fn a_primary_that_orders_nothing_of_one_client_is_deposed() {
    in_all_modes(|n, auth| {
        let faults = (n - 1) / 3;
        // The client is the first that the group adds.
        let censored = key(100).public();
        let mut group = group_with(1, n, auth, 1..=faults, &liar::censor(censored));
        let (client, other) = (group.add_client(), group.add_client());
        for _ in 0..20 {
            group.propose(client);
            group.propose(other);
            group.run(Duration::from_millis(50));
        }
        group.finish(40 * SECOND);
        assert_eq!(group.answered(), 40);
    });
}

#[test]
fn a_primary_that_orders_what_nobody_asked_for_is_deposed() {
    in_all_modes(|n, auth| {
        let faults = (n - 1) / 3;
        let mut group = group_with(1, n, auth, 1..=faults, &liar::invent_requests());
        load_and_finish(&mut group, 40 * SECOND);
        assert_eq!(group.answered(), 80);
    });
}

#[test]
fn states_come_whole_from_those_who_do_not_spoil_them() {
    in_all_modes(|n, auth| {
        let faults = (n - 1) / 3;
        let mut group = group_with(1, n, auth, n - faults + 1..=n, &liar::spoil_states());
        let client = group.add_client();
        let away = group.nodes[1];
        group.sim.crash(away);
        for _ in 0..60 {
            group.propose(client);
            group.run(Duration::from_millis(30));
        }
        group.sim.restart(away);
        group.finish(20 * SECOND);
        assert!(group.replica(away).unwrap().stable() > 16);
    });
}

#[test]
fn silent_liars_stop_nobody() {
    in_all_modes(|n, auth| {
        let faults = (n - 1) / 3;
        let mut group = group_with(1, n, auth, 1..=faults, &liar::silent());
        load_and_finish(&mut group, 40 * SECOND);
    });
}

#[test]
fn those_who_want_other_primaries_all_the_time_get_none() {
    in_all_modes(|n, auth| {
        let faults = (n - 1) / 3;
        let mut group = group_with(1, n, auth, n - faults + 1..=n, &liar::impatient());
        load_and_finish(&mut group, 2 * SECOND);
        assert!(group.correct.iter().all(|node| group.replica(*node).unwrap().view() == 0));
    });
}

#[test]
fn liars_that_do_whatever_may_hurt_break_nothing() {
    in_all_modes(|n, auth| {
        let faults = (n - 1) / 3;
        for seed in 0..6 {
            let first = 1 + (seed as u8 % n);
            let liars = (0..faults).map(|step| 1 + (first - 1 + step) % n);
            let mut group = group_with(seed, n, auth, liars, &liar::chaotic());
            load_and_finish(&mut group, 60 * SECOND);
        }
    });
}

#[test]
fn liars_and_crashes_together_break_nothing() {
    in_all_modes(|n, auth| {
        let faults = (n - 1) / 3;
        for seed in 0..6 {
            let mut group = group_with(seed, n, auth, 1..=faults, &liar::chaotic());
            let client = group.add_client();
            group.crash_in_turn(client, &group.correct.clone(), 30);
            group.finish(60 * SECOND);
        }
    });
}

#[test]
fn what_the_validator_refuses_is_executed_by_nobody_who_works_though_a_lying_primary_orders_it() {
    let with_validator = |pbft: Pbft<Journal>| pbft.with_validator(|command| command % 2 == 1);
    let executed = |group: &Group| group.correct.iter().map(|node| group.executed(*node)).collect::<Vec<_>>();
    in_all_modes(|n, auth| {
        // The first primary asks no validator, and orders whatever it is told.
        let boot: Boot = Arc::new(move |node, _| {
            node.host(PBFT, Pbft::new(config(auth), founders(n), Arc::new(key(1)), Journal::default()).unwrap());
        });
        let mut group = Group::with(1, n, config(auth), &BTreeMap::from([(1, boot)]), with_validator);
        let (client, replica) = (group.add_client(), group.correct[0]);
        group.propose(client);
        group.finish(10 * SECOND);
        // Where it is proposed at a replica that works, it is refused at once and goes nowhere.
        let before = executed(&group);
        assert_eq!(group.propose(replica) % 2, 0);
        group.run(SECOND);
        assert!(group.all_answered() && executed(&group) == before);
        group.propose(replica);
        group.finish(10 * SECOND);
        // A client tells the primary of it: all who work go through the batch, and leave it out.
        let before = executed(&group);
        assert_eq!(group.propose(client) % 2, 0);
        group.finish(10 * SECOND);
        assert!(executed(&group).iter().zip(before).all(|(now, before)| *now > before), "it is ordered");
        assert_eq!(group.answers(), [1, 3]);
        assert!(group.correct.iter().all(|node| group.replica(*node).unwrap().state().0 == [1, 3]));
    });
    in_all_modes(|n, auth| {
        // A primary that works orders none of it.
        let mut group = Group::with(1, n, config(auth), &BTreeMap::new(), with_validator);
        let client = group.add_client();
        group.propose(client);
        group.finish(10 * SECOND);
        let before = executed(&group);
        group.propose(client);
        group.run(5 * SECOND);
        assert!(!group.all_answered() && executed(&group) == before);
    });
}
