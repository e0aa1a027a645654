//! The storm: a strict phase first, then faults by seed, then calm, and the verdict.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::environment::{Environment, Fingerprint};
use crate::faults::{Fault, Schedule};
use crate::inject::{inject, listed, shorten_consumer_timeout};
use crate::log::{self, Phase};
use crate::report::Harness;
use crate::support::rabbit::RabbitNode;
use crate::verdict::{self, Bounds, LONGEST_STALL, SETTLE_WITHIN};
use crate::wait;

/// Before the storm, and after a fault before the next.
const CALM: Duration = Duration::from_secs(3);
/// From here on there is time for the results queue to be full for longer than a consumer may hold
/// a message.
const LONG_STORM: Duration = Duration::from_secs(300);

pub(crate) async fn run(harness: Arc<Harness>, length: Duration, faults: Vec<String>) {
    let mut node = RabbitNode::start().await;
    shorten_consumer_timeout(&node);
    let address = ([127, 0, 0, 1], node.port()).into();
    let mut environment = Environment::open(&harness, vec![address], node.url()).await;
    let mut phases = vec![strict(&harness, &mut environment).await];
    let mut schedule = Schedule::new(harness.seed(), &faults);
    let began = Instant::now();
    if length >= LONG_STORM && faults.is_empty() {
        phases.push(phase(&harness, Fault::Full, &mut environment, &mut node, &mut schedule).await);
    }
    while began.elapsed() < length {
        let fault = schedule.next();
        phases.push(phase(&harness, fault, &mut environment, &mut node, &mut schedule).await);
    }
    verdict::close(&harness, environment, &node, phases).await;
}

/// A rolling restart under load with nothing else wrong: nothing is lost, repeated or paid twice.
async fn strict(harness: &Harness, environment: &mut Environment) -> Phase {
    let before = environment.mark().await;
    sleep(CALM).await;
    let bad = environment.roll().await;
    let fixed_at = Instant::now();
    harness.check("rolling restart under load: exit 0 each", listed(&bad), bad.is_empty());
    let settled = environment.settle(SETTLE_WITHIN).await;
    let after = environment.mark().await;
    let cost = log::cost(&environment.ledger, &before, &after);
    harness.check("rolling restart under load: every job ends", environment.ledger.open(), settled);
    harness.at_most("rolling restart under load: paid twice", cost.paid_twice, 0);
    harness.at_most("rolling restart under load: outcomes repeated", cost.span.repeated as u64, 0);
    harness.at_most("rolling restart under load: early polls", cost.early, 0);
    environment.publisher.go_on();
    Phase {
        name: "strict: rolling restart".to_owned(),
        before,
        after,
        fixed_at,
        stall: None,
        bounds: Bounds::default(),
    }
}

async fn phase(
    harness: &Harness,
    fault: Fault,
    environment: &mut Environment,
    node: &mut RabbitNode,
    schedule: &mut Schedule,
) -> Phase {
    let before = environment.mark().await;
    let (name, open) = (fault.name(), before.stats.tasks_open);
    harness.say(format_args!("{name} …"));
    inject(harness, fault, environment, node, schedule).await;
    let bounds = Bounds { early: fault.shared_tasks(open), paid_twice: fault.windows() };
    over(harness, environment, (name, before), Instant::now(), bounds).await
}

/// Waits until the fleet works again, and judges what the fault has cost.
pub(crate) async fn over(
    harness: &Harness,
    environment: &mut Environment,
    (name, before): (String, Fingerprint),
    fixed_at: Instant,
    bounds: Bounds,
) -> Phase {
    let stall = wait::until(LONGEST_STALL * 2, async || environment.ledger.first_after(fixed_at)).await;
    let stall = stall.map(|first| first - fixed_at);
    let fallen = environment.raise();
    let all = environment.all_work().await;
    sleep(CALM).await;
    let phase = Phase { name, before, after: environment.mark().await, fixed_at, stall, bounds };
    if !fallen.is_empty() {
        harness.check(format_args!("{}: no replica ends by itself", phase.name), fallen.join(", "), false);
    }
    if !all {
        let working = environment.gauges.working();
        harness.check(format_args!("{}: all replicas work again", phase.name), working, false);
    }
    verdict::report_phase(harness, &environment.ledger, &phase);
    phase
}
