//! What every module's tests ask of its messages.

use std::fmt::Debug;

use mesh_core::{Bytes, Wire, wire};
use proptest::prelude::*;

/// Every message comes back as it was, no part of one is a message, and what a later version adds at its end is
/// skipped.
pub(crate) fn messages_come_back<M>(version: u8, messages: impl IntoIterator<Item = M>)
where
    M: Wire + PartialEq + Debug,
{
    for message in messages {
        let bytes = wire::to_bytes(&message);
        assert_eq!(wire::from_bytes::<M>(&bytes).as_ref(), Ok(&message));
        for len in 0..bytes.len() {
            assert!(wire::from_bytes::<M>(&bytes.slice(..len)).is_err(), "{message:?} cut to {len}");
        }
        let mut newer = bytes.to_vec();
        newer[0] = version + 1;
        newer.extend_from_slice(b"later");
        assert_eq!(wire::from_bytes::<M>(&newer.into()), Ok(message));
    }
}

/// Bytes that begin with `version` and one of `kinds` are a message that is encoded to the same bytes, or an error.
pub(crate) fn any_bytes_are_the_same_or_an_error<M: Wire>(version: u8, kinds: std::ops::Range<u8>) {
    proptest!(|(kind in kinds, rest in proptest::collection::vec(any::<u8>(), 0..80))| {
        let bytes = Bytes::from([&[version, kind][..], &rest].concat());
        if let Ok(message) = wire::from_bytes::<M>(&bytes) {
            prop_assert_eq!(wire::to_bytes(&message), bytes);
        }
    });
}
