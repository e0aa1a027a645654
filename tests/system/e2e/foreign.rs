//! The foreign client: pika, in Python.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Child, Stdio};

use serde::Deserialize;
use serde_json::Value;

use crate::support::foreign::command;

/// One outcome as it was consumed.
#[derive(Debug, Deserialize)]
pub(crate) struct Arrival {
    pub(crate) queue: String,
    pub(crate) id: Option<String>,
    pub(crate) correlation_id: Option<String>,
    pub(crate) bytes: usize,
    pub(crate) outcome: Option<Value>,
}

/// Publishes jobs, one line each, and waits until each is confirmed.
pub(crate) fn publish(amqp: &str, namespace: &str, lines: &[String]) {
    let mut child = command("publish", &[amqp, namespace])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("python");
    let mut stdin = child.stdin.take().expect("its input");
    for line in lines {
        writeln!(stdin, "{line}").expect("it reads");
    }
    drop(stdin);
    assert!(child.wait().expect("python ends").success(), "the foreign publisher failed");
}

/// A consumer under way.
pub(crate) struct Collecting(Child);

/// Begins to consume every queue that a job can end in.
pub(crate) fn collect(amqp: &str, namespace: &str, wanted: usize, seconds: u32) -> Collecting {
    let (wanted, seconds) = (wanted.to_string(), seconds.to_string());
    let mut command = command("collect", &[amqp, namespace, &wanted, &seconds]);
    Collecting(command.stdout(Stdio::piped()).spawn().expect("python"))
}

impl Collecting {
    /// All that came.
    pub(crate) fn finish(self) -> Vec<Arrival> {
        let output = self.0.wait_with_output().expect("python ends");
        assert!(output.status.success(), "the foreign consumer failed");
        String::from_utf8(output.stdout)
            .expect("UTF-8")
            .lines()
            .map(|line| serde_json::from_str(line).expect("a JSON line"))
            .collect()
    }
}

/// Where each id ended: every queue it was seen in, once for each time.
pub(crate) fn ends(arrivals: &[Arrival], namespace: &str) -> BTreeMap<String, Vec<String>> {
    let mut ends: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for arrival in arrivals {
        let queue = arrival
            .queue
            .strip_prefix(namespace)
            .unwrap_or(&arrival.queue)
            .trim_start_matches('.')
            .to_owned();
        ends.entry(arrival.id.clone().unwrap_or_default()).or_default().push(queue);
    }
    ends
}
