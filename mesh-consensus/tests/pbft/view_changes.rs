//! Primaries that fail, one or several in a row, and what must not be lost then.

use std::sync::Arc;
use std::time::Duration;

use mesh_consensus::pbft::{AuthMode, Certificate, Message};

use crate::group::{Group, both, config, in_all_modes};
use crate::stories::Story;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_silent_primary_is_replaced_and_comes_back_as_a_backup() {
    in_all_modes(|n, auth| {
        let mut group = Group::new(1, n, config(auth));
        let client = group.add_client();
        for _ in 0..10 {
            group.propose(client);
            group.run(Duration::from_millis(20));
        }
        let primary = group.nodes[0];
        group.sim.crash(primary);
        for _ in 0..10 {
            group.propose(client);
            group.run(Duration::from_millis(20));
        }
        assert!(group.run_until(6 * SECOND, Group::all_answered));
        assert_eq!(group.replica(group.nodes[1]).unwrap().view(), 1);
        group.sim.restart(primary);
        group.finish(10 * SECOND);
        assert_eq!(group.answered(), 20);
        assert_eq!(group.replica(primary).unwrap().view(), 1);
    });
}

#[test]
fn as_many_primaries_in_a_row_as_may_be_faulty_are_passed_over() {
    in_all_modes(|n, auth| {
        let mut group = Group::new(2, n, config(auth));
        let client = group.add_client();
        for node in group.nodes.clone().into_iter().take(group.replicas.faults()) {
            group.sim.crash(node);
        }
        group.propose(client);
        assert!(group.run_until(12 * SECOND, Group::all_answered));
        let faults = group.replicas.faults() as u64;
        assert_eq!(group.replica(*group.nodes.last().unwrap()).unwrap().view(), faults);
    });
}

/// What one replica committed, no view change loses, even when nobody else knows that it was committed.
#[test]
pub fn what_was_committed_at_one_replica_only_stays() {
    in_all_modes(|n, auth| {
        for seed in 0..10 {
            let mut group = Group::new(seed, n, config(auth));
            let client = group.add_client();
            group.propose(client);
            assert!(group.run_until(SECOND, Group::all_answered));
            // Only the last replica hears the commits of the others.
            let last = *group.nodes.last().unwrap();
            let nodes = group.nodes.clone();
            group.propose(client);
            let prepared = |group: &Group| group.executed(last) >= 2;
            for _ in 0..400 {
                if prepared(&group) {
                    break;
                }
                group.sim.run_for(Duration::from_micros(50));
            }
            let before = group.replica(last).unwrap().state().0.clone();
            // The one that executed is cut off with what it knows, and so is the primary.
            for node in &nodes {
                group.sim.cut(*node, last);
                group.sim.cut(last, *node);
            }
            group.sim.crash(nodes[0]);
            group.run(3 * SECOND);
            group.sim.restart(nodes[0]);
            group.run(3 * SECOND);
            group.sim.heal_everything();
            group.finish(30 * SECOND);
            assert!(group.replica(last).unwrap().state().0.starts_with(&before));
        }
    });
}

#[test]
fn healthy_load_over_many_timeouts_deposes_nobody() {
    for auth in [AuthMode::Signatures, AuthMode::Macs] {
        let mut group = Group::new(5, 4, config(auth));
        let client = group.add_client();
        for _ in 0..500 {
            group.propose(client);
            group.run(Duration::from_millis(10));
        }
        group.finish(2 * SECOND);
        assert!(group.nodes.iter().all(|node| group.replica(*node).unwrap().view() == 0));
    }
}

#[test]
fn replicas_that_were_cut_off_during_view_changes_find_the_view() {
    in_all_modes(|n, auth| {
        let mut group = Group::new(6, n, config(auth));
        let client = group.add_client();
        let last = *group.nodes.last().unwrap();
        group.sim.pause(last);
        group.sim.crash(group.nodes[0]);
        // For n = 4 there is no quorum before the paused one goes on.
        group.propose(client);
        group.run(5 * SECOND);
        group.sim.resume(last);
        assert!(group.run_until(20 * SECOND, Group::all_answered));
        group.sim.restart(group.nodes[0]);
        group.finish(20 * SECOND);
    });
}

#[test]
fn power_is_lost_again_and_again_while_views_change() {
    in_all_modes(|n, auth| {
        for seed in 0..6 {
            let mut group = Group::new(seed, n, config(auth));
            let client = group.add_client();
            group.crash_in_turn(client, &group.nodes.clone(), 30);
            group.finish(40 * SECOND);
            assert_eq!(group.answered(), 30);
        }
    });
}

#[test]
fn a_replica_follows_when_others_went_on_to_later_views_and_say_no_more_of_its_own() {
    both(|auth| {
        let mut story = Story::new(auth);
        let hear = |story: &mut Story, replica, view| {
            let change = story.view_change(replica, view, Certificate::genesis());
            story.hear(replica, Message::ViewChange(Arc::new(change)));
        };
        hear(&mut story, 0, 3);
        hear(&mut story, 2, 2);
        assert_eq!(story.one.protocol.view(), 2, "the lowest that f + 1 want");
        story.one.pass(4 * SECOND);
        assert_eq!(story.one.protocol.view(), 3);
        story.one.pass(60 * SECOND);
        assert_eq!(story.one.protocol.view(), 3, "one replica alone wants that, beside this one");
    });
}
