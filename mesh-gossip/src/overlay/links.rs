//! Links: asking for them, keeping them alive, and giving them up.

use std::time::Duration;

use mesh_core::{Context, Instant, NodeId, wire};

use super::command::{LinkDownCause, OverlayEvent};
use super::message::{Message, Need, PADDING, Peer};
use super::pace::Pace;
use super::view::{Asking, Link};
use super::{Overlay, Timer};
use crate::allowance::Allowance;

/// How long somebody who did not answer is left alone.
const REST_SILENT: Duration = Duration::from_secs(10);
/// How long somebody who had no room is left alone.
const REST_FULL: Duration = Duration::from_secs(2);
/// How long somebody who passes no beacons on gets no link.
const BARRED: Duration = Duration::from_secs(1800);
/// After so many rounds without a beacon from a neighbour it is given up.
const DARK_MAX: u32 = 4;
/// For so many periods of beacons no earned link goes to another who asks.
const SETTLED: u32 = 4;
/// For so many times an answer is waited for a new link stays, and one that was compared with may take another's.
const CHANCE: u32 = 4;
/// How many others are named to somebody for whom there is no room.
const OTHERS: usize = 2;
/// How far the news of a newcomer goes, and where on its way it is remembered.
const WALK: u8 = 6;
const WALK_REMEMBERED: u8 = 3;
/// How many nodes a sample has, how far it walks, and how long one in exchange is taken.
const SHUFFLED: usize = 6;
const SHUFFLE_WALK: u8 = 3;
const SHUFFLE_TIMEOUT: Duration = Duration::from_secs(5);
/// How many nodes a neighbour may name in a period of shuffles.
const NAMED: u32 = 24;
/// Each so many keepalives, the round trip is measured.
const PING_EACH: u32 = 16;
/// After so many rounds without any link, one must be given.
const ROUNDS_PATIENT: u32 = 3;

impl Overlay {
    pub(super) fn degree(&self) -> u8 {
        u8::try_from(self.view.links.len()).unwrap_or(u8::MAX)
    }

    /// Looks for links where there are too few, soon.
    pub(super) fn seek_soon(&mut self, cx: &mut Context<'_, Self>) {
        self.rounds = 0;
        let delay = cx.rng().duration_between(Duration::ZERO, self.config.ping_timeout / 16);
        cx.set_timer(Timer::SeekDue, delay);
    }

    /// Asks for as many links as are missing, and looks again later: the sooner the fewer there are.
    pub(super) fn seek(&mut self, cx: &mut Context<'_, Self>) {
        let (target, taken) = (self.view.target(&self.config), self.view.taken());
        let (wants_far, room) = (self.view.wants_far(), self.view.limit(&self.config).saturating_sub(taken));
        let missing = target.saturating_sub(taken).max(usize::from(wants_far && self.view.asking.is_empty()));
        let few = self.view.links.len() < self.config.degree_min.min(target);
        let need = match () {
            () if self.view.links.is_empty() && self.rounds >= ROUNDS_PATIENT => Need::Urgent,
            () if few || wants_far => Need::Required,
            () => Need::Spare,
        };
        for _ in 0..missing.min(room) {
            let now = cx.now();
            let Some(peer) = self.view.candidate(now, self.config.passive_max, cx.rng()) else { break };
            self.ask(cx, peer, need, None, true);
        }
        if self.view.links.len() < target || wants_far {
            let longest = if few { self.config.ping_timeout * 4 } else { self.config.ping_timeout * 64 };
            let delay = (self.config.ping_timeout * (1 << self.rounds.min(6))).min(longest);
            self.rounds += 1;
            let delay = cx.rng().duration_between(delay / 2, delay);
            cx.set_timer(Timer::SeekDue, delay);
        }
    }

    /// Asks for a link. `chosen`: nobody else brought that node up.
    pub(super) fn ask(
        &mut self,
        cx: &mut Context<'_, Self>,
        to: Peer,
        need: Need,
        instead_of: Option<NodeId>,
        chosen: bool,
    ) {
        if to.node == cx.me() || self.view.links.contains_key(&to.node) {
            return;
        }
        let chosen = chosen && self.view.is_member(to.node);
        self.view.asking.insert(to.node, Asking { zone: to.zone, at: cx.now(), instead_of, chosen });
        let newcomer = self.view.links.is_empty();
        let (zone, degree) = (self.config.zone, self.degree());
        cx.send(to.node, Message::Ask { zone, degree, need, newcomer, padding: [0; PADDING] });
        cx.set_timer(Timer::AskDue(to.node), self.config.ping_timeout);
    }

    /// No answer: it may be gone.
    pub(super) fn on_ask_due(&mut self, cx: &mut Context<'_, Self>, node: NodeId) {
        if self.view.asking.remove(&node).is_some() {
            self.view.rest(node, cx.now() + REST_SILENT);
            self.view.forget(node);
            self.seek(cx);
        }
    }

    pub(super) fn on_ask(&mut self, cx: &mut Context<'_, Self>, from: Peer, degree: u8, need: Need, newcomer: bool) {
        let accept = |overlay: &Self, instead_of| Message::Accept {
            zone: overlay.config.zone,
            degree: overlay.degree(),
            instead_of,
        };
        if let Some(link) = self.view.links.get(&from.node) {
            // It may ask twice, and the first question come late.
            let is_anew = newcomer && cx.now() >= link.pace.until();
            self.heard(cx, from.node, Some(degree));
            if is_anew {
                self.renew(cx, from);
            }
            cx.send(from.node, accept(self, None));
            if is_anew {
                self.show_beacon(cx, from.node);
                self.tell_of(cx, from);
            }
            return;
        }
        // Who loses its link and comes back again and again gets another at the same pace.
        let is_too_soon = self.view.pace(from.node).is_some_and(|pace| cx.now() < pace.until());
        if self.view.is_barred(from.node, cx.now()) || is_too_soon && !self.view.asking.contains_key(&from.node) {
            return cx.send(from.node, Message::Refuse { others: Vec::new() });
        }
        // Who asks each other at once has a place kept already.
        let asked = self.view.asking.get(&from.node).is_some_and(|asking| asking.instead_of.is_none());
        let chosen = self.view.asking.get(&from.node).is_some_and(|asking| asking.chosen);
        let near = matches!(need, Need::Nearer { .. });
        let mut instead_of = None;
        if !asked && self.view.taken() >= self.view.limit(&self.config) {
            let Some(victim) = self.victim_for(cx.now(), from, need) else {
                let others = self.view.sample(cx.rng(), OTHERS, from.node);
                let passive_max = self.config.passive_max;
                self.view.remember(from, passive_max, cx.rng());
                return cx.send(from.node, Message::Refuse { others });
            };
            instead_of =
                self.view.links.get(&victim).filter(|_| near).map(|link| Peer { node: victim, zone: link.zone });
            self.give_up_guest(cx, victim);
        }
        self.link(cx, from, degree, near, chosen);
        cx.send(from.node, accept(self, instead_of));
        if !near {
            // Who swaps links has seen the beacons of this island.
            self.show_beacon(cx, from.node);
        }
        if newcomer {
            self.tell_of(cx, from);
        }
    }

    /// Sends the news of a newcomer on its ways.
    fn tell_of(&self, cx: &mut Context<'_, Self>, newcomer: Peer) {
        let others: Vec<_> = self.view.links.keys().copied().filter(|node| *node != newcomer.node).collect();
        cx.broadcast(others, Message::Walk { newcomer, hops_left: WALK });
    }

    /// A neighbour has no links, so it started anew, or gave this one up: what it was told over it, it may not know.
    /// What is held against it stays, however often it asks. Each time costs this node and others: who says so again and
    /// again is believed half as often each time.
    fn renew(&mut self, cx: &mut Context<'_, Self>, Peer { node, zone }: Peer) {
        let Some(link) = self.view.links.get_mut(&node) else { return };
        (link.zone, link.pace) = (zone, link.pace.again(cx.now()));
        self.meter.links_lost.increment();
        cx.emit(OverlayEvent::LinkDown { node, cause: LinkDownCause::Forgotten });
        cx.emit(OverlayEvent::LinkUp { node, zone });
    }

    /// The link to give up for one who asks, if any: that of the guest, who may stay for a while first.
    pub(super) fn victim_for(&self, now: Instant, from: Peer, need: Need) -> Option<NodeId> {
        let far = from.zone != self.config.zone;
        let need = if far && self.view.wants_far() { need.max(Need::Required) } else { need };
        let (node, guest) = self.view.guest().filter(|(node, _)| far || !self.view.is_bridge(*node))?;
        let may_go = match need {
            Need::Spare => false,
            _ if !guest.earned => now.since(guest.since) >= self.config.ping_timeout * CHANCE,
            _ if now < self.settled && !self.invited(now, from.node) => false,
            Need::Nearer { micros } => self.farther_than(micros) == Some(node),
            Need::Required => usize::from(guest.degree) > self.config.degree_min,
            Need::Urgent => true,
        };
        may_go.then_some(node)
    }

    /// Whether this node has just compared beacons with another, which asks for a link if they differ.
    fn invited(&self, now: Instant, node: NodeId) -> bool {
        self.compared
            .is_some_and(|(compared, at)| compared == node && now.since(at) < self.config.ping_timeout * CHANCE)
    }

    /// Gives the guest's link up for one who asks.
    fn give_up_guest(&mut self, cx: &mut Context<'_, Self>, node: NodeId) {
        let earned = self.view.links.get(&node).is_some_and(|guest| guest.earned);
        self.give_up(cx, node, None);
        if earned {
            self.settle(cx);
        } else if self.island.is_lit() {
            self.view.bar(node, cx.now() + BARRED);
        }
    }

    /// For a while no earned link goes to another.
    pub(super) fn settle(&mut self, cx: &Context<'_, Self>) {
        self.settled = cx.now() + self.config.beacon * SETTLED;
    }

    /// A round of beacons begins: who passed none on in the last few is of no use.
    pub(super) fn on_round(&mut self, cx: &mut Context<'_, Self>) {
        let full_mesh = self.view.is_full_mesh(&self.config);
        let mut useless = Vec::new();
        for (node, link) in &mut self.view.links {
            link.dark = if link.shone { 0 } else { link.dark.saturating_add(1) };
            link.shone = false;
            if link.dark >= DARK_MAX && !full_mesh {
                useless.push(*node);
            }
        }
        for node in useless {
            cx.send(node, Message::Unlink { leaving: false, instead: None });
            self.unlink(cx, node, LinkDownCause::Useless);
            self.view.bar(node, cx.now() + BARRED);
        }
    }

    pub(super) fn on_accept(&mut self, cx: &mut Context<'_, Self>, from: Peer, degree: u8, instead_of: Option<Peer>) {
        if self.view.links.contains_key(&from.node) {
            return self.heard(cx, from.node, Some(degree));
        }
        let Some(asking) = self.view.asking.get(&from.node).copied() else {
            // It was too late, and the place may be taken.
            self.meter.strangers.increment();
            return cx.send(from.node, Message::Unlink { leaving: false, instead: None });
        };
        if let Some(old) = asking.instead_of {
            self.give_up(cx, old, instead_of);
        }
        let round_trip = cx.now().since(asking.at);
        self.link(cx, from, degree, asking.instead_of.is_some(), asking.chosen);
        if let Some(link) = self.view.links.get_mut(&from.node) {
            link.measured(round_trip);
        }
        self.show_beacon(cx, from.node);
    }

    pub(super) fn on_refuse(&mut self, cx: &mut Context<'_, Self>, from: NodeId, others: Vec<Peer>) {
        if self.view.asking.remove(&from).is_none() {
            return self.meter.strangers.increment();
        }
        cx.cancel_timer(Timer::AskDue(from));
        self.view.rest(from, cx.now() + REST_FULL);
        self.learn(cx, others);
        if self.view.taken() < self.config.degree_min {
            self.seek(cx);
        }
    }

    /// Remembers nodes that somebody named.
    pub(super) fn learn(&mut self, cx: &mut Context<'_, Self>, peers: Vec<Peer>) {
        for peer in peers {
            if peer.node != cx.me() && !self.view.links.contains_key(&peer.node) {
                self.view.remember(peer, self.config.passive_max, cx.rng());
            }
        }
        if self.view.links.len() < self.view.target(&self.config) && self.view.asking.is_empty() {
            self.seek_soon(cx);
        }
    }

    /// There is a link now.
    fn link(&mut self, cx: &mut Context<'_, Self>, Peer { node, zone }: Peer, degree: u8, near: bool, chosen: bool) {
        self.view.asking.remove(&node);
        cx.cancel_timer(Timer::AskDue(node));
        self.view.forget(node);
        let pace = self.view.take_pace(node).map_or_else(|| Pace::starting_at(cx.now()), |pace| pace.again(cx.now()));
        let link = Link {
            zone,
            degree,
            since: cx.now(),
            pace,
            chosen,
            earned: false,
            shone: false,
            dark: 0,
            heard: cx.now(),
            pings: 0,
            round_trip: None,
            near,
            floods: Allowance::default(),
            beacons: Allowance::default(),
            named: Allowance::default(),
            relays: Allowance::default(),
        };
        self.view.links.insert(node, link);
        self.rounds = 0;
        cx.set_timer(Timer::SilenceDue(node), self.config.silence());
        self.meter.links.set(self.view.links.len() as u64);
        cx.emit(OverlayEvent::LinkUp { node, zone });
    }

    /// There is a link no more.
    pub(super) fn unlink(&mut self, cx: &mut Context<'_, Self>, node: NodeId, cause: LinkDownCause) {
        let Some(link) = self.view.links.remove(&node) else { return };
        cx.cancel_timer(Timer::SilenceDue(node));
        match cause {
            LinkDownCause::GivenUp | LinkDownCause::Replaced => {
                self.view.rest(node, cx.now() + REST_FULL);
                self.view.remember(Peer { node, zone: link.zone }, self.config.passive_max, cx.rng());
            }
            _ => self.view.rest(node, cx.now() + REST_SILENT),
        }
        // What this node ended itself is held against nobody.
        if !matches!(cause, LinkDownCause::Replaced | LinkDownCause::Removed) {
            self.view.keep_pace(node, link.pace);
        }
        self.meter.links.set(self.view.links.len() as u64);
        self.meter.links_lost.increment();
        cx.emit(OverlayEvent::LinkDown { node, cause });
        self.seek_soon(cx);
    }

    /// Gives a link up for another one.
    fn give_up(&mut self, cx: &mut Context<'_, Self>, node: NodeId, instead: Option<Peer>) {
        if self.view.links.contains_key(&node) {
            cx.send(node, Message::Unlink { leaving: false, instead });
            self.unlink(cx, node, LinkDownCause::Replaced);
        }
    }

    pub(super) fn on_unlink(&mut self, cx: &mut Context<'_, Self>, from: NodeId, leaving: bool, instead: Option<Peer>) {
        let was_linked = self.view.links.contains_key(&from);
        self.unlink(cx, from, if leaving { LinkDownCause::Left } else { LinkDownCause::GivenUp });
        if self.view.asking.remove(&from).is_some() {
            cx.cancel_timer(Timer::AskDue(from));
        }
        if leaving {
            self.view.forget(from);
        }
        if was_linked {
            // Who takes links and gives them up in turn must not have this node tell of it each time.
            let until = self.view.pace(from).map_or(Instant::ZERO, Pace::until);
            self.view.bar(from, until.max(cx.now() + REST_FULL));
        }
        if let Some(peer) = instead.filter(|peer| was_linked && self.view.is_free(peer.node))
            && self.view.taken() < self.view.limit(&self.config)
        {
            self.ask(cx, peer, Need::Spare, None, false);
        }
    }

    /// A neighbour works, and perhaps says how many links it has.
    pub(super) fn heard(&mut self, cx: &Context<'_, Self>, node: NodeId, degree: Option<u8>) {
        if let Some(link) = self.view.links.get_mut(&node) {
            link.heard = cx.now();
            link.degree = degree.unwrap_or(link.degree);
        }
    }

    pub(super) fn on_keepalive_due(&mut self, cx: &mut Context<'_, Self>) {
        cx.set_timer(Timer::KeepaliveDue, self.config.keepalive);
        self.keepalives = self.keepalives.wrapping_add(1);
        let neighbours: Vec<_> = self.view.links.keys().copied().collect();
        if neighbours.is_empty() {
            return;
        }
        let message = if self.keepalives.is_multiple_of(PING_EACH) {
            self.ping(cx)
        } else {
            Message::Alive { degree: self.degree() }
        };
        cx.broadcast(neighbours, message);
    }

    /// A question whose answer tells the round trip, if it is not asked again before. Its number is drawn at random,
    /// so that nobody answers it before it came.
    pub(super) fn ping(&mut self, cx: &mut Context<'_, Self>) -> Message {
        self.pinged = (cx.rng().next_u64() as u32, cx.now());
        Message::Ping { number: self.pinged.0 }
    }

    pub(super) fn on_pong(&mut self, cx: &mut Context<'_, Self>, from: NodeId, number: u32, degree: u8) {
        self.heard(cx, from, Some(degree));
        let (last, at) = self.pinged;
        if number != last {
            return;
        }
        let round_trip = cx.now().since(at);
        match self.view.links.get_mut(&from) {
            Some(link) => link.measured(round_trip),
            None => self.on_measured(cx, from, round_trip),
        }
    }

    /// Nothing was heard of a neighbour for long: it is asked a few times, then given up.
    pub(super) fn on_silence_due(&mut self, cx: &mut Context<'_, Self>, node: NodeId) {
        let (silence, pings_max) = (self.config.silence(), self.config.pings);
        let Some(link) = self.view.links.get_mut(&node) else { return };
        let silent = cx.now().since(link.heard);
        if silent < silence {
            link.pings = 0;
            cx.set_timer(Timer::SilenceDue(node), silence.saturating_sub(silent));
        } else if link.pings < pings_max {
            link.pings += 1;
            let ping = self.ping(cx);
            cx.send(node, ping);
            cx.set_timer(Timer::SilenceDue(node), self.config.ping_timeout);
        } else {
            cx.send(node, Message::Unlink { leaving: false, instead: None });
            self.unlink(cx, node, LinkDownCause::Silent);
        }
    }

    /// News of somebody who joined: remembered on the way, and offered a link at its end.
    pub(super) fn on_walk(&mut self, cx: &mut Context<'_, Self>, from: NodeId, newcomer: Peer, hops_left: u8) {
        if newcomer.node == cx.me() || !self.may_flood(cx, from) {
            return;
        }
        let hops_left = hops_left.min(WALK);
        if hops_left == WALK_REMEMBERED && self.may_name(cx, from, 1) {
            self.learn(cx, vec![newcomer]);
        }
        let next = self.view.neighbour(cx.rng(), from).filter(|_| hops_left > 0);
        match next.filter(|next| *next != newcomer.node) {
            Some(next) => cx.send(next, Message::Walk { newcomer, hops_left: hops_left - 1 }),
            None if self.view.taken() < self.view.limit(&self.config) && self.view.is_free(newcomer.node) => {
                self.ask(cx, newcomer, Need::Spare, None, false);
            }
            None => {}
        }
    }

    /// Sends a sample of the view on a walk, so that all views stay fresh and random.
    pub(super) fn on_shuffle_due(&mut self, cx: &mut Context<'_, Self>) {
        let delay = cx.rng().duration_between(self.config.shuffle / 2, self.config.shuffle * 3 / 2);
        cx.set_timer(Timer::ShuffleDue, delay);
        let me = cx.me();
        if let Some(to) = self.view.neighbour(cx.rng(), me) {
            self.shuffling = cx.now() + SHUFFLE_TIMEOUT;
            let mut sample = self.view.sample(cx.rng(), SHUFFLED - 1, to);
            sample.push(Peer { node: me, zone: self.config.zone });
            cx.send(to, Message::Shuffle { origin: me, hops_left: SHUFFLE_WALK, sample });
        }
    }

    pub(super) fn on_shuffle(
        &mut self,
        cx: &mut Context<'_, Self>,
        from: NodeId,
        origin: NodeId,
        hops_left: u8,
        mut sample: Vec<Peer>,
    ) {
        sample.truncate(SHUFFLED);
        if origin == cx.me() || !self.may_flood(cx, from) || !self.may_name(cx, from, sample.len()) {
            return;
        }
        let next = self.view.neighbour(cx.rng(), from).filter(|next| hops_left > 0 && *next != origin);
        if let Some(next) = next {
            let hops_left = hops_left.min(SHUFFLE_WALK) - 1;
            return cx.send(next, Message::Shuffle { origin, hops_left, sample });
        }
        // Little more than what came, so that nobody is made to send much to one who did not ask.
        let mut answer = self.view.sample(cx.rng(), sample.len(), origin);
        while wire::to_bytes(&answer).len() > wire::to_bytes(&sample).len() * 2 {
            answer.pop();
        }
        cx.send(origin, Message::Shuffled { sample: answer });
        self.learn(cx, sample);
    }

    /// Whether a neighbour may name so many more nodes.
    fn may_name(&mut self, cx: &Context<'_, Self>, from: NodeId, nodes: usize) -> bool {
        let (now, period) = (cx.now(), self.config.shuffle);
        let nodes = u32::try_from(nodes).unwrap_or(u32::MAX);
        let may = self.view.links.get_mut(&from).is_some_and(|link| link.named.take_some(now, period, nodes, NAMED));
        if !may {
            self.meter.refused.increment();
        }
        may
    }
}
