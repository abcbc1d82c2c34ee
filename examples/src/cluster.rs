//! Nodes as processes of this machine: started, killed, restarted and asked.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::sync_channel;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use mesh_core::NodeId;
use mesh_core::identity::SecretKey;

use crate::client::{Answer, Client, NodeStatus, Request};

/// How long a node may take to answer how it is.
const STATUS_PATIENCE: Duration = Duration::from_millis(500);

/// How long a command may take before its outcome counts as unknown.
const ANSWER_PATIENCE: Duration = Duration::from_secs(3);

/// How long a node may take to start or to stop, mostly.
const PROCESS_PATIENCE: Duration = Duration::from_secs(20);

/// One node: its key and directory stay, its process comes and goes.
#[derive(Debug)]
struct Member {
    id: NodeId,
    directory: PathBuf,
    /// Where it listens for nodes and for clients; known once it has run.
    addresses: Option<(SocketAddr, SocketAddr)>,
    process: Option<Child>,
}

/// Several nodes, each a process of its own.
///
/// The program must be one that runs a node when called as `kv node` is, and ends when its standard
/// input closes.
#[derive(Debug)]
pub struct Cluster {
    program: PathBuf,
    /// The node that led last, by its place: a hint for all clients.
    leader: AtomicUsize,
    members: Mutex<Vec<Member>>,
    /// How long a node may take to start or to stop.
    patience: Duration,
}

impl Cluster {
    /// Makes a key and a directory below `data` for each of `nodes` nodes of `program`.
    ///
    /// # Errors
    /// Those of the operating system, as for every call here.
    pub fn create(program: PathBuf, data: &Path, nodes: usize) -> io::Result<Self> {
        let member = |number: usize| {
            let directory = data.join(format!("node-{number}"));
            fs::create_dir_all(&directory)?;
            let key = SecretKey::load_or_create(directory.join("key")).map_err(io::Error::other)?;
            Ok(Member { id: key.node_id(), directory, addresses: None, process: None })
        };
        let members = (1..=nodes).map(member).collect::<io::Result<_>>()?;
        Ok(Self { program, leader: AtomicUsize::new(0), members: Mutex::new(members), patience: PROCESS_PATIENCE })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Member>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the data of a node is.
    pub fn directory(&self, at: usize) -> PathBuf {
        self.lock()[at].directory.clone()
    }

    /// How many nodes there are, running or not.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether there are no nodes.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Starts the process of a node, and waits until it listens. It is told who the members are, and
    /// the address of one of them that runs, if any.
    ///
    /// # Errors
    /// Also when the node ends instead of listening, or does not listen within 20 s, with the last line it logged. It is
    /// dead then.
    pub fn start(&self, at: usize) -> io::Result<()> {
        let (tell, said) = sync_channel(1);
        let stdout = self.spawn(at)?;
        // The others can be asked and killed meanwhile, and so can this one.
        thread::spawn(move || {
            let mut line = String::new();
            // An output that cannot be read is as good as closed; nobody waits any more where that took too long.
            let _ = stdout.map(|stdout| BufReader::new(stdout).read_line(&mut line));
            let _ = tell.send(line);
        });
        let said = said.recv_timeout(self.patience).unwrap_or_default();
        let mut addresses = said.split_whitespace().map(str::parse);
        if let (Some(Ok(listen)), Some(Ok(clients))) = (addresses.next(), addresses.next()) {
            self.lock()[at].addresses = Some((listen, clients));
            return Ok(());
        }
        self.kill(at)?;
        let log = fs::read_to_string(self.directory(at).join("log"))?;
        let why = log.lines().last().unwrap_or("it said nothing");
        Err(io::Error::other(format!("node {} did not start: {why}", at + 1)))
    }

    /// Starts the process of a node, which ends with this program from here on: its output.
    fn spawn(&self, at: usize) -> io::Result<Option<ChildStdout>> {
        let mut members = self.lock();
        let ids: Vec<_> = members.iter().map(|member| member.id.to_string()).collect();
        let seed = members.iter().filter(|member| member.process.is_some()).find_map(|member| member.addresses);
        let member = &mut members[at];
        let log = File::options().create(true).append(true).open(member.directory.join("log"))?;
        let mut command = Command::new(&self.program);
        command.arg("node").arg("--data").arg(&member.directory).arg("--members").arg(ids.join(","));
        if let Some((seed, _)) = seed {
            command.arg("--join").arg(seed.to_string());
        }
        if let Some((listen, clients)) = member.addresses {
            command.arg("--listen").arg(listen.to_string()).arg("--clients").arg(clients.to_string());
        }
        // The pipe is never written to: it closes with this process, and the node sees that.
        let process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).spawn()?;
        Ok(member.process.insert(process).stdout.take())
    }

    /// Kills the process of a node: SIGKILL on Unix, so that it cannot say good-bye.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn kill(&self, at: usize) -> io::Result<()> {
        let process = self.lock()[at].process.take();
        match process {
            Some(mut process) => {
                process.kill()?;
                process.wait().map(drop)
            }
            None => Ok(()),
        }
    }

    /// Where the clients of each node go, by the node's place.
    pub fn clients(&self) -> Vec<Option<SocketAddr>> {
        let of = |member: &Member| member.process.as_ref().and(member.addresses).map(|(_, clients)| clients);
        self.lock().iter().map(of).collect()
    }

    /// The place of a node, by its id.
    pub fn find(&self, id: u128) -> Option<usize> {
        self.lock().iter().position(|member| member.id == NodeId(id))
    }

    /// Asks each node how it is; `None` for those that do not answer.
    pub fn statuses(&self) -> Vec<Option<NodeStatus>> {
        let ask = |address: Option<SocketAddr>| {
            let answer = Client::connect(address?, STATUS_PATIENCE).ok()?.ask(&Request::Status).ok()?;
            match answer {
                Answer::Status(status) => Some(status),
                _ => None,
            }
        };
        self.clients().into_iter().map(ask).collect()
    }

    /// Asks all nodes to stop in good order, and says which did not.
    pub fn stop(&self) -> Vec<String> {
        for address in self.clients().into_iter().flatten() {
            // A node that does not answer is noticed below.
            let _ = Client::connect(address, STATUS_PATIENCE).and_then(|mut client| client.ask(&Request::Shutdown));
        }
        let deadline = Instant::now() + self.patience;
        let mut problems = Vec::new();
        for (at, member) in self.lock().iter_mut().enumerate() {
            let Some(mut process) = member.process.take() else { continue };
            loop {
                match process.try_wait() {
                    Ok(Some(status)) if status.success() => break,
                    Ok(None) if Instant::now() < deadline => thread::sleep(Duration::from_millis(5)),
                    Ok(Some(status)) => {
                        problems.push(format!("node {} ended with {status}", at + 1));
                        break;
                    }
                    Ok(None) | Err(_) => {
                        problems.push(format!("node {} did not stop", at + 1));
                        let _ = process.kill();
                        let _ = process.wait();
                        break;
                    }
                }
            }
        }
        problems
    }
}

/// Whether all nodes run and hold the same.
pub fn hold_the_same(statuses: &[Option<NodeStatus>]) -> bool {
    let mut all = statuses.iter().map(|status| status.as_ref().map(|status| (&status.digest, status.applied_index)));
    let first = all.next().flatten();
    first.is_some() && all.all(|other| other == first)
}

/// Finds the leader of a [`Cluster`], and finds it again.
#[derive(Debug)]
pub struct Router<'a> {
    cluster: &'a Cluster,
    connection: Option<(usize, Client)>,
}

impl<'a> Router<'a> {
    /// Starts with the leader that was last known.
    pub const fn new(cluster: &'a Cluster) -> Self {
        Self { cluster, connection: None }
    }

    /// Asks the node that led last, and learns from the answer who to ask next.
    ///
    /// `None` where it did not answer: whether it carried out the request is unknown.
    pub fn ask(&mut self, request: &Request) -> Option<Answer> {
        let leader = self.cluster.leader.load(Relaxed);
        if self.connection.as_ref().is_none_or(|(at, _)| *at != leader) {
            let address = self.cluster.clients().get(leader).copied().flatten();
            let client = address.and_then(|address| Client::connect(address, ANSWER_PATIENCE).ok());
            self.connection = client.map(|client| (leader, client));
        }
        let answer = self.connection.as_mut().and_then(|(_, client)| client.ask(request).ok());
        match &answer {
            Some(Answer::NotLeader(Some(other))) => {
                if let Some(other) = self.cluster.find(*other) {
                    self.cluster.leader.store(other, Relaxed);
                }
            }
            // Any other node may know more than one that does not answer or knows no leader.
            None | Some(Answer::NotLeader(None)) => {
                self.connection = None;
                let next = (leader + 1) % self.cluster.len().max(1);
                // Where another client has moved it already, its hint is as good.
                let _ = self.cluster.leader.compare_exchange(leader, next, Relaxed, Relaxed);
            }
            Some(_) => {}
        }
        answer
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Whatever went wrong: no process outlives the swarm.
        for process in self.lock().iter_mut().filter_map(|member| member.process.as_mut()) {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    /// One node that is this script of a shell, of which `$3` is the directory.
    fn script(script: &str) -> (tempfile::TempDir, Cluster) {
        let data = tempfile::tempdir().unwrap();
        let program = data.path().join("program");
        // Written by another process: nobody executes a file that is open to be written, here or in a child.
        let write = r#"printf "%s" "$1" >"$0" && chmod 700 "$0""#;
        let mut shell = Command::new("sh");
        shell.args(["-c", write]).arg(&program).arg(format!("#!/bin/sh\n{script}\n"));
        assert!(shell.status().unwrap().success());
        let cluster = Cluster::create(program, data.path(), 1).unwrap();
        (data, cluster)
    }

    const SILENT: &str = "echo it is silent >&2; echo $$ >$3/pid; mv $3/pid $3/started; exec sleep 1000";

    #[test]
    fn a_node_that_does_not_say_where_it_listens_is_ended() {
        let (data, mut cluster) = script(SILENT);
        cluster.patience = Duration::from_secs(1);
        assert_eq!(cluster.start(0).unwrap_err().to_string(), "node 1 did not start: it is silent");
        let pid = fs::read_to_string(data.path().join("node-1/started")).unwrap();
        assert!(!Path::new("/proc").join(pid.trim()).exists(), "it has ended, and was waited for");
        let (_data, cluster) = script("echo 127.0.0.1:1 nowhere; exec sleep 1000");
        assert_eq!(cluster.start(0).unwrap_err().to_string(), "node 1 did not start: it said nothing");
    }

    #[test]
    fn a_node_that_starts_holds_up_nobody_and_can_be_killed() {
        let (data, cluster) = script(SILENT);
        thread::scope(|scope| {
            let starting = scope.spawn(|| cluster.start(0).unwrap_err().to_string());
            while !data.path().join("node-1/started").exists() {
                thread::sleep(Duration::from_millis(5));
            }
            let begin = Instant::now();
            cluster.kill(0).unwrap();
            assert!(begin.elapsed() < PROCESS_PATIENCE / 2);
            assert_eq!(starting.join().unwrap(), "node 1 did not start: it is silent");
        });
    }
}
