//! What is said where TLS does not come about.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use captcha_worker::broker::amqp::{AmqpOptions, Connector};
use captcha_worker::tls::TlsFiles;

use crate::security::secured::{PASSWORD, Secured};
use crate::support::authority::Authority;
use crate::support::rabbit::options;
use crate::within;

const SHOWN: &str = "broker.tls_cert_file";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_cannot_be_trusted_is_reported_with_its_reason() {
    let secured = Secured::start().await;
    let stranger = Authority::new("another authority");
    let other_ca = secured.path().join("other-ca.pem");
    std::fs::write(&other_ca, stranger.pem()).unwrap();

    let good = secured.options();
    let distrusting = AmqpOptions { tls: TlsFiles { ca: Some(other_ca), ..secured.files() }, ..good.clone() };
    let reason = secured.refusal(distrusting).await;
    assert!(reason.contains("no authority that is trusted here: see broker.tls_ca_file"), "{reason}");

    let by_system = AmqpOptions { tls: TlsFiles { ca: None, ..secured.files() }, ..good.clone() };
    let reason = secured.refusal(by_system).await;
    assert!(
        reason.contains("no authority that is trusted here") || reason.contains("TLS cannot be set up"),
        "{reason}"
    );

    let by_name = AmqpOptions { url: secured.url().replace("127.0.0.1", "localhost").into(), ..good.clone() };
    let reason = secured.refusal(by_name).await;
    assert!(reason.contains("not valid for name \"localhost\""), "{reason}");

    secured.serve_now(&secured.authority.expired_server(&["127.0.0.1"]));
    let reason = secured.refusal(good.clone()).await;
    assert!(reason.contains("its certificate is not accepted: ") && reason.contains("expired"), "{reason}");

    secured.serve_now(&secured.authority.server(&["127.0.0.1"]));
    let connector = Connector::new(good).unwrap();
    let session =
        within("the session", connector.connect()).await.expect("a good certificate is accepted again");
    session.link().close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_the_broker_does_not_trust_learns_where_to_look() {
    let secured = Secured::start().await;
    let good = secured.options();
    let nobody = AmqpOptions { tls: TlsFiles { identity: None, ..secured.files() }, ..good.clone() };
    let reason = secured.refusal(nobody).await;
    assert!(reason.contains(SHOWN), "{reason}");

    let foreign = Authority::new("another authority").client("ann").write(secured.path(), "foreign");
    let reason =
        secured.refusal(AmqpOptions { tls: secured.showing(foreign.0, foreign.1), ..good.clone() }).await;
    assert!(reason.contains(SHOWN), "{reason}");

    let expired = secured.authority.expired_client("ann").write(secured.path(), "expired");
    let tls = secured.showing(expired.0, expired.1);
    let connector = Connector::new(AmqpOptions { tls: tls.clone(), ..good.clone() }).unwrap();
    let reason = secured.refusal(AmqpOptions { tls, ..good }).await;
    assert!(reason.contains(SHOWN), "{reason}");

    // Renewed in its place, and the client is not informed.
    secured.authority.client("ann").write(secured.path(), "expired");
    let session = within("the session", connector.connect()).await.expect("the renewed certificate is shown");
    session.link().close().await;
    std::fs::remove_file(secured.path().join("expired.key.pem")).unwrap();
    let error = within("the refusal", connector.connect()).await.err().expect("a refusal");
    assert!(error.is_passing(), "{error:?}");
    assert!(
        error.to_string().contains("broker.tls_key_file: ") && error.to_string().contains("no such file"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_without_tls_and_one_that_is_silent_are_reported_in_time() {
    let secured = Secured::start().await;
    let plain = format!("amqps://ann:{PASSWORD}@127.0.0.1:{}/%2f", secured.node.port());
    let reason = secured.refusal(AmqpOptions { url: plain.into(), ..secured.options() }).await;
    assert!(reason.contains("it does not speak TLS on this port"), "{reason}");

    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("amqps://ann:{PASSWORD}@{}", silent.local_addr().unwrap());
    let began = Instant::now();
    let impatient =
        AmqpOptions { tls: secured.files(), connect_timeout: Duration::from_millis(500), ..options(&url) };
    let reason = secured.refusal(impatient).await;
    assert!(reason.contains("no AMQP answer within 500ms") || reason.contains("timed out"), "{reason}");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}
