//! The swarm on a page, and the buttons of it: what the dashboard shows, and what people do to the agents through it.

use std::collections::{BTreeMap, BTreeSet};

use mesh_examples::dashboard::{Agent, Asked, Control, Dashboard, Figure, State as Picture};
use mesh_examples::processes::State;
use mesh_tasks::swarm::status::Link;

use super::line::{Order, Status};
use super::mesh::{Mesh, Problem};

/// The twelve figures, as agents name them. Those that each agent counts of its own, throughput, view changes and migrations,
/// are of all together; all else is the mean of what they say.
pub(crate) const FIGURES: [Figure; 12] = [
    Figure { name: "connectivity", unit: "%" },
    Figure { name: "latency", unit: "ms" },
    Figure { name: "throughput", unit: "frames/s" },
    Figure { name: "partition_resilience", unit: "s" },
    Figure { name: "decision_latency", unit: "ms" },
    Figure { name: "vote_participation", unit: "%" },
    Figure { name: "byzantine_tolerance", unit: "faults" },
    Figure { name: "view_changes", unit: "changes" },
    Figure { name: "load_variance", unit: "" },
    Figure { name: "migration_frequency", unit: "tasks/min" },
    Figure { name: "hotspots", unit: "agents" },
    Figure { name: "resource_utilisation", unit: "" },
];

/// What can be done to the agents.
const CONTROLS: [&str; 6] = ["kill", "restart", "pause", "resume", "split", "heal"];

/// A dashboard, and what was done through it.
#[derive(Debug)]
pub(crate) struct Stage {
    dashboard: Dashboard,
    pub(crate) doing: String,
    /// Why nothing can be done to the agents now, if so.
    pub(crate) refusal: Option<&'static str>,
    /// One side of a split that was asked for.
    cut_off: Option<BTreeSet<usize>>,
    /// Who was killed or paused, and not brought back since.
    down: BTreeSet<usize>,
    /// Who ever ran.
    seen: BTreeSet<usize>,
}

impl Stage {
    pub(crate) const fn new(dashboard: Dashboard) -> Self {
        let refusal = Some("the agents start");
        Self { dashboard, doing: String::new(), refusal, cut_off: None, down: BTreeSet::new(), seen: BTreeSet::new() }
    }

    /// Whether people keep the agents from what they would do.
    pub(crate) fn is_troubled(&self) -> bool {
        self.cut_off.is_some() || !self.down.is_empty()
    }

    /// An agent has ended by itself, as one that was killed by hand.
    pub(crate) fn has_ended(&mut self, at: usize) {
        self.down.insert(at);
    }

    /// Does what was asked for, and shows how things are.
    pub(crate) fn turn(&mut self, mesh: &mut Mesh) {
        while let Some(asked) = self.dashboard.asked() {
            let answer = match self.refusal {
                None => self.carry_out(mesh, &asked),
                Some(why) => Err(why.to_owned()),
            };
            if let Ok(done) = &answer {
                mesh.view.say(&format!("{:<12}{done}", "by hand:"));
            }
            asked.answer(answer);
        }
        if self.dashboard.is_due() {
            self.seen.extend(mesh.running());
            let figures = mesh.figures();
            let values = FIGURES.map(|figure| figures.get(figure.name).copied());
            self.dashboard.publish(self.picture(mesh), &values);
        }
    }

    fn carry_out(&mut self, mesh: &mut Mesh, asked: &Asked) -> Result<String, Problem> {
        match &asked.control {
            Control::Kill { agent } => {
                let at = mesh.processes.find("agent", *agent, &[State::Runs, State::Paused], "is dead already")?;
                mesh.kill(at)?;
                self.down.insert(at);
                Ok(format!("agent {agent} is killed (SIGKILL)"))
            }
            Control::Restart { agent } => {
                let at = mesh.processes.find("agent", *agent, &[State::Dead], "has a process already")?;
                mesh.start(at)?;
                self.down.remove(&at);
                if let Some(cut_off) = self.cut_off.clone() {
                    self.cut(mesh, at, &cut_off)?;
                }
                Ok(format!("agent {agent} is started, from its directory"))
            }
            Control::Pause { agent } => {
                let at = mesh.processes.find("agent", *agent, &[State::Runs], "does not run")?;
                mesh.pause(at)?;
                self.down.insert(at);
                Ok(format!("agent {agent} is paused (SIGSTOP)"))
            }
            Control::Resume { agent } => {
                let at = mesh.processes.find("agent", *agent, &[State::Paused], "is not paused")?;
                mesh.processes.resume(at).map_err(|error| error.to_string())?;
                self.down.remove(&at);
                Ok(format!("agent {agent} goes on (SIGCONT)"))
            }
            Control::Split { agents } => self.split(mesh, agents),
            Control::Heal {} => {
                if self.cut_off.is_none() {
                    return Err("the mesh is not split".to_owned());
                }
                let but = self.cut_all(mesh, &BTreeSet::new());
                self.cut_off = None;
                Ok(format!("all agents hear each other again{but}"))
            }
        }
    }

    fn split(&mut self, mesh: &mut Mesh, numbers: &[usize]) -> Result<String, Problem> {
        if self.cut_off.is_some() {
            return Err("the mesh is split already".to_owned());
        }
        let running = mesh.running();
        let mut cut_off = BTreeSet::new();
        for number in numbers {
            let at = number.checked_sub(1).filter(|at| *at < mesh.ids.len());
            cut_off.insert(at.ok_or_else(|| format!("there is no agent {number}"))?);
        }
        if numbers.is_empty() {
            // As the script does: who leads is with the smaller side.
            let leader = mesh.leader().map(|(at, _)| at);
            let rest = running.iter().rev().copied().filter(|at| Some(*at) != leader);
            cut_off.extend(leader.into_iter().chain(rest).take((running.len().saturating_sub(1) / 2).max(1)));
        }
        if running.is_subset(&cut_off) || running.is_disjoint(&cut_off) {
            return Err("on each side of a split an agent must run".to_owned());
        }
        let names: Vec<_> = cut_off.iter().map(|at| (at + 1).to_string()).collect();
        // Whoever is started from now on is told as well.
        self.cut_off = Some(cut_off.clone());
        let but = self.cut_all(mesh, &cut_off);
        Ok(format!("no frame passes between agents {} and the others{but}", names.join(", ")))
    }

    /// Resumes those that are paused, and lets all hear each other. What cannot be done so late is left.
    pub(crate) fn take_back(&mut self, mesh: &mut Mesh) {
        let paused = mesh.processes.ids(|state| state == State::Paused);
        for at in (0..mesh.ids.len()).filter(|at| paused.contains(&mesh.ids[*at])).collect::<Vec<_>>() {
            let _ = mesh.processes.resume(at);
        }
        if self.cut_off.take().is_some() {
            self.cut_all(mesh, &BTreeSet::new());
        }
    }

    /// Tells all agents whom not to hear; what is to be said of those that cannot be told, which are about to end.
    fn cut_all(&self, mesh: &mut Mesh, cut_off: &BTreeSet<usize>) -> String {
        let untold = (0..mesh.ids.len()).filter_map(|at| self.cut(mesh, at, cut_off).err());
        untold.map(|problem| format!("; but {problem}")).collect()
    }

    /// Tells an agent whom not to hear, where it has a process.
    fn cut(&self, mesh: &mut Mesh, at: usize, cut_off: &BTreeSet<usize>) -> Result<(), Problem> {
        if mesh.processes.iter().nth(at).is_none_or(|(_, _, state)| state == State::Dead) {
            return Ok(());
        }
        let is_other = |other: &usize| !cut_off.is_empty() && cut_off.contains(other) != cut_off.contains(&at);
        let others = (0..mesh.ids.len()).filter(is_other).map(|other| mesh.ids[other]).collect();
        // A paused agent does it when it goes on, so the answer is not waited for.
        mesh.order(at, Order::Cut(others)).map(|number| mesh.give_up(number))
    }

    fn picture(&self, mesh: &Mesh) -> Picture {
        let sides = sides(mesh);
        let replicas = || mesh.statuses().filter_map(|(_, status)| status.agent.pbft.as_ref());
        let primary = replicas().filter(|pbft| pbft.active).max_by_key(|pbft| pbft.view).map(|pbft| pbft.primary);
        let agents = mesh.processes.iter().enumerate().map(|(at, (id, pid, state))| {
            let blank = Agent { id: id.to_string(), number: at + 1, pid, ..Agent::default() };
            let state = match state {
                State::Runs if mesh.status(at).is_none() => "starts",
                State::Runs => "runs",
                State::Paused => "paused",
                State::Dead if !self.seen.contains(&at) => "spare",
                State::Dead => "dead",
            };
            let is_primary = state == "runs" && primary == Some(id);
            let Some(status) = mesh.status(at) else { return Agent { state, ..blank } };
            let number = |link: &Link| mesh.ids.iter().position(|id| *id == link.node).map(|at| at + 1);
            let mut links: Vec<_> = status.agent.links.iter().filter_map(number).collect();
            let (role, term) = status.role().unzip();
            links.sort_unstable();
            Agent {
                state,
                role,
                term,
                view: status.agent.pbft.as_ref().map(|pbft| pbft.view),
                is_primary,
                lies: status.decided.as_ref().is_some_and(|decided| decided.lies),
                goes_on: Some(status.agent.goes_on()),
                side: sides.get(&at).copied().unwrap_or_default(),
                links,
                zone: Some(status.agent.zone),
                queued: status.agent.pool.queued,
                running: status.agent.pool.running,
                load: status.agent.pool.load.map(|load| load.min(1.0)),
                done: status.tasks.done,
                moved: Some(status.agent.moves()),
                taken_over: Some(status.agent.metric("tasks_taken_over")),
                records: Some(status.records),
                ..blank
            }
        });
        Picture {
            program: "swarm",
            doing: self.doing.clone(),
            controls: &CONTROLS,
            refusal: self.refusal.map(str::to_owned),
            is_split: self.cut_off.is_some(),
            records: Some((mesh.writing.acknowledged.len(), mesh.records())),
            done: mesh.done(),
            agents: agents.collect(),
        }
    }
}

/// Which side each agent is on, by what agents say: those that think each other alive are on one.
fn sides(mesh: &Mesh) -> BTreeMap<usize, usize> {
    let statuses: BTreeMap<usize, &Status> = mesh.statuses().collect();
    let hears =
        |at: usize, other: usize| statuses.get(&at).is_some_and(|status| status.alive().contains(&mesh.ids[other]));
    let mut sides = BTreeMap::new();
    let mut last = 0;
    for at in statuses.keys() {
        if sides.contains_key(at) {
            continue;
        }
        last += 1;
        let mut found = vec![*at];
        while let Some(at) = found.pop() {
            sides.insert(at, last);
            let others = statuses.keys().copied();
            found.extend(others.filter(|other| !sides.contains_key(other) && hears(at, *other) && hears(*other, at)));
        }
    }
    sides
}

#[cfg(test)]
mod tests {
    use mesh_tasks::swarm::Metric;

    use super::*;

    #[test]
    fn the_figures_are_the_twelve() {
        let names = Metric::ALL.map(|metric| serde_json::to_value(metric).unwrap());
        assert_eq!(FIGURES.map(|figure| serde_json::Value::from(figure.name)), names);
    }
}
