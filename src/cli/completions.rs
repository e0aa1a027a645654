//! `completions`: scripts for shells.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::console::Output;
use super::{Cli, CommandError, Exit};

const NAME: &str = "captcha-worker";

const EXAMPLES: &str = "\
Examples:
  captcha-worker completions bash > /etc/bash_completion.d/captcha-worker
  captcha-worker completions zsh > ~/.zfunc/_captcha-worker
  captcha-worker completions fish \\
    > ~/.config/fish/completions/captcha-worker.fish";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

pub(super) fn run(args: &CompletionsArgs, output: &mut Output) -> Result<Exit, CommandError> {
    // Into memory first: the generator panics where its writer fails, and a closed pipe is no bug.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), NAME, &mut script);
    if args.shell == Shell::Bash {
        // The generator takes the hyphen of the name for the start of a subcommand in one half of
        // its script (clap-rs/clap#6421), so that nothing after the first word is completed.
        let text = String::from_utf8_lossy(&script);
        script = text.replace("captcha__subcmd__worker", "captcha__worker").into_bytes();
    }
    output.bytes(&script)?;
    Ok(Exit::Fine)
}
