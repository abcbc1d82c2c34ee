use mesh_core::Harness;
use mesh_core::identity::{Ed25519, SecretKey};
use mesh_core::wire::Opaque;

use super::*;

type Text = Opaque;
type Node = Harness<Messenger<Text>>;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn text(text: &str) -> Text {
    Opaque(Bytes::copy_from_slice(text.as_bytes()))
}

/// A node of a life of its own: all harnesses draw the same numbers.
fn start(me: NodeId, life: u64, messenger: Messenger<Text>) -> Node {
    let mut node = Harness::new(me, messenger);
    node.protocol.life = life;
    node.protocol.receiving.start(life);
    node
}

fn node_with(me: u128, change: impl FnOnce(&mut MessengerConfig)) -> Node {
    let mut config = MessengerConfig::default();
    change(&mut config);
    let peers = (1..=9).map(NodeId).filter(|peer| *peer != NodeId(me));
    start(NodeId(me), me as u64, Messenger::unsigned(config).unwrap().with_peers(peers).unwrap())
}

fn node(me: u128) -> Node {
    node_with(me, |_| {})
}

fn signed(seed: u8) -> Node {
    let key = SecretKey::from_seed([seed; 32]);
    let me = key.node_id();
    let messenger = Messenger::new(MessengerConfig::default(), Arc::new(key), Arc::new(Ed25519::default())).unwrap();
    start(me, seed.into(), messenger)
}

fn id(node: &Node) -> NodeId {
    node.protocol.me
}

/// All messages between two go through until there are none; those of the one are returned.
fn exchange(a: &mut Node, b: &mut Node) -> Vec<Message> {
    let mut all = Vec::new();
    loop {
        let (from_a, from_b) = (a.sent(), b.sent());
        if from_a.is_empty() && from_b.is_empty() {
            return all;
        }
        for (to, message) in from_a {
            if to == id(b) {
                b.receive(id(a), message.clone());
                all.push(message);
            }
        }
        for (to, message) in from_b {
            if to == id(a) {
                a.receive(id(b), message);
            }
        }
    }
}

fn ask(node: &mut Node, to: NodeId, message: &str, within: Duration) -> RequestId {
    node.command(MessengerCommand::Request { to, message: text(message), within })
}

fn tell(node: &mut Node, to: NodeId, message: &str) -> RequestId {
    node.command(MessengerCommand::Notify { to, message: text(message) })
}

fn answer(node: &mut Node, ticket: RequestTicket, message: &str) -> Result<(), AnswerError> {
    let request = node.command(MessengerCommand::Answer { ticket, message: text(message) });
    let answered = node.replies().into_iter().find_map(|(to, reply)| match reply {
        MessengerReply::Answered(answered) if to == request => Some(answered),
        _ => None,
    });
    answered.expect("a command is answered")
}

/// The requests that the application was told.
fn requested(node: &mut Node) -> Vec<(RequestTicket, Text)> {
    let asked = |event| match event {
        MessengerEvent::Requested { ticket, message, .. } => Some((ticket, message)),
        _ => None,
    };
    node.events().into_iter().filter_map(asked).collect()
}

fn notified(node: &mut Node) -> usize {
    node.events().iter().filter(|event| matches!(event, MessengerEvent::Notified { .. })).count()
}

/// How a request ended.
fn outcome(node: &mut Node) -> Vec<Result<Text, RequestError>> {
    let ended = |(_, reply)| match reply {
        MessengerReply::Requested(outcome) => Some(outcome),
        _ => None,
    };
    node.replies().into_iter().filter_map(ended).collect()
}

/// A call of `a` to `b` that is on its way, and not there.
fn call_of(a: &mut Node, b: &mut Node, message: &str) -> Message {
    ask(a, id(b), message, 60 * SECOND);
    for (_, hello) in a.sent() {
        b.receive(id(a), hello);
    }
    for (_, welcome) in b.sent() {
        a.receive(id(b), welcome);
    }
    let (_, call) = a.sent().pop().expect("it is called");
    assert!(matches!(call, Message::Call { .. }));
    call
}

#[test]
fn a_request_comes_once_and_its_answer_comes_back() {
    let (mut a, mut b) = (node(1), node(2));
    ask(&mut a, NodeId(2), "how far?", SECOND);
    let sent = exchange(&mut a, &mut b);
    assert!(matches!(sent[..], [Message::Hello { .. }, Message::Call { .. }]), "{sent:?}");
    let asked = requested(&mut b);
    let [(ticket, message)] = &asked[..] else { panic!("{asked:?}") };
    assert_eq!((ticket.from(), ticket.number(), message), (NodeId(1), 1, &text("how far?")));
    assert_eq!((a.protocol.in_flight(), b.protocol.held()), (1, 1));
    assert_eq!(answer(&mut b, *ticket, "done"), Ok(()));
    exchange(&mut a, &mut b);
    assert_eq!(outcome(&mut a), [Ok(text("done"))]);
    assert_eq!((a.protocol.in_flight(), b.protocol.held(), a.timer(Timer::CallDue(1))), (0, 0, None));
    // A second answer goes nowhere.
    assert_eq!(answer(&mut b, *ticket, "other"), Err(AnswerError::Void));
    assert!(b.sent().is_empty());
    // The next needs no pass.
    ask(&mut a, NodeId(2), "and now?", SECOND);
    assert!(matches!(exchange(&mut a, &mut b)[..], [Message::Call { .. }]));
    // Its ticket is its own.
    let (second, _) = requested(&mut b)[0];
    assert_eq!(answer(&mut b, *ticket, "old"), Err(AnswerError::Void));
    assert_eq!(answer(&mut b, second, "new"), Ok(()));
    exchange(&mut a, &mut b);
    assert_eq!(outcome(&mut a), [Ok(text("new"))]);
}

#[test]
fn repeats_are_told_once_and_have_the_same_answer() {
    let (mut a, mut b) = (node(1), node(2));
    let call = call_of(&mut a, &mut b, "once");
    for _ in 0..3 {
        b.receive(NodeId(1), call.clone());
    }
    let asked = requested(&mut b);
    assert_eq!(asked.len(), 1);
    assert!(b.sent().iter().all(|(_, message)| matches!(message, Message::Received { .. })));
    answer(&mut b, asked[0].0, "answer").unwrap();
    b.sent();
    b.receive(NodeId(1), call.clone());
    assert!(matches!(&b.sent()[..], [(_, Message::Answer { body, .. })] if body == &text("answer").0));
    // When its caller has gone on, it is old.
    let Message::Call { call: CallId { life, number }, slot, pass, kind, body } = call.clone() else { unreachable!() };
    let next = CallId { life, number: number + 1 };
    b.receive(NodeId(1), Message::Call { call: next, slot, pass, kind, body });
    assert_eq!(requested(&mut b).len(), 1);
    b.sent();
    b.receive(NodeId(1), call);
    assert!(requested(&mut b).is_empty() && b.sent().is_empty());
    assert_eq!(b.protocol.receiving.size(), (1, 1, 0));
}

#[test]
fn what_is_lost_is_sent_again_and_an_answer_is_asked_for() {
    let (mut a, mut b) = (node(1), node(2));
    ask(&mut a, NodeId(2), "x", 60 * SECOND);
    assert_eq!(a.sent().len(), 1);
    a.pass(400 * MS);
    assert!(matches!(a.sent()[..], [(NodeId(2), Message::Hello { .. })]), "tried again, later each time");
    a.pass(SECOND);
    exchange(&mut a, &mut b);
    let (ticket, _) = requested(&mut b)[0];
    answer(&mut b, ticket, "lost").unwrap();
    b.sent();
    // It was received: only a short question is sent.
    let mut asked = Vec::new();
    for _ in 0..20 {
        a.pass(SECOND);
        asked.extend(a.sent());
    }
    assert!(asked.iter().all(|(_, message)| matches!(message, Message::Again { .. })), "{asked:?}");
    assert!((9..=13).contains(&asked.len()), "{} times", asked.len());
    b.receive(NodeId(1), asked.pop().unwrap().1);
    exchange(&mut a, &mut b);
    assert_eq!(outcome(&mut a), [Ok(text("lost"))]);
}

#[test]
fn without_an_answer_in_time_nobody_knows() {
    let mut a = node(1);
    ask(&mut a, NodeId(2), "x", SECOND);
    tell(&mut a, NodeId(2), "x");
    a.pass(999 * MS);
    assert!(a.replies().is_empty());
    a.pass(MS);
    assert_eq!(outcome(&mut a), [Err(RequestError::NoAnswer { to: NodeId(2) })]);
    a.pass(9 * SECOND);
    let replies = a.replies();
    assert!(
        matches!(replies[..], [(_, MessengerReply::Notified(Err(NotifyError::NoAnswer { to: NodeId(2) })))]),
        "{replies:?}"
    );
    assert_eq!((a.protocol.in_flight(), a.sent().len() < 20), (0, true));
}

#[test]
fn a_notice_ends_when_it_is_there_and_one_to_all_tells_how_many() {
    let (mut a, mut b) = (node(1), node(2));
    tell(&mut a, NodeId(2), "news");
    exchange(&mut a, &mut b);
    assert_eq!(notified(&mut b), 1);
    assert!(matches!(a.replies()[..], [(_, MessengerReply::Notified(Ok(())))]));

    let mut c = node(3);
    a.command(MessengerCommand::NotifyAll { message: text("all") });
    let mut sent = a.sent();
    assert_eq!(sent.len(), 8, "to all peers, one of them under its pass");
    while !sent.is_empty() {
        for (to, message) in sent {
            let receiver = match to {
                NodeId(2) => &mut b,
                NodeId(3) => &mut c,
                _ => continue,
            };
            receiver.receive(NodeId(1), message);
            receiver.sent().into_iter().for_each(|(_, back)| a.receive(to, back));
        }
        sent = a.sent();
    }
    assert_eq!((notified(&mut b), notified(&mut c), a.replies().len()), (1, 1, 0));
    a.pass(10 * SECOND);
    assert!(matches!(a.replies()[..], [(_, MessengerReply::NotifiedAll(Ok(2)))]));
    assert_eq!((a.protocol.in_flight(), a.protocol.rounds.len()), (0, 0));

    let mut alone = start(NodeId(1), 1, Messenger::unsigned(MessengerConfig::default()).unwrap());
    alone.command(MessengerCommand::NotifyAll { message: text("all") });
    assert!(matches!(alone.replies()[..], [(_, MessengerReply::NotifiedAll(Ok(0)))]));
}

#[test]
fn a_node_can_ask_itself() {
    let mut a = node(1);
    ask(&mut a, NodeId(1), "me", SECOND);
    let (ticket, message) = requested(&mut a).pop().expect("it is told");
    assert_eq!((ticket.from(), message), (NodeId(1), text("me")));
    a.command(MessengerCommand::Answer { ticket, message: text("myself") });
    assert_eq!(outcome(&mut a), [Ok(text("myself"))]);
    assert_eq!((a.protocol.in_flight(), a.sent().len()), (0, 0));
    // Nobody else can say that it is this node.
    a.receive(NodeId(1), Message::Hello { call: CallId { life: 9, number: 1 } });
    assert!(a.sent().is_empty());
}

#[test]
fn calls_of_an_earlier_life_of_the_receiver_are_not_taken() {
    let (mut a, mut b) = (node(1), node(2));
    let call = call_of(&mut a, &mut b, "to the first");
    let mut again = node(2);
    again.protocol.life = 22;
    again.protocol.receiving.start(22);
    again.receive(NodeId(1), call);
    assert!(requested(&mut again).is_empty());
    exchange(&mut a, &mut again);
    assert_eq!(outcome(&mut a), [Err(RequestError::NoAnswer { to: NodeId(2) })], "the first may have handled it");
    // The next one asks for a pass first.
    ask(&mut a, NodeId(2), "to the second", SECOND);
    assert!(matches!(exchange(&mut a, &mut again)[..], [Message::Hello { .. }, Message::Call { .. }]));
    let (ticket, _) = requested(&mut again).pop().expect("it is taken");
    // And an answer of the first life to another request is none to this one.
    answer(&mut again, ticket, "second").unwrap();
    exchange(&mut a, &mut again);
    assert_eq!(outcome(&mut a), [Ok(text("second"))]);
}

#[test]
fn calls_of_an_earlier_life_of_the_caller_are_not_taken_after_those_of_the_next() {
    let (mut a, mut b) = (node(1), node(2));
    let late = call_of(&mut a, &mut b, "late");
    let mut again = node(1);
    again.protocol.life = 11;
    ask(&mut again, NodeId(2), "new", SECOND);
    exchange(&mut again, &mut b);
    let (ticket, message) = requested(&mut b).pop().expect("it is taken");
    assert_eq!(message, text("new"));
    b.receive(NodeId(1), late);
    assert!(requested(&mut b).is_empty());
    // What the former life is told is nothing to this one, whose requests have the same numbers.
    for (_, message) in b.sent() {
        again.receive(NodeId(2), message);
    }
    assert_eq!(again.protocol.in_flight(), 1);
    answer(&mut b, ticket, "new").unwrap();
    exchange(&mut again, &mut b);
    assert_eq!(outcome(&mut again), [Ok(text("new"))]);
}

#[test]
fn an_answer_counts_from_who_was_asked_in_this_life_only() {
    let (mut a, mut b) = (node(1), node(2));
    call_of(&mut a, &mut b, "x");
    let body = text("lie").0;
    let call = CallId { life: 1, number: 1 };
    for (from, call) in [(3, call), (2, CallId { life: 7, ..call }), (2, CallId { number: 2, ..call })] {
        for word in [Message::Answer { call, body: body.clone() }, Message::Lost { call }] {
            a.receive(NodeId(from), word);
            a.receive(NodeId(from), Message::Refused { call, called: true });
        }
    }
    assert!(outcome(&mut a).is_empty());
    // The refusal of a pass means nothing once there was one.
    a.receive(NodeId(2), Message::Refused { call, called: false });
    a.pass(SECOND);
    let tried = a.sent();
    assert!(tried.len() > 1 && tried.iter().all(|(_, message)| matches!(message, Message::Call { .. })), "{tried:?}");
    assert!(outcome(&mut a).is_empty());
    a.receive(NodeId(2), Message::Answer { call, body });
    assert_eq!(outcome(&mut a).len(), 1);
}

#[test]
fn long_ones_and_too_many_are_refused_by_their_sender() {
    let mut a = node_with(1, |config| {
        (config.message_max, config.in_flight_max, config.per_peer_max) = (4, 4, 2);
    });
    ask(&mut a, NodeId(2), "12345", SECOND);
    assert_eq!(outcome(&mut a), [Err(RequestError::TooLong { len: 5, limit: 4 })]);
    ask(&mut a, NodeId(2), "1234", SECOND);
    ask(&mut a, NodeId(2), "1234", SECOND);
    ask(&mut a, NodeId(2), "1234", SECOND);
    assert_eq!(outcome(&mut a), [Err(RequestError::Busy { limit: 2 })]);
    ask(&mut a, NodeId(3), "1234", SECOND);
    ask(&mut a, NodeId(3), "1234", SECOND);
    ask(&mut a, NodeId(4), "1234", SECOND);
    assert_eq!(outcome(&mut a), [Err(RequestError::Busy { limit: 4 })]);
    a.command(MessengerCommand::NotifyAll { message: text("1234") });
    let refused = NotifyError::TooManyPeers { peers: 8, limit: 4 };
    assert!(matches!(a.replies().pop(), Some((_, MessengerReply::NotifiedAll(Err(error)))) if error == refused));
    a.pass(SECOND);
    assert_eq!((outcome(&mut a).len(), a.protocol.in_flight()), (4, 0));
}

#[test]
fn a_receiver_without_room_says_so_and_stays_with_it() {
    let (mut a, mut b) = (node(1), node_with(2, |config| config.held_max = 1));
    ask(&mut a, NodeId(2), "first", 60 * SECOND);
    exchange(&mut a, &mut b);
    ask(&mut a, NodeId(2), "second", 60 * SECOND);
    let sent = exchange(&mut a, &mut b);
    assert_eq!(outcome(&mut a), [Err(RequestError::Unanswerable { to: NodeId(2) })]);
    let (ticket, _) = requested(&mut b)[0];
    answer(&mut b, ticket, "first").unwrap();
    exchange(&mut a, &mut b);
    assert_eq!(outcome(&mut a), [Ok(text("first"))]);
    // A copy that comes when there is room is not taken either: its caller was told so.
    b.receive(NodeId(1), sent[0].clone());
    assert!(requested(&mut b).is_empty());
    // Those that nobody waits for any more make room by themselves.
    ask(&mut a, NodeId(2), "third", SECOND);
    exchange(&mut a, &mut b);
    let (third, _) = requested(&mut b)[0];
    b.pass(SECOND);
    assert_eq!((b.protocol.held(), answer(&mut b, third, "late")), (0, Err(AnswerError::Void)));
}

#[test]
fn what_is_no_message_of_the_application_is_refused() {
    let mut a = start(NodeId(1), 1, Messenger::<Text>::unsigned(MessengerConfig::default()).unwrap());
    let mut b = Harness::new(NodeId(2), Messenger::<bool>::unsigned(MessengerConfig::default()).unwrap());
    ask(&mut a, NodeId(2), "not a bool", SECOND);
    for _ in 0..2 {
        a.sent().into_iter().for_each(|(_, message)| b.receive(NodeId(1), message));
        b.sent().into_iter().for_each(|(_, message)| a.receive(NodeId(2), message));
    }
    assert!(b.events().is_empty());
    assert_eq!(outcome(&mut a), [Err(RequestError::Unanswerable { to: NodeId(2) })]);
}

#[test]
fn an_answer_that_is_too_long_is_told_to_both() {
    let (mut a, mut b) = (node(1), node_with(2, |config| config.message_max = 4));
    ask(&mut a, NodeId(2), "x", 60 * SECOND);
    exchange(&mut a, &mut b);
    let (ticket, _) = requested(&mut b)[0];
    assert_eq!(answer(&mut b, ticket, "12345"), Err(AnswerError::TooLong { len: 5, limit: 4 }));
    exchange(&mut a, &mut b);
    assert_eq!(outcome(&mut a), [Err(RequestError::NoAnswer { to: NodeId(2) })]);
}

#[test]
fn answers_are_kept_within_a_limit_and_as_long_as_they_are_wanted() {
    let (mut a, mut b) = (node(1), node_with(2, |config| config.kept_bytes_max = 300));
    for within in [60, 10, 20, 30] {
        ask(&mut a, NodeId(2), "x", within * SECOND);
    }
    exchange(&mut a, &mut b);
    for (ticket, _) in requested(&mut b) {
        answer(&mut b, ticket, "0123456789").unwrap();
    }
    b.sent();
    assert_eq!(b.protocol.receiving.size(), (1, 4, 4 * 74));
    ask(&mut a, NodeId(2), "x", 40 * SECOND);
    exchange(&mut a, &mut b);
    let (ticket, _) = requested(&mut b)[0];
    answer(&mut b, ticket, "0123456789").unwrap();
    assert_eq!(b.protocol.receiving.size(), (1, 5, 4 * 74), "that of 10 s had to go");
    b.sent();
    // Who asks for that one is told at once that there is none.
    a.pass(5 * SECOND);
    exchange(&mut a, &mut b);
    let ends = outcome(&mut a);
    assert_eq!((ends.iter().filter(|end| end.is_ok()).count(), ends.len()), (4, 5), "{ends:?}");
    b.pass(25 * SECOND);
    assert_eq!(b.protocol.receiving.size(), (1, 5, 3 * 74));
    b.pass(60 * SECOND);
    assert_eq!((b.protocol.receiving.size(), b.timer(Timer::TidyDue)), ((1, 5, 0), None));
}

/// What one node gives the overlay, brought to another by hand.
fn carry(from: &mut Node, to: &mut Node) -> Vec<Bytes> {
    let mut carried = Vec::new();
    for event in from.events() {
        if let MessengerEvent::Relay { to: receiver, payload } = event
            && receiver == id(to)
        {
            to.command(MessengerCommand::Delivered { payload: payload.clone() });
            carried.push(payload);
        }
    }
    carried
}

#[test]
fn over_others_a_request_comes_once_and_its_answer_goes_back_that_way() {
    let (mut a, mut b) = (signed(1), signed(2));
    let to = id(&b);
    ask(&mut a, to, "around", 60 * SECOND);
    assert!(a.events().is_empty(), "first straight");
    // Nothing that is sent straight arrives.
    a.pass(400 * MS);
    assert_eq!((carry(&mut a, &mut b).len(), carry(&mut b, &mut a).len()), (1, 1));
    let carried = carry(&mut a, &mut b);
    assert_eq!(carried.len(), 1, "who is heard over others only is called that way at once");
    let told = b.events();
    let [MessengerEvent::Requested { ticket, from, .. }, MessengerEvent::Relay { payload, .. }] = &told[..] else {
        panic!("{told:?}")
    };
    assert_eq!(*from, id(&a));
    a.command(MessengerCommand::Delivered { payload: payload.clone() });
    // The same once more, by both ways.
    b.command(MessengerCommand::Delivered { payload: carried[0].clone() });
    a.sent().into_iter().for_each(|(_, message)| b.receive(*from, message));
    assert!(b.events().iter().all(|event| matches!(event, MessengerEvent::Relay { .. })));
    answer(&mut b, *ticket, "answer").unwrap();
    carry(&mut b, &mut a);
    assert_eq!(outcome(&mut a), [Ok(text("answer"))]);
}

#[test]
fn envelopes_that_are_forged_or_for_others_or_of_other_things_are_dropped() {
    let (mut a, mut b, mut c) = (signed(1), signed(2), signed(3));
    let metrics = Metrics::default();
    b.protocol.meter.forged = metrics.counter("forged");
    let to = id(&b);
    ask(&mut a, to, "x", 60 * SECOND);
    a.pass(400 * MS);
    let MessengerEvent::Relay { payload, .. } = a.events().pop().expect("it is relayed") else { unreachable!() };
    c.command(MessengerCommand::Delivered { payload: payload.clone() });
    assert!(c.sent().is_empty(), "it is not for this node");
    let mut forged = payload.to_vec();
    *forged.last_mut().unwrap() ^= 1;
    b.command(MessengerCommand::Delivered { payload: forged.into() });
    b.command(MessengerCommand::Delivered { payload: payload.slice(..20) });
    assert!(b.sent().is_empty() && b.events().is_empty());
    assert_eq!(metrics.snapshot()["forged"], 2);
    // Other payloads of the overlay are nobody's fault.
    let other = crate::overlay::OverlayEvent::Delivered { origin: id(&a), payload: Bytes::from_static(b"other") };
    assert_eq!(MessengerCommand::<Text>::of_delivered(&other), None);
    let envelope = crate::overlay::OverlayEvent::Delivered { origin: id(&a), payload: payload.clone() };
    assert!(MessengerCommand::<Text>::of_delivered(&envelope).is_some());
    b.command(MessengerCommand::Delivered { payload });
    assert!(matches!(b.sent()[..], [(_, Message::Welcome { .. })]));
    // Nodes without keys neither send envelopes nor take them.
    let mut plain = node(1);
    ask(&mut plain, NodeId(2), "x", 60 * SECOND);
    plain.pass(5 * SECOND);
    assert!(plain.events().is_empty());
}

#[test]
fn what_is_too_long_for_the_overlay_goes_straight_only() {
    let mut a = signed(1);
    ask(&mut a, NodeId(7), &"x".repeat(1_000), 60 * SECOND);
    let call = CallId { life: 1, number: 1 };
    a.receive(NodeId(7), Message::Welcome { call, pass: Pass { life: 7, issue: 1 } });
    a.pass(5 * SECOND);
    assert!(a.events().is_empty() && a.sent().len() > 3);
}

#[test]
fn strangers_have_little_room_and_take_none_from_peers() {
    let mut b = node_with(2, |config| (config.strangers_max, config.held_max, config.calls_per_s) = (4, 8, 1_000_000));
    let metrics = Metrics::default();
    b.protocol = std::mem::replace(&mut b.protocol, Messenger::unsigned(MessengerConfig::default()).unwrap())
        .with_metrics(&metrics);
    let kind = Kind::Request { within: 1_000_000 };
    let mut taken = 0;
    for stranger in 100..400_u128 {
        let (from, call) = (NodeId(stranger), CallId { life: 9, number: 1 });
        b.receive(from, Message::Hello { call });
        let Some((_, Message::Welcome { pass, .. })) = b.sent().pop() else { continue };
        for slot in 0..200 {
            let body = Bytes::from_static(b"flood");
            b.receive(from, Message::Call { call, slot, pass, kind, body });
        }
        b.sent();
        taken += requested(&mut b).len();
    }
    let (sessions, slots, kept) = b.protocol.receiving.size();
    assert_eq!((taken, b.protocol.held()), (4, 4), "half of what can be held");
    assert!(sessions <= 4 && slots <= 4 * 64 && kept == 0, "{sessions} sessions, {slots} slots");
    // A peer is served.
    let mut a = node(1);
    ask(&mut a, NodeId(2), "peer", SECOND);
    exchange(&mut a, &mut b);
    assert_eq!(requested(&mut b).len(), 1);
    // Strangers that wait for nothing make room.
    let mut stranger = start(NodeId(500), 5, Messenger::unsigned(MessengerConfig::default()).unwrap());
    b.pass(2_000 * SECOND);
    tell(&mut stranger, NodeId(2), "let me in");
    exchange(&mut stranger, &mut b);
    assert_eq!(notified(&mut b), 1);
    assert!(metrics.snapshot()["messenger_refused"] > 0);
}

#[test]
fn calls_of_a_session_that_was_dropped_are_not_taken_again() {
    let mut b = node_with(2, |config| config.strangers_max = 1);
    let mut a = start(NodeId(100), 3, Messenger::unsigned(MessengerConfig::default()).unwrap());
    let call = call_of(&mut a, &mut b, "once");
    b.receive(NodeId(100), call.clone());
    let (ticket, _) = requested(&mut b)[0];
    answer(&mut b, ticket, "done").unwrap();
    b.sent();
    // Another stranger takes its room.
    let mut other = start(NodeId(101), 4, Messenger::unsigned(MessengerConfig::default()).unwrap());
    tell(&mut other, NodeId(2), "x");
    exchange(&mut other, &mut b);
    assert_eq!(notified(&mut b), 1);
    b.pass(20 * SECOND);
    b.receive(NodeId(100), call);
    assert!(requested(&mut b).is_empty());
    assert!(matches!(b.sent()[..], [(_, Message::Lost { .. })]));
}

#[test]
fn one_that_says_much_is_heard_less_and_the_others_as_before() {
    let mut b = node_with(2, |config| config.calls_per_s = 10);
    for number in 0..1_000 {
        b.receive(NodeId(3), Message::Hello { call: CallId { life: 3, number } });
        b.receive(NodeId(300), Message::Hello { call: CallId { life: 3, number } });
    }
    assert_eq!(b.sent().len(), 20);
    let mut a = node(1);
    tell(&mut a, NodeId(2), "x");
    exchange(&mut a, &mut b);
    assert_eq!(notified(&mut b), 1);
}

#[test]
fn numbers_of_the_far_future_spoil_those_of_their_sender_only() {
    let (mut a, mut b) = (node(1), node(2));
    let Message::Call { pass, kind, body, .. } = call_of(&mut a, &mut b, "x") else { unreachable!() };
    let call = CallId { life: 3, number: u64::MAX };
    // A pass that was never given, and one of another life.
    for issue in [0, pass.issue + 1, u64::MAX] {
        let pass = Pass { life: pass.life, issue };
        b.receive(NodeId(3), Message::Call { call, slot: 0, pass, kind, body: body.clone() });
    }
    let elsewhere = Pass { life: 99, ..pass };
    b.receive(NodeId(3), Message::Call { call, slot: 0, pass: elsewhere, kind, body: body.clone() });
    assert!(requested(&mut b).is_empty());
    assert_eq!(b.protocol.receiving.size().0, 0);
    b.receive(NodeId(3), Message::Call { call, slot: 0, pass, kind, body: body.clone() });
    b.receive(NodeId(3), Message::Call { call, slot: 64, pass, kind, body });
    assert_eq!((requested(&mut b).len(), b.protocol.receiving.size()), (1, (1, 1, 0)));
    exchange(&mut a, &mut b);
    ask(&mut a, NodeId(2), "y", SECOND);
    exchange(&mut a, &mut b);
    assert_eq!(requested(&mut b).len(), 1);
}

#[test]
fn a_removed_peer_is_tried_on_and_may_ask() {
    let (mut a, mut b) = (node(1), node(2));
    ask(&mut a, NodeId(2), "x", 60 * SECOND);
    exchange(&mut a, &mut b);
    a.command(MessengerCommand::RemovePeer(NodeId(2)));
    b.command(MessengerCommand::RemovePeer(NodeId(1)));
    assert_eq!((a.protocol.peers().len(), a.protocol.in_flight(), b.protocol.held()), (7, 1, 1));
    let (ticket, _) = requested(&mut b)[0];
    answer(&mut b, ticket, "y").unwrap();
    exchange(&mut a, &mut b);
    assert_eq!(outcome(&mut a), [Ok(text("y"))]);
    assert!(!a.protocol.sending.contacts.contains_key(&NodeId(2)), "nothing is kept of it");
    ask(&mut a, NodeId(2), "z", SECOND);
    exchange(&mut a, &mut b);
    assert_eq!(requested(&mut b).len(), 1);
    b.command(MessengerCommand::AddPeer(NodeId(1)));
    assert_eq!(b.protocol.receiving.size().0, 1);
}

#[test]
fn there_are_only_so_many_peers_and_a_node_is_none_of_its_own() {
    let config = MessengerConfig { peers_max: 1, ..MessengerConfig::default() };
    let mut a = start(NodeId(1), 1, Messenger::unsigned(config).unwrap());
    for (peer, result) in [(1, Ok(())), (2, Ok(())), (2, Ok(())), (3, Err(MessengerError::TooManyPeers { limit: 1 }))] {
        a.command(MessengerCommand::AddPeer(NodeId(peer)));
        assert_eq!(a.replies().pop().map(|(_, reply)| reply), Some(MessengerReply::Done(result)));
    }
    assert_eq!(a.protocol.peers().collect::<Vec<_>>(), [NodeId(2)]);
    let config = MessengerConfig { held_max: 0, ..MessengerConfig::default() };
    assert!(matches!(Messenger::<Text>::unsigned(config), Err(MessengerError::Config(_))));
}
