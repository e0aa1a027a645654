//! The fleet works on the job: it is published to the broker that the settings name.

use humantime::format_duration;
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;

use super::answer::SolveEnd;
use super::{Wanted, ask};
use crate::broker::topology::Names;
use crate::broker::{Replies, Session};
use crate::cli::{CommandError, Exit, connect};
use crate::config::Settings;
use crate::linger::Linger;

/// Publishes the job, and waits for the copy of its outcome.
pub(super) async fn solve(
    wanted: &Wanted,
    settings: &Settings,
    stop: &CancellationToken,
) -> Result<SolveEnd, CommandError> {
    let broker = connect::working_broker(settings, "captcha-worker solve", Linger::none())?;
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
            return Ok(SolveEnd::None { exit: Exit::Interrupted, text });
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
) -> SolveEnd {
    let Wanted { id, deadline, timeout, .. } = wanted;
    let (namespace, results) = (names.namespace(), names.results());
    tokio::select! {
        biased;
        reply = replies.recv() => match reply {
            Some(outcome) => SolveEnd::Outcome(outcome.into()),
            None => lost(wanted, session, &results).await,
        },
        () = stop.cancelled() => SolveEnd::None {
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
            SolveEnd::None {
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
async fn lost(wanted: &Wanted, session: &Session, results: &str) -> SolveEnd {
    session.end("the channel of the replies is closed");
    let Wanted { id, deadline, .. } = wanted;
    SolveEnd::None {
        exit: Exit::Unanswered,
        text: format!(
            "the reply is lost with its connection: {}; the fleet may work on job {id} until {deadline}, and pay. \
             Its outcome goes to {results} or to a dead-letter queue",
            session.closed().await
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::*;
    use crate::broker::memory::MemoryBroker;
    use crate::broker::topology::Topology;
    use crate::cli::input::now;

    async fn declared(broker: &MemoryBroker, names: &Names) -> Session {
        let session = broker.connect().await.unwrap();
        session.link().declare(&Topology::new(names)).await.unwrap();
        session
    }

    fn wanted() -> Wanted {
        let timeout = Duration::from_secs(60);
        let (deadline, until) = (now().plus(timeout), Instant::now() + timeout);
        Wanted { id: "solve-1".to_owned(), body: b"{}".to_vec(), timeout, deadline, until }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_connection_takes_the_reply_with_it_and_the_job_stays() {
        let (broker, names) = (MemoryBroker::new(), Names::new("c"));
        let (session, wanted) = (declared(&broker, &names).await, wanted());
        let replies = ask(&session, &names, &wanted).await.unwrap();
        broker.drop_all_sessions();
        let stop = CancellationToken::new();
        let SolveEnd::None { exit, text } = wait(&wanted, &session, replies, &names, &stop).await else {
            panic!("there is no outcome")
        };
        assert_eq!((exit, broker.queue_len("c.jobs")), (Exit::Unanswered, 1));
        for part in ["connection cut", "job solve-1", &wanted.deadline.to_string(), "c.results"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_that_no_queue_takes_is_reported_with_what_to_do() {
        let (broker, names) = (MemoryBroker::new(), Names::new("c"));
        let session = declared(&broker, &names).await;
        broker.unbind("c.jobs");
        let error = ask(&session, &names, &wanted()).await.unwrap_err();
        assert!(error.to_string().contains("captcha-worker topology declare"), "{error}");
    }
}
