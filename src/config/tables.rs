//! Reads the open tables, whose names are the API's, and the operator's lists.

use std::collections::BTreeMap;
use std::time::Duration;

use super::reader::{Reader, parse_duration, quoted};
use crate::domain::api_code::Overrides;
use crate::domain::class::Class;
use crate::domain::kind;
use crate::domain::policy::Policy;
use crate::domain::poll_schedule::{PollSchedule, PollScheduleError, PollSchedules};

/// A type's three settings, each perhaps left out.
type Pace = [Option<Duration>; 3];

/// `[polling.*]`
pub(super) fn polling(reader: &mut Reader) -> Option<PollSchedules> {
    let mut types = reader.names_in("polling", &["first_delay", "interval", "timeout"]);
    types.retain(|name| name != "default");
    let default = pace(reader, "default");
    let base = default.unwrap_or_default();
    let default = default.and_then(|pace| pacing(reader, "default", pace, base));
    let mut all_good = true;
    let mut by_type = BTreeMap::new();
    let mut paces: BTreeMap<String, Pace> = BTreeMap::new();
    // A type stands before its classes, which follow it in what they leave out.
    for name in types {
        let read = pace(reader, &name).and_then(|pace| {
            let of_type = paces.get(kind::bare(&name)).copied().unwrap_or_default();
            let pace = [0, 1, 2].map(|field| pace[field].or(of_type[field]));
            paces.insert(name.clone(), pace);
            pacing(reader, &name, pace, base)
        });
        match read {
            Some(pacing) => drop(by_type.insert(name, pacing)),
            None => all_good = false,
        }
    }
    let default = default?;
    all_good.then_some(PollSchedules { default, by_type })
}

fn pace(reader: &mut Reader, name: &str) -> Option<Pace> {
    let mut read = |field: &str| {
        reader.optional(&format!("polling.{name}.{field}"), |reader, key| {
            reader.text(key, "a duration", parse_duration)
        })
    };
    let (first_delay, interval, timeout) = (read("first_delay"), read("interval"), read("timeout"));
    Some([first_delay?, interval?, timeout?])
}

fn pacing(reader: &mut Reader, name: &str, pace: Pace, base: Pace) -> Option<PollSchedule> {
    let [first_delay, interval, timeout] = [0, 1, 2].map(|field| pace[field].or(base[field]));
    // The default itself is at fault, which is reported as such.
    let error = match PollSchedule::try_new(first_delay?, interval?, timeout?) {
        Ok(pacing) => return Some(pacing),
        Err(error) => error,
    };
    let field = match error {
        PollScheduleError::Interval => "interval",
        PollScheduleError::Timeout => "timeout",
    };
    let key = format!("polling.{name}.{field}");
    let origin = reader.shown_origin(&key);
    reader.fault(&key, &origin, error.to_string(), "");
    None
}

/// `[codes]`
pub(super) fn codes(reader: &mut Reader) -> Option<Overrides> {
    // Only this program can tell that a message is no job, or that handling it panicked.
    let ours = |class: &Class| matches!(class, Class::Malformed | Class::Poison);
    let allowed: Vec<_> = Class::ALL.iter().filter(|class| !ours(class)).map(|class| class.name()).collect();
    let allowed = allowed.join(", ");
    let mut by_code = BTreeMap::new();
    let mut all_good = true;
    for code in reader.names_in("codes", &[]) {
        let class = reader.text(&format!("codes.{code}"), &allowed, |text| {
            let class = text.parse::<Class>().ok().filter(|class| !ours(class));
            class.ok_or_else(|| format!("{} is no class of an error code", quoted(text)))
        });
        match class {
            Some(class) => drop(by_code.insert(code, class)),
            None => all_good = false,
        }
    }
    all_good.then(|| Overrides::new(by_code))
}

/// `[caps]`
pub(super) fn caps(reader: &mut Reader) -> Option<BTreeMap<String, usize>> {
    let mut caps = BTreeMap::new();
    let mut all_good = true;
    for name in reader.names_in("caps", &[]) {
        match reader.whole(&format!("caps.{name}"), 1..=60_000) {
            Some(cap) => drop(caps.insert(name, cap)),
            None => all_good = false,
        }
    }
    all_good.then_some(caps)
}

/// `[policy]`
pub(super) fn policy(reader: &mut Reader) -> Option<Policy> {
    let (domains_key, types_key) = ("policy.allowed_domains", "policy.allowed_types");
    let domains = reader.list(domains_key);
    let types = reader.list(types_key);
    let types = types.and_then(|(types, origin)| {
        let is_type = |name: &String| !name.is_empty() && !name.contains(char::is_whitespace);
        if types.iter().all(is_type) {
            return Some(types);
        }
        reader.fault(types_key, &origin, "holds an entry that is not the name of a task type", "");
        None
    });
    let (domains, origin) = domains?;
    let policy = Policy::try_new(&domains, types.as_deref().unwrap_or_default());
    let policy = policy
        .map_err(|errors| {
            for error in errors {
                reader.fault(domains_key, &origin, error.to_string(), "");
            }
        })
        .ok();
    types.and(policy)
}
