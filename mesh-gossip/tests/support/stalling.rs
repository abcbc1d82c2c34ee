//! A member whose packets are held back both ways, while its timers run, as in the Lifeguard paper.

use mesh_core::{Context, Never, NodeId, Outbox, Outgoing, Protocol, Recipients, RequestId, Rng64};
use mesh_gossip::membership::{Membership, Message};

/// A member in a shell that its packets may not get through. It is told with `true` to hold them back, and with
/// `false` to let them through.
pub struct Stalling {
    pub inner: Membership,
    outbox: Outbox<Membership>,
    rng: Rng64,
    holds: bool,
    held_in: Vec<(NodeId, Message)>,
    held_out: Vec<Outgoing<Message>>,
}

impl Stalling {
    pub fn new(inner: Membership, seed: u64) -> Self {
        let (rng, outbox) = (Rng64::from_seed(seed, "stalling"), Outbox::default());
        Self { inner, outbox, rng, holds: false, held_in: Vec::new(), held_out: Vec::new() }
    }

    fn step(&mut self, cx: &mut Context<'_, Self>, work: impl FnOnce(&mut Membership, &mut Context<'_, Membership>)) {
        work(&mut self.inner, &mut Context::new(cx.me(), cx.now(), &mut self.rng, &mut self.outbox));
        self.held_out.append(&mut self.outbox.messages);
        self.outbox.events.clear();
        self.outbox.replies.clear();
        if !self.holds {
            self.let_out(cx);
        }
        if let Some(deadline) = self.outbox.timers.next_deadline() {
            cx.set_timer((), deadline.since(cx.now()));
        }
    }

    fn let_out(&mut self, cx: &mut Context<'_, Self>) {
        for Outgoing { to, message } in self.held_out.drain(..) {
            match to {
                Recipients::One(to) => cx.send(to, message),
                Recipients::Many(to) => cx.broadcast(to, message),
            }
        }
    }
}

impl Protocol for Stalling {
    type Message = Message;
    type Command = bool;
    type Reply = ();
    type Event = ();
    type Timer = ();
    type Record = Never;

    fn on_start(&mut self, cx: &mut Context<'_, Self>) {
        self.step(cx, Protocol::on_start);
    }

    fn on_message(&mut self, cx: &mut Context<'_, Self>, from: NodeId, message: Message) {
        if self.holds {
            self.held_in.push((from, message));
        } else {
            self.step(cx, |inner, cx| inner.on_message(cx, from, message));
        }
    }

    fn on_timer(&mut self, cx: &mut Context<'_, Self>, (): ()) {
        while let Some(due) = self.outbox.timers.pop_due(cx.now()) {
            self.step(cx, |inner, cx| inner.on_timer(cx, due));
        }
    }

    fn on_command(&mut self, cx: &mut Context<'_, Self>, _request: RequestId, holds: bool) {
        self.holds = holds;
        if !holds {
            self.let_out(cx);
            for (from, message) in std::mem::take(&mut self.held_in) {
                self.step(cx, |inner, cx| inner.on_message(cx, from, message));
            }
        }
    }
}
