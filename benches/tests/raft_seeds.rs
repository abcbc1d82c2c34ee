//! Raft in the simulator, by seeds; `campaign` runs the same in millions.

use mesh_benches::scenario::raft::Scenario;

#[test]
fn raft_keeps_its_promises_under_all_faults() {
    let scenario = Scenario::default();
    for seed in 0..300 {
        if let Some(violation) = scenario.run(seed).violation {
            panic!("seed {seed}: {violation}");
        }
    }
}
