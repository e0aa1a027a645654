//! The command line as a shell sees it: what is printed where, and the exit codes.

mod batch;
mod check;
mod completions;
mod embedded;
mod hangup;
mod help;
mod service;
mod solve;
mod support;

use std::fs;
use std::process::{Command as Process, Stdio};

use tempfile::TempDir;

use support::{end, json, worker};

#[test]
fn help_lists_the_commands_the_layers_and_the_exit_codes() {
    let dir = TempDir::new().unwrap();
    let help = end(worker(&dir).arg("--help"));
    assert_eq!(help.code, 0);
    for word in ["run", "check", "topology", "simulate", "completions", "CAPTCHA_WORKER__", "Exit codes"] {
        assert!(help.stdout.contains(word), "{word} is missing in {}", help.stdout);
    }
}

#[test]
fn every_command_has_help_with_examples() {
    let dir = TempDir::new().unwrap();
    for command in ["run", "solve", "batch", "check", "topology", "simulate", "completions", "top"] {
        let help = end(worker(&dir).args([command, "--help"]));
        assert_eq!(help.code, 0);
        assert!(help.stdout.contains("Examples:"), "{}", help.stdout);
    }
}

#[test]
fn a_wrong_command_line_ends_in_2() {
    let dir = TempDir::new().unwrap();
    for args in [&[][..], &["fly"], &["check", "--fast"], &["simulate", "--listen", "here"], &["topology"]] {
        assert_eq!(end(worker(&dir).args(args)).code, 2, "{args:?}");
    }
}

#[test]
fn faulty_settings_end_in_2_with_every_fault_on_stderr_and_nothing_on_stdout() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("mine.toml"), "[brokr]\nx = 1\n[worker]\nmax_in_flight = 0\n").unwrap();
    for command in [&["run"][..], &["check"], &["topology", "export"], &["simulate"]] {
        let ended = end(worker(&dir)
            .args(["--config", "mine.toml"])
            .args(command)
            .env("CAPTCHA_WORKER__SOLVR__KEY", "x"));
        assert_eq!((ended.code, ended.stdout.as_str()), (2, ""), "{command:?}");
        for line in ["brokr.x (mine.toml)", "worker.max_in_flight (mine.toml)", "CAPTCHA_WORKER__SOLVR__KEY"]
        {
            assert!(ended.stderr.contains(line), "{line} is missing in {}", ended.stderr);
        }
    }
}

#[test]
fn run_without_a_key_ends_in_2_and_says_how_to_set_it() {
    let dir = TempDir::new().unwrap();
    let ended = end(worker(&dir).arg("run"));
    assert_eq!(ended.code, 2);
    assert!(ended.stderr.contains("CAPTCHA_WORKER__SOLVER__API_KEY_FILE"), "{}", ended.stderr);
}

#[test]
fn the_exported_topology_carries_namespace_and_virtual_host() {
    let dir = TempDir::new().unwrap();
    let ended = end(worker(&dir)
        .args(["topology", "export"])
        .env("CAPTCHA_WORKER__BROKER__NAMESPACE", "lane2")
        .env("CAPTCHA_WORKER__BROKER__URL", "amqp://broker.test/%2ftwo"));
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let queues = json(&ended)["queues"].as_array().unwrap().clone();
    assert!(queues.iter().any(|queue| queue["name"] == "lane2.jobs" && queue["vhost"] == "/two"));
}

#[test]
fn a_broker_that_is_not_there_fails_topology_commands_with_advice() {
    let dir = TempDir::new().unwrap();
    for action in ["declare", "check"] {
        let ended = end(worker(&dir)
            .args(["topology", action])
            .env("CAPTCHA_WORKER__BROKER__URL", "amqp://user:pl4nted@127.0.0.1:1"));
        assert_eq!(ended.code, 1);
        assert!(ended.stderr.contains("broker.url") && !ended.stderr.contains("pl4nted"), "{}", ended.stderr);
    }
}

#[test]
fn completions_are_printed_for_every_shell_and_name_the_commands() {
    let dir = TempDir::new().unwrap();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ended = end(worker(&dir).args(["completions", shell]));
        assert_eq!(ended.code, 0);
        assert!(ended.stdout.contains("topology"), "{shell}");
    }
}

#[test]
fn completions_work_where_the_settings_are_faulty() {
    let dir = TempDir::new().unwrap();
    let ended = end(worker(&dir).args(["completions", "bash"]).env("CAPTCHA_WORKER__X", "1"));
    assert_eq!(ended.code, 0);
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let dir = TempDir::new().unwrap();
    let mut child = Process::new(env!("CARGO_BIN_EXE_captcha-worker"))
        .args(["topology", "export"])
        .current_dir(dir.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Closed before anything can have been written: settings take longer to load than this.
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}
