//! A cluster of three nodes, of which the leader of each queue is killed in turn; relays play the
//! load balancer.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::block_in_place;
use tokio::time::{Instant, sleep};

use crate::environment::{self, Environment};
use crate::faults::Fault;
use crate::log::Phase;
use crate::relay::Relay;
use crate::report::Harness;
use crate::storm::over;
use crate::support::cluster::Cluster;
use crate::verdict::{self, Bounds, LONGEST_STALL};
use crate::wait;

const NODES: usize = 3;
/// Leaders move with each kill; so many have met every queue's in all runs seen.
const MOST_KILLS: usize = 12;
/// How long the other two work alone.
const ALONE: Duration = Duration::from_secs(5);
const WHOLE_WITHIN: Duration = Duration::from_secs(60);

pub(crate) async fn run(harness: Arc<Harness>) {
    let mut cluster = Cluster::start(NODES).await;
    harness.say("three nodes are one cluster");
    let nodes: Vec<SocketAddr> =
        cluster.nodes.iter().map(|node| ([127, 0, 0, 1], node.port()).into()).collect();
    let balancer = Relay::to(nodes.clone()).await;
    let mut environment = Environment::open(&harness, nodes, environment::url(balancer.address())).await;
    block_in_place(|| cluster.spread_leaders());
    let leaders = block_in_place(|| cluster.leaders(0));
    let mut pending: BTreeSet<String> = leaders.into_keys().collect();
    let queues = pending.len();
    let mut phases = Vec::new();
    while let Some(queue) = pending.first().cloned()
        && phases.len() < MOST_KILLS
    {
        phases.push(kill_leader(&harness, &mut environment, &mut cluster, &queue, &mut pending).await);
    }
    let kills = phases.len();
    // Those that every job passes, once more, wherever they are led now.
    for queue in [environment.names.tickets(), environment.names.jobs(), environment.names.guard()] {
        phases.push(kill_leader(&harness, &mut environment, &mut cluster, &queue, &mut pending).await);
    }
    harness.check(
        "every queue has lost its leader once",
        format!(
            "{} of {queues}, by {} kills; those of tickets, jobs and guard again",
            queues - pending.len(),
            kills
        ),
        pending.is_empty(),
    );
    verdict::close(&harness, environment, &cluster.nodes[0], phases).await;
}

/// Kills the node that leads this queue, and so others with it; all of them are done.
async fn kill_leader(
    harness: &Harness,
    environment: &mut Environment,
    cluster: &mut Cluster,
    queue: &str,
    pending: &mut BTreeSet<String>,
) -> Phase {
    let leaders = block_in_place(|| cluster.leaders(0));
    // One that has no leader just now gets another turn.
    let victim = leaders.get(queue).copied().unwrap_or(0);
    let led: Vec<&String> =
        leaders.iter().filter(|(_, leader)| **leader == victim).map(|(queue, _)| queue).collect();
    let name = format!("node {} killed", victim + 1);
    harness.say(format_args!("{name}, the leader of {} queues …", led.len()));
    let before = environment.mark().await;
    let killed = Instant::now();
    block_in_place(|| {
        cluster.nodes[victim].sync_registry();
        cluster.nodes[victim].kill();
    });
    for queue in led {
        pending.remove(queue);
    }
    sleep(ALONE).await;
    block_in_place(|| cluster.nodes[victim].restart());
    let whole = wait::comes_true(WHOLE_WITHIN, async || block_in_place(|| cluster.is_whole(victim))).await;
    if !whole {
        harness.check(format_args!("{name}: every queue gets its members back"), "not in time", false);
    }
    let bounds = Bounds { early: Fault::BrokerKill.shared_tasks(0), paid_twice: Fault::BrokerKill.windows() };
    let mut phase = over(harness, environment, (name, before), killed, bounds).await;
    // The other two go on, so that nothing need be fixed first: any gap is a stall.
    let gap = environment.ledger.span(phase.before.at, phase.after.at).gap;
    if gap > LONGEST_STALL {
        harness.check(
            format_args!("{}: no gap above {LONGEST_STALL:?}", phase.name),
            wait::seconds(gap),
            false,
        );
    }
    phase.stall = Some(gap);
    phase
}
