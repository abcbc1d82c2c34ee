//! A replicated key-value server and its client.
//!
//! A node's id follows from its key, which `kv id` makes in the node's directory:
//!
//! ```sh
//! A=$(kv id --data a); B=$(kv id --data b); C=$(kv id --data c)
//! kv serve --data a --listen 127.0.0.1:7001 --clients 127.0.0.1:8001 --peer $B@127.0.0.1:7002 --peer $C@127.0.0.1:7003 &
//! kv serve --data b --listen 127.0.0.1:7002 --clients 127.0.0.1:8002 --peer $A@127.0.0.1:7001 --peer $C@127.0.0.1:7003 &
//! kv serve --data c --listen 127.0.0.1:7003 --clients 127.0.0.1:8003 --peer $A@127.0.0.1:7001 --peer $B@127.0.0.1:7002 &
//! NODES=127.0.0.1:8001,127.0.0.1:8002,127.0.0.1:8003
//! kv put colour green --nodes $NODES
//! kv get colour --nodes $NODES
//! kv status --nodes 127.0.0.1:8002
//! ```
//!
//! A fourth server takes the place of the third, without a stop:
//!
//! ```sh
//! D=$(kv id --data d)
//! kv serve --data d --join --listen 127.0.0.1:7004 --clients 127.0.0.1:8004 --peer $A@127.0.0.1:7001 --peer $B@127.0.0.1:7002 &
//! kv change --voters $A,$B,$D --nodes $NODES
//! kv transfer --to $D --nodes $NODES
//! ```

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use mesh_consensus::raft::RaftConfig;
use mesh_core::NodeId;
use mesh_core::identity::SecretKey;
use mesh_examples::client::{Answer, Client, Members, Request};
use mesh_examples::node::{NodeOptions, ServeError, run_node};
use mesh_examples::store::StoreCommand;

/// A replicated key-value server and its client.
#[derive(Debug, Parser)]
#[command(name = "kv")]
struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Print the id of a node, making its key where there is none yet
    Id {
        /// The node's directory
        #[arg(long)]
        data: PathBuf,
    },
    /// Run a node
    Serve {
        /// The node's directory: its key and its log
        #[arg(long)]
        data: PathBuf,
        /// The id that the node must have, to be sure that it is the right directory
        #[arg(long)]
        id: Option<NodeId>,
        /// Where to listen for nodes
        #[arg(long, default_value = "127.0.0.1:7000")]
        listen: SocketAddr,
        /// Where to listen for clients
        #[arg(long, default_value = "127.0.0.1:8000")]
        clients: SocketAddr,
        /// Another node, as ID@ADDRESS, or as ID where another peer knows its address
        #[arg(long = "peer", value_name = "ID[@ADDRESS]")]
        peers: Vec<Peer>,
        /// Wait to be added to a group that runs already, with `kv change`
        #[arg(long)]
        join: bool,
        /// How long to hear nothing from the leader before standing for election, in milliseconds
        #[arg(long, default_value_t = 1000)]
        election_timeout_ms: u64,
        /// How often the leader says that it is there, in milliseconds
        #[arg(long, default_value_t = 100)]
        heartbeat_ms: u64,
    },
    /// Set a key; prints the value it had
    Put {
        key: String,
        value: String,
        #[command(flatten)]
        to: To,
    },
    /// Print the value of a key; any node can tell
    Get {
        key: String,
        /// How old the answer may be, in milliseconds; without it, it is as of now
        #[arg(long)]
        stale_ms: Option<u64>,
        #[command(flatten)]
        to: To,
    },
    /// Remove a key; prints the value it had
    Delete {
        key: String,
        #[command(flatten)]
        to: To,
    },
    /// Change who the group is made of; prints it once it is so
    Change {
        /// Those who vote and keep data
        #[arg(long, required = true, value_name = "ID", value_delimiter = ',')]
        voters: Vec<NodeId>,
        /// Those who keep data and do not vote
        #[arg(long, value_name = "ID", value_delimiter = ',')]
        learners: Vec<NodeId>,
        /// Those who vote and keep no data
        #[arg(long, value_name = "ID", value_delimiter = ',')]
        witnesses: Vec<NodeId>,
        #[command(flatten)]
        to: To,
    },
    /// Hand leadership over; prints who leads then
    Transfer {
        /// To whom; without it, to the fittest
        #[arg(long = "to", value_name = "ID")]
        successor: Option<NodeId>,
        #[command(flatten)]
        to: To,
    },
    /// Print how a node is
    Status {
        #[command(flatten)]
        to: To,
    },
}

#[derive(Debug, clap::Args)]
struct To {
    /// Where nodes listen for clients; they are tried until one can answer
    #[arg(long, value_delimiter = ',', default_value = "127.0.0.1:8000")]
    nodes: Vec<SocketAddr>,
    /// How long to try, in seconds
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout_s: u64,
}

#[derive(Clone, Debug)]
struct Peer {
    id: NodeId,
    address: Option<SocketAddr>,
}

impl FromStr for Peer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (id, address) = match text.split_once('@') {
            Some((id, address)) => (id, Some(address)),
            None => (text, None),
        };
        let address = address.map(|address| {
            address.parse().map_err(|_| format!("{address:?} is no address: give one like 127.0.0.1:7001"))
        });
        Ok(Self { id: id.parse().map_err(|error| format!("{error}"))?, address: address.transpose()? })
    }
}

fn main() -> ExitCode {
    let done = match Arguments::parse().action {
        Action::Id { data } => id(data),
        Action::Serve { data, id, listen, clients, peers, join, election_timeout_ms, heartbeat_ms } => {
            let raft = RaftConfig {
                election_timeout: Duration::from_millis(election_timeout_ms),
                heartbeat_interval: Duration::from_millis(heartbeat_ms),
                ..RaftConfig::default()
            };
            serve(data, id, listen, clients, &peers, join, raft)
        }
        Action::Put { key, value, to } => ask(&to, &Request::Command(StoreCommand::Put { key, value }), false),
        Action::Get { key, stale_ms, to } => ask(&to, &Request::Get { key, stale_ms }, true),
        Action::Delete { key, to } => ask(&to, &Request::Command(StoreCommand::Delete { key }), false),
        Action::Change { voters, learners, witnesses, to } => {
            let ids = |nodes: Vec<NodeId>| nodes.into_iter().map(|node| node.0).collect();
            let members = Members { voters: ids(voters), learners: ids(learners), witnesses: ids(witnesses) };
            ask(&to, &Request::ChangeMembership(members), false)
        }
        Action::Transfer { successor, to } => ask(&to, &Request::Transfer(successor.map(|node| node.0)), false),
        Action::Status { to } => ask(&to, &Request::Status, false),
    };
    done.unwrap_or_else(|(problem, code)| {
        eprintln!("kv: {problem}");
        ExitCode::from(code)
    })
}

/// What to print, and the exit code.
type Problem = (String, u8);

fn id(data: PathBuf) -> Result<ExitCode, Problem> {
    fs::create_dir_all(&data).map_err(|error| (format!("cannot make {}: {error}", data.display()), 2))?;
    let key = SecretKey::load_or_create(data.join("key")).map_err(|error| (error.to_string(), 2))?;
    println!("{}", key.node_id());
    Ok(ExitCode::SUCCESS)
}

fn serve(
    data: PathBuf,
    id: Option<NodeId>,
    listen: SocketAddr,
    clients: SocketAddr,
    peers: &[Peer],
    joins: bool,
    raft: RaftConfig,
) -> Result<ExitCode, Problem> {
    let problem = |error: ServeError| (error.to_string(), if error.is_usage() { 2 } else { 1 });
    if !data.is_dir() {
        return Err((format!("{} is no directory: make the node's key with `kv id --data`", data.display()), 2));
    }
    let key = SecretKey::load_or_create(data.join("key")).map_err(|error| problem(error.into()))?;
    let me = key.node_id();
    if let Some(id) = id.filter(|id| *id != me) {
        return Err((format!("{} belongs to node {me}, not to {id}: choose another directory", data.display()), 2));
    }
    let members = peers.iter().map(|peer| peer.id).chain([me]).collect();
    let addresses = peers.iter().filter_map(|peer| peer.address).collect();
    let options = NodeOptions { key, members, joins, join: addresses, listen, clients, log: data.join("log"), raft };
    run_node(options, |listen, clients, node| {
        // Whoever interrupts it, or tells it to end, has it stop in good order.
        if let Err(error) = ctrlc::set_handler(move || node.stop()) {
            eprintln!("kv: an interruption will end it at once: {error}");
        }
        println!("node {me} listens for nodes at {listen} and for clients at {clients}");
    })
    .map_err(problem)?;
    Ok(ExitCode::SUCCESS)
}

/// What is said where a request may or may not have been carried out. It is not sent again: it could be done twice.
const UNKNOWN: &str = "whether it was carried out is unknown: look before you try again";

/// Asks the nodes in turn until one answers to the point. Each gets a share of the time that is left, so that one that hangs
/// leaves some to the others; but what changes something is sent once, and then has all of that time.
fn ask(to: &To, request: &Request, is_get: bool) -> Result<ExitCode, Problem> {
    let deadline = Instant::now() + Duration::from_secs(to.timeout_s);
    let left = || deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    let changes_nothing = matches!(request, Request::Get { .. } | Request::Status);
    let nodes = u32::try_from(to.nodes.len()).unwrap_or(u32::MAX);
    let mut last = "no node answers".to_owned();
    loop {
        for address in &to.nodes {
            let share = (left() / nodes).max(Duration::from_millis(1));
            let asked = Client::connect(*address, share).map(|client| {
                let patience = if changes_nothing { share } else { left() };
                client.with_patience(patience)?.ask(request)
            });
            match asked {
                Ok(Ok(Answer::Done(None))) if is_get => return Err(("there is no such key".to_owned(), 1)),
                Ok(Ok(Answer::Done(value))) => {
                    value.into_iter().for_each(|value| println!("{value}"));
                    return Ok(ExitCode::SUCCESS);
                }
                Ok(Ok(Answer::Status(status))) => {
                    println!("{status}");
                    return Ok(ExitCode::SUCCESS);
                }
                Ok(Ok(Answer::Changed(members))) => {
                    println!("{members}");
                    return Ok(ExitCode::SUCCESS);
                }
                Ok(Ok(Answer::Leads(leader))) => {
                    println!("{}", NodeId(leader));
                    return Ok(ExitCode::SUCCESS);
                }
                Ok(Ok(Answer::Impossible(why))) => return Err((why, 1)),
                Ok(Ok(Answer::NotLeader(Some(leader)))) => {
                    last = format!("{address} does not lead, {} does: give its address to --nodes", NodeId(leader));
                }
                Ok(Ok(Answer::NotLeader(None))) => last = format!("{address} knows no leader"),
                Ok(Ok(Answer::Refused(why))) => last = format!("{address} refused: {why}"),
                Ok(Ok(Answer::Unknown)) => return Err((UNKNOWN.to_owned(), 1)),
                Ok(Err(error)) if !changes_nothing => {
                    return Err((format!("{address} took it and does not answer ({error}); {UNKNOWN}"), 1));
                }
                Ok(Err(error)) | Err(error) => last = format!("{address} does not answer: {error}"),
            }
        }
        if Instant::now() >= deadline {
            return Err((last, 1));
        }
        thread::sleep(Duration::from_millis(50));
    }
}
