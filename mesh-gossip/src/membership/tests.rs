//! Unit stories.
