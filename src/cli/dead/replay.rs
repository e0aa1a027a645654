//! `dead replay`: the jobs of chosen letters, published again.

mod report;
mod window;

use std::collections::BTreeSet;
use std::io::Write;
use std::num::NonZeroU64;

use clap::Args;
use tokio::time::{Instant, sleep_until};

use super::CommandContext;
use super::list::bar;
use super::pacer::{Pace, Rate};
use super::replay_permission::Leave;
use super::scan::Scan;
use super::scan_queues::{Walker, walk};
use super::scan_report::{ScanReport, ended};
use super::select::{Chosen, Filters, Reach};
use crate::broker::Delivery;
use crate::cli::{CommandError, Exit};
use crate::clock::Clock;
use crate::domain::dead_letter::{DeadLetter, SkipReason};
use crate::domain::message::Message;
use crate::domain::message_hash::MessageHash;
use report::Report;
use window::Window;

/// Publish the jobs of chosen letters again, each of which is paid anew. What is not chosen stays.
///
/// A job keeps its id, and carries `captcha-replay-id` and `captcha-replays` (1 for its first replay), which its outcome echoes. Each letter is
/// removed once the broker has confirmed its job on `jobs`. An end in between, kill -9 included, loses nothing and repeats at most 32
/// jobs, each with the replay id that it had: run the same command again.
#[derive(Debug, Args)]
#[command(after_help = "\
Not published, though chosen, and counted by reason: jobs replayed as often as --max-replays allows, jobs whose deadline is over, \
messages over 1 MiB, tickets in dead.raw (their tasks were paid), what is no job, what its publisher let expire (unless --code expired \
is given), and twins of what this run has published. They stay.

What it costs: a replay's attempts and budgets begin anew, and each is paid as a new job's are. Try --dry-run and --limit first.

The fleet is asked before and all through it: while its guard is tripped or probing, while it is paused, or where no leader answers, \
nothing is published, and what was not published stays. --dry-run asks nobody. Scanning costs what `dead --help` says.

Examples:
  captcha-worker dead replay --class capacity --dry-run
  captcha-worker dead replay --class transient,lost --since 2h --rate 50/s
  captcha-worker dead replay --code ERROR_PROXY_CONNECT_REFUSED --type TurnstileTask --limit 100
  captcha-worker dead replay --id order-17

Exit codes: 0 everything chosen and scanned was published or had better stay, 1 it was refused, stopped or failed, 2 wrong usage.")]
pub(super) struct ReplayArgs {
    #[command(flatten)]
    filters: Filters,
    /// Every letter, where no filter is given
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    reach: Reach,
    /// Publish so many at most
    #[arg(long, value_name = "N")]
    limit: Option<NonZeroU64>,
    /// Publish no faster than this, evenly: 50/s, 10/m, 100/h
    #[arg(long, value_name = "N/s")]
    rate: Option<Rate>,
    /// Leave jobs that have been replayed so often already
    #[arg(long, value_name = "N", default_value = "3", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_replays: u32,
    /// Say what would be published, and publish nothing
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn run<O: Write, E: Write>(
    args: &ReplayArgs,
    stage: &mut CommandContext<'_, O, E>,
) -> Result<Exit, CommandError> {
    if args.filters.is_everything() && !args.all && !args.dry_run {
        return Err(CommandError::Usage("dead replay: say which letters, or --all".to_owned()));
    }
    let leave = if args.dry_run {
        Leave::not_needed()
    } else {
        tokio::select! {
            biased;
            () = stage.stop.cancelled() => return Err(CommandError::failed("interrupted; nothing was published")),
            leave = Leave::ask(stage.broker, stage.names) => leave?,
        }
    };
    replay(args, &leave, stage).await
}

/// The same with leave.
pub(super) async fn replay<O: Write, E: Write>(
    args: &ReplayArgs,
    leave: &Leave,
    stage: &mut CommandContext<'_, O, E>,
) -> Result<Exit, CommandError> {
    let now = Clock::System.now();
    let mut replay = Replay {
        args,
        leave,
        chosen: args.filters.at(now),
        pace: Pace::new(args.rate),
        left: args.limit.map_or(u64::MAX, NonZeroU64::get),
        published: BTreeSet::new(),
        report: Report::default(),
    };
    let failure = walk(&mut replay, &args.filters, &args.reach, stage).await;
    let mut report = replay.report;
    if let Some(refusal) = leave.refusal() {
        report.looked.stopped(refusal);
    }
    report.looked.interrupted(stage.stop);
    let told = report.tell(args.dry_run, now, stage.console);
    ended(failure, told, report.looked.is_whole())
}

struct Replay<'a> {
    args: &'a ReplayArgs,
    leave: &'a Leave,
    chosen: Chosen<'a>,
    pace: Pace,
    /// Jobs that may still be published.
    left: u64,
    /// By what the letters are known whose jobs have been published: 32 bytes for each that a scan looks at, at most.
    published: BTreeSet<MessageHash>,
    report: Report,
}

impl Walker for Replay<'_> {
    /// Whatever is in hand when it ends is settled: published and removed, or kept.
    async fn go_through<O: Write, E: Write>(
        &mut self,
        scan: &mut Scan,
        stage: &mut CommandContext<'_, O, E>,
    ) -> Result<(), CommandError> {
        let bar = bar(stage.console, scan);
        let mut window = Window::new(stage.names.jobs());
        let mut more = Ok(true);
        while matches!(more, Ok(true)) && !stage.stop.is_cancelled() && !self.is_over() {
            more = self.step(scan, &mut window, stage).await;
            bar.looked(scan.progress().0, || self.report.short());
        }
        let settled = window.settle(scan, &mut self.report).await;
        bar.clear();
        more.and(settled)
    }

    fn looked(&mut self) -> &mut ScanReport {
        &mut self.report.looked
    }

    fn is_over(&self) -> bool {
        self.left == 0 || self.leave.refusal().is_some()
    }
}

impl Replay<'_> {
    /// Takes the next letter; whether there was one.
    async fn step<O, E>(
        &mut self,
        scan: &mut Scan,
        window: &mut Window,
        stage: &CommandContext<'_, O, E>,
    ) -> Result<bool, CommandError> {
        if window.is_full() || scan.is_full() {
            window.settle(scan, &mut self.report).await?;
        }
        let Some(delivery) = scan.next(stage.stop).await? else { return Ok(false) };
        let Some(letter) = scan.read(&delivery.message) else {
            self.report.unreadable += 1;
            scan.keep(delivery.receipt);
            return Ok(true);
        };
        if self.chosen.takes(&letter) {
            self.again(letter, delivery, scan, window, stage).await?;
        } else {
            self.report.left_out += 1;
            scan.keep(delivery.receipt);
        }
        Ok(true)
    }

    /// Publishes a chosen letter's job, unless it had better stay.
    async fn again<O, E>(
        &mut self,
        letter: DeadLetter,
        delivery: Delivery,
        scan: &mut Scan,
        window: &mut Window,
        stage: &CommandContext<'_, O, E>,
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
            self.published.extend(letter.marks());
            self.left -= 1;
            scan.keep(delivery.receipt);
            return Ok(());
        }
        if !self.turn(scan, window, stage).await? {
            scan.keep(delivery.receipt);
            return Ok(());
        }
        self.left -= 1;
        self.published.extend(letter.marks());
        window.publish(job, letter, delivery.receipt, scan).await
    }

    fn job_of(&self, letter: &DeadLetter, message: &Message) -> Result<Message, SkipReason> {
        let job = letter.replay(message, self.args.max_replays, Clock::System.now())?;
        if letter.has_expired() && !self.args.filters.name_code(&letter.code) {
            return Err(SkipReason::Expired);
        }
        if letter.marks().any(|mark| self.published.contains(&mark)) {
            return Err(SkipReason::Repeated);
        }
        Ok(job)
    }

    /// Waits for the next turn; whether it has come before the scan's time is over: a letter that is held for longer is given to somebody else.
    /// What is in hand is not kept waiting for it.
    async fn turn<O, E>(
        &mut self,
        scan: &mut Scan,
        window: &mut Window,
        stage: &CommandContext<'_, O, E>,
    ) -> Result<bool, CommandError> {
        if window.is_old_by(self.pace.due()) {
            window.settle(scan, &mut self.report).await?;
        }
        tokio::select! {
            biased;
            () = stage.stop.cancelled() => return Ok(false),
            () = self.leave.ended() => return Ok(false),
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
