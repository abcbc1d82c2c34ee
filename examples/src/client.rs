//! How clients talk to the nodes of the examples: one request, one answer, over a TCP connection.
//!
//! This is the application's own protocol, as any service has one; `mesh` has no part in it. A
//! message is a length of four bytes, little endian, and so many bytes.

use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use mesh_consensus::raft::Membership;
use mesh_core::{Bytes, NodeId, Wire, wire};
use serde::{Deserialize, Serialize};

use crate::store::StoreCommand;

/// The longest message, in bytes: 1 MiB.
const MESSAGE_LEN_MAX: usize = 1024 * 1024;

/// Connections served at a time; one more waits until another ends.
const CONNECTIONS_MAX: usize = 256;

/// What a client asks a node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Request {
    /// Carry out a command, through the log.
    Command(StoreCommand),
    /// Say what a key stands for: now, or at most so many milliseconds ago. Any node can.
    Get {
        /// Which key.
        key: String,
        /// How old the answer may be; without it, it is as of now.
        stale_ms: Option<u64>,
    },
    /// Change who the group is made of.
    ChangeMembership(Members),
    /// Hand leadership over, to this node or to the fittest.
    Transfer(Option<u128>),
    /// Say how you are.
    Status,
}
mesh_core::wire_bincode!(Request);

/// Who a group is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    /// Those who vote and keep data.
    pub voters: Vec<u128>,
    /// Those who keep data and do not vote.
    pub learners: Vec<u128>,
    /// Those who vote and keep no data.
    pub witnesses: Vec<u128>,
}

impl From<Membership> for Members {
    fn from(membership: Membership) -> Self {
        let ids = |nodes: BTreeSet<NodeId>| nodes.into_iter().map(|node| node.0).collect();
        Self {
            voters: ids(membership.voters),
            learners: ids(membership.learners),
            witnesses: ids(membership.witnesses),
        }
    }
}

impl From<Members> for Membership {
    fn from(members: Members) -> Self {
        let nodes = |ids: Vec<u128>| ids.into_iter().map(NodeId).collect();
        Self { voters: nodes(members.voters), learners: nodes(members.learners), witnesses: nodes(members.witnesses) }
    }
}

impl fmt::Display for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = [("voter", &self.voters), ("learner", &self.learners), ("witness", &self.witnesses)];
        let lines = kinds.into_iter().flat_map(|(kind, ids)| ids.iter().map(move |id| (kind, NodeId(*id))));
        let lines: Vec<_> = lines.map(|(kind, id)| format!("{kind:<8} {id}")).collect();
        f.write_str(&lines.join("\n"))
    }
}

/// What a node answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The command was carried out, and this is the value that the key had before; or what it stands for.
    Done(Option<String>),
    /// The group is made of these now.
    Changed(Members),
    /// This node leads now.
    Leads(u128),
    /// That cannot be done.
    Impossible(String),
    /// Ask this node, where it is known; the command was not carried out.
    NotLeader(Option<u128>),
    /// Not now: the command was not carried out.
    Refused(String),
    /// Whether the command was or will be carried out cannot be known.
    Unknown,
    /// How the node is.
    Status(NodeStatus),
}
mesh_core::wire_bincode!(Answer);

/// How a node is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Which node.
    pub node: u128,
    /// Follower, candidate or leader.
    pub role: String,
    /// Its Raft term.
    pub term: u64,
    /// The leader it knows.
    pub leader: Option<u128>,
    /// Who the group is made of, as far as it knows.
    pub members: Members,
    /// How far it knows the log to be committed.
    pub commit_index: u64,
    /// How far it has applied the log.
    pub applied_index: u64,
    /// How many keys it holds.
    pub keys: u64,
    /// The blake3 digest of keys and values, in hexadecimal digits.
    pub digest: String,
}

impl fmt::Display for NodeStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "node     {}", NodeId(self.node))?;
        writeln!(f, "role     {} in term {}", self.role, self.term)?;
        match self.leader {
            Some(leader) => writeln!(f, "leader   {}", NodeId(leader))?,
            None => writeln!(f, "leader   none known")?,
        }
        writeln!(f, "{}", self.members)?;
        writeln!(f, "log      committed {}, applied {}", self.commit_index, self.applied_index)?;
        write!(f, "store    {} keys, digest {}", self.keys, self.digest)
    }
}

fn read<T: Wire>(stream: &mut TcpStream) -> io::Result<T> {
    let mut len = [0; 4];
    stream.read_exact(&mut len)?;
    let len = u32::from_le_bytes(len) as usize;
    if len > MESSAGE_LEN_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a message of {len} bytes is too long")));
    }
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes)?;
    wire::from_bytes(&Bytes::from(bytes)).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

fn write<T: Wire>(stream: &mut TcpStream, message: &T) -> io::Result<()> {
    let mut bytes = vec![0; 4];
    message.encode(&mut bytes);
    let len = bytes.len() - 4;
    bytes[..4].copy_from_slice(&(len as u32).to_le_bytes());
    stream.write_all(&bytes)
}

/// A connection to one node.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
}

impl Client {
    /// Connects within `patience`, which is also how long an answer may take.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn connect(address: SocketAddr, patience: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, patience)?;
        stream.set_nodelay(true)?;
        Self { stream }.with_patience(patience)
    }

    /// From now on an answer may take so long.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn with_patience(self, patience: Duration) -> io::Result<Self> {
        self.stream.set_read_timeout(Some(patience))?;
        self.stream.set_write_timeout(Some(patience))?;
        Ok(self)
    }

    /// Asks, and waits for the answer. After an error the connection is of no more use.
    ///
    /// # Errors
    /// Those of the operating system; the node may have carried out the request all the same.
    pub fn ask(&mut self, request: &Request) -> io::Result<Answer> {
        write(&mut self.stream, request)?;
        read(&mut self.stream)
    }
}

/// Serves clients until the process ends, each on a thread of its own.
///
/// `answer` may block. A client that sends nonsense is disconnected.
pub fn serve(listener: TcpListener, answer: impl Fn(Request) -> Answer + Send + Sync + 'static) {
    let answer = Arc::new(answer);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            // Each thread holds one clone.
            while Arc::strong_count(&answer) > CONNECTIONS_MAX {
                thread::sleep(Duration::from_millis(10));
            }
            let answer = answer.clone();
            thread::spawn(move || {
                let _ = stream.set_nodelay(true);
                while let Ok(request) = read(&mut stream) {
                    if write(&mut stream, &answer(request)).is_err() {
                        break;
                    }
                }
            });
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_answered_and_nonsense_disconnects() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        serve(listener, |request| match request {
            Request::Get { key, .. } => Answer::Done(Some(key)),
            _ => Answer::Unknown,
        });
        let patience = Duration::from_secs(10);
        let mut client = Client::connect(address, patience).unwrap();
        let get = Request::Get { key: "a".into(), stale_ms: None };
        assert_eq!(client.ask(&get).unwrap(), Answer::Done(Some("a".into())));
        assert_eq!(client.ask(&Request::Status).unwrap(), Answer::Unknown);

        for nonsense in [&[255, 255, 255, 255][..], &[1, 0, 0, 0, 99]] {
            let mut client = Client::connect(address, patience).unwrap();
            client.stream.write_all(nonsense).unwrap();
            assert_eq!(read::<Answer>(&mut client.stream).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        }
    }
}
