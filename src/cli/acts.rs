//! What the console of a replica does for an operator: the commands `pause`, `resume`, `find` and
//! `dead replay`, as on the command line.

use std::io::Write;

use clap::Parser;
use futures_util::future::BoxFuture;
use tokio::runtime::Builder;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use super::console::{Console, Format};
use super::dead::{self, CommandContext};
use super::{CommandError, Exit, find, fleet};
use crate::broker::Broker;
use crate::broker::topology::Names;
use crate::fleet::Order;
use crate::ops::{Act, ActEnd, Commands};

/// The commands, on a broker.
pub struct ConsoleCommands {
    /// Each command makes a session of its own.
    pub broker: Broker,
    /// Names of everything on it.
    pub names: Names,
    /// Ends the commands that run, as Ctrl-C does.
    pub stop: CancellationToken,
}

#[derive(Debug, Parser)]
#[command(no_binary_name = true)]
struct FindLine {
    #[command(flatten)]
    args: find::FindArgs,
}

impl Commands for ConsoleCommands {
    fn run(&self, act: Act) -> BoxFuture<'static, ActEnd> {
        let (broker, names, stop) = (self.broker.clone(), self.names.clone(), self.stop.clone());
        // A command is no future of more threads than one, and has the runtime to itself as in a
        // process of its own.
        let ran = spawn_blocking(move || {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            Ok::<_, CommandError>(runtime.block_on(perform(act, &broker, &names, &stop)))
        });
        Box::pin(async move {
            match ran.await {
                Ok(Ok(end)) => end,
                Ok(Err(error)) => failed(&error.to_string()),
                Err(_) => failed("the command has panicked: a bug of the worker"),
            }
        })
    }
}

fn failed(text: &str) -> ActEnd {
    ActEnd { done: false, text: text.to_owned(), chosen: 0 }
}

async fn perform(act: Act, broker: &Broker, names: &Names, stop: &CancellationToken) -> ActEnd {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut chosen = 0;
    let end = {
        let (out, err): (&mut dyn Write, &mut dyn Write) = (&mut out, &mut err);
        let mut console =
            Console { out, err, out_is_terminal: true, err_is_terminal: false, format: Some(Format::Table) };
        match act {
            Act::Pause { reason } => {
                let order = Order::Pause { reason };
                fleet::carry_out(order, "paused", broker, names, &mut console).await
            }
            Act::Resume => fleet::carry_out(Order::Resume, "resumed", broker, names, &mut console).await,
            Act::Find { id } => {
                let mut context = CommandContext::new(broker, names, &mut console, stop);
                match FindLine::try_parse_from(["--".to_owned(), id]) {
                    Ok(line) => find::run(&line.args, &mut context).await,
                    Err(error) => Err(CommandError::usage(&error)),
                }
            }
            Act::Replay { filters, most } => {
                let mut context = CommandContext::new(broker, names, &mut console, stop);
                let (end, count) = dead::replay_chosen(&filters, most, &mut context).await;
                chosen = count;
                end
            }
        }
    };
    let mut text = String::from_utf8_lossy(&[err, out].concat()).into_owned();
    if let Err(error) = &end {
        text.push_str(&error.to_string());
    }
    ActEnd { done: matches!(end, Ok(Exit::Fine)), text, chosen }
}
