//! The table and the map in the terminal.

use std::collections::BTreeSet;
use std::io::{self, IsTerminal as _, Write as _};

use mesh_core::NodeId;
use mesh_examples::processes::{Processes, State};
use mesh_examples::redraw::Drawn;

use crate::table::Table;

/// Draws the table again and again in its place; where the output is no terminal, only when it is to be kept.
#[derive(Default)]
pub(crate) struct View {
    drawn: Drawn,
}

impl View {
    /// Says something, above the table.
    pub(crate) fn say(&mut self, text: &str) {
        self.erase();
        println!("{text}");
    }

    /// Shows the table as it is now.
    pub(crate) fn show(&mut self, processes: &Processes<Table>, tables: &[(NodeId, Table)]) {
        if io::stdout().is_terminal() {
            self.erase();
            self.drawn = Drawn(draw(processes, tables));
        }
    }

    /// Shows the table, and leaves it on the screen.
    pub(crate) fn keep(&mut self, processes: &Processes<Table>, tables: &[(NodeId, Table)]) {
        self.erase();
        draw(processes, tables);
    }

    fn erase(&mut self) {
        self.drawn.erase(&mut io::stdout());
    }
}

/// Prints the table; how many lines it has.
fn draw(processes: &Processes<Table>, tables: &[(NodeId, Table)]) -> usize {
    let numbers = |nodes: &BTreeSet<NodeId>| {
        let mut numbers: Vec<_> = nodes.iter().map(|node| processes.number(*node)).collect();
        numbers.sort_unstable();
        numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    let heads: String = (1..=processes.len()).map(|number| format!("{number:>3}")).collect();
    println!(
        "  node     pid  process  zone  mode       leave by  links        thinks{heads}   (a alive, ? suspected, d down)"
    );
    for (id, pid, state) in processes.iter() {
        let process = match state {
            State::Runs => "runs",
            State::Paused => "paused",
            State::Dead => "dead",
        };
        let number = processes.number(id);
        let pid = pid.map(|pid| pid.to_string()).unwrap_or_default();
        let Some((_, table)) = tables.iter().find(|(node, _)| *node == id) else {
            println!("  {number:>4} {pid:>7}  {process:<7}");
            continue;
        };
        let zone = table.zones.get(&id).copied().unwrap_or_default();
        let mode = if table.goes_on { "continue" } else { "read-only" };
        let coordinator = table.coordinator.map(|node| processes.number(node).to_string()).unwrap_or_default();
        let thinks: String = processes.iter().map(|(other, ..)| format!("{:>3}", opinion(table, id, other))).collect();
        println!(
            "  {number:>4} {pid:>7}  {process:<7}  {zone:>4}  {mode:<9}  {coordinator:>8}  {:<12}       {thinks}",
            numbers(&table.links),
        );
    }
    // Nothing is lost where nobody reads.
    let _ = io::stdout().flush();
    processes.len() + 1
}

/// What a node thinks of another.
fn opinion(table: &Table, me: NodeId, other: NodeId) -> char {
    if other == me {
        '-'
    } else if table.suspected.contains(&other) {
        '?'
    } else if table.alive.contains(&other) {
        'a'
    } else if table.gone.contains(&other) {
        'd'
    } else {
        ' '
    }
}
