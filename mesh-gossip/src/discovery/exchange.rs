//! What nodes tell each other of others: comparisons, answers, and news passed on.

use std::time::Duration;

use mesh_core::frame::FRAME_OVERHEAD;
use mesh_core::{Bytes, NodeId, Wire, wire};

use super::message::{Compare, ITEMS_MAX, Item, Message, OPINIONS_MAX, Opinion, TOLD_MAX, Told};
use super::peers::Known;
use super::{Cx, Discovery, Timer};

/// A comparison is at least so long, so that its answer has room for any announcement.
const COMPARE_LEN_MIN: usize = 500;
/// The same, of a node that has much to learn.
const COMPARE_LEN_HUNGRY: usize = 700;
/// What a telling has beside what is told.
const TELL_OVERHEAD: usize = 4;
/// To how many each news is passed on: with the answer to a message never longer than twice the message, so is this.
const FANOUT: usize = 2;
/// So few nodes that were not known may have been missed by chance.
const FEW: usize = 2;
/// How many news wait to be passed on.
const NEWS_MAX: usize = 64;

/// How soon a node compares again, and how many times more before it takes its time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hurry {
    pub(super) interval: Duration,
    pub(super) left: usize,
}

fn prefix(node: NodeId) -> u64 {
    (node.0 >> 64) as u64
}

impl Discovery {
    /// Compares with somebody: with a seed each fourth time, and each fourth with one that was lost, for these may
    /// be on the other side of a split.
    pub(super) fn on_exchange_due(&mut self, cx: &mut Cx<'_>) {
        self.round = self.round.wrapping_add(1);
        let partner = match self.round % 4 {
            0 => self.next_seed(cx.me()),
            1 => self.peers.any_lost(cx.rng()).or_else(|| self.peers.any_former(cx.rng())),
            _ => None,
        };
        let partner = partner.or_else(|| {
            let (now, reachable) = (cx.now(), self.peers.reachable());
            self.reputation.select(now, cx.rng(), reachable, 1).pop()
        });
        if let Some(partner) = partner.or_else(|| self.next_seed(cx.me())) {
            self.compare(cx, partner);
        }
        // Ever more slowly: what was heard of last may not have been known to those who were asked.
        if self.hurry.left == 0 {
            let interval = (self.hurry.interval * 2).min(self.config.exchange_interval);
            self.hurry = Hurry { interval, left: self.ranges() };
        }
        self.hurry.left -= 1;
        let interval = self.hurry.interval;
        let delay = cx.rng().duration_between(interval * 3 / 4, interval * 5 / 4);
        self.set_exchange_timer(cx, delay);
    }

    /// Tells `to` what is known in a range of names, the next one each time, so that it tells what is not.
    pub(super) fn compare(&mut self, cx: &mut Cx<'_>, to: NodeId) {
        let message = self.comparison(cx, self.cursor, u64::MAX, false);
        if let Message::Compare(compare) = &message {
            self.cursor = compare.to.wrapping_add(1);
        }
        cx.send(to, message);
    }

    /// There may be more to learn: all ranges are compared soon, or sooner than before where hardly anything was news.
    fn grow_hungry(&mut self, cx: &mut Cx<'_>, news: usize) {
        let least = self.config.soon();
        let soon = if news > FEW { least } else { least.max(self.hurry.interval / 2) };
        self.hurry = Hurry { interval: soon, left: self.ranges() };
        if self.exchange_due > cx.now() + soon * 5 / 4 {
            self.set_exchange_timer(cx, soon);
        }
    }

    /// How many comparisons it takes, and one or two more, to compare all.
    fn ranges(&self) -> usize {
        self.peers.known.len() / ITEMS_MAX + 2
    }

    fn is_hungry(&self) -> bool {
        self.hurry.interval <= self.config.soon()
    }

    fn comparison(&mut self, cx: &mut Cx<'_>, from: u64, to: u64, back: bool) -> Message {
        let first = NodeId(u128::from(from) << 64);
        let mut known = self.peers.known.range(first..).take_while(|(node, _)| prefix(**node) <= to);
        let item = |(node, known): (&NodeId, &Known)| Item { prefix: prefix(*node), sequence: known.sequence() };
        let items: Vec<_> = known.by_ref().take(ITEMS_MAX).map(item).collect();
        let to = known.next().map_or(to, |(next, _)| prefix(*next).saturating_sub(1).max(from));
        let opinions = self.reputation.opinions(cx.now(), cx.rng(), OPINIONS_MAX);
        let opinions = opinions.into_iter().map(|(about, percent)| Opinion { about, percent }).collect();
        let mut compare =
            Compare { own: self.own_announcement(cx), from, to, items, opinions, back, padding: Bytes::new() };
        let len = wire::to_bytes(&compare).len() + FRAME_OVERHEAD + 2;
        if len > self.config.packet_len_max {
            compare.opinions.clear();
        }
        if !back {
            let wanted = if self.is_hungry() { COMPARE_LEN_HUNGRY } else { COMPARE_LEN_MIN };
            compare.padding = vec![0; wanted.saturating_sub(len)].into();
        }
        Message::Compare(Box::new(compare))
    }

    pub(super) fn on_compare(&mut self, cx: &mut Cx<'_>, from: NodeId, compare: Compare) {
        let Compare { own, from: first, to: last, items, opinions, back, padding } = compare;
        if own.node() != from {
            return self.meter.refused.increment();
        }
        let question = Compare { own: own.clone(), from: first, to: last, items, opinions, back, padding };
        let question_len = wire::to_bytes(&question).len() + FRAME_OVERHEAD + 2;
        for Opinion { about, percent } in &question.opinions {
            if *about != cx.me() {
                self.reputation.hear(cx.now(), from, *about, *percent);
            }
        }
        let sequence = own.claim().sequence;
        let seconds_left = own.claim().lifetime;
        self.on_told(cx, from, Told { seconds_left, announcement: own });

        // All that goes back is at most twice as long as what came.
        let mut room = (2 * question_len).min(self.config.packet_len_max);
        let in_range = |node: NodeId| (first..=last).contains(&prefix(node));
        let is_news = |item: &Item| {
            let node = NodeId(u128::from(item.prefix) << 64);
            let mut same = self.peers.known.range(node..).take_while(|(node, _)| prefix(**node) == item.prefix);
            let mut gone = self.peers.former.range(node..).take_while(|(node, _)| prefix(**node) == item.prefix);
            let is_own = prefix(cx.me()) == item.prefix;
            !is_own
                && !same.any(|(_, known)| known.sequence() >= item.sequence)
                && !gone.any(|(_, former)| former.sequence() >= item.sequence)
        };
        let mut answer_too = None;
        if !back && question.items.iter().any(is_news) {
            let question_back = self.comparison(cx, first, last, true);
            let len = wire::to_bytes(&question_back).len() + FRAME_OVERHEAD;
            if len <= question_len {
                room = room.min(2 * question_len - len);
                answer_too = Some(question_back);
            }
        }
        let lacks = |node: NodeId, sequence: u64| {
            let item = question.items.iter().find(|item| item.prefix == prefix(node));
            in_range(node) && item.is_none_or(|item| item.sequence < sequence)
        };
        let mut telling = Telling::new(room);
        // First what others know of itself, where it has begun anew since.
        if let Some(known) = self.peers.known.get(&from).filter(|known| known.sequence() > sequence) {
            telling.push(self.told(cx, known));
        }
        if let Some(former) = self.peers.former.get(&from).filter(|former| former.sequence() > sequence) {
            telling.push(Told { seconds_left: 0, announcement: former.announcement.clone() });
        }
        if lacks(cx.me(), self.sequence) {
            let seconds_left = self.lifetime();
            telling.push(Told { seconds_left, announcement: self.own_announcement(cx) });
        }
        let missing: Vec<_> = (self.peers.known.iter())
            .filter(|(node, known)| **node != from && !known.lost && lacks(**node, known.sequence()))
            .collect();
        let turn = cx.rng().below(missing.len() as u64) as usize;
        for (_, known) in missing.iter().cycle().skip(turn).take(missing.len()) {
            if !telling.push(self.told(cx, known)) {
                break;
            }
        }
        for item in &question.items {
            let node = NodeId(u128::from(item.prefix) << 64);
            let gone = self.peers.former.range(node..).next().filter(|(node, former)| {
                prefix(**node) == item.prefix && former.left() && former.sequence() > item.sequence
            });
            if let Some((_, former)) = gone {
                telling.push(Told { seconds_left: 0, announcement: former.announcement.clone() });
            }
        }
        cx.send(from, Message::Tell { answer: true, told: telling.told });
        if let Some(question_back) = answer_too {
            cx.send(from, question_back);
        }
    }

    fn told(&self, cx: &Cx<'_>, known: &Known) -> Told {
        let seconds_left = u32::try_from(known.expires.since(cx.now()).as_secs()).unwrap_or(u32::MAX);
        Told { seconds_left, announcement: known.announcement.clone() }
    }

    pub(super) fn on_tell(&mut self, cx: &mut Cx<'_>, from: NodeId, answer: bool, told: Vec<Told>) {
        let before = self.peers.known.len();
        for told in told {
            self.on_told(cx, from, told);
        }
        if answer {
            self.answered(from);
            let news = self.peers.known.len().saturating_sub(before);
            if news > 0 {
                self.grow_hungry(cx, news);
            }
        }
    }

    /// Remembers to pass something on.
    pub(super) fn spread(&mut self, cx: &mut Cx<'_>, told: Told) {
        if self.news.len() < NEWS_MAX {
            if self.news.is_empty() {
                cx.set_timer(Timer::NewsDue, self.config.soon());
            }
            self.news.push(told);
        }
    }

    /// Passes the news on, each to a few: who misses them compares sooner or later.
    pub(super) fn on_news_due(&mut self, cx: &mut Cx<'_>) {
        let news = std::mem::take(&mut self.news);
        let (now, reachable) = (cx.now(), self.peers.reachable());
        let others = self.reputation.select(now, cx.rng(), reachable, FANOUT);
        let mut left = news.into_iter().peekable();
        while left.peek().is_some() {
            let mut telling = Telling::new(self.config.packet_len_max);
            while left.peek().is_some_and(|told| telling.has_room_for(told)) {
                telling.told.extend(left.next());
            }
            if telling.told.is_empty() {
                break;
            }
            cx.broadcast(others.clone(), Message::Tell { answer: false, told: telling.told });
        }
    }
}

/// Announcements that fit into a packet.
struct Telling {
    told: Vec<Told>,
    room: usize,
}

impl Telling {
    const fn new(len_max: usize) -> Self {
        Self { told: Vec::new(), room: len_max.saturating_sub(FRAME_OVERHEAD + TELL_OVERHEAD) }
    }

    /// Takes the room of one more, if there is any.
    fn has_room_for(&mut self, told: &Told) -> bool {
        let mut bytes = Vec::new();
        told.encode(&mut bytes);
        let fits = bytes.len() <= self.room && self.told.len() < TOLD_MAX;
        if fits {
            self.room -= bytes.len();
        }
        fits
    }

    fn push(&mut self, told: Told) -> bool {
        let fits = self.has_room_for(&told);
        if fits {
            self.told.push(told);
        }
        fits
    }
}
