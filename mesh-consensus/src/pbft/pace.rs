//! Primaries that are slow, but not so slow that requests run into their timeout.
//!
//! Two measures, as in Aardvark (Clement and others, NSDI 2009). A request that a replica knows is to be
//! *ordered* within [`order_timeout`](super::PbftConfig::order_timeout), unless the primary fills its batches: then
//! it has much to do. And in the time in which some request is left unordered for longer than a tick, a primary is
//! to get done at least [`throughput_floor`](super::PbftConfig::throughput_floor) percent of what the best of the
//! primaries before it did in any time. Where requests are ordered at once, nobody is judged: so the load may change
//! as it likes. Where all have become slower, one round of primaries is tried, and then the old measure is
//! forgotten.

use std::collections::VecDeque;
use std::time::Duration;

use mesh_core::{Context, Instant, StateMachine};

use super::request::Batch;
use super::{Pbft, PbftConfig};

/// How fast primaries order.
#[derive(Clone, Debug, Default)]
pub(super) struct Pace {
    this_tick: Tick,
    /// The ticks before it, as many as are judged together.
    recent: VecDeque<Tick>,
    /// Up to when it is known how long requests were left unordered.
    looked_at: Instant,
    /// The most that the primary of this view got done in as many ticks as are judged together.
    best: u64,
    /// That of the primaries before it, the last ones.
    former: VecDeque<u64>,
    /// When the primary last filled a batch.
    filled_at: Option<Instant>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Tick {
    /// What was executed, in bytes.
    done: u64,
    /// For how long a request was left unordered for longer than a tick.
    late: Duration,
}

impl Pace {
    /// Something new was executed.
    pub(super) const fn executed(&mut self, len: usize) {
        self.this_tick.done = self.this_tick.done.saturating_add(len as u64);
    }

    /// The primary gave a batch a sequence number; the oldest request in it waited since then.
    pub(super) fn ordered(&mut self, config: &PbftConfig, batch: &Batch, oldest: Option<Instant>, now: Instant) {
        self.waited(oldest, config.status_interval, now);
        if batch.requests().len() >= config.batch_max_requests || batch.len() >= config.batch_max_bytes {
            self.filled_at = Some(now);
        }
    }

    /// A request was unordered since then, until now.
    fn waited(&mut self, since: Option<Instant>, tick: Duration, now: Instant) {
        let Some(late_from) = since.map(|since| (since + tick).max(self.looked_at)) else { return };
        if late_from < now {
            self.this_tick.late += now.since(late_from);
            self.looked_at = now;
        }
    }

    /// Another view begins, in a group of so many.
    pub(super) fn begin_view(&mut self, replicas: usize) {
        self.former.push_back(self.best);
        if self.former.len() > replicas {
            self.former.pop_front();
        }
        let (former, looked_at) = (std::mem::take(&mut self.former), self.looked_at);
        *self = Self { former, looked_at, ..Self::default() };
    }

    /// A tick ends. Whether the primary gets too little done, by `judged` ticks.
    fn tick(&mut self, judged: u32, config: &PbftConfig) -> bool {
        self.recent.push_back(std::mem::take(&mut self.this_tick));
        if self.recent.len() > judged as usize {
            self.recent.pop_front();
        }
        let done: u64 = self.recent.iter().map(|tick| tick.done).sum();
        let late: Duration = self.recent.iter().map(|tick| tick.late).sum();
        self.best = self.best.max(done);
        let best = self.former.iter().max().copied().unwrap_or(0);
        let all = config.status_interval.saturating_mul(judged);
        // Of what the best did in all that time, the part for the time in which there was too much to do.
        let asked = u128::from(best) * u128::from(config.throughput_floor) * late.as_nanos();
        late >= all / 2 && u128::from(done) * 100 * all.as_nanos() < asked
    }
}

impl<S: StateMachine> Pbft<S> {
    /// A tick ends: whether the primary orders too late or too little.
    pub(super) fn is_primary_slow(&mut self, cx: &Context<'_, Self>) -> bool {
        let (now, config) = (cx.now(), &self.config);
        let judged = config.request_timeout.as_nanos().div_ceil(config.status_interval.as_nanos()).max(1);
        let unordered = self.pool.oldest_unordered().map(|since| since.max(self.patience_from));
        self.pace.waited(unordered, config.status_interval, now);
        let too_little = self.pace.tick(u32::try_from(judged).unwrap_or(u32::MAX), config);
        // While batches are full, those that wait may have to.
        let since = unordered.map(|since| self.pace.filled_at.map_or(since, |filled| since.max(filled)));
        too_little || since.is_some_and(|since| now.since(since) >= self.patient(self.config.order_timeout))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(250);

    /// A measure that knows a primary that did 100 in a tick.
    fn pace() -> Pace {
        let mut pace = Pace::default();
        assert!(!ticks(&mut pace, 4, 100, 100), "the first is measured by nobody");
        pace.begin_view(4);
        pace
    }

    /// Some ticks, in each of which so much is done, and there is too much to do for so many percent of it.
    fn ticks(pace: &mut Pace, count: usize, done: usize, late: u32) -> bool {
        (0..count).any(|_| {
            pace.executed(done);
            pace.this_tick.late = TICK * late / 100;
            pace.tick(4, &PbftConfig::default())
        })
    }

    #[test]
    fn who_orders_half_of_what_others_did_is_slow_but_only_where_requests_are_left_waiting() {
        assert!(!ticks(&mut pace(), 20, 0, 0), "nothing to do");
        assert!(!ticks(&mut pace(), 20, 10, 40), "much to do now and then");
        assert!(!ticks(&mut pace(), 20, 50, 100), "as much as is asked for");
        assert!(!ticks(&mut pace(), 20, 35, 60), "and in that time only");
        assert!(ticks(&mut pace(), 4, 49, 100));
        assert!(ticks(&mut pace(), 4, 25, 60));
    }

    #[test]
    fn time_in_which_a_request_was_left_waiting_counts_once_and_not_before_a_tick() {
        let at = |ms| Instant::ZERO + Duration::from_millis(ms);
        let mut pace = Pace::default();
        let late = |pace: &mut Pace, since, now| {
            pace.waited(Some(at(since)), TICK, at(now));
            pace.this_tick.late.as_millis()
        };
        assert_eq!(late(&mut pace, 0, 250), 0);
        assert_eq!(late(&mut pace, 0, 300), 50);
        assert_eq!(late(&mut pace, 20, 310), 60, "two at a time");
        assert_eq!(late(&mut pace, 305, 500), 60);
    }

    #[test]
    fn a_measure_is_forgotten_after_a_round_of_primaries() {
        let mut pace = pace();
        for _ in 0..4 {
            assert!(ticks(&mut pace, 4, 10, 100));
            pace.begin_view(4);
        }
        assert!(!ticks(&mut pace, 20, 10, 100), "all are as slow");
    }
}
