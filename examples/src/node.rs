//! One node of the examples as a process: a replicated store over TCP with a log on disk, and a port
//! for clients.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use futures::StreamExt as _;
use futures::executor::block_on;
use mesh_consensus::raft::{
    ChangeError, ConfigError, Membership, ProposeError, Raft, RaftConfig, RaftEvent, RaftHandle as _, ReadPolicy,
    TransferError,
};
use mesh_core::identity::{KeyError, SecretKey};
use mesh_core::{FileWal, Handle, NodeBuilder, NodeError, NodeHandle, NodeId, ProtocolId, SystemClock, WalError, run};
use mesh_transport_tcp::{Allow, TcpConfig, TcpControl, TcpError, TcpTransport};

use crate::client::{Answer, NodeStatus, Request, serve};
use crate::store::SharedStore;

/// The number under which all nodes of the examples host Raft.
const RAFT: ProtocolId = ProtocolId(1);

/// How long a node may find nobody before it says so.
const SILENCE: Duration = Duration::from_secs(3);

/// What a node is told.
#[derive(Debug)]
pub struct NodeOptions {
    /// Its key; its id follows from it.
    pub key: SecretKey,
    /// All members, itself included. They may connect, and whoever is added to them later.
    pub members: Vec<NodeId>,
    /// Whether it waits to be added to a group that runs already. Else the members are its first voters.
    pub joins: bool,
    /// Addresses of other nodes, one of which is enough: the rest is learned from it.
    pub join: Vec<SocketAddr>,
    /// Where it listens for nodes.
    pub listen: SocketAddr,
    /// Where it listens for clients.
    pub clients: SocketAddr,
    /// The directory of its log.
    pub log: PathBuf,
    /// How Raft is set up.
    pub raft: RaftConfig,
}

/// Why a node did not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The settings cannot work.
    #[error("{0}")]
    Config(String),
    /// The key file cannot be used.
    #[error("the key cannot be used: {0}")]
    Key(#[from] KeyError),
    /// Raft refuses its settings.
    #[error("{0}")]
    Raft(#[from] ConfigError),
    /// The port for nodes cannot be had.
    #[error("{0}")]
    Tcp(#[from] TcpError),
    /// The port for clients cannot be had.
    #[error("cannot listen for clients at {address}: {source}; choose another address or port")]
    Clients {
        /// The address asked for.
        address: SocketAddr,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The log cannot be opened.
    #[error("{0}")]
    Log(#[from] WalError),
    /// The node stopped.
    #[error("the node stopped: {0}")]
    Node(#[from] NodeError),
}

impl ServeError {
    /// Whether the fault lies in what the node was told: nothing has been written then.
    pub const fn is_usage(&self) -> bool {
        !matches!(self, Self::Node(_))
    }
}

/// Runs a node until it is stopped. `listening` is told where it listens, for nodes and for clients, once it does, and is
/// given what stops it.
///
/// # Errors
/// [`ServeError`], before anything is written where the fault is in the options.
pub fn run_node(
    options: NodeOptions,
    listening: impl FnOnce(SocketAddr, SocketAddr, NodeHandle),
) -> Result<(), ServeError> {
    let me = options.key.node_id();
    if !options.members.contains(&me) {
        return Err(ServeError::Config(format!("this node's id {me} is not among the members: add it to --members")));
    }
    let store = SharedStore::default();
    let raft = match options.joins {
        true => Raft::join(options.raft, store.clone())?,
        false => Raft::new(options.raft, options.members.iter().copied(), store.clone())?,
    };
    let mut builder = NodeBuilder::new(me);
    let raft = builder.host(RAFT, raft);
    let node = builder.build();
    let handle = node.handle();

    let clients = TcpListener::bind(options.clients)
        .map_err(|source| ServeError::Clients { address: options.clients, source })?;
    let clients_at = clients.local_addr().map_err(|source| ServeError::Clients { address: options.clients, source })?;
    let mut config = TcpConfig::new(options.key, options.listen);
    config.allow = Allow::Listed(options.members.iter().copied().collect());
    let book = config.address_book.clone();
    options.join.iter().for_each(|seed| book.add_seed(*seed));
    options.members.iter().filter(|member| **member != me).for_each(|member| book.pin(*member));
    let transport = TcpTransport::bind(config)?;
    let listens_at = transport.local_addr();
    let wal = FileWal::open(&options.log, me)?;

    if !options.join.is_empty() {
        warn_of_silence(transport.control(), options.join);
    }
    follow_membership(raft.clone(), transport.control(), options.members);
    serve(clients, move |request| answer(me, &raft, &store, request));
    listening(listens_at, clients_at, handle);
    Ok(block_on(run(node, transport, Arc::new(SystemClock::new()), Box::new(wal)))?)
}

/// Lets those connect who are members, at the beginning or later. Who was one may go on listening.
fn follow_membership(raft: Handle<Raft<SharedStore>>, transport: TcpControl, members: Vec<NodeId>) {
    let mut allowed: BTreeSet<_> = members.into_iter().collect();
    let mut events = raft.events();
    thread::spawn(move || {
        // The first look is at what the log holds; events that were missed may have been of the membership.
        let mut look = true;
        loop {
            if look && let Ok(status) = block_on(raft.status()) {
                let members = status.configuration.members().map(|member| member.node);
                let new: Vec<_> = members.filter(|member| allowed.insert(*member)).collect();
                if !new.is_empty() {
                    transport.set_allow(Allow::Listed(allowed.clone()));
                    new.into_iter().for_each(|member| transport.address_book().pin(member));
                }
            }
            let Some(event) = block_on(events.next()) else { break };
            look = matches!(event, Ok(RaftEvent::ConfigurationChanged { .. }) | Err(_));
        }
    });
}

/// Says so, once, where no node can be reached for long. The node goes on trying: the others may start later.
fn warn_of_silence(transport: TcpControl, join: Vec<SocketAddr>) {
    thread::spawn(move || {
        thread::sleep(SILENCE);
        if transport.stats().established == 0 {
            let seeds: Vec<_> = join.iter().map(ToString::to_string).collect();
            eprintln!("no node answers at {}: check the addresses, or start a node there", seeds.join(", "));
        }
    });
}

fn answer(me: NodeId, raft: &Handle<Raft<SharedStore>>, store: &SharedStore, request: Request) -> Answer {
    match request {
        Request::Command(command) => match block_on(raft.propose(command)) {
            Ok(applied) => Answer::Done(applied.output),
            Err(ProposeError::NotLeader { leader }) => Answer::NotLeader(leader.map(|leader| leader.0)),
            Err(ProposeError::Unknown | ProposeError::Stopped) => Answer::Unknown,
            Err(refused) => Answer::Refused(refused.to_string()),
        },
        Request::Get { key, stale_ms } => {
            let policy = stale_ms
                .map_or(ReadPolicy::Linearizable, |ms| ReadPolicy::Stale { at_most: Duration::from_millis(ms) });
            match block_on(raft.read(key, policy)) {
                Ok(read) => Answer::Done(read.answer),
                Err(refused) => Answer::Refused(refused.to_string()),
            }
        }
        Request::ChangeMembership(members) => match block_on(raft.change_membership(members.into())) {
            Ok(changed) => Answer::Changed(Membership::of(&changed.configuration).into()),
            Err(ChangeError::NotLeader { leader }) => Answer::NotLeader(leader.map(|leader| leader.0)),
            Err(ChangeError::Unknown | ChangeError::Stopped) => Answer::Unknown,
            Err(why @ (ChangeError::Refused(_) | ChangeError::CatchUpTimedOut { .. })) => {
                Answer::Impossible(why.to_string())
            }
            Err(refused) => Answer::Refused(refused.to_string()),
        },
        Request::Transfer(to) => match block_on(raft.transfer(to.map(NodeId))) {
            Ok(leader) => Answer::Leads(leader.0),
            Err(TransferError::NotLeader { leader }) => Answer::NotLeader(leader.map(|leader| leader.0)),
            Err(why @ (TransferError::NotFit { .. } | TransferError::NobodyFit)) => Answer::Impossible(why.to_string()),
            Err(refused) => Answer::Refused(refused.to_string()),
        },
        Request::Status => match block_on(raft.status()) {
            Ok(status) => {
                let store = store.lock();
                Answer::Status(NodeStatus {
                    node: me.0,
                    role: format!("{:?}", status.role).to_lowercase(),
                    term: status.term,
                    leader: status.leader.map(|leader| leader.0),
                    members: Membership::of(&status.configuration).into(),
                    commit_index: status.commit_index.0,
                    applied_index: status.applied_index.0,
                    keys: store.len() as u64,
                    digest: blake3::Hash::from(store.digest()).to_hex().to_string(),
                })
            }
            Err(error) => Answer::Refused(error.to_string()),
        },
    }
}
