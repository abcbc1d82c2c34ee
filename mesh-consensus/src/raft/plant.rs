//! Bugs on purpose, to prove that the tests would find them.

/// A safety rule to break. Only in builds with the feature `planted`, which no release has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Plant {
    /// A vote is sent before it is on disk.
    VoteBeforePersist,
    /// Entries are acknowledged before they are on disk.
    AckBeforeFsync,
    /// Entries of earlier terms are committed by counting copies.
    CommitOldTermByCounting,
    /// An append truncates what follows it, even where nothing conflicts.
    StaleAppendTruncates,
    /// A vote is given whatever the candidate's log lacks.
    VoteForStaleLog,
    /// A follower commits what it has not compared with the leader's log.
    CommitBeyondMatch,
}

impl Plant {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::VoteBeforePersist,
        Self::AckBeforeFsync,
        Self::CommitOldTermByCounting,
        Self::StaleAppendTruncates,
        Self::VoteForStaleLog,
        Self::CommitBeyondMatch,
    ];

    /// The name on a command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::VoteBeforePersist => "vote-before-persist",
            Self::AckBeforeFsync => "ack-before-fsync",
            Self::CommitOldTermByCounting => "commit-old-term-by-counting",
            Self::StaleAppendTruncates => "stale-append-truncates",
            Self::VoteForStaleLog => "vote-for-stale-log",
            Self::CommitBeyondMatch => "commit-beyond-match",
        }
    }

    /// The one of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|plant| plant.name() == name)
    }
}
