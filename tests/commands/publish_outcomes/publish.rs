//! Jobs in.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::time::{SystemTime, UNIX_EPOCH};

use captcha_worker::broker::topology::{Names, Topology};
use captcha_worker::cli::{CommandError, Exit};
use captcha_worker::domain::message::Value;
use serde_json::json;

use crate::publish_outcomes::bench::{Bench, file, jobs, parse, report};

#[tokio::test]
async fn every_line_arrives_verbatim_and_in_order() {
    let bench = Bench::new().await;
    let lines = jobs(5_000);
    let (_folder, path) = file(&lines);
    let output = bench.run(&format!("publish {path}")).await;
    assert_eq!((&report(&output)["published"], &*output.err), (&json!(5_000), ""));
    assert_eq!(output.ending.unwrap(), Exit::Fine);
    assert_eq!(bench.bodies("captcha.jobs"), lines);
    let first = bench.local.snapshot("captcha.jobs").remove(0);
    assert_eq!(first.properties.message_id.as_deref(), Some("order-0"));
    assert_eq!(first.properties.content_type.as_deref(), Some("application/json"));
    let published_at = first.properties.published_at().expect("a timestamp");
    let age =
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64 - published_at.as_millis();
    assert!((0..60_000).contains(&age), "{age} ms");
    assert!(!first.transient);
}

#[tokio::test]
async fn nothing_of_a_file_with_a_bad_job_is_sent_and_its_line_and_field_are_named() {
    let bench = Bench::new().await;
    let image = "A".repeat(80_000);
    let big = format!(r#"{{"task":{{"type":"ImageToTextTask","body":"{image}"}}}}"#);
    for (bad, reason) in [
        ("[]", "an array is no job: write one job a line, as `jq -c '.[]'` does"),
        (r#"[{"id":"a"},{"id":"b"}]"#, "an array is no job: write one job a line, as `jq -c '.[]'` does"),
        (r#""x""#, "the body is JSON but not an object"),
        (r#"{"task":{}}"#, "field 'task.type' is missing"),
        (
            r#"{"deadline":"yesterday","task":{"type":"T"}}"#,
            "field 'deadline' must be an RFC 3339 time such as 2026-11-23T10:00:00Z",
        ),
        (&big, "task.body is an image of 60000 bytes; at most 50,000 are allowed"),
    ] {
        let mut lines = jobs(3);
        lines.insert(2, bad.to_owned());
        let (_folder, path) = file(&lines);
        let output = bench.run(&format!("publish {path}")).await;
        assert_eq!(output.err, format!("line 3: {reason}\n"));
        assert_eq!(
            report(&output),
            json!({"published": 0, "failed": 1, "unknown": 0, "interrupted": true, "faults": [
                {"first": {"line": 3}, "last": {"line": 3}, "jobs": 1, "kind": "invalid", "reason": reason}]})
        );
        assert_eq!(output.ending.unwrap(), Exit::Failed);
        assert_eq!(bench.local.queue_len("captcha.jobs"), 0);
    }
}

#[tokio::test]
async fn without_the_check_and_for_sites_the_workers_judge() {
    let bench = Bench::new().await;
    let lines = [r#"{"task":{}}"#.to_owned(), "[]".to_owned()];
    let (_folder, path) = file(&lines);
    assert_eq!(bench.run(&format!("publish --no-check {path}")).await.ending.unwrap(), Exit::Fine);
    let bound = r#"{"task":{"type":"TurnstileTask","websiteURL":"https://example.com"}}"#.to_owned();
    let (_folder, path) = file(std::slice::from_ref(&bound));
    assert_eq!(bench.run(&format!("publish {path}")).await.ending.unwrap(), Exit::Fine);
    assert_eq!(bench.bodies("captcha.jobs"), [lines.as_slice(), &[bound]].concat());
}

#[tokio::test]
async fn the_example_is_an_image_that_can_be_published_and_a_large_one_is_not() {
    let bench = Bench::new().await;
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/captcha.png");
    assert!(std::fs::read(example).unwrap().starts_with(b"\x89PNG"));
    let folder = tempfile::tempdir().unwrap();
    let large = folder.path().join("large.png");
    std::fs::write(&large, vec![7; 50_001]).unwrap();
    let output = bench.run(&format!("publish --image {example} {}", large.display())).await;
    assert_eq!(
        output.err,
        format!(
            "image '{}': task.body is an image of 50001 bytes; at most 50,000 are allowed\n",
            large.display()
        )
    );
    assert_eq!((output.ending.unwrap(), bench.local.queue_len("captcha.jobs")), (Exit::Failed, 0));
    assert_eq!(bench.run(&format!("publish --image {example}")).await.ending.unwrap(), Exit::Fine);
    assert_eq!(bench.local.queue_len("captcha.jobs"), 1);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_bad_line_stops_the_run_with_its_place_and_what_was_confirmed() {
    let bench = Bench::new().await;
    let mut lines = jobs(600);
    lines[500] = r#"{"id": order}"#.to_owned();
    let (reader, mut writer) = std::io::pipe().unwrap();
    let input = lines.join("\n");
    let writing = std::thread::spawn(move || writer.write_all(input.as_bytes()));
    // What cannot be read twice is checked job by job.
    let output = bench.run(&format!("publish /proc/self/fd/{}", reader.as_raw_fd())).await;
    writing.join().unwrap().unwrap();
    let report = report(&output);
    assert_eq!(output.ending.unwrap(), Exit::Failed);
    assert_eq!(output.err, "line 501, column 8: not JSON: expected value\n");
    assert_eq!(
        (&report["published"], &report["failed"], &report["last_sent"]),
        (&json!(500), &json!(1), &json!({"line": 500}))
    );
    assert_eq!(bench.bodies("captcha.jobs"), lines[..500]);
}

#[tokio::test]
async fn with_keep_going_the_good_lines_arrive_and_each_bad_one_is_reported() {
    let bench = Bench::new().await;
    let mut lines = jobs(10);
    lines[2] = "nope".to_owned();
    lines[7] = "x".repeat((1 << 20) + 1);
    let (_folder, path) = file(&lines);
    let output = bench.run(&format!("publish --keep-going {path}")).await;
    assert_eq!(
        output.err,
        "line 3, column 2: not JSON: expected ident\nline 8: longer than a job may be (1048576 bytes)\n"
    );
    assert_eq!((&report(&output)["published"], &report(&output)["interrupted"]), (&json!(8), &json!(false)));
    assert_eq!(output.ending.unwrap(), Exit::Failed);
    lines.remove(7);
    lines.remove(2);
    assert_eq!(bench.bodies("captcha.jobs"), lines);
}

#[tokio::test]
async fn images_are_published_as_jobs() {
    let bench = Bench::new().await;
    let folder = tempfile::tempdir().unwrap();
    let paths = ["a.png", "b.png"].map(|name| folder.path().join(name));
    for path in &paths {
        std::fs::write(path, [7; 200]).unwrap();
    }
    let [a, b] = paths.map(|path| path.to_str().unwrap().to_owned());
    let output = bench.run(&format!("publish --image {a} {b} --deadline 5m")).await;
    assert_eq!(output.ending.unwrap(), Exit::Fine);
    let ids: Vec<_> = bench
        .local
        .snapshot("captcha.jobs")
        .into_iter()
        .map(|message| message.properties.message_id.unwrap())
        .collect();
    assert_eq!(ids, ["a.png", "b.png"]);
}

#[tokio::test]
async fn images_of_one_name_need_numbers() {
    let bench = Bench::new().await;
    let error = bench.run("publish --image a/1.png b/1.png").await.ending.unwrap_err();
    assert!(matches!(error, CommandError::Usage(_)));
    assert!(error.to_string().contains("b/1.png") && error.to_string().contains("--id-prefix"), "{error}");
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [a, b] = folders.each_ref().map(|folder| folder.path().join("1.png"));
    std::fs::write(&a, [7; 200]).unwrap();
    std::fs::write(&b, [7; 200]).unwrap();
    let line = format!("publish --id-prefix shot- --image {} {}", a.display(), b.display());
    assert_eq!(bench.run(&line).await.ending.unwrap(), Exit::Fine);
    assert_eq!(bench.local.queue_len("captcha.jobs"), 2);
}

#[tokio::test]
async fn a_lane_and_a_priority_are_published_with() {
    let names = Names::new("captcha");
    let lane = "urgent".parse().unwrap();
    let bench = Bench::with(Topology::with_lanes(&names, [&lane]), names).await;
    let (_folder, path) = file(&jobs(2));
    let output = bench.run(&format!("publish --lane urgent --priority 9 {path}")).await;
    assert_eq!(output.ending.unwrap(), Exit::Fine);
    assert!(output.err.contains("--priority has no effect"), "{}", output.err);
    let sent = bench.local.snapshot("captcha.jobs.urgent");
    assert_eq!(sent.iter().map(|job| job.properties.priority).collect::<Vec<_>>(), [Some(9), Some(9)]);
    assert_eq!(bench.local.queue_len("captcha.jobs"), 0);
    assert!(parse("publish --lane No x").is_err() && parse("publish --priority 32 x").is_err());
}

#[tokio::test]
async fn a_full_queue_stops_the_run_and_the_refused_lines_are_reported() {
    let names = Names::new("captcha");
    let mut topology = Topology::new(&names);
    for queue in &mut topology.queues {
        if queue.name == names.jobs() {
            queue.arguments.insert("x-max-length".to_owned(), Value::Int(10));
        }
    }
    let bench = Bench::with(topology, names).await;
    let (_folder, path) = file(&jobs(2_000));
    let output = bench.run(&format!("publish --window 4 {path}")).await;
    let report = report(&output);
    assert_eq!(output.ending.unwrap(), Exit::Failed);
    assert!(output.err.contains("not published: the broker refused"), "{}", output.err);
    let published = report["published"].as_u64().unwrap();
    assert_eq!(published, bench.local.queue_len("captcha.jobs") as u64);
    assert!(report["last_sent"]["line"].as_u64().unwrap() <= published + 4, "{report}");
    assert_eq!(report["interrupted"], true);
}

#[tokio::test]
async fn lines_whose_confirm_was_lost_are_reported_as_unknown() {
    let bench = Bench::new().await;
    bench.local.fail_next_confirms(2);
    let (_folder, path) = file(&jobs(3));
    let line = format!("publish {path}");
    let cut = async {
        bench.jobs_arrive(3).await;
        bench.local.drop_all_sessions();
    };
    let (output, ()) = tokio::join!(bench.run(&line), cut);
    assert!(output.err.starts_with("lines 1 to 2: may or may not have been published: "), "{}", output.err);
    assert_eq!((&report(&output)["published"], &report(&output)["unknown"]), (&json!(1), &json!(2)));
    assert_eq!(output.ending.unwrap(), Exit::Failed);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_stop_while_the_input_is_silent_reports_what_is_published() {
    let bench = Bench::new().await;
    let (reader, mut writer) = std::io::pipe().unwrap();
    for line in jobs(3) {
        writeln!(writer, "{line}").unwrap();
    }
    let line = format!("publish /proc/self/fd/{}", reader.as_raw_fd());
    let interrupt = async {
        bench.jobs_arrive(3).await;
        bench.stop.cancel();
    };
    let (output, ()) = tokio::join!(bench.run(&line), interrupt);
    assert_eq!(
        report(&output),
        json!({"published": 3, "failed": 0, "unknown": 0, "interrupted": true, "last_sent": {"line": 3}})
    );
    assert_eq!(output.ending.unwrap(), Exit::Failed);
}
