//! What members say of where they are, for a transport; and whom the transport finds, for the membership.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;

use futures_core::Stream as _;
use mesh_core::driver::yield_now;
use mesh_core::{CallError, Directory, Handle, Lagged, NodeId};

use super::{Member, Membership, MembershipEvent, MembershipHandle as _};

/// Keeps a transport's directory like the membership, and calls `meet` with those whom the transport finds and the
/// membership has not heard of, once for each; until the node stops.
///
/// A node that is told nothing but the address of another finds it by the transport, meets it, and hears of all
/// others where they are, as they [say of themselves](super::Profile::address). What is heard of a node is kept while it is
/// down, and forgotten with it.
///
/// ```
/// use mesh_core::{CallError, Directory, Handle};
/// use mesh_gossip::membership::{Membership, MembershipHandle as _, follow};
///
/// /// Runs beside the node, on any runtime.
/// async fn keep(members: Handle<Membership>, directory: impl Directory) -> Result<(), CallError> {
///     follow(&members, &directory, |found| members.meet(found)).await
/// }
/// ```
///
/// # Errors
/// That of `meet`, which ends it.
pub async fn follow<F, E>(
    members: &Handle<Membership>,
    directory: &impl Directory,
    mut meet: impl FnMut(Vec<NodeId>) -> F,
) -> Result<(), E>
where
    F: Future<Output = Result<(), E>>,
{
    let mut events = members.events();
    // Nobody need be met who is a member already, or was named before; the node itself least of all.
    let mut known = BTreeSet::new();
    let mut seen = 0;
    let mut behind = true;
    loop {
        if behind {
            let all = match members.members().await {
                Ok(all) => all,
                Err(CallError::Busy) => {
                    yield_now().await;
                    continue;
                }
                Err(_) => return Ok(()),
            };
            let members: BTreeSet<_> = all.iter().map(|member| member.node).collect();
            for node in known.difference(&members).copied().collect::<Vec<_>>() {
                forget(directory, &mut known, node);
            }
            known.extend(all.first().map(|own| own.node));
            all.iter().skip(1).for_each(|member| hear(directory, &mut known, member));
            behind = false;
        }
        let mut changed = pin!(directory.changed(seen));
        let news = poll_fn(|cx| match Pin::new(&mut events).poll_next(cx) {
            Poll::Ready(event) => Poll::Ready(News::OfMembers(event)),
            Poll::Pending => changed.as_mut().poll(cx).map(News::OfDirectory),
        });
        match news.await {
            News::OfMembers(None) => return Ok(()),
            News::OfMembers(Some(Err(Lagged { .. }))) => behind = true,
            News::OfMembers(Some(Ok(event))) => match event {
                MembershipEvent::Joined(member)
                | MembershipEvent::Updated(member)
                | MembershipEvent::Rejoined(member) => hear(directory, &mut known, &member),
                MembershipEvent::Forgotten { node } => forget(directory, &mut known, node),
                _ => {}
            },
            News::OfDirectory(version) => {
                seen = version;
                let found: Vec<_> = directory.nodes().into_iter().filter(|node| !known.contains(node)).collect();
                if !found.is_empty() {
                    known.extend(&found);
                    meet(found).await?;
                }
            }
        }
    }
}

/// What may happen next.
enum News {
    OfMembers(Option<Result<MembershipEvent, Lagged>>),
    OfDirectory(u64),
}

fn forget(directory: &impl Directory, known: &mut BTreeSet<NodeId>, node: NodeId) {
    directory.forget(node);
    // Where it is known otherwise, it was found before.
    if !directory.nodes().contains(&node) {
        known.remove(&node);
    }
}

fn hear(directory: &impl Directory, known: &mut BTreeSet<NodeId>, member: &Member) {
    known.insert(member.node);
    if !member.profile.address.is_empty() {
        directory.hear(member.node, &member.profile.address);
    }
}
