//! The TCP transport over loopback, encrypted and plain: 256 frames one way.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mesh_benches::tcp_pair::TcpPair;

const FRAMES: usize = 256;

fn stream(c: &mut Criterion) {
    let mut group = c.benchmark_group("tcp/stream");
    for (name, encrypted) in [("tls", true), ("plain", false)] {
        let mut pair = TcpPair::link(encrypted).expect("two ports on loopback");
        for len in [256, 4096, 65536] {
            group.throughput(Throughput::Bytes((FRAMES * len) as u64));
            group.bench_function(BenchmarkId::new(name, len), |b| {
                b.iter(|| pair.stream(FRAMES, len).expect("both transports work"));
            });
        }
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = stream
}
criterion_main!(benches);
