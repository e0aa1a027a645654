//! `spend` and `budget raise`: what the fleet has spent by the leader's books, and an operator's
//! hand on the budgets.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::console::Output;
use super::{CommandError, Exit, connect, fleet};
use crate::broker::topology::Names;
use crate::clock::{Clock, Rng};
use crate::config::Settings;
use crate::domain::lane::Lane;
use crate::domain::money::{self, Decimal, LONGEST_RAISE, Limits, Money, Ordered, Spent, Window};
use crate::domain::time::Timestamp;
use crate::fleet::{Client, LeaderAnnouncement, Order};

const TIMEOUT: Duration = Duration::from_secs(5);
const DAY: Duration = Duration::from_secs(86_400);

const SPEND_EXAMPLES: &str = "\
The leader's books hold the present hour and the 24 before it, in UTC. A task counts from its acceptance, by the price of its \
type in [prices], and by what the API says it cost from its end on.

Examples:
  captcha-worker spend
  captcha-worker spend --since 6h --by lane
  captcha-worker spend --by hour --csv > hours.csv
  captcha-worker spend --json | jq -r .total

Exit codes: 0 a leader answered; 1 none did.";

const RAISE_EXAMPLES: &str = "\
Adds an amount to the budgets of each hour and day for a while. The leader writes it down with your user of the broker and the \
time; it survives every restart. RabbitMQ users in guard.operators may do it.

Examples:
  captcha-worker budget raise --by 10 --for 1h
  captcha-worker budget raise --lane bulk --by 2.50 --for 30min

Exit codes: 0 every replica follows; 1 there is no leader, or not all followed within 15 s.";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum By {
    /// By task type, or type and class
    Type,
    /// By lane
    Lane,
    /// By hour
    Hour,
}

#[derive(Debug, Args)]
#[command(after_help = SPEND_EXAMPLES)]
pub(super) struct SpendArgs {
    /// How far to look back, up to 24h; the first hour counts whole
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = humantime::parse_duration)]
    since: Duration,
    /// What to group by
    #[arg(long, value_enum, value_name = "WHAT", default_value = "type")]
    by: By,
    /// Print the rows as CSV; excludes --format and --json
    #[arg(long)]
    csv: bool,
}

#[derive(Debug, Args)]
pub(super) struct BudgetArgs {
    #[command(subcommand)]
    command: BudgetCommand,
}

#[derive(Debug, Subcommand)]
enum BudgetCommand {
    /// Allow more for a while
    Raise(RaiseArgs),
}

#[derive(Debug, Args)]
#[command(after_help = RAISE_EXAMPLES)]
struct RaiseArgs {
    /// The lane whose budget to raise; without it, the account's budget
    #[arg(long, value_name = "LANE", value_parser = str::parse::<Lane>)]
    lane: Option<Lane>,
    /// How much more, in the account's currency
    #[arg(long, value_name = "AMOUNT", value_parser = amount)]
    by: Decimal,
    /// For how long, at most 31 days
    #[arg(long = "for", value_name = "TIME", value_parser = span)]
    time: Duration,
}

fn amount(text: &str) -> Result<Decimal, String> {
    let amount = money::amount(text).filter(|amount| !amount.is_zero());
    amount.ok_or_else(|| "not an amount above 0, such as 2.50".to_owned())
}

fn span(text: &str) -> Result<Duration, String> {
    let span = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let fits = !span.is_zero() && span <= LONGEST_RAISE;
    if fits { Ok(span) } else { Err("not a time of up to 31 days, such as 1h".to_owned()) }
}

async fn leader(settings: &Settings, name: &str) -> Result<Option<LeaderAnnouncement>, CommandError> {
    let broker = connect::broker(settings, name)?;
    let mut client = Client::connect(&broker, &Names::new(&settings.broker.namespace), Rng::Thread).await?;
    let survey = client.survey(TIMEOUT).await;
    client.close().await;
    Ok(survey?.leader)
}

pub(super) async fn budget(
    args: BudgetArgs,
    settings: &Settings,
    output: &mut Output,
) -> Result<Exit, CommandError> {
    let BudgetCommand::Raise(RaiseArgs { lane, by, time }) = args.command;
    let for_ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let name = lane.as_ref().map(Lane::name);
    if let Some(leader) = leader(settings, "captcha-worker budget").await?
        && leader.state.money.budgets.of(name) == Limits::default()
    {
        let whose = name.map_or_else(|| "the account".to_owned(), |name| format!("lane '{name}'"));
        return Err(CommandError::Failed(format!("{whose} has no budget that could be raised")));
    }
    let ordered = Ordered { lane: lane.map(|lane| lane.name().to_owned()), by, for_ms };
    fleet::give(Order::RaiseBudget(ordered), "raised", settings, output).await
}

pub(super) async fn spend(
    args: &SpendArgs,
    settings: &Settings,
    output: &mut Output,
) -> Result<Exit, CommandError> {
    // Not by clap, which overlooks a global option that stands before the command.
    if args.csv && output.format.is_some() {
        return Err(CommandError::Usage("--csv is a format: leave out --format and --json".to_owned()));
    }
    if args.since > DAY {
        return Err(CommandError::Usage("--since: the books hold 24 hours".to_owned()));
    }
    let Some(leader) = leader(settings, "captcha-worker spend").await? else {
        return Err(CommandError::Failed("no leader answers, so the books cannot be read".to_owned()));
    };
    let now = leader.at.unwrap_or_else(|| Clock::System.now());
    print(args, &leader.state.money, now, output)?;
    Ok(Exit::Fine)
}

fn print(args: &SpendArgs, money: &Money, now: Timestamp, output: &mut Output) -> Result<(), CommandError> {
    let since = i64::try_from(args.since.as_millis()).unwrap_or(i64::MAX);
    let since = Timestamp::from_millis(now.as_millis().saturating_sub(since));
    let mut all = Spent::default();
    money.books.hours(since).for_each(|(_, hour)| all.add(&hour.spent));
    let rows = rows(args.by, money, since, &all);
    let head = match args.by {
        By::Type => "type",
        By::Lane => "lane",
        By::Hour => "hour",
    };
    if args.csv {
        output.line(format_args!("{head},spent"))?;
        for (name, amount) in &rows {
            output.line(format_args!("{},{amount}", csv(name)))?;
        }
    } else if output.is_json() {
        output.value(&summary(money, now, since, &all, (head, &rows)))?;
    } else {
        for lane in money.budgets.scopes() {
            let of = |window| {
                let spent = money.books.spent(window, lane, now).normalize();
                let limit = money.limit(window, lane, now);
                limit.map_or_else(|| spent.to_string(), |limit| format!("{spent} of {limit}"))
            };
            let scope = lane.map_or_else(|| "spent".to_owned(), |lane| format!("lane {lane}"));
            output.line(format_args!(
                "{scope}: {} this hour, {} today",
                of(Window::Hour),
                of(Window::Day)
            ))?;
        }
        for raise in &money.raises {
            let (scope, until) = (raise.lane.as_deref().unwrap_or("the account"), raise.until);
            output.line(format_args!("{scope}: {} more until {until}, by {}", raise.amount, raise.by))?;
        }
        output.line("")?;
        output.table([head, "spent"], rows.into_iter().map(|(name, amount)| [name, amount.to_string()]))?;
        output.line(format_args!(
            "total {}, of it for nothing {}, perhaps twice {}, not answered {}",
            all.total().normalize(),
            all.wasted.normalize(),
            all.repeated.normalize(),
            all.doubtful.normalize()
        ))?;
    }
    Ok(())
}

fn rows(by: By, money: &Money, since: Timestamp, all: &Spent) -> Vec<(String, Decimal)> {
    let plain = |amounts: &BTreeMap<String, Decimal>| {
        amounts.iter().map(|(name, amount)| (name.clone(), amount.normalize())).collect()
    };
    match by {
        By::Type => plain(&all.types),
        By::Lane => plain(&all.lanes),
        By::Hour => {
            let hours = money.books.hours(since);
            hours.map(|(begin, hour)| (begin.to_string(), hour.spent.total().normalize())).collect()
        }
    }
}

fn summary(
    money: &Money,
    now: Timestamp,
    since: Timestamp,
    all: &Spent,
    (head, rows): (&str, &[(String, Decimal)]),
) -> Value {
    let scope = |lane: Option<&str>| {
        let of = |window| {
            let spent = money.books.spent(window, lane, now).normalize();
            json!({ "spent": spent, "budget": money.limit(window, lane, now) })
        };
        json!({ "hour": of(Window::Hour), "day": of(Window::Day), "used_up": match lane {
            None => money.stops.account.is_some(),
            Some(lane) => money.stops.lanes.contains_key(lane),
        }})
    };
    let lanes: BTreeMap<&str, Value> =
        money.budgets.lanes.keys().map(|lane| (lane.as_str(), scope(Some(lane)))).collect();
    let rows: Vec<Value> = rows.iter().map(|(name, spent)| json!({ head: name, "spent": spent })).collect();
    json!({
        "at": now, "since": since, "total": all.total().normalize(), "wasted": all.wasted.normalize(),
        "possibly_twice": all.repeated.normalize(), "unanswered": all.doubtful.normalize(),
        "drift": money.books.drift(now).normalize(), "account": scope(None), "lanes": lanes,
        "raises": money.raises, "rows": rows,
    })
}

/// A type is what publishers write.
fn csv(text: &str) -> String {
    let text = crate::domain::sanitize::shown(text, 100);
    if text.contains([',', '"']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}
