//! getTaskResult.

use super::account::{self, Moment, Offence};
use super::reply::{Endpoint, Reply};
use super::request::PollCall;
use super::script::{Step, step_at};
use super::solution;
use super::state::State;
use super::tasks::TaskId;

const RESULT: Endpoint = Endpoint::GetTaskResult;

/// How a poll stands to the rules for polling one task.
struct Manners {
    id: TaskId,
    early: bool,
    past_limit: bool,
}

impl State {
    pub(super) fn get_task_result(&mut self, call: &PollCall, at: Moment) -> Reply {
        self.stats.calls.get_task_result += 1;
        let admitted = self.admits(call.key.as_deref());
        let manners = if admitted { self.note_poll(call.task_id, at) } else { None };
        let offence = match &manners {
            None => Some(Offence::WrongId(call.task_id)),
            Some(manners) => manners.past_limit.then_some(Offence::PollPastLimit),
        };
        if let Some(refused) = self.refuse_at_admission(RESULT, at, admitted, offence) {
            return refused;
        }
        match manners {
            Some(Manners { id, early: false, .. }) => self.answer(id, at),
            _ => {
                self.bans.note_answer(at.begun);
                self.error(RESULT, "ERROR_TOO_MUCH_REQUESTS", "poll a task at most once in 2 seconds")
            }
        }
    }

    /// Counts a poll against the rules at its arrival, whatever will be answered: a storm or a ban excuses no haste.
    fn note_poll(&mut self, id: Option<TaskId>, at: Moment) -> Option<Manners> {
        let Some((id, task)) = id.and_then(|id| self.book.get_mut(id).map(|task| (id, task))) else {
            self.stats.wrong_id_calls += 1;
            return None;
        };
        let (spacing, polls) = task.note_poll(at.begun);
        if let Some(spacing) = spacing {
            self.stats.note_spacing(spacing);
        }
        let early = spacing.is_some_and(|spacing| spacing < self.spacing);
        let past_limit = polls > self.max_polls;
        self.stats.polls += 1;
        self.stats.early_polls += u64::from(early);
        self.stats.polls_past_limit += u64::from(past_limit);
        Some(Manners { id, early, past_limit })
    }

    fn answer(&mut self, id: TaskId, at: Moment) -> Reply {
        let Some(task) = self.book.get_mut(id) else {
            return self.refuse_wrong_id(id, at);
        };
        let turn = task.steps_taken;
        task.steps_taken = turn.saturating_add(1);
        let ready = task.ready_at <= at.begun;
        let proxy = task.proxy;
        let script = task.script.clone();
        let step = script.as_ref().map_or(&Step::Ok, |script| step_at(&script.result, turn));
        self.count_fault(step);
        if *step == Step::Forget {
            self.forget(id);
            return self.refuse_wrong_id(id, at);
        }
        self.bans.note_answer(at.begun);
        match step {
            Step::Ok if ready => self.ready(id),
            Step::Ok | Step::Processing => Reply::processing(),
            Step::Code(code) => {
                if is_final(code) {
                    self.end(id);
                }
                self.scripted_error(RESULT, code, proxy)
            }
            fault => self.scripted_fault(RESULT, fault),
        }
    }

    fn ready(&mut self, id: TaskId) -> Reply {
        self.end(id);
        let Some(task) = self.book.get_mut(id) else {
            return Reply::processing();
        };
        self.stats.answered_ready += u64::from(!std::mem::replace(&mut task.answered, true));
        let cost = account::from_micros(self.trades[task.kind].cost);
        Reply::ready(&solution::render(task.kind, task.answer), cost)
    }

    /// The task is lost: from now on its id is one that was never given.
    fn forget(&mut self, id: TaskId) {
        let Some(task) = self.book.forget(id) else { return };
        self.stats.forgotten_tasks += 1;
        if !task.ended {
            self.stats.tasks_open -= 1;
            self.stats.uncollected_tasks += 1;
        }
    }

    /// As at admission, where a poll is known to be of an unknown id only after it.
    fn refuse_wrong_id(&mut self, id: TaskId, at: Moment) -> Reply {
        let offence = Offence::WrongId(Some(id));
        self.stats.wrong_id_calls += 1;
        self.note_offence(offence, at);
        self.error(RESULT, offence.code(), offence.description())
    }

    /// The task's outcome was handed out, so nobody need ask again.
    fn end(&mut self, id: TaskId) {
        if let Some(task) = self.book.get_mut(id)
            && !std::mem::replace(&mut task.ended, true)
        {
            self.stats.tasks_open -= 1;
        }
    }
}

/// Whether a code ends a task: all do, save those that say "later".
fn is_final(code: &str) -> bool {
    !matches!(
        code,
        "CAPTCHA_NOT_READY"
            | "CAPCHA_NOT_READY"
            | "ERROR_TOO_MUCH_REQUESTS"
            | "ERROR_NO_SLOT_AVAILABLE"
            | "ERROR_SERVICE_NOT_AVAILABLE"
            | "ERROR_SERVICE_UNAVALIABLE"
    )
}
