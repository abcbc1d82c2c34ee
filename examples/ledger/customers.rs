//! The customers of the four organisations, and what they pay each other.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use futures::executor::block_on;
use futures::future::join_all;
use mesh_consensus::pbft::{PbftClient, PbftHandle as _, ProposeError, ReplicaSet};
use mesh_core::identity::SecretKey;
use mesh_core::{Handle, MemWal, NodeBuilder, NodeHandle, NodeId, Rng64, SystemClock, run};
use mesh_transport_tcp::{Allow, TcpConfig, TcpTransport};

use crate::books::{Balances, Books, Outcome, Payment};
use crate::replica::{PBFT, config};

/// Customers of each organisation.
pub(crate) const CUSTOMERS: usize = 8;

/// What every customer has at first, in cents.
const AT_FIRST: u64 = 10_000;

/// The most that is paid at once, in cents: some cannot afford it.
const PAID_MAX: u64 = 8_000;

/// How long a client waits for the primary before it asks all replicas.
const RETRY_AFTER: Duration = Duration::from_millis(300);

/// How long to wait where the queue of the client is full.
const PAUSE: Duration = Duration::from_millis(5);

/// One who has an account.
#[derive(Clone, Debug)]
pub(crate) struct Customer {
    key: SecretKey,
    /// What it will pay, to whom, in this order.
    orders: Vec<(NodeId, u64)>,
}

/// The customers of all organisations, as many of each, and the payments that a seed stands for.
pub(crate) fn customers(organisations: usize, payments: usize, seed: u64) -> Vec<Customer> {
    let mut rng = Rng64::from_seed(seed, "customers");
    let mut key = || {
        let mut bytes = [0; 32];
        bytes.chunks_exact_mut(8).for_each(|chunk| chunk.copy_from_slice(&rng.next_u64().to_le_bytes()));
        Customer { key: SecretKey::from_seed(bytes), orders: Vec::new() }
    };
    let mut customers: Vec<_> = (0..organisations * CUSTOMERS).map(|_| key()).collect();
    let ids: Vec<_> = customers.iter().map(|customer| customer.key.node_id()).collect();
    for _ in 0..payments {
        let payer = rng.below(ids.len() as u64) as usize;
        let payee = (payer + 1 + rng.below(ids.len() as u64 - 1) as usize) % ids.len();
        customers[payer].orders.push((ids[payee], 1 + rng.below(PAID_MAX)));
    }
    customers
}

/// What all of them have at first.
pub(crate) fn genesis(customers: &[Customer]) -> Balances {
    customers.iter().map(|customer| (customer.key.node_id(), AT_FIRST)).collect()
}

/// The node through which an organisation's customers reach the replicas.
#[derive(Debug)]
pub(crate) struct Gateway {
    node: NodeHandle,
    client: Handle<PbftClient<Books>>,
    thread: JoinHandle<Result<(), String>>,
}

impl Gateway {
    /// Starts it: a client of the group, told where replicas listen.
    pub(crate) fn start(
        key: SecretKey,
        replicas: &ReplicaSet,
        addresses: impl IntoIterator<Item = (NodeId, SocketAddr)>,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let mut tcp = TcpConfig::new(key.clone(), SocketAddr::from(([127, 0, 0, 1], 0)));
        tcp.allow = Allow::Listed(replicas.members().iter().map(|(node, _)| *node).collect());
        for (replica, address) in addresses {
            tcp.address_book.set(replica, [address]);
            tcp.address_book.pin(replica);
        }
        let transport = TcpTransport::bind(tcp)?;
        let mut node = NodeBuilder::new(key.node_id());
        let client = PbftClient::new(&config(), replicas.clone(), Arc::new(key), RETRY_AFTER).with_queries();
        let client = node.host(PBFT, client);
        let node = node.build();
        let handle = node.handle();
        let running = run(node, transport, Arc::new(SystemClock::new()), Box::new(MemWal::new()));
        let thread = thread::spawn(move || block_on(running).map_err(|error| error.to_string()));
        Ok(Self { node: handle, client, thread })
    }

    /// What every account holds, as a quorum of replicas says.
    pub(crate) fn balances(&self) -> Result<Option<Balances>, String> {
        block_on(self.client.query(())).map_err(|error| error.to_string())
    }

    /// Stops it in good order.
    pub(crate) fn stop(self) -> Result<(), String> {
        self.node.stop();
        self.thread.join().map_err(|_| "a gateway panicked".to_owned())?
    }
}

/// How paying goes.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Payments that were answered.
    pub(crate) answered: AtomicUsize,
    /// Nobody is to pay any more.
    given_up: AtomicBool,
    times: Mutex<Vec<Duration>>,
}

impl Progress {
    pub(crate) fn give_up(&self) {
        self.given_up.store(true, Relaxed);
    }

    /// The longest that a payment took, and what half of them took at most.
    pub(crate) fn longest_and_median(&self) -> Option<(Duration, Duration)> {
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner).clone();
        times.sort_unstable();
        Some((*times.last()?, times[times.len() / 2]))
    }
}

/// What came of the payments.
#[derive(Debug, Default)]
pub(crate) struct Paid {
    pub(crate) paid: usize,
    pub(crate) refused: usize,
    /// What was paid, less what was got, by account.
    changes: BTreeMap<NodeId, i64>,
}

impl Paid {
    /// What these payments make of what there was.
    pub(crate) fn applied_to(&self, before: &Balances) -> Balances {
        let after = |(id, cents): (&NodeId, &u64)| {
            (*id, cents.saturating_add_signed(self.changes.get(id).copied().unwrap_or_default()))
        };
        before.iter().map(after).collect()
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.paid += other.paid;
        self.refused += other.refused;
        for (id, change) in other.changes {
            *self.changes.entry(id).or_default() += change;
        }
    }
}

/// Lets the customers of an organisation pay through its gateway, all at a time, each one payment after the other.
pub(crate) fn pay(
    gateway: &Gateway,
    customers: &[Customer],
    progress: &Arc<Progress>,
) -> io::Result<JoinHandle<Result<Paid, String>>> {
    let (client, customers, progress) = (gateway.client.clone(), customers.to_vec(), progress.clone());
    thread::Builder::new().spawn(move || {
        let mut all = Paid::default();
        for paid in block_on(join_all(customers.iter().map(|customer| pay_all(&client, customer, &progress)))) {
            all.add(paid?);
        }
        Ok(all)
    })
}

async fn pay_all(client: &Handle<PbftClient<Books>>, customer: &Customer, progress: &Progress) -> Result<Paid, String> {
    let mut all = Paid::default();
    for (number, (payee, cents)) in (0..).zip(&customer.orders) {
        let payment = Payment::signed(&customer.key, *payee, *cents, number);
        let begin = Instant::now();
        let outcome = loop {
            if progress.given_up.load(Relaxed) {
                return Err("the payments took too long".to_owned());
            }
            match client.propose(payment).await {
                Ok(executed) => break executed.output,
                // It went nowhere.
                Err(ProposeError::Overloaded | ProposeError::Busy) => thread::sleep(PAUSE),
                Err(error) => return Err(error.to_string()),
            }
        };
        match outcome {
            Outcome::Paid => {
                all.paid += 1;
                *all.changes.entry(customer.key.node_id()).or_default() -= *cents as i64;
                *all.changes.entry(*payee).or_default() += *cents as i64;
            }
            Outcome::NotEnough => all.refused += 1,
            other => return Err(format!("a payment came to {other:?}")),
        }
        progress.answered.fetch_add(1, Relaxed);
        progress.times.lock().unwrap_or_else(PoisonError::into_inner).push(begin.elapsed());
    }
    Ok(all)
}
