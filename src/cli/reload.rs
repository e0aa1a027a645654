//! SIGHUP: the account's key and the log level are taken anew from where they were configured, both or neither.

use std::io;

use tokio::signal::unix::{SignalKind, signal};

use crate::config::{ConfigErrors, LoadOptions, Loaded, LogFilter, SettingLine};
use crate::telemetry::Logging;
use crate::worker::WorkerHandle;

/// The settings that are taken anew; a change of any other waits for the next start.
const TAKEN: [&str; 3] = ["log.level", "solver.api_key", "solver.api_key_file"];

/// What a reload works on.
pub(super) struct Reload {
    pub(super) options: LoadOptions,
    pub(super) view: WorkerHandle,
    pub(super) logging: Logging,
    /// The log level in force.
    pub(super) level: LogFilter,
    /// All settings as they were at the start.
    pub(super) started_with: Vec<SettingLine>,
}

impl Reload {
    /// Listens for SIGHUP as long as the process runs. Must be called in a runtime.
    pub(super) fn on_hangup(mut self) -> io::Result<()> {
        let mut hangup = signal(SignalKind::hangup())?;
        tokio::spawn(async move {
            while hangup.recv().await.is_some() {
                let options = self.options.clone();
                // Small files, and still no work for the threads that poll.
                let loaded =
                    tokio::task::spawn_blocking(move || crate::config::Settings::load(&options)).await;
                let taken = match loaded {
                    Ok(loaded) => self.take(loaded),
                    Err(_) => Err("they could not be read".to_owned()),
                };
                if let Err(refused) = taken {
                    tracing::error!(
                        refused,
                        "SIGHUP: these settings cannot be used; key and log level stay as they are"
                    );
                }
            }
        });
        Ok(())
    }

    fn take(&mut self, loaded: Result<Loaded, ConfigErrors>) -> Result<(), String> {
        let loaded = loaded.map_err(|errors| errors.to_string())?;
        let key = loaded.settings.solver.api_key.clone();
        let key = key.ok_or("solver.api_key: there is none in the settings any more")?;
        let level = loaded.settings.log.level.clone();
        let next = Logging::prepare(&level).map_err(|error| error.to_string())?;
        let before = Logging::prepare(&self.level).map_err(|error| error.to_string())?;
        // The old filter may hear what the new one does not, and the other way round.
        let heard = tracing::enabled!(tracing::Level::INFO);
        let changes_level = level != self.level;
        if changes_level && heard {
            tracing::info!(log_level = level.as_str(), "SIGHUP: another log level");
        }
        self.logging.replace(next).map_err(|error| error.to_string())?;
        let key_before = self.view.key();
        if let Err(error) = self.view.replace_key(key) {
            // Nothing more can be done where this fails: there is no log any more.
            let _ = self.logging.replace(before);
            return Err(error.to_string());
        }
        if changes_level && !heard {
            tracing::info!(log_level = level.as_str(), "SIGHUP: another log level");
        }
        self.level = level;
        if self.view.key() == key_before {
            tracing::info!("SIGHUP: the key is the one in use");
        } else {
            tracing::info!(key = %self.view.key(), "SIGHUP: another key; it is tried before it is used");
        }
        tell_waiting(&self.started_with, &loaded);
        Ok(())
    }
}

/// Tells of changes that SIGHUP does not bring.
fn tell_waiting(started_with: &[SettingLine], loaded: &Loaded) {
    let changed = |line: &&SettingLine| {
        !TAKEN.contains(&&*line.key)
            && !started_with.iter().any(|old| old.key == line.key && old.value_shown == line.value_shown)
    };
    let waiting: Vec<&str> = loaded.report().iter().filter(changed).map(|line| &*line.key).collect();
    if !waiting.is_empty() {
        let settings = waiting.join(", ");
        tracing::warn!(
            settings,
            "SIGHUP: other settings have changed, too; they are taken at the next start only"
        );
    }
}
