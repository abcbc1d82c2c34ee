//! What the fuzz targets do with their bytes: one helper a kind of target.
//!
//! | kind | module | targets |
//! | --- | --- | --- |
//! | every message and record type: decoding, and that what was decoded has one encoding | [`decode`] | `decode` |
//! | what a node does with frames, sealed and not | [`frame`] | `frame` |
//! | one protocol, played by messages, commands, time and the log | [`play`], [`subjects`] | one a protocol |
//! | one end of a TCP link | [`link`] | `link` |
//! | the log through crashes and damage | [`log`] | `log` |
//!
//! `cargo run --example seeds` writes the corpus to begin with: what a small group of real nodes says to its first.

pub mod decode;
pub mod frame;
pub mod input;
pub mod link;
pub mod log;
pub mod play;
pub mod subjects;
