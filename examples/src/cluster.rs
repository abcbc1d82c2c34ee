//! Nodes as processes of this machine: started, killed, restarted and asked.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mesh_core::NodeId;
use mesh_core::identity::SecretKey;

use crate::client::{Answer, Client, NodeStatus, Request};

/// How long a node may take to answer how it is.
const STATUS_PATIENCE: Duration = Duration::from_millis(500);

/// How long a command may take before its outcome counts as unknown.
const ANSWER_PATIENCE: Duration = Duration::from_secs(3);

/// How long a node may take to start or to stop.
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
        Ok(Self { program, leader: AtomicUsize::new(0), members: Mutex::new(members) })
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
    /// Also when the node ends instead of listening, with the last line it logged.
    pub fn start(&self, at: usize) -> io::Result<()> {
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
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).spawn()?;
        let stdout = process.stdout.take().ok_or_else(|| io::Error::other("the node has no output"))?;
        let mut said = String::new();
        BufReader::new(stdout).read_line(&mut said)?;
        let mut addresses = said.split_whitespace().map(str::parse);
        let (Some(Ok(listen)), Some(Ok(clients))) = (addresses.next(), addresses.next()) else {
            let _ = process.kill();
            process.wait()?;
            let log = fs::read_to_string(member.directory.join("log"))?;
            let why = log.lines().last().unwrap_or("it said nothing");
            return Err(io::Error::other(format!("node {} did not start: {why}", at + 1)));
        };
        member.addresses = Some((listen, clients));
        member.process = Some(process);
        Ok(())
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
        let deadline = Instant::now() + PROCESS_PATIENCE;
        let mut problems = Vec::new();
        for (at, member) in self.lock().iter_mut().enumerate() {
            let Some(mut process) = member.process.take() else { continue };
            loop {
                match process.try_wait() {
                    Ok(Some(status)) if status.success() => break,
                    Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
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
