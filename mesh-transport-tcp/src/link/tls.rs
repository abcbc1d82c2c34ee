//! TLS as bytes in and bytes out: a thin layer over rustls's unbuffered connections.

use std::fmt;

use mesh_core::NodeId;
use mesh_core::identity::PublicKey;
use rustls::CommonState;
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};

use super::LinkError;
use super::output::Output;
use crate::verifier::{ALPN, Refusal, TlsConfigs, key_of};

/// What a TLS record adds: header, content type and tag.
const RECORD_OVERHEAD: usize = 5 + 1 + 16;
/// The most plaintext in one record.
pub(super) const RECORD_LEN_MAX: usize = 16 * 1024;

enum End {
    Client(Box<UnbufferedClientConnection>),
    Server(Box<UnbufferedServerConnection>),
}

/// One TLS session.
pub(super) struct Tls {
    end: End,
    /// Whether reading failed. The session is not asked again then: it holds places in an input that is gone.
    failed: bool,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("handshaking", &self.is_handshaking()).finish_non_exhaustive()
    }
}

/// What one step of the session led to.
enum Step {
    /// There may be more to do.
    Again,
    /// More bytes are needed.
    Blocked,
    /// The peer will send no more.
    PeerClosed,
}

impl Tls {
    pub(super) fn client(configs: &TlsConfigs, expected: Option<NodeId>) -> Result<Self, LinkError> {
        // Never sent: who answers is checked by key.
        let name = ServerName::try_from("mesh").map_err(|error| LinkError::Tls(error.to_string()))?;
        let session = UnbufferedClientConnection::new(configs.client(expected), name).map_err(link_error)?;
        Ok(Self { end: End::Client(Box::new(session)), failed: false })
    }

    pub(super) fn server(configs: &TlsConfigs) -> Result<Self, LinkError> {
        let session = UnbufferedServerConnection::new(configs.server()).map_err(link_error)?;
        Ok(Self { end: End::Server(Box::new(session)), failed: false })
    }

    fn common(&self) -> &CommonState {
        match &self.end {
            End::Client(session) => session,
            End::Server(session) => session,
        }
    }

    pub(super) fn is_handshaking(&self) -> bool {
        self.common().is_handshaking()
    }

    /// Whose key the handshake proved, once it has ended.
    pub(super) fn peer(&self) -> Option<PublicKey> {
        key_of(self.common().peer_certificates()?.first()?)
    }

    /// Whether both ends agreed on this version of the link.
    pub(super) fn is_this_version(&self) -> bool {
        self.common().alpn_protocol() == Some(ALPN)
    }

    /// Reads the whole records at the front of `input` and returns how many bytes they took and
    /// whether the peer closed the session. What is to be answered goes to `output`.
    pub(super) fn read(
        &mut self,
        input: &mut [u8],
        output: &mut Output,
        deliver: &mut impl FnMut(&[u8]) -> Result<(), LinkError>,
    ) -> Result<(usize, bool), LinkError> {
        if self.failed {
            return Err(LinkError::Closed);
        }
        let (mut used, mut closed) = (0, false);
        loop {
            match self.step(&mut input[used..], &mut used, output, deliver) {
                Ok(Step::Again) => {}
                Ok(Step::PeerClosed) => closed = true,
                Ok(Step::Blocked) => return Ok((used, closed)),
                Err(error) => {
                    self.failed = true;
                    // The alert that tells the peer why. Only if there is one: the session would read on.
                    while self.common().wants_write() && self.step(&mut [], &mut 0, output, &mut |_| Ok(())).is_ok() {}
                    return Err(error);
                }
            }
        }
    }

    fn step(
        &mut self,
        input: &mut [u8],
        used: &mut usize,
        output: &mut Output,
        deliver: &mut impl FnMut(&[u8]) -> Result<(), LinkError>,
    ) -> Result<Step, LinkError> {
        match &mut self.end {
            End::Client(session) => advance(session.process_tls_records(input), used, output, deliver),
            End::Server(session) => advance(session.process_tls_records(input), used, output, deliver),
        }
    }

    /// Encrypts `plain` to `output`. `unread` is what the last read left of its input: the session
    /// may hold on to places in it.
    pub(super) fn seal(&mut self, plain: &[u8], unread: &mut Vec<u8>, output: &mut Output) -> Result<(), LinkError> {
        self.write(Word::Data(plain), unread, output)
    }

    /// Tells the peer that nothing more will come.
    pub(super) fn close(&mut self, unread: &mut Vec<u8>, output: &mut Output) -> Result<(), LinkError> {
        self.write(Word::Close, unread, output)
    }

    fn write(&mut self, word: Word<'_>, unread: &mut Vec<u8>, output: &mut Output) -> Result<(), LinkError> {
        if self.failed {
            return Err(LinkError::Closed);
        }
        let mut room = match word {
            Word::Data(plain) => plain.len() + (plain.len() / RECORD_LEN_MAX + 1) * RECORD_OVERHEAD,
            Word::Close => RECORD_OVERHEAD + 2,
        };
        loop {
            let mut used = 0;
            let written = match &mut self.end {
                End::Client(session) => speak(session.process_tls_records(unread), &mut used, word, &mut room, output),
                End::Server(session) => speak(session.process_tls_records(unread), &mut used, word, &mut room, output),
            };
            unread.drain(..used);
            if written? {
                return Ok(());
            }
        }
    }
}

/// What to say once the session may.
#[derive(Clone, Copy)]
enum Word<'a> {
    Data(&'a [u8]),
    Close,
}

/// Says `word` where that is possible now; `false` when it is worth trying again.
fn speak<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    used: &mut usize,
    word: Word<'_>,
    room: &mut usize,
    output: &mut Output,
) -> Result<bool, LinkError> {
    *used = status.discard;
    let mut traffic = match status.state.map_err(link_error)? {
        ConnectionState::WriteTraffic(traffic) => traffic,
        state => return encode(state, output).map(|()| false),
    };
    let written = match word {
        Word::Data(plain) => traffic.encrypt(plain, output.space(*room)),
        Word::Close => traffic.queue_close_notify(output.space(*room)),
    };
    match written {
        Ok(written) => {
            output.filled(written);
            Ok(true)
        }
        // An answer of the session itself goes out with it.
        Err(EncryptError::InsufficientSize(needed)) if needed.required_size > *room => {
            *room = needed.required_size;
            Ok(false)
        }
        Err(error) => Err(LinkError::Tls(error.to_string())),
    }
}

fn advance<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    used: &mut usize,
    output: &mut Output,
    deliver: &mut impl FnMut(&[u8]) -> Result<(), LinkError>,
) -> Result<Step, LinkError> {
    let UnbufferedStatus { discard, state } = status;
    *used += discard;
    match state.map_err(link_error)? {
        ConnectionState::ReadTraffic(mut traffic) => {
            while let Some(record) = traffic.next_record() {
                let record = record.map_err(link_error)?;
                *used += record.discard;
                deliver(record.payload)?;
            }
            Ok(Step::Again)
        }
        ConnectionState::PeerClosed => Ok(Step::PeerClosed),
        ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_) | ConnectionState::Closed => {
            Ok(Step::Blocked)
        }
        state => encode(state, output).map(|()| Step::Again),
    }
}

/// Puts out what the session itself has to say.
fn encode<Data>(state: ConnectionState<'_, '_, Data>, output: &mut Output) -> Result<(), LinkError> {
    match state {
        ConnectionState::EncodeTlsData(mut data) => {
            let mut len = RECORD_OVERHEAD;
            loop {
                match data.encode(output.space(len)) {
                    Ok(written) => break output.filled(written),
                    Err(EncodeError::InsufficientSize(needed)) if needed.required_size > len => {
                        len = needed.required_size;
                    }
                    Err(error) => return Err(LinkError::Tls(error.to_string())),
                }
            }
            Ok(())
        }
        ConnectionState::TransmitTlsData(data) => {
            data.done();
            Ok(())
        }
        // The peer closes, or has not ended its handshake: nothing can be said to it.
        ConnectionState::PeerClosed => Ok(()),
        _ => Err(LinkError::Closed),
    }
}

/// Our own refusals come back through rustls as they went in.
pub(super) fn link_error(error: rustls::Error) -> LinkError {
    if let rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other)) = &error
        && let Some(refusal) = other.0.downcast_ref::<Refusal>()
    {
        return LinkError::Refused(*refusal);
    }
    LinkError::Tls(error.to_string())
}
