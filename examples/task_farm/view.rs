//! How far the nodes are, in the terminal.

use std::io::{self, IsTerminal as _, Write as _};

use mesh_examples::dashboard::Log;
use mesh_examples::redraw::Drawn;

/// How one node is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Row {
    pub(crate) number: usize,
    pub(crate) pid: Option<u32>,
    pub(crate) queued: u32,
    pub(crate) running: u32,
    /// From 0 to 1: tasks that wait or run, for each executor.
    pub(crate) load: Option<f64>,
    pub(crate) done: u32,
    /// Tasks that it gave to others, and that it took over from who is gone.
    pub(crate) moved: u64,
    pub(crate) taken_over: u64,
}

/// Draws a table again and again in its place; where the output is no terminal, a line for each tenth that is done.
#[derive(Debug)]
pub(crate) struct View {
    is_quiet: bool,
    drawn: Drawn,
    /// How many tenths were told.
    tenths: usize,
    /// Where all that is said goes as well.
    log: Option<Log>,
}

impl View {
    pub(crate) const fn new(is_quiet: bool, log: Option<Log>) -> Self {
        Self { is_quiet, drawn: Drawn(0), tenths: 0, log }
    }

    /// Says something, above the table.
    pub(crate) fn say(&mut self, text: &str) {
        if let Some(log) = &self.log {
            log.say(text);
        }
        if !self.is_quiet {
            self.erase();
            println!("{text}");
        }
    }

    /// Takes the table off the screen.
    pub(crate) fn erase(&mut self) {
        self.drawn.erase(&mut io::stdout());
    }

    /// Shows how far all are with so many tasks.
    pub(crate) fn show(&mut self, rows: &[Row], tasks: usize) {
        if self.is_quiet {
            return;
        }
        let done: usize = rows.iter().map(|row| row.done as usize).sum();
        if io::stdout().is_terminal() {
            let line = |row: &Row| {
                let pid = row.pid.map_or_else(|| "dead".to_owned(), |pid| pid.to_string());
                format!("  {:>4} {pid:>7}  {:>6}  {:>7}  {:>5}", row.number, row.queued, row.running, row.done)
            };
            let mut lines = vec!["  node     pid  queued  running   done".to_owned()];
            lines.extend(rows.iter().map(line));
            lines.push(format!("  {:>4} {:>7}  {:>6}  {:>7}  {done:>5} of {tasks}", "all", "", "", ""));
            self.drawn.draw(&mut io::stdout(), &lines);
        } else if done * 10 / tasks > self.tenths {
            self.tenths = done * 10 / tasks;
            let by: Vec<_> = rows.iter().map(|row| row.done.to_string()).collect();
            println!("{done} of {tasks} tasks are done, by node: {}", by.join(" "));
        }
        // Nothing is lost where nobody reads.
        let _ = io::stdout().flush();
    }
}
