//! Metrics as Prometheus reads them: the text format, version 0.0.4.
//!
//! Names begin with `mesh_`. Counters end with `_total`. What is counted in nanoseconds, by its name, is told in
//! seconds, as `raft_commit_nanos` in `mesh_raft_commit_seconds`; the HELP line has the name that it has here.
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use super::{HistogramSnapshot, Metrics};

/// The upper bounds of the buckets of a duration, in nanoseconds: 1, 2.5 and 5 of each power of ten from
/// 10 us to 10 s.
const DURATIONS: [u64; 19] = {
    let mut bounds = [10_000_000_000; 19];
    let (mut at, mut power) = (0, 10_000);
    while at < 18 {
        (bounds[at], bounds[at + 1], bounds[at + 2]) = (power, power / 2 * 5, power * 5);
        (at, power) = (at + 3, power * 10);
    }
    bounds
};

/// The upper bounds of the buckets of anything else, as lengths: powers of four to 16 Mi.
const AMOUNTS: [u64; 13] = {
    let mut bounds = [1; 13];
    let mut at = 1;
    while at < 13 {
        bounds[at] = bounds[at - 1] * 4;
        at += 1;
    }
    bounds
};

/// The metrics of one node, or of several in one process, in the text format of Prometheus. Its `Display` is what
/// a scrape is answered with.
///
/// ```
/// use std::time::Duration;
/// use mesh_core::Metrics;
/// use mesh_core::metrics::Exposition;
///
/// let (one, two) = (Metrics::default(), Metrics::default());
/// one.counter("frames_in").add(7);
/// one.histogram("raft_commit_nanos").record_duration(Duration::from_micros(80));
///
/// let page = one.prometheus(&[("node", "1")]).with(&two, &[("node", "2")]).to_string();
/// assert!(page.contains("# TYPE mesh_frames_in_total counter\nmesh_frames_in_total{node=\"1\"} 7\n"));
/// assert!(page.contains("mesh_raft_commit_seconds_bucket{node=\"1\",le=\"0.0001\"} 1\n"));
/// println!("Content-Type: {}\r\n\r\n{page}", Exposition::CONTENT_TYPE);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Exposition {
    families: BTreeMap<String, Family>,
}

/// All samples of one name, which must stand together.
#[derive(Clone, Debug)]
struct Family {
    kind: &'static str,
    help: String,
    samples: String,
}

impl Metrics {
    /// The metrics as they are now, for Prometheus. Every sample gets `labels`, as the name of the node.
    ///
    /// Characters that a name or label may not have become `_`; a label `le`, which is the histograms' own,
    /// becomes `_le`. A bucket counts values up to its bound, but for those that the [`Histogram`] cannot tell from
    /// larger ones, which are at most 3.1 % below it.
    ///
    /// [`Histogram`]: super::Histogram
    pub fn prometheus(&self, labels: &[(&str, &str)]) -> Exposition {
        Exposition::default().with(self, labels)
    }
}

impl Exposition {
    /// The `Content-Type` of an answer over HTTP.
    pub const CONTENT_TYPE: &'static str = "text/plain; version=0.0.4; charset=utf-8";

    /// Adds the metrics of another node, which its labels tell apart.
    #[must_use]
    pub fn with(mut self, metrics: &Metrics, labels: &[(&str, &str)]) -> Self {
        let labels = written(labels);
        let (counters, gauges) = metrics.numbers();
        for (name, value) in counters {
            self.number(name, "counter", "_total", &labels, value);
        }
        for (name, value) in gauges {
            self.number(name, "gauge", "", &labels, value);
        }
        for (name, snapshot) in metrics.histograms() {
            self.histogram(name, &labels, &snapshot);
        }
        self
    }

    fn family(&mut self, name: String, kind: &'static str, help: String) -> &mut String {
        let family = || Family { kind, help, samples: String::new() };
        &mut self.families.entry(name).or_insert_with(family).samples
    }

    fn number(&mut self, name: &str, kind: &'static str, suffix: &str, labels: &str, value: u64) {
        let full = format!("mesh_{}{suffix}", allowed(name));
        let samples = self.family(full.clone(), kind, format!("The {kind} {name}."));
        line(samples, &full, "", labels, "", &value);
    }

    fn histogram(&mut self, name: &str, labels: &str, snapshot: &HistogramSnapshot) {
        let (full, bounds, unit, help) = match name.strip_suffix("_nanos") {
            Some(stem) => (format!("mesh_{}_seconds", allowed(stem)), &DURATIONS[..], 1e9, ", in seconds"),
            None => (format!("mesh_{}", allowed(name)), &AMOUNTS[..], 1.0, ""),
        };
        let samples = self.family(full.clone(), "histogram", format!("The histogram {name}{help}."));
        let (mut buckets, mut below) = (snapshot.buckets().peekable(), 0);
        for bound in bounds {
            while let Some((_, count)) = buckets.next_if(|(last, _)| last <= bound) {
                below += count;
            }
            line(samples, &full, "_bucket", labels, &format!("le=\"{}\"", *bound as f64 / unit), &below);
        }
        line(samples, &full, "_bucket", labels, "le=\"+Inf\"", &snapshot.count());
        line(samples, &full, "_sum", labels, "", &(snapshot.sum() as f64 / unit));
        line(samples, &full, "_count", labels, "", &snapshot.count());
    }
}

impl fmt::Display for Exposition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, Family { kind, help, samples }) in &self.families {
            write!(f, "# HELP {name} {}\n# TYPE {name} {kind}\n{samples}", escaped(help, &['\\', '\n']))?;
        }
        Ok(())
    }
}

/// One sample.
fn line(samples: &mut String, name: &str, suffix: &str, labels: &str, bound: &str, value: &dyn fmt::Display) {
    let comma = if labels.is_empty() || bound.is_empty() { "" } else { "," };
    let (open, close) = if labels.is_empty() && bound.is_empty() { ("", "") } else { ("{", "}") };
    // Writing to a String cannot fail.
    let _ = writeln!(samples, "{name}{suffix}{open}{labels}{comma}{bound}{close} {value}");
}

/// `labels` as they stand between the braces.
fn written(labels: &[(&str, &str)]) -> String {
    let written = labels.iter().map(|(name, value)| {
        let own = matches!(*name, "le") || name.starts_with(|first: char| first.is_ascii_digit()) || name.is_empty();
        let first = if own { "_" } else { "" };
        format!("{first}{}=\"{}\"", allowed(name), escaped(value, &['\\', '\n', '"']))
    });
    written.collect::<Vec<_>>().join(",")
}

/// `name` with `_` for each character that names may not have.
fn allowed(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}

fn escaped(text: &str, special: &[char]) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if special.contains(&c) {
            escaped.push('\\');
        }
        escaped.push(if c == '\n' { 'n' } else { c });
    }
    escaped
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::*;

    /// The page, read by the rules of the format: samples of a family together, behind its HELP and TYPE, names of
    /// the characters that are allowed, no sample twice.
    fn samples(page: &str) -> BTreeMap<String, f64> {
        let (mut family, mut families, mut samples) = (None, BTreeSet::new(), BTreeMap::new());
        let mut lines = page.lines();
        assert!(page.is_empty() || page.ends_with('\n'));
        while let Some(line) = lines.next() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, _) = help.split_once(' ').unwrap();
                let kind = lines.next().unwrap().strip_prefix(&format!("# TYPE {name} ")).unwrap();
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{kind}");
                assert!(families.insert(name), "{name} stands in two places");
                family = Some((name, kind));
                continue;
            }
            let (key, value) = line.rsplit_once(' ').unwrap();
            let name = key.split('{').next().unwrap();
            let (of, kind) = family.expect("a sample stands behind its type");
            let suffixes: &[_] = if kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            assert!(suffixes.iter().any(|suffix| name == format!("{of}{suffix}")), "{name} is not of {of}");
            assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':'), "{name}");
            assert!(!name.starts_with(|c: char| c.is_ascii_digit()));
            assert!(samples.insert(key.to_owned(), value.parse().unwrap()).is_none(), "{key} is there twice");
        }
        samples
    }

    #[test]
    fn counters_and_gauges_have_their_types_and_labels() {
        let metrics = Metrics::default();
        metrics.counter("frames_in").add(3);
        metrics.gauge("links").set(4);
        let page = metrics.prometheus(&[("node", "7"), ("zone", "a")]).to_string();
        let expected = "# HELP mesh_frames_in_total The counter frames_in.\n\
                        # TYPE mesh_frames_in_total counter\n\
                        mesh_frames_in_total{node=\"7\",zone=\"a\"} 3\n\
                        # HELP mesh_links The gauge links.\n\
                        # TYPE mesh_links gauge\n\
                        mesh_links{node=\"7\",zone=\"a\"} 4\n";
        assert_eq!(page, expected);
        assert_eq!(samples(&page).len(), 2);
        assert_eq!(samples(&metrics.prometheus(&[]).to_string())["mesh_links"], 4.0);
        assert_eq!(Metrics::default().prometheus(&[]).to_string(), "");
    }

    #[test]
    fn names_and_label_values_cannot_break_the_page() {
        let metrics = Metrics::default();
        metrics.counter("odd name-with {signs}\n").increment();
        let labels = [("path", "C:\\dir\n\"quoted\" ä"), ("1st", "x"), ("le", "9"), ("a-b", "}"), ("", "nameless")];
        let page = metrics.prometheus(&labels).to_string();
        let line = "mesh_odd_name_with__signs___total{path=\"C:\\\\dir\\n\\\"quoted\\\" ä\",\
                    _1st=\"x\",_le=\"9\",a_b=\"}\",_=\"nameless\"} 1";
        assert_eq!(page.lines().nth(2), Some(line));
        assert_eq!(
            page.lines().next(),
            Some("# HELP mesh_odd_name_with__signs___total The counter odd name-with {signs}\\n.")
        );
        assert_eq!(samples(&page).len(), 1);
    }

    #[test]
    fn buckets_are_cumulative_and_end_with_all() {
        let metrics = Metrics::default();
        let commits = metrics.histogram("commit_nanos");
        for micros in [1, 80, 80, 3_000, 20_000_000] {
            commits.record_duration(Duration::from_micros(micros));
        }
        let page = metrics.prometheus(&[("node", "1")]).to_string();
        let seen = samples(&page);
        let bucket = |le: &str| seen[&format!("mesh_commit_seconds_bucket{{node=\"1\",le=\"{le}\"}}")];
        assert_eq!(
            ["0.00001", "0.00005", "0.0001", "0.0025", "0.005", "10", "+Inf"].map(bucket),
            [1.0, 1.0, 3.0, 3.0, 4.0, 4.0, 5.0]
        );
        assert_eq!(seen["mesh_commit_seconds_count{node=\"1\"}"], 5.0);
        assert!((seen["mesh_commit_seconds_sum{node=\"1\"}"] - 20.003_161).abs() < 1e-9);
        assert_eq!(seen.len(), DURATIONS.len() + 3);
        let bounds: Vec<_> = page.lines().filter_map(|line| line.split("le=\"").nth(1)?.split('"').next()).collect();
        let rising = |bounds: &[f64]| bounds.windows(2).all(|pair| pair[0] < pair[1]);
        assert!(rising(&bounds.iter().map(|bound| bound.parse().unwrap()).collect::<Vec<_>>()), "{bounds:?}");
        let counts: Vec<f64> = page
            .lines()
            .filter(|line| line.contains("_bucket"))
            .map(|line| line.rsplit_once(' ').unwrap().1.parse().unwrap())
            .collect();
        assert!(counts.is_sorted(), "{counts:?}");
    }

    #[test]
    fn amounts_keep_their_unit_and_each_is_below_the_bound_it_is() {
        let metrics = Metrics::default();
        let lens = metrics.histogram("frame_len");
        AMOUNTS.iter().for_each(|bound| lens.record(*bound));
        let seen = samples(&metrics.prometheus(&[]).to_string());
        assert_eq!(seen["mesh_frame_len_bucket{le=\"1\"}"], 1.0);
        assert_eq!(seen["mesh_frame_len_bucket{le=\"16\"}"], 3.0);
        assert_eq!(seen["mesh_frame_len_sum"], AMOUNTS.iter().sum::<u64>() as f64);
        assert_eq!(seen["mesh_frame_len_bucket{le=\"+Inf\"}"], 13.0);
    }

    #[test]
    fn nodes_of_one_process_share_their_families() {
        let nodes = [Metrics::default(), Metrics::default()];
        for metrics in &nodes {
            metrics.counter("frames_in").increment();
            metrics.histogram("commit_nanos").record(1);
        }
        let page = nodes[0].prometheus(&[("node", "1")]).with(&nodes[1], &[("node", "2")]).to_string();
        assert_eq!(samples(&page).len(), 2 * (1 + DURATIONS.len() + 3));
        assert_eq!(page.matches("# TYPE").count(), 2);
    }
}
