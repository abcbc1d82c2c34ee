//! A node that hosts many protocols: what a command to one costs, and what a frame of all costs.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mesh_benches::hosts::{Echoes, PEER};

/// One command, its flush, and the frame it leaves: the other hosts should cost nothing.
fn command(c: &mut Criterion) {
    let mut group = c.benchmark_group("node/command_and_flush");
    for hosts in [1, 100, 10_000] {
        let mut echoes = Echoes::new(hosts);
        group.bench_function(BenchmarkId::from_parameter(hosts), |b| b.iter(|| echoes.command_one()));
    }
    group.finish();
}

/// A flush with nothing to do.
fn idle_flush(c: &mut Criterion) {
    let mut group = c.benchmark_group("node/idle_flush");
    for hosts in [1, 100, 10_000] {
        let mut echoes = Echoes::new(hosts);
        group.bench_function(BenchmarkId::from_parameter(hosts), |b| b.iter(|| echoes.idle()));
    }
    group.finish();
}

/// A timer of every host fires at once, as when heartbeats are aligned: one frame a peer.
fn frame_of_all(c: &mut Criterion) {
    let mut group = c.benchmark_group("node/frame_of_all");
    for hosts in [1, 100, 1000] {
        group.throughput(Throughput::Elements(hosts as u64));
        let mut echoes = Echoes::new(hosts);
        group.bench_function(BenchmarkId::new("build", hosts), |b| b.iter(|| echoes.tick_all()));
        let (mut echoes, frame) = (Echoes::new(hosts), Echoes::new(hosts).tick_all());
        group.bench_function(BenchmarkId::new("take", hosts), |b| b.iter(|| echoes.take(PEER, black_box(&frame))));
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    targets = command, idle_flush, frame_of_all
}
criterion_main!(benches);
