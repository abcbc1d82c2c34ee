//! etcd: clients that put over gRPC, each one key after the other, on one thread.
//!
//! The members are processes of their own, started by `benches/etcd.sh`. The few messages that are
//! spoken are written out here, so that no protobuf compiler is needed.

use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use tokio::runtime::Runtime;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

use crate::cluster::Run;
use crate::stopwatch::Stopwatch;

/// Connections that the clients share, as etcd's own benchmarks advise.
const CONNECTIONS: usize = 8;

/// Keys that are written in turn.
const KEYS: u64 = 1000;

/// How long members may take until one of them leads.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone, PartialEq, Message)]
struct PutRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

/// What it holds is not read.
#[derive(Clone, PartialEq, Message)]
struct PutResponse {}

#[derive(Clone, PartialEq, Message)]
struct StatusRequest {}

#[derive(Clone, PartialEq, Message)]
struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<ResponseHeader>,
    #[prost(uint64, tag = "4")]
    leader: u64,
}

#[derive(Clone, PartialEq, Message)]
struct ResponseHeader {
    #[prost(uint64, tag = "2")]
    member_id: u64,
}

/// Why etcd cannot be measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EtcdError {
    /// There is no runtime for the clients.
    #[error("the clients cannot be run: {0}")]
    Io(#[from] std::io::Error),
    /// An address is none, or nobody takes connections there.
    #[error("the members cannot be reached: {0}")]
    Transport(#[from] tonic::transport::Error),
    /// A member refused a request.
    #[error("a member refused a request: {0}")]
    Refused(#[from] Status),
    /// None of the members says that it leads.
    #[error("no member leads after {PATIENCE:?}")]
    NoLeader,
    /// A client did not come to its end.
    #[error("a client failed: {0}")]
    Client(#[from] tokio::task::JoinError),
}

/// The leader of an etcd cluster.
#[derive(Debug)]
pub struct Etcd {
    runtime: Runtime,
    connections: Vec<Channel>,
}

async fn call<Q: Message + 'static, A: Message + Default + 'static>(
    connection: Channel,
    path: &'static str,
    question: Q,
) -> Result<A, Status> {
    let mut grpc = Grpc::new(connection);
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let path = PathAndQuery::from_static(path);
    Ok(grpc.unary(Request::new(question), path, ProstCodec::<Q, A>::default()).await?.into_inner())
}

async fn put(connection: Channel, key: Bytes, value: Bytes) -> Result<PutResponse, Status> {
    call(connection, "/etcdserverpb.KV/Put", PutRequest { key, value }).await
}

/// Whether the member at the other end leads.
async fn leads(connection: Channel) -> Result<bool, Status> {
    let status: StatusResponse = call(connection, "/etcdserverpb.Maintenance/Status", StatusRequest {}).await?;
    Ok(status.leader != 0 && status.header.is_some_and(|header| header.member_id == status.leader))
}

/// Asks the members, again and again, until one says that it leads.
async fn find_leader(members: &[Endpoint]) -> Result<Endpoint, EtcdError> {
    let watch = Stopwatch::start();
    while watch.elapsed() < PATIENCE {
        for member in members {
            if leads(member.connect_lazy()).await.unwrap_or(false) {
                return Ok(member.clone());
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err(EtcdError::NoLeader)
}

impl Etcd {
    /// Finds out who of `members` leads and connects to it.
    ///
    /// # Errors
    /// [`EtcdError`] when an address is none, or no member says in 30 s that it leads.
    pub fn connect(members: &[String]) -> Result<Self, EtcdError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let members: Vec<_> =
            members.iter().map(|member| Endpoint::from_shared(member.clone())).collect::<Result<_, _>>()?;
        let connections = runtime.block_on(async {
            let leader = find_leader(&members).await?;
            let mut connections = Vec::new();
            for _ in 0..CONNECTIONS {
                connections.push(leader.connect().await?);
            }
            Ok::<_, EtcdError>(connections)
        })?;
        Ok(Self { runtime, connections })
    }

    /// Puts `entries` values of `payload` bytes by `clients` clients, each one after the other.
    ///
    /// # Errors
    /// [`EtcdError`] when the leader refuses one.
    pub fn run(&mut self, clients: usize, payload: usize, entries: u64) -> Result<Run, EtcdError> {
        let value = Bytes::from(vec![0x5a; payload]);
        let clients = clients as u64;
        self.runtime.block_on(async {
            let watch = Stopwatch::start();
            let tasks: Vec<_> = (0..clients)
                .map(|client| {
                    let connection = self.connections[client as usize % CONNECTIONS].clone();
                    let (share, value) = (entries / clients + u64::from(client < entries % clients), value.clone());
                    tokio::spawn(async move {
                        let mut latencies = Vec::with_capacity(share as usize);
                        let mut lap = Stopwatch::start();
                        for number in 0..share {
                            let key = format!("key-{:04}", (number * clients + client) % KEYS);
                            put(connection.clone(), key.into(), value.clone()).await?;
                            latencies.push(lap.lap().as_nanos() as u64);
                        }
                        Ok::<_, Status>(latencies)
                    })
                })
                .collect();
            let mut latencies = Vec::new();
            for task in tasks {
                latencies.append(&mut task.await??);
            }
            Ok(Run { entries, elapsed: watch.elapsed(), latencies })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_those_of_etcd() {
        let put = PutRequest { key: Bytes::from_static(b"k"), value: Bytes::from_static(b"vv") };
        assert_eq!(put.encode_to_vec(), [0x0a, 1, b'k', 0x12, 2, b'v', b'v']);
        // cluster_id 5, member_id 7; version "3"; leader 7.
        let status = StatusResponse::decode(&[0x0a, 4, 8, 5, 16, 7, 0x12, 1, b'3', 0x20, 7][..]).unwrap();
        assert_eq!((status.leader, status.header.unwrap().member_id), (7, 7));
    }

    #[test]
    fn an_address_that_is_none_is_refused() {
        assert!(matches!(Etcd::connect(&["not an address".to_owned()]), Err(EtcdError::Transport(_))));
    }
}
