//! The page in a real browser: see tests/console/look.py for what is looked at.

use std::path::Path;
use std::process::Command;

use crate::ops::console::{SCRIPT, failing, page};

#[tokio::test]
async fn chromium_shows_the_page_without_scripts_in_dark_and_light_and_on_a_narrow_window() {
    let scene = failing().await;
    page(&scene).await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/console/look.py");
    let python = std::env::var_os("CAPTCHA_WORKER_TEST_PYTHON").unwrap_or_else(|| "python3".into());
    let mut command = Command::new(python);
    command.arg("-B").arg(script).args([&scene.url, SCRIPT, "Guard: canary", "7.5", "replica", "NOT_JSON"]);
    let looked = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic");
    let looked = looked.expect("Python 3 is there");
    let printed = String::from_utf8_lossy(&looked.stdout);
    let error = String::from_utf8_lossy(&looked.stderr);
    assert!(looked.status.success(), "{printed}{error}");
}
