//! Both brokers, for tests whose own part is no AMQP: everything that a process's settings say of
//! its broker is an address.

use std::time::Duration;

use captcha_worker::broker::Session;
use captcha_worker::broker::sqlite::{IfMissing, SqliteBroker, SqliteOptions};
use captcha_worker::linger::Linger;
use tempfile::TempDir;

use super::fleet::amqp;
use super::rabbit::{connect, fresh_namespace};

/// Runs tests once on each broker. A test takes the [`EitherBroker`] that it runs on.
macro_rules! on_both_brokers {
    ($($test:ident),* $(,)?) => {
        mod on_rabbitmq {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::$test($crate::support::either::EitherBroker::rabbitmq()).await;
            })*
        }
        mod on_a_file {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::$test($crate::support::either::EitherBroker::file()).await;
            })*
        }
    };
}
pub(crate) use on_both_brokers;

/// A broker, and a namespace on it that no other test has.
pub(crate) struct EitherBroker {
    /// As `broker.url` names it.
    pub(crate) url: String,
    pub(crate) namespace: String,
    /// Its broker is kept: where this process has the file, the others need it.
    file: Option<(SqliteBroker, TempDir)>,
}

impl EitherBroker {
    /// The node that `scripts/with-rabbitmq` has started.
    pub(crate) fn rabbitmq() -> Self {
        Self { url: amqp(), namespace: fresh_namespace(), file: None }
    }

    /// A queue file of the test's own.
    pub(crate) fn file() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("queue.db");
        let url = format!("sqlite://{}", path.display());
        let time_out = Duration::from_secs(10);
        let broker = SqliteBroker::new(SqliteOptions {
            path,
            if_missing: IfMissing::Fail,
            topology: None,
            connect_timeout: time_out,
            call_timeout: time_out,
            confirm_timeout: time_out,
            heartbeat: time_out,
            connection_name: "test".to_owned(),
            linger: Linger::none(),
        });
        Self { url, namespace: fresh_namespace(), file: Some((broker, folder)) }
    }

    /// A session of the test's own.
    pub(crate) async fn session(&self) -> Session {
        match &self.file {
            Some((broker, _)) => broker.connect().await.expect("a session"),
            None => connect(&self.url).await,
        }
    }
}
