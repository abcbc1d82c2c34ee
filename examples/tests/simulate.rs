//! The `simulate` program: a run that is written down, and drawn.

mod support;

use std::fs;

use serde_json::Value;
use support::{output, refusal};

/// The names of elements that are open at the end of an XML text; `None` where one is closed that is not open, or where a
/// character stands for itself that must not.
fn open_elements(xml: &str) -> Option<Vec<&str>> {
    let mut open = Vec::new();
    let mut rest = xml;
    while let Some((text, after)) = rest.split_once('<') {
        let (tag, after) = after.split_once('>')?;
        let entities = text.split('&').skip(1);
        if text.contains('>') || !entities.into_iter().all(|entity| entity.contains(';')) {
            return None;
        }
        let name = tag.trim_start_matches('/').split([' ', '/', '\n']).next()?;
        if tag.matches('"').count() % 2 != 0 {
            return None;
        }
        if tag.starts_with('/') {
            (open.pop()? == name).then_some(())?;
        } else if !tag.ends_with('/') {
            open.push(name);
        }
        rest = after;
    }
    Some(open)
}

#[test]
fn a_run_is_written_as_lines_of_json_and_drawn() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("below");
    let traced = output("simulate", &["7", "--trace", dir.to_str().unwrap()]);
    assert!(traced.status.success(), "{traced:?}");
    let lines = fs::read_to_string(dir.join("trace.jsonl")).unwrap();
    let events: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let said = String::from_utf8(traced.stdout).unwrap();
    assert!(said.ends_with(&format!("{} events are written\n", events.len())), "{said}");
    assert!(lines.contains("the leader is cut off") && events.len() > 100);
    let times: Vec<_> = events.iter().map(|event| event["at_ns"].as_u64().expect("each has a time")).collect();
    assert!(times.is_sorted());

    let picture = fs::read_to_string(dir.join("trace.svg")).unwrap();
    assert!(picture.starts_with("<svg") && picture.contains("simulate, seed 7: the leader is cut off"));
    assert_eq!(open_elements(&picture), Some(vec![]));
    assert_eq!(open_elements(&picture.replacen("</", "</not-", 1)), None, "what is no XML is seen");

    // Written down or not, it is the same run.
    let untraced = String::from_utf8(output("simulate", &["7"]).stdout).unwrap();
    assert!(untraced.contains("healed: all have 12") && said.starts_with(&untraced), "{untraced}{said}");
}

#[test]
fn bad_arguments_are_refused_with_a_sentence() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let below = file.path().join("below");
    for (arguments, said) in [
        (&["many"][..], "invalid digit"),
        (&["--colour"], "unexpected argument '--colour'"),
        (&["--trace", file.path().to_str().unwrap()], "simulate: cannot write into"),
        (&["--trace", below.to_str().unwrap()], "simulate: cannot write into"),
    ] {
        let refusal = refusal("simulate", arguments);
        assert!(refusal.contains(said), "{arguments:?}: {refusal}");
    }
}
