//! `batch`: whole, killed and gone on with, and refused.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use captcha_worker::simulator::expected_solution;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{Duration, Instant, interval};

use crate::cli::support::{TIMEOUT, against, ended, interrupt, json, run};
use crate::support::fleet::{Simulator, client};

/// Submissions that may be in flight when a process is killed: each may be paid once more.
const SUBMISSIONS: u64 = 16;

fn batch(dir: &TempDir, api: &str, words: &[&str]) -> Command {
    against(dir, api, &[&["batch"], words].concat())
}

/// An image of its own for each number.
fn image(number: usize) -> Vec<u8> {
    (0..40).flat_map(|at| (number * 8_191 + at).to_le_bytes()).collect()
}

fn task(number: usize, script: &Value) -> Value {
    json!({"type": "ImageToTextTask", "body": STANDARD.encode(image(number)), "_sim": script})
}

fn job(number: usize, script: &Value) -> String {
    json!({"id": format!("job-{number}"), "task": task(number, script)}).to_string()
}

fn plain_jobs(count: usize, script: &Value) -> Vec<String> {
    (1..=count).map(|number| job(number, script)).collect()
}

/// Jobs that end in every way, each with the class that it must end in.
fn mixed_jobs(count: usize) -> Vec<(String, Option<&'static str>)> {
    let line = |number: usize| match number % 10 {
        1 => ("no JSON".to_owned(), Some("malformed")),
        2 => (json!({"task": task(number, &json!({})), "surprise": 1}).to_string(), Some("malformed")),
        3 => (job(number, &json!({"create": ["ERROR_TASK_PROPERTY_EMPTY"]})), Some("invalid")),
        4 => (job(number, &json!({"result": ["ERROR_TOKEN_EXPIRED"]})), Some("expired")),
        5 => {
            let refused = json!({"type": "TurnstileTask", "websiteURL": "https://a.test", "websiteKey": "k",
                "proxyPassword": "s3cret"});
            (json!({"id": format!("job-{number}"), "task": refused}).to_string(), Some("forbidden"))
        }
        // Without an id.
        6 => (json!({"task": task(number, &json!({}))}).to_string(), None),
        _ => (job(number, &json!({})), None),
    };
    (1..=count).map(line).collect()
}

fn write(dir: &TempDir, name: &str, lines: &[String]) {
    fs::write(dir.path().join(name), lines.join("\n") + "\n").unwrap();
}

fn text(dir: &TempDir, name: &str) -> String {
    fs::read_to_string(dir.path().join(name)).unwrap()
}

/// The output's rows, by the lines that they are about.
fn rows(dir: &TempDir, name: &str) -> BTreeMap<usize, Value> {
    let (text, mut rows) = (text(dir, name), BTreeMap::new());
    for line in text.lines() {
        let row: Value = serde_json::from_str(line).unwrap();
        let number = row["line"].as_u64().unwrap().try_into().unwrap();
        assert!(rows.insert(number, row).is_none(), "line {number} stands there twice");
    }
    rows
}

fn files(dir: &TempDir) -> BTreeSet<String> {
    let entries = fs::read_dir(dir.path()).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Waits until a file satisfies a condition.
async fn wait_for_file(path: &Path, condition: impl Fn(&str) -> bool) {
    let (deadline, mut looks) = (Instant::now() + TIMEOUT, interval(Duration::from_millis(5)));
    while !fs::read_to_string(path).is_ok_and(|text| condition(&text)) {
        looks.tick().await;
        assert!(Instant::now() < deadline, "{} does not change", path.display());
    }
}

async fn kill(mut child: Child) {
    child.kill().await.unwrap();
}

async fn control(api: &Simulator, change: &Value) {
    let url = format!("{}/_sim/control", api.url);
    assert!(client().post(url).body(change.to_string()).send().await.unwrap().status().is_success());
}

#[tokio::test]
async fn a_thousand_jobs_have_one_row_each_and_the_failed_ones_can_be_run_again() {
    let (dir, api) = (TempDir::new().unwrap(), Simulator::start("").await);
    let mut jobs = mixed_jobs(1_000);
    let once = json!({"create": ["ERROR_TASK_PROPERTY_EMPTY"], "submissions": 1});
    jobs[999] = (job(1_000, &once), Some("invalid"));
    jobs[989] = (format!("\"{}\"", "x".repeat(1 << 20)), Some("malformed"));
    let lines: Vec<String> = jobs.iter().map(|(line, _)| line.clone()).collect();
    write(&dir, "jobs.ndjson", &lines);
    let words = ["jobs.ndjson", "--out", "out.ndjson", "--failed", "failed.ndjson"];
    let done = run(&mut batch(&dir, &api.url, &words)).await;
    assert_eq!((done.code, done.stderr.as_str()), (3, ""));
    let rows = rows(&dir, "out.ndjson");
    assert_eq!(rows.len(), 1_000);
    for ((line, class), (number, row)) in jobs.iter().zip(&rows) {
        assert_eq!(row["failure"]["class"].as_str(), *class, "line {number}: {row}");
        if class.is_none() {
            let job: Value = serde_json::from_str(line).unwrap();
            let solution = expected_solution(job["task"].to_string().as_bytes()).unwrap();
            assert_eq!(row["solution"], solution, "line {number}");
        }
    }
    let failed: Vec<&String> =
        jobs.iter().filter(|(_, class)| class.is_some()).map(|(line, _)| line).collect();
    let sum = json(&done);
    assert_eq!((&sum["complete"], &sum["jobs"], &sum["left"]), (&json!(true), &json!(1_000), &json!(0)));
    assert_eq!(sum["classes"], json!({"expired": 100, "forbidden": 100, "invalid": 101, "malformed": 201}));
    assert_eq!((sum["solved"].as_u64(), sum["failed"].as_u64()), (Some(498), Some(502)));
    assert!(!text(&dir, "out.ndjson").contains("s3cret"));
    assert_eq!(files(&dir), ["failed.ndjson", "jobs.ndjson", "out.ndjson"].map(str::to_owned).into());
    // The line that is too long for a job is no job to run again.
    let written: Vec<String> = text(&dir, "failed.ndjson").lines().map(str::to_owned).collect();
    let wanted: Vec<&String> = failed.into_iter().filter(|line| line.len() <= 1 << 20).collect();
    assert_eq!(written.iter().collect::<Vec<_>>(), wanted);

    // Complete, it stays as it is, and calls nobody.
    let calls = api.stats().await["calls"].clone();
    let again = run(&mut batch(&dir, &api.url, &words)).await;
    assert_eq!((again.code, &json(&again)["classes"]), (3, &sum["classes"]));
    assert_eq!(api.stats().await["calls"], calls);

    let last = written.last().unwrap().clone();
    write(&dir, "again.ndjson", &[last]);
    let solved = run(&mut batch(&dir, &api.url, &["again.ndjson", "--out", "again.out"])).await;
    assert_eq!((solved.code, json(&solved)["solved"].as_u64()), (0, Some(1)));
}

#[tokio::test]
async fn killed_at_any_moment_it_goes_on_and_pays_no_more_than_was_in_flight() {
    let (dir, api) = (TempDir::new().unwrap(), Simulator::start("").await);
    let jobs = mixed_jobs(2_000);
    let lines: Vec<String> = jobs.iter().map(|(line, _)| line.clone()).collect();
    write(&dir, "jobs.ndjson", &lines);
    let words = ["jobs.ndjson", "--out", "out.ndjson"];
    let start = || batch(&dir, &api.url, &words).spawn().unwrap();
    let (out, queue) = (dir.path().join("out.ndjson"), dir.path().join("out.ndjson.queue-lock"));
    let mut kills = 0;

    // At the very beginning; with submissions in flight; with outcomes being written; again, before
    // the first poll of what was paid; and in the middle of what comes after.
    let child = start();
    wait_for_file(&queue, |_| true).await;
    kill(child).await;
    for accepted in [50, 300, 600] {
        let child = start();
        api.wait_for("submissions", TIMEOUT, |stats| stats["accepted_tasks"].as_u64() >= Some(accepted))
            .await;
        kill(child).await;
        kills += 1;
    }
    for done in [500, 900] {
        let child = start();
        wait_for_file(&out, |text| text.lines().count() >= done).await;
        kill(child).await;
        kills += 1;
    }
    let torn = text(&dir, "out.ndjson") + "{\"line\":17";
    fs::write(&out, torn).unwrap();
    let done = run(&mut batch(&dir, &api.url, &words)).await;
    assert_eq!((done.code, done.stderr.as_str()), (3, ""));

    let rows = rows(&dir, "out.ndjson");
    assert_eq!(rows.len(), 2_000);
    for ((_, class), (number, row)) in jobs.iter().zip(&rows) {
        assert_eq!(row["failure"]["class"].as_str(), *class, "line {number}: {row}");
    }
    let stats = api.stats().await;
    assert_eq!((&stats["distinct_tasks"], &stats["early_polls"]), (&json!(1_200), &json!(0)), "{stats}");
    assert!(stats["repeated_submissions"].as_u64().unwrap() <= kills * SUBMISSIONS, "{stats}");
    assert!(!files(&dir).iter().any(|name| name.contains("queue")), "{:?}", files(&dir));
}

#[tokio::test]
async fn a_table_in_the_order_of_the_input_goes_on_too() {
    let (dir, api) = (TempDir::new().unwrap(), Simulator::start("").await);
    let lines: Vec<String> = mixed_jobs(300).into_iter().map(|(line, _)| line).collect();
    write(&dir, "jobs.ndjson", &lines);
    let words = ["jobs.ndjson", "--out", "out.csv", "--csv", "--in-order"];
    let child = batch(&dir, &api.url, &words).spawn().unwrap();
    wait_for_file(&dir.path().join("out.csv"), |text| text.lines().count() > 100).await;
    kill(child).await;
    let done = run(&mut batch(&dir, &api.url, &words)).await;
    assert_eq!((done.code, done.stderr.as_str()), (3, ""));
    let table = text(&dir, "out.csv");
    let mut rows = table.lines();
    assert_eq!(rows.next(), Some("line,id,status,text,class,code,task_id"));
    let numbers: Vec<usize> =
        rows.clone().map(|row| row.split(',').next().unwrap().parse().unwrap()).collect();
    assert_eq!(numbers, (1..=300).collect::<Vec<_>>());
    let third: Vec<&str> = rows.nth(2).unwrap().split(',').collect();
    assert_eq!(third, ["3", "job-3", "failed", "", "invalid", "ERROR_TASK_PROPERTY_EMPTY", ""]);
    let solved: Vec<&str> = table.lines().nth(7).unwrap().split(',').collect();
    let text = expected_solution(task(7, &json!({})).to_string().as_bytes()).unwrap();
    assert_eq!(solved[..4], ["7", "job-7", "solved", text["text"].as_str().unwrap()]);
    assert!(solved[6].parse::<u64>().is_ok());
}

#[tokio::test]
async fn images_are_jobs_by_their_names() {
    let (dir, api) = (TempDir::new().unwrap(), Simulator::start("").await);
    fs::create_dir(dir.path().join("captchas")).unwrap();
    for (number, name) in ["a.png", "b.JPG"].iter().enumerate() {
        fs::write(dir.path().join("captchas").join(name), image(number)).unwrap();
    }
    let words = ["captchas/a.png", "captchas/b.JPG", "gone.png", "--out", "out", "--failed", "failed"];
    let done = run(&mut batch(&dir, &api.url, &words)).await;
    assert_eq!((done.code, done.stderr.as_str()), (3, ""));
    let rows = rows(&dir, "out");
    let seen: Vec<_> = rows.values().map(|row| (&row["id"], &row["status"], &row["metadata"])).collect();
    assert_eq!(seen[0], (&json!("a.png"), &json!("solved"), &json!({"file": "captchas/a.png"})));
    assert_eq!(seen[1], (&json!("b.JPG"), &json!("solved"), &json!({"file": "captchas/b.JPG"})));
    assert_eq!(seen[2], (&json!("gone.png"), &json!("failed"), &Value::Null));
    assert!(rows[&3]["failure"]["description"].as_str().unwrap().contains("'gone.png' cannot be read"));
    assert_eq!(text(&dir, "failed"), "");
    // In another order they are other jobs.
    let first = text(&dir, "out").lines().find(|row| row.contains("\"a.png\"")).unwrap().to_owned();
    fs::write(dir.path().join("out"), first + "\n").unwrap();
    let words = ["captchas/b.JPG", "captchas/a.png", "gone.png", "--out", "out"];
    let refused = run(&mut batch(&dir, &api.url, &words)).await;
    assert_eq!(refused.code, 2);
    assert!(refused.stderr.contains("is not the job that 'out' or its queue has"), "{}", refused.stderr);
}

#[tokio::test]
async fn a_refused_key_ends_it_and_a_good_one_loses_nothing() {
    let (dir, api) =
        (TempDir::new().unwrap(), Simulator::start("keys = [\"simulator-key\", \"new-key\"]").await);
    let slow = json!({"solve_ms": 3_000});
    write(&dir, "jobs.ndjson", &plain_jobs(60, &slow));
    let words = ["jobs.ndjson", "--out", "out.ndjson"];
    let with_key = |key: &str| {
        let mut command = batch(&dir, &api.url, &words);
        command.env("CAPTCHA_WORKER__SOLVER__API_KEY", key);
        command
    };
    let wrong = run(&mut with_key("pl4nted-key")).await;
    assert_eq!(wrong.code, 11);
    assert!(
        wrong.stderr.starts_with("error: the API refuses the key: correct solver.api_key"),
        "{}",
        wrong.stderr
    );
    assert!(wrong.stderr.contains("0 of 60 jobs are done; the same command goes on"), "{}", wrong.stderr);
    assert!(!wrong.stderr.contains("pl4nted"));
    let stats = api.stats().await;
    assert_eq!((&stats["bad_key_calls"], &stats["calls"]["create_task"]), (&json!(1), &json!(0)));

    // Revoked in the middle, while jobs are submitted.
    let child =
        with_key("simulator-key").env("CAPTCHA_WORKER__SOLVER__MAX_CALLS_PER_SECOND", "10").spawn().unwrap();
    api.wait_for("submissions", TIMEOUT, |stats| stats["accepted_tasks"].as_u64() >= Some(5)).await;
    control(&api, &json!({"key_valid": false})).await;
    let revoked = ended(child).await;
    assert_eq!(revoked.code, 11, "{}", revoked.stderr);
    control(&api, &json!({"key_valid": true})).await;

    let good = run(&mut with_key("new-key")).await;
    assert_eq!((good.code, good.stderr.as_str()), (0, ""), "{}", good.stdout);
    assert_eq!(rows(&dir, "out.ndjson").len(), 60);
    assert_eq!(api.stats().await["bans"], 0);
}

#[tokio::test]
async fn ctrl_c_finishes_what_is_paid_and_says_how_to_go_on() {
    let (dir, api) = (TempDir::new().unwrap(), Simulator::start("").await);
    write(&dir, "jobs.ndjson", &plain_jobs(40, &json!({"solve_ms": 4_000})));
    let words = ["jobs.ndjson", "--out", "out.ndjson"];
    let start = || {
        let mut command = batch(&dir, &api.url, &words);
        command.env("CAPTCHA_WORKER__WORKER__MAX_IN_FLIGHT", "10");
        command
    };
    let child = start().spawn().unwrap();
    api.wait_for("submissions", TIMEOUT, |stats| stats["accepted_tasks"].as_u64() >= Some(10)).await;
    interrupt(&child).await;
    let stopped = ended(child).await;
    assert_eq!(stopped.code, 130, "{}", stopped.stderr);
    let accepted = api.stats().await["accepted_tasks"].as_u64().unwrap();
    assert!(accepted < 40, "{accepted}");
    assert_eq!(rows(&dir, "out.ndjson").len() as u64, accepted, "all that is paid is answered");
    let seen =
        format!("interrupted\n{accepted} of 40 jobs are done; the same command goes on with the others\n");
    assert!(stopped.stderr.ends_with(&seen), "{}", stopped.stderr);
    assert_eq!(json(&stopped)["left"].as_u64(), Some(40 - accepted));

    let done = run(&mut start()).await;
    assert_eq!((done.code, done.stderr.as_str()), (0, ""));
    assert_eq!(rows(&dir, "out.ndjson").len(), 40);
    assert_eq!(api.stats().await["accepted_tasks"], 40);
}

#[tokio::test]
async fn it_says_why_it_waits() {
    let (dir, api) = (TempDir::new().unwrap(), Simulator::start("balance = 0.0").await);
    write(&dir, "jobs.ndjson", &plain_jobs(3, &json!({})));
    let errors = dir.path().join("errors");
    let mut command = batch(&dir, &api.url, &["jobs.ndjson", "--out", "out.ndjson"]);
    let child = command.stderr(fs::File::create(&errors).unwrap()).spawn().unwrap();
    wait_for_file(&errors, |text| text.contains("waiting: the balance is used up")).await;
    interrupt(&child).await;
    assert_eq!(ended(child).await.code, 130);
}

#[tokio::test]
async fn a_second_one_on_the_same_output_is_refused() {
    let (dir, api) = (TempDir::new().unwrap(), Simulator::start("").await);
    write(&dir, "jobs.ndjson", &plain_jobs(3, &json!({"solve_ms": 60_000})));
    let words = ["jobs.ndjson", "--out", "out.ndjson"];
    let first = batch(&dir, &api.url, &words).spawn().unwrap();
    api.wait_for("submissions", TIMEOUT, |stats| stats["accepted_tasks"] == 3).await;
    let second = run(&mut batch(&dir, &api.url, &words)).await;
    assert_eq!((second.code, second.stdout.as_str()), (2, ""));
    assert!(second.stderr.contains("another process has 'out.ndjson.queue'"), "{}", second.stderr);
    kill(first).await;
}

#[tokio::test]
async fn another_input_and_lost_or_foreign_files_are_refused() {
    let (dir, api) = (TempDir::new().unwrap(), Simulator::start("").await);
    let jobs = plain_jobs(30, &json!({"solve_ms": 60_000}));
    write(&dir, "jobs.ndjson", &jobs);
    let refused = async |words: &[&str], reason: &str| {
        let ended = run(&mut batch(&dir, &api.url, words)).await;
        assert_eq!((ended.code, ended.stdout.as_str()), (2, ""), "{}", ended.stderr);
        assert!(ended.stderr.contains(reason), "{reason}: {}", ended.stderr);
    };
    fs::write(dir.path().join("notes.txt"), "to keep\n").unwrap();
    refused(&["jobs.ndjson", "--out", "notes.txt"], "'notes.txt' is not what this command writes").await;
    refused(&["jobs.ndjson", "--out", "jobs.ndjson"], "--out 'jobs.ndjson' is a file that is read").await;
    refused(&["jobs.ndjson", "--out", "o", "--failed", "./jobs.ndjson"], "is a file that is read").await;
    refused(&["-", "--out", "o"], "must be in a file").await;
    refused(&["absent.ndjson", "--out", "o"], "cannot read 'absent.ndjson'").await;
    refused(&["jobs.ndjson", "--out", "/proc/self/o"], "cannot be written").await;
    refused(&["jobs.ndjson", "--out", "no/such/folder"], "cannot be written").await;
    assert_eq!(text(&dir, "notes.txt"), "to keep\n");
    assert_eq!(files(&dir), ["jobs.ndjson", "notes.txt"].map(str::to_owned).into());

    let words = ["jobs.ndjson", "--out", "out.ndjson"];
    let child = batch(&dir, &api.url, &words).spawn().unwrap();
    api.wait_for("submissions", TIMEOUT, |stats| stats["accepted_tasks"] == 30).await;
    kill(child).await;
    let calls = api.stats().await["calls"].clone();
    let mut changed = jobs.clone();
    changed[16] = job(99, &json!({}));
    write(&dir, "jobs.ndjson", &changed);
    refused(&words, "line 17 of jobs.ndjson is not the job").await;
    write(&dir, "jobs.ndjson", &jobs[..20]);
    refused(&words, "line 30 of jobs.ndjson is not the job").await;
    write(&dir, "jobs.ndjson", &jobs);
    fs::rename(dir.path().join("out.ndjson"), dir.path().join("moved")).unwrap();
    refused(&words, "'out.ndjson.queue' is there, but 'out.ndjson' is not").await;
    assert_eq!(api.stats().await["calls"], calls, "nobody is called");
}

#[tokio::test]
async fn an_output_that_is_no_plain_file_is_refused_and_a_link_is_the_same_output() {
    let (dir, api) = (TempDir::new().unwrap(), Simulator::start("").await);
    write(&dir, "jobs.ndjson", &plain_jobs(20, &json!({})));
    for device in ["/dev/full", "/dev/null", "/proc"] {
        let refused = run(&mut batch(&dir, &api.url, &["jobs.ndjson", "--out", device])).await;
        assert_eq!(refused.code, 2, "{device}: {}", refused.stderr);
        assert!(refused.stderr.contains("not a plain file"), "{}", refused.stderr);
    }
    let done = run(&mut batch(&dir, &api.url, &["jobs.ndjson", "--out", "out"])).await;
    assert_eq!(done.code, 0, "{}", done.stderr);
    std::os::unix::fs::symlink("out", dir.path().join("link")).unwrap();
    let again = run(&mut batch(&dir, &api.url, &["jobs.ndjson", "--out", "link"])).await;
    assert_eq!(again.code, 0, "{}", again.stderr);
    assert_eq!(api.stats().await["accepted_tasks"], 20, "nothing is paid again");
    assert!(!files(&dir).contains("link.queue"));
    let sorted = run(&mut batch(&dir, &api.url, &["jobs.ndjson", "--out", "link", "--in-order"])).await;
    assert_eq!(sorted.code, 0, "{}", sorted.stderr);
    assert!(dir.path().join("link").is_symlink(), "a link stays one");
}
