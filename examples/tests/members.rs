//! The `members` program: processes that are killed, paused and restarted.

mod support;

use support::{output, refusal};

#[test]
fn all_tables_agree_after_every_trouble() {
    let run = output("members", &[]);
    let said = String::from_utf8(run.stdout).unwrap();
    assert!(run.status.success(), "{said}\n{}", String::from_utf8_lossy(&run.stderr));
    let steps = [
        "started node 1, told nothing",
        "started node 5, told only 127.0.0.1:",
        ": all know each other, and may go on",
        "killing node 3 (SIGKILL)",
        ": the others know that node 3 is down, and go on",
        "restarting node 3",
        ": node 3 is back, and all agree",
        "pausing node 4 (SIGSTOP)",
        ": the others know that node 4 does not answer, and go on",
        "resuming node 4 (SIGCONT)",
        ": node 4 is back, and all agree",
        "pausing nodes 1 to 3: more than half",
        ": the others may only read",
        ": all are back, agree, and may go on",
        "ok: all tables agreed after every trouble",
    ];
    let mut rest = &said[..];
    for step in steps {
        let at = rest.find(step).unwrap_or_else(|| panic!("{step} is missing:\n{said}"));
        rest = &rest[at + step.len()..];
    }
}

#[test]
fn bad_arguments_are_refused_with_a_sentence() {
    for (arguments, said) in
        [(&["--nodes", "2"][..], "2 is not in 5..=15"), (&["--colour"], "unexpected argument '--colour'")]
    {
        let refusal = refusal("members", arguments);
        assert!(refusal.contains(said), "{arguments:?}: {refusal}");
    }
}
