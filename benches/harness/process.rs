//! Processes of the program under trial: none outlives its owner.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::time::timeout;

const BINARY: &str = env!("CARGO_BIN_EXE_captcha-worker");
/// Names a folder with programs that are built as they are shipped: what `cargo bench` builds
/// shares the features that tests ask of libraries.
const AS_SHIPPED: &str = "BENCH_BINARIES";

/// The folder of programs built as they are shipped, where there is one.
pub(crate) fn as_shipped() -> Option<PathBuf> {
    std::env::var_os(AS_SHIPPED).map(PathBuf::from)
}

/// A call of the program in a folder of its own, free of settings that the caller's shell may
/// carry.
pub(crate) fn program(folder: &Path, arguments: &[&str]) -> Command {
    let binary = as_shipped().map_or_else(|| BINARY.into(), |folder| folder.join("captcha-worker"));
    let mut command = Command::new(binary);
    command.args(arguments).current_dir(folder).stdin(Stdio::null()).kill_on_drop(true);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CAPTCHA_WORKER__") {
            command.env_remove(name);
        }
    }
    command
}

/// Where a process writes; several lives of one process share a file.
pub(crate) fn log(folder: &Path, name: &str) -> Stdio {
    let path = folder.join(format!("{name}.log"));
    OpenOptions::new().create(true).append(true).open(path).expect("the trial's folder is writable").into()
}

/// A process that is killed with its owner.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
}

impl Process {
    pub(crate) fn start(command: &mut Command) -> Self {
        Self { child: command.spawn().expect("the program starts") }
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Its id, or `None` where it has ended.
    pub(crate) fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// SIGKILL, and its end.
    pub(crate) async fn kill(&mut self) {
        self.child.kill().await.expect("it can be killed");
    }

    /// SIGTERM.
    pub(crate) async fn ask_to_leave(&self) {
        self.signal("TERM").await;
    }

    /// A signal by its name, unless it has ended.
    pub(crate) async fn signal(&self, name: &str) {
        let Some(pid) = self.child.id() else { return };
        let sent = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().await;
        assert!(sent.expect("kill runs").success(), "process {pid} could not be signalled");
    }

    /// How it ended, or `None` where it did not in time.
    pub(crate) async fn end(&mut self, within: Duration) -> Option<ExitStatus> {
        let ended = timeout(within, self.child.wait()).await.ok()?;
        Some(ended.expect("a child can be waited for"))
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be looked at")
    }
}
