//! pBFT: batches and requests a second of a whole group in one thread, beside what its bare cryptography allows.
//! With the feature `peers` malachite and hotstuff_rs take the same batches.

#[cfg(feature = "peers")]
mod peers;

use std::time::Duration;

use mesh_consensus::pbft::{AuthMode, Statement};
use mesh_core::identity::{Ed25519, SecretKey, Signed, Verifier as _};

use super::SuiteError;
use crate::ours::{Group, GroupRun, GroupSetup};
use crate::report::{Report, Settings, Table, short};
use crate::stats::median;
use crate::stopwatch::Stopwatch;

/// How many replicas the curves have, and how many requests a batch.
pub(crate) const SIZES: [usize; 5] = [4, 7, 10, 13, 31];
pub(crate) const BATCHES: [usize; 3] = [1, 64, 512];

/// Batches on their way, so that the primary need not wait.
const IN_FLIGHT: usize = 6;

/// The groups of the table: the beginning of the figures' names, and what they must reach in batches or requests
/// a second.
const CELLS: [(&str, GroupSetup, f64, f64); 6] = [
    ("sig_4n_64", group(4, AuthMode::Signatures, false), 1_000.0, 60_000.0),
    ("sig_7n_64", group(7, AuthMode::Signatures, false), 350.0, 0.0),
    ("mac_4n_64", group(4, AuthMode::Macs, false), 6_000.0, 300_000.0),
    ("client_sig_4n", group(4, AuthMode::Macs, true), 0.0, 10_000.0),
    ("sig_4n_64_helped", GroupSetup { helpers: 2, ..group(4, AuthMode::Signatures, false) }, 0.0, 0.0),
    ("client_sig_4n_helped", GroupSetup { helpers: 2, ..group(4, AuthMode::Macs, true) }, 0.0, 0.0),
];

/// Signatures in a batch of bare ones, and of how many keys: as replicas have it where 64 clients are busy.
const TOGETHER: (usize, u8) = (256, 64);

const fn group(replicas: usize, auth: AuthMode, client_signatures: bool) -> GroupSetup {
    GroupSetup { replicas, batch: 64, in_flight: IN_FLIGHT, auth, client_signatures, helpers: 0 }
}

pub(super) fn measure(settings: &Settings, report: &mut Report) -> Result<(), SuiteError> {
    let bare = Bare::measure(settings);
    let figures = [("sign", bare.sign), ("verify", bare.verify), ("verify_together", bare.together), ("mac", bare.mac)];
    for (name, seconds) in figures {
        report.figure(format!("bound_{name}_us"), &[seconds * 1e6]);
    }
    let mut table = Table::new(
        format!(
            "pBFT: a group in one thread, requests of 64 bytes, 64 in a batch; {:.1} us to sign, {:.1} to verify, {:.1} \
             together",
            bare.sign * 1e6,
            bare.verify * 1e6,
            bare.together * 1e6,
        ),
        [
            "group",
            "batches/s",
            "wanted",
            "requests/s",
            "wanted",
            "signed/batch",
            "verified",
            "together",
            "bound/s",
            "reached",
        ],
    );
    for (name, setup, batches_wanted, requests_wanted) in CELLS.into_iter().filter(|(name, ..)| settings.wants(name)) {
        let runs = runs(setup, settings);
        let all = |figure: fn(&GroupRun) -> f64| runs.iter().map(figure).collect::<Vec<_>>();
        let per_batch = |figure: fn(&GroupRun) -> f64| median(&all(figure)) / median(&all(|run| run.batches));
        let together = per_batch(|run| run.signatures_batched);
        let (made, alone) = (per_batch(|run| run.signatures_made), per_batch(|run| run.signatures_checked) - together);
        // Batches a second if nothing took time but the signatures, in one thread.
        let bound = 1.0 / (made * bare.sign + alone * bare.verify + together * bare.together);
        let batches = report.figure(format!("{name}_batches_per_s"), &all(GroupRun::batches_per_s));
        let requests = report.figure(format!("{name}_requests_per_s"), &all(GroupRun::requests_per_s));
        report.figure(format!("bound_{name}_batches_per_s"), &[bound]);
        let wanted = |wanted: f64| if wanted > 0.0 { short(wanted) } else { String::new() };
        table.row([
            name.to_owned(),
            short(batches),
            wanted(batches_wanted),
            short(requests),
            wanted(requests_wanted),
            short(made),
            short(alone),
            short(together),
            short(bound),
            format!("{:.0} %", 100.0 * batches / bound),
        ]);
    }
    report.table(table);
    #[cfg(feature = "peers")]
    peers::measure(settings, report)?;
    if settings.plots {
        curves(settings, report);
    }
    Ok(())
}

/// Throughput with several batches on their way, and latency with one, by replicas and requests in a batch.
fn curves(settings: &Settings, report: &mut Report) {
    let mut table = Table::new(
        "pBFT by replicas and requests in a batch: requests/s, and ms that a lone batch takes all replicas",
        ["group", "signatures", "ms", "MACs", "ms"],
    );
    for replicas in SIZES {
        for batch in BATCHES {
            let mut row = vec![format!("{replicas} replicas, {batch}")];
            for (mode, auth) in [("sig", AuthMode::Signatures), ("mac", AuthMode::Macs)] {
                let name = format!("pbft_{mode}_{replicas}n_{batch}");
                let setup = GroupSetup { batch, ..group(replicas, auth, false) };
                let rates: Vec<_> = runs(setup, settings).iter().map(GroupRun::requests_per_s).collect();
                row.push(short(report.figure(format!("{name}_requests_per_s"), &rates)));
                let lone = runs(GroupSetup { in_flight: 1, ..setup }, settings);
                let times: Vec<_> = lone.iter().map(|run| 1e3 / run.batches_per_s()).collect();
                row.push(short(report.figure(format!("{name}_latency_ms"), &times)));
            }
            table.row(row);
        }
    }
    report.table(table);
}

/// Runs of about the wanted length.
fn runs(setup: GroupSetup, settings: &Settings) -> Vec<GroupRun> {
    let mut group = Group::start(setup);
    let round = (setup.batch * setup.in_flight) as u64;
    let sample = group.run(4 * round);
    let rounds = (settings.run_seconds() * sample.requests_per_s() / round as f64).ceil().max(1.0);
    (0..settings.runs()).map(|_| group.run(rounds as u64 * round)).collect()
}

/// What the cryptography takes by itself, in seconds.
struct Bare {
    sign: f64,
    verify: f64,
    /// For each of many that are verified together.
    together: f64,
    mac: f64,
}

impl Bare {
    fn measure(settings: &Settings) -> Self {
        let key = SecretKey::from_seed([7; 32]);
        let verifier = Ed25519::knowing([key.public()]);
        let said = [7; Statement::LEN];
        let signature = key.sign(&said);
        let time = |run: &dyn Fn()| {
            let lasts = Duration::from_secs_f64(settings.run_seconds() / 4.0);
            let runs = (0..settings.runs()).map(|_| {
                let (watch, mut times) = (Stopwatch::start(), 0);
                while watch.elapsed() < lasts {
                    (0..16).for_each(|_| run());
                    times += 16;
                }
                watch.elapsed().as_secs_f64() / f64::from(times)
            });
            median(&runs.collect::<Vec<_>>())
        };
        let sign = time(&|| {
            std::hint::black_box(key.sign(std::hint::black_box(&said)));
        });
        let verify = time(&|| verifier.verify(&key.public(), std::hint::black_box(&said), &signature).expect("it is"));
        let (len, keys) = TOGETHER;
        let keys: Vec<_> = (0..keys).map(|n| SecretKey::from_seed([n; 32])).collect();
        let signed: Vec<_> = keys
            .iter()
            .cycle()
            .take(len)
            .map(|key| Signed { key: key.public(), message: &said, signature: key.sign(&said) })
            .collect();
        let together = time(&|| verifier.verify_batch(std::hint::black_box(&signed)).expect("they are")) / len as f64;
        let mac = time(&|| {
            std::hint::black_box(blake3::keyed_hash(&[7; 32], std::hint::black_box(&said)));
        });
        Self { sign, verify, together, mac }
    }
}
