//! How long something takes: the three shapes a scenario may name.

use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use serde::Deserialize;

/// A distribution of times in milliseconds.
///
/// In TOML: `{ fixed = 100 }`, `{ uniform = { min = 5, max = 20 } }` or `{ lognormal = { median =
/// 1000, p99 = 6000 } }`.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Distribution {
    /// Always the same, in ms.
    Fixed(u32),
    /// Every whole millisecond of `min..=max` alike.
    Uniform {
        /// Shortest, in ms.
        min: u32,
        /// Longest, in ms; not below `min`.
        max: u32,
    },
    /// Log-normal, the usual shape of answer times: clamped to `median / 10 ..= 2 × p99`, so that
    /// one draw in a million cannot hold up a run for an hour.
    Lognormal {
        /// Half of the draws are shorter, in ms; at least 1.
        median: u32,
        /// One draw in a hundred is longer, in ms; not below `median`.
        p99: u32,
    },
}

/// The 99th percentile of the standard normal distribution.
const Z99: f64 = 2.326_347_874_040_841;

impl Distribution {
    /// What is wrong with the numbers, if anything.
    pub(super) fn fault(&self) -> Option<&'static str> {
        match *self {
            Self::Uniform { min, max } if min > max => Some("uniform: min is above max"),
            Self::Lognormal { median: 0, .. } => Some("lognormal: median must be at least 1"),
            Self::Lognormal { median, p99 } if median > p99 => Some("lognormal: median is above p99"),
            _ => None,
        }
    }

    /// One draw, in whole milliseconds.
    pub(super) fn draw(&self, rng: &mut StdRng) -> Duration {
        let ms = match *self {
            Self::Fixed(ms) => u64::from(ms),
            Self::Uniform { min, max } => u64::from(rng.random_range(min..=max.max(min))),
            Self::Lognormal { median, p99 } => lognormal(f64::from(median.max(1)), f64::from(p99), rng),
        };
        Duration::from_millis(ms)
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped between positive bounds far inside u64: only the fraction is dropped"
)]
fn lognormal(median: f64, p99: f64, rng: &mut StdRng) -> u64 {
    let sigma = (p99.max(median) / median).ln() / Z99;
    let ms = median * (sigma * standard_normal(rng)).exp();
    ms.clamp(median / 10.0, 2.0 * p99.max(median)).round() as u64
}

/// Box–Muller; written out because it is the one draw that `rand` leaves to another crate.
fn standard_normal(rng: &mut StdRng) -> f64 {
    let radius: f64 = 1.0 - rng.random::<f64>();
    let angle: f64 = rng.random::<f64>() * std::f64::consts::TAU;
    (-2.0 * radius.ln()).sqrt() * angle.cos()
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn sorted_draws(distribution: Distribution) -> Vec<u128> {
        let mut rng = StdRng::seed_from_u64(7);
        let mut draws: Vec<_> = (0..20_000).map(|_| distribution.draw(&mut rng).as_millis()).collect();
        draws.sort_unstable();
        draws
    }

    #[test]
    fn a_lognormal_has_the_median_and_the_99th_percentile_it_was_given() {
        let draws = sorted_draws(Distribution::Lognormal { median: 1_000, p99: 6_000 });
        assert!((950..=1_050).contains(&draws[10_000]), "median {}", draws[10_000]);
        assert!((5_300..=6_700).contains(&draws[19_800]), "p99 {}", draws[19_800]);
        assert!(draws[0] >= 100 && draws[19_999] <= 12_000, "clamped");
    }

    #[test]
    fn a_uniform_reaches_both_of_its_ends_and_nothing_outside() {
        let draws = sorted_draws(Distribution::Uniform { min: 5, max: 9 });
        assert_eq!((draws[0], draws[19_999]), (5, 9));
    }

    #[test]
    fn numbers_that_contradict_each_other_are_named() {
        assert!(Distribution::Uniform { min: 2, max: 1 }.fault().is_some());
        assert!(Distribution::Lognormal { median: 0, p99: 1 }.fault().is_some());
        assert!(Distribution::Lognormal { median: 5, p99: 1 }.fault().is_some());
        assert_eq!(Distribution::Lognormal { median: 5, p99: 5 }.fault(), None);
    }
}
