//! SIGHUP: the account's key is taken anew from where it was configured.

use std::io;

use tokio::signal::unix::{SignalKind, signal};

use crate::config::{LoadOptions, Settings};
use crate::worker::View;

/// Listens for SIGHUP as long as the process runs. Must be called in a runtime.
pub(super) fn on_hangup(options: LoadOptions, view: View) -> io::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            let options = options.clone();
            // Small files, and still no work for the threads that poll.
            let loaded = tokio::task::spawn_blocking(move || Settings::load(&options)).await;
            match loaded.map(|loaded| take_key(&loaded, &view)) {
                Ok(Ok(())) => {}
                Ok(Err(refused)) => tracing::error!(refused, "SIGHUP: the key in use stays"),
                Err(_) => tracing::error!("SIGHUP: the settings could not be read; the key in use stays"),
            }
        }
    });
    Ok(())
}

fn take_key(
    loaded: &Result<crate::config::Loaded, crate::config::ConfigErrors>,
    view: &View,
) -> Result<(), String> {
    let settings = &loaded.as_ref().map_err(ToString::to_string)?.settings;
    let key = settings.solver.api_key.clone().ok_or("there is none in the settings any more")?;
    let before = view.key();
    view.replace_key(key).map_err(|error| error.to_string())?;
    if view.key() == before {
        tracing::info!("SIGHUP: the key is the one in use");
    } else {
        tracing::info!(key = %view.key(), "SIGHUP: another key; it is tried before it is used");
    }
    Ok(())
}
