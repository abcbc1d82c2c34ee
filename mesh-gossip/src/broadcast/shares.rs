//! What a link carries, shared among the classes.
//!
//! In each interval a class may send its share at once, whatever the others do. The rest waits for the next
//! interval, where each class has its share again and what was left of the last is lent, the most urgent first.

use std::collections::{BTreeSet, VecDeque};

use super::config::{BroadcastConfig, Class, PUSH_OVERHEAD};
use super::message::MessageId;

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

/// What waits for a neighbour, and what it was sent in this interval.
#[derive(Clone, Debug, Default)]
pub(super) struct Shares {
    queues: [VecDeque<(MessageId, usize)>; 3],
    /// All that is in a queue, once.
    waiting: BTreeSet<MessageId>,
    spent: [usize; 3],
}

impl Shares {
    /// A message of so many bytes is to be sent.
    pub(super) fn offer(&mut self, config: &BroadcastConfig, class: Class, id: MessageId, len: usize) -> Offered {
        let (queue, spent) = (&mut self.queues[class as usize], &mut self.spent[class as usize]);
        let len = len + PUSH_OVERHEAD;
        if self.waiting.contains(&id) {
            Offered::Queued
        } else if queue.is_empty() && *spent + len <= config.share(class) {
            *spent += len;
            Offered::Send
        } else if queue.len() < config.queue_max {
            queue.push_back((id, len));
            self.waiting.insert(id);
            Offered::Queued
        } else {
            Offered::Full
        }
    }

    /// Whether another message of a class finds room.
    pub(super) fn has_room(&self, config: &BroadcastConfig, class: Class) -> bool {
        self.queues[class as usize].len() < config.queue_max
    }

    /// An interval begins: takes what may go now.
    pub(super) fn renew(&mut self, config: &BroadcastConfig) -> Vec<MessageId> {
        let unused = |class| config.share(class).saturating_sub(self.spent[class as usize]);
        let mut lent: usize = Class::ALL.into_iter().map(unused).sum();
        self.spent = [0; 3];
        let mut ready = Vec::new();
        for class in Class::ALL {
            let mut share = config.share(class);
            ready.extend(take(&mut self.queues[class as usize], &mut share));
            self.spent[class as usize] = config.share(class) - share;
        }
        for queue in &mut self.queues {
            ready.extend(take(queue, &mut lent));
        }
        for id in &ready {
            self.waiting.remove(id);
        }
        ready
    }

    /// Whether a message waits.
    pub(super) fn has(&self, id: MessageId) -> bool {
        self.waiting.contains(&id)
    }

    /// Whether nothing waits, and nothing was sent in this interval.
    pub(super) fn is_idle(&self) -> bool {
        self.queues.iter().all(VecDeque::is_empty) && self.spent == [0; 3]
    }
}

/// Takes what fits.
fn take(queue: &mut VecDeque<(MessageId, usize)>, room: &mut usize) -> Vec<MessageId> {
    let mut taken = Vec::new();
    while let Some((id, len)) = queue.front().copied().filter(|(_, len)| len <= room) {
        *room -= len;
        taken.push(id);
        queue.pop_front();
    }
    taken
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

    #[test]
    fn s17_a_class_that_sends_much_leaves_the_others_their_shares() {
        let (config, mut shares) = (config(), Shares::default());
        let offered: Vec<_> = (0..200).map(|number| shares.offer(&config, Class::Bulk, id(number), LEN)).collect();
        let count = |what| offered.iter().filter(|offered| **offered == what).count();
        assert_eq!((count(Offered::Send), count(Offered::Queued), count(Offered::Full)), (10, 100, 90));
        assert!(!shares.has_room(&config, Class::Bulk) && shares.has_room(&config, Class::Urgent));
        // The others go at once still.
        assert_eq!(shares.offer(&config, Class::Urgent, id(1), LEN), Offered::Send);
        assert_eq!(shares.offer(&config, Class::Normal, id(1), LEN), Offered::Send);
        // In the next interval it has its share, and what the others left: 29 and 19.
        let ready = shares.renew(&config);
        assert_eq!(ready, (10..10 + 10 + 48).map(id).collect::<Vec<_>>(), "in order");
        assert_eq!(shares.offer(&config, Class::Urgent, id(1), LEN), Offered::Send);
    }

    #[test]
    fn in_a_storm_of_all_each_has_its_weight() {
        let (config, mut shares) = (BroadcastConfig { queue_max: 10_000, ..config() }, Shares::default());
        let numbers = [0, 1_000, 2_000];
        for (class, start) in Class::ALL.into_iter().zip(numbers) {
            for number in start..start + 1_000 {
                shares.offer(&config, class, id(number), LEN);
            }
        }
        let mut counts = [0; 3];
        for _ in 0..10 {
            shares.renew(&config).into_iter().for_each(|id| counts[(id.number / 1_000) as usize] += 1);
        }
        assert_eq!(counts, [300, 200, 100]);
        (0..200).for_each(|_| drop(shares.renew(&config)));
        assert!(shares.is_idle());
    }

    #[test]
    fn what_is_asked_for_again_while_it_waits_is_sent_once() {
        let (config, mut shares) = (config(), Shares::default());
        let offered = [9_500, 1_000, 1_000].map(|len| shares.offer(&config, Class::Bulk, id(len as u64), len));
        assert_eq!((offered[2], shares.has(id(1_000)), shares.has(id(9_500))), (Offered::Queued, true, false));
        assert_eq!(shares.renew(&config), [id(1_000)]);
        assert!(!shares.has(id(1_000)));
        assert_eq!(shares.offer(&config, Class::Bulk, id(1_000), 1_000), Offered::Send);
    }

    #[test]
    fn nothing_overtakes_what_waits_in_its_class() {
        let (config, mut shares) = (config(), Shares::default());
        let offered = [9_500, 1_000, 100].map(|len| shares.offer(&config, Class::Bulk, id(len as u64), len));
        assert_eq!(offered, [Offered::Send, Offered::Queued, Offered::Queued]);
        assert_eq!(shares.renew(&config), [id(1_000), id(100)]);
    }

    #[test]
    fn what_a_class_leaves_is_lent_to_the_most_urgent_first() {
        let (config, mut shares) = (config(), Shares::default());
        for number in 0..100 {
            shares.offer(&config, Class::Bulk, id(1_000 + number), LEN);
            shares.offer(&config, Class::Urgent, id(number), LEN);
        }
        let ready = shares.renew(&config);
        let urgent = ready.iter().filter(|id| id.number < 1_000).count();
        assert_eq!((urgent, ready.len() - urgent), (30 + 20, 10));
    }
}
