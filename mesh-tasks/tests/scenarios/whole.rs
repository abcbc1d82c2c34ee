//! 33 and 34: all at once, and again.

use mesh_core::NodeId;
use mesh_tasks::task::Policy;
use mesh_transport_mem::{Latency, LinkConfig};

use crate::mesh::{Does, Mesh, SECOND, ms, policy_of, pool_by, task, work};

/// Tasks of all kinds on a bad network, with a crash, a partition and a pause.
fn storm(seed: u64, policy: Policy) -> Mesh {
    let mut mesh = Mesh::with(seed, 6, pool_by(policy));
    mesh.notice = SECOND;
    mesh.work_at_all(2);
    mesh.set_network(20, 10, 10);
    for fault in 0..3 {
        for at in 0..15_u64 {
            let node = NodeId(1 + u128::from(mesh.rng.below(6)));
            let takes = mesh.rng.below(300);
            let mut spec = work(takes);
            match at % 5 {
                0 => spec.key = Some(vec![mesh.rng.below(20) as u8].into()),
                1 => {
                    spec = task(Does::Fail, ms(takes));
                    spec.retry.attempts_max = 2;
                }
                2 => spec.expires_in = Some(ms(500 + mesh.rng.below(20_000))),
                _ => {}
            }
            mesh.submit_soon(node, spec);
            let pause = ms(mesh.rng.below(60));
            mesh.pass(pause);
        }
        let node = NodeId(1 + u128::from(mesh.rng.below(6)));
        let time = ms(500 + mesh.rng.below(11_000));
        match (fault + seed) % 3 {
            0 => {
                mesh.crash(node);
                mesh.pass(time);
                mesh.restart(node);
                mesh.work(node, 2);
            }
            1 => {
                let mut ids = mesh.ids();
                mesh.rng.shuffle(&mut ids);
                let (one, other) = ids.split_at(4);
                mesh.partition(one, other);
                mesh.pass(time);
                mesh.heal();
            }
            _ => {
                mesh.sim.pause(node);
                mesh.pass(time);
                mesh.sim.resume(node);
            }
        }
        mesh.pass(SECOND * 8);
    }
    mesh.check();
    mesh
}

#[test]
fn s33_on_a_network_that_loses_repeats_and_reorders_no_task_is_lost_and_each_counts_once() {
    for seed in 0..60 {
        let mesh = storm(seed, policy_of(seed / 3));
        assert!(mesh.submitted().len() > 30, "seed {seed}: {}", mesh.submitted().len());
    }
}

#[test]
fn far_from_each_other_with_round_trips_longer_than_what_is_waited_for_an_answer_all_is_done_once() {
    for seed in 0..Policy::ALL.len() as u64 {
        let config = pool_by(policy_of(seed));
        let one_way = config.resend_after;
        let mut mesh = Mesh::with(seed, 5, config);
        mesh.sim.set_links(LinkConfig { latency: Latency::between(one_way, one_way * 3 / 2), ..LinkConfig::default() });
        mesh.work_at_all(2);
        for at in 0..40 {
            mesh.submit_soon(NodeId(1 + at % 5), work(100));
        }
        mesh.check();
    }
}

#[test]
fn s34_the_same_seed_gives_the_same_trace() {
    for (seed, policy) in (100..).zip(Policy::ALL) {
        let digests = [(); 2].map(|()| {
            let mesh = storm(seed, policy);
            let sink = mesh.sink.borrow();
            (mesh.sim.digest(), mesh.sim.events(), format!("{sink:?}"))
        });
        assert!(digests[0] == digests[1], "seed {seed}: by {policy:?}");
        assert_ne!(storm(seed + 50, policy).sim.digest(), digests[0].0, "and another seed another");
    }
}
