//! Secrets: given as a value, or in a file.

use ::config::ValueKind;
use secrecy::SecretString;

use super::amqp_url::AmqpUrl;
use super::load::{read_bounded, reason};
use super::reader::{Raw, Reader};

/// Longest secret in a file, in bytes.
const MAX_SECRET: u64 = 64 * 1024;

/// A secret with the setting it was read for.
struct Given {
    text: String,
    key: &'static str,
    origin: String,
}

/// The broker's address. `None`: a fault was recorded.
pub(super) fn broker_url(reader: &mut Reader) -> Option<AmqpUrl> {
    let (key, file_key) = ("broker.url", "broker.url_file");
    let raw = text_of(reader, key);
    let path = reader.text(file_key, "a path", |path| Ok(path.to_owned()));
    let (raw, path) = (raw?, path?);
    // The default is no word of the operator's, so it stands in nobody's way.
    let is_own = raw.origin != "default";
    let given = choose(reader, raw, &path, is_own, file_key)?;
    let url = AmqpUrl::try_new(&given.text)
        .map_err(|problem| reader.fault(given.key, &given.origin, problem, AmqpUrl::ALLOWED))
        .ok()?;
    reader.show(key, url.shown().to_owned(), &given.origin, true);
    Some(url)
}

/// The API's key, `Some(None)` where there is none.
pub(super) fn api_key(reader: &mut Reader) -> Option<Option<SecretString>> {
    let (key, file_key) = ("solver.api_key", "solver.api_key_file");
    let raw = text_of(reader, key);
    let path = reader.text(file_key, "a path", |path| Ok(path.to_owned()));
    let (raw, path) = (raw?, path?);
    let is_own = !raw.text.is_empty();
    let given = choose(reader, raw, &path, is_own, file_key)?;
    let is_set = !given.text.is_empty();
    let shown = if is_set { "(hidden)" } else { "(not set)" };
    reader.show(key, shown.to_owned(), &given.origin, true);
    Some(is_set.then(|| SecretString::from(given.text)))
}

fn text_of(reader: &mut Reader, key: &'static str) -> Option<Given> {
    let Raw { kind, origin } = reader.take_hidden(key)?;
    if let ValueKind::String(text) = kind {
        return Some(Given { text, key, origin });
    }
    reader.fault(key, &origin, "is not a text in quotes", "");
    None
}

fn choose(
    reader: &mut Reader,
    raw: Given,
    path: &str,
    is_own: bool,
    file_key: &'static str,
) -> Option<Given> {
    if path.is_empty() {
        return Some(raw);
    }
    let file_origin = reader.shown_origin(file_key);
    if is_own {
        let problem = format!("cannot be set beside {}, which is set by {}", raw.key, raw.origin);
        reader.fault(file_key, &file_origin, problem, "one of the two");
        return None;
    }
    let content = read_bounded(&reader.dir().join(path), MAX_SECRET).map_err(|error| reason(&error));
    let text = content.and_then(|text| match text.trim_end_matches(['\r', '\n']) {
        "" => Err("the file is empty".to_owned()),
        text => Ok(text.to_owned()),
    });
    text.map_err(|problem| reader.fault(file_key, &file_origin, format!("{path}: {problem}"), ""))
        .ok()
        .map(|text| Given { text, key: file_key, origin: path.to_owned() })
}
