//! What reaches an open port: strangers, nonsense, slowness and floods.

mod common;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use common::{Node, config, eventually, id, plain};
use mesh_core::identity::SecretKey;
use mesh_transport_tcp::{Allow, TcpConfig, TcpTransport};

/// Whether the other end has closed; reads away what it says.
fn is_closed(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    match stream.read(&mut [0; 4096]) {
        Ok(0) => true,
        Ok(_) => false,
        Err(error) => !matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut),
    }
}

/// Connects from another address of this machine than honest nodes use.
fn connect_from(last: u8, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.bind(&SocketAddr::from(([127, 0, 0, last], 0)).into())?;
    socket.connect_timeout(&to.into(), Duration::from_secs(5))?;
    Ok(socket.into())
}

/// The first bytes of an honest dialer, as a TLS client sends them.
fn client_hello() -> Vec<u8> {
    let listener = std::net::TcpListener::bind(common::localhost()).unwrap();
    let dialer = Node::start(config(7));
    dialer.book().add_seed(listener.local_addr().unwrap());
    let (mut stream, _) = listener.accept().unwrap();
    let mut bytes = vec![0; 4096];
    let len = stream.read(&mut bytes).unwrap();
    bytes.truncate(len);
    bytes
}

#[test]
fn nonsense_is_closed_and_honest_nodes_go_on() {
    for make in [config, plain] {
        let victim = Node::start(make(1));
        let mut honest = Node::start(make(2));
        honest.knows(&victim);
        honest.deliver(&victim, b"before");
        let hello = client_hello();
        let cases: [&[u8]; 6] = [
            b"GET / HTTP/1.1\r\n\r\n",
            &[0; 3000],
            &[0xff; 3000],
            &[0x16, 3, 1, 0xff, 0xff, 1, 2, 3],
            b"mesh\x09aaaaaaaaaaaaaaaaaaaaaaaaaaa",
            &hello.iter().rev().copied().collect::<Vec<_>>(),
        ];
        for case in cases {
            let mut stream = TcpStream::connect(victim.address).unwrap();
            stream.write_all(case).unwrap();
            eventually("nonsense is closed", || is_closed(&mut stream));
        }
        assert_eq!(victim.stats().handshakes_failed, cases.len() as u64);
        honest.deliver(&victim, b"after");
        assert_eq!(victim.stats().established, 1);
    }
}

#[test]
fn a_node_with_another_key_than_expected_gets_nowhere() {
    let mut honest = Node::start(config(1));
    let impostor = Node::start(config(9));
    honest.book().set(id(2), [impostor.address]);
    honest.book().pin(id(2));
    eventually("the key is found wrong, again and again", || honest.stats().refused_wrong_peer > 2);
    assert!(!honest.is_linked_to(id(2)) && !honest.is_linked_to(impostor.id));
    assert!(!impostor.is_linked_to(honest.id));
    honest.send(id(2), b"secret");
    assert!(impostor.frames_from(honest.id).is_empty());
}

#[test]
fn a_node_that_is_not_on_the_list_gets_nowhere_whoever_dials() {
    let mut member = Node::start(TcpConfig { allow: Allow::Listed([id(2)].into()), ..config(1) });
    let mut stranger = Node::start(config(9));
    stranger.knows(&member);
    member.knows(&stranger);
    for _ in 0..3 {
        stranger.send(member.id, b"let me in");
        member.send(stranger.id, b"hello?");
        eventually("refused", || {
            stranger.send(member.id, b"let me in");
            member.stats().refused_not_allowed > 2
        });
    }
    assert_eq!((member.stats().established, stranger.stats().established), (0, 0));
    assert_eq!(stranger.book().addresses(member.id), [member.address], "it learned nothing");
}

#[test]
fn half_open_connections_are_closed_by_their_deadline_however_they_drip() {
    let victim = Node::start(TcpConfig { handshake_timeout: Duration::from_millis(300), ..config(1) });
    let hello = client_hello();
    let mut silent: Vec<TcpStream> = (0..5).map(|_| TcpStream::connect(victim.address).unwrap()).collect();
    let mut dripping: Vec<TcpStream> = (0..5).map(|_| TcpStream::connect(victim.address).unwrap()).collect();
    let mut drops = hello.iter();
    eventually("all are closed", || {
        // A byte at a time would take far longer than the deadline.
        if let Some(drop) = drops.next() {
            for stream in &mut dripping {
                let _ = stream.write_all(&[*drop]);
            }
        }
        std::thread::yield_now();
        victim.stats().refused_too_slow == 10
    });
    assert!(silent.iter_mut().chain(&mut dripping).all(|stream| {
        eventually("closed", || is_closed(stream));
        true
    }));
    assert_eq!(victim.stats().half_open, 0);
    let mut honest = Node::start(config(2));
    honest.knows(&victim);
    honest.deliver(&victim, b"welcome");
}

#[test]
fn a_flood_of_connections_takes_bounded_slots_and_honest_nodes_get_in() {
    let limits = |config: TcpConfig| TcpConfig { half_open_max: 16, half_open_per_source_max: 8, ..config };
    let mut victim = Node::start(limits(config(1)));
    let mut old_friend = Node::start(config(2));
    old_friend.knows(&victim);
    old_friend.deliver(&victim, b"before");

    // The flood comes from one address, and honest nodes from another.
    let hello = client_hello();
    let mut flood = Vec::new();
    for n in 0..400 {
        let mut stream = connect_from(9, victim.address).unwrap();
        if n % 2 == 0 {
            let _ = stream.write_all(&hello);
        }
        flood.push(stream);
        assert!(victim.stats().half_open <= 16);
        if n == 200 {
            let mut newcomer = Node::start(config(3));
            newcomer.knows(&victim);
            newcomer.deliver(&victim, b"in the middle of it");
        }
    }
    eventually("all were looked at", || victim.stats().accepted >= 402);
    assert!(victim.stats().half_open <= 8, "one source has its share only");
    assert!(victim.stats().connections <= 8 + 2);
    assert!(victim.stats().refused_half_open_limit >= 392);
    old_friend.deliver(&victim, b"after");
    victim.deliver(&old_friend, b"all is well");
}

#[test]
fn one_source_cannot_take_all_links() {
    let hub = Node::start(TcpConfig { connections_per_source_max: 3, ..config(1) });
    let crowd: Vec<Node> = (10..16)
        .map(|n| {
            let node = Node::start(config(n));
            node.book().set(hub.id, [hub.address]);
            node.book().pin(hub.id);
            node
        })
        .collect();
    eventually("the rest is refused", || hub.stats().refused_source_limit > 10);
    assert_eq!(crowd.iter().filter(|node| hub.is_linked_to(node.id)).count(), 3);
    assert!(hub.stats().connections <= 3);
}

#[test]
fn recorded_bytes_of_an_honest_handshake_do_not_open_a_link() {
    let victim = Node::start(config(1));
    // Everything an honest dialer says to the victim, taken down on the way.
    let said = {
        let listener = std::net::TcpListener::bind(common::localhost()).unwrap();
        let address = listener.local_addr().unwrap();
        let target = victim.address;
        let recorder = std::thread::spawn(move || {
            let (mut near, _) = listener.accept().unwrap();
            let mut far = TcpStream::connect(target).unwrap();
            let (mut back_from, mut back_to) = (far.try_clone().unwrap(), near.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut back_from, &mut back_to));
            let (mut said, mut buffer) = (Vec::new(), [0; 4096]);
            while let Ok(len @ 1..) = near.read(&mut buffer) {
                said.extend_from_slice(&buffer[..len]);
                let _ = far.write_all(&buffer[..len]);
            }
            said
        });
        let mut dialer = Node::start(config(2));
        dialer.book().set(victim.id, [address]);
        dialer.deliver(&victim, b"pay me once");
        drop(dialer);
        recorder.join().unwrap()
    };
    let mut replay = TcpStream::connect(victim.address).unwrap();
    replay.write_all(&said).unwrap();
    eventually("it is closed", || is_closed(&mut replay));
    assert_eq!(victim.stats().established, 1);
    assert_eq!(victim.frames_from(id(2)), [b"pay me once"]);
}

#[test]
fn an_honest_key_that_sends_an_oversized_frame_is_cut_off() {
    let narrow = Node::start(TcpConfig { frame_len_max: 1024, ..config(1) });
    let mut wide = Node::start(config(2));
    wide.knows(&narrow);
    wide.deliver(&narrow, b"small");
    wide.send(narrow.id, &[0; 2000]);
    eventually("it is cut off", || narrow.stats().closed_misbehaved == 1);
    wide.deliver(&narrow, b"small again");
}

#[test]
fn listening_costs_a_stranger_more_than_us() {
    // Many strangers with keys of their own: none is established, all are let go.
    let victim = TcpTransport::bind(TcpConfig { allow: Allow::Listed([id(2)].into()), ..config(1) }).unwrap();
    let control = victim.control();
    let strangers: Vec<Node> = (0..20)
        .map(|n| {
            let key = SecretKey::from_seed([100 + n; 32]);
            let node = Node::start(TcpConfig { security: mesh_transport_tcp::Security::Tls(key), ..config(9) });
            node.book().add_seed(victim.local_addr());
            node
        })
        .collect();
    eventually("all are refused", || control.stats().refused_not_allowed > 100);
    assert_eq!(control.stats().established, 0);
    drop(strangers);
    eventually("nothing is left of them", || control.stats().connections == 0);
}
