//! WebSocket reader: reads the client's messages and has its commands answered. A command that
//! waits does not stop the reader.
//!
//! Writing is in `writer`; the bytes of a frame are parsed in `frame`.

use std::{io, ops::ControlFlow, sync::Arc, time::Duration};

use bytes::{Buf as _, Bytes, BytesMut};
use tidewire_proto::{
    json,
    prost::Message as _,
    v1::{ClientMessage, Error, ErrorCode},
};
use tidewire_service::{CommandQueue, Router};
use tidewire_stream::{CloseReason, Connection, Encoding, Session, Sink as _, limit::Verdict};
use tokio::time::{Instant, timeout};

use super::{
    byte_stream::{ByteReader, ByteStream},
    frame::{ClientFrame, FrameDecoder},
    writer::{Deflate, SocketWriter},
};
use crate::reply::parse_failure;

/// Time that a client has to answer a close frame.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Messages of one read that are handled before other connections have their turn.
const MESSAGES_AT_ONCE: usize = 32;

/// Start of an upgraded connection: its response, its unread bytes and its compression.
pub(super) struct Preamble<'a> {
    /// The response to the upgrade, if the server writes it itself.
    pub(super) head: Vec<u8>,
    /// Bytes that were read after the upgrade request.
    pub(super) rest: &'a [u8],
    /// The negotiated compression.
    pub(super) deflate: Option<Deflate>,
}

/// Serves a connection until either side closes it.
///
/// The future of an idle connection is small, because the futures that answer or close
/// are boxed while they run.
pub(super) fn serve(
    (read, write): ByteStream,
    start: Preamble<'_>,
    connection: Connection,
    router: Router,
    frame_bytes: usize,
) -> impl Future<Output = ()> + Send + use<> {
    let session = Session::clone(&connection);
    let Preamble {
        head,
        rest,
        deflate,
    } = start;
    let agreement = deflate.map(|deflate| deflate.agreement);
    let mut frames = FrameDecoder::new(frame_bytes).with_deflate(agreement);
    frames.feed(rest);
    let mut reader = Box::new(SocketReader {
        read,
        writer: SocketWriter::attach(session.clone(), write, deflate, head),
        commands: CommandQueue::new(session, router),
        frames,
    });
    async move {
        let writer = reader.writer.clone();
        let end = tokio::select! {
            end = reader.run() => end,
            () = writer.ended() => ReadOutcome::Closing,
        };
        // The session ends without waiting for the close frame of the client.
        drop(connection);
        if end == ReadOutcome::Closing {
            let _ = Box::pin(timeout(CLOSE_TIMEOUT, reader.discard())).await;
        }
    }
}

/// Ends a connection without a session: writes the last bytes, and waits a moment for the
/// client to close too.
pub(super) async fn end((mut read, write): ByteStream, last_bytes: Vec<u8>) {
    let closing = async {
        let mut rest = Bytes::from(last_bytes);
        let written = write.try_write(&rest)?;
        rest.advance(written.accepted);
        while write.write_some(&mut rest).await? > 0 {}
        write.shut_down();
        let mut unread = BytesMut::new();
        while let Ok(1..) = read.read(&mut unread).await {
            unread.clear();
        }
        Ok::<(), io::Error>(())
    };
    // A client that does not answer is cut.
    let _ = timeout(CLOSE_TIMEOUT, closing).await;
}

struct SocketReader {
    read: ByteReader,
    writer: Arc<SocketWriter>,
    commands: CommandQueue,
    frames: FrameDecoder,
}

/// The reason why reading ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ReadOutcome {
    /// The client disconnected.
    Disconnected,
    /// A close frame was queued.
    Closing,
}

impl SocketReader {
    async fn run(&mut self) -> ReadOutcome {
        loop {
            if self.commands.session().is_closing() {
                // Nothing that the client sends counts any more, except as a sign of life. With
                // unread bytes the kernel would reset the connection, and the close frame could
                // be lost.
                self.frames.buffer().clear();
            } else if !self.frames.buffer().is_empty()
                && let ControlFlow::Break(end) = Box::pin(self.answer_all()).await
            {
                return end;
            }
            tokio::select! {
                read = self.read.read(self.frames.buffer()) => match read {
                    Ok(0) | Err(_) => return ReadOutcome::Disconnected,
                    Ok(bytes) => self.writer.record_read(Instant::now(), bytes),
                },
                () = self.commands.next_reply(), if !self.commands.is_empty() => {
                    self.writer.flush_replies(Instant::now());
                }
            }
        }
    }

    /// Answers all complete messages, and flushes the replies together.
    async fn answer_all(&mut self) -> ControlFlow<ReadOutcome> {
        let mut messages = 0_usize;
        loop {
            match self.frames.next_message() {
                Ok(None) => break,
                Ok(Some(incoming)) => {
                    messages += 1;
                    self.handle(incoming).await?;
                    if messages.is_multiple_of(MESSAGES_AT_ONCE) {
                        tokio::task::yield_now().await;
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "closing a client that violated the WebSocket protocol");
                    return self.close(error.close_code(), "");
                }
            }
        }
        // An idle connection holds no buffer.
        self.frames.release();
        if messages > 0 {
            self.writer.flush_replies(Instant::now());
            // A client that sends without a pause does not delay the others.
            tokio::task::yield_now().await;
        }
        ControlFlow::Continue(())
    }

    async fn handle(&mut self, incoming: ClientFrame) -> ControlFlow<ReadOutcome> {
        let session = self.commands.session();
        if let Some(quota) = session.quota() {
            quota.record_received(incoming.len());
            // The router charges commands. Control frames above the rate are dropped,
            // since nothing answers them.
            let is_command = matches!(incoming, ClientFrame::Text(_) | ClientFrame::Binary(_));
            if !is_command && !matches!(incoming, ClientFrame::Close(_)) {
                match quota.charge() {
                    Verdict::Pass => {}
                    Verdict::Refuse { .. } => return ControlFlow::Continue(()),
                    Verdict::Close => session.close(CloseReason::RateLimited),
                }
            }
        }
        match (incoming, session.info().encoding) {
            (ClientFrame::Text(text), Encoding::Json) => self.answer_json(&text).await,
            (ClientFrame::Binary(bytes), Encoding::Proto) => self.answer_proto(bytes).await,
            (ClientFrame::Binary(_), Encoding::Json) => {
                return self.close(1003, "this subprotocol is text");
            }
            (ClientFrame::Text(_), Encoding::Proto) => {
                return self.close(1003, "this subprotocol is binary");
            }
            (ClientFrame::Ping(payload), _) => self.writer.queue_pong(&payload),
            (ClientFrame::Pong(_), _) => self.writer.record_pong(Instant::now()),
            (ClientFrame::Close(code), _) => return self.close(code.unwrap_or(1000), ""),
        }
        ControlFlow::Continue(())
    }

    async fn answer_json(&mut self, text: &[u8]) {
        self.wait_for_reply_room().await;
        match json::parse_client(text) {
            Ok(message) => self.commands.push(message, text.len()),
            Err(error) => {
                let (id, error) = parse_failure(error);
                self.commands.answer_unreadable(id, error);
            }
        }
    }

    async fn answer_proto(&mut self, bytes: Bytes) {
        self.wait_for_reply_room().await;
        let length = bytes.len();
        match ClientMessage::decode(bytes) {
            Ok(message) => self.commands.push(message, length),
            Err(error) => {
                let error = Error {
                    code: ErrorCode::InvalidArgument.into(),
                    message: format!("the frame is not a ClientMessage: {error}"),
                    retry_after_ms: None,
                };
                self.commands.answer_unreadable(None, error);
            }
        }
    }

    /// Waits while the client has too many unread replies.
    async fn wait_for_reply_room(&mut self) {
        let writer = &self.writer;
        let flush = || writer.flush(Instant::now());
        self.commands.wait_for_reply_room(flush).await;
    }

    fn close(&self, code: u16, reason: &str) -> ControlFlow<ReadOutcome> {
        self.writer.close(code, reason);
        ControlFlow::Break(ReadOutcome::Closing)
    }

    /// Reads until the client has closed too. With unread bytes the kernel would reset the
    /// connection, and the close frame could be lost.
    async fn discard(&mut self) {
        loop {
            let buffer = self.frames.buffer();
            buffer.clear();
            if !matches!(self.read.read(buffer).await, Ok(1..)) {
                return;
            }
        }
    }
}
