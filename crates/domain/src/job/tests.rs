use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;

use super::*;
use crate::message::Properties;

fn read_with(body: &[u8], properties: Properties, domains: &[&str]) -> Result<Job, Box<RejectedMessage>> {
    let mut message = Message { body: body.to_vec().into(), properties, transient: false };
    Job::read(&mut message, &Policy::try_new(domains, &[]).unwrap(), || "fresh".to_owned())
}

fn code_of(body: impl AsRef<[u8]>) -> String {
    let refused = read_with(body.as_ref(), Properties::default(), &[]).expect_err("must be refused");
    format!("{}/{}", refused.fault.class, refused.fault.code)
}

fn image(bytes: usize) -> String {
    STANDARD.encode(vec![9; bytes])
}

fn image_job(rest: &str) -> String {
    format!(r#"{{"task":{{"type":"ImageToTextTask","body":"{}"}}{rest}}}"#, image(200))
}

#[test]
fn a_full_job_is_read_and_its_parts_are_verbatim() {
    let task = r#"{ "body" : "B", "type":"TurnstileTask","websiteURL":"https:\/\/example.com\/", "x":[1.50, 1e400] }"#;
    let body = format!(
        r#" {{"id":"order-17","task":{task},"deadline":"2026-11-23T10:00:00Z","metadata":{{"a": 01e}}}} "#
    );
    assert_eq!(code_of(&body), "malformed/NOT_JSON", "even where nobody would look");
    let body = body.replace("01e", "1E0");
    let job = read_with(body.as_bytes(), Properties::default(), &["example.com"]).unwrap();
    assert_eq!((&*job.id, &*job.task_type), ("order-17", "TurnstileTask"));
    assert_eq!(job.deadline, Timestamp::parse("2026-11-23T10:00:00Z"));
    assert_eq!(job.metadata().unwrap().get(), r#"{"a": 1E0}"#);
    assert_eq!(job.task().unwrap(), task);
    let of_a_ticket = Job { task_at: None, ..job };
    assert_eq!(of_a_ticket.task().unwrap(), task);
}

#[test]
fn a_byte_order_mark_before_a_job_is_forgiven_and_left_out() {
    let body = image_job(r#","id":"j-1","metadata":7"#);
    let job = read_with(format!("\u{feff}{body}").as_bytes(), Properties::default(), &[]).unwrap();
    assert_eq!((&*job.id, job.metadata().unwrap().get(), &*job.body.bytes()), ("j-1", "7", body.as_bytes()));
    assert!(job.task().unwrap().starts_with(br#"{"type":"ImageToTextTask""#));
    assert_eq!(code_of(format!("\u{feff}\u{feff}{body}")), "malformed/NOT_JSON", "one belongs to a text");
    assert_eq!(code_of("\u{feff}"), "malformed/EMPTY_BODY");
    let elsewhere = "\u{feff}{\"task\":{\"type\":\"TurnstileTask\"}}";
    let refused = read_with(elsewhere.as_bytes(), Properties::default(), &[]).unwrap_err();
    assert_eq!(refused.message.body, elsewhere, "what is refused is given back as it came");
}

#[test]
fn metadata_is_found_however_its_name_is_written() {
    let metadata = |rest: &str| {
        let job = read_with(image_job(rest).as_bytes(), Properties::default(), &[]).unwrap();
        job.metadata().map(|json| json.get().to_owned())
    };
    assert_eq!(metadata(""), None);
    assert_eq!(metadata(r#","metadata":"m""#), Some(r#""m""#.to_owned()));
    assert_eq!(metadata(r#","met\u0061data":[1]"#), Some("[1]".to_owned()));
}

#[test]
fn the_id_comes_from_the_job_then_the_message_then_fresh() {
    let named = Properties { message_id: Some("m-1".to_owned()), ..Properties::default() };
    let id =
        |body: &str, properties: &Properties| read_with(body.as_bytes(), properties.clone(), &[]).unwrap().id;
    assert_eq!(id(&image_job(r#","id":"j-1""#), &named), "j-1");
    assert_eq!(id(&image_job(""), &named), "m-1");
    assert_eq!(id(&image_job(r#","id":null"#), &named), "m-1");
    assert_eq!(id(&image_job(""), &Properties::default()), "fresh");
}

#[test]
fn what_is_not_a_job_is_refused_with_a_code_of_its_own() {
    assert_eq!(code_of(""), "malformed/EMPTY_BODY");
    assert_eq!(code_of(b"\xff\xfe{}"), "malformed/NOT_UTF8");
    assert_eq!(code_of("hello"), "malformed/NOT_JSON");
    assert_eq!(code_of(r#"{"task":{}} trailing"#), "malformed/NOT_JSON");
    assert_eq!(code_of("[1,2]"), "malformed/NOT_AN_OBJECT");
    assert_eq!(code_of(r#""text""#), "malformed/NOT_AN_OBJECT");
    assert_eq!(code_of("[".repeat(100_000)), "malformed/TOO_DEEP");
    assert_eq!(
        code_of(format!(r#"{{"metadata":{}{}}}"#, "[".repeat(64), "]".repeat(64))),
        "malformed/TOO_DEEP"
    );
    assert_eq!(code_of("{}"), "malformed/MISSING_FIELD");
    assert_eq!(code_of(r#"{"task":{}}"#), "malformed/MISSING_FIELD");
    assert_eq!(code_of(r#"{"task":null}"#), "malformed/WRONG_TYPE");
    assert_eq!(code_of(r#"{"task":{"type":7}}"#), "malformed/WRONG_TYPE");
    assert_eq!(code_of(r#"{"task":{"type":""}}"#), "malformed/WRONG_TYPE");
    assert_eq!(code_of(image_job(r#","id":17"#)), "malformed/WRONG_TYPE");
    assert_eq!(code_of(image_job(&format!(r#","id":"{}""#, "x".repeat(256)))), "malformed/WRONG_TYPE");
    assert_eq!(code_of(image_job(r#","deadline":"tomorrow""#)), "malformed/DEADLINE_UNREADABLE");
    assert_eq!(code_of(image_job(r#","deadline":1764000000"#)), "malformed/WRONG_TYPE");
    assert_eq!(code_of(image_job(r#","id":"a","id":"b""#)), "malformed/DUPLICATE_FIELD");
}

#[test]
fn fields_that_a_job_may_not_have_are_named() {
    for (field, code) in
        [("clientKey", "FORBIDDEN_FIELD"), ("callbackUrl", "FORBIDDEN_FIELD"), ("priority", "UNKNOWN_FIELD")]
    {
        let refused =
            read_with(image_job(&format!(r#","{field}":"x""#)).as_bytes(), Properties::default(), &[])
                .unwrap_err();
        assert_eq!(refused.fault.code, code);
        assert!(refused.fault.description.contains(field), "{}", refused.fault.description);
    }
}

#[test]
fn the_class_of_an_unusable_image_is_invalid() {
    let sized = |n| format!(r#"{{"id":"i","task":{{"type":"ImageToTextTask","body":"{}"}}}}"#, image(n));
    assert_eq!(code_of(sized(99)), "invalid/IMAGE_TOO_SMALL");
    assert_eq!(code_of(sized(50_001)), "invalid/IMAGE_TOO_BIG");
    assert_eq!(code_of(r#"{"task":{"type":"ImageToTextTask","body":"%%%"}}"#), "invalid/IMAGE_NOT_BASE64");
    assert_eq!(code_of(r#"{"task":{"type":"ImageToTextTask"}}"#), "invalid/IMAGE_TOO_SMALL");
}

#[test]
fn a_site_that_is_not_listed_is_forbidden_and_a_second_one_cannot_hide_behind_a_listed_one() {
    let to = |url: &str| format!(r#"{{"id":"t","task":{{"type":"TurnstileTask","websiteURL":"{url}"}}}}"#);
    assert_eq!(code_of(to("https://example.com/")), "forbidden/POLICY_SITE_NOT_ALLOWED");
    assert_eq!(code_of(r#"{"task":{"type":"TurnstileTask"}}"#), "forbidden/POLICY_SITE_NOT_ALLOWED");
    let twice = r#"{"task":{"type":"TurnstileTask","websiteURL":"https://example.com/","websiteURL":"https://evil.test/"}}"#;
    let refused = read_with(twice.as_bytes(), Properties::default(), &["example.com"]).unwrap_err();
    assert_eq!(refused.fault.code, "DUPLICATE_FIELD");
    assert!(
        read_with(to("https://example.com/").as_bytes(), Properties::default(), &["example.com"]).is_ok()
    );
}

#[test]
fn a_task_goes_by_its_type_and_its_class() {
    let kind = |class: &str| {
        let body = format!(r#"{{"task":{{"class":{class},"type":"ComplexImageTask"}}}}"#);
        let job = read_with(body.as_bytes(), Properties::default(), &[]).unwrap();
        assert_eq!(job.task_type, "ComplexImageTask");
        (job.kind().to_owned(), job.task_class().map(str::to_owned))
    };
    let alone = ("ComplexImageTask".to_owned(), None);
    for class in ["null", "17", r#""""#, r#"["a"]"#, r#""a\nb""#, &format!("\"{}\"", "x".repeat(100))] {
        assert_eq!(kind(class), alone, "{class}");
    }
    for class in [r#""recaptcha""#, r#""recaptch\u0061""#, r#""first","class":"recaptcha""#] {
        assert_eq!(
            kind(class),
            ("ComplexImageTask/recaptcha".to_owned(), Some("recaptcha".to_owned())),
            "{class}"
        );
    }
    let without = read_with(image_job("").as_bytes(), Properties::default(), &[]).unwrap();
    assert_eq!((without.kind(), without.task_class()), ("ImageToTextTask", None));
}

#[test]
fn an_escaped_field_name_is_the_same_field() {
    let body = r#"{"task":{"type":"TurnstileTask","website\u0055RL":"https://evil.test/"}}"#;
    assert_eq!(code_of(body), "forbidden/POLICY_SITE_NOT_ALLOWED");
}

#[test]
fn what_can_be_read_of_a_refused_message_is_reported() {
    let body = r#"{"id":"seen","task":{"type":"TurnstileTask"}}"#;
    let refused = read_with(body.as_bytes(), Properties::default(), &[]).unwrap_err();
    assert_eq!((&*refused.id, refused.task_type.as_deref()), ("seen", Some("TurnstileTask")));
    assert_eq!(refused.message.body, body.as_bytes());
}

proptest! {
    #[test]
    fn no_bytes_make_admission_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = read_with(&bytes, Properties::default(), &[]);
    }

    #[test]
    fn no_json_like_text_makes_admission_panic(text in r#"[\{\}\[\]":,a-z0-9\\ \.]{0,120}"#) {
        let _ = read_with(text.as_bytes(), Properties::default(), &[]);
    }
}

#[test]
fn a_publishers_secret_is_in_no_debug_print() {
    let small = r#"{"id":"a","task":{"type":"TurnstileTask","websiteURL":"https://example.com/","proxyPassword":"pl4nted"}}"#;
    let picture = image(2000);
    let large = format!(
        r#"{{"id":"a","task":{{"type":"ImageToTextTask","body":"{picture}","proxyPassword":"pl4nted"}}}}"#
    );
    for body in [small, &large] {
        let job = read_with(body.as_bytes(), Properties::default(), &["example.com"]).unwrap();
        let packed = Job { body: JobBody::packed(job.body.bytes()), ..job.clone() };
        let message = Message { body: job.body.bytes(), ..Message::default() };
        for printed in [format!("{job:?}"), format!("{packed:#?}"), format!("{message:?}")] {
            assert!(printed.contains(" bytes") && !printed.contains("pl4nted"), "{printed}");
        }
    }
    let refused = read_with(small.as_bytes(), Properties::default(), &[]).expect_err("no site is allowed");
    assert!(!format!("{refused:?}").contains("pl4nted"), "{refused:?}");
}
