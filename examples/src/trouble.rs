//! A transport whose links can be cut: frames to some nodes, and from them, are dropped while it is told so.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use mesh_core::{Bytes, FrameSender, Inbound, NodeId, SendError, Transport, TransportError};

/// Whose frames are dropped. Clones are of the same links.
#[derive(Clone, Debug, Default)]
pub struct Cuts(Arc<Mutex<BTreeSet<NodeId>>>);

impl Cuts {
    /// From now on, frames to and from these nodes are dropped, and no others.
    pub fn set(&self, nodes: impl IntoIterator<Item = NodeId>) {
        *self.lock() = nodes.into_iter().collect();
    }

    /// Whether frames to and from a node are dropped.
    pub fn has(&self, node: NodeId) -> bool {
        self.lock().contains(&node)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<NodeId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A transport that drops what is to be cut.
#[derive(Debug)]
pub struct TroubledTransport<T> {
    inner: T,
    cuts: Cuts,
}

impl<T: Transport> TroubledTransport<T> {
    /// All links of `inner`, but for those that are cut.
    pub const fn new(inner: T, cuts: Cuts) -> Self {
        Self { inner, cuts }
    }
}

#[async_trait]
impl<T: Transport> Transport for TroubledTransport<T> {
    async fn recv(&mut self, inbox: &mut Vec<Inbound>) -> Result<(), TransportError> {
        let before = inbox.len();
        while inbox.len() == before {
            self.inner.recv(inbox).await?;
            let is_cut = |inbound: &Inbound| matches!(inbound, Inbound::Frame { from, .. } if self.cuts.has(*from));
            let mut at = 0;
            inbox.retain(|inbound| {
                at += 1;
                at <= before || !is_cut(inbound)
            });
        }
        Ok(())
    }

    fn sender(&self) -> Box<dyn FrameSender> {
        Box::new(TroubledSender { inner: self.inner.sender(), cuts: self.cuts.clone() })
    }

    fn frame_len_max(&self) -> usize {
        self.inner.frame_len_max()
    }
}

#[derive(Debug)]
struct TroubledSender {
    inner: Box<dyn FrameSender>,
    cuts: Cuts,
}

impl FrameSender for TroubledSender {
    fn try_send(&mut self, to: NodeId, frame: Bytes) -> Result<(), SendError> {
        // As a network does: the sender is not told.
        if self.cuts.has(to) { Ok(()) } else { self.inner.try_send(to, frame) }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use mesh_transport_mem::MemNetwork;

    use super::*;

    #[test]
    fn frames_of_cut_links_are_dropped_in_both_directions_until_they_are_healed() {
        let network = MemNetwork::new();
        let (a, b, c) = (NodeId(1), NodeId(2), NodeId(3));
        let cuts = Cuts::default();
        let mut here = TroubledTransport::new(network.endpoint(a), cuts.clone());
        let (mut there, third) = (network.endpoint(b), network.endpoint(c));
        let (mut sender, mut back, mut other) = (here.sender(), there.sender(), third.sender());
        let frames =
            |inbox: &[Inbound]| inbox.iter().filter(|inbound| matches!(inbound, Inbound::Frame { .. })).count();
        let mut inbox = Vec::with_capacity(8);
        cuts.set([b]);
        sender.try_send(b, Bytes::from_static(b"to b")).unwrap();
        back.try_send(a, Bytes::from_static(b"of b")).unwrap();
        other.try_send(a, Bytes::from_static(b"of c")).unwrap();
        while frames(&inbox) == 0 {
            here.recv(&mut inbox).now_or_never().expect("something comes").unwrap();
        }
        assert!(inbox.iter().all(|inbound| !matches!(inbound, Inbound::Frame { from, .. } if *from == b)), "{inbox:?}");
        let mut inbox = Vec::with_capacity(8);
        while let Some(received) = there.recv(&mut inbox).now_or_never() {
            received.unwrap();
        }
        assert_eq!(frames(&inbox), 0);
        cuts.set([]);
        sender.try_send(b, Bytes::from_static(b"to b")).unwrap();
        while frames(&inbox) == 0 {
            there.recv(&mut inbox).now_or_never().expect("it comes").unwrap();
        }
    }
}
