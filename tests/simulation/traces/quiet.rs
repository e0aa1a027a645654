use std::fs::File;
use std::net::TcpListener;
use std::time::Duration;

use serde_json::json;
use tempfile::NamedTempFile;
use tokio::time::Instant;

use crate::support::fleet::{Replica, Simulator};
use crate::support::jobs;
use crate::traces::collector::Collector;
use crate::traces::lane::Lane;

const DRAIN: Duration = Duration::from_secs(30);
/// How long the last spans may hold up the end, and some more for the process to end.
const FLUSH: Duration = Duration::from_secs(8);

#[tokio::test]
async fn a_collector_that_is_not_there_costs_no_job_and_some_lines() {
    let mut lane = Lane::new("results").await;
    let simulator = Simulator::start("").await;
    // It takes connections, and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let collector = format!("http://{}", silent.local_addr().expect("its address"));
    let log = NamedTempFile::new().expect("a temporary file");
    let settings = [("TRACES__OTLP_ENDPOINT", &*collector)];
    let replica = Replica {
        amqp: lane.rabbit.url(),
        namespace: &lane.namespace,
        simulator: &simulator,
        settings: &settings,
    };
    let mut worker = replica.start_logging_to(File::create(log.path()).expect("written").into());
    for n in 0..4 {
        let id = format!("job-{n}");
        lane.publish(&id, jobs::image(&id, &json!({})), &[]).await;
        lane.outcome(&id).await;
    }
    let began = Instant::now();
    assert_eq!(worker.terminate(DRAIN).await, Some(0));
    assert!(began.elapsed() < FLUSH, "{:?}", began.elapsed());
    let log = std::fs::read_to_string(log.path()).expect("its log");
    assert!(log.contains("cannot send traces"), "{log}");
}

#[tokio::test]
async fn spans_hold_neither_keys_nor_proxies_nor_what_a_job_is_about() {
    let mut lane = Lane::new("dead.unknown").await;
    let collector = Collector::start().await;
    let simulator = Simulator::start("keys = [\"pl4nted-key\"]\n").await;
    let settings = [
        ("TRACES__OTLP_ENDPOINT", &*collector.url),
        ("SOLVER__API_KEY", "pl4nted-key"),
        ("POLICY__ALLOWED_DOMAINS", "example.com"),
        ("LOG__LEVEL", "off"),
        // Unknown codes end their jobs soon.
        ("RETRY__UNKNOWN_TIMEOUT", "0s"),
        ("POLLING__TurnstileTask__TIMEOUT", "10s"),
    ];
    let replica = Replica {
        amqp: lane.rabbit.url(),
        namespace: &lane.namespace,
        simulator: &simulator,
        settings: &settings,
    };
    let mut worker = replica.start();
    let scripts = [
        json!({"create": ["ERROR_OF_NEXT_YEAR"]}),
        json!({"result": ["ERROR_OF_NEXT_YEAR"]}),
        json!({"create": [{"http": 500, "body": "pl4nted-key pl4nted-login"}, "ERROR_OF_NEXT_YEAR"]}),
    ];
    for (n, script) in scripts.iter().enumerate() {
        let id = format!("job-{n}");
        let job = json!({
            "id": id,
            "metadata": {"note": "pl4nted-note"},
            "task": {
                "type": "TurnstileTask", "websiteURL": "https://example.com/pl4nted-page", "websiteKey": "pl4nted-sitekey",
                "proxyType": "http", "proxyAddress": "192.0.2.7", "proxyPort": 8080,
                "proxyLogin": "pl4nted-login", "proxyPassword": "pl4nted-password", "_sim": script,
            },
        });
        lane.publish(&id, job.to_string(), &[]).await;
        lane.outcome(&id).await;
    }
    assert_eq!(worker.terminate(DRAIN).await, Some(0));
    let raw = String::from_utf8_lossy(&collector.raw()).into_owned();
    for known in ["job-0", "job-2", "TurnstileTask", "createTask", "getTaskResult"] {
        assert!(raw.contains(known), "{known} is reported");
    }
    assert!(!raw.contains("pl4nted") && !raw.contains("192.0.2.7"), "{raw}");
}
