//! The committed files, for those who take the contract from the repository.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::contract::{faults, validator};

const FILES: [(&str, &str); 3] =
    [("job", "job.schema.json"), ("outcome", "outcome.schema.json"), ("asyncapi", "asyncapi.json")];

/// The command, away from any settings file, and with no broker that it could reach.
fn schema(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_captcha-worker"));
    command
        .arg("schema")
        .args(arguments)
        .current_dir(std::env::temp_dir())
        .env_remove("CAPTCHA_WORKER__BROKER__NAMESPACE")
        .env("CAPTCHA_WORKER__BROKER__URL", "amqp://guest:guest@127.0.0.1:1/%2f");
    command
}

fn printed(arguments: &[&str]) -> String {
    let output = schema(arguments).output().expect("the command runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn the_committed_files_are_what_the_command_prints() {
    for (name, file) in FILES {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/schema").join(file);
        let committed = std::fs::read_to_string(&path).expect("the file is committed");
        assert!(committed == printed(&[name]), "docs/schema/{file} is behind the code: run `make schema`");
    }
}

#[test]
fn without_a_name_it_is_the_asyncapi_document() {
    assert_eq!(printed(&[]), printed(&["asyncapi"]));
}

#[test]
fn all_of_them_are_written_into_a_folder_that_need_not_exist() {
    let folder = tempfile::tempdir().expect("a folder");
    let below = folder.path().join("a/b");
    let output = schema(&["--out"]).arg(&below).output().expect("the command runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for (name, file) in FILES {
        assert_eq!(std::fs::read_to_string(below.join(file)).expect("written"), printed(&[name]));
    }
}

#[test]
fn a_folder_that_cannot_be_written_is_reported_and_is_exit_code_1() {
    let output = schema(&["--out", "/dev/null/x"]).output().expect("the command runs");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/dev/null/x"));
}

#[test]
fn names_follow_the_namespace_of_the_settings() {
    let output = schema(&[]).env("CAPTCHA_WORKER__BROKER__NAMESPACE", "other").output().expect("it runs");
    let document: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(document["channels"]["results"]["address"], "other.results");
    assert!(!document["channels"].to_string().contains("captcha."), "no name of another lane");
}

#[test]
fn the_examples_in_the_schemas_are_valid() {
    for schema in [captcha_worker::contract::job(), captcha_worker::contract::outcome()] {
        let validator = validator(&schema);
        for example in schema["examples"].as_array().expect("there are some") {
            assert_eq!(faults(&validator, example), "");
        }
    }
}
