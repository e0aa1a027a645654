//! The settings that deploy files make are settings, and good ones.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::config::support::{Place, shown};

const SECRETS: &str = "/run/secrets/captcha-worker/";

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The base's settings, and those of each overlay that has its own.
fn overlays() -> Vec<PathBuf> {
    let kubernetes = root().join("deploy/kubernetes");
    let overlays = fs::read_dir(kubernetes.join("overlays")).unwrap();
    let own =
        overlays.map(|overlay| overlay.unwrap().path().join("settings.toml")).filter(|file| file.exists());
    own.chain([kubernetes.join("base/settings.toml")]).collect()
}

/// Words that begin as settings in the environment do, as `section.key`.
fn settings_named_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_'));
    let names = words.filter_map(|word| word.strip_prefix("CAPTCHA_WORKER__"));
    names.map(|name| name.to_ascii_lowercase().replace("__", ".")).collect()
}

#[test]
fn the_settings_of_every_kubernetes_overlay_are_good() {
    let overlays = overlays();
    assert!(overlays.len() >= 2, "{overlays:?}");
    for overlay in overlays {
        let text = read(&overlay).replace(SECRETS, "");
        let place = Place::new(&[
            ("config/settings.toml", &text),
            ("broker_url", "amqp://user:password@broker.test:5672/%2f"),
            ("api_key", "key"),
            ("console_token", "console-token-of-a-test"),
        ]);
        let loaded = place.good();
        assert_eq!(shown(&loaded, "broker.url").1, "broker_url", "{}", overlay.display());
        assert_eq!(shown(&loaded, "solver.api_key").1, "api_key", "{}", overlay.display());
    }
}

#[test]
fn the_compose_files_settings_are_good_and_its_examples_too() {
    let text = read(&root().join("deploy/compose/settings/settings.toml"));
    Place::new(&[("config/settings.toml", &text)]).good();
    let commented = text.lines().filter_map(|line| line.strip_prefix("# "));
    let examples: Vec<&str> =
        commented.filter(|line| line.starts_with('[') || line.contains(" = ")).collect();
    let loaded = Place::new(&[("config/settings.toml", &examples.join("\n"))]).good();
    for key in ["policy.allowed_domains", "log.level"] {
        assert_eq!(shown(&loaded, key).1, "config/settings.toml", "{key}");
    }
}

#[test]
fn every_variable_of_the_compose_file_and_the_systemd_unit_is_a_setting() {
    let loaded = Place::new(&[]).good();
    let settings: BTreeSet<&str> = loaded.report().iter().map(|line| line.key.as_str()).collect();
    // A file that holds a secret is shown by the setting that it stands in for.
    let known = |key: &String| settings.contains(key.strip_suffix("_file").unwrap_or(key));
    for file in ["docker-compose.yml", "deploy/systemd/captcha-worker@.service"] {
        let named = settings_named_in(&read(&root().join(file)));
        assert!(named.len() >= 3, "{file}: {named:?}");
        let unknown: Vec<_> = named.iter().filter(|key| !known(key)).collect();
        assert!(unknown.is_empty(), "{file}: {unknown:?}");
    }
}
