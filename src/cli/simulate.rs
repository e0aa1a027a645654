//! `simulate`: the API's stand-in as a service.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use super::console::Output;
use super::{CommandError, Exit, signals};
use crate::simulator::{Server, Simulator, SimulatorConfig};

const EXAMPLES: &str = "\
Examples:
  captcha-worker simulate
  captcha-worker simulate --scenario examples/scenarios/rough.toml --seed 7
  CAPTCHA_WORKER__SOLVER__BASE_URL=http://127.0.0.1:8191 \\
  CAPTCHA_WORKER__SOLVER__API_KEY=simulator-key captcha-worker run

GET /_sim/stats reports what it has seen: calls, accepted tasks, and who broke the API's rules.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct SimulateArgs {
    /// Address and port; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8191")]
    listen: SocketAddr,
    /// A scenario (TOML): prices, solve times, slots, faults; without it, the API as documented
    #[arg(long, value_name = "FILE")]
    scenario: Option<PathBuf>,
    /// Seed of its random source, over the scenario's
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

pub(super) async fn run(args: &SimulateArgs, output: &mut Output) -> Result<Exit, CommandError> {
    let mut scenario = match &args.scenario {
        Some(path) => SimulatorConfig::load(path).map_err(CommandError::failed)?,
        None => SimulatorConfig::default(),
    };
    scenario.seed = args.seed.unwrap_or(scenario.seed);
    let simulator = Simulator::new(scenario).map_err(CommandError::failed)?;
    let stop = signals::stop()?;
    let server = Server::bind(args.listen, simulator)
        .await
        .map_err(|error| CommandError::Failed(format!("cannot listen on {}: {error}", args.listen)))?;
    let url = format!("http://{}", server.local_addr());
    if output.is_json() {
        output.value(&serde_json::json!({ "listening": url }))?;
    } else {
        output.line(format_args!("listening on {url} (Ctrl-C ends it)"))?;
    }
    server.run(stop).await?;
    Ok(Exit::Fine)
}
