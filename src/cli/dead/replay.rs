//! `dead replay`: the jobs of chosen letters, published again.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::num::NonZeroU64;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser};
use serde_json::{Value as Json, json};
use tokio::time::{Instant, sleep_until};

use super::letters::{HEAD, LetterCounts};
use super::list::bar;
use super::replay_permission::ReplayPermission;
use super::scan::{Scan, ScanReport, Walker, ended, walk};
use super::select::{Chosen, Filters, ScanLimit};
use super::{CommandContext, DynConsole};
use crate::broker::topology::Names;
use crate::broker::{Confirm, Delivery, Receipt};
use crate::cli::console::table;
use crate::cli::queue_reader::{ACK_BATCH, lost};
use crate::cli::{CommandError, Exit};
use crate::clock::Clock;
use crate::domain::dead_letter::{DeadLetter, SkipReason};
use crate::domain::message::Message;
use crate::domain::message_hash::MessageHash;
use crate::domain::time::Timestamp;

/// Publish the jobs of chosen letters again, each of which is paid anew. What is not chosen stays.
///
/// A job keeps its id, and carries `captcha-replay-id` and `captcha-replays` (1 for its first
/// replay), which its outcome echoes. Each letter is removed once the broker has confirmed its job
/// on `jobs`. An interruption, even kill -9, loses nothing and repeats at most 32 jobs, each
/// with the replay id that it had: run the same command again.
#[derive(Debug, Args)]
#[command(after_help = "\
Not published, though chosen, and counted by reason: jobs replayed as often as --max-replays allows, jobs whose deadline is over, \
messages over 1 MiB, tickets in dead.raw (their tasks were paid), what is no job, what its publisher let expire (unless --code expired \
is given), and copies of what this run has published. They stay.

What it costs: a replay's attempts and budgets begin anew, and each is paid as a new job's are. Try --dry-run and --limit first.

The command asks the fleet first, and goes on asking: while the guard is tripped or probing, while the fleet is paused, or if no leader answers, \
nothing is published, and what was not published stays. --dry-run asks nobody. Scanning costs what `dead --help` says.

Examples:
  captcha-worker dead replay --class capacity --dry-run
  captcha-worker dead replay --class transient,lost --since 2h --rate 50/s
  captcha-worker dead replay --code ERROR_PROXY_CONNECT_REFUSED \\
    --type TurnstileTask --limit 100
  captcha-worker dead replay --id order-17

Exit codes: 0 everything chosen and scanned was published, or stays for a reason above, 1 it was refused, stopped or failed, 2 wrong usage.")]
pub(super) struct ReplayArgs {
    #[command(flatten)]
    filters: Filters,
    /// Every letter, where no filter is given
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    scan_limit: ScanLimit,
    /// Publish so many at most
    #[arg(long, value_name = "N")]
    limit: Option<NonZeroU64>,
    /// Publish no faster than this, evenly: 50/s, 10/m, 100/h
    #[arg(long, value_name = "N/s")]
    rate: Option<Pacer>,
    /// Leave jobs that have been replayed so often already
    #[arg(long, value_name = "N", default_value = "3", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_replays: u32,
    /// Say what would be published, and publish nothing
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn run(args: &ReplayArgs, context: &mut CommandContext<'_>) -> Result<Exit, CommandError> {
    if args.filters.is_everything() && !args.all && !args.dry_run {
        return Err(CommandError::Usage("dead replay: give a filter, or --all".to_owned()));
    }
    let permission = if args.dry_run {
        ReplayPermission::not_needed()
    } else {
        tokio::select! {
            biased;
            () = context.stop.cancelled() => return Err(CommandError::failed("interrupted; nothing was published")),
            permission = ReplayPermission::ask(context.broker, context.names) => permission?,
        }
    };
    replay(args, &permission, context).await
}

#[derive(Debug, Parser)]
#[command(no_binary_name = true)]
struct ReplayLine {
    #[command(flatten)]
    args: ReplayArgs,
}

/// A replay by options that were not typed on a command line, each without its dashes and with its
/// value: of so many jobs at most, or a dry run. Also how many jobs it has chosen.
pub(in crate::cli) async fn replay_chosen(
    filters: &[(&str, String)],
    most: Option<u64>,
    context: &mut CommandContext<'_>,
) -> (Result<Exit, CommandError>, u64) {
    // A value that begins with a dash is a value all the same.
    let filters = filters.iter().map(|(name, value)| format!("--{name}={value}"));
    let mode = if most.is_some() { "--all" } else { "--dry-run" };
    let mut args = match ReplayLine::try_parse_from(filters.chain([mode.to_owned()])) {
        Ok(line) => line.args,
        Err(error) => return (Err(CommandError::usage(&error)), 0),
    };
    if let Some(most) = most {
        args.limit = NonZeroU64::new(most);
    }
    let permission = if args.dry_run {
        ReplayPermission::not_needed()
    } else {
        match ReplayPermission::ask(context.broker, context.names).await {
            Ok(permission) => permission,
            Err(error) => return (Err(error), 0),
        }
    };
    replay_counted(&args, &permission, context).await
}

/// The same with permission.
pub(super) async fn replay(
    args: &ReplayArgs,
    permission: &ReplayPermission,
    context: &mut CommandContext<'_>,
) -> Result<Exit, CommandError> {
    replay_counted(args, permission, context).await.0
}

async fn replay_counted(
    args: &ReplayArgs,
    permission: &ReplayPermission,
    context: &mut CommandContext<'_>,
) -> (Result<Exit, CommandError>, u64) {
    let now = Clock::System.now();
    let mut replay = Replay {
        args,
        permission,
        chosen: args.filters.at(now),
        pace: Pace::new(args.rate),
        left: args.limit.map_or(u64::MAX, NonZeroU64::get),
        published: BTreeSet::new(),
        batch: PublishBatch::new(context.names),
        report: ReplayReport::default(),
    };
    let failure = walk(&mut replay, &args.filters, &args.scan_limit, context).await;
    let mut report = replay.report;
    if let Some(refusal) = permission.refusal() {
        report.scan_report.stopped(refusal);
    }
    report.scan_report.interrupted(context.stop);
    let printed = report.print(args.dry_run, now, &mut context.console);
    (ended(failure, printed, report.scan_report.is_whole()), report.chosen.total())
}

struct Replay<'a> {
    args: &'a ReplayArgs,
    permission: &'a ReplayPermission,
    chosen: Chosen<'a>,
    pace: Pace,
    /// Jobs that may still be published.
    left: u64,
    /// The hashes of the letters whose jobs have been published: at most 32 bytes for each that a
    /// scan reads.
    published: BTreeSet<MessageHash>,
    batch: PublishBatch,
    report: ReplayReport,
}

impl Walker for Replay<'_> {
    /// When it ends, every letter is settled: published and removed, or kept.
    async fn visit(&mut self, scan: &mut Scan, context: &mut CommandContext<'_>) -> Result<(), CommandError> {
        let bar = bar(&context.console, scan);
        let mut more = Ok(true);
        while matches!(more, Ok(true)) && !context.stop.is_cancelled() && !self.is_over() {
            more = self.step(scan, context).await;
            bar.advance_to(scan.progress().0, || self.report.short());
        }
        let settled = self.batch.settle(scan, &mut self.report).await;
        bar.clear();
        more.and(settled)
    }

    fn scan_report(&mut self) -> &mut ScanReport {
        &mut self.report.scan_report
    }

    fn is_over(&self) -> bool {
        self.left == 0 || self.permission.refusal().is_some()
    }
}

impl Replay<'_> {
    /// Takes the next letter; whether there was one.
    async fn step(&mut self, scan: &mut Scan, context: &CommandContext<'_>) -> Result<bool, CommandError> {
        if self.batch.is_full() || scan.is_full() {
            self.batch.settle(scan, &mut self.report).await?;
        }
        let Some(delivery) = scan.next(context.stop).await? else { return Ok(false) };
        let Some(letter) = scan.read(&delivery.message) else {
            self.report.unreadable += 1;
            scan.keep(delivery.receipt);
            return Ok(true);
        };
        if self.chosen.takes(&letter) {
            self.again(letter, delivery, scan, context).await?;
        } else {
            self.report.left_out += 1;
            scan.keep(delivery.receipt);
        }
        Ok(true)
    }

    /// Publishes a chosen letter's job, unless there is a reason to skip it.
    async fn again(
        &mut self,
        letter: DeadLetter,
        delivery: Delivery,
        scan: &mut Scan,
        context: &CommandContext<'_>,
    ) -> Result<(), CommandError> {
        let job = match self.job_of(&letter, &delivery.message) {
            Ok(job) => job,
            Err(stays) => {
                self.report.stays(stays);
                scan.keep(delivery.receipt);
                return Ok(());
            }
        };
        if self.args.dry_run {
            self.report.chosen.add(&letter);
            self.published.extend(letter.replay_ids());
            self.left -= 1;
            scan.keep(delivery.receipt);
            return Ok(());
        }
        if !self.turn(scan, context).await? {
            scan.keep(delivery.receipt);
            return Ok(());
        }
        self.left -= 1;
        self.published.extend(letter.replay_ids());
        self.batch.publish(job, letter, delivery.receipt, scan).await
    }

    fn job_of(&self, letter: &DeadLetter, message: &Message) -> Result<Message, SkipReason> {
        let job = letter.replay(message, self.args.max_replays, Clock::System.now())?;
        if letter.has_expired() && !self.args.filters.name_code(&letter.code) {
            return Err(SkipReason::Expired);
        }
        if letter.replay_ids().any(|id| self.published.contains(&id)) {
            return Err(SkipReason::Repeated);
        }
        Ok(job)
    }

    /// Waits for the next turn. False if the scan's time is over first: a letter that is held for
    /// longer is given to somebody else. The batch does not wait for the turn.
    async fn turn(&mut self, scan: &mut Scan, context: &CommandContext<'_>) -> Result<bool, CommandError> {
        if self.batch.is_old_by(self.pace.due()) {
            self.batch.settle(scan, &mut self.report).await?;
        }
        tokio::select! {
            biased;
            () = context.stop.cancelled() => return Ok(false),
            () = self.permission.ended() => return Ok(false),
            () = sleep_until(scan.until()) => {
                scan.took_too_long();
                return Ok(false);
            }
            () = sleep_until(self.pace.due()) => {}
        }
        self.pace.take(Instant::now());
        Ok(true)
    }
}

/// Bodies that may be on their way at once, in bytes.
const MOST_BYTES: usize = 8 << 20;
/// A job that is confirmed keeps its letter no longer than this.
const TIMEOUT: Duration = Duration::from_millis(250);

/// A job that was handed over, and is not known to be safe.
struct ReplayUnderWay {
    confirm: Confirm,
    letter: DeadLetter,
    receipt: Receipt,
}

/// Up to [`ACK_BATCH`] of them. They are settled together: every confirm is awaited, then the
/// letters are removed, and the broker is waited for; so that an end at any moment repeats no more
/// than one batch, and what the broker may not yet have written down of the one before.
pub(super) struct PublishBatch {
    names: Names,
    under_way: Vec<ReplayUnderWay>,
    bytes: usize,
    began: Option<Instant>,
}

impl PublishBatch {
    /// A batch with nothing in it.
    pub(super) fn new(names: &Names) -> Self {
        Self { names: names.clone(), under_way: Vec::with_capacity(ACK_BATCH), bytes: 0, began: None }
    }

    pub(super) fn is_full(&self) -> bool {
        self.under_way.len() >= ACK_BATCH || self.bytes >= MOST_BYTES
    }

    /// Whether the batch would wait too long for something that is due then.
    fn is_old_by(&self, due: Instant) -> bool {
        self.began.is_some_and(|began| due.max(Instant::now()) > began + TIMEOUT)
    }

    /// Hands a job over.
    ///
    /// # Errors
    /// It was not sent: its letter is kept, or was taken back by the broker.
    pub(super) async fn publish(
        &mut self,
        job: Message,
        letter: DeadLetter,
        receipt: Receipt,
        scan: &mut Scan,
    ) -> Result<(), CommandError> {
        if !receipt.is_live() {
            // Its letter is back in its queue already, and would be published again.
            return Err(lost().into());
        }
        let bytes = job.body.len();
        let publisher = scan.session().publisher();
        let lane = self.names.jobs_of(&letter.lane);
        match publisher.send(&self.names.jobs(), &lane, true, job).await {
            Ok(confirm) => {
                self.began.get_or_insert_with(Instant::now);
                self.bytes += bytes;
                self.under_way.push(ReplayUnderWay { confirm, letter, receipt });
                Ok(())
            }
            Err(error) => {
                scan.keep(receipt);
                Err(CommandError::failed(error))
            }
        }
    }

    /// Removes the letters whose jobs the broker has confirmed. The others are kept.
    ///
    /// # Errors
    /// A job was not confirmed: refused, returned by an exchange without its queue, or not
    /// answered in time. Or the connection is lost.
    pub(super) async fn settle(
        &mut self,
        scan: &mut Scan,
        report: &mut ReplayReport,
    ) -> Result<(), CommandError> {
        let (mut removed, mut failure) = (Vec::with_capacity(self.under_way.len()), None);
        let mut letters = Vec::with_capacity(self.under_way.len());
        for ReplayUnderWay { confirm, letter, receipt } in self.under_way.drain(..) {
            match confirm.answered().await {
                Ok(()) => {
                    removed.push(receipt);
                    letters.push(letter);
                }
                Err(error) => {
                    scan.keep(receipt);
                    failure.get_or_insert_with(|| CommandError::failed(error));
                }
            }
        }
        (self.bytes, self.began) = (0, None);
        // They are published, whatever becomes of their letters.
        for letter in &letters {
            report.chosen.add(letter);
        }
        scan.remove(removed).await?;
        failure.map_or(Ok(()), Err)
    }
}

/// Letters by what became of them.
#[derive(Default)]
pub(super) struct ReplayReport {
    /// Published, or to be published by a run that is not dry.
    pub(super) chosen: LetterCounts,
    /// Left by the filters.
    pub(super) left_out: u64,
    pub(super) unreadable: u64,
    pub(super) scan_report: ScanReport,
    stays: BTreeMap<SkipReason, u64>,
}

impl ReplayReport {
    /// A chosen letter is skipped, and stays.
    pub(super) fn stays(&mut self, why: SkipReason) {
        *self.stays.entry(why).or_default() += 1;
    }

    /// For a bar.
    pub(super) fn short(&self) -> String {
        let staying: u64 = self.stays.values().sum();
        format!("{} chosen, {} left", self.chosen.total(), self.left_out + staying)
    }

    pub(super) fn print(
        &self,
        dry_run: bool,
        now: Timestamp,
        console: &mut DynConsole<'_>,
    ) -> Result<(), CommandError> {
        self.scan_report.print_notes(console);
        if console.is_human() {
            self.show(dry_run, now, &mut console.out)?;
        } else {
            console.value(&self.json(dry_run, now))?;
        }
        Ok(console.out.flush()?)
    }

    fn json(&self, dry_run: bool, now: Timestamp) -> Json {
        let stays: BTreeMap<&str, u64> = SkipReason::ALL
            .iter()
            .map(|why| (why.name(), self.stays.get(why).copied().unwrap_or(0)))
            .collect();
        self.scan_report.add_to(json!({
            "dry_run": dry_run, "replayed": if dry_run { 0 } else { self.chosen.total() }, "chosen": self.chosen.total(),
            "kinds": self.chosen.json(now), "stay": stays, "left_out": self.left_out, "unreadable": self.unreadable,
        }))
    }

    fn show(&self, dry_run: bool, now: Timestamp, out: &mut impl Write) -> Result<(), CommandError> {
        if !self.chosen.is_empty() {
            writeln!(out, "{}\n", table(HEAD, self.chosen.rows(now)))?;
        }
        let done = if dry_run { "would be published again" } else { "published again" };
        writeln!(out, "{} jobs {done}", self.chosen.total())?;
        for (why, count) in &self.stays {
            writeln!(out, "{count} stay: {why}")?;
        }
        for (count, what) in [(self.left_out, "not chosen"), (self.unreadable, "unreadable")] {
            if count > 0 {
                writeln!(out, "{count} {what}: they stay")?;
            }
        }
        Ok(())
    }
}

/// How far a clock that ticks in milliseconds may fall behind and catch up; anything more would be
/// a burst.
const CATCH_UP: Duration = Duration::from_millis(20);
/// The highest rate that still differs from no limit.
const MOST_A_SECOND: f64 = 100_000.0;

/// The longest wait for a turn: two fit into the time that a letter may be held.
const LONGEST_GAP: Duration = Duration::from_secs(600);

/// A rate as the user types it: `50/s`, `50`, `10/m`, `100/h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pacer {
    gap: Duration,
}

impl FromStr for Pacer {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = "not a rate such as 50/s, 10/m or 100/h";
        let (number, unit) = text.split_once('/').unwrap_or((text, "s"));
        let seconds = match unit {
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3_600.0,
            _ => return Err(wrong),
        };
        let number: f64 = number.parse().map_err(|_| wrong)?;
        if !(number.is_finite() && number > 0.0 && number / seconds <= MOST_A_SECOND) {
            return Err("must be above 0 and at most 100000/s");
        }
        let gap = Duration::try_from_secs_f64(seconds / number).ok().filter(|gap| *gap <= LONGEST_GAP);
        gap.map(|gap| Self { gap })
            .ok_or("must be at least 6/h: a letter cannot be held for much longer than 10 minutes")
    }
}

/// Turns, one after the other, evenly.
#[derive(Debug)]
pub(super) struct Pace {
    gap: Duration,
    due: Instant,
}

impl Pace {
    /// Without a rate each turn is due at once.
    pub(super) fn new(rate: Option<Pacer>) -> Self {
        Self { gap: rate.map_or(Duration::ZERO, |rate| rate.gap), due: Instant::now() }
    }

    /// When the next turn is due.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// A turn is taken.
    pub(super) fn take(&mut self, now: Instant) {
        let behind = now.checked_sub(CATCH_UP.min(self.gap.saturating_mul(1_000))).unwrap_or(now);
        let begins = self.due.max(behind);
        self.due = begins.checked_add(self.gap).unwrap_or(begins);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_and_nonsense_is_refused() {
        let gap = |text: &str| text.parse::<Pacer>().map(|rate| rate.gap);
        assert_eq!(gap("50/s"), Ok(Duration::from_millis(20)));
        assert_eq!(gap("50"), Ok(Duration::from_millis(20)));
        assert_eq!(gap("10/m"), Ok(Duration::from_secs(6)));
        assert_eq!(gap("100/h"), Ok(Duration::from_secs(36)));
        assert_eq!(gap("6/h"), Ok(LONGEST_GAP));
        for text in
            ["", "0", "-1/s", "x/s", "5/d", "inf", "NaN/s", "100001/s", "1e-300/h", "1e-19", "1/h", "5.9/h"]
        {
            assert!(gap(text).is_err(), "{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn turns_come_evenly_and_a_pause_is_not_made_up_for() {
        let began = Instant::now();
        let mut pace = Pace::new("100/s".parse().ok());
        let mut at = Vec::new();
        for turn in 0..4 {
            tokio::time::sleep_until(pace.due()).await;
            if turn == 2 {
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            pace.take(Instant::now());
            at.push(began.elapsed().as_millis());
        }
        assert_eq!(at[..2], [0, 10]);
        assert!(pace.due() >= Instant::now() - CATCH_UP, "two turns at most are caught up with");
    }
}
