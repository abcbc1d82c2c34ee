//! One end of a TCP link, against bytes of anybody and against a peer whose bytes are changed on their way.

use std::io;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use mesh_core::Instant;
use mesh_core::identity::SecretKey;
use mesh_transport_tcp::link::{Link, LinkConfig, LinkError, LinkEvent};
use mesh_transport_tcp::{Allow, Security, TcpConfig};

use crate::input::Input;

/// The longest frame of these links.
const FRAME_LEN_MAX: usize = 4096;

fn config(seed: u8, tls: bool) -> Arc<LinkConfig> {
    let key = SecretKey::from_seed([seed; 32]);
    let security = if tls { Security::Tls(key.clone()) } else { Security::Plain(key.node_id()) };
    let at = std::net::SocketAddr::from(([127, 0, 0, 1], 4000));
    let config = TcpConfig { security, allow: Allow::Anyone, frame_len_max: FRAME_LEN_MAX, ..TcpConfig::new(key, at) };
    Arc::new(LinkConfig::new(&config, vec![at]).expect("it can work"))
}

static CONFIGS: LazyLock<[[Arc<LinkConfig>; 2]; 2]> =
    LazyLock::new(|| [false, true].map(|tls| [1, 2].map(|seed| config(seed, tls))));

/// One end.
struct End {
    link: Link,
    now: Instant,
    buffer: Vec<u8>,
    /// Whether an error ended it: it may say why, and takes nothing more.
    failed: bool,
    tls: bool,
}

impl End {
    /// Bytes come, one read at a time.
    fn takes(&mut self, mut bytes: &[u8]) -> Result<(), LinkError> {
        let mut events = Vec::new();
        while !bytes.is_empty() && !self.link.is_ended() && !self.failed {
            let read = self.link.read_from(self.now, &mut bytes, &mut self.buffer, &mut events);
            self.failed = read.is_err();
            read?;
        }
        for event in events {
            if let LinkEvent::Frame(frame) = event {
                assert!(self.link.is_established(), "a frame before the hello");
                assert!(!frame.is_empty() && frame.len() <= FRAME_LEN_MAX, "a frame of {} bytes", frame.len());
            }
        }
        Ok(())
    }

    fn says(&mut self) -> Result<Vec<u8>, LinkError> {
        let mut wire = Vec::new();
        self.link.write_to(self.now, &mut wire)?;
        Ok(wire)
    }

    /// Lets an honest peer say what it has to, and the other way round.
    fn carry(&mut self, peer: &mut Self, change: Option<(u16, u8)>) -> Result<(), LinkError> {
        for _ in 0..8 {
            if peer.failed {
                return Ok(());
            }
            let (mut to_us, to_peer) = (peer.says()?, self.says()?);
            if to_us.is_empty() && to_peer.is_empty() {
                return Ok(());
            }
            if let Some((place, bits)) = change
                && !to_us.is_empty()
            {
                let place = usize::from(place) % to_us.len();
                to_us[place] ^= bits;
            }
            self.takes(&to_us)?;
            if peer.takes(&to_peer).is_err() {
                // What it makes of our answer is not the question; it says why, and is gone.
                self.takes(&peer.says().unwrap_or_default())?;
            }
        }
        Ok(())
    }
}

/// Plays an input to one end of a link: the first byte says which, and whether with TLS, the others are steps.
pub fn run(data: &[u8]) {
    // An error ends a link, and the peer is told why.
    let Some((mut end, mut peer, input)) = start(data) else { return };
    if play(&mut end, &mut peer, input).is_err() {
        let _ = end.says();
    }
}

fn start(data: &[u8]) -> Option<(End, End, Input<'_>)> {
    let mut input = Input(data);
    let kind = input.step()?;
    // TLS is slow: one in eight.
    let tls = kind & 0b111 == 0b111;
    let [mine, theirs] = &CONFIGS[usize::from(tls)];
    let now = Instant::ZERO;
    let (mine, theirs) = match kind & 8 == 0 {
        true => (Link::accept(mine, now), Link::dial(theirs, Some(mine.me()), now)),
        false => (Link::dial(mine, Some(theirs.me()), now), Link::accept(theirs, now)),
    };
    let end = |link| End { link, now, buffer: vec![0; 128 * 1024], failed: false, tls };
    let (mut end, mut peer) = (end(mine.ok()?), end(theirs.ok()?));
    if kind & 16 == 0 {
        end.carry(&mut peer, None).expect("two honest ends understand each other");
        assert!(end.link.is_established());
    }
    Some((end, peer, input))
}

fn play(end: &mut End, peer: &mut End, mut input: Input<'_>) -> Result<(), LinkError> {
    while let Some(step) = input.step() {
        match step & 7 {
            0 | 1 => end.takes(input.piece())?,
            2 => {
                let frame = input.piece();
                if !peer.failed {
                    let _ = peer.link.send(&frame[..frame.len().min(FRAME_LEN_MAX)]);
                }
                end.carry(peer, None)?;
            }
            3 => {
                let change = (input.short(), input.byte());
                if !peer.failed {
                    let _ = peer.link.send(b"a frame");
                }
                end.carry(peer, Some(change))?;
            }
            4 => {
                end.now += Duration::from_millis(input.short().into());
                if end.link.deadline() <= end.now {
                    end.link.handle_deadline(end.now)?;
                }
            }
            5 => {
                let _ = end.link.send(input.piece());
                end.says()?;
            }
            6 => {
                end.link.finish(end.now);
                if end.tls {
                    // rustls 0.23 asserts, where assertions are compiled in, that nothing it cannot read comes after
                    // its own goodbye; a release goes on to the error.
                    return end.carry(peer, None);
                }
            }
            _ => drop(end.link.read_from(end.now, &mut io::empty(), &mut end.buffer, &mut Vec::new())?),
        }
    }
    Ok(())
}
