//! A small cluster of replicas by hand: messages stay values, time passes and disks finish when a
//! test says so, and the safety of Raft is checked after every step.
#![allow(dead_code, unused_imports, unreachable_pub, reason = "each test file uses a part of it")]

mod asking;
mod journal;
mod messages;
#[cfg(feature = "planted")]
mod planting;
mod sessions;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use mesh_consensus::log::{Entry, EntryKind};
use mesh_consensus::raft::{
    Accepted, Applied, Configuration, Forward, HardState, Member, Message, ProposeError, Raft, RaftCommand, RaftConfig,
    RaftEvent, RaftReply, RaftStatus, Record, Rejected, ReplicaId, RequestVote, Role, SnapshotReceived, Timer, Vote,
};
use mesh_core::snapshot::MemSnapshots;
use mesh_core::{
    Bytes, Context, Instant, LogIndex, LogOp, Lsn, NodeId, Outbox, Outgoing, PeerStatus, Protocol, Recovery, RequestId,
    RestoreError, Rng64, SnapshotId, SnapshotRead, SnapshotSource, StateMachine, Wire, wire,
};

pub use asking::*;
pub use journal::*;
pub use messages::*;
#[cfg(feature = "planted")]
pub use planting::*;
pub use sessions::*;

pub type Replica = Raft<Journal>;

/// Snapshots every few entries, in chunks of a few bytes, and nothing kept below them.
pub fn small() -> RaftConfig {
    RaftConfig { snapshot_log_bytes: 250, trailing_log_bytes: 0, snapshot_chunk_bytes: 8, ..config() }
}

/// Proposes one command after the other, and tells all that they are committed.
pub fn propose_all(cluster: &mut Cluster, number: usize, commands: std::ops::Range<u64>) {
    for command in commands {
        cluster.propose(number, command);
        cluster.deliver();
    }
    cluster.beat(number);
}

/// What is on the disk of a node, and what is on its way there.
#[derive(Default)]
pub struct Disk {
    /// While set, nothing becomes durable.
    pub hung: bool,
    log: Vec<Record>,
    last: Lsn,
    pub snapshots: MemSnapshots,
    waiting: VecDeque<LogOp<Record>>,
    saving: Vec<(SnapshotId, SnapshotSource)>,
    reading: Vec<SnapshotRead>,
}

impl Disk {
    /// The name of the snapshot that the log begins with.
    pub fn newest_snapshot(&self) -> SnapshotId {
        let named = |record: &Record| match record {
            Record::Snapshot(snapshot) => Some(snapshot.id),
            _ => None,
        };
        self.log.iter().find_map(named).expect("there is a snapshot")
    }

    /// The number of the last record on its way.
    pub fn written_upto(&self) -> Lsn {
        let numbered = |op: &LogOp<Record>| match op {
            LogOp::Record(_) => 1,
            LogOp::Checkpoint(records) => records.len() as u64,
            LogOp::DropSnapshotsBelow(_) => 0,
        };
        Lsn(self.last.0 + self.waiting.iter().map(numbered).sum::<u64>())
    }

    fn write(&mut self, op: LogOp<Record>) {
        match op {
            LogOp::Record(record) => {
                self.log.push(record);
                self.last.0 += 1;
            }
            LogOp::Checkpoint(records) => {
                self.last.0 += records.len() as u64;
                self.log = records;
            }
            LogOp::DropSnapshotsBelow(id) => self.snapshots.drop_below(id),
        }
    }
}

pub struct Node {
    pub id: NodeId,
    /// `None` while it is down.
    pub raft: Option<Replica>,
    pub disk: Disk,
    pub config: RaftConfig,
    outbox: Outbox<Replica>,
    rng: Rng64,
    requests: u64,
    pub replies: Vec<(RequestId, Result<Applied<u64>, ProposeError>)>,
    /// Answers to what is no proposal of a command.
    pub other_replies: Vec<(RequestId, RaftReply<u64, Vec<u64>>)>,
    /// By how many millionths its clock runs faster than the time.
    pub fast_ppm: i64,
    /// While set, its process does not run: timers do not fire, and messages wait.
    pub paused: bool,
    pub events: Vec<RaftEvent>,
    /// For the checks: nothing of this ever goes back.
    term: u64,
    commit: u64,
}

impl Node {
    fn new(number: usize, config: &RaftConfig, seed: u64) -> Self {
        Self {
            id: id(number),
            raft: None,
            disk: Disk::default(),
            config: config.clone(),
            outbox: Outbox::default(),
            rng: Rng64::from_seed(seed, &format!("node {number}")),
            requests: 0,
            replies: Vec::new(),
            other_replies: Vec::new(),
            fast_ppm: 0,
            paused: false,
            events: Vec::new(),
            term: 0,
            commit: 0,
        }
    }

    /// What its clock shows at a time.
    fn clock(&self, time: Instant) -> Instant {
        let nanos = time.since(Instant::ZERO).as_nanos();
        let nanos = nanos * u128::try_from(1_000_000 + self.fast_ppm).expect("clocks run forward") / 1_000_000;
        Instant::ZERO + Duration::from_nanos(u64::try_from(nanos).expect("a test does not last so long"))
    }

    /// When the next of its timers is due, in the time of the test.
    fn next_due(&self) -> Option<Instant> {
        let due = self.outbox.timers.next_deadline().filter(|_| self.raft.is_some() && !self.paused)?;
        let nanos = due.since(Instant::ZERO).as_nanos() * 1_000_000;
        let nanos = nanos.div_ceil(u128::try_from(1_000_000 + self.fast_ppm).expect("clocks run forward"));
        Some(Instant::ZERO + Duration::from_nanos(u64::try_from(nanos).expect("a test does not last so long")))
    }
}

/// A message on its way.
#[derive(Clone, Debug, PartialEq)]
pub struct Flight {
    pub from: NodeId,
    pub to: NodeId,
    pub message: Message,
}

/// What becomes of a message.
pub enum Fate {
    Deliver,
    Drop,
    /// It stays on its way until the test calls [`Cluster::release`].
    Hold,
    /// It arrives as another.
    As(Message),
}

type Rule = Box<dyn FnMut(&Flight) -> Fate>;

pub struct Cluster {
    pub nodes: Vec<Node>,
    /// Whom the group began with. A node that is not among them waits to be added.
    pub founders: Vec<Member>,
    pub now: Instant,
    pub network: VecDeque<Flight>,
    pub held: Vec<Flight>,
    rule: Rule,
    leaders: BTreeMap<u64, NodeId>,
    /// Each committed entry, and the term of the leader that committed it.
    committed: BTreeMap<u64, (Entry, u64)>,
    /// The seed of the nodes' generators.
    seed: u64,
}

pub fn config() -> RaftConfig {
    RaftConfig {
        election_timeout: Duration::from_millis(1000),
        heartbeat_interval: Duration::from_millis(100),
        #[cfg(feature = "planted")]
        plant: planted(),
        ..RaftConfig::default()
    }
}

/// Elections at the test's word: no pre-vote, no stickiness.
pub fn plain() -> RaftConfig {
    RaftConfig { pre_vote: false, check_quorum: false, ..config() }
}

pub fn id(number: usize) -> NodeId {
    NodeId(number as u128)
}

/// The configuration of nodes 1 to 3, as their first leader has not named the replicas yet.
pub fn group() -> Configuration {
    Configuration::new([1, 2, 3].map(id)).unwrap()
}

impl Cluster {
    /// Nodes 1 to `count`, all up, none leading.
    pub fn new(count: usize) -> Self {
        Self::with(count, &config(), 1)
    }

    /// A group that has been formed, with replica 1 on node 1 and so on, but has nothing in its log.
    pub fn with(count: usize, config: &RaftConfig, seed: u64) -> Self {
        Self::with_witnesses(count, &[], config, seed)
    }

    /// The same, and some of the nodes are witnesses.
    pub fn with_witnesses(count: usize, witnesses: &[usize], config: &RaftConfig, seed: u64) -> Self {
        let member = |number| {
            let (replica, witness) = (ReplicaId(number as u64), witnesses.contains(&number));
            Member { node: id(number), replica, witness }
        };
        let mut cluster = Self::stopped(count, config, seed);
        cluster.founders = (1..=count).map(member).collect();
        for (node, member) in cluster.nodes.iter_mut().zip(&cluster.founders) {
            let hard = HardState { replica: member.replica, ..HardState::default() };
            node.disk.write(LogOp::Record(Record::HardState(hard)));
        }
        (1..=count).for_each(|number| cluster.restart(number));
        cluster
    }

    /// A group that has never been started before.
    pub fn fresh(count: usize, config: &RaftConfig, seed: u64) -> Self {
        let mut cluster = Self::stopped(count, config, seed);
        (1..=count).for_each(|number| cluster.restart(number));
        cluster
    }

    /// Nodes of the group of `founders` with empty disks, all down.
    fn stopped(count: usize, config: &RaftConfig, seed: u64) -> Self {
        Self {
            nodes: (1..=count).map(|number| Node::new(number, config, seed)).collect(),
            founders: (1..=count).map(|number| Member::new(id(number))).collect(),
            now: Instant::ZERO,
            network: VecDeque::new(),
            held: Vec::new(),
            rule: Box::new(|_| Fate::Deliver),
            leaders: BTreeMap::new(),
            committed: BTreeMap::new(),
            seed,
        }
    }

    /// A cluster whose node 1 leads, with its first entry committed everywhere.
    pub fn led(count: usize) -> Self {
        Self::new(count).with_leader(1)
    }

    pub fn with_leader(mut self, number: usize) -> Self {
        self.campaign(number);
        self.deliver();
        assert_eq!(self.raft(number).role(), Role::Leader);
        self.beat(number);
        self
    }

    pub fn raft(&self, number: usize) -> &Replica {
        self.nodes[number - 1].raft.as_ref().expect("the node is up")
    }

    pub fn status(&self, number: usize) -> RaftStatus {
        self.raft(number).status(self.nodes[number - 1].clock(self.now))
    }

    pub fn raft_is_up(&self, number: usize) -> bool {
        self.nodes[number - 1].raft.is_some()
    }

    pub fn node(&mut self, number: usize) -> &mut Node {
        &mut self.nodes[number - 1]
    }

    pub fn journal(&self, number: usize) -> &[u64] {
        &self.raft(number).state().0
    }

    pub fn leader(&self) -> Option<usize> {
        let leads = |node: &&Node| node.raft.as_ref().is_some_and(|raft| raft.role() == Role::Leader);
        self.nodes.iter().filter(leads).max_by_key(|node| node.term).map(|node| node.id.0 as usize)
    }

    /// What becomes of messages from now on.
    pub fn rule(&mut self, rule: impl FnMut(&Flight) -> Fate + 'static) {
        self.rule = Box::new(rule);
    }

    pub fn heal(&mut self) {
        self.rule(|_| Fate::Deliver);
    }

    /// Only nodes of the same group hear each other.
    pub fn partition(&mut self, groups: &'static [&'static [usize]]) {
        self.rule(move |flight| {
            let together =
                |group: &&[usize]| group.contains(&(flight.from.0 as usize)) && group.contains(&(flight.to.0 as usize));
            if groups.iter().any(together) { Fate::Deliver } else { Fate::Drop }
        });
    }

    /// Runs a handler of a node and what follows from it, but delivers nothing.
    pub fn step(&mut self, number: usize, handler: impl FnOnce(&mut Replica, &mut Context<'_, Replica>)) {
        self.run(number, handler);
        if !self.nodes[number - 1].disk.hung {
            self.sync(number);
        }
        self.check();
    }

    fn collect(&mut self, number: usize) {
        let node = &mut self.nodes[number - 1];
        for Outgoing { to, message } in node.outbox.messages.drain(..) {
            for to in to.as_slice() {
                self.network.push_back(Flight { from: node.id, to: *to, message: message.clone() });
            }
        }
        for (request, reply) in node.outbox.replies.drain(..) {
            match reply {
                RaftReply::Proposed(result) => node.replies.push((request, result)),
                other => node.other_replies.push((request, other)),
            }
        }
        node.events.append(&mut node.outbox.events);
        node.disk.waiting.extend(node.outbox.log.drain(..));
        node.disk.saving.append(&mut node.outbox.snapshots);
        node.disk.reading.append(&mut node.outbox.reads);
    }

    /// All that a node wrote becomes durable, and what it reads is there.
    pub fn sync(&mut self, number: usize) {
        while let disk = &mut self.nodes[number - 1].disk
            && !(disk.waiting.is_empty() && disk.saving.is_empty() && disk.reading.is_empty())
        {
            let upto = disk.written_upto();
            self.save_snapshots(number);
            self.sync_upto(number, upto);
            for SnapshotRead { id, offset, len } in std::mem::take(&mut self.nodes[number - 1].disk.reading) {
                let result = self.nodes[number - 1].disk.snapshots.read(id, offset, len);
                self.run(number, |raft, cx| raft.on_snapshot_read(cx, id, offset, result));
            }
        }
    }

    /// The snapshots of a node become durable, and no records.
    pub fn save_snapshots(&mut self, number: usize) {
        for (id, source) in std::mem::take(&mut self.nodes[number - 1].disk.saving) {
            let result = self.nodes[number - 1].disk.snapshots.save(id, source);
            self.run(number, |raft, cx| raft.on_snapshot_saved(cx, id, result));
        }
    }

    /// The records of a node up to `upto` become durable.
    pub fn sync_upto(&mut self, number: usize, upto: Lsn) {
        let node = &mut self.nodes[number - 1];
        while node.disk.last < upto || matches!(node.disk.waiting.front(), Some(LogOp::DropSnapshotsBelow(_))) {
            let Some(op) = node.disk.waiting.pop_front() else { break };
            node.disk.write(op);
        }
        let upto = node.disk.last;
        node.outbox.set_durable(upto);
        self.run(number, |raft, cx| raft.on_durable(cx, upto));
    }

    /// Runs a handler of a node, without checks and without its disk.
    pub fn run(&mut self, number: usize, handler: impl FnOnce(&mut Replica, &mut Context<'_, Replica>)) {
        let node = &mut self.nodes[number - 1];
        let clock = node.clock(self.now);
        let Some(raft) = &mut node.raft else { return };
        let mut cx = Context::new(node.id, clock, &mut node.rng, &mut node.outbox);
        handler(raft, &mut cx);
        raft.on_flush(&mut cx);
        self.collect(number);
    }

    /// Delivers messages, and those they cause, until there are none.
    pub fn deliver(&mut self) {
        for _ in 0..100_000 {
            if !self.deliver_one() {
                return;
            }
        }
        panic!("the nodes do not come to rest");
    }

    pub fn deliver_one(&mut self) -> bool {
        let runs = |flight: &Flight| {
            let receiver = usize::try_from(flight.to.0).ok().and_then(|number| self.nodes.get(number - 1));
            receiver.is_none_or(|node| !node.paused)
        };
        let Some(next) = self.network.iter().position(runs) else { return false };
        let Some(flight) = self.network.remove(next) else { return false };
        match (self.rule)(&flight) {
            Fate::Deliver => self.arrive(flight),
            Fate::Drop => {}
            Fate::Hold => self.held.push(flight),
            Fate::As(message) => self.arrive(Flight { message, ..flight }),
        }
        true
    }

    /// A message arrives, whatever the rule says.
    pub fn arrive(&mut self, Flight { from, to, message }: Flight) {
        self.step(to.0 as usize, |raft, cx| raft.on_message(cx, from, message));
    }

    /// A message that the test makes up arrives; the answers to it are taken off the network.
    ///
    /// Where it names no replica or replication session, it is of those that are current.
    pub fn say(&mut self, from: usize, to: usize, mut message: Message) -> Vec<Message> {
        self.name_sender(from, to, &mut message);
        self.arrive(Flight { from: id(from), to: id(to), message });
        let (answers, others): (Vec<_>, Vec<_>) = self.network.drain(..).partition(|flight| flight.from == id(to));
        self.network = others.into();
        let back = answers.into_iter().filter(|flight| flight.to == id(from));
        back.map(|flight| without_names(flight.message)).collect()
    }

    /// Gives a made-up message the replica and the replication session that are current.
    pub fn name_sender(&self, from: usize, to: usize, message: &mut Message) {
        let current = self.nodes.get(from - 1).and_then(|node| node.raft.as_ref()).map(Replica::replica);
        let status = self.status(to);
        let follower = status.followers.iter().find(|follower| follower.node == id(from));
        let name = |replica: &mut ReplicaId| {
            if !replica.is_known() {
                *replica = current.unwrap_or_default();
            }
        };
        let number = |session: &mut u64| {
            if *session == 0 {
                *session = follower.map_or(0, |follower| follower.session);
            }
        };
        match message {
            Message::RequestVote(RequestVote { candidate: replica, .. })
            | Message::Forward(Forward { replica, .. }) => {
                name(replica);
            }
            Message::Vote(Vote { replica, candidate, .. }) => {
                name(replica);
                if !candidate.is_known() {
                    *candidate = self.raft(to).replica();
                }
            }
            Message::SnapshotChunk(chunk) if chunk.leader == NodeId::default() => chunk.leader = id(from),
            Message::Accepted(Accepted { replica, session, .. })
            | Message::Rejected(Rejected { replica, session, .. })
            | Message::SnapshotReceived(SnapshotReceived { replica, session, .. }) => {
                name(replica);
                number(session);
            }
            _ => {}
        }
    }

    /// Takes all messages off the network.
    pub fn take_network(&mut self) -> Vec<Flight> {
        self.network.drain(..).collect()
    }

    /// The terms of the entries that a node holds.
    pub fn terms(&self, number: usize) -> Vec<u64> {
        let raft = self.raft(number);
        (raft.first_index().0..=raft.last_index().0).filter_map(|index| raft.term_at(LogIndex(index))).collect()
    }

    /// Messages held so far arrive, oldest first.
    pub fn release(&mut self) {
        for flight in std::mem::take(&mut self.held) {
            self.arrive(flight);
        }
    }

    /// A timer of a node fires, due or not.
    pub fn fire(&mut self, number: usize, timer: Timer) {
        self.step(number, |raft, cx| raft.on_timer(cx, timer));
    }

    /// The node tries to lead at once.
    pub fn campaign(&mut self, number: usize) {
        self.fire(number, Timer::ElectionDue);
    }

    /// The node sends its heartbeats and all come to rest.
    pub fn beat(&mut self, number: usize) {
        self.fire(number, Timer::HeartbeatDue);
        self.deliver();
    }

    /// Time passes; timers fire and messages arrive without delay.
    pub fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.deliver();
            let Some(due) = self.nodes.iter().filter_map(Node::next_due).min().filter(|due| *due <= end) else { break };
            self.now = self.now.max(due);
            for number in 1..=self.nodes.len() {
                self.fire_due(number);
            }
        }
        self.now = end;
        self.deliver();
    }

    fn fire_due(&mut self, number: usize) {
        while let node = &mut self.nodes[number - 1]
            && node.raft.is_some()
            && !node.paused
            && let Some(timer) = node.outbox.timers.pop_due(node.clock(self.now))
        {
            self.fire(number, timer);
        }
    }

    /// Time passes until a node leads and all that are up know it; at most `limit`.
    pub fn await_leader(&mut self, limit: Duration) -> usize {
        let end = self.now + limit;
        while self.now < end {
            self.pass(Duration::from_millis(50));
            if let Some(leader) = self.leader()
                && self.nodes.iter().all(|node| node.raft.as_ref().is_none_or(|raft| raft.leader() == Some(id(leader))))
            {
                return leader;
            }
        }
        panic!("no leader within {limit:?}");
    }

    pub fn propose(&mut self, number: usize, command: u64) -> RequestId {
        self.ask(number, RaftCommand::Propose(command))
    }

    /// The application asks a node for something.
    pub fn ask(&mut self, number: usize, command: RaftCommand<Journal>) -> RequestId {
        let node = &mut self.nodes[number - 1];
        node.requests += 1;
        let request = RequestId(node.requests);
        self.step(number, |raft, cx| raft.on_command(cx, request, command));
        request
    }

    /// The answer to a request that is no proposal of a command, once there is one.
    pub fn other_reply(&self, number: usize, request: RequestId) -> Option<&RaftReply<u64, Vec<u64>>> {
        let mut replies = self.nodes[number - 1].other_replies.iter().filter(|(to, _)| *to == request);
        let first = replies.next();
        assert!(replies.next().is_none(), "two answers to {request:?}");
        first.map(|(_, reply)| reply)
    }

    /// The answer to a request, once there is one.
    pub fn reply(&self, number: usize, request: RequestId) -> Option<&Result<Applied<u64>, ProposeError>> {
        let mut replies = self.nodes[number - 1].replies.iter().filter(|(to, _)| *to == request);
        let first = replies.next();
        assert!(replies.next().is_none(), "two answers to {request:?}");
        first.map(|(_, result)| result)
    }

    /// The node is gone, and with it all that was not durable.
    pub fn crash(&mut self, number: usize) {
        let node = &mut self.nodes[number - 1];
        node.raft = None;
        node.disk.waiting.clear();
        node.disk.saving.clear();
        node.disk.reading.clear();
        node.disk.hung = false;
        node.replies.clear();
        node.other_replies.clear();
        node.paused = false;
        node.requests = 0;
        node.term = 0;
        node.commit = 0;
    }

    /// The node starts from what its disk holds.
    pub fn restart(&mut self, number: usize) {
        self.restart_quietly(number);
        self.check();
    }

    pub fn restart_quietly(&mut self, number: usize) {
        self.restart_unsynced(number);
        self.sync(number);
    }

    /// The node starts, and what it writes first is on its way.
    pub fn restart_unsynced(&mut self, number: usize) {
        let node = &mut self.nodes[number - 1];
        let config = node.config.clone();
        let raft = match self.founders.iter().any(|member| member.node == node.id) {
            true => Raft::new(config, self.founders.iter().copied(), Journal::default()),
            false => Raft::join(config, Journal::default()),
        };
        let mut raft = raft.expect("the configuration is valid");
        let snapshots = &node.disk.snapshots;
        let mut read = |id: SnapshotId| Ok(snapshots.get(id).cloned());
        let mut lsn = Lsn(node.disk.last.0 - node.disk.log.len() as u64);
        for record in &node.disk.log {
            lsn.0 += 1;
            // Through its encoding, as a real log does.
            let record = wire::from_bytes(&wire::to_bytes(record)).expect("records survive their encoding");
            raft.on_recover(&mut Recovery::new(node.id, lsn, &mut read), record).expect("the log is consistent");
        }
        node.outbox = Outbox::recovered(node.disk.last);
        node.raft = Some(raft);
        self.run(number, |raft, cx| raft.on_start(cx));
    }

    /// A node that waits to be added to the group; its number.
    pub fn add_node(&mut self) -> usize {
        let number = self.nodes.len() + 1;
        let config = self.nodes[0].config.clone();
        self.nodes.push(Node::new(number, &config, self.seed));
        self.restart(number);
        number
    }

    /// The node is down, and its disk is replaced by an empty one.
    pub fn wipe(&mut self, number: usize) {
        self.crash(number);
        self.nodes[number - 1].disk = Disk::default();
        self.seed += 1;
        self.nodes[number - 1].rng = Rng64::from_seed(self.seed, &format!("node {number}"));
    }

    pub fn peer(&mut self, number: usize, peer: usize, status: PeerStatus) {
        self.step(number, |raft, cx| raft.on_peer(cx, id(peer), status));
    }

    /// The safety of Raft (figure 3 of the paper).
    pub fn check(&mut self) {
        for node in &mut self.nodes {
            let Some(raft) = &node.raft else { continue };
            assert!(raft.term() >= node.term, "{}: the term went back", node.id);
            assert!(raft.commit_index().0 >= node.commit, "{}: the commit index went back", node.id);
            assert!(raft.applied_index() <= raft.commit_index() && raft.commit_index() <= raft.last_index());
            if raft.role() == Role::Leader {
                let leader = *self.leaders.entry(raft.term()).or_insert(node.id);
                assert_eq!(leader, node.id, "two leaders in term {}", raft.term());
                for (index, (entry, by)) in self.committed.range(raft.first_index().0..) {
                    if *by < raft.term() {
                        let held = raft.term_at(LogIndex(*index));
                        assert_eq!(held, Some(entry.term), "the leader {} lacks committed entry {index}", node.id);
                        let held = raft.entry(LogIndex(*index));
                        let omitted = held.is_some_and(|held| held.kind == EntryKind::Omitted);
                        assert!(!omitted, "the leader {} lacks the data of entry {index}", node.id);
                    }
                }
            }
            let from = (node.commit + 1).max(raft.first_index().0);
            for index in from..=raft.commit_index().0 {
                let entry = raft.entry(LogIndex(index)).expect("committed entries are in the log");
                let (before, _) = self.committed.entry(index).or_insert_with(|| (entry.clone(), raft.term()));
                if before.kind == EntryKind::Omitted && before.term == entry.term {
                    *before = entry.clone();
                }
                let is_same = before == entry || entry.kind == EntryKind::Omitted && before.term == entry.term;
                assert!(is_same, "{} commits {entry:?} at {index}, not {before:?}", node.id);
            }
            node.term = raft.term();
            node.commit = raft.commit_index().0;
        }
        self.check_state_machines();
        self.check_log_matching();
    }

    fn check_state_machines(&self) {
        let journals = || self.nodes.iter().filter_map(|node| node.raft.as_ref()).map(|raft| &raft.state().0);
        let longest = journals().max_by_key(|journal| journal.len()).cloned().unwrap_or_default();
        assert!(journals().all(|journal| longest.starts_with(journal)), "the state machines differ");
    }

    fn check_log_matching(&self) {
        let rafts: Vec<_> = self.nodes.iter().filter_map(|node| node.raft.as_ref()).collect();
        for (at, one) in rafts.iter().enumerate() {
            for other in &rafts[at + 1..] {
                let first = one.first_index().max(other.first_index()).0;
                let mut same = false;
                for index in (first..=one.last_index().min(other.last_index()).0).rev().map(LogIndex) {
                    let (ours, theirs) = (one.term_at(index), other.term_at(index));
                    same |= ours == theirs;
                    assert!(!same || ours == theirs, "logs agree after {index} but not there");
                }
            }
        }
    }
}
