//! What is read from files beside the settings: secrets, which may stand in a file each, and the
//! files of TLS.

use std::path::PathBuf;

use ::config::ValueKind;
use secrecy::SecretString;
use std::fs;
use std::io::{self, Read};
use std::path::Path;
use url::Url;

use super::reader::{Raw, Reader};
use super::values::{self, BrokerUrl};
use crate::domain::sanitize::steers;
use crate::tls::{IdentityFiles, Role, TlsFault, TlsFiles, read_roots};

/// Longest secret in a file, in bytes.
const MAX_SECRET: u64 = 64 * 1024;

/// A secret with the setting it was read for.
struct Given {
    text: String,
    key: &'static str,
    origin: String,
}

/// The broker's address. `None`: a fault was recorded.
pub(super) fn broker_url(reader: &mut Reader) -> Option<BrokerUrl> {
    let (key, file_key) = ("broker.url", "broker.url_file");
    let raw = text_of(reader, key);
    let path = reader.text(file_key, "a path", |path| Ok(path.to_owned()));
    let (raw, path) = (raw?, path?);
    // The default is not the operator's choice, so it stands in nobody's way.
    let is_own = raw.origin != "default";
    let given = choose(reader, raw, &path, is_own, file_key)?;
    // A file's path may hold spaces and quotes. In AMQP's address both are written as %20, %22,
    // %27.
    let odd = match odd_in(&given.text) {
        Some(problem) if !given.text.starts_with("sqlite:") => Some(problem),
        _ => given.text.contains(char::is_control).then_some("holds a control character"),
    };
    let url = odd
        .map_or_else(|| BrokerUrl::try_new(&given.text, reader.dir()), |problem| Err(problem.to_owned()))
        .map_err(|problem| reader.fault(given.key, &given.origin, problem, BrokerUrl::ALLOWED))
        .ok()?;
    reader.show(key, url.to_string(), &given.origin, true);
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
    if let Some(problem) = odd_in(&given.text) {
        reader.fault(given.key, &given.origin, problem, "the key alone");
        return None;
    }
    let is_set = !given.text.is_empty();
    let shown = if is_set { "(hidden)" } else { "(not set)" };
    reader.show(key, shown.to_owned(), &given.origin, true);
    Some(is_set.then(|| SecretString::from(given.text)))
}

/// A token that can be tried without end must be too long to be found.
const MIN_TOKEN: usize = 16;

/// The console's token, `Some(None)` where there is none.
pub(super) fn admin_token(reader: &mut Reader) -> Option<Option<SecretString>> {
    let key = "ops.admin_token_file";
    let path = reader.text(key, "a path", |path| Ok(path.to_owned()))?;
    if path.is_empty() {
        return Some(None);
    }
    let content = read_bounded(&reader.dir().join(&path), MAX_SECRET).map_err(|error| reason(&error));
    let token = content.map(|text| alone(&text)).and_then(|token| match odd_in(&token) {
        Some(problem) => Err(problem.to_owned()),
        None if token.chars().count() < MIN_TOKEN => Err(format!("has fewer than {MIN_TOKEN} characters")),
        None => Ok(SecretString::from(token)),
    });
    let origin = reader.shown_origin(key);
    token.map_err(|problem| reader.fault(key, &origin, format!("{path}: {problem}"), "")).ok().map(Some)
}

fn text_of(reader: &mut Reader, key: &'static str) -> Option<Given> {
    let Raw { kind, origin } = reader.take_hidden(key)?;
    if let ValueKind::String(text) = kind {
        return Some(Given { text: alone(&text), key, origin });
    }
    reader.fault(key, &origin, "is not a text in quotes", "");
    None
}

/// A secret without what surrounds it: editors write a byte order mark or a line break, shells a
/// CR.
fn alone(text: &str) -> String {
    text.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}').to_owned()
}

/// What shows that a text is more than one secret. Repeats none of it.
fn odd_in(secret: &str) -> Option<&'static str> {
    if secret.contains(['\n', '\r']) {
        Some("has more than one line")
    } else if secret.contains(char::is_whitespace) {
        Some("has white space inside")
    } else if secret.contains(steers) {
        Some("holds a control character or an invisible one")
    } else if secret.contains(['"', '\'', '`', '“', '”', '„', '‘', '’']) {
        Some("holds a quotation mark")
    } else {
        None
    }
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
    let text = content.and_then(|text| match alone(&text) {
        text if text.is_empty() => Err("the file is empty".to_owned()),
        text => Ok(text),
    });
    text.map_err(|problem| reader.fault(file_key, &file_origin, format!("{path}: {problem}"), ""))
        .ok()
        .map(|text| Given { text, key: file_key, origin: path.to_owned() })
}

/// A text file that is not longer than it has any reason to be.
pub(super) fn read_bounded(path: &Path, longest: u64) -> io::Result<String> {
    let mut text = String::new();
    fs::File::open(path)?.take(longest + 1).read_to_string(&mut text)?;
    if text.len() as u64 > longest {
        let problem = format!("longer than {longest} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, problem));
    }
    Ok(text)
}

/// Why a file cannot be used.
pub(super) fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file".to_owned(),
        io::ErrorKind::PermissionDenied => "this user may not read it".to_owned(),
        io::ErrorKind::InvalidData => "not UTF-8 text".to_owned(),
        _ => format!("cannot be read: {error}"),
    }
}

/// The files, each of which can be used as it is now. `None`: a fault was recorded. `url`: where it
/// is good.
pub(super) fn tls(reader: &mut Reader, url: Option<&BrokerUrl>) -> Option<TlsFiles> {
    let [ca, certificate, key] = [Role::Ca, Role::Certificate, Role::Key].map(|role| tls_path(reader, role));
    let (ca, certificate, key) = (ca?, certificate?, key?);
    if let Some(why) = url.and_then(BrokerUrl::why_not_encrypted)
        && !refuse_without_tls(reader, why, &[&ca, &certificate, &key])
    {
        return None;
    }
    let identity = match (certificate, key) {
        (Some(certificate), Some(key)) => Some(IdentityFiles { certificate, key }),
        (None, None) => None,
        (Some(_), None) => return unpaired(reader, Role::Certificate, Role::Key),
        (None, Some(_)) => return unpaired(reader, Role::Key, Role::Certificate),
    };
    let trusted = ca.as_deref().map_or(Ok(()), |path| read_roots(path, Role::Ca).map(drop));
    let shown = identity.as_ref().map_or(Ok(()), |files| files.read().map(drop));
    let (trusted, shown) = (usable(reader, trusted), usable(reader, shown));
    trusted?;
    shown?;
    Some(TlsFiles { ca, identity })
}

/// The authorities that may have issued the API's certificate. `None`: a fault was recorded.
pub(super) fn api_ca(reader: &mut Reader) -> Option<Option<PathBuf>> {
    let path = tls_path(reader, Role::ApiCa)?;
    let read = path.as_deref().map_or(Ok(()), |path| read_roots(path, Role::ApiCa).map(drop));
    usable(reader, read)?;
    Some(path)
}

/// The proxy before the API, `Some(None)` where there is none. `base_url`: where it is good.
pub(super) fn api_proxy(
    reader: &mut Reader,
    base_url: Option<&Url>,
    allow_plain_http: bool,
) -> Option<Option<SecretString>> {
    let key = "solver.proxy";
    let given = text_of(reader, key)?;
    if given.text.is_empty() {
        reader.show(key, String::new(), &given.origin, true);
        return Some(None);
    }
    let read = values::proxy_url(&given.text).and_then(|url| match base_url {
        Some(base) if base.scheme() == "http" && !allow_plain_http => {
            Err("is set, but solver.base_url is plain http: the proxy would read the key".to_owned())
        }
        _ => Ok(url),
    });
    let allowed = "http://[user:password@]host:port, or https://";
    let mut shown = read.map_err(|problem| reader.fault(key, &given.origin, problem, allowed)).ok()?;
    if shown.password().is_some() || !shown.username().is_empty() {
        // It has a host, so that it can have both. Some proxies take a token as the user.
        let _ = shown.set_username("***");
        let _ = shown.set_password(None);
    }
    reader.show(key, shown.to_string(), &given.origin, true);
    Some(Some(SecretString::from(given.text)))
}

fn tls_path(reader: &mut Reader, role: Role) -> Option<Option<PathBuf>> {
    let path = reader.text(role.setting(), "a path", |path| Ok(path.to_owned()))?;
    Some((!path.is_empty()).then(|| reader.dir().join(path)))
}

/// Somebody who names such a file counts on TLS.
fn refuse_without_tls(reader: &mut Reader, why: &str, files: &[&Option<PathBuf>; 3]) -> bool {
    let mut fine = true;
    for (role, file) in [Role::Ca, Role::Certificate, Role::Key].into_iter().zip(files) {
        if file.is_some() {
            let origin = reader.shown_origin(role.setting());
            let problem = format!("is set, but broker.url {why}");
            reader.fault(role.setting(), &origin, problem, "with amqps:// only");
            fine = false;
        }
    }
    fine
}

fn unpaired(reader: &mut Reader, set: Role, missing: Role) -> Option<TlsFiles> {
    let origin = reader.shown_origin(set.setting());
    reader.fault(set.setting(), &origin, format!("is set without {}", missing.setting()), "both or neither");
    None
}

fn usable(reader: &mut Reader, read: Result<(), TlsFault>) -> Option<()> {
    let Err(TlsFault { role, path, problem }) = read else { return Some(()) };
    let path = path.strip_prefix(reader.dir()).unwrap_or(&path).display().to_string();
    let origin = reader.shown_origin(role.setting());
    reader.fault(role.setting(), &origin, format!("{path}: {problem}"), "");
    None
}
