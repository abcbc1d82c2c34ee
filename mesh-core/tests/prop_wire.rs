//! The wire format against bincode 2, which defines it, and against arbitrary bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use mesh_core::frame::{FRAME_VERSION, sections};
use mesh_core::wire::{from_bytes, from_slice, to_bytes};
use mesh_core::{NodeId, Wire};
use proptest::prelude::*;

/// Our bytes are bincode's, and both read them back.
fn same_as_bincode<T>(value: &T) -> Result<(), TestCaseError>
where
    T: Wire + PartialEq + std::fmt::Debug + serde::Serialize + serde::de::DeserializeOwned,
{
    let ours = to_bytes(value);
    let theirs = bincode::serde::encode_to_vec(value, bincode::config::standard()).unwrap();
    prop_assert_eq!(&ours[..], &theirs[..]);
    prop_assert_eq!(&from_bytes::<T>(&ours).unwrap(), value);
    Ok(())
}

/// Whatever decodes has one encoding: the bytes it came from.
fn canonical<T: Wire + std::fmt::Debug>(bytes: &[u8]) -> Result<(), TestCaseError> {
    if let Ok(value) = from_slice::<T>(bytes) {
        prop_assert_eq!(&to_bytes(&value)[..], bytes, "{:?}", value);
    }
    let shared = Bytes::copy_from_slice(bytes);
    prop_assert_eq!(from_bytes::<T>(&shared).is_ok(), from_slice::<T>(bytes).is_ok());
    Ok(())
}

/// Numbers near the places where the encoding changes its length.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![0..600u64, 65_000..66_000u64, (1u64 << 32) - 9..(1 << 32) + 9, any::<u64>()]
}

proptest! {
    #[test]
    fn integers_are_as_bincode_writes_them(n in number(), big: u128) {
        same_as_bincode(&n)?;
        same_as_bincode(&(n as u16))?;
        same_as_bincode(&(n as u32))?;
        same_as_bincode(&(n as u8))?;
        same_as_bincode(&(n as i64))?;
        same_as_bincode(&(n as i32))?;
        same_as_bincode(&(n as i16))?;
        same_as_bincode(&big)?;
        same_as_bincode(&u128::from(n))?;
    }

    #[test]
    fn the_rest_is_as_bincode_writes_it(
        text: String,
        list: Vec<u32>,
        flags: (bool, Option<u64>, [u8; 7]),
        set: BTreeSet<u16>,
        map: BTreeMap<String, i64>,
        nanos: u64,
    ) {
        same_as_bincode(&text)?;
        same_as_bincode(&list)?;
        same_as_bincode(&flags)?;
        same_as_bincode(&set)?;
        same_as_bincode(&map)?;
        same_as_bincode(&Duration::from_nanos(nanos))?;
    }

    #[test]
    fn whatever_decodes_has_one_encoding(bytes in prop::collection::vec(prop_oneof![0..4u8, 248..=255u8, any::<u8>()], 0..40)) {
        canonical::<u16>(&bytes)?;
        canonical::<u64>(&bytes)?;
        canonical::<u128>(&bytes)?;
        canonical::<i32>(&bytes)?;
        canonical::<Bytes>(&bytes)?;
        canonical::<String>(&bytes)?;
        canonical::<Vec<u16>>(&bytes)?;
        canonical::<BTreeMap<u8, Vec<u16>>>(&bytes)?;
        canonical::<BTreeSet<NodeId>>(&bytes)?;
        canonical::<Option<(bool, Duration)>>(&bytes)?;
        canonical::<[u8; 3]>(&bytes)?;
    }

    #[test]
    fn frames_of_arbitrary_bytes_never_hurt(bytes in prop::collection::vec(prop_oneof![0..3u8, any::<u8>()], 0..80)) {
        let frame = Bytes::from([&[FRAME_VERSION][..], &bytes].concat());
        for section in sections(&frame).unwrap().flatten() {
            let walked: usize = section.messages().flatten().map(|message| message.remaining().len() + 4).sum();
            prop_assert!(walked <= frame.len());
        }
    }
}
