//! Memory under hostile input: the real binary as a process on a real RabbitMQ, judged by its peak
//! of resident memory. See docs/HOSTILE.md.

mod api;
mod bodies;
mod namespace;
mod server;

use crate::support::fleet::Process;

/// What a replica may take, whatever comes.
const BOUND_KIB: u64 = 300 * 1024;

/// Prints the peak, and checks that it is within the bound.
fn is_within_bound(worker: &Process, under: &str) {
    let peak = peak_kib(worker);
    println!("peak under {under}: {:.1} MiB", peak as f64 / 1024.0);
    assert!(peak < BOUND_KIB, "{under}: a peak of {} MiB", peak / 1024);
}

/// The most memory that it ever had resident, in KiB, as Linux reports it.
fn peak_kib(worker: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", worker.id())).expect("it runs");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux reports it");
    peak.trim().trim_end_matches(" kB").parse().expect("a number of KiB")
}
