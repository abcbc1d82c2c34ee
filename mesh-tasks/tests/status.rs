//! How an agent says it is, beside what happens to it in the simulator.

mod support;

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use mesh_consensus::ballot::{BallotHandle as _, Choice, Draft};
use mesh_consensus::pbft::{Pbft, PbftConfig, PbftHandle as _, ReplicaSet};
use mesh_consensus::raft::{Raft, RaftConfig, RaftHandle as _, Role};
use mesh_core::identity::SecretKey;
use mesh_core::{Handle, LogIndex, NodeId, ProtocolId, RestoreError, SnapshotSource, StateMachine};
use mesh_gossip::partition::Mode;
use mesh_gossip::store::StoreHandle as _;
use mesh_tasks::pool::{PoolCommand, PoolHandle as _};
use mesh_tasks::swarm::{History, Metric, Preset, Status, Strategy, Swarm, SwarmConfig, ids};
use mesh_tasks::task::TaskSpec;
use mesh_transport_mem::Sim;
use support::SimClock;

const AGENTS: u8 = 5;
const REPLICAS: u8 = 4;
const SECOND: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(60);

fn key(agent: u8) -> SecretKey {
    SecretKey::from_seed([agent + 1; 32])
}

fn node(agent: u8) -> NodeId {
    key(agent).node_id()
}

/// Adds up what it is told.
#[derive(Clone, Debug, Default)]
struct Total(u64);

impl StateMachine for Total {
    type Command = u64;
    type Output = u64;
    type Query = ();
    type Answer = u64;

    fn apply(&mut self, _index: LogIndex, more: u64) -> u64 {
        self.0 += more;
        self.0
    }

    fn query(&self, (): ()) -> u64 {
        self.0
    }

    fn snapshot(&self) -> SnapshotSource {
        mesh_core::wire::to_bytes(&self.0).into()
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), RestoreError> {
        self.0 = mesh_core::wire::from_slice(snapshot)?;
        Ok(())
    }
}

#[derive(Clone)]
struct Agent {
    swarm: Swarm,
    raft: Handle<Raft<Total>>,
    pbft: Option<Handle<Pbft<Total>>>,
}

fn mesh() -> Sim<Agent> {
    mesh_with(|_| ())
}

/// A mesh of agents that are configured otherwise than usual.
fn mesh_with(change: impl Fn(&mut SwarmConfig) + Clone + 'static) -> Sim<Agent> {
    let mut sim = Sim::new(7);
    let replicas = ReplicaSet::new("status", (0..REPLICAS).map(|agent| (node(agent), key(agent).public()))).unwrap();
    for agent in 0..AGENTS {
        let (replicas, change) = (replicas.clone(), change.clone());
        sim.add_node(node(agent), move |builder| {
            let mut config = SwarmConfig {
                preset: Preset::Local,
                zone: agent.into(),
                founders: 3,
                voters: (0..AGENTS).map(|agent| key(agent).public()).collect(),
                ..SwarmConfig::default()
            };
            change(&mut config);
            let swarm = Swarm::host(builder, &config, &key(agent)).unwrap();
            let raft = Raft::new(RaftConfig::default(), (0..AGENTS).map(node), Total::default()).unwrap();
            let raft = builder.host(ids::FIRST_FREE, raft);
            let pbft = (agent < REPLICAS).then(|| {
                let signer = Arc::new(key(agent));
                let pbft = Pbft::new(PbftConfig::default(), replicas.clone(), signer, Total::default()).unwrap();
                builder.host(ProtocolId(ids::FIRST_FREE.0 + 1), pbft)
            });
            let joined = swarm.join([node((agent + 1) % AGENTS)]);
            assert!(joined.now_or_never().is_none(), "it is answered once the node runs");
            Agent { swarm, raft, pbft }
        });
    }
    sim
}

fn status(sim: &mut Sim<Agent>, agent: u8) -> Status {
    let Agent { swarm, raft, pbft } = sim.handle(node(agent)).clone();
    let asked = async move {
        let status = swarm.status().await.unwrap().with_raft(&raft.status().await.unwrap());
        match pbft {
            Some(pbft) => status.with_pbft(&pbft.status().await.unwrap().unwrap()),
            None => status,
        }
    };
    sim.wait(SECOND, asked).expect("it answers")
}

fn until(sim: &mut Sim<Agent>, agent: u8, what: &str, wanted: impl Fn(&Status) -> bool) -> Status {
    let end = sim.now() + PATIENCE;
    loop {
        let status = status(sim, agent);
        if wanted(&status) {
            return status;
        }
        assert!(sim.now() < end, "{what}: {status:?}");
        sim.run_for(SECOND / 10);
    }
}

fn nodes(agents: impl IntoIterator<Item = u8>) -> BTreeSet<NodeId> {
    agents.into_iter().map(node).collect()
}

/// A mesh in which all agents know each other and may go on.
fn whole() -> Sim<Agent> {
    let mut sim = mesh();
    for agent in 0..AGENTS {
        until(&mut sim, agent, "all know each other and go on", |status| {
            let leader = status.raft.as_ref().and_then(|raft| raft.leader);
            let links = status.links.len() == usize::from(AGENTS) - 1;
            status.goes_on() && status.members.live().count() == usize::from(AGENTS) && links && leader.is_some()
        });
    }
    sim
}

#[test]
fn every_module_of_an_agent_is_in_its_status() {
    let mut sim = whole();
    let all: Vec<_> = (0..AGENTS).map(|agent| status(&mut sim, agent)).collect();
    for (agent, status) in (0..).zip(&all) {
        assert_eq!(
            (status.node, status.zone, status.members.alive.first()),
            (node(agent), agent.into(), Some(&node(agent)))
        );
        assert_eq!(status.members.live().collect::<BTreeSet<_>>(), nodes(0..AGENTS));
        assert_eq!((status.members.gone().count(), status.members.failed.len()), (0, 0));
        assert_eq!((status.partition.reachable, status.partition.known), (4, 4));
        let others: BTreeSet<_> = status.links.iter().map(|link| (link.node, link.zone)).collect();
        let expected = (0..AGENTS).filter(|other| *other != agent).map(|other| (node(other), other.into()));
        assert_eq!(others, expected.collect());
        let raft = status.raft.as_ref().unwrap();
        assert_eq!(raft.voters.iter().copied().collect::<BTreeSet<_>>(), nodes(0..AGENTS));
        assert_eq!(raft.role == Role::Leader, raft.leader == Some(node(agent)));
        assert_eq!(status.pbft.is_some(), agent < REPLICAS);
        assert_eq!(status.ballots.as_ref().map(|ballots| ballots.voters), Some(AGENTS.into()));
        assert!(status.metric("frames_in") > 0 && status.metric("no such number") == 0);
        assert_eq!(status.metric("partition_continues"), 1);
    }
    let leaders: BTreeSet<_> = all.iter().map(|status| status.raft.as_ref().unwrap().leader).collect();
    let primaries: BTreeSet<_> = all.iter().filter_map(|status| Some(status.pbft.as_ref()?.primary)).collect();
    assert_eq!((leaders.len(), primaries), (1, nodes([0])));
}

#[test]
fn tasks_memory_commands_and_votes_are_counted() {
    let mut sim = whole();
    let Agent { swarm, raft, pbft } = sim.handle(node(1)).clone();
    let before = status(&mut sim, 1);
    assert_eq!((before.pool.queued, before.pool.running, before.pool.load), (0, 0, None));
    let tasks = async { (swarm.pool.submit(TaskSpec::new("a")).await, swarm.pool.submit(TaskSpec::new("b")).await) };
    let (first, second) = sim.wait(SECOND, tasks).unwrap();
    first.unwrap();
    second.unwrap();
    let job = sim.wait(SECOND, swarm.pool.take()).unwrap().unwrap();
    let busy = until(&mut sim, 1, "one waits and one runs", |status| status.pool.running == 1);
    assert_eq!((busy.pool.queued, busy.pool.slots, busy.pool.load, busy.pool.held), (1, 1, Some(2.0), 1));
    sim.wait(SECOND, swarm.pool.finish(job.token, Ok("done".into()))).unwrap().unwrap();
    let done = until(&mut sim, 1, "the other one waits", |status| status.pool.running == 0);
    assert_eq!(done.pool.queued, 1);
    assert!(done.histograms["tasks_wait_nanos"].count >= 1);

    sim.wait(SECOND, swarm.store.put("notes", "key", "value")).unwrap().unwrap();
    let kept = status(&mut sim, 1);
    assert_eq!(kept.memory.keys, before.memory.keys + 1);
    assert!(kept.memory.bytes > before.memory.bytes && kept.memory.digest != before.memory.digest);
    let digest = kept.memory.digest;
    until(&mut sim, 4, "all have the same", |status| status.memory.digest == digest);

    let committed = |status: &Status| status.raft.as_ref().unwrap().commit_index;
    let executed = |status: &Status| status.pbft.as_ref().unwrap().executed;
    let leader = before.raft.as_ref().unwrap().leader.unwrap();
    let raft = if leader == node(1) { raft } else { sim.handle(leader).raft.clone() };
    sim.wait(PATIENCE, raft.propose(3)).unwrap().unwrap();
    until(&mut sim, 1, "it is committed", |status| committed(status) > committed(&before));
    sim.wait(PATIENCE, pbft.unwrap().propose(3)).unwrap().unwrap();
    until(&mut sim, 1, "it is executed", |status| executed(status) > executed(&before));

    let (ballots, electorate) = swarm.ballots.clone().unwrap();
    sim.wait(SECOND, ballots.propose(Draft::new(&electorate, "shall we?"))).unwrap().unwrap();
    let counted = |status: &Status| status.ballots.as_ref().map(|ballots| (ballots.open, ballots.decided));
    until(&mut sim, 3, "it is put to the vote", |status| counted(status) == Some((1, 0)));
    for agent in 0..AGENTS {
        let (ballots, _) = sim.handle(node(agent)).swarm.ballots.clone().unwrap();
        let ballot = sim.wait(SECOND, ballots.list()).unwrap().unwrap()[0].ballot;
        sim.wait(SECOND, ballots.vote(ballot, Choice::Approve)).unwrap().unwrap();
    }
    until(&mut sim, 3, "it is decided", |status| counted(status) == Some((0, 1)));
}

#[test]
fn what_all_have_in_the_mean_and_that_one_takes_no_more_is_told() {
    let mut sim = whole();
    // Two agents execute something, and are asked how they are: one for its status, one for a reading.
    for agent in [1, 3] {
        let pool = sim.handle(node(agent)).swarm.pool.clone();
        sim.wait(SECOND, pool.submit(TaskSpec::new("a"))).unwrap().unwrap();
        sim.wait(SECOND, pool.take()).unwrap().unwrap();
    }
    assert_eq!(status(&mut sim, 1).pool.load, Some(1.0));
    let (busy, now) = (sim.handle(node(3)).swarm.clone(), sim.clock(node(3)));
    sim.wait(SECOND, async move { busy.read(now).await }).unwrap().unwrap();
    let about = |value: Option<f64>, expected: f64| value.is_some_and(|value| (value - expected).abs() < 0.01);
    until(&mut sim, 2, "two of five agents are busy", |status| {
        about(status.all.agents, 5.0) && about(status.all.load, 0.4)
    });

    let pool = sim.handle(node(2)).swarm.pool.clone();
    assert!(!status(&mut sim, 2).pool.draining);
    sim.wait(PATIENCE, pool.drain(SECOND)).expect("it ends").unwrap();
    assert!(status(&mut sim, 2).pool.draining);
    pool.cast(PoolCommand::Undrain).unwrap();
    assert!(!status(&mut sim, 2).pool.draining);
}

#[test]
fn who_is_suspected_down_back_cut_off_or_gone_is_seen() {
    let mut sim = whole();
    sim.crash(node(4));
    until(&mut sim, 0, "it is suspected", |status| status.members.suspected == [node(4)]);
    let down = until(&mut sim, 0, "it is down", |status| status.members.down == [node(4)]);
    assert_eq!(down.members.live().collect::<BTreeSet<_>>(), nodes(0..4));
    until(&mut sim, 0, "a quorum confirms that", |status| status.members.failed == [node(4)]);
    until(&mut sim, 0, "there is no link to it", |status| status.links.iter().all(|link| link.node != node(4)));
    sim.restart(node(4));
    until(&mut sim, 0, "it is back", |status| status.members.live().count() == 5 && status.members.failed.is_empty());

    let (few, most) = ([node(0), node(4)], [node(1), node(2), node(3)]);
    sim.partition(&[&few, &most]);
    let cut_off = until(&mut sim, 0, "it may only read", |status| !status.goes_on() && status.partition.partitioned);
    assert_eq!((cut_off.partition.mode, cut_off.metric("partition_continues")), (Mode::ReadOnly, 0));
    until(&mut sim, 1, "the others go on", |status| status.goes_on() && status.partition.reachable == 2);
    sim.heal();
    let healed = until(&mut sim, 0, "it may go on", |status| {
        status.goes_on() && status.partition.reachable == 4 && status.partition.last_recovery_ms.is_some()
    });
    assert!(!healed.partition.partitioned);

    let leaver = sim.handle(node(4)).swarm.clone();
    let left = async move { leaver.leave(SECOND).await };
    sim.wait(PATIENCE, left).expect("it answers").unwrap();
    until(&mut sim, 1, "it has left", |status| status.members.left == [node(4)] && status.members.gone().count() == 1);
}

#[test]
fn json_reads_back_as_it_was_and_what_it_lacks_has_its_default() {
    let mut sim = whole();
    for agent in [0, 4] {
        let status = status(&mut sim, agent);
        let json = serde_json::to_string(&status).unwrap();
        assert_eq!(serde_json::from_str::<Status>(&json).unwrap(), status);
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["node"], node(agent).to_string());
        assert_eq!(value["partition"]["mode"], "continue");
        assert_eq!(value["pbft"].is_null(), agent == 4);
    }
    let other = r#"{"node": "n3", "of a later version": [1], "raft": {"role": "pre_candidate"}}"#;
    let read: Status = serde_json::from_str(other).unwrap();
    assert_eq!(
        (read.node, read.raft.unwrap().role, read.partition.mode),
        (NodeId(3), Role::PreCandidate, Mode::ReadOnly)
    );
    assert!(serde_json::from_str::<Status>(r#"{"node": "three"}"#).is_err());
}

#[test]
fn no_more_agents_are_known_than_may_be() {
    let mut sim = mesh_with(|config| (config.max_agents, config.voters) = (3, Vec::new()));
    sim.run_for(20 * SECOND);
    for agent in 0..AGENTS {
        let known = status(&mut sim, agent).members.live().count();
        assert!((2..=3).contains(&known), "agent {agent} knows {known}");
    }
}

#[test]
fn a_strategy_is_the_policy_of_all_tasks_that_have_none() {
    for (strategy, counter) in [(Strategy::Auction, "tasks_awards"), (Strategy::Specialized, "tasks_routed")] {
        let mut sim = mesh_with(move |config| config.strategy = strategy);
        until(&mut sim, 0, "all know each other and go on", |status| {
            status.goes_on() && status.members.live().count() == usize::from(AGENTS)
        });
        let worker = sim.handle(node(1)).swarm.pool.clone();
        let taken = worker.take();
        sim.run_for(SECOND);
        let pool = sim.handle(node(0)).swarm.pool.clone();
        sim.wait(SECOND, pool.submit(TaskSpec::new("a"))).unwrap().unwrap();
        sim.wait(PATIENCE, taken).expect("it is given the task").unwrap();
        assert!(status(&mut sim, 0).metric(counter) > 0, "{strategy:?}");
    }
}

#[test]
fn an_agent_is_watched_at_an_interval_until_that_is_enough() {
    let mut sim = whole();
    let (swarm, clock) = (sim.handle(node(2)).swarm.clone(), SimClock::default());
    let (mut history, begin) = (History::default(), sim.now());
    {
        let watching = swarm.watch(&clock, 2 * SECOND, |reading| {
            history.record(reading);
            if history.report(PATIENCE).samples == 4 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        let mut watching = std::pin::pin!(watching);
        loop {
            clock.set(sim.clock(node(2)));
            match (&mut watching).now_or_never() {
                Some(watched) => break watched.unwrap(),
                None => sim.run_for(SECOND / 100),
            }
            assert!(sim.now() < begin + PATIENCE, "it does not end");
        }
    }
    let report = history.report(PATIENCE);
    assert_eq!((report.samples, report.timeframe_s.round()), (4, 6.0));
    let took = sim.now().since(begin);
    assert!((6 * SECOND..7 * SECOND).contains(&took), "{took:?}");
    assert_eq!(report.value(Metric::Connectivity), Some(100.0));
}
