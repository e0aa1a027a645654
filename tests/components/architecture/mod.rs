//! Holds the architecture: which module may name which, and that the documentation says what the
//! code does.

mod contract;
mod runbook;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Each module with the modules it may name.
/// `main → cli → {worker, fleet, ops, simulator} → {broker, solver} → domain`.
const ARROWS: &[(&str, &str)] = &[
    ("lib", ""),
    ("main", "cli config telemetry"),
    (
        "cli",
        "broker clock config contract domain fleet linger ops overview simulator solver telemetry \
         trace worker",
    ),
    ("ops", "broker domain fleet histogram overview solver worker"),
    // What the console of `ops` and the command `top` both show: neither of them may name the
    // other.
    ("overview", "domain fleet"),
    ("worker", "broker clock domain failpoint fleet histogram linger solver trace"),
    ("fleet", "broker clock domain failpoint solver"),
    ("broker", "domain failpoint histogram linger tls"),
    ("solver", "domain histogram tls trace"),
    ("config", "domain tls"),
    // What the others say, once more for machines.
    ("contract", "broker domain"),
    ("telemetry", "config"),
    ("trace", "domain"),
    ("clock", "domain"),
    ("failpoint", ""),
    ("histogram", ""),
    ("linger", ""),
    ("tls", ""),
];

/// With these words the core would reach the world outside without a crate's help.
const WORLD: &[&str] = &[
    "std::env",
    "std::fs",
    "std::io",
    "std::net",
    "std::process",
    "std::thread",
    "Instant",
    "SystemTime",
    "now_utc",
];

/// Each Rust file below a folder, with its text.
fn files(folder: &str) -> Vec<(PathBuf, String)> {
    files_with(folder, &["rs"])
}

/// Each file below a folder whose name has such an end, with its text.
fn files_with(folder: &str, extensions: &[&str]) -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let (mut folders, mut found) = (vec![root.clone()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("sources are readable") {
            let path = entry.expect("sources are readable").path();
            if path.is_dir() {
                // What a build leaves there is not ours.
                let is_ours = !path.ends_with("target") && !path.ends_with("node_modules");
                folders.extend(is_ours.then_some(path));
            } else if extensions.contains(&extension_of(&path)) {
                let text = fs::read_to_string(&path).expect("sources are UTF-8");
                let below = path.strip_prefix(&root).expect("it was found below the root").to_owned();
                found.push((below, text));
            }
        }
    }
    assert!(!found.is_empty(), "{folder} was not found");
    found
}

/// Scripts have none.
fn extension_of(path: &Path) -> &str {
    path.extension().and_then(|extension| extension.to_str()).unwrap_or_default()
}

/// The same, of each text what is neither comment nor test.
fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let is_test = |path: &Path| path.iter().any(|part| part == "tests" || part == "tests.rs");
    let code_of = |text: String| {
        let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
        let code = code.lines().filter(|line| !line.trim_start().starts_with("//"));
        code.collect::<Vec<_>>().join("\n")
    };
    let files = files(folder).into_iter().filter(|(path, _)| !is_test(path));
    let found: Vec<_> = files.map(|(path, text)| (path, code_of(text))).collect();
    assert!(found.len() > 10, "{folder} was not found");
    found
}

#[test]
fn every_module_names_only_the_modules_that_it_may() {
    let mut wrong = BTreeSet::new();
    for (path, code) in sources("src") {
        let module =
            path.iter().next().and_then(|part| part.to_str()).expect("a name").trim_end_matches(".rs");
        let (_, allowed) =
            ARROWS.iter().find(|(name, _)| *name == module).expect("each module has its row in ARROWS");
        for after in code.replace("captcha_worker::", "crate::").split("crate::").skip(1) {
            let target = after.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
            if target != module && !allowed.split(' ').any(|name| name == target) {
                wrong.insert(format!("src/{} names crate::{target}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn comments_are_at_most_100_columns_wide() {
    let code: &[&str] = &["rs", "py", "mjs", "toml", "yml", "yaml", "conf", "sh"];
    let folders = ["src", "crates", "tests", "benches", "fuzz", "config", "deploy", "examples"];
    let folders = folders.map(|folder| (folder, code)).into_iter().chain([("scripts", &["", "sh"][..])]);
    let mut wide = Vec::new();
    for (folder, extensions) in folders {
        for (path, text) in files_with(folder, extensions) {
            let start = if matches!(extension_of(&path), "rs" | "mjs") { "//" } else { "#" };
            let comments = text.lines().filter(|line| line.trim_start().starts_with(start));
            let too_wide = comments.filter(|line| line.chars().count() > 100);
            wide.extend(too_wide.map(|line| format!("{folder}/{}: {line}", path.display())));
        }
    }
    assert!(wide.is_empty(), "{wide:#?}");
}

#[test]
fn the_documentation_has_every_module_of_the_core() {
    let text = include_str!("../../../docs/ARCHITECTURE.md");
    let table = text.split("### crates/domain").nth(1).and_then(|rest| rest.split("\n#").next());
    let table = table.expect("there is a table");
    let lib = include_str!("../../../crates/domain/src/lib.rs");
    let modules = lib.lines().filter_map(|line| line.trim_start_matches("pub ").strip_prefix("mod "));
    let missing: Vec<_> =
        modules.filter(|name| !table.contains(&format!("`{}`", name.trim_end_matches(';')))).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// The names of the crates that a manifest's program is built from.
fn dependencies(manifest: &str) -> Vec<&str> {
    let section = manifest.split("\n[dependencies]\n").nth(1).expect("there are dependencies");
    let section = section.split("\n[").next().unwrap_or_default();
    section.lines().filter_map(|line| line.split_once(" = ")).map(|(name, _)| name).collect()
}

#[test]
fn the_core_does_no_io_and_reads_neither_clock_nor_randomness() {
    let core = dependencies(include_str!("../../../crates/domain/Cargo.toml"));
    for worldly in ["tokio", "lapin", "reqwest", "rand"] {
        assert!(!core.contains(&worldly), "the core depends on {worldly}");
    }
    for (path, code) in sources("crates/domain/src") {
        let named: Vec<_> = WORLD.iter().filter(|word| code.contains(**word)).collect();
        assert!(named.is_empty(), "{} names {named:?}", path.display());
    }
}

#[test]
fn the_simulator_shares_nothing_with_the_client_that_it_tests() {
    let simulator = dependencies(include_str!("../../../crates/simulator/Cargo.toml"));
    assert!(simulator.contains(&"axum"), "the manifest was not read");
    assert!(!simulator.iter().any(|name| name.starts_with("captcha-")), "{simulator:?}");
}

#[test]
fn no_type_name_stands_for_two_things_in_a_crate() {
    for folder in ["src", "crates/domain/src", "crates/simulator/src"] {
        let mut places = BTreeMap::<String, Vec<PathBuf>>::new();
        for (path, code) in sources(folder) {
            // The same types without the feature that gives them something to do.
            if path.ends_with("trace/none.rs") {
                continue;
            }
            for line in code.lines() {
                // After `pub` and where it is to be seen: `pub(in crate::broker) struct`.
                let is_kind = |word: &&str| matches!(*word, "struct" | "enum" | "union" | "trait");
                let mut words = line.split_whitespace();
                if words.by_ref().take(3).any(|word| is_kind(&word))
                    && let Some(name) = words.next()
                {
                    let name = name.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
                    places.entry(name.to_owned()).or_default().push(path.clone());
                }
            }
        }
        places.retain(|_, places| places.len() > 1);
        assert!(places.is_empty(), "{folder}: {places:#?}");
    }
}
