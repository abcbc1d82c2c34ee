//! What members say of where they are, for the transport.

use std::thread;
use std::time::Duration;

use futures::executor::block_on;
use mesh_core::{Handle, NodeId};
use mesh_gossip::membership::{Membership, MembershipEvent, MembershipHandle as _};
use mesh_transport_tcp::TcpControl;

/// How often it is looked who is new.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Joins through whom the transport has found at the seed's address, and tells the transport where members are.
pub fn follow_members(me: NodeId, members: Handle<Membership>, transport: TcpControl) {
    let events = members.clone();
    follow(me, &events, transport, move |found| block_on(members.join(found)).is_ok());
}

/// The same, where `join` is told who was found, until it comes to nothing.
pub fn follow(
    me: NodeId,
    members: &Handle<Membership>,
    transport: TcpControl,
    join: impl Fn(Vec<NodeId>) -> bool + Send + 'static,
) {
    let mut events = members.events();
    thread::spawn(move || {
        let book = transport.address_book();
        let mut known = None;
        loop {
            while let Some(event) = events.try_next() {
                if let Ok(
                    MembershipEvent::Joined(member)
                    | MembershipEvent::Updated(member)
                    | MembershipEvent::Rejoined(member),
                ) = event
                    && let Some(address) =
                        std::str::from_utf8(&member.profile.address).ok().and_then(|text| text.parse().ok())
                {
                    book.set(member.node, [address]);
                }
            }
            if known.replace(book.version()) != Some(book.version()) {
                let found: Vec<_> = book.peers().into_keys().filter(|peer| *peer != me).collect();
                if !join(found) {
                    return;
                }
            }
            thread::sleep(LOOK_INTERVAL);
        }
    });
}
