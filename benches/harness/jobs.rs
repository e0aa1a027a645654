//! Jobs: each with a payload of its own, so that the simulator can distinguish them.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

/// The site of site-bound jobs; a fleet that shall submit them must allow it.
pub(crate) const SITE: &str = "example.com";
/// Just above the API's least size: pictures are no part of these trials.
const PICTURE_BYTES: usize = 120;

/// A job as it is published.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    pub(crate) id: String,
    pub(crate) body: Vec<u8>,
}

impl Job {
    fn new(id: String, task: &Value) -> Self {
        let body = json!({"id": id, "task": task}).to_string().into_bytes();
        Self { id, body }
    }
}

/// Small pictures, `PREFIX-0` and so on.
pub(crate) fn images(prefix: &str, count: usize) -> Vec<Job> {
    let mut picture = [0; PICTURE_BYTES];
    // From the prefix, so that two sets of one trial differ.
    let seed = prefix.bytes().fold(7, |seed: u64, byte| seed.wrapping_mul(31).wrapping_add(u64::from(byte)));
    let mut rng = StdRng::seed_from_u64(seed);
    let image = |n| {
        rng.fill_bytes(&mut picture);
        Job::new(
            format!("{prefix}-{n}"),
            &json!({"type": "ImageToTextTask", "body": STANDARD.encode(picture)}),
        )
    };
    (0..count).map(image).collect()
}

/// Tasks bound to [`SITE`], of type `FunCaptchaTask`.
pub(crate) fn site_bound(prefix: &str, count: usize) -> Vec<Job> {
    let task = |id: &str| json!({"type": "FunCaptchaTask", "websiteURL": format!("https://{SITE}/"), "websitePublicKey": id});
    let bound = |n| {
        let id = format!("{prefix}-{n}");
        let task = task(&id);
        Job::new(id, &task)
    };
    (0..count).map(bound).collect()
}

/// Two sets in turn.
pub(crate) fn mixed(one: Vec<Job>, other: Vec<Job>) -> Vec<Job> {
    one.into_iter().zip(other).flat_map(|(one, other)| [one, other]).collect()
}

/// The ids that must be accounted for.
pub(crate) fn ids(jobs: &[Job]) -> BTreeSet<String> {
    jobs.iter().map(|job| job.id.clone()).collect()
}
