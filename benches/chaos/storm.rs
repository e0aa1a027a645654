//! The storm: a strict phase first, then faults by seed, then calm, and the verdict.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::faults::{Fault, Schedule};
use crate::inflict::{inflict, shorten_consumer_timeout, told};
use crate::log::{self, Phase};
use crate::patience;
use crate::report::Stage;
use crate::support::rabbit::RabbitNode;
use crate::theatre::{Fingerprint, Theatre};
use crate::verdict::{self, Bounds, LONGEST_STALL, SETTLE_WITHIN};

/// Before the storm, and after a fault before the next.
const CALM: Duration = Duration::from_secs(3);
/// From here on there is time for the results queue to be full for longer than a consumer may hold a message.
const LONG_STORM: Duration = Duration::from_secs(300);

pub(crate) async fn run(stage: Arc<Stage>, length: Duration, faults: Vec<String>) {
    let mut node = RabbitNode::start().await;
    shorten_consumer_timeout(&node);
    let address = ([127, 0, 0, 1], node.port()).into();
    let mut theatre = Theatre::open(&stage, vec![address], node.url()).await;
    let mut phases = vec![strict(&stage, &mut theatre).await];
    let mut schedule = Schedule::new(stage.seed(), &faults);
    let began = Instant::now();
    if length >= LONG_STORM && faults.is_empty() {
        phases.push(phase(&stage, Fault::Full, &mut theatre, &mut node, &mut schedule).await);
    }
    while began.elapsed() < length {
        let fault = schedule.next();
        phases.push(phase(&stage, fault, &mut theatre, &mut node, &mut schedule).await);
    }
    verdict::close(&stage, theatre, &node, phases).await;
}

/// A rolling restart under load with nothing else wrong: nothing is lost, repeated or paid twice.
async fn strict(stage: &Stage, theatre: &mut Theatre) -> Phase {
    let before = theatre.mark().await;
    sleep(CALM).await;
    let bad = theatre.roll().await;
    let mended = Instant::now();
    stage.check("rolling restart under load: exit 0 each", told(&bad), bad.is_empty());
    let settled = theatre.settle(SETTLE_WITHIN).await;
    let after = theatre.mark().await;
    let cost = log::cost(&theatre.book, &before, &after);
    stage.check("rolling restart under load: every job ends", theatre.book.open(), settled);
    stage.at_most("rolling restart under load: paid twice", cost.paid_twice, 0);
    stage.at_most("rolling restart under load: outcomes repeated", cost.span.repeated as u64, 0);
    stage.at_most("rolling restart under load: early polls", cost.early, 0);
    theatre.publisher.go_on();
    Phase {
        name: "strict: rolling restart".to_owned(),
        before,
        after,
        mended,
        stall: None,
        bounds: Bounds::default(),
    }
}

async fn phase(
    stage: &Stage,
    fault: Fault,
    theatre: &mut Theatre,
    node: &mut RabbitNode,
    schedule: &mut Schedule,
) -> Phase {
    let before = theatre.mark().await;
    let (name, open) = (fault.name(), before.stats.tasks_open);
    stage.say(format_args!("{name} …"));
    inflict(stage, fault, theatre, node, schedule).await;
    let bounds = Bounds { early: fault.shared_tasks(open), paid_twice: fault.windows() };
    over(stage, theatre, (name, before), Instant::now(), bounds).await
}

/// Waits until the fleet works again, and judges what the fault has cost.
pub(crate) async fn over(
    stage: &Stage,
    theatre: &mut Theatre,
    (name, before): (String, Fingerprint),
    mended: Instant,
    bounds: Bounds,
) -> Phase {
    let stall = patience::until(LONGEST_STALL * 2, async || theatre.book.first_after(mended)).await;
    let stall = stall.map(|first| first - mended);
    let fallen = theatre.raise();
    let all = theatre.all_work().await;
    sleep(CALM).await;
    let phase = Phase { name, before, after: theatre.mark().await, mended, stall, bounds };
    if !fallen.is_empty() {
        stage.check(format_args!("{}: no replica ends by itself", phase.name), fallen.join(", "), false);
    }
    if !all {
        let working = theatre.gauges.working();
        stage.check(format_args!("{}: all replicas work again", phase.name), working, false);
    }
    verdict::tell(stage, &theatre.book, &phase);
    phase
}
