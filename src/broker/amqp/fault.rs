//! The errors of lapin and the broker → those that the worker decides on.

use std::error::Error;
use std::future::Future;
use std::io;
use std::time::Duration;

use lapin::ErrorKind;
use lapin::protocol::AMQPError;
use rustls::{AlertDescription, CertificateError};
use tokio::time::timeout;

use super::endpoint::Endpoint;
use crate::broker::BrokerError;

const ACCESS_REFUSED: u16 = 403;
const NOT_FOUND: u16 = 404;
const RESOURCE_LOCKED: u16 = 405;
const PRECONDITION_FAILED: u16 = 406;
const NOT_ALLOWED: u16 = 530;

/// A broker call, with a time-out.
pub(super) async fn call<T>(
    name: &'static str,
    max_wait: Duration,
    future: impl Future<Output = lapin::Result<T>>,
) -> Result<T, BrokerError> {
    match timeout(max_wait, future).await {
        Ok(outcome) => outcome.map_err(|error| from_call(&error)),
        Err(_) => Err(BrokerError::TimedOut { call: name }),
    }
}

/// An error of a call on an open connection.
pub(super) fn from_call(error: &lapin::Error) -> BrokerError {
    match error.kind() {
        ErrorKind::ProtocolError(reply) => from_reply(reply),
        _ => BrokerError::Lost(error.to_string()),
    }
}

fn from_reply(reply: &AMQPError) -> BrokerError {
    let text = reply.get_message().as_str();
    match reply.get_id() {
        // Also the reply for a queue whose node is down for the moment: that one passes.
        NOT_FOUND if !text.contains("down or inaccessible") => {
            missing(text).unwrap_or_else(|| BrokerError::Lost(text.to_owned()))
        }
        PRECONDITION_FAILED => mismatch(text).unwrap_or_else(|| BrokerError::Lost(text.to_owned())),
        ACCESS_REFUSED | RESOURCE_LOCKED | NOT_ALLOWED => BrokerError::Forbidden(text.to_owned()),
        _ => BrokerError::Lost(text.to_owned()),
    }
}

/// An error while connecting, at a stage where only the endpoint can be at fault.
pub(super) fn from_handshake(error: &lapin::Error, endpoint: &Endpoint) -> BrokerError {
    if let ErrorKind::ProtocolError(reply) = error.kind() {
        let text = reply.get_message().as_str();
        match reply.get_id() {
            ACCESS_REFUSED => {
                return BrokerError::Refused {
                    address: endpoint.address(),
                    user: endpoint.user().to_owned(),
                };
            }
            NOT_ALLOWED => {
                return BrokerError::VirtualHost {
                    vhost: endpoint.vhost().to_owned(),
                    reason: virtual_host_reason(text, endpoint.vhost()),
                };
            }
            _ => {}
        }
    }
    let refusal = if endpoint.is_tls() { tls_refusal(error) } else { None };
    unreachable_because(endpoint, refusal.unwrap_or_else(|| error.to_string()))
}

/// The broker, as an address that nothing usable answers at.
pub(super) fn unreachable_because(endpoint: &Endpoint, reason: String) -> BrokerError {
    BrokerError::Unreachable { address: endpoint.address(), reason }
}

fn virtual_host_reason(text: &str, vhost: &str) -> String {
    let reason = text.strip_prefix("NOT_ALLOWED - ").unwrap_or(text).trim();
    if vhost.is_empty() {
        // amqp://host/ names the virtual host "", which hardly anybody has; amqp://host names "/".
        format!(
            "{reason} (a URL that ends in '/' names the empty one; leave the slash out, or write %2f, for '/')"
        )
    } else {
        reason.to_owned()
    }
}

/// `NOT_FOUND - no queue 'captcha.jobs' in vhost '/'`
fn missing(text: &str) -> Option<BrokerError> {
    let kind = if text.contains("no exchange '") {
        "exchange"
    } else if text.contains("no queue '") {
        "queue"
    } else {
        return None;
    };
    Some(BrokerError::Missing { kind, name: quoted_after(text, kind)?.to_owned() })
}

/// `PRECONDITION_FAILED - inequivalent arg 'x-message-ttl' for queue 'captcha.retry.5s' in vhost
/// '/': received … but current is …`
fn mismatch(text: &str) -> Option<BrokerError> {
    let argument = quoted_after(text, "inequivalent arg")?;
    let kind = if text.contains(" for exchange '") { "exchange" } else { "queue" };
    let name = quoted_after(text, kind)?;
    let (_, values) = text.split_once(": received ")?;
    let (wanted, current) = values.split_once(" but current is ")?;
    Some(BrokerError::Mismatch {
        kind,
        name: name.to_owned(),
        detail: format!(
            "argument '{argument}' is {} there, but {} is wanted; delete it or change the setting",
            plain(current),
            plain(wanted)
        ),
    })
}

/// `the value '5000' of type 'signedint'` → `'5000'`.
fn plain(text: &str) -> &str {
    let text = text.trim();
    let value = text.strip_prefix("the value ").unwrap_or(text);
    value.split_once(" of type ").map_or(value, |(value, _)| value)
}

fn quoted_after<'a>(text: &'a str, label: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("{label} '"))?;
    rest.split_once('\'').map(|(quoted, _)| quoted)
}

/// What an error while connecting by TLS means, where it is about TLS.
fn tls_refusal(error: &lapin::Error) -> Option<String> {
    let ErrorKind::IOError(error) = error.kind() else { return None };
    match inside(error) {
        Some(cause) => Some(meaning(cause)),
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
        if let Some(cause) = error.downcast_ref::<rustls::Error>() {
            return Some(cause);
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

#[cfg(test)]
mod tests {
    use lapin::protocol::AMQPSoftError;

    use super::*;

    fn soft(kind: AMQPSoftError, text: &str) -> BrokerError {
        from_reply(&AMQPError::new(kind.into(), text.into()))
    }

    #[test]
    fn a_mismatch_names_queue_argument_and_both_values() {
        let error = soft(
            AMQPSoftError::PRECONDITIONFAILED,
            "PRECONDITION_FAILED - inequivalent arg 'x-message-ttl' for queue 'captcha.retry.5s' in vhost '/': \
             received the value '5000' of type 'signedint' but current is the value '6000' of type 'long'",
        );
        assert_eq!(
            error.to_string(),
            "queue 'captcha.retry.5s' exists with other settings: argument 'x-message-ttl' is '6000' there, but '5000' is \
             wanted; delete it or change the setting"
        );
    }

    #[test]
    fn a_mismatch_of_an_exchanges_kind_is_reported_too() {
        let error = soft(
            AMQPSoftError::PRECONDITIONFAILED,
            "PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'captcha.outcomes' in vhost '/': received 'topic' \
             but current is 'fanout'",
        );
        let BrokerError::Mismatch { kind, name, detail } = error else {
            panic!("{error:?}");
        };
        assert_eq!((kind, name.as_str()), ("exchange", "captcha.outcomes"));
        assert!(detail.contains("'type' is 'fanout' there, but 'topic' is wanted"), "{detail}");
    }

    #[test]
    fn an_argument_that_only_one_side_has_is_reported() {
        let error = soft(
            AMQPSoftError::PRECONDITIONFAILED,
            "PRECONDITION_FAILED - inequivalent arg 'x-delivery-limit' for queue 'q' in vhost '/': received the value '20' \
             of type 'long' but current is none",
        );
        assert!(
            error.to_string().contains("'x-delivery-limit' is none there, but '20' is wanted"),
            "{error}"
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = soft(AMQPSoftError::NOTFOUND, "NOT_FOUND - no exchange 'captcha.jobs' in vhost '/'");
        assert_eq!(error.to_string(), "exchange 'captcha.jobs' does not exist");
        let error = soft(AMQPSoftError::NOTFOUND, "NOT_FOUND - no queue 'captcha.jobs' in vhost '/'");
        assert_eq!(error.to_string(), "queue 'captcha.jobs' does not exist");
    }

    #[test]
    fn a_queue_whose_node_is_down_is_not_missing_for_good() {
        let error = soft(
            AMQPSoftError::NOTFOUND,
            "NOT_FOUND - home node 'rabbit@b' of durable queue 'q' in vhost '/' is down or inaccessible",
        );
        assert!(error.is_passing(), "{error:?}");
    }

    #[test]
    fn a_refused_permission_is_final() {
        let error = soft(
            AMQPSoftError::ACCESSREFUSED,
            "ACCESS_REFUSED - access to queue 'captcha.jobs' in vhost '/' refused for user 'guest'",
        );
        assert!(!error.is_passing() && error.to_string().contains("captcha.jobs"), "{error}");
    }
}
