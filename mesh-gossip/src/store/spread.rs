//! Fresh updates, passed on at once: rumors that each node tells a few others, some times, over some hops.

use mesh_core::{Context, NodeId, wire};

use super::entry::{Entry, Path};
use super::message::{Message, Named, Pushed};
use super::{Store, Timer};

/// Between two rounds of an update lie so many delays of a push.
const ROUND_DELAYS: u32 = 5;

/// An update that waits to be passed on.
#[derive(Clone, Debug)]
pub(super) struct Fresh {
    pushed: Pushed,
    rounds: u8,
    len: usize,
}

impl Store {
    /// Passes an update on that has come over so many nodes.
    pub(super) fn push_later(&mut self, cx: &mut Context<'_, Self>, hops: u8, path: Path, entry: Entry) {
        if hops >= self.config.push_hops_max || self.peers.len() == 0 {
            return;
        }
        let pushed = Pushed { hops, named: Named { path, entry } };
        let len = wire::to_bytes(&pushed).len();
        self.fresh_bytes += len;
        self.fresh.push_back(Fresh { pushed, rounds: self.config.push_rounds, len });
        while self.fresh_bytes > self.config.push_bytes_max
            && let Some(oldest) = self.fresh.pop_front()
        {
            self.fresh_bytes -= oldest.len;
            self.meter.pushes_dropped.increment();
        }
        if !self.is_push_set && !self.fresh.is_empty() {
            self.is_push_set = true;
            cx.set_timer(Timer::PushDue, self.config.push_delay);
        }
    }

    /// One round: all that waits, to a few peers.
    pub(super) fn push(&mut self, cx: &mut Context<'_, Self>) {
        self.is_push_set = false;
        let to = self.peers.any(self.config.fan_out, cx.rng());
        let (mut batch, mut batch_len) = (Vec::new(), 0);
        let mut kept = std::collections::VecDeque::new();
        for mut fresh in std::mem::take(&mut self.fresh) {
            if batch_len + fresh.len > self.config.message_len - super::config::MESSAGE_OVERHEAD && !batch.is_empty() {
                cx.broadcast(to.clone(), Message::Push(std::mem::take(&mut batch)));
                batch_len = 0;
            }
            batch_len += fresh.len;
            batch.push(fresh.pushed.clone());
            self.meter.pushes.add(to.len() as u64);
            fresh.rounds -= 1;
            // With no others to tell, once is enough.
            if fresh.rounds > 0 && self.peers.len() > to.len() {
                kept.push_back(fresh);
            }
        }
        if !batch.is_empty() {
            cx.broadcast(to, Message::Push(batch));
        }
        self.fresh_bytes = kept.iter().map(|fresh: &Fresh| fresh.len).sum();
        self.fresh = kept;
        if !self.fresh.is_empty() {
            self.is_push_set = true;
            cx.set_timer(Timer::PushDue, self.config.push_delay * ROUND_DELAYS);
        }
    }

    pub(super) fn on_push(&mut self, cx: &mut Context<'_, Self>, from: NodeId, updates: Vec<Pushed>) {
        for Pushed { hops, named } in updates {
            if self.accept(cx, from, &named).is_ok_and(|accepted| accepted.changed) {
                self.push_later(cx, hops.saturating_add(1), named.path, named.entry);
            }
        }
    }
}
