//! One WebSocket connection: reads what the client says and answers it. Writing is
//! `socket`'s.

use std::{ops::ControlFlow, sync::Arc, time::Duration};

use bytes::Bytes;
use tidewire_proto::{
    json::{self, ClientError},
    prost::Message as _,
    v1::{ClientMessage, Error, ErrorCode},
};
use tidewire_service::Router;
use tidewire_stream::{CloseReason, Connection, Encoding, Session, Sink as _, limit::Verdict};
use tokio::time::{Instant, timeout};

use super::{
    frame::{FrameReader, Incoming},
    io::{Ends, ReadEnd},
    socket::{Deflate, Socket},
};

/// How long a peer has to answer a close frame.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// How a connection begins.
pub(super) struct Start<'a> {
    /// Sent first.
    pub(super) head: Vec<u8>,
    /// Read already.
    pub(super) rest: &'a [u8],
    /// What was agreed on compression.
    pub(super) deflate: Option<Deflate>,
}

/// Runs a connection until either side ends it.
///
/// What stays for as long as the connection is kept small: the parts that only serve
/// to answer or to end are boxed while they run.
pub(super) fn run(
    (read, write): Ends,
    start: Start<'_>,
    connection: Connection,
    router: Router,
    frame_bytes: usize,
) -> impl Future<Output = ()> + Send + use<> {
    let session = Session::clone(&connection);
    let Start {
        head,
        rest,
        deflate,
    } = start;
    let agreement = deflate.map(|deflate| deflate.agreement);
    let mut frames = FrameReader::new(frame_bytes).with_deflate(agreement);
    frames.feed(rest);
    let mut reader = Box::new(Reader {
        read,
        socket: Socket::attach(session.clone(), write, deflate, head),
        session,
        router,
        frames,
    });
    async move {
        let socket = reader.socket.clone();
        let end = tokio::select! {
            end = reader.run() => end,
            () = socket.ended() => End::Closed,
        };
        // The session ends before the peer has answered.
        drop(connection);
        if end == End::Closed {
            let _ = Box::pin(timeout(CLOSE_TIMEOUT, reader.discard())).await;
        }
    }
}

struct Reader {
    read: ReadEnd,
    socket: Arc<Socket>,
    session: Session,
    router: Router,
    frames: FrameReader,
}

/// How a connection ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// The peer has gone.
    Gone,
    /// The close frame is on its way.
    Closed,
}

impl Reader {
    async fn run(&mut self) -> End {
        loop {
            if !self.frames.buffer().is_empty()
                && let ControlFlow::Break(end) = Box::pin(self.answer_all()).await
            {
                return end;
            }
            match self.read.read(self.frames.buffer()).await {
                Ok(0) | Err(_) => return End::Gone,
                Ok(bytes) => self.socket.heard(Instant::now(), bytes),
            }
        }
    }

    /// Answers all that was read, and sends the answers together.
    async fn answer_all(&mut self) -> ControlFlow<End> {
        let mut has_read = false;
        loop {
            match self.frames.next_message() {
                Ok(None) => break,
                Ok(Some(incoming)) => {
                    has_read = true;
                    self.take(incoming).await?;
                }
                Err(error) => {
                    tracing::debug!(%error, "a client broke the WebSocket protocol");
                    return self.close(error.close_code(), "");
                }
            }
        }
        // A silent connection holds no buffer.
        self.frames.release();
        if has_read {
            self.socket.answered(Instant::now());
            // Who talks without a pause does not keep the others waiting.
            tokio::task::yield_now().await;
        }
        ControlFlow::Continue(())
    }

    async fn take(&mut self, incoming: Incoming) -> ControlFlow<End> {
        if let Some(allowance) = self.session.allowance() {
            allowance.received(incoming.len());
            // Commands are charged by the router. Nothing answers what else came, so
            // what is too much of it is passed over.
            let is_command = matches!(incoming, Incoming::Text(_) | Incoming::Binary(_));
            if !is_command && !matches!(incoming, Incoming::Close(_)) {
                match allowance.charge() {
                    Verdict::Pass => {}
                    Verdict::Refuse { .. } => return ControlFlow::Continue(()),
                    Verdict::Close => self.session.close(CloseReason::RateLimited),
                }
            }
        }
        match (incoming, self.session.info().encoding) {
            (Incoming::Text(text), Encoding::Json) => self.answer_json(&text).await,
            (Incoming::Binary(bytes), Encoding::Proto) => self.answer_proto(bytes).await,
            (Incoming::Binary(_), Encoding::Json) => {
                return self.close(1003, "this subprotocol is text");
            }
            (Incoming::Text(_), Encoding::Proto) => {
                return self.close(1003, "this subprotocol is binary");
            }
            (Incoming::Ping(payload), _) => self.socket.pong(&payload),
            (Incoming::Pong(_), _) => self.socket.ponged(Instant::now()),
            (Incoming::Close(code), _) => return self.close(code.unwrap_or(1000), ""),
        }
        ControlFlow::Continue(())
    }

    async fn answer_json(&mut self, text: &[u8]) {
        self.wait_for_reply_room().await;
        match json::parse_client(text) {
            Ok(message) => self.answer(message).await,
            Err(error) => {
                let (id, error) = refusal(error);
                let reply = self.router.answer_unreadable(&self.session, id, error);
                self.session.reply(reply);
            }
        }
    }

    async fn answer_proto(&mut self, bytes: Bytes) {
        self.wait_for_reply_room().await;
        match ClientMessage::decode(bytes) {
            Ok(message) => self.answer(message).await,
            Err(error) => {
                let error = Error {
                    code: ErrorCode::InvalidArgument.into(),
                    message: format!("the frame is not a ClientMessage: {error}"),
                    retry_after_ms: None,
                };
                let reply = self.router.answer_unreadable(&self.session, None, error);
                self.session.reply(reply);
            }
        }
    }

    /// Waits while the client has too many replies to read.
    async fn wait_for_reply_room(&mut self) {
        if self.session.is_reply_queue_full() {
            self.socket.flush(Instant::now());
            self.session.wait_for_reply_room().await;
        }
    }

    async fn answer(&mut self, message: ClientMessage) {
        // Boxed: a connection that says nothing does not hold the room for it.
        let reply = Box::pin(self.router.answer(&self.session, message)).await;
        self.session.reply(reply);
    }

    fn close(&self, code: u16, reason: &str) -> ControlFlow<End> {
        self.socket.close(code, reason);
        ControlFlow::Break(End::Closed)
    }

    /// Reads on until the peer has closed too: with unread bytes the kernel would
    /// reset the connection, and the close frame could be lost.
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

/// What is said to a message that cannot be read, and the id it is said to.
pub(crate) fn refusal(error: ClientError) -> (Option<String>, Error) {
    let (id, code, message) = match error {
        ClientError::Malformed { message } => (None, ErrorCode::InvalidArgument, message),
        ClientError::UnknownType { id, kind } => (
            id,
            ErrorCode::Unimplemented,
            format!("there is no message type {kind:?}"),
        ),
        ClientError::Invalid { id, message } => (id, ErrorCode::InvalidArgument, message),
    };
    (
        id,
        Error {
            code: code.into(),
            message,
            retry_after_ms: None,
        },
    )
}
