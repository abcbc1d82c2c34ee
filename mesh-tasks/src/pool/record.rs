//! What goes to the log, and how it is replayed. Only where the pool is [durable](super::PoolConfig::durable).

use mesh_core::{Instant, RecoverError, wire_record};

use super::entry::Entry;
use super::message::Change;
use super::{Context, TaskPool};
use crate::task::{Epoch, TaskId};

/// A log is rewritten when it has this many records more than twice as many as there are tasks.
const SLACK: usize = 4096;

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// The log begins: what is kept from now on has this incarnation.
    Begun(u64),
    /// A task is kept, or changed. The first time with what is to be done.
    Kept(Box<Change>),
    /// No lower epoch of a task is obeyed.
    Promised(TaskId, Epoch),
    /// A task is forgotten.
    Forgot(TaskId),
}

wire_record!(Record: version 2 { 0 => Begun(incarnation), 1 => Kept(change), 2 => Promised(task, epoch), 3 => Forgot(task) });

impl TaskPool {
    /// Replays a record. Times go on from where they were when it was written: nobody knows how long it is ago.
    pub(super) fn recover(&mut self, record: Record) -> Result<(), RecoverError> {
        self.logged += 1;
        match record {
            Record::Begun(incarnation) => self.incarnation = incarnation,
            Record::Kept(change) => match self.tasks.get_mut(&change.task) {
                Some(entry) => entry.take(&change, Instant::ZERO),
                None => {
                    let entry = Entry::kept(&change, Instant::ZERO);
                    let entry = entry.ok_or_else(|| {
                        RecoverError::Inconsistent(format!("{} changes and was not there", change.task))
                    })?;
                    self.tasks.insert(change.task, Box::new(entry));
                }
            },
            Record::Promised(task, epoch) => {
                let entry = self.tasks.get_mut(&task);
                entry
                    .ok_or_else(|| RecoverError::Inconsistent(format!("a promise about {task}, which was not there")))?
                    .promised = epoch;
            }
            Record::Forgot(task) => {
                self.tasks.swap_remove(&task);
            }
        }
        Ok(())
    }

    fn persist(&mut self, cx: &mut Context<'_>, record: impl FnOnce(&Self) -> Option<Record>) {
        if self.config.durable
            && let Some(record) = record(self)
        {
            self.logged += 1;
            cx.persist(record);
        }
    }

    /// Writes down that a log begins.
    pub(super) fn persist_begun(&mut self, cx: &mut Context<'_>) {
        self.persist(cx, |pool| Some(Record::Begun(pool.incarnation)));
    }

    /// Writes down how a task is.
    pub(super) fn persist_task(&mut self, cx: &mut Context<'_>, task: TaskId, is_new: bool) {
        let now = cx.now();
        self.persist(cx, |pool| Some(Record::Kept(Box::new(pool.tasks.get(&task)?.change(task, is_new, now)))));
    }

    /// Writes down a promise.
    pub(super) fn persist_promise(&mut self, cx: &mut Context<'_>, task: TaskId, epoch: Epoch) {
        self.persist(cx, |_| Some(Record::Promised(task, epoch)));
    }

    /// Forgets a task.
    pub(super) fn forget(&mut self, cx: &mut Context<'_>, task: TaskId) {
        self.claims.remove(&task);
        if self.tasks.swap_remove(&task).is_some() {
            self.persist(cx, |_| Some(Record::Forgot(task)));
        }
    }

    /// Rewrites the log once most of it is of the past.
    pub(super) fn compact(&mut self, cx: &mut Context<'_>) {
        if self.logged < 2 * self.tasks.len() + SLACK {
            return;
        }
        let now = cx.now();
        let mut records = vec![Record::Begun(self.incarnation)];
        for (task, entry) in self.tasks.iter() {
            records.push(Record::Kept(Box::new(entry.change(*task, true, now))));
            if entry.promised > entry.version.epoch {
                records.push(Record::Promised(*task, entry.promised));
            }
        }
        self.logged = records.len();
        cx.checkpoint(records);
    }
}
