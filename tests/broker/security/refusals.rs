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
async fn a_broker_that_cannot_be_trusted_is_told_by_its_reason() {
    let secured = Secured::start().await;
    let stranger = Authority::new("another authority");
    let other_ca = secured.path().join("other-ca.pem");
    std::fs::write(&other_ca, stranger.pem()).unwrap();

    let good = secured.options();
    let distrusting = AmqpOptions { tls: TlsFiles { ca: Some(other_ca), ..secured.files() }, ..good.clone() };
    let told = secured.refusal(distrusting).await;
    assert!(told.contains("no authority that is trusted here: see broker.tls_ca_file"), "{told}");

    let by_system = AmqpOptions { tls: TlsFiles { ca: None, ..secured.files() }, ..good.clone() };
    let told = secured.refusal(by_system).await;
    assert!(
        told.contains("no authority that is trusted here") || told.contains("TLS cannot be set up"),
        "{told}"
    );

    let by_name = AmqpOptions { url: secured.url().replace("127.0.0.1", "localhost").into(), ..good.clone() };
    let told = secured.refusal(by_name).await;
    assert!(told.contains("not valid for name \"localhost\""), "{told}");

    secured.serve_now(&secured.authority.expired_server(&["127.0.0.1"]));
    let told = secured.refusal(good.clone()).await;
    assert!(told.contains("its certificate is not accepted: ") && told.contains("expired"), "{told}");

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
    let told = secured.refusal(nobody).await;
    assert!(told.contains(SHOWN), "{told}");

    let foreign = Authority::new("another authority").client("ann").write(secured.path(), "foreign");
    let told =
        secured.refusal(AmqpOptions { tls: secured.showing(foreign.0, foreign.1), ..good.clone() }).await;
    assert!(told.contains(SHOWN), "{told}");

    let expired = secured.authority.expired_client("ann").write(secured.path(), "expired");
    let tls = secured.showing(expired.0, expired.1);
    let connector = Connector::new(AmqpOptions { tls: tls.clone(), ..good.clone() }).unwrap();
    let told = secured.refusal(AmqpOptions { tls, ..good }).await;
    assert!(told.contains(SHOWN), "{told}");

    // Renewed in its place, with nothing told to the client.
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
async fn a_port_without_tls_and_one_that_is_silent_are_told_in_time() {
    let secured = Secured::start().await;
    let plain = format!("amqps://ann:{PASSWORD}@127.0.0.1:{}/%2f", secured.node.port());
    let told = secured.refusal(AmqpOptions { url: plain.into(), ..secured.options() }).await;
    assert!(told.contains("it does not speak TLS on this port"), "{told}");

    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("amqps://ann:{PASSWORD}@{}", silent.local_addr().unwrap());
    let began = Instant::now();
    let impatient =
        AmqpOptions { tls: secured.files(), connect_timeout: Duration::from_millis(500), ..options(&url) };
    let told = secured.refusal(impatient).await;
    assert!(told.contains("no AMQP answer within 500ms") || told.contains("timed out"), "{told}");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}
