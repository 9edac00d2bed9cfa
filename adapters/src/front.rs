//! The front door: reads the head of a connection's first request and takes WebSocket
//! upgrades itself; everything else is hyper's, with the bytes that were read.
//!
//! A phone that comes back opens one connection and upgrades it at once. Done here,
//! that costs no HTTP connection state, and the answer leaves in the same write as the
//! session's first words. What is not a plain, well-formed upgrade of `/v1/ws` is left
//! to hyper as it is, so there is one place that refuses.

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

/// The path that is taken here.
const PATH: &[u8] = b"GET /v1/ws";

/// A head is at most so long; longer ones are for hyper to refuse.
const MAX_HEAD_BYTES: usize = 8 << 10;

/// A head has at most so many headers; more are for hyper.
const MAX_HEADERS: usize = 64;

/// What a connection begins with.
pub(crate) enum First {
    /// A request that may be an upgrade of `/v1/ws`.
    WebSocket(Upgrade),
    /// Anything else, as it was read.
    Other(Bytes),
}

/// A request for an upgrade.
pub(crate) struct Upgrade {
    /// The request.
    pub(crate) request: Box<Request<()>>,
    /// All that was read: its head and what came after it.
    pub(crate) read: Bytes,
    /// How long the head is.
    pub(crate) head: usize,
}

/// Reads the beginning of a connection, as far as it takes to tell.
///
/// # Errors
/// The peer has gone, or said too little until `deadline`.
pub(crate) async fn first<I>(io: &mut I, deadline: Instant) -> io::Result<First>
where
    I: AsyncRead + Unpin,
{
    let mut read = BytesMut::with_capacity(1 << 10);
    let reading = async {
        loop {
            if io.read_buf(&mut read).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            match judge(&read) {
                Judged::NeedsMore => {}
                Judged::Other => return Ok(First::Other(std::mem::take(&mut read).freeze())),
                Judged::WebSocket(request, head) => {
                    let read = std::mem::take(&mut read).freeze();
                    return Ok(First::WebSocket(Upgrade {
                        request,
                        read,
                        head,
                    }));
                }
            }
        }
    };
    timeout_at(deadline, reading)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

enum Judged {
    NeedsMore,
    Other,
    WebSocket(Box<Request<()>>, usize),
}

fn judge(read: &[u8]) -> Judged {
    let compared = read.len().min(PATH.len());
    if read[..compared] != PATH[..compared] {
        return Judged::Other;
    }
    match read.get(PATH.len()) {
        None => return Judged::NeedsMore,
        Some(b' ' | b'?') => {}
        Some(_) => return Judged::Other,
    }
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Request::new(&mut headers);
    match head.parse(read) {
        Ok(httparse::Status::Complete(length)) => match request(&head) {
            Some(request) => Judged::WebSocket(Box::new(request), length),
            None => Judged::Other,
        },
        Ok(httparse::Status::Partial) if read.len() < MAX_HEAD_BYTES => Judged::NeedsMore,
        Ok(httparse::Status::Partial) | Err(_) => Judged::Other,
    }
}

/// The request, if it has no body and speaks HTTP/1.1.
fn request(head: &httparse::Request<'_, '_>) -> Option<Request<()>> {
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

/// The head of an answer without a body, as it is sent.
pub(crate) fn head_bytes<B>(response: &Response<B>) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    let status = response.status();
    let reason = status.canonical_reason().unwrap_or_default();
    // Writing to a vector does not fail.
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

/// A stream of which some bytes were read already.
pub(crate) struct Rewound<I> {
    head: Bytes,
    io: I,
}

impl<I> Rewound<I> {
    pub(crate) fn new(head: Bytes, io: I) -> Self {
        Self { head, io }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Rewound<I> {
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

impl<I: AsyncWrite + Unpin> AsyncWrite for Rewound<I> {
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

    async fn read(parts: &[&[u8]]) -> io::Result<First> {
        let mut io = tokio_test_io(parts);
        first(&mut io, Instant::now() + Duration::from_secs(1)).await
    }

    /// Gives each part in a read of its own.
    fn tokio_test_io(parts: &[&[u8]]) -> impl AsyncRead + Unpin {
        let mut chained: Box<dyn AsyncRead + Unpin> = Box::new(tokio::io::empty());
        for part in parts.iter().rev() {
            let part = io::Cursor::new(part.to_vec());
            chained = Box::new(AsyncReadExt::chain(part, chained));
        }
        chained
    }

    #[tokio::test]
    async fn an_upgrade_is_taken_whole_or_in_pieces() {
        for cut in [1, 5, 10, 11, 40, UPGRADE.len() - 1] {
            let (one, two) = UPGRADE.as_bytes().split_at(cut);
            let First::WebSocket(upgrade) = read(&[one, two, b"more"]).await.unwrap() else {
                panic!("cut at {cut}: not taken for an upgrade");
            };
            let (request, rest) = (upgrade.request, upgrade.read.slice(upgrade.head..));
            assert_eq!(request.uri().query(), Some("x=1"));
            assert_eq!(request.headers()[header::SEC_WEBSOCKET_VERSION], "13");
            assert!(rest.is_empty() || &rest[..] == b"more");
        }
    }

    #[tokio::test]
    async fn all_else_is_left_as_it_was_read() {
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
            let First::Other(bytes) = read(&[text.as_bytes()]).await.unwrap() else {
                panic!("{text:?} is no upgrade");
            };
            assert!(text.as_bytes().starts_with(&bytes));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_too_little_is_not_waited_for() {
        let (mut io, _peer) = tokio::io::duplex(64);
        let error = first(&mut io, Instant::now() + Duration::from_secs(1))
            .await
            .err()
            .unwrap();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(tail in prop::collection::vec(any::<u8>(), 0..200)) {
            judge(&tail);
            judge(&[PATH, b" ", &tail].concat());
        }
    }
}
