//! What a node tells [`tracing`](https://docs.rs/tracing), with the feature of that name. Without it nothing of this is in
//! the program.
//!
//! Each input that a protocol is given is a span `input`, at the level `debug`, with the fields `node`, `protocol` (its
//! number), `module` (its type, as in `Raft`), `input` (what kind) and `peer` (from whom, where from somebody). Spans are left
//! before the node waits for anything. Events are what ends a node (`error`), what it does wrong itself (`warn`), its
//! start and end (`info`), and what others do wrong or the network loses (`debug`: strangers may cause any number of them).

/// An event of `tracing` at a level, as in `event!(debug, node = %me, "it is so")`; nothing without the feature.
macro_rules! event {
    ($level:ident, $($rest:tt)*) => {{
        #[cfg(feature = "tracing")]
        tracing::$level!($($rest)*);
    }};
}

pub(crate) use event;

/// The span of an input of kind `input` that a protocol of the type `P` is given.
#[cfg(feature = "tracing")]
pub(crate) fn input_span<P>(
    node: crate::id::NodeId,
    protocol: crate::id::ProtocolId,
    input: &'static str,
    peer: Option<crate::id::NodeId>,
) -> tracing::span::EnteredSpan {
    let peer = peer.map(tracing::field::display);
    tracing::debug_span!("input", %node, protocol = protocol.0, module = short_name::<P>(), input, peer).entered()
}

/// The name of a type without its path and parameters.
#[cfg(feature = "tracing")]
fn short_name<P>() -> &'static str {
    let path = std::any::type_name::<P>().split('<').next().unwrap_or_default();
    path.rsplit("::").next().unwrap_or_default()
}
