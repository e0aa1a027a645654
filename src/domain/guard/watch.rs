//! Counts events within a span of time.

use std::collections::VecDeque;
use std::time::Duration;

use crate::domain::time::Timestamp;

/// Tells when so many events have come within a span.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watch {
    limit: usize,
    span: Duration,
    seen: VecDeque<Timestamp>,
}

impl Watch {
    /// Watches for `limit` events within `span`.
    #[must_use]
    pub fn new(limit: usize, span: Duration) -> Self {
        Self { limit, span, seen: VecDeque::with_capacity(limit) }
    }

    /// Notes an event; whether with it so many came within the span. Then it begins anew.
    pub fn note(&mut self, now: Timestamp) -> bool {
        self.seen.retain(|at| now.since(*at) < self.span);
        self.seen.push_back(now);
        let full = self.seen.len() >= self.limit;
        if full {
            self.seen.clear();
        }
        full
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_events_within_the_span_count() {
        let mut watch = Watch::new(3, Duration::from_secs(60));
        let at = |seconds: i64| Timestamp::from_millis(seconds * 1_000);
        assert!(!watch.note(at(0)) && !watch.note(at(1)));
        assert!(!watch.note(at(60)), "the first is a minute old");
        assert!(watch.note(at(60)));
        assert!(!watch.note(at(61)), "it begins anew");
    }
}
