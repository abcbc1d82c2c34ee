//! Four organisations keep one ledger of payments, though they do not trust each other: pBFT among processes.
//!
//! Each organisation runs one replica, a process with its own key, log and listener, and a gateway through which its
//! customers pay. One replica can be told to be malicious, with its own key: the other three go on, agree on every
//! balance, and where it contradicted itself they show what proves that to anyone. Without, the primary is killed and
//! started again on the way.
//!
//! ```sh
//! cargo run --release --example ledger
//! cargo run --release --example ledger -- --evil equivocate
//! ```

mod books;
mod customers;
mod evil;
mod replica;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use books::{Balances, Books, Money, digest};
use clap::{Parser, Subcommand};
use customers::{Customer, Gateway, Paid, Progress};
use evil::Evil;
use mesh_consensus::pbft::{Evidence, ReplicaSet};
use mesh_core::identity::{PublicKey, SecretKey};
use mesh_core::{NodeId, wire};
use mesh_examples::hex::to_hex;
use mesh_examples::processes::{INTERRUPTED, Interruption, Processes, exit_code, failure, make_directory};
use replica::{ReplicaOptions, Said};
use serde::Serialize;

/// Who keeps the ledger.
const ORGANISATIONS: [&str; 4] = ["Alder", "Birch", "Cedar", "Dogwood"];

/// The place of the replica that is malicious: the first primary.
const FIRST: usize = 0;

/// How often the replicas are looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// How long anything may take that is waited for; far more than it needs, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// Starts four replicas as processes, has customers pay each other, and checks every balance.
#[derive(Debug, Parser)]
#[command(name = "ledger")]
struct Arguments {
    #[command(subcommand)]
    role: Option<Role>,
    /// Make the first replica malicious
    #[arg(long, value_enum)]
    evil: Option<Evil>,
    /// How many payments
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    payments: u32,
    /// The seed of who pays whom how much
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print the report as one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// One replica; the program starts these itself.
    #[command(hide = true)]
    Node(ReplicaOptions),
}

/// How it went.
#[derive(Debug, Serialize)]
struct Report {
    payments: u32,
    paid: usize,
    refused: usize,
    seconds: f64,
    median_ms: f64,
    longest_ms: f64,
    accounts: usize,
    total_cents: u64,
    /// Replicas, of those that are not malicious, whose balances are what the payments make of them.
    replicas_equal: usize,
    view: u64,
    evil: Option<String>,
    /// Evidence against the malicious replica, checked: what it signed, for all to check.
    evidence: Vec<String>,
    /// What the others dropped of the malicious replica's, and how often they said so.
    dropped: Vec<(String, u64)>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(Role::Node(options)) = arguments.role {
        return exit_code(replica::serve(options));
    }
    let data = std::env::temp_dir().join(format!("mesh-ledger-{}", std::process::id()));
    if let Err(error) = make_directory(&data, false) {
        eprintln!("ledger: cannot make {}: {error}", data.display());
        return ExitCode::from(2);
    }
    match run(&arguments, &data) {
        Ok(report) => {
            // Keys and logs of replicas that are no more; what is left of them does no harm.
            let _ = fs::remove_dir_all(&data);
            match serde_json::to_string(&report) {
                Ok(json) if arguments.json => println!("{json}"),
                _ => println!("ok: every balance is what the payments make of it, on all replicas that work"),
            }
            ExitCode::SUCCESS
        }
        Err(problem) => failure("ledger", &problem, &data),
    }
}

/// Says what happens, unless only the report is wanted.
struct Teller {
    is_quiet: bool,
}

impl Teller {
    fn say(&self, text: &str) {
        if !self.is_quiet {
            println!("{text}");
        }
    }
}

fn run(arguments: &Arguments, data: &Path) -> Result<Report, String> {
    let teller = Teller { is_quiet: arguments.json };
    let interrupted = Interruption::notice().map_err(|error| error.to_string())?;
    let customers = customers::customers(ORGANISATIONS.len(), arguments.payments as usize, arguments.seed);
    let at_first = customers::genesis(&customers);
    let ledger = Ledger::start(arguments.evil, data, &at_first, &teller, interrupted);
    let mut ledger = ledger.map_err(|error| error.to_string())?;
    teller.say(&format!(
        "{} customers have {} in all, and make {} payments",
        at_first.len(),
        Money(at_first.values().sum()),
        arguments.payments
    ));

    let report = keep(&mut ledger, arguments, &customers, &at_first, &teller);
    if report.is_ok() || report.as_ref().is_err_and(|problem| problem == INTERRUPTED) {
        ledger.stop()?;
    }
    report
}

/// Lets customers pay, and checks what comes of it.
fn keep(
    ledger: &mut Ledger,
    arguments: &Arguments,
    customers: &[Customer],
    at_first: &Balances,
    teller: &Teller,
) -> Result<Report, String> {
    let begin = Instant::now();
    let (paid, progress) = ledger.pay(customers, arguments, teller)?;
    let seconds = begin.elapsed().as_secs_f64();
    let (longest, median) = progress.longest_and_median().unwrap_or_default();
    let [median_ms, longest_ms] = [median, longest].map(|time| time.as_secs_f64() * 1e3);
    teller.say(&format!(
        "{} payments were made and {} refused for want of money in {seconds:.1} s; one took {median_ms:.1} ms, at most {longest_ms:.0}",
        paid.paid, paid.refused
    ));

    let expected = paid.applied_to(at_first);
    let replicas_equal = ledger.until_equal(&expected)?;
    let quorum = ledger.gateways[FIRST].balances()?.ok_or("no quorum of replicas answers alike")?;
    if quorum != expected {
        return Err("a quorum of replicas says other balances than the payments make".to_owned());
    }
    teller.say(&format!(
        "{replicas_equal} replicas and whoever asks a quorum agree: {} accounts hold {} in all, each what the payments make of it",
        quorum.len(),
        Money(quorum.values().sum()),
    ));
    let said = ledger.honest();
    let view = said.iter().map(|said| said.view).max().unwrap_or_default();
    let (evidence, dropped) = ledger.case_against_evil(teller)?;
    Ok(Report {
        payments: arguments.payments,
        paid: paid.paid,
        refused: paid.refused,
        seconds,
        median_ms,
        longest_ms,
        accounts: quorum.len(),
        total_cents: quorum.values().sum(),
        replicas_equal,
        view,
        evil: arguments.evil.map(|evil| evil.to_string()),
        evidence: evidence.iter().map(|evidence| to_hex(&wire::to_bytes(evidence))).collect(),
        dropped,
    })
}

/// Evidence that was checked, and what was dropped, with how often that was said.
type Case = (Vec<Evidence>, Vec<(String, u64)>);

/// What is done to a replica where none is malicious.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    /// Kill the primary.
    Kill,
    /// Start it again.
    Restart,
}

/// The replicas and gateways of all organisations.
struct Ledger {
    evil: Option<Evil>,
    processes: Processes<Said>,
    /// What every replica is told, and what the malicious one is told.
    arguments: [Vec<OsString>; 2],
    replicas: ReplicaSet,
    gateways: Vec<Gateway>,
    /// The place of the replica that was killed, and not started again.
    killed: Option<usize>,
    /// Whether all is to end at once.
    interrupted: Interruption,
}

impl Ledger {
    fn start(
        evil: Option<Evil>,
        data: &Path,
        at_first: &Balances,
        teller: &Teller,
        interrupted: Interruption,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let processes = Processes::create(data, ORGANISATIONS.len())?.interrupted_by(interrupted.clone());
        let genesis = data.join("genesis");
        Books::write(at_first, &genesis)?;
        let keys: Vec<PublicKey> = processes.keys().collect();
        let gateways = ORGANISATIONS.iter().map(|_| SecretKey::generate()).collect::<Result<Vec<_>, _>>()?;
        let clients: Vec<NodeId> = gateways.iter().map(SecretKey::node_id).collect();
        let arguments = [None, evil].map(|evil| ReplicaOptions::arguments(&genesis, &keys, &clients, evil));
        let replicas = replica::group(&keys)?;
        let mut ledger = Self { evil, processes, arguments, replicas, gateways: Vec::new(), killed: None, interrupted };
        let started = ledger.start_all(gateways, teller);
        if started.is_err() {
            // Those that run stop in good order; what is in the way of that is told by their logs.
            ledger.processes.stop();
        }
        started.map(|()| ledger)
    }

    fn start_all(&mut self, gateways: Vec<SecretKey>, teller: &Teller) -> Result<(), Box<dyn std::error::Error>> {
        for (at, name) in ORGANISATIONS.iter().enumerate() {
            self.start_replica(at)?;
            match self.evil.filter(|_| at == FIRST) {
                Some(evil) => teller.say(&format!("started the replica of {name}: malicious ({evil})")),
                None => teller.say(&format!("started the replica of {name}")),
            }
        }
        let addresses: Vec<_> = self.processes.addresses().collect();
        for key in gateways {
            self.gateways.push(Gateway::start(key, &self.replicas, addresses.iter().copied())?);
        }
        Ok(())
    }

    fn start_replica(&mut self, at: usize) -> io::Result<()> {
        let is_evil = self.is_evil(at);
        self.processes.start(at, self.arguments[usize::from(is_evil)].clone()).map(drop)
    }

    fn is_evil(&self, at: usize) -> bool {
        at == FIRST && self.evil.is_some()
    }

    /// Lets all customers pay; if all are honest, the primary dies half-way and comes back.
    fn pay(
        &mut self,
        customers: &[Customer],
        arguments: &Arguments,
        teller: &Teller,
    ) -> Result<(Paid, Arc<Progress>), String> {
        let progress = Arc::new(Progress::default());
        let payers = self.gateways.iter().zip(customers.chunks(customers::CUSTOMERS));
        let payers: Result<Vec<_>, _> = payers.map(|(gateway, own)| customers::pay(gateway, own, &progress)).collect();
        let payers = payers.map_err(|error| error.to_string())?;
        let deadline = Instant::now() + PATIENCE + Duration::from_millis(20) * arguments.payments;
        // What is done to a replica, and after how many payments.
        let half = arguments.payments as usize / 2;
        let troubles = [(half, Trouble::Kill), (half + half / 2, Trouble::Restart)];
        let is_honest = self.evil.is_none();
        let mut troubles = troubles.into_iter().filter(|_| is_honest).peekable();
        loop {
            let is_over = payers.iter().all(thread::JoinHandle::is_finished);
            let answered = progress.answered.load(Relaxed);
            while let Some((_, trouble)) = troubles.next_if(|(after, _)| answered >= *after) {
                self.make(trouble, teller).map_err(|error| error.to_string())?;
            }
            if is_over {
                break;
            }
            if self.interrupted.is_there() {
                progress.give_up();
                return Err(INTERRUPTED.to_owned());
            }
            if let Err(problem) = self.processes.check() {
                progress.give_up();
                return Err(problem);
            }
            if Instant::now() > deadline {
                progress.give_up();
                return Err("the payments took too long".to_owned());
            }
            thread::sleep(LOOK_INTERVAL);
        }
        let mut all = Paid::default();
        for payer in payers {
            all.add(payer.join().map_err(|_| "a customer panicked")??);
        }
        Ok((all, progress))
    }

    fn make(&mut self, trouble: Trouble, teller: &Teller) -> io::Result<()> {
        match trouble {
            Trouble::Kill => {
                let (at, view) = self.primary();
                self.processes.kill(at)?;
                self.killed = Some(at);
                let name = ORGANISATIONS[at];
                teller.say(&format!("killed the replica of {name}, the primary of view {view} (SIGKILL)"));
            }
            Trouble::Restart => {
                let Some(at) = self.killed.take() else { return Ok(()) };
                self.start_replica(at)?;
                teller.say(&format!("started the replica of {} again", ORGANISATIONS[at]));
            }
        }
        Ok(())
    }

    /// The place of the primary, and its view: the newest that a replica has said to be in.
    fn primary(&self) -> (usize, u64) {
        let view = self.processes.said().iter().map(|(_, said)| said.view).max().unwrap_or_default();
        let primary = self.replicas.node(self.replicas.primary(view));
        let at = self.processes.iter().position(|(node, ..)| Some(node) == primary);
        (at.unwrap_or(FIRST), view)
    }

    /// What the replicas said last that are not malicious.
    fn honest(&self) -> Vec<Said> {
        let evil = self.evil.and_then(|_| self.processes.keys().nth(FIRST)).map(|key| key.node_id());
        self.processes.said().into_iter().filter(|(node, _)| Some(*node) != evil).map(|(_, said)| said).collect()
    }

    /// Waits until all replicas that are not malicious say that these are the balances; how many they are.
    fn until_equal(&mut self, expected: &Balances) -> Result<usize, String> {
        let wanted = ORGANISATIONS.len() - usize::from(self.evil.is_some());
        let expected = digest(expected);
        self.until("all replicas hold what the payments make", |said| {
            (said.len() == wanted && said.iter().all(|said| said.balances == expected)).then_some(wanted)
        })
    }

    /// Waits until what the replicas that are not malicious say is as wanted.
    fn until<T>(&mut self, what: &str, wanted: impl Fn(&[Said]) -> Option<T>) -> Result<T, String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = wanted(&self.honest()) {
                return Ok(found);
            }
            if self.interrupted.is_there() {
                return Err(INTERRUPTED.to_owned());
            }
            self.processes.check()?;
            if Instant::now() > deadline {
                return Err(format!("it did not come about in {PATIENCE:?} that {what}"));
            }
            thread::sleep(LOOK_INTERVAL);
        }
    }

    /// What the others hold against the malicious replica: evidence that was checked here again, and what they dropped.
    fn case_against_evil(&mut self, teller: &Teller) -> Result<Case, String> {
        let culprit = self.replicas.replicas().nth(FIRST).filter(|_| self.evil.is_some());
        let evil_node = culprit.and_then(|culprit| self.replicas.node(culprit)).map(|node| node.to_string());
        let name = ORGANISATIONS[FIRST];
        let evidence = if self.evil == Some(Evil::Equivocate) {
            self.until("a replica has evidence", |said| {
                let all: Vec<_> = said.iter().flat_map(Said::evidence).collect();
                (!all.is_empty()).then_some(all)
            })?
        } else {
            self.honest().iter().flat_map(Said::evidence).collect()
        };
        for evidence in &evidence {
            evidence.verify(&self.replicas).map_err(|error| format!("what is shown as evidence is none: {error}"))?;
            if Some(evidence.culprit()) != culprit {
                return Err(format!("there is evidence against {:?}, who is not malicious", evidence.culprit()));
            }
        }
        let mut seen = BTreeSet::new();
        let places = |evidence: &Evidence| (evidence.first.statement.view, evidence.first.statement.sequence);
        for evidence in evidence.iter().filter(|evidence| seen.insert(places(evidence))) {
            let [first, second] = [evidence.first.statement, evidence.second.statement];
            teller.say(&format!(
                "evidence: {name} signed {:?} {:?} and {:?} {:?} of sequence number {} in view {}",
                first.kind, first.digest, second.kind, second.digest, first.sequence, first.view
            ));
        }
        let dropped = |said: &[Said]| {
            let all = said.iter().flat_map(|said| said.dropped.clone());
            let mut times = BTreeMap::new();
            for (_, what, count) in all.filter(|(node, ..)| Some(node) == evil_node.as_ref()) {
                *times.entry(what).or_insert(0) += count;
            }
            times.into_iter().collect::<Vec<(String, u64)>>()
        };
        let dropped = if self.evil == Some(Evil::Forge) {
            self.until("a replica found something forged", |said| Some(dropped(said)).filter(|all| !all.is_empty()))?
        } else {
            dropped(&self.honest())
        };
        for (what, times) in &dropped {
            teller.say(&format!("dropped: {name} sent {what} (said {times} times)"));
        }
        Ok((evidence, dropped))
    }

    fn stop(mut self) -> Result<(), String> {
        for gateway in self.gateways.drain(..) {
            gateway.stop()?;
        }
        let problems = self.processes.stop();
        if problems.is_empty() { Ok(()) } else { Err(problems.join("; ")) }
    }
}
