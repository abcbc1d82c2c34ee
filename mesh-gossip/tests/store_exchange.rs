//! One replica by hand: each rule of an exchange with a peer that differs, and what a liar can make of one.

mod support_store;

use std::collections::BTreeSet;

use mesh_core::frame::FRAME_OVERHEAD;
use mesh_core::{Bytes, Harness, LogOp, NodeId, PeerStatus, wire};
use mesh_gossip::anti_entropy::{LISTED_MAX, Listed, PARTS, Range, Summary};
use mesh_gossip::crdt::{HybridTime, Stamp};
use mesh_gossip::store::{
    Answer, Ask, Differ, Entry, Equal, Message, Named, Op, Record, Store, StoreCommand, StoreConfig, Taken, Write,
};
use support_store::hand::{
    MEMORY, PEER, STRANGER, WRITER, asked_of, at, be_equal, begin, compare, differ, is_done, list, listed, path, push,
    root, short_hash, status, store, store_with, write, written,
};
use support_store::{ms, s};

#[test]
fn only_an_answer_to_what_was_asked_counts_and_once() {
    let mut store = store(&[PEER]);
    let asked = compare(&mut store, PEER).time;
    let other = HybridTime(asked.0 - 1);
    store.receive(PEER, Message::Equal(Equal { asked: other, time: asked, memory: MEMORY }));
    store.receive(PEER, Message::Differ(differ(other)));
    assert_eq!((store.sent(), status(&mut store).peers[&PEER]), (vec![], None));
    store.receive(STRANGER, Message::Equal(Equal { asked, time: asked, memory: MEMORY }));
    assert_eq!(status(&mut store).peers[&STRANGER], None);
    store.sent();
    let equal = Message::Equal(Equal { asked, time: asked, memory: MEMORY });
    store.receive(PEER, equal.clone());
    let equal_at = status(&mut store).peers[&PEER];
    assert!(equal_at.is_some());
    store.pass(ms(10));
    store.receive(PEER, equal);
    assert_eq!(status(&mut store).peers[&PEER], equal_at);

    let asked = compare(&mut store, PEER).time;
    store.receive(PEER, Message::Differ(differ(asked)));
    let number = asked_of(&mut store, PEER)[0].0;
    list(&mut store, PEER, number, Vec::new());
    assert!(is_done(&mut store, PEER));
    store.receive(PEER, Message::Differ(differ(asked)));
    assert_eq!(store.sent(), []);
}

#[test]
fn an_answer_counts_for_ten_seconds() {
    let others: Vec<_> = (10..60).map(NodeId).collect();
    let mut store = store_with(StoreConfig { fan_out: 1, ..StoreConfig::default() }, &others);
    for (waits, counts) in [(9, true), (14, false)] {
        let peer = others[waits as usize + 1];
        let asked = compare(&mut store, peer).time;
        store.pass(s(waits));
        assert!(store.sent().iter().all(|(to, _)| *to != peer), "it had no other turn");
        store.receive(peer, Message::Equal(Equal { asked, time: asked, memory: MEMORY }));
        assert_eq!(status(&mut store).peers[&peer].is_some(), counts, "{waits} s");
    }
}

#[test]
fn of_many_who_come_back_at_once_a_few_are_asked_at_a_time_and_who_is_equal_or_gone_not_at_all() {
    let others: Vec<_> = (10..22).map(NodeId).collect();
    let mut store = store_with(StoreConfig { interval: s(1_000), ..StoreConfig::default() }, &others);
    others.iter().for_each(|peer| store.peer(*peer, PeerStatus::Connected));
    let asked = |store: &mut Harness<Store>| -> Vec<NodeId> {
        let root = |(to, message)| matches!(message, Message::Root(_)).then_some(to);
        store.sent().into_iter().filter_map(root).collect()
    };
    let first = asked(&mut store);
    assert_eq!(first.len(), StoreConfig::default().fan_out);
    let left: Vec<_> = others.iter().copied().filter(|peer| !first.contains(peer)).collect();
    left.iter().for_each(|peer| store.peer(*peer, PeerStatus::Connected));
    let mut left = left.into_iter();
    let (equal, gone) = (left.next().unwrap(), left.next().unwrap());
    be_equal(&mut store, equal, |root| root);
    store.command(StoreCommand::RemovePeer(gone));
    let mut then = Vec::new();
    for _ in 0..8 {
        assert_eq!(asked(&mut store), []);
        store.pass(ms(50));
        let now = asked(&mut store);
        assert!(now.len() <= StoreConfig::default().fan_out);
        then.extend(now);
    }
    then.sort_unstable();
    assert_eq!(then, left.collect::<Vec<_>>());
    store.peer(gone, PeerStatus::Connected);
    store.peer(STRANGER, PeerStatus::Connected);
    assert_eq!(asked(&mut store), [], "they are no peers");
    assert_eq!(compare(&mut store, equal).time.millis() / 1_000, store.now().as_nanos() / 1_000_000_000);
}

#[test]
fn questions_count_with_a_token_of_ones_own_that_is_no_older_than_two_minutes() {
    let mut store = store(&[PEER, STRANGER]);
    store.receive(PEER, Message::Root(root(5, 1_000)));
    let sent = store.sent();
    let Some((_, Message::Differ(Differ { token, .. }))) = sent.last() else { panic!("{sent:?}") };
    let mut counts = |from, token| {
        store.sent();
        store.receive(from, Message::Ask(token, 1, Ask::Summary(Range::ALL)));
        let is_answered = store.sent().iter().any(|(_, message)| matches!(message, Message::Answer(..)));
        store.receive(from, Message::Done(token, at(1_000)));
        assert_eq!(status(&mut store).peers[&from].is_some(), is_answered);
        // The next minute begins 20 s from the start.
        store.pass(s(60));
        is_answered
    };
    assert!(!counts(STRANGER, *token));
    assert!(counts(PEER, *token), "it was given in the minute before");
    store.receive(STRANGER, Message::Root(root(5, 1_060)));
    let sent = store.sent();
    let token_of = |to: NodeId| {
        sent.iter().find_map(|(other, message)| match message {
            Message::Differ(Differ { token, .. }) if *other == to => Some(*token),
            _ => None,
        })
    };
    let token = token_of(STRANGER).expect("it differs");
    store.pass(s(120));
    store.sent();
    store.receive(STRANGER, Message::Ask(token, 1, Ask::Summary(Range::ALL)));
    store.receive(STRANGER, Message::Done(token, at(1_000)));
    assert_eq!((store.sent(), status(&mut store).peers[&STRANGER]), (vec![], None));
}

/// A peer that finds ever more differences: answers all that it is asked for a while, second by second.
fn keep_busy(store: &mut Harness<Store>, liars: &[NodeId], asked: &mut Vec<(NodeId, u32)>, seconds: u64) {
    for _ in 0..seconds {
        for (liar, number) in std::mem::take(asked) {
            store.receive(liar, Message::Answer(number, Answer::Summary(Summary::Parts(vec![7; PARTS]))));
        }
        store.pass(s(1));
        let now = store.sent().into_iter().filter_map(|(to, message)| match message {
            Message::Ask(77, number, Ask::Summary(_)) => Some((to, number)),
            _ => None,
        });
        asked.extend(now.filter(|(to, _)| liars.contains(to)).collect::<BTreeSet<_>>());
    }
}

#[test]
fn s15_those_who_never_come_to_an_end_make_room_for_others() {
    let liars = [60, 61, 62].map(NodeId);
    let mut store = store(&[&liars[..], &[PEER]].concat());
    let mut asked: Vec<_> = liars.iter().map(|liar| (*liar, begin(&mut store, *liar))).collect();
    keep_busy(&mut store, &liars, &mut asked, 9);
    store.sent();
    store.peer(PEER, PeerStatus::Connected);
    assert!(store.sent().iter().all(|(to, _)| *to != PEER), "each has ten seconds");
    keep_busy(&mut store, &liars, &mut asked, 2);
    let time = compare(&mut store, PEER).time;
    store.receive(PEER, Message::Differ(differ(time)));
    let began = asked_of(&mut store, PEER);
    assert!(matches!(began[..], [(_, Ask::Summary(Range::ALL))]), "{began:?}");
    list(&mut store, PEER, began[0].0, Vec::new());
    assert!(is_done(&mut store, PEER));
}

#[test]
fn there_is_one_exchange_with_a_peer_at_a_time() {
    let mut store = store(&[PEER]);
    let number = begin(&mut store, PEER);
    let asked = compare(&mut store, PEER).time;
    store.receive(PEER, Message::Differ(differ(asked)));
    assert_eq!(store.sent(), []);
    list(&mut store, PEER, number, Vec::new());
    assert!(is_done(&mut store, PEER));
}

#[test]
fn a_question_is_repeated_less_and_less_often_and_then_given_up() {
    let mut store = store(&[PEER]);
    let number = begin(&mut store, PEER);
    let mut times = Vec::new();
    for tenths in 1..200 {
        store.pass(ms(100));
        if asked_of(&mut store, PEER) == [(number, Ask::Summary(Range::ALL))] {
            times.push(tenths);
        }
    }
    assert_eq!(times, [5, 15, 30]);
    list(&mut store, PEER, number, Vec::new());
    assert!(!is_done(&mut store, PEER));
}

#[test]
fn what_is_fetched_from_one_is_not_asked_of_another_until_that_one_failed() {
    let entry = written("key", 990, WRITER);
    let fetch = Ask::Want(vec![listed(&entry).key_hash]);
    let both = |store: &mut Harness<Store>| {
        let numbers = [PEER, STRANGER].map(|peer| begin(store, peer));
        list(store, PEER, numbers[0], vec![listed(&entry)]);
        let asked = asked_of(store, PEER);
        list(store, STRANGER, numbers[1], vec![listed(&entry)]);
        assert_eq!((asked[0].1.clone(), store.sent()), (fetch.clone(), vec![]));
        asked[0].0
    };
    // It comes: nothing is left to ask the other.
    let [mut store, mut silent, mut removed] = [0; 3].map(|_| store(&[PEER, STRANGER]));
    let number = both(&mut store);
    store.receive(PEER, Message::Answer(number, Answer::Entries(vec![entry.clone()])));
    assert!(is_done(&mut store, PEER));
    assert_eq!(status(&mut store).keys, 1);
    store.pass(ms(100));
    assert!(is_done(&mut store, STRANGER));
    // It does not.
    both(&mut silent);
    silent.pass(ms(4_900));
    assert_eq!(asked_of(&mut silent, STRANGER), []);
    silent.pass(ms(200));
    assert!(matches!(&asked_of(&mut silent, STRANGER)[..], [(_, ask)] if *ask == fetch));
    // Its peer is removed.
    both(&mut removed);
    removed.command(StoreCommand::RemovePeer(PEER));
    removed.pass(ms(100));
    assert!(matches!(&asked_of(&mut removed, STRANGER)[..], [(_, ask)] if *ask == fetch));
}

#[test]
fn an_answer_of_another_kind_ends_the_exchange_without_a_result() {
    let mut store = store(&[PEER]);
    let number = begin(&mut store, PEER);
    store.receive(PEER, Message::Answer(number, Answer::Taken(Taken { all: true, outdated: Vec::new() })));
    store.pass(ms(100));
    assert!(!is_done(&mut store, PEER));
}

#[test]
fn who_gets_less_than_it_wanted_is_not_equal() {
    for came in [1, 0] {
        let mut store = store(&[PEER]);
        let number = begin(&mut store, PEER);
        let entries = [written("key", 900, WRITER), written("other", 900, WRITER)];
        list(&mut store, PEER, number, entries.iter().map(listed).collect());
        let number = asked_of(&mut store, PEER)[0].0;
        store.receive(PEER, Message::Answer(number, Answer::Entries(entries[..came].to_vec())));
        assert!(!is_done(&mut store, PEER), "what was left out did not fit any more, or is gone");
        assert_eq!(status(&mut store).keys, came);
        store.receive(PEER, push(entries[1].clone()));
        assert_eq!(status(&mut store).keys, came + 1, "and was not deleted");
    }
}

#[test]
fn a_tombstone_for_which_there_is_no_room_leaves_both_different() {
    let mut store = store_with(StoreConfig { bytes_max: 200, ..StoreConfig::default() }, &[PEER]);
    let tombstones = (10..99).map(|number| {
        let deleted = Stamp { time: at(990), node: WRITER };
        let entry = Entry { updated: deleted, floor: deleted, ..Entry::default() };
        Named { path: path(&format!("key{number}")), entry }
    });
    let tombstones: Vec<_> = tombstones.collect();
    tombstones.iter().for_each(|tombstone| store.receive(PEER, push(tombstone.clone())));
    let count = status(&mut store).tombstones;
    // All that is here, and one more.
    let number = begin(&mut store, PEER);
    list(&mut store, PEER, number, tombstones[..=count].iter().map(listed).collect());
    let asked = asked_of(&mut store, PEER);
    let [(number, Ask::Want(_))] = &asked[..] else { panic!("{asked:?}") };
    store.receive(PEER, Message::Answer(*number, Answer::Entries(vec![tombstones[count].clone()])));
    assert!(!is_done(&mut store, PEER));
    assert_eq!((status(&mut store).tombstones, status(&mut store).peers[&PEER]), (count, None));
}

#[test]
fn what_is_newer_here_than_what_was_fetched_is_given() {
    let mut store = store(&[PEER]);
    write(&mut store, Op::Put(Bytes::new()));
    store.pass(s(1));
    let number = begin(&mut store, PEER);
    let old = written("key", 900, WRITER);
    list(&mut store, PEER, number, vec![listed(&old)]);
    let number = asked_of(&mut store, PEER)[0].0;
    store.receive(PEER, Message::Answer(number, Answer::Entries(vec![old])));
    let asked = asked_of(&mut store, PEER);
    assert!(matches!(&asked[..], [(_, Ask::Give(given))] if given[0].path == path("key")), "{asked:?}");
}

#[test]
fn what_was_refused_on_either_side_leaves_both_different() {
    let mut store = store(&[PEER]);
    let ahead = written("key", 2_000, WRITER);
    let number = begin(&mut store, PEER);
    list(&mut store, PEER, number, vec![listed(&ahead)]);
    let number = asked_of(&mut store, PEER)[0].0;
    store.receive(PEER, Message::Answer(number, Answer::Entries(vec![ahead.clone()])));
    assert!(!is_done(&mut store, PEER));

    store.receive(PEER, Message::Root(root(5, 1_000)));
    let sent = store.sent();
    let Some((_, Message::Differ(Differ { token, .. }))) = sent.last() else { panic!("{sent:?}") };
    store.receive(PEER, Message::Ask(*token, 1, Ask::Give(vec![written("fine", 990, WRITER), ahead])));
    let taken = Taken { all: false, outdated: Vec::new() };
    assert_eq!(store.sent(), [(PEER, Message::Answer(1, Answer::Taken(taken)))]);
}

#[test]
fn what_is_longer_than_there_may_be_is_not_waited_for() {
    let mut store = store(&[PEER]);
    for len in [u32::MAX, 200_000] {
        let number = begin(&mut store, PEER);
        list(&mut store, PEER, number, vec![Listed { key_hash: 1, hash: 2, len }]);
        assert!(!is_done(&mut store, PEER));
    }
    // The exchange has come to an end: the next can begin.
    begin(&mut store, PEER);
}

#[test]
fn while_much_is_wanted_no_more_is_looked_for() {
    let mut store = store(&[PEER]);
    let mut asked = vec![(begin(&mut store, PEER), Ask::Summary(Range::ALL))];
    let (mut summaries, mut key_hash) = (0, 0_u64);
    while let Some((number, ask)) = asked.pop() {
        assert!(asked.len() < 16, "questions on their way");
        match ask {
            Ask::Summary(Range::ALL) => {
                store.receive(PEER, Message::Answer(number, Answer::Summary(Summary::Parts(vec![7; PARTS]))));
            }
            Ask::Summary(range) => {
                summaries += 1;
                let (_, first): (u8, u64) = wire::from_bytes(&wire::to_bytes(&range)).unwrap();
                key_hash += 1;
                let item = |at| Listed { key_hash: first + at, hash: key_hash, len: 1_000 };
                list(&mut store, PEER, number, (0..LISTED_MAX as u64).map(item).collect());
            }
            // Nothing is fetched in this test.
            _ => continue,
        }
        asked.extend(asked_of(&mut store, PEER));
    }
    assert!((11..=11 + 16).contains(&summaries), "{summaries}");
}

#[test]
fn answers_and_pushes_fit_into_a_message_but_for_an_entry_that_is_longer() {
    let mut store = store(&[PEER]);
    let value = Bytes::from(vec![7; 300]);
    let put = |number: u32, value: &Bytes| Write::new("test", format!("key{number}"), Op::Put(value.clone()));
    store.command(StoreCommand::Write((0..20).map(|number| put(number, &value)).collect()));
    store.command(StoreCommand::Write(vec![put(99, &Bytes::from(vec![7; 5_000]))]));
    store.pass(s(1));
    let mut pushed = 0;
    for (_, message) in store.sent() {
        let Message::Push(updates) = &message else { continue };
        pushed += updates.len();
        let len = wire::to_bytes(&message).len() + FRAME_OVERHEAD;
        assert!(len <= 1_400 || updates.len() == 1, "{len}");
    }
    assert_eq!(pushed, 21);
    store.receive(PEER, Message::Root(root(5, 1_000)));
    let sent = store.sent();
    let Some((_, Message::Differ(Differ { token, .. }))) = sent.last() else { panic!("{sent:?}") };
    let key_hash = |number: u32| short_hash(&wire::to_bytes(&path(&format!("key{number}"))));
    for (wanted, expected) in [((0..20).collect::<Vec<_>>(), 3), (vec![99], 1), (vec![98], 0)] {
        let keys = wanted.into_iter().map(key_hash).collect();
        store.receive(PEER, Message::Ask(*token, 1, Ask::Want(keys)));
        let sent = store.sent();
        let [(PEER, message @ Message::Answer(1, Answer::Entries(entries)))] = &sent[..] else { panic!("{sent:?}") };
        assert_eq!(entries.len(), expected);
        assert!(wire::to_bytes(message).len() + FRAME_OVERHEAD <= 1_400 || entries.len() == 1);
    }
}

#[test]
fn what_is_written_anew_while_its_old_value_is_refused_stays() {
    let mut store = store(&[PEER]);
    write(&mut store, Op::Put(Bytes::new()));
    store.pass(s(1));
    let number = begin(&mut store, PEER);
    list(&mut store, PEER, number, Vec::new());
    let number = asked_of(&mut store, PEER)[0].0;
    write(&mut store, Op::Put(Bytes::from_static(b"new")));
    let outdated = vec![short_hash(&wire::to_bytes(&path("key")))];
    store.receive(PEER, Message::Answer(number, Answer::Taken(Taken { all: false, outdated })));
    assert_eq!(status(&mut store).keys, 1);
}

#[test]
fn what_was_deleted_meanwhile_is_dropped_from_the_log_too() {
    let mut store = store_with(StoreConfig { durable: true, ..StoreConfig::default() }, &[PEER]);
    write(&mut store, Op::Put(Bytes::new()));
    store.sync();
    store.logged();
    let number = begin(&mut store, PEER);
    list(&mut store, PEER, number, Vec::new());
    let number = asked_of(&mut store, PEER)[0].0;
    let outdated = vec![short_hash(&wire::to_bytes(&path("key")))];
    store.receive(PEER, Message::Answer(number, Answer::Taken(Taken { all: false, outdated })));
    assert_eq!(status(&mut store).keys, 0);
    let logged = store.logged();
    let [LogOp::Record(Record::State(state)), LogOp::Record(Record::Forgotten(gone))] = &logged[..] else {
        panic!("{logged:?} says what is known and what is dropped");
    };
    assert!(state.memory.knows_deletions && *gone == path("key"));
}
