//! What the tests of the example programs share.

#![allow(dead_code, reason = "not every test uses all of it")]

pub(crate) mod browser;
pub(crate) mod http;

use std::path::PathBuf;
use std::process::{Command, Output};

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
