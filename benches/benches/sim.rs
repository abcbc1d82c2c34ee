//! The simulator: 10 ms of nodes that pass messages on.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mesh_benches::chatter::ChatterSim;

fn messages(c: &mut Criterion) {
    let mut group = c.benchmark_group("sim/messages");
    for nodes in [5, 100] {
        let mut sim = ChatterSim::new(nodes);
        let step = Duration::from_millis(10);
        group.throughput(Throughput::Elements(sim.run_for(step)));
        group.bench_function(BenchmarkId::from_parameter(nodes), |b| b.iter(|| sim.run_for(step)));
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = messages
}
criterion_main!(benches);
