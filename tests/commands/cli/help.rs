//! Help texts: the terminal alone breaks their lines, and their examples can be typed.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command as Process, Stdio};

use captcha_worker::cli::Cli;
use clap::{Command, CommandFactory, Parser};
use tempfile::TempDir;

use crate::cli::support::{end, worker};

/// What follows each command's options, with the words that lead to it.
fn texts() -> Vec<(Vec<String>, String)> {
    fn collect(command: &Command, path: &[String], all: &mut Vec<(Vec<String>, String)>) {
        all.extend(command.get_after_help().map(|text| (path.to_vec(), text.to_string())));
        for inner in command.get_subcommands() {
            collect(inner, &[path, &[inner.get_name().to_owned()]].concat(), all);
        }
    }
    let mut all = Vec::new();
    collect(&Cli::command(), &[], &mut all);
    all
}

/// The examples of a text as they stand there, remarks and continuation lines included.
fn examples(text: &str) -> Vec<&str> {
    text.lines().skip_while(|line| *line != "Examples:").skip(1).take_while(|line| !line.is_empty()).collect()
}

/// What a shell is to run: without the remarks at the right.
fn commands(lines: &[&str]) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for line in lines {
        let typed = line.trim_start();
        let typed = typed.split_once("  ").map_or(typed, |(typed, _)| typed);
        let goes_on = |last: &String| last.ends_with('\\') || last.ends_with("&&");
        match all.last_mut() {
            Some(last) if goes_on(last) => last.push_str(&format!("\n{typed}")),
            // A remark that had no room beside its command.
            _ if line.starts_with("        ") => {}
            _ => all.push(typed.to_owned()),
        }
    }
    all
}

#[test]
fn paragraphs_are_broken_by_the_terminal_alone_and_examples_fit_80_columns() {
    for (path, text) in texts() {
        let lines: Vec<&str> = text.lines().collect();
        for pair in lines.windows(2) {
            let is_text = |line: &str| !line.is_empty() && !line.starts_with(' ') && !line.ends_with(':');
            assert!(!pair.iter().all(|line| is_text(line)), "{path:?}: a line break after '{}'", pair[0]);
        }
        for line in lines.iter().filter(|line| line.starts_with(' ')) {
            assert!(line.chars().count() <= 80, "{path:?}: too wide: {line}");
        }
    }
    let dir = TempDir::new().unwrap();
    for (path, text) in texts() {
        let shown = end(worker(&dir).args(&path).arg("--help").env("COLUMNS", "80")).stdout;
        for line in examples(&text) {
            assert!(shown.lines().any(|shown| shown == line), "{path:?}: '{line}' is not in\n{shown}");
        }
    }
}

#[test]
fn options_of_all_commands_stand_apart() {
    let dir = TempDir::new().unwrap();
    let help = end(worker(&dir).args(["publish", "--help"])).stdout;
    let (own, all) = help.split_once("Global options:").expect("a heading");
    assert!(own.contains("--keep-going") && !own.contains("--config"), "{help}");
    assert!(["--config", "--format", "--json", "--log"].iter().all(|option| all.contains(option)), "{help}");
}

/// Puts a program that writes down its arguments, or does nothing.
fn put(folder: &Path, name: &str, script: &str) {
    let path = folder.join(name);
    fs::write(&path, format!("#!/bin/bash\n{script}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn bash_understands_every_example_and_the_command_line_takes_it() {
    let dir = TempDir::new().unwrap();
    let home = dir.path();
    for folder in ["bin", "etc/bash_completion.d", ".zfunc", ".config/fish/completions"] {
        fs::create_dir_all(home.join(folder)).unwrap();
    }
    put(&home.join("bin"), "captcha-worker", r#"printf '%s\0' "$@" end-of-call >> "$CALLS""#);
    for other in ["jq", "curl", "generate-jobs", "consumer", "rabbitmqctl"] {
        put(&home.join("bin"), other, "cat > /dev/null");
    }
    let calls = home.join("calls");
    let mut called = BTreeSet::new();
    for (path, text) in texts() {
        for typed in commands(&examples(&text)) {
            fs::write(&calls, "").unwrap();
            let ended = Process::new("bash")
                .args(["-euo", "pipefail", "-c", &typed.replace(" /etc/", " etc/")])
                .current_dir(home)
                .env("HOME", home)
                .env("CALLS", &calls)
                .env("PATH", format!("{}:/usr/bin:/bin", home.join("bin").display()))
                .stdin(Stdio::null())
                .status()
                .unwrap();
            assert!(ended.success(), "{path:?}: {typed}");
            let recorded = fs::read_to_string(&calls).unwrap();
            assert!(!recorded.is_empty(), "{path:?}: no call in '{typed}'");
            for call in recorded.split_terminator("end-of-call\0") {
                let words = call.split_terminator('\0');
                let parsed = Cli::try_parse_from(["captcha-worker"].into_iter().chain(words));
                assert!(parsed.is_ok(), "{path:?}: {typed}: {}", parsed.unwrap_err());
            }
            called.insert(typed);
        }
    }
    assert!(called.len() > 50, "{}", called.len());
}
