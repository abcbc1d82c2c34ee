//! A key-value store through crashes, partitions, lost memories, joins and lost messages: calls on a key are
//! linearizable, and every shard comes back to all its replicas.

use mesh_benches::scenario::dht::run;

#[test]
fn s33_calls_are_linearizable_and_shards_are_repaired_whatever_happens() {
    let mut counts = std::collections::BTreeMap::<String, u64>::new();
    for seed in 0..200 {
        let outcome = run(seed, None);
        if let Some(violation) = outcome.violation {
            panic!("seed {seed}: {violation}\nto replay it: campaign dht --seeds {seed}..{}", seed + 1);
        }
        outcome.faults.into_iter().for_each(|(kind, count)| *counts.entry(kind).or_default() += count);
    }
    let kinds = [
        "crash",
        "memory_lost",
        "partition",
        "pause",
        "suspicion",
        "join",
        "leave",
        "loss_duplicates_reordering",
        "answered",
    ];
    for kind in kinds {
        assert!(counts.get(kind).is_some_and(|count| *count > 10), "{kind}: {counts:?}");
    }
}
