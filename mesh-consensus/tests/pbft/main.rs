//! Groups of four and seven replicas in the simulator, in both modes of authentication.

#![allow(unreachable_pub, reason = "the modules of a test share what they need")]

mod byzantine;
mod epoch_stories;
mod epochs;
mod evidence;
mod floods;
mod group;
mod liar;
mod normal;
#[cfg(feature = "planted")]
mod planted;
mod reads;
mod recovery;
mod signatures;
mod slow;
mod stories;
mod succession;
mod view_changes;
