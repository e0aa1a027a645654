//! `solve`: alone against the simulator, and with a fleet on a real RabbitMQ.

use std::process::Stdio;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

use crate::cli::support::{Ended, TIMEOUT, against, end, ended, interrupt, json, run, worker};
use crate::support::either::{EitherBroker, on_both_brokers};
use crate::support::fleet::{Replica, Simulator, amqp, declare};
use crate::support::rabbit::fresh_namespace;

/// An image that the API takes.
const IMAGE: &str = "captcha.png";

/// A folder with an image.
fn folder() -> TempDir {
    let dir = TempDir::new().unwrap();
    let image: Vec<u8> = (0..600_u32).map(|at| (at * 7 % 251) as u8).collect();
    std::fs::write(dir.path().join(IMAGE), image).unwrap();
    dir
}

/// The command with the simulator's key, and no other setting.
fn solve(dir: &TempDir, api: &str, words: &[&str]) -> Command {
    against(dir, api, &[&["solve"], words].concat())
}

async fn run_with_input(command: &mut Command, input: &[u8]) -> Ended {
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).await.unwrap();
    ended(child).await
}

fn script(script: &Value) -> String {
    format!("_sim={script}")
}

#[tokio::test]
async fn an_image_is_solved_and_its_text_alone_is_printed() {
    let (dir, api) = (folder(), Simulator::start("").await);
    let text = run(&mut solve(&dir, &api.url, &[IMAGE])).await;
    assert_eq!((text.code, text.stderr.as_str()), (0, ""));
    let whole = run(&mut solve(&dir, &api.url, &[IMAGE, "--json"])).await;
    assert_eq!((whole.code, whole.stderr.as_str()), (0, ""));
    let outcome = json(&whole);
    assert_eq!((&outcome["version"], &outcome["status"]), (&json!(1), &json!("solved")));
    assert_eq!(text.stdout, format!("{}\n", outcome["solution"]["text"].as_str().unwrap()));
    let image = std::fs::read(dir.path().join(IMAGE)).unwrap();
    let piped = run_with_input(&mut solve(&dir, &api.url, &["-"]), &image).await;
    assert_eq!((piped.code, piped.stdout), (0, text.stdout));
    let stats = api.stats().await;
    assert_eq!((&stats["accepted_tasks"], &stats["early_polls"]), (&json!(3), &json!(0)), "{stats}");
}

#[tokio::test]
async fn other_types_come_by_fields_or_as_a_task_and_the_token_is_printed() {
    let (dir, api) = (folder(), Simulator::start("").await);
    let site = "CAPTCHA_WORKER__POLICY__ALLOWED_DOMAINS";
    let words =
        ["--type", "TurnstileTask", "--param", "websiteURL=https://a.test/x?y=z", "--param", "websiteKey=k"];
    let by_fields = run(solve(&dir, &api.url, &words).env(site, "a.test")).await;
    assert_eq!((by_fields.code, by_fields.stderr.as_str()), (0, ""));
    let task = json!({"type": "TurnstileTask", "websiteURL": "https://a.test/x?y=z", "websiteKey": "k"});
    let mut as_task = solve(&dir, &api.url, &["--task", "-", "--json"]);
    let as_task = run_with_input(as_task.env(site, "a.test"), task.to_string().as_bytes()).await;
    assert_eq!(as_task.code, 0, "{}", as_task.stderr);
    let token = json(&as_task)["solution"]["token"].as_str().unwrap().to_owned();
    assert_eq!(by_fields.stdout, format!("{token}\n"));
    let not_listed = run(&mut solve(&dir, &api.url, &words)).await;
    assert_eq!((not_listed.code, not_listed.stdout.as_str()), (8, ""));
    assert!(not_listed.stderr.contains("POLICY_SITE_NOT_ALLOWED"), "{}", not_listed.stderr);
}

#[tokio::test]
async fn a_failure_ends_in_the_code_of_its_class_and_says_what_may_be_paid() {
    let (dir, api) = (folder(), Simulator::start("first_task_id = 500").await);
    let nothing = "nothing was submitted, so nothing is paid\n";
    for (wanted, code, exit, paid) in [
        (json!({"create": ["ERROR_TASK_PROPERTY_EMPTY"]}), "ERROR_TASK_PROPERTY_EMPTY", 7, nothing),
        (json!({"create": ["ERROR_DOMAIN_NOT_ALLOWED"]}), "ERROR_DOMAIN_NOT_ALLOWED", 8, nothing),
        (json!({"create": ["ERROR_PROXY_CONNECT_REFUSED"]}), "ERROR_PROXY_CONNECT_REFUSED", 10, nothing),
        // Its next try would come after the time that it is wanted in.
        (json!({"create": ["ERROR_NO_SLOT_AVAILABLE"]}), "ERROR_NO_SLOT_AVAILABLE", 3, nothing),
        (
            json!({"result": ["ERROR_TOKEN_EXPIRED"]}),
            "ERROR_TOKEN_EXPIRED",
            9,
            "the API accepted task 500, which may be paid\n",
        ),
        (
            json!({"result": ["ERROR_CAPTCHA_UNSOLVABLE"]}),
            "ERROR_CAPTCHA_UNSOLVABLE",
            6,
            "the API accepted tasks 501, 502, which may be paid\n",
        ),
    ] {
        let timeout = if code == "ERROR_NO_SLOT_AVAILABLE" { "4s" } else { "1m" };
        let words = [IMAGE, "--timeout", timeout, "--param", &script(&wanted)];
        let failed = run(&mut solve(&dir, &api.url, &words)).await;
        assert_eq!((failed.code, failed.stdout.as_str()), (exit, ""), "{}", failed.stderr);
        assert!(failed.stderr.starts_with("error: not solved: class "), "{}", failed.stderr);
        assert!(failed.stderr.contains(&format!("code {code}, stage ")), "{}", failed.stderr);
        assert!(failed.stderr.ends_with(paid), "{}", failed.stderr);
    }
}

#[tokio::test]
async fn the_json_of_a_failure_hides_the_proxys_password() {
    let (dir, api) = (folder(), Simulator::start("").await);
    let refused = script(&json!({"create": ["ERROR_PROXY_CONNECT_REFUSED"]}));
    let words = [IMAGE, "--json", "--param", "proxyPassword=s3cret", "--param", &refused];
    let failed = run(&mut solve(&dir, &api.url, &words)).await;
    assert_eq!((failed.code, &json(&failed)["failure"]["class"]), (10, &json!("proxy")));
    assert!(!failed.stdout.contains("s3cret") && !failed.stderr.contains("s3cret"), "{}", failed.stdout);
}

#[tokio::test]
async fn a_refused_key_is_called_with_once_and_ends_it_at_once() {
    let (dir, api) = (folder(), Simulator::start("").await);
    let mut command = solve(&dir, &api.url, &[IMAGE]);
    let refused = run(command.env("CAPTCHA_WORKER__SOLVER__API_KEY", "pl4nted-key")).await;
    assert_eq!((refused.code, refused.stdout.as_str()), (11, ""));
    assert_eq!(
        refused.stderr,
        "error: not solved: class account, reason key_invalid: the API refuses the key: correct solver.api_key\n\
         nothing was submitted, so nothing is paid\n"
    );
    assert_eq!(api.stats().await["bad_key_calls"], 1);
}

#[tokio::test]
async fn without_money_it_ends_at_once_but_a_paid_task_is_waited_for() {
    let dir = folder();
    let empty = Simulator::start("balance = 0.0").await;
    let refused = run(&mut solve(&dir, &empty.url, &[IMAGE])).await;
    assert_eq!(refused.code, 11, "{}", refused.stderr);
    assert!(refused.stderr.contains("reason no_funds"), "{}", refused.stderr);
    // The balance is asked for again while the task, which took the last of it, is being solved.
    let last = Simulator::start("balance = 1.0\n[types.ImageToTextTask]\ncost = 1.0").await;
    let slow = script(&json!({"solve_ms": 8_000}));
    let mut command = solve(&dir, &last.url, &[IMAGE, "--param", &slow]);
    let child = command.env("CAPTCHA_WORKER__GUARD__BALANCE_INTERVAL", "5s").spawn().unwrap();
    let solved = ended(child).await;
    assert_eq!((solved.code, solved.stderr.as_str()), (0, ""));
    assert_eq!(last.stats().await["balance"], 0.0);
}

#[tokio::test]
async fn a_timeout_names_the_task_that_may_be_paid() {
    let (dir, api) = (folder(), Simulator::start("first_task_id = 500").await);
    let slow = script(&json!({"solve_ms": 100_000}));
    let late = run(&mut solve(&dir, &api.url, &[IMAGE, "--timeout", "4s", "--param", &slow])).await;
    assert_eq!((late.code, late.stdout.as_str()), (124, ""));
    assert!(late.stderr.ends_with("the API accepted task 500, which may be paid\n"), "{}", late.stderr);
}

#[tokio::test]
async fn an_api_that_cannot_be_reached_is_the_reason_and_not_the_time() {
    let dir = folder();
    let failed = run(&mut solve(&dir, "http://127.0.0.1:1", &[IMAGE, "--timeout", "2s"])).await;
    assert_eq!((failed.code, failed.stdout.as_str()), (4, ""), "{}", failed.stderr);
    for words in ["class transient", "the API does not answer", "nothing was submitted, so nothing is paid"] {
        assert!(failed.stderr.contains(words), "{words}: {}", failed.stderr);
    }
}

#[tokio::test]
async fn ctrl_c_names_the_task_that_may_be_paid() {
    let (dir, api) = (folder(), Simulator::start("first_task_id = 500").await);
    let slow = script(&json!({"solve_ms": 100_000}));
    let child = solve(&dir, &api.url, &[IMAGE, "--param", &slow]).spawn().unwrap();
    api.wait_for("a submission", TIMEOUT, |stats| stats["accepted_tasks"] == 1).await;
    interrupt(&child).await;
    let stopped = ended(child).await;
    assert_eq!((stopped.code, stopped.stdout.as_str()), (130, ""));
    assert_eq!(stopped.stderr, "error: interrupted\nthe API accepted task 500, which may be paid\n");
}

#[tokio::test]
async fn ctrl_c_over_a_submission_without_an_answer_says_that_it_may_be_paid() {
    let (dir, api) = (folder(), Simulator::start("").await);
    let silent = script(&json!({"create": ["accepted_then_hang"]}));
    let child = solve(&dir, &api.url, &[IMAGE, "--param", &silent]).spawn().unwrap();
    api.wait_for("a submission", TIMEOUT, |stats| stats["accepted_tasks"] == 1).await;
    interrupt(&child).await;
    let stopped = ended(child).await;
    assert_eq!(stopped.code, 130);
    assert_eq!(stopped.stderr, "error: interrupted\na submission got no answer and may be paid\n");
}

#[test]
fn input_that_cannot_be_a_job_ends_in_2_and_calls_nobody() {
    let dir = folder();
    let at = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
    at("empty.png", &[]);
    at("small.png", &[7; 99]);
    at("large.png", &[7; 50_001]);
    at("huge.png", &vec![7; 1 << 20]);
    at("task.txt", b"no JSON");
    at("task.json", b"{\"websiteKey\": 1}");
    at("list.json", b"[]");
    for (words, reason) in [
        (&["absent.png"][..], "image 'absent.png' cannot be read"),
        (&["empty.png"], "image 'empty.png' is empty"),
        (&["small.png"], "IMAGE_TOO_SMALL"),
        (&["large.png"], "IMAGE_TOO_BIG"),
        (&["huge.png"], "image 'huge.png' is too large"),
        (&["--task", "task.txt"], "--task 'task.txt' is not JSON"),
        (&["--task", "task.json"], "field 'task.type' is missing"),
        (&["--task", "list.json"], "field 'task' must be an object"),
        (&["--type", "T", "--param", "n"], "--param number 1: not NAME=VALUE"),
        (&[IMAGE, "--task", "task.json"], "cannot be used with"),
        (&[IMAGE, "--timeout", "0s"], "allowed: 1s to 1day"),
        (&[], "required"),
    ] {
        let mut command = worker(&dir);
        let command = command.arg("solve").args(words).env("CAPTCHA_WORKER__SOLVER__API_KEY", "key");
        let refused = end(command.env("CAPTCHA_WORKER__SOLVER__BASE_URL", "http://127.0.0.1:1"));
        assert_eq!((refused.code, refused.stdout.as_str()), (2, ""), "{words:?}: {}", refused.stderr);
        assert!(refused.stderr.contains(reason), "{words:?}: {}", refused.stderr);
    }
}

#[test]
fn without_a_key_it_says_what_run_says() {
    let dir = folder();
    let [solve, run] = [&["solve", IMAGE][..], &["run"]].map(|words| end(worker(&dir).args(words)));
    assert_eq!((solve.code, solve.stderr), (2, run.stderr));
}

/// The command as a client of a fleet, which needs no key.
fn by_fleet(dir: &TempDir, (url, namespace): (&str, &str), words: &[&str]) -> Command {
    let mut command = solve(dir, "http://127.0.0.1:1", words);
    command
        .env_remove("CAPTCHA_WORKER__SOLVER__API_KEY")
        .env("CAPTCHA_WORKER__BROKER__URL", url)
        .env("CAPTCHA_WORKER__BROKER__NAMESPACE", namespace);
    command
}

on_both_brokers!(
    a_fleet_solves_it_and_the_reply_is_printed,
    without_a_fleet_the_job_stays_queued_and_is_not_wanted_after_its_deadline,
);

async fn a_fleet_solves_it_and_the_reply_is_printed(broker: EitherBroker) {
    let (dir, api) = (folder(), Simulator::start("first_task_id = 500").await);
    let (url, namespace) = (&*broker.url, &*broker.namespace);
    let mut replica =
        Replica { amqp: url, namespace, simulator: &api, settings: &[("OPS__LISTEN", "127.0.0.1:0")] }
            .start();
    declare(url, namespace).await;
    let solved = run(&mut by_fleet(&dir, (url, namespace), &[IMAGE, "--json"])).await;
    assert_eq!((solved.code, solved.stderr.as_str()), (0, ""));
    assert_eq!(json(&solved)["task_id"], 500);
    let text = run(&mut by_fleet(&dir, (url, namespace), &[IMAGE])).await;
    assert_eq!(text.stdout, format!("{}\n", json(&solved)["solution"]["text"].as_str().unwrap()));
    let unsolved = script(&json!({"result": ["ERROR_TOKEN_EXPIRED"]}));
    let failed = run(&mut by_fleet(&dir, (url, namespace), &[IMAGE, "--param", &unsolved])).await;
    assert_eq!((failed.code, failed.stdout.as_str()), (9, ""), "{}", failed.stderr);
    assert!(failed.stderr.ends_with("the API accepted task 502, which may be paid\n"), "{}", failed.stderr);
    assert_eq!(replica.terminate(TIMEOUT).await, Some(0));
    // Each reply is a copy: the durable outcomes are where they always go.
    let session = broker.session().await;
    for (queue, count) in [("results", 2), ("dead.expired", 1)] {
        let depth = session.link().depth(&format!("{namespace}.{queue}")).await.unwrap();
        assert_eq!(depth.ready, count, "{queue}");
    }
}

#[tokio::test]
async fn without_a_topology_it_says_how_to_make_one() {
    let (dir, namespace) = (folder(), fresh_namespace());
    let undeclared = run(&mut by_fleet(&dir, (&amqp(), &namespace), &[IMAGE])).await;
    assert_eq!(undeclared.code, 1);
    assert!(undeclared.stderr.contains("captcha-worker topology declare"), "{}", undeclared.stderr);
}

async fn without_a_fleet_the_job_stays_queued_and_is_not_wanted_after_its_deadline(broker: EitherBroker) {
    let (dir, url, namespace) = (folder(), &*broker.url, &*broker.namespace);
    declare(url, namespace).await;
    let late = run(&mut by_fleet(&dir, (url, namespace), &[IMAGE, "--timeout", "1s"])).await;
    assert_eq!((late.code, late.stdout.as_str()), (124, ""));
    for words in ["no answer within 1s", "no replica takes jobs now", "stays queued", "has passed"] {
        assert!(late.stderr.contains(words), "{words}: {}", late.stderr);
    }
    let session = broker.session().await;
    let jobs = format!("{namespace}.jobs");
    let queued = session.link().get(&jobs).await.unwrap().expect("the job");
    let job: Value = serde_json::from_slice(&queued.message.body).unwrap();
    assert!(late.stderr.contains(job["id"].as_str().unwrap()), "{}", late.stderr);
    assert!(late.stderr.contains(job["deadline"].as_str().unwrap()), "{}", late.stderr);
    queued.receipt.ack().unwrap();

    let child = by_fleet(&dir, (url, namespace), &[IMAGE]).spawn().unwrap();
    let published = async {
        while session.link().depth(&jobs).await.unwrap().ready == 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(TIMEOUT, published).await.expect("a published job");
    interrupt(&child).await;
    let stopped = ended(child).await;
    assert_eq!((stopped.code, stopped.stdout.as_str()), (130, ""));
    assert!(stopped.stderr.contains("the fleet may submit it and pay"), "{}", stopped.stderr);
}

#[tokio::test]
async fn a_broker_that_is_not_there_is_reported_without_its_password() {
    let dir = folder();
    let mut command = by_fleet(&dir, ("amqp://user:pl4nted@127.0.0.1:1", "captcha"), &[IMAGE]);
    let failed = run(&mut command).await;
    assert_eq!((failed.code, failed.stdout.as_str()), (1, ""));
    assert!(failed.stderr.contains("broker.url") && !failed.stderr.contains("pl4nted"), "{}", failed.stderr);
}
