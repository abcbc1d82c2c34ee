//! Raw public keys: who is at the other end, and may it have a link?
//!
//! Both ends present a bare Ed25519 key (RFC 7250) and sign the handshake with it. There are no
//! certificates: the id is the digest of the key, so a key that was proved is an id that was
//! proved. What remains to be asked is whether it is the node that was dialed and whether it is on
//! the allow list, and that is asked before its signature costs anything.

use std::sync::{Arc, Mutex, PoisonError};

use mesh_core::NodeId;
use mesh_core::identity::{PublicKey, SecretKey, Signature};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage};
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, OtherError, PeerMisbehaved, ServerConfig,
    SignatureAlgorithm, SignatureScheme, version,
};

use crate::config::Allow;

/// The name of this version of the link in the TLS handshake (ALPN).
pub(crate) const ALPN: &[u8] = b"mesh/1";

/// What stands before the 32 bytes of an Ed25519 key in its DER form (RFC 8410).
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

fn spki_of(key: &PublicKey) -> Vec<u8> {
    [&SPKI_PREFIX[..], key.as_bytes()].concat()
}

/// The key in its DER form, if it is an Ed25519 key.
pub(crate) fn key_of(spki: &[u8]) -> Option<PublicKey> {
    Some(PublicKey::from_bytes(spki.strip_prefix(&SPKI_PREFIX)?.try_into().ok()?))
}

/// Why a node that was heard gets no link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The peer is not on the allow list.
    #[error("{peer} is not on the allow list")]
    NotAllowed {
        /// Who it is.
        peer: NodeId,
    },
    /// Another node than the one dialed lives at the address.
    #[error("{found} answered where {expected} was dialed")]
    WrongPeer {
        /// Who was dialed.
        expected: NodeId,
        /// Who answered.
        found: NodeId,
    },
    /// The address dialed is this node's own.
    #[error("the node dialed itself")]
    Oneself,
    /// What the peer presented is no Ed25519 key.
    #[error("the peer presented no Ed25519 key")]
    NoKey,
}

/// Decides who may have a link. The allow list may change while links come and go.
#[derive(Debug)]
pub(crate) struct Gate {
    me: NodeId,
    allow: Mutex<Allow>,
}

impl Gate {
    pub(crate) fn new(me: NodeId, allow: Allow) -> Self {
        Self { me, allow: Mutex::new(allow) }
    }

    pub(crate) fn set(&self, allow: Allow) {
        *self.allow.lock().unwrap_or_else(PoisonError::into_inner) = allow;
    }

    pub(crate) fn allows(&self, peer: NodeId) -> bool {
        self.allow.lock().unwrap_or_else(PoisonError::into_inner).allows(peer)
    }

    /// Checks `peer`, dialed as `expected` where that was known.
    pub(crate) fn admit(&self, peer: NodeId, expected: Option<NodeId>) -> Result<(), Refusal> {
        if peer == self.me {
            return Err(Refusal::Oneself);
        }
        match expected {
            Some(expected) if expected != peer => Err(Refusal::WrongPeer { expected, found: peer }),
            _ if !self.allows(peer) => Err(Refusal::NotAllowed { peer }),
            _ => Ok(()),
        }
    }
}

/// Checks the key of the other end, whichever end that is.
#[derive(Debug)]
struct Verifier {
    gate: Arc<Gate>,
    expected: Option<NodeId>,
}

impl Verifier {
    fn check_key(&self, presented: &[u8]) -> Result<(), rustls::Error> {
        let key = key_of(presented).ok_or(Refusal::NoKey);
        let admitted = key.and_then(|key| self.gate.admit(key.node_id(), self.expected));
        admitted.map_err(|refusal| CertificateError::Other(OtherError(Arc::new(refusal))).into())
    }

    /// One rule for signatures everywhere in mesh, the strict one, so a weak key proves nothing.
    fn check_signature(
        message: &[u8],
        presented: &[u8],
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        if signed.scheme != SignatureScheme::ED25519 {
            return Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into());
        }
        let bad = || rustls::Error::from(CertificateError::BadSignature);
        let key = key_of(presented).ok_or_else(bad)?;
        let signature = Signature::from_bytes(signed.signature().try_into().map_err(|_| bad())?);
        key.verify(message, &signature).map_err(|_| bad())?;
        Ok(HandshakeSignatureValid::assertion())
    }
}

fn tls12_never<T>() -> Result<T, rustls::Error> {
    Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into())
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check_key(end_entity)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        tls12_never()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Self::check_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.check_key(end_entity)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        tls12_never()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Self::check_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// Signs handshakes with the node's key, which never leaves its type.
#[derive(Clone, Debug)]
struct NodeSigner(SecretKey);

impl SigningKey for NodeSigner {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        offered.contains(&SignatureScheme::ED25519).then(|| Box::new(self.clone()) as Box<dyn Signer>)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(spki_of(&self.0.public()).into())
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ED25519
    }
}

impl Signer for NodeSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        Ok(self.0.sign(message).as_bytes().to_vec())
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ED25519
    }
}

/// The TLS settings of both ends of a node's links.
#[derive(Clone, Debug)]
pub(crate) struct TlsConfigs {
    gate: Arc<Gate>,
    client: ClientConfig,
    server: Arc<ServerConfig>,
}

impl TlsConfigs {
    pub(crate) fn new(key: SecretKey, gate: Arc<Gate>) -> Result<Self, rustls::Error> {
        let presented = key.public();
        Self::presenting(presented, key, gate, vec![ALPN.to_vec()])
    }

    fn presenting(
        presented: PublicKey,
        key: SecretKey,
        gate: Arc<Gate>,
        alpn: Vec<Vec<u8>>,
    ) -> Result<Self, rustls::Error> {
        let provider = Arc::new(CryptoProvider {
            // Of equal worth to the keys (128 bits) and the fastest.
            cipher_suites: vec![
                ring::cipher_suite::TLS13_AES_128_GCM_SHA256,
                ring::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
            ],
            kx_groups: vec![ring::kx_group::X25519],
            ..ring::default_provider()
        });
        let spki = CertificateDer::from(spki_of(&presented));
        let own = Arc::new(CertifiedKey::new(vec![spki], Arc::new(NodeSigner(key))));
        let verifier = Arc::new(Verifier { gate: gate.clone(), expected: None });

        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&version::TLS13])?
            .with_client_cert_verifier(verifier.clone())
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(own.clone())));
        server.alpn_protocols = alpn.clone();
        server.send_tls13_tickets = 0;
        server.session_storage = Arc::new(NoServerSessionStorage {});

        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(own)));
        client.alpn_protocols = alpn;
        client.resumption = Resumption::disabled();
        client.enable_sni = false;
        Ok(Self { gate, client, server: Arc::new(server) })
    }

    /// A node that speaks other versions of the link, or none.
    #[cfg(test)]
    pub(crate) fn speaking(key: SecretKey, gate: Arc<Gate>, alpn: &[&[u8]]) -> Self {
        Self::presenting(key.public(), key, gate, alpn.iter().map(|name| name.to_vec()).collect()).unwrap()
    }

    /// A node that presents a key which is not its own.
    #[cfg(test)]
    pub(crate) fn impostor(claimed: PublicKey, key: SecretKey, gate: Arc<Gate>) -> Self {
        Self::presenting(claimed, key, gate, vec![ALPN.to_vec()]).unwrap()
    }

    pub(crate) fn server(&self) -> Arc<ServerConfig> {
        self.server.clone()
    }

    /// Settings for dialing `expected`, or whoever may have a link where that is not known.
    pub(crate) fn client(&self, expected: Option<NodeId>) -> Arc<ClientConfig> {
        let mut client = self.client.clone();
        client.dangerous().set_certificate_verifier(Arc::new(Verifier { gate: self.gate.clone(), expected }));
        Arc::new(client)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_ed25519_key_in_its_exact_form_is_a_key() {
        let key = SecretKey::from_seed([1; 32]).public();
        let spki = spki_of(&key);
        assert_eq!(key_of(&spki), Some(key));
        assert_eq!(key_of(&spki[..43]), None);
        assert_eq!(key_of(&[&spki[..], &[0]].concat()), None);
        for byte in 0..SPKI_PREFIX.len() {
            let mut other = spki.clone();
            other[byte] ^= 1;
            assert_eq!(key_of(&other), None);
        }
    }

    #[test]
    fn the_gate_lets_in_the_expected_and_the_allowed_and_never_oneself() {
        let gate = Gate::new(NodeId(1), Allow::Listed([NodeId(1), NodeId(2)].into()));
        assert_eq!(gate.admit(NodeId(2), Some(NodeId(2))), Ok(()));
        assert_eq!(gate.admit(NodeId(1), None), Err(Refusal::Oneself));
        assert_eq!(gate.admit(NodeId(3), None), Err(Refusal::NotAllowed { peer: NodeId(3) }));
        let wrong = Refusal::WrongPeer { expected: NodeId(3), found: NodeId(2) };
        assert_eq!(gate.admit(NodeId(2), Some(NodeId(3))), Err(wrong));
        gate.set(Allow::Anyone);
        assert_eq!(gate.admit(NodeId(3), None), Ok(()));
    }
}
