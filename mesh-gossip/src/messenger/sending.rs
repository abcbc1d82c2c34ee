//! What this node has called others for, and how each of them was heard last.

use std::collections::BTreeMap;
use std::time::Duration;

use mesh_core::{Bytes, Instant, NodeId, RequestId};

use super::config::MessengerConfig;
use super::message::Pass;
use crate::allowance::Allowance;

/// Who waits for a call to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waiter {
    Request(RequestId),
    Notice(RequestId),
    /// One of the notices to all.
    Round(u64),
}

/// A call on its way.
#[derive(Clone, Debug)]
pub(super) struct Flight {
    pub(super) to: NodeId,
    pub(super) slot: u16,
    pub(super) waiter: Waiter,
    pub(super) body: Bytes,
    pub(super) deadline: Instant,
    /// The pass it is made under: there is one for all its copies, or none yet.
    pub(super) pass: Option<Pass>,
    /// Whether the receiver said that it has it.
    pub(super) received: bool,
    /// How often it was sent since anything was heard.
    pub(super) tries: u32,
}

/// What this node knows of one it talks to.
#[derive(Clone, Debug, Default)]
pub(super) struct Contact {
    /// The calls on their way to it.
    slots: Vec<Option<u64>>,
    /// Its pass, and when it was last seen to be in that life.
    pass: Option<(Pass, Instant)>,
    /// When it was last heard straight, and over others.
    straight: Instant,
    relayed: Instant,
    /// How much it has said.
    pub(super) said: Allowance,
}

impl Contact {
    pub(super) fn heard(&mut self, now: Instant, relayed: bool) {
        if relayed {
            self.relayed = now;
        } else {
            self.straight = now;
        }
    }

    /// Whether it was heard over others, and not straight for some time.
    pub(super) fn is_detached(&self, retry_after: Duration) -> bool {
        self.relayed.since(self.straight) >= retry_after
    }

    /// Its pass, if it can be trusted to be in that life.
    pub(super) fn pass(&self, now: Instant, trust_for: Duration) -> Option<Pass> {
        self.pass.filter(|(_, seen)| now.since(*seen) < trust_for).map(|(pass, _)| pass)
    }

    /// It is in the life of this pass.
    pub(super) fn confirm(&mut self, now: Instant, pass: Pass) {
        self.pass = Some((pass, now));
    }

    /// It may be in another life.
    pub(super) fn doubt(&mut self) {
        self.pass = None;
    }

    pub(super) fn calls(&self) -> impl Iterator<Item = u64> {
        self.slots.iter().flatten().copied()
    }
}

/// The calls of this node.
#[derive(Clone, Debug, Default)]
pub(super) struct Sending {
    pub(super) flights: BTreeMap<u64, Flight>,
    pub(super) contacts: BTreeMap<NodeId, Contact>,
    /// How many calls there were.
    numbers: u64,
}

/// A limit that another call would pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full {
    pub(super) limit: usize,
}

impl Sending {
    /// Begins a call; its number.
    pub(super) fn begin(
        &mut self,
        now: Instant,
        to: NodeId,
        (waiter, body, deadline): (Waiter, Bytes, Instant),
        config: &MessengerConfig,
    ) -> Result<u64, Full> {
        if self.flights.len() >= config.in_flight_max {
            return Err(Full { limit: config.in_flight_max });
        }
        let contact = self.contacts.entry(to).or_default();
        let slot = match contact.slots.iter().position(Option::is_none) {
            Some(free) => free,
            None if contact.slots.len() >= config.per_peer_max => return Err(Full { limit: config.per_peer_max }),
            None => {
                contact.slots.push(None);
                contact.slots.len() - 1
            }
        };
        self.numbers += 1;
        contact.slots[slot] = Some(self.numbers);
        let pass = contact.pass(now, config.trust_for);
        let slot = slot as u16;
        let flight = Flight { to, slot, waiter, body, deadline, pass, received: false, tries: 0 };
        self.flights.insert(self.numbers, flight);
        Ok(self.numbers)
    }

    /// A call is over. Nodes that are no peers are forgotten with the last one.
    pub(super) fn end(&mut self, number: u64, is_peer: impl Fn(NodeId) -> bool) -> Option<Flight> {
        let flight = self.flights.remove(&number)?;
        if let Some(contact) = self.contacts.get_mut(&flight.to) {
            if let Some(slot) = contact.slots.get_mut(usize::from(flight.slot)) {
                *slot = None;
            }
            if !is_peer(flight.to) && contact.calls().next().is_none() {
                self.contacts.remove(&flight.to);
            }
        }
        Some(flight)
    }

    /// A node is no peer any more.
    pub(super) fn forget(&mut self, node: NodeId) {
        let Some(contact) = self.contacts.get_mut(&node) else { return };
        contact.doubt();
        if contact.calls().next().is_none() {
            self.contacts.remove(&node);
        }
    }
}

/// How long to wait after so many tries: twice as long each time.
pub(super) fn back_off(tries: u32, config: &MessengerConfig) -> Duration {
    config.retry_after.saturating_mul(1 << tries.saturating_sub(1).min(16)).min(config.retry_max)
}
