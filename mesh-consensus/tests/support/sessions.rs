//! Client sessions, and what is proposed in them.

use std::time::Duration;

use mesh_consensus::raft::{ProposeError, RaftCommand, RaftConfig, RaftReply};
use mesh_consensus::session::{ClientSession, SessionRequest};
use mesh_core::RequestId;

use super::{Cluster, config};

/// For how long a session may go unused.
pub const TTL: Duration = Duration::from_secs(60);

/// Followers hand proposals on.
pub fn forwarding() -> RaftConfig {
    RaftConfig { forward_proposals: true, ..config() }
}

/// Opens a session at a leader that works.
pub fn open(cluster: &mut Cluster, number: usize) -> ClientSession {
    let asked = cluster.ask(number, RaftCommand::OpenSession { ttl: TTL });
    cluster.deliver();
    match cluster.other_reply(number, asked) {
        Some(RaftReply::SessionOpened(Ok(session))) => ClientSession::new(*session),
        other => panic!("{other:?}"),
    }
}

/// Proposes a command of a session.
pub fn once(cluster: &mut Cluster, number: usize, request: SessionRequest, command: u64) -> RequestId {
    cluster.ask(number, RaftCommand::ProposeOnce { request, command })
}

/// Proposes and waits; what the state machine gave.
pub fn submit(
    cluster: &mut Cluster,
    number: usize,
    request: SessionRequest,
    command: u64,
) -> Result<u64, ProposeError> {
    let asked = once(cluster, number, request, command);
    cluster.deliver();
    output(cluster, number, asked)
}

/// What the state machine gave.
pub fn output(cluster: &Cluster, number: usize, asked: RequestId) -> Result<u64, ProposeError> {
    let reply = cluster.reply(number, asked).expect("it is answered");
    reply.clone().map(|applied| applied.output)
}
