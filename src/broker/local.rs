//! The broker in process: for the demo and for tests.
use super::{BrokerError, Session};
/// (being written)
#[derive(Clone)]
pub struct LocalBroker;
impl LocalBroker {
    /// A new session.
    pub async fn connect(&self) -> Result<Session, BrokerError> {
        todo!()
    }
}
