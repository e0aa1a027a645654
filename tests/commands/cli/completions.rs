//! Completions, in the shells themselves. `make test` installs zsh and fish where they are absent.

use std::fs;
use std::process::{Command as Process, Stdio};

use tempfile::TempDir;

use crate::cli::support::{end, worker};

/// What is typed, and the only word that completes it.
const CASES: [(&str, &str); 6] = [
    ("captcha-worker sol", "solve"),
    ("captcha-worker dead repl", "replay"),
    ("captcha-worker dead replay --dry", "--dry-run"),
    ("captcha-worker outcomes --dead unsol", "unsolved"),
    ("captcha-worker --json topology decl", "declare"),
    ("captcha-worker outcomes --unr", "--unrouted"),
];

/// Runs a script in a shell that has the completions at `$1`, and returns what it prints.
fn printed(shell: &str, arguments: &[&str], script: &str, words: &[&str]) -> String {
    let dir = TempDir::new().unwrap();
    let completions = end(worker(&dir).args(["completions", shell])).stdout;
    let (path, run) = (dir.path().join("_captcha-worker"), dir.path().join("script"));
    fs::write(&path, completions).unwrap();
    fs::write(&run, script).unwrap();
    let output = Process::new(shell)
        .args(arguments)
        .arg(&run)
        .arg(&path)
        .args(words)
        .env("HOME", dir.path())
        .env("TERM", "dumb")
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{shell}: {error}; run scripts/ensure-package {shell} {shell}"));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{shell}: {out}{err}");
    out.into_owned()
}

#[test]
fn bash_completes_words_options_and_values_of_every_command() {
    // What bash itself calls at a Tab.
    let script = r#"
        source "$1"; shift
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
        function=$(complete -p captcha-worker | sed 's/.*-F \([^ ]*\).*/\1/')
        "$function" captcha-worker "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    for (typed, wanted) in CASES {
        let words: Vec<&str> = typed.split(' ').collect();
        assert_eq!(printed("bash", &["--norc"], script, &words).trim_end(), wanted, "{typed}");
    }
}

#[test]
fn fish_completes_words_options_and_values_of_every_command() {
    let script = "source $argv[1]; complete -C $argv[2]";
    for (typed, wanted) in CASES {
        let found = printed("fish", &["--no-config"], script, &[typed]);
        let words: Vec<&str> = found.lines().filter_map(|line| line.split('\t').next()).collect();
        assert_eq!(words, [wanted], "{typed}");
    }
}

#[test]
fn zsh_completes_words_options_and_values_of_every_command() {
    // A shell with a terminal of its own, where Tab is pressed.
    let script = r#"
        zmodload zsh/zpty
        zpty inner zsh -f -i
        zpty -w inner "PROMPT= RPROMPT= ; fpath=(${1:h} \$fpath); autoload -Uz compinit; compinit -u -D"
        zpty -w inner 'show() { print -rn -- "<""<$BUFFER>>" }; zle -N show; bindkey "^X" show; bindkey "^I" complete-word'
        zpty -w inner 'print -n "<""<ready>>"'
        answer() { zpty -r -m inner line "*<<*>>*"; line=${line##*<<}; print -r -- ${line%%>>*} }
        answer > /dev/null
        zpty -w -n inner "$2"$'\t\x18'
        answer
        zpty -d inner
    "#;
    for (typed, wanted) in CASES {
        let shown = printed("zsh", &["-f"], script, &[typed]);
        let last = shown.trim_end().rsplit(' ').next().unwrap_or_default();
        assert_eq!(last, wanted, "{typed}: {shown}");
    }
}
