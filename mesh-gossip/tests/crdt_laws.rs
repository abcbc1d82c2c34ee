//! The laws of merging and of deletion, for each type and for entries.

use mesh_core::{Bytes, NodeId, Wire, wire};
use mesh_gossip::crdt::{Actor, Counter, Crdt, HybridTime, Map, Max, Min, Register, Set, Stamp, Types};
use mesh_gossip::store::{Deadline, Entry};
use proptest::prelude::*;

/// Few times and nodes, so that writes meet.
fn stamp() -> impl Strategy<Value = Stamp> {
    (1..12_u64, 1..4_u128).prop_map(|(time, node)| Stamp { time: HybridTime(time), node: NodeId(node) })
}

fn word() -> impl Strategy<Value = Bytes> {
    (0..3_u8).prop_map(|letter| Bytes::from(vec![letter]))
}

fn register() -> impl Strategy<Value = Register> {
    (stamp(), word()).prop_map(|(stamp, value)| Register { stamp, value })
}

fn counter() -> impl Strategy<Value = Counter> {
    let change = (1..4_u128, 0..2_u64, -5..5_i64);
    prop::collection::vec(change, 0..6).prop_map(|changes| {
        changes.into_iter().fold(Counter::default(), |mut counter, (node, start, amount)| {
            counter.merge(counter.add(Actor { node: NodeId(node), start }, amount));
            counter
        })
    })
}

fn set() -> impl Strategy<Value = Set> {
    prop::collection::vec((word(), stamp(), any::<bool>()), 0..8).prop_map(|changes| {
        changes.into_iter().fold(Set::default(), |mut set, (element, stamp, adds)| {
            set.merge(if adds { set.insert(element, stamp) } else { set.remove(&element) });
            set
        })
    })
}

fn map() -> impl Strategy<Value = Map> {
    prop::collection::vec((word(), prop::option::of(word()), stamp()), 0..8).prop_map(|changes| {
        changes.into_iter().fold(Map::default(), |mut map, (field, value, stamp)| {
            map.merge(Map::set(field, value, stamp));
            map
        })
    })
}

fn merged<C: Crdt + Clone>(one: &C, other: &C) -> C {
    let mut merged = one.clone();
    merged.merge(other.clone());
    merged
}

/// What is left of two, either of which may be nothing.
fn joined<C: Crdt + Clone>(one: Option<C>, other: Option<C>) -> Option<C> {
    match (one, other) {
        (Some(one), Some(other)) => Some(merged(&one, &other)),
        (one, other) => one.or(other),
    }
}

fn keeps_the_laws<C: Crdt + Clone + PartialEq + std::fmt::Debug>(a: &C, b: &C, c: &C, floors: [Stamp; 2]) {
    assert_eq!(merged(a, b), merged(b, a), "commutative");
    assert_eq!(merged(&merged(a, b), c), merged(a, &merged(b, c)), "associative");
    assert_eq!(merged(a, a), *a, "idempotent");
    let [low, high] = if floors[0] < floors[1] { floors } else { [floors[1], floors[0]] };
    assert_eq!(
        merged(a, b).forget(low),
        joined(a.clone().forget(low), b.clone().forget(low)),
        "merging and forgetting"
    );
    assert_eq!(a.clone().forget(low).and_then(|left| left.forget(high)), a.clone().forget(high), "forgetting more");
    assert!(merged(a, b).newest() >= a.newest());
    assert_eq!(wire::from_bytes::<C>(&wire::to_bytes(a)).as_ref(), Ok(a), "one encoding");
}

/// An entry as writes make it: all in it is later than the floor and not later than `updated`.
fn entry<C: Crdt>(state: impl Strategy<Value = C>) -> impl Strategy<Value = Entry> {
    let deadline = (stamp(), prop::option::of(1..9_u64));
    (prop::option::of(state), stamp(), prop::option::of(stamp()), deadline).prop_map(
        |(state, updated, floor, (set, at))| {
            let floor = floor.unwrap_or_default();
            let state =
                state.and_then(|state| if floor > Stamp::default() { state.forget(floor) } else { Some(state) });
            let newest = state.as_ref().map_or_else(Stamp::default, Crdt::newest);
            let deadline = if set > floor { Deadline { set, at: at.map(HybridTime) } } else { Deadline::default() };
            let updated = updated.max(floor).max(newest).max(deadline.set);
            Entry { updated, floor, deadline, state: state.map(|state| wire::to_bytes(&state)) }
        },
    )
}

fn merged_entries(tag: u16, one: &Entry, other: &Entry) -> Entry {
    let mut merged = one.clone();
    merged.merge(other.clone(), tag, &Types::default()).expect("both are well formed");
    merged
}

fn expired(tag: u16, entry: &Entry) -> Entry {
    let mut expired = entry.clone();
    expired.expire(tag, &Types::default()).expect("it is well formed");
    expired
}

fn entries_keep_the_laws<C: Crdt + Wire>(a: &Entry, b: &Entry, c: &Entry) {
    let merged = |one: &Entry, other: &Entry| merged_entries(C::TAG, one, other);
    assert_eq!(merged(a, b), merged(b, a), "commutative");
    assert_eq!(merged(&merged(a, b), c), merged(a, &merged(b, c)), "associative");
    assert_eq!(merged(a, a), *a, "idempotent");
    assert_eq!(merged(&merged(a, b), b), merged(a, b), "it only grows");
    let late = expired(C::TAG, &merged(a, &expired(C::TAG, a)));
    assert_eq!(late, expired(C::TAG, a), "whoever expires it first, it is the same");
    assert_eq!(merged(a, b).is_consistent(C::TAG, &Types::default()), Ok(true));
}

proptest! {
    #[test]
    fn registers(a in register(), b in register(), c in register(), floors in [stamp(), stamp()]) {
        keeps_the_laws(&a, &b, &c, floors);
    }

    #[test]
    fn counters(a in counter(), b in counter(), c in counter(), floors in [stamp(), stamp()]) {
        keeps_the_laws(&a, &b, &c, floors);
    }

    #[test]
    fn sets(a in set(), b in set(), c in set(), floors in [stamp(), stamp()]) {
        keeps_the_laws(&a, &b, &c, floors);
    }

    #[test]
    fn maps(a in map(), b in map(), c in map(), floors in [stamp(), stamp()]) {
        keeps_the_laws(&a, &b, &c, floors);
    }

    #[test]
    fn extrema(a: i64, b: i64, c: i64, floors in [stamp(), stamp()]) {
        keeps_the_laws(&Max(a), &Max(b), &Max(c), floors);
        keeps_the_laws(&Min(a), &Min(b), &Min(c), floors);
    }

    #[test]
    fn entries_of_registers(a in entry(register()), b in entry(register()), c in entry(register())) {
        entries_keep_the_laws::<Register>(&a, &b, &c);
    }

    #[test]
    fn entries_of_counters(a in entry(counter()), b in entry(counter()), c in entry(counter())) {
        entries_keep_the_laws::<Counter>(&a, &b, &c);
    }

    #[test]
    fn entries_of_sets(a in entry(set()), b in entry(set()), c in entry(set())) {
        entries_keep_the_laws::<Set>(&a, &b, &c);
    }

    #[test]
    fn entries_of_maps(a in entry(map()), b in entry(map()), c in entry(map())) {
        entries_keep_the_laws::<Map>(&a, &b, &c);
    }
}

#[test]
fn sums_stay_within_their_type() {
    let actor = |start| Actor { node: NodeId(1), start };
    let mut counter = Counter::default();
    for start in 0..5 {
        counter.merge(counter.add(actor(start), i64::MIN));
    }
    assert_eq!(counter.value(), i64::MIN);
    for start in 5..20 {
        counter.merge(counter.add(actor(start), i64::MAX));
    }
    assert_eq!(counter.value(), i64::MAX);
}
