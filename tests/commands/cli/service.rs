//! The commands that go on until a signal.

use std::process::{Command as Process, Stdio};

use tempfile::TempDir;

use crate::cli::support::{Log, Simulator, end, get, terminate, worker};

#[test]
fn the_simulator_prints_where_it_listens_and_ends_in_order_on_sigterm() {
    let dir = TempDir::new().unwrap();
    let mut simulator = Simulator::start(&dir);
    assert!(simulator.url.starts_with("http://127.0.0.1:"));
    terminate(&simulator.child);
    assert_eq!(simulator.child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_worker_without_a_broker_keeps_trying_says_so_and_ends_in_order_on_sigterm() {
    let dir = TempDir::new().unwrap();
    let mut child = Process::new(env!("CARGO_BIN_EXE_captcha-worker"))
        .arg("run")
        .current_dir(dir.path())
        .env("CAPTCHA_WORKER__SOLVER__API_KEY", "pl4nted-key")
        .env("CAPTCHA_WORKER__BROKER__URL", "amqp://user:pl4nted-pass@127.0.0.1:1")
        .env("CAPTCHA_WORKER__OPS__LISTEN", "127.0.0.1:0")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = Log::of(&mut child);
    let served = log.find("serving /healthz");
    let trying = log.find("no session with the broker");
    assert_eq!(trying["level"], "WARN");
    let ready = get(served["address"].as_str().unwrap(), "/readyz");
    assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("no session with the broker"), "{ready}");
    terminate(&child);
    log.find("stopped");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(!log.seen.contains("pl4nted"), "{}", log.seen);
}

#[test]
fn an_address_that_cannot_be_listened_on_is_reported_by_its_setting() {
    let dir = TempDir::new().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let ended = end(worker(&dir)
        .arg("run")
        .env("CAPTCHA_WORKER__SOLVER__API_KEY", "key")
        .env("CAPTCHA_WORKER__OPS__LISTEN", taken.local_addr().unwrap().to_string()));
    assert_eq!(ended.code, 1);
    assert!(ended.stderr.contains("error: ops.listen: cannot listen on"), "{}", ended.stderr);
    assert!(ended.stderr.contains("choose another port, or port 0"), "{}", ended.stderr);
}

#[test]
fn nobody_has_said_where_to_listen_and_a_second_replica_on_the_machine_takes_the_next_free_port() {
    let dir = TempDir::new().unwrap();
    // Whoever has it, it is taken.
    let _taken = std::net::TcpListener::bind("127.0.0.1:9464");
    let mut child = Process::new(env!("CARGO_BIN_EXE_captcha-worker"))
        .arg("run")
        .current_dir(dir.path())
        .env("CAPTCHA_WORKER__SOLVER__API_KEY", "key")
        .env("CAPTCHA_WORKER__BROKER__URL", "amqp://user:pass@127.0.0.1:1")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = Log::of(&mut child);
    let served = log.find("serving /healthz");
    assert_eq!(served["taken"], "127.0.0.1:9464", "{served}");
    let address = served["address"].as_str().unwrap();
    let port: u16 = address.rsplit(':').next().unwrap().parse().unwrap();
    assert!((9465..9464 + 32).contains(&port), "{served}");
    assert_eq!(get(address, "/healthz").lines().next(), Some("HTTP/1.1 200 OK"));
    terminate(&child);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn log_lines_name_parts_of_the_program_only_when_asked_to() {
    let dir = TempDir::new().unwrap();
    // It has no key, and says this before it ends for that.
    let warned = |format: &str, target: &str| {
        end(worker(&dir)
            .arg("run")
            .env("CAPTCHA_WORKER_BROKER__NAMESPACE", "x")
            .env("CAPTCHA_WORKER__LOG__FORMAT", format)
            .env("CAPTCHA_WORKER__LOG__TARGET", target))
        .stderr
    };
    for format in ["human", "json"] {
        let (without, with) = (warned(format, "false"), warned(format, "true"));
        assert!(without.contains("variable ignored") && !without.contains("captcha_worker::"), "{without}");
        assert!(with.contains("captcha_worker::cli::run"), "{with}");
    }
}

#[test]
fn outcomes_are_not_taken_where_standard_output_is_closed() {
    let dir = TempDir::new().unwrap();
    let run = |script: &str| {
        let mut shell = assert_cmd::Command::new("bash");
        end(shell
            .args(["-c", script])
            .current_dir(dir.path())
            .env("PROGRAM", env!("CARGO_BIN_EXE_captcha-worker"))
            .env("CAPTCHA_WORKER__BROKER__URL", "sqlite:queue.db"))
    };
    assert_eq!(run("\"$PROGRAM\" topology declare").code, 0);
    let closed = run("\"$PROGRAM\" outcomes --ack >&-");
    assert_eq!((closed.code, closed.stdout.as_str()), (1, ""));
    assert!(closed.stderr.contains("standard output is closed, so nothing is taken"), "{}", closed.stderr);
    // Who writes there wants it so.
    assert_eq!(run("\"$PROGRAM\" outcomes --ack > /dev/null").code, 0);
}

#[test]
fn a_terminal_that_takes_no_escapes_gets_none() {
    let dir = TempDir::new().unwrap();
    let on_a_terminal = |words: &str| {
        // script(1) gives it a terminal.
        let line = format!("{} {words}", env!("CARGO_BIN_EXE_captcha-worker"));
        let mut script = assert_cmd::Command::new("script");
        end(script
            .args(["-qec", &line, "/dev/null"])
            .current_dir(dir.path())
            .env("TERM", "dumb")
            .env("CI", "true")
            .env("CAPTCHA_WORKER_BROKER__NAMESPACE", "a warning is logged")
            .env("CAPTCHA_WORKER__SOLVER__API_KEY", "key")
            .env("CAPTCHA_WORKER__BROKER__URL", "sqlite:absent.db"))
        .stdout
    };
    for words in
        ["top", "status --watch", "check --offline", "--help", "outcomes", "run --format table --help"]
    {
        let shown = on_a_terminal(words);
        assert!(!shown.is_empty() && !shown.contains('\u{1b}'), "{words}: {shown:?}");
    }
}

#[test]
fn a_scenario_that_is_not_there_is_an_error() {
    let dir = TempDir::new().unwrap();
    let ended = end(worker(&dir).args(["simulate", "--scenario", "absent.toml"]));
    assert_eq!(ended.code, 1);
    assert!(ended.stderr.contains("absent.toml"), "{}", ended.stderr);
}
