//! Holds the house together: which room may name which, and that the documentation tells what the code does.
//!
//! Code under `#[cfg(test)]` is exempt from the arrows, since a test may put another room's fake behind a seam; nothing else is.

mod contract;
mod runbook;
mod source;

use std::collections::{BTreeMap, BTreeSet};

use source::{Source, Token, paths, sources, tokens, without_tests};

/// Each room with the rooms it may name. `main → cli → {worker, fleet, ops, simulator} → {broker, solver} → domain`.
const ARROWS: &[(&str, &[&str])] = &[
    ("lib", &[]),
    ("main", &["cli", "config", "telemetry"]),
    (
        "cli",
        &[
            "broker",
            "clock",
            "config",
            "contract",
            "domain",
            "fleet",
            "linger",
            "ops",
            "overview",
            "simulator",
            "solver",
            "telemetry",
            "trace",
            "worker",
        ],
    ),
    ("ops", &["broker", "domain", "fleet", "measure", "overview", "solver", "worker"]),
    // What the console of `ops` and the command `top` both show, made once: neither of them may name the other.
    ("overview", &["domain", "fleet"]),
    ("worker", &["breakage", "broker", "clock", "domain", "fleet", "linger", "measure", "solver", "trace"]),
    ("fleet", &["breakage", "broker", "clock", "domain", "solver"]),
    ("broker", &["breakage", "domain", "linger", "measure", "tls"]),
    ("breakage", &[]),
    ("linger", &[]),
    ("measure", &[]),
    ("tls", &[]),
    ("solver", &["domain", "measure"]),
    ("config", &["domain", "tls"]),
    // What the others say, once more for machines.
    ("contract", &["broker", "domain"]),
    ("telemetry", &["config"]),
    ("trace", &["domain"]),
    ("clock", &["domain"]),
    ("simulator", &[]),
    ("domain", &[]),
];

/// Crates that the pure core may name: all of them turn values into values.
const PURE_CRATES: &[&str] = &[
    "base64",
    "base64_simd",
    "bytes",
    "idna",
    "memchr",
    "schemars",
    "serde",
    "serde_json",
    "sha2",
    "thiserror",
    "time",
    "url",
];
/// Words with which std and those crates reach the world outside.
const WORLDLY_STD: &[&str] = &["env", "fs", "io", "net", "os", "process", "thread"];
const CLOCKS: &[&str] = &["Instant", "SystemTime", "now", "now_utc", "now_local", "UtcOffset"];

fn production_paths(source: &Source) -> Vec<(usize, Vec<String>)> {
    paths(&without_tests(&tokens(&source.text)))
}

/// The path from the crate's root, where it begins there: `crate::…`, `captcha_worker::…`, or enough `super`s.
fn from_root(source: &Source, inline: usize, path: &[String]) -> Option<Vec<String>> {
    match path.first()?.as_str() {
        "crate" | "captcha_worker" => Some(path[1..].to_vec()),
        "super" => {
            let up = path.iter().take_while(|word| *word == "super").count();
            (up >= source.module().len() + inline).then(|| path[up..].to_vec())
        }
        _ => None,
    }
}

fn dependencies() -> BTreeSet<String> {
    let manifest = include_str!("../../Cargo.toml");
    let after = manifest.split("\n[dependencies]\n").nth(1).expect("there are dependencies");
    let section = after.split("\n[").next().unwrap_or_default();
    section
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, _)| name.trim().replace('-', "_"))
        .collect()
}

#[test]
fn every_room_names_only_the_rooms_that_it_may() {
    let arrows: BTreeMap<_, _> = ARROWS.iter().copied().collect();
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    for source in sources().iter().filter(|source| !source.is_test_only()) {
        let room = source.house();
        let Some(allowed) = arrows.get(room) else {
            wrong.push(format!("{}: room '{room}' has no row in ARROWS", source.path));
            continue;
        };
        for (inline, path) in production_paths(source) {
            let Some(target) = from_root(source, inline, &path).and_then(|path| path.first().cloned()) else {
                continue;
            };
            if target != room && !allowed.contains(&target.as_str()) {
                wrong.push(format!("{} names {}", source.path, path.join("::")));
            }
            seen.insert((room.to_owned(), target));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen.contains(&("worker".to_owned(), "domain".to_owned())), "the scan finds no arrows at all");
}

#[test]
fn the_core_does_no_io_and_reads_neither_clock_nor_dice() {
    let dependencies = dependencies();
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| source.house() == "domain" && !source.is_test_only()) {
        for (_, path) in production_paths(source) {
            let words: Vec<&str> = path.iter().map(String::as_str).collect();
            let worldly = match words.as_slice() {
                ["std", part, ..] => WORLDLY_STD.contains(part),
                [first, ..] => dependencies.contains(*first) && !PURE_CRATES.contains(first),
                [] => false,
            };
            if worldly || words.iter().any(|word| CLOCKS.contains(word)) {
                wrong.push(format!("{} names {}", source.path, path.join("::")));
            }
        }
    }
    assert!(dependencies.contains("tokio"), "the manifest was not read");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_scan_sees_through_groups_comments_strings_and_super() {
    let text = r##"
        // use crate::cli::a;
        /* crate::cli::b /* nested */ crate::cli::c */
        use crate::{broker::{Link, topology::Names as N}, domain};
        const S: &str = "crate::cli::d \" crate::cli::e"; const R: &str = r#"crate::cli::"f""#;
        fn g<'a>(c: char) -> bool { c == '"' || c == '\'' || super::super::solver::h::<u8>(c) }
        #[cfg(test)]
        mod tests { use crate::simulator::Simulator; }
        struct Seam { real: crate::solver::Solver, #[cfg(test)] fake: crate::simulator::Simulator }
        mod inner { use super::super::worker::WorkerHandle; }
    "##;
    let source = Source { path: "fleet/mod.rs".to_owned(), text: text.to_owned() };
    let found: Vec<String> = production_paths(&source)
        .iter()
        .filter_map(|(inline, path)| from_root(&source, *inline, path))
        .map(|path| path.join("::"))
        .collect();
    let expected = [
        "broker::Link",
        "broker::topology::Names",
        "domain",
        "solver::h",
        "solver::Solver",
        "worker::WorkerHandle",
    ];
    assert_eq!(found, expected);
    assert!(!tokens(text).iter().any(|(_, token)| *token == Token::Word("nested".to_owned())));
}
