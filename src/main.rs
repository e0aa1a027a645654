//! The `captcha-worker` command.
use std::process::ExitCode;
#[tokio::main]
async fn main() -> ExitCode {
    match captcha_worker::cli::demo::run(false).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}
