//! A pool of tasks: no broker, no leader, no task lost and none done twice in effect.
//!
//! [`TaskPool`] is a [`Protocol`] that every node of the mesh hosts. A task that is [submitted](PoolHandle::submit) has
//! an *owner* that decides on it: the node that the [ring](crate::dht::ring) names, or the one where it was submitted,
//! as the [`Policy`] is. The owner keeps it on a few other nodes, too, and grants *leases* of it: whoever executes the
//! task shows the lease's [`Token`] with the result. A lease that is not renewed is lost, and the next one has another
//! token: what an earlier holder says is refused, and it is told so.
//!
//! **What holds.** Of each task one result counts at most, whatever is lost, repeated, delayed, partitioned or crashes:
//! a result, like every other change, counts when a majority of those who keep the task have it, and whoever takes over
//! the ownership asks a majority first. A task that was submitted is settled in the end, as long as a majority of those
//! who keep it live until its replicas are replaced, [`repair_after`](PoolConfig::repair_after) one crashed. This
//! stands on:
//!
//! 1. Nodes do as they are programmed; who takes part is for the transport to say.
//! 2. A key that is submitted on both sides of a partition is executed on one, as long as the partition is shorter than
//!    [`home_for`](PoolConfig::home_for): the other side waits. To have a smaller side wait with everything else, too,
//!    link what the partition handler says to [`PoolCommand::SetReadOnly`].
//! 3. An attempt may be *begun* twice, as nobody can know of a node that is silent whether it works. Effects elsewhere
//!    should be made once by the task's name, or by its token.
//!
//! It is told who is there by the membership, or by anything else:
//!
//! ```
//! use mesh_core::{NodeBuilder, NodeId, ProtocolId};
//! use mesh_tasks::pool::{PoolConfig, PoolHandle, TaskPool};
//! use mesh_tasks::task::TaskSpec;
//!
//! let mut node = NodeBuilder::new(NodeId(1));
//! let pool = node.host(ProtocolId(9), TaskPool::new(PoolConfig::default())?);
//! // Hand `node.build()` to `mesh_core::run`. Executors ask for work:
//! let job = pool.take();
//! // and somebody has some: `pool.submit(TaskSpec::new("resize cat.png")).await?`
//! let task = pool.submit(TaskSpec::new("resize cat.png"));
//! # let mut core = node.build();
//! # core.start();
//! # core.handle_commands();
//! # core.flush(mesh_core::Instant::ZERO);
//! # use futures::FutureExt;
//! # let (job, task) = (job.now_or_never().expect("there is one")?, task.now_or_never().expect("it is kept")?);
//! assert_eq!((job.token.task, &job.payload[..]), (task, &b"resize cat.png"[..]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod ask;
mod circle;
mod claim;
mod command;
mod config;
mod drain;
mod entry;
mod holder;
mod lookup;
mod market;
mod message;
mod meter;
mod offer;
mod owner;
mod peer;
mod queue;
mod record;
mod repair;
mod replica;
mod route;
mod stream;
mod submit;
mod table;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use mesh_core::{Instant, Metrics, NodeId, Protocol, RecoverError, Recovery, RequestId};

pub(crate) use command::take_by;
pub use command::{
    FinishError, FollowError, Job, PROGRESS_MAX, PoolCommand, PoolEvent, PoolHandle, PoolReply, PoolStatus,
    ProgressError, Receipt, SubmitError, Survey, TakeError, Ticket, UnknownTask,
};
pub use config::{BYTES_MAX, PoolConfig, PoolConfigError, SUCCESSORS_MAX};
pub use entry::Version;
pub use message::{
    Announced, Change, Claim, Envelope, Hello, Known, Lease, Load, Message, Promise, Refusal, Report, Reported,
    TaskStatus,
};
pub use record::Record;
pub use submit::in_order;

pub use crate::group::{Group, Replica};

use ask::Wanted;
use claim::{Ballot, Orphan};
use drain::Drain;
use entry::Entry;
use holder::{Held, Unanswered};
use lookup::Lookup;
use market::Market;
use meter::Meter;
use peer::{Lazy, Peer};
use queue::Queue;
use repair::Repair;
use route::Routes;
use submit::{Answers, Submission};
use table::Table;

use crate::capability::{Capabilities, CapabilityError, Resources};
use crate::dht::ring::{Ring, RingConfig};
use crate::task::TaskId;
#[cfg(doc)]
use crate::task::{Policy, Token};
use crate::work_stealing::Thief;

type Context<'a> = mesh_core::Context<'a, TaskPool>;

/// How often what takes time is looked after.
const TICK: Duration = Duration::from_millis(50);

/// The timers of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timer {
    /// What takes time is looked after.
    Tick,
    /// What waited to go with something else waited for long enough.
    Batch,
    /// Somebody else is asked for work.
    Steal,
    /// A task that waited may be executed.
    Ready,
    /// There may be a place for tasks that wait for one.
    Place,
}

/// A pool. See the [module](self).
#[derive(Debug)]
pub struct TaskPool {
    config: PoolConfig,
    me: NodeId,
    zone: u32,
    /// Drawn at each start.
    boot: u32,
    started_at: Instant,
    /// It started with a log that has tasks.
    has_recovered: bool,
    /// Drawn when the log began.
    incarnation: u64,
    /// The replicas of what nobody else keeps.
    alone: Arc<Group>,
    capabilities: Arc<Capabilities>,
    /// What is left of its resources beside what runs.
    free: Resources,
    read_only: bool,
    drain: Option<Drain>,

    // The others.
    peers: BTreeMap<NodeId, Peer>,
    /// Those who are there and take tasks, in order.
    ready: Vec<NodeId>,
    /// Those who are there, and drain.
    draining: BTreeSet<NodeId>,
    /// When somebody came or went last, and how often that was.
    placed_at: Instant,
    placed: u64,
    ring: Ring,
    /// With those who were there lately: where tasks with a key are at home.
    home: Ring,
    /// Nodes that have something to keep that they were not told.
    dirty_peers: BTreeSet<NodeId>,
    /// To whom something was said since the last flush, and to whom something is yet to be said.
    said: BTreeSet<NodeId>,
    lazy: BTreeSet<NodeId>,

    // What is kept.
    tasks: Table<Box<Entry>>,
    /// Kept tasks that nobody owns, and since when.
    orphans: BTreeMap<TaskId, Orphan>,
    claims: BTreeMap<TaskId, Ballot>,
    pending_claims: BTreeMap<NodeId, Vec<Claim>>,
    /// Tasks that somebody else created, too.
    contested: BTreeSet<TaskId>,
    repair: Repair,
    /// How many records the log has.
    logged: usize,

    // What is owned.
    unsettled: usize,
    unsettled_bytes: usize,
    /// What those take that are looked for before they are created.
    lookup_bytes: usize,
    /// What those take that were submitted here, and that another node is to own.
    submission_bytes: usize,
    later: BTreeSet<(Instant, TaskId)>,
    expiring: BTreeSet<(Instant, TaskId)>,
    /// Leases granted to others, and until when they are good.
    grants: Table<Instant>,
    /// Tasks that are over, when they may be forgotten, and how many bytes they take; some are owned by others by now.
    settled: VecDeque<(Instant, TaskId, usize)>,
    settled_bytes: usize,
    /// Of these, those of whose end is to be told.
    ended: VecDeque<TaskId>,
    /// Tasks whose lease for this node is not safe yet.
    starting: Table<()>,
    submissions: BTreeMap<TaskId, Submission>,
    answers: Answers,
    lookups: BTreeMap<TaskId, Lookup>,
    wanted: BTreeMap<TaskId, Wanted>,
    /// Tasks that need not wait for some of what they waited for since the last flush.
    newly_met: BTreeSet<TaskId>,

    // What is brought elsewhere.
    market: Market,
    routes: Routes,
    /// There may be a place for tasks that had none.
    place_again: bool,

    // What is executed.
    /// How many tasks can be executed at a time: of late, before, and since when.
    slots: (u32, u32, Instant),
    /// Tasks that can be executed here, owned or held.
    queue: Queue,
    /// Owned ones that cannot.
    foreign: Queue,
    held: Table<Held>,
    /// How many of them are executed.
    running: usize,
    takers: VecDeque<(RequestId, Ticket)>,
    /// How many tasks were left in the queue when somebody was idle: what they need is not free.
    blocked: usize,
    reports: BTreeMap<(NodeId, TaskId), Unanswered>,
    renew_at: Instant,
    thief: Thief,
    /// Who asked for work lately, and when.
    thieves: BTreeMap<NodeId, Instant>,
    /// How long attempts took lately.
    run_time: Duration,
    /// Who asked for work when there was none.
    lifelines: VecDeque<NodeId>,
    /// There may be work for them. And how often some was added when they were given some last.
    feed_again: bool,
    pushes: u64,

    lost: u64,
    fenced: u64,
    meter: Meter,
}

impl TaskPool {
    /// A pool that knows nobody, on a node without capabilities.
    ///
    /// # Errors
    /// [`PoolConfigError`] when the configuration cannot work.
    pub fn new(config: PoolConfig) -> Result<Self, PoolConfigError> {
        config.validate()?;
        Ok(Self {
            routes: Routes::new(&config)?,
            market: Market::default(),
            place_again: false,
            slots: (0, 0, Instant::ZERO),
            config,
            me: NodeId::default(),
            zone: 0,
            boot: 0,
            started_at: Instant::ZERO,
            has_recovered: false,
            incarnation: 0,
            alone: Arc::default(),
            capabilities: Arc::default(),
            free: Resources::default(),
            read_only: false,
            drain: None,
            peers: BTreeMap::new(),
            ready: Vec::new(),
            draining: BTreeSet::new(),
            placed_at: Instant::ZERO,
            placed: 0,
            ring: Ring::new(RingConfig::default())?,
            home: Ring::new(RingConfig::default())?,
            dirty_peers: BTreeSet::new(),
            said: BTreeSet::new(),
            lazy: BTreeSet::new(),
            tasks: Table::default(),
            orphans: BTreeMap::new(),
            claims: BTreeMap::new(),
            pending_claims: BTreeMap::new(),
            contested: BTreeSet::new(),
            repair: Repair::default(),
            logged: 0,
            unsettled: 0,
            unsettled_bytes: 0,
            lookup_bytes: 0,
            submission_bytes: 0,
            later: BTreeSet::new(),
            expiring: BTreeSet::new(),
            grants: Table::default(),
            settled: VecDeque::new(),
            settled_bytes: 0,
            ended: VecDeque::new(),
            starting: Table::default(),
            submissions: BTreeMap::new(),
            answers: Answers::default(),
            lookups: BTreeMap::new(),
            wanted: BTreeMap::new(),
            newly_met: BTreeSet::new(),
            queue: Queue::default(),
            foreign: Queue::default(),
            held: Table::default(),
            running: 0,
            takers: VecDeque::new(),
            blocked: 0,
            reports: BTreeMap::new(),
            renew_at: Instant::ZERO,
            thief: Thief::default(),
            thieves: BTreeMap::new(),
            run_time: Duration::ZERO,
            lifelines: VecDeque::new(),
            feed_again: false,
            pushes: 0,
            lost: 0,
            fenced: 0,
            meter: Meter::default(),
        })
    }

    /// What this node can do and has: it executes only tasks whose requirements that meets.
    ///
    /// # Errors
    /// [`CapabilityError`] when a name or a number is over its limit.
    pub fn with_capabilities(mut self, capabilities: Capabilities) -> Result<Self, CapabilityError> {
        capabilities.validate()?;
        self.free = capabilities.resources().clone();
        self.capabilities = Arc::new(capabilities);
        Ok(self)
    }

    /// In this zone: copies of tasks are kept in different ones. Default: 0.
    #[must_use]
    pub const fn in_zone(mut self, zone: u32) -> Self {
        self.zone = zone;
        self
    }

    /// Counts among the numbers of a node: what is counted stands at the [names](self) that begin with `tasks_`.
    #[must_use]
    pub fn with_metrics(mut self, metrics: &Metrics) -> Self {
        self.meter = Meter::new(metrics);
        self
    }

    /// How this node is.
    pub fn status(&self) -> PoolStatus {
        PoolStatus {
            load: self.load(),
            owned: self.unsettled,
            kept: self.tasks.len(),
            held: self.held.len(),
            unplaced: self.unplaced(),
            peers: self.ready.len(),
            lost: self.lost,
            fenced: self.fenced,
        }
    }

    /// What this node knows of a task, for people.
    pub fn describe(&self, task: TaskId) -> String {
        let held = self.held.get(&task).map(|held| format!("holds {:?} {:?}", held.token, held.stage));
        let kept = self.tasks.get(&task).map(|entry| {
            let owns = if entry.owned.is_some() { "owns" } else { "keeps" };
            let nodes: Vec<_> = entry.group.all().map(|replica| replica.node).collect();
            format!("{owns} {:?} {:?} of {nodes:?}, promised {:?}", entry.version, entry.state, entry.promised)
        });
        let orphan = self.orphans.get(&task).map(|_| "as an orphan".to_owned());
        let is_later = self.later.iter().any(|(_, later)| *later == task);
        let waits = [
            (self.queue.has(task), "waits for an executor"),
            (self.foreign.has(task), "waits for who can execute it"),
            (self.routes.is_unplaced(task), "waits for a place"),
            (is_later, "waits for its time"),
            (self.starting.contains_key(&task), "is about to start"),
        ];
        let waits = waits.into_iter().filter(|(waits, _)| *waits).map(|(_, what)| what.to_owned());
        let parts: Vec<_> = held.into_iter().chain(kept).chain(orphan).chain(waits).collect();
        if parts.is_empty() { "nothing".to_owned() } else { parts.join(", ") }
    }

    /// Says something to the present life of a node.
    fn say(&mut self, cx: &mut Context<'_>, to: NodeId, message: Message) {
        let Some(peer) = self.peers.get(&to).filter(|peer| peer.life.boot != 0) else { return };
        cx.send(to, Envelope { from: self.boot, to: peer.life.boot, message });
        self.said.insert(to);
    }

    /// Adds to what is yet to be said to a node that is known.
    fn answer(&mut self, now: Instant, to: NodeId, add: impl FnOnce(&mut Lazy)) {
        if let Some(peer) = self.peers.get_mut(&to) {
            peer.lazy.since.get_or_insert(now);
            add(&mut peer.lazy);
            self.lazy.insert(to);
        }
    }

    /// Says what waited for something to go with, or for long enough.
    fn say_lazy(&mut self, cx: &mut Context<'_>) {
        let now = cx.now();
        let mut next: Option<Instant> = None;
        for node in std::mem::take(&mut self.lazy) {
            let Some(peer) = self.peers.get_mut(&node) else { continue };
            let Some(since) = peer.lazy.since else { continue };
            let due = since + self.config.batch_delay;
            if due > now && !self.said.contains(&node) {
                self.lazy.insert(node);
                next = Some(next.map_or(due, |next| next.min(due)));
                continue;
            }
            let Lazy { taken, counted, renewed, lost, elsewhere, reports, .. } = std::mem::take(&mut peer.lazy);
            if let Some((number, declined)) = taken {
                self.say(cx, node, Message::Taken(number, declined));
            }
            if !(counted.is_empty() && lost.is_empty() && elsewhere.is_empty()) {
                self.say(cx, node, Message::Answers(counted, lost, elsewhere));
            }
            if !renewed.is_empty() {
                self.say(cx, node, Message::Renewed(renewed));
            }
            if reports {
                self.send_reports(cx, node);
            }
        }
        if let Some(due) = next {
            cx.set_timer(Timer::Batch, due.since(now));
        }
    }

    fn on_tick(&mut self, cx: &mut Context<'_>) {
        for node in self.peers.keys().copied().collect::<Vec<_>>() {
            let Some(peer) = self.peers.get(&node).filter(|peer| peer.life.is_up) else { continue };
            if peer.life.boot == 0 || self.is_to_hear_of_drain(peer) {
                self.greet(cx, node);
            } else if peer.load.draining {
                // It may do so no more: what it said of that may be lost.
                self.greet_after(cx, node, self.config.repair_after);
            }
        }
        self.feed_again = true;
        self.note_slots(cx.now());
        self.leave_home(cx.now());
        self.on_time(cx);
        self.renew(cx);
        self.balance(cx);
        self.resend_submissions(cx);
        self.go_on_looking(cx);
        self.contest();
        self.resend_streams(cx.now());
        self.resend_offers(cx);
        self.resend_reports(cx);
        self.ask_again(cx);
        self.send_announcements(cx, true);
        self.claim_orphans(cx);
        self.repair(cx);
        self.go_on_draining(cx);
        self.compact(cx);
        cx.set_timer(Timer::Tick, TICK);
    }
}

impl Protocol for TaskPool {
    type Message = Envelope;
    type Command = PoolCommand;
    type Reply = PoolReply;
    type Event = PoolEvent;
    type Timer = Timer;
    type Record = Record;

    fn on_recover(&mut self, _recovery: &mut Recovery<'_>, record: Record) -> Result<(), RecoverError> {
        self.recover(record)
    }

    fn on_start(&mut self, cx: &mut Context<'_>) {
        (self.me, self.started_at, self.placed_at) = (cx.me(), cx.now(), cx.now());
        self.boot = (cx.rng().next_u64() as u32).max(1);
        if self.incarnation == 0 {
            self.incarnation = cx.rng().next_u64().max(1);
            self.persist_begun(cx);
        }
        self.alone = Arc::new(Group { members: vec![self.replica()], ..Group::default() });
        self.join_rings();
        self.has_recovered = !self.tasks.is_empty();
        let now = cx.now();
        for (task, entry) in self.tasks.iter_mut() {
            entry.ready_at = now + entry.ready_at.since(Instant::ZERO);
            entry.expires_at = entry.expires_at.map(|at| now + at.since(Instant::ZERO));
            self.orphans.insert(*task, Orphan::new(now));
        }
        cx.set_timer(Timer::Tick, TICK);
    }

    fn on_message(&mut self, cx: &mut Context<'_>, from: NodeId, Envelope { from: boot, to, message }: Envelope) {
        let Some(peer) = self.peers.get(&from) else { return self.meter.strangers.increment() };
        if let Message::Hello(hello) = message {
            return self.on_hello(cx, from, boot, to == self.boot, hello);
        }
        if to != self.boot || boot != peer.life.boot {
            self.meter.stale.increment();
            return self.greet(cx, from);
        }
        match message {
            Message::Hello(_) => {}
            Message::Status(load, free) => self.on_status(cx, from, load, &free),
            Message::Submit(task, origin, hops, spec) => self.on_submitted_to(cx, task, origin, hops, spec),
            Message::Submitted(task, refusal) => self.on_submitted(cx, task, refusal),
            Message::Replicate(number, changes, forget) => self.on_replicate(cx, from, number, &changes, &forget),
            Message::Replicated(number, stale, lacking, refused) => {
                self.on_replicated(cx, from, number, [&lacking, &refused], &stale);
            }
            Message::Claim(claims) => self.on_claim(cx, from, &claims),
            Message::Promise(promises) => self.on_promise(cx, from, promises),
            Message::TakeOver(tasks) => self.on_take_over(cx, from, &tasks),
            Message::Steal(ahead, guessed, free) => self.on_steal(cx, from, ahead, guessed, free),
            Message::NoWork(hint) => self.on_no_work(cx, from, hint),
            Message::FoundWork => self.on_found_work(from),
            Message::Offer(number, leases, more) => self.on_offer(cx, from, number, leases, more),
            Message::Taken(number, declined) => self.on_taken(cx, from, number, &declined),
            Message::Report(reports) => {
                for report in reports {
                    self.on_report(cx, from, report, None);
                }
            }
            Message::Answers(counted, lost, elsewhere) => self.on_answers(cx, from, &counted, &lost, &elsewhere),
            Message::Renew(tokens) => self.on_renew(cx, from, tokens),
            Message::Renewed(tokens) => self.on_renewed(cx.now(), &tokens),
            Message::Owned(tokens) => {
                for token in tokens {
                    self.on_owner(cx, token, from);
                }
            }
            Message::Progress(token, note) => self.on_progress(token, note),
            Message::Ask(tasks) => self.on_asked(cx, from, &tasks),
            Message::Told(answers) => self.on_told(cx, from, answers),
            Message::Cancel(task) => {
                if self.owns(task) {
                    self.on_cancel(cx, task);
                }
            }
            Message::AskLoad => self.on_ask_load(cx, from),
            Message::Announce(announced, decided) => self.on_announced(cx, from, &announced, &decided),
            Message::Bids(bids, more) => self.on_bids(cx, from, &bids, more),
        }
    }

    fn on_timer(&mut self, cx: &mut Context<'_>, timer: Timer) {
        match timer {
            Timer::Tick => self.on_tick(cx),
            Timer::Ready => self.on_ready(cx),
            Timer::Place => self.on_place(cx),
            // The flush that follows looks after it.
            Timer::Batch | Timer::Steal => {}
        }
    }

    fn on_command(&mut self, cx: &mut Context<'_>, request: RequestId, command: PoolCommand) {
        match command {
            PoolCommand::AddPeer { node, zone } => self.on_add_peer(cx, node, zone),
            PoolCommand::RemovePeer(node) => self.on_remove_peer(cx, node),
            PoolCommand::SetReadOnly(read_only) => {
                if self.read_only != read_only {
                    self.read_only = read_only;
                    self.bound_own_leases(cx.now());
                }
                self.look_again();
            }
            PoolCommand::Submit(spec) => return self.on_submit(cx, request, spec),
            PoolCommand::Take(ticket) => return self.on_take(cx, request, ticket),
            PoolCommand::Recall(ticket) => self.on_recall(cx, ticket),
            PoolCommand::Running => return cx.reply(request, PoolReply::Running(self.running_tokens())),
            PoolCommand::Finish(token, result) => return self.on_finish(cx, request, token, result),
            PoolCommand::Progress(token, note) => self.say_progress(cx, token, note),
            PoolCommand::Cancel(task) => self.on_cancel(cx, task),
            PoolCommand::Status(task) => return self.on_ask_status(cx, request, task),
            PoolCommand::Wait(task) => return self.on_wait(cx, request, task),
            PoolCommand::Drain(within) => return self.on_drain(cx, request, within),
            PoolCommand::Undrain => self.on_undrain(cx),
            PoolCommand::DeadLetters => return cx.reply(request, PoolReply::DeadLetters(self.dead_letters())),
            PoolCommand::Pool => return cx.reply(request, PoolReply::Pool(self.status())),
            PoolCommand::Survey => return self.on_survey(cx, request),
        }
        cx.reply(request, PoolReply::Done);
    }

    fn on_flush(&mut self, cx: &mut Context<'_>) {
        self.place_tasks(cx);
        self.dispatch(cx);
        self.feed_lifelines(cx);
        self.look_for_work(cx);
        self.send_placed(cx);
        self.send_announcements(cx, false);
        self.send_claims(cx);
        self.keep_met(cx);
        self.send_streams(cx);
        self.say_lazy(cx);
        self.said.clear();
        if let Some((at, _)) = self.later.first() {
            cx.set_timer(Timer::Ready, at.since(cx.now()));
        }
    }
}
