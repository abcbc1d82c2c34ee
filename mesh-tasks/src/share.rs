//! Numbers from 0 to 1 that others report: loads, and the values of bids.
//!
//! ```
//! use mesh_tasks::share::{Share, ShareError};
//!
//! assert_eq!(Share::new(0.25).map(Share::get), Ok(0.25));
//! assert_eq!(Share::new(f64::NAN), Err(ShareError::NotANumber));
//! assert_eq!(Share::new(1.5), Err(ShareError::AboveOne(1.5)));
//! assert_eq!(Share::clamped(1.5), Share::ONE);
//! ```

use std::cmp::Ordering;
use std::fmt;

use mesh_core::{DecodeError, Reader, Wire};

/// A number from 0 to 1. There is one zero and no NaN, so that all are in order.
#[derive(Clone, Copy, Default, PartialEq)]
pub struct Share(f64);

/// Why a number is no [`Share`].
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ShareError {
    /// It is NaN.
    #[error("the value is not a number; it must be from 0 to 1")]
    NotANumber,
    /// It is infinite.
    #[error("the value is infinite; it must be from 0 to 1")]
    Infinite,
    /// It is below zero.
    #[error("the value is {0}; it must be at least 0")]
    Negative(f64),
    /// It is above one.
    #[error("the value is {0}; it must be at most 1")]
    AboveOne(f64),
}

impl Share {
    /// Nothing.
    pub const ZERO: Self = Self(0.0);
    /// All.
    pub const ONE: Self = Self(1.0);

    /// Checks a number. The zero with a sign is zero.
    ///
    /// # Errors
    /// [`ShareError`] where it is not from 0 to 1.
    pub const fn new(value: f64) -> Result<Self, ShareError> {
        match value {
            _ if value.is_nan() => Err(ShareError::NotANumber),
            _ if value.is_infinite() => Err(ShareError::Infinite),
            _ if value < 0.0 => Err(ShareError::Negative(value)),
            _ if value > 1.0 => Err(ShareError::AboveOne(value)),
            _ => Ok(Self(value.abs())),
        }
    }

    /// The nearest share to a number of one's own; 0 for NaN.
    pub const fn clamped(value: f64) -> Self {
        Self(value.max(0.0).min(1.0).abs())
    }

    /// The number.
    pub const fn get(self) -> f64 {
        self.0
    }
}

impl Eq for Share {}

impl PartialOrd for Share {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Share {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// The bits of the number: exact, and in one way.
impl Wire for Share {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0.to_bits().encode(out);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let bits = u64::decode(reader)?;
        match Self::new(f64::from_bits(bits)) {
            Ok(share) if share.0.to_bits() == bits => Ok(share),
            _ => Err(DecodeError::OutOfRange { type_name: "Share" }),
        }
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::wire;
    use proptest::{prelude::any, prop_assert_eq, proptest};

    use super::*;

    #[test]
    fn s11_what_is_no_share_is_refused_with_its_reason() {
        assert_eq!(Share::new(f64::NAN), Err(ShareError::NotANumber));
        assert_eq!(Share::new(f64::INFINITY), Err(ShareError::Infinite));
        assert_eq!(Share::new(f64::NEG_INFINITY), Err(ShareError::Infinite));
        assert_eq!(Share::new(-f64::MIN_POSITIVE), Err(ShareError::Negative(-f64::MIN_POSITIVE)));
        assert_eq!(Share::new(1.0 + f64::EPSILON), Err(ShareError::AboveOne(1.0 + f64::EPSILON)));
        assert_eq!(Share::new(1.0), Ok(Share::ONE));
    }

    #[test]
    fn s11_there_is_one_zero_and_the_smallest_numbers_come_after_it() {
        let smallest = Share::new(f64::from_bits(1)).unwrap();
        let zero = Share::new(-0.0).unwrap();
        assert_eq!((zero, zero.get().to_bits()), (Share::ZERO, 0));
        assert!(zero < smallest && smallest < Share::new(f64::MIN_POSITIVE).unwrap());
        assert_eq!(wire::from_bytes::<Share>(&wire::to_bytes(&(-0.0_f64).to_bits())).ok(), None);
    }

    #[test]
    fn the_nearest_share_is_one() {
        for (value, nearest) in [(f64::NAN, 0.0_f64), (-3.0, 0.0), (-0.0, 0.0), (0.5, 0.5), (f64::INFINITY, 1.0)] {
            assert_eq!(Share::clamped(value).get().to_bits(), nearest.to_bits());
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_over_the_wire_is_a_share_or_refused(bits in any::<u64>()) {
            let value = f64::from_bits(bits);
            let read = wire::from_bytes::<Share>(&wire::to_bytes(&bits)).ok();
            let is_share = (0.0..=1.0).contains(&value) && value.is_sign_positive();
            prop_assert_eq!(read.map(|share| share.get().to_bits()), is_share.then_some(bits));
        }
    }
}
