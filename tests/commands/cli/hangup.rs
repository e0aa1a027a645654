//! SIGHUP: the key and the log level are taken anew, both or neither.

use std::fs;
use std::process::{Child, Command as Process, Stdio};

use tempfile::TempDir;

use crate::cli::support::{Log, terminate};

/// A worker that works on a settings file; its broker is never there.
struct Running {
    dir: TempDir,
    child: Child,
    log: Log,
}

impl Running {
    fn start(level: &str, arguments: &[&str]) -> Self {
        let dir = TempDir::new().unwrap();
        let mut process = Process::new(env!("CARGO_BIN_EXE_captcha-worker"));
        process.args(["run", "--config", "worker.toml"]).args(arguments).current_dir(dir.path());
        write(&dir, level, "pl4nted-one", "");
        let mut child = process
            .env("CAPTCHA_WORKER__BROKER__URL", "amqp://user:pl4nted-pass@127.0.0.1:1")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Log::of(&mut child);
        Self { dir, child, log }
    }

    fn hang_up(&mut self, level: &str, key: &str, more: &str) {
        write(&self.dir, level, key, more);
        let sent = Process::new("kill").args(["-HUP", &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// What it has written since the start, once it has ended in order.
    fn end(&mut self) -> &str {
        terminate(&self.child);
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
        self.log.rest();
        assert!(!self.log.seen.contains("pl4nted"), "{}", self.log.seen);
        &self.log.seen
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already, which is all that is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn write(dir: &TempDir, level: &str, key: &str, more: &str) {
    let text = format!("[log]\nlevel = '{level}'\n[solver]\napi_key = '{key}'\n{more}\n");
    // At once, since the worker may read it at any moment.
    fs::write(dir.path().join("next.toml"), text).unwrap();
    fs::rename(dir.path().join("next.toml"), dir.path().join("worker.toml")).unwrap();
}

#[test]
fn another_log_level_is_in_force_at_once() {
    let mut worker = Running::start("warn", &[]);
    worker.log.find("no session with the broker");
    assert!(!worker.log.seen.contains("INFO"), "{}", worker.log.seen);
    worker.hang_up("info", "pl4nted-one", "");
    assert_eq!(worker.log.find("log level changed")["log_level"], "info");
    worker.log.find("API key unchanged");
    worker.hang_up("error", "pl4nted-two", "");
    worker.log.find("log level changed");
    worker.hang_up("info", "pl4nted-two", "");
    worker.log.find("API key unchanged");
    assert_eq!(
        worker.log.seen.matches("API key changed").count(),
        0,
        "it came while only errors were logged"
    );
    worker.end();
}

#[test]
fn a_refused_reload_leaves_key_and_level_as_they_are_and_says_why() {
    let mut worker = Running::start("info", &[]);
    worker.log.find("starting");
    let broken = [
        ("noisy", "pl4nted-two", "", "is not a log filter"),
        ("debug", "", "", "solver.api_key"),
        ("debug", "pl4nted-two", "no_such = 1", "solver.no_such"),
        ("debug", "pl4nted-two", "[worker]\nmax_in_flight = 0", "worker.max_in_flight"),
        ("debug", "pl4nted-two", "[", "worker.toml"),
    ];
    for (level, key, more, why) in broken {
        worker.hang_up(level, key, more);
        let refused = worker.log.find("these settings cannot be used");
        assert_eq!(refused["level"], "ERROR");
        assert!(refused["refused"].as_str().is_some_and(|text| text.contains(why)), "{refused}");
    }
    worker.hang_up("info", "pl4nted-one", "");
    worker.log.find("API key unchanged");
    let seen = worker.end();
    assert!(!seen.contains("log level changed") && !seen.contains("API key changed"), "{seen}");
}

#[test]
fn a_level_of_the_command_line_stays_and_other_settings_wait_for_the_next_start() {
    let mut worker = Running::start("error", &["--log", "info"]);
    worker.log.find("starting");
    worker.hang_up("off", "pl4nted-two", "max_connections = 7\n[worker]\nlinger = '5ms'");
    worker.log.find("API key changed");
    let waiting = worker.log.find("they take effect at the next start");
    assert_eq!(waiting["settings"], "solver.max_connections, worker.linger");
    let seen = worker.end();
    assert!(!seen.contains("log level changed"), "{seen}");
}
