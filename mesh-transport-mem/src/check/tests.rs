use std::time::Duration;

use mesh_core::Rng64;
use proptest::prelude::*;

use super::*;

/// Registers by name that can also be compared and set.
struct Registers;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Input {
    Write(u8, u32),
    Read(u8),
    /// Key, expected, new; answers whether it was done.
    Cas(u8, u32, u32),
}

impl Model for Registers {
    type Key = u8;
    type State = u32;
    type Input = Input;
    type Output = u32;

    fn key(&self, input: &Input) -> u8 {
        match input {
            Input::Write(key, _) | Input::Read(key) | Input::Cas(key, ..) => *key,
        }
    }

    fn initial(&self, _: &u8) -> u32 {
        0
    }

    fn step(&self, state: &u32, input: &Input, output: Option<&u32>) -> Option<u32> {
        match *input {
            Input::Write(_, value) => Some(value),
            Input::Read(_) => output.is_none_or(|read| read == state).then_some(*state),
            Input::Cas(_, old, new) => {
                let done = *state == old;
                output.is_none_or(|told| *told == u32::from(done)).then_some(if done { new } else { *state })
            }
        }
    }

    fn is_read(&self, input: &Input) -> bool {
        matches!(input, Input::Read(_))
    }
}

type H = History<Input, u32>;

fn at(nanos: u64) -> Instant {
    Instant::ZERO + Duration::from_nanos(nanos)
}

/// A history from a script; calls have one-letter names.
fn history(script: &[Step]) -> H {
    let mut history = H::new();
    let mut ids = BTreeMap::new();
    for (time, step) in script.iter().enumerate() {
        let now = at(time as u64);
        match *step {
            Call(name, input) => drop(ids.insert(name, history.call(now, input))),
            Answer(name, output) => history.complete(ids[&name], now, output),
        }
    }
    history
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Call(char, Input),
    Answer(char, u32),
}
use Step::{Answer, Call};

#[test]
fn an_empty_history_is_linearizable() {
    check(&Registers, &H::new()).assert_linearizable();
}

#[test]
fn overlapping_calls_may_take_either_order() {
    for read in [0, 1] {
        let script = [Call('w', Input::Write(0, 1)), Call('r', Input::Read(0)), Answer('r', read), Answer('w', 0)];
        check(&Registers, &history(&script)).assert_linearizable();
    }
}

#[test]
fn a_stale_read_is_a_violation_and_is_named() {
    let script = [Call('w', Input::Write(0, 1)), Answer('w', 0), Call('r', Input::Read(0)), Answer('r', 0)];
    let history = history(&script);
    let Verdict::Violation(violation) = check(&Registers, &history) else { panic!("not found") };
    assert_eq!((violation.explained.as_slice(), violation.stuck.as_slice()), (&[CallId(0)][..], &[CallId(1)][..]));
    let report = violation.report(&history);
    assert!(report.contains("#1 Read(0) called at 0.000000002s, answered at 0.000000003s: 0"), "{report}");
}

#[test]
fn two_readers_must_agree_on_the_order_of_concurrent_writes() {
    let script = [
        Call('a', Input::Write(0, 1)),
        Call('b', Input::Write(0, 2)),
        Call('r', Input::Read(0)),
        Answer('r', 1),
        Call('s', Input::Read(0)),
        Answer('s', 2),
        Call('t', Input::Read(0)),
        Answer('t', 1),
        Answer('a', 0),
        Answer('b', 0),
    ];
    assert!(matches!(check(&Registers, &history(&script)), Verdict::Violation(_)));
    check(&Registers, &history(&script[..6])).assert_linearizable();
}

#[test]
fn an_unknown_write_may_appear_late_once_or_never() {
    let mut script =
        vec![Call('w', Input::Write(0, 1)), Call('r', Input::Read(0)), Answer('r', 0), Call('s', Input::Read(0))];
    let mut late = script.clone();
    late.push(Answer('s', 1));
    check(&Registers, &history(&late)).assert_linearizable();
    script.push(Answer('s', 0));
    check(&Registers, &history(&script)).assert_linearizable();
    late.extend([Call('t', Input::Read(0)), Answer('t', 0)]);
    assert!(matches!(check(&Registers, &history(&late)), Verdict::Violation(_)));
}

#[test]
fn an_unknown_write_cannot_appear_before_its_call() {
    let script = [Call('r', Input::Read(0)), Answer('r', 1), Call('w', Input::Write(0, 1))];
    assert!(matches!(check(&Registers, &history(&script)), Verdict::Violation(_)));
}

#[test]
fn a_withdrawn_write_cannot_appear() {
    let mut history = H::new();
    let write = history.call(at(0), Input::Write(0, 1));
    history.withdraw(write);
    let read = history.call(at(1), Input::Read(0));
    history.complete(read, at(2), 1);
    assert!(matches!(check(&Registers, &history), Verdict::Violation(_)));
}

#[test]
fn a_violation_on_an_easy_key_is_found_beside_a_hard_one() {
    let mut history = random_history(7, 1_000, 24, 1);
    let write = history.call(at(0), Input::Write(9, 1));
    history.complete(write, at(0), 0);
    let read = history.call(at(0), Input::Read(9));
    history.complete(read, at(0), 5);
    let verdict = check_within(&Registers, &history, &Limits { steps: 100_000 });
    assert!(matches!(verdict, Verdict::Violation(Violation { key: 9, .. })), "{verdict:?}");
}

#[test]
fn limits_end_in_undecided_never_in_a_wrong_verdict() {
    let history = random_history(3, 1_000, 10, 1);
    let verdict = check_within(&Registers, &history, &Limits { steps: 100 });
    assert_eq!(verdict, Verdict::Undecided { keys: vec![0] });
    let mut open = H::new();
    for value in 0..=OPEN_CALLS_MAX {
        open.call(at(0), Input::Write(0, value as u32));
    }
    assert_eq!(check(&Registers, &open), Verdict::Undecided { keys: vec![0] });
}

#[test]
fn long_histories_with_ten_clients_are_decided() {
    check(&Registers, &random_history(1, 10_000, 10, 1)).assert_linearizable();
}

#[test]
fn a_violation_at_the_end_of_a_long_history_is_found() {
    let mut history = random_history(1, 1_000, 10, 1);
    let read = history.call(at(0), Input::Read(0));
    history.complete(read, at(0), u32::MAX);
    assert!(matches!(check(&Registers, &history), Verdict::Violation(_)));
}

#[test]
fn many_keys_are_cheap() {
    check(&Registers, &random_history(2, 100_000, 20, 100)).assert_linearizable();
}

/// What clients of real registers could have seen: each call takes effect at once somewhere between
/// its start and its end, and one in a hundred is never answered.
fn random_history(seed: u64, calls: u32, clients: usize, keys: u64) -> H {
    let mut rng = Rng64::from_seed(seed, "history");
    let mut history = H::new();
    let mut registers = BTreeMap::new();
    let mut open: Vec<Option<(CallId, Input, Option<u32>)>> = vec![None; clients];
    let mut started = 0;
    while started < calls || open.iter().any(Option::is_some) {
        let client = rng.below(clients as u64) as usize;
        match &mut open[client] {
            None if started < calls => {
                started += 1;
                let key = rng.below(keys) as u8;
                let input = if rng.chance(1, 2) { Input::Write(key, started) } else { Input::Read(key) };
                open[client] = Some((history.call(at(0), input), input, None));
            }
            Some((_, input, output @ None)) => {
                let (Input::Write(key, _) | Input::Read(key) | Input::Cas(key, ..)) = *input;
                let register = registers.entry(key).or_insert(0);
                *output = Some(*register);
                if let Input::Write(_, value) = *input {
                    *register = value;
                }
            }
            Some((id, _, Some(output))) => {
                if !rng.chance(1, 100) {
                    history.complete(*id, at(0), *output);
                }
                open[client] = None;
            }
            None => {}
        }
    }
    history
}

/// Tries every order of every choice of calls, straight from the definition.
fn brute_force(history: &H) -> bool {
    fn place_of(history: &H, event: Event) -> usize {
        history.events.iter().position(|listed| *listed == event).unwrap_or(usize::MAX)
    }
    fn extend(history: &H, done: &mut Vec<usize>, states: &BTreeMap<u8, u32>) -> bool {
        let calls = history.calls();
        if (0..calls.len()).all(|id| done.contains(&id) || calls[id].output().is_none()) {
            return true;
        }
        (0..calls.len()).any(|id| {
            let start = place_of(history, Event::Call(id));
            let too_early =
                (0..calls.len()).any(|other| !done.contains(&other) && place_of(history, Event::Answer(other)) < start);
            if done.contains(&id) || too_early {
                return false;
            }
            let key = Registers.key(&calls[id].input);
            let state = states.get(&key).copied().unwrap_or(0);
            let Some(state) = Registers.step(&state, &calls[id].input, calls[id].output()) else { return false };
            let mut states = states.clone();
            states.insert(key, state);
            done.push(id);
            let found = extend(history, done, &states);
            done.pop();
            found
        })
    }
    extend(history, &mut Vec::new(), &BTreeMap::new())
}

/// Short histories with few values, so that many are just barely right or wrong.
fn short_histories() -> impl Strategy<Value = H> {
    let input = (0..3u8, 0..2u8, 1..3u32, 0..3u32).prop_map(|(kind, key, new, old)| match kind {
        0 => Input::Write(key, new),
        1 => Input::Read(key),
        _ => Input::Cas(key, old, new),
    });
    proptest::collection::vec((input, 0..3u32, 0..8usize, any::<bool>()), 1..7).prop_map(|calls| {
        let mut history = H::new();
        let mut open: Vec<(CallId, u32)> = Vec::new();
        for (input, output, which, end) in calls {
            let output = if matches!(input, Input::Cas(..)) { output % 2 } else { output };
            open.push((history.call(at(0), input), output));
            if end || open.len() > 3 {
                let (id, output) = open.remove(which % open.len());
                if which < 7 {
                    history.complete(id, at(0), output);
                }
            }
        }
        for (id, output) in open.into_iter().step_by(2) {
            history.complete(id, at(0), output);
        }
        history
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn agrees_with_the_definition(history in short_histories()) {
        let expected = brute_force(&history);
        let verdict = check(&Registers, &history);
        prop_assert_eq!(matches!(verdict, Verdict::Linearizable), expected, "{:?}", verdict);
        let undecided = matches!(verdict, Verdict::Undecided { .. });
        prop_assert!(!undecided);
    }
}
