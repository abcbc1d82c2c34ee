//! Who owns a key, and who keeps copies of what it stands for.
//!
//! [`ring`] answers from the members that a node knows of, without asking anybody: nodes that know the same members
//! answer alike. [`store`] keeps keys and their values there, and answers alike whatever nodes know.
//!
//! ```
//! use mesh_core::NodeId;
//! use mesh_tasks::dht::ring::{Member, Ring, RingConfig};
//!
//! let members = (1..=5).map(|id| Member::new(NodeId(id)));
//! let ring = Ring::with_members(RingConfig::default(), members)?;
//! let copies: Vec<NodeId> = ring.replicas(0xfeed, 3).collect();
//! assert_eq!(copies.len(), 3);
//! assert_eq!(ring.owner(0xfeed), Some(copies[0]));
//! # Ok::<(), mesh_tasks::dht::ring::RingConfigError>(())
//! ```

pub mod ring;
pub mod store;
