//! Signatures of clients, checked together: what is found, what it costs, and others who check them.

use std::collections::BTreeMap;
use std::time::Duration;

use mesh_consensus::pbft::{
    AuthMode, Batch, CheckJob, Envelope, JOBS_MAX, Kind, Message, Operation, Pbft, PbftCommand, PbftEvent,
    PbftHandle as _, Request, Verdict,
};
use mesh_consensus::session::{SessionId, SessionRequest};
use mesh_core::identity::Signature;
use mesh_core::{Events, Instant, Metrics, NodeId, Rng64, wire};

use crate::floods::{LOOKED_AT, checked, client, opening};
use crate::group::{Group, Journal, Node, both, config, in_all_modes};
use crate::stories::{Story, replica, replicas};

const TICK: Duration = Duration::from_millis(100);

/// Something arrives with the rest of what arrives at once.
fn at_once(story: &mut Story, messages: Vec<(NodeId, Message)>) {
    story.one.step(|pbft, cx| {
        for (from, message) in messages {
            mesh_core::Protocol::on_message(pbft, cx, from, Envelope { epoch: 0, message });
        }
    });
}

fn forged(request: Request) -> Request {
    Request { signature: Some(Signature::from_bytes([3; 64])), ..request }
}

fn from_client(n: u32, request: Request) -> (NodeId, Message) {
    (client(n).node_id(), Message::Request(request))
}

fn giving(auth: AuthMode) -> (Story, Metrics) {
    let metrics = Metrics::default();
    let replica = replica(auth).with_check_jobs().with_metrics(&metrics);
    (Story::of(replica, auth, Story::joined()), metrics)
}

fn jobs(story: &mut Story) -> Vec<CheckJob> {
    let events = story.one.events().into_iter();
    events.filter_map(|event| if let PbftEvent::Check(job) = event { Some(job) } else { None }).collect()
}

/// Others do all jobs there are, and those that follow, and all is on disk.
fn answer(story: &mut Story) {
    loop {
        story.one.sync();
        let told = jobs(story);
        if told.is_empty() {
            return;
        }
        for job in told {
            story.one.command(PbftCommand::Checked(job.run()));
        }
    }
}

fn waiting(story: &mut Story) -> usize {
    story.status().waiting
}

#[test]
fn one_bad_signature_among_many_is_found_and_nothing_else_is_refused() {
    both(|auth| {
        for bad in [0, 31, 63] {
            let (mut story, metrics) = Story::metered(auth);
            let request = |n| opening(&client(n), 1);
            let sent = (0..64).map(|n| from_client(n, if n == bad { forged(request(n)) } else { request(n) }));
            at_once(&mut story, sent.collect());
            assert_eq!(waiting(&mut story), 63);
            assert_eq!(metrics.snapshot()["pbft_signatures_bad"], 1);
            // All of them, then halves: never much more than twice as many as there are.
            assert!(checked(&metrics) <= 3 * 64, "{}", checked(&metrics));
            let culprit = client(bad).node_id();
            let told = |event: &PbftEvent| matches!(event, PbftEvent::Misbehaved { peer, .. } if *peer == culprit);
            assert!(story.one.events().iter().any(told));
        }
    });
}

#[test]
fn who_sent_what_is_bad_spoils_one_job_in_a_tick() {
    both(|auth| {
        let (mut story, metrics) = Story::metered(auth);
        for round in 0..2 * LOOKED_AT as u32 {
            let mut sent: Vec<_> = (0..8).map(|n| from_client(n, opening(&client(n), u64::from(round) + 1))).collect();
            sent.insert(3, from_client(99, forged(opening(&client(99), u64::from(round) + 1))));
            at_once(&mut story, sent);
        }
        let rounds = 2 * LOOKED_AT;
        assert_eq!(waiting(&mut story), 8);
        assert_eq!(metrics.snapshot()["pbft_signatures_bad"], LOOKED_AT);
        // The first was looked for; the others came alone until nothing of its sender was looked at any more.
        assert!(checked(&metrics) <= 8 * rounds + LOOKED_AT + 32, "{}", checked(&metrics));
        // What else comes with a bad one from there counts.
        story.one.pass(TICK);
        let handed_on = |n: u32, bad: bool| {
            let request = opening(&client(n), 1);
            (story.node(2), Message::Request(if bad { forged(request) } else { request }))
        };
        let sent = (200..240).map(|n| handed_on(n, n == 207)).collect();
        at_once(&mut story, sent);
        assert_eq!(waiting(&mut story), 8 + 39);
    });
}

#[test]
fn many_bad_ones_at_once_cost_little() {
    both(|auth| {
        let (mut story, metrics) = Story::metered(auth);
        let from = story.node(2);
        let sent = |n| (from, Message::Request(forged(opening(&client(n), 1))));
        at_once(&mut story, (0..256).map(sent).collect());
        assert_eq!(metrics.snapshot()["pbft_signatures_bad"], LOOKED_AT);
        // All, a half, a quarter and so on until the first is found, and then alone what may be looked at.
        assert!(checked(&metrics) <= 2 * 256 + LOOKED_AT, "{}", checked(&metrics));
        assert_eq!(waiting(&mut story), 0);
    });
}

#[test]
fn a_proposal_with_a_bad_signature_deposes_the_primary_and_what_came_with_it_is_taken() {
    both(|auth| {
        for bad in 0..5 {
            let (mut story, metrics) = Story::metered(auth);
            let proposal = |story: &Story, sequence: u32| {
                let requests = (0..4).map(|n| opening(&client(100 * sequence + n), 1));
                let mut requests: Vec<_> = requests.collect();
                if sequence == bad {
                    requests[3] = forged(requests[3].clone());
                }
                (story.node(0), story.pre_prepare(0, sequence.into(), &Batch::new(requests)))
            };
            let mut sent: Vec<_> = (1..=4).map(|sequence| proposal(&story, sequence)).collect();
            sent.push(from_client(7, opening(&client(7), 1)));
            at_once(&mut story, sent);
            story.one.sync();
            let voted = story.votes().iter().filter(|(kind, ..)| *kind == Kind::Prepare).count();
            assert_eq!(story.one.protocol.view(), u64::from(bad > 0));
            assert_eq!(voted as u32, if bad == 0 { 4 } else { bad - 1 }, "none after it wants another view");
            assert_eq!(waiting(&mut story), 1);
            assert_eq!(metrics.snapshot()["pbft_signatures_bad"], u64::from(bad > 0));
        }
    });
}

#[test]
fn what_was_checked_is_not_checked_again_in_a_proposal() {
    both(|auth| {
        let (mut story, metrics) = Story::metered(auth);
        let requests: Vec<_> = (0..8).map(|n| opening(&client(n), 1)).collect();
        at_once(&mut story, (0..8).map(|n| from_client(n, requests[n as usize].clone())).collect());
        assert_eq!(checked(&metrics), 8);
        let primary = u64::from(auth == AuthMode::Signatures);
        story.hear(0, story.pre_prepare(0, 1, &Batch::new(requests.clone())));
        assert_eq!(checked(&metrics), 8 + primary);
        // A request of the same name with another signature is another.
        let changed = [vec![forged(requests[0].clone())], requests[1..].to_vec()].concat();
        story.hear(0, story.pre_prepare(0, 2, &Batch::new(changed)));
        assert_eq!(story.one.protocol.view(), 1);
    });
}

#[test]
fn the_same_request_from_many_at_once_is_checked_once() {
    both(|auth| {
        let (mut story, metrics) = Story::metered(auth);
        let request = opening(&client(1), 1);
        let mut sent = vec![from_client(1, request.clone())];
        sent.extend([0, 2, 3].map(|n| (story.node(n), Message::Request(request.clone()))));
        at_once(&mut story, sent);
        assert_eq!((checked(&metrics), waiting(&mut story)), (1, 1));
        // A forged one of the same name before it does not keep it out.
        let real = opening(&client(2), 1);
        let fake = (story.node(3), Message::Request(forged(real.clone())));
        at_once(&mut story, vec![fake, from_client(2, real)]);
        assert_eq!(waiting(&mut story), 2);
    });
}

#[test]
fn quotas_hold_for_what_is_not_checked_yet() {
    both(|auth| {
        let (mut story, metrics) = giving(auth);
        let busy = client(1);
        let call = |serial: u64| {
            let call = SessionRequest { session: SessionId(9), serial, answered_below: 1 };
            Request::signed(&replicas().group(), &busy, Operation::Call(call, wire::to_bytes(&serial)))
        };
        for part in 0..4 {
            let sent = (1..=100).map(|n| from_client(1, call(100 * part + n)));
            at_once(&mut story, sent.collect());
        }
        let quota = config(auth).max_pending_per_client;
        assert_eq!(jobs(&mut story).iter().map(CheckJob::len).sum::<usize>(), quota);
        assert_eq!(checked(&metrics), quota as u64);
        // A replica may hand on no more than so many before they are checked.
        let from = story.node(2);
        let handed_on = (2..2_000).map(|n| (from, Message::Request(opening(&client(n), 1))));
        at_once(&mut story, handed_on.collect());
        assert_eq!(jobs(&mut story).iter().map(CheckJob::len).sum::<usize>(), 1_024);
    });
}

#[test]
fn jobs_are_given_away_and_their_verdicts_count_once() {
    both(|auth| {
        let (mut story, metrics) = giving(auth);
        at_once(&mut story, (0..8).map(|n| from_client(n, opening(&client(n), 1))).collect());
        let told = jobs(&mut story);
        assert_eq!((told.len(), told[0].len(), waiting(&mut story)), (1, 8, 0));
        let verdict = told[0].run();
        for _ in 0..2 {
            story.one.command(PbftCommand::Checked(verdict));
            assert_eq!(waiting(&mut story), 8);
        }
        assert_eq!(checked(&metrics), 8, "nothing was checked here");
        // A job that fails is done again here, to find the culprit.
        let sent = (8..16)
            .map(|n| from_client(n, if n == 9 { forged(opening(&client(n), 1)) } else { opening(&client(n), 1) }));
        at_once(&mut story, sent.collect());
        let verdict = jobs(&mut story)[0].run();
        story.one.command(PbftCommand::Checked(verdict));
        assert_eq!((waiting(&mut story), metrics.snapshot()["pbft_signatures_bad"]), (15, 1));
        // A proposal waits as well; votes for it are kept meanwhile.
        let batch = Batch::new((20..24).map(|n| opening(&client(n), 1)).collect());
        story.hear(0, story.pre_prepare(0, 1, &batch));
        for from in [2, 3] {
            story.hear(from, story.prepare(from, 1, batch.digest()));
        }
        story.one.sync();
        assert_eq!(story.votes(), []);
        let verdict = jobs(&mut story)[0].run();
        story.one.command(PbftCommand::Checked(verdict));
        story.one.sync();
        assert!(story.votes().contains(&(Kind::Prepare, 1, batch.digest())));
    });
}

#[test]
fn jobs_that_nobody_answers_are_done_in_the_next_tick_but_one_and_are_few() {
    both(|auth| {
        let (mut story, metrics) = giving(auth);
        for n in 0..JOBS_MAX as u32 + 8 {
            at_once(&mut story, vec![from_client(n, opening(&client(n), 1))]);
        }
        let told = jobs(&mut story);
        assert_eq!((told.len(), waiting(&mut story)), (JOBS_MAX, 8));
        let late: Vec<Verdict> = told.iter().map(CheckJob::run).collect();
        story.one.pass(2 * TICK);
        assert_eq!(waiting(&mut story), JOBS_MAX + 8);
        let before = checked(&metrics);
        for verdict in late {
            story.one.command(PbftCommand::Checked(verdict));
        }
        assert_eq!((waiting(&mut story), checked(&metrics)), (JOBS_MAX + 8, before));
    });
}

#[test]
fn votes_of_all_sequence_numbers_are_given_away_together_and_none_that_nothing_depends_on() {
    let (mut story, metrics) = giving(AuthMode::Signatures);
    let batches: Vec<_> = (1..=3).map(|n| Batch::new(vec![opening(&client(n), 1)])).collect();
    for (sequence, batch) in (1..).zip(&batches) {
        story.hear(0, story.pre_prepare(0, sequence, batch));
    }
    answer(&mut story);
    story.votes();
    let prepares = |story: &Story, from: u16, forged: Option<u64>| -> Vec<_> {
        let prepare = |(sequence, batch): (u64, &Batch)| {
            let digest = if forged == Some(sequence) { batches[0].digest() } else { batch.digest() };
            let mut vote = story.vote(from, Kind::Prepare, 0, sequence, digest);
            vote.digest = batch.digest();
            (story.node(from), Message::Prepare(vote))
        };
        (1..).zip(&batches).map(prepare).collect()
    };
    // The primary and this replica are two: one more makes a quorum. The second of these three is no vote.
    let sent = prepares(&story, 2, Some(2));
    at_once(&mut story, sent);
    let told = jobs(&mut story);
    assert_eq!(told.iter().map(CheckJob::len).collect::<Vec<_>>(), [3]);
    story.one.command(PbftCommand::Checked(told[0].run()));
    story.one.sync();
    let committed: Vec<_> = story.votes().iter().map(|(_, sequence, _)| *sequence).collect();
    assert_eq!(committed, [1, 3]);
    assert_eq!(metrics.snapshot()["pbft_signatures_bad"], 1);
    // Of the other replica only that vote is looked at that is missing.
    let sent = prepares(&story, 3, None);
    at_once(&mut story, sent);
    let told = jobs(&mut story);
    assert_eq!(told.iter().map(CheckJob::len).collect::<Vec<_>>(), [1]);
    // Nobody answers.
    story.one.pass(2 * TICK);
    story.one.sync();
    assert!(story.votes().contains(&(Kind::Commit, 2, batches[1].digest())));
}

#[test]
fn a_second_proposal_while_the_first_is_checked_is_evidence_and_a_repeated_one_nothing() {
    let (mut story, metrics) = giving(AuthMode::Signatures);
    let batch = |n: u32| Batch::new(vec![opening(&client(n), 1)]);
    story.hear(0, story.pre_prepare(0, 1, &batch(1)));
    let before = checked(&metrics);
    story.hear(0, story.pre_prepare(0, 1, &batch(1)));
    assert_eq!((checked(&metrics), jobs(&mut story).len()), (before, 1));
    story.hear(0, story.pre_prepare(0, 1, &batch(2)));
    assert_eq!((jobs(&mut story).len(), story.one.protocol.evidence().count()), (0, 1));
}

#[test]
fn what_was_executed_while_it_was_checked_does_not_wait_any_more() {
    both(|auth| {
        let (mut story, _) = giving(auth);
        let request = opening(&client(1), 1);
        at_once(&mut story, vec![from_client(1, request.clone())]);
        let slow = jobs(&mut story);
        let batch = Batch::new(vec![request]);
        let digest = batch.digest();
        story.hear(0, story.pre_prepare(0, 1, &batch));
        for from in [2, 3] {
            story.hear(from, story.prepare(from, 1, digest));
            story.hear(from, story.commit(from, 1, digest));
        }
        answer(&mut story);
        assert_eq!(story.one.protocol.executed(), 1);
        story.one.command(PbftCommand::Checked(slow[0].run()));
        assert_eq!(waiting(&mut story), 0, "it would wait for ever, and depose primary after primary");
    });
}

/// Threads that check signatures for all replicas: they are slow, forget jobs, and answer some twice.
struct Helpers {
    rng: Rng64,
    events: BTreeMap<NodeId, Events<PbftEvent>>,
    answers: Vec<(Instant, NodeId, Verdict)>,
    forgetful: bool,
    done: usize,
}

impl Helpers {
    fn of(group: &Group, seed: u64, forgetful: bool) -> Self {
        let mut helpers = Self {
            rng: Rng64::from_seed(seed, "helpers"),
            events: BTreeMap::new(),
            answers: Vec::new(),
            forgetful,
            done: 0,
        };
        group.nodes.iter().for_each(|node| helpers.listen(group, *node));
        helpers
    }

    /// Listens to a replica that starts.
    fn listen(&mut self, group: &Group, node: NodeId) {
        let Node::Replica(handle) = group.sim.handle(node) else { return };
        self.events.insert(node, handle.events());
        self.answers.retain(|(_, asked, _)| *asked != node);
    }

    fn run(&mut self, group: &mut Group, time: Duration) {
        for _ in 0..time.as_millis() / 5 {
            group.run(Duration::from_millis(5));
            let now = group.sim.now();
            for (node, events) in &mut self.events {
                while let Some(event) = events.try_next() {
                    let Ok(PbftEvent::Check(job)) = event else { continue };
                    let times = if self.forgetful { self.rng.below(4).min(2) } else { 1 };
                    let slow = if self.forgetful { 300 } else { 10 };
                    for _ in 0..times {
                        let delay = Duration::from_millis(self.rng.below(slow));
                        self.answers.push((now + delay, *node, job.run()));
                    }
                }
            }
            let (due, later) = self.answers.drain(..).partition(|(at, ..)| *at <= now);
            self.answers = later;
            let due: Vec<_> = due;
            for (_, node, verdict) in due {
                let Node::Replica(handle) = group.sim.handle(node) else { continue };
                self.done += usize::from(handle.checked(verdict).is_ok());
            }
        }
    }
}

#[test]
fn a_group_whose_signatures_others_check_works_however_slow_and_forgetful_they_are() {
    for forgetful in [false, true] {
        in_all_modes(|n, auth| {
            let mut group = Group::with(61, n, config(auth), &BTreeMap::new(), Pbft::<Journal>::with_check_jobs);
            let clients = [group.add_client(), group.add_client()];
            let mut helpers = Helpers::of(&group, 61, forgetful);
            for round in 0..24 {
                for client in clients {
                    group.propose(client);
                }
                helpers.run(&mut group, Duration::from_millis(50));
                let victim = group.nodes[round / 8 % group.nodes.len()];
                match round % 8 {
                    2 => group.sim.crash(victim),
                    5 => {
                        group.sim.restart(victim);
                        helpers.listen(&group, victim);
                    }
                    _ => {}
                }
            }
            helpers.run(&mut group, Duration::from_secs(8));
            group.finish(Duration::from_secs(60));
            assert!(helpers.done > 20, "{}", helpers.done);
        });
    }
}
