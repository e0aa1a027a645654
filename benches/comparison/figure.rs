//! What is measured, and what a row of measurements says.

use std::collections::BTreeMap;

/// One thing that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Figure {
    CpuPerJob,
    CpuPerPoll,
    PollsPerJob,
    JobsPerSecond,
    BytesInFlight,
    MostInFlight,
    Idle,
    Peak,
    LateMedian,
    Late99,
    LateMost,
    BrokerPerJob,
    SimulatorPerJob,
    FirstJob,
    FirstJobAgain,
}

/// What one run has measured.
pub(crate) type Figures = BTreeMap<Figure, f64>;

/// Of all rounds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spread {
    pub(crate) min: f64,
    pub(crate) median: f64,
    pub(crate) max: f64,
}

impl Figure {
    /// With its unit, as tables and JSON call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::CpuPerJob => "CPU ms/job",
            Self::CpuPerPoll => "CPU ms/poll",
            Self::PollsPerJob => "polls/job",
            Self::JobsPerSecond => "jobs/s",
            Self::BytesInFlight => "kB/job in flight",
            Self::MostInFlight => "most in flight",
            Self::Idle => "idle MiB",
            Self::Peak => "peak MiB",
            Self::LateMedian => "late p50 ms",
            Self::Late99 => "late p99 ms",
            Self::LateMost => "late max ms",
            Self::BrokerPerJob => "broker ms/job",
            Self::SimulatorPerJob => "simulator ms/job",
            Self::FirstJob => "first job ms, account unknown",
            Self::FirstJobAgain => "first job ms, account known",
        }
    }

    pub(crate) fn is_lateness(self) -> bool {
        matches!(self, Self::LateMedian | Self::Late99 | Self::LateMost)
    }
}

impl Spread {
    /// Nothing where nothing was measured.
    pub(crate) fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let (lower, upper) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
        Some(Self { min, median: f64::midpoint(lower, upper), max })
    }
}

/// A number with as many digits as say something.
pub(crate) fn digits(value: f64) -> String {
    match value.abs() {
        size if size == 0.0 || size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}
