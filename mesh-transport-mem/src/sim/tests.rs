use std::cell::Cell;
use std::rc::Rc;

use mesh_core::{Context, Handle, Lsn, Never, PeerStatus, RecoverError, Recovery, RequestId};

use super::*;

const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);
const C: NodeId = NodeId(3);
const ID: ProtocolId = ProtocolId(1);
const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// Sends what it is told to, and keeps what it hears and when, by its own clock.
#[derive(Default)]
struct Post {
    heard: Vec<(Instant, NodeId, u64)>,
    peers: Vec<(NodeId, PeerStatus)>,
    ticks: Vec<Instant>,
}

#[derive(Clone, Copy)]
enum Do {
    Send(NodeId, u64),
    Tick(Duration),
}

impl Protocol for Post {
    type Message = (u64, Bytes);
    type Command = Do;
    type Reply = ();
    type Event = ();
    type Timer = ();
    type Record = Never;

    fn on_message(&mut self, cx: &mut Context<'_, Self>, from: NodeId, (number, _): (u64, Bytes)) {
        self.heard.push((cx.now(), from, number));
    }
    fn on_timer(&mut self, cx: &mut Context<'_, Self>, _: ()) {
        self.ticks.push(cx.now());
    }
    fn on_peer(&mut self, _: &mut Context<'_, Self>, peer: NodeId, status: PeerStatus) {
        self.peers.push((peer, status));
    }
    fn on_command(&mut self, cx: &mut Context<'_, Self>, request: RequestId, command: Do) {
        match command {
            Do::Send(to, number) => cx.send(to, (number, Bytes::from_static(&[0; 100]))),
            Do::Tick(after) => cx.set_timer((), after),
        }
        cx.reply(request, ());
    }
}

type PostSim = Sim<Handle<Post>>;

fn posts(seed: u64) -> PostSim {
    let mut sim = Sim::new(seed);
    for id in [A, B, C] {
        sim.add_node(id, |node| node.host(ID, Post::default()));
    }
    sim
}

fn send(sim: &PostSim, from: NodeId, to: NodeId, number: u64) {
    sim.handle(from).cast(Do::Send(to, number)).unwrap();
}

fn heard(sim: &PostSim, id: NodeId) -> Vec<u64> {
    sim.protocol::<Post>(id, ID).unwrap().heard.iter().map(|(_, _, number)| *number).collect()
}

#[test]
fn a_frame_arrives_after_the_latency_of_its_link() {
    let mut sim = posts(1);
    sim.set_links(LinkConfig { latency: Latency::fixed(MS * 7), ..LinkConfig::default() });
    send(&sim, A, B, 1);
    sim.run_for(SECOND);
    let heard = &sim.protocol::<Post>(B, ID).unwrap().heard;
    assert_eq!(heard[..], [(Instant::ZERO + MS * 7, A, 1)]);
    assert_eq!(sim.now(), Instant::ZERO + SECOND);
}

#[test]
fn a_node_that_lies_sends_something_else_to_some_until_it_is_honest() {
    let mut sim = posts(1);
    let send_to_both = |sim: &mut PostSim| {
        [B, C].into_iter().for_each(|to| send(sim, A, to, 1));
        sim.run_for(SECOND);
        (heard(sim, B).len(), heard(sim, C).len())
    };
    assert_eq!(send_to_both(&mut sim), (1, 1));
    sim.lie(A, |to, frame| if to == B { vec![] } else { vec![frame.clone(), frame] });
    assert_eq!(send_to_both(&mut sim), (1, 3));
    assert!(sim.transcript().to_string().contains("lies"));
    sim.be_honest(A);
    assert_eq!(send_to_both(&mut sim), (2, 4));
}

#[test]
fn loss_duplication_and_reordering_reach_the_protocol() {
    let mut sim = posts(2);
    sim.set_link(A, B, LinkConfig { loss: 0.2, duplicate: 0.2, reorder: 0.2, ..LinkConfig::default() });
    for number in 0..1_000 {
        send(&sim, A, B, number);
        sim.run_for(MS / 10);
    }
    sim.run_for(SECOND);
    let heard = heard(&sim, B);
    let distinct: BTreeSet<_> = heard.iter().collect();
    assert!((700..900).contains(&distinct.len()), "lost some: {}", distinct.len());
    assert!(heard.len() > distinct.len() + 100, "heard some twice: {}", heard.len());
    assert!(!heard.is_sorted());
    let stats = sim.stats();
    assert_eq!(stats.frames_sent - stats.frames_lost + stats.frames_duplicated, stats.frames_delivered);
}

#[test]
fn partitions_cuts_and_bridges_hold_back_what_they_say() {
    let mut sim = posts(3);
    let reach = |sim: &mut PostSim| {
        let mut reached = String::new();
        for (from, to, name) in
            [(A, B, "AB "), (B, A, "BA "), (A, C, "AC "), (C, A, "CA "), (B, C, "BC "), (C, B, "CB ")]
        {
            let before = heard(sim, to).len();
            send(sim, from, to, 0);
            sim.run_for(MS * 10);
            if heard(sim, to).len() > before {
                reached += name;
            }
        }
        sim.heal();
        reached
    };
    assert_eq!(reach(&mut sim), "AB BA AC CA BC CB ");
    sim.partition(&[&[A, B], &[C]]);
    assert_eq!(reach(&mut sim), "AB BA ");
    sim.partition(&[&[A, B], &[B, C]]);
    assert_eq!(reach(&mut sim), "AB BA BC CB ", "B is a bridge");
    sim.cut(A, B);
    assert_eq!(reach(&mut sim), "BA AC CA BC CB ");
    assert_eq!(reach(&mut sim), "AB BA AC CA BC CB ");
}

#[test]
fn what_is_on_its_way_is_lost_when_the_link_is_cut() {
    let mut sim = posts(4);
    send(&sim, A, B, 1);
    sim.run_for(MS / 4);
    sim.cut(A, B);
    sim.run_for(SECOND);
    assert_eq!(heard(&sim, B), []);
}

#[test]
fn a_full_link_tells_its_sender_and_later_that_there_is_room() {
    let mut sim = posts(5);
    sim.run_for(SECOND);
    sim.set_link(A, B, LinkConfig { bandwidth: Some(10_000), queue_bytes_max: 500, ..LinkConfig::default() });
    for number in 0..10 {
        send(&sim, A, B, number);
        sim.run_for(MS / 10);
    }
    sim.run_for(SECOND);
    assert!((4..8).contains(&heard(&sim, B).len()));
    let told = &sim.protocol::<Post>(A, ID).unwrap().peers;
    let congestion: Vec<_> = told.iter().skip_while(|(_, status)| *status == PeerStatus::Connected).collect();
    assert_eq!(congestion, [&(B, PeerStatus::Congested), &(B, PeerStatus::Writable)]);
}

#[test]
fn a_paused_node_hears_all_at_once_when_it_goes_on() {
    let mut sim = posts(6);
    sim.handle(B).cast(Do::Tick(MS * 10)).unwrap();
    sim.run_for(MS);
    sim.pause(B);
    send(&sim, A, B, 1);
    send(&sim, A, B, 2);
    sim.run_for(SECOND);
    assert!(heard(&sim, B).is_empty());
    sim.resume(B);
    sim.run_for(MS);
    let post = sim.protocol::<Post>(B, ID).unwrap();
    assert_eq!(post.heard.len(), 2);
    assert_eq!(post.ticks, [post.heard[0].0]);
}

#[test]
fn clocks_run_apart_and_jump_and_timers_follow_them() {
    let mut sim = Sim::new(7);
    let clock = ClockConfig { offset: SECOND * 100, drift_ppb: 100_000_000 };
    sim.add_node_with_clock(A, clock, |node| node.host(ID, Post::default()));
    sim.add_node(B, |node| node.host(ID, Post::default()));
    for id in [A, B] {
        sim.handle(id).cast(Do::Tick(SECOND * 11)).unwrap();
    }
    let ticks = |sim: &PostSim, id| sim.protocol::<Post>(id, ID).map(|post| post.ticks.clone());
    assert!(sim.run_until(SECOND * 20, |sim| ticks(sim, A) != Some(vec![])));
    assert_eq!(sim.now(), Instant::ZERO + SECOND * 10, "ten percent early");
    assert_eq!(ticks(&sim, A), Some(vec![Instant::ZERO + SECOND * 111]));
    sim.jump_clock(B, MS * 600);
    assert!(sim.run_until(SECOND * 20, |sim| ticks(sim, B) != Some(vec![])));
    assert_eq!(sim.now(), Instant::ZERO + MS * 10_400);
    sim.set_drift(A, -100_000_000);
    let before = sim.clock(A);
    sim.run_for(SECOND);
    assert_eq!(sim.clock(A) - before, MS * 900);
}

#[test]
fn the_clock_of_a_process_begins_with_it() {
    let mut sim = Sim::with_config(9, SimConfig { process_clocks: true, ..SimConfig::default() });
    sim.run_for(SECOND);
    sim.add_node_with_clock(A, ClockConfig { offset: MS, drift_ppb: 0 }, |node| node.host(ID, Post::default()));
    assert_eq!(sim.clock(A), Instant::ZERO + MS);
    sim.run_for(SECOND);
    assert_eq!(sim.clock(A), Instant::ZERO + MS + SECOND);
    sim.crash(A);
    sim.run_for(SECOND);
    sim.restart(A);
    assert_eq!(sim.clock(A), Instant::ZERO + MS);
    sim.handle(A).cast(Do::Tick(MS * 5)).unwrap();
    sim.run_for(MS * 10);
    let ticks = &sim.protocol::<Post>(A, ID).unwrap().ticks;
    assert!(matches!(ticks[..], [at] if at >= Instant::ZERO + MS * 6 && at < Instant::ZERO + MS * 7), "{ticks:?}");
}

#[test]
fn nodes_are_told_of_each_other() {
    let mut sim = posts(8);
    sim.run_for(SECOND);
    sim.crash(B);
    sim.run_for(SECOND);
    sim.restart(B);
    sim.run_for(SECOND);
    let told: Vec<_> = sim.protocol::<Post>(A, ID).unwrap().peers.iter().filter(|(peer, _)| *peer == B).collect();
    let status = |status| (B, status);
    let expected = [PeerStatus::Connected, PeerStatus::Disconnected, PeerStatus::Connected].map(status);
    assert_eq!(told, expected.iter().collect::<Vec<_>>());
    assert_eq!(sim.protocol::<Post>(B, ID).unwrap().peers.len(), 2);
}

#[test]
fn actions_run_at_their_times_and_calls_are_answered() {
    let mut sim = posts(9);
    let ran = Rc::new(Cell::new(Instant::ZERO));
    let note = ran.clone();
    sim.after(MS * 5, move |sim| {
        note.set(sim.now());
        sim.note("half-way");
    });
    let call = sim.handle(A).call(Do::Send(B, 1));
    assert_eq!(sim.wait(SECOND, call), Some(Ok(())));
    assert_eq!(sim.wait(MS, std::future::pending::<()>()), None);
    sim.run_for(SECOND);
    assert_eq!(ran.get(), Instant::ZERO + MS * 5);
    assert!(sim.transcript().to_string().contains("0.005000000s half-way"));
}

/// Keeps numbers in its log and answers once they are durable, or at once if that bug is planted.
#[derive(Default)]
struct Ledger {
    kept: Vec<u64>,
    answers_too_early: bool,
}

impl Protocol for Ledger {
    type Message = Never;
    type Command = u64;
    type Reply = ();
    type Event = ();
    type Timer = ();
    type Record = u64;

    fn on_recover(&mut self, _: &mut Recovery<'_>, record: u64) -> Result<(), RecoverError> {
        self.kept.push(record);
        Ok(())
    }
    fn on_message(&mut self, _: &mut Context<'_, Self>, _: NodeId, message: Never) {
        match message {}
    }
    fn on_timer(&mut self, _: &mut Context<'_, Self>, _: ()) {}
    fn on_command(&mut self, cx: &mut Context<'_, Self>, request: RequestId, number: u64) {
        let lsn = cx.persist(number);
        assert!(lsn > Lsn(0));
        self.kept.push(number);
        if self.answers_too_early { cx.reply_volatile(request, ()) } else { cx.reply(request, ()) }
    }
}

type LedgerSim = Sim<Handle<Ledger>>;

fn ledger(seed: u64, answers_too_early: bool) -> LedgerSim {
    let mut sim = Sim::new(seed);
    sim.add_node(A, move |node| node.host(ID, Ledger { answers_too_early, ..Ledger::default() }));
    sim
}

fn kept(sim: &LedgerSim) -> Vec<u64> {
    sim.protocol::<Ledger>(A, ID).unwrap().kept.clone()
}

/// Writes until a crash; whether all that was answered is there afterwards.
fn keeps_its_word(seed: u64, answers_too_early: bool) -> bool {
    let mut sim = ledger(seed, answers_too_early);
    let mut calls = Vec::new();
    let crash_at = sim.rng().below(40);
    for number in 0..crash_at {
        calls.push((number, sim.handle(A).call(number)));
        let pause = sim.rng().duration_between(Duration::ZERO, MS);
        sim.run_for(pause);
    }
    let answered: Vec<_> =
        calls.into_iter().filter_map(|(number, call)| sim.wait(Duration::ZERO, call)?.ok().map(|()| number)).collect();
    sim.crash(A);
    sim.restart(A);
    assert!(sim.failure(A).is_none(), "{:?}", sim.failure(A));
    let kept = kept(&sim);
    assert!(kept.iter().copied().eq(0..kept.len() as u64), "a log loses its end, never its middle: {kept:?}");
    answered.iter().all(|number| kept.contains(number))
}

#[test]
fn what_was_answered_survives_every_crash() {
    assert!((0..300).all(|seed| keeps_its_word(seed, false)));
}

#[test]
fn answering_before_the_log_is_caught() {
    let caught = (0..300).filter(|seed| !keeps_its_word(*seed, true)).count();
    assert!(caught > 50, "{caught}");
}

#[test]
fn a_killed_process_leaves_what_it_wrote_in_the_cache() {
    let mut sim = ledger(1, false);
    sim.handle(A).cast(7).unwrap();
    sim.step();
    sim.kill(A);
    assert!(!sim.is_up(A) && sim.protocol::<Ledger>(A, ID).is_none());
    sim.restart(A);
    assert_eq!(kept(&sim), [7]);
}

#[test]
fn a_node_that_lost_its_disk_starts_with_nothing() {
    let mut sim = ledger(1, false);
    sim.handle(A).cast(7).unwrap();
    sim.run_for(SECOND);
    sim.wipe(A);
    assert!(!sim.is_up(A));
    sim.restart(A);
    assert_eq!(kept(&sim), []);
}

#[test]
fn a_node_shut_down_in_good_order_loses_nothing() {
    let mut sim = ledger(1, false);
    sim.handle(A).cast(7).unwrap();
    sim.step();
    sim.stop(A);
    sim.restart(A);
    assert_eq!(kept(&sim), [7]);
}

#[test]
fn a_slow_disk_answers_late() {
    let mut sim = ledger(1, false);
    sim.set_disk(A, DiskConfig { sync: Latency::fixed(MS * 300), ..DiskConfig::default() });
    let call = sim.handle(A).call(7);
    sim.wait(SECOND, call).unwrap().unwrap();
    assert!(sim.now() >= Instant::ZERO + MS * 300);
}

#[test]
fn what_arrives_while_a_sync_is_under_way_shares_the_next_one() {
    let mut sim = ledger(1, false);
    sim.set_disk(A, DiskConfig { sync: Latency::fixed(MS * 10), ..DiskConfig::default() });
    for number in 0..90 {
        sim.handle(A).cast(number).unwrap();
        sim.run_for(MS / 10);
    }
    sim.run_for(SECOND);
    assert_eq!(sim.stats().syncs, 2);
}

#[test]
fn a_failing_or_full_disk_stops_the_node_and_nothing_unsafe_is_answered() {
    let faults = [
        Fault::DiskError { node: A, after_calls: 1, lasts: SECOND },
        Fault::DiskError { node: A, after_calls: 0, lasts: SECOND },
        Fault::DiskFull { node: A, lasts: SECOND },
    ];
    for fault in faults {
        let mut sim = ledger(1, false);
        let before = sim.handle(A).call(0);
        sim.wait(SECOND, before).unwrap().unwrap();
        sim.apply(fault);
        let mut answered = Vec::new();
        for number in 1..20_000 {
            let call = sim.handle(A).call(number);
            match sim.wait(SECOND, call).unwrap() {
                Ok(()) => answered.push(number),
                Err(_) => break,
            }
        }
        assert!(!sim.is_up(A) && sim.failure(A).is_some());
        sim.run_for(SECOND * 2);
        assert!(sim.is_up(A), "it comes back when the disk is well again");
        sim.crash(A);
        sim.restart(A);
        assert!(answered.iter().all(|number| kept(&sim).contains(number)));
    }
}

#[test]
fn a_damaged_disk_is_noticed() {
    let mut noticed = 0;
    for seed in 0..50 {
        let mut sim = ledger(seed, false);
        for number in 0..20 {
            let call = sim.handle(A).call(number);
            sim.wait(SECOND, call);
        }
        sim.crash(A);
        sim.apply(Fault::DiskCorrupt { node: A });
        sim.restart(A);
        // A flip in what a group merely vouches for, or in its last one, is a torn end.
        noticed += u32::from(sim.failure(A).is_some());
        assert!(sim.failure(A).is_some() || kept(&sim).iter().copied().eq(0..kept(&sim).len() as u64));
    }
    assert!(noticed > 40, "{noticed}");
}

/// A run in which everything happens.
fn busy_run(seed: u64) -> Sim<(Handle<Post>, Handle<Ledger>)> {
    let mut sim = Sim::new(seed);
    let nodes = [A, B, C];
    for id in nodes {
        sim.add_node(id, |node| (node.host(ID, Post::default()), node.host(ProtocolId(2), Ledger::default())));
    }
    sim.inject(&FaultSchedule::swarm(seed, &nodes, &FaultConfig::default()));
    for number in 0..500 {
        let mut rng = sim.rng().clone();
        let (from, to) = (*rng.choose(&nodes).unwrap(), *rng.choose(&nodes).unwrap());
        let pause = rng.duration_between(Duration::ZERO, MS * 100);
        *sim.rng() = rng;
        // Nodes that are down refuse.
        let _ = sim.handle(from).0.cast(Do::Send(to, number));
        let _ = sim.handle(to).1.cast(number);
        sim.run_for(pause);
    }
    sim.heal_everything();
    sim.run_for(SECOND * 5);
    assert!(nodes.iter().all(|id| sim.is_up(*id)), "seed {seed}");
    sim
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let digests = |seeds: std::ops::Range<u64>| seeds.map(|seed| busy_run(seed).digest()).collect::<Vec<_>>();
    let here = digests(0..10);
    let there = std::thread::spawn(move || digests(0..10)).join().unwrap();
    assert_eq!(here, there);
    let distinct: BTreeSet<_> = here.iter().collect();
    assert_eq!(distinct.len(), 10);
}

#[test]
fn everything_that_can_happen_happens_to_some_seed() {
    let mut counts = BTreeMap::new();
    for seed in 0..20 {
        for (kind, count) in busy_run(seed).fault_counts() {
            *counts.entry(*kind).or_insert(0) += count;
        }
    }
    assert_eq!(Vec::from_iter(counts.into_keys()), FaultConfig::default().kinds);
}

#[test]
fn a_transcript_tells_what_messages_say_and_where_runs_part() {
    let run = |number| {
        let mut sim = posts(1);
        sim.keep_trace(usize::MAX);
        sim.describe::<Post>(ID);
        sim.run_for(SECOND);
        send(&sim, A, B, number);
        sim.run_for(SECOND);
        sim.transcript()
    };
    let (one, other) = (run(1), run(2));
    assert_eq!(one, run(1));
    let difference = one.difference(&other).unwrap();
    assert!(difference.contains("n1 sends n2") && difference.contains("(1, b\""), "{difference}");
}

#[test]
fn the_run_of_a_seed_is_fixed_for_ever() {
    let mut sim = posts(42);
    let latency = Latency::between(MS, MS * 5).sometimes(0.05, MS * 100);
    sim.set_links(LinkConfig { latency, loss: 0.1, duplicate: 0.2, reorder: 0.3, ..LinkConfig::default() });
    sim.set_drift(B, 12_345_678);
    for number in 0..200 {
        send(&sim, A, B, number);
        send(&sim, B, C, number);
        sim.run_for(MS);
    }
    let digest = sim.digest();
    assert_eq!(digest, 0x40ca_89de_756d_c247, "saved seeds no longer repeat their runs: {digest:#x}");
}
