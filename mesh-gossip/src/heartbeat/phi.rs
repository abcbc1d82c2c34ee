//! The phi accrual failure detector (Hayashibara, Défago, Yared, Katayama, 2004).
//!
//! Instead of "up" or "down" it tells how unlikely it is that a heartbeat is merely late:
//! φ = -log10 P(a heartbeat comes later than now), with the intervals seen taken as normally distributed.
//! φ = 1 is wrong one time in ten, φ = 8 one time in a hundred million, as far as the model holds.
//!
//! Because φ grows with time alone, each φ is a deadline: [`PhiDetector::deadline`] tells it, so that a timer
//! can be set and nobody polls. Sums are of whole microseconds, so two nodes that saw the same agree.
//!
//! ```
//! use std::time::Duration;
//! use mesh_core::Instant;
//! use mesh_gossip::heartbeat::{PhiConfig, PhiDetector};
//!
//! let second = Duration::from_secs(1);
//! let mut detector = PhiDetector::new(PhiConfig { pause: Duration::ZERO, ..PhiConfig::default() }, second);
//! let mut now = Instant::ZERO;
//! for _ in 0..20 {
//!     now += second;
//!     detector.heard(now);
//! }
//! assert!(detector.phi(now + second / 2) < 0.1);
//! assert!(detector.phi(now + 10 * second) > 8.0);
//! let deadline = detector.deadline(8.0);
//! assert!((detector.phi(deadline) - 8.0).abs() < 0.01);
//! ```

use std::collections::VecDeque;
use std::time::Duration;

use mesh_core::Instant;

/// Beyond this φ nothing is told apart any more.
pub const PHI_MAX: f64 = 100.0;

/// How a detector takes what it sees.
#[derive(Clone, Debug, PartialEq)]
pub struct PhiConfig {
    /// Intervals that are remembered, 2 at least. Default: 100.
    pub window: usize,
    /// The standard deviation is taken to be this long at least, so that a steady network does not make
    /// the detector nervous. Default: 500 ms.
    pub deviation_min: Duration,
    /// A pause of this length counts as nothing: garbage collection, a busy machine. Default: 3 s.
    pub pause: Duration,
}

impl Default for PhiConfig {
    fn default() -> Self {
        Self { window: 100, deviation_min: Duration::from_millis(500), pause: Duration::from_secs(3) }
    }
}

/// What is known of when the heartbeats of one peer come.
#[derive(Clone, Debug, PartialEq)]
pub struct PhiDetector {
    config: PhiConfig,
    /// What an interval should be.
    expected: Duration,
    last: Option<Instant>,
    /// Intervals in microseconds, oldest first.
    intervals: VecDeque<u64>,
    sum: u128,
    sum_of_squares: u128,
}

impl PhiDetector {
    /// A detector that has seen nothing, of a peer that should be heard of every `expected`.
    pub fn new(config: PhiConfig, expected: Duration) -> Self {
        let (last, intervals) = (None, VecDeque::new());
        let mut detector = Self { config, expected, last, intervals, sum: 0, sum_of_squares: 0 };
        detector.begin();
        detector
    }

    /// Begins the window with two made-up intervals: a quarter less than expected, and a quarter more.
    fn begin(&mut self) {
        self.intervals.clear();
        (self.sum, self.sum_of_squares) = (0, 0);
        self.learn(self.expected.saturating_sub(self.expected / 4));
        self.learn(self.expected.saturating_add(self.expected / 4));
    }

    /// A heartbeat came.
    ///
    /// One that ends a silence of more than the longest that the window explains, and the tolerated pause
    /// on top, teaches nothing about intervals: the peer was away, and the window begins anew.
    pub fn heard(&mut self, now: Instant) {
        if let Some(last) = self.last {
            let interval = now.since(last);
            if interval > self.within(PHI_AWAY) {
                self.begin();
            } else {
                self.learn(interval);
            }
        }
        self.last = Some(self.last.map_or(now, |last| last.max(now)));
    }

    /// The time in which nobody could have been heard of does not count against the peer.
    pub fn excuse(&mut self, time: Duration) {
        self.last = self.last.map(|last| last + time);
    }

    /// When the last heartbeat came.
    pub const fn last(&self) -> Option<Instant> {
        self.last
    }

    fn learn(&mut self, interval: Duration) {
        let micros = u64::try_from(interval.as_micros()).unwrap_or(u64::MAX).min(INTERVAL_MICROS_MAX);
        if self.intervals.len() >= self.config.window.max(2)
            && let Some(oldest) = self.intervals.pop_front()
        {
            self.sum -= u128::from(oldest);
            self.sum_of_squares -= u128::from(oldest) * u128::from(oldest);
        }
        self.intervals.push_back(micros);
        self.sum += u128::from(micros);
        self.sum_of_squares += u128::from(micros) * u128::from(micros);
    }

    /// The mean interval.
    pub fn mean(&self) -> Duration {
        Duration::from_micros(u64::try_from(self.sum / self.len()).unwrap_or(u64::MAX))
    }

    /// The standard deviation of the intervals, or the least that is taken for it.
    pub fn deviation(&self) -> Duration {
        let len = self.len();
        let variance = (self.sum_of_squares * len - self.sum * self.sum) / (len * len);
        let seen = Duration::from_micros(u64::try_from(variance.isqrt()).unwrap_or(u64::MAX));
        seen.max(self.config.deviation_min)
    }

    fn len(&self) -> u128 {
        self.intervals.len().max(1) as u128
    }

    /// How long a silence is when φ reaches a value.
    fn within(&self, phi: f64) -> Duration {
        let seconds = self.deviation().as_secs_f64() * deviations_of(phi);
        let margin = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
        self.mean().saturating_add(self.config.pause).saturating_add(margin)
    }

    /// When φ reaches a value, if nothing is heard of the peer. It never does before anything was heard.
    pub fn deadline(&self, phi: f64) -> Instant {
        self.last.map_or(Instant::from_nanos(u64::MAX), |last| last + self.within(phi))
    }

    /// How unlikely it is that the next heartbeat is merely late, from 0 to [`PHI_MAX`].
    pub fn phi(&self, now: Instant) -> f64 {
        let Some(last) = self.last else { return 0.0 };
        let usual = self.mean().saturating_add(self.config.pause).as_secs_f64();
        phi_of((now.since(last).as_secs_f64() - usual) / self.deviation().as_secs_f64().max(1e-9))
    }
}

/// A silence of this φ was an absence.
const PHI_AWAY: f64 = 12.0;

/// An hour, so that sums cannot overflow whatever the clock does.
const INTERVAL_MICROS_MAX: u64 = 3_600_000_000;

/// φ at so many standard deviations above the mean.
///
/// The tail of the normal distribution by the logistic approximation of Bowling et al. (2009), which is
/// within 0.00014 of it and easily inverted.
fn phi_of(deviations: f64) -> f64 {
    let exponent = deviations * (LINEAR + CUBIC * deviations * deviations);
    // -log10(e^-x / (1 + e^-x)) = log10(1 + e^x), without overflow.
    let phi = if exponent > 500.0 {
        exponent * std::f64::consts::LOG10_E
    } else {
        exponent.exp().ln_1p() * std::f64::consts::LOG10_E
    };
    phi.clamp(0.0, PHI_MAX)
}

/// The factors of the approximation.
const LINEAR: f64 = 1.5976;
const CUBIC: f64 = 0.070_566;

/// At how many standard deviations above the mean φ reaches a value, never below the mean: the inverse of
/// [`phi_of`]. It is asked for with each heartbeat of each peer.
fn deviations_of(phi: f64) -> f64 {
    let wanted = if phi.is_nan() { PHI_MAX } else { phi.clamp(0.0, PHI_MAX) };
    let exponent = (10_f64.powf(wanted) - 1.0).max(1.0).ln();
    // The cubic rises all the way, so it has one root, which hyperbolic functions give.
    let scale = (LINEAR / CUBIC / 3.0).sqrt();
    let root = 2.0 * scale * ((1.5 * exponent / (LINEAR * scale)).asinh() / 3.0).sinh();
    // What rounding may take away is less than this.
    root * (1.0 + 1e-12)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn config() -> PhiConfig {
        PhiConfig { window: 50, deviation_min: Duration::from_millis(100), pause: Duration::ZERO }
    }

    /// A detector that heard of its peer at these intervals.
    fn after(intervals: impl IntoIterator<Item = Duration>) -> (PhiDetector, Instant) {
        let mut detector = PhiDetector::new(config(), SECOND);
        let mut now = Instant::ZERO + SECOND;
        detector.heard(now);
        for interval in intervals {
            now += interval;
            detector.heard(now);
        }
        (detector, now)
    }

    #[test]
    fn phi_of_the_tail_is_what_the_tables_say() {
        for (deviations, tail) in [(0.0, 0.5), (1.0, 0.158_655), (2.0, 0.022_750), (3.0, 0.001_350)] {
            let told = 10_f64.powf(-phi_of(deviations));
            assert!((told - tail).abs() < 0.000_2, "{deviations}: {told}");
        }
        assert_eq!(phi_of(1e9), PHI_MAX);
        assert_eq!(phi_of(-1e9), 0.0);
    }

    #[test]
    fn deviations_are_the_inverse_of_phi() {
        for hundredth in 31..=10_000 {
            let phi = f64::from(hundredth) / 100.0;
            let over = phi_of(deviations_of(phi)) - phi;
            assert!((0.0..1e-6).contains(&over) || phi >= PHI_MAX, "{phi}: {over}");
        }
        assert_eq!(deviations_of(0.0), 0.0, "never below the mean");
        assert!(deviations_of(f64::NAN).is_finite() && deviations_of(f64::INFINITY).is_finite());
    }

    #[test]
    fn a_deadline_is_when_phi_gets_there() {
        let (detector, now) = after((0..30).map(|at| SECOND + Duration::from_millis(37 * (at % 5))));
        for phi in [1.0, 3.0, 8.0] {
            let deadline = detector.deadline(phi);
            assert!(detector.phi(deadline) >= phi - 1e-3);
            assert!(detector.phi(now + (deadline.since(now) - Duration::from_millis(5))) < phi);
        }
    }

    #[test]
    fn jitter_makes_it_patient_and_steadiness_does_not_make_it_nervous() {
        let (steady, from) = after((0..50).map(|_| SECOND));
        let (jittery, from_jittery) = after((0..50).map(|at| if at % 2 == 0 { SECOND / 4 } else { 7 * SECOND / 4 }));
        let patience = |detector: &PhiDetector, from| detector.deadline(8.0).since(from);
        assert!(patience(&jittery, from_jittery) > 3 * patience(&steady, from));
        assert!(patience(&steady, from) > Duration::from_millis(1500), "the least deviation is 100 ms");
    }

    #[test]
    fn it_learns_a_doubled_interval() {
        let (mut detector, mut now) = after((0..50).map(|_| SECOND));
        // At first a doubled interval is an absence, then the window is filled with them.
        for _ in 0..60 {
            now += 2 * SECOND;
            detector.heard(now);
        }
        assert_eq!(detector.mean(), 2 * SECOND);
        assert!(detector.phi(now + 2 * SECOND) < 1.0);
    }

    #[test]
    fn a_long_silence_is_not_learned() {
        let (mut detector, mut now) = after((0..50).map(|_| SECOND));
        now += 300 * SECOND;
        detector.heard(now);
        assert_eq!(detector.mean(), SECOND, "the expected interval again");
        now += SECOND;
        detector.heard(now);
        assert!(detector.phi(now + 5 * SECOND) > 8.0);
    }

    #[test]
    fn the_first_sample_is_enough_to_go_by() {
        let mut detector = PhiDetector::new(config(), SECOND);
        assert_eq!(detector.phi(Instant::ZERO + 1000 * SECOND), 0.0, "nothing was ever expected");
        detector.heard(Instant::ZERO + SECOND);
        assert!(detector.phi(Instant::ZERO + 2 * SECOND) < 1.0);
        assert!(detector.phi(Instant::ZERO + 5 * SECOND) > 8.0);
    }

    #[test]
    fn a_clock_at_its_end_or_running_back_does_no_harm() {
        let mut detector = PhiDetector::new(config(), SECOND);
        detector.heard(Instant::from_nanos(u64::MAX));
        detector.heard(Instant::ZERO);
        assert_eq!(detector.last(), Some(Instant::from_nanos(u64::MAX)));
        assert!(detector.phi(Instant::from_nanos(u64::MAX)) < 1.0);
        detector.excuse(Duration::MAX);
        assert_eq!(detector.deadline(8.0), Instant::from_nanos(u64::MAX));
    }

    #[test]
    fn durations_at_their_maximum_do_no_harm() {
        let endless = PhiConfig { deviation_min: Duration::MAX, pause: Duration::MAX, ..config() };
        let mut detector = PhiDetector::new(endless, Duration::MAX);
        (1..5).for_each(|hour| detector.heard(Instant::ZERO + 3600 * hour * SECOND));
        assert_eq!(detector.deadline(1.0), Instant::from_nanos(u64::MAX));
        assert!(detector.phi(Instant::from_nanos(u64::MAX)) < 1.0);
    }

    #[test]
    fn the_window_forgets_and_its_sums_are_those_of_what_it_holds() {
        let (mut detector, mut now) = after((0..200).map(|at| SECOND + Duration::from_millis(at)));
        assert_eq!(detector.intervals.len(), 50);
        for _ in 0..50 {
            now += SECOND;
            detector.heard(now);
        }
        assert_eq!((detector.mean(), detector.deviation()), (SECOND, config().deviation_min));
        detector.heard(Instant::from_nanos(u64::MAX / 2));
        assert!(detector.mean() <= Duration::from_micros(INTERVAL_MICROS_MAX));
    }

    #[test]
    fn a_pause_that_is_tolerated_puts_everything_off() {
        let patience = |pause| {
            let detector = PhiDetector::new(PhiConfig { pause, ..config() }, SECOND);
            let mut heard = detector;
            heard.heard(Instant::ZERO + SECOND);
            (heard.deadline(8.0), heard.phi(Instant::ZERO + 4 * SECOND))
        };
        let ((without, nervous), (with, calm)) = (patience(Duration::ZERO), patience(3 * SECOND));
        assert_eq!(with, without + 3 * SECOND);
        assert!(nervous > 8.0 && calm < 1.0, "{nervous} {calm}");
    }
}
