//! How the network is: connectivity, latency, throughput, recovery, and what every node thinks of every other.
//!
//! Each node hosts a [`Monitor`]. It is told by the membership whom the node knows and thinks alive, suspected or down; at
//! each interval it sends a *report* of that, with its own figures, to a few others at random, and those reports of
//! others that it has passed on least, in packets of bounded length. So of some dozens of nodes each has a report of all, not
//! older than a few intervals; of 128 nearly all, half of them younger than 12 s; and of 128 of which 25 are down, which
//! each report has to name, those of about half of the others. More nodes want a greater [`fanout`](MonitorConfig::fanout)
//! or [`lifetime`](MonitorConfig::lifetime). What is sent comes back as an echo, and half of the time that takes is the
//! latency.
//!
//! Reports are for people and graphs, not for decisions: they are relayed without a signature, and a node that is down
//! has its last report for [`lifetime`](MonitorConfig::lifetime).
//!
//! ```
//! use mesh_core::{NodeBuilder, NodeId, ProtocolId};
//! use mesh_gossip::membership::{Membership, MembershipConfig};
//! use mesh_gossip::metrics::{Monitor, MonitorCommand, MonitorConfig};
//!
//! let mut node = NodeBuilder::new(NodeId(1));
//! let members = node.host(ProtocolId(1), Membership::new(MembershipConfig::lan())?.seeds([NodeId(2)]));
//! let monitor = Monitor::new(MonitorConfig::default(), node.metrics())?;
//! let monitor = node.host(ProtocolId(7), monitor);
//! members.link(&monitor, MonitorCommand::of_member);
//! // Hand `node.build()` to `mesh_core::run`, then: monitor.status().await, monitor.reports().await
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod command;
mod message;

use std::collections::BTreeMap;
use std::time::Duration;

use mesh_core::frame::{FRAME_LEN_MAX, FRAME_OVERHEAD};
use mesh_core::{Context, Counter, Gauge, Histogram, Instant, Metrics, Never, NodeId, Protocol, RequestId, Wire};

pub use command::{MonitorCommand, MonitorError, MonitorHandle, MonitorReply, MonitorStatus};
pub use message::{Message, OPINIONS_MAX, Opinion, Report};

use message::REPORTS_MAX;

/// The least of [`MonitorConfig::packet_len_max`]: any one report must fit.
pub const PACKET_LEN_MIN: usize = FRAME_OVERHEAD + 800;

/// No report counts for longer: a day.
const LIFETIME_MAX: Duration = Duration::from_secs(24 * 3600);

/// No more others are told at once: more is a broadcast.
const FANOUT_MAX: usize = 64;

/// What a message takes beside its reports.
const MESSAGE_OVERHEAD: usize = FRAME_OVERHEAD + 2 + 9 + 3;

/// How often, how long, how much.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MonitorConfig {
    /// How often a node reports. Default: 3 s.
    pub interval: Duration,
    /// To how many others it sends reports. At most 64. Default: 2.
    pub fanout: usize,
    /// For how long a report counts. Default: 60 s.
    pub lifetime: Duration,
    /// The longest frame, in bytes, where nothing else is sent in it. Default: 1400.
    pub packet_len_max: usize,
    /// The most other nodes. Default: 65,536.
    pub peers_max: usize,
    /// The most reports of others that are kept; the oldest make room. Default: 4,096.
    pub reports_max: usize,
}

impl Default for MonitorConfig {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(3),
            fanout: 2,
            lifetime: Duration::from_secs(60),
            packet_len_max: 1400,
            peers_max: 1 << 16,
            reports_max: 1 << 12,
        }
    }
}

/// Values of a [`MonitorConfig`] cannot work together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the configuration of the monitor cannot work: {0}")]
pub struct ConfigError(String);

impl MonitorConfig {
    /// Checks that it can work.
    ///
    /// # Errors
    /// A sentence that names the value and the bound.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let refuse = |why| Err(ConfigError(why));
        if self.interval.is_zero() || self.lifetime < self.interval {
            return refuse("interval must be longer than zero, and lifetime as long at least".to_owned());
        }
        if self.lifetime > LIFETIME_MAX || self.fanout > FANOUT_MAX {
            return refuse(format!(
                "lifetime is {:?} and fanout {}: they must be at most {LIFETIME_MAX:?} and {FANOUT_MAX}",
                self.lifetime, self.fanout,
            ));
        }
        if !(PACKET_LEN_MIN..=FRAME_LEN_MAX).contains(&self.packet_len_max) {
            let given = self.packet_len_max;
            return refuse(format!("packet_len_max is {given}; it must be from {PACKET_LEN_MIN} to {FRAME_LEN_MAX}"));
        }
        if self.fanout == 0 || self.peers_max == 0 || self.reports_max == 0 {
            return refuse("fanout, peers_max and reports_max must be 1 at least".to_owned());
        }
        Ok(())
    }
}

/// The timer of a monitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timer {
    /// A report is due.
    Report,
}

/// A report of another node.
#[derive(Clone, Debug)]
struct Kept {
    report: Report,
    /// When it was made, by this node's clock, if it came in no time.
    made: Instant,
    /// How often it was passed on.
    passed_on: u32,
}

/// What the node counts, and how much of it was counted before.
#[derive(Clone, Debug, Default)]
struct Traffic {
    counters: [Counter; 4],
    before: [u64; 4],
    at: Instant,
    /// In a second: frames in and out, bytes in and out.
    rates: [f64; 4],
}

impl Traffic {
    fn measure(&mut self, now: Instant) {
        let passed = now.since(self.at).as_secs_f64();
        let counts = std::array::from_fn(|at| self.counters[at].get());
        if passed > 0.0 {
            self.rates = std::array::from_fn(|at| counts[at].saturating_sub(self.before[at]) as f64 / passed);
        }
        (self.before, self.at) = (counts, now);
    }
}

/// A node's monitor. See the [module](self).
#[derive(Clone, Debug)]
pub struct Monitor {
    config: MonitorConfig,
    me: NodeId,
    /// What this node thinks of each other.
    opinions: BTreeMap<NodeId, Opinion>,
    /// How many of them are down.
    down: usize,
    reports: BTreeMap<NodeId, Kept>,
    life: u64,
    number: u64,
    suspicions: u64,
    recoveries: u64,
    last_recovery: Option<Duration>,
    traffic: Traffic,
    latency: Histogram,
    connectivity: Gauge,
    suspected: Counter,
    recovery_ms: Gauge,
    strangers: Counter,
}

impl Monitor {
    /// A monitor that reads and counts among the numbers of its node,
    /// [`NodeBuilder::metrics`](mesh_core::NodeBuilder::metrics): the histogram `network_latency_nanos`, half of each round
    /// trip; `network_connectivity_permille`, `network_suspicions`, `network_recovery_ms` of the last partition, and
    /// `network_strangers`, messages and reports of nodes that are not known.
    ///
    /// # Errors
    /// [`MonitorError::Config`] when the configuration cannot work.
    pub fn new(config: MonitorConfig, metrics: &Metrics) -> Result<Self, MonitorError> {
        config.validate()?;
        let counters = ["frames_in", "frames_out", "bytes_in", "bytes_out"].map(|name| metrics.counter(name));
        Ok(Self {
            config,
            me: NodeId::default(),
            opinions: BTreeMap::new(),
            down: 0,
            reports: BTreeMap::new(),
            life: 0,
            number: 0,
            suspicions: 0,
            recoveries: 0,
            last_recovery: None,
            traffic: Traffic { counters, ..Traffic::default() },
            latency: metrics.histogram("network_latency_nanos"),
            connectivity: metrics.gauge("network_connectivity_permille"),
            suspected: metrics.counter("network_suspicions"),
            recovery_ms: metrics.gauge("network_recovery_ms"),
            strangers: metrics.counter("network_strangers"),
        })
    }

    /// How the network is, as this node sees it.
    pub fn status(&self) -> MonitorStatus {
        let latency = self.latency.snapshot();
        let [frames_in, frames_out, bytes_in, bytes_out] = self.traffic.rates;
        let own = self.down_of(&self.own_opinions());
        let dissenting = self.reports.values().filter(|kept| self.down_of(&kept.report.opinions) != own).count();
        MonitorStatus {
            known: self.opinions.len(),
            reachable: self.reachable(),
            connectivity_percent: 100.0 * self.connectivity(),
            latency_mean: Duration::from_nanos(latency.mean() as u64),
            latency_p99: Duration::from_nanos(latency.quantile(0.99)),
            frames_per_s: (frames_in, frames_out),
            bytes_per_s: (bytes_in, bytes_out),
            suspicions: self.suspicions,
            recoveries: self.recoveries,
            last_recovery: self.last_recovery,
            reports: self.reports.len(),
            dissenting,
        }
    }

    /// How all nodes see the network: this one first, then the others in order, as old as they are at a time.
    pub fn reports(&self, now: Instant) -> Vec<Report> {
        let aged = |kept: &Kept| Report { age: now.since(kept.made), ..kept.report.clone() };
        std::iter::once(self.own_report()).chain(self.reports.values().map(aged)).collect()
    }

    /// What this node thinks of another.
    pub fn opinion_of(&self, node: NodeId) -> Option<Opinion> {
        self.opinions.get(&node).copied()
    }

    fn reachable(&self) -> usize {
        self.opinions.len() - self.down
    }

    fn connectivity(&self) -> f64 {
        (self.reachable() + 1) as f64 / (self.opinions.len() + 1) as f64
    }

    /// Those it does not think alive: those that are down first.
    fn own_opinions(&self) -> Vec<(NodeId, Opinion)> {
        let of = |wanted| move |(node, opinion): (&NodeId, &Opinion)| (*opinion == wanted).then_some((*node, wanted));
        let down = self.opinions.iter().filter_map(of(Opinion::Down));
        down.chain(self.opinions.iter().filter_map(of(Opinion::Suspect))).take(OPINIONS_MAX).collect()
    }

    fn down_of(&self, opinions: &[(NodeId, Opinion)]) -> Vec<NodeId> {
        opinions.iter().filter(|(_, opinion)| *opinion == Opinion::Down).map(|(node, _)| *node).collect()
    }

    fn own_report(&self) -> Report {
        let small = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        Report {
            origin: self.me,
            life: self.life,
            number: self.number,
            age: Duration::ZERO,
            known: small(self.opinions.len() as u64),
            reachable: small(self.reachable() as u64),
            latency_us: small(self.latency.snapshot().mean() as u64 / 1000),
            frames_out_per_s: self.traffic.rates[1] as u32,
            suspicions: small(self.suspicions),
            opinions: self.own_opinions(),
        }
    }

    fn set_opinion(&mut self, node: NodeId, opinion: Opinion) -> Result<(), MonitorError> {
        if node == self.me {
            return Ok(());
        }
        if self.opinions.len() >= self.config.peers_max && !self.opinions.contains_key(&node) {
            return Err(MonitorError::TooManyPeers { limit: self.config.peers_max });
        }
        if opinion == Opinion::Suspect {
            self.suspicions += 1;
            self.suspected.increment();
        }
        let before = self.opinions.insert(node, opinion);
        self.note_change(before, Some(opinion));
        Ok(())
    }

    /// The opinion of one other was that, and is this.
    fn note_change(&mut self, before: Option<Opinion>, now: Option<Opinion>) {
        let count = |opinion| usize::from(opinion == Some(Opinion::Down));
        self.down = self.down + count(now) - count(before);
        self.connectivity.set((1000.0 * self.connectivity()) as u64);
    }

    fn on_report_due(&mut self, cx: &mut Context<'_, Self>) {
        let now = cx.now();
        self.traffic.measure(now);
        self.number += 1;
        let lifetime = self.config.lifetime;
        self.reports.retain(|_, kept| now.since(kept.made) <= lifetime);
        let mut others: Vec<_> =
            self.opinions.iter().filter(|(_, opinion)| **opinion != Opinion::Down).map(|(node, _)| *node).collect();
        cx.rng().shuffle(&mut others);
        for node in others.into_iter().take(self.config.fanout) {
            let message = Message::Reports { sent: self.seal(now), reports: self.pick(now) };
            cx.send(node, message);
        }
        cx.set_timer(Timer::Report, self.config.interval);
    }

    /// The own report, and those that were passed on least, as many as fit.
    fn pick(&mut self, now: Instant) -> Vec<Report> {
        let mut picked = vec![self.own_report()];
        let mut left = self.config.packet_len_max - MESSAGE_OVERHEAD;
        let mut scratch = Vec::new();
        let mut len_of = |report: &Report| {
            scratch.clear();
            report.encode(&mut scratch);
            scratch.len()
        };
        left = left.saturating_sub(len_of(&picked[0]));
        let mut others: Vec<_> = self.reports.values_mut().collect();
        others.sort_by_key(|kept| (kept.passed_on, now.since(kept.made)));
        for kept in others.into_iter().take(REPORTS_MAX - 1) {
            let report = Report { age: now.since(kept.made), ..kept.report.clone() };
            let len = len_of(&report);
            if len > left {
                break;
            }
            left -= len;
            kept.passed_on += 1;
            picked.push(report);
        }
        picked
    }

    fn on_reports(&mut self, now: Instant, reports: Vec<Report>) {
        for report in reports {
            if report.origin == self.me {
                continue;
            }
            if !self.opinions.contains_key(&report.origin) {
                self.strangers.increment();
                continue;
            }
            let made = Instant::from_nanos(now.as_nanos().saturating_sub(report.age.as_nanos() as u64));
            let is_news = self.reports.get(&report.origin).is_none_or(|kept| match kept.report.life == report.life {
                true => report.number > kept.report.number,
                false => made > kept.made,
            });
            if !is_news || report.age > self.config.lifetime {
                continue;
            }
            if self.reports.len() >= self.config.reports_max && !self.reports.contains_key(&report.origin) {
                let oldest = self.reports.iter().min_by_key(|(_, kept)| kept.made).map(|(node, _)| *node);
                oldest.map(|oldest| self.reports.remove(&oldest));
            }
            self.reports.insert(report.origin, Kept { report, made, passed_on: 0 });
        }
    }

    /// A moment of the own clock, in a form that nobody else reads.
    const fn seal(&self, now: Instant) -> u64 {
        self.life.wrapping_add(now.as_nanos())
    }

    fn on_echo(&self, now: Instant, sent: u64) {
        let sent = Instant::from_nanos(sent.wrapping_sub(self.life));
        if sent <= now && now.since(sent) <= self.config.lifetime {
            self.latency.record_duration(now.since(sent) / 2);
        }
    }
}

impl Protocol for Monitor {
    type Message = Message;
    type Command = MonitorCommand;
    type Reply = MonitorReply;
    type Event = Never;
    type Timer = Timer;
    type Record = Never;

    fn on_start(&mut self, cx: &mut Context<'_, Self>) {
        self.me = cx.me();
        self.life = cx.rng().next_u64();
        self.traffic.measure(cx.now());
        self.connectivity.set((1000.0 * self.connectivity()) as u64);
        let first = cx.rng().duration_between(Duration::ZERO, self.config.interval);
        cx.set_timer(Timer::Report, first);
    }

    fn on_message(&mut self, cx: &mut Context<'_, Self>, from: NodeId, message: Message) {
        if !self.opinions.contains_key(&from) {
            return self.strangers.increment();
        }
        match message {
            Message::Reports { sent, reports } => {
                cx.send(from, Message::Echo { sent });
                self.on_reports(cx.now(), reports);
            }
            Message::Echo { sent } => self.on_echo(cx.now(), sent),
        }
    }

    fn on_timer(&mut self, cx: &mut Context<'_, Self>, timer: Timer) {
        match timer {
            Timer::Report => self.on_report_due(cx),
        }
    }

    fn on_command(&mut self, cx: &mut Context<'_, Self>, request: RequestId, command: MonitorCommand) {
        let reply = match command {
            MonitorCommand::Opinion { node, opinion } => MonitorReply::Done(self.set_opinion(node, opinion)),
            MonitorCommand::RemovePeer(node) => {
                let before = self.opinions.remove(&node);
                self.note_change(before, None);
                self.reports.remove(&node);
                MonitorReply::Done(Ok(()))
            }
            MonitorCommand::Recovered { recovery } => {
                self.recoveries += 1;
                self.last_recovery = Some(recovery);
                self.recovery_ms.set(u64::try_from(recovery.as_millis()).unwrap_or(u64::MAX));
                MonitorReply::Done(Ok(()))
            }
            MonitorCommand::Status => MonitorReply::Status(self.status()),
            MonitorCommand::Reports => MonitorReply::Reports(self.reports(cx.now())),
        };
        cx.reply(request, reply);
    }
}

#[cfg(test)]
mod tests;
