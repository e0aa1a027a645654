//! `check`: what it shows, what it finds, and what it keeps to itself.

use assert_cmd::Command;
use tempfile::TempDir;

use crate::cli::support::{Simulator, end, json, worker};
use crate::support::fleet::amqp;
use crate::support::rabbit::fresh_namespace;

#[test]
fn an_offline_check_shows_every_setting_with_its_origin_and_no_secret() {
    let dir = TempDir::new().unwrap();
    let ended = end(worker(&dir)
        .args(["check", "--offline"])
        .env("CAPTCHA_WORKER__SOLVER__API_KEY", "pl4nted-key")
        .env("CAPTCHA_WORKER__BROKER__URL", "amqp://user:pl4nted-pass@broker.test/%2f"));
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(!ended.stdout.contains("pl4nted") && !ended.stderr.contains("pl4nted"));
    let shown = json(&ended);
    assert_eq!(shown["ok"], true);
    let settings = shown["settings"].as_array().unwrap();
    let url = settings.iter().find(|line| line["key"] == "broker.url").unwrap();
    assert_eq!(url["value"], "amqp://user:***@broker.test/%2f");
    assert_eq!(url["origin"], "environment CAPTCHA_WORKER__BROKER__URL");
    assert_eq!(url["secret"], true);
}

#[test]
fn a_check_without_a_key_fails_and_names_the_setting() {
    let dir = TempDir::new().unwrap();
    let ended = end(worker(&dir).args(["check", "--offline"]));
    assert_eq!(ended.code, 1);
    let shown = json(&ended);
    let key = shown["checks"].as_array().unwrap().iter().find(|check| check["check"] == "key").unwrap();
    assert_eq!(key["verdict"], "failed");
    assert!(key["advice"].as_str().unwrap().contains("solver.api_key_file"));
}

#[test]
fn a_variable_that_misses_the_prefix_is_named_with_what_was_meant_and_its_value_is_not_shown() {
    let dir = TempDir::new().unwrap();
    let given = |args: &[&str]| {
        end(worker(&dir)
            .args(args)
            .env("CAPTCHA_WORKER_BROKER__NAMESPACE", "pl4nted")
            .env("CAPTCHA_WORKER_TEST_X", "x"))
    };
    let checked = given(&["check", "--offline"]);
    let shown = json(&checked);
    let note = &shown["checks"][0];
    assert_eq!((&note["check"], &note["verdict"]), (&"settings".into(), &"note".into()));
    assert!(note["detail"].as_str().unwrap().contains("CAPTCHA_WORKER_BROKER__NAMESPACE"), "{note}");
    assert_eq!(note["advice"], "probably meant: CAPTCHA_WORKER__BROKER__NAMESPACE");
    // It has no key, and says this before it ends for that.
    let ran = given(&["run"]);
    assert_eq!(ran.stderr.matches("CAPTCHA_WORKER__BROKER__NAMESPACE").count(), 1, "{}", ran.stderr);
    for text in [&checked.stdout, &checked.stderr, &ran.stdout, &ran.stderr] {
        assert!(!text.contains("pl4nted") && !text.contains("TEST_X"), "{text}");
    }
}

#[test]
fn a_drain_that_is_shorter_than_a_submission_is_noted() {
    let dir = TempDir::new().unwrap();
    let ended = end(worker(&dir)
        .args(["check", "--offline"])
        .env("CAPTCHA_WORKER__SOLVER__API_KEY", "key")
        .env("CAPTCHA_WORKER__WORKER__DRAIN_TIMEOUT", "40s"));
    assert_eq!(ended.code, 0);
    let shown = json(&ended);
    let drain = shown["checks"].as_array().unwrap().iter().find(|check| check["check"] == "drain").unwrap();
    assert_eq!(drain["verdict"], "note");
}

#[test]
fn a_broker_and_an_api_that_are_not_there_are_both_reported() {
    let dir = TempDir::new().unwrap();
    // Bound and never accepting HTTP or AMQP: nothing else can take the port meanwhile.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let ended = end(worker(&dir)
        .arg("check")
        .env("CAPTCHA_WORKER__SOLVER__API_KEY", "pl4nted-key")
        .env("CAPTCHA_WORKER__SOLVER__BASE_URL", format!("http://127.0.0.1:{port}"))
        .env("CAPTCHA_WORKER__SOLVER__REQUEST_TIMEOUT", "1s")
        .env("CAPTCHA_WORKER__BROKER__CONNECT_TIMEOUT", "500ms")
        .env("CAPTCHA_WORKER__BROKER__URL", format!("amqp://user:pl4nted-pass@127.0.0.1:{port}/%2f")));
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    assert!(!ended.stdout.contains("pl4nted") && !ended.stderr.contains("pl4nted"));
    let shown = json(&ended);
    for name in ["broker", "api"] {
        let check = shown["checks"].as_array().unwrap().iter().find(|check| check["check"] == name).unwrap();
        assert_eq!(check["verdict"], "failed", "{check}");
        assert!(!check["advice"].as_str().unwrap().is_empty());
    }
}

#[test]
fn the_api_check_asks_for_the_balance_once_and_shows_it() {
    let dir = TempDir::new().unwrap();
    let simulator = Simulator::start(&dir);
    let mut check = worker(&dir);
    check.arg("check").env("CAPTCHA_WORKER__SOLVER__BASE_URL", &simulator.url).env(
        "CAPTCHA_WORKER__BROKER__URL",
        // Nothing listens on port 1; the broker's part fails at once and is not what this is about.
        "amqp://127.0.0.1:1",
    );
    let api = |key: &str, check: &mut Command| {
        let shown = json(&end(check.env("CAPTCHA_WORKER__SOLVER__API_KEY", key)));
        let checks = shown["checks"].as_array().unwrap().clone();
        checks.into_iter().find(|check| check["check"] == "api").unwrap()
    };
    let good = api("simulator-key", &mut check);
    assert_eq!(good["verdict"], "fine", "{good}");
    assert!(good["detail"].as_str().unwrap().contains("balance 1000"), "{good}");
    let bad = api("another-key", &mut check);
    assert_eq!(bad["verdict"], "failed", "{bad}");
    assert!(bad["detail"].as_str().unwrap().contains("ERROR_KEY_DOES_NOT_EXIST"), "{bad}");
    assert!(bad["advice"].as_str().unwrap().contains("solver.api_key"), "{bad}");
}

#[test]
fn on_a_fresh_broker_what_a_replica_declares_is_a_note_and_else_a_failure() {
    let dir = TempDir::new().unwrap();
    let simulator = Simulator::start(&dir);
    let namespace = fresh_namespace();
    let check = |declares: &str| {
        end(worker(&dir)
            .arg("check")
            .env("CAPTCHA_WORKER__SOLVER__BASE_URL", &simulator.url)
            .env("CAPTCHA_WORKER__SOLVER__API_KEY", "simulator-key")
            .env("CAPTCHA_WORKER__BROKER__URL", amqp())
            .env("CAPTCHA_WORKER__BROKER__NAMESPACE", &namespace)
            .env("CAPTCHA_WORKER__BROKER__DECLARE_TOPOLOGY", declares))
    };
    for (declares, code, verdict) in [("true", 0, "note"), ("false", 1, "failed")] {
        let ended = check(declares);
        assert_eq!(ended.code, code, "{}{}", ended.stdout, ended.stderr);
        let shown = json(&ended);
        let checks = shown["checks"].as_array().unwrap();
        let topology = checks.iter().find(|check| check["check"] == "topology").unwrap();
        assert_eq!(topology["verdict"], verdict, "{topology}");
        assert!(topology["detail"].as_str().unwrap().contains(&namespace), "{topology}");
        assert!(!checks.iter().any(|check| check["check"] == "alarm"), "{shown}");
    }
}

#[test]
fn an_address_that_no_connection_is_made_with_fails_offline_too() {
    let dir = TempDir::new().unwrap();
    let ended = end(worker(&dir)
        .args(["check", "--offline", "--format", "table"])
        .env("CAPTCHA_WORKER__SOLVER__API_KEY", "key")
        .env("CAPTCHA_WORKER__BROKER__URL", "amqp://guest:pl4nted@127.0.0.1/%2f?heartbeat=0"));
    assert_eq!(ended.code, 1, "{}", ended.stdout);
    assert!(
        ended.stdout.contains("broker   FAILED") && ended.stdout.contains("heartbeat=0"),
        "{}",
        ended.stdout
    );
    assert!(!ended.stdout.contains("pl4nted"), "{}", ended.stdout);
}

#[test]
fn what_differs_from_the_defaults_comes_first_and_everything_fits_80_columns() {
    let dir = TempDir::new().unwrap();
    let check = |words: &[&str]| {
        end(worker(&dir)
            .args(["check", "--offline", "--format", "table"])
            .args(words)
            .env("COLUMNS", "80")
            .env("CAPTCHA_WORKER__SOLVER__API_KEY", "pl4nted-key")
            .env("CAPTCHA_WORKER__SOLVER__PROXY", "http://user:pl4nted@proxy.test:3128")
            .env("CAPTCHA_WORKER__CALLBACK__LISTEN", "127.0.0.1:8190")
            .env("CAPTCHA_WORKER__CALLBACK__PUBLIC_URL", format!("https://{}.test/cb", "callback".repeat(2))))
    };
    let (changed, all) = (check(&[]), check(&["--all"]));
    for ended in [&changed, &all] {
        assert_eq!(ended.code, 0, "{}{}", ended.stdout, ended.stderr);
        let wide: Vec<_> = ended.stdout.lines().filter(|line| line.chars().count() > 80).collect();
        assert!(wide.is_empty(), "{wide:?}");
        assert!(!ended.stdout.contains("pl4nted"), "{}", ended.stdout);
    }
    assert!(changed.stdout.contains("settings have their defaults; --all shows them"), "{}", changed.stdout);
    assert!(!changed.stdout.contains("worker.linger"), "{}", changed.stdout);
    let place = |text: &str| all.stdout.find(text).unwrap_or_else(|| panic!("{text}: {}", all.stdout));
    assert!(place("solver.proxy") < place("broker.namespace") && place("worker.linger") > 0);
}
