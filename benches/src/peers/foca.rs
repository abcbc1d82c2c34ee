//! foca: its sans-IO core as a protocol of our simulator, with the configuration it has for a LAN.
//!
//! The identity is that of its example, a socket address and a number that it renews when it is declared
//! down. It announces itself to the seeds, and again every second while it knows nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use foca::{BroadcastHandler, Config, Identity, Invalidates, Notification, PostcardCodec, Runtime};
use mesh_core::{Context, Counter, DecodeError, Metrics, Never, NodeId, Protocol, Reader, RequestId, Rng64, Wire};
use serde::{Deserialize, Serialize};

use crate::scenario::gossip::{Boot, Change, Subject};

/// Whoever is alone announces itself again after this.
const ALONE: Duration = Duration::from_secs(1);

/// A node of foca.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Id {
    addr: SocketAddr,
    bump: u64,
}

impl Id {
    fn of(at: usize) -> Self {
        let [a, b, c, d, high, low] = Boot::address(at);
        Self { addr: (Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([high, low])).into(), bump: 0 }
    }

    /// The place of the node.
    fn at(&self) -> usize {
        match self.addr {
            SocketAddr::V4(addr) => {
                let [_, _, high, low] = addr.ip().octets();
                usize::from(u16::from_be_bytes([high, low]))
            }
            SocketAddr::V6(_) => usize::MAX,
        }
    }
}

impl Identity for Id {
    type Addr = SocketAddr;

    fn renew(&self) -> Option<Self> {
        Some(Self { bump: self.bump.wrapping_add(1), ..self.clone() })
    }

    fn addr(&self) -> SocketAddr {
        self.addr
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self.bump > adversary.bump
    }
}

/// What foca sends, as it is.
#[derive(Clone, Debug)]
pub struct Packet(Bytes);

impl Wire for Packet {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let len = reader.remaining().len();
        Ok(Self(Bytes::copy_from_slice(reader.take(len)?)))
    }
}

/// Which timer: one to announce, and those that foca set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// Announces where nobody is known.
    Alone,
    /// One of foca's.
    Foca(u64),
}

/// A payload that a node publishes: foca passes it on with what it gossips.
#[derive(Clone, Debug)]
pub struct Publish(pub Bytes);

/// The number of a payload, which no other has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Number(u64);

impl Invalidates for Number {
    fn invalidates(&self, other: &Self) -> bool {
        self == other
    }
}

/// The payloads that a node has, counted under the names that our broadcast has for it.
struct Heard {
    numbers: BTreeSet<Number>,
    delivered: Counter,
    duplicates: Counter,
}

impl BroadcastHandler<Id> for Heard {
    type Key = Number;
    type Error = DecodeError;

    fn receive_item(&mut self, data: &[u8], sender: Option<&Id>) -> Result<Option<Number>, DecodeError> {
        let number = Number(u64::decode(&mut Reader::new(data))?);
        let is_new = self.numbers.insert(number);
        // What the node publishes itself has no sender.
        if sender.is_some() {
            let counter = if is_new { &self.delivered } else { &self.duplicates };
            counter.increment();
        }
        Ok(is_new.then_some(number))
    }
}

type Inner = foca::Foca<Id, PostcardCodec, Rng64, Heard>;

/// The members and what foca needs to act.
pub struct Foca {
    inner: Inner,
    timers: BTreeMap<u64, foca::Timer<Id>>,
    set: u64,
    published: u64,
    boot: Boot,
}

impl std::fmt::Debug for Foca {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Foca").field("members", &self.inner.num_members()).finish_non_exhaustive()
    }
}

/// Does at once what foca asks for.
struct Shell<'a, 'b> {
    cx: &'a mut Context<'b, Foca>,
    timers: &'a mut BTreeMap<u64, foca::Timer<Id>>,
    set: &'a mut u64,
    ids: &'a Arc<[NodeId]>,
}

impl Runtime<Id> for Shell<'_, '_> {
    fn notify(&mut self, notification: Notification<'_, Id>) {
        let node = |id: &Id| self.ids.get(id.at()).copied().unwrap_or_default();
        let change = match notification {
            Notification::MemberDown(id) => Change::Down(node(id), id.bump),
            Notification::Rejoin(_) => Change::Reborn,
            _ => return,
        };
        self.cx.emit(change);
    }

    fn send_to(&mut self, to: Id, data: &[u8]) {
        if let Some(node) = self.ids.get(to.at()) {
            self.cx.send(*node, Packet(Bytes::copy_from_slice(data)));
        }
    }

    fn submit_after(&mut self, event: foca::Timer<Id>, after: Duration) {
        *self.set += 1;
        self.timers.insert(*self.set, event);
        self.cx.set_timer(Timer::Foca(*self.set), after);
    }
}

impl Foca {
    /// Lets foca act. What it refuses it has dropped.
    fn act<E>(
        &mut self,
        cx: &mut Context<'_, Self>,
        act: impl FnOnce(&mut Inner, &mut Shell<'_, '_>) -> Result<(), E>,
    ) {
        let Self { inner, timers, set, boot, .. } = self;
        // What it refuses, such as what is meant for an identity it had before, is lost on it.
        let _ = act(inner, &mut Shell { cx, timers, set, ids: &boot.ids });
    }

    fn announce(&mut self, cx: &mut Context<'_, Self>) {
        let me = self.boot.at;
        for at in (0..self.boot.seeds().len()).filter(|at| *at != me) {
            self.act(cx, |foca, shell| foca.announce(Id::of(at), shell));
        }
        cx.set_timer(Timer::Alone, ALONE);
    }
}

impl Protocol for Foca {
    type Message = Packet;
    type Command = Publish;
    type Reply = Never;
    type Event = Change;
    type Timer = Timer;
    type Record = Never;

    fn on_start(&mut self, cx: &mut Context<'_, Self>) {
        self.announce(cx);
    }

    fn on_message(&mut self, cx: &mut Context<'_, Self>, _from: NodeId, packet: Packet) {
        self.act(cx, |foca, shell| foca.handle_data(&packet.0, shell));
    }

    fn on_timer(&mut self, cx: &mut Context<'_, Self>, timer: Timer) {
        match timer {
            Timer::Alone if self.inner.num_members() == 0 => self.announce(cx),
            Timer::Alone => {}
            Timer::Foca(number) => {
                if let Some(timer) = self.timers.remove(&number) {
                    self.act(cx, |foca, shell| foca.handle_timer(timer, shell));
                }
            }
        }
    }

    fn on_command(&mut self, _cx: &mut Context<'_, Self>, _request: RequestId, Publish(payload): Publish) {
        self.published += 1;
        let mut data = Vec::new();
        ((self.boot.at as u64) << 32 | self.published).encode(&mut data);
        data.extend_from_slice(&payload);
        // It refuses what no packet has room for.
        let _ = self.inner.add_broadcast(&data);
    }
}

impl Subject for Foca {
    fn boot(boot: &Boot, metrics: &Metrics) -> Self {
        let size = u32::try_from(boot.ids.len()).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MIN);
        let (rng, codec) = (Rng64::from_seed(boot.seed, "foca"), PostcardCodec);
        let [delivered, duplicates] = ["broadcast_delivered", "broadcast_duplicates"].map(|name| metrics.counter(name));
        let heard = Heard { numbers: BTreeSet::new(), delivered, duplicates };
        let inner = foca::Foca::with_custom_broadcast(Id::of(boot.at), Config::new_lan(size), rng, codec, heard);
        Self { inner, timers: BTreeMap::new(), set: 0, published: 0, boot: boot.clone() }
    }

    fn live(&self) -> usize {
        self.inner.num_members()
    }

    fn sees(&self, nodes: &[NodeId]) -> bool {
        let at = |member: &foca::Member<Id>| self.boot.ids.get(member.id().at()).copied();
        let seen: BTreeSet<_> = self.inner.iter_members().filter_map(at).collect();
        nodes.iter().all(|node| *node == self.boot.ids[self.boot.at] || seen.contains(node))
    }

    fn change(event: &Change) -> Option<Change> {
        Some(*event)
    }
}
