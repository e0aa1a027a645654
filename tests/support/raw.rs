//! A publisher without a client library: AMQP 0-9-1 by hand, so that properties can hold what no
//! library would send.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const TIMEOUT: Duration = Duration::from_secs(20);
/// Frames as RabbitMQ has them by default.
pub const FRAME: usize = 131_072;

/// An AMQP short string of any bytes.
pub fn short(text: &[u8]) -> Vec<u8> {
    [&[u8::try_from(text.len()).expect("255 bytes at most")], text].concat()
}

/// A length of four bytes, and what it is the length of.
pub fn long(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).expect("not so long").to_be_bytes()[..], bytes].concat()
}

/// A table's entry: a name, and a value with its type.
pub fn entry(name: &[u8], value: &[u8]) -> Vec<u8> {
    [short(name), value.to_vec()].concat()
}

/// A long string as a value.
pub fn text(bytes: &[u8]) -> Vec<u8> {
    [b"S", &long(bytes)[..]].concat()
}

/// An array as a value.
pub fn array(values: &[Vec<u8>]) -> Vec<u8> {
    [b"A", &long(&values.concat())[..]].concat()
}

/// A table as a value.
pub fn table(entries: &[Vec<u8>]) -> Vec<u8> {
    [b"F", &long(&entries.concat())[..]].concat()
}

/// Properties as they go on the wire, by their names.
#[derive(Debug, Clone, Default)]
pub struct Properties([Option<Vec<u8>>; 14]);

pub const SHORT_STRINGS: [&str; 10] = [
    "content_type",
    "content_encoding",
    "correlation_id",
    "reply_to",
    "expiration",
    "message_id",
    "type",
    "user_id",
    "app_id",
    "cluster_id",
];

impl Properties {
    /// With a short string of any bytes.
    pub fn with(mut self, name: &str, value: &[u8]) -> Self {
        let at = SHORT_STRINGS.iter().position(|known| *known == name).expect("a property");
        self.0[[0, 1, 5, 6, 7, 8, 10, 11, 12, 13][at]] = Some(short(value));
        self
    }

    /// With a table of any entries.
    pub fn with_headers(mut self, entries: &[Vec<u8>]) -> Self {
        self.0[2] = Some(long(&entries.concat()));
        self
    }

    /// How many bytes the frame with them has.
    pub fn frame(&self) -> usize {
        8 + 14 + self.0.iter().flatten().map(Vec::len).sum::<usize>()
    }

    fn to_wire(&self) -> Vec<u8> {
        let flags = (0..14).filter(|at| self.0[*at].is_some()).fold(0_u16, |flags, at| flags | 0x8000 >> at);
        let mut bytes = flags.to_be_bytes().to_vec();
        self.0.iter().flatten().for_each(|property| bytes.extend(property));
        bytes
    }
}

/// A connection with one channel, whose publishes are confirmed.
pub struct RawPublisher {
    stream: TcpStream,
}

impl RawPublisher {
    /// Logs in on this machine.
    pub async fn connect(port: u16, user: &str, password: &str) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.expect("the broker listens");
        // Nagle's algorithm and delayed acks would hold up each message, of three frames, for 40
        // ms.
        stream.set_nodelay(true).expect("a live socket");
        let mut raw = Self { stream };
        raw.write(b"AMQP\x00\x00\x09\x01").await;
        raw.expect(10, 10).await;
        let response = [b"\0", user.as_bytes(), b"\0", password.as_bytes()].concat();
        let start_ok = [long(b""), short(b"PLAIN"), long(&response), short(b"en_US")].concat();
        raw.call(0, 10, 11, &start_ok).await;
        raw.expect(10, 30).await;
        let frame = u32::try_from(FRAME).expect("small").to_be_bytes();
        raw.call(0, 10, 31, &[&[0, 8][..], &frame, &[0, 0]].concat()).await;
        raw.call(0, 10, 40, &[short(b"/"), short(b""), vec![0]].concat()).await;
        raw.expect(10, 41).await;
        raw.call(1, 20, 10, &short(b"")).await;
        raw.expect(20, 11).await;
        raw.call(1, 85, 10, &[0]).await;
        raw.expect(85, 11).await;
        raw
    }

    /// Publishes, and waits for the broker to have it.
    ///
    /// # Errors
    /// What the broker says of it, which has ended the channel or the connection.
    pub async fn publish(
        &mut self,
        exchange: &str,
        routing_key: &[u8],
        properties: &Properties,
        body: &[u8],
    ) -> Result<(), String> {
        let publish = [vec![0, 0], short(exchange.as_bytes()), short(routing_key), vec![0]].concat();
        self.call(1, 60, 40, &publish).await;
        let size = u64::try_from(body.len()).expect("small").to_be_bytes();
        self.frame(2, 1, &[&[0, 60, 0, 0][..], &size, &properties.to_wire()].concat()).await;
        for part in body.chunks(FRAME - 8) {
            self.frame(3, 1, part).await;
        }
        match self.next().await {
            (60, 80, _) => Ok(()),
            (class, method, rest) => {
                Err(format!("{class}.{method}: {}", String::from_utf8_lossy(&rest).escape_debug()))
            }
        }
    }

    async fn call(&mut self, channel: u16, class: u16, method: u16, arguments: &[u8]) {
        let payload = [&class.to_be_bytes()[..], &method.to_be_bytes(), arguments].concat();
        self.frame(1, channel, &payload).await;
    }

    async fn frame(&mut self, kind: u8, channel: u16, payload: &[u8]) {
        self.write(&[&[kind][..], &channel.to_be_bytes(), &long(payload), &[206]].concat()).await;
    }

    async fn write(&mut self, bytes: &[u8]) {
        // A broker that has ended the connection says so to whoever reads.
        let _ = timeout(TIMEOUT, self.stream.write_all(bytes)).await.expect("the broker reads");
    }

    async fn expect(&mut self, class: u16, method: u16) {
        let (came, of, rest) = self.next().await;
        assert_eq!((came, of), (class, method), "{}", String::from_utf8_lossy(&rest));
    }

    /// The next method; the connection's end is one of class 0.
    async fn next(&mut self) -> (u16, u16, Vec<u8>) {
        loop {
            let mut head = [0; 7];
            if timeout(TIMEOUT, self.stream.read_exact(&mut head)).await.expect("the broker answers").is_err()
            {
                return (0, 0, Vec::new());
            }
            let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
            let mut payload = vec![0; size as usize + 1];
            if timeout(TIMEOUT, self.stream.read_exact(&mut payload)).await.expect("in time").is_err() {
                return (0, 0, Vec::new());
            }
            if head[0] == 1 {
                let of = |at: usize| u16::from_be_bytes([payload[at], payload[at + 1]]);
                return (of(0), of(2), payload[4..payload.len() - 1].to_vec());
            }
        }
    }
}
