//! The wire form: what is encoded decodes, and what is not does no harm.

use mesh_core::wire;
use proptest::collection::vec;
use proptest::prelude::*;

use super::super::member::Profile;
use super::*;

fn any_claim() -> impl Strategy<Value = Claim> {
    let profile =
        (any::<u16>(), vec(any::<u8>(), 0..30), vec(any::<u8>(), 0..100)).prop_map(|(zone, address, metadata)| {
            Claim::Alive(EncodedProfile::of(&Profile { zone, address: address.into(), metadata: metadata.into() }))
        });
    let suspect = vec(any::<u32>(), 0..6).prop_map(|marks| {
        let mut all = Marks::default();
        for mark in marks {
            all.add(mark);
        }
        Claim::Suspect(all)
    });
    prop_oneof![
        profile,
        any::<u32>().prop_map(Claim::Refuted),
        suspect,
        any::<u32>().prop_map(Claim::Down),
        any::<u32>().prop_map(Claim::Left),
    ]
}

fn any_update() -> impl Strategy<Value = Update> {
    (any::<u128>(), any::<u64>(), any_claim()).prop_map(|(node, incarnation, claim)| Update {
        node: NodeId(node),
        incarnation,
        claim,
    })
}

fn any_slice() -> impl Strategy<Value = Slice> {
    (0..10u32, any::<usize>()).prop_map(|(halvings, at)| {
        let parts: Vec<_> = Slice::ALL.cut(1 << halvings, 1).collect();
        parts[at % parts.len()]
    })
}

fn any_message() -> impl Strategy<Value = Message> {
    let updates = || vec(any_update(), 0..8);
    let kind = prop_oneof![
        (any::<u16>(), any::<u64>(), updates()).prop_map(|(seq, digest, updates)| Kind::Ping(Ping {
            seq,
            digest,
            updates
        })),
        (any::<u16>(), any::<u64>(), updates()).prop_map(|(seq, digest, updates)| Kind::Ack(Ack {
            seq,
            digest,
            updates
        })),
        (any::<u16>(), any::<u128>(), updates()).prop_map(|(seq, target, updates)| Kind::PingReq(PingReq {
            seq,
            target: NodeId(target),
            updates
        })),
        any::<u16>().prop_map(|seq| Kind::Nack(Nack { seq })),
        updates().prop_map(|updates| Kind::Gossip(Gossip { updates })),
        (any_slice(), any::<u32>(), vec(any::<u128>(), 0..8), updates()).prop_map(|(slice, sum, wants, updates)| {
            let wants = wants.into_iter().map(NodeId).collect();
            Kind::Sync(Box::new(Sync { slice, sums: [sum; BUCKETS], wants, updates }))
        }),
        (any_slice(), any::<u32>(), any::<u8>(), updates()).prop_map(|(slice, more, bits, updates)| {
            Kind::Entries(Box::new(Entries { slice, more, covered: [bits; BUCKETS / 8], updates }))
        }),
    ];
    kind.prop_map(Message)
}

proptest! {
    #[test]
    fn what_is_encoded_decodes(message in any_message()) {
        prop_assert_eq!(wire::from_bytes::<Message>(&wire::to_bytes(&message)), Ok(message));
    }

    #[test]
    fn the_length_of_an_update_is_known_before_it_is_encoded(update in any_update()) {
        let mut out = Vec::new();
        update.encode(&mut out);
        prop_assert_eq!(out.len(), update.encoded_len());
    }

    /// Arbitrary bytes never panic, and what decodes has one encoding only.
    #[test]
    fn arbitrary_bytes_do_no_harm(mut bytes in vec(any::<u8>(), 0..200), kind in 0u8..8) {
        if bytes.len() > 1 {
            (bytes[0], bytes[1]) = (VERSION, kind);
        }
        if let Ok(message) = wire::from_slice::<Message>(&bytes) {
            prop_assert_eq!(wire::to_bytes(&message).to_vec(), bytes);
        }
    }

    #[test]
    fn a_message_cut_or_changed_anywhere_does_no_harm(message in any_message(), at in any::<usize>(), bit in 0u8..8) {
        let whole = wire::to_bytes(&message).to_vec();
        let at = at % whole.len();
        prop_assert!(wire::from_slice::<Message>(&whole[..at]).is_err());
        let mut changed = whole;
        changed[at] ^= 1 << bit;
        drop(wire::from_slice::<Message>(&changed));
    }
}

fn ping(updates: Vec<Update>) -> Message {
    Message(Kind::Ping(Ping { seq: 7, digest: 9, updates }))
}

#[test]
fn a_ping_without_news_takes_13_bytes() {
    assert_eq!(wire::to_bytes(&ping(Vec::new())).len(), 13);
}

#[test]
fn s25_fields_and_claims_of_a_later_version_are_skipped() {
    let known = Update { node: NodeId(1), incarnation: 2, claim: Claim::Down(3) };
    let mut bytes = vec![VERSION + 1, 0, 7, 0, 9, 0, 0, 0, 0, 0, 0, 0];
    bytes.push(2);
    bytes.extend_from_slice(&[5, 200, 4, 0, 1, 1]); // A claim of kind 200.
    bytes.extend_from_slice(&[6, 3, 1, 2, 3, 77, 78]); // A claim that it is down, with two bytes more.
    bytes.extend_from_slice(b"more fields");
    assert_eq!(wire::from_slice(&bytes), Ok(ping(vec![known])));
    bytes[0] = VERSION;
    assert!(wire::from_slice::<Message>(&bytes).is_err());
}

#[test]
fn kinds_that_nobody_knows_and_versions_that_never_were_do_not_decode() {
    assert!(wire::from_slice::<Message>(&[VERSION, 200]).is_err());
    assert!(wire::from_slice::<Message>(&[VERSION + 1, 200]).is_err());
    assert!(wire::from_slice::<Message>(&[0, 3, 1, 0]).is_err());
    assert!(wire::from_slice::<Message>(&[VERSION, 3, 1, 0]).is_ok());
}

#[test]
fn a_count_that_is_made_up_allocates_nothing() {
    for count in [[251, 255, 255, 0, 0].as_slice(), &[252, 255, 255, 255, 255], &[250]] {
        let bytes: Vec<u8> = [VERSION, 4].iter().chain(count).copied().collect();
        assert!(wire::from_slice::<Message>(&bytes).is_err());
    }
}

#[test]
fn marks_are_distinct() {
    let mut marks = Marks::default();
    assert!(marks.add(7) && !marks.add(7) && marks.add(8));
    assert_eq!(marks.as_slice(), [7, 8]);
    let bytes = |marks: [u32; 2]| [vec![2], marks.map(u32::to_le_bytes).concat()].concat();
    assert_eq!(wire::from_slice(&bytes([7, 8])), Ok(marks));
    assert!(wire::from_slice::<Marks>(&bytes([7, 7])).is_err());
}
