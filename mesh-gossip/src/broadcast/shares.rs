//! What a link carries, shared among the classes.
//!
//! In each interval a class may send its share at once, whatever the others do. The rest waits for the next
//! interval, where each class has its share again and what was left of the last is lent, the most urgent first.

use std::collections::{BTreeSet, VecDeque};

use mesh_core::Bytes;

use super::config::{BroadcastConfig, Class, PUSH_OVERHEAD};
use super::message::{Message, MessageId};

/// What becomes of a message for a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offered {
    /// It may go at once.
    Send,
    /// It waits.
    Queued,
    /// Too many wait.
    Full,
}

/// A message for a neighbour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Push {
    pub(super) id: MessageId,
    pub(super) class: Class,
    pub(super) hops: u8,
    pub(super) payload: Bytes,
}

impl Push {
    fn len(&self) -> usize {
        self.payload.len() + PUSH_OVERHEAD
    }
}

impl From<Push> for Message {
    fn from(Push { id, class, hops, payload }: Push) -> Self {
        Self::Push { id, class, hops, payload }
    }
}

/// Why a message is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// It is new, and this node's own.
    Own,
    /// It is new, and another's. A quarter of the room is left to this node's own, whatever others bring.
    Relayed,
    /// The neighbour asked for it. What it asks for has a room of its own: it takes none from what is new.
    Asked,
}

/// What waits for a neighbour, and what it was sent in this interval. It has its payload with it: it may wait for longer
/// than messages are kept.
#[derive(Clone, Debug, Default)]
pub(super) struct Shares {
    queues: [VecDeque<(Push, Why)>; 3],
    /// How many of each class wait for each reason.
    counts: [[usize; 3]; 3],
    /// All that is in a queue, once.
    waiting: BTreeSet<MessageId>,
    spent: [usize; 3],
}

impl Shares {
    /// A message is to be sent.
    pub(super) fn offer(&mut self, config: &BroadcastConfig, push: &Push, why: Why) -> Offered {
        let (class, len) = (push.class as usize, push.len());
        let has_room = match why {
            Why::Own => self.has_room(config, push.class),
            Why::Relayed => {
                let limit = config.queue_max - config.queue_max / 4;
                self.has_room(config, push.class) && self.counts[class][Why::Relayed as usize] < limit
            }
            Why::Asked => self.counts[class][Why::Asked as usize] < config.queue_max.div_ceil(4),
        };
        if self.waiting.contains(&push.id) {
            Offered::Queued
        } else if self.queues[class].is_empty() && self.spent[class] + len <= config.share(push.class) {
            self.spent[class] += len;
            Offered::Send
        } else if has_room {
            self.queues[class].push_back((push.clone(), why));
            self.counts[class][why as usize] += 1;
            self.waiting.insert(push.id);
            Offered::Queued
        } else {
            Offered::Full
        }
    }

    /// Whether another message of this node finds room.
    pub(super) fn has_room(&self, config: &BroadcastConfig, class: Class) -> bool {
        let counts = &self.counts[class as usize];
        counts[Why::Own as usize] + counts[Why::Relayed as usize] < config.queue_max
    }

    /// An interval begins: takes what may go now.
    pub(super) fn renew(&mut self, config: &BroadcastConfig) -> Vec<Push> {
        let unused = |class| config.share(class).saturating_sub(self.spent[class as usize]);
        let mut lent: usize = Class::ALL.into_iter().map(unused).sum();
        self.spent = [0; 3];
        let mut ready = Vec::new();
        for class in Class::ALL {
            let mut share = config.share(class);
            self.take(class, &mut share, &mut ready);
            self.spent[class as usize] = config.share(class) - share;
        }
        Class::ALL.into_iter().for_each(|class| self.take(class, &mut lent, &mut ready));
        ready
    }

    /// Takes what fits.
    fn take(&mut self, class: Class, room: &mut usize, ready: &mut Vec<Push>) {
        let queue = &mut self.queues[class as usize];
        while queue.front().is_some_and(|(push, _)| push.len() <= *room)
            && let Some((push, why)) = queue.pop_front()
        {
            *room -= push.len();
            self.counts[class as usize][why as usize] -= 1;
            self.waiting.remove(&push.id);
            ready.push(push);
        }
    }

    /// Whether a message waits.
    pub(super) fn has(&self, id: MessageId) -> bool {
        self.waiting.contains(&id)
    }

    /// What waits.
    pub(super) fn waiting(&self) -> impl Iterator<Item = &Push> {
        self.queues.iter().flatten().map(|(push, _)| push)
    }

    /// Whether nothing waits, and nothing was sent in this interval.
    pub(super) fn is_idle(&self) -> bool {
        self.queues.iter().all(VecDeque::is_empty) && self.spent == [0; 3]
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::NodeId;

    use super::super::message::Stream;
    use super::*;

    fn id(number: u64) -> MessageId {
        MessageId { stream: Stream { origin: NodeId(1), life: 1 }, number }
    }

    fn config() -> BroadcastConfig {
        BroadcastConfig { interval_bytes: 60_000, queue_max: 100, ..BroadcastConfig::default() }
    }

    const LEN: usize = 1_000 - PUSH_OVERHEAD;

    fn push(class: Class, number: u64, len: usize) -> Push {
        Push { id: id(number), class, hops: 0, payload: vec![0; len].into() }
    }

    /// A new message is to be sent.
    fn offer(shares: &mut Shares, config: &BroadcastConfig, class: Class, number: u64, len: usize) -> Offered {
        shares.offer(config, &push(class, number, len), Why::Own)
    }

    /// The numbers of what may go in the next interval.
    fn renew(shares: &mut Shares, config: &BroadcastConfig) -> Vec<u64> {
        shares.renew(config).into_iter().map(|push| push.id.number).collect()
    }

    #[test]
    fn s17_a_class_that_sends_much_leaves_the_others_their_shares() {
        let (config, mut shares) = (config(), Shares::default());
        let offered: Vec<_> = (0..200).map(|number| offer(&mut shares, &config, Class::Bulk, number, LEN)).collect();
        let count = |what| offered.iter().filter(|offered| **offered == what).count();
        assert_eq!((count(Offered::Send), count(Offered::Queued), count(Offered::Full)), (10, 100, 90));
        assert!(!shares.has_room(&config, Class::Bulk) && shares.has_room(&config, Class::Urgent));
        // The others go at once still.
        assert_eq!(offer(&mut shares, &config, Class::Urgent, 1, LEN), Offered::Send);
        assert_eq!(offer(&mut shares, &config, Class::Normal, 1, LEN), Offered::Send);
        // In the next interval it has its share, and what the others left: 29 and 19.
        let ready = renew(&mut shares, &config);
        assert_eq!(ready, (10..10 + 10 + 48).collect::<Vec<_>>(), "in order");
        assert_eq!(offer(&mut shares, &config, Class::Urgent, 1, LEN), Offered::Send);
    }

    #[test]
    fn what_is_asked_for_takes_no_room_from_what_is_new_and_the_other_way_round() {
        let (config, mut shares) = (config(), Shares::default());
        let asked = |shares: &mut Shares, number| shares.offer(&config, &push(Class::Bulk, number, LEN), Why::Asked);
        let offered: Vec<_> = (0..100).map(|number| asked(&mut shares, number)).collect();
        let count = |what| offered.iter().filter(|offered| **offered == what).count();
        assert_eq!((count(Offered::Send), count(Offered::Queued), count(Offered::Full)), (10, 25, 65));
        let new =
            (100..).take_while(|number| offer(&mut shares, &config, Class::Bulk, *number, LEN) == Offered::Queued);
        assert_eq!(new.count(), 100);
        // Of those that go, 25 make room for what is asked for, and the others for what is new.
        assert_eq!(renew(&mut shares, &config).len(), 60);
        assert_eq!((200..300).filter(|number| asked(&mut shares, *number) == Offered::Queued).count(), 25);
        let new =
            (300..).take_while(|number| offer(&mut shares, &config, Class::Bulk, *number, LEN) == Offered::Queued);
        assert_eq!(new.count(), 35);
        (0..10).for_each(|_| drop(shares.renew(&config)));
        assert!(shares.is_idle() && shares.counts == [[0; 3]; 3]);
    }

    #[test]
    fn what_others_bring_leaves_a_quarter_of_the_room_to_what_this_node_says() {
        let (config, mut shares) = (config(), Shares::default());
        let relayed =
            |shares: &mut Shares, number| shares.offer(&config, &push(Class::Bulk, number, LEN), Why::Relayed);
        let offered: Vec<_> = (0..200).map(|number| relayed(&mut shares, number)).collect();
        let count = |what| offered.iter().filter(|offered| **offered == what).count();
        assert_eq!((count(Offered::Send), count(Offered::Queued), count(Offered::Full)), (10, 75, 115));
        let own =
            (200..).take_while(|number| offer(&mut shares, &config, Class::Bulk, *number, LEN) == Offered::Queued);
        assert_eq!(own.count(), 25);
        // This node's own may fill all.
        let sent = renew(&mut shares, &config).len();
        let own =
            (300..).take_while(|number| offer(&mut shares, &config, Class::Bulk, *number, LEN) == Offered::Queued);
        assert_eq!((own.count(), relayed(&mut shares, 500)), (sent, Offered::Full));
    }

    #[test]
    fn in_a_storm_of_all_each_has_its_weight() {
        let (config, mut shares) = (BroadcastConfig { queue_max: 10_000, ..config() }, Shares::default());
        let numbers = [0, 1_000, 2_000];
        for (class, start) in Class::ALL.into_iter().zip(numbers) {
            for number in start..start + 1_000 {
                offer(&mut shares, &config, class, number, LEN);
            }
        }
        let mut counts = [0; 3];
        for _ in 0..10 {
            renew(&mut shares, &config).into_iter().for_each(|number| counts[(number / 1_000) as usize] += 1);
        }
        assert_eq!(counts, [300, 200, 100]);
        (0..200).for_each(|_| drop(renew(&mut shares, &config)));
        assert!(shares.is_idle());
    }

    #[test]
    fn what_is_asked_for_again_while_it_waits_is_sent_once() {
        let (config, mut shares) = (config(), Shares::default());
        let offered = [9_500, 1_000, 1_000].map(|len| offer(&mut shares, &config, Class::Bulk, len as u64, len));
        assert_eq!((offered[2], shares.has(id(1_000)), shares.has(id(9_500))), (Offered::Queued, true, false));
        assert_eq!(renew(&mut shares, &config), [1_000]);
        assert!(!shares.has(id(1_000)));
        assert_eq!(offer(&mut shares, &config, Class::Bulk, 1_000, 1_000), Offered::Send);
    }

    #[test]
    fn nothing_overtakes_what_waits_in_its_class() {
        let (config, mut shares) = (config(), Shares::default());
        let offered = [9_500, 1_000, 100].map(|len| offer(&mut shares, &config, Class::Bulk, len as u64, len));
        assert_eq!(offered, [Offered::Send, Offered::Queued, Offered::Queued]);
        assert_eq!(renew(&mut shares, &config), [1_000, 100]);
    }

    #[test]
    fn what_a_class_leaves_is_lent_to_the_most_urgent_first() {
        let (config, mut shares) = (config(), Shares::default());
        for number in 0..100 {
            offer(&mut shares, &config, Class::Bulk, 1_000 + number, LEN);
            offer(&mut shares, &config, Class::Urgent, number, LEN);
        }
        let ready = renew(&mut shares, &config);
        let urgent = ready.iter().filter(|number| **number < 1_000).count();
        assert_eq!((urgent, ready.len() - urgent), (30 + 20, 10));
    }
}
