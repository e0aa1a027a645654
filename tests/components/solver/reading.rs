//! What counts as a success, however it is written.

use captcha_worker::domain::call::NoAnswer;
use proptest::prelude::*;
use secrecy::SecretString;

use captcha_worker::domain::call::TaskState;
use captcha_worker::solver::{Mask, RawReply, wire};

use crate::solver::support::{
    KEY, answered, created, id, is_processing, no_answer, refusal, solution, state,
};

#[tokio::test]
async fn a_task_id_keeps_its_json_text_whatever_its_type() {
    for text in ["7654321", "18446744073709551616123", "\"7654321\"", "\"2f1c0f0e-ffff-4b1a\"", "-3", "1e3"] {
        let body = format!(r#"{{"errorId":0,"taskId":{text}}}"#);
        assert_eq!(created(200, body).await.expect(text), text);
    }
}

#[tokio::test]
async fn an_accepted_task_without_a_plausible_id_is_no_readable_answer() {
    for body in [
        r#"{"errorId":0}"#,
        r#"{"errorId":0,"taskId":0}"#,
        r#"{"errorId":0,"taskId":null}"#,
        r#"{"errorId":0,"taskId":""}"#,
        r#"{"errorId":0,"taskId":[1]}"#,
        r#"{"errorId":0,"taskId":true}"#,
        "{}",
    ] {
        assert_eq!(no_answer(created(200, body).await), (NoAnswer::Unreadable, Some(200)), "{body}");
    }
}

#[tokio::test]
async fn error_fields_beside_a_success_do_not_matter() {
    for fields in [
        r#""errorId":0,"errorCode":null,"errorDescription":null"#,
        r#""errorId":0,"errorCode":"","errorDescription":"""#,
        r#""errorId":"0","errorCode":"none""#,
        r#""errorId":false,"errorCode":0"#,
        r#""errorId":0.0"#,
        r#""errorId":null,"errorCode":null"#,
        r#""errorCode":"""#,
        r#""cost":"0.001","ip":"1.2.3.4","createTime":1,"solveCount":{"deep":[[[]]]}"#,
    ] {
        let body = format!(r#"{{{fields},"taskId":5}}"#);
        assert_eq!(created(200, &body).await.expect(&body), "5");
    }
}

#[tokio::test]
async fn a_solution_comes_through_byte_for_byte() {
    for text in [
        "{\"text\":\"answer\"}",
        "{ \"a\" :\t[1 ,2],\n \"b\":{}  }",
        r#"{"text":"\u0430\/\ud83d\ude00 \u0000"}"#,
        "{\"n\":12345678901234567890123.4500e-10}",
        r#"{"a":1,"a":2}"#,
        "\"plain\"",
        "[]",
    ] {
        let body = format!(r#"{{"errorId":0,"status":"ready","solution":{text} ,"cost":1}}"#);
        assert_eq!(solution(state(body).await), text);
    }
}

#[tokio::test]
async fn a_deeply_nested_solution_comes_through() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(solution(state(format!(r#"{{"status":"ready","solution":{deep}}}"#)).await), deep);
}

#[tokio::test]
async fn a_reply_without_status_is_processing() {
    for body in ["{}", r#"{"errorId":0}"#, r#"{"errorId":0,"status":null,"solution":null}"#] {
        assert!(is_processing(state(body).await), "{body}");
    }
}

#[tokio::test]
async fn a_solution_without_status_is_ready() {
    assert_eq!(solution(state(r#"{"errorId":0,"solution":{"text":"x"}}"#).await), r#"{"text":"x"}"#);
}

#[tokio::test]
async fn a_solution_beside_an_unknown_status_word_is_ready() {
    for status in [r#""completed""#, r#""Done""#, r#""solved""#, "1", "true"] {
        for text in [r#"{"text":"x"}"#, r#""x""#, "[1]", "0", "false"] {
            let body = format!(r#"{{"errorId":0,"status":{status},"solution":{text}}}"#);
            assert_eq!(solution(state(&body).await), text, "{body}");
        }
    }
}

#[tokio::test]
async fn an_error_beats_a_solution_beside_an_unknown_status_word() {
    let body = r#"{"errorId":1,"errorCode":"E","status":"completed","solution":{"text":"x"}}"#;
    assert_eq!(refusal(state(body).await).code.as_deref(), Some("E"));
}

#[tokio::test]
async fn the_word_processing_beats_a_solution_beside_it() {
    for status in ["processing", " Processing "] {
        let body = format!(r#"{{"errorId":0,"status":"{status}","solution":{{"text":"part"}}}}"#);
        assert!(is_processing(state(&body).await), "{body}");
    }
}

#[tokio::test]
async fn a_status_of_neither_documented_word_without_a_solution_is_processing() {
    for solution in ["null", "{}", "[ ]", r#""""#, "{\n}"] {
        for status in [r#""idle""#, r#""failed""#, "17", "{}"] {
            let body = format!(r#"{{"errorId":0,"status":{status},"solution":{solution}}}"#);
            assert!(is_processing(state(&body).await), "{body}");
        }
    }
    assert!(is_processing(state(r#"{"errorId":0,"status":"idle"}"#).await));
}

#[tokio::test]
async fn the_word_ready_counts_in_any_case() {
    assert_eq!(solution(state(r#"{"status":" READY","solution":1}"#).await), "1");
    assert_eq!(solution(state(r#"{"status":"re\u0061dy","solution":1}"#).await), "1");
}

#[tokio::test]
async fn ready_without_a_solution_is_no_readable_answer() {
    for body in [r#"{"errorId":0,"status":"ready"}"#, r#"{"errorId":0,"status":"ready","solution":null}"#] {
        assert_eq!(no_answer(state(body).await), (NoAnswer::Unreadable, Some(200)), "{body}");
    }
}

#[tokio::test]
async fn a_byte_order_mark_and_white_space_around_are_tolerated() {
    assert!(is_processing(state("\u{feff}\r\n  {\"status\":\"processing\"}\n\n").await));
}

#[tokio::test]
async fn of_a_key_that_comes_twice_the_last_counts() {
    assert_eq!(
        created(200, r#"{"taskId":1,"errorId":1,"taskId":2,"errorId":0}"#).await.expect("accepted"),
        "2"
    );
}

#[tokio::test]
async fn a_success_under_an_error_status_counts_where_it_says_so() {
    assert_eq!(created(500, r#"{"errorId":0,"taskId":9}"#).await.expect("accepted"), "9");
    let ready = answered(503, r#"{"errorId":0,"status":"ready","solution":3}"#).task_state(&id("1")).await;
    assert_eq!(solution(ready), "3");
}

#[tokio::test]
async fn a_success_that_is_not_a_json_object_is_no_readable_answer() {
    for body in
        ["", " ", "null", "[]", "7", "<html>oops</html>", r#"{"status":"rea"#, r#"{"status":"ready"} x"#]
    {
        assert_eq!(no_answer(state(body).await), (NoAnswer::Unreadable, Some(200)), "{body}");
        assert_eq!(no_answer(created(200, body).await), (NoAnswer::Unreadable, Some(200)), "{body}");
    }
}

#[tokio::test]
async fn a_solution_that_is_not_utf_8_is_not_handed_on_altered() {
    let body = b"{\"status\":\"ready\",\"solution\":\"\xcf\xf0\"}";
    assert_eq!(no_answer(state(body).await), (NoAnswer::Unreadable, Some(200)));
}

#[tokio::test]
async fn a_balance_is_read_from_a_number_or_a_string() {
    for (json, text) in [("345.678", "345.678"), ("\"0.10\"", "0.10"), ("-1", "-1")] {
        let balance = answered(200, format!(r#"{{"errorId":0,"balance":{json}}}"#)).balance().await;
        let balance = balance.expect(json);
        assert_eq!((balance.text.as_str(), balance.amount.to_string().as_str()), (text, text));
    }
}

#[tokio::test]
async fn a_balance_that_is_no_finite_number_is_no_readable_answer() {
    for json in ["null", "\"inf\"", "\"NaN\"", "1e999", "\"\"", "{}", "\"12 USD\""] {
        let balance = answered(200, format!(r#"{{"errorId":0,"balance":{json}}}"#)).balance().await;
        assert_eq!(no_answer(balance), (NoAnswer::Unreadable, Some(200)), "{json}");
    }
}

fn reply(status: u16, body: Vec<u8>) -> RawReply {
    RawReply { status, retry_after: None, body: body.into() }
}

/// Pieces that are likely to go wrong, in any order and number.
fn almost_json() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        "\"",
        "\\",
        "\\ud800",
        "null",
        "0",
        "1",
        "-",
        "1e999",
        "true",
        "\u{feff}",
        " ",
        "\"errorId\"",
        "\"errorCode\"",
        "\"errorDescription\"",
        "\"taskId\"",
        "\"status\"",
        "\"ready\"",
        "\"solution\"",
        "\"balance\"",
        KEY,
    ]);
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(status in 100u16..600, body in prop::collection::vec(any::<u8>(), 0..512)) {
        let (reply, mask) = (reply(status, body), Mask::new(&SecretString::from(KEY)));
        prop_assert!(wire::read_created(&reply, &mask).is_err());
        let object = reply.body.contains(&0x7b);
        prop_assert!(wire::read_state(&reply, &mask).is_err() || object);
        prop_assert!(wire::read_balance(&reply, &mask).is_err());
    }

    #[test]
    fn no_nearly_right_text_makes_it_panic_or_show_the_key(status in 100u16..600, body in almost_json()) {
        let (reply, mask) = (reply(status, body.into_bytes()), Mask::new(&SecretString::from(KEY)));
        let errors = (
            wire::read_created(&reply, &mask).err(),
            wire::read_state(&reply, &mask).err(),
            wire::read_balance(&reply, &mask).err(),
        );
        let shown = format!("{errors:?}");
        prop_assert!(!shown.contains(KEY), "{}", shown);
    }

    #[test]
    fn any_string_comes_through_as_it_was_written(text in any::<String>(), gap in "[ \t\r\n]{0,4}") {
        let solution = format!("{{{gap}\"t\":{gap}{}{gap}}}", serde_json::Value::from(text));
        let body = format!("{{\"errorId\":0,{gap}\"status\":\"ready\",\"solution\":{gap}{solution}{gap}}}");
        match wire::read_state(&reply(200, body.into_bytes()), &Mask::new(&SecretString::from(KEY))) {
            Ok(TaskState::Ready { solution: raw, .. }) => prop_assert_eq!(raw.get(), solution),
            other => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn no_retry_after_makes_it_panic_or_exceeds_its_bound(value in any::<String>()) {
        prop_assert!(wire::read_retry_after(&value).is_none_or(|wait| wait <= wire::MAX_RETRY_AFTER));
    }
}
