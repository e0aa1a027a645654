//! What the network to the API and the API itself are like at the moment, for all replicas.

use parking_lot::{Mutex, MutexGuard};
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use captcha_worker::simulator::Reply;
use captcha_worker::solver::{CREATE_TASK, GET_BALANCE};
use rand::RngExt;
use rand::rngs::StdRng;

use super::fault::{Outage, Word};

/// What happens to one call on its way.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Trouble {
    None,
    /// It never leaves.
    NeverSent,
    /// The answer is cut off.
    AnswerLost,
    /// The answer takes so long.
    Slow(Duration),
}

/// The weather. Clones share it.
#[derive(Clone)]
pub(crate) struct Weather(Arc<Mutex<Inner>>);

struct Inner {
    rng: StdRng,
    /// This share of calls meets trouble on its way.
    rough: f64,
    outage: Option<Outage>,
    /// So many calls more are refused by this code.
    flash: Option<(&'static str, u32)>,
    /// This share of the tasks that are accepted now is forgotten.
    losing: f64,
}

impl Weather {
    pub(crate) fn new(rng: StdRng, losing: f64) -> Self {
        Self(Arc::new(Mutex::new(Inner { rng, rough: 0.0, outage: None, flash: None, losing })))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock()
    }

    /// This share of calls meets trouble from now on.
    pub(crate) fn set_rough(&self, share: f64) {
        self.lock().rough = share;
    }

    /// The API fails so from now on; `None`: it does not.
    pub(crate) fn set_outage(&self, outage: Option<Outage>) {
        self.lock().outage = outage;
    }

    /// The next calls for jobs are refused by this code.
    pub(crate) fn flash(&self, code: &'static str, calls: u32) {
        self.lock().flash = Some((code, calls));
    }

    /// All is well from now on.
    pub(crate) fn clear(&self) {
        let mut inner = self.lock();
        (inner.rough, inner.outage, inner.flash, inner.losing) = (0.0, None, None, 0.0);
    }

    /// What a call meets on its way.
    pub(crate) fn draw(&self) -> Trouble {
        let Inner { rng, rough, outage, .. } = &mut *self.lock();
        if outage.is_some_and(|outage| outage.word == Word::Down) {
            return Trouble::NeverSent;
        }
        if *rough == 0.0 || !rng.random_bool(*rough) {
            return Trouble::None;
        }
        match rng.random_range(0..4) {
            0 => Trouble::NeverSent,
            1 => Trouble::AnswerLost,
            2 => Trouble::Slow(Duration::from_secs_f64(rng.random_range(0.1..5.0))),
            _ => Trouble::Slow(Duration::from_secs_f64(rng.random_range(5.0..40.0))),
        }
    }

    /// What a call is answered without being looked at.
    pub(crate) fn answer(&self, path: &str) -> Option<Reply> {
        let mut inner = self.lock();
        if let Some((code, left)) = inner.flash.filter(|_| path != GET_BALANCE) {
            inner.flash = (left > 1).then_some((code, left - 1));
            return Some(error(code));
        }
        let outage = inner.outage.filter(|outage| !outage.submissions_only || path == CREATE_TASK)?;
        Some(match outage.word {
            Word::Code(code) => error(code),
            Word::Page(status) => page(status),
            Word::Down => return None,
        })
    }

    /// Whether the task that is accepted now is one that the API forgets.
    pub(crate) fn loses_this_one(&self) -> bool {
        let Inner { rng, losing, .. } = &mut *self.lock();
        *losing > 0.0 && rng.random_bool(*losing)
    }
}

/// An error in the API's own words.
pub(crate) fn error(code: &str) -> Reply {
    let body =
        format!(r#"{{"errorId":1,"errorCode":"{code}","errorDescription":"as the history wants it"}}"#);
    answer(200, "application/json", body)
}

/// The page of something that stands before the API.
fn page(status: u16) -> Reply {
    answer(status, "text/html", "<html><body>Just a moment</body></html>".to_owned())
}

fn answer(status: u16, content_type: &'static str, body: String) -> Reply {
    Reply::Answer { status, content_type: Cow::Borrowed(content_type), retry_after: None, body: body.into() }
}
