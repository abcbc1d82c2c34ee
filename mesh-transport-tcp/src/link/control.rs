//! What links say to each other.

use std::net::{IpAddr, SocketAddr};

use mesh_core::NodeId;
use mesh_core::wire::{DecodeError, Reader, Wire};

use super::frames::CONTROL_LEN_MAX;

/// The most bytes one peer with its addresses takes: id, count, and 8 IPv6 addresses with ports.
const PEER_LEN_MAX: usize = 17 + 1 + crate::address_book::ADDRESSES_MAX * 20;

/// The most peers told of in one piece.
pub(crate) const PEERS_MAX: usize = (CONTROL_LEN_MAX - 16) / PEER_LEN_MAX;

/// A control piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Control {
    /// The first piece of a link: where the sender may be dialed.
    Hello(Vec<SocketAddr>),
    /// Where others may be dialed.
    Peers(Vec<(NodeId, Vec<SocketAddr>)>),
    /// Something a later version says; to be passed over.
    Unknown,
}

impl Wire for Control {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Hello(addresses) => {
                out.push(1);
                encode_addresses(addresses, out);
            }
            Self::Peers(peers) => {
                out.push(2);
                (peers.len() as u64).encode(out);
                for (peer, addresses) in peers {
                    peer.encode(out);
                    encode_addresses(addresses, out);
                }
            }
            Self::Unknown => out.push(0),
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match u8::decode(reader)? {
            1 => decode_addresses(reader).map(Self::Hello),
            2 => {
                let mut peers = Vec::new();
                for _ in 0..reader.take_len()? {
                    peers.push((NodeId::decode(reader)?, decode_addresses(reader)?));
                }
                Ok(Self::Peers(peers))
            }
            _ => {
                reader.take(reader.remaining().len())?;
                Ok(Self::Unknown)
            }
        }
    }
}

fn encode_addresses(addresses: &[SocketAddr], out: &mut Vec<u8>) {
    (addresses.len() as u64).encode(out);
    for address in addresses {
        match address.ip() {
            IpAddr::V4(ip) => {
                out.push(4);
                ip.octets().encode(out);
            }
            IpAddr::V6(ip) => {
                out.push(6);
                ip.octets().encode(out);
            }
        }
        address.port().encode(out);
    }
}

fn decode_addresses(reader: &mut Reader<'_>) -> Result<Vec<SocketAddr>, DecodeError> {
    let mut addresses = Vec::new();
    for _ in 0..reader.take_len()? {
        let ip = match u8::decode(reader)? {
            4 => IpAddr::from(<[u8; 4]>::decode(reader)?),
            6 => IpAddr::from(<[u8; 16]>::decode(reader)?),
            variant => return Err(DecodeError::UnknownVariant { type_name: "IpAddr", variant: variant.into() }),
        };
        let port = u16::decode(reader)?;
        if port == 0 {
            return Err(DecodeError::Invalid("an address has port 0"));
        }
        addresses.push(SocketAddr::new(ip, port));
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use mesh_core::wire;
    use proptest::prelude::*;

    use super::*;

    fn longest_address() -> SocketAddr {
        SocketAddr::new(IpAddr::from([0xff; 16]), u16::MAX)
    }

    #[test]
    fn control_pieces_read_back_and_fit() {
        let addresses = vec![longest_address(); crate::address_book::ADDRESSES_MAX];
        let peers = vec![(NodeId(u128::MAX), addresses.clone()); PEERS_MAX];
        for control in [Control::Hello(addresses), Control::Hello(vec![]), Control::Peers(peers)] {
            let bytes = wire::to_bytes(&control);
            assert!(bytes.len() <= CONTROL_LEN_MAX, "{}", bytes.len());
            assert_eq!(wire::from_bytes(&bytes), Ok(control));
        }
    }

    #[test]
    fn what_a_later_version_says_is_passed_over() {
        assert_eq!(wire::from_slice(&[77, 1, 2, 3]), Ok(Control::Unknown));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(control) = wire::from_slice::<Control>(&bytes) && control != Control::Unknown {
                prop_assert_eq!(&wire::to_bytes(&control)[..], &bytes[..]);
            }
        }
    }
}
