//! A page that shows a mesh at work and lets one trouble it: nodes, links, roles, sides of a partition, tasks, figures over
//! time, a log, and buttons.
//!
//! The program that runs the mesh publishes a [`State`] now and then, and takes what people ask for from a bounded queue
//! when it likes ([`Dashboard::asked`]). The server has threads of its own and knows no mesh: `GET /` is the page,
//! `GET /state` what was published last, `POST /control` a [`Control`] as JSON, answered by what the program says to it.
//!
//! Whoever can reach the address can use the buttons: it is meant for `127.0.0.1`, or a network that one trusts. Pages of
//! other sites cannot: a request that comes from one, or by a name instead of an address, is refused.
//!
//! ```
//! use mesh_examples::dashboard::{Agent, Control, Dashboard, Figure, State};
//!
//! const LOAD: Figure = Figure { name: "load", unit: "" };
//! let mut dashboard = Dashboard::serve("127.0.0.1:0".parse()?, &[LOAD])?;
//! let agents = vec![Agent { number: 1, ..Agent::default() }];
//! dashboard.publish(State { program: "demo", agents, ..State::default() }, &[Some(0.5)]);
//! while let Some(asked) = dashboard.asked() {
//!     match asked.control {
//!         Control::Kill { agent: 1 } => asked.answer(Ok("agent 1 is killed".to_owned())),
//!         _ => asked.answer(Err("there is nothing else to be done".to_owned())),
//!     }
//! }
//! println!("look at http://{}/", dashboard.address());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod http;

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use http::{Request, Response};

/// The page: all of it, with its style and its script.
const PAGE: &str = include_str!("dashboard.html");

/// How often a new state is worth its bytes.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(200);

/// How often figures are taken down, at first.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);

/// So many points a plot has at the most; then every other is left out, and from then on fewer are taken.
const POINTS_MAX: usize = 240;

/// So many lines of the log are kept, the latest.
const LOG_MAX: usize = 300;

/// So many controls may wait for the program.
const WAITING_MAX: usize = 16;

/// How long a control may wait to be taken.
const ASK_PATIENCE: Duration = Duration::from_secs(10);

/// A figure that is plotted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Figure {
    /// What it is, as `snake_case`.
    pub name: &'static str,
    /// What it is counted in; empty where it is a mere number.
    pub unit: &'static str,
}

/// How a mesh is.
#[derive(Clone, Debug, Default, Serialize)]
pub struct State {
    /// Which program runs it.
    pub program: &'static str,
    /// What is being done now.
    pub doing: String,
    /// Which controls there are, by name.
    pub controls: &'static [&'static str],
    /// Why none of them is taken now, if so.
    pub refusal: Option<String>,
    /// Whether the mesh is split on purpose.
    pub is_split: bool,
    /// Records written, and all there are.
    pub records: Option<(usize, usize)>,
    /// Executions of tasks.
    pub done: u64,
    /// All agents, by number.
    pub agents: Vec<Agent>,
}

/// How an agent is. What it has not said is empty.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Agent {
    /// From 1.
    pub number: usize,
    /// Its id.
    pub id: String,
    /// Of its process, where there is one.
    pub pid: Option<u32>,
    /// `runs`, `starts`, `paused`, `dead`, or `spare`: it never ran.
    pub state: &'static str,
    /// In Raft.
    pub role: Option<String>,
    /// Of Raft.
    pub term: Option<u64>,
    /// Of pBFT.
    pub view: Option<u64>,
    /// Whether it is the primary of pBFT.
    pub is_primary: bool,
    /// Whether it was told to be malicious.
    pub lies: bool,
    /// Whether it may go on; otherwise it may only read.
    pub goes_on: Option<bool>,
    /// Which side of a partition it is on, from 1; the same for all where there is none.
    pub side: usize,
    /// To which agents it has links.
    pub links: Vec<usize>,
    /// Its failure domain.
    pub zone: Option<u16>,
    /// Tasks that wait, run, and were executed, and ownership that it gave to others and took over.
    pub queued: u32,
    /// Tasks that run.
    pub running: u32,
    /// How busy its executors are, from 0 to 1: tasks that wait or run, for each of them. None without any.
    pub load: Option<f64>,
    /// Tasks that it has executed since its process began.
    pub done: u32,
    /// Tasks that it gave to others.
    pub moved: Option<u64>,
    /// Tasks of others that it took over.
    pub taken_over: Option<u64>,
    /// How many records it holds.
    pub records: Option<usize>,
}

/// What people can ask for. As JSON `{"do": "kill", "agent": 3}`; agents are numbered from 1.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "do", rename_all = "lowercase", deny_unknown_fields)]
pub enum Control {
    /// Kill the process of an agent: SIGKILL.
    Kill {
        /// Which.
        agent: usize,
    },
    /// Start the process of an agent that is dead.
    Restart {
        /// Which.
        agent: usize,
    },
    /// Stop an agent for a while: SIGSTOP.
    Pause {
        /// Which.
        agent: usize,
    },
    /// Let a paused agent go on: SIGCONT.
    Resume {
        /// Which.
        agent: usize,
    },
    /// Let no frame pass between these agents and all others.
    Split {
        /// One side; the program chooses where it is empty.
        #[serde(default)]
        agents: Vec<usize>,
    },
    /// Let all frames pass again.
    Heal {},
}

/// A control that waits for its answer.
#[derive(Debug)]
pub struct Asked {
    /// What is asked for.
    pub control: Control,
    answer: SyncSender<Result<String, String>>,
    /// Whether it was taken by the program, or given up by who asked: whichever comes first.
    taken: Arc<AtomicBool>,
}

impl Asked {
    /// Says what was done, or why it makes no sense now.
    pub fn answer(self, answer: Result<String, String>) {
        // Who asked may be gone.
        let _ = self.answer.try_send(answer);
    }
}

/// A line of the log.
#[derive(Clone, Debug, Serialize)]
struct Said {
    number: u64,
    seconds: f64,
    text: String,
}

/// What was said since the beginning. Clones are of the same log.
#[derive(Clone, Debug)]
pub struct Log {
    begin: Instant,
    /// The number of the next line, and the latest lines.
    lines: Arc<Mutex<(u64, VecDeque<Said>)>>,
}

impl Log {
    fn new() -> Self {
        Self { begin: Instant::now(), lines: Arc::default() }
    }

    /// Adds a line.
    pub fn say(&self, text: &str) {
        let seconds = self.begin.elapsed().as_secs_f64();
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let (next, lines) = &mut *lines;
        if lines.len() == LOG_MAX {
            lines.pop_front();
        }
        lines.push_back(Said { number: *next, seconds, text: text.to_owned() });
        *next += 1;
    }

    fn all(&self) -> Vec<Said> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).1.iter().cloned().collect()
    }
}

/// Figures over time, from the beginning, in ever longer steps.
#[derive(Debug)]
struct Plots {
    figures: Vec<Figure>,
    interval: Duration,
    last: Option<Instant>,
    /// When, in s, and each figure then.
    points: Vec<(f64, Vec<Option<f64>>)>,
}

impl Plots {
    const fn new(figures: Vec<Figure>) -> Self {
        Self { figures, interval: SAMPLE_INTERVAL, last: None, points: Vec::new() }
    }

    fn take(&mut self, now: Instant, seconds: f64, values: &[Option<f64>]) {
        let is_early = self.last.is_some_and(|last| now.saturating_duration_since(last) < self.interval);
        if is_early || values.is_empty() {
            return;
        }
        self.last = Some(now);
        if self.points.len() >= POINTS_MAX {
            let mut keep = false;
            self.points.retain(|_| {
                keep = !keep;
                keep
            });
            self.interval *= 2;
        }
        self.points
            .push((seconds, values.iter().copied().map(|value| value.filter(|value| value.is_finite())).collect()));
    }
}

/// All that the page is told.
#[derive(Serialize)]
struct Snapshot<'a> {
    #[serde(flatten)]
    state: State,
    seconds: f64,
    figures: &'a [Figure],
    points: &'a [(f64, Vec<Option<f64>>)],
    log: Vec<Said>,
}

/// The server of the page.
#[derive(Debug)]
pub struct Dashboard {
    address: SocketAddr,
    state: Arc<Mutex<Arc<[u8]>>>,
    asked: Receiver<Asked>,
    log: Log,
    plots: Plots,
    published: Option<Instant>,
}

impl Dashboard {
    /// Listens at `address` from now on; with plots of these figures.
    ///
    /// # Errors
    /// What the operating system says, such as that the port is in use.
    pub fn serve(address: SocketAddr, figures: &[Figure]) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let (ask, asked) = sync_channel(WAITING_MAX);
        let mut dashboard = Self {
            address,
            state: Arc::new(Mutex::new(Arc::new([]))),
            asked,
            log: Log::new(),
            plots: Plots::new(figures.to_vec()),
            published: None,
        };
        dashboard.publish(State { doing: "nothing yet".to_owned(), ..State::default() }, &[]);
        dashboard.published = None;
        let state = dashboard.state.clone();
        http::serve(listener, move |request| respond(request, &state, &ask));
        Ok(dashboard)
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The log that the page shows.
    pub fn log(&self) -> Log {
        self.log.clone()
    }

    /// Whether it is time to publish how things are.
    pub fn is_due(&self) -> bool {
        self.published.is_none_or(|published| published.elapsed() >= PUBLISH_INTERVAL)
    }

    /// Shows this from now on. `values` are those of the figures, in their order, as far as there are any.
    pub fn publish(&mut self, state: State, values: &[Option<f64>]) {
        let now = Instant::now();
        self.published = Some(now);
        let seconds = self.log.begin.elapsed().as_secs_f64();
        self.plots.take(now, seconds, values);
        let Plots { figures, points, .. } = &self.plots;
        let snapshot = Snapshot { state, seconds, figures, points, log: self.log.all() };
        // Numbers and texts only: there is nothing in it that JSON cannot say.
        if let Ok(json) = serde_json::to_vec(&snapshot) {
            *self.state.lock().unwrap_or_else(PoisonError::into_inner) = json.into();
        }
    }

    /// The next thing that somebody asks for, if there is any.
    pub fn asked(&self) -> Option<Asked> {
        next(&self.asked)
    }
}

/// The next control that is still waited for.
fn next(asked: &Receiver<Asked>) -> Option<Asked> {
    asked.try_iter().find(|asked| !asked.taken.swap(true, Relaxed))
}

fn respond(request: &Request, state: &Mutex<Arc<[u8]>>, ask: &SyncSender<Asked>) -> Response {
    if !request.is_to_an_address() {
        return Response::sentence(403, "ask by address, not by name, as in http://127.0.0.1:8080/");
    }
    match (request.method.as_str(), request.path.as_str()) {
        ("GET", "/") => Response::page(PAGE.as_bytes().into()),
        ("GET", "/state") => Response::json(200, state.lock().unwrap_or_else(PoisonError::into_inner).clone()),
        ("POST", "/control") => control(request, ask, ASK_PATIENCE),
        (_, "/" | "/state") => Response::sentence(405, "it can only be read, by GET"),
        (_, "/control") => Response::sentence(405, "it takes controls, by POST"),
        _ => Response::sentence(404, "there are /, /state and /control"),
    }
}

/// Has the program do what is asked for, if it takes it in time. What it has taken is waited for.
fn control(request: &Request, ask: &SyncSender<Asked>, patience: Duration) -> Response {
    if request.is_foreign() {
        return Response::sentence(403, "the page of another site has no say here");
    }
    let kind = request.content_type.as_deref().unwrap_or_default();
    if !kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json")) {
        return Response::sentence(415, "a control is application/json");
    }
    let control: Control = match serde_json::from_slice(&request.body) {
        Ok(control) => control,
        Err(error) => return Response::sentence(400, &format!("this is no control: {error}")),
    };
    let (answer, answered) = sync_channel(1);
    let taken = Arc::<AtomicBool>::default();
    match ask.try_send(Asked { control, answer, taken: taken.clone() }) {
        Ok(()) => {}
        Err(TrySendError::Full(_)) => return Response::sentence(503, "too much is asked for at once"),
        Err(TrySendError::Disconnected(_)) => return Response::sentence(409, "the run is over"),
    }
    let mut answer = answered.recv_timeout(patience).ok();
    if answer.is_none() {
        if !taken.swap(true, Relaxed) {
            return Response::sentence(503, "the program is busy: nothing was done, and nothing will be");
        }
        answer = answered.recv().ok();
    }
    match answer {
        Some(Ok(done)) => Response::sentence(200, &done),
        Some(Err(why)) => Response::sentence(409, &why),
        None => Response::sentence(503, "the program did not say what came of it"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controls_are_read_and_nonsense_is_not() {
        let read = |text: &str| serde_json::from_str::<Control>(text).ok();
        assert_eq!(read(r#"{"do":"kill","agent":3}"#), Some(Control::Kill { agent: 3 }));
        assert_eq!(read(r#"{"do":"split"}"#), Some(Control::Split { agents: Vec::new() }));
        assert_eq!(read(r#"{"do":"split","agents":[1,2]}"#), Some(Control::Split { agents: vec![1, 2] }));
        assert_eq!(read(r#"{"do":"heal"}"#), Some(Control::Heal {}));
        for text in ["", "[]", "{}", r#"{"do":"explode"}"#, r#"{"do":"kill"}"#, r#"{"do":"kill","agent":-1}"#] {
            assert_eq!(read(text), None, "{text}");
        }
        assert_eq!(read(r#"{"do":"kill","agent":1,"twice":true}"#), None);
    }

    #[test]
    fn what_is_given_up_is_not_done_later_and_what_is_begun_is_waited_for() {
        let request = Request {
            content_type: Some("application/json".to_owned()),
            body: br#"{"do":"kill","agent":3}"#.to_vec(),
            ..Request::default()
        };
        let (ask, asked) = sync_channel(WAITING_MAX);
        let refusal = control(&request, &ask, Duration::ZERO);
        assert_eq!(refusal.status, 503, "{refusal:?}");
        assert!(next(&asked).is_none());

        let patience = Duration::from_millis(100);
        let program = std::thread::spawn(move || {
            let begun = loop {
                match next(&asked) {
                    Some(begun) => break begun,
                    None => std::thread::yield_now(),
                }
            };
            std::thread::sleep(patience * 3);
            begun.answer(Ok("agent 3 is killed".to_owned()));
            next(&asked).is_none()
        });
        // On a busy machine the program may come too late now and then.
        let status = (0..100).map(|_| control(&request, &ask, patience).status).find(|status| *status != 503);
        assert_eq!(status, Some(200));
        assert!(program.join().unwrap(), "it is done once");
    }

    #[test]
    fn plots_reach_back_to_the_beginning_and_stay_small() {
        let (mut plots, begin) = (Plots::new(vec![Figure { name: "load", unit: "" }]), Instant::now());
        for second in 0..4000_u32 {
            plots.take(begin + Duration::from_secs(second.into()), second.into(), &[Some(f64::NAN)]);
        }
        assert!((POINTS_MAX / 2..=POINTS_MAX).contains(&plots.points.len()), "{}", plots.points.len());
        assert_eq!(plots.points[0].0, 0.0);
        assert!(plots.points.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert!(plots.points.last().unwrap().0 > 3950.0);
        assert!(plots.points.iter().all(|(_, values)| values == &[None]), "JSON knows no NaN");
    }

    #[test]
    fn the_log_keeps_the_latest_lines() {
        let log = Log::new();
        (0..LOG_MAX + 5).for_each(|n| log.say(&format!("line {n}")));
        let all = log.all();
        assert_eq!((all.len(), all[0].number, all[0].text.as_str()), (LOG_MAX, 5, "line 5"));
    }
}
