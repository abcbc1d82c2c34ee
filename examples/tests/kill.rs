//! Processes are killed with SIGKILL, again and again, while clients write: nothing that was
//! acknowledged may be lost, and all nodes must hold the same in the end.

mod support;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use mesh_core::{NodeId, Rng64};
use mesh_examples::client::{Answer, Client, NodeStatus, Request};
use mesh_examples::store::StoreCommand;
use support::server::{Server, id, serve, serve_at};
use support::wait_until;

const NODES: usize = 3;
const KILLS: usize = 50;
const WRITERS: usize = 4;

/// How long the nodes may take for anything; far more than they need, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a node may take to say how it is, and to answer a request before its outcome counts as unknown.
const STATUS_PATIENCE: Duration = Duration::from_millis(500);
const ANSWER_PATIENCE: Duration = Duration::from_secs(3);

/// The servers, whose directories, ids and addresses stay while their processes come and go.
struct Servers {
    nodes: Vec<(PathBuf, NodeId)>,
    running: Vec<Option<Server>>,
    /// Where they listen for nodes and for clients.
    addresses: Vec<[String; 2]>,
}

impl Servers {
    fn start(data: &Path) -> Self {
        let directories: Vec<_> = (0..NODES).map(|at| data.join(at.to_string())).collect();
        let nodes = directories.into_iter().map(|directory| (directory.clone(), id(&directory).parse().unwrap()));
        let mut servers = Self { nodes: nodes.collect(), running: Vec::new(), addresses: Vec::new() };
        for at in 0..NODES {
            let server = serve(&servers.nodes[at].0, &servers.peers(at));
            servers.addresses.push([server.nodes.clone(), server.clients.clone()]);
            servers.running.push(Some(server));
        }
        servers
    }

    /// The others, with their addresses where they have run.
    fn peers(&self, me: usize) -> Vec<String> {
        let peer = |(at, (_, id)): (usize, &(PathBuf, NodeId))| match self.addresses.get(at) {
            Some([nodes, _]) => format!("{id}@{nodes}"),
            None => id.to_string(),
        };
        self.nodes.iter().enumerate().filter(|(at, _)| *at != me).map(peer).collect()
    }

    fn restart(&mut self, at: usize) {
        let [nodes, clients] = &self.addresses[at];
        self.running[at] = Some(serve_at(&self.nodes[at].0, [nodes, clients], &self.peers(at), &[]));
    }

    fn clients(&self) -> Vec<(NodeId, SocketAddr)> {
        let clients = self.addresses.iter().map(|[_, clients]| clients.parse().unwrap());
        self.nodes.iter().map(|(_, id)| *id).zip(clients).collect()
    }
}

/// How each node is, where it answers.
fn statuses(clients: &[(NodeId, SocketAddr)]) -> Vec<Option<NodeStatus>> {
    let ask = |(_, address): &(NodeId, SocketAddr)| match Client::connect(*address, STATUS_PATIENCE)
        .ok()?
        .ask(&Request::Status)
        .ok()?
    {
        Answer::Status(status) => Some(status),
        _ => None,
    };
    clients.iter().map(ask).collect()
}

/// Whether all nodes run and hold the same.
fn hold_the_same(statuses: &[Option<NodeStatus>]) -> bool {
    let mut all = statuses.iter().map(|status| status.as_ref().map(|status| (&status.digest, status.applied_index)));
    let first = all.next().flatten();
    first.is_some() && all.all(|other| other == first)
}

/// A client that finds the leader, and finds it again.
struct Seeker<'a> {
    clients: &'a [(NodeId, SocketAddr)],
    leader: usize,
    connection: Option<Client>,
}

impl<'a> Seeker<'a> {
    const fn new(clients: &'a [(NodeId, SocketAddr)]) -> Self {
        Self { clients, leader: 0, connection: None }
    }

    /// Asks until the outcome is known; writes of the same value may be repeated.
    fn ask_until_done(&mut self, request: &Request) -> Option<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if self.connection.is_none() {
                self.connection = Client::connect(self.clients[self.leader].1, ANSWER_PATIENCE).ok();
            }
            let answer = self.connection.as_mut().and_then(|client| client.ask(request).ok());
            let next = match &answer {
                Some(Answer::Done(value)) => return value.clone(),
                Some(Answer::NotLeader(Some(id))) => self.clients.iter().position(|(node, _)| node.0 == *id),
                None | Some(Answer::NotLeader(None)) => Some((self.leader + 1) % self.clients.len()),
                Some(_) => None,
            };
            if let Some(next) = next {
                (self.leader, self.connection) = (next, None);
            }
            assert!(Instant::now() < deadline, "no answer in time, the last was {answer:?}");
            thread::park_timeout(Duration::from_millis(2));
        }
    }
}

#[test]
fn no_acknowledged_write_is_lost_to_fifty_kills() {
    let data = tempfile::tempdir().unwrap();
    let mut servers = Servers::start(data.path());
    let clients = servers.clients();
    let done = AtomicBool::new(false);
    let acknowledged = AtomicU64::new(0);

    let written: Vec<u64> = thread::scope(|scope| {
        let writer = |writer: usize| {
            let (clients, done, acknowledged) = (&clients, &done, &acknowledged);
            scope.spawn(move || {
                let mut seeker = Seeker::new(clients);
                let mut written = 0;
                while !done.load(Relaxed) {
                    let put = StoreCommand::Put { key: format!("{writer}/{written}"), value: format!("v{written}") };
                    seeker.ask_until_done(&Request::Command(put));
                    written += 1;
                    acknowledged.fetch_add(1, Relaxed);
                }
                written
            })
        };
        let writers: Vec<_> = (0..WRITERS).map(writer).collect();
        let mut rng = Rng64::from_seed(7, "kills");
        for kill in 0..KILLS {
            // Something must have been written since the last kill, so that there is something to lose.
            let before = acknowledged.load(Relaxed);
            wait_until(&format!("something is written after {kill} kills"), || {
                acknowledged.load(Relaxed) >= before + 3
            });
            let leader = statuses(&clients).iter().flatten().find_map(|status| status.leader);
            let leader = leader.and_then(|leader| clients.iter().position(|(node, _)| node.0 == leader));
            // Every other time the leader, else anybody; now and then a majority at once.
            let mut victims = vec![match leader {
                Some(leader) if kill % 2 == 0 => leader,
                _ => rng.below(NODES as u64) as usize,
            }];
            if kill % 5 == 4 {
                victims.push((victims[0] + 1) % NODES);
            }
            victims.iter().for_each(|at| drop(servers.running[*at].take()));
            victims.iter().for_each(|at| servers.restart(*at));
        }
        done.store(true, Relaxed);
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });

    let mut seeker = Seeker::new(&clients);
    for (writer, written) in written.iter().enumerate() {
        for n in 0..*written {
            let get = Request::Get { key: format!("{writer}/{n}"), stale_ms: None };
            let value = seeker.ask_until_done(&get);
            assert_eq!(value, Some(format!("v{n}")), "the acknowledged write {writer}/{n} is lost");
        }
    }
    wait_until("all hold the same", || hold_the_same(&statuses(&clients)));
    for server in servers.running.into_iter().flatten() {
        let ended = server.interrupt();
        assert!(ended.success(), "{ended}");
    }
}
