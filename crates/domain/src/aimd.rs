//! How many calls may be under way at once: slow start, then additive increase, and multiplicative
//! decrease.

use std::time::Duration;

use super::time::Timestamp;

/// Ends of calls by which the share of failures is judged, at the least.
const LEAST_KNOWN: u32 = 8;
/// What is under way together fails together: it shrinks a window once.
const ONE_CUT: Duration = Duration::from_secs(1);
/// Refusals in a row by which a type is short of slots, and not just met a busy moment.
const SHORT_AFTER: u32 = 3;
/// A type whose window is at 1 is shut after so many refusals in a row.
const SHUT_AFTER: u32 = 5;
/// A type is shut, however wide its window, after so many submissions that failed with no other
/// answer between: with one in ten failing by itself that comes once in a hundred million.
const FAILING_AFTER: u32 = 8;

/// A window on calls.
#[derive(Debug, Clone, PartialEq)]
pub struct AimdWindow {
    size: f64,
    threshold: f64,
    most: f64,
    cut_at: Option<Timestamp>,
    last: LastCalls,
}

/// How the last calls ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct LastCalls {
    /// A bit for each, the latest lowest: whether it failed.
    failed: u16,
    known: u32,
}

impl LastCalls {
    fn note(&mut self, failed: bool) {
        self.failed = (self.failed << 1) | u16::from(failed);
        self.known = (self.known + 1).min(u16::BITS);
    }

    /// Whether failures are most of what comes back. One call in ten that hangs is its job's
    /// trouble: fewer calls for all would make the others wait behind it.
    fn are_mostly_failures(self) -> bool {
        self.known >= LEAST_KNOWN && self.failed.count_ones() * 2 >= self.known
    }
}

impl AimdWindow {
    /// One call, growing with each good answer up to `most`.
    #[must_use]
    pub fn starting(most: usize) -> Self {
        let most = as_size(most.max(1));
        Self { size: 1.0, threshold: most, most, cut_at: None, last: LastCalls::default() }
    }

    /// As wide as it may be.
    #[must_use]
    pub fn wide(most: usize) -> Self {
        let most = as_size(most.max(1));
        Self { size: most, threshold: most, most, cut_at: None, last: LastCalls::default() }
    }

    /// Calls that may be under way at once, at least 1.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 1 and `most`, a usize"
    )]
    pub fn size(&self) -> usize {
        self.size as usize
    }

    /// A good answer: twice as many a round trip below the threshold, one more above it.
    pub fn good(&mut self) {
        self.last.note(false);
        let step = if self.size < self.threshold { 1.0 } else { 1.0 / self.size };
        self.size = (self.size + step).min(self.most);
    }

    /// A failure of those that can concern all that is under way: half, where most calls fail.
    pub fn failed(&mut self, now: Timestamp) {
        self.last.note(true);
        if self.last.are_mostly_failures() && self.cut_at.is_none_or(|at| now.since(at) >= ONE_CUT) {
            self.cut_at = Some(now);
            self.halve();
        }
    }

    /// From one call again, and quickly back to where it was.
    pub fn restart(&mut self) {
        self.last = LastCalls::default();
        self.threshold = self.threshold.max(self.size);
        self.size = 1.0;
    }

    fn halve(&mut self) {
        self.size = (self.size / 2.0).max(1.0);
        self.threshold = self.size;
    }
}

/// The windows hold at most some thousands.
fn as_size(number: usize) -> f64 {
    u32::try_from(number).map_or(f64::from(u32::MAX), f64::from)
}

/// The window of one task type: the API has slots by type.
#[derive(Debug, Clone, PartialEq)]
pub struct TypeWindow {
    window: AimdWindow,
    refused_in_a_row: u32,
    failed_in_a_row: u32,
    shut: bool,
}

impl TypeWindow {
    /// Wide, until the API says otherwise.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { window: AimdWindow::wide(most), refused_in_a_row: 0, failed_in_a_row: 0, shut: false }
    }

    /// Submissions of the type that may be under way at once; 0 while it is shut.
    #[must_use]
    pub fn size(&self) -> usize {
        if self.shut { 0 } else { self.window.size() }
    }

    /// Whether nothing of this type is submitted.
    #[must_use]
    pub fn is_shut(&self) -> bool {
        self.shut
    }

    /// Whether the API is short of slots for it, so that more than can be under way had better not
    /// wait here.
    #[must_use]
    pub fn is_short(&self) -> bool {
        self.refused_in_a_row >= SHORT_AFTER
    }

    /// The API accepted a task of it.
    pub fn good(&mut self) {
        self.refused_in_a_row = 0;
        self.failed_in_a_row = 0;
        self.window.good();
    }

    /// The API has no slot for it, or wants fewer calls. Returns whether this shut it.
    pub fn refused(&mut self) -> bool {
        self.refused_in_a_row = self.refused_in_a_row.saturating_add(1);
        self.window.halve();
        let shuts = !self.shut && self.window.size() == 1 && self.refused_in_a_row >= SHUT_AFTER;
        self.shut |= shuts;
        shuts
    }

    /// createTask refused a job of it for the job's own sake: it works.
    pub fn answered(&mut self) {
        self.failed_in_a_row = 0;
    }

    /// A submission of it failed in a way that says nothing about its job. Returns whether this
    /// shut it.
    pub fn failed(&mut self) -> bool {
        self.failed_in_a_row = self.failed_in_a_row.saturating_add(1);
        let shuts = !self.shut && self.failed_in_a_row >= FAILING_AFTER;
        self.shut |= shuts;
        shuts
    }

    /// Another replica found it shut.
    pub fn shut(&mut self) {
        self.shut = true;
    }

    /// Slots are back: one submission, growing with each that is accepted.
    pub fn reopen(&mut self) {
        if self.shut {
            self.shut = false;
            self.refused_in_a_row = 0;
            self.failed_in_a_row = 0;
            self.window.threshold = self.window.most;
            self.window.size = 1.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Timestamp = Timestamp::from_millis(1_790_000_000_000);

    #[test]
    fn good_answers_double_it_a_round_trip_until_it_is_as_wide_as_it_may_be() {
        let mut window = AimdWindow::starting(16);
        let mut sizes = Vec::new();
        for _ in 0..5 {
            sizes.push(window.size());
            (0..window.size()).for_each(|_| window.good());
        }
        assert_eq!(sizes, [1, 2, 4, 8, 16]);
    }

    #[test]
    fn what_failed_together_halves_it_once_and_it_grows_by_one_a_round_trip_from_there() {
        let mut window = AimdWindow::wide(64);
        (0..10).for_each(|_| window.failed(NOW));
        assert_eq!(window.size(), 32);
        window.failed(NOW.plus(ONE_CUT));
        assert_eq!(window.size(), 16);
        (0..17).for_each(|_| window.good());
        assert_eq!(window.size(), 17);
    }

    #[test]
    fn one_failure_in_ten_narrows_nothing_and_one_in_two_does() {
        let mut window = AimdWindow::wide(64);
        let fail_one_in = |window: &mut AimdWindow, share: u32| {
            for call in 0..100 {
                let now = NOW.plus(ONE_CUT * call);
                if call % share == 0 { window.failed(now) } else { window.good() }
            }
        };
        fail_one_in(&mut window, 10);
        assert_eq!(window.size(), 64);
        fail_one_in(&mut window, 2);
        assert!(window.size() < 8, "{}", window.size());
    }

    #[test]
    fn a_restart_finds_its_way_back_quickly() {
        let mut window = AimdWindow::wide(64);
        window.restart();
        assert_eq!(window.size(), 1);
        (0..63).for_each(|_| window.good());
        assert_eq!(window.size(), 64);
    }

    #[test]
    fn a_type_is_shut_by_refusals_in_a_row_and_not_by_single_ones() {
        let mut window = TypeWindow::new(16);
        for _ in 0..100 {
            assert!(!window.refused());
            window.good();
        }
        let until_shut = (1..).find(|_| window.refused());
        assert_eq!((until_shut, window.size()), (Some(5), 0));
        assert!(!window.refused(), "it is news once");
        window.reopen();
        assert_eq!(window.size(), 1);
    }

    #[test]
    fn a_type_is_shut_by_eight_failed_submissions_with_no_acceptance_between() {
        let mut window = TypeWindow::new(16);
        for number in 1..1_000 {
            assert!(!window.failed(), "one in two fails: {number}");
            window.good();
        }
        assert_eq!((1..).find(|_| window.failed()), Some(8));
        assert_eq!(window.size(), 0);
    }

    proptest! {
        #[test]
        fn it_stays_between_one_and_its_bound(most in 1_usize..5_000, events in prop::collection::vec(0_u8..3, 0..400)) {
            let mut window = AimdWindow::starting(most);
            let mut now = NOW;
            for event in events {
                match event {
                    0 => window.good(),
                    1 => { now = now.plus(ONE_CUT); window.failed(now); }
                    _ => window.restart(),
                }
                prop_assert!((1..=most).contains(&window.size()));
            }
        }
    }
}
