//! Islands: parts of the overlay without a link between them. They are found, and joined again.
//!
//! Every island is flooded by a beacon now and then, whoever lights it, and each node remembers the last few it
//! saw. A node now and then sends those to a random member that is no neighbour: if that one has seen none of
//! them, the two are on different islands, and it asks for a link. Over that link the beacon of one island floods
//! the other, so that a handful of links is made rather than one for each pair that compares.

use std::collections::VecDeque;
use std::time::Duration;

use mesh_core::{Context, Instant, NodeId};

use super::message::{Beacon, Message, Need, Peer};
use super::{Overlay, Timer};

/// How many beacons are remembered, and how many of them are compared.
const REMEMBERED: usize = 4;
const COMPARED: usize = 2;

/// Of beacons lit within this time of each other, only that of the smallest origin goes on.
const ROUND: Duration = Duration::from_secs(1);

/// How long nobody who was asked for a link because of its beacons is asked so again.
const REST_COMPARED: Duration = Duration::from_secs(60);

/// What tells a node which island it is on.
#[derive(Clone, Debug, Default)]
pub(super) struct Island {
    /// The beacons seen last, the latest first.
    beacons: VecDeque<Beacon>,
    /// When the latest came.
    seen: Instant,
    /// The number of this node's last.
    pub(super) number: u32,
}

impl Island {
    /// Whether any beacon was seen.
    pub(super) fn is_lit(&self) -> bool {
        !self.beacons.is_empty()
    }

    /// Whether a beacon would be the first of its round.
    fn begins_round(&self, now: Instant) -> bool {
        self.beacons.is_empty() || now.since(self.seen) >= ROUND
    }

    /// Whether a beacon is news that should go on.
    fn admits(&mut self, beacon: Beacon, now: Instant) -> bool {
        if self.beacons.contains(&beacon) {
            return false;
        }
        let begins = self.begins_round(now);
        match self.beacons.front_mut() {
            Some(latest) if !begins => {
                if latest.origin <= beacon.origin {
                    return false;
                }
                *latest = beacon;
            }
            _ => {
                self.beacons.truncate(REMEMBERED - 1);
                self.beacons.push_front(beacon);
                self.seen = now;
            }
        }
        true
    }

    /// Whether somebody who saw these is elsewhere. Who has seen none cannot tell.
    fn differs(&self, beacons: &[Beacon]) -> bool {
        !beacons.is_empty() && !self.beacons.is_empty() && !beacons.iter().any(|beacon| self.beacons.contains(beacon))
    }
}

impl Overlay {
    /// Who lit the last beacon lights the next; if that one is gone, somebody else does.
    pub(super) fn set_beacon_timer(&self, cx: &mut Context<'_, Self>, mine: bool) {
        let period = self.config.beacon;
        let delay = if mine { period } else { cx.rng().duration_between(period * 3 / 2, period * 5 / 2) };
        cx.set_timer(Timer::BeaconDue, delay);
    }

    pub(super) fn on_beacon_due(&mut self, cx: &mut Context<'_, Self>) {
        self.island.number = self.island.number.wrapping_add(1);
        let beacon = Beacon { origin: cx.me(), number: self.island.number };
        self.take(cx, beacon);
        self.set_beacon_timer(cx, true);
    }

    pub(super) fn on_beacon(&mut self, cx: &mut Context<'_, Self>, from: NodeId, beacon: Beacon) {
        let (now, per_second) = (cx.now(), self.config.floods_per_s);
        if !self.view.links.get_mut(&from).is_some_and(|link| link.beacons.take(now, per_second)) {
            return self.meter.refused.increment();
        }
        if self.take(cx, beacon) {
            self.set_beacon_timer(cx, false);
        }
        if let Some(link) = self.view.links.get_mut(&from) {
            (link.shone, link.earned) = (true, true);
        }
    }

    /// Passes a beacon on, if it is news, to whom it came from as well: that one sees that this node does.
    fn take(&mut self, cx: &mut Context<'_, Self>, beacon: Beacon) -> bool {
        let begins = self.island.begins_round(cx.now());
        if !self.island.admits(beacon, cx.now()) {
            return false;
        }
        if begins {
            self.on_round(cx);
        }
        let to: Vec<_> = self.view.links.keys().copied().collect();
        if !to.is_empty() {
            cx.broadcast(to, Message::Beacon(beacon));
        }
        true
    }

    /// Tells a new neighbour which island this is.
    pub(super) fn show_beacon(&self, cx: &mut Context<'_, Self>, node: NodeId) {
        if let Some(beacon) = self.island.beacons.front() {
            cx.send(node, Message::Beacon(*beacon));
        }
    }

    pub(super) fn on_compare_due(&mut self, cx: &mut Context<'_, Self>) {
        let delay = cx.rng().duration_between(self.config.compare / 2, self.config.compare * 3 / 2);
        cx.set_timer(Timer::CompareDue, delay);
        let beacons: Vec<_> = self.island.beacons.iter().take(COMPARED).copied().collect();
        if beacons.is_empty() {
            return;
        }
        if let Some(member) = self.view.member(cx.rng(), |peer| self.view.is_free(peer.node)) {
            self.compared = Some((member.node, cx.now()));
            cx.send(member.node, Message::Compare { beacons });
        }
    }

    pub(super) fn on_compare(&mut self, cx: &mut Context<'_, Self>, from: NodeId, beacons: &[Beacon]) {
        self.view.wake(cx.now());
        if !self.island.differs(beacons) || !self.view.is_free(from) || self.bridging > cx.now() {
            return;
        }
        // One link is offered at a time: where many are named, nobody else keeps that busy under ever new names.
        if !self.view.is_member(from) && !self.view.names_few(self.config.passive_max) {
            return self.meter.strangers.increment();
        }
        self.meter.islands.increment();
        let zone = self.view.zone_of(from).unwrap_or(self.config.zone);
        let full = self.view.taken() >= self.view.limit(&self.config);
        let peer = Peer { node: from, zone };
        let instead_of = if full { self.victim_for(cx.now(), peer, Need::Urgent) } else { None };
        if full && instead_of.is_none() {
            return;
        }
        if full {
            self.settle(cx);
        }
        // One at a time: the next who compares knows more. And each seldom, so that liars leave others their turn.
        self.bridging = cx.now() + self.config.ping_timeout * 4;
        self.view.rest(from, cx.now() + REST_COMPARED);
        self.ask(cx, peer, Need::Urgent, instead_of, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beacon(origin: u128, number: u32) -> Beacon {
        Beacon { origin: NodeId(origin), number }
    }

    #[test]
    fn of_beacons_lit_at_once_the_smallest_stays_and_each_goes_on_once() {
        let (mut island, mut now) = (Island::default(), Instant::ZERO + ROUND);
        assert!(island.admits(beacon(5, 1), now) && !island.admits(beacon(5, 1), now));
        assert!(!island.admits(beacon(6, 1), now), "a larger one stops here");
        assert!(island.admits(beacon(4, 1), now), "a smaller one takes its place");
        assert_eq!(island.beacons, [beacon(4, 1)]);
        for number in 0..10 {
            now += ROUND;
            assert!(island.admits(beacon(9, number), now));
        }
        assert_eq!(island.beacons.len(), REMEMBERED);
        assert!(!island.admits(beacon(9, 7), now + ROUND), "it was seen before the latest");
        assert!(island.differs(&[beacon(4, 1)]) && !island.differs(&[beacon(4, 1), beacon(9, 7)]));
        assert!(!island.differs(&[]) && !Island::default().differs(&[beacon(4, 1)]));
    }
}
