//! Outcomes out.

use std::io::{self, Write};

use captcha_worker::cli::console::{Console, Format};
use captcha_worker::cli::{CommandError, Exit};
use captcha_worker::domain::message::Message;
use tokio::sync::mpsc;

use crate::publish_outcomes::bench::{Bench, results};

#[tokio::test]
async fn a_look_prints_up_to_its_limit_and_puts_all_back_in_order() {
    let bench = Bench::new().await;
    bench.fill("captcha.results", results(30)).await;
    let output = bench.run("outcomes --limit 12").await;
    assert_eq!(output.ending.unwrap(), Exit::Fine);
    assert_eq!(output.out.lines().collect::<Vec<_>>(), results(12));
    assert!(output.err.contains("1,000 deliveries"), "{}", output.err);
    assert_eq!(bench.bodies("captcha.results"), results(30));
    let again = bench.run("outcomes").await;
    assert_eq!(again.out.lines().collect::<Vec<_>>(), results(30));
    assert_eq!(bench.bodies("captcha.results"), results(30));
}

#[tokio::test]
async fn a_look_may_not_hold_back_more_than_its_bound() {
    let bench = Bench::new().await;
    let error = bench.run("outcomes --limit 2001").await.ending.unwrap_err();
    assert!(matches!(error, CommandError::Usage(_)));
    assert!(error.to_string().contains("--ack"), "{error}");
}

#[tokio::test]
async fn ack_removes_exactly_what_was_printed() {
    let bench = Bench::new().await;
    bench.fill("captcha.results", results(700)).await;
    let output = bench.run("outcomes --ack --limit 400").await;
    assert_eq!(output.ending.unwrap(), Exit::Fine);
    assert_eq!(output.out.lines().collect::<Vec<_>>(), results(400));
    assert_eq!(bench.bodies("captcha.results"), results(700)[400..]);
    let rest = bench.run("outcomes --ack").await;
    assert_eq!(rest.out.lines().collect::<Vec<_>>(), results(700)[400..]);
    assert_eq!(bench.local.queue_len("captcha.results"), 0);
}

/// Takes so many lines, then breaks as a closed pipe does.
struct Head {
    lines: usize,
    taken: Vec<u8>,
}

impl Write for Head {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.taken.iter().filter(|byte| **byte == b'\n').count() == self.lines {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.taken.extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn what_a_closed_pipe_did_not_take_stays_in_the_queue() {
    let bench = Bench::new().await;
    bench.fill("captcha.results", results(10)).await;
    for (line, ending, left) in [("outcomes", Exit::Fine, 10), ("outcomes --ack", Exit::Failed, 7)] {
        let mut console = Console {
            out: Head { lines: 3, taken: Vec::new() },
            err: Vec::new(),
            out_is_terminal: false,
            err_is_terminal: false,
            format: None,
        };
        assert_eq!(bench.run_on(line, &mut console).await.unwrap(), ending);
        assert_eq!(bench.bodies("captcha.results"), results(10)[10 - left..]);
    }
}

/// Hands every finished line to the test.
struct Wire {
    lines: mpsc::UnboundedSender<String>,
    line: Vec<u8>,
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let line = String::from_utf8(std::mem::take(&mut self.line)).map_err(io::Error::other)?;
        self.lines.send(line.trim_end().to_owned()).map_err(io::Error::other)
    }
}

#[tokio::test(start_paused = true)]
async fn follow_prints_what_comes_survives_a_lost_connection_and_ends_on_the_stop() {
    let bench = Bench::new().await;
    let (sender, mut lines) = mpsc::unbounded_channel();
    let mut console = Console {
        out: Wire { lines: sender, line: Vec::new() },
        err: Vec::new(),
        out_is_terminal: false,
        err_is_terminal: false,
        format: None,
    };
    let play = async {
        bench.fill("captcha.dead.proxy", ["1".to_owned()]).await;
        assert_eq!(lines.recv().await.unwrap(), "1");
        bench.local.drop_all_sessions();
        let session = bench.local.connect().await.unwrap();
        let message = Message { body: "2".into(), ..Message::default() };
        session.publish("captcha.outcomes", "dead.proxy.ERROR_PROXY_BANNED", message).await.unwrap();
        // The first may come again: its removal was on its way when the connection was cut.
        while lines.recv().await.unwrap() != "2" {}
        bench.stop.cancel();
    };
    let (ending, ()) = tokio::join!(bench.run_on("outcomes --dead proxy --ack --follow", &mut console), play);
    assert_eq!(ending.unwrap(), Exit::Fine);
    assert_eq!(bench.local.queue_len("captcha.dead.proxy"), 0);
    let err = String::from_utf8(console.err).unwrap();
    assert!(err.contains("connecting again in 0."), "{err}");
}

#[tokio::test]
async fn a_terminal_gets_a_table_a_pipe_gets_ndjson_and_the_option_decides() {
    let bench = Bench::new().await;
    bench.fill("captcha.unrouted", results(2)).await;
    for (is_terminal, format, is_table) in [
        (true, None, true),
        (true, Some(Format::Json), false),
        (true, Some(Format::Ndjson), false),
        (false, None, false),
        (false, Some(Format::Table), true),
    ] {
        let (out, err) = (Vec::new(), Vec::new());
        let mut console = Console { out, err, out_is_terminal: is_terminal, err_is_terminal: false, format };
        let ending = bench.run_on("outcomes --unrouted", &mut console).await;
        assert_eq!(ending.unwrap(), Exit::Fine);
        let out = String::from_utf8(console.out).unwrap();
        assert_eq!(out.starts_with("ID "), is_table, "{out}");
        assert_eq!(out.lines().count(), if is_table { 3 } else { 2 });
    }
}
