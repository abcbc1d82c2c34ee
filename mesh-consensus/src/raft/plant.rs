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
    /// The configuration is changed before an entry of the term is committed.
    ChangeBeforeTermStart,
    /// A server becomes a voter before it has caught up.
    PromoteBeforeCaughtUp,
    /// An answer of an earlier replication session counts.
    AnyReplicationSession,
    /// In a joint configuration one majority commits.
    OneMajorityInJoint,
    /// The vote of a server that lost its disk counts.
    CountReplacedReplica,
    /// The first election of a group is won by a majority.
    GenesisByMajority,
    /// A lease lasts as long as if all clocks ran alike.
    LeaseIgnoresDrift,
    /// A promise not to vote for others is given and not kept.
    PromiseForgotten,
    /// A leader reads before an entry of its term is committed.
    ReadBeforeTermStart,
    /// A read is confirmed by answers to the round before it.
    ReadByOldRound,
    /// A read is answered before a majority has confirmed its round.
    ReadWithoutRound,
    /// A snapshot is installed without its configuration.
    SnapshotLosesConfiguration,
    /// A read is answered before its index is applied.
    ReadBeforeApplied,
    /// A snapshot that is late takes back what came after it.
    LateSnapshotTruncates,
    /// Entries that contradict a snapshot are kept behind it.
    SnapshotKeepsConflict,
    /// A snapshot is installed before it is on disk.
    InstallBeforeDurable,
    /// Chunks of different snapshots are put together.
    MixSnapshots,
    /// A snapshot is installed whatever its checksum.
    SnapshotUnchecked,
    /// The log is compacted beyond the snapshot that it begins with.
    CompactBeyondSnapshot,
    /// A snapshot in the leader's place is sent however old it is.
    LendStaleSnapshot,
    /// A snapshot in the leader's place is taken whatever its replication session.
    LentSessionIgnored,
    /// A witness tries to lead.
    WitnessCampaigns,
    /// A witness answers reads.
    WitnessReads,
    /// A witness that installs a snapshot does not note that it is one.
    WitnessForgotten,
    /// A witness gets entries before the leader has them on disk.
    WitnessBeforeDisk,
    /// A majority of witnesses commits what no voter with data has.
    WitnessesCommitAlone,
    /// A server with data takes entries that the data is left out of.
    DataOmitted,
    /// A witness counts as a server with data, or the other way round.
    WrongDiskCounts,
    /// The answer to a command of a session is not kept, so a copy of it is applied again.
    AnswersNotKept,
    /// A snapshot is restored without its client sessions.
    SnapshotLosesSessions,
    /// Client sessions expire by the clock of each replica.
    ExpireByOwnClock,
    /// A leader takes a forward each time it arrives.
    ForwardTakenAgain,
    /// A forward without an answer is said to have gone nowhere, so that who asked sends it again.
    LostForwardSaidToBeNowhere,
    /// A vote for a node counts for whatever disk it has now.
    VoteForLostDisk,
}

impl Plant {
    /// All of them.
    pub const ALL: [Self; 40] = [
        Self::VoteBeforePersist,
        Self::AckBeforeFsync,
        Self::CommitOldTermByCounting,
        Self::StaleAppendTruncates,
        Self::VoteForStaleLog,
        Self::CommitBeyondMatch,
        Self::ChangeBeforeTermStart,
        Self::PromoteBeforeCaughtUp,
        Self::AnyReplicationSession,
        Self::OneMajorityInJoint,
        Self::CountReplacedReplica,
        Self::GenesisByMajority,
        Self::LeaseIgnoresDrift,
        Self::PromiseForgotten,
        Self::ReadBeforeTermStart,
        Self::ReadByOldRound,
        Self::ReadWithoutRound,
        Self::SnapshotLosesConfiguration,
        Self::ReadBeforeApplied,
        Self::LateSnapshotTruncates,
        Self::SnapshotKeepsConflict,
        Self::InstallBeforeDurable,
        Self::MixSnapshots,
        Self::SnapshotUnchecked,
        Self::CompactBeyondSnapshot,
        Self::LendStaleSnapshot,
        Self::LentSessionIgnored,
        Self::WitnessCampaigns,
        Self::WitnessReads,
        Self::WitnessForgotten,
        Self::WitnessBeforeDisk,
        Self::WitnessesCommitAlone,
        Self::DataOmitted,
        Self::WrongDiskCounts,
        Self::AnswersNotKept,
        Self::SnapshotLosesSessions,
        Self::ExpireByOwnClock,
        Self::ForwardTakenAgain,
        Self::LostForwardSaidToBeNowhere,
        Self::VoteForLostDisk,
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
            Self::ChangeBeforeTermStart => "change-before-term-start",
            Self::PromoteBeforeCaughtUp => "promote-before-caught-up",
            Self::AnyReplicationSession => "any-replication-session",
            Self::OneMajorityInJoint => "one-majority-in-joint",
            Self::CountReplacedReplica => "count-replaced-replica",
            Self::GenesisByMajority => "genesis-by-majority",
            Self::LeaseIgnoresDrift => "lease-ignores-drift",
            Self::PromiseForgotten => "promise-forgotten",
            Self::ReadBeforeTermStart => "read-before-term-start",
            Self::ReadByOldRound => "read-by-old-round",
            Self::ReadWithoutRound => "read-without-round",
            Self::SnapshotLosesConfiguration => "snapshot-loses-configuration",
            Self::ReadBeforeApplied => "read-before-applied",
            Self::LateSnapshotTruncates => "late-snapshot-truncates",
            Self::SnapshotKeepsConflict => "snapshot-keeps-conflict",
            Self::InstallBeforeDurable => "install-before-durable",
            Self::MixSnapshots => "mix-snapshots",
            Self::SnapshotUnchecked => "snapshot-unchecked",
            Self::CompactBeyondSnapshot => "compact-beyond-snapshot",
            Self::LendStaleSnapshot => "lend-stale-snapshot",
            Self::LentSessionIgnored => "lent-session-ignored",
            Self::WitnessCampaigns => "witness-campaigns",
            Self::WitnessReads => "witness-reads",
            Self::WitnessForgotten => "witness-forgotten",
            Self::WitnessBeforeDisk => "witness-before-disk",
            Self::WitnessesCommitAlone => "witnesses-commit-alone",
            Self::DataOmitted => "data-omitted",
            Self::WrongDiskCounts => "wrong-disk-counts",
            Self::AnswersNotKept => "answers-not-kept",
            Self::SnapshotLosesSessions => "snapshot-loses-sessions",
            Self::ExpireByOwnClock => "expire-by-own-clock",
            Self::ForwardTakenAgain => "forward-taken-again",
            Self::LostForwardSaidToBeNowhere => "lost-forward-said-to-be-nowhere",
            Self::VoteForLostDisk => "vote-for-lost-disk",
        }
    }

    /// The one of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|plant| plant.name() == name)
    }
}
