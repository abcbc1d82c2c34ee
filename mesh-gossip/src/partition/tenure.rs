//! The coordinator's part: claims, promises counted, leases granted, and who votes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mesh_core::{Context, Instant, NodeId};

use super::command::PartitionEvent;
use super::config::Strategy;
use super::message::{Claim, Message, Promise, Refuse};
use super::voters::{Configuration, Electorate, Version, digest_of};
use super::{Backing, Partition, Timer};

/// While a node has claimed for no longer than so many beats, it claims so many times as often.
const HASTE: u32 = 4;

/// The time in which a node coordinates, or tries to.
#[derive(Clone, Debug)]
pub(super) struct Tenure {
    pub(super) term: u64,
    since: Instant,
    supporters: BTreeMap<NodeId, Supporter>,
    /// Until when somebody may go on by a lease of this node.
    granted_until: Instant,
    /// More nodes are known than a static quorum allows, and that was told.
    too_small_told: bool,
}

/// A node that promised to help no other.
#[derive(Clone, Copy, Debug)]
struct Supporter {
    /// Until when, at least.
    until: Instant,
    term: u64,
    version: Option<Version>,
    view: u64,
    age: u32,
    joins: bool,
    /// When it sent its promise, by its clock.
    sent: u64,
}

impl Tenure {
    /// Whether somebody may go on by a lease of this node.
    pub(super) fn is_active(&self, now: Instant) -> bool {
        now < self.granted_until
    }
}

impl Partition {
    /// Nobody coordinates: this node tries to.
    pub(super) fn claim(&mut self, cx: &mut Context<'_, Self>) {
        self.term += 1;
        self.meter.terms.increment();
        self.backing = Backing { term: self.term, to: cx.me(), until: Instant::ZERO };
        self.wish += 1;
        self.tenure = Some(Tenure {
            term: self.term,
            since: cx.now(),
            supporters: BTreeMap::new(),
            granted_until: Instant::ZERO,
            too_small_told: false,
        });
        cx.cancel_timer(Timer::Election);
        self.on_beat(cx);
    }

    /// Renews the leases, as far as promises carry them, and asks for new promises.
    pub(super) fn on_beat(&mut self, cx: &mut Context<'_, Self>) {
        let now = cx.now();
        if self.tenure.is_none() {
            return;
        }
        self.change_configuration(now);
        self.ask_for_lease(cx);
        let until = self.carried_until(cx);
        let Some(tenure) = &mut self.tenure else { return };
        tenure.granted_until = tenure.granted_until.max(until);
        if now.since(tenure.granted_until.max(tenure.since)) > self.config.lease + self.config.stable_after {
            // Another may do better: reach more, or the service that gives the lease.
            self.give_up(cx);
            let at_random = cx.rng().duration_between(self.config.beat_interval, self.config.lease);
            return cx.set_timer(Timer::Election, at_random);
        }
        let claim = Claim {
            term: tenure.term,
            sent: self.clock.write(now),
            configuration: self.configuration,
            promised: 0,
            valid: until.since(now),
        };
        let hasty = !tenure.is_active(now) && now.since(tenure.since) < HASTE * self.config.beat_interval;
        let after = if hasty { self.config.beat_interval / HASTE } else { self.config.beat_interval };
        tenure.supporters.retain(|node, supporter| supporter.until > now && self.view.knows(*node));
        let all: BTreeSet<_> =
            self.view.reachable().chain(self.rolls.nodes()).filter(|node| *node != cx.me()).collect();
        for node in all {
            let promised = tenure.supporters.get(&node).map_or(0, |supporter| supporter.sent);
            cx.send(node, Message::Claim(Claim { promised, ..claim }));
        }
        cx.set_timer(Timer::Beat, after);
        self.permit(cx, cx.me(), until);
    }

    pub(super) fn on_promise(&mut self, cx: &mut Context<'_, Self>, from: NodeId, promise: &Promise) {
        let (now, lease) = (cx.now(), self.shortened(self.config.lease));
        let claimed = self.clock.read(promise.claimed, now, self.config.lease);
        let Some(tenure) = &mut self.tenure else { return };
        // Counted from when it was asked for: the promise itself runs from when that was heard, which was later.
        let (Some(claimed), true) = (claimed, promise.term <= tenure.term) else { return };
        let supporter = Supporter {
            until: claimed + lease,
            term: promise.term,
            version: promise.version,
            view: promise.view,
            age: promise.age,
            joins: promise.joins,
            sent: promise.sent,
        };
        if let Some(voters) = promise.asks.and_then(|(digest, first)| self.rolls.answer(digest, first)) {
            cx.send(from, Message::Voters(voters));
        }
        let known = tenure.supporters.entry(from).or_insert(supporter);
        if supporter.until >= known.until {
            *known = supporter;
        }
    }

    pub(super) fn on_refuse(&mut self, cx: &mut Context<'_, Self>, refuse: &Refuse) {
        if self.is_beyond_belief(refuse.term, refuse.configuration) {
            return self.meter.refused.increment();
        }
        let Some(tenure) = &self.tenure else { return };
        if refuse.term < tenure.term && refuse.configuration.map(|known| known.version) <= self.version() {
            return;
        }
        let is_active = tenure.is_active(cx.now());
        self.term = self.term.max(refuse.term);
        if let Some(newer) = refuse.configuration {
            self.adopt(newer, false);
        }
        if is_active {
            return self.raise_term(cx.me());
        }
        self.give_up(cx);
        let at_random = cx.rng().duration_between(Duration::ZERO, self.config.beat_interval);
        // Who may not take over what others know of voters leaves it to them to claim.
        let is_behind = refuse.configuration.map(|known| known.version) > self.version();
        cx.set_timer(Timer::Election, at_random + if is_behind { self.config.lease } else { Duration::ZERO });
    }

    /// Others have heard of later terms, but nobody else can coordinate while this node's leases run: it goes on in a
    /// later term itself. Promises count on; votes on who votes have to be given anew.
    pub(super) fn raise_term(&mut self, me: NodeId) {
        self.term += 1;
        self.meter.terms.increment();
        self.backing = Backing { term: self.term, to: me, until: Instant::ZERO };
        if let Some(tenure) = &mut self.tenure {
            tenure.term = self.term;
        }
    }

    /// Ends a tenure in which nobody goes on by a lease of this node, and lets those go who help it.
    pub(super) fn give_up(&mut self, cx: &mut Context<'_, Self>) {
        let Some(tenure) = self.tenure.take() else { return };
        for node in tenure.supporters.into_keys() {
            cx.send(node, Message::Release { term: tenure.term });
        }
        cx.cancel_timer(Timer::Beat);
        if self.config.strategy == Strategy::Lease {
            self.leased_until = Instant::ZERO;
            cx.emit(PartitionEvent::LeaseUnneeded { wish: self.wish });
        }
    }

    /// Until when there is a quorum of promises, at least.
    fn carried_until(&mut self, cx: &mut Context<'_, Self>) -> Instant {
        let now = cx.now();
        let Some(tenure) = &self.tenure else { return Instant::ZERO };
        let own = now + self.shortened(self.config.lease);
        match self.config.strategy {
            Strategy::Lease => self.leased_until.min(own),
            Strategy::StaticQuorum { quorum } => {
                let known = self.view.known_len() + 1;
                let too_small = known > quorum.saturating_mul(2).saturating_sub(1);
                if too_small && !tenure.too_small_told {
                    cx.emit(PartitionEvent::QuorumTooSmall { known, quorum });
                }
                let mut untils: Vec<_> = tenure.supporters.values().map(|supporter| supporter.until).collect();
                untils.push(own);
                untils.sort_unstable_by(|a, b| b.cmp(a));
                let until = untils.get(quorum.saturating_sub(1)).copied().filter(|_| !too_small);
                if let Some(tenure) = &mut self.tenure {
                    tenure.too_small_told = too_small;
                }
                until.unwrap_or(Instant::ZERO)
            }
            Strategy::KeepMajority | Strategy::KeepOldest { .. } | Strategy::DownAll => {
                let mut untils: Vec<_> = tenure.supporters.values().map(|supporter| supporter.until).collect();
                untils.push(own);
                untils.sort_unstable();
                untils.dedup();
                // The sooner a moment, the more promises last until then: the last one with a quorum is looked for.
                let carried = untils.partition_point(|until| self.is_carried(*until));
                carried.checked_sub(1).and_then(|last| untils.get(last)).copied().unwrap_or(Instant::ZERO)
            }
        }
    }

    /// Whether promises that last until then are a quorum of all groups of voters that count.
    fn is_carried(&self, until: Instant) -> bool {
        let Some(configuration) = self.configuration else { return false };
        configuration.electorates().all(|electorate| {
            let voters = self.rolls.get(electorate.digest);
            voters.is_some_and(|voters| self.is_quorum(electorate, voters, |supporter| supporter.until >= until))
        })
    }

    fn is_quorum(
        &self,
        electorate: Electorate,
        voters: &BTreeSet<NodeId>,
        counts: impl Fn(&Supporter) -> bool,
    ) -> bool {
        let Some(tenure) = &self.tenure else { return false };
        let helps = |node: NodeId| node == self.me || tenure.supporters.get(&node).is_some_and(&counts);
        // Who started anew has forgotten what it knew of later voters. If all voters are here, it was told of none.
        let all = voters.iter().all(|node| helps(*node));
        let remembers =
            |node: NodeId| all || node == self.me || tenure.supporters.get(&node).is_some_and(|s| s.version.is_some());
        self.config.strategy.is_quorum(voters, electorate.oldest, |node| helps(node) && remembers(node))
    }

    /// Takes the next step from the voters there are to those who can be reached, by joint consensus (Raft 6).
    ///
    /// A step needs promises of this very term, so that terms number configurations without doubt; and promises that
    /// last as long as leases granted so far, so that these cannot outlast the quorum they stand on.
    fn change_configuration(&mut self, now: Instant) {
        let Some(tenure) = self.tenure.as_ref().filter(|_| self.config.strategy.has_voters()) else { return };
        let (term, floor) = (tenure.term, tenure.granted_until.max(now));
        let in_term = |supporter: &Supporter| supporter.term == term && supporter.until >= floor;
        let stable = self.view.is_stable(now, self.config.stable_after);
        let view = self.view.digest();
        let Some(configuration) = self.configuration else {
            return if stable {
                self.found(now)
            };
        };
        let roll = |electorate: &Electorate| self.rolls.get(electorate.digest);
        let version = Version { term, step: configuration.version.step.saturating_add(1) };
        if let Some(next) = configuration.next {
            let has_heard = |s: &Supporter| in_term(s) && s.version >= Some(configuration.version);
            let carried = configuration.electorates().all(|electorate| {
                roll(&electorate).is_some_and(|voters| self.is_quorum(electorate, voters, has_heard))
            });
            if carried {
                self.configure(Configuration { version, current: next, next: None });
            }
            return;
        }
        if !stable || view == configuration.current.digest || !tenure.is_active(now) {
            return;
        }
        let voters = self.view.to_set();
        let next = Electorate { digest: view, oldest: self.oldest_of(&voters, Some(configuration.current.oldest)) };
        let agrees = |supporter: &Supporter| in_term(supporter) && supporter.view == view;
        let of_current =
            roll(&configuration.current).is_some_and(|roll| self.is_quorum(configuration.current, roll, agrees));
        if of_current && self.is_quorum(next, &voters, agrees) {
            self.rolls.insert(view, voters);
            self.configure(Configuration { version, next: Some(next), ..configuration });
        }
    }

    /// Makes those who can be reached the first voters, but for those who join, if all say that they reach the same and
    /// know of no voters.
    fn found(&mut self, now: Instant) {
        let Some(tenure) = &self.tenure else { return };
        let (term, view) = (tenure.term, self.view.digest());
        let mut voters = BTreeSet::from([self.me]);
        for node in self.view.reachable() {
            let Some(supporter) = tenure.supporters.get(&node) else { return };
            let agrees = supporter.until > now && supporter.term == term && supporter.view == view;
            if !agrees || supporter.version.is_some() {
                return;
            }
            if !supporter.joins {
                voters.insert(node);
            }
        }
        if voters.len() >= self.config.founders {
            let current = Electorate { digest: digest_of(&voters), oldest: self.oldest_of(&voters, None) };
            self.rolls.insert(current.digest, voters);
            self.configure(Configuration { version: Version { term, step: 1 }, current, next: None });
        }
    }

    /// The oldest of some nodes: who was it before, if it is among them, else who has been running for longest.
    fn oldest_of(&self, nodes: &BTreeSet<NodeId>, before: Option<NodeId>) -> NodeId {
        let age = |node: &NodeId| {
            let supporter = self.tenure.as_ref().and_then(|tenure| tenure.supporters.get(node));
            if *node == self.me { self.age } else { supporter.map_or(0, |supporter| supporter.age) }
        };
        let eldest = || nodes.iter().rev().max_by_key(|node| age(node)).copied().unwrap_or(self.me);
        before.filter(|node| nodes.contains(node)).unwrap_or_else(eldest)
    }

    /// Asks the service outside for the lease: at once where at least half of the nodes are here, else later.
    fn ask_for_lease(&self, cx: &mut Context<'_, Self>) {
        let Some(tenure) = self.tenure.as_ref().filter(|_| self.config.strategy == Strategy::Lease) else { return };
        let helped = 2 * (tenure.supporters.len() + 1) > self.view.known_len();
        if helped || cx.now().since(tenure.since) >= self.config.stable_after {
            cx.emit(PartitionEvent::LeaseWanted { wish: self.wish });
        }
    }
}
