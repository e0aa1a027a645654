//! `captcha-worker reroute`: outcomes that no queue was bound for, published again.

use std::num::NonZeroU64;

use clap::Args;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::console::Output;
use super::{CommandError, Exit};
use crate::broker::topology::Names;
use crate::broker::{Broker, Delivery, Session};

/// Publish outcomes again that no queue was bound for, by the keys that they had.
///
/// First create the missing binding (`topology declare` creates all of ours). Each outcome is taken
/// off `unrouted` once the broker has confirmed it elsewhere, so that an interruption repeats one
/// outcome and loses none. What still has no queue falls back into `unrouted`; those that arrive
/// meanwhile are left for another run.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  captcha-worker outcomes --unrouted --limit 5  look at what lies there
  captcha-worker topology declare               make the binding
  captcha-worker reroute

Exit codes: 0 nothing is left in 'unrouted', 1 something is, or it failed, 2 wrong usage.")]
pub(super) struct RerouteArgs {
    /// Publish at most so many
    #[arg(long, value_name = "N")]
    limit: Option<NonZeroU64>,
}

pub(super) async fn run(
    args: &RerouteArgs,
    broker: &Broker,
    names: &Names,
    output: &mut Output,
    stop: &CancellationToken,
) -> Result<Exit, CommandError> {
    let session = broker.connect().await?;
    let done = reroute(args, &session, names, stop).await;
    session.link().close().await;
    let (moved, left) = done?;
    if output.is_json() {
        output.value(&json!({ "published_again": moved, "left": left }))?;
    } else {
        output.line(format_args!("{moved} outcomes published again, {left} in '{}'", names.unrouted()))?;
        if left > 0 {
            output.line(
                "What is left has no queue yet, or has just come: see `captcha-worker outcomes --unrouted` for the keys, and bind a queue for them.",
            )?;
        }
    }
    Ok(Exit::when(left == 0))
}

/// How many were published again, and how many lie there now.
async fn reroute(
    args: &RerouteArgs,
    session: &Session,
    names: &Names,
    stop: &CancellationToken,
) -> Result<(u64, u64), CommandError> {
    let (unrouted, outcomes) = (names.unrouted(), names.outcomes());
    let there = session.link().depth(&unrouted).await?.ready;
    let most = args.limit.map_or(there, |limit| limit.get().min(there));
    let mut moved = 0;
    while moved < most && !stop.is_cancelled() {
        let Some(delivery) = session.link().get(&unrouted).await? else {
            break;
        };
        let Delivery { mut message, routing_key, receipt, .. } = delivery;
        // The broker takes no other user's name from us.
        message.properties.user_id = None;
        session.publish(&outcomes, &routing_key, message).await.map_err(CommandError::failed)?;
        receipt.ack().map_err(CommandError::failed)?;
        moved += 1;
    }
    Ok((moved, session.link().depth(&unrouted).await?.ready))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::memory::MemoryBroker;
    use crate::broker::topology::Topology;
    use crate::domain::message::{Message, Properties};

    async fn ready(session: &Session, queue: &str) -> u64 {
        session.link().depth(queue).await.unwrap().ready
    }

    fn outcome(user: &str) -> Message {
        let properties = Properties { user_id: Some(user.to_owned()), ..Properties::default() };
        Message { body: b"{}".to_vec().into(), properties, transient: false }
    }

    #[tokio::test]
    async fn what_has_a_queue_by_now_gets_there_and_the_rest_is_counted_and_kept() {
        let (broker, names, stop) =
            (Broker::Memory(MemoryBroker::new()), Names::new("c"), CancellationToken::new());
        let session = broker.connect().await.unwrap();
        let whole = Topology::new(&names);
        let mut unbound = whole.clone();
        unbound.bindings.retain(|binding| binding.queue != names.results());
        session.link().declare(&unbound).await.unwrap();
        for key in ["solved.ImageToTextTask", "solved.HCaptchaTask", "nobody.knows"] {
            session.publish(&names.outcomes(), key, outcome(broker.user())).await.unwrap();
        }
        let everything = RerouteArgs { limit: None };
        assert_eq!(reroute(&everything, &session, &names, &stop).await.unwrap(), (3, 3), "not bound yet");

        session.link().declare(&whole).await.unwrap();
        let two = RerouteArgs { limit: NonZeroU64::new(2) };
        assert_eq!(reroute(&two, &session, &names, &stop).await.unwrap(), (2, 1));
        assert_eq!(ready(&session, &names.results()).await, 2);
        assert_eq!(reroute(&everything, &session, &names, &stop).await.unwrap(), (1, 1), "it came back once");
        stop.cancel();
        assert_eq!(reroute(&everything, &session, &names, &stop).await.unwrap(), (0, 1));
    }
}
