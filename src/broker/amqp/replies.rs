//! The consumer of direct replies. It shares the channel of the publisher whose messages are
//! replied to: RabbitMQ asks for that, and for a consumer without acks.

use std::time::Duration;

use futures_util::StreamExt;
use lapin::Channel;
use lapin::options::BasicConsumeOptions;
use lapin::types::{FieldTable, ShortString};
use tokio::sync::mpsc;

use super::convert::from_wire;
use super::fault::call;
use crate::broker::{BrokerError, CloseSignal};
use crate::domain::message::{DIRECT_REPLY, Message};

/// Begins to consume. RabbitMQ refuses messages that ask for a direct reply before that.
pub(super) async fn consume(channel: &Channel, max_wait: Duration) -> Result<lapin::Consumer, BrokerError> {
    let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let consuming =
        channel.basic_consume(DIRECT_REPLY.into(), ShortString::default(), options, FieldTable::default());
    call("basic.consume", max_wait, consuming).await
}

/// Hands replies on until the channel, the session or their reader is gone.
pub(super) async fn forward(
    mut stream: lapin::Consumer,
    replies: mpsc::Sender<Message>,
    close_signal: CloseSignal,
) {
    loop {
        let next = tokio::select! {
            biased;
            _ = close_signal.ended() => return,
            () = replies.closed() => return,
            next = stream.next() => next,
        };
        let Some(Ok(reply)) = next else { return };
        if replies.send(from_wire(reply.data, &reply.properties)).await.is_err() {
            return;
        }
    }
}
