//! Nodes as processes of this machine: started, killed, paused, resumed and stopped, and what they say.
//!
//! Each is this very program with `node` as its first argument. It says where it listens, then how things are, a line
//! each time, and ends when its input closes.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::str::FromStr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use mesh_core::identity::{PublicKey, SecretKey};
use mesh_core::{NodeHandle, NodeId};

/// How long a node may take to say where it listens.
const START_PATIENCE: Duration = Duration::from_secs(30);

/// How long a node may take to stop, and how long where somebody waits for that in a terminal.
const STOP_PATIENCE: Duration = Duration::from_secs(30);
const INTERRUPTED_PATIENCE: Duration = Duration::from_secs(5);

/// How often it is looked at whether all is to end, while something is waited for.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// So many lines may wait for whoever [listens](Processes::listen).
const HEARD_MAX: usize = 4096;

/// What an error says where all was to end meanwhile.
pub const INTERRUPTED: &str = "interrupted";

/// What [`Processes::start`] tells every process: flattened into the arguments of its own.
#[derive(Clone, Debug, clap::Args)]
pub struct ProcessOptions {
    /// Its directory: its key, and what it keeps
    #[arg(long)]
    pub data: PathBuf,
    /// Where it listens
    #[arg(long, default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// Where another listens that runs
    #[arg(long)]
    pub seed: Option<SocketAddr>,
}

/// How a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It runs.
    Runs,
    /// It was stopped by a signal, and can be resumed.
    Paused,
    /// There is none.
    Dead,
}

/// What a node said last.
type Said<T> = Arc<Mutex<Option<T>>>;

/// One node: its key and address stay, its process comes and goes.
#[derive(Debug)]
struct Node<T> {
    key: PublicKey,
    id: NodeId,
    directory: PathBuf,
    address: Option<SocketAddr>,
    process: Option<Child>,
    state: State,
    said: Said<T>,
}

/// All nodes, each of which says how things are by lines that are a `T`.
#[derive(Debug)]
pub struct Processes<T> {
    program: PathBuf,
    nodes: Vec<Node<T>>,
    /// Where all that is said goes as well.
    heard: Option<SyncSender<(NodeId, T)>>,
    /// How many lines had no room there.
    unheard: Arc<AtomicU64>,
    /// Whether all is to end.
    interrupted: Interruption,
}

impl<T: FromStr + Clone + Send + 'static> Processes<T> {
    /// Makes a key and a directory below `data` for each node.
    ///
    /// # Errors
    /// What the file system says.
    pub fn create(data: &Path, nodes: usize) -> io::Result<Self> {
        let node = |number: usize| {
            let directory = data.join(format!("node-{number}"));
            make_directory(&directory, true)?;
            let key = SecretKey::load_or_create(directory.join("key")).map_err(io::Error::other)?;
            let (address, process, said) = (None, None, Said::default());
            let (key, id) = (key.public(), key.node_id());
            Ok(Node { key, id, directory, address, process, state: State::Dead, said })
        };
        let nodes = (1..=nodes).map(node).collect::<io::Result<_>>()?;
        let program = std::env::current_exe()?;
        Ok(Self { program, nodes, heard: None, unheard: Arc::default(), interrupted: Interruption::default() })
    }

    /// Waits for no node to start once there is this interruption, and [stops](Self::stop) the faster.
    #[must_use]
    pub fn interrupted_by(mut self, interrupted: Interruption) -> Self {
        self.interrupted = interrupted;
        self
    }

    /// All that nodes say from now on, in the order in which each says it. Up to 4,096 lines wait to be taken; more are
    /// dropped, and [counted](Self::unheard): no node is held up by who listens.
    pub fn listen(&mut self) -> Receiver<(NodeId, T)> {
        let (sender, receiver) = sync_channel(HEARD_MAX);
        self.heard = Some(sender);
        receiver
    }

    /// How many lines were dropped because too many waited for whoever listens.
    pub fn unheard(&self) -> u64 {
        self.unheard.load(Relaxed)
    }

    /// Tells a node something, on a line of its input.
    ///
    /// # Errors
    /// What the operating system says, or that the process does not run.
    pub fn tell(&mut self, at: usize, line: &impl fmt::Display) -> io::Result<()> {
        let input = self.nodes[at].process.as_mut().and_then(|process| process.stdin.as_mut());
        let input = input.ok_or_else(|| io::Error::other("the process does not run"))?;
        writeln!(input, "{line}").and_then(|()| input.flush())
    }

    /// How the process of a node has ended, where it did so by itself and that was not told yet. Then it is dead.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn ended(&mut self, at: usize) -> io::Result<Option<ExitStatus>> {
        let node = &mut self.nodes[at];
        let Some(process) = &mut node.process else { return Ok(None) };
        let ended = process.try_wait()?;
        if ended.is_some() {
            (node.process, node.state) = (None, State::Dead);
        }
        Ok(ended)
    }

    /// Looks whether all are there that were started and neither killed nor stopped by this program.
    ///
    /// # Errors
    /// Which one has ended by itself, how, and where its log is. It is dead then.
    pub fn check(&mut self) -> Result<(), String> {
        for at in 0..self.len() {
            let how = match self.ended(at) {
                Ok(None) => continue,
                Ok(Some(status)) => format!("it ended with {status}, and was not told to"),
                Err(error) => error.to_string(),
            };
            return Err(format!("node {}: {how}; its log is {}", at + 1, self.log(at).display()));
        }
        Ok(())
    }

    /// Where the process of a node writes what went wrong.
    pub fn log(&self, at: usize) -> PathBuf {
        self.nodes[at].directory.join("log")
    }

    /// How many nodes there are.
    pub const fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The keys of all nodes.
    pub fn keys(&self) -> impl Iterator<Item = PublicKey> {
        self.nodes.iter().map(|node| node.key)
    }

    /// Where each node that runs listens.
    pub fn addresses(&self) -> impl Iterator<Item = (NodeId, SocketAddr)> {
        let running = self.nodes.iter().filter(|node| node.state == State::Runs);
        running.filter_map(|node| Some((node.id, node.address?)))
    }

    /// Starts a node with these arguments and `--data`, and waits until it listens; the one address that it was told
    /// by `--seed`, of a node that runs, if any does. One that was started before is told to `--listen` where it did.
    ///
    /// # Errors
    /// What the operating system says, that the node did not say where it listens within 30 s, or [`INTERRUPTED`]. The
    /// node is dead then.
    pub fn start(
        &mut self,
        at: usize,
        arguments: impl IntoIterator<Item = OsString>,
    ) -> io::Result<Option<SocketAddr>> {
        let seed = self.addresses().map(|(_, address)| address).next();
        if self.interrupted.is_there() {
            return Err(interrupted());
        }
        let node = &mut self.nodes[at];
        let log = File::options().create(true).append(true).open(node.directory.join("log"))?;
        let mut command = Command::new(&self.program);
        command.arg("node").arg("--data").arg(&node.directory).args(arguments);
        if let Some(seed) = seed {
            command.args(["--seed", &seed.to_string()]);
        }
        if let Some(listen) = node.address {
            command.args(["--listen", &listen.to_string()]);
        }
        // In a group of its own, so that who interrupts this program in a terminal does not interrupt the node as well: it
        // stops in good order when the pipe closes, as it does with this process.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        // From here on it is one of those that are ended with this program, whatever goes wrong.
        let process = node.process.insert(command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).spawn()?);
        let output = process.stdout.take();
        // A process that was killed may have left a line that its reader is still to take: it goes nowhere.
        node.said = Said::default();
        let (said, heard, unheard, id) = (node.said.clone(), self.heard.clone(), self.unheard.clone(), node.id);
        let (tell, first) = sync_channel(1);
        thread::spawn(move || {
            let mut lines = output.into_iter().flat_map(|output| BufReader::new(output).lines().map_while(Result::ok));
            if let Some(first) = lines.next() {
                // Nobody waits for it any more where that took too long.
                let _ = tell.try_send(first);
            }
            for line in lines {
                let Ok(line) = line.parse::<T>() else { continue };
                let sent = heard.as_ref().map(|heard| heard.try_send((id, line.clone())));
                if matches!(sent, Some(Err(TrySendError::Full(_)))) {
                    unheard.fetch_add(1, Relaxed);
                }
                *said.lock().unwrap_or_else(PoisonError::into_inner) = Some(line);
            }
        });
        let address = self.await_address(at, &first);
        match address {
            Ok(address) => (self.nodes[at].address, self.nodes[at].state) = (Some(address), State::Runs),
            Err(_) => self.kill(at)?,
        }
        address.map(|_| seed)
    }

    /// Waits for the first line of a node.
    fn await_address(&self, at: usize, first: &Receiver<String>) -> io::Result<SocketAddr> {
        let failed = || io::Error::other(format!("node {} did not start", at + 1));
        let deadline = Instant::now() + START_PATIENCE;
        while Instant::now() < deadline {
            match first.recv_timeout(LOOK_INTERVAL) {
                Ok(line) => return line.parse().map_err(|_| failed()),
                Err(RecvTimeoutError::Disconnected) => return Err(failed()),
                Err(RecvTimeoutError::Timeout) if self.interrupted.is_there() => return Err(interrupted()),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
        Err(failed())
    }

    /// Kills a node: SIGKILL, so that it cannot say good-bye.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn kill(&mut self, at: usize) -> io::Result<()> {
        let node = &mut self.nodes[at];
        node.state = State::Dead;
        match node.process.take() {
            Some(mut process) => {
                process.kill()?;
                process.wait().map(drop)
            }
            None => Ok(()),
        }
    }

    /// Pauses a node: SIGSTOP.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn pause(&mut self, at: usize) -> io::Result<()> {
        self.nodes[at].state = State::Paused;
        self.signal(at, "STOP")
    }

    /// Resumes a node: SIGCONT. What it said before counts no more.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn resume(&mut self, at: usize) -> io::Result<()> {
        self.nodes[at].state = State::Runs;
        *self.nodes[at].said.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.signal(at, "CONT")
    }

    fn signal(&self, at: usize, signal: &str) -> io::Result<()> {
        let Some(process) = &self.nodes[at].process else { return Err(io::Error::other("the process does not run")) };
        let sent = Command::new("kill").arg(format!("-{signal}")).arg(process.id().to_string()).status()?;
        if sent.success() { Ok(()) } else { Err(io::Error::other(format!("kill ended with {sent}"))) }
    }

    /// The nodes whose processes are so.
    pub fn ids(&self, wanted: impl Fn(State) -> bool) -> BTreeSet<NodeId> {
        self.nodes.iter().filter(|node| wanted(node.state)).map(|node| node.id).collect()
    }

    /// What those that run said last.
    pub fn said(&self) -> Vec<(NodeId, T)> {
        let running = self.nodes.iter().filter(|node| node.state == State::Runs);
        let said = |node: &Node<T>| node.said.lock().unwrap_or_else(PoisonError::into_inner).clone();
        running.filter_map(|node| Some((node.id, said(node)?))).collect()
    }

    /// Each node, its process and how that is.
    pub fn iter(&self) -> impl Iterator<Item = (NodeId, Option<u32>, State)> {
        self.nodes.iter().map(|node| (node.id, node.process.as_ref().map(Child::id), node.state))
    }

    /// The number of a node, from 1.
    pub fn number(&self, id: NodeId) -> usize {
        self.nodes.iter().position(|node| node.id == id).map_or(0, |at| at + 1)
    }

    /// The place of the node that has this number, from 1, and is in one of these states.
    ///
    /// # Errors
    /// What to say where it is not: that there is none, or what else it is, such as "is dead already"; `kind` is what nodes
    /// are called.
    pub fn find(&self, kind: &str, number: usize, wanted: &[State], otherwise: &str) -> Result<usize, String> {
        let at = number.checked_sub(1).filter(|at| *at < self.len());
        let at = at.ok_or_else(|| format!("there is no {kind} {number}"))?;
        if wanted.contains(&self.nodes[at].state) { Ok(at) } else { Err(format!("{kind} {number} {otherwise}")) }
    }

    /// Asks all to stop in good order, and says which did not: who takes half a minute is killed, and who takes five seconds
    /// where this program was interrupted. Where it was so again, all are killed at once, which is no problem.
    pub fn stop(&mut self) -> Vec<String> {
        // Who is paused would not notice.
        for at in (0..self.len()).filter(|at| self.nodes[*at].state == State::Paused).collect::<Vec<_>>() {
            // Where that fails it does not stop, which is told below.
            let _ = self.resume(at);
        }
        for process in self.nodes.iter_mut().filter_map(|node| node.process.as_mut()) {
            drop(process.stdin.take());
        }
        let (begin, interrupted) = (Instant::now(), &self.interrupted);
        let mut problems = Vec::new();
        for (at, node) in self.nodes.iter_mut().enumerate() {
            let Some(process) = &mut node.process else { continue };
            node.state = State::Dead;
            let problem = loop {
                let patience = if interrupted.is_there() { INTERRUPTED_PATIENCE } else { STOP_PATIENCE };
                let is_urgent = interrupted.is_repeated();
                match process.try_wait() {
                    Ok(Some(status)) if status.success() => break None,
                    Ok(Some(status)) => break Some(format!("it ended with {status}")),
                    Ok(None) if !is_urgent && begin.elapsed() < patience => thread::sleep(Duration::from_millis(5)),
                    Ok(None) => {
                        let killed = process.kill().and_then(|()| process.wait());
                        let late = || format!("it took longer than {} s, and was killed", patience.as_secs());
                        break killed.map_or_else(|error| Some(error.to_string()), |_| (!is_urgent).then(late));
                    }
                    Err(error) => break Some(error.to_string()),
                }
            };
            node.process = None;
            problems.extend(problem.map(|how| format!("node {} did not stop in good order: {how}", at + 1)));
        }
        problems
    }
}

impl<T> Drop for Processes<T> {
    fn drop(&mut self) {
        // Whatever went wrong: no process outlives the program. SIGKILL ends a paused one as well.
        for process in self.nodes.iter_mut().filter_map(|node| node.process.as_mut()) {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// An argument that is a path, which need not be text.
pub fn path_argument(name: &str, path: &Path) -> OsString {
    let mut argument = OsString::from(format!("--{name}="));
    argument.push(path);
    argument
}

fn interrupted() -> io::Error {
    io::Error::new(io::ErrorKind::Interrupted, INTERRUPTED)
}

/// How often this program was interrupted in the terminal, or told to end by a signal that can be noticed: all is to end then,
/// in good order the first time, and at once the second. Clones are of the same.
#[derive(Clone, Debug, Default)]
pub struct Interruption(Arc<AtomicU32>);

impl Interruption {
    /// Notices it from now on.
    ///
    /// # Errors
    /// What the operating system says, or that this was called before.
    pub fn notice() -> io::Result<Self> {
        let interrupted = Self::default();
        let noticed = interrupted.clone();
        ctrlc::set_handler(move || noticed.interrupt()).map_err(io::Error::other)?;
        Ok(interrupted)
    }

    fn interrupt(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    /// Whether all is to end.
    pub fn is_there(&self) -> bool {
        self.0.load(Relaxed) > 0
    }

    /// Whether all is to end at once.
    pub fn is_repeated(&self) -> bool {
        self.0.load(Relaxed) > 1
    }
}

/// What a program says and ends with where what it did came to an error: that all of its processes have stopped where it
/// was [interrupted](INTERRUPTED), and then what they kept below `data` is gone; otherwise where their logs are.
pub fn failure(program: &str, problem: &str, data: &Path) -> ExitCode {
    if problem == INTERRUPTED {
        // What is left of them does no harm.
        let _ = fs::remove_dir_all(data);
        eprintln!("{program}: {problem}; all nodes have stopped");
        ExitCode::from(130)
    } else {
        eprintln!("{program}: {problem}; the nodes' logs are in {}", data.display());
        ExitCode::FAILURE
    }
}

/// Makes a directory that, on Unix, nobody else can look into: keys are in it.
///
/// # Errors
/// What the operating system says, as that there is something of this name, unless that `may_be_there` as a directory.
pub fn make_directory(path: &Path, may_be_there: bool) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.recursive(may_be_there).create(path)
}

/// In a process: what it ends with. What went wrong goes to its log.
pub fn exit_code(outcome: Result<(), impl fmt::Display>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// In a process: stops its node in good order when whoever started it closes its input, or is gone.
pub fn end_with_the_input(node: NodeHandle) {
    obey(node, |_| ());
}

/// In a process: does what it is told by lines of its input, and stops its node in good order when whoever started it
/// closes that, or is gone.
pub fn obey(node: NodeHandle, mut told: impl FnMut(String) + Send + 'static) {
    thread::spawn(move || {
        // An input that cannot be read is as good as closed.
        io::stdin().lock().lines().map_while(Result::ok).for_each(&mut told);
        node.stop();
    });
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    /// One node that is this script of a shell, of which `$3` is the directory.
    fn script(script: &str) -> (tempfile::TempDir, Processes<String>) {
        let data = tempfile::tempdir().unwrap();
        let mut processes = Processes::create(data.path(), 1).unwrap();
        processes.program = data.path().join("program");
        // Written by another process: what a test beside this one starts may inherit a file that is open here, and nobody
        // executes a file that is open to be written.
        let write = r#"printf "%s" "$1" >"$0" && chmod 700 "$0""#;
        let mut shell = Command::new("sh");
        shell.args(["-c", write]).arg(&processes.program).arg(format!("#!/bin/sh\n{script}\n"));
        assert!(shell.status().unwrap().success());
        (data, processes)
    }

    fn wait_until(wanted: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !wanted() {
            assert!(Instant::now() < deadline, "it did not come about");
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn an_interruption_ends_a_process_that_has_not_said_where_it_listens() {
        let (data, processes) = script("echo $$ >$3/pid\nmv $3/pid $3/started\nexec sleep 1000");
        let interrupted = Interruption::default();
        let mut processes = processes.interrupted_by(interrupted.clone());
        let started = data.path().join("node-1/started");
        let file = started.clone();
        let interrupting = thread::spawn(move || {
            wait_until(|| file.exists());
            interrupted.interrupt();
        });
        let error = processes.start(0, []).unwrap_err();
        interrupting.join().unwrap();
        assert_eq!((error.kind(), error.to_string().as_str()), (io::ErrorKind::Interrupted, INTERRUPTED));
        let pid = fs::read_to_string(started).unwrap();
        assert!(!Path::new("/proc").join(pid.trim()).exists(), "it has ended, and was waited for");
        assert_eq!(processes.iter().next().map(|(_, pid, state)| (pid, state)), Some((None, State::Dead)));
        assert!(processes.start(0, []).is_err(), "none is started any more");
        assert_eq!(processes.stop(), [] as [&str; 0]);
    }

    #[test]
    fn who_does_not_stop_is_killed_some_seconds_after_an_interruption_and_at_once_after_the_second() {
        for times in [1, 2] {
            let (_data, processes) = script("echo 127.0.0.1:1; exec sleep 1000");
            let interrupted = Interruption::default();
            let mut processes = processes.interrupted_by(interrupted.clone());
            processes.start(0, []).unwrap();
            let pid = processes.iter().next().and_then(|(_, pid, _)| pid).unwrap().to_string();
            interrupted.interrupt();
            let again = thread::spawn(move || {
                // While it is waited for.
                thread::sleep(Duration::from_millis(200));
                (1..times).for_each(|_| interrupted.interrupt());
            });
            let late = ["node 1 did not stop in good order: it took longer than 5 s, and was killed"];
            assert_eq!(processes.stop(), if times == 1 { &late[..] } else { &[] });
            again.join().unwrap();
            assert!(!Path::new("/proc").join(pid).exists(), "it has ended, and was waited for");
        }
    }

    #[test]
    fn a_process_that_says_something_else_first_is_none() {
        let (_data, mut processes) = script("echo here I am; exec sleep 1000");
        assert_eq!(processes.start(0, []).unwrap_err().to_string(), "node 1 did not start");
        let (_data, mut processes) = script("exit 0");
        assert_eq!(processes.start(0, []).unwrap_err().to_string(), "node 1 did not start");
    }

    #[test]
    fn a_process_that_ends_by_itself_is_told_of_once_with_its_status_and_log() {
        let (data, mut processes) = script("echo 127.0.0.1:1; read line; exit 3");
        processes.start(0, []).unwrap();
        assert_eq!(processes.check(), Ok(()), "it waits for a line");
        processes.tell(0, &"go").unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        let problem = loop {
            match processes.check() {
                Err(problem) => break problem,
                Ok(()) => assert!(Instant::now() < deadline, "it did not come about"),
            }
            thread::sleep(Duration::from_millis(5));
        };
        let log = data.path().join("node-1/log");
        let expected =
            format!("node 1: it ended with exit status: 3, and was not told to; its log is {}", log.display());
        assert_eq!(problem, expected);
        assert_eq!(processes.iter().next().map(|(_, pid, state)| (pid, state)), Some((None, State::Dead)));
        assert_eq!(processes.check(), Ok(()));
        // Who is killed by this program is not missed.
        processes.start(0, []).unwrap();
        processes.kill(0).unwrap();
        assert_eq!(processes.check(), Ok(()));
    }

    #[test]
    fn lines_that_nobody_takes_hold_up_no_process_and_are_counted() {
        let (_data, mut processes) = script("echo 127.0.0.1:1; seq 10000; read line");
        let heard = processes.listen();
        processes.start(0, []).unwrap();
        wait_until(|| processes.said().first().is_some_and(|(_, line)| line == "10000"));
        let taken: Vec<_> = heard.try_iter().map(|(_, line)| line).collect();
        assert_eq!((taken.len(), taken.last().map(String::as_str)), (HEARD_MAX, Some("4096")));
        assert_eq!(processes.unheard(), 10_000 - 4096);
        // Its input closes, so that it ends by itself; `read` is told of that by an exit code that is not 0.
        assert_eq!(processes.stop().len(), 1);
    }
}
