//! Which letters are chosen.

use std::time::Duration;

use clap::Args;

use crate::cli::outcomes::{DeadLetters, dead_letters};
use crate::domain::dead_letter::DeadLetter;
use crate::domain::lane::Lane;
use crate::domain::time::Timestamp;

/// Letters of one queue that a scan holds at most.
const MOST: i64 = 65_535;

/// How far a scan goes.
#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct ScanLimit {
    /// Look at so many letters of each queue at most, the oldest first; up to 65,535
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=MOST as u64))]
    pub(super) scan: u64,
}

/// Which letters are chosen. Each option narrows; several values of one option widen.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct Filters {
    /// Letters of this class's queue; 'raw' is what the broker itself dead-lettered. May be
    /// repeated
    #[arg(long = "class", value_name = "CLASS", value_delimiter = ',', value_parser = dead_letters())]
    classes: Vec<DeadLetters>,
    /// Letters with this code, such as `ERROR_NO_SLOT_AVAILABLE`; in dead.raw the broker's reason,
    /// such as `expired`. May be repeated
    #[arg(long = "code", value_name = "CODE", value_delimiter = ',')]
    codes: Vec<String>,
    /// Letters of this task type. May be repeated
    #[arg(long = "type", value_name = "TYPE", value_delimiter = ',')]
    types: Vec<String>,
    /// Letters of jobs of this lane. May be repeated
    #[arg(long = "lane", value_name = "NAME", value_delimiter = ',')]
    lanes: Vec<Lane>,
    /// Letters of the job with this id. May be repeated
    #[arg(long = "id", value_name = "ID")]
    ids: Vec<String>,
    /// Letters that ended not before this: a time such as 2026-11-23T10:00:00Z, or how long ago,
    /// such as 2h
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<Moment>,
    /// Letters that ended before this, written as for --since
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<Moment>,
}

/// A moment as the user types it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    Ago(Duration),
    At(Timestamp),
}

fn moment(text: &str) -> Result<Moment, String> {
    if let Some(at) = Timestamp::parse(text) {
        return Ok(Moment::At(at));
    }
    let ago = humantime::parse_duration(text);
    ago.map(Moment::Ago)
        .map_err(|_| "neither a time such as 2026-11-23T10:00:00Z nor a span such as 2h".to_owned())
}

impl Moment {
    fn before(self, now: Timestamp) -> Timestamp {
        match self {
            Moment::At(at) => at,
            Moment::Ago(span) => {
                let millis = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
                Timestamp::from_millis(now.as_millis().saturating_sub(millis))
            }
        }
    }
}

impl Filters {
    /// The letters of one job.
    pub(super) fn of_job(id: &str, classes: &[DeadLetters]) -> Self {
        Self { ids: vec![id.to_owned()], classes: classes.to_vec(), ..Self::default() }
    }

    /// Whether nothing is left out.
    pub(super) fn is_everything(&self) -> bool {
        let Self { classes, codes, types, lanes, ids, since, until } = self;
        classes.is_empty()
            && codes.is_empty()
            && types.is_empty()
            && lanes.is_empty()
            && ids.is_empty()
            && since.is_none()
            && until.is_none()
    }

    /// Whether the filters name this code.
    pub(super) fn name_code(&self, code: &str) -> bool {
        self.codes.iter().any(|named| named.eq_ignore_ascii_case(code))
    }

    /// The queues to scan.
    pub(super) fn queues(&self) -> Vec<DeadLetters> {
        DeadLetters::all().filter(|queue| self.classes.is_empty() || self.classes.contains(queue)).collect()
    }

    /// The same with its spans counted from now.
    pub(super) fn at(&self, now: Timestamp) -> Chosen<'_> {
        let [since, until] = [self.since, self.until].map(|moment| moment.map(|moment| moment.before(now)));
        Chosen { filters: self, since, until }
    }
}

/// Filters in force. The queue has been chosen already.
pub(super) struct Chosen<'a> {
    filters: &'a Filters,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
}

impl Chosen<'_> {
    /// Whether a letter is chosen. A time never chooses a letter that does not say when it ended.
    pub(super) fn takes(&self, letter: &DeadLetter) -> bool {
        let Filters { codes, types, lanes, ids, .. } = self.filters;
        let one_of = |wanted: &[String], has: &str| {
            wanted.is_empty() || wanted.iter().any(|wanted| wanted.eq_ignore_ascii_case(has))
        };
        one_of(codes, &letter.code)
            && one_of(types, letter.task_type.as_deref().unwrap_or_default())
            && (lanes.is_empty() || lanes.contains(&letter.lane))
            && (ids.is_empty() || ids.contains(&letter.id))
            && self.since.is_none_or(|since| letter.ended.is_some_and(|ended| ended >= since))
            && self.until.is_none_or(|until| letter.ended.is_some_and(|ended| ended < until))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_time_or_a_span() {
        let now = Timestamp::parse("2026-11-23T10:00:00Z").unwrap();
        let at = |text| moment(text).unwrap().before(now).to_string();
        assert_eq!(at("2h 30m"), "2026-11-23T07:30:00.000Z");
        assert_eq!(at("2026-01-01T01:00:00+01:00"), "2026-01-01T00:00:00.000Z");
        assert!(moment("yesterday").is_err() && moment("").is_err() && moment("7").is_err());
    }

    #[test]
    fn classes_choose_queues_and_none_means_all() {
        let some = Filters { classes: vec![DeadLetters::Raw], ..Filters::default() };
        assert_eq!((some.queues(), some.is_everything()), (vec![DeadLetters::Raw], false));
        assert_eq!(Filters::default().queues().len(), 13);
        assert!(Filters::default().is_everything());
    }
}
