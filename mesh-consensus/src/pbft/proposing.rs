//! What the application has ordered at this replica: it goes in by a client of the replica's own.

use std::sync::Arc;

use mesh_core::identity::Signer;
use mesh_core::{Context, RequestId, StateMachine, wire};

use super::authenticator::Verified;
use super::client::{ClientConfig, ClientCore, Done, Recipient};
use super::command::ProposeError;
use super::epoch::Reconfiguration;
use super::message::Message;
use super::replicas::ReplicaSet;
use super::{Pbft, PbftConfig, Timer, Waiting};

impl<S: StateMachine> Pbft<S> {
    pub(super) fn on_propose(&mut self, cx: &mut Context<'_, Self>, request: RequestId, command: &S::Command) {
        let encoded = wire::to_bytes(command);
        let (len, limit) = (encoded.len(), self.config.command_len_max);
        let refused = if let Some(error) = self.refuses_all() {
            Some(error)
        } else if len > limit {
            Some(ProposeError::TooLarge { len, limit })
        } else if self.validator.as_ref().is_some_and(|is_valid| !is_valid(command)) {
            Some(ProposeError::Invalid)
        } else {
            (!self.client.submit(request.0, encoded)).then_some(ProposeError::Overloaded)
        };
        self.await_or_refuse(cx, request, Waiting::Proposal(request), refused);
    }

    pub(super) fn on_reconfigure(&mut self, cx: &mut Context<'_, Self>, request: RequestId, change: Reconfiguration) {
        let refused = self.refuses_all().or_else(|| {
            let is_taken = self.client.submit_change(request.0, change);
            (!is_taken).then_some(ProposeError::Overloaded)
        });
        self.await_or_refuse(cx, request, Waiting::Change(request), refused);
    }

    /// Why nothing that is asked for at this node is ordered.
    fn refuses_all(&self) -> Option<ProposeError> {
        let not_member = (!self.is_member()).then_some(ProposeError::NotMember);
        not_member.or_else(|| self.read_only.then_some(ProposeError::ReadOnly))
    }

    fn await_or_refuse(
        &mut self,
        cx: &mut Context<'_, Self>,
        ticket: RequestId,
        waiting: Waiting,
        refused: Option<ProposeError>,
    ) {
        if let Some(error) = refused {
            let (request, reply) = waiting.reply(Err(error));
            return cx.reply_volatile(request, reply);
        }
        self.proposals.insert(ticket.0, waiting);
    }

    /// Sends what this replica's own client has to send.
    pub(super) fn poll_client(&mut self, cx: &mut Context<'_, Self>) {
        let mut requests = Vec::new();
        self.client.poll(cx.now(), |to, request| requests.push((to, request.clone())));
        for (to, request) in requests {
            if let Some(outcome) = self.replicated.look_up(&request) {
                self.answer(cx, &request, outcome);
                continue;
            }
            if to == Recipient::All {
                cx.broadcast_volatile(self.others.clone(), self.say(Message::Request(request.clone())));
            }
            self.take_request(cx, cx.me(), Verified::by_us(request));
        }
        let due = self.client.deadline();
        if due != self.client_due {
            self.client_due = due;
            match due {
                Some(due) => cx.set_timer(Timer::ClientDue, due.since(cx.now())),
                None => cx.cancel_timer(Timer::ClientDue),
            }
        }
    }

    /// Answers the application.
    pub(super) fn on_done(&mut self, cx: &mut Context<'_, Self>, done: Vec<Done>) {
        for Done { ticket, result } in done {
            let Some(waiting) = self.proposals.remove(&ticket) else { continue };
            let (request, reply) = waiting.reply(result.map_err(ProposeError::from));
            // Volatile, as the answers to clients elsewhere.
            cx.reply_volatile(request, reply);
        }
    }
}

/// The client that a replica is itself: it believes what it executes.
pub(super) fn own_client(config: &PbftConfig, replicas: &ReplicaSet, signer: Arc<dyn Signer>, tag: u64) -> ClientCore {
    let client = ClientConfig {
        signs: config.client_signatures,
        answers_needed: 1,
        retry_after: config.request_timeout / 4,
        max_waiting: 1024,
    };
    ClientCore::new(replicas.clone(), signer, client, tag)
}
