//! What must hold for any bytes at all: the one place where it is written down, for the fuzz
//! targets (fuzz/) and for `make test` alike.
//!
//! Each property takes an input of bytes and panics where something does not hold. An input is a
//! [`DeadLetter`], or for `frames` a piece of AMQP.

pub(crate) mod admission;
pub(crate) mod frames;
pub(crate) mod letter;
pub(crate) mod reply;
pub(crate) mod ticket;

use captcha_worker::domain::time::Timestamp;

/// The moment at which every input is read.
pub(crate) const NOW: Timestamp = Timestamp::from_millis(1_790_000_000_000);

/// A property of all inputs.
pub(crate) type Property = fn(&[u8]);

/// Every target with its property.
pub(crate) const TARGETS: [(&str, Property); 4] = [
    ("admission", admission::holds),
    ("frames", frames::holds),
    ("ticket", ticket::holds),
    ("reply", reply::holds),
];

/// Longest text for people that a fault may carry, in bytes: it stands in outcomes, logs and on the
/// ticket queue.
pub(crate) const MAX_DESCRIPTION: usize = 4_096;
