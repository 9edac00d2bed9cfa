//! HTTP/1.1 heads that open WebSockets and event streams.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use memchr::memmem;
use sha1::{Digest as _, Sha1};

/// End of a head.
const END: &[u8] = b"\r\n\r\n";

/// Builds a WebSocket upgrade request. `extra` holds whole header lines.
pub(crate) fn upgrade(path: &str, extra: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: bG9hZCBvZiB0aWRld2lyZQ==\r\n{extra}\r\n"
    )
    .into_bytes()
}

/// Builds a request for an event stream.
pub(crate) fn event_stream(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n")
        .into_bytes()
}

/// Builds the response that accepts a WebSocket upgrade.
pub(crate) fn grant(head: &[u8]) -> Vec<u8> {
    let key = header(head, "sec-websocket-key").unwrap_or_default();
    let mut hash = Sha1::new();
    hash.update(key.as_bytes());
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let accept = STANDARD.encode(hash.finalize());
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    )
    .into_bytes()
}

/// Returns the length of the head, once it is complete.
pub(crate) fn head_length(bytes: &[u8]) -> Option<usize> {
    memmem::find(bytes, END).map(|at| at + END.len())
}

/// Returns the path of a request.
pub(crate) fn path(head: &[u8]) -> &str {
    let line = std::str::from_utf8(head).unwrap_or_default();
    line.split(' ').nth(1).unwrap_or_default()
}

/// Returns the status of a response.
pub(crate) fn status(head: &[u8]) -> u16 {
    let line = head.split(|&byte| byte == b'\r').next().unwrap_or_default();
    let code = std::str::from_utf8(line)
        .unwrap_or_default()
        .split(' ')
        .nth(1);
    code.and_then(|code| code.parse().ok()).unwrap_or(0)
}

/// Returns the value of a header. `name` is in lower case.
pub(crate) fn header<'a>(head: &'a [u8], name: &str) -> Option<&'a str> {
    let mut lines = std::str::from_utf8(head).ok()?.lines();
    lines.find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read() {
        let head = upgrade("/sub?ch=a,b", "X-A: 1\r\n");
        assert_eq!(head_length(&head), Some(head.len()));
        assert_eq!(path(&head), "/sub?ch=a,b");
        assert_eq!(header(&head, "x-a"), Some("1"));
        assert_eq!(head_length(&head[..head.len() - 1]), None);
        assert_eq!(status(b"HTTP/1.1 503 No\r\n\r\n"), 503);
    }

    #[test]
    fn the_key_is_answered_as_the_rfc_shows() {
        let head = b"GET / HTTP/1.1\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        let granted = grant(head);
        assert_eq!(
            header(&granted, "sec-websocket-accept"),
            Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
        );
    }
}
