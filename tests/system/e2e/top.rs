//! `top`: one picture for pipes, and a terminal that outlives its broker.

use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::{Instant, interval};

use crate::e2e::logged::{LoggedReplica, TIMEOUT, arrived, get, publish};
use crate::support::either::{EitherBroker, on_both_brokers};
use crate::support::fleet::{Replica, Simulator, amqp, declare};
use crate::support::rabbit::{RabbitNode, fresh_namespace};

const BINARY: &str = env!("CARGO_BIN_EXE_captcha-worker");
const ESCAPES: &str = "\u{1b}[2J\u{1b}]0;owned\u{7}";

fn top(amqp: &str, namespace: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command
        .arg("top")
        .args(arguments)
        .current_dir(std::env::temp_dir())
        .env("CAPTCHA_WORKER__BROKER__URL", amqp)
        .env("CAPTCHA_WORKER__BROKER__NAMESPACE", namespace)
        .env("CAPTCHA_WORKER__OPS__LISTEN", "")
        .stdin(Stdio::null());
    command
}

/// What it printed, and its exit code.
async fn printed(amqp: &str, namespace: &str, arguments: &[&str]) -> (String, String, Option<i32>) {
    let output = top(amqp, namespace, arguments).output().await.expect("it runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (text(output.stdout), text(output.stderr), output.status.code())
}

struct Fleet {
    simulator: Simulator,
    replicas: Vec<LoggedReplica>,
}

impl Fleet {
    async fn start(amqp: &str, namespace: &str, names: &[&str]) -> Self {
        let simulator = Simulator::start("balance = 1000.0\n").await;
        declare(amqp, namespace).await;
        let mut replicas = Vec::new();
        for name in names {
            let settings = [
                ("WORKER__NAME", *name),
                ("OPS__LISTEN", "127.0.0.1:0"),
                ("LOG__LEVEL", "info"),
                ("LOG__FORMAT", "json"),
            ];
            let replica = Replica { amqp, namespace, simulator: &simulator, settings: &settings };
            replicas.push(LoggedReplica::start(&replica));
        }
        for replica in &replicas {
            replica.wait_for_line("serving /healthz").await;
        }
        Self { simulator, replicas }
    }
}

on_both_brokers!(
    one_picture_shows_the_fleet_as_text_and_as_json_and_hostile_ids_steer_no_terminal,
    every_replica_shows_what_another_has_done_and_what_the_leader_sees_in_the_queues,
);

async fn one_picture_shows_the_fleet_as_text_and_as_json_and_hostile_ids_steer_no_terminal(
    broker: EitherBroker,
) {
    let (url, namespace) = (&*broker.url, &*broker.namespace);
    let fleet = Fleet::start(url, namespace, &["first", "second"]).await;
    let session = broker.session().await;
    publish(&session, namespace, crate::support::jobs::image("good", &json!({})).into_bytes()).await;
    arrived(&session, &format!("{namespace}.results"), 1).await;
    let hostile = json!({"id": format!("{ESCAPES}<script>"), "task": {"type": format!("{ESCAPES}Type"), "websiteURL": "https://a.example/"}});
    publish(&session, namespace, hostile.to_string().into_bytes()).await;
    arrived(&session, &format!("{namespace}.dead.forbidden"), 1).await;

    let address = fleet.replicas[0].serves().await;
    let (text, errors, code) = printed(url, namespace, &["--once", "--ops", &address]).await;
    assert_eq!(code, Some(0), "{text}{errors}");
    for wanted in [
        "2 of 2 replicas",
        "first",
        "second",
        "Guard    active",
        "Balance",
        "jobs",
        "POLICY_SITE_NOT_ALLOWED",
        "·[2J·]0;owned·<script>",
        "solved",
        "forbidden",
        "ImageToTextTask",
        &address,
    ] {
        assert!(text.contains(wanted), "{wanted:?} is not in\n{text}");
    }
    assert!(!text.contains('\u{1b}') && !text.contains('\u{7}'), "{text:?}");

    let (text, _, code) =
        printed(url, namespace, &["--json", "--ops", &address, "--ops", "127.0.0.1:1"]).await;
    let report: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(
        (code, &report["broker"], &report["told_by"]),
        (Some(0), &Value::Null, &Value::Null),
        "{report}"
    );
    let seen = &report["fleet"];
    assert_eq!((&seen["guard"]["state"], &seen["heard_replicas"]), (&json!("active"), &json!(2)), "{report}");
    assert_eq!((&seen["solved"], &seen["backlog"]["dead"]["forbidden"]), (&json!(1), &json!(1)), "{report}");
    assert_eq!(seen["latest_failures"][0]["id"], "·[2J·]0;owned·<script>", "{report}");
    assert!(seen["rates"]["calls"].is_number(), "two looks make a rate: {report}");
    assert_eq!(
        (&report["ops"][0]["ready"], &report["ops"][0]["name"]),
        (&json!(true), &json!("first")),
        "{report}"
    );
    assert_eq!(report["ops"][1]["error"], "nobody listens there", "{report}");
    assert_eq!(fleet.simulator.stats().await["accepted_tasks"], 1);
}

/// Waits until a replica's own view of the fleet is as wanted.
async fn seen_by(address: &str, what: &str, wanted: impl Fn(&Value) -> bool) {
    let deadline = Instant::now() + TIMEOUT;
    let mut looks = interval(Duration::from_millis(100));
    loop {
        looks.tick().await;
        let status: Value = serde_json::from_str(&get(address, "/status").await).expect("JSON");
        if wanted(&status["fleet"]) {
            return;
        }
        assert!(Instant::now() < deadline, "{what}: {}", status["fleet"]);
    }
}

async fn every_replica_shows_what_another_has_done_and_what_the_leader_sees_in_the_queues(
    broker: EitherBroker,
) {
    let (url, namespace) = (&*broker.url, &*broker.namespace);
    let fleet = Fleet::start(url, namespace, &["first", "second"]).await;
    let session = broker.session().await;
    publish(&session, namespace, b"no job".to_vec()).await;
    arrived(&session, &format!("{namespace}.dead.malformed"), 1).await;
    for replica in &fleet.replicas {
        let address = replica.serves().await;
        seen_by(&address, "both, and the one failure", |fleet| {
            let failures = fleet["latest_failures"].as_array().map_or(0, Vec::len);
            fleet["heard_replicas"] == 2 && failures == 1 && fleet["latest_failures"][0]["code"] == "NOT_JSON"
        })
        .await;
        seen_by(&address, "the dead letter", |fleet| fleet["backlog"]["dead"]["malformed"] == 1).await;
        let page = get(&address, "/").await;
        assert!(
            ["first", "second", "NOT_JSON", "dead.malformed"].iter().all(|part| page.contains(part)),
            "{page}"
        );
    }
}

#[tokio::test]
async fn without_a_broker_it_shows_what_an_ops_server_reports_and_says_so() {
    let (amqp, namespace) = (amqp(), fresh_namespace());
    let fleet = Fleet::start(&amqp, &namespace, &["only"]).await;
    fleet.replicas[0].wait_for_line("taking jobs").await;
    let address = fleet.replicas[0].serves().await;
    let nowhere = "amqp://worker:pl4nted-amqp@127.0.0.1:1/%2f";
    let (text, _, code) = printed(nowhere, &namespace, &["--once", "--ops", &address]).await;
    assert_eq!(code, Some(0), "{text}");
    for wanted in ["The broker does not answer", &format!("Source: /status of {address}"), "★ only"] {
        assert!(text.contains(wanted), "{wanted:?} is not in\n{text}");
    }
    // One that takes connections and says nothing keeps nothing from being shown.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let silent_url = format!("amqp://worker:pl4nted-amqp@{}/%2f", silent.local_addr().expect("bound"));
    let mut typed = Typed::start(&silent_url, &namespace, &["--ops", &address], &[]);
    for order in ["see The broker does not answer: no answer yet", "see ★ only", "type q", "end 0"] {
        typed.order(order).await;
    }
    let (out, errors, code) = printed(nowhere, &namespace, &["--once"]).await;
    assert_eq!((code, &*out), (Some(1), ""), "{errors}");
    assert!(errors.starts_with("error: ") && errors.contains("broker.url"), "{errors}");
    assert!(!format!("{text}{errors}").contains("pl4nted"), "{text}{errors}");
}

/// `top` in a terminal of its own.
struct Typed {
    _child: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Typed {
    fn start(amqp: &str, namespace: &str, arguments: &[&str], env: &[(&str, &str)]) -> Self {
        let python = std::env::var_os("CAPTCHA_WORKER_TEST_PYTHON").unwrap_or_else(|| "python3".into());
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/console/terminal.py");
        let top = top(amqp, namespace, arguments);
        let mut command = Command::new(python);
        command.args(["-B", script, "80", "24"]).arg(BINARY).args(top.as_std().get_args());
        for (name, value) in top.as_std().get_envs() {
            command.env(name, value.unwrap_or_default());
        }
        command.env("TERM", "xterm-256color").env_remove("NO_COLOR").envs(env.iter().copied());
        let mut child = command
            .current_dir(std::env::temp_dir())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("Python 3 is there");
        let orders = child.stdin.take().expect("its input");
        let answers = BufReader::new(child.stdout.take().expect("its output")).lines();
        Self { _child: child, orders, answers }
    }

    async fn order(&mut self, order: &str) {
        self.orders.write_all(format!("{order}\n").as_bytes()).await.expect("it listens");
        let answer = self.answers.next_line().await.expect("it answers").unwrap_or_default();
        if answer != "ok" {
            let mut text = answer;
            while let Ok(Some(line)) = self.answers.next_line().await {
                text = format!("{text}\n{line}");
            }
            panic!("{order}: {text}");
        }
    }
}

#[tokio::test]
async fn in_a_terminal_it_outlives_its_broker_obeys_keys_and_leaves_all_as_it_was() {
    let node = RabbitNode::start().await;
    let (amqp, namespace) = (node.url(), fresh_namespace());
    let fleet = Fleet::start(&amqp, &namespace, &["only"]).await;
    fleet.replicas[0].wait_for_line("taking jobs").await;
    let mut typed = Typed::start(&amqp, &namespace, &["--interval", "500ms"], &[]);
    for order in
        ["see 1 of 1 replicas", "see Guard    canary", "see ★ only", "type ?", "see Keys and words", "type ?"]
    {
        typed.order(order).await;
    }
    for order in [
        "unsee Keys and words",
        "type p",
        "see FROZEN",
        "type p",
        "unsee FROZEN",
        "type \\t",
        "see ▸ Replicas",
    ] {
        typed.order(order).await;
    }
    // In order: a queue declared just before a crash may be without a leader after it, and then the
    // replica is away as well.
    node.stop_app();
    typed.order("see The broker does not answer").await;
    node.start_app();
    tokio::time::timeout(Duration::from_secs(60), typed.order("unsee The broker does not answer"))
        .await
        .expect("back");
    typed.order("see 1 of 1 replicas").await;
    for order in ["type q", "end 0"] {
        typed.order(order).await;
    }

    let mut typed = Typed::start(&amqp, &namespace, &[], &[("NO_COLOR", "1")]);
    for order in ["see ★ only", "plain", "signal TERM", "end 0"] {
        typed.order(order).await;
    }
}
