//! What a node's [`Metrics`](mesh_core::Metrics) tell of its part in a store.
//!
//! | name | what |
//! | --- | --- |
//! | `dht_reads`, `dht_writes` | requests of this node that were answered |
//! | `dht_unavailable` | requests of this node that were given up |
//! | `dht_refused` | requests refused because of a limit |
//! | `dht_redirected` | requests that were answered with the name of another node |
//! | `dht_repeated` | writes that were asked for again, and took effect before |
//! | `dht_taken_over` | shards whose lead was taken over |
//! | `dht_regrouped` | shards whose replicas were changed |
//! | `dht_handed_over` | shards led here that are another's by the ring |
//! | `dht_moved`, `dht_moved_bytes` | shards that were copied to this node, and bytes of their keys and values |
//! | `dht_collected` | deleted keys whose place was given up |
//! | `dht_lost` | shards of which most replicas lost what they kept, as far as this node knows |
//! | `dht_strangers` | messages of nodes that are not known, or of another store |
//! | `dht_stale` | messages of or to another life of a node |
//! | `dht_peers_refused` | nodes beyond the most that a store knows |
//! | `dht_invalid` | what no node says that works |
//! | `dht_request_nanos` | how long answered requests of this node took: a histogram |

use mesh_core::{Counter, Histogram, Metrics};

macro_rules! meter {
    ($($name:ident),* $(,)?) => {
        /// Counts what a store does. Counts for nobody until it is given the numbers of a node.
        #[derive(Clone, Debug, Default)]
        pub(super) struct Meter {
            $(pub(super) $name: Counter,)*
            pub(super) request_nanos: Histogram,
        }

        impl Meter {
            pub(super) fn new(metrics: &Metrics) -> Self {
                Self {
                    $($name: metrics.counter(concat!("dht_", stringify!($name))),)*
                    request_nanos: metrics.histogram("dht_request_nanos"),
                }
            }
        }
    };
}

meter! {
    reads, writes, unavailable, refused, redirected, repeated, taken_over, regrouped, handed_over, moved, moved_bytes,
    collected, lost, strangers, stale, peers_refused, invalid,
}
