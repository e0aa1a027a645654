//! Fuzzes the property `reply`: see docs/HOSTILE.md.
#![no_main]

#[allow(dead_code, reason = "each target holds its own property")]
#[path = "../../tests/components/robustness/properties/mod.rs"]
mod properties;

libfuzzer_sys::fuzz_target!(|input: &[u8]| properties::reply::holds(input));
