//! Two TCP transports of one process over loopback.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use futures_executor::block_on;
use mesh_core::identity::{KeyError, SecretKey};
use mesh_core::{FrameSender, Inbound, NodeId, SendError, Transport, TransportError};
use mesh_transport_tcp::{Allow, TcpConfig, TcpError, TcpTransport};

use crate::stopwatch::Stopwatch;

/// Bytes on their way in a throughput run: enough to keep both ends busy, and less than a queue holds.
const WINDOW: usize = 2 << 20;

/// Why two transports cannot be linked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TcpPairError {
    /// There is no key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A transport could not be bound.
    #[error(transparent)]
    Bind(#[from] TcpError),
    /// A transport stopped.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// A frame was dropped that should not have been.
    #[error(transparent)]
    Send(#[from] SendError),
}

/// `count` transports on loopback ports of their own that know each other's addresses and ids.
///
/// # Errors
/// [`TcpPairError`] when there are no keys or no ports.
pub fn transports(count: usize, encrypted: bool) -> Result<Vec<(NodeId, TcpTransport)>, TcpPairError> {
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let configs = (1..=count).map(|number| {
        Ok(match encrypted {
            true => TcpConfig::new(SecretKey::generate()?, listen),
            false => TcpConfig::plain(NodeId(number as u128), listen),
        })
    });
    let configs: Vec<TcpConfig> = configs.collect::<Result<_, KeyError>>()?;
    let ids: BTreeSet<NodeId> = configs.iter().map(|config| config.security.node_id()).collect();
    let bind = |config: TcpConfig| {
        let id = config.security.node_id();
        Ok::<_, TcpPairError>((id, TcpTransport::bind(TcpConfig { allow: Allow::Listed(ids.clone()), ..config })?))
    };
    let all: Vec<_> = configs.into_iter().map(bind).collect::<Result<_, _>>()?;
    for (_, transport) in &all {
        for (id, other) in &all {
            transport.control().address_book().set(*id, [other.local_addr()]);
        }
    }
    Ok(all)
}

/// Two linked transports.
#[derive(Debug)]
pub struct TcpPair {
    one: TcpTransport,
    two: TcpTransport,
    ids: [NodeId; 2],
    sender: Box<dyn FrameSender>,
    inbox: Vec<Inbound>,
}

impl TcpPair {
    /// Links two transports and waits until a frame has passed.
    ///
    /// # Errors
    /// [`TcpPairError`].
    pub fn link(encrypted: bool) -> Result<Self, TcpPairError> {
        let mut both = transports(2, encrypted)?.into_iter();
        let (Some((a, one)), Some((b, two))) = (both.next(), both.next()) else {
            unreachable!("two transports were asked for")
        };
        let sender = one.sender();
        let mut pair = Self { one, two, ids: [a, b], sender, inbox: Vec::with_capacity(256) };
        pair.stream(1, 16)?;
        Ok(pair)
    }

    /// Sends `frames` frames of `len` bytes one way and waits until all have arrived; frames a second.
    ///
    /// # Errors
    /// [`TcpPairError`].
    pub fn stream(&mut self, frames: usize, len: usize) -> Result<f64, TcpPairError> {
        let window = (WINDOW / len).max(1);
        let (mut sent, mut received) = (0, 0);
        let watch = Stopwatch::start();
        while received < frames {
            while sent < frames && sent - received < window {
                self.sender.try_send(self.ids[1], vec![0x5a; len].into())?;
                sent += 1;
            }
            block_on(self.two.recv(&mut self.inbox))?;
            received += self.inbox.drain(..).filter(|inbound| matches!(inbound, Inbound::Frame { .. })).count();
        }
        Ok(frames as f64 / watch.elapsed().as_secs_f64())
    }

    /// Sends frames of `len` bytes there and back, one at a time; the nanoseconds each took.
    ///
    /// # Errors
    /// [`TcpPairError`].
    pub fn round_trips(self, count: usize, len: usize) -> Result<(Self, Vec<u64>), TcpPairError> {
        let Self { mut one, two, ids, mut sender, mut inbox } = self;
        let echo = Echo::start(two, count);
        let mut times = Vec::with_capacity(count);
        let mut watch = Stopwatch::start();
        for _ in 0..count {
            sender.try_send(ids[1], vec![0x5a; len].into())?;
            loop {
                block_on(one.recv(&mut inbox))?;
                if inbox.drain(..).any(|inbound| matches!(inbound, Inbound::Frame { .. })) {
                    break;
                }
            }
            times.push(watch.lap().as_nanos() as u64);
        }
        let two = echo.finish()?;
        Ok((Self { one, two, ids, sender, inbox }, times))
    }
}

/// A thread that sends back what it receives.
struct Echo(JoinHandle<Result<TcpTransport, TransportError>>);

impl Echo {
    fn start(mut transport: TcpTransport, count: usize) -> Self {
        Self(thread::spawn(move || {
            let (mut sender, mut inbox, mut echoed) = (transport.sender(), Vec::with_capacity(16), 0);
            while echoed < count {
                block_on(transport.recv(&mut inbox))?;
                for inbound in inbox.drain(..) {
                    if let Inbound::Frame { from, frame } = inbound {
                        // Lost only when the link is: then the other end notices.
                        sender.try_send(from, frame).ok();
                        echoed += 1;
                    }
                }
            }
            Ok(transport)
        }))
    }

    fn finish(self) -> Result<TcpTransport, TransportError> {
        self.0.join().unwrap_or(Err(TransportError::Closed))
    }
}

/// How many frames of `len` bytes take about `time` at `rate` frames a second.
pub fn frames_for(rate: f64, time: Duration) -> usize {
    (rate * time.as_secs_f64()) as usize + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_stream_and_come_back() {
        for encrypted in [true, false] {
            let mut pair = TcpPair::link(encrypted).unwrap();
            assert!(pair.stream(1000, 256).unwrap() > 0.0);
            let (_, times) = pair.round_trips(10, 64).unwrap();
            assert_eq!(times.len(), 10);
        }
    }
}
