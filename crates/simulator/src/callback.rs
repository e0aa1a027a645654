//! The callbacks: one POST to the address that createTask names, once the task is ready, whose
//! answer nobody reads.
//!
//! Who sends them is set from outside: on paused time a test's own hook, over HTTP [`send`].

use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

/// A callback that is not sent within this time is dropped.
const TIMEOUT: Duration = Duration::from_secs(2);

/// A callback that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Callback {
    /// The address that createTask named, as it was named.
    pub url: String,
    /// As getTaskResult's answer, with the task's id or without it.
    pub body: Bytes,
}

/// A callback on its way.
#[derive(Debug)]
pub(super) struct PlannedCallback {
    pub(super) due: Instant,
    pub(super) callback: Callback,
    pub(super) times: u32,
}

/// The host and port of a plain http address, and the path.
fn parts(url: &str) -> Option<(&str, &str)> {
    let rest = url.strip_prefix("http://")?;
    let slash = rest.find('/').unwrap_or(rest.len());
    let (host, path) = rest.split_at(slash);
    (!host.is_empty()).then_some((host, if path.is_empty() { "/" } else { path }))
}

/// Sends a callback; whether anybody answered it. The stand-in has no TLS.
pub(super) async fn send(callback: &Callback) -> bool {
    let Some((host, path)) = parts(&callback.url) else { return false };
    let address = if host.rsplit(']').next().is_some_and(|end| end.contains(':')) {
        host.to_owned()
    } else {
        format!("{host}:80")
    };
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        callback.body.len()
    );
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        stream.write_all(&[head.as_bytes(), &callback.body].concat()).await?;
        let mut status = [0; 12];
        stream.read_exact(&mut status).await
    };
    timeout(TIMEOUT, exchange).await.is_ok_and(|read| read.is_ok())
}
