//! What happened, in words; written only when somebody wants to read it.

use parking_lot::Mutex;
use std::sync::Arc;

use tokio::time::Instant;

/// The words so far, where they are wanted. Clones write into the same.
#[derive(Clone)]
pub(crate) struct Chronicle {
    began: Instant,
    lines: Option<Arc<Mutex<Vec<String>>>>,
}

impl Chronicle {
    pub(crate) fn new(wanted: bool) -> Self {
        Self { began: Instant::now(), lines: wanted.then(Arc::default) }
    }

    /// When the history began.
    pub(crate) fn began(&self) -> Instant {
        self.began
    }

    /// Adds a line, with the time since the history began.
    pub(crate) fn record(&self, what: impl FnOnce() -> String) {
        if let Some(lines) = &self.lines {
            let line = format!("{:>9.3} s  {}", self.began.elapsed().as_secs_f64(), what());
            lines.lock().push(line);
        }
    }

    pub(crate) fn text(&self) -> String {
        let lines = self.lines.as_ref().map(|lines| lines.lock());
        lines.map(|lines| lines.join("\n")).unwrap_or_default()
    }
}
