//! What a node knows of others: its links, those it asks for one, and those it could ask.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use mesh_core::{Instant, NodeId, Rng64};

use super::config::OverlayConfig;
use super::message::Peer;
use super::pace::Pace;
use crate::allowance::Allowance;

/// How many nodes are remembered that are better not asked for a while, and how many that had links.
const RESTING_MAX: usize = 256;
const PACES_MAX: usize = 256;

/// How often a random member is drawn before all are looked through.
const DRAWS: usize = 8;

/// A neighbour.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    pub(super) zone: u16,
    /// How many links it has, as it said last.
    pub(super) degree: u8,
    /// When there was a link.
    pub(super) since: Instant,
    /// When that was last told: again where it started anew.
    pub(super) pace: Pace,
    /// Whether this node chose it among the members that the application named.
    pub(super) chosen: bool,
    /// Whether it ever passed a beacon on.
    pub(super) earned: bool,
    /// Whether it did in this round of beacons, and how many rounds it has not until now.
    pub(super) shone: bool,
    pub(super) dark: u32,
    /// When it was last heard of.
    pub(super) heard: Instant,
    /// How many questions it has not answered.
    pub(super) pings: u32,
    pub(super) round_trip: Option<Duration>,
    /// Whether it was chosen for being near.
    pub(super) near: bool,
    pub(super) floods: Allowance,
    /// Apart from that of searches: a neighbour that passes many on is not to lose its link for it.
    pub(super) beacons: Allowance,
    /// How many nodes it named.
    pub(super) named: Allowance,
    pub(super) relays: Allowance,
}

impl Link {
    /// Takes one more round trip into account.
    pub(super) fn measured(&mut self, round_trip: Duration) {
        self.round_trip = Some(self.round_trip.map_or(round_trip, |before| (before * 3 + round_trip) / 4));
    }
}

/// Somebody who is asked for a link.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asking {
    pub(super) zone: u16,
    pub(super) at: Instant,
    /// The link that is given up for this one.
    pub(super) instead_of: Option<NodeId>,
    /// Whether nobody else brought it up.
    pub(super) chosen: bool,
}

/// Somebody who is better not asked for a while.
#[derive(Clone, Copy, Debug)]
struct Resting {
    node: NodeId,
    until: Instant,
    /// Whether it may not ask either.
    barred: bool,
}

#[derive(Clone, Copy, Debug)]
struct Member {
    zone: u16,
    /// Its place among the ids.
    at: usize,
}

/// What a node knows of others.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    pub(super) links: BTreeMap<NodeId, Link>,
    pub(super) asking: BTreeMap<NodeId, Asking>,
    /// Heard of, for when a link is to be replaced.
    passive: Vec<Peer>,
    /// Named by the application.
    members: BTreeMap<NodeId, Member>,
    /// Their ids, to choose from.
    ids: Vec<NodeId>,
    /// How many of them are in other zones.
    far_members: usize,
    /// Who did not answer, had no room, or was of no use.
    resting: VecDeque<Resting>,
    /// Who had a link and ended it, and when others were last told of that.
    paces: VecDeque<(NodeId, Pace)>,
    zone: u16,
}

impl View {
    pub(super) fn new(zone: u16) -> Self {
        Self { zone, ..Self::default() }
    }

    /// Adds a member, or changes its zone; false where there are too many.
    pub(super) fn add_member(&mut self, Peer { node, zone }: Peer, members_max: usize) -> bool {
        self.passive.iter_mut().filter(|peer| peer.node == node).for_each(|peer| peer.zone = zone);
        if let Some(link) = self.links.get_mut(&node) {
            link.zone = zone;
        }
        let (at, before) = match self.members.get(&node) {
            Some(member) => (member.at, member.zone),
            None if self.ids.len() >= members_max => return false,
            None => {
                self.ids.push(node);
                (self.ids.len() - 1, self.zone)
            }
        };
        self.far_members += usize::from(zone != self.zone);
        self.far_members -= usize::from(before != self.zone);
        self.members.insert(node, Member { zone, at });
        true
    }

    pub(super) fn remove_member(&mut self, node: NodeId) {
        self.passive.retain(|peer| peer.node != node);
        let Some(Member { zone, at }) = self.members.remove(&node) else { return };
        self.far_members -= usize::from(zone != self.zone);
        self.ids.swap_remove(at);
        if let Some(moved) = self.ids.get(at).and_then(|moved| self.members.get_mut(moved)) {
            moved.at = at;
        }
    }

    /// Remembers somebody to replace links with, if need be instead of another.
    pub(super) fn remember(&mut self, peer: Peer, passive_max: usize, rng: &mut Rng64) {
        if self.passive.iter().any(|known| known.node == peer.node) {
            return;
        }
        if self.passive.len() >= passive_max {
            self.passive.swap_remove(rng.below(self.passive.len() as u64) as usize);
        }
        self.passive.push(peer);
    }

    pub(super) fn forget(&mut self, node: NodeId) {
        self.passive.retain(|peer| peer.node != node);
    }

    pub(super) fn passive(&self) -> &[Peer] {
        &self.passive
    }

    /// Leaves a node alone until a time.
    pub(super) fn rest(&mut self, node: NodeId, until: Instant) {
        let longer = |resting: &Resting| resting.node == node && (resting.barred || resting.until > until);
        if !self.resting.iter().any(longer) {
            self.push_resting(Resting { node, until, barred: false });
        }
    }

    /// Has no link with a node until a time, whoever asks.
    pub(super) fn bar(&mut self, node: NodeId, until: Instant) {
        let longer = |resting: &Resting| resting.node == node && resting.barred && resting.until > until;
        if !self.resting.iter().any(longer) {
            self.push_resting(Resting { node, until, barred: true });
        }
    }

    /// Forgets those who were left alone for long enough.
    pub(super) fn wake(&mut self, now: Instant) {
        self.resting.retain(|resting| resting.until > now);
    }

    fn push_resting(&mut self, resting: Resting) {
        self.resting.retain(|other| other.node != resting.node);
        if self.resting.len() >= RESTING_MAX {
            self.resting.pop_front();
        }
        self.resting.push_back(resting);
    }

    pub(super) fn is_barred(&self, node: NodeId, now: Instant) -> bool {
        self.resting.iter().any(|resting| resting.node == node && resting.barred && resting.until > now)
    }

    /// Remembers of somebody without a link when others were told of one.
    pub(super) fn keep_pace(&mut self, node: NodeId, pace: Pace) {
        if self.paces.len() >= PACES_MAX {
            self.paces.pop_front();
        }
        self.paces.push_back((node, pace));
    }

    pub(super) fn pace(&self, node: NodeId) -> Option<Pace> {
        self.paces.iter().find(|(other, _)| *other == node).map(|(_, pace)| *pace)
    }

    pub(super) fn take_pace(&mut self, node: NodeId) -> Option<Pace> {
        let at = self.paces.iter().position(|(other, _)| *other == node)?;
        self.paces.remove(at).map(|(_, pace)| pace)
    }

    pub(super) fn is_member(&self, node: NodeId) -> bool {
        self.members.contains_key(&node)
    }

    /// Whether the application named fewer members than are remembered of those heard of.
    pub(super) fn names_few(&self, passive_max: usize) -> bool {
        self.ids.len() < passive_max
    }

    /// Whether there are so few others that all are linked with all.
    pub(super) fn is_full_mesh(&self, config: &OverlayConfig) -> bool {
        self.others(config.full_mesh) < config.full_mesh
    }

    /// How many other nodes there are, as far as is known; counted up to `enough` at least.
    fn others(&self, enough: usize) -> usize {
        let is_new = |node: NodeId| !self.members.contains_key(&node);
        if self.members.len() >= enough {
            return self.members.len();
        }
        let passive = self.passive.iter().filter(|peer| is_new(peer.node)).count();
        // A neighbour is not among those that are remembered.
        self.members.len() + passive + self.links.keys().filter(|node| is_new(**node)).count()
    }

    /// How many links to look for.
    pub(super) fn target(&self, config: &OverlayConfig) -> usize {
        let others = self.others(config.full_mesh);
        if others < config.full_mesh { others } else { config.degree }
    }

    /// The most links.
    pub(super) fn limit(&self, config: &OverlayConfig) -> usize {
        if self.others(config.full_mesh) < config.full_mesh {
            config.degree_max.max(config.full_mesh - 1)
        } else {
            config.degree_max
        }
    }

    /// Links, and those asked for: a place is kept for each.
    pub(super) fn taken(&self) -> usize {
        let swaps = self.asking.values().filter(|asking| asking.instead_of.is_some()).count();
        self.links.len() + self.asking.len() - swaps
    }

    fn is_far(&self, zone: u16) -> bool {
        zone != self.zone
    }

    /// Whether there are other zones, and no link to any.
    pub(super) fn wants_far(&self) -> bool {
        let known = self.far_members > 0 || self.passive.iter().any(|peer| self.is_far(peer.zone));
        known && !self.links.values().any(|link| self.is_far(link.zone))
    }

    /// Where a node is, as far as is known.
    pub(super) fn zone_of(&self, node: NodeId) -> Option<u16> {
        let heard_of = || self.passive.iter().find(|peer| peer.node == node).map(|peer| peer.zone);
        self.members.get(&node).map(|member| member.zone).or_else(heard_of)
    }

    /// Whether this is the only link to another zone.
    pub(super) fn is_bridge(&self, node: NodeId) -> bool {
        let far = |link: &Link| self.is_far(link.zone);
        self.links.get(&node).is_some_and(far) && self.links.values().filter(|link| far(link)).count() == 1
    }

    /// The one link that others may take: of those that this node did not choose itself one that passed no beacon
    /// on yet, else the latest. So whoever asks, and however often, the others stay.
    pub(super) fn guest(&self) -> Option<(NodeId, &Link)> {
        let guests = self.links.iter().filter(|(_, link)| !link.chosen);
        guests.map(|(node, link)| (*node, link)).max_by_key(|(_, link)| (!link.earned, link.since))
    }

    /// Somebody to ask for a link: one that the application named; where those are fewer than would be remembered,
    /// as often one heard of.
    pub(super) fn candidate(&mut self, now: Instant, passive_max: usize, rng: &mut Rng64) -> Option<Peer> {
        self.wake(now);
        let far = self.wants_far();
        let wanted = |peer: &Peer| self.is_free(peer.node) && (!far || self.is_far(peer.zone));
        let heard_of: Vec<_> = self.passive.iter().filter(|peer| wanted(peer)).copied().collect();
        if self.names_few(passive_max)
            && rng.chance(1, 2)
            && let Some(peer) = rng.choose(&heard_of)
        {
            return Some(*peer);
        }
        self.member(rng, wanted).or_else(|| rng.choose(&heard_of).copied()).or_else(|| {
            let free: Vec<_> = self.passive.iter().filter(|peer| self.is_free(peer.node)).copied().collect();
            rng.choose(&free).copied().or_else(|| self.member(rng, |peer| self.is_free(peer.node)))
        })
    }

    /// A random member of those wanted.
    pub(super) fn member(&self, rng: &mut Rng64, wanted: impl Fn(&Peer) -> bool) -> Option<Peer> {
        let peer = |node: &NodeId| Some(Peer { node: *node, zone: self.members.get(node)?.zone });
        let drawn = (0..DRAWS).find_map(|_| rng.choose(&self.ids).and_then(peer).filter(&wanted));
        drawn.or_else(|| {
            let start = rng.below(self.ids.len() as u64) as usize;
            let (before, after) = self.ids.split_at(start);
            after.iter().chain(before).filter_map(peer).find(&wanted)
        })
    }

    /// Whether a node is neither linked nor asked, and may be.
    pub(super) fn is_free(&self, node: NodeId) -> bool {
        let rests = self.resting.iter().any(|resting| resting.node == node);
        !self.links.contains_key(&node) && !self.asking.contains_key(&node) && !rests
    }

    /// Some nodes of the view, at random.
    pub(super) fn sample(&self, rng: &mut Rng64, len: usize, but: NodeId) -> Vec<Peer> {
        let linked = self.links.iter().map(|(node, link)| Peer { node: *node, zone: link.zone });
        let mut all: Vec<_> = linked.chain(self.passive.iter().copied()).filter(|peer| peer.node != but).collect();
        rng.shuffle(&mut all);
        all.truncate(len);
        all
    }

    /// A random neighbour but one.
    pub(super) fn neighbour(&self, rng: &mut Rng64, but: NodeId) -> Option<NodeId> {
        let others: Vec<_> = self.links.keys().copied().filter(|node| *node != but).collect();
        rng.choose(&others).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(node: u128, zone: u16) -> Peer {
        Peer { node: NodeId(node), zone }
    }

    #[test]
    fn members_are_found_again_however_they_come_and_go() {
        let (mut view, mut rng) = (View::new(0), Rng64::from_seed(1, "view"));
        for round in 0..500 {
            let node = 1 + u128::from(rng.below(20));
            if rng.chance(1, 2) {
                assert!(view.add_member(peer(node, (round % 3) as u16), 100));
            } else {
                view.remove_member(NodeId(node));
            }
            let at = |(at, node): (usize, &NodeId)| view.members[node].at == at;
            assert!(view.ids.len() == view.members.len() && view.ids.iter().enumerate().all(at));
            assert_eq!(view.far_members, view.members.values().filter(|member| member.zone != 0).count());
        }
        let mut full = View::new(0);
        assert!(full.add_member(peer(1, 0), 1) && !full.add_member(peer(2, 0), 1) && full.add_member(peer(1, 5), 1));
    }

    #[test]
    fn the_passive_view_and_the_resting_are_bounded() {
        let (mut view, mut rng) = (View::new(0), Rng64::from_seed(1, "view"));
        for node in 0..1_000 {
            view.remember(peer(node, 0), 30, &mut rng);
            view.rest(NodeId(node), Instant::MAX);
            view.keep_pace(NodeId(node), Pace::starting_at(Instant::ZERO));
        }
        assert_eq!((view.passive.len(), view.resting.len(), view.paces.len()), (30, RESTING_MAX, PACES_MAX));
    }

    #[test]
    fn a_member_is_asked_where_many_are_named_and_as_often_one_heard_of_where_few_are() {
        let heard_of = |members: u128| {
            let (mut view, mut rng) = (View::new(0), Rng64::from_seed(1, "view"));
            (1..=members).for_each(|node| assert!(view.add_member(peer(node, 0), 100)));
            (1_001..=1_030).for_each(|node| view.remember(peer(node, 0), 30, &mut rng));
            let mut is_heard_of =
                || view.candidate(Instant::ZERO, 30, &mut rng).is_some_and(|peer| peer.node.0 > 1_000);
            (0..1_000).filter(|_| is_heard_of()).count()
        };
        assert_eq!((heard_of(0), heard_of(30)), (1_000, 0));
        assert!((400..600).contains(&heard_of(29)));
    }

    #[test]
    fn nobody_is_asked_who_is_asked_already_or_rests() {
        for (members, heard_of, free) in [(40, 0, Some(40)), (3, 30, Some(1_030)), (0, 30, Some(1_030)), (3, 30, None)]
        {
            let (mut view, mut rng) = (View::new(0), Rng64::from_seed(1, "view"));
            (1..=members).for_each(|node| assert!(view.add_member(peer(node, 0), 100)));
            (1_001..=1_000 + heard_of).for_each(|node| view.remember(peer(node, 0), 30, &mut rng));
            for node in (1..=members).chain(1_001..=1_000 + heard_of).filter(|node| Some(*node) != free) {
                match node % 2 {
                    0 => view.rest(NodeId(node), Instant::MAX),
                    _ => {
                        let asking = Asking { zone: 0, at: Instant::ZERO, instead_of: None, chosen: false };
                        view.asking.insert(NodeId(node), asking);
                    }
                }
            }
            for _ in 0..200 {
                assert_eq!(view.candidate(Instant::ZERO, 30, &mut rng).map(|peer| peer.node.0), free);
            }
        }
    }

    #[test]
    fn who_is_barred_stays_so_until_the_latest_time_that_was_said() {
        let (mut view, at) = (View::new(0), |seconds| Instant::ZERO + Duration::from_secs(seconds));
        view.bar(NodeId(1), at(100));
        view.rest(NodeId(1), at(200));
        view.bar(NodeId(1), at(50));
        assert!(view.is_barred(NodeId(1), at(99)) && !view.is_barred(NodeId(1), at(100)));
        view.rest(NodeId(2), at(100));
        assert!(!view.is_barred(NodeId(2), at(99)) && !view.is_free(NodeId(2)));
        view.wake(at(100));
        assert!(view.is_free(NodeId(1)) && view.is_free(NodeId(2)));
    }
}
