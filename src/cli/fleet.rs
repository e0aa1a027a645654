//! `status`, `pause`, `resume`: how the fleet and the account stand, and an operator's hand on
//! both.

use std::io::Write;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::console::{Console, Output};
use super::top::{self, poller::Poller};
use super::{CommandError, Exit, connect, signals};
use crate::broker::Broker;
use crate::broker::topology::Names;
use crate::clock::{Clock, Rng};
use crate::config::Settings;
use crate::fleet::{Answer, Client, Heartbeat, Order, Survey};
use crate::overview::{Guard, Overview};
use crate::telemetry::{Logging, is_dumb_terminal};

const WATCH_EVERY: Duration = Duration::from_secs(2);

const STATUS_EXAMPLES: &str = "\
Asks the replicas over the broker, and the broker for the queues' lengths. It shows the replicas that answer. \
With --watch it shows what `top` shows, without the ops servers; with --watch --json it prints a line every 2 s.

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
    logging: &Logging,
    output: &mut Output,
) -> Result<Exit, CommandError> {
    let broker = connect::broker(settings, "captcha-worker status")?;
    let mut poller = Poller::new(broker, Names::new(&settings.broker.namespace), Vec::new())?;
    if args.watch && !output.is_json() && output.is_terminal() && !is_dumb_terminal() {
        return Ok(Exit::when(top::watch(poller, WATCH_EVERY, logging).await?));
    }
    let stop = if args.watch { signals::stop()? } else { CancellationToken::new() };
    let mut ticks = interval(WATCH_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut has_leader = false;
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = ticks.tick() => {}
        }
        let result = poller.poll(true, |_| ()).await;
        let Some(fleet) = &result.fleet else { break };
        has_leader = result.has_leader();
        if output.is_json() {
            output.value(&status_json(fleet, poller.survey()))?;
        } else {
            top::print(result, output)?;
        }
        if !args.watch {
            break;
        }
    }
    poller.close().await.map_or(Ok(Exit::when(has_leader)), |error| Err(error.into()))
}

fn status_json(fleet: &Overview, survey: &Survey) -> Value {
    let leader = survey.leader.as_ref();
    let replicas: Vec<Value> = survey.replicas.iter().map(replica_json).collect();
    let backlog = fleet.backlog.as_ref().map(|backlog| {
        json!({
            "jobs": backlog.jobs, "tickets": backlog.tickets, "retry": backlog.retry,
            "results": backlog.results, "dead": backlog.dead_letters(), "unrouted": backlog.unrouted,
        })
    });
    json!({
        "guard": fleet.guard,
        "leader": leader.map(|leader| &leader.name),
        "replicas": replicas,
        "expected_replicas": survey.expected(),
        "following": survey.following(),
        "shut_types": leader.map(|leader| leader.shut.clone()).unwrap_or_default(),
        "backlog": backlog,
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

/// A lead that is changing hands takes up to this long.
const TIMEOUT: Duration = Duration::from_secs(15);
/// After a resume: the leader probes at most every 20 s, and a call may take its time-out.
const PROBED: Duration = Duration::from_secs(60);
/// Longest reason that is sent to the fleet, in characters.
const MAX_REASON: usize = 200;

const PAUSE_EXAMPLES: &str = "\
All replicas stop taking jobs, which stay queued; polls of paid tasks go on. The pause is kept on the broker: it survives a \
restart of every replica and of the broker, and ends by `resume` alone.

Examples:
  captcha-worker pause --reason 'moving the account'
  captcha-worker pause && captcha-worker status --watch

Exit codes: 0 every replica follows; 1 there is no leader, or not all followed within 15 s.";

const RESUME_EXAMPLES: &str = "\
Ends a pause. If the account is the reason (a wrong key, no funds), the leader probes it at once, at most every 20 s, \
instead of at the next scheduled time. It never probes during a ban. The command waits for the answer. If the account \
cannot be used, it says why, and when the next probe is.

Examples:
  captcha-worker resume

Exit codes: 0 work goes on, and every replica follows; 1 the account cannot be used yet, there is no leader, or not all \
followed within 15 s.";

#[derive(Debug, Args)]
#[command(after_help = PAUSE_EXAMPLES)]
pub(super) struct PauseArgs {
    /// The reason, shown by `status` and `/readyz`
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

pub(super) async fn give(
    order: Order,
    done: &str,
    settings: &Settings,
    output: &mut Output,
) -> Result<Exit, CommandError> {
    let broker = connect::broker(settings, "captcha-worker operator")?;
    let names = Names::new(&settings.broker.namespace);
    carry_out(order, done, &broker, &names, &mut output.console()).await
}

/// Gives an order to the fleet, and prints what has come of it.
pub(super) async fn carry_out<O: Write, E: Write>(
    order: Order,
    done: &str,
    broker: &Broker,
    names: &Names,
    console: &mut Console<O, E>,
) -> Result<Exit, CommandError> {
    let mut client = Client::connect(broker, names, Rng::Thread).await?;
    let began = Instant::now();
    let resumes = matches!(order, Order::Resume);
    let leader = if resumes { client.survey(TIMEOUT / 5).await?.leader } else { None };
    let answer = client.order(order, TIMEOUT).await;
    let works = match &answer {
        Ok(answer) if answer.carried_out && resumes => {
            client.works_again(leader.and_then(|leader| leader.state.probed_at), PROBED).await
        }
        _ => Ok(true),
    };
    let survey = client.collected();
    client.close().await;
    let (answer, works) = (answer?, works?);
    if !answer.carried_out {
        return Err(CommandError::Failed(not_done(&answer)));
    }
    let done = if works { done } else { "not resumed, the account cannot be used yet" };
    let (following, expected) = (answer.survey.following(), answer.survey.expected());
    let leader = survey.leader.as_ref();
    let guard = Guard::of(leader.map(|leader| &leader.state), Clock::System.now());
    let seconds = began.elapsed().as_secs_f64();
    if console.is_human() {
        let out = &mut console.out;
        writeln!(out, "{done}: {following} of {expected} replicas follow, after {seconds:.2} s")?;
        for line in top::guard_lines(&guard) {
            writeln!(out, "{line}")?;
        }
    } else {
        console.value(&json!({
            "done": done, "following": following, "replicas": expected, "seconds": seconds, "guard": guard
        }))?;
    }
    Ok(Exit::when(works && following >= expected))
}

fn not_done(answer: &Answer) -> String {
    match (answer.survey.leader.is_some(), answer.survey.replicas.len()) {
        (true, _) => {
            "the leader did not apply the command: it obeys the broker user of the workers and the users in \
                      guard.operators; if this is one of them, run the command again"
                .to_owned()
        }
        (false, 0) => {
            "no worker answers, so the command cannot be stored: start one and run the command again"
                .to_owned()
        }
        (false, n) => {
            format!(
                "{n} workers answer, and none of them leads: wait a few seconds and run the command again"
            )
        }
    }
}
