//! `status`: how the fleet and the account stand.

use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::output::Output;
use super::{CommandError, Exit, backlog, connect, signals};
use crate::broker::topology::Names;
use crate::clock::Rng;
use crate::config::Settings;
use crate::domain::guard::{self, Phase, State};
use crate::domain::sanitize::shown;
use crate::fleet::{Client, Heartbeat, Survey, type_shown};
use crate::overview::Backlog;

/// Replicas answer within milliseconds; this long for those that do not.
pub(super) const PATIENCE: Duration = Duration::from_millis(2_500);
const WATCH_EVERY: Duration = Duration::from_secs(2);
/// Characters of an operator's reason that are shown; `pause` takes no longer ones.
const REASON: usize = 200;
/// Characters of a balance that are shown.
const FUNDS: usize = 24;
/// Characters of a name that are shown.
const NAME: usize = 60;
const CLEAR: &str = "\u{1b}[2J\u{1b}[H";

const EXAMPLES: &str = "\
Asks the replicas over the broker, and the broker for the queues' lengths. Replicas are those that answer.

Examples:
  captcha-worker status
  captcha-worker status --watch
  captcha-worker status --json | jq '.guard.reasons'

Exit codes: 0 a leader answered; 1 none did.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct StatusArgs {
    /// Look again every 2 s, until Ctrl-C
    #[arg(long)]
    watch: bool,
}

pub(super) async fn run(
    args: &StatusArgs,
    settings: &Settings,
    output: &mut Output,
) -> Result<Exit, CommandError> {
    let broker = connect::broker(settings, "captcha-worker status")?;
    let names = Names::new(&settings.broker.namespace);
    let mut client = Client::connect(&broker, &names, Rng::Thread).await?;
    let stop = if args.watch { signals::stop()? } else { CancellationToken::new() };
    let looked = look_on(args.watch, &stop, &mut client, &names, output).await;
    client.close().await;
    Ok(Exit::when(looked?))
}

/// Looks once, or until told to stop. Whether a leader answered at the last look.
async fn look_on(
    watch: bool,
    stop: &CancellationToken,
    client: &mut Client,
    names: &Names,
    output: &mut Output,
) -> Result<bool, CommandError> {
    let mut looks = interval(WATCH_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut has_leader = false;
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(has_leader),
            _ = looks.tick() => {}
        }
        let survey = client.survey(PATIENCE).await?;
        let backlog = Backlog::of(&backlog::depths(client.session(), names).await?);
        has_leader = survey.leader.is_some();
        if output.is_json() {
            output.value(&as_json(&survey, &backlog))?;
        } else {
            if watch {
                output.bytes(CLEAR.as_bytes())?;
            }
            show(&survey, &backlog, output)?;
        }
        if !watch {
            return Ok(has_leader);
        }
    }
}

fn as_json(survey: &Survey, backlog: &Backlog) -> Value {
    let leader = survey.leader.as_ref();
    let replicas: Vec<Value> = survey.replicas.iter().map(replica_json).collect();
    json!({
        "guard": guard::as_json(leader.map(|leader| &leader.state)),
        "leader": leader.map(|leader| &leader.name),
        "replicas": replicas,
        "expected_replicas": survey.expected(),
        "following": survey.following(),
        "shut_types": leader.map(|leader| leader.shut.clone()).unwrap_or_default(),
        "backlog": {
            "jobs": backlog.jobs, "tickets": backlog.tickets, "retry": backlog.retry,
            "results": backlog.results, "dead": backlog.dead_letters(), "unrouted": backlog.unrouted,
        },
    })
}

fn replica_json(replica: &Heartbeat) -> Value {
    let vitals = &replica.vitals;
    json!({
        "name": replica.name, "id": replica.id, "epoch": replica.epoch, "started_at": replica.started_at,
        "ready": vitals.ready, "held": replica.held, "key": replica.key,
        "in_flight": vitals.in_flight, "window": vitals.window, "types": vitals.types,
        "calls": vitals.calls, "accepted": vitals.accepted, "solved": vitals.solved, "failed": vitals.failed,
    })
}

fn show(survey: &Survey, backlog: &Backlog, output: &mut Output) -> Result<(), CommandError> {
    let leader = survey.leader.as_ref();
    for line in guard_lines(leader.map(|leader| &leader.state)) {
        output.line(line)?;
    }
    let Backlog { jobs, tickets, retry, results, unrouted, .. } = backlog;
    let dead = backlog.dead_letters();
    output.line(format_args!(
        "leader   {}",
        leader.map_or("none".to_owned(), |leader| shown(&leader.name, NAME))
    ))?;
    output.line(format_args!(
        "backlog  jobs {jobs} · tickets {tickets} · retry {retry} · results {results} · dead {dead} (ready in the queues)"
    ))?;
    if *unrouted > 0 {
        output.line(format_args!(
            "         {unrouted} outcomes that no queue is bound for: `captcha-worker topology declare`, then `reroute`"
        ))?;
    }
    if let Some(leader) = leader.filter(|leader| !leader.shut.is_empty()) {
        let shut: Vec<String> = leader.shut.iter().map(|name| type_shown(name)).collect();
        output.line(format_args!("no slots {}", shut.join(", ")))?;
    }
    output.line("")?;
    let head =
        ["replica", "ready", "in flight", "window", "calls", "paid", "solved", "failed", "held", "types"];
    output.table(head, survey.replicas.iter().map(row))?;
    Ok(())
}

fn row(replica: &Heartbeat) -> [String; 10] {
    let vitals = &replica.vitals;
    let types: Vec<String> =
        vitals.types.iter().map(|(name, size)| format!("{} {size}", type_shown(name))).collect();
    [
        shown(&replica.name, NAME),
        if vitals.ready { "yes" } else { "no" }.to_owned(),
        vitals.in_flight.to_string(),
        vitals.window.to_string(),
        vitals.calls.to_string(),
        vitals.accepted.to_string(),
        vitals.solved.to_string(),
        vitals.failed.to_string(),
        replica.held.map(|reason| reason.to_string()).unwrap_or_default(),
        types.join(", "),
    ]
}

/// The account's state in words.
pub(super) fn guard_lines(state: Option<&State>) -> Vec<String> {
    let Some(state) = state else {
        return vec!["guard    unknown: no leader answers".to_owned()];
    };
    let mut lines = vec![format!("guard    {} since {}", state.phase.name(), state.since)];
    if let Some(trip) = state.tripped() {
        let next = match state.phase {
            Phase::Tripped => format!(", looked at again at {}", trip.next_probe_at),
            Phase::Probing | Phase::Canary | Phase::Active => String::new(),
        };
        lines.push(format!("         {} since {}{next}", trip.reason, trip.since));
        lines.push(format!("         {}", trip.reason.advice()));
    }
    if let Some(paused) = &state.paused {
        let why = shown(paused.reason.as_deref().unwrap_or("no reason given"), REASON);
        lines.push(format!("         paused since {} by {}: {why}", paused.since, shown(&paused.by, NAME)));
    }
    if let Some(funds) = &state.funds {
        let rate = funds.per_hour.map(|rate| format!(", {rate:+.3} an hour")).unwrap_or_default();
        lines.push(format!("balance  {} at {}{rate}", shown(&funds.text, FUNDS), funds.at));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::guard::Paused;
    use crate::domain::time::Timestamp;

    #[test]
    fn what_others_wrote_does_not_steer_the_terminal() {
        let now = Timestamp::from_millis(0);
        let mut state = State::unknown(0, now);
        let reason = Some("\u{1b}[2Jmoving\u{9b}31m".to_owned());
        state.paused = Some(Paused { reason, by: "o\u{1b}]0;x\u{7}ps".to_owned(), since: now });
        let told = guard_lines(Some(&state)).join("");
        assert!(!told.contains(char::is_control) && told.contains("by o·]0;x·ps: ·[2Jmoving·31m"), "{told}");
    }
}
