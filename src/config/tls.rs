//! Reads the files of TLS, `broker.tls_…_file`.

use std::path::PathBuf;

use super::amqp_url::AmqpUrl;
use super::reader::Reader;
use crate::tls::{IdentityFiles, Role, TlsFault, TlsFiles, read_roots};

/// The files, each of which can be used as it is now. `None`: a fault was recorded. `url`: where it is good.
pub(super) fn read(reader: &mut Reader, url: Option<&AmqpUrl>) -> Option<TlsFiles> {
    let [ca, certificate, key] = [Role::Ca, Role::Certificate, Role::Key].map(|role| path(reader, role));
    let (ca, certificate, key) = (ca?, certificate?, key?);
    if url.is_some_and(|url| !url.is_tls()) && !refuse_without_tls(reader, &[&ca, &certificate, &key]) {
        return None;
    }
    let identity = match (certificate, key) {
        (Some(certificate), Some(key)) => Some(IdentityFiles { certificate, key }),
        (None, None) => None,
        (Some(_), None) => return alone(reader, Role::Certificate, Role::Key),
        (None, Some(_)) => return alone(reader, Role::Key, Role::Certificate),
    };
    let trusted = ca.as_deref().map_or(Ok(()), |path| read_roots(path).map(drop));
    let shown = identity.as_ref().map_or(Ok(()), |files| files.read().map(drop));
    let (trusted, shown) = (usable(reader, trusted), usable(reader, shown));
    trusted?;
    shown?;
    Some(TlsFiles { ca, identity })
}

fn path(reader: &mut Reader, role: Role) -> Option<Option<PathBuf>> {
    let path = reader.text(role.setting(), "a path", |path| Ok(path.to_owned()))?;
    Some((!path.is_empty()).then(|| reader.dir().join(path)))
}

/// Somebody who names such a file counts on TLS.
fn refuse_without_tls(reader: &mut Reader, files: &[&Option<PathBuf>; 3]) -> bool {
    let mut fine = true;
    for (role, file) in [Role::Ca, Role::Certificate, Role::Key].into_iter().zip(files) {
        if file.is_some() {
            let origin = reader.shown_origin(role.setting());
            let problem = "is set, but broker.url begins with amqp://, which is not encrypted";
            reader.fault(role.setting(), &origin, problem, "with amqps:// only");
            fine = false;
        }
    }
    fine
}

fn alone(reader: &mut Reader, set: Role, missing: Role) -> Option<TlsFiles> {
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
