//! What a candidate is given to do.

use std::time::Duration;

/// Prefix of the settings of ours.
const OURS: &str = "CAPTCHA_WORKER__";
/// Calls of the API at once, for everybody: the default of ours.
const CONNECTIONS: u32 = 64;
/// Jobs that ours takes ahead of time: as many as there are connections, unless asked for
/// otherwise.
fn submissions() -> u32 {
    let asked = std::env::var("BENCH_SUBMISSIONS").ok().and_then(|number| number.parse().ok());
    asked.unwrap_or(CONNECTIONS)
}

/// Above every answer time in use, and within what the API allows.
const POLLING_TIMEOUT: &str = "240s";

/// Jobs, how they come, and how the API answers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) jobs: usize,
    pub(crate) image_bytes: usize,
    /// Jobs a second; none where all of them are in the queue before anybody takes one.
    pub(crate) per_second: Option<u32>,
    /// Most jobs that one process may hold.
    pub(crate) in_flight: u32,
    /// Jobs that one process of ours takes ahead of time, and submits at once.
    pub(crate) submissions: u32,
    pub(crate) replicas: usize,
    /// Lanes beside the default one; each gets as many jobs.
    pub(crate) further_lanes: &'static [&'static str],
    /// From a task's acceptance to its answer.
    pub(crate) solve: Duration,
    pub(crate) first_poll: Duration,
    pub(crate) next_poll: Duration,
}

impl Load {
    /// The work of the comparison: images of 6,000 bytes, answered at once, first asked for after a
    /// second, 2,000 in flight.
    pub(crate) fn of(jobs: usize) -> Self {
        Self {
            jobs,
            image_bytes: 6_000,
            per_second: None,
            in_flight: 2_000,
            submissions: submissions(),
            replicas: 1,
            further_lanes: &[],
            solve: Duration::ZERO,
            first_poll: Duration::from_secs(1),
            next_poll: Duration::from_secs(2),
        }
    }

    /// The same, offered at a fixed rate to who waits for it.
    pub(crate) fn offered(self, per_second: u32) -> Self {
        Self { per_second: Some(per_second), ..self }
    }

    /// What the simulator plays: no latency of its own, and money enough.
    pub(crate) fn scenario(&self) -> String {
        let solve = self.solve.as_millis();
        format!(
            "latency_ms = {{ fixed = 0 }}\nbalance = 1000000.0\n[types.ImageToTextTask]\nsolve_ms = {{ fixed = {solve} }}\n"
        )
    }

    /// The settings of a peer, beside where it works.
    pub(crate) fn for_peers(&self) -> [(&'static str, String); 4] {
        [
            ("PEER_IN_FLIGHT", self.in_flight.to_string()),
            ("PEER_CONNECTIONS", CONNECTIONS.to_string()),
            ("PEER_FIRST_POLL_MS", self.first_poll.as_millis().to_string()),
            ("PEER_POLL_MS", self.next_poll.as_millis().to_string()),
        ]
    }

    /// The settings of ours, beside where it works; what is not named keeps its default.
    pub(crate) fn for_ours(&self) -> Vec<(String, String)> {
        let milliseconds = |span: Duration| format!("{}ms", span.as_millis());
        let settings = [
            ("WORKER__MAX_IN_FLIGHT", self.in_flight.to_string()),
            ("WORKER__SUBMIT_CONCURRENCY", self.submissions.to_string()),
            ("SOLVER__MAX_CONNECTIONS", CONNECTIONS.to_string()),
            // All candidates poll by the same table.
            ("POLLING__MODE", "fixed".to_owned()),
            ("POLLING__ImageToTextTask__FIRST_DELAY", milliseconds(self.first_poll)),
            ("POLLING__ImageToTextTask__INTERVAL", milliseconds(self.next_poll)),
            ("POLLING__ImageToTextTask__TIMEOUT", POLLING_TIMEOUT.to_owned()),
        ];
        let settings = settings.into_iter().map(|(name, value)| (format!("{OURS}{name}"), value));
        let weights = (2..).map(|weight: usize| weight.to_string());
        let lanes = self.further_lanes.iter().zip(weights);
        let lanes =
            lanes.map(|(lane, weight)| (format!("{OURS}LANES__{}__WEIGHT", lane.to_uppercase()), weight));
        settings.chain(lanes).collect()
    }

    /// Time enough for it: a run that takes longer has failed.
    pub(crate) fn longest(&self) -> Duration {
        /// A second, at the least: the slowest candidate is several times faster.
        const SLOWEST: u64 = 20;
        let slowest = u64::from(self.per_second.unwrap_or(u32::MAX)).min(SLOWEST);
        Duration::from_secs(120 + self.jobs as u64 / slowest) + self.solve + self.first_poll
    }
}
