//! The promises at the end of a history, when everything has ended.

use std::collections::BTreeMap;

use captcha_worker::domain::class::Class;

use super::Counts;
use super::account::Account;
use super::fault::Fault;
use super::plan::Plan;
use super::witness::open;
use super::world::World;

/// What was broken on the way and what is wrong at the end; and what was counted.
pub(crate) fn judge(world: &World, plan: &Plan) -> (Vec<String>, Counts) {
    let books = open(&world.books);
    let mut broken = books.broken.clone();
    let mut counts = Counts::default();
    let names = &world.names;
    let ends = Class::finals().map(|class| names.dead(class)).chain([names.results(), names.unrouted()]);
    let mut kept: BTreeMap<String, u32> = BTreeMap::new();
    for message in ends.flat_map(|queue| world.broker.snapshot(&queue)) {
        *kept.entry(message.properties.message_id.unwrap_or_default()).or_default() += 1;
    }
    for (job, account) in &books.accounts {
        count(account, &mut counts);
        let (there, stored) = (kept.get(job).copied().unwrap_or_default(), account.outcomes);
        if there != stored {
            broken.push(format!("{job}: {stored} outcomes were stored, and {there} are there"));
        }
        broken.extend(judge_job(account, plan).map(|what| format!("{job}: {what}")));
    }
    let stats = world.simulator.stats();
    counts.polls = stats.polls;
    counts.bans = stats.bans;
    counts.wrong_ids = books.answers.worst as u64;
    counts.simulated_seconds = world.now().as_secs();
    let account_fault = |fault: &Fault| matches!(fault, Fault::KeyRevoked { .. } | Fault::NoFunds { .. });
    // Whose clock is wrong by minutes asks for what the API has long forgotten.
    let misdated = books.has_misdated();
    if stats.bans > 0 && !misdated && !plan.faults.iter().any(|(_, fault)| account_fault(fault)) {
        broken.push(format!("{} bans were earned", stats.bans));
    }
    let records = world.broker.queue_total(&world.names.guard());
    // A crash between two leaves both, and the next leader takes the later one.
    if records == 0 {
        broken.push("the guard's record is lost".to_owned());
    }
    let raw = world.broker.queue_total(&world.names.dead_raw());
    if raw > 0 {
        broken.push(format!("{raw} messages were moved by the broker itself"));
    }
    (broken, counts)
}

fn judge_job(account: &Account, plan: &Plan) -> impl Iterator<Item = String> {
    let lost = (account.outcomes == 0).then(|| "it has no outcome".to_owned());
    let solutions: std::collections::BTreeSet<_> =
        account.ends.iter().filter_map(|(_, solution)| solution.as_ref()).collect();
    let differ = (solutions.len() > 1 || account.ends.len() > 1 && account.copies == 1)
        .then(|| format!("its outcomes differ: {:?}", account.ends));
    let most = account.copies + account.unanswered + account.resubmissions;
    let overpaid =
        (account.payments > most).then(|| format!("paid {} times, explained are {most}", account.payments));
    // A copy is resubmitted once when it was lost, and as often as the settings say when it was not
    // solved.
    let resubmissions = account.copies * (1 + plan.max_resubmissions);
    let again = (account.certain_resubmissions > resubmissions)
        .then(|| format!("resubmitted {} times, allowed are {resubmissions}", account.certain_resubmissions));
    let ambiguous = account.copies * 2;
    let unanswered = (account.unanswered > ambiguous)
        .then(|| format!("{} submissions without an answer, allowed are {ambiguous}", account.unanswered));
    [lost, differ, overpaid, again, unanswered].into_iter().flatten()
}

fn count(account: &Account, counts: &mut Counts) {
    counts.jobs += 1;
    counts.innocent += u64::from(account.innocent);
    let solved = account.ends.iter().any(|(_, solution)| solution.is_some());
    counts.innocent_dead += u64::from(account.innocent && !solved);
    counts.outcomes += u64::from(account.outcomes);
    counts.repeated += u64::from(account.outcomes.saturating_sub(1));
    counts.differing += u64::from(account.ends.len() > 1);
    counts.payments += u64::from(account.payments);
    counts.paid_again += u64::from(account.payments.saturating_sub(1 + account.resubmissions));
    counts.copies += u64::from(account.copies - 1);
    counts.ambiguous += u64::from(account.unanswered);
    counts.resubmissions += u64::from(account.resubmissions);
}
