//! The topology optimiser: swaps far links for near ones, as X-BOT (Leitão et al., 2009) does.
//!
//! A node measures the round trip to somebody it is not linked with, and where that is at most half of its
//! farthest link's, asks for a link *instead of* that one. The other agrees where it has room, or gives up a link
//! that is farther for it. The two who lost a link are named to each other, so that degrees stay as they were.
//! A node chooses only so many links for being near that one fewer than `degree_min` are; the others stay random,
//! and it is those that hold the overlay together.

use std::time::Duration;

use mesh_core::{Context, NodeId};

use super::message::{Message, Need, Peer};
use super::view::Link;
use super::{Overlay, Timer};

/// How often somebody is measured before a link is swapped.
const MEASURES: u32 = 4;

/// Somebody who may be nearer than a neighbour.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measuring {
    candidate: Peer,
    times: u32,
    total: Duration,
}

impl Overlay {
    /// The farthest link that may be swapped for a near one; others who ask may have the guest's at most.
    fn farthest(&self, for_others: bool) -> Option<(NodeId, Link, Duration)> {
        let near = self.view.links.values().filter(|link| link.near).count();
        let guest = self.view.guest().map(|(node, _)| node);
        let may_go = |node: NodeId, link: &Link| {
            !self.view.is_bridge(node)
                && (link.near || near + 1 < self.config.degree_min)
                && (!for_others || guest == Some(node))
        };
        let links = self.view.links.iter().filter(|(node, link)| may_go(**node, link));
        let measured = links.filter_map(|(node, link)| Some((*node, *link, link.round_trip?)));
        measured.max_by_key(|(_, _, round_trip)| *round_trip)
    }

    /// A link to give up for somebody so near.
    pub(super) fn farther_than(&self, micros: u32) -> Option<NodeId> {
        let near = Duration::from_micros(micros.into());
        self.farthest(true).filter(|(_, _, far)| near * 3 / 2 < *far).map(|(node, _, _)| node)
    }

    pub(super) fn on_improve_due(&mut self, cx: &mut Context<'_, Self>) {
        let Some(period) = self.config.improve else { return };
        let delay = cx.rng().duration_between(period / 2, period * 3 / 2);
        cx.set_timer(Timer::ImproveDue, delay);
        self.improve(cx);
    }

    /// Begins to measure somebody who may be nearer than the farthest neighbour.
    pub(super) fn improve(&mut self, cx: &mut Context<'_, Self>) {
        self.measuring = None;
        // In a full mesh all are linked, and who lacks links has other worries.
        if self.view.links.len() < self.config.degree || !self.view.asking.is_empty() || self.farthest(false).is_none()
        {
            return;
        }
        let now = cx.now();
        if let Some(candidate) = self.view.candidate(now, self.config.passive_max, cx.rng()) {
            self.measuring = Some(Measuring { candidate, times: 0, total: Duration::ZERO });
            let ping = self.ping(cx);
            cx.send(candidate.node, ping);
        }
    }

    /// The round trip to somebody without a link.
    pub(super) fn on_measured(&mut self, cx: &mut Context<'_, Self>, from: NodeId, round_trip: Duration) {
        let Some(measuring) = self.measuring.as_mut().filter(|measuring| measuring.candidate.node == from) else {
            return;
        };
        measuring.times += 1;
        measuring.total += round_trip;
        if measuring.times < MEASURES {
            let ping: Message = self.ping(cx);
            return cx.send(from, ping);
        }
        let (candidate, mean) = (measuring.candidate, measuring.total / MEASURES);
        self.measuring = None;
        let Some((node, link, far)) = self.farthest(false) else { return };
        let can_spare = usize::from(link.degree) > self.config.degree_min;
        if can_spare && mean * 2 <= far && self.view.is_free(candidate.node) && self.view.asking.is_empty() {
            let micros = u32::try_from(mean.as_micros()).unwrap_or(u32::MAX);
            self.meter.swaps.increment();
            self.ask(cx, candidate, Need::Nearer { micros }, Some(node), true);
        }
    }
}
