//! The demo's jobs: one recipe for each way a job can end, with the queue that it must end in.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::domain::class::Class;

/// The only site that the demo's policy lists.
pub(super) const SITE: &str = "demo.example.com";
/// A task of this type makes the demo's API client panic, as a bug would.
pub(super) const PANICKING_TYPE: &str = "PanickingTask";
/// Size of a plain image, in bytes.
const IMAGE_BYTES: usize = 1_500;

/// Where a job must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Goal {
    /// In the result queue.
    Solved,
    /// In the dead-letter queue of a class.
    Dead(Class),
    /// In the queue of what the broker itself dead-lettered.
    Raw,
}

impl Goal {
    pub(super) fn name(self) -> &'static str {
        match self {
            Goal::Solved => "solved",
            Goal::Dead(class) => class.name(),
            Goal::Raw => "raw",
        }
    }
}

/// A job with its end.
pub(super) struct Planned {
    pub(super) goal: Goal,
    pub(super) body: Vec<u8>,
}

type Recipe = fn(&mut Maker) -> Vec<u8>;

/// How many of each.
const RECIPES: [(usize, Goal, Recipe); 20] = [
    (500, Goal::Solved, |make| make.image(json!({}))),
    (120, Goal::Solved, Maker::site_task),
    (30, Goal::Solved, |make| make.image(json!({"create": ["ERROR_NO_SLOT_AVAILABLE", "ok"]}))),
    (30, Goal::Solved, |make| make.image(json!({"result": [{"http": 503}, "cut", "ok"]}))),
    (20, Goal::Solved, |make| make.image(json!({"solve_ms": 5_000}))),
    // A type of its own: once it is known to have no slots its jobs are not even tried.
    (20, Goal::Dead(Class::Capacity), Maker::without_slot),
    (20, Goal::Dead(Class::Transient), |make| make.image(json!({"create": [{"http": 503}]}))),
    (10, Goal::Dead(Class::Lost), |make| make.image(json!({"result": ["ERROR_NO_SUCH_CAPCHA_ID"]}))),
    (30, Goal::Dead(Class::Unsolved), |make| make.image(json!({"result": ["ERROR_CAPTCHA_UNSOLVABLE"]}))),
    (20, Goal::Dead(Class::Invalid), |make| make.sized_image(99)),
    (20, Goal::Dead(Class::Invalid), |make| make.image(json!({"create": ["ERROR_TASK_PROPERTY_EMPTY"]}))),
    (20, Goal::Dead(Class::Forbidden), |make| make.task_for("https://elsewhere.example/login")),
    (20, Goal::Dead(Class::Forbidden), |make| make.image(json!({"create": ["ERROR_DOMAIN_NOT_ALLOWED"]}))),
    (20, Goal::Dead(Class::Expired), Maker::late),
    (20, Goal::Dead(Class::Expired), |make| make.image(json!({"result": ["ERROR_TOKEN_EXPIRED"]}))),
    (20, Goal::Dead(Class::Proxy), |make| make.image(json!({"create": ["ERROR_PROXY_CONNECT_REFUSED"]}))),
    (40, Goal::Dead(Class::Malformed), Maker::malformed),
    (10, Goal::Dead(Class::Poison), |make| make.job(json!({"type": PANICKING_TYPE}))),
    (20, Goal::Dead(Class::Unknown), |make| make.image(json!({"result": ["ERROR_OF_NEXT_YEAR"]}))),
    (10, Goal::Raw, |_| vec![b' '; 1024 * 1024 + 1]),
];

/// All jobs, in an order in which the recipes alternate.
pub(super) fn all(seed: u64) -> Vec<Planned> {
    let mut make = Maker { made: 0, random: StdRng::seed_from_u64(seed) };
    let mut ranked = Vec::new();
    for (count, goal, recipe) in RECIPES {
        for n in 0..count {
            ranked.push((n * 1_000 / count, Planned { goal, body: recipe(&mut make) }));
        }
    }
    ranked.sort_by_key(|(rank, _)| *rank);
    ranked.into_iter().map(|(_, planned)| planned).collect()
}

/// Plain images only.
pub(super) fn plain(count: usize, seed: u64) -> Vec<Planned> {
    let mut make = Maker { made: 0, random: StdRng::seed_from_u64(seed) };
    (0..count).map(|_| Planned { goal: Goal::Solved, body: make.image(json!({})) }).collect()
}

struct Maker {
    made: usize,
    random: StdRng,
}

impl Maker {
    fn job(&mut self, task: Value) -> Vec<u8> {
        self.made += 1;
        json!({"id": format!("demo-{}", self.made), "task": task, "metadata": {"n": self.made}})
            .to_string()
            .into_bytes()
    }

    fn picture(&mut self, bytes: usize) -> String {
        let mut picture = vec![0; bytes];
        self.random.fill_bytes(&mut picture);
        STANDARD.encode(picture)
    }

    /// An image whose answers follow the simulator's script.
    fn image(&mut self, script: Value) -> Vec<u8> {
        let body = self.picture(IMAGE_BYTES);
        self.job(json!({"type": "ImageToTextTask", "body": body, "_sim": script}))
    }

    fn sized_image(&mut self, bytes: usize) -> Vec<u8> {
        let body = self.picture(bytes);
        self.job(json!({"type": "ImageToTextTask", "body": body}))
    }

    fn task_for(&mut self, url: &str) -> Vec<u8> {
        self.job(json!({"type": "TurnstileTask", "websiteURL": url, "websiteKey": "demo"}))
    }

    fn site_task(&mut self) -> Vec<u8> {
        const TYPES: [&str; 6] = [
            "TurnstileTask",
            "HCaptchaTask",
            "RecaptchaV2Task",
            "FunCaptchaTaskProxyless",
            "GeeTestTask",
            "RecaptchaV3TaskProxyless",
        ];
        let kind = TYPES[self.made % TYPES.len()];
        let url = format!("https://{SITE}/login?n={}", self.made);
        // One set of fields serves all types; each reads its own.
        self.job(json!({"type": kind, "websiteURL": url, "websiteKey": "demo", "websitePublicKey": "demo", "gt": "demo"}))
    }

    fn without_slot(&mut self) -> Vec<u8> {
        let url = format!("https://{SITE}/login?n={}", self.made);
        let script = json!({"create": ["ERROR_NO_SLOT_AVAILABLE"]});
        self.job(json!({"type": "CaptchaFoxTask", "websiteURL": url, "websiteKey": "demo", "userAgent": "demo", "_sim": script}))
    }

    fn late(&mut self) -> Vec<u8> {
        let body = self.picture(IMAGE_BYTES);
        let task = json!({"type": "ImageToTextTask", "body": body});
        self.made += 1;
        json!({"id": format!("demo-{}", self.made), "task": task, "deadline": "2020-01-01T00:00:00Z"})
            .to_string()
            .into_bytes()
    }

    fn malformed(&mut self) -> Vec<u8> {
        self.made += 1;
        match self.made % 5 {
            0 => b"not JSON".to_vec(),
            1 => br#"{"task":{"type":"ImageToTextTask"},"clientKey":"mine"}"#.to_vec(),
            2 => br#"{"task":{"type":"ImageToTextTask"},"surprise":1}"#.to_vec(),
            3 => vec![0xff, 0xfe, 0x00],
            _ => "[".repeat(5_000).into_bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_thousand_jobs_cover_every_class_that_does_not_stop_the_worker() {
        let jobs = all(1);
        assert_eq!(jobs.len(), 1_000);
        let goals: BTreeSet<Goal> = jobs.iter().map(|planned| planned.goal).collect();
        let all = Class::finals().filter(|class| *class != Class::Account).map(Goal::Dead);
        let wanted: BTreeSet<Goal> = all.chain([Goal::Solved, Goal::Raw]).collect();
        assert_eq!(goals, wanted);
    }
}
