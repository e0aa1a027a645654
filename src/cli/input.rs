//! Jobs on their way in: lines of NDJSON, or images, read one at a time so that an input of any
//! size fits in memory.

use std::ffi::OsStr;
use std::fmt;
use std::io::{self, BufRead, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::domain::class::Class;
use crate::domain::job::Job;
use crate::domain::message::{Message, Properties};
use crate::domain::policy::Policy;
use crate::domain::time::Timestamp;

/// The longest message that the worker takes for a job, in bytes; a longer one would be rejected
/// whole.
pub const MAX_BODY: usize = 1 << 20;
/// What an image is submitted as.
pub(super) const IMAGE_TYPE: &str = "ImageToTextTask";
/// AMQP's short string: what a message id must fit into.
const MAX_MESSAGE_ID: usize = 255;
/// Jobs read ahead of those being published: at most this many MiB.
const READ_AHEAD: usize = 16;

/// Where a job was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// A line of the input, counted from 1.
    Line(u64),
    /// An image file, as it was named.
    Image(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Line(number) => write!(f, "line {number}"),
            Origin::Image(path) => write!(f, "image '{path}'"),
        }
    }
}

/// A job ready to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewJob {
    /// Where it was read.
    pub origin: Origin,
    /// The message's body.
    pub body: Bytes,
    /// The job's own id, where it has one that can be a message's too.
    pub id: Option<String>,
}

impl NewJob {
    /// Judges it as a worker's admission will. Which sites may be automated is not judged: that is
    /// the workers' policy, and the publisher's settings need not have it.
    ///
    /// # Errors
    /// Admission would refuse it.
    pub fn checked(self) -> Entry {
        let properties = Properties { message_id: self.id.clone(), ..Properties::default() };
        let mut message = Message { body: self.body.clone(), properties, transient: false };
        let refused = match Job::read(&mut message, &Policy::default(), String::new) {
            Err(refused) if refused.fault.class != Class::Forbidden => refused.fault,
            _ => return Ok(self),
        };
        let reason = if self.body.trim_ascii_start().starts_with(b"[") {
            "an array is no job: write one job a line, as `jq -c '.[]'` does".into()
        } else {
            refused.description
        };
        let reason = reason.into_owned();
        Err(BadEntry { origin: self.origin, column: None, reason })
    }
}

/// Something in the input that cannot be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadEntry {
    /// Where it stands.
    pub origin: Origin,
    /// In a line: the byte, counted from 1.
    pub column: Option<usize>,
    /// What is wrong with it. Never quotes the input, which may hold credentials.
    pub reason: String,
}

/// What an input yields.
pub type Entry = Result<NewJob, BadEntry>;

/// The jobs of NDJSON: each line verbatim, without its line end. Blank lines are passed over.
#[derive(Debug)]
pub struct Lines<R> {
    reader: R,
    number: u64,
    broken: bool,
}

impl<R: BufRead> Lines<R> {
    /// The lines of a reader.
    pub fn new(reader: R) -> Self {
        Self { reader, number: 0, broken: false }
    }

    /// The next line without its end; `Ok(Err(..))` where it is too long, and then it has been
    /// skipped.
    pub(super) fn next_line(&mut self) -> io::Result<Option<Result<Vec<u8>, String>>> {
        let mut line = Vec::new();
        // The longest line with its "\r\n".
        let most = MAX_BODY as u64 + 2;
        if (&mut self.reader).take(most).read_until(b'\n', &mut line)? == 0 {
            return Ok(None);
        }
        self.number += 1;
        if line.pop_if(|last| *last == b'\n').is_some() {
            line.pop_if(|last| *last == b'\r');
        } else if line.len() as u64 == most {
            self.reader.skip_until(b'\n')?;
        }
        if self.number == 1 && line.starts_with(b"\xEF\xBB\xBF") {
            // A byte order mark belongs to the file, not to its first job.
            line.drain(..3);
        }
        Ok(Some(if line.len() > MAX_BODY {
            Err(format!("longer than a job may be ({MAX_BODY} bytes)"))
        } else {
            Ok(line)
        }))
    }

    /// The number of the line that was read last.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    fn bad(&self, column: Option<usize>, reason: String) -> BadEntry {
        BadEntry { origin: Origin::Line(self.number), column, reason }
    }
}

impl<R: BufRead> Iterator for Lines<R> {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        while !self.broken {
            let body = match self.next_line() {
                Ok(None) => return None,
                Ok(Some(Ok(line))) if line.trim_ascii().is_empty() => continue,
                Ok(Some(Ok(line))) => line,
                Ok(Some(Err(reason))) => return Some(Err(self.bad(None, reason))),
                Err(error) => {
                    self.broken = true;
                    self.number += 1;
                    return Some(Err(self.bad(None, format!("the input cannot be read: {error}"))));
                }
            };
            return Some(match read_id(&body) {
                Ok(id) => Ok(NewJob { origin: Origin::Line(self.number), body: body.into(), id }),
                Err((column, reason)) => Err(self.bad(Some(column), reason)),
            });
        }
        None
    }
}

/// A job as far as publishing needs to know it. The worker decides whether it is a valid one.
#[derive(Deserialize)]
struct Identified {
    id: Option<String>,
}

/// Sees to it that a line is one JSON value, and finds the id that could be its message's too.
pub(super) fn read_id(line: &[u8]) -> Result<Option<String>, (usize, String)> {
    let text = str::from_utf8(line).map_err(|error| (error.valid_up_to() + 1, "not UTF-8".to_owned()))?;
    // Only in an object: serde would take an array's first element for the id.
    if text.trim_start().starts_with('{')
        && let Ok(job) = serde_json::from_str::<Identified>(text)
    {
        return Ok(job.id.filter(|id| !id.is_empty() && id.len() <= MAX_MESSAGE_ID));
    }
    match serde_json::from_str::<IgnoredAny>(text) {
        Ok(_) => Ok(None),
        Err(error) => {
            let text = error.to_string();
            let reason = text.split(" at line ").next().unwrap_or(&text);
            Err((error.column(), format!("not JSON: {reason}")))
        }
    }
}

/// Reads entries on a thread of their own, a few ahead of their receiver.
///
/// Not on the runtime's blocking pool: a read from a terminal or a silent pipe cannot be
/// interrupted, and the runtime would wait for it on its way out, where the process simply leaves
/// this thread behind.
///
/// # Errors
/// Where the system gives no thread.
pub fn read_ahead<I>(entries: I) -> io::Result<mpsc::Receiver<I::Item>>
where
    I: Iterator<Item: Send> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(READ_AHEAD);
    std::thread::Builder::new().name("input".to_owned()).spawn(move || {
        for entry in entries {
            if sender.blocking_send(entry).is_err() {
                return;
            }
        }
    })?;
    Ok(receiver)
}

/// Image files as jobs, one `ImageToTextTask` each.
#[derive(Debug)]
pub struct Images {
    paths: std::vec::IntoIter<PathBuf>,
    id_prefix: Option<String>,
    deadline: Option<Duration>,
    count: u64,
}

#[derive(Serialize)]
struct ImageJob<'a> {
    id: &'a str,
    task: ImageTask<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deadline: Option<Timestamp>,
    metadata: ImageMetadata<'a>,
}

#[derive(Serialize)]
struct ImageTask<'a> {
    r#type: &'static str,
    body: &'a str,
}

#[derive(Serialize)]
struct ImageMetadata<'a> {
    file: &'a str,
}

impl Images {
    /// The jobs of these files. Ids are the files' names, or `id_prefix` and a number from 1.
    /// `deadline` counts from when a job is made.
    #[must_use]
    pub fn new(paths: Vec<PathBuf>, id_prefix: Option<String>, deadline: Option<Duration>) -> Self {
        Self { paths: paths.into_iter(), id_prefix, deadline, count: 0 }
    }

    /// The id of an image that is not numbered.
    pub(super) fn name(path: &Path) -> String {
        text_of(path.file_name().unwrap_or_default())
    }

    fn id(&self, path: &Path) -> String {
        match (&self.id_prefix, path.file_name()) {
            (None, Some(_)) => Self::name(path),
            (prefix, _) => format!("{}{}", prefix.as_deref().unwrap_or("image-"), self.count),
        }
    }

    fn job(&self, path: &Path, file: &str) -> Result<NewJob, String> {
        let image = std::fs::File::open(path).map_err(cannot_read).and_then(read_image)?;
        let id = self.id(path);
        let job = ImageJob {
            id: &id,
            task: ImageTask { r#type: IMAGE_TYPE, body: &STANDARD.encode(image) },
            deadline: self.deadline.map(|span| now().plus(span)),
            metadata: ImageMetadata { file },
        };
        let body = serde_json::to_vec(&job).map_err(|error| error.to_string())?;
        if body.len() > MAX_BODY {
            return Err(too_large());
        }
        Ok(NewJob {
            origin: Origin::Image(file.to_owned()),
            body: body.into(),
            id: Some(id).filter(|id| id.len() <= MAX_MESSAGE_ID),
        })
    }
}

impl Iterator for Images {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        let path = self.paths.next()?;
        self.count += 1;
        let file = text_of(path.as_os_str());
        Some(self.job(&path, &file).map_err(|reason| BadEntry {
            origin: Origin::Image(file.clone()),
            column: None,
            reason,
        }))
    }
}

/// A file's name as text. Bytes that are not UTF-8 are percent-encoded, so that two names differ as
/// text, too.
fn text_of(name: &OsStr) -> String {
    let mut text = String::new();
    for chunk in name.as_bytes().utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|byte| format!("%{byte:02X}")));
    }
    text
}

/// Reads an image, and no more of a file than could be one.
pub(super) fn read_image(file: impl Read) -> Result<Vec<u8>, String> {
    let mut image = Vec::new();
    file.take(MAX_BODY as u64).read_to_end(&mut image).map_err(cannot_read)?;
    match image.len() {
        0 => Err("is empty".to_owned()),
        // Base64 makes four bytes of three.
        size if size > MAX_BODY / 4 * 3 => Err(too_large()),
        _ => Ok(image),
    }
}

pub(super) fn cannot_read(error: io::Error) -> String {
    format!("cannot be read: {error}")
}

pub(super) fn too_large() -> String {
    format!("is too large: as a job it would be over {MAX_BODY} bytes")
}

pub(super) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(0).plus(since)
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod image_tests {
    use serde_json::{Value, json};

    use super::*;

    fn image(name: &str, size: usize) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, vec![7; size]).unwrap();
        (folder, path)
    }

    #[test]
    fn an_image_becomes_a_job_named_after_its_file() {
        let (_folder, path) = image("a b.png", 300);
        let file = path.to_string_lossy().into_owned();
        let job = Images::new(vec![path], None, None).next().unwrap().unwrap();
        assert_eq!(
            serde_json::from_slice::<Value>(&job.body).unwrap(),
            json!({"id": "a b.png", "task": {"type": "ImageToTextTask", "body": STANDARD.encode([7; 300])},
                "metadata": {"file": file}})
        );
        assert_eq!(job.id.as_deref(), Some("a b.png"));
    }

    #[test]
    fn names_that_differ_only_in_bytes_that_are_not_utf8_give_different_ids() {
        let names: [&[u8]; 3] = [b"a\xff.png", b"a\xfe.png", "\u{fffd}é.png".as_bytes()];
        let ids = names.map(|name| Images::name(Path::new(OsStr::from_bytes(name))));
        assert_eq!(ids, ["a%FF.png", "a%FE.png", "\u{fffd}é.png"]);
    }

    #[test]
    fn images_are_numbered_under_a_prefix_and_get_a_deadline() {
        let (_folder, path) = image("a.png", 100);
        let before = now();
        let day = Duration::from_secs(86_400);
        let jobs = Images::new(vec![path.clone(), path], Some("order-".to_owned()), Some(day));
        let jobs: Vec<Value> = jobs.map(|job| serde_json::from_slice(&job.unwrap().body).unwrap()).collect();
        assert_eq!((&jobs[0]["id"], &jobs[1]["id"]), (&json!("order-1"), &json!("order-2")));
        let deadline = Timestamp::parse(jobs[0]["deadline"].as_str().unwrap()).unwrap();
        assert!(deadline >= before.plus(day) && deadline <= now().plus(day));
    }

    #[test]
    fn images_that_cannot_be_jobs_are_reported_by_name() {
        let (_large, large) = image("large.png", MAX_BODY / 4 * 3);
        let (_huge, huge) = image("huge.png", 2 * MAX_BODY);
        let (_empty, empty) = image("empty.png", 0);
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing.png");
        let paths = vec![large, huge, empty, missing, folder.path().to_owned()];
        let bad: Vec<String> = Images::new(paths, None, None)
            .map(|entry| entry.unwrap_err())
            .map(|bad| format!("{}: {}", bad.origin, bad.reason))
            .collect();
        for (fault, (name, reason)) in bad.iter().zip([
            ("large.png'", "too large"),
            ("huge.png'", "too large"),
            ("empty.png'", "is empty"),
            ("missing.png'", "cannot be read"),
            ("", "cannot be read"),
        ]) {
            assert!(fault.contains(name) && fault.contains(reason), "{fault}");
        }
    }
}
