//! How late polls were begun, as each candidate reports it.

use serde::Deserialize;

/// The histogram of ours on /metrics.
const HISTOGRAM: &str = "captcha_poll_lateness_seconds_bucket";

/// Milliseconds after a poll was due.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct Lateness {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

#[derive(Deserialize)]
struct PeerReport {
    late_ms: Lateness,
}

impl Lateness {
    /// From the line that a peer prints at its end.
    pub(crate) fn of_peer(output: &str) -> Option<Self> {
        let report: PeerReport = output.lines().rev().find_map(|line| serde_json::from_str(line).ok())?;
        Some(report.late_ms)
    }

    /// From what replicas of ours show on /metrics. Each figure is the upper bound of the bucket
    /// that it lies in.
    pub(crate) fn of_ours(pages: &[String]) -> Option<Self> {
        let mut buckets: Vec<(f64, f64)> = Vec::new();
        for (bound, count) in pages.iter().flat_map(|page| page.lines().filter_map(bucket)) {
            match buckets.iter_mut().find(|(known, _)| *known == bound) {
                Some((_, sum)) => *sum += count,
                None => buckets.push((bound, count)),
            }
        }
        buckets.sort_by(|(one, _), (other, _)| one.total_cmp(other));
        let polls = buckets.last().map(|(_, count)| *count).filter(|polls| *polls > 0.0)?;
        let at = |share: f64| {
            let reached = buckets.iter().find(|(_, count)| *count >= polls * share);
            reached.map_or(f64::INFINITY, |(bound, _)| bound * 1_000.0)
        };
        Some(Self { p50: at(0.5), p99: at(0.99), max: at(1.0) })
    }
}

/// Upper bound in seconds and count up to it; counts are cumulative.
fn bucket(line: &str) -> Option<(f64, f64)> {
    let labelled = line.strip_prefix(HISTOGRAM)?;
    let (_, from_bound) = labelled.split_once("le=\"")?;
    let (bound, _) = from_bound.split_once('"')?;
    let (_, count) = labelled.rsplit_once(' ')?;
    // "+Inf" is a number here too.
    Some((bound.parse().ok()?, count.parse().ok()?))
}
