//! Bytes as hexadecimal digits, and digests that are short enough to be compared by eye.
//!
//! ```
//! use mesh_examples::hex::{from_hex, short_digest, to_hex};
//!
//! assert_eq!(to_hex(&[1, 255]), "01ff");
//! assert_eq!(from_hex("01ff"), Some(vec![1, 255]));
//! assert_eq!(from_hex("01f"), None);
//! assert_eq!(from_hex("+f"), None);
//! assert_eq!(short_digest([7; 32]), "0707070707070707");
//! ```

/// Bytes as digits, two for each.
pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes of digits, if these are digits.
pub fn from_hex(digits: &str) -> Option<Vec<u8>> {
    // A number may have a sign, which is no digit.
    if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let byte = |at: usize| digits.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
    (0..digits.len()).step_by(2).map(byte).collect()
}

/// The first sixteen digits of a digest.
pub fn short_digest(digest: impl Into<blake3::Hash>) -> String {
    digest.into().to_hex()[..16].to_owned()
}
