//! The command line as a shell sees it: what is printed where, and the exit codes.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command as Process, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use assert_cmd::Command;
use tempfile::TempDir;

/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// The program in an empty working directory, with an environment that holds no setting.
fn worker(dir: &TempDir) -> Command {
    let mut command = Command::cargo_bin("captcha-worker").unwrap();
    let ours = std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CAPTCHA_WORKER__"));
    for (name, _) in ours {
        command.env_remove(name);
    }
    command.current_dir(dir.path()).timeout(PATIENCE);
    command
}

struct Ended {
    code: i32,
    stdout: String,
    stderr: String,
}

fn end(command: &mut Command) -> Ended {
    let output = command.output().unwrap();
    Ended {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

fn json(ended: &Ended) -> serde_json::Value {
    serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {}", ended.stdout))
}

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
    for command in ["run", "check", "topology", "simulate", "completions"] {
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

#[test]
fn the_simulator_tells_where_it_listens_and_ends_in_order_on_sigterm() {
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
fn an_address_that_cannot_be_listened_on_is_told_by_its_setting() {
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
fn a_scenario_that_is_not_there_is_an_error() {
    let dir = TempDir::new().unwrap();
    let ended = end(worker(&dir).args(["simulate", "--scenario", "absent.toml"]));
    assert_eq!(ended.code, 1);
    assert!(ended.stderr.contains("absent.toml"), "{}", ended.stderr);
}

fn terminate(child: &Child) {
    let killed = Process::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
}

fn get(address: &str, path: &str) -> String {
    let mut connection = TcpStream::connect(address).unwrap();
    connection.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(connection, "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    answer
}

/// A process's JSON log, read as it is written.
struct Log {
    lines: mpsc::Receiver<String>,
    seen: String,
}

impl Log {
    fn of(child: &mut Child) -> Self {
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (send, lines) = mpsc::channel();
        thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
        Self { lines, seen: String::new() }
    }

    /// The next line that holds a text.
    fn find(&mut self, text: &str) -> serde_json::Value {
        loop {
            let line =
                self.lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no {text} in {}", self.seen));
            self.seen += &line;
            if line.contains(text) {
                return serde_json::from_str(&line).unwrap();
            }
        }
    }
}

/// A simulator on a free port, ended with the test.
struct Simulator {
    child: Child,
    url: String,
}

impl Simulator {
    fn start(dir: &TempDir) -> Self {
        let mut child = Process::new(env!("CARGO_BIN_EXE_captcha-worker"))
            .args(["simulate", "--listen", "127.0.0.1:0"])
            .current_dir(dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let told: serde_json::Value = serde_json::from_str(&line).unwrap();
        let url = told["listening"].as_str().unwrap().to_owned();
        Self { child, url }
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        // It may have ended already, which is all that is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
