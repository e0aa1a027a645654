//! `amqps://` with an own authority and a client certificate.

use std::process::Stdio;
use std::time::Duration;

use captcha_worker::broker::ConsumeSpec;
use captcha_worker::broker::amqp::{AmqpOptions, Connector};
use captcha_worker::broker::topology::{Names, Topology};
use captcha_worker::domain::unreadable;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::security::secured::{PASSWORD, Secured};
use crate::support::fleet::{Replica, Simulator};
use crate::support::jobs;
use crate::support::raw::{Properties, RawPublisher};
use crate::{message, within};

const BINARY: &str = env!("CARGO_BIN_EXE_captcha-worker");
const NAMESPACE: &str = "captcha";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_published_over_tls_arrives_over_tls() {
    let secured = Secured::start().await;
    let connector = Connector::new(secured.options()).unwrap();
    let session = within("the session", connector.connect()).await.unwrap();
    let names = Names::new(NAMESPACE);
    within("the topology", session.link().declare(&Topology::new(&names))).await.unwrap();
    // More than one record of TLS, either way.
    let body = vec![b'x'; 300_000];
    session.publish(&names.outcomes(), "solved.x", message("a", body.clone())).await.unwrap();
    let spec = ConsumeSpec { queue: names.results(), prefetch: 1, tag: "test".to_owned() };
    let mut consumer = session.link().consume(spec).await.unwrap();
    let delivery = within("the delivery", consumer.recv()).await.unwrap();
    assert_eq!(delivery.message.body, body);
    delivery.receipt.ack().unwrap();
    // What lapin cannot read is taken out between TLS and lapin.
    let mut raw = RawPublisher::connect(secured.node.port(), "ann", PASSWORD).await;
    let odd = Properties::default().with("correlation_id", b"M\xfcller");
    raw.publish(&names.outcomes(), b"solved.x", &odd, &body).await.unwrap();
    let delivery = within("the odd one", consumer.recv()).await.unwrap();
    assert!(unreadable::fault_of(&delivery.message.properties.headers).is_some());
    assert_eq!(delivery.message.body, body);
    delivery.receipt.ack().unwrap();
    let listed = secured.node.ctl(&["-q", "list_connections", "user", "ssl", "peer_cert_subject"]);
    let ours: Vec<_> = listed.lines().filter(|line| line.starts_with("ann")).collect();
    assert!(
        // The third is the raw publisher's.
        ours.len() == 3
            && ours.iter().filter(|line| line.contains("true")).count() == 2
            && ours.iter().all(|line| !line.contains("true") || line.contains("CN=ann")),
        "{listed}"
    );
    session.link().close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_alone_logs_in_where_the_address_says_so() {
    let secured = Secured::start().await;
    let url = format!("amqps://ann@127.0.0.1:{}/%2f?auth_mechanism=external", secured.node.tls_port());
    let connector = Connector::new(AmqpOptions { url: url.into(), ..secured.options() }).unwrap();
    assert_eq!(connector.user(), "ann");
    let session = within("the session", connector.connect()).await.unwrap();
    let names = Names::new(NAMESPACE);
    within("the topology", session.link().declare(&Topology::new(&names))).await.unwrap();
    // The broker compares it with whom it has logged in.
    let mut signed = message("a", "a");
    signed.properties.user_id = Some("ann".to_owned());
    session.publish(&names.outcomes(), "solved.x", signed).await.unwrap();
    session.link().close().await;
}

/// The settings of TLS, as the environment has them.
fn settings(secured: &Secured) -> Vec<(&'static str, String)> {
    let file = |name: &str| secured.path().join(name).display().to_string();
    vec![
        ("BROKER__TLS_CA_FILE", file("ca.pem")),
        ("BROKER__TLS_CERT_FILE", file("ann.cert.pem")),
        ("BROKER__TLS_KEY_FILE", file("ann.key.pem")),
        ("OPS__LISTEN", String::new()),
    ]
}

/// A command over TLS, and what it printed.
async fn command(secured: &Secured, arguments: &[&str]) -> String {
    let settings =
        settings(secured).into_iter().map(|(key, value)| (format!("CAPTCHA_WORKER__{key}"), value));
    let running = Command::new(BINARY)
        .args(arguments)
        .current_dir(secured.path())
        .env("CAPTCHA_WORKER__BROKER__URL", secured.url())
        .envs(settings)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = within("the command", running).await.unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{arguments:?}: {out}{err}");
    out.into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_is_solved_with_every_part_of_the_program_on_tls() {
    let secured = Secured::start().await;
    let simulator = Simulator::start("balance = 1000.0\n").await;
    command(&secured, &["topology", "declare"]).await;
    let settings = settings(&secured);
    let settings: Vec<_> = settings.iter().map(|(key, value)| (*key, value.as_str())).collect();
    let url = secured.url();
    let mut replica =
        Replica { amqp: &url, namespace: NAMESPACE, simulator: &simulator, settings: &settings }.start();
    let job = secured.path().join("job.json");
    std::fs::write(&job, jobs::image("one", &json!({}))).unwrap();
    command(&secured, &["publish", job.to_str().unwrap()]).await;
    let printed =
        command(&secured, &["outcomes", "--ack", "--follow", "--limit", "1", "--format", "ndjson"]).await;
    let outcome: Value = serde_json::from_str(printed.trim()).unwrap();
    assert_eq!((&outcome["id"], &outcome["status"]), (&"one".into(), &"solved".into()), "{printed}");
    let status: Value = serde_json::from_str(&command(&secured, &["status", "--json"]).await).unwrap();
    assert_eq!(status["expected_replicas"], 1, "{status}");
    command(&secured, &["pause"]).await;
    command(&secured, &["topology", "check"]).await;
    assert_eq!(replica.terminate(Duration::from_secs(30)).await, Some(0));
}
