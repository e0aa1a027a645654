//! The fleet works on the job: it is published to the broker that the settings name.

use humantime::format_duration;
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;

use super::answer::End;
use super::{Wanted, ask};
use crate::broker::topology::Names;
use crate::broker::{Replies, Session};
use crate::cli::{CommandError, Exit, connect};
use crate::config::Settings;

/// Publishes the job, and waits for the copy of its outcome.
pub(super) async fn solve(
    wanted: &Wanted,
    settings: &Settings,
    stop: &CancellationToken,
) -> Result<End, CommandError> {
    let broker = connect::broker(settings, "captcha-worker solve")?;
    let names = Names::new(&settings.broker.namespace);
    let connecting = async {
        let session = broker.connect().await?;
        // A publish to an exchange that does not exist would end the session instead.
        session.link().depth(&names.jobs()).await?;
        Ok::<_, CommandError>(session)
    };
    let session = tokio::select! {
        biased;
        () = stop.cancelled() => {
            let text = "interrupted; nothing was published".to_owned();
            return Ok(End::None { exit: Exit::Interrupted, text });
        }
        session = connecting => session?,
    };
    // To the end: half-way through, nobody knows whether the broker has the job.
    let end = match ask(&session, &names, wanted).await {
        Ok(replies) => Ok(wait(wanted, &session, replies, &names, stop).await),
        Err(error) => Err(error),
    };
    session.link().close().await;
    end
}

async fn wait(
    wanted: &Wanted,
    session: &Session,
    mut replies: Replies,
    names: &Names,
    stop: &CancellationToken,
) -> End {
    let Wanted { id, deadline, timeout, .. } = wanted;
    let (namespace, results) = (names.namespace(), names.results());
    tokio::select! {
        biased;
        reply = replies.recv() => match reply {
            Some(outcome) => End::Outcome(outcome.into()),
            None => lost(wanted, session, &results).await,
        },
        () = stop.cancelled() => End::None {
            exit: Exit::Interrupted,
            text: format!(
                "interrupted; job {id} stays queued: until its deadline, {deadline}, the fleet may submit it and pay. \
                 Its outcome goes to {results} or to a queue {namespace}.dead.<class>"
            ),
        },
        () = sleep_until(wanted.until) => {
            let hint = match session.link().depth(&names.jobs()).await {
                Ok(depth) if depth.consumers == 0 => "; no replica takes jobs now: see `captcha-worker status`",
                Ok(_) | Err(_) => "",
            };
            End::None {
                exit: Exit::Unanswered,
                text: format!(
                    "no answer within {}{hint}\njob {id} stays queued. Its deadline, {deadline}, has passed: the fleet pays \
                     for nothing more of it. Its outcome, with what it has paid, goes to {results} or to a queue {namespace}.dead.<class>",
                    format_duration(*timeout)
                ),
            }
        }
    }
}

/// A reply is sent once, to a connection that is gone.
async fn lost(wanted: &Wanted, session: &Session, results: &str) -> End {
    session.end("the channel of the replies is closed");
    let Wanted { id, deadline, .. } = wanted;
    End::None {
        exit: Exit::Unanswered,
        text: format!(
            "the reply is lost with its connection: {}; the fleet may work on job {id} until {deadline}, and pay. \
             Its outcome goes to {results} or to a dead-letter queue",
            session.closed().await
        ),
    }
}
