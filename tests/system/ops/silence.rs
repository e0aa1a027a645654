//! Who connects and says nothing.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::ops::Solvent;
use crate::ops::readiness::wait_for_readyz;
use crate::ops::scene::Scene;

/// Whether the server ends this connection within so many seconds, having said nothing that
/// matters.
async fn is_ended(connection: &mut TcpStream, seconds: u64) -> bool {
    let mut rest = Vec::new();
    timeout(Duration::from_secs(seconds), connection.read_to_end(&mut rest)).await.is_ok()
}

#[tokio::test]
async fn hundreds_who_say_nothing_keep_nobody_from_an_answer_and_are_shown_out() {
    let scene = Scene::start(Arc::new(Solvent), None).await;
    wait_for_readyz(&scene.url, "it is ready", |reply| reply.0 == 200).await;
    let address = scene.url.strip_prefix("http://").expect("a plain address");
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(TcpStream::connect(address).await.expect("a connection"));
    }
    let health = timeout(Duration::from_secs(4), reqwest::get(format!("{}/healthz", scene.url)));
    assert_eq!(
        health.await.expect("before any of them is shown out for its silence").expect("an answer").status(),
        200
    );
    assert!(is_ended(&mut silent[0], 4).await, "the oldest has made room");
    assert!(is_ended(&mut silent[199], 14).await, "the latest has had its time");
}
