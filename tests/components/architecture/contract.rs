//! docs/CONTRACT.md says what the code does: its tables are read and compared, row by row.

use std::collections::BTreeSet;

use captcha_worker::broker::topology::{Names, Topology};
use captcha_worker::contract;
use captcha_worker::domain::api_code::Code;
use captcha_worker::domain::class::Class;
use captcha_worker::domain::local_code;
use captcha_worker::domain::message::Value;
use captcha_worker::domain::{history, job, poll_schedule};

const CONTRACT: &str = include_str!("../../../docs/CONTRACT.md");
const README: &str = include_str!("../../../README.md");

/// The rows of the first table under a heading, cells without white space and backticks.
pub(crate) fn table(document: &str, heading: &str) -> Vec<Vec<String>> {
    let section = document
        .lines()
        .skip_while(|line| line.trim_start_matches('#').trim() != heading || !line.starts_with('#'));
    let rows: Vec<Vec<String>> = section
        .skip(1)
        .take_while(|line| !line.starts_with('#'))
        .skip_while(|line| !line.starts_with('|'))
        .take_while(|line| line.starts_with('|'))
        .skip(2)
        .map(|line| {
            let cells = line.trim().trim_start_matches('|').trim_end_matches('|').split('|');
            cells.map(|cell| cell.replace('`', "").trim().to_owned()).collect()
        })
        .collect();
    assert!(!rows.is_empty(), "no table under '{heading}'");
    rows
}

/// The string literals of a source file.
fn literals(source: &str) -> impl Iterator<Item = &str> {
    source.split('"').skip(1).step_by(2)
}

#[test]
fn the_contract_lists_every_code_of_the_api_with_its_class() {
    let listed: Vec<(String, String)> =
        table(CONTRACT, "Codes of the API").into_iter().map(|row| (row[0].clone(), row[2].clone())).collect();
    let known: Vec<(String, String)> =
        Code::ALL.iter().map(|code| (code.name().to_owned(), code.class().name().to_owned())).collect();
    assert_eq!(listed, known);
}

#[test]
fn the_contract_lists_every_spelling_of_a_code() {
    let rows = table(CONTRACT, "Codes of the API");
    let mut listed = BTreeSet::new();
    for row in &rows {
        for spelling in row[1].split(',').map(str::trim).filter(|text| !text.is_empty()) {
            assert_eq!(Code::parse(spelling), Code::parse(&row[0]), "{spelling}");
            listed.insert(spelling);
        }
    }
    let known: BTreeSet<&str> = literals(include_str!("../../../crates/domain/src/api_code.rs"))
        .filter(|text| Code::parse(text).is_some_and(|code| code.name() != *text))
        .collect();
    assert_eq!(listed, known);
}

#[test]
fn the_contract_lists_every_code_of_the_worker() {
    let listed: BTreeSet<String> = table(CONTRACT, "Codes of this worker")
        .into_iter()
        .map(|row| {
            row[1].parse::<Class>().expect("a class");
            row[0].clone()
        })
        .collect();
    assert_eq!(listed, local_code::ALL.iter().map(|code| (*code).to_owned()).collect());
}

#[test]
fn contract_and_readme_list_every_class_in_order() {
    let known: Vec<&str> = Class::ALL.iter().map(|class| class.name()).collect();
    let contract = table(CONTRACT, "Classes");
    assert_eq!(contract.iter().map(|row| &*row[0]).collect::<Vec<_>>(), known);
    let readme = table(README, "Classes");
    assert_eq!(readme.iter().map(|row| &*row[0]).collect::<Vec<_>>(), known);
    let names = Names::new("captcha");
    for (row, class) in contract.iter().zip(Class::ALL) {
        let queue = if class.is_final() { names.dead(class) } else { String::new() };
        assert_eq!(row[1], queue);
    }
}

#[test]
fn the_contract_states_the_limits_that_the_code_keeps() {
    let listed: Vec<usize> = table(CONTRACT, "Limits")
        .iter()
        .map(|row| row[1].replace(',', "").parse().expect("a number"))
        .collect();
    let seconds = |span: std::time::Duration| usize::try_from(span.as_secs()).expect("small");
    let known = [
        job::MAX_MESSAGE,
        job::MAX_DEPTH,
        job::MAX_ID,
        *job::IMAGE_BYTES.start(),
        *job::IMAGE_BYTES.end(),
        seconds(poll_schedule::SPACING) * 1_000,
        poll_schedule::MAX_POLLS as usize,
        seconds(poll_schedule::MAX_AGE),
        history::MAX_ATTEMPTS,
    ];
    assert_eq!(listed, known);
}

/// The properties of a schema's object, those of its alternatives too.
fn properties(schema: &serde_json::Value) -> BTreeSet<String> {
    let alternatives = schema["oneOf"].as_array().into_iter().flatten();
    let all = alternatives.chain([schema]).filter_map(|part| part["properties"].as_object());
    all.flat_map(|fields| fields.keys().cloned()).collect()
}

#[test]
fn the_contract_lists_every_field_that_the_schemas_have() {
    for (heading, schema) in [("Job", contract::job()), ("Outcome", contract::outcome())] {
        let rows = table(CONTRACT, heading);
        let names = rows.iter().flat_map(|row| row[0].split(", "));
        let listed: BTreeSet<String> = names.map(str::to_owned).collect();
        assert_eq!(listed, properties(&schema), "{heading}");
    }
}

#[test]
fn the_contract_names_the_fields_of_failures_originals_attempts_and_times() {
    let schema = contract::outcome();
    for (field, kind) in
        [("failure", "Failure"), ("original", "Original"), ("attempts", "Attempt"), ("times", "Times")]
    {
        let rows = table(CONTRACT, "Outcome");
        let listed = &rows.iter().find(|row| row[0] == field).expect("a row")[2];
        for name in properties(&schema["$defs"][kind]) {
            assert!(listed.contains(&name), "{field} has {name}");
        }
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Text(text) => text.clone(),
        Value::Int(number) => number.to_string(),
        Value::Bool(flag) => flag.to_string(),
        other => format!("{other:?}"),
    }
}

#[test]
fn the_contract_lists_every_queue_with_its_arguments() {
    let listed: BTreeSet<Vec<String>> = table(CONTRACT, "Queues").into_iter().collect();
    let common = [
        ("x-queue-type", "quorum"),
        ("x-overflow", "reject-publish"),
        ("x-dead-letter-strategy", "at-least-once"),
        ("x-dead-letter-exchange", ""),
    ];
    let mut known = BTreeSet::new();
    for queue in Topology::new(&Names::new("captcha")).queues {
        let mut rest = queue.arguments.clone();
        for (name, value) in common {
            assert_eq!(
                rest.remove(name).as_ref().map(shown).as_deref(),
                Some(value),
                "{}: {name}",
                queue.name
            );
        }
        let mut take = |name: &str| rest.remove(name).as_ref().map(shown).unwrap_or_default();
        let (limit, target) = (take("x-delivery-limit"), take("x-dead-letter-routing-key"));
        let further: Vec<String> =
            rest.iter().map(|(name, value)| format!("{name}: {}", shown(value))).collect();
        known.insert(vec![queue.name, limit, target, further.join(", ")]);
    }
    assert_eq!(listed, known);
}

#[test]
fn the_contract_lists_every_exchange_and_binding() {
    let topology = Topology::new(&Names::new("captcha"));
    let exchanges: Vec<Vec<String>> = topology
        .exchanges
        .iter()
        .map(|exchange| {
            let arguments =
                exchange.arguments.iter().map(|(name, value)| format!("{name}: {}", shown(value)));
            let arguments = arguments.collect::<Vec<_>>().join(", ");
            vec![exchange.name.clone(), exchange.kind.name().to_owned(), arguments]
        })
        .collect();
    assert_eq!(table(CONTRACT, "Exchanges"), exchanges);

    let listed: BTreeSet<Vec<String>> = table(CONTRACT, "Bindings")
        .into_iter()
        .flat_map(|row| -> Vec<Vec<String>> {
            if row.iter().any(|cell| cell.contains("<class>")) {
                let of =
                    |class: Class| row.iter().map(|cell| cell.replace("<class>", class.name())).collect();
                Class::finals().map(of).collect()
            } else {
                vec![row]
            }
        })
        .collect();
    let known: BTreeSet<Vec<String>> = topology
        .bindings
        .into_iter()
        .map(|binding| vec![binding.exchange, binding.queue, binding.routing_key])
        .collect();
    assert_eq!(listed, known);
}
