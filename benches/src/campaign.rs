//! Many seeds of a simulation, on all cores, until one of them breaks a rule.
//!
//! A seed decides everything in its run, so threads share the seeds out between them and the result
//! is the same on any number of cores: the lowest seed that fails is the one that is told.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::scenario;
use crate::stopwatch::Stopwatch;

/// How often a long campaign says how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);

/// What one seed came to.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Virtual time that passed.
    pub simulated: Duration,
    /// Frames delivered, or messages where there are no frames.
    pub frames: u64,
    /// Faults injected, by kind.
    pub faults: BTreeMap<String, u64>,
    /// The rule that was broken, if one was, with the last events before it.
    pub violation: Option<String>,
}

/// Runs one seed.
pub type RunSeed<'a> = Box<dyn Fn(u64) -> Outcome + Sync + 'a>;

/// A simulation that takes seeds.
#[derive(Clone, Copy, Debug)]
pub struct Suite {
    /// What one asks for.
    pub name: &'static str,
    /// Gets ready to run seeds. The error is a sentence that says which wish cannot be met.
    pub prepare: fn(&Wishes) -> Result<RunSeed<'static>, String>,
}

/// What one can ask of a suite.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    /// A bug that is planted; a wrong name gets a sentence that lists those there are.
    pub plant: Option<String>,
    /// How many nodes there are, where the suite lets one choose; otherwise the seed decides.
    pub nodes: Option<usize>,
}

impl Suite {
    /// Every suite.
    pub const ALL: [Self; 5] = [
        Self { name: "raft", prepare: prepare_raft },
        Self { name: "pbft", prepare: prepare_pbft },
        Self { name: "gossip", prepare: prepare_gossip },
        Self { name: "tasks", prepare: prepare_tasks },
        Self { name: "dht", prepare: prepare_dht },
    ];

    /// The suite of this name.
    ///
    /// # Errors
    /// A sentence that lists the suites.
    pub fn named(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|suite| suite.name == name).ok_or_else(|| {
            let known = Self::ALL.map(|suite| suite.name).join(", ");
            format!("there is no suite {name:?}: choose from {known}")
        })
    }
}

fn prepare_raft(wishes: &Wishes) -> Result<RunSeed<'static>, String> {
    if wishes.nodes.is_some() {
        return Err("the nodes of raft are drawn from the seed: leave --nodes out".to_owned());
    }
    let scenario = scenario::raft::Scenario::default();
    let scenario = match &wishes.plant {
        Some(plant) => scenario.planted(plant)?,
        None => scenario,
    };
    Ok(Box::new(move |seed| {
        let outcome = scenario.run(seed);
        Outcome {
            simulated: outcome.simulated,
            frames: outcome.stats.frames_delivered,
            faults: outcome.faults.into_iter().map(|(kind, count)| (snake_case(&format!("{kind:?}")), count)).collect(),
            violation: outcome.violation,
        }
    }))
}

fn prepare_pbft(wishes: &Wishes) -> Result<RunSeed<'static>, String> {
    if wishes.nodes.is_some() {
        return Err("the nodes of pbft are drawn from the seed: leave --nodes out".to_owned());
    }
    let plant = wishes.plant.as_deref().map(scenario::pbft::plant_named).transpose()?;
    Ok(Box::new(move |seed| scenario::pbft::run(seed, plant)))
}

fn prepare_gossip(wishes: &Wishes) -> Result<RunSeed<'static>, String> {
    let plant = wishes.plant.as_deref().map(scenario::gossip::Plant::named).transpose()?;
    let nodes = wishes.nodes;
    if nodes.is_some_and(|nodes| !NODES.contains(&nodes)) {
        return Err(format!("so many nodes cannot be simulated: choose from {} to {}", NODES.start(), NODES.end()));
    }
    Ok(Box::new(move |seed| {
        let scenario::gossip::Outcome { simulated, frames, faults, violation } =
            scenario::gossip::run(seed, nodes, plant);
        Outcome { simulated, frames, faults, violation }
    }))
}

fn prepare_tasks(wishes: &Wishes) -> Result<RunSeed<'static>, String> {
    if let Some(plant) = &wishes.plant {
        return Err(format!("there is no bug {plant:?}: in tasks none can be planted"));
    }
    let nodes = wishes.nodes;
    if nodes.is_some_and(|nodes| nodes == 0 || nodes > 256) {
        return Err("so many nodes cannot be simulated: choose from 1 to 256".to_owned());
    }
    Ok(Box::new(move |seed| scenario::tasks::run(seed, nodes)))
}

fn prepare_dht(wishes: &Wishes) -> Result<RunSeed<'static>, String> {
    if let Some(plant) = &wishes.plant {
        return Err(format!("there is no bug {plant:?}: in dht none can be planted"));
    }
    let nodes = wishes.nodes;
    if nodes.is_some_and(|nodes| nodes == 0 || nodes > 256) {
        return Err("so many nodes cannot be simulated: choose from 1 to 256".to_owned());
    }
    Ok(Box::new(move |seed| scenario::dht::run(seed, nodes)))
}

/// How many nodes gossip can have.
const NODES: std::ops::RangeInclusive<usize> = 5..=10_000;

/// `DiskSlow` as `disk_slow`.
pub(crate) fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.extend(letter.to_lowercase());
    }
    snake
}

/// What a campaign came to.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Seeds run.
    pub seeds: u64,
    /// Real time that passed.
    pub elapsed: Duration,
    /// Virtual time that passed in all seeds together.
    pub simulated: Duration,
    /// Frames delivered in all seeds together.
    pub frames: u64,
    /// Faults injected, by kind.
    pub faults: BTreeMap<String, u64>,
    /// Seeds that broke a rule, the lowest first.
    pub violations: BTreeMap<u64, String>,
}

impl Summary {
    fn add(&mut self, seed: u64, outcome: Outcome) {
        self.seeds += 1;
        self.simulated += outcome.simulated;
        self.frames += outcome.frames;
        for (kind, count) in outcome.faults {
            *self.faults.entry(kind).or_default() += count;
        }
        if let Some(violation) = outcome.violation {
            self.violations.insert(seed, violation);
        }
    }

    /// Seeds a second of real time.
    pub fn seeds_per_s(&self) -> f64 {
        self.seeds as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }
}

/// Runs `seeds` on `threads` threads. After a violation no further seed begins.
pub fn run(run_seed: &RunSeed<'_>, seeds: Range<u64>, threads: usize) -> Summary {
    let next = AtomicU64::new(seeds.start);
    let summary = Mutex::new((Summary::default(), Duration::ZERO));
    let watch = Stopwatch::start();
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if !seeds.contains(&seed) {
                return;
            }
            let outcome = run_seed(seed);
            if outcome.violation.is_some() {
                next.store(seeds.end, Ordering::Relaxed);
            }
            let mut guard = summary.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let (summary, told) = &mut *guard;
            summary.add(seed, outcome);
            let elapsed = watch.elapsed();
            if elapsed >= *told + PROGRESS_EVERY {
                *told = elapsed;
                let rate = summary.seeds as f64 / elapsed.as_secs_f64();
                eprintln!("{} of {} seeds, {rate:.0} seeds/s", summary.seeds, seeds.end - seeds.start);
            }
        }
    };
    std::thread::scope(|scope| (0..threads.max(1)).for_each(|_| drop(scope.spawn(work))));
    let (summary, _) = summary.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    Summary { elapsed: watch.elapsed(), ..summary }
}

/// Reads `A..B`: the seeds from A up to and without B.
///
/// # Errors
/// A sentence that says what to write.
pub fn parse_seeds(text: &str) -> Result<Range<u64>, String> {
    let ends = text.split_once("..").and_then(|(start, end)| Some(start.parse().ok()?..end.parse().ok()?));
    match ends {
        Some(seeds) if !seeds.is_empty() => Ok(seeds),
        Some(_) => Err("there are no seeds in it: the second number must be larger, as in 0..1000".to_owned()),
        None => Err("write the first seed and the one after the last, as in 0..1000".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sevens(fail: bool) -> RunSeed<'static> {
        Box::new(move |seed| Outcome {
            simulated: Duration::from_secs(1),
            frames: 2,
            faults: [("crash".to_owned(), 3)].into(),
            violation: (fail && seed % 7 == 6).then(|| "a seven".to_owned()),
        })
    }

    #[test]
    fn all_seeds_run_and_add_up() {
        let summary = run(&sevens(false), 10..40, 3);
        assert_eq!((summary.seeds, summary.simulated.as_secs(), summary.frames), (30, 30, 60));
        assert_eq!(summary.faults["crash"], 90);
        assert!(summary.violations.is_empty());
    }

    #[test]
    fn the_lowest_failing_seed_is_told_on_any_number_of_threads() {
        for threads in [1, 2, 4] {
            let summary = run(&sevens(true), 0..1000, threads);
            assert_eq!(summary.violations.keys().next(), Some(&6));
            assert!(summary.seeds < 1000);
        }
    }

    #[test]
    fn a_wrong_suite_or_bug_gets_a_sentence_with_those_there_are() {
        assert!(Suite::named("rafts").unwrap_err().contains("raft"));
        let prepare = |suite: &str, plant: Option<&str>, nodes| {
            let wishes = Wishes { plant: plant.map(str::to_owned), nodes };
            (Suite::named(suite).unwrap().prepare)(&wishes).err()
        };
        assert!(prepare("raft", Some("nothing"), None).unwrap().contains("nothing"));
        assert!(prepare("raft", None, Some(5)).unwrap().contains("--nodes"));
        assert!(prepare("gossip", Some("nothing"), None).unwrap().contains("forger"));
        assert!(prepare("gossip", None, Some(4)).unwrap().contains("5 to 10000"));
        assert!(prepare("gossip", None, Some(1024)).is_none());
    }

    #[test]
    fn seeds_are_a_range() {
        assert_eq!(parse_seeds("3..5"), Ok(3..5));
        for text in ["5..3", "3..3", "3", "a..b", "3..=5", "-1..5", ""] {
            assert!(parse_seeds(text).is_err(), "{text:?}");
        }
    }
}
