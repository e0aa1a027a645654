//! The commands that go on until a signal.

use std::process::{Command as Process, Stdio};

use tempfile::TempDir;

use crate::cli::support::{Log, Simulator, end, get, terminate, worker};

#[test]
fn the_simulator_prints_where_it_listens_and_ends_in_order_on_sigterm() {
    let dir = TempDir::new().unwrap();
    let mut simulator = Simulator::start(&dir);
    assert!(simulator.url.starts_with("http://127.0.0.1:"));
    terminate(&simulator.child);
    assert_eq!(simulator.child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_worker_without_a_broker_keeps_trying_says_so_and_ends_in_order_on_sigterm() {
    let dir = TempDir::new().unwrap();
    let mut child = Process::new(env!("CARGO_BIN_EXE_captcha-worker"))
        .arg("run")
        .current_dir(dir.path())
        .env("CAPTCHA_WORKER__SOLVER__API_KEY", "pl4nted-key")
        .env("CAPTCHA_WORKER__BROKER__URL", "amqp://user:pl4nted-pass@127.0.0.1:1")
        .env("CAPTCHA_WORKER__OPS__LISTEN", "127.0.0.1:0")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = Log::of(&mut child);
    let served = log.find("serving /healthz");
    let trying = log.find("no session with the broker");
    assert_eq!(trying["level"], "WARN");
    let ready = get(served["address"].as_str().unwrap(), "/readyz");
    assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("no session with the broker"), "{ready}");
    terminate(&child);
    log.find("stopped");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(!log.seen.contains("pl4nted"), "{}", log.seen);
}

#[test]
fn an_address_that_cannot_be_listened_on_is_reported_by_its_setting() {
    let dir = TempDir::new().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let ended = end(worker(&dir)
        .arg("run")
        .env("CAPTCHA_WORKER__SOLVER__API_KEY", "key")
        .env("CAPTCHA_WORKER__OPS__LISTEN", taken.local_addr().unwrap().to_string()));
    assert_eq!(ended.code, 1);
    assert!(ended.stderr.contains("error: ops.listen: cannot listen on"), "{}", ended.stderr);
}

#[test]
fn nobody_has_said_where_to_listen_and_a_second_replica_on_the_machine_works_all_the_same() {
    let dir = TempDir::new().unwrap();
    // Whoever has it, it is taken.
    let _taken = std::net::TcpListener::bind("127.0.0.1:9464");
    let mut child = Process::new(env!("CARGO_BIN_EXE_captcha-worker"))
        .arg("run")
        .current_dir(dir.path())
        .env("CAPTCHA_WORKER__SOLVER__API_KEY", "key")
        .env("CAPTCHA_WORKER__BROKER__URL", "amqp://user:pass@127.0.0.1:1")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = Log::of(&mut child);
    let warned = log.find("health and metrics are not served");
    assert_eq!((&warned["level"], &warned["address"]), (&"WARN".into(), &"127.0.0.1:9464".into()));
    log.find("no session with the broker");
    terminate(&child);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_scenario_that_is_not_there_is_an_error() {
    let dir = TempDir::new().unwrap();
    let ended = end(worker(&dir).args(["simulate", "--scenario", "absent.toml"]));
    assert_eq!(ended.code, 1);
    assert!(ended.stderr.contains("absent.toml"), "{}", ended.stderr);
}
