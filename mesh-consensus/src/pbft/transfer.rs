//! Fetching a checkpoint that a quorum has and this replica has not.
//!
//! The certificate names the digest of the manifest, the manifest the digests of the chunks: so whatever comes
//! is checked alone, and who sends something else is not asked again. All other replicas are asked, and those of the
//! epoch before, who have what this one begins with; each for another chunk at a time; what is not answered until the next tick is asked of somebody else. Ordering goes
//! on meanwhile, only execution waits.

use std::collections::{BTreeMap, BTreeSet};

use mesh_core::{Bytes, Context, NodeId, StateMachine};

use super::Pbft;
use super::command::PbftEvent;
use super::message::{Certificate, Chunk, FetchState, Manifest, Message};
use super::replicas::{Digest, ReplicaIndex};
use super::status::Peer;

/// A checkpoint on its way here.
#[derive(Clone, Debug)]
pub(super) struct Transfer {
    certificate: Certificate,
    manifest: Option<Manifest>,
    /// Those of the manifest; before it is there, those of the checkpoint that was fetched before.
    chunks: Vec<Option<Bytes>>,
    /// The next chunk to ask for; they are asked for in turn, until all are there.
    next: usize,
    /// Those that sent what is not of the checkpoint.
    liars: BTreeSet<NodeId>,
}

impl Transfer {
    /// The next chunk that is missing.
    fn next_missing(&mut self) -> Option<u32> {
        let len = self.chunks.len();
        let missing = |at: &usize| self.chunks.get(*at).is_some_and(Option::is_none);
        let at = (0..len).map(|step| (self.next + step) % len).find(missing)?;
        self.next = at + 1;
        u32::try_from(at).ok()
    }
}

impl<S: StateMachine> Pbft<S> {
    /// Fetches the latest checkpoint that a quorum has.
    pub(super) fn begin_transfer(&mut self, cx: &mut Context<'_, Self>) {
        let Some(certificate) = self.checkpoints.certified.clone().filter(|_| self.is_member()) else { return };
        let newer = self.repair.as_ref().is_none_or(|repair| repair.certificate.sequence < certificate.sequence);
        if newer {
            let before = self.repair.take();
            let (liars, had) = before.map(|before| (before.liars, before.chunks)).unwrap_or_default();
            self.repair = Some(Transfer { certificate, manifest: None, chunks: had, next: 0, liars });
        }
        self.drive_transfer(cx);
    }

    /// Asks all sources for something that is missing. They may have lost the checkpoint meanwhile: then there
    /// is a later one.
    pub(super) fn drive_transfer(&mut self, cx: &mut Context<'_, Self>) {
        let Some(repair) = &mut self.repair else { return };
        let replicas = self.auth.replicas();
        let former = replicas.former().iter().map(|(node, _)| *node).filter(|node| replicas.index_of(*node).is_none());
        let all: Vec<NodeId> = self.others.iter().copied().chain(former).filter(|node| *node != cx.me()).collect();
        if all.iter().all(|node| repair.liars.contains(node)) || repair.liars.len() > replicas.faults() {
            repair.liars.clear();
        }
        let sources: Vec<_> = all.into_iter().filter(|node| !repair.liars.contains(node)).collect();
        for source in sources {
            self.ask_source(cx, source);
        }
    }

    fn ask_source(&mut self, cx: &mut Context<'_, Self>, source: NodeId) {
        let Some(repair) = &mut self.repair else { return };
        let chunk = match repair.manifest {
            None => None,
            Some(_) => match repair.next_missing() {
                Some(chunk) => Some(chunk),
                None => return,
            },
        };
        let fetch = FetchState { digest: repair.certificate.digest, chunk };
        cx.send_volatile(source, self.say(Message::FetchState(fetch)));
    }

    pub(super) fn on_fetch_state(&mut self, cx: &mut Context<'_, Self>, from: ReplicaIndex, fetch: FetchState) {
        let Some(taken) = self.checkpoints.with_digest(fetch.digest).filter(|taken| taken.durable) else { return };
        let Some(node) = self.auth.replicas().node(from) else { return };
        if !self.peers.get_mut(from).is_some_and(Peer::may_be_served) {
            return;
        }
        let answer = match fetch.chunk {
            None => Message::Manifest(taken.manifest.clone()),
            Some(index) => {
                let len = self.config.snapshot_chunk_bytes;
                let start = (index as usize).saturating_mul(len).min(taken.bytes.len());
                let end = start.saturating_add(len).min(taken.bytes.len());
                Message::Chunk(Chunk { digest: fetch.digest, index, bytes: taken.bytes.slice(start..end) })
            }
        };
        cx.send_volatile(node, self.say(answer));
    }

    pub(super) fn on_manifest(&mut self, cx: &mut Context<'_, Self>, manifest: Manifest) {
        let chunk_len = self.config.snapshot_chunk_bytes as u64;
        let len_max = self.config.snapshot_len_max;
        let Some(repair) = self.repair.as_mut().filter(|repair| repair.manifest.is_none()) else { return };
        let whole = manifest.chunks.len() as u64 == manifest.len.div_ceil(chunk_len) && manifest.len <= len_max;
        if manifest.digest() != repair.certificate.digest || !whole {
            // It may be that of a checkpoint asked for before.
            return;
        }
        // Much of a later checkpoint may be as in the one that was being fetched.
        let had: BTreeMap<Digest, Bytes> =
            repair.chunks.drain(..).flatten().map(|bytes| (Digest::of(&bytes), bytes)).collect();
        repair.chunks = manifest.chunks.iter().map(|digest| had.get(digest).cloned()).collect();
        repair.manifest = Some(manifest);
        self.drive_transfer(cx);
        self.install_if_whole(cx);
    }

    pub(super) fn on_chunk(&mut self, cx: &mut Context<'_, Self>, from: NodeId, chunk: Chunk) {
        let Some(repair) = &mut self.repair else { return };
        let Some(manifest) = &repair.manifest else { return };
        let index = chunk.index as usize;
        if chunk.digest != repair.certificate.digest || repair.chunks.get(index).is_none_or(Option::is_some) {
            return;
        }
        if manifest.chunks.get(index) != Some(&Digest::of(&chunk.bytes)) {
            repair.liars.insert(from);
            return self.misbehaved(cx, from, "a piece that is not of the checkpoint");
        }
        if let Some(place) = repair.chunks.get_mut(index) {
            *place = Some(chunk.bytes);
        }
        self.ask_source(cx, from);
        self.install_if_whole(cx);
    }

    /// Takes the state that was fetched, once it is whole, in place of the own one.
    fn install_if_whole(&mut self, cx: &mut Context<'_, Self>) {
        let is_whole = |repair: &mut Transfer| repair.manifest.is_some() && repair.chunks.iter().all(Option::is_some);
        let Some(repair) = self.repair.take_if(is_whole) else { return };
        let sequence = repair.certificate.sequence;
        let pieces: Vec<Bytes> = repair.chunks.into_iter().flatten().collect();
        let bytes = Bytes::from(pieces.concat());
        if let Err(error) = self.replicated.restore(&bytes) {
            return cx.emit(PbftEvent::StateRefused { sequence, reason: error.to_string() });
        }
        self.executed = sequence;
        self.save_checkpoint(cx, sequence, bytes);
        self.pool_catches_up(cx);
        cx.emit(PbftEvent::StateTransferred { sequence });
        self.touched.extend(self.slots.keys().copied());
    }

    /// Answers what was executed elsewhere meanwhile, and waits for it no more.
    fn pool_catches_up(&mut self, cx: &mut Context<'_, Self>) {
        let done: Vec<_> = self
            .pool
            .requests()
            .filter_map(|request| Some((request.clone(), self.replicated.look_up(request)?)))
            .collect();
        for (request, outcome) in done {
            self.pool.remove(&request.key());
            self.answer(cx, &request, outcome);
        }
    }
}
