//! The node core by hand: gating, links, queues, recovery, and what it does with bad frames.

use std::time::Duration;

use futures::FutureExt as _;
use mesh_core::frame::{FrameBuilder, sections};
use mesh_core::keyring::SEAL_LEN;
use mesh_core::wal::WalEntryKind;
use mesh_core::{
    Bytes, CallError, ClusterKey, Context, Handle, Instant, Keyring, Lsn, MemWal, NodeBuilder, NodeCore, NodeId,
    Protocol, ProtocolId, RecoverError, Recovered, RecoveredLog, Recovery, RequestId, SnapshotId, SnapshotSource, Wal,
    WalBatch, WalError, WalEvent, WalRequest,
};

const ME: NodeId = NodeId(1);
const PEER: NodeId = NodeId(2);
const DIARY: ProtocolId = ProtocolId(7);

/// Writes down every command, then tells a peer, the caller and the application.
#[derive(Default)]
struct Diary {
    pages: Vec<u64>,
    full: bool,
}

impl Protocol for Diary {
    type Message = u64;
    type Command = u64;
    type Reply = u64;
    type Event = u64;
    type Timer = u8;
    type Record = u64;

    fn on_recover(&mut self, recovery: &mut Recovery<'_>, record: u64) -> Result<(), RecoverError> {
        if record == 666 {
            return Err(RecoverError::Inconsistent("no such page".into()));
        }
        assert_eq!(recovery.lsn(), Lsn(record));
        self.pages.push(record);
        Ok(())
    }

    fn on_start(&mut self, cx: &mut Context<'_, Self>) {
        cx.set_timer(9, Duration::from_secs(1));
    }

    fn on_command(&mut self, cx: &mut Context<'_, Self>, request: RequestId, page: u64) {
        self.pages.push(page);
        cx.persist(page);
        cx.send_volatile(PEER, 1000 + page);
        cx.send(PEER, page);
        cx.emit(page);
        cx.reply(request, page);
    }

    fn on_message(&mut self, cx: &mut Context<'_, Self>, _from: NodeId, page: u64) {
        cx.emit(page);
    }

    fn on_timer(&mut self, cx: &mut Context<'_, Self>, timer: u8) {
        cx.emit(u64::from(timer));
        cx.set_timer(timer, Duration::ZERO);
    }

    fn has_capacity(&self) -> bool {
        !self.full
    }
}

fn node() -> (NodeCore, Handle<Diary>) {
    let mut builder = NodeBuilder::new(ME).seed(1).queue_len_max(4);
    let diary = builder.host(DIARY, Diary::default());
    let mut node = builder.build();
    node.start();
    node.flush(Instant::ZERO);
    (node, diary)
}

fn command(node: &mut NodeCore) {
    node.handle_commands();
    node.flush(Instant::ZERO);
}

fn frame(protocol: ProtocolId, messages: &[&[u8]]) -> Bytes {
    let mut builder = FrameBuilder::new(1000);
    messages.iter().for_each(|message| assert!(builder.push(protocol, message)));
    builder.pop().unwrap()
}

fn sent(node: &mut NodeCore) -> Vec<u64> {
    let mut all = Vec::new();
    while let Some((to, frame)) = node.poll_transmit() {
        assert_eq!(to, PEER);
        for section in sections(&frame).unwrap() {
            let messages = section.unwrap().messages();
            all.extend(messages.map(|m| mesh_core::wire::from_slice::<u64>(m.unwrap().remaining()).unwrap()));
        }
    }
    all
}

#[test]
fn what_follows_a_record_waits_until_it_is_durable() {
    let (mut node, diary) = node();
    let mut events = diary.events();
    let mut call = diary.call(5);
    command(&mut node);
    let mut batch = WalBatch::new(DIARY, Lsn(0));
    batch.push(WalEntryKind::Record, |out| out.push(5));
    assert!(matches!(node.poll_wal(), Some(WalRequest::Batch(logged)) if logged == batch));
    assert_eq!(sent(&mut node), [1005]);
    assert_eq!(events.try_next(), None);
    assert_eq!((&mut call).now_or_never(), None);
    assert!(node.is_persisting());

    node.handle_wal(WalEvent::Durable { protocol: DIARY, upto: Lsn(1) });
    node.flush(Instant::ZERO);
    assert_eq!(sent(&mut node), [5]);
    assert_eq!(events.try_next(), Some(Ok(5)));
    assert_eq!(call.now_or_never(), Some(Ok(5)));
    assert!(!node.is_persisting());
}

#[test]
fn a_durable_point_beyond_the_log_releases_nothing_that_comes_later() {
    let (mut node, diary) = node();
    node.handle_wal(WalEvent::Durable { protocol: DIARY, upto: Lsn(100) });
    diary.cast(5).unwrap();
    command(&mut node);
    assert_eq!(sent(&mut node), [1005]);
}

#[test]
fn a_full_queue_refuses_and_a_protocol_without_capacity_leaves_commands_in_it() {
    let mut builder = NodeBuilder::new(ME).seed(1).queue_len_max(2);
    let diary = builder.host(DIARY, Diary { full: true, ..Diary::default() });
    let mut node = builder.build();
    diary.cast(1).unwrap();
    let mut second = diary.call(2);
    assert_eq!(diary.cast(3), Err(CallError::Busy));
    assert_eq!(diary.call(3).now_or_never(), Some(Err(CallError::Busy)));
    assert!(!node.has_commands());
    command(&mut node);
    assert!(node.poll_wal().is_none());
    assert_eq!((&mut second).now_or_never(), None);
    drop(node);
    assert_eq!(second.now_or_never(), Some(Err(CallError::Stopped)));
    assert_eq!(diary.cast(3), Err(CallError::Stopped));
}

#[test]
fn a_reader_that_falls_behind_loses_the_oldest_events_and_is_told() {
    let (mut node, diary) = node();
    let mut events = diary.events();
    node.handle_frame(PEER, frame(DIARY, &[&[1], &[2], &[3], &[4], &[5], &[6]]));
    node.flush(Instant::ZERO);
    assert_eq!(events.try_next().unwrap().unwrap_err().missed, 2);
    assert_eq!(events.try_next(), Some(Ok(3)));
    assert_eq!(node.metrics().snapshot()["events_lagged"], 2);
    drop(node);
    let left: Vec<_> = futures_executor::block_on_stream(events).collect();
    assert_eq!(left, [Ok(4), Ok(5), Ok(6)]);
}

#[test]
fn a_link_turns_events_into_commands_within_the_batch() {
    let mut builder = NodeBuilder::new(ME).seed(1);
    let first = builder.host(ProtocolId(1), Diary::default());
    let second = builder.host(DIARY, Diary { full: true, ..Diary::default() });
    first.link(&second, |page| (page % 2 == 0).then_some(page * 10));
    let mut node = builder.build();
    node.handle_frame(PEER, frame(ProtocolId(1), &[&[1], &[2], &[3], &[4]]));
    node.flush(Instant::ZERO);
    // A link is not held up by has_capacity: the event has happened.
    assert_eq!(node.protocol::<Diary>(DIARY).unwrap().pages, [20, 40]);
}

#[test]
fn protocols_linked_in_a_circle_do_not_keep_the_node_for_ever() {
    let mut builder = NodeBuilder::new(ME).seed(1);
    let diary = builder.host(DIARY, Diary::default());
    diary.link(&diary, |page| Some(page + 1));
    let mut node = builder.build();
    node.handle_frame(PEER, frame(DIARY, &[&[1]]));
    for lsn in 1..=20 {
        node.flush(Instant::ZERO);
        node.handle_wal(WalEvent::Durable { protocol: DIARY, upto: Lsn(lsn) });
    }
    assert_eq!(node.protocol::<Diary>(DIARY).unwrap().pages, (2..=21).collect::<Vec<_>>());
}

#[test]
fn a_timer_that_sets_itself_to_now_does_not_keep_the_node_for_ever() {
    let (mut node, diary) = node();
    let mut events = diary.events();
    let second = Instant::ZERO + Duration::from_secs(1);
    assert_eq!(node.deadline(), Some(second));
    node.handle_deadline(second);
    node.flush(second);
    assert_eq!((events.try_next(), events.try_next()), (Some(Ok(9)), None));
    assert_eq!(node.deadline(), Some(second));
}

/// Sets a timer at the start and cancels it with the first message.
struct Patience;

impl Protocol for Patience {
    type Message = ();
    type Command = ();
    type Reply = ();
    type Event = ();
    type Timer = ();
    type Record = u64;

    fn on_start(&mut self, cx: &mut Context<'_, Self>) {
        cx.set_timer((), Duration::from_secs(1));
    }
    fn on_message(&mut self, cx: &mut Context<'_, Self>, _from: NodeId, (): ()) {
        cx.cancel_timer(());
    }
    fn on_timer(&mut self, _cx: &mut Context<'_, Self>, (): ()) {
        panic!("it was cancelled");
    }
    fn on_command(&mut self, _cx: &mut Context<'_, Self>, _request: RequestId, (): ()) {}
}

#[test]
fn a_cancelled_timer_leaves_no_deadline_to_wake_for() {
    let mut builder = NodeBuilder::new(ME).seed(1);
    builder.host(ProtocolId(1), Patience);
    let mut node = builder.build();
    node.start();
    node.handle_frame(PEER, frame(ProtocolId(1), &[b""]));
    let later = Instant::ZERO + Duration::from_secs(2);
    node.handle_deadline(later);
    assert_eq!(node.deadline(), None);
}

#[test]
#[should_panic(expected = "a link is between protocols of one node")]
fn protocols_of_two_nodes_cannot_be_linked() {
    let (_one, first) = node();
    let (_two, second) = node();
    first.link(&second, |page| Some(*page));
}

#[test]
fn a_node_that_is_dropped_says_that_it_has_stopped() {
    let (node, _diary) = node();
    let handle = node.handle();
    assert!(!handle.is_stopped());
    drop(node);
    assert!(handle.is_stopped());
}

#[test]
fn bad_frames_are_dropped_and_counted() {
    let (mut node, diary) = node();
    let mut events = diary.events();
    for bad in [&[][..], &[1], &[2, 7, 0, 0, 0, 255, 255, 255, 255], &[2, 7, 0, 0, 0, 4, 0, 0, 0, 9, 0, 0, 0]] {
        node.handle_frame(PEER, Bytes::copy_from_slice(bad));
    }
    node.handle_frame(ME, frame(DIARY, &[&[1]])); // nobody is its own peer
    node.handle_frame(PEER, frame(ProtocolId(99), &[&[1]]));
    // One that does not decode, one with bytes left over, and a good one behind them.
    node.handle_frame(PEER, frame(DIARY, &[&[255], &[3, 3], &[4]]));
    node.flush(Instant::ZERO);
    assert_eq!((events.try_next(), events.try_next()), (Some(Ok(4)), None));
    let counted = node.metrics().snapshot();
    assert_eq!((counted["frames_malformed"], counted["sections_unknown"], counted["messages_malformed"]), (5, 1, 2));
}

fn sealed_node(me: NodeId, keyring: Option<&Keyring>) -> (NodeCore, Handle<Diary>) {
    let mut builder = NodeBuilder::new(me);
    keyring.into_iter().for_each(|keyring| builder.seal(keyring.clone()));
    let diary = builder.host(DIARY, Diary::default());
    let mut node = builder.build();
    node.start();
    node.flush(Instant::ZERO);
    (node, diary)
}

#[test]
fn a_node_with_cluster_keys_takes_only_what_is_sealed_and_seals_all() {
    let keyring = Keyring::new(ClusterKey::from_bytes([1; 32]));
    let ((mut node, diary), (mut peer, peer_diary)) =
        (sealed_node(ME, Some(&keyring)), sealed_node(PEER, Some(&keyring)));
    let (mut plain, plain_diary) = sealed_node(PEER, None);
    let mut events = peer_diary.events();
    diary.cast(5).unwrap();
    command(&mut node);
    let (to, sealed) = node.poll_transmit().unwrap();
    assert_eq!((to, sealed[0]), (PEER, mesh_core::keyring::SEALED_VERSION));
    peer.handle_frame(ME, sealed.clone());
    peer.flush(Instant::ZERO);
    assert_eq!((events.try_next(), events.try_next()), (Some(Ok(1005)), None));
    // A node without the keys takes nothing that is sealed, and is not heard by those that have them.
    let mut plain_events = plain_diary.events();
    plain.handle_frame(ME, sealed);
    plain.flush(Instant::ZERO);
    assert_eq!(plain_events.try_next(), None);
    peer.handle_frame(ME, frame(DIARY, &[&[4]]));
    peer.flush(Instant::ZERO);
    assert_eq!((events.try_next(), peer.metrics().snapshot()["frames_unsealed"]), (None, 1));
}

#[test]
fn a_sealed_frame_is_no_longer_than_the_transport_carries() {
    let (mut node, diary) = sealed_node(ME, Some(&Keyring::new(ClusterKey::from_bytes([1; 32]))));
    node.set_frame_len_max(SEAL_LEN + mesh_core::frame::FRAME_OVERHEAD + 1);
    diary.cast(5).unwrap();
    command(&mut node);
    assert!(node.poll_transmit().is_none()); // 1005 takes three bytes
    node.set_frame_len_max(SEAL_LEN + mesh_core::frame::FRAME_OVERHEAD + 3);
    diary.cast(6).unwrap();
    command(&mut node);
    assert_eq!(node.poll_transmit().unwrap().1.len(), SEAL_LEN + mesh_core::frame::FRAME_OVERHEAD + 3);
    node.set_frame_len_max(0);
}

#[test]
fn a_message_too_long_for_the_transport_is_dropped_and_counted() {
    let (mut node, diary) = node();
    node.set_frame_len_max(mesh_core::frame::FRAME_OVERHEAD + 1);
    diary.cast(5).unwrap();
    command(&mut node);
    assert_eq!(sent(&mut node), []); // 1005 takes three bytes
    assert_eq!(node.metrics().snapshot()["messages_too_long"], 1);
}

/// A log with given contents.
#[derive(Debug)]
struct Shelf(ProtocolId, Vec<u64>);

#[async_trait::async_trait]
impl Wal for Shelf {
    fn recover(&mut self) -> Result<Recovered, WalError> {
        let records: Vec<_> = self.1.iter().map(mesh_core::wire::to_bytes).collect();
        let last = Lsn(self.1.last().copied().unwrap_or(0));
        Ok(Recovered { logs: [(self.0, RecoveredLog { records, last })].into() })
    }
    fn recover_snapshot(&mut self, _: ProtocolId, _: SnapshotId) -> Result<Option<Bytes>, WalError> {
        Ok(None)
    }
    fn submit(&mut self, _: WalBatch) {}
    fn save_snapshot(&mut self, _: ProtocolId, _: SnapshotId, _: SnapshotSource) {}
    fn read_snapshot(&mut self, _: ProtocolId, _: SnapshotId, _: u64, _: usize) {}
    async fn completed(&mut self) -> Result<WalEvent, WalError> {
        std::future::pending().await
    }
}

#[test]
fn a_node_recovers_and_numbers_its_records_on() {
    let (mut node, diary) = node();
    node.recover(&mut Shelf(DIARY, vec![8, 9])).unwrap();
    assert_eq!(node.protocol::<Diary>(DIARY).unwrap().pages, [8, 9]);
    diary.cast(10).unwrap();
    command(&mut node);
    let Some(WalRequest::Batch(batch)) = node.poll_wal() else { panic!("nothing was logged") };
    assert_eq!(batch.upto, Lsn(10));
}

#[test]
fn a_log_that_makes_no_sense_stops_the_start() {
    let (mut node, _diary) = node();
    let error = node.recover(&mut Shelf(DIARY, vec![666])).unwrap_err();
    assert_eq!(error.to_string(), "protocol 7 cannot recover: the log contradicts itself: no such page");
    let error = node.recover(&mut Shelf(ProtocolId(3), vec![1])).unwrap_err();
    assert_eq!(error.to_string(), "the log holds records of protocol 3, which this node does not host");
    assert!(node.recover(&mut MemWal::new()).is_ok());
}

#[test]
fn a_log_that_forgets_is_asked_for_nothing_and_holds_nothing_up() {
    let (mut node, diary) = node();
    node.recover(&mut MemWal::new()).unwrap();
    for page in [5, 6] {
        let call = diary.call(page);
        command(&mut node);
        assert!(node.poll_wal().is_none());
        assert!(!node.is_persisting());
        assert_eq!(sent(&mut node), [1000 + page, page]);
        assert_eq!(call.now_or_never(), Some(Ok(page)));
    }
}

/// Writes down its inputs, and where a batch of them ends.
#[derive(Default)]
struct Minutes(Vec<String>);

impl Protocol for Minutes {
    type Message = u64;
    type Command = u64;
    type Reply = ();
    type Event = ();
    type Timer = ();
    type Record = u64;

    fn on_start(&mut self, cx: &mut Context<'_, Self>) {
        cx.persist(0);
        cx.set_timer((), Duration::from_secs(1));
    }
    fn on_message(&mut self, _cx: &mut Context<'_, Self>, from: NodeId, number: u64) {
        self.0.push(format!("{number} from {from}"));
    }
    fn on_timer(&mut self, _cx: &mut Context<'_, Self>, (): ()) {
        self.0.push("timer".into());
    }
    fn on_command(&mut self, _cx: &mut Context<'_, Self>, _request: RequestId, number: u64) {
        self.0.push(format!("command {number}"));
    }
    fn on_durable(&mut self, _cx: &mut Context<'_, Self>, upto: Lsn) {
        self.0.push(format!("durable {upto}"));
    }
    fn on_flush(&mut self, _cx: &mut Context<'_, Self>) {
        self.0.push("flush".into());
    }
}

#[test]
fn a_protocol_is_given_all_of_a_batch_in_one_turn_and_in_the_order_of_arrival() {
    let ids = [ProtocolId(1), ProtocolId(2)];
    let mut builder = NodeBuilder::new(ME).seed(1);
    let handles = ids.map(|id| builder.host(id, Minutes::default()));
    let mut node = builder.build();
    node.start();
    node.flush(Instant::ZERO);
    handles[0].cast(7).unwrap();
    for id in ids {
        node.handle_wal(WalEvent::Durable { protocol: id, upto: Lsn(1) });
    }
    let now = Instant::ZERO + Duration::from_secs(1);
    node.handle_deadline(now);
    node.handle_commands();
    for (from, number) in [(3, 1), (4, 2), (3, 3)] {
        ids.iter().for_each(|id| node.handle_frame(NodeId(from), frame(*id, &[&[number]])));
    }
    node.flush(now);
    let minutes = |id| node.protocol::<Minutes>(id).unwrap().0.join(", ");
    let (three, four) = (NodeId(3), NodeId(4));
    let messages = format!("1 from {three}, 2 from {four}, 3 from {three}, flush");
    assert_eq!(minutes(ids[0]), format!("flush, durable 1, timer, command 7, {messages}"));
    assert_eq!(minutes(ids[1]), format!("flush, durable 1, timer, {messages}"));
}

#[test]
fn frames_with_more_sections_than_a_round_takes_are_read_to_their_end() {
    let ids = [ProtocolId(1), ProtocolId(2)];
    let mut builder = NodeBuilder::new(ME).seed(1);
    let _handles = ids.map(|id| builder.host(id, Minutes::default()));
    let mut node = builder.build();
    for frame in 0..3_u64 {
        let mut sections = FrameBuilder::new(1 << 20);
        for section in 0..10_000_u64 {
            let number = mesh_core::wire::to_bytes(&(frame * 10_000 + section));
            assert!(sections.push(ids[(section % 2) as usize], &number));
        }
        node.handle_frame(PEER, sections.pop().unwrap());
    }
    node.flush(Instant::ZERO);
    for (id, odd) in ids.into_iter().zip(0..) {
        let expected = (0..30_000_u64).filter(|number| number % 2 == odd).map(|number| format!("{number} from {PEER}"));
        let minutes = &node.protocol::<Minutes>(id).unwrap().0;
        assert!(minutes.iter().filter(|line| *line != "flush").eq(expected.collect::<Vec<_>>().iter()));
    }
}
