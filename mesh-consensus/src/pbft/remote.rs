//! A client of a group on a node of its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::identity::Signer;
use mesh_core::{Bytes, Context, Never, NodeId, Protocol, RequestId, StateMachine, Wire, wire};

use super::client::{ClientConfig, ClientCore, Done, Recipient};
use super::command::{Executed, PbftCommand, PbftReply, ProposeError};
use super::config::PbftConfig;
use super::message::Message;
use super::reading::Reads;
use super::replicas::ReplicaSet;

/// A client of a group: it has no state, and believes what f + 1 replicas answer alike.
///
/// Host it under the number that the replicas have, on a node whose id is that of the
/// [key](mesh_core::identity::PublicKey::node_id) it signs with: that is where replicas send their answers.
pub struct PbftClient<S: StateMachine> {
    core: ClientCore,
    replicas: ReplicaSet,
    signer: Arc<dyn Signer>,
    config: ClientConfig,
    command_len_max: usize,
    proposals: BTreeMap<u64, RequestId>,
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
            core: ClientCore::new(replicas.clone(), signer.clone(), client.clone(), 0),
            signer,
            config: client,
            command_len_max: config.command_len_max,
            proposals: BTreeMap::new(),
            read_only: false,
            reads: Reads::new(replicas.quorum(), retry_after),
            queries: None,
            next_ticket: 0,
            replicas,
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

impl<S: StateMachine> Protocol for PbftClient<S> {
    type Message = Message;
    type Command = PbftCommand<S>;
    type Reply = PbftReply<S::Output, S::Answer>;
    type Event = ();
    type Timer = ();
    type Record = Never;

    fn on_start(&mut self, cx: &mut Context<'_, Self>) {
        let tag = cx.rng().next_u64();
        self.core = ClientCore::new(self.replicas.clone(), self.signer.clone(), self.config.clone(), tag);
    }

    fn on_message(&mut self, cx: &mut Context<'_, Self>, from: NodeId, message: Message) {
        let Some(replica) = self.replicas.index_of(from) else { return };
        let reply = match message {
            Message::Reply(reply) => reply,
            Message::ReadAnswer(told) => {
                if let (Some((request, answer)), Some(queries)) = (self.reads.on_answer(replica, told), &self.queries) {
                    cx.reply(request, PbftReply::Answered((queries.decode)(&answer)));
                }
                return;
            }
            _ => return,
        };
        for Done { ticket, result } in self.core.on_reply(replica, reply) {
            let Some(request) = self.proposals.remove(&ticket) else { continue };
            cx.reply(request, PbftReply::Proposed(Executed::of(result)));
        }
    }

    fn on_timer(&mut self, _cx: &mut Context<'_, Self>, _timer: ()) {} // The flush that follows asks again.

    fn on_command(&mut self, cx: &mut Context<'_, Self>, request: RequestId, command: PbftCommand<S>) {
        let command = match command {
            PbftCommand::Propose(_) if self.read_only => {
                return cx.reply(request, PbftReply::Proposed(Err(ProposeError::ReadOnly)));
            }
            PbftCommand::Propose(command) => wire::to_bytes(&command),
            PbftCommand::SetReadOnly(read_only) => {
                self.read_only = read_only;
                return cx.reply(request, PbftReply::ReadOnlySet);
            }
            PbftCommand::Query(query) => {
                let query = self.queries.as_ref().map(|queries| (queries.encode)(&query));
                let query = query.filter(|query| query.len() <= self.command_len_max);
                if !query.is_some_and(|query| self.reads.ask(&self.replicas, request, query, cx.now())) {
                    cx.reply(request, PbftReply::Answered(None));
                }
                return;
            }
            PbftCommand::Status => return cx.reply(request, PbftReply::Status(None)),
            PbftCommand::Evidence => return cx.reply(request, PbftReply::Evidence(Vec::new())),
            PbftCommand::Checked(_) => return cx.reply(request, PbftReply::Checked),
        };
        let (len, limit) = (command.len(), self.command_len_max);
        if len > limit {
            return cx.reply(request, PbftReply::Proposed(Err(ProposeError::TooLarge { len, limit })));
        }
        self.next_ticket += 1;
        if self.core.submit(self.next_ticket, command) {
            self.proposals.insert(self.next_ticket, request);
        } else {
            cx.reply(request, PbftReply::Proposed(Err(ProposeError::Overloaded)));
        }
    }

    fn on_flush(&mut self, cx: &mut Context<'_, Self>) {
        let all: Arc<[NodeId]> = self.replicas.members().iter().map(|(node, _)| *node).collect();
        let replicas = &self.replicas;
        self.core.poll(cx.now(), |to, request| match to {
            Recipient::Primary(primary) => {
                if let Some(primary) = replicas.node(primary) {
                    cx.send(primary, Message::Request(request.clone()));
                }
            }
            Recipient::All => cx.broadcast(all.clone(), Message::Request(request.clone())),
        });
        for request in self.reads.poll(cx.now(), |read| cx.broadcast(all.clone(), Message::Read(read))) {
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
