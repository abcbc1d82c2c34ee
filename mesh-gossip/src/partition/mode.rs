//! What the application may do, and since when there is a partition: with hysteresis both.

use std::collections::BTreeSet;
use std::time::Duration;

use mesh_core::{Context, Counter, Gauge, Instant, Metrics, NodeId};

use super::command::{Mode, PartitionEvent};
use super::{Partition, Timer};

/// Within so many times the first wait a second interruption makes waiting necessary.
const RELAPSE: u32 = 6;

/// What the application may do.
#[derive(Clone, Debug, Default)]
pub(super) struct Permit {
    pub(super) mode: Mode,
    /// Until when this node may go on.
    pub(super) until: Instant,
    /// By whose lease.
    pub(super) by: NodeId,
    /// Since when it might have, without a break.
    since: Option<Instant>,
    /// When it was last interrupted.
    interrupted: Option<Instant>,
    /// For how long it has to be without a break to go on again.
    hold: Duration,
}

/// What is told of partitions.
#[derive(Clone, Debug, Default)]
pub(super) struct Outage {
    /// When a partition was noticed, while there is one.
    since: Option<Instant>,
    /// When the first came back, and when the last did and this node went on.
    back: Option<(Instant, Instant)>,
    /// Who was missed when it was removed, and has not come back.
    removed: BTreeSet<NodeId>,
    /// Since when it looks as if there were none any more, without a break.
    over: Option<Instant>,
    pub(super) last_recovery: Option<Duration>,
}

impl Outage {
    pub(super) const fn is_on(&self) -> bool {
        self.since.is_some()
    }

    /// Somebody can be reached again.
    pub(super) fn note_back(&mut self, now: Instant) {
        if self.since.is_some() {
            let first = self.back.map_or(now, |(first, _)| first);
            self.back = Some((first, now));
        }
    }

    /// This node goes on.
    const fn note_going(&mut self, now: Instant) {
        if let Some((_, last)) = &mut self.back {
            *last = now;
        }
    }

    /// A node is removed that cannot be reached. It has not come back by that. No more than `max` are remembered.
    pub(super) fn note_removed(&mut self, node: NodeId, max: usize) {
        if self.since.is_some() && self.removed.len() < max {
            self.removed.insert(node);
        }
    }

    /// A node is known, again perhaps.
    pub(super) fn note_known(&mut self, node: NodeId) {
        self.removed.remove(&node);
    }
}

/// Counts what happens, where anybody wants to know.
#[derive(Clone, Debug, Default)]
pub(super) struct Meter {
    interruptions: Counter,
    partitions: Counter,
    pub(super) terms: Counter,
    pub(super) strangers: Counter,
    pub(super) refused: Counter,
    continues: Gauge,
    recovery_ms: Gauge,
}

impl Meter {
    pub(super) fn new(metrics: &Metrics) -> Self {
        Self {
            interruptions: metrics.counter("partition_interruptions"),
            partitions: metrics.counter("partition_partitions"),
            terms: metrics.counter("partition_terms"),
            strangers: metrics.counter("partition_strangers"),
            refused: metrics.counter("partition_refused"),
            continues: metrics.gauge("partition_continues"),
            recovery_ms: metrics.gauge("partition_recovery_ms"),
        }
    }
}

impl Partition {
    /// Lets the application go on until then, at least, by the lease of a coordinator.
    pub(super) fn permit(&mut self, cx: &mut Context<'_, Self>, by: NodeId, until: Instant) {
        if until > self.permit.until {
            (self.permit.until, self.permit.by) = (until, by);
            self.judge(cx);
        }
    }

    /// Decides what the application may do, and whether there is a partition.
    pub(super) fn judge(&mut self, cx: &mut Context<'_, Self>) {
        let now = cx.now();
        let mut next = None;
        if now < self.permit.until {
            let since = *self.permit.since.get_or_insert(now);
            let resume = since + self.permit.hold;
            if now >= resume {
                self.set_mode(cx, Mode::Continue);
                next = Some(self.permit.until);
            } else {
                next = Some(resume.min(self.permit.until));
            }
        } else if self.permit.since.take().is_some() {
            self.interrupted(now);
            self.set_mode(cx, Mode::ReadOnly);
        }
        let healed = self.watch(cx);
        if let Some(next) = next.into_iter().chain(healed).min() {
            cx.set_timer(Timer::Judge, next.since(now));
        }
    }

    /// A node that is interrupted again and again waits longer and longer.
    fn interrupted(&mut self, now: Instant) {
        let permit = &mut self.permit;
        let relapse = RELAPSE * self.config.hold.max(permit.hold);
        let is_relapse = permit.interrupted.is_some_and(|before| now.since(before) < relapse);
        permit.hold = match is_relapse {
            true => (2 * permit.hold).clamp(self.config.hold, self.config.hold_max),
            false => Duration::ZERO,
        };
        permit.interrupted = Some(now);
    }

    fn set_mode(&mut self, cx: &mut Context<'_, Self>, mode: Mode) {
        if std::mem::replace(&mut self.permit.mode, mode) == mode {
            return;
        }
        if mode == Mode::ReadOnly {
            self.meter.interruptions.increment();
        } else {
            self.outage.note_going(cx.now());
        }
        self.meter.continues.set(u64::from(mode == Mode::Continue));
        cx.emit(PartitionEvent::ModeChanged(mode));
    }

    /// Notices that a partition began, healed, or ended without; when to look again.
    fn watch(&mut self, cx: &mut Context<'_, Self>) -> Option<Instant> {
        let (now, view) = (cx.now(), &self.view);
        let (reachable, known) = (view.reachable_len(), view.known_len());
        let goes_on = self.permit.mode == Mode::Continue;
        let Some(since) = self.outage.since else {
            // Where only the coordinator crashed, another one takes over sooner.
            let stopped = self.permit.interrupted.filter(|_| !goes_on && reachable < known);
            let stopped = stopped.map(|at| at + self.config.stable_after);
            if view.share(0) < self.config.detect_below || stopped.is_some_and(|since| now >= since) {
                self.outage.since = Some(now);
                self.meter.partitions.increment();
                cx.emit(PartitionEvent::Detected { reachable, known });
                return None;
            }
            return stopped;
        };
        let is_back = view.share(self.outage.removed.len()) >= self.config.heal_at;
        if !goes_on || !is_back && view.share(0) < self.config.heal_at {
            self.outage.over = None;
            return None;
        }
        let over = *self.outage.over.get_or_insert(now);
        let (first, last) = self.outage.back.unwrap_or((over, over));
        let told = over.max(last).max(view.changed()) + self.config.stable_after;
        if now < told {
            return Some(told);
        }
        let last_recovery = if is_back { Some(last.since(first)) } else { self.outage.last_recovery };
        self.outage = Outage { last_recovery, ..Outage::default() };
        cx.emit(if is_back {
            let (lasted, recovery) = (last.since(since), last.since(first));
            self.meter.recovery_ms.set(u64::try_from(recovery.as_millis()).unwrap_or(u64::MAX));
            PartitionEvent::Healed { lasted, recovery }
        } else {
            PartitionEvent::Ended { lasted: over.since(since) }
        });
        None
    }
}
