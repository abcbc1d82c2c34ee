//! Two live members of one name, in two places.

use mesh_core::{Context, Never, NodeId, Outbox, Outgoing, Protocol, Recipients, RequestId, Rng64};
use mesh_gossip::membership::{Membership, Message};

/// Two members that each think to have the name alone. Half of the others find the one, half the other, until they are
/// told that only the first is left.
pub struct Twins {
    inner: [Membership; 2],
    outboxes: [Outbox<Membership>; 2],
    rng: Rng64,
    is_one: bool,
}

impl Twins {
    pub fn new(inner: [Membership; 2], seed: u64) -> Self {
        Self { inner, outboxes: Default::default(), rng: Rng64::from_seed(seed, "twins"), is_one: false }
    }

    fn step(
        &mut self,
        cx: &mut Context<'_, Self>,
        at: usize,
        work: impl FnOnce(&mut Membership, &mut Context<'_, Membership>),
    ) {
        let outbox = &mut self.outboxes[at];
        work(&mut self.inner[at], &mut Context::new(cx.me(), cx.now(), &mut self.rng, outbox));
        for Outgoing { to, message } in outbox.messages.drain(..) {
            match to {
                Recipients::One(to) => cx.send(to, message),
                Recipients::Many(to) => cx.broadcast(to, message),
            }
        }
        outbox.events.clear();
        outbox.replies.clear();
        if let Some(deadline) = outbox.timers.next_deadline() {
            cx.set_timer(at, deadline.since(cx.now()));
        }
    }
}

impl Protocol for Twins {
    type Message = Message;
    type Command = ();
    type Reply = ();
    type Event = ();
    type Timer = usize;
    type Record = Never;

    fn on_start(&mut self, cx: &mut Context<'_, Self>) {
        [0, 1].into_iter().for_each(|at| self.step(cx, at, Protocol::on_start));
    }

    fn on_message(&mut self, cx: &mut Context<'_, Self>, from: NodeId, message: Message) {
        let at = if self.is_one { 0 } else { (from.0 % 2) as usize };
        self.step(cx, at, |inner, cx| inner.on_message(cx, from, message));
    }

    fn on_timer(&mut self, cx: &mut Context<'_, Self>, at: usize) {
        while !(self.is_one && at == 1)
            && let Some(due) = self.outboxes[at].timers.pop_due(cx.now())
        {
            self.step(cx, at, |inner, cx| inner.on_timer(cx, due));
        }
    }

    fn on_command(&mut self, _cx: &mut Context<'_, Self>, _request: RequestId, (): ()) {
        self.is_one = true;
    }
}
