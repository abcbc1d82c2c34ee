//! 9, 10 and 13: auctions, and what becomes of awards. What single auctions refuse is tested beside them.

use std::collections::BTreeMap;

use mesh_core::frame::{FrameBuilder, sections};
use mesh_core::{NodeId, Wire as _, wire};
use mesh_tasks::auction::score::Bid;
use mesh_tasks::auction::{AuctionId, SealedBid};
use mesh_tasks::pool::{Envelope, Message, TaskPool};
use mesh_tasks::share::Share;
use mesh_tasks::task::{Outcome, Policy, State};

use crate::mesh::{A, B, C, D, Does, E, Mesh, SECOND, ms, pool_by, task, work};
use crate::support::POOL;

/// A mesh whose node 1 has awarded a task.
fn awarded(seed: u64) -> Mesh {
    let mut mesh = Mesh::with(seed, 5, pool_by(Policy::Auction));
    mesh.notice = SECOND;
    [B, C, D, E].into_iter().for_each(|node| mesh.work(node, 1));
    mesh.pass(ms(100));
    mesh.submit(A, work(50));
    mesh.wait_until("it is awarded", |world, _| world.counted("tasks_awards") == 1);
    mesh
}

#[test]
fn s09_whatever_becomes_of_an_award_one_result_counts() {
    for seed in 0..16 {
        let mut mesh = awarded(seed);
        let held_at = |mesh: &mut Mesh| {
            mesh.wait_until("the award arrives", |_, sink| !sink.begun.is_empty());
            mesh.sink.borrow().begun[0].1
        };
        match seed % 4 {
            // The award is lost, or its acknowledgement, for longer than there is time for that.
            0 => {
                [B, C, D, E].into_iter().for_each(|node| mesh.sim.cut(A, node));
                mesh.pass(SECOND);
            }
            1 => {
                let winner = held_at(&mut mesh);
                mesh.sim.cut(winner, A);
                mesh.wait_until("the next best has it", |_, sink| sink.begun.len() == 2);
                mesh.pass(SECOND);
            }
            2 => mesh.crash(A),
            _ => {
                let winner = held_at(&mut mesh);
                mesh.crash(winner);
            }
        }
        mesh.sim.heal();
        mesh.check();
        if matches!(seed % 4, 1 | 3) {
            assert!(mesh.counted("tasks_awards") > 1, "seed {seed}: it is awarded again");
        }
    }
}

#[test]
fn s10_with_no_bids_a_task_waits_and_one_bid_is_enough() {
    for seed in 0..10 {
        let mut mesh = Mesh::with(seed, 4, pool_by(Policy::Auction));
        let task = mesh.submit(A, work(5));
        mesh.pass(ms(1_000 + 100 * seed));
        assert_eq!(mesh.status(A, task).state, State::Queued, "nobody bids");
        mesh.work(D, 1);
        let at = mesh.sim.now();
        assert!(matches!(mesh.outcome_of(A, task), Outcome::Completed(_)));
        assert!(mesh.sim.now().since(at) < SECOND, "seed {seed}: after {:?}", mesh.sim.now().since(at));
        mesh.check_each_begun_once();
    }
}

/// Has a node bid as it should not: of each bid it says another, too, it repeats its bids of before, also of a former life
/// and to others, and bids for what nobody sells.
fn bids_falsely(mesh: &mut Mesh, liar: NodeId) {
    let mut before: Vec<Envelope> = Vec::new();
    mesh.sim.lie(liar, move |_, frame| {
        let mut lies = FrameBuilder::new(1 << 20);
        for section in sections(&frame).into_iter().flatten().flatten() {
            for mut message in section.messages().flatten() {
                lies.push(section.protocol(), message.remaining());
                let Ok(Envelope { from, to, message: Message::Bids(bids, room) }) = Envelope::decode(&mut message)
                else {
                    continue;
                };
                let best = Bid { capability: Share::ONE, load: Share::ZERO, resources: Share::ONE };
                let better = bids.iter().map(|sealed| SealedBid { bid: Some(best), ..*sealed });
                let made_up = (1..4).map(|item| SealedBid { auction: AuctionId::first(item), ..bids[0] });
                let said = better.chain(made_up).collect();
                before.truncate(50);
                before.insert(0, Envelope { from, to, message: Message::Bids(bids.clone(), room) });
                let lie = Envelope { from, to, message: Message::Bids(said, u32::MAX) };
                for envelope in before.iter().chain([&lie]) {
                    lies.push(section.protocol(), &wire::to_bytes(envelope));
                }
            }
        }
        std::iter::from_fn(|| lies.pop()).collect()
    });
}

#[test]
fn s12_false_bids_cost_no_task_and_give_nobody_a_second_award_of_one() {
    for seed in 0..6 {
        let mut mesh = Mesh::with(seed, 5, pool_by(Policy::Auction));
        mesh.work_at_all(1);
        bids_falsely(&mut mesh, E);
        for at in 0..60 {
            mesh.submit_soon(NodeId(1 + at % 4), work(20));
            if at % 10 == 0 {
                mesh.pass(ms(50));
            }
        }
        let begins_anew = seed % 2 == 1;
        if begins_anew {
            mesh.vanish(E);
            mesh.come_back(E);
            mesh.work(E, 1);
            for at in 0..20 {
                mesh.submit_soon(NodeId(1 + at % 4), work(20));
            }
            mesh.check();
            assert!(mesh.counted("tasks_stale") > 0, "seed {seed}: bids of its former life");
        } else {
            mesh.check_each_begun_once();
        }
        assert!(mesh.counted("tasks_bids_refused") > 100, "seed {seed}: {}", mesh.counted("tasks_bids_refused"));
        let honest: usize = [A, B, C, D].into_iter().map(|node| mesh.sink.borrow().begun_at(node)).sum();
        assert!(honest >= 20, "seed {seed}: it has room for one at a time, and the others executed {honest}");
    }
}

#[test]
fn s13_a_bidder_that_never_delivers_is_given_less_and_less() {
    let mut all = 0;
    for seed in 0..5 {
        let mut mesh = Mesh::with(seed, 5, pool_by(Policy::Auction));
        // It takes what it is given, and nothing comes of it.
        let bad: NodeId = E;
        mesh.work_slowly(bad, 1, 20);
        [B, C].into_iter().for_each(|node| mesh.work(node, 1));
        for _ in 0..10 {
            for _ in 0..16 {
                let mut spec = task(Does::Work, ms(20));
                spec.time_limit = Some(ms(100));
                mesh.submit_soon(A, spec);
            }
            mesh.pass(ms(400));
        }
        mesh.check();
        let sink = mesh.sink.borrow();
        let begun = sink.begun_at(bad);
        assert!(begun <= 16, "seed {seed}: {begun} of 160");
        all += begun;
    }
    assert!(all > 0, "it wins at first");
}

#[test]
fn thousands_of_auctions_at_once_award_each_task_once_and_give_nobody_more_than_it_has_room_for() {
    const NODES: u128 = 20;
    const SLOTS: usize = 64;
    for seed in 0..2 {
        let mut mesh = Mesh::with(seed, NODES, pool_by(Policy::Auction));
        mesh.work_at_all(SLOTS);
        mesh.pass(ms(500));
        // A few first: with their bids nodes say how much room they have.
        (0..80).for_each(|at| mesh.submit_soon(NodeId(1 + at % 4), work(5)));
        mesh.pass(SECOND);
        let before = mesh.counted("tasks_auctions");
        (0..4_000).for_each(|at| mesh.submit_soon(NodeId(1 + at % 4), work(200)));
        let (mut open, mut most) = (0, BTreeMap::<NodeId, usize>::new());
        let sink = mesh.sink.clone();
        let ids = mesh.ids();
        let came = mesh.world.until(SECOND * 60, |world| {
            let counted = |name| world.counted(name);
            open = open.max(counted("tasks_auctions") - counted("tasks_awards") - counted("tasks_unsold"));
            for node in &ids {
                let held = world.sim.protocol::<TaskPool>(*node, POOL).map_or(0, |pool| pool.status().held);
                let most = most.entry(*node).or_default();
                *most = held.max(*most);
            }
            sink.borrow().counted.len() == 4_080
        });
        assert!(came, "seed {seed}: {} are done", mesh.sink.borrow().counted.len());
        let rounds = (mesh.counted("tasks_auctions") - before) as f64 / 4_000.0;
        assert!(open >= 3_500, "seed {seed}: {open} at a time");
        assert!(rounds <= 1.2, "seed {seed}: {rounds} auctions a task");
        // A node says what it has room for, and the four do not know of each other what they have sold.
        let room = SLOTS * 3;
        assert!(
            most.values().all(|held| *held <= room * 3 / 2),
            "seed {seed}: {room} fit, and so many are held: {most:?}"
        );
        let done: Vec<usize> = mesh.ids().into_iter().map(|node| mesh.sink.borrow().begun_at(node)).collect();
        assert!(done.iter().all(|done| *done <= 4_080 * 3 / 2 / NODES as usize), "seed {seed}: {done:?}");
        mesh.check_each_begun_once();
    }
}
