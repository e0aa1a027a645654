//! How full the queues are, looked at while a session lasts: by the leader all of them, by every
//! replica those that outcomes go to.

use parking_lot::{Mutex, MutexGuard};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::context::Context;
use crate::broker::topology::Topology;
use crate::broker::{BrokerError, QueueDepth, Session};
use crate::fleet::Depths;

/// How often it is looked.
const LOOK_EVERY: Duration = Duration::from_secs(15);

/// What was seen last.
#[derive(Debug, Default)]
pub(super) struct QueueMonitor(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    queues: BTreeMap<String, QueueDepth>,
    unroutable: Option<String>,
}

impl QueueMonitor {
    fn lock(&self) -> MutexGuard<'_, Seen> {
        // Whatever is in it was seen so.
        self.0.lock()
    }

    /// The queues by their names without the namespace; none where this replica does not lead.
    pub(super) fn queues(&self) -> BTreeMap<String, QueueDepth> {
        self.lock().queues.clone()
    }

    /// Why outcomes do not reach those who wait for them, if anything is known about that.
    pub(super) fn unroutable(&self) -> Option<String> {
        self.lock().unroutable.clone()
    }

    /// Nothing is known without a session.
    pub(super) fn forget(&self) {
        *self.lock() = Seen::default();
    }

    /// Looks every now and then, until dropped.
    pub(super) async fn keep(ctx: Arc<Context>, session: Session) {
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut seen, mut leads) = (ctx.account().watch(), false);
        loop {
            tokio::select! {
                _ = looks.tick() => {}
                // A new leader looks at once.
                Ok(_) = seen.wait_for(|seen| seen.leads != leads) => {}
            }
            leads = seen.borrow().leads;
            let unroutable = unroutable(&ctx, &session).await;
            let (queues, missing) = if leads { all(&ctx, &session).await } else { (BTreeMap::new(), None) };
            // Else the former reading stands, and its time says how old it is: what was not seen
            // is not empty.
            if let Some(missing) = missing {
                let ready = queues.iter().map(|(name, depth)| (name.clone(), depth.ready)).collect();
                ctx.account().note_queues(Some(Depths { at: ctx.clock.now(), ready, missing }));
            }
            *ctx.queue_monitor.lock() = Seen { queues, unroutable };
        }
    }
}

/// Every queue that can be seen, and those that do not exist; `None` where not all could be asked
/// for.
async fn all(ctx: &Context, session: &Session) -> (BTreeMap<String, QueueDepth>, Option<BTreeSet<String>>) {
    let prefix = format!("{}.", ctx.names.namespace());
    let (mut seen, mut missing) = (BTreeMap::new(), Some(BTreeSet::new()));
    for queue in Topology::with_lanes(&ctx.names, &ctx.lanes_to_serve()).queues {
        let name = queue.name.strip_prefix(&prefix).unwrap_or(&queue.name).to_owned();
        match session.link().depth(&queue.name).await {
            Ok(depth) => drop(seen.insert(name, depth)),
            Err(BrokerError::Missing { .. }) => missing.iter_mut().for_each(|all| all.extend([name.clone()])),
            Err(_) => missing = None,
        }
    }
    (seen, missing)
}

/// AMQP shows no bindings. But what no queue is bound for is caught by the alternate exchange, and
/// can be seen there.
async fn unroutable(ctx: &Context, session: &Session) -> Option<String> {
    let (results, unrouted) = (ctx.names.results(), ctx.names.unrouted());
    if let Err(BrokerError::Missing { .. }) = session.link().depth(&results).await {
        return Some(format!("outcomes cannot be routed: queue '{results}' does not exist"));
    }
    let caught = session.link().depth(&unrouted).await.ok()?.ready;
    let exchange = ctx.names.outcomes();
    (caught > 0).then(|| {
        format!("outcomes cannot be routed: {caught} stand in '{unrouted}', since no queue was bound for them on '{exchange}': bind one, then `captcha-worker reroute`")
    })
}
