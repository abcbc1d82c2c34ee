//! What the application asks for, and is told.

use std::future::Future;

use mesh_core::{CallError, Handle, NodeId, reply};

use super::Aggregation;
use super::config::AggregationConfigError;

/// What the application asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum AggregationCommand {
    /// Pass shares on to a peer. It is no error if that is done already.
    AddPeer(NodeId),
    /// Pass shares on to a peer no more: it left, or is down. A share that it was not heard to take is taken back; if it
    /// has taken it, that counts twice until the epoch ends.
    RemovePeer(NodeId),
    /// This node's value of a variable, from the next epoch on.
    Set {
        /// Which variable.
        variable: String,
        /// The value. Beyond the bounds of the variable, it counts as the bound.
        value: f64,
    },
    /// Tell what is known.
    Estimate,
}

/// The answer to a command.
#[derive(Clone, Debug, PartialEq)]
pub enum AggregationReply {
    /// It is as asked.
    Done(Result<(), AggregationError>),
    /// What is known.
    Estimate(Estimate),
}

/// Why something was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AggregationError {
    /// The configuration cannot work.
    #[error(transparent)]
    Config(#[from] AggregationConfigError),
    /// No variable has this name.
    #[error("there is no variable {name}")]
    UnknownVariable {
        /// The name asked for.
        name: String,
    },
    /// The value is not a number.
    #[error("the value for {name} is not a number")]
    NotANumber {
        /// The variable.
        name: String,
    },
    /// There are as many peers as there may be.
    #[error("there are {limit} peers already, as many as there may be")]
    TooManyPeers {
        /// How many.
        limit: usize,
    },
    /// The node does not answer.
    #[error(transparent)]
    Call(#[from] CallError),
}

/// What a node knows of all nodes.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Estimate {
    /// The epoch.
    pub epoch: u64,
    /// How many rounds of it this node has seen. Below about 20 it may be far off.
    pub rounds: u32,
    /// Whether the epoch has ended, so that this is as good as it gets.
    pub ended: bool,
    /// How many nodes there are, as soon as the node that is counted from has been heard of.
    pub nodes: Option<f64>,
    /// Each variable.
    pub aggregates: Vec<Aggregate>,
}

impl Estimate {
    /// What is known of a variable.
    pub fn of(&self, variable: &str) -> Option<&Aggregate> {
        self.aggregates.iter().find(|aggregate| aggregate.name == variable)
    }
}

/// What a node knows of a variable.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Aggregate {
    /// The variable.
    pub name: String,
    /// The mean over all nodes.
    pub average: f64,
    /// The sum over all nodes, where their number is known.
    pub sum: Option<f64>,
    /// The least value.
    pub min: f64,
    /// The greatest value.
    pub max: f64,
    /// The share of nodes in each bucket, with the bucket's upper bound. The last has none.
    pub buckets: Vec<(Option<f64>, f64)>,
}

impl Aggregate {
    /// A value that a share of `q` of the nodes does not exceed: the upper bound of a bucket, or the greatest
    /// value. `None` without buckets.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let mut below = 0.0;
        for (bound, share) in &self.buckets {
            below += share;
            // What rounding takes away is less than this.
            if below + 1e-9 >= q.min(1.0) {
                return Some(bound.map_or(self.max, |bound| bound.min(self.max)));
            }
        }
        self.buckets.last().map(|_| self.max)
    }
}

/// What the application is told unasked.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum AggregationEvent {
    /// An epoch has ended, and this came of it.
    EpochEnded(Estimate),
}

/// The calls of an aggregation's [`Handle`].
pub trait AggregationHandle {
    /// Sets this node's value of a variable, from the next epoch on.
    fn set(
        &self,
        variable: impl Into<String>,
        value: f64,
    ) -> impl Future<Output = Result<(), AggregationError>> + Send + 'static;

    /// What is known: of the epoch that ended last, or of the first one while it runs.
    fn estimate(&self) -> impl Future<Output = Result<Estimate, CallError>> + Send + 'static;
}

impl AggregationHandle for Handle<Aggregation> {
    fn set(
        &self,
        variable: impl Into<String>,
        value: f64,
    ) -> impl Future<Output = Result<(), AggregationError>> + Send + 'static {
        let call = self.call(AggregationCommand::Set { variable: variable.into(), value });
        async move { reply!(call, AggregationReply::Done) }
    }

    fn estimate(&self) -> impl Future<Output = Result<Estimate, CallError>> + Send + 'static {
        let call = self.call(AggregationCommand::Estimate);
        async move { Ok(reply!(call, AggregationReply::Estimate)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_the_bound_of_the_bucket_that_it_falls_into() {
        let buckets = vec![(Some(1.0), 0.25), (Some(2.0), 0.5), (Some(8.0), 0.0), (None, 0.25)];
        let aggregate = Aggregate { name: "x".into(), average: 2.0, sum: None, min: 0.5, max: 12.0, buckets };
        assert_eq!(
            [0.0, 0.25, 0.26, 0.75, 0.76, 1.0, 7.0].map(|q| aggregate.quantile(q).unwrap()),
            [1.0, 1.0, 2.0, 2.0, 12.0, 12.0, 12.0]
        );
        assert_eq!(Aggregate { buckets: Vec::new(), ..aggregate }.quantile(0.5), None);
    }
}
