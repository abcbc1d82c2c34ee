//! Membership, failure detection and shared state for mesh, without a leader.
//!
//! [`membership`] tells every node who else there is and who is down; [`heartbeat`] watches few peers
//! closely and lets a quorum confirm a failure; [`aggregation`] computes sums and averages over all.
//!
//! [`store`] is a key-value memory that all nodes share; [`crdt`] and [`anti_entropy`] are the parts it
//! stands on, usable alone.
//!
//! [`overlay`] gives each node a few links of thousands, and brings messages to any node over others;
//! [`broadcast`] brings what one node publishes to all, along a tree of those links.
//!
//! [`messenger`] asks one node and brings its answer, or tells it something, once.
//!
//! [`discovery`] finds peers through seeds and signed announcements; [`reputation`] judges them by what they
//! do, and picks among them.
//!
//! [`partition`] tells on which side of a partition the application may go on, and when it has healed;
//! [`metrics`] tell how the network is, and what every node thinks of every other.
//!
//! A node hosts those it needs, and links them: `members.link(&overlay, OverlayCommand::of_member)`, and so on.

pub mod aggregation;
mod allowance;
pub mod anti_entropy;
pub mod broadcast;
pub mod crdt;
pub mod discovery;
pub mod heartbeat;
pub mod membership;
pub mod messenger;
pub mod metrics;
pub mod overlay;
pub mod partition;
pub mod reputation;
pub mod store;
#[cfg(test)]
mod testing;
mod wiring;
