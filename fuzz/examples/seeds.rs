//! Writes the corpus that fuzzing begins with: `cargo run --example seeds`, in this directory.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use mesh_consensus::pbft::{
    Administrators, Digest, Evidence, Kind, Reconfiguration, ReplicaIndex, ReplicaSet, Said, Statement,
};
use mesh_consensus::session::{LogTime, SessionId, SessionRequest, Sessions};
use mesh_core::identity::SecretKey;
use mesh_core::wire::to_bytes;
use mesh_core::{Bytes, NodeId};
use mesh_fuzz::decode::DECODERS;
use mesh_fuzz::input::put_piece;
use mesh_fuzz::play::{Recording, Subject, record};
use mesh_fuzz::subjects::*;
use mesh_fuzz::{each_subject, frame};
use mesh_gossip::membership::{Profile, Tags};
use mesh_tasks::auction::score::Bid;
use mesh_tasks::auction::signed::SignedBid;
use mesh_tasks::auction::{AuctionId, SealedBid};
use mesh_tasks::share::Share;

/// How long scripts are, in bytes, and of how many rounds.
const SCRIPTS: [(&str, usize); 2] = [("short", 1024), ("long", 8192)];
const ROUNDS: u16 = 400;

/// Of each type, so many of different kinds, each at most so long.
const EACH: usize = 8;
const LEN_MAX: usize = 600;

fn write(target: &str, name: &str, bytes: &[u8]) -> io::Result<()> {
    let dir: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    fs::create_dir_all(&dir)?;
    fs::write(dir.join(name), bytes)
}

fn decoders(name: &str, encoded: &[Bytes]) -> io::Result<()> {
    let Some(place) = DECODERS.iter().position(|(known, _)| *known == name) else { return Ok(()) };
    // The first bytes are the version and, mostly, the kind.
    let (mut kinds, mut count) = (BTreeSet::new(), 0);
    for bytes in encoded.iter().filter(|bytes| bytes.len() <= LEN_MAX) {
        if count < EACH && kinds.insert((bytes.get(..bytes.len().min(2)), bytes.len() / 16)) {
            write("decode", &format!("{name}-{count}"), &[&[place as u8], &bytes[..]].concat())?;
            count += 1;
        }
    }
    println!("{name}: {count} of {} encoded", encoded.len());
    Ok(())
}

fn of<S: Subject>() -> io::Result<()> {
    let (mut all_messages, mut all_records) = (Vec::new(), Vec::new());
    for (role, first) in [("first", true), ("last", false)] {
        let Recording { script, ends, messages, records } = record::<S>(ROUNDS, first);
        for (name, len) in SCRIPTS {
            let end = ends.iter().rfind(|end| **end <= len).copied().unwrap_or_default();
            write(S::NAME, &format!("{role}-{name}"), &script[..end])?;
        }
        all_messages.extend(messages);
        all_records.extend(records);
    }
    decoders(&format!("{}-message", S::NAME), &all_messages)?;
    decoders(&format!("{}-record", S::NAME), &all_records)
}

/// What is read elsewhere than from messages and records.
fn others() -> io::Result<()> {
    let key = SecretKey::from_seed([1; 32]);
    let bid = Bid { capability: Share::ONE, load: Share::ZERO, resources: Share::ONE };
    let bids = [Some(bid), None].map(|bid| {
        let auction = AuctionId { item: 9, round: 7 };
        to_bytes(&SignedBid::sign(&key, SealedBid { auction, incarnation: 3, bid }))
    });
    decoders("auction-signed-bid", &bids)?;
    let said = |kind, digest| {
        let statement =
            Statement { kind, replica: ReplicaIndex(0), view: 1, sequence: 2, digest: Digest([digest; 32]) };
        Said { statement, signature: key.sign(&[digest]) }
    };
    let contradict = |kind| to_bytes(&Evidence { epoch: 0, first: said(kind, 1), second: said(kind, 2) });
    decoders("pbft-evidence", &[Kind::Prepare, Kind::Checkpoint].map(contradict))?;
    let mut sessions = Sessions::default();
    let mut held = vec![to_bytes(&sessions)];
    for (serial, answered_below) in [(1, 1), (2, 1), (3, 2)] {
        let session = SessionId(serial);
        sessions.open(session, LogTime(serial), Duration::from_secs(60), 8);
        let request = SessionRequest { session: SessionId(1), serial, answered_below };
        sessions.begin(&request, LogTime(serial));
        sessions.finish(&request, Bytes::from_static(b"an answer"));
        held.push(to_bytes(&sessions));
    }
    decoders("sessions", &held)?;
    let members = |count| (1..=count).map(|node| (NodeId(node), SecretKey::from_seed([node as u8; 32]).public()));
    let replicas = Administrators::new(1, [key.public()])
        .and_then(|administrators| ReplicaSet::administered("group", members(4), administrators))
        .map_err(io::Error::other)?;
    let change = Reconfiguration::new(&replicas, members(5).collect()).map_err(io::Error::other)?;
    let changes = [to_bytes(&change), to_bytes(&change.signed_by(&replicas, &key))];
    decoders("pbft-reconfiguration", &changes)?;
    let tags = Tags::from_iter([("role", "worker"), ("version", "2")]);
    let profile = Profile::default().with_tags(&tags).map_err(io::Error::other)?;
    decoders("membership-tags", &[profile.metadata])
}

fn main() -> io::Result<()> {
    macro_rules! all {
        ($($subject:ident),*) => { $(of::<$subject>()?;)* };
    }
    each_subject!(all);
    others()?;
    let mut frames = Vec::new();
    for (number, bytes) in frame::seeds().into_iter().enumerate() {
        let mut alone = Vec::new();
        put_piece(&mut alone, &bytes);
        frames.extend_from_slice(&alone);
        if number < EACH {
            write("frame", &format!("frame-{number}"), &alone)?;
        }
    }
    write("frame", "frames", &frames)?;
    // A write, a sync, a crash; a checkpoint, a snapshot, damage.
    let mut log = Vec::new();
    for kind in [0, 3, 1, 6] {
        log.push(kind);
        match kind {
            0 | 1 => put_piece(&mut log, b"a record"),
            6 => log.push(1),
            _ => {}
        }
    }
    write("log", "crash", &log)?;
    log.push(2);
    put_piece(&mut log, b"a checkpoint");
    log.extend([3, 4, 1]);
    put_piece(&mut log, &[5; 300]);
    log.extend([6, 2]);
    write("log", "checkpoint", &log)?;
    log.extend([7, 1, 0, 20, 0]);
    put_piece(&mut log, &[0xff; 4]);
    write("log", "damage", &log)?;
    // An end that has a link, with and without TLS: frames, a change, time, a goodbye.
    for (name, kind) in [("accepts", 0), ("dials", 8), ("tls", 7), ("tls-dials", 15)] {
        let mut link = vec![kind];
        for step in [2, 5] {
            link.push(step);
            put_piece(&mut link, b"hello");
        }
        link.extend([4, 0xd0, 7, 3, 1, 0, 1, 6, 7]);
        write("link", name, &link)?;
    }
    let mut raw = vec![16, 0];
    put_piece(&mut raw, &[&b"mesh\x01"[..], &[9; 16], &[2, 0, 0, 0x80, 0, 0]].concat());
    write("link", "raw", &raw)
}
