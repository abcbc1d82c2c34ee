//! Bids that are passed on, or kept as evidence: signed by those who make them.
//!
//! A bid that comes from its bidder over an authenticated transport needs no signature. Where somebody else carries it,
//! or where it must be shown later what a node has bid, the bidder signs it: together with the auction, the round and
//! its life, so that it is good for no other. Two different bids of one node in the same auction are [evidence](Evidence)
//! that anybody can check.
//!
//! ```
//! use mesh_core::identity::SecretKey;
//! use mesh_tasks::auction::signed::SignedBid;
//! use mesh_tasks::auction::{AuctionId, SealedBid};
//!
//! let key = SecretKey::from_seed([7; 32]);
//! let passes = SealedBid { auction: AuctionId::first(1), incarnation: 1, bid: None };
//! let signed = SignedBid::sign(&key, passes);
//! assert_eq!(signed.verify(), Ok(key.node_id()));
//!
//! let altered = SignedBid { bid: SealedBid { incarnation: 2, ..passes }, ..signed };
//! assert!(altered.verify().is_err());
//! ```

use mesh_core::identity::{PublicKey, Signature, SignatureError, Signer};
use mesh_core::{NodeId, wire, wire_struct};

use super::SealedBid;

/// What a signature is made for: nothing else that a node signs begins so.
const CONTEXT: &[u8] = b"mesh-tasks 2026 sealed bid";

/// A bid with the signature of its bidder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignedBid {
    /// Who bids.
    pub bidder: PublicKey,
    /// What it bids.
    pub bid: SealedBid,
    /// That it does.
    pub signature: Signature,
}

wire_struct!(SignedBid { bidder, bid, signature });

fn message(bid: &SealedBid) -> Vec<u8> {
    [CONTEXT, &wire::to_bytes(bid)].concat()
}

impl SignedBid {
    /// A bid, signed.
    pub fn sign(signer: &dyn Signer, bid: SealedBid) -> Self {
        Self { bidder: signer.public(), bid, signature: signer.sign(&message(&bid)) }
    }

    /// Whose bid it is.
    ///
    /// # Errors
    /// [`SignatureError`] when the bidder did not sign this bid.
    pub fn verify(&self) -> Result<NodeId, SignatureError> {
        self.bidder.verify(&message(&self.bid), &self.signature)?;
        Ok(self.bidder.node_id())
    }
}

/// Two different bids of one life of a node in the same auction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// One of them.
    pub one: SignedBid,
    /// The other.
    pub other: SignedBid,
}

wire_struct!(Evidence { one, other });

/// Why something is no [`Evidence`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EvidenceError {
    /// One of the bids is not signed by its bidder.
    #[error("a bid is not signed by its bidder")]
    Forged,
    /// The bids are the same, of different nodes or lives, or for different auctions: there is nothing wrong with that.
    #[error("the bids do not contradict each other")]
    NoContradiction,
}

impl Evidence {
    /// Who has bid twice.
    ///
    /// # Errors
    /// [`EvidenceError`] where that is not shown.
    pub fn verify(&self) -> Result<NodeId, EvidenceError> {
        let (one, other) = (&self.one.bid, &self.other.bid);
        let is_one_bidder = self.one.bidder == self.other.bidder && one.incarnation == other.incarnation;
        if !is_one_bidder || one.auction != other.auction || one.bid == other.bid {
            return Err(EvidenceError::NoContradiction);
        }
        self.other.verify().and_then(|_| self.one.verify()).map_err(|_| EvidenceError::Forged)
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::identity::SecretKey;

    use super::super::AuctionId;
    use super::super::score::Bid;
    use super::*;
    use crate::share::Share;

    fn bid(item: u128, load: f64) -> SealedBid {
        let bid = Bid { capability: Share::ONE, load: Share::clamped(load), resources: Share::ONE };
        SealedBid { auction: AuctionId::first(item), incarnation: 3, bid: Some(bid) }
    }

    #[test]
    fn a_signed_bid_is_good_for_nothing_else() {
        let key = SecretKey::from_seed([1; 32]);
        let signed = SignedBid::sign(&key, bid(7, 0.5));
        let back = wire::from_bytes::<SignedBid>(&wire::to_bytes(&signed));
        assert_eq!(back.map(|signed| signed.verify()), Ok(Ok(key.node_id())));
        let later = SealedBid { auction: AuctionId { item: 7, round: 2 }, ..signed.bid };
        for altered in [bid(8, 0.5), bid(7, 0.4), later, SealedBid { incarnation: 4, ..signed.bid }] {
            assert_eq!(SignedBid { bid: altered, ..signed }.verify(), Err(SignatureError));
        }
        let other = SecretKey::from_seed([2; 32]).public();
        assert_eq!(SignedBid { bidder: other, ..signed }.verify(), Err(SignatureError));
        // What was signed for another purpose is no bid.
        let signature = key.sign(&wire::to_bytes(&signed.bid));
        assert_eq!(SignedBid { signature, ..signed }.verify(), Err(SignatureError));
    }

    #[test]
    fn two_bids_in_one_auction_are_evidence_and_nothing_else_is() {
        let (key, other) = (SecretKey::from_seed([1; 32]), SecretKey::from_seed([2; 32]));
        let one = SignedBid::sign(&key, bid(7, 0.5));
        let verify = |other| Evidence { one, other }.verify();
        assert_eq!(verify(SignedBid::sign(&key, bid(7, 0.1))), Ok(key.node_id()));
        let next_life = SealedBid { incarnation: 4, ..bid(7, 0.1) };
        let innocent = [
            one,
            SignedBid::sign(&key, bid(8, 0.1)),
            SignedBid::sign(&other, bid(7, 0.1)),
            SignedBid::sign(&key, next_life),
        ];
        for innocent in innocent {
            assert_eq!(verify(innocent), Err(EvidenceError::NoContradiction));
        }
        let forged = SignedBid { bid: bid(7, 0.1), ..one };
        assert_eq!(verify(forged), Err(EvidenceError::Forged));
        assert_eq!(Evidence { one: forged, other: one }.verify(), Err(EvidenceError::Forged));
    }
}
