//! What a suite found: named figures, and tables for people.

use std::fmt;

use crate::stats::{median, range};

/// What to measure, and for how long.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Fewer and shorter runs, so that all suites but those of gossip end within a minute, and pools that are drawn.
    pub quick: bool,
    /// Measure also the cells that the [plots](crate::plot::plots) show.
    pub plots: bool,
    /// Of membership, its growth, modules together and pBFT, only what has a figure whose name has this in it.
    pub only: Option<String>,
    /// Where the members of an etcd cluster take requests, to run in turn with our durable cluster;
    /// as in `http://127.0.0.1:2379`.
    pub etcd: Vec<String>,
}

impl Settings {
    /// Whether a figure of this name is asked for.
    pub fn wants(&self, name: &str) -> bool {
        self.only.as_ref().is_none_or(|only| name.contains(only))
    }

    /// How many runs a figure is the median of.
    pub const fn runs(&self) -> usize {
        if self.quick { 3 } else { 7 }
    }

    /// About how long one run of one contestant takes, in seconds.
    pub const fn run_seconds(&self) -> f64 {
        if self.quick { 0.06 } else { 0.3 }
    }
}

/// What a figure has to keep to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// The median of its runs is not more than that.
    AtMost(f64),
    /// The median of its runs is not less than that.
    AtLeast(f64),
    /// It is not more than that in any run: for what must not happen, of which a median says nothing.
    NeverOver(f64),
    /// It is not less than that in any run.
    NeverUnder(f64),
}

impl Bound {
    /// Whether a value keeps to it.
    fn holds(self, value: f64) -> bool {
        match self {
            Self::AtMost(most) | Self::NeverOver(most) => value <= most,
            Self::AtLeast(least) | Self::NeverUnder(least) => value >= least,
        }
    }

    /// The value that has to keep to it.
    fn judged(self, figure: &Figure) -> f64 {
        match self {
            Self::AtMost(_) | Self::AtLeast(_) => figure.median,
            Self::NeverOver(_) => figure.most,
            Self::NeverUnder(_) => figure.least,
        }
    }

    /// What stands in a table: nothing where there is no bound.
    pub fn text(bound: Option<Self>) -> String {
        bound.map_or(String::new(), |bound| bound.to_string())
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::AtMost(value) | Self::AtLeast(value) | Self::NeverOver(value) | Self::NeverUnder(value)) = self;
        write!(f, "{value}")
    }
}

/// What the runs of something gave.
#[derive(Clone, Debug)]
struct Figure {
    name: String,
    median: f64,
    least: f64,
    most: f64,
}

/// Named figures in the order they were found, with tables that show them.
#[derive(Clone, Debug, Default)]
pub struct Report {
    figures: Vec<Figure>,
    bounds: Vec<(String, Bound)>,
    tables: Vec<Table>,
}

impl Report {
    /// Adds the median of `runs` under a name that ends in its unit, and returns it. Without runs there is no figure.
    pub fn figure(&mut self, name: impl Into<String>, runs: &[f64]) -> f64 {
        if runs.is_empty() {
            return f64::NAN;
        }
        let median = median(runs);
        let (least, most) = range(runs);
        self.figures.push(Figure { name: name.into(), median, least, most });
        median
    }

    /// Says what the figure of this name has to keep to.
    pub fn bound(&mut self, name: impl Into<String>, bound: impl Into<Option<Bound>>) {
        self.bounds.extend(bound.into().map(|bound| (name.into(), bound)));
    }

    /// A line for each figure that does not keep to its bound, or that has a bound and was not found.
    pub fn beyond(&self) -> Vec<String> {
        let beyond = |(name, bound): &(String, Bound)| {
            let Some(figure) = self.of(name) else { return Some(format!("{name} was not measured")) };
            let value = bound.judged(figure);
            let should = match bound {
                Bound::AtMost(_) => "at most",
                Bound::AtLeast(_) => "at least",
                Bound::NeverOver(_) => "in every run at most",
                Bound::NeverUnder(_) => "in every run at least",
            };
            (!bound.holds(value)).then(|| format!("{name} is {value:.3}, and should be {should} {bound}"))
        };
        self.bounds.iter().filter_map(beyond).collect()
    }

    /// Adds a table.
    pub fn table(&mut self, table: Table) {
        self.tables.push(table);
    }

    /// Adds a line of text below the tables so far.
    pub fn note(&mut self, text: impl Into<String>) {
        self.tables.push(Table { title: text.into(), rows: Vec::new() });
    }

    /// Adds all of another report.
    pub fn append(&mut self, mut other: Self) {
        self.figures.append(&mut other.figures);
        self.bounds.append(&mut other.bounds);
        self.tables.append(&mut other.tables);
    }

    fn of(&self, name: &str) -> Option<&Figure> {
        self.figures.iter().find(|figure| figure.name == name)
    }

    /// The figure of this name: the median of its runs.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.of(name).map(|figure| figure.median)
    }

    /// One flat JSON object of all figures.
    pub fn json(&self) -> String {
        let round = |value: f64| if value.abs() < 100.0 { (value * 1e3).round() / 1e3 } else { value.round() };
        let figures = self.figures.iter().map(|figure| (figure.name.clone(), round(figure.median).into()));
        let object: serde_json::Map<String, serde_json::Value> = figures.collect();
        serde_json::Value::from(object).to_string()
    }
}

impl Report {
    /// All tables in Markdown.
    pub fn markdown(&self) -> String {
        self.tables.iter().map(Table::markdown).collect::<Vec<_>>().join("\n")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, table) in self.tables.iter().enumerate() {
            if position > 0 {
                writeln!(f)?;
            }
            write!(f, "{table}")?;
        }
        Ok(())
    }
}

/// Rows under a title. The first column is aligned left, the others right.
#[derive(Clone, Debug, Default)]
pub struct Table {
    title: String,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table.
    pub fn new<H: ToString>(title: impl Into<String>, columns: impl IntoIterator<Item = H>) -> Self {
        Self { title: title.into(), rows: vec![columns.into_iter().map(|name| name.to_string()).collect()] }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }
}

impl Table {
    /// The title as a heading, and the rows as a table; a note is a paragraph.
    fn markdown(&self) -> String {
        let Some((head, rows)) = self.rows.split_first() else { return format!("{}\n", self.title) };
        let line = |cells: &[String]| {
            let cells = (0..head.len()).map(|at| cells.get(at).map_or(String::new(), |cell| cell.replace('|', "\\|")));
            format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "))
        };
        let rule: String = head.iter().enumerate().map(|(at, _)| if at == 0 { "| --- " } else { "| ---: " }).collect();
        let rows: String = rows.iter().map(|row| line(row)).collect();
        format!("### {}\n\n{}{rule}|\n{rows}", self.title, line(head))
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.title)?;
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| self.rows.iter().filter_map(|row| Some(row.get(column)?.chars().count())).max();
        let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
        for row in &self.rows {
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                match column {
                    0 => write!(f, "  {cell:<width$}")?,
                    _ => write!(f, "  {cell:>width$}")?,
                }
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// A number for a table: three digits that count, thousands and millions with their letter.
pub fn short(value: f64) -> String {
    let (value, letter) = match value.abs() {
        v if v >= 999_500.0 => (value / 1e6, " M"),
        v if v >= 9_995.0 => (value / 1e3, " k"),
        _ => (value, ""),
    };
    let digits = match value.abs() {
        v if v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.digits$}{letter}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let texts = [0.5, 12.34, 123.4, 5_000.0, 12_345.0, 999_600.0, 2_345_678.0].map(short);
        assert_eq!(texts, ["0.50", "12.3", "123", "5000", "12.3 k", "1.00 M", "2.35 M"]);
    }

    #[test]
    fn tables_are_written_in_markdown() {
        let mut report = Report::default();
        let mut table = Table::new("Speed", ["what", "of"]);
        table.row(["a|b".to_owned(), "1".to_owned()]);
        table.row(["short".to_owned()]);
        report.table(table);
        report.note("As it is.");
        let expected = "### Speed\n\n| what | of |\n| --- | ---: |\n| a\\|b | 1 |\n| short |  |\n\nAs it is.\n";
        assert_eq!(report.markdown(), expected);
    }

    #[test]
    fn the_json_is_one_flat_object() {
        let mut report = Report::default();
        report.figure("b_per_s", &[1.0, 1234.6, 2000.0]);
        report.figure("a_us", &[1.23456]);
        assert_eq!(report.json(), r#"{"a_us":1.235,"b_per_s":1235.0}"#);
    }

    #[test]
    fn figures_beyond_their_bounds_are_told() {
        let mut suite = Report::default();
        suite.figure("slow_s", &[3.0, 2.5, 0.1]);
        suite.figure("fast_s", &[2.0]);
        suite.figure("share", &[0.99]);
        suite.figure("no_runs_s", &[]);
        suite.figure("no_number_s", &[f64::NAN]);
        for name in ["slow_s", "fast_s", "not_measured_s", "no_runs_s", "no_number_s"] {
            suite.bound(name, Bound::AtMost(2.0));
        }
        suite.bound("share", Bound::AtLeast(1.0));
        suite.bound("share", None);
        let mut report = Report::default();
        report.append(suite);
        let told = [
            "slow_s is 2.500, and should be at most 2",
            "not_measured_s was not measured",
            "no_runs_s was not measured",
            "no_number_s is NaN, and should be at most 2",
            "share is 0.990, and should be at least 1",
        ];
        assert_eq!(report.beyond(), told);
    }

    #[test]
    fn what_must_never_happen_is_looked_for_in_every_run() {
        let mut report = Report::default();
        report.figure("false_downs", &[0.0, 0.0, 3.0]);
        report.figure("delivered", &[1.0, 0.9, 1.0]);
        report.bound("false_downs", Bound::AtMost(0.0));
        report.bound("delivered", Bound::AtLeast(1.0));
        assert_eq!(report.beyond(), [""; 0]);
        report.bound("false_downs", Bound::NeverOver(0.0));
        report.bound("delivered", Bound::NeverUnder(1.0));
        let told = [
            "false_downs is 3.000, and should be in every run at most 0",
            "delivered is 0.900, and should be in every run at least 1",
        ];
        assert_eq!(report.beyond(), told);
    }

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new("title", ["name", "n"]);
        table.row(["a".to_owned(), "100".to_owned()]);
        assert_eq!(table.to_string(), "title\n  name    n\n  a     100\n");
    }
}
