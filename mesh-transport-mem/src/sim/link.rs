//! The simulated network: what becomes of a frame on its way.

use std::collections::BTreeMap;
use std::time::Duration;

use mesh_core::{Instant, Rng64};

use super::latency::{Chance, Latency};

/// How one direction between two nodes behaves.
///
/// Shares are from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinkConfig {
    /// How long a frame is on its way. Default: 0.5 to 1.5 ms.
    pub latency: Latency,
    /// The share of frames that are lost. Default: 0.
    pub loss: f64,
    /// For how long on average a link loses all frames, or none, before chance decides again: losses come in
    /// bursts, as by Gilbert and Elliott. Default: zero, chance decides for each frame alone.
    pub loss_burst: Duration,
    /// The share of frames that arrive twice. Default: 0.
    pub duplicate: f64,
    /// The share of frames that take a second delay on top and do not keep their place: they may be
    /// overtaken. The others arrive in the order in which they were sent. Default: 0.
    pub reorder: f64,
    /// Bytes per second that go through; `None` for any number. Default: `None`.
    pub bandwidth: Option<u64>,
    /// Bytes that may wait where `bandwidth` is limited. Frames over it are dropped, and the sender
    /// hears `Congested`, and `Writable` when half of it is free. Default: 1 MiB.
    pub queue_bytes_max: u64,
}

impl Default for LinkConfig {
    fn default() -> Self {
        Self {
            latency: Latency::between(Duration::from_micros(500), Duration::from_micros(1_500)),
            loss: 0.0,
            loss_burst: Duration::ZERO,
            duplicate: 0.0,
            reorder: 0.0,
            bandwidth: None,
            queue_bytes_max: 1 << 20,
        }
    }
}

/// What a node's own connection to the network takes: frames to all others leave one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// How long each frame takes, whatever its length.
    pub frame_time: Duration,
    /// Bytes per second that go through.
    pub bandwidth: u64,
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It arrives, and perhaps once more.
    Arrives { at: Instant, again: Option<Instant> },
    /// The link is cut.
    Cut,
    /// Chance took it.
    Lost,
    /// The queue is full. `Some`: this is news, and there will be room at that time.
    Congested { writable_at: Option<Instant> },
}

/// One direction between two nodes, where it is not as all others are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Link {
    /// How many partitions and cuts lie across it.
    cuts: u32,
    congested: bool,
    /// Whether it loses all frames, and until when, where losses come in bursts.
    burst: (bool, Instant),
    /// Which of the network's settings; 0 is the default.
    setting: u32,
    /// When the last byte sent so far has left, where the bandwidth is limited.
    free_at: Instant,
}

/// All links. Nodes are small numbers here.
#[derive(Debug)]
pub(super) struct Network {
    nodes: usize,
    /// How long a row is: at least as many links as there are nodes.
    row_len: usize,
    /// When the last frame that keeps its place arrives; one row a sender. There are thousands of nodes, and
    /// millions of links: no more is kept of all of them.
    arrivals: Vec<Instant>,
    /// What else there is to know of a link, by sender and receiver.
    links: BTreeMap<(u32, u32), Link>,
    settings: Vec<Setting>,
    uplink: Option<Uplink>,
    /// When the last frame of each node has left, where that takes time.
    left: Vec<Instant>,
}

/// A [`LinkConfig`] with its chances made ready.
#[derive(Clone, Copy, Debug)]
struct Setting {
    config: LinkConfig,
    loss: Chance,
    duplicate: Chance,
    reorder: Chance,
}

impl Setting {
    fn new(config: LinkConfig) -> Self {
        let LinkConfig { loss, duplicate, reorder, .. } = config;
        Self { config, loss: Chance::new(loss), duplicate: Chance::new(duplicate), reorder: Chance::new(reorder) }
    }
}

impl Network {
    pub(super) fn new(default: LinkConfig, uplink: Option<Uplink>) -> Self {
        Self {
            uplink,
            left: Vec::new(),
            nodes: 0,
            row_len: 0,
            arrivals: Vec::new(),
            links: BTreeMap::new(),
            settings: vec![Setting::new(default)],
        }
    }

    pub(super) fn add_node(&mut self) {
        self.nodes += 1;
        self.left.push(Instant::ZERO);
        if self.nodes > self.row_len {
            // Rows twice as long, so that thousands of nodes are added in the time of a few copies.
            let row_len = (self.row_len * 2).max(4);
            let mut arrivals = Vec::with_capacity(row_len * row_len);
            for row in self.arrivals.chunks(self.row_len.max(1)) {
                arrivals.extend_from_slice(row);
                arrivals.resize(arrivals.len() + row_len - row.len(), Instant::ZERO);
            }
            (self.arrivals, self.row_len) = (arrivals, row_len);
        }
        self.arrivals.resize(self.nodes * self.row_len, Instant::ZERO);
    }

    fn link(&mut self, from: usize, to: usize) -> &mut Link {
        self.links.entry((from as u32, to as u32)).or_default()
    }

    /// Changes all links; those that are then as all others are forgotten.
    fn change_all(&mut self, change: impl Fn(&mut Link)) {
        self.links.retain(|_, link| {
            change(link);
            *link != Link::default()
        });
    }

    /// What all links do that have no setting of their own.
    pub(super) fn set_default(&mut self, config: LinkConfig) {
        self.settings[0] = Setting::new(config);
    }

    pub(super) fn set(&mut self, from: usize, to: usize, config: LinkConfig) {
        let setting = self.link(from, to).setting as usize;
        if setting == 0 {
            self.link(from, to).setting = self.settings.len() as u32;
            self.settings.push(Setting::new(config));
        } else {
            self.settings[setting] = Setting::new(config);
        }
    }

    /// Gives every link the default setting again.
    pub(super) fn reset(&mut self) {
        self.change_all(|link| link.setting = 0);
        self.settings.truncate(1);
    }

    pub(super) fn cut(&mut self, from: usize, to: usize) {
        self.link(from, to).cuts += 1;
    }

    /// Takes one cut away, if there is any.
    pub(super) fn mend(&mut self, from: usize, to: usize) {
        let link = self.link(from, to);
        link.cuts = link.cuts.saturating_sub(1);
    }

    pub(super) fn mend_all(&mut self) {
        self.change_all(|link| link.cuts = 0);
    }

    pub(super) fn is_cut(&self, from: usize, to: usize) -> bool {
        // Most of the time there are none, and this is asked for every frame.
        !self.links.is_empty() && self.links.get(&(from as u32, to as u32)).is_some_and(|link| link.cuts > 0)
    }

    /// There is room again.
    pub(super) fn set_writable(&mut self, from: usize, to: usize) {
        self.link(from, to).congested = false;
    }

    /// Sends a frame of `len` bytes.
    pub(super) fn send(&mut self, from: usize, to: usize, len: usize, now: Instant, rng: &mut Rng64) -> Fate {
        let key = (from as u32, to as u32);
        let known = if self.links.is_empty() { None } else { self.links.get(&key) };
        if known.is_some_and(|link| link.cuts > 0) {
            return Fate::Cut;
        }
        let Setting { config, loss, duplicate, reorder } =
            &self.settings[known.map_or(0, |link| link.setting as usize)];
        let mut leaves = now;
        if let Some(bandwidth) = config.bandwidth {
            let link = self.links.entry(key).or_default();
            let time = |bytes| transfer_time(bytes, bandwidth);
            let waits = link.free_at - now;
            if waits > time(config.queue_bytes_max) {
                let is_news = !std::mem::replace(&mut link.congested, true);
                let half = waits - time(config.queue_bytes_max / 2);
                return Fate::Congested { writable_at: is_news.then_some(now + half) };
            }
            link.free_at = link.free_at.max(now) + time(len as u64);
            leaves = link.free_at;
        }
        if let Some(Uplink { frame_time, bandwidth }) = self.uplink {
            leaves = leaves.max(self.left[from]) + frame_time + transfer_time(len as u64, bandwidth);
            self.left[from] = leaves;
        }
        let is_lost = if config.loss_burst.is_zero() {
            loss.happens(rng)
        } else {
            let (loses, until) = &mut self.links.entry(key).or_default().burst;
            if now >= *until {
                *loses = loss.happens(rng);
                *until = now + rng.duration_between(Duration::ZERO, config.loss_burst * 2);
            }
            *loses
        };
        if is_lost {
            return Fate::Lost;
        }
        let mut at = leaves + config.latency.draw(rng);
        if reorder.happens(rng) {
            at += config.latency.draw(rng);
        } else {
            let last = &mut self.arrivals[from * self.row_len + to];
            at = at.max(*last);
            *last = at;
        }
        let again = duplicate.happens(rng).then(|| at + config.latency.draw(rng));
        Fate::Arrives { at, again }
    }
}

/// How long so many bytes take at so many a second.
pub(super) fn transfer_time(bytes: u64, bandwidth: u64) -> Duration {
    let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(bandwidth.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn network(config: LinkConfig) -> (Network, Rng64) {
        let mut network = Network::new(config, None);
        (0..3).for_each(|_| network.add_node());
        (network, Rng64::from_seed(1, "network"))
    }

    fn arrivals(config: LinkConfig, frames: usize) -> Vec<Fate> {
        let (mut network, mut rng) = network(config);
        (0..frames).map(|n| network.send(0, 1, 100, Instant::ZERO + MS * n as u32 / 10, &mut rng)).collect()
    }

    fn first(fate: &Fate) -> Option<Instant> {
        if let Fate::Arrives { at, .. } = fate { Some(*at) } else { None }
    }

    #[test]
    fn frames_keep_their_order_unless_reordered() {
        let latency = Latency::between(MS, MS * 10);
        let times: Vec<_> =
            arrivals(LinkConfig { latency, ..LinkConfig::default() }, 1_000).iter().filter_map(first).collect();
        assert!(times.is_sorted());
        let reordered = LinkConfig { latency, reorder: 0.1, ..LinkConfig::default() };
        let times: Vec<_> = arrivals(reordered, 1_000).iter().filter_map(first).collect();
        assert!(!times.is_sorted());
    }

    #[test]
    fn loss_and_duplication_are_as_frequent_as_said() {
        let fates = arrivals(LinkConfig { loss: 0.2, duplicate: 0.5, ..LinkConfig::default() }, 10_000);
        let lost = fates.iter().filter(|fate| **fate == Fate::Lost).count();
        let twice = fates.iter().filter(|fate| matches!(fate, Fate::Arrives { again: Some(_), .. })).count();
        assert!((1_800..2_200).contains(&lost), "{lost}");
        assert!((3_800..4_200).contains(&twice), "{twice}");
    }

    #[test]
    fn bursts_of_losses_are_as_long_and_as_frequent_as_said() {
        let config = LinkConfig { loss: 0.2, loss_burst: MS * 100, ..LinkConfig::default() };
        // Ten frames a millisecond for a hundred seconds.
        let lost: Vec<_> = arrivals(config, 1_000_000).iter().map(|fate| *fate == Fate::Lost).collect();
        let all = lost.iter().filter(|lost| **lost).count();
        assert!((170_000..230_000).contains(&all), "{all}");
        let bursts: Vec<_> = lost.chunk_by(|a, b| a == b).filter(|run| run[0]).map(<[bool]>::len).collect();
        // Bursts that follow each other look like one: 100 ms / (1 - 0.2).
        let mean = all / bursts.len();
        assert!((1_100..1_400).contains(&mean), "{mean} frames");
    }

    #[test]
    fn a_cut_is_one_way_and_of_one_pair() {
        let (mut network, mut rng) = network(LinkConfig::default());
        network.cut(0, 1);
        let mut send = |network: &mut Network, from, to| network.send(from, to, 1, Instant::ZERO, &mut rng);
        assert_eq!(send(&mut network, 0, 1), Fate::Cut);
        assert_ne!(send(&mut network, 1, 0), Fate::Cut);
        assert_ne!(send(&mut network, 0, 2), Fate::Cut);
        network.mend_all();
        assert_ne!(send(&mut network, 0, 1), Fate::Cut);
    }

    #[test]
    fn frames_to_all_others_leave_one_after_the_other_by_an_uplink() {
        let config = LinkConfig { latency: Latency::fixed(MS), ..LinkConfig::default() };
        let mut network = Network::new(config, Some(Uplink { frame_time: MS, bandwidth: 100_000 }));
        (0..3).for_each(|_| network.add_node());
        let mut rng = Rng64::from_seed(1, "network");
        let mut send = |from, to| first(&network.send(from, to, 100, Instant::ZERO, &mut rng));
        // A frame takes 1 ms, its 100 bytes another, and the way one more.
        assert_eq!([send(0, 1), send(0, 2), send(1, 2)], [3, 5, 3].map(|n| Some(Instant::ZERO + MS * n)));
    }

    #[test]
    fn bandwidth_spaces_frames_out_and_a_full_queue_drops_them() {
        let config = LinkConfig {
            latency: Latency::fixed(MS),
            bandwidth: Some(100_000),
            queue_bytes_max: 1_000,
            ..LinkConfig::default()
        };
        let (mut network, mut rng) = network(config);
        let mut send = |network: &mut Network| network.send(0, 1, 500, Instant::ZERO, &mut rng);
        for n in 1..=3 {
            let at = Instant::ZERO + MS * 5 * n + MS;
            assert_eq!(send(&mut network), Fate::Arrives { at, again: None });
        }
        let writable_at = Some(Instant::ZERO + MS * 10);
        assert_eq!(send(&mut network), Fate::Congested { writable_at });
        assert_eq!(send(&mut network), Fate::Congested { writable_at: None });
        network.set_writable(0, 1);
        assert_eq!(
            network.send(0, 1, 500, Instant::ZERO + MS * 15, &mut rng),
            Fate::Arrives { at: Instant::ZERO + MS * 21, again: None }
        );
    }

    #[test]
    fn links_with_a_setting_of_their_own_go_back_to_the_default() {
        let (mut network, mut rng) = network(LinkConfig::default());
        network.set(0, 1, LinkConfig { loss: 1.0, ..LinkConfig::default() });
        assert_eq!(network.send(0, 1, 1, Instant::ZERO, &mut rng), Fate::Lost);
        assert_ne!(network.send(1, 0, 1, Instant::ZERO, &mut rng), Fate::Lost);
        network.reset();
        assert_ne!(network.send(0, 1, 1, Instant::ZERO, &mut rng), Fate::Lost);
    }
}
