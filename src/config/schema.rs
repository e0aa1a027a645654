//! Which settings there are, and of which shape: read off the built-in defaults.

use std::collections::{BTreeMap, BTreeSet};

use ::config::ValueKind;

use super::layer::Leaf;

/// The three settings of a task type's pace.
const PACE: [&str; 3] = ["first_delay", "interval", "timeout"];

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
            [section, name, field] if section == "polling" && is_type(name, field) => text(),
            _ => None,
        }
    }

    /// A task type as the defaults write it, whatever the case it was given in. `Type__class` is `Type/class`, since few
    /// shells can set a variable whose name holds a slash.
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
            [section, _] => section == "polling",
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
                format!("[polling.<task type>] or [polling.\"<task type>/<class>\"] with {}", PACE.join(", "))
            }
            "codes" => "<error code> = \"<class>\"".to_owned(),
            "caps" => "<task type> = <number>, \"<task type>/<class>\" = <number>".to_owned(),
            _ => {
                let prefix = format!("{section}.");
                let keys = self.defaults.keys().filter(|key| key.starts_with(&prefix));
                keys.cloned().collect::<Vec<_>>().join(", ")
            }
        }
    }
}

fn is_type(name: &str, field: &str) -> bool {
    !name.is_empty() && PACE.contains(&field)
}
