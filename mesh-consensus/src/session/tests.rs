use mesh_core::wire;
use proptest::prelude::*;

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

fn request(session: u64, serial: u64, answered_below: u64) -> SessionRequest {
    SessionRequest { session: SessionId(session), serial, answered_below }
}

fn answer(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

/// A table with session 1, opened at time 0.
fn opened() -> Sessions {
    let mut sessions = Sessions::default();
    sessions.open(SessionId(1), LogTime(0), MINUTE, 10);
    sessions
}

#[test]
fn a_serial_is_applied_once_and_then_answered_from_the_table() {
    let mut sessions = opened();
    let first = request(1, 1, 1);
    assert_eq!(sessions.begin(&first, LogTime(1)), Begin::Apply);
    sessions.finish(&first, answer("one"));
    assert_eq!(sessions.begin(&first, LogTime(2)), Begin::Answered(answer("one")));
    sessions.finish(&first, answer("another"));
    assert_eq!(sessions.begin(&first, LogTime(3)), Begin::Answered(answer("one")), "the first answer stays");
}

#[test]
fn serials_may_come_in_any_order_within_the_window() {
    let mut sessions = opened();
    for serial in [3, 1, WINDOW] {
        assert_eq!(sessions.begin(&request(1, serial, 1), LogTime(0)), Begin::Apply);
        sessions.finish(&request(1, serial, 1), answer("done"));
    }
    assert_eq!(sessions.begin(&request(1, WINDOW + 1, 1), LogTime(0)), Begin::WindowFull);
    assert_eq!(sessions.begin(&request(1, 2, 1), LogTime(0)), Begin::Apply);
    assert_eq!(sessions.begin(&request(1, WINDOW + 1, 2), LogTime(0)), Begin::Apply, "the window moved");
}

#[test]
fn an_answer_the_client_has_is_forgotten_and_its_command_never_applied_again() {
    let mut sessions = opened();
    sessions.finish(&request(1, 1, 1), answer("one"));
    assert_eq!(sessions.answer_bytes(), 3);
    assert_eq!(sessions.begin(&request(1, 2, 2), LogTime(0)), Begin::Apply);
    assert_eq!(sessions.answer_bytes(), 0);
    assert_eq!(sessions.begin(&request(1, 1, 1), LogTime(0)), Begin::Stale, "a late copy");
    assert_eq!(sessions.begin(&request(1, 0, 0), LogTime(0)), Begin::Stale, "serial numbers count from 1");
    assert_eq!(sessions.begin(&request(1, 9, u64::MAX), LogTime(0)), Begin::Stale);
}

#[test]
fn with_many_bytes_kept_only_the_lowest_serial_is_let_in() {
    let mut sessions = opened();
    let long = Bytes::from(vec![7; ANSWER_BYTES_MAX]);
    assert_eq!(sessions.begin(&request(1, 2, 1), LogTime(0)), Begin::Apply);
    sessions.finish(&request(1, 2, 1), long.clone());
    assert_eq!(sessions.begin(&request(1, 3, 1), LogTime(0)), Begin::WindowFull);
    assert_eq!(sessions.begin(&request(1, 1, 1), LogTime(0)), Begin::Apply);
    sessions.finish(&request(1, 1, 1), long.clone());
    assert_eq!(sessions.begin(&request(1, 3, 2), LogTime(0)), Begin::WindowFull, "2 was not answered yet");
    assert_eq!(sessions.begin(&request(1, 2, 2), LogTime(0)), Begin::Answered(long));
    assert_eq!(sessions.begin(&request(1, 3, 3), LogTime(0)), Begin::Apply);
}

#[test]
fn a_session_expires_when_it_is_not_used_for_longer_than_its_time_to_live() {
    let mut sessions = opened();
    assert_eq!(sessions.begin(&request(1, 1, 1), LogTime(60_000)), Begin::Apply);
    sessions.finish(&request(1, 1, 1), answer("one"));
    assert_eq!(sessions.begin(&request(1, 1, 1), LogTime(120_000)), Begin::Answered(answer("one")));
    assert_eq!(sessions.begin(&request(1, 1, 1), LogTime(180_001)), Begin::Expired);
    assert_eq!(sessions.begin(&request(1, 1, 1), LogTime(0)), Begin::Expired, "it does not come back");
    assert!(sessions.is_empty());
}

#[test]
fn a_stamp_of_the_past_does_not_turn_time_back() {
    let mut sessions = opened();
    sessions.expire(LogTime(50_000));
    assert_eq!(sessions.begin(&request(1, 1, 1), LogTime(10_000)), Begin::Apply);
    assert_eq!(sessions.time(), LogTime(50_000));
    assert_eq!(sessions.begin(&request(1, 2, 1), LogTime(110_000)), Begin::Apply, "used at 50 s, not at 10 s");
}

#[test]
fn opening_a_session_drops_the_expired_and_then_the_least_recently_used() {
    let mut sessions = Sessions::default();
    let short = Duration::from_secs(1);
    sessions.open(SessionId(1), LogTime(0), short, 3);
    sessions.open(SessionId(2), LogTime(0), MINUTE, 3);
    sessions.open(SessionId(3), LogTime(0), MINUTE, 3);
    sessions.open(SessionId(4), LogTime(2000), MINUTE, 3);
    assert_eq!(sessions.begin(&request(1, 1, 1), LogTime(2000)), Begin::Expired);
    assert_eq!(sessions.begin(&request(2, 1, 1), LogTime(2001)), Begin::Apply);
    sessions.open(SessionId(5), LogTime(2002), MINUTE, 3);
    assert_eq!(sessions.begin(&request(3, 1, 1), LogTime(2002)), Begin::Expired, "3 was not used for longest");
    assert_eq!(sessions.begin(&request(2, 1, 1), LogTime(2002)), Begin::Apply);
    sessions.open(SessionId(6), LogTime(2003), MINUTE, 0);
    assert_eq!(sessions.len(), 1, "a limit of 0 is one of 1");
}

#[test]
fn a_closed_session_is_gone() {
    let mut sessions = opened();
    assert!(sessions.close(SessionId(1)));
    assert!(!sessions.close(SessionId(1)));
    assert_eq!(sessions.begin(&request(1, 1, 1), LogTime(0)), Begin::Expired);
    sessions.finish(&request(1, 1, 1), answer("late"));
    assert!(sessions.is_empty());
}

#[test]
fn a_table_that_cannot_be_does_not_decode() {
    let refused = |change: fn(&mut Sessions)| {
        let mut sessions = opened();
        sessions.begin(&request(1, 5, 5), LogTime(9));
        sessions.finish(&request(1, 5, 5), answer("five"));
        assert_eq!(wire::from_bytes(&wire::to_bytes(&sessions)), Ok(sessions.clone()));
        change(&mut sessions);
        wire::from_bytes::<Sessions>(&wire::to_bytes(&sessions)).is_err()
    };
    fn session(sessions: &mut Sessions) -> &mut Session {
        sessions.open.get_mut(&SessionId(1)).expect("it is open")
    }
    assert!(refused(|sessions| session(sessions).used = LogTime(10)), "used in the future");
    assert!(refused(|sessions| session(sessions).answered_below = 0), "serial 0");
    assert!(refused(|sessions| session(sessions).answered_below = 6), "an answer below");
    assert!(refused(|sessions| session(sessions).answers.push_back((5 + WINDOW, Bytes::new()))), "one beyond");
}

#[test]
fn answers_out_of_order_do_not_decode() {
    let mut sessions = opened();
    sessions.finish(&request(1, 5, 1), answer("a"));
    sessions.finish(&request(1, 6, 1), answer("b"));
    let mut bytes = wire::to_bytes(&sessions).to_vec();
    let len = bytes.len();
    assert_eq!(bytes[len - 6..], [5, 1, b'a', 6, 1, b'b']);
    bytes[len - 6..].rotate_left(3);
    assert!(wire::from_slice::<Sessions>(&bytes).is_err(), "6 before 5");
    bytes[len - 6] = 5;
    assert!(wire::from_slice::<Sessions>(&bytes).is_err(), "5 twice");
}

#[test]
fn answers_read_from_a_snapshot_do_not_keep_it_in_memory() {
    let mut sessions = opened();
    sessions.finish(&request(1, 1, 1), answer("one"));
    let snapshot = wire::to_bytes(&sessions);
    let mut restored = wire::from_bytes::<Sessions>(&snapshot).expect("it was just encoded");
    let Begin::Answered(one) = restored.begin(&request(1, 1, 1), LogTime(0)) else { panic!("it was answered") };
    assert!(!snapshot.as_ptr_range().contains(&one.as_ptr()));
}

/// One call of the table, as an entry of the log makes it.
#[derive(Clone, Debug)]
enum Call {
    Open { ttl: u64, limit: u32 },
    Command { session: u64, serial: u64, answered_below: u64, len: usize },
    Close { session: u64 },
    Expire,
    Restore,
}

fn calls() -> impl Strategy<Value = Vec<(u64, Call)>> {
    let near_window = prop_oneof![8 => 0..6u64, 1 => WINDOW - 2..WINDOW + 3, 1 => Just(u64::MAX)];
    let len = prop_oneof![4 => 0..9usize, 1 => ANSWER_BYTES_MAX / 2..ANSWER_BYTES_MAX + 2];
    let call = prop_oneof![
        2 => (0..40u64, 0..5u32).prop_map(|(ttl, limit)| Call::Open { ttl, limit }),
        12 => (0..8u64, near_window, 0..5u64, len).prop_map(|(session, serial, answered_below, len)| {
            Call::Command { session, serial, answered_below, len }
        }),
        1 => (0..8u64).prop_map(|session| Call::Close { session }),
        1 => Just(Call::Expire),
        1 => Just(Call::Restore),
    ];
    prop::collection::vec((0..8u64, call), 0..200)
}

/// A table that forgets nothing and looks through everything.
#[derive(Default)]
struct Model {
    now: u64,
    sessions: Vec<ModelSession>,
}

struct ModelSession {
    id: u64,
    gone: bool,
    ttl: u64,
    used: u64,
    answered_below: u64,
    applied: Vec<(u64, Bytes)>,
}

impl Model {
    fn pass(&mut self, time: u64) {
        self.now = self.now.max(time);
    }

    fn expire(&mut self) {
        for session in &mut self.sessions {
            session.gone |= self.now - session.used > session.ttl;
        }
    }

    fn open(&mut self, id: u64, ttl: u64, limit: u32) {
        self.expire();
        let here = |session: &&mut ModelSession| !session.gone;
        while self.sessions.iter_mut().filter(here).count() >= limit.max(1) as usize {
            let oldest = self.sessions.iter_mut().filter(here).min_by_key(|session| (session.used, session.id));
            oldest.expect("there is one").gone = true;
        }
        let session = ModelSession { id, gone: false, ttl, used: self.now, answered_below: 1, applied: Vec::new() };
        self.sessions.push(session);
    }

    fn begin(&mut self, request: &SessionRequest, output: &Bytes) -> Begin {
        let now = self.now;
        let known = self.sessions.iter_mut().find(|session| session.id == request.session.0);
        let Some(session) = known.filter(|session| !session.gone && now - session.used <= session.ttl) else {
            return Begin::Expired;
        };
        session.used = now;
        session.answered_below = session.answered_below.max(request.answered_below);
        let (serial, below) = (request.serial, session.answered_below);
        if serial < below {
            return Begin::Stale;
        }
        if let Some((_, answer)) = session.applied.iter().find(|(applied, _)| *applied == serial) {
            return Begin::Answered(answer.clone());
        }
        let kept: usize = session.applied.iter().filter(|(applied, _)| *applied >= below).map(|(_, a)| a.len()).sum();
        if serial - below >= WINDOW || kept >= ANSWER_BYTES_MAX && serial != below {
            return Begin::WindowFull;
        }
        session.applied.push((serial, output.clone()));
        Begin::Apply
    }
}

proptest! {
    /// Whatever is called, the table says what the model says, and so does a replica restored in between.
    #[test]
    fn a_table_agrees_with_one_that_forgets_nothing(calls in calls()) {
        let (mut sessions, mut replica, mut model) = (Sessions::default(), Sessions::default(), Model::default());
        let (mut now, mut applied) = (0, std::collections::BTreeSet::new());
        for (index, (step, call)) in (1..).zip(calls) {
            // Mostly onwards, sometimes back: a new leader may not know its predecessor's last stamps.
            now = (now + step).saturating_sub(2);
            let time = LogTime(now);
            if !matches!(call, Call::Close { .. } | Call::Restore) {
                model.pass(now);
            }
            match call {
                Call::Open { ttl, limit } => {
                    model.open(index, ttl, limit);
                    sessions.open(SessionId(index), time, Duration::from_millis(ttl), limit);
                    replica.open(SessionId(index), time, Duration::from_millis(ttl), limit);
                }
                Call::Command { session, serial, answered_below, len } => {
                    // The newest few sessions, by how long ago they were opened.
                    let opened = model.sessions.iter().rev().nth(session as usize).map_or(0, |session| session.id);
                    let request = request(opened, serial, answered_below);
                    let output = Bytes::from(vec![index as u8; len]);
                    let expected = model.begin(&request, &output);
                    prop_assert_eq!(sessions.begin(&request, time), expected.clone());
                    prop_assert_eq!(replica.begin(&request, time), expected.clone());
                    if expected == Begin::Apply {
                        prop_assert!(applied.insert((opened, serial)), "{:?} is applied twice", request);
                        sessions.finish(&request, output.clone());
                        replica.finish(&request, output);
                    }
                }
                Call::Close { session } => {
                    let opened = model.sessions.iter_mut().rev().nth(session as usize);
                    let id = SessionId(opened.map_or(0, |session| {
                        session.gone = true;
                        session.id
                    }));
                    prop_assert_eq!(sessions.close(id), replica.close(id));
                }
                Call::Expire => {
                    model.expire();
                    sessions.expire(time);
                    replica.expire(time);
                }
                Call::Restore => replica = wire::from_bytes(&wire::to_bytes(&replica)).expect("it was just encoded"),
            }
            prop_assert_eq!(&sessions, &replica);
            for session in sessions.open.values() {
                prop_assert!(session.answers.len() as u64 <= WINDOW);
                prop_assert!(session.bytes <= 3 * (ANSWER_BYTES_MAX + 1), "two answers over the limit at most");
                prop_assert_eq!(session.bytes, session.answers.iter().map(|(_, answer)| answer.len()).sum::<usize>());
            }
        }
    }

    /// Requests are lost, doubled and overtake each other, answers are lost: in the end each command
    /// was applied once, and the client was told what that gave.
    #[test]
    fn a_client_that_retries_gets_each_command_applied_once(
        events in prop::collection::vec((0..6u8, any::<prop::sample::Index>()), 0..300),
        len in prop_oneof![Just(1usize), Just(ANSWER_BYTES_MAX / 3)],
    ) {
        let (mut sessions, mut client) = (opened(), ClientSession::new(SessionId(1)));
        let mut network: Vec<SessionRequest> = Vec::new();
        let mut applied: BTreeMap<u64, u8> = BTreeMap::new();
        let mut given: BTreeMap<u64, u8> = BTreeMap::new();
        let (mut handed, mut counter) = (0, 0u8);
        let mut arrive = |sessions: &mut Sessions, request: SessionRequest| match sessions.begin(&request, LogTime(0)) {
            Begin::Apply => {
                counter = counter.wrapping_add(1);
                assert_eq!(applied.insert(request.serial, counter), None, "{request:?} is applied twice");
                sessions.finish(&request, Bytes::from(vec![counter; len]));
                Some(counter)
            }
            Begin::Answered(answer) => answer.first().copied(),
            _ => None,
        };
        for (event, which) in events {
            match event {
                0 => {
                    let request = client.next();
                    handed += usize::from(request.is_some());
                    network.extend(request);
                }
                1 if handed > 0 => network.extend(client.again(1 + which.index(handed) as u64)),
                2 if !network.is_empty() => drop(network.swap_remove(which.index(network.len()))),
                3 if !network.is_empty() => network.push(network[which.index(network.len())]),
                _ if !network.is_empty() => {
                    let request = network.swap_remove(which.index(network.len()));
                    if let Some(answer) = arrive(&mut sessions, request)
                        && event == 4
                        && client.answered(request.serial)
                    {
                        given.insert(request.serial, answer);
                    }
                }
                _ => {}
            }
        }
        // Nothing is lost any more: in the order of the serial numbers every command gets through.
        for serial in 1..=handed as u64 {
            if let Some(request) = client.again(serial) {
                let answer = arrive(&mut sessions, request);
                prop_assert!(answer.is_some(), "{:?} does not get through", request);
                given.extend(answer.map(|answer| (serial, answer)));
                client.answered(serial);
            }
        }
        for late in network {
            arrive(&mut sessions, late);
        }
        prop_assert_eq!(given, applied);
        prop_assert_eq!(client.waiting(), 0);
    }

    #[test]
    fn any_bytes_are_refused_or_have_one_encoding(bytes: Vec<u8>) {
        if let Ok(sessions) = wire::from_slice::<Sessions>(&bytes) {
            prop_assert_eq!(&wire::to_bytes(&sessions)[..], &bytes[..]);
        }
        let _ = wire::from_slice::<SessionRequest>(&bytes);
    }

    /// What a forger makes of a real table is refused or bounded by the bytes there, and works.
    #[test]
    fn a_forged_table_is_refused_or_a_table(
        at: prop::sample::Index, forged: Vec<u8>, serial: u64, answered_below: u64, time: u64,
    ) {
        let mut sessions = opened();
        sessions.open(SessionId(2), LogTime(5), MINUTE, 10);
        for serial in [1, 2, 7] {
            sessions.finish(&request(1, serial, 1), answer("some answer"));
        }
        let mut bytes = wire::to_bytes(&sessions).to_vec();
        let at = at.index(bytes.len());
        bytes.splice(at..(at + forged.len()).min(bytes.len()), forged);
        if let Ok(mut sessions) = wire::from_slice::<Sessions>(&bytes) {
            prop_assert!(sessions.len() + sessions.answer_bytes() <= bytes.len());
            let request = request(1, serial, answered_below);
            sessions.begin(&request, LogTime(time));
            sessions.finish(&request, answer("more"));
            sessions.open(SessionId(u64::MAX), LogTime(time), Duration::MAX, u32::MAX);
        }
    }
}
