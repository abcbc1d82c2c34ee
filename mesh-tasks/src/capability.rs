//! What a task asks of the node that runs it, and what a node has.
//!
//! A node has named [`Capabilities`], each in some version, and amounts of [`Resources`]. The [`Requirements`] of a
//! task name capabilities that it cannot do without, others that it would like, and the resources that it takes while
//! it runs. [`Requirements::admits`] is the gate: no score, however good, lets a task onto a node that it does not
//! admit. [`Requirements::match_score`] tells among the nodes that are let through which fits best.
//!
//! Names have 1 to [`NAME_LEN_MAX`] bytes, and there are at most [`NAMES_MAX`] of a kind. A task that asks for
//! nothing holds no memory, and every node is admitted at once.
//!
//! ```
//! use mesh_tasks::capability::{Capabilities, Requirements, Resources};
//!
//! let node = Capabilities::new().with("cuda", 12).with("python", 3).with_resource("memory_mb", 64_000);
//! let task = Requirements::new().requires("cuda", 11).prefers("nvlink", 1).needs("memory_mb", 48_000);
//! assert_eq!((node.validate(), task.validate()), (Ok(()), Ok(())));
//!
//! let mut free = node.resources().clone();
//! assert!(task.admits(&node, &free));
//! assert!(free.take(task.resources()));
//! assert!(!task.admits(&node, &free)); // not a second one beside it
//!
//! // All that is required, none of what is preferred, all of the resources.
//! assert_eq!(task.match_score(&node, node.resources()), 0.6);
//! ```

use mesh_core::wire::check_len;
use mesh_core::{DecodeError, Reader, Wire, wire_struct};

/// The longest name of a capability or a resource, in bytes.
pub const NAME_LEN_MAX: usize = 64;

/// The most names of a kind: capabilities of a node, its resources, what a task requires, prefers and needs.
pub const NAMES_MAX: usize = 64;

/// Why capabilities or requirements cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CapabilityError {
    /// A name has no bytes.
    #[error("one of the {kind} has no name")]
    EmptyName {
        /// What is named.
        kind: &'static str,
    },
    /// A name has more than [`NAME_LEN_MAX`] bytes.
    #[error("the name of one of the {kind} has {len} bytes; at most {NAME_LEN_MAX} are allowed")]
    LongName {
        /// What is named.
        kind: &'static str,
        /// How many bytes it has.
        len: usize,
    },
    /// There are more than [`NAMES_MAX`].
    #[error("there are {count} {kind}; at most {NAMES_MAX} are allowed")]
    TooMany {
        /// Of what.
        kind: &'static str,
        /// How many there are.
        count: usize,
    },
    /// A capability that is required, or a resource that is needed, is not known.
    #[error("{name:?}, one of the {kind}, is not known here")]
    Unknown {
        /// What is named.
        kind: &'static str,
        /// The name.
        name: String,
    },
}

const CAPABILITIES: &str = "capabilities";
const REQUIRED: &str = "required capabilities";
const PREFERRED: &str = "preferred capabilities";
const RESOURCES: &str = "resources";

/// Values by name, in the order of the names: for few of them smaller than a tree, and nothing when empty.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Named<V>(Vec<(String, V)>);

impl<V> Default for Named<V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<V: Copy + Default> Named<V> {
    fn place(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(known, _)| known.as_str().cmp(name))
    }

    fn get(&self, name: &str) -> Option<V> {
        self.place(name).ok().map(|place| self.0[place].1)
    }

    fn entry(&mut self, name: &str) -> &mut V {
        let place = self.place(name).unwrap_or_else(|place| {
            self.0.insert(place, (name.to_owned(), V::default()));
            place
        });
        &mut self.0[place].1
    }

    fn iter(&self) -> impl ExactSizeIterator<Item = (&str, V)> {
        self.0.iter().map(|(name, value)| (name.as_str(), *value))
    }

    /// The mean of `degree` over all, and 1 where there are none: what is not asked for is there.
    fn mean(&self, degree: impl Fn(&str, V) -> f64) -> f64 {
        match self.0.len() {
            0 => 1.0,
            count => self.iter().map(|(name, value)| degree(name, value)).sum::<f64>() / count as f64,
        }
    }

    fn validate(&self, kind: &'static str) -> Result<(), CapabilityError> {
        if self.0.len() > NAMES_MAX {
            return Err(CapabilityError::TooMany { kind, count: self.0.len() });
        }
        self.iter().try_for_each(|(name, _)| match name.len() {
            0 => Err(CapabilityError::EmptyName { kind }),
            1..=NAME_LEN_MAX => Ok(()),
            len => Err(CapabilityError::LongName { kind, len }),
        })
    }

    fn check_known(&self, kind: &'static str, is_known: impl Fn(&str) -> bool) -> Result<(), CapabilityError> {
        match self.iter().find(|(name, _)| !is_known(name)) {
            Some((name, _)) => Err(CapabilityError::Unknown { kind, name: name.to_owned() }),
            None => Ok(()),
        }
    }
}

impl<V: Wire> Wire for Named<V> {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let count = reader.take_len()?;
        check_len(count, NAMES_MAX)?;
        let mut named = Vec::with_capacity(count);
        for _ in 0..count {
            let (name, value) = <(String, V)>::decode(reader)?;
            if name.is_empty() {
                return Err(DecodeError::Invalid("a capability or a resource has no name"));
            }
            check_len(name.len(), NAME_LEN_MAX)?;
            if named.last().is_some_and(|(last, _)| *last >= name) {
                return Err(DecodeError::Invalid("the names of capabilities or resources are not in order"));
            }
            named.push((name, value));
        }
        Ok(Self(named))
    }
}

/// Amounts of what is used up while a task runs, by name: memory, slots, licences. The unit is the name's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources(Named<u64>);

wire_struct!(Resources { 0 });

impl Resources {
    /// None at all.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With this amount of a resource, in place of what there was of it.
    #[must_use]
    pub fn with(mut self, name: &str, amount: u64) -> Self {
        *self.0.entry(name) = amount;
        self
    }

    /// How much there is of a resource; 0 where it is not named.
    pub fn get(&self, name: &str) -> u64 {
        self.0.get(name).unwrap_or(0)
    }

    /// Whether a resource is named, and be there none of it.
    pub fn has(&self, name: &str) -> bool {
        self.0.get(name).is_some()
    }

    /// Every resource that is named, in the order of the names.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, u64)> {
        self.0.iter()
    }

    /// Whether none is named.
    pub const fn is_empty(&self) -> bool {
        self.0.0.is_empty()
    }

    /// Whether there is at least so much of each.
    pub fn cover(&self, needed: &Self) -> bool {
        needed.iter().all(|(name, amount)| self.get(name) >= amount)
    }

    /// Takes away all that is needed; or nothing, and answers `false`, where that is more than there is.
    #[must_use]
    pub fn take(&mut self, needed: &Self) -> bool {
        let covered = self.cover(needed);
        if covered {
            for (name, amount) in needed.iter().filter(|(_, amount)| *amount > 0) {
                *self.0.entry(name) -= amount;
            }
        }
        covered
    }

    /// Puts back what was taken. Amounts end at the largest number there is.
    pub fn give_back(&mut self, taken: &Self) {
        for (name, amount) in taken.iter() {
            let free = self.0.entry(name);
            *free = free.saturating_add(amount);
        }
    }

    /// Checks the names.
    ///
    /// # Errors
    /// [`CapabilityError`] that names the limit.
    pub fn validate(&self) -> Result<(), CapabilityError> {
        self.0.validate(RESOURCES)
    }
}

/// What a node has: capabilities in a version each, and resources in all, whether free or in use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    versions: Named<u32>,
    resources: Resources,
}

wire_struct!(Capabilities { versions, resources });

impl Capabilities {
    /// None at all.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With a capability in this version, in place of another version of it.
    #[must_use]
    pub fn with(mut self, name: &str, version: u32) -> Self {
        *self.versions.entry(name) = version;
        self
    }

    /// With this amount of a resource in all.
    #[must_use]
    pub fn with_resource(mut self, name: &str, amount: u64) -> Self {
        self.resources = self.resources.with(name, amount);
        self
    }

    /// The version of a capability, where the node has it.
    pub fn version(&self, name: &str) -> Option<u32> {
        self.versions.get(name)
    }

    /// Every capability and its version, in the order of the names.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, u32)> {
        self.versions.iter()
    }

    /// The resources in all.
    pub const fn resources(&self) -> &Resources {
        &self.resources
    }

    /// Checks the names and how many there are.
    ///
    /// # Errors
    /// [`CapabilityError`] that names the limit.
    pub fn validate(&self) -> Result<(), CapabilityError> {
        self.versions.validate(CAPABILITIES)?;
        self.resources.validate()
    }

    /// How much of its resources is free: the mean over those that it names, and 1 where it names none.
    pub fn share_free(&self, free: &Resources) -> f64 {
        self.resources.0.mean(|name, total| share(free.get(name), total))
    }

    /// How well a capability is had: not at all, in a version too old, or as it is asked for.
    fn degree(&self, name: &str, oldest: u32) -> f64 {
        match self.version(name) {
            None => 0.0,
            Some(version) if version < oldest => 0.5,
            Some(_) => 1.0,
        }
    }
}

/// What a task asks of the node that runs it. By default nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requirements {
    required: Named<u32>,
    preferred: Named<u32>,
    resources: Resources,
}

wire_struct!(Requirements { required, preferred, resources });

impl Requirements {
    /// Nothing at all: every node will do.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Requires a capability in this version or a later one.
    #[must_use]
    pub fn requires(mut self, name: &str, oldest: u32) -> Self {
        *self.required.entry(name) = oldest;
        self
    }

    /// Prefers nodes with a capability in this version or a later one.
    #[must_use]
    pub fn prefers(mut self, name: &str, oldest: u32) -> Self {
        *self.preferred.entry(name) = oldest;
        self
    }

    /// Needs this amount of a resource while it runs.
    #[must_use]
    pub fn needs(mut self, resource: &str, amount: u64) -> Self {
        self.resources = self.resources.with(resource, amount);
        self
    }

    /// What this and another ask for together, to run both at a time: for a bundle of tasks.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        for (mine, others) in [(&mut self.required, &other.required), (&mut self.preferred, &other.preferred)] {
            for (name, oldest) in others.iter() {
                let version = mine.entry(name);
                *version = oldest.max(*version);
            }
        }
        self.resources.give_back(&other.resources);
        self
    }

    /// What is required, with the oldest version that will do, in the order of the names.
    pub fn required(&self) -> impl ExactSizeIterator<Item = (&str, u32)> {
        self.required.iter()
    }

    /// What is preferred, with the oldest version that will do, in the order of the names.
    pub fn preferred(&self) -> impl ExactSizeIterator<Item = (&str, u32)> {
        self.preferred.iter()
    }

    /// What is needed while the task runs.
    pub const fn resources(&self) -> &Resources {
        &self.resources
    }

    /// Whether nothing is asked for.
    pub const fn is_empty(&self) -> bool {
        self.required.0.is_empty() && self.preferred.0.is_empty() && self.resources.is_empty()
    }

    /// Checks the names and how many there are.
    ///
    /// # Errors
    /// [`CapabilityError`] that names the limit.
    pub fn validate(&self) -> Result<(), CapabilityError> {
        self.required.validate(REQUIRED)?;
        self.preferred.validate(PREFERRED)?;
        self.resources.validate()
    }

    /// Checks that the capabilities required and the resources needed are known: a task that names what no node can
    /// have would wait for ever. What is only preferred may be unknown.
    ///
    /// # Errors
    /// [`CapabilityError::Unknown`] with the first that is not.
    pub fn check_known(
        &self,
        is_capability: impl Fn(&str) -> bool,
        is_resource: impl Fn(&str) -> bool,
    ) -> Result<(), CapabilityError> {
        self.required.check_known(REQUIRED, is_capability)?;
        self.resources.0.check_known(RESOURCES, is_resource)
    }

    /// The gate: whether a node with these capabilities, and this much `free` of its resources, may run the task now.
    pub fn admits(&self, node: &Capabilities, free: &Resources) -> bool {
        self.required.iter().all(|(name, oldest)| node.version(name).is_some_and(|version| version >= oldest))
            && free.cover(&self.resources)
    }

    /// How well a node fits, from 0 to 1: `0.4 required + 0.4 preferred + 0.2 resources`.
    ///
    /// The first two are the mean over the capabilities named: 1 for one that is had as asked for, half for one in a
    /// version that is too old, and 0 for one that is missing. The third is the mean, over the resources needed, of
    /// the share that is free. Where nothing of a kind is asked for, its part is 1. So a node that is
    /// [admitted](Self::admits) has at least 0.6, and above 0.7 where more than a quarter of what is preferred is
    /// there.
    pub fn match_score(&self, node: &Capabilities, free: &Resources) -> f64 {
        let required = self.required.mean(|name, oldest| node.degree(name, oldest));
        let preferred = self.preferred.mean(|name, oldest| node.degree(name, oldest));
        let resources = self.resources.0.mean(|name, needed| share(free.get(name), needed));
        (2.0 * required + 2.0 * preferred + resources) / 5.0
    }
}

/// Which part of `all` there is: no more than all of it.
fn share(part: u64, all: u64) -> f64 {
    if part >= all { 1.0 } else { part as f64 / all as f64 }
}

#[cfg(test)]
mod tests {
    use mesh_core::wire;
    use proptest::collection::vec;
    use proptest::{prelude::any, prop_assert, prop_assert_eq, proptest};

    use super::*;

    /// Few names and small numbers, so that they meet.
    fn names() -> impl proptest::strategy::Strategy<Value = Vec<(u8, u8)>> {
        vec((0..5_u8, 0..4_u8), 0..6)
    }

    fn node(had: &[(u8, u8)], free: &[(u8, u8)]) -> Capabilities {
        let node = had
            .iter()
            .fold(Capabilities::new(), |node, (name, version)| node.with(&format!("c{name}"), u32::from(*version)));
        free.iter().fold(node, |node, (name, amount)| node.with_resource(&format!("r{name}"), u64::from(*amount)))
    }

    fn task(required: &[(u8, u8)], preferred: &[(u8, u8)], needed: &[(u8, u8)]) -> Requirements {
        let mut task = Requirements::new();
        for (name, version) in required {
            task = task.requires(&format!("c{name}"), u32::from(*version));
        }
        for (name, version) in preferred {
            task = task.prefers(&format!("c{name}"), u32::from(*version));
        }
        needed.iter().fold(task, |task, (name, amount)| task.needs(&format!("r{name}"), u64::from(*amount)))
    }

    #[test]
    fn who_asks_for_nothing_may_run_anywhere_and_holds_no_memory() {
        let task = Requirements::new();
        assert!(task.is_empty() && task.admits(&Capabilities::new(), &Resources::new()));
        assert_eq!(task.match_score(&Capabilities::new(), &Resources::new()), 1.0);
        assert_eq!((task.required.0.capacity(), task.preferred.0.capacity(), task.resources.0.0.capacity()), (0, 0, 0));
        assert_eq!(&wire::to_bytes(&task)[..], [0, 0, 0]);
    }

    #[test]
    fn an_old_version_or_a_resource_in_use_is_refused_however_good_the_rest() {
        let node = Capabilities::new().with("gpu", 2).with("a", 1).with("b", 1).with_resource("slots", 2);
        let fits = Requirements::new().requires("gpu", 2).prefers("a", 1).prefers("b", 1).needs("slots", 2);
        assert!(fits.admits(&node, node.resources()));
        let newer = fits.clone().requires("gpu", 3);
        assert!(!newer.admits(&node, node.resources()));
        assert!(newer.match_score(&node, node.resources()) > 0.7);
        assert!(!fits.admits(&node, &Resources::new().with("slots", 1)));
        assert!(!fits.admits(&node, &Resources::new()));
    }

    #[test]
    fn the_score_is_the_formula() {
        let node = node(&[(1, 2), (2, 1)], &[(1, 3)]);
        let task = task(&[(1, 2), (2, 2)], &[(2, 1), (3, 0)], &[(1, 2), (2, 5)]);
        let expected = 0.4 * (1.0 + 0.5) / 2.0 + 0.4 * (1.0 + 0.0) / 2.0 + 0.2 * (1.0 + 0.0) / 2.0;
        assert!((task.match_score(&node, node.resources()) - expected).abs() < 1e-12);
    }

    #[test]
    fn a_bundle_asks_for_the_newest_of_all_and_for_the_sum_of_resources() {
        let first = Requirements::new().requires("a", 3).prefers("c", 1).needs("slots", 2);
        let second = Requirements::new().requires("a", 1).requires("b", 2).needs("slots", 3).needs("gpu", 1);
        let both = Requirements::new().requires("a", 3).requires("b", 2).prefers("c", 1);
        let both = both.needs("slots", 5).needs("gpu", 1);
        assert_eq!(first.clone().and(&second), both);
        assert_eq!(second.and(&first), both);
    }

    #[test]
    fn more_than_there_is_takes_nothing() {
        let mut free = Resources::new().with("a", 5).with("b", 1);
        assert!(!free.take(&Resources::new().with("a", 2).with("b", 2)));
        assert_eq!(free, Resources::new().with("a", 5).with("b", 1));
        free.give_back(&Resources::new().with("a", u64::MAX));
        assert_eq!(free.get("a"), u64::MAX);
    }

    #[test]
    fn bad_names_are_refused_with_their_reason() {
        let long = "x".repeat(NAME_LEN_MAX + 1);
        let error = Requirements::new().requires("", 1).validate();
        assert_eq!(error, Err(CapabilityError::EmptyName { kind: REQUIRED }));
        let error = Requirements::new().prefers(&long, 1).validate();
        assert_eq!(error, Err(CapabilityError::LongName { kind: PREFERRED, len: NAME_LEN_MAX + 1 }));
        let many = |count| (0..count).fold(Capabilities::new(), |node, name| node.with(&name.to_string(), 1));
        assert_eq!(many(NAMES_MAX).validate(), Ok(()));
        let count = NAMES_MAX + 1;
        assert_eq!(many(count).validate(), Err(CapabilityError::TooMany { kind: CAPABILITIES, count }));
        let error = Requirements::new().requires("gpu", 1).check_known(|_| false, |_| true);
        assert_eq!(error, Err(CapabilityError::Unknown { kind: REQUIRED, name: "gpu".to_owned() }));
        let error = Requirements::new().needs("slots", 1).prefers("any", 1).check_known(|_| false, |_| false);
        assert_eq!(error, Err(CapabilityError::Unknown { kind: RESOURCES, name: "slots".to_owned() }));
    }

    #[test]
    fn what_breaks_the_limits_is_not_decoded() {
        let long = Resources::new().with(&"x".repeat(NAME_LEN_MAX + 1), 1);
        assert!(matches!(wire::from_bytes::<Resources>(&wire::to_bytes(&long)), Err(DecodeError::Length { .. })));
        let many = (0..=NAMES_MAX).fold(Resources::new(), |all, name| all.with(&name.to_string(), 1));
        assert!(matches!(wire::from_bytes::<Resources>(&wire::to_bytes(&many)), Err(DecodeError::Length { .. })));
        for unordered in [vec![("b", 1_u64), ("a", 1)], vec![("a", 1), ("a", 2)], vec![("", 1)]] {
            let named: Vec<_> = unordered.iter().map(|(name, amount)| ((*name).to_owned(), *amount)).collect();
            let bytes = wire::to_bytes(&named);
            assert!(matches!(wire::from_bytes::<Resources>(&bytes), Err(DecodeError::Invalid(_))), "{unordered:?}");
        }
    }

    proptest! {
        #[test]
        fn requirements_and_capabilities_survive_the_wire(a in names(), b in names(), c in names()) {
            let (task, node) = (task(&a, &b, &c), node(&a, &c));
            prop_assert_eq!(wire::from_bytes(&wire::to_bytes(&task)), Ok(task));
            prop_assert_eq!(wire::from_bytes(&wire::to_bytes(&node)), Ok(node));
        }

        #[test]
        fn arbitrary_bytes_do_no_harm(bytes in vec(any::<u8>(), 0..200)) {
            if let Ok(task) = wire::from_slice::<Requirements>(&bytes) {
                prop_assert_eq!(task.validate(), Ok(()));
                prop_assert_eq!(&wire::to_bytes(&task)[..], &bytes[..]);
            }
        }

        #[test]
        fn the_score_is_a_share_and_an_admitted_node_has_enough_of_it(
            a in names(), b in names(), c in names(), had in names(), free in names(),
        ) {
            let (task, node) = (task(&a, &b, &c), node(&had, &free));
            let score = task.match_score(&node, node.resources());
            prop_assert!((0.0..=1.0).contains(&score));
            if task.admits(&node, node.resources()) {
                prop_assert!(score >= 0.6);
            }
        }

        #[test]
        fn a_node_that_has_more_never_fits_worse(
            a in names(), b in names(), c in names(), had in names(), free in names(), more in 0..5_u8,
        ) {
            let (task, node) = (task(&a, &b, &c), node(&had, &free));
            let (capability, resource) = (format!("c{more}"), format!("r{more}"));
            let better = node.clone().with(&capability, node.version(&capability).map_or(0, |version| version + 1));
            let better = better.with_resource(&resource, node.resources().get(&resource) + 1);
            let (before, after) = (node.resources(), better.resources());
            prop_assert!(task.match_score(&better, after) >= task.match_score(&node, before));
            prop_assert!(task.admits(&better, after) || !task.admits(&node, before));
        }

        #[test]
        fn what_is_taken_and_put_back_is_there_again(free in names(), needed in names()) {
            let (mut now, needed) = (node(&[], &free).resources().clone(), task(&[], &[], &needed).resources().clone());
            let before = now.clone();
            let covered = now.cover(&needed);
            prop_assert_eq!(now.take(&needed), covered);
            if covered {
                now.give_back(&needed);
            }
            prop_assert!(now.cover(&before) && before.cover(&now));
        }
    }
}
