//! How things happen: what an event does to the nodes, and what they leave for later.

use std::task::{Context, Waker};
use std::time::Duration;

use mesh_core::{Bytes, Instant, NodeId, PeerStatus, WalError};

use super::link::Fate;
use super::machine::{HELD_MAX, Running};
use super::queue::What;
use super::trace::{Digest, Loss, TraceEvent};
use super::{Flight, NOTICE_MAX, Sim};

impl<H: 'static> Sim<H> {
    pub(super) fn start(&mut self, at: usize) {
        let seed = self.machine_rng.next_u64();
        let machine = &mut self.machines[at];
        let node = machine.id;
        machine.failure = None;
        if self.config.process_clocks {
            machine.clock.begin(self.now);
        }
        match machine.boot(seed, self.config.log.clone(), self.config.frame_len_max) {
            Ok(()) => {
                self.trace.add(self.now, TraceEvent::Started { node, incarnation: machine.incarnation });
                if let Some(running) = &mut machine.running {
                    running.core.start();
                }
                self.settle(at);
                self.tell_others(at, PeerStatus::Connected);
            }
            Err(error) => {
                machine.failure = Some(error);
                self.trace.add(self.now, TraceEvent::Refused { node });
            }
        }
    }

    pub(super) fn went_down(&mut self, at: usize) {
        self.machines[at].paused = false;
        for what in std::mem::take(&mut self.machines[at].held) {
            if let What::Frame(slot) = what {
                self.flights.take(slot);
            }
        }
        self.tell_others(at, PeerStatus::Disconnected);
    }

    /// The node stops because its log failed.
    fn fail(&mut self, at: usize, error: WalError) {
        let machine = &mut self.machines[at];
        machine.running = None;
        machine.failure = Some(error.into());
        self.trace.add(self.now, TraceEvent::DiskFailed { node: machine.id });
        self.went_down(at);
    }

    fn tell_others(&mut self, at: usize, status: PeerStatus) {
        if !self.config.peer_notices {
            return;
        }
        for other in (0..self.machines.len()).filter(|other| *other != at) {
            if self.machines[other].running.is_none() {
                continue;
            }
            let mut tell = |node: usize, peer: usize| {
                let delay = self.network_rng.duration_between(Duration::ZERO, NOTICE_MAX);
                self.queue.push(self.now + delay, What::Peer { node: node as u32, peer: peer as u32, status });
            };
            tell(other, at);
            if status == PeerStatus::Connected {
                tell(at, other);
            }
        }
    }

    pub(super) fn schedule_commands(&mut self) {
        if !self.woken.any() {
            return;
        }
        for node in self.woken.take() {
            if let Some(running) = &mut self.machines[node as usize].running
                && !std::mem::replace(&mut running.commands_scheduled, true)
            {
                self.queue.push(self.now, What::Commands(node));
            }
        }
    }

    pub(super) fn happen(&mut self, what: What) {
        match what {
            What::Frame(slot) => self.deliver(slot),
            What::Deadline(node) => self.fire_timers(node as usize),
            What::Commands(node) => {
                let at = node as usize;
                if self.is_able(at, what) {
                    self.trace.add(self.now, TraceEvent::Commands { node: self.machines[at].id });
                    self.with(at, |running, _, waker| {
                        running.commands_scheduled = false;
                        running.core.register(&Context::from_waker(waker));
                        running.core.handle_commands();
                    });
                }
            }
            What::Synced { node, incarnation } => {
                let at = node as usize;
                if self.machines[at].incarnation == incarnation && self.is_able(at, what) {
                    self.complete_write(at);
                }
            }
            What::Snapshot { node, incarnation } => {
                let at = node as usize;
                if self.machines[at].incarnation == incarnation && self.is_able(at, what) {
                    self.complete_snapshot(at);
                }
            }
            What::Peer { node, peer, status } => self.tell(node as usize, peer as usize, status, what),
            What::Writable { from, to } => {
                self.network.set_writable(from as usize, to as usize);
                self.tell(from as usize, to as usize, PeerStatus::Writable, what);
            }
            What::Action(slot) => {
                if let Some(action) = self.actions.take(slot) {
                    action(self);
                }
            }
        }
    }

    /// Whether a node is up and not paused; where it is paused, `what` waits for it.
    fn is_able(&mut self, at: usize, what: What) -> bool {
        let machine = &mut self.machines[at];
        if machine.running.is_some() && machine.paused {
            machine.held.push_back(what);
            return false;
        }
        machine.running.is_some()
    }

    /// Lets a node that is up handle something, and does what it asks for.
    fn with(&mut self, at: usize, handle: impl FnOnce(&mut Running, Instant, &Waker)) {
        let machine = &mut self.machines[at];
        let now = machine.clock.show(self.now);
        if let Some(running) = &mut machine.running {
            handle(running, now, &machine.waker);
            self.settle(at);
        }
    }

    fn deliver(&mut self, slot: u32) {
        let Some(flight) = self.flights.take(slot) else { return };
        let (from, to) = (flight.from as usize, flight.to as usize);
        let (sender, receiver) = (self.machines[from].id, &mut self.machines[to]);
        let why = if self.network.is_cut(from, to) {
            Loss::Cut
        } else if receiver.running.is_none() || receiver.held.len() >= HELD_MAX {
            Loss::Down
        } else if receiver.paused {
            let slot = self.flights.put(flight);
            return receiver.held.push_back(What::Frame(slot));
        } else {
            let Flight { frame, digest, .. } = flight;
            self.stats.frames_delivered += 1;
            let len = frame.len() as u32;
            self.trace.add(self.now, TraceEvent::Delivered { from: sender, to: receiver.id, len, digest });
            return self.with(to, |running, _, _| running.core.handle_frame(sender, frame));
        };
        let to = receiver.id;
        self.lose(sender, to, why);
    }

    fn lose(&mut self, from: NodeId, to: NodeId, why: Loss) {
        self.stats.frames_lost += 1;
        self.trace.add(self.now, TraceEvent::Lost { from, to, why });
    }

    fn fire_timers(&mut self, at: usize) {
        if !self.is_able(at, What::Deadline(at as u32)) {
            return;
        }
        let machine = &mut self.machines[at];
        let Some(running) = &mut machine.running else { return };
        if running.deadline_at.take_if(|scheduled| *scheduled <= self.now).is_none() && running.deadline_at.is_some() {
            return;
        }
        let shown = machine.clock.show(self.now);
        if running.core.deadline().is_none_or(|deadline| deadline > shown) {
            return self.schedule_deadline(at);
        }
        self.trace.add(self.now, TraceEvent::Timers { node: machine.id });
        self.with(at, |running, now, _| running.core.handle_deadline(now));
    }

    fn tell(&mut self, at: usize, peer: usize, status: PeerStatus, what: What) {
        if self.is_able(at, what) {
            let (node, peer) = (self.machines[at].id, self.machines[peer].id);
            self.trace.add(self.now, TraceEvent::Peer { node, peer, status });
            self.with(at, |running, _, _| running.core.handle_peer(peer, status));
        }
    }

    pub(super) fn complete_write(&mut self, at: usize) {
        let machine = &mut self.machines[at];
        let Some(running) = &mut machine.running else { return };
        match running.complete() {
            Ok(events) => {
                self.stats.syncs += 1;
                self.trace.add(self.now, TraceEvent::Synced { node: machine.id });
                self.with(at, |running, _, _| {
                    events.into_iter().for_each(|event| running.core.handle_wal(event));
                });
            }
            Err(error) => self.fail(at, error),
        }
    }

    fn complete_snapshot(&mut self, at: usize) {
        let machine = &mut self.machines[at];
        let Some(running) = &mut machine.running else { return };
        match running.complete_snapshot() {
            Ok(event) => {
                self.trace.add(self.now, TraceEvent::Snapshot { node: machine.id });
                self.with(at, |running, _, _| {
                    event.into_iter().for_each(|event| running.core.handle_wal(event));
                });
            }
            Err(error) => self.fail(at, error),
        }
    }

    /// Ends a batch of inputs of a node and does what it asks for.
    pub(super) fn settle(&mut self, at: usize) {
        let machine = &mut self.machines[at];
        let Some(running) = &mut machine.running else { return };
        running.core.flush(machine.clock.show(self.now));
        while let Some((to, frame)) =
            self.machines[at].running.as_mut().and_then(|running| running.core.poll_transmit())
        {
            match self.lies.get_mut(&(at as u32)) {
                None => self.send(at, to, frame),
                Some(lie) => lie(to, frame).into_iter().for_each(|frame| self.send(at, to, frame)),
            }
        }
        let machine = &mut self.machines[at];
        let Some(running) = &mut machine.running else { return };
        while let Some(request) = running.core.poll_wal() {
            running.ask(request);
        }
        if !running.commands_scheduled && running.core.has_commands() {
            running.commands_scheduled = true;
            self.queue.push(self.now, What::Commands(at as u32));
        }
        let (node, incarnation) = (at as u32, machine.incarnation);
        let begun = running.begin_write().and_then(|write| Ok((write, running.begin_snapshot()?)));
        let (write, snapshot) = match begun {
            Ok(begun) => begun,
            Err(error) => return self.fail(at, error),
        };
        let ends = [(write, What::Synced { node, incarnation }), (snapshot, What::Snapshot { node, incarnation })];
        for (bytes, what) in ends {
            if let Some(bytes) = bytes {
                let config = &machine.disk_config;
                let delay = config.sync.draw(&mut self.disk_rng) + config.transfer_time(bytes);
                self.queue.push(self.now + delay, what);
            }
        }
        self.schedule_deadline(at);
    }

    pub(super) fn schedule_deadline(&mut self, at: usize) {
        let machine = &mut self.machines[at];
        let Some(running) = &mut machine.running else { return };
        let Some(deadline) = running.core.deadline() else { return };
        let due = machine.clock.when(deadline).max(self.now);
        // A look that turns out to be too early does no harm; one that is too late would.
        if running.deadline_at.is_none_or(|scheduled| due < scheduled) {
            running.deadline_at = Some(due);
            self.queue.push(due, What::Deadline(at as u32));
        }
    }

    fn send(&mut self, from: usize, to: NodeId, frame: Bytes) {
        self.stats.frames_sent += 1;
        let sender = self.machines[from].id;
        let mut digest = Digest::new();
        digest.mix_bytes(&frame);
        let digest = digest.get();
        self.trace.sent(self.now, TraceEvent::Sent { from: sender, to, len: frame.len() as u32, digest }, &frame);
        let Some(receiver) = self.index.get(&to).copied() else { return self.lose(sender, to, Loss::Unknown) };
        let fate = self.network.send(from, receiver as usize, frame.len(), self.now, &mut self.network_rng);
        let flight = Flight { from: from as u32, to: receiver, frame, digest };
        match fate {
            Fate::Arrives { at, again } => {
                if let Some(again) = again {
                    self.stats.frames_duplicated += 1;
                    let copy = Flight { frame: flight.frame.clone(), ..flight };
                    let slot = self.flights.put(copy);
                    self.queue.push(again, What::Frame(slot));
                }
                let slot = self.flights.put(flight);
                self.queue.push(at, What::Frame(slot));
            }
            Fate::Lost => self.lose(sender, to, Loss::Chance),
            Fate::Cut => self.lose(sender, to, Loss::Cut),
            Fate::Congested { writable_at } => {
                self.lose(sender, to, Loss::Congested);
                if let Some(writable_at) = writable_at {
                    let (from, to, status) = (from as u32, receiver, PeerStatus::Congested);
                    self.queue.push(self.now, What::Peer { node: from, peer: to, status });
                    self.queue.push(writable_at, What::Writable { from, to });
                }
            }
        }
    }
}
