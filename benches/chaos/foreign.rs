//! The foreign publisher and consumer, which keep the ledger.

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::jobs::{self, Job};
use crate::ledger::{Fate, Ledger};
use crate::support::foreign::command;

/// Pictures and site-bound jobs, whose answers take longer, of one batch.
const BATCH: (usize, usize) = (30, 10);
const END_WITHIN: Duration = Duration::from_secs(30);

fn start(verb: &str, amqp: &str, namespace: &str) -> (Child, ChildStdin, Lines<BufReader<ChildStdout>>) {
    let mut command = Command::from(command(verb, &[amqp, namespace]));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().expect("python starts");
    let stdin = child.stdin.take().expect("its input is piped");
    let stdout = child.stdout.take().expect("its output is piped");
    (child, stdin, BufReader::new(stdout).lines())
}

/// Whether jobs are being offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Offering {
    On,
    Held,
    Over,
}

/// Offers jobs at a steady rate, as far as the broker takes them.
#[derive(Debug)]
pub(crate) struct Publisher {
    offering: watch::Sender<Offering>,
    ledger: Ledger,
    writing: AbortOnDropHandle<()>,
    _reading: AbortOnDropHandle<()>,
    child: Child,
}

impl Publisher {
    pub(crate) fn start(amqp: &str, namespace: &str, ledger: &Ledger, per_second: u32) -> Self {
        let (child, stdin, lines) = start("offer", amqp, namespace);
        let (offering, seen) = watch::channel(Offering::On);
        let writing = tokio::spawn(write(stdin, ledger.clone(), per_second, seen));
        let reading = tokio::spawn(note(lines, ledger.clone()));
        Self {
            offering,
            ledger: ledger.clone(),
            writing: AbortOnDropHandle::new(writing),
            _reading: AbortOnDropHandle::new(reading),
            child,
        }
    }

    /// Offers no more for now, and returns whether all that was offered got its answer in time.
    pub(crate) async fn hold(&self, within: Duration) -> bool {
        self.offering.send_replace(Offering::Held);
        crate::wait::comes_true(within, async || self.ledger.count(Fate::Offered) == 0).await
    }

    pub(crate) fn go_on(&self) {
        self.offering.send_replace(Offering::On);
    }

    /// Ends once all has been answered.
    pub(crate) async fn finish(mut self) {
        self.offering.send_replace(Offering::Over);
        (&mut self.writing).await.expect("jobs are offered without a panic");
        let ended = timeout(END_WITHIN, self.child.wait()).await.expect("the publisher ends in time");
        assert!(ended.expect("a child can be waited for").success(), "the publisher failed");
    }
}

async fn write(
    mut stdin: ChildStdin,
    ledger: Ledger,
    per_second: u32,
    mut offering: watch::Receiver<Offering>,
) {
    let mut due = interval(Duration::from_secs(1) / per_second);
    // What a stall has missed is not made up for: a flood after every fault would be another trial.
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for batch in 0.. {
        for job in batch_of(batch) {
            due.tick().await;
            let Ok(state) = offering.wait_for(|state| *state != Offering::Held).await.map(|state| *state)
            else {
                return;
            };
            if state == Offering::Over {
                return;
            }
            ledger.offered(&job);
            let mut line = job.body;
            line.push(b'\n');
            stdin.write_all(&line).await.expect("the publisher reads");
        }
    }
}

fn batch_of(n: u32) -> Vec<Job> {
    let mut jobs = jobs::images(&format!("image-{n}"), BATCH.0);
    jobs.extend(jobs::site_bound(&format!("site-{n}"), BATCH.1));
    jobs
}

async fn note(mut lines: Lines<BufReader<ChildStdout>>, ledger: Ledger) {
    while let Ok(Some(line)) = lines.next_line().await {
        let (said, id) = line.split_once(' ').expect("the publisher says two words");
        let fate = match said {
            "confirmed" => Fate::Confirmed,
            "unknown" => Fate::Unknown,
            _ => Fate::Refused,
        };
        ledger.settled(id, fate);
    }
}

/// Consumes all that a job can end in.
#[derive(Debug)]
pub(crate) struct Consumer {
    stdin: ChildStdin,
    reading: AbortOnDropHandle<()>,
    _child: Child,
}

impl Consumer {
    pub(crate) fn start(amqp: &str, namespace: &str, ledger: &Ledger) -> Self {
        let (child, stdin, mut lines) = start("follow", amqp, namespace);
        let ledger = ledger.clone();
        let reading = tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                ledger.arrived(serde_json::from_str(&line).expect("the consumer prints JSON"));
            }
        });
        Self { stdin, reading: AbortOnDropHandle::new(reading), _child: child }
    }

    /// Leaves the results queue alone.
    pub(crate) async fn hold_results(&mut self) {
        self.order("hold\n").await;
    }

    pub(crate) async fn take_results(&mut self) {
        self.order("take\n").await;
    }

    async fn order(&mut self, order: &str) {
        self.stdin.write_all(order.as_bytes()).await.expect("the consumer reads");
    }

    pub(crate) async fn finish(self) {
        drop(self.stdin);
        timeout(END_WITHIN, self.reading).await.expect("the consumer ends in time").expect("without a panic");
    }
}

/// One call of a channel's method.
pub(crate) async fn call(amqp: &str, method: &str, arguments: &Value) {
    let mut command = Command::from(command("call", &[amqp, method, &arguments.to_string()]));
    let status = timeout(END_WITHIN, command.kill_on_drop(true).status()).await;
    let status = status.expect("the call ends in time").expect("python starts");
    assert!(status.success(), "the broker refuses {method} {arguments}");
}

/// Whether the broker ends a consumer that keeps a message unacked for so long.
pub(crate) async fn is_ended_for_keeping(amqp: &str, queue: &str, within: Duration) -> bool {
    let mut command = Command::from(command("keep", &[amqp, queue, &within.as_secs().to_string()]));
    let output = timeout(within + END_WITHIN, command.kill_on_drop(true).output()).await;
    let output = output.expect("it ends in time").expect("python starts");
    output.stdout.starts_with(b"closed")
}
