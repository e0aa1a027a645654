//! How a job ended, for the caller: the answer on standard output, or why there is none
//! on standard error, with what may have been paid.

use std::fmt;
use std::io::Write;

use serde::Deserialize;
use serde_json::Value as Json;
use serde_json::value::RawValue;

use crate::cli::console::Console;
use crate::cli::redact::masked;
use crate::cli::render::{main_text, ndjson, on_one_line};
use crate::cli::{CommandError, Exit};
use crate::domain::class::Class;
use crate::domain::local_code;
use crate::domain::message::Message;
use crate::domain::sanitize::{shown, shown_lines};

/// Longest part of an outcome that is shown in the text of a failure, in characters.
const MAX_SHOWN: usize = 1_000;

/// How waiting ended.
#[derive(Debug)]
pub(super) enum SolveEnd {
    /// With the job's outcome.
    Outcome(Box<Message>),
    /// Without one.
    None {
        /// The exit code.
        exit: Exit,
        /// Why, and what may have been paid.
        text: String,
    },
}

/// Submissions that have been paid, or may have been.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct PossiblySpent {
    tasks: Vec<String>,
    unanswered: usize,
}

impl PossiblySpent {
    /// The API has accepted a task of this id.
    pub(super) fn accepted(&mut self, id: &str) {
        let id = shown(id, MAX_SHOWN);
        if !self.tasks.contains(&id) {
            self.tasks.push(id);
        }
    }

    /// A submission was sent, and not answered.
    pub(super) fn unanswered(&mut self) {
        self.unanswered += 1;
    }
}

impl fmt::Display for PossiblySpent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.tasks.as_slice(), self.unanswered) {
            ([], 0) => return f.write_str("nothing was submitted, so nothing is paid"),
            ([], _) => {}
            ([id], _) => write!(f, "the API accepted task {id}, which may be paid")?,
            (ids, _) => write!(f, "the API accepted tasks {}, which may be paid", ids.join(", "))?,
        }
        if self.unanswered > 0 {
            let before = if self.tasks.is_empty() { "" } else { "; " };
            write!(f, "{before}a submission got no answer and may be paid")?;
        }
        Ok(())
    }
}

/// What is read of an outcome. Of the rest nothing is wanted here, and a newer version may change
/// it.
#[derive(Deserialize)]
struct OutcomeView<'a> {
    #[serde(borrow)]
    solution: Option<&'a RawValue>,
    failure: Option<FailureView>,
    task_id: Option<Json>,
    #[serde(default)]
    attempts: Vec<AttemptView>,
}

#[derive(Deserialize)]
struct FailureView {
    class: String,
    code: String,
    #[serde(default)]
    description: String,
    #[serde(default)]
    stage: String,
}

#[derive(Deserialize)]
struct AttemptView {
    task_id: Option<Json>,
}

/// Prints how it ended, and gives the exit code.
pub(super) fn report<O: Write, E: Write>(
    end: &SolveEnd,
    console: &mut Console<O, E>,
) -> Result<Exit, CommandError> {
    let message = match end {
        SolveEnd::Outcome(message) => message,
        SolveEnd::None { exit, text } => {
            console.note(format_args!("error: {text}"));
            return Ok(*exit);
        }
    };
    let outcome: OutcomeView<'_> = serde_json::from_slice(&message.body)
        .map_err(|error| CommandError::Failed(format!("the outcome cannot be read: {error}")))?;
    if console.is_forced_json() {
        console.json_line(&ndjson(message, false))?;
        console.out.flush()?;
    }
    match (outcome.solution, &outcome.failure) {
        (Some(solution), _) => {
            if !console.is_forced_json() {
                print(solution, console)?;
            }
            Ok(Exit::Fine)
        }
        (None, Some(failure)) => Ok(print_failure(failure, &spent(&outcome), console)),
        (None, None) => Err(CommandError::Failed("the outcome has neither solution nor failure".to_owned())),
    }
}

/// The text alone, or the whole solution where no single text is wanted of it.
fn print<O: Write, E>(solution: &RawValue, console: &mut Console<O, E>) -> Result<(), CommandError> {
    let parsed: Json = serde_json::from_str(solution.get()).map_err(CommandError::failed)?;
    let text = match main_text(&parsed) {
        Some(text) => text.to_owned(),
        None => on_one_line(&masked(solution.get())),
    };
    let text = if console.out_is_terminal { shown_lines(&text) } else { text };
    writeln!(console.out, "{text}")?;
    console.out.flush()?;
    Ok(())
}

fn print_failure<O: Write, E: Write>(
    failure: &FailureView,
    spent: &PossiblySpent,
    console: &mut Console<O, E>,
) -> Exit {
    let FailureView { class, code, description, stage } = failure;
    let text = format!("not solved: class {class}, code {code}, stage {stage}: {description}");
    console.note(format_args!("error: {}\n{spent}", shown(&text, MAX_SHOWN)));
    // The deadline is this command's own: it is the end of its time.
    if code == local_code::DEADLINE_PASSED {
        return Exit::Unanswered;
    }
    // A class of a later version is one that this version does not know.
    Exit::Job(class.parse().unwrap_or(Class::Unknown))
}

fn spent(outcome: &OutcomeView<'_>) -> PossiblySpent {
    let mut spent = PossiblySpent::default();
    let attempts = outcome.attempts.iter().map(|attempt| attempt.task_id.as_ref());
    let open = outcome.task_id.iter().map(Some);
    for id in attempts.chain(open) {
        match id {
            Some(Json::String(id)) => spent.accepted(id),
            Some(id) => spent.accepted(&id.to_string()),
            None => spent.unanswered(),
        }
    }
    spent
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cli::console::Format;

    fn reported(end: &SolveEnd, json: bool) -> (Result<Exit, CommandError>, String, String) {
        let (out, err) = (Vec::new(), Vec::new());
        let format = json.then_some(Format::Json);
        let mut console = Console { out, err, out_is_terminal: false, err_is_terminal: false, format };
        let exit = report(end, &mut console);
        (exit, String::from_utf8(console.out).unwrap(), String::from_utf8(console.err).unwrap())
    }

    fn outcome(body: &Json) -> SolveEnd {
        SolveEnd::Outcome(Message { body: body.to_string().into(), ..Message::default() }.into())
    }

    fn solved(solution: &Json) -> String {
        let (exit, out, err) = reported(&outcome(&json!({"status": "solved", "solution": solution})), false);
        assert_eq!((exit.unwrap(), err.as_str()), (Exit::Fine, ""));
        out
    }

    #[test]
    fn the_one_text_that_is_wanted_is_printed_and_nothing_else() {
        for (solution, printed) in [
            (json!({"text": "W9H5K"}), "W9H5K\n"),
            (json!({"gRecaptchaResponse": "03AGd", "userAgent": "M"}), "03AGd\n"),
            (json!({"token": "0.zR", "userAgent": "M"}), "0.zR\n"),
            (json!({"cookie": "a=b"}), "a=b\n"),
            (json!({"answer": [1, 2]}), "{\"answer\":[1,2]}\n"),
            (json!({"challenge": "a", "validate": "b"}), "{\"challenge\":\"a\",\"validate\":\"b\"}\n"),
        ] {
            assert_eq!(solved(&solution), printed);
        }
    }

    #[test]
    fn what_steers_a_terminal_is_hidden_there_and_kept_in_a_pipe() {
        assert_eq!(solved(&json!({"text": "a\u{1b}[2Jb"})), "a\u{1b}[2Jb\n");
        let mut console = Console {
            out: Vec::new(),
            err: Vec::new(),
            out_is_terminal: true,
            err_is_terminal: false,
            format: None,
        };
        report(&outcome(&json!({"solution": {"text": "a\u{1b}[2Jb"}})), &mut console).unwrap();
        assert_eq!(String::from_utf8(console.out).unwrap(), "a·[2Jb\n");
    }

    #[test]
    fn a_failure_has_its_class_as_exit_code_and_says_what_may_be_paid() {
        let failed = json!({
            "failure": {"class": "unsolved", "code": "ERROR_CAPTCHA_UNSOLVABLE", "description": "noise", "stage": "poll"},
            "task_id": 8, "attempts": [{"task_id": 7}, {}, {"task_id": "8"}],
            "job": {"task": {"proxyPassword": "s3cret"}},
        });
        let (exit, out, err) = reported(&outcome(&failed), false);
        assert_eq!((exit.unwrap(), out.as_str()), (Exit::Job(Class::Unsolved), ""));
        assert_eq!(
            err,
            "error: not solved: class unsolved, code ERROR_CAPTCHA_UNSOLVABLE, stage poll: noise\n\
             the API accepted tasks 7, 8, which may be paid; a submission got no answer and may be paid\n"
        );
        let (_, out, _) = reported(&outcome(&failed), true);
        assert!(out.contains("\"proxyPassword\":\"***\"") && out.ends_with("}\n"), "{out}");
    }

    #[test]
    fn the_own_deadline_counts_as_no_answer_and_a_new_class_as_unknown() {
        let of = |class: &str, code: &str| {
            let failure = json!({"class": class, "code": code, "description": "", "stage": "submit"});
            reported(&outcome(&json!({"failure": failure, "attempts": []})), false)
        };
        let (exit, _, err) = of("expired", local_code::DEADLINE_PASSED);
        assert_eq!(exit.unwrap(), Exit::Unanswered);
        assert!(err.ends_with("nothing was submitted, so nothing is paid\n"), "{err}");
        assert_eq!(of("weather", "RAIN").0.unwrap(), Exit::Job(Class::Unknown));
    }
}
