//! One AMQP connection: made within a bounded time, watched until it ends, never repaired.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use lapin::tcp::{AMQPUriTcpExt, RustlsConnector};
use lapin::uri::AMQPScheme;
use lapin::{AsyncTcpStream, Channel, Connection, ConnectionProperties, Event};
use rustls::ClientConfig;
use rustls::client::ResolvesClientCert;
use rustls::sign::SingleCertAndKey;
use rustls_platform_verifier::BuilderVerifierExt;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use super::endpoint::{AmqpOptions, Endpoint, LEAST_FRAME};
use super::fault::{call, from_handshake, unreachable_because};
use super::filter::FrameMax;
use super::filter::stream::{self, FilteredStream};
use crate::broker::{BrokerError, CloseSignal};
use crate::tls::{Tls, TlsFiles};

/// How often a connection is checked, beside the events it raises: a close with a non-error code
/// raises none.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// Opens a connection. `role` distinguishes a session's two connections in the broker's tools.
pub(super) async fn open(
    endpoint: &Endpoint,
    options: &AmqpOptions,
    role: &str,
) -> Result<Connection, BrokerError> {
    let max_wait = options.connect_timeout;
    let opening = async {
        let tls = if endpoint.is_tls() { Some(tls_connector(&options.tls).await) } else { None };
        let tls = tls.transpose().map_err(|reason| unreachable_because(endpoint, reason))?;
        let frame_max = FrameMax::default();
        let opened = handshake(endpoint, options, role, tls, frame_max.clone()).await;
        let connection = opened.map_err(|error| from_handshake(&error, endpoint))?;
        let negotiated = connection.configuration().frame_max();
        if negotiated < LEAST_FRAME {
            close(&connection, max_wait).await;
            let reason = format!(
                "its frame_max is {negotiated} bytes, and a ticket's properties may take {LEAST_FRAME}; RabbitMQ's default is 131072"
            );
            return Err(BrokerError::Unfit { address: endpoint.address(), reason });
        }
        // Nothing is consumed before this.
        frame_max.set(negotiated);
        Ok(connection)
    };
    match timeout(max_wait, opening).await {
        Ok(opened) => opened,
        Err(_) => Err(unreachable_because(endpoint, format!("no AMQP answer within {max_wait:?}"))),
    }
}

async fn handshake(
    endpoint: &Endpoint,
    options: &AmqpOptions,
    role: &str,
    tls: Option<RustlsConnector>,
    frame_max: FrameMax,
) -> lapin::Result<Connection> {
    let name = format!("{} ({role})", options.connection_name);
    // lapin's recovery stays off: with it, a consumer whose channel the broker closed waits for
    // ever after its error, and a dead socket with unsent data is never noticed.
    let properties = ConnectionProperties::default()
        .with_connection_name(name.into())
        .with_client_property("product".into(), env!("CARGO_PKG_NAME").into())
        .with_client_property("version".into(), env!("CARGO_PKG_VERSION").into());
    let max_wait = options.connect_timeout;
    let tcp = lapin::runtime::default_runtime()?;
    Connection::connector(
        endpoint.uri(),
        stream::runtime(),
        // Bounded here too: this part runs on a thread of lapin's own, which an abandoned attempt
        // would keep for minutes.
        async move |mut uri, _| {
            let connecting = async {
                // TLS follows, by our own rules and not lapin's.
                uri.scheme = AMQPScheme::AMQP;
                let plain = uri.connect_async(&tcp).await?;
                let stream = match &tls {
                    Some(tls) => plain.into_rustls(tls, &uri.authority.host).await?,
                    None => plain,
                };
                Ok::<_, io::Error>(AsyncTcpStream::Plain(FilteredStream::new(stream, frame_max.clone())))
            };
            match timeout(max_wait, connecting).await {
                Ok(stream) => stream.map_err(lapin::Error::from),
                Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
            }
        },
        properties,
    )
    .await
}

/// Ends the session when the connection ends, whatever ends it, a peer that has gone silent
/// included.
pub(super) fn watch(connection: &Connection, role: &'static str, lifetime: &SessionLifetime) {
    let mut events = connection.events_listener();
    let status = connection.status().clone();
    let close_signal = lifetime.close_signal();
    let lifetime = lifetime.clone();
    tokio::spawn(async move {
        let mut ticks = interval(CHECK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                _ = ticks.tick() => None,
                _ = close_signal.ended() => return,
            };
            match event {
                // Events report a dead channel too, which is that channel owner's business.
                Some(Event::Error(error)) if !status.connected() => {
                    lifetime.end(&format!("{role} connection: {error}"));
                }
                Some(Event::ConnectionBlocked(reason)) => {
                    warn!(role, reason, "the broker blocks publishing");
                }
                Some(Event::ConnectionUnblocked) => info!(role, "the broker accepts publishes again"),
                _ if !status.connected() => lifetime.end(&format!("{role} connection closed")),
                _ => {}
            }
        }
    });
}

/// A channel of its own on a connection.
pub(super) async fn channel(connection: &Connection, max_wait: Duration) -> Result<Channel, BrokerError> {
    call("channel.open", max_wait, connection.create_channel()).await
}

/// Closes a connection, or gives up: a blocked one does not even take the request to close.
pub(super) async fn close(connection: &Connection, max_wait: Duration) {
    if connection.status().connected() {
        let _ = timeout(max_wait, connection.close(200, "OK".into())).await;
    }
}

/// Shared by everything that belongs to a session.
#[derive(Debug, Clone, Default)]
pub(super) struct SessionLifetime {
    close_signal: CloseSignal,
    owners: TaskTracker,
}

impl SessionLifetime {
    /// Ends it; the first reason stands.
    pub(super) fn end(&self, reason: &str) {
        self.close_signal.end(reason);
    }

    /// The owners of the session's channels, so that closing can wait for what they still have to
    /// carry out.
    pub(super) fn owners(&self) -> &TaskTracker {
        &self.owners
    }

    pub(super) fn close_signal(&self) -> CloseSignal {
        self.close_signal.clone()
    }
}

/// Reads the files and makes what connects by them.
///
/// # Errors
/// Where a file cannot be used by now, or the system has no authorities.
async fn tls_connector(files: &TlsFiles) -> Result<RustlsConnector, String> {
    let files = files.clone();
    // The system's authorities are files as well.
    let making = tokio::task::spawn_blocking(move || {
        let tls = files.read().map_err(|fault| fault.to_string())?;
        tls_client(tls).map_err(|error| format!("TLS cannot be set up: {error}"))
    });
    let config = making.await.map_err(|error| format!("TLS cannot be set up: {error}"))??;
    Ok(RustlsConnector::from(config))
}

fn tls_client(tls: Tls) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let builder = match tls.roots {
        Some(roots) => builder.with_root_certificates(roots),
        None => builder.with_platform_verifier()?,
    };
    Ok(match tls.identity {
        Some(identity) => {
            let resolver: Arc<dyn ResolvesClientCert> = Arc::new(SingleCertAndKey::from(identity));
            builder.with_client_cert_resolver(resolver)
        }
        None => builder.with_no_client_auth(),
    })
}
