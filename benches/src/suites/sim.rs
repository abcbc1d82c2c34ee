//! The simulator: messages a second on one core.

use std::time::Duration;

use super::SuiteError;
use crate::chatter::ChatterSim;
use crate::report::{Report, Settings, Table, short};

pub(super) fn measure(settings: &Settings, report: &mut Report) -> Result<(), SuiteError> {
    let time = Duration::from_secs_f64(settings.run_seconds());
    let mut table = Table::new("Simulator: one message a frame, on one core", ["nodes", "messages/s"]);
    for (nodes, name) in [(5, "sim_messages_per_s"), (100, "sim_100n_messages_per_s")] {
        let mut sim = ChatterSim::new(nodes);
        sim.rate(time / 2);
        let rates: Vec<f64> = (0..settings.runs()).map(|_| sim.rate(time)).collect();
        table.row([nodes.to_string(), short(report.figure(name, &rates))]);
    }
    report.table(table);
    Ok(())
}
