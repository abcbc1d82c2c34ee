//! Raft in the simulator, by seeds; `campaign` runs the same in millions.

use mesh_benches::scenario::raft::Scenario;

#[test]
fn raft_keeps_its_promises_under_all_faults() {
    let scenario = Scenario::default();
    for seed in 0..300 {
        if let Some(violation) = scenario.run(seed).violation {
            let replay = format!("--seeds {seed}..{}", seed + 1);
            panic!(
                "seed {seed}: {violation}\nto see it again: \
                 cargo run --release -p mesh-benches --bin campaign -- raft {replay}"
            );
        }
    }
}
