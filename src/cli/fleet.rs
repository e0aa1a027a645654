//! `pause`, `resume`: an operator's hand on the whole fleet.

use std::time::Duration;

use clap::Args;
use serde_json::json;
use tokio::time::Instant;

use super::output::Output;
use super::{CommandError, Exit, connect, status};
use crate::broker::topology::Names;
use crate::clock::Rng;
use crate::config::Settings;
use crate::domain::guard;
use crate::fleet::{Answer, Client, Order};

/// A lead that is changing hands takes up to this long.
const PATIENCE: Duration = Duration::from_secs(15);
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
    let answer = client.order(order, PATIENCE).await;
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
        for line in status::guard_lines(state) {
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
