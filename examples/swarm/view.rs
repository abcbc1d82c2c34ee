//! What the swarm shows in a terminal while it runs: a table drawn in its place, or a line each few seconds elsewhere.

use std::fmt;
use std::io::{IsTerminal as _, stderr};
use std::time::{Duration, Instant};

use mesh_examples::dashboard::Log;
use mesh_examples::processes::State;
use mesh_examples::redraw::Drawn;

use super::line::Status;

/// How often the table is drawn, and how often a line is written where there is no terminal.
const DRAW_INTERVAL: Duration = Duration::from_millis(100);
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Shows how things are on the standard error output.
#[derive(Debug)]
pub(crate) struct View {
    is_terminal: bool,
    drawn: Drawn,
    shown: Option<Instant>,
    begin: Instant,
    /// Where all that is said goes as well.
    log: Option<Log>,
}

impl View {
    /// A view that draws a table where there is a terminal; elsewhere, and where it is to be `quiet`, it writes a line every
    /// few seconds.
    pub(crate) fn new(quiet: bool, log: Option<Log>) -> Self {
        Self {
            is_terminal: stderr().is_terminal() && !quiet,
            drawn: Drawn::default(),
            shown: None,
            begin: Instant::now(),
            log,
        }
    }

    /// Says something that stays on the screen.
    pub(crate) fn say(&mut self, text: &str) {
        self.erase();
        eprintln!("{:6.1} s  {text}", self.begin.elapsed().as_secs_f64());
        self.shown = Some(Instant::now());
        if let Some(log) = &self.log {
            log.say(text);
        }
    }

    /// Shows where things are: processes, what each says, records that are written of how many, tasks that are done.
    pub(crate) fn show<'a>(
        &mut self,
        processes: &[(usize, Option<u32>, State)],
        status: impl Fn(usize) -> Option<&'a Status>,
        records: (usize, usize),
        done: u64,
    ) {
        let interval = if self.is_terminal { DRAW_INTERVAL } else { LINE_INTERVAL };
        if self.shown.is_some_and(|shown| shown.elapsed() < interval) {
            return;
        }
        self.shown = Some(Instant::now());
        if !self.is_terminal {
            let going =
                processes.iter().filter(|(at, ..)| status(*at).is_some_and(|status| status.agent.goes_on())).count();
            return eprintln!(
                "{:6.1} s  {} of {} records, {done} tasks done, {going} agents go on",
                self.begin.elapsed().as_secs_f64(),
                records.0,
                records.1
            );
        }
        let titles = ["agent", "pid", "role", "term", "view", "mode", "alive", "links", "queued", "runs", "done"];
        let mut lines = vec![line(&titles)];
        lines.extend(processes.iter().map(|(at, pid, state)| row(*at, *pid, *state, status(*at))));
        lines.push(format!("  {} of {} records written, {done} tasks done", records.0, records.1));
        self.drawn.draw(&mut stderr(), &lines);
    }

    /// Takes the table off the screen.
    pub(crate) fn erase(&mut self) {
        self.drawn.erase(&mut stderr());
    }
}

/// A line of the table, of at most 79 columns: one that a terminal wraps would not be erased.
fn line(cells: &[impl fmt::Display; 11]) -> String {
    let [agent, pid, role, term, view, mode, alive, links, queued, runs, done] = cells;
    format!(
        "  {agent:>5} {pid:>7} {role:<12} {term:>4} {view:>4} {mode:<9} {alive:>5} {links:>5} {queued:>6} {runs:>4} {done:>6}"
    )
}

fn row(at: usize, pid: Option<u32>, state: State, status: Option<&Status>) -> String {
    let number = at + 1;
    let Some(status) = status.filter(|_| state == State::Runs) else {
        let state = match state {
            State::Runs => "starts",
            State::Paused => "paused",
            State::Dead => "-",
        };
        return format!("  {number:>5} {:>7} {state}", pid.map(|pid| pid.to_string()).unwrap_or_default());
    };
    let mode = if status.agent.goes_on() { "goes on" } else { "read-only" };
    let ((role, term), pool) = (status.role().unwrap_or_default(), &status.agent.pool);
    line(&[
        number.to_string(),
        pid.map(|pid| pid.to_string()).unwrap_or_default(),
        role,
        term.to_string(),
        status.agent.pbft.as_ref().map(|pbft| pbft.view.to_string()).unwrap_or_default(),
        mode.to_owned(),
        status.alive().len().to_string(),
        status.agent.links.len().to_string(),
        pool.queued.to_string(),
        pool.running.to_string(),
        status.tasks.done.to_string(),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_table_fits_into_a_terminal_of_80_columns() {
        let widest = ["11", "4194304", "precandidate", "9999", "9999", "read-only", "11", "5", "100000", "2", "999999"];
        assert_eq!(line(&widest).len(), 79);
    }
}
