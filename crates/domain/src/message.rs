//! What surrounds a message's bytes: AMQP basic properties and headers as plain values, free of any
//! client library.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::time::Timestamp;

/// RabbitMQ's pseudo-queue for replies. A `reply_to` that begins with it belongs to one channel of
/// the publisher's.
pub const DIRECT_REPLY: &str = "amq.rabbitmq.reply-to";

/// Whether this is an address of RabbitMQ's direct reply-to.
#[must_use]
pub fn is_direct_reply(reply_to: &str) -> bool {
    reply_to.strip_prefix(DIRECT_REPLY).is_some_and(|token| token.starts_with('.'))
}

/// A header value: the field types of AMQP 0-9-1 that RabbitMQ carries, widened where the width
/// says nothing (all integers are `Int`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Value {
    /// No value.
    Null,
    /// A boolean.
    Bool(bool),
    /// Any integer type of AMQP.
    Int(i64),
    /// Either float type of AMQP.
    Double(#[serde(with = "float_bits")] f64),
    /// A decimal, as (scale, unscaled value).
    Decimal(u8, u32),
    /// Seconds since the Unix epoch.
    Timestamp(u64),
    /// A string that is UTF-8.
    Text(String),
    /// A string or byte array that need not be UTF-8.
    Bytes(Vec<u8>),
    /// An array.
    Array(Vec<Value>),
    /// A nested table.
    Table(Headers),
}

/// JSON has no word for what is not a finite number.
mod float_bits {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(number: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(number.to_bits())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        u64::deserialize(deserializer).map(f64::from_bits)
    }
}

impl Value {
    /// The text, where this is text.
    #[must_use]
    pub fn into_text(self) -> Option<String> {
        match self {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The text, where this is text.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// About how many bytes headers take on the wire; never less than they do.
#[must_use]
pub fn wire_size(headers: &Headers) -> usize {
    headers.iter().map(|(name, value)| name.len() + 2 + value.wire_size()).sum()
}

impl Value {
    fn wire_size(&self) -> usize {
        match self {
            Value::Null
            | Value::Bool(_)
            | Value::Int(_)
            | Value::Double(_)
            | Value::Decimal(..)
            | Value::Timestamp(_) => 9,
            Value::Text(text) => text.len() + 5,
            Value::Bytes(bytes) => bytes.len() + 5,
            Value::Array(values) => 5 + values.iter().map(Value::wire_size).sum::<usize>(),
            Value::Table(table) => 5 + wire_size(table),
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Value::Text(text)
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Value::Int(number)
    }
}

/// A table of headers, ordered by name.
pub type Headers = BTreeMap<String, Value>;

/// The basic properties of a message. Delivery mode is not among them: everything durable is
/// published persistent, see [`Message::transient`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Properties {
    /// MIME type of the body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// Encoding of the body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_encoding: Option<String>,
    /// Publisher's headers and the worker's own.
    #[serde(skip_serializing_if = "Headers::is_empty")]
    pub headers: Headers,
    /// 0 to 255.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<u8>,
    /// Echoed to the outcome.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    /// Where a copy of the outcome is wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<String>,
    /// Milliseconds, as a decimal string. Belongs to one hop, so it is dropped when a message is
    /// republished.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expiration: Option<String>,
    /// At most 255 bytes (an AMQP short string).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    /// Seconds since the Unix epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<u64>,
    /// AMQP's `type`: the contract's name and version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Verified by the broker where set. Another user's republishing with it would be refused, so
    /// it is dropped there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_id: Option<String>,
    /// The publishing application.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_id: Option<String>,
}

impl Properties {
    /// When the message was published, as its publisher says: to the second.
    #[must_use]
    pub fn published_at(&self) -> Option<Timestamp> {
        let millis = self.timestamp?.checked_mul(1_000)?;
        i64::try_from(millis).ok().map(Timestamp::from_millis)
    }
}

/// Bytes with their properties: what is published and what is delivered. A body can hold a
/// publisher's proxy password, so `Debug` shows its length alone.
#[derive(Clone, Default, PartialEq)]
pub struct Message {
    /// The body, verbatim. Clones share it: a job's bytes are held once, whatever they are on their
    /// way into.
    pub body: Bytes,
    /// Its properties.
    pub properties: Properties,
    /// Not written to disk (delivery mode 1). Only copies that nobody relies on are.
    pub transient: bool,
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = format_args!("{} bytes", self.body.len());
        f.debug_struct("Message")
            .field("body", &body)
            .field("properties", &self.properties)
            .field("transient", &self.transient)
            .finish()
    }
}
