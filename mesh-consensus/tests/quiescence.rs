//! A group that has nothing to do falls silent, and wakes when there is.

mod support;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use mesh_consensus::raft::{Append, Intent, Message, RaftConfig, Role};
use mesh_core::{LogIndex, PeerStatus};
use support::*;

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

fn silent() -> RaftConfig {
    RaftConfig { quiesce_after: Some(2 * SECOND), ..config() }
}

/// Node 1 leads three, and all are silent.
fn fallen_silent() -> Cluster {
    let mut cluster = Cluster::with(3, &silent(), 1).with_leader(1);
    assert!(cluster.serves(1, 7));
    cluster.pass(3 * SECOND);
    assert!((1..=3).all(|number| cluster.status(number).quiescent));
    cluster
}

/// Counts what is sent from now on.
fn count_messages(cluster: &mut Cluster) -> Rc<Cell<usize>> {
    let count = Rc::new(Cell::new(0));
    let counter = count.clone();
    cluster.rule(move |_| {
        counter.set(counter.get() + 1);
        Fate::Deliver
    });
    count
}

#[test]
fn an_idle_group_says_nothing_and_sets_no_timer() {
    let mut cluster = fallen_silent();
    let (sent, term) = (count_messages(&mut cluster), cluster.raft(1).term());
    cluster.pass(3600 * SECOND);
    assert_eq!((sent.get(), cluster.leader(), cluster.raft(1).term()), (0, Some(1), term));
    assert!((1..=3).all(|number| cluster.status(number).quiescent));
}

#[test]
fn a_group_falls_silent_only_after_the_time_that_is_set_and_never_by_default() {
    let mut cluster = Cluster::with(3, &silent(), 1).with_leader(1);
    cluster.pass(1900 * MS);
    assert!((1..=3).all(|number| !cluster.status(number).quiescent));
    assert!(cluster.serves(1, 7));
    cluster.pass(1900 * MS);
    assert!((1..=3).all(|number| !cluster.status(number).quiescent), "it had something to do");
    let mut cluster = Cluster::led(3);
    cluster.pass(60 * SECOND);
    let sent = count_messages(&mut cluster);
    cluster.pass(SECOND);
    assert_eq!((sent.get(), cluster.status(1).quiescent), (40, false), "ten heartbeats to two, and their answers");
}

#[test]
fn a_proposal_wakes_the_group_and_it_falls_silent_again() {
    let mut cluster = fallen_silent();
    assert!(cluster.serves(1, 8));
    assert!((1..=3).all(|number| !cluster.status(number).quiescent));
    assert_eq!(cluster.journal(3), [7, 8]);
    cluster.pass(3 * SECOND);
    assert!((1..=3).all(|number| cluster.status(number).quiescent));
}

#[test]
fn a_read_wakes_the_group_wherever_it_is_asked() {
    for number in [1, 2] {
        let mut cluster = fallen_silent();
        let read = cluster.read_index(number);
        cluster.deliver();
        assert_eq!(cluster.journal_read(number, read), Some(&[7][..]));
        assert!(!cluster.status(1).quiescent);
        cluster.pass(20 * SECOND);
        assert_eq!((cluster.leader(), cluster.raft(1).term()), (Some(1), 1), "nobody is deposed by that");
        assert!((1..=3).all(|number| cluster.status(number).quiescent));
    }
}

#[test]
fn the_loss_of_the_link_to_the_leader_wakes_its_followers() {
    let mut cluster = fallen_silent();
    cluster.crash(1);
    cluster.pass(60 * SECOND);
    assert_eq!(cluster.leader(), None, "nobody noticed");
    cluster.peer(2, 1, PeerStatus::Disconnected);
    assert!(!cluster.status(2).quiescent && cluster.status(3).quiescent);
    cluster.await_leader(5 * SECOND);
}

#[test]
fn the_loss_of_a_link_to_somebody_else_wakes_nobody() {
    let mut cluster = fallen_silent();
    cluster.peer(2, 9, PeerStatus::Disconnected);
    assert!(cluster.status(2).quiescent);
}

#[test]
fn a_command_to_a_follower_finds_out_that_the_leader_is_gone() {
    let mut cluster = fallen_silent();
    cluster.crash(1);
    let read = cluster.read_index(2);
    cluster.pass(5 * SECOND);
    assert_eq!(cluster.journal_read(2, read), Some(&[7][..]));
    assert!(matches!(cluster.leader(), Some(2 | 3)));
}

#[test]
fn a_follower_that_did_not_hear_of_the_silence_wakes_the_leader() {
    let mut cluster = Cluster::with(3, &silent(), 1).with_leader(1);
    cluster.rule(|flight| match &flight.message {
        Message::Append(Append { intent: Intent::Quiesce, .. }) if flight.to == id(3) => Fate::Drop,
        _ => Fate::Deliver,
    });
    cluster.pass(2100 * MS);
    let quiescent = |cluster: &Cluster| [1, 2, 3].map(|number| cluster.status(number).quiescent);
    assert_eq!(quiescent(&cluster), [true, true, false]);
    cluster.heal();
    cluster.pass(20 * SECOND);
    assert_eq!((cluster.leader(), cluster.raft(1).term()), (Some(1), 1), "the leader is there, and says so");
    assert_eq!(quiescent(&cluster), [true; 3]);
}

#[test]
fn a_group_whose_follower_lacks_something_does_not_fall_silent() {
    let mut cluster = Cluster::with(3, &silent(), 1).with_leader(1);
    cluster.crash(3);
    cluster.pass(20 * SECOND);
    assert!(!cluster.status(1).quiescent);
    cluster.restart(3);
    cluster.pass(5 * SECOND);
    assert!((1..=3).all(|number| cluster.status(number).quiescent));
}

#[test]
fn a_restarted_follower_wakes_the_group_and_gets_what_it_lacks() {
    let mut cluster = fallen_silent();
    cluster.crash(2);
    cluster.restart(2);
    assert!(!cluster.status(2).quiescent);
    cluster.pass(5 * SECOND);
    assert_eq!((cluster.leader(), cluster.raft(1).term()), (Some(1), 1));
    assert_eq!((cluster.journal(2), cluster.raft(2).commit_index()), (&[7][..], LogIndex(2)));
}

#[test]
fn a_silent_leader_hands_over_and_a_silent_group_changes_its_members() {
    let mut cluster = fallen_silent();
    let transfer = cluster.transfer(1, Some(2));
    cluster.deliver();
    assert_eq!(cluster.transfer_reply(1, transfer), Some(&Ok(id(2))));
    cluster.pass(5 * SECOND);
    assert!(cluster.status(2).quiescent && cluster.raft(2).role() == Role::Leader);
    let new = cluster.add_node();
    assert!(cluster.change_to(2, voters(&[1, 2, 3, new])).is_ok());
    cluster.pass(5 * SECOND);
    assert!((1..=new).all(|number| cluster.status(number).quiescent));
}

/// Answers of a leader's followers to its last heartbeat must not wake it up again.
#[test]
fn a_group_falls_silent_once() {
    let mut cluster = Cluster::with(3, &silent(), 1).with_leader(1);
    let sent = count_messages(&mut cluster);
    cluster.pass(2 * SECOND);
    let before = sent.get();
    cluster.pass(3600 * SECOND);
    assert!(sent.get() <= before + 4, "{} messages", sent.get() - before);
}
