//! Who the voters are that a configuration stands for.

use std::collections::{BTreeMap, BTreeSet};

use mesh_core::NodeId;

use super::message::{VOTERS_LEN_MAX, Voters};
use super::view::View;
use super::voters::{Configuration, digest_of};

/// Names the voters that a configuration stands for.
///
/// Most nodes see who they are: those whom they reach, now or when they said so last. The others ask the coordinator.
#[derive(Clone, Debug, Default)]
pub(super) struct Rolls {
    named: BTreeMap<u64, BTreeSet<NodeId>>,
    /// Whom this node last said it reaches.
    said: (u64, BTreeSet<NodeId>),
    /// What is told of voters, until it is complete.
    partial: (u64, BTreeSet<NodeId>),
}

impl Rolls {
    pub(super) fn get(&self, digest: u64) -> Option<&BTreeSet<NodeId>> {
        self.named.get(&digest)
    }

    /// All that are named.
    pub(super) fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.named.values().flatten().copied()
    }

    pub(super) fn insert(&mut self, digest: u64, nodes: BTreeSet<NodeId>) {
        self.named.insert(digest, nodes);
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// This node says whom it reaches.
    pub(super) fn say(&mut self, view: &View) {
        if self.said.0 != view.digest() {
            self.said = (view.digest(), view.to_set());
        }
    }

    /// Names the voters of a configuration where this node sees who they are, and forgets all others.
    pub(super) fn name(&mut self, configuration: &Configuration, view: &View) {
        self.named.retain(|digest, _| configuration.electorates().any(|known| known.digest == *digest));
        for digest in configuration.electorates().map(|electorate| electorate.digest) {
            if self.named.contains_key(&digest) {
                continue;
            }
            if digest == view.digest() {
                self.named.insert(digest, view.to_set());
            } else if digest == self.said.0 {
                self.named.insert(digest, self.said.1.clone());
            }
        }
    }

    /// What to ask the coordinator, where there are voters that this node cannot name.
    pub(super) fn asks(&self, configuration: &Configuration) -> Option<(u64, NodeId)> {
        let unnamed = configuration.electorates().find(|electorate| !self.named.contains_key(&electorate.digest))?;
        let (digest, nodes) = &self.partial;
        let from = nodes.last().filter(|_| *digest == unnamed.digest);
        Some((unnamed.digest, from.copied().unwrap_or_default()))
    }

    /// The answer to who asks.
    pub(super) fn answer(&self, digest: u64, from: NodeId) -> Option<Voters> {
        let nodes = self.get(digest)?.range(from..).take(VOTERS_LEN_MAX).copied().collect();
        Some(Voters { digest, nodes })
    }

    /// Takes the answer of the coordinator. More than `max` voters are not believed.
    pub(super) fn take(&mut self, configuration: &Configuration, voters: Voters, max: usize) {
        let Voters { digest, nodes } = voters;
        if self.asks(configuration).is_none_or(|(asked, _)| asked != digest) {
            return;
        }
        if self.partial.0 != digest {
            self.partial = (digest, BTreeSet::new());
        }
        let is_last = nodes.len() < VOTERS_LEN_MAX;
        self.partial.1.extend(nodes);
        if digest_of(&self.partial.1) == digest {
            self.named.insert(digest, std::mem::take(&mut self.partial.1));
        } else if is_last || self.partial.1.len() > max {
            self.partial.1.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::Instant;

    use super::super::voters::{Electorate, Version};
    use super::*;

    fn view(nodes: u128) -> View {
        let mut view = View::default();
        view.start(NodeId(0), Instant::ZERO);
        (1..nodes).for_each(|node| assert!(view.set(NodeId(node), true, 1000, Instant::ZERO)));
        view
    }

    fn of(view: &View) -> Configuration {
        let current = Electorate { digest: view.digest(), oldest: NodeId(0) };
        Configuration { version: Version { term: 1, step: 1 }, current, next: None }
    }

    #[test]
    fn who_cannot_see_who_the_voters_are_is_told_some_at_a_time() {
        let (voters, other) = (view(200), view(3));
        let configuration = of(&voters);
        let (mut coordinator, mut rolls) = (Rolls::default(), Rolls::default());
        coordinator.name(&configuration, &voters);
        rolls.name(&configuration, &other);
        let mut asked = 0;
        while let Some((digest, from)) = rolls.asks(&configuration) {
            rolls.take(&configuration, coordinator.answer(digest, from).unwrap(), 1000);
            asked += 1;
            assert!(asked < 10);
        }
        assert_eq!((asked, rolls.get(voters.digest())), (4, Some(&voters.to_set())));
    }

    #[test]
    fn a_wrong_answer_is_asked_for_again_and_too_many_are_not_kept() {
        let (voters, other) = (view(200), view(3));
        let configuration = of(&voters);
        let mut rolls = Rolls::default();
        rolls.name(&configuration, &other);
        let start = Some((voters.digest(), NodeId(0)));
        rolls.take(&configuration, Voters { digest: voters.digest(), nodes: vec![NodeId(77)] }, 1000);
        assert_eq!(rolls.asks(&configuration), start);
        rolls.take(&configuration, Voters { digest: 5, nodes: vec![NodeId(77)] }, 1000);
        assert_eq!(rolls.partial.1.len(), 0, "nobody asked for these");
        for at in 0..4 {
            let nodes = (0..64).map(|node| NodeId(1000 * at + node)).collect();
            rolls.take(&configuration, Voters { digest: voters.digest(), nodes }, 100);
            assert!(rolls.partial.1.len() <= 164);
        }
    }

    #[test]
    fn what_a_node_said_it_reaches_names_voters_when_it_reaches_others() {
        let (mut rolls, voters) = (Rolls::default(), view(9));
        rolls.say(&voters);
        rolls.name(&of(&voters), &view(5));
        assert_eq!(rolls.get(voters.digest()), Some(&voters.to_set()));
        rolls.name(&of(&view(7)), &view(5));
        assert_eq!(rolls.nodes().count(), 0, "others are forgotten");
    }
}
