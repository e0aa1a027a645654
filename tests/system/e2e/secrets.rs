//! Secrets are planted wherever a worker is given one, everything is logged at the finest level,
//! and all that it shows is searched for them.

use std::process::Stdio;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use crate::e2e::logged::{LoggedReplica, TIMEOUT, arrived, get, publish};
use crate::support::fleet::{Replica, Simulator, declare};
use crate::support::jobs;
use crate::support::rabbit::{RabbitNode, connect, fresh_namespace};

/// What every secret begins with.
const PLANT: &str = "pl4nted";
/// An API that echoes what it was sent, and more.
const SCENARIO: &str = r#"
keys = ["pl4nted-key"]
[[rule]]
when = { type = "HCaptchaTask" }
create = [{ http = 500, body = "who is pl4nted-key, and pl4nted-login?" }, "ok"]
[[rule]]
when = { type = "RecaptchaV2Task" }
result = [{ http = 200, body = '{"errorId":1,"errorCode":"pl4nted-key","errorDescription":"pl4nted-key"}' }]
"#;

/// A job of a type that takes a proxy of the publisher's: each has its own, since one that is
/// banned is left alone.
fn proxied(n: usize, site: &str, script: &Value) -> Vec<u8> {
    proxied_as("TurnstileTask", n, site, Some(script))
}

fn proxied_as(task_type: &str, n: usize, site: &str, script: Option<&Value>) -> Vec<u8> {
    let mut job = json!({
        "id": format!("proxied-{n}"),
        "task": {
            "type": task_type, "websiteURL": format!("https://{site}/"), "websiteKey": "k",
            "proxyType": "http", "proxyAddress": format!("192.0.2.{n}"), "proxyPort": 8080,
            "proxyLogin": "pl4nted-login", "proxyPassword": "pl4nted-proxy",
        },
    });
    if let Some(script) = script {
        job["task"]["_sim"] = script.clone();
    }
    job.to_string().into_bytes()
}

/// Messages of every kind of end, and the queue that each ends in.
fn messages() -> Vec<(Vec<u8>, &'static str)> {
    let large = format!(r#"{{"task":{{"proxyPassword":"pl4nted-proxy","x":"{}"}}}}"#, "x".repeat(1_100_000));
    vec![
        (jobs::image("solved", &json!({})).into_bytes(), "results"),
        (
            jobs::image("retried", &json!({"create": ["ERROR_NO_SLOT_AVAILABLE", "ok"]})).into_bytes(),
            "results",
        ),
        (proxied(1, "good.example", &json!({})), "results"),
        (proxied(2, "good.example", &json!({"create": ["ERROR_PROXY_BANNED"]})), "dead.proxy"),
        (proxied(3, "good.example", &json!({"create": ["ERROR_PROXY_CONNECT_REFUSED"]})), "dead.proxy"),
        (proxied(4, "good.example", &json!({"result": ["ERROR_OF_NEXT_YEAR"]})), "dead.unknown"),
        (proxied(5, "bad.example", &json!({})), "dead.forbidden"),
        (proxied_as("HCaptchaTask", 6, "good.example", None), "results"),
        (proxied_as("RecaptchaV2Task", 7, "good.example", None), "dead.unknown"),
        (br#"{"task":{"type":"T","proxyPassword":"pl4nted-proxy""#.to_vec(), "dead.malformed"),
        (br#"{"task":{"type":"T"},"clientKey":"pl4nted-key"}"#.to_vec(), "dead.malformed"),
        (large.into_bytes(), "dead.raw"),
    ]
}

/// What a command prints, on either side, however it ends.
async fn command(amqp: &str, namespace: &str, api: &str, arguments: &[&str]) -> String {
    let dir = TempDir::new().expect("a temporary folder");
    let output = Command::new(env!("CARGO_BIN_EXE_captcha-worker"))
        .args(arguments)
        .args(["--log", "trace"])
        .current_dir(dir.path())
        .env("CAPTCHA_WORKER__BROKER__URL", amqp)
        .env("CAPTCHA_WORKER__BROKER__NAMESPACE", namespace)
        .env("CAPTCHA_WORKER__SOLVER__BASE_URL", api)
        .env("CAPTCHA_WORKER__SOLVER__API_KEY", "pl4nted-key")
        .stdin(Stdio::null())
        .output()
        .await
        .expect("the command runs");
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn clean(what: &str, text: &str) {
    let at = text.find(PLANT).map(|at| &text[at.saturating_sub(300)..(at + 100).min(text.len())]);
    assert_eq!(at, None, "{what} shows a secret");
}

#[tokio::test]
async fn a_planted_secret_is_in_no_log_no_metric_no_status_and_no_view_of_dead_letters() {
    let mut node = RabbitNode::start().await;
    node.ctl(&["add_user", "worker", "pl4nted-amqp"]);
    node.ctl(&["set_permissions", "-p", "/", "worker", ".*", ".*", ".*"]);
    let (amqp, namespace) = (node.url_as("worker:pl4nted-amqp", "%2f"), fresh_namespace());
    let simulator = Simulator::start(SCENARIO).await;
    declare(&amqp, &namespace).await;
    let start = |format: &str, key: &str| {
        let settings = [
            ("SOLVER__API_KEY", key),
            ("LOG__LEVEL", "trace,lapin=trace"),
            ("LOG__FORMAT", format),
            ("LOG__TARGET", "true"),
            ("OPS__LISTEN", "127.0.0.1:0"),
            ("POLICY__ALLOWED_DOMAINS", "good.example"),
            // Unknown codes end their jobs soon.
            ("RETRY__UNKNOWN_TIMEOUT", "0s"),
            ("POLLING__TurnstileTask__TIMEOUT", "15s"),
            ("POLLING__RecaptchaV2Task__TIMEOUT", "15s"),
        ];
        LoggedReplica::start(&Replica {
            amqp: &amqp,
            namespace: &namespace,
            simulator: &simulator,
            settings: &settings,
        })
    };
    let mut fleet = vec![("JSON", start("json", "pl4nted-key"))];
    fleet[0].1.wait_for_line("taking jobs").await;
    fleet.push(("for people", start("human", "pl4nted-key")));
    fleet.push(("of a wrong key", start("json", "pl4nted-wrong")));
    let session = connect(&amqp).await;
    let messages = messages();
    // The first is the canary, after which all take jobs.
    publish(&session, &namespace, messages[0].0.clone()).await;
    fleet[1].1.wait_for_line("taking jobs").await;
    for (body, _) in &messages[1..] {
        publish(&session, &namespace, body.clone()).await;
    }
    for (_, queue) in &messages {
        let wanted = messages.iter().filter(|(_, other)| other == queue).count() as u64;
        arrived(&session, &format!("{namespace}.{queue}"), wanted).await;
    }

    simulator.wait_for("the wrong key is tried", TIMEOUT, |stats| stats["bad_key_calls"] == 1).await;
    let address = fleet[0].1.serves().await;
    for path in ["/", "/metrics", "/status", "/readyz", "/healthz"] {
        let text = get(&address, path).await;
        assert!(!text.is_empty(), "{path}");
        clean(path, &text);
    }
    let mut views: Vec<Vec<&str>> = ["proxy", "unknown", "forbidden", "malformed", "raw"]
        .iter()
        .flat_map(|class| {
            ["ndjson", "table"].map(|format| vec!["outcomes", "--dead", class, "--format", format])
        })
        .collect();
    views.extend([
        vec!["dead", "list"],
        vec!["dead", "list", "--json"],
        vec!["dead", "export"],
        vec!["dead", "show", "proxied-3"],
        vec!["dead", "replay", "--dry-run"],
        vec!["dead", "purge", "--all", "--dry-run"],
    ]);
    views.extend([vec!["outcomes"], vec!["check"], vec!["status"], vec!["topology", "export"]]);
    views.extend([vec!["top", "--once", "--ops", &address], vec!["top", "--json", "--ops", &address]]);
    for view in &views {
        clean(&view.join(" "), &command(&amqp, &namespace, &simulator.url, view).await);
    }
    let shown =
        command(&amqp, &namespace, &simulator.url, &["outcomes", "--dead", "proxy", "--show-secrets"]).await;
    assert!(shown.contains("pl4nted-proxy"), "it is there to be found: {shown}");
    let letters = command(
        &amqp,
        &namespace,
        &simulator.url,
        &["dead", "export", "--id", "proxied-3", "--show-secrets"],
    )
    .await;
    assert!(letters.contains("pl4nted-proxy"), "and so is it by this way: {letters}");
    let refused = node.url_as("worker:pl4nted-other", "%2f");
    for view in [&["check"][..], &["run"], &["outcomes"]] {
        clean("a refused log-in", &command(&refused, &namespace, &simulator.url, view).await);
    }

    // The end of a session, and of the work.
    node.kill();
    for (what, replica) in &mut fleet {
        replica.wait_for_line("no session with the broker").await;
        replica.process.terminate(TIMEOUT).await;
        clean(&format!("the log {what}"), &replica.log());
    }
    let logs: Vec<String> = fleet.iter().map(|(_, replica)| replica.log()).collect();
    let finished = |log: &&String| log.lines().filter(|line| line.contains("job finished")).count();
    let ended = messages.len() - 1;
    assert_eq!(
        logs.iter().map(|log| finished(&log)).sum::<usize>(),
        ended,
        "one line for each job that a worker finished"
    );
    assert!(logs[0].contains("TRACE") && logs[0].contains("lapin"), "everything is logged");
}
