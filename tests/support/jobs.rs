//! Jobs for the trials: each with an image of its own, so that the simulator can distinguish one
//! from another.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

/// An image job whose answers follow the simulator's script.
pub(crate) fn image(id: &str, script: &Value) -> String {
    let mut picture = vec![0; 600];
    let seed = id.bytes().fold(7, |seed: u64, byte| seed.wrapping_mul(31).wrapping_add(u64::from(byte)));
    StdRng::seed_from_u64(seed).fill_bytes(&mut picture);
    json!({"id": id, "task": {"type": "ImageToTextTask", "body": STANDARD.encode(picture), "_sim": script}})
        .to_string()
}
