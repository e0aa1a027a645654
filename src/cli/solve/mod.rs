//! `solve`: one captcha, and its answer.
//!
//! Without a broker of the operator's own the job is worked on here (`alone`): the real worker, on
//! the broker in process. With one, the fleet works on it (`fleet`), and a copy of the outcome
//! arrives by direct reply-to. Both publish the same job and wait for the same reply.

mod alone;
mod answer;
mod fleet;
mod task;

use std::io::{IsTerminal, Write, stdin};
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::console::Console;
use super::input::{MAX_BODY, now, too_large};
use super::{CommandError, Exit, connect, publish, signals};
use crate::broker::topology::Names;
use crate::broker::{PublishError, Replies, Session};
use crate::config::{Loaded, Settings};
use crate::domain::class::Class;
use crate::domain::job::Job;
use crate::domain::message::{Message, Properties};
use crate::domain::time::Timestamp;
use task::TaskArgs;

const HELP: &str = "\
Prints the text of the solution, or its token; where it has no single one, the whole solution as JSON. --json prints the \
whole outcome. Nothing else goes to standard output.

Where broker.url is not set, this command works alone: it needs only solver.api_key. Else it publishes the job to the \
fleet, and waits for the reply. [policy] must allow the site of a task, here or in the fleet.

Examples:
  captcha-worker solve captcha.png
  captcha-worker solve captcha.png --param case=true --timeout 60s
  captcha-worker solve --type TurnstileTask \\
    --param websiteURL=https://example.com --param websiteKey=0x4AAAA
  captcha-worker solve --task task.json --json
  curl -s https://example.com/captcha.png | captcha-worker solve -

Exit codes:
  0    solved
  1    failed before it was a job
  2    the command line, the input or the settings cannot be used
  3    capacity: no free slot at the API
  4    transient: the API fails or does not answer
  5    lost: the API forgot the task
  6    unsolved: not recognised
  7    invalid: the task is wrong
  8    forbidden: the API or the policy refuses the site
  9    expired: a token of the task is too old
  10   proxy: the proxy of the task fails
  11   account: key, balance or address refused
  12   malformed: not a job
  13   poison: a bug of the worker
  14   unknown: a code that this version does not know
  124  no answer within --timeout, though the API answers; or of a fleet
  130  ended by Ctrl-C or SIGTERM

Except for 0, standard error says why, and which tasks may be paid. After 11, do not call again before the account is \
well: repeated calls with a refused account earn a ban.";

/// The longest time to wait.
const MAX_TIMEOUT: Duration = Duration::from_secs(86_400);

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(super) struct SolveArgs {
    #[command(flatten)]
    task: TaskArgs,
    /// How long to wait for the answer, as in 90s or 5m. It is the job's deadline too: after it
    /// nothing more is paid
    #[arg(long, value_name = "DURATION", default_value = "3m", value_parser = timeout)]
    timeout: Duration,
}

fn timeout(text: &str) -> Result<Duration, String> {
    let timeout = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if (Duration::from_secs(1)..=MAX_TIMEOUT).contains(&timeout) {
        Ok(timeout)
    } else {
        Err("allowed: 1s to 1day".to_owned())
    }
}

/// Solves one captcha.
pub(super) async fn run<O: Write, E: Write>(
    args: &SolveArgs,
    loaded: &Loaded,
    console: &mut Console<O, E>,
) -> Result<Exit, CommandError> {
    let settings = &loaded.settings;
    // The default is nobody's choice of a broker.
    let own_broker = loaded.origin("broker.url") != Some("default");
    let solver = if own_broker { None } else { Some(connect::solver(settings)?) };
    if args.task.reads_stdin() && stdin().is_terminal() {
        console.note("reading from the terminal; Ctrl-D ends");
    }
    // Before signals are caught: a read of standard input cannot be called off, and Ctrl-C ends it.
    let task = args.task.read()?;
    let wanted = Wanted::try_new(&task, args.timeout, settings)?;
    let stop = signals::stop_or(Exit::Interrupted, || ())?;
    let end = match solver {
        Some(solver) => Box::pin(alone::solve(&wanted, settings, solver, &stop)).await?,
        None => Box::pin(fleet::solve(&wanted, settings, &stop)).await?,
    };
    answer::report(&end, console)
}

/// The job, and until when its answer is wanted.
struct Wanted {
    id: String,
    body: Vec<u8>,
    timeout: Duration,
    deadline: Timestamp,
    until: Instant,
}

#[derive(Serialize)]
struct JobBody<'a> {
    id: &'a str,
    task: &'a RawValue,
    deadline: Timestamp,
}

impl Wanted {
    /// Checks the job as a worker does: what no worker takes need not be published.
    fn try_new(task: &RawValue, timeout: Duration, settings: &Settings) -> Result<Self, CommandError> {
        // Readers of outcomes drop repeated ids, and the same image can be solved twice.
        let id = format!("solve-{}", uuid::Uuid::new_v4().simple());
        let deadline = now().plus(timeout);
        let body = serde_json::to_vec(&JobBody { id: &id, task, deadline }).map_err(CommandError::failed)?;
        if body.len() > MAX_BODY {
            return Err(CommandError::Usage(format!("the task {}", too_large())));
        }
        let mut message = Message { body: body.clone().into(), ..Message::default() };
        if let Err(rejected) = Job::read(&mut message, &settings.policy, || id.clone())
            // The worker's policy decides: in a fleet it is not this one's.
            && rejected.fault.class != Class::Forbidden
        {
            let fault = rejected.fault;
            return Err(CommandError::Usage(format!("{}: {}", fault.code, fault.description)));
        }
        Ok(Self { id, body, timeout, deadline, until: Instant::now() + timeout })
    }
}

/// Publishes the job on a session, and asks for a copy of its outcome.
async fn ask(session: &Session, names: &Names, wanted: &Wanted) -> Result<Replies, CommandError> {
    let replies = session.link().open_replies().await?;
    let message = publish::message(wanted.body.clone(), Some(wanted.id.clone()));
    let properties = Properties { reply_to: Some(replies.reply_to().to_owned()), ..message.properties };
    let message = Message { properties, ..message };
    let published = replies.publisher().publish(&names.jobs(), &names.jobs(), true, message).await;
    let Wanted { id, deadline, .. } = wanted;
    match published {
        Ok(()) => Ok(replies),
        Err(PublishError::Unroutable(_)) => Err(CommandError::Failed(
            "no queue takes the job: run `captcha-worker topology declare` first".to_owned(),
        )),
        Err(error @ PublishError::Unknown(_)) => Err(CommandError::Failed(format!(
            "job {id}: {error}; if it has, the fleet may pay for it until {deadline}"
        ))),
        Err(error @ (PublishError::NotSent(_) | PublishError::Rejected)) => {
            Err(CommandError::Failed(format!("job {id} is not published: {error}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_class_has_an_exit_code_of_its_own_that_the_help_and_the_page_name() {
        let page = include_str!("../../../docs/COMMANDS.md");
        let mut codes = BTreeSet::from([0, 1, 2, Exit::Unanswered.code(), Exit::Interrupted.code()]);
        for class in Class::finals() {
            let code = Exit::Job(class).code();
            assert!(codes.insert(code), "{code} stands for two things");
            assert!(HELP.contains(&format!("\n  {code:<4} {class}: ")), "{class} in the help");
            assert!(page.contains(&format!("\n| {code} | `{class}`: ")), "{class} in docs/COMMANDS.md");
        }
        for code in codes {
            assert!(HELP.contains(&format!("\n  {code:<4} ")), "{code} in the help");
            assert!(page.contains(&format!("\n| {code} | ")), "{code} in docs/COMMANDS.md");
        }
    }
}
