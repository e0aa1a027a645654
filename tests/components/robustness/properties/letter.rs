//! Inputs in a form that a person can write, and that stays meaningful under a fuzzer's cuts and
//! swaps.
//!
//! Lines of `name: value` until an empty line, then the body: any bytes. Where there is no empty
//! line, all of it is the body. Every input is a letter.

use captcha_worker::domain::message::{Headers, Message, Properties, Value};

/// Names and values, and a body.
pub(crate) struct DeadLetter<'a> {
    lines: Vec<(&'a [u8], &'a [u8])>,
    pub(crate) body: &'a [u8],
}

/// Levels that a header's arrays may nest: no frame holds more, and the wire's reader has its own
/// bound.
const MAX_NESTING: usize = 1_000;

impl<'a> DeadLetter<'a> {
    /// Reads any bytes.
    pub(crate) fn read(input: &'a [u8]) -> Self {
        let Some((head, body)) = parted(input) else {
            return Self { lines: Vec::new(), body: input };
        };
        let lines = head.split(|byte| *byte == b'\n').filter_map(|line| {
            let colon = line.iter().position(|byte| *byte == b':')?;
            let (name, value) = (&line[..colon], &line[colon + 1..]);
            Some((name, value.strip_prefix(b" ").unwrap_or(value)))
        });
        Self { lines: lines.collect(), body }
    }

    /// The value of a name, as text.
    pub(crate) fn text(&self, name: &str) -> Option<&'a str> {
        let (_, value) = self.lines.iter().find(|(known, _)| *known == name.as_bytes())?;
        std::str::from_utf8(value).ok()
    }

    /// The letter as a delivery. Names of AMQP's properties are these, all others are headers.
    pub(crate) fn message(&self) -> Message {
        let mut properties = Properties::default();
        for (name, value) in &self.lines {
            let name = String::from_utf8_lossy(name);
            // AMQP holds no longer ones, so that none can come in.
            let short = std::str::from_utf8(value).ok().filter(|text| text.len() <= 255).map(str::to_owned);
            match &*name {
                "message-id" => properties.message_id = short,
                "correlation-id" => properties.correlation_id = short,
                "reply-to" => properties.reply_to = short,
                "expiration" => properties.expiration = short,
                "user-id" => properties.user_id = short,
                "type" => properties.kind = short,
                "" => {}
                _ if name.len() > 255 => {}
                _ => drop(properties.headers.insert(name.into_owned(), header(value))),
            }
        }
        Message { body: self.body.to_vec().into(), properties, transient: false }
    }
}

fn parted(input: &[u8]) -> Option<(&[u8], &[u8])> {
    if let Some(body) = input.strip_prefix(b"\n") {
        return Some((&[], body));
    }
    let at = input.windows(2).position(|pair| pair == b"\n\n")?;
    Some((&input[..at], &input[at + 2..]))
}

/// A header's value: `#7` an integer, `[[` nested arrays, `@queue` the broker's record of a dead
/// letter, else a text or bytes.
fn header(value: &[u8]) -> Value {
    let text = std::str::from_utf8(value);
    match (value.first(), text) {
        (Some(b'#'), Ok(text)) => text[1..].parse().map_or(Value::Null, Value::Int),
        (Some(b'['), _) => {
            let levels = value.iter().take_while(|byte| **byte == b'[').count().min(MAX_NESTING);
            (0..levels).fold(Value::Bool(true), |inner, _| Value::Array(vec![inner]))
        }
        (Some(b'@'), Ok(text)) => died_in(&text[1..]),
        (_, Ok(text)) => Value::Text(text.to_owned()),
        (_, Err(_)) => Value::Bytes(value.to_vec()),
    }
}

/// The broker's record of a message that it has dead-lettered out of a queue.
pub(crate) fn died_in(queue: &str) -> Value {
    let death = Headers::from([
        ("queue".to_owned(), Value::from(queue)),
        ("reason".to_owned(), "expired".into()),
        ("count".to_owned(), Value::Int(1)),
    ]);
    Value::Array(vec![Value::Table(death)])
}
