//! The trouble that the swarm lives through, step by step: each is announced, done, and its end verified.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use mesh_core::{ClusterKey, NodeId};
use mesh_examples::hex::to_hex;
use serde::Serialize;

use super::line::{Order, Status};
use super::mesh::{Mesh, Problem};

/// So many tasks make an agent hot.
const BURST: u32 = 120;

/// So many tasks an agent has that leaves.
const OWNED: u32 = 40;

/// One kind of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    KillLeader,
    KillWorker,
    Split,
    Lie,
    Heat,
    Add,
    Drain,
    Rotate,
    Vote,
}

impl Step {
    /// All of it, in this order.
    pub(crate) const ALL: [Self; 9] = [
        Self::KillLeader,
        Self::KillWorker,
        Self::Split,
        Self::Lie,
        Self::Heat,
        Self::Add,
        Self::Drain,
        Self::Rotate,
        Self::Vote,
    ];
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::KillLeader => "kill-leader",
            Self::KillWorker => "kill-worker",
            Self::Split => "split",
            Self::Lie => "lie",
            Self::Heat => "heat",
            Self::Add => "add",
            Self::Drain => "drain",
            Self::Rotate => "rotate",
            Self::Vote => "vote",
        })
    }
}

impl FromStr for Step {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|step| step.to_string() == text).ok_or_else(|| {
            let known: Vec<_> = Self::ALL.iter().map(ToString::to_string).collect();
            format!("there is no step {text:?}: choose from {}", known.join(", "))
        })
    }
}

/// Reads a script: a step a line; empty lines and those that begin with `#` are left out.
pub(crate) fn parse(text: &str) -> Result<Vec<Step>, String> {
    let lines = text.lines().enumerate().map(|(at, line)| (at + 1, line.trim()));
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let steps: Vec<Step> = lines
        .map(|(at, line)| line.parse().map_err(|error: String| format!("line {at}: {error}")))
        .collect::<Result<_, _>>()?;
    for step in [Step::Add, Step::Drain] {
        if steps.iter().filter(|other| **other == step).count() > 1 {
            return Err(format!("{step} can be done once only"));
        }
    }
    Ok(steps)
}

/// Checks that a script can be lived through by so many agents, of which so many order decisions.
pub(crate) fn check(steps: &[Step], agents: usize, replicas: usize) -> Result<(), String> {
    let at = |wanted: Step| steps.iter().position(|step| *step == wanted);
    let lies = steps.iter().rposition(|step| *step == Step::Lie);
    let (Some(drain), Some(lie)) = (at(Step::Drain), lies) else { return Ok(()) };
    let added = usize::from(at(Step::Add).is_some_and(|add| add < drain));
    // Whoever leads does not leave, so that of two who are no replicas one can.
    if drain < lie && agents + added < replicas + 2 {
        return Err(format!(
            "lie after drain needs --nodes {}, or {} and add before drain: with fewer, one of the {replicas} replicas may have \
             left, and the others cannot spare a liar",
            replicas + 2,
            replicas + 1
        ));
    }
    Ok(())
}

/// What came of a step.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Told {
    pub(crate) step: String,
    /// From the beginning of the trouble until its consequences were over, in ms.
    pub(crate) recovery_ms: f64,
    /// What was seen.
    pub(crate) seen: String,
}

/// Lives through a step, of this number in the script.
pub(crate) fn live_through(mesh: &mut Mesh, number: usize, step: Step) -> Result<Told, Problem> {
    let begin = Instant::now();
    let (recovery, seen) = match step {
        Step::KillLeader => kill_leader(mesh),
        Step::KillWorker => kill_worker(mesh),
        Step::Split => split(mesh, number),
        Step::Lie => lie(mesh, number),
        Step::Heat => heat(mesh),
        Step::Add => add(mesh),
        Step::Drain => drain(mesh),
        Step::Rotate => rotate(mesh),
        Step::Vote => vote(mesh, number),
    }
    .map_err(|problem| format!("{step}: {problem}"))?;
    let by = mesh.running().first().copied().ok_or("nobody runs")?;
    mesh.remember(by, format!("steps/{number}"), format!("{step}: {seen}"))?;
    let told = Told { step: step.to_string(), recovery_ms: recovery.as_secs_f64() * 1e3, seen };
    mesh.view.say(&format!("{:<12}{} ({:.1} s)", format!("{step}:"), told.seen, begin.elapsed().as_secs_f64()));
    Ok(told)
}

/// Waits until all that run know each other, may go on, and hear of one leader.
pub(crate) fn whole(mesh: &mut Mesh) -> Result<Duration, Problem> {
    mesh.until("all agents know each other, have one leader, and go on", is_whole)
}

fn is_whole(mesh: &Mesh) -> bool {
    let running = mesh.running();
    let ids: BTreeSet<_> = running.iter().map(|at| mesh.ids[*at]).collect();
    let leaders: BTreeSet<_> = mesh.statuses().map(|(_, status)| status.leader()).collect();
    mesh.all(|status| {
        let has_links = !status.agent.links.is_empty();
        status.agent.goes_on() && status.alive() == ids && has_links && status.leader().is_some()
    }) && leaders.len() == 1
}

/// The agents that order decisions.
fn replicas(mesh: &Mesh) -> Vec<usize> {
    mesh.statuses().filter(|(_, status)| status.decided.is_some()).map(|(at, _)| at).collect()
}

/// An agent that executes tasks and that the rest can spare: no leader; no replica where there is another; and nobody that was
/// added where there is another still.
fn spare(mesh: &Mesh) -> Option<usize> {
    let leader = mesh.leader().map(|(at, _)| at);
    let spare = |(at, _): &(usize, &Status)| Some(*at) != leader && *at != 0;
    let fitness = |at: usize, status: &Status| (status.decided.is_none(), at < mesh.founders(), at);
    mesh.statuses().filter(spare).max_by_key(|(at, status)| fitness(*at, status)).map(|(at, _)| at)
}

fn id(mesh: &Mesh, at: usize) -> NodeId {
    mesh.ids[at]
}

fn kill_leader(mesh: &mut Mesh) -> Result<(Duration, String), Problem> {
    mesh.until("somebody leads", |mesh| mesh.leader().is_some())?;
    let (leader, term) = mesh.leader().ok_or("nobody leads")?;
    let name = mesh.name(leader);
    mesh.view.say(&format!("{:<12}{name} leads in term {term}: SIGKILL", "kill-leader:"));
    // All the while there is something to write.
    mesh.write_one_more();
    let begin = Instant::now();
    mesh.kill(leader)?;
    let leaderless = mesh.until("another leads", |mesh| mesh.leader().is_some_and(|(_, newer)| newer > term))?;
    let (next, newer) = mesh.leader().ok_or("nobody leads")?;
    let before = mesh.writing.acknowledged.len();
    mesh.write_one_more();
    mesh.until("the next write is acknowledged, if there is one", |mesh| {
        mesh.writing.acknowledged.len() > before || mesh.records() == before
    })?;
    let written = (mesh.writing.acknowledged.len() > before).then(|| begin.elapsed());
    mesh.start(leader)?;
    let whole = whole(mesh)?;
    // Where nothing is left to write, it is over when all are there.
    let recovery = written.unwrap_or_else(|| begin.elapsed());
    let written = match written {
        Some(after) => format!("the next write was acknowledged after {:.0} ms", after.as_secs_f64() * 1e3),
        None => "nothing was left to write".to_owned(),
    };
    let seen = format!(
        "{} leads in term {newer} after {:.0} ms, {written}; {name} was back with all {:.1} s after its start",
        mesh.name(next),
        leaderless.as_secs_f64() * 1e3,
        whole.as_secs_f64()
    );
    Ok((recovery, seen))
}

fn kill_worker(mesh: &mut Mesh) -> Result<(Duration, String), Problem> {
    let victim = spare(mesh).ok_or("nobody can be spared")?;
    let name = mesh.name(victim);
    mesh.ask(victim, Order::Stick)?;
    // Where all tasks of the input are done, others keep it busy.
    let busy = mesh.order(victim, Order::Burst(4))?;
    mesh.until("it is in the middle of tasks", |mesh| {
        mesh.status(victim).is_some_and(|status| status.tasks.stuck > 0)
    })?;
    let stuck = mesh.status(victim).map_or(0, |status| status.tasks.stuck);
    let tasks = mesh.answer(busy, "its tasks are taken")?.map_err(|why| format!("its tasks are not taken: {why}"))?;
    let tasks: Vec<u128> = serde_json::from_str(&tasks).map_err(|error| error.to_string())?;
    mesh.view.say(&format!("{:<12}{name} is in the middle of {stuck} tasks: SIGKILL", "kill-worker:"));
    let begin = Instant::now();
    mesh.kill(victim)?;
    let (rest, id) = (mesh.running(), id(mesh, victim));
    let heir = rest.first().copied().ok_or("nobody else runs")?;
    let finished = mesh.order(heir, Order::Await(tasks))?;
    let known = mesh.until("all know that it is gone", |mesh| mesh.each(&rest, |status| status.is_gone(id)))?;
    let confirmed = mesh.until("a quorum confirms that it failed", |mesh| {
        mesh.each(&rest, |status| status.agent.members.failed.contains(&id))
    })?;
    mesh.start(victim)?;
    let whole = whole(mesh)?;
    let finished = mesh.answer(finished, "its tasks are finished")?;
    finished.map_err(|why| format!("its tasks are not finished: {why}"))?;
    let recovery = begin.elapsed();
    let seen = format!(
        "all knew after {:.1} s, a quorum had confirmed it after {:.1} s, it was back {:.1} s after its \
         start; its tasks were finished after {:.1} s",
        known.as_secs_f64(),
        (known + confirmed).as_secs_f64(),
        whole.as_secs_f64(),
        recovery.as_secs_f64()
    );
    Ok((recovery, seen))
}

fn split(mesh: &mut Mesh, number: usize) -> Result<(Duration, String), Problem> {
    let all: Vec<_> = mesh.running().into_iter().collect();
    // The smaller side has the leader, so that the larger one needs another.
    let leader = mesh.leader().map_or(0, |(at, _)| at);
    let mut minority: BTreeSet<_> =
        all.iter().copied().filter(|at| *at != leader && *at != 0).rev().take((all.len() - 1) / 2 - 1).collect();
    minority.insert(leader);
    let majority: BTreeSet<_> = all.iter().copied().filter(|at| !minority.contains(at)).collect();
    let partitions = |status: &Status| status.agent.metric("partition_partitions");
    let before: BTreeMap<_, _> = mesh.statuses().map(|(at, status)| (at, partitions(status))).collect();
    mesh.view.say(&format!("{:<12}{} and {} agents hear each other no more", "split:", minority.len(), majority.len()));
    for (side, other) in [(&minority, &majority), (&majority, &minority)] {
        let others: Vec<_> = other.iter().map(|at| id(mesh, *at)).collect();
        for at in side {
            mesh.ask(*at, Order::Cut(others.clone()))?;
        }
    }
    let read_only =
        mesh.until("the minority only reads", |mesh| mesh.each(&minority, |status| !status.agent.goes_on()))?;
    mesh.until("each side thinks the other gone, and the minority knows that there is a partition", |mesh| {
        let apart = |side: &BTreeSet<usize>| mesh.each(side, |status| status.alive().len() == side.len());
        apart(&minority) && apart(&majority) && mesh.each(&minority, |status| status.agent.partition.partitioned)
    })?;
    mesh.until("the majority goes on", |mesh| {
        mesh.each(&majority, |status| status.agent.goes_on() && status.leader().is_some())
            && mesh.statuses().any(|(at, status)| majority.contains(&at) && status.leads().is_some())
    })?;
    let key = |side: &str| format!("written by the {side} of split {number}");
    let put = |side: &str| Order::Put { key: key(side), value: side.to_owned() };
    let cut_off = minority.iter().next().copied().ok_or("there is no minority")?;
    match mesh.ask(cut_off, put("minority")) {
        Ok(_) => return Err("a minority has acknowledged a write".to_owned()),
        Err(why) if why.contains("may only read") || why.contains("read-only") || why.contains("read only") => {}
        Err(why) => return Err(format!("a minority must refuse to write because it may only read, but says: {why}")),
    }
    let others: Vec<_> = majority.iter().copied().collect();
    mesh.ask_until_done(&others, &put("majority"))?;
    mesh.writing.acknowledged.insert(key("majority"), "majority".to_owned());
    for at in all {
        mesh.ask(at, Order::Cut(Vec::new()))?;
    }
    let healed = whole(mesh)?;
    let is_measured = |at: usize, status: &Status| {
        let is_over = !status.agent.partition.partitioned && status.agent.partition.last_recovery_ms.is_some();
        let is_new = partitions(status) > before.get(&at).copied().unwrap_or_default();
        is_over && is_new && status.metrics.get("partition_resilience").is_some()
    };
    mesh.until("the minority has measured how long that took", |mesh| {
        minority.iter().all(|at| mesh.status(*at).is_some_and(|status| is_measured(*at, status)))
    })?;
    let seen = format!(
        "the minority only read after {:.1} s and refused to write, the majority went on; all were one again {:.1} s after it healed",
        read_only.as_secs_f64(),
        healed.as_secs_f64()
    );
    Ok((healed, seen))
}

fn lie(mesh: &mut Mesh, number: usize) -> Result<(Duration, String), Problem> {
    let all = replicas(mesh);
    let primary = mesh
        .statuses()
        .find_map(|(_, status)| status.agent.pbft.as_ref().filter(|pbft| pbft.active).map(|pbft| pbft.primary));
    let liar = all.iter().copied().find(|at| Some(id(mesh, *at)) == primary).ok_or("there is no primary")?;
    let honest: Vec<_> = all.iter().copied().filter(|at| *at != liar).collect();
    let view = |mesh: &Mesh| {
        mesh.statuses().filter_map(|(_, status)| Some(status.agent.pbft.as_ref()?.view)).max().unwrap_or(0)
    };
    let before = view(mesh);
    let evidence = |mesh: &Mesh| -> BTreeMap<usize, usize> {
        mesh.statuses().filter_map(|(at, status)| Some((at, status.decided.as_ref()?.evidence))).collect()
    };
    let known = evidence(mesh);
    // The most that one replica has proved since.
    let proofs = |mesh: &Mesh| {
        let since = |(at, now): (usize, usize)| now.saturating_sub(known.get(&at).copied().unwrap_or_default());
        evidence(mesh).into_iter().map(since).max().unwrap_or_default()
    };
    let name = mesh.name(liar);
    mesh.view.say(&format!("{:<12}{name}, the primary, tells the others of different batches", "lie:"));
    mesh.ask(liar, Order::Lie(true))?;
    let begin = Instant::now();
    for decision in 1..=3 {
        let decision = format!("decision {decision} in spite of a liar, in step {number}");
        mesh.ask_until_done(&honest, &Order::Decide(decision))?;
    }
    let decided = begin.elapsed();
    mesh.until("its lies are proved", |mesh| proofs(mesh) > 0)?;
    mesh.ask(liar, Order::Lie(false))?;
    mesh.until("all replicas have decided the same", |mesh| {
        let replicas: Vec<_> = all.iter().filter_map(|at| mesh.status(*at)?.decided.as_ref()).collect();
        replicas.len() == all.len() && replicas.windows(2).all(|pair| pair[0].digest == pair[1].digest)
    })?;
    let seen = format!(
        "three decisions were made in {:.1} s, in view {} after {before}; {} proofs of its lies",
        decided.as_secs_f64(),
        view(mesh),
        proofs(mesh)
    );
    Ok((decided, seen))
}

fn heat(mesh: &mut Mesh) -> Result<(Duration, String), Problem> {
    let hot = spare(mesh).ok_or("nobody can be spared")?;
    // Tasks of bursts only: some of the input may still be done meanwhile.
    let done = |mesh: &Mesh| {
        let (own, others): (Vec<_>, Vec<_>) = mesh.statuses().partition(|(at, _)| *at == hot);
        let sum = |of: Vec<(usize, &Status)>| of.iter().map(|(_, status)| status.tasks.of_bursts).sum::<u32>();
        (sum(own), sum(others))
    };
    let before = done(mesh);
    let name = mesh.name(hot);
    mesh.view.say(&format!("{:<12}{name} is given {BURST} tasks at once", "heat:"));
    let begin = Instant::now();
    let burst = mesh.order(hot, Order::Burst(BURST))?;
    let hot_id = id(mesh, hot);
    let sees_hot = |mesh: &Mesh| mesh.statuses().any(|(_, status)| status.sees_hot(hot_id));
    mesh.until("it is seen to be hot", sees_hot)?;
    let seen_hot = begin.elapsed();
    mesh.answer(burst, "its tasks are taken")?.map_err(|why| format!("its tasks are not taken: {why}"))?;
    mesh.until("all of them are done", |mesh| {
        let (own, others) = done(mesh);
        own + others >= before.0 + before.1 + BURST
    })?;
    let (relieved, others) = (begin.elapsed(), done(mesh).1 - before.1);
    if others < BURST / 4 {
        return Err(format!("only {others} of {BURST} tasks were done by others"));
    }
    mesh.until("nobody sees it hot any more", |mesh| !sees_hot(mesh))?;
    let seen = format!(
        "it was seen to be hot after {:.1} s; {others} of them were done by others, after {:.1} s all, and it was hot no more \
         after {:.1} s",
        seen_hot.as_secs_f64(),
        relieved.as_secs_f64(),
        begin.elapsed().as_secs_f64()
    );
    Ok((relieved, seen))
}

fn add(mesh: &mut Mesh) -> Result<(Duration, String), Problem> {
    let dead: Vec<_> = (0..mesh.ids.len()).filter(|at| !mesh.running().contains(at)).collect();
    let new = *dead.last().ok_or("all agents run already")?;
    let name = mesh.name(new);
    mesh.view.say(&format!("{:<12}{name} starts, and is told one address", "add:"));
    let begin = Instant::now();
    mesh.start(new)?;
    mesh.until("all know it", |mesh| {
        let ids: BTreeSet<_> = mesh.running().iter().map(|at| id(mesh, *at)).collect();
        mesh.all(|status| status.agent.goes_on() && status.alive() == ids)
    })?;
    let known = begin.elapsed();
    let order = Order::Vote { node: id(mesh, new), votes: true };
    let agents: Vec<_> =
        mesh.leader().map(|(at, _)| at).into_iter().chain(mesh.running()).filter(|at| *at != new).collect();
    mesh.ask_until_done(&agents, &order)?;
    let records = mesh.statuses().map(|(_, status)| status.records).max().unwrap_or(0);
    mesh.until("it has the whole catalogue", |mesh| {
        mesh.status(new).is_some_and(|status| status.records >= records && status.leader().is_some())
    })?;
    let voters = mesh.status(new).map_or(0, Status::voters);
    Ok((
        begin.elapsed(),
        format!(
            "all knew it after {:.1} s; it has all {records} records, and votes as one of {voters}",
            known.as_secs_f64()
        ),
    ))
}

fn drain(mesh: &mut Mesh) -> Result<(Duration, String), Problem> {
    let leaver = spare(mesh).ok_or("nobody can be spared")?;
    let (name, leaver_id) = (mesh.name(leaver), id(mesh, leaver));
    mesh.view.say(&format!("{:<12}{name} is given {OWNED} tasks, hands over what it has, and leaves", "drain:"));
    let begin = Instant::now();
    let agents: Vec<_> =
        mesh.leader().map(|(at, _)| at).into_iter().chain(mesh.running()).filter(|at| *at != leaver).collect();
    mesh.ask_until_done(&agents, &Order::Vote { node: leaver_id, votes: false })?;
    let tasks: Vec<u128> =
        serde_json::from_str(&mesh.ask(leaver, Order::Burst(OWNED))?).map_err(|error| error.to_string())?;
    mesh.let_end([leaver]);
    let told = mesh.ask(leaver, Order::Leave)?;
    let (handed_over, left, needed): (usize, usize, usize) =
        serde_json::from_str(&told).map_err(|error| error.to_string())?;
    if handed_over == 0 {
        return Err(format!("no task was handed over, and {left} found no other owner"));
    }
    mesh.await_end(leaver)?;
    let rest = mesh.running();
    mesh.until("all know that it left", |mesh| mesh.each(&rest, |status| status.is_gone(leaver_id)))?;
    whole(mesh)?;
    let gone = begin.elapsed();
    let heir = rest.first().copied().ok_or("nobody else runs")?;
    // Those that it had to leave, too: who keeps them takes them over.
    mesh.ask(heir, Order::Await(tasks))?;
    let voters = mesh.statuses().map(|(_, status)| status.voters()).max().unwrap_or(0);
    let seen = format!(
        "it handed over {handed_over} tasks and left {left} to those who keep them, was needed for {needed}, and all {OWNED} that \
         it was given came to their end; all know that it is gone, {voters} vote"
    );
    Ok((gone, seen))
}

/// A cluster key that nobody has yet, and its hexadecimal digits.
pub(crate) fn new_cluster_key() -> Result<(ClusterKey, String), Problem> {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(|error| error.to_string())?;
    Ok((ClusterKey::from_bytes(secret), to_hex(&secret)))
}

fn rotate(mesh: &mut Mesh) -> Result<(Duration, String), Problem> {
    let (key, digits) = new_cluster_key()?;
    let new = key.id();
    let agents: Vec<_> = mesh.running().into_iter().collect();
    let old: Vec<_> =
        mesh.statuses().flat_map(|(_, status)| status.keys.clone()).collect::<BTreeSet<_>>().into_iter().collect();
    mesh.view.say(&format!("{:<12}a new cluster key is installed, used, and the old one removed", "rotate:"));
    let begin = Instant::now();
    // Each step on all agents before the next, so that everybody can read everybody all the while.
    agents.iter().try_for_each(|at| mesh.ask(*at, Order::InstallKey(digits.clone())).map(drop))?;
    agents.iter().try_for_each(|at| mesh.ask(*at, Order::UseKey(new.to_string())).map(drop))?;
    for key in old {
        agents.iter().try_for_each(|at| mesh.ask(*at, Order::RemoveKey(key.clone())).map(drop))?;
    }
    // Who starts later has to know it, too.
    mesh.set_cluster_key(&digits)?;
    mesh.until("all hold the new key only", |mesh| mesh.all(|status| status.keys == [new.to_string()]))?;
    let rotated = begin.elapsed();
    whole(mesh)?;
    mesh.ask_until_done(&agents, &Order::Put { key: "written under a new key".to_owned(), value: new.to_string() })?;
    mesh.writing.acknowledged.insert("written under a new key".to_owned(), new.to_string());
    Ok((rotated, format!("all seal under {new} only, and nobody was lost")))
}

fn vote(mesh: &mut Mesh, number: usize) -> Result<(Duration, String), Problem> {
    let proposal = format!("proposal {number}: auth-service is assigned to agent 3");
    mesh.view.say(&format!("{:<12}\"{proposal}\": two thirds must approve", "vote:"));
    let begin = Instant::now();
    mesh.ask(0, Order::Propose(proposal.clone()))?;
    let approved = (proposal, "approved".to_owned());
    mesh.until("all have the same verdict", |mesh| mesh.all(|status| status.ballots.contains(&approved)))?;
    let is_measured =
        |mesh: &Mesh| mesh.statuses().any(|(_, status)| status.metrics.get("vote_participation").is_some());
    mesh.until("it is measured how many took part", is_measured)?;
    Ok((begin.elapsed(), format!("approved, by the word of all {}", mesh.running().len())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_are_read_and_wrong_steps_are_named() {
        assert_eq!(parse("# trouble\nsplit\n\n  lie  \n").unwrap(), [Step::Split, Step::Lie]);
        let all: Vec<_> = Step::ALL.iter().map(ToString::to_string).collect();
        assert_eq!(parse(&all.join("\n")).unwrap(), Step::ALL);
        let wrong = parse("split\nexplode").unwrap_err();
        assert!(wrong.starts_with("line 2: there is no step \"explode\": choose from kill-leader"), "{wrong}");
        assert_eq!(parse("add\nadd").unwrap_err(), "add can be done once only");
    }

    #[test]
    fn nobody_lies_where_a_replica_may_have_left() {
        let check = |agents: usize, script: &str| check(&parse(script).unwrap(), agents, 4).is_ok();
        assert!((4..=11).all(|agents| check(agents, "lie\ndrain\nvote")));
        assert_eq!([4, 5, 6].map(|agents| check(agents, "drain\nlie")), [false, false, true]);
        assert_eq!([4, 5, 6].map(|agents| check(agents, "add\ndrain\nlie")), [false, true, true]);
        assert_eq!([4, 5, 6].map(|agents| check(agents, "lie\ndrain\nadd\nlie")), [false, false, true]);
        assert!(Step::ALL.len() == 9 && (4..=11).all(|agents| super::check(&Step::ALL, agents, 4).is_ok()));
    }
}
