//! The figures of a replica in Prometheus' text format. docs/METRICS.md lists them, and a test compares.
//!
//! Nothing is counted here while jobs are worked on: at each request the worker's present readings are written to a recorder that is made
//! for this request alone, so that a figure that does not apply any more is simply not there.

use std::collections::BTreeMap;

use metrics::{SharedString, counter, describe_counter, describe_gauge, gauge};
use metrics_exporter_prometheus::PrometheusBuilder;

use super::exposition::{self, label};
use super::ready::obstacles;
use crate::broker::QueueDepth;
use crate::domain::class::Class;
use crate::domain::guard::{Phase, Reason, State};
use crate::domain::time::Timestamp;
use crate::fleet::Snapshot;
use crate::worker::{Reading, WorkerHandle};

/// Of the text format that every Prometheus reads.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4";

/// All figures now.
pub(super) fn rendered(view: &WorkerHandle) -> String {
    let (seen, reading) = (view.seen(), view.reading());
    let recorder = PrometheusBuilder::new().build_recorder();
    metrics::with_local_recorder(&recorder, || {
        guard(&seen);
        if let Some(state) = &seen.state {
            funds(state);
        }
        replica(view, &seen);
        held(view);
        queues(view);
        money(&reading);
        work(&reading);
    });
    let mut text = recorder.handle().render();
    exposition::write(&mut text, view, &reading);
    text
}

fn guard(seen: &Snapshot) {
    let phase = seen.state.as_ref().map(|state| state.phase);
    let phases = Phase::ALL.map(|known| (known.name(), number(phase == Some(known))));
    gauges(
        "captcha_guard_state",
        "1 for the state of the account's guard as this replica knows it, 0 for the others; unknown: no leader has reported it yet",
        "state",
        phases.into_iter().chain([("unknown", number(phase.is_none()))]),
    );
    let mut reasons = seen.state.as_ref().map(|state| state.reasons()).unwrap_or_default();
    // With an address of its own, a replica's ban stands in no record of the fleet.
    reasons.extend(seen.held());
    gauges(
        "captcha_guard_reason",
        "1 while work is stopped for this reason, for the fleet or for this replica alone, else 0",
        "reason",
        Reason::ALL.map(|reason| (reason.name(), number(reasons.contains(&reason)))),
    );
    let state = seen.state.as_ref().filter(|state| state.phase == Phase::Tripped);
    if let Some(trip) = state.and_then(|state| state.trip.as_ref()) {
        gauge(
            "captcha_guard_next_probe_timestamp_seconds",
            "Time of the leader's next probe of the account; only while tripped",
            seconds(trip.next_probe_at),
        );
    }
}

fn funds(state: &State) {
    let Some(funds) = &state.funds else { return };
    gauge(
        "captcha_balance",
        "Balance at the last probe, in the account's currency; absent while unknown",
        funds.amount,
    );
    gauge(
        "captcha_balance_timestamp_seconds",
        "Time of the last probe that returned the balance; absent while unknown",
        seconds(funds.at),
    );
    if let Some(per_hour) = funds.per_hour {
        gauge(
            "captcha_balance_change_per_hour",
            "Change of the balance per hour over the last probes, negative while it is spent; absent while unknown",
            per_hour,
        );
    }
}

fn replica(view: &WorkerHandle, seen: &Snapshot) {
    let version = [(env!("CARGO_PKG_VERSION"), 1.0)];
    gauges("captcha_build_info", "Always 1; the version is the label", "version", version);
    gauge("captcha_ready", "1 while /readyz reports ready", number(obstacles(view).is_empty()));
    gauge("captcha_connected", "1 while there is a session with the broker", number(view.is_connected()));
    gauge("captcha_leader", "1 while this replica leads the fleet", number(seen.leads));
    gauge("captcha_replicas", "Replicas of the fleet, as the leader counts them", size(seen.replicas));
    gauge(
        "captcha_quarantined_proxies",
        "Proxies in quarantine: the API called them banned, and the fleet does not use them for a while",
        size(view.quarantined_proxies()),
    );
    gauge(
        "captcha_shut_types",
        "Task types whose circuit breaker is open: the API has no slots for them or createTask fails, so their jobs wait in a retry queue without a call",
        size(view.shut_types().len()),
    );
}

fn held(view: &WorkerHandle) {
    gauge("captcha_in_flight", "Tickets and submissions that this replica holds", size(view.in_flight()));
    gauge("captcha_tickets_open", "Paid tasks whose tickets this replica holds", size(view.tickets_open()));
    gauge(
        "captcha_polls_overdue",
        "Polls that have been due for more than 5 s and have not begun",
        size(view.overdue_polls()),
    );
    let buffers = view.buffers();
    gauges(
        "captcha_buffer_depth",
        "What waits inside this replica: deliveries that are not started, jobs in flight that wait for their call of createTask, and publishes that are not confirmed",
        "buffer",
        [
            ("deliveries", size(buffers.deliveries)),
            ("submissions", size(buffers.submissions)),
            ("publishes", size(buffers.publishes)),
        ],
    );
    let vitals = view.vitals();
    gauge("captcha_call_window", "Limit of concurrent API calls of this replica", size(vitals.window));
    gauges(
        "captcha_type_window",
        "Limit of concurrent submissions of the type; only for types whose limit the API's refusals have lowered",
        "task_type",
        vitals.types.iter().map(|(task_type, window)| (label(task_type), size(*window))),
    );
}

/// Told by the leader alone, so that a sum over replicas counts nothing twice.
fn queues(view: &WorkerHandle) {
    let queues = view.queues();
    if queues.is_empty() {
        return;
    }
    let of = |what: fn(&QueueDepth) -> u64| {
        queues.iter().map(move |(name, depth)| (name.clone(), whole(what(depth))))
    };
    gauges(
        "captcha_queue_ready",
        "Messages that are ready in a queue of the namespace; from the leader only, every 15 s",
        "queue",
        of(|depth| depth.ready),
    );
    gauges(
        "captcha_queue_consumers",
        "Consumers of a queue of the namespace; from the leader only, every 15 s",
        "queue",
        of(|depth| depth.consumers),
    );
}

fn money(reading: &Reading) {
    count("captcha_submissions_total", "Calls of createTask", reading.submissions);
    counts(
        "captcha_submissions_paid_total",
        "Submissions that the API accepted, and that are therefore paid",
        "task_type",
        reading.spent.iter().map(|(task_type, spent)| (label(task_type), spent.accepted)),
    );
    counts(
        "captcha_submissions_wasted_total",
        "Paid submissions that brought no solution, by the class they ended in",
        "class",
        by_class(&reading.wasted),
    );
    counts(
        "captcha_possibly_paid_twice_total",
        "Submissions that may have been paid for a second time, by the letter of the double-payment window",
        "window",
        reading.paid_twice_possible.clone(),
    );
}

fn work(reading: &Reading) {
    count("captcha_jobs_taken_total", "Deliveries from the job queue", reading.jobs_taken);
    count("captcha_tickets_taken_total", "Deliveries from the ticket queue", reading.tickets_taken);
    count("captcha_polls_total", "Calls of getTaskResult", reading.polls);
    count("captcha_jobs_solved_total", "Outcomes published with a solution", reading.solved);
    counts(
        "captcha_jobs_failed_total",
        "Outcomes published without a solution, by class",
        "class",
        by_class(&reading.failed_by_class),
    );
    count("captcha_jobs_parked_total", "Jobs sent to a retry queue", reading.parked);
    count(
        "captcha_reply_failures_total",
        "Copies of outcomes that could not be sent to reply_to",
        reading.reply_failures,
    );
    count(
        "captcha_broker_sessions_lost_total",
        "Sessions with the broker that were lost",
        reading.sessions_lost,
    );
    count(
        "captcha_stale_outcomes_total",
        "Outcomes whose delivery was lost before it was settled: the outcome is repeated, or its task is polled again",
        reading.stale_outcomes,
    );
    count(
        "captcha_recognised_deliveries_total",
        "Deliveries recognised after a lost connection or a missed confirm: neither handled nor paid for a second time",
        reading.recognised,
    );
}

/// Every class that a job can end in, so that the first of a class is seen as a rise from 0.
fn by_class(counted: &BTreeMap<&'static str, u64>) -> BTreeMap<&'static str, u64> {
    let mut all: BTreeMap<_, _> = Class::finals().map(|class| (class.name(), 0)).collect();
    all.extend(counted);
    all
}

fn count(name: &'static str, help: &'static str, value: u64) {
    describe_counter!(name, help);
    counter!(name).absolute(value);
}

fn counts<L: Into<SharedString>>(
    name: &'static str,
    help: &'static str,
    label: &'static str,
    values: impl IntoIterator<Item = (L, u64)>,
) {
    describe_counter!(name, help);
    for (of, value) in values {
        counter!(name, label => of).absolute(value);
    }
}

fn gauge(name: &'static str, help: &'static str, value: f64) {
    describe_gauge!(name, help);
    gauge!(name).set(value);
}

fn gauges<L: Into<SharedString>>(
    name: &'static str,
    help: &'static str,
    label: &'static str,
    values: impl IntoIterator<Item = (L, f64)>,
) {
    describe_gauge!(name, help);
    for (of, value) in values {
        gauge!(name, label => of).set(value);
    }
}

fn number(yes: bool) -> f64 {
    f64::from(u8::from(yes))
}

/// None of them comes near the numbers that an `f64` cannot hold.
fn size(number: usize) -> f64 {
    number as f64
}

/// The same of a counter.
pub(super) fn whole(number: u64) -> f64 {
    number as f64
}

fn seconds(moment: Timestamp) -> f64 {
    moment.as_millis() as f64 / 1_000.0
}
