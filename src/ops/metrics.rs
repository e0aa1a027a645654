//! The figures of a replica in Prometheus' text format. docs/METRICS.md lists them, and a test
//! compares.
//!
//! Nothing is counted here while jobs are worked on: each request writes the worker's present
//! readings, so that a figure that does not apply any more is simply not there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::ready::obstacles;
use crate::broker::QueueDepth;
use crate::domain::class::Class;
use crate::domain::guard::{Phase, Reason, State};
use crate::domain::money::{Decimal, Window};
use crate::domain::time::Timestamp;
use crate::fleet::{LaneFigures, Snapshot};
use crate::histogram::Distribution;
use crate::solver::CallTimes;
use crate::worker::{Durations, Reading, WorkerHandle};

/// Of the text format that every Prometheus reads.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4";

/// All figures now.
pub(super) fn rendered(view: &WorkerHandle) -> String {
    let (seen, reading) = (view.seen(), view.reading());
    let mut out = Exposition::default();
    guard(&mut out, &seen);
    if let Some(state) = &seen.state {
        funds(&mut out, state);
        books(&mut out, view, &reading);
    }
    replica(&mut out, view, &seen);
    held(&mut out, view);
    lanes(&mut out, view);
    queues(&mut out, view);
    callbacks(&mut out, view);
    money(&mut out, &reading);
    work(&mut out, &reading);
    durations(&mut out, view, &reading.times);
    out.text
}

fn guard(out: &mut Exposition, seen: &Snapshot) {
    let phase = seen.state.as_ref().map(|state| state.phase);
    let phases = Phase::ALL.map(|known| (known.name(), number(phase == Some(known))));
    out.gauges(
        "captcha_guard_state",
        "1 for the state of the account's guard as this replica knows it, 0 for the others; unknown: no leader has reported it yet",
        "state",
        phases.into_iter().chain([("unknown", number(phase.is_none()))]),
    );
    let mut reasons = seen.state.as_ref().map(|state| state.reasons()).unwrap_or_default();
    // With an address of its own, a replica's ban stands in no record of the fleet.
    reasons.extend(seen.held());
    out.gauges(
        "captcha_guard_reason",
        "1 while work is stopped for this reason, for the fleet or for this replica alone, else 0",
        "reason",
        Reason::ALL.map(|reason| (reason.name(), number(reasons.contains(&reason)))),
    );
    let state = seen.state.as_ref().filter(|state| state.phase == Phase::Tripped);
    if let Some(trip) = state.and_then(|state| state.trip.as_ref()) {
        out.gauge(
            "captcha_guard_next_probe_timestamp_seconds",
            "Time of the leader's next probe of the account; only while tripped",
            seconds(trip.next_probe_at),
        );
    }
}

fn funds(out: &mut Exposition, state: &State) {
    let Some(funds) = &state.funds else { return };
    out.gauge(
        "captcha_balance",
        "Balance at the last probe, in the account's currency; absent while unknown",
        amount(funds.amount),
    );
    out.gauge(
        "captcha_balance_timestamp_seconds",
        "Time of the last probe that returned the balance; absent while unknown",
        seconds(funds.at),
    );
    if let Some(per_hour) = funds.per_hour {
        out.gauge(
            "captcha_balance_change_per_hour",
            "Change of the balance per hour over the last probes, negative while it is spent; absent while unknown",
            per_hour,
        );
    }
}

/// The leader's books, which every replica shows as they were announced last.
fn books(out: &mut Exposition, view: &WorkerHandle, reading: &Reading) {
    let (money, now) = view.money();
    if now == Timestamp::from_millis(0) {
        return;
    }
    let every = |of: &dyn Fn(Window, Option<&str>) -> Option<Decimal>| -> Vec<_> {
        let lanes = money.books.lanes(now).into_iter().chain(money.budgets.lanes.keys().cloned());
        let lanes: BTreeSet<String> = lanes.collect();
        let scopes = std::iter::once(None).chain(lanes.into_iter().map(Some));
        let windows = scopes.flat_map(|lane| Window::ALL.map(|window| (lane.clone(), window)));
        windows
            .filter_map(|(lane, window)| {
                let value = amount(of(window, lane.as_deref())?);
                Some((lane.unwrap_or_else(|| "all".to_owned()), window.name(), value))
            })
            .collect()
    };
    let mut write = |name, help, values: Vec<(String, &'static str, f64)>| {
        let values =
            values.iter().map(|(lane, window, value)| ([("lane", &**lane), ("window", *window)], *value));
        out.values("gauge", name, help, values);
    };
    write(
        "captcha_spend",
        "What the fleet has spent in the present hour and day (UTC), in the account's currency, by the leader's books",
        every(&|window, lane| Some(money.books.spent(window, lane, now))),
    );
    write(
        "captcha_budget",
        "Budgets with what operators have added; absent where there is none",
        every(&|window, lane| money.limit(window, lane, now)),
    );
    write(
        "captcha_budget_used_up",
        "1 while a budget has no room for a task, so that its lane, or for all the fleet, takes no jobs; absent where there is no budget",
        every(&|window, lane| {
            money.limit(window, lane, now)?;
            let stop = lane.map_or(money.stops.account, |lane| money.stops.lanes.get(lane).copied());
            Some(Decimal::from(u8::from(stop.is_some_and(|stop| stop.window == window))))
        }),
    );
    let today = money.books.today(now);
    out.gauge(
        "captcha_spend_wasted",
        "What the fleet has spent today (UTC) on submissions that brought no solution",
        amount(today.wasted),
    );
    out.gauge(
        "captcha_spend_possibly_twice",
        "What the fleet has spent today (UTC) on jobs that may have been paid for already",
        amount(today.repeated),
    );
    // Without a price a task counts at its end, if at all, and the books are behind the balance.
    if view.knows_prices(reading) {
        out.gauge(
            "captcha_balance_drift",
            "By how much the balance fell beyond the books in this hour and the one before: somebody else may use the key; absent where a type has no price",
            amount(money.books.drift(now)),
        );
    }
}

fn replica(out: &mut Exposition, view: &WorkerHandle, seen: &Snapshot) {
    let version = [(env!("CARGO_PKG_VERSION"), 1.0)];
    out.gauges("captcha_build_info", "Always 1; the version is the label", "version", version);
    out.gauge("captcha_ready", "1 while /readyz reports ready", number(obstacles(view).is_empty()));
    out.gauge("captcha_connected", "1 while there is a session with the broker", number(view.is_connected()));
    out.gauge("captcha_leader", "1 while this replica leads the fleet", number(seen.leads));
    out.gauge("captcha_replicas", "Replicas of the fleet, as the leader counts them", size(seen.replicas));
    out.gauge(
        "captcha_quarantined_proxies",
        "Proxies in quarantine: the API called them banned, and the fleet does not use them for a while",
        size(view.quarantined_proxies()),
    );
    out.gauge(
        "captcha_shut_types",
        "Task types whose circuit breaker is open: the API has no slots for them or createTask fails, so their jobs wait in a retry queue without a call",
        size(view.shut_types().len()),
    );
}

fn held(out: &mut Exposition, view: &WorkerHandle) {
    out.gauge("captcha_in_flight", "Tickets and submissions that this replica holds", size(view.in_flight()));
    out.gauge(
        "captcha_tickets_open",
        "Paid tasks whose tickets this replica holds",
        size(view.tickets_open()),
    );
    out.gauge(
        "captcha_polls_overdue",
        "Polls that have been due for more than 5 s and have not begun",
        size(view.overdue_polls()),
    );
    let buffers = view.buffers();
    out.gauges(
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
    out.gauge("captcha_call_window", "Limit of concurrent API calls of this replica", size(vitals.window));
    out.gauges(
        "captcha_type_window",
        "Limit of concurrent submissions of the type; only for types whose limit the API's refusals have lowered",
        "task_type",
        vitals.types.iter().map(|(task_type, window)| (task_type, size(*window))),
    );
}

/// As many as the fleet knows; jobs of others count in the default lane.
fn lanes(out: &mut Exposition, view: &WorkerHandle) {
    let lanes = view.lanes();
    let of = |what: fn(&LaneFigures) -> f64| {
        lanes.iter().map(move |(lane, figures)| (lane.name().to_owned(), what(figures)))
    };
    let name = "captcha_lane_in_flight";
    let help = "Tickets and submissions that this replica holds of a lane";
    out.gauges(name, help, "lane", of(|lane| size(lane.in_flight)));
    let (name, help) = ("captcha_lane_weight", "A lane's part of the work while other lanes have work too");
    out.gauges(name, help, "lane", of(|lane| f64::from(lane.weight)));
    let count = |what: fn(&LaneFigures) -> u64| {
        lanes.iter().map(move |(lane, figures)| (lane.name().to_owned(), what(figures)))
    };
    let (name, help) = ("captcha_lane_jobs_taken_total", "Deliveries from a lane's queue of jobs");
    out.counts(name, help, "lane", count(|lane| lane.taken));
    let (name, help) = ("captcha_lane_jobs_solved_total", "Outcomes of a lane published with a solution");
    out.counts(name, help, "lane", count(|lane| lane.solved));
    let (name, help) = ("captcha_lane_jobs_failed_total", "Outcomes of a lane published without a solution");
    out.counts(name, help, "lane", count(|lane| lane.failed));
}

/// Reported by the leader alone, so that a sum over replicas counts nothing twice.
fn queues(out: &mut Exposition, view: &WorkerHandle) {
    let queues = view.queues();
    if queues.is_empty() {
        return;
    }
    let of = |what: fn(&QueueDepth) -> u64| {
        queues.iter().map(move |(name, depth)| (name.clone(), whole(what(depth))))
    };
    out.gauges(
        "captcha_queue_ready",
        "Messages that are ready in a queue of the namespace; from the leader only, every 15 s",
        "queue",
        of(|depth| depth.ready),
    );
    out.gauges(
        "captcha_queue_consumers",
        "Consumers of a queue of the namespace; from the leader only, every 15 s",
        "queue",
        of(|depth| depth.consumers),
    );
}

/// Only where the API is asked for callbacks.
fn callbacks(out: &mut Exposition, view: &WorkerHandle) {
    let Some(status) = view.callbacks().status(view.now()) else { return };
    out.gauge(
        "captcha_callbacks_off",
        "1 while callbacks are off for a while because they do not work, else 0; absent where callback.public_url is empty",
        number(status.off_until.is_some()),
    );
    let counts = view.callbacks().counts();
    out.counts(
        "captcha_callbacks_total",
        "Callbacks of the API: received here; woke a ticket of this replica; unknown to this replica; forwarded to the other replicas; rejected as no callback or above the rate",
        "event",
        [
            ("received", counts.received),
            ("woke", counts.woke),
            ("unknown", counts.unknown),
            ("forwarded", counts.forwarded),
            ("rejected", counts.rejected),
        ],
    );
}

fn money(out: &mut Exposition, reading: &Reading) {
    out.count("captcha_submissions_total", "Calls of createTask", reading.submissions);
    out.counts(
        "captcha_submissions_paid_total",
        "Submissions that the API accepted, and that are therefore paid",
        "task_type",
        reading.spent.iter().map(|(task_type, spent)| (task_type, spent.accepted)),
    );
    out.counts(
        "captcha_submissions_wasted_total",
        "Paid submissions that brought no solution, by the class they ended in",
        "class",
        by_class(&reading.wasted),
    );
    out.values(
        "counter",
        "captcha_cost_total",
        "Cost of tasks that have ended, in the account's currency, as far as it is known; estimated: by [prices]",
        reading.spent.iter().flat_map(|(task_type, spent)| {
            spent.costs.iter().map(move |((lane, estimated), cost)| {
                let estimated = if *estimated { "true" } else { "false" };
                ([("task_type", &**task_type), ("lane", lane), ("estimated", estimated)], amount(*cost))
            })
        }),
    );
    out.counts(
        "captcha_possibly_paid_twice_total",
        "Submissions that may have been paid for a second time, by the letter of the double-payment window",
        "window",
        reading.paid_twice_possible.clone(),
    );
}

fn work(out: &mut Exposition, reading: &Reading) {
    out.count("captcha_jobs_taken_total", "Deliveries from the job queue", reading.jobs_taken);
    out.count("captcha_tickets_taken_total", "Deliveries from the ticket queue", reading.tickets_taken);
    out.count("captcha_polls_total", "Calls of getTaskResult", reading.polls);
    out.count("captcha_jobs_solved_total", "Outcomes published with a solution", reading.solved);
    out.counts(
        "captcha_jobs_failed_total",
        "Outcomes published without a solution, by class",
        "class",
        by_class(&reading.failed_by_class),
    );
    let by_code = reading.failed_by_code.iter();
    out.values(
        "counter",
        "captcha_jobs_failed_by_code_total",
        "Outcomes published without a solution, by class and code; codes that this version does not know count as (other)",
        by_code.map(|failed| ([("class", failed.class), ("code", failed.code)], whole(failed.count))),
    );
    out.count("captcha_jobs_retried_total", "Jobs sent to a retry queue", reading.retried);
    out.count(
        "captcha_jobs_delayed_total",
        "Times that a job waited because its publisher was over limits.per_publisher_per_minute",
        reading.delayed,
    );
    out.count(
        "captcha_reply_failures_total",
        "Copies of outcomes that could not be sent to reply_to",
        reading.reply_failures,
    );
    out.count(
        "captcha_broker_sessions_lost_total",
        "Sessions with the broker that were lost",
        reading.sessions_lost,
    );
    out.count(
        "captcha_stale_outcomes_total",
        "Outcomes whose delivery was lost before it was settled: the outcome is repeated, or its task is polled again",
        reading.stale_outcomes,
    );
    out.count(
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

/// Prometheus knows no other numbers.
fn amount(amount: Decimal) -> f64 {
    amount.try_into().unwrap_or_default()
}

fn number(yes: bool) -> f64 {
    f64::from(u8::from(yes))
}

/// None of them comes near the numbers that an `f64` cannot hold.
fn size(number: usize) -> f64 {
    number as f64
}

/// The same of a counter.
fn whole(number: u64) -> f64 {
    number as f64
}

fn seconds(moment: Timestamp) -> f64 {
    moment.as_millis() as f64 / 1_000.0
}

fn durations(out: &mut Exposition, view: &WorkerHandle, times: &Durations) {
    let mut write = |name, help, spans| out.histograms::<0>(name, help, [([], spans)]);
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
    write(
        "captcha_confirm_seconds",
        "From handing a publish to the broker's channel until its confirm",
        &view.confirms(),
    );
    if !times.solving.is_empty() {
        let help = "From the acceptance of a task until its answer is read";
        let by_type = times.solving.iter().map(|(task_type, spans)| ([("task_type", &**task_type)], spans));
        out.histograms("captcha_solve_seconds", help, by_type);
    }
    let help = "API calls, from the start of the request until the answer is read";
    let calls = view.call_times();
    let by_call = calls
        .iter()
        .map(|CallTimes { call, status, times }| ([("call", &**call), ("status", &**status)], times));
    out.histograms("captcha_api_call_seconds", help, by_call);
}

/// The text, family by family. A family without values is left out.
#[derive(Default)]
struct Exposition {
    text: String,
}

impl Exposition {
    fn count(&mut self, name: &str, help: &str, value: u64) {
        self.values::<0, &str>("counter", name, help, [([], whole(value))]);
    }

    fn counts<L: AsRef<str>>(
        &mut self,
        name: &str,
        help: &str,
        label: &'static str,
        values: impl IntoIterator<Item = (L, u64)>,
    ) {
        let values = values.into_iter().map(|(of, value)| ([(label, of)], whole(value)));
        self.values("counter", name, help, values);
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.values::<0, &str>("gauge", name, help, [([], value)]);
    }

    fn gauges<L: AsRef<str>>(
        &mut self,
        name: &str,
        help: &str,
        label: &'static str,
        values: impl IntoIterator<Item = (L, f64)>,
    ) {
        self.values("gauge", name, help, values.into_iter().map(|(of, value)| ([(label, of)], value)));
    }

    fn values<const N: usize, L: AsRef<str>>(
        &mut self,
        kind: &str,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = ([(&'static str, L); N], f64)>,
    ) {
        let mut values = values.into_iter().peekable();
        if values.peek().is_some() {
            self.head(kind, name, help);
        }
        for (labels, value) in values {
            let labels: Vec<_> = labels.iter().map(|(label, of)| (*label, of.as_ref())).collect();
            self.sample(name, &labels, value);
        }
    }

    /// In seconds.
    fn histograms<'a, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = ([(&'static str, &'a str); N], &'a Distribution)>,
    ) {
        self.head("histogram", name, help);
        for (labels, spans) in values {
            let bounds = spans.buckets.iter().map(|(bound_ms, count)| {
                (Duration::from_millis(*bound_ms).as_secs_f64().to_string(), *count)
            });
            for (bound, count) in bounds.chain([("+Inf".to_owned(), spans.count)]) {
                let labels: Vec<_> = labels.into_iter().chain([("le", &*bound)]).collect();
                self.sample(&format!("{name}_bucket"), &labels, whole(count));
            }
            self.sample(&format!("{name}_sum"), &labels, spans.sum.as_secs_f64());
            self.sample(&format!("{name}_count"), &labels, whole(spans.count));
        }
    }

    fn head(&mut self, kind: &str, name: &str, help: &str) {
        self.text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let labels: Vec<String> =
            labels.iter().map(|(label, of)| format!("{label}=\"{}\"", escaped(of))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        self.text.push_str(&format!("{name}{labels} {value}\n"));
    }
}

/// A label's value. A type is what publishers write: what would end the value or the line, and what
/// could steer a terminal, is written as percent signs and digits.
fn escaped(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for c in value.chars() {
        if c.is_control() || matches!(c, '\\' | '%') {
            escaped.push_str(&format!("%{:02X}", u32::from(c)));
        } else if c == '"' {
            escaped.push_str("\\\"");
        } else {
            escaped.push(c);
        }
    }
    escaped
}
