//! Messages with one field changed, signed again by who sends them.

use std::sync::Arc;

use mesh_consensus::pbft::{Authenticator, Batch, Claim, Digest, Kind, Message, NewView, ViewChange, Vote};
use mesh_core::{Rng64, wire};

/// What a faulty replica sends in place of a message: one with a field changed, nothing, or it twice.
pub(super) fn mutate(rng: &mut Rng64, auth: &Authenticator, message: Message) -> Vec<Message> {
    match rng.below(8) {
        0 => return Vec::new(),
        1 => return vec![message.clone(), message],
        _ => {}
    }
    let mutant = match message {
        Message::PrePrepare(mut told) => {
            match rng.below(4) {
                0 => told.view = number(rng, told.view),
                1 => told.sequence = number(rng, told.sequence),
                2 => told.batch = Batch::empty(),
                _ => {
                    let mut requests = told.batch.requests().to_vec();
                    if rng.chance(1, 2) {
                        requests.reverse()
                    } else {
                        drop(requests.pop())
                    }
                    told.batch = Batch::new(requests);
                }
            }
            let said = auth.statement(Kind::PrePrepare, told.view, told.sequence, told.batch.digest());
            told.proof = auth.prove(&said);
            Message::PrePrepare(told)
        }
        Message::Prepare(vote) | Message::Commit(vote) => {
            let mut vote = Vote { ..vote };
            match rng.below(3) {
                0 => vote.view = number(rng, vote.view),
                1 => vote.sequence = number(rng, vote.sequence),
                _ => vote.digest = Batch::empty().digest(),
            }
            let is_prepare = rng.chance(1, 2);
            let kind = if is_prepare { Kind::Prepare } else { Kind::Commit };
            vote.proof = auth.prove(&auth.statement(kind, vote.view, vote.sequence, vote.digest));
            if is_prepare { Message::Prepare(vote) } else { Message::Commit(vote) }
        }
        Message::Checkpoint(mut vote) => {
            match rng.below(2) {
                0 => vote.sequence = number(rng, vote.sequence),
                _ => vote.digest = Digest::of(b"another state"),
            }
            vote.signature = auth.sign(&auth.statement(Kind::Checkpoint, 0, vote.sequence, vote.digest));
            Message::Checkpoint(vote)
        }
        Message::ViewChange(change) => {
            Message::ViewChange(Arc::new(mutate_view_change(rng, auth, Arc::unwrap_or_clone(change))))
        }
        Message::NewView(told) => {
            let NewView { mut view, view_changes: mut changes, .. } = Arc::unwrap_or_clone(told);
            match rng.below(4) {
                0 => view = number(rng, view),
                1 => drop(changes.pop()),
                2 => changes.extend(changes.first().cloned()),
                _ => {
                    let own = changes.iter_mut().find(|change| change.replica == auth.me());
                    if let Some(own) = own {
                        *own = mutate_view_change(rng, auth, own.clone());
                    }
                }
            }
            let signature = auth.sign(&NewView::statement(auth.me(), view, &changes));
            Message::NewView(Arc::new(NewView { view, view_changes: changes, signature }))
        }
        Message::Status(mut status) => {
            match rng.below(4) {
                0 => status.view = number(rng, status.view),
                1 => status.executed = number(rng, status.executed),
                2 => status.stable = number(rng, status.stable),
                _ => status.active = !status.active,
            }
            Message::Status(status)
        }
        // Its fields are nothing that it signs: any byte will do.
        other => {
            let mut bytes = wire::to_bytes(&other).to_vec();
            // Not the version or the kind: those would be refused at once.
            let at = 2 + rng.below(bytes.len().saturating_sub(2).max(1) as u64) as usize;
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << rng.below(8);
            }
            return wire::from_slice(&bytes).into_iter().collect();
        }
    };
    vec![mutant]
}

fn mutate_view_change(rng: &mut Rng64, auth: &Authenticator, mut change: ViewChange) -> ViewChange {
    let stable = change.stable.sequence;
    let claims = if rng.chance(1, 2) { &mut change.prepared } else { &mut change.pre_prepared };
    match rng.below(5) {
        0 => change.view = number(rng, change.view),
        1 => claims.clear(),
        2 => claims.reverse(),
        3 => {
            let sequence = claims.last().map_or(stable, |claim| claim.sequence) + 1;
            claims.push(Claim { sequence, digest: Batch::empty().digest(), view: rng.below(change.view.max(1)) });
        }
        _ => {
            let at = rng.below(claims.len().max(1) as u64) as usize;
            if let Some(claim) = claims.get_mut(at) {
                match rng.below(3) {
                    0 => claim.view = number(rng, claim.view),
                    1 => claim.sequence = number(rng, claim.sequence),
                    _ => claim.digest = Batch::empty().digest(),
                }
            }
        }
    }
    change.signature = auth.sign(&change.statement());
    change
}

/// A number near by, or far away.
fn number(rng: &mut Rng64, number: u64) -> u64 {
    match rng.below(6) {
        0 | 1 => number.wrapping_add(1),
        2 => number.saturating_sub(1),
        3 => u64::MAX,
        4 => rng.below(16),
        _ => rng.next_u64(),
    }
}
