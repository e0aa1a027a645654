//! Secrets: where they may come from, and that they go nowhere else.

use std::fs;

use secrecy::ExposeSecret;

use crate::config::support::{Place, shown};

const PASSWORD: &str = "pl4nted-pass";
const KEY: &str = "pl4nted-key";

#[test]
fn a_secret_can_come_from_a_file_whose_last_line_break_does_not_count() {
    let url = format!("amqps://user:{PASSWORD}@broker.test/lane%2fa\r\n");
    let place = Place::new(&[("key", &format!("{KEY}\n")), ("url", &url)])
        .env("SOLVER__API_KEY_FILE", "key")
        .env("BROKER__URL_FILE", "url");
    let loaded = place.good();
    assert_eq!(loaded.settings.solver.api_key.as_ref().unwrap().expose_secret(), KEY);
    assert_eq!(loaded.settings.broker.url.vhost(), "lane/a");
    assert_eq!(shown(&loaded, "solver.api_key"), ("(hidden)", "key"));
    assert_eq!(shown(&loaded, "broker.url"), ("amqps://user:***@broker.test/lane%2fa", "url"));
}

#[test]
fn a_secret_file_that_is_missing_empty_or_unreadable_is_a_fault_of_its_setting() {
    for (file, problem) in
        [("absent", "no such file"), ("empty", "the file is empty"), ("odd", "not UTF-8 text")]
    {
        let place = Place::new(&[("empty", "\n")]).env("SOLVER__API_KEY_FILE", file);
        fs::write(place.dir.path().join("odd"), [0xff, 0xfe]).unwrap();
        let faults = place.faults();
        let expected = format!(
            "solver.api_key_file (environment CAPTCHA_WORKER__SOLVER__API_KEY_FILE): {file}: {problem}"
        );
        assert_eq!(faults, [expected]);
    }
}

#[test]
fn what_surrounds_a_secret_does_not_count_wherever_it_comes_from() {
    let url = format!("amqp://user:{PASSWORD}@h");
    for (before, after) in [("", "\r"), ("\u{feff}", "\r\n\r\n"), ("\n \t", " \n"), ("\u{a0}", "\u{2003}")] {
        let around = |secret: &str| format!("{before}{secret}{after}");
        let (key, url) = (around(KEY), around(&url));
        let from_files = Place::new(&[("key", &key), ("url", &url)])
            .env("SOLVER__API_KEY_FILE", "key")
            .env("BROKER__URL_FILE", "url");
        let from_variables = Place::new(&[]).env("SOLVER__API_KEY", &key).env("BROKER__URL", &url);
        for place in [from_files, from_variables] {
            let loaded = place.good();
            assert_eq!(loaded.settings.solver.api_key.as_ref().unwrap().expose_secret(), KEY);
            assert_eq!(shown(&loaded, "broker.url").0, "amqp://user:***@h");
        }
    }
    assert!(Place::new(&[]).env("SOLVER__API_KEY", " \r\n").good().settings.solver.api_key.is_none());
}

#[test]
fn a_secret_that_is_not_alone_is_refused_by_name_and_not_repeated() {
    let odd = [
        ("pl4nted\nsecond", "has more than one line"),
        ("pl4nted second", "has white space inside"),
        ("pl4nted\tsecond", "has white space inside"),
        ("pl4nted\u{0}x", "holds a control character"),
        ("pl4nted\u{200b}x", "holds a control character or an invisible one"),
        ("\"pl4nted\"", "holds a quotation mark"),
        ("'pl4nted'", "holds a quotation mark"),
        ("“pl4nted”", "holds a quotation mark"),
    ];
    for (secret, problem) in odd {
        let url = format!("amqp://u:{secret}@h");
        let from_files = Place::new(&[("key", secret), ("url", &url)])
            .env("SOLVER__API_KEY_FILE", "key")
            .env("BROKER__URL_FILE", "url");
        let from_variables = Place::new(&[]).env("SOLVER__API_KEY", secret).env("BROKER__URL", &url);
        for (place, origins) in [
            (from_files, ["broker.url_file (url)", "solver.api_key_file (key)"]),
            (
                from_variables,
                [
                    "broker.url (environment CAPTCHA_WORKER__BROKER__URL)",
                    "solver.api_key (environment CAPTCHA",
                ],
            ),
        ] {
            let faults = place.faults();
            assert_eq!(faults.len(), 2, "{faults:#?}");
            for (fault, origin) in faults.iter().zip(origins) {
                assert!(fault.starts_with(origin) && fault.contains(problem), "{fault}");
                assert!(!fault.contains("pl4nted") && !fault.contains("second"), "{fault}");
            }
        }
    }
    let path = Place::new(&[]).env("BROKER__URL", "sqlite:it's my.db").good().settings.broker.url;
    assert!(path.to_string().ends_with("/it's my.db"), "{path}");
}

#[test]
fn a_secret_cannot_be_given_both_ways() {
    let place = Place::new(&[
        ("config/x.toml", &format!("[solver]\napi_key = '{KEY}'\n[broker]\nurl = 'amqp://u:{PASSWORD}@h'")),
        ("file", "content"),
    ])
    .env("SOLVER__API_KEY_FILE", "file")
    .env("BROKER__URL_FILE", "file");
    let faults = place.faults();
    assert_eq!(faults.len(), 2, "{faults:#?}");
    assert!(faults[0].contains("cannot be set beside broker.url, which is set by config/x.toml"));
    assert!(faults[1].contains("cannot be set beside solver.api_key, which is set by config/x.toml"));
}

#[test]
fn the_consoles_token_comes_from_a_file_and_is_too_long_to_be_found() {
    let token = "pl4nted-token-01";
    let of = |content: &str| Place::new(&[("token", content)]).env("OPS__ADMIN_TOKEN_FILE", "token");
    let loaded = of(&format!("\u{feff}{token}\r\n")).good();
    assert_eq!(loaded.settings.ops.admin_token.as_ref().unwrap().expose_secret(), token);
    let report = serde_json::to_string(loaded.report()).unwrap();
    assert!(!format!("{loaded:?}{report}").contains(token));
    assert!(Place::new(&[]).good().settings.ops.admin_token.is_none());
    for (content, problem) in [
        ("pl4nted-token-0", "has fewer than 16 characters"),
        ("\n", "has fewer than 16 characters"),
        ("pl4nted-token-01 second", "has white space inside"),
        ("'pl4nted-token-01'", "holds a quotation mark"),
    ] {
        let faults = of(content).faults();
        let expected = "ops.admin_token_file (environment CAPTCHA_WORKER__OPS__ADMIN_TOKEN_FILE): token: ";
        assert_eq!(faults, [format!("{expected}{problem}")]);
    }
}

#[test]
fn secrets_are_in_no_debug_output_and_no_report() {
    let place = Place::new(&[])
        .env("SOLVER__API_KEY", KEY)
        .env("BROKER__URL", &format!("amqp://user:{PASSWORD}@h/%2f"))
        .env("SOLVER__PROXY", &format!("http://user:{PASSWORD}@proxy.test:3128"));
    let loaded = place.good();
    let report = serde_json::to_string(loaded.report()).unwrap();
    for text in
        [format!("{loaded:?}"), format!("{:#?}", loaded.settings), report, format!("{:?}", place.options)]
    {
        assert!(!text.contains(KEY) && !text.contains(PASSWORD), "{text}");
    }
    let secret: Vec<_> =
        loaded.report().iter().filter(|line| line.secret).map(|line| line.key.as_str()).collect();
    assert_eq!(secret, ["broker.url", "solver.api_key", "solver.proxy"]);
}

#[test]
fn secrets_are_in_no_fault() {
    let broken = [
        format!("[solver]\napi_key = \"{KEY}"),
        format!("[solver]\napi_key = {KEY}"),
        format!("[solver]\napi_key = [\"{KEY}\"]"),
        format!("[solver]\nbase_url = \"https://u:{PASSWORD}@h/\""),
        format!("[solver]\nbase_url = \"https://h/?key={KEY}\""),
        format!("[broker]\nurl = \"amqp://u:{PASSWORD}@h:port/\""),
        format!("[broker]\nurl = \"{PASSWORD}\""),
        format!("[broker]\nurl = [\"amqp://u:{PASSWORD}@h\"]"),
        format!("[broker]\nurl = \"amqp://u:{PASSWORD}/x@h\""),
        format!("[broker]\nurl = \"amqp://u:@{PASSWORD}/x@h\""),
    ];
    for text in broken {
        let place = Place::new(&[("config/x.toml", &text)]);
        let errors = place.load().expect_err(&text);
        for shown in [errors.to_string(), format!("{errors:?}")] {
            assert!(!shown.contains(KEY) && !shown.contains(PASSWORD), "{shown}");
        }
    }
}
