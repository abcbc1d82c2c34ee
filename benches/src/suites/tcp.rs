//! The TCP transport alone, encrypted and plain in turn.

use std::time::Duration;

use super::{SuiteError, ratios};
use crate::report::{Report, Settings, Table, short};
use crate::stats::percentile;
use crate::tcp_pair::{TcpPair, frames_for};

/// Payload sizes with their names in figures.
const SIZES: [(usize, &str); 3] = [(256, "256B"), (4096, "4096B"), (65536, "64KiB")];

pub(super) fn measure(settings: &Settings, report: &mut Report) -> Result<(), SuiteError> {
    let mut pairs = [("tls", TcpPair::link(true)?), ("plain", TcpPair::link(false)?)];
    let mut table =
        Table::new("TCP over loopback, one way", ["frames of", "tls", "plain", "tls/plain", "tls MB/s", "plain MB/s"]);
    for (len, size) in SIZES {
        let mut rates = [Vec::new(), Vec::new()];
        for run in 0..=settings.runs() {
            for ((_, pair), rates) in pairs.iter_mut().zip(&mut rates) {
                // The first run is short, and tells how long the others have to be.
                let frames = rates
                    .last()
                    .map_or(1000, |rate| frames_for(*rate, Duration::from_secs_f64(settings.run_seconds())));
                let rate = pair.stream(frames, len)?;
                if run == 1 {
                    rates.clear();
                }
                rates.push(rate);
            }
        }
        let [tls, plain] = rates;
        let to_mb = |rates: &[f64]| rates.iter().map(|rate| rate * len as f64 / 1e6).collect::<Vec<_>>();
        table.row([
            size.to_owned(),
            short(report.figure(format!("tcp_tls_{size}_frames_per_s"), &tls)),
            short(report.figure(format!("tcp_plain_{size}_frames_per_s"), &plain)),
            short(report.figure(format!("tcp_tls_vs_plain_{size}_frames_per_s"), &ratios(&tls, &plain))),
            short(report.figure(format!("tcp_tls_{size}_mb_per_s"), &to_mb(&tls))),
            short(report.figure(format!("tcp_plain_{size}_mb_per_s"), &to_mb(&plain))),
        ]);
    }
    report.table(table);
    let mut table = Table::new("TCP over loopback, 64 B there and back, us", ["", "p50", "p99"]);
    let trips = if settings.quick { 500 } else { 3000 };
    let [tls, plain] = pairs;
    let (mut tls, mut plain) = (Trips::new(tls), Trips::new(plain));
    for _ in 0..settings.runs() {
        tls = tls.run(trips)?;
        plain = plain.run(trips)?;
    }
    for Trips { name, p50, p99, .. } in [tls, plain] {
        let p50 = report.figure(format!("tcp_{name}_rtt_us_p50"), &p50);
        let p99 = report.figure(format!("tcp_{name}_rtt_us_p99"), &p99);
        table.row([name.to_owned(), short(p50), short(p99)]);
    }
    report.table(table);
    Ok(())
}

/// Round trips of one pair, run by run.
struct Trips {
    name: &'static str,
    pair: TcpPair,
    p50: Vec<f64>,
    p99: Vec<f64>,
}

impl Trips {
    fn new((name, pair): (&'static str, TcpPair)) -> Self {
        Self { name, pair, p50: Vec::new(), p99: Vec::new() }
    }

    fn run(mut self, trips: usize) -> Result<Self, SuiteError> {
        let (pair, mut times) = self.pair.round_trips(trips, 64)?;
        self.p50.push(percentile(&mut times, 50) as f64 / 1e3);
        self.p99.push(percentile(&mut times, 99) as f64 / 1e3);
        Ok(Self { pair, ..self })
    }
}
