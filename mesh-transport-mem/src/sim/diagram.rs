//! A trace for programs, as lines of JSON, and for people, as a space-time diagram (Lamport, 1978): time runs to the right,
//! each node is a line, and each frame an arrow from where it left to where it arrived.
//!
//! ```
//! use std::time::Duration;
//! use mesh_core::NodeId;
//! use mesh_transport_mem::{Sim, json_lines, space_time};
//!
//! let mut sim: Sim<()> = Sim::new(1);
//! sim.keep_trace(1_000);
//! sim.add_node(NodeId(1), |_| ());
//! sim.run_for(Duration::from_secs(1));
//! let events = sim.traced();
//! assert!(json_lines(&events).starts_with(r#"{"number":0,"at_ns":0,"event":"started","node":"#));
//! assert!(space_time("one node", &events).starts_with("<svg"));
//! ```

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;

use mesh_core::{Instant, NodeId};

use super::trace::TraceEvent;

/// An event of a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Traced {
    /// Which event of the run it was, from 0.
    pub number: u64,
    /// When it happened.
    pub at: Instant,
    /// What happened.
    pub event: TraceEvent,
    /// What was in the frame, where that is [described](super::Sim::describe), or the note.
    pub text: Option<String>,
}

impl Traced {
    pub(super) fn new(number: u64, at: Instant, event: TraceEvent, text: Option<&str>) -> Self {
        Self { number, at, event, text: text.filter(|text| !text.is_empty()).map(ToOwned::to_owned) }
    }
}

/// The name of an event, and its nodes.
const fn parts(event: &TraceEvent) -> (&'static str, Option<NodeId>, Option<NodeId>) {
    match *event {
        TraceEvent::Sent { from, to, .. } => ("sent", Some(from), Some(to)),
        TraceEvent::Delivered { from, to, .. } => ("delivered", Some(from), Some(to)),
        TraceEvent::Lost { from, to, .. } => ("lost", Some(from), Some(to)),
        TraceEvent::Cut { from, to } => ("cut", Some(from), Some(to)),
        TraceEvent::Peer { node, peer, .. } => ("peer", Some(node), Some(peer)),
        TraceEvent::Timers { node } => ("timers", Some(node), None),
        TraceEvent::Commands { node } => ("commands", Some(node), None),
        TraceEvent::Synced { node } => ("synced", Some(node), None),
        TraceEvent::Started { node, .. } => ("started", Some(node), None),
        TraceEvent::Refused { node } => ("refused", Some(node), None),
        TraceEvent::Crashed { node } => ("crashed", Some(node), None),
        TraceEvent::Killed { node } => ("killed", Some(node), None),
        TraceEvent::Stopped { node } => ("stopped", Some(node), None),
        TraceEvent::DiskFailed { node } => ("disk_failed", Some(node), None),
        TraceEvent::Paused { node } => ("paused", Some(node), None),
        TraceEvent::Resumed { node } => ("resumed", Some(node), None),
        TraceEvent::ClockJumped { node, .. } => ("clock_jumped", Some(node), None),
        TraceEvent::ClockDrifts { node, .. } => ("clock_drifts", Some(node), None),
        TraceEvent::Snapshot { node } => ("snapshot", Some(node), None),
        TraceEvent::Wiped { node } => ("wiped", Some(node), None),
        TraceEvent::Healed => ("healed", None, None),
        TraceEvent::Note { .. } => ("note", None, None),
    }
}

/// A text as a string of JSON.
fn json_string(text: &str) -> String {
    let mut quoted = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' | '\\' => quoted.extend(['\\', letter]),
            letter if letter < ' ' => quoted.push_str(&format!("\\u{:04x}", u32::from(letter))),
            letter => quoted.push(letter),
        }
    }
    quoted.push('"');
    quoted
}

/// One JSON object a line: `number`, `at_ns`, `event`, and where there are any `node` or `from` and `to`, `len` (bytes of a
/// frame), `frame` (its digest, by which an arrival is found), `why` it was lost, and `text`.
pub fn json_lines(events: &[Traced]) -> String {
    let mut lines = String::new();
    for Traced { number, at, event, text } in events {
        let (name, node, other) = parts(event);
        let _ = write!(lines, "{{\"number\":{number},\"at_ns\":{},\"event\":\"{name}\"", at.as_nanos());
        match (node, other) {
            (Some(from), Some(to)) => lines.push_str(&format!(",\"from\":\"{from}\",\"to\":\"{to}\"")),
            (Some(node), None) => lines.push_str(&format!(",\"node\":\"{node}\"")),
            _ => {}
        }
        match event {
            TraceEvent::Sent { len, digest, .. } | TraceEvent::Delivered { len, digest, .. } => {
                lines.push_str(&format!(",\"len\":{len},\"frame\":\"{digest:016x}\""));
            }
            TraceEvent::Lost { why, .. } => lines.push_str(&format!(",\"why\":\"{why:?}\"")),
            _ => {}
        }
        if let Some(text) = text {
            let _ = write!(lines, ",\"text\":{}", json_string(text));
        }
        lines.push_str("}\n");
    }
    lines
}

/// The sizes of the picture, in its units.
const WIDTH: f64 = 1400.0;
const LEFT: f64 = 90.0;
const TOP: f64 = 60.0;
const ROW: f64 = 70.0;

/// Text as it may stand in SVG.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Where things are in the picture.
struct Scale {
    rows: BTreeMap<NodeId, f64>,
    from: u64,
    to: u64,
}

impl Scale {
    fn of(events: &[Traced]) -> Self {
        let ends = |event: &Traced| event.at.as_nanos();
        let (from, to) = (events.first().map_or(0, ends), events.last().map_or(0, ends));
        let nodes = events.iter().flat_map(|traced| {
            let (_, node, other) = parts(&traced.event);
            node.into_iter().chain(other)
        });
        let nodes: BTreeSet<_> = nodes.collect();
        let rows = nodes.into_iter().enumerate().map(|(row, node)| (node, TOP + ROW * (row as f64 + 0.5)));
        Self { rows: rows.collect(), from, to: to.max(from + 1) }
    }

    fn x(&self, at: Instant) -> f64 {
        let share = (at.as_nanos() - self.from) as f64 / (self.to - self.from) as f64;
        LEFT + share * (WIDTH - LEFT - 20.0)
    }

    fn y(&self, node: NodeId) -> f64 {
        self.rows.get(&node).copied().unwrap_or(TOP)
    }

    fn height(&self) -> f64 {
        TOP + ROW * self.rows.len().max(1) as f64 + 30.0
    }
}

/// A picture of these events, which are in order: arrows for frames, grey; what was lost, red to where it got; crosses for
/// crashes, dots for starts, bars for pauses, and lines through all nodes for cuts, healing and notes. What was in a frame
/// shows where one points at its arrow.
pub fn space_time(title: &str, events: &[Traced]) -> String {
    let scale = Scale::of(events);
    let height = scale.height();
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <title>{title}</title>\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"20\" font-size=\"16\">{title}</text>\n",
        title = escaped(title)
    );
    for (node, y) in &scale.rows {
        let _ = writeln!(svg, "<text x=\"8\" y=\"{}\">{node:?}</text>", y + 4.0);
        let _ = writeln!(svg, "<line x1=\"{LEFT}\" y1=\"{y}\" x2=\"{}\" y2=\"{y}\" stroke=\"black\"/>", WIDTH - 20.0);
    }
    let seconds = |nanos: u64| nanos as f64 / 1e9;
    for (x, at, anchor) in [(LEFT, scale.from, "start"), (WIDTH - 20.0, scale.to, "end")] {
        let y = height - 8.0;
        let _ = writeln!(svg, "<text x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\">{:.6} s</text>", seconds(at));
    }
    let mut on_their_way: BTreeMap<(NodeId, NodeId, u64), VecDeque<&Traced>> = BTreeMap::new();
    let mut last_sent: BTreeMap<(NodeId, NodeId), &Traced> = BTreeMap::new();
    for traced in events {
        let x = scale.x(traced.at);
        match traced.event {
            TraceEvent::Sent { from, to, digest, .. } => {
                on_their_way.entry((from, to, digest)).or_default().push_back(traced);
                last_sent.insert((from, to), traced);
            }
            TraceEvent::Delivered { from, to, digest, .. } => {
                let sent = on_their_way.get_mut(&(from, to, digest)).and_then(VecDeque::pop_front);
                // What left before the window began comes from its edge.
                let (begin, text) =
                    sent.map_or((LEFT, ""), |sent| (scale.x(sent.at), sent.text.as_deref().unwrap_or("")));
                arrow(&mut svg, (begin, scale.y(from)), (x, scale.y(to)), "#888", text);
            }
            TraceEvent::Lost { from, to, why } => {
                let sent = last_sent.get(&(from, to));
                let begin = sent.map_or(x, |sent| scale.x(sent.at));
                let (y, half) = (scale.y(from), (scale.y(from) + scale.y(to)) / 2.0);
                let text = sent.and_then(|sent| sent.text.as_deref()).unwrap_or("");
                arrow(&mut svg, (begin, y), (x.max(begin + 4.0), half), "#c00", &format!("lost ({why:?}): {text}"));
            }
            TraceEvent::Cut { .. } | TraceEvent::Healed | TraceEvent::Note { .. } => {
                let bottom = height - 30.0;
                let label = traced.text.as_deref().filter(|_| matches!(traced.event, TraceEvent::Note { .. }));
                let label = label.map_or_else(|| traced.event.to_string(), ToOwned::to_owned);
                let anchor = if x > WIDTH * 0.7 { "end" } else { "start" };
                let _ = writeln!(
                    svg,
                    "<g><title>{0}</title><line x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{bottom}\" stroke=\"#06c\" \
                     stroke-dasharray=\"4 3\"/>{1}</g>",
                    escaped(&label),
                    if matches!(traced.event, TraceEvent::Cut { .. }) {
                        String::new()
                    } else {
                        format!(
                            "<text x=\"{x:.1}\" y=\"{}\" fill=\"#06c\" text-anchor=\"{anchor}\">{}</text>",
                            TOP - 8.0,
                            escaped(&label)
                        )
                    }
                );
            }
            TraceEvent::Started { node, .. } | TraceEvent::Resumed { node } => {
                mark(&mut svg, (x, scale.y(node)), "●", "#080", &traced.event.to_string());
            }
            TraceEvent::Crashed { node }
            | TraceEvent::Killed { node }
            | TraceEvent::Stopped { node }
            | TraceEvent::DiskFailed { node }
            | TraceEvent::Refused { node }
            | TraceEvent::Wiped { node }
            | TraceEvent::Paused { node } => {
                mark(&mut svg, (x, scale.y(node)), "✕", "#c00", &traced.event.to_string());
            }
            _ => {}
        }
    }
    svg.push_str("</svg>\n");
    svg
}

fn arrow(svg: &mut String, (x1, y1): (f64, f64), (x2, y2): (f64, f64), colour: &str, text: &str) {
    // The head: two strokes back from the end, along the line.
    let (dx, dy) = (x2 - x1, y2 - y1);
    let len = dx.hypot(dy).max(1e-9);
    let (ux, uy) = (dx / len * 6.0, dy / len * 6.0);
    let _ = writeln!(
        svg,
        "<g stroke=\"{colour}\" fill=\"none\"><title>{}</title><path d=\"M{x1:.1} {y1:.1}L{x2:.1} {y2:.1}M{:.1} {:.1}L{x2:.1} \
         {y2:.1}L{:.1} {:.1}\"/></g>",
        escaped(text),
        x2 - ux + uy * 0.5,
        y2 - uy - ux * 0.5,
        x2 - ux - uy * 0.5,
        y2 - uy + ux * 0.5,
    );
}

fn mark(svg: &mut String, (x, y): (f64, f64), sign: &str, colour: &str, text: &str) {
    let _ = writeln!(
        svg,
        "<g><title>{}</title><text x=\"{x:.1}\" y=\"{:.1}\" fill=\"{colour}\" text-anchor=\"middle\" font-size=\"16\">{sign}</text></g>",
        escaped(text),
        y + 5.0
    );
}

#[cfg(test)]
mod tests {
    use super::super::trace::Loss;
    use super::*;

    fn events() -> Vec<Traced> {
        let (a, b) = (NodeId(1), NodeId(2));
        let all = [
            (0, TraceEvent::Started { node: a, incarnation: 1 }, None),
            (10, TraceEvent::Sent { from: a, to: b, len: 5, digest: 7 }, Some("a \"<word>\"\n")),
            (20, TraceEvent::Delivered { from: a, to: b, len: 5, digest: 7 }, None),
            (25, TraceEvent::Sent { from: b, to: a, len: 5, digest: 8 }, None),
            (30, TraceEvent::Lost { from: b, to: a, why: Loss::Cut }, None),
            (40, TraceEvent::Crashed { node: b }, None),
            (50, TraceEvent::Healed, None),
        ];
        let traced = |(number, (at, event, text)): (usize, (u64, TraceEvent, Option<&str>))| {
            Traced::new(number as u64, Instant::from_nanos(at), event, text)
        };
        all.into_iter().enumerate().map(traced).collect()
    }

    #[test]
    fn lines_are_objects_with_what_there_is_and_texts_are_escaped() {
        let lines = json_lines(&events());
        let lines: Vec<_> = lines.lines().collect();
        assert_eq!(lines.len(), 7);
        let (a, b) = (NodeId(1), NodeId(2));
        let sent = format!(
            r#"{{"number":1,"at_ns":10,"event":"sent","from":"{a}","to":"{b}","len":5,"frame":"0000000000000007","text":"a \"<word>\"\u000a"}}"#
        );
        assert_eq!(lines[1], sent);
        assert!(lines[4].ends_with(r#""why":"Cut"}"#) && lines[6].ends_with(r#""event":"healed"}"#), "{lines:?}");
    }

    #[test]
    fn a_picture_has_a_line_a_node_an_arrow_a_frame_and_marks() {
        let svg = space_time("a <title>", &events());
        assert_eq!(svg.matches("stroke=\"black\"").count(), 2, "{svg}");
        assert_eq!((svg.matches("#888").count(), svg.matches("lost (Cut)").count()), (1, 1));
        assert_eq!((svg.matches('✕').count(), svg.matches('●').count()), (1, 1));
        assert!(svg.contains("a &lt;title&gt;") && svg.contains("a &quot;&lt;word&gt;&quot;"), "{svg}");
        assert!(space_time("nothing", &[]).ends_with("</svg>\n"));
    }
}
