//! Reads what `/metrics` shows, and what docs/METRICS.md says about it.

use std::collections::{BTreeMap, BTreeSet};

const TABLES: &str = include_str!("../../../docs/METRICS.md");

/// One metric as it was read.
#[derive(Debug, Default)]
pub(crate) struct Family {
    pub(crate) kind: String,
    pub(crate) help: String,
    pub(crate) labels: BTreeSet<String>,
    /// By the values of the labels, joined by a blank; by nothing where there is none.
    pub(crate) values: BTreeMap<String, f64>,
}

pub(crate) type Families = BTreeMap<String, Family>;

/// Reads the text as strictly as it is written: HELP, then TYPE, then samples.
pub(crate) fn read(text: &str) -> Families {
    let mut families = Families::new();
    let mut current = String::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("a text");
            let family = Family { help: help.to_owned(), ..Family::default() };
            assert!(families.insert(name.to_owned(), family).is_none(), "{name} stands twice");
            name.clone_into(&mut current);
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a type");
            assert_eq!(name, current, "without HELP");
            kind.clone_into(&mut families.get_mut(name).expect("helped").kind);
        } else {
            let (series, value) = line.rsplit_once(' ').expect("a value");
            let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
            let family = families.get_mut(&current).expect("helped");
            let suffix = name.strip_prefix(&*current).expect("outside of its family");
            let suffixes: &[&str] =
                if family.kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            assert!(suffixes.contains(&suffix), "{line}");
            assert!(!family.kind.is_empty(), "{name} has no TYPE");
            let labels = labels.strip_suffix('}').expect("closed");
            let labels = labels.split_terminator("\",").map(|label| label.split_once("=\"").expect("quoted"));
            let (names, values): (Vec<_>, Vec<_>) =
                labels.map(|(name, value)| (name, value.trim_end_matches('"'))).unzip();
            family.labels.extend(names.into_iter().filter(|name| *name != "le").map(str::to_owned));
            let value = value.parse().expect("a number");
            // Of a histogram: "_sum", "_count", and "_bucket0.005".
            let of = format!("{suffix}{}", values.join(" "));
            assert!(family.values.insert(of, value).is_none(), "{line}");
        }
    }
    families
}

/// What docs/METRICS.md says: name, type, labels, meaning.
pub(crate) fn documented() -> BTreeSet<[String; 4]> {
    let rows = TABLES.lines().filter(|line| line.starts_with("| `captcha_"));
    let documented: BTreeSet<_> = rows
        .map(|row| {
            let cells: Vec<String> = row
                .trim_matches('|')
                .split('|')
                .map(|cell| cell.replace('`', "").trim().to_owned())
                .collect();
            let [name, kind, label, meaning] = cells.try_into().expect("four cells");
            let labels =
                label.split(';').map(|label| label.split([':', ',']).next().unwrap_or_default().trim());
            [name, kind, labels.collect::<Vec<_>>().join(" "), meaning]
        })
        .collect();
    assert!(documented.len() > 20, "the tables were not found");
    documented
}
