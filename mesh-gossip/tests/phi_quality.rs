//! The φ detector beside a fixed timeout, on the same heartbeats: how soon a crash is noticed (T_D), how often a peer that
//! lives is suspected (λ_M), and for how long (T_M), as Chen, Toueg and Aguilera measure detectors (2002).

use std::time::Duration;

use mesh_core::{Instant, Rng64};
use mesh_gossip::heartbeat::{PhiConfig, PhiDetector};

const SECOND: Duration = Duration::from_secs(1);

/// How long each run lasts, at a heartbeat a second: an hour.
const BEATS: u32 = 3600;

/// What is suspected at.
const PHI: f64 = 8.0;

/// Tells after each heartbeat when the peer is suspected, should nothing more be heard.
trait Detector {
    fn heard(&mut self, now: Instant) -> Instant;
}

struct Phi(PhiDetector);

impl Detector for Phi {
    fn heard(&mut self, now: Instant) -> Instant {
        self.0.heard(now);
        self.0.deadline(PHI)
    }
}

struct Fixed(Duration);

impl Detector for Fixed {
    fn heard(&mut self, now: Instant) -> Instant {
        now + self.0
    }
}

fn phi() -> Phi {
    let config = PhiConfig { deviation_min: SECOND / 10, pause: Duration::ZERO, ..PhiConfig::default() };
    Phi(PhiDetector::new(config, SECOND))
}

/// How good a detector was.
#[derive(Clone, Debug, Default)]
struct Quality {
    /// T_D: how long after the last heartbeat came the crash that followed it is noticed.
    detects_in: Duration,
    /// λ_M in an hour, as each run takes one: after which heartbeats the peer was suspected though it lived.
    mistakes: Vec<usize>,
    /// How long these suspicions lasted together: T_M, their mean, times their number.
    wrong_for: Duration,
}

impl Quality {
    fn mean_mistake(&self) -> Duration {
        self.wrong_for / u32::try_from(self.mistakes.len().max(1)).unwrap_or(u32::MAX)
    }
}

fn judge(mut detector: impl Detector, arrivals: &[Instant]) -> Quality {
    let mut quality = Quality::default();
    for (at, now) in arrivals.iter().enumerate() {
        let deadline = detector.heard(*now);
        match arrivals.get(at + 1) {
            Some(next) if *next > deadline => {
                quality.mistakes.push(at);
                quality.wrong_for += *next - deadline;
            }
            Some(_) => {}
            None => quality.detects_in = deadline - *now,
        }
    }
    quality
}

/// Heartbeats sent at `interval`s, each on its way for a time that is drawn; none overtakes another.
fn trace(
    seed: u64,
    interval: impl Fn(u32) -> Duration,
    mut draw: impl FnMut(&mut Rng64) -> Option<Duration>,
) -> Vec<Instant> {
    let mut rng = Rng64::from_seed(seed, "trace");
    let (mut sent, mut arrivals) = (Instant::ZERO, vec![Instant::ZERO + SECOND]);
    for beat in 0..BEATS {
        sent += interval(beat);
        let last = arrivals[arrivals.len() - 1];
        arrivals.extend(draw(&mut rng).map(|latency| (sent + SECOND + latency).max(last)));
    }
    arrivals
}

fn every_second(_: u32) -> Duration {
    SECOND
}

/// 1 to 20 ms.
fn short(rng: &mut Rng64) -> Option<Duration> {
    Some(rng.duration_between(SECOND / 1000, SECOND / 50))
}

/// 200 ms on average, exponentially distributed: now and then more than a second.
fn long(rng: &mut Rng64) -> Option<Duration> {
    let share = (1 + rng.below(1 << 20)) as f64 / f64::from(1 << 20);
    Some(Duration::from_secs_f64(-0.2 * share.ln()))
}

#[test]
fn s22_phi_adapts_to_jitter_where_a_fixed_timeout_errs_or_is_late() {
    for seed in 0..5 {
        let (steady, jittery) = (trace(seed, every_second, short), trace(seed, every_second, long));
        let (at_ease, at_jitter) = (judge(phi(), &steady), judge(phi(), &jittery));
        assert!(at_ease.mistakes.is_empty(), "seed {seed}: {at_ease:?}");
        assert!(at_jitter.mistakes.len() <= 5, "seed {seed}: {at_jitter:?}");
        // A timeout that notices a crash as soon on a steady network errs all the time on the other.
        let hasty = judge(Fixed(at_ease.detects_in), &jittery);
        assert!(hasty.mistakes.len() >= 20 * at_jitter.mistakes.len().max(1), "seed {seed}: {hasty:?}");
        assert!(hasty.mean_mistake() < SECOND, "seed {seed}: each until the next heartbeat");
        // One that errs as rarely there is later here.
        let patient = (1..100)
            .map(|tenth| SECOND * tenth / 10)
            .find(|timeout| judge(Fixed(*timeout), &jittery).mistakes.len() <= at_jitter.mistakes.len());
        let patient = judge(Fixed(patient.expect("ten seconds are enough")), &steady);
        assert!(patient.detects_in > at_ease.detects_in * 5 / 4, "seed {seed}: {patient:?}");
    }
}

#[test]
fn s22_phi_learns_an_interval_that_doubled_and_a_fixed_timeout_does_not() {
    let interval = |beat| if beat < BEATS / 2 { SECOND } else { 2 * SECOND };
    for seed in 0..5 {
        let arrivals = trace(seed, interval, short);
        let half = BEATS as usize / 2;
        let learned = judge(phi(), &arrivals);
        let fixed = judge(Fixed(judge(phi(), &arrivals[..half]).detects_in), &arrivals);
        assert!(learned.mistakes.iter().all(|at| (half..half + 3).contains(at)), "seed {seed}: {learned:?}");
        assert!(fixed.mistakes.len() >= half - 1, "seed {seed}: it errs at every heartbeat");
        assert!(learned.detects_in < 4 * SECOND, "seed {seed}: {learned:?}");
    }
}

#[test]
fn s22_single_losses_make_phi_patient_and_bursts_teach_it_nothing() {
    for seed in 0..5 {
        let steady = judge(phi(), &trace(seed, every_second, short));
        // One in five is lost.
        let single = trace(seed, every_second, |rng| short(rng).filter(|_| rng.chance(4, 5)));
        let (adapted, fixed) = (judge(phi(), &single), judge(Fixed(steady.detects_in), &single));
        assert!(adapted.mistakes.len() * 10 <= fixed.mistakes.len(), "seed {seed}: {adapted:?} {fixed:?}");
        assert!(adapted.detects_in < 5 * SECOND, "seed {seed}: {adapted:?}");
        // Three in a row, one time in fifty, are an absence: noticed each time, and as soon as by a timeout.
        let mut lost = 0;
        let burst = |rng: &mut Rng64| {
            lost = if lost > 0 { lost - 1 } else { 3 * u32::from(rng.chance(1, 50)) };
            short(rng).filter(|_| lost == 0)
        };
        let bursts = trace(seed, every_second, burst);
        let (adapted, fixed) = (judge(phi(), &bursts), judge(Fixed(steady.detects_in), &bursts));
        assert_eq!(adapted.mistakes, fixed.mistakes, "seed {seed}");
        assert!(adapted.mean_mistake() <= fixed.mean_mistake(), "seed {seed}: {adapted:?} {fixed:?}");
        assert!(adapted.detects_in <= steady.detects_in * 2, "seed {seed}: {adapted:?}");
    }
}

#[test]
fn s22_a_long_pause_is_one_mistake_and_teaches_nothing() {
    for seed in 0..5 {
        // The sender stands still for a minute.
        let interval = |beat| if beat == BEATS / 2 { 60 * SECOND } else { SECOND };
        let arrivals = trace(seed, interval, short);
        let (judged, before) = (judge(phi(), &arrivals), judge(phi(), &arrivals[..BEATS as usize / 2]));
        assert_eq!(judged.mistakes, [BEATS as usize / 2], "seed {seed}");
        assert!(judged.mean_mistake() > 55 * SECOND, "seed {seed}: until it is back");
        assert!(judged.detects_in <= before.detects_in * 11 / 10, "seed {seed}: {judged:?} {before:?}");
        // Soon after, it is noticed nearly as soon as before.
        let soon = judge(phi(), &arrivals[..BEATS as usize / 2 + 12]);
        assert!(soon.detects_in <= before.detects_in * 2, "seed {seed}: {soon:?} {before:?}");
    }
}
