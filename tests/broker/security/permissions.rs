//! What each user of `deploy/rabbitmq/users.sh` may do, and what not, asked of the broker by a
//! client that is not ours.

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
        ("worker", Act::Publish(exchange)) => matches!(exchange, "outcomes" | "control"),
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
/// no permission at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_may_log_in_may_see_how_full_a_queue_is() {
    let broker = Broker::with_users().await;
    for user in USERS {
        let connection = connect(&broker.url(user)).await;
        for queue in QUEUES {
            let act = Act::Look(queue);
            let outcome = within("an answer", attempt(&connection, act)).await;
            assert!(allowed(user, act, outcome), "{user} {queue}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_script_can_be_run_again_changes_passwords_and_takes_them_away() {
    let broker = Broker::with_users().await;
    let before = broker.node.ctl(&["-q", "list_permissions"]);
    broker.users();
    assert_eq!(broker.node.ctl(&["-q", "list_permissions"]), before);

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
