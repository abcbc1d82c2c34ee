//! Nodes as processes index a directory: one loses its life in the middle, and no file is lost or counted twice.
//!
//! Each node is an operating-system process with its own key and listener. The first cuts the files of a directory into
//! pieces and submits a task for each, and tasks that add up what others counted: lines, words, trigrams of letters, and a
//! digest. How a task finds the node that executes it is a policy. What comes out is compared with what this process
//! counts alone, file by file.
//!
//! ```sh
//! cargo run --release --example task_farm
//! cargo run --release --example task_farm -- --policy dht --kill --input /usr/include
//! cargo run --release --example task_farm -- --pace 200 --dashboard 127.0.0.1:8080
//! ```

mod stage;
mod view;
mod worker;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use mesh_core::NodeId;
use mesh_examples::index::{Index, Piece, pieces};
use mesh_examples::indexer;
use mesh_examples::processes::{INTERRUPTED, Interruption, Processes, State, exit_code, failure, make_directory};
use serde::Serialize;
use stage::Stage;
use view::{Row, View};
use worker::{MOVED, PLACED, Plan, Said, TAKEN_OVER, WorkerOptions};

/// How often the nodes are looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// How long nothing may come of it; far more than anything needs, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// So many trigrams are shown.
const SHOWN: usize = 8;

/// Starts nodes as processes that index a directory, and checks what comes out.
#[derive(Debug, Parser)]
#[command(name = "task_farm", subcommand_negates_reqs = true)]
struct Arguments {
    #[command(subcommand)]
    role: Option<Role>,
    #[command(flatten)]
    plan: Plan,
    /// How many nodes
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(3..=15))]
    nodes: u8,
    /// Kill one in the middle of its tasks
    #[arg(long)]
    kill: bool,
    /// The seed of the order in which tasks are submitted
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Show the nodes on a page at ADDR, such as 127.0.0.1:8080, with buttons to kill and pause them; it stays up after the
    /// report until Ctrl-C. Whoever can reach ADDR can press them
    #[arg(long, value_name = "ADDR")]
    dashboard: Option<SocketAddr>,
    /// Print the report as one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// One node; the program starts these itself.
    #[command(hide = true)]
    Node(WorkerOptions),
}

/// How it went.
#[derive(Debug, Serialize)]
struct Report {
    policy: String,
    nodes: usize,
    files: u64,
    bytes: u64,
    lines: u64,
    words: u64,
    /// The most frequent ones, and how often there is one.
    trigrams: Vec<(String, u64)>,
    /// Of all that was counted: the same at all nodes that live, and in this process.
    digest: String,
    /// Nodes that were asked for it.
    nodes_equal: usize,
    tasks: usize,
    /// Attempts that came to nothing: those tasks were executed again.
    failures: u32,
    /// Which node was killed.
    killed: Option<usize>,
    /// How many tasks each node has executed.
    done: Vec<u32>,
    /// How tasks found those nodes: what all have counted, of those counters of a pool that tell of it.
    placed: BTreeMap<String, u64>,
    seconds: f64,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(Role::Node(options)) = arguments.role {
        return exit_code(worker::serve_node(options));
    }
    let pieces = match pieces(&arguments.plan.input, arguments.plan.piece_len()) {
        Ok(pieces) => pieces,
        Err(error) => {
            eprintln!("task_farm: {error}");
            return ExitCode::from(2);
        }
    };
    if let Err(problem) = indexer::check(pieces.len()) {
        eprintln!("task_farm: {problem}: choose a smaller directory, or a larger --piece-kib");
        return ExitCode::from(2);
    }
    let data = std::env::temp_dir().join(format!("mesh-task-farm-{}", std::process::id()));
    let stage = match arguments.dashboard.map(Stage::serve).transpose() {
        Ok(stage) => stage,
        Err(problem) => {
            eprintln!("task_farm: {problem}");
            return ExitCode::from(2);
        }
    };
    if let Err(error) = make_directory(&data, false) {
        eprintln!("task_farm: cannot make {}: {error}", data.display());
        return ExitCode::from(2);
    }
    match run(&arguments, &pieces, &data, stage) {
        Ok(report) => {
            // Keys and logs of nodes that are no more; what is left of them does no harm.
            let _ = std::fs::remove_dir_all(&data);
            if let Some(report) = report {
                tell(&report, arguments.json);
            }
            ExitCode::SUCCESS
        }
        Err(problem) => failure("task_farm", &problem, &data),
    }
}

fn tell(report: &Report, json: bool) {
    match serde_json::to_string(report) {
        Ok(text) if json => println!("{text}"),
        _ => println!("ok: {} nodes have counted what one process counts alone", report.nodes_equal),
    }
}

/// Runs the nodes until all is counted, and where there is a dashboard until Ctrl-C. The report, unless it was told already.
fn run(arguments: &Arguments, pieces: &[Piece], data: &Path, stage: Option<Stage>) -> Result<Option<Report>, String> {
    let interrupted = Interruption::notice().map_err(|error| error.to_string())?;
    let nodes = usize::from(arguments.nodes);
    let processes = Processes::create(data, nodes).map_err(|error| error.to_string())?;
    let processes = processes.interrupted_by(interrupted.clone());
    let view = View::new(arguments.json, stage.as_ref().map(Stage::log));
    let tasks = Plan::tasks(pieces.len());
    let mut farm = Farm { processes, view, said: BTreeMap::new(), tasks, stage, interrupted };
    let counted = farm.count(arguments, pieces);
    let is_interrupted = matches!(&counted, Err(problem) if problem == INTERRUPTED);
    if counted.is_err() && !is_interrupted {
        // Those that do not work any more need not be waited for.
        return counted.map(Some);
    }
    let is_told = farm.stage.is_some();
    if let (Ok(report), true) = (&counted, is_told) {
        tell(report, arguments.json);
        farm.play()?;
    }
    farm.view.erase();
    let problems = farm.processes.stop();
    if problems.is_empty() { counted.map(|report| (!is_told).then_some(report)) } else { Err(problems.join("; ")) }
}

fn files(pieces: &[Piece]) -> usize {
    pieces.chunk_by(|a, b| a.path == b.path).count()
}

/// The nodes, and what they said last.
struct Farm {
    processes: Processes<Said>,
    view: View,
    said: BTreeMap<NodeId, Said>,
    tasks: usize,
    stage: Option<Stage>,
    /// Whether all is to end at once.
    interrupted: Interruption,
}

impl Farm {
    /// Starts all, and waits until all is counted, as one process counts it alone.
    fn count(&mut self, arguments: &Arguments, pieces: &[Piece]) -> Result<Report, String> {
        let nodes = self.processes.len();
        // The last with an even place reads texts, of which there are most, and does not submit.
        let victim = arguments.kill.then_some((nodes - 1) & !1);
        if let Some(stage) = &mut self.stage {
            stage.victim = victim;
        }
        self.start_all(arguments, victim)?;
        self.view.say(&format!("{} files in {} pieces, {} tasks", files(pieces), pieces.len(), self.tasks));
        let begin = Instant::now();
        if let Some(victim) = victim {
            self.kill_in_the_middle(victim)?;
        }
        self.until("all is counted", |farm| farm.have_counted(|state| state == State::Runs))?;
        if self.is_held_up() {
            self.view.say("all is counted; who is paused is waited for");
        }
        let failures =
            self.until("all know what is counted", |farm| farm.have_counted(|state| state != State::Dead))?;
        let seconds = begin.elapsed().as_secs_f64();
        // By hand some may be killed or paused from here on.
        let said = self.processes.said();

        let (input, all) = (arguments.plan.input.clone(), pieces.to_vec());
        let counting = thread::spawn(move || Index::of_all(&input, &all));
        while !counting.is_finished() {
            self.look()?;
            thread::sleep(LOOK_INTERVAL);
        }
        let index = counting.join().map_err(|_| "counting panicked".to_owned())?.map_err(|error| error.to_string())?;
        let digest = index.digest();
        if let Some((node, said)) = said.iter().find(|(_, said)| said.digest.as_ref() != Some(&digest)) {
            let (number, theirs) = (self.processes.number(*node), said.digest.as_deref().unwrap_or("nothing"));
            return Err(format!("node {number} has counted {theirs}, and one process alone {digest}"));
        }
        let report = Report {
            policy: arguments.plan.policy.to_string(),
            nodes,
            files: index.files,
            bytes: index.bytes,
            lines: index.lines,
            words: index.words,
            trigrams: index.most_frequent(SHOWN),
            digest,
            nodes_equal: said.len(),
            tasks: self.tasks,
            failures,
            killed: victim.map(|victim| victim + 1),
            done: self.rows().iter().map(|row| row.done).collect(),
            placed: PLACED.map(|name| (name.to_owned(), self.placed(name))).into(),
            seconds,
        };
        self.tell(&report);
        Ok(report)
    }

    fn start_all(&mut self, arguments: &Arguments, victim: Option<usize>) -> Result<(), String> {
        let members: Vec<_> = self.processes.iter().map(|(node, ..)| node).collect();
        for at in 0..members.len() {
            let told = arguments.plan.arguments(&members, at, arguments.seed, victim == Some(at));
            self.processes.start(at, told).map_err(|error| error.to_string())?;
        }
        self.view.say(&format!("{} nodes run, policy {}", members.len(), arguments.plan.policy));
        Ok(())
    }

    /// Kills a node that is in the middle of some tasks.
    fn kill_in_the_middle(&mut self, victim: usize) -> Result<(), String> {
        let id = self.processes.iter().nth(victim).map(|(node, ..)| node);
        let number = victim + 1;
        let what = format!("node {number} is in the middle of a task");
        let stuck = self.until(&what, |farm| {
            let done: u32 = farm.said.values().map(|said| said.done).sum();
            let stuck = farm.said.iter().find(|(node, _)| Some(**node) == id).map(|(_, said)| said.stuck)?;
            (stuck > 0 && done as usize * 4 > farm.tasks).then_some(stuck)
        })?;
        self.processes.kill(victim).map_err(|error| error.to_string())?;
        if let Some(stage) = &mut self.stage {
            (stage.victim, stage.killed_at) = (None, Some(Instant::now()));
        }
        self.view.say(&format!("killed node {number} (SIGKILL) in the middle of {stuck} tasks"));
        Ok(())
    }

    /// How many attempts have failed, once all nodes in such a state have counted all.
    fn have_counted(&self, which: impl Fn(State) -> bool) -> Option<u32> {
        let said = self.processes.said();
        let all = said.len() == self.processes.ids(which).len() && said.iter().all(|(_, said)| said.digest.is_some());
        said.iter().find_map(|(_, said)| said.failures).filter(|_| all)
    }

    /// Whether nodes stand still by hand.
    fn is_held_up(&self) -> bool {
        !self.processes.ids(|state| state == State::Paused).is_empty()
    }

    /// Waits until all is as wanted, for as long as tasks are done or nodes stand still.
    fn until<T>(&mut self, what: &str, wanted: impl Fn(&Self) -> Option<T>) -> Result<T, String> {
        let (mut moved_at, mut done) = (Instant::now(), 0);
        loop {
            let rows = self.look()?;
            if let Some(failed) = self.said.values().find_map(|said| said.failed.as_ref()) {
                return Err(failed.clone());
            }
            if let Some(found) = wanted(self) {
                return Ok(found);
            }
            let now = rows.iter().map(|row| row.done).sum();
            if std::mem::replace(&mut done, now) != now || self.is_held_up() {
                moved_at = Instant::now();
            }
            if moved_at.elapsed() > PATIENCE {
                let by: Vec<_> =
                    rows.iter().map(|row| format!("{}+{}+{}", row.done, row.running, row.queued)).collect();
                return Err(format!(
                    "nothing was done for {PATIENCE:?}, and it did not come about that {what}; of {} tasks are done, run and \
                     are queued by node: {}",
                    self.tasks,
                    by.join(" ")
                ));
            }
            thread::sleep(LOOK_INTERVAL);
        }
    }

    /// Takes in what nodes say, shows it, and does what people ask for.
    fn look(&mut self) -> Result<Vec<Row>, String> {
        if self.interrupted.is_there() {
            return Err(INTERRUPTED.to_owned());
        }
        self.processes.check()?;
        self.said.extend(self.processes.said());
        let rows = self.rows();
        self.view.show(&rows, self.tasks);
        if let Some(stage) = &mut self.stage {
            stage.turn(&mut self.processes, &mut self.view, &rows);
        }
        Ok(rows)
    }

    /// Goes on until that is interrupted, or a node has ended by itself.
    fn play(&mut self) -> Result<(), String> {
        self.view.say("the nodes run on for the dashboard, until Ctrl-C");
        if let Some(stage) = &mut self.stage {
            stage.doing = "all is counted; the nodes run on until Ctrl-C in the terminal".to_owned();
        }
        loop {
            match self.look() {
                Ok(_) => thread::sleep(LOOK_INTERVAL),
                Err(problem) if problem == INTERRUPTED => return Ok(()),
                Err(problem) => return Err(problem),
            }
        }
    }

    /// What all nodes have counted, also one that was killed.
    fn placed(&self, name: &str) -> u64 {
        self.said.values().map(|said| said.counted(name)).sum()
    }

    /// How each node is; of one that was killed, what it has done.
    fn rows(&self) -> Vec<Row> {
        let row = |(at, (node, pid, state)): (usize, (NodeId, Option<u32>, State))| {
            let said = self.said.get(&node).cloned().unwrap_or_default();
            let (queued, running) = if state == State::Runs { (said.queued, said.running) } else { (0, 0) };
            let load = (said.slots > 0).then(|| (f64::from(queued + running) / f64::from(said.slots)).min(1.0));
            let (moved, taken_over) = (said.counted(MOVED), said.counted(TAKEN_OVER));
            Row { number: at + 1, pid, queued, running, load, done: said.done, moved, taken_over }
        };
        self.processes.iter().enumerate().map(row).collect()
    }

    fn tell(&mut self, report: &Report) {
        let trigrams: Vec<_> = report.trigrams.iter().map(|(letters, count)| format!("{letters} {count}")).collect();
        self.view.say(&format!(
            "after {:.1} s: {} files, {} bytes, {} lines, {} words; most frequent: {}",
            report.seconds,
            report.files,
            report.bytes,
            report.lines,
            report.words,
            trigrams.join(", ")
        ));
        self.view.say(&format!(
            "{} tasks, {} executions came to nothing and were made again; done by node: {:?}; given to other nodes: {}; digest {}",
            report.tasks,
            report.failures,
            report.done,
            report.placed.get(MOVED).copied().unwrap_or_default(),
            report.digest
        ));
    }
}
