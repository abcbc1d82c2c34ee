//! Clients that follow the leader, give up after a while, and remember what they saw.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use mesh_consensus::raft::{ProposeError, RaftCommand, RaftReply};
use mesh_core::{Call, Instant, NodeId, Rng64};
use mesh_transport_mem::check::{CallId, History};

use super::Simulation;
use super::registers::Command;

/// How many clients there are.
const CLIENTS: usize = 4;

/// How many registers they share.
const KEYS: u64 = 6;

struct Asking {
    call: Call<RaftReply<Option<u64>, Option<u64>>>,
    id: CallId,
    until: Instant,
}

struct Client {
    target: NodeId,
    idle_until: Instant,
    asking: Option<Asking>,
}

pub(super) struct Clients {
    clients: Vec<Client>,
    rng: Rng64,
    history: History<Command, Option<u64>>,
    /// Written values are all different, so that a read tells which write it saw.
    values: u64,
    answered: u64,
    mark: u64,
    stopped: bool,
}

impl Clients {
    pub(super) fn new(rng: Rng64) -> Self {
        let client = || Client { target: NodeId(1), idle_until: Instant::ZERO, asking: None };
        let clients = std::iter::repeat_with(client).take(CLIENTS).collect();
        Self { clients, rng, history: History::new(), values: 0, answered: 0, mark: 0, stopped: false }
    }

    pub(super) const fn history(&self) -> &History<Command, Option<u64>> {
        &self.history
    }

    pub(super) const fn answered(&self) -> u64 {
        self.answered
    }

    pub(super) const fn mark(&mut self) {
        self.mark = self.answered;
    }

    pub(super) const fn answered_since_mark(&self) -> u64 {
        self.answered - self.mark
    }

    /// No new calls from now on.
    pub(super) const fn stop(&mut self) {
        self.stopped = true;
    }

    /// Takes answers and makes calls that are due.
    pub(super) fn act(&mut self, sim: &Simulation, nodes: &[NodeId]) {
        let mut clients = std::mem::take(&mut self.clients);
        for client in &mut clients {
            match &client.asking {
                Some(_) => self.listen(client, sim.now(), nodes),
                None if sim.now() >= client.idle_until && !self.stopped => self.ask(client, sim, nodes),
                None => {}
            }
        }
        self.clients = clients;
    }

    fn ask(&mut self, client: &mut Client, sim: &Simulation, nodes: &[NodeId]) {
        let now = sim.now();
        client.idle_until = now + self.rng.duration_between(Duration::ZERO, Duration::from_millis(40));
        if !sim.is_up(client.target) {
            return self.try_another(client, nodes);
        }
        let key = self.rng.below(KEYS) as u8;
        let command = if self.rng.chance(1, 3) {
            Command::Read { key }
        } else {
            self.values += 1;
            Command::Write { key, value: self.values }
        };
        let id = self.history.call(now, command);
        let call = sim.handle(client.target).call(RaftCommand::Propose(command));
        let patience = self.rng.duration_between(Duration::from_millis(200), Duration::from_secs(2));
        client.asking = Some(Asking { call, id, until: now + patience });
    }

    fn listen(&mut self, client: &mut Client, now: Instant, nodes: &[NodeId]) {
        let Some(asking) = &mut client.asking else { return };
        let id = asking.id;
        match Pin::new(&mut asking.call).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(RaftReply::Proposed(Ok(applied)))) => {
                self.history.complete(id, now, applied.output);
                self.answered += 1;
            }
            Poll::Ready(Ok(RaftReply::Proposed(Err(error)))) => {
                // Whatever else is told, the command went nowhere.
                if !matches!(error, ProposeError::Unknown | ProposeError::Stopped) {
                    self.history.withdraw(id);
                }
                match error {
                    ProposeError::NotLeader { leader: Some(leader) } => client.target = leader,
                    _ => self.try_another(client, nodes),
                }
            }
            Poll::Ready(_) => self.try_another(client, nodes),
            Poll::Pending if now >= asking.until => self.try_another(client, nodes),
            Poll::Pending => return,
        }
        client.asking = None;
    }

    fn try_another(&mut self, client: &mut Client, nodes: &[NodeId]) {
        client.target = *self.rng.choose(nodes).unwrap_or(&client.target);
    }
}
