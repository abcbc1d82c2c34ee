//! Many small messages in the simulator: what its event loop costs.

use std::time::Duration;

use mesh_core::{Context, Never, NodeId, Protocol, ProtocolId, RequestId};
use mesh_transport_mem::Sim;

use crate::stopwatch::Stopwatch;

/// Messages on their way at any time from each node.
const TOKENS: u64 = 64;

/// Passes every message on to a node drawn at random.
struct Chatter {
    nodes: Vec<NodeId>,
}

impl Chatter {
    fn pass_on(&self, cx: &mut Context<'_, Self>, token: u64) {
        let at = cx.rng().below(self.nodes.len() as u64) as usize;
        cx.send(self.nodes[at], token + 1);
    }
}

impl Protocol for Chatter {
    type Message = u64;
    type Command = Never;
    type Reply = ();
    type Event = ();
    type Timer = ();
    type Record = Never;

    fn on_start(&mut self, cx: &mut Context<'_, Self>) {
        (0..TOKENS).for_each(|token| self.pass_on(cx, token << 32));
    }

    fn on_message(&mut self, cx: &mut Context<'_, Self>, _from: NodeId, token: u64) {
        self.pass_on(cx, token);
    }

    fn on_timer(&mut self, _cx: &mut Context<'_, Self>, _timer: ()) {}

    fn on_command(&mut self, _cx: &mut Context<'_, Self>, _request: RequestId, command: Never) {
        match command {}
    }
}

/// A simulation of nodes that chatter, over links with the default latency.
#[derive(Debug)]
pub struct ChatterSim(Sim);

impl ChatterSim {
    /// `count` nodes, each with 64 messages on their way.
    pub fn new(count: usize) -> Self {
        let ids: Vec<NodeId> = (1..=count as u128).map(NodeId).collect();
        let mut sim = Sim::new(1);
        for me in ids.clone() {
            let nodes: Vec<NodeId> = ids.iter().copied().filter(|id| *id != me).collect();
            sim.add_node(me, move |node| {
                node.host(ProtocolId(1), Chatter { nodes: nodes.clone() });
            });
        }
        Self(sim)
    }

    /// Lets time pass; how many messages were delivered in it.
    pub fn run_for(&mut self, time: Duration) -> u64 {
        let before = self.0.stats().frames_delivered;
        self.0.run_for(time);
        self.0.stats().frames_delivered - before
    }

    /// Messages a second of real time, over about `time` of it.
    pub fn rate(&mut self, time: Duration) -> f64 {
        let (watch, mut messages) = (Stopwatch::start(), 0);
        while watch.elapsed() < time {
            messages += self.run_for(Duration::from_millis(10));
        }
        messages as f64 / watch.elapsed().as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_messages_are_delivered_in_every_run() {
        let run = || ChatterSim::new(5).run_for(Duration::from_millis(50));
        assert!(run() > 1000);
        assert_eq!(run(), run());
    }
}
