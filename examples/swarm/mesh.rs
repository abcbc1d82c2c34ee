//! The swarm as this process sees it: who runs, what each says, what was asked and acknowledged.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::OsString;
use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::{Duration, Instant};

use mesh_core::NodeId;
use mesh_examples::processes::{INTERRUPTED, Interruption, Processes, State};

use super::agent::{Plan, TIMEFRAME};
use super::line::{Line, Numbered, Order, Status};
use super::stage::Stage;
use super::view::View;

/// How often what agents say is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// How long anything may take that is waited for, once no task is done and no record acknowledged any more; far more than it
/// needs, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// How long the network may take to shut down once people have played enough.
const PARTING_PATIENCE: Duration = Duration::from_secs(5);

/// How long an agent may take to write a record before another is asked.
const WRITE_PATIENCE: Duration = Duration::from_secs(3);

/// So many writes are on their way at a time.
const WRITES: usize = 8;

/// What went wrong, for people.
pub(crate) type Problem = String;

/// A record of the catalogue.
pub(crate) type Record = (String, String);

/// What is to be written to the catalogue, and what was.
#[derive(Debug, Default)]
pub(crate) struct Writing {
    waiting: VecDeque<Record>,
    on_their_way: BTreeMap<u64, (Record, Instant)>,
    pub(crate) acknowledged: BTreeMap<String, String>,
    /// No more are acknowledged than this, so that there is something to write in each trouble.
    gate: usize,
    pub(crate) retries: u64,
    /// The longest time between two acknowledgements, while there was something to write.
    pub(crate) longest_stall: Duration,
    last: Option<Instant>,
}

/// The swarm.
#[derive(Debug)]
pub(crate) struct Mesh {
    pub(crate) processes: Processes<Line>,
    heard: Receiver<(NodeId, Line)>,
    pub(crate) ids: Vec<NodeId>,
    founders: usize,
    arguments: Vec<OsString>,
    cluster_key: PathBuf,
    /// What each agent that runs said last.
    statuses: BTreeMap<usize, Status>,
    answers: BTreeMap<u64, Option<Result<String, String>>>,
    next: u64,
    /// The next to be asked to write.
    turn: usize,
    pub(crate) writing: Writing,
    pub(crate) view: View,
    /// The dashboard, where there is one.
    stage: Option<Stage>,
    /// Tasks that processes executed that are gone.
    done_before: u64,
    /// What processes counted that are gone, and when they ended.
    counted_before: VecDeque<(Instant, Counted)>,
    /// What each agent that is paused said last.
    paused: BTreeMap<usize, Status>,
    begin: Instant,
    /// Who was told to end.
    ending: BTreeSet<usize>,
    /// How many entries were put into the shared memory.
    pub(crate) remembered: usize,
    /// Whether all is to end at once, and well.
    interrupted: Interruption,
    /// Until when the network may shut down, where it was [told to](Self::part) by an interruption.
    parts_until: Option<Instant>,
}

impl Mesh {
    /// The swarm, of which nobody runs yet.
    pub(crate) fn new(
        mut processes: Processes<Line>,
        plan: &Plan,
        records: Vec<Record>,
        view: View,
        stage: Option<Stage>,
        interrupted: Interruption,
    ) -> Self {
        let heard = processes.listen();
        let ids = processes.iter().map(|(id, ..)| id).collect();
        let writing = Writing { waiting: records.into(), ..Writing::default() };
        Self {
            processes,
            heard,
            ids,
            founders: plan.founders,
            arguments: plan.arguments(),
            cluster_key: plan.cluster_key.clone(),
            statuses: BTreeMap::new(),
            answers: BTreeMap::new(),
            next: 0,
            turn: 0,
            writing,
            view,
            stage,
            done_before: 0,
            counted_before: VecDeque::new(),
            paused: BTreeMap::new(),
            begin: Instant::now(),
            ending: BTreeSet::new(),
            remembered: 0,
            interrupted,
            parts_until: None,
        }
    }

    /// The name of an agent, for people.
    pub(crate) fn name(&self, at: usize) -> String {
        format!("agent {}", at + 1)
    }

    /// Starts the process of an agent.
    pub(crate) fn start(&mut self, at: usize) -> Result<(), Problem> {
        self.statuses.remove(&at);
        self.processes.start(at, self.arguments.clone()).map_err(|error| error.to_string())?;
        Ok(())
    }

    /// Kills the process of an agent.
    pub(crate) fn kill(&mut self, at: usize) -> Result<(), Problem> {
        self.forget(at);
        self.processes.kill(at).map_err(|error| error.to_string())
    }

    /// Pauses the process of an agent. What it said does not count until it is resumed.
    pub(crate) fn pause(&mut self, at: usize) -> Result<(), Problem> {
        self.processes.pause(at).map_err(|error| error.to_string())?;
        if let Some(status) = self.statuses.remove(&at) {
            self.paused.insert(at, status);
        }
        Ok(())
    }

    /// What agents that start from now on seal frames under, in hexadecimal digits.
    pub(crate) fn set_cluster_key(&self, digits: &str) -> Result<(), Problem> {
        let mut options = File::options();
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.write(true).create(true).truncate(true).open(&self.cluster_key);
        let written = file.and_then(|mut file| file.write_all(digits.as_bytes()));
        written.map_err(|error| format!("{}: {error}", self.cluster_key.display()))
    }

    /// From now on these agents may end by themselves, well.
    pub(crate) fn let_end(&mut self, agents: impl IntoIterator<Item = usize>) {
        self.ending.extend(agents);
    }

    /// Waits until an agent has ended by itself, and well, as it was [let](Self::let_end).
    pub(crate) fn await_end(&mut self, at: usize) -> Result<(), Problem> {
        self.until(&format!("{} ends", self.name(at)), |mesh| !mesh.running().contains(&at)).map(drop)
    }

    /// Notices who has ended by itself. Who was not told to is a problem, but where people play with the agents.
    fn notice_ends(&mut self) -> Result<(), Problem> {
        for at in self.running() {
            let how = match self.processes.ended(at) {
                Ok(None) => continue,
                Ok(Some(status)) if status.success() && self.ending.remove(&at) => {
                    self.forget(at);
                    continue;
                }
                Ok(Some(status)) if status.success() => "it ended, and was not told to".to_owned(),
                Ok(Some(status)) => format!("it ended with {status}"),
                Err(error) => error.to_string(),
            };
            self.forget(at);
            let problem = format!("{}: {how}; its log is {}", self.name(at), self.processes.log(at).display());
            match &mut self.stage {
                Some(stage) if stage.refusal.is_none() => stage.has_ended(at),
                _ => return Err(problem),
            }
            self.view.say(&problem);
        }
        Ok(())
    }

    /// An agent runs no more.
    fn forget(&mut self, at: usize) {
        for status in self.statuses.remove(&at).into_iter().chain(self.paused.remove(&at)) {
            self.done_before += u64::from(status.tasks.done);
            self.counted_before.push_back((Instant::now(), Counted::of(&status)));
        }
        while self.counted_before.front().is_some_and(|(ended, _)| ended.elapsed() > TIMEFRAME) {
            self.counted_before.pop_front();
        }
    }

    /// How many agents there were at first; who has a later place was added.
    pub(crate) const fn founders(&self) -> usize {
        self.founders
    }

    /// Which agents run.
    pub(crate) fn running(&self) -> BTreeSet<usize> {
        let running = self.processes.iter().enumerate().filter(|(_, (_, _, state))| *state == State::Runs);
        running.map(|(at, _)| at).collect()
    }

    /// What an agent said last.
    pub(crate) fn status(&self, at: usize) -> Option<&Status> {
        self.statuses.get(&at)
    }

    /// What all that run said last; none of those that have not spoken yet.
    pub(crate) fn statuses(&self) -> impl Iterator<Item = (usize, &Status)> {
        self.statuses.iter().map(|(at, status)| (*at, status))
    }

    /// Whether all that run have spoken, and are so.
    pub(crate) fn all(&self, wanted: impl Fn(&Status) -> bool) -> bool {
        self.running().iter().all(|at| self.status(*at).is_some_and(&wanted))
    }

    /// Whether these have spoken, and are so.
    pub(crate) fn each(&self, agents: &BTreeSet<usize>, wanted: impl Fn(&Status) -> bool) -> bool {
        agents.iter().all(|at| self.status(*at).is_some_and(&wanted))
    }

    /// The agent that leads by its own word, in the newest term.
    pub(crate) fn leader(&self) -> Option<(usize, u64)> {
        self.statuses().filter_map(|(at, status)| Some((at, status.leads()?))).max_by_key(|(_, term)| *term)
    }

    /// How many tasks were executed, by all.
    pub(crate) fn done(&self) -> u64 {
        let known = self.statuses.values().chain(self.paused.values());
        self.done_before + known.map(|status| u64::from(status.tasks.done)).sum::<u64>()
    }

    /// Tells an agent something, without waiting for the answer. Its number.
    pub(crate) fn order(&mut self, at: usize, order: Order) -> Result<u64, Problem> {
        self.next += 1;
        let numbered = Numbered { number: self.next, order };
        self.processes.tell(at, &numbered).map_err(|error| format!("{} cannot be told: {error}", self.name(at)))?;
        self.answers.insert(self.next, None);
        Ok(self.next)
    }

    /// Does not wait for an answer any more.
    pub(crate) fn give_up(&mut self, number: u64) {
        self.answers.remove(&number);
    }

    /// Tells an agent something, and waits for the answer.
    pub(crate) fn ask(&mut self, at: usize, order: Order) -> Result<String, Problem> {
        let what = format!("{} answers to {order:?}", self.name(at));
        let number = self.order(at, order)?;
        self.answer(number, &what)?.map_err(|why| format!("{}: {why}", self.name(at)))
    }

    /// Has an agent put something into the shared memory, and waits until all have it: no disk keeps it.
    pub(crate) fn remember(&mut self, at: usize, key: String, value: String) -> Result<(), Problem> {
        self.ask(at, Order::Remember { key, value })?;
        self.remembered += 1;
        let remembered = self.remembered;
        self.until("all remember the same", |mesh| mesh.all(|status| status.agent.memory.keys >= remembered)).map(drop)
    }

    /// Waits for an answer.
    pub(crate) fn answer(&mut self, number: u64, what: &str) -> Result<Result<String, String>, Problem> {
        self.until(what, |mesh| mesh.answers.get(&number).is_some_and(Option::is_some))?;
        Ok(self.answers.remove(&number).flatten().unwrap_or_else(|| Err("there is no answer".to_owned())))
    }

    /// Asks one agent after the other until one has done it.
    pub(crate) fn ask_until_done(&mut self, agents: &[usize], order: &Order) -> Result<String, Problem> {
        let begin = Instant::now();
        loop {
            let mut last = "nobody can be asked".to_owned();
            for at in agents {
                match self.ask(*at, order.clone()) {
                    Ok(answer) => return Ok(answer),
                    Err(why) => last = why,
                }
            }
            if begin.elapsed() > PATIENCE {
                return Err(format!("{order:?} came to nothing: {last}"));
            }
        }
    }

    /// Waits until all is as wanted, for as long as work goes on. How long that took.
    pub(crate) fn until(&mut self, what: &str, mut wanted: impl FnMut(&Self) -> bool) -> Result<Duration, Problem> {
        let begin = Instant::now();
        let mut deadline = begin + PATIENCE;
        let (mut done, mut acknowledged) = (self.done(), self.writing.acknowledged.len());
        loop {
            self.pump()?;
            if wanted(self) {
                return Ok(begin.elapsed());
            }
            let failed = self.statuses().find_map(|(at, status)| Some((at, status.tasks.failed.clone()?)));
            if let Some((at, why)) = failed {
                return Err(format!("{}: {why}; its log is {}", self.name(at), self.processes.log(at).display()));
            }
            let goes_on = self.done() > done || self.writing.acknowledged.len() > acknowledged;
            if goes_on || self.stage.as_ref().is_some_and(Stage::is_troubled) {
                // It may still come about, or cannot while people keep it from that.
                deadline = Instant::now() + PATIENCE;
                (done, acknowledged) = (self.done().max(done), self.writing.acknowledged.len());
            }
            if Instant::now() > deadline {
                return Err(format!("for {PATIENCE:?} no work was done, and it has not come about that {what}"));
            }
            thread::sleep(LOOK_INTERVAL);
        }
    }

    /// Has something done that takes long, and goes on meanwhile with what agents say.
    pub(crate) fn meanwhile<T: Send + 'static>(
        &mut self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Problem> {
        let working = thread::spawn(work);
        while !working.is_finished() {
            self.pump()?;
            thread::sleep(LOOK_INTERVAL);
        }
        working.join().map_err(|_| "it panicked".to_owned())
    }

    /// Lets the clients write until so many records are acknowledged, of all that there are.
    pub(crate) fn open_gate(&mut self, records: usize) {
        let writing = &mut self.writing;
        if writing.acknowledged.len() >= writing.gate {
            // There was nothing to write until now.
            writing.last = Some(Instant::now());
        }
        writing.gate = writing.gate.max(records);
    }

    /// Lets the clients write one record more than they do already, if there is one.
    pub(crate) fn write_one_more(&mut self) {
        self.open_gate(self.writing.acknowledged.len() + self.writing.on_their_way.len() + 1);
    }

    /// How many records there are, written or not.
    pub(crate) fn records(&self) -> usize {
        self.writing.waiting.len() + self.writing.on_their_way.len() + self.writing.acknowledged.len()
    }

    /// Takes in what agents say, and goes on writing.
    fn pump(&mut self) -> Result<(), Problem> {
        match self.parts_until {
            None if self.interrupted.is_there() => return Err(INTERRUPTED.to_owned()),
            Some(_) if self.interrupted.is_repeated() => return Err(INTERRUPTED.to_owned()),
            Some(deadline) if Instant::now() > deadline => return Err("that took too long".to_owned()),
            _ => {}
        }
        while let Ok((id, line)) = self.heard.try_recv() {
            let Some(at) = self.ids.iter().position(|known| *known == id) else { continue };
            match line {
                Line::Answer { number, result } => self.answered(number, result),
                Line::Status(status)
                    if self.processes.iter().nth(at).is_some_and(|(_, _, state)| state == State::Runs) =>
                {
                    self.paused.remove(&at);
                    self.statuses.insert(at, *status);
                }
                Line::Status(_) => {}
            }
        }
        self.notice_ends()?;
        self.write();
        let rows: Vec<_> = self.processes.iter().enumerate().map(|(at, (_, pid, state))| (at, pid, state)).collect();
        let (written, records, done) = (self.writing.acknowledged.len(), self.records(), self.done());
        let statuses = &self.statuses;
        self.view.show(&rows, |at| statuses.get(&at), (written, records), done);
        if let Some(mut stage) = self.stage.take() {
            stage.turn(self);
            self.stage = Some(stage);
        }
        Ok(())
    }

    /// Says on the dashboard what is done now, and why it takes no controls meanwhile, if so.
    pub(crate) fn doing(&mut self, what: &str, refusal: Option<&'static str>) {
        if let Some(stage) = &mut self.stage {
            (stage.doing, stage.refusal) = (what.to_owned(), refusal);
        }
    }

    /// Lets people do what they like to the agents, until that is interrupted.
    pub(crate) fn play(&mut self) {
        while self.pump().is_ok() {
            thread::sleep(LOOK_INTERVAL);
        }
    }

    /// Has enough of playing: what people did to agents that live is taken back, and the interruption counts no more, but a
    /// second one does, as does the time that this takes.
    pub(crate) fn part(&mut self) {
        self.parts_until = Some(Instant::now() + PARTING_PATIENCE);
        self.doing("the network is shut down", Some("the agents end"));
        if let Some(mut stage) = self.stage.take() {
            stage.take_back(self);
            self.stage = Some(stage);
        }
    }

    /// The figures of the whole swarm, of the last ten minutes: see [`figures`].
    pub(crate) fn figures(&self) -> BTreeMap<String, f64> {
        let gone = self.counted_before.iter().filter(|(ended, _)| ended.elapsed() <= TIMEFRAME);
        let counted = gone.map(|(_, counted)| *counted).chain(self.paused.values().map(Counted::of));
        figures(self.statuses.values(), counted, self.begin.elapsed().min(TIMEFRAME))
    }

    fn answered(&mut self, number: u64, result: Result<String, String>) {
        let Some((record, _)) = self.writing.on_their_way.remove(&number) else {
            // Nobody waits any more for one that was given up.
            if let Some(answer) = self.answers.get_mut(&number) {
                *answer = Some(result);
            }
            return;
        };
        self.answers.remove(&number);
        if result.is_ok() {
            let writing = &mut self.writing;
            let stall = writing.last.map_or(Duration::ZERO, |last| last.elapsed());
            writing.longest_stall = writing.longest_stall.max(stall);
            writing.last = Some(Instant::now());
            writing.acknowledged.insert(record.0, record.1);
        } else {
            self.again(record);
        }
    }

    /// A record is the same however often it is written, so it is safe to write it again where the outcome is unknown.
    fn again(&mut self, record: Record) {
        self.writing.retries += 1;
        self.writing.waiting.push_back(record);
    }

    fn write(&mut self) {
        let late: Vec<_> = self
            .writing
            .on_their_way
            .iter()
            .filter(|(_, (_, at))| at.elapsed() > WRITE_PATIENCE)
            .map(|(number, _)| *number)
            .collect();
        for number in late {
            self.answers.remove(&number);
            if let Some((record, _)) = self.writing.on_their_way.remove(&number) {
                self.again(record);
            }
        }
        let running: Vec<_> = self.running().into_iter().collect();
        while self.writing.on_their_way.len() < WRITES
            && self.writing.acknowledged.len() + self.writing.on_their_way.len() < self.writing.gate
            && !running.is_empty()
        {
            let Some(record) = self.writing.waiting.pop_front() else { break };
            self.turn += 1;
            let at = running[self.turn % running.len()];
            match self.order(at, Order::Put { key: record.0.clone(), value: record.1.clone() }) {
                Ok(number) => drop(self.writing.on_their_way.insert(number, (record, Instant::now()))),
                // It has just ended.
                Err(_) => return self.again(record),
            }
        }
    }
}

/// What a process counted.
#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    view_changes: f64,
    migrations: f64,
}

impl Counted {
    fn of(status: &Status) -> Self {
        let number = |part: &str, name: &str| status.performance[part][name].as_f64().unwrap_or_default();
        Self { view_changes: number("consensus", "view_changes"), migrations: number("load", "migrations") }
    }
}

/// The figures of the whole swarm. What each agent counts of its own is added up: frames a second of those that run; view
/// changes and migrations also of processes that are gone. All else is the mean over those that run and have the figure.
fn figures<'a>(
    running: impl Iterator<Item = &'a Status> + Clone,
    gone: impl Iterator<Item = Counted>,
    time: Duration,
) -> BTreeMap<String, f64> {
    let mut said: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for (name, value) in running.clone().filter_map(|status| status.metrics.as_object()).flatten() {
        said.entry(name).or_default().extend(value.as_f64());
    }
    said.retain(|_, values| !values.is_empty());
    let all = running.map(Counted::of).chain(gone).fold(Counted::default(), |all, one| Counted {
        view_changes: all.view_changes + one.view_changes,
        migrations: all.migrations + one.migrations,
    });
    let figure = |(name, values): (&str, Vec<f64>)| {
        let sum: f64 = values.iter().sum();
        let figure = match name {
            "throughput" => sum,
            "view_changes" => all.view_changes,
            "migration_frequency" => all.migrations * 60.0 / time.as_secs_f64().max(1.0),
            _ => sum / values.len() as f64,
        };
        (name.to_owned(), figure)
    };
    said.into_iter().map(figure).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(frames: f64, latency: f64, changes: u64, migrations: u64) -> Status {
        Status {
            metrics: json!({
                "throughput": frames, "latency": latency, "view_changes": changes, "migration_frequency": 7.0
            }),
            performance: json!({"consensus": {"view_changes": changes}, "load": {"migrations": migrations}}),
            ..Status::default()
        }
    }

    #[test]
    fn what_each_counts_is_added_up_and_what_all_see_is_the_mean() {
        let running = [status(100.0, 1.0, 2, 30), status(50.0, 3.0, 1, 10), Status::default()];
        let gone = Counted::of(&status(1000.0, 1000.0, 4, 20));
        let expected = [("latency", 2.0), ("migration_frequency", 30.0), ("throughput", 150.0), ("view_changes", 7.0)];
        let expected: BTreeMap<_, _> = expected.map(|(name, value)| (name.to_owned(), value)).into();
        assert_eq!(figures(running.iter(), [gone].into_iter(), Duration::from_secs(120)), expected);
        assert!(figures([].into_iter(), [gone].into_iter(), Duration::ZERO).is_empty());
    }
}
