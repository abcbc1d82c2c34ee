//! What messengers say to each other, and its wire form.
//!
//! A message is a version, a kind and fields. Of a newer version, fields after those known here are skipped, and
//! unknown kinds do not decode: the host drops and counts them. What the application says is a byte string in it.

use mesh_core::{Bytes, wire_enum, wire_message, wire_struct};

/// The version of the message format.
const VERSION: u8 = 1;

/// The leave to call a node, in its present life. A call under another one is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pass {
    /// The life of the node that gave it.
    pub life: u64,
    /// Numbers those that it gave.
    pub issue: u64,
}

/// Which request or notice of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId {
    /// The life of the caller, drawn at random.
    pub life: u64,
    /// Numbers the calls of that life.
    pub number: u64,
}

/// What is wanted of the receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An answer of its application.
    Request {
        /// For how many milliseconds the caller waits.
        within: u64,
    },
    /// Its own word that it has the message.
    Notice,
}

/// What a node says to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Asks for a pass, for a call that was not made yet.
    Hello {
        /// Which call.
        call: CallId,
    },
    /// A pass.
    Welcome {
        /// For which call it was asked.
        call: CallId,
        /// The pass.
        pass: Pass,
    },
    /// A request or a notice.
    Call {
        /// Which.
        call: CallId,
        /// The place it has among the calls of its sender to the receiver. The one that had it before is over.
        slot: u16,
        /// The pass of the receiver.
        pass: Pass,
        /// What is wanted.
        kind: Kind,
        /// What the application says.
        body: Bytes,
    },
    /// How is it with a call that was received?
    Again {
        /// Which.
        call: CallId,
        /// Its place.
        slot: u16,
        /// Its pass.
        pass: Pass,
    },
    /// The call is there; if it is a request, the answer will follow.
    Received {
        /// Which.
        call: CallId,
    },
    /// The answer to a request.
    Answer {
        /// To which.
        call: CallId,
        /// What the application says.
        body: Bytes,
    },
    /// There is no room, or what was said is no message of the application: the call was not handled, and will not be.
    Refused {
        /// Which.
        call: CallId,
        /// Whether this is an answer to the call itself, and not to its [`Hello`](Self::Hello).
        called: bool,
    },
    /// There is no answer to give: the call may have been handled, in this life of the sender or an earlier one.
    Lost {
        /// Which.
        call: CallId,
    },
}

wire_struct!(Pass { life, issue });
wire_struct!(CallId { life, number });
wire_enum!(Kind { 0 => Request { within }, 1 => Notice });
wire_message!(Message: version VERSION {
    0 => Hello { call },
    1 => Welcome { call, pass },
    2 => Call { call, slot, pass, kind, body },
    3 => Again { call, slot, pass },
    4 => Received { call },
    5 => Answer { call, body },
    6 => Refused { call, called },
    7 => Lost { call },
});

#[cfg(test)]
mod tests {
    use mesh_core::wire;

    use super::*;
    use crate::testing::{any_bytes_are_the_same_or_an_error, messages_come_back};

    fn all() -> Vec<Message> {
        let (call, pass) = (CallId { life: u64::MAX, number: 300 }, Pass { life: 1 << 60, issue: 7 });
        let body = Bytes::from_static(b"body");
        vec![
            Message::Hello { call },
            Message::Welcome { call, pass },
            Message::Call { call, slot: 3, pass, kind: Kind::Request { within: 1_000 }, body: body.clone() },
            Message::Call { call, slot: 400, pass, kind: Kind::Notice, body: Bytes::new() },
            Message::Again { call, slot: 3, pass },
            Message::Received { call },
            Message::Answer { call, body },
            Message::Refused { call, called: true },
            Message::Lost { call },
        ]
    }

    #[test]
    fn s25_messages_come_back_as_they_were_and_what_a_later_version_adds_is_skipped() {
        messages_come_back(VERSION, all());
        assert!(wire::from_slice::<Message>(&[VERSION, 8, 0]).is_err());
        assert!(wire::from_slice::<Message>(&[0, 4, 0]).is_err());
    }

    #[test]
    fn s15_a_pass_takes_no_more_than_twice_the_bytes_of_the_question_for_it() {
        let (call, pass) = (CallId { life: u64::MAX, number: 1 }, Pass { life: u64::MAX, issue: u64::MAX });
        let len = |message| wire::to_bytes(&message).len();
        assert!(len(Message::Welcome { call, pass }) <= 2 * len(Message::Hello { call }) + 8);
    }

    #[test]
    fn s15_any_bytes_are_a_message_of_the_same_bytes_or_an_error() {
        any_bytes_are_the_same_or_an_error::<Message>(VERSION, 0..9);
    }
}
