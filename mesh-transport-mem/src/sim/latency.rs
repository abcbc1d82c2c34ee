//! How long something takes, drawn anew each time.

use std::time::Duration;

use mesh_core::Rng64;

/// A distribution of delays: mostly between two bounds, sometimes slow.
///
/// All delays between two bounds are equally likely. There are no logarithms or powers in it, so it
/// draws the same on every machine.
///
/// ```
/// use std::time::Duration;
/// use mesh_core::Rng64;
/// use mesh_transport_mem::Latency;
///
/// let ms = Duration::from_millis;
/// let latency = Latency::between(ms(1), ms(3)).sometimes(0.01, ms(50));
/// assert!(latency.draw(&mut Rng64::from_seed(1, "doc")) <= ms(50));
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Latency {
    /// The least delay.
    pub min: Duration,
    /// The most delay of the ordinary.
    pub max: Duration,
    /// How many are slow, from 0 to 1.
    pub slow: f64,
    /// A slow one takes from `max` to this.
    pub slow_max: Duration,
}

impl Latency {
    /// Always the same.
    pub const fn fixed(delay: Duration) -> Self {
        Self::between(delay, delay)
    }

    /// From `min` to `max`.
    pub const fn between(min: Duration, max: Duration) -> Self {
        Self { min, max, slow: 0.0, slow_max: max }
    }

    /// The same, but the share `slow` (from 0 to 1) takes up to `slow_max`.
    #[must_use]
    pub const fn sometimes(self, slow: f64, slow_max: Duration) -> Self {
        Self { slow, slow_max, ..self }
    }

    /// One delay.
    pub fn draw(&self, rng: &mut Rng64) -> Duration {
        if Chance::new(self.slow).happens(rng) {
            rng.duration_between(self.max, self.slow_max)
        } else {
            rng.duration_between(self.min, self.max)
        }
    }
}

/// A probability as a number to compare 64 random bits with, so that no float is left at run time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Chance(u64);

impl Chance {
    pub(super) fn new(share: f64) -> Self {
        // A product with a power of two and a saturating cast are exact on every machine.
        Self((share.clamp(0.0, 1.0) * 18_446_744_073_709_551_616.0) as u64)
    }

    /// Draws only where it may happen, which keeps quiet networks fast.
    pub(super) fn happens(self, rng: &mut Rng64) -> bool {
        self.0 > 0 && (self.0 == u64::MAX || rng.next_u64() < self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chances_hold_at_their_edges_and_roughly_between() {
        let mut rng = Rng64::from_seed(1, "chance");
        let mut count = |share| (0..10_000).filter(|_| Chance::new(share).happens(&mut rng)).count();
        assert_eq!(count(0.0), 0);
        assert_eq!(count(-1.0), 0);
        assert_eq!(count(f64::NAN), 0);
        assert_eq!(count(1.0), 10_000);
        assert!((2_300..2_700).contains(&count(0.25)));
    }

    #[test]
    fn slow_delays_are_as_many_and_as_long_as_said() {
        let ms = Duration::from_millis;
        let latency = Latency::between(ms(1), ms(2)).sometimes(0.1, ms(100));
        let mut rng = Rng64::from_seed(1, "latency");
        let drawn: Vec<_> = (0..10_000).map(|_| latency.draw(&mut rng)).collect();
        let slow = drawn.iter().filter(|delay| **delay > ms(2)).count();
        assert!((800..1_200).contains(&slow), "{slow}");
        assert!(drawn.iter().all(|delay| (ms(1)..=ms(100)).contains(delay)));
    }
}
