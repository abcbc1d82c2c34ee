//! What the documents point to is there: files, headings, and the tests and commands that they name. Their programs are all
//! compiled.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use mesh_consensus::ballot::BallotConfig;
use mesh_gossip::aggregation::AggregationConfig;
use mesh_gossip::membership::MembershipConfig;
use mesh_gossip::metrics::MonitorConfig;
use mesh_gossip::store::StoreConfig;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn documents() -> Vec<PathBuf> {
    let pages = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let pages = pages.filter(|page| page.extension().is_some_and(|extension| extension == "md"));
    let own = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "BENCHMARKS.md"]
        .map(|page| root().join(page));
    pages.chain(own).collect()
}

/// The lines of a page that are no program.
fn prose(page: &str) -> impl Iterator<Item = &str> {
    let mut is_program = false;
    page.lines().filter(move |line| {
        let is_fence = line.starts_with("```");
        is_program ^= is_fence;
        !is_program && !is_fence
    })
}

/// The links of a page: what is written, and where it leads.
fn links(page: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    for line in prose(page) {
        let mut rest = line;
        while let Some((before, after)) = rest.split_once("](") {
            let Some((target, after)) = after.split_once(')') else { break };
            found.push((before.rsplit_once('[').map_or("", |(_, text)| text), target));
            rest = after;
        }
    }
    found
}

/// The names of the headings of a page, as links have them.
fn headings(page: &str) -> BTreeSet<String> {
    let titles = prose(page).filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let kept = |letter: &char| letter.is_alphanumeric() || ['-', '_', ' '].contains(letter);
    titles.map(|title| title.to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-")).collect()
}

/// What is wrong with a link, if anything.
fn problem(page: &Path, text: &str, target: &str) -> Option<String> {
    if target.starts_with("http") {
        return None;
    }
    let (path, heading) = target.split_once('#').unwrap_or((target, ""));
    let file = if path.is_empty() { page.to_owned() } else { page.with_file_name(path) };
    if !file.exists() {
        return Some(format!("{target} is not there"));
    }
    let is = |extension: &str| file.extension().is_some_and(|found| found == extension);
    if is("md") && !heading.is_empty() && !headings(&fs::read_to_string(&file).unwrap()).contains(heading) {
        return Some(format!("{target} has no such heading"));
    }
    // A name in quotes that leads to a program is that of a test in it.
    let name = text.strip_prefix('`')?.strip_suffix('`')?;
    let is_test = is("rs")
        && !name.is_empty()
        && name.chars().all(|letter| letter.is_ascii_lowercase() || "_0123456789".contains(letter));
    (is_test && !fs::read_to_string(&file).unwrap().contains(&format!("fn {name}(")))
        .then(|| format!("{target} has no test {name}"))
}

#[test]
fn all_links_and_tests_that_documents_name_are_there() {
    let (mut checked, mut problems) = (0, Vec::new());
    for page in documents() {
        let text = fs::read_to_string(&page).unwrap();
        for (written, target) in links(&text) {
            checked += 1;
            problems.extend(problem(&page, written, target).map(|problem| format!("{}: {problem}", page.display())));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert!(checked > 200, "only {checked} links were found");
}

#[test]
fn all_programs_in_documents_are_compiled_with_the_tests() {
    let compiled = fs::read_to_string(root().join("examples/src/lib.rs")).unwrap();
    for page in documents() {
        let name = page.strip_prefix(root()).unwrap().display().to_string();
        assert!(compiled.contains(&format!("\"{name}\"")), "{name} is not in the list of examples/src/lib.rs");
        let fences = fs::read_to_string(&page).unwrap();
        let unseen = fences.lines().find(|line| line.starts_with("```") && line.contains("ignore"));
        assert_eq!(unseen, None, "{name} has a program that nobody compiles");
    }
}

/// The directories of all crates, with that of the fuzz targets.
fn crates() -> Vec<PathBuf> {
    let entries = fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.join("Cargo.toml").exists()).collect()
}

/// What is wrong with `cargo ... option name`, if anything.
fn unknown(option: &str, name: &str) -> Option<String> {
    let places: &[&str] = match option {
        "--example" => &["", "examples"],
        "--bin" => &["src/bin"],
        "--test" => &["tests"],
        _ => {
            let manifest = format!("name = \"{name}\"");
            let is = |path: &PathBuf| fs::read_to_string(path.join("Cargo.toml")).unwrap().contains(&manifest);
            return (!crates().iter().any(is)).then(|| format!("there is no crate {name}"));
        }
    };
    let is = |path: &Path| path.join(format!("{name}.rs")).exists() || path.join(name).join("main.rs").exists();
    let found = crates().iter().any(|path| places.iter().any(|place| is(&path.join(place))));
    (!found).then(|| format!("there is nothing to be run by {option} {name}"))
}

#[test]
fn all_commands_that_documents_name_can_be_run() {
    let (mut checked, mut problems) = (0, Vec::new());
    for page in documents() {
        let text = fs::read_to_string(&page).unwrap();
        for command in text.lines().flat_map(|line| line.split("cargo ").skip(1)) {
            let command = command.split_once('`').map_or(command, |(command, _)| command);
            // What follows `--` is for the program.
            let words: Vec<_> = command.split_whitespace().take_while(|word| *word != "--").collect();
            for pair in words.windows(2).filter(|pair| ["-p", "--example", "--bin", "--test"].contains(&pair[0])) {
                checked += 1;
                problems.extend(unknown(pair[0], pair[1]).map(|problem| format!("{}: {problem}", page.display())));
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert!(checked > 40, "only {checked} names were looked at");
}

#[test]
fn the_defaults_of_gossip_are_what_the_seed_design_says() {
    let (store, ballot) = (StoreConfig::default(), BallotConfig::default());
    let (aggregation, monitor) = (AggregationConfig::default().interval, MonitorConfig::default().interval);
    let intervals = [store.interval, aggregation, ballot.interval, monitor];
    assert_eq!(intervals.map(|interval| interval.as_millis()), [3000, 2000, 2000, 3000]);
    assert_eq!((store.fan_out, MembershipConfig::default().gossip_fanout, ballot.fan_out), (3, 3, 4));
}
