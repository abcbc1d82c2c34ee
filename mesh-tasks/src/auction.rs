//! Nodes bid for tasks, and the best bid wins.
//!
//! [`score`] tells how good a bid is and which of several is the best; [`batch`] assigns many tasks to many bidders at
//! once.

pub mod batch;
pub mod score;

use mesh_core::wire_struct;

/// Which auction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AuctionId {
    /// What is auctioned, as the number of the task.
    pub item: u128,
    /// How often that has been auctioned, with this time.
    pub round: u32,
}

wire_struct!(AuctionId { item, round });
