//! Messengers in the simulator: what is asked is handled once at most, and the answer is that to what was asked.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use mesh_core::identity::{Ed25519, SecretKey};
use mesh_core::{Events, Handle, Instant, Metrics, NodeId, ProtocolId};
use mesh_gossip::messenger::{
    Messenger, MessengerCommand, MessengerConfig, MessengerEvent, MessengerHandle, NotifyError, RequestError,
    RequestTicket,
};
use mesh_gossip::overlay::{Overlay, OverlayCommand, OverlayConfig};
use mesh_transport_mem::{FaultConfig, FaultKind, FaultSchedule, Latency, LinkConfig, Sim, SimConfig};

const OVERLAY: ProtocolId = ProtocolId(4);
const MESSENGER: ProtocolId = ProtocolId(11);
const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

type Mail = Handle<Messenger<u64>>;

/// What the application of a node was told, in one of its lives.
struct Life {
    node: NodeId,
    mail: Mail,
    events: Events<MessengerEvent<u64>>,
}

type Pending<T> = Pin<Box<dyn Future<Output = T>>>;

/// The answer to a question.
const fn answer_to(question: u64) -> u64 {
    question ^ 0xA5A5_0000
}

/// Nodes with agents, who ask and tell each other numbers, each of them once.
struct World {
    sim: Sim<(Mail, Metrics)>,
    ids: Vec<NodeId>,
    lives: Rc<RefCell<Vec<Life>>>,
    /// How long agents think, at most.
    thinks: Duration,
    thinking: Vec<(Instant, usize, RequestTicket, u64)>,
    numbers: u64,
    asking: BTreeMap<u64, (NodeId, Pending<Result<u64, RequestError>>)>,
    telling: BTreeMap<u64, (NodeId, Pending<Result<(), NotifyError>>)>,
    asked: BTreeMap<u64, (NodeId, Result<u64, RequestError>)>,
    told: BTreeMap<u64, (NodeId, Result<(), NotifyError>)>,
    /// Who was told each number, and how often.
    handled: BTreeMap<u64, Vec<NodeId>>,
}

impl World {
    fn new(seed: u64, count: u8, link: LinkConfig) -> Self {
        let key = |number: u8| SecretKey::from_seed([number; 32]);
        let ids: Vec<_> = (1..=count).map(|number| key(number).node_id()).collect();
        let lives = Rc::new(RefCell::new(Vec::new()));
        let mut config = SimConfig::default();
        (config.link, config.peer_notices) = (link, false);
        let mut sim = Sim::with_config(seed, config);
        for number in 1..=count {
            let (ids, lives, key) = (ids.clone(), Rc::clone(&lives), key(number));
            sim.add_node(key.node_id(), move |node| {
                let me = key.node_id();
                let others = || ids.iter().copied().filter(|id| *id != me);
                let overlay = Overlay::new(OverlayConfig::default()).unwrap();
                let overlay = overlay.with_members(others().map(|id| (id, 0))).unwrap();
                let overlay = node.host(OVERLAY, overlay);
                let (signer, verifier) = (Arc::new(key.clone()), Arc::new(Ed25519::default()));
                let messenger = Messenger::new(MessengerConfig::default(), signer, verifier).unwrap();
                let messenger = messenger.with_peers(others()).unwrap().with_metrics(node.metrics());
                let mail = node.host(MESSENGER, messenger);
                mail.link(&overlay, OverlayCommand::of_relay);
                overlay.link(&mail, MessengerCommand::of_delivered);
                lives.borrow_mut().push(Life { node: me, mail: mail.clone(), events: mail.events() });
                (mail, node.metrics().clone())
            });
        }
        sim.run_for(10 * SECOND);
        Self {
            sim,
            ids,
            lives,
            thinks: Duration::ZERO,
            thinking: Vec::new(),
            numbers: 0,
            asking: BTreeMap::new(),
            telling: BTreeMap::new(),
            asked: BTreeMap::new(),
            told: BTreeMap::new(),
            handled: BTreeMap::new(),
        }
    }

    fn ask(&mut self, from: NodeId, to: NodeId, within: Duration) -> u64 {
        self.numbers += 1;
        let asked = self.sim.handle(from).0.request(to, self.numbers, within);
        self.asking.insert(self.numbers, (to, Box::pin(asked)));
        self.numbers
    }

    fn tell(&mut self, from: NodeId, to: NodeId) -> u64 {
        self.numbers += 1;
        let told = self.sim.handle(from).0.notify(to, self.numbers);
        self.telling.insert(self.numbers, (to, Box::pin(told)));
        self.numbers
    }

    /// Two nodes, not the same.
    fn pair(&mut self) -> (NodeId, NodeId) {
        let mut ids = self.ids.clone();
        self.sim.rng().shuffle(&mut ids);
        (ids[0], ids[1])
    }

    /// Somebody asks or tells somebody something.
    fn say_something(&mut self) {
        let (from, to) = self.pair();
        if self.sim.rng().chance(1, 4) {
            self.tell(from, to);
        } else {
            let within = self.sim.rng().duration_between(SECOND / 2, 20 * SECOND);
            self.ask(from, to, within);
        }
    }

    /// The agents work for a while.
    fn run_for(&mut self, time: Duration) {
        let end = self.sim.now() + time;
        while self.sim.now() < end {
            self.sim.run_for(5 * MS);
            self.work();
        }
    }

    fn work(&mut self) {
        let now = self.sim.now();
        for (at, life) in self.lives.borrow_mut().iter_mut().enumerate() {
            while let Some(event) = life.events.try_next() {
                match event.expect("no event is lost") {
                    MessengerEvent::Requested { ticket, message, .. } => {
                        self.handled.entry(message).or_default().push(life.node);
                        let thinks = self.sim.rng().duration_between(Duration::ZERO, self.thinks);
                        self.thinking.push((now + thinks, at, ticket, message));
                    }
                    MessengerEvent::Notified { message, .. } => {
                        self.handled.entry(message).or_default().push(life.node);
                    }
                    _ => {}
                }
            }
        }
        let due = |(at, ..): &mut (Instant, usize, RequestTicket, u64)| *at <= now;
        for (_, life, ticket, question) in self.thinking.extract_if(.., due) {
            // Who has no life any more answers nothing.
            let mail = self.lives.borrow()[life].mail.clone();
            let _ = mail.answer(ticket, answer_to(question));
        }
        take_ended(&mut self.asking, &mut self.asked);
        take_ended(&mut self.telling, &mut self.told);
    }

    /// Runs until nobody waits for anything, and what is on its way has come.
    fn finish(&mut self) {
        let end = self.sim.now() + 60 * SECOND;
        while !(self.asking.is_empty() && self.telling.is_empty()) {
            assert!(self.sim.now() < end, "every request ends");
            self.run_for(SECOND / 4);
        }
        self.run_for(5 * SECOND);
    }

    /// What must hold, whatever happens.
    fn check(&self) {
        let seed = self.sim.seed();
        let handled = |number: &u64| self.handled.get(number).map_or(&[][..], Vec::as_slice);
        for (number, (to, outcome)) in &self.asked {
            let handled = handled(number);
            assert!(handled.len() <= 1, "request {number} was handled {} times (seed {seed})", handled.len());
            assert!(handled.iter().all(|by| by == to), "request {number} (seed {seed})");
            match outcome {
                Ok(answer) => {
                    assert_eq!(*answer, answer_to(*number), "seed {seed}");
                    assert_eq!(handled.len(), 1, "request {number} was answered by nobody (seed {seed})");
                }
                Err(RequestError::NoAnswer { .. } | RequestError::Stopped) => {}
                Err(error) => assert!(handled.is_empty(), "request {number}: {error} (seed {seed})"),
            }
        }
        for (number, (to, outcome)) in &self.told {
            let handled = handled(number);
            assert!(handled.len() <= 1 && handled.iter().all(|by| by == to), "notice {number} (seed {seed})");
            match outcome {
                Ok(()) => assert_eq!(handled.len(), 1, "notice {number} (seed {seed})"),
                Err(NotifyError::NoAnswer { .. } | NotifyError::Stopped) => {}
                Err(error) => assert!(handled.is_empty(), "notice {number}: {error} (seed {seed})"),
            }
        }
    }

    /// How many ended well, and how many there were.
    fn ended_well(&self) -> (usize, usize) {
        let asked = self.asked.values().filter(|(_, outcome)| outcome.is_ok()).count();
        let told = self.told.values().filter(|(_, outcome)| outcome.is_ok()).count();
        (asked + told, self.asked.len() + self.told.len())
    }

    /// How long a request takes from now until it is answered.
    fn time_of(&mut self, from: NodeId, to: NodeId) -> Duration {
        let (number, start) = (self.ask(from, to, 30 * SECOND), self.sim.now());
        while self.asking.contains_key(&number) {
            self.run_for(5 * MS);
        }
        assert_eq!(self.asked[&number].1, Ok(answer_to(number)), "seed {}", self.sim.seed());
        self.sim.now() - start
    }

    fn counted(&self, of: NodeId, name: &str) -> u64 {
        self.sim.handle(of).1.snapshot()[name]
    }
}

fn take_ended<T>(waiting: &mut BTreeMap<u64, (NodeId, Pending<T>)>, ended: &mut BTreeMap<u64, (NodeId, T)>) {
    let mut cx = Context::from_waker(Waker::noop());
    waiting.retain(|number, (to, future)| match future.as_mut().poll(&mut cx) {
        Poll::Ready(outcome) => {
            ended.insert(*number, (*to, outcome));
            false
        }
        Poll::Pending => true,
    });
}

fn links(change: impl FnOnce(&mut LinkConfig)) -> LinkConfig {
    let mut link = LinkConfig { latency: Latency::between(MS, 20 * MS), ..LinkConfig::default() };
    change(&mut link);
    link
}

#[test]
fn without_faults_all_is_answered() {
    for (seed, count) in [(1, 5), (2, 16)] {
        let mut world = World::new(seed, count, links(|_| {}));
        world.thinks = SECOND / 10;
        for _ in 0..300 {
            let (from, to) = world.pair();
            world.ask(from, to, 10 * SECOND);
            let (from, to) = world.pair();
            world.tell(from, to);
            world.run_for(10 * MS);
        }
        world.finish();
        world.check();
        assert_eq!(world.ended_well(), (600, 600), "seed {seed}");
        let told_all = world.sim.handle(world.ids[0]).0.notify_all(0);
        assert_eq!(world.sim.wait(SECOND, told_all), Some(Ok(usize::from(count) - 1)), "seed {seed}");
        let relayed: u64 = world.ids.iter().map(|id| world.counted(*id, "messenger_relays")).sum();
        assert_eq!(relayed, 0, "straight is enough");
    }
}

#[test]
fn where_frames_are_lost_repeated_and_late_each_request_is_handled_once() {
    for seed in 0..6 {
        let count = if seed % 2 == 0 { 5 } else { 16 };
        let link = links(|link| (link.loss, link.duplicate, link.reorder) = (0.2, 0.3, 0.3));
        let mut world = World::new(seed, count, link);
        world.thinks = SECOND;
        for _ in 0..300 {
            let (from, to) = world.pair();
            world.ask(from, to, 20 * SECOND);
            let (from, to) = world.pair();
            world.tell(from, to);
            world.run_for(10 * MS);
        }
        world.finish();
        world.check();
        assert_eq!(world.ended_well(), (600, 600), "within the time there is an answer (seed {seed})");
        let repeats: u64 = world.ids.iter().map(|id| world.counted(*id, "messenger_repeats")).sum();
        assert!(repeats > 50, "{repeats} copies were told from the first ones (seed {seed})");
    }
}

#[test]
fn where_a_pair_cannot_reach_each_other_others_carry_it_within_two_seconds() {
    for (seed, count) in [(1, 5), (2, 16), (3, 5), (4, 16), (5, 5), (6, 16)] {
        for directions in 1..=3 {
            let mut world = World::new(seed, count, links(|_| {}));
            let (from, to) = world.pair();
            world.time_of(from, to);
            if directions & 1 != 0 {
                world.sim.cut(from, to);
            }
            if directions & 2 != 0 {
                world.sim.cut(to, from);
            }
            world.run_for(SECOND / 10);
            let (first, second) = (world.time_of(from, to), world.time_of(from, to));
            assert!(first < 2 * SECOND, "{first:?} (seed {seed}, directions {directions})");
            assert!(second < 2 * SECOND, "{second:?} (seed {seed}, directions {directions})");
            world.run_for(10 * SECOND);
            let later = world.time_of(from, to);
            assert!(later < 3 * SECOND / 2, "{later:?} (seed {seed}, directions {directions})");
            world.sim.heal();
            world.run_for(5 * SECOND);
            world.time_of(from, to);
            assert!(world.time_of(from, to) < SECOND / 4);
            world.finish();
            world.check();
            assert_eq!(world.counted(to, "messenger_forged"), 0);
        }
    }
}

#[test]
fn who_begins_a_new_life_handles_nothing_twice_and_gets_no_answers_of_the_old_one() {
    for seed in 0..12 {
        let count = if seed % 2 == 0 { 5 } else { 16 };
        let link = links(|link| {
            link.latency = Latency::between(MS, 100 * MS);
            (link.loss, link.duplicate, link.reorder) = (0.1, 0.5, 0.5);
        });
        let mut world = World::new(seed, count, link);
        world.thinks = SECOND / 5;
        // One pair talks, and both of them die again and again.
        let (a, b) = world.pair();
        for round in 0..40 {
            for _ in 0..5 {
                world.ask(a, b, 5 * SECOND);
                world.ask(b, a, 5 * SECOND);
                world.tell(a, b);
            }
            let pause = world.sim.rng().duration_between(MS, 1_500 * MS);
            world.run_for(pause);
            let dies = if round % 2 == 0 { a } else { b };
            world.sim.kill(dies);
            let away = world.sim.rng().duration_between(MS, 300 * MS);
            world.run_for(away);
            world.sim.restart(dies);
        }
        world.finish();
        world.check();
        let (well, all) = world.ended_well();
        assert!(well > all / 10, "{well} of {all} (seed {seed})");
        // Whoever is there is served.
        world.run_for(2 * SECOND);
        for _ in 0..3 {
            assert!(world.time_of(a, b) < 10 * SECOND && world.time_of(b, a) < 10 * SECOND);
        }
    }
}

#[test]
fn a_request_to_who_is_down_is_handled_when_it_is_back() {
    for seed in 0..4 {
        let mut world = World::new(seed, 5, links(|_| {}));
        let (a, b) = world.pair();
        world.time_of(a, b);
        world.sim.kill(b);
        world.run_for(3 * SECOND / 2);
        let number = world.ask(a, b, 20 * SECOND);
        world.run_for(3 * SECOND);
        world.sim.restart(b);
        world.run_for(5 * SECOND);
        assert!(matches!(world.asked.get(&number), Some((_, Ok(_)))), "seed {seed}");
        world.check();
    }
}

#[test]
fn through_all_faults_what_must_hold_holds() {
    for seed in 0..16 {
        let count = if seed % 2 == 0 { 5 } else { 16 };
        let mut world = World::new(seed, count, links(|_| {}));
        world.thinks = 2 * SECOND;
        let mut config = FaultConfig::default();
        config.duration = 30 * SECOND;
        config.kinds = vec![
            FaultKind::Kill,
            FaultKind::Crash,
            FaultKind::Pause,
            FaultKind::Partition,
            FaultKind::Cut,
            FaultKind::Links,
            FaultKind::ClockDrift,
            FaultKind::ClockJump,
        ];
        let schedule = FaultSchedule::swarm(seed, &world.ids, &config);
        world.sim.inject(&schedule);
        for _ in 0..600 {
            world.say_something();
            world.run_for(50 * MS);
        }
        world.sim.heal_everything();
        world.finish();
        world.check();
        let before = world.ended_well();
        assert!(before.0 > before.1 / 4, "{before:?} (seed {seed})");
        // Once all is well again, so are all messages.
        world.run_for(10 * SECOND);
        for _ in 0..100 {
            let (from, to) = world.pair();
            world.ask(from, to, 20 * SECOND);
            world.run_for(20 * MS);
        }
        world.finish();
        world.check();
        let after = world.ended_well();
        assert_eq!((after.0 - before.0, after.1 - before.1), (100, 100), "seed {seed}");
    }
}
