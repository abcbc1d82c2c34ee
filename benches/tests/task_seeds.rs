//! Pools of tasks through crashes, partitions and lost messages: no task lost, and of each one result counts.

use mesh_benches::scenario::tasks::run;

#[test]
fn no_task_is_lost_and_of_each_one_result_counts() {
    let mut counts = std::collections::BTreeMap::<String, u64>::new();
    for seed in 0..300 {
        let outcome = run(seed, None);
        if let Some(violation) = outcome.violation {
            panic!("seed {seed}: {violation}\nto replay it: campaign tasks --seeds {seed}..{}", seed + 1);
        }
        outcome.faults.into_iter().for_each(|(kind, count)| *counts.entry(kind).or_default() += count);
    }
    let faults = ["crash", "partition", "pause", "loss_duplicates_reordering", "cancel", "tasks"];
    for kind in faults.into_iter().chain(["completed", "dead", "cancelled", "expired"]) {
        assert!(counts.get(kind).is_some_and(|count| *count > 10), "{kind}: {counts:?}");
    }
}
