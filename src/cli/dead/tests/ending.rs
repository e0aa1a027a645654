use serde_json::json;

use super::*;

/// Breaks at once, as a pipe does that nobody reads any more.
struct Closed;

impl Write for Closed {
    fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
        Err(std::io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Bench {
    /// How a command ends that nobody reads.
    async fn run_unread(&self, line: &str) -> Result<Exit, CommandError> {
        let broker = Broker::Memory(self.local.clone());
        let mut console = Console {
            out: Closed,
            err: Vec::new(),
            out_is_terminal: false,
            err_is_terminal: false,
            format: None,
        };
        match parse(line).unwrap() {
            DeadCommand::Replay(args) => {
                let mut context = CommandContext::new(&broker, &self.names, &mut console, &self.stop);
                super::super::replay::replay(&args, &ReplayPermission::not_needed(), &mut context).await
            }
            command => run(DeadArgs { command }, &broker, &self.names, &mut console, &self.stop).await,
        }
    }
}

#[tokio::test]
async fn letters_go_back_in_order_where_the_output_is_closed_and_only_a_show_is_well_then() {
    let bench = Bench::new().await;
    for n in 0..5 {
        bench.dead("lost", &format!("l{n}"), "A").await;
    }
    for line in
        ["export --class lost", "show l3", "list", "replay --class lost --dry-run", "purge --all --dry-run"]
    {
        let ending = bench.run_unread(line).await;
        let exit = ending.unwrap_or_else(|error| error.report());
        assert_eq!(exit, if line.starts_with("show") { Exit::Fine } else { Exit::Failed }, "{line}");
        assert_eq!(bench.ids("c.dead.lost"), numbered("l", 0..5));
    }
}

#[tokio::test]
async fn a_failure_is_reported_though_nobody_reads_the_report() {
    for line in ["replay --all", "purge --all --yes", "list", "export", "show a"] {
        let bench = Bench::without_raw().await;
        let ending = bench.run_unread(line).await;
        assert!(matches!(ending, Err(CommandError::NotDeclared { .. })), "{line}: {ending:?}");
    }
}

#[tokio::test]
async fn what_was_done_before_a_failure_is_reported() {
    for (line, name) in [("replay --all", "replayed"), ("purge --all --yes", "removed"), ("list", "letters")]
    {
        let bench = Bench::without_raw().await;
        bench.dead("lost", "a", "A").await;
        let result = bench.run(line).await;
        assert_eq!(result.json()[name], json!(1), "{line}: {}", result.out);
        assert!(
            matches!(result.ending, Err(CommandError::NotDeclared { .. })),
            "{line}: {:?}",
            result.ending
        );
    }
}

#[tokio::test]
async fn a_queue_that_cannot_be_reached_leaves_no_file() {
    let bench = Bench::without_raw().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("letters.ndjson");
    for command in ["export --class raw", "purge --class raw --yes --to"] {
        let result = bench.run(&format!("{command} {}", path.display())).await;
        assert!(result.ending.is_err() && !path.exists(), "{command}");
    }
}
