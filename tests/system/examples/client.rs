//! A foreign client's three programs.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use captcha_worker::broker::Session;
use captcha_worker::domain::message::{Headers, Message, Properties};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use crate::support::foreign::python;
use crate::support::node::staged;

/// How long anything may take.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);

/// A library, and the programs that show it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Client {
    Pika,
    AioPika,
    Amqplib,
}

/// Where its programs meet the worker.
pub(crate) struct Address<'a> {
    pub(crate) amqp: &'a str,
    pub(crate) namespace: &'a str,
}

/// A program ready to run; Node's needs its folder for as long.
pub(crate) struct Program {
    command: Command,
    _folder: Option<TempDir>,
}

/// A program that runs, and its lines.
pub(crate) struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    _folder: Option<TempDir>,
}

pub(crate) fn schema(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/schema").join(format!("{name}.schema.json"));
    path.display().to_string()
}

/// A solved outcome, with this id.
pub(crate) fn outcome(id: &str) -> Value {
    let mut outcome = captcha_worker::contract::outcome()["examples"][0].clone();
    outcome["id"] = id.into();
    outcome
}

/// Puts a message on a queue, as a worker's topology would.
pub(crate) async fn put(session: &Session, queue: &str, id: &str, body: &Value) {
    put_with(session, queue, id, Headers::new(), body).await;
}

/// The same with headers.
pub(crate) async fn put_with(session: &Session, queue: &str, id: &str, headers: Headers, body: &Value) {
    let properties = Properties { message_id: Some(id.to_owned()), headers, ..Properties::default() };
    let message = Message { body: body.to_string().into(), properties, transient: false };
    session.publish("", queue, message).await.expect("published");
}

/// A picture of so many bytes, in a file.
pub(crate) fn picture(bytes: usize) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), vec![7; bytes]).expect("written");
    file
}

impl Client {
    /// One of `publish`, `request` and `consume`.
    pub(crate) fn program(self, name: &str, address: &Address<'_>, arguments: &[&str]) -> Program {
        let python_program = |file: String| {
            let script: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/python").join(file);
            let mut command = Command::new(python());
            // No byte code is left in the repository.
            command.arg("-B").arg(script);
            (command, None)
        };
        let (mut command, folder) = match self {
            Client::Pika => python_program(format!("{name}.py")),
            Client::AioPika => python_program(format!("aio_{name}.py")),
            Client::Amqplib => {
                let folder = staged("examples/node", "examples");
                let mut command = Command::new("node");
                command.arg(folder.path().join(format!("{name}.mjs")));
                (command, Some(folder))
            }
        };
        command
            .args(arguments)
            .env("AMQP_URL", address.amqp)
            .env("CAPTCHA_NAMESPACE", address.namespace)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        Program { command, _folder: folder }
    }
}

impl Program {
    /// With one more word in its environment.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// Runs it to its end.
    pub(crate) async fn end(mut self) -> Output {
        let output = self.command.stderr(Stdio::piped()).output();
        timeout(TIMEOUT, output).await.expect("it ends in time").expect("it runs")
    }

    /// Starts it.
    pub(crate) fn start(mut self) -> Running {
        let mut child = self.command.spawn().expect("it runs");
        let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        Running { child, lines, _folder: self._folder }
    }
}

impl Running {
    /// Its next line.
    pub(crate) async fn line(&mut self) -> Value {
        let line = timeout(TIMEOUT, self.lines.next_line()).await.expect("a line in time");
        serde_json::from_str(&line.expect("readable").expect("it goes on")).expect("JSON")
    }

    /// Whoever reads its lines leaves, then this happens; and the exit code.
    pub(crate) async fn abandoned(self, then: impl Future<Output = ()>) -> Option<i32> {
        let Self { mut child, lines, _folder } = self;
        drop(lines);
        then.await;
        timeout(TIMEOUT, child.wait()).await.expect("it ends in time").expect("waited for").code()
    }

    /// SIGTERM, and the exit code.
    pub(crate) async fn terminate(&mut self) -> Option<i32> {
        let pid = self.child.id().expect("it runs").to_string();
        let sent = Command::new("kill").args(["-TERM", &pid]).status().await.expect("kill");
        assert!(sent.success());
        timeout(TIMEOUT, self.child.wait()).await.expect("it ends in time").expect("waited for").code()
    }
}

/// What it printed, line by line.
pub(crate) fn printed(output: &Output) -> Vec<String> {
    assert!(output.status.success(), "{:?}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}
