//! What processes have cost, as the kernel reports it. Linux only.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

/// The entry of the auxiliary vector that holds the ticks in a second (`AT_CLKTCK`).
const TICKS_ENTRY: u64 = 17;
/// What every Linux uses where it does not say so there.
const USUAL_TICKS: u64 = 100;

/// CPU time and resident memory of some processes with all their descendants.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    /// User and system time, that of descendants which have ended included.
    pub(crate) cpu: Duration,
    pub(crate) resident_kib: u64,
    /// The sum of each process's own peak. Pages that processes share count in each of them.
    pub(crate) peak_kib: u64,
}

struct Stat {
    parent: u32,
    ticks: u64,
}

/// What these processes and their descendants have used so far.
pub(crate) fn usage(roots: &[u32]) -> Usage {
    let mut usage = Usage::default();
    let mut ticks = 0;
    for (id, stat) in family_of(roots) {
        ticks += stat.ticks;
        let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
        usage.resident_kib += kib(&status, "VmRSS:");
        usage.peak_kib += kib(&status, "VmHWM:");
    }
    usage.cpu = Duration::from_millis(ticks * 1_000 / ticks_per_second());
    usage
}

/// These processes, as far as they are there, and their descendants.
pub(crate) fn family(roots: &[u32]) -> Vec<u32> {
    family_of(roots).into_iter().map(|(id, _)| id).collect()
}

fn family_of(roots: &[u32]) -> Vec<(u32, Stat)> {
    let mut all = processes();
    let mut family = Vec::new();
    let mut open = roots.to_vec();
    while let Some(id) = open.pop() {
        let Some(stat) = all.remove(&id) else { continue };
        family.push((id, stat));
        open.extend(all.iter().filter(|(_, child)| child.parent == id).map(|(child, _)| *child));
    }
    family
}

/// The node that listens on a port, by the environment that `scripts/rabbitmq-node` gives it.
pub(crate) fn broker(port: u16) -> Option<u32> {
    let setting = format!("RABBITMQ_NODE_PORT={port}");
    processes().into_keys().find(|id| {
        let words_of = |file| words(&fs::read(format!("/proc/{id}/{file}")).unwrap_or_default());
        words_of("cmdline").first().is_some_and(|program| program.ends_with("beam.smp"))
            && words_of("environ").contains(&setting)
    })
}

fn words(separated_by_zeros: &[u8]) -> Vec<String> {
    separated_by_zeros
        .split(|byte| *byte == 0)
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect()
}

fn processes() -> BTreeMap<u32, Stat> {
    let entries = fs::read_dir("/proc").expect("this needs Linux's /proc");
    let ids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    // One that ends in between has no figures any more.
    ids.filter_map(|id: u32| Some((id, stat(&fs::read_to_string(format!("/proc/{id}/stat")).ok()?)?)))
        .collect()
}

/// Parent, and ticks of user and system time of the process and of the children it has waited for;
/// see proc(5).
fn stat(line: &str) -> Option<Stat> {
    // A program's name may hold anything, a closing bracket too.
    let (_, rest) = line.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |place: usize| fields.get(place)?.parse::<u64>().ok();
    let ticks = number(11)? + number(12)? + number(13)? + number(14)?;
    Some(Stat { parent: fields.get(1)?.parse().ok()?, ticks })
}

fn kib(status: &str, field: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    line.and_then(|line| line.split_ascii_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn ticks_per_second() -> u64 {
    let vector = fs::read("/proc/self/auxv").unwrap_or_default();
    let numbers: Vec<u64> = vector
        .chunks_exact(8)
        .map(|bytes| u64::from_ne_bytes(bytes.try_into().expect("eight bytes")))
        .collect();
    let entry = numbers.chunks_exact(2).find(|entry| entry[0] == TICKS_ENTRY);
    entry.map_or(USUAL_TICKS, |entry| entry[1])
}
