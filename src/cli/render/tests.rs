use super::*;
use crate::domain::message::Properties;

fn message(body: impl Into<Vec<u8>>) -> Message {
    Message { body: body.into().into(), ..Message::default() }
}

fn dead(body: &str) -> Message {
    let death = Value::Array(vec![Value::Table(Headers::from([
        ("queue".to_owned(), "captcha.jobs".into()),
        ("reason".to_owned(), "expired".into()),
        ("count".to_owned(), Value::Int(1)),
    ]))]);
    Message {
        properties: Properties {
            headers: Headers::from([("x-death".to_owned(), death)]),
            message_id: Some("m-1".to_owned()),
            ..Properties::default()
        },
        ..message(body)
    }
}

#[test]
fn an_outcome_is_one_line_byte_for_byte() {
    let body = r#"{"version":1,"id":"a","big":123456789012345678901234567890,"n":1.50,"z":1,"a":"\n"}"#;
    assert_eq!(ndjson(&message(body), false), body);
}

#[test]
fn line_breaks_between_values_do_not_break_the_line() {
    let body = "{\"id\":\"a\",\"job\":{\r\n  \"task\": {\"type\":\"x\\ny\"}\n}}\n";
    assert_eq!(ndjson(&message(body), false), "{\"id\":\"a\",\"job\":{    \"task\": {\"type\":\"x\\ny\"} }}");
}

#[test]
fn proxy_credentials_are_shown_only_when_asked_for() {
    let body = r#"{"id":"a","job":{"task":{"proxyPassword":"hunter2"}}}"#;
    assert_eq!(ndjson(&message(body), false), r#"{"id":"a","job":{"task":{"proxyPassword":"***"}}}"#);
    assert_eq!(ndjson(&message(body), true), body);
    let broken = r#"{"task":{"proxyPassword":"hunter2"#;
    assert!(!ndjson(&message(broken), false).contains("hunter2"));
    assert!(ndjson(&message(broken), true).contains("hunter2"));
}

#[test]
fn what_is_not_json_is_wrapped_with_its_death() {
    assert_eq!(
        serde_json::from_str::<Json>(&ndjson(&dead("not\njson"), false)).unwrap(),
        json!({"raw": {"encoding": "utf-8", "body": "not\njson"},
            "x_death": [{"queue": "captcha.jobs", "reason": "expired", "count": 1}]})
    );
    assert_eq!(
        serde_json::from_str::<Json>(&ndjson(&message(vec![0xff, 0x00]), false)).unwrap(),
        json!({"raw": {"encoding": "base64", "body": "/wA="}, "x_death": null})
    );
    assert_eq!(serde_json::from_str::<Json>(&ndjson(&message(""), false)).unwrap()["raw"]["body"], "");
}

#[test]
fn a_table_shows_solved_failed_and_raw_messages() {
    let solved = message(
        r#"{"id":"order-17","status":"solved","task_type":"ImageToTextTask","solution":{"text":"answer"},
        "attempts":[{}],"times":{"finished_at":"2026-11-23T10:00:02.103Z"}}"#,
    );
    let failed = message(
        r#"{"id":"order-18","status":"failed","task_type":"HCaptchaTaskProxyless","attempts":[],
        "failure":{"class":"forbidden","code":"POLICY_SITE_NOT_ALLOWED","description":"the site is not listed"},
        "times":{"finished_at":"2026-11-23T10:00:03.000Z"}}"#,
    );
    let job = dead(r#"{"id":"order-19","task":{"type":"ImageToTextTask"}}"#);
    let lines = [
        table_head(171),
        table_row(&solved, 171),
        table_row(&failed, 171),
        table_row(&job, 171),
        table_row(&dead("{"), 171),
    ];
    insta::assert_snapshot!(lines.join("\n"), @r"
    ID                        STATUS  TYPE                      CLASS/CODE                          SUBM  FINISHED (UTC)       ANSWER OR REASON
    order-17                  solved  ImageToTextTask                                               1     2026-11-23 10:00:02  answer
    order-18                  failed  HCaptchaTaskProxyless     forbidden/POLICY_SITE_NOT_ALLOWED   0     2026-11-23 10:00:03  the site is not listed
    order-19                  raw     ImageToTextTask           expired                                                        51 bytes from captcha.jobs
    m-1                       raw                               expired                                                        1 bytes from captcha.jobs
    ");
}

#[test]
fn a_cell_cannot_steer_the_terminal_nor_break_its_column() {
    let row = table_row(
        &message(
            json!({"status": "solved", "id": "\u{1b}[2J\nx".repeat(9), "solution": {"text": "é".repeat(99)}})
                .to_string(),
        ),
        171,
    );
    assert!(!row.contains(char::is_control));
    assert!(row.starts_with("·[2J·x·[2J·x·[2J·x·[2J·…  solved"), "{row}");
    assert!(row.ends_with(&format!("{}…", "é".repeat(47))));
}

#[test]
fn a_table_holds_credentials_back() {
    let row = table_row(
        &message(r#"{"status":"solved","solution":{"proxyPassword":"hunter2","text":"proxyLogin=bob"}}"#),
        171,
    );
    assert!(!row.contains("hunter2") && !row.contains("bob"), "{row}");
}

#[test]
fn a_narrow_table_fits_and_keeps_id_class_and_answer() {
    let failed = message(
        r#"{"id":"order-18","status":"failed","task_type":"HCaptchaTaskProxyless","attempts":[],
        "failure":{"class":"forbidden","code":"POLICY_SITE_NOT_ALLOWED","description":"the site is not listed"},
        "times":{"finished_at":"2026-11-23T10:00:03.000Z"}}"#,
    );
    let lines = [table_head(80), table_row(&failed, 80)];
    assert!(lines.iter().all(|line| line.chars().count() <= 80), "{lines:?}");
    insta::assert_snapshot!(lines.join("\n"), @r"
    ID                    STATUS  CLASS/CODE                    ANSWER OR REASON
    order-18              failed  forbidden/POLICY_SITE_NOT_A…  the site is not lis…
    ");
}
