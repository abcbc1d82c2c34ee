//! Who answers: peers are asked in turn, and who does not answer a few times is lost for this node.

use std::time::Duration;

use mesh_core::{Instant, NodeId};

use super::{Cx, Discovery, DiscoveryEvent, Message, Timer};
use crate::reputation::Observation;

/// A question that is not answered yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Probe {
    node: NodeId,
    number: u64,
    at: Instant,
}

impl Discovery {
    pub(super) fn on_probe_due(&mut self, cx: &mut Cx<'_>) {
        let interval = if self.peers.any_unmet() { self.config.probe_interval / 5 } else { self.config.probe_interval };
        let interval = interval.max(self.config.probe_timeout);
        let delay = cx.rng().duration_between(interval, interval * 5 / 4);
        cx.set_timer(Timer::ProbeDue, delay);
        if self.probe.is_some() {
            return;
        }
        let Some(node) = self.peers.next_to_probe() else { return };
        if let Some(known) = self.peers.known.get_mut(&node) {
            known.probed = cx.now();
        }
        let probe = Probe { node, number: cx.rng().next_u64(), at: cx.now() };
        self.probe = Some(probe);
        cx.send(node, Message::Ping { number: probe.number });
        cx.set_timer(Timer::Unanswered, self.config.probe_timeout);
    }

    pub(super) fn on_unanswered(&mut self, cx: &mut Cx<'_>) {
        let Some(Probe { node, .. }) = self.probe.take() else { return };
        self.reputation.observe(cx.now(), node, Observation::Missed);
        let Some(known) = self.peers.known.get_mut(&node) else { return };
        known.misses = known.misses.saturating_add(1);
        if known.misses >= self.config.probes && !known.lost {
            known.lost = true;
            self.meter.lost.increment();
            cx.emit(DiscoveryEvent::Lost { node });
        } else if !known.lost {
            // It is asked again at once.
            cx.set_timer(Timer::ProbeDue, Duration::ZERO);
        }
    }

    pub(super) fn on_pong(&mut self, cx: &mut Cx<'_>, from: NodeId, number: u64) {
        if let Some(probe) = self.probe.filter(|probe| (probe.node, probe.number) == (from, number)) {
            self.probe = None;
            cx.cancel_timer(Timer::Unanswered);
            let latency = cx.now().since(probe.at);
            self.reputation.observe(cx.now(), from, Observation::Delivered { latency });
        }
    }

    pub(super) fn heard(&mut self, cx: &mut Cx<'_>, node: NodeId) {
        let now = cx.now();
        let Some(known) = self.peers.known.get_mut(&node) else { return };
        (known.heard, known.misses) = (Some(now), 0);
        if std::mem::take(&mut known.lost) {
            cx.emit(DiscoveryEvent::Returned { node });
        }
    }
}
