//! Replies to what a process publishes.

use std::time::Duration;

use captcha_worker::broker::topology::Names;
use captcha_worker::broker::{Broker, PublishError, Replies, Session};
use captcha_worker::domain::message::{DIRECT_REPLY, Message, Properties};
use tokio::time::timeout;

use crate::conformance::fixtures::{connect, get, message, name, queue, text, with_queues, within};

/// How long nothing must come for "nothing comes".
const SILENCE: Duration = Duration::from_millis(500);

async fn open(session: &Session) -> Replies {
    within("replies", session.link().open_replies()).await.expect("replies")
}

/// Publishes a request to a queue.
async fn ask(replies: &Replies, queue: &str, body: &str) {
    let reply_to = Some(replies.reply_to().to_owned());
    let request = Message { properties: Properties { reply_to, ..Properties::default() }, ..message(body) };
    let publish = replies.publisher().publish("", queue, true, request);
    within("a confirm", publish).await.expect("confirmed");
}

/// Takes the next request and replies to it, as a worker does.
async fn answer(session: &Session, queue: &str, body: &str) -> Result<(), PublishError> {
    let request = get(session, queue).await;
    let reply_to = request.message.properties.reply_to.clone().expect("an address");
    assert!(reply_to.starts_with(&format!("{DIRECT_REPLY}.")), "{reply_to}");
    request.receipt.ack().expect("a live channel");
    let reply = Message { transient: true, ..message(body) };
    within("a confirm", session.publisher().publish("", &reply_to, false, reply)).await
}

async fn next(replies: &mut Replies) -> Message {
    within("a reply", replies.recv()).await.expect("a live channel")
}

pub(crate) async fn a_reply_reaches_who_asked_and_nobody_else(broker: Broker, names: Names) {
    let own = name(&names, "q");
    let session = with_queues(&broker, vec![queue(&own, &[])]).await;
    let asker = connect(&broker).await;
    let (mut one, mut two) = (open(&asker).await, open(&asker).await);
    ask(&one, &own, "from one").await;
    ask(&two, &own, "from two").await;
    answer(&session, &own, "to one").await.unwrap();
    answer(&session, &own, "to two").await.unwrap();
    assert_eq!(text(&next(&mut one).await), "to one");
    assert_eq!(text(&next(&mut two).await), "to two");
    assert!(timeout(SILENCE, one.recv()).await.is_err());
    assert!(timeout(SILENCE, two.recv()).await.is_err());
}

pub(crate) async fn several_replies_come_in_their_order(broker: Broker, names: Names) {
    let own = name(&names, "q");
    let session = with_queues(&broker, vec![queue(&own, &[])]).await;
    let mut replies = open(&session).await;
    for number in 0..100 {
        ask(&replies, &own, "request").await;
        answer(&session, &own, &number.to_string()).await.unwrap();
    }
    for number in 0..100 {
        assert_eq!(text(&next(&mut replies).await), number.to_string());
    }
}

pub(crate) async fn a_request_that_no_queue_takes_is_unroutable(broker: Broker, names: Names) {
    let session = connect(&broker).await;
    let replies = open(&session).await;
    let reply_to = Some(replies.reply_to().to_owned());
    let request = Message { properties: Properties { reply_to, ..Properties::default() }, ..message("m") };
    let absent = name(&names, "absent");
    let publish = replies.publisher().publish("", &absent, true, request);
    let fate = within("a fate", publish).await;
    assert!(matches!(fate, Err(PublishError::Unroutable(_))), "{fate:?}");
    assert!(!session.is_closed());
}

pub(crate) async fn a_reply_to_who_has_gone_is_dropped(broker: Broker, names: Names) {
    let own = name(&names, "q");
    let session = with_queues(&broker, vec![queue(&own, &[])]).await;
    let asker = connect(&broker).await;
    let replies = open(&asker).await;
    ask(&replies, &own, "request").await;
    drop(replies);
    within("the close", asker.link().close()).await;
    assert_eq!(answer(&session, &own, "to nobody").await, Ok(()));
    assert!(!session.is_closed());
}

pub(crate) async fn replies_end_with_their_session(broker: Broker, _: Names) {
    let session = connect(&broker).await;
    let mut replies = open(&session).await;
    within("the close", session.link().close()).await;
    assert!(within("the end", replies.recv()).await.is_none());
    let publish = replies.publisher().publish("", "anywhere", false, message("late"));
    let fate = within("a fate", publish).await;
    assert!(matches!(fate, Err(PublishError::NotSent(_) | PublishError::Unknown(_))), "{fate:?}");
}
