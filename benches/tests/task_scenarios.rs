//! What may become of a pool of tasks whose nodes find each other as they do in a mesh, numbered as in `docs/tasks.md`.

use std::time::Duration;

use mesh_benches::scenario::tasks::{Setup, World};
use mesh_core::NodeId;

#[test]
fn s14_a_key_that_is_submitted_at_an_old_and_at_a_new_node_as_that_joins_is_executed_once() {
    for seed in 0..100 {
        let mut world = World::boot(seed, &Setup::new(5));
        world.run(Duration::from_secs(1));
        // It knows all others, and they hear of it later.
        world.join();
        for key in 0..60_u8 {
            let old = NodeId(1 + u128::from(world.sim.rng().below(5)));
            for node in [old, NodeId(6)] {
                world.submit(node, World::task(Duration::from_millis(5)).keyed(vec![key]));
            }
            let pause = world.sim.rng().duration_between(Duration::ZERO, Duration::from_millis(80));
            world.run(pause);
        }
        world.run(Duration::from_secs(5));
        world.check_all_settled(Duration::from_secs(60));
        assert_eq!((world.violation(), world.refused()), (None, 0), "seed {seed}");
        assert_eq!((world.submitted(), world.started()), (60, 60), "seed {seed}: each once");
    }
}
