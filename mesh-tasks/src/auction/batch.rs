//! Many tasks to many bidders at once, so that the sum of the scores is about as high as it can be.
//!
//! It is the auction algorithm of Bertsekas (1988), for bidders that take several tasks each (Bertsekas and Castañon,
//! 1989). The roles are turned round: tasks bid for the places that bidders have. Each task without a place takes the
//! one that is worth most to it at its present price, raises the price so far that the second best would be as good,
//! and a little more, and drives out whoever has paid least there. That little more is [`BatchConfig::epsilon`]: the
//! sum is less than the optimum by at most so much a task, and in fact by much less.
//!
//! A task that fits nowhere, or where more want to go than there are places, may get none. Of scores that are equal
//! the bidder comes first that is named first; the outcome depends on the scores and their order alone.
//!
//! ```
//! use mesh_tasks::auction::batch::{Batch, BatchConfig};
//!
//! // Two bidders, of which the second takes two tasks.
//! let mut batch = Batch::new(BatchConfig::default(), [1, 2])?;
//! batch.add([(0, 0.9), (1, 0.8)])?;
//! batch.add([(0, 0.9), (1, 0.1)])?;
//! batch.add([(1, 0.5)])?;
//! let assignment = batch.assign();
//! assert_eq!(assignment.bidders, [Some(1), Some(0), Some(1)]);
//! assert!((assignment.score - 2.2).abs() < 1e-6);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use crate::share::{Share, ShareError};

/// Scores are counted in parts of so many.
const ONE: f64 = (1 << 24) as f64;

/// The most bidders of a batch.
pub const BIDDERS_MAX: usize = 1 << 20;

/// The most tasks of a batch.
pub const TASKS_MAX: usize = 1 << 20;

/// How a batch is assigned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchConfig {
    /// By how much a task outbids another at least. Less comes nearer to the optimum and takes longer. Default: 0.01;
    /// from 0.00001 to 1.
    pub epsilon: f64,
}

impl Default for BatchConfig {
    fn default() -> Self {
        Self { epsilon: 0.01 }
    }
}

/// A configuration that cannot work, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the configuration of a batch cannot work: {0}")]
pub struct BatchConfigError(String);

impl BatchConfig {
    /// Checks that the values can work.
    ///
    /// # Errors
    /// A sentence that names the value and the bound.
    pub fn validate(&self) -> Result<(), BatchConfigError> {
        match self.epsilon {
            1e-5..=1.0 => Ok(()),
            given => Err(BatchConfigError(format!("epsilon is {given}; it must be from 0.00001 to 1"))),
        }
    }
}

/// Why a batch does not take something.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// There are more tasks than [`TASKS_MAX`].
    #[error("a batch takes {TASKS_MAX} tasks at most")]
    TooManyTasks,
    /// There is no such bidder.
    #[error("there is no bidder {bidder}: there are {count}, counted from 0")]
    UnknownBidder {
        /// The one that was named.
        bidder: usize,
        /// How many there are.
        count: usize,
    },
    /// A score is not from 0 to 1.
    #[error("the score of bidder {bidder}: {error}")]
    Score {
        /// Whose.
        bidder: usize,
        /// What it is.
        error: ShareError,
    },
}

/// What a bidder is worth to a task.
#[derive(Clone, Copy, Debug)]
struct Worth {
    bidder: u32,
    score: i32,
}

/// Tasks with the scores that bidders have for each.
#[derive(Clone, Debug)]
pub struct Batch {
    config: BatchConfig,
    /// How many tasks each bidder takes.
    capacities: Vec<u32>,
    worths: Vec<Worth>,
    /// Where in `worths` those of each task end.
    ends: Vec<usize>,
}

/// Which task goes where.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Assignment {
    /// The bidder of each task, counted from 0 as they were given; `None` for a task that got no place.
    pub bidders: Vec<Option<usize>>,
    /// The sum of the scores.
    pub score: f64,
    /// How often a task bid for a place.
    pub bids: u64,
}

impl Batch {
    /// A batch without tasks for bidders that take so many tasks each.
    ///
    /// # Errors
    /// [`BatchConfigError`] where the configuration cannot work, or there are more than [`BIDDERS_MAX`].
    pub fn new(config: BatchConfig, capacities: impl IntoIterator<Item = u32>) -> Result<Self, BatchConfigError> {
        config.validate()?;
        let capacities: Vec<u32> = capacities.into_iter().take(BIDDERS_MAX + 1).collect();
        if capacities.len() > BIDDERS_MAX {
            return Err(BatchConfigError(format!("there are more than {BIDDERS_MAX} bidders")));
        }
        Ok(Self { config, capacities, worths: Vec::new(), ends: Vec::new() })
    }

    /// Adds a task with the scores of all bidders where it may run, each from 0 to 1. Bidders are counted from 0.
    ///
    /// # Errors
    /// [`BatchError`] where a bidder or a score is none, or there are too many tasks. Then the batch is as it was.
    pub fn add(&mut self, scores: impl IntoIterator<Item = (usize, f64)>) -> Result<(), BatchError> {
        if self.ends.len() == TASKS_MAX {
            return Err(BatchError::TooManyTasks);
        }
        let begin = self.worths.len();
        for (bidder, score) in scores {
            match self.worth(bidder, score) {
                Ok(worth) => self.worths.push(worth),
                Err(error) => {
                    self.worths.truncate(begin);
                    return Err(error);
                }
            }
        }
        self.ends.push(self.worths.len());
        Ok(())
    }

    fn worth(&self, bidder: usize, score: f64) -> Result<Worth, BatchError> {
        let count = self.capacities.len();
        if bidder >= count {
            return Err(BatchError::UnknownBidder { bidder, count });
        }
        let score = Share::new(score).map_err(|error| BatchError::Score { bidder, error })?;
        Ok(Worth { bidder: bidder as u32, score: (score.get() * ONE).round() as i32 })
    }

    fn worths_of(&self, task: usize) -> &[Worth] {
        let begin = task.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.worths[begin..self.ends[task]]
    }

    /// Which task goes where.
    pub fn assign(&self) -> Assignment {
        // From prices of nothing, tasks would long outbid each other in small steps for what all of them value.
        let mut prices = self.guess();
        let (mut bids, mut lower) = (0, 0);
        loop {
            let mut auction = Auction::new(self, &prices);
            auction.run();
            bids += auction.bids;
            let too_high = auction.highest_price_of_a_free_place();
            if too_high == 0 {
                return Assignment { score: self.score(&auction.bidders), bidders: auction.bidders, bids };
            }
            // Nobody was there to pay that: the guess was too high, and perhaps it was elsewhere.
            lower = too_high.max(2 * lower);
            prices.iter_mut().for_each(|price| *price = (*price - lower).max(0));
        }
    }

    /// What the places of each bidder may cost in the end: by how much they are worth more, on average, than those of
    /// the last bidder that is needed.
    fn guess(&self) -> Vec<i32> {
        let mut sums = vec![(0_i64, 0_i64); self.capacities.len()];
        for worth in &self.worths {
            let (sum, count) = &mut sums[worth.bidder as usize];
            (*sum, *count) = (*sum + i64::from(worth.score), *count + 1);
        }
        let means: Vec<i32> = sums.iter().map(|(sum, count)| (sum / (*count).max(1)) as i32).collect();
        let mut ranked: Vec<usize> = (0..means.len()).collect();
        ranked.sort_by_key(|bidder| Reverse(means[*bidder]));
        let (tasks, places) = (self.ends.len() as u64, self.capacities.iter().copied().map(u64::from).sum::<u64>());
        // Where tasks can choose, a guess that is too high costs more than one that is too low.
        let needed = if places > tasks { tasks * 4 / 5 } else { tasks };
        let mut before = 0;
        let is_needed = |bidder: &&usize| {
            let is_needed = before < needed;
            before += u64::from(self.capacities[**bidder]);
            is_needed
        };
        let last = ranked.iter().take_while(is_needed).last().map_or(0, |bidder| means[*bidder]);
        means.iter().map(|mean| (mean - last).max(0)).collect()
    }

    fn score(&self, bidders: &[Option<usize>]) -> f64 {
        let score = |(task, bidder): (usize, &Option<usize>)| {
            let worths = self.worths_of(task).iter().filter(|worth| Some(worth.bidder as usize) == *bidder);
            worths.map(|worth| i64::from(worth.score)).max()
        };
        bidders.iter().enumerate().filter_map(score).sum::<i64>() as f64 / ONE
    }
}

/// One auction of all places, from given prices.
struct Auction<'a> {
    batch: &'a Batch,
    /// What a task must outbid at each bidder: what the cheapest place there was taken for, and where one is free still
    /// the price at the beginning.
    prices: Vec<i32>,
    /// What the places that are taken were taken for, and by which tasks.
    places: Vec<BinaryHeap<Reverse<(i32, u32)>>>,
    bidders: Vec<Option<usize>>,
    bids: u64,
}

/// Where a task wants to go.
struct Choice {
    bidder: usize,
    /// By how much that is worth more than the second best, which may be to have no place.
    margin: i32,
}

impl<'a> Auction<'a> {
    fn new(batch: &'a Batch, prices: &[i32]) -> Self {
        // Who takes no task is too expensive for all.
        let price = |(price, capacity): (&i32, &u32)| if *capacity == 0 { i32::MAX / 2 } else { *price };
        Self {
            batch,
            prices: prices.iter().zip(&batch.capacities).map(price).collect(),
            places: vec![BinaryHeap::new(); batch.capacities.len()],
            bidders: vec![None; batch.ends.len()],
            bids: 0,
        }
    }

    fn run(&mut self) {
        let epsilon = (self.batch.config.epsilon * ONE) as i32;
        let mut waiting: VecDeque<u32> = (0..self.batch.ends.len() as u32).collect();
        while let Some(task) = waiting.pop_front() {
            // Prices only rise: who finds every place too expensive will find it so for ever.
            let Some(Choice { bidder, margin }) = self.choose(task) else { continue };
            self.bids += 1;
            let (places, capacity) = (&mut self.places[bidder], self.batch.capacities[bidder] as usize);
            if places.len() == capacity
                && let Some(Reverse((_, driven_out))) = places.pop()
            {
                self.bidders[driven_out as usize] = None;
                waiting.push_back(driven_out);
            }
            places.push(Reverse((self.prices[bidder] + margin + epsilon, task)));
            self.bidders[task as usize] = Some(bidder);
            if let Some(Reverse((cheapest, _))) = places.peek().filter(|_| places.len() == capacity) {
                self.prices[bidder] = *cheapest;
            }
        }
    }

    fn choose(&self, task: u32) -> Option<Choice> {
        let (mut best, mut second, mut bidder) = (-1, 0, 0);
        for worth in self.batch.worths_of(task as usize) {
            let value = worth.score - self.prices[worth.bidder as usize];
            if value > best {
                (second, best, bidder) = (second.max(best), value, worth.bidder as usize);
            } else if value > second {
                second = value;
            }
        }
        (best >= 0).then_some(Choice { bidder, margin: best - second })
    }

    fn highest_price_of_a_free_place(&self) -> i32 {
        let is_free = |bidder: &usize| self.places[*bidder].len() < self.batch.capacities[*bidder] as usize;
        (0..self.places.len()).filter(is_free).map(|bidder| self.prices[bidder]).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use mesh_core::Rng64;
    use pathfinding::kuhn_munkres::kuhn_munkres;
    use pathfinding::matrix::Matrix;
    use proptest::collection::{btree_map, vec};
    use proptest::{prop_assert, prop_assert_eq, proptest};

    use super::*;

    /// For each task the bidders where it may run, with scores in percent.
    type Scores = [BTreeMap<usize, u8>];

    fn batch(epsilon: f64, capacities: &[u32], scores: &Scores) -> Batch {
        let mut batch = Batch::new(BatchConfig { epsilon }, capacities.iter().copied()).unwrap();
        for scores in scores {
            batch.add(scores.iter().map(|(bidder, score)| (*bidder, f64::from(*score) / 100.0))).unwrap();
        }
        batch
    }

    /// The highest sum there is, in percent: a column for each place, and for each task one that is worth nothing.
    fn optimum(capacities: &[u32], scores: &Scores) -> i64 {
        let places: Vec<usize> =
            (0..).zip(capacities).flat_map(|(bidder, count)| vec![bidder; *count as usize]).collect();
        let width = places.len() + scores.len();
        let cell = |task: &BTreeMap<usize, u8>, column: usize| match places.get(column) {
            Some(bidder) => task.get(bidder).map_or(-1_000_000, |score| i64::from(*score)),
            None => 0,
        };
        let rows = scores.iter().map(|task| (0..width).map(|column| cell(task, column)).collect::<Vec<_>>());
        Matrix::from_rows(rows).map_or(0, |matrix| if matrix.rows == 0 { 0 } else { kuhn_munkres(&matrix).0 })
    }

    fn check(assignment: &Assignment, capacities: &[u32], scores: &Scores) {
        let mut used: BTreeMap<usize, u32> = BTreeMap::new();
        let mut sum = 0.0;
        assert_eq!(assignment.bidders.len(), scores.len());
        for (bidder, scores) in assignment.bidders.iter().zip(scores) {
            if let Some(bidder) = bidder {
                sum += f64::from(scores[bidder]) / 100.0;
                *used.entry(*bidder).or_default() += 1;
            }
        }
        assert!((assignment.score - sum).abs() < 1e-6 * (1.0 + scores.len() as f64));
        assert!(used.iter().all(|(bidder, used)| *used <= capacities[*bidder]), "{used:?}");
    }

    proptest! {
        /// Bidders with few places or none, tasks that may run in few places or nowhere.
        #[test]
        fn the_sum_is_within_epsilon_a_task_of_the_optimum(
            capacities in vec(0..4_u32, 1..8),
            scores in vec(btree_map(0..8_usize, 0..=100_u8, 0..8), 0..16),
        ) {
            let scores: Vec<_> = scores
                .into_iter()
                .map(|task| task.into_iter().filter(|(bidder, _)| *bidder < capacities.len()).collect())
                .collect();
            let optimum = optimum(&capacities, &scores) as f64 / 100.0;
            for epsilon in [0.05, 0.01] {
                let assignment = batch(epsilon, &capacities, &scores).assign();
                check(&assignment, &capacities, &scores);
                prop_assert!(assignment.score <= optimum + 1e-5);
                prop_assert!(assignment.score + epsilon * scores.len() as f64 + 1e-5 >= optimum);
            }
            // Scores are in percent: with less than a part of that for all tasks together, it is the optimum.
            let exact = batch(0.009 / (scores.len() as f64 + 1.0), &capacities, &scores).assign();
            prop_assert!((exact.score - optimum).abs() < 1e-5, "{} {optimum}", exact.score);
        }

        /// Nobody who could have a place at a bidder with free places stays without one.
        #[test]
        fn no_place_is_left_free_that_somebody_without_one_could_have(
            capacities in vec(0..4_u32, 1..8),
            scores in vec(btree_map(0..8_usize, 0..=100_u8, 0..8), 0..16),
        ) {
            let scores: Vec<BTreeMap<usize, u8>> = scores
                .into_iter()
                .map(|task| task.into_iter().filter(|(bidder, _)| *bidder < capacities.len()).collect())
                .collect();
            let assignment = batch(0.01, &capacities, &scores).assign();
            for (task, _) in scores.iter().zip(&assignment.bidders).filter(|(_, bidder)| bidder.is_none()) {
                for bidder in task.keys() {
                    let used = assignment.bidders.iter().filter(|other| **other == Some(*bidder)).count();
                    prop_assert_eq!(used, capacities[*bidder] as usize);
                }
            }
        }
    }

    /// Scores as the weights make them: 0.4 for the pair, 0.6 for the bidder.
    fn weighted(tasks: usize, bidders: usize) -> Vec<BTreeMap<usize, u8>> {
        let mut rng = Rng64::from_seed(1, "scores");
        let of_bidder: Vec<u8> = (0..bidders).map(|_| rng.below(61) as u8).collect();
        let task = |_| of_bidder.iter().map(|of_bidder| of_bidder + rng.below(41) as u8).enumerate().collect();
        (0..tasks).map(task).collect()
    }

    #[test]
    fn the_default_is_near_the_optimum_with_few_bids() {
        for (tasks, capacities, bids_max) in
            [(100, vec![1; 100], 4), (100, vec![1; 140], 10), (100, vec![10; 12], 10), (100, vec![1; 20], 12)]
        {
            let scores = weighted(tasks, capacities.len());
            let assignment = batch(BatchConfig::default().epsilon, &capacities, &scores).assign();
            check(&assignment, &capacities, &scores);
            let quality = assignment.score / (optimum(&capacities, &scores) as f64 / 100.0);
            assert!(quality >= 0.997, "{quality} {}", capacities.len());
            assert!(assignment.bids <= bids_max * tasks as u64, "{} {}", assignment.bids, capacities.len());
        }
    }

    #[test]
    fn what_is_no_score_is_refused_and_leaves_the_batch_as_it_was() {
        let mut batch = Batch::new(BatchConfig::default(), [1, 1]).unwrap();
        let unknown = BatchError::UnknownBidder { bidder: 2, count: 2 };
        assert_eq!(batch.add([(0, 0.5), (2, 0.5)]), Err(unknown));
        let nan = BatchError::Score { bidder: 1, error: ShareError::NotANumber };
        assert_eq!(batch.add([(0, 0.5), (1, f64::NAN)]), Err(nan));
        let above = BatchError::Score { bidder: 0, error: ShareError::AboveOne(1.1) };
        assert_eq!(batch.add([(0, 1.1)]), Err(above));
        assert_eq!(batch.assign(), Assignment::default());
        batch.add([(1, -0.0)]).unwrap();
        assert_eq!(batch.assign().bidders, [Some(1)]);
    }

    #[test]
    fn nobody_takes_what_there_is_no_place_for() {
        assert_eq!(batch(0.01, &[], &[]).assign(), Assignment::default());
        let nowhere = batch(0.01, &[0, 1], &[[(0, 50)].into(), [].into()]).assign();
        assert_eq!((nowhere.bidders, nowhere.bids), (vec![None, None], 0));
    }

    #[test]
    fn an_epsilon_that_cannot_work_is_named() {
        for epsilon in [0.0, 1e-6, 1.5, -1.0, f64::NAN] {
            let error = Batch::new(BatchConfig { epsilon }, [1]).unwrap_err().to_string();
            assert!(error.contains("epsilon"), "{error}");
        }
        assert_eq!(BatchConfig::default().validate(), Ok(()));
    }
}
