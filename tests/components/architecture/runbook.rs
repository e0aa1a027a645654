//! docs/OPERATIONS.md says of everything that can go wrong what it means, what to look at and what
//! fixes it; and its commands can be typed.

use std::collections::BTreeSet;

use captcha_worker::cli::Cli;
use captcha_worker::domain::class::Class;
use captcha_worker::domain::guard::Reason;
use clap::Parser;

use crate::architecture::contract::table;

const RUNBOOK: &str = include_str!("../../../docs/OPERATIONS.md");
const ALERTS: &str = include_str!("../../../deploy/prometheus/alerts.yml");
/// Where commands stand that somebody may type.
const DOCUMENTS: &[(&str, &str)] = &[
    ("docs/OPERATIONS.md", RUNBOOK),
    ("docs/GUARD.md", include_str!("../../../docs/GUARD.md")),
    ("docs/CONSOLE.md", include_str!("../../../docs/CONSOLE.md")),
    ("docs/GETTING-STARTED.md", include_str!("../../../docs/GETTING-STARTED.md")),
    ("docs/SETTINGS.md", include_str!("../../../docs/SETTINGS.md")),
    ("docs/COMMANDS.md", include_str!("../../../docs/COMMANDS.md")),
    ("docs/ARCHITECTURE.md", include_str!("../../../docs/ARCHITECTURE.md")),
    ("examples/README.md", include_str!("../../../examples/README.md")),
    ("README.md", include_str!("../../../README.md")),
    ("deploy/README.md", include_str!("../../../deploy/README.md")),
    ("deploy/rabbitmq/README.md", include_str!("../../../deploy/rabbitmq/README.md")),
    ("deploy/prometheus/alerts.yml", ALERTS),
];

/// The names in the first column, and no row with an empty cell.
fn rows(heading: &str) -> Vec<String> {
    let rows = table(RUNBOOK, heading);
    for row in &rows {
        assert!(row.iter().all(|cell| !cell.is_empty()), "{heading}: nothing is said: {row:?}");
    }
    rows.iter().flat_map(|row| row[0].split(',').map(|name| name.trim().to_owned())).collect()
}

#[test]
fn the_runbook_covers_every_class() {
    let listed: BTreeSet<String> = rows("Classes").into_iter().filter(|name| name != "raw").collect();
    assert_eq!(listed, Class::ALL.iter().map(|class| class.name().to_owned()).collect());
}

#[test]
fn the_runbook_covers_every_reason_the_gravest_first() {
    let known: Vec<&str> = Reason::ALL.iter().rev().map(|reason| reason.name()).collect();
    assert_eq!(rows("Reasons"), known);
}

#[test]
fn the_runbook_says_of_every_alert_what_it_means_what_to_look_at_and_what_fixes_it() {
    let alerts: Vec<&str> = ALERTS.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() >= 20, "{alerts:?}");
    for alert in alerts {
        let heading = format!("\n### {alert}\n");
        let section = RUNBOOK.split(&heading).nth(1).unwrap_or_else(|| panic!("no heading {alert}"));
        let section = section.split("\n#").next().expect("a section");
        for part in ["**Means** ", "**Check** ", "**Fix** "] {
            assert!(section.lines().any(|line| line.starts_with(part)), "{alert}: no {part}");
        }
    }
}

/// Words as a shell would make them of a simple command, up to what it would take for itself.
fn words(command: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for letter in command.chars() {
        match letter {
            '"' | '\'' => quoted = !quoted,
            // What may be left out is tried too.
            '[' | ']' if !quoted => {}
            '|' | '>' | '<' | ';' | '&' | '#' | ')' if !quoted => break,
            ' ' if !quoted => words.push(String::new()),
            letter => words.last_mut().expect("one").push(letter),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// What stands in backticks or in blocks of code, and begins with the program's name.
fn commands(document: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut block = false;
    for line in document.lines() {
        if line.starts_with("```") {
            block = !block;
        } else if block {
            let at = line
                .find("captcha-worker ")
                .filter(|at| line[..*at].split(' ').all(|word| word.is_empty() || word.contains('=')));
            found.extend(at.map(|at| line[at..].to_owned()));
        } else {
            found.extend(
                line.split('`')
                    .skip(1)
                    .step_by(2)
                    .filter(|code| code.starts_with("captcha-worker "))
                    .map(str::to_owned),
            );
        }
    }
    // What is left out cannot be read; and options alone stand for the program.
    found.retain(|command| !command.contains('…') && !command.starts_with("captcha-worker --"));
    found
        .iter()
        .map(|command| command.replace("CLASS", "invalid").replace("{{ $labels.class }}", "invalid"))
        .collect()
}

#[test]
fn every_documented_command_can_be_typed() {
    let documented: Vec<(&str, String)> = DOCUMENTS
        .iter()
        .flat_map(|(file, document)| commands(document).into_iter().map(move |command| (*file, command)))
        .collect();
    assert!(documented.len() > 50, "{} commands", documented.len());
    let cannot = documented.iter().filter_map(|(file, command)| {
        let fault = Cli::try_parse_from(words(command)).err()?;
        Some(format!("{file}: {command}\n{fault}"))
    });
    assert_eq!(cannot.collect::<Vec<String>>(), Vec::<String>::new());
}
