//! Names and values that a node says of itself, such as its role or its version.
//!
//! Tags are one way to fill the [metadata](Profile::metadata) of a profile; an application with a format of its
//! own leaves them out. They are told in full to all, so they should be few and short.
//!
//! ```
//! use mesh_gossip::membership::{Profile, Tags};
//!
//! let tags = Tags::from_iter([("role", "indexer"), ("gpu", "2")]);
//! let profile = Profile::default().with_tags(&tags)?;
//! assert_eq!(profile.tags().unwrap().get("role"), Some("indexer"));
//! # Ok::<(), mesh_gossip::membership::ProfileTooLong>(())
//! ```

use std::collections::BTreeMap;

use mesh_core::{DecodeError, wire};

use super::member::{Profile, ProfileTooLong};

/// With what metadata that are tags begin, so that others are told apart: a byte that is in no UTF-8, and a version.
const MARK: [u8; 2] = [0xff, 1];

/// The tags of a node, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tags(BTreeMap<String, String>);

impl Tags {
    /// The value of a tag.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Sets a tag, in place of what it was.
    pub fn set(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.0.insert(name.into(), value.into());
    }

    /// Takes a tag away; whether it was there.
    pub fn remove(&mut self, name: &str) -> bool {
        self.0.remove(name).is_some()
    }

    /// All tags, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Tags {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(tags: I) -> Self {
        Self(tags.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

impl Profile {
    /// The same profile with these tags in place of its metadata; without any it has none.
    ///
    /// # Errors
    /// [`ProfileTooLong`] when they take more than [`METADATA_LEN_MAX`](super::METADATA_LEN_MAX) bytes: those of
    /// all names and values, and a few for each.
    pub fn with_tags(self, tags: &Tags) -> Result<Self, ProfileTooLong> {
        let encoded = [&MARK[..], &wire::to_bytes(&tags.0)].concat();
        let profile = Self { metadata: if tags.0.is_empty() { Vec::new() } else { encoded }.into(), ..self };
        profile.validate().map(|()| profile)
    }

    /// The tags that the metadata hold: none where there are no metadata.
    ///
    /// # Errors
    /// [`DecodeError`] when the metadata are something else.
    pub fn tags(&self) -> Result<Tags, DecodeError> {
        if self.metadata.is_empty() {
            return Ok(Tags::default());
        }
        if !self.metadata.starts_with(&MARK) {
            return Err(DecodeError::Invalid("the metadata are no tags"));
        }
        wire::from_bytes(&self.metadata.slice(MARK.len()..)).map(Tags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::METADATA_LEN_MAX;

    #[test]
    fn tags_come_back_as_they_were() {
        let mut tags = Tags::from_iter([("role", "indexer"), ("zone", "")]);
        tags.set("role", "é".repeat(100));
        tags.set("x", "y");
        assert!(tags.remove("x") && !tags.remove("x"));
        let profile = Profile { zone: 7, ..Profile::default() }.with_tags(&tags).unwrap();
        let read = profile.tags().unwrap();
        assert_eq!((&read, profile.zone), (&tags, 7));
        assert_eq!(
            read.iter().map(|(name, value)| (name, value.len())).collect::<Vec<_>>(),
            [("role", 200), ("zone", 0)]
        );
        let none = profile.with_tags(&Tags::default()).unwrap();
        assert_eq!((none.metadata.len(), none.tags()), (0, Ok(Tags::default())));
    }

    #[test]
    fn too_many_tags_are_refused() {
        let of = |len: usize| Tags::from_iter([("name", "x".repeat(len))]);
        let most = (0..METADATA_LEN_MAX).rev().find(|len| Profile::default().with_tags(&of(*len)).is_ok()).unwrap();
        assert!(most > METADATA_LEN_MAX - 20, "{most}");
        let error = Profile::default().with_tags(&of(most + 1)).unwrap_err();
        assert_eq!((error.what, error.len), ("metadata", METADATA_LEN_MAX + 1));
    }

    #[test]
    fn other_metadata_are_no_tags() {
        let encoded = Profile::default().with_tags(&Tags::from_iter([("role", "indexer")])).unwrap().metadata;
        let read = |metadata: &[u8]| Profile { metadata: metadata.to_vec().into(), ..Profile::default() }.tags();
        assert!(read(&encoded).is_ok() && read(b"indexer").is_err());
        assert!((1..encoded.len()).all(|len| read(&encoded[..len]).is_err()), "a part of it");
        assert!(read(&[&encoded[..], &[0]].concat()).is_err(), "something behind it");
        assert!(read(&[0xff, 1, 0xff, 0xff, 0xff, 0xff, 0xff]).is_err(), "more than there are");
        assert!(read(&[&[0xff, 2], &encoded[2..]].concat()).is_err(), "a version to come");
    }
}
