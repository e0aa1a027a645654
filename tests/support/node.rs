//! Node, for programs that are not ours.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// A folder with the scripts of another, beside the modules that `make test` has installed under
/// this name: Node looks for modules next to a script, and the repository's folders stay as they
/// are.
pub fn staged(scripts: &str, modules: &str) -> TempDir {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let named = std::env::var_os("CAPTCHA_WORKER_TEST_NODE").map(PathBuf::from);
    let modules = named.unwrap_or_else(|| root.join("target/test-node")).join(modules).join("node_modules");
    assert!(modules.exists(), "no modules at {}: run this by make, which installs them", modules.display());
    let folder = tempfile::tempdir().expect("a temporary folder");
    symlink(modules, folder.path().join("node_modules")).expect("a link");
    for entry in std::fs::read_dir(root.join(scripts)).expect("the scripts are there") {
        let path = entry.expect("readable").path();
        if path.extension().is_some_and(|extension| extension == "mjs") {
            let name = path.file_name().expect("a file has a name");
            std::fs::copy(&path, folder.path().join(name)).expect("copied");
        }
    }
    folder
}
