//! A filter on what the broker sends, under lapin.
//!
//! lapin reads AMQP's short strings (names, ids, header names) as UTF-8, knows fewer types than a
//! table may hold, reads tables by recursion, and takes no frame above the negotiated size, though
//! the broker adds headers to messages that just fit. Over any of these it gives the connection up,
//! so any user who may publish could end every session that receives the message. Therefore the
//! filter checks content headers before lapin reads them. It replaces one that lapin cannot read by
//! one that it can, which names what is gone ([`crate::domain::unreadable`]). All other bytes pass
//! untouched, and in place: bodies are neither read nor copied.
//!
//! [`Filter`] is the state machine, without any I/O. `content` reads content headers, `stream` puts
//! the filter on a connection.

mod content;
pub(super) mod stream;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Poll, ready};

pub use content::MAX_DEPTH;

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const HEARTBEAT: u8 = 8;
/// Type, channel and size, before a frame's payload.
const HEAD: usize = 7;
/// The same, and the byte after the payload.
const AROUND: usize = HEAD + 1;
/// A frame that has arrived in part is held until the rest has arrived. A larger one is assembled
/// in a buffer of its own, so that it is not moved at each read.
const HELD: usize = 16 * 1024;
/// The most that is kept of a larger frame.
const MAX_ASSEMBLED: usize = 1024 * 1024;
/// Read at once where there is no room for more.
const SCRATCH: usize = 4096;
/// No frame is made smaller than this, since the properties of one take some room.
const LEAST: usize = 8 * 1024;

/// The negotiated size of frames, once it is: 0 before.
#[derive(Debug, Clone, Default)]
pub struct FrameMax(Arc<AtomicU32>);

impl FrameMax {
    /// A size that was negotiated.
    #[must_use]
    pub fn new(size: u32) -> Self {
        let negotiated = Self::default();
        negotiated.set(size);
        negotiated
    }

    /// Bytes that a frame may have from now on.
    pub fn set(&self, size: u32) {
        self.0.store(size, Ordering::Relaxed);
    }

    fn most(&self) -> usize {
        match usize::try_from(self.0.load(Ordering::Relaxed)) {
            Ok(0) | Err(_) => MAX_ASSEMBLED,
            Ok(size) => size.max(LEAST),
        }
    }
}

/// A method whose short strings a publisher, or a name that the broker cuts at 255 bytes, can have
/// put anything into.
struct Method {
    class: u16,
    method: u16,
    fields: &'static [Field],
    /// Content follows, and its header names what was wrong with the names.
    content: bool,
}

#[derive(Clone, Copy)]
enum Field {
    Short,
    Skip(usize),
}

use Field::{Short, Skip};

const METHODS: [Method; 7] = [
    // basic.deliver, first since there is one for each message: consumer, tag and redelivered,
    // exchange, routing key.
    Method { class: 60, method: 60, fields: &[Short, Skip(9), Short, Short], content: true },
    // basic.get-ok
    Method { class: 60, method: 71, fields: &[Skip(9), Short, Short], content: true },
    // basic.return
    Method { class: 60, method: 50, fields: &[Skip(2), Short, Short, Short], content: false },
    // basic.cancel
    Method { class: 60, method: 30, fields: &[Short], content: false },
    // channel.close, connection.close and connection.blocked: a text with names in it
    Method { class: 20, method: 40, fields: &[Skip(2), Short], content: false },
    Method { class: 10, method: 50, fields: &[Skip(2), Short], content: false },
    Method { class: 10, method: 60, fields: &[Short], content: false },
];

/// The bytes of one connection, frame by frame, however the reads cut them.
#[derive(Debug, Default)]
pub struct Filter {
    frame_max: FrameMax,
    /// Bytes of the frame under way that pass unchecked.
    passing: usize,
    /// No frames: whatever this is, it is lapin's to refuse.
    is_foreign: bool,
    /// The beginning of a frame, to be put before what is read next.
    held: Vec<u8>,
    /// The beginning of a content header that is too large to be held, and how many of its bytes
    /// are still to arrive.
    assembling: Option<(Vec<u8>, usize)>,
    /// Bytes that go out before anything else.
    ready: Vec<u8>,
    ready_from: usize,
    /// Channels whose next content belongs to a method with names that were not UTF-8.
    strange: Vec<[u8; 2]>,
}

enum FrameKind {
    /// The frame has not arrived whole.
    Partly {
        size: usize,
        assemble: bool,
    },
    /// It is of no interest.
    Pass(usize),
    Method(usize),
    Header(usize),
    Foreign,
}

impl Filter {
    /// A filter for a new connection.
    #[must_use]
    pub fn new(frame_max: FrameMax) -> Self {
        Self { frame_max, ..Self::default() }
    }

    /// Reads into a buffer, by what reads the connection itself: as
    /// [`futures_io::AsyncRead::poll_read`] does.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn read(
        &mut self,
        buffer: &mut [u8],
        mut connection: impl FnMut(&mut [u8]) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        while !buffer.is_empty() {
            let count = self.take(buffer);
            if count > 0 {
                return Poll::Ready(Ok(count));
            }
            let held = self.held.len();
            if held < buffer.len() {
                let read = ready!(connection(&mut buffer[held..]))?;
                if read == 0 {
                    break;
                }
                buffer[..held].copy_from_slice(&std::mem::take(&mut self.held));
                let count = self.pass(&mut buffer[..held + read]);
                if count > 0 {
                    return Poll::Ready(Ok(count));
                }
            } else {
                // The end of lapin's ring, which has less room than the beginning of a frame takes.
                let mut apart = vec![0; held + SCRATCH];
                let read = ready!(connection(&mut apart[held..]))?;
                if read == 0 {
                    break;
                }
                apart[..held].copy_from_slice(&std::mem::take(&mut self.held));
                apart.truncate(held + read);
                let count = self.pass(&mut apart);
                apart.truncate(count);
                apart.append(&mut self.ready);
                self.ready = apart;
            }
        }
        Poll::Ready(Ok(0))
    }

    /// Moves bytes that are ready into the buffer, and returns how many.
    fn take(&mut self, buffer: &mut [u8]) -> usize {
        let left = &self.ready[self.ready_from..];
        let count = left.len().min(buffer.len());
        buffer[..count].copy_from_slice(&left[..count]);
        self.ready_from += count;
        if self.ready_from == self.ready.len() {
            // Hostile messages are rare, and what they have taken is not kept.
            (self.ready, self.ready_from) = (Vec::new(), 0);
        }
        count
    }

    /// Filters bytes as they were read, behind those that were held. Returns how many of them may
    /// go out as they stand; the rest has been taken, and is ready behind them, or held.
    fn pass(&mut self, bytes: &mut [u8]) -> usize {
        let (mut at, mut in_place) = (0, None);
        if let Some(after) = self.assemble(bytes) {
            at = after;
            in_place = Some(0);
        }
        while at < bytes.len() {
            let rest = &mut bytes[at..];
            let size = if self.is_foreign {
                rest.len()
            } else if self.passing > 0 {
                let size = self.passing.min(rest.len());
                self.passing -= size;
                size
            } else {
                match self.classify(rest) {
                    FrameKind::Foreign => {
                        self.is_foreign = true;
                        continue;
                    }
                    FrameKind::Pass(size) => {
                        self.passing = size;
                        continue;
                    }
                    FrameKind::Partly { size, assemble } => {
                        let left = size - rest.len();
                        let begun = rest[..rest.len().min(MAX_ASSEMBLED)].to_vec();
                        if assemble {
                            self.assembling = Some((begun, left));
                        } else {
                            self.held = begun;
                        }
                        return in_place.unwrap_or(at);
                    }
                    FrameKind::Method(size) => {
                        self.method(&mut rest[..size]);
                        size
                    }
                    FrameKind::Header(size) => {
                        if let Some(frame) = self.replacement(&rest[..size], size) {
                            self.ready.extend(frame);
                            in_place.get_or_insert(at);
                            at += size;
                            continue;
                        }
                        size
                    }
                }
            };
            if in_place.is_some() {
                self.ready.extend_from_slice(&bytes[at..at + size]);
            }
            at += size;
        }
        in_place.unwrap_or(at)
    }

    /// Adds to the frame that is being assembled. Where there is one, everything goes out by way of
    /// `ready`, and this returns from where on.
    fn assemble(&mut self, bytes: &[u8]) -> Option<usize> {
        let (mut frame, left) = self.assembling.take()?;
        let added = left.min(bytes.len());
        let room = MAX_ASSEMBLED.saturating_sub(frame.len()).min(added);
        frame.extend_from_slice(&bytes[..room]);
        if added < left {
            self.assembling = Some((frame, left - added));
            return Some(added);
        }
        let size = frame_size(&frame);
        let frame = self.replacement(&frame, size).unwrap_or(frame);
        self.ready.extend(frame);
        Some(added)
    }

    fn classify(&self, rest: &[u8]) -> FrameKind {
        match rest[0] {
            METHOD | HEADER | BODY | HEARTBEAT if rest.len() < HEAD => {
                FrameKind::Partly { size: HEAD, assemble: false }
            }
            BODY | HEARTBEAT => FrameKind::Pass(frame_size(rest)),
            METHOD => {
                let size = frame_size(rest);
                match known(rest) {
                    // A method takes a few hundred bytes.
                    _ if size > HELD => FrameKind::Pass(size),
                    _ if rest.len() < size => FrameKind::Partly { size, assemble: false },
                    Some(_) => FrameKind::Method(size),
                    None => FrameKind::Pass(size),
                }
            }
            HEADER => match frame_size(rest) {
                size if rest.len() < size => FrameKind::Partly { size, assemble: size > HELD },
                size => FrameKind::Header(size),
            },
            _ => FrameKind::Foreign,
        }
    }

    /// Makes the names of a method UTF-8, byte by byte.
    fn method(&mut self, frame: &mut [u8]) {
        let Some(method) = known(frame) else { return };
        let channel = [frame[1], frame[2]];
        let end = frame.len() - 1;
        let (mut at, mut changed) = (HEAD + 4, false);
        for field in method.fields {
            match field {
                Skip(count) => at += count,
                Short => {
                    let Some(length) = frame.get(at).copied() else { return };
                    let (from, to) = (at + 1, at + 1 + usize::from(length));
                    if to > end {
                        return;
                    }
                    changed |= made_utf8(&mut frame[from..to]);
                    at = to;
                }
            }
        }
        self.strange.retain(|strange| *strange != channel);
        if changed && method.content {
            self.strange.push(channel);
        }
    }

    /// What goes out in the place of a content header, where it cannot stay as it is. The frame may
    /// be cut off.
    fn replacement(&mut self, frame: &[u8], size: usize) -> Option<Vec<u8>> {
        let channel = [frame[1], frame[2]];
        let is_strange = self.strange.contains(&channel);
        self.strange.retain(|strange| *strange != channel);
        let whole = frame.len() == size;
        let payload = &frame[HEAD..frame.len() - usize::from(whole)];
        let most = self.frame_max.most();
        if whole && size <= most && !is_strange && content::check(payload).is_ok() {
            return None;
        }
        Some(content::rewritten(channel, payload, most, is_strange))
    }
}

/// Of a frame that has at least its head.
fn frame_size(frame: &[u8]) -> usize {
    let length = u32::from_be_bytes([frame[3], frame[4], frame[5], frame[6]]);
    usize::try_from(length).unwrap_or(usize::MAX - AROUND) + AROUND
}

fn known(frame: &[u8]) -> Option<&'static Method> {
    let id = frame.get(HEAD..HEAD + 4)?;
    let (class, method) = (u16::from_be_bytes([id[0], id[1]]), u16::from_be_bytes([id[2], id[3]]));
    METHODS.iter().find(|known| known.class == class && known.method == method)
}

/// Replaces what is not UTF-8, and returns whether there was any.
fn made_utf8(bytes: &mut [u8]) -> bool {
    let (mut from, mut changed) = (0, false);
    while let Err(error) = std::str::from_utf8(&bytes[from..]) {
        let bad = from + error.valid_up_to();
        let to = error.error_len().map_or(bytes.len(), |length| bad + length);
        bytes[bad..to].fill(b'?');
        (from, changed) = (to, true);
    }
    changed
}
