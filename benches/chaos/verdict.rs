//! What a run must show: the bounds of each fault, and of the whole.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::environment::{DRAIN_TIMEOUT, Environment, REPLICAS};
use crate::inject::{filled, listed};
use crate::ledger::Ledger;
use crate::log::{self, Phase};
use crate::report::Harness;
use crate::support::rabbit::RabbitNode;
use crate::wait;

/// From a fault's end to the first outcome: the longest time for which a replica takes no jobs
/// after short sessions (22.5 s), and one job's way from there.
pub(crate) const LONGEST_STALL: Duration = Duration::from_secs(30);
/// Outcomes of all jobs, those retried for two minutes included.
pub(crate) const SETTLE_WITHIN: Duration = Duration::from_secs(300);

/// What a fault may cost at most.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Bounds {
    pub(crate) early: u64,
    pub(crate) paid_twice: u64,
}

/// Reports a phase; a stall too long is a finding.
pub(crate) fn report_phase(harness: &Harness, ledger: &Ledger, phase: &Phase) {
    let (name, cost) = (&phase.name, log::cost(ledger, &phase.before, &phase.after));
    let stall = phase.stall.map_or_else(|| "none came".to_owned(), wait::seconds);
    harness.say(format_args!(
        "{name}: over; first outcome after {stall}, {} repeated, {} paid twice, {} early polls",
        cost.span.repeated, cost.paid_twice, cost.early
    ));
    if phase.stall.is_none_or(|stall| stall > LONGEST_STALL) {
        harness.check(format_args!("{name}: an outcome within {LONGEST_STALL:?}"), stall, false);
    }
}

/// What each fault may cost. A job that was retried by one may be paid in the next phase, and a
/// task that has got two owners is polled on in it.
fn judge_bounds(harness: &Harness, ledger: &Ledger, phases: &[Phase]) {
    let (mut paid_twice, mut windows, mut carried) = (0, 0, 0);
    let (mut broken, mut early) = (Vec::new(), 0);
    for phase in phases {
        let cost = log::cost(ledger, &phase.before, &phase.after);
        (paid_twice, windows) = (paid_twice + cost.paid_twice, windows + phase.bounds.paid_twice);
        if paid_twice > windows {
            broken.push(format!("{}: paid twice {paid_twice} of {windows} so far", phase.name));
        }
        early += cost.early;
        if cost.early > phase.bounds.early + carried {
            broken.push(format!("{}: {} early polls", phase.name, cost.early));
        }
        carried = phase.bounds.early;
    }
    let listed = if broken.is_empty() {
        format!("{paid_twice} paid twice of {windows} that could be; {early} early polls")
    } else {
        broken.join("; ")
    };
    harness.check("what each fault may cost at most", listed, broken.is_empty());
}

/// The calm at the end, the table, and the verdict.
pub(crate) async fn close(
    harness: &Harness,
    mut environment: Environment,
    node: &RabbitNode,
    mut phases: Vec<Phase>,
) {
    phases.push(calm(harness, &mut environment, node).await);
    environment.ledger.keep_repeated(&harness.folder().join("repeated.jsonl"), phases[0].before.at);
    println!("\n{}", log::table(&environment.ledger, &phases));
    judge_all(harness, &environment, &phases);
    environment.publisher.finish().await;
    environment.consumer.finish().await;
}

/// The end: everything ends, the fleet leaves, and the queues are empty.
async fn calm(harness: &Harness, environment: &mut Environment, node: &RabbitNode) -> Phase {
    let before = environment.mark().await;
    let fixed_at = Instant::now();
    environment.settle(SETTLE_WITHIN).await;
    // What was paid twice may still be on its way, and the guard's one message stays.
    let guard = environment.names.guard();
    let left = || filled(node).into_iter().filter(|(queue, _)| *queue != guard).collect::<BTreeMap<_, _>>();
    wait::comes_true(SETTLE_WITHIN, async || left().is_empty()).await;
    harness.say("all has ended, or the time for it is over");
    let mut bad = Vec::new();
    for place in 0..REPLICAS {
        let code = environment.fleet.dismiss(place, DRAIN_TIMEOUT + Duration::from_secs(5)).await;
        if code != Some(0) {
            bad.push(format!("{}: {code:?}", crate::harness::fleet::name(place)));
        }
    }
    harness.check("the fleet leaves with exit 0", listed(&bad), bad.is_empty());
    let left: Vec<String> = left().into_iter().map(|(queue, count)| format!("{count} in {queue}")).collect();
    harness.check("all queues are empty", listed(&left), left.is_empty());
    let after = environment.mark().await;
    Phase { name: "calm".to_owned(), before, after, fixed_at, stall: None, bounds: Bounds::default() }
}

fn judge_all(harness: &Harness, environment: &Environment, phases: &[Phase]) {
    let Some((first, last)) = phases.first().zip(phases.last()) else { return };
    let cost = log::cost(&environment.ledger, &first.before, &last.after);
    let faults = environment.ledger.faults();
    harness.note("jobs published", environment.published());
    harness.note("outcomes", format!("{:?}", environment.ledger.places()));
    for (must, ids) in [
        ("confirmed jobs without an outcome: 0", &faults.lost),
        ("ids whose outcomes disagree, though paid once: 0", &faults.disagreeing),
        ("answers of another job: 0", &faults.wrong),
        ("outcomes that nobody asked for: 0", &faults.strangers),
    ] {
        harness.check(must, few(ids), ids.is_empty());
    }
    judge_bounds(harness, &environment.ledger, phases);
    harness.at_most("polls past the limit", cost.past_limit, 0);
    harness.at_most("bans", last.after.stats.bans, 0);
    harness.note(
        "paid twice, by the API's stand-in; counted by replicas that lived to tell",
        format!("{}; {} ({})", cost.paid_twice, cost.letters.sum(), cost.letters.summary()),
    );
    harness.note("outcomes repeated", cost.span.repeated);
    let longest = phases.iter().filter_map(|phase| Some((phase.stall?, &phase.name))).max();
    if let Some((stall, name)) = longest {
        harness.note("longest stall after a fault", format!("{} ({name})", wait::seconds(stall)));
    }
}

fn few(ids: &BTreeSet<String>) -> String {
    let some: Vec<&str> = ids.iter().take(3).map(String::as_str).collect();
    if ids.is_empty() { "0".to_owned() } else { format!("{}, such as {}", ids.len(), some.join(", ")) }
}
