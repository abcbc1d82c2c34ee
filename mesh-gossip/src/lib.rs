//! Membership, failure detection and shared state for mesh.
