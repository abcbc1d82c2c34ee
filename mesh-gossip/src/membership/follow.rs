//! What members say of where they are, for a transport; and whom the transport finds, for the membership.

use std::collections::BTreeSet;
use std::pin::pin;

use futures::StreamExt as _;
use futures::future::{Either, select};
use mesh_core::{Directory, Handle, NodeId};

use super::{Member, Membership, MembershipEvent, MembershipHandle as _};

/// Keeps a transport's directory like the membership, and calls `join` with those whom the transport finds and the
/// membership has not heard of, once for each; until the node stops.
///
/// A node that is told nothing but the address of another finds it by the transport, joins through it, and hears of all
/// others where they are, as they [say of themselves](super::Profile::address). What is heard of a node is kept while it is
/// down, and forgotten with it.
///
/// ```
/// use mesh_core::{CallError, Directory, Handle};
/// use mesh_gossip::membership::{Membership, MembershipHandle as _, follow};
///
/// /// Runs beside the node, on any runtime.
/// async fn keep(members: Handle<Membership>, directory: impl Directory) -> Result<(), CallError> {
///     follow(&members, &directory, |found| members.join(found)).await
/// }
/// ```
///
/// # Errors
/// That of `join`, which ends it.
pub async fn follow<F, E>(
    members: &Handle<Membership>,
    directory: &impl Directory,
    mut join: impl FnMut(Vec<NodeId>) -> F,
) -> Result<(), E>
where
    F: Future<Output = Result<(), E>>,
{
    let mut events = members.events();
    // Nobody need be joined through who is a member already, or was named before; the node itself least of all.
    let mut known = BTreeSet::new();
    let mut seen = 0;
    let mut behind = true;
    loop {
        if behind {
            let Ok(all) = members.members().await else { return Ok(()) };
            known.extend(all.first().map(|own| own.node));
            all.iter().skip(1).for_each(|member| hear(directory, &mut known, member));
            behind = false;
        }
        let changed = pin!(directory.changed(seen));
        match select(events.next(), changed).await {
            Either::Left((None, _)) => return Ok(()),
            // Some events were dropped.
            Either::Left((Some(Err(_)), _)) => behind = true,
            Either::Left((Some(Ok(event)), _)) => match event {
                MembershipEvent::Joined(member)
                | MembershipEvent::Updated(member)
                | MembershipEvent::Rejoined(member) => hear(directory, &mut known, &member),
                MembershipEvent::Forgotten { node } => {
                    directory.forget(node);
                    // Where it is known otherwise, it was found before.
                    if !directory.nodes().contains(&node) {
                        known.remove(&node);
                    }
                }
                _ => {}
            },
            Either::Right((version, _)) => {
                seen = version;
                let found: Vec<_> = directory.nodes().into_iter().filter(|node| !known.contains(node)).collect();
                if !found.is_empty() {
                    known.extend(&found);
                    join(found).await?;
                }
            }
        }
    }
}

fn hear(directory: &impl Directory, known: &mut BTreeSet<NodeId>, member: &Member) {
    known.insert(member.node);
    if !member.profile.address.is_empty() {
        directory.hear(member.node, &member.profile.address);
    }
}
