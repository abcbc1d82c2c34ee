//! Agreement for mesh: Raft, pBFT and votes.
