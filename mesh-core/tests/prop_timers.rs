//! Timers against a plain map of deadlines.

use std::collections::BTreeMap;
use std::time::Duration;

use mesh_core::{Instant, Timers};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Set(u8, u64),
    Cancel(u8),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..5u8, 0..20u64).prop_map(|(timer, after)| Step::Set(timer, after)),
        (0..5u8).prop_map(Step::Cancel),
        (0..15u64).prop_map(Step::Pass),
    ]
}

proptest! {
    #[test]
    fn each_timer_fires_once_at_its_last_deadline_and_nothing_else_does(
        steps in prop::collection::vec(step(), 0..300),
    ) {
        let (mut timers, mut model, mut now) = (Timers::default(), BTreeMap::new(), Instant::ZERO);
        for step in steps {
            match step {
                Step::Set(timer, after) => {
                    let deadline = now + Duration::from_nanos(after);
                    timers.set(timer, deadline);
                    model.insert(timer, deadline);
                }
                Step::Cancel(timer) => {
                    timers.cancel(timer);
                    model.remove(&timer);
                }
                Step::Pass(time) => {
                    now += Duration::from_nanos(time);
                    while let Some((due, first)) = model.iter().map(|(timer, due)| (*due, *timer)).min()
                        && due <= now
                    {
                        prop_assert_eq!(timers.pop_due(now), Some(first));
                        model.remove(&first);
                    }
                    prop_assert_eq!(timers.pop_due(now), None);
                    prop_assert!(timers.next_deadline().is_none_or(|next| next > now), "it would wake for ever");
                }
            }
            prop_assert_eq!(timers.iter().collect::<BTreeMap<_, _>>(), model.clone());
            let earliest = model.values().min().copied();
            prop_assert_eq!(timers.next_deadline().is_some(), earliest.is_some());
            prop_assert!(timers.next_deadline() <= earliest);
        }
    }
}
