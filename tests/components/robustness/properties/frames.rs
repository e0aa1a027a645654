//! What holds for any content header that a broker hands on, cut into reads in any way.
//!
//! An input is two bytes that choose how it is read, and a content header's payload.

use std::task::Poll;

use amq_protocol::frame::{AMQPFrame, parse_frame};
use amq_protocol::types::AMQPValue;
use captcha_worker::broker::amqp::filter::{Filter, FrameMax, MAX_DEPTH};
use captcha_worker::domain::fault::local_code;
use captcha_worker::domain::unreadable::UNREADABLE_HEADER;

/// As small as a frame may be made, so that inputs of the fuzzer's size are beyond it too.
const FRAME: usize = 8 * 1024;

fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![kind];
    frame.extend(channel.to_be_bytes());
    frame.extend(u32::try_from(payload.len()).expect("small").to_be_bytes());
    frame.extend(payload);
    frame.push(206);
    frame
}

fn short(text: &[u8]) -> Vec<u8> {
    [&[u8::try_from(text.len()).expect("short")], text].concat()
}

pub(crate) fn deliver(channel: u16, routing_key: &[u8]) -> Vec<u8> {
    let payload = [
        &[0, 60, 0, 60][..],
        &short(b"tag"),
        &7_u64.to_be_bytes(),
        &[1],
        &short(b"captcha.jobs"),
        &short(routing_key),
    ];
    frame(1, channel, &payload.concat())
}

/// A content header with an id and nothing else.
pub(crate) fn good(id: &[u8]) -> Vec<u8> {
    [&[0, 60, 0, 0][..], &3_u64.to_be_bytes(), &0x0080_u16.to_be_bytes(), &short(id)].concat()
}

/// All that lapin would be given, where the connection hands out so many bytes at most and lapin
/// has so much room.
fn filtered(stream: &[u8], most: usize, room: usize) -> Vec<u8> {
    let mut filter = Filter::new(FrameMax::new(FRAME as u32));
    let (mut at, mut out) = (0, Vec::new());
    let mut buffer = vec![0xaa; room];
    loop {
        let read = filter.read(&mut buffer, |buffer| {
            let count = most.min(buffer.len()).min(stream.len() - at);
            buffer[..count].copy_from_slice(&stream[at..at + count]);
            at += count;
            Poll::Ready(Ok(count))
        });
        match read {
            Poll::Ready(Ok(0)) => return out,
            Poll::Ready(Ok(count)) => out.extend_from_slice(&buffer[..count]),
            other => panic!("{other:?}"),
        }
    }
}

fn parsed(mut bytes: &[u8]) -> Vec<(AMQPFrame, usize)> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let (rest, frame) =
            parse_frame(bytes).unwrap_or_else(|error| panic!("{error:?}: {}", bytes.escape_ascii()));
        frames.push((frame, bytes.len() - rest.len()));
        bytes = rest;
    }
    frames
}

pub(crate) fn holds(input: &[u8]) {
    let Some((chosen, payload)) = input.split_at_checked(2) else { return };
    let (most, room) = (usize::from(chosen[0]) * 67 + 1, usize::from(chosen[1]) * 131 + 1);
    let hostile = frame(2, 1, payload);
    let before = [deliver(2, b"captcha.jobs"), frame(2, 2, &good(b"before")), frame(3, 2, b"abc")].concat();
    let after = [
        frame(3, 1, b"\x02\xff\xce"),
        frame(8, 0, b""),
        deliver(1, b"captcha.jobs"),
        frame(2, 1, &good("ä".as_bytes())),
        frame(3, 1, &[206; 300]),
    ]
    .concat();
    let stream = [&before[..], &deliver(1, b"captcha.jobs"), &hostile, &after].concat();

    let out = filtered(&stream, usize::MAX, stream.len() + FRAME);
    assert!(filtered(&stream, most, room) == out, "reads of {most} bytes into {room}");
    let begun = before.len() + deliver(1, b"captcha.jobs").len();
    assert!(out.starts_with(&stream[..begun]) && out.ends_with(&after), "what is around it is untouched");

    let frames = parsed(&out);
    assert_eq!(frames.len(), 10, "one frame for each");
    assert!(frames.iter().all(|(_, size)| *size <= FRAME));
    let (AMQPFrame::Header(1, header), size) = &frames[4] else { panic!("{:?}", frames[4]) };
    let said = header.properties.headers().as_ref().and_then(|table| table.inner().get(UNREADABLE_HEADER));
    if out[begun..begun + size] != hostile {
        let Some(AMQPValue::LongString(said)) = said else { panic!("what was taken out is not said") };
        let said = std::str::from_utf8(said.as_bytes()).expect("text");
        // lapin's parser goes as deep as a table does, and this thread's stack ends.
        let may_be_deep = payload.iter().filter(|byte| matches!(byte, b'A' | b'F')).count() >= MAX_DEPTH;
        assert!(
            may_be_deep || hostile.len() > FRAME || parse_frame(&hostile[..]).is_err(),
            "in vain: {said}"
        );
        let codes =
            [local_code::PROPERTIES_NOT_UTF8, local_code::HEADERS_UNREADABLE, local_code::HEADERS_TOO_LARGE];
        assert!(said.len() < 1_000 && codes.iter().any(|code| said.starts_with(code)), "{said}");
    }
    // A delivery to an odd key says so, whatever comes with it.
    let odd =
        [deliver(1, b"k\xff"), hostile, frame(3, 1, b"abc"), deliver(1, b"k"), frame(2, 1, &good(b"x"))]
            .concat();
    let frames = parsed(&filtered(&odd, most, room));
    assert_eq!(frames.len(), 5);
    let said = |frame: &AMQPFrame| match frame {
        AMQPFrame::Header(_, header) => header
            .properties
            .headers()
            .as_ref()
            .is_some_and(|table| table.inner().contains_key(UNREADABLE_HEADER)),
        _ => false,
    };
    assert_eq!((said(&frames[1].0), said(&frames[4].0)), (true, false));
}
