//! What the tests of the example programs share.

#![allow(dead_code, reason = "not every test uses all of it")]

pub(crate) mod browser;
pub(crate) mod http;
pub(crate) mod server;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// The example beside these tests: `cargo test` builds both.
pub(crate) fn example(name: &str) -> PathBuf {
    let mut path = std::env::current_exe().expect("a test has a path");
    path.pop();
    path.pop();
    path.join("examples").join(name)
}

/// Runs an example to its end.
pub(crate) fn output(name: &str, arguments: &[&str]) -> Output {
    Command::new(example(name)).args(arguments).output().expect("examples are built with the tests")
}

/// Runs an example that must refuse its arguments with exit code 2; what it says.
pub(crate) fn refusal(name: &str, arguments: &[&str]) -> String {
    let output = output(name, arguments);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    String::from_utf8(output.stderr).expect("programs speak UTF-8")
}

/// Which processes have this path among their arguments.
#[cfg(target_os = "linux")]
pub(crate) fn pids_of(path: &Path) -> Vec<u32> {
    let name = path.to_str().expect("it is text").as_bytes();
    let all = std::fs::read_dir("/proc").expect("this is Linux").flatten();
    let works_on = |process: &std::fs::DirEntry| {
        let command = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        command.windows(name.len()).any(|window| window == name)
    };
    all.filter(works_on).filter_map(|process| process.file_name().to_str()?.parse().ok()).collect()
}

/// Waits until it is so; far longer than it needs, even on a busy machine.
pub(crate) fn wait_until(what: &str, wanted: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !wanted() {
        assert!(Instant::now() < deadline, "it did not come about that {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}
