//! Replicas that lie: functions from what a replica would send to what is sent instead.
//!
//! A liar runs the real replica inside, has its key, and may send anything to anybody. It keeps nothing on disk.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_consensus::pbft::{
    AuthMode, Authenticator, Batch, Claim, Digest, Envelope, Kind, Message, NewView, Pbft, PrePrepare, ReplicaSet,
    Request, Statement, ViewChange, Vote,
};
use mesh_core::identity::{Ed25519, PublicKey};
use mesh_core::protocol::Outgoing;
use mesh_core::{Context, Never, NodeId, Outbox, Protocol, RequestId, Rng64, SavedSnapshot};

use crate::group::{Boot, Journal, PBFT, key};

/// What a liar makes of a message: what it sends, and to whom.
pub type Lie = Arc<dyn Fn(&Forger, &mut Rng64, NodeId, Message) -> Vec<(NodeId, Message)> + Send + Sync>;

/// What a liar can make: anything that its key proves.
pub struct Forger {
    at: u8,
    mode: AuthMode,
    auth: Authenticator,
    pub replicas: ReplicaSet,
    /// What it sent before, to be sent again at the wrong time.
    pub sent: Vec<Message>,
}

pub struct Liar {
    inner: Pbft<Journal>,
    outbox: Outbox<Pbft<Journal>>,
    forger: Forger,
    lie: Lie,
}

fn authenticator(at: u8, replicas: ReplicaSet, mode: AuthMode) -> Option<Authenticator> {
    Authenticator::new(replicas, mode, Arc::new(key(at)), Arc::new(Ed25519::default()))
}

/// Boots replica `at` as a liar.
pub fn boot(at: u8, replicas: &ReplicaSet, mode: AuthMode, lie: Lie) -> Boot {
    let replicas = replicas.clone();
    Arc::new(move |node, inner| {
        // One that is added later forges nothing before it is.
        let auth = authenticator(at, replicas.clone(), mode).or_else(|| authenticator(1, replicas.clone(), mode));
        let forger = Forger { at, mode, auth: auth.unwrap(), replicas: replicas.clone(), sent: Vec::new() };
        node.host(PBFT, Liar { inner, outbox: Outbox::default(), forger, lie: lie.clone() });
    })
}

impl Forger {
    fn me(&self) -> NodeId {
        key(self.at).node_id()
    }

    /// The members changed: it forges for those who are there now, if it is one of them.
    fn follow(&mut self, replicas: &ReplicaSet) {
        self.replicas = replicas.clone();
        if let Some(auth) = authenticator(self.at, replicas.clone(), self.mode) {
            self.auth = auth;
        }
    }

    pub fn others(&self) -> Vec<NodeId> {
        self.replicas.members().iter().map(|(node, _)| *node).filter(|node| *node != self.me()).collect()
    }

    pub fn vote(&self, kind: Kind, view: u64, sequence: u64, digest: Digest) -> Vote {
        Vote { view, sequence, digest, proof: self.auth.prove(&self.auth.statement(kind, view, sequence, digest)) }
    }

    pub fn pre_prepare(&self, view: u64, sequence: u64, batch: Batch) -> Message {
        let proof = self.auth.prove(&self.auth.statement(Kind::PrePrepare, view, sequence, batch.digest()));
        Message::PrePrepare(PrePrepare { view, sequence, batch, proof })
    }

    pub fn view_change(&self, mut change: ViewChange) -> ViewChange {
        change.signature = self.auth.sign(&change.statement());
        change
    }

    pub fn new_view(&self, view: u64, view_changes: Vec<ViewChange>) -> Message {
        let statement: Statement = NewView::statement(self.auth.me(), view, &view_changes);
        Message::NewView(Arc::new(NewView { view, view_changes, signature: self.auth.sign(&statement) }))
    }
}

impl Liar {
    fn run(
        &mut self,
        cx: &mut Context<'_, Self>,
        handler: impl FnOnce(&mut Pbft<Journal>, &mut Context<'_, Pbft<Journal>>),
    ) {
        let (me, now) = (cx.me(), cx.now());
        handler(&mut self.inner, &mut Context::new(me, now, cx.rng(), &mut self.outbox));
        self.inner.on_flush(&mut Context::new(me, now, cx.rng(), &mut self.outbox));
        // Its disk is as fast as it is forgetful.
        while !self.outbox.log.is_empty() || !self.outbox.snapshots.is_empty() {
            self.outbox.log.clear();
            let upto = self.outbox.appended();
            self.outbox.set_durable(upto);
            let saved: Vec<_> = self.outbox.snapshots.drain(..).map(|(id, _)| id).collect();
            let mut inner = Context::new(me, now, cx.rng(), &mut self.outbox);
            self.inner.on_durable(&mut inner, upto);
            for id in saved {
                self.inner.on_snapshot_saved(&mut inner, id, Ok(SavedSnapshot::default()));
            }
            self.inner.on_flush(&mut inner);
        }
        self.outbox.events.clear();
        self.outbox.replies.clear();
        if self.inner.epoch() != self.forger.replicas.epoch() {
            self.forger.follow(self.inner.replicas());
        }
        let messages: Vec<Outgoing<Envelope>> = self.outbox.messages.drain(..).collect();
        for Outgoing { to, message: Envelope { epoch, message } } in messages {
            for to in to.as_slice() {
                for (to, message) in (self.lie)(&self.forger, cx.rng(), *to, message.clone()) {
                    cx.send(to, Envelope { epoch, message });
                }
            }
            if self.forger.sent.len() < 1_000 {
                self.forger.sent.push(message);
            }
        }
        match self.outbox.timers.next_deadline() {
            Some(due) => cx.set_timer((), due.since(now)),
            None => cx.cancel_timer(()),
        }
    }
}

impl Protocol for Liar {
    type Message = Envelope;
    type Command = ();
    type Reply = ();
    type Event = ();
    type Timer = ();
    type Record = Never;

    fn on_start(&mut self, cx: &mut Context<'_, Self>) {
        self.run(cx, |inner, cx| inner.on_start(cx));
    }

    fn on_message(&mut self, cx: &mut Context<'_, Self>, from: NodeId, message: Envelope) {
        self.run(cx, |inner, cx| inner.on_message(cx, from, message));
    }

    fn on_timer(&mut self, cx: &mut Context<'_, Self>, _timer: ()) {
        while let Some(timer) = self.outbox.timers.pop_due(cx.now()) {
            self.run(cx, |inner, cx| inner.on_timer(cx, timer));
        }
    }

    fn on_command(&mut self, cx: &mut Context<'_, Self>, request: RequestId, (): ()) {
        cx.reply(request, ());
    }
}

/// Tells the truth.
pub fn honest() -> Lie {
    Arc::new(|_, _, to, message| vec![(to, message)])
}

/// Says nothing.
pub fn silent() -> Lie {
    Arc::new(|_, _, _, _| Vec::new())
}

/// As primary tells every second replica of another batch, but for its accomplices, and votes for whatever each was
/// told.
pub fn equivocate(accomplices: impl IntoIterator<Item = u8>) -> Lie {
    let accomplices: Vec<u16> = accomplices.into_iter().map(|at| u16::from(at) - 1).collect();
    let is_misled = move |forger: &Forger, node: NodeId| {
        forger.replicas.index_of(node).is_some_and(|replica| replica.0 % 2 == 1 && !accomplices.contains(&replica.0))
    };
    Arc::new(move |forger, _, to, message| {
        let other = Batch::empty();
        let misled = is_misled(forger, to);
        let vote = |kind, vote: &Vote| forger.vote(kind, vote.view, vote.sequence, other.digest());
        match message {
            Message::PrePrepare(told) if misled => vec![(to, forger.pre_prepare(told.view, told.sequence, other))],
            Message::Prepare(told) if misled => vec![(to, Message::Prepare(vote(Kind::Prepare, &told)))],
            Message::Commit(told) if misled => vec![(to, Message::Commit(vote(Kind::Commit, &told)))],
            Message::PrePrepare(told) => {
                // The commits that it would only send later, and for both.
                let commit = |digest| Message::Commit(forger.vote(Kind::Commit, told.view, told.sequence, digest));
                let (ours, theirs) = (commit(told.batch.digest()), commit(other.digest()));
                let misled = forger.others().into_iter().filter(|node| is_misled(forger, *node));
                let theirs: Vec<_> = misled.map(|node| (node, theirs.clone())).collect();
                [vec![(to, ours), (to, Message::PrePrepare(told))], theirs].concat()
            }
            message => vec![(to, message)],
        }
    })
}

/// As primary tells one replica of nothing.
pub fn keep_in_the_dark(dark: NodeId) -> Lie {
    Arc::new(move |_, _, to, message| if to == dark { Vec::new() } else { vec![(to, message)] })
}

/// As primary orders nothing of one client.
pub fn censor(client: PublicKey) -> Lie {
    Arc::new(move |forger, _, to, message| match message {
        Message::PrePrepare(told) => {
            let left = told.batch.requests().iter().filter(|request| request.client != client).cloned().collect();
            vec![(to, forger.pre_prepare(told.view, told.sequence, Batch::new(left)))]
        }
        Message::Commit(_) | Message::Prepare(_) => Vec::new(),
        other => vec![(to, other)],
    })
}

/// Orders what no client asked for.
pub fn invent_requests() -> Lie {
    Arc::new(|forger, _, to, message| match message {
        Message::PrePrepare(told) => {
            let mut requests = told.batch.requests().to_vec();
            for request in &mut requests {
                request.client = key(200).public();
            }
            vec![(to, forger.pre_prepare(told.view, told.sequence, Batch::new(requests)))]
        }
        other => vec![(to, other)],
    })
}

/// Sends pieces of states that are not those asked for.
pub fn spoil_states() -> Lie {
    Arc::new(|_, _, to, message| match message {
        Message::Chunk(mut chunk) => {
            chunk.bytes = vec![7; chunk.bytes.len()].into();
            vec![(to, Message::Chunk(chunk))]
        }
        Message::Manifest(mut manifest) => {
            manifest.len = u64::MAX;
            vec![(to, Message::Manifest(manifest))]
        }
        other => vec![(to, other)],
    })
}

/// Answers reads from a state of its own.
pub fn answer_wrongly() -> Lie {
    Arc::new(|_, _, to, message| match message {
        Message::ReadAnswer(mut told) => {
            told.answer = mesh_core::wire::to_bytes(&vec![99u64]);
            vec![(to, Message::ReadAnswer(told))]
        }
        other => vec![(to, other)],
    })
}

/// Wants another primary at every turn.
pub fn impatient() -> Lie {
    Arc::new(|forger, rng, to, message| {
        let mut all = vec![(to, message.clone())];
        if let Message::Status(status) = message {
            let stable = mesh_consensus::pbft::Certificate::genesis();
            let view = if rng.chance(1, 4) { (1 << 62) - 1 } else { status.view + 1 + rng.below(3) };
            let (prepared, pre_prepared) = (Vec::new(), Vec::new());
            let signature = mesh_core::identity::Signature::from_bytes([0; 64]);
            let Some(replica) = forger.replicas.index_of(forger.me()) else { return all };
            let change = ViewChange { replica, view, stable, prepared, pre_prepared, signature };
            all.push((to, Message::ViewChange(Arc::new(forger.view_change(change)))));
        }
        all
    })
}

/// Does at random whatever may hurt: forgets, invents, takes back, repeats, contradicts itself.
pub fn chaotic() -> Lie {
    Arc::new(|forger, rng, to, message| {
        if !rng.chance(1, 3) {
            return vec![(to, message)];
        }
        match rng.below(4) {
            0 => return Vec::new(),
            1 => {
                let again = rng.choose(&forger.sent).cloned();
                return again.into_iter().chain([message]).map(|message| (to, message)).collect();
            }
            _ => {}
        }
        let number = |rng: &mut Rng64, number: u64| match rng.below(6) {
            0 => number + 1,
            1 => number.saturating_sub(1),
            2 => u64::MAX,
            3 => rng.next_u64(),
            _ => number,
        };
        let made = match message {
            Message::PrePrepare(told) => {
                let batch = match rng.below(3) {
                    0 => Batch::empty(),
                    1 => Batch::new(told.batch.requests().iter().skip(1).cloned().collect()),
                    _ => Batch::new(told.batch.requests().iter().chain(told.batch.requests()).cloned().collect()),
                };
                forger.pre_prepare(number(rng, told.view), number(rng, told.sequence), batch)
            }
            Message::Prepare(vote) | Message::Commit(vote) => {
                let digest = if rng.chance(1, 2) { vote.digest } else { Batch::empty().digest() };
                let (view, sequence) = (number(rng, vote.view), number(rng, vote.sequence));
                match rng.below(3) {
                    0 => Message::Prepare(forger.vote(Kind::Prepare, view, sequence, digest)),
                    1 => Message::Commit(forger.vote(Kind::Commit, view, sequence, digest)),
                    _ => Message::Commit(Vote { digest, ..vote }),
                }
            }
            Message::ViewChange(change) => Message::ViewChange(Arc::new(falsify(forger, rng, (*change).clone()))),
            Message::NewView(told) => {
                let mut changes = told.view_changes.clone();
                match rng.below(3) {
                    0 => drop(changes.pop()),
                    1 => changes.rotate_left(1),
                    _ => {
                        let mine = changes
                            .iter_mut()
                            .find(|change| forger.replicas.index_of(forger.me()) == Some(change.replica));
                        if let Some(mine) = mine {
                            *mine = falsify(forger, rng, mine.clone());
                        }
                    }
                }
                forger.new_view(told.view, changes)
            }
            Message::Status(mut status) => {
                status.executed = number(rng, status.executed);
                status.view = number(rng, status.view);
                status.stable = number(rng, status.stable);
                Message::Status(status)
            }
            Message::Stable(mut certificate) => {
                certificate.sequence = number(rng, certificate.sequence);
                Message::Stable(certificate)
            }
            Message::Checkpoint(mut vote) => {
                vote.digest = Digest::of(b"another state");
                Message::Checkpoint(vote)
            }
            Message::Chunk(mut chunk) => {
                chunk.bytes = vec![7; chunk.bytes.len()].into();
                Message::Chunk(chunk)
            }
            Message::Request(request) => Message::Request(Request { signature: None, ..request }),
            other => other,
        };
        vec![(to, made)]
    })
}

/// Sends again what it said before, in whatever epoch that was, as if it was of this one, to everybody.
pub fn replay() -> Lie {
    Arc::new(|forger, rng, to, message| {
        let mut all = vec![(to, message)];
        for to in forger.others() {
            all.extend(rng.choose(&forger.sent).map(|again| (to, again.clone())));
        }
        all
    })
}

/// A view change that forgets or invents, signed as it should be.
fn falsify(forger: &Forger, rng: &mut Rng64, mut change: ViewChange) -> ViewChange {
    let stable = change.stable.sequence;
    let invented = |rng: &mut Rng64, view: u64| {
        let mut claims = BTreeMap::new();
        for _ in 0..rng.below(6) {
            let sequence = stable + 1 + rng.below(16);
            claims.insert(sequence, Claim { sequence, digest: Batch::empty().digest(), view: rng.below(view.max(1)) });
        }
        claims.into_values().collect::<Vec<_>>()
    };
    match rng.below(4) {
        0 => change.prepared.clear(),
        1 => change.pre_prepared.clear(),
        2 => change.prepared = invented(rng, change.view),
        _ => {
            change.prepared = invented(rng, change.view);
            change.pre_prepared = change.prepared.clone();
        }
    }
    forger.view_change(change)
}
