//! Tasks that wait for each other, though each was submitted alone: it named by its key one that came later.
//!
//! The owner of a task that waits says so to the owners of those that wait for it, and with it the greatest name of all
//! that it waits for, itself or by way of others. So names go against the direction of waiting, from owner to owner, and
//! the greatest of a circle comes to its own task (Mitchell and Merritt 1984). That one is cancelled, and the others by it,
//! or they go on: as with any task that they wait for. The tasks that one waits for never change: a circle that is found
//! is one.
//!
//! Of a circle that waits for a task of a greater name outside, that name is heard, until the task is over and its name has
//! gone round for long enough: the circle is found then.

use mesh_core::wire_struct;

use super::TaskPool;
use crate::task::{State, TaskId};

/// Over so many tasks a name is passed on. So long a circle is found, and a name of a task that is over goes round for so
/// many times as long as an owner waits until it asks again.
const FAR_MAX: u16 = 32;

/// The greatest name of the tasks that one waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reach {
    /// The name.
    pub(super) task: TaskId,
    /// Over how many tasks it waits for that one: 1 where it names it itself.
    pub(super) far: u16,
}

wire_struct!(Reach { task, far });

impl TaskPool {
    /// How far a task that is owned here waits.
    pub(super) fn reach(&self, task: TaskId) -> Option<Reach> {
        let entry = self.tasks.get(&task).filter(|entry| entry.state == State::Blocked)?;
        let unmet = entry.owned.as_ref()?.extras().unmet.keys();
        let each = unmet.flat_map(|dependency| {
            let further = self.wanted.get(dependency).and_then(|wanted| wanted.reach);
            let further =
                further.filter(|reach| reach.far < FAR_MAX).map(|reach| Reach { far: reach.far + 1, ..reach });
            [Some(Reach { task: *dependency, far: 1 }), further].into_iter().flatten()
        });
        each.max_by_key(|reach| (reach.task, std::cmp::Reverse(reach.far)))
    }
}
