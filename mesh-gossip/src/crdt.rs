//! Values that replicas change without asking each other, and that still become the same.
//!
//! A [`Crdt`] (conflict-free replicated data type, Shapiro et al., 2011) is a state with a
//! [`merge`](Crdt::merge) that is commutative, associative and idempotent: in whatever order, and however
//! often, replicas hear of each other's states, they end with the same. A small state, such as one with
//! a single new element, is merged like any other: that is a *delta*, and all an update need send.
//!
//! | type | what it is | concurrent updates | tag |
//! | --- | --- | --- | --- |
//! | [`Register`] | a byte string | the later stamp wins | 1 |
//! | [`Counter`] | a sum that goes up and down | all count | 2 |
//! | [`Set`] | byte strings | adding wins over removing | 3 |
//! | [`Map`] | byte strings by name | field by field, the later stamp wins | 4 |
//! | [`Max`], [`Min`] | a number | the largest, the least | 5, 6 |
//!
//! **Deletion** is part of the contract: [`forget`](Crdt::forget) takes away what was written up to a
//! stamp. Types that stamp their parts keep those that are later; the others lose all. It must go
//! together with `merge`: `forget(merge(a, b)) = merge(forget(a), forget(b))`.
//!
//! ```
//! use mesh_core::NodeId;
//! use mesh_gossip::crdt::{Actor, Counter, Crdt};
//!
//! let [one, two] = [1, 2].map(|id| Actor { node: NodeId(id), start: 0 });
//! let (mut here, mut there) = (Counter::default(), Counter::default());
//! here.merge(here.add(one, 5));
//! there.merge(there.add(two, -2));
//! here.merge(there.clone());
//! here.merge(there); // hearing it twice changes nothing
//! assert_eq!(here.value(), 3);
//! ```

mod clock;
mod counter;
mod extremum;
mod map;
mod register;
mod set;

use std::collections::BTreeMap;

use mesh_core::{Bytes, DecodeError, Wire, wire};

pub use clock::{HybridClock, HybridTime, Stamp, TooFarAhead};
pub use counter::{Actor, Counter};
pub use extremum::{Max, Min};
pub use map::Map;
pub use register::Register;
pub use set::Set;

/// Tags below this are for the types of this library.
pub const OWN_TAGS_FROM: u16 = 64;

/// A state that merges. Its encoding must be canonical: equal states have equal bytes.
///
/// ```
/// use mesh_core::{DecodeError, Reader, Wire};
/// use mesh_gossip::crdt::{Crdt, OWN_TAGS_FROM};
///
/// /// Flags that are only ever raised.
/// #[derive(Clone)]
/// struct Flags(u64);
///
/// impl Wire for Flags {
///     fn encode(&self, out: &mut Vec<u8>) { self.0.encode(out) }
///     fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> { Ok(Self(Wire::decode(reader)?)) }
/// }
///
/// impl Crdt for Flags {
///     const TAG: u16 = OWN_TAGS_FROM;
///     fn merge(&mut self, other: Self) { self.0 |= other.0 }
/// }
/// ```
pub trait Crdt: Wire {
    /// The number of the type, the same on all nodes: from [`OWN_TAGS_FROM`] on for one's own.
    const TAG: u16;

    /// Takes in what another replica knows. Commutative, associative and idempotent.
    fn merge(&mut self, other: Self);

    /// What is left when all that was written up to and with `floor` is deleted; `None` for nothing.
    ///
    /// By default that is nothing: a deletion takes updates along that its author had not seen.
    #[must_use]
    fn forget(self, floor: Stamp) -> Option<Self> {
        let _ = floor;
        None
    }

    /// The newest stamp in the state, for types that stamp their parts. What claims to be older than its
    /// parts is not believed.
    fn newest(&self) -> Stamp {
        Stamp::default()
    }
}

/// A type by its tag, over encoded states.
#[derive(Clone, Copy, Debug)]
struct Type {
    merge: fn(&Bytes, &Bytes) -> Result<Bytes, DecodeError>,
    forget: fn(&Bytes, Stamp) -> Result<Option<Bytes>, DecodeError>,
    newest: fn(&Bytes) -> Result<Stamp, DecodeError>,
}

fn merge_encoded<C: Crdt>(one: &Bytes, other: &Bytes) -> Result<Bytes, DecodeError> {
    let mut state = wire::from_bytes::<C>(one)?;
    state.merge(wire::from_bytes(other)?);
    Ok(wire::to_bytes(&state))
}

fn forget_encoded<C: Crdt>(state: &Bytes, floor: Stamp) -> Result<Option<Bytes>, DecodeError> {
    Ok(wire::from_bytes::<C>(state)?.forget(floor).map(|left| wire::to_bytes(&left)))
}

fn newest_encoded<C: Crdt>(state: &Bytes) -> Result<Stamp, DecodeError> {
    Ok(wire::from_bytes::<C>(state)?.newest())
}

/// The types a store knows, by their tags.
///
/// ```
/// use mesh_core::wire;
/// use mesh_gossip::crdt::{Crdt, Max, Types};
///
/// let types = Types::default();
/// let merged = types.merge(Max::TAG, &wire::to_bytes(&Max(3)), &wire::to_bytes(&Max(7)))?;
/// assert_eq!(wire::from_bytes(&merged), Ok(Max(7)));
/// # Ok::<(), mesh_gossip::crdt::TypeError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Types {
    by_tag: BTreeMap<u16, Type>,
}

impl Default for Types {
    /// The types of this library.
    fn default() -> Self {
        let mut types = Self { by_tag: BTreeMap::new() };
        types.add::<Register>();
        types.add::<Counter>();
        types.add::<Set>();
        types.add::<Map>();
        types.add::<Max>();
        types.add::<Min>();
        types
    }
}

/// Why an encoded state cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TypeError {
    /// No type has this tag.
    #[error("no type of the tag {tag} is registered on this node")]
    Unknown {
        /// The tag.
        tag: u16,
    },
    /// It is no state of that type.
    #[error("it is no state of its type: {0}")]
    Malformed(#[from] DecodeError),
}

impl Types {
    fn add<C: Crdt>(&mut self) {
        let (merge, forget, newest) = (merge_encoded::<C>, forget_encoded::<C>, newest_encoded::<C>);
        self.by_tag.insert(C::TAG, Type { merge, forget, newest });
    }

    /// Adds a type of one's own.
    ///
    /// # Panics
    /// When its tag is taken or below [`OWN_TAGS_FROM`]: that depends only on how the program is written.
    #[must_use]
    pub fn with<C: Crdt>(mut self) -> Self {
        assert!(C::TAG >= OWN_TAGS_FROM, "the tag {} is for the library: take one from {OWN_TAGS_FROM} on", C::TAG);
        assert!(!self.by_tag.contains_key(&C::TAG), "two types have the tag {}", C::TAG);
        self.add::<C>();
        self
    }

    fn get(&self, tag: u16) -> Result<&Type, TypeError> {
        self.by_tag.get(&tag).ok_or(TypeError::Unknown { tag })
    }

    /// The newest stamp in an encoded state.
    ///
    /// # Errors
    /// [`TypeError`] when it is malformed, or there is no such type.
    pub fn newest(&self, tag: u16, state: &Bytes) -> Result<Stamp, TypeError> {
        Ok((self.get(tag)?.newest)(state)?)
    }

    /// Merges two encoded states.
    ///
    /// # Errors
    /// [`TypeError`] when one is malformed, or there is no such type.
    pub fn merge(&self, tag: u16, one: &Bytes, other: &Bytes) -> Result<Bytes, TypeError> {
        Ok((self.get(tag)?.merge)(one, other)?)
    }

    /// What is left of an encoded state when all up to `floor` is deleted.
    ///
    /// # Errors
    /// [`TypeError`] when it is malformed, or there is no such type.
    pub fn forget(&self, tag: u16, state: &Bytes, floor: Stamp) -> Result<Option<Bytes>, TypeError> {
        Ok((self.get(tag)?.forget)(state, floor)?)
    }
}
