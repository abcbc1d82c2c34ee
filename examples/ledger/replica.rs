//! One replica: pBFT over TCP, its log on disk. It says how things are, a line each time.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use futures::executor::block_on;
use futures::future::join3;
use mesh_consensus::pbft::{Evidence, Pbft, PbftConfig, PbftEvent, PbftHandle as _, ReplicaSet, ReplicaSetError};
use mesh_core::identity::{PublicKey, SecretKey};
use mesh_core::{FileWal, Handle, NodeBuilder, NodeId, ProtocolId, SystemClock, run, wire};
use mesh_examples::evil::{EvilTransport, Forger};
use mesh_examples::hex::{from_hex, to_hex};
use mesh_examples::json_lines;
use mesh_examples::processes::{ProcessOptions, end_with_the_input, path_argument};
use mesh_examples::said::say;
use mesh_transport_tcp::{Allow, TcpConfig, TcpTransport};
use serde::{Deserialize, Serialize};

use crate::books::{Books, Payment, digest};
use crate::evil::Evil;

/// The number that pBFT has on all nodes.
pub(crate) const PBFT: ProtocolId = ProtocolId(1);

/// How often a replica says how things are.
const SAY_INTERVAL: Duration = Duration::from_millis(100);

/// What a replica is told by its command line.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ReplicaOptions {
    #[command(flatten)]
    process: ProcessOptions,
    /// What every account holds at first
    #[arg(long)]
    genesis: PathBuf,
    /// The keys of all replicas
    #[arg(long, value_delimiter = ',')]
    replicas: Vec<PublicKey>,
    /// Who may ask the replicas
    #[arg(long, value_delimiter = ',')]
    clients: Vec<NodeId>,
    /// Be malicious
    #[arg(long, value_enum)]
    evil: Option<Evil>,
}

impl ReplicaOptions {
    /// The arguments that say all this, but for those that are of one process only.
    pub(crate) fn arguments(
        genesis: &Path,
        replicas: &[PublicKey],
        clients: &[NodeId],
        evil: Option<Evil>,
    ) -> Vec<OsString> {
        let list = |items: Vec<String>| items.join(",");
        let mut arguments = vec![
            path_argument("genesis", genesis),
            format!("--replicas={}", list(replicas.iter().map(ToString::to_string).collect())).into(),
            format!("--clients={}", list(clients.iter().map(ToString::to_string).collect())).into(),
        ];
        arguments.extend(evil.map(|evil| format!("--evil={evil}").into()));
        arguments
    }
}

/// The group that these replicas are.
pub(crate) fn group(replicas: &[PublicKey]) -> Result<ReplicaSet, ReplicaSetError> {
    ReplicaSet::new("ledger", replicas.iter().map(|key| (key.node_id(), *key)))
}

/// Timeouts for replicas on one machine.
pub(crate) fn config() -> PbftConfig {
    PbftConfig {
        request_timeout: Duration::from_secs(1),
        order_timeout: Duration::from_millis(500),
        status_interval: Duration::from_millis(100),
        ..PbftConfig::default()
    }
}

/// How a replica is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Said {
    pub(crate) view: u64,
    /// A digest of what all accounts hold.
    pub(crate) balances: String,
    /// Its evidence against others.
    evidence: Vec<String>,
    /// What it dropped as nobody sends it that works: from whom, what, and how often it said so.
    pub(crate) dropped: Vec<(String, String, u64)>,
}

impl Said {
    /// Its evidence against others; what is none is left out.
    pub(crate) fn evidence(&self) -> impl Iterator<Item = Evidence> {
        self.evidence.iter().filter_map(|text| wire::from_slice(&from_hex(text)?).ok())
    }
}

json_lines!(Said);

/// Runs a replica until its input closes.
pub(crate) fn serve(options: ReplicaOptions) -> Result<(), Box<dyn std::error::Error>> {
    let key = SecretKey::load_or_create(options.process.data.join("key"))?;
    let me = key.node_id();
    let replicas = group(&options.replicas)?;
    let nodes = replicas.members().iter().map(|(node, _)| *node);

    let mut tcp = TcpConfig::new(key.clone(), options.process.listen);
    tcp.allow = Allow::Listed(nodes.clone().chain(options.clients).collect());
    let book = tcp.address_book.clone();
    options.process.seed.into_iter().for_each(|seed| book.add_seed(seed));
    nodes.filter(|node| *node != me).for_each(|node| book.pin(node));
    let transport = TcpTransport::bind(tcp)?;
    let listens_at = transport.local_addr();

    let books = Books::read(&options.genesis)?;
    let pbft = Pbft::new(config(), replicas.clone(), Arc::new(key.clone()), books)?
        .with_validator(Payment::is_valid)
        .with_remote_queries();
    let mut node = NodeBuilder::new(me);
    let pbft = node.host(PBFT, pbft);
    let node = node.build();
    let wal = Box::new(FileWal::open(options.process.data.join("wal"), me)?);
    let clock = Arc::new(SystemClock::new());

    end_with_the_input(node.handle());
    println!("{listens_at}");
    thread::spawn(move || report(&pbft));
    match options.evil {
        None => block_on(run(node, transport, clock, wal))?,
        Some(evil) => {
            let forger = Forger::new(PBFT, &replicas, key, None).ok_or("this is no replica")?;
            let lie = move |forger: &Forger, to, message| evil.lie(forger, to, message);
            let transport = EvilTransport::new(transport, forger, lie);
            block_on(run(node, transport, clock, wal))?;
        }
    }
    Ok(())
}

/// Says how things are until the node has stopped.
fn report(pbft: &Handle<Pbft<Books>>) {
    let mut events = pbft.events();
    let mut dropped: BTreeMap<(NodeId, &'static str), u64> = BTreeMap::new();
    loop {
        while let Some(event) = events.try_next() {
            if let Ok(PbftEvent::Misbehaved { peer, what }) = event {
                *dropped.entry((peer, what)).or_default() += 1;
            }
        }
        let asked = block_on(join3(pbft.status(), pbft.query(()), pbft.evidence()));
        let (Ok(Some(status)), Ok(Some(balances)), Ok(evidence)) = asked else { return };
        let said = Said {
            view: status.view,
            balances: digest(&balances),
            evidence: evidence.iter().map(|evidence| to_hex(&wire::to_bytes(evidence))).collect(),
            dropped: dropped
                .iter()
                .map(|((peer, what), times)| (peer.to_string(), (*what).to_owned(), *times))
                .collect(),
        };
        say(&said);
        thread::sleep(SAY_INTERVAL);
    }
}
