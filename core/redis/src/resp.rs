//! RESP: the protocol of Redis, version 2. Commands are encoded, replies decoded.
//!
//! A reply is decoded once it has arrived whole. Its texts share the memory of the read buffer:
//! keep a copy of what stays.
//!
//! <https://redis.io/docs/latest/develop/reference/protocol-spec/>

use bytes::{Buf as _, Bytes, BytesMut};

use crate::error::RedisError;

/// Longest accepted reply, in bytes: more than any reply to our commands. A stream of bytes that
/// is not RESP could announce any length.
const MAX_REPLY_BYTES: usize = 1 << 30;

/// Arrays within arrays at most.
const MAX_DEPTH: usize = 8;

/// A reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// No value.
    Nil,
    /// A number.
    Integer(i64),
    /// A text, simple or bulk.
    Text(Bytes),
    /// An error of the server.
    Error(String),
    /// Several replies.
    Array(Vec<Reply>),
}

impl Reply {
    /// The text of a reply.
    ///
    /// # Errors
    /// It is an error, or no text.
    pub fn text(self) -> Result<Bytes, RedisError> {
        match self {
            Self::Text(text) => Ok(text),
            other => Err(other.unexpected("a text")),
        }
    }

    /// The text of a reply as UTF-8.
    ///
    /// # Errors
    /// It is an error, or no text.
    pub fn string(self) -> Result<String, RedisError> {
        let text = self.text()?;
        String::from_utf8(text.into())
            .map_err(|_| RedisError::Protocol("a text is not UTF-8".to_owned()))
    }

    /// The parts of a reply.
    ///
    /// # Errors
    /// It is an error, or no array.
    pub fn array(self) -> Result<Vec<Self>, RedisError> {
        match self {
            Self::Array(parts) => Ok(parts),
            other => Err(other.unexpected("an array")),
        }
    }

    fn unexpected(self, expected: &str) -> RedisError {
        match self {
            Self::Error(text) => RedisError::Refused(text),
            other => RedisError::Protocol(format!("{other:?} came, expected {expected}")),
        }
    }
}

/// Appends a command of these arguments to `out`.
pub fn encode<A: AsRef<[u8]>>(out: &mut Vec<u8>, arguments: &[A]) {
    begin(out, arguments.len());
    for argument in arguments {
        push(out, argument.as_ref());
    }
}

/// Appends the beginning of a command of `count` arguments, which [`push`] adds.
pub fn begin(out: &mut Vec<u8>, count: usize) {
    header(out, b'*', count);
}

/// Appends one argument.
pub fn push(out: &mut Vec<u8>, argument: &[u8]) {
    header(out, b'$', argument.len());
    out.extend_from_slice(argument);
    out.extend_from_slice(b"\r\n");
}

fn header(out: &mut Vec<u8>, kind: u8, mut number: usize) {
    // Twenty digits are the most that 64 bits have.
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.push(kind);
    out.extend_from_slice(&digits[at..]);
    out.extend_from_slice(b"\r\n");
}

/// Takes the next reply from a buffer. None if it has not arrived whole.
///
/// # Errors
/// The bytes are not RESP.
pub fn decode(buffer: &mut BytesMut) -> Result<Option<Reply>, RedisError> {
    let Some(length) = measure(buffer, 0, 0)? else {
        return Ok(None);
    };
    let mut whole = buffer.split_to(length).freeze();
    read(&mut whole).map(Some)
}

/// The end of the value that begins at `from`. None if it has not arrived whole.
fn measure(buffer: &[u8], from: usize, depth: usize) -> Result<Option<usize>, RedisError> {
    let Some((line, end)) = line(buffer, from) else {
        return match buffer.len() - from > MAX_REPLY_BYTES {
            true => Err(malformed("a line without an end")),
            false => Ok(None),
        };
    };
    let (kind, rest) = line
        .split_first()
        .ok_or_else(|| malformed("an empty line"))?;
    match kind {
        b'+' | b'-' | b':' => Ok(Some(end)),
        b'$' => match length(rest)? {
            None => Ok(Some(end)),
            Some(length) => Ok((buffer.len() >= end + length + 2).then_some(end + length + 2)),
        },
        b'*' if depth < MAX_DEPTH => {
            let mut end = end;
            for _ in 0..length(rest)?.unwrap_or(0) {
                match measure(buffer, end, depth + 1)? {
                    Some(next) => end = next,
                    None => return Ok(None),
                }
            }
            Ok(Some(end))
        }
        _ => Err(malformed("an unknown kind of reply")),
    }
}

/// The line that begins at `from` and where the next one begins.
fn line(buffer: &[u8], from: usize) -> Option<(&[u8], usize)> {
    let rest = buffer.get(from..)?;
    let end = rest.windows(2).position(|two| two == b"\r\n")?;
    Some((&rest[..end], from + end + 2))
}

/// A length, or none for a value that is not there.
fn length(digits: &[u8]) -> Result<Option<usize>, RedisError> {
    if digits == b"-1" {
        return Ok(None);
    }
    let text = std::str::from_utf8(digits).ok();
    let length = text.and_then(|text| text.parse::<usize>().ok());
    let length = length.filter(|length| *length <= MAX_REPLY_BYTES);
    length.map(Some).ok_or_else(|| malformed("a length"))
}

/// Reads a value that has arrived whole.
fn read(bytes: &mut Bytes) -> Result<Reply, RedisError> {
    let Some((found, end)) = line(bytes, 0) else {
        return Err(malformed("a value that is cut off"));
    };
    let line = bytes.slice(0..found.len());
    bytes.advance(end);
    let (kind, rest) = (line.first().copied(), line.slice(line.len().min(1)..));
    match kind {
        Some(b'+') => Ok(Reply::Text(rest)),
        Some(b'-') => Ok(Reply::Error(String::from_utf8_lossy(&rest).into_owned())),
        Some(b':') => {
            let number = std::str::from_utf8(&rest)
                .ok()
                .and_then(|text| text.parse().ok());
            number
                .map(Reply::Integer)
                .ok_or_else(|| malformed("a number"))
        }
        Some(b'$') => match length(&rest)? {
            None => Ok(Reply::Nil),
            Some(length) if bytes.len() >= length + 2 => {
                let text = bytes.split_to(length);
                bytes.advance(2);
                Ok(Reply::Text(text))
            }
            Some(_) => Err(malformed("a text that is cut off")),
        },
        Some(b'*') => match length(&rest)? {
            None => Ok(Reply::Nil),
            Some(count) => (0..count)
                .map(|_| read(bytes))
                .collect::<Result<_, _>>()
                .map(Reply::Array),
        },
        _ => Err(malformed("an unknown kind of reply")),
    }
}

fn malformed(part: &str) -> RedisError {
    RedisError::Protocol(format!("{part} came, expected RESP"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(text: &'static str) -> Reply {
        Reply::Text(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn a_command_is_an_array_of_bulk_strings() {
        let mut out = Vec::new();
        encode(&mut out, &["GET", "a\r\nb", ""]);
        assert_eq!(out, b"*3\r\n$3\r\nGET\r\n$4\r\na\r\nb\r\n$0\r\n\r\n");
    }

    #[test]
    fn replies_are_decoded_however_they_are_cut() {
        let stream =
            b"+OK\r\n-ERR no\r\n:-7\r\n$-1\r\n*-1\r\n*3\r\n$4\r\na\r\nb\r\n:1\r\n*1\r\n$0\r\n\r\n";
        let expected = [
            text("OK"),
            Reply::Error("ERR no".to_owned()),
            Reply::Integer(-7),
            Reply::Nil,
            Reply::Nil,
            Reply::Array(vec![
                text("a\r\nb"),
                Reply::Integer(1),
                Reply::Array(vec![text("")]),
            ]),
        ];
        for size in 1..stream.len() {
            let mut buffer = BytesMut::new();
            let mut replies = Vec::new();
            for part in stream.chunks(size) {
                buffer.extend_from_slice(part);
                while let Some(reply) = decode(&mut buffer).unwrap() {
                    replies.push(reply);
                }
            }
            assert_eq!(replies, expected);
            assert!(buffer.is_empty());
        }
    }

    #[test]
    fn other_bytes_are_an_error() {
        let nested = b"*1\r\n".repeat(MAX_DEPTH + 1);
        for bytes in [
            &b"HTTP/1.1 400\r\n"[..],
            b"$x\r\n",
            b"*-2\r\n",
            b"\r\n",
            &nested,
        ] {
            let mut buffer = BytesMut::from(bytes);
            assert!(decode(&mut buffer).is_err(), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_not_panic(bytes: Vec<u8>) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = decode(&mut buffer) {}
        }
    }
}
