//! `publish` and `outcomes` against the broker in process.

mod bench;
mod outcomes;
mod publish;

use std::path::PathBuf;

use bench::{Bench, Command, file, jobs, parse};
use captcha_worker::broker::topology::{Names, Topology};
use captcha_worker::domain::class::Class;

#[tokio::test]
async fn without_a_topology_both_commands_say_how_to_make_one() {
    let nothing = Topology { exchanges: Vec::new(), queues: Vec::new(), bindings: Vec::new() };
    let bench = Bench::with(nothing, Names::new("lane2")).await;
    let (_folder, path) = file(&jobs(1));
    for (line, queue) in
        [(format!("publish {path}"), "lane2.jobs"), ("outcomes --dead proxy".to_owned(), "lane2.dead.proxy")]
    {
        let error = bench.run(&line).await.ending.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("queue '{queue}' does not exist: run `captcha-worker topology declare` first")
        );
    }
}

#[test]
fn arguments_that_do_not_go_together_are_refused() {
    for line in [
        "publish",
        "publish jobs.ndjson --image a.png",
        "publish jobs.ndjson --deadline 5m",
        "publish jobs.ndjson --window 0",
        "publish jobs.ndjson --window 65536",
        "outcomes --follow",
        "outcomes --dead pending",
        "outcomes --dead raw --unrouted",
        "outcomes --limit 0",
    ] {
        assert!(parse(line).is_err(), "{line}");
    }
    for class in Class::finals() {
        let Ok(Command::Outcomes(args)) = parse(&format!("outcomes --dead {class}")) else {
            panic!("{class} has a queue");
        };
        assert_eq!(args.queue(&Names::new("c")), format!("c.dead.{class}"));
    }
    let Ok(Command::Publish(args)) = parse("publish -") else {
        panic!("'-' is standard input");
    };
    assert_eq!(args.file, Some(PathBuf::from("-")));
}
