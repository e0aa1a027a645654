//! In a storm thousands of jobs meet the same trouble at once. Each kind of warning is written so
//! often and no more, and what was left out is reported in one line.

use parking_lot::{Mutex, MutexGuard};
use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// How many lines of a kind are written in a span of time.
const MOST: u32 = 10;
const SPAN: Duration = Duration::from_secs(60);
/// Kinds that are distinguished. Each is a place in the source, so there are some hundred at most,
/// those of libraries included.
const MAX_KINDS: usize = 1_024;
/// Longest text that a line about lines left out repeats, in characters.
const MAX_TEXT: usize = 200;
/// The part that the lines about lines left out come from; they are throttled by how often they are
/// asked for.
const OWN: &str = "captcha_worker::telemetry";

/// Warnings and errors by their kind.
#[derive(Debug)]
struct LogThrottle<K> {
    kinds: HashMap<K, LineKind>,
}

impl<K> Default for LogThrottle<K> {
    fn default() -> Self {
        Self { kinds: HashMap::new() }
    }
}

#[derive(Debug)]
struct LineKind {
    /// When the span began, and what was written in it.
    since: Instant,
    written: u32,
    suppressed: Option<Suppressed>,
}

/// Lines of one kind that were not written.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Suppressed {
    /// The first of them came then.
    since: Instant,
    lines: u64,
    /// What the first of them said.
    text: String,
}

impl<K: Eq + Hash> LogThrottle<K> {
    /// Whether a line of this kind is written at this moment. `text` gives what it says, and is
    /// asked only for the first one left out.
    fn admit(&mut self, kind: K, now: Instant, text: impl FnOnce() -> String) -> bool {
        if self.kinds.len() >= MAX_KINDS && !self.kinds.contains_key(&kind) {
            return true;
        }
        let kind = self.kinds.entry(kind).or_insert(LineKind { since: now, written: 0, suppressed: None });
        if now.duration_since(kind.since) >= SPAN {
            (kind.since, kind.written) = (now, 0);
        }
        if kind.written < MOST {
            kind.written += 1;
            return true;
        }
        let suppressed =
            kind.suppressed.get_or_insert_with(|| Suppressed { since: now, lines: 0, text: text() });
        suppressed.lines += 1;
        false
    }

    /// What was left out since a span ago or longer, once.
    fn due(&mut self, now: Instant) -> Vec<Suppressed> {
        let due = |suppressed: &mut Suppressed| now.duration_since(suppressed.since) >= SPAN;
        self.kinds.values_mut().filter_map(|kind| kind.suppressed.take_if(due)).collect()
    }

    /// All that was left out and has not been reported.
    fn rest(&mut self) -> Vec<Suppressed> {
        self.kinds.values_mut().filter_map(|kind| kind.suppressed.take()).collect()
    }
}

/// The throttle of a whole process, of warnings and errors alone. Their kind is the place in the
/// source that writes them.
#[derive(Debug, Clone, Default)]
pub(super) struct ProcessThrottle(Arc<Mutex<LogThrottle<Identifier>>>);

impl ProcessThrottle {
    fn lock(&self) -> MutexGuard<'_, LogThrottle<Identifier>> {
        // Each entry is whole at every moment.
        self.0.lock()
    }

    /// Writes a line for each kind of which lines were left out: those that have waited a span for
    /// it, or all at the end.
    pub(super) fn report(&self, now: Instant, is_end: bool) {
        // Not under the lock, which the lines themselves would need.
        let dropped = if is_end { self.lock().rest() } else { self.lock().due(now) };
        for Suppressed { lines, text, .. } in dropped {
            tracing::warn!(target: OWN, lines, like = text, "similar log lines were dropped");
        }
    }

    /// Whether this line is written.
    fn admits(&self, event: &Event<'_>) -> bool {
        let metadata = event.metadata();
        if *metadata.level() > Level::WARN || metadata.target() == OWN {
            return true;
        }
        self.lock().admit(metadata.callsite(), Instant::now(), || text_of(event))
    }
}

/// A layer that writes lines, as the throttle allows. (A filter that looks at events would have to
/// be asked about every line that nobody wants.)
pub(super) struct ThrottledLayer<L> {
    pub(super) lines: L,
    pub(super) throttle: ProcessThrottle,
}

impl<S: Subscriber, L: Layer<S>> Layer<S> for ThrottledLayer<L> {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        self.lines.on_new_span(attributes, id, context);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        self.lines.on_record(id, values, context);
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        if self.throttle.admits(event) {
            self.lines.on_event(event, context);
        }
    }

    fn on_enter(&self, id: &Id, context: Context<'_, S>) {
        self.lines.on_enter(id, context);
    }

    fn on_exit(&self, id: &Id, context: Context<'_, S>) {
        self.lines.on_exit(id, context);
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        self.lines.on_close(id, context);
    }
}

/// An event's message.
fn text_of(event: &Event<'_>) -> String {
    struct Message(String);
    impl Visit for Message {
        fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
            if field.name() == "message" {
                self.0 = format!("{value:?}").chars().take(MAX_TEXT).collect();
            }
        }
    }
    let mut message = Message(String::new());
    event.record(&mut message);
    message.0
}

#[cfg(test)]
mod tests {
    use std::io;

    use tracing_subscriber::fmt::MakeWriter;
    use tracing_subscriber::layer::SubscriberExt;
    use tracing_subscriber::{fmt as lines, registry};

    use super::*;

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn so_many_lines_a_minute_of_each_kind_are_written_and_the_rest_is_counted_once() {
        let (mut throttle, began) = (LogThrottle::default(), Instant::now());
        // A storm of two minutes and a half, a thousand lines a second.
        let mut written = 0;
        let mut dropped = Vec::new();
        for millis in 0..150_000 {
            let now = began + Duration::from_millis(millis);
            written += u32::from(throttle.admit("one", now, || "trouble".to_owned()));
            if millis % 10_000 == 0 {
                dropped.extend(throttle.due(now));
            }
        }
        assert_eq!(written, 3 * MOST);
        let end = began + seconds(150);
        assert!(throttle.admit("other", end, String::new), "another kind");
        assert!(throttle.due(end).is_empty(), "not a minute old");
        dropped.extend(throttle.due(end + SPAN));
        assert!(dropped.iter().all(|suppressed| suppressed.text == "trouble"));
        assert_eq!(
            dropped.iter().map(|suppressed| suppressed.lines).sum::<u64>(),
            150_000 - u64::from(written)
        );
        assert_eq!(dropped.len(), 3, "{dropped:?}");
        assert!(throttle.rest().is_empty(), "reported once");
    }

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Buffer {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    #[test]
    fn a_storm_of_warnings_is_some_lines_and_one_that_counts_the_rest() {
        let (buffer, throttle) = (Buffer::default(), ProcessThrottle::default());
        let lines = lines::layer().with_ansi(false).with_writer(buffer.clone());
        let filter = tracing_subscriber::EnvFilter::new("info");
        let throttled = ThrottledLayer { lines, throttle: throttle.clone() };
        let subscriber = registry().with(throttled.with_filter(filter));
        tracing::subscriber::with_default(subscriber, || {
            for n in 0..1_000 {
                tracing::warn!(n, "a {} could not be published", "ticket");
                tracing::info!(n, "a job");
            }
            throttle.report(Instant::now(), false);
            throttle.report(Instant::now(), true);
            throttle.report(Instant::now(), true);
        });
        let text = String::from_utf8(buffer.0.lock().clone()).unwrap();
        let count = |word: &str| text.lines().filter(|line| line.contains(word)).count();
        assert_eq!(count("a job"), 1_000, "what is no warning passes");
        assert_eq!(count(" a ticket could not be published"), 10, "{text}");
        assert_eq!(count("similar log lines were dropped"), 1);
        assert_eq!(count("lines=990 like=\"a ticket could not be published\""), 1);
    }
}
