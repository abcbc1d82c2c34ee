//! What is known of a member, as others see it and as it is kept.

use std::fmt;

use mesh_core::{Bytes, DecodeError, NodeId, Reader, Wire};

/// The longest metadata of a node, in bytes.
pub const METADATA_LEN_MAX: usize = 512;

/// The longest address of a node, in bytes.
pub const ADDRESS_LEN_MAX: usize = 128;

/// How things are with a member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    /// It answers, or answered others.
    #[default]
    Alive,
    /// It did not answer somebody. It is down unless it refutes that in time.
    Suspect,
    /// It did not refute that it does not answer.
    Down,
    /// It said good-bye.
    Left,
}

impl Status {
    /// Whether the member counts as one: it is alive or suspected.
    pub const fn is_live(self) -> bool {
        matches!(self, Self::Alive | Self::Suspect)
    }
}

/// What a node says of itself, for all to know.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Profile {
    /// Where the node is: nodes of one zone fail together. Numbers are the application's.
    pub zone: u16,
    /// How the transport reaches it. At most [`ADDRESS_LEN_MAX`] bytes.
    pub address: Bytes,
    /// What the application wants others to know of it, be it as [`Tags`](super::Tags). At most [`METADATA_LEN_MAX`]
    /// bytes.
    pub metadata: Bytes,
}

/// A profile is longer than all can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the {what} has {len} bytes; at most {max} are allowed")]
pub struct ProfileTooLong {
    /// Which part of it.
    pub what: &'static str,
    /// How long it is.
    pub len: usize,
    /// How long it may be.
    pub max: usize,
}

impl Profile {
    /// Checks the lengths.
    ///
    /// # Errors
    /// [`ProfileTooLong`] with the first part that is.
    pub fn validate(&self) -> Result<(), ProfileTooLong> {
        let parts =
            [("address", self.address.len(), ADDRESS_LEN_MAX), ("metadata", self.metadata.len(), METADATA_LEN_MAX)];
        match parts.into_iter().find(|(_, len, max)| len > max) {
            Some((what, len, max)) => Err(ProfileTooLong { what, len, max }),
            None => Ok(()),
        }
    }
}

impl Wire for Profile {
    fn encode(&self, out: &mut Vec<u8>) {
        self.zone.encode(out);
        self.address.encode(out);
        self.metadata.encode(out);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let profile =
            Self { zone: Wire::decode(reader)?, address: Wire::decode(reader)?, metadata: Wire::decode(reader)? };
        profile.validate().map_err(|_| DecodeError::Invalid("a profile is too long"))?;
        Ok(profile)
    }
}

/// A member, as the application is told.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Member {
    /// Which node.
    pub node: NodeId,
    /// How often it had to assert itself; higher is newer.
    pub incarnation: u64,
    /// How things are with it.
    pub status: Status,
    /// What it says of itself; empty where it was down or gone when first heard of.
    pub profile: Profile,
}

/// How long an encoded profile may be to be kept without memory of its own: one with an IPv4 address is.
const INLINE_LEN_MAX: usize = 14;

/// An encoded [`Profile`], kept small: thousands of members have one.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct EncodedProfile(Encoded);

#[derive(Clone, PartialEq, Eq)]
enum Encoded {
    Inline { len: u8, bytes: [u8; INLINE_LEN_MAX] },
    Boxed(Box<Box<[u8]>>),
}

impl EncodedProfile {
    fn new(encoded: &[u8]) -> Self {
        let len = encoded.len();
        if len > INLINE_LEN_MAX {
            return Self(Encoded::Boxed(Box::new(encoded.into())));
        }
        let mut bytes = [0; INLINE_LEN_MAX];
        bytes[..len].copy_from_slice(encoded);
        Self(Encoded::Inline { len: len as u8, bytes })
    }

    pub(super) fn of(profile: &Profile) -> Self {
        let mut encoded = Vec::new();
        profile.encode(&mut encoded);
        Self::new(&encoded)
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        match &self.0 {
            Encoded::Inline { len, bytes } => &bytes[..usize::from(*len)],
            Encoded::Boxed(bytes) => bytes,
        }
    }

    /// The profile. Only what decodes is ever kept.
    pub(super) fn profile(&self) -> Profile {
        Profile::decode(&mut Reader::new(self.as_slice())).unwrap_or_default()
    }

    /// Stands for the profile where it need not be told in full.
    pub(super) fn check(&self) -> u32 {
        let bytes = self.as_slice().chunks(8).fold(0, |hash, chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            mix(hash ^ u64::from_le_bytes(word))
        });
        (bytes >> 32) as u32
    }
}

impl Default for EncodedProfile {
    fn default() -> Self {
        Self::of(&Profile::default())
    }
}

impl fmt::Debug for EncodedProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.profile().fmt(f)
    }
}

impl Wire for EncodedProfile {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.as_slice());
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let before = reader.remaining();
        u16::decode(reader)?;
        for len_max in [ADDRESS_LEN_MAX, METADATA_LEN_MAX] {
            let len = reader.take_len()?;
            if len > len_max {
                return Err(DecodeError::Invalid("a profile is too long"));
            }
            reader.take(len)?;
        }
        Ok(Self::new(&before[..before.len() - reader.remaining().len()]))
    }
}

/// Scatters the bits of a number (the finaliser of splitmix64): the same on all nodes.
pub(super) const fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// A number that stands for a node.
pub(crate) const fn hash_of(node: NodeId) -> u64 {
    mix(mix(node.0 as u64) ^ (node.0 >> 64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_keep_what_they_hold_however_long() {
        assert_eq!(size_of::<EncodedProfile>(), 16);
        for len in [0, 1, 6, 11, 12, 13, 100, METADATA_LEN_MAX] {
            let profile = Profile { zone: 3, address: vec![7; 6].into(), metadata: vec![9; len].into() };
            let encoded = EncodedProfile::of(&profile);
            assert_eq!(encoded.profile(), profile);
            assert_eq!(EncodedProfile::decode(&mut Reader::new(encoded.as_slice())), Ok(encoded));
        }
    }

    #[test]
    fn profiles_that_are_too_long_are_refused_with_their_length() {
        let long = Profile { metadata: vec![0; METADATA_LEN_MAX + 1].into(), ..Profile::default() };
        let error = ProfileTooLong { what: "metadata", len: METADATA_LEN_MAX + 1, max: METADATA_LEN_MAX };
        assert_eq!(long.validate(), Err(error));
        let mut encoded = Vec::new();
        long.encode(&mut encoded);
        assert!(Profile::decode(&mut Reader::new(&encoded)).is_err());
        assert!(EncodedProfile::decode(&mut Reader::new(&encoded)).is_err());
    }

    #[test]
    fn another_profile_has_another_check() {
        let zone = |zone| EncodedProfile::of(&Profile { zone, ..Profile::default() }).check();
        assert_ne!(zone(1), zone(2));
    }
}
