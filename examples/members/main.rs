//! Nodes as processes that know who is there: killed, paused and restarted, and each time all tables agree again.
//!
//! Each node is an operating-system process with its own key and listener. The first is told nothing, each other the
//! address of one that runs. They find each other (membership), keep a few links (overlay), agree on which side of a
//! partition may go on, and tell each other what they think of whom. The program kills one, restarts it, pauses one, then
//! more than half, and waits each time until every running node says what is the case.
//!
//! ```sh
//! cargo run --release --example members
//! cargo run --release --example members -- --watch    # disturb the processes yourself; ends with Ctrl-C
//! ```

mod node;
mod table;
mod view;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use mesh_core::NodeId;
use mesh_examples::processes::{
    INTERRUPTED, Interruption, ProcessOptions, Processes, State, exit_code, failure, make_directory,
};
use table::Table;
use view::View;

/// How often the tables are looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// How long anything may take that is waited for; far more than it needs, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// The most nodes: so many that a line of the table fits into a terminal of 80 columns.
const NODES_MAX: u8 = 15;

/// Starts nodes as processes, kills, pauses and restarts some, and checks that all agree on who is there.
#[derive(Debug, Parser)]
#[command(name = "members")]
struct Arguments {
    #[command(subcommand)]
    role: Option<Role>,
    /// How many nodes
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(5..=i64::from(NODES_MAX)))]
    nodes: u8,
    /// Disturb nobody, and show the table until interrupted
    #[arg(long)]
    watch: bool,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// One node; the program starts these itself.
    #[command(hide = true)]
    Node {
        #[command(flatten)]
        process: ProcessOptions,
        #[arg(long, default_value_t = 0)]
        zone: u16,
        #[arg(long, default_value_t = 3)]
        founders: usize,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(Role::Node { process, zone, founders }) = arguments.role {
        return exit_code(node::serve(process, zone, founders));
    }
    let data = std::env::temp_dir().join(format!("mesh-members-{}", std::process::id()));
    if let Err(error) = make_directory(&data, false) {
        eprintln!("members: cannot make {}: {error}", data.display());
        return ExitCode::from(2);
    }
    match run(&arguments, &data) {
        Ok(all_is_well) => {
            // Keys and logs of nodes that are no more; what is left of them does no harm.
            let _ = std::fs::remove_dir_all(&data);
            println!("ok: {all_is_well}");
            ExitCode::SUCCESS
        }
        Err(problem) => failure("members", &problem, &data),
    }
}

fn run(arguments: &Arguments, data: &Path) -> Result<&'static str, String> {
    let interrupted = Interruption::notice().map_err(|error| error.to_string())?;
    let processes = Processes::create(data, usize::from(arguments.nodes)).map_err(|error| error.to_string())?;
    let processes = processes.interrupted_by(interrupted.clone());
    let mut script = Script { processes, view: View::default(), interrupted };
    let outcome = if arguments.watch { script.watch() } else { script.play() };
    script.view.erase();
    if outcome.as_ref().is_err_and(|problem| problem == INTERRUPTED) {
        let problems = script.processes.stop();
        if !problems.is_empty() {
            return Err(problems.join("; "));
        }
    }
    outcome
}

/// What is done to the nodes, and what is expected of them.
struct Script {
    processes: Processes<Table>,
    view: View,
    /// Whether all is to end at once.
    interrupted: Interruption,
}

impl Script {
    /// The first node alone, then all others with the address of one that runs.
    fn start_all(&mut self) -> Result<(), String> {
        for at in 0..self.processes.len() {
            self.start(at)?;
        }
        self.until("all know each other, and may go on", Self::all_agree)
    }

    fn start(&mut self, at: usize) -> Result<(), String> {
        let founders = self.processes.len() / 2 + 1;
        let arguments = ["--zone".to_owned(), (at % 2).to_string(), "--founders".to_owned(), founders.to_string()];
        let seed = self.processes.start(at, arguments.map(OsString::from)).map_err(|error| error.to_string())?;
        let told = seed.map_or_else(|| "nothing".to_owned(), |seed| format!("only {seed}"));
        self.view.say(&format!("started node {}, told {told}", at + 1));
        Ok(())
    }

    fn play(&mut self) -> Result<&'static str, String> {
        self.start_all()?;

        self.say("killing node 3 (SIGKILL)");
        self.processes.kill(2).map_err(|error| error.to_string())?;
        self.until("the others know that node 3 is down, and go on", Self::all_agree)?;
        self.say("restarting node 3");
        self.start(2)?;
        self.until("node 3 is back, and all agree", Self::all_agree)?;

        self.say("pausing node 4 (SIGSTOP)");
        self.processes.pause(3).map_err(|error| error.to_string())?;
        self.until("the others know that node 4 does not answer, and go on", Self::all_agree)?;
        self.say("resuming node 4 (SIGCONT)");
        self.processes.resume(3).map_err(|error| error.to_string())?;
        self.until("node 4 is back, and all agree", Self::all_agree)?;

        let most = self.processes.len() / 2 + 1;
        self.say(&format!("pausing nodes 1 to {most}: more than half"));
        for at in 0..most {
            self.processes.pause(at).map_err(|error| error.to_string())?;
        }
        self.until("the others may only read", |tables, _, _| {
            !tables.is_empty() && tables.iter().all(|(_, table)| !table.goes_on)
        })?;
        self.say("resuming them");
        for at in 0..most {
            self.processes.resume(at).map_err(|error| error.to_string())?;
        }
        self.until("all are back, agree, and may go on", Self::all_agree)?;

        self.say("stopping all in good order");
        let problems = self.processes.stop();
        if problems.is_empty() { Ok("all tables agreed after every trouble") } else { Err(problems.join("; ")) }
    }

    fn watch(&mut self) -> Result<&'static str, String> {
        self.start_all()?;
        self.say("kill, kill -STOP and kill -CONT them as you like; Ctrl-C ends all");
        let mut problems = Vec::new();
        while !self.interrupted.is_there() {
            self.notice_ends(&mut problems);
            self.view.show(&self.processes, &self.processes.said());
            thread::sleep(LOOK_INTERVAL);
        }
        self.notice_ends(&mut problems);
        for at in 0..self.processes.len() {
            // Whoever was paused by hand would not notice that it is to stop; whoever was killed needs not.
            let _ = self.processes.resume(at);
        }
        problems.extend(self.processes.stop());
        if problems.is_empty() { Ok("all nodes have stopped") } else { Err(problems.join("; ")) }
    }

    /// Says who has ended. Who was killed by a signal was disturbed by hand; any other end is a problem.
    fn notice_ends(&mut self, problems: &mut Vec<String>) {
        for at in 0..self.processes.len() {
            let number = at + 1;
            match self.processes.ended(at) {
                Ok(None) => {}
                // No code: a signal.
                Ok(Some(status)) if status.code().is_none() => {
                    self.say(&format!("node {number} was killed by hand: {status}"))
                }
                Ok(Some(status)) => {
                    let log = self.processes.log(at);
                    let problem = format!(
                        "node {number}: it ended with {status}, and was not told to; its log is {}",
                        log.display()
                    );
                    self.say(&problem);
                    problems.push(problem);
                }
                Err(error) => problems.push(format!("node {number}: {error}")),
            }
        }
    }

    fn say(&mut self, text: &str) {
        self.view.say(text);
    }

    /// Waits until the tables of those that run are as `wanted`.
    fn until(
        &mut self,
        what: &str,
        wanted: impl Fn(&[(NodeId, Table)], &BTreeSet<NodeId>, &BTreeSet<NodeId>) -> bool,
    ) -> Result<(), String> {
        let begin = Instant::now();
        let running = self.processes.ids(|state| state == State::Runs);
        let others = self.processes.ids(|state| state != State::Runs);
        loop {
            if self.interrupted.is_there() {
                return Err(INTERRUPTED.to_owned());
            }
            self.processes.check()?;
            let tables = self.processes.said();
            self.view.show(&self.processes, &tables);
            if tables.len() == running.len() && wanted(&tables, &running, &others) {
                self.view.say(&format!("after {:.1} s: {what}", begin.elapsed().as_secs_f64()));
                self.view.keep(&self.processes, &tables);
                return Ok(());
            }
            if begin.elapsed() > PATIENCE {
                self.view.keep(&self.processes, &tables);
                return Err(format!("it did not come about in {PATIENCE:?} that {what}"));
            }
            thread::sleep(LOOK_INTERVAL);
        }
    }

    /// Whether each node knows all that run as alive and nobody else; thinks down just those that were here and do not
    /// run, and knows from their reports that the others do; has neighbours; may go on; and all that run vote on that.
    fn all_agree(tables: &[(NodeId, Table)], running: &BTreeSet<NodeId>, others: &BTreeSet<NodeId>) -> bool {
        let gone: Vec<_> = tables.iter().map(|(_, table)| &table.gone).collect();
        tables.iter().all(|(_, table)| {
            table.alive == *running
                && table.suspected.is_empty()
                && table.gone == *others
                && !table.links.is_empty()
                && running.iter().all(|node| table.down_by.get(node) == Some(gone[0]))
                && table.goes_on
                && table.voters == Some(running.len())
        })
    }
}
