//! `schema [job|outcome|asyncapi]`.

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::console::{Format, Output};
use super::{CommandError, Exit};
use crate::broker::topology::Names;
use crate::config::Settings;
use crate::contract;

const EXAMPLES: &str = "\
Examples:
  captcha-worker schema                          the AsyncAPI 3 document
  captcha-worker schema job > job.schema.json    what a publisher sends
  captcha-worker schema outcome                  what a consumer receives
  captcha-worker schema --out docs/schema        all three, as files";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct SchemaArgs {
    /// Which one to print
    #[arg(value_enum, default_value_t = Document::Asyncapi)]
    document: Document,
    /// Write all of them into this folder instead: job.schema.json, outcome.schema.json,
    /// asyncapi.json
    #[arg(long, value_name = "DIR", conflicts_with = "document")]
    out: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Document {
    /// JSON Schema (draft 2020-12) of a job
    Job,
    /// JSON Schema (draft 2020-12) of an outcome
    Outcome,
    /// AsyncAPI 3: exchanges, queues and messages, with the names of broker.namespace
    Asyncapi,
}

impl Document {
    fn file(self) -> &'static str {
        match self {
            Document::Job => "job.schema.json",
            Document::Outcome => "outcome.schema.json",
            Document::Asyncapi => "asyncapi.json",
        }
    }

    fn build(self, names: &Names) -> Value {
        match self {
            Document::Job => contract::job(),
            Document::Outcome => contract::outcome(),
            Document::Asyncapi => contract::asyncapi(names),
        }
    }
}

pub(super) fn run(args: &SchemaArgs, settings: &Settings, output: &mut Output) -> Result<Exit, CommandError> {
    let names = Names::new(&settings.broker.namespace);
    let Some(folder) = &args.out else {
        let document = args.document.build(&names);
        if output.format == Some(Format::Ndjson) {
            output.line(document)?;
        } else {
            // Indented wherever it goes: for programs and for readers.
            output.line(format_args!("{document:#}"))?;
        }
        return Ok(Exit::Fine);
    };
    let mut written = Vec::new();
    for document in [Document::Job, Document::Outcome, Document::Asyncapi] {
        written.push(write(folder, document, &names)?);
    }
    if output.is_json() {
        output.value(&json!({"written": written}))?;
    } else {
        output.line(format_args!("wrote {}", written.join(", ")))?;
    }
    Ok(Exit::Fine)
}

fn write(folder: &Path, document: Document, names: &Names) -> Result<String, CommandError> {
    let path = folder.join(document.file());
    let failed = |error| CommandError::failed(format!("{}: {error}", path.display()));
    fs::create_dir_all(folder).map_err(failed)?;
    fs::write(&path, format!("{:#}\n", document.build(names))).map_err(failed)?;
    Ok(path.display().to_string())
}
