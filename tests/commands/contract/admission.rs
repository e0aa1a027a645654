//! Admission and the schema of a job agree, save where a schema has no words for what admission
//! minds.

use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use captcha_worker::contract;
use captcha_worker::domain::job::Job;
use captcha_worker::domain::message::Message;
use captcha_worker::domain::policy::Policy;
use jsonschema::Validator;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::contract::{faults, validator};

static JOB: LazyLock<Validator> = LazyLock::new(|| validator(&contract::job()));

/// Admission's code; `None` where it lets the message in.
fn admission(body: &[u8]) -> Option<String> {
    let policy = Policy::try_new(&["example.com"], &["AnyTask"]).expect("a policy");
    let mut message = Message { body: body.to_vec().into(), ..Message::default() };
    Job::read(&mut message, &policy, || "made".to_owned())
        .err()
        .map(|refused| refused.fault.code.into_owned())
}

fn image(bytes: usize) -> String {
    STANDARD.encode(vec![7; bytes])
}

fn image_job(body: &Value) -> String {
    json!({"task": {"type": "ImageToTextTask", "body": body}}).to_string()
}

fn taken(body: &str) -> bool {
    serde_json::from_str(body).is_ok_and(|value: Value| JOB.is_valid(&value))
}

#[test]
fn what_admission_lets_in_is_valid() {
    let any = |fields: &str| format!(r#"{{"task":{{"type":"AnyTask"}}{fields}}}"#);
    for body in [
        any(""),
        any(r#","id":null,"deadline":null,"metadata":null"#),
        any(&format!(r#","id":"{}""#, "x".repeat(255))),
        any(r#","id":"ключ \n \u007f""#),
        any(r#","metadata":[1,{"a":null}]"#),
        any(r#","deadline":"2026-11-23T10:00:00Z""#),
        any(r#","deadline":"2026-11-23t10:00:00.123456789z""#),
        any(r#","deadline":"0000-01-01T00:00:00+23:59""#),
        format!(r#"{{"task":{{"type":"AnyTask","x":{}{}}}}}"#, "[".repeat(62), "]".repeat(62)),
        r#"{"task":{"type":"AnyTask","websiteURL":null,"body":7,"proxyAddress":"10.0.0.1","proxyPort":80}}"#
            .to_owned(),
        r#"{"task":{"type":"AnyTask","websiteURL":"https://example.com/","proxyaddress":1}}"#.to_owned(),
        image_job(&json!(image(100))),
        image_job(&json!(image(50_000))),
        image_job(&json!(image(100).trim_end_matches('='))),
        image_job(&json!(image(101).replace('+', "-").replace('/', "_"))),
        image_job(&json!(format!("\r\n {}\t \n", image(100)))),
        image_job(&json!(image(100).replace("==", "= ="))),
    ] {
        assert_eq!(admission(body.as_bytes()), None, "{body}");
        let value: Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(faults(&JOB, &value), "", "{body}");
    }
}

#[test]
fn what_admission_refuses_is_not_valid() {
    let any = |fields: &str| format!(r#"{{"task":{{"type":"AnyTask"}}{fields}}}"#);
    for (code, body) in [
        ("NOT_JSON", "{".to_owned()),
        ("NOT_AN_OBJECT", "[]".to_owned()),
        ("NOT_AN_OBJECT", "null".to_owned()),
        ("MISSING_FIELD", "{}".to_owned()),
        ("MISSING_FIELD", r#"{"task":{}}"#.to_owned()),
        ("MISSING_FIELD", r#"{"task":{"type":null}}"#.to_owned()),
        ("WRONG_TYPE", r#"{"task":null}"#.to_owned()),
        ("WRONG_TYPE", r#"{"task":[]}"#.to_owned()),
        ("WRONG_TYPE", r#"{"task":{"type":7}}"#.to_owned()),
        ("WRONG_TYPE", r#"{"task":{"type":""}}"#.to_owned()),
        ("WRONG_TYPE", format!(r#"{{"task":{{"type":"{}"}}}}"#, "x".repeat(101))),
        ("WRONG_TYPE", r#"{"task":{"type":"AnyTask","websiteURL":7}}"#.to_owned()),
        ("UNKNOWN_FIELD", any(r#","surprise":1"#)),
        ("UNKNOWN_FIELD", any(r#","Id":"a""#)),
        ("UNKNOWN_FIELD", r#"{"task":{"type":"AnyTask","Type":"b"}}"#.to_owned()),
        ("UNKNOWN_FIELD", r#"{"task":{"type":"AnyTask","websiteUrl":"b"}}"#.to_owned()),
        ("FORBIDDEN_FIELD", any(r#","clientKey":"a""#)),
        ("FORBIDDEN_FIELD", any(r#","callbackUrl":"a""#)),
        ("WRONG_TYPE", any(r#","id":7"#)),
        ("WRONG_TYPE", any(r#","id":"""#)),
        ("WRONG_TYPE", any(r#","id":"a\u0000""#)),
        ("WRONG_TYPE", any(&format!(r#","id":"{}""#, "x".repeat(256)))),
        ("WRONG_TYPE", any(r#","deadline":1764000000"#)),
        ("DEADLINE_UNREADABLE", any(r#","deadline":"tomorrow""#)),
        ("DEADLINE_UNREADABLE", any(r#","deadline":"2026-11-23""#)),
        ("DEADLINE_UNREADABLE", any(r#","deadline":"2026-11-23 10:00:00""#)),
        ("DEADLINE_UNREADABLE", any(r#","deadline":"2026-02-30T10:00:00Z""#)),
        ("IMAGE_TOO_SMALL", r#"{"task":{"type":"ImageToTextTask"}}"#.to_owned()),
        ("IMAGE_TOO_SMALL", image_job(&json!(null))),
        ("WRONG_TYPE", image_job(&json!(7))),
        ("IMAGE_TOO_SMALL", image_job(&json!(image(99)))),
        ("IMAGE_NOT_BASE64", image_job(&json!("data:image/png;base64,".to_owned() + &image(120)))),
        ("IMAGE_NOT_BASE64", image_job(&json!(image(120) + "===="))),
        ("IMAGE_NOT_BASE64", image_job(&json!("=".to_owned() + &image(120)))),
    ] {
        assert_eq!(admission(body.as_bytes()).as_deref(), Some(code), "{body}");
        assert!(!taken(&body), "{body}");
    }
}

/// All that docs/CONTRACT.md, "For machines", says a schema cannot say.
#[test]
fn what_a_schema_has_no_words_for_is_refused_by_admission_alone() {
    for (code, body) in [
        ("DUPLICATE_FIELD", r#"{"id":"a","id":"b","task":{"type":"AnyTask"}}"#.to_owned()),
        ("DUPLICATE_FIELD", r#"{"task":{"type":"AnyTask","type":"AnyTask"}}"#.to_owned()),
        ("WRONG_TYPE", format!(r#"{{"id":"{}","task":{{"type":"AnyTask"}}}}"#, "ж".repeat(128))),
        ("WRONG_TYPE", format!(r#"{{"task":{{"type":"{}"}}}}"#, "ж".repeat(51))),
        ("TOO_DEEP", format!(r#"{{"task":{{"type":"AnyTask","x":{}{}}}}}"#, "[".repeat(63), "]".repeat(63))),
        ("IMAGE_TOO_SMALL", image_job(&json!(format!("{}\n\n\n\n", image(99))))),
        ("IMAGE_TOO_BIG", image_job(&json!(image(50_001)))),
        ("IMAGE_NOT_BASE64", image_job(&json!(image(120) + "A"))),
        (
            "POLICY_SITE_NOT_ALLOWED",
            r#"{"task":{"type":"SomeTask","websiteURL":"https://example.org/"}}"#.to_owned(),
        ),
        ("POLICY_SITE_NOT_ALLOWED", r#"{"task":{"type":"OtherTask"}}"#.to_owned()),
    ] {
        assert_eq!(admission(body.as_bytes()).as_deref(), Some(code), "{body}");
        assert!(taken(&body), "{body}");
    }
    assert_eq!(admission(b"{\"task\":{\"type\":\"\xff\"}}").as_deref(), Some("NOT_UTF8"));
    assert_eq!(admission(b"").as_deref(), Some("EMPTY_BODY"));
}

/// A publisher who keeps to the schema is safe, and admission is a little more patient than it.
#[test]
fn a_space_between_date_and_time_is_read_by_admission_alone() {
    let body = r#"{"task":{"type":"AnyTask"},"deadline":"2026-11-23 10:00:00Z"}"#;
    assert_eq!(admission(body.as_bytes()), None);
    assert!(!taken(body));
}

fn texts() -> impl Strategy<Value = Value> {
    let time = "[0-9]{4}-[01][0-9]-[0-3][0-9][Tt][0-2][0-9]:[0-6][0-9]:[0-6][0-9](\\.[0-9]{0,12})?(Z|z|[+-][0-2][0-9]:[0-6][0-9])?";
    prop_oneof![
        3 => "[ -~]{0,12}".prop_map(Value::from),
        2 => time.prop_map(Value::from),
        2 => "[A-Za-z0-9+/=_\\-\n ]{130,140}".prop_map(Value::from),
        1 => (90_usize..120).prop_map(|bytes| image(bytes).into()),
        1 => Just(json!("x".repeat(256))),
        1 => Just(json!("a\u{0}b")),
        2 => prop_oneof![Just(json!("AnyTask")), Just(json!("ImageToTextTask")), Just(json!("https://example.com/"))],
        2 => prop_oneof![Just(json!(null)), Just(json!(7)), Just(json!({})), Just(json!([])), Just(json!(true))],
    ]
}

fn jobs() -> impl Strategy<Value = Value> {
    let task_names =
        prop_oneof!["type", "body", "websiteURL", "proxyAddress", "Type", "websiteUrl", "[a-z]{1,4}"];
    let kinds = prop_oneof![4 => Just(json!("AnyTask")), 3 => Just(json!("ImageToTextTask")), 2 => texts()];
    let task =
        (kinds, prop::collection::btree_map(task_names, texts(), 0..3)).prop_map(|(kind, mut fields)| {
            fields.entry("type".to_owned()).or_insert(kind);
            json!(fields)
        });
    let names = prop_oneof!["id", "deadline", "metadata", "metadata", "clientKey", "[a-z]{1,4}"];
    let tasks = prop_oneof![8 => task, 1 => texts()];
    (tasks, prop::collection::btree_map(names, texts(), 0..3)).prop_map(|(task, mut fields)| {
        fields.insert("task".to_owned(), task);
        json!(fields)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]

    #[test]
    fn admission_and_schema_agree_about_any_job(job in jobs()) {
        let beyond_a_schema = ["IMAGE_NOT_BASE64", "IMAGE_TOO_SMALL", "IMAGE_TOO_BIG", "POLICY_SITE_NOT_ALLOWED"];
        match admission(job.to_string().as_bytes()) {
            None => prop_assert_eq!(faults(&JOB, &job), ""),
            Some(code) if beyond_a_schema.contains(&&*code) => {}
            Some(code) => prop_assert!(!JOB.is_valid(&job), "admission says {}", code),
        }
    }
}
