//! What an application asks of a replica beside proposals, and the answers.

use std::time::Duration;

use mesh_consensus::raft::{
    ChangeError, Changed, Configuration, Membership, RaftCommand, RaftConfig, RaftReply, Read, ReadError, ReadPolicy,
    TransferError,
};
use mesh_core::{NodeId, RequestId};

use super::{Cluster, id};

/// These nodes vote, and no other is a member.
pub fn voters(numbers: &[usize]) -> Membership {
    Membership { voters: numbers.iter().copied().map(id).collect(), ..Membership::default() }
}

/// These nodes vote, and those learn.
pub fn with_learners(numbers: &[usize], learners: &[usize]) -> Membership {
    Membership { learners: learners.iter().copied().map(id).collect(), ..voters(numbers) }
}

/// The nodes that vote.
pub fn voters_of(configuration: &Configuration) -> Vec<NodeId> {
    configuration.voters().iter().map(|member| member.node).collect()
}

/// Node 1 leads nodes 1 to `count`; as many more wait to be added, as learners that have caught up.
pub fn with_spares(config: &RaftConfig, count: usize, spares: usize) -> Cluster {
    let mut cluster = Cluster::with(count, config, 1).with_leader(1);
    let spares: Vec<_> = (0..spares).map(|_| cluster.add_node()).collect();
    let founders: Vec<_> = (1..=count).collect();
    assert!(cluster.change_to(1, with_learners(&founders, &spares)).is_ok());
    cluster.beat(1);
    cluster.beat(1);
    cluster
}

impl Cluster {
    pub fn read(&mut self, number: usize, policy: ReadPolicy) -> RequestId {
        self.ask(number, RaftCommand::Read((), policy))
    }

    /// A linearizable read by a round.
    pub fn read_index(&mut self, number: usize) -> RequestId {
        self.read(number, ReadPolicy::Linearizable)
    }

    /// The answer to a read, once there is one.
    pub fn read_reply(&self, number: usize, request: RequestId) -> Option<&Result<Read<Vec<u64>>, ReadError>> {
        self.other_reply(number, request).map(|reply| match reply {
            RaftReply::Read(result) => result,
            other => panic!("{other:?} answers a read"),
        })
    }

    /// The journal as a read that was answered saw it.
    pub fn journal_read(&self, number: usize, request: RequestId) -> Option<&[u64]> {
        self.read_reply(number, request).map(|result| &result.as_ref().expect("the read is answered").answer[..])
    }

    pub fn change(&mut self, number: usize, target: Membership) -> RequestId {
        self.ask(number, RaftCommand::ChangeMembership(target))
    }

    /// The answer to a change of the membership, once there is one.
    pub fn change_reply(&self, number: usize, request: RequestId) -> Option<&Result<Changed, ChangeError>> {
        self.other_reply(number, request).map(|reply| match reply {
            RaftReply::MembershipChanged(result) => result,
            other => panic!("{other:?} answers a change"),
        })
    }

    /// Changes the membership, with all the time that takes.
    pub fn change_to(&mut self, number: usize, target: Membership) -> Result<Changed, ChangeError> {
        let request = self.change(number, target);
        for _ in 0..100 {
            self.pass(Duration::from_millis(100));
            if let Some(result) = self.change_reply(number, request) {
                return result.clone();
            }
        }
        panic!("the change does not end: {:?}", self.status(number));
    }

    /// Hands leadership over to a node, or to the fittest.
    pub fn transfer(&mut self, number: usize, to: Option<usize>) -> RequestId {
        self.ask(number, RaftCommand::Transfer(to.map(id)))
    }

    /// The answer to a hand-over, once there is one.
    pub fn transfer_reply(&self, number: usize, request: RequestId) -> Option<&Result<NodeId, TransferError>> {
        self.other_reply(number, request).map(|reply| match reply {
            RaftReply::Transferred(result) => result,
            other => panic!("{other:?} answers a hand-over"),
        })
    }

    /// A proposal to a leader that works is applied.
    pub fn serves(&mut self, number: usize, command: u64) -> bool {
        let request = self.propose(number, command);
        self.deliver();
        matches!(self.reply(number, request), Some(Ok(_)))
    }
}
