//! What a node's [`Metrics`] tell of its stores.
//!
//! | name | what |
//! | --- | --- |
//! | `store_writes` | writes done here |
//! | `store_merges` | entries of others that changed something here |
//! | `store_pushes` | updates pushed, once for each peer |
//! | `store_pushes_dropped` | updates not pushed because too many waited; anti-entropy brings them |
//! | `store_syncs` | exchanges with a peer that differed, carried to their end |
//! | `store_syncs_failed` | exchanges given up |
//! | `store_expired` | entries whose time was up |
//! | `store_collected` | tombstones forgotten |
//! | `store_refused_ahead` | entries refused because their stamp is too far in the future |
//! | `store_refused_outdated` | entries refused because they were deleted while their holder was away |
//! | `store_refused_full` | entries refused because a limit on keys or bytes is reached |
//! | `store_refused_invalid` | entries refused because they break a rule, or a length is over its limit |
//! | `store_refused_type` | entries refused because nobody registered their type here |
//! | `store_unsolicited` | answers to nothing that was asked, and questions without a valid token |
//! | `store_paced` | questions not answered because their asker had too much already |

use mesh_core::{Counter, Metrics};

macro_rules! meter {
    ($($name:ident),* $(,)?) => {
        /// Counts what a store does. Counts for nobody until it is given the numbers of a node.
        #[derive(Clone, Debug, Default)]
        pub(super) struct Meter {
            $(pub(super) $name: Counter,)*
        }

        impl Meter {
            pub(super) fn new(metrics: &Metrics) -> Self {
                Self { $($name: metrics.counter(concat!("store_", stringify!($name))),)* }
            }
        }
    };
}

meter! {
    writes, merges, pushes, pushes_dropped, syncs, syncs_failed, expired, collected, refused_ahead,
    refused_outdated, refused_full, refused_invalid, refused_type, unsolicited, paced,
}
