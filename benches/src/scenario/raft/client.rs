//! Clients that follow the leader, give up after a while, and remember what they saw. Those that keep a
//! session ask for several commands at a time, and ask again instead of giving up.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use mesh_consensus::raft::{ProposeError, RaftCommand, RaftReply, Read, ReadPolicy};
use mesh_consensus::session::{ClientSession, SessionId};
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
    /// A command of a session, and its serial number there.
    Once(CallId, SessionId, u64),
    OpenSession,
    KeepSession,
    CloseSession,
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

/// A command of a session that is to be asked for until it is answered.
#[derive(Clone, Copy)]
struct Unanswered {
    call: CallId,
    serial: u64,
    command: Command,
}

struct Client {
    target: NodeId,
    idle_until: Instant,
    asking: Vec<Asking>,
    keeps_session: bool,
    session: Option<ClientSession>,
    /// The commands of the session without an answer, in order.
    unanswered: Vec<Unanswered>,
}

impl Client {
    const fn new(keeps_session: bool) -> Self {
        Self {
            target: NodeId(1),
            idle_until: Instant::ZERO,
            asking: Vec::new(),
            keeps_session,
            session: None,
            unanswered: Vec::new(),
        }
    }

    fn lose_session(&mut self) {
        self.session = None;
        self.unanswered.clear();
    }

    /// The session, where this is the one.
    fn session(&mut self, id: SessionId) -> Option<&mut ClientSession> {
        self.session.as_mut().filter(|session| session.id() == id)
    }

    /// The first command without an answer that it is not asking for now.
    fn to_ask_again(&self) -> Option<Unanswered> {
        let asks = |unanswered: &Unanswered| {
            let same = |asked| matches!(asked, Asked::Once(call, ..) if call == unanswered.call);
            self.asking.iter().any(|asking| same(asking.asked))
        };
        self.unanswered.iter().find(|unanswered| !asks(unanswered)).copied()
    }

    /// Whether it may ask for something more: one thing at a time, but for the commands of a session.
    fn is_free(&self, depth: usize) -> bool {
        let in_session = |asking: &Asking| matches!(asking.asked, Asked::Once(..));
        let pipelines = self.session.is_some() && self.asking.len() < depth && self.asking.iter().all(in_session);
        self.asking.is_empty() || pipelines
    }

    /// The answer to a command of the session came, or is wanted no more.
    fn settle(&mut self, id: SessionId, serial: u64) {
        if let Some(session) = self.session(id) {
            session.answered(serial);
            self.unanswered.retain(|unanswered| unanswered.serial != serial);
        }
    }
}

pub(super) struct Clients {
    clients: Vec<Client>,
    /// Calls that took longer than their client was ready to wait.
    late: Vec<Asking>,
    look_at: Instant,
    rng: Rng64,
    history: History<Command, Option<u64>>,
    watch: Watch,
    /// What was answered to the commands of sessions.
    answers: BTreeMap<(SessionId, u64), Option<u64>>,
    /// Written values are all different, so that a read tells which write it saw.
    values: u64,
    answered: u64,
    mark: u64,
    know_members: bool,
    stopped: bool,
}

impl Clients {
    pub(super) fn new(mix: &Mix, rng: Rng64, watch: Watch) -> Self {
        Self {
            clients: (0..CLIENTS).map(|at| Client::new(at < mix.session_clients)).collect(),
            late: Vec::new(),
            look_at: Instant::ZERO,
            rng,
            history: History::new(),
            watch,
            answers: BTreeMap::new(),
            values: 0,
            answered: 0,
            mark: 0,
            know_members: false,
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

    /// Counts answers from here. Clients are told who the members are from now on: guessing may take
    /// them longer than the group has to make progress.
    pub(super) const fn mark(&mut self) {
        self.mark = self.answered;
        self.know_members = true;
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
        self.late.is_empty()
            && self.clients.iter().all(|client| client.asking.is_empty() && client.unanswered.is_empty())
    }

    /// Takes answers and makes calls that are due.
    pub(super) fn act(&mut self, sim: &Simulation, mix: &Mix, observer: &Observer) -> Result<(), String> {
        let mut clients = std::mem::take(&mut self.clients);
        let result: Result<(), String> = clients.iter_mut().try_for_each(|client| {
            let asking = std::mem::take(&mut client.asking);
            asking.into_iter().try_for_each(|asking| self.listen(client, asking, sim, mix, observer))?;
            let wants = !self.stopped || client.to_ask_again().is_some();
            if sim.now() >= client.idle_until && client.is_free(mix.session_depth) && wants {
                self.ask(client, sim, mix, observer);
            }
            Ok(())
        });
        self.clients = clients;
        result?;
        if sim.now() >= self.look_at {
            self.look_at = sim.now() + Duration::from_millis(20);
            let late = std::mem::take(&mut self.late);
            for mut asking in late {
                match poll(&mut asking.call) {
                    Some(answer) => {
                        self.check_once(asking.asked, &answer)?;
                        let _ = self.answered_with(asking.asked, answer, sim.now());
                    }
                    None => self.late.push(asking),
                }
            }
        }
        Ok(())
    }

    fn ask(&mut self, client: &mut Client, sim: &Simulation, mix: &Mix, observer: &Observer) {
        let now = sim.now();
        client.idle_until = now + self.idle(client, mix);
        if !sim.is_up(client.target) {
            return self.try_another(client, mix, observer);
        }
        let begun = !client.asking.is_empty() || !client.unanswered.is_empty();
        let in_session = client.keeps_session && (begun || self.rng.chance(3, 4));
        let (asked, command) = if in_session {
            self.in_session(client, now, mix)
        } else if self.rng.chance(mix.writes, 10) {
            let command = self.write();
            (Asked::Command(self.history.call(now, command)), RaftCommand::Propose(command))
        } else {
            let key = self.key();
            self.read(key, now, mix)
        };
        // Reads are as good on followers, and so are proposals that are handed on.
        let anywhere = matches!(asked, Asked::Read(..) | Asked::Stale(..)) || !mix.forwarders.is_empty();
        let node = if anywhere && self.rng.chance(1, 2) { self.any_node(mix, observer) } else { client.target };
        let call = sim.handle(node).call(command);
        let patience_min = if in_session { 20 } else { 200 };
        let patience = self.rng.duration_between(Duration::from_millis(patience_min), Duration::from_secs(2));
        client.asking.push(Asking { call, asked, node, since: now, until: now + patience });
    }

    /// How long a client waits before it asks for more. Those with sessions ask for several things at once,
    /// but not more often: the slowest followers must be able to keep up.
    fn idle(&mut self, client: &Client, mix: &Mix) -> Duration {
        let at_once = if client.session.is_some() { mix.session_depth as u64 } else { 1 };
        let idle = self.rng.duration_between(Duration::ZERO, at_once as u32 * Duration::from_millis(40));
        if self.rng.chance(1, at_once) { idle } else { Duration::ZERO }
    }

    fn key(&mut self) -> u8 {
        self.rng.below(KEYS) as u8
    }

    fn write(&mut self) -> Command {
        self.values += 1;
        Command::Write { key: self.key(), value: self.values }
    }

    /// What was asked of a session before and not answered, or the next thing to ask.
    fn in_session(&mut self, client: &mut Client, now: Instant, mix: &Mix) -> (Asked, RaftCommand<super::Registers>) {
        let open = (Asked::OpenSession, RaftCommand::OpenSession { ttl: mix.session_ttl });
        let again = client.to_ask_again();
        let Some(session) = &mut client.session else { return open };
        let id = session.id();
        if let Some(Unanswered { call, serial, command }) = again
            && let Some(request) = session.again(serial)
        {
            return (Asked::Once(call, id, serial), RaftCommand::ProposeOnce { request, command });
        }
        match self.rng.below(20) {
            0 if client.asking.is_empty() => {
                client.session = None;
                (Asked::CloseSession, RaftCommand::CloseSession { session: id })
            }
            any => {
                // Where the first of many has no answer yet there may be no number for another.
                let next = if any == 1 { None } else { session.next() };
                let Some(request) = next else {
                    return (Asked::KeepSession, RaftCommand::KeepSession { session: id });
                };
                let command =
                    if self.rng.chance(mix.writes, 10) { self.write() } else { Command::Read { key: self.key() } };
                let call = self.history.call(now, command);
                client.unanswered.push(Unanswered { call, serial: request.serial, command });
                (Asked::Once(call, id, request.serial), RaftCommand::ProposeOnce { request, command })
            }
        }
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
                self.give_up_sometimes(client, asking.asked);
                self.late.push(asking);
                self.try_another(client, mix, observer);
            } else {
                client.asking.push(asking);
            }
            return Ok(());
        };
        if let Ok(RaftReply::Read(Ok(read))) = &answer {
            self.check_read(&asking, read, sim, observer)?;
        }
        self.check_once(asking.asked, &answer)?;
        Self::note_session(client, asking.asked, &answer)?;
        match self.answered_with(asking.asked, answer, sim.now()) {
            Ok(()) => {}
            Err(Some(leader)) => client.target = leader,
            Err(None) => self.try_another(client, mix, observer),
        }
        Ok(())
    }

    /// A client may want the answer to a command of its session no more.
    fn give_up_sometimes(&mut self, client: &mut Client, asked: Asked) {
        if let Asked::Once(_, session, serial) = asked
            && self.rng.chance(1, 20)
        {
            client.settle(session, serial);
        }
    }

    /// What an answer means for the session of a client.
    fn note_session(client: &mut Client, asked: Asked, answer: &Result<Reply, CallError>) -> Result<(), String> {
        use ProposeError::{SessionExpired, SessionStale};
        match (asked, answer) {
            (Asked::OpenSession, Ok(RaftReply::SessionOpened(Ok(id)))) => {
                client.session = Some(ClientSession::new(*id))
            }
            // An earlier attempt may have been applied all the same.
            (Asked::Once(_, session, _), Ok(RaftReply::Proposed(Err(SessionExpired))))
                if client.session(session).is_some() =>
            {
                client.lose_session();
            }
            (Asked::KeepSession, Ok(RaftReply::SessionKept(Err(SessionExpired)))) => client.lose_session(),
            (Asked::Once(_, session, serial), Ok(RaftReply::Proposed(Err(SessionStale))))
                if client.session(session).is_some_and(|session| session.again(serial).is_some()) =>
            {
                return Err(format!("{serial} of {session:?} is said to be answered, and has no answer"));
            }
            (Asked::Once(_, session, serial), Ok(RaftReply::Proposed(Ok(_)))) => client.settle(session, serial),
            _ => {}
        }
        Ok(())
    }

    /// A command of a session has one answer, however often it is asked for.
    fn check_once(&mut self, asked: Asked, answer: &Result<Reply, CallError>) -> Result<(), String> {
        let (Asked::Once(_, session, serial), Ok(RaftReply::Proposed(result))) = (asked, answer) else { return Ok(()) };
        match result {
            Ok(applied) => {
                let before = *self.answers.entry((session, serial)).or_insert(applied.output);
                if before != applied.output {
                    return Err(format!(
                        "{serial} of {session:?} was answered {before:?}, and again {:?}",
                        applied.output
                    ));
                }
            }
            // It has never more without an answer than there is room for, and all answers are short.
            Err(ProposeError::SessionWindowFull) => {
                return Err(format!("there is no room for {serial} of {session:?}"));
            }
            Err(_) => {}
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
            (Asked::Command(id) | Asked::Once(id, ..), Ok(RaftReply::Proposed(Ok(applied)))) => {
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
            (Asked::Once(..), Ok(RaftReply::Proposed(Err(ProposeError::NotLeader { leader })))) => Err(leader),
            (Asked::OpenSession, Ok(RaftReply::SessionOpened(Err(ProposeError::NotLeader { leader })))) => Err(leader),
            (_, Ok(RaftReply::SessionOpened(Ok(_)) | RaftReply::SessionKept(Ok(())))) => Ok(()),
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

    fn any_node(&mut self, mix: &Mix, observer: &Observer) -> NodeId {
        let nodes = match observer.configuration() {
            Some(configuration) if self.know_members => configuration.members().map(|member| member.node).collect(),
            _ => mix.nodes(),
        };
        self.rng.choose(&nodes).copied().unwrap_or_default()
    }

    fn try_another(&mut self, client: &mut Client, mix: &Mix, observer: &Observer) {
        client.target = self.any_node(mix, observer);
    }
}

fn poll(call: &mut RaftCall) -> Option<Result<Reply, CallError>> {
    match Pin::new(call).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => Some(answer),
        Poll::Pending => None,
    }
}
