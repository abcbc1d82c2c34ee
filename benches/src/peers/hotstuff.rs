//! hotstuff_rs as it ships: replicas with their own threads, messages passed as structs through channels.
//!
//! A batch is the one datum of a block. The block tree is in memory, there are no clients, and the application has
//! no state: a leader has a batch at once, and the others check its digest. Of the three threads of a replica one
//! runs the protocol; the other two ask for messages all the time, and take whatever the processor has left.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hotstuff_rs::app::{App, ProduceBlockRequest, ProduceBlockResponse, ValidateBlockRequest, ValidateBlockResponse};
use hotstuff_rs::block_tree::pluggables::{KVGet, KVStore, WriteBatch};
use hotstuff_rs::networking::messages::Message;
use hotstuff_rs::networking::network::Network;
use hotstuff_rs::replica::{Configuration, Replica, ReplicaSpec};
use hotstuff_rs::types::crypto_primitives::{CryptoHasher, Digest as _, SigningKey, VerifyingKey};
use hotstuff_rs::types::data_types::{BufferSize, ChainID, CryptoHash, Data, Datum, EpochLength, Power};
use hotstuff_rs::types::update_sets::{AppStateUpdates, ValidatorSetUpdates};
use hotstuff_rs::types::validator_set::{ValidatorSet, ValidatorSetState};

use crate::cpu;
use crate::stopwatch::Stopwatch;

/// Bytes of a request.
const PAYLOAD: usize = 64;

/// What a run was.
#[derive(Clone, Copy, Debug)]
pub struct HotstuffRun {
    /// Batches that every replica committed.
    pub batches: f64,
    /// Time that passed.
    pub elapsed: Duration,
    /// Time that all threads took of the processor.
    pub cpu: Duration,
    /// Time that those threads took which run the protocol.
    pub protocol_cpu: Duration,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

/// A block tree in memory.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Map>>);

impl KVGet for Memory {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        lock(&self.0).get(key).cloned()
    }
}

impl KVStore for Memory {
    type WriteBatch = Changes;
    type Snapshot<'a> = Snapshot<'a>;

    fn write(&mut self, changes: Changes) {
        let mut map = lock(&self.0);
        for (key, value) in changes.0 {
            match value {
                Some(value) => map.insert(key, value),
                None => map.remove(&key),
            };
        }
    }

    fn clear(&mut self) {
        lock(&self.0).clear();
    }

    fn snapshot(&self) -> Snapshot<'_> {
        Snapshot(lock(&self.0))
    }
}

/// What becomes of each key; without a value it is deleted.
struct Changes(BTreeMap<Vec<u8>, Option<Vec<u8>>>);

impl WriteBatch for Changes {
    fn new() -> Self {
        Self(BTreeMap::new())
    }

    fn set(&mut self, key: &[u8], value: &[u8]) {
        self.0.insert(key.to_vec(), Some(value.to_vec()));
    }

    fn delete(&mut self, key: &[u8]) {
        self.0.insert(key.to_vec(), None);
    }
}

struct Snapshot<'a>(MutexGuard<'a, Map>);

impl KVGet for Snapshot<'_> {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.0.get(key).cloned()
    }
}

/// A message, and who sent it.
type Sent = (VerifyingKey, Message);

/// One replica's channels from and to all, itself too.
#[derive(Clone)]
struct Channels {
    me: VerifyingKey,
    peers: Arc<[(VerifyingKey, Sender<Sent>)]>,
    inbox: Arc<Mutex<Receiver<Sent>>>,
}

impl Channels {
    /// Those of each replica.
    fn between(keys: &[VerifyingKey]) -> Vec<Self> {
        let (peers, inboxes): (Vec<_>, Vec<_>) = keys
            .iter()
            .map(|key| {
                let (sender, receiver) = channel();
                ((*key, sender), Arc::new(Mutex::new(receiver)))
            })
            .unzip();
        let peers: Arc<[_]> = peers.into();
        let each = keys.iter().zip(inboxes);
        each.map(|(me, inbox)| Self { me: *me, peers: Arc::clone(&peers), inbox }).collect()
    }
}

impl Network for Channels {
    fn init_validator_set(&mut self, _: ValidatorSet) {}

    fn update_validator_set(&mut self, _: ValidatorSetUpdates) {}

    fn broadcast(&mut self, message: Message) {
        for (_, peer) in self.peers.iter() {
            // A replica that has ended takes nothing.
            let _ = peer.send((self.me, message.clone()));
        }
    }

    fn send(&mut self, to: VerifyingKey, message: Message) {
        if let Some((_, peer)) = self.peers.iter().find(|(key, _)| *key == to) {
            let _ = peer.send((self.me, message));
        }
    }

    fn recv(&mut self) -> Option<Sent> {
        lock(&self.inbox).try_recv().ok()
    }
}

/// What a replica proposes and takes.
struct Batches {
    requests: usize,
    /// Where it tells which thread it is called by.
    threads: Arc<Mutex<Vec<PathBuf>>>,
    told: bool,
}

impl Batches {
    fn tell_thread(&mut self) {
        if !std::mem::replace(&mut self.told, true) {
            lock(&self.threads).extend(cpu::this_thread());
        }
    }
}

fn digest(data: &Data) -> CryptoHash {
    let mut hasher = CryptoHasher::new();
    data.iter().for_each(|datum| hasher.update(datum.bytes()));
    CryptoHash::new(hasher.finalize().into())
}

impl App<Memory> for Batches {
    fn produce_block(&mut self, _: ProduceBlockRequest<'_, Memory>) -> ProduceBlockResponse {
        self.tell_thread();
        let data = Data::new(vec![Datum::new(vec![7; self.requests * PAYLOAD])]);
        let data_hash = digest(&data);
        ProduceBlockResponse { data_hash, data, app_state_updates: None, validator_set_updates: None }
    }

    fn validate_block(&mut self, request: ValidateBlockRequest<'_, '_, Memory>) -> ValidateBlockResponse {
        self.tell_thread();
        self.validate_block_for_sync(request)
    }

    fn validate_block_for_sync(&mut self, request: ValidateBlockRequest<'_, '_, Memory>) -> ValidateBlockResponse {
        let block = request.proposed_block();
        if digest(&block.data) == block.data_hash {
            ValidateBlockResponse::Valid { app_state_updates: None, validator_set_updates: None }
        } else {
            ValidateBlockResponse::Invalid
        }
    }
}

/// What its own tests have, but for the time between advertisements: they wake replicas that are to end.
fn configuration(me: SigningKey) -> Configuration {
    Configuration::builder()
        .me(me)
        .chain_id(ChainID::new(0))
        .block_sync_request_limit(10)
        .block_sync_server_advertise_time(Duration::from_secs(1))
        .block_sync_response_timeout(Duration::from_secs(3))
        .block_sync_blacklist_expiry_time(Duration::from_secs(10))
        .block_sync_trigger_min_view_difference(2)
        .block_sync_trigger_timeout(Duration::from_secs(60))
        .progress_msg_buffer_capacity(BufferSize::new(1024))
        .epoch_length(EpochLength::new(50))
        .max_view_time(Duration::from_secs(2))
        .log_events(false)
        .build()
}

/// Replicas of hotstuff_rs. They go on until this is dropped.
pub struct Hotstuff {
    replicas: Vec<Replica<Memory>>,
    threads: Arc<Mutex<Vec<PathBuf>>>,
}

impl std::fmt::Debug for Hotstuff {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hotstuff").field("replicas", &self.replicas.len()).finish_non_exhaustive()
    }
}

impl Hotstuff {
    /// Replicas of which each has taken and committed some, with so many requests in a batch.
    pub fn start(replicas: u8, batch: usize) -> Self {
        let keys: Vec<_> = (1..=replicas).map(|n| SigningKey::from_bytes(&[n; 32])).collect();
        let names: Vec<_> = keys.iter().map(SigningKey::verifying_key).collect();
        let mut validators = ValidatorSet::new();
        names.iter().for_each(|name| validators.put(name, Power::new(1)));
        let validators = ValidatorSetState::new(validators.clone(), validators, None, true);
        let threads = Arc::default();
        let replica = |(key, network): (&SigningKey, Channels)| {
            let store = Memory::default();
            Replica::initialize(store.clone(), AppStateUpdates::new(), validators.clone());
            let app = Batches { requests: batch, threads: Arc::clone(&threads), told: false };
            let spec = ReplicaSpec::builder().app(app).network(network).kv_store(store);
            spec.configuration(configuration(key.clone())).build().start()
        };
        let replicas: Vec<_> = keys.iter().zip(Channels::between(&names)).map(replica).collect();
        let group = Self { replicas, threads };
        let patience = Stopwatch::start();
        while group.committed() < 8 {
            assert!(patience.elapsed() < Duration::from_secs(60), "the replicas stand still");
            std::thread::sleep(Duration::from_millis(1));
        }
        group
    }

    /// Blocks that all replicas committed.
    fn committed(&self) -> u64 {
        let each = self.replicas.iter().map(|replica| {
            let tree = replica.block_tree_camera().snapshot();
            let block = tree.highest_committed_block().ok().flatten();
            let height = block.and_then(|block| tree.block_height(&block).ok().flatten());
            height.map_or(0, |height| height.int() + 1)
        });
        each.min().unwrap_or(0)
    }

    /// Lets them go on for so long.
    ///
    /// # Errors
    /// Those of the file system, where there is nothing that tells the time of threads.
    pub fn run(&self, time: Duration) -> io::Result<HotstuffRun> {
        let protocol_cpu =
            || lock(&self.threads).iter().map(|thread| cpu::of_thread(thread)).sum::<io::Result<Duration>>();
        let before = (self.committed(), cpu::of_process()?, protocol_cpu()?);
        let watch = Stopwatch::start();
        std::thread::sleep(time);
        let batches = (self.committed() - before.0) as f64;
        let (cpu, protocol_cpu) = (cpu::of_process()? - before.1, protocol_cpu()? - before.2);
        Ok(HotstuffRun { batches, elapsed: watch.elapsed(), cpu, protocol_cpu })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_commit_and_take_time_of_the_processor() {
        let group = Hotstuff::start(4, 64);
        let committed = group.committed();
        let watch = Stopwatch::start();
        while group.committed() < committed + 16 {
            assert!(watch.elapsed() < Duration::from_secs(60), "the replicas stand still");
            std::thread::yield_now();
        }
        if let Ok(run) = group.run(Duration::from_millis(100)) {
            assert!(run.protocol_cpu <= run.cpu, "{run:?}");
        }
    }
}
