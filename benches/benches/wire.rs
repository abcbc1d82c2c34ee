//! The codec and the frame format: an append of 64 entries, and what every small message costs.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mesh_core::frame::{FRAME_LEN_MAX, FrameBuilder, sections};
use mesh_core::wire::{self, Wire};
use mesh_core::{Bytes, ProtocolId};

type Entries = Vec<(u64, Bytes)>;

fn entries(payload: usize) -> Entries {
    (0..64).map(|index| (1_000_000 + index, Bytes::from(vec![7; payload]))).collect()
}

fn codec(c: &mut Criterion) {
    let mut group = c.benchmark_group("wire/64_entries");
    for payload in [16, 256, 4096] {
        let entries = entries(payload);
        let encoded = wire::to_bytes(&entries);
        group.throughput(Throughput::Bytes(encoded.len() as u64));
        group.bench_with_input(BenchmarkId::new("encode", payload), &entries, |b, entries| {
            let mut out = Vec::new();
            b.iter(|| {
                out.clear();
                black_box(entries).encode(&mut out);
                out.len()
            });
        });
        group.bench_with_input(BenchmarkId::new("decode", payload), &encoded, |b, encoded| {
            b.iter(|| wire::from_bytes::<Entries>(black_box(encoded)));
        });
    }
    group.finish();
}

fn frames(c: &mut Criterion) {
    let mut group = c.benchmark_group("wire/frame_of_64_messages");
    group.throughput(Throughput::Elements(64));
    let build = |builder: &mut FrameBuilder| {
        for _ in 0..64 {
            builder.push(ProtocolId(1), black_box(&[7; 24]));
        }
        builder.pop()
    };
    group.bench_function("build", |b| {
        let mut builder = FrameBuilder::new(FRAME_LEN_MAX);
        b.iter(|| build(&mut builder));
    });
    let frame = build(&mut FrameBuilder::new(FRAME_LEN_MAX)).unwrap_or_default();
    group.bench_function("walk", |b| {
        b.iter(|| {
            let sections = sections(black_box(&frame)).into_iter().flatten().flatten();
            sections
                .map(|section| section.messages().flatten().map(|m| m.remaining().len()).sum::<usize>())
                .sum::<usize>()
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    targets = codec, frames
}
criterion_main!(benches);
