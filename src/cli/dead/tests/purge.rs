use serde_json::json;

use super::*;

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
    let report = bench.run(&format!("purge --code a --yes --to {}", path.display())).await.json();
    assert_eq!(report["removed"], 200);
    assert_eq!(bench.ids("c.dead.invalid"), numbered("i", 200..300));
    assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 200);
}

#[tokio::test]
async fn a_purge_asks_with_count_and_selection_and_removes_no_more_than_it_asked_for() {
    let bench = std::sync::Arc::new(Bench::new().await);
    for (id, code) in [("i0", "A"), ("i1", "B"), ("i2", "A")] {
        bench.dead("invalid", id, code).await;
    }
    let ask = async |line: &str, typed: Box<dyn FnOnce() -> std::io::Result<String> + Send>| {
        let DeadCommand::Purge(args) = parse(line).unwrap() else { panic!("{line}") };
        let mut console = Console {
            out: Vec::new(),
            err: Vec::new(),
            out_is_terminal: true,
            err_is_terminal: true,
            format: None,
        };
        let broker = Broker::Memory(bench.local.clone());
        let mut context = CommandContext::new(&broker, &bench.names, &mut console, &bench.stop);
        let exit = super::super::purge::count_and_remove(&args, typed, &mut context).await.unwrap();
        (exit, [console.out, console.err].map(|bytes| String::from_utf8(bytes).unwrap()))
    };
    let no = || Ok("y\n".to_owned());
    let (exit, [out, err]) = ask("purge --code a", Box::new(no)).await;
    assert_eq!((exit, &*out, bench.ids("c.dead.invalid").len()), (Exit::Failed, "", 3));
    assert!(
        err.contains("remove 2 letters for good?") && err.contains("invalid  A") && !err.contains('B'),
        "{err}"
    );
    let (handle, later) = (tokio::runtime::Handle::current(), bench.clone());
    let yes = move || {
        handle.block_on(later.dead("invalid", "i3", "B"));
        Ok("yes\n".to_owned())
    };
    let (exit, [out, err]) = ask("purge --code b", Box::new(yes)).await;
    assert!(err.contains("remove 1 letter for good?") && out.ends_with("1 letter removed\n"), "{err}{out}");
    assert_eq!(
        (exit, bench.ids("c.dead.invalid")),
        (Exit::Fine, vec!["i0".into(), "i2".into(), "i3".into()])
    );
    let nobody = || panic!("there is nothing to ask about");
    let (exit, [out, _]) = ask("purge --code c", Box::new(nobody)).await;
    assert_eq!((exit, &*out), (Exit::Fine, "0 letters would be removed\n"));
}
