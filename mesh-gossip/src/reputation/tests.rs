use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);
const MINUTE: Duration = Duration::from_secs(60);
const FINE: Observation = Observation::Delivered { latency: Duration::from_millis(20) };

fn empty() -> Reputation {
    Reputation::new(ReputationConfig::default()).unwrap()
}

/// Somebody who observed each of these peers so often.
fn after(observed: &[(u128, usize, Observation)]) -> Reputation {
    let mut reputation = empty();
    for (peer, times, observation) in observed {
        (0..*times).for_each(|_| reputation.observe(Instant::ZERO, NodeId(*peer), *observation));
    }
    reputation
}

fn score(reputation: &Reputation, peer: u128) -> f64 {
    reputation.score(Instant::ZERO, NodeId(peer))
}

#[test]
fn who_delivers_soon_is_better_than_who_is_slow_or_new_or_misses_or_lies() {
    let slow = Observation::Delivered { latency: MS * 400 };
    let lie = Observation::Misbehaved;
    let reputation = after(&[(1, 20, FINE), (2, 20, slow), (3, 20, Observation::Missed), (4, 20, FINE), (4, 3, lie)]);
    let scores = [1, 2, 99, 4, 3].map(|peer| score(&reputation, peer));
    assert!(scores.is_sorted_by(|a, b| a > b), "{scores:?}");
    assert!((score(&reputation, 99) - 0.375).abs() < 1e-9 && reputation.len() == 4);
    let standing = reputation.standing(Instant::ZERO, NodeId(2));
    assert_eq!((standing.delivered, standing.missed, standing.latency), (20.0, 0.0, Some(MS * 400)));
}

#[test]
fn who_was_good_for_long_is_soon_noticed_to_be_bad() {
    let mut reputation = after(&[(1, 10_000, FINE)]);
    (0..64).for_each(|_| reputation.observe(Instant::ZERO, NodeId(1), Observation::Missed));
    assert!(score(&reputation, 1) < 0.4, "{}", score(&reputation, 1));
}

#[test]
fn time_heals() {
    let reputation = after(&[(1, 20, Observation::Missed), (2, 6, Observation::Misbehaved), (3, 20, FINE)]);
    let at = |minutes: u32, peer| reputation.standing(Instant::ZERO + MINUTE * minutes, NodeId(peer));
    assert!((at(10, 1).missed - 10.0).abs() < 1e-9 && (at(60, 2).offences - 3.0).abs() < 1e-9);
    assert!(at(60, 1).is_newcomer && at(0, 3).score > at(60, 3).score);
    let shunned = |minutes: u32| reputation.is_shunned(Instant::ZERO + MINUTE * minutes, NodeId(2));
    assert!(shunned(0) && shunned(30) && !shunned(60));
}

/// A table in which peers 1 to `voices` are reliable, and 50 was met.
fn with_voices(voices: u128) -> Reputation {
    let mut observed: Vec<_> = (1..=voices).map(|voice| (voice, 10, FINE)).collect();
    observed.push((50, 1, FINE));
    after(&observed)
}

#[test]
fn one_or_two_voices_do_not_count() {
    let mut reputation = with_voices(3);
    let before = score(&reputation, 50);
    for (voice, percent) in [(1, 0), (2, 0), (1, 100), (1, 0)] {
        reputation.hear(Instant::ZERO, NodeId(voice), NodeId(50), percent);
        assert_eq!(score(&reputation, 50), before);
    }
    reputation.hear(Instant::ZERO, NodeId(3), NodeId(50), 0);
    assert!(score(&reputation, 50) < before);
    // And only for a while.
    let later = Instant::ZERO + MINUTE * 11;
    let alone = after(&[(50, 1, FINE)]);
    assert_eq!(reputation.score(later, NodeId(50)), alone.score(later, NodeId(50)));
}

proptest! {
    #[test]
    fn a_liar_moves_a_score_no_further_than_honest_voices_disagree(
        honest in proptest::collection::vec(0_u8..=100, 2..7),
        lies in proptest::collection::vec(0_u8..=100, 1..20),
    ) {
        // The least and the most that the honest ones could have made of it, all of one opinion.
        let all_say = |percent| {
            let mut reputation = with_voices(8);
            (1..=honest.len() + 1).for_each(|voice| {
                reputation.hear(Instant::ZERO, NodeId(voice as u128), NodeId(50), percent);
            });
            score(&reputation, 50)
        };
        let (least, most) = (honest.iter().min().unwrap(), honest.iter().max().unwrap());
        let mut reputation = with_voices(8);
        for (voice, percent) in honest.iter().enumerate() {
            reputation.hear(Instant::ZERO, NodeId(2 + voice as u128), NodeId(50), *percent);
        }
        for lie in lies {
            reputation.hear(Instant::ZERO, NodeId(1), NodeId(50), lie);
            let now = score(&reputation, 50);
            prop_assert!(all_say(*least) <= now && now <= all_say(*most), "{} {now} {}", all_say(*least), all_say(*most));
        }
    }

    #[test]
    fn whatever_all_say_a_score_moves_by_no_more_than_the_share_of_hearsay(
        good in 0_usize..30, bad in 0_usize..30, said in proptest::collection::vec(0_u8..=255, 8),
    ) {
        let observed = [(50, good, FINE), (50, bad, Observation::Missed), (50, 1, FINE)];
        let alone = score(&after(&observed), 50);
        let mut all: Vec<_> = (1..=8).map(|voice| (voice, 10, FINE)).collect();
        all.extend(observed);
        let mut reputation = after(&all);
        for (voice, percent) in said.into_iter().enumerate() {
            reputation.hear(Instant::ZERO, NodeId(1 + voice as u128), NodeId(50), percent);
        }
        let moved = (score(&reputation, 50) - alone).abs();
        prop_assert!(moved <= 0.2 * 8.0 / (8.0 + (good + bad) as f64), "{moved}");
    }
}

#[test]
fn only_those_who_delivered_are_heard_and_only_of_those_who_were_met() {
    let mut reputation = with_voices(2);
    let before = score(&reputation, 50);
    // Strangers, one that misses much, one that misbehaved, and the peer itself.
    for (peer, times, what) in
        [(20, 9, Observation::Missed), (20, 5, FINE), (21, 9, FINE), (21, 1, Observation::Misbehaved)]
    {
        (0..times).for_each(|_| reputation.observe(Instant::ZERO, NodeId(peer), what));
    }
    for voice in [1, 2, 20, 21, 50].into_iter().chain(1_000..2_000) {
        reputation.hear(Instant::ZERO, NodeId(voice), NodeId(50), 0);
    }
    assert_eq!((score(&reputation, 50), reputation.len()), (before, 5));
    // Not even one that is reliable is heard of itself.
    reputation.hear(Instant::ZERO, NodeId(1), NodeId(1), 100);
    assert_eq!(reputation.standing(Instant::ZERO, NodeId(1)).voices, 0);
    reputation.hear(Instant::ZERO, NodeId(1), NodeId(77), 100);
    assert_eq!(reputation.len(), 5);
}

#[test]
fn the_table_is_bounded_and_what_is_known_of_the_bad_outlasts_made_up_names() {
    let config = ReputationConfig { peers_max: 64, ..ReputationConfig::default() };
    let mut reputation = Reputation::new(config).unwrap();
    (0..8).for_each(|_| reputation.observe(Instant::ZERO, NodeId(1), Observation::Misbehaved));
    (0..8).for_each(|_| reputation.observe(Instant::ZERO, NodeId(2), FINE));
    for made_up in 1_000..3_000 {
        reputation.observe(Instant::ZERO, NodeId(made_up), FINE);
        assert!(reputation.len() <= 64);
    }
    assert!(reputation.is_shunned(Instant::ZERO, NodeId(1)) && score(&reputation, 2) > 0.7);
}

#[test]
fn opinions_are_kept_within_bounds_and_are_at_first_hand() {
    let mut reputation = with_voices(20);
    (1..=20).for_each(|voice| reputation.hear(Instant::ZERO, NodeId(voice), NodeId(50), 0));
    assert_eq!(reputation.standing(Instant::ZERO, NodeId(50)).voices, VOICES_MAX);
    let mut rng = Rng64::from_seed(1, "opinions");
    let told = reputation.opinions(Instant::ZERO, &mut rng, 4);
    assert!(told.len() == 4 && told.iter().all(|(node, percent)| *node != NodeId(50) && (80..=100).contains(percent)));
}

fn picks(reputation: &Reputation, candidates: &[u128], times: usize) -> BTreeMap<u128, usize> {
    let mut rng = Rng64::from_seed(1, "picks");
    let mut count = BTreeMap::new();
    for _ in 0..times {
        let nodes = candidates.iter().copied().map(NodeId);
        for node in reputation.select(Instant::ZERO, &mut rng, nodes, 1) {
            *count.entry(node.0).or_default() += 1;
        }
    }
    count
}

#[test]
fn the_good_are_picked_often_the_bad_seldom_and_the_shunned_never() {
    let reputation =
        after(&[(1, 20, FINE), (2, 20, Observation::Missed), (3, 20, FINE), (3, 4, Observation::Misbehaved)]);
    let count = picks(&reputation, &[1, 2, 3], 2_000);
    assert!(count[&1] > 1_900 && (1..100).contains(&count[&2]) && !count.contains_key(&3), "{count:?}");
}

#[test]
fn newcomers_get_their_share_and_no_more_however_many_they_are() {
    let reputation = after(&[(1, 20, FINE), (2, 20, FINE)]);
    for newcomers in [1_u128, 10, 1_000] {
        let candidates: Vec<_> = [1, 2].into_iter().chain(100..100 + newcomers).collect();
        let count = picks(&reputation, &candidates, 4_000);
        let new: usize = count.iter().filter(|(node, _)| **node >= 100).map(|(_, count)| count).sum();
        assert!((400..600).contains(&new), "{new} of 4000 for {newcomers} newcomers");
    }
}

#[test]
fn a_selection_is_the_same_for_the_same_seed_has_nobody_twice_and_takes_all_when_asked_for_more() {
    let reputation = after(&[(1, 20, FINE), (2, 20, FINE), (3, 2, FINE)]);
    let select = |count| {
        let nodes = (1..=6).map(NodeId);
        let mut picked = reputation.select(Instant::ZERO, &mut Rng64::from_seed(7, "select"), nodes, count);
        let in_order = picked.clone();
        picked.sort_unstable();
        picked.dedup();
        assert_eq!(picked.len(), in_order.len());
        in_order
    };
    assert_eq!(select(4), select(4));
    assert_eq!((select(4).len(), select(100).len(), select(0).len()), (4, 6, 0));
}

#[test]
fn extremes_stay_within_bounds() {
    let mut reputation = empty();
    let long = Observation::Delivered { latency: Duration::MAX };
    for (now, what) in [(Instant::ZERO, long), (Instant::MAX, FINE), (Instant::ZERO, Observation::Misbehaved)] {
        reputation.observe(now, NodeId(1), what);
        for now in [Instant::ZERO, Instant::MAX] {
            assert!((0.0..=1.0).contains(&reputation.score(now, NodeId(1))));
        }
    }
    (0..100_000).for_each(|_| reputation.observe(Instant::MAX, NodeId(1), Observation::Misbehaved));
    let standing = reputation.standing(Instant::MAX, NodeId(1));
    assert!((0.0..=1.0).contains(&standing.score) && standing.offences <= EVIDENCE_MAX);
}

#[test]
fn the_default_works_and_each_rule_is_checked() {
    assert_eq!(ReputationConfig::default().validate(), Ok(()));
    let refused = |change: fn(&mut ReputationConfig)| {
        let mut config = ReputationConfig::default();
        change(&mut config);
        config.validate().expect_err("it cannot work").to_string()
    };
    assert!(refused(|c| c.half_life = Duration::ZERO).contains("more than zero"));
    assert!(refused(|c| c.peers_max = 0).contains("more than zero"));
    assert!(refused(|c| c.hearsay_max = f64::NAN).contains("hearsay_max"));
    assert!(refused(|c| c.voices_min = 2).contains("one liar"));
    assert!(refused(|c| c.offences_max = f64::INFINITY).contains("offences_max"));
}
