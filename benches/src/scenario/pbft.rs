//! pBFT under Twins and mutants: correct replicas that are there twice, and replicas whose words are changed at random.
//!
//! A [`Scope`] is every order of partitions in some rounds, with one replica (or more) there twice (Bano et al., Twins:
//! BFT systems made robust, 2020): each [scenario](Scope::run) is a number. [`run`] draws from a seed what does not
//! fit into a scope: more replicas, more rounds, mutants. In both, after the rounds all reach each other, and what was
//! asked must be executed by all replicas that are not faulty, within a bound. What must hold at any time: these
//! replicas execute the same in the same order, each command once; an operation is one request, whoever tells of it;
//! and there is evidence against none of them.

mod mutant;
mod seals;
mod world;

use std::collections::BTreeMap;

use mesh_consensus::pbft::{AuthMode, Plant};
use mesh_core::Rng64;

use crate::campaign::Outcome;
use world::{Counts, Fault, Round, Setup, World};

/// The planted bug of this name, as `quorum-too-small` is [`Plant::QuorumTooSmall`].
///
/// # Errors
/// A sentence that lists the names.
pub fn plant_named(name: &str) -> Result<Plant, String> {
    let names = Plant::ALL.map(plant_name);
    let at = names.iter().position(|known| known == name);
    at.map(|at| Plant::ALL[at]).ok_or_else(|| format!("there is no bug {name:?}: choose from {}", names.join(", ")))
}

fn plant_name(plant: Plant) -> String {
    crate::campaign::snake_case(&format!("{plant:?}")).replace('_', "-")
}

fn play(setup: &Setup, rounds: &[Round], seed: u64) -> Outcome {
    let mut world = World::new(setup, seed);
    let played = rounds.iter().try_for_each(|round| world.round(round)).and_then(|()| world.calm());
    let Counts { delivered, lost, mutated, simulated } = world.counts;
    let twins = setup.faulty.values().filter(|fault| **fault == Fault::Twins).count() as u64;
    let partitions = rounds.iter().filter(|round| round.blocks.iter().any(|block| *block > 0)).count() as u64;
    let faults = [("lost", lost), ("mutated", mutated), ("twins", twins), ("partitions", partitions)];
    let faults = faults.into_iter().filter(|(_, count)| *count > 0).map(|(kind, count)| (kind.to_owned(), count));
    let told: Vec<_> = rounds.iter().map(|round| format!("{:?} for {} steps", round.blocks, round.steps)).collect();
    let violation = played.err().map(|rule| {
        let Setup { replicas, auth, faulty, .. } = setup;
        format!("{rule}\n{replicas} replicas, {auth:?}, faulty {faulty:?}, blocks of {}", told.join(", then "))
    });
    Outcome { simulated, frames: delivered, faults: faults.collect(), violation }
}

/// Runs a scenario that is drawn from a seed.
pub fn run(seed: u64, plant: Option<Plant>) -> Outcome {
    let mut rng = Rng64::from_seed(seed, "pbft scenario");
    let replicas = if rng.chance(1, 4) { 7 } else { 4 };
    let auth = if rng.chance(1, 2) { AuthMode::Signatures } else { AuthMode::Macs };
    let mut faulty = BTreeMap::new();
    while faulty.len() < (replicas - 1) / 3 {
        let fault = if rng.chance(1, 2) { Fault::Twins } else { Fault::Mutant };
        faulty.insert(rng.below(replicas as u64) as usize, fault);
    }
    let setup = Setup { replicas, auth, faulty, plant };
    let round = |rng: &mut Rng64| {
        // Mostly two blocks, or all together.
        let most = [1, 2, 2, 2, 3][rng.below(5) as usize];
        let blocks = (0..setup.instances()).map(|_| rng.below(most) as u8).collect();
        Round { blocks, steps: 1 + rng.below(8) as u32 }
    };
    let rounds: Vec<_> = (0..2 + rng.below(7)).map(|_| round(&mut rng)).collect();
    play(&setup, &rounds, seed)
}

/// Every order of partitions in some rounds.
#[derive(Clone, Debug)]
pub struct Scope {
    setup: Setup,
    rounds: u32,
    steps: u32,
    /// Every way to put the instances into blocks.
    partitions: Vec<Vec<u8>>,
    /// The partition that each is with the first twins exchanged.
    exchanged: Vec<u64>,
}

impl Scope {
    /// Four replicas of which the first `twins` are there twice, `rounds` rounds of `steps` steps, each in every
    /// partition of at most `blocks` blocks.
    pub fn new(twins: usize, rounds: u32, steps: u32, blocks: u8, auth: AuthMode, plant: Option<Plant>) -> Self {
        let faulty = (0..twins).map(|replica| (replica, Fault::Twins)).collect();
        let setup = Setup { replicas: 4, auth, faulty, plant };
        let mut partitions = vec![Vec::new()];
        for _ in 0..setup.instances() {
            let longer = |partition: &Vec<u8>| {
                let used = partition.iter().max().map_or(0, |block| block + 1);
                (0..=used.min(blocks.max(1) - 1)).map(|block| [&partition[..], &[block]].concat()).collect::<Vec<_>>()
            };
            partitions = partitions.iter().flat_map(longer).collect();
        }
        let places: BTreeMap<_, u64> = partitions.iter().cloned().zip(0..).collect();
        let exchange = |partition: &Vec<u8>| {
            let mut partition = partition.clone();
            if twins > 0 {
                partition.swap(0, setup.replicas);
            }
            let mut names = BTreeMap::new();
            for block in &mut partition {
                let next = names.len() as u8;
                *block = *names.entry(*block).or_insert(next);
            }
            places[&partition]
        };
        let exchanged = partitions.iter().map(exchange).collect();
        Self { setup, rounds, steps, partitions, exchanged }
    }

    /// How many scenarios there are, those counted that are skipped.
    pub fn len(&self) -> u64 {
        (self.partitions.len() as u64).saturating_pow(self.rounds)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The partitions of a scenario, round by round.
    fn digits(&self, mut number: u64) -> impl Iterator<Item = u64> {
        let base = self.partitions.len() as u64;
        (0..self.rounds).map(move |_| {
            let digit = number % base;
            number /= base;
            digit
        })
    }

    /// Whether it is not another scenario, with a lower number, with the first twins exchanged.
    fn is_different(&self, number: u64) -> bool {
        let base = self.partitions.len() as u64;
        let exchanged = self.digits(number).zip(0..).map(|(digit, at)| self.exchanged[digit as usize] * base.pow(at));
        number <= exchanged.sum::<u64>()
    }

    /// Runs a scenario; `None` for one that is another with the first twins exchanged.
    pub fn run(&self, number: u64) -> Option<Outcome> {
        if !self.is_different(number) {
            return None;
        }
        let round = |digit: u64| Round { blocks: self.partitions[digit as usize].clone(), steps: self.steps };
        let rounds: Vec<_> = self.digits(number).map(round).collect();
        Some(play(&self.setup, &rounds, number))
    }
}
