use std::collections::BTreeSet;

use mesh_core::Rng64;
use proptest::collection::vec;
use proptest::{prop_assert, prop_assert_eq, prop_oneof, proptest};

use super::*;

/// The ring alone, rendezvous alone, and one that crosses from one to the other within the tests.
const RENDEZVOUS: [usize; 3] = [0, RENDEZVOUS_MAX, 6];
const KEYS: usize = 200;

fn config(rendezvous_max: usize) -> RingConfig {
    RingConfig { virtual_nodes: 16, rendezvous_max, ..RingConfig::default() }
}

fn ring(config: RingConfig, ids: impl IntoIterator<Item = u128>) -> Ring {
    Ring::with_members(config, ids.into_iter().map(|id| Member::new(NodeId(id)))).unwrap()
}

fn keys(count: usize) -> Vec<u128> {
    let mut rng = Rng64::from_seed(1, "keys");
    (0..count).map(|_| u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64())).collect()
}

/// For each key its replicas, with zones and without.
fn placement(ring: &Ring, count: usize) -> Vec<[Vec<NodeId>; 2]> {
    let replicas = |key| [ring.replicas(key, count).collect(), ring.replicas_across_zones(key, count).collect()];
    keys(KEYS).into_iter().map(replicas).collect()
}

/// What may happen to a ring: few ids, so that members come back, with other zones and weights.
#[derive(Clone, Debug)]
enum Change {
    Join(Member),
    Leave(NodeId),
}

fn changes() -> impl proptest::strategy::Strategy<Value = Vec<Change>> {
    use proptest::strategy::Strategy as _;
    let member = (0..12_u128, 0..4_u32, prop_oneof![4 => 100..101_u32, 1 => 1..400_u32]);
    let join = member.prop_map(|(id, zone, weight)| Change::Join(Member { id: NodeId(id), zone, weight }));
    let leave = (0..12_u128).prop_map(|id| Change::Leave(NodeId(id)));
    vec(prop_oneof![2 => join, 1 => leave], 0..30)
}

fn apply(ring: &mut Ring, members: &mut BTreeMap<NodeId, Member>, change: &Change) {
    match *change {
        Change::Join(member) => {
            assert_eq!(ring.join(member), members.insert(member.id, member) != Some(member));
        }
        Change::Leave(id) => assert_eq!(ring.leave(id), members.remove(&id)),
    }
}

proptest! {
    /// However it came about, a ring is that of its members: no two nodes of one view disagree.
    #[test]
    fn s18_after_any_changes_it_is_the_ring_of_its_members(changes in changes(), rendezvous in 0..3_usize) {
        let config = config(RENDEZVOUS[rendezvous]);
        let (mut ring, mut members) = (Ring::new(config.clone()).unwrap(), BTreeMap::new());
        for change in &changes {
            apply(&mut ring, &mut members, change);
        }
        let fresh = Ring::with_members(config, members.values().rev().copied()).unwrap();
        prop_assert!(ring == fresh);
        prop_assert_eq!(placement(&ring, 3), placement(&fresh, 3));
        prop_assert!(ring.members().eq(members.values().copied()));
    }

    /// The replicas lose or gain only the member that changed, whether zones count or not; where the way owners
    /// are found does not change with the number of members.
    #[test]
    fn s18_nothing_moves_between_members_that_stay(changes in changes(), rendezvous in 0..2_usize, count in 1..5_usize) {
        let (mut ring, mut members) = (Ring::new(config(RENDEZVOUS[rendezvous])).unwrap(), BTreeMap::new());
        for change in &changes {
            let before = placement(&ring, count);
            // Another weight or zone is as if one member left and another came.
            let changed = match change {
                Change::Join(member) if members.contains_key(&member.id) => {
                    apply(&mut ring, &mut members, change);
                    continue;
                }
                Change::Join(member) => member.id,
                Change::Leave(id) => *id,
            };
            apply(&mut ring, &mut members, change);
            let after = placement(&ring, count);
            for (before, after) in before.iter().flatten().zip(after.iter().flatten()) {
                let (smaller, larger) = if members.contains_key(&changed) { (before, after) } else { (after, before) };
                prop_assert!(larger.iter().all(|id| smaller.contains(id) || *id == changed));
                prop_assert!(larger.contains(&changed) || larger == smaller);
                prop_assert!(larger.first() == smaller.first() || larger.first() == Some(&changed));
            }
        }
    }

    #[test]
    fn s18_replicas_are_distinct_and_in_as_many_zones_as_there_are(
        changes in changes(), rendezvous in 0..3_usize, count in 0..20_usize,
    ) {
        let (mut ring, mut members) = (Ring::new(config(RENDEZVOUS[rendezvous])).unwrap(), BTreeMap::new());
        for change in &changes {
            apply(&mut ring, &mut members, change);
        }
        let zone = |id: &NodeId| members[id].zone;
        let zones = members.values().map(|member| member.zone).collect::<BTreeSet<_>>().len();
        let expected = count.min(members.len()).min(REPLICAS_MAX);
        for key in keys(KEYS) {
            let plain: Vec<_> = ring.replicas(key, count).collect();
            let across: Vec<_> = ring.replicas_across_zones(key, count).collect();
            for replicas in [&plain, &across] {
                prop_assert_eq!(replicas.len(), expected);
                prop_assert_eq!(replicas.iter().collect::<BTreeSet<_>>().len(), expected);
                prop_assert!(replicas.first() == ring.owner(key).as_ref() || count == 0);
            }
            let spread = across.iter().map(zone).collect::<BTreeSet<_>>().len();
            prop_assert_eq!(spread, expected.min(zones));
            prop_assert_eq!(across.iter().take(zones).map(zone).collect::<BTreeSet<_>>().len(), spread);
        }
    }

    #[test]
    fn who_kept_a_key_before_some_came_and_others_went_is_told(
        changes in changes(), rendezvous in 0..3_usize, count in 1..5_usize, were_there: u16, gone in 0..4_usize,
    ) {
        let (mut ring, mut members) = (Ring::new(config(RENDEZVOUS[rendezvous])).unwrap(), BTreeMap::new());
        for change in &changes {
            apply(&mut ring, &mut members, change);
        }
        let was_there = |id: NodeId| were_there >> id.0 & 1 == 1;
        members.retain(|id, _| was_there(*id));
        // Those who are gone count where it is told how owners were found, and nowhere else.
        let by_rendezvous = members.len() + gone <= RENDEZVOUS[rendezvous];
        let before = config(if by_rendezvous { RENDEZVOUS_MAX } else { 0 });
        let before = Ring::with_members(before, members.into_values()).unwrap();
        for key in keys(KEYS) {
            let expected: Vec<_> = before.replicas_across_zones(key, count).collect();
            prop_assert_eq!(ring.replicas_among(key, count, gone, was_there), expected);
        }
    }

    #[test]
    fn replicas_are_the_members_of_the_nearest_places_in_order(ids in vec(0..1000_u128, 1..40), virtual_nodes in 1..9_u32) {
        let config = RingConfig { virtual_nodes, rendezvous_max: 0, ..RingConfig::default() };
        let ring = ring(config.clone(), ids);
        for key in keys(KEYS) {
            let far = |place: u64| place.wrapping_sub(fold(key)).min(fold(key).wrapping_sub(place));
            let mut nearest: Vec<_> = ring.members().map(|member| (member.places(&config).into_iter().map(far).min(), member.id)).collect();
            nearest.sort_unstable();
            prop_assert!(ring.replicas(key, REPLICAS_MAX).eq(nearest.into_iter().take(REPLICAS_MAX).map(|(_, id)| id)));
        }
    }

    /// Whatever came before, the next one finds a member below its bound.
    #[test]
    fn no_load_exceeds_its_bound(changes in changes(), rendezvous in 0..3_usize) {
        let (mut ring, mut members) = (Ring::new(config(RENDEZVOUS[rendezvous])).unwrap(), BTreeMap::new());
        for change in &changes {
            apply(&mut ring, &mut members, change);
        }
        let mut loads: BTreeMap<NodeId, u64> = BTreeMap::new();
        let weights: u64 = members.values().map(Member::weight).sum();
        for (total, key) in (0..).zip(keys(KEYS)) {
            let Some(owner) = ring.owner_bounded(key, total, |id| loads.get(&id).copied().unwrap_or(0)) else {
                prop_assert!(members.is_empty());
                continue;
            };
            let load = loads.entry(owner).or_default();
            *load += 1;
            let bound = 1.25 * (total as f64 + 1.0) * members[&owner].weight() as f64 / weights as f64;
            prop_assert!((*load as f64) < bound + 1.0 + 1e-9, "{load} of {bound}");
        }
    }
}

#[test]
fn s18_none_one_two_and_three_members() {
    for rendezvous_max in RENDEZVOUS {
        let all = |members: u128, count| {
            let replicas = |key| ring(config(rendezvous_max), 1..=members).replicas(key, count).collect();
            let sets: BTreeSet<BTreeSet<NodeId>> = keys(KEYS).into_iter().map(replicas).collect();
            sets
        };
        let ids = |ids: &[u128]| ids.iter().map(|id| NodeId(*id)).collect::<BTreeSet<_>>();
        assert_eq!(all(0, 3), [ids(&[])].into());
        assert_eq!(all(1, 3), [ids(&[1])].into());
        assert_eq!(all(2, 3), [ids(&[1, 2])].into());
        assert_eq!(all(3, 3), [ids(&[1, 2, 3])].into());
        assert_eq!(all(3, 2), [ids(&[1, 2]), ids(&[1, 3]), ids(&[2, 3])].into());
        assert_eq!(Ring::new(config(rendezvous_max)).unwrap().owner_bounded(1, 0, |_| 0), None);
    }
}

#[test]
fn no_more_are_named_than_the_limit() {
    for rendezvous_max in RENDEZVOUS {
        let ring = ring(config(rendezvous_max), 1..=REPLICAS_MAX as u128 + 4);
        assert_eq!(ring.replicas(7, usize::MAX).count(), REPLICAS_MAX);
        assert_eq!(ring.replicas_across_zones(7, usize::MAX).count(), REPLICAS_MAX);
    }
}

#[test]
fn s18_three_nodes_in_three_zones_keep_a_copy_each_and_a_fourth_is_passed_over() {
    for rendezvous_max in RENDEZVOUS {
        let zones = [(1, 0), (2, 1), (3, 2), (4, 2)];
        let members = zones.map(|(id, zone)| Member { zone, ..Member::new(NodeId(id)) });
        let ring = Ring::with_members(config(rendezvous_max), members).unwrap();
        for key in keys(KEYS) {
            let zones: BTreeSet<u32> =
                ring.replicas_across_zones(key, 3).map(|id| ring.member(id).unwrap().zone).collect();
            assert_eq!(zones.len(), 3);
        }
    }
}

/// The largest share over the mean share, of members of these weights.
fn imbalance(ring: &Ring, count: usize) -> f64 {
    let mut owned: BTreeMap<NodeId, f64> = BTreeMap::new();
    for key in keys(count) {
        *owned.entry(ring.owner(key).unwrap()).or_default() += 1.0;
    }
    let total: u64 = ring.members().map(|member| member.weight()).sum();
    let share = |member: &Member| count as f64 * member.weight() as f64 / total as f64;
    ring.members().map(|member| owned.get(&member.id).copied().unwrap_or(0.0) / share(&member)).fold(0.0, f64::max)
}

#[test]
fn shares_are_even() {
    let even = |rendezvous_max| RingConfig { rendezvous_max, ..RingConfig::default() };
    assert!(imbalance(&ring(even(0), 1..=10), 100_000) < 1.15);
    assert!(imbalance(&ring(even(0), 1..=100), 300_000) < 1.2);
    assert!(imbalance(&ring(even(RENDEZVOUS_MAX), 1..=10), 100_000) < 1.03);
}

#[test]
fn weights_are_shares_by_either_way() {
    let members = [(1, 100), (2, 200), (3, 50), (4, 1000)];
    let members = members.map(|(id, weight)| Member { weight, ..Member::new(NodeId(id)) });
    for (rendezvous_max, most) in [(0, 1.35), (RENDEZVOUS_MAX, 1.05)] {
        let config = RingConfig { rendezvous_max, ..RingConfig::default() };
        let imbalance = imbalance(&Ring::with_members(config, members).unwrap(), 100_000);
        assert!(imbalance < most, "{imbalance}");
    }
}

#[test]
fn one_weight_for_all_places_keys_as_no_weight_does() {
    for drawn in [0, 1 << 40, 1 << 52, 1 << 63, u64::MAX - (1 << 12), u64::MAX].windows(2) {
        assert!(weighted(drawn[0], 100) < weighted(drawn[1], 100), "{drawn:?}");
    }
}

#[test]
fn another_weight_moves_keys_only_from_or_to_that_member() {
    for rendezvous_max in [0, RENDEZVOUS_MAX] {
        let mut ring = ring(config(rendezvous_max), 1..=10);
        let before: Vec<_> = keys(2000).into_iter().map(|key| ring.owner(key)).collect();
        assert!(ring.join(Member { weight: 300, ..Member::new(NodeId(3)) }));
        let after: Vec<_> = keys(2000).into_iter().map(|key| ring.owner(key)).collect();
        assert!(before.iter().zip(&after).all(|(before, after)| before == after || *after == Some(NodeId(3))));
        assert!(before != after);
    }
}

#[test]
fn at_the_switch_nearly_all_keys_move_and_back_again() {
    let mut ring = ring(config(6), 1..=6);
    let owners = |ring: &Ring| keys(KEYS).into_iter().map(|key| ring.owner(key)).collect::<Vec<_>>();
    let before = owners(&ring);
    ring.join(Member::new(NodeId(7)));
    let moved = before.iter().zip(owners(&ring)).filter(|(before, after)| **before != *after).count();
    assert!(moved > KEYS / 2, "{moved}");
    ring.leave(NodeId(7));
    assert_eq!(owners(&ring), before);
}

#[test]
fn where_keys_are_is_fixed_for_ever() {
    let owners = |rendezvous_max| {
        let ring = ring(RingConfig { rendezvous_max, ..RingConfig::default() }, 1..=9);
        std::array::from_fn(|key| ring.owner(key as u128).unwrap().0)
    };
    assert_eq!(owners(0), PINNED_RING);
    assert_eq!(owners(RENDEZVOUS_MAX), PINNED_RENDEZVOUS);
}

const PINNED_RING: [u128; 8] = [1, 9, 1, 3, 5, 3, 3, 8];
const PINNED_RENDEZVOUS: [u128; 8] = [6, 7, 4, 5, 7, 4, 1, 6];

#[test]
fn the_logarithm_is_one() {
    for x in [1e-300_f64, 1e-16, 0.1, 0.5, 0.999, 1.0, 1.5, 2.0, 1e10] {
        assert!((ln(x) - x.ln()).abs() <= 1e-10 * x.ln().abs().max(1.0), "{x}: {} {}", ln(x), x.ln());
    }
}

#[test]
fn loads_that_contradict_the_total_end_at_the_owner() {
    let ring = ring(config(0), 1..=5);
    assert_eq!(ring.owner_bounded(7, 0, |_| u64::MAX), ring.owner(7));
}

#[test]
fn values_that_cannot_work_are_named() {
    type Break = fn(&mut RingConfig);
    let breaks: [(&str, Break); 5] = [
        ("virtual_nodes", |config| config.virtual_nodes = 0),
        ("virtual_nodes", |config| config.virtual_nodes = 4097),
        ("rendezvous_max", |config| config.rendezvous_max = RENDEZVOUS_MAX + 1),
        ("load_epsilon", |config| config.load_epsilon = 0.0),
        ("load_epsilon", |config| config.load_epsilon = f64::NAN),
    ];
    assert_eq!(RingConfig::default().validate(), Ok(()));
    for (name, break_it) in breaks {
        let mut config = RingConfig::default();
        break_it(&mut config);
        assert!(config.validate().unwrap_err().to_string().contains(name));
        assert!(Ring::new(config).is_err());
    }
}
