//! What a panic tells.

use std::io::{self, Write};
use std::panic::{self, PanicHookInfo};

/// Makes panics tell where they happened, and what only where that is fixed text.
///
/// A formatted message can hold whatever was being worked on: a publisher's proxy password, an address with credentials.
pub fn guard_panics() {
    panic::set_hook(Box::new(|info| {
        let told = describe(info);
        if tracing::enabled!(tracing::Level::ERROR) {
            tracing::error!(panic = told, "a bug: this part of the program panicked");
        } else {
            // There is nothing left to do about an error here.
            let _ = writeln!(io::stderr(), "a bug: this program panicked at {told}");
        }
    }));
}

fn describe(info: &PanicHookInfo<'_>) -> String {
    let place = info.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
    match info.payload().downcast_ref::<&'static str>() {
        Some(fixed) => format!("{place}: {fixed}"),
        None => place,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn a_panic_tells_its_place_and_no_formatted_text() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&told);
        panic::set_hook(Box::new(move |info| seen.lock().unwrap().push(describe(info))));
        let secret = "pl4nted";
        let _ = panic::catch_unwind(|| panic!("could not use {secret}"));
        let _ = panic::catch_unwind(|| panic!("a fixed text"));
        let _ = panic::take_hook();
        let told = told.lock().unwrap();
        assert!(told[0].starts_with("src/telemetry/panics.rs:") && !told[0].contains(secret), "{told:?}");
        assert!(told[1].ends_with(": a fixed text"), "{told:?}");
    }
}
