//! Whether a delivery has been handled here already, or is being handled.

use std::sync::Arc;

use super::context::{Context, Scope};
use super::custody::{Custody, Held};
use super::end::End;
use super::succession::Succession;
use crate::domain::lifecycle::JobRun;

/// What this replica remembers of deliveries.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// Tasks in hand.
    pub(super) custody: Arc<Custody>,
    /// Deliveries that have a successor.
    pub(super) succession: Succession,
}

/// Lets a delivery go on, with its task in hand where there is one. What has a safe successor already, or is about to, is not handled again:
/// that is an end.
pub(super) async fn recognise(
    ctx: &Context,
    scope: &Scope,
    case: &JobRun,
    redelivered: bool,
) -> Result<Option<Held>, End> {
    let cancelled = scope.cancelled(case.origin);
    if redelivered && !ctx.memory.succession.is_empty() {
        let identity = case.identity();
        if let Some(safe) = ctx.memory.succession.take(identity) {
            return tokio::select! {
                biased;
                () = safe.cancelled() => Err(End::Known),
                () = cancelled.cancelled() => {
                    ctx.memory.succession.remember(identity, safe.clone());
                    Err(End::Returned)
                }
            };
        }
    }
    let Some(task) = &case.task else { return Ok(None) };
    tokio::select! {
        biased;
        taken = ctx.memory.custody.take(&case.job, task) => taken.map(Some).ok_or(End::Known),
        () = cancelled.cancelled() => Err(End::Returned),
    }
}
