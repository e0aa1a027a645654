//! Image files as jobs.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use super::{BadEntry, Entry, MAX_BODY, MAX_MESSAGE_ID, NewJob, Origin};
use crate::domain::time::Timestamp;

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
    /// The jobs of these files. Ids are the files' names, or `id_prefix` and a number from 1. `deadline` counts from when a job is made.
    #[must_use]
    pub fn new(paths: Vec<PathBuf>, id_prefix: Option<String>, deadline: Option<Duration>) -> Self {
        Self { paths: paths.into_iter(), id_prefix, deadline, count: 0 }
    }

    fn id(&self, path: &Path) -> String {
        match (&self.id_prefix, path.file_name()) {
            (None, Some(name)) => name.to_string_lossy().into_owned(),
            (prefix, _) => format!("{}{}", prefix.as_deref().unwrap_or("image-"), self.count),
        }
    }

    fn job(&self, path: &Path, file: &str) -> Result<NewJob, String> {
        let image = read_image(path)?;
        let id = self.id(path);
        let job = ImageJob {
            id: &id,
            task: ImageTask { r#type: "ImageToTextTask", body: &STANDARD.encode(image) },
            deadline: self.deadline.map(|span| now().plus(span)),
            metadata: ImageMetadata { file },
        };
        let body = serde_json::to_vec(&job).map_err(|error| error.to_string())?;
        if body.len() > MAX_BODY {
            return Err(too_large());
        }
        Ok(NewJob {
            origin: Origin::Image(file.to_owned()),
            body,
            id: Some(id).filter(|id| id.len() <= MAX_MESSAGE_ID),
        })
    }
}

impl Iterator for Images {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        let path = self.paths.next()?;
        self.count += 1;
        let file = path.to_string_lossy();
        Some(self.job(&path, &file).map_err(|reason| BadEntry {
            origin: Origin::Image(file.clone().into_owned()),
            column: None,
            reason,
        }))
    }
}

/// Reads an image, and no more of a file than could be one.
fn read_image(path: &Path) -> Result<Vec<u8>, String> {
    let mut image = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_BODY as u64).read_to_end(&mut image))
        .map_err(|error| format!("cannot be read: {error}"))?;
    match image.len() {
        0 => Err("is empty".to_owned()),
        // Base64 makes four bytes of three.
        size if size > MAX_BODY / 4 * 3 => Err(too_large()),
        _ => Ok(image),
    }
}

fn too_large() -> String {
    format!("is too large: as a job it would be over {MAX_BODY} bytes")
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(0).plus(since)
}

#[cfg(test)]
mod tests {
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
    fn images_that_cannot_be_jobs_are_told_by_name() {
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
        for (told, (name, reason)) in bad.iter().zip([
            ("large.png'", "too large"),
            ("huge.png'", "too large"),
            ("empty.png'", "is empty"),
            ("missing.png'", "cannot be read"),
            ("", "cannot be read"),
        ]) {
            assert!(told.contains(name) && told.contains(reason), "{told}");
        }
    }
}
