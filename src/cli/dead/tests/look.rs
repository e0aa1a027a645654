use serde_json::{Value as Json, json};

use super::*;

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
    let result = bench.run_on("list --class unsolved --code a", true).await;
    assert!(
        result.out.contains("100 letters, of 300 scanned") && !result.out.contains('B'),
        "{}",
        result.out
    );
}

#[tokio::test]
async fn a_letter_is_shown_without_its_secrets_and_one_that_is_not_there_is_reported() {
    let bench = Bench::new().await;
    bench.dead("proxy", "order-17", "ERROR_PROXY_BANNED").await;
    for terminal in [true, false] {
        let result = bench.run_on("show order-17", terminal).await;
        assert_eq!(result.ending.unwrap(), Exit::Fine);
        for part in ["order-17", "ERROR_PROXY_BANNED", "***", "2026-11-23T10:00:01", "c.dead.proxy"] {
            assert!(result.out.contains(part), "{part}: {}", result.out);
        }
        assert!(!result.out.contains("s3cret"), "{}", result.out);
    }
    let result = bench.run("show order-18").await;
    assert_eq!((result.ending.unwrap(), &*result.out), (Exit::Failed, ""));
    assert!(result.err.contains("0 letters of 'order-18' found; 0 letters not scanned"), "{}", result.err);
}

#[tokio::test]
async fn an_export_copies_whole_letters_and_masks_them_unless_asked_not_to() {
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

#[tokio::test]
async fn a_job_that_no_json_value_holds_is_shown_as_it_is() {
    let bench = Bench::new().await;
    let deep = format!("{}1{}", "[".repeat(200), "]".repeat(200));
    let jobs = [("1e999", "1e999"), (r#""\ud800""#, r"\ud800"), (&*deep, "[[[[")];
    for (n, (metadata, shown)) in jobs.into_iter().enumerate() {
        let job = format!(
            r#"{{"id":"odd-{n}","metadata":{metadata},"task":{{"type":"T","proxyPassword":"s3cret"}}}}"#
        );
        bench.raw(&format!("odd-{n}"), "delivery_limit", &job).await;
        for terminal in [true, false] {
            let result = bench.run_on(&format!("show odd-{n}"), terminal).await;
            assert!(result.out.contains(shown) && result.out.contains("***"), "{metadata}: {}", result.out);
            assert!(!result.out.contains("s3cret"), "{}", result.out);
            assert_eq!(result.ending.unwrap(), Exit::Fine);
        }
    }
}

#[tokio::test]
async fn nothing_that_a_publisher_wrote_steers_the_terminal() {
    let bench = Bench::new().await;
    let odd = "x\u{9b}2J\u{202e}\u{2028}\u{7f}";
    bench.raw("a", "delivery_limit", &json!({"id": "a", "task": {"type": odd}, odd: odd}).to_string()).await;
    for (line, json) in [
        ("export", false),
        ("show a", true),
        ("list", true),
        ("replay --dry-run", true),
        ("show a", false),
        ("list", false),
    ] {
        let result = bench.run_as(line, true, json).await;
        assert!(result.out.contains('x'), "{line}: {}", result.out);
        assert!(
            !result.out.chars().any(|c| odd.contains(c) && !c.is_ascii() || c == '\u{7f}'),
            "{line}: {}",
            result.out
        );
        if json {
            let report: Json = serde_json::from_str(&result.out).unwrap();
            assert!(report.to_string().contains(odd), "{line}: {report}");
        }
    }
    assert!(bench.run("export").await.out.contains('\u{9b}'), "a file has the bytes as they were");
}

#[tokio::test(start_paused = true)]
async fn a_scan_whose_letters_somebody_else_has_taken_says_so() {
    let bench = Bench::new().await;
    for n in 0..3 {
        bench.dead("lost", &format!("l{n}"), "A").await;
    }
    let broker = Broker::Memory(bench.local.clone());
    let queue = crate::cli::outcomes::DeadLetters::all().find(|queue| queue.name() == "lost").unwrap();
    let mut scan = scan::Scan::begin(&broker, &bench.names, queue, 10).await.unwrap();
    let taken = bench.session.link().get("c.dead.lost").await.unwrap().unwrap();
    for _ in 0..2 {
        let delivery = scan.next(&bench.stop).await.unwrap().expect("one of those that are left");
        scan.keep(delivery.receipt);
    }
    assert!(scan.next(&bench.stop).await.unwrap().is_none());
    let mut scan_report = scan::ScanReport::default();
    scan_report.left(scan.end().await);
    assert!(!scan_report.is_whole());
    let report = scan_report.add_to(json!({}));
    assert_eq!((&report["ended_early"], &report["not_scanned"]), (&json!(true), &json!(1)));
    drop(taken);
}
