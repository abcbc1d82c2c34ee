//! The whole mesh at work: agents as processes index a directory, keep a catalogue of it, decide and vote, while they live
//! through a script of trouble.
//!
//! Each agent is an operating-system process with its own key, directory and listener, told one address, over TCP with TLS
//! and under a cluster key. They discover each other, watch each other by heartbeats, gossip, agree by Raft, pBFT and
//! ballots, and share the tasks. Leaders and workers are killed, the network is split, a replica lies, an agent gets too much
//! to do, one is added, one leaves, keys are rotated. In the end every file is counted once in effect, all that was
//! acknowledged is there on every agent, and all agree. Ctrl-C ends all in good order, in some seconds at the most; again, it
//! ends all at once.
//!
//! ```sh
//! cargo run --release --example swarm
//! cargo run --release --example swarm -- --input ~/src --nodes 9 --json
//! cargo run --release --example swarm -- --script none
//! cargo run --release --example swarm -- --dashboard 127.0.0.1:8080
//! ```

mod agent;
mod line;
mod mesh;
mod report;
mod script;
mod stage;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, Subcommand};
use mesh_core::{LogIndex, Rng64, StateMachine as _};
use mesh_examples::dashboard::Dashboard;
use mesh_examples::hex::short_digest;
use mesh_examples::index::{Index, Piece, pieces};
use mesh_examples::indexer;
use mesh_examples::processes::{Interruption, Processes, exit_code, make_directory};
use mesh_examples::store::{Store, StoreCommand};

use agent::{AgentOptions, PIECE_LEN, Plan};
use line::{Order, Status};
use mesh::{Mesh, Problem, Record};
use report::Report;
use script::{Step, live_through, new_cluster_key, whole};
use stage::{FIGURES, Stage};
use view::View;

/// So many agents order decisions by pBFT: one of them may lie.
const REPLICAS: usize = 4;

/// The exit code of a program that was interrupted by Ctrl-C: 128 and the number of SIGINT. SIGTERM ends it with the same.
const INTERRUPTED: u8 = 130;

/// So many decisions are made before any trouble.
const DECISIONS: usize = 3;

/// Starts a swarm of processes that index a directory and live through trouble, and checks what comes out.
#[derive(Debug, Parser)]
#[command(name = "swarm", subcommand_negates_reqs = true)]
struct Arguments {
    #[command(subcommand)]
    role: Option<Role>,
    /// The directory tree to index [default: the source tree of mesh]
    #[arg(long, value_name = "DIR")]
    input: Option<PathBuf>,
    /// How many agents
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u8).range(4..=11))]
    nodes: u8,
    /// The seed of the order of tasks and writes
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The trouble to live through: none, or a file with a step a line [default: all of it]
    #[arg(long, value_name = "none|FILE")]
    script: Option<PathBuf>,
    /// Keep the agents' directories, in DIR where it is given; it must be new or empty
    #[arg(long, value_name = "DIR", num_args = 0..=1)]
    keep: Option<Option<PathBuf>>,
    /// How long a task takes at least, in ms, as if the disk were slow
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(0..=1000))]
    pace: u64,
    /// Show the swarm on a page at ADDR, such as 127.0.0.1:8080, with buttons to trouble it once the script is over (all the
    /// while with --script none); the agents run on after the report until Ctrl-C. Whoever can reach ADDR can press them
    #[arg(long, value_name = "ADDR")]
    dashboard: Option<SocketAddr>,
    /// Print the report as one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// One agent; the swarm starts these itself.
    #[command(hide = true)]
    Node(AgentOptions),
}

/// What is known before anything is started.
struct Prepared {
    pieces: Vec<Piece>,
    steps: Vec<Step>,
    data: PathBuf,
    input: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(Role::Node(options)) = arguments.role {
        return exit_code(agent::serve_agent(options));
    }
    let (prepared, dashboard) = match prepare(&arguments) {
        Ok(prepared) => prepared,
        Err(problem) => {
            eprintln!("swarm: {problem}");
            return ExitCode::from(2);
        }
    };
    let interrupted = Interruption::notice().unwrap_or_else(|error| {
        eprintln!("swarm: an interruption cannot be noticed: {error}");
        Interruption::default()
    });
    let (report, is_told) = swarm(&arguments, &prepared, dashboard, &interrupted);
    let data = &prepared.data;
    if interrupted.is_there() && !is_told {
        eprintln!("swarm: interrupted; all agents have stopped");
        if arguments.keep.is_none() {
            // What is left of them does no harm.
            let _ = fs::remove_dir_all(data);
        }
        return ExitCode::from(INTERRUPTED);
    }
    if arguments.keep.is_none() && !report.ok {
        eprintln!("swarm: the agents' logs are left in {}", data.display());
    } else if arguments.keep.is_none()
        && let Err(error) = fs::remove_dir_all(data)
    {
        eprintln!("swarm: {} is left behind: {error}", data.display());
    }
    if !is_told {
        tell(&report, arguments.json);
    }
    ExitCode::from(u8::from(!report.ok))
}

fn tell(report: &Report, json: bool) {
    match serde_json::to_string(report) {
        Ok(text) if json => println!("{text}"),
        _ => println!("{report}"),
    }
}

/// Reads the input and the script, listens for the dashboard, and makes the directory for the agents; what is wrong with the
/// arguments shows here.
fn prepare(arguments: &Arguments) -> Result<(Prepared, Option<Dashboard>), String> {
    let input = arguments.input.clone().unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    let pieces = pieces(&input, PIECE_LEN).map_err(|error| error.to_string())?;
    indexer::check(pieces.len()).map_err(|problem| format!("{problem}: choose a smaller directory"))?;
    let steps = match &arguments.script {
        None => Step::ALL.to_vec(),
        Some(none) if none.as_os_str() == "none" => Vec::new(),
        Some(file) => {
            let text = fs::read_to_string(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
            let checked = script::parse(&text).and_then(|steps| {
                script::check(&steps, usize::from(arguments.nodes), REPLICAS)?;
                Ok(steps)
            });
            checked.map_err(|error| format!("{}: {error}", file.display()))?
        }
    };
    let serve = |address| {
        let served = Dashboard::serve(address, &FIGURES);
        served.map_err(|error| format!("no dashboard can be served at {address}: {error}"))
    };
    let dashboard = arguments.dashboard.map(serve).transpose()?;
    let data = match &arguments.keep {
        Some(Some(directory)) => directory.clone(),
        _ => std::env::temp_dir().join(format!("mesh-swarm-{}", std::process::id())),
    };
    make_directory(&data, matches!(arguments.keep, Some(Some(_))))
        .map_err(|error| format!("cannot make {}: {error}", data.display()))?;
    let mut holds = fs::read_dir(&data).map_err(|error| format!("cannot read {}: {error}", data.display()))?;
    if holds.next().is_some() {
        return Err(format!("{} is not empty: give --keep a new directory", data.display()));
    }
    Ok((Prepared { pieces, steps, data, input }, dashboard))
}

/// Runs the swarm from the first process to the last; the report, and whether it was told already, as it is where people play
/// with the agents afterwards.
fn swarm(
    arguments: &Arguments,
    prepared: &Prepared,
    dashboard: Option<Dashboard>,
    interrupted: &Interruption,
) -> (Report, bool) {
    let begin = Instant::now();
    let founders = usize::from(arguments.nodes);
    let mut report = Report { agents: founders, seed: arguments.seed, ..Report::default() };
    report.kept = arguments.keep.is_some().then(|| prepared.data.display().to_string());
    let finish = |report: &mut Report, problem: Option<Problem>| {
        report.problems.extend(problem);
        report.seconds = begin.elapsed().as_secs_f64();
        report.ok = report.problems.is_empty();
    };
    let plays = dashboard.is_some();
    let (mut mesh, key) = match gather(arguments, prepared, dashboard, interrupted) {
        Ok(gathered) => gathered,
        Err(problem) => {
            finish(&mut report, Some(problem));
            return (report, false);
        }
    };
    let lived = live(&mut mesh, arguments, prepared, &key, &mut report);
    let lived = if plays { lived } else { lived.and_then(|()| shut_down(&mut mesh)) };
    finish(&mut report, lived.err());
    let is_told = plays && !interrupted.is_there();
    if is_told {
        mesh.view.erase();
        tell(&report, arguments.json);
        let end = if report.ok { "all is well" } else { "something is wrong" };
        mesh.view.say(&format!("{end}; the agents run on for the dashboard, until Ctrl-C"));
        mesh.doing(&format!("{end}, the script is over; do what you like, until Ctrl-C in the terminal"), None);
        mesh.play();
        mesh.part();
        if let Err(why) = shut_down(&mut mesh) {
            mesh.view.say(&format!("not all agents have left the network ({why}): they are ended by themselves"));
        }
    }
    mesh.view.erase();
    // Whoever runs still sees that its input closes.
    for problem in mesh.processes.stop() {
        eprintln!("swarm: {problem}");
        finish(&mut report, Some(problem));
    }
    (report, is_told)
}

/// One record a file: what the catalogue is to hold.
fn records(pieces: &[Piece], seed: u64) -> Vec<Record> {
    let mut records: Vec<Record> = pieces
        .chunk_by(|a, b| a.path == b.path)
        .map(|file| (file[0].path.clone(), format!("{} pieces", file.len())))
        .collect();
    Rng64::from_seed(seed, "order of records").shuffle(&mut records);
    records
}

/// Makes keys and directories for the agents; the mesh of them, of which nobody runs yet, and the name of its cluster key.
fn gather(
    arguments: &Arguments,
    prepared: &Prepared,
    dashboard: Option<Dashboard>,
    interrupted: &Interruption,
) -> Result<(Mesh, String), Problem> {
    let Prepared { pieces, data, input, .. } = prepared;
    let founders = usize::from(arguments.nodes);
    // One more is there to be added.
    let processes = Processes::create(data, founders + 1).map_err(|error| error.to_string())?;
    let processes = processes.interrupted_by(interrupted.clone());
    let cluster_key = data.join("cluster.key");
    let plan = Plan {
        agents: processes.keys().collect(),
        founders,
        replicas: REPLICAS,
        cluster_key,
        input: input.clone(),
        order: arguments.seed,
        pace: arguments.pace,
    };
    let mut view = View::new(arguments.json, dashboard.as_ref().map(Dashboard::log));
    if let Some(dashboard) = &dashboard {
        view.say(&format!("the dashboard is at http://{}/", dashboard.address()));
    }
    let records = records(pieces, arguments.seed);
    let mut mesh = Mesh::new(processes, &plan, records, view, dashboard.map(Stage::new), interrupted.clone());
    mesh.doing("the agents start, and find each other", Some("the agents start"));
    let (key, digits) = new_cluster_key()?;
    mesh.set_cluster_key(&digits)?;
    Ok((mesh, key.id().to_string()))
}

/// Starts the agents, and has them live through all there is, from their first words to the end.
fn live(
    mesh: &mut Mesh,
    arguments: &Arguments,
    prepared: &Prepared,
    key: &str,
    report: &mut Report,
) -> Result<(), Problem> {
    let Prepared { pieces, steps, .. } = prepared;
    let founders = usize::from(arguments.nodes);
    for at in 0..founders {
        mesh.start(at)?;
    }
    let formed = whole(mesh)?;
    mesh.view.say(&format!(
        "{founders} agents know each other after {:.1} s, under cluster key {key}",
        formed.as_secs_f64()
    ));

    for at in mesh.running() {
        mesh.remember(at, format!("agents/{}", at + 1), format!("knows {founders} agents"))?;
    }
    report.tasks = indexer::tasks(pieces.len());
    mesh.ask(0, Order::Index)?;
    mesh.view.say(&format!("{} tasks are submitted, {} records are to be written", report.tasks, mesh.records()));
    for number in 1..=DECISIONS {
        mesh.ask(number % REPLICAS, Order::Decide(format!("decision {number}")))?;
    }
    let parts = steps.len() + 1;
    for (number, step) in steps.iter().enumerate() {
        mesh.doing(&format!("step {} of {} of the script, {step}", number + 1, steps.len()), Some("the script runs"));
        let records = mesh.records();
        mesh.open_gate(records * (number + 1) / parts);
        report.script.push(live_through(mesh, number + 1, *step)?);
    }
    // Who has no script may make trouble by hand meanwhile.
    let refusal = (!steps.is_empty()).then_some("what the script left is compared");
    mesh.doing("the rest is written and counted", refusal);
    let records = mesh.records();
    mesh.open_gate(records);
    mesh.until("all records are acknowledged", |mesh| mesh.writing.acknowledged.len() == mesh.records())?;
    mesh.until("all is counted", |mesh| mesh.all(|status| status.tasks.index.is_some()))?;
    mesh.doing("what all agents have is compared with what there must be", refusal);
    verify(mesh, prepared, report)
}

/// Compares what all agents have with what there must be.
fn verify(mesh: &mut Mesh, prepared: &Prepared, report: &mut Report) -> Result<(), Problem> {
    let (input, pieces) = (prepared.input.clone(), prepared.pieces.clone());
    let index = mesh.meanwhile(move || Index::of_all(&input, &pieces))?.map_err(|error| error.to_string())?;
    (report.files, report.bytes, report.lines, report.words) = (index.files, index.bytes, index.lines, index.words);
    report.index = index.digest();
    let mut expected = Store::default();
    for (key, value) in &mesh.writing.acknowledged {
        expected.apply(LogIndex(0), StoreCommand::Put { key: key.clone(), value: value.clone() });
    }
    let catalogue = short_digest(expected.digest());
    report.acknowledged = mesh.writing.acknowledged.len();
    // Followers apply what is committed a moment later; what differs for longer is wrong.
    let same = mesh.until("all catalogues, decisions and memories are equal", |mesh| {
        let decisions: BTreeSet<_> =
            mesh.statuses().filter_map(|(_, status)| Some(status.decided.as_ref()?.digest.clone())).collect();
        let memories: BTreeSet<_> = mesh.statuses().map(|(_, status)| status.agent.memory.digest.clone()).collect();
        let has_all = |status: &Status| status.catalogue == catalogue && status.agent.memory.keys >= mesh.remembered;
        mesh.all(has_all) && decisions.len() <= 1 && memories.len() == 1
    });
    report.problems.extend(same.err());
    // What was aggregated while somebody came or went is told until the next time has ended.
    let counted = mesh.until("all agents estimate how many they are", |mesh| {
        let agents = mesh.running().len();
        mesh.all(|status| status.counts(agents))
    });
    report.problems.extend(counted.err());
    report.agents_at_the_end = mesh.running().len();
    report.executions = mesh.done();
    (report.retries, report.longest_stall_ms) = (mesh.writing.retries, mesh.writing.longest_stall.as_secs_f64() * 1e3);
    for (_, status) in mesh.statuses() {
        report.index_equal += usize::from(status.tasks.index.as_ref() == Some(&report.index));
        report.catalogues_equal += usize::from(status.catalogue == catalogue);
        report.estimates.extend(status.agent.all.agents);
        report.estimates_right += usize::from(status.counts(report.agents_at_the_end));
        if let Some(decided) = &status.decided {
            report.decisions = report.decisions.max(decided.decisions);
        }
        report.performance.push(status.performance.clone());
    }
    let decided = mesh.statuses().filter_map(|(_, status)| Some(status.decided.as_ref()?.digest.as_str()));
    report.replicas_equal = most_of_one(decided);
    let has_all = |status: &&Status| status.agent.memory.keys >= mesh.remembered;
    let memories = mesh.statuses().map(|(_, status)| status).filter(has_all);
    report.memories_equal = most_of_one(memories.map(|status| status.agent.memory.digest.as_str()));
    report.remembered = mesh.remembered;
    report.metrics = mesh.figures();
    report.unheard = mesh.processes.unheard();
    if report.index_equal != report.agents_at_the_end {
        let of = report.agents_at_the_end;
        report
            .problems
            .push(format!("{} of {of} agents have counted what one process counts alone", report.index_equal));
    }
    Ok(())
}

/// How often the digest is there that is there most often.
fn most_of_one<'a>(digests: impl Iterator<Item = &'a str>) -> usize {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    digests.for_each(|digest| *counts.entry(digest).or_default() += 1);
    counts.into_values().max().unwrap_or_default()
}

/// Shuts the network down by the word of one agent, and waits until all have ended well.
fn shut_down(mesh: &mut Mesh) -> Result<(), Problem> {
    let running = mesh.running();
    let first = running.first().copied().ok_or("nobody runs")?;
    mesh.let_end(running.iter().copied());
    mesh.ask(first, Order::ShutDown("all is done".to_owned()))?;
    running.into_iter().try_for_each(|at| mesh.await_end(at))?;
    mesh.view.say("the network is shut down, and all processes have ended");
    Ok(())
}
