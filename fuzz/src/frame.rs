//! What a node does with the frames that come to it.

use mesh_core::frame::sections;
use mesh_core::{Bytes, ClusterKey, Instant, Keyring, NodeBuilder, NodeCore, NodeId, ProtocolId};

use crate::input::Input;
use crate::play::Subject;
use crate::subjects::{OfHeartbeat, OfStore};

fn node(keyring: Option<Keyring>) -> NodeCore {
    let mut builder = NodeBuilder::new(NodeId(1));
    drop(builder.host(ProtocolId(1), OfHeartbeat::node(0)));
    drop(builder.host(ProtocolId(2), OfStore::node(0)));
    if let Some(keyring) = keyring {
        builder.seal(keyring);
    }
    let mut node = builder.build();
    node.start();
    node
}

/// A frame that a node of a group says, sealed where it has a key.
pub fn seeds() -> Vec<Bytes> {
    let mut seeds = Vec::new();
    for keyring in [None, Some(Keyring::new(ClusterKey::from_bytes([7; 32])))] {
        let mut node = node(keyring);
        for second in 1..4 {
            node.handle_deadline(Instant::from_nanos(second * 1_000_000_000));
            node.flush(Instant::from_nanos(second * 1_000_000_000));
            while let Some((_, frame)) = node.poll_transmit() {
                seeds.push(frame);
            }
        }
    }
    seeds
}

/// Frames, each behind its length, come to a node: as they are, and where cluster keys are in use. What has the form
/// of a cluster key is read as one, and written as it was.
pub fn run(data: &[u8]) {
    let keyring = Keyring::new(ClusterKey::from_bytes([7; 32]));
    let (mut open, mut sealed) = (node(None), node(Some(keyring)));
    let mut input = Input(data);
    while !input.0.is_empty() {
        let frame = Bytes::copy_from_slice(input.piece());
        if let Ok(sections) = sections(&frame) {
            for section in sections.map_while(Result::ok) {
                let len: usize =
                    section.messages().map_while(Result::ok).map(|message| message.remaining().len()).sum();
                assert!(len <= frame.len(), "messages are parts of their frame");
            }
        }
        for node in [&mut open, &mut sealed] {
            node.handle_frame(NodeId(2), frame.clone());
            node.flush(Instant::ZERO);
            while node.poll_transmit().is_some() {}
        }
        let _ = std::str::from_utf8(&frame).map(str::parse::<ClusterKey>);
    }
}
