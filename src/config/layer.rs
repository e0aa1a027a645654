//! One layer of settings: its keys known, its values not yet judged, each with its origin.

use std::fmt;

use ::config::{ConfigError, File, FileFormat, Map, Source, Value, ValueKind};

use super::fault::Fault;
use super::schema::Schema;

/// A value with the path to it and its origin. A source of one value for [`::config`], which lays them over one another.
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
/// Checked here and not after the merge, where a value in a section's place would wipe out the section.
pub(super) fn known(leaves: Vec<Leaf>, schema: &Schema, faults: &mut Vec<Fault>) -> Vec<Leaf> {
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

fn unknown(leaf: &Leaf, schema: &Schema) -> Fault {
    let is_section = schema.is_table(&leaf.path);
    Fault {
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
/// The error tells the place and the rule that was broken, and leaves out the line itself, which can hold a secret.
pub(super) fn parse_toml(text: &str, origin: &str) -> Result<Vec<Leaf>, String> {
    let table = File::from_str(text, FileFormat::Toml).collect().map_err(|error| {
        let text = match &error {
            ConfigError::FileParse { cause, .. } => cause.to_string(),
            other => other.to_string(),
        };
        let told = text.lines().map(str::trim).filter(|line| !is_excerpt(line));
        told.collect::<Vec<_>>().join("; ")
    })?;
    Ok(leaves_of(table, origin))
}

/// Lines of the parser's report that quote the text, or point into the quotation: `12 | api_key = …`, `   | ^`.
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
