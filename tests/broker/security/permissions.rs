//! What each user of `deploy/rabbitmq/users.sh` may do, and what not, asked of the broker by a
//! client that is not ours.

use std::os::unix::fs::PermissionsExt;

use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueBindOptions, QueueDeclareOptions,
    QueueDeleteOptions, QueuePurgeOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, ErrorKind};

use crate::security::broker::{Broker, NAMESPACE, USERS};
use crate::within;

const ACCESS_REFUSED: u16 = 403;
const QUEUES: [&str; 9] = [
    "jobs",
    "tickets",
    "retry.5s",
    "results",
    "dead.invalid",
    "dead.raw",
    "unrouted",
    "guard",
    "dead.account",
];

/// What is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    /// To an exchange of the namespace.
    Publish(&'static str),
    /// To a queue by the default exchange.
    PublishTo(&'static str),
    Consume(&'static str),
    /// A queue that is there, as it is.
    Look(&'static str),
    /// A queue that is not there.
    Declare(&'static str),
    Bind(&'static str, &'static str),
    Purge(&'static str),
    Delete(&'static str),
}

fn acts() -> Vec<Act> {
    let mut acts: Vec<Act> = ["jobs", "outcomes", "control", "unrouted"].map(Act::Publish).into();
    acts.extend(QUEUES.map(Act::PublishTo));
    acts.extend(QUEUES.map(Act::Consume));
    acts.extend(QUEUES.map(Act::Purge));
    acts.extend(QUEUES.map(Act::Delete));
    acts.extend(["new", "results.new", "control", "control.new"].map(Act::Declare));
    acts.push(Act::Bind("jobs", "outcomes"));
    acts.push(Act::Bind("results", "outcomes"));
    acts
}

fn may(user: &str, act: Act) -> bool {
    match (user, act) {
        (_, Act::Look(_)) => true,
        ("worker", Act::PublishTo(_)) => true,
        ("worker", Act::Publish(exchange)) => matches!(exchange, "outcomes" | "control" | "unrouted"),
        ("worker", Act::Consume(queue) | Act::Purge(queue)) => matches!(queue, "jobs" | "tickets" | "guard"),
        ("publisher", Act::Publish(exchange)) => exchange == "jobs",
        ("consumer", Act::Consume(queue) | Act::Purge(queue)) => queue == "results",
        ("operator", Act::Publish(exchange)) => matches!(exchange, "jobs" | "outcomes" | "control"),
        ("operator", Act::Consume(queue) | Act::Purge(queue)) => {
            queue.starts_with("dead.") || queue == "unrouted"
        }
        _ => false,
    }
}

fn name(short: &str) -> String {
    format!("{NAMESPACE}.{short}")
}

async fn connect(url: &str) -> Connection {
    Connection::connect(url, ConnectionProperties::default()).await.expect("the user may log in")
}

/// Tries it on a channel of its own.
async fn attempt(connection: &Connection, act: Act) -> lapin::Result<()> {
    let channel = connection.create_channel().await?;
    let (none, table) = (String::new(), FieldTable::default);
    match act {
        Act::Publish(exchange) => return publish(&channel, &name(exchange), "nobody.x").await,
        Act::PublishTo(queue) => return publish(&channel, &none, &name(queue)).await,
        Act::Consume(queue) => {
            let options = BasicConsumeOptions::default();
            channel.basic_consume(name(queue).into(), "test".into(), options, table()).await?;
        }
        Act::Look(queue) => {
            let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
            channel.queue_declare(name(queue).into(), options, table()).await?;
        }
        Act::Declare(queue) => {
            channel.queue_declare(name(queue).into(), QueueDeclareOptions::default(), table()).await?;
        }
        Act::Bind(queue, exchange) => {
            let (queue, exchange) = (name(queue).into(), name(exchange).into());
            channel.queue_bind(queue, exchange, "x".into(), QueueBindOptions::default(), table()).await?;
        }
        Act::Purge(queue) => {
            channel.queue_purge(name(queue).into(), QueuePurgeOptions::default()).await?;
        }
        Act::Delete(queue) => {
            channel.queue_delete(name(queue).into(), QueueDeleteOptions::default()).await?;
        }
    }
    channel.close(200, "OK".into()).await
}

async fn publish(channel: &Channel, exchange: &str, key: &str) -> lapin::Result<()> {
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
    let confirm =
        channel.basic_publish(exchange.into(), key.into(), options, b"not a job", properties).await?.await?;
    assert!(confirm.is_ack(), "{exchange} {key}: {confirm:?}");
    channel.close(200, "OK".into()).await
}

/// Whether it was allowed; any other failure is the test's.
fn allowed(user: &str, act: Act, outcome: lapin::Result<()>) -> bool {
    let Err(error) = outcome else { return true };
    match error.kind() {
        ErrorKind::ProtocolError(reply) if reply.get_id() == ACCESS_REFUSED => false,
        other => panic!("{user} {act:?}: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_user_may_do_what_it_is_there_for_and_nothing_else() {
    let broker = Broker::with_users().await;
    // Told apart from the namespace by nothing but the dot.
    let strange = connect(&broker.url("guest:guest")).await;
    let channel = strange.create_channel().await.unwrap();
    for queue in ["lanexa.results", "lane.a.resultsx", "xlane.a.results", "lanexa.dead.raw", "lanexa.jobs"] {
        let options = QueueDeclareOptions::default();
        channel.queue_declare(queue.into(), options, FieldTable::default()).await.unwrap();
    }
    for user in USERS {
        let connection = connect(&broker.url(user)).await;
        let mut wrong = Vec::new();
        for act in acts() {
            let outcome = within("an answer", attempt(&connection, act)).await;
            if allowed(user, act, outcome) != may(user, act) {
                wrong.push(format!("{user} {act:?}: expected {}", may(user, act)));
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
        for queue in
            ["lanexa.results", "lane.a.resultsx", "xlane.a.results", "lanexa.dead.raw", "lanexa.jobs"]
        {
            let channel = connection.create_channel().await.unwrap();
            let options = BasicConsumeOptions::default();
            let refused =
                channel.basic_consume(queue.into(), "test".into(), options, FieldTable::default()).await;
            let error = refused.expect_err(queue);
            assert!(error.to_string().contains("ACCESS_REFUSED"), "{user} {queue}: {error}");
        }
    }
}

/// `queue.declare` with `passive`, by which workers and `status` read how full queues are, asks for
/// some permission on the queue from RabbitMQ 4.2.6 on, and for none before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_user_sees_how_full_the_queues_are_that_its_work_needs() {
    let broker = Broker::with_users().await;
    for user in USERS {
        let connection = connect(&broker.url(user)).await;
        let needed = |queue: &&str| match user {
            "publisher" => *queue == "jobs",
            "consumer" => *queue == "results",
            // The guard's record is the workers' own.
            "operator" => *queue != "guard",
            _ => true,
        };
        for queue in QUEUES.into_iter().filter(needed) {
            let act = Act::Look(queue);
            let outcome = within("an answer", attempt(&connection, act)).await;
            assert!(allowed(user, act, outcome), "{user} {queue}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_script_can_be_run_again_changes_passwords_and_takes_them_away() {
    let broker = Broker::with_users().await;
    broker.node.ctl(&["-q", "add_user", "other", "its own"]);
    broker.node.ctl(&["-q", "set_user_tags", "lane.a-operator", "monitoring", "policymaker"]);
    let listed = || {
        ["list_users", "list_permissions"].map(|what| {
            let listed = broker.node.ctl(&["-q", what]);
            listed.lines().map(str::to_owned).collect::<std::collections::BTreeSet<_>>()
        })
    };
    let before = listed();
    broker.users();
    assert_eq!(listed(), before, "users, their tags and their permissions stay as they are");
    broker.node.ctl(&["authenticate_user", "other", "its own"]);

    let publisher = broker.passwords().join("publisher");
    std::fs::write(&publisher, "another\n").unwrap();
    broker.users();
    let connecting = |login: &str| {
        let url = broker.node.url_as(login, "%2f");
        async move { Connection::connect(&url, ConnectionProperties::default()).await.is_ok() }
    };
    assert!(connecting("lane.a-publisher:another").await);
    assert!(!connecting("lane.a-publisher:publisher-pass%20w0rd").await);

    std::fs::remove_file(&publisher).unwrap();
    let printed = broker.script("users.sh", &[NAMESPACE, broker.passwords().to_str().unwrap()], &[]);
    assert!(printed.contains("lane.a-publisher: no password"), "{printed}");
    assert!(!connecting("lane.a-publisher:another").await);
    for arguments in [&["Lane"][..], &[], &[NAMESPACE, "/nonexistent"]] {
        assert!(!broker.try_script("users.sh", arguments, &[]).status.success(), "{arguments:?}");
    }
}

/// What stands in a command line can be read by every process of the machine.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_script_shows_no_password_in_a_command_line_or_in_what_it_prints() {
    let broker = Broker::start().await;
    let (seen, recorder) = (broker.passwords().join("seen"), broker.passwords().join("recorder"));
    let node = format!("{}/scripts/rabbitmq-node", env!("CARGO_MANIFEST_DIR"));
    let folder = broker.node.folder().display();
    let script =
        format!("#!/bin/sh\necho \"$@\" >>'{}'\nexec '{node}' ctl '{folder}' \"$@\"\n", seen.display());
    std::fs::write(&recorder, script).unwrap();
    std::fs::set_permissions(&recorder, std::fs::Permissions::from_mode(0o755)).unwrap();
    let passwords = broker.passwords().to_str().unwrap();
    let settings = [("RABBITMQCTL", recorder.to_str().unwrap())];
    let printed = broker.script("users.sh", &[NAMESPACE, passwords], &settings);
    let seen = std::fs::read_to_string(seen).unwrap();
    assert!(seen.contains("list_users") && seen.contains("import_definitions"), "{seen}");
    assert!(!seen.contains("w0rd") && !seen.contains("hash"), "{seen}");
    assert_eq!(printed, "");
    connect(&broker.url("publisher")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publisher_of_one_lane_reaches_the_queue_of_that_lane_and_nothing_else() {
    let broker = Broker::start().await;
    let session = broker.node.session().await;
    let admin = connect(&broker.url("guest:guest")).await;
    let channel = admin.create_channel().await.unwrap();
    for lane in ["bulk", "urgent"] {
        let (queue, exchange) = (name(&format!("jobs.{lane}")), name("jobs"));
        let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(queue.as_str().into(), durable, FieldTable::default()).await.unwrap();
        let (options, none) = (QueueBindOptions::default(), FieldTable::default());
        channel.queue_bind(queue.into(), exchange.into(), lane.into(), options, none).await.unwrap();
    }
    std::fs::write(broker.passwords().join("publisher-bulk"), "publisher-bulk-pass w0rd\n").unwrap();
    let passwords = broker.passwords().to_str().unwrap();
    broker.script("users.sh", &[NAMESPACE, passwords, "--publisher-lane", "bulk"], &[]);

    let connection = connect(&broker.url("publisher-bulk")).await;
    for act in acts().into_iter().filter(|act| !matches!(act, Act::Look(_))) {
        let outcome = within("an answer", attempt(&connection, act)).await;
        assert!(!allowed("publisher-bulk", act, outcome), "{act:?}");
    }
    let refused = attempt(&connection, Act::Publish("jobs.urgent")).await;
    assert!(!allowed("publisher-bulk", Act::Publish("jobs.urgent"), refused));
    // No routing key leads to another lane.
    for key in ["bulk", "urgent", "jobs", ""] {
        let channel = connection.create_channel().await.unwrap();
        within("a confirm", publish(&channel, &name("jobs.bulk"), key)).await.unwrap();
    }
    for (queue, ready) in [("jobs.bulk", 4), ("jobs.urgent", 0), ("jobs", 0)] {
        let queue = name(queue);
        within("the queue's depth", async {
            while session.link().depth(&queue).await.unwrap().ready != ready {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
    for arguments in [&["slow"][..], &["Bulk"], &[]] {
        let arguments = [&[NAMESPACE, passwords, "--publisher-lane"], arguments].concat();
        assert!(!broker.try_script("users.sh", &arguments, &[]).status.success(), "{arguments:?}");
    }
}
