//! The task to solve: an image, a type with its fields, or a task object as it is.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, stdin};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use crate::cli::CommandError;
use crate::cli::input::{IMAGE_TYPE, MAX_BODY, cannot_read, read_image, too_large};

/// Which task.
#[derive(Debug, Clone, Args)]
pub(super) struct TaskArgs {
    /// An image, solved as `ImageToTextTask`; '-' is standard input
    #[arg(value_name = "IMAGE", required_unless_present_any = ["task_type", "task"], conflicts_with_all = ["task_type", "task"])]
    image: Option<PathBuf>,
    /// A task of this type instead, with the fields that --param gives
    #[arg(long = "type", value_name = "TYPE", conflicts_with = "task")]
    task_type: Option<String>,
    /// A field of the task; can be given several times. VALUE is JSON where it is valid JSON, else
    /// a text
    #[arg(long = "param", value_name = "NAME=VALUE", conflicts_with = "task")]
    params: Vec<String>,
    /// A file with the task object as JSON; '-' is standard input
    #[arg(long, value_name = "FILE")]
    task: Option<PathBuf>,
}

impl TaskArgs {
    /// Whether standard input is read.
    pub(super) fn reads_stdin(&self) -> bool {
        [&self.image, &self.task].into_iter().flatten().any(|path| path == Path::new("-"))
    }

    /// The task's JSON. Blocks until its input has been read.
    ///
    /// # Errors
    /// What is wrong with the input, without a value of it: that may be a password.
    pub(super) fn read(&self) -> Result<Box<RawValue>, CommandError> {
        if let Some(path) = &self.task {
            return read_task(path).map_err(|reason| unusable("--task", path, &reason));
        }
        let mut fields = BTreeMap::new();
        if let Some(path) = &self.image {
            let image = open(path).and_then(read_image).map_err(|reason| unusable("image", path, &reason))?;
            fields.insert("body", raw(&STANDARD.encode(image))?);
        }
        fields.insert("type", raw(self.task_type.as_deref().unwrap_or(IMAGE_TYPE))?);
        for (at, param) in self.params.iter().enumerate() {
            let Some((name, value)) = param.split_once('=').filter(|(name, _)| !name.is_empty()) else {
                let number = at + 1;
                return Err(CommandError::Usage(format!("--param number {number}: not NAME=VALUE")));
            };
            let value = match serde_json::from_str(value) {
                Ok(json) => json,
                Err(_) => raw(value)?,
            };
            if fields.insert(name, value).is_some() {
                return Err(CommandError::Usage(format!("--param {name}: the task has this field already")));
            }
        }
        raw(&fields)
    }
}

fn raw(value: &(impl Serialize + ?Sized)) -> Result<Box<RawValue>, CommandError> {
    to_raw_value(value).map_err(CommandError::failed)
}

fn unusable(what: &str, path: &Path, reason: &str) -> CommandError {
    CommandError::Usage(format!("{what} '{}' {reason}", path.display()))
}

fn open(path: &Path) -> Result<Box<dyn Read>, String> {
    if path == Path::new("-") {
        return Ok(Box::new(stdin()));
    }
    Ok(Box::new(File::open(path).map_err(cannot_read)?))
}

fn read_task(path: &Path) -> Result<Box<RawValue>, String> {
    let mut task = Vec::new();
    open(path)?.take(MAX_BODY as u64 + 1).read_to_end(&mut task).map_err(cannot_read)?;
    if task.len() > MAX_BODY {
        return Err(too_large());
    }
    serde_json::from_slice(&task).map_err(|error| format!("is not JSON: {error}"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::{Value, json};

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        task: TaskArgs,
    }

    fn task(words: &[&str]) -> Result<Value, String> {
        let line = Line::try_parse_from(["solve"].iter().chain(words)).map_err(|error| error.to_string())?;
        let task = line.task.read().map_err(|error| error.to_string())?;
        Ok(serde_json::from_str(task.get()).unwrap())
    }

    #[test]
    fn values_are_json_where_they_are_json_and_else_texts() {
        let words =
            ["--type", "T", "--param", "n=1.50", "--param", "s=https://a.test/?q=1", "--param", "l=[1]"];
        let line = Line::try_parse_from(["solve"].iter().chain(&words)).unwrap();
        assert_eq!(
            line.task.read().unwrap().get(),
            r#"{"l":[1],"n":1.50,"s":"https://a.test/?q=1","type":"T"}"#
        );
    }

    #[test]
    fn an_image_can_have_fields_beside_it() {
        let image = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(image.path(), [7; 100]).unwrap();
        let task = task(&[image.path().to_str().unwrap(), "--param", "case=true"]);
        assert_eq!(
            task.unwrap(),
            json!({"type": "ImageToTextTask", "body": STANDARD.encode([7; 100]), "case": true})
        );
    }

    #[test]
    fn a_task_object_stays_byte_for_byte() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = r#"{ "type":"T", "big":12345678901234567890123, "x":1.50 }"#;
        std::fs::write(file.path(), format!("{text}\n")).unwrap();
        assert_eq!(read_task(file.path()).unwrap().get(), text);
    }

    #[test]
    fn what_cannot_be_a_task_is_refused_without_a_value() {
        for (words, reason) in [
            (&["--type", "T", "--param", "proxyPassword"][..], "--param number 1: not NAME=VALUE"),
            (&["--type", "T", "--param", "=s3cret"], "--param number 1: not NAME=VALUE"),
            (&["--type", "T", "--param", "a=s3cret", "--param", "a=s3cret"], "--param a: the task has"),
            (&["--type", "T", "--param", "type=U"], "--param type: the task has"),
            (&["absent.png"], "image 'absent.png' cannot be read: No such file"),
            (&["--task", "absent.json"], "--task 'absent.json' cannot be read: No such file"),
            (&["a.png", "--type", "T"], "cannot be used with"),
            (&["a.png", "--task", "b.json"], "cannot be used with"),
            (&["--task", "b.json", "--param", "a=b"], "cannot be used with"),
            (&[], "required"),
        ] {
            let error = task(words).unwrap_err();
            assert!(error.contains(reason) && !error.contains("s3cret"), "{words:?}: {error}");
        }
    }
}
