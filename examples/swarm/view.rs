//! What the swarm shows while it runs: a live view on a terminal, a line a second elsewhere.

use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use mesh_core::NodeId;
use mesh_examples::client::NodeStatus;

/// Shows progress on the standard error output.
#[derive(Debug)]
pub(crate) struct View {
    live: Option<Live>,
    total: u64,
    started: Instant,
    told: Instant,
}

#[derive(Debug)]
struct Live {
    all: MultiProgress,
    bar: ProgressBar,
    leader: ProgressBar,
    nodes: Vec<ProgressBar>,
}

impl View {
    /// A view of `total` writes through `nodes` nodes; nothing is shown when it is to be `quiet`.
    pub(crate) fn new(total: u64, nodes: usize, quiet: bool) -> Self {
        let live = (stderr().is_terminal() && !quiet).then(|| {
            let all = MultiProgress::new();
            let bar = ProgressBar::new(total);
            // Templates are constants: a wrong one shows at the first run.
            let bar_style = "{bar:40.cyan/blue} {pos}/{len} records  {msg}";
            let bar = all.add(bar.with_style(ProgressStyle::with_template(bar_style).expect("a template")));
            let text = || {
                let line = ProgressBar::new_spinner();
                all.add(line.with_style(ProgressStyle::with_template("{msg}").expect("a template")))
            };
            let leader = text();
            let nodes = (0..nodes).map(|_| text()).collect();
            Live { all, bar, leader, nodes }
        });
        let now = Instant::now();
        Self { live, total, started: now, told: now }
    }

    /// Says something that stays on the screen.
    pub(crate) fn say(&self, text: &str) {
        match &self.live {
            Some(live) => live.all.suspend(|| eprintln!("{text}")),
            None => eprintln!("{text}"),
        }
    }

    /// Shows where things are.
    pub(crate) fn show(&mut self, acknowledged: u64, seen: &[Option<NodeStatus>]) {
        let rate = acknowledged as f64 / self.started.elapsed().as_secs_f64().max(0.001);
        let leader = crate::leader(seen, 0);
        let leader = match leader {
            Some(leader) => format!("leader {:?} in term {}", NodeId(leader.node), leader.term),
            None => "no leader".to_owned(),
        };
        if let Some(live) = &self.live {
            live.bar.set_position(acknowledged);
            live.bar.set_message(format!("{rate:.0} writes/s"));
            live.leader.set_message(leader);
            for (at, (line, node)) in live.nodes.iter().zip(seen).enumerate() {
                line.set_message(match node {
                    Some(node) => {
                        let (name, role, commit) = (NodeId(node.node), &node.role, node.commit_index);
                        format!("  node {} {name:?}  {role:<9} commit {commit}", at + 1)
                    }
                    None => format!("  node {} down", at + 1),
                });
            }
        } else if self.told.elapsed() >= Duration::from_secs(1) {
            self.told = Instant::now();
            let commits: Vec<_> =
                seen.iter().map(|n| n.as_ref().map_or_else(|| "-".into(), |n| n.commit_index.to_string())).collect();
            let total = self.total;
            eprintln!("{acknowledged}/{total} records, {rate:.0} writes/s, {leader}, commit {}", commits.join(" "));
        }
    }

    /// Takes the live view off the screen.
    pub(crate) fn clear(&self) {
        if let Some(live) = &self.live {
            // A terminal that has gone away needs no clearing.
            let _ = live.all.clear();
        }
    }
}
