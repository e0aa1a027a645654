//! What is read of an outcome, and of the job inside it.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value as Json;
use serde_json::value::RawValue;

use crate::time::Timestamp;

/// An outcome, as far as a replay needs it.
#[derive(Deserialize)]
pub(super) struct Written<'a> {
    #[serde(borrow)]
    pub(super) id: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) status: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(super) task_type: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) failure: Option<Failure<'a>>,
    pub(super) times: Times,
    #[serde(borrow, default)]
    pub(super) job: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) original: Option<Original<'a>>,
    #[serde(borrow, default)]
    pub(super) replay_id: Option<Cow<'a, str>>,
    #[serde(default)]
    pub(super) replays: Option<u32>,
}

#[derive(Deserialize)]
pub(super) struct Failure<'a> {
    #[serde(borrow)]
    pub(super) class: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) code: Cow<'a, str>,
}

#[derive(Deserialize)]
pub(super) struct Times {
    pub(super) finished_at: Timestamp,
}

#[derive(Deserialize)]
pub(super) struct Original<'a> {
    #[serde(borrow)]
    pub(super) encoding: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) body: Cow<'a, str>,
}

/// A job, as far as it is looked at here. What is wrong with it otherwise is admission's to tell.
#[derive(Default, Deserialize)]
pub(super) struct Seen {
    #[serde(default)]
    pub(super) id: Json,
    #[serde(default)]
    pub(super) deadline: Json,
    pub(super) task: Task,
}

#[derive(Default, Deserialize)]
pub(super) struct Task {
    #[serde(default, rename = "type")]
    pub(super) kind: Json,
}

impl Original<'_> {
    pub(super) fn decoded(&self) -> Option<Bytes> {
        match &*self.encoding {
            "utf-8" => Some(self.body.clone().into_owned().into()),
            "base64" => STANDARD.decode(self.body.as_bytes()).ok().map(Bytes::from),
            _ => None,
        }
    }
}

impl Seen {
    pub(super) fn id(&self) -> Option<String> {
        self.id.as_str().filter(|id| !id.is_empty()).map(str::to_owned)
    }

    pub(super) fn deadline(&self) -> Option<Timestamp> {
        Timestamp::parse(self.deadline.as_str()?)
    }
}
