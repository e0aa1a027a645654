//! createTask.

use std::sync::Arc;
use std::time::Duration;

use super::account::{Moment, Offence};
use super::reply::{Endpoint, Reply};
use super::request::{CreateCall, Submission};
use super::script::{Script, Step, step_at};
use super::state::State;
use super::tasks::{Acceptance, Task};

const CREATE: Endpoint = Endpoint::CreateTask;

impl State {
    pub(super) fn create_task(&mut self, call: CreateCall, at: Moment) -> Reply {
        self.stats.calls.create_task += 1;
        let admitted = self.admits(call.key.as_deref());
        let offence = if admitted { self.create_offence(&call) } else { None };
        if let Some(refused) = self.refuse_at_admission(CREATE, at, admitted, offence) {
            return refused;
        }
        match call.task {
            Ok(task) => self.submit(task, at),
            Err(refusal) => self.error(CREATE, refusal.code, &refusal.description),
        }
    }

    fn create_offence(&self, call: &CreateCall) -> Option<Offence> {
        // What a faulty task would cost is not known; it is refused for funds only where there are none at all.
        let cost = call.task.as_ref().map_or(0, |task| self.trades[task.kind].cost);
        if !self.purse.covers(cost) {
            return Some(Offence::ZeroBalance);
        }
        let proxy = call.task.as_ref().ok().and_then(|task| task.proxy);
        self.bans.bans_proxy(proxy).then_some(Offence::BannedProxy)
    }

    fn submit(&mut self, mut task: Submission, at: Moment) -> Reply {
        if self.book.is_full() || !self.trades[task.kind].slots.are_free(at.begun) {
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
            Step::Ok => self.accept(&task, script.clone(), at),
            Step::AcceptedThenCut => {
                self.accept(&task, script.clone(), at);
                Reply::Cut
            }
            Step::AcceptedThenHang => {
                self.accept(&task, script.clone(), at);
                Reply::Hang
            }
            Step::Code(code) => self.scripted_error(CREATE, code, task.proxy),
            fault => self.scripted_fault(CREATE, fault),
        }
    }

    fn accept(&mut self, task: &Submission, script: Option<Arc<Script>>, at: Moment) -> Reply {
        let trade = &mut self.trades[task.kind];
        let scripted = script.as_ref().and_then(|script| script.solve_ms);
        let solve =
            scripted.map_or_else(|| trade.solve.draw(&mut self.rng), |ms| Duration::from_millis(ms.into()));
        let ready_at = at.begun + solve;
        trade.slots.take(ready_at);
        self.purse.pay(trade.cost);
        self.count_acceptance(task.digest);
        let mut kept = Task::new(task.kind, task.answer, ready_at);
        kept.proxy = task.proxy;
        kept.script = script;
        Reply::accepted(self.book.add(kept, at.begun, &mut self.rng))
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

    /// A code from a script. It changes nothing about the account, save that a proxy once called banned stays so.
    pub(super) fn scripted_error(&mut self, endpoint: Endpoint, code: &str, proxy: Option<u64>) -> Reply {
        if let Some(proxy) = proxy.filter(|_| code == Offence::BannedProxy.code()) {
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
