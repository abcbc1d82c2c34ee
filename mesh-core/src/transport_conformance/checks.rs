//! The checks, one function each.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;

use bytes::Bytes;
use futures_channel::oneshot;

use super::letter::{Letter, filling};
use super::network::{Arrival, Endpoint, Manner, Network, Parcel, SPARE_SENDERS, endpoints, is_hello};
use super::{Check, Conformance, ENDPOINTS_MAX, Failure, LETTER_LEN, TransportFactory};
use crate::frame::FRAME_LEN_MAX;
use crate::id::NodeId;
use crate::transport::PeerStatus::{self, Connected, Disconnected};
use crate::transport::{FrameSender, SendError, Transport};

/// Up to this length, frames of each are sent.
const EVERY_LEN: usize = 1200;

/// Frames of a burst.
const BURST: u32 = 4000;

/// The longest frame of a burst.
const LONG: usize = 64 * 1024;

type Net<'a, F> = Network<'a, <F as TransportFactory>::Transport>;

pub(super) async fn run<F: TransportFactory>(
    suite: &Conformance,
    check: Check,
    factory: &mut F,
) -> Result<(), Failure> {
    let count = match check {
        Check::FrameLimit => return frame_limit(factory),
        Check::ManyPeers => ENDPOINTS_MAX,
        Check::Delivery | Check::SenderId | Check::SlowPeer | Check::Order | Check::Links | Check::Return => 3,
        _ => 2,
    };
    let network = Network::start(suite, factory, count).await?;
    match check {
        Check::FrameLimit => Ok(()),
        Check::Delivery => delivery::<F>(network).await,
        Check::SenderId => sender_id::<F>(network).await,
        Check::Lengths => lengths::<F>(network).await,
        Check::TooLong => too_long::<F>(network).await,
        Check::UnknownPeer => unknown_peer::<F>(network).await,
        Check::InboxRoom => inbox_room::<F>(network).await,
        Check::Wake => wake::<F>(network).await,
        Check::Cancellation => cancellation::<F>(network).await,
        Check::Senders => senders::<F>(network).await,
        Check::NoWait => no_wait::<F>(network).await,
        Check::SlowPeer => slow_peer::<F>(network).await,
        Check::Backpressure => backpressure::<F>(network).await,
        Check::Order => order::<F>(network).await,
        Check::Reliability => reliability::<F>(network).await,
        Check::ManyPeers => many_peers::<F>(network).await,
        Check::Links => links::<F>(network).await,
        Check::Return => comes_back(network, factory).await,
        Check::Closed => closed::<F>(network),
    }
}

fn frame_limit<F: TransportFactory>(factory: &mut F) -> Result<(), Failure> {
    for (_, transport) in endpoints(factory, 2)? {
        let (found, least, most) = (transport.frame_len_max(), LETTER_LEN, FRAME_LEN_MAX);
        if !(least..=most).contains(&found) {
            return Err(Failure::FrameLimit { found, least, most });
        }
    }
    Ok(())
}

/// Anything that arrives is fine.
fn anything<T>(_: &Network<'_, T>, _: &Arrival) -> Result<(), Failure> {
    Ok(())
}

async fn delivery<F: TransportFactory>(mut network: Net<'_, F>) -> Result<(), Failure> {
    // What went astray in the first rounds comes before the last is over.
    for round in 0..20 {
        let parcels = round_of(&network, round, 100);
        let to_whom = |network: &Net<'_, F>, arrival: &Arrival| match Letter::read(&arrival.frame) {
            Some(Letter { from, to, .. }) if to != network.id(arrival.at) => {
                Err(Failure::Misdelivered { at: network.id(arrival.at), from, to })
            }
            _ => Ok(()),
        };
        network.exchange(&parcels, to_whom).await?;
    }
    Ok(())
}

async fn sender_id<F: TransportFactory>(mut network: Net<'_, F>) -> Result<(), Failure> {
    for round in 0..20 {
        let parcels = round_of(&network, round, 100);
        let from_whom = |_: &Net<'_, F>, arrival: &Arrival| match Letter::read(&arrival.frame) {
            Some(Letter { from, .. }) if from != arrival.from => {
                Err(Failure::WrongSender { sent_by: from, claimed: arrival.from })
            }
            _ => Ok(()),
        };
        network.exchange(&parcels, from_whom).await?;
    }
    Ok(())
}

/// A parcel from each to each.
fn round_of<T: Transport>(network: &Network<'_, T>, round: u32, len: usize) -> Vec<Parcel> {
    let len = len.min(network.endpoints[0].frame_len_max);
    network.pairs().into_iter().map(|(from, to)| network.parcel(from, to, round, len)).collect()
}

async fn lengths<F: TransportFactory>(mut network: Net<'_, F>) -> Result<(), Failure> {
    let limit = network.endpoints[0].frame_len_max;
    let powers = (0..usize::BITS - 1).flat_map(|bit| [(1 << bit) - 1, 1 << bit, (1 << bit) + 1]);
    let mut lens: Vec<usize> = (0..EVERY_LEN).chain(powers).chain([limit - 1, limit]).collect();
    lens.retain(|len| *len <= limit);
    lens.sort_unstable();
    lens.dedup();
    let parcel = |len| Parcel { from: 0, to: 1, frame: filling(0, len).into() };
    let parcels: Vec<Parcel> = lens.into_iter().map(parcel).collect();
    network.post(&parcels[0]).await?;
    network.exchange(&parcels, anything).await
}

/// What `try_send` must answer.
fn must_say(
    sender: &mut dyn FrameSender,
    to: NodeId,
    frame: Bytes,
    must: SendError,
    expected: &'static str,
) -> Result<(), Failure> {
    let len = frame.len();
    match sender.try_send(to, frame) {
        Err(error) if error == must => Ok(()),
        answer => Err(Failure::WrongAnswer { to, len, answer, expected }),
    }
}

async fn too_long<F: TransportFactory>(mut network: Net<'_, F>) -> Result<(), Failure> {
    let (limit, to) = (network.endpoints[0].frame_len_max, network.id(1));
    for len in [limit + 1, limit * 2, limit + 1] {
        let frame = Bytes::from(filling(0, len));
        must_say(&mut *network.endpoints[0].sender, to, frame, SendError::TooLong, "TooLong")?;
    }
    let parcels = round_of(&network, 0, limit);
    network.exchange(&parcels, anything).await
}

async fn unknown_peer<F: TransportFactory>(mut network: Net<'_, F>) -> Result<(), Failure> {
    let stranger = NodeId(0x6e6f_626f_6479 << 64 | 1);
    for _ in 0..3 {
        let frame = Bytes::from(filling(0, LETTER_LEN));
        must_say(&mut *network.endpoints[0].sender, stranger, frame, SendError::Unreachable, "Unreachable")?;
    }
    let parcels = round_of(&network, 0, 100);
    network.exchange(&parcels, anything).await
}

async fn inbox_room<F: TransportFactory>(mut network: Net<'_, F>) -> Result<(), Failure> {
    for (number, (room, kept)) in [(1, 0), (1, 5), (3, 2), (64, 1)].into_iter().enumerate() {
        network.endpoints[1].manner = Manner { room, kept, ..Manner::default() };
        // The first is received as it was before.
        network.greet(0, 1).await?;
        let numbers = (0..50).map(|n| number as u32 * 50 + n);
        let parcels: Vec<Parcel> = numbers.map(|n| network.parcel(0, 1, n, LETTER_LEN)).collect();
        network.exchange(&parcels, anything).await?;
    }
    Ok(())
}

/// A waker that remembers, so that a poll for another reason is not taken for being woken.
struct Woken {
    woken: AtomicBool,
    task: Waker,
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.woken.store(true, SeqCst);
        self.task.wake_by_ref();
    }
}

async fn wake<F: TransportFactory>(mut network: Net<'_, F>) -> Result<(), Failure> {
    let (to, pause) = (network.id(1), network.suite.resend);
    let senders = std::mem::take(&mut network.endpoints[0].spare_senders);
    for (mut sender, number) in senders.into_iter().zip(0..) {
        // Nothing must be on its way any more.
        while network.receive(network.now() + pause).await?.is_some() {}
        let parcel = network.parcel(0, 1, number, LETTER_LEN);
        let (frame, (stop, stopped)) = (parcel.frame.clone(), mpsc::channel());
        // Sent once the other waits, and again until it does no longer.
        thread::spawn(move || {
            let mut going_on = stopped.recv().is_ok();
            while going_on {
                let _ = sender.try_send(to, frame.clone());
                going_on = stopped.recv_timeout(pause) != Err(mpsc::RecvTimeoutError::Disconnected);
            }
        });
        woken_by(&mut network, &parcel, || {
            let _ = stop.send(());
        })
        .await?;
    }
    Ok(())
}

/// Waits at endpoint 1 alone for `parcel`, which is on its way from when `waits` was called.
async fn woken_by<T: Transport>(
    network: &mut Network<'_, T>,
    parcel: &Parcel,
    mut waits: impl FnMut(),
) -> Result<(), Failure> {
    let (clock, until) = (network.suite.clock.clone(), network.deadline());
    let mut sleep = clock.sleep_until(until);
    let mut state: Option<Arc<Woken>> = None;
    poll_fn(|cx| {
        // The one that sends may have to be driven, too.
        while let Poll::Ready(inbox) = network.endpoints[0].poll(cx) {
            let inbox = inbox?;
            network.sort(0, inbox);
        }
        let late = sleep.as_mut().poll(cx).is_ready();
        let first = state.is_none();
        let woken =
            state.get_or_insert_with(|| Arc::new(Woken { woken: AtomicBool::new(true), task: cx.waker().clone() }));
        let was_woken = woken.woken.swap(false, SeqCst);
        if was_woken || late {
            let waker = Waker::from(woken.clone());
            while let Poll::Ready(inbox) = network.endpoints[1].poll(&mut Context::from_waker(&waker)) {
                let inbox = inbox?;
                network.sort(1, inbox);
            }
        }
        if network.take_arrived(&parcel.frame) {
            return Poll::Ready(if was_woken { Ok(()) } else { Err(Failure::NotWoken) });
        }
        if late {
            return Poll::Ready(Err(network.missing(std::slice::from_ref(parcel), 1, 0)));
        }
        if first {
            waits();
        }
        Poll::Pending
    })
    .await
}

async fn cancellation<F: TransportFactory>(mut network: Net<'_, F>) -> Result<(), Failure> {
    for endpoint in &mut network.endpoints {
        endpoint.manner.cancels = true;
    }
    for (from, to) in network.pairs() {
        network.greet(from, to).await?;
    }
    let limit = network.endpoints[0].frame_len_max;
    for round in 0..200 {
        let len = if round % 10 == 0 { limit.min(LONG) } else { LETTER_LEN };
        let parcels = round_of(&network, round, len);
        network.exchange(&parcels, anything).await?;
    }
    Ok(())
}

async fn senders<F: TransportFactory>(mut network: Net<'_, F>) -> Result<(), Failure> {
    const EACH: u32 = 250;
    let (to, pause, reliable) = (network.id(1), network.suite.resend, network.reliable);
    let parcels: Vec<Parcel> = (0..EACH * SPARE_SENDERS as u32).map(|n| network.parcel(0, 1, n, LETTER_LEN)).collect();
    let mut running = Vec::new();
    for (mut sender, share) in
        std::mem::take(&mut network.endpoints[0].spare_senders).into_iter().zip(parcels.chunks(EACH as usize))
    {
        let mut share: Vec<Bytes> = share.iter().map(|parcel| parcel.frame.clone()).collect();
        let (stop, stopped) = mpsc::channel::<()>();
        running.push(stop);
        thread::spawn(move || {
            loop {
                // What was refused is sent again, and all of it where frames may be lost.
                share.retain(|frame| sender.try_send(to, frame.clone()).is_err() || !reliable);
                let stop = stopped.recv_timeout(pause) == Err(mpsc::RecvTimeoutError::Disconnected);
                if stop || share.is_empty() {
                    return;
                }
            }
        });
    }
    let places: BTreeMap<&Bytes, usize> = parcels.iter().zip(0..).map(|(parcel, n)| (&parcel.frame, n)).collect();
    let mut waited: BTreeMap<usize, ()> = (0..parcels.len()).map(|n| (n, ())).collect();
    while let Some((first, ())) = waited.first_key_value() {
        let Some(arrival) = network.receive(network.deadline()).await? else {
            return Err(network.missing(&parcels, waited.len(), *first));
        };
        match places.get(&arrival.frame) {
            Some(place) => waited.remove(place),
            None if is_hello(&arrival.frame) => None,
            None => return Err(Failure::Altered { at: network.id(arrival.at), len: arrival.frame.len() }),
        };
    }
    drop(running);
    Ok(())
}

/// What came of sending to a peer that does not read.
struct Flood {
    /// How many frames were taken: those numbered below.
    taken: u32,
    bytes: u64,
    /// What was answered to the one after them, if any was refused.
    refused: Option<SendError>,
}

/// How long the frames of a flood are.
fn flood_len<T: Transport>(network: &Network<'_, T>) -> usize {
    network.endpoints[0].frame_len_max.min(LONG)
}

/// Sends from endpoint 0 to endpoint 1, which does not read, until it is refused.
async fn flood<T: Transport>(network: &mut Network<'_, T>) -> Result<Flood, Failure> {
    let (from, to, len, most) = (network.id(0), network.id(1), flood_len(network), network.suite.flood_bytes);
    let Some(mut sender) = network.endpoints[0].spare_senders.pop() else { return Err(Failure::Panicked) };
    network.endpoints[1].reads = false;
    let (done, mut ended) = oneshot::channel();
    // On a thread of its own: a sender that waits for its peer would never come back.
    thread::spawn(move || {
        let mut flood = Flood { taken: 0, bytes: 0, refused: None };
        while flood.bytes < most && flood.refused.is_none() {
            let letter = Letter { from, to, number: flood.taken };
            match sender.try_send(to, letter.bytes(len)) {
                Ok(()) => (flood.taken, flood.bytes) = (flood.taken + 1, flood.bytes + len as u64),
                Err(refused) => flood.refused = Some(refused),
            }
        }
        let _ = done.send(flood);
    });
    let until = network.deadline();
    loop {
        let pause = network.now() + network.suite.resend;
        if let Some(flood) = ended.try_recv().map_err(|oneshot::Canceled| Failure::Panicked)? {
            return match flood.refused {
                None | Some(SendError::Congested) => Ok(flood),
                Some(error) => Err(Failure::WrongAnswer { to, len, answer: Err(error), expected: "Ok or Congested" }),
            };
        }
        if network.now() >= until {
            return Err(Failure::Blocked);
        }
        network.wait(pause).await?;
    }
}

async fn no_wait<F: TransportFactory>(mut network: Net<'_, F>) -> Result<(), Failure> {
    flood(&mut network).await.map(drop)
}

async fn slow_peer<F: TransportFactory>(mut network: Net<'_, F>) -> Result<(), Failure> {
    flood(&mut network).await?;
    let parcels: Vec<Parcel> = (0..100)
        .flat_map(|n| [(0, 2), (2, 0)].map(|(from, to)| (from, to, n)))
        .map(|(from, to, n)| network.parcel(from, to, n, 200.min(flood_len(&network))))
        .collect();
    network.exchange(&parcels, anything).await
}

async fn backpressure<F: TransportFactory>(mut network: Net<'_, F>) -> Result<(), Failure> {
    let (one, two, len) = (network.id(0), network.id(1), flood_len(&network));
    let Flood { taken, bytes, refused } = flood(&mut network).await?;
    if refused.is_none() {
        return Err(Failure::NeverCongested { bytes });
    }
    network.endpoints[1].reads = true;
    let mut waited: BTreeMap<u32, ()> = (0..taken).map(|number| (number, ())).collect();
    while let Some((number, ())) = waited.first_key_value()
        && network.reliable
    {
        let Some(arrival) = network.receive(network.deadline()).await? else {
            let first = network.parcel(0, 1, *number, len);
            return Err(Failure::Missing {
                missing: waited.len(),
                sent: taken as usize,
                from: one,
                to: two,
                len: first.frame.len(),
            });
        };
        match Letter::read(&arrival.frame) {
            Some(letter) => waited.remove(&letter.number),
            None => return Err(Failure::Altered { at: network.id(arrival.at), len: arrival.frame.len() }),
        };
    }
    network.until_told(one, two, PeerStatus::Writable, [PeerStatus::Writable, PeerStatus::Congested]).await?;
    let parcels = [network.parcel(0, 1, taken, len)];
    network.exchange(&parcels, anything).await
}

async fn order<F: TransportFactory>(mut network: Net<'_, F>) -> Result<(), Failure> {
    let (limit, mut last) = (network.endpoints[0].frame_len_max, BTreeMap::<NodeId, u32>::new());
    for number in 0..=BURST {
        for from in [0, 2] {
            let len = if number % 100 == 50 { limit.min(LONG) } else { LETTER_LEN + number as usize % 100 };
            network.post(&network.parcel(from, 1, number, len.min(limit))).await?;
        }
    }
    // Whether all of them come is not this check's question.
    let quiet = if network.reliable { network.suite.deadline } else { network.suite.resend * 10 };
    let mut left = 2 * (BURST + 1);
    while left > 0
        && let Some(arrival) = network.receive(network.now() + quiet).await?
    {
        let Some(Letter { from, number: next, .. }) = Letter::read(&arrival.frame) else {
            return Err(Failure::Altered { at: network.id(arrival.at), len: arrival.frame.len() });
        };
        if is_hello(&arrival.frame) {
            continue;
        }
        left -= 1;
        match last.insert(from, next) {
            Some(last) if last >= next => return Err(Failure::OutOfOrder { from, last, next }),
            _ => {}
        }
    }
    Ok(())
}

async fn reliability<F: TransportFactory>(mut network: Net<'_, F>) -> Result<(), Failure> {
    let limit = network.endpoints[0].frame_len_max;
    let len = |number: u32| if number % 100 == 50 { limit.min(LONG) } else { LETTER_LEN };
    let both = (0..BURST).flat_map(|number| [(0, 1, number), (1, 0, number)]);
    let parcels: Vec<Parcel> = both.map(|(from, to, number)| network.parcel(from, to, number, len(number))).collect();
    network.exchange(&parcels, anything).await
}

async fn many_peers<F: TransportFactory>(mut network: Net<'_, F>) -> Result<(), Failure> {
    let parcels: Vec<Parcel> = (0..20).flat_map(|number| round_of(&network, number, 500)).collect();
    network.exchange(&parcels, anything).await
}

async fn links<F: TransportFactory>(mut network: Net<'_, F>) -> Result<(), Failure> {
    let ids = [0, 1, 2].map(|place| network.id(place));
    for (at, peer) in network.pairs() {
        network.until_told(ids[at], ids[peer], Connected, [Connected, Disconnected]).await?;
    }
    drop(network.endpoints.pop());
    for at in [0, 1] {
        network.until_told(ids[at], ids[2], Disconnected, [Connected, Disconnected]).await?;
    }
    // They still have each other.
    let parcels = round_of(&network, 0, 100);
    network.exchange(&parcels, anything).await?;
    network.until_told(ids[0], ids[1], Connected, [Connected, Disconnected]).await
}

async fn comes_back<F: TransportFactory>(mut network: Net<'_, F>, factory: &mut F) -> Result<(), Failure> {
    for number in 0..3 {
        let Some(gone) = network.endpoints.pop() else { return Ok(()) };
        let id = gone.id;
        drop(gone);
        let again = factory.restart(id).ok_or(Failure::NoRestart)?.map_err(Failure::NoEndpoint)?;
        network.endpoints.push(Endpoint::new(id, again));
        for (from, to) in network.pairs() {
            network.greet(from, to).await?;
        }
        let parcels = round_of(&network, number, 100);
        network.exchange(&parcels, anything).await?;
        for at in [network.id(0), network.id(1)].into_iter().filter(|_| factory.promises().links) {
            network.until_told(at, id, Connected, [Connected, Disconnected]).await?;
        }
    }
    Ok(())
}

fn closed<F: TransportFactory>(mut network: Net<'_, F>) -> Result<(), Failure> {
    let to = network.id(1);
    let mut sender = network.endpoints.swap_remove(0).close();
    for _ in 0..3 {
        must_say(&mut *sender, to, filling(0, LETTER_LEN).into(), SendError::Unreachable, "Unreachable")?;
    }
    Ok(())
}
