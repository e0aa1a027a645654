//! The page on which operators act, over real HTTP and in a real browser.

use std::io::{self, Write};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use reqwest::redirect::Policy;
use reqwest::{Client, Response};
use tracing_subscriber::fmt::MakeWriter;

use crate::ops::Solvent;
use crate::ops::console::{SCRIPT, fail, failing};
use crate::ops::scene::{KEY, Scene, TOKEN};

/// A browser of the least sort: it keeps one cookie.
struct Visitor<'a> {
    scene: &'a Scene,
    client: Client,
    cookie: String,
}

impl<'a> Visitor<'a> {
    fn new(scene: &'a Scene) -> Self {
        let client = Client::builder().redirect(Policy::none()).build().expect("a client");
        Self { scene, client, cookie: String::new() }
    }

    async fn logged_in(scene: &'a Scene) -> Self {
        let mut visitor = Self::new(scene);
        let reply = visitor.post("log-in", &[("token", TOKEN)]).await;
        assert_eq!((reply.status().as_u16(), &reply.headers()["location"]), (303, &"/act".parse().unwrap()));
        let cookie = reply.headers()["set-cookie"].to_str().expect("text");
        visitor.cookie = cookie.split(';').next().expect("a pair").to_owned();
        visitor
    }

    async fn page(&self) -> String {
        let request = self.client.get(format!("{}/act", self.scene.url)).header("cookie", &self.cookie);
        request.send().await.expect("an answer").text().await.expect("a body")
    }

    async fn post(&self, act: &str, form: &[(&str, &str)]) -> Response {
        self.post_with(act, form, ("accept", "text/html")).await
    }

    async fn post_with(&self, act: &str, form: &[(&str, &str)], header: (&str, &str)) -> Response {
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        let request = self.client.post(format!("{}/act/{act}", self.scene.url)).body(body);
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        let request = request.header("cookie", &self.cookie).header(header.0, header.1);
        request.send().await.expect("an answer")
    }

    /// Sends a form of the page, and returns the page that follows.
    async fn act(&self, act: &str, form: &[(&str, &str)]) -> String {
        let form_token = form_token(&self.page().await);
        let form: Vec<_> = form.iter().copied().chain([("form_token", &*form_token)]).collect();
        let reply = self.post(act, &form).await;
        assert_eq!(reply.status().as_u16(), 303, "{act}");
        self.page().await
    }
}

fn form_token(page: &str) -> String {
    let (_, rest) = page.split_once("name=\"form_token\" value=\"").expect("a form");
    rest.split('"').next().expect("its end").to_owned()
}

async fn acting() -> Scene {
    fail(Scene::acting(Arc::new(Solvent)).await).await
}

#[tokio::test]
async fn without_a_token_in_the_settings_there_is_no_such_page() {
    let scene = failing().await;
    let visitor = Visitor::new(&scene);
    let page = visitor.client.get(format!("{}/act", scene.url)).send().await.expect("an answer");
    assert_eq!(page.status().as_u16(), 404);
    for act in ["log-in", "log-out", "pause", "resume", "find", "replay", "replay-chosen"] {
        assert_eq!(visitor.post(act, &[("token", TOKEN)]).await.status().as_u16(), 404, "{act}");
    }
    let console = reqwest::get(&scene.url).await.expect("an answer").text().await.expect("a body");
    assert!(console.contains("read only") && !console.contains("/act"), "{console}");
}

#[tokio::test]
async fn only_who_has_shown_the_token_acts_and_wrong_tokens_are_limited() {
    let scene = acting().await;
    let stranger = Visitor::new(&scene);
    assert!(stranger.page().await.contains("type=\"password\""));
    for act in ["pause", "resume", "find", "replay", "replay-chosen", "log-out"] {
        let reply = stranger.post(act, &[("id", "x"), ("form_token", "")]).await;
        assert_eq!(reply.status().as_u16(), 401, "{act}");
    }
    for _ in 0..5 {
        let reply = stranger.post("log-in", &[("token", "pl4nted-token-0123456789abcdeF")]).await;
        assert_eq!((reply.status().as_u16(), reply.headers().contains_key("set-cookie")), (401, false));
    }
    let reply = stranger.post("log-in", &[("token", "pl4nted-token-0123456789abcdeF")]).await;
    assert_eq!((reply.status().as_u16(), &reply.headers()["retry-after"]), (429, &"60".parse().unwrap()));
    let reply = stranger.post("log-in", &[("token", TOKEN)]).await;
    assert!(reply.headers().contains_key("set-cookie"), "the right one passes at any time");
    assert!(scene.view.seen().state.expect("known").paused.is_none(), "nothing was done");
}

#[tokio::test]
async fn the_cookie_is_for_this_server_alone_and_the_page_may_send_forms_nowhere_else() {
    let scene = acting().await;
    let visitor = Visitor::new(&scene);
    for (proto, secure) in [("https", true), ("http", false)] {
        let reply = visitor.post_with("log-in", &[("token", TOKEN)], ("x-forwarded-proto", proto)).await;
        let cookie = reply.headers()["set-cookie"].to_str().expect("text").to_owned();
        assert!(cookie.contains("; HttpOnly; SameSite=Strict") && cookie.contains("Path=/;"), "{cookie}");
        assert_eq!(cookie.ends_with("; Secure"), secure, "{cookie}");
    }
    let page = visitor.client.get(format!("{}/act", scene.url)).send().await.expect("an answer");
    let policy = page.headers()["content-security-policy"].to_str().expect("text");
    assert!(policy.contains("form-action 'self'") && policy.starts_with("default-src 'none'"), "{policy}");
    assert_eq!(page.headers()["cache-control"], "no-store");
}

#[tokio::test]
async fn a_form_that_the_page_did_not_make_does_nothing() {
    let scene = acting().await;
    let visitor = Visitor::logged_in(&scene).await;
    let form_token = form_token(&visitor.page().await);
    let other = Visitor::logged_in(&scene).await;
    for forged in ["", "x", &*self::form_token(&other.page().await)] {
        let reply = visitor.post("pause", &[("reason", "forged"), ("form_token", forged)]).await;
        assert_eq!(reply.status().as_u16(), 403);
    }
    let form = [("reason", "forged"), ("form_token", &*form_token)];
    for site in ["cross-site", "same-site"] {
        let reply = visitor.post_with("pause", &form, ("sec-fetch-site", site)).await;
        assert_eq!(reply.status().as_u16(), 403, "{site}");
    }
    let huge = "x".repeat(17 * 1024);
    assert_eq!(visitor.post("pause", &[("reason", &huge)]).await.status().as_u16(), 413);
    assert!(scene.view.seen().state.expect("known").paused.is_none());
    let page = visitor.act("log-out", &[]).await;
    assert!(page.contains("type=\"password\"") && !page.contains("form_token"));
}

#[tokio::test]
async fn an_operator_pauses_resumes_finds_and_replays() {
    let scene = acting().await;
    let visitor = Visitor::logged_in(&scene).await;

    let page = visitor.act("pause", &[("reason", "<b>moving")]).await;
    assert!(page.contains("paused: 1 of 1 replicas follow"), "{page}");
    let paused = scene.view.seen().state.expect("known").paused.clone().expect("paused");
    assert_eq!(paused.reason.as_deref(), Some("<b>moving (console, 127.0.0.1)"));
    let page = visitor.act("replay", &[("class", "forbidden")]).await;
    assert!(page.contains("1 jobs would be published again"), "{page}");
    let page = visitor.act("replay-chosen", &[]).await;
    assert!(page.contains("nothing was published: the fleet is paused"), "{page}");
    let page = visitor.act("resume", &[]).await;
    assert!(page.contains("resumed: 1 of 1 replicas follow"), "{page}");

    let page = visitor.act("find", &[("id", SCRIPT)]).await;
    assert!(page.contains("failed (malformed): replica published its outcome at"), "{page}");
    assert!(page.contains("dead letter in captcha.dead.malformed: NOT_JSON"), "{page}");
    let page = visitor.act("find", &[("id", "--json")]).await;
    assert!(page.contains("1 of 1 replicas answered, and know nothing of it"), "{page}");

    for (field, value) in [("since", "yesterday"), ("code", "--all"), ("limit", "0")] {
        let page = visitor.act("replay", &[(field, value)]).await;
        let refused = page.contains("invalid value") || page.contains("0 jobs would be published again");
        assert!(refused && !page.contains("replay-chosen"), "{field}={value}: {page}");
    }
    visitor.act("replay", &[("class", "forbidden"), ("code", "POLICY_SITE_NOT_ALLOWED")]).await;
    let page = visitor.act("replay-chosen", &[("class", "malformed")]).await;
    assert!(page.contains("1 jobs published again"), "{page}");
    scene.wait_until("the replayed job has failed again", |view| view.reading().failed == 4).await;
    let form_token = form_token(&visitor.page().await);
    let again = visitor.post("replay-chosen", &[("form_token", &form_token)]).await;
    assert_eq!(again.status().as_u16(), 400, "a dry run pays for one replay");
    for secret in ["pl4nted", KEY, TOKEN, "<script", "<b>"] {
        assert!(!page.contains(secret), "{secret} is on {page}");
    }
}

/// All that is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[test]
fn each_act_is_logged_with_who_and_the_token_is_logged_nowhere() {
    // The server has a thread of its own, so that the log is that of the process: in one of its
    // own.
    if std::env::var_os("CAPTCHA_WORKER_TEST_AUDIT").is_none() {
        let run = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "ops::acts::each_act_is_logged_with_who_and_the_token_is_logged_nowhere"])
            .env("CAPTCHA_WORKER_TEST_AUDIT", "1")
            .output()
            .expect("it runs");
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stdout));
        return;
    }
    let log = Log::default();
    tracing_subscriber::fmt()
        .with_writer(log.clone())
        .with_ansi(false)
        .with_max_level(tracing::Level::TRACE)
        .init();
    tokio::runtime::Runtime::new().expect("a runtime").block_on(async {
        let scene = acting().await;
        Visitor::new(&scene).post("log-in", &[("token", "pl4nted-wrong-token")]).await;
        let visitor = Visitor::logged_in(&scene).await;
        visitor.act("find", &[("id", "order-17\u{1b}[2J\nforged line")]).await;
        visitor.act("pause", &[("reason", "moving")]).await;
    });
    let log = String::from_utf8(log.0.lock().expect("no panic").clone()).expect("text");
    let line = |parts: &[&str]| log.lines().any(|line| parts.iter().all(|part| line.contains(part)));
    assert!(line(&["console: log-in with a wrong token", "from=127.0.0.1"]), "{log}");
    assert!(line(&["console: logged in", "from=127.0.0.1", "session="]), "{log}");
    assert!(line(&["console: act begins", "act=\"find\"", "order-17·[2J·forged line", "session="]), "{log}");
    assert!(line(&["console: act ended", "act=\"pause\"", "done=true"]), "{log}");
    assert!(!log.contains("pl4nted") && !log.lines().any(|line| line.starts_with("forged")), "{log}");
}

#[tokio::test]
async fn chromium_logs_in_and_acts_by_keys_alone_dark_and_light_and_on_a_phone() {
    let scene = acting().await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/console/act.py");
    let python = std::env::var_os("CAPTCHA_WORKER_TEST_PYTHON").unwrap_or_else(|| "python3".into());
    let mut command = Command::new(python);
    command.arg("-B").arg(script).args([&scene.url, TOKEN, SCRIPT]);
    let looked = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic");
    let looked = looked.expect("Python 3 is there");
    let printed = String::from_utf8_lossy(&looked.stdout);
    let error = String::from_utf8_lossy(&looked.stderr);
    assert!(looked.status.success(), "{printed}{error}");
}
