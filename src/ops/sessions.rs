//! Who may act on the console: the token, the sessions of those who have shown it, and how often a
//! wrong one may be tried. Times are arguments.

use std::collections::VecDeque;
use std::hint::black_box;
use std::net::IpAddr;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::acts::LastAct;

/// Without a request for so long, a session has ended.
const IDLE: Duration = Duration::from_secs(15 * 60);
/// No session is longer.
pub(super) const LONGEST: Duration = Duration::from_secs(8 * 3_600);
/// At once; a further one ends the one that was idle the longest.
pub(super) const MAX_SESSIONS: usize = 16;
/// Wrong tokens that one address may show within a minute.
const MAX_FAILURES: usize = 5;
const MINUTE: Duration = Duration::from_secs(60);
/// Failures that are remembered, of all addresses together.
const REMEMBERED: usize = 256;

type Hash = [u8; 32];

fn hash(text: &str) -> Hash {
    Sha256::digest(text.as_bytes()).into()
}

/// Whether two hashes are the same, in a time that does not depend on where they differ.
fn same(one: &Hash, other: &Hash) -> bool {
    black_box(one.iter().zip(other).fold(0, |differs, (a, b)| differs | (a ^ b))) == 0
}

/// The end of a log-in.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum LogIn {
    /// There is a session.
    Open,
    /// The token is another.
    Wrong,
    /// Too many wrong ones came from that address: this one was not looked at.
    TooOften,
}

/// A person who has shown the token.
pub(super) struct ConsoleSession {
    id: Hash,
    /// In each form, so that no other site's page can send one.
    pub(super) form_token: String,
    pub(super) last: Option<LastAct>,
    began: Instant,
    seen: Instant,
}

impl ConsoleSession {
    /// Whether a form is of this session.
    pub(super) fn sent(&self, form_token: &str) -> bool {
        same(&hash(&self.form_token), &hash(form_token))
    }

    /// What the log calls it. It opens nothing.
    pub(super) fn name(&self) -> String {
        self.id[..4].iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// All of them. Of the token and of the sessions' ids only hashes are kept.
pub(super) struct Sessions {
    token: Hash,
    open: Vec<ConsoleSession>,
    failures: VecDeque<(Instant, IpAddr)>,
}

impl Sessions {
    pub(super) fn new(token: &SecretString) -> Self {
        Self { token: hash(token.expose_secret()), open: Vec::new(), failures: VecDeque::new() }
    }

    /// Opens a session under this id, with this token for its forms, if the token is right.
    pub(super) fn log_in(
        &mut self,
        token: &str,
        from: IpAddr,
        (id, form_token): (&str, String),
        now: Instant,
    ) -> LogIn {
        self.failures.retain(|(at, _)| now.duration_since(*at) < MINUTE);
        // The right token passes at any time: else five wrong ones a minute would keep everybody
        // out who comes by the same proxy. It is too long to be guessed.
        if !same(&self.token, &hash(token)) {
            if self.failures.iter().filter(|(_, of)| *of == from).count() >= MAX_FAILURES {
                return LogIn::TooOften;
            }
            if self.failures.len() == REMEMBERED {
                self.failures.pop_front();
            }
            self.failures.push_back((now, from));
            return LogIn::Wrong;
        }
        self.forget_ended(now);
        if self.open.len() == MAX_SESSIONS {
            self.open.sort_by_key(|session| session.seen);
            self.open.remove(0);
        }
        self.open.push(ConsoleSession { id: hash(id), form_token, last: None, began: now, seen: now });
        LogIn::Open
    }

    /// The session with this id, which is not idle from now on.
    pub(super) fn get(&mut self, id: &str, now: Instant) -> Option<&mut ConsoleSession> {
        self.forget_ended(now);
        let id = hash(id);
        let session = self.open.iter_mut().find(|session| same(&session.id, &id))?;
        session.seen = now;
        Some(session)
    }

    /// The session that the log calls so.
    pub(super) fn named(&mut self, name: &str) -> Option<&mut ConsoleSession> {
        self.open.iter_mut().find(|session| session.name() == name)
    }

    pub(super) fn log_out(&mut self, id: &str) {
        let id = hash(id);
        self.open.retain(|session| !same(&session.id, &id));
    }

    fn forget_ended(&mut self, now: Instant) {
        let lives = |session: &ConsoleSession| {
            now.duration_since(session.seen) < IDLE && now.duration_since(session.began) < LONGEST
        };
        self.open.retain(lives);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const THERE: IpAddr = IpAddr::V6(std::net::Ipv6Addr::LOCALHOST);

    fn sessions() -> Sessions {
        Sessions::new(&SecretString::from("the token of the test"))
    }

    fn log_in(sessions: &mut Sessions, id: &str, now: Instant) -> LogIn {
        sessions.log_in("the token of the test", HERE, (id, format!("form {id}")), now)
    }

    #[test]
    fn only_the_token_opens_a_session_and_only_its_id_finds_it() {
        let (mut sessions, now) = (sessions(), Instant::now());
        for wrong in ["", "the token of the tes", "the token of the test ", "THE TOKEN OF THE TEST"] {
            assert_eq!(sessions.log_in(wrong, HERE, ("x", String::new()), now), LogIn::Wrong);
        }
        assert!(sessions.get("x", now).is_none());
        assert_eq!(log_in(&mut sessions, "a", now), LogIn::Open);
        assert!(sessions.get("b", now).is_none());
        let session = sessions.get("a", now).unwrap();
        assert!(session.sent("form a") && !session.sent("form b") && !session.sent(""));
        sessions.log_out("a");
        assert!(sessions.get("a", now).is_none());
    }

    #[test]
    fn a_session_ends_after_a_quarter_of_an_hour_without_a_request_and_after_eight_hours() {
        let (mut sessions, began) = (sessions(), Instant::now());
        log_in(&mut sessions, "idle", began);
        log_in(&mut sessions, "busy", began);
        let mut now = began;
        while now < began + LONGEST - Duration::from_secs(600) {
            now += Duration::from_secs(600);
            assert!(sessions.get("busy", now).is_some());
        }
        assert!(sessions.get("idle", now).is_none());
        assert!(sessions.get("busy", began + LONGEST).is_none());
    }

    #[test]
    fn a_further_session_ends_the_one_that_was_idle_the_longest() {
        let (mut sessions, now) = (sessions(), Instant::now());
        for n in 0..=MAX_SESSIONS {
            log_in(&mut sessions, &n.to_string(), now + Duration::from_secs(n as u64));
        }
        assert!(sessions.get("0", now).is_none() && sessions.get("1", now).is_some());
        assert_eq!(sessions.open.len(), MAX_SESSIONS);
    }

    #[test]
    fn wrong_tokens_of_one_address_are_limited_and_those_of_others_are_not() {
        let (mut sessions, now) = (sessions(), Instant::now());
        for _ in 0..MAX_FAILURES {
            assert_eq!(sessions.log_in("wrong", HERE, ("x", String::new()), now), LogIn::Wrong);
        }
        assert_eq!(sessions.log_in("wrong", HERE, ("x", String::new()), now), LogIn::TooOften);
        assert_eq!(log_in(&mut sessions, "a", now), LogIn::Open, "the right one passes");
        assert_eq!(sessions.log_in("wrong", THERE, ("x", String::new()), now), LogIn::Wrong);
        assert_eq!(log_in(&mut sessions, "a", now + MINUTE), LogIn::Open);
        for n in 0..2 * REMEMBERED {
            let from = IpAddr::from([10, 0, (n / 250) as u8, (n % 250) as u8]);
            sessions.log_in("wrong", from, ("x", String::new()), now + MINUTE);
        }
        assert_eq!(sessions.failures.len(), REMEMBERED);
    }
}
