//! Time at work: entries expire, and tombstones are collected once nobody can need them.
//!
//! A tombstone may go when no peer can bring back what it deletes: when each has been found *in touch*,
//! its replica equal with this one, since the tombstone came here, and the tombstone is older than any
//! message on its way. Tombstones up to the *horizon* are *settled*: no longer compared, nor taken from
//! others. The horizon spreads with the digests, so that a node that has not collected yet does not offer
//! the others what they have.
//!
//! A peer that is away holds this up for `tombstone_ttl` at most, and not once it is removed. What it
//! brings back then is told apart by how far this node has had all that its writer, or who holds it, had: what
//! was here and is not any more was deleted. Nodes that are equal tell each other how far that is for those
//! who are away. For nodes that have never met it, the time since when somebody was away is passed on with
//! the digests.

use std::sync::Arc;
use std::time::Duration;

use mesh_core::{Context, NodeId};

use super::entry::Path;
use super::message::{Collected, Gave, Memory, Record, State};
use super::{Store, Timer};
use crate::crdt::HybridTime;

/// Of so many who are away is told with each digest.
const AWAY_MAX: usize = 8;

const MILLISECOND: Duration = Duration::from_millis(1);

impl Store {
    /// Wakes when the next entry expires, or tombstones may have become old enough.
    pub(super) fn set_sweep_timer(&mut self, cx: &mut Context<'_, Self>) {
        let now = self.time_of_day(cx);
        let until = |at: HybridTime| Duration::from_millis(at.millis().saturating_sub(now.millis())) + MILLISECOND;
        let expiry = self.table.next_expiring().map(|(at, _)| until(at));
        let collection = (self.table.dead().len() > 0).then(|| self.config.tombstone_grace / 4);
        let Some(wait) = expiry.into_iter().chain(collection).min() else { return };
        let at = cx.now() + wait;
        if self.sweep_at.is_none_or(|set| at < set) {
            self.sweep_at = Some(at);
            cx.set_timer(Timer::SweepDue, wait);
        }
    }

    pub(super) fn sweep(&mut self, cx: &mut Context<'_, Self>) {
        self.sweep_at = None;
        self.expire(cx);
        self.collect(cx);
        self.set_sweep_timer(cx);
    }

    fn expire(&mut self, cx: &mut Context<'_, Self>) {
        let now = self.time_of_day(cx);
        while let Some((at, path)) = self.table.next_expiring()
            && at <= now
        {
            let Some(slot) = self.table.get(&path) else { break };
            let mut entry = slot.entry.clone();
            if entry.expire(path.tag, &self.types).is_err() {
                // States are checked when they come in.
                break;
            }
            self.put(cx, Path::clone(&path), entry);
            self.meter.expired.increment();
        }
    }

    fn collect(&mut self, cx: &mut Context<'_, Self>) {
        let now = self.clock.tick(self.time_of_day(cx));
        let (settled, outlived) = (now.before(self.config.tombstone_grace), now.before(self.config.tombstone_ttl));
        let present = self.peers.iter().filter(|(_, peer)| !peer.gone);
        let all_in_touch = present.map(|(_, peer)| peer.in_touch.unwrap_or_default()).min().unwrap_or(now);
        let mut collected = Vec::new();
        for (updated, path) in self.table.dead() {
            let Some(slot) = self.table.get(path) else { continue };
            if *updated > settled || (slot.arrived > all_in_touch && *updated > outlived) {
                break;
            }
            collected.push((*updated, slot.arrived, path.clone()));
        }
        let Some((horizon, ..)) = collected.last() else { return };
        self.table.settle(*horizon);
        let known_by = collected.iter().map(|(_, arrived, _)| *arrived).max().unwrap_or_default();
        self.collected = self.collected.max(known_by);
        self.note_who_is_away(cx, known_by);
        for (_, _, path) in &collected {
            self.table.remove(path);
        }
        self.meter.collected.add(collected.len() as u64);
    }

    /// Notes until when everybody was in touch, if somebody was not when tombstones went that came here
    /// before `known_by`.
    fn note_who_is_away(&mut self, cx: &mut Context<'_, Self>, known_by: HybridTime) {
        let is_away = |in_touch: Option<HybridTime>| in_touch.is_some_and(|in_touch| in_touch < known_by);
        let away = self.peers.iter().filter(|(_, peer)| is_away(peer.in_touch));
        // It may have lost its memory since it gave what it had.
        let away = away.map(|(_, peer)| peer.gave.upto.max(peer.in_touch.unwrap_or_default())).min();
        let collected = away.map_or(self.state.collected, |in_touch| Collected { upto: known_by, in_touch });
        let memory = Memory { knows_deletions: true, ..self.state.memory };
        self.update_state(cx, State { memory, horizon: self.table.horizon(), collected, ..self.state });
    }

    /// Takes over what another says of settled tombstones, as far as it can be true.
    pub(super) fn adopt(&mut self, cx: &mut Context<'_, Self>, horizon: HybridTime, collected: Collected) {
        let latest = self.time_of_day(cx).before(self.config.tombstone_grace / 2);
        if horizon <= latest {
            self.table.settle(horizon);
        }
        let is_possible =
            collected.in_touch <= collected.upto && collected.upto <= self.clock.tick(self.time_of_day(cx));
        let collected = if is_possible { collected.max(self.state.collected) } else { self.state.collected };
        self.update_state(cx, State { horizon: self.table.horizon(), collected, ..self.state });
    }

    /// Some of those who have been away for long, and what of theirs is here.
    pub(super) fn away(&mut self, cx: &mut Context<'_, Self>) -> Vec<(NodeId, Gave)> {
        let long_ago = self.time_of_day(cx).before(self.config.tombstone_ttl / 4);
        let away = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.in_touch.is_some_and(|time| time < long_ago) && peer.gave.is_known());
        let mut away: Vec<_> = away.map(|(node, peer)| (node, peer.gave)).collect();
        cx.rng().shuffle(&mut away);
        away.truncate(AWAY_MAX);
        away
    }

    /// What is remembered has changed, and nothing else.
    pub(super) fn remember(&mut self, cx: &mut Context<'_, Self>, memory: Memory) {
        self.update_state(cx, State { memory, ..self.state });
    }

    fn update_state(&mut self, cx: &mut Context<'_, Self>, state: State) {
        if state != self.state {
            self.state = state;
            if self.config.durable {
                self.persist(cx, Record::State(state));
            }
        }
    }

    /// Drops an entry without a trace: it was deleted elsewhere, and the tombstone is collected.
    pub(super) fn forget(&mut self, cx: &mut Context<'_, Self>, path: &Arc<Path>) {
        if self.table.remove(path).is_some() && self.config.durable {
            self.persist(cx, Record::Forgotten(Path::clone(path)));
        }
    }
}
