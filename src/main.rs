//! The `captcha-worker` command.

use std::process::ExitCode;

use captcha_worker::cli::{self, Cli};
use captcha_worker::telemetry;
use clap::Parser;

fn main() -> ExitCode {
    telemetry::install_panic_hook();
    // A wrong command line ends here, with exit code 2.
    let cli = Cli::parse();
    cli::run(cli).into()
}
