//! The table and the map in the terminal.

use std::io::{self, IsTerminal as _};

use mesh_core::NodeId;
use mesh_examples::processes::{Processes, State};
use mesh_examples::redraw::Drawn;

use super::table::Table;

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
            self.drawn.draw(&mut io::stdout(), &lines(processes, tables));
        }
    }

    /// Shows the table, and leaves it on the screen.
    pub(crate) fn keep(&mut self, processes: &Processes<Table>, tables: &[(NodeId, Table)]) {
        self.drawn.draw(&mut io::stdout(), &lines(processes, tables));
        self.drawn = Drawn::default();
    }

    /// Takes the table off the screen.
    pub(crate) fn erase(&mut self) {
        self.drawn.erase(&mut io::stdout());
    }
}

/// The lines of the table.
fn lines(processes: &Processes<Table>, tables: &[(NodeId, Table)]) -> Vec<String> {
    // The last digit of each number: a column each.
    let heads: String = (1..=processes.len()).map(|number| (number % 10).to_string()).collect();
    let mut lines = vec![line(&["node", "pid", "process", "zone", "mode", "leave by", "links", &heads])];
    for (id, pid, state) in processes.iter() {
        let process = match state {
            State::Runs => "runs",
            State::Paused => "paused",
            State::Dead => "dead",
        };
        let (number, pid) = (processes.number(id).to_string(), pid.map(|pid| pid.to_string()).unwrap_or_default());
        let Some((_, table)) = tables.iter().find(|(node, _)| *node == id) else {
            lines.push(line(&[&number, &pid, process, "", "", "", "", ""]));
            continue;
        };
        let zone = table.zones.get(&id).copied().unwrap_or_default().to_string();
        let mode = if table.goes_on { "continue" } else { "read-only" };
        let coordinator = table.coordinator.map(|node| processes.number(node).to_string()).unwrap_or_default();
        let mut links: Vec<_> = table.links.iter().map(|node| processes.number(*node)).collect();
        links.sort_unstable();
        let links = links.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        let thinks: String = processes.iter().map(|(other, ..)| opinion(table, id, other)).collect();
        lines.push(line(&[&number, &pid, process, &zone, mode, &coordinator, &links, &thinks]));
    }
    lines.push("  on the right what each thinks of each: a alive, ? suspected, d down".to_owned());
    lines
}

/// A line of the table, of at most 79 columns: one that a terminal wraps would not be erased.
fn line(cells: &[&str; 8]) -> String {
    let [node, pid, process, zone, mode, coordinator, links, thinks] = cells;
    let line = format!("  {node:>4} {pid:>7} {process:<7} {zone:>4} {mode:<9} {coordinator:>8} {links:<14} {thinks}");
    line.trim_end().to_owned()
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

#[cfg(test)]
mod tests {
    use super::super::NODES_MAX;
    use super::*;

    #[test]
    fn a_line_of_the_table_fits_into_a_terminal_of_80_columns() {
        let thinks = "a".repeat(usize::from(NODES_MAX));
        let widest = ["15", "4194304", "process", "zone", "read-only", "leave by", "11 12 13 14 15", &thinks];
        assert_eq!(line(&widest).len(), 77);
    }
}
