//! Raw client: a WebSocket client that sends and reads single bytes and frames.

use std::{
    io::{self, Cursor, Read, Write},
    sync::atomic::{AtomicU32, Ordering},
};

use flate2::{Decompress, FlushDecompress};
use serde_json::{Value, json};
use tidewire_tests::{Server, within};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_tungstenite::tungstenite::{
    Message, WebSocket,
    protocol::{Role, frame::FrameSocket},
};

use crate::handshake::upgrade;

pub(crate) const CONTINUATION: u8 = 0x00;
pub(crate) const TEXT: u8 = 0x01;
pub(crate) const BINARY: u8 = 0x02;
pub(crate) const CLOSE: u8 = 0x08;
pub(crate) const PING: u8 = 0x09;
pub(crate) const PONG: u8 = 0x0a;
/// The last frame of a message.
pub(crate) const FIN: u8 = 0x80;
/// A compressed message.
pub(crate) const RSV1: u8 = 0x40;

/// A masked frame of a client, with a new mask each time.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    static MASKS: AtomicU32 = AtomicU32::new(0x1234_5678);
    let mask = MASKS
        .fetch_add(0x9e37_79b9, Ordering::Relaxed)
        .to_be_bytes();
    let mut out = vec![first];
    match payload.len() {
        short @ 0..=125 => out.push(0x80 | u8::try_from(short).unwrap()),
        medium @ 126..=65_535 => {
            out.push(0x80 | 126);
            out.extend(u16::try_from(medium).unwrap().to_be_bytes());
        }
        long => {
            out.push(0x80 | 127);
            out.extend(u64::try_from(long).unwrap().to_be_bytes());
        }
    }
    out.extend(mask);
    let mask = mask.iter().cycle();
    out.extend(payload.iter().zip(mask).map(|(byte, mask)| byte ^ mask));
    out
}

/// A message in frames with payloads of `length` bytes. `first` is the opcode, with RSV1 for
/// a compressed message.
pub(crate) fn fragments(first: u8, payload: &[u8], length: usize) -> Vec<Vec<u8>> {
    let mut parts: Vec<_> = payload.chunks(length).collect();
    if parts.is_empty() {
        parts.push(b"");
    }
    let last = parts.len() - 1;
    let bits = |at| {
        let opcode = if at == 0 { first } else { CONTINUATION };
        opcode | if at == last { FIN } else { 0 }
    };
    let frames = parts.iter().enumerate();
    frames.map(|(at, part)| frame(bits(at), part)).collect()
}

/// A frame of the server.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) is_deflated: bool,
    pub(crate) opcode: u8,
    pub(crate) payload: Vec<u8>,
}

/// The end of a connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct End {
    /// The frames before the close frame that the test did not read.
    pub(crate) unread: Vec<Frame>,
    /// The close frame's payload.
    pub(crate) close: Vec<u8>,
}

impl End {
    pub(crate) fn code(&self) -> Option<u16> {
        let code = self.close.first_chunk::<2>()?;
        Some(u16::from_be_bytes(*code))
    }
}

/// A client that subscribes to a channel of its own and publishes to it.
#[derive(Debug)]
pub(crate) struct RawClient {
    stream: TcpStream,
    /// All bytes since the handshake, and the number that were decoded.
    received: Vec<u8>,
    read: usize,
    extensions: Option<String>,
    channel: String,
    commands: u64,
}

impl RawClient {
    /// Connects without extensions, and subscribes.
    pub(crate) async fn open(server: &Server) -> Self {
        Self::offering(server, &[]).await
    }

    /// Connects with these lines of `Sec-WebSocket-Extensions`, and subscribes.
    pub(crate) async fn offering(server: &Server, offers: &[&str]) -> Self {
        static CHANNELS: AtomicU32 = AtomicU32::new(0);
        let headers: Vec<_> = offers
            .iter()
            .map(|offer| ("Sec-WebSocket-Extensions", *offer))
            .collect();
        let mut client = Self::connect(server, &headers).await;
        let number = CHANNELS.fetch_add(1, Ordering::Relaxed);
        client.channel = format!("demo:echo-{number}");
        assert_eq!(client.message().await["type"], "welcome");
        let subscribe = json!({
            "type": "subscribe",
            "id": "s",
            "data": {"channels": [client.channel]},
        });
        client
            .send(&frame(FIN | TEXT, subscribe.to_string().as_bytes()))
            .await;
        assert_eq!(client.message().await["type"], "subscribed");
        client
    }

    /// The channel of its own.
    pub(crate) fn channel(&self) -> &str {
        &self.channel
    }

    /// Connects with these headers, without reading a message.
    pub(crate) async fn connect(server: &Server, headers: &[(&str, &str)]) -> Self {
        let (stream, answer) = upgrade(server, headers).await;
        assert_eq!(answer.status, 101, "{headers:?}: {answer:?}");
        let extensions = answer.header("sec-websocket-extensions").map(str::to_owned);
        Self {
            stream,
            received: answer.rest,
            read: 0,
            extensions,
            channel: String::new(),
            commands: 0,
        }
    }

    /// The extensions that the server accepted.
    pub(crate) fn extensions(&self) -> Option<&str> {
        self.extensions.as_deref()
    }

    /// Sends bytes.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        within("bytes to leave", self.stream.write_all(bytes))
            .await
            .expect("an open connection");
    }

    /// Sends bytes to a server that may have closed the connection.
    pub(crate) async fn try_send(&mut self, bytes: &[u8]) {
        let _ = within("bytes to leave", self.stream.write_all(bytes)).await;
    }

    /// Sends bytes one by one, each in a packet of its own.
    pub(crate) async fn send_slowly(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.send(&[*byte]).await;
        }
    }

    /// A command that publishes `data` to the client's channel.
    pub(crate) fn publish(&mut self, data: &Value) -> String {
        self.commands += 1;
        json!({
            "type": "publish",
            "id": self.commands.to_string(),
            "data": {"channel": self.channel, "data": data},
        })
        .to_string()
    }

    /// Waits for the publication of the last [`Self::publish`] and for its reply.
    pub(crate) async fn echo(&mut self) -> Value {
        let id = self.commands.to_string();
        let (mut reply, mut data) = (None, None);
        while reply.is_none() || data.is_none() {
            let message = self.message().await;
            if message["id"] == id.as_str() {
                assert_ne!(message["type"], "error", "{message}");
                reply = Some(message);
            } else {
                assert_eq!(message["channel"], self.channel.as_str(), "{message}");
                data = Some(message["data"].clone());
            }
        }
        data.unwrap()
    }

    /// Publishes in one plain frame, and compares the echo.
    pub(crate) async fn expect_echo(&mut self, data: &Value) {
        let text = self.publish(data);
        self.send(&frame(FIN | TEXT, text.as_bytes())).await;
        assert_eq!(self.echo().await, *data);
    }

    /// The next message as JSON.
    pub(crate) async fn message(&mut self) -> Value {
        loop {
            let frame = self.next_frame().await;
            match frame.opcode {
                PING => {}
                TEXT => return self.json(&frame),
                _ => panic!("a text message was expected, not {frame:?}"),
            }
        }
    }

    /// The JSON of a text frame, inflated if it is compressed.
    pub(crate) fn json(&self, frame: &Frame) -> Value {
        let inflated;
        let text = if frame.is_deflated {
            inflated = inflate(&frame.payload);
            assert!(
                frame.payload.len() < inflated.len(),
                "compression made the payload shorter"
            );
            &inflated
        } else {
            &frame.payload
        };
        serde_json::from_slice(text).expect("JSON")
    }

    /// The payload of the next frame, which has `opcode`. Pings of the server are skipped.
    pub(crate) async fn expect(&mut self, opcode: u8) -> Vec<u8> {
        loop {
            let frame = self.next_frame().await;
            if frame.opcode == opcode {
                return frame.payload;
            }
            assert_eq!(frame.opcode, PING, "{frame:?}");
        }
    }

    /// The next frame.
    pub(crate) async fn next_frame(&mut self) -> Frame {
        loop {
            if let Some((frame, length)) = parse(&self.received[self.read..]) {
                compare_frame_with_tungstenite(
                    &self.received[self.read..self.read + length],
                    &frame,
                );
                assert!(
                    !frame.is_deflated || self.extensions.is_some(),
                    "compressed without an agreement"
                );
                self.read += length;
                return frame;
            }
            let read = within("a frame", self.stream.read_buf(&mut self.received)).await;
            assert_ne!(
                read.expect("an open connection"),
                0,
                "the connection ended without a close frame"
            );
        }
    }

    /// Waits for the close frame and the end of the connection.
    pub(crate) async fn end(mut self) -> End {
        let mut unread = Vec::new();
        let close = loop {
            let frame = self.next_frame().await;
            if frame.opcode == CLOSE {
                break frame.payload;
            }
            unread.push(frame);
        };
        // The answer to the close frame. The server may not wait for it.
        self.try_send(&frame(FIN | CLOSE, &close)).await;
        // Bytes that the client sent after its close frame can reset the connection.
        let end = self.received.len();
        while matches!(
            within("the end", self.stream.read_buf(&mut self.received)).await,
            Ok(1..)
        ) {}
        assert_eq!(self.read, end, "bytes after the close frame");
        assert_eq!(self.received.len(), end, "bytes after the close frame");
        self.compare_messages_with_tungstenite(&close);
        End { unread, close }
    }

    /// Waits for a close frame with this code.
    pub(crate) async fn expect_end(self, code: u16, why: &str) {
        let end = self.end().await;
        assert_eq!(end.code(), Some(code), "{why}: {end:?}");
    }

    /// Reads all received bytes with tungstenite's protocol, and not only its codec.
    fn compare_messages_with_tungstenite(&self, close: &[u8]) {
        if self.extensions.is_some() {
            // Tungstenite supports no extension.
            return;
        }
        let source = ReceivedBytes(Cursor::new(self.received.clone()));
        let mut socket = WebSocket::from_raw_socket(source, Role::Client, None);
        loop {
            match socket.read().expect("a message that tungstenite takes") {
                Message::Close(frame) => {
                    let code = frame.map(|frame| u16::from(frame.code));
                    // Tungstenite does not know 1014 yet, and returns 1002 for it.
                    if code != Some(1002) {
                        let code = code.map(u16::to_be_bytes);
                        assert_eq!(close.first_chunk(), code.as_ref());
                    }
                    return;
                }
                Message::Text(_) | Message::Binary(_) | Message::Ping(_) | Message::Pong(_) => {}
                Message::Frame(frame) => panic!("{frame}"),
            }
        }
    }
}

/// Returns the received bytes, and discards the output of tungstenite.
#[derive(Debug)]
struct ReceivedBytes(Cursor<Vec<u8>>);

impl Read for ReceivedBytes {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        Read::read(&mut self.0, out)
    }
}

impl Write for ReceivedBytes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Decodes a frame strictly after RFC 6455, section 5.2, and returns its length. The server
/// sends every message in one frame.
fn parse(bytes: &[u8]) -> Option<(Frame, usize)> {
    let (&[first, second], rest) = bytes.split_first_chunk()?;
    let (length, head) = match second {
        0..=125 => (u64::from(second), 2),
        126 => {
            let length = u16::from_be_bytes(*rest.first_chunk()?);
            assert!(length > 125, "the length has the shortest form");
            (u64::from(length), 4)
        }
        127 => {
            let length = u64::from_be_bytes(*rest.first_chunk()?);
            assert!(length > 65_535, "the length has the shortest form");
            (length, 10)
        }
        128.. => panic!("the server's frame is masked"),
    };
    let opcode = first & 0x0f;
    assert!(
        [TEXT, BINARY, CLOSE, PING, PONG].contains(&opcode),
        "opcode {opcode}"
    );
    assert_eq!(first & 0xb0, FIN, "FIN, and no reserved bit");
    let is_deflated = first & RSV1 != 0;
    if opcode >= CLOSE {
        assert!(length <= 125 && !is_deflated, "a control frame");
    }
    let end = head + usize::try_from(length).unwrap();
    let payload = bytes.get(head..end)?.to_vec();
    if opcode == TEXT && !is_deflated {
        std::str::from_utf8(&payload).expect("text is UTF-8");
    }
    if opcode == CLOSE && !payload.is_empty() {
        let (code, reason) = payload.split_first_chunk().expect("a whole close code");
        let code = u16::from_be_bytes(*code);
        assert!(
            matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999),
            "close code {code}"
        );
        std::str::from_utf8(reason).expect("a reason is UTF-8");
    }
    let frame = Frame {
        is_deflated,
        opcode,
        payload,
    };
    Some((frame, end))
}

/// Decodes the same bytes with tungstenite's codec, and compares the frames.
fn compare_frame_with_tungstenite(bytes: &[u8], frame: &Frame) {
    let mut socket = FrameSocket::new(Cursor::new(bytes.to_vec()));
    let read = socket.read(None).expect("a frame").expect("a whole frame");
    let header = read.header();
    assert!(header.is_final && !header.rsv2 && !header.rsv3 && header.mask.is_none());
    assert_eq!(header.rsv1, frame.is_deflated);
    assert_eq!(u8::from(header.opcode), frame.opcode);
    assert_eq!(read.payload(), frame.payload);
    assert!(socket.read(None).expect("no more").is_none());
}

/// Inflates a compressed message without context.
fn inflate(payload: &[u8]) -> Vec<u8> {
    let whole = [payload, &[0x00, 0x00, 0xff, 0xff]].concat();
    let mut stream = Decompress::new(false);
    let mut out = Vec::with_capacity(4_096);
    loop {
        let read = usize::try_from(stream.total_in()).unwrap();
        if read == whole.len() && out.len() < out.capacity() {
            return out;
        }
        out.reserve(4_096);
        stream
            .decompress_vec(&whole[read..], &mut out, FlushDecompress::Sync)
            .expect("DEFLATE data without context");
    }
}
