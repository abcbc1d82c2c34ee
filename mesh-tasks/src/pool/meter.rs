//! What a node's [`Metrics`](mesh_core::Metrics) tell of its pool.
//!
//! | name | what |
//! | --- | --- |
//! | `tasks_submitted` | tasks taken into ownership here |
//! | `tasks_refused` | tasks refused because of a limit |
//! | `tasks_shed` | tasks refused to have room for those of higher priorities |
//! | `tasks_completed`, `tasks_dead`, `tasks_cancelled`, `tasks_expired` | what became of tasks owned here |
//! | `tasks_started` | attempts begun here |
//! | `tasks_retried` | attempts that failed and are made again |
//! | `tasks_leases_lost` | leases of tasks owned here that were not kept |
//! | `tasks_fenced` | reports of superseded leases, refused here |
//! | `tasks_moved` | leases given to another node |
//! | `tasks_declined` | leases that another node gave back |
//! | `tasks_steals`, `tasks_steals_empty` | requests for work, and those for nothing |
//! | `tasks_pushed` | offers that nobody asked for at that moment |
//! | `tasks_auctions`, `tasks_unsold` | auctions held here, and those that nobody won |
//! | `tasks_awards` | awards given |
//! | `tasks_bids_refused` | bids that were late, or not by one that was asked |
//! | `tasks_by_ring` | tasks that were ready where the ring wants them |
//! | `tasks_routed` | tasks sent where they fit best |
//! | `tasks_balanced` | tasks given to a node with less to do |
//! | `tasks_taken_over` | tasks whose ownership was taken over |
//! | `tasks_regrouped` | tasks whose replicas were changed |
//! | `tasks_copied`, `tasks_copied_bytes` | tasks that were sent here with all that is to be done, to be kept, and their bytes |
//! | `tasks_copies_refused` | tasks that were not kept here, as there are too many, or it has drained: they are sent again |
//! | `tasks_strangers` | messages of nodes that are not known |
//! | `tasks_stale` | messages of or to another life of a node |
//! | `tasks_peers_refused` | nodes beyond the most that a pool knows |
//! | `tasks_invalid` | what no node says that works |
//! | `tasks_run_nanos` | how long attempts took: a histogram |
//! | `tasks_auction_nanos` | how long auctions took: a histogram |
//! | `tasks_wait_nanos` | how long tasks owned here waited before their first attempt: a histogram |

use mesh_core::{Counter, Histogram, Metrics};

macro_rules! meter {
    ($($name:ident),* $(,)?) => {
        /// Counts what a pool does. Counts for nobody until it is given the numbers of a node.
        #[derive(Clone, Debug, Default)]
        pub(super) struct Meter {
            $(pub(super) $name: Counter,)*
            pub(super) run_nanos: Histogram,
            pub(super) auction_nanos: Histogram,
            pub(super) wait_nanos: Histogram,
        }

        impl Meter {
            pub(super) fn new(metrics: &Metrics) -> Self {
                Self {
                    $($name: metrics.counter(concat!("tasks_", stringify!($name))),)*
                    run_nanos: metrics.histogram("tasks_run_nanos"),
                    auction_nanos: metrics.histogram("tasks_auction_nanos"),
                    wait_nanos: metrics.histogram("tasks_wait_nanos"),
                }
            }
        }
    };
}

meter! {
    submitted, refused, shed, completed, dead, cancelled, expired, started, retried, leases_lost, fenced, moved, declined,
    steals, steals_empty, pushed, auctions, unsold, awards, bids_refused, by_ring, routed, balanced, taken_over, regrouped, copied,
    copied_bytes, copies_refused, strangers, stale, peers_refused, invalid,
}
