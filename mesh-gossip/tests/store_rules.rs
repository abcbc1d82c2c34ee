//! One replica by hand: each rule about tombstones and about who has what.

mod support_store;

use mesh_core::{Bytes, Harness, LogOp, NodeId, wire};
use mesh_gossip::anti_entropy::Summary;
use mesh_gossip::crdt::{HybridTime, Stamp};
use mesh_gossip::store::{
    Answer, Ask, Collected, Differ, Entry, Equal, Gave, Memory, Message, Named, Op, Record, Root, State, Store,
    StoreCommand, StoreConfig, StoreReply, Taken,
};
use support_store::hand::{
    ME, MEMORY, PEER, STRANGER, WRITER, asked_of, at, be_equal, compare, differ, list, path, push, root, short_hash,
    status, store, store_with, write, written,
};
use support_store::s;

/// What one remembers that lost its memory then.
fn since(seconds: u64) -> Memory {
    Memory { start: at(seconds), ..MEMORY }
}

/// What a peer gave that never lost its memory.
fn gave(upto: HybridTime) -> Gave {
    Gave { start: MEMORY.start, upto }
}

#[test]
fn a_tombstone_of_one_alone_waits_for_the_grace_and_no_longer() {
    let mut store = store(&[]);
    write(&mut store, Op::Put(Bytes::new()));
    write(&mut store, Op::Delete);
    store.pass(s(90));
    assert_eq!(status(&mut store).tombstones, 1);
    store.pass(s(40));
    assert_eq!(status(&mut store).tombstones, 0);
}

#[test]
fn a_tombstone_waits_for_every_peer_to_have_it() {
    let mut store = store(&[PEER, STRANGER]);
    be_equal(&mut store, PEER, |root| root);
    be_equal(&mut store, STRANGER, |root| root);
    store.pass(s(1));
    write(&mut store, Op::Put(Bytes::new()));
    write(&mut store, Op::Delete);
    store.pass(s(1));
    be_equal(&mut store, PEER, |root| root);
    store.pass(s(500));
    assert_eq!(status(&mut store).tombstones, 1);
    be_equal(&mut store, STRANGER, |root| root);
    store.pass(s(50));
    assert_eq!(status(&mut store).tombstones, 0);
}

#[test]
fn a_late_word_of_a_peer_that_was_removed_makes_no_tombstone_wait_for_it() {
    let mut store = store(&[PEER]);
    write(&mut store, Op::Put(Bytes::new()));
    write(&mut store, Op::Delete);
    store.command(StoreCommand::RemovePeer(PEER));
    store.sent();
    store.receive(PEER, Message::Root(root(1, 1_000)));
    assert!(store.sent().iter().any(|(to, _)| *to == PEER), "it is answered");
    assert!(status(&mut store).peers.is_empty());
    store.pass(s(200));
    assert_eq!(status(&mut store).tombstones, 0);
    // Once it is named, it is a peer again.
    store.command(StoreCommand::AddPeer(PEER));
    assert!(status(&mut store).peers.contains_key(&PEER));
}

#[test]
fn a_horizon_is_taken_over_and_tombstones_below_it_are_neither_taken_nor_compared() {
    let mut store = store(&[PEER]);
    write(&mut store, Op::Put(Bytes::new()));
    write(&mut store, Op::Delete);
    assert_ne!(status(&mut store).digest, 0);
    store.pass(s(200));
    store.receive(PEER, Message::Root(Root { horizon: at(1_100), ..root(5, 1_200) }));
    let now = status(&mut store);
    assert_eq!((now.horizon, now.digest, now.tombstones), (at(1_100), 0, 1));

    let deleted = Stamp { time: at(900), node: PEER };
    let entry = Entry { updated: deleted, floor: deleted, ..Entry::default() };
    store.receive(PEER, push(Named { path: path("other"), entry }));
    assert_eq!(status(&mut store).tombstones, 1);
}

#[test]
fn a_settled_tombstone_that_meets_what_it_deletes_goes_round_again() {
    let mut store = store(&[PEER]);
    let late = written("key", 999, WRITER);
    write(&mut store, Op::Put(Bytes::new()));
    write(&mut store, Op::Delete);
    store.pass(s(200));
    store.receive(PEER, Message::Root(Root { horizon: at(1_100), ..root(5, 1_200) }));
    store.sent();
    store.receive(PEER, push(late));
    let now = status(&mut store);
    assert_eq!((now.keys, now.tombstones), (0, 1));
    assert_ne!(now.digest, 0, "it is compared again");
    store.pass(s(1));
    assert!(store.sent().iter().any(|(_, message)| matches!(message, Message::Push(_))));
    // It deletes no more than before.
    store.receive(PEER, push(written("key", 1_150, WRITER)));
    assert_eq!(status(&mut store).keys, 1);
}

#[test]
fn what_its_writer_had_when_last_in_touch_and_is_not_here_was_deleted() {
    let mut store = store(&[PEER, WRITER]);
    be_equal(&mut store, WRITER, |root| root);
    store.receive(STRANGER, push(written("old", 999, WRITER)));
    assert_eq!(status(&mut store).keys, 0);
    store.pass(s(10));
    store.receive(STRANGER, push(written("new", 1_001, WRITER)));
    assert_eq!(status(&mut store).keys, 1);
}

#[test]
fn what_its_holder_had_when_last_in_touch_was_deleted_if_tombstones_went_since() {
    let mut store = store(&[PEER, STRANGER]);
    be_equal(&mut store, PEER, |root| root);
    store.receive(PEER, push(written("late", 990, WRITER)));
    assert_eq!(status(&mut store).keys, 1, "its writer was cut off, and the peer heard of it later");
    store.pass(s(10));
    write(&mut store, Op::Put(Bytes::new()));
    write(&mut store, Op::Delete);
    store.pass(s(1_100));
    assert_eq!(status(&mut store).tombstones, 0);
    store.receive(PEER, push(written("old", 990, WRITER)));
    assert_eq!(status(&mut store).keys, 1);
    store.receive(PEER, push(written("new", 1_001, WRITER)));
    assert_eq!(status(&mut store).keys, 2);
}

#[test]
fn what_this_node_wrote_and_is_not_here_was_deleted() {
    let mut store = store(&[PEER]);
    be_equal(&mut store, PEER, |root| root);
    store.receive(PEER, push(written("old", 999, ME)));
    assert_eq!(status(&mut store).keys, 0);
    // From before it lost its memory: its clock showed zero at the start.
    let mut restarted =
        Harness::new(ME, Store::new(StoreConfig { clock_origin: s(5_000), ..StoreConfig::default() }).unwrap());
    restarted.receive(PEER, push(written("old", 4_999, ME)));
    assert_eq!(status(&mut restarted).keys, 1);
    // By a clock that was ahead of what it is now.
    restarted.pass(s(5));
    restarted.receive(PEER, push(written("ahead", 5_014, ME)));
    assert_eq!(status(&mut restarted).keys, 2, "who knows of no deletion takes what it gets");
    restarted.pass(s(15));
    be_equal(&mut restarted, PEER, |root| Root {
        time: at(5_020),
        memory: Memory { knows_deletions: false, ..MEMORY },
        ..root
    });
    restarted.receive(PEER, push(written("later", 5_016, ME)));
    assert_eq!(status(&mut restarted).keys, 3, "its peer knows of none either");
    be_equal(&mut restarted, PEER, |root| Root { time: at(5_020), ..root });
    restarted.receive(PEER, push(written("deleted", 5_017, ME)));
    assert_eq!(status(&mut restarted).keys, 3);
    restarted.receive(PEER, push(written("unheard-of", 5_016, ME)));
    assert_eq!(status(&mut restarted).keys, 4, "it wrote that before it lost its memory, as far as it knows");
}

#[test]
fn what_this_node_wrote_and_collected_while_it_was_alone_was_deleted() {
    let mut store = store(&[]);
    write(&mut store, Op::Put(Bytes::new()));
    store.receive(PEER, push(written("fresh", 999, ME)));
    assert_eq!(status(&mut store).keys, 2, "it has deleted nothing");
    write(&mut store, Op::Delete);
    store.command(StoreCommand::RemovePeer(PEER));
    store.pass(s(200));
    assert_eq!(status(&mut store).tombstones, 0);
    store.receive(PEER, push(written("key", 1_000, ME)));
    assert_eq!(status(&mut store).keys, 1);
}

#[test]
fn a_replica_that_is_told_the_time_late_takes_what_it_wrote_before_it_lost_its_memory() {
    let mut store = Harness::new(ME, Store::new(StoreConfig::default()).unwrap());
    store.command(StoreCommand::SetTime(s(5_000)));
    be_equal(&mut store, PEER, |root| Root { time: at(5_000), ..root });
    store.receive(PEER, push(written("old", 5_008, ME)));
    assert_eq!(status(&mut store).keys, 1, "stamps may be ahead by 10 s");
    store.command(StoreCommand::SetTime(s(6_000)));
    store.receive(PEER, push(written("deleted", 5_011, ME)));
    assert_eq!(status(&mut store).keys, 1, "it knows of deletions since");
}

#[test]
fn what_a_peer_wrote_before_it_lost_its_memory_is_taken() {
    let mut store = store(&[PEER, WRITER]);
    be_equal(&mut store, WRITER, |root| Root { time: at(800), memory: since(100), ..root });
    store.receive(PEER, push(written("deleted", 800, WRITER)));
    assert_eq!(status(&mut store).keys, 0);
    // It has not been here, and its writer has it no more.
    be_equal(&mut store, WRITER, |root| Root { memory: since(950), ..root });
    store.receive(PEER, push(written("old", 900, WRITER)));
    assert_eq!(status(&mut store).keys, 1);
    store.receive(PEER, push(written("late", 950, WRITER)));
    assert_eq!(status(&mut store).keys, 2);
    store.receive(PEER, push(written("deleted", 951, WRITER)));
    assert_eq!(status(&mut store).keys, 2);
    // Its clock was set back meanwhile.
    be_equal(&mut store, WRITER, |root| Root { time: at(910), memory: since(905), ..root });
    store.receive(PEER, push(written("new", 951, WRITER)));
    assert_eq!(status(&mut store).keys, 3);
    store.receive(PEER, push(written("deleted", 909, WRITER)));
    assert_eq!(status(&mut store).keys, 3);
}

#[test]
fn what_others_tell_of_a_writer_counts_for_the_memory_that_it_has_now() {
    let mut store = store(&[PEER, WRITER]);
    be_equal(&mut store, WRITER, |root| Root { time: at(600), memory: since(500), ..root });
    let away = vec![(WRITER, Gave { start: at(100), upto: at(900) })];
    be_equal(&mut store, PEER, |root| Root { away, ..root });
    store.receive(STRANGER, push(written("old", 900, WRITER)));
    assert_eq!(status(&mut store).keys, 1);
    let away = vec![(WRITER, Gave { start: at(500), upto: at(901) })];
    be_equal(&mut store, PEER, |root| Root { away, ..root });
    store.receive(STRANGER, push(written("deleted", 901, WRITER)));
    assert_eq!(status(&mut store).keys, 1);
}

#[test]
fn those_who_are_equal_tell_each_other_of_those_who_are_away() {
    let mut store = store(&[PEER, WRITER]);
    let away = vec![(WRITER, gave(at(900)))];
    be_equal(&mut store, PEER, |root| Root { away, ..root });
    store.receive(STRANGER, push(written("old", 900, WRITER)));
    assert_eq!(status(&mut store).keys, 0);
    store.receive(STRANGER, push(written("new", 901, WRITER)));
    assert_eq!(status(&mut store).keys, 1);
}

#[test]
fn what_tells_nothing_of_a_writer_does_not_stand_in_the_way_of_what_does() {
    let mut store = store(&[PEER, WRITER]);
    for gave in [Gave { start: at(950), upto: at(950) }, gave(at(900))] {
        be_equal(&mut store, PEER, |root| Root { away: vec![(WRITER, gave)], ..root });
    }
    store.receive(STRANGER, push(written("old", 900, WRITER)));
    assert_eq!(status(&mut store).keys, 0);
}

#[test]
fn what_is_older_than_the_time_since_when_somebody_was_away_is_not_taken_from_strangers() {
    let mut blank = store(&[PEER]);
    let collected = Collected { upto: at(950), in_touch: at(900) };
    blank.receive(PEER, Message::Root(Root { collected, ..root(5, 1_000) }));
    blank.receive(STRANGER, push(written("old", 900, WRITER)));
    assert_eq!(status(&mut blank).keys, 1, "who knows nothing takes what it gets");

    let mut store = store(&[PEER]);
    be_equal(&mut store, PEER, |root| Root { collected, ..root });
    store.receive(STRANGER, push(written("old", 900, WRITER)));
    assert_eq!(status(&mut store).keys, 0);
    store.receive(STRANGER, push(written("new", 901, WRITER)));
    assert_eq!(status(&mut store).keys, 1);
    store.receive(PEER, push(written("known", 900, WRITER)));
    assert_eq!(status(&mut store).keys, 2, "one that was met is believed");
}

#[test]
fn only_an_exchange_in_which_nothing_was_refused_makes_equal() {
    for (all, outdated) in [(true, false), (false, false), (false, true)] {
        let mut store = store(&[PEER]);
        write(&mut store, Op::Put(Bytes::new()));
        store.pass(s(10));
        let sent = store.sent();
        let asked = sent.iter().rev().find_map(|(_, message)| match message {
            Message::Root(root) => Some(root.time),
            _ => None,
        });
        let (asked, time, horizon, collected) = (asked.unwrap(), at(1_010), HybridTime(0), Collected::default());
        store.receive(PEER, Message::Differ(Differ { asked, time, memory: MEMORY, token: 77, horizon, collected }));
        let sent = store.sent();
        let [(PEER, Message::Ask(77, number, Ask::Summary(_)))] = &sent[..] else { panic!("{sent:?}") };
        store.receive(PEER, Message::Answer(*number, Answer::Summary(Summary::List(Vec::new()))));
        let sent = store.sent();
        let [(PEER, Message::Ask(77, number, Ask::Give(given)))] = &sent[..] else { panic!("{sent:?}") };
        assert_eq!(given.len(), 1);
        let outdated = if outdated { vec![short_hash(&wire::to_bytes(&given[0].path))] } else { Vec::new() };
        let kept = usize::from(outdated.is_empty());
        store.receive(PEER, Message::Answer(*number, Answer::Taken(Taken { all, outdated })));
        let is_done = store.sent().iter().any(|(_, message)| matches!(message, Message::Done(77, _)));
        assert_eq!(is_done, all);
        let now = status(&mut store);
        assert_eq!((now.keys, now.peers[&PEER].is_some()), (kept, all));
    }
}

#[test]
fn a_tombstone_is_taken_from_whoever_brings_it() {
    let mut store = store(&[PEER, WRITER]);
    be_equal(&mut store, WRITER, |root| root);
    let deleted = Stamp { time: at(950), node: WRITER };
    let entry = Entry { updated: deleted, floor: deleted, ..Entry::default() };
    store.receive(STRANGER, push(Named { path: path("key"), entry }));
    assert_eq!(status(&mut store).tombstones, 1);
}

/// What a replica says of collected tombstones, and of those who are away.
fn told(store: &mut Harness<Store>) -> Root {
    store.pass(s(3));
    let root = |(_, message)| if let Message::Root(root) = message { Some(root) } else { None };
    store.sent().into_iter().rev().find_map(root).expect("digests are compared")
}

#[test]
fn who_was_away_when_tombstones_went_is_told_with_what_was_had_of_it() {
    let mut store = store(&[PEER, WRITER]);
    be_equal(&mut store, WRITER, |root| root);
    // The peer has more of it than this node.
    be_equal(&mut store, PEER, |root| Root { away: vec![(WRITER, gave(at(1_000)))], ..root });
    store.pass(s(10));
    be_equal(&mut store, PEER, |root| Root {
        away: vec![(WRITER, gave(at(1_005))), (NodeId(50), gave(at(1_005)))],
        ..root
    });
    write(&mut store, Op::Put(Bytes::new()));
    write(&mut store, Op::Delete);
    assert_eq!(told(&mut store).collected, Collected::default());
    store.pass(s(1_100));
    assert_eq!(status(&mut store).tombstones, 0);
    let Collected { upto, in_touch } = told(&mut store).collected;
    assert!(upto >= at(1_010) && upto < at(1_020), "{upto:?}");
    assert_eq!(in_touch, at(1_005), "the least of them all: not that of who was never met");
}

#[test]
fn who_lost_its_memory_is_away_since_it_was_in_touch_before() {
    let mut store = store(&[WRITER]);
    be_equal(&mut store, WRITER, |root| root);
    store.pass(s(1));
    store.receive(WRITER, Message::Root(Root { memory: since(1_000), ..root(5, 1_001) }));
    write(&mut store, Op::Put(Bytes::new()));
    write(&mut store, Op::Delete);
    store.pass(s(1_100));
    assert_eq!((status(&mut store).tombstones, told(&mut store).collected.in_touch), (0, at(1_000)));
}

#[test]
fn a_claim_of_what_was_collected_is_taken_where_it_can_be_and_is_none_less() {
    let mut store = store(&[PEER]);
    let claim = |upto, in_touch| Collected { upto: at(upto), in_touch: at(in_touch) };
    let after = [
        (claim(5_000, 900), claim(0, 0)),
        (claim(900, 950), claim(0, 0)),
        (claim(950, 900), claim(950, 900)),
        (claim(940, 900), claim(950, 900)),
        (claim(960, 910), claim(960, 910)),
    ];
    for (collected, expected) in after {
        store.receive(PEER, Message::Root(Root { collected, ..root(5, 1_000) }));
        assert_eq!(told(&mut store).collected, expected, "{collected:?}");
    }
}

#[test]
fn those_are_away_who_were_not_in_touch_for_long_and_each_has_its_turn_to_be_told_of() {
    let ids: Vec<_> = (10..30).map(NodeId).collect();
    let mut store = store(&ids);
    ids[..18].iter().for_each(|id| be_equal(&mut store, *id, |root| root));
    assert_eq!(told(&mut store).away, []);
    store.pass(s(240));
    be_equal(&mut store, NodeId(10), |root| root);
    store.pass(s(10));
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..20 {
        let away = told(&mut store).away;
        assert!(away.len() <= 8 && away.iter().all(|(_, had)| *had == gave(at(1_000))), "{away:?}");
        seen.extend(away.into_iter().map(|(node, _)| node));
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ids[1..18]);
}

#[test]
fn what_was_in_touch_once_is_not_less_so_by_an_older_word() {
    let mut store = store(&[PEER, WRITER]);
    be_equal(&mut store, WRITER, |root| root);
    be_equal(&mut store, PEER, |root| Root { away: vec![(WRITER, gave(at(900)))], ..root });
    store.receive(STRANGER, push(written("old", 950, WRITER)));
    assert_eq!(status(&mut store).keys, 0);

    // A tombstone need not wait for who had it.
    let mut store = self::store(&[PEER]);
    write(&mut store, Op::Put(Bytes::new()));
    write(&mut store, Op::Delete);
    store.pass(s(10));
    be_equal(&mut store, PEER, |root| root);
    be_equal(&mut store, PEER, |root| Root { time: at(500), ..root });
    store.pass(s(200));
    assert_eq!(status(&mut store).tombstones, 0);
}

#[test]
fn what_a_peer_says_of_a_time_that_has_not_come_covers_no_later_write() {
    // With the clock of the peer ahead, or behind: the earlier of both times counts.
    let late = at(1_500);
    let equal = |store: &mut Harness<Store>| be_equal(store, PEER, |root| Root { time: late, ..root });
    let away =
        |store: &mut Harness<Store>| be_equal(store, STRANGER, |root| Root { away: vec![(PEER, gave(late))], ..root });
    let answers = |time: Option<HybridTime>| {
        move |store: &mut Harness<Store>| {
            let asked = compare(store, PEER).time;
            let time = time.unwrap_or(asked);
            store.receive(PEER, Message::Equal(Equal { asked, time, memory: MEMORY }));
        }
    };
    let exchanges = |time| {
        move |store: &mut Harness<Store>| {
            let asked = compare(store, PEER).time;
            store.receive(PEER, Message::Differ(Differ { time, ..differ(asked) }));
            let asked = asked_of(store, PEER);
            list(store, PEER, asked[0].0, Vec::new());
        }
    };
    let done = |store: &mut Harness<Store>| {
        store.receive(PEER, Message::Root(root(5, 1_000)));
        let sent = store.sent();
        let Some((_, Message::Differ(Differ { token, .. }))) = sent.last() else { panic!("{sent:?}") };
        store.receive(PEER, Message::Done(*token, late));
    };
    type Meeting<'a> = &'a dyn Fn(&mut Harness<Store>);
    let cases: [(&str, Meeting<'_>, u64); 7] = [
        ("equal, ahead", &equal, 1_005),
        ("away, ahead", &away, 1_005),
        ("answers equal, behind", &answers(Some(at(990))), 995),
        ("answers equal", &answers(None), 1_005),
        ("exchange, ahead", &exchanges(late), 1_005),
        ("exchange, behind", &exchanges(at(990)), 995),
        ("done, ahead", &done, 1_005),
    ];
    for (name, meet, writes_at) in cases {
        let mut store = store(&[PEER, STRANGER]);
        meet(&mut store);
        store.receive(WRITER, push(written("before", 980, PEER)));
        assert_eq!(status(&mut store).keys, 0, "{name}: all that it had is here");
        store.pass(s(10));
        store.receive(WRITER, push(written("after", writes_at, PEER)));
        assert_eq!(status(&mut store).keys, 1, "{name}");
    }
}

#[test]
fn a_horizon_comes_with_an_answer_too_and_never_goes_back() {
    let mut store = store_with(StoreConfig { durable: true, ..StoreConfig::default() }, &[PEER]);
    store.sync();
    let asked = compare(&mut store, PEER).time;
    store.receive(PEER, Message::Differ(Differ { horizon: at(940), ..differ(asked) }));
    assert_eq!(status(&mut store).horizon, at(940));
    store.receive(PEER, Message::Root(Root { horizon: at(930), ..root(5, 1_000) }));
    store.receive(PEER, Message::Root(Root { horizon: at(951), ..root(5, 1_000) }));
    assert_eq!(status(&mut store).horizon, at(940), "not back, nor within half of the grace");
    let states = |store: &mut Harness<Store>| -> Vec<_> {
        let appended = store.logged().into_iter();
        let state = |op| match op {
            LogOp::Record(Record::State(state)) => Some(state),
            _ => None,
        };
        appended.filter_map(state).collect()
    };
    let logged = states(&mut store);
    assert!(
        logged[0].memory.start > HybridTime(0) && logged[0].horizon == HybridTime(0),
        "when it began is known after a restart"
    );
    assert_eq!(logged.last().unwrap().horizon, at(940));
}

#[test]
fn what_is_written_after_a_restart_is_newer_than_what_was_collected_whatever_the_clock_says() {
    let set_back = StoreConfig { durable: true, clock_origin: s(4_000), ..StoreConfig::default() };
    let state = State { memory: MEMORY, actor: 7, horizon: at(5_000), collected: Collected::default() };
    let mut restarted = Harness::recovered(ME, Store::new(set_back).unwrap(), [Record::State(state)], &[]).unwrap();
    write(&mut restarted, Op::Put(Bytes::new()));
    restarted.sync();
    let replies = restarted.replies();
    let written = replies.iter().find_map(|(_, reply)| match reply {
        StoreReply::Written(Ok(stamp)) => Some(stamp.time),
        _ => None,
    });
    assert!(written > Some(at(5_000)), "{written:?}");
}

#[test]
fn what_a_replica_remembers_of_deletions_outlives_a_restart() {
    let config = StoreConfig { durable: true, ..StoreConfig::default() };
    let mut store = Harness::new(ME, Store::new(config.clone()).unwrap());
    let restart = |store: &mut Harness<Store>, seconds| {
        let record = |op| match op {
            LogOp::Record(record) => Some(record),
            _ => None,
        };
        let records: Vec<_> = store.logged().into_iter().filter_map(record).collect();
        let mut restarted = Harness::recovered(ME, Store::new(config.clone()).unwrap(), records, &[]).unwrap();
        restarted.command(StoreCommand::SetTime(s(seconds)));
        restarted.sync();
        restarted.command(StoreCommand::AddPeer(PEER));
        restarted.sync();
        (compare(&mut restarted, PEER).memory, restarted)
    };
    store.sync();
    store.command(StoreCommand::AddPeer(PEER));
    let first = compare(&mut store, PEER).memory;
    store.sync();
    // It crashed before it was told the time, and knew nothing yet.
    let (blank, mut restarted) = restart(&mut store, 5_000);
    assert!(!first.knows_deletions && !blank.knows_deletions);
    assert!(first.start < at(100) && blank.start >= at(5_000), "{blank:?}");
    let digest = status(&mut restarted).digest;
    restarted.receive(PEER, Message::Root(root(digest, 5_000)));
    restarted.sync();
    let (knows, _) = restart(&mut restarted, 9_000);
    assert_eq!(knows, Memory { knows_deletions: true, ..blank }, "the time that is told later changes nothing");
}

#[test]
fn a_clock_that_was_wrong_before_anything_was_written_does_no_harm() {
    let config = StoreConfig { clock_origin: s(90_000), ..StoreConfig::default() };
    let mut store = Harness::new(ME, Store::new(config).unwrap());
    store.command(StoreCommand::SetTime(s(5_000)));
    write(&mut store, Op::Put(Bytes::new()));
    store.command(StoreCommand::AddPeer(PEER));
    let root = compare(&mut store, PEER);
    assert!(root.time < at(5_001) && root.memory.start <= at(5_011), "{root:?}");
    // Corrected a little, as by a time server: the memory is the same.
    store.command(StoreCommand::SetTime(s(5_005)));
    assert_eq!(compare(&mut store, PEER).memory, root.memory);
}

#[test]
fn two_that_know_of_no_deletion_learn_of_none_by_being_equal() {
    let mut store = store(&[PEER, STRANGER]);
    let blank = Memory { knows_deletions: false, ..MEMORY };
    let collected = Collected { upto: at(950), in_touch: at(900) };
    be_equal(&mut store, PEER, |root| Root { memory: blank, collected, ..root });
    assert!(!compare(&mut store, PEER).memory.knows_deletions);
    store.receive(STRANGER, push(written("old", 900, WRITER)));
    assert_eq!(status(&mut store).keys, 1);
    be_equal(&mut store, PEER, |root| root);
    assert!(compare(&mut store, PEER).memory.knows_deletions);
    store.receive(NodeId(77), push(written("older", 890, WRITER)));
    assert_eq!(status(&mut store).keys, 1);
}
