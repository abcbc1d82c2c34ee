//! A node with many instances of a protocol that does next to nothing.

use std::time::Duration;

use mesh_core::{
    Bytes, Context, Handle, Instant, Never, NodeBuilder, NodeCore, NodeId, Protocol, ProtocolId, RequestId,
};

/// Whom the protocols send to.
pub const PEER: NodeId = NodeId(2);

const TICK: Duration = Duration::from_millis(100);

/// Sends what it is asked to, and a heartbeat at every tick.
#[derive(Debug, Default)]
pub struct Echo {
    received: u64,
}

impl Protocol for Echo {
    type Message = u64;
    type Command = u64;
    type Reply = ();
    type Event = ();
    type Timer = ();
    type Record = Never;

    fn on_start(&mut self, cx: &mut Context<'_, Self>) {
        cx.set_timer((), TICK);
    }

    fn on_command(&mut self, cx: &mut Context<'_, Self>, request: RequestId, number: u64) {
        cx.send(PEER, number);
        cx.reply(request, ());
    }

    fn on_message(&mut self, _cx: &mut Context<'_, Self>, _from: NodeId, number: u64) {
        self.received += number;
    }

    fn on_timer(&mut self, cx: &mut Context<'_, Self>, (): ()) {
        cx.send(PEER, 1);
        cx.set_timer((), TICK);
    }
}

/// A node that hosts many of them.
#[derive(Debug)]
pub struct Echoes {
    node: NodeCore,
    handles: Vec<Handle<Echo>>,
    next: usize,
    now: Instant,
}

impl Echoes {
    /// A node with `hosts` instances.
    pub fn new(hosts: usize) -> Self {
        let mut builder = NodeBuilder::new(NodeId(1)).seed(1);
        let handles = (0..hosts as u32).map(|id| builder.host(ProtocolId(id), Echo::default())).collect();
        let mut node = builder.build();
        node.start();
        node.flush(Instant::ZERO);
        Self { node, handles, next: 0, now: Instant::ZERO }
    }

    /// Gives the next host a command, as a shell would, and drops the frame that leaves.
    pub fn command_one(&mut self) {
        self.next = (self.next + 1) % self.handles.len();
        self.handles[self.next].cast(1).expect("the queue has room");
        assert!(self.node.has_commands());
        self.node.handle_commands();
        self.node.flush(self.now);
        while self.node.poll_transmit().is_some() {}
    }

    /// What a shell does around a wake-up that brings nothing.
    pub fn idle(&mut self) -> bool {
        self.node.flush(self.now);
        self.node.has_commands() || self.node.is_persisting() || self.node.deadline().is_none()
    }

    /// Fires the timers of all, and returns the frame that leaves.
    pub fn tick_all(&mut self) -> Bytes {
        self.now += TICK;
        self.node.handle_deadline(self.now);
        self.node.flush(self.now);
        let (_, frame) = self.node.poll_transmit().expect("every timer sends");
        assert!(self.node.poll_transmit().is_none(), "all share a frame");
        frame
    }

    /// Takes a frame.
    pub fn take(&mut self, from: NodeId, frame: &Bytes) {
        self.node.handle_frame(from, frame.clone());
        self.node.flush(self.now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_hosts_share_a_frame_and_take_it() {
        let (mut one, mut other) = (Echoes::new(1000), Echoes::new(1000));
        one.command_one();
        assert!(!one.idle());
        let frame = one.tick_all();
        other.take(PEER, &frame);
        let received = |id| other.node.protocol::<Echo>(ProtocolId(id)).map(|echo| echo.received);
        assert!((0..1000).all(|id| received(id) == Some(1)));
    }
}
