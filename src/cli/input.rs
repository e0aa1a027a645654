//! Jobs on their way in: lines of NDJSON, or images, read one at a time so that an input of any size fits in memory.

mod images;

use std::fmt;
use std::io::{self, BufRead, Read};

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

pub use images::Images;

/// The longest message that the worker takes for a job, in bytes; a longer one would be rejected whole.
pub const MAX_BODY: usize = 1 << 20;
/// AMQP's short string: what a message id must fit into.
const MAX_MESSAGE_ID: usize = 255;
/// Jobs read ahead of those being published: at most this many MiB.
const READ_AHEAD: usize = 16;

/// Where a job came from.
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
    /// Where it came from.
    pub origin: Origin,
    /// The message's body.
    pub body: Vec<u8>,
    /// The job's own id, where it has one that can be a message's too.
    pub id: Option<String>,
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

    /// The next line without its end; `Ok(Err(..))` where it is too long, and then it has been skipped.
    fn next_line(&mut self) -> io::Result<Option<Result<Vec<u8>, String>>> {
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
                Ok(id) => Ok(NewJob { origin: Origin::Line(self.number), body, id }),
                Err((column, reason)) => Err(self.bad(Some(column), reason)),
            });
        }
        None
    }
}

/// A job as far as publishing needs to know it. Whether it is a good one is for the worker to say.
#[derive(Deserialize)]
struct Identified {
    id: Option<String>,
}

/// Sees to it that a line is one JSON value, and finds the id that could be its message's too.
fn read_id(line: &[u8]) -> Result<Option<String>, (usize, String)> {
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
            let told = error.to_string();
            let reason = told.split(" at line ").next().unwrap_or(&told);
            Err((error.column(), format!("not JSON: {reason}")))
        }
    }
}

/// Reads entries on a thread of their own, a few ahead of whoever takes them.
///
/// Not on the runtime's blocking pool: a read from a terminal or a silent pipe cannot be interrupted, and the runtime would wait for it
/// on its way out, where the process simply leaves this thread behind.
///
/// # Errors
/// Where the system gives no thread.
pub fn read_ahead<I>(entries: I) -> io::Result<mpsc::Receiver<Entry>>
where
    I: Iterator<Item = Entry> + Send + 'static,
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

#[cfg(test)]
mod tests;
