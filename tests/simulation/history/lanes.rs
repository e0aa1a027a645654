//! Whether a lane starves: how often others were served while it had work.

use std::collections::{BTreeMap, BTreeSet};

use captcha_worker::domain::lane::Lane;

use super::plan::Plan;

/// Counts, for each replica and lane, the submissions of other lanes since it was served last,
/// while a job of it was in the same hands that could have been submitted instead.
#[derive(Debug)]
pub(crate) struct Turns {
    /// By lane: from which place on replicas know its weight, and that. Lanes that something else
    /// than the others' work may hold are not judged.
    lanes: BTreeMap<Lane, (usize, u32)>,
    judged: BTreeSet<Lane>,
    /// Submissions for which it may have been too late as the lane's job came: those whose turn was
    /// before, for a place in flight or for a call.
    slack: usize,
    passed_over: BTreeMap<(String, Lane), usize>,
}

impl Turns {
    pub(crate) fn of(plan: &Plan) -> Self {
        let lanes =
            plan.lanes.iter().map(|(lane, planned)| (lane.clone(), (planned.from, planned.rules.weight)));
        let is_free = |lane: &Lane| {
            let planned = &plan.lanes[lane];
            let limits = (planned.rules.max_in_flight, planned.rules.max_calls_per_second);
            plan.budget.is_none() && planned.budget.is_none() && limits == (None, None)
        };
        Self {
            lanes: lanes.collect(),
            judged: plan.lanes.keys().filter(|lane| is_free(lane)).cloned().collect(),
            slack: plan.submit_concurrency + plan.max_in_flight,
            passed_over: BTreeMap::new(),
        }
    }

    /// A replica submits a job of a lane, while jobs of these lanes wait there for a submission.
    /// What is wrong with that, if anything.
    pub(crate) fn taken(&mut self, replica: &str, lane: &Lane, waiting: BTreeSet<&Lane>) -> Vec<String> {
        let mut broken = Vec::new();
        for other in &self.judged {
            let key = (replica.to_owned(), other.clone());
            if other == lane || !waiting.contains(other) {
                self.passed_over.remove(&key);
                continue;
            }
            let most = self.most(replica, other);
            let count = self.passed_over.entry(key).or_default();
            *count += 1;
            if *count > most {
                broken.push(format!("{replica} passed lane {other} over {count} times, allowed are {most}"));
            }
        }
        broken
    }

    /// How often a lane may be passed over: in a round each of the others is served once, and the
    /// lane has saved for its turn after as many rounds as the heaviest is heavier. It needs a turn
    /// for its place in flight and one for its submission.
    fn most(&self, replica: &str, lane: &Lane) -> usize {
        let place = replica.split(['-', '.']).nth(1).and_then(|place| place.parse().ok()).unwrap_or(0);
        let weight = |(from, weight): &(usize, u32)| if place < *from { 1 } else { *weight };
        let heaviest = self.lanes.values().map(weight).max().unwrap_or(1);
        let rounds = heaviest.div_ceil(self.lanes.get(lane).map_or(1, weight)) + 1;
        2 * rounds as usize * (self.lanes.len() - 1) + self.slack
    }
}
