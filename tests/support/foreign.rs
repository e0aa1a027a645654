//! The foreign client: pika, in Python (`tests/system/e2e/foreign.py`).

use std::path::{Path, PathBuf};
use std::process::Command;

/// Python with pika: named by the environment, or the virtual environment that `make test` makes.
pub fn python() -> PathBuf {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let named = std::env::var_os("CAPTCHA_WORKER_TEST_PYTHON").map(PathBuf::from);
    let python = named.unwrap_or_else(|| root.join("target/test-venv/bin/python"));
    assert!(python.exists(), "no Python with pika at {}: run this by make, which makes it", python.display());
    python
}

/// A call of it.
pub fn command(verb: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(python());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/system/e2e/foreign.py");
    command.arg(script).arg(verb).args(arguments);
    command
}
