//! A client of a group on a node of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use mesh_core::identity::Signer;
use mesh_core::{Bytes, Context, Never, NodeId, Protocol, RequestId, StateMachine, Wire, wire};

use super::client::{ClientConfig, ClientCore, Done, Recipient};
use super::command::{Configuration, PbftCommand, PbftReply, ProposeError, Waiting};
use super::config::PbftConfig;
use super::epoch::EpochChange;
use super::message::{EPOCHS_MAX, Envelope, Message};
use super::reading::Reads;
use super::replicas::{ReplicaIndex, ReplicaSet};

/// A client of a group: it has no state, and believes what f + 1 replicas answer alike.
///
/// Host it under the number that the replicas have, on a node whose id is that of the
/// [key](mesh_core::identity::PublicKey::node_id) it signs with: that is where replicas send their answers.
pub struct PbftClient<S: StateMachine> {
    core: ClientCore,
    /// The changes since the epoch that it was given.
    changes: Vec<EpochChange>,
    /// Replicas that showed changes which nobody signed.
    liars: BTreeSet<ReplicaIndex>,
    signer: Arc<dyn Signer>,
    config: ClientConfig,
    command_len_max: usize,
    proposals: BTreeMap<u64, Waiting>,
    /// It was told to take no proposals.
    read_only: bool,
    reads: Reads,
    queries: Option<Queries<S>>,
    next_ticket: u64,
}

/// How queries and answers are written.
struct Queries<S: StateMachine> {
    encode: fn(&S::Query) -> Bytes,
    decode: fn(&Bytes) -> Option<S::Answer>,
}

impl<S: StateMachine> PbftClient<S> {
    /// A client that asks all replicas when the primary brings no answer within `retry_after`. `config` is that
    /// of the replicas.
    pub fn new(config: &PbftConfig, replicas: ReplicaSet, signer: Arc<dyn Signer>, retry_after: Duration) -> Self {
        let client = ClientConfig {
            signs: config.client_signatures,
            answers_needed: replicas.weak(),
            retry_after,
            max_waiting: 1024,
        };
        Self {
            reads: Reads::new(replicas.quorum(), retry_after),
            core: ClientCore::new(replicas, signer.clone(), client.clone(), 0),
            signer,
            config: client,
            command_len_max: config.command_len_max,
            proposals: BTreeMap::new(),
            read_only: false,
            queries: None,
            next_ticket: 0,
            changes: Vec::new(),
            liars: BTreeSet::new(),
        }
    }

    /// Lets the client answer [queries](super::PbftHandle::query) by what a quorum of replicas says, which must have
    /// [remote queries](super::Pbft::with_remote_queries).
    #[must_use]
    pub fn with_queries(mut self) -> Self
    where
        S: StateMachine<Query: Wire, Answer: Wire>,
    {
        self.queries =
            Some(Queries { encode: |query| wire::to_bytes(query), decode: |answer| wire::from_bytes(answer).ok() });
        self
    }
}

impl<S: StateMachine> PbftClient<S> {
    /// A replica shows what came after the epoch of this client: where that is proved, the client asks those who are
    /// replicas now.
    fn on_epochs(&mut self, from: ReplicaIndex, changes: Vec<EpochChange>) {
        let before = self.core.replicas();
        let is_next = changes.iter().any(|change| change.epoch == before.epoch() + 1);
        if !is_next || changes.len() > EPOCHS_MAX || self.liars.contains(&from) {
            return;
        }
        let Ok(replicas) = before.follow(&changes) else {
            self.liars.insert(from);
            return;
        };
        self.liars.clear();
        self.changes.extend(changes.into_iter().filter(|change| change.epoch > before.epoch()));
        self.config.answers_needed = replicas.weak();
        self.core.enter(&replicas, replicas.weak());
        self.reads.enter(&replicas);
    }
}

impl<S: StateMachine> Protocol for PbftClient<S> {
    type Message = Envelope;
    type Command = PbftCommand<S>;
    type Reply = PbftReply<S::Output, S::Answer>;
    type Event = ();
    type Timer = ();
    type Record = Never;

    fn on_start(&mut self, cx: &mut Context<'_, Self>) {
        let tag = cx.rng().next_u64();
        self.core = ClientCore::new(self.core.replicas().clone(), self.signer.clone(), self.config.clone(), tag);
    }

    fn on_message(&mut self, cx: &mut Context<'_, Self>, from: NodeId, Envelope { epoch, message }: Envelope) {
        let Some(replica) = self.core.replicas().index_of(from) else { return };
        let is_of_this_epoch = epoch == self.core.replicas().epoch();
        let reply = match message {
            Message::Epochs(changes) => return self.on_epochs(replica, changes),
            Message::Reply(reply) if is_of_this_epoch => reply,
            Message::ReadAnswer(told) if is_of_this_epoch => {
                if let (Some((request, answer)), Some(queries)) = (self.reads.on_answer(replica, told), &self.queries) {
                    cx.reply(request, PbftReply::Answered((queries.decode)(&answer)));
                }
                return;
            }
            _ => return,
        };
        for Done { ticket, result } in self.core.on_reply(replica, reply) {
            let Some(waiting) = self.proposals.remove(&ticket) else { continue };
            let (request, reply) = waiting.reply(result.map_err(ProposeError::from));
            cx.reply(request, reply);
        }
    }

    fn on_timer(&mut self, _cx: &mut Context<'_, Self>, _timer: ()) {} // The flush that follows asks again.

    fn on_command(&mut self, cx: &mut Context<'_, Self>, request: RequestId, command: PbftCommand<S>) {
        let (wish, waiting) = match command {
            PbftCommand::Propose(command) => (Ok(wire::to_bytes(&command)), Waiting::Proposal(request)),
            PbftCommand::Reconfigure(change) => (Err(change), Waiting::Change(request)),
            PbftCommand::SetReadOnly(read_only) => {
                self.read_only = read_only;
                return cx.reply(request, PbftReply::ReadOnlySet);
            }
            PbftCommand::Query(query) => {
                let query = self.queries.as_ref().map(|queries| (queries.encode)(&query));
                let query = query.filter(|query| query.len() <= self.command_len_max);
                if !query.is_some_and(|query| self.reads.ask(self.core.replicas(), request, query, cx.now())) {
                    cx.reply(request, PbftReply::Answered(None));
                }
                return;
            }
            PbftCommand::Status => return cx.reply(request, PbftReply::Status(None)),
            PbftCommand::Evidence => return cx.reply(request, PbftReply::Evidence(Vec::new())),
            PbftCommand::Checked(_) => return cx.reply(request, PbftReply::Checked),
            PbftCommand::Configuration => {
                let (replicas, changes) = (self.core.replicas().clone(), self.changes.clone());
                return cx.reply(request, PbftReply::Configuration(Configuration { replicas, changes }));
            }
        };
        let ticket = self.next_ticket + 1;
        let limit = self.command_len_max;
        let refused = match wish {
            _ if self.read_only => Some(ProposeError::ReadOnly),
            Ok(command) if command.len() > limit => Some(ProposeError::TooLarge { len: command.len(), limit }),
            Ok(command) => (!self.core.submit(ticket, command)).then_some(ProposeError::Overloaded),
            Err(change) => (!self.core.submit_change(ticket, change)).then_some(ProposeError::Overloaded),
        };
        if let Some(error) = refused {
            let (request, reply) = waiting.reply(Err(error));
            return cx.reply(request, reply);
        }
        self.next_ticket = ticket;
        self.proposals.insert(ticket, waiting);
    }

    fn on_flush(&mut self, cx: &mut Context<'_, Self>) {
        let replicas = self.core.replicas().clone();
        let all: Arc<[NodeId]> = replicas.members().iter().map(|(node, _)| *node).collect();
        let say = |message| Envelope { epoch: replicas.epoch(), message };
        self.core.poll(cx.now(), |to, request| match to {
            Recipient::Primary(primary) => {
                if let Some(primary) = replicas.node(primary) {
                    cx.send(primary, say(Message::Request(request.clone())));
                }
            }
            Recipient::All => cx.broadcast(all.clone(), say(Message::Request(request.clone()))),
        });
        for request in self.reads.poll(cx.now(), |read| cx.broadcast(all.clone(), say(Message::Read(read)))) {
            cx.reply(request, PbftReply::Answered(None));
        }
        match self.core.deadline().into_iter().chain(self.reads.deadline()).min() {
            Some(deadline) => cx.set_timer((), deadline.since(cx.now())),
            None => cx.cancel_timer(()),
        }
    }

    fn has_capacity(&self) -> bool {
        self.core.has_capacity()
    }
}

impl<S: StateMachine> std::fmt::Debug for PbftClient<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PbftClient").field("core", &self.core).finish_non_exhaustive()
    }
}
