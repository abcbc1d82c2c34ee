//! Frames against any messages, under any limit, and against arbitrary bytes.

use mesh_core::frame::{FRAME_OVERHEAD, FRAME_VERSION, FrameBuilder, FrameError, sections};
use mesh_core::{Bytes, ProtocolId};
use proptest::prelude::*;

/// The messages in a frame, in order, with whose they are.
fn walk(frame: Bytes) -> Result<Vec<(ProtocolId, Vec<u8>)>, FrameError> {
    let mut all = Vec::new();
    for section in sections(&frame)? {
        let section = section?;
        for message in section.messages() {
            all.push((section.protocol(), message?.remaining().to_vec()));
        }
    }
    Ok(all)
}

proptest! {
    #[test]
    fn every_message_that_fits_a_frame_comes_out_once_and_in_order(
        limit in 0..120usize,
        messages in prop::collection::vec((0..3u32, 0..120usize, any::<bool>()), 0..60),
    ) {
        let mut builder = FrameBuilder::new(limit);
        let mut pushed = Vec::new();
        for (at, (protocol, len, encodes)) in messages.into_iter().enumerate() {
            let (protocol, message) = (ProtocolId(protocol), vec![at as u8; len]);
            let taken = if encodes {
                builder.push_with(protocol, |out| out.extend_from_slice(&message))
            } else {
                builder.push(protocol, &message)
            };
            prop_assert_eq!(taken, len + FRAME_OVERHEAD <= limit);
            if taken {
                pushed.push((protocol, message));
            }
        }
        let mut walked = Vec::new();
        while let Some(frame) = builder.pop() {
            prop_assert!(frame.len() <= limit, "{} > {limit}", frame.len());
            walked.extend(walk(frame).unwrap());
        }
        prop_assert!(builder.is_empty());
        prop_assert_eq!(walked, pushed);
    }

    #[test]
    fn arbitrary_bytes_never_panic_and_give_no_more_than_they_hold(
        tail in prop::collection::vec(prop_oneof![3 => Just(0u8), 2 => 0..12u8, 1 => any::<u8>()], 0..200),
    ) {
        let frame = [&[FRAME_VERSION], &tail[..]].concat();
        if let Ok(messages) = walk(frame.clone().into()) {
            let held: usize = messages.iter().map(|(_, message)| 4 + message.len()).sum();
            prop_assert!(held < frame.len());
        }
    }
}
