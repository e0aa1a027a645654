//! Logs: to stderr, for people or as JSON lines. Standard output belongs to what commands print.

mod log_throttle;

use std::io::{self, IsTerminal, Write};
use std::panic::{self, PanicHookInfo};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use log_throttle::{ProcessThrottle, ThrottledLayer};
use tracing_subscriber::filter::{FilterExt, LevelFilter, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use crate::config::{LogFilter, LogFormat};

/// Logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter cannot be used.
    #[error("log.level cannot be used: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// Something else in this process has set up logging already.
    #[error("logging is set up already: {0}")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
    /// The filter cannot be replaced.
    #[error("log.level cannot be changed: {0}")]
    Fixed(#[from] reload::Error),
}

/// Client libraries whose trace events hold whole frames and messages, and with them passwords and
/// keys.
const NOISY_CRATES: [&str; 6] = ["lapin", "amq_protocol", "hyper", "hyper_util", "h2", "reqwest"];

/// Where lapin writes a message that no queue took, whole, at level `warn`: proxy passwords in jobs
/// included.
const RETURNED_MESSAGES: &str = "lapin::returned_messages";

/// What can be done about logging while it goes on.
#[derive(Clone)]
pub struct Logging {
    filter: reload::Handle<EnvFilter, Registry>,
    throttle: ProcessThrottle,
}

/// A filter that can take the place of the one in force.
pub struct NextFilter(EnvFilter);

/// Whether the terminal takes no escapes.
#[must_use]
pub fn is_dumb_terminal() -> bool {
    std::env::var_os("TERM").is_some_and(|name| name == "dumb")
}

/// Sets up logging for the whole process, once. `target`: lines name the part that writes them.
///
/// # Errors
/// Where the filter cannot be used, or logging is set up already.
pub fn init(level: &LogFilter, format: LogFormat, target: bool) -> Result<Logging, TelemetryError> {
    let NextFilter(wanted) = Logging::prepare(level)?;
    // Lines that nobody wants are known by their place in the source, once: the filter is asked for
    // none of them again until it is replaced.
    let (wanted, filter) = reload::Layer::new(wanted);
    let throttle = ProcessThrottle::default();
    let discreet = filter_fn(|metadata| {
        let part = metadata.target().split("::").next().unwrap_or_default();
        let discreet = *metadata.level() < LevelFilter::TRACE || !NOISY_CRATES.contains(&part);
        discreet && metadata.target() != RETURNED_MESSAGES
    });
    let filters = wanted.and(discreet.with_max_level_hint(LevelFilter::TRACE));
    // Without anybody at stderr's other end, the layer's own complaint about it would panic.
    let layer = fmt::layer().with_writer(io::stderr).with_target(target).log_internal_errors(false);
    let terminal = io::stderr().is_terminal();
    let colour =
        terminal && !is_dumb_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let layer = match format {
        LogFormat::Human => layer.with_ansi(colour).boxed(),
        LogFormat::Auto if terminal => layer.with_ansi(colour).boxed(),
        LogFormat::Auto | LogFormat::Json => layer.json().flatten_event(true).with_ansi(false).boxed(),
    };
    let layer = ThrottledLayer { lines: layer, throttle: throttle.clone() };
    tracing_subscriber::registry().with(layer.with_filter(filters)).try_init()?;
    Ok(Logging { filter, throttle })
}

impl Logging {
    /// A filter that is ready to take the place of the one in force.
    ///
    /// # Errors
    /// Where it cannot be used.
    pub fn prepare(level: &LogFilter) -> Result<NextFilter, TelemetryError> {
        Ok(NextFilter(EnvFilter::builder().parse(directives(level))?))
    }

    /// Puts another filter in force.
    ///
    /// # Errors
    /// Where logging has come to its end; the old one stays.
    pub fn replace(&self, next: NextFilter) -> Result<(), TelemetryError> {
        Ok(self.filter.reload(next.0)?)
    }

    /// Writes a line for each kind of warning of which lines were left out more than a minute ago.
    pub fn log_suppressed(&self) {
        self.throttle.report(Instant::now(), false);
    }

    /// The same for all of them, at the end.
    pub fn log_all_suppressed(&self) {
        self.throttle.report(Instant::now(), true);
    }
}

/// The AMQP client logs each refusal and each orderly end as an error, the very things that the
/// broker's errors here say in full: comparing an empty broker with the topology alone gives 26 of
/// them. It is heard only where it is named.
fn directives(level: &LogFilter) -> String {
    let text = level.as_str();
    if text.contains("lapin") { text.to_owned() } else { format!("{text},lapin=off") }
}

/// The work is done, and the runtime is about to end.
static ENDS: AtomicBool = AtomicBool::new(false);

/// From now on panics say nothing: the AMQP client has a thread of its own, and tokio's timers
/// panic when that polls one whose runtime has ended. Nobody waits for it any more.
pub fn expect_end() {
    ENDS.store(true, Ordering::Relaxed);
}

/// Makes panics say where they happened, and what only where that is fixed text.
///
/// A formatted message can hold whatever was being worked on: a publisher's proxy password, an
/// address with credentials.
pub fn install_panic_hook() {
    panic::set_hook(Box::new(|info| {
        if ENDS.load(Ordering::Relaxed) {
            return;
        }
        let text = describe(info);
        if tracing::enabled!(tracing::Level::ERROR) {
            tracing::error!(panic = text, "a bug: this part of the program panicked");
        } else {
            // There is nothing left to do about an error here.
            let _ = writeln!(io::stderr(), "a bug: this program panicked at {text}");
        }
    }));
}

fn describe(info: &PanicHookInfo<'_>) -> String {
    let place = info.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
    match info.payload().downcast_ref::<&'static str>() {
        Some(fixed) => format!("{place}: {fixed}"),
        None => place,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn the_amqp_client_is_heard_only_where_it_is_named() {
        let directives = |text| directives(&LogFilter::try_new(text).unwrap());
        assert_eq!(directives("info"), "info,lapin=off");
        assert_eq!(directives("info,lapin=debug"), "info,lapin=debug");
    }

    #[test]
    fn a_panic_reports_its_place_and_no_formatted_text() {
        let texts = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&texts);
        panic::set_hook(Box::new(move |info| seen.lock().unwrap().push(describe(info))));
        let secret = "pl4nted";
        let _ = panic::catch_unwind(|| panic!("could not use {secret}"));
        let _ = panic::catch_unwind(|| panic!("a fixed text"));
        let _ = panic::take_hook();
        let texts = texts.lock().unwrap();
        assert!(texts[0].starts_with("src/telemetry/mod.rs:") && !texts[0].contains(secret), "{texts:?}");
        assert!(texts[1].ends_with(": a fixed text"), "{texts:?}");
    }
}
