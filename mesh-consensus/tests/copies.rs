//! Groups with witnesses and lent snapshots under crashes, partitions and disks that hang, as chance has it.

mod support;

use std::time::Duration;

use mesh_consensus::raft::RaftConfig;
use mesh_core::{NodeId, RequestId, Rng64};
use support::*;

const SECOND: Duration = Duration::from_secs(1);

/// A run of a group, and what became of its commands.
struct Run {
    cluster: Cluster,
    nodes: usize,
    /// Who was asked for what, and has not answered.
    asked: Vec<(usize, RequestId, u64)>,
    acknowledged: Vec<u64>,
    next: u64,
}

impl Run {
    fn propose(&mut self) {
        if let Some(leader) = self.cluster.leader() {
            self.asked.push((leader, self.cluster.propose(leader, self.next), self.next));
            self.next += 1;
            self.cluster.deliver();
        }
    }

    fn stop_or_start(&mut self, number: usize) {
        if self.cluster.nodes[number - 1].raft.is_some() {
            self.note_answers();
            self.asked.retain(|(leader, ..)| *leader != number);
            self.cluster.crash(number);
        } else {
            self.cluster.restart(number);
        }
    }

    /// Only these nodes hear each other, a bit for each; the others hear nobody.
    fn isolate(&mut self, set: u64) {
        let hears = move |node: NodeId| set >> (node.0 as usize) & 1 == 1;
        self.cluster
            .rule(move |flight| if hears(flight.from) && hears(flight.to) { Fate::Deliver } else { Fate::Drop });
    }

    /// The disk of a node takes its time, or goes on.
    fn hang_or_sync(&mut self, number: usize) {
        let disk = &mut self.cluster.node(number).disk;
        disk.hung = !disk.hung;
        if !disk.hung {
            self.cluster.sync(number);
        }
    }

    fn note_answers(&mut self) {
        let Self { cluster, asked, acknowledged, .. } = self;
        asked.retain(|(leader, request, command)| {
            let answer = cluster.reply(*leader, *request);
            acknowledged.extend(answer.is_some_and(Result::is_ok).then_some(*command));
            answer.is_none()
        });
    }

    fn heal(&mut self) {
        self.cluster.heal();
        for number in 1..=self.nodes {
            self.cluster.node(number).disk.hung = false;
            match self.cluster.nodes[number - 1].raft.is_some() {
                true => self.cluster.sync(number),
                false => self.cluster.restart(number),
            }
        }
    }
}

/// Whatever happens, and then everything heals: what was acknowledged is there, and the group serves again.
fn survive(nodes: usize, witnesses: &[usize], seeds: u64) {
    let limits = RaftConfig {
        snapshot_log_bytes: 200,
        trailing_log_bytes: 50,
        snapshot_chunk_bytes: 8,
        snapshot_from_followers: true,
        ..config()
    };
    for seed in 0..seeds {
        let cluster = Cluster::with_witnesses(nodes, witnesses, &limits, seed);
        let mut run = Run { cluster, nodes, asked: Vec::new(), acknowledged: Vec::new(), next: 0 };
        let mut rng = Rng64::from_seed(seed, "events");
        for _ in 0..60 {
            let number = 1 + rng.below(nodes as u64) as usize;
            match rng.below(17) {
                0..6 => (0..5).for_each(|_| run.propose()),
                6..10 => run.cluster.pass(Duration::from_millis(rng.below(1500))),
                10..12 => run.stop_or_start(number),
                12..14 => run.isolate(rng.next_u64()),
                14..16 => run.cluster.heal(),
                _ => run.hang_or_sync(number),
            }
            run.note_answers();
        }
        run.heal();
        let leader = run.cluster.await_leader(10 * SECOND);
        run.cluster.pass(2 * SECOND);
        assert!(run.cluster.serves(leader, 1 << 40), "seed {seed}");
        run.cluster.pass(2 * SECOND);
        for number in 1..=nodes {
            let expected = if witnesses.contains(&number) { &[] } else { run.cluster.journal(leader) };
            assert_eq!(run.cluster.journal(number), expected, "seed {seed}: node {number}");
        }
        let lost = run.acknowledged.iter().find(|command| !run.cluster.journal(leader).contains(command));
        assert_eq!(lost, None, "seed {seed}");
    }
}

#[test]
fn two_copies_and_a_vote_lose_nothing() {
    survive(3, &[3], 300);
}

#[test]
fn three_copies_and_two_votes_lose_nothing() {
    survive(5, &[2, 4], 200);
}

#[test]
fn one_copy_and_two_votes_lose_nothing() {
    survive(3, &[1, 3], 200);
}

/// Each rule is broken once, and a test above notices.
#[cfg(feature = "planted")]
#[test]
fn a_rule_of_copies_that_is_broken_is_noticed() {
    use mesh_consensus::raft::Plant;
    assert_found(&[
        (Plant::VoteForStaleLog, two_copies_and_a_vote_lose_nothing as fn()),
        (Plant::WitnessCampaigns, two_copies_and_a_vote_lose_nothing),
        (Plant::WitnessBeforeDisk, one_copy_and_two_votes_lose_nothing),
        (Plant::AckBeforeFsync, three_copies_and_two_votes_lose_nothing),
    ]);
}
