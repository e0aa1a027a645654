//! Fuzzes the property `frames`: see docs/HOSTILE.md.
#![no_main]

#[allow(dead_code, reason = "each target holds its own property")]
#[path = "../../tests/components/robustness/properties/mod.rs"]
mod properties;

libfuzzer_sys::fuzz_target!(|input: &[u8]| properties::frames::holds(input));
