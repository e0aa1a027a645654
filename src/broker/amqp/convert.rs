//! Messages ⇄ what lapin puts on the wire.
//!
//! Coming in, everything lapin can read has a place, so nothing is lost. Going out, only what AMQP
//! itself cannot hold is refused: a short string over 255 bytes. Integers go out as 64-bit whatever
//! width they arrived with.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, ByteArray, DecimalValue, FieldArray, FieldTable, ShortString};

use crate::domain::message::{Headers, Message, Properties, Value};

const TRANSIENT: u8 = 1;
const PERSISTENT: u8 = 2;

/// A text that is too long for the AMQP field it belongs in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {length} bytes long; AMQP allows 255")]
pub(super) struct TooLong {
    field: &'static str,
    length: usize,
}

/// An AMQP short string, or the name of the field it is too long for.
pub(super) fn short(field: &'static str, text: &str) -> Result<ShortString, TooLong> {
    ShortString::try_new(text).map_err(|_| TooLong { field, length: text.len() })
}

/// Properties as they go out, with the delivery mode that the message asks for.
pub(super) fn to_wire(message: &Message) -> Result<BasicProperties, TooLong> {
    let from = &message.properties;
    let mut to =
        BasicProperties::default().with_delivery_mode(if message.transient { TRANSIENT } else { PERSISTENT });
    if !from.headers.is_empty() {
        to = to.with_headers(table_to_wire(&from.headers)?);
    }
    if let Some(priority) = from.priority {
        to = to.with_priority(priority);
    }
    if let Some(timestamp) = from.timestamp {
        to = to.with_timestamp(timestamp);
    }
    type Set = fn(BasicProperties, ShortString) -> BasicProperties;
    let texts: [(&'static str, &Option<String>, Set); 9] = [
        ("content_type", &from.content_type, BasicProperties::with_content_type),
        ("content_encoding", &from.content_encoding, BasicProperties::with_content_encoding),
        ("correlation_id", &from.correlation_id, BasicProperties::with_correlation_id),
        ("reply_to", &from.reply_to, BasicProperties::with_reply_to),
        ("expiration", &from.expiration, BasicProperties::with_expiration),
        ("message_id", &from.message_id, BasicProperties::with_message_id),
        ("type", &from.kind, BasicProperties::with_type),
        ("user_id", &from.user_id, BasicProperties::with_user_id),
        ("app_id", &from.app_id, BasicProperties::with_app_id),
    ];
    for (field, text, set) in texts {
        if let Some(text) = text {
            to = set(to, short(field, text)?);
        }
    }
    Ok(to)
}

/// A message as it arrived. Without a delivery mode it is not taken for transient, so that a copy
/// of it is never less durable than it was.
pub(super) fn from_wire(body: Vec<u8>, properties: &BasicProperties) -> Message {
    let text = |field: &Option<ShortString>| field.as_ref().map(|text| text.as_str().to_owned());
    Message {
        body: body.into(),
        properties: Properties {
            content_type: text(properties.content_type()),
            content_encoding: text(properties.content_encoding()),
            headers: properties.headers().as_ref().map(table_from_wire).unwrap_or_default(),
            priority: *properties.priority(),
            correlation_id: text(properties.correlation_id()),
            reply_to: text(properties.reply_to()),
            expiration: text(properties.expiration()),
            message_id: text(properties.message_id()),
            timestamp: *properties.timestamp(),
            kind: text(properties.kind()),
            user_id: text(properties.user_id()),
            app_id: text(properties.app_id()),
        },
        transient: *properties.delivery_mode() == Some(TRANSIENT),
    }
}

/// A table as it goes out: headers, or the arguments of a queue or exchange.
pub(super) fn table_to_wire(table: &Headers) -> Result<FieldTable, TooLong> {
    let mut wire = FieldTable::default();
    for (name, value) in table {
        wire.insert(short("a header's name", name)?, value_to_wire(value)?);
    }
    Ok(wire)
}

fn value_to_wire(value: &Value) -> Result<AMQPValue, TooLong> {
    Ok(match value {
        Value::Null => AMQPValue::Void,
        Value::Bool(value) => AMQPValue::Boolean(*value),
        Value::Int(value) => AMQPValue::LongLongInt(*value),
        Value::Double(value) => AMQPValue::Double(*value),
        Value::Decimal(scale, value) => {
            AMQPValue::DecimalValue(DecimalValue { scale: *scale, value: *value })
        }
        Value::Timestamp(seconds) => AMQPValue::Timestamp(*seconds),
        Value::Text(text) => AMQPValue::LongString(text.as_str().into()),
        Value::Bytes(bytes) => AMQPValue::ByteArray(ByteArray::from(bytes.as_slice())),
        Value::Array(values) => {
            let values = values.iter().map(value_to_wire).collect::<Result<Vec<_>, _>>()?;
            AMQPValue::FieldArray(FieldArray::from(values))
        }
        Value::Table(table) => AMQPValue::FieldTable(table_to_wire(table)?),
    })
}

fn table_from_wire(table: &FieldTable) -> Headers {
    table.into_iter().map(|(name, value)| (name.as_str().to_owned(), value_from_wire(value))).collect()
}

fn value_from_wire(value: &AMQPValue) -> Value {
    match value {
        AMQPValue::Void => Value::Null,
        AMQPValue::Boolean(value) => Value::Bool(*value),
        AMQPValue::ShortShortInt(value) => Value::Int((*value).into()),
        AMQPValue::ShortShortUInt(value) => Value::Int((*value).into()),
        AMQPValue::ShortInt(value) => Value::Int((*value).into()),
        AMQPValue::ShortUInt(value) => Value::Int((*value).into()),
        AMQPValue::LongInt(value) => Value::Int((*value).into()),
        AMQPValue::LongUInt(value) => Value::Int((*value).into()),
        AMQPValue::LongLongInt(value) => Value::Int(*value),
        AMQPValue::Float(value) => Value::Double((*value).into()),
        AMQPValue::Double(value) => Value::Double(*value),
        AMQPValue::DecimalValue(value) => Value::Decimal(value.scale, value.value),
        AMQPValue::Timestamp(seconds) => Value::Timestamp(*seconds),
        AMQPValue::ShortString(text) => Value::Text(text.as_str().to_owned()),
        AMQPValue::LongString(text) => match std::str::from_utf8(text.as_bytes()) {
            Ok(text) => Value::Text(text.to_owned()),
            Err(_) => Value::Bytes(text.as_bytes().to_vec()),
        },
        AMQPValue::ByteArray(bytes) => Value::Bytes(bytes.as_slice().to_vec()),
        AMQPValue::FieldArray(values) => {
            Value::Array(values.as_slice().iter().map(value_from_wire).collect())
        }
        AMQPValue::FieldTable(table) => Value::Table(table_from_wire(table)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            any::<i64>().prop_map(Value::Int),
            (-1e12..1e12).prop_map(Value::Double),
            (any::<u8>(), any::<u32>()).prop_map(|(scale, value)| Value::Decimal(scale, value)),
            any::<u64>().prop_map(Value::Timestamp),
            ".{0,300}".prop_map(Value::Text),
            proptest::collection::vec(any::<u8>(), 0..40).prop_map(Value::Bytes),
        ];
        leaf.prop_recursive(3, 20, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
                proptest::collection::btree_map("[a-z-]{1,20}", inner, 0..4).prop_map(Value::Table),
            ]
        })
    }

    fn text() -> impl Strategy<Value = Option<String>> {
        proptest::option::of("[ -~]{0,255}")
    }

    prop_compose! {
        fn message()(
            body in proptest::collection::vec(any::<u8>(), 0..40),
            transient in any::<bool>(),
            headers in proptest::collection::btree_map("[a-z-]{1,20}", value(), 0..5),
            (content_type, content_encoding, correlation_id) in (text(), text(), text()),
            (reply_to, expiration, message_id) in (text(), text(), text()),
            (kind, user_id, app_id) in (text(), text(), text()),
            (priority, timestamp) in (any::<Option<u8>>(), any::<Option<u64>>()),
        ) -> Message {
            Message {
                body: body.into(),
                transient,
                properties: Properties {
                    content_type, content_encoding, headers, priority, correlation_id, reply_to,
                    expiration, message_id, timestamp, kind, user_id, app_id,
                },
            }
        }
    }

    proptest! {
        #[test]
        fn every_message_comes_back_as_it_went(message in message()) {
            let wire = to_wire(&message).unwrap();
            prop_assert_eq!(from_wire(message.body.to_vec(), &wire), message);
        }
    }

    #[test]
    fn publishers_integers_of_any_width_are_widened() {
        let wide = |value: AMQPValue| value_from_wire(&value);
        assert_eq!(wide(AMQPValue::ShortShortInt(-1)), Value::Int(-1));
        assert_eq!(wide(AMQPValue::ShortShortUInt(255)), Value::Int(255));
        assert_eq!(wide(AMQPValue::ShortUInt(65_535)), Value::Int(65_535));
        assert_eq!(wide(AMQPValue::LongUInt(u32::MAX)), Value::Int(4_294_967_295));
        assert_eq!(wide(AMQPValue::LongLongInt(i64::MIN)), Value::Int(i64::MIN));
    }

    #[test]
    fn a_string_that_is_not_utf8_stays_bytes() {
        let wire = AMQPValue::LongString(vec![0xff, 0xfe].into());
        assert_eq!(value_from_wire(&wire), Value::Bytes(vec![0xff, 0xfe]));
    }

    #[test]
    fn a_timestamp_past_the_range_of_signed_integers_survives() {
        let wire = value_to_wire(&Value::Timestamp(u64::MAX)).unwrap();
        assert_eq!(value_from_wire(&wire), Value::Timestamp(u64::MAX));
    }

    #[test]
    fn what_amqp_cannot_hold_is_refused_by_the_fields_name() {
        let message = Message {
            properties: Properties { message_id: Some("x".repeat(256)), ..Properties::default() },
            ..Message::default()
        };
        assert_eq!(
            to_wire(&message).unwrap_err().to_string(),
            "message_id is 256 bytes long; AMQP allows 255"
        );
    }

    #[test]
    fn messages_are_persistent_unless_they_ask_not_to_be() {
        let mode =
            |transient| *to_wire(&Message { transient, ..Message::default() }).unwrap().delivery_mode();
        assert_eq!(mode(false), Some(2));
        assert_eq!(mode(true), Some(1));
        assert!(!from_wire(Vec::new(), &BasicProperties::default()).transient);
    }
}
