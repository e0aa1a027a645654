//! Whom a TLS connection to the broker or the API trusts, and as whom it shows itself to the
//! broker: PEM files.
//!
//! They are read when the settings are, so that a fault is reported then, and anew for every
//! connection, so that a certificate that was renewed in its place is used from the next connection
//! on. No fault repeats anything of a file's content, which may be a key.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

/// Longest file, in bytes: whole collections of roots have less than this.
const LONGEST: u64 = 4 * 1024 * 1024;

/// Which of the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// `broker.tls_ca_file`
    Ca,
    /// `broker.tls_cert_file`
    Certificate,
    /// `broker.tls_key_file`
    Key,
    /// `solver.tls_ca_file`
    ApiCa,
}

impl Role {
    /// The setting that names the file.
    #[must_use]
    pub fn setting(self) -> &'static str {
        match self {
            Role::Ca => "broker.tls_ca_file",
            Role::Certificate => "broker.tls_cert_file",
            Role::Key => "broker.tls_key_file",
            Role::ApiCa => "solver.tls_ca_file",
        }
    }
}

/// A file that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {}: {problem}", role.setting(), path.display())]
pub struct TlsFault {
    /// Which.
    pub role: Role,
    /// Where it was looked for.
    pub path: PathBuf,
    /// What is wrong with it, without anything of its content.
    pub problem: String,
}

/// The files, none of them read yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Authorities that are trusted, and no others. `None`: those that the system trusts.
    pub ca: Option<PathBuf>,
    /// What the broker is shown where it asks for a certificate.
    pub identity: Option<IdentityFiles>,
}

/// A client's certificate, with those between it and its authority, and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityFiles {
    /// The certificate first, then those that vouch for it.
    pub certificate: PathBuf,
    /// PKCS#8, PKCS#1 or SEC1, not encrypted.
    pub key: PathBuf,
}

/// What the files hold.
#[derive(Clone)]
pub struct Tls {
    /// The trusted authorities; `None`: those of the system.
    pub roots: Option<Arc<RootCertStore>>,
    /// The client's certificate with its key, which fits.
    pub identity: Option<Arc<CertifiedKey>>,
}

/// Certificates are long, and the key is secret.
impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let roots = self.roots.as_ref().map(|roots| roots.len());
        f.debug_struct("Tls").field("roots", &roots).field("identity", &self.identity.is_some()).finish()
    }
}

impl TlsFiles {
    /// Whether any file is named.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ca.is_none() && self.identity.is_none()
    }

    /// Reads them all.
    ///
    /// # Errors
    /// The first file that cannot be used.
    pub fn read(&self) -> Result<Tls, TlsFault> {
        let roots = self.ca.as_deref().map(|ca| read_roots(ca, Role::Ca)).transpose()?;
        let identity = self.identity.as_ref().map(IdentityFiles::read).transpose()?;
        Ok(Tls { roots: roots.map(Arc::new), identity: identity.map(Arc::new) })
    }
}

impl IdentityFiles {
    /// # Errors
    /// Where one of them cannot be used, or they do not fit.
    pub fn read(&self) -> Result<CertifiedKey, TlsFault> {
        let of_certificate = |problem: String| fault(Role::Certificate, &self.certificate, problem);
        let of_key = |problem: String| fault(Role::Key, &self.key, problem);
        let chain = certificates(&self.certificate).map_err(of_certificate)?;
        let key = private_key(&self.key).map_err(of_key)?;
        let signing = any_supported_type(&key).map_err(|_| {
            of_key("its key is damaged or of a kind that cannot be used; allowed: RSA from 2,048 bits, ECDSA (P-256, P-384), Ed25519".to_owned())
        })?;
        let identity = CertifiedKey::new(chain, signing);
        match identity.keys_match() {
            // Unknown: this kind of key cannot tell, and the broker will.
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => Ok(identity),
            Err(rustls::Error::InconsistentKeys(_)) => Err(of_key(format!(
                "its key is not that of the certificate in {}",
                self.certificate.display()
            ))),
            Err(error) => Err(of_certificate(format!("its first certificate cannot be read ({error})"))),
        }
    }
}

/// The authorities in a file.
///
/// # Errors
/// Where it cannot be read, or one of them cannot be used.
pub fn read_roots(path: &Path, role: Role) -> Result<RootCertStore, TlsFault> {
    let mut roots = RootCertStore::empty();
    let all = certificates(path).map_err(|problem| fault(role, path, problem))?;
    for (at, certificate) in all.into_iter().enumerate() {
        roots.add(certificate).map_err(|error| {
            fault(role, path, format!("its certificate number {} cannot be used ({error})", at + 1))
        })?;
    }
    Ok(roots)
}

fn fault(role: Role, path: &Path, problem: String) -> TlsFault {
    TlsFault { role, path: path.to_owned(), problem }
}

/// The certificates in a file.
///
/// # Errors
/// It cannot be read, or holds none.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let content = content(path)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&content).collect();
    match all {
        Ok(all) if all.is_empty() => Err("holds no certificate (\"-----BEGIN CERTIFICATE-----\")".to_owned()),
        Ok(all) => Ok(all),
        Err(error) => Err(damaged(&error)),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let content = content(path)?;
    PrivateKeyDer::from_pem_slice(&content).map_err(|error| match error {
        pem::Error::NoItemsFound if is_encrypted(&content) => {
            "its key is encrypted: store it without a password, readable by this user alone".to_owned()
        }
        pem::Error::NoItemsFound => "holds no private key (\"-----BEGIN PRIVATE KEY-----\")".to_owned(),
        error => damaged(&error),
    })
}

fn is_encrypted(content: &[u8]) -> bool {
    String::from_utf8_lossy(content).contains("BEGIN ENCRYPTED PRIVATE KEY")
}

/// The error itself may repeat a line of the file.
fn damaged(error: &pem::Error) -> String {
    match error {
        pem::Error::MissingSectionEnd { .. } => "is cut short: a section has no end".to_owned(),
        _ => "is damaged: it is not well-formed PEM".to_owned(),
    }
}

fn content(path: &Path) -> Result<Vec<u8>, String> {
    let mut content = Vec::new();
    let read = File::open(path).and_then(|file| file.take(LONGEST + 1).read_to_end(&mut content));
    match read {
        Ok(_) if content.len() as u64 > LONGEST => Err(format!("is longer than {LONGEST} bytes")),
        Ok(_) => Ok(content),
        Err(error) => Err(match error.kind() {
            io::ErrorKind::NotFound => "no such file".to_owned(),
            io::ErrorKind::PermissionDenied => "this user may not read it".to_owned(),
            _ => format!("cannot be read: {error}"),
        }),
    }
}
