//! Section I: clients. Sessions and retries; and scenario 28, that every caller is answered.

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use mesh_consensus::log::EntryKind;
use mesh_consensus::raft::{Applied, ProposeError, Raft, RaftCommand, RaftConfig, RaftReply, Session};
use mesh_consensus::session::{ClientSession, SessionId, SessionRequest, WINDOW};
use mesh_core::{Handle, LogIndex, ProtocolId, RequestId, Rng64};
use mesh_transport_mem::Sim;
use support::*;

const SECOND: Duration = Duration::from_secs(1);

fn sessions_agree(cluster: &Cluster) {
    let first = cluster.raft(1).sessions();
    assert!((2..=cluster.nodes.len()).all(|number| cluster.raft(number).sessions() == first));
}

#[test]
fn i61_a_command_is_applied_once_however_often_it_is_proposed() {
    let mut cluster = Cluster::led(3);
    let mut client = open(&mut cluster, 1);
    let request = client.next().unwrap();
    assert_eq!(submit(&mut cluster, 1, request, 7), Ok(1));
    assert_eq!(submit(&mut cluster, 1, request, 7), Ok(1), "the answer given before");
    assert!(client.answered(request.serial));
    let next = client.next().unwrap();
    assert_eq!(submit(&mut cluster, 1, next, 8), Ok(2));
    assert_eq!(submit(&mut cluster, 1, request, 7), Err(ProposeError::SessionStale), "the client had its answer");
    cluster.beat(1);
    assert_eq!(cluster.journal(3), [7, 8]);
    sessions_agree(&cluster);
}

#[test]
fn i61_a_retry_across_a_leader_change_is_answered_and_not_applied_again() {
    let mut cluster = Cluster::led(3);
    let mut client = open(&mut cluster, 1);
    cluster.beat(1);
    let request = client.next().unwrap();
    // The entry reaches the others, but node 1 never hears so, and is cut off.
    cluster.rule(|flight| if flight.to == id(1) { Fate::Drop } else { Fate::Deliver });
    let lost = once(&mut cluster, 1, request, 7);
    cluster.deliver();
    cluster.partition(&[&[2, 3]]);
    cluster.pass(5 * SECOND);
    assert_eq!(cluster.reply(1, lost), Some(&Err(ProposeError::Unknown)));
    let leader = cluster.leader().expect("2 or 3 leads");
    assert_ne!(leader, 1);
    assert_eq!(cluster.journal(leader), [7], "the entry is committed under the new leader");
    assert_eq!(submit(&mut cluster, leader, request, 7), Ok(1));
    cluster.heal();
    cluster.pass(SECOND);
    assert_eq!(cluster.journal(1), [7]);
    sessions_agree(&cluster);
}

#[test]
fn i61_two_copies_on_their_way_at_two_leaders_are_applied_once() {
    let mut cluster = Cluster::led(3);
    let mut client = open(&mut cluster, 1);
    cluster.beat(1);
    let (kept, replaced) = (client.next().unwrap(), client.next().unwrap());
    // One copy reaches node 2, the other stays with node 1, which is cut off with it.
    cluster.rule(|flight| if flight.from == id(1) && flight.to == id(2) { Fate::Deliver } else { Fate::Drop });
    let first = once(&mut cluster, 1, kept, 7);
    cluster.deliver();
    cluster.partition(&[&[1], &[2, 3]]);
    let second = once(&mut cluster, 1, replaced, 8);
    cluster.deliver();
    // Node 2 must win, as its log is longer. The client asks it while the first copy is in its log.
    cluster.now += 2 * SECOND;
    cluster.campaign(2);
    cluster.deliver();
    assert_eq!(cluster.leader(), Some(2));
    let entries = |cluster: &Cluster| {
        let raft = cluster.raft(2);
        let kinds = (1..=raft.last_index().0).filter_map(|index| raft.entry(LogIndex(index)));
        kinds.filter(|entry| entry.kind == EntryKind::SessionCommand).count()
    };
    assert_eq!(submit(&mut cluster, 2, replaced, 8), Ok(2));
    assert_eq!(submit(&mut cluster, 2, kept, 7), Ok(1));
    assert_eq!(entries(&cluster), 3, "7 twice");
    cluster.heal();
    cluster.pass(5 * SECOND);
    for lost in [first, second] {
        assert_eq!(cluster.reply(1, lost), Some(&Err(ProposeError::Unknown)));
    }
    for number in 1..=3 {
        assert_eq!(cluster.journal(number), [7, 8]);
    }
    sessions_agree(&cluster);
}

#[test]
fn i61_a_retry_after_a_snapshot_was_installed_finds_the_answer_in_it() {
    let config = RaftConfig { snapshot_log_bytes: 250, trailing_log_bytes: 0, ..config() };
    let mut cluster = Cluster::with(3, &config, 1).with_leader(1);
    cluster.partition(&[&[1, 2]]);
    let mut client = open(&mut cluster, 1);
    let request = client.next().unwrap();
    assert_eq!(submit(&mut cluster, 1, request, 7), Ok(1));
    for command in 100..200 {
        cluster.propose(1, command);
        cluster.deliver();
    }
    assert!(cluster.raft(1).first_index().0 > client.id().0 + 1, "session and command are compacted");
    cluster.heal();
    cluster.pass(2 * SECOND);
    assert_eq!(cluster.raft(3).sessions(), cluster.raft(1).sessions());
    assert!(cluster.raft(3).first_index().0 > client.id().0 + 1);
    cluster.partition(&[&[2, 3]]);
    cluster.pass(2 * SECOND);
    cluster.campaign(3);
    cluster.pass(SECOND);
    let leader = cluster.leader().unwrap();
    assert_eq!(submit(&mut cluster, leader, request, 7), Ok(1));
    // And from the disk alone.
    for number in 1..=3 {
        cluster.crash(number);
        cluster.restart(number);
        assert_eq!(cluster.raft(number).sessions().len(), 1);
    }
    cluster.heal();
    let leader = cluster.await_leader(10 * SECOND);
    assert_eq!(submit(&mut cluster, leader, request, 7), Ok(1));
    assert_eq!(cluster.journal(leader).iter().filter(|command| **command == 7).count(), 1);
}

#[test]
fn i61_an_expired_session_is_refused_the_same_everywhere() {
    let mut cluster = Cluster::led(3);
    let mut client = open(&mut cluster, 1);
    cluster.beat(1);
    let request = client.next().unwrap();
    assert_eq!(submit(&mut cluster, 1, request, 7), Ok(1));
    cluster.pass(TTL);
    assert_eq!(submit(&mut cluster, 1, request, 7), Ok(1), "just in time");
    cluster.pass(TTL + SECOND);
    assert_eq!(submit(&mut cluster, 1, request, 7), Err(ProposeError::SessionExpired));
    cluster.beat(1);
    assert_eq!(cluster.journal(3), [7]);
    assert!(cluster.raft(3).sessions().is_empty());
    sessions_agree(&cluster);
}

#[test]
fn i61_log_time_goes_on_from_leader_to_leader_and_not_without_one() {
    let mut cluster = Cluster::led(3);
    let mut client = open(&mut cluster, 1);
    let request = client.next().unwrap();
    assert_eq!(submit(&mut cluster, 1, request, 7), Ok(1));
    cluster.pass(TTL / 2);
    assert_eq!(submit(&mut cluster, 1, request, 7), Ok(1));
    // For an hour nobody can lead.
    cluster.partition(&[]);
    cluster.pass(60 * TTL);
    cluster.heal();
    let leader = cluster.await_leader(10 * SECOND);
    assert_eq!(submit(&mut cluster, leader, request, 7), Ok(1), "no time has passed");
    let before = cluster.raft(leader).sessions().time();
    cluster.pass(TTL / 2);
    assert_eq!(submit(&mut cluster, leader, request, 7), Ok(1));
    let since = cluster.raft(leader).sessions().time().since(before);
    assert!(since >= TTL / 2 && since < TTL, "{since:?}");
    cluster.pass(TTL + SECOND);
    assert_eq!(submit(&mut cluster, leader, request, 7), Err(ProposeError::SessionExpired));
}

#[test]
fn i61_the_number_of_sessions_is_the_leaders_and_the_least_recently_used_goes() {
    let mut cluster = Cluster::new(3);
    for number in 1..=3 {
        cluster.node(number).config.max_sessions = number as u32 + 1;
        cluster.crash(number);
        cluster.restart(number);
    }
    let mut cluster = cluster.with_leader(1);
    let (mut first, mut second) = (open(&mut cluster, 1), open(&mut cluster, 1));
    cluster.pass(SECOND);
    assert_eq!(submit(&mut cluster, 1, first.next().unwrap(), 7), Ok(1));
    let _third = open(&mut cluster, 1);
    assert_eq!(submit(&mut cluster, 1, second.next().unwrap(), 8), Err(ProposeError::SessionExpired));
    assert_eq!(submit(&mut cluster, 1, first.next().unwrap(), 9), Ok(2));
    cluster.beat(1);
    assert_eq!(cluster.raft(3).sessions().len(), 2, "as node 1 says, not as its own configuration");
    sessions_agree(&cluster);
}

#[test]
fn i61_a_closed_session_answers_no_more_and_the_window_is_bounded() {
    let mut cluster = Cluster::led(3);
    let client = open(&mut cluster, 1);
    let request = |serial| SessionRequest { session: client.id(), serial, answered_below: 1 };
    assert_eq!(submit(&mut cluster, 1, request(WINDOW), 7), Ok(1));
    assert_eq!(submit(&mut cluster, 1, request(WINDOW + 1), 8), Err(ProposeError::SessionWindowFull));
    for _ in 0..2 {
        let closing = cluster.ask(1, RaftCommand::CloseSession { session: client.id() });
        cluster.deliver();
        assert_eq!(cluster.other_reply(1, closing), Some(&RaftReply::SessionClosed(Ok(()))));
    }
    assert_eq!(submit(&mut cluster, 1, request(1), 9), Err(ProposeError::SessionExpired));
    assert_eq!(
        submit(&mut cluster, 1, SessionRequest { session: SessionId(999), ..request(1) }, 9),
        Err(ProposeError::SessionExpired)
    );
    assert_eq!(cluster.journal(1), [7]);
}

#[test]
fn i61_a_session_that_is_kept_does_not_expire() {
    let mut cluster = Cluster::led(3);
    let mut client = open(&mut cluster, 1);
    let keep = |cluster: &mut Cluster| {
        let asked = cluster.ask(1, RaftCommand::KeepSession { session: client.id() });
        cluster.deliver();
        cluster.other_reply(1, asked).cloned()
    };
    for _ in 0..3 {
        cluster.pass(TTL - SECOND);
        assert_eq!(keep(&mut cluster), Some(RaftReply::SessionKept(Ok(()))));
    }
    cluster.pass(TTL + SECOND);
    assert_eq!(keep(&mut cluster), Some(RaftReply::SessionKept(Err(ProposeError::SessionExpired))));
    let request = client.next().unwrap();
    assert_eq!(submit(&mut cluster, 1, request, 7), Err(ProposeError::SessionExpired));
}

#[test]
fn c28_every_caller_is_answered_when_a_leader_steps_down() {
    let mut cluster = Cluster::with(3, &forwarding(), 1).with_leader(1);
    let mut client = open(&mut cluster, 1);
    // In the log, but on no majority; and, for the others, in a batch that is not in the log yet.
    cluster.rule(|flight| if is_forward(flight) || is_forwarded(flight) { Fate::Deliver } else { Fate::Drop });
    let command = |client: &mut ClientSession| RaftCommand::ProposeOnce { request: client.next().unwrap(), command: 8 };
    let plain = cluster.propose(1, 7);
    let in_session = cluster.ask(1, command(&mut client));
    let opening = cluster.ask(1, RaftCommand::OpenSession { ttl: TTL });
    let closing = cluster.ask(1, RaftCommand::CloseSession { session: client.id() });
    let forwarded = cluster.propose(2, 9);
    cluster.deliver();
    assert_eq!(cluster.reply(1, plain), None);
    let requests = [101, 102, 103, 104].map(RequestId);
    let batch = [
        RaftCommand::Propose(10),
        command(&mut client),
        RaftCommand::OpenSession { ttl: TTL },
        RaftCommand::CloseSession { session: client.id() },
    ];
    cluster.step(1, |raft, cx| {
        use mesh_core::Protocol;
        for (request, command) in requests.into_iter().zip(batch) {
            raft.on_command(cx, request, command);
        }
        raft.on_message(cx, id(3), heartbeat(2, at(0, 0), 0));
    });
    cluster.deliver();
    let unknown = ProposeError::Unknown;
    assert_eq!(cluster.reply(1, plain), Some(&Err(unknown.clone())));
    assert_eq!(cluster.reply(1, in_session), Some(&Err(unknown.clone())));
    assert_eq!(cluster.other_reply(1, opening), Some(&RaftReply::SessionOpened(Err(unknown.clone()))));
    assert_eq!(cluster.other_reply(1, closing), Some(&RaftReply::SessionClosed(Err(unknown.clone()))));
    assert_eq!(cluster.reply(2, forwarded), Some(&Err(unknown)));
    let nowhere = ProposeError::NotLeader { leader: Some(id(3)) };
    assert_eq!(cluster.reply(1, requests[0]), Some(&Err(nowhere.clone())));
    assert_eq!(cluster.reply(1, requests[1]), Some(&Err(nowhere.clone())));
    assert_eq!(cluster.other_reply(1, requests[2]), Some(&RaftReply::SessionOpened(Err(nowhere.clone()))));
    assert_eq!(cluster.other_reply(1, requests[3]), Some(&RaftReply::SessionClosed(Err(nowhere))));
}

/// A client that proposes one command after the other, each until it is answered.
struct Client {
    session: Option<ClientSession>,
    opening: Option<(usize, RequestId)>,
    /// The command on its way, and where it was asked for last.
    current: Option<(SessionRequest, u64)>,
    asked: Option<(usize, RequestId)>,
    next_command: u64,
    /// Position in the journal, by command.
    answered: BTreeMap<u64, u64>,
}

impl Client {
    /// A node is gone, and with it what it was asked.
    fn forget(&mut self, number: usize) {
        self.opening.take_if(|(at, _)| *at == number);
        self.asked.take_if(|(at, _)| *at == number);
    }

    /// Asks some node, or looks for its answer.
    fn step(&mut self, cluster: &mut Cluster, number: usize) {
        if let Some((at, asked)) = self.opening.take()
            && let Some(RaftReply::SessionOpened(Ok(session))) = cluster.other_reply(at, asked)
        {
            self.session = Some(ClientSession::new(*session));
        }
        let Some(session) = &mut self.session else {
            self.opening = Some((number, cluster.ask(number, RaftCommand::OpenSession { ttl: 1000 * TTL })));
            return;
        };
        if let Some((at, asked)) = self.asked
            && let Some(reply) = cluster.reply(at, asked).cloned()
            && let Some((request, command)) = self.current
        {
            self.asked = None;
            match reply {
                Ok(Applied { output, .. }) => {
                    self.answered.insert(command, output);
                    session.answered(request.serial);
                    self.current = None;
                }
                Err(error) => assert!(error.is_worth_a_retry(), "{error:?}"),
            }
        }
        let (request, command) = *self.current.get_or_insert_with(|| {
            self.next_command += 1;
            (session.next().expect("one at a time"), self.next_command)
        });
        // Impatient: it does not wait for the answer before it asks elsewhere.
        self.asked = Some((number, once(cluster, number, request, command)));
    }
}

#[test]
fn i62_kills_partitions_snapshots_and_repeats_together_neither_lose_nor_double_a_command() {
    for seed in 0..40 {
        let config = RaftConfig { snapshot_log_bytes: 600, trailing_log_bytes: 100, ..forwarding() };
        let mut cluster = Cluster::with(5, &config, seed);
        let mut rng = Rng64::from_seed(seed, "nemesis");
        let client = |first| Client {
            session: None,
            opening: None,
            current: None,
            asked: None,
            next_command: first,
            answered: BTreeMap::new(),
        };
        let mut clients = [client(1000), client(2000), client(3000)];
        let mut repeated: Vec<Flight> = Vec::new();
        for _ in 0..400 {
            let number = 1 + rng.below(5) as usize;
            match rng.below(24) {
                0 if cluster.raft_is_up(number) => {
                    cluster.crash(number);
                    clients.iter_mut().for_each(|client| client.forget(number));
                }
                0..=2 if !cluster.raft_is_up(number) => cluster.restart(number),
                3 => cluster.partition(&[&[1, 2], &[3, 4, 5]]),
                4 => cluster.partition(&[&[1, 3, 5], &[2, 4]]),
                5 => cluster.partition(&[&[1, 2, 3], &[3, 4, 5]]),
                6 => cluster.rule(|flight| if is_forwarded(flight) { Fate::Drop } else { Fate::Deliver }),
                7..=9 => cluster.heal(),
                10 if !repeated.is_empty() => {
                    let copy = repeated.swap_remove(rng.below(repeated.len() as u64) as usize);
                    if cluster.raft_is_up(copy.to.0 as usize) {
                        cluster.arrive(copy);
                    }
                }
                11..=15 => cluster.pass(Duration::from_millis(rng.below(400))),
                16 => cluster.pass(Duration::from_millis(rng.below(4000))),
                _ if cluster.raft_is_up(number) => {
                    clients[rng.below(3) as usize].step(&mut cluster, number);
                    repeated.extend(cluster.network.iter().filter(|flight| is_forward(flight)).cloned());
                    for _ in 0..rng.below(6) {
                        cluster.deliver_one();
                    }
                }
                _ => {}
            }
        }
        cluster.heal();
        (1..=5).filter(|number| !cluster.raft_is_up(*number)).collect::<Vec<_>>().into_iter().for_each(|number| {
            cluster.restart(number);
        });
        let leader = cluster.await_leader(30 * SECOND);
        // All that is on its way is answered now.
        for client in &mut clients {
            let goal = client.next_command + 2;
            for _ in 0..20 {
                if client.next_command < goal {
                    client.step(&mut cluster, leader);
                    cluster.pass(SECOND);
                }
            }
            assert!(client.next_command >= goal, "seed {seed}: no progress");
        }
        let journal = cluster.journal(leader).to_vec();
        let mut count = BTreeMap::new();
        journal.iter().for_each(|command| *count.entry(*command).or_insert(0) += 1);
        assert!(count.values().all(|count| *count == 1), "seed {seed}: {count:?}");
        for client in &clients {
            for (command, position) in &client.answered {
                assert_eq!(journal.get(*position as usize - 1), Some(command), "seed {seed}: the answer of {command}");
            }
        }
        (1..=5).for_each(|number| assert_eq!(cluster.journal(number), journal, "seed {seed}"));
        sessions_agree(&cluster);
    }
}

/// The application's side, over whole nodes.
#[test]
fn i61_a_session_gets_its_commands_applied_once_whichever_node_it_asks() {
    let mut sim = Sim::new(7);
    let ids = [1, 2, 3].map(id);
    for node in ids {
        sim.add_node(node, move |builder| {
            let raft = Raft::new(forwarding(), ids, Journal::default()).expect("the configuration is valid");
            builder.host(ProtocolId(1), raft)
        });
    }
    let retry = |sim: &mut Sim<Handle<Replica>>, session: &Session, serial, command| {
        for at in ids.into_iter().cycle().take(60) {
            let raft = sim.handle(at).clone();
            match sim.wait(3 * SECOND, session.propose(&raft, serial, command)) {
                Some(Ok(applied)) => return applied.output,
                Some(Err(error)) => assert!(error.is_worth_a_retry(), "{error}"),
                None => {}
            }
            sim.run_for(SECOND / 10);
        }
        panic!("no answer to {command}")
    };
    let open = |sim: &mut Sim<Handle<Replica>>| {
        for at in ids.into_iter().cycle().take(60) {
            let raft = sim.handle(at).clone();
            if let Some(Ok(session)) = sim.wait(3 * SECOND, Session::open(&raft, TTL)) {
                return session;
            }
            sim.run_for(SECOND / 10);
        }
        panic!("no session")
    };
    let session = open(&mut sim);
    for command in 1..=6 {
        let serial = session.begin().expect("one at a time");
        // A node is asked and not waited for, and then it is gone for a while.
        let first = ids[command as usize % 3];
        let raft = sim.handle(first).clone();
        let patience = Duration::from_millis(10 * command);
        let early = sim.wait(patience, session.propose(&raft, serial, command)).and_then(Result::ok);
        sim.kill(first);
        let output = match early {
            Some(applied) => applied.output,
            None => retry(&mut sim, &session, serial, command),
        };
        assert_eq!(output, command, "the place of the command in the journal");
        sim.restart(first);
        let again = sim.handle(ids[0]).clone();
        let used_up = sim.wait(SECOND, session.propose(&again, serial, command));
        assert_eq!(used_up, Some(Err(ProposeError::SessionStale)));
    }
    sim.run_for(5 * SECOND);
    for node in ids {
        let journal = &sim.protocol::<Replica>(node, ProtocolId(1)).expect("it is hosted").state().0;
        assert_eq!(*journal, [1, 2, 3, 4, 5, 6]);
    }
    let raft = sim.handle(ids[0]).clone();
    assert_eq!(sim.wait(SECOND, session.close(&raft)), Some(Ok(())));
    let serial = session.begin().expect("the window is open");
    let closed = sim.wait(SECOND, session.propose(&raft, serial, 7));
    assert_eq!(closed, Some(Err(ProposeError::SessionExpired)));
}

/// Each rule is broken once, and a test above notices.
#[cfg(feature = "planted")]
#[test]
fn a_rule_of_sessions_that_is_broken_is_noticed() {
    use mesh_consensus::raft::Plant;
    assert_found(&[
        (Plant::AnswersNotKept, i61_a_command_is_applied_once_however_often_it_is_proposed as fn()),
        (Plant::SnapshotLosesSessions, i61_a_retry_after_a_snapshot_was_installed_finds_the_answer_in_it),
        (Plant::ExpireByOwnClock, i61_log_time_goes_on_from_leader_to_leader_and_not_without_one),
    ]);
}
