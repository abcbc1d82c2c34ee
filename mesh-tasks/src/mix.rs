//! Cheap hashing, the same on every machine and for ever. Not against an adversary.

/// A key in 64 bits. Keys that are digests are uniform as they are, but others do no harm.
pub(crate) const fn fold(key: u128) -> u64 {
    mix((key >> 64) as u64 ^ mix(key as u64))
}

/// Every bit of the result depends on every bit of `x` (the finaliser of splitmix64).
pub(crate) const fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
