//! The embedded broker: `run`, and then `batch`, are killed again and again; nothing is lost, and
//! what is paid twice was on its way when a process was killed.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::harness::jobs::{self, Job};
use crate::harness::process::{self, Process};
use crate::harness::simulator::Simulator;
use crate::report::Harness;
use crate::wait;

const JOBS: usize = 2_000;
const KILLS: usize = 50;
/// Submissions that can be under way when a process is killed.
const SUBMISSIONS: u64 = 16;
/// So few that the work lasts as long as the kills.
const IN_FLIGHT: &str = "30";
const SETTLE_WITHIN: Duration = Duration::from_secs(300);
const END_WITHIN: Duration = Duration::from_secs(60);
const SCENARIO: &str = "balance = 100000.0\n";

pub(crate) async fn run(harness: Arc<Harness>) {
    let mut rng = StdRng::seed_from_u64(harness.seed());
    replica(&harness, &mut rng).await;
    batch(&harness, &mut rng).await;
}

/// Half of them meet a process at its start, half in the middle of its work: a ticket that comes
/// back is polled after 7 s.
fn until_killed(rng: &mut StdRng) -> Duration {
    let millis = if rng.random() { rng.random_range(50..1_500) } else { rng.random_range(7_500..9_500) };
    Duration::from_millis(millis)
}

/// `run`, with a foreign reader of the results in a process of its own.
async fn replica(harness: &Harness, rng: &mut StdRng) {
    let folder = harness.folder().join("run");
    std::fs::create_dir_all(&folder).expect("the target folder is writable");
    let simulator = Simulator::start(&folder, SCENARIO).await;
    let all = jobs::images("run", JOBS);
    write_jobs(&folder, &all);
    let start = |arguments: &[&str], name: &str| {
        let mut command = process::program(&folder, arguments);
        command
            .env("CAPTCHA_WORKER__BROKER__URL", "sqlite:queue.db")
            .env("CAPTCHA_WORKER__SOLVER__BASE_URL", simulator.url())
            .env("CAPTCHA_WORKER__SOLVER__API_KEY", "simulator-key")
            .env("CAPTCHA_WORKER__WORKER__MAX_IN_FLIGHT", IN_FLIGHT)
            .env("CAPTCHA_WORKER__OPS__LISTEN", "")
            .stdout(process::log(&folder, name))
            .stderr(process::log(&folder, &format!("{name}-errors")));
        Process::start(&mut command)
    };
    let published = start(&["publish", "jobs.ndjson"], "publish").end(END_WITHIN).await;
    harness.check(
        "run: every job is published",
        format!("{published:?}"),
        published.is_some_and(|end| end.success()),
    );
    let reading = ["outcomes", "--follow", "--ack", "--json"];
    let (mut worker, mut reader) = (start(&["run"], "run"), start(&reading, "outcomes"));
    let read = || lines(&folder.join("outcomes.log"));
    for kill in 1..=KILLS {
        let until = Instant::now() + until_killed(rng);
        while Instant::now() < until {
            sleep(Duration::from_millis(50)).await;
            // Its session ends when the process that has the file is killed.
            if reader.ended().is_some() {
                reader = start(&reading, "outcomes");
            }
        }
        worker.kill().await;
        worker = start(&["run"], "run");
        if kill % 10 == 0 {
            harness.say(format_args!("run: killed {kill} times, {} outcomes", read().len()));
        }
    }
    let settled = wait::comes_true(SETTLE_WITHIN, async || {
        if reader.ended().is_some() {
            reader = start(&reading, "outcomes");
        }
        outcomes_by_id(&read()).len() >= JOBS
    })
    .await;
    worker.ask_to_leave().await;
    let left = worker.end(END_WITHIN).await;
    harness.check("run: it leaves with exit 0", format!("{left:?}"), left.is_some_and(|end| end.success()));
    reader.kill().await;
    let lines = read();
    let outcomes = outcomes_by_id(&lines);
    harness.check("run: every job has an outcome", format!("{} of {JOBS}", outcomes.len()), settled);
    let unsolved =
        outcomes.values().filter(|outcomes| outcomes.iter().any(|one| one["status"] != "solved")).count();
    harness.at_most("run: jobs that are not solved", unsolved as u64, 0);
    let disagreeing =
        outcomes.values().filter(|all| all.iter().any(|one| one["solution"] != all[0]["solution"]));
    harness.at_most("run: outcomes of one job that disagree", disagreeing.count() as u64, 0);
    let repeated: usize = outcomes.values().map(|all| all.len() - 1).sum();
    harness.note("run: outcomes that the reader had twice", repeated);
    paid(harness, "run", &simulator).await;
}

async fn batch(harness: &Harness, rng: &mut StdRng) {
    let folder = harness.folder().join("batch");
    std::fs::create_dir_all(&folder).expect("the target folder is writable");
    let simulator = Simulator::start(&folder, SCENARIO).await;
    write_jobs(&folder, &jobs::images("batch", JOBS));
    let start = || {
        let mut command = process::program(&folder, &["batch", "jobs.ndjson", "--out", "outcomes.ndjson"]);
        command
            .env("CAPTCHA_WORKER__SOLVER__BASE_URL", simulator.url())
            .env("CAPTCHA_WORKER__SOLVER__API_KEY", "simulator-key")
            .env("CAPTCHA_WORKER__WORKER__MAX_IN_FLIGHT", IN_FLIGHT)
            .stdout(process::log(&folder, "batch"))
            .stderr(process::log(&folder, "batch-errors"));
        Process::start(&mut command)
    };
    let read = || lines(&folder.join("outcomes.ndjson"));
    let mut process = start();
    let mut killed = 0;
    while killed < KILLS {
        let end = process.end(until_killed(rng)).await;
        if let Some(end) = end {
            harness.check(
                "batch: it ends only when all is done",
                format!("{end:?}, {} lines", read().len()),
                read().len() == JOBS,
            );
            break;
        }
        process.kill().await;
        killed += 1;
        process = start();
        if killed % 10 == 0 {
            harness.say(format_args!("batch: killed {killed} times, {} lines", read().len()));
        }
    }
    let end = process.end(SETTLE_WITHIN).await;
    harness.check("batch: exit 0 at last", format!("{end:?}"), end.is_some_and(|end| end.success()));
    harness.note("batch: killed", killed);
    let lines = read();
    let outcomes = outcomes_by_id(&lines);
    harness.check(
        "batch: every job has a line",
        format!("{} of {JOBS}", outcomes.len()),
        outcomes.len() == JOBS,
    );
    harness.at_most("batch: repeated lines", (lines.len() - outcomes.len()) as u64, 0);
    paid(harness, "batch", &simulator).await;
}

/// Paid twice: only what was being submitted when a process was killed.
async fn paid(harness: &Harness, what: &str, simulator: &Simulator) {
    let stats = simulator.stats().await;
    let twice = stats.accepted_tasks.saturating_sub(JOBS as u64);
    harness.at_most(format!("{what}: paid twice, in windows (b) to (e)"), twice, SUBMISSIONS * KILLS as u64);
    harness.at_most(format!("{what}: early polls"), stats.early_polls, 0);
    harness.at_most(format!("{what}: bans"), stats.bans, 0);
}

fn write_jobs(folder: &Path, all: &[Job]) {
    let lines: Vec<u8> = all.iter().flat_map(|job| [&job.body[..], b"\n"].concat()).collect();
    std::fs::write(folder.join("jobs.ndjson"), lines).expect("the target folder is writable");
}

/// The whole lines of a file of JSON.
fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn outcomes_by_id(lines: &[Value]) -> BTreeMap<String, Vec<&Value>> {
    let mut by_id: BTreeMap<String, Vec<&Value>> = BTreeMap::new();
    for line in lines {
        if let Some(id) = line["id"].as_str() {
            by_id.entry(id.to_owned()).or_default().push(line);
        }
    }
    by_id
}
