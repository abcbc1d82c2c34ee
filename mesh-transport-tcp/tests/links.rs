//! Honest nodes over real sockets.

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use common::{Node, Proxy, config, eventually, id, localhost, plain};
use mesh_core::{NodeId, PeerStatus, SendError, Transport as _};
use mesh_transport_tcp::{Allow, TcpConfig, TcpError, TcpTransport};

const FLUSH: Duration = Duration::from_secs(20);

#[test]
fn frames_of_all_sizes_arrive_whole_and_in_order() {
    for make in [config, plain] {
        let (mut a, b) = (Node::start(make(1)), Node::start(make(2)));
        a.knows(&b);
        let lens = [1, 100, 16_384, 1 << 20, 7, 4 << 20, 256 * 1024];
        let frames: Vec<Vec<u8>> = lens.iter().enumerate().map(|(n, len)| vec![n as u8; *len]).collect();
        assert!(frames.iter().all(|frame| a.send(b.id, frame)), "they fit the queue while it dials");
        eventually("all frames arrive", || b.frames_from(a.id).len() == frames.len());
        assert!(b.frames_from(a.id) == frames);
        assert_eq!(a.statuses_of(b.id), [PeerStatus::Connected]);
        assert_eq!(b.statuses_of(a.id), [PeerStatus::Connected]);
    }
}

#[test]
fn what_waits_goes_out_together() {
    let (mut a, b) = (Node::start(config(1)), Node::start(config(2)));
    a.knows(&b);
    a.deliver(&b, b"first");
    let before = a.stats();
    let mut sent = 0;
    while sent < 20_000 {
        sent += usize::from(a.send(b.id, &[1; 20]));
    }
    eventually("all arrive", || b.frames_from(a.id).len() >= sent);
    let after = a.stats();
    assert_eq!(after.frames_out - before.frames_out, 20_000);
    assert!(after.writes - before.writes < 5_000, "{} writes", after.writes - before.writes);
}

#[test]
fn what_cannot_be_sent_is_said_at_once() {
    let mut node = TcpTransport::bind(TcpConfig { frame_len_max: 1024, ..config(1) }).unwrap();
    let mut sender = node.sender();
    assert_eq!(sender.try_send(id(2), vec![1].into()), Err(SendError::Unreachable));
    assert_eq!(sender.try_send(id(2), vec![1; 1025].into()), Err(SendError::TooLong));
    assert_eq!(node.frame_len_max(), 1024);
    let control = node.control();
    assert_eq!(control.stats().dropped_unreachable, 1);

    let _ = futures::FutureExt::now_or_never(node.recv(&mut Vec::new()));
    node.close(FLUSH);
    control.address_book().set(id(2), [localhost()]);
    assert_eq!(sender.try_send(id(2), vec![1].into()), Err(SendError::Unreachable));
}

#[test]
fn a_port_in_use_is_a_clear_error() {
    let first = TcpTransport::bind(config(1)).unwrap();
    let taken = first.local_addr();
    let error = TcpTransport::bind(TcpConfig { listen: taken, ..config(2) }).unwrap_err();
    assert!(matches!(error, TcpError::AddressInUse { address } if address == taken), "{error}");
    assert!(error.to_string().contains("choose another"));
    drop(first);
    TcpTransport::bind(TcpConfig { listen: taken, ..config(2) }).unwrap();
}

#[test]
fn a_config_that_cannot_work_is_refused() {
    let error = TcpTransport::bind(TcpConfig { idle_timeout: Duration::ZERO, ..config(1) }).unwrap_err();
    assert!(matches!(error, TcpError::Config(_)));
}

#[test]
fn a_pinned_peer_is_found_again_after_its_restart() {
    let mut a = Node::start(config(1));
    let b = Node::start(config(2));
    let address = b.address;
    a.knows(&b);
    a.book().pin(b.id);
    eventually("linked", || a.is_linked_to(b.id));
    drop(b);
    eventually("the loss is seen", || !a.is_linked_to(id(2)));
    let b = Node::start(TcpConfig { listen: address, ..config(2) });
    eventually("linked again, without a frame sent", || a.is_linked_to(b.id));
    a.deliver(&b, b"again");
}

#[test]
fn an_address_may_change_while_the_node_runs() {
    let minute = Duration::from_secs(60);
    let patient = TcpConfig { backoff_min: minute, backoff_max: minute, peer_exchange: false, ..config(1) };
    let mut a = Node::start(patient);
    let b = Node::start(config(2));
    a.knows(&b);
    a.book().pin(b.id);
    a.deliver(&b, b"here");
    drop(b);
    eventually("the loss is seen", || !a.is_linked_to(id(2)));
    // Elsewhere, and nobody tells but the book: the long pause must not hold.
    let b = Node::start(config(2));
    a.knows(&b);
    a.deliver(&b, b"there");
}

#[test]
fn all_addresses_of_a_peer_are_tried() {
    let mut a = Node::start(TcpConfig {
        backoff_min: Duration::from_secs(60),
        backoff_max: Duration::from_secs(60),
        ..config(1)
    });
    let (b, stranger) = (Node::start(config(2)), Node::start(config(3)));
    let dead = {
        let listener = std::net::TcpListener::bind(localhost()).unwrap();
        listener.local_addr().unwrap()
    };
    a.book().set(b.id, [dead, stranger.address, b.address]);
    a.deliver(&b, b"found");
    assert_eq!(a.stats().refused_wrong_peer, 1);
}

#[test]
fn nodes_that_dial_each_other_at_once_settle_on_one_link() {
    for round in 0..10 {
        let (mut a, mut b) = (Node::start(config(1)), Node::start(config(2)));
        a.knows(&b);
        b.knows(&a);
        let (book_a, book_b) = (a.book(), b.book());
        let (id_a, id_b) = (a.id, b.id);
        std::thread::scope(|scope| {
            scope.spawn(|| book_a.pin(id_b));
            scope.spawn(|| book_b.pin(id_a));
        });
        eventually("one connection is left", || {
            a.is_linked_to(b.id) && b.is_linked_to(a.id) && a.stats().connections == 1 && b.stats().connections == 1
        });
        a.deliver(&b, &[round]);
        b.deliver(&a, &[round]);
        assert_eq!((a.stats().connections, b.stats().connections), (1, 1));
        assert_eq!(a.statuses_of(b.id), [PeerStatus::Connected], "the switch is not seen from outside");
        assert_eq!(b.statuses_of(a.id), [PeerStatus::Connected]);
    }
}

#[test]
fn a_link_that_is_dead_at_one_end_does_not_keep_a_new_one_out() {
    // Whichever of the two has the smaller id.
    for (stays, comes_back) in [(1, 2), (2, 1)] {
        let mut stays = Node::start(config(stays));
        let mut lost = Node::start(config(comes_back));
        let proxy = Proxy::to(stays.address);
        lost.book().set(stays.id, [proxy.address]);
        lost.deliver(&stays, b"before");
        proxy.swallow();
        drop(lost);
        // For the one that stays, the old link is still up.
        let mut back = Node::start(config(comes_back));
        back.knows(&stays);
        back.deliver(&stays, b"after");
        stays.deliver(&back, b"answer");
    }
}

#[test]
fn a_link_on_which_nothing_is_heard_is_given_up() {
    let quick = |seed| TcpConfig {
        keepalive_interval: Duration::from_millis(50),
        idle_timeout: Duration::from_millis(300),
        ..config(seed)
    };
    let (mut a, b) = (Node::start(quick(1)), Node::start(quick(2)));
    let proxy = Proxy::to(b.address);
    a.book().set(b.id, [proxy.address]);
    a.deliver(&b, b"hello");
    proxy.swallow();
    eventually("both notice", || !a.is_linked_to(b.id) && !b.is_linked_to(a.id));
    assert_eq!((a.stats().closed_idle, b.stats().closed_idle), (1, 1));
}

#[test]
fn signs_of_life_keep_an_idle_link_up() {
    let quick = |seed| TcpConfig {
        keepalive_interval: Duration::from_millis(10),
        idle_timeout: Duration::from_millis(300),
        ..config(seed)
    };
    let (mut a, b) = (Node::start(quick(1)), Node::start(quick(2)));
    a.knows(&b);
    a.deliver(&b, b"hello");
    let before = a.stats().bytes_in;
    eventually("many signs of life came", || a.stats().bytes_in > before + 100 * 26);
    assert_eq!(a.statuses_of(b.id), [PeerStatus::Connected]);
}

/// A node that takes nothing from its transport.
fn deaf(seed: u8) -> TcpTransport {
    TcpTransport::bind(TcpConfig { inbound_bytes_max: 256 * 1024, ..config(seed) }).unwrap()
}

#[test]
fn a_peer_that_does_not_read_is_congested_and_nobody_else_suffers() {
    let mut a = Node::start(TcpConfig { frame_len_max: 64 * 1024, queue_bytes_max: 1 << 20, ..config(1) });
    let (mut slow, brisk) = (deaf(2), Node::start(config(3)));
    a.book().set(id(2), [slow.local_addr()]);
    a.knows(&brisk);
    eventually("the slow one is congested", || {
        a.send(id(2), &[0; 60_000]);
        a.statuses_of(id(2)).contains(&PeerStatus::Congested)
    });
    assert!(a.stats().dropped_congested > 0);
    for round in 0..50_u8 {
        a.deliver(&brisk, &[round; 1000]);
    }
    assert!(!a.statuses_of(id(2)).contains(&PeerStatus::Writable));

    // It reads again: its kernel makes room, and ours, and the node is told.
    let mut inbox = Vec::with_capacity(64);
    eventually("the slow one is writable again", || {
        inbox.clear();
        let _ = futures::FutureExt::now_or_never(slow.recv(&mut inbox));
        a.statuses_of(id(2)).contains(&PeerStatus::Writable)
    });
    assert_eq!(a.statuses_of(id(2)), [PeerStatus::Connected, PeerStatus::Congested, PeerStatus::Writable]);
}

#[test]
fn a_graceful_close_sends_all_that_was_queued() {
    for make in [config, plain] {
        let (mut a, b) = (Node::start(make(1)), Node::start(make(2)));
        a.knows(&b);
        a.deliver(&b, b"linked");
        let mut sent = 0;
        while a.send(b.id, &[9; 30_000]) {
            sent += 1;
        }
        assert!(sent > 100);
        let from = a.id;
        a.close(FLUSH);
        eventually("all arrive", || b.frames_from(from).iter().filter(|frame| frame.len() == 30_000).count() == sent);
        eventually("the end is seen", || !b.is_linked_to(from));
    }
}

#[test]
fn closing_takes_no_longer_than_allowed() {
    let mut a = Node::start(config(1));
    let slow = deaf(2);
    a.book().set(id(2), [slow.local_addr()]);
    eventually("the queue is full", || !a.send(id(2), &[0; 1 << 20]) && a.is_linked_to(id(2)));
    a.close(Duration::from_millis(50));
}

#[test]
fn nodes_told_of_one_seed_find_all_others() {
    let seed = Node::start(config(1));
    let mut nodes: Vec<Node> = (2..=5)
        .map(|n| {
            let node = Node::start(config(n));
            node.book().add_seed(seed.address);
            node
        })
        .collect();
    let all: BTreeSet<NodeId> = (1..=5).map(id).collect();
    for node in nodes.iter().chain([&seed]) {
        let others: BTreeSet<NodeId> = all.iter().copied().filter(|other| *other != node.id).collect();
        eventually("all others are known", || node.book().peers().into_keys().collect::<BTreeSet<_>>() == others);
    }
    let to = nodes.remove(3);
    for node in &mut nodes {
        node.deliver(&to, b"found you");
    }
}

#[test]
fn a_seed_that_starts_late_is_waited_for_and_ones_own_address_is_no_seed() {
    let address = {
        let listener = std::net::TcpListener::bind(localhost()).unwrap();
        listener.local_addr().unwrap()
    };
    let node = Node::start(config(2));
    node.book().add_seed(address);
    eventually("it has tried", || node.stats().dials_failed > 2);
    let seed = Node::start(TcpConfig { listen: address, ..config(1) });
    seed.book().add_seed(address);
    eventually("linked", || node.is_linked_to(seed.id));
    assert_eq!(seed.stats().dialed, 0);
    // A seed that went away is asked again when nobody else is left.
    drop(seed);
    eventually("alone", || !node.is_linked_to(id(1)));
    let seed = Node::start(TcpConfig { listen: address, ..config(9) });
    eventually("linked with whoever lives there now", || node.is_linked_to(seed.id));
}

#[test]
fn without_peer_exchange_nobody_is_told_of_others() {
    let quiet = |seed| TcpConfig { peer_exchange: false, ..config(seed) };
    let seed = Node::start(quiet(1));
    let mut nodes = [2, 3].map(|n| Node::start(quiet(n)));
    for node in &mut nodes {
        node.book().add_seed(seed.address);
        eventually("linked", || node.is_linked_to(seed.id));
        node.deliver(&seed, b"hello");
    }
    assert_eq!(nodes[0].book().peers().len(), 1);
    assert_eq!(seed.book().addresses(id(3)), [nodes[1].address], "what a node says of itself is known");
}

#[test]
fn the_least_recently_used_link_makes_room_unless_pinned() {
    let mut hub = Node::start(TcpConfig { connections_max: 3, peer_exchange: false, ..config(1) });
    let mut nodes: Vec<Node> = (2..=5).map(|n| Node::start(config(n))).collect();
    for node in &nodes {
        hub.knows(node);
    }
    hub.book().pin(id(2));
    eventually("pinned", || hub.is_linked_to(id(2)));
    for node in &nodes[1..] {
        hub.deliver(node, b"hello");
    }
    eventually("the oldest unpinned is closed", || !hub.is_linked_to(id(3)));
    assert!(hub.is_linked_to(id(2)) && hub.is_linked_to(id(4)) && hub.is_linked_to(id(5)));
    assert_eq!(hub.stats().closed_least_recently_used, 1);
    // It may come back when it has something to say.
    nodes[1].knows(&hub);
    let mut back = nodes.remove(1);
    back.deliver(&hub, b"me again");
}

#[test]
fn the_allow_list_may_change_while_the_node_runs() {
    let mut a = Node::start(TcpConfig { allow: Allow::Listed([id(2)].into()), ..config(1) });
    let (mut b, mut c) = (Node::start(config(2)), Node::start(config(3)));
    for node in [&b, &c] {
        node.knows(&a);
    }
    b.deliver(&a, b"allowed");
    c.book().pin(a.id);
    eventually("the other is refused", || a.stats().refused_not_allowed > 0);
    assert!(!c.is_linked_to(a.id));

    a.control.set_allow(Allow::Listed([id(3)].into()));
    eventually("the first is closed", || !a.is_linked_to(id(2)));
    c.deliver(&a, b"now I am");
    a.deliver(&c, b"so you are");
    assert!(!b.send(a.id, b"x") || !a.is_linked_to(b.id));
}
