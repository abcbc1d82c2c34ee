//! How messages, records and commands become bytes.
//!
//! The byte format is that of bincode 2's standard configuration, written by hand and checked:
//! integers of more than one byte take one byte up to 250, else a marker (251, 252, 253, 254) and
//! 2, 4, 8 or 16 bytes, little endian; signed ones are zigzag encoded first; sequences and byte
//! strings are a length and their items; enums are a variant number and their fields; `Option` is
//! a byte 0 or 1. One value has one encoding: a longer integer than needed, or bytes left over, is
//! refused, because digests and signatures cover the bytes. (Types of serde, which the feature
//! `bincode` admits, are read less strictly.)
//!
//! Decoding reads from a [`Reader`] over a received frame. Byte strings come out as [`Bytes`] that
//! share the frame, so an entry is not copied on its way to the log and to the next hop. A length
//! is believed only as far as there are bytes left to fill it: a forged one allocates nothing.
//!
//! ```
//! use mesh_core::wire::{self, DecodeError, Reader, Wire};
//!
//! #[derive(Debug, PartialEq)]
//! struct Deposit { account: u64, cents: i64 }
//!
//! impl Wire for Deposit {
//!     fn encode(&self, out: &mut Vec<u8>) {
//!         self.account.encode(out);
//!         self.cents.encode(out);
//!     }
//!     fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
//!         Ok(Self { account: Wire::decode(reader)?, cents: Wire::decode(reader)? })
//!     }
//! }
//!
//! let bytes = wire::to_bytes(&Deposit { account: 7, cents: -1 });
//! assert_eq!(&bytes[..], [7, 1]);
//! assert_eq!(wire::from_bytes::<Deposit>(&bytes), Ok(Deposit { account: 7, cents: -1 }));
//! ```

#[cfg(feature = "bincode")]
mod bincode;
mod macros;

#[cfg(feature = "bincode")]
#[doc(hidden)]
pub use self::bincode::{decode as __bincode_decode, encode as __bincode_encode};

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

/// A type with one canonical byte encoding.
///
/// `decode` must refuse what `encode` cannot produce, must not panic, and must not allocate more
/// than a small multiple of the bytes that are there.
pub trait Wire: Sized {
    /// Appends the encoding of `self`.
    fn encode(&self, out: &mut Vec<u8>);

    /// Reads one value off the front of `reader`.
    ///
    /// # Errors
    /// [`DecodeError`] when the bytes are no encoding of this type.
    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError>;

    /// The encoding, where the value has it in a buffer already. Default: `None`.
    ///
    /// Who keeps or sends a long one then shares the buffer instead of copying out of it. [`Opaque`] has it;
    /// a type that is encoded as its only field can pass on what that field says.
    fn shared_encoding(&self) -> Option<Bytes> {
        None
    }
}

/// Why bytes are no encoding of a type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes end inside the value.
    #[error("the bytes end {missing} short")]
    Truncated {
        /// How many bytes more the value needs at least.
        missing: usize,
    },
    /// Bytes are left over after the value.
    #[error("{left} bytes left over after the value")]
    Trailing {
        /// How many.
        left: usize,
    },
    /// A longer encoding was used than the value needs.
    #[error("an integer is encoded longer than it needs to be")]
    NotCanonical,
    /// A number is outside the range of its type.
    #[error("a number is out of range for {type_name}")]
    OutOfRange {
        /// The type that was expected.
        type_name: &'static str,
    },
    /// The value was written in a version that is not understood here.
    #[error("a {type_name} of version {version} is not understood here")]
    Version {
        /// The type that was expected.
        type_name: &'static str,
        /// The version found.
        version: u8,
    },
    /// No variant of an enum has this number.
    #[error("{type_name} has no variant {variant}")]
    UnknownVariant {
        /// The enum that was expected.
        type_name: &'static str,
        /// The number found.
        variant: u64,
    },
    /// A sequence claims more items than bytes are left, or more than its limit.
    #[error("a length of {claimed} is over what can be there ({limit})")]
    Length {
        /// The length found.
        claimed: u64,
        /// The most that could be there.
        limit: usize,
    },
    /// The bytes are well formed but break a rule of the type.
    #[error("{0}")]
    Invalid(&'static str),
}

/// Refuses a sequence of more than `limit` items.
///
/// # Errors
/// [`DecodeError::Length`] when it is longer.
pub const fn check_len(len: usize, limit: usize) -> Result<(), DecodeError> {
    if len <= limit { Ok(()) } else { Err(DecodeError::Length { claimed: len as u64, limit }) }
}

/// Reads values off the front of a byte string, usually a received frame.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    left: &'a [u8],
    frame: Option<&'a Bytes>,
}

impl<'a> Reader<'a> {
    /// Reads `bytes`; byte strings are copied out of it.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { left: bytes, frame: None }
    }

    /// Reads all of `frame`; byte strings that come out share it.
    pub fn of_frame(frame: &'a Bytes) -> Self {
        Self { left: frame, frame: Some(frame) }
    }

    /// The bytes not read yet.
    pub const fn remaining(&self) -> &'a [u8] {
        self.left
    }

    /// Takes the next `len` bytes.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] when there are fewer.
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        match self.left.split_at_checked(len) {
            Some((taken, left)) => {
                self.left = left;
                Ok(taken)
            }
            None => Err(DecodeError::Truncated { missing: len - self.left.len() }),
        }
    }

    /// Takes the next `len` bytes as a reader of their own, over the same frame.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] when there are fewer.
    pub fn sub(&mut self, len: usize) -> Result<Self, DecodeError> {
        Ok(Self { left: self.take(len)?, frame: self.frame })
    }

    /// Takes the next `len` bytes, sharing the frame where there is one: as long as they are kept, so is
    /// the memory of the whole frame. What is small and kept for long is better copied.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] when there are fewer.
    pub fn take_shared(&mut self, len: usize) -> Result<Bytes, DecodeError> {
        let taken = self.take(len)?;
        Ok(match self.frame {
            Some(frame) if !taken.is_empty() => frame.slice_ref(taken),
            _ => Bytes::copy_from_slice(taken),
        })
    }

    /// Reads a length that must be filled by at least one byte an item.
    ///
    /// # Errors
    /// [`DecodeError::Length`] when fewer bytes are left than items are claimed.
    pub fn take_len(&mut self) -> Result<usize, DecodeError> {
        let claimed = u64::decode(self)?;
        match usize::try_from(claimed) {
            Ok(len) if len <= self.left.len() => Ok(len),
            _ => Err(DecodeError::Length { claimed, limit: self.left.len() }),
        }
    }

    /// Reads a sequence of at most `limit` items.
    ///
    /// # Errors
    /// [`DecodeError::Length`] when there are more, else those of the items.
    pub fn take_list<T: Wire>(&mut self, limit: usize) -> Result<Vec<T>, DecodeError> {
        let len = self.take_len()?;
        check_len(len, limit)?;
        (0..len).map(|_| T::decode(self)).collect()
    }

    /// Passes over all that is left: what a later version of a format added at its end.
    pub const fn skip_rest(&mut self) {
        self.left = &[];
    }

    /// Checks that nothing is left over.
    ///
    /// # Errors
    /// [`DecodeError::Trailing`] when something is.
    pub const fn finish(&self) -> Result<(), DecodeError> {
        if self.left.is_empty() { Ok(()) } else { Err(DecodeError::Trailing { left: self.left.len() }) }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        match self.left.split_first_chunk::<N>() {
            Some((array, left)) => {
                self.left = left;
                Ok(*array)
            }
            None => Err(DecodeError::Truncated { missing: N - self.left.len() }),
        }
    }
}

/// The encoding of `value`, shared with it where it has one.
pub fn to_bytes<T: Wire>(value: &T) -> Bytes {
    value.shared_encoding().unwrap_or_else(|| {
        let mut out = Vec::new();
        value.encode(&mut out);
        Bytes::from(out)
    })
}

/// Decodes the whole of `bytes`, sharing it.
///
/// # Errors
/// [`DecodeError`] when `bytes` is not exactly the encoding of one `T`.
pub fn from_bytes<T: Wire>(bytes: &Bytes) -> Result<T, DecodeError> {
    let mut reader = Reader::of_frame(bytes);
    let value = T::decode(&mut reader)?;
    reader.finish()?;
    Ok(value)
}

/// Decodes the whole of `bytes`, copying byte strings out of it.
///
/// # Errors
/// [`DecodeError`] when `bytes` is not exactly the encoding of one `T`.
pub fn from_slice<T: Wire>(bytes: &[u8]) -> Result<T, DecodeError> {
    let mut reader = Reader::new(bytes);
    let value = T::decode(&mut reader)?;
    reader.finish()?;
    Ok(value)
}

/// The largest integer that is its own, single byte encoding.
const SINGLE_BYTE_MAX: u8 = 250;

fn encode_u64(value: u64, out: &mut Vec<u8>) {
    if value <= u64::from(SINGLE_BYTE_MAX) {
        out.push(value as u8);
    } else if let Ok(value) = u16::try_from(value) {
        out.push(251);
        out.extend_from_slice(&value.to_le_bytes());
    } else if let Ok(value) = u32::try_from(value) {
        out.push(252);
        out.extend_from_slice(&value.to_le_bytes());
    } else {
        out.push(253);
        out.extend_from_slice(&value.to_le_bytes());
    }
}

fn decode_u64(reader: &mut Reader<'_>, type_name: &'static str) -> Result<u64, DecodeError> {
    let [marker] = reader.array()?;
    let (value, shorter_max) = match marker {
        0..=SINGLE_BYTE_MAX => return Ok(u64::from(marker)),
        251 => (u64::from(u16::from_le_bytes(reader.array()?)), u64::from(SINGLE_BYTE_MAX)),
        252 => (u64::from(u32::from_le_bytes(reader.array()?)), u64::from(u16::MAX)),
        253 => (u64::from_le_bytes(reader.array()?), u64::from(u32::MAX)),
        _ => return Err(DecodeError::OutOfRange { type_name }),
    };
    if value > shorter_max { Ok(value) } else { Err(DecodeError::NotCanonical) }
}

macro_rules! wire_unsigned {
    ($($int:ty),*) => {$(
        impl Wire for $int {
            fn encode(&self, out: &mut Vec<u8>) {
                encode_u64(u64::from(*self), out);
            }

            fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
                let type_name = stringify!($int);
                let value = decode_u64(reader, type_name)?;
                Self::try_from(value).map_err(|_| DecodeError::OutOfRange { type_name })
            }
        }
    )*};
}
wire_unsigned!(u16, u32, u64);

macro_rules! wire_signed {
    ($($int:ty: $unsigned:ty),*) => {$(
        impl Wire for $int {
            fn encode(&self, out: &mut Vec<u8>) {
                let zigzag = ((*self << 1) ^ (*self >> (Self::BITS - 1))) as $unsigned;
                zigzag.encode(out);
            }

            fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
                let zigzag = <$unsigned>::decode(reader)?;
                Ok((zigzag >> 1) as Self ^ -((zigzag & 1) as Self))
            }
        }
    )*};
}
wire_signed!(i16: u16, i32: u32, i64: u64);

impl Wire for u8 {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(*self);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let [byte] = reader.array()?;
        Ok(byte)
    }
}

impl Wire for u128 {
    fn encode(&self, out: &mut Vec<u8>) {
        if let Ok(short) = u64::try_from(*self) {
            encode_u64(short, out);
        } else {
            out.push(254);
            out.extend_from_slice(&self.to_le_bytes());
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        if reader.left.first() != Some(&254) {
            return Ok(Self::from(decode_u64(reader, "u128")?));
        }
        reader.take(1)?;
        let value = Self::from_le_bytes(reader.array()?);
        if value > Self::from(u64::MAX) { Ok(value) } else { Err(DecodeError::NotCanonical) }
    }
}

impl Wire for bool {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match u8::decode(reader)? {
            0 => Ok(false),
            1 => Ok(true),
            variant => Err(DecodeError::UnknownVariant { type_name: "bool", variant: variant.into() }),
        }
    }
}

impl Wire for () {
    fn encode(&self, _out: &mut Vec<u8>) {}

    fn decode(_reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(())
    }
}

impl Wire for Duration {
    fn encode(&self, out: &mut Vec<u8>) {
        self.as_secs().encode(out);
        self.subsec_nanos().encode(out);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (secs, nanos) = (u64::decode(reader)?, u32::decode(reader)?);
        if nanos >= 1_000_000_000 {
            return Err(DecodeError::OutOfRange { type_name: "Duration" });
        }
        Ok(Self::new(secs, nanos))
    }
}

impl Wire for Bytes {
    fn encode(&self, out: &mut Vec<u8>) {
        encode_u64(self.len() as u64, out);
        out.extend_from_slice(self);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let len = reader.take_len()?;
        reader.take_shared(len)
    }
}

/// Bytes that are their own encoding: no length stands before them, and decoding takes all that is left.
///
/// As the whole of a command they go into the log and to the state machine without being copied where they
/// are long, and the buffer they are in is kept as long as the entry. As a part of something else they can
/// only be the last.
///
/// ```
/// use mesh_core::{Bytes, wire::{self, Opaque}};
///
/// let command = Opaque(Bytes::from_static(b"anything"));
/// let bytes = wire::to_bytes(&command);
/// assert_eq!(bytes.as_ptr(), command.0.as_ptr());
/// assert_eq!(wire::from_bytes::<Opaque>(&bytes), Ok(command));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Opaque(pub Bytes);

impl Wire for Opaque {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        reader.take_shared(reader.remaining().len()).map(Self)
    }

    fn shared_encoding(&self) -> Option<Bytes> {
        Some(self.0.clone())
    }
}

impl Wire for String {
    fn encode(&self, out: &mut Vec<u8>) {
        encode_u64(self.len() as u64, out);
        out.extend_from_slice(self.as_bytes());
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let len = reader.take_len()?;
        let text = std::str::from_utf8(reader.take(len)?);
        text.map(str::to_owned).map_err(|_| DecodeError::Invalid("a text is not UTF-8"))
    }
}

impl<const N: usize> Wire for [u8; N] {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        reader.array()
    }
}

macro_rules! wire_pointer {
    ($($pointer:ident),*) => {$(
        impl<T: Wire> Wire for $pointer<T> {
            fn encode(&self, out: &mut Vec<u8>) {
                T::encode(self, out);
            }

            fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
                T::decode(reader).map(Self::new)
            }
        }
    )*};
}
wire_pointer!(Box, Arc);

impl<T: Wire> Wire for Option<T> {
    fn encode(&self, out: &mut Vec<u8>) {
        self.is_some().encode(out);
        if let Some(value) = self {
            value.encode(out);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        bool::decode(reader)?.then(|| T::decode(reader)).transpose()
    }
}

/// At most this many bytes are set aside for a sequence before its items have been read.
const PREALLOCATED_MAX: usize = 64 * 1024;

/// Every item must take at least one byte: a sequence of `()` does not decode.
impl<T: Wire> Wire for Vec<T> {
    fn encode(&self, out: &mut Vec<u8>) {
        encode_u64(self.len() as u64, out);
        for item in self {
            item.encode(out);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let len = reader.take_len()?;
        let mut items = Self::with_capacity(len.min(PREALLOCATED_MAX / size_of::<T>().max(1)));
        for _ in 0..len {
            items.push(T::decode(reader)?);
        }
        Ok(items)
    }
}

/// Encoded in order; decoding refuses items that are out of order or repeated.
impl<T: Wire + Ord> Wire for BTreeSet<T> {
    fn encode(&self, out: &mut Vec<u8>) {
        encode_u64(self.len() as u64, out);
        for item in self {
            item.encode(out);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut items = Self::new();
        for _ in 0..reader.take_len()? {
            let item = T::decode(reader)?;
            if items.last().is_some_and(|last| *last >= item) {
                return Err(DecodeError::Invalid("the items of a set are not in order"));
            }
            items.insert(item);
        }
        Ok(items)
    }
}

/// Encoded in the order of the keys; decoding refuses keys that are out of order or repeated.
impl<K: Wire + Ord, V: Wire> Wire for BTreeMap<K, V> {
    fn encode(&self, out: &mut Vec<u8>) {
        encode_u64(self.len() as u64, out);
        for (key, value) in self {
            key.encode(out);
            value.encode(out);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut entries = Self::new();
        for _ in 0..reader.take_len()? {
            let (key, value) = (K::decode(reader)?, V::decode(reader)?);
            if entries.last_key_value().is_some_and(|(last, _)| *last >= key) {
                return Err(DecodeError::Invalid("the keys of a map are not in order"));
            }
            entries.insert(key, value);
        }
        Ok(entries)
    }
}

macro_rules! wire_tuple {
    ($($name:ident: $index:tt),*) => {
        impl<$($name: Wire),*> Wire for ($($name,)*) {
            fn encode(&self, out: &mut Vec<u8>) {
                $(self.$index.encode(out);)*
            }

            fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
                Ok(($($name::decode(reader)?,)*))
            }
        }
    };
}
wire_tuple!(A: 0, B: 1);
wire_tuple!(A: 0, B: 1, C: 2);
wire_tuple!(A: 0, B: 1, C: 2, D: 3);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_take_as_few_bytes_as_they_need() {
        for (value, len) in [(0, 1), (250, 1), (251, 3), (65_535, 3), (65_536, 5), (1 << 32, 9), (u64::MAX, 9)] {
            let bytes = to_bytes(&value);
            assert_eq!(bytes.len(), len, "{value}");
            assert_eq!(from_bytes::<u64>(&bytes), Ok(value));
        }
    }

    #[test]
    fn a_longer_encoding_of_the_same_number_is_refused() {
        for bytes in [&[251, 250, 0][..], &[252, 255, 255, 0, 0], &[253, 1, 0, 0, 0, 0, 0, 0, 0]] {
            assert_eq!(from_slice::<u64>(bytes), Err(DecodeError::NotCanonical));
        }
    }

    #[test]
    fn a_forged_length_is_refused_before_anything_is_allocated() {
        let mut bytes = Vec::new();
        (1u64 << 60).encode(&mut bytes);
        let refused = DecodeError::Length { claimed: 1 << 60, limit: 0 };
        assert_eq!(from_slice::<Vec<u64>>(&bytes), Err(refused.clone()));
        assert_eq!(from_slice::<Bytes>(&bytes), Err(refused.clone()));
        assert_eq!(from_slice::<BTreeMap<u8, u8>>(&bytes), Err(refused));
    }

    #[test]
    fn byte_strings_share_the_frame_they_came_in() {
        let frame = to_bytes(&Bytes::from_static(b"payload"));
        let payload = from_bytes::<Bytes>(&frame).unwrap();
        assert_eq!(payload.as_ptr(), frame[1..].as_ptr());
    }

    #[test]
    fn opaque_bytes_are_their_own_encoding_and_take_all_that_is_left() {
        let pair = (7u8, Opaque(Bytes::from_static(b"rest")));
        let bytes = to_bytes(&pair);
        assert_eq!(&bytes[..], b"\x07rest");
        assert_eq!(from_bytes::<(u8, Opaque)>(&bytes), Ok(pair));
        assert_eq!(from_slice::<Opaque>(b""), Ok(Opaque::default()));
    }

    #[test]
    fn sets_and_maps_must_be_in_order() {
        assert!(from_slice::<BTreeSet<u8>>(&[2, 1, 2]).is_ok());
        assert!(from_slice::<BTreeSet<u8>>(&[2, 2, 1]).is_err());
        assert!(from_slice::<BTreeSet<u8>>(&[2, 1, 1]).is_err());
        assert!(from_slice::<BTreeMap<u8, u8>>(&[2, 1, 9, 1, 9]).is_err());
    }
}
