//! Callbacks: sent once when a task is ready, or as a script wants it.

use std::sync::Arc;
use std::time::Duration;

use captcha_worker::simulator::{Callback, Control, Server, Simulator};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::simulator::support::{KEY, call, code_of, exact, image, json_of, simulator};

/// Each callback with the ms since the start.
type Came = Arc<Mutex<Vec<(u128, Callback)>>>;

fn with_hook() -> (Simulator, Came) {
    let (simulator, came) = (simulator(exact()), Came::default());
    let (began, seen) = (Instant::now(), Arc::clone(&came));
    simulator.on_callback(Box::new(move |callback| {
        seen.lock().push((began.elapsed().as_millis(), callback));
        Box::pin(std::future::ready(true))
    }));
    (simulator, came)
}

/// Submits the `number`-th task with a callback, and this word for it in its script.
async fn submit(simulator: &Simulator, number: u32, url: &str, step: &Value) -> Value {
    let mut task = image(number, 100);
    task["_sim"] = json!({"callback": step});
    json_of(
        &call(simulator, "createTask", &json!({"clientKey": KEY, "task": task, "callbackUrl": url})).await,
    )
}

#[tokio::test(start_paused = true)]
async fn a_callback_comes_when_the_task_is_ready_or_as_the_script_wants_it() {
    let (simulator, came) = with_hook();
    let steps =
        [json!("once"), json!("twice"), json!("never"), json!({"late_ms": 2_000}), json!("wrong_task")];
    for (number, step) in steps.iter().enumerate() {
        let url = format!("http://cb.test/{number}");
        assert_eq!(submit(&simulator, number as u32, &url, step).await["errorId"], 0);
    }
    sleep(Duration::from_secs(10)).await;
    let mut seen: Vec<_> = came.lock().iter().map(|(at, callback)| (*at, callback.url.clone())).collect();
    seen.sort();
    let at = |ms, number: u32| (ms, format!("http://cb.test/{number}"));
    assert_eq!(seen, [at(3_000, 0), at(3_000, 1), at(3_000, 1), at(3_000, 3), at(5_000, 3)]);
    let stats = simulator.stats().callbacks;
    assert_eq!((stats.asked, stats.sent, stats.failed, stats.refused), (5, 5, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn its_body_is_as_get_task_results_and_lacks_the_id_of_every_second_task() {
    let (simulator, came) = with_hook();
    for number in 0..2 {
        submit(&simulator, number, &format!("http://cb.test/{number}"), &json!("once")).await;
    }
    sleep(Duration::from_secs(4)).await;
    let mut came = came.lock().clone();
    came.sort_by(|a, b| a.1.url.cmp(&b.1.url));
    let bodies: Vec<Value> =
        came.iter().map(|(_, callback)| serde_json::from_slice(&callback.body).expect("JSON")).collect();
    assert_eq!((&bodies[0]["taskId"], bodies[1].get("taskId")), (&json!(7_000_001), None));
    for body in bodies {
        assert_eq!((&body["errorId"], &body["status"]), (&json!(0), &json!("ready")));
        assert!(body["solution"]["text"].is_string(), "{body}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_that_cannot_be_reached_has_create_task_refused_where_a_callback_is_asked_for() {
    let (simulator, _came) = with_hook();
    let refuse = |refuse| Control { refuse_callbacks: Some(refuse), ..Control::default() };
    simulator.control(&refuse(true)).expect("applied");
    let refused = submit(&simulator, 1, "http://cb.test/1", &json!("once")).await;
    assert_eq!(refused["errorCode"], "ERROR_SERVICE_NOT_AVAILABLE");
    let without = call(&simulator, "createTask", &json!({"clientKey": KEY, "task": image(2, 100)})).await;
    assert_eq!(json_of(&without)["errorId"], 0, "{}", code_of(&without));
    simulator.control(&refuse(false)).expect("applied");
    assert_eq!(submit(&simulator, 1, "http://cb.test/1", &json!("once")).await["errorId"], 0);
    assert_eq!((simulator.stats().callbacks.refused, simulator.stats().accepted_tasks), (1, 2));
}

#[tokio::test]
async fn over_http_it_is_a_post_whose_failure_has_later_ones_to_the_host_refused() {
    let simulator = simulator(exact());
    let server = Server::bind(([127, 0, 0, 1], 0).into(), simulator.clone()).await.expect("a port");
    let shutdown = CancellationToken::new();
    let serving = tokio::spawn(server.run(shutdown.clone()));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/callback/a/1", listener.local_addr().expect("bound"));
    let mut task = image(1, 100);
    task["_sim"] = json!({"solve_ms": 0});
    let body = json!({"clientKey": KEY, "task": task, "callbackUrl": url});
    // The server sets who sends when it begins to run.
    tokio::task::yield_now().await;
    json_of(&call(&simulator, "createTask", &body).await);
    let (mut stream, _) =
        timeout(Duration::from_secs(5), listener.accept()).await.expect("in time").expect("called");
    let mut request = Vec::new();
    while !request.ends_with(b"}") {
        let read = timeout(Duration::from_secs(5), stream.read_buf(&mut request)).await.expect("in time");
        assert!(read.expect("readable") > 0, "{}", String::from_utf8_lossy(&request));
    }
    assert!(request.starts_with(b"POST /callback/a/1 HTTP/1.1\r\n"));
    stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.expect("writable");
    drop((stream, listener));

    // Nobody listens there any more.
    json_of(&call(&simulator, "createTask", &body).await);
    let failed = async {
        let mut looks = tokio::time::interval(Duration::from_millis(5));
        while simulator.stats().callbacks.failed == 0 {
            looks.tick().await;
        }
    };
    timeout(Duration::from_secs(5), failed).await.expect("it is noticed");
    let refused = call(&simulator, "createTask", &body).await;
    assert_eq!(code_of(&refused), "ERROR_SERVICE_NOT_AVAILABLE");
    shutdown.cancel();
    timeout(Duration::from_secs(10), serving).await.expect("in time").expect("no panic").expect("served");
}
