//! Figures and moments as they are written, in the console and in `top` alike.

use std::time::Duration;

use crate::domain::time::Timestamp;

/// What stands for what is not known.
pub const UNKNOWN: &str = "–";

/// A moment in UTC: the time of day, with its date where that is not today's.
#[must_use]
pub fn moment(at: Timestamp, now: Timestamp) -> String {
    let (text, today) = (at.to_string(), now.to_string());
    let (date, time) = (text.get(..10).unwrap_or_default(), text.get(11..19).unwrap_or_default());
    if today.starts_with(date) { time.to_owned() } else { format!("{date} {time}") }
}

/// A span, roughly.
#[must_use]
pub fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0..=99 => format!("{seconds} s"),
        100..=5_999 => format!("{} min", seconds / 60),
        6_000..=172_799 => format!("{} h {:02}", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// A rate by the second.
#[must_use]
pub fn rate(rate: f64) -> String {
    if rate >= 99.95 { format!("{rate:.0}") } else { format!("{rate:.1}") }
}

/// The same, where it is known.
#[must_use]
pub fn known_rate(known: Option<f64>) -> String {
    known.map_or_else(|| UNKNOWN.to_owned(), rate)
}

/// So many milliseconds in seconds, where they are known.
#[must_use]
pub fn known_seconds(millis: Option<u64>) -> String {
    millis.map_or_else(|| UNKNOWN.to_owned(), |millis| format!("{}.{} s", millis / 1_000, millis / 100 % 10))
}

/// A count, its thousands apart.
#[must_use]
pub fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The change of the balance.
#[must_use]
pub fn per_hour(change: f64) -> String {
    format!("{change:+.3} an hour")
}

/// The command that shows a failed job's letters, or, where its id is cut or would mean something
/// to a shell, those of its class.
#[must_use]
pub fn dead_command(id: &str, class: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._:@-".contains(c);
    if !id.is_empty() && !id.starts_with('-') && id.chars().all(is_plain) {
        return format!("captcha-worker dead show {id}");
    }
    let class: String = class.chars().filter(char::is_ascii_alphanumeric).collect();
    format!("captcha-worker dead list --class {class}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_and_moments_are_short_and_plain() {
        assert_eq!((&*count(7), &*count(1_234_567), &*count(100_000)), ("7", "1,234,567", "100,000"));
        assert_eq!(
            (&*rate(0.04), &*rate(12.34), &*rate(99.97), &*rate(1234.5)),
            ("0.0", "12.3", "100", "1234")
        );
        let spans = [42, 150, 7_500, 200_000].map(|seconds| span(Duration::from_secs(seconds)));
        assert_eq!(spans, ["42 s", "2 min", "2 h 05", "2 d"]);
        let now = Timestamp::parse("2026-11-27T16:00:00Z").unwrap();
        assert_eq!(moment(now, now), "16:00:00");
        assert_eq!(moment(Timestamp::parse("2026-11-26T23:59:59Z").unwrap(), now), "2026-11-26 23:59:59");
    }
}
