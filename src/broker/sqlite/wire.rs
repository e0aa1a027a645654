//! What passes over the socket between a process and the one that has the file: frames of a JSON
//! head and a message's body as it is.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufWriter};
use tokio::sync::mpsc;

use crate::broker::topology::{Mismatch, Topology};
use crate::broker::{BrokerError, Lease, PublishError, QueueDepth};
use crate::domain::message::{Message, Properties};

/// Raised where either side could not understand the other.
pub(super) const VERSION: u32 = 2;
/// Longest head, in bytes: headers of a message, or a topology.
const MAX_HEAD: u32 = 16 << 20;
/// Longest body, in bytes: RabbitMQ's own bound.
const MAX_BODY: u32 = 128 << 20;
/// Frames that wait for the socket.
pub(super) const DEPTH: usize = 256;

/// Between two pings of a client. Like the round trips to RabbitMQ: three in a row may be late
/// before a lease runs out.
pub(super) fn ping_every(heartbeat: Duration) -> Duration {
    (heartbeat / 2).min(Lease::SPAN / 4)
}

/// Either side counts as gone when it has sent nothing for so long. Longer than any lease.
pub(super) fn most_silence(heartbeat: Duration) -> Duration {
    2 * heartbeat
}

/// From the client. `n` is its number for the answer, and for the consumer that is made.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
#[expect(clippy::large_enum_variant, reason = "most are messages")]
pub(super) enum Request {
    Hello {
        version: u32,
        connection: String,
        /// What the client is set to. Clients of version 1 do not send it.
        #[serde(default)]
        heartbeat_ms: u64,
    },
    /// Answered at once, whatever else is under way. `at` counts milliseconds of the client's own.
    Ping {
        at: u64,
    },
    /// With the message's body.
    Publish {
        n: u64,
        exchange: String,
        routing_key: String,
        mandatory: bool,
        /// By its name on the wire.
        #[serde(rename = "soon")]
        may_batch: bool,
        envelope: Envelope,
    },
    Consume {
        n: u64,
        queue: String,
        prefetch: u16,
        tag: String,
    },
    Subscribe {
        n: u64,
        exchange: String,
    },
    /// Replies arrive as deliveries that need no settlement.
    Replies {
        n: u64,
    },
    Get {
        n: u64,
        queue: String,
    },
    Declare {
        n: u64,
        topology: Topology,
    },
    Check {
        n: u64,
        topology: Topology,
    },
    Depth {
        n: u64,
        queue: String,
    },
    Settle {
        consumer: u64,
        tag: u64,
        how: How,
    },
    /// A consumer's own call.
    Consumer {
        n: u64,
        consumer: u64,
        call: ConsumerCall,
    },
    /// Nobody reads what the consumer delivers any more.
    Drop {
        consumer: u64,
    },
    /// Nor can settle what it has delivered: that goes back.
    Forget {
        consumer: u64,
    },
    Close {
        n: u64,
    },
}

/// What becomes of a delivery.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum How {
    Ack,
    Requeue,
    Reject,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ConsumerCall {
    Cancel,
    Flush,
    Close,
    Forget,
}

/// A message without its body.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Envelope {
    properties: Properties,
    transient: bool,
}

impl Envelope {
    pub(super) fn of(message: &Message) -> (Self, Bytes) {
        let envelope = Self { properties: message.properties.clone(), transient: message.transient };
        (envelope, message.body.clone())
    }

    pub(super) fn with(self, body: Bytes) -> Message {
        Message { body, properties: self.properties, transient: self.transient }
    }
}

/// From the process that has the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
#[expect(clippy::large_enum_variant, reason = "most are messages")]
pub(super) enum Response {
    Welcome,
    Refused {
        reason: String,
        /// As long as either side runs its version.
        for_good: bool,
    },
    Pong {
        at: u64,
    },
    Answer {
        n: u64,
        answer: Result<CallResult, WireError>,
    },
    Published {
        n: u64,
        fate: Result<(), PublishError>,
    },
    /// With the message's body.
    Delivered {
        consumer: u64,
        tag: u64,
        redelivered: bool,
        routing_key: String,
        envelope: Envelope,
    },
    ConsumerEnded {
        consumer: u64,
    },
    Ended {
        reason: String,
    },
}

/// A call's good end.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum CallResult {
    Done,
    /// The queue is empty.
    Nothing,
    /// Where replies go.
    ReplyTo(String),
    Depth {
        ready: u64,
        consumers: u64,
    },
    /// Kind, name and problem of each.
    Mismatches(Vec<(String, String, String)>),
}

impl CallResult {
    pub(super) fn depth(depth: QueueDepth) -> Self {
        CallResult::Depth { ready: depth.ready, consumers: depth.consumers }
    }

    pub(super) fn mismatches(found: Vec<Mismatch>) -> Self {
        let parts = |one: Mismatch| (one.kind.to_owned(), one.name, one.problem);
        CallResult::Mismatches(found.into_iter().map(parts).collect())
    }
}

/// A broker's error that can cross the socket.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum WireError {
    Missing { kind: String, name: String },
    Mismatch { kind: String, name: String, detail: String },
    Forbidden(String),
    Lost(String),
}

impl From<BrokerError> for WireError {
    fn from(error: BrokerError) -> Self {
        match error {
            BrokerError::Missing { kind, name } => WireError::Missing { kind: kind.to_owned(), name },
            BrokerError::Mismatch { kind, name, detail } => {
                WireError::Mismatch { kind: kind.to_owned(), name, detail }
            }
            BrokerError::Forbidden(reason) => WireError::Forbidden(reason),
            BrokerError::Lost(reason) => WireError::Lost(reason),
            other => WireError::Lost(other.to_string()),
        }
    }
}

impl From<WireError> for BrokerError {
    fn from(error: WireError) -> Self {
        match error {
            WireError::Missing { kind, name } => BrokerError::Missing { kind: kind_of(&kind), name },
            WireError::Mismatch { kind, name, detail } => {
                BrokerError::Mismatch { kind: kind_of(&kind), name, detail }
            }
            WireError::Forbidden(reason) => BrokerError::Forbidden(reason),
            WireError::Lost(reason) => BrokerError::Lost(reason),
        }
    }
}

pub(super) fn kind_of(text: &str) -> &'static str {
    match text {
        "exchange" => "exchange",
        "binding" => "binding",
        _ => "queue",
    }
}

/// One frame on its way out.
#[derive(Debug)]
pub(super) struct Frame {
    head: Vec<u8>,
    body: Bytes,
}

impl Frame {
    pub(super) fn new(head: &impl Serialize, body: Bytes) -> io::Result<Self> {
        Ok(Self { head: serde_json::to_vec(head)?, body })
    }
}

/// Writes frames until nobody sends any more; those that wait already go out together.
pub(super) async fn write_frames(
    socket: impl AsyncWrite + Unpin,
    mut frames: mpsc::Receiver<Frame>,
) -> io::Result<()> {
    let mut socket = BufWriter::with_capacity(64 << 10, socket);
    while let Some(frame) = frames.recv().await {
        let too_long = |_| io::Error::from(io::ErrorKind::FileTooLarge);
        socket.write_u32(u32::try_from(frame.head.len()).map_err(too_long)?).await?;
        socket.write_u32(u32::try_from(frame.body.len()).map_err(too_long)?).await?;
        socket.write_all(&frame.head).await?;
        socket.write_all(&frame.body).await?;
        if frames.is_empty() {
            socket.flush().await?;
        }
    }
    socket.flush().await
}

/// The next frame; `None` at the end.
pub(super) async fn read_frame<T: DeserializeOwned>(
    socket: &mut (impl AsyncRead + Unpin),
) -> io::Result<Option<(T, Bytes)>> {
    let head = match socket.read_u32().await {
        Ok(head) => head,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    let body = socket.read_u32().await?;
    if head > MAX_HEAD || body > MAX_BODY {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame is too long"));
    }
    let head = read_exactly(socket, head).await?;
    let body = read_exactly(socket, body).await?;
    Ok(Some((serde_json::from_slice(&head)?, body.into())))
}

/// Takes memory as the bytes arrive, not as the length promises.
async fn read_exactly(socket: &mut (impl AsyncRead + Unpin), length: u32) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(usize::try_from(length.min(64 << 10)).unwrap_or_default());
    socket.take(u64::from(length)).read_to_end(&mut bytes).await?;
    if bytes.len() as u64 == u64::from(length) { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}
