//! The bound on concurrent requests, and settings that are refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use captcha_worker::solver::{Solver, SolverConfigError, SolverOptions};
use futures_util::future::join_all;
use secrecy::SecretString;
use tokio::sync::Barrier;

use crate::solver::support::{RawServer, options, within};

#[tokio::test]
async fn no_more_than_max_connections_requests_are_under_way_at_once() {
    // Each answer waits until three requests are here, so that three must run together; the peak
    // shows a fourth.
    let (barrier, live, peak) =
        (Arc::new(Barrier::new(3)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let server = RawServer::run({
        let (live, peak) = (live.clone(), peak.clone());
        move |mut connection| {
            let (barrier, live, peak) = (barrier.clone(), live.clone(), peak.clone());
            async move {
                while connection.request().await.is_some() {
                    peak.fetch_max(live.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    barrier.wait().await;
                    live.fetch_sub(1, Ordering::SeqCst);
                    connection.send_json(r#"{"errorId":0,"balance":1}"#).await;
                }
            }
        }
    })
    .await;
    let mut options = options(&server.url);
    options.max_connections = 3;
    let solver = Solver::new(options).expect("a client");
    for end in within(join_all((0..12).map(|_| solver.balance()))).await {
        end.expect("funds");
    }
    assert_eq!(peak.load(Ordering::SeqCst), 3);
}

fn error(change: impl FnOnce(&mut SolverOptions)) -> String {
    let mut options = options("https://api.example.com");
    change(&mut options);
    Solver::new(options).expect_err("refused").to_string()
}

fn with_url(url: &str) -> Result<Solver, SolverConfigError> {
    Solver::new(options(url))
}

#[test]
fn plain_http_is_for_this_machine_only() {
    for url in ["http://localhost:8191", "http://127.0.0.1", "http://127.8.9.1:1/api", "http://[::1]:8191"] {
        assert!(with_url(url).is_ok(), "{url}");
    }
    for url in [
        "http://api.example.com",
        "http://10.0.0.1",
        "http://localhost.example.com",
        "http://[::2]",
        "http://0.0.0.0",
    ] {
        let error = with_url(url).expect_err(url).to_string();
        assert!(error.starts_with("solver.base_url: http:// would send the key unencrypted"), "{error}");
    }
}

#[test]
fn plain_http_elsewhere_can_be_allowed() {
    let mut options = options("http://simulator:8191");
    options.allow_plain_http = true;
    assert!(Solver::new(options).is_ok());
}

#[test]
fn a_base_url_with_user_or_password_is_refused_without_repeating_them() {
    for url in [
        "https://user@api.example.com",
        "https://user:hunter2@api.example.com",
        "https://:hunter2@api.example.com",
    ] {
        let error = with_url(url).expect_err(url).to_string();
        assert!(error.starts_with("solver.base_url: must hold no user"), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[test]
fn a_base_url_that_cannot_be_one_is_refused() {
    for url in
        ["ftp://api.example.com", "https://api.example.com/?a=1", "https://api.example.com/#x", "data:,x"]
    {
        assert!(matches!(with_url(url), Err(SolverConfigError::BaseUrl(_))), "{url}");
    }
}

#[test]
fn bounds_out_of_range_are_refused_by_name() {
    let cases = [
        (error(|o| o.max_connections = 0), "solver.max_connections"),
        (error(|o| o.max_connections = usize::MAX), "solver.max_connections"),
        (error(|o| o.idle_timeout = Duration::ZERO), "solver.idle_timeout"),
        (error(|o| o.connect_timeout = Duration::ZERO), "solver.connect_timeout"),
        (error(|o| o.request_timeout = o.connect_timeout), "solver.request_timeout"),
        (error(|o| o.user_agent = "a\nb".to_owned()), "solver.user_agent"),
        (error(|o| o.api_key = SecretString::from(" ")), "solver.api_key"),
    ];
    for (text, setting) in cases {
        assert!(text.starts_with(&format!("{setting}: ")), "{text}");
    }
}
