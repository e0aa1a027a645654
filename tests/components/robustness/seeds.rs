use std::fs;
use std::path::{Path, PathBuf};

use crate::robustness::properties::TARGETS;

/// The seeds of a target: inputs written for it, and each one that fuzzing has found a fault with.
fn seeds(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus-seeds").join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let paths = entries.map(|entry| entry.expect("a folder can be read").path());
    paths.map(|path| (path.clone(), fs::read(&path).expect("a seed can be read"))).collect()
}

#[test]
fn every_seed_keeps_the_properties_of_its_target() {
    for (target, holds) in TARGETS {
        let seeds = seeds(target);
        assert!(seeds.len() >= 30, "{target} has {} seeds only", seeds.len());
        let broken =
            seeds.into_iter().filter(|(_, input)| std::panic::catch_unwind(|| holds(input)).is_err());
        let broken: Vec<_> = broken.map(|(path, _)| path).collect();
        assert!(broken.is_empty(), "{target}: these break a property, as printed above: {broken:#?}");
    }
}

#[test]
fn a_seed_of_one_target_does_no_harm_to_the_others() {
    let all: Vec<_> = TARGETS.iter().flat_map(|(target, _)| seeds(target)).collect();
    for (_, holds) in TARGETS {
        all.iter().for_each(|(_, input)| holds(input));
    }
}
