//! The application's side of a client session.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mesh_core::{Handle, StateMachine};

use super::Raft;
use super::command::{Applied, ProposeError, RaftHandle};
use crate::session::{ClientSession, SessionId};

/// A client session: its commands are applied once, however often they are proposed.
///
/// Each command gets a serial number, and may then be proposed with it again and again, to any node of
/// the group, until there is an answer. Which node to try next, and when, is left to the application: it
/// knows its nodes, and [`ProposeError::NotLeader`] names the leader where it is known.
///
/// ```
/// use mesh_consensus::raft::{ProposeError, Raft, Session};
/// use mesh_core::{Handle, StateMachine};
///
/// /// Gets a command applied once, whoever leads.
/// async fn submit<S>(rafts: &[Handle<Raft<S>>], session: &Session, command: S::Command) -> Result<S::Output, ProposeError>
/// where
///     S: StateMachine<Command: Clone>,
/// {
///     let serial = session.begin().ok_or(ProposeError::SessionWindowFull)?;
///     for raft in rafts.iter().cycle() {
///         match session.propose(raft, serial, command.clone()).await {
///             Ok(applied) => return Ok(applied.output),
///             Err(error) if error.is_worth_a_retry() => {} // Wait a little here.
///             Err(error) => return Err(error),
///         }
///     }
///     Err(ProposeError::Unknown)
/// }
/// ```
#[derive(Debug)]
pub struct Session {
    client: Mutex<ClientSession>,
}

impl Session {
    /// Opens a session that is forgotten when it is not used for longer than `ttl`.
    ///
    /// If the outcome is unknown, one that nobody uses may be left, until it expires.
    ///
    /// # Errors
    /// Those of a proposal.
    pub async fn open<S: StateMachine>(raft: &Handle<Raft<S>>, ttl: Duration) -> Result<Self, ProposeError> {
        let id = raft.open_session(ttl).await?;
        Ok(Self { client: Mutex::new(ClientSession::new(id)) })
    }

    /// Which session it is.
    pub fn id(&self) -> SessionId {
        self.client().id()
    }

    /// The serial number for a new command; `None` while too many commands are unanswered.
    pub fn begin(&self) -> Option<u64> {
        self.client().next().map(|request| request.serial)
    }

    /// Proposes the command of a serial number, for the first time or again.
    ///
    /// # Errors
    /// [`ProposeError::is_worth_a_retry`] tells whether to propose it again with the same serial number.
    /// After an answer, or an error that is not worth it, the serial number is used up.
    pub async fn propose<S: StateMachine>(
        &self,
        raft: &Handle<Raft<S>>,
        serial: u64,
        command: S::Command,
    ) -> Result<Applied<S::Output>, ProposeError> {
        let request = self.client().again(serial).ok_or(ProposeError::SessionStale)?;
        let result = raft.propose_once(request, command).await;
        if result.as_ref().err().is_none_or(|error| !error.is_worth_a_retry()) {
            self.give_up(serial);
        }
        result
    }

    /// Proposes the command of a serial number no more. It may have been applied, or may be yet, once.
    pub fn give_up(&self, serial: u64) {
        self.client().answered(serial);
    }

    /// Closes the session.
    ///
    /// # Errors
    /// Those of a proposal. A session left open expires.
    pub async fn close<S: StateMachine>(&self, raft: &Handle<Raft<S>>) -> Result<(), ProposeError> {
        raft.close_session(self.id()).await
    }

    fn client(&self) -> MutexGuard<'_, ClientSession> {
        // No code of others runs under this lock, so a poisoned one is as good as any.
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
