//! Reads `[solver]`.

use std::num::NonZeroU32;

use super::reader::{Reader, quoted};
use super::secret;
use super::sections::{MINUTE, TENTH};
use super::settings::SolverSettings;
use super::values;
use crate::domain::lifecycle::Ambiguous;

const AMBIGUOUS: &str = "\"retry\", \"dead-letter\"";

pub(super) fn read(reader: &mut Reader) -> Option<SolverSettings> {
    let allow_plain_http = reader.flag("solver.allow_plain_http");
    let base_url = reader.text("solver.base_url", "an address such as https://api.example.com", |text| {
        // While the flag itself is faulty, plain http is not reported on top.
        values::base_url(text, allow_plain_http.unwrap_or(true))
    });
    let api_key = secret::api_key(reader);
    let connect_timeout = reader.duration("solver.connect_timeout", TENTH..=MINUTE);
    let request_timeout = reader.duration("solver.request_timeout", 10 * TENTH..=5 * MINUTE);
    let max_connections = reader.whole("solver.max_connections", 1..=1_024);
    let idle_timeout = reader.duration("solver.idle_timeout", TENTH..=5 * MINUTE);
    let max_calls_per_second = reader.whole("solver.max_calls_per_second", 0..=100_000);
    let ambiguous_submit = reader.text("solver.ambiguous_submit", AMBIGUOUS, |text| match text {
        "retry" => Ok(Ambiguous::Retry),
        "dead-letter" => Ok(Ambiguous::DeadLetter),
        other => Err(format!("{} is neither", quoted(other))),
    });
    Some(SolverSettings {
        base_url: base_url?,
        api_key: api_key?,
        connect_timeout: connect_timeout?,
        request_timeout: request_timeout?,
        max_connections: max_connections?,
        idle_timeout: idle_timeout?,
        max_calls_per_second: NonZeroU32::new(max_calls_per_second?),
        allow_plain_http: allow_plain_http?,
        ambiguous_submit: ambiguous_submit?,
    })
}
