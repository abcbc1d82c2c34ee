//! Stories of one node.

use mesh_core::{Harness, Rng64, wire};

use super::*;

const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);

fn node(config: MonitorConfig) -> (Harness<Monitor>, Metrics) {
    let metrics = Metrics::default();
    (Harness::new(NodeId(0), Monitor::new(config, &metrics).unwrap()), metrics)
}

fn think(node: &mut Harness<Monitor>, of: u128, opinion: Opinion) {
    node.command(MonitorCommand::Opinion { node: NodeId(of), opinion });
}

fn report(origin: NodeId, life: u64, number: u64, age: Duration) -> Report {
    Report {
        origin,
        life,
        number,
        age,
        known: 1,
        reachable: 1,
        latency_us: 0,
        frames_out_per_s: 0,
        suspicions: 0,
        opinions: Vec::new(),
    }
}

fn kept(node: &Harness<Monitor>) -> Vec<(NodeId, u64, u64)> {
    node.protocol.reports.values().map(|kept| (kept.report.origin, kept.report.life, kept.report.number)).collect()
}

#[test]
fn half_of_a_round_trip_is_the_latency_and_echoes_of_others_are_none() {
    let (mut node, metrics) = node(MonitorConfig::default());
    think(&mut node, 1, Opinion::Alive);
    node.pass(Duration::from_secs(3));
    let sent = node.sent();
    let [(A, Message::Reports { sent, .. })] = &sent[..] else { panic!("{sent:?}") };
    let late = node.protocol.seal(Instant::ZERO + Duration::from_secs(1_000_000));
    node.receive(A, Message::Echo { sent: late });
    assert_eq!(metrics.histograms()["network_latency_nanos"].count(), 0);
    node.pass(Duration::from_millis(20));
    node.receive(A, Message::Echo { sent: *sent });
    let latency = node.protocol.status().latency_mean;
    assert!(latency >= Duration::from_millis(10) && latency < Duration::from_secs(2), "{latency:?}");
    node.pass(Duration::from_secs(61));
    node.receive(A, Message::Echo { sent: *sent });
    assert_eq!(metrics.histograms()["network_latency_nanos"].count(), 1, "that was too long ago");
}

#[test]
fn strangers_are_not_heard_and_this_node_is_not_its_own_peer() {
    let (mut node, metrics) = node(MonitorConfig::default());
    think(&mut node, 1, Opinion::Alive);
    think(&mut node, 0, Opinion::Down);
    assert_eq!((node.protocol.status().known, node.protocol.opinion_of(NodeId(0))), (1, None));
    let reports = vec![report(A, 1, 1, Duration::ZERO)];
    node.receive(B, Message::Reports { sent: 0, reports: reports.clone() });
    assert_eq!((node.sent(), kept(&node), metrics.snapshot()["network_strangers"]), (vec![], vec![], 1));
    node.receive(A, Message::Reports { sent: 7, reports });
    assert_eq!((node.sent(), kept(&node)), (vec![(A, Message::Echo { sent: 7 })], vec![(A, 1, 1)]));
    // A peer that left takes its report along.
    node.command(MonitorCommand::RemovePeer(A));
    assert_eq!(kept(&node), []);
}

#[test]
fn the_least_told_is_passed_on_first_then_the_youngest_as_old_as_it_is_by_now_and_no_more_than_fits() {
    let (mut node, _) = node(MonitorConfig::default());
    let wide = |peer: u128| NodeId(u128::MAX - peer);
    (1..=3).for_each(|peer| think(&mut node, wide(peer).0, Opinion::Alive));
    (4..=15).for_each(|peer| think(&mut node, wide(peer).0, Opinion::Down));
    node.pass(Duration::from_secs(10));
    for (peer, age) in [(1, 9), (2, 5), (3, 7)] {
        // As long as there may be: a second one does not fit.
        let opinions = vec![(wide(0), Opinion::Down); OPINIONS_MAX];
        let report = Report { opinions, ..report(wide(peer), u64::MAX, 1, Duration::from_secs(age)) };
        node.receive(wide(1), Message::Reports { sent: 0, reports: vec![report] });
    }
    node.sent();
    let mut passed_on = Vec::new();
    for seconds in 1..=9 {
        node.pass(Duration::from_secs(1));
        let sent = node.sent();
        assert!(sent.len() <= 2, "the fan-out");
        for (_, message) in sent {
            assert!(wire::to_bytes(&message).len() + FRAME_OVERHEAD <= 1400);
            let Message::Reports { reports, .. } = message else { panic!("{message:?}") };
            let [_, report] = &reports[..] else { panic!("{reports:?}") };
            passed_on.push(u128::MAX - report.origin.0);
            let made = Duration::from_secs([9, 5, 7][(passed_on[passed_on.len() - 1] - 1) as usize]);
            let late = (made + Duration::from_secs(seconds)).abs_diff(report.age);
            assert!(late <= Duration::from_secs(1), "{report:?}");
        }
    }
    assert_eq!(passed_on, [2, 3, 1, 2, 3, 1]);
}

#[test]
fn a_message_has_as_many_reports_as_decode_and_those_who_are_down_come_first() {
    let (mut node, _) = node(MonitorConfig::default());
    for peer in 1..=200 {
        think(&mut node, peer, if peer == 200 { Opinion::Down } else { Opinion::Suspect });
        let reports = vec![report(NodeId(peer), 1, 1, Duration::ZERO)];
        node.receive(A, Message::Reports { sent: 0, reports });
    }
    node.sent();
    node.pass(Duration::from_secs(3));
    let (_, message) = node.sent().remove(0);
    assert_eq!(wire::from_bytes(&wire::to_bytes(&message)), Ok(message.clone()));
    let Message::Reports { reports, .. } = message else { panic!("{message:?}") };
    assert_eq!(reports.len(), REPORTS_MAX);
    assert_eq!(reports[0].opinions[0], (NodeId(200), Opinion::Down));
}

#[test]
fn newer_reports_replace_older_ones_by_number_and_by_age_over_lives() {
    let (mut node, metrics) = node(MonitorConfig::default());
    think(&mut node, 1, Opinion::Alive);
    think(&mut node, 2, Opinion::Alive);
    node.pass(Duration::from_secs(100));
    let told = |node: &mut Harness<Monitor>, report: Report| {
        node.receive(B, Message::Reports { sent: 0, reports: vec![report] });
        kept(node)
    };
    let second = Duration::from_secs(1);
    assert_eq!(told(&mut node, report(A, 5, 7, second)), [(A, 5, 7)]);
    assert_eq!(told(&mut node, report(A, 5, 6, Duration::ZERO)), [(A, 5, 7)], "an older one, late");
    let before = node.protocol.reports(node.now());
    assert_eq!(told(&mut node, report(A, 5, 7, Duration::ZERO)), [(A, 5, 7)]);
    assert_eq!(node.protocol.reports(node.now()), before, "the same once more makes it no younger");
    assert_eq!(told(&mut node, report(A, 4, 99, 2 * second)), [(A, 5, 7)], "of a life before");
    assert_eq!(told(&mut node, report(A, 6, 1, Duration::ZERO)), [(A, 6, 1)], "of the next life");
    assert_eq!(told(&mut node, report(A, 7, 1, Duration::MAX)), [(A, 6, 1)], "older than may be");
    assert_eq!(told(&mut node, report(B, 1, 1, 61 * second)), [(A, 6, 1)], "so is the first of another");
    assert_eq!(told(&mut node, report(NodeId(9), 1, 1, second)), [(A, 6, 1)], "of a stranger");
    assert_eq!(told(&mut node, report(NodeId(0), 1, 1, second)), [(A, 6, 1)], "of this node");
    assert_eq!(metrics.snapshot()["network_strangers"], 1);
    node.pass(Duration::from_secs(70));
    assert_eq!(kept(&node), []);
}

#[test]
fn packets_are_bounded_and_all_reports_have_their_turn() {
    let (mut node, _) = node(MonitorConfig { fanout: 1, ..MonitorConfig::default() });
    for peer in 1..=200 {
        think(&mut node, peer, if peer % 3 == 0 { Opinion::Down } else { Opinion::Alive });
    }
    for peer in 1..=200 {
        let reports = vec![report(NodeId(peer), 1, 1, Duration::ZERO)];
        node.receive(A, Message::Reports { sent: 0, reports });
    }
    node.sent();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..20 {
        node.pass(Duration::from_secs(3));
        for (to, message) in node.sent() {
            assert_ne!(to.0 % 3, 0, "it is down");
            assert!(wire::to_bytes(&message).len() + FRAME_OVERHEAD <= 1400);
            let Message::Reports { reports, .. } = message else { continue };
            assert_eq!(reports[0].opinions.len(), OPINIONS_MAX);
            seen.extend(reports.iter().map(|report| report.origin));
        }
    }
    assert_eq!(seen.len(), 201);
}

#[test]
fn status_tells_connectivity_suspicions_recovery_and_who_dissents() {
    let (mut node, metrics) = node(MonitorConfig::default());
    for (of, opinion) in [(1, Opinion::Alive), (2, Opinion::Suspect), (3, Opinion::Down)] {
        think(&mut node, of, opinion);
    }
    node.receive(A, Message::Reports { sent: 0, reports: vec![report(A, 1, 1, Duration::ZERO)] });
    node.command(MonitorCommand::Recovered { recovery: Duration::from_millis(1_234) });
    let status = node.protocol.status();
    assert_eq!((status.known, status.reachable, status.connectivity_percent), (3, 2, 75.0));
    assert_eq!((status.suspicions, status.recoveries, status.reports, status.dissenting), (1, 1, 1, 1));
    assert_eq!(status.last_recovery, Some(Duration::from_millis(1_234)));
    let counted = metrics.snapshot();
    assert_eq!((counted["network_connectivity_permille"], counted["network_recovery_ms"]), (750, 1_234));
    node.command(MonitorCommand::RemovePeer(NodeId(3)));
    assert_eq!(node.protocol.status().dissenting, 0);
}

#[test]
fn no_more_is_kept_than_may_be() {
    let (mut node, _) = node(MonitorConfig { peers_max: 5, reports_max: 2, ..MonitorConfig::default() });
    node.pass(Duration::from_secs(50));
    (1..=6).for_each(|peer| think(&mut node, peer, Opinion::Alive));
    let refused = MonitorReply::Done(Err(MonitorError::TooManyPeers { limit: 5 }));
    assert_eq!(node.replies().pop().map(|(_, reply)| reply), Some(refused));
    for (peer, age) in [(1, 9), (2, 7), (3, 5)] {
        let reports = vec![report(NodeId(peer), 1, 1, Duration::from_secs(age))];
        node.receive(A, Message::Reports { sent: 0, reports });
    }
    assert_eq!(kept(&node), [(NodeId(2), 1, 1), (NodeId(3), 1, 1)], "the oldest made room");
    // Those that are known need none.
    node.receive(A, Message::Reports { sent: 0, reports: vec![report(NodeId(3), 1, 2, Duration::ZERO)] });
    assert_eq!(kept(&node), [(NodeId(2), 1, 1), (NodeId(3), 1, 2)]);
    think(&mut node, 5, Opinion::Down);
    assert_eq!(node.protocol.opinion_of(NodeId(5)), Some(Opinion::Down));
}

#[test]
fn configurations_that_cannot_work_are_refused() {
    assert_eq!(MonitorConfig::default().validate(), Ok(()));
    let default = MonitorConfig::default;
    for config in [
        MonitorConfig { interval: Duration::ZERO, ..default() },
        MonitorConfig { lifetime: Duration::from_secs(1), ..default() },
        MonitorConfig { packet_len_max: 100, ..default() },
        MonitorConfig { fanout: 0, ..default() },
        MonitorConfig { interval: Duration::MAX, ..default() },
        MonitorConfig { interval: Duration::MAX, lifetime: Duration::MAX, ..default() },
        MonitorConfig { packet_len_max: usize::MAX, ..default() },
        MonitorConfig { fanout: usize::MAX, ..default() },
    ] {
        assert!(config.validate().is_err(), "{config:?}");
    }
    let many = MonitorConfig { peers_max: usize::MAX, reports_max: usize::MAX, ..default() };
    assert_eq!(many.validate(), Ok(()));
}

#[test]
fn how_many_can_be_reached_is_as_counted_anew_whatever_opinions_come_in_what_order() {
    let mut rng = Rng64::from_seed(1, "opinions");
    let (mut node, metrics) = node(MonitorConfig { peers_max: 20, ..MonitorConfig::default() });
    let mut reached = [0; 21];
    for _ in 0..5_000 {
        let of = u128::from(rng.below(25));
        match *rng.choose(&[Some(Opinion::Alive), Some(Opinion::Suspect), Some(Opinion::Down), None]).unwrap() {
            Some(opinion) => think(&mut node, of, opinion),
            None => drop(node.command(MonitorCommand::RemovePeer(NodeId(of)))),
        }
        let opinions = || (0..25).filter_map(|of| node.protocol.opinion_of(NodeId(of)));
        let (known, up) = (opinions().count(), opinions().filter(|opinion| *opinion != Opinion::Down).count());
        let status = node.protocol.status();
        assert_eq!((status.known, status.reachable), (known, up));
        let permille = 1000 * (up as u64 + 1) / (known as u64 + 1);
        assert!(metrics.snapshot()["network_connectivity_permille"].abs_diff(permille) <= 1);
        reached[up] += 1;
    }
    assert!(reached[5..15].iter().all(|count| *count > 0), "{reached:?}");
}
