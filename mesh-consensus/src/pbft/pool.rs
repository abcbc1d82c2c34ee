//! Requests that wait to be executed, with quotas for each client, taken from all clients in turn.

use std::collections::{BTreeMap, VecDeque};

use mesh_core::Instant;
use mesh_core::identity::PublicKey;

use super::authenticator::Verified;
use super::config::PbftConfig;
use super::request::{Operation, Request, RequestKey};

/// What became of a request that was put into the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Put {
    /// It waits now.
    New,
    /// It waited before.
    Known,
    /// There is no room, for its client or for anyone.
    Full,
}

/// Requests that are not executed yet.
#[derive(Clone, Debug, Default)]
pub(super) struct Pool {
    waiting: BTreeMap<RequestKey, Waiting>,
    /// The clients with requests that wait, and some of those that had any lately.
    clients: BTreeMap<PublicKey, Client>,
    /// The clients with requests that are in no batch, by their turn; some may have none any more.
    turns: VecDeque<PublicKey>,
    /// In the order in which they came.
    arrivals: BTreeMap<u64, RequestKey>,
    arrived: u64,
    bytes: usize,
    /// Requests, and bytes of them, that are in no batch.
    unproposed: usize,
    unproposed_bytes: usize,
}

#[derive(Clone, Debug)]
struct Waiting {
    request: Request,
    arrival: u64,
    since: Instant,
    proposed: bool,
}

#[derive(Clone, Debug, Default)]
struct Client {
    waiting: usize,
    unproposed: VecDeque<RequestKey>,
    has_turn: bool,
}

/// So many clients without requests are remembered, and as many again as there are with requests: most ask again soon.
const IDLE_CLIENTS: usize = 64;

impl Pool {
    /// What would become of a request: before its signature is looked at.
    pub(super) fn would_put(&self, config: &PbftConfig, request: &Request) -> Put {
        let key = request.key();
        if let Some(known) = self.waiting.get(&key) {
            // Of two openings the later counts; a command keeps its first meaning.
            let is_later = matches!(
                (&known.request.operation, &request.operation),
                (Operation::Open(old), Operation::Open(new)) if old < new
            );
            return if is_later && !known.proposed { Put::New } else { Put::Known };
        }
        let has_room = self.room_of(config, &key.client) > 0 && self.bytes + request.len() <= config.max_pending_bytes;
        if has_room { Put::New } else { Put::Full }
    }

    /// How many more requests of a client may wait.
    pub(super) fn room_of(&self, config: &PbftConfig, client: &PublicKey) -> usize {
        let waiting = self.clients.get(client).map_or(0, |client| client.waiting);
        config.max_pending_per_client.saturating_sub(waiting)
    }

    /// Takes a request that its client signed.
    pub(super) fn put(&mut self, config: &PbftConfig, request: Verified<Request>, now: Instant) -> Put {
        let request = request.into_inner();
        let put = self.would_put(config, &request);
        if put != Put::New {
            return put;
        }
        let (key, len) = (request.key(), request.len());
        self.remove(&key);
        self.forget_idle_clients();
        let client = self.clients.entry(key.client).or_default();
        client.waiting += 1;
        client.offer(key, &mut self.turns);
        self.bytes += len;
        self.unproposed += 1;
        self.unproposed_bytes += len;
        self.arrived += 1;
        self.arrivals.insert(self.arrived, key);
        self.waiting.insert(key, Waiting { request, arrival: self.arrived, since: now, proposed: false });
        Put::New
    }

    fn forget_idle_clients(&mut self) {
        if self.clients.len() > 2 * self.waiting.len() + IDLE_CLIENTS {
            self.clients.retain(|_, client| client.waiting > 0);
            self.turns.retain(|client| self.clients.contains_key(client));
        }
    }

    /// Takes a request out of those that may be taken into a batch.
    fn withdraw(&mut self, key: &RequestKey) {
        let Some(waiting) = self.waiting.get_mut(key).filter(|waiting| !waiting.proposed) else { return };
        waiting.proposed = true;
        self.unproposed -= 1;
        self.unproposed_bytes -= waiting.request.len();
        if let Some(client) = self.clients.get_mut(&key.client) {
            client.withdraw(key);
        }
    }

    /// The request of that name, if it waits.
    pub(super) fn get(&self, key: &RequestKey) -> Option<&Request> {
        self.waiting.get(key).map(|waiting| &waiting.request)
    }

    /// It was executed, or is not wanted any more.
    pub(super) fn remove(&mut self, key: &RequestKey) {
        let Some(Waiting { request, arrival, proposed, .. }) = self.waiting.remove(key) else { return };
        self.arrivals.remove(&arrival);
        self.bytes -= request.len();
        let client = self.clients.get_mut(&key.client);
        if !proposed {
            self.unproposed -= 1;
            self.unproposed_bytes -= request.len();
        }
        if let Some(client) = client {
            client.waiting -= 1;
            if !proposed {
                client.withdraw(key);
            }
        }
    }

    /// It is in a batch that is being ordered. Since when it waited, if it did.
    pub(super) fn note_proposed(&mut self, key: &RequestKey) -> Option<Instant> {
        let since = self.waiting.get(key).filter(|waiting| !waiting.proposed)?.since;
        self.withdraw(key);
        Some(since)
    }

    /// A view begins: what was in batches of those before must be ordered again, and has all the time for it.
    pub(super) fn restart(&mut self, now: Instant) {
        for key in self.arrivals.values() {
            let Some(waiting) = self.waiting.get_mut(key) else { continue };
            waiting.since = now;
            if std::mem::take(&mut waiting.proposed) {
                self.unproposed += 1;
                self.unproposed_bytes += waiting.request.len();
                self.clients.entry(key.client).or_default().offer(*key, &mut self.turns);
            }
        }
    }

    /// Takes requests into a batch: one of each client, round and round.
    pub(super) fn take(&mut self, config: &PbftConfig) -> Vec<Request> {
        let (mut taken, mut bytes) = (Vec::with_capacity(self.unproposed.min(config.batch_max_requests)), 0);
        while taken.len() < config.batch_max_requests
            && let Some(turn) = self.turns.pop_front()
        {
            let Some(client) = self.clients.get_mut(&turn) else { continue };
            let next = client.unproposed.front().and_then(|key| self.waiting.get_mut(key));
            let Some(waiting) = next else {
                client.has_turn = false;
                continue;
            };
            let len = waiting.request.len();
            if !taken.is_empty() && bytes + len > config.batch_max_bytes {
                self.turns.push_front(turn);
                break;
            }
            bytes += len;
            waiting.proposed = true;
            taken.push(waiting.request.clone());
            client.unproposed.pop_front();
            self.unproposed -= 1;
            self.unproposed_bytes -= len;
            self.turns.push_back(turn);
        }
        taken
    }

    /// Whether requests are in no batch.
    pub(super) const fn has_unproposed(&self) -> bool {
        self.unproposed > 0
    }

    /// Whether they fill a batch.
    pub(super) const fn fills_batch(&self, config: &PbftConfig) -> bool {
        self.unproposed >= config.batch_max_requests || self.unproposed_bytes >= config.batch_max_bytes
    }

    /// Since when the oldest request waits.
    pub(super) fn oldest(&self) -> Option<Instant> {
        let (_, key) = self.arrivals.first_key_value()?;
        self.waiting.get(key).map(|waiting| waiting.since)
    }

    /// Since when the oldest request waits that is in no batch.
    pub(super) fn oldest_unordered(&self) -> Option<Instant> {
        let mut waiting = self.arrivals.values().filter_map(|key| self.waiting.get(key));
        waiting.find(|waiting| !waiting.proposed).map(|waiting| waiting.since)
    }

    /// All requests that wait.
    pub(super) fn requests(&self) -> impl Iterator<Item = &Request> {
        self.waiting.values().map(|waiting| &waiting.request)
    }

    /// How many bytes the requests take that wait.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many requests wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }
}

impl Client {
    /// Lets a request be taken into a batch, behind the others of its client.
    fn offer(&mut self, key: RequestKey, turns: &mut VecDeque<PublicKey>) {
        self.unproposed.push_back(key);
        if !std::mem::replace(&mut self.has_turn, true) {
            turns.push_back(key.client);
        }
    }

    /// Takes back what [`offer`](Self::offer) did, but for the turn.
    fn withdraw(&mut self, key: &RequestKey) {
        if self.unproposed.front() == Some(key) {
            self.unproposed.pop_front();
        } else {
            self.unproposed.retain(|other| other != key);
        }
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::Bytes;
    use mesh_core::identity::SecretKey;

    use super::super::request::Nonce;
    use super::*;
    use crate::session::{SessionId, SessionRequest};

    fn request(client: u8, serial: u64) -> Request {
        let call = SessionRequest { session: SessionId(u64::from(client)), serial, answered_below: 1 };
        let client = SecretKey::from_seed([client; 32]).public();
        Request::unsigned(client, Operation::Call(call, Bytes::from_static(b"command")))
    }

    fn put(pool: &mut Pool, config: &PbftConfig, request: Request) -> Put {
        pool.put(config, Verified::by_us(request), Instant::ZERO)
    }

    fn serials(taken: &[Request]) -> Vec<(u64, u64)> {
        taken.iter().map(|request| (request.key().session.0, request.key().serial)).collect()
    }

    #[test]
    fn clients_take_turns_and_a_busy_one_holds_up_nobody() {
        let (mut pool, config) = (Pool::default(), PbftConfig { batch_max_requests: 4, ..PbftConfig::default() });
        for serial in 1..=5 {
            assert_eq!(put(&mut pool, &config, request(1, serial)), Put::New);
        }
        put(&mut pool, &config, request(2, 1));
        put(&mut pool, &config, request(3, 1));
        assert!(pool.fills_batch(&config));
        assert_eq!(serials(&pool.take(&config)), [(1, 1), (2, 1), (3, 1), (1, 2)]);
        assert_eq!(serials(&pool.take(&config)), [(1, 3), (1, 4), (1, 5)]);
        assert!(pool.take(&config).is_empty() && !pool.has_unproposed());
        assert_eq!(pool.len(), 7, "they wait until they are executed");
    }

    #[test]
    fn a_client_and_all_together_have_quotas() {
        let mut pool = Pool::default();
        let len = request(1, 1).len();
        let config = PbftConfig { max_pending_per_client: 2, max_pending_bytes: 3 * len, ..PbftConfig::default() };
        let puts = [(1, 1), (1, 1), (1, 2), (1, 3), (2, 1), (3, 1)];
        let results = puts.map(|(client, serial)| put(&mut pool, &config, request(client, serial)));
        assert_eq!(results, [Put::New, Put::Known, Put::New, Put::Full, Put::New, Put::Full]);
        pool.remove(&request(1, 1).key());
        assert_eq!(put(&mut pool, &config, request(3, 1)), Put::New);
    }

    #[test]
    fn what_was_executed_or_ordered_by_others_is_not_taken() {
        let (mut pool, config) = (Pool::default(), PbftConfig::default());
        for serial in 1..=4 {
            put(&mut pool, &config, request(1, serial));
        }
        pool.remove(&request(1, 1).key());
        assert_eq!(pool.oldest_unordered(), Some(Instant::ZERO));
        pool.note_proposed(&request(1, 3).key());
        assert_eq!(serials(&pool.take(&config)), [(1, 2), (1, 4)]);
        pool.remove(&request(1, 2).key());
        pool.restart(Instant::from_nanos(5));
        assert_eq!(pool.oldest(), Some(Instant::from_nanos(5)));
        assert_eq!(serials(&pool.take(&config)), [(1, 3), (1, 4)]);
        pool.remove(&request(1, 3).key());
        pool.remove(&request(1, 4).key());
        assert_eq!((pool.oldest(), pool.len()), (None, 0));
        assert!(pool.clients.values().all(|client| client.waiting == 0 && client.unproposed.is_empty()));
        assert!(pool.arrivals.is_empty() && (pool.bytes, pool.unproposed, pool.unproposed_bytes) == (0, 0, 0));
    }

    #[test]
    fn clients_that_ask_no_more_are_forgotten_in_the_end() {
        let (mut pool, config) = (Pool::default(), PbftConfig { max_pending_per_client: 1, ..PbftConfig::default() });
        for client in 1..=255 {
            put(&mut pool, &config, request(client, 1));
            assert_eq!(put(&mut pool, &config, request(client, 2)), Put::Full);
            pool.remove(&request(client, 1).key());
            assert!(pool.clients.len() <= IDLE_CLIENTS + 2 && pool.turns.len() <= pool.clients.len());
        }
        put(&mut pool, &config, request(1, 1));
        put(&mut pool, &config, request(2, 1));
        assert_eq!(serials(&pool.take(&config)), [(1, 1), (2, 1)]);
    }

    #[test]
    fn a_later_opening_takes_the_place_of_an_earlier_one() {
        let (mut pool, config) = (Pool::default(), PbftConfig::default());
        let client = SecretKey::from_seed([1; 32]).public();
        let open = |number| Request::unsigned(client, Operation::Open(Nonce { number, tag: 7 }));
        assert_eq!(put(&mut pool, &config, open(2)), Put::New);
        assert_eq!(put(&mut pool, &config, open(1)), Put::Known);
        assert_eq!(put(&mut pool, &config, open(3)), Put::New);
        assert_eq!(pool.take(&config), [open(3)]);
    }
}
