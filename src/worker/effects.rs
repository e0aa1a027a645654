//! Applies what a step of a job shows about the account, the API and the job's type.

use super::api_calls::Call;
use super::context::Context;
use super::limits::TypeLimiter;
use crate::domain::fault::ApiSign;
use crate::domain::history::Attempt;
use crate::domain::lifecycle::{Effect, JobRun};
use crate::domain::money::Decimal;

/// Applies them in their order. `call`: the call that they come from; its permit is not free yet.
pub(super) fn apply(
    ctx: &Context,
    run: &JobRun,
    limiter: &TypeLimiter,
    call: Option<&Call<'_>>,
    effects: Vec<Effect>,
) {
    if effects.is_empty() {
        return;
    }
    let (account, now) = (ctx.account(), ctx.clock.now());
    let (ledger, lane, kind) = (ctx.fleet.ledger(), run.job.lane.name(), run.job.kind());
    let name = limiter.name_of(kind);
    for effect in effects {
        match (effect, call) {
            (Effect::TripAccount(reason), Some(call)) => {
                account.refused(reason, call.term, call.began_at, now);
            }
            (Effect::Api(sign, text), Some(call)) => {
                let noted = ctx.api_health.note(sign, &text, &run.job.id);
                if noted.silence_begins {
                    ctx.limits.restart();
                    account.silence();
                }
                match sign {
                    ApiSign::Cut | ApiSign::Unreachable => {
                        account.interrupted();
                        ctx.limits.unanswered(now);
                    }
                    ApiSign::Silent => ctx.limits.unanswered(now),
                    ApiSign::Answers | ApiSign::Fails => ctx.limits.answered(),
                    ApiSign::KnowsNoSuchId => {}
                }
                if noted.is_lost {
                    account.unanswered(call.term, now);
                }
                if noted.is_suspect {
                    account.suspect();
                }
            }
            (Effect::CanaryEnded(end), Some(call)) => account.canary(end, call.term),
            (Effect::IdAnswered { wrong, accepted_at }, Some(call)) => {
                account.answered(wrong, accepted_at, (call.term, call.began_at), ctx.clock.uptime());
            }
            (
                Effect::TripAccount(_) | Effect::Api(..) | Effect::CanaryEnded(_) | Effect::IdAnswered { .. },
                None,
            ) => tracing::error!("a bug: an effect of a call that was not made"),
            (Effect::DoubtAccount, _) => account.doubted(),
            (Effect::TypeAccepted, _) => {
                ctx.counters.accepted(kind);
                ctx.counters.times.submission_wait.note(now.since(run.history.first_seen));
                limiter.accepted();
                ctx.limits.accepted(now);
                account.slots_back(name);
            }
            (Effect::CallbackRefused, _) => ctx.fleet.callbacks().refused(now),
            (Effect::TypeRefused, _) if limiter.refused() => account.shut(name, false),
            (Effect::TypeRefused, _) => account.still_shut(name, false),
            // A job that has failed before is its own trouble, and says nothing new about its type.
            (Effect::TypeFailed { first }, _) if first && limiter.failed() => account.shut(name, true),
            (Effect::TypeFailed { .. }, _) => account.still_shut(name, true),
            (Effect::TypeAnswered, _) => {
                limiter.answered();
                account.works_again(name);
            }
            (Effect::Unanswered, _) => ledger.unanswered(lane, kind, ctx.rules.prices.of(kind)),
            (Effect::Solved, _) => {
                if let Some(task) = run.task() {
                    ctx.solved(kind, task);
                }
            }
            (Effect::BanProxy, _) => {
                if let Some(proxy) = &run.job.proxy {
                    account.proxy_banned(proxy.clone(), now);
                }
            }
            (Effect::DoublePayment(risk), _) => {
                ctx.counters.window(risk);
                ledger.repeated(ctx.rules.prices.of(kind).unwrap_or_default());
            }
            (Effect::Wasted(class), _) => {
                ctx.counters.wasted(class);
                let cost = run.history.attempts.last().and_then(Attempt::cost);
                ctx.counters.cost((lane, kind), cost);
                ledger.wasted(cost.map_or(Decimal::ZERO, |cost| cost.amount));
            }
        }
    }
}
