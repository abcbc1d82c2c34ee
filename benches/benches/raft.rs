//! Raft by nodes, payload and proposals in flight: bare engines that one thread steps, and async nodes on
//! one thread over the in-process network. With one in flight the time of a round is the latency.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mesh_benches::cluster::{Cell, Cluster, warm_heap};
use mesh_benches::ours::{Engine, Nodes};

fn rounds<C: Cluster>(c: &mut Criterion, group: &str, start: impl Fn(Cell) -> C) {
    warm_heap();
    let mut group = c.benchmark_group(group);
    for cell in Cell::all() {
        let entries = cell.in_flight as u64;
        let mut cluster = start(cell);
        group.throughput(Throughput::Elements(entries));
        group.bench_function(BenchmarkId::from_parameter(cell.name()), |b| b.iter(|| cluster.run(entries)));
    }
    group.finish();
}

fn engine(c: &mut Criterion) {
    rounds(c, "raft/engine", Engine::start);
}

fn nodes(c: &mut Criterion) {
    rounds(c, "raft/node", Nodes::start);
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(500));
    targets = engine, nodes
}
criterion_main!(benches);
