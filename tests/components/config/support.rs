//! A working directory and an environment for settings to come from.

use std::ffi::OsString;
use std::fs;

use captcha_worker::config::{ConfigErrors, LoadOptions, Loaded, Settings};
use tempfile::TempDir;

/// A working directory with files, and an environment.
pub(crate) struct Place {
    pub(crate) dir: TempDir,
    pub(crate) options: LoadOptions,
}

impl Place {
    pub(crate) fn new(files: &[(&str, &str)]) -> Self {
        let dir = TempDir::new().unwrap();
        fs::create_dir(dir.path().join("config")).unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let options = LoadOptions {
            dir: dir.path().to_owned(),
            files: Vec::new(),
            env: Vec::new(),
            overrides: Vec::new(),
        };
        Self { dir, options }
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        let name = format!("CAPTCHA_WORKER__{name}");
        self.options.env.push((OsString::from(name), OsString::from(value)));
        self
    }

    pub(crate) fn config(mut self, file: &str) -> Self {
        self.options.files.push(file.into());
        self
    }

    pub(crate) fn load(&self) -> Result<Loaded, ConfigErrors> {
        Settings::load(&self.options)
    }

    pub(crate) fn good(&self) -> Loaded {
        self.load().unwrap_or_else(|errors| panic!("{errors}"))
    }

    /// The faults, one line each.
    pub(crate) fn faults(&self) -> Vec<String> {
        let errors = self.load().expect_err("the settings were taken");
        errors.faults().iter().map(ToString::to_string).collect()
    }
}

pub(crate) fn shown<'a>(loaded: &'a Loaded, key: &str) -> (&'a str, &'a str) {
    let line = loaded.report().iter().find(|line| line.key == key).unwrap();
    (&line.value_shown, &line.origin)
}
