//! One node: membership, overlay, partition handler and monitor over TCP. It says how things are, a line each time.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use futures::executor::block_on;
use futures::future::join4;
use mesh_core::identity::SecretKey;
use mesh_core::{Handle, MemWal, NodeBuilder, ProtocolId, SystemClock, run};
use mesh_examples::processes::{ProcessOptions, end_with_the_input};
use mesh_examples::said::say;
use mesh_gossip::membership::{Membership, MembershipConfig, MembershipHandle as _, Profile, Status, follow};
use mesh_gossip::metrics::{Monitor, MonitorCommand, MonitorConfig, MonitorHandle as _};
use mesh_gossip::overlay::{Overlay, OverlayCommand, OverlayConfig, OverlayHandle as _};
use mesh_gossip::partition::{Mode, Partition, PartitionCommand, PartitionConfig, PartitionHandle as _};
use mesh_transport_tcp::{Allow, TcpConfig, TcpTransport};

use super::table::Table;

const MEMBERS: ProtocolId = ProtocolId(1);
const OVERLAY: ProtocolId = ProtocolId(4);
const PARTITION: ProtocolId = ProtocolId(6);
const MONITOR: ProtocolId = ProtocolId(7);

/// How often the node says how things are.
const SAY_INTERVAL: Duration = Duration::from_millis(100);

/// Runs a node until its input closes. `founders` of the nodes there are at first must know each other before any may go on.
pub(crate) fn serve(
    ProcessOptions { data, listen, seed }: ProcessOptions,
    zone: u16,
    founders: usize,
) -> Result<(), Box<dyn std::error::Error>> {
    let key = SecretKey::load_or_create(data.join("key"))?;
    let me = key.node_id();
    let mut config = TcpConfig::new(key, listen);
    // On one machine, for show. Elsewhere, list who may take part.
    config.allow = Allow::Anyone;
    let book = config.address_book.clone();
    seed.into_iter().for_each(|seed| book.add_seed(seed));
    let transport = TcpTransport::bind(config)?;
    let listens_at = transport.local_addr();

    let mut node = NodeBuilder::new(me);
    let profile = Profile { zone, address: listens_at.to_string().into(), ..Profile::default() };
    let members = node.host(MEMBERS, Membership::new(MembershipConfig::local())?.profile(&profile)?);
    let overlay = node.host(OVERLAY, Overlay::new(OverlayConfig { zone, ..OverlayConfig::default() })?);
    let config = PartitionConfig { founders, ..PartitionConfig::default().faster(5) };
    let partition = node.host(PARTITION, Partition::new(config, [])?);
    let config = MonitorConfig { interval: Duration::from_millis(500), ..MonitorConfig::default() };
    let monitor = Monitor::new(config, node.metrics())?;
    let monitor = node.host(MONITOR, monitor);
    members.link(&overlay, OverlayCommand::of_member);
    members.link(&partition, PartitionCommand::of_member);
    members.link(&monitor, MonitorCommand::of_member);
    partition.link(&monitor, MonitorCommand::of_partition);

    let node = node.build();
    end_with_the_input(node.handle());
    let followed = members.clone();
    thread::spawn(move || {
        let followed = block_on(follow(&followed, &book, |found| followed.meet(found)));
        followed.unwrap_or_else(|error| eprintln!("{error}"));
    });
    println!("{listens_at}");
    thread::spawn(move || report(&members, &overlay, &partition, &monitor));
    Ok(block_on(run(node, transport, Arc::new(SystemClock::new()), Box::new(MemWal::new())))?)
}

/// Says how things are until the node has stopped.
fn report(
    members: &Handle<Membership>,
    overlay: &Handle<Overlay>,
    partition: &Handle<Partition>,
    monitor: &Handle<Monitor>,
) {
    loop {
        let asked = join4(members.members(), overlay.links(), partition.status(), monitor.reports());
        let (Ok(members), Ok(links), Ok(partition), Ok(reports)) = block_on(asked) else { return };
        let with = |status: fn(Status) -> bool| {
            members.iter().filter(move |member| status(member.status)).map(|member| member.node).collect()
        };
        let table = Table {
            goes_on: partition.mode == Mode::Continue,
            coordinator: partition.coordinator,
            voters: partition.voters,
            alive: with(|status| status == Status::Alive),
            suspected: with(|status| status == Status::Suspect),
            gone: with(|status| !status.is_live()),
            zones: members.iter().map(|member| (member.node, member.profile.zone)).collect(),
            links: links.iter().map(|link| link.node).collect(),
            down_by: reports.into_iter().map(|report| (report.origin, Table::down_of(&report))).collect(),
        };
        say(&table);
        thread::sleep(SAY_INTERVAL);
    }
}
