//! Reads every section. Each value is read before any is missed, so that no fault hides another.

use std::time::Duration;

use super::reader::{Reader, quoted};
use super::settings::{
    BrokerSettings, LogFormat, LogSettings, OpsSettings, RetrySettings, Settings, TraceSettings,
    WorkerSettings,
};
use super::{guard, secret, solver, tables, tls, values};

pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const TENTH: Duration = Duration::from_millis(100);
pub(super) const MINUTE: Duration = Duration::from_secs(60);
const WEEK: Duration = Duration::from_secs(7 * 86_400);

/// All settings; `None` where a fault was recorded.
pub(super) fn read(reader: &mut Reader) -> Option<Settings> {
    let broker = broker(reader);
    let solver = solver::read(reader);
    let worker = worker(reader);
    let retry = retry(reader);
    let polling = tables::polling(reader);
    let codes = tables::codes(reader);
    let policy = tables::policy(reader);
    let caps = tables::caps(reader);
    let guard = guard::read(reader);
    let ops = ops(reader);
    let log = log(reader);
    let traces = traces(reader);
    Some(Settings {
        broker: broker?,
        solver: solver?,
        worker: worker?,
        retry: retry?,
        polling: polling?,
        codes: codes?,
        policy: policy?,
        caps: caps?,
        guard: guard?,
        ops: ops?,
        log: log?,
        traces: traces?,
    })
}

fn broker(reader: &mut Reader) -> Option<BrokerSettings> {
    let url = secret::broker_url(reader);
    let tls = tls::read(reader, url.as_ref());
    let namespace = reader.text("broker.namespace", "1 to 64 of a-z, 0-9, '_', '.', '-'", values::namespace);
    let connect_timeout = reader.duration("broker.connect_timeout", TENTH..=5 * MINUTE);
    let call_timeout = reader.duration("broker.call_timeout", TENTH..=5 * MINUTE);
    let confirm_timeout = reader.duration("broker.confirm_timeout", TENTH..=5 * MINUTE);
    let heartbeat = heartbeat(reader);
    let reply_to_prefix = reader.text("broker.reply_to_prefix", "a prefix of queue names", reply_to_prefix);
    let declare_topology = reader.flag("broker.declare_topology");
    Some(BrokerSettings {
        url: url?,
        tls: tls?,
        namespace: namespace?,
        connect_timeout: connect_timeout?,
        call_timeout: call_timeout?,
        confirm_timeout: confirm_timeout?,
        heartbeat: heartbeat?,
        reply_to_prefix: reply_to_prefix?,
        declare_topology: declare_topology?,
    })
}

/// AMQP negotiates it in whole seconds.
fn heartbeat(reader: &mut Reader) -> Option<Duration> {
    let key = "broker.heartbeat";
    let span = reader.duration(key, 5 * SECOND..=MINUTE)?;
    if span.subsec_nanos() == 0 {
        return Some(span);
    }
    let origin = reader.shown_origin(key);
    reader.fault(key, &origin, "is not in whole seconds", "5s to 1m, whole seconds");
    None
}

/// AMQP's short strings have at most 255 bytes.
fn reply_to_prefix(text: &str) -> Result<String, String> {
    if text.len() <= 200 && !text.chars().any(char::is_control) {
        Ok(text.to_owned())
    } else {
        Err(format!("{} is longer than 200 bytes, or holds control characters", quoted(text)))
    }
}

fn worker(reader: &mut Reader) -> Option<WorkerSettings> {
    let name = reader.text("worker.name", "at most 128 characters", values::worker_name);
    let max_in_flight = reader.whole("worker.max_in_flight", 1..=60_000);
    let submit_concurrency = reader.whole("worker.submit_concurrency", 1..=1_000);
    let drain_timeout = reader.duration("worker.drain_timeout", SECOND..=15 * MINUTE);
    let linger = reader.duration("worker.linger", Duration::ZERO..=Duration::from_millis(100));
    Some(WorkerSettings {
        name: name?,
        max_in_flight: max_in_flight?,
        submit_concurrency: submit_concurrency?,
        drain_timeout: drain_timeout?,
        linger: linger?,
    })
}

fn retry(reader: &mut Reader) -> Option<RetrySettings> {
    let capacity_timeout = reader.duration("retry.capacity_timeout", Duration::ZERO..=WEEK);
    let transient_timeout = reader.duration("retry.transient_timeout", Duration::ZERO..=WEEK);
    let unknown_timeout = reader.duration("retry.unknown_timeout", Duration::ZERO..=WEEK);
    let max_resubmissions = reader.whole("retry.max_resubmissions", 0..=5);
    Some(RetrySettings {
        capacity_timeout: capacity_timeout?,
        transient_timeout: transient_timeout?,
        unknown_timeout: unknown_timeout?,
        max_resubmissions: max_resubmissions?,
    })
}

fn ops(reader: &mut Reader) -> Option<OpsSettings> {
    let listen = reader.text("ops.listen", "an IP address and a port", values::listen)?;
    let is_default = reader.shown_origin("ops.listen") == "default";
    Some(OpsSettings { listen, is_default })
}

fn log(reader: &mut Reader) -> Option<LogSettings> {
    let level = reader.text("log.level", values::LogFilter::ALLOWED, values::LogFilter::try_new);
    let format = reader.text("log.format", "\"auto\", \"human\", \"json\"", |text| match text {
        "auto" => Ok(LogFormat::Auto),
        "human" => Ok(LogFormat::Human),
        "json" => Ok(LogFormat::Json),
        other => Err(format!("{} is none of them", quoted(other))),
    });
    Some(LogSettings { level: level?, format: format? })
}

fn traces(reader: &mut Reader) -> Option<TraceSettings> {
    let endpoint = reader.text("traces.otlp_endpoint", "an address such as \"http://127.0.0.1:4318\"", |text| {
        if text.is_empty() {
            Ok(None)
        } else if cfg!(feature = "otel") {
            values::otlp_endpoint(text).map(Some)
        } else {
            Err("is set, but this program was built without traces: build it with `--features otel`, or leave this empty".to_owned())
        }
    });
    let sample_ratio = reader.number("traces.sample_ratio", 0.0..=1.0);
    Some(TraceSettings { endpoint: endpoint?, sample_ratio: sample_ratio? })
}
