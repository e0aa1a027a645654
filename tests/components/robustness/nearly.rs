//! Strategies for inputs that are nearly right: built to pass, and then broken at one or two
//! places.

use std::fmt::{self, Debug, Formatter};

use proptest::prelude::*;
use proptest::sample::{Index, select};

use crate::robustness::properties::reply::{KEY_HERE, KEYS};
use crate::robustness::properties::{admission, frames, reply, ticket};

/// No files are left behind by a failure: its input belongs into fuzz/corpus-seeds, where every run
/// finds it.
fn config() -> ProptestConfig {
    ProptestConfig { failure_persistence: None, cases: 2_000, ..ProptestConfig::default() }
}

/// A JSON value as its text, of few levels, with the odd number and string that readers differ
/// about.
fn json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        select(vec![
            "null",
            "true",
            "0",
            "-0",
            "1e999",
            "12345678901234567890123",
            r#""""#,
            r#""\ud800""#,
            r#""\u0000""#
        ])
        .prop_map(str::to_owned),
        any::<i64>().prop_map(|number| number.to_string()),
        any::<String>().prop_map(|text| serde_json::Value::from(text).to_string()),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|values| format!("[{}]", values.join(" ,"))),
            prop::collection::vec(("[a-zA-Z]{0,8}", inner), 0..4).prop_map(|fields| object(&fields)),
        ]
    })
}

fn object(fields: &[(String, String)]) -> String {
    let fields: Vec<String> = fields.iter().map(|(name, value)| format!("\"{name}\": {value}")).collect();
    format!("{{{}}}", fields.join(","))
}

/// Fields that are each there or not, with a right value or any.
fn fields(known: Vec<(&'static str, Vec<&'static str>)>) -> impl Strategy<Value = String> {
    let field = move |(name, right): (&'static str, Vec<&'static str>)| {
        let right = select(right).prop_map(str::to_owned);
        let value = prop_oneof![6 => right.prop_map(Some), 1 => json().prop_map(Some), 1 => Just(None)];
        value.prop_map(move |value| value.map(|value| (name.to_owned(), value)))
    };
    let further = prop::option::weighted(0.1, ("[a-zA-Z_]{1,12}", json()));
    let known: Vec<_> = known.into_iter().map(field).collect();
    (known, further).prop_map(|(mut fields, further)| {
        fields.push(further);
        object(&fields.into_iter().flatten().collect::<Vec<_>>())
    })
}

/// An input that a failure shows as text.
struct Input(Vec<u8>);

impl Debug for Input {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "b\"{}\"", self.0.escape_ascii())
    }
}

/// Some bytes of it replaced, cut out or doubled.
fn broken(input: impl Strategy<Value = String>) -> impl Strategy<Value = Input> {
    let hit = (any::<Index>(), any::<Index>(), 0..6_u8, any::<u8>());
    (input, prop::collection::vec(hit, 0..3)).prop_map(|(input, hits)| {
        let mut bytes = input.into_bytes();
        for (at, to, how, byte) in hits {
            if bytes.is_empty() {
                break;
            }
            let (at, to) = (at.index(bytes.len()), to.index(bytes.len()));
            match how {
                0 => bytes[at] = byte,
                1 => bytes.truncate(at),
                2 => drop(bytes.drain(at.min(to)..at.max(to))),
                3 => bytes.extend_from_within(at.min(to)..at.max(to)),
                // As often not at all: then it is right.
                _ => {}
            }
        }
        Input(bytes)
    })
}

/// Header lines, some of them the worker's own.
fn head(own: Vec<String>) -> impl Strategy<Value = String> {
    let line = prop_oneof![
        3 => select(own),
        1 => ("[a-z-]{1,12}", "[ -~]{0,40}").prop_map(|(name, value)| format!("{name}: {value}")),
    ];
    prop::collection::vec(line, 0..4).prop_map(|lines| format!("{}\n\n", lines.join("\n")))
}

const HISTORY: &str = r#"{"v":1,"first_seen":"2026-09-21T13:00:00.000Z","retries":2,"attempts":[{"submitted_at":"2026-09-21T13:00:00.000Z","task_id":7,"polls":3,"ended":"unsolved"}]}"#;

fn task() -> impl Strategy<Value = String> {
    let picture = format!(r#""{}""#, "QUJD".repeat(60)).leak();
    fields(vec![
        ("type", vec![r#""SomeTask""#, r#""ImageToTextTask""#, r#""TurnstileTask""#]),
        ("class", vec![r#""alibaba""#, r#""""#, r#""\u0007""#, "null"]),
        ("body", vec![picture]),
        (
            "websiteURL",
            vec![r#""https://example.com/a""#, r#""https://a.example.org""#, r#""https://elsewhere.test""#],
        ),
        ("proxyAddress", vec![r#""proxy.example""#]),
        ("proxyPort", vec!["8080", r#""8080""#]),
    ])
}

fn job() -> impl Strategy<Value = String> {
    let rest = fields(vec![
        ("id", vec![r#""order-17""#, "null", r#""\u00e9""#]),
        (
            "deadline",
            vec![
                r#""2026-11-23T10:00:00Z""#,
                r#""9999-12-31T23:59:59-01:00""#,
                r#""0000-01-01T00:00:00+23:59""#,
                "null",
            ],
        ),
        ("metadata", vec!["{}", "[1, 2]", "null"]),
    ]);
    (task(), rest).prop_map(|(task, rest)| match rest.strip_prefix('{') {
        Some(rest) if rest != "}" => format!("{{\"task\": {task},{rest}"),
        _ => format!("{{\"task\":{task}}}"),
    })
}

fn delivery() -> impl Strategy<Value = String> {
    let own = vec![
        "message-id: m-1".to_owned(),
        "reply-to: amq.rabbitmq.reply-to.x".to_owned(),
        "expiration: 1000".to_owned(),
        "user-id: shop".to_owned(),
        "tenant: #7".to_owned(),
        "nested: [[[".to_owned(),
        "x-death: @captcha.retry.5s".to_owned(),
        format!("x-death: @captcha.retry.5s\nx-captcha-history: {HISTORY}"),
        format!("x-captcha-history: {HISTORY}"),
        "x-captcha-ticket: {}".to_owned(),
    ];
    (head(own), job()).prop_map(|(head, job)| head + &job)
}

fn kept() -> impl Strategy<Value = String> {
    let header = fields(vec![
        ("job_id", vec![r#""order-17""#]),
        ("task_type", vec![r#""ImageToTextTask""#]),
        ("task_class", vec![r#""alibaba""#, r#""""#, "null"]),
        ("own_proxy", vec!["false", "true"]),
        ("proxy", vec![r#""00112233aabbccdd""#, "null"]),
        ("task_id", vec!["7654321", r#""8f14e45f-ceea""#, "98765432109876543210"]),
        ("accepted_at", vec![r#""2026-09-21T13:00:00.000Z""#, r#""2999-01-01T00:00:00Z""#]),
        ("deadline", vec![r#""2026-11-23T10:00:00Z""#, "null"]),
        ("history", vec![HISTORY]),
    ]);
    let own = vec![
        "x-captcha-answer: solved.ImageToTextTask".to_owned(),
        "x-captcha-answer: dead.invalid.CODE".to_owned(),
        "x-captcha-answer: #7".to_owned(),
        "user-id: shop".to_owned(),
        "message-id: m-1".to_owned(),
    ];
    (head(own), header, job())
        .prop_map(|(head, header, job)| format!("x-captcha-ticket: {header}\n{head}{job}"))
}

fn answer() -> impl Strategy<Value = String> {
    let body = fields(vec![
        ("errorId", vec!["0", "0", "1", r#""0""#, "12"]),
        ("errorCode", vec!["null", r#""ERROR_ZERO_BALANCE""#, r#""%KEY%""#]),
        ("errorDescription", vec!["null", r#""your key %KEY% is wrong""#]),
        ("taskId", vec!["0", "7654321", r#""8f14e45f-ceea""#, "98765432109876543210"]),
        ("status", vec![r#""ready""#, r#""processing""#, r#""re\u0061dy""#]),
        ("solution", vec![r#"{"text":"answer"}"#, r#"{"a":1,"a":2}"#, "null"]),
        ("balance", vec!["345.678", r#""0.10""#]),
        ("cost", vec![r#""0.001""#, "0.5"]),
    ]);
    let lines =
        ["status: 200", "status: 503", "status: 402", "retry-after: 5", "retry-after: 99999999999999999999"];
    (head(lines.map(str::to_owned).to_vec()), body).prop_map(|(head, body)| head + &body)
}

fn text_of_amqp() -> impl Strategy<Value = Vec<u8>> {
    let text = prop_oneof![
        8 => "[a-z]{0,12}".prop_map(String::into_bytes),
        1 => Just("Müller".as_bytes().to_vec()),
        1 => Just(b"M\xfcller".to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..256),
    ];
    text.prop_map(|mut text| {
        text.truncate(255);
        text.insert(0, text.len() as u8);
        text
    })
}

/// A value of a table with its type, of any that lapin knows or does not.
fn value_of_amqp() -> impl Strategy<Value = Vec<u8>> {
    let long =
        |tag: u8| move |bytes: Vec<u8>| [&[tag][..], &(bytes.len() as u32).to_be_bytes(), &bytes].concat();
    let plain = [("tbB", 1), ("sUu", 2), ("Iif", 4), ("D", 5), ("LldT", 8), ("V", 0)];
    let plain: Vec<_> =
        plain.iter().flat_map(|(tags, size)| tags.bytes().map(move |tag| (tag, *size))).collect();
    let leaf = prop_oneof![
        8 => select(plain).prop_map(|(tag, size)| [&[tag][..], &vec![0xfe; size]].concat()),
        4 => prop::collection::vec(any::<u8>(), 0..40).prop_map(long(b'S')),
        2 => prop::collection::vec(any::<u8>(), 0..4_000).prop_map(long(b'x')),
        1 => any::<u8>().prop_map(|tag| vec![tag, 0, 0, 0, 0]),
        1 => (30..35_usize).prop_map(|depth| (0..depth).fold(vec![b'V'], |inner, _| {
            [b"A", &(inner.len() as u32).to_be_bytes()[..], &inner].concat()
        })),
    ];
    leaf.prop_recursive(3, 12, 3, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(move |values| long(b'A')(values.concat())),
            prop::collection::vec((text_of_amqp(), inner), 0..3).prop_map(move |entries| {
                long(b'F')(entries.into_iter().flat_map(|(name, value)| [name, value].concat()).collect())
            }),
        ]
    })
}

/// A content header as it stands on the wire, and how it is read.
fn content_header() -> impl Strategy<Value = Vec<u8>> {
    let short = || prop::option::weighted(0.4, text_of_amqp());
    let entries = prop::collection::vec((text_of_amqp(), value_of_amqp()), 0..5);
    let table = prop::option::weighted(0.7, entries).prop_map(|entries| {
        let entries: Option<Vec<u8>> = entries
            .map(|entries| entries.into_iter().flat_map(|(name, value)| [name, value].concat()).collect());
        entries.map(|entries| [&(entries.len() as u32).to_be_bytes()[..], &entries].concat())
    });
    let plain = |size: usize| prop::option::weighted(0.4, Just(vec![0xfe; size]));
    let first = (short(), short(), table, plain(1), plain(1));
    let then = (short(), short(), short(), short(), plain(8));
    let last = (short(), short(), short(), short());
    let odd = prop_oneof![15 => Just(0_u16), 1 => 0..4_u16];
    (any::<[u8; 2]>(), first, then, last, odd).prop_map(|(read, first, then, last, odd)| {
        let properties = [
            first.0, first.1, first.2, first.3, first.4, then.0, then.1, then.2, then.3, then.4, last.0,
            last.1, last.2, last.3,
        ];
        let mut flags = odd;
        for (place, property) in properties.iter().enumerate() {
            flags |= u16::from(property.is_some()) << (15 - place);
        }
        let properties: Vec<u8> = properties.into_iter().flatten().flatten().collect();
        [&read[..], &[0, 60, 0, 0], &3_u64.to_be_bytes(), &flags.to_be_bytes(), &properties].concat()
    })
}

/// Some bytes of it others.
fn bitten(input: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Input> {
    (input, prop::collection::vec((any::<Index>(), any::<u8>()), 0..3)).prop_map(|(mut input, hits)| {
        for (at, byte) in hits {
            let at = at.index(input.len());
            input[at] = byte;
        }
        Input(input)
    })
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn whatever_a_content_header_holds_lapin_is_given_one_that_it_can_read(input in bitten(content_header())) {
        frames::holds(&input.0);
    }

    #[test]
    fn what_is_nearly_a_job_is_let_in_unaltered_or_kept_whole(input in broken(delivery())) {
        admission::holds(&input.0);
    }

    #[test]
    fn what_is_nearly_a_ticket_is_handed_on_or_given_back_whole(input in broken(kept())) {
        ticket::holds(&input.0);
    }

    #[test]
    fn what_is_nearly_a_reply_is_read_within_bounds_and_shows_no_key(input in broken(answer())) {
        reply::holds(&input.0);
    }

    #[test]
    fn a_key_in_any_place_of_a_reply_is_shown_in_no_error(
        place in any::<Index>(), input in answer(), key in select(KEYS.to_vec()),
    ) {
        let at = (0..=place.index(input.len() + 1)).rev().find(|at| input.is_char_boundary(*at)).unwrap_or(0);
        for planted in [KEY_HERE, key] {
            reply::holds(format!("{}{planted}{}", &input[..at], &input[at..]).as_bytes());
        }
    }

    #[test]
    fn any_bytes_keep_every_property(input in prop::collection::vec(any::<u8>(), 0..512)) {
        admission::holds(&input);
        frames::holds(&input);
        ticket::holds(&input);
        reply::holds(&input);
    }
}
