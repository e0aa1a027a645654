//! The way of every command through the queues: each is scanned, and what stays is put back in its order, however the look at it ended.

use std::io::Write;

use super::CommandContext;
use super::scan::Scan;
use super::scan_report::ScanReport;
use super::select::{Filters, Reach};
use crate::cli::CommandError;
use crate::cli::outcomes::DeadLetters;

/// What a command does with each queue.
pub(super) trait Walker {
    /// Goes through one queue. Whatever is in hand when it ends has been settled, or is the scan's to put back.
    async fn go_through<O: Write, E: Write>(
        &mut self,
        scan: &mut Scan,
        stage: &mut CommandContext<'_, O, E>,
    ) -> Result<(), CommandError>;

    /// Where it is told what was looked at.
    fn looked(&mut self) -> &mut ScanReport;

    /// Whether it wants no more.
    fn is_over(&self) -> bool {
        false
    }
}

/// Walks through the queues that the filters name, until one fails; what has failed.
pub(super) async fn walk<O: Write, E: Write>(
    walker: &mut impl Walker,
    filters: &Filters,
    reach: &Reach,
    stage: &mut CommandContext<'_, O, E>,
) -> Option<CommandError> {
    for queue in filters.queues() {
        if stage.stop.is_cancelled() || walker.is_over() {
            break;
        }
        if let Err(failure) = look_into(walker, queue, reach, stage).await {
            return Some(failure);
        }
    }
    None
}

async fn look_into<O: Write, E: Write>(
    walker: &mut impl Walker,
    queue: DeadLetters,
    reach: &Reach,
    stage: &mut CommandContext<'_, O, E>,
) -> Result<(), CommandError> {
    let mut scan = Scan::begin(stage.broker, stage.names, queue, reach.scan).await?;
    let done = walker.go_through(&mut scan, stage).await;
    walker.looked().left(scan.end().await);
    done
}
