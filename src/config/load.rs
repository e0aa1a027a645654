//! Loading: the layers in their order, the merge, and the reading.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use ::config::{Config, ValueKind};

use super::fault::{ConfigErrors, SettingFault};
use super::files::{read_bounded, reason};
use super::layers::{self, IgnoredVariable, Leaf, Schema};
use super::reader::{Reader, SettingLine};
use super::{DEFAULTS, Settings, sections};

/// The file of the working directory that may be the built-in defaults once more.
const DEFAULT_FILE: &str = "default.toml";
/// Longest configuration file, in bytes.
const MAX_FILE: u64 = 1024 * 1024;

/// A value from the command line.
#[derive(Debug, Clone)]
pub struct Override {
    /// The setting, such as `log.level`.
    pub key: &'static str,
    /// Its value; the setting must be a text.
    pub value: String,
    /// The option, such as `--log`.
    pub origin: &'static str,
}

/// Where settings are taken from, beside the built-in defaults.
#[derive(Clone)]
pub struct LoadOptions {
    /// The working directory: `config/*.toml` is looked for here, and relative paths begin here.
    pub dir: PathBuf,
    /// `--config`, in order.
    pub files: Vec<PathBuf>,
    /// The environment.
    pub env: Vec<(OsString, OsString)>,
    /// The command line.
    pub overrides: Vec<Override>,
}

/// Shows no environment, which holds secrets, and not only ours.
impl std::fmt::Debug for LoadOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoadOptions")
            .field("dir", &self.dir)
            .field("files", &self.files)
            .field("env", &format_args!("[{} hidden]", self.env.len()))
            .field("overrides", &self.overrides)
            .finish()
    }
}

impl LoadOptions {
    /// This process's working directory and environment.
    #[must_use]
    pub fn of_process(files: Vec<PathBuf>) -> Self {
        Self { dir: PathBuf::from("."), files, env: std::env::vars_os().collect(), overrides: Vec::new() }
    }
}

/// Settings, and where each comes from.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The settings in force.
    pub settings: Settings,
    lines: Vec<SettingLine>,
    ignored: Vec<IgnoredVariable>,
}

impl Loaded {
    /// Every setting as it may be shown, in the order of `config/default.toml`.
    #[must_use]
    pub fn report(&self) -> &[SettingLine] {
        &self.lines
    }

    /// Variables of the environment that were probably meant as settings, and are none.
    #[must_use]
    pub fn ignored(&self) -> &[IgnoredVariable] {
        &self.ignored
    }

    /// Where a setting's value comes from.
    #[must_use]
    pub fn origin(&self, key: &str) -> Option<&str> {
        let line = self.lines.iter().find(|line| line.key == key);
        line.map(|line| line.origin.as_str())
    }
}

impl Settings {
    /// Loads the settings, and reads the files that hold secrets.
    ///
    /// # Errors
    /// Every fault of every layer: unreadable files, unknown keys, values that are not allowed.
    pub fn load(options: &LoadOptions) -> Result<Loaded, ConfigErrors> {
        let mut faults = Vec::new();
        let (merged, ignored) = merged(options, &mut faults);
        let mut reader = Reader::new(merged, &options.dir, faults);
        let settings = sections::read(&mut reader);
        let (lines, faults) = reader.finish();
        match settings {
            Some(settings) if faults.is_empty() => Ok(Loaded { settings, lines, ignored }),
            _ => Err(ConfigErrors::new(faults)),
        }
    }
}

/// Every setting that is known and set, once; and variables that only look like settings.
fn merged(options: &LoadOptions, faults: &mut Vec<SettingFault>) -> (Vec<Leaf>, Vec<IgnoredVariable>) {
    let built_in = layers::parse_toml(DEFAULTS, "default").unwrap_or_else(|problem| {
        faults.push(SettingFault::of_layer("default", problem));
        Vec::new()
    });
    let schema = Schema::new(&built_in);
    let mut layers = vec![layers::known(built_in, &schema, faults)];
    for (path, is_default) in files(options, faults) {
        let Some(mut leaves) = read_file(&path, options, faults) else {
            continue;
        };
        if is_default {
            leaves.retain(|leaf| schema.default_of(&leaf.path).as_ref() != Some(&leaf.kind));
        }
        layers.push(layers::known(leaves, &schema, faults));
    }
    layers.push(layers::of_environment(&options.env, &schema, faults));
    layers.push(options.overrides.iter().map(leaf_of).collect());
    let merged = lay_over(layers).unwrap_or_else(|error| {
        faults.push(SettingFault::of_layer("settings", error.to_string()));
        Vec::new()
    });
    (merged, layers::ignored_of(&options.env, &schema))
}

fn lay_over(layers: Vec<Vec<Leaf>>) -> Result<Vec<Leaf>, ::config::ConfigError> {
    let builder = layers.into_iter().fold(Config::builder(), |builder, layer| builder.add_source(layer));
    let merged = builder.build()?.cache.into_table()?;
    Ok(layers::leaves_of(merged, "default"))
}

fn leaf_of(option: &Override) -> Leaf {
    Leaf {
        path: option.key.split('.').map(str::to_owned).collect(),
        kind: ValueKind::String(option.value.clone()),
        origin: option.origin.to_owned(),
    }
}

/// The files in their order, and whether each is the working directory's copy of the defaults.
///
/// That copy comes first whatever the others are called: it would undo what `config/broker.toml`
/// says.
fn files(options: &LoadOptions, faults: &mut Vec<SettingFault>) -> Vec<(PathBuf, bool)> {
    let folder = options.dir.join("config");
    let mut found = match toml_files(&folder) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            faults.push(SettingFault::of_layer(shown(&folder, options), reason(&error)));
            Vec::new()
        }
    };
    let is_default = |path: &Path| path.file_name().is_some_and(|name| name == DEFAULT_FILE);
    found.sort_by_key(|path| (!is_default(path), path.clone()));
    let in_folder = found.into_iter().map(|path| {
        let default = is_default(&path);
        (path, default)
    });
    let named = options.files.iter().map(|file| (options.dir.join(file), false));
    in_folder.chain(named).collect()
}

fn toml_files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "toml") && !path.is_dir() {
            found.push(path);
        }
    }
    Ok(found)
}

fn read_file(path: &Path, options: &LoadOptions, faults: &mut Vec<SettingFault>) -> Option<Vec<Leaf>> {
    let origin = shown(path, options);
    let text = read_bounded(path, MAX_FILE);
    let leaves = text.map_err(|error| reason(&error)).and_then(|text| layers::parse_toml(&text, &origin));
    leaves.map_err(|problem| faults.push(SettingFault::of_layer(origin, problem))).ok()
}

fn shown(path: &Path, options: &LoadOptions) -> String {
    path.strip_prefix(&options.dir).unwrap_or(path).display().to_string()
}
