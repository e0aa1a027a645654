//! Commands on a queue file: several processes of one machine, and no RabbitMQ.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command as Process, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use captcha_worker::cli::Cli;
use clap::{Command, CommandFactory};
use rusqlite::Connection;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cli::support::{Ended, Log, Simulator, end, json, terminate, worker};

const FILE: &str = "sqlite:queue.db";

fn job(id: &str, script: Option<&Value>) -> String {
    let image: Vec<u8> = id.bytes().cycle().take(400).collect();
    let mut task = json!({"type": "ImageToTextTask", "body": STANDARD.encode(image)});
    if let Some(script) = script {
        task["_sim"] = script.clone();
    }
    json!({"id": id, "task": task}).to_string()
}

fn command(dir: &TempDir, simulator: &Simulator, words: &[&str]) -> Ended {
    end(worker(dir)
        .args(words)
        .env("CAPTCHA_WORKER__BROKER__URL", FILE)
        .env("CAPTCHA_WORKER__SOLVER__BASE_URL", &simulator.url)
        .env("CAPTCHA_WORKER__SOLVER__API_KEY", "simulator-key"))
}

/// A replica, killed with the test.
struct Replica(Child);

impl Replica {
    fn start(dir: &TempDir, simulator: &Simulator) -> (Self, Log) {
        Self::start_with(dir, simulator, &[])
    }

    fn start_with(dir: &TempDir, simulator: &Simulator, settings: &[(&str, &str)]) -> (Self, Log) {
        let mut child = Process::new(env!("CARGO_BIN_EXE_captcha-worker"))
            .arg("run")
            .current_dir(dir.path())
            .env("CAPTCHA_WORKER__BROKER__URL", FILE)
            .env("CAPTCHA_WORKER__SOLVER__BASE_URL", &simulator.url)
            .env("CAPTCHA_WORKER__SOLVER__API_KEY", "simulator-key")
            .env("CAPTCHA_WORKER__OPS__LISTEN", "")
            .envs(settings.iter().copied())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Log::of(&mut child);
        (Self(child), log)
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        // It may have ended already, which is all that is wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn messages(path: &Path, queue: &str) -> i64 {
    let database = Connection::open(path).unwrap();
    database.query_row("SELECT count(*) FROM messages WHERE queue = ?1", [queue], |row| row.get(0)).unwrap()
}

#[test]
fn every_command_works_on_a_file_beside_a_replica_that_has_it() {
    let dir = TempDir::new().unwrap();
    let simulator = Simulator::start(&dir);
    let (mut replica, mut log) = Replica::start(&dir, &simulator);
    log.find("this process owns the queue file");
    log.find("taking jobs");
    let unsolvable = json!({"result": ["ERROR_CAPTCHA_UNSOLVABLE"], "submissions": 2});
    let lines = [job("a", None), job("b", None), job("c", Some(&unsolvable))];
    fs::write(dir.path().join("jobs.ndjson"), lines.join("\n")).unwrap();
    let published = command(&dir, &simulator, &["publish", "jobs.ndjson"]);
    assert_eq!(json(&published)["published"], 3, "{}{}", published.stdout, published.stderr);

    let solved = command(&dir, &simulator, &["outcomes", "--follow", "--ack", "--limit", "2"]);
    assert_eq!(solved.code, 0, "{}", solved.stderr);
    let ids: Vec<String> = solved
        .stdout
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!((ids.contains(&"a".to_owned()), ids.contains(&"b".to_owned())), (true, true), "{ids:?}");
    let failed = log.find("ERROR_CAPTCHA_UNSOLVABLE");
    assert_eq!(failed["id"], "c");
    assert!(failed["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{failed}");
    let listed = command(&dir, &simulator, &["dead", "list"]);
    assert_eq!(json(&listed)["classes"], json!({"unsolved": 1}));
    let replayed = command(&dir, &simulator, &["dead", "replay", "--class", "unsolved"]);
    assert_eq!(replayed.code, 0, "{}", replayed.stderr);
    // The script is over.
    let again = command(&dir, &simulator, &["outcomes", "--follow", "--ack", "--limit", "1"]);
    assert_eq!(json(&again)["id"], "c");

    let paused = command(&dir, &simulator, &["pause", "--reason", "a test"]);
    assert_eq!(paused.code, 0, "{}", paused.stderr);
    let status = json(&command(&dir, &simulator, &["status"]));
    assert_eq!(status["guard"]["paused"]["reason"], "a test");
    assert_eq!(command(&dir, &simulator, &["resume"]).code, 0);
    fs::write(dir.path().join("captcha.png"), [7; 400]).unwrap();
    let text = command(&dir, &simulator, &["solve", "captcha.png"]);
    assert_eq!((text.code, text.stderr.as_str()), (0, ""), "{}", text.stdout);

    terminate(&replica.0);
    log.find("stopped");
    assert_eq!(replica.0.wait().unwrap().code(), Some(0));
}

/// Where a command's JSON has more than one line.
#[derive(Clone, Copy, PartialEq)]
enum Indented {
    OnTerminal,
    Never,
    Always,
}
use Indented::{Always, Never, OnTerminal};

/// What a new command must choose between: a case below, or no data.
const WITHOUT_DATA: [&str; 2] = ["completions", "run"];

/// Commands that print data. Those of a group run one after the other: they keep messages from each
/// other, and many at once would keep the replica from its answers. A document is JSON in every
/// format.
const WITH_DATA: [&[(&str, Indented, bool)]; 5] = [
    &[("demo", OnTerminal, false)],
    &[
        ("dead list", OnTerminal, false),
        ("dead show failed", Never, false),
        ("dead export", Never, true),
        ("dead purge --all --dry-run", OnTerminal, false),
        ("dead replay --all --dry-run", OnTerminal, false),
        ("find solved", OnTerminal, false),
        ("find absent", OnTerminal, false),
    ],
    &[
        ("outcomes --limit 1", Never, false),
        ("reroute", OnTerminal, false),
        ("publish jobs.ndjson", OnTerminal, false),
        ("batch jobs.ndjson --out out.ndjson", OnTerminal, false),
    ],
    &[
        ("solve captcha.png", Never, false),
        ("pause", OnTerminal, false),
        ("resume", OnTerminal, false),
        ("budget raise --by 1 --for 1h", OnTerminal, false),
        ("spend", OnTerminal, false),
        ("status", OnTerminal, false),
        ("top --once", OnTerminal, false),
    ],
    &[
        ("check --offline", OnTerminal, false),
        ("schema job", Always, true),
        ("simulate --listen 127.0.0.1:0", OnTerminal, false),
        ("topology check", OnTerminal, false),
        ("topology declare", OnTerminal, false),
        ("topology export", OnTerminal, true),
    ],
];

fn is_json(text: &str) -> bool {
    serde_json::from_str::<Value>(text).is_ok()
}

/// What a command prints, all of it; of the simulator, which does not end, its first answer.
fn printed(shell: &mut Process, line: &str) -> String {
    let mut child = shell.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut text = String::new();
    if line.starts_with("simulate") {
        while !is_json(&text) && !text.contains("listening on") {
            assert!(stdout.read_line(&mut text).unwrap() > 0, "{line}: {text}");
        }
        terminate(&child);
    } else {
        stdout.read_to_string(&mut text).unwrap();
    }
    let succeeded = child.wait().unwrap().success();
    // What the demo promises, it promises on a machine that is its own.
    if !line.starts_with("demo") {
        assert_eq!(succeeded, !line.starts_with("find absent"), "{line}: {text}");
    }
    text.replace("\r\n", "\n")
}

#[test]
fn every_command_that_prints_data_obeys_the_format_on_a_terminal_and_in_a_pipe() {
    let dir = TempDir::new().unwrap();
    let simulator = Simulator::start(&dir);
    let settings =
        [("CAPTCHA_WORKER__BUDGETS__PER_DAY", "1000"), ("CAPTCHA_WORKER__LOG__LEVEL", "info,job=debug")];
    let (_replica, mut log) = Replica::start_with(&dir, &simulator, &settings);
    log.find("taking jobs");
    let unsolvable = json!({"result": ["ERROR_CAPTCHA_UNSOLVABLE"], "submissions": 2});
    for job in [job("failed", Some(&unsolvable)), job("solved", None)] {
        fs::write(dir.path().join("jobs.ndjson"), job).unwrap();
        assert_eq!(command(&dir, &simulator, &["publish", "jobs.ndjson"]).code, 0);
        log.find("job finished");
    }
    fs::write(dir.path().join("captcha.png"), [7; 400]).unwrap();
    let run = |line: String, on_a_terminal: bool| {
        let mut shell = Process::new(if on_a_terminal { "script" } else { "bash" });
        // script(1) gives the command a terminal, for both of its outputs.
        let typed = format!("exec {} {line} 2>/dev/null", env!("CARGO_BIN_EXE_captcha-worker"));
        shell.args(if on_a_terminal { vec!["-qec", &typed, "/dev/null"] } else { vec!["-c", &typed] });
        let shell = shell
            .current_dir(dir.path())
            .env("CAPTCHA_WORKER__BROKER__URL", FILE)
            .env("CAPTCHA_WORKER__SOLVER__BASE_URL", &simulator.url)
            .env("CAPTCHA_WORKER__SOLVER__API_KEY", "simulator-key");
        printed(shell, &line)
    };
    let obeys = |(words, indented, is_document): &(&str, Indented, bool), at_once: bool| {
        let of = |on_a_terminal, format| run(format!("{words} --format {format}"), on_a_terminal);
        for on_a_terminal in [true, false] {
            let [json, ndjson, table] = std::thread::scope(|scope| {
                let begin = |format| scope.spawn(move || of(on_a_terminal, format));
                let formats = ["json", "ndjson", "table"];
                if at_once {
                    formats.map(begin).map(|text| text.join().unwrap())
                } else {
                    formats.map(|format| begin(format).join().unwrap())
                }
            });
            assert!(is_json(&json) && is_json(&ndjson), "{words}: {json}{ndjson}");
            let is_indented = *indented == Always || *indented == OnTerminal && on_a_terminal;
            assert_eq!(json.lines().count() > 1, is_indented, "{words}: {json}");
            assert_eq!(ndjson.lines().count(), 1, "{words}: {ndjson}");
            assert!(!table.is_empty() && is_json(&table) == *is_document, "{words}: {table}");
        }
    };
    std::thread::scope(|scope| {
        for group in WITH_DATA {
            scope.spawn(|| group.iter().for_each(|case| obeys(case, group.len() == 1)));
        }
    });
    for words in [&["spend", "--csv", "--format", "table"][..], &["--json", "spend", "--csv"]] {
        let refused = command(&dir, &simulator, words);
        assert_eq!((refused.code, refused.stdout.as_str()), (2, ""), "{words:?}");
        assert!(refused.stderr.contains("--csv is a format"), "{}", refused.stderr);
    }
    let rows = command(&dir, &simulator, &["spend", "--csv"]).stdout;
    assert_eq!(rows.lines().next(), Some("type,spent"), "{rows}");
}

#[test]
fn every_command_has_a_case_of_the_formats_or_prints_no_data() {
    fn leaves(command: &Command, path: &str, all: &mut Vec<String>) {
        for inner in command.get_subcommands() {
            leaves(inner, format!("{path} {}", inner.get_name()).trim(), all);
        }
        if command.get_subcommands().next().is_none() {
            all.push(path.to_owned());
        }
    }
    let mut all = Vec::new();
    leaves(&Cli::command(), "", &mut all);
    let chosen = || WITH_DATA.iter().flat_map(|group| *group).map(|(words, ..)| *words).chain(WITHOUT_DATA);
    let is_of = |words: &str, leaf: &str| words == leaf || words.starts_with(&format!("{leaf} "));
    all.retain(|leaf| !chosen().any(|words| is_of(words, leaf)));
    assert_eq!(all, Vec::<String>::new(), "choose a case of WITH_DATA, or WITHOUT_DATA");
}

#[test]
fn a_mistyped_path_is_an_error_of_every_command_that_only_looks() {
    let dir = TempDir::new().unwrap();
    for words in [
        &["status"][..],
        &["top", "--once"],
        &["pause"],
        &["resume"],
        &["outcomes"],
        &["dead", "list"],
        &["dead", "replay", "--class", "proxy"],
        &["reroute"],
        &["topology", "check"],
        &["check"],
    ] {
        let ended = end(worker(&dir).args(words).env("CAPTCHA_WORKER__BROKER__URL", FILE));
        let said = ended.stdout + &ended.stderr;
        assert_eq!(ended.code, 1, "{words:?}: {said}");
        let file = dir.path().join("queue.db");
        assert!(said.contains(&format!("there is no file {}", file.display())), "{words:?}: {said}");
        // It is about a file.
        for foreign in ["host", "port", "log-in", "RabbitMQ"] {
            assert!(!ended.stderr.contains(foreign), "{words:?}: {said}");
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "{words:?}");
    }
    assert_eq!(
        end(worker(&dir).args(["topology", "declare"]).env("CAPTCHA_WORKER__BROKER__URL", FILE)).code,
        0
    );
    assert_eq!(
        end(worker(&dir).args(["topology", "check"]).env("CAPTCHA_WORKER__BROKER__URL", FILE)).code,
        0
    );
}

#[test]
fn what_a_killed_replica_held_is_there_for_the_next_one() {
    let dir = TempDir::new().unwrap();
    let simulator = Simulator::start(&dir);
    let lines: Vec<String> = (0..20).map(|n| job(&format!("job-{n}"), None)).collect();
    fs::write(dir.path().join("jobs.ndjson"), lines.join("\n")).unwrap();
    assert_eq!(command(&dir, &simulator, &["publish", "jobs.ndjson"]).code, 0);
    let (mut replica, mut log) = Replica::start(&dir, &simulator);
    log.find("taking jobs");
    replica.0.kill().unwrap();
    replica.0.wait().unwrap();
    let (_second, mut log) = Replica::start(&dir, &simulator);
    log.find("taking jobs");
    let outcomes = command(&dir, &simulator, &["outcomes", "--follow", "--ack", "--limit", "20"]);
    let ids: std::collections::BTreeSet<String> = outcomes
        .stdout
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(ids.len(), 20, "{}{}", outcomes.stdout, outcomes.stderr);
}

#[test]
fn on_a_full_disk_publishers_are_refused_and_what_was_confirmed_is_kept() {
    let dir = TempDir::new().unwrap();
    // A file system of 20 MB in a mount namespace of its own, which ends with the shell.
    let may_mount = Process::new("unshare").args(["--map-root-user", "--mount", "true"]).status();
    assert!(
        may_mount.is_ok_and(|status| status.success()),
        "this test mounts a small file system: unprivileged user namespaces must be allowed"
    );
    let image: Vec<u8> = (0..45_000_u32).map(|at| (at * 7 % 251) as u8).collect();
    let body = STANDARD.encode(image);
    let line =
        |n: usize| json!({"id": format!("big-{n}"), "task": {"type": "ImageToTextTask", "body": body}});
    let lines: Vec<String> = (0..600).map(|n| line(n).to_string()).collect();
    fs::write(dir.path().join("jobs.ndjson"), lines.join("\n")).unwrap();
    let script = "mkdir small && mount -t tmpfs -o size=20m tmpfs small || exit 99
        timeout 20 \"$WORKER\" publish --no-check jobs.ndjson > published.json
        cp small/queue.db . || exit 98
        # Where the owner could close the file in order, there is no log any more.
        test ! -e small/queue.db-wal || cp small/queue.db-wal .";
    let ended = end(assert_cmd::Command::new("unshare")
        .args(["--map-root-user", "--mount", "sh", "-c", script])
        .current_dir(dir.path())
        .env("WORKER", env!("CARGO_BIN_EXE_captcha-worker"))
        .env("CAPTCHA_WORKER__BROKER__URL", "sqlite:small/queue.db"));
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(ended.stderr.contains("the disk of the queue file is nearly full"), "{}", ended.stderr);
    let published: Value =
        serde_json::from_str(&fs::read_to_string(dir.path().join("published.json")).unwrap()).unwrap();
    let confirmed = published["published"].as_i64().unwrap();
    assert!(confirmed > 50 && published["unknown"] == 0, "{published}");
    assert_eq!(messages(&dir.path().join("queue.db"), "captcha.jobs"), confirmed);
}
