//! The lane of a job: the queue of jobs that it came by, and the name under which it is counted;
//! and which lane is served next.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::message::{Headers, Value};

/// Header of an outcome: the lane of its job, where that is not the default one.
pub const LANE_HEADER: &str = "captcha-lane";
/// Longest name, in bytes.
pub const MAX_LANE: usize = 32;
/// What names are made of, as a pattern.
pub const LANE_PATTERN: &str = "^[a-z0-9][a-z0-9_-]{0,31}$";
/// Lanes beside the default one.
pub const MAX_LANES: usize = 16;
/// Lanes that a fleet remembers, removed ones included.
pub const MAX_REMEMBERED: usize = 32;
/// The largest weight.
pub const MAX_WEIGHT: u32 = 1_000;
/// The lane of the queue that every fleet has.
const DEFAULT: &str = "default";

/// A lane. It is held by each job and ticket in flight, so clones share the name.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
// `None` is the default lane: most fleets have no other, and it costs nothing.
pub struct Lane(Option<Arc<str>>);

/// No name of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a lane's name has 1 to 32 of a-z, 0-9, '_' and '-', and begins with a letter or a digit")]
pub struct LaneError;

impl Lane {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.as_deref().unwrap_or(DEFAULT)
    }

    /// Whether it is the lane that every fleet has.
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.0.is_none()
    }

    /// That of an outcome with these headers.
    #[must_use]
    pub fn of_outcome(headers: &Headers) -> Self {
        let named = headers.get(LANE_HEADER).and_then(Value::as_text);
        named.and_then(|name| name.parse().ok()).unwrap_or_default()
    }
}

/// What an operator has set for a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneRules {
    /// Its part of the work while other lanes have work too: 1 to [`MAX_WEIGHT`].
    pub weight: u32,
    /// Its tickets and submissions that one replica holds at once; `None`: no limit of its own.
    pub max_in_flight: Option<usize>,
    /// Calls a second of the whole fleet for its jobs; `None`: no limit of its own.
    pub max_calls_per_second: Option<NonZeroU32>,
}

impl Default for LaneRules {
    /// Those of a lane that no settings name.
    fn default() -> Self {
        Self { weight: 1, max_in_flight: None, max_calls_per_second: None }
    }
}

/// Which lane is served next: deficit round robin over those that have work.
///
/// In each round a lane is credited its weight, and pays for a job the largest weight of all lanes
/// that have work. So the heaviest lane is served once a round, and others as often as their
/// weights are of its weight: what comes by an empty lane waits for a few jobs of others, however
/// large the weights are.
#[derive(Debug, Clone, Default)]
pub struct DeficitRoundRobin {
    lanes: Vec<Turn>,
    /// Where the next round begins.
    next: usize,
}

#[derive(Debug, Clone)]
struct Turn {
    lane: Lane,
    weight: u32,
    credit: u32,
    /// It had work when the last draw began.
    works: bool,
}

impl DeficitRoundRobin {
    /// Adds a lane, or changes its weight.
    pub fn set(&mut self, lane: &Lane, weight: u32) {
        let weight = weight.clamp(1, MAX_WEIGHT);
        match self.lanes.iter_mut().find(|turn| turn.lane == *lane) {
            Some(turn) => turn.weight = weight,
            None => self.lanes.push(Turn { lane: lane.clone(), weight, credit: 0, works: false }),
        }
    }

    /// Draws the lane whose turn it is; `None` where none has work.
    pub fn draw(&mut self, has_work: impl Fn(&Lane) -> bool) -> Option<&Lane> {
        self.lanes.iter_mut().for_each(|turn| turn.works = has_work(&turn.lane));
        let price = self.lanes.iter().filter(|turn| turn.works).map(|turn| turn.weight).max()?;
        let count = self.lanes.len();
        // One round is enough: the heaviest lane can pay after it.
        let drawn = (self.next..self.next + count).map(|at| at % count).find(|at| {
            let turn = &mut self.lanes[*at];
            // A lane without work saves nothing, and none saves more than one job's price.
            turn.credit = if turn.works { turn.credit.min(price) + turn.weight } else { 0 };
            turn.credit >= price
        })?;
        self.lanes[drawn].credit -= price;
        self.next = (drawn + 1) % count;
        Some(&self.lanes[drawn].lane)
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Lane {
    type Err = LaneError;

    fn from_str(name: &str) -> Result<Self, LaneError> {
        let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let fits = (1..=MAX_LANE).contains(&name.len())
            && name.bytes().next().is_some_and(word)
            && name.bytes().all(|byte| word(byte) || byte == b'_' || byte == b'-')
            // In metrics it stands for all lanes together.
            && name != "all";
        match fits {
            true => Ok(Self((name != DEFAULT).then(|| name.into()))),
            false => Err(LaneError),
        }
    }
}

impl Serialize for Lane {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Lane {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = std::borrow::Cow::<str>::deserialize(deserializer)?;
        name.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_fits_into_queues_and_labels_or_is_refused() {
        for name in ["urgent", "0", "team-a_2", &"x".repeat(MAX_LANE)] {
            let lane: Lane = name.parse().unwrap();
            assert_eq!((lane.name(), lane.is_default()), (name, false));
            assert_eq!(serde_json::from_str::<Lane>(&serde_json::to_string(&lane).unwrap()).unwrap(), lane);
        }
        for name in ["", "Urgent", "a.b", "-a", "_a", "a b", "ä", &"x".repeat(MAX_LANE + 1)] {
            assert_eq!(name.parse::<Lane>(), Err(LaneError), "{name:?}");
        }
        assert_eq!("default".parse::<Lane>(), Ok(Lane::default()));
        assert_eq!(Lane::default().name(), "default");
    }

    fn lanes(weights: &[u32]) -> Vec<Lane> {
        (0..weights.len()).map(|number| format!("lane-{number}").parse().unwrap()).collect()
    }

    fn round_robin(weights: &[u32]) -> DeficitRoundRobin {
        let mut round_robin = DeficitRoundRobin::default();
        for (lane, weight) in lanes(weights).iter().zip(weights) {
            round_robin.set(lane, *weight);
        }
        round_robin
    }

    proptest! {
        #[test]
        fn lanes_that_all_have_work_get_their_weights_of_it(
            weights in prop::collection::vec(1..=MAX_WEIGHT, 1..=MAX_LANES + 1),
        ) {
            let (mut round_robin, lanes) = (round_robin(&weights), lanes(&weights));
            let total: u32 = weights.iter().sum();
            let draws = 4 * total;
            let mut served = vec![0_u32; weights.len()];
            for _ in 0..draws {
                let lane = round_robin.draw(|_| true).expect("all have work");
                served[lanes.iter().position(|known| known == lane).unwrap()] += 1;
            }
            for (served, weight) in served.iter().zip(&weights) {
                let expected = f64::from(draws) * f64::from(*weight) / f64::from(total);
                prop_assert!(
                    (f64::from(*served) - expected).abs() <= (0.05 * expected).max(1.0),
                    "{served} of {expected}"
                );
            }
        }

        #[test]
        fn there_is_a_draw_while_any_lane_has_work_and_none_is_starved(
            weights in prop::collection::vec(1..=20_u32, 1..=MAX_LANES + 1),
            work in prop::collection::vec(any::<u32>(), 1..400),
        ) {
            let (mut round_robin, lanes) = (round_robin(&weights), lanes(&weights));
            let mut passed_over = vec![0_usize; weights.len()];
            for work in work {
                let has_work = |lane: &Lane| {
                    let at = lanes.iter().position(|known| known == lane).unwrap();
                    work & (1 << at) != 0
                };
                let drawn = round_robin.draw(has_work).cloned();
                prop_assert_eq!(drawn.is_some(), lanes.iter().any(has_work));
                for (at, lane) in lanes.iter().enumerate() {
                    let waits = has_work(lane) && drawn.as_ref() != Some(lane);
                    passed_over[at] = if waits { passed_over[at] + 1 } else { 0 };
                    // At worst each round serves every other lane once, and credits it 1 of 20.
                    prop_assert!(passed_over[at] <= 21 * weights.len(), "{lane} waits");
                }
                if let Some(lane) = drawn {
                    prop_assert!(has_work(&lane));
                }
            }
        }
    }

    #[test]
    fn what_comes_by_a_heavy_lane_is_served_within_two_draws_however_long_another_had_work() {
        let mut round_robin = round_robin(&[1_000, 999]);
        let (urgent, bulk) = ("lane-0".parse::<Lane>().unwrap(), "lane-1".parse::<Lane>().unwrap());
        for _ in 0..5_000 {
            assert_eq!(round_robin.draw(|lane| *lane == bulk), Some(&bulk));
        }
        let first: Vec<Lane> = (0..2).filter_map(|_| round_robin.draw(|_| true).cloned()).collect();
        assert!(first.contains(&urgent), "{first:?}");
    }
}
