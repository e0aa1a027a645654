//! How full the queues are, asked of the broker: one look for every command that tells it.

use crate::broker::topology::{Names, RETRY_DELAYS};
use crate::broker::{BrokerError, Session};
use crate::clock::Clock;
use crate::domain::class::Class;
use crate::fleet::Depths;

/// The depth of every queue that is told of.
pub(super) async fn depths(session: &Session, names: &Names) -> Result<Depths, BrokerError> {
    let mut queues = vec![names.jobs(), names.tickets(), names.results(), names.dead_raw(), names.unrouted()];
    queues.extend(RETRY_DELAYS.map(|park| names.retry(park)));
    queues.extend(Class::finals().map(|class| names.dead(class)));
    let prefix = format!("{}.", names.namespace());
    let mut depths = Depths { at: Clock::System.now(), ready: std::collections::BTreeMap::new() };
    for queue in queues {
        let ready = session.link().depth(&queue).await?.ready;
        let name = queue.strip_prefix(&prefix).unwrap_or(&queue);
        depths.ready.insert(name.to_owned(), ready);
    }
    Ok(depths)
}
