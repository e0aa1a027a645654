//! createTask and getTaskResult.

use std::sync::Arc;
use std::time::Duration;

use super::account::{self, CallTimes, Offence};
use super::callback::{Callback, PlannedCallback};
use super::kinds::render;
use super::script::{CallbackStep, Script, Step, step_at};
use super::state::State;
use super::tasks::{Acceptance, Task, TaskId};
use super::wire::{CreateCall, PollCall, Submission};
use super::wire::{Endpoint, Reply};
use tokio::time::Instant;

const CREATE: Endpoint = Endpoint::CreateTask;

impl State {
    pub(super) fn create_task(&mut self, call: CreateCall, at: CallTimes) -> Reply {
        self.stats.calls.create_task += 1;
        let admitted = self.admits(call.key.as_deref());
        let offence = if admitted { self.create_offence(&call) } else { None };
        if let Some(refused) = self.refuse_at_admission(CREATE, at, admitted, offence) {
            return refused;
        }
        match call.task {
            Ok(task) => self.submit(task, call.callback_url, at),
            Err(refusal) => self.error(CREATE, refusal.code, &refusal.description),
        }
    }

    fn create_offence(&self, call: &CreateCall) -> Option<Offence> {
        // What a faulty task would cost is not known; it is refused for funds only where there are
        // none at all.
        let cost = call.task.as_ref().map_or(0, |task| self.types[task.kind].cost);
        if !self.funds.covers(cost) {
            return Some(Offence::ZeroBalance);
        }
        let proxy = call.task.as_ref().ok().and_then(|task| task.proxy);
        self.bans.bans_proxy(proxy).then_some(Offence::BannedProxy)
    }

    fn submit(&mut self, mut task: Submission, callback_url: Option<String>, at: CallTimes) -> Reply {
        if callback_url.as_deref().is_some_and(|url| self.cannot_call(url, at.arrived)) {
            self.stats.callbacks.refused += 1;
            let text = "the callback's host cannot be reached";
            return self.error(CREATE, "ERROR_SERVICE_NOT_AVAILABLE", text);
        }
        if self.tasks.is_full() || !self.types[task.kind].slots.are_free(at.arrived) {
            return self.error(
                CREATE,
                "ERROR_NO_SLOT_AVAILABLE",
                "no free slot for this task; try again later",
            );
        }
        let turn = self.submissions.note(task.digest);
        let script = self
            .script_for(task.script.take(), task.kind, task.digest)
            .filter(|script| script.submissions.is_none_or(|first| turn < first));
        let step = script.as_ref().map_or(&Step::Ok, |script| step_at(&script.create, turn));
        self.count_fault(step);
        match step {
            Step::Ok => self.accept(&task, script.clone(), callback_url, at),
            Step::AcceptedThenCut => {
                self.accept(&task, script.clone(), callback_url, at);
                Reply::Cut
            }
            Step::AcceptedThenHang => {
                self.accept(&task, script.clone(), callback_url, at);
                Reply::Hang
            }
            Step::Code(code) => self.scripted_error(CREATE, code, task.proxy),
            fault => self.scripted_fault(CREATE, fault),
        }
    }

    fn accept(
        &mut self,
        task: &Submission,
        script: Option<Arc<Script>>,
        callback_url: Option<String>,
        at: CallTimes,
    ) -> Reply {
        let of_type = &mut self.types[task.kind];
        let scripted = script.as_ref().and_then(|script| script.solve_ms);
        let solve =
            scripted.map_or_else(|| of_type.solve.draw(&mut self.rng), |ms| Duration::from_millis(ms.into()));
        let ready_at = at.arrived + solve;
        of_type.slots.take(ready_at);
        self.funds.pay(of_type.cost);
        self.count_acceptance(task.digest);
        let mut kept = Task::new(task.kind, task.answer, ready_at);
        kept.proxy = task.proxy;
        let step = script.as_ref().map(|script| script.callback).unwrap_or_default();
        kept.script = script;
        let id = self.tasks.add(kept, at.arrived, &mut self.rng);
        if let Some(url) = callback_url {
            self.plan_callback(url, step, (task, id), ready_at);
        }
        Reply::accepted(id)
    }

    /// The body lacks the id of every second task.
    fn plan_callback(
        &mut self,
        url: String,
        step: CallbackStep,
        (task, id): (&Submission, TaskId),
        ready_at: Instant,
    ) {
        let with_id = self.stats.callbacks.asked.is_multiple_of(2);
        self.stats.callbacks.asked += 1;
        let last = self.last_callback.replace(url.clone());
        let (times, late_ms) = match step {
            CallbackStep::Never => return,
            CallbackStep::Once | CallbackStep::WrongTask => (1, 0),
            CallbackStep::Twice => (2, 0),
            CallbackStep::Late(late) => (1, late.late_ms),
        };
        let url = last.filter(|_| step == CallbackStep::WrongTask).unwrap_or(url);
        let id = if with_id { format!("\"taskId\":{id},") } else { String::new() };
        let solution = render(task.kind, task.answer);
        let body = format!("{{{id}\"errorId\":0,\"status\":\"ready\",\"solution\":{solution}}}");
        let due = ready_at + Duration::from_millis(late_ms.into());
        self.planned = Some(PlannedCallback { due, callback: Callback { url, body: body.into() }, times });
    }

    fn count_acceptance(&mut self, digest: u64) {
        self.stats.accepted_tasks += 1;
        self.stats.tasks_open += 1;
        match self.submissions.accept(digest) {
            Acceptance::First => self.stats.distinct_tasks += 1,
            Acceptance::Repeated => self.stats.repeated_submissions += 1,
            Acceptance::NotRemembered => {
                self.stats.distinct_tasks += 1;
                self.stats.digests_not_remembered += 1;
            }
        }
    }

    /// A code from a script. It changes nothing about the account, save that a proxy once called
    /// banned stays so.
    pub(super) fn scripted_error(&mut self, endpoint: Endpoint, code: &str, proxy: Option<u64>) -> Reply {
        if let Some(proxy) = proxy.filter(|_| code == Offence::BannedProxy.error().0) {
            self.bans.ban_proxy(proxy);
        }
        self.error(endpoint, code, "as the scenario wants it")
    }

    pub(super) fn scripted_fault(&self, endpoint: Endpoint, step: &Step) -> Reply {
        match step {
            Step::Http(http) => Reply::scripted(http),
            Step::Cut | Step::AcceptedThenCut => Reply::Cut,
            Step::Hang | Step::AcceptedThenHang => Reply::Hang,
            Step::Html => Reply::html(),
            Step::Empty => Reply::empty(),
            Step::Truncated => Reply::truncated(endpoint),
            Step::Oversize => Reply::oversize(),
            Step::NoStatus => Reply::no_status(),
            Step::Ok | Step::Processing | Step::Forget | Step::Code(_) => Reply::processing(),
        }
    }

    pub(super) fn count_fault(&mut self, step: &Step) {
        if let Some(name) = step.fault_name() {
            *self.stats.faults.entry(name).or_default() += 1;
        }
    }
}

const RESULT: Endpoint = Endpoint::GetTaskResult;

/// How a poll stands to the rules for polling one task.
struct PollCheck {
    id: TaskId,
    early: bool,
    past_limit: bool,
}

impl State {
    pub(super) fn get_task_result(&mut self, call: &PollCall, at: CallTimes) -> Reply {
        self.stats.calls.get_task_result += 1;
        let admitted = self.admits(call.key.as_deref());
        let check = if admitted { self.note_poll(call.task_id, at) } else { None };
        let offence = match &check {
            None => Some(Offence::WrongId(call.task_id)),
            Some(check) => check.past_limit.then_some(Offence::PollPastLimit),
        };
        if let Some(refused) = self.refuse_at_admission(RESULT, at, admitted, offence) {
            return refused;
        }
        match check {
            Some(PollCheck { id, early: false, .. }) => self.answer(id, at),
            _ => {
                self.bans.note_answer(at.arrived);
                self.error(RESULT, "ERROR_TOO_MUCH_REQUESTS", "poll a task at most once in 2 seconds")
            }
        }
    }

    /// Counts a poll against the rules at its arrival, whatever will be answered: a storm or a ban
    /// excuses no haste.
    fn note_poll(&mut self, id: Option<TaskId>, at: CallTimes) -> Option<PollCheck> {
        let Some((id, task)) = id.and_then(|id| self.tasks.get_mut(id).map(|task| (id, task))) else {
            self.stats.wrong_id_calls += 1;
            return None;
        };
        let (spacing, polls) = task.note_poll(at.arrived);
        if let Some(spacing) = spacing {
            self.stats.note_spacing(spacing);
        }
        let early = spacing.is_some_and(|spacing| spacing < self.spacing);
        let past_limit = polls > self.max_polls;
        self.stats.polls += 1;
        self.stats.early_polls += u64::from(early);
        self.stats.polls_past_limit += u64::from(past_limit);
        Some(PollCheck { id, early, past_limit })
    }

    fn answer(&mut self, id: TaskId, at: CallTimes) -> Reply {
        let Some(task) = self.tasks.get_mut(id) else {
            return self.refuse_wrong_id(id, at);
        };
        let turn = task.steps_taken;
        task.steps_taken = turn.saturating_add(1);
        let ready = task.ready_at <= at.arrived;
        let proxy = task.proxy;
        let script = task.script.clone();
        let step = script.as_ref().map_or(&Step::Ok, |script| step_at(&script.result, turn));
        self.count_fault(step);
        if *step == Step::Forget {
            self.forget(id);
            return self.refuse_wrong_id(id, at);
        }
        self.bans.note_answer(at.arrived);
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
        let Some(task) = self.tasks.get_mut(id) else {
            return Reply::processing();
        };
        self.stats.answered_ready += u64::from(!std::mem::replace(&mut task.answered, true));
        let cost = account::from_micros(self.types[task.kind].cost);
        Reply::ready(&render(task.kind, task.answer), cost)
    }

    /// The task is lost: from now on its id is one that was never given.
    fn forget(&mut self, id: TaskId) {
        let Some(task) = self.tasks.forget(id) else { return };
        self.stats.forgotten_tasks += 1;
        if !task.ended {
            self.stats.tasks_open -= 1;
            self.stats.uncollected_tasks += 1;
        }
    }

    /// As at admission, where a poll is known to be of an unknown id only after it.
    fn refuse_wrong_id(&mut self, id: TaskId, at: CallTimes) -> Reply {
        let offence = Offence::WrongId(Some(id));
        self.stats.wrong_id_calls += 1;
        self.note_offence(offence, at);
        let (code, description) = offence.error();
        self.error(RESULT, code, description)
    }

    /// The task's outcome was handed out, so nobody need ask again.
    fn end(&mut self, id: TaskId) {
        if let Some(task) = self.tasks.get_mut(id)
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
            | "ERROR_SERVICE_UNAVAILABLE"
    )
}
