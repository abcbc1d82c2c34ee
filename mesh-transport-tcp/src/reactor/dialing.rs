//! Peers as a whole: who is dialed when, what becomes of a link, and who tells whom of whom.

use std::net::SocketAddr;
use std::time::Duration;

use mesh_core::{Instant, NodeId, PeerStatus};
use mio::Token;
use mio::net::TcpStream;

use super::{OUTPUT_TARGET, Origin, Reactor, Timer};
use crate::link::{Link, LinkError};
use crate::queue::{Route, lock};

/// The most peers a newcomer is told of; those with a link come first.
const TOLD_MAX: usize = 512;

/// How long a peer that has moved is left alone. Not zero: where it lives is also hearsay, which
/// must not make this node dial all the time.
const MOVED_PAUSE: Duration = Duration::from_millis(50);

impl Reactor {
    /// Does what the address book says since it was last looked at.
    pub(super) fn follow_book(&mut self, now: Instant) {
        let version = self.shared.book.watch(self.book_seen, &self.book_waker);
        if version == self.book_seen && version > 0 || self.closing {
            return;
        }
        // Whatever changes from here on wakes the thread again.
        self.book_seen = version;
        self.shared.book.watch(version, &self.book_waker);
        self.pinned = self.shared.book.pinned();
        for peer in &self.pinned {
            self.peers.entry(*peer).or_default();
        }
        for peer in self.peers.keys().copied().collect::<Vec<_>>() {
            self.reconsider(peer, now);
        }
        let seeds = self.shared.book.seeds();
        self.seeds.retain(|seed, _| seeds.contains(seed));
        for seed in seeds {
            self.seeds.entry(seed).or_default();
            self.dial_seed(seed, now);
        }
    }

    /// A peer without a link may have been pinned, or have moved.
    fn reconsider(&mut self, peer: NodeId, now: Instant) {
        let Some(state) = self.peers.get_mut(&peer) else { return };
        if !state.links.is_empty() || state.dialer.dialing.is_some() {
            return;
        }
        if self.shared.book.addresses(peer) != state.dialer.addresses {
            state.dialer.not_before = state.dialer.not_before.min(now + MOVED_PAUSE);
            state.dialer.backoff.reset();
        }
        if self.pinned.contains(&peer) || state.has_frames {
            self.want(peer, now);
        }
    }

    /// Dials `peer` unless that goes on already or has to wait.
    pub(super) fn want(&mut self, peer: NodeId, now: Instant) {
        let dialer = &self.peers.entry(peer).or_default().dialer;
        if dialer.dialing.is_some() || self.closing {
            return;
        }
        if now < dialer.not_before {
            self.timers.set(Timer::Peer(peer), dialer.not_before);
        } else {
            self.dial_peer(peer, now);
        }
    }

    /// The pause of a peer is over: it is dialed if anybody wants it, else forgotten.
    pub(super) fn redial(&mut self, peer: NodeId, now: Instant) {
        let Some(state) = self.peers.get(&peer) else { return };
        if !state.links.is_empty() || state.dialer.dialing.is_some() {
            return;
        }
        if self.pinned.contains(&peer) || state.has_frames {
            self.want(peer, now);
        } else {
            self.peers.remove(&peer);
            lock(&self.shared.outbound).forget(peer);
        }
    }

    /// Tries the next address of `peer`, and those after it while they fail at once.
    fn dial_peer(&mut self, peer: NodeId, now: Instant) {
        let all = self.shared.book.addresses(peer);
        let dialer = &mut self.peers.entry(peer).or_default().dialer;
        if dialer.addresses != all {
            (dialer.next_address, dialer.addresses) = (0, all);
        }
        while let Some(address) = dialer.addresses.get(dialer.next_address).copied() {
            dialer.next_address += 1;
            if self.own.contains(&address) || !self.links.allows(peer) {
                continue;
            }
            lock(&self.shared.outbound).set_route(peer, Route::Dialing);
            let dialed = self.dial(address, Some(peer), Origin::DialedPeer(peer), now);
            let dialer = &mut self.peers.entry(peer).or_default().dialer;
            if let Ok(token) = dialed {
                dialer.dialing = Some(token);
                return;
            }
            return self.dial_peer(peer, now);
        }
        dialer.next_address = 0;
        self.pause(peer, now);
    }

    /// Waits before `peer` is dialed again; until then there is no way to it.
    fn pause(&mut self, peer: NodeId, now: Instant) {
        let (min, max) = (self.config.backoff_min, self.config.backoff_max);
        let state = self.peers.entry(peer).or_default();
        state.has_frames = false;
        state.dialer.not_before = now + state.dialer.backoff.next(min, max, &mut self.rng);
        self.timers.set(Timer::Peer(peer), state.dialer.not_before);
        if std::mem::take(&mut state.told_connected) {
            self.shared.tell(peer, PeerStatus::Disconnected);
        }
        let dropped = lock(&self.shared.outbound).set_route(peer, Route::Down);
        self.shared.counters.dropped_unreachable.add(dropped as u64);
    }

    fn dial(
        &mut self,
        address: SocketAddr,
        expected: Option<NodeId>,
        origin: Origin,
        now: Instant,
    ) -> Result<Token, LinkError> {
        self.shared.counters.dialed.one();
        let token = self.next_token();
        let dialed = Link::dial(&self.links, expected, now).and_then(|link| {
            let stream = TcpStream::connect(address)?;
            self.register(token, stream, link, origin, address, now)
        });
        if dialed.is_err() {
            self.shared.counters.dials_failed.one();
        }
        dialed.map(|()| token)
    }

    /// A connection that was dialed to `peer` is gone.
    pub(super) fn on_dial_over(&mut self, peer: NodeId, token: Token, now: Instant) {
        let Some(state) = self.peers.get_mut(&peer).filter(|state| state.dialer.dialing == Some(token)) else {
            return;
        };
        state.dialer.dialing = None;
        self.shared.counters.dials_failed.one();
        if state.links.is_empty() && !self.closing {
            self.dial_peer(peer, now);
        }
    }

    /// Dials a seed unless it is known who lives there.
    pub(super) fn dial_seed(&mut self, address: SocketAddr, now: Instant) {
        let Some(seed) = self.seeds.get(&address) else { return };
        if seed.settled || seed.dialer.dialing.is_some() || self.own.contains(&address) || self.closing {
            return;
        }
        if now < seed.dialer.not_before {
            return self.timers.set(Timer::Seed(address), seed.dialer.not_before);
        }
        match self.dial(address, None, Origin::DialedSeed(address), now) {
            Ok(token) => self.seeds.entry(address).or_default().dialer.dialing = Some(token),
            Err(_) => self.pause_seed(address, now),
        }
    }

    fn pause_seed(&mut self, address: SocketAddr, now: Instant) {
        let (min, max) = (self.config.backoff_min, self.config.backoff_max);
        if let Some(seed) = self.seeds.get_mut(&address) {
            seed.dialer.not_before = now + seed.dialer.backoff.next(min, max, &mut self.rng);
            self.timers.set(Timer::Seed(address), seed.dialer.not_before);
        }
    }

    /// A connection that was dialed to a seed is gone.
    pub(super) fn on_seed_over(&mut self, address: SocketAddr, token: Token, now: Instant) {
        let Some(seed) = self.seeds.get_mut(&address).filter(|seed| seed.dialer.dialing == Some(token)) else {
            return;
        };
        seed.dialer.dialing = None;
        self.shared.counters.dials_failed.one();
        self.pause_seed(address, now);
    }

    /// A node that lost all its links asks the seeds again.
    fn ask_seeds_again(&mut self, now: Instant) {
        for seed in self.seeds.values_mut() {
            seed.settled = false;
        }
        for address in self.seeds.keys().copied().collect::<Vec<_>>() {
            self.dial_seed(address, now);
        }
    }

    /// A peer has proved who it is and said hello.
    pub(super) fn on_established(&mut self, token: Token, peer: NodeId, addresses: Vec<SocketAddr>, now: Instant) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        (connection.established, connection.used) = (now, now);
        let (origin, remote) = (connection.origin, connection.remote);
        self.shared.counters.established.one();
        match origin {
            Origin::Accepted => self.door.proved(token),
            Origin::DialedPeer(_) => {}
            Origin::DialedSeed(address) => {
                let seed = self.seeds.entry(address).or_default();
                seed.settled = true;
                seed.dialer.dialing = None;
                seed.dialer.backoff.reset();
            }
        }
        if !self.make_room(token, now) {
            self.shared.counters.refused_connection_limit.one();
            return self.drop_connection(token, now);
        }
        self.add_link(token, peer, now);
        self.exchange_addresses(token, peer, addresses, origin != Origin::Accepted, remote);
    }

    fn add_link(&mut self, token: Token, peer: NodeId, now: Instant) {
        let me = self.links.me();
        let state = self.peers.entry(peer).or_default();
        let surplus = state.add_link(token, me, peer);
        state.has_frames = true;
        state.dialer.next_address = 0;
        // A dial of our own that is still under way goes on: the other end may count on it already.
        state.dialer.dialing.take_if(|dialing| *dialing == token);
        lock(&self.shared.outbound).set_route(peer, Route::Up);
        if !std::mem::replace(&mut state.told_connected, true) {
            self.shared.tell(peer, PeerStatus::Connected);
        }
        for surplus in surplus {
            self.shared.counters.closed_duplicates.one();
            if let Some(connection) = self.connections.get_mut(&surplus) {
                connection.link.finish(now);
                self.ready.insert(surplus);
            }
        }
    }

    /// Learns where a peer says it is, and passes on what is known.
    fn exchange_addresses(
        &mut self,
        token: Token,
        peer: NodeId,
        mut addresses: Vec<SocketAddr>,
        was_dialed: bool,
        remote: SocketAddr,
    ) {
        for address in &mut addresses {
            if address.ip().is_unspecified() {
                address.set_ip(remote.ip());
            }
        }
        if addresses.is_empty() && was_dialed {
            addresses.push(remote);
        }
        let is_news = self.shared.book.announced(peer, addresses.clone());
        if !self.config.peer_exchange {
            return;
        }
        let mut known = self.shared.book.first_hand();
        known.retain(|(other, _)| *other != peer && self.links.allows(*other));
        known.sort_by_key(|(other, _)| self.peers.get(other).is_none_or(|state| state.links.is_empty()));
        known.truncate(TOLD_MAX);
        self.tell(token, &known);
        if is_news {
            let others = self.peers.iter().filter(|(other, _)| **other != peer);
            let links: Vec<Token> = others.filter_map(|(_, state)| state.link()).collect();
            for link in links {
                self.tell(link, &[(peer, addresses.clone())]);
            }
        }
    }

    fn tell(&mut self, token: Token, known: &[(NodeId, Vec<SocketAddr>)]) {
        if let Some(connection) = self.connections.get_mut(&token)
            && !known.is_empty()
            && connection.link.output_len() < OUTPUT_TARGET
            && connection.link.send_peers(known).is_ok()
        {
            self.ready.insert(token);
        }
    }

    /// Somebody told where others are. It may be wrong, so it is tried last and not passed on.
    pub(super) fn on_peers(&self, peers: Vec<(NodeId, Vec<SocketAddr>)>) {
        if !self.config.peer_exchange {
            return;
        }
        for (peer, addresses) in peers {
            if peer != self.links.me() && self.links.allows(peer) {
                self.shared.book.told(peer, addresses);
            }
        }
    }

    /// Keeps the number of links at the limit; false when the newcomer has to go.
    fn make_room(&mut self, newcomer: Token, now: Instant) -> bool {
        let links = self.connections.iter().filter(|(_, connection)| connection.link.is_established());
        if links.clone().count() <= self.config.connections_max {
            return true;
        }
        let unpinned = links.filter(|(token, connection)| {
            **token != newcomer && connection.link.peer().is_some_and(|peer| !self.pinned.contains(&peer))
        });
        let Some((oldest, _)) = unpinned.min_by_key(|(_, connection)| connection.used) else { return false };
        let oldest = *oldest;
        self.shared.counters.closed_least_recently_used.one();
        if let Some(connection) = self.connections.get_mut(&oldest) {
            connection.link.finish(now);
            self.ready.insert(oldest);
        }
        self.unlink(oldest, now);
        true
    }

    /// A link carries frames no more; its connection may still be there to say goodbye.
    pub(super) fn unlink(&mut self, token: Token, now: Instant) {
        let Some(connection) = self.connections.get(&token) else { return };
        let Some(peer) = connection.link.peer() else { return };
        let lasted = now - connection.established;
        let Some(state) = self.peers.get_mut(&peer) else { return };
        if !state.remove_link(token) {
            self.ready.extend(state.link());
            return;
        }
        // Whoever lets us in only to close at once is not asked at once again.
        if lasted > self.config.backoff_max {
            state.dialer.backoff.reset();
        }
        // The other end may have given this link up for the one that is being dialed.
        if state.dialer.dialing.is_some() {
            lock(&self.shared.outbound).set_route(peer, Route::Dialing);
        } else {
            self.pause(peer, now);
        }
        if !self.closing && self.peers.values().all(|state| state.links.is_empty()) {
            self.ask_seeds_again(now);
        }
    }
}
