//! The page for people, over real HTTP: what is on it, what is not, and who may read it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use captcha_worker::domain::message::{Message, Properties};
use reqwest::{Client, Method, Response};
use serde_json::{Value, json};
use tokio::time::{Instant, interval};

use crate::ops::Solvent;
use crate::ops::readiness::wait_for_readyz;
use crate::ops::scene::{KEY, Scene};

/// Ids and types that would be a script in a page, and steer a terminal.
pub(crate) const SCRIPT: &str = "<script>alert(1)</script>";
pub(crate) const ESCAPES: &str = "\u{1b}[2J\u{1b}]0;owned\u{7}";

async fn publish(scene: &Scene, id: &str, body: &str) {
    let properties = Properties { message_id: Some(id.to_owned()), ..Properties::default() };
    let message = Message { body: Bytes::copy_from_slice(body.as_bytes()), properties, transient: false };
    scene.session.publish(&scene.names.jobs(), "jobs", message).await.expect("confirmed");
}

/// A worker at which jobs of hostile names have failed.
pub(crate) async fn failing() -> Scene {
    fail(Scene::start(Arc::new(Solvent), None).await).await
}

/// Has jobs of hostile names fail there.
pub(crate) async fn fail(scene: Scene) -> Scene {
    wait_for_readyz(&scene.url, "it is ready", |reply| reply.0 == 200).await;
    publish(&scene, SCRIPT, "not a job").await;
    publish(&scene, &format!("{ESCAPES}id"), "not a job").await;
    let hostile = json!({
        "id": "\"><img src=x onerror=alert(2)>",
        "task": {
            "type": format!("{ESCAPES}<b>Type"), "websiteURL": "https://nobody.example/",
            "proxyType": "http", "proxyAddress": "192.0.2.1", "proxyPort": 1,
            "proxyLogin": "pl4nted-login", "proxyPassword": "pl4nted-password",
        },
    });
    publish(&scene, "hostile", &hostile.to_string()).await;
    scene.wait_until("three have failed", |view| view.reading().failed == 3).await;
    scene
}

async fn asked(scene: &Scene, method: Method, path: &str, host: Option<&str>) -> Response {
    let request = Client::new().request(method, format!("{}{path}", scene.url));
    let request = match host {
        Some(host) => request.header("host", host),
        None => request,
    };
    request.send().await.expect("an answer")
}

/// The page, once this replica has reported its failures to the fleet.
pub(crate) async fn page(scene: &Scene) -> String {
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut looks = interval(Duration::from_millis(50));
    loop {
        looks.tick().await;
        let page = asked(scene, Method::GET, "/", None).await.text().await.expect("a body");
        if page.contains("POLICY_SITE_NOT_ALLOWED") {
            return page;
        }
        assert!(Instant::now() < deadline, "the failures are not on the page: {page}");
    }
}

#[tokio::test]
async fn what_publishers_write_is_text_on_the_page_and_in_status_and_nothing_else() {
    let scene = failing().await;
    let page = page(&scene).await;
    assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;"), "{page}");
    assert!(page.contains("&quot;&gt;&lt;img src=x onerror=alert(2)"), "{page}");
    for dangerous in ["<script", "<img", "<b>", "\u{1b}", "\u{7}"] {
        assert!(!page.contains(dangerous), "{dangerous:?} in {page}");
    }
    let status = asked(&scene, Method::GET, "/status", None).await.text().await.expect("a body");
    let parsed: Value = serde_json::from_str(&status).expect("JSON");
    let failures = parsed["fleet"]["latest_failures"].as_array().expect("failures");
    let found = |id: &str| failures.iter().any(|failure| failure["id"] == id);
    assert!(found(SCRIPT) && found("·[2J·]0;owned·id"), "{failures:?}");
    assert_eq!(failures.iter().filter(|failure| failure["replica"] == "replica").count(), 3);
    let types = &parsed["fleet"]["types"];
    assert_eq!((&types[0]["name"], &types[0]["failed"]), (&json!("·[2J·]0;owned·<b>Type"), &json!(1)));
    for (what, shown) in [("the page", &page), ("/status", &status)] {
        assert!(!shown.contains("pl4nted") && !shown.contains(KEY), "{what} shows a secret: {shown}");
    }
}

#[tokio::test]
async fn the_page_shows_guard_leader_and_balance_and_refreshes_itself_unless_it_is_held() {
    let scene = failing().await;
    let page = page(&scene).await;
    for wanted in [
        "<title>canary · captcha · captcha-worker</title>",
        "Guard: canary",
        "one job is submitted first",
        "leader",
        "7.5",
        "<html lang=\"en\">",
        "scope=\"col\"",
        "scope=\"row\"",
        "<caption>",
        "http-equiv=\"refresh\"",
        "name=\"viewport\"",
    ] {
        assert!(page.contains(wanted), "{wanted} is not in {page}");
    }
    let held = asked(&scene, Method::GET, "/?refresh=0", None).await.text().await.expect("a body");
    assert!(!held.contains("http-equiv=\"refresh\"") && held.contains("Refresh by itself"), "{held}");
}

#[tokio::test]
async fn browsers_are_forbidden_all_that_the_page_does_not_need_and_nobody_can_write() {
    let scene = failing().await;
    let page = asked(&scene, Method::GET, "/", None).await;
    let header = |name: &str| page.headers()[name].to_str().expect("text").to_owned();
    let policy = header("content-security-policy");
    assert!(
        policy.starts_with("default-src 'none'; style-src 'sha256-") && !policy.contains("unsafe"),
        "{policy}"
    );
    assert_eq!(header("content-type"), "text/html; charset=utf-8");
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cache-control", "no-store"),
        ("x-frame-options", "DENY"),
    ] {
        assert_eq!(header(name), value, "{name}");
    }
    let head = asked(&scene, Method::HEAD, "/", None).await;
    assert_eq!((head.status().as_u16(), head.text().await.expect("no body").len()), (200, 0));
    for path in ["/", "/status", "/metrics"] {
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::PATCH] {
            assert_eq!(
                asked(&scene, method.clone(), path, None).await.status().as_u16(),
                405,
                "{method} {path}"
            );
        }
    }
}

#[tokio::test]
async fn a_page_whose_name_was_made_to_resolve_to_this_machine_reads_nothing() {
    let scene = failing().await;
    for path in ["/", "/status", "/metrics", "/readyz"] {
        let reply = asked(&scene, Method::GET, path, Some("rebound.example:9464")).await;
        assert_eq!(reply.status().as_u16(), 421, "{path}");
        let text = reply.text().await.expect("a body");
        assert!(text.contains("answers to an IP address or localhost only"), "{text}");
        for own in ["localhost:9464", "127.0.0.1", "[::1]:9464"] {
            assert_eq!(
                asked(&scene, Method::GET, path, Some(own)).await.status().as_u16(),
                200,
                "{path} {own}"
            );
        }
    }
}
