//! Steps of the bare Raft engine: a whole round of a cluster at each number of proposals in flight.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mesh_benches::cluster::{Cell, Cluster, warm_heap};
use mesh_benches::ours::Engine;

fn engine(c: &mut Criterion) {
    warm_heap();
    let mut group = c.benchmark_group("raft/engine");
    for cell in Cell::all() {
        let entries = cell.in_flight as u64;
        let mut cluster = Engine::start(cell);
        group.throughput(Throughput::Elements(entries));
        group.bench_function(BenchmarkId::from_parameter(cell.name()), |b| b.iter(|| cluster.run(entries)));
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(500));
    targets = engine
}
criterion_main!(benches);
