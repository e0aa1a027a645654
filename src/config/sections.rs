//! Reads every section. Each value is read before any is missed, so that no fault hides another.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use super::files;
use super::layers::{BUDGETS, LANE, POLL_SETTINGS};
use super::reader::{Reader, parse_duration, quoted};
use super::settings::{
    BrokerSettings, CallbackSettings, GuardSettings, LimitSettings, LogFormat, LogSettings, OpsSettings,
    RetrySettings, Settings, SolverSettings, TraceSettings, WorkerSettings,
};
use super::values::{self, LogFilter};
use crate::domain::api_code::Overrides;
use crate::domain::class::Class;
use crate::domain::guard::GuardRules;
use crate::domain::kind;
use crate::domain::lane::{Lane, LaneRules, MAX_LANES, MAX_WEIGHT};
use crate::domain::lifecycle::Ambiguous;
use crate::domain::money::{self, Budgets, Decimal, Limits, MOST_MONEY, Prices};
use crate::domain::policy::Policy;
use crate::domain::poll_schedule::{MAX_POLLS, PollMode, PollSchedule, PollScheduleError, PollSchedules};
use crate::domain::solve_time::Reach;

const TENTH: Duration = Duration::from_millis(100);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
const WEEK: Duration = Duration::from_secs(7 * 86_400);

/// A struct of settings. Each field is read, in this order, before any is missed.
macro_rules! all_of {
    ($settings:ident { $($field:ident: $read:expr),+ $(,)? }) => {{
        $(let $field = $read;)+
        Some($settings { $($field: $field?),+ })
    }};
}

/// All settings; `None` where a fault was recorded.
pub(super) fn read(reader: &mut Reader) -> Option<Settings> {
    all_of!(Settings {
        broker: broker(reader),
        solver: solver(reader),
        worker: worker(reader),
        retry: retry(reader),
        polling: polling(reader),
        codes: codes(reader),
        policy: policy(reader),
        caps: caps(reader),
        lanes: lanes(reader),
        limits: publisher_limits(reader),
        guard: guard(reader),
        callback: callback(reader),
        ops: ops(reader),
        log: log(reader),
        traces: traces(reader),
    })
}

fn broker(reader: &mut Reader) -> Option<BrokerSettings> {
    let prefix = "a prefix of queue names";
    all_of!(BrokerSettings {
        url: files::broker_url(reader),
        tls: files::tls(reader, url.as_ref()),
        namespace: reader.text("broker.namespace", "1 to 64 of a-z, 0-9, '_', '.', '-'", values::namespace),
        connect_timeout: reader.duration("broker.connect_timeout", TENTH..=5 * MINUTE),
        call_timeout: reader.duration("broker.call_timeout", TENTH..=5 * MINUTE),
        confirm_timeout: reader.duration("broker.confirm_timeout", TENTH..=5 * MINUTE),
        heartbeat: heartbeat(reader),
        reply_to_prefix: reader.text("broker.reply_to_prefix", prefix, values::reply_to_prefix),
        declare_topology: reader.flag("broker.declare_topology"),
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

fn solver(reader: &mut Reader) -> Option<SolverSettings> {
    let ambiguous = [("retry", Ambiguous::Retry), ("dead-letter", Ambiguous::DeadLetter)];
    all_of!(SolverSettings {
        allow_plain_http: reader.flag("solver.allow_plain_http"),
        base_url: reader.text("solver.base_url", "an address such as https://api.example.com", |text| {
            // While the flag itself is faulty, plain http is not reported on top.
            values::base_url(text, allow_plain_http.unwrap_or(true))
        }),
        api_key: files::api_key(reader),
        proxy: files::api_proxy(reader, base_url.as_ref(), allow_plain_http.unwrap_or(true)),
        tls_ca_file: files::api_ca(reader),
        connect_timeout: reader.duration("solver.connect_timeout", TENTH..=MINUTE),
        request_timeout: reader.duration("solver.request_timeout", SECOND..=5 * MINUTE),
        max_connections: reader.whole("solver.max_connections", 1..=1_024),
        idle_timeout: reader.duration("solver.idle_timeout", TENTH..=5 * MINUTE),
        max_calls_per_second: reader.whole("solver.max_calls_per_second", 0..=100_000).map(NonZeroU32::new),
        ambiguous_submit: reader.choice("solver.ambiguous_submit", ambiguous),
    })
}

fn worker(reader: &mut Reader) -> Option<WorkerSettings> {
    all_of!(WorkerSettings {
        name: reader.text("worker.name", "at most 128 characters", values::worker_name),
        max_in_flight: reader.whole("worker.max_in_flight", 1..=60_000),
        submit_concurrency: reader.whole("worker.submit_concurrency", 1..=1_000),
        drain_timeout: reader.duration("worker.drain_timeout", SECOND..=15 * MINUTE),
        linger: reader.duration("worker.linger", Duration::ZERO..=TENTH),
    })
}

fn retry(reader: &mut Reader) -> Option<RetrySettings> {
    all_of!(RetrySettings {
        capacity_timeout: reader.duration("retry.capacity_timeout", Duration::ZERO..=WEEK),
        transient_timeout: reader.duration("retry.transient_timeout", Duration::ZERO..=WEEK),
        unknown_timeout: reader.duration("retry.unknown_timeout", Duration::ZERO..=WEEK),
        max_resubmissions: reader.whole("retry.max_resubmissions", 0..=5),
    })
}

fn guard(reader: &mut Reader) -> Option<GuardSettings> {
    let shared_egress = reader.choice("guard.egress", [("shared", true), ("own", false)]);
    // Each by a function of its own: what one of them misses must not keep the next from being
    // read.
    let (rules, deadlines) = (guard_rules(reader), deadlines(reader));
    let operators = reader.list("guard.operators").map(|(operators, _)| operators);
    Some(GuardSettings {
        rules: rules?,
        shared_egress: shared_egress?,
        operators: operators?,
        deadlines: deadlines?,
    })
}

fn guard_rules(reader: &mut Reader) -> Option<GuardRules> {
    all_of!(GuardRules {
        ban_pause: reader.duration("guard.ban_pause", SECOND..=24 * HOUR),
        quarantine: reader.duration("guard.proxy_quarantine", SECOND..=24 * HOUR),
        balance_interval: reader.duration("guard.balance_interval", 5 * SECOND..=60 * MINUTE),
        low_balance: balance(reader, "guard.low_balance"),
        min_balance: balance(reader, "guard.min_balance"),
        wrong_ids_share: reader.number("guard.wrong_ids_share", 0.01..=1.0),
        wrong_ids_least: reader.whole("guard.wrong_ids_least", 1..=1_000),
        wrong_ids_per_minute: reader.whole("guard.wrong_ids_per_minute", 0..=100_000),
        budgets: budgets(reader),
        prices: prices(reader),
    })
}

fn deadlines(reader: &mut Reader) -> Option<Reach> {
    all_of!(Reach {
        quantile: reader.number("guard.deadline_quantile", 0.0..=1.0),
        least_answers: reader.whole("guard.deadline_answers", 1..=200),
    })
}

fn balance(reader: &mut Reader, key: &str) -> Option<Decimal> {
    // As it is written: the shortest text that is this number.
    money::decimal(&reader.number(key, 0.0..=f64::from(MOST_MONEY))?.to_string())
}

/// An amount as a text, since a number in TOML is a float.
fn amount(reader: &mut Reader, key: &str) -> Option<Decimal> {
    reader.text(key, "an amount such as \"0.0003\"", |text| {
        let problem = || format!("{} is no amount of money", quoted(text));
        money::amount(text).filter(|amount| *amount <= Decimal::from(MOST_MONEY)).ok_or_else(problem)
    })
}

/// `[prices]`
fn prices(reader: &mut Reader) -> Option<Prices> {
    let names = reader.names_in("prices", &[]);
    let read = names.into_iter().map(|name| (amount(reader, &format!("prices.{name}")), name));
    // Each is read before any is missed.
    let read: Vec<_> = read.collect();
    read.into_iter().map(|(price, name)| Some((name, price?))).collect::<Option<_>>().map(Prices)
}

/// The budgets under a name, each perhaps left out or empty.
fn limits(reader: &mut Reader, section: &str) -> Option<Limits> {
    let mut limit = |field: &str| {
        let key = format!("{section}.{field}");
        let is_empty = reader.is_empty_text(&key);
        let limit = reader.optional(&key, |reader, key| {
            if is_empty { reader.text(key, "", |_| Ok(None)) } else { amount(reader, key).map(Some) }
        });
        limit.map(Option::flatten)
    };
    let (per_hour, per_day) = (limit("per_hour"), limit("per_day"));
    Some(Limits { per_hour: per_hour?, per_day: per_day? })
}

/// `[budgets]` and `[budgets.lanes.*]`
fn budgets(reader: &mut Reader) -> Option<Budgets> {
    let account = limits(reader, "budgets");
    let names = reader.names_in("budgets.lanes", &BUDGETS);
    let mut lanes = BTreeMap::new();
    let mut all_good = true;
    for name in names {
        let section = format!("budgets.lanes.{name}");
        let of_lane = limits(reader, &section);
        if let Err(error) = name.parse::<Lane>() {
            reader.fault(&section, "default", error.to_string(), "");
            all_good = false;
        }
        match of_lane {
            Some(limits) => drop(lanes.insert(name, limits)),
            None => all_good = false,
        }
    }
    if lanes.len() > MAX_LANES + 1 {
        reader.fault(
            "budgets.lanes",
            "default",
            format!("names {} lanes", lanes.len()),
            "16 lanes and the default",
        );
        return None;
    }
    let account = account?;
    all_good.then_some(Budgets { account, lanes })
}

fn callback(reader: &mut Reader) -> Option<Option<CallbackSettings>> {
    let (url_key, listen_key) = ("callback.public_url", "callback.listen");
    let allowed = "an address such as \"https://callbacks.example.com\"";
    let public_url = reader.text(url_key, allowed, values::callback_url);
    let listen = reader.text(listen_key, "an IP address and a port", values::listen);
    match (public_url?, listen?) {
        (Some(public_url), Some(listen)) => Some(Some(CallbackSettings { public_url, listen })),
        (None, None) => Some(None),
        (public_url, _) => {
            let (missing, set) =
                if public_url.is_none() { (url_key, listen_key) } else { (listen_key, url_key) };
            let origin = reader.shown_origin(missing);
            reader.fault(missing, &origin, format!("is empty while {set} is set"), "both, or neither");
            None
        }
    }
}

fn ops(reader: &mut Reader) -> Option<OpsSettings> {
    let admin_token = files::admin_token(reader);
    let listen = reader.text("ops.listen", "an IP address and a port", values::listen)?;
    let is_default = reader.shown_origin("ops.listen") == "default";
    Some(OpsSettings { listen, is_default, admin_token: admin_token? })
}

fn log(reader: &mut Reader) -> Option<LogSettings> {
    let formats = [("auto", LogFormat::Auto), ("human", LogFormat::Human), ("json", LogFormat::Json)];
    all_of!(LogSettings {
        level: reader.text("log.level", LogFilter::ALLOWED, LogFilter::try_new),
        format: reader.choice("log.format", formats),
        target: reader.flag("log.target"),
    })
}

fn traces(reader: &mut Reader) -> Option<TraceSettings> {
    let allowed = "an address such as \"http://127.0.0.1:4318\"";
    let protocols = [("", None), ("http/protobuf", Some("http/protobuf")), ("grpc", Some("grpc"))];
    all_of!(TraceSettings {
        endpoint: reader.text("traces.otlp_endpoint", allowed, |text| {
            if text.is_empty() {
                Ok(None)
            } else if cfg!(feature = "otel") {
                values::http_url(text).map(Some)
            } else {
                Err("is set, but this program was built without traces: build it with \
                     `--features otel`, or leave this empty"
                    .to_owned())
            }
        }),
        protocol: reader.choice("traces.protocol", protocols),
        sample_ratio: reader.number("traces.sample_ratio", 0.0..=1.0),
    })
}

/// A type's settings, each perhaps left out.
#[derive(Debug, Clone, Copy, Default)]
struct PollSettings {
    first_delay: Option<Duration>,
    interval: Option<Duration>,
    timeout: Option<Duration>,
    max_polls: Option<u32>,
}

impl PollSettings {
    /// The same, with what it leaves out from another.
    fn or(self, other: Self) -> Self {
        Self {
            first_delay: self.first_delay.or(other.first_delay),
            interval: self.interval.or(other.interval),
            timeout: self.timeout.or(other.timeout),
            max_polls: self.max_polls.or(other.max_polls),
        }
    }
}

/// `[polling]` and `[polling.*]`
fn polling(reader: &mut Reader) -> Option<PollSchedules> {
    let mode = reader.choice("polling.mode", [("learned", PollMode::Learned), ("fixed", PollMode::Fixed)]);
    let mut types = reader.names_in("polling", &POLL_SETTINGS);
    types.retain(|name| name != "default");
    let default = poll_settings(reader, "default");
    let base = default.unwrap_or_default();
    let default = default.and_then(|settings| poll_schedule(reader, "default", settings));
    let mut all_good = true;
    let mut by_type = BTreeMap::new();
    let mut of_types: BTreeMap<String, PollSettings> = BTreeMap::new();
    // A type stands before its classes, which follow it in what they leave out.
    for name in types {
        let read = poll_settings(reader, &name).and_then(|settings| {
            let of_type = of_types.get(kind::bare(&name)).copied().unwrap_or_default();
            let settings = settings.or(of_type);
            of_types.insert(name.clone(), settings);
            poll_schedule(reader, &name, settings.or(base))
        });
        match read {
            Some(schedule) => drop(by_type.insert(name, schedule)),
            None => all_good = false,
        }
    }
    let (mode, default) = (mode?, default?);
    all_good.then_some(PollSchedules { mode, default, by_type })
}

fn poll_settings(reader: &mut Reader, name: &str) -> Option<PollSettings> {
    let mut read = |field: &str| {
        reader.optional(&format!("polling.{name}.{field}"), |reader, key| {
            reader.text(key, "a duration", parse_duration)
        })
    };
    let (first_delay, interval, timeout) = (read("first_delay"), read("interval"), read("timeout"));
    let max_polls = reader.optional(&format!("polling.{name}.max_polls"), |reader, key| {
        reader.whole(key, 2..=i64::from(MAX_POLLS))
    });
    Some(PollSettings {
        first_delay: first_delay?,
        interval: interval?,
        timeout: timeout?,
        max_polls: max_polls?,
    })
}

fn poll_schedule(reader: &mut Reader, name: &str, settings: PollSettings) -> Option<PollSchedule> {
    // Where one is missing, the default itself is at fault, which is reported as such.
    let fixed = PollSchedule::try_new(settings.first_delay?, settings.interval?, settings.timeout?);
    let error = match fixed.and_then(|fixed| match settings.max_polls {
        Some(max_polls) => fixed.with_max_polls(max_polls),
        None => Ok(fixed),
    }) {
        Ok(schedule) => return Some(schedule),
        Err(error) => error,
    };
    let field = match error {
        PollScheduleError::Interval => "interval",
        PollScheduleError::Timeout => "timeout",
        PollScheduleError::MaxPolls => "max_polls",
    };
    let key = format!("polling.{name}.{field}");
    let origin = reader.shown_origin(&key);
    reader.fault(&key, &origin, error.to_string(), "");
    None
}

/// `[codes]`
fn codes(reader: &mut Reader) -> Option<Overrides> {
    // Only this program can see that a message is no job, or that handling it panicked.
    let ours = |class: &Class| matches!(class, Class::Malformed | Class::Poison);
    let allowed: Vec<_> = Class::ALL.iter().filter(|class| !ours(class)).map(|class| class.name()).collect();
    let allowed = allowed.join(", ");
    let mut by_code = BTreeMap::new();
    let mut all_good = true;
    for code in reader.names_in("codes", &[]) {
        let class = reader.text(&format!("codes.{code}"), &allowed, |text| {
            let class = text.parse::<Class>().ok().filter(|class| !ours(class));
            class.ok_or_else(|| format!("{} is no class of an error code", quoted(text)))
        });
        match class {
            Some(class) => drop(by_code.insert(code, class)),
            None => all_good = false,
        }
    }
    all_good.then(|| Overrides::new(by_code))
}

/// `[caps]`
fn caps(reader: &mut Reader) -> Option<BTreeMap<String, usize>> {
    let mut caps = BTreeMap::new();
    let mut all_good = true;
    for name in reader.names_in("caps", &[]) {
        match reader.whole(&format!("caps.{name}"), 1..=60_000) {
            Some(cap) => drop(caps.insert(name, cap)),
            None => all_good = false,
        }
    }
    all_good.then_some(caps)
}

/// `[lanes.*]`
fn lanes(reader: &mut Reader) -> Option<BTreeMap<Lane, LaneRules>> {
    let mut lanes = BTreeMap::new();
    let mut all_good = true;
    for name in reader.names_in("lanes", &LANE) {
        let of = |field: &str| format!("lanes.{name}.{field}");
        // What is left out is the lane's own mistake only where it is the weight.
        let weight = reader.optional(&of("weight"), |reader, key| reader.whole(key, 1..=MAX_WEIGHT.into()));
        let max_in_flight =
            reader.optional(&of("max_in_flight"), |reader, key| reader.whole(key, 1..=60_000));
        let max_calls = reader.optional(&of("max_calls_per_second"), |reader, key| {
            reader.whole(key, 1..=100_000).and_then(NonZeroU32::new)
        });
        let key = format!("lanes.{name}");
        let origin = LANE.map(|field| reader.shown_origin(&of(field)));
        let origin = origin.iter().find(|origin| *origin != "default").cloned().unwrap_or_default();
        let mut fault = |problem: String, allowed: &str| {
            reader.fault(&key, &origin, problem, allowed);
            all_good = false;
        };
        let lane = match name.parse::<Lane>() {
            Ok(lane) => lane,
            Err(error) => {
                fault(format!("{} is no name of a lane", quoted(&name)), &error.to_string());
                continue;
            }
        };
        match (weight, max_in_flight, max_calls) {
            (Some(Some(weight)), Some(max_in_flight), Some(max_calls_per_second)) => {
                lanes.insert(lane, LaneRules { weight, max_in_flight, max_calls_per_second });
            }
            (Some(None), _, _) => fault("has no weight".to_owned(), "weight = 1 to 1000"),
            (_, _, _) => all_good = false,
        }
    }
    let named = lanes.keys().filter(|lane| !lane.is_default()).count();
    if named > MAX_LANES {
        reader.fault("lanes", "all layers together", format!("there are {named} lanes"), "up to 16 lanes");
        all_good = false;
    }
    all_good.then_some(lanes)
}

/// `[limits]`
fn publisher_limits(reader: &mut Reader) -> Option<LimitSettings> {
    let key = "limits.per_publisher_per_minute";
    all_of!(LimitSettings { per_publisher_per_minute: reader.whole(key, 0..=1_000_000).map(NonZeroU32::new) })
}

/// `[policy]`
fn policy(reader: &mut Reader) -> Option<Policy> {
    let (domains_key, types_key) = ("policy.allowed_domains", "policy.allowed_types");
    let domains = reader.list(domains_key);
    let types = reader.list(types_key);
    let types = types.and_then(|(types, origin)| {
        let no_type = |name: &&String| {
            let odd = |c: char| c.is_whitespace() || c.is_control() || ",;\"'[]".contains(c);
            name.is_empty() || name.contains(odd)
        };
        let Some(name) = types.iter().find(no_type) else { return Some(types) };
        let problem = format!("{} is not the name of a task type", quoted(name));
        reader.fault(types_key, &origin, problem, "an entry for each type");
        None
    });
    let (domains, origin) = domains?;
    let policy = Policy::try_new(&domains, types.as_deref().unwrap_or_default());
    let policy = policy
        .map_err(|errors| {
            for error in errors {
                reader.fault(domains_key, &origin, error.to_string(), "");
            }
        })
        .ok();
    types.and(policy)
}
