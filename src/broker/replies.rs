//! Replies to what this process publishes: the broker's direct reply-to.

use tokio::sync::mpsc;

use super::Publisher;
use crate::domain::message::Message;

/// Replies that wait here to be received. Each was asked for by a publish of this process.
const WAITING: usize = 64;

/// A publisher, with the address for replies to its messages, and the replies.
///
/// The address holds on this publisher's messages alone, because RabbitMQ ties it to their channel.
/// Replies need no settlement: each is sent once, and what is lost with the session is lost.
#[derive(Debug)]
pub struct Replies {
    publisher: Publisher,
    reply_to: String,
    messages: mpsc::Receiver<Message>,
}

impl Replies {
    /// Puts both ends together; the broker sends into the second.
    #[must_use]
    pub fn new(publisher: Publisher, reply_to: String) -> (Self, mpsc::Sender<Message>) {
        let (sender, messages) = mpsc::channel(WAITING);
        (Self { publisher, reply_to, messages }, sender)
    }

    /// What to publish with.
    #[must_use]
    pub fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    /// What to write into `reply_to`.
    #[must_use]
    pub fn reply_to(&self) -> &str {
        &self.reply_to
    }

    /// The next reply; `None` when no more can arrive.
    pub async fn recv(&mut self) -> Option<Message> {
        self.messages.recv().await
    }
}
