use clap::Parser;
use serde_json::{Value as Json, json};

use super::leave::Leave;
use super::*;
use crate::broker::Session;
use crate::broker::local::LocalBroker;
use crate::broker::topology::Topology;
use crate::domain::envelope::{Message, Properties};
use crate::domain::outcome::KIND;
use crate::domain::replay::Replayed;

#[derive(Parser)]
struct Line {
    #[command(subcommand)]
    command: Command,
}

fn parse(line: &str) -> Result<Command, clap::Error> {
    Line::try_parse_from(std::iter::once("dead").chain(line.split_whitespace())).map(|line| line.command)
}

struct Bench {
    local: LocalBroker,
    session: Session,
    names: Names,
    stop: CancellationToken,
}

struct Told {
    ending: Result<Exit, CommandError>,
    out: String,
    err: String,
}

impl Told {
    fn json(&self) -> Json {
        serde_json::from_str(&self.out)
            .unwrap_or_else(|_| panic!("{}{}{:?}", self.out, self.err, self.ending))
    }
}

impl Bench {
    async fn new() -> Self {
        let (local, names) = (LocalBroker::new(), Names::new("c"));
        let session = local.connect().await.unwrap();
        session.link().declare(&Topology::new(&names)).await.unwrap();
        Self { local, session, names, stop: CancellationToken::new() }
    }

    /// A failed job's outcome, `id` and `code`, in its class's queue.
    async fn dead(&self, class: &str, id: &str, code: &str) {
        self.dead_with(
            class,
            id,
            code,
            json!({"id": id, "task": {"type": "T", "proxyPassword": "s3cret"}}),
            0,
        )
        .await;
    }

    async fn dead_with(&self, class: &str, id: &str, code: &str, job: Json, replays: u32) {
        let body = json!({
            "version": 1, "id": id, "status": "failed", "task_type": "T", "job": job, "attempts": [], "worker": "w",
            "failure": {"class": class, "code": code, "description": "why", "stage": "poll"},
            "times": {"received_at": "2026-11-23T10:00:00Z", "finished_at": "2026-11-23T10:00:01Z"},
        });
        let mut properties = Properties {
            message_id: Some(id.to_owned()),
            kind: Some(KIND.to_owned()),
            ..Properties::default()
        };
        if replays > 0 {
            Replayed { id: "before".to_owned(), count: replays }.write(&mut properties.headers);
        }
        let message = Message { body: body.to_string().into(), properties, transient: false };
        self.session.publish("", &format!("c.dead.{class}"), message).await.unwrap();
    }

    async fn run(&self, line: &str) -> Told {
        self.run_on(line, false).await
    }

    async fn run_on(&self, line: &str, terminal: bool) -> Told {
        let mut console = Console {
            out: Vec::new(),
            err: Vec::new(),
            out_is_terminal: terminal,
            err_is_terminal: false,
            json: false,
        };
        let (broker, command) = (Broker::Local(self.local.clone()), parse(line).unwrap());
        let mut stage =
            Stage { broker: &broker, names: &self.names, console: &mut console, stop: &self.stop };
        let ending = match command {
            // The fleet's leave is tried on a real one.
            Command::Replay(args) => replay::replay(&args, &Leave::not_needed(), &mut stage).await,
            command => run(DeadArgs { command }, &broker, &self.names, &mut console, &self.stop).await,
        };
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Told { ending, out: text(console.out), err: text(console.err) }
    }

    fn ids(&self, queue: &str) -> Vec<String> {
        let messages = self.local.snapshot(queue).into_iter();
        messages.map(|message| message.properties.message_id.unwrap_or_default()).collect()
    }
}

fn numbered(prefix: &str, numbers: impl Iterator<Item = usize>) -> Vec<String> {
    numbers.map(|n| format!("{prefix}{n}")).collect()
}

#[tokio::test]
async fn a_list_counts_by_class_code_and_type_says_what_it_has_not_seen_and_puts_all_back_in_order() {
    let bench = Bench::new().await;
    for n in 0..300 {
        bench.dead("unsolved", &format!("u{n}"), if n % 3 == 0 { "A" } else { "B" }).await;
    }
    bench.dead("proxy", "p", "C").await;
    bench.session.publish("", "c.dead.proxy", Message::default()).await.unwrap();
    let report = bench.run("list --scan 290").await.json();
    assert_eq!(
        (&report["classes"], &report["unreadable"]),
        (&json!({"unsolved": 290, "proxy": 1}), &json!(1))
    );
    assert_eq!((&report["not_scanned"], &report["scanned"]), (&json!(10), &json!(292)));
    let kinds: Vec<_> =
        report["kinds"].as_array().unwrap().iter().map(|kind| (&kind["code"], &kind["count"])).collect();
    assert_eq!(kinds, [(&json!("C"), &json!(1)), (&json!("A"), &json!(97)), (&json!("B"), &json!(193))]);
    assert_eq!(bench.ids("c.dead.unsolved"), numbered("u", 0..300));
    let told = bench.run_on("list --class unsolved --code a", true).await;
    assert!(told.out.contains("100 letters, of 300 scanned") && !told.out.contains('B'), "{}", told.out);
}

#[tokio::test]
async fn a_replay_publishes_what_is_chosen_and_leaves_the_rest_in_order() {
    let bench = Bench::new().await;
    for n in 0..400 {
        bench.dead("capacity", &format!("c{n}"), if n % 2 == 0 { "EVEN" } else { "ODD" }).await;
    }
    let dry = bench.run("replay --class capacity --code odd --dry-run").await.json();
    assert_eq!((&dry["chosen"], &dry["replayed"], &dry["left_out"]), (&json!(200), &json!(0), &json!(200)));
    assert_eq!((bench.ids("c.jobs"), bench.ids("c.dead.capacity")), (vec![], numbered("c", 0..400)));

    let done = bench.run("replay --class capacity --code odd --limit 150").await.json();
    assert_eq!(done["replayed"], 150);
    assert_eq!(bench.ids("c.jobs"), numbered("c", (1..300).step_by(2)));
    let rest: Vec<String> = numbered("c", (0..400).filter(|n| n % 2 == 0 || *n >= 300));
    assert_eq!(bench.ids("c.dead.capacity"), rest);
    let done = bench.run("replay --class capacity --code odd").await;
    assert_eq!((done.json()["replayed"].clone(), done.ending.unwrap()), (json!(50), Exit::Fine));
    assert_eq!(bench.ids("c.dead.capacity"), numbered("c", (0..400).step_by(2)));
    let jobs = bench.local.snapshot("c.jobs");
    let marks: std::collections::BTreeSet<String> =
        jobs.iter().map(|job| Replayed::of(&job.properties.headers).unwrap()).map(|mark| mark.id).collect();
    assert_eq!(marks.len(), 200, "each has an id of its own");
    assert_eq!(
        jobs[0].body,
        json!({"id": "c1", "task": {"type": "T", "proxyPassword": "s3cret"}}).to_string()
    );
}

#[tokio::test]
async fn what_had_better_stay_is_counted_by_reason() {
    let bench = Bench::new().await;
    let job = json!({"task": {"type": "T"}});
    let late = json!({"task": {"type": "T"}, "deadline": "2020-01-01T00:00:00Z"});
    bench.dead_with("lost", "often", "A", job.clone(), 3).await;
    bench.dead_with("lost", "twice", "A", job, 2).await;
    bench.dead_with("lost", "late", "A", late, 0).await;
    let told = bench.run("replay --class lost").await.json();
    assert_eq!(
        (&told["replayed"], &told["stay"]["max_replays"], &told["stay"]["deadline_passed"]),
        (&json!(1), &json!(1), &json!(1))
    );
    assert_eq!(
        (bench.ids("c.jobs"), bench.ids("c.dead.lost")),
        (vec!["twice".to_owned()], vec!["often".to_owned(), "late".to_owned()])
    );
    assert_eq!(Replayed::of(&bench.local.snapshot("c.jobs")[0].properties.headers).unwrap().count, 3);
}

#[tokio::test]
async fn a_job_that_no_queue_takes_keeps_its_letter() {
    let bench = Bench::new().await;
    bench.dead("lost", "a", "A").await;
    let names = Names::new("c");
    let mut unbound = Topology::new(&names);
    unbound.bindings.retain(|binding| binding.queue != names.jobs());
    let other = LocalBroker::new();
    let session = other.connect().await.unwrap();
    session.link().declare(&unbound).await.unwrap();
    let bench = Bench { local: other, session, ..bench };
    bench.dead("lost", "a", "A").await;
    let told = bench.run("replay --class lost").await;
    assert!(matches!(told.ending, Err(CommandError::Failed(_))), "{:?}", told.ending);
    assert_eq!(bench.ids("c.dead.lost"), ["a"]);
}

#[tokio::test]
async fn a_letter_is_shown_without_its_secrets_and_one_that_is_not_there_is_told() {
    let bench = Bench::new().await;
    bench.dead("proxy", "order-17", "ERROR_PROXY_BANNED").await;
    for terminal in [true, false] {
        let told = bench.run_on("show order-17", terminal).await;
        assert_eq!(told.ending.unwrap(), Exit::Fine);
        for part in ["order-17", "ERROR_PROXY_BANNED", "***", "2026-11-23T10:00:01", "c.dead.proxy"] {
            assert!(told.out.contains(part), "{part}: {}", told.out);
        }
        assert!(!told.out.contains("s3cret"), "{}", told.out);
    }
    let told = bench.run("show order-18").await;
    assert_eq!((told.ending.unwrap(), &*told.out), (Exit::Failed, ""));
    assert!(told.err.contains("0 letters of 'order-18' found; 0 letters were not scanned"), "{}", told.err);
}

#[tokio::test]
async fn an_export_copies_whole_letters_and_masks_them_unless_told() {
    let bench = Bench::new().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("letters.ndjson");
    bench.dead("proxy", "a", "A").await;
    bench.dead("lost", "b", "B").await;
    let masked = bench.run("export").await;
    let lines: Vec<Json> = masked.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((lines.len(), &lines[0]["queue"]), (2, &json!("c.dead.lost")));
    assert!(!masked.out.contains("s3cret") && masked.out.contains("***"));
    let command = format!("export --code a --show-secrets {}", path.display());
    assert_eq!(bench.run(&command).await.ending.unwrap(), Exit::Fine);
    let written: Json = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(written["letter"]["job"]["task"]["proxyPassword"], "s3cret");
    assert!(bench.run(&command).await.ending.is_err(), "no file is written over");
    assert_eq!(
        (bench.ids("c.dead.proxy"), bench.ids("c.dead.lost")),
        (vec!["a".to_owned()], vec!["b".to_owned()])
    );
}

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

#[tokio::test]
async fn letters_go_back_in_order_where_the_output_is_closed() {
    let bench = Bench::new().await;
    for n in 0..5 {
        bench.dead("lost", &format!("l{n}"), "A").await;
    }
    let broker = Broker::Local(bench.local.clone());
    for line in ["export --class lost", "show l3"] {
        let mut console = Console {
            out: Closed,
            err: Vec::new(),
            out_is_terminal: false,
            err_is_terminal: false,
            json: false,
        };
        let args = DeadArgs { command: parse(line).unwrap() };
        assert!(run(args, &broker, &bench.names, &mut console, &bench.stop).await.is_err(), "{line}");
        assert_eq!(bench.ids("c.dead.lost"), numbered("l", 0..5));
    }
}

#[tokio::test]
async fn a_purge_removes_what_is_chosen_after_it_was_written_down() {
    let bench = Bench::new().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("purged.ndjson");
    for n in 0..300 {
        bench.dead("invalid", &format!("i{n}"), if n < 200 { "A" } else { "B" }).await;
    }
    assert!(matches!(bench.run("purge --yes").await.ending, Err(CommandError::Usage(_))), "no filter");
    assert!(matches!(bench.run("purge --code a").await.ending, Err(CommandError::Usage(_))), "nobody to ask");
    let dry = bench.run("purge --code a --dry-run").await.json();
    assert_eq!((&dry["chosen"], &dry["removed"]), (&json!(200), &json!(0)));
    assert_eq!(bench.ids("c.dead.invalid").len(), 300);
    let told = bench.run(&format!("purge --code a --yes --to {}", path.display())).await.json();
    assert_eq!(told["removed"], 200);
    assert_eq!(bench.ids("c.dead.invalid"), numbered("i", 200..300));
    assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 200);
}

#[tokio::test]
async fn a_replay_that_is_stopped_leaves_everything() {
    let bench = Bench::new().await;
    bench.dead("lost", "a", "A").await;
    bench.stop.cancel();
    let told = bench.run("replay --class lost").await;
    assert_eq!(told.ending.unwrap(), Exit::Failed);
    assert_eq!((bench.ids("c.jobs"), bench.ids("c.dead.lost")), (vec![], vec!["a".to_owned()]));
}

#[test]
fn arguments_that_make_no_sense_are_refused() {
    for line in [
        "replay --class pending",
        "replay --rate fast",
        "replay --limit 0",
        "replay --max-replays 0",
        "replay --since yesterday",
        "list --scan 65536",
        "list --scan 0",
        "show",
    ] {
        assert!(parse(line).is_err(), "{line}");
    }
    assert!(parse("replay --class raw,lost --class proxy --code A,B --type T --since 2h --until 2026-11-23T10:00:00Z --rate 10/m").is_ok());
}
