//! The durable log: batches of records of 256 B, each durable before the next, beside a raw file.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mesh_benches::log_load::{LogLoad, WalLoad};
use mesh_benches::raw_disk::{RawSegment, scratch_dir};

const RECORD_LEN: usize = 256;

fn append(c: &mut Criterion) {
    let dir = scratch_dir().expect("a directory beside the program");
    let mut raw = RawSegment::create(dir.path()).expect("64 MiB of room");
    let mut log = LogLoad::open(&dir.path().join("log"), RECORD_LEN).expect("a new log");
    let mut wal = WalLoad::open(&dir.path().join("wal"), RECORD_LEN).expect("a new log");
    let mut group = c.benchmark_group("wal/append");
    for entries in [1, 64, 1024] {
        group.throughput(Throughput::Elements(entries as u64));
        let bytes = vec![0; entries * RECORD_LEN];
        group.bench_function(BenchmarkId::new("raw", entries), |b| {
            b.iter(|| raw.append(&bytes).expect("a disk that works"));
        });
        group.bench_function(BenchmarkId::new("engine", entries), |b| {
            b.iter(|| log.append(entries).expect("a disk that works"));
        });
        group.bench_function(BenchmarkId::new("FileWal", entries), |b| {
            b.iter(|| wal.append(entries).expect("a disk that works"));
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = append
}
criterion_main!(benches);
