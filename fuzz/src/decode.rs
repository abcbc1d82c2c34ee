//! Every type that is read from a frame or a log.

use mesh_consensus::pbft::{Evidence, Reconfiguration};
use mesh_consensus::session::Sessions;
use mesh_core::wire::{from_bytes, to_bytes};
use mesh_core::{Bytes, Protocol, Wire};
use mesh_gossip::membership::Profile;
use mesh_tasks::auction::signed::SignedBid;

use crate::subjects::*;

type Decoder = fn(&Bytes);

/// By their names; the first byte of an input is the place of one.
pub const DECODERS: &[(&str, Decoder)] = &[
    ("raft-message", message::<OfRaft>),
    ("raft-record", record::<OfRaft>),
    ("pbft-message", message::<OfPbft>),
    ("pbft-record", record::<OfPbft>),
    ("ballot-message", message::<OfBallot>),
    ("ballot-record", record::<OfBallot>),
    ("membership-message", message::<OfMembership>),
    ("heartbeat-message", message::<OfHeartbeat>),
    ("discovery-message", message::<OfDiscovery>),
    ("overlay-message", message::<OfOverlay>),
    ("broadcast-message", message::<OfBroadcast>),
    ("store-message", message::<OfStore>),
    ("store-record", record::<OfStore>),
    ("aggregation-message", message::<OfAggregation>),
    ("partition-message", message::<OfPartition>),
    ("messenger-message", message::<OfMessenger>),
    ("monitor-message", message::<OfMonitor>),
    ("pool-message", message::<OfPool>),
    ("pool-record", record::<OfPool>),
    ("dht-message", message::<OfDht>),
    ("dht-record", record::<OfDht>),
    ("client-message", message::<OfClient>),
    ("pbft-evidence", one_encoding::<Evidence>),
    ("auction-signed-bid", one_encoding::<SignedBid>),
    ("membership-tags", tags),
    ("sessions", one_encoding::<Sessions>),
    ("pbft-reconfiguration", one_encoding::<Reconfiguration>),
];

fn message<S: crate::play::Subject>(bytes: &Bytes) {
    one_encoding::<<S::Protocol as Protocol>::Message>(bytes);
}

fn record<S: crate::play::Subject>(bytes: &Bytes) {
    one_encoding::<<S::Protocol as Protocol>::Record>(bytes);
}

/// Metadata that are tags can be written, and are read as the same.
fn tags(bytes: &Bytes) {
    let profile = Profile { metadata: bytes.clone(), ..Profile::default() };
    if let Ok(tags) = profile.tags() {
        // What is longer than metadata may be comes in no profile.
        if let Ok(again) = Profile::default().with_tags(&tags) {
            assert_eq!(again.tags().as_ref(), Ok(&tags), "read again they are others");
        }
    }
}

/// What can be read can be written, and what was written is read as the same.
pub fn one_encoding<T: Wire>(bytes: &Bytes) {
    if let Ok(value) = from_bytes::<T>(bytes) {
        readable(&value);
    }
}

/// What this node says, others can read, and would say in the same bytes.
pub fn readable<T: Wire>(value: &T) {
    let written = to_bytes(value);
    match from_bytes::<T>(&written) {
        Ok(again) => assert_eq!(to_bytes(&again), written, "read again it is written otherwise"),
        Err(error) => panic!("what was written cannot be read: {error}"),
    }
}

/// Decodes an input.
pub fn run(data: &[u8]) {
    let Some((place, bytes)) = data.split_first() else { return };
    let (_, decoder) = DECODERS[usize::from(*place) % DECODERS.len()];
    decoder(&Bytes::copy_from_slice(bytes));
}
