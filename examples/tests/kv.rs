//! The key-value server as its user runs it: three processes, a client, and mistakes.

mod support;

use std::fs;
use std::io::{ErrorKind, Read as _};
use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use support::server::{Server, id, serve, serve_with};
use support::{output, refusal};

/// Runs a client: its exit code, and all that it says.
fn ask(nodes: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let output = output("kv", &[arguments, &["--nodes", nodes, "--timeout-s", "60"]].concat());
    (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

#[test]
fn three_servers_answer_a_client_and_keep_what_they_were_told() {
    let data = tempfile::tempdir().unwrap();
    let directories = ["a", "b", "c"].map(|name| data.path().join(name));
    let ids = directories.each_ref().map(|directory| id(directory));
    // The second and the third are told where the first is, and learn of each other from it.
    let first = serve(&directories[0], &[ids[1].clone(), ids[2].clone()]);
    let at_first = format!("{}@{}", ids[0], first.nodes);
    let second = serve(&directories[1], &[at_first.clone(), ids[2].clone()]);
    let third = serve(&directories[2], &[at_first.clone(), ids[1].clone()]);
    let nodes = [&first, &second, &third].map(|server| server.clients.as_str()).join(",");
    let kv = |arguments: &[&str]| ask(&nodes, arguments);
    assert_eq!(kv(&["put", "colour", "green"]), (Some(0), String::new()));
    assert_eq!(kv(&["put", "colour", "blue"]), (Some(0), "green\n".into()));
    assert_eq!(kv(&["get", "colour"]), (Some(0), "blue\n".into()));
    assert_eq!(kv(&["get", "taste"]), (Some(1), "kv: there is no such key\n".into()));

    // A node that was killed comes back with all it had, and catches up on the rest.
    drop(third);
    assert_eq!(kv(&["delete", "colour"]), (Some(0), "blue\n".into()));
    assert_eq!(kv(&["put", "shape", "round"]), (Some(0), String::new()));
    let third = serve(&directories[2], &[at_first, ids[1].clone()]);
    let status = |server: &Server| output("kv", &["status", "--nodes", &server.clients]).stdout;
    let digest = |status: Vec<u8>| {
        let status = String::from_utf8(status).unwrap();
        status.lines().find(|line| line.starts_with("store")).map(str::to_owned)
    };
    let deadline = Instant::now() + Duration::from_secs(60);
    while digest(status(&third)).is_none() || digest(status(&third)) != digest(status(&first)) {
        assert!(Instant::now() < deadline, "the third node does not catch up");
        thread::park_timeout(Duration::from_millis(5));
    }
    assert!(digest(status(&third)).unwrap().contains("1 keys"));
}

#[test]
fn a_server_is_replaced_by_another_and_leadership_is_handed_to_it() {
    let data = tempfile::tempdir().unwrap();
    let directories = ["a", "b", "c", "d"].map(|name| data.path().join(name));
    let ids = directories.each_ref().map(|directory| id(directory));
    let first = serve(&directories[0], &[ids[1].clone(), ids[2].clone()]);
    let at_first = format!("{}@{}", ids[0], first.nodes);
    let second = serve(&directories[1], &[at_first.clone(), ids[2].clone()]);
    let third = serve(&directories[2], &[at_first.clone(), ids[1].clone()]);
    let nodes = [&first, &second, &third].map(|server| server.clients.as_str()).join(",");
    assert_eq!(ask(&nodes, &["put", "colour", "green"]), (Some(0), String::new()));
    // The third is gone for good; the fourth takes its place.
    drop(third);
    let fourth = serve_with(&directories[3], &[at_first, ids[1].clone()], &["--join"]);
    let nodes = [&first, &second, &fourth].map(|server| server.clients.as_str()).join(",");
    let voters = [&ids[0], &ids[1], &ids[3]].map(String::as_str).join(",");
    let (code, members) = ask(&nodes, &["change", "--voters", &voters]);
    assert_eq!((code, members.lines().count()), (Some(0), 3), "{members}");
    assert!(members.contains(&format!("voter    {}", ids[3])), "{members}");

    assert_eq!(ask(&fourth.clients, &["get", "colour"]), (Some(0), "green\n".into()));
    assert_eq!(ask(&fourth.clients, &["get", "colour", "--stale-ms", "60000"]), (Some(0), "green\n".into()));
    assert_eq!(ask(&nodes, &["transfer", "--to", &ids[3]]), (Some(0), format!("{}\n", ids[3])));
    assert_eq!(ask(&fourth.clients, &["put", "colour", "blue"]), (Some(0), "green\n".into()));

    let (code, why) = ask(&nodes, &["change", "--voters", &ids[0], "--learners", &ids[0]]);
    assert_eq!(code, Some(1), "{why}");
    assert!(why.contains("is named twice"), "{why}");
    let (code, why) = ask(&nodes, &["transfer", "--to", &ids[2]]);
    assert_eq!(code, Some(1), "{why}");
    assert!(why.contains("is not fit to lead"), "{why}");
}

#[test]
fn what_may_have_been_carried_out_is_not_sent_again() {
    // One takes requests and hangs up; one takes nobody, though the operating system connects whoever comes.
    let (closing, hanging) = (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    let (closes, hangs) = (closing.local_addr().unwrap().to_string(), hanging.local_addr().unwrap().to_string());
    let next = TcpListener::bind("127.0.0.1:0").unwrap();
    let is_next = next.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in closing.incoming() {
            stream.unwrap().read_exact(&mut [0; 5]).unwrap();
        }
    });
    next.set_nonblocking(true).unwrap();
    let some_id = id(tempfile::tempdir().unwrap().path());
    for request in
        [&["put", "colour", "green"][..], &["delete", "colour"], &["change", "--voters", &some_id], &["transfer"]]
    {
        for first in [&closes, &hangs] {
            let nodes = format!("{first},{is_next}");
            let asked = output("kv", &[request, &["--nodes", &nodes, "--timeout-s", "1"]].concat());
            let said = String::from_utf8(asked.stderr).unwrap();
            assert_eq!(asked.status.code(), Some(1), "{request:?}: {said}");
            assert!(said.contains("whether it was carried out is unknown"), "{request:?}: {said}");
            assert_eq!(next.accept().unwrap_err().kind(), ErrorKind::WouldBlock, "{request:?} is sent once only");
        }
    }
}

#[test]
fn who_only_asks_is_answered_though_other_nodes_hang_or_are_not_there() {
    let data = tempfile::tempdir().unwrap();
    let hanging = TcpListener::bind("127.0.0.1:0").unwrap();
    let hangs = hanging.local_addr().unwrap().to_string();
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    id(data.path());
    let server = serve(data.path(), &[]);
    // A write goes to the next where nobody took it.
    assert_eq!(ask(&format!("{gone},{}", server.clients), &["put", "colour", "green"]), (Some(0), String::new()));
    let nodes = format!("{hangs},{gone},{}", server.clients);
    let asked = output("kv", &["get", "colour", "--nodes", &nodes, "--timeout-s", "9"]);
    assert_eq!((asked.status.code(), asked.stdout.as_slice()), (Some(0), &b"green\n"[..]), "{asked:?}");
    let status = output("kv", &["status", "--nodes", &nodes, "--timeout-s", "9"]);
    assert!(status.status.success(), "{status:?}");
}

#[test]
fn mistakes_are_refused_with_a_sentence_and_nothing_is_written() {
    let data = tempfile::tempdir().unwrap();
    let (mine, other) = (data.path().join("mine"), data.path().join("other"));
    let (my_id, other_id) = (id(&mine), id(&other));
    let mine = mine.to_str().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let any = "127.0.0.1:0";
    let free = ["--listen", any, "--clients", any];
    let serve = |arguments: &[&str]| refusal("kv", &[&["serve", "--data", mine], arguments].concat());
    for (said, why) in [
        (serve(&["--listen", &taken, "--clients", any]), "in use"),
        (serve(&["--listen", any, "--clients", &taken]), "cannot listen for clients"),
        (serve(&["--id", &other_id]), "belongs to node"),
        (serve(&["--peer", "nobody@127.0.0.1:1"]), "is no node id"),
        (serve(&["--peer", &format!("{other_id}@here")]), "is no address: give one like"),
        (serve(&[&free[..], &["--election-timeout-ms", "0"]].concat()), "election_timeout"),
        (serve(&[&free[..], &["--heartbeat-ms", "5000"]].concat()), "heartbeat_interval"),
        (serve(&[&free[..], &["--heartbeat-ms", "0"]].concat()), "heartbeat_interval"),
        (refusal("kv", &["serve", "--data", "/nowhere/at/all"]), "is no directory"),
        (refusal("kv", &["put", "key"]), "<VALUE>"),
        (refusal("kv", &["change"]), "--voters"),
        (refusal("kv", &["get", "key", "--timeout-s", "0"]), "1..=86400"),
        (refusal("kv", &["get", "key", "--timeout-s", "18446744073709551615"]), "1..=86400"),
        (refusal("kv", &["frobnicate"]), "unrecognized subcommand"),
    ] {
        assert!(said.contains(why), "{why:?} is not in: {said}");
    }
    let files: Vec<_> = fs::read_dir(mine).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert_eq!(files, ["key"], "node {my_id} wrote something");
}

#[test]
fn a_log_of_another_node_is_refused() {
    let data = tempfile::tempdir().unwrap();
    let (mine, other) = (data.path().join("mine"), data.path().join("other"));
    let (_, _) = (id(&mine), id(&other));
    drop(serve(&other, &[]));
    fs::rename(other.join("log"), mine.join("log")).unwrap();
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--clients", "127.0.0.1:0", "--data"];
    let said = refusal("kv", &[&arguments[..], &[mine.to_str().unwrap()]].concat());
    assert!(said.contains("belongs to node") && said.contains("choose another directory"), "{said}");
}

#[test]
fn two_processes_cannot_use_one_directory() {
    let data = tempfile::tempdir().unwrap();
    let mine = data.path().join("mine");
    id(&mine);
    let _running = serve(&mine, &[]);
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--clients", "127.0.0.1:0", "--data"];
    let said = refusal("kv", &[&arguments[..], &[mine.to_str().unwrap()]].concat());
    assert!(said.contains("in use by another process"), "{said}");
}
