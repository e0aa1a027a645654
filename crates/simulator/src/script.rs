//! Scripts: what the API shall answer, step by step, instead of what it would answer by itself.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor, value::MapAccessDeserializer};

/// Longest list of steps, so that a script riding in a task cannot fill the memory.
const MAX_STEPS: usize = 256;
/// Longest body of an `http` step, in bytes, for the same reason; longer answers are what
/// `oversize` is for.
const MAX_STEP_BODY: usize = 64 * 1024;
/// Longest error code, in bytes.
const MAX_CODE: usize = 64;

/// One step of a script.
///
/// In TOML and JSON a step is a lower-case word, an error code in capitals, or a table
/// `{ http = 503, body = "…", retry_after = 3, content_type = "…" }`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Step {
    /// `"ok"`: what the API would answer by itself.
    Ok,
    /// `"processing"` (result only): not ready, however long ago it was solved.
    Processing,
    /// An error code in capitals, answered as the API answers errors: HTTP 200, `errorId` 1.
    Code(String),
    /// Any HTTP answer.
    Http(HttpStep),
    /// `"cut"`: the connection is closed in the middle of the answer.
    Cut,
    /// `"hang"`: no answer ever.
    Hang,
    /// `"html"`: HTTP 200 with a web page.
    Html,
    /// `"empty"`: HTTP 200 with no body.
    Empty,
    /// `"truncated"`: HTTP 200 with the first half of a JSON answer, the length declared to match.
    Truncated,
    /// `"oversize"`: HTTP 200 with valid JSON of more than 1 MiB.
    Oversize,
    /// `"no_status"` (result only): `{"errorId":0}`, neither ready nor processing.
    NoStatus,
    /// `"forget"` (result only): the task is lost. This call and every later one for it is
    /// answered, and counted, as one of an unknown id.
    Forget,
    /// `"accepted_then_cut"` (create only): the task is accepted and paid, then the answer is cut.
    AcceptedThenCut,
    /// `"accepted_then_hang"` (create only): the task is accepted and paid, and no answer comes.
    AcceptedThenHang,
}

/// Any HTTP answer, word for word.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpStep {
    /// HTTP status, 200 to 599.
    #[serde(rename = "http")]
    pub status: u16,
    /// The body; empty by default, at most 64 KiB.
    #[serde(default)]
    pub body: String,
    /// The header `Retry-After`, in seconds; absent by default.
    #[serde(default)]
    pub retry_after: Option<u64>,
    /// The header `Content-Type`; `application/json` by default.
    #[serde(default)]
    pub content_type: Option<String>,
}

/// Answers for one task. The n-th submission of a task (the same JSON) takes the n-th step of
/// `create`, the n-th poll of an accepted task the n-th of `result`; **the last step repeats**, and
/// an empty list is `ok` for ever.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Script {
    /// Steps of createTask.
    #[serde(default)]
    pub create: Vec<Step>,
    /// Steps of getTaskResult.
    #[serde(default)]
    pub result: Vec<Step>,
    /// Time from acceptance to the answer in ms, instead of a draw.
    #[serde(default)]
    pub solve_ms: Option<u32>,
    /// Only so many first submissions of a task follow the script, and later ones none; all by
    /// default.
    #[serde(default)]
    pub submissions: Option<u32>,
    /// What becomes of the task's callback, where one is asked for; once by default.
    #[serde(default)]
    pub callback: CallbackStep,
}

/// What becomes of a task's callback.
///
/// In TOML and JSON a lower-case word, or a table `{ late_ms = 3000 }`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallbackStep {
    /// Sent once, when the task is ready.
    #[default]
    Once,
    /// Sent twice, one after the other.
    Twice,
    /// Not sent.
    Never,
    /// Sent to the address of the callback that was asked for last before it, or of its own where
    /// it is the first.
    WrongTask,
    /// Sent once, so many ms after the task is ready.
    #[serde(untagged)]
    Late(LateCallback),
}

/// A callback that comes late.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LateCallback {
    /// So many ms after the task is ready.
    pub late_ms: u32,
}

/// A scenario's rule: a script for every task that `when` fits. The first rule that fits wins.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Which tasks; all by default.
    #[serde(default)]
    pub when: When,
    /// Steps of createTask, as in [`Script::create`].
    #[serde(default)]
    pub create: Vec<Step>,
    /// Steps of getTaskResult, as in [`Script::result`].
    #[serde(default)]
    pub result: Vec<Step>,
    /// As [`Script::solve_ms`].
    #[serde(default)]
    pub solve_ms: Option<u32>,
    /// As [`Script::submissions`].
    #[serde(default)]
    pub submissions: Option<u32>,
    /// As [`Script::callback`].
    #[serde(default)]
    pub callback: CallbackStep,
}

/// Which tasks a rule fits; both conditions must hold.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct When {
    /// Tasks of this `type`.
    #[serde(default, rename = "type")]
    pub kind: Option<String>,
    /// This share of tasks, 0 to 1. Drawn from the task's digest and the seed, not from the order
    /// of calls, so that a task submitted again meets the same rule.
    #[serde(default)]
    pub share: Option<f64>,
}

/// The step for the `turn`-th time (from 0) that a list is asked.
pub(super) fn step_at(steps: &[Step], turn: u32) -> &Step {
    let turn = usize::try_from(turn).unwrap_or(usize::MAX);
    steps.get(turn).or(steps.last()).unwrap_or(&Step::Ok)
}

impl Step {
    /// The steps that are a word alone.
    const WORDS: [(&'static str, Step); 12] = [
        ("ok", Step::Ok),
        ("processing", Step::Processing),
        ("cut", Step::Cut),
        ("hang", Step::Hang),
        ("html", Step::Html),
        ("empty", Step::Empty),
        ("truncated", Step::Truncated),
        ("oversize", Step::Oversize),
        ("no_status", Step::NoStatus),
        ("forget", Step::Forget),
        ("accepted_then_cut", Step::AcceptedThenCut),
        ("accepted_then_hang", Step::AcceptedThenHang),
    ];

    /// The word by which statistics count this step; codes are counted by themselves instead.
    pub(super) fn fault_name(&self) -> Option<&'static str> {
        match self {
            Self::Ok | Self::Processing | Self::Code(_) => None,
            Self::Http(_) => Some("http"),
            word => Self::WORDS.iter().find(|(_, step)| step == word).map(|(name, _)| *name),
        }
    }

    fn from_word(word: &str) -> Option<Self> {
        let step = Self::WORDS.into_iter().find(|(name, _)| *name == word).map(|(_, step)| step);
        step.or_else(|| is_code(word).then(|| Self::Code(word.to_owned())))
    }
}

/// Capitals, digits and underscores: such a code needs no escaping in an answer.
fn is_code(word: &str) -> bool {
    word.len() <= MAX_CODE
        && word.starts_with(|first: char| first.is_ascii_uppercase())
        && word.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
}

impl Script {
    /// What is wrong with this script, if anything.
    pub(super) fn fault(&self) -> Option<String> {
        if self.create.len() > MAX_STEPS || self.result.len() > MAX_STEPS {
            return Some(format!("more than {MAX_STEPS} steps"));
        }
        if self.create.iter().any(|step| matches!(step, Step::Processing | Step::NoStatus | Step::Forget)) {
            return Some(
                "create: \"processing\", \"no_status\" and \"forget\" are steps of result".to_owned(),
            );
        }
        if self.result.iter().any(|step| matches!(step, Step::AcceptedThenCut | Step::AcceptedThenHang)) {
            return Some("result: \"accepted_then_…\" are steps of create".to_owned());
        }
        self.create.iter().chain(&self.result).find_map(http_fault)
    }
}

/// What is wrong with the numbers of an `http` step, if anything.
pub(super) fn http_fault(step: &Step) -> Option<String> {
    let Step::Http(http) = step else { return None };
    if !(200..=599).contains(&http.status) {
        return Some(format!("http = {}: not a status of 200 to 599", http.status));
    }
    if http.body.len() > MAX_STEP_BODY {
        return Some(format!("an http step's body is above {MAX_STEP_BODY} bytes"));
    }
    let content_type = http.content_type.as_deref().unwrap_or_default();
    (content_type.len() > 200 || !content_type.bytes().all(|byte| matches!(byte, b' '..=b'~')))
        .then(|| "an http step's content_type is not plain ASCII of at most 200 bytes".to_owned())
}

impl Rule {
    /// The rule's steps as a script.
    pub(super) fn script(&self) -> Script {
        Script {
            create: self.create.clone(),
            result: self.result.clone(),
            solve_ms: self.solve_ms,
            submissions: self.submissions,
            callback: self.callback,
        }
    }
}

impl<'de> Deserialize<'de> for Step {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StepVisitor)
    }
}

struct StepVisitor;

impl<'de> Visitor<'de> for StepVisitor {
    type Value = Step;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(
            "a step: \"ok\", \"processing\", \"cut\", \"hang\", \"html\", \"empty\", \"truncated\", \"oversize\", \
             \"no_status\", \"forget\", \"accepted_then_cut\", \"accepted_then_hang\", an error code in capitals, or { http = 503, … }",
        )
    }

    fn visit_str<E: serde::de::Error>(self, word: &str) -> Result<Step, E> {
        Step::from_word(word).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(word), &self))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Step, A::Error> {
        HttpStep::deserialize(MapAccessDeserializer::new(map)).map(Step::Http).map_err(A::Error::custom)
    }
}
