//! A job that is neither confirmed nor refused.

use std::process::Output;
use std::time::Duration;

use tokio::time::{Instant, interval};

use crate::examples::client::{Address, Client, TIMEOUT, picture};
use crate::support::cluster::Cluster;
use crate::support::fleet::declare;
use crate::support::rabbit::fresh_namespace;

const CLIENTS: [Client; 3] = [Client::Pika, Client::AioPika, Client::Amqplib];
const PROGRAMS: [&str; 2] = ["publish", "request"];
/// Bytes: far more than a log-in takes.
const PICTURE: usize = 30_000;

/// A queue without a majority keeps what comes, confirms nothing, and leaves the connection alone.
/// On one thread the programs would not even start while rabbitmqctl is waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_job_that_is_not_confirmed_it_is_said_that_nobody_knows() {
    let mut cluster = Cluster::start(2).await;
    let (amqp, namespace) = (cluster.nodes[0].url(), fresh_namespace());
    declare(&amqp, &namespace).await;
    cluster.nodes[1].kill();
    let address = Address { amqp: &amqp, namespace: &namespace };
    let picture = picture(PICTURE);
    let arguments = [picture.path().to_str().expect("UTF-8")];
    let all = || CLIENTS.into_iter().flat_map(|client| PROGRAMS.map(|name| (client, name)));

    let start = |seconds: &str| -> Vec<_> {
        all()
            .map(|(client, name)| {
                let program =
                    client.program(name, &address, &arguments).with("CAPTCHA_CONFIRM_SECONDS", seconds);
                (client, name, tokio::spawn(program.end()))
            })
            .collect()
    };
    for (client, name, ended) in start("2") {
        nobody_knows(client, name, &ended.await.expect("no panic"));
    }

    let waiting = start("600");
    let deadline = Instant::now() + TIMEOUT;
    // Each look starts an Erlang of its own.
    let mut looks = interval(Duration::from_secs(1));
    while published(&cluster) < waiting.len() {
        looks.tick().await;
        assert!(Instant::now() < deadline, "not all have published");
    }
    cluster.nodes[0].kill();
    for (client, name, ended) in waiting {
        nobody_knows(client, name, &ended.await.expect("no panic"));
    }
}

/// Connections that have published. Their channels cannot be asked: they wait for the queue.
fn published(cluster: &Cluster) -> usize {
    let listed = cluster.nodes[0].ctl(&["list_connections", "--silent", "recv_oct"]);
    let received = listed.lines().filter_map(|line| line.trim().parse::<usize>().ok());
    received.filter(|bytes| *bytes > PICTURE).count()
}

fn nobody_knows(client: Client, name: &str, ended: &Output) {
    let stderr = String::from_utf8_lossy(&ended.stderr);
    let code = if matches!((client, name), (Client::AioPika, "request")) { 4 } else { 1 };
    assert_eq!(ended.status.code(), Some(code), "{client:?} {name}: {stderr}");
    let wanted = ["not known whether the broker has job ", "under the same id"];
    assert!(wanted.iter().all(|words| stderr.contains(words)), "{client:?} {name}: {stderr}");
    assert!(ended.stdout.is_empty(), "{client:?} {name}");
}
