//! `top`: the fleet on a terminal, again and again.
//!
//! What is shown is the model that the console shows too; here it is made from what the replicas
//! answer over the broker. Asking goes on beside the terminal: a replica that is silent for its 2.5
//! s keeps no key waiting.

mod layout;
mod ops;
mod panels;
pub(super) mod poller;
mod screen;
mod theme;

use std::io::{self, IsTerminal};
use std::thread;
use std::time::Duration;

use clap::Args;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{self, Event};
use tokio::sync::{mpsc, watch as latest};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::task::AbortOnDropHandle;

use super::console::Output;
use super::{CommandError, Exit, connect, signals};
use crate::broker::topology::Names;
use crate::clock::Clock;
use crate::config::{LogFilter, Settings};
use crate::overview::Guard;
use crate::telemetry::{Logging, is_dumb_terminal};
use poller::{PollResult, Poller};
use screen::Screen;
use theme::Tones;

const EXAMPLES: &str = "\
Asks the replicas over the broker, and the broker for the queues' lengths; beside them the ops servers' /status, where one \
answers, for what only that knows. While the broker is out of reach it shows what /status reports, and tries again.

Keys: q, Esc or Ctrl-C quits; p holds the picture; Tab and arrows choose and move a table; ? helps. \
Without a terminal at standard output, or with --once, one picture is printed as plain text. For that it looks twice, a \
second apart at most, since rates need it. NO_COLOR is respected.

Examples:
  captcha-worker top
  captcha-worker top --ops http://10.0.0.7:9464 --ops http://10.0.0.8:9464
  captcha-worker top --once
  captcha-worker top --json | jq '.fleet.latest_failures'

Exit codes: 0 it was ended, or one picture shows a leader; 1 it shows none.";

/// An old picture shows its age.
const TICK: Duration = Duration::from_secs(1);
/// The longest pause between the two polls for a picture without a terminal.
const APART: Duration = Duration::from_secs(1);
/// A picture without a terminal is this wide, unless COLUMNS says otherwise.
const PLAIN_WIDTH: u16 = 120;
const MOST_LINES: usize = 400;

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct TopArgs {
    /// An ops server to query too; can be given several times [default: that of ops.listen]
    #[arg(long = "ops", value_name = "URL", value_parser = ops::address)]
    ops: Vec<url::Url>,
    /// How often to refresh
    #[arg(long, value_name = "SPAN", default_value = "1s", value_parser = span)]
    interval: Duration,
    /// Print one picture as plain text, and end
    #[arg(long)]
    once: bool,
}

fn span(text: &str) -> Result<Duration, String> {
    let span = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let bounds = Duration::from_millis(500)..=Duration::from_secs(60);
    if bounds.contains(&span) { Ok(span) } else { Err("500ms to 1m".to_owned()) }
}

pub(super) async fn run(
    args: TopArgs,
    settings: &Settings,
    logging: &Logging,
    output: &mut Output,
) -> Result<Exit, CommandError> {
    let TopArgs { ops, interval, once } = args;
    let ops = if ops.is_empty() {
        settings.ops.listen.and_then(ops::of_listener).into_iter().collect()
    } else {
        ops
    };
    let broker = connect::broker(settings, "captcha-worker top")?;
    let names = Names::new(&settings.broker.namespace);
    let poller = Poller::new(broker, names, ops)?;
    let is_plain = once || output.is_forced_json() || !output.is_terminal() || is_dumb_terminal();
    if is_plain {
        return print_once(poller, interval, output).await;
    }
    watch(poller, interval, logging).await?;
    Ok(Exit::Fine)
}

/// Log lines would be written over the picture.
fn quieten(logging: &Logging) {
    if io::stderr().is_terminal()
        && let Ok(off) = LogFilter::try_new("off")
        && let Ok(off) = Logging::prepare(&off)
    {
        // Where it cannot be, a line over the picture is gone with the next one.
        let _ = logging.replace(off);
    }
}

/// One picture, for pipes and tests.
async fn print_once(mut poller: Poller, every: Duration, output: &mut Output) -> Result<Exit, CommandError> {
    let first = poller.poll(true, |_| ()).await;
    let shot = if first.is_by_broker() {
        poller.rest(Instant::now() + every.min(APART)).await;
        poller.poll(true, |_| ()).await
    } else {
        first
    };
    if let (None, Some(error)) = (&shot.fleet, poller.close().await) {
        return Err(error.into());
    }
    let has_leader = shot.has_leader();
    if output.is_forced_json() {
        output.value(&shot)?;
    } else {
        print(shot, output)?;
    }
    Ok(Exit::when(has_leader))
}

/// Prints one picture as text, as wide as COLUMNS says.
pub(super) fn print(shot: PollResult, output: &mut Output) -> Result<(), CommandError> {
    let wanted = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    let width = wanted.unwrap_or(PLAIN_WIDTH).clamp(40, 300);
    Ok(output.line(plain(&Screen::still(shot), width)?)?)
}

/// The account's state as lines of text.
pub(super) fn guard_lines(guard: &Guard) -> Vec<String> {
    let lines = panels::guard(guard, Clock::System.now(), &Tones::new(false));
    lines.iter().map(ToString::to_string).collect()
}

/// The picture as lines of text, as long as it needs to be.
fn plain(screen: &Screen, width: u16) -> Result<String, CommandError> {
    let height = u16::try_from(layout::wanted_height(screen, width).min(MOST_LINES)).unwrap_or(u16::MAX);
    let mut terminal = Terminal::new(TestBackend::new(width, height)).map_err(CommandError::failed)?;
    let drawn = terminal.draw(|frame| layout::draw(frame, screen)).map_err(CommandError::failed)?;
    let line = |y| -> String {
        let symbols = (0..width).filter_map(|x| drawn.buffer.cell((x, y))).map(|cell| cell.symbol());
        symbols.collect::<String>().trim_end().to_owned()
    };
    let lines: Vec<String> = (0..height).map(line).collect();
    Ok(lines.join("\n").trim_end().to_owned())
}

/// Restores the terminal, whatever happens. A panic's hook does the same before it prints the
/// panic.
struct Restoring;

impl Drop for Restoring {
    fn drop(&mut self) {
        // Nothing could be done about it.
        let _ = ratatui::try_restore();
    }
}

/// Shows the fleet until somebody ends it. Whether the last picture shows a leader.
pub(super) async fn watch(poller: Poller, every: Duration, logging: &Logging) -> Result<bool, CommandError> {
    quieten(logging);
    let stop = signals::stop_or(Exit::Failed, || drop(Restoring))?;
    let (results, mut shots) = latest::channel(PollResult::default());
    let asking = AbortOnDropHandle::new(tokio::spawn(poller.run(every, results)));
    // What fails half-way through has changed something already.
    let _restoring = Restoring;
    let mut terminal = ratatui::try_init()?;
    let mut keys = KeyReader::start();
    let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let mut screen = Screen::new(colour).every(every);
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        terminal.draw(|frame| layout::draw(frame, &screen))?;
        tokio::select! {
            () = stop.cancelled() => break,
            key = keys.next() => match key {
                Some(event) => if screen.on_event(&event).is_break() { break },
                // The terminal is gone.
                None => break,
            },
            changed = shots.changed() => match changed {
                Ok(()) => screen.take(shots.borrow_and_update().clone()),
                Err(_) => return Err(CommandError::Failed("looking at the fleet has ended".to_owned())),
            },
            _ = ticks.tick() => {}
        }
    }
    drop(asking);
    Ok(screen.shot().has_leader())
}

/// How long the thread may stay when nobody reads any more.
const KEY_WAIT: Duration = Duration::from_millis(100);
/// Keys that are typed ahead.
const AHEAD: usize = 64;

pub(super) struct KeyReader(mpsc::Receiver<Event>);

impl KeyReader {
    /// Reads until this is dropped, or the terminal is gone.
    pub(super) fn start() -> Self {
        let (typed, keys) = mpsc::channel(AHEAD);
        thread::spawn(move || {
            while !typed.is_closed() {
                match event::poll(KEY_WAIT) {
                    Ok(false) => {}
                    Ok(true) => {
                        let Ok(event) = event::read() else { return };
                        if typed.blocking_send(event).is_err() {
                            return;
                        }
                    }
                    Err(_) => return,
                }
            }
        });
        Self(keys)
    }

    /// The next event; `None` where there will be none.
    pub(super) async fn next(&mut self) -> Option<Event> {
        self.0.recv().await
    }
}

#[cfg(test)]
mod tests;
