//! `check`: what is in force, and whether it works.

use std::borrow::Cow;
use std::io;
use std::time::Duration;

use clap::Args;
use humantime::format_duration;
use secrecy::ExposeSecret;
use serde::Serialize;
use serde_json::json;
use tokio::time::{interval, timeout};

use super::console::{Output, filled};
use super::topology::REMEDY;
use super::{CommandError, Exit, connect};
use crate::broker::topology::{Mismatch, Names};
use crate::broker::{Broker, BrokerError, Session};
use crate::clock::Rng;
use crate::config::{BrokerUrl, Loaded, Settings};
use crate::domain::call::CallError;
use crate::domain::fault::{self, Stage};
use crate::domain::lane::Lane;
use crate::domain::message::Message;
use crate::domain::policy::Policy;
use crate::fleet::{CallbackAddress, Client};

const EXAMPLES: &str = "\
Connects to the broker, compares exchanges and queues, and asks the API for the balance, once. Nothing is changed, \
submitted or paid.

Examples:
  captcha-worker check
  captcha-worker check --offline         settings only, nothing is reached
  captcha-worker check --offline --all   all of them
  captcha-worker check --json | jq '.checks[] | select(.verdict == \"failed\")'

Exit codes: 0 fine, notes included; 1 a check failed; 2 the settings cannot be used.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct CheckArgs {
    /// Reach neither the broker nor the API
    #[arg(long)]
    offline: bool,
    /// Show the settings that have their defaults too
    #[arg(long)]
    all: bool,
}

pub(super) async fn run(
    args: &CheckArgs,
    loaded: &Loaded,
    output: &mut Output,
) -> Result<Exit, CommandError> {
    let ignored = loaded.ignored().iter().map(|variable| {
        let detail = format!("the environment variable {} is ignored", variable.name);
        CheckFinding::note("settings", detail, format!("probably meant: {}", variable.meant))
    });
    let mut findings: Vec<_> = ignored.chain(of_settings(&loaded.settings)).collect();
    if args.offline {
        // An address can be well formed and yet be one that no connection is made with.
        findings.extend(not_connected(&loaded.settings).err());
    } else {
        findings.extend(of_network(&loaded.settings).await);
    }
    let fine = findings.iter().all(|finding| finding.verdict != CheckResult::Failed);
    match show(loaded, args.all, &findings, fine, output) {
        // The verdict stands, even if nobody has read it.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(Exit::when(fine)),
    }
}

fn show(
    loaded: &Loaded,
    all: bool,
    findings: &[CheckFinding],
    fine: bool,
    output: &mut Output,
) -> io::Result<()> {
    if output.is_json() {
        return output.value(&json!({ "ok": fine, "settings": loaded.report(), "checks": findings }));
    }
    let (defaults, changed): (Vec<_>, Vec<_>) =
        loaded.report().iter().partition(|line| line.origin == "default");
    let count = defaults.len();
    let shown_lines = changed.into_iter().chain(defaults.into_iter().filter(|_| all));
    let rows: Vec<_> =
        shown_lines.map(|line| [line.key.clone(), shown(&line.value_shown), line.origin.clone()]).collect();
    if !rows.is_empty() {
        output.table(["setting", "value", "from"], rows)?;
    }
    if !all {
        output.line(format_args!("{count} settings have their defaults; --all shows them"))?;
    }
    output.line("")?;
    let width = output.width();
    for finding in findings {
        let detail = filled(&finding.detail, width, 17);
        output.line(format_args!("{:<8} {:<7} {detail}", finding.check, finding.verdict.name()))?;
        if !finding.advice.is_empty() {
            output.line(format_args!("{:16} → {}", "", filled(&finding.advice, width, 19)))?;
        }
    }
    Ok(())
}

/// A value that is there and empty must not look like one that is missing.
fn shown(value: &str) -> String {
    if value.is_empty() { "\"\"".to_owned() } else { value.to_owned() }
}

/// What a check found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum CheckResult {
    Fine,
    /// Worth knowing, and perhaps intended.
    Note,
    Failed,
}

impl CheckResult {
    pub(super) fn name(self) -> &'static str {
        match self {
            CheckResult::Fine => "fine",
            CheckResult::Note => "note",
            CheckResult::Failed => "FAILED",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct CheckFinding {
    pub(super) check: &'static str,
    pub(super) verdict: CheckResult,
    pub(super) detail: String,
    pub(super) advice: Cow<'static, str>,
}

impl CheckFinding {
    fn fine(check: &'static str, detail: impl Into<String>) -> Self {
        Self { check, verdict: CheckResult::Fine, detail: detail.into(), advice: Cow::Borrowed("") }
    }

    fn note(check: &'static str, detail: impl Into<String>, advice: impl Into<Cow<'static, str>>) -> Self {
        Self { verdict: CheckResult::Note, advice: advice.into(), ..Self::fine(check, detail) }
    }

    fn failed(check: &'static str, detail: impl Into<String>, advice: impl Into<Cow<'static, str>>) -> Self {
        Self { verdict: CheckResult::Failed, ..Self::note(check, detail, advice) }
    }
}

/// What the settings alone show.
fn of_settings(settings: &Settings) -> Vec<CheckFinding> {
    let all = [key(settings), drain(settings), policy(settings)].into_iter();
    all.chain(budgets(settings)).chain(callback(settings)).chain(traces(settings)).collect()
}

/// What broker and API answer. Both are asked at the same time.
async fn of_network(settings: &Settings) -> Vec<CheckFinding> {
    let (broker, api) = tokio::join!(broker(settings), api(settings));
    broker.into_iter().chain(api).collect()
}

fn key(settings: &Settings) -> CheckFinding {
    if settings.solver.api_key.is_some() {
        CheckFinding::fine("key", "solver.api_key is set")
    } else {
        CheckFinding::failed("key", "there is no key for the API", connect::NO_KEY)
    }
}

/// A submission under way when the drain begins must be able to end: its answer, and the confirm of
/// its ticket.
fn drain(settings: &Settings) -> CheckFinding {
    let needed = settings.solver.request_timeout + settings.broker.confirm_timeout;
    let drain = settings.worker.drain_timeout;
    let detail = format!(
        "worker.drain_timeout is {}; solver.request_timeout + broker.confirm_timeout is {}",
        format_duration(drain),
        format_duration(needed)
    );
    if drain > needed {
        CheckFinding::fine("drain", detail)
    } else {
        let advice = "raise worker.drain_timeout above that sum, or a submission under way at the end may be paid twice";
        CheckFinding::note("drain", detail, advice)
    }
}

fn policy(settings: &Settings) -> CheckFinding {
    if settings.policy == Policy::default() {
        let detail = "policy.allowed_domains is empty: every task that is bound to a site is refused";
        let advice = "list the sites that you are authorised to automate, if there are to be any";
        CheckFinding::note("policy", detail, advice)
    } else {
        CheckFinding::fine("policy", "sites or task types are listed")
    }
}

fn budgets(settings: &Settings) -> Option<CheckFinding> {
    let rules = &settings.guard.rules;
    if rules.budgets.is_empty() {
        return None;
    }
    // Of the types that have poll settings, which are those that the API documents.
    let unpriced = settings.polling.by_type.keys().filter(|kind| rules.prices.of(kind).is_none());
    let unpriced: Vec<&str> = unpriced.map(String::as_str).collect();
    let unknown = rules.budgets.lanes.keys().filter(|name| {
        name.parse::<Lane>().is_ok_and(|lane| !lane.is_default() && !settings.lanes.contains_key(&lane))
    });
    let unknown: Vec<&str> = unknown.map(String::as_str).collect();
    if !unknown.is_empty() {
        let detail = format!("budgets of lanes that the settings do not have: {}", unknown.join(", "));
        return Some(CheckFinding::note("budgets", detail, "compare [budgets.lanes] with [lanes]"));
    }
    Some(if unpriced.is_empty() {
        CheckFinding::fine("budgets", "every task type of [polling] has a price")
    } else {
        let detail = format!("no price, so a budget cannot hold for them: {}", unpriced.join(", "));
        CheckFinding::note("budgets", detail, "set [prices] for the types that you submit")
    })
}

fn callback(settings: &Settings) -> Option<CheckFinding> {
    let callback = settings.callback.as_ref()?;
    let name = connect::worker_name(settings);
    Some(match CallbackAddress::try_new(&callback.public_url, &name) {
        Ok(address) => {
            let detail = format!("the API is asked to call {address}; `run` listens on {}", callback.listen);
            CheckFinding::fine("callback", detail)
        }
        Err(problem) => {
            let advice = "set callback.public_url and worker.name so that they make an address";
            CheckFinding::failed("callback", format!("callback.public_url: {problem}"), advice)
        }
    })
}

/// As `run` has it, with OpenTelemetry's own variables. The collector is not asked.
fn traces(settings: &Settings) -> Option<CheckFinding> {
    let endpoint = settings.traces.endpoint.as_ref()?;
    let broker = not_connected(settings).ok()?;
    Some(match connect::tracer(settings, &connect::worker_name(settings), &broker) {
        Ok(_) => CheckFinding::fine("traces", format!("spans go to {endpoint}")),
        Err(error) => CheckFinding::failed("traces", error.to_string(), "correct what it names, or unset it"),
    })
}

async fn broker(settings: &Settings) -> Vec<CheckFinding> {
    match not_connected(settings) {
        Ok(broker) => broker_findings(&broker, settings).await,
        Err(finding) => vec![finding],
    }
}

fn not_connected(settings: &Settings) -> Result<Broker, CheckFinding> {
    connect::broker(settings, "captcha-worker check")
        .map_err(|error| CheckFinding::failed("broker", error.to_string(), "correct broker.url"))
}

/// Reaching it, and its topology.
async fn broker_findings(broker: &Broker, settings: &Settings) -> Vec<CheckFinding> {
    let names = Names::new(&settings.broker.namespace);
    let (url, namespace) = (&settings.broker.url, names.namespace());
    let connected = timeout(longest(settings), broker.connect()).await;
    let session = match connected.unwrap_or(Err(BrokerError::TimedOut { call: "connect" })) {
        Ok(session) => session,
        Err(error) => return vec![failed_broker("broker", &error)],
    };
    let reached = CheckFinding::fine(
        "broker",
        match url {
            BrokerUrl::Amqp(url) => format!("{url}: reached, logged in, virtual host '{}'", url.vhost()),
            BrokerUrl::Sqlite(_) => format!("{url}: can be read and written"),
        },
    );
    let compared = timeout(longest(settings), session.link().check(&connect::topology(settings))).await;
    let topology = match compared.unwrap_or(Err(BrokerError::TimedOut { call: "declare" })) {
        Ok(mismatches) if mismatches.is_empty() => CheckFinding::fine(
            "topology",
            format!("exchanges and queues of '{namespace}' are as they should be"),
        ),
        Ok(mismatches) if settings.broker.declare_topology && mismatches.iter().all(Mismatch::is_missing) => {
            let count = mismatches.len();
            let detail = format!("{count} exchanges and queues of '{namespace}' do not exist yet");
            let advice = "`run` declares them, since broker.declare_topology is true; or run `captcha-worker topology declare`";
            CheckFinding::note("topology", detail, advice)
        }
        Ok(mismatches) => {
            let lines: Vec<_> = mismatches.iter().map(ToString::to_string).collect();
            CheckFinding::failed("topology", lines.join("\n"), REMEDY)
        }
        Err(error) => failed_broker("topology", &error),
    };
    let alarm = alarm(&session, &names).await;
    session.link().close().await;
    // A broker that blocks publishing takes no question to the fleet.
    let removed = if alarm.is_none() { removed_lanes(broker, &names, settings).await } else { None };
    [reached, topology].into_iter().chain(removed).chain(alarm).collect()
}

/// A broker says that it is short of memory or disk only to a connection that publishes: this
/// message reaches no queue.
async fn alarm(session: &Session, names: &Names) -> Option<CheckFinding> {
    let message = Message { transient: true, ..Message::default() };
    let key = format!("{}.check", names.namespace());
    let mut looks = interval(Duration::from_millis(50));
    let publishing = session.publisher().publish("", &key, false, message);
    let ended = async {
        // Refused, perhaps: a user who may not publish does not learn of it.
        let _ = publishing.await;
    };
    tokio::pin!(ended);
    loop {
        tokio::select! {
            () = &mut ended => break,
            _ = looks.tick() => if session.link().is_blocked() { break },
        }
    }
    session.link().is_blocked().then(|| {
        let detail = "the broker blocks publishing: it has a memory or disk alarm";
        let advice = "free memory or disk on the broker; `rabbitmq-diagnostics alarms` names the node";
        CheckFinding::failed("alarm", detail, advice)
    })
}

/// Lanes that the fleet still serves although these settings do not name them. Only a fleet that
/// runs says which it remembers.
async fn removed_lanes(broker: &Broker, names: &Names, settings: &Settings) -> Option<CheckFinding> {
    let survey = async {
        let mut client = Client::connect(broker, names, Rng::Thread).await.ok()?;
        let survey = client.survey(FLEET_ANSWERS).await;
        client.close().await;
        survey.ok()?.leader
    };
    let leader = timeout(longest(settings), survey).await.ok()??;
    let removed = leader.state.lanes.iter().filter(|lane| !settings.lanes.contains_key(lane));
    let removed: Vec<_> = removed.map(Lane::name).collect();
    (!removed.is_empty()).then(|| {
        let detail = format!("served at weight 1, and not in these settings: {}", removed.join(", "));
        let advice =
            "add them to [lanes], or delete their queues once they are empty: see docs/OPERATIONS.md";
        CheckFinding::note("lanes", detail, advice)
    })
}

/// How long a fleet is given to say who leads it.
const FLEET_ANSWERS: Duration = Duration::from_secs(1);

/// Time-outs of single calls are the broker's own; this is for all of them together.
fn longest(settings: &Settings) -> Duration {
    2 * (settings.broker.connect_timeout + settings.broker.call_timeout)
}

fn failed_broker(check: &'static str, error: &BrokerError) -> CheckFinding {
    CheckFinding::failed(check, error.to_string(), connect::advice(error))
}

/// One getBalance. Without a key there is none: repeated calls with a wrong key earn a ban.
async fn api(settings: &Settings) -> Option<CheckFinding> {
    settings.solver.api_key.as_ref().filter(|key| !key.expose_secret().is_empty())?;
    let solver = match connect::solver(settings) {
        Ok(solver) => solver,
        Err(error) => return Some(CheckFinding::failed("api", error.to_string(), "correct [solver]")),
    };
    let base_url = &settings.solver.base_url;
    let longest = settings.solver.connect_timeout + settings.solver.request_timeout;
    Some(match timeout(longest, solver.balance()).await {
        Ok(Ok(balance)) => CheckFinding::fine(
            "api",
            format!("{base_url}: reached, the key is accepted, balance {}", balance.text),
        ),
        Ok(Err(error)) => failed_api(&error, settings),
        Err(_) => CheckFinding::failed("api", format!("{base_url}: no answer in time"), UNREACHED),
    })
}

const UNREACHED: &str = "see that solver.base_url is right and that this machine may reach it, or raise the time-outs of \
    [solver]";

fn failed_api(error: &CallError, settings: &Settings) -> CheckFinding {
    let base_url = &settings.solver.base_url;
    let fault = fault::classify(error, Stage::Submit, false, &settings.codes);
    let detail = format!("{base_url}: {} ({}: {})", fault.class, fault.code, fault.description);
    match (error, fault.reason()) {
        (CallError::Refused(_), Some(reason)) => CheckFinding::failed("api", detail, reason.advice()),
        (CallError::Refused(_), None) => {
            CheckFinding::failed("api", detail, "the API was reached and refused the call; try again later")
        }
        _ => CheckFinding::failed("api", detail, UNREACHED),
    }
}
