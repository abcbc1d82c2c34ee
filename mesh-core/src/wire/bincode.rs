//! Types that implement serde, as [`Wire`], through bincode.
//!
//! bincode is complete and no longer maintained (RUSTSEC-2025-0141); only this file names it, and
//! it is never called without a limit: without one, a forged length makes it allocate or panic.

use bincode::config::{Configuration, Limit, LittleEndian, Varint, standard};
use serde::{Serialize, de::DeserializeOwned};

use super::{DecodeError, Reader};

/// The most a decoded value may claim, in bytes: that of the longest frame.
const LIMIT: usize = crate::frame::FRAME_LEN_MAX;

const CONFIG: Configuration<LittleEndian, Varint, Limit<LIMIT>> = standard().with_limit::<LIMIT>();

/// Implements [`Wire`](crate::Wire) for types that implement serde's traits.
///
/// What arrives from a peer decides how deep and how long a value is, so that two kinds of types are not
/// fit for it: recursive ones, which a long message nests until the stack overflows, and sequences of
/// items that take no bytes, such as `Vec<()>`, whose length nothing bounds. bincode also reads integers
/// that are longer than they need to be: where a digest or a signature covers the bytes, implement
/// `Wire` by hand.
///
/// ```
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize, Debug, PartialEq)]
/// enum Command { Put { key: String, value: String }, Delete { key: String } }
/// mesh_core::wire_bincode!(Command);
///
/// let delete = Command::Delete { key: "a".into() };
/// let bytes = mesh_core::wire::to_bytes(&delete);
/// assert_eq!(mesh_core::wire::from_bytes::<Command>(&bytes), Ok(delete));
/// ```
#[macro_export]
macro_rules! wire_bincode {
    ($($type:ty),+ $(,)?) => {$(
        impl $crate::Wire for $type {
            fn encode(&self, out: &mut Vec<u8>) {
                $crate::wire::__bincode_encode(self, out);
            }

            fn decode(reader: &mut $crate::Reader<'_>) -> Result<Self, $crate::DecodeError> {
                $crate::wire::__bincode_decode(reader)
            }
        }
    )+};
}

/// Appends the encoding of `value`.
///
/// A value that serde refuses (a map of unknown length, say) is encoded as nothing, which does not
/// decode: the fault is in the type and shows at its first use.
pub fn encode<T: Serialize>(value: &T, out: &mut Vec<u8>) {
    let start = out.len();
    let mut tail = std::mem::take(out);
    match bincode::serde::encode_into_std_write(value, &mut tail, standard()) {
        Ok(_) => {}
        Err(_) => tail.truncate(start),
    }
    *out = tail;
}

/// Reads one value off the front of `reader`.
///
/// # Errors
/// [`DecodeError::Invalid`] when the bytes are no encoding of a `T`.
pub fn decode<T: DeserializeOwned>(reader: &mut Reader<'_>) -> Result<T, DecodeError> {
    let (value, read) = bincode::serde::decode_from_slice(reader.remaining(), CONFIG)
        .map_err(|_| DecodeError::Invalid("the bytes are no encoding of this serde type"))?;
    reader.take(read)?;
    Ok(value)
}
