//! The figures of a replica in Prometheus' text format. docs/METRICS.md lists them, and a test compares.
//!
//! Nothing is counted here while jobs are worked on: at each request the worker's present readings are written to a recorder that is made
//! for this request alone, so that a figure that does not apply any more is simply not there.

use std::collections::BTreeMap;
use std::time::Duration;

use metrics::{Key, Label, SharedString, counter, describe_counter, describe_gauge, gauge};
use metrics_exporter_prometheus::formatting::{write_help_line, write_metric_line, write_type_line};
use metrics_exporter_prometheus::{LabelSet, PrometheusBuilder};

use super::ready::obstacles;
use crate::broker::QueueDepth;
use crate::domain::class::Class;
use crate::domain::guard::{Phase, Reason, State};
use crate::domain::time::Timestamp;
use crate::fleet::Snapshot;
use crate::histogram::Distribution;
use crate::solver::CallTimes;
use crate::worker::{Durations, FailedByCode, Reading, Spent, WorkerHandle};

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
    write(&mut text, view, &reading);
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

/// All of them.
pub(super) fn write(text: &mut String, view: &WorkerHandle, reading: &Reading) {
    by_code(text, &reading.failed_by_code);
    cost(text, &reading.spent);
    durations(text, &reading.times);
    let help = "From handing a publish to the broker's channel until its confirm";
    Family::histogram(text, "captcha_confirm_seconds", help).spans(vec![], &view.confirms());
    calls(text, &view.call_times());
}

fn by_code(text: &mut String, failed: &[FailedByCode]) {
    if failed.is_empty() {
        return;
    }
    let help = "Outcomes published without a solution, by class and code; codes that this version does not know count as (other)";
    let mut family = Family::counter(text, "captcha_jobs_failed_by_code_total", help);
    for failed in failed {
        family.value(vec![("class", failed.class), ("code", failed.code)], whole(failed.count));
    }
}

fn cost(text: &mut String, spent: &BTreeMap<String, Spent>) {
    if spent.is_empty() {
        return;
    }
    let help = "Cost of solved tasks, in the account's currency, as far as the API reports it";
    let mut family = Family::counter(text, "captcha_cost_total", help);
    for (task_type, spent) in spent {
        family.value(vec![("task_type", task_type)], spent.cost);
    }
}

fn durations(text: &mut String, times: &Durations) {
    let mut write = |name, help, spans| Family::histogram(text, name, help).spans(vec![], spans);
    write(
        "captcha_poll_lateness_seconds",
        "Time from when a poll is due until it starts",
        &times.poll_lateness,
    );
    write(
        "captcha_ready_to_delivered_seconds",
        "From reading the API's answer until the broker confirms its outcome",
        &times.ready_to_delivered,
    );
    write(
        "captcha_queue_wait_seconds",
        "From a job's AMQP timestamp until a replica takes it; only for jobs whose publishers set one, in whole seconds",
        &times.queue_wait,
    );
    write(
        "captcha_submission_wait_seconds",
        "From the time when a replica first saw a job until the API accepts it",
        &times.submission_wait,
    );
    if times.solving.is_empty() {
        return;
    }
    let help = "From the acceptance of a task until its answer is read";
    let mut family = Family::histogram(text, "captcha_solve_seconds", help);
    for (task_type, spans) in &times.solving {
        family.spans(vec![("task_type", task_type)], spans);
    }
}

fn calls(text: &mut String, calls: &[CallTimes]) {
    let help = "API calls, from the start of the request until the answer is read";
    let mut family = Family::histogram(text, "captcha_api_call_seconds", help);
    for CallTimes { call, status, times } in calls {
        family.spans(vec![("call", call), ("status", status)], times);
    }
}

/// Labels with their values.
type Labels<'a> = Vec<(&'static str, &'a str)>;

/// A family of one type, and what it means.
struct Family<'a> {
    text: &'a mut String,
    name: &'static str,
}

impl<'a> Family<'a> {
    fn counter(text: &'a mut String, name: &'static str, help: &str) -> Self {
        Self::begin(text, name, help, "counter")
    }

    fn histogram(text: &'a mut String, name: &'static str, help: &str) -> Self {
        Self::begin(text, name, help, "histogram")
    }

    fn begin(text: &'a mut String, name: &'static str, help: &str, kind: &str) -> Self {
        write_help_line(text, name, None, None, help);
        write_type_line(text, name, None, None, kind);
        Self { text, name }
    }

    fn labels(&self, labels: Labels<'_>) -> LabelSet {
        let labels: Vec<_> = labels.into_iter().map(|(name, value)| Label::new(name, label(value))).collect();
        LabelSet::from_key_and_global(&Key::from_parts(self.name, labels), &Default::default())
    }

    /// One value of it.
    fn value(&mut self, labels: Labels<'_>, value: f64) {
        let labels = self.labels(labels);
        write_metric_line::<&str, f64>(self.text, self.name, None, &labels, None, value, None);
    }

    /// One histogram of it, in seconds.
    fn spans(&mut self, labels: Labels<'_>, spans: &Distribution) {
        let (labels, name) = (self.labels(labels), self.name);
        for (bound_ms, count) in &spans.buckets {
            let bound = Duration::from_millis(*bound_ms).as_secs_f64();
            write_metric_line(self.text, name, Some("bucket"), &labels, Some(("le", bound)), *count, None);
        }
        write_metric_line(self.text, name, Some("bucket"), &labels, Some(("le", "+Inf")), spans.count, None);
        let sum = spans.sum.as_secs_f64();
        write_metric_line::<&str, f64>(self.text, name, Some("sum"), &labels, None, sum, None);
        write_metric_line::<&str, u64>(self.text, name, Some("count"), &labels, None, spans.count, None);
    }
}

/// A type is what publishers write. The exporter's escapes make one of names that differ by backslashes only, and no series may stand twice.
pub(super) fn label(task_type: &str) -> String {
    let mut label = String::with_capacity(task_type.len());
    for c in task_type.chars() {
        if c.is_control() || matches!(c, '\\' | '%') {
            label.push_str(&format!("%{:02X}", u32::from(c)));
        } else {
            label.push(c);
        }
    }
    label
}
