//! RabbitMQ, by lapin.
use super::{BrokerError, Session};
/// (being written)
#[derive(Clone)]
pub struct Connector;
impl Connector {
    /// A new session.
    pub async fn connect(&self) -> Result<Session, BrokerError> {
        todo!()
    }
}
