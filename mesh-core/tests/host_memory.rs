//! How much memory a protocol instance takes in its node: counted by the allocator.

use std::alloc::System;

use mesh_core::{
    Context, Handle, Instant, MemWal, NodeBuilder, NodeId, Protocol, ProtocolId, RequestId, WalEvent, WalRequest,
};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const HOSTS: usize = 1000;

/// Persists, sends, tells and answers: every queue of its host is used.
struct Busy;

impl Protocol for Busy {
    type Message = u64;
    type Command = u64;
    type Reply = u64;
    type Event = u64;
    type Timer = u8;
    type Record = u64;

    fn on_start(&mut self, cx: &mut Context<'_, Self>) {
        cx.set_timer(0, std::time::Duration::from_secs(1));
    }

    fn on_command(&mut self, cx: &mut Context<'_, Self>, request: RequestId, number: u64) {
        cx.persist(number);
        cx.send(NodeId(2), number);
        cx.broadcast([NodeId(2), NodeId(3)], number);
        cx.emit(number);
        cx.reply(request, number);
        cx.set_timer(0, std::time::Duration::from_secs(1));
    }

    fn on_message(&mut self, _cx: &mut Context<'_, Self>, _from: NodeId, _number: u64) {}
    fn on_timer(&mut self, _cx: &mut Context<'_, Self>, _timer: u8) {}
}

fn bytes(region: &Region<'_, System>) -> isize {
    let change = region.change();
    change.bytes_allocated as isize - change.bytes_deallocated as isize
}

#[test]
fn a_host_takes_a_few_hundred_bytes_and_gives_back_what_a_burst_took() {
    let mut builder = NodeBuilder::new(NodeId(1)).seed(1);
    builder.host(ProtocolId(HOSTS as u32), Busy);
    let region = Region::new(ALLOCATOR);
    let handles: Vec<Handle<Busy>> = (0..HOSTS).map(|id| builder.host(ProtocolId(id as u32), Busy)).collect();
    let mut node = builder.build();
    node.recover(&mut MemWal::new()).unwrap();
    node.start();
    node.flush(Instant::ZERO);
    let at_rest = bytes(&region) / HOSTS as isize;
    assert!((200..2_000).contains(&at_rest), "{at_rest} bytes a host");

    let mut events = handles[0].events();
    for handle in &handles {
        (0..500).for_each(|number| drop(handle.call(number)));
    }
    while node.has_commands() {
        node.handle_commands();
        node.flush(Instant::ZERO);
        while node.poll_transmit().is_some() {}
        while let Some(request) = node.poll_wal() {
            let WalRequest::Batch(batch) = request else { panic!("no snapshot was asked for") };
            node.handle_wal(WalEvent::Durable { protocol: batch.protocol, upto: batch.upto });
        }
        node.flush(Instant::ZERO);
        while node.poll_transmit().is_some() {}
    }
    assert!(!node.is_persisting() && std::iter::from_fn(|| events.try_next()).count() == 500);
    let after = bytes(&region) / HOSTS as isize;
    println!("{at_rest} bytes a host at rest, {after} after a burst of 500 commands");
    assert!(after < 8_000, "{after} bytes a host");
}
