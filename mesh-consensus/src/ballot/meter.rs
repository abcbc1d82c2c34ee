//! What a node's [`Metrics`] tell of its ballots.
//!
//! | name | unit | what |
//! | --- | --- | --- |
//! | `ballots_opened` | count | ballots that began here |
//! | `ballots_decided` | count | verdicts learned here |
//! | `ballots_given_up` | count | ballots that the electorate did not agree on in time |
//! | `ballots_open` | gauge | ballots open here |
//! | `ballot_decision_nanos` | histogram, ns | from hearing of a ballot until its verdict |
//! | `ballot_participation_percent` | gauge | how many of a hundred members voted on the last one that closed |
//! | `ballot_evidence` | count | lies found here |
//! | `ballot_proposals_refused` | count | proposals beyond a limit, of strangers or with bad signatures |
//! | `ballot_statements` | count | statements taken |
//! | `ballot_statements_repeated` | count | statements known already, of no use any more, or of no member |
//! | `ballot_signatures_bad` | count | statements and proposals with bad signatures |
//! | `ballot_unknown` | count | ballots that were spoken of and not known here |
//! | `ballot_strangers` | count | messages of nodes that are no peers, or are not listened to |

use mesh_core::{Counter, Gauge, Histogram, Metrics};

/// Counts and times what happens, where anybody wants to know.
#[derive(Clone, Debug, Default)]
pub(super) struct Meter {
    pub(super) opened: Counter,
    pub(super) decided: Counter,
    pub(super) given_up: Counter,
    pub(super) open: Gauge,
    pub(super) decision_nanos: Option<Histogram>,
    pub(super) participation_percent: Gauge,
    pub(super) evidence: Counter,
    pub(super) refused: Counter,
    pub(super) statements: Counter,
    pub(super) repeated: Counter,
    pub(super) bad: Counter,
    pub(super) unknown: Counter,
    pub(super) strangers: Counter,
}

impl Meter {
    pub(super) fn new(metrics: &Metrics) -> Self {
        Self {
            opened: metrics.counter("ballots_opened"),
            decided: metrics.counter("ballots_decided"),
            given_up: metrics.counter("ballots_given_up"),
            open: metrics.gauge("ballots_open"),
            decision_nanos: Some(metrics.histogram("ballot_decision_nanos")),
            participation_percent: metrics.gauge("ballot_participation_percent"),
            evidence: metrics.counter("ballot_evidence"),
            refused: metrics.counter("ballot_proposals_refused"),
            statements: metrics.counter("ballot_statements"),
            repeated: metrics.counter("ballot_statements_repeated"),
            bad: metrics.counter("ballot_signatures_bad"),
            unknown: metrics.counter("ballot_unknown"),
            strangers: metrics.counter("ballot_strangers"),
        }
    }
}
