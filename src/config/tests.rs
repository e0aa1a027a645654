//! Holds `config/default.toml`, which people read, to the code.

use std::path::{Path, PathBuf};

use super::layers::{self, Leaf, Schema};
use super::reader::Reader;
use super::{DEFAULTS, LoadOptions, Settings, sections};

fn defaults() -> Vec<Leaf> {
    let mut faults = Vec::new();
    let leaves = layers::parse_toml(DEFAULTS, "default").unwrap();
    let known = layers::known(leaves.clone(), &Schema::new(&leaves), &mut faults);
    assert_eq!(faults, []);
    known
}

/// The comment lines right above a setting.
fn comment_above(key: &str) -> String {
    let (section, name) = key.rsplit_once('.').unwrap();
    let lines: Vec<&str> = DEFAULTS.lines().collect();
    let head = lines.iter().position(|line| *line == format!("[{section}]")).unwrap();
    let at = lines[head..].iter().position(|line| line.starts_with(&format!("{name} = "))).unwrap() + head;
    let above = lines[..at].iter().rev().take_while(|line| line.starts_with('#'));
    let mut comment: Vec<_> = above.map(|line| line.trim_start_matches(['#', ' '])).collect();
    comment.reverse();
    comment.join(" ")
}

#[test]
fn every_listed_setting_is_read_and_every_setting_that_is_read_is_listed() {
    let mut reader = Reader::new(defaults(), Path::new("."), Vec::new());
    assert!(sections::read(&mut reader).is_some());
    let (lines, faults) = reader.finish();
    assert_eq!(faults, []);
    let mut read: Vec<_> = lines.into_iter().map(|line| line.key).collect();
    let mut listed: Vec<_> = defaults().iter().map(Leaf::key).collect();
    read.sort();
    listed.sort();
    assert_eq!(read, listed);
}

#[test]
fn every_setting_outside_the_open_tables_has_a_comment() {
    for leaf in defaults() {
        let key = leaf.key();
        if !key.starts_with("polling.") {
            assert!(comment_above(&key).len() > 20, "{key}");
        }
    }
}

#[test]
fn every_range_that_is_enforced_stands_in_the_comment() {
    let mut reader = Reader::new(defaults(), Path::new("."), Vec::new());
    sections::read(&mut reader);
    let ranges = reader.ranges.iter().filter(|(_, allowed)| allowed.contains(" to "));
    let mut seen = 0;
    for (key, allowed) in ranges {
        let comment = comment_above(key);
        assert!(comment.contains(&format!("Allowed: {allowed}")), "{key}: {allowed}: {comment}");
        seen += 1;
    }
    assert!(seen >= 14, "only {seen} ranges were found");
}

#[test]
fn the_classes_that_a_code_may_have_stand_in_the_comment() {
    let mut leaves = defaults();
    leaves.push(Leaf {
        path: vec!["codes".into(), "X".into()],
        kind: "poison".into(),
        origin: "here".into(),
    });
    let mut reader = Reader::new(leaves, Path::new("."), Vec::new());
    sections::read(&mut reader);
    let (_, faults) = reader.finish();
    assert_eq!(faults.len(), 1);
    let comments = DEFAULTS.replace("\n# ", " ");
    assert!(comments.contains(&format!("Allowed: {}. ", faults[0].allowed)), "{faults:?}");
}

#[test]
fn the_defaults_load_without_any_file() {
    let options = LoadOptions {
        dir: PathBuf::from("/nonexistent"),
        files: Vec::new(),
        env: Vec::new(),
        overrides: Vec::new(),
    };
    let loaded = Settings::load(&options).unwrap();
    assert!(loaded.report().iter().all(|line| line.origin == "default"));
    assert!(loaded.settings.solver.api_key.is_none());
    assert_eq!(loaded.settings.broker.url.vhost(), "/");
}
