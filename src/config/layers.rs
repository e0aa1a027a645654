//! Layers of settings: their keys known, their values not yet judged, each with its origin.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;

use ::config::{ConfigError, File, FileFormat, Map, Source, Value, ValueKind};

use super::ENV_PREFIX;
use super::fault::SettingFault;
use crate::domain::sanitize::shown;

/// A value with the path to it and its origin. A source of one value for [`::config`], which lays
/// them over one another.
#[derive(Clone)]
pub(super) struct Leaf {
    pub(super) path: Vec<String>,
    pub(super) kind: ValueKind,
    pub(super) origin: String,
}

impl Leaf {
    pub(super) fn key(&self) -> String {
        self.path.join(".")
    }
}

/// The value can be a secret.
impl fmt::Debug for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.key(), self.origin)
    }
}

impl Source for Leaf {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        let value = Value::new(Some(&self.origin), self.kind.clone());
        let Some((section, rest)) = self.path.split_first() else {
            return Ok(Map::new());
        };
        let nested = rest
            .iter()
            .rev()
            .fold(value, |inner, name| Value::new(Some(&self.origin), Map::from([(name.clone(), inner)])));
        Ok(Map::from([(section.clone(), nested)]))
    }
}

/// Keeps the leaves whose keys are known; the others are faults.
///
/// Checked here and not after the merge, where a value in a section's place would wipe out the
/// section.
pub(super) fn known(leaves: Vec<Leaf>, schema: &Schema, faults: &mut Vec<SettingFault>) -> Vec<Leaf> {
    let mut kept = Vec::new();
    for leaf in leaves {
        if schema.default_of(&leaf.path).is_some() {
            kept.push(leaf);
        } else if !(matches!(leaf.kind, ValueKind::Table(_)) && schema.is_table(&leaf.path)) {
            faults.push(unknown(&leaf, schema));
        }
    }
    kept
}

fn unknown(leaf: &Leaf, schema: &Schema) -> SettingFault {
    let is_section = schema.is_table(&leaf.path);
    SettingFault {
        key: leaf.key(),
        origin: leaf.origin.clone(),
        problem: if is_section {
            "is a section and cannot have a value of its own".to_owned()
        } else {
            "no such setting".to_owned()
        },
        allowed: schema.known_near(&leaf.path),
    }
}

/// The leaves of a TOML text.
///
/// The error names the place and the rule that was broken, and leaves out the line itself, which
/// can hold a secret.
pub(super) fn parse_toml(text: &str, origin: &str) -> Result<Vec<Leaf>, String> {
    let table = File::from_str(text, FileFormat::Toml).collect().map_err(|error| {
        let text = match &error {
            ConfigError::FileParse { cause, .. } => cause.to_string(),
            other => other.to_string(),
        };
        let lines = text.lines().map(str::trim).filter(|line| !is_excerpt(line));
        lines.collect::<Vec<_>>().join("; ")
    })?;
    Ok(leaves_of(table, origin))
}

/// Lines of the parser's report that quote the text, or point into the quotation: `12 | api_key =
/// …`, `   | ^`.
fn is_excerpt(line: &str) -> bool {
    line.is_empty() || line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ').starts_with('|')
}

/// Flattens tables. An empty table is a leaf, so that it is seen.
pub(super) fn leaves_of(table: Map<String, Value>, origin: &str) -> Vec<Leaf> {
    let mut leaves = Vec::new();
    let mut open = vec![(Vec::new(), table)];
    while let Some((path, table)) = open.pop() {
        for (name, value) in table {
            let mut path: Vec<String> = path.clone();
            path.push(name);
            let origin = value.origin().unwrap_or(origin).to_owned();
            match value.kind {
                ValueKind::Table(inner) if !inner.is_empty() => open.push((path, inner)),
                kind => leaves.push(Leaf { path, kind, origin }),
            }
        }
    }
    leaves.sort_by(|one, other| one.path.cmp(&other.path));
    leaves
}

/// The settings of a task type's polls.
pub(super) const POLL_SETTINGS: [&str; 4] = ["first_delay", "interval", "timeout", "max_polls"];

/// The settings of a lane.
pub(super) const LANE: [&str; 3] = ["weight", "max_in_flight", "max_calls_per_second"];
/// The settings of a lane's budgets.
pub(super) const BUDGETS: [&str; 2] = ["per_hour", "per_day"];

/// Every known setting with its default.
#[derive(Debug)]
pub(super) struct Schema {
    defaults: BTreeMap<String, ValueKind>,
    sections: BTreeSet<String>,
    types: BTreeSet<String>,
}

impl Schema {
    /// From the leaves of the built-in defaults.
    pub(super) fn new(leaves: &[Leaf]) -> Self {
        let types = leaves.iter().filter_map(|leaf| match leaf.path.as_slice() {
            [section, name, _] if section == "polling" => Some(name.clone()),
            _ => None,
        });
        Self {
            types: types.collect(),
            sections: leaves.iter().map(|leaf| leaf.path[0].clone()).collect(),
            // An open table without an entry is a leaf too, and no setting.
            defaults: leaves
                .iter()
                .filter(|leaf| !matches!(leaf.kind, ValueKind::Table(_)))
                .map(|leaf| (leaf.key(), leaf.kind.clone()))
                .collect(),
        }
    }

    /// The default of a setting; for one in an open table, of the shape that its values have.
    pub(super) fn default_of(&self, path: &[String]) -> Option<ValueKind> {
        if let Some(default) = self.defaults.get(&path.join(".")) {
            return Some(default.clone());
        }
        let text = || Some(ValueKind::String(String::new()));
        match path {
            [section, code] if section == "codes" && !code.is_empty() => text(),
            [section, name] if section == "caps" && !name.is_empty() => Some(ValueKind::I64(0)),
            [section, name, field] if section == "lanes" && !name.is_empty() => {
                LANE.contains(&field.as_str()).then_some(ValueKind::I64(0))
            }
            [section, name] if section == "prices" && !name.is_empty() => text(),
            [section, lanes, name, field] if section == "budgets" && lanes == "lanes" => {
                (!name.is_empty() && BUDGETS.contains(&field.as_str())).then(text).flatten()
            }
            [section, name, field] if section == "polling" && is_type(name, field) => {
                if field == "max_polls" { Some(ValueKind::I64(0)) } else { text() }
            }
            _ => None,
        }
    }

    /// A task type as the defaults write it, whatever the case it was given in. `Type__class` is
    /// `Type/class`, since few shells can set a variable whose name holds a slash.
    pub(super) fn task_type(&self, given: &str) -> String {
        let (task_type, class) =
            given.split_once("__").map_or((given, None), |(of, class)| (of, Some(class)));
        let known = self.types.iter().find(|name| name.eq_ignore_ascii_case(task_type));
        let task_type = known.map_or(task_type, String::as_str);
        class.map_or_else(|| task_type.to_owned(), |class| format!("{task_type}/{class}"))
    }

    /// Whether a table may be there, if only an empty one.
    pub(super) fn is_table(&self, path: &[String]) -> bool {
        match path {
            [section] => self.sections.contains(section),
            [section, name] => section == "polling" || (section == "budgets" && name == "lanes"),
            [section, lanes, _] => section == "budgets" && lanes == "lanes",
            _ => false,
        }
    }

    /// What could have been meant instead of an unknown key.
    pub(super) fn known_near(&self, path: &[String]) -> String {
        let Some(section) = path.first().filter(|section| self.sections.contains(*section)) else {
            let sections: Vec<_> = self.sections.iter().map(|name| format!("[{name}]")).collect();
            return format!("the sections {}", sections.join(", "));
        };
        match section.as_str() {
            "polling" => {
                let fields = POLL_SETTINGS.join(", ");
                format!("mode, [polling.<task type>] or [polling.\"<task type>/<class>\"] with {fields}")
            }
            "codes" => "<error code> = \"<class>\"".to_owned(),
            "lanes" => format!("[lanes.<name>] with {}", LANE.join(", ")),
            "caps" => "<task type> = <number>, \"<task type>/<class>\" = <number>".to_owned(),
            "prices" => "<task type> = \"<amount>\", \"<task type>/<class>\" = \"<amount>\"".to_owned(),
            "budgets" => {
                let fields = BUDGETS.join(", ");
                format!("{fields}, [budgets.lanes.<lane>] with {fields}")
            }
            _ => {
                let prefix = format!("{section}.");
                let keys = self.defaults.keys().filter(|key| key.starts_with(&prefix));
                keys.cloned().collect::<Vec<_>>().join(", ")
            }
        }
    }
}

fn is_type(name: &str, field: &str) -> bool {
    !name.is_empty() && POLL_SETTINGS.contains(&field)
}

/// The leaves of all variables that begin with the prefix. One that names no setting is a fault by
/// the variable's name.
pub(super) fn of_environment(
    variables: &[(OsString, OsString)],
    schema: &Schema,
    faults: &mut Vec<SettingFault>,
) -> Vec<Leaf> {
    let mut leaves = Vec::new();
    for (name, value) in variables {
        let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(ENV_PREFIX)) else {
            continue;
        };
        let origin = format!("environment {ENV_PREFIX}{rest}");
        let path = path_of(rest, schema);
        let Some(default) = schema.default_of(&path) else {
            let mut fault = SettingFault::of_layer(origin, "the variable names no setting");
            fault.allowed = schema.known_near(&path);
            faults.push(fault);
            continue;
        };
        match value.to_str() {
            Some(text) => leaves.push(Leaf { kind: shaped(text, &default), path, origin }),
            None => faults.push(SettingFault::of_layer(origin, "the value is not UTF-8")),
        }
    }
    // Two spellings of one name: which of them wins must not depend on the order of the
    // environment.
    leaves.sort_by(|one, other| one.origin.cmp(&other.origin));
    leaves
}

/// A variable that is not read, and whose name is nearly that of a setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IgnoredVariable {
    /// Its name.
    pub name: String,
    /// The name that was probably meant.
    pub meant: String,
}

/// The variables that miss the prefix by its case or its underscores.
pub(super) fn ignored_of(variables: &[(OsString, OsString)], schema: &Schema) -> Vec<IgnoredVariable> {
    let word = ENV_PREFIX.trim_end_matches('_');
    let names = variables.iter().filter_map(|(name, _)| name.to_str());
    let ignored = names.filter(|name| !name.starts_with(ENV_PREFIX)).filter_map(|name| {
        let (head, rest) = name.split_at_checked(word.len())?;
        let rest =
            rest.strip_prefix('_').filter(|_| head.eq_ignore_ascii_case(word))?.trim_start_matches('_');
        let flat = |name: &str| name.replace("__", "_").to_ascii_lowercase();
        let known =
            schema.defaults.keys().find(|key| key.replace('.', "_").eq_ignore_ascii_case(&flat(rest)));
        let meant = match known {
            Some(key) => key.replace('.', "__").to_ascii_uppercase(),
            // Codes and task types stay as they are written.
            None => schema.default_of(&path_of(rest, schema)).map(|_| rest.to_owned())?,
        };
        Some(IgnoredVariable { name: shown(name, 200), meant: shown(&format!("{ENV_PREFIX}{meant}"), 200) })
    });
    let mut ignored: Vec<_> = ignored.collect();
    ignored.sort_by(|one, other| one.name.cmp(&other.name));
    ignored
}

/// `BROKER__CALL_TIMEOUT` is `broker.call_timeout`. Task types and error codes keep their case,
/// which the API cares about.
fn path_of(name: &str, schema: &Schema) -> Vec<String> {
    let (section, rest) = name.split_once("__").unwrap_or((name, ""));
    let section = section.to_ascii_lowercase();
    match section.as_str() {
        "codes" => vec![section, rest.to_owned()],
        "caps" | "prices" => vec![section, schema.task_type(rest)],
        "lanes" => match rest.rsplit_once("__") {
            Some((name, field)) => vec![section, name.to_ascii_lowercase(), field.to_ascii_lowercase()],
            None => vec![section, rest.to_ascii_lowercase()],
        },
        "budgets" => {
            let rest = rest.to_ascii_lowercase();
            match rest.strip_prefix("lanes__").and_then(|of_lane| of_lane.rsplit_once("__")) {
                Some((lane, field)) => vec![section, "lanes".to_owned(), lane.to_owned(), field.to_owned()],
                None => vec![section, rest],
            }
        }
        "polling" => match rest.rsplit_once("__") {
            Some((task_type, field)) => {
                vec![section, schema.task_type(task_type), field.to_ascii_lowercase()]
            }
            None => vec![section, rest.to_ascii_lowercase()],
        },
        _ => vec![section, rest.to_ascii_lowercase()],
    }
}

/// Gives a text the shape of the setting. What cannot take it stays text, and is refused where the
/// setting is read.
fn shaped(text: &str, default: &ValueKind) -> ValueKind {
    let trimmed = text.trim();
    let as_shape = match default {
        ValueKind::Boolean(_) => trimmed.parse().ok().map(ValueKind::Boolean),
        ValueKind::I64(_) => trimmed.parse().ok().map(ValueKind::I64),
        ValueKind::Float(_) => trimmed.parse().ok().map(ValueKind::Float),
        ValueKind::Array(_) => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            Some(ValueKind::Array(items.map(|item| Value::new(None, item)).collect()))
        }
        _ => None,
    };
    as_shape.unwrap_or_else(|| ValueKind::String(text.to_owned()))
}
