//! `status`: how the fleet and the account stand.

use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::console::Output;
use super::top::poller::depths;
use super::{CommandError, Exit, connect, signals};
use crate::broker::topology::Names;
use crate::clock::Rng;
use crate::config::Settings;
use crate::domain::guard::{self, Phase, State};
use crate::domain::sanitize::shown;
use crate::fleet::{Answer, Client, Heartbeat, Order, Survey, type_shown};
use crate::overview::Backlog;

/// Replicas answer within milliseconds; this long for those that do not.
pub(super) const PATIENCE: Duration = Duration::from_millis(2_500);
const WATCH_EVERY: Duration = Duration::from_secs(2);
/// Characters of an operator's reason that are shown; `pause` takes no longer ones.
const SHOWN_REASON: usize = 200;
/// Characters of a balance that are shown.
const FUNDS: usize = 24;
/// Characters of a name that are shown.
const NAME: usize = 60;
const CLEAR: &str = "\u{1b}[2J\u{1b}[H";

const STATUS_EXAMPLES: &str = "\
Asks the replicas over the broker, and the broker for the queues' lengths. Replicas are those that answer.

Examples:
  captcha-worker status
  captcha-worker status --watch
  captcha-worker status --json | jq '.guard.reasons'

Exit codes: 0 a leader answered; 1 none did.";

#[derive(Debug, Args)]
#[command(after_help = STATUS_EXAMPLES)]
pub(super) struct StatusArgs {
    /// Look again every 2 s, until Ctrl-C
    #[arg(long)]
    watch: bool,
}

pub(super) async fn status(
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
        let backlog = Backlog::of(&depths(client.session(), names).await?);
        has_leader = survey.leader.is_some();
        if output.is_json() {
            output.value(&status_json(&survey, &backlog))?;
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

fn status_json(survey: &Survey, backlog: &Backlog) -> Value {
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
fn guard_lines(state: Option<&State>) -> Vec<String> {
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
        let why = shown(paused.reason.as_deref().unwrap_or("no reason given"), SHOWN_REASON);
        lines.push(format!("         paused since {} by {}: {why}", paused.since, shown(&paused.by, NAME)));
    }
    if let Some(funds) = &state.funds {
        let rate = funds.per_hour.map(|rate| format!(", {rate:+.3} an hour")).unwrap_or_default();
        lines.push(format!("balance  {} at {}{rate}", shown(&funds.text, FUNDS), funds.at));
    }
    lines
}

/// A lead that is changing hands takes up to this long.
const FOLLOW_PATIENCE: Duration = Duration::from_secs(15);
/// Longest reason that is told to the fleet, in characters.
const MAX_REASON: usize = 200;

const PAUSE_EXAMPLES: &str = "\
All replicas stop taking jobs, which stay queued; polls of paid tasks go on. The pause is kept on the broker: it survives a
restart of every replica and of the broker, and ends by `resume` alone.

Examples:
  captcha-worker pause --reason 'moving the account'
  captcha-worker pause && captcha-worker status --watch

Exit codes: 0 every replica follows; 1 there is no leader, or not all followed within 15 s.";

const RESUME_EXAMPLES: &str = "\
Ends a pause. Where the account itself is the matter (a wrong key, no funds), it is looked at once by the leader, at most
every 20 s, instead of waiting for the next look; a ban is not looked at before its time.

Examples:
  captcha-worker resume

Exit codes: 0 every replica follows; 1 there is no leader, or not all followed within 15 s.";

#[derive(Debug, Args)]
#[command(after_help = PAUSE_EXAMPLES)]
pub(super) struct PauseArgs {
    /// Why, for whoever looks at `status` or `/readyz`
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = RESUME_EXAMPLES)]
pub(super) struct ResumeArgs {}

pub(super) async fn pause(
    args: PauseArgs,
    settings: &Settings,
    output: &mut Output,
) -> Result<Exit, CommandError> {
    let reason = args.reason.as_deref().map(str::trim).filter(|reason| !reason.is_empty());
    if reason
        .is_some_and(|reason| reason.chars().count() > MAX_REASON || reason.chars().any(char::is_control))
    {
        return Err(CommandError::Usage(format!(
            "--reason: at most {MAX_REASON} characters, and no control characters"
        )));
    }
    let order = Order::Pause { reason: reason.map(str::to_owned) };
    give(order, "paused", settings, output).await
}

pub(super) async fn resume(
    _: &ResumeArgs,
    settings: &Settings,
    output: &mut Output,
) -> Result<Exit, CommandError> {
    give(Order::Resume, "resumed", settings, output).await
}

async fn give(
    order: Order,
    done: &str,
    settings: &Settings,
    output: &mut Output,
) -> Result<Exit, CommandError> {
    let broker = connect::broker(settings, "captcha-worker operator")?;
    let names = Names::new(&settings.broker.namespace);
    let mut client = Client::connect(&broker, &names, Rng::Thread).await?;
    let began = Instant::now();
    let answer = client.order(order, FOLLOW_PATIENCE).await;
    client.close().await;
    let answer = answer?;
    if !answer.carried_out {
        return Err(CommandError::Failed(not_done(&answer)));
    }
    let (following, expected) = (answer.survey.following(), answer.survey.expected());
    let state = answer.survey.leader.as_ref().map(|leader| &leader.state);
    let seconds = began.elapsed().as_secs_f64();
    if output.is_json() {
        output.value(&json!({
            "done": done, "following": following, "replicas": expected, "seconds": seconds, "guard": guard::as_json(state)
        }))?;
    } else {
        output
            .line(format_args!("{done}: {following} of {expected} replicas follow, after {seconds:.2} s"))?;
        for line in guard_lines(state) {
            output.line(line)?;
        }
    }
    Ok(Exit::when(following >= expected))
}

fn not_done(answer: &Answer) -> String {
    match (answer.survey.leader.is_some(), answer.survey.replicas.len()) {
        (true, _) => "the leader answers, and has not done it: it obeys the user of the broker that the workers log in as, \
                      and those of their guard.operators; if this is one of them, say it again"
            .to_owned(),
        (false, 0) => {
            "no worker answers: nobody is there to write it down; start one, and say it again".to_owned()
        }
        (false, n) => {
            format!("{n} workers answer, and none of them leads; wait a few seconds, and say it again")
        }
    }
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
