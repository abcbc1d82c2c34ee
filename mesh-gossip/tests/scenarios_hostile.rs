//! What a network or a member that lies can do to clusters of members, at three sizes: little.

mod support;
mod support_sizes;

use mesh_core::frame::{FRAME_LEN_MAX, FRAME_OVERHEAD, FrameBuilder, sections};
use mesh_core::{Bytes, NodeId, Rng64, Wire};
use mesh_gossip::membership::{
    METADATA_LEN_MAX, MembershipConfig, MembershipHandle as _, PACKET_LEN_MIN, Profile, SetProfileError, Status, Tags,
};
use mesh_transport_mem::{Latency, LinkConfig};
use support::liar::Liar;
use support::{Cluster, MEMBERS, SECOND, link, name};
use support_sizes::{ONE_SEED_EACH, repeats, runs};

fn agree_and_know_the_same(cluster: &Cluster) -> bool {
    // What is soon told comes first.
    cluster.same_digest() && cluster.all_agree()
}

/// What a liar claims of a member: its kind, and what follows name and incarnation.
fn update(kind: u8, node: NodeId, incarnation: u64, rest: &[u8]) -> Vec<u8> {
    let mut body = vec![kind];
    node.encode(&mut body);
    incarnation.encode(&mut body);
    body.extend_from_slice(rest);
    let mut update = Vec::new();
    (body.len() as u64).encode(&mut update);
    [update, body].concat()
}

/// A message of news.
fn gossip(updates: &[Vec<u8>]) -> Bytes {
    let mut message = vec![1, GOSSIP];
    (updates.len() as u64).encode(&mut message);
    updates.iter().for_each(|update| message.extend_from_slice(update));
    message.into()
}

const GOSSIP: u8 = 4;
const ALIVE: u8 = 0;
const SUSPECT: u8 = 2;
const DOWN: u8 = 3;
const LEFT: u8 = 4;
/// An empty profile.
const NO_PROFILE: [u8; 3] = [0, 0, 0];

/// What the real ones say of themselves.
fn profile_of(at: usize) -> Profile {
    let tags: Tags = [("rack", at.to_string()), ("disk", "fast".to_owned())].into_iter().collect();
    let profile = Profile { zone: 1 + at as u16 % 3, address: vec![10, at as u8].into(), ..Profile::default() };
    profile.with_tags(&tags).expect("they are short")
}

/// A cluster that knows a liar as one of its members.
fn with_liar(seed: u64, nodes: usize) -> (Cluster, NodeId) {
    let mut cluster = Cluster::empty(seed, MembershipConfig::lan());
    let seeds: Vec<_> = (0..3).map(|at| name(seed, at)).collect();
    for at in 0..nodes {
        cluster.add_with(name(seed, at), &seeds, profile_of(at));
    }
    cluster.until("all know all", 30 * SECOND, agree_and_know_the_same);
    let liar = cluster.add_liar();
    for to in cluster.ids.clone() {
        say(&cluster, liar, to, gossip(&[update(ALIVE, liar, 1, &NO_PROFILE)]));
    }
    cluster.run(SECOND);
    (cluster, liar)
}

fn say(cluster: &Cluster, liar: NodeId, to: NodeId, bytes: Bytes) {
    cluster.sim.handle(liar).liar.as_ref().expect("it lies").cast((to, bytes)).expect("there is room");
}

fn liar_of(cluster: &Cluster, liar: NodeId) -> &Liar {
    cluster.sim.protocol(liar, MEMBERS).expect("it is up")
}

/// Whether those that are real know each other as live, and nobody else, the liar aside.
fn real_ones_agree(cluster: &Cluster, liar: NodeId) -> bool {
    cluster.up().iter().all(|of| {
        let live = |node: &NodeId| cluster.status(*of, *node).is_some_and(Status::is_live);
        let members = cluster.members(*of).expect("it is up");
        let others = members.live() - usize::from(live(&liar));
        others + 1 == cluster.ids.len() && cluster.ids.iter().all(|node| node == of || live(node))
    })
}

/// Whether the real ones agree, know the same, and see each as it is, whatever was said of it.
fn real_ones_are_seen_as_they_are(cluster: &Cluster, liar: NodeId) -> bool {
    let sees = |of: NodeId, at: usize| {
        let member = cluster.members(of).and_then(|of| of.member(cluster.ids[at]));
        member.is_some_and(|member| member.profile == profile_of(at))
    };
    real_ones_agree(cluster, liar)
        && cluster.same_digest()
        && cluster.ids.iter().all(|of| (0..cluster.ids.len()).all(|at| *of == cluster.ids[at] || sees(*of, at)))
}

#[test]
fn s14_repetition_and_disorder_of_packets_take_nobody_down() {
    for (nodes, seed) in runs(ONE_SEED_EACH) {
        let mut cluster = Cluster::joined(seed, nodes);
        let millis = std::time::Duration::from_millis;
        // Every packet twice, half of them late: by as much as all take, or by up to a second.
        for latency_max in [150, 500] {
            let latency = Latency::between(millis(1), millis(latency_max));
            cluster.sim.set_links(LinkConfig { latency, duplicate: 1.0, reorder: 0.5, ..link(0.05) });
            cluster.run(if nodes > 100 { 30 } else { 300 } * SECOND);
            assert_eq!((cluster.told.downs, cluster.told.rejoins), (0, 0), "{nodes} nodes, up to {latency_max} ms");
        }
        cluster.sim.set_links(link(0.0));
        cluster.until("all know the same", 10 * SECOND, agree_and_know_the_same);
    }
}

#[test]
fn s14_damaged_cut_spliced_and_replayed_packets_take_nobody_down() {
    for (nodes, seed) in runs(ONE_SEED_EACH) {
        let (mut cluster, liar) = with_liar(seed, nodes);
        // It hears pings, and news of a change.
        cluster.crash(cluster.ids[nodes - 1]);
        cluster.run(15 * SECOND);
        cluster.restart(cluster.ids[nodes - 1]);
        cluster.run(15 * SECOND);
        let heard = liar_of(&cluster, liar).heard.clone();
        assert!(!heard.is_empty(), "it is probed like others");
        let mut rng = Rng64::from_seed(seed, "damage");
        for round in 0..2_000 {
            let (from, one) = rng.choose(&heard).expect("something was heard").clone();
            let (_, other) = rng.choose(&heard).expect("something was heard").clone();
            let mut bytes = one.to_vec();
            match round % 4 {
                0 => {
                    for _ in 0..=rng.below(3) {
                        let bit = rng.below(bytes.len() as u64 * 8) as usize;
                        bytes[bit / 8] ^= 1 << (bit % 8);
                    }
                }
                1 => bytes.truncate(rng.below(bytes.len() as u64) as usize),
                2 => {
                    bytes.truncate(rng.below(bytes.len() as u64) as usize);
                    bytes.extend_from_slice(&other[rng.below(other.len() as u64) as usize..]);
                }
                _ => {} // as it was, but from an earlier time
            }
            let to = if rng.chance(1, 2) { from } else { *rng.choose(&cluster.ids).expect("there are nodes") };
            say(&cluster, liar, to, bytes.into());
            if round % 20 == 0 {
                cluster.run(SECOND / 10);
            }
        }
        cluster.until("the real ones are seen as they are", 60 * SECOND, |cluster| {
            real_ones_are_seen_as_they_are(cluster, liar)
        });
    }
}

#[test]
fn s12_what_a_liar_says_of_others_takes_nobody_down() {
    for (nodes, seed) in runs(ONE_SEED_EACH) {
        let (mut cluster, liar) = with_liar(seed, nodes);
        let mut rng = Rng64::from_seed(seed, "lies");
        for _ in 0..100 {
            let about = *rng.choose(&cluster.ids).expect("there are nodes");
            let known = cluster.members(cluster.ids[0]).and_then(|of| of.incarnation_of(about)).unwrap_or(0);
            let incarnation = match rng.below(4) {
                0 => known,
                1 => known + 1,
                2 => known + (1 << 19),
                _ => u64::MAX - rng.below(2),
            };
            let lie = match rng.below(4) {
                0 => update(SUSPECT, about, incarnation, &[2, 1, 2, 3, 4, 5, 6, 7, 8]),
                1 => update(DOWN, about, incarnation, &[0]),
                2 => update(LEFT, about, incarnation, &[0]),
                // Nothing at all of it, or another zone, address and metadata.
                _ => {
                    update(ALIVE, about, incarnation, rng.choose(&[&NO_PROFILE[..], &[9, 1, 7, 2, 7, 7]]).expect("two"))
                }
            };
            for to in cluster.ids.clone() {
                say(&cluster, liar, to, gossip(std::slice::from_ref(&lie)));
            }
            cluster.run(SECOND / 5);
        }
        cluster.until("the real ones are seen as they are", 60 * SECOND, |cluster| {
            real_ones_are_seen_as_they_are(cluster, liar)
        });
    }
}

// Later versions.

/// What a node of a later version sends in place of a frame: behind what is known of each message there is more, among
/// news a claim of a kind that is not known, and a message of such a kind.
fn of_later_version(frame: &Bytes) -> Vec<Bytes> {
    const VERSION: u8 = 2;
    let mut frames = FrameBuilder::new(FRAME_LEN_MAX);
    for section in sections(frame).expect("it is a frame").map(|section| section.expect("it is whole")) {
        for message in section.messages() {
            let mut message = message.expect("it is whole").remaining().to_vec();
            message[0] = VERSION;
            if message[1] == GOSSIP && message[2] < 250 {
                message[2] += 1;
                message.extend(update(200, NodeId(7), 1, &[1, 2, 3]));
            }
            message.extend([7; 5]);
            frames.push(section.protocol(), &message);
        }
        frames.push(section.protocol(), &[VERSION, 200, 1, 2, 3]);
    }
    std::iter::from_fn(|| frames.pop()).collect()
}

#[test]
fn s25_nodes_of_a_later_version_and_of_this_one_are_one_cluster() {
    for (nodes, seed) in runs(ONE_SEED_EACH) {
        let mut cluster = Cluster::empty(seed, MembershipConfig::lan());
        // There is room for what is more.
        cluster.config.packet_len_max = PACKET_LEN_MIN;
        let seeds: Vec<_> = (0..3).map(|at| name(seed, at)).collect();
        for at in 0..nodes {
            cluster.add_with(name(seed, at), &seeds, profile_of(at));
            if at % 2 == 1 {
                cluster.sim.lie(cluster.ids[at], |_, frame| of_later_version(&frame));
            }
        }
        cluster.until("all know all", 4 * SECOND, agree_and_know_the_same);
        cluster.run(30 * SECOND);
        assert_eq!((cluster.told.suspicions, cluster.told.rejoins), (0, 0), "{nodes} nodes");
        // One of each version crashes and comes back.
        for at in [nodes - 1, nodes - 2] {
            let node = cluster.ids[at];
            cluster.crash(node);
            cluster.until("all know of the crash", 20 * SECOND, agree_and_know_the_same);
            cluster.restart(node);
            cluster.until("all know all again", 10 * SECOND, agree_and_know_the_same);
        }
        assert_eq!(cluster.told.downs, 2 * (nodes - 1), "{nodes} nodes");
        assert!(cluster.count("messages_malformed") > 0, "{nodes} nodes: all messages are known");
    }
}

/// Of one who is no member, and so hears nothing but answers: pings with many made-up members among their news, and without;
/// what it asks others to ping, and which parts it says it knows nothing of; claims about the one it speaks to; and counts and
/// lengths that are far more than there is.
fn questions(rng: &mut Rng64, to: NodeId, other: NodeId) -> Vec<Bytes> {
    const PING: u8 = 0;
    const PING_REQ: u8 = 2;
    const SYNC: u8 = 5;
    let name = |rng: &mut Rng64| NodeId(u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64()));
    let made_up: Vec<_> = (0..20).map(|_| update(ALIVE, name(rng), 1, &NO_PROFILE)).collect();
    let ping = |updates: &[Vec<u8>]| {
        let head = [&[1, PING, 7, 0][..], &[9; 8], &[updates.len() as u8]].concat();
        [head, updates.concat()].concat()
    };
    let ping_req = |target: NodeId| {
        let mut request = vec![1, PING_REQ, 7, 0];
        target.encode(&mut request);
        [request, vec![0]].concat()
    };
    // Of all members, with the sums of nobody, and no wants and news.
    let sync = [&[1, SYNC, 1][..], &[0; 4 * 160], &[0, 0]].concat();
    let about = |kind| gossip(&[update(kind, to, 0, &[0; 3][..if kind == ALIVE { 3 } else { 1 }])]).to_vec();
    let too_many = [&[1, GOSSIP][..], &[0xff, 0xff, 3]].concat();
    let (far, none) = (vec![1, GOSSIP, 0xff], vec![1, GOSSIP, 0]);
    let all = [
        ping(&made_up),
        ping(&[]),
        ping_req(other),
        ping_req(to),
        ping_req(name(rng)),
        sync,
        gossip(&made_up).to_vec(),
    ];
    all.into_iter().chain([about(ALIVE), about(DOWN), too_many, far, none]).map(Bytes::from).collect()
}

#[test]
fn s15_who_is_no_member_hears_at_most_twice_what_it_says() {
    for (nodes, seed) in runs(ONE_SEED_EACH) {
        let mut cluster = Cluster::joined(seed, nodes);
        let stranger = cluster.add_liar();
        let (mut rng, mut said) = (Rng64::from_seed(seed, "names"), 0);
        let heard = |cluster: &Cluster| {
            let heard = &liar_of(cluster, stranger).heard;
            heard.iter().map(|(_, bytes)| bytes.len() + FRAME_OVERHEAD).sum::<usize>()
        };
        for round in 0..3 * 12 {
            let mut of_two = [(); 2].map(|()| *rng.choose(&cluster.ids).expect("there are nodes"));
            if of_two[0] == of_two[1] {
                of_two = [cluster.ids[0], cluster.ids[1]];
            }
            let [to, other] = of_two;
            let question = questions(&mut rng, to, other).swap_remove(round % 12);
            let (before, len) = (heard(&cluster), question.len() + FRAME_OVERHEAD);
            said += len;
            say(&cluster, stranger, to, question);
            // Longer than any answer takes.
            cluster.run(SECOND);
            // There is room for three bytes of how many news there are, of which mostly one is needed.
            let answers = heard(&cluster) - before;
            assert!(answers <= 2 * len + 2, "{nodes} nodes: {answers} bytes for the {len} of question {}", round % 12);
        }
        let all = heard(&cluster);
        assert!(4 * all > said, "{nodes} nodes: it is answered, by {all} bytes for {said}");
        let believe = cluster.ids.iter().filter(|of| cluster.members(**of).is_some_and(|of| of.live() > nodes)).count();
        assert!(2 * believe > nodes, "{nodes} nodes: who is made up is believed at first");
        cluster.until("the real ones agree", 1_200 * SECOND, |cluster| real_ones_agree(cluster, stranger));
    }
}

#[test]
fn s15_of_ten_thousand_made_up_members_no_more_are_taken_in_than_there_is_room_for() {
    for (nodes, seed) in runs(ONE_SEED_EACH) {
        let room = nodes + 500;
        let config = MembershipConfig { max_members: room, max_tombstones: room, ..MembershipConfig::lan() };
        let mut cluster = Cluster::boot_with(seed, nodes, config);
        cluster.until("all know all", 30 * SECOND, Cluster::all_agree);
        let liar = cluster.add_liar();
        let to = cluster.ids[0];
        say(&cluster, liar, to, gossip(&[update(ALIVE, liar, 1, &NO_PROFILE)]));
        let mut rng = Rng64::from_seed(seed, "names");
        for _ in 0..500 {
            let mut made_up = || NodeId(u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64()));
            let names: Vec<_> = (0..20).map(|_| update(ALIVE, made_up(), 1, &NO_PROFILE)).collect();
            say(&cluster, liar, to, gossip(&names));
            cluster.run(SECOND / 20);
        }
        // That no more are known than may be is checked at every glance.
        let known = |of: &NodeId| cluster.members(*of).map_or(0, |of| of.live());
        assert!(cluster.ids.iter().all(|of| known(of) > nodes), "{nodes} nodes: some are believed");
        assert!(cluster.count("membership_dropped") > 9_000, "and most are not");
        let live = |of: &NodeId, node: &NodeId| of == node || cluster.status(*of, *node).is_some_and(Status::is_live);
        let real = || cluster.ids.iter().flat_map(|of| cluster.ids.iter().map(move |node| (of, node)));
        assert!(real().all(|(of, node)| live(of, node)), "{nodes} nodes: nobody who is real made room");
    }
}

#[test]
fn s16_profiles_as_long_as_they_may_be_come_to_all_and_longer_ones_are_refused() {
    for (nodes, seed) in runs(ONE_SEED_EACH) {
        let mut cluster = Cluster::empty(seed, MembershipConfig::lan());
        let profile = |at: usize| Profile {
            zone: at as u16,
            address: vec![at as u8; 128].into(),
            metadata: vec![at as u8; METADATA_LEN_MAX].into(),
        };
        let seeds: Vec<_> = (0..3).map(|at| name(seed, at)).collect();
        for at in 0..nodes {
            cluster.add_with(name(seed, at), &seeds, profile(at));
        }
        cluster.until("all know all", 30 * SECOND, agree_and_know_the_same);
        let knows = |of: NodeId, at: usize| {
            cluster.members(of).and_then(|of| of.member(cluster.ids[at])).is_some_and(|m| m.profile == profile(at))
        };
        assert!((0..nodes).all(|of| (0..nodes).all(|at| of == at || knows(cluster.ids[of], at))));
        // What is too long is refused at once, and nothing is told of it.
        let long = Profile { metadata: vec![0; METADATA_LEN_MAX + 1].into(), ..Profile::default() };
        let call = cluster.sim.handle(cluster.ids[0]).handle.set_profile(long);
        let answer = cluster.sim.wait(SECOND, call).expect("it is answered");
        assert!(matches!(answer, Err(SetProfileError::TooLong(error)) if error.len == METADATA_LEN_MAX + 1));
        let updates = cluster.members(cluster.ids[1]).and_then(|of| of.member(cluster.ids[0]));
        cluster.run(2 * SECOND);
        assert_eq!(cluster.members(cluster.ids[1]).and_then(|of| of.member(cluster.ids[0])), updates);
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    repeats(|seed| {
        let (mut cluster, liar) = with_liar(seed, 5);
        let (to, about) = (cluster.ids[0], cluster.ids[1]);
        cluster.sim.set_links(LinkConfig { duplicate: 0.5, reorder: 0.5, ..link(0.05) });
        cluster.sim.lie(cluster.ids[2], |_, frame| of_later_version(&frame));
        say(&cluster, liar, to, gossip(&[update(DOWN, about, 0, &[0])]));
        cluster.run(10 * SECOND);
        (cluster.sim.digest(), cluster.sim.events())
    });
}
