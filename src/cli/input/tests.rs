use super::*;

fn lines(input: &[u8]) -> Vec<Entry> {
    Lines::new(input).collect()
}

fn bodies(input: &[u8]) -> Vec<(Origin, String)> {
    lines(input)
        .into_iter()
        .map(|entry| {
            let job = entry.unwrap();
            (job.origin, String::from_utf8(job.body.into()).unwrap())
        })
        .collect()
}

#[test]
fn lines_go_out_verbatim_without_their_ends() {
    let input = b"\xEF\xBB\xBF{\"id\": \"a\" }\r\n\n  \t\r\n[1,  2]\n17";
    let wanted = [(1, "{\"id\": \"a\" }"), (4, "[1,  2]"), (5, "17")];
    assert_eq!(bodies(input), wanted.map(|(number, body)| (Origin::Line(number), body.to_owned())));
}

#[test]
fn a_line_that_is_not_json_is_reported_by_line_and_column() {
    for (line, column, reason) in [
        (&b"[1 2]"[..], 4, "expected `,` or `]`"),
        (b"nope", 2, "expected ident"),
        (b"{} {}", 4, "trailing characters"),
        (b"{\"id\":\"\xFF\"}", 8, "not UTF-8"),
        (b"{\"id\":\"secret", 13, "EOF while parsing a string"),
    ] {
        let bad = lines(&[b"{}\n", line].concat()).remove(1).unwrap_err();
        assert_eq!((bad.origin, bad.column), (Origin::Line(2), Some(column)));
        assert!(bad.reason.contains(reason), "{}", bad.reason);
        assert!(!bad.reason.contains("secret"), "the input is not quoted");
    }
}

#[test]
fn reading_goes_on_after_a_bad_line() {
    let entries = lines(b"{}\nnope\n[]\n");
    let good: Vec<bool> = entries.iter().map(Result::is_ok).collect();
    assert_eq!(good, [true, false, true]);
}

#[test]
fn a_line_may_be_as_long_as_a_job_and_no_longer() {
    let of = |size: usize| format!("\"{}\"", "x".repeat(size - 2));
    for end in ["\n", "\r\n", ""] {
        let input = format!("{}\n{}\r\n{}{end}", of(MAX_BODY), of(MAX_BODY + 1), of(MAX_BODY));
        let entries = lines(input.as_bytes());
        assert_eq!(entries.len(), 3);
        assert_eq!(entries[0].as_ref().unwrap().body.len(), MAX_BODY);
        let bad = entries[1].as_ref().unwrap_err();
        assert_eq!((&bad.origin, bad.column), (&Origin::Line(2), None));
        assert_eq!(entries[2].as_ref().unwrap().origin, Origin::Line(3));
    }
    let endless = lines(&[&b"{}\n"[..], &vec![b'x'; 3 * MAX_BODY], b"\n[]"].concat());
    assert!(endless[1].is_err() && endless[2].is_ok() && endless.len() == 3);
}

#[test]
fn an_input_that_breaks_off_is_reported_once() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("disk on fire"))
        }
    }
    let reader = io::BufReader::new(b"{}\n".chain(Broken));
    let entries: Vec<_> = Lines::new(reader).collect();
    assert_eq!(entries.len(), 2);
    let bad = entries[1].as_ref().unwrap_err();
    assert_eq!(bad.origin, Origin::Line(2));
    assert!(bad.reason.contains("disk on fire"));
}

#[test]
fn only_an_objects_own_text_id_becomes_the_message_id() {
    let long = format!(r#"{{"id":"{}"}}"#, "x".repeat(256));
    for (line, id) in [
        (r#"{"task":{"id":"no"},"id":"order-17"}"#, Some("order-17")),
        (r#" {"id":"\u0061"}"#, Some("a")),
        (r#"{"id":17}"#, None),
        (r#"{"id":""}"#, None),
        (r#"{"id":null}"#, None),
        (r#"["order-17"]"#, None),
        (r#"{"id":"a","id":"b"}"#, None),
        (&long, None),
    ] {
        assert_eq!(lines(line.as_bytes()).remove(0).unwrap().id.as_deref(), id, "{line}");
    }
}

#[test]
fn a_nesting_bomb_is_left_to_the_worker() {
    let bomb = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(lines(bomb.as_bytes())[0].is_ok());
}
