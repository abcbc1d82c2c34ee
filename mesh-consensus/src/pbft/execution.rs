//! Executing what was ordered, each command of a client once, and answering.
//!
//! The replicated state is the application's state machine, the client sessions with the answers they may
//! still need, which client has which session, how many operations there were, and who the replicas are. All of it is
//! in the checkpoints. No clock is in it: of the sessions, the one not used for longest makes room for another.

use std::collections::BTreeMap;
use std::time::Duration;

use mesh_core::identity::PublicKey;
use mesh_core::wire::Opaque;
use mesh_core::{
    Bytes, Context, LogIndex, NodeId, Reader, RestoreError, SnapshotError, StateMachine, Wire, wire, wire_struct,
};

use super::epoch::Membership;
use super::message::{Message, Outcome, Reply};
use super::record::Record;
use super::replicas::ReplicaSet;
use super::request::{Nonce, Operation, Request};
use super::{Pbft, PbftConfig};
use crate::session::{Begin, LogTime, SessionId, SessionRequest, Sessions};

/// The version of what stands before the application's state in a snapshot.
const SNAPSHOT_VERSION: u8 = 2;

/// Checks a command before it is ordered; all replicas must answer alike.
pub(super) type Validator<S> = std::sync::Arc<dyn Fn(&<S as StateMachine>::Command) -> bool + Send + Sync>;

/// The state that all replicas have in common.
pub(super) struct Replicated<S> {
    /// Operations executed so far.
    operations: u64,
    clients: BTreeMap<PublicKey, Opened>,
    /// Whose session it is: the same as in `clients`, the other way round, with what takes long to compute.
    owners: BTreeMap<SessionId, Owner>,
    sessions: Sessions,
    pub(super) membership: Membership,
    pub(super) state: S,
}

/// The session of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Opened {
    nonce: Nonce,
    session: SessionId,
}

wire_struct!(Opened { nonce, session });

/// Who has a session.
#[derive(Clone, Copy, Debug)]
struct Owner {
    client: PublicKey,
    node: NodeId,
}

impl Owner {
    fn new(client: PublicKey) -> Self {
        Self { client, node: client.node_id() }
    }
}

impl<S: StateMachine> Replicated<S> {
    pub(super) fn new(replicas: ReplicaSet, state: S) -> Self {
        Self {
            operations: 0,
            clients: BTreeMap::new(),
            owners: BTreeMap::new(),
            sessions: Sessions::default(),
            membership: Membership::new(replicas),
            state,
        }
    }

    /// Executes one request of the batch at a sequence number. Also tells whether there was something to do that was
    /// not done before.
    fn execute(
        &mut self,
        config: &PbftConfig,
        validator: Option<&Validator<S>>,
        sequence: u64,
        request: &Request,
    ) -> (Outcome, bool) {
        self.operations += 1;
        match &request.operation {
            Operation::Open(nonce) => self.open(config, request.client, *nonce),
            Operation::Call(call, command) => {
                if self.owner(&request.client, call.session).is_none() {
                    return (Outcome::SessionExpired, false);
                }
                let Ok(decoded) = wire::from_bytes::<S::Command>(command) else { return (Outcome::Invalid, false) };
                match self.sessions.begin(call, LogTime(self.operations)) {
                    // What was executed before stays so, whatever the validator says of it now.
                    Begin::Apply if validator.is_some_and(|is_valid| !is_valid(&decoded)) => (Outcome::Invalid, false),
                    Begin::Apply => {
                        let output = self.state.apply(LogIndex(self.operations), decoded);
                        (self.finish(call, &output), true)
                    }
                    other => (answer(other), false),
                }
            }
            Operation::Reconfigure(call, wanted) => {
                if self.owner(&request.client, call.session).is_none() {
                    return (Outcome::SessionExpired, false);
                }
                match self.sessions.begin(call, LogTime(self.operations)) {
                    Begin::Apply => {
                        let decision = self.membership.change(config, sequence, wanted);
                        (self.finish(call, &decision), true)
                    }
                    other => (answer(other), false),
                }
            }
        }
    }

    /// Keeps the answer to the operation that was just executed.
    fn finish(&mut self, call: &SessionRequest, output: &impl Wire) -> Outcome {
        let index = self.operations;
        // It is kept with its place before it; both share one buffer.
        let mut kept = Vec::with_capacity(32);
        index.encode(&mut kept);
        let at = kept.len();
        output.encode(&mut kept);
        let kept = Bytes::from(kept);
        self.sessions.finish(call, kept.clone());
        Outcome::Executed { index, output: kept.slice(at..) }
    }

    /// Opens a session in the place of the one that the client has, if this is a later opening.
    fn open(&mut self, config: &PbftConfig, client: PublicKey, nonce: Nonce) -> (Outcome, bool) {
        if let Some(known) = self.opened(&client, nonce) {
            return (known, false);
        }
        if let Some(old) = self.clients.get(&client) {
            self.sessions.close(old.session);
        }
        let session = SessionId(self.operations);
        self.sessions.open(session, LogTime(self.operations), Duration::MAX, config.max_clients);
        self.clients.insert(client, Opened { nonce, session });
        self.owners.insert(session, Owner::new(client));
        // Sessions that made room are nobody's any more.
        if self.owners.len() > self.sessions.len() {
            let sessions = &self.sessions;
            self.owners.retain(|session, _| sessions.contains(*session));
            self.clients.retain(|_, opened| sessions.contains(opened.session));
        }
        (Outcome::Opened(session), true)
    }

    /// What is known of an opening without executing it.
    fn opened(&self, client: &PublicKey, nonce: Nonce) -> Option<Outcome> {
        let known = self.clients.get(client)?;
        if known.nonce == nonce {
            return Some(Outcome::Opened(known.session));
        }
        (nonce.number <= known.nonce.number).then_some(Outcome::NumberUsed(known.nonce.number))
    }

    /// What is known of a request without executing it.
    pub(super) fn look_up(&self, request: &Request) -> Option<Outcome> {
        let call = match &request.operation {
            Operation::Open(nonce) => return self.opened(&request.client, *nonce),
            Operation::Call(call, _) | Operation::Reconfigure(call, _) => call,
        };
        if self.owner(&request.client, call.session).is_none() {
            // A session that is not known here yet may be one that others have opened already.
            return (call.session.0 <= self.operations).then_some(Outcome::SessionExpired);
        }
        match self.sessions.peek(call) {
            Begin::Apply | Begin::WindowFull => None,
            known => Some(answer(known)),
        }
    }

    /// What is known of a client with this session.
    fn owner(&self, client: &PublicKey, session: SessionId) -> Option<&Owner> {
        self.owners.get(&session).filter(|owner| owner.client == *client)
    }

    /// The node of a request's client.
    pub(super) fn node_of(&self, request: &Request) -> NodeId {
        let owner = request.operation.call().and_then(|call| self.owner(&request.client, call.session));
        owner.map_or_else(|| request.client.node_id(), |owner| owner.node)
    }

    /// All of it, as bytes.
    pub(super) fn snapshot(&self, len_max: u64) -> Result<Bytes, SnapshotError> {
        let mut head = vec![SNAPSHOT_VERSION];
        self.operations.encode(&mut head);
        self.clients.encode(&mut head);
        wire::to_bytes(&self.sessions).encode(&mut head);
        self.membership.encode(&mut head);
        self.state.snapshot().behind(Bytes::from(head)).at_most(len_max).into_bytes()
    }

    /// Replaces it, all or nothing.
    pub(super) fn restore(&mut self, snapshot: &[u8]) -> Result<(), RestoreError> {
        let mut reader = Reader::new(snapshot);
        if u8::decode(&mut reader)? != SNAPSHOT_VERSION {
            return Err(RestoreError::new("it is of another version"));
        }
        let operations = Wire::decode(&mut reader)?;
        let clients: BTreeMap<PublicKey, Opened> = Wire::decode(&mut reader)?;
        let len = reader.take_len()?;
        let sessions = wire::from_slice(reader.take(len)?)?;
        let membership = self.membership.decode(&mut reader)?;
        self.state.restore(reader.remaining())?;
        self.owners = clients.iter().map(|(client, opened)| (opened.session, Owner::new(*client))).collect();
        (self.operations, self.clients, self.sessions, self.membership) = (operations, clients, sessions, membership);
        Ok(())
    }

    pub(super) const fn operations(&self) -> u64 {
        self.operations
    }
}

/// The outcome of a command that is not to be executed.
fn answer(begin: Begin) -> Outcome {
    match begin {
        Begin::Answered(kept) => match wire::from_bytes(&kept) {
            Ok((index, Opaque(output))) => Outcome::Executed { index, output },
            Err(_) => Outcome::SessionStale,
        },
        Begin::Stale => Outcome::SessionStale,
        Begin::WindowFull => Outcome::SessionWindowFull,
        Begin::Expired | Begin::Apply => Outcome::SessionExpired,
    }
}

impl<S: StateMachine> Pbft<S> {
    /// Executes what is committed, in the order of the sequence numbers.
    pub(super) fn execute(&mut self, cx: &mut Context<'_, Self>) {
        while self.repair.is_none()
            && let Some(slot) = self.slots.get(&(self.executed + 1))
            && let Some(digest) = slot.committed
            && let Some(batch) = self.batches.get(&digest).cloned()
        {
            let sequence = self.executed + 1;
            let commits = slot.commits.votes_for(digest);
            self.meter.executed(slot.accepted_at, cx.now(), batch.requests().len(), commits);
            self.executed = sequence;
            let known = slot.has_taken(digest);
            for request in batch.requests() {
                let (outcome, is_new) =
                    self.replicated.execute(&self.config, self.validator.as_ref(), sequence, request);
                if is_new {
                    self.pace.executed(request.len());
                }
                self.pool.remove(&request.key());
                self.answer(cx, request, outcome);
            }
            // Nothing rests on it: it spares a replica that starts again to ask the others.
            cx.persist(Record::Committed { sequence, digest, batch: (!known).then_some(batch) });
            self.replicated.membership.executed(sequence);
            self.executed_at = cx.now();
            self.made_progress();
            self.checkpoint_if_due(cx);
        }
    }

    /// Tells a client what came of its request. A replica that asked is not told: it executes itself.
    pub(super) fn answer(&mut self, cx: &mut Context<'_, Self>, request: &Request, outcome: Outcome) {
        let (session, serial) = match &request.operation {
            Operation::Open(nonce) => (SessionId(0), nonce.tag),
            Operation::Call(call, _) | Operation::Reconfigure(call, _) => (call.session, call.serial),
        };
        let reply = Reply { view: self.view, session, serial, outcome };
        if request.client == self.own_key {
            let done = self.client.on_reply(self.me(), reply);
            return self.on_done(cx, done);
        }
        if !self.replicas().has_key(&request.client) {
            // Volatile: what was committed is on the disks of a quorum, and what was counted of this one is.
            cx.send_volatile(self.replicated.node_of(request), self.say(Message::Reply(reply)));
        }
    }
}
