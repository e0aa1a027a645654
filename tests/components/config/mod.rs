//! Settings through the front door: layers, origins and faults.

mod deploy;
mod secrets;
mod support;
mod tls;

use std::num::NonZeroU32;
use std::time::Duration;

use captcha_worker::config::{DEFAULTS, Override, Settings};
use captcha_worker::domain::class::Class;
use captcha_worker::domain::lane::LaneRules;
use captcha_worker::domain::poll_schedule::{PollMode, PollSchedule};

use support::{Place, shown};

#[test]
fn each_layer_wins_over_those_before_it_and_is_named_as_the_origin() {
    let place = Place::new(&[
        ("config/b.toml", "[worker]\nmax_in_flight = 2\nsubmit_concurrency = 2\ndrain_timeout = '2s'"),
        ("config/a.toml", "[worker]\nmax_in_flight = 1\nname = 'a'"),
        ("one.toml", "[worker]\nsubmit_concurrency = 3\ndrain_timeout = '3s'"),
        ("two.toml", "[worker]\ndrain_timeout = '4s'\n[retry]\nmax_resubmissions = 0"),
    ])
    .config("one.toml")
    .config("two.toml")
    .env("RETRY__MAX_RESUBMISSIONS", "5");
    let loaded = place.good();
    assert_eq!(shown(&loaded, "worker.name"), ("a", "config/a.toml"));
    assert_eq!(shown(&loaded, "worker.max_in_flight"), ("2", "config/b.toml"));
    assert_eq!(shown(&loaded, "worker.submit_concurrency"), ("3", "one.toml"));
    assert_eq!(shown(&loaded, "worker.drain_timeout"), ("4s", "two.toml"));
    let env = "environment CAPTCHA_WORKER__RETRY__MAX_RESUBMISSIONS";
    assert_eq!(shown(&loaded, "retry.max_resubmissions"), ("5", env));
    assert_eq!(shown(&loaded, "broker.namespace"), ("captcha", "default"));
    assert_eq!(loaded.settings.worker.drain_timeout, Duration::from_secs(4));
    assert_eq!(loaded.settings.retry.max_resubmissions, 5);
}

#[test]
fn the_command_line_has_the_last_word() {
    let mut place = Place::new(&[]).env("LOG__LEVEL", "warn");
    place.options.overrides.push(Override { key: "log.level", value: "debug".to_owned(), origin: "--log" });
    assert_eq!(shown(&place.good(), "log.level"), ("debug", "--log"));
}

#[test]
fn a_copy_of_the_defaults_in_the_working_directory_undoes_nothing() {
    let place = Place::new(&[
        ("config/default.toml", DEFAULTS),
        ("config/broker.toml", "[broker]\nnamespace = 'other'"),
    ]);
    let loaded = place.good();
    assert_eq!(shown(&loaded, "broker.namespace"), ("other", "config/broker.toml"));
    assert_eq!(shown(&loaded, "broker.url").1, "default");
}

#[test]
fn an_edited_copy_of_the_defaults_shows_what_was_edited() {
    let edited = DEFAULTS.replace("max_in_flight = 2000", "max_in_flight = 7");
    let loaded = Place::new(&[("config/default.toml", &edited)]).good();
    assert_eq!(shown(&loaded, "worker.max_in_flight"), ("7", "config/default.toml"));
    assert_eq!(shown(&loaded, "worker.submit_concurrency"), ("16", "default"));
}

#[test]
fn every_fault_is_reported_at_once_with_key_origin_and_what_is_allowed() {
    let place = Place::new(&[
        (
            "config/local.toml",
            "[broker]\nnamespace = 'Not This'\nheartbeat = '5500ms'\nurll = 1\n[worker]\nmax_in_flight = 60001\n\
             [brokr]\n[log]\nlevel = 3\n[polling.TurnstileTask]\ninterval = '1s'\nspeed = 2\n\
             [codes]\nERROR_X = 'poison'\n[policy]\nallowed_domains = ['*', 'https://a.test']",
        ),
        ("broken.toml", "[worker]\nname = \"oops"),
    ])
    .config("broken.toml")
    .config("absent.toml")
    .env("SOLVER__REQUEST_TIMEOUT", "3 parsecs")
    .env("SOLVER__MAX_CONNECTIONS", "many")
    .env("SOLVER__ALLOW_PLAIN_HTTP", "perhaps")
    .env("SOLVER__API_KEYS", "x")
    .env("WORKERS", "x");
    let faults = place.faults();
    let expected = [
        "broker.urll (config/local.toml): no such setting; allowed: broker.",
        "brokr (config/local.toml): no such setting; allowed: the sections [broker]",
        "polling.TurnstileTask.speed (config/local.toml): no such setting",
        "broken.toml: TOML parse error at line 2",
        "absent.toml: no such file",
        "environment CAPTCHA_WORKER__SOLVER__API_KEYS: the variable names no setting; allowed: solver.",
        "environment CAPTCHA_WORKER__WORKERS: the variable names no setting; allowed: the sections",
        "broker.namespace (config/local.toml): \"Not This\" is not a namespace; allowed: 1 to 64",
        "broker.heartbeat (config/local.toml): is not in whole seconds",
        "solver.request_timeout (environment CAPTCHA_WORKER__SOLVER__REQUEST_TIMEOUT): \"3 parsecs\" is not a duration",
        "solver.max_connections (environment CAPTCHA_WORKER__SOLVER__MAX_CONNECTIONS): many is not a whole number; \
         allowed: 1 to 1024",
        "solver.allow_plain_http (environment CAPTCHA_WORKER__SOLVER__ALLOW_PLAIN_HTTP): perhaps is neither",
        "worker.max_in_flight (config/local.toml): 60001 is out of range; allowed: 1 to 60000",
        "polling.TurnstileTask.interval (config/local.toml): the interval must be at least 2 s",
        "codes.ERROR_X (config/local.toml): \"poison\" is no class of an error code; allowed: pending",
        "policy.allowed_domains (config/local.toml): '*' allows too much",
        "policy.allowed_domains (config/local.toml): 'https://a.test' is not a host name",
        "log.level (config/local.toml): 3 is not a text in quotes",
    ];
    for line in expected {
        assert!(faults.iter().any(|fault| fault.starts_with(line)), "missing: {line}\nin: {faults:#?}");
    }
    assert_eq!(faults.len(), expected.len(), "{faults:#?}");
    assert!(faults.iter().all(|fault| !fault.contains('\n')));
}

#[test]
fn a_value_in_the_place_of_a_section_is_one_fault_and_not_many() {
    let place = Place::new(&[("config/x.toml", "broker = 3\npolling = 'fast'")]);
    let faults = place.faults();
    assert_eq!(faults.len(), 2, "{faults:#?}");
    assert!(faults[0].starts_with("broker (config/x.toml): is a section"));
}

#[test]
fn a_table_in_the_place_of_a_value_is_reported() {
    let place = Place::new(&[("config/x.toml", "[broker.url]\nhost = 'h'")]);
    assert!(place.faults()[0].starts_with("broker.url.host (config/x.toml): no such setting"));
}

#[test]
fn names_of_codes_and_task_types_keep_their_case_in_the_environment() {
    let settings = Place::new(&[])
        .env("CODES__ERROR_Next_Year", "invalid")
        .env("POLLING__MyNewTask__INTERVAL", "5s")
        .env("POLLING__TURNSTILETASK__TIMEOUT", "100s")
        .good()
        .settings;
    assert_eq!(settings.codes.class_of("ERROR_Next_Year", false), Class::Invalid);
    assert_eq!(settings.codes.class_of("error_next_year", false), Class::Unknown);
    assert!(settings.polling.by_type.contains_key("MyNewTask"));
    assert!(!settings.polling.by_type.contains_key("TURNSTILETASK"));
    let turnstile = settings.polling.of("TurnstileTask");
    assert_ne!(
        turnstile,
        Settings::load(&Place::new(&[]).options).unwrap().settings.polling.of("TurnstileTask")
    );
}

#[test]
fn what_a_new_task_type_leaves_out_follows_the_default_pace() {
    let place = Place::new(&[(
        "config/x.toml",
        "[polling.default]\ntimeout = '100s'\n[polling.MyNewTask]\nfirst_delay = '101s'",
    )]);
    let faults = place.faults();
    assert_eq!(faults.len(), 1, "{faults:#?}");
    assert!(
        faults[0]
            .starts_with("polling.MyNewTask.timeout (default): the time-out must be above the first delay")
    );
}

#[test]
fn a_class_follows_its_type_in_what_it_leaves_out_and_the_type_stands_for_all_other_classes() {
    let settings = Place::new(&[(
        "config/x.toml",
        "[polling.default]\ntimeout = '90s'\n[polling.CustomTask]\nfirst_delay = '7s'\ninterval = '4s'\n\
         [polling.'CustomTask/alibaba']\ninterval = '5s'\n[polling.'CustomTask/v2.1']\ntimeout = '100s'\n\
         [polling.'Other/x']\ninterval = '6s'\n[caps]\nCustomTask = 50\n'CustomTask/v2.1' = 20",
    )])
    .env("POLLING__TURNSTILETASK__Some_Class__FIRST_DELAY", "11s")
    .env("CAPS__CustomTask__alibaba", "3")
    .good()
    .settings;
    let secs = Duration::from_secs;
    let pace =
        |first, interval, timeout| PollSchedule::try_new(secs(first), secs(interval), secs(timeout)).unwrap();
    let of = |kind| settings.polling.of(kind);
    assert_eq!(of("CustomTask"), pace(7, 4, 90));
    assert_eq!(of("CustomTask/another"), pace(7, 4, 90));
    assert_eq!(of("CustomTask/alibaba"), pace(7, 5, 90));
    assert_eq!(of("CustomTask/v2.1"), pace(7, 4, 100));
    assert_eq!((of("Other"), of("Other/x")), (pace(3, 2, 90), pace(3, 6, 90)));
    assert_eq!(of("TurnstileTask/Some_Class"), pace(11, 2, 120));
    let caps: Vec<_> = settings.caps.iter().map(|(name, cap)| (name.as_str(), *cap)).collect();
    assert_eq!(caps, [("CustomTask", 50), ("CustomTask/alibaba", 3), ("CustomTask/v2.1", 20)]);
}

#[test]
fn lanes_have_a_weight_and_perhaps_limits_of_their_own() {
    let settings = Place::new(&[(
        "config/x.toml",
        "[lanes.urgent]\nweight = 8\nmax_in_flight = 20\n[lanes.default]\nweight = 2",
    )])
    .env("LANES__TEAM-B__WEIGHT", "3")
    .env("LANES__TEAM-B__MAX_CALLS_PER_SECOND", "5")
    .good()
    .settings;
    let lanes: Vec<_> = settings.lanes.iter().map(|(lane, rules)| (lane.name(), *rules)).collect();
    let of = |weight, max_in_flight, calls| LaneRules {
        weight,
        max_in_flight,
        max_calls_per_second: NonZeroU32::new(calls),
    };
    assert_eq!(
        lanes,
        [("default", of(2, None, 0)), ("team-b", of(3, None, 5)), ("urgent", of(8, Some(20), 0))]
    );
    for (text, fault) in [
        ("[lanes.urgent]\nmax_in_flight = 3", "lanes.urgent (config/x.toml): has no weight"),
        ("[lanes.urgent]\nweight = 0", "lanes.urgent.weight (config/x.toml): 0 is out of range"),
        ("[lanes.Urgent]\nweight = 1", "lanes.Urgent (config/x.toml): \"Urgent\" is no name of a lane"),
        ("[lanes.urgent]", "lanes.urgent (config/x.toml): no such setting"),
    ] {
        let faults = Place::new(&[("config/x.toml", text)]).faults();
        assert!(faults.len() == 1 && faults[0].starts_with(fault), "{faults:#?}");
    }
    let many: String = (0..17).map(|n| format!("[lanes.l{n}]\nweight = 1\n")).collect();
    let faults = Place::new(&[("config/x.toml", &many)]).faults();
    assert!(faults[0].contains("there are 17 lanes"), "{faults:#?}");
}

#[test]
fn polls_are_learned_within_max_polls_unless_the_mode_is_fixed() {
    let by_default = Place::new(&[]).good().settings.polling;
    assert_eq!((by_default.mode, by_default.of("ImageToTextTask").max_polls()), (PollMode::Learned, 45));
    let settings = Place::new(&[(
        "config/x.toml",
        "[polling]\nmode = 'fixed'\n[polling.CustomTask]\nmax_polls = 30\n[polling.'CustomTask/x']\ninterval = '5s'",
    )])
    .env("POLLING__TurnstileTask__MAX_POLLS", "7")
    .good()
    .settings
    .polling;
    let most = ["CustomTask", "CustomTask/x", "TurnstileTask"].map(|kind| settings.of(kind).max_polls());
    assert_eq!((settings.mode, most), (PollMode::Fixed, [30, 30, 7]));
    assert_eq!(Place::new(&[]).env("POLLING__MODE", "fixed").good().settings.polling.mode, PollMode::Fixed);
    let faults =
        Place::new(&[("config/x.toml", "[polling]\nmode = 'fast'\n[polling.T]\nmax_polls = 121")]).faults();
    assert_eq!(faults.len(), 2, "{faults:#?}");
    assert!(faults[0].starts_with("polling.mode (config/x.toml)"), "{faults:#?}");
    assert!(faults[1].starts_with("polling.T.max_polls (config/x.toml): 121 is out of range"), "{faults:#?}");
}

#[test]
fn a_pace_of_a_class_that_the_api_forbids_is_named_by_the_class() {
    let faults = Place::new(&[("config/x.toml", "[polling.'CustomTask/alibaba']\ninterval = '1s'")]).faults();
    assert_eq!(faults.len(), 1, "{faults:#?}");
    assert!(faults[0].starts_with(
        "polling.CustomTask/alibaba.interval (config/x.toml): the interval must be at least 2 s"
    ));
}

#[test]
fn lists_flags_and_numbers_can_come_from_the_environment() {
    let settings = Place::new(&[])
        .env("POLICY__ALLOWED_DOMAINS", "example.com, *.example.org,")
        .env("BROKER__DECLARE_TOPOLOGY", "false")
        .env("WORKER__MAX_IN_FLIGHT", " 12 ")
        .good()
        .settings;
    assert!(settings.policy.permits("TurnstileTask", Some("https://a.example.org/")).is_ok());
    assert!(settings.policy.permits("TurnstileTask", Some("https://example.com/")).is_ok());
    assert!(settings.policy.permits("TurnstileTask", Some("https://example.net/")).is_err());
    assert!(!settings.broker.declare_topology);
    assert_eq!(settings.worker.max_in_flight, 12);
}

#[test]
fn callbacks_need_an_address_for_the_api_and_one_to_listen_on() {
    assert!(Place::new(&[]).good().settings.callback.is_none());
    let (url, listen) = (("CALLBACK__PUBLIC_URL", "https://cb.test"), ("CALLBACK__LISTEN", "0.0.0.0:8190"));
    let place = |set: &[(&str, &str)]| {
        set.iter().fold(Place::new(&[]), |place, (name, value)| place.env(name, value))
    };
    let both = place(&[url, listen]).good().settings.callback.expect("on");
    assert_eq!((&*both.public_url, both.listen.port()), ("https://cb.test", 8190));
    for (set, missing) in [(url, "callback.listen"), (listen, "callback.public_url")] {
        let faults = place(&[set]).faults();
        assert_eq!(faults.len(), 1, "{faults:#?}");
        assert!(
            faults[0].starts_with(missing) && faults[0].contains("is empty while callback."),
            "{faults:#?}"
        );
    }
    let secret = place(&[("CALLBACK__PUBLIC_URL", "https://u:pl4nted@cb.test"), listen]).faults();
    assert!(secret.len() == 1 && !secret[0].contains("pl4nted"), "{secret:#?}");
}

#[test]
fn other_variables_are_nobodys_business() {
    let mut place = Place::new(&[]);
    for name in ["CAPTCHA_WORKER_TEST", "CAPTCHA_WORKER", "PATH"] {
        place.options.env.push((name.into(), "x".into()));
    }
    place.good();
}

#[test]
fn variables_that_are_nearly_settings_are_named_with_what_was_probably_meant() {
    let mut place = Place::new(&[]).env("broker__namespace", "read");
    for name in [
        "CAPTCHA_WORKER_SOLVER__API_KEY",
        "CAPTCHA_WORKER_SOLVER_API_KEY_FILE",
        "captcha_worker__worker__max_in_flight",
        "CAPTCHA_WORKER_CAPS__FunCaptchaTask",
        "CAPTCHA_WORKER_POLLING__TurnstileTask__TIMEOUT",
        "CAPTCHA_WORKER_SOLVER",
        "CAPTCHA_WORKER_TEST_AMQP",
        "captcha_worker",
        "CAPTCHA_WORKERS__LOG__LEVEL",
    ] {
        place.options.env.push((name.into(), "pl4nted".into()));
    }
    let loaded = place.good();
    assert_eq!(shown(&loaded, "broker.namespace").0, "read");
    let ignored: Vec<_> =
        loaded.ignored().iter().map(|variable| (&*variable.name, &*variable.meant)).collect();
    let expected = [
        ("CAPTCHA_WORKER_CAPS__FunCaptchaTask", "CAPTCHA_WORKER__CAPS__FunCaptchaTask"),
        ("CAPTCHA_WORKER_POLLING__TurnstileTask__TIMEOUT", "CAPTCHA_WORKER__POLLING__TURNSTILETASK__TIMEOUT"),
        ("CAPTCHA_WORKER_SOLVER_API_KEY_FILE", "CAPTCHA_WORKER__SOLVER__API_KEY_FILE"),
        ("CAPTCHA_WORKER_SOLVER__API_KEY", "CAPTCHA_WORKER__SOLVER__API_KEY"),
        ("captcha_worker__worker__max_in_flight", "CAPTCHA_WORKER__WORKER__MAX_IN_FLIGHT"),
    ];
    assert_eq!(ignored, expected);
    assert!(!format!("{loaded:?}").contains("pl4nted"));
}

#[test]
fn an_entry_of_the_policy_that_cannot_be_meant_is_named() {
    let place = Place::new(&[("config/x.toml", "[policy]\nallowed_domains = ['a.example,b.example']")]);
    let faults = place.faults();
    assert_eq!(faults.len(), 1, "{faults:#?}");
    assert!(faults[0].ends_with("; probably meant: 'a.example', 'b.example'"), "{faults:#?}");
    let listed = Place::new(&[]).env("POLICY__ALLOWED_DOMAINS", r#"["a.example", 'b.example']"#).faults();
    assert_eq!(listed.len(), 2, "{listed:#?}");
    assert!(listed[1].ends_with("; probably meant: 'b.example'"), "{listed:#?}");
    let types =
        Place::new(&[("config/x.toml", "[policy]\nallowed_types = ['SomeTask', 'OneTask;OtherTask']")]);
    let fault = "policy.allowed_types (config/x.toml): \"OneTask;OtherTask\" is not the name of a task type";
    assert!(types.faults()[0].starts_with(fault), "{:#?}", types.faults());
}

#[test]
fn a_build_without_traces_refuses_to_send_them_and_says_what_to_build() {
    let place = Place::new(&[]).env("TRACES__OTLP_ENDPOINT", "http://127.0.0.1:4318");
    if cfg!(feature = "otel") {
        assert!(place.good().settings.traces.endpoint.is_some());
    } else {
        let faults = place.faults();
        assert_eq!(faults.len(), 1, "{faults:#?}");
        let start = "traces.otlp_endpoint (environment CAPTCHA_WORKER__TRACES__OTLP_ENDPOINT): is set, but this program";
        assert!(faults[0].starts_with(start) && faults[0].contains("--features otel"), "{faults:#?}");
    }
    assert!(Place::new(&[]).good().settings.traces.endpoint.is_none());
    let ratio = Place::new(&[]).env("TRACES__SAMPLE_RATIO", "1.5").faults();
    assert!(ratio[0].contains("allowed: 0 to 1"), "{ratio:?}");
    assert_eq!(Place::new(&[]).good().settings.traces.protocol, None);
    let grpc = Place::new(&[]).env("TRACES__PROTOCOL", "grpc").good();
    assert_eq!(grpc.settings.traces.protocol, Some("grpc"));
    let json = Place::new(&[]).env("TRACES__PROTOCOL", "http/json").faults();
    assert!(json[0].starts_with("traces.protocol ") && json[0].contains("grpc"), "{json:?}");
}
