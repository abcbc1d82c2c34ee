//! Many signatures checked in one equation.
//!
//! By the cofactored rule (ZIP 215; RFC 8032 has the same equation) a signature (R, s) of a message M under a key A
//! is good where s is below the order of the group, R and A are points, and 8 (s B - R - H(R, A, M) A) is zero. A sum
//! of such terms, each times a number of 128 bits that nobody could foresee, is zero if all of them are, and else
//! with a chance of 2^-128: so all can be checked at once, and those of one key share a term.
//!
//! The numbers come from a digest of all that is in the batch. Whoever makes signatures for them would have to know
//! the numbers before the signatures that they depend on; and who checks needs no randomness.
//!
//! The strict rule has no such sum: what it takes and refuses differs in terms that are zero times 8, and a sum of
//! them may be zero by chance, at least one time in eight.

use std::convert::Infallible;

use ed25519_zebra::{VerificationKeyBytes, batch::Verifier};
use rand_core::{TryCryptoRng, TryRng};

use super::{PublicKey, Signature, SignatureError};

/// A signature, with whose and of what it is said to be.
#[derive(Clone, Copy, Debug)]
pub struct Signed<'a> {
    /// The key of who is said to have signed.
    pub key: PublicKey,
    /// What is said to be signed.
    pub message: &'a [u8],
    /// The signature.
    pub signature: Signature,
}

/// Checks them all by the cofactored rule.
pub(super) fn verify(signed: &[Signed<'_>]) -> Result<(), SignatureError> {
    let mut digest = blake3::Hasher::new_derive_key("mesh 2026 ed25519 batch");
    let mut batch = Verifier::new();
    for Signed { key, message, signature } in signed {
        digest.update(&key.0).update(&signature.0).update(&(message.len() as u64).to_le_bytes()).update(message);
        let signature = ed25519_zebra::Signature::from_bytes(&signature.0);
        batch.queue((VerificationKeyBytes::from(key.0), signature, message));
    }
    batch.verify(Coefficients(digest.finalize_xof())).map_err(|_| SignatureError)
}

/// The numbers that the terms are multiplied with.
struct Coefficients(blake3::OutputReader);

impl TryRng for Coefficients {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.0.fill(&mut bytes);
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        self.0.fill(bytes);
        Ok(())
    }
}

impl TryCryptoRng for Coefficients {}

#[cfg(test)]
mod tests {
    use curve25519_dalek::constants::{ED25519_BASEPOINT_POINT, EIGHT_TORSION};
    use curve25519_dalek::{EdwardsPoint, Scalar};
    use proptest::prelude::*;
    use sha2::{Digest as _, Sha512};

    use super::super::{Ed25519, SecretKey, Verifier as _};
    use super::*;

    /// A signature with all that it is checked with.
    #[derive(Clone, Debug)]
    struct Case {
        key: PublicKey,
        message: Vec<u8>,
        signature: Signature,
    }

    impl Case {
        fn signed(&self) -> Signed<'_> {
            Signed { key: self.key, message: &self.message, signature: self.signature }
        }

        /// The equation as it stands, worked out with points and numbers.
        fn is_good_by_definition(&self) -> bool {
            use curve25519_dalek::edwards::CompressedEdwardsY;
            let (r, s) = self.signature.0.split_at(32);
            let point = |bytes: &[u8]| CompressedEdwardsY::from_slice(bytes).ok()?.decompress();
            let s = Option::<Scalar>::from(Scalar::from_canonical_bytes(s.try_into().unwrap()));
            let (Some(r_point), Some(a), Some(s)) = (point(r), point(&self.key.0), s) else { return false };
            let hash = Sha512::new().chain_update(r).chain_update(self.key.0).chain_update(&self.message);
            let k = Scalar::from_hash(hash);
            use curve25519_dalek::traits::IsIdentity as _;
            (ED25519_BASEPOINT_POINT * s - r_point - a * k).mul_by_cofactor().is_identity()
        }
    }

    fn honest(n: u8) -> Case {
        let (key, message) = (SecretKey::from_seed([n % 7; 32]), vec![n; usize::from(n % 80)]);
        Case { key: key.public(), signature: key.sign(&message), message }
    }

    fn signature(r: [u8; 32], s: [u8; 32]) -> Signature {
        Signature::from_bytes([r, s].concat().try_into().unwrap())
    }

    /// What only the owner of a secret can make: the key and R with something of small order added.
    fn with_torsion(secret: u64, in_key: usize, in_r: usize, message: &[u8]) -> Case {
        let (a, r) = (Scalar::from(secret + 2), Scalar::from(secret + 1_000_003));
        let of =
            |scalar: Scalar, torsion: usize| (ED25519_BASEPOINT_POINT * scalar + EIGHT_TORSION[torsion]).compress();
        let (key, r_bytes) = (of(a, in_key), of(r, in_r));
        let hash = Sha512::new().chain_update(r_bytes.0).chain_update(key.0).chain_update(message);
        let s = r + Scalar::from_hash(hash) * a;
        Case { key: PublicKey(key.0), message: message.to_vec(), signature: signature(r_bytes.0, s.to_bytes()) }
    }

    /// Encodings of all points of small order, those included that no honest encoder writes.
    fn small_order() -> Vec<[u8; 32]> {
        let mut encodings: Vec<[u8; 32]> =
            EIGHT_TORSION.iter().map(|point: &EdwardsPoint| point.compress().0).collect();
        let with = |low: u8, high: u8| {
            let mut bytes = [0xff; 32];
            (bytes[0], bytes[31]) = (low, high);
            bytes
        };
        // y = p + 1 is 1 and y = p is 0, either with both signs of x; -0 for y = 1 and y = -1.
        encodings.extend([with(0xee, 0x7f), with(0xee, 0xff), with(0xed, 0x7f), with(0xed, 0xff), with(0xec, 0xff)]);
        let mut one = [0; 32];
        (one[0], one[31]) = (1, 0x80);
        encodings.push(one);
        encodings
    }

    fn cases() -> impl Strategy<Value = Case> {
        let small = || prop::sample::select(small_order());
        let honest = any::<u8>().prop_map(honest);
        let forged = (any::<u8>(), 0..512usize).prop_map(|(n, bit)| {
            let mut case = self::honest(n);
            case.signature.0[bit / 8] ^= 1 << (bit % 8);
            case
        });
        let of_another =
            (any::<u8>(), any::<u8>()).prop_map(|(n, other)| Case { message: vec![other; 81], ..self::honest(n) });
        let torsion = (any::<u64>().prop_map(|n| n >> 1), 0..8usize, 0..8usize, any::<[u8; 2]>())
            .prop_map(|(secret, in_key, in_r, message)| with_torsion(secret, in_key, in_r, &message));
        let weak = (small(), small(), any::<[u8; 2]>(), any::<bool>()).prop_map(|(key, r, message, zero)| {
            let s = if zero { Scalar::ZERO } else { Scalar::ONE };
            Case { key: PublicKey(key), message: message.to_vec(), signature: signature(r, s.to_bytes()) }
        });
        // s + l: the same number, in an encoding that nobody takes.
        let long_s = any::<u8>().prop_map(|n| {
            const ORDER: [u8; 32] = [
                0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0,
                0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
            ];
            let mut case = self::honest(n);
            let mut carry = 0;
            for (byte, of_order) in case.signature.0[32..].iter_mut().zip(ORDER) {
                let sum = u16::from(*byte) + u16::from(of_order) + carry;
                (*byte, carry) = (sum as u8, sum >> 8);
            }
            case
        });
        let noise = (any::<[u8; 32]>(), any::<[u8; 32]>(), any::<[u8; 32]>(), any::<Vec<u8>>())
            .prop_map(|(key, r, s, message)| Case { key: PublicKey(key), message, signature: signature(r, s) });
        prop_oneof![4 => honest, 1 => forged, 1 => of_another, 3 => torsion, 3 => weak, 1 => long_s, 1 => noise]
    }

    fn one_by_one(cases: &[Case]) -> bool {
        cases.iter().all(|case| case.key.verify_cofactored(&case.message, &case.signature).is_ok())
    }

    proptest! {
        #[test]
        fn a_batch_is_good_exactly_where_each_of_it_is(cases in prop::collection::vec(cases(), 0..24)) {
            for case in &cases {
                let alone = case.key.verify_cofactored(&case.message, &case.signature).is_ok();
                prop_assert_eq!(alone, case.is_good_by_definition(), "{:?}", case);
                let strict = case.key.verify(&case.message, &case.signature).is_ok();
                prop_assert!(alone || !strict, "the strict rule takes what the cofactored one refuses: {:?}", case);
            }
            let good: Vec<_> = cases.iter().filter(|case| one_by_one(&[(*case).clone()])).cloned().collect();
            let all: Vec<_> = cases.iter().map(Case::signed).collect();
            let good: Vec<_> = good.iter().map(Case::signed).collect();
            prop_assert_eq!(Ed25519::default().verify_batch(&all).is_ok(), one_by_one(&cases));
            prop_assert!(Ed25519::default().verify_batch(&good).is_ok());
        }

        #[test]
        fn one_bad_among_many_good_is_seen(at in 0..64usize, bad in cases()) {
            let mut cases: Vec<_> = (0..64).map(honest).collect();
            let is_good = one_by_one(std::slice::from_ref(&bad));
            cases[at] = bad;
            let all: Vec<_> = cases.iter().map(Case::signed).collect();
            prop_assert_eq!(Ed25519::default().verify_batch(&all).is_ok(), is_good);
        }
    }

    #[test]
    fn bad_ones_do_not_make_up_for_each_other() {
        // s is one too much in one and one too little in the other: without coefficients the sum would be zero.
        let change = |case: Case, change: fn(Scalar) -> Scalar| {
            let (r, s) = case.signature.0.split_at(32);
            let s = Option::<Scalar>::from(Scalar::from_canonical_bytes(s.try_into().unwrap())).unwrap();
            Case { signature: signature(r.try_into().unwrap(), change(s).to_bytes()), ..case }
        };
        let pair = [change(honest(1), |s| s + Scalar::ONE), change(honest(2), |s| s - Scalar::ONE)];
        assert!(verify(&[pair[0].signed(), pair[1].signed()]).is_err());
        assert!(verify(&[honest(1).signed(), honest(2).signed()]).is_ok() && verify(&[]).is_ok());
    }

    #[test]
    fn what_the_two_rules_disagree_on_has_one_answer_by_each() {
        // All pairs of small points: ZIP 215 takes each with s = 0, the strict rule none.
        for key in small_order() {
            for r in small_order() {
                let case = Case { key: PublicKey(key), message: b"Zcash".to_vec(), signature: signature(r, [0; 32]) };
                assert!(case.key.verify_cofactored(&case.message, &case.signature).is_ok(), "{case:?}");
                assert!(verify(&[case.signed(), honest(3).signed(), case.signed()]).is_ok(), "{case:?}");
                assert!(case.key.verify(&case.message, &case.signature).is_err(), "{case:?}");
            }
        }
        let lax = with_torsion(5, 0, 1, b"message");
        assert!(lax.key.verify_cofactored(&lax.message, &lax.signature).is_ok());
        assert!(lax.key.verify(&lax.message, &lax.signature).is_err());
    }

    #[test]
    fn a_verifier_without_a_batch_of_its_own_checks_one_by_one() {
        #[derive(Debug)]
        struct Plain;
        impl super::super::Verifier for Plain {
            fn verify(&self, _: &PublicKey, _: &[u8], _: &Signature) -> Result<(), SignatureError> {
                Err(SignatureError)
            }
        }
        let lax = with_torsion(5, 0, 1, b"message");
        assert!(Plain.verify_batch(&[honest(1).signed(), lax.signed()]).is_ok());
        let forged = Case { message: b"massage".to_vec(), ..lax };
        assert!(Plain.verify_batch(&[honest(1).signed(), forged.signed()]).is_err());
    }
}
