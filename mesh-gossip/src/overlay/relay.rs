//! Messages to nodes without a link, over others.
//!
//! Source routing, as in DSR (Johnson and Maltz, 1996): the sender floods the overlay in search of the destination,
//! each node adds itself to the path and passes the search on once, and the destination answers along the first
//! few paths that reach it. A message carries its whole route, so that it cannot go in circles, those on its way
//! keep nothing for it, and one frame that comes in is one that goes out. The destination confirms it along the
//! route. What is not confirmed soon, or comes to a link that is gone, goes another way. Searches and messages have
//! random numbers, so that nobody can use one up before it is sent.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use mesh_core::{Bytes, Context, Instant, NodeId, RequestId};

use super::command::{OverlayError, OverlayEvent, OverlayReply};
use super::message::{Cargo, Message, Route};
use super::{Overlay, Timer};
use crate::allowance::Allowance;

/// How many routes to a destination are remembered, and how often a search is answered.
const ALTERNATES: usize = 3;
/// How many searches, and how many messages, are remembered so that they are taken once.
const SEEN_MAX: usize = 4096;
/// A node is looked for at most this often.
const FIND_AGAIN: Duration = Duration::from_millis(300);
/// How long an answer to a search is taken at most.
const FIND_TIMEOUT: Duration = Duration::from_secs(5);
/// Bounds of how long a confirmation is waited for before another route is tried.
const CONFIRM_MIN: Duration = Duration::from_millis(100);
const CONFIRM_MAX: Duration = Duration::from_millis(400);

/// The last so many of something.
#[derive(Clone, Debug)]
pub(super) struct Recent<T> {
    set: BTreeSet<T>,
    order: VecDeque<T>,
}

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self { set: BTreeSet::new(), order: VecDeque::new() }
    }
}

impl<T: Ord + Copy> Recent<T> {
    fn contains(&self, item: &T) -> bool {
        self.set.contains(item)
    }

    /// Remembers one; whether it was new.
    fn insert(&mut self, item: T) -> bool {
        if !self.set.insert(item) {
            return false;
        }
        self.order.push_back(item);
        if self.order.len() > SEEN_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.set.remove(&oldest);
        }
        true
    }
}

/// A route that was found, and how long the answer took.
#[derive(Clone, Debug)]
struct Known {
    route: Route,
    round_trip: Duration,
}

/// Ways to a destination, the best first.
#[derive(Clone, Debug, Default)]
struct Ways {
    used: Instant,
    known: VecDeque<Known>,
}

/// A message of this node on its way.
#[derive(Clone, Debug)]
struct Sending {
    request: RequestId,
    to: NodeId,
    payload: Bytes,
    deadline: Instant,
    tries: u32,
    /// Whether it ever left this node, and whether the destination was looked for.
    sent: bool,
    searched: bool,
    /// The routes of the last try that are not known to be broken.
    routes: Vec<Route>,
    /// Whether the link to the destination itself has failed.
    indirect: bool,
}

/// What is known of routes, and of messages that were seen.
#[derive(Clone, Debug, Default)]
pub(super) struct Relaying {
    sends: BTreeMap<u64, Sending>,
    ways: BTreeMap<NodeId, Ways>,
    /// Searches of this node: for whom, and since when.
    finds: BTreeMap<u64, (NodeId, Instant)>,
    /// How many began in this second: neighbours pass no more on.
    begun: Allowance,
    searched: Recent<(NodeId, u64)>,
    delivered: Recent<(NodeId, u64)>,
    /// How often searches for this node were answered.
    answered: VecDeque<((NodeId, u64), usize)>,
}

impl Relaying {
    /// The ways known to a node.
    pub(super) fn routes(&self, to: NodeId) -> Vec<Route> {
        let known = self.ways.get(&to).into_iter().flat_map(|ways| &ways.known);
        known.map(|known| known.route.clone()).collect()
    }

    /// Adds a way, the first of all if it is known to work. There is one over each neighbour, so that none can
    /// replace those over others by naming many.
    fn add_way(&mut self, now: Instant, known: Known, works: bool, routes_max: usize) {
        let Some(to) = known.route.nodes().last().copied() else { return };
        if !self.ways.contains_key(&to) && self.ways.len() >= routes_max {
            let oldest = self.ways.iter().min_by_key(|(_, ways)| ways.used).map(|(to, _)| *to);
            oldest.and_then(|oldest| self.ways.remove(&oldest));
        }
        let ways = self.ways.entry(to).or_default();
        ways.used = now;
        let over = |known: &Known| known.route.nodes().get(1).copied();
        ways.known.retain(|other| over(other) != over(&known));
        if works {
            ways.known.push_front(known);
        } else {
            ways.known.push_back(known);
        }
        // The latest search knows best.
        while ways.known.len() > ALTERNATES {
            ways.known.pop_front();
        }
    }

    fn drop_way(&mut self, to: NodeId, route: &Route) {
        if let Some(ways) = self.ways.get_mut(&to) {
            ways.known.retain(|known| known.route != *route);
            if ways.known.is_empty() {
                self.ways.remove(&to);
            }
        }
    }

    /// Whether a search for this node may be answered once more.
    fn may_answer(&mut self, search: (NodeId, u64)) -> bool {
        if let Some((_, times)) = self.answered.iter_mut().find(|(answered, _)| *answered == search) {
            *times += 1;
            return *times <= ALTERNATES;
        }
        if self.answered.len() >= 64 {
            self.answered.pop_front();
        }
        self.answered.push_back((search, 1));
        true
    }
}

impl Overlay {
    pub(super) fn send(&mut self, cx: &mut Context<'_, Self>, request: RequestId, to: NodeId, payload: Bytes) {
        let (limit, sends_max) = (self.config.payload_max, self.config.sends_max);
        let refusal = match () {
            () if payload.len() > limit => Some(OverlayError::PayloadTooLong { len: payload.len(), limit }),
            () if self.relaying.sends.len() >= sends_max => Some(OverlayError::Busy { limit: sends_max }),
            () => None,
        };
        if let Some(error) = refusal {
            return cx.reply(request, OverlayReply::Sent(Err(error)));
        }
        if to == cx.me() {
            cx.emit(OverlayEvent::Delivered { origin: to, payload });
            return cx.reply(request, OverlayReply::Sent(Ok(())));
        }
        let number = cx.rng().next_u64();
        let deadline = cx.now() + self.config.relay_timeout;
        let sending = Sending {
            request,
            to,
            payload,
            deadline,
            tries: 0,
            sent: false,
            searched: false,
            routes: Vec::new(),
            indirect: false,
        };
        self.relaying.sends.insert(number, sending);
        self.try_send(cx, number);
    }

    /// Sends a message along the best way; after a failure along two, while others are looked for.
    fn try_send(&mut self, cx: &mut Context<'_, Self>, number: u64) {
        let (me, now) = (cx.me(), cx.now());
        let Some(sending) = self.relaying.sends.get_mut(&number) else { return };
        let to = sending.to;
        let direct = self
            .view
            .links
            .get(&to)
            .filter(|_| !sending.indirect)
            .map(|link| Known { route: Route(vec![me, to]), round_trip: link.round_trip.unwrap_or(CONFIRM_MAX) });
        let ways = self.relaying.ways.get_mut(&to).map(|ways| {
            ways.used = now;
            ways.known
                .iter()
                .filter(|known| known.route.nodes().get(1).is_some_and(|next| self.view.links.contains_key(next)))
        });
        let at_once = if sending.tries == 0 { 1 } else { 2 };
        let routes: Vec<_> = direct.into_iter().chain(ways.into_iter().flatten().cloned()).take(at_once).collect();
        sending.tries += 1;
        sending.sent |= !routes.is_empty();
        sending.routes = routes.iter().map(|known| known.route.clone()).collect();
        let round_trip = routes.iter().map(|known| known.round_trip).max();
        let wait = round_trip.map_or(CONFIRM_MAX, |time| (time * 2).clamp(CONFIRM_MIN, CONFIRM_MAX));
        cx.set_timer(Timer::SendDue(number), wait.min(sending.deadline.since(now)));
        let cargo = Cargo::Payload { number, payload: sending.payload.clone() };
        let search = routes.is_empty() || sending.tries > 1;
        for Known { route, .. } in routes {
            if let Some(next) = route.nodes().get(1).copied() {
                cx.send(next, Message::Relay { at: 1, route, cargo: cargo.clone() });
            }
        }
        if search
            && self.find(cx, to)
            && let Some(sending) = self.relaying.sends.get_mut(&number)
        {
            sending.searched = true;
        }
    }

    /// Nothing was confirmed in time.
    pub(super) fn on_send_due(&mut self, cx: &mut Context<'_, Self>, number: u64) {
        let Some(sending) = self.relaying.sends.get_mut(&number) else { return };
        let (to, routes) = (sending.to, std::mem::take(&mut sending.routes));
        sending.indirect |= routes.iter().any(|route| route.nodes().len() == 2);
        if cx.now() >= sending.deadline {
            let Sending { request, sent, searched, .. } = *sending;
            self.relaying.sends.remove(&number);
            self.meter.undelivered.increment();
            let error = match (sent, searched) {
                (true, _) => OverlayError::Unconfirmed { to },
                (false, true) => OverlayError::NoRoute { to },
                (false, false) => OverlayError::Busy { limit: self.config.floods_per_s as usize },
            };
            return cx.reply(request, OverlayReply::Sent(Err(error)));
        }
        routes.iter().for_each(|route| self.relaying.drop_way(to, route));
        self.try_send(cx, number);
    }

    /// Looks for a node; whether that is done already, or may be.
    fn find(&mut self, cx: &mut Context<'_, Self>, target: NodeId) -> bool {
        let (now, timeout) = (cx.now(), self.config.relay_timeout.min(FIND_TIMEOUT));
        self.relaying.finds.retain(|_, (_, since)| now.since(*since) < timeout);
        let recently = |(other, since): &(NodeId, Instant)| *other == target && now.since(*since) < FIND_AGAIN;
        if self.relaying.finds.values().any(recently) {
            return true;
        }
        if !self.relaying.begun.take(now, self.config.floods_per_s) {
            return false;
        }
        let number = cx.rng().next_u64();
        self.relaying.finds.insert(number, (target, now));
        self.relaying.searched.insert((cx.me(), number));
        let to: Vec<_> = self.view.links.keys().copied().collect();
        if !to.is_empty() {
            self.meter.searches.increment();
            cx.broadcast(to, Message::Find { number, target, path: Route(vec![cx.me()]) });
        }
        true
    }

    /// Somebody looks for a node: answered by that one, and passed on once by others.
    pub(super) fn on_find(
        &mut self,
        cx: &mut Context<'_, Self>,
        from: NodeId,
        number: u64,
        target: NodeId,
        path: Route,
    ) {
        let me = cx.me();
        let Route(mut nodes) = path;
        let (Some(origin), true) = (nodes.first().copied(), nodes.last() == Some(&from)) else {
            return self.meter.refused.increment();
        };
        if nodes.contains(&me) || nodes.len() > self.config.hops_max {
            return;
        }
        if target == me {
            if self.relaying.may_answer((origin, number)) {
                nodes.push(me);
                let route = Route(nodes);
                let back = route.back_from(route.0.len() - 1);
                cx.send(from, Message::Relay { at: 1, route: back, cargo: Cargo::Found { number } });
            }
            return;
        }
        // Each neighbour passes on what the others did already: that costs it nothing.
        if self.relaying.searched.contains(&(origin, number)) || !self.may_flood(cx, from) {
            return;
        }
        self.relaying.searched.insert((origin, number));
        let to: Vec<_> = match self.view.links.contains_key(&target) {
            true => vec![target],
            false => self.view.links.keys().copied().filter(|node| !nodes.contains(node)).collect(),
        };
        nodes.push(me);
        if !to.is_empty() && nodes.len() <= self.config.hops_max {
            cx.broadcast(to, Message::Find { number, target, path: Route(nodes) });
        }
    }

    pub(super) fn on_relay(&mut self, cx: &mut Context<'_, Self>, from: NodeId, at: u8, route: Route, cargo: Cargo) {
        let (me, at) = (cx.me(), usize::from(at));
        let nodes = route.nodes();
        let in_place = at > 0 && nodes.get(at) == Some(&me) && nodes.get(at - 1) == Some(&from);
        let too_long = matches!(&cargo, Cargo::Payload { payload, .. } if payload.len() > self.config.payload_max);
        if !in_place || too_long || nodes.len() > self.config.hops_max + 1 {
            return self.meter.refused.increment();
        }
        let (now, per_second) = (cx.now(), self.config.relays_per_s);
        if !self.view.links.get_mut(&from).is_some_and(|link| link.relays.take(now, per_second)) {
            return self.meter.refused.increment();
        }
        match (nodes.get(at + 1).copied(), &cargo) {
            (None, _) => self.on_arrival(cx, from, route, cargo),
            (Some(next), _) if self.view.links.contains_key(&next) => {
                self.meter.relayed.increment();
                cx.send(next, Message::Relay { at: at as u8 + 1, route, cargo });
            }
            (Some(_), Cargo::Payload { number, .. }) => {
                let cargo = Cargo::Broken { number: *number };
                cx.send(from, Message::Relay { at: 1, route: route.back_from(at), cargo });
            }
            (Some(_), _) => {}
        }
    }

    /// Something came to the end of its route.
    fn on_arrival(&mut self, cx: &mut Context<'_, Self>, from: NodeId, route: Route, cargo: Cargo) {
        let (Some(sender), back) = (route.nodes().first().copied(), route.back_from(route.nodes().len())) else {
            return;
        };
        match cargo {
            Cargo::Payload { number, payload } => {
                if self.relaying.delivered.insert((sender, number)) {
                    cx.emit(OverlayEvent::Delivered { origin: sender, payload });
                }
                cx.send(from, Message::Relay { at: 1, route: back, cargo: Cargo::Delivered { number } });
            }
            Cargo::Delivered { number } => self.on_delivered(cx, number, sender, back),
            Cargo::Found { number } => self.on_found(cx, number, sender, back),
            Cargo::Broken { number } => self.on_broken(cx, number, &back),
        }
    }

    fn on_delivered(&mut self, cx: &mut Context<'_, Self>, number: u64, by: NodeId, route: Route) {
        if self.relaying.sends.get(&number).is_none_or(|sending| sending.to != by) {
            return;
        }
        let Some(sending) = self.relaying.sends.remove(&number) else { return };
        cx.cancel_timer(Timer::SendDue(number));
        cx.reply(sending.request, OverlayReply::Sent(Ok(())));
        if route.nodes().len() > 2
            && let Some(way) = self.relaying.ways.get(&by)
            && let Some(known) = way.known.iter().find(|known| known.route == route).cloned()
        {
            self.relaying.add_way(cx.now(), known, true, self.config.routes_max);
        }
    }

    fn on_found(&mut self, cx: &mut Context<'_, Self>, number: u64, target: NodeId, route: Route) {
        let Some((_, since)) = self.relaying.finds.get(&number).filter(|(wanted, _)| *wanted == target) else { return };
        let round_trip = cx.now().since(*since);
        self.relaying.add_way(cx.now(), Known { route, round_trip }, false, self.config.routes_max);
        let waits = |(number, sending): (&u64, &Sending)| {
            (sending.to == target && sending.routes.is_empty()).then_some(*number)
        };
        let waiting: Vec<_> = self.relaying.sends.iter().filter_map(waits).collect();
        waiting.into_iter().for_each(|number| self.try_send(cx, number));
    }

    /// A message came to a link that is gone; `back` leads there.
    fn on_broken(&mut self, cx: &mut Context<'_, Self>, number: u64, back: &Route) {
        let Some(sending) = self.relaying.sends.get_mut(&number) else { return };
        let (broken, whole): (Vec<_>, Vec<_>) =
            std::mem::take(&mut sending.routes).into_iter().partition(|route| route.nodes().starts_with(back.nodes()));
        let (to, another) = (sending.to, whole.is_empty() && !broken.is_empty());
        sending.routes = whole;
        broken.iter().for_each(|route| self.relaying.drop_way(to, route));
        if another {
            self.try_send(cx, number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_is_remembered_for_a_while() {
        let (mut recent, mut relaying) = (Recent::default(), Relaying::default());
        for number in 0..5_000_u64 {
            assert!(recent.insert(number) && relaying.may_answer((NodeId(1), number)));
        }
        assert_eq!((recent.set.len(), recent.order.len(), relaying.answered.len()), (SEEN_MAX, SEEN_MAX, 64));
        assert!(!recent.insert(4_999) && recent.insert(0));
    }
}
