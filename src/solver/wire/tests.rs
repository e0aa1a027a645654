use proptest::prelude::*;

use super::*;

fn refused(error: CallError) -> Refusal {
    match error {
        CallError::Refused(refusal) => refusal,
        other => panic!("not a refusal: {other:?}"),
    }
}

fn code_of(status: u16, body: &str) -> Option<String> {
    refused(task_state(status, None, body.as_bytes()).expect_err("an error")).code
}

fn is_unreadable<T: std::fmt::Debug>(end: Result<T, CallError>) -> bool {
    matches!(end, Err(CallError::NoAnswer { kind: NoAnswer::Unreadable, .. }))
}

fn id_of(body: &str) -> Option<String> {
    created(200, None, body.as_bytes()).ok().map(|accepted| accepted.task_id.as_json().to_owned())
}

#[test]
fn a_request_carries_the_key_escaped_and_the_task_byte_for_byte() {
    let task = r#"{ "type" : "T", "n": 1.50, "s":"\u00e9" }"#;
    let body = request(&opening("k\"ey__nocache"), Some(("task", task)));
    assert_eq!(body, format!(r#"{{"clientKey":"k\"ey__nocache","task":{task}}}"#).as_bytes());
    assert_eq!(&request(&opening("k"), None)[..], br#"{"clientKey":"k"}"#);
}

#[test]
fn a_task_id_stays_what_it_was() {
    for id in ["7654321", "98765432109876543210123", "\"8f14e45f-ceea-467f-a8b2-000000000000\"", "1.5e3"] {
        assert_eq!(id_of(&format!(r#"{{"errorId":0,"taskId":{id}}}"#)).as_deref(), Some(id));
    }
}

#[test]
fn an_acceptance_without_a_task_id_is_no_answer() {
    for body in [
        r#"{"errorId":0}"#,
        r#"{"errorId":0,"taskId":0}"#,
        r#"{"errorId":0,"taskId":null}"#,
        r#"{"taskId":{}}"#,
        r#"{"taskId":""}"#,
    ] {
        assert!(is_unreadable(created(200, None, body.as_bytes())), "{body}");
    }
}

#[test]
fn an_error_in_the_body_is_read_whatever_it_is_wrapped_in() {
    let body = r#"{"errorId":1,"errorCode":"ERROR_ZERO_BALANCE","errorDescription":"no money","taskId":0}"#;
    for status in [200, 400, 402, 500, 503] {
        let refusal = refused(created(status, None, body.as_bytes()).expect_err("an error"));
        assert_eq!((refusal.code.as_deref(), refusal.status), (Some("ERROR_ZERO_BALANCE"), status));
        assert_eq!(refusal.description.as_deref(), Some("no money"));
    }
}

#[test]
fn an_error_is_any_error_id_but_zero_and_its_code_may_be_missing() {
    assert_eq!(code_of(200, r#"{"errorId":12,"errorCode":"E"}"#).as_deref(), Some("E"));
    assert_eq!(code_of(200, r#"{"errorId":"1","errorCode":"E"}"#).as_deref(), Some("E"));
    assert_eq!(code_of(200, r#"{"errorId":true,"errorCode":"E"}"#).as_deref(), Some("E"));
    assert_eq!(code_of(200, r#"{"errorCode":"E"}"#).as_deref(), Some("E"));
    assert_eq!(code_of(200, r#"{"errorId":1,"errorCode":null}"#), None);
    assert_eq!(code_of(200, r#"{"errorId":1}"#), None);
    assert_eq!(code_of(200, r#"{"errorId":1,"errorCode":31}"#).as_deref(), Some("31"));
}

#[test]
fn error_fields_may_be_there_and_null_on_success() {
    let nulls = r#""errorCode":null,"errorDescription":null"#;
    let processing = format!(r#"{{"errorId":0,{nulls},"status":"processing"}}"#);
    assert!(matches!(task_state(200, None, processing.as_bytes()), Ok(TaskState::Processing)));
    let empty_code = r#"{"errorCode":"","status":"processing"}"#;
    assert!(matches!(task_state(200, None, empty_code.as_bytes()), Ok(TaskState::Processing)));
}

#[test]
fn a_solution_is_kept_byte_for_byte() {
    let solution = r#"{ "text" : "caf\u00e9", "n":[1.50, 1E400 , {"deep":null}] }"#;
    for rest in
        [r#""status":"ready","#, "", r#""cost":"0.002","ip":"1.2.3.4","solveCount":1,"status":"ready","#]
    {
        let body = format!(r#"{{"errorId":0,{rest}"solution":{solution}}}"#);
        let Ok(TaskState::Ready(read)) = task_state(200, None, body.as_bytes()) else {
            panic!("ready: {body}")
        };
        assert_eq!(read.get(), solution);
    }
}

#[test]
fn a_reply_without_a_status_or_with_an_unknown_one_means_not_yet() {
    for body in [
        r#"{"errorId":0}"#,
        "{}",
        r#"{"status":null}"#,
        r#"{"status":"queued"}"#,
        r#"{"status":7}"#,
        r#"{"solution":null}"#,
    ] {
        assert!(matches!(task_state(200, None, body.as_bytes()), Ok(TaskState::Processing)), "{body}");
    }
}

#[test]
fn ready_without_a_solution_is_asked_for_again() {
    assert!(is_unreadable(task_state(200, None, br#"{"errorId":0,"status":"ready"}"#)));
    assert!(is_unreadable(task_state(200, None, br#"{"errorId":0,"status":"ready","solution":null}"#)));
}

#[test]
fn without_json_the_status_decides() {
    for body in ["", "<html>Bad Gateway</html>", r#"{"errorId":0,"status":"rea"#, "[]", "null", "\"text\""] {
        assert!(is_unreadable(task_state(200, None, body.as_bytes())), "{body}");
        let refusal =
            refused(task_state(502, Some(Duration::from_secs(3)), body.as_bytes()).expect_err("an error"));
        assert_eq!(
            (refusal.code, refusal.status, refusal.retry_after),
            (None, 502, Some(Duration::from_secs(3)))
        );
    }
    assert_eq!(code_of(503, "{}"), None, "JSON that names no error does not turn a 503 into a success");
}

#[test]
fn a_byte_order_mark_white_space_and_repeated_fields_do_no_harm() {
    let body = "\u{feff} \r\n{\"status\":\"processing\",\"errorId\":0,\"status\":\"ready\",\"solution\":{}} ";
    assert!(matches!(task_state(200, None, body.as_bytes()), Ok(TaskState::Ready(_))));
}

#[test]
fn a_balance_is_read_as_a_number_or_as_text() {
    let close = |body: &str, wanted: f64| {
        (balance(200, None, body.as_bytes()).expect("a balance") - wanted).abs() < 1e-9
    };
    assert!(close(r#"{"errorId":0,"balance":345.678}"#, 345.678));
    assert!(close(r#"{"errorId":0,"balance":"0.5"}"#, 0.5));
    assert!(is_unreadable(balance(200, None, br#"{"errorId":0}"#)));
    assert!(is_unreadable(balance(200, None, br#"{"balance":"NaN"}"#)));
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(status in 100_u16..600, bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = (created(status, None, &bytes), task_state(status, None, &bytes), balance(status, None, &bytes));
    }

    #[test]
    fn no_json_like_text_makes_the_reader_panic(
        text in r#"\{("(errorId|errorCode|status|taskId|solution|balance)":(0|1|"x"|null|\{\}|\[\]|"ready"),?){0,5}\}?"#,
    ) {
        let _ = (created(200, None, text.as_bytes()), task_state(200, None, text.as_bytes()), balance(200, None, text.as_bytes()));
    }
}
