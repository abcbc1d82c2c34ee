//! Section D: what survives crashes.

mod support;

use std::time::Duration;

use support::Cluster;

#[test]
fn a_group_that_goes_down_as_a_whole_comes_back_with_all_it_committed() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.await_leader(Duration::from_secs(10));
    let requests: Vec<_> = (0..100).map(|command| cluster.propose(leader, command)).collect();
    cluster.pass(Duration::from_secs(1));
    assert!(requests.iter().all(|request| matches!(cluster.reply(leader, *request), Some(Ok(_)))));
    assert!((1..=3).all(|number| cluster.journal(number).len() == 100));

    (1..=3).for_each(|number| cluster.crash(number));
    (1..=3).for_each(|number| cluster.restart(number));
    let leader = cluster.await_leader(Duration::from_secs(10));
    let request = cluster.propose(leader, 7);
    cluster.deliver();
    assert!(matches!(cluster.reply(leader, request), Some(Ok(applied)) if applied.output == 101));
}
