//! How cost grows, as pictures: SVG files made of the figures of a report.
//!
//! ```
//! use mesh_benches::plot::{Axis, Chart, Line};
//!
//! let line = Line { name: "ours".to_owned(), points: vec![(3.0, 2e6), (5.0, 1.5e6), (7.0, 1e6)] };
//! let x = Axis { label: "nodes", logarithmic: false, ticks: vec![3.0, 5.0, 7.0] };
//! let chart = Chart { title: "Throughput by nodes".to_owned(), x, y_label: "entries/s", lines: vec![line] };
//! assert!(chart.svg().starts_with("<svg"));
//! ```

use std::fmt::Write as _;
use std::ops::RangeInclusive;

use crate::cluster::Cell;
use crate::contestant::Contestant;
use crate::report::Report;
use crate::suites::growth::SIZES;
use crate::suites::{pbft, pool};

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 440.0;
/// Where the lines are drawn; around it are title, labels and legend.
const LEFT: f64 = 84.0;
const RIGHT: f64 = 600.0;
const TOP: f64 = 48.0;
const BOTTOM: f64 = 376.0;

/// Colours that people with any colour vision tell apart (Okabe and Ito).
const COLOURS: [&str; 6] = ["#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9"];

/// The horizontal axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    /// What it shows, with the unit.
    pub label: &'static str,
    /// Whether equal steps multiply. Then all values are above 0.
    pub logarithmic: bool,
    /// The values that are written below it, rising.
    pub ticks: Vec<f64>,
}

/// One line of a chart.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// What the legend says.
    pub name: String,
    /// The points, from left to right. Their second numbers are above 0.
    pub points: Vec<(f64, f64)>,
}

/// Lines over an axis. The vertical axis is logarithmic: ratios are what one compares.
#[derive(Clone, Debug, PartialEq)]
pub struct Chart {
    /// What it shows.
    pub title: String,
    /// The horizontal axis.
    pub x: Axis,
    /// What the vertical axis shows, with the unit.
    pub y_label: &'static str,
    /// The lines, in the order of the legend.
    pub lines: Vec<Line>,
}

/// Maps a range of values to a range of the picture.
struct Scale {
    from: f64,
    to: f64,
    logarithmic: bool,
    at: [f64; 2],
}

impl Scale {
    fn position(&self, value: f64) -> f64 {
        let scaled = |value: f64| if self.logarithmic { value.ln() } else { value };
        let (from, to) = (scaled(self.from), scaled(self.to));
        let share = if to > from { (scaled(value) - from) / (to - from) } else { 0.5 };
        self.at[0] + share * (self.at[1] - self.at[0])
    }
}

/// The numbers 1, 2 and 5 times powers of ten around `range`: at least one of them at or beyond each end.
fn round_numbers(range: RangeInclusive<f64>) -> Vec<f64> {
    let lowest = range.start().log10().floor() as i32;
    let highest = range.end().log10().ceil() as i32;
    let all: Vec<f64> =
        (lowest..=highest).flat_map(|power| [1.0, 2.0, 5.0].map(|digit| digit * 10f64.powi(power))).collect();
    let first = all.iter().rposition(|number| number <= range.start()).unwrap_or(0);
    let last = all.iter().position(|number| number >= range.end()).unwrap_or(all.len() - 1);
    all[first..=last.max(first)].to_vec()
}

/// A number for an axis.
fn label(value: f64) -> String {
    match value {
        v if v >= 1e6 => format!("{} M", v / 1e6),
        v if v >= 1e4 => format!("{} k", v / 1e3),
        v => format!("{}", (v * 1e6).round() / 1e6),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

impl Chart {
    /// The picture.
    pub fn svg(&self) -> String {
        let values = || self.lines.iter().flat_map(|line| line.points.iter().map(|(_, y)| *y));
        let (lowest, highest) = (values().fold(f64::MAX, f64::min), values().fold(f64::MIN_POSITIVE, f64::max));
        let y_ticks = round_numbers(lowest.min(highest)..=highest);
        let ends = |ticks: &[f64]| [ticks.first().copied().unwrap_or(1.0), ticks.last().copied().unwrap_or(1.0)];
        let [from, to] = ends(&self.x.ticks);
        let x = Scale { from, to, logarithmic: self.x.logarithmic, at: [LEFT + 12.0, RIGHT - 12.0] };
        let [from, to] = ends(&y_ticks);
        let y = Scale { from, to, logarithmic: true, at: [BOTTOM, TOP] };

        let mut svg = String::new();
        let mut put = |element: std::fmt::Arguments<'_>| writeln!(svg, "{element}").expect("a string takes all");
        put(format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" \
             height=\"{HEIGHT}\" font-family=\"sans-serif\" font-size=\"13\" fill=\"#222\">"
        ));
        put(format_args!("<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>"));
        put(format_args!("<text x=\"{LEFT}\" y=\"26\" font-size=\"16\">{}</text>", escaped(&self.title)));
        for tick in &y_ticks {
            let at = y.position(*tick);
            put(format_args!("<path d=\"M{LEFT} {at:.1}H{RIGHT}\" stroke=\"#ddd\"/>"));
            put(format_args!(
                "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                LEFT - 8.0,
                at + 4.5,
                label(*tick)
            ));
        }
        for tick in &self.x.ticks {
            let at = x.position(*tick);
            put(format_args!("<path d=\"M{at:.1} {BOTTOM}v5\" stroke=\"#222\"/>"));
            put(format_args!(
                "<text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                BOTTOM + 21.0,
                label(*tick)
            ));
        }
        put(format_args!("<path d=\"M{LEFT} {TOP}V{BOTTOM}H{RIGHT}\" fill=\"none\" stroke=\"#222\"/>"));
        let (middle, below) = (f64::midpoint(LEFT, RIGHT), BOTTOM + 46.0);
        put(format_args!("<text x=\"{middle}\" y=\"{below}\" text-anchor=\"middle\">{}</text>", escaped(self.x.label)));
        let middle = f64::midpoint(TOP, BOTTOM);
        put(format_args!(
            "<text transform=\"translate(20 {middle}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            escaped(self.y_label)
        ));
        for (number, line) in self.lines.iter().enumerate() {
            let colour = COLOURS[number % COLOURS.len()];
            let points = line.points.iter().map(|(at, value)| (x.position(*at), y.position(*value)));
            let path: Vec<_> = points.clone().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            put(format_args!(
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
                path.join(" ")
            ));
            for (x, y) in points {
                put(format_args!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"{colour}\"/>"));
            }
            let (x, y) = (RIGHT + 20.0, TOP + 12.0 + 22.0 * number as f64);
            put(format_args!("<path d=\"M{x} {y}h24\" stroke=\"{colour}\" stroke-width=\"2\"/>"));
            put(format_args!("<circle cx=\"{}\" cy=\"{y}\" r=\"3.5\" fill=\"{colour}\"/>", x + 12.0));
            put(format_args!("<text x=\"{}\" y=\"{}\">{}</text>", x + 32.0, y + 4.5, escaped(&line.name)));
        }
        put(format_args!("</svg>"));
        svg
    }
}

/// What is changed along the horizontal axis.
struct Growth {
    /// What it is called in file names.
    name: &'static str,
    label: &'static str,
    logarithmic: bool,
    of: fn(&Cell) -> usize,
}

const GROWTHS: [Growth; 3] = [
    Growth { name: "nodes", label: "nodes", logarithmic: false, of: |cell| cell.nodes },
    Growth { name: "payload", label: "payload in bytes", logarithmic: true, of: |cell| cell.payload },
    Growth { name: "in-flight", label: "proposals in flight", logarithmic: true, of: |cell| cell.in_flight },
];

/// A chart of one figure of all contestants, along one way to grow from `base`; `None` without figures.
fn chart(report: &Report, growth: &Growth, base: Cell, figure: &str, y_label: &'static str) -> Option<Chart> {
    let others =
        |cell: &Cell| GROWTHS.iter().filter(|other| other.name != growth.name).all(|g| (g.of)(cell) == (g.of)(&base));
    let mut cells: Vec<Cell> = Cell::all().chain(Cell::growth()).filter(others).collect();
    cells.sort_unstable_by_key(growth.of);
    cells.dedup();
    let value =
        |name: &str, cell: &Cell| report.get(&format!("{name}_{}_{figure}", cell.name())).filter(|value| *value > 0.0);
    let lines = Contestant::ALL.iter().map(|Contestant { name, .. }| {
        let points = cells.iter().filter_map(|cell| Some(((growth.of)(cell) as f64, value(name, cell)?)));
        Line { name: (*name).to_owned(), points: points.collect() }
    });
    let lines: Vec<_> = lines.filter(|line| !line.points.is_empty()).collect();
    let ticks = cells.iter().map(|cell| (growth.of)(cell) as f64).collect();
    let fixed =
        [format!("{} nodes", base.nodes), format!("{} B", base.payload), format!("{} in flight", base.in_flight)];
    let fixed = fixed.into_iter().zip(&GROWTHS).filter(|(_, other)| other.name != growth.name).map(|(text, _)| text);
    let title = format!("Raft: {y_label} by {}; {}", growth.label, fixed.collect::<Vec<_>>().join(", "));
    let x = Axis { label: growth.label, logarithmic: growth.logarithmic, ticks };
    (!lines.is_empty()).then_some(Chart { title, x, y_label, lines })
}

/// The pictures of what `report` has measured, with the names of their files. Of Raft throughput with 64 in
/// flight and latency with one, by nodes, payload and proposals in flight; of membership time, bytes and CPU by
/// nodes; of pBFT throughput and latency by replicas; of tasks the time of a burst by nodes and of a stream by load.
pub fn plots(report: &Report) -> Vec<(String, String)> {
    let of_groups = raft_plots(report).into_iter().chain(pbft_plots(report));
    of_groups.chain(membership_plots(report)).chain(task_plots(report)).collect()
}

/// The pictures of tasks: a line for each policy.
fn task_plots(report: &Report) -> Vec<(String, String)> {
    let sizes: Vec<f64> = pool::SIZES.map(|nodes| nodes as f64).to_vec();
    let loads: Vec<f64> = pool::LOADS.map(f64::from).to_vec();
    let charts = [
        ("burst-by-nodes", "makespan by the work for each node", "nodes", "n_ratio", sizes),
        ("stream-by-load", "ms from submission to end", "load in percent", "_mean_ms", loads),
    ];
    let plots = charts.into_iter().filter_map(|(name, y_label, label, figure, ticks)| {
        let lines = pool::POLICIES.iter().map(|(_, policy)| {
            let value = |at: f64| report.get(&format!("tasks_{policy}_{at}{figure}"));
            let points = ticks.iter().filter_map(|at| Some((*at, value(*at)?)));
            Line { name: (*policy).to_owned(), points: points.collect() }
        });
        let lines: Vec<_> = lines.filter(|line| !line.points.is_empty()).collect();
        let x = Axis { label, logarithmic: name == "burst-by-nodes", ticks };
        let chart = Chart { title: format!("Tasks: {y_label}"), x, y_label, lines };
        (!chart.lines.is_empty()).then(|| (format!("tasks-{name}.svg"), chart.svg()))
    });
    plots.collect()
}

/// The pictures of membership: what it takes to learn of a member, and what it takes when nothing happens.
fn membership_plots(report: &Report) -> Vec<(String, String)> {
    let charts = [
        ("time", "seconds", [("join_s", "all joined"), ("crash_s", "crash known to all")]),
        (
            "bytes",
            "bytes",
            [("join_bytes_per_member", "join, a member"), ("idle_bytes_per_node_s", "idle, a node and s")],
        ),
        (
            "cpu",
            "microseconds of CPU",
            [("join_cpu_us_per_member", "join, a member"), ("idle_cpu_us_per_node_s", "idle, a node and s")],
        ),
    ];
    let plots = charts.into_iter().filter_map(|(name, y_label, figures)| {
        let lines = figures.map(|(figure, name)| {
            let value = |nodes: usize| report.get(&format!("members_{nodes}_{figure}")).filter(|value| *value > 0.0);
            let points = SIZES.iter().filter_map(|nodes| Some((*nodes as f64, value(*nodes)?)));
            Line { name: name.to_owned(), points: points.collect() }
        });
        let lines: Vec<_> = lines.into_iter().filter(|line| !line.points.is_empty()).collect();
        let x = Axis { label: "nodes", logarithmic: true, ticks: SIZES.map(|nodes| nodes as f64).to_vec() };
        let title = format!("Membership: {y_label} by nodes");
        let chart = Chart { title, x, y_label, lines };
        (!chart.lines.is_empty()).then(|| (format!("membership-{name}-by-nodes.svg"), chart.svg()))
    });
    plots.collect()
}

/// The pictures of pBFT: a line for each mode of authentication and number of requests in a batch.
fn pbft_plots(report: &Report) -> Vec<(String, String)> {
    let charts = [
        ("throughput", "requests_per_s", "requests/s"),
        ("latency", "latency_ms", "ms that a lone batch takes all replicas together"),
    ];
    let plots = charts.into_iter().filter_map(|(name, figure, y_label)| {
        let modes = [("sig", "signatures"), ("mac", "MACs")];
        let lines =
            modes.iter().flat_map(|mode| pbft::BATCHES.map(|batch| (mode, batch))).map(|((mode, text), batch)| {
                let value = |replicas: usize| report.get(&format!("pbft_{mode}_{replicas}n_{batch}_{figure}"));
                let points = pbft::SIZES.iter().filter_map(|replicas| Some((*replicas as f64, value(*replicas)?)));
                Line { name: format!("{text}, {batch}"), points: points.collect() }
            });
        let lines: Vec<_> = lines.filter(|line| !line.points.is_empty()).collect();
        let x = Axis { label: "replicas", logarithmic: true, ticks: pbft::SIZES.map(|size| size as f64).to_vec() };
        let title = format!("pBFT: {y_label} by replicas and requests in a batch");
        let chart = Chart { title, x, y_label, lines };
        (!chart.lines.is_empty()).then(|| (format!("pbft-{name}-by-replicas.svg"), chart.svg()))
    });
    plots.collect()
}

fn raft_plots(report: &Report) -> Vec<(String, String)> {
    let base = |in_flight| Cell { nodes: 3, payload: 256, in_flight };
    let figures = [
        ("throughput", "entries_per_s", "entries/s", base(64)),
        ("latency", "p50_us", "us from proposal to answer, p50", base(1)),
    ];
    let plots = figures.iter().flat_map(|(name, figure, label, base)| {
        GROWTHS.iter().filter_map(move |growth| {
            let chart = chart(report, growth, *base, figure, label)?;
            Some((format!("raft-{name}-by-{}.svg", growth.name), chart.svg()))
        })
    });
    plots.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_enclose_the_values() {
        assert_eq!(round_numbers(3.0..=40.0), [2.0, 5.0, 10.0, 20.0, 50.0]);
        assert_eq!(round_numbers(1.0..=1.0), [1.0]);
        assert_eq!(round_numbers(0.7..=0.9), [0.5, 1.0]);
        assert_eq!([0.5, 200.0, 20_000.0, 5e6].map(label), ["0.5", "200", "20 k", "5 M"]);
    }

    #[test]
    fn each_contestant_has_a_line_through_the_cells_that_were_measured() {
        let mut report = Report::default();
        for nodes in [3, 5, 7] {
            report.figure(format!("raft_{nodes}n_256B_64_entries_per_s"), &[1e6 / nodes as f64]);
        }
        let plots = plots(&report);
        let names: Vec<_> = plots.iter().map(|(name, _)| name.as_str()).collect();
        let all = ["nodes", "payload", "in-flight"].map(|growth| format!("raft-throughput-by-{growth}.svg"));
        assert_eq!(names, all, "the cell of 3 nodes is on all of them, and no latency was measured");
        let by_nodes = &plots[0].1;
        assert_eq!(by_nodes.matches("<polyline").count(), 1);
        assert_eq!(by_nodes.matches("<circle").count(), 3 + 1, "three points and the legend");
        assert!(by_nodes.contains(">raft</text>") && by_nodes.trim_end().ends_with("</svg>"));
    }

    #[test]
    fn membership_is_drawn_by_nodes_as_far_as_it_was_measured() {
        let mut report = Report::default();
        for nodes in [16, 10_000] {
            report.figure(format!("members_{nodes}_join_s"), &[(nodes as f64).ln()]);
        }
        let plots = plots(&report);
        let [(name, svg)] = plots.as_slice() else { panic!("only times were measured") };
        assert_eq!(name, "membership-time-by-nodes.svg");
        assert_eq!((svg.matches("<polyline").count(), svg.matches("<circle").count()), (1, 2 + 1));
        assert!(svg.contains(">10 k</text>"));
    }

    #[test]
    fn pbft_is_drawn_by_replicas_with_a_line_for_each_mode_and_batch() {
        let mut report = Report::default();
        for (mode, replicas) in [("sig", 4), ("sig", 31), ("mac", 7)] {
            report.figure(format!("pbft_{mode}_{replicas}n_64_requests_per_s"), &[1e6 / f64::from(replicas)]);
        }
        let plots = plots(&report);
        let [(name, svg)] = plots.as_slice() else { panic!("no latency was measured") };
        assert_eq!(name, "pbft-throughput-by-replicas.svg");
        assert_eq!((svg.matches("<polyline").count(), svg.matches("<circle").count()), (2, 3 + 2));
        assert!(svg.contains(">signatures, 64</text>") && svg.contains(">MACs, 64</text>"));
    }

    #[test]
    fn tasks_are_drawn_with_a_line_for_each_policy() {
        let mut report = Report::default();
        for (name, value) in [("steal_16n_ratio", 1.2), ("steal_64n_ratio", 1.4), ("dht_16n_ratio", 1.5)] {
            report.figure(format!("tasks_{name}"), &[value]);
        }
        let plots = plots(&report);
        let [(name, svg)] = plots.as_slice() else { panic!("no stream was measured") };
        assert_eq!(name, "tasks-burst-by-nodes.svg");
        assert_eq!((svg.matches("<polyline").count(), svg.matches("<circle").count()), (2, 3 + 2));
    }

    #[test]
    fn without_figures_there_is_nothing_to_draw() {
        assert!(plots(&Report::default()).is_empty());
    }
}
