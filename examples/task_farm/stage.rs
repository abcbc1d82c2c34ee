//! The nodes on a page: what the dashboard shows, and what people do to them through it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mesh_examples::dashboard::{Agent, Control, Dashboard, Figure, Log, State as Picture};
use mesh_examples::processes::{Processes, State};

use crate::view::{Row, View};
use crate::worker::{Said, zone};

/// What is plotted.
const FIGURES: [Figure; 3] = [
    Figure { name: "done", unit: "tasks" },
    Figure { name: "queued", unit: "tasks" },
    Figure { name: "running", unit: "tasks" },
];

/// What can be done to nodes. One that was killed stays dead: it keeps nothing that it could come back with.
const CONTROLS: [&str; 3] = ["kill", "pause", "resume"];

/// How long after a node was killed the next may be gone: others keep its share of the copies by then.
const REPAIRED_AFTER: Duration = Duration::from_secs(20);

/// A dashboard.
#[derive(Debug)]
pub(crate) struct Stage {
    dashboard: Dashboard,
    pub(crate) doing: String,
    /// The node that the program itself is about to kill.
    pub(crate) victim: Option<usize>,
    pub(crate) killed_at: Option<Instant>,
}

impl Stage {
    /// Listens at this address from now on.
    pub(crate) fn serve(address: SocketAddr) -> Result<Self, String> {
        let dashboard = Dashboard::serve(address, &FIGURES);
        let dashboard = dashboard.map_err(|error| format!("no dashboard can be served at {address}: {error}"))?;
        eprintln!("the dashboard is at http://{}/", dashboard.address());
        Ok(Self { dashboard, doing: "files are counted".to_owned(), victim: None, killed_at: None })
    }

    /// What the page shows of what is said.
    pub(crate) fn log(&self) -> Log {
        self.dashboard.log()
    }

    /// Does what was asked for, and shows how things are.
    pub(crate) fn turn(&mut self, processes: &mut Processes<Said>, view: &mut View, rows: &[Row]) {
        while let Some(asked) = self.dashboard.asked() {
            let answer = self.carry_out(processes, &asked.control);
            if let Ok(done) = &answer {
                view.say(&format!("by hand: {done}"));
            }
            asked.answer(answer);
        }
        if self.dashboard.is_due() {
            let sum = |of: fn(&Row) -> u32| Some(rows.iter().map(|row| f64::from(of(row))).sum());
            let values = [sum(|row| row.done), sum(|row| row.queued), sum(|row| row.running)];
            self.dashboard.publish(self.picture(processes, rows), &values);
        }
    }

    fn picture(&self, processes: &Processes<Said>, rows: &[Row]) -> Picture {
        let agent = |((id, pid, state), row): (_, &Row)| Agent {
            number: row.number,
            id: mesh_core::NodeId::to_string(&id),
            pid,
            state: match state {
                State::Runs => "runs",
                State::Paused => "paused",
                State::Dead => "dead",
            },
            side: 1,
            zone: Some(zone(row.number - 1)),
            moved: Some(row.moved),
            taken_over: Some(row.taken_over),
            queued: row.queued,
            running: row.running,
            load: row.load,
            done: row.done,
            ..Agent::default()
        };
        Picture {
            program: "task_farm",
            doing: self.doing.clone(),
            controls: &CONTROLS,
            done: rows.iter().map(|row| u64::from(row.done)).sum(),
            agents: processes.iter().zip(rows).map(agent).collect(),
            ..Picture::default()
        }
    }

    fn carry_out(&mut self, processes: &mut Processes<Said>, control: &Control) -> Result<String, String> {
        let states: Vec<_> = processes.iter().map(|(_, _, state)| state).collect();
        // The rest must go on: it is a majority, also of the four that keep a task, and the first node waits for the results.
        let lately = self.killed_at.is_some_and(|at| at.elapsed() < REPAIRED_AFTER);
        let spare = |at: usize| {
            let mut others = states.iter().enumerate().filter(|(other, _)| *other != at);
            let rest = others.clone().filter(|(_, state)| **state == State::Runs).count();
            match at {
                0 => Err("node 1 has submitted the tasks, and waits for them".to_owned()),
                _ if rest * 2 <= states.len() => Err("more than half of the nodes must run".to_owned()),
                _ if self.victim.is_some() => Err("the program kills one first".to_owned()),
                _ if others.any(|(_, state)| *state == State::Paused) => Err("one at a time may be paused".to_owned()),
                _ if lately => {
                    Err("what the node that was killed has kept is copied first: wait some seconds".to_owned())
                }
                _ => Ok(()),
            }
        };
        match control {
            Control::Kill { agent } => {
                let at = processes.find("node", *agent, &[State::Runs, State::Paused], "is dead already")?;
                spare(at)?;
                processes.kill(at).map_err(|error| error.to_string())?;
                self.killed_at = Some(Instant::now());
                Ok(format!("node {agent} is killed (SIGKILL)"))
            }
            Control::Pause { agent } => {
                let at = processes.find("node", *agent, &[State::Runs], "does not run")?;
                spare(at)?;
                processes.pause(at).map_err(|error| error.to_string())?;
                Ok(format!("node {agent} is paused (SIGSTOP)"))
            }
            Control::Resume { agent } => {
                let at = processes.find("node", *agent, &[State::Paused], "is not paused")?;
                processes.resume(at).map_err(|error| error.to_string())?;
                Ok(format!("node {agent} goes on (SIGCONT)"))
            }
            Control::Restart { .. } => Err("a node that was killed stays dead here".to_owned()),
            Control::Split { .. } | Control::Heal {} => Err("links cannot be cut here".to_owned()),
        }
    }
}
