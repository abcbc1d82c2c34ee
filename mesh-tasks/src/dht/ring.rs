//! Consistent hashing: which of the members owns a key, from the set of members alone.
//!
//! Each member stands at many places of a circle, its *virtual nodes*; a key belongs to the member that is nearest to
//! the key's own place (Karger and others, 1997), before it or after it. So a member that joins or leaves takes or
//! gives only its own keys, about one in n, and no key moves between two that stay. In what order members came does not
//! matter: a [`Ring`] of the same members is the same ring. To look both ways evens out shares as twice as many
//! virtual nodes would, where a key goes to the next one after it: a place has half of the gap before it and half of the
//! one behind.
//!
//! - **Few members**: up to [`RingConfig::rendezvous_max`] the owner is found by rendezvous hashing instead (Thaler and
//!   Ravishankar, 1998): each member draws a number from the key, and the highest wins. That balances perfectly, where
//!   a circle of few members does not. The switch depends on the number of members alone; when it is crossed, in
//!   either direction, nearly all keys move (all but one in n). Who cannot bear that once sets it to 0.
//! - **Replicas** are the owner and the next *distinct* members; [`Ring::replicas_across_zones`] takes members of
//!   distinct zones first. When a member joins, no other comes newly into the replicas of a key, and likewise when one
//!   leaves none but it goes out.
//! - **Weights**: a member of weight 200 owns twice as much as one of 100.
//! - **Bounded loads**: [`Ring::owner_bounded`] passes over members that have more than their share times
//!   `1 + load_epsilon` (Mirrokni, Thorup and Zadimoghaddam, 2016).
//!
//! With 128 virtual nodes the largest share is about 1.09, 1.16 and 1.22 times the mean for 10, 100 and 1,000 members;
//! with 256 it is 1.07, 1.11 and 1.15. A lookup takes no memory and looks at few places of
//! the circle, however many members there are.
//!
//! ```
//! use mesh_core::NodeId;
//! use mesh_tasks::dht::ring::{Member, Ring, RingConfig};
//!
//! let mut ring = Ring::new(RingConfig::default())?;
//! for id in 1..=6 {
//!     ring.join(Member { zone: id % 3, ..Member::new(NodeId(id.into())) });
//! }
//! let zones = |ids: Vec<NodeId>| ids.into_iter().map(|id| id.0 % 3).collect::<std::collections::BTreeSet<_>>();
//! assert_eq!(zones(ring.replicas_across_zones(42, 3).collect()).len(), 3);
//!
//! // Whoever else leaves, the key stays where it is.
//! let owner = ring.owner(42);
//! let other = NodeId(if owner == Some(NodeId(1)) { 2 } else { 1 });
//! ring.leave(other);
//! assert_eq!(ring.owner(42), owner);
//! # Ok::<(), mesh_tasks::dht::ring::RingConfigError>(())
//! ```

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use mesh_core::NodeId;

use crate::mix::{fold, mix};

/// The most replicas of a key that a ring names.
pub const REPLICAS_MAX: usize = 16;

/// The most members that [`RingConfig::rendezvous_max`] may allow.
pub const RENDEZVOUS_MAX: usize = 64;

/// How keys are shared out. All nodes must have the same.
#[derive(Clone, Debug, PartialEq)]
pub struct RingConfig {
    /// At how many places of the circle a member of weight 100 stands. More balance better and make lookups and
    /// changes slower. Default: 128; from 1 to 4,096, of which 128 to 256 are useful.
    pub virtual_nodes: u32,
    /// Up to so many members the owner is found by rendezvous hashing. Default: 32; at most [`RENDEZVOUS_MAX`]; 0 for
    /// never.
    pub rendezvous_max: usize,
    /// By how much a member may exceed its share in [`Ring::owner_bounded`]. Default: 0.25; above 0, at most 100.
    pub load_epsilon: f64,
}

impl Default for RingConfig {
    fn default() -> Self {
        Self { virtual_nodes: 128, rendezvous_max: 32, load_epsilon: 0.25 }
    }
}

/// Values of a [`RingConfig`] cannot work, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the ring configuration cannot work: {0}")]
pub struct RingConfigError(String);

impl RingConfig {
    /// Checks that the values can work.
    ///
    /// # Errors
    /// A sentence that names the value and the bound.
    pub fn validate(&self) -> Result<(), RingConfigError> {
        let refuse = |why| Err(RingConfigError(why));
        if !(1..=4096).contains(&self.virtual_nodes) {
            return refuse(format!("virtual_nodes is {}; it must be from 1 to 4096", self.virtual_nodes));
        }
        if self.rendezvous_max > RENDEZVOUS_MAX {
            let given = self.rendezvous_max;
            return refuse(format!("rendezvous_max is {given}; it must be at most {RENDEZVOUS_MAX}"));
        }
        if !(self.load_epsilon > 0.0 && self.load_epsilon <= 100.0) {
            return refuse(format!("load_epsilon is {}; it must be above 0 and at most 100", self.load_epsilon));
        }
        Ok(())
    }
}

/// A node that owns keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub id: NodeId,
    /// What it fails together with: a rack, a room, a provider. Default: 0, the same for all.
    pub zone: u32,
    /// How much it owns beside others, in percent of the usual. Default: 100; 1 to 10,000, and what is outside counts
    /// as the nearer of the two.
    pub weight: u32,
}

impl Member {
    /// A member of zone 0 with the usual weight.
    pub const fn new(id: NodeId) -> Self {
        Self { id, zone: 0, weight: 100 }
    }

    fn weight(&self) -> u64 {
        u64::from(self.weight.clamp(1, 10_000))
    }

    fn stream(&self) -> blake3::OutputReader {
        let mut hasher = blake3::Hasher::new_derive_key("mesh 2026 places of a member on the ring");
        hasher.update(&self.id.0.to_le_bytes());
        hasher.finalize_xof()
    }

    /// Where it stands on the circle. Of two weights the places of the lower are among those of the higher.
    fn places(&self, config: &RingConfig) -> Vec<u64> {
        let count = (u64::from(config.virtual_nodes) * self.weight()).div_ceil(100) as usize;
        let mut bytes = vec![0; count * 8];
        self.stream().fill(&mut bytes);
        bytes.as_chunks().0.iter().map(|place| u64::from_le_bytes(*place)).collect()
    }

    /// What makes its draws for keys its own.
    fn seed(&self) -> u64 {
        let mut bytes = [0; 8];
        self.stream().fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }
}

/// A member where lookups need it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slot {
    member: Member,
    seed: u64,
}

/// A member as a lookup comes past it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    /// Where it is in the list of members.
    slot: u32,
    zone: u32,
}

/// A virtual node: a place of the circle, and who stands there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Point {
    place: u64,
    who: Candidate,
}

/// Which members own which keys. See the [module](self).
#[derive(Clone, PartialEq)]
pub struct Ring {
    config: RingConfig,
    /// By id.
    slots: Vec<Slot>,
    /// By place, then by id of the member.
    points: Vec<Point>,
    /// For each of so many equal arcs of the circle, the index of the first point in it or after it. A power of two.
    arcs: Vec<u32>,
    /// How many different zones there are.
    zones: usize,
    /// The sum of all weights.
    weight: u64,
    /// Whether all weights are the same.
    even: bool,
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring").field("config", &self.config).field("members", &self.slots.len()).finish()
    }
}

impl Ring {
    /// A ring without members.
    ///
    /// # Errors
    /// [`RingConfigError`] when the configuration cannot work.
    pub fn new(config: RingConfig) -> Result<Self, RingConfigError> {
        Self::with_members(config, [])
    }

    /// The ring of these members. Of several with one id the last counts.
    ///
    /// # Errors
    /// [`RingConfigError`] when the configuration cannot work.
    pub fn with_members(
        config: RingConfig,
        members: impl IntoIterator<Item = Member>,
    ) -> Result<Self, RingConfigError> {
        config.validate()?;
        let members: BTreeMap<_, _> = members.into_iter().map(|member| (member.id, member)).collect();
        let slots: Vec<Slot> = members.into_values().map(|member| Slot { member, seed: member.seed() }).collect();
        let mut points: Vec<Point> = (0..).zip(&slots).flat_map(|(slot, at)| at.points(slot, &config)).collect();
        points.sort_unstable();
        let mut ring = Self { config, slots, points, arcs: Vec::new(), zones: 0, weight: 0, even: true };
        ring.count_arcs();
        ring.count_members();
        Ok(ring)
    }

    /// Takes a member in, in one pass over the ring. Answers `false` where it was there already, as it is; one that was
    /// there with another zone or weight is replaced.
    pub fn join(&mut self, member: Member) -> bool {
        let index = match self.index(member.id) {
            Ok(index) if self.slots[index].member == member => return false,
            Ok(_) => {
                self.leave(member.id);
                return self.join(member);
            }
            Err(index) => index,
        };
        self.slots.insert(index, Slot { member, seed: member.seed() });
        let new = self.slots[index].points(index as u32, &self.config);
        self.merge(&new);
        self.move_arcs(&new, |first, came| first + came);
        self.count_members();
        true
    }

    /// Puts in the points of a new slot, which are in order, from the last to the first: each moves once what comes
    /// after it, and what names later slots is put right while it is at hand.
    fn merge(&mut self, new: &[Point]) {
        let Some(first) = new.first() else { return };
        let slot = first.who.slot;
        let put_right = |points: &mut [Point]| {
            points.iter_mut().for_each(|point| point.who.slot += u32::from(point.who.slot >= slot));
        };
        let mut end = self.points.len();
        self.points.resize(end + new.len(), *first);
        for (before, point) in new.iter().enumerate().rev() {
            // A member that is at the same place comes before the new one where its slot was below.
            let at = self.points[..end].partition_point(|old| (old.place, old.who.slot) < (point.place, slot));
            self.points.copy_within(at..end, at + before + 1);
            put_right(&mut self.points[at + before + 1..end + before + 1]);
            self.points[at + before] = *point;
            end = at;
        }
        put_right(&mut self.points[..end]);
    }

    /// Removes a member, in one pass over the ring, and returns it.
    pub fn leave(&mut self, id: NodeId) -> Option<Member> {
        let index = self.index(id).ok()?;
        let slot = self.slots.remove(index);
        let gone = slot.points(index as u32, &self.config);
        self.cut(&gone);
        self.move_arcs(&gone, |first, left| first - left);
        self.count_members();
        Some(slot.member)
    }

    /// Takes out the points of a slot, which are in order: each moves once what comes after it, as in `merge`.
    fn cut(&mut self, gone: &[Point]) {
        let Some(slot) = gone.first().map(|point| point.who.slot) else { return };
        let (mut to, mut from) = (0, 0);
        for end in gone.iter().map(Some).chain([None]) {
            let at = match end {
                Some(point) => from + self.points[from..].partition_point(|old| old < point),
                None => self.points.len(),
            };
            self.points.copy_within(from..at, to);
            let moved = to + at - from;
            self.points[to..moved].iter_mut().for_each(|point| point.who.slot -= u32::from(point.who.slot > slot));
            (to, from) = (moved, at + 1);
        }
        self.points.truncate(to);
    }

    /// Moves where arcs begin by the number of the changed points, which are in order, that come before them; unless
    /// there are to be more or fewer arcs.
    fn move_arcs(&mut self, changed: &[Point], moved: impl Fn(u32, u32) -> u32) {
        let count = self.arcs.len();
        if count != arcs_for(self.points.len()) {
            return self.count_arcs();
        }
        let mut arc = 0;
        for (before, point) in (0..).zip(changed) {
            let end = arc_of(point.place, count) + 1;
            self.arcs[arc..end].iter_mut().for_each(|first| *first = moved(*first, before));
            arc = end;
        }
        self.arcs[arc..].iter_mut().for_each(|first| *first = moved(*first, changed.len() as u32));
    }

    /// Finds out again where arcs begin.
    fn count_arcs(&mut self) {
        let end = self.points.len() as u32;
        self.arcs.clear();
        self.arcs.resize(arcs_for(self.points.len()), end);
        for (index, point) in (0..end).zip(&self.points).rev() {
            let arc = arc_of(point.place, self.arcs.len());
            self.arcs[arc] = index;
        }
        let mut next = end;
        for first in self.arcs.iter_mut().rev() {
            next = next.min(*first);
            *first = next;
        }
    }

    /// Finds out again what depends on all members.
    fn count_members(&mut self) {
        let mut zones: Vec<u32> = self.slots.iter().map(|slot| slot.member.zone).collect();
        zones.sort_unstable();
        zones.dedup();
        self.zones = zones.len();
        self.weight = self.slots.iter().map(|slot| slot.member.weight()).sum();
        self.even = self.slots.windows(2).all(|pair| pair[0].member.weight() == pair[1].member.weight());
    }

    fn index(&self, id: NodeId) -> Result<usize, usize> {
        self.slots.binary_search_by_key(&id, |slot| slot.member.id)
    }

    /// How many members there are.
    pub const fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The member of this name.
    pub fn member(&self, id: NodeId) -> Option<Member> {
        self.index(id).ok().map(|index| self.slots[index].member)
    }

    /// All members, in the order of their ids.
    pub fn members(&self) -> impl ExactSizeIterator<Item = Member> {
        self.slots.iter().map(|slot| slot.member)
    }

    /// Who owns a key; nobody where there are no members.
    pub fn owner(&self, key: u128) -> Option<NodeId> {
        self.replicas(key, 1).next()
    }

    /// The owner of a key and the next distinct members: `count` of them, but no more than there are members, and
    /// than [`REPLICAS_MAX`].
    pub fn replicas(&self, key: u128, count: usize) -> Replicas<'_> {
        let mut picked = Picked::of(count.min(self.len()));
        match self.by_rendezvous() {
            true => picked.fill(self.draws(fold(key))),
            false => picked.fill(self.nearest(fold(key))),
        }
        Replicas { ring: self, picked, at: 0 }
    }

    /// The owner of a key and next members of zones that none before is in, as far as there are so many zones; then the
    /// next distinct members, as in [`replicas`](Self::replicas). Where some zone has few members, it may be far to
    /// them.
    pub fn replicas_across_zones(&self, key: u128, count: usize) -> Replicas<'_> {
        let mut picked = Picked::of(count.min(self.len()));
        match self.by_rendezvous() {
            true => picked.fill_across_zones(self.zones, self.draws(fold(key))),
            false => picked.fill_across_zones(self.zones, self.nearest(fold(key))),
        }
        Replicas { ring: self, picked, at: 0 }
    }

    /// As [`replicas_across_zones`](Self::replicas_across_zones) of a ring with the members of which `is_there` holds, and
    /// `others` that this one has not: who kept a key before members came and went.
    pub(crate) fn replicas_among(
        &self,
        key: u128,
        count: usize,
        others: usize,
        is_there: impl Fn(NodeId) -> bool,
    ) -> Vec<NodeId> {
        let is_there: Vec<bool> = self.members().map(|member| is_there(member.id)).collect();
        let there = || self.slots.iter().zip(&is_there).filter(|(_, is_there)| **is_there).map(|(slot, _)| slot);
        let (len, key) = (there().count(), fold(key));
        let zones = there().map(|slot| slot.member.zone).collect::<BTreeSet<_>>().len();
        let mut picked = Picked::of(count.min(len));
        if len + others <= self.config.rendezvous_max {
            let even = there().map(|slot| slot.member.weight()).collect::<BTreeSet<_>>().len() == 1;
            let candidates = (0..).zip(&self.slots).filter(|(at, _)| is_there[*at as usize]);
            let mut draws: Vec<_> = candidates
                .map(|(at, slot)| (Reverse(slot.draw(key, even)), Candidate { slot: at, zone: slot.member.zone }))
                .collect();
            draws.sort_unstable_by_key(|(draw, candidate)| (*draw, candidate.slot));
            picked.fill_across_zones(zones, draws.into_iter().map(|(_, candidate)| candidate));
        } else {
            picked.fill_across_zones(zones, self.nearest(key).filter(|candidate| is_there[candidate.slot as usize]));
        }
        Replicas { ring: self, picked, at: 0 }.collect()
    }

    /// Who takes the next piece of work for a key when none shall have more than `1 + load_epsilon` times its share:
    /// the nearest of the members to the key's place that has less.
    ///
    /// `load_of` tells how much a member has, and `total` what all have together. Where they contradict each other
    /// so that nobody has less, it is the owner.
    pub fn owner_bounded(&self, key: u128, total: u64, load_of: impl Fn(NodeId) -> u64) -> Option<NodeId> {
        let each = (1.0 + self.config.load_epsilon) * (total as f64 + 1.0) / self.weight as f64;
        let has_room = |candidate: &Candidate| {
            let member = self.at(*candidate);
            (load_of(member.id) as f64) < (each * member.weight() as f64).ceil()
        };
        let found = match self.by_rendezvous() {
            true => self.draws(fold(key)).find(has_room),
            false => self.nearest(fold(key)).find(has_room),
        };
        found.map_or_else(|| self.owner(key), |candidate| Some(self.at(candidate).id))
    }

    fn at(&self, candidate: Candidate) -> &Member {
        &self.slots[candidate.slot as usize].member
    }

    const fn by_rendezvous(&self) -> bool {
        self.len() <= self.config.rendezvous_max
    }

    /// The members from the nearest to a place to the farthest, each as often as it stands somewhere.
    fn nearest(&self, place: u64) -> Nearest<'_> {
        let after = self.point_after(place);
        Nearest { points: &self.points, place, after, before: after, left: self.points.len() }
    }

    /// The index of the first point that is at a place or after it.
    fn point_after(&self, place: u64) -> usize {
        let first = self.arcs[arc_of(place, self.arcs.len())] as usize;
        first + self.points[first..].iter().take_while(|point| point.place < place).count()
    }

    /// The members from the highest draw for a place to the lowest.
    fn draws(&self, place: u64) -> Draws<'_> {
        let mut draws = Draws { scores: [0; RENDEZVOUS_MAX], slots: &self.slots };
        for (score, slot) in draws.scores.iter_mut().zip(&self.slots) {
            *score = slot.draw(place, self.even);
        }
        draws
    }
}

impl Slot {
    /// What it draws for a place; where all weights are `even` they need not be looked at.
    fn draw(&self, place: u64, even: bool) -> u64 {
        let drawn = mix(place ^ self.seed);
        if even { drawn.max(1) } else { weighted(drawn, self.member.weight()) }
    }

    /// Its points, in order.
    fn points(&self, slot: u32, config: &RingConfig) -> Vec<Point> {
        let who = Candidate { slot, zone: self.member.zone };
        let mut places = self.member.places(config);
        places.sort_unstable();
        places.into_iter().map(|place| Point { place, who }).collect()
    }
}

/// Members in the order of how far they are from a place. Of two that are as far, the one after the place comes first.
#[derive(Clone)]
struct Nearest<'a> {
    points: &'a [Point],
    place: u64,
    /// The index of the next point after the place.
    after: usize,
    /// One more than that of the next point before the place.
    before: usize,
    left: usize,
}

impl Iterator for Nearest<'_> {
    type Item = Candidate;

    fn next(&mut self) -> Option<Candidate> {
        self.left = self.left.checked_sub(1)?;
        if self.after == self.points.len() {
            self.after = 0;
        }
        if self.before == 0 {
            self.before = self.points.len();
        }
        let (after, before) = (&self.points[self.after], &self.points[self.before - 1]);
        let is_after = after.place.wrapping_sub(self.place) <= self.place.wrapping_sub(before.place);
        // Which way is for chance to say: without a branch, which would be foreseen wrongly half of the time.
        self.after += usize::from(is_after);
        self.before -= usize::from(!is_after);
        Some(std::hint::select_unpredictable(is_after, after.who, before.who))
    }
}

/// Members in the order of their draws. Of equal draws the lower id comes first.
#[derive(Clone)]
struct Draws<'a> {
    /// What each has drawn: 0 for one that was passed.
    scores: [u64; RENDEZVOUS_MAX],
    slots: &'a [Slot],
}

impl Iterator for Draws<'_> {
    type Item = Candidate;

    fn next(&mut self) -> Option<Candidate> {
        let (mut highest, mut best) = (0, 0);
        for (at, score) in self.scores.iter().enumerate().take(self.slots.len()) {
            if *score > highest {
                (highest, best) = (*score, at);
            }
        }
        if highest == 0 {
            return None;
        }
        self.scores[best] = 0;
        Some(Candidate { slot: best as u32, zone: self.slots[best].member.zone })
    }
}

/// Some members, each once.
#[derive(Clone, Copy, Debug)]
struct Picked {
    candidates: [Candidate; REPLICAS_MAX],
    len: usize,
    /// How many are wanted.
    count: usize,
}

impl Picked {
    fn of(count: usize) -> Self {
        Self { candidates: Default::default(), len: 0, count: count.min(REPLICAS_MAX) }
    }

    fn as_slice(&self) -> &[Candidate] {
        &self.candidates[..self.len]
    }

    /// Adds the candidates of `walk` that `is_wanted` beside those that are there, until there are `count`.
    fn take(
        &mut self,
        count: usize,
        walk: impl Iterator<Item = Candidate>,
        is_wanted: impl Fn(&[Candidate], Candidate) -> bool,
    ) {
        if self.len >= count {
            return;
        }
        for candidate in walk {
            if is_wanted(self.as_slice(), candidate) {
                self.candidates[self.len] = candidate;
                self.len += 1;
                if self.len == count {
                    break;
                }
            }
        }
    }

    /// Adds those that are not there yet.
    fn fill(&mut self, walk: impl Iterator<Item = Candidate>) {
        self.take(self.count, walk, |there, new| there.iter().all(|other| other.slot != new.slot));
    }

    /// Adds those whose zone is not there yet, as long as there are such; then others.
    fn fill_across_zones(&mut self, zones: usize, walk: impl Iterator<Item = Candidate> + Clone) {
        self.take(self.count.min(zones), walk.clone(), |there, new| there.iter().all(|other| other.zone != new.zone));
        self.fill(walk);
    }
}

/// The members that keep a key, the owner first.
#[derive(Clone, Debug)]
pub struct Replicas<'a> {
    ring: &'a Ring,
    picked: Picked,
    at: usize,
}

impl Iterator for Replicas<'_> {
    type Item = NodeId;

    fn next(&mut self) -> Option<NodeId> {
        let candidate = *self.picked.as_slice().get(self.at)?;
        self.at += 1;
        Some(self.ring.at(candidate).id)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.picked.len - self.at;
        (left, Some(left))
    }
}

impl ExactSizeIterator for Replicas<'_> {}

/// Into how many arcs the circle is cut for so many points: a power of two, so that few changes of members change it,
/// and such that an arc has two to four points.
const fn arcs_for(points: usize) -> usize {
    let arcs = points.div_ceil(4).next_power_of_two();
    if arcs < 2 { 2 } else { arcs }
}

/// In which of `count` equal arcs of the circle, as many as a power of two from 2, a place is.
const fn arc_of(place: u64, count: usize) -> usize {
    (place >> (64 - count.trailing_zeros())) as usize
}

/// A draw such that a member wins in proportion to its weight: the order of `-ln(u) / weight`, lowest first, as the
/// order of numbers, highest first (Schindelhauer and Schomaker, 2005).
fn weighted(drawn: u64, weight: u64) -> u64 {
    let u = ((drawn >> 12) as f64 + 0.5) / (1_u64 << 52) as f64;
    // Numbers that are not negative have the order of their bits.
    !(-ln(u) / weight as f64).to_bits()
}

/// The natural logarithm of a normal, positive number, to ten digits. Made of what every machine computes alike,
/// which the logarithms of system libraries are not.
fn ln(x: f64) -> f64 {
    let exponent = (x.to_bits() >> 52) as i32 - 1023;
    let mantissa = f64::from_bits(x.to_bits() & ((1 << 52) - 1) | 1023 << 52);
    let t = (mantissa - 1.0) / (mantissa + 1.0);
    let series = (0..11).rev().fold(0.0, |sum, k| sum * t * t + 1.0 / f64::from(2 * k + 1));
    f64::from(exponent) * std::f64::consts::LN_2 + 2.0 * t * series
}

#[cfg(test)]
mod tests;
