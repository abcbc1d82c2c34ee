//! The router: the gate holds, nobody who left is chosen, and no more is sent than there is room for.

use std::collections::BTreeMap;

use mesh_core::NodeId;
use mesh_tasks::capability::{Capabilities, Requirements, Resources};
use mesh_tasks::capability_router::{CapabilityRouter, NoMatch, RouterConfig, Unrouted};
use proptest::collection::vec;
use proptest::prelude::{Strategy, any};
use proptest::{prop_assert, prop_assert_eq, prop_oneof, proptest};

const NAMES: [&str; 3] = ["a", "b", "c"];

/// What a node has, or a task asks for, in so few names that they meet.
type Named = Vec<(usize, u32)>;

#[derive(Clone, Debug)]
enum Step {
    /// A node joins, or has changed.
    Report {
        node: u128,
        had: Named,
        free: u64,
        room: u32,
    },
    Leave(u128),
    Route {
        required: Named,
        preferred: Named,
        needed: u64,
        key: u128,
    },
    /// One of the tasks that were sent is over.
    Settle(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let named = || vec((0..3_usize, 0..3_u32), 0..3);
    let report = (0..6_u128, named(), 0..4_u64, 0..4_u32);
    let route = (named(), named(), 0..3_u64, any::<u128>());
    let step = prop_oneof![
        3 => report.prop_map(|(node, had, free, room)| Step::Report { node, had, free, room }),
        1 => (0..6_u128).prop_map(Step::Leave),
        3 => route.prop_map(|(required, preferred, needed, key)| Step::Route { required, preferred, needed, key }),
        2 => any::<usize>().prop_map(Step::Settle),
    ];
    vec(step, 0..40)
}

fn capabilities(had: &Named) -> Capabilities {
    let node = Capabilities::new().with_resource("r", 3);
    had.iter().fold(node, |node, (name, version)| node.with(NAMES[*name], *version))
}

fn requirements(required: &Named, preferred: &Named, needed: u64) -> Requirements {
    let task = required.iter().fold(Requirements::new(), |task, (name, oldest)| task.requires(NAMES[*name], *oldest));
    let task = preferred.iter().fold(task, |task, (name, oldest)| task.prefers(NAMES[*name], *oldest));
    if needed == 0 { task } else { task.needs("r", needed) }
}

/// A node as the router should know it.
#[derive(Clone, Debug)]
struct Known {
    capabilities: Capabilities,
    free: u64,
    room: u32,
    sent: Vec<Requirements>,
}

impl Known {
    /// How well a task fits here, were the node idle; `None` where it must not run here at all.
    fn score(&self, task: &Requirements) -> Option<f64> {
        let idle = self.capabilities.resources();
        task.admits(&self.capabilities, idle).then(|| task.match_score(&self.capabilities, idle))
    }

    fn has_room_for(&self, task: &Requirements) -> bool {
        let needed = task.resources().get("r");
        let taken: u64 = self.sent.iter().map(|task| task.resources().get("r")).sum();
        self.sent.len() < self.room as usize && (needed == 0 || taken + needed <= self.free)
    }
}

fn router() -> CapabilityRouter {
    CapabilityRouter::new(RouterConfig::default()).unwrap()
}

fn report(router: &mut CapabilityRouter, node: u128, known: &Known) {
    let free = Resources::new().with("r", known.free);
    assert!(router.report(NodeId(node), &known.capabilities, &free, known.room));
}

proptest! {
    #![proptest_config(crate::cases())]

    #[test]
    fn tasks_go_to_the_best_that_are_there_and_pass_the_gate(steps in steps()) {
        let (mut router, mut nodes) = (router(), BTreeMap::<u128, Known>::new());
        for step in steps {
            match step {
                Step::Report { node, had, free, room } => {
                    let sent = nodes.remove(&node).map(|known| known.sent).unwrap_or_default();
                    let known = Known { capabilities: capabilities(&had), free, room, sent };
                    report(&mut router, node, &known);
                    nodes.insert(node, known);
                }
                Step::Leave(node) => {
                    router.forget(NodeId(node));
                    nodes.remove(&node);
                }
                Step::Route { required, preferred, needed, key } => {
                    let task = requirements(&required, &preferred, needed);
                    let matches: BTreeMap<u128, f64> =
                        nodes.iter().filter_map(|(node, known)| Some((*node, known.score(&task)?))).collect();
                    let fits = |(node, score): &(&u128, &f64)| **score > 0.7 && nodes[*node].has_room_for(&task);
                    let best = matches.iter().filter(fits).map(|(_, score)| *score).max_by(f64::total_cmp);
                    match (router.route(key, &task), best) {
                        (Ok(NodeId(to)), Some(best)) => {
                            prop_assert!(matches.get(&to).is_some_and(|score| fits(&(&to, score)) && *score >= best - 0.05));
                            nodes.get_mut(&to).unwrap().sent.push(task);
                        }
                        (Err(Unrouted::Wait(why)), None) => {
                            let expected = match matches.values().copied().max_by(f64::total_cmp) {
                                None => NoMatch::NotAdmitted,
                                Some(best) if best <= 0.7 => NoMatch::BelowThreshold { best },
                                Some(_) => NoMatch::Busy,
                            };
                            prop_assert_eq!(why, expected);
                        }
                        (routed, best) => prop_assert!(false, "{routed:?}, and the best is {best:?}"),
                    }
                }
                Step::Settle(which) => {
                    let count: usize = nodes.values().map(|known| known.sent.len()).sum();
                    let mut at = which.checked_rem(count).unwrap_or(0);
                    for (node, known) in &mut nodes {
                        if at < known.sent.len() {
                            router.settle(NodeId(*node), &known.sent.remove(at));
                            break;
                        }
                        at -= known.sent.len();
                    }
                }
            }
            // What is known is what those have who are there.
            prop_assert_eq!(router.len(), nodes.len());
            for name in NAMES {
                let is_had = nodes.values().any(|known| known.capabilities.version(name).is_some());
                prop_assert_eq!(router.is_known(name), is_had);
            }
            // Once nothing is under way, one that heard of them in another order decides the same.
            let (mut settled, mut fresh) = (router.clone(), self::router());
            for (node, known) in nodes.iter().rev() {
                known.sent.iter().for_each(|task| settled.settle(NodeId(*node), task));
                report(&mut fresh, *node, known);
            }
            for key in 0..12 {
                let task = requirements(&vec![(key % 3, 1); key % 2], &vec![(key % 3, 0)], key as u64 % 3);
                prop_assert_eq!(settled.route(key as u128, &task), fresh.route(key as u128, &task));
            }
        }
    }
}
