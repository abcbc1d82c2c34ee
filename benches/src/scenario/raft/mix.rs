//! What a seed draws: who is there, how the replicas are set up, what goes wrong, and how often.
//!
//! Every seed has a mix of its own. Runs that have few features and faults, but those often, find what
//! an even mix of everything hides.

use std::collections::BTreeSet;
use std::time::Duration;

use mesh_consensus::raft::RaftConfig;
use mesh_core::{NodeId, Rng64};
use mesh_transport_mem::{FaultConfig, FaultKind, Latency, SimConfig};

/// The election timeout of all replicas.
pub(super) const ELECTION_TIMEOUT: Duration = Duration::from_millis(500);

/// How long a read may wait.
pub(super) const READ_TIMEOUT: Duration = Duration::from_secs(1);

/// Clocks gain or lose as much as this, in nanoseconds a second.
const DRIFT_PPB_MAX: i64 = 100_000_000;

/// By how much two such clocks run apart at most, in millionths: 1.1 to 0.9.
const DRIFT_BETWEEN_PPM: u32 = 222_223;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// How often an operator does each thing, as the mean time between two; `None` for never.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Actions {
    /// Asks for another membership.
    pub(super) change: Option<Duration>,
    /// Hands leadership over.
    pub(super) transfer: Option<Duration>,
    /// Takes a server's disk away.
    pub(super) wipe: Option<Duration>,
    /// Shuts a server down in good order.
    pub(super) stop: Option<Duration>,
}

/// What a seed is about.
#[derive(Debug)]
pub(super) struct Mix {
    /// The servers that found the group.
    pub(super) founders: Vec<NodeId>,
    /// Those that wait to be added.
    pub(super) spares: Vec<NodeId>,
    /// Those of either that keep no data.
    pub(super) witnesses: BTreeSet<NodeId>,
    pub(super) config: RaftConfig,
    pub(super) simulation: SimConfig,
    pub(super) faults: FaultConfig,
    pub(super) actions: Actions,
    /// How many of ten calls of clients write; the others read.
    pub(super) writes: u64,
    /// The servers that hand proposals on to the leader.
    pub(super) forwarders: BTreeSet<NodeId>,
    /// How many clients keep a session.
    pub(super) session_clients: usize,
    /// How many commands of a session are on their way at a time, at most.
    pub(super) session_depth: usize,
    /// For how long their sessions may go unused.
    pub(super) session_ttl: Duration,
}

impl Mix {
    pub(super) fn draw(rng: &mut Rng64) -> Self {
        // In a storm leaders change as often as they can.
        let storm = rng.chance(1, 2);
        let changes = rng.chance(1, 2);
        let lease = !storm && rng.chance(1, 3);
        let wipes = rng.chance(1, 4);
        let count = *rng.choose(&[1, 2, 3, 3, 3, 3, 3, 3, 5, 5]).unwrap_or(&3);
        let spares = if changes { rng.below(4) as u128 } else { 0 };
        let founders: Vec<_> = (1..=count).map(NodeId).collect();
        let spares: Vec<_> = (count + 1..=count + spares).map(NodeId).collect();
        let mut config = Self::draw_config(rng);
        // Servers that are members no more, or lost their disk, may ask for votes for ever: it takes
        // check-quorum to keep to a leader all the same.
        let stickiness = changes || wipes || lease;
        config.check_quorum = stickiness || !rng.chance(1, if storm { 1 } else { 4 });
        config.pre_vote = !rng.chance(1, if storm { 2 } else { 4 });
        config.lease_reads = lease;
        config.clock_drift_ppm = DRIFT_BETWEEN_PPM;
        let mut faults = if storm { storm_faults() } else { FaultConfig::default() };
        faults.drift_ppb_max = DRIFT_PPB_MAX;
        if lease {
            // No bound on the drift of clocks holds where they jump.
            faults.kinds.retain(|kind| *kind != FaultKind::ClockJump);
        }
        let mut every = |of: u64, longest: u64| {
            let mean = rng.duration_between(ms(100), ms(longest));
            rng.chance(1, of).then_some(mean)
        };
        let actions = Actions {
            change: every(1, 4_000).filter(|_| changes),
            transfer: every(3, 4_000),
            wipe: every(1, 10_000).filter(|_| wipes),
            stop: every(4, 10_000),
        };
        let nodes = [&founders[..], &spares].concat();
        Self {
            witnesses: Self::draw_witnesses(rng, &founders, &spares),
            founders,
            spares,
            config,
            simulation: if storm { storm_simulation(rng) } else { SimConfig::default() },
            faults,
            actions,
            writes: 2 + rng.below(7),
            forwarders: if rng.chance(1, 2) { draw_some(rng, &nodes) } else { BTreeSet::new() },
            session_clients: if rng.chance(2, 3) { 1 + rng.below(4) as usize } else { 0 },
            session_depth: 1 + rng.below(5) as usize,
            session_ttl: rng.duration_between(ms(1_000), ms(30_000)),
        }
    }

    /// The options of a server.
    pub(super) fn config_of(&self, node: NodeId) -> RaftConfig {
        RaftConfig { forward_proposals: self.forwarders.contains(&node), ..self.config.clone() }
    }

    fn draw_config(rng: &mut Rng64) -> RaftConfig {
        let snapshot_log_bytes = *rng.choose(&[500, 4_000, 1 << 20]).unwrap_or(&500);
        let quiesce_after = rng.chance(1, 6).then(|| rng.duration_between(ms(20), ms(500)));
        RaftConfig {
            election_timeout: ELECTION_TIMEOUT,
            heartbeat_interval: ELECTION_TIMEOUT / 10,
            catch_up_timeout: 3 * ELECTION_TIMEOUT,
            read_timeout: READ_TIMEOUT,
            quiesce_after,
            max_append_bytes: *rng.choose(&[1, 64, 4_000]).unwrap_or(&64),
            max_inflight_bytes: *rng.choose(&[1, 200, 1 << 20]).unwrap_or(&200),
            snapshot_log_bytes,
            trailing_log_bytes: rng.below(snapshot_log_bytes as u64) as usize,
            snapshot_chunk_bytes: *rng.choose(&[16, 1_000]).unwrap_or(&16),
            // Enough for a snapshot to reach all followers while progress is demanded.
            snapshot_bytes_per_s: rng.chance(1, 4).then(|| 4_000 + rng.below(36_000)),
            snapshot_from_followers: rng.chance(1, 3),
            max_sessions: 2 + rng.below(7) as u32,
            ..RaftConfig::default()
        }
    }

    /// One server without data, where there are enough with data.
    fn draw_witnesses(rng: &mut Rng64, founders: &[NodeId], spares: &[NodeId]) -> BTreeSet<NodeId> {
        let candidates = [founders, spares].concat();
        let drawn = rng.choose(&candidates).copied().filter(|_| rng.chance(1, 4) && founders.len() >= 3);
        drawn.into_iter().collect()
    }

    /// All servers there are.
    pub(super) fn nodes(&self) -> Vec<NodeId> {
        [&self.founders[..], &self.spares].concat()
    }
}

/// Each of them or not, or all.
fn draw_some(rng: &mut Rng64, nodes: &[NodeId]) -> BTreeSet<NodeId> {
    let all = rng.chance(1, 2);
    nodes.iter().copied().filter(|_| all || rng.chance(1, 2)).collect()
}

/// Faults that come thick and fast and are soon over, so that much is half done when they strike.
fn storm_faults() -> FaultConfig {
    use FaultKind::{Crash, Cut, Kill, Partition, Pause};
    let mut swarm = FaultConfig::default();
    swarm.kinds = vec![Crash, Crash, Crash, Kill, Partition, Partition, Cut, Pause];
    swarm.interval_min = ms(100);
    swarm.interval_max = ms(1_500);
    swarm.lasts_max = ms(700);
    swarm
}

/// Slow disks and links, in which much is on its way at any time.
fn storm_simulation(rng: &mut Rng64) -> SimConfig {
    let mut config = SimConfig::default();
    config.disk.sync = Latency::between(ms(1), ms(250));
    config.link.latency = Latency::between(ms(1), ms(60));
    config.link.loss = *rng.choose(&[0.1, 0.3, 0.5]).unwrap_or(&0.1);
    config
}
