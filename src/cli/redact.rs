//! Credentials hidden in JSON that is otherwise left byte for byte as it was.
//!
//! A failed outcome carries its whole job for replay, and with it the publisher's proxy
//! credentials. Parsing and writing anew would change numbers and the order of keys, so the values
//! are cut out of the text instead.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Keys whose values are hidden. A refused job may even hold the publisher's API key.
const SECRET_KEYS: [&str; 3] = ["proxyLogin", "proxyPassword", "clientKey"];
/// What stands for a hidden value.
const MASK: &str = "\"***\"";
/// What stands for a text that cannot be taken apart, and has a secret in it.
pub(super) const HELD_BACK: &str = "*** (credentials; see --show-secrets)";

/// Hides credentials in a text that is valid JSON. Everything else stays as it is.
pub(super) fn masked(json: &str) -> Cow<'_, str> {
    let mut scan = RedactScan { json, at: 0, copied: 0, out: String::new() };
    let mut key = Cow::Borrowed("");
    while let Some(start) = json.as_bytes()[scan.at..].iter().position(|byte| *byte == b'"') {
        let start = scan.at + start;
        let end = end_of_string(json, start);
        let text = decoded(&json[start..end]);
        let after = skip_space(json, end);
        if json.as_bytes().get(after) == Some(&b':') {
            scan.at = skip_space(json, after + 1);
            if is_secret(&text) {
                scan.replace(scan.at, end_of_value(json, scan.at), MASK);
            }
            key = text;
        } else {
            scan.at = end;
            if reveals(&key, &text) {
                scan.replace(start, end, &format!("\"{HELD_BACK}\""));
            }
        }
    }
    scan.finish()
}

/// Whether a text that is not JSON, or no longer, may show credentials: a secret's name, and
/// something like a value after it.
pub(super) fn shows_secret(text: &str) -> bool {
    SECRET_KEYS.iter().any(|name| {
        let bytes = text.as_bytes();
        bytes.windows(name.len()).enumerate().any(|(at, window)| {
            window.eq_ignore_ascii_case(name.as_bytes())
                && bytes[at + name.len()..]
                    .iter()
                    .find(|byte| !matches!(byte, b'\\' | b'"' | b'\'' | b' '))
                    .is_some_and(|byte| matches!(byte, b':' | b'='))
        })
    })
}

struct RedactScan<'a> {
    json: &'a str,
    at: usize,
    copied: usize,
    out: String,
}

impl<'a> RedactScan<'a> {
    fn replace(&mut self, start: usize, end: usize, by: &str) {
        self.out.push_str(&self.json[self.copied..start]);
        self.out.push_str(by);
        self.copied = end;
        self.at = end;
    }

    fn finish(mut self) -> Cow<'a, str> {
        if self.copied == 0 {
            return Cow::Borrowed(self.json);
        }
        self.out.push_str(&self.json[self.copied..]);
        Cow::Owned(self.out)
    }
}

fn is_secret(key: &str) -> bool {
    SECRET_KEYS.iter().any(|name| name.eq_ignore_ascii_case(key))
}

/// Whether a string value has credentials in it: a job that was no JSON is kept as text, or in
/// base64, under `body`.
fn reveals(key: &str, text: &str) -> bool {
    // Descriptions name fields in sentences, with a colon after them, and never carry a value.
    if key == "description" {
        return false;
    }
    if shows_secret(text) {
        return true;
    }
    key == "body" && STANDARD.decode(text).is_ok_and(|bytes| shows_secret(&String::from_utf8_lossy(&bytes)))
}

/// The text of a string token. One that cannot be read (a lone surrogate) is taken as it is
/// written.
fn decoded(token: &str) -> Cow<'_, str> {
    let inner = token.strip_prefix('"').and_then(|inner| inner.strip_suffix('"')).unwrap_or(token);
    if !inner.contains('\\') {
        return Cow::Borrowed(inner);
    }
    serde_json::from_str(token).map_or(Cow::Borrowed(inner), Cow::Owned)
}

/// The place after a string's closing quote.
fn end_of_string(json: &str, start: usize) -> usize {
    let mut escaped = false;
    for (offset, byte) in json.as_bytes()[start + 1..].iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return start + offset + 2,
            _ => {}
        }
    }
    json.len()
}

fn skip_space(json: &str, from: usize) -> usize {
    let space = json.as_bytes()[from..].iter().take_while(|byte| byte.is_ascii_whitespace());
    from + space.count()
}

/// The place after the value that begins here, whatever its type.
fn end_of_value(json: &str, start: usize) -> usize {
    let bytes = json.as_bytes();
    let (mut at, mut depth) = (start, 0_usize);
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => at = end_of_string(json, at),
            b'{' | b'[' => {
                depth += 1;
                at += 1;
                continue;
            }
            b'}' | b']' if depth > 0 => {
                depth -= 1;
                at += 1;
            }
            b'}' | b']' | b',' if depth == 0 => return at,
            byte if depth == 0 && byte.is_ascii_whitespace() => return at,
            _ => {
                at += 1;
                continue;
            }
        }
        if depth == 0 {
            return at;
        }
    }
    json.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn credentials_are_hidden_and_all_else_stays_byte_for_byte() {
        let job =
            r#"{"job":{"task":{ "proxyLogin" : "bob","x":1.50,"proxyPassword":"p\"w","n":[1e3]}},"a":"b"}"#;
        let wanted =
            r#"{"job":{"task":{ "proxyLogin" : "***","x":1.50,"proxyPassword":"***","n":[1e3]}},"a":"b"}"#;
        assert_eq!(masked(job), wanted);
        let clean = r#"{"proxyAddress":"1.2.3.4","text":"proxyLogin","solution":{"text":"\u00e9\\"}}"#;
        assert!(matches!(masked(clean), Cow::Borrowed(text) if text == clean));
    }

    #[test]
    fn a_secret_of_any_type_and_under_an_escaped_name_is_hidden() {
        for (json, wanted) in [
            (r#"{"proxyPassword":12345}"#, r#"{"proxyPassword":"***"}"#),
            (r#"{"proxyPassword":{"a":["]",1]},"b":1}"#, r#"{"proxyPassword":"***","b":1}"#),
            (r#"{"proxy\u0050assword":"secret"}"#, r#"{"proxy\u0050assword":"***"}"#),
            (r#"[{"CLIENTKEY": null }]"#, r#"[{"CLIENTKEY": "***" }]"#),
        ] {
            assert_eq!(masked(json), wanted);
        }
    }

    #[test]
    fn a_kept_original_with_credentials_is_held_back_whole() {
        let broken = r#"{"task": {"proxyPassword": "secret", "#;
        for body in [broken.to_owned(), STANDARD.encode(broken)] {
            let outcome = json!({"original": {"encoding": "x", "body": body}, "id": "a"}).to_string();
            let masked: Value = serde_json::from_str(&masked(&outcome)).unwrap();
            assert_eq!(masked["original"]["body"], HELD_BACK);
            assert_eq!(masked["id"], "a");
        }
    }

    #[test]
    fn a_description_that_names_a_field_stays() {
        let outcome = r#"{"failure":{"description":"task.proxyPassword: not a string"}}"#;
        assert_eq!(masked(outcome), outcome);
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let key = prop_oneof![Just("proxyLogin".to_owned()), Just("proxyPassword".to_owned()), ".{0,6}"];
        let leaf = prop_oneof![
            any::<i64>().prop_map(Value::from),
            ".{0,8}".prop_map(Value::from),
            Just(Value::Null)
        ];
        leaf.prop_recursive(4, 40, 5, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::hash_map(key.clone(), inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    fn hide(value: &mut Value) {
        match value {
            Value::Array(items) => items.iter_mut().for_each(hide),
            Value::Object(map) => {
                for (key, value) in map.iter_mut() {
                    if is_secret(key) {
                        *value = "***".into();
                    } else {
                        hide(value);
                    }
                }
            }
            _ => {}
        }
    }

    proptest! {
        #[test]
        fn masking_changes_what_parsing_and_hiding_would_change(value in any_json(), pretty: bool) {
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
            let mut wanted = value;
            hide(&mut wanted);
            prop_assert_eq!(serde_json::from_str::<Value>(&masked(&text)).unwrap(), wanted);
        }
    }
}
