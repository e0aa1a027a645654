//! createTask's own checks, and the solutions.

use captcha_worker::simulator::{Simulator, SimulatorConfig, TaskIds, expected_solution};
use serde_json::{Value, json};

use crate::simulator::support::{
    KEY, accepted, call, code_of, exact, image, json_of, pass, poll, polled, refused, simulator,
};

/// Every documented type with all it needs, the fields it cannot do without, and the shape of its
/// solution.
fn documented() -> Vec<(Value, &'static [&'static str], &'static [&'static str])> {
    let site =
        |kind: &str, key: &str| json!({"type": kind, "websiteURL": "https://shop.example/", key: "k-1"});
    let token: &[&str] = &["/token"];
    let recaptcha: &[&str] = &["/gRecaptchaResponse"];
    let hcaptcha: &[&str] = &["/gRecaptchaResponse", "/respKey", "/userAgent"];
    let key: &[&str] = &["websiteURL", "websiteKey"];
    let public: &[&str] = &["websiteURL", "websitePublicKey"];
    let complex = json!({"type": "ComplexImageTask", "class": "recaptcha", "imageUrls": ["https://shop.example/1.png"],
        "metadata": {"Task": "cars"}});
    let mut fox = site("CaptchaFoxTask", "websiteKey");
    fox["userAgent"] = json!("Mozilla/5.0");
    vec![
        (image(1, 100), &["body"], &["/text"]),
        (complex, &["class", "imageUrls", "metadata"], &["/answer/0", "/answer/3"]),
        (site("FunCaptchaTask", "websitePublicKey"), public, &["/token", "/userAgent"]),
        (site("FunCaptchaTaskProxyless", "websitePublicKey"), public, &["/token", "/userAgent"]),
        (site("HCaptchaTask", "websiteKey"), key, hcaptcha),
        (site("HCaptchaTaskProxyless", "websiteKey"), key, hcaptcha),
        (fox, &["websiteURL", "websiteKey", "userAgent"], token),
        (site("RecaptchaV2Task", "websiteKey"), key, recaptcha),
        (site("NoCaptchaTask", "websiteKey"), key, recaptcha),
        (site("NoCaptchaTaskProxyless", "websiteKey"), key, recaptcha),
        (site("RecaptchaV3TaskProxyless", "websiteKey"), key, recaptcha),
        (site("TurnstileTask", "websiteKey"), key, token),
        (site("GeeTestTask", "gt"), &["websiteURL", "gt"], &["/geetest/challenge", "/geetest/validate"]),
    ]
}

#[tokio::test(start_paused = true)]
async fn every_type_is_solved_in_its_documented_shape() {
    let simulator = simulator(exact());
    for (task, _, shape) in documented() {
        let id = accepted(&simulator, &task).await;
        pass(20_000).await;
        let answer = json_of(&poll(&simulator, &id).await);
        assert_eq!(answer["status"], "ready", "{task}");
        for pointer in shape {
            assert!(answer["solution"].pointer(pointer).is_some(), "{pointer} of {answer}");
        }
        assert_eq!(Some(&answer["solution"]), expected_solution(task.to_string().as_bytes()).as_ref());
    }
}

#[tokio::test(start_paused = true)]
async fn every_required_field_is_asked_for() {
    let simulator = simulator(exact());
    for (task, required, _) in documented() {
        for field in required {
            for nothing in [None, Some(json!(null)), Some(json!("")), Some(json!(5)), Some(json!([]))] {
                let mut bare = task.clone();
                let fields = bare.as_object_mut().expect("an object");
                match nothing {
                    Some(nothing) => fields.insert((*field).to_owned(), nothing),
                    None => fields.remove(*field),
                };
                assert_eq!(refused(&simulator, &bare).await, "ERROR_TASK_PROPERTY_EMPTY", "{bare}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_complex_image_may_come_as_base64_instead_of_addresses() {
    let simulator = simulator(exact());
    let mut task = json!({"type": "ComplexImageTask", "class": "recaptcha", "metadata": {"Task": "cars"}});
    task["imagesBase64"] = json!([image(1, 100)["body"]]);
    accepted(&simulator, &task).await;
    task["imagesBase64"] = json!([image(1, 99)["body"]]);
    assert_eq!(refused(&simulator, &task).await, "ERROR_ZERO_CAPTCHA_FILESIZE");
}

#[tokio::test(start_paused = true)]
async fn images_of_100_to_50_000_decoded_bytes_are_taken() {
    let simulator = simulator(exact());
    assert_eq!(refused(&simulator, &image(1, 99)).await, "ERROR_ZERO_CAPTCHA_FILESIZE");
    accepted(&simulator, &image(2, 100)).await;
    accepted(&simulator, &image(3, 50_000)).await;
    assert_eq!(refused(&simulator, &image(4, 50_001)).await, "ERROR_TOO_BIG_CAPTCHA_FILESIZE");
}

#[tokio::test(start_paused = true)]
async fn an_image_that_is_not_base64_is_refused() {
    let simulator = simulator(exact());
    for body in ["!".repeat(400), "A".repeat(401), format!("data:image/png;base64,{}", "A".repeat(400))] {
        let task = json!({"type": "ImageToTextTask", "body": body});
        assert_eq!(refused(&simulator, &task).await, "ERROR_ZERO_CAPTCHA_FILESIZE");
    }
}

#[tokio::test(start_paused = true)]
async fn base64_with_escaped_slashes_is_the_same_image() {
    let simulator = simulator(exact());
    let body = format!(
        r#"{{"clientKey":"{KEY}","task":{{"type":"ImageToTextTask","body":"{}"}}}}"#,
        "\\/".repeat(200)
    );
    let answer = json_of(&simulator.call("createTask", body.as_bytes()).await);
    assert_eq!(answer["errorId"], 0);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_is_none_is_distinguished_from_a_type_that_is_none() {
    let simulator = simulator(exact());
    for task in [json!(null), json!("text"), json!([1]), json!(5)] {
        assert_eq!(refused(&simulator, &task).await, "ERROR_TASK_ABSENT", "{task}");
    }
    for task in [json!({}), json!({"type": ""}), json!({"type": 5})] {
        assert_eq!(refused(&simulator, &task).await, "ERROR_NO_SUCH_METHOD", "{task}");
    }
    assert_eq!(refused(&simulator, &json!({"type": "ImageToText"})).await, "ERROR_TASK_NOT_SUPPORTED");
    let no_task = call(&simulator, "createTask", &json!({"clientKey": KEY})).await;
    assert_eq!(code_of(&no_task), "ERROR_TASK_ABSENT");
}

#[tokio::test(start_paused = true)]
async fn an_error_of_create_task_carries_a_description_and_the_task_id_0() {
    let simulator = simulator(exact());
    let answer = json_of(&crate::simulator::support::submit(&simulator, &json!({"type": "x"})).await);
    let expected = json!({"errorId": 1, "errorCode": "ERROR_TASK_NOT_SUPPORTED",
        "errorDescription": "the task type is not supported", "taskId": 0});
    assert_eq!(answer, expected);
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_costs_nothing_and_what_is_accepted_is_paid_once() {
    let simulator = simulator(exact());
    refused(&simulator, &image(1, 99)).await;
    assert_eq!(simulator.stats().paid, 0.0);
    accepted(&simulator, &image(1, 100)).await;
    let stats = simulator.stats();
    assert_eq!((stats.paid, stats.balance, stats.accepted_tasks), (0.001, 999.999, 1));
}

async fn first_two_ids(task_ids: TaskIds) -> (Simulator, Value, Value) {
    let simulator = simulator(SimulatorConfig { task_ids, ..exact() });
    let first = accepted(&simulator, &image(1, 100)).await;
    let second = accepted(&simulator, &image(2, 100)).await;
    (simulator, first, second)
}

#[tokio::test(start_paused = true)]
async fn task_ids_are_integers_counted_up() {
    let (_, first, second) = first_two_ids(TaskIds::Integer).await;
    assert_eq!((first, second), (json!(7_000_001), json!(7_000_002)));
}

#[tokio::test(start_paused = true)]
async fn wide_task_ids_do_not_fit_in_32_bits() {
    let (simulator, first, second) = first_two_ids(TaskIds::WideInteger).await;
    assert!(first.as_u64() > Some(1 << 32) && second != first);
    assert_eq!(polled(&simulator, &second).await, "processing");
}

#[tokio::test(start_paused = true)]
async fn uuid_task_ids_are_strings() {
    let (simulator, first, second) = first_two_ids(TaskIds::Uuid).await;
    assert!(first.is_string() && second != first);
    assert_eq!(polled(&simulator, &second).await, "processing");
}

#[tokio::test(start_paused = true)]
async fn an_id_sent_back_in_another_json_type_is_unknown() {
    let (simulator, first, _) = first_two_ids(TaskIds::Integer).await;
    assert_eq!(polled(&simulator, &json!(first.to_string())).await, "ERROR_NO_SUCH_CAPCHA_ID");
    assert_eq!(simulator.stats().wrong_id_calls, 1);
}

#[tokio::test(start_paused = true)]
async fn a_task_submitted_again_is_counted_by_its_bytes() {
    let simulator = simulator(SimulatorConfig { max_digests: 2, ..exact() });
    for number in [1, 1, 2, 1] {
        accepted(&simulator, &image(number, 100)).await;
    }
    let stats = simulator.stats();
    assert_eq!((stats.accepted_tasks, stats.distinct_tasks, stats.repeated_submissions), (4, 2, 2));
    assert_eq!(stats.digests_not_remembered, 0);
    accepted(&simulator, &image(3, 100)).await;
    accepted(&simulator, &image(3, 100)).await;
    let stats = simulator.stats();
    assert_eq!((stats.distinct_tasks, stats.repeated_submissions, stats.digests_not_remembered), (4, 2, 2));
}
