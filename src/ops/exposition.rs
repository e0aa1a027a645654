//! Families that are written with the exporter's pen, past its recorder.
//!
//! * Amounts are fractions, and a counter of the facade holds whole numbers only; Prometheus' own counters do not mind.
//! * The buckets of histograms are the worker's, counted while it works; the facade would make its own from single values.

use std::collections::BTreeMap;
use std::time::Duration;

use metrics::{Key, Label};
use metrics_exporter_prometheus::LabelSet;
use metrics_exporter_prometheus::formatting::{write_help_line, write_metric_line, write_type_line};

use super::metrics::whole;
use crate::histogram::Distribution;
use crate::solver::CallTimes;
use crate::worker::{Durations, FailedByCode, Reading, Spent, WorkerHandle};

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
