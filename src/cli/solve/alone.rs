//! The job is worked on here: the real worker, on the broker in process.

use std::collections::BTreeMap;
use std::future::pending;
use std::time::Duration;

use humantime::format_duration;
use tokio::time::{sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::answer::{PossiblySpent, SolveEnd};
use super::{Wanted, ask};
use crate::broker::Broker;
use crate::broker::memory::MemoryBroker;
use crate::broker::topology::{Names, RETRY_DELAYS, Topology};
use crate::cli::{CommandError, Exit, account, connect, run};
use crate::config::Settings;
use crate::domain::class::Class;
use crate::domain::guard::Reason;
use crate::domain::history::{HISTORY_HEADER, History};
use crate::domain::message::{Message, Value};
use crate::domain::ticket::{TICKET_HEADER, Ticket};
use crate::linger::Linger;
use crate::solver::Solver;
use crate::worker::{Worker, WorkerHandle, WorkerOptions};

/// How long the end of a call is awaited when nothing more is begun: it shows what is paid.
const LEAVING: Duration = Duration::from_secs(5);
/// How long a reply that has been sent may take.
const REPLY: Duration = Duration::from_secs(1);
/// How often the queues are checked while the account is refused.
const LOOK: Duration = Duration::from_millis(100);

/// Works until the job has its outcome, or nobody waits for it any more.
pub(super) async fn solve(
    wanted: &Wanted,
    settings: &Settings,
    solver: Solver,
    stop: &CancellationToken,
) -> Result<SolveEnd, CommandError> {
    let name = connect::worker_name(settings);
    let names = Names::new(&settings.broker.namespace);
    let local = MemoryBroker::new();
    let broker = Broker::Memory(local.clone());
    let tracer = connect::tracer(settings, &name, &broker)?;
    let session = broker.connect().await?;
    session.link().declare(&Topology::new(&names)).await?;
    let mut replies = ask(&session, &names, wanted).await?;
    let worker = Worker::new(WorkerOptions {
        drain_timeout: LEAVING,
        // Its queues are its own, and it has one job.
        lanes: BTreeMap::new(),
        ..run::options(settings, name, (broker, Linger::none()), solver, tracer.clone())
    });
    let view = worker.view();
    let queues = OwnQueues { local, names };
    let drain = CancellationToken::new();
    let running = AbortOnDropHandle::new(tokio::spawn(worker.run(drain.clone())));
    let (exit, why) = tokio::select! {
        biased;
        Some(outcome) = replies.recv() => {
            drain.cancel();
            // The answer is here, however the worker ends.
            let _ = running.await;
            tracer.flush().await;
            return Ok(SolveEnd::Outcome(outcome.into()));
        }
        () = stop.cancelled() => (Exit::Interrupted, "interrupted".to_owned()),
        refused = refused(&view, &queues) => (Exit::Job(Class::Account), refused),
        () = sleep_until(wanted.until) => {
            let (timeout, stopped) = (format_duration(wanted.timeout), account::tripped(&view));
            if stopped == Some(Reason::ProviderDown) || !view.reaches_api() {
                let why = format!("not solved: class transient: the API does not answer, or fails, for {timeout}");
                (Exit::Job(Class::Transient), why)
            } else {
                let stopped = stopped.map(|reason| format!("; API calls are stopped: {reason}"));
                (Exit::Unanswered, format!("no answer within {timeout}{}", stopped.unwrap_or_default()))
            }
        }
    };
    drain.cancel();
    let unfinished = running.await.map_err(CommandError::failed)??.unfinished;
    tracer.flush().await;
    let left = queues.left();
    // A job is in exactly one place: it has ended after all.
    if left.is_empty()
        && let Ok(Some(outcome)) = timeout(REPLY, replies.recv()).await
    {
        return Ok(SolveEnd::Outcome(outcome.into()));
    }
    Ok(SolveEnd::None { exit, text: format!("{why}\n{}", spent(&left, unfinished)) })
}

/// Waits until the account is refused for longer than anybody waits for a captcha. Returns why.
/// Where paid tasks can be asked for all the same, not before there is none.
async fn refused(view: &WorkerHandle, queues: &OwnQueues) -> String {
    let mut seen = view.watch();
    loop {
        seen.mark_unchanged();
        let reason = account::tripped(view);
        let refused = reason.and_then(|reason| account::advice(reason).map(|advice| (reason, advice)));
        if let Some((reason, advice)) = refused
            && (reason.stops().polls || !queues.is_under_way())
        {
            return format!("not solved: class account, reason {reason}: {advice}");
        }
        tokio::select! {
            changed = seen.changed() => if changed.is_err() {
                return pending().await;
            },
            () = sleep(LOOK), if refused.is_some() => {}
        }
    }
}

/// The queues that a job is in before it ends.
struct OwnQueues {
    local: MemoryBroker,
    names: Names,
}

impl OwnQueues {
    /// Whether the job is being submitted, or has a ticket.
    fn is_under_way(&self) -> bool {
        let jobs = self.names.jobs();
        let submitting = self.local.queue_total(&jobs) > self.local.queue_len(&jobs);
        submitting || self.local.queue_total(&self.names.tickets()) > 0
    }

    /// What the worker has left there.
    fn left(&self) -> Vec<Message> {
        let retry = RETRY_DELAYS.iter().map(|delay| self.names.retry(*delay));
        let queues = [self.names.jobs(), self.names.tickets()].into_iter().chain(retry);
        queues.flat_map(|queue| self.local.snapshot(&queue)).collect()
    }
}

/// What the worker's own headers record of submissions.
fn spent(left: &[Message], unfinished: usize) -> PossiblySpent {
    let mut spent = PossiblySpent::default();
    let mut has_ticket = false;
    for message in left {
        let header = |name: &str| message.properties.headers.get(name).and_then(Value::as_text);
        let ticket = header(TICKET_HEADER).and_then(|text| serde_json::from_str::<Ticket>(text).ok());
        let history = match &ticket {
            Some(ticket) => Some(ticket.history.clone()),
            None => header(HISTORY_HEADER).and_then(|text| serde_json::from_str::<History>(text).ok()),
        };
        for attempt in history.into_iter().flat_map(|history| history.attempts) {
            match attempt.task_id {
                Some(id) => spent.accepted(&id.to_string()),
                None => spent.unanswered(),
            }
        }
        if let Some(ticket) = ticket {
            has_ticket = true;
            spent.accepted(&ticket.task_id.to_string());
        }
    }
    // A call that outlasts the worker is a submission, unless it asks for a ticket's task.
    if unfinished > 0 && !has_ticket {
        spent.unanswered();
    }
    spent
}
