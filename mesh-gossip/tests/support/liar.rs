//! A node that says whatever it is told to say, byte by byte, and writes down what it hears.

use mesh_core::{Bytes, Context, DecodeError, Never, NodeId, Protocol, Reader, RequestId, Wire};

/// How much is written down.
const HEARD_MAX: usize = 4096;

/// The bytes of a message, whatever they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Raw(pub Bytes);

impl Wire for Raw {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let bytes = Bytes::copy_from_slice(reader.remaining());
        reader.skip_rest();
        Ok(Self(bytes))
    }
}

/// Says what it is told to say.
#[derive(Clone, Debug, Default)]
pub struct Liar {
    /// What it heard, the oldest first; later ones replace the first where it is too much.
    pub heard: Vec<(NodeId, Bytes)>,
}

impl Protocol for Liar {
    type Message = Raw;
    type Command = (NodeId, Bytes);
    type Reply = ();
    type Event = ();
    type Timer = ();
    type Record = Never;

    fn on_message(&mut self, _cx: &mut Context<'_, Self>, from: NodeId, Raw(bytes): Raw) {
        if self.heard.len() == HEARD_MAX {
            self.heard.remove(0);
        }
        self.heard.push((from, bytes));
    }

    fn on_timer(&mut self, _cx: &mut Context<'_, Self>, (): ()) {}

    fn on_command(&mut self, cx: &mut Context<'_, Self>, request: RequestId, (to, bytes): (NodeId, Bytes)) {
        cx.send(to, Raw(bytes));
        cx.reply(request, ());
    }
}
