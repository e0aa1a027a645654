//! The page on which an operator acts: pause, resume, replay, find a job. It is there only where
//! the settings name a token, and only for those who have shown it.
//!
//! The commands themselves are those of the command line, which may name `ops`; the other way round
//! they come as a trait.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Extension, State};
use axum::http::header::{self, HeaderMap, HeaderValue};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::future::BoxFuture;
use maud::{Markup, html};
use parking_lot::Mutex;
use secrecy::SecretString;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, timeout};
use url::form_urlencoded;

use super::Sampler;
use super::dashboard::{self, ACTING};
use super::sessions::{ConsoleSession, LONGEST, LogIn, Sessions};
use crate::domain::class::Class;
use crate::domain::sanitize::{shown, steers};
use crate::domain::time::Timestamp;
use crate::overview::format;
use crate::worker::{Clock, Rng};

/// What an operator wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Stop taking jobs, for this reason.
    Pause {
        /// The reason, and who has given it.
        reason: Option<String>,
    },
    /// End a pause.
    Resume,
    /// Find a job.
    Find {
        /// Its id.
        id: String,
    },
    /// Publish the jobs of dead letters again.
    Replay {
        /// Options of `dead replay`, without the dashes, with their values.
        filters: Vec<(&'static str, String)>,
        /// So many at most; `None`: only report what would be published.
        most: Option<u64>,
    },
}

impl Act {
    fn name(&self) -> &'static str {
        match self {
            Act::Pause { .. } => "pause",
            Act::Resume => "resume",
            Act::Find { .. } => "find",
            Act::Replay { most: None, .. } => "replay, dry run",
            Act::Replay { most: Some(_), .. } => "replay",
        }
    }

    /// What it is about, for the log and the page.
    fn detail(&self) -> String {
        let text = match self {
            Act::Pause { reason } => reason.clone().unwrap_or_default(),
            Act::Resume => String::new(),
            Act::Find { id } => id.clone(),
            Act::Replay { filters, most } => {
                let limit = most.map(|most| format!("at most {most}"));
                let filters = filters.iter().map(|(name, value)| format!("{name} {value}"));
                filters.chain(limit).collect::<Vec<_>>().join(", ")
            }
        };
        shown(&text, 300)
    }
}

/// What has come of an act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActEnd {
    /// It is done, or has found what was asked for.
    pub done: bool,
    /// What the command has printed.
    pub text: String,
    /// Of a replay: the jobs that it has chosen.
    pub chosen: u64,
}

/// Carries acts out.
pub trait Commands: Send + Sync {
    /// Carries one out. It goes on until its end, also if nobody waits for it.
    fn run(&self, act: Act) -> BoxFuture<'static, ActEnd>;
}

/// The last act of a session.
pub(super) struct LastAct {
    act: Act,
    number: u64,
    began: Instant,
    end: Option<ActEnd>,
}

/// How long a request waits for its act. What takes longer is shown by the next look at the page.
const AT_ONCE: Duration = Duration::from_secs(8);
/// Of a form, in bytes.
const MAX_FORM: usize = 16 * 1024;
/// Acts at one time; of them, one replay.
const MAX_ACTS: usize = 4;
/// Characters of a pause's reason; beside it stands who has given it.
const MAX_REASON: usize = 200;
/// Characters of what a command has printed.
const MAX_TEXT: usize = 64 * 1024;
/// Fields of the form for a replay, by the options of `dead replay`, with an example.
const FILTERS: [(&str, &str, &str); 6] = [
    ("code", "Code", "ERROR_NO_SLOT_AVAILABLE"),
    ("type", "Task type", "TurnstileTask"),
    ("id", "Job's id", "order-17"),
    ("since", "Ended since", "2h"),
    ("until", "Ended before", "2026-11-23T10:00:00Z"),
    ("limit", "At most", "100"),
];

/// The acting part of an ops server.
pub(super) struct Desk {
    commands: Arc<dyn Commands>,
    sessions: Mutex<Sessions>,
    acts: Arc<Semaphore>,
    replays: Arc<Semaphore>,
    /// Cookies do not belong to a port, so that two replicas on one host need two names.
    cookie: String,
    sampler: Sampler,
}

impl Desk {
    pub(super) fn new(
        token: &SecretString,
        commands: Arc<dyn Commands>,
        address: SocketAddr,
        sampler: Sampler,
    ) -> Self {
        Self {
            commands,
            sessions: Mutex::new(Sessions::new(token)),
            acts: Arc::new(Semaphore::new(MAX_ACTS)),
            replays: Arc::new(Semaphore::new(1)),
            cookie: format!("captcha_worker_{}", address.port()),
            sampler,
        }
    }

    pub(super) fn routes(self) -> Router {
        let acts = ["pause", "resume", "find", "replay", "replay-chosen"];
        let router = Router::new()
            .route("/act", get(page))
            .route("/act/log-in", post(log_in))
            .route("/act/log-out", post(log_out));
        let with_act = |router: Router<Arc<Self>>, name: &'static str| {
            let run = move |desk, peer, headers, body| act(name, desk, peer, headers, body);
            router.route(&format!("/act/{name}"), post(run))
        };
        let router = acts.into_iter().fold(router, with_act);
        router.layer(DefaultBodyLimit::max(MAX_FORM)).with_state(Arc::new(self))
    }

    /// The id that the browser has sent.
    fn session_id(&self, headers: &HeaderMap) -> Option<String> {
        let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
        let mut pairs =
            cookies.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
        pairs.find(|(name, _)| *name == self.cookie).map(|(_, id)| id.to_owned())
    }

    fn cookie(&self, id: &str, lives: Duration, headers: &HeaderMap) -> HeaderValue {
        // Anybody can write this header, and gains nothing: a browser sends such a cookie over
        // https alone.
        let is_https = headers.get("x-forwarded-proto").is_some_and(|proto| proto == "https");
        let secure = if is_https { "; Secure" } else { "" };
        let (name, seconds) = (&self.cookie, lives.as_secs());
        let cookie = format!("{name}={id}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}");
        // The id is one of ours, in hex.
        HeaderValue::try_from(cookie).unwrap_or(HeaderValue::from_static(""))
    }
}

/// The address that a request has come from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub(super) IpAddr);

fn fields(body: &Bytes) -> Vec<(String, String)> {
    form_urlencoded::parse(body).into_owned().take(32).collect()
}

fn field<'a>(form: &'a [(String, String)], name: &str) -> &'a str {
    form.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value.trim())
}

fn to_the_page() -> Response {
    (StatusCode::SEE_OTHER, [(header::LOCATION, "/act")]).into_response()
}

fn reply(status: StatusCode, page: Markup) -> Response {
    (status, dashboard::headers(ACTING), page.into_string()).into_response()
}

/// Another site's page must not act by the browser of somebody who is logged in here. Browsers that
/// do not send this header send no cookie from there either.
fn is_from_elsewhere(headers: &HeaderMap) -> bool {
    headers.get("sec-fetch-site").is_some_and(|site| site != "same-origin" && site != "none")
}

async fn page(State(desk): State<Arc<Desk>>, headers: HeaderMap, _: Uri) -> Response {
    let id = desk.session_id(&headers);
    let mut sessions = desk.sessions.lock();
    match id.and_then(|id| sessions.get(&id, Instant::now())) {
        Some(session) => reply(StatusCode::OK, forms(&desk, session, None)),
        None => reply(StatusCode::OK, log_in_page(&desk, None)),
    }
}

async fn log_in(
    State(desk): State<Arc<Desk>>,
    Extension(Peer(from)): Extension<Peer>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if is_from_elsewhere(&headers) {
        return reply(
            StatusCode::FORBIDDEN,
            log_in_page(&desk, Some("That form was not sent by this page.")),
        );
    }
    let (form, rng) = (fields(&body), Rng::Thread);
    let (id, form_token) = (rng.fresh_id(), rng.fresh_id());
    let mut sessions = desk.sessions.lock();
    match sessions.log_in(field(&form, "token"), from, (&id, form_token), Instant::now()) {
        LogIn::Open => {
            let session = sessions.get(&id, Instant::now()).map(|session| session.name());
            drop(sessions);
            tracing::info!(%from, session, "console: logged in");
            let mut response = to_the_page();
            response.headers_mut().insert(header::SET_COOKIE, desk.cookie(&id, LONGEST, &headers));
            response
        }
        LogIn::Wrong => {
            drop(sessions);
            tracing::warn!(%from, "console: log-in with a wrong token");
            reply(StatusCode::UNAUTHORIZED, log_in_page(&desk, Some("That is not the token.")))
        }
        LogIn::TooOften => {
            drop(sessions);
            let text = "Too many wrong tokens came from your address. Try again in a minute.";
            let mut response = reply(StatusCode::TOO_MANY_REQUESTS, log_in_page(&desk, Some(text)));
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("60"));
            response
        }
    }
}

/// The session that has sent a form, or what is answered instead.
fn sender(desk: &Desk, headers: &HeaderMap, form: &[(String, String)]) -> Result<String, Box<Response>> {
    let refused = |status, page| Err(Box::new(reply(status, page)));
    let Some(id) = desk.session_id(headers) else {
        return refused(StatusCode::UNAUTHORIZED, log_in_page(desk, Some("Log in first.")));
    };
    let mut sessions = desk.sessions.lock();
    let Some(session) = sessions.get(&id, Instant::now()) else {
        return refused(
            StatusCode::UNAUTHORIZED,
            log_in_page(desk, Some("Your session has ended. Log in again.")),
        );
    };
    if is_from_elsewhere(headers) || !session.sent(field(form, "form_token")) {
        let text = "That form was not sent by this page. Nothing was done.";
        return refused(StatusCode::FORBIDDEN, forms(desk, session, Some(text)));
    }
    Ok(id)
}

async fn log_out(State(desk): State<Arc<Desk>>, headers: HeaderMap, body: Bytes) -> Response {
    match sender(&desk, &headers, &fields(&body)) {
        Ok(id) => {
            desk.sessions.lock().log_out(&id);
            let mut response = to_the_page();
            response.headers_mut().insert(header::SET_COOKIE, desk.cookie("", Duration::ZERO, &headers));
            response
        }
        Err(response) => *response,
    }
}

async fn act(
    name: &'static str,
    State(desk): State<Arc<Desk>>,
    Extension(Peer(from)): Extension<Peer>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let form = fields(&body);
    let id = match sender(&desk, &headers, &form) {
        Ok(id) => id,
        Err(response) => return *response,
    };
    let ended = {
        let mut sessions = desk.sessions.lock();
        let Some(session) = sessions.get(&id, Instant::now()) else { return to_the_page() };
        let started = wanted(name, &form, (from, Clock::System.now()), session.last.as_ref())
            .map_err(|problem| (StatusCode::BAD_REQUEST, problem))
            .and_then(|act| start(&desk, session, act, from).map_err(|busy| (StatusCode::CONFLICT, busy)));
        match started {
            Ok(ended) => ended,
            Err((status, problem)) => return reply(status, forms(&desk, session, Some(problem))),
        }
    };
    let _ = timeout(AT_ONCE, ended).await;
    to_the_page()
}

/// A time or span as a time, so that what is published is what the dry run has seen: later letters
/// are not chosen.
fn at_fixed_time(filter: &str, text: &str, now: Timestamp) -> String {
    let at = match (filter, text) {
        ("until", "") => Some(now),
        ("since" | "until", text) => humantime::parse_duration(text).ok().map(|span| {
            let span = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
            Timestamp::from_millis(now.as_millis().saturating_sub(span))
        }),
        _ => None,
    };
    at.map_or_else(|| text.to_owned(), |at| at.to_string())
}

/// What a form asks for.
fn wanted(
    name: &str,
    form: &[(String, String)],
    (from, now): (IpAddr, Timestamp),
    last: Option<&LastAct>,
) -> Result<Act, &'static str> {
    match name {
        "pause" => {
            let reason = field(form, "reason");
            if reason.chars().count() > MAX_REASON || reason.contains(steers) {
                return Err("The reason must have at most 200 characters, and no control characters.");
            }
            let reason = (!reason.is_empty()).then(|| format!("{reason} (console, {from})"));
            Ok(Act::Pause { reason })
        }
        "resume" => Ok(Act::Resume),
        "find" => match field(form, "id") {
            "" => Err("Give the id of a job."),
            id => Ok(Act::Find { id: id.to_owned() }),
        },
        "replay" => {
            let names = ["class"].into_iter().chain(FILTERS.map(|(name, ..)| name));
            let filters = names.map(|name| (name, at_fixed_time(name, field(form, name), now)));
            Ok(Act::Replay { filters: filters.filter(|(_, value)| !value.is_empty()).collect(), most: None })
        }
        // What is published is what the dry run has shown, whatever this form says.
        _ => match last {
            Some(LastAct { act: Act::Replay { filters, most: None }, end: Some(end), .. })
                if end.chosen > 0 =>
            {
                Ok(Act::Replay { filters: filters.clone(), most: Some(end.chosen) })
            }
            _ => Err("Look first what would be replayed."),
        },
    }
}

/// Starts an act; what it returns ends with it.
fn start(
    desk: &Arc<Desk>,
    session: &mut ConsoleSession,
    act: Act,
    from: IpAddr,
) -> Result<oneshot::Receiver<()>, &'static str> {
    let place = Arc::clone(&desk.acts).try_acquire_owned();
    let place = place.map_err(|_| "Too many acts run. Wait for one to end.")?;
    let replay = match &act {
        Act::Replay { .. } => {
            let free = Arc::clone(&desk.replays).try_acquire_owned();
            Some(free.map_err(|_| "Another replay runs. A pause stops it.")?)
        }
        _ => None,
    };
    let number = session.last.as_ref().map_or(0, |last| last.number + 1);
    session.last = Some(LastAct { act: act.clone(), number, began: Instant::now(), end: None });
    let (name, detail, session) = (act.name(), act.detail(), session.name());
    tracing::info!(%from, session, act = name, detail, "console: act begins");
    let (done, ended) = oneshot::channel();
    let (desk, running) = (Arc::clone(desk), desk.commands.run(act));
    tokio::spawn(async move {
        let end = running.await;
        tracing::info!(%from, session, act = name, done = end.done, chosen = end.chosen, "console: act ended");
        let mut sessions = desk.sessions.lock();
        let last = sessions.named(&session).and_then(|session| session.last.as_mut());
        if let Some(last) = last.filter(|last| last.number == number) {
            last.end = Some(end);
        }
        drop((place, replay));
        let _ = done.send(());
    });
    Ok(ended)
}

/// The page of who has not logged in.
fn log_in_page(desk: &Desk, problem: Option<&str>) -> Markup {
    let body = html! {
        section aria-labelledby="log-in" {
            h2 #log-in { "Log in" }
            @if let Some(problem) = problem { p role="alert" { strong.bad { (problem) } } }
            form method="post" action="/act/log-in" {
                // For password managers.
                input type="text" name="username" value="operator" autocomplete="username" hidden;
                label { "Token (the content of ops.admin_token_file)"
                    input type="password" name="token" autocomplete="current-password" required autofocus;
                }
                button { "Log in" }
            }
        }
    };
    shell(desk, "log in", None, &body)
}

/// The page of who has.
fn forms(desk: &Desk, session: &ConsoleSession, problem: Option<&str>) -> Markup {
    let fleet = desk.sampler.overview();
    let form_token = html! { input type="hidden" name="form_token" value=(session.form_token); };
    let is_running = session.last.as_ref().is_some_and(|last| last.end.is_none());
    let classes = Class::finals().map(Class::name).chain(["raw"]);
    let body = html! {
        @if let Some(problem) = problem { section { p role="alert" { strong.bad { (problem) } } } }
        @if let Some(last) = &session.last { (result(last, &form_token)) }
        section aria-labelledby="find" {
            h2 #find { "Where is a job?" }
            p.note { "Asks every replica, and looks into the dead letters: what is looked at there counts one more of its 1,000 deliveries." }
            form method="post" action="/act/find" {
                (form_token)
                label { "Job's id" input name="id" required maxlength="255" autocomplete="off"; }
                button { "Find" }
            }
        }
        section aria-labelledby="guard" {
            h2 #guard { "Guard: " (fleet.guard.title()) }
            @for note in fleet.guard.notes(fleet.at) { p { (note) } }
            form method="post" action="/act/pause" {
                (form_token)
                label { "Reason" input name="reason" maxlength=(MAX_REASON) autocomplete="off"; }
                button { "Pause the fleet" }
            }
            form method="post" action="/act/resume" { (form_token) button { "Resume" } }
        }
        section aria-labelledby="replay" {
            h2 #replay { "Replay dead letters" }
            p.note { "First a dry run: it shows what would be published again, and publishes nothing. Each job that is published again is paid anew." }
            form.filters method="post" action="/act/replay" {
                (form_token)
                label { "Class" select name="class" {
                    option value="" { "all" }
                    @for class in classes { option { (class) } }
                } }
                @for (name, label, example) in FILTERS {
                    label { (label) input name=(name) placeholder=(example) autocomplete="off"; }
                }
                button { "Dry run" }
            }
        }
        form.out method="post" action="/act/log-out" { (form_token) button { "Log out" } }
    };
    shell(desk, "act", is_running.then_some(2), &body)
}

fn result(last: &LastAct, form_token: &Markup) -> Markup {
    let ran = format::span(last.began.elapsed());
    let is_dry_run = matches!(last.act, Act::Replay { most: None, .. });
    html! {
        section.guard.good[last.end.as_ref().is_some_and(|end| end.done)].wary[last.end.as_ref().is_none_or(|end| !end.done)] aria-labelledby="result" {
            h2 #result { "Last act: " (last.act.name()) }
            @let detail = last.act.detail();
            @if !detail.is_empty() { p { code { (detail) } } }
            @match &last.end {
                None => { p role="status" { "Runs for " (ran) "." } }
                Some(end) => {
                    pre.scroll tabindex="0" role="status" { (end.text.chars().take(MAX_TEXT).collect::<String>()) }
                    @if is_dry_run && end.chosen > 0 {
                        form method="post" action="/act/replay-chosen" {
                            (form_token)
                            button { "Publish again: " (end.chosen) " at most" }
                        }
                    }
                }
            }
        }
    }
}

fn shell(desk: &Desk, title: &str, refresh: Option<u32>, body: &Markup) -> Markup {
    let namespace = shown(desk.sampler.view.namespace(), 64);
    let title = format!("{title} · {namespace} · captcha-worker");
    let body = html! {
        header {
            h1 { (namespace) " " span { "captcha-worker" } }
            p { a href="/" { "Console" } " of " strong { (shown(desk.sampler.view.name(), 40)) } }
        }
        main { (body) }
    };
    dashboard::shell(&title, refresh, &body)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const NOW: Timestamp = Timestamp::from_millis(86_400_000);

    fn form(fields: &[(&str, &str)]) -> Vec<(String, String)> {
        fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn last(act: Act, chosen: Option<u64>) -> LastAct {
        let end = chosen.map(|chosen| ActEnd { done: true, text: String::new(), chosen });
        LastAct { act, number: 0, began: Instant::now(), end }
    }

    #[test]
    fn what_is_published_is_what_the_dry_run_of_the_session_has_shown() {
        let wild = form(&[("class", "expired"), ("limit", "1000000")]);
        let chosen = |last: Option<&LastAct>| wanted("replay-chosen", &wild, (HERE, NOW), last);
        let filters = vec![("class", "proxy".to_owned())];
        let dry = Act::Replay { filters: filters.clone(), most: None };
        assert_eq!(
            chosen(Some(&last(dry.clone(), Some(3)))),
            Ok(Act::Replay { filters: filters.clone(), most: Some(3) })
        );
        for nothing in [
            None,
            Some(last(dry.clone(), None)),
            Some(last(dry, Some(0))),
            Some(last(Act::Resume, Some(3))),
            Some(last(Act::Replay { filters, most: Some(3) }, Some(3))),
        ] {
            assert!(chosen(nothing.as_ref()).is_err());
        }
    }

    #[test]
    fn a_dry_run_fixes_the_times_between_which_letters_are_chosen() {
        let dry = |fields: &[(&str, &str)]| match wanted("replay", &form(fields), (HERE, NOW), None) {
            Ok(Act::Replay { filters, most: None }) => filters,
            other => panic!("{other:?}"),
        };
        assert_eq!(dry(&[]), [("until", NOW.to_string())]);
        assert_eq!(
            dry(&[("since", "2h"), ("until", "1h")]),
            [
                ("since", "1970-01-01T22:00:00.000Z".to_owned()),
                ("until", "1970-01-01T23:00:00.000Z".to_owned())
            ]
        );
        assert_eq!(dry(&[("until", "1970-01-01T23:00:00Z")]), [("until", "1970-01-01T23:00:00Z".to_owned())]);
    }

    #[test]
    fn a_pause_says_where_it_came_from_and_steers_nothing() {
        let pause = |reason: &str| wanted("pause", &form(&[("reason", reason)]), (HERE, NOW), None);
        assert_eq!(
            pause(" moving "),
            Ok(Act::Pause { reason: Some("moving (console, 127.0.0.1)".to_owned()) })
        );
        assert_eq!(pause(""), Ok(Act::Pause { reason: None }), "an earlier pause keeps its reason");
        assert!(pause("\u{1b}[2J").is_err() && pause(&"x".repeat(201)).is_err());
    }
}
