//! An operator who changes the membership, hands leadership over, shuts servers down and loses disks.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use mesh_consensus::raft::{Membership, Raft, RaftCommand, Role};
use mesh_core::{Instant, NodeId, Rng64};

use super::client::RaftCall;
use super::mix::{Actions, Mix};
use super::observer::Observer;
use super::registers::Registers;
use super::{RAFT, Simulation};

/// How long a server is down that was shut down or lost its disk.
const DOWN_MAX: Duration = Duration::from_secs(2);

/// Something that is done again and again.
struct Job {
    every: Option<Duration>,
    next: Instant,
}

impl Job {
    fn new(every: Option<Duration>, rng: &mut Rng64) -> Self {
        let mut job = Self { every, next: Instant::ZERO };
        job.put_off(Instant::ZERO, rng);
        job
    }

    fn put_off(&mut self, now: Instant, rng: &mut Rng64) {
        self.next = now + rng.duration_between(Duration::ZERO, 2 * self.every.unwrap_or_default());
    }

    fn is_due(&mut self, now: Instant, rng: &mut Rng64) -> bool {
        let due = self.every.is_some() && now >= self.next;
        if due {
            self.put_off(now, rng);
        }
        due
    }
}

pub(super) struct Operator {
    rng: Rng64,
    change: Job,
    transfer: Job,
    wipe: Job,
    stop: Job,
    /// The change asked for and not answered: there is one at a time.
    changing: Option<RaftCall>,
    transferring: Option<RaftCall>,
}

impl Operator {
    pub(super) fn new(actions: Actions, mut rng: Rng64) -> Self {
        let [change, transfer, wipe, stop] =
            [actions.change, actions.transfer, actions.wipe, actions.stop].map(|every| Job::new(every, &mut rng));
        Self { rng, change, transfer, wipe, stop, changing: None, transferring: None }
    }

    /// Whether all that was asked for is answered.
    pub(super) const fn is_idle(&self) -> bool {
        self.changing.is_none() && self.transferring.is_none()
    }

    /// Takes answers.
    pub(super) fn listen(&mut self) {
        for asking in [&mut self.changing, &mut self.transferring] {
            if let Some(call) = asking
                && let Poll::Ready(_) = Pin::new(call).poll(&mut Context::from_waker(Waker::noop()))
            {
                *asking = None;
            }
        }
    }

    /// Does what is due.
    pub(super) fn act(&mut self, sim: &mut Simulation, mix: &Mix, observer: &mut Observer) {
        let now = sim.now();
        if self.change.is_due(now, &mut self.rng)
            && self.changing.is_none()
            && let Some(node) = self.choose_leader(sim, mix)
        {
            let target = self.choose_target(mix, observer);
            if observer.is_sound(&target) {
                sim.note(&format!("{node:?} is asked for {target:?}"));
                self.changing = Some(sim.handle(node).call(RaftCommand::ChangeMembership(target)));
            }
        }
        if self.transfer.is_due(now, &mut self.rng)
            && self.transferring.is_none()
            && let Some(node) = self.choose_leader(sim, mix)
        {
            let to = self.rng.choose(&mix.nodes()).copied().filter(|_| self.rng.chance(1, 2));
            sim.note(&format!("{node:?} is asked to hand over to {to:?}"));
            self.transferring = Some(sim.handle(node).call(RaftCommand::Transfer(to)));
        }
        if self.wipe.is_due(now, &mut self.rng)
            // Which replicas will count is open while the membership changes.
            && self.changing.is_none()
            && let Some(node) = self.rng.choose(&mix.nodes()).copied()
            && observer.may_lose(node)
        {
            sim.wipe(node);
            observer.note_lost(node);
            self.come_back(sim, node);
        }
        if self.stop.is_due(now, &mut self.rng)
            && let Some(node) = self.rng.choose(&mix.nodes()).copied()
            && sim.is_up(node)
        {
            sim.stop(node);
            observer.note_down(node);
            self.come_back(sim, node);
        }
    }

    fn come_back(&mut self, sim: &mut Simulation, node: NodeId) {
        let lasts = self.rng.duration_between(Duration::ZERO, DOWN_MAX);
        sim.after(lasts, move |sim| sim.restart(node));
    }

    /// Whoever believes that it leads; sometimes anybody.
    fn choose_leader(&mut self, sim: &Simulation, mix: &Mix) -> Option<NodeId> {
        let nodes: Vec<_> = mix.nodes().into_iter().filter(|node| sim.is_up(*node)).collect();
        let raft = |node: &NodeId| sim.protocol::<Raft<Registers>>(*node, RAFT);
        let leaders = nodes.iter().copied().filter(|node| raft(node).is_some_and(|raft| raft.role() == Role::Leader));
        let leaders: Vec<_> = leaders.collect();
        let from = if leaders.is_empty() || self.rng.chance(1, 20) { nodes } else { leaders };
        self.rng.choose(&from).copied()
    }

    /// Any set of servers, or one that differs from what there is in one of them.
    fn choose_target(&mut self, mix: &Mix, observer: &Observer) -> Membership {
        let mut target = observer.membership().unwrap_or_default();
        let nodes = mix.nodes();
        let anew = self.rng.chance(1, 3);
        let one = self.rng.choose(&nodes).copied();
        for node in nodes {
            if !anew && one != Some(node) {
                continue;
            }
            for set in [&mut target.voters, &mut target.learners, &mut target.witnesses] {
                set.remove(&node);
            }
            let is_witness = mix.witnesses.contains(&node);
            match self.rng.below(5) {
                0..=2 if is_witness => drop(target.witnesses.insert(node)),
                0..=2 => drop(target.voters.insert(node)),
                3 if !is_witness => drop(target.learners.insert(node)),
                _ => {}
            }
        }
        target
    }
}
