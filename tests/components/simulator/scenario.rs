//! Scenario files.

use std::path::Path;

use captcha_worker::simulator::{Distribution, HttpStep, SimulatorConfig, Step, Target, TaskIds};

#[test]
fn an_empty_scenario_is_the_default() {
    assert_eq!(SimulatorConfig::from_toml("").expect("a scenario"), SimulatorConfig::default());
}

#[test]
fn every_setting_can_be_written_in_toml() {
    let text = r#"
        seed = 3
        keys = ["one", "two"]
        balance = 5
        task_ids = "uuid"
        first_task_id = 10
        spacing_ms = 1000
        max_polls = 7
        retention_ms = 60000
        latency_ms = { fixed = 4 }
        script_in_task = false
        max_tasks = 9
        max_digests = 8
        ban = { offences = 2, window_ms = 10, length_ms = 20, wrong_id_share = 0.3 }
        [types.FunCaptchaTask]
        cost = 0.5
        slots = 3
        solve_ms = { lognormal = { median = 10, p99 = 30 } }
        [[rule]]
        when = { type = "FunCaptchaTask", share = 0.05 }
        create = ["accepted_then_cut", "ERROR_NO_SLOT_AVAILABLE", "ok"]
        result = ["processing", { http = 503, body = "x", retry_after = 3 }]
        solve_ms = 1500
        submissions = 1
        [[outage]]
        of = "create_task"
        answer = { http = 502 }
        after_ms = 10
        for_ms = 20
    "#;
    let scenario = SimulatorConfig::from_toml(text).expect("a scenario");
    assert_eq!((scenario.task_ids, scenario.balance, scenario.ban.offences), (TaskIds::Uuid, 5.0, 2));
    assert_eq!(scenario.ban.wrong_id_share, 0.3);
    let outage = &scenario.outages[0];
    assert_eq!((outage.of, outage.after_ms, outage.for_ms), (Target::CreateTask, 10, 20));
    let fun = &scenario.types["FunCaptchaTask"];
    assert_eq!((fun.slots, fun.solve_ms), (Some(3), Some(Distribution::Lognormal { median: 10, p99: 30 })));
    let rule = &scenario.rules[0];
    assert_eq!((rule.when.kind.as_deref(), rule.when.share), (Some("FunCaptchaTask"), Some(0.05)));
    assert_eq!(rule.create[..2], [Step::AcceptedThenCut, Step::Code("ERROR_NO_SLOT_AVAILABLE".into())]);
    let http = HttpStep { status: 503, body: "x".into(), retry_after: Some(3), content_type: None };
    assert_eq!((&rule.result[1], rule.solve_ms), (&Step::Http(http), Some(1_500)));
    assert_eq!(rule.submissions, Some(1));
}

#[test]
fn a_key_nobody_knows_is_named() {
    let error = SimulatorConfig::from_toml("sped = 1").expect_err("unknown key").to_string();
    assert!(error.contains("sped"), "{error}");
    let error = SimulatorConfig::from_toml("[[rule]]\nwhn = {}").expect_err("unknown key").to_string();
    assert!(error.contains("whn"), "{error}");
}

#[test]
fn a_step_nobody_knows_is_named_with_those_that_exist() {
    let error =
        SimulatorConfig::from_toml("[[rule]]\ncreate = [\"explode\"]").expect_err("unknown step").to_string();
    assert!(error.contains("explode") && error.contains("accepted_then_cut"), "{error}");
}

#[test]
fn all_faulty_values_are_named_at_once() {
    let text = r#"
        keys = []
        balance = -1
        max_polls = 0
        latency_ms = { uniform = { min = 2, max = 1 } }
        types.NoSuchTask = { cost = -0.5 }
        [[rule]]
        when = { type = "Other", share = 1.5 }
        create = ["processing"]
    "#;
    let error = SimulatorConfig::from_toml(text).expect_err("faults").to_string();
    for part in
        ["keys", "balance", "max_polls", "latency_ms", "NoSuchTask", "cost", "Other", "share", "processing"]
    {
        assert!(error.contains(part), "{part} is missing in: {error}");
    }
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = SimulatorConfig::load(Path::new("no/such/scenario.toml")).expect_err("no file").to_string();
    assert!(error.contains("no/such/scenario.toml"), "{error}");
}

#[test]
fn the_scenarios_of_the_examples_can_be_used() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/scenarios");
    let mut loaded = 0;
    for entry in std::fs::read_dir(folder).expect("the folder") {
        let path = entry.expect("an entry").path();
        SimulatorConfig::load(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        loaded += 1;
    }
    assert_eq!(loaded, 3);
}

#[test]
fn the_defaults_in_the_documentation_are_the_defaults() {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/SIMULATOR.md"))
        .expect("the page");
    let mut blocks = page.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap_or_default());
    let defaults = blocks.next().expect("a first block");
    assert_eq!(SimulatorConfig::from_toml(defaults).expect("a scenario"), SimulatorConfig::default());
    let by_type = blocks.next().expect("a second block");
    let by_type = SimulatorConfig::from_toml(by_type).expect("a scenario");
    assert_eq!((by_type.rules.len(), by_type.outages.len()), (1, 1));
}
