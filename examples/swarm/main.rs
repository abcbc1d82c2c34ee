//! A swarm of processes that replicates a directory tree while its leader is killed.
//!
//! Each node is an operating-system process with its own key, directory and listener, told only who
//! the members are and the address of one of them. One record a file of the tree is written through
//! Raft; half-way the leader is killed, later it is restarted from its directory. In the end all
//! stores must be equal, and every acknowledged record must be there and be what the file says.
//!
//! ```sh
//! cargo run --release --example swarm
//! cargo run --release --example swarm -- --input ~/src --nodes 7 --json
//! ```

mod records;
mod report;
mod view;
mod writers;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use mesh_consensus::raft::RaftConfig;
use mesh_core::identity::SecretKey;
use mesh_core::{NodeId, Rng64, StateMachine as _};
use mesh_examples::client::{NodeStatus, Request};
use mesh_examples::cluster::{Cluster, Router, hold_the_same};
use mesh_examples::node::{NodeOptions, ServeError, run_node};
use mesh_examples::store::{Store, StoreCommand};
use records::Record;
use report::Report;
use view::View;
use writers::{CLIENTS, Progress, ask_until_done};

/// How often the nodes are asked how they are.
const LOOK_INTERVAL: Duration = Duration::from_millis(25);

/// Short, because all nodes are on one machine.
const ELECTION_TIMEOUT: Duration = Duration::from_millis(300);

/// How long anything may take that waits for the swarm: a leader, the last write, equal stores.
const PATIENCE: Duration = Duration::from_secs(60);

/// Starts a swarm of processes, replicates one record a file through it, kills its leader on the way,
/// and checks that nothing acknowledged is lost.
#[derive(Debug, Parser)]
#[command(name = "swarm")]
struct Arguments {
    #[command(subcommand)]
    role: Option<Role>,
    /// The directory tree to replicate [default: the source tree of mesh]
    #[arg(long, value_name = "DIR")]
    input: Option<PathBuf>,
    /// How many nodes
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=15))]
    nodes: u8,
    /// The seed of the order in which the records are written
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Keep the nodes' directories, in DIR where it is given; it must be new or empty
    #[arg(long, value_name = "DIR", num_args = 0..=1)]
    keep: Option<Option<PathBuf>>,
    /// Kill no leader
    #[arg(long)]
    no_chaos: bool,
    /// Print the report as one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// One node; the swarm starts these itself.
    #[command(hide = true)]
    Node {
        #[arg(long)]
        data: PathBuf,
        #[arg(long, value_delimiter = ',')]
        members: Vec<NodeId>,
        #[arg(long)]
        join: Vec<SocketAddr>,
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: SocketAddr,
        #[arg(long, default_value = "127.0.0.1:0")]
        clients: SocketAddr,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(Role::Node { data, members, join, listen, clients }) = arguments.role {
        return match node(data, members, join, listen, clients) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::from(if error.is_usage() { 2 } else { 1 })
            }
        };
    }
    let input = arguments.input.clone().unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    let prepared = prepare(&arguments, &input);
    let (records, data) = match prepared {
        Ok(prepared) => prepared,
        Err(problem) => {
            eprintln!("swarm: {problem}");
            return ExitCode::from(2);
        }
    };
    let outcome = swarm(&arguments, records, &data);
    let well = outcome.as_ref().is_ok_and(|report| report.ok);
    if arguments.keep.is_none() && !well {
        eprintln!("swarm: the nodes' data is left in {}", data.display());
    } else if arguments.keep.is_none()
        && let Err(error) = fs::remove_dir_all(&data)
    {
        eprintln!("swarm: {} is left behind: {error}", data.display());
    }
    match outcome {
        Ok(report) => {
            match serde_json::to_string(&report) {
                Ok(json) if arguments.json => println!("{json}"),
                _ => println!("{report}"),
            }
            ExitCode::from(u8::from(!report.ok))
        }
        Err(error) => {
            eprintln!("swarm: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The other side of this program: one node.
fn node(
    data: PathBuf,
    members: Vec<NodeId>,
    join: Vec<SocketAddr>,
    listen: SocketAddr,
    clients: SocketAddr,
) -> Result<(), ServeError> {
    let key = SecretKey::load_or_create(data.join("key"))?;
    let raft = RaftConfig {
        election_timeout: ELECTION_TIMEOUT,
        heartbeat_interval: ELECTION_TIMEOUT / 6,
        ..RaftConfig::default()
    };
    let options = NodeOptions { key, members, joins: false, join, listen, clients, log: data.join("log.d"), raft };
    thread::spawn(end_with_the_swarm);
    run_node(options, |listen, clients| println!("{listen} {clients}"))
}

/// Ends the process when the swarm is gone, however it went: the other end of the input closes then.
fn end_with_the_swarm() {
    let mut input = std::io::stdin().lock();
    // Nobody writes to it; an input that cannot be read is as good as closed.
    let _ = std::io::copy(&mut input, &mut std::io::sink());
    std::process::exit(1);
}

/// Reads the input and makes the directory for the nodes; what is wrong with the arguments shows here.
fn prepare(arguments: &Arguments, input: &Path) -> Result<(Vec<Record>, PathBuf), String> {
    let mut records = records::walk(input).map_err(|error| format!("cannot read {}: {error}", input.display()))?;
    if records.is_empty() {
        return Err(format!("{} holds no files: give another directory to --input", input.display()));
    }
    Rng64::from_seed(arguments.seed, "order of records").shuffle(&mut records);
    let data = match &arguments.keep {
        Some(Some(directory)) => directory.clone(),
        _ => std::env::temp_dir().join(format!("mesh-swarm-{}", std::process::id())),
    };
    fs::create_dir_all(&data).map_err(|error| format!("cannot make {}: {error}", data.display()))?;
    let mut holds = fs::read_dir(&data).map_err(|error| format!("cannot read {}: {error}", data.display()))?;
    if holds.next().is_some() {
        return Err(format!("{} is not empty: give --keep a new directory", data.display()));
    }
    Ok((records, data))
}

/// Runs the swarm from the first process to the report.
fn swarm(arguments: &Arguments, records: Vec<Record>, data: &Path) -> std::io::Result<Report> {
    let nodes = usize::from(arguments.nodes);
    let total = records.len() as u64;
    let mut view = View::new(total, nodes, arguments.json);
    let cluster = Arc::new(Cluster::create(std::env::current_exe()?, data, nodes)?);
    for at in 0..nodes {
        cluster.start(at)?;
    }
    let first = wait_for(&cluster, &mut view, 0, |seen| leader(seen, 0).is_some())
        .ok_or_else(|| std::io::Error::other("the nodes elected no leader"))?;
    if let Some(leader) = leader(&first, 0) {
        view.say(&format!("{nodes} nodes run, {:?} leads in term {}", NodeId(leader.node), leader.term));
    }

    let progress = Arc::new(Progress::new(records));
    let started = Instant::now();
    let writers = writers::start(&cluster, &progress);
    let mut chaos = if arguments.no_chaos || nodes < 3 { Chaos::Over } else { Chaos::Waits };
    let (half, most) = (total.div_ceil(2), (total * 3).div_ceil(4));
    progress.open_gate(if matches!(chaos, Chaos::Waits) { half } else { total });
    let mut leaderless = Duration::ZERO;
    let deadline = started + PATIENCE + Duration::from_millis(10 * total);
    while writers.iter().any(|writer| !writer.is_finished()) || !matches!(chaos, Chaos::Over) {
        if Instant::now() > deadline {
            progress.give_up();
            break;
        }
        let statuses = cluster.statuses();
        view.show(progress.count(), &statuses);
        chaos = match chaos {
            Chaos::Waits if progress.count() >= half => match leader(&statuses, 0) {
                Some(leader) => {
                    let at = cluster.find(leader.node).ok_or_else(|| std::io::Error::other("a stranger leads"))?;
                    let (term, name) = (leader.term, NodeId(leader.node));
                    // It dies with writes on their way.
                    progress.open_gate(most);
                    while progress.count() == half && half < most && Instant::now() < deadline {
                        thread::yield_now();
                    }
                    cluster.kill(at)?;
                    view.say(&format!("killed the leader {name:?} after {} records", progress.count()));
                    Chaos::Killed { at, term, when: Instant::now() }
                }
                None => Chaos::Waits,
            },
            Chaos::Killed { at, term, when } => match leader(&statuses, term) {
                Some(leader) => {
                    leaderless = when.elapsed();
                    view.say(&format!("{:?} leads in term {}", NodeId(leader.node), leader.term));
                    Chaos::Survived { at }
                }
                None => Chaos::Killed { at, term, when },
            },
            Chaos::Survived { at } if progress.count() >= most => {
                cluster.start(at)?;
                progress.open_gate(total);
                view.say(&format!("restarted node {} from its directory", at + 1));
                Chaos::Over
            }
            other => other,
        };
        thread::sleep(LOOK_INTERVAL);
    }
    let killed = u64::from(!arguments.no_chaos && nodes >= 3 && matches!(chaos, Chaos::Over));
    for writer in writers {
        writer.join().map_err(|_| std::io::Error::other("a writer failed"))?;
    }
    let seconds = started.elapsed().as_secs_f64();

    let mut problems = Vec::new();
    let settled = wait_for(&cluster, &mut view, progress.count(), hold_the_same);
    let statuses = settled.clone().unwrap_or_else(|| cluster.statuses());
    view.clear();
    if settled.is_none() {
        problems.push("the nodes' stores did not become equal".to_owned());
    }
    let verified = verify(&cluster, &progress, &mut problems);
    if progress.count() < total {
        problems.push(format!("{} records were not acknowledged", total - progress.count()));
    } else if let Some(status) = statuses.iter().flatten().next()
        && status.digest != expected_digest(&progress)
    {
        problems.push("the stores hold something else than the records".to_owned());
    }
    if !matches!(chaos, Chaos::Over) {
        problems.push("the swarm did not come through the death of its leader".to_owned());
    }
    problems.extend(cluster.stop());
    Ok(Report {
        ok: problems.is_empty(),
        problems,
        nodes,
        seed: arguments.seed,
        records: total,
        acknowledged: progress.count(),
        verified,
        retries: progress.retries(),
        writes_per_s: progress.count() as f64 / seconds,
        seconds,
        leaders_killed: killed,
        leaderless_ms: leaderless.as_secs_f64() * 1e3,
        longest_stall_ms: progress.longest_stall().as_secs_f64() * 1e3,
        term: statuses.iter().flatten().map(|status| status.term).max().unwrap_or(0),
        digests: statuses.into_iter().flatten().map(|status| status.digest).collect(),
        kept: arguments.keep.is_some().then(|| data.display().to_string()),
    })
}

/// How far the killing of the leader has come.
enum Chaos {
    Waits,
    Killed { at: usize, term: u64, when: Instant },
    Survived { at: usize },
    Over,
}

/// The node that leads in a term after `term`, by its own word.
fn leader(statuses: &[Option<NodeStatus>], term: u64) -> Option<&NodeStatus> {
    let leads = |status: &&NodeStatus| status.leader == Some(status.node) && status.term > term;
    statuses.iter().flatten().filter(leads).max_by_key(|status| status.term)
}

/// Looks at the nodes until they are as `wanted`; `None` when they do not become so.
fn wait_for(
    cluster: &Cluster,
    view: &mut View,
    acknowledged: u64,
    wanted: impl Fn(&[Option<NodeStatus>]) -> bool,
) -> Option<Vec<Option<NodeStatus>>> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        let statuses = cluster.statuses();
        view.show(acknowledged, &statuses);
        if wanted(&statuses) {
            return Some(statuses);
        }
        thread::sleep(LOOK_INTERVAL);
    }
    None
}

/// Reads every acknowledged record back and compares it with its file as it is now; how many are right.
fn verify(cluster: &Cluster, progress: &Progress, problems: &mut Vec<String>) -> u64 {
    let acknowledged: Vec<_> = progress.acknowledged().collect();
    let next = AtomicUsize::new(0);
    let check = || {
        let mut router = Router::new(cluster);
        let mut wrong = Vec::new();
        while let Some(record) = acknowledged.get(next.fetch_add(1, Relaxed)) {
            wrong.extend(check(&mut router, progress, record));
        }
        wrong
    };
    let wrong: Vec<String> = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(check)).collect();
        let deadline = Instant::now() + PATIENCE + Duration::from_millis(10 * acknowledged.len() as u64);
        while clients.iter().any(|client| !client.is_finished()) {
            if Instant::now() > deadline {
                progress.give_up();
            }
            thread::sleep(LOOK_INTERVAL);
        }
        let failed = |_| vec!["a client that reads back failed".to_owned()];
        clients.into_iter().flat_map(|client| client.join().unwrap_or_else(failed)).collect()
    });
    let verified = acknowledged.len().saturating_sub(wrong.len()) as u64;
    problems.extend(wrong);
    verified
}

/// What is wrong with one record, if anything.
fn check(router: &mut Router<'_>, progress: &Progress, record: &Record) -> Option<String> {
    let get = Request::Get { key: record.key.clone(), stale_ms: None };
    match (ask_until_done(router, progress, &get), record.read_again()) {
        (Some(Some(value)), Ok(file)) if value == file.value() => None,
        (Some(Some(value)), Ok(_)) if value == record.value() => {
            Some(format!("{} changed while the swarm ran", record.key))
        }
        (Some(Some(_)), Ok(_)) => Some(format!("{} is not what its file says", record.key)),
        (Some(None), _) => Some(format!("{} was acknowledged and is lost", record.key)),
        (None, _) => Some(format!("{} could not be read back", record.key)),
        (_, Err(error)) => Some(format!("{} cannot be read any more: {error}", record.key)),
    }
}

/// The digest of a store that holds all records and nothing else.
fn expected_digest(progress: &Progress) -> String {
    let mut store = Store::default();
    for record in progress.acknowledged() {
        let put = StoreCommand::Put { key: record.key.clone(), value: record.value() };
        store.apply(mesh_core::LogIndex(0), put);
    }
    blake3::Hash::from(store.digest()).to_hex().to_string()
}
