//! The explorer on protocols so small that their worlds can be counted by hand.

use mesh_core::{Context, RecoverError, Recovery};

use super::*;

const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);

/// Sends what it is told to the other, which keeps the last it heard.
#[derive(Clone, Debug, Default, Hash)]
struct Last {
    /// Whether a number is written down when it is heard.
    keeps: bool,
    heard: u8,
}

impl Protocol for Last {
    type Message = u8;
    type Command = u8;
    type Reply = ();
    type Event = u8;
    type Timer = ();
    type Record = u8;

    fn on_recover(&mut self, _: &mut Recovery<'_>, heard: u8) -> Result<(), RecoverError> {
        self.heard = heard;
        Ok(())
    }

    fn on_message(&mut self, cx: &mut Context<'_, Self>, _: NodeId, number: u8) {
        assert_ne!(number, 9, "nobody sends nine");
        if number == self.heard {
            return;
        }
        self.heard = number;
        if self.keeps {
            cx.persist(number);
        }
        cx.emit(number);
    }

    fn on_timer(&mut self, _: &mut Context<'_, Self>, (): ()) {}

    fn on_command(&mut self, cx: &mut Context<'_, Self>, _: RequestId, number: u8) {
        cx.send(B, number);
    }
}

/// A sends these numbers; what B told must never go back where `rises`.
struct Numbers {
    numbers: &'static [u8],
    keeps: bool,
    rises: bool,
}

impl Model for Numbers {
    type Protocol = Last;
    type History = u8;

    fn protocol(&self, node: NodeId) -> Last {
        Last { keeps: self.keeps && node == B, heard: 0 }
    }

    fn command(&self, _: &Last, nth: u8) -> Option<u8> {
        self.numbers.get(usize::from(nth)).copied()
    }

    fn observe(&self, highest: &mut u8, seen: &Seen<'_, Last>) -> Result<(), String> {
        for number in seen.events {
            if self.rises && number < highest {
                return Err(format!("{number} comes after {highest}"));
            }
            *highest = if self.rises { *number } else { 0 };
        }
        // What was told must be known for ever.
        let forgets = self.keeps && seen.node == B && seen.now.heard == 0 && seen.before.heard != 0;
        if forgets && *highest > 0 { Err("it was told and is forgotten".to_owned()) } else { Ok(()) }
    }
}

fn scope() -> Scope {
    Scope { nodes: vec![A, B], commands: 2, ..Scope::default() }
}

#[test]
fn every_order_of_deliveries_is_visited_and_copies_too() {
    let model = Numbers { numbers: &[1, 2], keeps: false, rises: false };
    let report = explore(&model, &Scope { nodes: vec![A], ..scope() });
    assert!(report.complete, "{report}");
    // What B heard last: nothing before the first is sent, nothing or 1 after it, any after both. Each is
    // sent by A or by B.
    let report = explore(&model, &scope());
    assert_eq!((report.complete, report.worlds), (true, 1 + 2 * 2 + 4 * 3), "{report}");
}

#[test]
fn a_message_that_is_overtaken_is_found_in_the_fewest_steps() {
    let violation = explore(&Numbers { numbers: &[1, 2], keeps: false, rises: true }, &scope()).violation;
    let Violation { what, steps } = violation.expect("messages overtake each other");
    assert_eq!(what, "1 comes after 2");
    assert_eq!(steps.len(), 4, "{steps:?}");
    assert_eq!(steps[3], "n2 hears n1: 1");
}

#[test]
fn a_panic_is_a_broken_rule() {
    let violation = explore(&Numbers { numbers: &[9], keeps: false, rises: false }, &scope()).violation;
    assert!(violation.is_some_and(|violation| violation.what.contains("nobody sends nine")));
}

#[test]
fn what_waits_for_the_log_is_not_told_before_it_is_durable_whenever_it_crashes() {
    let scope = Scope { crashes: 2, late_writes: 2, ..scope() };
    let report = explore(&Numbers { numbers: &[3, 3], keeps: true, rises: true }, &scope);
    assert!(report.complete, "{report}");
    // A; and B, which has heard nothing, or 3, which is on disk, or is not, or was when it started again.
    assert_eq!(report.states, 5, "{report}");
}

#[test]
fn what_is_not_written_down_is_lost_in_a_crash() {
    /// Remembers by [`Last`], and says that it is written down.
    struct Forgetful(Numbers);

    impl Model for Forgetful {
        type Protocol = Last;
        type History = u8;

        fn protocol(&self, _: NodeId) -> Last {
            Last::default()
        }
        fn command(&self, protocol: &Last, nth: u8) -> Option<u8> {
            self.0.command(protocol, nth)
        }
        fn observe(&self, highest: &mut u8, seen: &Seen<'_, Last>) -> Result<(), String> {
            self.0.observe(highest, seen)
        }
    }

    let model = Forgetful(Numbers { numbers: &[3], keeps: true, rises: true });
    let violation = explore(&model, &Scope { crashes: 1, ..scope() }).violation.expect("a crash forgets");
    assert_eq!(violation.steps.last().map(String::as_str), Some("n2 crashes and starts again"));
    assert_eq!(violation.steps.len(), 3);
}

#[test]
fn a_disk_that_is_lost_takes_what_was_on_it() {
    let model = Numbers { numbers: &[3], keeps: true, rises: true };
    assert!(explore(&model, &Scope { crashes: 1, ..scope() }).complete);
    let violation = explore(&model, &Scope { wipes: 1, ..scope() }).violation.expect("a disk is lost");
    assert_eq!(violation.what, "it was told and is forgotten");
    assert_eq!(violation.steps.last().map(String::as_str), Some("n2 loses its disk, and starts with an empty one"));
}

#[test]
fn what_was_found_happens_again_step_by_step() {
    let model = Numbers { numbers: &[1, 2], keeps: false, rises: true };
    let violation = explore(&model, &scope()).violation.expect("messages overtake each other");
    assert_eq!(replay(&model, &scope(), &violation.steps), Ok(violation.clone()));
    let too_few = replay(&model, &scope(), &violation.steps[..3]);
    assert!(too_few.is_err_and(|error| error.contains("no rule is broken")));
    let out_of_order = replay(&model, &scope(), &violation.steps[1..]);
    assert!(out_of_order.is_err_and(|error| error.contains("cannot be taken")));
}

#[test]
fn where_nodes_are_alike_the_first_thing_happens_to_the_first() {
    let model = Numbers { numbers: &[1, 2], keeps: false, rises: false };
    let report = explore(&model, &Scope { alike: true, ..scope() });
    // Now the first number is sent by A.
    assert_eq!((report.complete, report.worlds), (true, 1 + 2 + 2 * 3), "{report}");
}

#[test]
fn worlds_max_ends_it() {
    let report =
        explore(&Numbers { numbers: &[1, 2], keeps: false, rises: false }, &Scope { worlds_max: 3, ..scope() });
    assert!(!report.complete && report.violation.is_none() && report.worlds <= 5, "{report}");
}
