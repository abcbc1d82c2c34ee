//! What is told of a broken rule: the shortest way there that can be found, in words.

use super::node::Input;
use super::search::{Flight, Move, Search, Step, World};
use super::{Model, Violation};

impl<M: Model> Search<'_, M> {
    /// How a step from a world that breaks a rule came about, without what is not needed for it.
    pub(super) fn violation(&mut self, world: u32, step: &Step<M>, what: String) -> Violation {
        let mut moves = self.moves_to(world);
        moves.push(step.as_move());
        let mut violation = Violation { what, steps: Vec::new() };
        let mut at = moves.len();
        while at > 0 {
            at -= 1;
            let mut fewer = moves.clone();
            fewer.remove(at);
            if let Some((len, _)) = self.replay(&fewer) {
                fewer.truncate(len);
                at = fewer.len();
                moves = fewer;
            }
        }
        if let Some((_, shortest)) = self.replay(&moves) {
            violation = shortest;
        }
        violation
    }

    /// What happened from the beginning up to a world.
    fn moves_to(&mut self, world: u32) -> Vec<Move<M>> {
        let mut path = vec![world];
        while let Some(at) = path.last().filter(|at| **at != 0) {
            path.push(self.worlds.parent(*at));
        }
        path.reverse();
        let mut moves = Vec::new();
        let (mut steps, mut row) = (Vec::new(), Vec::new());
        let mut from = World::default();
        for pair in path.windows(2) {
            from.read(self.worlds.get(pair[0]));
            self.steps_of(&from, &mut steps);
            for step in &steps {
                let Ok(Some(mut next)) = self.take(&from, step) else { continue };
                let arrived = self.saturate(&mut next);
                next.write(&mut row);
                if row == self.worlds.get(pair[1]) {
                    moves.push(step.as_move());
                    moves.extend(arrived.into_iter().map(|(at, message)| (at, Input::Message(message), false)));
                    break;
                }
            }
        }
        moves
    }

    /// Takes steps from the beginning, as they are described.
    pub(super) fn take_again(&mut self, lines: &[String]) -> Result<Violation, String> {
        let mut world = self.first_world()?;
        self.first = world.clone();
        let mut steps = Vec::new();
        for (number, line) in (1..).zip(lines) {
            self.steps_of(&world, &mut steps);
            let Some(step) = steps.iter().find(|step| self.describe(&world, step) == *line) else {
                let can: Vec<_> = steps.iter().map(|step| self.describe(&world, step)).collect();
                return Err(format!("step {number} cannot be taken: {line}\nThese can:\n{}", can.join("\n")));
            };
            match self.take(&world, step) {
                Ok(next) => world = next.unwrap_or(world),
                Err(what) => return Ok(Violation { what, steps: lines[..number].to_vec() }),
            }
        }
        Err(format!("no rule is broken after {} steps", lines.len()))
    }

    /// Makes these moves from the beginning: after how many a rule is broken, if one is.
    fn replay(&mut self, moves: &[Move<M>]) -> Option<(usize, Violation)> {
        let mut world = self.first_world().ok()?;
        let (mut steps, mut lines) = (Vec::new(), Vec::new());
        for (at, wanted) in moves.iter().enumerate() {
            self.steps_of(&world, &mut steps);
            let step = steps.iter().find(|step| step.as_move() == *wanted)?;
            lines.push(self.describe(&world, step));
            match self.take(&world, step) {
                Ok(next) => world = next?,
                Err(what) => return Some((at + 1, Violation { what, steps: lines })),
            }
        }
        None
    }

    fn describe(&self, world: &World, step: &Step<M>) -> String {
        let Step { at, input, late, .. } = *step;
        let node = &self.states[world.nodes[at].0 as usize].node;
        let me = node.me;
        let what = match input {
            Input::Message(message) => {
                let Flight { from, message } = &self.flights[message as usize];
                format!("{me} hears {from}: {}", self.model.tell(message))
            }
            Input::Timer(timer) => format!("{me} has a timer fire: {timer:?}"),
            Input::Command(nth) => match self.model.command(&node.protocol, nth) {
                Some(command) => format!("{me} is asked: {command:?}"),
                None => format!("{me} is asked for nothing"),
            },
            Input::Sync(count) => {
                let writes: Vec<_> = node.writes.iter().take(count).map(|op| format!("{op:?}")).collect();
                format!("{me} has on disk: {}", writes.join(", "))
            }
            Input::SnapshotSaved => format!("{me} has saved a snapshot"),
            Input::Crash if node.writes.is_empty() => format!("{me} crashes and starts again"),
            Input::Crash => {
                let writes: Vec<_> = node.writes.iter().map(|op| format!("{op:?}")).collect();
                format!("{me} crashes, loses {}, and starts again", writes.join(", "))
            }
            Input::Wipe => format!("{me} loses its disk, and starts with an empty one"),
        };
        if late { format!("{what}; what it writes is late") } else { what }
    }
}
