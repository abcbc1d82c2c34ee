//! Anti-entropy: digests are compared in turn with every peer, and where they differ the one who asked
//! finds out what differs, fetches what it lacks and gives what the other lacks.
//!
//! ```text
//! Root     ->                 every interval, to the next few peers
//!          <- Equal           or
//!          <- Differ          with a token, without which no question is answered
//! Ask      ->                 Summary of a range, Want entries, Give entries: some at a time
//!          <- Answer
//! Done     ->                 all that differed is settled
//! ```
//!
//! Only who asks keeps anything of it, and it repeats what is not answered. Small entries come first. There are
//! as many exchanges at a time as peers in a round; one that has had its turn makes room for the next peer that
//! differs, so that none can hold a place by what it answers, or does not. What came until then stays.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use mesh_core::{Context, Instant, NodeId, wire};

use super::accept::Lost;
use super::config::MESSAGE_OVERHEAD;
use super::entry::Path;
use super::message::{Answer, Ask, Differ, Equal, Gave, Memory, Message, Named, Root, Taken};
use super::table::key_hash;
use super::{Store, StoreEvent, Timer};
use crate::anti_entropy::{Listed, Range};
use crate::crdt::HybridTime;

/// Questions to one peer without an answer, at most.
const WINDOW: usize = 16;

/// Entries known to differ and not fetched yet, at most: above it no more are looked for.
const WANTS_MAX: usize = 512;

/// A question without an answer is repeated after this.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// So many times; then the exchange is given up.
const TRIES_MAX: u8 = 4;

/// An exchange that began so long ago makes room for another.
const TURN: Duration = Duration::from_secs(10);

/// For so long an answer to a digest is taken.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// How often exchanges under way are looked after, and peers that came back are asked.
const CARE_EVERY: Duration = Duration::from_millis(50);

/// A token is good for this long, and as long again.
const TOKEN_TIME: Duration = Duration::from_secs(60);

/// A question on its way.
#[derive(Clone, Debug)]
enum Asked {
    Summary(Range),
    Want(Vec<Listed>),
    Give(Vec<Arc<Path>>),
}

#[derive(Clone, Debug)]
struct Waiting {
    asked: Asked,
    sent: Instant,
    tries: u8,
}

/// An exchange with a peer, on the side that asks.
#[derive(Clone, Debug)]
pub(super) struct Exchange {
    since: Instant,
    token: u64,
    /// The time of the digest that differed, here and there.
    began: HybridTime,
    began_there: HybridTime,
    ranges: Vec<Range>,
    /// What to fetch, small ones first.
    wants: BTreeSet<(u32, u64, u64)>,
    /// What to give, small ones first.
    gives: BTreeSet<(u32, Arc<Path>)>,
    waiting: BTreeMap<u32, Waiting>,
    number: u32,
    /// An entry was refused: the replicas are not equal at the end.
    spoilt: bool,
}

impl Store {
    /// The digest of this replica now.
    fn root(&mut self, cx: &mut Context<'_, Self>) -> Root {
        let (horizon, collected) = (self.table.horizon(), self.state.collected);
        let (digest, away) = (self.table.digests().root(), self.away(cx));
        let (time, memory) = (self.clock.tick(self.time_of_day(cx)), self.state.memory);
        Root { digest, time, memory, horizon, collected, away }
    }

    /// Compares digests with the next peers in turn.
    pub(super) fn compare_in_turn(&mut self, cx: &mut Context<'_, Self>) {
        let next = self.peers.next(self.config.fan_out, cx.rng());
        self.compare_with(cx, next);
    }

    /// A peer that comes back is asked at once, so that both are equal soon; where many do, a few at a time.
    pub(super) fn on_returned(&mut self, cx: &mut Context<'_, Self>, peer: NodeId) {
        if self.peers.is_there(peer) && !self.returned.contains(&peer) {
            self.returned.push(peer);
            self.compare_with_returned(cx);
        }
    }

    /// Compares digests with any few of those that came back.
    pub(super) fn compare_with_returned(&mut self, cx: &mut Context<'_, Self>) {
        if !self.returned.is_empty() && !self.may_begin(cx.now()) {
            // Whoever differs would have to wait for its next turn.
            if self.returned_asked == 0 {
                cx.set_timer(Timer::ReturnedDue, CARE_EVERY);
            }
            return;
        }
        let mut next = Vec::new();
        while self.returned_asked + next.len() < self.config.fan_out && !self.returned.is_empty() {
            let peer = self.returned.swap_remove(cx.rng().below(self.returned.len() as u64) as usize);
            if self.peers.is_there(peer) {
                next.push(peer);
            }
        }
        if !next.is_empty() {
            if self.returned_asked == 0 {
                cx.set_timer(Timer::ReturnedDue, CARE_EVERY);
            }
            self.returned_asked += next.len();
            self.compare_with(cx, next);
        }
    }

    pub(super) fn compare_with(&mut self, cx: &mut Context<'_, Self>, peers: Vec<NodeId>) {
        let root = self.root(cx);
        let oldest = root.time.before(ANSWER_WITHIN);
        self.compared.retain(|_, time| *time >= oldest);
        self.compared.extend(peers.iter().map(|peer| (*peer, root.time)));
        if !peers.is_empty() {
            cx.broadcast(peers, Message::Root(root));
        }
    }

    pub(super) fn on_root(&mut self, cx: &mut Context<'_, Self>, from: NodeId, root: Root) {
        self.adopt(cx, root.horizon, root.collected);
        self.peers.note_memory(from, root.memory);
        let (asked, time, memory) = (root.time, self.clock.tick(self.time_of_day(cx)), self.state.memory);
        if self.table.digests().root() == root.digest {
            self.note_in_touch(cx, from, asked.min(time));
            for (node, gave) in root.away {
                self.peers.note_gave(node, Gave { upto: gave.upto.min(time), ..gave });
            }
            cx.send(from, Message::Equal(Equal { asked, time, memory }));
        } else {
            let token = self.token(cx.now(), from, 0);
            let (horizon, collected) = (self.table.horizon(), self.state.collected);
            cx.send(from, Message::Differ(Differ { asked, time, memory, token, horizon, collected }));
        }
    }

    pub(super) fn on_equal(&mut self, cx: &mut Context<'_, Self>, from: NodeId, equal: Equal) {
        if self.compared.get(&from) == Some(&equal.asked) {
            self.compared.remove(&from);
            self.peers.note_memory(from, equal.memory);
            self.note_in_touch(cx, from, equal.asked.min(equal.time));
        } else {
            self.meter.unsolicited.increment();
        }
    }

    pub(super) fn on_differ(&mut self, cx: &mut Context<'_, Self>, from: NodeId, differ: Differ) {
        if self.compared.get(&from) != Some(&differ.asked) {
            return self.meter.unsolicited.increment();
        }
        self.compared.remove(&from);
        self.adopt(cx, differ.horizon, differ.collected);
        self.peers.note_memory(from, differ.memory);
        if self.exchanges.contains_key(&from) || !self.make_place(cx.now()) {
            return;
        }
        let exchange = Exchange {
            since: cx.now(),
            token: differ.token,
            began: differ.asked,
            began_there: differ.time,
            ranges: vec![Range::ALL],
            wants: BTreeSet::new(),
            gives: BTreeSet::new(),
            waiting: BTreeMap::new(),
            number: 0,
            spoilt: false,
        };
        self.exchanges.insert(from, exchange);
        self.go_on(cx, from);
        cx.set_timer(Timer::ExchangeDue, CARE_EVERY);
    }

    /// An exchange that has had its turn.
    fn oldest_over(&self, now: Instant) -> Option<NodeId> {
        let oldest = self.exchanges.iter().min_by_key(|(_, exchange)| exchange.since);
        oldest.filter(|(_, exchange)| now.since(exchange.since) >= TURN).map(|(peer, _)| *peer)
    }

    /// Whether another exchange may begin, if need be in place of one that has had its turn.
    fn may_begin(&self, now: Instant) -> bool {
        self.exchanges.len() < self.config.fan_out || self.oldest_over(now).is_some()
    }

    /// Makes place for another exchange; whether there is any.
    fn make_place(&mut self, now: Instant) -> bool {
        if self.exchanges.len() >= self.config.fan_out {
            let over = self.oldest_over(now);
            return over.inspect(|peer| self.give_up(*peer)).is_some();
        }
        true
    }

    /// Asks what there is room for.
    fn go_on(&mut self, cx: &mut Context<'_, Self>, peer: NodeId) {
        let Some(mut exchange) = self.exchanges.remove(&peer) else { return };
        while exchange.waiting.len() < WINDOW {
            let Some(asked) = self.next_question(cx, peer, &mut exchange) else { break };
            exchange.number = exchange.number.wrapping_add(1);
            self.ask(cx, peer, exchange.token, exchange.number, &asked);
            exchange.waiting.insert(exchange.number, Waiting { asked, sent: cx.now(), tries: 1 });
        }
        let Exchange { ranges, wants, gives, waiting, token, began, began_there, spoilt, .. } = &exchange;
        if !(ranges.is_empty() && wants.is_empty() && gives.is_empty() && waiting.is_empty()) {
            self.exchanges.insert(peer, exchange);
        } else if !spoilt {
            cx.send(peer, Message::Done(*token, *began));
            self.note_in_touch(cx, peer, *began.min(began_there));
            self.meter.syncs.increment();
        }
    }

    fn next_question(&mut self, cx: &Context<'_, Self>, peer: NodeId, exchange: &mut Exchange) -> Option<Asked> {
        if exchange.wants.len() < WANTS_MAX
            && let Some(range) = exchange.ranges.pop()
        {
            return Some(Asked::Summary(range));
        }
        let wants = self.next_wants(cx, peer, exchange);
        if !wants.is_empty() {
            return Some(Asked::Want(wants));
        }
        let gives = self.next_gives(cx, peer, exchange);
        (!gives.is_empty()).then_some(Asked::Give(gives))
    }

    /// What to fetch with one question: small ones first, a message full, or one that is longer.
    fn next_wants(&mut self, cx: &Context<'_, Self>, peer: NodeId, exchange: &mut Exchange) -> Vec<Listed> {
        let room = (self.config.message_len - MESSAGE_OVERHEAD) as u32;
        let (mut wants, mut total) = (Vec::new(), 0_u32);
        let mut passed = Vec::new();
        while let Some(want) = exchange.wants.pop_first() {
            let (len, key, hash) = want;
            if self.table.digests().has(key, hash) {
                continue;
            }
            if self.fetching.contains(&(key, hash)) {
                passed.push(want);
                continue;
            }
            let is_full = total.saturating_add(len) > room && !wants.is_empty();
            if is_full || !self.peers.spend(peer, len.into(), self.config.peer_bytes_per_s, cx.now()) {
                passed.push(want);
                break;
            }
            total = total.saturating_add(len);
            self.fetching.insert((key, hash));
            wants.push(Listed { key_hash: key, hash, len });
        }
        exchange.wants.extend(passed);
        wants
    }

    fn next_gives(&mut self, cx: &Context<'_, Self>, peer: NodeId, exchange: &mut Exchange) -> Vec<Arc<Path>> {
        let room = (self.config.message_len - MESSAGE_OVERHEAD) as u32;
        let (mut gives, mut total) = (Vec::new(), 0_u32);
        while let Some((len, path)) = exchange.gives.pop_first() {
            let is_full = total.saturating_add(len) > room && !gives.is_empty();
            if is_full || !self.peers.spend(peer, len.into(), self.config.peer_bytes_per_s, cx.now()) {
                exchange.gives.insert((len, path));
                break;
            }
            total = total.saturating_add(len);
            gives.push(path);
        }
        gives
    }

    fn ask(&self, cx: &mut Context<'_, Self>, peer: NodeId, token: u64, number: u32, asked: &Asked) {
        let ask = match asked {
            Asked::Summary(range) => Ask::Summary(*range),
            Asked::Want(wants) => Ask::Want(wants.iter().map(|want| want.key_hash).collect()),
            Asked::Give(paths) => Ask::Give(paths.iter().filter_map(|path| self.named(path)).collect()),
        };
        cx.send(peer, Message::Ask(token, number, ask));
    }

    fn named(&self, path: &Path) -> Option<Named> {
        Some(Named { path: path.clone(), entry: self.table.get(path)?.entry.clone() })
    }

    /// Repeats what was not answered, and goes on where it had to wait.
    pub(super) fn care_for_exchanges(&mut self, cx: &mut Context<'_, Self>) {
        for peer in self.exchanges.keys().copied().collect::<Vec<_>>() {
            if !self.repeat(cx, peer) {
                self.give_up(peer);
                continue;
            }
            self.go_on(cx, peer);
        }
        if !self.exchanges.is_empty() {
            cx.set_timer(Timer::ExchangeDue, CARE_EVERY);
        }
    }

    /// Whether there is still hope.
    fn repeat(&mut self, cx: &mut Context<'_, Self>, peer: NodeId) -> bool {
        let Some(exchange) = self.exchanges.get_mut(&peer) else { return true };
        let token = exchange.token;
        let is_due = |waiting: &Waiting| waiting.sent + RETRY_AFTER * u32::from(waiting.tries) <= cx.now();
        let mut due = Vec::new();
        for (number, waiting) in exchange.waiting.iter_mut().filter(|(_, waiting)| is_due(waiting)) {
            if waiting.tries >= TRIES_MAX {
                return false;
            }
            waiting.tries += 1;
            waiting.sent = cx.now();
            due.push((*number, waiting.asked.clone()));
        }
        due.iter().for_each(|(number, asked)| self.ask(cx, peer, token, *number, asked));
        true
    }

    /// Ends an exchange that leads nowhere; what it was about is found again.
    pub(super) fn give_up(&mut self, peer: NodeId) {
        let Some(exchange) = self.exchanges.remove(&peer) else { return };
        for waiting in exchange.waiting.into_values() {
            self.no_longer_fetching(&waiting.asked);
        }
        self.meter.syncs_failed.increment();
    }

    fn no_longer_fetching(&mut self, asked: &Asked) {
        if let Asked::Want(wants) = asked {
            for want in wants {
                self.fetching.remove(&(want.key_hash, want.hash));
            }
        }
    }

    pub(super) fn on_answer(&mut self, cx: &mut Context<'_, Self>, from: NodeId, number: u32, answer: Answer) {
        let waiting = self.exchanges.get_mut(&from).and_then(|exchange| exchange.waiting.remove(&number));
        let Some(Waiting { asked, .. }) = waiting else { return self.meter.unsolicited.increment() };
        self.no_longer_fetching(&asked);
        match (asked, answer) {
            (Asked::Summary(range), Answer::Summary(summary)) => {
                let mut found = self.table.digests().compare(range, &summary);
                if let Some(exchange) = self.exchanges.get_mut(&from) {
                    let (len_max, theirs) = (self.config.entry_len_max(), found.theirs.len());
                    found.theirs.retain(|item| item.len as usize <= len_max);
                    exchange.spoilt |= found.theirs.len() < theirs;
                    exchange.ranges.extend(found.ranges);
                    exchange.wants.extend(found.theirs.iter().map(|item| (item.len, item.key_hash, item.hash)));
                    exchange.gives.extend(found.ours.into_iter().map(|(path, len)| (len, path)));
                }
            }
            (Asked::Want(wants), Answer::Entries(entries)) => self.take_entries(cx, from, &wants, &entries),
            (Asked::Give(paths), Answer::Taken(taken)) => self.note_taken(cx, from, &paths, &taken),
            _ => return self.give_up(from),
        }
        self.go_on(cx, from);
    }

    /// Takes what was fetched, and gives back what the other lacks of it.
    fn take_entries(&mut self, cx: &mut Context<'_, Self>, from: NodeId, wants: &[Listed], entries: &[Named]) {
        let came: BTreeSet<_> = entries.iter().map(|named| key_hash(&named.path)).collect();
        if let Some(exchange) = self.exchanges.get_mut(&from) {
            // Some have grown since they were listed, so that others did not fit into the message, or are gone.
            let missing = wants.iter().filter(|want| !came.contains(&want.key_hash));
            let missing: Vec<_> = missing.map(|want| (want.len, want.key_hash, want.hash)).collect();
            if missing.len() < wants.len() {
                exchange.wants.extend(missing);
            } else {
                exchange.spoilt = true;
            }
        }
        for named in entries {
            let accepted = self.accept(cx, from, named);
            let Some(exchange) = self.exchanges.get_mut(&from) else { return };
            match accepted {
                Ok(accepted) if accepted.more_here => {
                    if let Some(slot) = self.table.get(&named.path) {
                        exchange.gives.insert((slot.len, Arc::new(named.path.clone())));
                    }
                }
                Ok(_) => {}
                Err(_) => exchange.spoilt = true,
            }
        }
    }

    /// Drops entries of which the peer says that they were deleted while this node was away.
    fn note_taken(&mut self, cx: &mut Context<'_, Self>, from: NodeId, given: &[Arc<Path>], taken: &Taken) {
        let Some(exchange) = self.exchanges.get_mut(&from) else { return };
        exchange.spoilt |= !taken.all;
        let began = exchange.began;
        if !taken.outdated.is_empty() {
            self.learn_of_deletions(cx, from);
        }
        for path in given.iter().filter(|path| taken.outdated.contains(&key_hash(path))) {
            // What was written since was not given.
            if self.table.get(path).is_none_or(|slot| slot.entry.updated.time > began) {
                continue;
            }
            self.forget(cx, path);
            cx.emit(StoreEvent::Outdated { namespace: path.namespace.clone(), key: path.key.clone() });
        }
    }

    // The side that is asked.

    pub(super) fn on_ask(&mut self, cx: &mut Context<'_, Self>, from: NodeId, token: u64, number: u32, ask: Ask) {
        if !self.is_token(cx.now(), from, token) {
            return self.meter.unsolicited.increment();
        }
        let answer = match ask {
            Ask::Summary(range) => Answer::Summary(self.table.digests().summary(range)),
            Ask::Want(keys) => Answer::Entries(self.wanted(&keys)),
            Ask::Give(entries) => {
                let mut taken = Taken { all: true, outdated: Vec::new() };
                for named in entries {
                    let accepted = self.accept(cx, from, &named);
                    taken.all &= accepted.is_ok();
                    if accepted == Err(Lost::Outdated) {
                        taken.outdated.push(key_hash(&named.path));
                    }
                }
                Answer::Taken(taken)
            }
        };
        // Who asks paces itself by what it fetches; this is for those who do not.
        let message = Message::Answer(number, answer);
        let len = wire::to_bytes(&message).len() as u64;
        if self.peers.spend(from, len, self.config.peer_bytes_per_s.saturating_mul(2), cx.now()) {
            cx.send(from, message);
        } else {
            self.meter.paced.increment();
        }
    }

    /// The entries whose names have these hashes: a message full, or one that is longer.
    fn wanted(&self, keys: &[u64]) -> Vec<Named> {
        let room = self.config.message_len - MESSAGE_OVERHEAD;
        let (mut entries, mut total) = (Vec::new(), 0);
        for (path, _) in keys.iter().flat_map(|key| self.table.digests().keys(*key)) {
            let Some(slot) = self.table.get(path) else { continue };
            total += slot.len as usize;
            if total > room && !entries.is_empty() {
                break;
            }
            entries.push(Named { path: Path::clone(path), entry: slot.entry.clone() });
        }
        entries
    }

    pub(super) fn on_done(&mut self, cx: &mut Context<'_, Self>, from: NodeId, token: u64, time: HybridTime) {
        if self.is_token(cx.now(), from, token) {
            let here = self.clock.tick(self.time_of_day(cx));
            self.note_in_touch(cx, from, time.min(here));
        } else {
            self.meter.unsolicited.increment();
        }
    }

    /// A number that only this node can make, different for each peer and each minute.
    fn token(&self, now: Instant, peer: NodeId, ago: u64) -> u64 {
        let minute = (now.as_nanos() / TOKEN_TIME.as_nanos() as u64).wrapping_sub(ago);
        let digest = blake3::keyed_hash(&self.secret, &[&peer.0.to_le_bytes()[..], &minute.to_le_bytes()].concat());
        let [a, b, c, d, e, f, g, h, ..] = *digest.as_bytes();
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }

    fn is_token(&self, now: Instant, peer: NodeId, token: u64) -> bool {
        (0..2).any(|ago| self.token(now, peer, ago) == token)
    }

    /// This node and a peer had the same at that time.
    fn note_in_touch(&mut self, cx: &mut Context<'_, Self>, peer: NodeId, time: HybridTime) {
        self.returned.retain(|returned| *returned != peer);
        self.peers.note_in_touch(peer, time, cx.now());
        self.learn_of_deletions(cx, peer);
    }

    /// A peer that knows of deletions has the same as this node, or has told it of one.
    fn learn_of_deletions(&mut self, cx: &mut Context<'_, Self>, peer: NodeId) {
        if self.peers.get(peer).is_some_and(|peer| peer.knows_deletions) {
            self.remember(cx, Memory { knows_deletions: true, ..self.state.memory });
        }
    }
}
