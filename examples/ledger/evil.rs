//! What a malicious replica of the ledger does.

use std::fmt;

use clap::ValueEnum;
use mesh_consensus::pbft::{Batch, Certificate, Digest, Message, Operation, Request};
use mesh_core::identity::Signature;
use mesh_core::{NodeId, wire};
use mesh_examples::evil::Forger;

use crate::books::{Balances, Payment};

/// What a malicious replica does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Evil {
    /// It tells the others of different batches, and votes for both.
    Equivocate,
    /// It says nothing at all.
    Silent,
    /// It diverts payments to itself, makes up states that nobody signed, and lies to whoever asks for balances.
    Forge,
}

impl fmt::Display for Evil {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Equivocate => "equivocate",
            Self::Silent => "silent",
            Self::Forge => "forge",
        })
    }
}

impl Evil {
    /// What is sent in place of a message.
    pub(crate) fn lie(self, forger: &Forger, to: NodeId, message: Message) -> Vec<Message> {
        match self {
            Self::Silent => Vec::new(),
            Self::Equivocate => forger.equivocate(to, message),
            Self::Forge => forge(forger, message),
        }
    }
}

fn forge(forger: &Forger, message: Message) -> Vec<Message> {
    match message {
        Message::PrePrepare(told) => {
            let requests = told.batch.requests().iter().map(|request| divert(forger.me, request)).collect();
            vec![forger.pre_prepare(&told, Batch::new(requests))]
        }
        Message::Status(status) if status.executed > 0 => {
            let state = Digest::of(b"a state in which all is mine");
            let nobody = Signature::from_bytes([0; 64]);
            let signatures = forger.auth.replicas().replicas().map(|replica| (replica, nobody)).collect();
            let made_up = Certificate { sequence: status.stable + 1, digest: state, signatures };
            vec![Message::Status(status), Message::Stable(made_up)]
        }
        Message::ReadAnswer(mut told) => {
            if let Ok(mut balances) = wire::from_bytes::<Balances>(&told.answer) {
                balances.values_mut().for_each(|cents| *cents = 0);
                told.answer = wire::to_bytes(&balances);
            }
            vec![Message::ReadAnswer(told)]
        }
        message => vec![message],
    }
}

/// The same request, to pay this replica's organisation.
fn divert(me: NodeId, request: &Request) -> Request {
    let mut request = request.clone();
    if let Operation::Call(_, command) = &mut request.operation
        && let Ok(payment) = wire::from_bytes::<Payment>(command)
    {
        *command = wire::to_bytes(&payment.diverted(me));
    }
    request
}
