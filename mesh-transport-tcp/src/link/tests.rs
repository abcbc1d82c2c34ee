//! Two links wired together in memory.

use std::sync::OnceLock;

use mesh_core::identity::SecretKey;
use proptest::prelude::*;

use super::*;
use crate::verifier::TlsConfigs;

fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed([seed; 32])
}

fn id(seed: u8) -> NodeId {
    key(seed).node_id()
}

fn listed(peers: &[u8]) -> Allow {
    Allow::Listed(peers.iter().map(|peer| id(*peer)).collect())
}

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn secure(seed: u8, allow: Allow) -> Arc<LinkConfig> {
    let config = TcpConfig { allow, frame_len_max: 1 << 20, ..TcpConfig::new(key(seed), at(0)) };
    Arc::new(LinkConfig::new(&config, vec![at(1000 + u16::from(seed))]).unwrap())
}

fn plain(me: u8, allow: Allow) -> Arc<LinkConfig> {
    let config = TcpConfig { allow, frame_len_max: 1 << 20, ..TcpConfig::plain(id(me), at(0)) };
    Arc::new(LinkConfig::new(&config, vec![at(1000 + u16::from(me))]).unwrap())
}

fn ms(ms: u64) -> Instant {
    Instant::ZERO + Duration::from_millis(ms)
}

/// Reads all of `bytes` in pieces of at most `piece`.
fn feed(link: &mut Link, now: Instant, bytes: &[u8], piece: usize) -> Result<Vec<LinkEvent>, LinkError> {
    let (mut buffer, mut events) = (vec![0; 256 * 1024], Vec::new());
    for mut piece in bytes.chunks(piece) {
        while !piece.is_empty() {
            link.read_from(now, &mut piece, &mut buffer, &mut events)?;
        }
    }
    Ok(events)
}

/// What `link` has to say.
fn drain(link: &mut Link, now: Instant) -> Vec<u8> {
    let mut bytes = Vec::new();
    while !matches!(link.write_to(now, &mut bytes), Ok(Progress::Bytes(0)) | Err(_)) {}
    bytes
}

/// Two ends, and what came out at each.
struct Pair {
    ends: [Link; 2],
    events: [Vec<LinkEvent>; 2],
}

impl Pair {
    fn new(dialer: &Arc<LinkConfig>, expected: Option<NodeId>, listener: &Arc<LinkConfig>) -> Self {
        let ends = [Link::dial(dialer, expected, ms(0)).unwrap(), Link::accept(listener, ms(0)).unwrap()];
        Self { ends, events: [vec![], vec![]] }
    }

    /// Carries bytes both ways until nothing moves.
    fn run(&mut self, now: Instant) -> Result<(), LinkError> {
        loop {
            let mut moved = false;
            for (from, to) in [(0, 1), (1, 0)] {
                let bytes = drain(&mut self.ends[from], now);
                moved |= !bytes.is_empty();
                self.events[to].extend(feed(&mut self.ends[to], now, &bytes, usize::MAX)?);
            }
            if !moved {
                return Ok(());
            }
        }
    }

    fn established() -> Self {
        let mut pair = Self::new(&secure(1, listed(&[2])), Some(id(2)), &secure(2, listed(&[1])));
        pair.run(ms(0)).unwrap();
        pair.events = [vec![], vec![]];
        pair
    }
}

fn established(peer: u8) -> LinkEvent {
    LinkEvent::Established { peer: id(peer), addresses: vec![at(1000 + u16::from(peer))] }
}

/// A stranger may change any byte of its first words: that ends the link, or makes it wait, and nothing else.
#[test]
fn a_hello_of_tls_with_any_byte_changed_panics_nowhere() {
    let (dialing, listening) = (secure(1, listed(&[2])), secure(2, listed(&[1])));
    let hello = || drain(&mut Link::dial(&dialing, Some(id(2)), ms(0)).unwrap(), ms(0));
    let mut failed = 0;
    for place in 0..hello().len() {
        for bits in [0x01, 0x04, 0x10, 0x80, 0xff] {
            let mut bytes = hello();
            bytes[place] ^= bits;
            let mut listener = Link::accept(&listening, ms(0)).unwrap();
            let first = feed(&mut listener, ms(0), &bytes, usize::MAX);
            failed += usize::from(first.is_err());
            drain(&mut listener, ms(0));
            let more = feed(&mut listener, ms(0), &bytes, 100);
            assert!(first.is_ok() || more.is_err(), "a link that failed works again");
            drain(&mut listener, ms(0));
        }
    }
    assert!(failed > 100, "only {failed} of these changes were found");
}

#[test]
fn both_ends_learn_who_the_other_is_and_where_it_listens() {
    for configs in
        [[secure(1, listed(&[2])), secure(2, listed(&[1]))], [plain(1, listed(&[2])), plain(2, listed(&[1]))]]
    {
        for expected in [None, Some(id(2))] {
            let mut pair = Pair::new(&configs[0], expected, &configs[1]);
            pair.run(ms(0)).unwrap();
            assert_eq!(pair.events, [vec![established(2)], vec![established(1)]]);
            assert_eq!(pair.ends.each_ref().map(Link::peer), [Some(id(2)), Some(id(1))]);
        }
    }
}

#[test]
fn frames_of_all_lengths_cross_whole_and_in_order() {
    for configs in
        [[secure(1, Allow::Anyone), secure(2, Allow::Anyone)], [plain(1, Allow::Anyone), plain(2, Allow::Anyone)]]
    {
        let mut pair = Pair::new(&configs[0], None, &configs[1]);
        pair.run(ms(0)).unwrap();
        pair.events = [vec![], vec![]];
        let lens = [1, 2, 1000, 16_379, 16_380, 16_381, 16_384, 16_385, 65_536, 1 << 20, 3];
        let frames: Vec<Vec<u8>> = lens.iter().enumerate().map(|(i, len)| vec![i as u8; *len]).collect();
        for _ in 0..2 {
            for frame in &frames {
                pair.ends[0].send(frame).unwrap();
                pair.ends[1].send(frame).unwrap();
            }
            pair.run(ms(0)).unwrap();
        }
        let twice: Vec<LinkEvent> = frames.iter().chain(&frames).cloned().map(LinkEvent::Frame).collect();
        assert!(pair.events == [twice.clone(), twice]);
    }
}

#[test]
fn small_frames_share_records() {
    let mut pair = Pair::established();
    for _ in 0..1000 {
        pair.ends[0].send(&[7; 12]).unwrap();
    }
    let bytes = drain(&mut pair.ends[0], ms(0));
    assert!(bytes.len() < 1000 * 16 + 100, "{} bytes", bytes.len());
    assert_eq!(feed(&mut pair.ends[1], ms(0), &bytes, usize::MAX).unwrap().len(), 1000);
}

#[test]
fn an_end_that_is_not_on_the_list_is_refused_by_either_side() {
    let mut pair = Pair::new(&secure(1, listed(&[2])), None, &secure(2, listed(&[3])));
    let refused = pair.run(ms(0)).unwrap_err();
    assert!(matches!(refused, LinkError::Refused(Refusal::NotAllowed { peer }) if peer == id(1)), "{refused}");
    assert_eq!(pair.events[1], []);
    // The alert tells the dialer, which never counted the link as established.
    let alert = drain(&mut pair.ends[1], ms(0));
    assert!(matches!(feed(&mut pair.ends[0], ms(0), &alert, 64), Err(LinkError::Tls(_))));
    assert!(!pair.ends[0].is_established());

    let mut pair = Pair::new(&secure(1, listed(&[3])), None, &secure(2, listed(&[1])));
    let refused = pair.run(ms(0)).unwrap_err();
    assert!(matches!(refused, LinkError::Refused(Refusal::NotAllowed { peer }) if peer == id(2)), "{refused}");

    let mut pair = Pair::new(&plain(1, listed(&[2])), None, &plain(2, listed(&[3])));
    assert!(matches!(pair.run(ms(0)), Err(LinkError::Refused(Refusal::NotAllowed { .. }))));
}

#[test]
fn another_node_than_the_one_dialed_is_refused() {
    for configs in
        [[secure(1, Allow::Anyone), secure(2, Allow::Anyone)], [plain(1, Allow::Anyone), plain(2, Allow::Anyone)]]
    {
        let mut pair = Pair::new(&configs[0], Some(id(3)), &configs[1]);
        let refused = pair.run(ms(0)).unwrap_err();
        let LinkError::Refused(Refusal::WrongPeer { expected, found }) = refused else { panic!("{refused}") };
        assert_eq!((expected, found), (id(3), id(2)));
    }
}

#[test]
fn a_node_does_not_link_with_itself() {
    for config in [secure(1, Allow::Anyone), plain(1, Allow::Anyone)] {
        let mut pair = Pair::new(&config, None, &config);
        assert!(matches!(pair.run(ms(0)), Err(LinkError::Refused(Refusal::Oneself))));
    }
}

fn with_tls(seed: u8, make: impl FnOnce(Arc<Gate>) -> TlsConfigs) -> Arc<LinkConfig> {
    let mut config = (*secure(seed, Allow::Anyone)).clone();
    config.tls = Some(make(config.gate.clone()));
    Arc::new(config)
}

#[test]
fn a_key_that_is_presented_but_not_held_proves_nothing() {
    let impostor = with_tls(1, |gate| TlsConfigs::impostor(key(3).public(), key(1), gate));
    let mut pair = Pair::new(&impostor, None, &secure(2, listed(&[3])));
    assert!(matches!(pair.run(ms(0)), Err(LinkError::Tls(_))));
    assert!(!pair.ends[1].is_established());
    let mut pair = Pair::new(&secure(2, listed(&[3])), Some(id(3)), &impostor);
    assert!(matches!(pair.run(ms(0)), Err(LinkError::Tls(_))));
    assert!(!pair.ends[0].is_established());
}

#[test]
fn another_version_of_the_link_is_refused() {
    let unknown: [&[&[u8]]; 3] = [&[], &[b"mesh/2"], &[b"h2", b"http/1.1"]];
    for versions in unknown {
        let other = with_tls(1, |gate| TlsConfigs::speaking(key(1), gate, versions));
        for (dialer, listener) in [(&other, &secure(2, Allow::Anyone)), (&secure(2, Allow::Anyone), &other)] {
            let mut pair = Pair::new(dialer, None, listener);
            assert!(pair.run(ms(0)).is_err(), "{versions:?}");
            assert!(pair.ends.iter().all(|end| !end.is_established()));
        }
    }
    let later = with_tls(1, |gate| TlsConfigs::speaking(key(1), gate, &[b"mesh/2", b"mesh/1"]));
    let mut pair = Pair::new(&later, None, &secure(2, Allow::Anyone));
    pair.run(ms(0)).unwrap();
    assert!(pair.ends[1].is_established(), "a later version can still speak this one");

    let mut link = Link::accept(&plain(2, Allow::Anyone), ms(0)).unwrap();
    assert!(matches!(feed(&mut link, ms(0), b"mesh\x02", 1), Err(LinkError::Version)));
}

#[test]
fn plain_and_encrypted_ends_do_not_understand_each_other() {
    assert!(Pair::new(&plain(1, Allow::Anyone), None, &secure(2, Allow::Anyone)).run(ms(0)).is_err());
    assert!(Pair::new(&secure(1, Allow::Anyone), None, &plain(2, Allow::Anyone)).run(ms(0)).is_err());
}

#[test]
fn nothing_can_be_sent_before_the_peer_is_known() {
    let mut link = Link::dial(&secure(1, Allow::Anyone), None, ms(0)).unwrap();
    assert!(matches!(link.send(b"early"), Err(LinkError::Closed)));
    assert!(matches!(link.send_peers(&[(id(3), vec![at(1)])]), Err(LinkError::Closed)));
}

#[test]
fn a_frame_before_the_hello_is_refused() {
    let mut link = Link::accept(&plain(2, Allow::Anyone), ms(0)).unwrap();
    let mut bytes = b"mesh\x01".to_vec();
    bytes.extend_from_slice(&id(1).0.to_le_bytes());
    bytes.extend_from_slice(&frame_head(5));
    assert!(matches!(feed(&mut link, ms(0), &bytes, 7), Err(LinkError::TooLong { len: 5, limit: 0 })));
}

#[test]
fn an_oversized_frame_is_refused_at_its_head_and_not_sent_either() {
    let mut pair = Pair::established();
    assert!(matches!(pair.ends[0].send(&vec![0; (1 << 20) + 1]), Err(LinkError::TooLong { .. })));
    pair.ends[0].push(&frame_head((1 << 20) + 1)).unwrap();
    assert!(matches!(pair.run(ms(0)), Err(LinkError::TooLong { len: 1_048_577, limit: 1_048_576 })));
}

/// The bytes of a whole conversation in which the dialer says hello and sends a frame.
struct Recording {
    dialer: Vec<u8>,
}

/// The dialer's side of a handshake with a listener of seed 2, and one frame after it.
fn record() -> &'static Recording {
    static RECORDING: OnceLock<Recording> = OnceLock::new();
    RECORDING.get_or_init(|| {
        let mut pair = Pair::new(&secure(1, listed(&[2])), Some(id(2)), &secure(2, listed(&[1])));
        let mut dialer = Vec::new();
        for _ in 0..3 {
            let bytes = drain(&mut pair.ends[0], ms(0));
            dialer.extend_from_slice(&bytes);
            feed(&mut pair.ends[1], ms(0), &bytes, usize::MAX).unwrap();
            let bytes = drain(&mut pair.ends[1], ms(0));
            feed(&mut pair.ends[0], ms(0), &bytes, usize::MAX).unwrap();
        }
        assert!(pair.ends[0].is_established());
        pair.ends[0].send(b"pay me").unwrap();
        dialer.extend_from_slice(&drain(&mut pair.ends[0], ms(0)));
        Recording { dialer }
    })
}

#[test]
fn a_replayed_handshake_proves_nothing() {
    let mut victim = Link::accept(&secure(2, listed(&[1])), ms(0)).unwrap();
    let replayed = feed(&mut victim, ms(0), &record().dialer, usize::MAX);
    assert!(replayed.is_err() || replayed.is_ok_and(|events| events.is_empty()));
    assert!(!victim.is_established());
}

#[test]
fn a_handshake_cut_short_anywhere_establishes_nothing_and_ends_by_its_deadline() {
    // The last flight carries the proof and the hello: without its last byte there is no link.
    for (listener, recorded) in [(secure(2, listed(&[1])), None), (plain(2, listed(&[1])), Some(()))] {
        let whole = match recorded {
            None => record().dialer.clone(),
            Some(()) => drain(&mut Link::dial(&plain(1, listed(&[2])), None, ms(0)).unwrap(), ms(0)),
        };
        for len in 0..whole.len() {
            let mut link = Link::accept(&listener, ms(0)).unwrap();
            let _ = feed(&mut link, ms(0), &whole[..len], usize::MAX);
            assert!(!link.is_established(), "{len}");
            assert!(matches!(link.handle_deadline(ms(5_000)), Err(LinkError::HandshakeTimeout)));
        }
    }
}

#[test]
fn a_flipped_bit_anywhere_in_the_stream_never_changes_a_frame() {
    let mut pair = Pair::established();
    pair.ends[0].send(&[5; 300]).unwrap();
    let sealed = drain(&mut pair.ends[0], ms(0));
    // A session takes one attempt, so each needs a pair of its own: every 61st bit is tried.
    for bit in (0..sealed.len() * 8).step_by(61) {
        let mut pair = Pair::established();
        pair.ends[0].send(&[5; 300]).unwrap();
        let mut sealed = drain(&mut pair.ends[0], ms(0));
        sealed[bit / 8] ^= 1 << (bit % 8);
        let came = feed(&mut pair.ends[1], ms(0), &sealed, usize::MAX);
        // The type and version in a record's head mean nothing in TLS 1.3; all else is protected.
        let intact = [LinkEvent::Frame(vec![5; 300])];
        let harmless = |events: &[LinkEvent]| events.is_empty() || bit < 3 * 8 && events == intact;
        assert!(came.is_err() || came.is_ok_and(|events| harmless(&events)), "bit {bit}");
    }
}

#[test]
fn bits_flipped_during_the_handshake_never_establish_both_ends_with_different_views() {
    let flights = {
        let mut pair = Pair::new(&secure(1, listed(&[2])), Some(id(2)), &secure(2, listed(&[1])));
        let hello = drain(&mut pair.ends[0], ms(0));
        feed(&mut pair.ends[1], ms(0), &hello, usize::MAX).unwrap();
        [hello.len(), drain(&mut pair.ends[1], ms(0)).len()]
    };
    for (flight, len) in flights.into_iter().enumerate() {
        for bit in (0..len * 8).step_by(97) {
            let mut pair = Pair::new(&secure(1, listed(&[2])), Some(id(2)), &secure(2, listed(&[1])));
            let mut bytes = drain(&mut pair.ends[0], ms(0));
            if flight == 0 {
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
            let heard = feed(&mut pair.ends[1], ms(0), &bytes, usize::MAX);
            let mut bytes = drain(&mut pair.ends[1], ms(0));
            if flight == 1 && bit / 8 < bytes.len() {
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
            let answered = feed(&mut pair.ends[0], ms(0), &bytes, usize::MAX);
            if heard.is_ok() && answered.is_ok() {
                let _ = pair.run(ms(0));
            }
            assert!(!pair.ends[0].is_established() || !pair.ends[1].is_established(), "flight {flight}, bit {bit}");
        }
    }
}

#[test]
fn a_stranger_is_taken_few_bytes_from() {
    // A hello of 64 KB, in records that are well formed.
    let mut long_hello = vec![];
    for record in 0..8_u8 {
        long_hello.extend_from_slice(&[0x16, 3, 1, 0x20, 0]);
        long_hello.extend_from_slice(&[0; 0x2000]);
        if record == 0 {
            long_hello[5..9].copy_from_slice(&[1, 0, 0xff, 0]);
        }
    }
    // Signs of life from somebody who never says hello.
    let mut no_hello = b"mesh\x01".to_vec();
    no_hello.extend_from_slice(&id(1).0.to_le_bytes());
    no_hello.resize(2 * HANDSHAKE_LEN_MAX, 0);
    for (config, bytes) in [(secure(2, Allow::Anyone), long_hello), (plain(2, Allow::Anyone), no_hello)] {
        let mut link = Link::accept(&config, ms(0)).unwrap();
        let refused = feed(&mut link, ms(0), &bytes, 1000).unwrap_err();
        assert!(matches!(refused, LinkError::TooLong { limit: HANDSHAKE_LEN_MAX, .. }), "{refused}");
        assert!(link.unread.len() <= HANDSHAKE_LEN_MAX);
    }
}

#[test]
fn a_handshake_that_drips_ends_by_its_deadline() {
    let mut link = Link::accept(&secure(2, Allow::Anyone), ms(0)).unwrap();
    for (n, byte) in record().dialer.iter().take(49).enumerate() {
        feed(&mut link, ms(100 * n as u64), &[*byte], 1).unwrap();
    }
    assert_eq!(link.deadline(), ms(5_000));
    assert!(matches!(link.handle_deadline(ms(5_000)), Err(LinkError::HandshakeTimeout)));
}

#[test]
fn frames_may_come_in_one_read_with_the_hello() {
    let mut pair = Pair::new(&plain(1, Allow::Anyone), None, &plain(2, Allow::Anyone));
    let greeting = drain(&mut pair.ends[1], ms(0));
    feed(&mut pair.ends[0], ms(0), &greeting, usize::MAX).unwrap();
    for _ in 0..5 {
        pair.ends[0].send(&[1; 10_000]).unwrap();
    }
    let all = drain(&mut pair.ends[0], ms(0));
    assert_eq!(feed(&mut pair.ends[1], ms(0), &all, usize::MAX).unwrap().len(), 1 + 5);
}

#[test]
fn an_idle_link_shows_signs_of_life_and_a_silent_one_ends() {
    let mut pair = Pair::established();
    assert_eq!(pair.ends[0].deadline(), ms(2_000));
    for now in (2_000..60_000).step_by(2_000).map(ms) {
        pair.ends[0].handle_deadline(now).unwrap();
        pair.ends[1].handle_deadline(now).unwrap();
        pair.run(now).unwrap();
    }
    assert_eq!(pair.events, [vec![], vec![]], "signs of life are not frames");

    // From here on nothing of what the first end says arrives.
    let mut now = ms(60_000);
    let ended = loop {
        now += Duration::from_secs(1);
        assert!(now < ms(120_000), "it never ends");
        drain(&mut pair.ends[1], now);
        if let Err(error) = pair.ends[1].handle_deadline(now) {
            break error;
        }
    };
    assert!(matches!(ended, LinkError::IdleTimeout));
    assert_eq!(now, ms(68_000), "ten seconds after it was last heard");
}

#[test]
fn an_owner_that_does_not_read_does_not_blame_the_peer() {
    let mut pair = Pair::established();
    for now in (2_000..60_000).step_by(2_000).map(ms) {
        pair.ends[1].excuse(now);
        pair.ends[1].handle_deadline(now).unwrap();
        drain(&mut pair.ends[1], now);
    }
}

#[test]
fn goodbye_comes_after_what_waits_and_is_answered() {
    let mut pair = Pair::established();
    pair.ends[0].send(b"last words").unwrap();
    pair.ends[0].finish(ms(0));
    assert!(matches!(pair.ends[0].send(b"too late"), Err(LinkError::Closed)));
    pair.run(ms(0)).unwrap();
    assert_eq!(pair.events[1], [LinkEvent::Frame(b"last words".to_vec())]);
    assert!(pair.ends[0].is_finished() && !pair.ends[0].is_ended());
    assert!(pair.ends[1].is_ended());

    pair.ends[1].send(b"mine too").unwrap();
    pair.ends[1].finish(ms(0));
    pair.run(ms(0)).unwrap();
    assert_eq!(pair.events[0], [LinkEvent::Frame(b"mine too".to_vec())]);
    assert!(pair.ends.iter().all(|end| end.is_finished() && end.is_ended()));
}

#[test]
fn a_goodbye_that_is_not_answered_ends_by_its_deadline() {
    let mut pair = Pair::established();
    pair.ends[0].finish(ms(100));
    drain(&mut pair.ends[0], ms(100));
    let deadline = pair.ends[0].deadline();
    assert_eq!(deadline, ms(2_100));
    assert!(matches!(pair.ends[0].handle_deadline(deadline), Err(LinkError::Closed)));
}

#[test]
fn peers_are_told_of_in_pieces_that_fit() {
    let mut pair = Pair::established();
    let peers: Vec<_> = (0..100_u128).map(|n| (NodeId(n), vec![at(1); 8])).collect();
    pair.ends[0].send_peers(&peers).unwrap();
    pair.run(ms(0)).unwrap();
    let told = pair.events[1].iter().flat_map(|event| match event {
        LinkEvent::Peers(peers) => peers.clone(),
        other => panic!("{other:?}"),
    });
    assert_eq!(told.collect::<Vec<_>>(), peers);
}

proptest! {
    #[test]
    fn arbitrary_bytes_from_a_stranger_neither_panic_nor_establish(
        bytes in prop::collection::vec(any::<u8>(), 0..20_000), piece in 1usize..5000, dialed: bool,
    ) {
        for config in [secure(2, Allow::Anyone), plain(2, Allow::Anyone)] {
            let link = if dialed { Link::dial(&config, None, ms(0)) } else { Link::accept(&config, ms(0)) };
            let mut link = link.unwrap();
            let _ = feed(&mut link, ms(0), &bytes, piece);
            prop_assert!(!link.is_established());
            prop_assert!(link.unread.len() <= HANDSHAKE_LEN_MAX);
            drain(&mut link, ms(0));
        }
    }

    #[test]
    fn arbitrary_bytes_within_a_session_neither_panic_nor_outgrow_the_limits(
        bytes in prop::collection::vec(any::<u8>(), 0..5000), control: bool,
    ) {
        let mut pair = Pair::established();
        if control {
            pair.ends[0].push(&control_head(bytes.len())).unwrap();
        }
        pair.ends[0].push(&bytes).unwrap();
        let _ = pair.run(ms(0));
        for event in &pair.events[1] {
            if let LinkEvent::Frame(frame) = event {
                prop_assert!(frame.len() <= 1 << 20);
            }
        }
    }

    #[test]
    fn a_conversation_survives_any_cutting(cut in 1usize..600, lens in prop::collection::vec(1usize..40_000, 1..6)) {
        let mut pair = Pair::new(&secure(1, listed(&[2])), Some(id(2)), &secure(2, listed(&[1])));
        let mut came = Vec::new();
        for round in 0..4 {
            if round == 3 {
                for len in &lens {
                    pair.ends[0].send(&vec![3; *len]).unwrap();
                }
            }
            for (from, to) in [(0, 1), (1, 0)] {
                let bytes = drain(&mut pair.ends[from], ms(0));
                let events = feed(&mut pair.ends[to], ms(0), &bytes, cut).unwrap();
                came.extend(events.into_iter().filter_map(|event| match event {
                    LinkEvent::Frame(frame) => Some(frame.len()),
                    _ => None,
                }));
            }
        }
        prop_assert_eq!(came, lens);
    }
}
