//! WebSocket upgrade: recognises an upgrade in the first request of a connection.
//!
//! A phone that reconnects opens one connection and upgrades it at once. Without hyper the
//! upgrade needs no HTTP state, and its response leaves in one write with the session's
//! first message. Every other request goes to hyper together with the bytes that were read.
//! Refused upgrades go there too, so that one place writes refusals.

use std::{
    io::{self, Write as _},
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri, header};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf},
    time::{Instant, timeout_at},
};

/// The beginning of an upgrade request.
const PATH: &[u8] = b"GET /v1/ws";

/// The longest head that is parsed here, in bytes. Requests with longer ones go to hyper.
const MAX_HEAD_BYTES: usize = 8 << 10;

/// The most headers that are parsed here. Requests with more go to hyper.
const MAX_HEADERS: usize = 64;

/// The first request of a connection.
pub(crate) enum FirstRequest {
    /// A request that may be an upgrade of `/v1/ws`.
    WebSocket(UpgradeRequest),
    /// The bytes of any other request, as they were read.
    Http(Bytes),
}

/// A request to upgrade to WebSocket.
pub(crate) struct UpgradeRequest {
    /// The parsed head.
    pub(crate) request: Box<Request<()>>,
    /// All bytes that were read: the head, and any bytes after it.
    pub(crate) read: Bytes,
    /// The length of the head, in bytes.
    pub(crate) head_length: usize,
}

/// Reads from a connection until the kind of its first request is known.
///
/// # Errors
/// The connection ended, or sent too little before `deadline`.
pub(crate) async fn read_first_request<I>(io: &mut I, deadline: Instant) -> io::Result<FirstRequest>
where
    I: AsyncRead + Unpin,
{
    let mut read = BytesMut::with_capacity(1 << 10);
    let reading = async {
        loop {
            if io.read_buf(&mut read).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            match parse_head(&read) {
                ParsedHead::Incomplete => {}
                ParsedHead::Http => {
                    return Ok(FirstRequest::Http(std::mem::take(&mut read).freeze()));
                }
                ParsedHead::WebSocket(request, head_length) => {
                    let read = std::mem::take(&mut read).freeze();
                    return Ok(FirstRequest::WebSocket(UpgradeRequest {
                        request,
                        read,
                        head_length,
                    }));
                }
            }
        }
    };
    timeout_at(deadline, reading)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// The result of parsing the bytes read so far.
enum ParsedHead {
    Incomplete,
    Http,
    WebSocket(Box<Request<()>>, usize),
}

fn parse_head(read: &[u8]) -> ParsedHead {
    let compared = read.len().min(PATH.len());
    if read[..compared] != PATH[..compared] {
        return ParsedHead::Http;
    }
    match read.get(PATH.len()) {
        None => return ParsedHead::Incomplete,
        Some(b' ' | b'?') => {}
        Some(_) => return ParsedHead::Http,
    }
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Request::new(&mut headers);
    match head.parse(read) {
        Ok(httparse::Status::Complete(length)) => match upgrade_request(&head) {
            Some(request) => ParsedHead::WebSocket(Box::new(request), length),
            None => ParsedHead::Http,
        },
        Ok(httparse::Status::Partial) if read.len() < MAX_HEAD_BYTES => ParsedHead::Incomplete,
        Ok(httparse::Status::Partial) | Err(_) => ParsedHead::Http,
    }
}

/// The request, if it is HTTP/1.1, has no body and has a WebSocket key.
fn upgrade_request(head: &httparse::Request<'_, '_>) -> Option<Request<()>> {
    if head.version != Some(1) {
        return None;
    }
    let mut headers = HeaderMap::with_capacity(head.headers.len());
    for field in head.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
        headers.append(name, HeaderValue::from_bytes(field.value).ok()?);
    }
    let has_body = headers.contains_key(header::CONTENT_LENGTH)
        || headers.contains_key(header::TRANSFER_ENCODING);
    if has_body || !headers.contains_key(header::SEC_WEBSOCKET_KEY) {
        return None;
    }
    let mut request = Request::new(());
    *request.method_mut() = Method::GET;
    *request.uri_mut() = head.path?.parse::<Uri>().ok()?;
    *request.headers_mut() = headers;
    Some(request)
}

/// Encodes the head of a response without a body.
pub(crate) fn encode_response_head<B>(response: &Response<B>) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    let status = response.status();
    let reason = status.canonical_reason().unwrap_or_default();
    // Writing to a vector cannot fail.
    let _ = write!(out, "HTTP/1.1 {} {reason}\r\n", status.as_str());
    for (name, value) in response.headers() {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
    out
}

/// A byte stream that first returns bytes that were read before.
pub(crate) struct Rewind<I> {
    head: Bytes,
    io: I,
}

impl<I> Rewind<I> {
    pub(crate) fn new(head: Bytes, io: I) -> Self {
        Self { head, io }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Rewind<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.head.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let part = self.head.len().min(buf.remaining());
        buf.put_slice(&self.head[..part]);
        self.head.advance(part);
        if self.head.is_empty() {
            self.head = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Rewind<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use tokio::io::AsyncReadExt;

    use super::*;

    const UPGRADE: &str = "GET /v1/ws?x=1 HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n\r\n";

    async fn read(parts: &[&[u8]]) -> io::Result<FirstRequest> {
        let mut io = chunked_reader(parts);
        read_first_request(&mut io, Instant::now() + Duration::from_secs(1)).await
    }

    /// Returns each part in a separate read.
    fn chunked_reader(parts: &[&[u8]]) -> impl AsyncRead + Unpin {
        let mut chained: Box<dyn AsyncRead + Unpin> = Box::new(tokio::io::empty());
        for part in parts.iter().rev() {
            let part = io::Cursor::new(part.to_vec());
            chained = Box::new(AsyncReadExt::chain(part, chained));
        }
        chained
    }

    #[tokio::test]
    async fn an_upgrade_is_recognised_whole_and_in_pieces() {
        for cut in [1, 5, 10, 11, 40, UPGRADE.len() - 1] {
            let (one, two) = UPGRADE.as_bytes().split_at(cut);
            let FirstRequest::WebSocket(upgrade) = read(&[one, two, b"more"]).await.unwrap() else {
                panic!("cut at {cut}: not recognised as an upgrade");
            };
            let (request, rest) = (upgrade.request, upgrade.read.slice(upgrade.head_length..));
            assert_eq!(request.uri().query(), Some("x=1"));
            assert_eq!(request.headers()[header::SEC_WEBSOCKET_VERSION], "13");
            assert!(rest.is_empty() || &rest[..] == b"more");
        }
    }

    #[tokio::test]
    async fn every_other_request_is_returned_as_it_was_read() {
        let with_body = UPGRADE.replace("Host: a", "Host: a\r\nContent-Length: 1");
        let old = UPGRADE.replace("HTTP/1.1", "HTTP/1.0");
        let long = format!("GET /v1/ws HTTP/1.1\r\nA: {}", "a".repeat(9_000));
        for text in [
            "GET / HTTP/1.1\r\n\r\n",
            "GET /v1/wsx HTTP/1.1\r\n\r\n",
            "POST /v1/ws HTTP/1.1\r\n\r\n",
            "GET /v1/ws HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /v1/ws nonsense\r\n\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            &with_body,
            &old,
            &long,
        ] {
            let FirstRequest::Http(bytes) = read(&[text.as_bytes()]).await.unwrap() else {
                panic!("{text:?} is no upgrade");
            };
            assert!(text.as_bytes().starts_with(&bytes));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_sends_too_little_times_out() {
        let (mut io, _peer) = tokio::io::duplex(64);
        let error = read_first_request(&mut io, Instant::now() + Duration::from_secs(1))
            .await
            .err()
            .unwrap();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_not_panic(tail in prop::collection::vec(any::<u8>(), 0..200)) {
            parse_head(&tail);
            parse_head(&[PATH, b" ", &tail].concat());
        }
    }
}
