//! Processes are killed with SIGKILL, again and again, while clients write: nothing that was
//! acknowledged may be lost, and all nodes must hold the same in the end.

mod support;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use mesh_core::Rng64;
use mesh_examples::client::{Answer, NodeStatus, Request};
use mesh_examples::cluster::{Cluster, Router, hold_the_same};
use mesh_examples::store::StoreCommand;
use support::example;

const NODES: usize = 3;
const KILLS: usize = 50;
const WRITERS: usize = 4;

/// How long the nodes may take for anything; far more than they need, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn wait_for(cluster: &Cluster, what: &str, wanted: impl Fn(&[Option<NodeStatus>]) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let statuses = cluster.statuses();
        if wanted(&statuses) {
            return;
        }
        assert!(Instant::now() < deadline, "{what} did not come about: {statuses:?}");
        thread::park_timeout(Duration::from_millis(2));
    }
}

/// Asks until the outcome is known; writes of the same value may be repeated.
fn ask_until_done(router: &mut Router<'_>, request: &Request) -> Option<String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match router.ask(request) {
            Some(Answer::Done(value)) => return value,
            other => assert!(Instant::now() < deadline, "no answer in time, the last was {other:?}"),
        }
        thread::park_timeout(Duration::from_millis(2));
    }
}

#[test]
fn no_acknowledged_write_is_lost_to_fifty_kills() {
    let data = tempfile::tempdir().unwrap();
    let cluster = Cluster::create(example("kv"), data.path(), NODES).unwrap();
    (0..NODES).for_each(|at| cluster.start(at).unwrap());
    let done = AtomicBool::new(false);
    let acknowledged = AtomicU64::new(0);

    let written: Vec<u64> = thread::scope(|scope| {
        let writer = |writer: usize| {
            let (cluster, done, acknowledged) = (&cluster, &done, &acknowledged);
            scope.spawn(move || {
                let mut router = Router::new(cluster);
                let mut written = 0;
                while !done.load(Relaxed) {
                    let put = StoreCommand::Put { key: format!("{writer}/{written}"), value: format!("v{written}") };
                    ask_until_done(&mut router, &Request::Command(put));
                    written += 1;
                    acknowledged.fetch_add(1, Relaxed);
                }
                written
            })
        };
        let writers: Vec<_> = (0..WRITERS).map(writer).collect();
        let mut rng = Rng64::from_seed(7, "kills");
        for kill in 0..KILLS {
            // Something must have been written since the last kill, so that there is something to lose.
            let (before, deadline) = (acknowledged.load(Relaxed), Instant::now() + PATIENCE);
            while acknowledged.load(Relaxed) < before + 3 {
                assert!(Instant::now() < deadline, "nothing is written after {kill} kills");
                thread::park_timeout(Duration::from_millis(2));
            }
            let leader = cluster.statuses().iter().flatten().find(|s| s.leader == Some(s.node)).map(|s| s.node);
            let leader = leader.and_then(|leader| cluster.find(leader));
            // Every other time the leader, else anybody; now and then a majority at once.
            let mut victims = vec![match leader {
                Some(leader) if kill % 2 == 0 => leader,
                _ => rng.below(NODES as u64) as usize,
            }];
            if kill % 5 == 4 {
                victims.push((victims[0] + 1) % NODES);
            }
            victims.iter().for_each(|at| cluster.kill(*at).unwrap());
            victims.iter().for_each(|at| cluster.start(*at).unwrap());
        }
        done.store(true, Relaxed);
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });

    let mut router = Router::new(&cluster);
    for (writer, written) in written.iter().enumerate() {
        for n in 0..*written {
            let get = Request::Get { key: format!("{writer}/{n}"), stale_ms: None };
            let value = ask_until_done(&mut router, &get);
            assert_eq!(value, Some(format!("v{n}")), "the acknowledged write {writer}/{n} is lost");
        }
    }
    wait_for(&cluster, "equal stores", hold_the_same);
    assert_eq!(cluster.stop(), Vec::<String>::new());
}
