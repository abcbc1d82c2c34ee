//! malachite: the core of its consensus, driven by hand by one thread, messages passed as structs.
//!
//! A batch is the value of a height, and rides in the proposal. Signatures are those of our own replicas, which are
//! checked sooner than with the crate that malachite brings. What it wants to be durable is answered with nothing,
//! no time passes, and there are no clients: a node that is to propose has a batch at once, and none is told. A node
//! goes on to the next height at once, and need not check the votes that come late.

mod types;

use std::collections::VecDeque;
use std::convert::Infallible;

use bytes::Bytes;
use malachite::{
    ConsensusMsg, Effect, Error, Input, LocallyProposedValue, Params, Resumable as _, Resume, SignedConsensusMsg,
    State, ValuePayload,
};
use malachite_types::{
    CertificateError, CommitCertificate, Context as _, Height as _, NilOrVal, SignedMessage, ThresholdParams,
    VoteExtensionPolicy,
};
use mesh_core::identity::{Ed25519, PublicKey, SecretKey, Signature, Verifier as _};

use self::types::{Address, Batch, Height, Said, Types, Validators};
use crate::ours::GroupRun;
use crate::stopwatch::Stopwatch;

/// Bytes of a request.
const PAYLOAD: usize = 64;

/// Inputs of later heights that wait, and how many of one.
const QUEUE: usize = 1_000;

/// What a node has around its core.
struct Host {
    key: SecretKey,
    verifier: Ed25519,
    validators: Validators,
    batch: usize,
    /// What the core takes next.
    inputs: VecDeque<Input<Types>>,
    /// What it sends to all.
    sent: Vec<SignedConsensusMsg<Types>>,
    /// The batch that was proposed last.
    proposed: Option<Batch>,
    batches: u64,
    requests: u64,
    signed: u64,
    verified: u64,
}

impl Host {
    fn sign(&mut self, said: &impl Said) -> Signature {
        self.signed += 1;
        self.key.sign(&said.bytes())
    }

    fn verify(&mut self, key: &PublicKey, said: &impl Said, signature: &Signature) -> bool {
        self.verified += 1;
        self.verifier.verify(key, &said.bytes(), signature).is_ok()
    }

    /// The start of a height, with the same validators for ever.
    fn start(&self, height: Height) -> Input<Types> {
        Input::StartHeight(height, self.validators.clone(), false, None, VoteExtensionPolicy::Disabled)
    }

    /// Checks each signature of a certificate, as the verifier that malachite brings does.
    fn check(
        &mut self,
        certificate: &CommitCertificate<Types>,
        validators: &Validators,
        thresholds: ThresholdParams,
    ) -> Result<(), CertificateError<Types>> {
        let mut signed = 0;
        for by in &certificate.commit_signatures {
            let unknown = || CertificateError::UnknownValidator(by.address);
            let key = validators.get(by.address).ok_or_else(unknown)?.key;
            let CommitCertificate { height, round, value_id, .. } = certificate;
            let vote = Types.new_precommit(*height, *round, NilOrVal::Val(*value_id), by.address);
            if !self.verify(&key, &vote, &by.signature) {
                return Err(CertificateError::InvalidCommitSignature(by.clone()));
            }
            signed += 1;
        }
        let total = validators.len() as u64;
        let enough = thresholds.quorum.is_met(signed, total);
        let expected = thresholds.quorum.min_expected(total);
        enough.then_some(()).ok_or(CertificateError::NotEnoughVotingPower { signed, total, expected })
    }

    /// The node has decided: it executes the batch.
    fn execute(&mut self, certificate: &CommitCertificate<Types>) {
        let batch = self.proposed.take().filter(|batch| batch.id == certificate.value_id);
        let batch = batch.expect("what is decided was proposed");
        self.batches += 1;
        self.requests += batch.bytes.chunks(PAYLOAD).filter(|request| request.first() == Some(&7)).count() as u64;
    }

    fn handle(&mut self, effect: Effect<Types>) -> Resume<Types> {
        match effect {
            Effect::GetValue(height, round, _, resume) => {
                let batch = Batch::of(Bytes::from(vec![7; self.batch * PAYLOAD]));
                self.proposed = Some(batch.clone());
                self.inputs.push_back(Input::Propose(LocallyProposedValue::new(height, round, batch)));
                resume.resume_with(())
            }
            Effect::SignProposal(proposal, resume) => {
                let signature = self.sign(&proposal);
                resume.resume_with(SignedMessage::new(proposal, signature))
            }
            Effect::SignVote(vote, resume) => {
                let signature = self.sign(&vote);
                resume.resume_with(SignedMessage::new(vote, signature))
            }
            Effect::VerifySignature(signed, key, resume) => resume.resume_with(match &signed.message {
                ConsensusMsg::Proposal(proposal) => {
                    proposal.batch.is_intact() && self.verify(&key, proposal, &signed.signature)
                }
                ConsensusMsg::Vote(vote) => self.verify(&key, vote, &signed.signature),
            }),
            Effect::VerifyCommitCertificate(certificate, validators, thresholds, resume) => {
                resume.resume_with(self.check(&certificate, &validators, thresholds))
            }
            Effect::PublishConsensusMsg(message, resume) => {
                self.sent.push(message);
                resume.resume_with(())
            }
            Effect::Decide(certificate, _, resume) => {
                self.execute(&certificate);
                resume.resume_with(())
            }
            Effect::Finalize(certificate, _, _, resume) => {
                self.inputs.push_back(self.start(certificate.height.increment()));
                resume.resume_with(())
            }
            // Timers, the log, and what is sent after a timeout.
            _ => Resume::Continue,
        }
    }
}

struct Node {
    core: State<Types>,
    host: Host,
}

impl Node {
    /// Takes an input, and what that leads to by itself.
    fn take(&mut self, input: Input<Types>) {
        if let Input::Proposal(proposal) = &input {
            self.host.proposed = Some(proposal.batch.clone());
        }
        self.host.inputs.push_back(input);
        while let Some(input) = self.host.inputs.pop_front() {
            let taken: Result<(), Error<Types>> = malachite::process!(
                input: input,
                state: &mut self.core,
                metrics: &(),
                with: effect => Ok::<_, Infallible>(self.host.handle(effect))
            );
            taken.expect("peers send nothing bad");
        }
    }
}

/// Nodes of malachite, all in one thread.
pub struct Malachite {
    nodes: Vec<Node>,
    /// What waits for each node.
    inboxes: Vec<VecDeque<Input<Types>>>,
}

impl std::fmt::Debug for Malachite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Malachite").field("nodes", &self.nodes.len()).finish_non_exhaustive()
    }
}

impl Malachite {
    /// Nodes that have decided their first batches, of so many requests each.
    pub fn start(nodes: u8, batch: usize) -> Self {
        let keys: Vec<_> = (1..=nodes).map(|n| SecretKey::from_seed([n; 32])).collect();
        let validators = Validators::of(keys.iter().map(SecretKey::public));
        let node = |(at, key): (usize, &SecretKey)| {
            let params = Params {
                address: Address(at as u8),
                threshold_params: ThresholdParams::default(),
                value_payload: ValuePayload::ProposalOnly,
                enabled: true,
            };
            let core = State::new(Types, Height::INITIAL, validators.clone(), params, QUEUE, QUEUE);
            let host = Host {
                key: key.clone(),
                verifier: Ed25519::knowing(keys.iter().map(SecretKey::public)),
                validators: validators.clone(),
                batch,
                inputs: VecDeque::new(),
                sent: Vec::new(),
                proposed: None,
                batches: 0,
                requests: 0,
                signed: 0,
                verified: 0,
            };
            Node { core, host }
        };
        let nodes: Vec<_> = keys.iter().enumerate().map(node).collect();
        let mut group = Self { inboxes: vec![VecDeque::new(); nodes.len()], nodes };
        for at in 0..group.nodes.len() {
            let start = group.nodes[at].host.start(Height::INITIAL);
            group.take(at, start);
        }
        group.run(4);
        group
    }

    /// A node takes an input, and all others get what it sends.
    fn take(&mut self, at: usize, input: Input<Types>) {
        self.nodes[at].take(input);
        for message in self.nodes[at].host.sent.drain(..) {
            let input = match message {
                SignedConsensusMsg::Proposal(proposal) => Input::Proposal(proposal),
                SignedConsensusMsg::Vote(vote) => Input::Vote(vote),
            };
            let others = self.inboxes.iter_mut().enumerate().filter(|(to, _)| *to != at);
            others.for_each(|(_, inbox)| inbox.push_back(input.clone()));
        }
    }

    fn least(&self, count: fn(&Host) -> u64) -> u64 {
        self.nodes.iter().map(|node| count(&node.host)).min().unwrap_or(0)
    }

    fn sum(&self, count: fn(&Host) -> u64) -> u64 {
        self.nodes.iter().map(|node| count(&node.host)).sum()
    }

    fn counts(&self) -> [f64; 4] {
        let (batches, requests) = (self.least(|host| host.batches), self.least(|host| host.requests));
        [batches, requests, self.sum(|host| host.signed), self.sum(|host| host.verified)].map(|count| count as f64)
    }

    /// Has so many more batches executed by all nodes.
    pub fn run(&mut self, batches: u64) -> GroupRun {
        let before = self.counts();
        let end = self.least(|host| host.batches) + batches;
        let watch = Stopwatch::start();
        while self.least(|host| host.batches) < end {
            let mut idle = true;
            for at in 0..self.nodes.len() {
                // What comes while it takes these waits for the next turn.
                for input in std::mem::take(&mut self.inboxes[at]) {
                    self.take(at, input);
                    idle = false;
                }
            }
            assert!(!idle, "the nodes stand still");
        }
        let elapsed = watch.elapsed();
        let after = self.counts();
        let [batches, requests, signatures_made, signatures_checked] = [0, 1, 2, 3].map(|at| after[at] - before[at]);
        GroupRun { batches, requests, elapsed, signatures_made, signatures_checked, signatures_batched: 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_nodes_execute_all_requests_and_check_what_malachite_checks() {
        // A proposal and two votes of each, of which all check the first two and a quorum the third, and that once more
        // in the certificate.
        for (nodes, made, checked) in [(4, 9.0, 44.0), (7, 15.0, 126.0)] {
            let run = Malachite::start(nodes, 64).run(100);
            assert_eq!(run.requests, run.batches * 64.0);
            assert!((run.signatures_made / run.batches - made).abs() < 0.5, "{run:?}");
            assert!((run.signatures_checked / run.batches - checked).abs() < 1.0, "{run:?}");
        }
    }
}
