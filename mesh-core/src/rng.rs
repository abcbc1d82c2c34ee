//! Randomness that replays: a seeded generator whose stream never changes.
//!
//! `rand`'s `StdRng` and `SmallRng` may change with a release, and a saved seed must still replay
//! years later, so this is xoshiro256++ by name. It implements `rand_core`'s traits, so all of
//! `rand` 0.10 works on it. It is not for keys: those come from the operating system.
//!
//! ```
//! use mesh_core::Rng64;
//!
//! let mut rng = Rng64::from_seed(42, "example");
//! assert_eq!(rng.next_u64(), Rng64::from_seed(42, "example").next_u64());
//! assert!(rng.below(6) < 6);
//! ```

use std::convert::Infallible;
use std::time::Duration;

use rand_core::{Rng as _, SeedableRng as _, TryRng};
use rand_xoshiro::Xoshiro256PlusPlus;

/// A seeded generator (xoshiro256++).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rng64(Xoshiro256PlusPlus);

impl Rng64 {
    /// The generator of `seed` for one purpose; other labels give independent streams.
    pub fn from_seed(seed: u64, label: &str) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("mesh 2026 random stream");
        hasher.update(&seed.to_le_bytes());
        hasher.update(label.as_bytes());
        Self(Xoshiro256PlusPlus::from_seed(*hasher.finalize().as_bytes()))
    }

    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number below `bound`, all equally likely but for a bias under 2^-64 a value; 0 for a bound of 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// Whether something of probability `parts` in `of` happens; never where `of` is 0.
    pub fn chance(&mut self, parts: u64, of: u64) -> bool {
        self.below(of) < parts && of > 0
    }

    /// A duration from `low` up to `high`, both included to the nanosecond; `low` where `high` is less.
    pub fn duration_between(&mut self, low: Duration, high: Duration) -> Duration {
        let span = u64::try_from(high.saturating_sub(low).as_nanos()).unwrap_or(u64::MAX - 1);
        low + Duration::from_nanos(self.below(span.saturating_add(1)))
    }

    /// One of `items`, or `None` where there are none.
    pub fn choose<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        items.get(self.below(items.len() as u64) as usize)
    }

    /// Puts `items` in random order (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last as u64 + 1) as usize);
        }
    }
}

impl TryRng for Rng64 {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        self.0.try_next_u32()
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        self.0.try_next_u64()
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        self.0.try_fill_bytes(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_of_a_seed_is_fixed_for_ever() {
        let mut rng = Rng64::from_seed(1, "pinned");
        let drawn: [u64; 2] = std::array::from_fn(|_| rng.next_u64());
        assert_eq!(drawn, PINNED);
    }

    const PINNED: [u64; 2] = [4_932_480_524_278_249_408, 11_586_903_423_725_592_444];

    #[test]
    fn labels_give_streams_of_their_own() {
        assert_ne!(Rng64::from_seed(1, "a"), Rng64::from_seed(1, "b"));
    }

    #[test]
    fn bounds_hold_at_their_edges() {
        let mut rng = Rng64::from_seed(2, "bounds");
        assert_eq!(rng.below(0), 0);
        assert_eq!(rng.below(1), 0);
        assert!(!rng.chance(1, 0));
        assert!(rng.chance(3, 3));
        let second = Duration::from_secs(1);
        assert_eq!(rng.duration_between(second, Duration::ZERO), second);
        assert_eq!(rng.choose::<u8>(&[]), None);
    }
}
