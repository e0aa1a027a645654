//! The cases, by group, in the order in which they run.

mod bad_day;
mod blame;
mod budget;
pub(crate) mod calm;
mod firewall;
mod flash;
mod forgotten;
mod hand_over;
mod lost;
mod outage;
mod tenth;
mod trip;
mod wild;

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt, stream};
use tokio::time::timeout;

use crate::completion;
use crate::environment::Environment;
use crate::faults::{CREATE, Nature, OUTAGES, RESULT, UNKNOWN};
use crate::row::Row;
use hand_over::Going;

/// Rows of a group that is under way.
type Running = Pin<Box<dyn Future<Output = Vec<Row>>>>;
type Run = fn(Arc<Environment>, Vec<Case>) -> Running;

/// Cases of one kind, judged by the same bounds.
pub(crate) struct Group {
    pub(crate) name: &'static str,
    pub(crate) shows: &'static str,
    cases: fn() -> Vec<Case>,
    /// Where they are judged by each other; else each runs in a scene of its own, beside others.
    pub(crate) run: Option<Run>,
}

/// One trouble.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Case {
    Calm,
    /// One job in ten meets it, in a list of the stand-in's scripts.
    Tenth {
        list: &'static str,
        fault: &'static str,
        nature: Nature,
    },
    /// This share of the tasks is lost.
    Lost {
        share: f64,
    },
    Forgotten {
        by_restart: bool,
    },
    Outage {
        of: &'static str,
        fault: &'static str,
    },
    LongOutage {
        of: &'static str,
        fault: &'static str,
    },
    Canary {
        fault: &'static str,
    },
    Blame,
    Trip,
    HandOver(Going),
    Flash {
        of: &'static str,
        code: &'static str,
    },
    Firewall {
        status: &'static str,
        jobs: usize,
    },
    Wild,
    Budget,
}

impl Case {
    pub(crate) fn name(&self) -> String {
        match self {
            Case::Calm => "calm".to_owned(),
            Case::Tenth { list, fault, .. } => format!("{} on 10 %: {fault}", call(list)),
            Case::Lost { share } => format!("lost tasks: {} %", share * 100.0),
            Case::Forgotten { by_restart: false } => "every task is forgotten".to_owned(),
            Case::Forgotten { by_restart: true } => "the API restarts without its memory".to_owned(),
            Case::Outage { of, fault } => format!("every {}: {fault}", call(of)),
            Case::LongOutage { of, fault } => format!("5 min, every {}: {fault}", call(of)),
            Case::Canary { fault } => format!("after a trip, every createTask: {fault}"),
            Case::Blame => format!("an unknown code is the fault of 10 %: {UNKNOWN}"),
            Case::Trip => "a trip of 4 min with 500 tickets open".to_owned(),
            Case::HandOver(Going::Sigterm) => "3 replicas are replaced by SIGTERM".to_owned(),
            Case::HandOver(Going::Sigkill) => "3 replicas are replaced by kill -9".to_owned(),
            Case::HandOver(Going::Broker) => "the broker stops for 5 s".to_owned(),
            Case::Flash { of, code } => format!("one {}: {code}", call(of)),
            Case::Wild => "one publisher floods".to_owned(),
            Case::Budget => "a fleet begins with a budget for 20 s".to_owned(),
            Case::Firewall { status, jobs } => format!("{status} HTML for the payload of {jobs}"),
        }
    }

    /// Whether it is of the part that CI runs.
    fn is_of_the_part(&self) -> bool {
        match self {
            Case::Calm => true,
            Case::Tenth { list, fault, .. } => [
                ("create", UNKNOWN),
                ("create", "502"),
                ("create", "403 HTML"),
                ("result", "WRONG_CAPTCHA_ID"),
                ("result", "hang"),
            ]
            .contains(&(*list, *fault)),
            Case::Lost { share } => *share == 0.02,
            Case::Outage { of, fault } => [("create_task", UNKNOWN), ("all", "502")].contains(&(*of, *fault)),
            Case::Flash { of, code } => (*of, *code) == ("create_task", KEY),
            Case::Firewall { .. }
            | Case::Wild
            | Case::Budget
            | Case::Forgotten { .. }
            | Case::LongOutage { .. }
            | Case::Canary { .. }
            | Case::Blame
            | Case::HandOver(_)
            | Case::Trip => false,
        }
    }
}

const KEY: &str = "ERROR_KEY_DOES_NOT_EXIST";
const ADDRESS: &str = "ERROR_IP_NOT_ALLOWED";

fn call(list: &str) -> &'static str {
    match list {
        "create" | "create_task" => "createTask",
        "result" | "get_task_result" => "getTaskResult",
        _ => "call",
    }
}

/// All of them.
pub(crate) const GROUPS: [Group; 14] = [
    Group {
        name: "calm",
        shows: "nothing is wrong: what the others are judged by",
        cases: || vec![Case::Calm],
        run: Some(|environment, _| Box::pin(calm::run(environment))),
    },
    Group {
        name: "tenth",
        shows: "each fault on one job in ten: the others are solved, p99 at most 1.5 s above the calm one, no trip",
        cases: tenth_cases,
        run: Some(|environment, cases| Box::pin(tenth::run(environment, cases))),
    },
    Group {
        name: "lost",
        shows: "lost tasks at 100 jobs/s: as fast as calm (x 1.1), each submitted once more, one call each, no trip",
        cases: || [0.005, 0.02, 0.1].map(|share| Case::Lost { share }).into(),
        run: Some(|environment, cases| Box::pin(lost::run(environment, cases))),
    },
    Group {
        name: "forgotten",
        shows: "2,000 tickets open, 4 replicas, every id unknown: at most 4 calls before silence, no ban, all jobs end",
        cases: || [false, true].map(|by_restart| Case::Forgotten { by_restart }).into(),
        run: None,
    },
    Group {
        name: "outage",
        shows: "every call fails: 0 dead, at most 3 calls/s once 10 have failed, full rate 15 s after its end",
        cases: outage_cases,
        run: None,
    },
    Group {
        name: "long",
        shows: "the same for 5 minutes: 0 dead, and nothing paid is lost that the API still keeps",
        cases: || {
            vec![
                Case::LongOutage { of: "create_task", fault: UNKNOWN },
                Case::LongOutage { of: "all", fault: "502" },
            ]
        },
        run: None,
    },
    Group {
        name: "canary",
        shows: "the same while the fleet submits one job at a time, since the account was refused: the same bounds",
        cases: || {
            let faults = ["ERROR_TOO_MUCH_REQUESTS", "ERROR_NO_SLOT_AVAILABLE", UNKNOWN];
            faults.map(|fault| Case::Canary { fault }).into()
        },
        run: None,
    },
    Group {
        name: "blame",
        shows: "an unknown code is the fault of the job: it ends in time, the others are untouched",
        cases: || vec![Case::Blame],
        run: None,
    },
    Group {
        name: "trip",
        shows: "answers of a type with a time-out of 60 s are fetched after a trip of 4 minutes",
        cases: || vec![Case::Trip],
        run: None,
    },
    Group {
        name: "hand-over",
        shows: "3 replicas at 20 jobs/s: a ready answer waits 2.5 s at most where one leaves, 9.5 s where one dies, and as much beside the broker's outage",
        cases: || [Going::Sigterm, Going::Sigkill, Going::Broker].map(Case::HandOver).into(),
        run: None,
    },
    Group {
        name: "flash",
        shows: "one answer that blames the account among good ones: full rate within 15 s, at most that job dead",
        cases: || {
            let of_code = |code| ["create_task", "get_task_result"].map(|of| Case::Flash { of, code });
            [KEY, ADDRESS].into_iter().flat_map(of_code).collect()
        },
        run: None,
    },
    Group {
        name: "firewall",
        shows: "a middle-box dislikes a payload: nobody else waits more than 3 s, no trip",
        cases: || {
            let one = ["403", "401", "402"].map(|status| Case::Firewall { status, jobs: 1 });
            one.into_iter().chain([Case::Firewall { status: "403", jobs: 3 }]).collect()
        },
        run: None,
    },
    Group {
        name: "wild",
        shows: "one publisher floods, another stays below the limit: its p99 is at most 1.5 s above the calm one, no job is dead",
        cases: || vec![Case::Wild],
        run: None,
    },
    Group {
        name: "budget",
        shows: "a fleet that has just begun has a budget for 20 s of its load: p99 at most 1.5 s above the calm one",
        cases: || vec![Case::Budget],
        run: None,
    },
];

fn tenth_cases() -> Vec<Case> {
    let of_list = |list, faults: &[(&'static str, Nature)]| {
        let case = |(fault, nature): &(&'static str, Nature)| Case::Tenth { list, fault, nature: *nature };
        faults.iter().map(case).collect::<Vec<_>>()
    };
    [of_list("create", &CREATE), of_list("result", &RESULT)].concat()
}

fn outage_cases() -> Vec<Case> {
    let of_kind = |of| OUTAGES.map(|fault| Case::Outage { of, fault });
    ["create_task", "all"].into_iter().flat_map(of_kind).collect()
}

/// The cases of a group that are wanted, by the group's name or a part of their own.
pub(crate) fn pick(group: &Group, names: &[String], part: bool) -> Vec<Case> {
    let named = |case: &Case| {
        names.is_empty() || names.iter().any(|name| group.name == name || case.name().contains(name.as_str()))
    };
    (group.cases)().into_iter().filter(|case| named(case) && (!part || case.is_of_the_part())).collect()
}

/// Whether a name picks anything.
pub(crate) fn is_known(name: &String) -> bool {
    GROUPS.iter().any(|group| !pick(group, std::slice::from_ref(name), false).is_empty())
}

/// No case takes half as long; one that does hangs.
const LONGEST: Duration = Duration::from_secs(40 * 60);
/// Scenes that may wait for retried jobs beside those that are under load.
const WAITING: usize = 6;

/// Each case in a scene of its own. While one waits for its retried jobs, which loads little, the
/// next ones begin.
pub(crate) async fn each(environment: &Environment, cases: Vec<(&'static str, Case)>) -> Vec<Row> {
    let running = cases.into_iter().enumerate().map(|(place, (group, case))| async move {
        (place, to_its_end(environment, Row::new(group, case.name()), case).await)
    });
    let mut rows: Vec<(usize, Row)> =
        stream::iter(running).buffer_unordered(environment.lanes + WAITING).collect().await;
    rows.sort_by_key(|(place, _)| *place);
    rows.into_iter().map(|(_, row)| row).collect()
}

/// A case that breaks off, or hangs, has failed.
async fn to_its_end(environment: &Environment, mut row: Row, case: Case) -> Row {
    let playing = play(environment, &mut row, case);
    match timeout(LONGEST, AssertUnwindSafe(playing).catch_unwind()).await {
        Ok(Ok(())) => {}
        Ok(Err(panic)) => row.bound(completion::reason(panic.as_ref()), false),
        Err(_) => row.bound("it hangs", false),
    }
    environment.say(row.case(), row.summary());
    row
}

async fn play(environment: &Environment, row: &mut Row, case: Case) {
    match case {
        Case::Forgotten { by_restart } => forgotten::run(environment, row, by_restart).await,
        Case::Outage { of, fault } => outage::short(environment, row, of, fault).await,
        Case::LongOutage { of, fault } => outage::long(environment, row, of, fault).await,
        Case::Canary { fault } => outage::after_trip(environment, row, fault).await,
        Case::Blame => blame::run(environment, row).await,
        Case::Trip => trip::run(environment, row).await,
        Case::HandOver(going) => hand_over::run(environment, row, going).await,
        Case::Flash { of, code } => flash::run(environment, row, of, code).await,
        Case::Firewall { status, jobs } => firewall::run(environment, row, status, jobs).await,
        Case::Wild => wild::run(environment, row).await,
        Case::Budget => budget::run(environment, row).await,
        Case::Calm | Case::Tenth { .. } | Case::Lost { .. } => unreachable!("run by their groups"),
    }
}
