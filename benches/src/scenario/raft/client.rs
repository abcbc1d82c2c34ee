//! Clients that follow the leader, give up after a while, and remember what they saw.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use mesh_consensus::raft::{ProposeError, RaftCommand, RaftReply, Read, ReadPolicy};
use mesh_core::{Call, CallError, Instant, NodeId, Rng64};
use mesh_transport_mem::check::{CallId, History};

use super::Simulation;
use super::mix::Mix;
use super::observer::Observer;
use super::registers::{Command, Watch};

/// How many clients there are.
const CLIENTS: usize = 4;

/// How many registers they share.
const KEYS: u64 = 6;

/// What a replica answers.
type Reply = RaftReply<Option<u64>, Option<u64>>;

/// A call to a replica.
pub(super) type RaftCall = Call<Reply>;

/// What a call asks for.
#[derive(Clone, Copy, Debug)]
enum Asked {
    /// A command, through the log.
    Command(CallId),
    /// A linearizable read, which sees the log from outside.
    Read(CallId, u8),
    /// A read of the state as it is, not older than this.
    Stale(u8, Duration),
}

struct Asking {
    call: RaftCall,
    asked: Asked,
    node: NodeId,
    since: Instant,
    until: Instant,
}

struct Client {
    target: NodeId,
    idle_until: Instant,
    asking: Option<Asking>,
}

pub(super) struct Clients {
    clients: Vec<Client>,
    /// Calls that took longer than their client was ready to wait.
    late: Vec<Asking>,
    look_at: Instant,
    rng: Rng64,
    history: History<Command, Option<u64>>,
    watch: Watch,
    /// Written values are all different, so that a read tells which write it saw.
    values: u64,
    answered: u64,
    mark: u64,
    stopped: bool,
}

impl Clients {
    pub(super) fn new(rng: Rng64, watch: Watch) -> Self {
        let client = || Client { target: NodeId(1), idle_until: Instant::ZERO, asking: None };
        Self {
            clients: std::iter::repeat_with(client).take(CLIENTS).collect(),
            late: Vec::new(),
            look_at: Instant::ZERO,
            rng,
            history: History::new(),
            watch,
            values: 0,
            answered: 0,
            mark: 0,
            stopped: false,
        }
    }

    pub(super) const fn history(&self) -> &History<Command, Option<u64>> {
        &self.history
    }

    /// Calls that were answered with what they asked for.
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

    /// Whether every call came to an end.
    pub(super) fn are_done(&self) -> bool {
        self.late.is_empty() && self.clients.iter().all(|client| client.asking.is_none())
    }

    /// Takes answers and makes calls that are due.
    pub(super) fn act(&mut self, sim: &Simulation, mix: &Mix, observer: &Observer) -> Result<(), String> {
        let mut clients = std::mem::take(&mut self.clients);
        let result = clients.iter_mut().try_for_each(|client| {
            match client.asking.take() {
                Some(asking) => return self.listen(client, asking, sim, mix, observer),
                None if sim.now() >= client.idle_until && !self.stopped => self.ask(client, sim, mix),
                None => {}
            }
            Ok(())
        });
        self.clients = clients;
        if sim.now() >= self.look_at {
            self.look_at = sim.now() + Duration::from_millis(20);
            let late = std::mem::take(&mut self.late);
            for mut asking in late {
                match poll(&mut asking.call) {
                    Some(answer) => drop(self.answered_with(asking.asked, answer, sim.now())),
                    None => self.late.push(asking),
                }
            }
        }
        result
    }

    fn ask(&mut self, client: &mut Client, sim: &Simulation, mix: &Mix) {
        let now = sim.now();
        client.idle_until = now + self.rng.duration_between(Duration::ZERO, Duration::from_millis(40));
        if !sim.is_up(client.target) {
            return self.try_another(client, mix);
        }
        let key = self.rng.below(KEYS) as u8;
        let (asked, command) = if self.rng.chance(mix.writes, 10) {
            self.values += 1;
            let command = Command::Write { key, value: self.values };
            (Asked::Command(self.history.call(now, command)), RaftCommand::Propose(command))
        } else {
            self.read(key, now, mix)
        };
        // Reads are as good on followers.
        let node = match asked {
            Asked::Read(..) | Asked::Stale(..) if self.rng.chance(1, 2) => self.any_node(mix),
            _ => client.target,
        };
        let call = sim.handle(node).call(command);
        let patience = self.rng.duration_between(Duration::from_millis(200), Duration::from_secs(2));
        client.asking = Some(Asking { call, asked, node, since: now, until: now + patience });
    }

    fn read(&mut self, key: u8, now: Instant, mix: &Mix) -> (Asked, RaftCommand<super::Registers>) {
        let command = Command::Read { key };
        match self.rng.below(4) {
            0 => (Asked::Command(self.history.call(now, command)), RaftCommand::Propose(command)),
            1 => {
                let at_most = self.rng.duration_between(Duration::ZERO, Duration::from_secs(2));
                (Asked::Stale(key, at_most), RaftCommand::Read(key, ReadPolicy::Stale { at_most }))
            }
            lease => {
                let lease = lease == 2 && mix.config.lease_reads;
                let policy = if lease { ReadPolicy::Lease } else { ReadPolicy::Linearizable };
                (Asked::Read(self.history.call(now, command), key), RaftCommand::Read(key, policy))
            }
        }
    }

    fn listen(
        &mut self,
        client: &mut Client,
        mut asking: Asking,
        sim: &Simulation,
        mix: &Mix,
        observer: &Observer,
    ) -> Result<(), String> {
        let Some(answer) = poll(&mut asking.call) else {
            if sim.now() >= asking.until {
                self.late.push(asking);
                self.try_another(client, mix);
            } else {
                client.asking = Some(asking);
            }
            return Ok(());
        };
        if let Ok(RaftReply::Read(Ok(read))) = &answer {
            self.check_read(&asking, read, sim, observer)?;
        }
        match self.answered_with(asking.asked, answer, sim.now()) {
            Ok(()) => {}
            Err(Some(leader)) => client.target = leader,
            Err(None) => self.try_another(client, mix),
        }
        Ok(())
    }

    /// Notes an answer; otherwise who is better asked, if that was told.
    fn answered_with(
        &mut self,
        asked: Asked,
        answer: Result<Reply, CallError>,
        now: Instant,
    ) -> Result<(), Option<NodeId>> {
        match (asked, answer) {
            (Asked::Command(id), Ok(RaftReply::Proposed(Ok(applied)))) => {
                self.history.complete(id, now, applied.output);
                self.answered += 1;
                Ok(())
            }
            (Asked::Command(id), Ok(RaftReply::Proposed(Err(error)))) => {
                // Whatever else is told, the command went nowhere.
                if !matches!(error, ProposeError::Unknown | ProposeError::Stopped) {
                    self.history.withdraw(id);
                }
                Err(if let ProposeError::NotLeader { leader } = error { leader } else { None })
            }
            (Asked::Read(id, _), Ok(RaftReply::Read(Ok(read)))) => {
                self.history.complete(id, now, read.answer);
                Ok(())
            }
            (Asked::Stale(..), Ok(RaftReply::Read(Ok(_)))) => Ok(()),
            (Asked::Read(id, _), _) => {
                self.history.withdraw(id);
                Err(None)
            }
            _ => Err(None),
        }
    }

    /// A read must have seen the state after the index that it names, and that must be as new as it says.
    fn check_read(
        &self,
        asking: &Asking,
        read: &Read<Option<u64>>,
        sim: &Simulation,
        observer: &Observer,
    ) -> Result<(), String> {
        let Asking { asked, node, since, .. } = *asking;
        let (Asked::Read(_, key) | Asked::Stale(key, _)) = asked else {
            return Err(format!("{node}: a command was answered as a read"));
        };
        let expected = self.watch.value_at(key, read.index.0);
        if read.answer != expected {
            return Err(format!("{node} answers {read:?} for register {key}, but it held {expected:?} there"));
        }
        // Older than asked for only by as much as the answer took.
        if let Asked::Stale(_, at_most) = asked
            && read.staleness > at_most + observer.shown_at_most(sim.now() - since)
        {
            return Err(format!("{node} answers {read:?} where the state may be {at_most:?} old at most"));
        }
        observer.check_staleness(node, read.index, read.staleness, sim.now())
    }

    fn any_node(&mut self, mix: &Mix) -> NodeId {
        self.rng.choose(&mix.nodes()).copied().unwrap_or_default()
    }

    fn try_another(&mut self, client: &mut Client, mix: &Mix) {
        client.target = self.any_node(mix);
    }
}

fn poll(call: &mut RaftCall) -> Option<Result<Reply, CallError>> {
    match Pin::new(call).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => Some(answer),
        Poll::Pending => None,
    }
}
