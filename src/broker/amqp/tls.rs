//! TLS to the broker: whom it trusts, what it shows, and what a refusal means.
//!
//! lapin's own way can only add an authority to those of the system. Whoever runs a broker under an authority of their own wants no other to be
//! able to vouch for it.

use std::error::Error;
use std::io;
use std::sync::Arc;

use lapin::tcp::RustlsConnector;
use lapin::{ErrorKind, tcp};
use rustls::client::ResolvesClientCert;
use rustls::sign::SingleCertAndKey;
use rustls::{AlertDescription, CertificateError, ClientConfig};
use rustls_platform_verifier::BuilderVerifierExt;

use crate::tls::{Tls, TlsFiles};

/// Reads the files and makes what connects by them.
///
/// # Errors
/// Where a file cannot be used by now, or the system has no authorities.
pub(super) async fn connector(files: &TlsFiles) -> Result<RustlsConnector, String> {
    let files = files.clone();
    // The system's authorities are files as well.
    let making = tokio::task::spawn_blocking(move || {
        let tls = files.read().map_err(|fault| fault.to_string())?;
        client(tls).map_err(|error| format!("TLS cannot be set up: {error}"))
    });
    let config = making.await.map_err(|error| format!("TLS cannot be set up: {error}"))??;
    Ok(tcp::RustlsConnector::from(config))
}

fn client(tls: Tls) -> Result<ClientConfig, rustls::Error> {
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

/// What an error while connecting by TLS means, where it is about TLS.
pub(super) fn refusal(error: &lapin::Error) -> Option<String> {
    let ErrorKind::IOError(error) = error.kind() else { return None };
    match inside(error) {
        Some(told) => Some(meaning(told)),
        None if is_cut(error.kind()) => Some(format!(
            "{error}, before the log-in; a broker that asks for a client certificate, or refuses the one it was shown, ends a \
             connection so: see broker.tls_cert_file"
        )),
        None => None,
    }
}

fn inside(error: &io::Error) -> Option<&rustls::Error> {
    let mut next: Option<&(dyn Error + 'static)> = error.get_ref().map(|error| error as _);
    while let Some(error) = next {
        if let Some(told) = error.downcast_ref::<rustls::Error>() {
            return Some(told);
        }
        next = match error.downcast_ref::<io::Error>() {
            Some(nested) => nested.get_ref().map(|error| error as _),
            None => error.source(),
        };
    }
    None
}

fn is_cut(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(kind, BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

fn meaning(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "its certificate comes from no authority that is trusted here: see broker.tls_ca_file".to_owned()
        }
        rustls::Error::InvalidCertificate(fault) => format!("its certificate is not accepted: {fault}"),
        rustls::Error::AlertReceived(alert) if is_about_certificate(*alert) => {
            format!(
                "it does not accept this client's certificate, or the lack of one ({alert:?}): see broker.tls_cert_file"
            )
        }
        rustls::Error::InvalidMessage(_) => format!("it does not speak TLS on this port ({error})"),
        other => format!("TLS failed: {other}"),
    }
}

fn is_about_certificate(alert: AlertDescription) -> bool {
    use AlertDescription as Alert;
    [
        Alert::AccessDenied,
        Alert::BadCertificate,
        Alert::CertificateExpired,
        Alert::CertificateRequired,
        Alert::CertificateRevoked,
        Alert::CertificateUnknown,
        // What TLS 1.2 has for the lack of one.
        Alert::HandshakeFailure,
        Alert::NoCertificate,
        Alert::UnknownCA,
        Alert::UnsupportedCertificate,
    ]
    .contains(&alert)
}
