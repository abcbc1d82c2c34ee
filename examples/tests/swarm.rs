//! The swarm as its user runs it.

mod support;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use mesh_core::identity::SecretKey;
use support::{example, output, refusal};

#[test]
fn a_small_tree_survives_the_death_of_the_leader() {
    let input = tempfile::tempdir().unwrap();
    fs::create_dir(input.path().join("below")).unwrap();
    for n in 0..40 {
        fs::write(input.path().join(format!("below/{n}.txt")), vec![n; usize::from(n) * 100]).unwrap();
    }
    let keep = tempfile::tempdir().unwrap();
    let (input, keep) = (input.path().to_str().unwrap(), keep.path().to_str().unwrap());
    let run = output("swarm", &["--nodes", "3", "--input", input, "--keep", keep, "--seed", "5", "--json"]);
    assert!(run.status.success(), "{run:?}");
    let report: serde_json::Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!(report["ok"], true, "{report}");
    assert_eq!(
        (&report["records"], &report["acknowledged"], &report["verified"]),
        (&40.into(), &40.into(), &40.into())
    );
    assert_eq!((&report["leaders_killed"], &report["seed"]), (&1.into(), &5.into()));
    assert!(report["term"].as_u64() >= Some(2), "{report}");
    assert_eq!(report["digests"].as_array().map(Vec::len), Some(3));
    assert!(fs::exists(format!("{keep}/node-3/key")).unwrap());

    let again = refusal("swarm", &["--input", input, "--keep", keep]);
    assert!(again.contains("is not empty: give --keep a new directory"), "{again}");
}

#[test]
fn one_node_alone_is_a_swarm_too() {
    let input = tempfile::tempdir().unwrap();
    fs::write(input.path().join("only"), "one").unwrap();
    let run = output("swarm", &["--nodes", "1", "--input", input.path().to_str().unwrap(), "--no-chaos"]);
    let said = String::from_utf8(run.stdout.clone()).unwrap();
    assert!(run.status.success() && said.ends_with("all is well\n"), "{run:?}");
}

#[cfg(unix)]
#[test]
fn files_with_odd_names_are_replicated_too() {
    use std::os::unix::ffi::OsStrExt as _;
    let input = tempfile::tempdir().unwrap();
    let names = [&b"a name"[..], b"two\nlines", "\u{e4}\u{4e2d}".as_bytes(), b"\xff", b"\xfe", br"\xfe", br"\", br"\\"];
    for name in names {
        fs::write(input.path().join(std::ffi::OsStr::from_bytes(name)), name).unwrap();
    }
    fs::write(input.path().join("empty"), "").unwrap();
    std::os::unix::fs::symlink(".", input.path().join("circle")).unwrap();
    let run = output("swarm", &["--nodes", "1", "--input", input.path().to_str().unwrap(), "--json"]);
    assert!(run.status.success(), "{run:?}");
    let report: serde_json::Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!(report["verified"], names.len() + 1, "{report}");
}

#[test]
fn a_node_ends_when_the_swarm_is_gone() {
    let data = tempfile::tempdir().unwrap();
    let id = SecretKey::load_or_create(data.path().join("key")).unwrap().node_id().to_string();
    let mut node = Command::new(example("swarm"))
        .args(["node", "--data", data.path().to_str().unwrap(), "--members", &id])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    BufReader::new(node.stdout.take().unwrap()).read_line(&mut said).unwrap();
    assert!(said.starts_with("127.0.0.1:") && node.try_wait().unwrap().is_none(), "{said}");
    // As the operating system closes it when the swarm is killed; waiting closes it first.
    assert_eq!(node.wait().unwrap().code(), Some(1));
}

#[test]
fn bad_arguments_are_refused_with_a_sentence() {
    let empty = tempfile::tempdir().unwrap();
    for (arguments, said) in [
        (&["--nodes", "0"][..], "0 is not in 1..=15"),
        (&["--nodes", "many"], "invalid digit"),
        (&["--colour"], "unexpected argument '--colour'"),
        (&["--seed", "-1"], "unexpected argument"),
        (&["--input", "/nowhere/at/all"], "cannot read /nowhere/at/all"),
        (&["--input", empty.path().to_str().unwrap()], "holds no files: give another directory to --input"),
    ] {
        let refusal = refusal("swarm", arguments);
        assert!(refusal.contains(said), "{arguments:?}: {refusal}");
    }
}
