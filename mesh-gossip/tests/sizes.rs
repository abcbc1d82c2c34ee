//! Which sizes and seeds tests run at, by what the environment says.

mod support_sizes;

use std::panic::catch_unwind;

use support_sizes::{ONE_SEED_EACH, chosen, nodes_of, seeds_of};

#[test]
fn a_test_runs_at_its_own_sizes_unless_others_are_asked_for() {
    let own = || ONE_SEED_EACH.to_vec();
    assert_eq!(chosen(own(), None, None), own());
    assert_eq!(chosen(own(), Some(vec![256, 1024]), None), [(256, 0..1), (1024, 0..1)]);
    assert_eq!(chosen(own(), Some(vec![1024]), Some(3..5)), [(1024, 3..5)]);
    assert_eq!(chosen(own(), None, Some(7..9)), [(5, 7..9), (16, 7..9), (128, 7..9)]);
}

#[test]
fn what_is_asked_for_is_numbers_of_nodes_and_a_range_of_seeds() {
    assert_eq!(nodes_of("1024"), [1024]);
    assert_eq!(nodes_of("256, 1024"), [256, 1024]);
    assert_eq!(seeds_of("3..4"), 3..4);
    for bad in ["", "many", "4", "0", "5,", "-5", "16;128"] {
        assert!(catch_unwind(|| nodes_of(bad)).is_err(), "NODES={bad:?} is refused");
    }
    for bad in ["", "3", "3..", "..3", "3..3", "4..3", "0..=3", "-1..3"] {
        assert!(catch_unwind(|| seeds_of(bad)).is_err(), "SEEDS={bad:?} is refused");
    }
}
