//! One node of a protocol, played by a script.

use std::time::Duration;

use mesh_core::wire::{from_bytes, to_bytes};
use mesh_core::{Bytes, Harness, LogOp, NodeId, PeerStatus, Protocol};

use crate::decode::readable;
use crate::input::{Input, put_piece};

/// A protocol under test, and the group that it is in.
pub trait Subject {
    /// The protocol.
    type Protocol: Protocol<Message: Clone>;

    /// The name of its target.
    const NAME: &'static str;

    /// The nodes of the group. The first is played.
    fn ids() -> Vec<NodeId>;

    /// The protocol of one of them, by its place.
    fn node(place: usize) -> Self::Protocol;

    /// Something that the application asks of it.
    fn command(choice: u8) -> <Self::Protocol as Protocol>::Command;
}

/// Nobody of the group.
const STRANGER: NodeId = NodeId(0xf00d);

/// The steps of a script at most, so that each is quick.
const STEPS_MAX: usize = 300;

/// How much time passes in a script at most.
const TIME_MAX: Duration = Duration::from_secs(60);

/// What a step is: the lower three bits of its first byte. The others say whom it is from. All other numbers: a
/// message arrives, a piece.
mod step {
    pub(super) const MESSAGE: u8 = 0;
    /// Two bytes: so many milliseconds pass.
    pub(super) const PASS: u8 = 3;
    /// All is durable.
    pub(super) const SYNC: u8 = 4;
    /// A byte: the application asks for something.
    pub(super) const COMMAND: u8 = 5;
    /// A byte: a link changes.
    pub(super) const PEER: u8 = 6;
    /// Two bytes: the node stands still for so many milliseconds.
    pub(super) const STALL: u8 = 7;
}

const STATUSES: [PeerStatus; 4] =
    [PeerStatus::Connected, PeerStatus::Disconnected, PeerStatus::Congested, PeerStatus::Writable];

/// Plays an input to the first node of a group.
pub fn run<S: Subject>(data: &[u8]) {
    let ids = S::ids();
    let mut node = Harness::new(ids[0], S::node(0));
    let (mut input, mut left) = (Input(data), TIME_MAX);
    for _ in 0..STEPS_MAX {
        let Some(step) = input.step() else { return };
        let from = ids.get(usize::from(step >> 3) % (ids.len() + 1)).copied().unwrap_or(STRANGER);
        match step & 7 {
            kind @ (step::PASS | step::STALL) => {
                let time = Duration::from_millis(input.short().into()).min(left);
                left -= time;
                if kind == step::PASS { node.pass(time) } else { node.stall(time) }
            }
            step::SYNC => node.sync(),
            step::COMMAND => drop(node.command(S::command(input.byte()))),
            step::PEER => node.peer(from, STATUSES[usize::from(input.byte()) % STATUSES.len()]),
            _ => {
                let message = Bytes::copy_from_slice(input.piece());
                if let Ok(message) = from_bytes(&message) {
                    node.receive(from, message);
                }
            }
        }
        outcome(&mut node);
    }
}

/// Takes what a node left, and sees that others could read it. Returns what it sent.
fn outcome<P: Protocol<Message: Clone>>(node: &mut Harness<P>) -> Vec<(NodeId, P::Message)> {
    for entry in node.logged() {
        match entry {
            LogOp::Record(record) => readable(&record),
            LogOp::Checkpoint(records) => records.iter().for_each(readable),
            LogOp::DropSnapshotsBelow(_) => {}
        }
    }
    drop(node.replies());
    drop(node.events());
    let sent = node.sent();
    sent.iter().for_each(|(_, message)| readable(message));
    sent
}

/// What came to the first node of a group that works: a script for [`run`], and the messages and records in it.
#[derive(Debug, Default)]
pub struct Recording {
    /// The script, and where its steps end.
    pub script: Vec<u8>,
    /// The ends of steps in `script`.
    pub ends: Vec<usize>,
    /// Encoded messages of all nodes.
    pub messages: Vec<Bytes>,
    /// Encoded records of all nodes.
    pub records: Vec<Bytes>,
}

impl Recording {
    fn step(&mut self, step: u8, from: usize, body: &[u8]) {
        self.script.push(step | (from as u8) << 3);
        self.script.extend_from_slice(body);
        self.ends.push(self.script.len());
    }
}

/// Has a group work for `rounds` of 50 ms, and records what comes to its first node, which is the `first` to act or
/// the last.
pub fn record<S: Subject>(rounds: u16, first: bool) -> Recording {
    const ROUND: u16 = 50;
    let (ids, mut recording) = (S::ids(), Recording::default());
    let mut nodes: Vec<_> = ids.iter().enumerate().map(|(place, id)| Harness::new(*id, S::node(place))).collect();
    for (place, id) in ids.iter().enumerate() {
        nodes.iter_mut().zip(&ids).filter(|(_, own)| *own != id).for_each(|(node, _)| node.peer(*id, STATUSES[0]));
        if place > 0 {
            recording.step(step::PEER, place, &[0]);
        }
    }
    // All draw the same random times: whoever began earlier is ahead.
    for (place, node) in nodes.iter_mut().enumerate() {
        let ahead = 40 * if first { ids.len() - place } else { place } as u16;
        node.pass(Duration::from_millis(ahead.into()));
        if place == 0 {
            recording.step(step::PASS, 0, &ahead.to_le_bytes());
        }
    }
    for round in 0..rounds {
        let mut sent = Vec::new();
        for (place, node) in nodes.iter_mut().enumerate() {
            if round % 4 == place as u16 % 4 {
                let choice = (round / 4) as u8;
                node.command(S::command(choice));
                if place == 0 {
                    recording.step(step::COMMAND, 0, &[choice]);
                }
            }
            node.pass(Duration::from_millis(ROUND.into()));
            node.sync();
            if place == 0 {
                recording.step(step::PASS, 0, &ROUND.to_le_bytes());
                recording.step(step::SYNC, 0, &[]);
            }
            for entry in node.logged() {
                match entry {
                    LogOp::Record(record) => recording.records.push(to_bytes(&record)),
                    LogOp::Checkpoint(records) => recording.records.extend(records.iter().map(to_bytes)),
                    LogOp::DropSnapshotsBelow(_) => {}
                }
            }
            drop(node.replies());
            drop(node.events());
            sent.extend(node.sent().into_iter().map(|(to, message)| (place, to, message)));
        }
        for (from, to, message) in sent {
            let bytes = to_bytes(&message);
            if let Some(place) = ids.iter().position(|id| *id == to) {
                if place == 0 && bytes.len() <= usize::from(u16::MAX) {
                    let mut body = Vec::new();
                    put_piece(&mut body, &bytes);
                    recording.step(step::MESSAGE, from, &body);
                }
                nodes[place].receive(ids[from], message);
            }
            recording.messages.push(bytes);
        }
    }
    recording
}
