//! A transport of one's own: UDP, with the loss and the size limit that UDP has.
//!
//! A [`Transport`] may lose, repeat and reorder frames, so that a datagram is all it needs. What it
//! must vouch for is who sent a frame: here the sender says so itself, which is good enough on a
//! network where every machine is trusted, and nowhere else.
//!
//! Three nodes then count to a hundred together, through Raft, while one datagram in ten is dropped. Whether the
//! transport keeps its contract is asked of the conformance suite, in the test at the end:
//! `cargo test -p mesh-examples --example custom_transport`.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use clap::Parser;
use futures::channel::mpsc::{Receiver, Sender, channel};
use futures::{FutureExt as _, StreamExt as _, executor::block_on};
use mesh_consensus::raft::{ProposeError, Raft, RaftConfig, RaftHandle as _};
use mesh_core::{
    Bytes, Clock as _, FrameSender, Inbound, LogIndex, MemWal, NodeBuilder, NodeId, ProtocolId, RestoreError, Rng64,
    SendError, SnapshotSource, StateMachine, SystemClock, Transport, TransportError, run,
};

/// The longest frame: a datagram of this and the sender's name is not split on its way.
const FRAME_LEN: usize = 1200;

/// How often a socket without traffic looks whether its transport is gone.
const LOOK: Duration = Duration::from_millis(100);

/// How long to wait where nobody leads, or a node has too much to do.
const PAUSE: Duration = Duration::from_millis(20);

/// One datagram a frame; the first 16 bytes name the sender.
#[derive(Clone, Debug)]
struct Udp {
    me: NodeId,
    socket: Arc<UdpSocket>,
    peers: Arc<BTreeMap<NodeId, SocketAddr>>,
    inbox: Sender<Inbound>,
    lossy: Rng64,
}

impl FrameSender for Udp {
    fn try_send(&mut self, to: NodeId, frame: Bytes) -> Result<(), SendError> {
        if frame.len() > FRAME_LEN {
            return Err(SendError::TooLong);
        }
        let address = self.peers.get(&to).filter(|_| !self.inbox.is_closed()).ok_or(SendError::Unreachable)?;
        if self.lossy.chance(1, 10) {
            return Ok(()); // lost on the way
        }
        let datagram = [&self.me.0.to_le_bytes()[..], &frame].concat();
        self.socket.send_to(&datagram, address).map(drop).map_err(|_| SendError::Unreachable)
    }
}

#[derive(Debug)]
struct UdpTransport {
    udp: Udp,
    arrived: Receiver<Inbound>,
}

impl UdpTransport {
    fn new(me: NodeId, socket: UdpSocket, peers: Arc<BTreeMap<NodeId, SocketAddr>>) -> io::Result<Self> {
        socket.set_read_timeout(Some(LOOK))?;
        let (socket, (inbox, arrived)) = (Arc::new(socket), channel(1024));
        let udp = Udp { me, socket, peers, inbox, lossy: Rng64::from_seed(me.0 as u64, "loss") };
        let Udp { socket, mut inbox, .. } = udp.clone();
        std::thread::spawn(move || {
            let mut datagram = [0; FRAME_LEN + 16];
            while !inbox.is_closed() {
                let Ok(len) = socket.recv(&mut datagram) else { continue };
                let Some((from, frame)) = datagram[..len].split_first_chunk() else { continue };
                let from = NodeId(u128::from_le_bytes(*from));
                // A full queue loses the datagram, as the kernel's would.
                let _ = inbox.try_send(Inbound::Frame { from, frame: Bytes::copy_from_slice(frame) });
            }
        });
        Ok(Self { udp, arrived })
    }
}

#[async_trait]
impl Transport for UdpTransport {
    async fn recv(&mut self, inbox: &mut Vec<Inbound>) -> Result<(), TransportError> {
        inbox.push(self.arrived.next().await.ok_or(TransportError::Closed)?);
        while inbox.len() < inbox.capacity()
            && let Some(Some(more)) = self.arrived.next().now_or_never()
        {
            inbox.push(more);
        }
        Ok(())
    }

    fn sender(&self) -> Box<dyn FrameSender> {
        Box::new(self.udp.clone())
    }

    fn frame_len_max(&self) -> usize {
        FRAME_LEN
    }
}

/// A socket of this machine for each node, and where all of them are.
fn bind(ids: &[NodeId]) -> io::Result<Vec<(NodeId, UdpTransport)>> {
    let sockets = ids.iter().map(|_| UdpSocket::bind("127.0.0.1:0")).collect::<io::Result<Vec<_>>>()?;
    let addresses = sockets.iter().map(UdpSocket::local_addr).collect::<io::Result<Vec<_>>>()?;
    let peers = Arc::new(ids.iter().copied().zip(addresses).collect::<BTreeMap<_, _>>());
    let bound = ids.iter().zip(sockets).map(|(me, socket)| Ok((*me, UdpTransport::new(*me, socket, peers.clone())?)));
    bound.collect()
}

/// What the three nodes agree on.
#[derive(Debug, Default)]
struct Counter(u64);

impl StateMachine for Counter {
    type Command = u64;
    type Output = u64;
    type Query = ();
    type Answer = u64;

    fn apply(&mut self, _index: LogIndex, add: u64) -> u64 {
        self.0 += add;
        self.0
    }
    fn query(&self, (): ()) -> u64 {
        self.0
    }
    fn snapshot(&self) -> SnapshotSource {
        Bytes::copy_from_slice(&self.0.to_le_bytes()).into()
    }
    fn restore(&mut self, snapshot: &[u8]) -> Result<(), RestoreError> {
        let bytes = snapshot.try_into().map_err(|_| RestoreError::new("a counter has eight bytes"))?;
        self.0 = u64::from_le_bytes(bytes);
        Ok(())
    }
}

/// Three Raft nodes over UDP, of which one datagram in ten is lost.
#[derive(Debug, Parser)]
#[command(name = "custom_transport")]
struct Arguments {}

fn main() -> ExitCode {
    let Arguments {} = Arguments::parse();
    match count() {
        Ok(counted) => {
            println!("three nodes counted to {counted} over UDP, with one datagram in ten lost");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("custom_transport: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Has three nodes count to a hundred.
fn count() -> Result<u64, Box<dyn std::error::Error>> {
    let ids = [1, 2, 3].map(NodeId);
    let clock = Arc::new(SystemClock::new());
    let config = RaftConfig { max_append_bytes: 1000, snapshot_chunk_bytes: 1000, ..RaftConfig::default() };
    let (mut rafts, mut nodes) = (Vec::new(), Vec::new());
    for (me, transport) in bind(&ids)? {
        let mut node = NodeBuilder::new(me);
        rafts.push(node.host(ProtocolId(1), Raft::new(config.clone(), ids, Counter::default())?));
        let running = run(node.build(), transport, clock.clone(), Box::new(MemWal::new()));
        nodes.push(std::thread::spawn(move || block_on(running)));
    }
    let (mut at, mut counted) = (0, 0);
    while counted < 100 {
        match block_on(rafts[at].propose(1)) {
            Ok(applied) => counted = applied.output,
            Err(ProposeError::NotLeader { leader }) => {
                at = leader.and_then(|leader| ids.iter().position(|id| *id == leader)).unwrap_or((at + 1) % 3);
                block_on(clock.sleep_until(clock.now() + PAUSE));
            }
            Err(ProposeError::Stopped) => {
                let ended = nodes.swap_remove(at).join().map_err(|_| "a node panicked")?;
                return Err(ended.err().map_or_else(|| "a node was stopped".into(), Into::into));
            }
            // Most of these went nowhere. Where it is unknown whether it was counted, the answer to the next tells.
            Err(error) => {
                println!("{error}");
                block_on(clock.sleep_until(clock.now() + PAUSE));
            }
        }
    }
    Ok(counted)
}

#[cfg(test)]
mod tests {
    use mesh_core::transport_conformance::{BoxError, Conformance, TransportFactory};

    use super::*;

    /// Datagrams promise nothing beyond the contract.
    struct Datagrams;

    impl TransportFactory for Datagrams {
        type Transport = UdpTransport;

        fn network(&mut self, count: usize) -> Result<Vec<(NodeId, UdpTransport)>, BoxError> {
            let ids: Vec<_> = (1..=count as u128).map(NodeId).collect();
            Ok(bind(&ids)?)
        }
    }

    #[test]
    fn udp_keeps_the_contract_of_transports() {
        let report = block_on(Conformance::default().run(&mut Datagrams)).into_result();
        println!("{}", report.unwrap());
    }
}
