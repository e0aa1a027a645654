//! The one line that a finished job gets in the log, and the span that all its lines are in.
//!
//! Jobs that failed are logged at `info`, solved ones at `debug`, since there can be hundreds of
//! them a second and their outcomes say the same: see docs/decisions/0021. The target of both is
//! `job`, so that `log.level = "info,job=debug"` logs every job, once.

use std::time::Duration;

use tracing::{Span, debug_span, error_span};

use super::context::Context;
use crate::domain::class::Class;
use crate::domain::lifecycle::{JobRun, OpenTask};
use crate::domain::sanitize::shown;
use crate::trace;

/// Longest reason in a line, in characters.
const MAX_REASON: usize = 200;

macro_rules! finished {
    ($level:ident, $line:expr, $id:expr, $($own:tt)+) => {
        tracing::$level!(
            target: "job",
            id = $id,
            $($own)+,
            task_type = $line.task_type,
            submissions = $line.submissions,
            polls = $line.polls,
            queued_ms = $line.queued_ms,
            solving_ms = $line.solving_ms,
            "job finished"
        )
    };
}

/// What a line says beside the job's end, as far as it is known.
#[derive(Default)]
struct JobLine<'a> {
    task_type: Option<&'a str>,
    /// Those that were, or may have been, paid.
    submissions: usize,
    polls: Option<u32>,
    /// From the job's first sight to the last acceptance, and from there.
    queued_ms: Option<u64>,
    solving_ms: Option<u64>,
}

impl<'a> JobLine<'a> {
    fn of(ctx: &Context, run: Option<&'a JobRun>) -> Self {
        let Some(run @ JobRun { job, history, .. }) = run else { return Self::default() };
        let task = run.task();
        // A submission that failed has been written down, one that was solved or given up has not.
        let recorded = |task: &OpenTask| {
            history.attempts.last().is_some_and(|last| last.task_id.as_ref() == Some(&task.id))
        };
        let open = task.as_ref().is_some_and(|task| !recorded(task));
        let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        Self {
            task_type: Some(&job.task_type),
            submissions: history.attempts.len() + usize::from(open),
            polls: task.as_ref().map(|task| task.polls),
            queued_ms: task.as_ref().map(|task| millis(task.accepted_at.since(history.first_seen))),
            solving_ms: task.as_ref().map(|task| millis(ctx.clock.now().since(task.accepted_at))),
        }
    }
}

/// A job's outcome is published. `id`: of what was no job.
pub(super) fn finished(
    ctx: &Context,
    run: Option<&JobRun>,
    id: Option<&str>,
    failure: Option<(Class, &str, Option<&str>)>,
) {
    let id = run.map_or(id, |run| Some(&run.job.id));
    match failure {
        Some((class, code, reason)) => {
            let reason = reason.map(|reason| shown(reason, MAX_REASON));
            finished!(
                info,
                JobLine::of(ctx, run),
                id,
                status = "failed",
                class = class.name(),
                code = code,
                reason = reason
            );
        }
        None => finished!(debug, JobLine::of(ctx, run), id, status = "solved"),
    }
}

/// What lines about a job are in: for those who want to read them at all, or at any level where its
/// trace is recorded. What is no job yet, or never becomes one, has the trace's ids alone.
pub(super) fn span(run: Option<&JobRun>, trace: &trace::Span) -> Span {
    let (id, task_type) = run.map(|JobRun { job, .. }| (&*job.id, &*job.task_type)).unzip();
    match (trace.ids(), run) {
        (Some((trace_id, span_id)), _) => error_span!("job", id, task_type, trace_id, span_id),
        (None, Some(_)) => debug_span!("job", id, task_type),
        (None, None) => Span::none(),
    }
}
