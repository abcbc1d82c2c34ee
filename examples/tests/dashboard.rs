//! The dashboards of `swarm` and `task_farm`: by HTTP, and in a real browser where there is one.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::browser::Browser;
use support::http::{ask, raw};
use support::{example, refusal};

/// A program that serves a dashboard.
struct Shown {
    program: Child,
    out: BufReader<ChildStdout>,
    /// What it says otherwise, once it has ended.
    said: Option<JoinHandle<Vec<String>>>,
    address: String,
    _input: tempfile::TempDir,
}

impl Shown {
    fn start(name: &str, arguments: &[&str]) -> Self {
        let input = tempfile::tempdir().unwrap();
        for n in 0..40 {
            fs::write(input.path().join(format!("{n}.txt")), format!("number {n}\n").repeat(n * 10)).unwrap();
        }
        let mut program = Command::new(example(name))
            .args(["--dashboard", "127.0.0.1:0", "--json", "--input", input.path().to_str().unwrap()])
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(program.stderr.take().unwrap()).lines().map_while(Result::ok);
        let address = lines.find_map(|line| {
            let (_, address) = line.split_once("the dashboard is at http://")?;
            Some(address.trim_end_matches('/').to_owned())
        });
        let said = Some(std::thread::spawn(move || lines.collect()));
        let out = BufReader::new(program.stdout.take().unwrap());
        Self { program, out, said, address: address.unwrap(), _input: input }
    }

    fn state(&self) -> Value {
        let (status, state) = ask(&self.address, "GET", "/state", &Value::Null, "");
        assert_eq!(status, 200, "{state}");
        state
    }

    /// Waits until the state is so; far longer than it needs, even on a busy machine.
    fn until(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + Duration::from_secs(90);
        loop {
            let state = self.state();
            if wanted(&state) {
                return state;
            }
            assert!(Instant::now() < deadline, "it did not come about that {what}: {state}");
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    fn control(&self, control: Value) -> (u16, String) {
        let (status, answer) = ask(&self.address, "POST", "/control", &control, "");
        (status, answer["said"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned())
    }

    /// What is refused because it makes no sense now.
    fn refuses(&self, control: Value, why: &str) {
        let (status, said) = self.control(control);
        assert!(status == 409 && said.contains(why), "{status} {said}, not {why}");
    }

    fn done(&self, control: Value) {
        let (status, said) = self.control(control);
        assert_eq!(status, 200, "{said}");
    }

    fn report(&mut self) -> Value {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    /// Ctrl-C, after the report: the program ends well. What it said.
    fn end(mut self) -> Vec<String> {
        let pid = self.program.id().to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
        assert_eq!(self.program.wait().unwrap().code(), Some(0));
        assert!(TcpStream::connect(&self.address).is_err(), "nobody listens any more");
        self.said.take().unwrap().join().unwrap()
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

/// An agent in a state.
fn agent(state: &Value, number: usize) -> &Value {
    &state["agents"][number - 1]
}

/// On which sides those are that run.
fn sides(state: &Value) -> BTreeSet<u64> {
    let agents = state["agents"].as_array().unwrap().iter();
    agents.filter(|agent| agent["state"] == "runs").map(|agent| agent["side"].as_u64().unwrap()).collect()
}

/// Whether four agents run as one mesh, with links and a leader.
fn is_whole(state: &Value) -> bool {
    let well = |agent: &Value| agent["goes_on"] == true && agent["links"].as_array().is_some_and(|all| !all.is_empty());
    let leaders = (1..=4).filter(|number| agent(state, *number)["role"] == "leader").count();
    (1..=4).all(|number| well(agent(state, number))) && leaders == 1 && sides(state).len() == 1
}

#[test]
fn a_swarm_is_shown_and_troubled_by_hand() {
    let mut shown = Shown::start("swarm", &["--nodes", "4", "--script", "none"]);
    let report = shown.report();
    assert_eq!(report["ok"], true, "{report}");
    // What is shown may be older than the report. Plots go on after it.
    let state = shown.until("all is one, done, written and plotted", |state| {
        let is_plotted = state["points"].as_array().is_some_and(|points| points.len() > 2);
        let is_done = state["records"] == json!([40, 40]) && state["done"].as_u64() >= report["tasks"].as_u64();
        is_whole(state) && is_plotted && is_done
    });
    let agents = state["agents"].as_array().unwrap();
    let ids: BTreeSet<_> = agents.iter().map(|agent| agent["id"].as_str().unwrap()).collect();
    assert_eq!((agents.len(), ids.len(), &agents[4]["state"]), (5, 5, &json!("spare")), "{state}");
    assert_eq!(state["figures"].as_array().unwrap().len(), 12);
    assert_eq!(state["points"][1][1].as_array().unwrap().len(), 12);
    assert_eq!((1..=4).filter(|number| agent(&state, *number)["is_primary"] == true).count(), 1, "{state}");
    assert_eq!(
        (1..=4).map(|number| agent(&state, number)["zone"].clone()).collect::<Vec<_>>(),
        [0, 1, 2, 0],
        "{state}"
    );
    assert!((1..=4).all(|number| agent(&state, number)["taken_over"].is_u64()), "{state}");
    assert!(
        state["log"].as_array().unwrap().iter().any(|line| line["text"].as_str().unwrap().contains("know each other"))
    );

    shown.done(json!({"do": "kill", "agent": 3}));
    shown.until("agent 3 is dead", |state| agent(state, 3)["state"] == "dead" && agent(state, 3)["pid"].is_null());
    shown.refuses(json!({"do": "kill", "agent": 3}), "agent 3 is dead already");
    shown.refuses(json!({"do": "pause", "agent": 3}), "agent 3 does not run");
    shown.done(json!({"do": "restart", "agent": 3}));
    shown.until("it is back", is_whole);
    shown.refuses(json!({"do": "restart", "agent": 3}), "agent 3 has a process already");

    // One that ends by itself is dead as well.
    let state = shown.until("agent 4 has a process", |state| agent(state, 4)["pid"].is_u64());
    let pid = agent(&state, 4)["pid"].to_string();
    assert!(Command::new("kill").args(["-KILL", &pid]).status().unwrap().success());
    shown.until("agent 4 is dead", |state| agent(state, 4)["state"] == "dead");
    shown.done(json!({"do": "restart", "agent": 4}));
    shown.until("it is back as well", is_whole);

    shown.done(json!({"do": "pause", "agent": 2}));
    shown.until("agent 2 is paused", |state| agent(state, 2)["state"] == "paused");
    shown.refuses(json!({"do": "resume", "agent": 1}), "agent 1 is not paused");
    shown.done(json!({"do": "resume", "agent": 2}));
    shown.until("it goes on", is_whole);

    shown.refuses(json!({"do": "heal"}), "the mesh is not split");
    shown.refuses(json!({"do": "split", "agents": [1, 2, 3, 4]}), "on each side of a split an agent must run");
    shown.refuses(json!({"do": "split", "agents": [0]}), "there is no agent 0");
    shown.done(json!({"do": "split", "agents": [4]}));
    shown.until("there are two sides, and one only reads", |state| {
        let apart = agent(state, 4)["side"] != agent(state, 1)["side"] && agent(state, 4)["goes_on"] == false;
        apart && sides(state).len() == 2 && state["is_split"] == true && agent(state, 1)["goes_on"] == true
    });
    shown.refuses(json!({"do": "split"}), "the mesh is split already");
    shown.done(json!({"do": "heal"}));
    let state = shown.until("it has healed", is_whole);
    assert_eq!(state["is_split"], false);
    shown.refuses(json!({"do": "kill", "agent": 99}), "there is no agent 99");
    // Who is paused ends with the others.
    shown.done(json!({"do": "pause", "agent": 2}));
    shown.end();
}

#[test]
fn while_a_script_runs_no_control_is_taken() {
    let script = tempfile::NamedTempFile::new().unwrap();
    fs::write(script.path(), "split\n").unwrap();
    let mut shown = Shown::start("swarm", &["--nodes", "5", "--script", script.path().to_str().unwrap()]);
    let state = shown.until("the script runs", |state| state["refusal"] == "the script runs");
    assert_eq!(state["doing"], "step 1 of 1 of the script, split");
    shown.refuses(json!({"do": "kill", "agent": 1}), "the script runs");
    shown.until("there are two sides", |state| sides(state).len() == 2);
    let report = shown.report();
    assert_eq!((&report["ok"], &report["script"][0]["step"]), (&json!(true), &json!("split")), "{report}");
    shown.until("controls are taken", |state| state["refusal"].is_null());
    shown.done(json!({"do": "kill", "agent": 1}));
    // The others leave as they do where nobody looks on.
    let said = shown.end();
    assert!(
        said.iter().any(|line| line.ends_with("the network is shut down, and all processes have ended")),
        "{said:?}"
    );
}

#[test]
fn a_farm_is_shown_and_a_node_of_it_killed() {
    let mut shown = Shown::start("task_farm", &["--nodes", "5", "--pace", "500"]);
    let state = shown.until("some tasks are done", |state| state["done"].as_u64() > Some(3));
    assert_eq!((state["agents"].as_array().unwrap().len(), &state["program"]), (5, &json!("task_farm")));
    assert_eq!((&agent(&state, 5)["zone"], agent(&state, 1)["moved"].as_u64() > Some(0)), (&json!(1), true), "{state}");
    shown.refuses(json!({"do": "kill", "agent": 1}), "node 1 has submitted the tasks");
    shown.refuses(json!({"do": "split"}), "links cannot be cut here");
    shown.done(json!({"do": "pause", "agent": 3}));
    shown.refuses(json!({"do": "kill", "agent": 5}), "one at a time");
    shown.done(json!({"do": "resume", "agent": 3}));
    shown.done(json!({"do": "kill", "agent": 4}));
    shown.until("node 4 is dead", |state| agent(state, 4)["state"] == "dead");
    shown.refuses(json!({"do": "restart", "agent": 4}), "stays dead");
    shown.refuses(json!({"do": "pause", "agent": 3}), "is copied first");
    let report = shown.report();
    assert_eq!((&report["nodes_equal"], &report["files"]), (&json!(4), &json!(40)), "{report}");
    shown.end();
}

#[test]
fn a_node_of_a_farm_that_is_paused_is_waited_for() {
    let mut shown = Shown::start("task_farm", &["--nodes", "4", "--pace", "300"]);
    shown.until("some tasks are done", |state| state["done"].as_u64() > Some(3));
    shown.done(json!({"do": "pause", "agent": 4}));
    // The others take over what it was to do.
    let is_awaited = |line: &Value| line["text"] == "all is counted; who is paused is waited for";
    shown.until("all is counted", |state| state["log"].as_array().unwrap().iter().any(is_awaited));
    shown.done(json!({"do": "resume", "agent": 4}));
    let report = shown.report();
    assert_eq!((&report["nodes_equal"], &report["files"]), (&json!(4), &json!(40)), "{report}");
    shown.end();
}

#[test]
fn bad_requests_are_refused_and_good_ones_still_answered() {
    let shown = Shown::start("task_farm", &["--nodes", "3", "--pace", "100"]);
    let address = &shown.address;
    let head = format!("Host: {address}\r\nContent-Type: application/json\r\n");
    let long = "x".repeat(20_000);
    for (request, expected) in [
        (format!("GET / HTTP/1.1\r\n{head}X: {long}\r\n\r\n"), 431),
        (format!("GET /{long} HTTP/1.1\r\n{head}\r\n"), 431),
        (format!("POST /control HTTP/1.1\r\n{head}Content-Length: 99999999\r\n\r\n{long}"), 413),
        (format!("POST /control HTTP/1.1\r\n{head}Content-Length: 8\r\n\r\nnot json"), 400),
        (format!("POST /control HTTP/1.1\r\n{head}Content-Length: 16\r\n\r\n{{\"do\":\"explode\"}}"), 400),
        (format!("POST /control HTTP/1.1\r\nHost: {address}\r\nContent-Length: 13\r\n\r\n{{\"do\":\"heal\"}}"), 415),
        (
            format!(
                "POST /control HTTP/1.1\r\n{head}Origin: http://evil.example\r\nContent-Length: 13\r\n\r\n{{\"do\":\"heal\"}}"
            ),
            403,
        ),
        (format!("POST /control HTTP/1.1\r\n{head}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 501),
        ("GET /state HTTP/1.1\r\nHost: evil.example\r\n\r\n".to_owned(), 403),
        ("GET /state HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("\0\x01\x02 nonsense\r\n\r\n".to_owned(), 400),
        (format!("DELETE /state HTTP/1.1\r\n{head}\r\n"), 405),
        (format!("GET /control HTTP/1.1\r\n{head}\r\n"), 405),
        (format!("GET /../../etc/passwd HTTP/1.1\r\n{head}\r\n"), 404),
    ] {
        let (status, said) = raw(address, request.as_bytes());
        assert_eq!(status, expected, "{}: {said}", &request[..request.len().min(150)]);
    }
    let (status, said) = ask(address, "POST", "/control", &json!({"do": "kill", "agent": 2}), "");
    assert_eq!(status, 200, "{said}");
    let (status, said) = ask(address, "POST", "/control", &json!({"do": "kill", "agent": 3}), "");
    assert!(status == 409 && said.to_string().contains("more than half"), "{said}");
    // The same origin may.
    let (status, said) =
        ask(address, "POST", "/control", &json!({"do": "heal"}), &format!("Origin: http://{address}\r\n"));
    assert_eq!(status, 409, "{said}");

    // Who connects and says nothing keeps others out for a while at the most.
    let idle: Vec<_> = (0..40).map(|_| TcpStream::connect(address).unwrap()).collect();
    let mut last = idle.last().unwrap();
    let mut refused = String::new();
    last.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    last.read_to_string(&mut refused).unwrap();
    assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
    // Those that were taken are given up after a few seconds, though they are still open.
    let mut first = &idle[0];
    first.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    assert_eq!(first.read(&mut [0; 16]).unwrap(), 0);
    shown.until("it answers again", |state| state["program"] == "task_farm");
}

#[test]
fn an_address_that_is_taken_is_a_sentence() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for program in ["swarm", "task_farm"] {
        let said = refusal(program, &["--dashboard", &address]);
        assert!(said.contains(&format!("{program}: no dashboard can be served at {address}: ")), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(refusal(program, &["--dashboard", "nowhere"]).contains("invalid socket address"));
    }
}

/// Waits until an expression on the page is true.
fn await_page(browser: &Browser, expression: &str) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while browser.eval(expression) != true {
        assert!(
            Instant::now() < deadline,
            "it did not come about that {expression}: {}",
            browser.eval("document.body.innerText")
        );
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

#[test]
fn a_browser_shows_the_swarm_and_its_buttons_work() {
    let Some(browser) = Browser::open() else { return };
    let mut shown = Shown::start("swarm", &["--nodes", "4", "--script", "none"]);
    let page = format!("http://{}/", shown.address);
    assert_eq!(shown.report()["ok"], true);
    shown.until("all is one", is_whole);
    let mut pictures = BTreeSet::new();
    for (width, scheme) in [(360, "light"), (360, "dark"), (1400, "light"), (1400, "dark")] {
        browser.load(&page, width, 900, scheme);
        await_page(&browser, "document.querySelectorAll('#agents tr').length === 5");
        // The last was never started, and has none.
        let cells = |name: &str| {
            format!("[...document.querySelectorAll('[data-name=\"{name}\"]')].map(cell => cell.textContent)")
        };
        await_page(&browser, &format!("{}.join() === '0,1,2,0,–'", cells("Zone")));
        await_page(&browser, &format!("/^([0-9]+,){{4}}–$/.test({}.join())", cells("Taken over")));
        let fits = "document.documentElement.scrollWidth <= innerWidth";
        assert_eq!(browser.eval(fits), true, "nothing is wider than the window");
        assert_eq!(browser.eval("document.querySelectorAll('#plots li').length"), 12);
        assert_eq!(browser.eval("document.querySelectorAll('#graph g').length"), 5);
        assert_eq!(browser.eval("document.querySelectorAll('#graph line').length > 2"), true);
        assert_eq!(browser.eval("document.querySelectorAll('#log li').length > 2"), true);
        assert_eq!(
            browser.eval("document.getElementById('graph-text').textContent.startsWith('4 of 5 agents run, with ')"),
            true
        );
        pictures.insert((width, browser.eval("getComputedStyle(document.body).backgroundColor").to_string()));
        if let Some(directory) = std::env::var_os("MESH_PICTURES") {
            let file = std::path::Path::new(&directory).join(format!("{width}-{scheme}.png.base64"));
            fs::write(file, browser.picture()).unwrap();
        }
    }
    assert_eq!(pictures.len(), 4, "dark is another colour than light: {pictures:?}");

    // By keyboard alone: the first stop leads to the controls, the next are the buttons.
    browser.eval("document.activeElement.blur()");
    let focus = "document.activeElement.id || document.activeElement.className";
    let mut stops = Vec::new();
    for _ in 0..12 {
        browser.press('\u{e004}');
        stops.push(browser.eval(focus).as_str().unwrap().to_owned());
        if stops.last().is_some_and(|stop| stop == "kill-3") {
            break;
        }
        assert!(stops.len() < 12, "{stops:?}");
    }
    for stop in ["skip", "log", "split", "heal", "kill-1", "pause-1", "cut-1"] {
        assert!(stops.iter().any(|other| other == stop), "{stop}: {stops:?}");
    }
    browser.press('\u{e006}');
    await_page(&browser, "document.getElementById('answer').textContent === 'Done: agent 3 is killed (SIGKILL).'");
    await_page(&browser, "document.getElementById('kill-3').textContent === 'Restart agent 3'");
    assert_eq!(browser.eval(focus), "kill-3", "whoever has the focus keeps it");
    shown.until("agent 3 is dead", |state| agent(state, 3)["state"] == "dead");
    browser.press('\u{e006}');
    shown.until("it is back", is_whole);

    browser.eval("document.getElementById('cut-4').click()");
    browser.eval("document.getElementById('split').click()");
    await_page(&browser, "document.querySelectorAll('#graph .s2').length === 1");
    await_page(&browser, "document.querySelector('#agent-4 .state').textContent === 'read-only'");
    browser.eval("document.getElementById('heal').click()");
    shown.until("it has healed", is_whole);
    shown.end();
    await_page(&browser, "!document.getElementById('lost').hidden");
}
