//! One ballot at one node: the votes, and the agreement of the electorate on what came of them.
//!
//! Signed votes alone cannot settle a ballot for good: a voter that signs both ways can show one node an approval
//! and another a rejection, and what is in time for one is late for another. So the members agree on the verdict
//! in rounds, as in Tendermint (Buchman, Kwon, Milosevic, 2018), but without proposers, since all see the votes:
//!
//! - *Prevote*: in round 0 the verdict that follows from the votes, or [`Verdict::Expired`] when the time is up. In
//!   later rounds the verdict of the latest quorum of prevotes that the member knows of; without one, expired.
//! - *Precommit*: the verdict that a quorum prevoted in this round; nil when a quorum has spoken, some time has
//!   passed, and there is none.
//! - A quorum of precommits for a verdict in one round is its certificate. A quorum of precommits without one, and
//!   some time, begin the next round.
//!
//! Nothing here depends on clocks for safety. Say a quorum precommitted v in round r. At least one honest member is in
//! both that quorum and any other; it knows of the quorum of prevotes for v in r, so it prevotes nothing else later
//! unless a later quorum prevoted that, and the first such quorum would have had to have it as a member.

use std::sync::Arc;

use mesh_core::identity::PublicKey;
use mesh_core::{Instant, wire_struct};

use super::config::BallotConfig;
use super::electorate::{Electorate, Voter};
use super::proposal::{Choice, Claim, Proposal, ROUNDS_MAX, Statement, Step, Verdict};
use super::set::{StatementSet, Voters};

/// How a ballot stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Members that approved, and did nothing else.
    pub approvals: u32,
    /// Members that rejected, and did nothing else.
    pub rejections: u32,
    /// Members that voted both ways. Their votes count for nothing.
    pub doubles: u32,
    /// How many members there are.
    pub members: u32,
    /// How many approvals it takes.
    pub needed: u32,
}

wire_struct!(Tally { approvals, rejections, doubles, members, needed });

impl Tally {
    /// The share of members that voted, in hundredths, rounded down.
    pub fn participation_percent(&self) -> u32 {
        let voted = u64::from(self.approvals) + u64::from(self.rejections) + u64::from(self.doubles);
        (voted * 100).checked_div(u64::from(self.members)).unwrap_or(0).min(100) as u32
    }

    /// The verdict that follows from these votes, whatever the others vote.
    pub const fn verdict(&self) -> Option<Verdict> {
        if self.approvals >= self.needed {
            Some(Verdict::Approved)
        } else if self.members.saturating_sub(self.rejections.saturating_add(self.doubles)) < self.needed {
            Some(Verdict::Rejected)
        } else {
            None
        }
    }
}

/// What the electorate agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The verdict, the same everywhere.
    pub verdict: Verdict,
    /// The round of agreement that settled it. A node may learn of it from another round.
    pub round: u8,
    /// The votes that this node knew of by then.
    pub tally: Tally,
}

impl Decision {
    /// What a quorum said.
    pub(super) const fn claim(&self) -> Claim {
        Claim::Precommit { round: self.round, verdict: Some(self.verdict) }
    }
}

/// What a member does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It says this, and asks again.
    Say(Claim),
    /// A quorum agrees.
    Decide(Verdict, u8),
    /// It asks again then, or when it learns something.
    Wait(Instant),
    /// It asks again when it learns something.
    Listen,
}

/// One ballot at one node.
#[derive(Clone, Debug)]
pub(super) struct Poll {
    pub(super) proposal: Arc<Proposal>,
    pub(super) electorate: Electorate,
    /// This node's place in the electorate, if it has one.
    pub(super) me: Option<Voter>,
    pub(super) set: StatementSet,
    /// The round of agreement that this node is in.
    round: u8,
    /// When this node heard of it.
    pub(super) began: Instant,
    /// A quorum has spoken at this step, and this node waits for the others until then.
    patience: Option<(Step, Instant)>,
    pub(super) decision: Option<Decision>,
    /// Members that contradicted themselves, of which there is evidence.
    liars: Voters,
    /// What came since the last push.
    pub(super) fresh: Vec<(Claim, Voter)>,
}

impl Poll {
    pub(super) fn new(proposal: Arc<Proposal>, electorate: Electorate, me: &PublicKey, began: Instant) -> Self {
        let me = electorate.voter_of_key(me);
        Self {
            proposal,
            electorate,
            me,
            set: StatementSet::default(),
            round: 0,
            began,
            patience: None,
            decision: None,
            liars: Voters::default(),
            fresh: Vec::new(),
        }
    }

    pub(super) const fn round(&self) -> u8 {
        self.round
    }

    pub(super) const fn is_open(&self) -> bool {
        self.decision.is_none()
    }

    /// When this node takes no vote of its application any more.
    pub(super) fn ends(&self) -> Instant {
        self.began + self.proposal.open_for
    }

    /// This node's vote.
    pub(super) fn own_vote(&self) -> Option<Choice> {
        match self.set.said(self.me?, Step::Vote) {
            Some(Claim::Vote(choice)) => Some(choice),
            _ => None,
        }
    }

    pub(super) fn tally(&self) -> Tally {
        if let Some(decision) = self.decision {
            return decision.tally;
        }
        let (members, doubles) = (self.electorate.len(), self.set.doubles());
        let single = |choice| (self.set.count(Claim::Vote(choice)) - doubles) as u32;
        Tally {
            approvals: single(Choice::Approve),
            rejections: single(Choice::Reject),
            doubles: doubles as u32,
            members: members as u32,
            needed: self.proposal.threshold.needed(members) as u32,
        }
    }

    /// Whether a statement would be news here, before anybody checks its signature.
    pub(super) fn wants(&self, claim: Claim, voter: Voter) -> bool {
        let is_member = usize::from(voter.0) < self.electorate.len();
        let of_use = self.decision.is_none_or(|decision| decision.claim() == claim && !self.has_certificate());
        is_member && of_use && !self.set.contains(claim, voter)
    }

    /// Takes a statement that was checked. The one that it contradicts, if it is the first time that its voter
    /// contradicts itself.
    pub(super) fn insert(&mut self, statement: Statement) -> Option<Statement> {
        let first_time = !self.liars.contains(statement.voter);
        let contradicted = self.set.contradiction(&statement).filter(|_| first_time);
        if contradicted.is_some() {
            self.liars.insert(statement.voter);
        }
        if self.set.insert(statement) {
            self.fresh.push((statement.claim, statement.voter));
        }
        if let Some(round) = statement.claim.round().filter(|_| self.me == Some(statement.voter)) {
            self.round = self.round.max(round);
        }
        contradicted
    }

    /// Whether the statements are there that prove the verdict.
    pub(super) fn has_certificate(&self) -> bool {
        self.decision.is_some_and(|decision| self.set.count(decision.claim()) >= self.electorate.quorum())
    }

    /// The verdict is known: only its proof is kept.
    pub(super) fn close(&mut self, decision: Decision) {
        self.decision = Some(decision);
        self.set.retain(|claim| claim == decision.claim());
        self.fresh.shrink_to_fit();
    }

    /// What two nodes compare that may know different statements.
    pub(super) fn digest(&self) -> u64 {
        match self.decision {
            // Which quorum proves it does not matter, nor in which round.
            Some(decision) if self.has_certificate() => decision.verdict as u64,
            _ => self.set.digest(),
        }
    }

    /// The verdict that a quorum prevoted in this round.
    fn prevoted(&self, round: u8) -> Option<Verdict> {
        let has_quorum =
            |verdict: &Verdict| self.set.count(Claim::Prevote { round, verdict: *verdict }) >= self.electorate.quorum();
        [Verdict::Approved, Verdict::Rejected, Verdict::Expired].into_iter().find(has_quorum)
    }

    /// The verdict of the latest quorum of prevotes that this node knows, or knew when it precommitted.
    fn locked(&self) -> Option<Verdict> {
        let mine = |round| match self.set.said(self.me?, Step::Precommit(round)) {
            Some(Claim::Precommit { verdict, .. }) => verdict,
            _ => None,
        };
        (0..=self.round).rev().find_map(|round| self.prevoted(round).or_else(|| mine(round)))
    }

    /// The verdict as this node sees it without having agreed with anybody.
    fn seen(&self, now: Instant, config: &BallotConfig) -> Option<Verdict> {
        // One of so many is honest, and has seen enough votes, or that the time is up.
        let believed = |verdict: &Verdict| {
            self.set.count(Claim::Prevote { round: 0, verdict: *verdict }) >= self.electorate.weak()
        };
        let late = || (now >= self.ends() + config.grace).then_some(Verdict::Expired);
        let others = || [Verdict::Approved, Verdict::Rejected, Verdict::Expired].into_iter().find(believed);
        self.tally().verdict().or_else(others).or_else(late)
    }

    /// What this node does next.
    pub(super) fn next(&mut self, now: Instant, config: &BallotConfig) -> Next {
        if self.decision.is_some() {
            return Next::Listen;
        }
        if let Some((verdict, round)) = self.agreed() {
            return Next::Decide(verdict, round);
        }
        let Some(me) = self.me else { return Next::Listen };
        self.catch_up();
        loop {
            let round = self.round;
            if self.set.said(me, Step::Prevote(round)).is_none() && self.set.said(me, Step::Precommit(round)).is_none()
            {
                let free = || if round == 0 { self.seen(now, config) } else { Some(Verdict::Expired) };
                return match self.locked().or_else(free) {
                    Some(verdict) => Next::Say(Claim::Prevote { round, verdict }),
                    None => Next::Wait(self.ends() + config.grace),
                };
            }
            if self.set.said(me, Step::Precommit(round)).is_none() {
                if let Some(verdict) = self.prevoted(round) {
                    return Next::Say(Claim::Precommit { round, verdict: Some(verdict) });
                }
                return match self.wait_for_all(Step::Prevote(round), now, config) {
                    None => Next::Say(Claim::Precommit { round, verdict: None }),
                    Some(next) => next,
                };
            }
            match self.wait_for_all(Step::Precommit(round), now, config) {
                None if round + 1 < ROUNDS_MAX => self.round += 1,
                None => return Next::Listen,
                Some(next) => return next,
            }
        }
    }

    /// What a quorum precommitted.
    fn agreed(&self) -> Option<(Verdict, u8)> {
        self.set.claims().find_map(|(claim, voters)| match claim {
            Claim::Precommit { round, verdict: Some(verdict) } if voters.len() >= self.electorate.quorum() => {
                Some((verdict, round))
            }
            _ => None,
        })
    }

    /// Goes to the latest round that an honest member has come to.
    fn catch_up(&mut self) {
        let latest = self.set.claims().filter_map(|(claim, _)| claim.round()).max().unwrap_or(0);
        let is_there = |round: &u8| {
            let at_or_after = |claim: Claim| claim.round().is_some_and(|of| of >= *round);
            self.set.voters(at_or_after) >= self.electorate.weak()
        };
        if let Some(round) = (self.round.saturating_add(1)..=latest).rev().find(is_there) {
            self.round = round;
        }
    }

    /// Waits for a quorum to speak at a step, and a while longer for the others; `None` when that is over.
    fn wait_for_all(&mut self, step: Step, now: Instant, config: &BallotConfig) -> Option<Next> {
        let spoken = self.set.voters(|claim| claim.step() == step);
        if spoken < self.electorate.quorum() {
            return Some(Next::Listen);
        }
        let due = match self.patience {
            Some((of, due)) if of == step => due,
            _ => now + config.step * (u32::from(self.round) + 1),
        };
        self.patience = Some((step, due));
        (spoken < self.electorate.len() && now < due).then_some(Next::Wait(due))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mesh_core::Rng64;

    use super::super::proposal::tests::{electorate, key, proposal, statement};
    use super::super::threshold::Threshold;
    use super::*;

    fn poll(members: u8, me: u8) -> Poll {
        let electorate = electorate(members);
        let proposal = Arc::new(proposal(&electorate, 1, 1));
        Poll::new(proposal, electorate, &key(me).public(), Instant::ZERO)
    }

    const APPROVE: Claim = Claim::Vote(Choice::Approve);
    const REJECT: Claim = Claim::Vote(Choice::Reject);

    fn prevote(round: u8, verdict: Verdict) -> Claim {
        Claim::Prevote { round, verdict }
    }

    fn precommit(round: u8, verdict: Option<Verdict>) -> Claim {
        Claim::Precommit { round, verdict }
    }

    impl Poll {
        fn hears(&mut self, from: impl IntoIterator<Item = u8>, claim: Claim) {
            let ballot = self.proposal.id();
            for n in from {
                self.insert(statement(ballot, n, claim));
            }
        }

        /// Says all that it would, until it waits.
        fn settles(&mut self, at: u64) -> Vec<Next> {
            let (config, now) = (BallotConfig::default(), Instant::ZERO + Duration::from_secs(at));
            let mut all = Vec::new();
            loop {
                let next = self.next(now, &config);
                all.push(next);
                let (Next::Say(claim), Some(me)) = (next, self.me) else { return all };
                self.hears([me.0 as u8 + 1], claim);
            }
        }
    }

    /// After the end of the ballot and the grace.
    const LATE: u64 = 1000;

    #[test]
    fn enough_approvals_or_too_many_rejections_decide_and_doubles_count_for_nothing() {
        let verdict = |approve: &[u8], reject: &[u8]| {
            let mut poll = poll(4, 1);
            poll.hears(approve.iter().copied(), APPROVE);
            poll.hears(reject.iter().copied(), REJECT);
            poll.tally().verdict()
        };
        use Verdict::{Approved, Rejected};
        assert_eq!(verdict(&[1, 2], &[3]), None);
        assert_eq!(verdict(&[1, 2, 3], &[4]), Some(Approved));
        assert_eq!(verdict(&[], &[3, 4]), Some(Rejected));
        // A voter that signs both ways cannot approve.
        assert_eq!(verdict(&[1, 2, 3], &[3]), None);
        assert_eq!(verdict(&[1, 2, 3], &[3, 4]), Some(Rejected));
        assert_eq!(verdict(&[1, 2, 3, 4], &[4]), Some(Approved));
    }

    #[test]
    fn participation_is_in_hundredths() {
        let tally = Tally { approvals: 1, rejections: 0, doubles: 1, members: 3, needed: 3 };
        assert_eq!(tally.participation_percent(), 66);
        assert_eq!(Tally::default().participation_percent(), 0);
    }

    #[test]
    fn a_member_prevotes_what_it_sees_precommits_what_a_quorum_prevoted_and_decides_by_a_quorum() {
        let mut poll = poll(4, 1);
        assert_eq!(poll.settles(0), [Next::Wait(poll.ends() + BallotConfig::default().grace)]);
        poll.hears([1, 2, 3], APPROVE);
        assert_eq!(poll.settles(0), [Next::Say(prevote(0, Verdict::Approved)), Next::Listen]);
        poll.hears([2, 3], prevote(0, Verdict::Approved));
        assert_eq!(poll.settles(0), [Next::Say(precommit(0, Some(Verdict::Approved))), Next::Listen]);
        poll.hears([4], precommit(0, Some(Verdict::Approved)));
        assert_eq!(poll.settles(0), [Next::Listen]);
        poll.hears([2], precommit(0, Some(Verdict::Approved)));
        assert_eq!(poll.settles(0), [Next::Decide(Verdict::Approved, 0)]);
    }

    #[test]
    fn a_member_prevotes_expired_only_when_the_time_is_up_or_an_honest_one_says_so() {
        let mut late = poll(4, 1);
        assert_eq!(late.settles(LATE), [Next::Say(prevote(0, Verdict::Expired)), Next::Listen]);
        let mut told = poll(4, 1);
        told.hears([2], prevote(0, Verdict::Expired));
        assert!(matches!(told.settles(0)[..], [Next::Wait(_)]), "one may be a liar");
        told.hears([3], prevote(0, Verdict::Expired));
        assert_eq!(told.settles(0)[0], Next::Say(prevote(0, Verdict::Expired)));
    }

    #[test]
    fn who_precommitted_a_verdict_prevotes_no_other_until_a_later_quorum_did() {
        let mut poll = poll(4, 1);
        poll.hears([1, 2, 3], APPROVE);
        poll.hears([2, 3], prevote(0, Verdict::Approved));
        poll.settles(0);
        // The others did not see that quorum.
        poll.hears([2, 3, 4], precommit(0, None));
        assert_eq!(poll.settles(0), [Next::Say(prevote(1, Verdict::Approved)), Next::Listen]);
        poll.hears([2, 3, 4], prevote(1, Verdict::Expired));
        poll.hears([2, 3, 4], precommit(1, None));
        // A quorum prevoted something else since: nobody can have agreed on what came before.
        assert_eq!(
            poll.settles(0)[..2],
            [Next::Say(precommit(1, Some(Verdict::Expired))), Next::Say(prevote(2, Verdict::Expired)),]
        );
    }

    #[test]
    fn a_lock_outlives_a_restart_that_leaves_only_what_the_member_itself_said() {
        let mut poll = poll(4, 1);
        poll.hears([1], prevote(0, Verdict::Approved));
        poll.hears([1], precommit(0, Some(Verdict::Approved)));
        poll.hears([2, 3, 4], precommit(0, None));
        assert_eq!(poll.settles(LATE)[0], Next::Say(prevote(1, Verdict::Approved)));
    }

    #[test]
    fn a_member_says_nothing_of_rounds_that_it_has_left() {
        let mut poll = poll(4, 1);
        poll.hears([1, 2, 3], APPROVE);
        poll.settles(0);
        poll.hears([2, 3], prevote(3, Verdict::Expired));
        assert_eq!(poll.settles(0)[0], Next::Say(prevote(3, Verdict::Expired)));
        // A quorum for round 0 comes too late to be precommitted.
        poll.hears([2, 3], prevote(0, Verdict::Approved));
        assert!(!poll.settles(0).iter().any(|next| matches!(next, Next::Say(Claim::Precommit { round: 0, .. }))));
    }

    #[test]
    fn a_member_that_starts_again_goes_on_in_the_round_that_it_had_come_to() {
        let mut poll = poll(4, 1);
        poll.hears([1], prevote(3, Verdict::Expired));
        assert_eq!(poll.settles(LATE), [Next::Listen]);
        poll.hears([2, 3], prevote(3, Verdict::Expired));
        assert_eq!(poll.settles(LATE)[0], Next::Say(precommit(3, Some(Verdict::Expired))));
    }

    #[test]
    fn one_liar_leads_nobody_to_a_later_round() {
        let mut poll = poll(4, 1);
        poll.hears([4], prevote(ROUNDS_MAX - 1, Verdict::Expired));
        assert!(matches!(poll.settles(0)[..], [Next::Wait(_)]));
        assert_eq!(poll.settles(LATE)[0], Next::Say(prevote(0, Verdict::Expired)));
    }

    #[test]
    fn without_a_quorum_for_anything_the_next_round_expires_it() {
        let mut poll = poll(4, 1);
        poll.hears([1, 2, 3], APPROVE);
        poll.hears([2], prevote(0, Verdict::Approved));
        poll.hears([3, 4], prevote(0, Verdict::Expired));
        // All have spoken: there is nothing to wait for.
        assert_eq!(
            poll.settles(0),
            [Next::Say(prevote(0, Verdict::Approved)), Next::Say(precommit(0, None)), Next::Listen]
        );
        poll.hears([2, 3], precommit(0, None));
        let waits = poll.settles(0);
        assert!(matches!(waits[..], [Next::Wait(_)]), "the fourth may have more to say: {waits:?}");
        assert_eq!(poll.settles(LATE)[0], Next::Say(prevote(1, Verdict::Expired)));
    }

    #[test]
    fn late_votes_change_no_verdict_and_a_closed_ballot_keeps_only_its_proof() {
        let mut poll = poll(4, 1);
        poll.hears([1, 2, 3], APPROVE);
        let (tally, verdict) = (poll.tally(), Verdict::Approved);
        poll.hears([1, 2, 3], precommit(0, Some(verdict)));
        poll.close(Decision { verdict, round: 0, tally });
        assert!(poll.has_certificate() && !poll.wants(REJECT, Voter(3)) && !poll.wants(APPROVE, Voter(3)));
        assert_eq!(poll.set.claims().count(), 1);
        assert_eq!((poll.tally(), poll.next(Instant::MAX, &BallotConfig::default())), (tally, Next::Listen));
    }

    /// So many are needed to see a quorum of f + 1 fail.
    const SEEDS: u64 = 1000;

    /// A whole electorate. Some statements reach half of the members at some time, and the others only in the end;
    /// clocks run as they like. The last members lie: they tell each member something else. The verdicts
    /// that any member had a certificate of, at any time.
    fn agree(members: u8, liars: u8, seed: u64) -> Vec<Verdict> {
        let mut rng = Rng64::from_seed(seed, "agreement");
        let honest = usize::from(members - liars);
        let mut polls: Vec<_> = (1..=members - liars).map(|me| poll(members, me)).collect();
        let (ballot, needed) = (polls[0].proposal.id(), Threshold::default().needed(members.into()) as u64);
        // As many approve as it takes with some of the liars.
        let approving = needed - rng.below(u64::from(liars) + 1);
        // Each with the members that it reaches, one bit each.
        let mut said: Vec<(Statement, u64)> = Vec::new();
        for n in 1..=members - liars {
            let choice = if u64::from(n) <= approving { APPROVE } else { REJECT };
            said.push((statement(ballot, n, choice), rng.next_u64()));
        }
        for n in members - liars + 1..=members {
            let verdicts = [Verdict::Approved, Verdict::Rejected, Verdict::Expired];
            let mut steps = vec![vec![APPROVE, REJECT]];
            for round in 0..3 {
                steps.push(verdicts.map(|verdict| prevote(round, verdict)).to_vec());
                let precommits = verdicts.map(|verdict| precommit(round, Some(verdict)));
                steps.push([&precommits[..], &[precommit(round, None)]].concat());
            }
            for claims in steps {
                let told: Vec<_> = (0..honest).map(|_| rng.below(claims.len() as u64)).collect();
                for (at, claim) in claims.iter().enumerate() {
                    let reaches = (0..honest).filter(|to| told[*to] == at as u64).map(|to| 1 << to).sum();
                    said.push((statement(ballot, n, *claim), reaches));
                }
            }
        }
        let config = BallotConfig::default();
        // Seconds.
        let mut clocks = vec![0; honest];
        let mut certified = Vec::new();
        let mut hear = |poll: &mut Poll, heard: &[Statement], clock: u64, rng: &mut Rng64| {
            for statement in heard {
                poll.insert(*statement);
            }
            let (me, now) = (poll.me.unwrap().0 as u8 + 1, Instant::ZERO + Duration::from_secs(clock));
            let mut news = Vec::new();
            while let Next::Say(claim) = poll.next(now, &config) {
                let statement = statement(ballot, me, claim);
                poll.insert(statement);
                news.push((statement, if rng.chance(1, 2) { u64::MAX } else { rng.next_u64() }));
            }
            certified.extend(poll.agreed().map(|(verdict, _)| verdict));
            news
        };
        for _ in 0..honest * 100 {
            let at = rng.below(honest as u64) as usize;
            clocks[at] += if rng.chance(1, 40) { 100 } else { rng.below(4) };
            let (statement, reaches) = *rng.choose(&said).unwrap();
            if reaches >> at & 1 == 1 {
                said.extend(hear(&mut polls[at], &[statement], clocks[at], &mut rng));
            }
        }
        for _ in 0..4 * usize::from(ROUNDS_MAX) {
            for (poll, clock) in polls.iter_mut().zip(&mut clocks) {
                *clock += 100;
                let all: Vec<_> = said.iter().map(|(statement, _)| *statement).collect();
                said.extend(hear(poll, &all, *clock, &mut rng));
            }
            if polls.iter().all(|poll| poll.agreed().is_some()) {
                break;
            }
        }
        assert!(polls.iter().all(|poll| poll.agreed().is_some()), "seed {seed}: not all have a verdict in the end");
        certified
    }

    #[test]
    fn no_two_members_ever_disagree_whatever_a_third_says() {
        for seed in 0..SEEDS {
            let (members, liars) = if seed % 4 == 0 { (7, 2) } else { (4, 1) };
            let certified = agree(members, liars, seed);
            assert!(certified.iter().all(|verdict| *verdict == certified[0]), "seed {seed}: {certified:?}");
        }
    }
}
