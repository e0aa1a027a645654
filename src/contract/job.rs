//! What a publisher sends.

use schemars::{JsonSchema, Schema};
use serde_json::{Value, json};

use crate::domain::job::{IMAGE_BYTES, MAX_ID, MAX_TYPE};
use crate::domain::outcome::TIME_PATTERN;

/// Base64 of either alphabet, padded or not, white space ignored.
const BASE64: &str = r"^[A-Za-z0-9+/_\r\n\t -]*(=[\r\n\t ]*){0,2}$";
/// Names that admission refuses for looking like one that decides where the task may go.
const LOOKALIKE: &str = "^([Tt][Yy][Pp][Ee]|[Ww][Ee][Bb][Ss][Ii][Tt][Ee][Uu][Rr][Ll])$";

#[derive(JsonSchema)]
#[schemars(
    deny_unknown_fields,
    description = "What a publisher sends: UTF-8, at most 1 MiB, nested at most 64 levels. Any other top-level field is refused by name. \
        A schema cannot say all that the worker minds: a field that stands twice, lengths in bytes where the schema counts characters, \
        the decoded size of an image, and the operator's policy of sites.",
    example = example()
)]
#[expect(dead_code, reason = "it has a schema, and nothing is read into it: see this room's head")]
pub(super) struct Job {
    #[schemars(
        skip_serializing_if = "Option::is_none",
        length(min = 1, max = MAX_ID),
        regex(pattern = r"^[^\u0000]*$"),
        description = "The job's name in its outcome: 1 to 255 bytes (not characters) without NUL. Absent or null, the AMQP property \
            message_id is taken, else a UUID is made."
    )]
    id: Option<String>,
    task: Task,
    #[schemars(
        skip_serializing_if = "Option::is_none",
        regex(pattern = TIME_PATTERN),
        extend("format" = "date-time"),
        description = "RFC 3339. Past it nothing more is spent on the job: it is neither submitted nor polled, and ends in class expired. \
            Null counts as absent."
    )]
    deadline: Option<String>,
    #[schemars(skip_serializing_if = "Option::is_none", description = "Any JSON; echoed in the outcome.")]
    metadata: Option<Value>,
}

#[derive(JsonSchema)]
#[schemars(
    transform = judged_by_type,
    description = "What is to be recognised. It goes to the API byte for byte; fields that are not listed here pass. No field listed here \
        may stand twice, nor one that differs from type or websiteURL only by case."
)]
#[expect(dead_code, reason = "it has a schema, and nothing is read into it: see this room's head")]
struct Task {
    #[schemars(
        rename = "type",
        length(min = 1, max = MAX_TYPE),
        description = "The API's name of the kind of task: 1 to 100 bytes."
    )]
    kind: String,
    #[schemars(
        skip_serializing_if = "Option::is_none",
        description = "Of an ImageToTextTask: the image in base64, 100 to 50,000 bytes when decoded. Of another type: whatever it asks for."
    )]
    body: Option<Value>,
    #[schemars(
        rename = "websiteURL",
        skip_serializing_if = "Option::is_none",
        description = "The site that the task is bound to. The operator's policy must list its host."
    )]
    website_url: Option<String>,
    #[schemars(
        rename = "proxyAddress",
        skip_serializing_if = "Option::is_none",
        description = "The publisher's own proxy, where the type takes one."
    )]
    proxy_address: Option<Value>,
    #[schemars(
        rename = "proxyPort",
        skip_serializing_if = "Option::is_none",
        description = "That proxy's port."
    )]
    proxy_port: Option<Value>,
}

fn judged_by_type(task: &mut Schema) {
    // Three bytes take four digits, and the last one or two bytes one digit more than they are.
    let (whole, rest) = (IMAGE_BYTES.start() / 3, IMAGE_BYTES.start() % 3);
    let digits = whole * 4 + rest + usize::from(rest > 0);
    let names = json!({"anyOf": [{"enum": ["type", "websiteURL"]}, {"not": {"pattern": LOOKALIKE}}]});
    task.insert("propertyNames".to_owned(), names);
    task.insert(
        "if".to_owned(),
        json!({"properties": {"type": {"const": "ImageToTextTask"}}, "required": ["type"]}),
    );
    let image = json!({"type": "string", "minLength": digits, "pattern": BASE64});
    task.insert("then".to_owned(), json!({"properties": {"body": image}, "required": ["body"]}));
}

/// A whole job, with a picture of nothing.
pub(super) fn example() -> Value {
    let picture = "iVBORw0KGgoAAAANSUhEUgAAABAAAAAIAQAAAADHE6B3".to_owned() + &"A".repeat(96);
    json!({
        "id": "order-17",
        "task": {"type": "ImageToTextTask", "body": picture},
        "deadline": "2026-11-23T10:00:00Z",
        "metadata": {"any": "json"}
    })
}
