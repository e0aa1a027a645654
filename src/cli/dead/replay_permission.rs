//! The fleet's permission to publish jobs again: asked for before a replay and all through it.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::broker::topology::Names;
use crate::broker::{Broker, BrokerError};
use crate::cli::CommandError;
use crate::clock::Rng;
use crate::domain::guard::{Phase, State};
use crate::domain::sanitize::shown;
use crate::fleet::{Client, Survey};

/// Between two questions.
const EVERY: Duration = Duration::from_secs(3);
/// How long the leader has for its answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Widest text of somebody else's, in characters.
const WIDTH: usize = 100;

/// Permission to publish, for as long as it lasts.
pub(super) struct ReplayPermission {
    ended: CancellationToken,
    why: Arc<OnceLock<String>>,
    _asking: Option<DropGuard>,
}

impl ReplayPermission {
    /// Asks the fleet, and goes on asking.
    ///
    /// # Errors
    /// Where it is refused, or nobody can give it.
    pub(super) async fn ask(broker: &Broker, names: &Names) -> Result<Self, CommandError> {
        let mut client = Client::connect(broker, names, Rng::Thread).await?;
        let survey = client.survey(TIMEOUT).await?;
        if let Err(refusal) = judge(&survey) {
            client.close().await;
            return Err(CommandError::Failed(format!("nothing was published: {refusal}")));
        }
        let (ended, why, done) = (CancellationToken::new(), Arc::default(), CancellationToken::new());
        let permission = Self { ended, why, _asking: Some(done.clone().drop_guard()) };
        let (ended, why) = (permission.ended.clone(), Arc::clone(&permission.why));
        tokio::spawn(async move {
            tokio::select! {
                refusal = refused(&mut client) => {
                    let _ = why.set(refusal);
                    ended.cancel();
                }
                () = done.cancelled() => {}
            }
            client.close().await;
        });
        Ok(permission)
    }

    /// One that nobody takes back: for what publishes nothing.
    pub(super) fn not_needed() -> Self {
        Self { ended: CancellationToken::new(), why: Arc::default(), _asking: None }
    }

    /// Why it has ended, where it has.
    pub(super) fn refusal(&self) -> Option<&str> {
        self.why.get().map(String::as_str)
    }

    /// Waits until it ends.
    pub(super) async fn ended(&self) {
        self.ended.cancelled().await;
    }
}

/// Asks again and again until the answer is no. In between it reads the states that the leader
/// sends: the leader reports an unusable account at once.
async fn refused(client: &mut Client) -> String {
    loop {
        match asked(client).await {
            Ok(Ok(())) => {}
            Ok(Err(refusal)) => return refusal,
            Err(error) => return format!("cannot ask the fleet for the state of the account: {error}"),
        }
    }
}

async fn asked(client: &mut Client) -> Result<Result<(), String>, BrokerError> {
    let next = Instant::now() + EVERY;
    while Instant::now() < next && client.listen(next).await? {
        if let Some(Err(refusal)) = client.leader().map(|leader| judge_state(&leader.state)) {
            return Ok(Err(refusal));
        }
    }
    client.survey(TIMEOUT).await.map(|survey| judge(&survey))
}

fn judge(survey: &Survey) -> Result<(), String> {
    let Some(leader) = &survey.leader else {
        return Err(match survey.replicas.len() {
            0 => "no worker answers, so the state of the account is unknown: start one and run the command again".to_owned(),
            n => format!("{n} workers answer, and none of them leads: wait a few seconds and run the command again"),
        });
    };
    judge_state(&leader.state)
}

fn judge_state(state: &State) -> Result<(), String> {
    if let Some(paused) = &state.paused {
        let by = shown(&paused.by, WIDTH);
        return Err(format!("the fleet is paused by {by}; run `captcha-worker resume` first"));
    }
    match state.phase {
        Phase::Active | Phase::Canary => Ok(()),
        Phase::Probing => Err(
            "the guard is probing, so the state of the account is not known yet; see `captcha-worker status`"
                .to_owned(),
        ),
        Phase::Tripped => {
            let reasons = state.reasons();
            let names: Vec<&str> = reasons.iter().map(|reason| reason.name()).collect();
            let advice = reasons.first().map_or("see `captcha-worker status`", |reason| reason.advice());
            Err(format!("the guard is tripped ({}): {advice}", names.join(", ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::guard::Paused;
    use crate::domain::time::Timestamp;

    #[test]
    fn only_an_active_account_gives_permission() {
        let now = Timestamp::from_millis(1_790_000_000_000);
        let of = |phase| State { phase, ..State::unknown(0, now) };
        assert_eq!(judge_state(&of(Phase::Active)), Ok(()));
        assert_eq!(judge_state(&of(Phase::Canary)), Ok(()));
        assert!(judge_state(&of(Phase::Tripped)).unwrap_err().contains("tripped"));
        assert!(judge_state(&of(Phase::Probing)).unwrap_err().contains("probing"));
        let paused = Paused { reason: None, by: "ops\u{9b}2J".to_owned(), since: now };
        let paused = State { paused: Some(paused), ..of(Phase::Active) };
        assert!(judge_state(&paused).unwrap_err().contains("paused by ops·2J;"));
        assert!(judge(&Survey::default()).unwrap_err().contains("no worker answers"));
    }
}
