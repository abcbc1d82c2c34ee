//! pBFT by replicas and by how they prove what they say: batches of 64 requests through a whole group in one thread, one
//! batch at a time for latency and six for throughput.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mesh_benches::cluster::warm_heap;
use mesh_benches::ours::{Group, GroupSetup};
use mesh_consensus::pbft::AuthMode;

const BATCH: usize = 64;

fn batches(c: &mut Criterion) {
    warm_heap();
    let mut group = c.benchmark_group("pbft");
    for (name, auth) in [("signatures", AuthMode::Signatures), ("macs", AuthMode::Macs)] {
        for (replicas, in_flight) in [(4, 1), (4, 6), (7, 6)] {
            let setup = GroupSetup { replicas, batch: BATCH, in_flight, auth, client_signatures: false, helpers: 0 };
            let mut pbft = Group::start(setup);
            let requests = (BATCH * in_flight) as u64;
            group.throughput(Throughput::Elements(requests));
            let cell = BenchmarkId::new(name, format!("{replicas}n-{in_flight}"));
            // What clients do is not counted.
            group.bench_function(cell, |b| {
                b.iter_custom(|rounds| (0..rounds).map(|_| pbft.run(requests).elapsed).sum());
            });
        }
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(500));
    targets = batches
}
criterion_main!(benches);
