//! What happened, in order: a digest that is always on, and a transcript to read.
//!
//! The digest covers every event with its time and the bytes of every frame, so two runs with the
//! same digest are the same run. The last events are kept for the report of a failure;
//! [`Sim::keep_trace`](super::Sim::keep_trace) keeps more. [`Transcript::difference`] says where two
//! runs part.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use mesh_core::frame::sections;
use mesh_core::{Bytes, Instant, NodeId, PeerStatus, Protocol, ProtocolId, Reader, Wire};

use super::diagram::Traced;

/// Something that happened in a simulation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the fields are the node it happened to, and what the variant says")]
pub enum TraceEvent {
    /// A frame of so many bytes, with that digest, left.
    Sent { from: NodeId, to: NodeId, len: u32, digest: u64 },
    /// A frame arrived.
    Delivered { from: NodeId, to: NodeId, len: u32, digest: u64 },
    /// A frame did not.
    Lost { from: NodeId, to: NodeId, why: Loss },
    /// Timers were due.
    Timers { node: NodeId },
    /// The application gave commands.
    Commands { node: NodeId },
    /// A node was told of the link to a peer.
    Peer { node: NodeId, peer: NodeId, status: PeerStatus },
    /// A write of the log became durable.
    Synced { node: NodeId },
    /// A node came up, for so manieth time.
    Started { node: NodeId, incarnation: u32 },
    /// A node could not come up.
    Refused { node: NodeId },
    /// A node lost its power.
    Crashed { node: NodeId },
    /// A node's process was killed.
    Killed { node: NodeId },
    /// A node was shut down in good order.
    Stopped { node: NodeId },
    /// A node stopped because its disk failed.
    DiskFailed { node: NodeId },
    /// A node stands still.
    Paused { node: NodeId },
    /// A node goes on.
    Resumed { node: NodeId },
    /// A node's clock jumped ahead.
    ClockJumped { node: NodeId, by: Duration },
    /// A node's clock changed its pace, in parts per billion.
    ClockDrifts { node: NodeId, ppb: i64 },
    /// Frames in one direction get lost from now on.
    Cut { from: NodeId, to: NodeId },
    /// All cuts are mended.
    Healed,
    /// The scenario said something with that digest.
    Note { digest: u64 },
    /// A node has saved a snapshot or read a piece of one.
    Snapshot { node: NodeId },
    /// A node lost its disk.
    Wiped { node: NodeId },
}

/// Why a frame did not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Loss {
    /// By chance.
    Chance,
    /// The link is cut.
    Cut,
    /// The queue of the link is full.
    Congested,
    /// The receiver is down, or paused for too long.
    Down,
    /// There is no such node.
    Unknown,
}

impl TraceEvent {
    /// The event as numbers, for the digest.
    const fn numbers(&self) -> [u64; 5] {
        const fn low(node: NodeId) -> u64 {
            node.0 as u64
        }
        match *self {
            Self::Sent { from, to, len, digest } => [1, low(from), low(to), len as u64, digest],
            Self::Delivered { from, to, len, digest } => [2, low(from), low(to), len as u64, digest],
            Self::Lost { from, to, why } => [3, low(from), low(to), why as u64, 0],
            Self::Timers { node } => [4, low(node), 0, 0, 0],
            Self::Commands { node } => [5, low(node), 0, 0, 0],
            Self::Peer { node, peer, status } => [6, low(node), low(peer), status as u64, 0],
            Self::Synced { node } => [7, low(node), 0, 0, 0],
            Self::Started { node, incarnation } => [8, low(node), incarnation as u64, 0, 0],
            Self::Refused { node } => [9, low(node), 0, 0, 0],
            Self::Crashed { node } => [10, low(node), 0, 0, 0],
            Self::Killed { node } => [11, low(node), 0, 0, 0],
            Self::Stopped { node } => [12, low(node), 0, 0, 0],
            Self::DiskFailed { node } => [13, low(node), 0, 0, 0],
            Self::Paused { node } => [14, low(node), 0, 0, 0],
            Self::Resumed { node } => [15, low(node), 0, 0, 0],
            Self::ClockJumped { node, by } => [16, low(node), by.as_nanos() as u64, 0, 0],
            Self::ClockDrifts { node, ppb } => [17, low(node), ppb as u64, 0, 0],
            Self::Cut { from, to } => [18, low(from), low(to), 0, 0],
            Self::Healed => [19, 0, 0, 0, 0],
            Self::Note { digest } => [20, digest, 0, 0, 0],
            Self::Snapshot { node } => [21, low(node), 0, 0, 0],
            Self::Wiped { node } => [22, low(node), 0, 0, 0],
        }
    }
}

impl fmt::Display for TraceEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Sent { from, to, len, digest } => write!(f, "{from:?} sends {to:?} {len} bytes, {digest:016x}"),
            Self::Delivered { from, to, len, digest } => write!(f, "{to:?} hears {from:?}: {len} bytes, {digest:016x}"),
            Self::Lost { from, to, why } => write!(f, "a frame from {from:?} to {to:?} is lost: {why:?}"),
            Self::Timers { node } => write!(f, "{node:?} looks at its timers"),
            Self::Commands { node } => write!(f, "{node:?} takes commands"),
            Self::Peer { node, peer, status } => write!(f, "{node:?} is told that {peer:?} is {status:?}"),
            Self::Synced { node } => write!(f, "{node:?} has synced its disk"),
            Self::Snapshot { node } => write!(f, "{node:?} has saved a snapshot or read a piece of one"),
            Self::Started { node, incarnation } => write!(f, "{node:?} starts, incarnation {incarnation}"),
            Self::Refused { node } => write!(f, "{node:?} cannot start"),
            Self::Crashed { node } => write!(f, "{node:?} loses power"),
            Self::Killed { node } => write!(f, "{node:?} is killed"),
            Self::Wiped { node } => write!(f, "{node:?} loses its disk"),
            Self::Stopped { node } => write!(f, "{node:?} shuts down"),
            Self::DiskFailed { node } => write!(f, "{node:?} stops: its disk failed"),
            Self::Paused { node } => write!(f, "{node:?} pauses"),
            Self::Resumed { node } => write!(f, "{node:?} goes on"),
            Self::ClockJumped { node, by } => write!(f, "the clock of {node:?} jumps ahead by {by:?}"),
            Self::ClockDrifts { node, ppb } => write!(f, "the clock of {node:?} gains {ppb} ns a second"),
            Self::Cut { from, to } => write!(f, "the link from {from:?} to {to:?} is cut"),
            Self::Healed => write!(f, "all links are whole"),
            Self::Note { .. } => write!(f, "note"),
        }
    }
}

/// An order-sensitive digest of 64 bits, not for cryptography.
#[derive(Clone, Copy, Debug)]
pub(super) struct Digest(u64);

impl Digest {
    pub(super) const fn new() -> Self {
        Self(0x6d65_7368_2073_696d)
    }

    /// Folding the high half of the product back in makes every bit of the input count.
    pub(super) const fn mix(&mut self, number: u64) {
        let product = ((self.0 ^ number) as u128).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        self.0 = (product as u64).rotate_left(29) ^ (product >> 64) as u64;
    }

    pub(super) fn mix_bytes(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        words.iter().for_each(|word| self.mix(u64::from_le_bytes(*word)));
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.mix(u64::from_le_bytes(last));
        self.mix(bytes.len() as u64);
    }

    pub(super) const fn get(self) -> u64 {
        self.0
    }
}

type Describe = fn(&mut Reader<'_>) -> String;

#[derive(Debug)]
struct Entry {
    at: Instant,
    event: TraceEvent,
    text: Option<Box<str>>,
}

#[derive(Debug)]
pub(super) struct Trace {
    digest: Digest,
    count: u64,
    kept: VecDeque<Entry>,
    kept_max: usize,
    described: Vec<(ProtocolId, Describe)>,
}

impl Trace {
    pub(super) const fn new(kept_max: usize) -> Self {
        Self { digest: Digest::new(), count: 0, kept: VecDeque::new(), kept_max, described: Vec::new() }
    }

    pub(super) fn keep(&mut self, kept_max: usize) {
        self.kept_max = kept_max;
        self.kept.drain(..self.kept.len().saturating_sub(kept_max));
    }

    pub(super) fn describe<P: Protocol<Message: fmt::Debug>>(&mut self, protocol: ProtocolId) {
        let describe: Describe = |reader| match P::Message::decode(reader) {
            Ok(message) => format!("{message:?}"),
            Err(error) => format!("({error})"),
        };
        self.described.push((protocol, describe));
    }

    pub(super) fn add(&mut self, at: Instant, event: TraceEvent) {
        self.add_with(at, event, None);
    }

    pub(super) fn note(&mut self, at: Instant, text: &str) {
        let mut digest = Digest::new();
        digest.mix_bytes(text.as_bytes());
        self.add_with(at, TraceEvent::Note { digest: digest.get() }, Some(text.into()));
    }

    /// A frame leaves: its messages are described, if that was asked for.
    pub(super) fn sent(&mut self, at: Instant, event: TraceEvent, frame: &Bytes) {
        let text = (!self.described.is_empty()).then(|| self.messages(frame).into());
        self.add_with(at, event, text);
    }

    fn add_with(&mut self, at: Instant, event: TraceEvent, text: Option<Box<str>>) {
        self.count += 1;
        self.digest.mix(at.as_nanos());
        event.numbers().into_iter().for_each(|number| self.digest.mix(number));
        if self.kept_max > 0 {
            if self.kept.len() >= self.kept_max {
                self.kept.pop_front();
            }
            self.kept.push_back(Entry { at, event, text });
        }
    }

    fn messages(&self, frame: &Bytes) -> String {
        let mut texts = Vec::new();
        for section in sections(frame).into_iter().flatten().flatten() {
            let describe = self.described.iter().find(|(protocol, _)| *protocol == section.protocol());
            for mut message in section.messages().flatten() {
                texts.push(match describe {
                    Some((_, describe)) => describe(&mut message),
                    None => format!("{:?}, {} bytes", section.protocol(), message.remaining().len()),
                });
            }
        }
        texts.join("; ")
    }

    pub(super) const fn count(&self) -> u64 {
        self.count
    }

    pub(super) const fn digest(&self) -> u64 {
        self.digest.get()
    }

    pub(super) fn traced(&self) -> Vec<Traced> {
        let first = self.count - self.kept.len() as u64;
        let traced = |(number, entry): (u64, &Entry)| Traced::new(number, entry.at, entry.event, entry.text.as_deref());
        (first..).zip(&self.kept).map(traced).collect()
    }

    pub(super) fn transcript(&self) -> Transcript {
        let line = |Entry { at, event, text }: &Entry| match (event, text) {
            (TraceEvent::Note { .. }, Some(text)) => format!("{at:?} {text}"),
            (_, Some(text)) if !text.is_empty() => format!("{at:?} {event}: {text}"),
            _ => format!("{at:?} {event}"),
        };
        let lines = self.kept.iter().map(line).collect::<Vec<_>>();
        Transcript { first: self.count - lines.len() as u64, lines }
    }
}

/// Events as lines to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transcript {
    /// How many events came before the first line.
    pub first: u64,
    /// One line an event.
    pub lines: Vec<String>,
}

impl fmt::Display for Transcript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, line) in (self.first..).zip(&self.lines) {
            writeln!(f, "{number:>8} {line}")?;
        }
        Ok(())
    }
}

impl Transcript {
    /// The lines before a difference that [`difference`](Self::difference) shows.
    const CONTEXT: u64 = 10;

    /// Where this run and another part: the events both had before, then the first of each that is
    /// different. `None` where all events that both kept are the same.
    pub fn difference(&self, other: &Self) -> Option<String> {
        let line = |transcript: &Self, number: u64| {
            let at = usize::try_from(number.checked_sub(transcript.first)?).ok()?;
            transcript.lines.get(at).cloned()
        };
        let start = self.first.max(other.first);
        let end = (self.first + self.lines.len() as u64).max(other.first + other.lines.len() as u64);
        let parts = (start..end).find(|number| line(self, *number) != line(other, *number))?;
        let mut text = String::new();
        for number in start.max(parts.saturating_sub(Self::CONTEXT))..parts {
            text += &format!("  {number:>8} {}\n", line(self, number).unwrap_or_default());
        }
        for (mark, transcript) in [('<', self), ('>', other)] {
            text += &format!("{mark} {parts:>8} {}\n", line(transcript, parts).unwrap_or_else(|| "(the end)".into()));
        }
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(nodes: &[u128]) -> Trace {
        let mut trace = Trace::new(100);
        for node in nodes {
            trace.add(Instant::ZERO, TraceEvent::Timers { node: NodeId(*node) });
        }
        trace
    }

    #[test]
    fn the_digest_depends_on_every_event_and_their_order() {
        let digests = [&[1, 2][..], &[2, 1], &[1], &[1, 2, 3]].map(|nodes| trace(nodes).digest());
        for (at, digest) in digests.iter().enumerate() {
            assert!(!digests[..at].contains(digest));
        }
        assert_eq!(trace(&[1, 2]).digest(), digests[0]);
    }

    #[test]
    fn the_digest_of_bytes_sees_lengths_and_single_bits() {
        let digest = |bytes: &[u8]| {
            let mut digest = Digest::new();
            digest.mix_bytes(bytes);
            digest.get()
        };
        assert_ne!(digest(&[0; 7]), digest(&[0; 8]));
        assert_ne!(digest(&[0; 16]), digest(&[0; 24]));
        for bit in 0..128 {
            let mut bytes = [7; 16];
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(digest(&bytes), digest(&[7; 16]), "bit {bit}");
        }
    }

    #[test]
    fn a_difference_shows_where_two_runs_part() {
        let (one, other) = (trace(&[1, 2, 3]).transcript(), trace(&[1, 2, 4]).transcript());
        assert_eq!(one.difference(&one), None);
        let text = one.difference(&other).unwrap();
        assert!(text.contains("<        2 0.000000000s n3 looks"), "{text}");
        assert!(text.contains(">        2 0.000000000s n4 looks"), "{text}");
        let shorter = trace(&[1, 2]).transcript();
        assert!(one.difference(&shorter).unwrap().contains("(the end)"));
    }

    #[test]
    fn only_the_last_events_are_kept_where_there_is_a_limit() {
        let mut limited = trace(&[1, 2, 3]);
        limited.keep(2);
        limited.add(Instant::ZERO, TraceEvent::Healed);
        let transcript = limited.transcript();
        assert_eq!((transcript.first, transcript.lines.len()), (2, 2));
    }
}
