//! The program as a process, and what its tests look at.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command as Process, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use assert_cmd::Command;
use tempfile::TempDir;
use tokio::process;
use tokio::time::timeout;

/// How long anything here may take.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);

/// The program in an empty working directory, with an environment that holds no setting.
pub(crate) fn worker(dir: &TempDir) -> Command {
    let mut command = Command::cargo_bin("captcha-worker").unwrap();
    let ours = std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CAPTCHA_WORKER__"));
    for (name, _) in ours {
        command.env_remove(name);
    }
    command.current_dir(dir.path()).timeout(TIMEOUT);
    command
}

pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

pub(crate) fn end(command: &mut Command) -> Ended {
    let output = command.output().unwrap();
    Ended {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// The program against an API with the simulator's key, and no other setting.
pub(crate) fn against(dir: &TempDir, api: &str, words: &[&str]) -> process::Command {
    let mut command = process::Command::new(env!("CARGO_BIN_EXE_captcha-worker"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CAPTCHA_WORKER__") {
            command.env_remove(name);
        }
    }
    command
        .args(words)
        .current_dir(dir.path())
        .env("CAPTCHA_WORKER__SOLVER__BASE_URL", api)
        .env("CAPTCHA_WORKER__SOLVER__API_KEY", "simulator-key")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// Waits for the end of a process.
pub(crate) async fn ended(child: process::Child) -> Ended {
    let output = timeout(TIMEOUT, child.wait_with_output()).await.expect("it ends").unwrap();
    Ended {
        code: output.status.code().expect("it ends by itself"),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Runs a process to its end.
pub(crate) async fn run(command: &mut process::Command) -> Ended {
    ended(command.spawn().unwrap()).await
}

/// Ctrl-C.
pub(crate) async fn interrupt(child: &process::Child) {
    let id = child.id().expect("it runs").to_string();
    assert!(process::Command::new("kill").args(["-INT", &id]).status().await.unwrap().success());
}

pub(crate) fn json(ended: &Ended) -> serde_json::Value {
    serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {}", ended.stdout))
}

pub(crate) fn terminate(child: &Child) {
    let killed = Process::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
}

pub(crate) fn get(address: &str, path: &str) -> String {
    let mut connection = TcpStream::connect(address).unwrap();
    connection.set_read_timeout(Some(TIMEOUT)).unwrap();
    write!(connection, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    answer
}

/// A process's JSON log, read as it is written.
pub(crate) struct Log {
    lines: mpsc::Receiver<String>,
    pub(crate) seen: String,
}

impl Log {
    pub(crate) fn of(child: &mut Child) -> Self {
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (send, lines) = mpsc::channel();
        thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
        Self { lines, seen: String::new() }
    }

    /// The next line that holds a text.
    pub(crate) fn find(&mut self, text: &str) -> serde_json::Value {
        // A process that goes on logging must not keep a test that waits for another line.
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).unwrap_or_else(|_| panic!("no {text} in {}", self.seen));
            self.seen += &line;
            if line.contains(text) {
                return serde_json::from_str(&line).unwrap();
            }
        }
    }

    /// Reads what is left, once the process has ended.
    pub(crate) fn rest(&mut self) {
        while let Ok(line) = self.lines.recv_timeout(TIMEOUT) {
            self.seen += &line;
        }
    }
}

/// A simulator on a free port, ended with the test.
pub(crate) struct Simulator {
    pub(crate) child: Child,
    pub(crate) url: String,
}

impl Simulator {
    pub(crate) fn start(dir: &TempDir) -> Self {
        let mut child = Process::new(env!("CARGO_BIN_EXE_captcha-worker"))
            .args(["simulate", "--listen", "127.0.0.1:0"])
            .current_dir(dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let report: serde_json::Value = serde_json::from_str(&line).unwrap();
        let url = report["listening"].as_str().unwrap().to_owned();
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
