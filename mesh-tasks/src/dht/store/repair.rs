//! Who keeps a shard: other replicas where the ring names others, and how all hear of it.
//!
//! A group changes in steps, each of which is a change of the shard. Who is new learns it first. Then the new members
//! and the former ones must both agree to what counts, until that itself counts (joint consensus: Ongaro and Ousterhout,
//! 2014); then the new ones are enough. So there is no moment at which two groups could decide, whatever nodes think of
//! who is there: their views say only where shards *should* be.

use std::collections::BTreeSet;

use mesh_core::NodeId;

use super::lead::Effect;
use super::message::{Message, Route};
use super::record::Record;
use super::shard::{Shard, ShardId, Stamp, What};
use super::{Context, DhtEvent, DhtStore};
use crate::group::Replica;
use crate::task::Epoch;

/// The most shards led here whose replicas change at a time.
const MOVES_MAX: usize = 64;

/// The most routes in a message.
const ROUTES_MAX: usize = 512;

impl DhtStore {
    // Other replicas.

    /// The nodes that should keep a shard, its leader first.
    pub(super) fn by_ring(&self, id: ShardId) -> Vec<NodeId> {
        let place = self.places.get(id.0 as usize).copied().unwrap_or_default();
        self.ring.replicas_across_zones(place, self.config.replicas).collect()
    }

    /// Looks at the shards led here for whether they are kept where they should be.
    pub(super) fn repair(&mut self, cx: &mut Context<'_>) {
        if self.read_only || !std::mem::take(&mut self.repair_wanted) {
            return;
        }
        let led: Vec<ShardId> =
            self.shards.iter().filter(|(_, shard)| shard.lead.is_some()).map(|(id, _)| *id).collect();
        let mut moving = 0;
        for id in led {
            let Some(shard) = self.shards.get(&id) else { continue };
            let is_moving = !shard.group().former.is_empty() || !shard.group().learners.is_empty();
            moving += usize::from(is_moving);
            if is_moving || moving < MOVES_MAX {
                let moved = self.repair_shard(cx, id);
                moving += usize::from(moved && !is_moving);
            } else {
                self.repair_wanted = true;
            }
        }
    }

    /// Takes the next step to where a shard should be kept; whether there was one.
    fn repair_shard(&mut self, cx: &mut Context<'_>, id: ShardId) -> bool {
        let now = cx.now();
        let Some(shard) = self.shards.get(&id) else { return false };
        let Some(lead) = &shard.lead else { return false };
        let group = shard.group();
        if !group.former.is_empty() || lead.counted == 0 {
            // What counts is waited for.
            self.repair_wanted = true;
            return false;
        }
        // Those who are gone for a moment, or were not met yet, are waited for.
        let is_away = |replica: &Replica| {
            let since = match self.peers.get(&replica.node) {
                _ if replica.node == self.me => return false,
                Some(peer) if peer.is_ready() => return false,
                Some(peer) => peer.life.down_since,
                None => self.started_at,
            };
            now.since(since) < self.config.repair_after
        };
        if group.members.iter().any(is_away) {
            self.repair_wanted = true;
            return false;
        }
        let owner = self.by_ring(id).first().copied().unwrap_or(self.me);
        let wanted = self.wanted(id, &group.members);
        let is_same =
            wanted.len() == group.members.len() && wanted.iter().all(|replica| group.members.contains(replica));
        if !is_same || !group.learners.is_empty() {
            self.regroup(cx, id, wanted);
            return true;
        }
        if owner != self.me && now.since(lead.since) >= self.config.takeover_after {
            let replica = group.members.iter().find(|replica| replica.node == owner);
            let acked = replica.and_then(|replica| lead.followers.get(replica)?.acked);
            if acked == Some(shard.at()) {
                self.meter.handed_over.increment();
                self.say(cx, owner, Message::TakeOver(id));
            }
        }
        if owner != self.me {
            self.repair_wanted = true;
        }
        false
    }

    /// The replicas that a shard should have: a member is let go only for another one.
    fn wanted(&self, id: ShardId, members: &[Replica]) -> Vec<Replica> {
        let mut wanted: Vec<Replica> = self.by_ring(id).into_iter().filter_map(|node| self.replica_of(node)).collect();
        let kept = members.iter().filter(|replica| !self.is_gone(replica));
        for replica in kept {
            if wanted.len() < self.config.replicas && !wanted.contains(replica) {
                wanted.push(*replica);
            }
        }
        wanted
    }

    /// Changes the replicas of a shard: those who are new learn it first.
    fn regroup(&mut self, cx: &mut Context<'_>, id: ShardId, wanted: Vec<Replica>) {
        let Some(shard) = self.shards.get(&id) else { return };
        let Some(lead) = &shard.lead else { return };
        self.repair_wanted = true;
        let mut group = shard.group().clone();
        let is_new = |replica: &&Replica| !group.members.contains(replica);
        let learners: Vec<Replica> = wanted.iter().filter(is_new).copied().collect();
        if learners.iter().any(|replica| lead.leaving.contains_key(replica)) {
            return;
        }
        if learners != group.learners {
            let gone =
                group.learners.iter().filter(|replica| !learners.contains(replica) && !group.members.contains(replica));
            let gone: Vec<Replica> = gone.copied().collect();
            let effect = (!gone.is_empty()).then_some(Effect::Dismiss);
            group.learners = learners;
            // What one of them had when it was a replica before is found out anew.
            let lead = self.shards.get_mut(&id).and_then(|shard| shard.lead.as_mut());
            if let Some(lead) = lead {
                lead.followers.retain(|replica, _| group.all().any(|other| other == replica));
            }
            self.dismiss(id, gone);
            return self.propose(cx, id, What::Regrouped(group), effect);
        }
        let has_learnt = |replica: &Replica| {
            let acked = lead.followers.get(replica).and_then(|follower| follower.acked);
            replica.node == self.me || acked.is_some_and(|acked| shard.has_change(acked))
        };
        if learners.iter().all(has_learnt) {
            group.learners.clear();
            group.former = std::mem::replace(&mut group.members, wanted);
            self.meter.regrouped.increment();
            self.propose(cx, id, What::Regrouped(group), Some(Effect::Regroup));
        }
    }

    /// A majority of the former replicas and one of the present ones know the present ones: that is enough from now on.
    pub(super) fn on_regrouped(&mut self, cx: &mut Context<'_>, id: ShardId) {
        let Some(shard) = self.shards.get(&id) else { return };
        let mut group = shard.group().clone();
        let mut gone = std::mem::take(&mut group.former);
        gone.retain(|replica| !group.members.contains(replica));
        self.dismiss(id, gone);
        self.propose(cx, id, What::Regrouped(group), Some(Effect::Dismiss));
        self.when_counted(cx, id, Effect::Tell);
    }

    // Replicas that are none any more.

    /// Has replicas forget a shard, as soon as the next change counts.
    fn dismiss(&mut self, id: ShardId, replicas: Vec<Replica>) {
        let me = self.me;
        let Some(shard) = self.shards.get_mut(&id) else { return };
        let at = Stamp { number: shard.at().number + 1, ..shard.at() };
        let Some(lead) = &mut shard.lead else { return };
        lead.leaving.extend(replicas.into_iter().filter(|replica| replica.node != me).map(|replica| (replica, at)));
    }

    /// Tells those who are to forget a shard.
    pub(super) fn send_dismissals(&mut self, cx: &mut Context<'_>, id: ShardId) {
        let Some(lead) = self.shards.get(&id).and_then(|shard| shard.lead.as_ref()) else { return };
        let (epoch, counted, leaving) = (lead.epoch, lead.counted, lead.leaving.clone());
        for (replica, at) in leaving {
            if self.is_gone(&replica) {
                self.on_dropped(id, epoch, replica);
            } else if at.number <= counted && self.is_alive(&replica) {
                self.say(cx, replica.node, Message::Drop(id, epoch, at));
            }
        }
    }

    pub(super) fn on_drop(&mut self, cx: &mut Context<'_>, from: NodeId, id: ShardId, epoch: Epoch, at: Stamp) {
        if !self.obey(cx, from, id, epoch) {
            return;
        }
        if self.shards.get(&id).is_some_and(|shard| shard.is_kept() && shard.at() <= at) {
            self.forget(cx, id);
        }
        self.say(cx, from, Message::Dropped(id, epoch));
    }

    pub(super) fn on_dropped(&mut self, id: ShardId, epoch: Epoch, replica: Replica) {
        let lead = self.shards.get_mut(&id).and_then(|shard| shard.lead.as_mut());
        if let Some(lead) = lead.filter(|lead| lead.epoch == epoch) {
            lead.leaving.remove(&replica);
            lead.followers.remove(&replica);
        }
    }

    /// Keeps a shard no more.
    fn forget(&mut self, cx: &mut Context<'_>, id: ShardId) {
        self.step_down(id);
        let Some(shard) = self.shards.get_mut(&id) else { return };
        self.kept_keys -= shard.content().keys();
        self.kept_bytes -= shard.content().bytes();
        shard.forget();
        let promised = shard.promised;
        self.incoming.remove(&id);
        self.ballots.remove(&id);
        self.persist(cx, || Record::Dropped(id, promised));
    }

    // Routes.

    /// The highest epoch of a shard that is known to have had a leader.
    pub(super) fn known_epoch(&self, id: ShardId) -> Epoch {
        let here = self.shards.get(&id).map(|shard| shard.heard.max(shard.at().epoch)).unwrap_or_default();
        let told = self.leaders.get(&id).copied().unwrap_or_default();
        let route = self.routes.get(&id).map(|route| route.at.epoch).unwrap_or_default();
        here.max(told).max(route)
    }

    /// A shard led here is kept by these, and by no others.
    pub(super) fn tell_route(&mut self, id: ShardId) {
        let Some(shard) = self.shards.get(&id).filter(|shard| shard.lead.is_some()) else { return };
        if shard.group().former.is_empty() {
            let route = Route { shard: id, at: shard.at(), members: shard.group().members.clone() };
            self.routes.insert(id, route);
            self.news.insert(id);
        }
    }

    /// Tells all what is new.
    pub(super) fn send_news(&mut self, cx: &mut Context<'_>) {
        if self.news.is_empty() {
            return;
        }
        let news = std::mem::take(&mut self.news);
        let routes: Vec<Route> = news.iter().filter_map(|id| self.routes.get(id).cloned()).collect();
        for node in self.ready_peers() {
            self.send_routes(cx, node, &routes);
        }
    }

    fn ready_peers(&self) -> Vec<NodeId> {
        self.peers.iter().filter(|(_, peer)| peer.is_ready()).map(|(node, _)| *node).collect()
    }

    /// Tells a node all that is known.
    pub(super) fn tell_all_routes(&mut self, cx: &mut Context<'_>, node: NodeId) {
        let routes: Vec<Route> = self.routes.values().cloned().collect();
        self.send_routes(cx, node, &routes);
    }

    fn send_routes(&mut self, cx: &mut Context<'_>, node: NodeId, routes: &[Route]) {
        for routes in routes.chunks(ROUTES_MAX) {
            self.say(cx, node, Message::Routes(routes.to_vec()));
        }
    }

    /// Tells somebody who this node is and who keeps the shards that are kept here: what was lost on its way is told in the end.
    pub(super) fn gossip(&mut self, cx: &mut Context<'_>) {
        let peers = self.ready_peers();
        let Some(node) = cx.rng().choose(&peers).copied() else { return };
        self.say_hello_again(cx, node);
        let kept = self.shards.iter().filter(|(_, shard)| shard.is_kept()).filter_map(|(id, _)| self.routes.get(id));
        let routes: Vec<Route> = kept.cloned().collect();
        self.send_routes(cx, node, &routes);
    }

    pub(super) fn on_routes(&mut self, cx: &mut Context<'_>, from: NodeId, routes: Vec<Route>) {
        let mut newer = Vec::new();
        let mut is_news = false;
        for route in routes {
            if route.shard.0 >= self.config.shards {
                self.meter.invalid.increment();
                continue;
            }
            match self.routes.get(&route.shard) {
                Some(known) if known.at > route.at => newer.push(known.clone()),
                Some(known) if known.at == route.at => {}
                _ => {
                    is_news = true;
                    self.on_route(cx, route);
                }
            }
        }
        self.send_routes(cx, from, &newer);
        if is_news {
            self.look_for_losses(cx);
        }
    }

    fn on_route(&mut self, cx: &mut Context<'_>, route: Route) {
        let (id, me) = (route.shard, self.replica());
        // No leader of that epoch counts on what this node has, as it was told nothing of it; nor does a later one, as none
        // was promised anything.
        let is_replaced = |shard: &Shard| {
            let (epoch, promised) = (route.at.epoch, shard.promised);
            let is_told = shard.heard.max(shard.at().epoch) >= epoch;
            shard.is_kept() && !is_told && (promised <= epoch || promised.node == me.node)
        };
        if !route.members.contains(&me) && self.shards.get(&id).is_some_and(|shard| is_replaced(shard)) {
            self.forget(cx, id);
        }
        self.routes.insert(id, route);
    }

    /// Finds out of which shards most replicas are gone.
    pub(super) fn look_for_losses(&mut self, cx: &mut Context<'_>) {
        let is_lost = |route: &&Route| {
            let gone = route.members.iter().filter(|replica| self.is_gone(replica)).count();
            2 * gone >= route.members.len() && gone > 0
        };
        let lost: BTreeSet<ShardId> = self.routes.values().filter(is_lost).map(|route| route.shard).collect();
        for shard in lost.difference(&self.lost) {
            self.meter.lost.increment();
            cx.emit(DhtEvent::Lost { shard: *shard });
        }
        for shard in self.lost.difference(&lost) {
            cx.emit(DhtEvent::Recovered { shard: *shard });
        }
        self.lost = lost;
    }
}
