//! Bugs on purpose, to prove that the tests would find them.

/// A safety rule to break. Only in builds with the feature `planted`, which no release has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Plant {
    /// A second batch is taken at a sequence number in one view.
    SecondPrePrepare,
    /// f + 1 votes are a quorum.
    QuorumTooSmall,
    /// A commit is sent before what it promises is on disk.
    CommitBeforePersist,
    /// A view change does not tell what was prepared.
    PreparedForgotten,
    /// A replica that lost its disk takes part at once.
    WipedSpeaks,
    /// A read is answered from the state as it is.
    StaleReads,
    /// What is beyond the end of an epoch is taken in it.
    EpochsOverlap,
    /// A change of epochs is believed without a signature.
    EpochUnproved,
    /// A replica votes in an epoch without the state that it begins with.
    VotesWithoutState,
}

impl Plant {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::SecondPrePrepare,
        Self::QuorumTooSmall,
        Self::CommitBeforePersist,
        Self::PreparedForgotten,
        Self::WipedSpeaks,
        Self::StaleReads,
        Self::EpochsOverlap,
        Self::EpochUnproved,
        Self::VotesWithoutState,
    ];
}
