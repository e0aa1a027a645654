//! `/metrics`: what it shows, that docs/METRICS.md lists it, and that it holds no secret.

use std::collections::BTreeSet;
use std::sync::Arc;

use captcha_worker::domain::class::Class;
use captcha_worker::domain::fingerprint::Fingerprint;
use captcha_worker::domain::guard::{Funds, Phase, Quarantined, Reason, State};
use captcha_worker::solver::{RawReply, Transport, TransportError};
use captcha_worker::worker::{Clock, WorkerHandle};
use futures_util::future::BoxFuture;
use serde_json::json;

use crate::ops::exposition::{documented, read};
use crate::ops::scene::{KEY, Scene};

const PROXY_PASSWORD: &str = "pl4nted-proxy-password";
/// Nobody's address.
const PROXY: &str = "203.0.113.77";

/// Answers by the type of the task.
struct Scripted;

impl Transport for Scripted {
    fn post<'a>(
        &'a self,
        path: &'static str,
        body: bytes::Bytes,
    ) -> BoxFuture<'a, Result<RawReply, TransportError>> {
        let asks = String::from_utf8_lossy(&body).into_owned();
        let refusal = |code: &str| json!({"errorId": 1, "errorCode": code});
        let answer = match path.trim_start_matches('/') {
            "getBalance" => json!({"errorId": 0, "balance": 7.5}),
            "createTask" if asks.contains("ScarceTask") => refusal("ERROR_NO_SLOT_AVAILABLE"),
            "createTask" if asks.contains("DearTask") => refusal("ERROR_ZERO_BALANCE"),
            "createTask" if asks.contains(PROXY) => refusal("ERROR_PROXY_BANNED"),
            "createTask" => json!({"errorId": 0, "taskId": 1}),
            _ => json!({"errorId": 0, "status": "ready", "solution": {"text": "x"}, "cost": "0.00025"}),
        };
        Box::pin(
            async move { Ok(RawReply { status: 200, retry_after: None, body: answer.to_string().into() }) },
        )
    }
}

/// An account that was in use until just now.
fn in_use() -> State {
    let now = Clock::System.now();
    let mut state = State { phase: Phase::Active, verified_at: Some(now), ..State::unknown(6, now) };
    state.probed_at = Some(now);
    state.keys.good.push(Fingerprint::of_key(KEY));
    state.funds = Some(Funds {
        text: "7.5".to_owned(),
        amount: captcha_worker::domain::money::Decimal::new(75, 1),
        at: now,
        per_hour: Some(-1.5),
    });
    state
}

fn phase(view: &WorkerHandle) -> Option<Phase> {
    view.seen().state.map(|state| state.phase)
}

/// A worker that has met a bit of everything: a solved job, a banned proxy, a type without slots,
/// and the end of the money.
async fn eventful() -> Scene {
    let scene = Scene::start(Arc::new(Scripted), Some(in_use())).await;
    scene.wait_until("the account is open", |view| phase(view) == Some(Phase::Active)).await;
    scene.publish(json!({"type": "ImageToTextTask", "body": "QUFB".repeat(60)})).await;
    scene.publish(json!({"type": "ScarceTask"})).await;
    let site = "https://example.com/";
    let proxied = json!({"type": "TurnstileTask", "websiteURL": site, "websiteKey": "k", "proxyType": "http",
        "proxyAddress": PROXY, "proxyPort": 8080, "proxyLogin": "user", "proxyPassword": PROXY_PASSWORD});
    scene.publish(proxied).await;
    scene
        .wait_until("each has come to its end", |view| {
            let reading = view.reading();
            (reading.solved, reading.failed) == (1, 1)
                && reading.retried > 0
                && view.quarantined_proxies() == 1
        })
        .await;
    scene.wait_until("the queues are looked at", |view| !view.queues().is_empty()).await;
    scene.publish(json!({"type": "DearTask"})).await;
    scene.wait_until("the guard trips", |view| phase(view) == Some(Phase::Tripped)).await;
    scene
}

#[tokio::test]
async fn each_metric_stands_in_the_tables_with_type_labels_and_meaning_and_none_stands_there_in_vain() {
    let scene = eventful().await;
    let shown = read(&scene.metrics().await).into_iter().map(|(name, family)| {
        let labels = family.labels.into_iter().collect::<Vec<_>>().join(" ");
        [name, family.kind, labels, family.help]
    });
    assert_eq!(shown.collect::<BTreeSet<_>>(), documented());
}

#[tokio::test]
async fn they_show_what_has_happened() {
    let scene = eventful().await;
    let families = read(&scene.metrics().await);
    let now = Clock::System.now();
    for (name, of, value) in [
        ("captcha_guard_state", "tripped", 1.0),
        ("captcha_guard_state", "active", 0.0),
        ("captcha_guard_reason", "no_funds", 1.0),
        ("captcha_guard_reason", "ip_banned", 0.0),
        ("captcha_balance", "", 7.5),
        ("captcha_balance_change_per_hour", "", -1.5),
        ("captcha_quarantined_proxies", "", 1.0),
        ("captcha_leader", "", 1.0),
        ("captcha_replicas", "", 1.0),
        ("captcha_connected", "", 1.0),
        ("captcha_submissions_paid_total", "ImageToTextTask", 1.0),
        ("captcha_cost_total", "ImageToTextTask default false", 0.000_25),
        ("captcha_budget", "all hour", 100.0),
        ("captcha_budget_used_up", "all hour", 0.0),
        ("captcha_jobs_solved_total", "", 1.0),
        ("captcha_jobs_failed_total", "proxy", 1.0),
        ("captcha_jobs_failed_total", "unsolved", 0.0),
        ("captcha_polls_total", "", 1.0),
        ("captcha_jobs_failed_by_code_total", "proxy ERROR_PROXY_BANNED", 1.0),
        ("captcha_tickets_open", "", 0.0),
        ("captcha_buffer_depth", "deliveries", 0.0),
        ("captcha_ready", "", 0.0),
        ("captcha_queue_ready", "results", 0.0),
        ("captcha_queue_consumers", "guard", 1.0),
        ("captcha_ready_to_delivered_seconds", "_count", 1.0),
        ("captcha_queue_wait_seconds", "_count", 1.0),
        ("captcha_submission_wait_seconds", "_count", 1.0),
        ("captcha_solve_seconds", "_countImageToTextTask", 1.0),
        ("captcha_solve_seconds", "_bucketImageToTextTask 280", 1.0),
        ("captcha_api_call_seconds", "_countgetTaskResult ok", 1.0),
        ("captcha_api_call_seconds", "_countcreateTask timeout", 0.0),
        ("captcha_broker_sessions_lost_total", "", 0.0),
    ] {
        assert_eq!(families[name].values.get(of), Some(&value), "{name} {of}");
    }
    assert!(families["captcha_confirm_seconds"].values["_count"] >= 3.0);
    assert!(families["captcha_type_window"].values["ScarceTask"] < 2.0);
    assert!(!families["captcha_type_window"].values.contains_key("ImageToTextTask"));
    let seconds = now.as_millis() as f64 / 1_000.0;
    let ahead = families["captcha_guard_next_probe_timestamp_seconds"].values[""] - seconds;
    let ago = seconds - families["captcha_balance_timestamp_seconds"].values[""];
    assert!((0.0..=60.0).contains(&ahead) && (0.0..60.0).contains(&ago), "{ahead} {ago}");
}

#[tokio::test]
async fn every_label_is_there_before_anything_happens_and_what_is_not_known_is_absent() {
    let scene = Scene::start(Arc::new(Scripted), None).await;
    let families = read(&scene.metrics().await);
    let labels = |name: &str| families[name].values.keys().cloned().collect::<BTreeSet<_>>();
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(labels("captcha_guard_reason"), set(&Reason::ALL.map(Reason::name)));
    let classes = set(&Class::finals().map(Class::name).collect::<Vec<_>>());
    assert_eq!(labels("captcha_jobs_failed_total"), classes);
    assert_eq!(labels("captcha_submissions_wasted_total"), classes);
    assert_eq!(labels("captcha_possibly_paid_twice_total"), set(&["a", "c", "d", "e", "g"]));
    let states = &families["captcha_guard_state"].values;
    assert_eq!(
        states.keys().cloned().collect::<BTreeSet<_>>(),
        set(&["active", "canary", "probing", "tripped", "unknown"])
    );
    assert_eq!(states.values().sum::<f64>(), 1.0, "{states:?}");
    for (name, family) in families.iter().filter(|(name, _)| name.ends_with("_total")) {
        assert_eq!(family.kind, "counter", "{name}");
    }
    for name in ["captcha_guard_next_probe_timestamp_seconds", "captcha_type_window", "captcha_cost_total"] {
        assert!(!families.contains_key(name), "{name}");
    }
}

#[tokio::test]
async fn types_that_differ_by_a_backslash_are_two() {
    let scene = Scene::start(Arc::new(Scripted), Some(in_use())).await;
    scene.publish(json!({"type": "Odd\\"})).await;
    scene.publish(json!({"type": "Odd\\\\"})).await;
    scene.wait_until("both are solved", |view| view.reading().solved == 2).await;
    let families = read(&scene.metrics().await);
    let types = |name: &str| families[name].values.keys().cloned().collect::<Vec<_>>();
    assert_eq!(types("captcha_submissions_paid_total"), ["Odd%5C", "Odd%5C%5C"]);
    assert_eq!(types("captcha_cost_total"), ["Odd%5C default false", "Odd%5C%5C default false"]);
}

#[tokio::test]
async fn what_does_not_apply_any_more_is_gone() {
    let mut state = in_use();
    let until = state.since;
    state.quarantine.push(Quarantined { proxy: Fingerprint::of_proxy(PROXY, "8080"), until });
    let scene = Scene::start(Arc::new(Scripted), Some(state)).await;
    scene.wait_until("the account is open", |view| phase(view) == Some(Phase::Active)).await;
    let families = read(&scene.metrics().await);
    assert_eq!(families["captcha_quarantined_proxies"].values[""], 0.0, "its time is over");
    assert_eq!(families["captcha_balance"].values[""], 7.5);
    scene.broker.set_reachable(false);
    scene.broker.drop_all_sessions();
    scene.wait_until("nothing is known of the account", |view| phase(view).is_none()).await;
    let families = read(&scene.metrics().await);
    let known = families.keys().find(|name| name.starts_with("captcha_balance"));
    assert_eq!(known, None);
    assert_eq!(families["captcha_guard_state"].values["unknown"], 1.0);
    assert_eq!(families["captcha_connected"].values[""], 0.0);
}

#[tokio::test]
async fn no_metric_shows_a_secret() {
    let text = eventful().await.metrics().await;
    assert!(text.contains("captcha_quarantined_proxies 1"), "the proxy was used");
    for secret in ["pl4nted", PROXY, "example.com"] {
        assert!(!text.contains(secret), "{secret}: {text}");
    }
    for mark in [Fingerprint::of_key(KEY), Fingerprint::of_proxy(PROXY, "8080")] {
        let mark = serde_json::to_string(&mark).expect("JSON");
        assert!(!text.contains(mark.trim_matches('"')), "{mark}: {text}");
    }
}
