//! Publishers' proxies that the API has called banned: nobody uses them for a while.

use super::account_state::AccountState;
use super::message::Report;
use crate::domain::fingerprint::Fingerprint;
use crate::domain::guard::MAX_PROXIES;
use crate::domain::time::Timestamp;

impl AccountState {
    /// Whether a publisher's proxy is in quarantine.
    #[must_use]
    pub fn quarantines(&self, proxy: &Fingerprint, now: Timestamp) -> bool {
        let here = self.inner.proxies.lock().get(proxy).is_some_and(|until| *until > now);
        here || self.inner.seen.borrow().state.as_ref().is_some_and(|state| state.quarantines(proxy, now))
    }

    /// Leaves a proxy alone at once, whether or not a leader has heard of it.
    pub(super) fn isolate(&self, proxy: &Fingerprint, now: Timestamp) {
        let mut proxies = self.inner.proxies.lock();
        proxies.retain(|_, until| *until > now);
        if proxies.len() < MAX_PROXIES {
            proxies.insert(proxy.clone(), now.plus(self.inner.rules.quarantine));
        }
    }

    /// The API called a publisher's proxy banned.
    pub fn proxy_banned(&self, proxy: Fingerprint, now: Timestamp) {
        self.isolate(&proxy, now);
        self.report(Report::ProxyBanned { proxy });
    }
}
