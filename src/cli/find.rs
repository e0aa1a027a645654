//! `find`: where a job is.
//!
//! Replicas know what they hold and what they did last. Dead letters are scanned. Other queues are
//! not: to look into them means to take their messages, which changes their order and is counted
//! against each message.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use serde_json::{Value as Json, json};

use super::dead::{CommandContext, FoundLetter, ScanLimit, look_up};
use super::outcomes::DeadLetters;
use super::render::cut;
use super::{CommandError, Exit};
use crate::broker::topology::Names;
use crate::broker::{Broker, BrokerError};
use crate::clock::{Clock, Rng};
use crate::domain::class::Class;
use crate::domain::lane::Lane;
use crate::domain::retry_delay::RETRY_DELAYS;
use crate::domain::time::Timestamp;
use crate::fleet::{Client, Sighting};
use crate::overview::format;

/// For the replicas to say that they are there.
const THERE_WITHIN: Duration = Duration::from_millis(2_500);
/// For their answers.
const ANSWERED_WITHIN: Duration = Duration::from_secs(1);
/// Widest text of somebody else's, in characters.
const WIDTH: usize = 200;

const EXAMPLES: &str = "\
Every replica is asked, and answers within 1 s: what it holds, and what it did with the last 10,000 jobs since it runs. A job that no \
replica knows as in flight or solved is then looked for among the dead letters, as `dead show` does, with its costs. What waits in the \
job queue, the retry queues or captcha.results cannot be looked at without taking it: `find` says how many wait there.

Examples:
  captcha-worker find order-17
  captcha-worker find order-17 --json | jq .sightings

Exit codes: 0 found, 1 not found, or failed, 2 wrong usage.";

/// Find a job by its id: in flight, waiting, solved, or dead-lettered.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct FindArgs {
    /// The job's id
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    scan_limit: ScanLimit,
}

pub(super) async fn run(args: &FindArgs, context: &mut CommandContext<'_>) -> Result<Exit, CommandError> {
    let fleet = Findings::ask(context.broker, context.names, &args.id).await?;
    let latest = fleet.sightings.first().map(|(_, sighting)| sighting);
    let classes: Option<Vec<DeadLetters>> = match latest {
        Some(Sighting::InFlight { .. } | Sighting::Solved { .. }) => None,
        // A class of a later version has a queue that this one does not know.
        Some(Sighting::Failed { class, .. }) => {
            Some(class.parse::<Class>().ok().map(DeadLetters::Class).into_iter().collect())
        }
        Some(Sighting::Waits { .. }) | None => Some(Vec::new()),
    };
    let (letters, not_scanned) = match classes {
        Some(classes) => match look_up(&args.id, &classes, &args.scan_limit, context).await {
            Ok(found) => found,
            // What the fleet says is worth the same.
            Err(error) => {
                context.console.note(format_args!("cannot look into the dead letters: {error}"));
                (Vec::new(), 0)
            }
        },
        None => (Vec::new(), 0),
    };
    if context.console.is_human() {
        let now = Clock::System.now();
        for line in fleet.lines(now) {
            writeln!(context.console.out, "{line}")?;
        }
        for letter in &letters {
            writeln!(context.console.out, "{}", letter_line(&args.id, letter, now))?;
        }
        if not_scanned > 0 {
            writeln!(context.console.out, "{not_scanned} dead letters not scanned; see --scan")?;
        }
    } else {
        let mut report = fleet.json(&args.id);
        report["dead_letters"] = letters.iter().map(FoundLetter::json).collect();
        report["dead_letters_not_scanned"] = not_scanned.into();
        context.console.value(&report)?;
    }
    Ok(Exit::when(!fleet.sightings.is_empty() || !letters.is_empty()))
}

fn letter_line(id: &str, letter: &FoundLetter, now: Timestamp) -> String {
    let FoundLetter { queue, class, code, ended } = letter;
    let ended = ended.map_or_else(String::new, |at| format!(", since {} UTC", format::moment(at, now)));
    let code = cut(code, WIDTH);
    format!("dead letter in {queue}: {code}{ended}; see `{}`", format::dead_command(id, class))
}

/// What the fleet knows of a job.
pub(super) struct Findings {
    /// Replicas that have answered, and those that there are.
    answered: usize,
    replicas: usize,
    /// By replica, the latest first.
    sightings: Vec<(String, Sighting)>,
    /// Messages that wait where nobody looks, by queue.
    waiting: BTreeMap<String, u64>,
}

impl Findings {
    /// Asks the fleet.
    pub(super) async fn ask(broker: &Broker, names: &Names, id: &str) -> Result<Self, BrokerError> {
        let mut client = Client::connect(broker, names, Rng::Thread).await?;
        let asked = Self::ask_by(&mut client, names, id).await;
        client.close().await;
        asked
    }

    async fn ask_by(client: &mut Client, names: &Names, id: &str) -> Result<Self, BrokerError> {
        let replicas = client.survey(THERE_WITHIN).await?.expected();
        let found = client.find(id, replicas, ANSWERED_WITHIN).await?;
        let answered = found.len();
        let mut sightings: Vec<_> = found
            .into_iter()
            .flat_map(|(name, seen)| seen.into_iter().map(move |sighting| (name.clone(), sighting)))
            .collect();
        sightings.sort_by_key(|(_, sighting)| std::cmp::Reverse(rank(sighting)));
        let mut waiting = BTreeMap::new();
        let lanes = client.leader().map(|leader| leader.state.lanes.clone()).unwrap_or_default();
        let lanes = [Lane::default()].into_iter().chain(lanes).flat_map(|lane| {
            let retries = RETRY_DELAYS.map(|delay| names.retry_of(delay, &lane));
            [names.jobs_of(&lane)].into_iter().chain(retries)
        });
        for queue in lanes.chain([names.tickets(), names.results()]) {
            let ready = match client.session().link().depth(&queue).await {
                Ok(depth) => depth.ready,
                // The queue of a lane that the record still names.
                Err(BrokerError::Missing { .. }) => 0,
                Err(error) => return Err(error),
            };
            if ready > 0 {
                waiting.insert(queue, ready);
            }
        }
        Ok(Self { answered, replicas: replicas.max(answered), sightings, waiting })
    }

    /// For people.
    pub(super) fn lines(&self, now: Timestamp) -> Vec<String> {
        let at = |at: Timestamp| format!("{} UTC", format::moment(at, now));
        let line = |(replica, sighting): &(String, Sighting)| {
            let replica = cut(replica, WIDTH);
            match sighting {
                Sighting::InFlight { paid: true, since } => {
                    format!("in flight: {replica} holds its paid task since {}", at(*since))
                }
                Sighting::InFlight { paid: false, since } => {
                    format!("in flight: {replica} holds it unpaid since {}", at(*since))
                }
                Sighting::Waits { since, queue } => {
                    let queue = cut(queue, WIDTH);
                    format!(
                        "waits: {replica} put it into {queue} at {}, from where it comes back",
                        at(*since)
                    )
                }
                Sighting::Solved { at: solved } => {
                    format!("solved: {replica} published its outcome at {}", at(*solved))
                }
                Sighting::Failed { at: failed, class } => {
                    format!(
                        "failed ({}): {replica} published its outcome at {}",
                        cut(class, WIDTH),
                        at(*failed)
                    )
                }
            }
        };
        let mut lines: Vec<String> = self.sightings.iter().map(line).collect();
        if lines.is_empty() {
            lines.push(match self.replicas {
                0 => "no replica answers".to_owned(),
                replicas => {
                    format!("{} of {replicas} replicas answered, and know nothing of it", self.answered)
                }
            });
            let waiting = self.waiting.iter().map(|(queue, ready)| format!("{queue} {ready}"));
            let waiting = waiting.collect::<Vec<_>>().join(", ");
            if !waiting.is_empty() {
                lines.push(format!("it can be among the messages that wait: {waiting}"));
            }
        }
        lines
    }

    /// For programs.
    pub(super) fn json(&self, id: &str) -> Json {
        let sighting = |(replica, sighting): &(String, Sighting)| {
            let mut json = json!(sighting);
            json["replica"] = replica.as_str().into();
            json
        };
        json!({
            "id": id, "answered": self.answered, "replicas": self.replicas,
            "sightings": self.sightings.iter().map(sighting).collect::<Vec<_>>(), "waiting": self.waiting,
        })
    }
}

/// Where it is now comes before where it was.
fn rank(sighting: &Sighting) -> (bool, Timestamp) {
    match sighting {
        Sighting::InFlight { since, .. } => (true, *since),
        Sighting::Waits { since, .. } => (false, *since),
        Sighting::Solved { at } | Sighting::Failed { at, .. } => (false, *at),
    }
}
