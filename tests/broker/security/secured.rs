//! A RabbitMQ that speaks TLS and asks for a client certificate, with an authority of the test's
//! own.

use std::path::{Path, PathBuf};

use captcha_worker::broker::BrokerError;
use captcha_worker::broker::amqp::{AmqpOptions, Connector};
use captcha_worker::tls::{IdentityFiles, TlsFiles};
use tempfile::TempDir;

use crate::support::authority::{Authority, Issued};
use crate::support::rabbit::{Needs, RabbitNode, options};
use crate::within;

/// The password in every address here.
pub(crate) const PASSWORD: &str = "pl4nted-pass";

pub(crate) struct Secured {
    pub(crate) node: RabbitNode,
    pub(crate) authority: Authority,
    folder: TempDir,
}

impl Secured {
    pub(crate) async fn start() -> Self {
        let (folder, authority) = (TempDir::new().unwrap(), Authority::new("the test's authority"));
        std::fs::write(folder.path().join("ca.pem"), authority.pem()).unwrap();
        let secured = Self::serve(&folder, &authority.server(&["127.0.0.1"]));
        let needs = Needs {
            tls: Some(secured),
            conf:
                "auth_mechanisms.1 = PLAIN\nauth_mechanisms.2 = EXTERNAL\nssl_cert_login_from = common_name\n"
                    .to_owned(),
            plugins: "rabbitmq_auth_mechanism_ssl".to_owned(),
        };
        let node = RabbitNode::start_with(needs).await;
        node.ctl(&["add_user", "ann", PASSWORD]);
        node.ctl(&["set_permissions", "ann", ".*", ".*", ".*"]);
        authority.client("ann").write(folder.path(), "ann");
        Self { node, authority, folder }
    }

    fn serve(folder: &TempDir, server: &Issued) -> PathBuf {
        std::fs::write(folder.path().join("cert.pem"), &server.certificate).unwrap();
        std::fs::write(folder.path().join("key.pem"), &server.key).unwrap();
        folder.path().to_owned()
    }

    /// Gives the running broker another certificate.
    pub(crate) fn serve_now(&self, server: &Issued) {
        Self::serve(&self.folder, server);
        self.node.ctl(&["eval", "ssl:clear_pem_cache()."]);
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn url(&self) -> String {
        format!("amqps://ann:{PASSWORD}@127.0.0.1:{}/%2f", self.node.tls_port())
    }

    /// What a client needs that is welcome.
    pub(crate) fn files(&self) -> TlsFiles {
        self.showing(self.path().join("ann.cert.pem"), self.path().join("ann.key.pem"))
    }

    /// The same with another certificate.
    pub(crate) fn showing(&self, certificate: PathBuf, key: PathBuf) -> TlsFiles {
        TlsFiles { ca: Some(self.path().join("ca.pem")), identity: Some(IdentityFiles { certificate, key }) }
    }

    pub(crate) fn options(&self) -> AmqpOptions {
        AmqpOptions { tls: self.files(), ..options(&self.url()) }
    }

    /// Why it was not possible to connect.
    pub(crate) async fn refusal(&self, options: AmqpOptions) -> String {
        let connector = Connector::new(options).unwrap();
        let error = within("the refusal", connector.connect()).await.err().expect("a refusal");
        let shown = format!("{error} {error:?} {connector:?}");
        assert!(!shown.contains(PASSWORD) && !shown.contains("PRIVATE KEY"), "{shown}");
        assert!(matches!(error, BrokerError::Unreachable { .. }) && error.is_passing(), "{error:?}");
        error.to_string()
    }
}
