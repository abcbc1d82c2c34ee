//! What is believed of what others say.
//!
//! Of a member, the higher incarnation counts. Of the same, that it is gone counts more than that it is
//! suspected, and that more than that it lives; and nothing but a higher incarnation brings back who was
//! down or had left. But that a member is gone is believed only from itself, or after the rules of
//! [suspicion](super::suspicion).

use mesh_core::NodeId;

use super::member::EncodedProfile;
use super::message::{Claim, Update};
use super::meter::Count;
use super::table::{Entry, Told};
use super::{Cx, Membership, MembershipEvent, Status, member_of, seconds};

/// No higher incarnation of a member is believed as others tell it. There is room above for the member itself
/// to refute what is made up.
const TOLD_INCARNATION_MAX: u64 = 1 << 48;

/// By so much an incarnation may rise at once, as others tell. A node raises its own by one, a few times a
/// second at most.
const INCARNATION_JUMP_MAX: u64 = 1 << 20;

/// A node rises above what others say of it up to here, for it may have restarted and lost count. What is
/// higher is made up; and there is room above for all the suspicions that it may have to refute one by one.
const OWN_INCARNATION_MAX: u64 = 1 << 62;

/// The highest incarnation that is believed after `known`, as others tell it. What a member says of itself has
/// no such limit: it may have been lied to.
fn highest_after(known: u64) -> u64 {
    known.saturating_add(INCARNATION_JUMP_MAX).min(TOLD_INCARNATION_MAX).max(known)
}

impl Membership {
    pub(super) fn on_update(&mut self, cx: &mut Cx<'_>, from: NodeId, update: &Update) {
        let Update { node, incarnation, ref claim } = *update;
        if node == self.me {
            return self.on_claim_about_me(cx, from, incarnation, claim);
        }
        let known = self.table.get(node);
        let highest = known.map_or(TOLD_INCARNATION_MAX, |entry| highest_after(entry.incarnation));
        if from != node && incarnation > highest {
            self.meter.count(Count::UpdatesRefused);
            return;
        }
        match (known, claim) {
            (None, Claim::Alive(profile)) => self.on_new(cx, node, incarnation, profile),
            (None, Claim::Refuted(_)) => self.sync.want(node),
            (None, Claim::Suspect(_)) => {}
            (None, Claim::Down(age)) => self.on_unknown_gone(cx, node, incarnation, Status::Down, *age),
            (None, Claim::Left(age)) => self.on_unknown_gone(cx, node, incarnation, Status::Left, *age),
            (Some(known), _) if incarnation < known.incarnation => {}
            (Some(_), Claim::Alive(profile)) => self.on_alive(cx, node, incarnation, profile),
            (Some(known), Claim::Refuted(check)) if known.profile.check() != *check => self.sync.want(node),
            (Some(known), Claim::Refuted(_)) => {
                if incarnation > known.incarnation {
                    let profile = known.profile.clone();
                    self.on_alive(cx, node, incarnation, &profile);
                }
            }
            (Some(known), Claim::Suspect(marks)) => {
                if known.status.is_live() {
                    self.on_suspected(cx, node, incarnation, *marks);
                }
            }
            (Some(known), Claim::Down(age) | Claim::Left(age)) if !known.status.is_live() => {
                if incarnation > known.incarnation {
                    self.note_gone_again(cx, node, incarnation, *age);
                }
            }
            (Some(_), Claim::Left(_)) if from == node => self.on_gone(cx, node, incarnation, Status::Left, 0),
            (Some(_), Claim::Left(_)) => self.on_said_to_be_gone(cx, node, incarnation, Status::Left),
            (Some(_), Claim::Down(_)) => self.on_said_to_be_gone(cx, node, incarnation, Status::Down),
        }
    }

    /// A member is heard of for the first time.
    fn on_new(&mut self, cx: &mut Cx<'_>, node: NodeId, incarnation: u64, profile: &EncodedProfile) {
        if self.table.live() >= self.config.max_members {
            return self.meter.count(Count::Dropped);
        }
        let mut entry = Entry::new(node, incarnation, Status::Alive, profile.clone());
        entry.since_s = seconds(cx.now());
        cx.emit(MembershipEvent::Joined(member_of(&entry)));
        self.table.insert(entry);
        self.sync.learned(node);
        self.publish(cx, node, true);
    }

    /// A node that was never known is said to be gone: so its return at that incarnation is not believed.
    fn on_unknown_gone(&mut self, cx: &mut Cx<'_>, node: NodeId, incarnation: u64, status: Status, age: u32) {
        let time_s = self.config.tombstone_time.as_secs();
        if u64::from(age) >= time_s || self.tombstones.len() >= self.config.max_tombstones {
            return;
        }
        let mut entry = Entry::new(node, incarnation, status, EncodedProfile::default());
        entry.since_s = seconds(cx.now()).saturating_sub(age);
        entry.told = Told::Others;
        self.tombstones.insert_hearsay(entry.since_s, node);
        self.table.insert(entry);
        self.sync.learned(node);
    }

    /// A member lives, at this incarnation or since.
    fn on_alive(&mut self, cx: &mut Cx<'_>, node: NodeId, incarnation: u64, profile: &EncodedProfile) {
        let Some(known) = self.table.get(node) else { return };
        let (before, since_s, was_told) = (known.status, known.since_s, known.told);
        let is_newer = incarnation > known.incarnation;
        let is_other = known.profile != *profile;
        // Of two profiles at one incarnation all believe in the same. The node itself will settle it.
        let wins = is_other && before.is_live() && known.profile.as_slice() < profile.as_slice();
        if !is_newer && !wins {
            return;
        }
        if !before.is_live() && self.table.live() >= self.config.max_members {
            return self.meter.count(Count::Dropped);
        }
        let (status, now_s) = (if is_newer { Status::Alive } else { before }, seconds(cx.now()));
        self.table.change(node, |entry| {
            (entry.incarnation, entry.status) = (incarnation, status);
            entry.profile = profile.clone();
            entry.told = Told::All;
            if !before.is_live() {
                // Who comes and goes is given more time each time, and less again for each quiet while.
                let quiet = now_s.saturating_sub(since_s) / FLAP_MEMORY_S;
                entry.flaps = entry.flaps.saturating_sub(quiet.min(255) as u8).saturating_add(1);
                entry.since_s = now_s;
            }
        });
        if is_newer && self.suspicions.remove(&node).is_some() {
            self.meter.count(Count::Refuted);
            cx.emit(MembershipEvent::Refuted { node, incarnation });
        }
        self.sync.learned(node);
        if let Some(entry) = self.table.get(node) {
            if !before.is_live() {
                self.tombstones.remove(since_s, node);
                cx.emit(match was_told {
                    Told::All => MembershipEvent::Rejoined(member_of(entry)),
                    Told::Others | Told::Nobody => MembershipEvent::Joined(member_of(entry)),
                });
            } else if is_other {
                cx.emit(MembershipEvent::Updated(member_of(entry)));
            }
        }
        self.publish(cx, node, is_other || !before.is_live());
    }

    /// A member is gone: it has left, or did not refute in time.
    pub(super) fn on_gone(&mut self, cx: &mut Cx<'_>, node: NodeId, incarnation: u64, status: Status, age: u32) {
        self.suspicions.remove(&node);
        let since_s = seconds(cx.now()).saturating_sub(age);
        self.table.change(node, |entry| {
            let quiet = since_s.saturating_sub(entry.since_s) / FLAP_MEMORY_S;
            entry.flaps = entry.flaps.saturating_sub(quiet.min(255) as u8);
            (entry.incarnation, entry.status, entry.since_s) = (incarnation, status, since_s);
        });
        self.tombstones.insert(since_s, node);
        self.sync.learned(node);
        cx.emit(match status {
            Status::Left => MembershipEvent::Left { node, incarnation },
            _ => MembershipEvent::Down { node, incarnation },
        });
        self.publish(cx, node, false);
        while self.tombstones.len() > self.config.max_tombstones {
            self.meter.count(Count::Dropped);
            let least = self.tombstones.pop_least();
            least.into_iter().for_each(|node| self.forget(cx, node));
        }
    }

    /// Who is gone was there again meanwhile, and is gone again.
    fn note_gone_again(&mut self, cx: &mut Cx<'_>, node: NodeId, incarnation: u64, age: u32) {
        let Some((before_s, told)) = self.table.get(node).map(|entry| (entry.since_s, entry.told)) else { return };
        if u64::from(age) >= self.config.tombstone_time.as_secs() {
            return;
        }
        let since_s = seconds(cx.now()).saturating_sub(age);
        self.tombstones.remove(before_s, node);
        match told {
            Told::All => self.tombstones.insert(since_s, node),
            Told::Others | Told::Nobody => self.tombstones.insert_hearsay(since_s, node),
        }
        self.table.change(node, |entry| {
            (entry.incarnation, entry.since_s) = (incarnation, since_s);
            if told == Told::Nobody {
                entry.told = Told::Others;
            }
        });
        self.sync.learned(node);
    }

    /// Somebody says something of this node.
    fn on_claim_about_me(&mut self, cx: &mut Cx<'_>, from: NodeId, incarnation: u64, claim: &Claim) {
        // That it lived before it left need not be denied: that it left counts more.
        let lived = !self.phase.is_in() && matches!(claim, Claim::Alive(_) | Claim::Refuted(_));
        if incarnation < self.incarnation
            || incarnation == self.incarnation && lived
            || self.is_own_claim(incarnation, claim)
        {
            return;
        }
        if incarnation > self.incarnation && incarnation >= OWN_INCARNATION_MAX {
            return self.meter.count(Count::UpdatesRefused);
        }
        if matches!(claim, Claim::Suspect(_) | Claim::Down(_)) && from != self.me {
            self.health = self.health.saturating_add(1).min(self.config.health_max);
        }
        let profile_is_doubted = match claim {
            Claim::Alive(profile) => *profile != self.profile,
            Claim::Refuted(check) => *check != self.profile.check(),
            // Who was thought to be down or gone may have been forgotten.
            _ => !matches!(claim, Claim::Suspect(_)),
        };
        self.raise(cx, incarnation.saturating_add(1), profile_is_doubted);
    }

    /// Whether this is what the node says of itself.
    pub(super) fn is_own_claim(&self, incarnation: u64, claim: &Claim) -> bool {
        incarnation == self.incarnation
            && match claim {
                Claim::Alive(profile) => self.phase.is_in() && *profile == self.profile,
                Claim::Refuted(check) => self.phase.is_in() && *check == self.profile.check(),
                Claim::Left(_) => !self.phase.is_in(),
                Claim::Suspect(_) | Claim::Down(_) => false,
            }
    }

    /// Asserts that this node is as it says, at a higher incarnation.
    pub(super) fn raise(&mut self, cx: &mut Cx<'_>, incarnation: u64, in_full: bool) {
        self.incarnation = incarnation;
        self.meter.count(Count::Raises);
        cx.emit(MembershipEvent::Asserted { incarnation });
        self.publish(cx, self.me, in_full);
    }

    /// Forgets who has been gone for long: first it is not told any more, then it is not known any more.
    pub(super) fn reap(&mut self, cx: &mut Cx<'_>) {
        let time_s = u32::try_from(self.config.tombstone_time.as_secs()).unwrap_or(u32::MAX);
        let now_s = seconds(cx.now());
        while let Some((since_s, node)) = self.tombstones.first()
            && now_s.saturating_sub(since_s) >= time_s.saturating_mul(2)
        {
            self.tombstones.remove(since_s, node);
            self.forget(cx, node);
        }
        let fresh = now_s.saturating_sub(time_s.saturating_sub(1));
        let expiring: Vec<_> = (self.tombstones.before(fresh))
            .map_while(|node| self.table.get(node).filter(|entry| entry.told != Told::Nobody))
            .map(|entry| (entry.node, entry.told, entry.status))
            .collect();
        for (node, told, status) in expiring {
            self.table.change(node, |entry| entry.told = Told::Nobody);
            if told == Told::All {
                cx.emit(MembershipEvent::Forgotten { node });
            }
            if told == Told::All && status == Status::Down {
                self.reconnect.keep_in_mind(node);
            }
        }
    }

    /// Forgets one that is down or gone, and tells the application where it heard of it.
    fn forget(&mut self, cx: &mut Cx<'_>, node: NodeId) {
        if self.table.get(node).is_some_and(|entry| entry.told == Told::All) {
            cx.emit(MembershipEvent::Forgotten { node });
        }
        self.table.remove(node);
    }
}

/// For so long one coming back of a member counts, in seconds.
const FLAP_MEMORY_S: u32 = 60;
