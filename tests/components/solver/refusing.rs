//! What counts as a refusal, and what is kept of it.

use std::time::Duration;

use captcha_worker::domain::call::ReplyBody;
use captcha_worker::solver::wire;
use wiremock::matchers::any;
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::solver::support::{KEY, answered, created, id, refusal, solver, state};

#[tokio::test]
async fn an_error_is_any_error_id_but_0() {
    for error_id in ["1", "12", "-1", "\"1\"", "true", "\"ERROR\"", "1.5"] {
        let body = format!(r#"{{"errorId":{error_id},"errorCode":"ERROR_ZERO_BALANCE","taskId":0}}"#);
        assert_eq!(refusal(created(200, &body).await).code.as_deref(), Some("ERROR_ZERO_BALANCE"), "{body}");
    }
}

#[tokio::test]
async fn an_error_may_lack_its_code() {
    for body in [r#"{"errorId":1}"#, r#"{"errorId":2,"errorCode":null}"#, r#"{"errorId":1,"errorCode":""}"#] {
        let refusal = refusal(state(body).await);
        assert_eq!((refusal.code, refusal.description, refusal.status), (None, None, 200), "{body}");
    }
}

#[tokio::test]
async fn a_code_without_an_error_id_is_an_error() {
    for (json, code) in [("\"ERROR_IP_BANNED\"", "ERROR_IP_BANNED"), ("16", "16")] {
        assert_eq!(refusal(state(format!(r#"{{"errorCode":{json}}}"#)).await).code.as_deref(), Some(code));
    }
}

#[tokio::test]
async fn a_code_that_stands_where_the_task_id_should_be_is_an_error() {
    let body = r#"{"errorId":0,"errorCode":"ERROR_KEY_DOES_NOT_EXIST","taskId":0}"#;
    assert_eq!(refusal(created(200, body).await).code.as_deref(), Some("ERROR_KEY_DOES_NOT_EXIST"));
}

#[tokio::test]
async fn an_error_beats_a_task_id_and_a_solution_beside_it() {
    let body = r#"{"errorId":1,"errorCode":"E","taskId":5,"status":"ready","solution":1}"#;
    assert_eq!(refusal(created(200, body).await).code.as_deref(), Some("E"));
    assert_eq!(refusal(state(body).await).code.as_deref(), Some("E"));
}

#[tokio::test]
async fn an_error_is_read_although_its_description_is_not_utf_8() {
    let body = b"{\"errorId\":1,\"errorCode\":\"ERROR_X\",\"errorDescription\":\"\xcf\xf0\"}";
    assert_eq!(refusal(state(body).await).code.as_deref(), Some("ERROR_X"));
}

#[tokio::test]
async fn a_code_with_broken_escapes_is_kept_as_it_stands() {
    let body = r#"{"errorId":1,"errorCode":"E\ud800"}"#;
    assert_eq!(refusal(state(body).await).code.as_deref(), Some(r"E\ud800"));
}

#[tokio::test]
async fn code_and_description_are_bounded() {
    let long = "д".repeat(100_000);
    let body = format!(r#"{{"errorId":1,"errorCode":"{long}","errorDescription":"{long}"}}"#);
    let refusal = refusal(state(body).await);
    assert_eq!(refusal.code.expect("a code").chars().count(), wire::MAX_CODE);
    assert_eq!(refusal.description.expect("a description").chars().count(), wire::MAX_DESCRIPTION);
}

#[tokio::test]
async fn the_key_is_masked_where_the_api_echoes_it() {
    let body = format!(r#"{{"errorId":1,"errorCode":"no {KEY}","errorDescription":"key {KEY} unknown"}}"#);
    let refusal = refusal(created(200, body).await);
    assert_eq!(refusal.code.as_deref(), Some("no [key]"));
    assert_eq!(refusal.description.as_deref(), Some("key [key] unknown"));
}

#[tokio::test]
async fn a_status_refuses_where_the_body_says_nothing() {
    for status in [301, 400, 402, 403, 404, 429, 500, 502, 503, 504] {
        for body in ["", "<html>no</html>", "{}", "[]", r#"{"errorId":0}"#, r#"{"taskId":5}"#, r#"{"error"#] {
            let refusal = refusal(created(status, body).await);
            assert_eq!((refusal.code, refusal.status), (None, status), "{body}");
        }
    }
}

#[tokio::test]
async fn a_refusal_records_whose_word_its_body_is() {
    for (body, whose) in [
        (r#"{"errorId":1,"errorCode":"ERROR_KEY_DOES_NOT_EXIST"}"#, ReplyBody::Api),
        (r#"{"errorCode":"ERROR_X"}"#, ReplyBody::Api),
        (r#"{"errorId":1}"#, ReplyBody::Api),
        (r#"{"errorId":0}"#, ReplyBody::Api),
        (r#"{"errorId":1,"errorCode":null,"errorDescription":"no"}"#, ReplyBody::Api),
        (r#"{"errorDescription":"no"}"#, ReplyBody::Api),
        ("\u{feff} {\"errorId\":1}\n", ReplyBody::Api),
        ("", ReplyBody::Empty),
        (" \r\n\t", ReplyBody::Empty),
        ("\u{feff}\n", ReplyBody::Empty),
        ("<html><h1>403 Forbidden</h1></html>", ReplyBody::Foreign),
        ("access denied", ReplyBody::Foreign),
        ("{}", ReplyBody::Foreign),
        ("[]", ReplyBody::Foreign),
        ("null", ReplyBody::Foreign),
        (r#""ERROR_KEY_DOES_NOT_EXIST""#, ReplyBody::Foreign),
        (r#"{"message":"Forbidden"}"#, ReplyBody::Foreign),
        (r#"{"status":403,"error":"Forbidden"}"#, ReplyBody::Foreign),
        (r#"{"errorId":null,"errorCode":null}"#, ReplyBody::Foreign),
        (r#"{"errorId":1,"errorCode":"ERR"#, ReplyBody::Foreign),
    ] {
        for status in [401, 402, 403, 429, 502] {
            let refusal = refusal(created(status, body).await);
            assert_eq!((refusal.body, refusal.status), (whose, status), "{body}");
        }
    }
}

#[tokio::test]
async fn an_error_under_a_200_is_the_apis_own_word() {
    for body in [r#"{"errorId":1}"#, r#"{"errorId":0,"errorCode":"E","taskId":0}"#] {
        assert_eq!(refusal(created(200, body).await).body, ReplyBody::Api, "{body}");
    }
}

#[tokio::test]
async fn a_missing_status_word_under_an_error_status_is_not_processing() {
    let end = answered(502, r#"{"errorId":0}"#).task_state(&id("1")).await;
    assert_eq!(refusal(end).status, 502);
}

#[tokio::test]
async fn an_error_in_the_body_keeps_the_http_status_beside_it() {
    for status in [200, 402, 403, 429, 503] {
        let refusal = refusal(created(status, r#"{"errorId":1,"errorCode":"ERROR_X"}"#).await);
        assert_eq!((refusal.code.as_deref(), refusal.status), (Some("ERROR_X"), status));
    }
}

#[test]
fn retry_after_is_read_in_seconds_and_capped() {
    for (value, wait) in [
        ("0", Some(0)),
        (" 7 ", Some(7)),
        ("86400", Some(600)),
        ("99999999999999999999999", Some(600)),
        ("-1", None),
        ("1.5", None),
        ("", None),
        ("Wed, 21 Oct 2026 07:28:00 GMT", None),
    ] {
        assert_eq!(wire::read_retry_after(value), wait.map(Duration::from_secs), "{value}");
    }
}

#[tokio::test]
async fn retry_after_comes_with_a_refusal_with_and_without_json() {
    for body in ["slow down", r#"{"errorId":1,"errorCode":"ERROR_TOO_MUCH_REQUESTS"}"#] {
        let server = MockServer::start().await;
        let answer = ResponseTemplate::new(429).insert_header("Retry-After", "7").set_body_string(body);
        Mock::given(any()).respond_with(answer).mount(&server).await;
        let refusal = refusal(solver(&server.uri()).create_task(b"{}").await);
        assert_eq!((refusal.status, refusal.retry_after), (429, Some(Duration::from_secs(7))));
    }
}
