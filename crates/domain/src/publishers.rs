//! How many jobs each publisher brings, and which jobs wait because their publisher brings more
//! than the settings allow.
//!
//! A replica counts its own jobs. What the other replicas have counted is an argument, as they last
//! reported it. So a publisher at or below the limit never waits, and one above it can get more
//! than the limit by what the other replicas let pass since their last report.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::fingerprint::Fingerprint;
use super::message::Properties;
use super::sanitize::shown;

/// Publishers that are counted. Of more, those with the fewest jobs are forgotten.
pub const MAX_PUBLISHERS: usize = 1_024;
/// Publishers that are reported.
pub const MAX_REPORTED: usize = 8;
/// The longest name, in bytes: a kind, a shown text and a fingerprint.
pub const MAX_NAME: usize = 160;
/// Characters of a publisher's own text in its name.
const TEXT: usize = 32;
/// Jobs that name no publisher count as those of one: else leaving the property out would be the
/// way around the limit.
const UNNAMED: &str = "(unnamed)";
const MINUTE: Duration = Duration::from_secs(60);

/// Two seconds each. With the last one, which is not over, they span 54 to 56 s. With the age of
/// what the others have reported (2 s and a little) nothing older than a minute counts.
const MINUTE_BUCKETS: usize = 28;
const MINUTE_BUCKET: Duration = Duration::from_secs(2);
const HOUR_BUCKETS: usize = 12;
const HOUR_BUCKET: Duration = Duration::from_secs(300);

/// Who has published a job: the user that the broker has verified, else the program that the
/// message names. A program cannot use up the limit of a user by naming itself so. Fit to be shown;
/// two publishers have two names.
#[must_use]
pub fn publisher(properties: &Properties) -> String {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let named = |kind, text: &str| match shown(text, TEXT) {
        whole if whole == text => format!("{kind} {text}"),
        cut => format!("{kind} {cut} #{}", Fingerprint::of_publisher(text)),
    };
    match (given(&properties.user_id), given(&properties.app_id)) {
        (Some(user), _) => named("user", &user),
        (None, Some(app)) => named("app", &app),
        (None, None) => UNNAMED.to_owned(),
    }
}

/// What a publisher has brought, as replicas report it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PublisherFigures {
    /// See [`publisher`].
    pub name: String,
    /// Jobs let pass within the last minute.
    pub minute: u32,
    /// Jobs let pass within the last hour.
    pub hour: u32,
    /// How often jobs were delayed within the last hour.
    pub delayed: u32,
}

/// Counts of the last buckets of time.
#[derive(Debug, Clone, Copy)]
struct Recent<const N: usize> {
    counts: [u32; N],
    newest: u64,
}

impl<const N: usize> Recent<N> {
    const fn new() -> Self {
        Self { counts: [0; N], newest: 0 }
    }

    fn slot(bucket: u64) -> usize {
        usize::try_from(bucket % N as u64).unwrap_or(0)
    }

    fn advance(&mut self, bucket: u64) {
        let passed = bucket.saturating_sub(self.newest).min(N as u64);
        for step in 0..passed {
            self.counts[Self::slot(bucket - step)] = 0;
        }
        self.newest = self.newest.max(bucket);
    }

    fn add(&mut self, bucket: u64) {
        self.advance(bucket);
        let count = &mut self.counts[Self::slot(self.newest)];
        *count = count.saturating_add(1);
    }

    fn sum(&self, bucket: u64) -> u32 {
        let mut now = *self;
        now.advance(bucket);
        now.counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }
}

#[derive(Debug)]
struct Figures {
    minute: Recent<MINUTE_BUCKETS>,
    delayed: Recent<MINUTE_BUCKETS>,
    hour: Recent<HOUR_BUCKETS>,
    hour_delayed: Recent<HOUR_BUCKETS>,
}

impl Figures {
    const NONE: Self = Self {
        minute: Recent::new(),
        delayed: Recent::new(),
        hour: Recent::new(),
        hour_delayed: Recent::new(),
    };
}

/// The limit, and what is known of the other replicas.
#[derive(Debug, Clone, Copy)]
pub struct PublisherLimit {
    /// Jobs of one publisher that the whole fleet takes within a minute.
    pub per_minute: NonZeroU32,
    /// Those that the other replicas have let pass within the last minute, as they report it.
    pub elsewhere: u32,
    /// Replicas of the fleet, this one included.
    pub replicas: u32,
}

/// The publishers of a replica's jobs.
#[derive(Debug, Default)]
pub struct Publishers {
    by_name: BTreeMap<String, Figures>,
}

fn buckets(now: Duration) -> (u64, u64) {
    // Never 0, which stands for "nothing yet".
    (now.as_secs() / MINUTE_BUCKET.as_secs() + 1, now.as_secs() / HOUR_BUCKET.as_secs() + 1)
}

impl Publishers {
    /// Counts a job of a publisher. `now`: a steady clock's reading.
    ///
    /// # Errors
    /// The publisher is at its limit: the job is to wait about so long. The more jobs of it wait
    /// already, the longer, so that they do not all come back together, time and again.
    pub fn admit(
        &mut self,
        name: &str,
        limit: Option<PublisherLimit>,
        now: Duration,
    ) -> Result<(), Duration> {
        let (minute, hour) = buckets(now);
        if !self.by_name.contains_key(name) {
            self.make_room(hour);
            self.by_name.insert(name.to_owned(), Figures::NONE);
        }
        let Some(figures) = self.by_name.get_mut(name) else { return Ok(()) };
        if let Some(PublisherLimit { per_minute, elsewhere, replicas }) = limit
            && figures.minute.sum(minute).saturating_add(elsewhere) >= per_minute.get()
        {
            figures.delayed.add(minute);
            figures.hour_delayed.add(hour);
            // As many wait because of each of the other replicas.
            let ahead = figures.delayed.sum(minute).saturating_mul(replicas.max(1));
            return Err(MINUTE.saturating_mul(ahead) / per_minute.get());
        }
        figures.minute.add(minute);
        figures.hour.add(hour);
        Ok(())
    }

    fn make_room(&mut self, hour: u64) {
        if self.by_name.len() < MAX_PUBLISHERS {
            return;
        }
        let jobs = |figures: &Figures| figures.hour.sum(hour).saturating_add(figures.hour_delayed.sum(hour));
        let fewest = self.by_name.iter().min_by_key(|(_, figures)| jobs(figures));
        if let Some(name) = fewest.map(|(name, _)| name.clone()) {
            self.by_name.remove(&name);
        }
    }

    /// The publishers with the most jobs, the most within the last minute first.
    #[must_use]
    pub fn top(&self, now: Duration) -> Vec<PublisherFigures> {
        let (minute, hour) = buckets(now);
        let figures = |(name, figures): (&String, &Figures)| PublisherFigures {
            name: name.clone(),
            minute: figures.minute.sum(minute),
            hour: figures.hour.sum(hour),
            delayed: figures.hour_delayed.sum(hour),
        };
        let mut all: Vec<_> = self.by_name.iter().map(figures).collect();
        all.retain(|figures| figures.hour > 0 || figures.delayed > 0);
        all.sort_by_key(|figures| std::cmp::Reverse((figures.minute, figures.hour, figures.delayed)));
        all.truncate(MAX_REPORTED);
        all
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What others report is at most so old.
    const REPORTED_EVERY: u64 = 2_000;

    fn limit(per_minute: u32) -> PublisherLimit {
        let per_minute = NonZeroU32::new(per_minute).unwrap();
        PublisherLimit { per_minute, elsewhere: 0, replicas: 1 }
    }

    fn millis(at: u64) -> Duration {
        Duration::from_millis(at)
    }

    /// The most moments within any span of this length.
    fn most_within(at: &[u64], span: u64) -> usize {
        at.iter()
            .map(|end| at.iter().filter(|at| **at <= *end && **at + span > *end).count())
            .max()
            .unwrap_or(0)
    }

    proptest! {
        #[test]
        fn a_publisher_below_the_limit_never_waits_whichever_replica_gets_its_jobs(
            mut jobs in proptest::collection::vec((0_u64..300_000, 0_usize..3), 1..300),
            phase in 0_u64..REPORTED_EVERY,
        ) {
            jobs.sort_unstable();
            let at: Vec<u64> = jobs.iter().map(|(at, _)| *at).collect();
            let per_minute = u32::try_from(most_within(&at, 60_000)).unwrap();
            let mut replicas: [Publishers; 3] = Default::default();
            let mut reported = [0; 3];
            let mut next_report = phase;
            for (at, taker) in jobs {
                while next_report <= at {
                    reported = std::array::from_fn(|n| {
                        replicas[n].top(millis(next_report)).first().map_or(0, |figures| figures.minute)
                    });
                    next_report += REPORTED_EVERY;
                }
                let elsewhere = reported.iter().sum::<u32>() - reported[taker];
                let limit = PublisherLimit { elsewhere, replicas: 3, ..limit(per_minute) };
                prop_assert_eq!(replicas[taker].admit("user a", Some(limit), millis(at)), Ok(()));
            }
        }

        #[test]
        fn no_more_than_the_limit_pass_one_replica_within_54_s(
            mut at in proptest::collection::vec(0_u64..200_000, 1..400),
            per_minute in 1_u32..40,
        ) {
            at.sort_unstable();
            let mut publishers = Publishers::default();
            let passed: Vec<u64> = at
                .into_iter()
                .filter(|at| publishers.admit("user a", Some(limit(per_minute)), millis(*at)).is_ok())
                .collect();
            prop_assert!(most_within(&passed, 54_000) <= per_minute as usize);
        }

        #[test]
        fn one_publishers_flood_delays_no_other_and_each_of_its_own_waits_longer(flood in 2_u32..500) {
            let mut publishers = Publishers::default();
            let mut last = Duration::ZERO;
            for _ in 0..flood {
                if let Err(wait) = publishers.admit("user wild", Some(limit(1)), Duration::ZERO) {
                    prop_assert!(wait > last);
                    last = wait;
                }
            }
            prop_assert_eq!(last, MINUTE * (flood - 1));
            prop_assert_eq!(publishers.admit("user b", Some(limit(1)), Duration::ZERO), Ok(()));
        }
    }

    #[test]
    fn without_a_limit_all_pass_and_are_counted_for_an_hour() {
        let mut publishers = Publishers::default();
        for n in 0..100 {
            assert_eq!(publishers.admit("app a", None, millis(n)), Ok(()));
        }
        let top = |at| publishers.top(Duration::from_secs(at));
        let figures = |minute| PublisherFigures { name: "app a".to_owned(), minute, hour: 100, delayed: 0 };
        assert_eq!((top(1), top(100)), (vec![figures(100)], vec![figures(0)]));
        assert_eq!(top(3_700), vec![]);
    }

    #[test]
    fn however_many_names_there_are_the_busiest_stay_known() {
        let mut publishers = Publishers::default();
        for n in 0..3 * MAX_PUBLISHERS {
            let _ = publishers.admit("user busy", Some(limit(50)), Duration::ZERO);
            let _ = publishers.admit(&format!("app {n}"), Some(limit(50)), Duration::ZERO);
        }
        assert_eq!(publishers.by_name.len(), MAX_PUBLISHERS);
        let top = publishers.top(Duration::ZERO);
        assert_eq!((top.len(), &*top[0].name, top[0].minute), (MAX_REPORTED, "user busy", 50));
    }

    #[test]
    fn two_publishers_have_two_names_that_are_fit_to_be_shown() {
        let named = |user: Option<&str>, app: Option<&str>| {
            let (user_id, app_id) = (user.map(str::to_owned), app.map(str::to_owned));
            publisher(&Properties { user_id, app_id, ..Properties::default() })
        };
        assert_eq!(named(Some("alice"), Some("shop")), "user alice");
        assert_eq!(named(None, Some("alice")), "app alice");
        assert_eq!(named(Some(""), None), UNNAMED);
        let (one, other) = (named(None, Some("\u{1b}[2J")), named(None, Some("\u{7}[2J")));
        assert!(one.starts_with("app ·[2J #") && one != other, "{one} {other}");
        let long = |end: &str| named(None, Some(&format!("{}{end}", "🦀".repeat(60))));
        assert!(long("a") != long("b") && long("a").len() <= MAX_NAME, "{}", long("a"));
    }
}
