//! What replicas and operators say to each other on the control exchange.
//!
//! Each message is JSON, transient, with an expiry, and carries the sender's `user_id`, which the
//! broker has verified. Nothing in them is a secret: keys and proxies are shown by their
//! fingerprints.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::vitals::{Depths, Vitals};
use crate::domain::callback::CallbackToken;
use crate::domain::fingerprint::Fingerprint;
use crate::domain::guard::{Reason, State};
use crate::domain::message::{Message, Properties};
use crate::domain::money::{Ordered, Orphan, SpendReport};
use crate::domain::solve_time::AnswersByKind;
use crate::domain::time::Timestamp;

/// AMQP's `type` of control messages.
pub(super) const KIND: &str = "captcha.control.v1";
/// AMQP's `type` of the guard's state message.
pub(super) const STATE_KIND: &str = "captcha.guard.v1";
/// Old news is no news. Milliseconds.
const EXPIRY_MS: &str = "10000";
/// A larger message is none of ours.
const MAX_BODY: usize = 256 * 1024;

/// A message between replicas, or from an operator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub(super) enum Control {
    /// Who is there, and how does the account stand?
    Hello,
    /// The leader's announcement.
    Leader(Box<LeaderAnnouncement>),
    /// A replica is there.
    Replica(Box<Heartbeat>),
    /// A replica leaves.
    Bye { id: String },
    /// A replica has found something out.
    Report(ReplicaReport),
    /// The leader wants a replica to try its key with one call of getBalance.
    Prove {
        /// The replica's id.
        id: String,
    },
    /// An operator's command.
    Command(OperatorCommand),
    /// Callbacks of the API that came to a replica which does not hold their tickets. Replicas of
    /// earlier versions ignore it.
    Callbacks { tokens: Vec<CallbackToken> },
    /// What a replica has spent since it runs.
    Spent(SpendReport),
    /// Acceptances of replicas that have not reported them, as their tickets show.
    Orphans { orphans: Vec<Orphan> },
    /// Where is this job? Answered to the `reply_to` of the message. Replicas of earlier versions
    /// ignore it.
    Find { job: String },
    /// What a replica knows of the job that it was asked for.
    Found {
        /// The replica's id.
        id: String,
        /// Its name.
        name: String,
        /// The latest first; none where it knows nothing.
        sightings: Vec<Sighting>,
    },
}

/// What a replica knows of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "place", rename_all = "snake_case")]
pub enum Sighting {
    /// The replica holds it.
    InFlight {
        /// A task for it is paid and open.
        paid: bool,
        /// Since when.
        since: Timestamp,
    },
    /// The replica has put it into a retry queue.
    Waits {
        /// When.
        since: Timestamp,
        /// The queue.
        queue: String,
    },
    /// The replica has published its outcome, with the solution.
    Solved {
        /// When.
        at: Timestamp,
    },
    /// The replica has published its outcome, without one.
    Failed {
        /// When.
        at: Timestamp,
        /// The class.
        class: String,
    },
}

/// The leader's announcement: the state in force, and what is known beside it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LeaderAnnouncement {
    /// The leader's id.
    pub id: String,
    /// The leader's name.
    pub name: String,
    /// The state in force.
    pub state: State,
    /// Task types that the API does not take.
    pub shut: Vec<String>,
    /// Those of them for which createTask fails; it has no slots for the others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failing: Vec<String>,
    /// Replicas that the leader hears, itself included.
    pub replicas: usize,
    /// The queues, as the leader saw them last; leaders of earlier versions report none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queues: Option<Depths>,
    /// When it was sent, by the leader's clock; leaders of earlier versions do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
}

/// A replica, as it reports itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Made anew with each process.
    pub id: String,
    /// Its name in outcomes.
    pub name: String,
    /// The highest epoch of the state that it knows; 0 for none.
    pub epoch: u64,
    /// The fingerprint of its key.
    pub key: Fingerprint,
    /// What it has met itself and is held by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<Reason>,
    /// Since when it runs.
    pub started_at: Timestamp,
    /// What its worker reports.
    pub vitals: Vitals,
    /// Its answers since its last heartbeat; replicas of earlier versions report none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub answers: AnswersByKind,
}

/// What a replica has found out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "found", rename_all = "snake_case")]
pub(super) enum ReplicaReport {
    /// The API refused the account.
    Refused {
        /// Why.
        reason: Reason,
        /// The key it was called with.
        key: Fingerprint,
        /// The term that the replica knew when the call began.
        term: u64,
    },
    /// A poll was answered: reported where the API did not know the id, where that is in doubt, and
    /// where it knows one while a replica waits for that.
    Answered {
        /// The replica's id.
        from: String,
        /// As above.
        term: u64,
        /// Its answers to polls since it runs, this one included.
        answered: u64,
        /// Those of them about ids that the API did not know.
        wrong_ids: u64,
        /// Whether this is one of them.
        wrong_id: bool,
        /// Wrong ids in a row that it knows of, with no answer about a known task between.
        #[serde(default)]
        in_a_row: u32,
        /// A wrong id, and this replica has met no known task since a silence.
        #[serde(default)]
        after_silence: bool,
        /// When the task of a wrong id was accepted.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        accepted_at: Option<Timestamp>,
    },
    /// While a replica may be waiting for a known task, the API knows one that is newer than those
    /// that are lost.
    NewerKnown {
        /// The replica's id.
        from: String,
        /// When the task was accepted.
        accepted_at: Timestamp,
    },
    /// The API does not answer this replica.
    Down,
    /// A call was refused by something that is not the API's own answer.
    Doubted,
    /// Nobody listened to this replica's calls for a moment: what was answered before says nothing
    /// any more.
    Silence {
        /// The replica's id.
        #[serde(default)]
        from: String,
        /// Its answers to polls before that, since it runs.
        #[serde(default)]
        answered: u64,
        /// Those of them about ids that the API did not know.
        #[serde(default)]
        wrong_ids: u64,
    },
    /// The API does not take a type.
    Shut {
        task_type: String,
        /// createTask fails for it; else it has no slots.
        #[serde(default)]
        failing: bool,
    },
    /// It has slots for it again.
    Slots { task_type: String },
    /// The API called a publisher's proxy banned.
    ProxyBanned { proxy: Fingerprint },
    /// A key was tried, as the leader wanted.
    KeyTried {
        key: Fingerprint,
        /// Whether the API took it; `None` where it did not say.
        good: Option<bool>,
    },
}

/// An operator's command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct OperatorCommand {
    /// Made anew for each, so that its effect can be seen.
    pub(super) id: String,
    /// What to do.
    pub(super) order: Order,
}

/// What an operator can order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Order {
    /// Submit nothing, until another order.
    Pause {
        /// Why, for the others.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// Go on, or look at once whether that is possible.
    Resume,
    /// Raise a budget for a while.
    RaiseBudget(Ordered),
}

/// A message as it was heard.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct VerifiedControl {
    pub(super) control: Control,
    /// The broker's user who said it.
    pub(super) user: String,
}

/// Who is believed.
#[derive(Debug, Clone)]
pub(super) struct Trust {
    /// The replicas' own user.
    pub(super) own: String,
    /// Users who may give orders.
    pub(super) operators: Vec<String>,
}

impl Trust {
    /// Reads a control message; `None` where its sender is not known to the broker, or may not say
    /// it, or it is none of ours.
    pub(super) fn verify(&self, message: &Message) -> Option<VerifiedControl> {
        let user = message.properties.user_id.as_deref()?;
        if message.body.len() > MAX_BODY || message.properties.kind.as_deref() != Some(KIND) {
            return None;
        }
        let control: Control = serde_json::from_slice(&message.body).ok()?;
        let may = match &control {
            Control::Command(_) | Control::Hello | Control::Find { .. } => {
                user == self.own || self.operators.iter().any(|operator| operator == user)
            }
            Control::Leader(_)
            | Control::Replica(_)
            | Control::Bye { .. }
            | Control::Report(_)
            | Control::Callbacks { .. }
            | Control::Spent(_)
            | Control::Orphans { .. }
            | Control::Found { .. }
            | Control::Prove { .. } => user == self.own,
        };
        may.then(|| VerifiedControl { control, user: user.to_owned() })
    }

    /// Reads the guard's state message; `None` where no replica wrote it.
    pub(super) fn read_state(&self, message: &Message) -> Option<State> {
        let ours = message.properties.user_id.as_deref() == Some(&self.own);
        (ours && message.body.len() <= MAX_BODY).then(|| State::read(&message.body)).flatten()
    }
}

fn written(body: Vec<u8>, kind: &str, user: &str) -> Message {
    let properties = Properties {
        content_type: Some("application/json".to_owned()),
        kind: Some(kind.to_owned()),
        user_id: Some(user.to_owned()),
        ..Properties::default()
    };
    Message { body: body.into(), properties, transient: false }
}

/// A control message as it goes out.
pub(super) fn encode(control: &Control, user: &str) -> Message {
    // Plain data with string keys: there is nothing in it that could fail to be written.
    let mut message = written(serde_json::to_vec(control).unwrap_or_default(), KIND, user);
    message.properties.expiration = Some(EXPIRY_MS.to_owned());
    message.transient = true;
    message
}

/// The guard's state message as it goes out.
pub(super) fn encode_state(state: &State, user: &str) -> Message {
    written(state.to_bytes(), STATE_KIND, user)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::money::{Acceptance, Decimal};

    fn trust() -> Trust {
        Trust { own: "worker".to_owned(), operators: vec!["ops".to_owned()] }
    }

    #[test]
    fn only_the_workers_user_is_believed_about_the_account_and_operators_about_orders() {
        let order =
            Control::Command(OperatorCommand { id: "1".to_owned(), order: Order::Pause { reason: None } });
        let bye = Control::Bye { id: "x".to_owned() };
        for (user, control, believed) in [
            ("worker", &order, true),
            ("ops", &order, true),
            ("publisher", &order, false),
            ("worker", &bye, true),
            ("ops", &bye, false),
        ] {
            let heard = trust().verify(&encode(control, user));
            assert_eq!(heard.is_some(), believed, "{user}: {control:?}");
        }
        let mut anonymous = encode(&order, "worker");
        anonymous.properties.user_id = None;
        assert_eq!(trust().verify(&anonymous), None, "a sender that the broker has not verified");
    }

    #[test]
    fn a_leader_of_an_earlier_version_is_heard_and_so_is_one_of_a_later() {
        let state = State::unknown(3, Timestamp::from_millis(0));
        let earlier = serde_json::json!({
            "say": "leader", "id": "1", "name": "a", "state": state, "shut": [], "replicas": 2,
        });
        let mut later = earlier.clone();
        later["queues"] = serde_json::json!({"at": state.since, "ready": {"jobs": 5}, "new": 1});
        later["new"] = 1.into();
        for (said, jobs) in [(earlier, None), (later, Some(5))] {
            let mut message = encode(&Control::Hello, "worker");
            message.body = said.to_string().into_bytes().into();
            let Some(Control::Leader(news)) = trust().verify(&message).map(|heard| heard.control) else {
                panic!("not heard: {said}");
            };
            assert_eq!((news.replicas, news.queues.map(|queues| queues.ready["jobs"])), (2, jobs));
        }
    }

    #[test]
    fn what_a_later_version_says_beside_is_ignored() {
        let mut message = encode(&Control::Hello, "worker");
        message.body = r#"{"say":"what_is_not_known_yet","tokens":[]}"#.into();
        assert_eq!(trust().verify(&message), None);
        let tokens = vec![CallbackToken::new(1)];
        let said = Control::Callbacks { tokens };
        let heard = |user| trust().verify(&encode(&said, user)).map(|heard| heard.control);
        assert_eq!((heard("worker").as_ref(), heard("publisher")), (Some(&said), None));
    }

    #[test]
    fn the_books_are_heard_as_they_were_sent() {
        let mut state = State::unknown(3, Timestamp::from_millis(0));
        let mut report = SpendReport { id: "a".to_owned(), seq: 1, accepted: 1, ..SpendReport::default() };
        report.spent.note("bulk", "T", Decimal::ONE);
        state.money.books.note(&report, Timestamp::from_millis(0));
        let acceptance = Acceptance { replica: "a".to_owned(), number: 2 };
        let (lane, kind) = ("bulk".to_owned(), "T".to_owned());
        let orphan = Orphan { acceptance, lane, kind, price: Decimal::ONE };
        state.money.books.note_orphan(&orphan, Timestamp::from_millis(0));
        let news = LeaderAnnouncement {
            id: "1".to_owned(),
            name: "a".to_owned(),
            state,
            shut: Vec::new(),
            failing: Vec::new(),
            replicas: 1,
            queues: None,
            at: Some(Timestamp::from_millis(0)),
        };
        let leader = Control::Leader(Box::new(news));
        for said in [leader, Control::Spent(report), Control::Orphans { orphans: vec![orphan] }] {
            let heard = trust().verify(&encode(&said, "worker")).map(|heard| heard.control);
            assert_eq!(heard, Some(said));
        }
    }

    #[test]
    fn garbage_is_not_heard() {
        let mut garbage = encode(&Control::Hello, "worker");
        garbage.body = "{}".into();
        assert_eq!(trust().verify(&garbage), None);
        garbage.body = vec![b' '; MAX_BODY + 1].into();
        assert_eq!(trust().verify(&garbage), None);
    }

    #[test]
    fn a_state_that_no_replica_wrote_is_not_read() {
        let state = State::unknown(3, Timestamp::from_millis(0));
        assert_eq!(trust().read_state(&encode_state(&state, "worker")), Some(state.clone()));
        assert_eq!(trust().read_state(&encode_state(&state, "publisher")), None);
    }
}
