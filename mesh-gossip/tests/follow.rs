//! A transport's directory follows the membership, and the membership whom the transport finds.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use futures::FutureExt as _;
use mesh_core::{CallError, Directory, Handle, NodeId, ProtocolId};
use mesh_gossip::membership::{Membership, MembershipConfig, MembershipHandle as _, Profile, Status, follow};
use mesh_transport_mem::Sim;

const MEMBERS: ProtocolId = ProtocolId(1);
const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);
const THREE: NodeId = NodeId(3);
/// Never there.
const FOUR: NodeId = NodeId(4);

/// Where nodes are: by the words that they use of themselves.
#[derive(Clone, Default)]
struct Book(Arc<Mutex<Pages>>);

#[derive(Default)]
struct Pages {
    version: u64,
    lines: BTreeMap<NodeId, Vec<u8>>,
}

impl Book {
    fn change(&self, change: impl FnOnce(&mut BTreeMap<NodeId, Vec<u8>>)) {
        let mut pages = self.0.lock().unwrap();
        pages.version += 1;
        change(&mut pages.lines);
    }

    fn all(&self) -> BTreeMap<NodeId, Vec<u8>> {
        self.0.lock().unwrap().lines.clone()
    }
}

impl Directory for Book {
    fn hear(&self, node: NodeId, address: &[u8]) {
        self.change(|book| drop(book.insert(node, address.to_vec())));
    }
    fn forget(&self, node: NodeId) {
        self.change(|book| drop(book.remove(&node)));
    }
    fn nodes(&self) -> Vec<NodeId> {
        self.all().into_keys().collect()
    }
    async fn changed(&self, seen: u64) -> u64 {
        // It is polled again and again here.
        poll_fn(|_| match self.0.lock().unwrap().version {
            version if version > seen => Poll::Ready(version),
            _ => Poll::Pending,
        })
        .await
    }
}

fn mesh() -> Sim<Handle<Membership>> {
    let mut sim = Sim::new(1);
    for node in [ONE, TWO, THREE] {
        sim.add_node(node, move |builder| {
            let profile = Profile { address: format!("line {node}").into(), ..Profile::default() };
            let members = Membership::new(MembershipConfig::local()).unwrap().profile(&profile).unwrap();
            builder.host(MEMBERS, members)
        });
    }
    sim
}

fn join(sim: &mut Sim<Handle<Membership>>, node: NodeId, seed: NodeId) {
    let joined = sim.handle(node).join([seed]);
    assert!(matches!(sim.wait(Duration::from_secs(1), joined), Some(Ok(()))));
}

fn line(node: NodeId) -> Vec<u8> {
    format!("line {node}").into_bytes()
}

#[test]
fn whom_the_transport_finds_is_met_once_and_where_all_are_is_told_until_they_are_forgotten() {
    let (mut sim, book, met) = (mesh(), Book::default(), RefCell::<Vec<NodeId>>::default());
    let members = sim.handle(ONE).clone();
    let mut following = Box::pin(follow(&members, &book, |found: Vec<NodeId>| {
        met.borrow_mut().extend(&found);
        members.meet(found)
    }));
    let mut run = |sim: &mut Sim<Handle<Membership>>, until: &dyn Fn(&Sim<Handle<Membership>>) -> bool| {
        for _ in 0..1_000_000 {
            assert_eq!((&mut following).now_or_never(), None::<Result<(), CallError>>);
            if until(sim) {
                return;
            }
            sim.run_for(Duration::from_millis(50));
        }
        panic!("it has not come about after {:?}", sim.now());
    };

    join(&mut sim, THREE, TWO);
    sim.run_for(Duration::from_secs(1));
    run(&mut sim, &|_| true);
    assert!(met.borrow().is_empty() && book.all().is_empty(), "nobody is found by nobody");

    // The transport has found somebody at an address that it was told.
    book.hear(TWO, b"somewhere");
    run(&mut sim, &|_| book.all() == BTreeMap::from([(TWO, line(TWO)), (THREE, line(THREE))]));
    assert_eq!(*met.borrow(), [TWO], "who is heard of is a member already");
    for somewhere in ["nowhere", "nowhere else"] {
        book.hear(FOUR, somewhere.as_bytes());
        run(&mut sim, &|_| true);
    }
    assert_eq!(*met.borrow(), [TWO, FOUR], "the membership remembers whom it was to meet");

    // It says that it is somewhere else now.
    let elsewhere = Profile { address: "elsewhere".into(), ..Profile::default() };
    let said = sim.handle(TWO).set_profile(elsewhere);
    assert!(matches!(sim.wait(Duration::from_secs(1), said), Some(Ok(()))));
    run(&mut sim, &|_| book.all()[&TWO] == b"elsewhere");

    sim.kill(THREE);
    run(&mut sim, &|sim| sim.protocol::<Membership>(ONE, MEMBERS).unwrap().status_of(THREE).is_none());
    run(&mut sim, &|_| book.nodes() == [TWO, FOUR]);
    assert_eq!(*met.borrow(), [TWO, FOUR]);

    sim.stop(ONE);
    sim.run_for(Duration::from_secs(60));
    assert_eq!(following.now_or_never(), Some(Ok(())), "it ends with the node");
}

#[test]
fn who_follows_late_hears_of_all_who_are_there_and_who_loses_events_catches_up() {
    let (mut sim, book) = (mesh(), Book::default());
    join(&mut sim, ONE, TWO);
    sim.run_for(Duration::from_secs(10));
    let members = sim.handle(ONE).clone();
    let mut following = Box::pin(follow(&members, &book, |found: Vec<NodeId>| {
        panic!("{found:?} are members: nobody has to be met");
        #[allow(unreachable_code)]
        std::future::ready(Ok::<(), CallError>(()))
    }));
    for _ in 0..3 {
        assert_eq!((&mut following).now_or_never(), None);
        sim.run_for(Duration::from_millis(50));
    }
    assert_eq!(book.nodes(), [TWO]);

    join(&mut sim, THREE, TWO);
    sim.run_for(Duration::from_secs(10));
    // More is told than its queue holds while it is not polled.
    let mut is_told_much = |sim: &mut Sim<Handle<Membership>>| {
        for number in 0..5_000 {
            let profile = Profile { address: format!("line {number}").into(), ..Profile::default() };
            let said = sim.handle(TWO).set_profile(profile);
            assert!(matches!(sim.wait(Duration::from_secs(1), said), Some(Ok(()))));
            sim.run_for(Duration::from_millis(500));
        }
        for _ in 0..3 {
            assert_eq!((&mut following).now_or_never(), None);
            sim.run_for(Duration::from_millis(50));
        }
    };
    is_told_much(&mut sim);
    assert_eq!(book.all(), BTreeMap::from([(TWO, b"line 4999".to_vec()), (THREE, line(THREE))]));

    sim.kill(THREE);
    let is_forgotten = |sim: &Sim<Handle<Membership>>| {
        sim.protocol::<Membership>(ONE, MEMBERS).is_some_and(|members| members.status_of(THREE).is_none())
    };
    assert!(sim.run_until(Duration::from_secs(3 * 3600), is_forgotten));
    is_told_much(&mut sim);
    assert_eq!(book.nodes(), [TWO], "who was forgotten meanwhile is forgotten here");
}

#[test]
fn who_finds_its_node_busy_asks_again() {
    let (mut sim, book) = (mesh(), Book::default());
    join(&mut sim, ONE, TWO);
    sim.run_for(Duration::from_secs(10));
    let members = sim.handle(ONE).clone();
    let mut questions = 0;
    while !matches!(members.status().now_or_never(), Some(Err(CallError::Busy))) {
        questions += 1;
        assert!(questions < 100_000, "its queue has an end");
    }
    let mut following = Box::pin(follow(&members, &book, |found: Vec<NodeId>| members.meet(found)));
    for _ in 0..3 {
        assert_eq!((&mut following).now_or_never(), None, "it is busy, and has not stopped");
    }
    for _ in 0..3 {
        sim.run_for(Duration::from_millis(50));
        assert_eq!((&mut following).now_or_never(), None);
    }
    assert_eq!(book.nodes(), [TWO]);
}

#[test]
fn who_leaves_while_it_follows_is_gone_whomever_the_transport_finds() {
    let (mut sim, book) = (mesh(), Book::default());
    join(&mut sim, ONE, TWO);
    let members = sim.handle(ONE).clone();
    let mut following = Box::pin(follow(&members, &book, |found: Vec<NodeId>| members.meet(found)));
    let mut run = |sim: &mut Sim<Handle<Membership>>| {
        for _ in 0..20 {
            assert_eq!((&mut following).now_or_never(), None);
            sim.run_for(Duration::from_millis(50));
        }
    };
    run(&mut sim);
    let mut left = Box::pin(members.leave());
    for found in [THREE, FOUR] {
        // As it leaves, and when it has left.
        book.hear(found, b"somewhere");
        run(&mut sim);
        let own = sim.protocol::<Membership>(ONE, MEMBERS).unwrap().own().status;
        assert_eq!(own, Status::Left);
    }
    assert_eq!((&mut left).now_or_never(), Some(Ok(())));
}
