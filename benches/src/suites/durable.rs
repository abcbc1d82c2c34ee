//! A durable cluster of three nodes beside the time the disk takes for one sync, and in turn with an
//! etcd cluster where there is one.

use super::wal::raw_fsync_us;
use super::{SuiteError, ratios};
use crate::cluster::{Cell, Cluster as _, Run};
use crate::ours::Durable;
use crate::raw_disk::{RawSegment, scratch_dir};
use crate::report::{Report, Settings, Table, short};
use crate::stats::median;

const CLIENTS: [usize; 3] = [1, 64, 256];
const PAYLOAD: usize = 256;

/// Each run waits for hundreds of syncs, so it takes longer than one of a cluster in memory.
const TIMES_LONGER: f64 = 3.0;

/// Who takes a number of writes from a number of clients.
type Write<'a> = Box<dyn FnMut(u64) -> Result<Run, SuiteError> + 'a>;

/// The runs of one contestant.
struct Runs<'a> {
    name: &'static str,
    write: Write<'a>,
    entries: u64,
    rates: Vec<f64>,
    p50_us: Vec<f64>,
    p99_us: Vec<f64>,
}

impl<'a> Runs<'a> {
    /// Warms up, and finds out how many entries a run of the wanted length has.
    fn new(name: &'static str, clients: usize, settings: &Settings, mut write: Write<'a>) -> Result<Self, SuiteError> {
        let warm_up = write(clients as u64 * 20)?.rate();
        let entries = (warm_up * settings.run_seconds() * TIMES_LONGER) as u64 + 1;
        Ok(Self { name, write, entries, rates: Vec::new(), p50_us: Vec::new(), p99_us: Vec::new() })
    }

    fn run(&mut self) -> Result<(), SuiteError> {
        let mut run = (self.write)(self.entries)?;
        self.rates.push(run.rate());
        self.p50_us.push(run.latency_us(50));
        self.p99_us.push(run.latency_us(99));
        Ok(())
    }
}

pub(super) fn measure(settings: &Settings, report: &mut Report) -> Result<(), SuiteError> {
    let mut etcd = etcd::connect(settings)?;
    let dir = scratch_dir()?;
    let mut raw = RawSegment::create(dir.path())?;
    let mut syncs = Vec::new();
    let mut table = Table::new(
        "Durable: 3 nodes, synced logs, 256 B; ours over loopback with TLS, etcd's without",
        ["clients", "writes/s", "us p50", "us p99", "ours/etcd", "raw sync us p50"],
    );
    for clients in CLIENTS {
        let mut ours = Durable::start(Cell { nodes: 3, payload: PAYLOAD, in_flight: clients });
        let mut field = vec![Runs::new("durable_3n", clients, settings, Box::new(|entries| Ok(ours.run(entries))))?];
        if let Some(etcd) = &mut etcd {
            let write = Box::new(|entries| etcd::run(etcd, clients, PAYLOAD, entries));
            field.push(Runs::new("etcd", clients, settings, write)?);
        }
        let mut beside = Vec::new();
        for _ in 0..settings.runs() {
            beside.push(raw_fsync_us(&mut raw, settings)?);
            for runs in &mut field {
                runs.run()?;
            }
        }
        for runs in &field {
            let prefix = format!("{}_{clients}", runs.name);
            let rate = report.figure(format!("{prefix}_writes_per_s"), &runs.rates);
            let p50 = report.figure(format!("{prefix}_p50_us"), &runs.p50_us);
            let p99 = report.figure(format!("{prefix}_p99_us"), &runs.p99_us);
            let ours = &field[0].rates;
            let ratio = (runs.name == "etcd")
                .then(|| report.figure(format!("durable_vs_etcd_{clients}_writes_per_s"), &ratios(ours, &runs.rates)));
            let ratio = ratio.map(short).unwrap_or_default();
            let name = format!("{} {clients}", runs.name);
            table.row([name, short(rate), short(p50), short(p99), ratio, short(median(&beside))]);
        }
        syncs.append(&mut beside);
    }
    report.figure("raw_fsync_us_p50", &syncs);
    report.table(table);
    Ok(())
}

#[cfg(feature = "peers")]
mod etcd {
    use super::{Run, Settings, SuiteError};
    pub(super) use crate::peers::Etcd;

    pub(super) fn connect(settings: &Settings) -> Result<Option<Etcd>, SuiteError> {
        let wanted = !settings.etcd.is_empty();
        wanted.then(|| Etcd::connect(&settings.etcd)).transpose().map_err(|error| SuiteError::Etcd(error.to_string()))
    }

    pub(super) fn run(etcd: &mut Etcd, clients: usize, payload: usize, entries: u64) -> Result<Run, SuiteError> {
        etcd.run(clients, payload, entries).map_err(|error| SuiteError::Etcd(error.to_string()))
    }
}

#[cfg(not(feature = "peers"))]
mod etcd {
    use super::{Run, Settings, SuiteError};

    /// Nobody: the client is built with the feature `peers`.
    pub(super) type Etcd = std::convert::Infallible;

    pub(super) fn connect(settings: &Settings) -> Result<Option<Etcd>, SuiteError> {
        match settings.etcd.is_empty() {
            true => Ok(None),
            false => Err(SuiteError::Etcd("build with --features peers".to_owned())),
        }
    }

    pub(super) fn run(etcd: &mut Etcd, _: usize, _: usize, _: u64) -> Result<Run, SuiteError> {
        match *etcd {}
    }
}
