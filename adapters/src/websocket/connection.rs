//! One WebSocket connection: a reader that answers commands and a writer that
//! sends what the session has, both in one task.

use std::{collections::VecDeque, io::IoSlice, sync::Arc, time::Duration};

use bytes::{Buf as _, Bytes};
use tidewire_proto::{
    json::{self, ClientError},
    prost::Message as _,
    v1::{ClientMessage, Error, ErrorCode, ServerMessage, server_message::Data},
};
use tidewire_service::Router;
use tidewire_stream::{
    CloseReason, Connection, Encoding, FrameKind, Outgoing, Publication, Session,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::mpsc,
    time::timeout,
};

use super::frame::{FrameReader, Incoming, Opcode, close_frame, frame};

/// How long a peer may be silent before it is asked for a sign of life, and how
/// long it then has.
const PING_AFTER: Duration = Duration::from_secs(20);

/// A write that makes no progress for so long ends the connection.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a peer has to answer a close frame.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// What is taken from the session at a time, in bytes.
const TAKE_BYTES: usize = 64 << 10;

/// How many frames leave in one write.
const MAX_SLICES: usize = 64;

/// How many control frames may wait; a peer that pings faster is not read meanwhile.
const CONTROL_FRAMES: usize = 16;

/// A frame that goes round the session.
enum Control {
    Ping,
    Pong(Bytes),
    /// The last frame.
    Close(u16, &'static str),
}

/// Runs a connection until either side ends it.
pub(super) async fn run<I>(io: I, connection: Connection, router: Router, frame_bytes: usize)
where
    I: AsyncRead + AsyncWrite + Unpin + Send,
{
    let (read, write) = tokio::io::split(io);
    let (control, controls) = mpsc::channel(CONTROL_FRAMES);
    let session = Session::clone(&connection);
    let reader = async {
        let mut reader = Reader {
            read,
            session,
            router,
            control,
            frames: FrameReader::new(frame_bytes),
        };
        reader.run().await;
    };
    let writer = async {
        let mut writer = Writer {
            write,
            connection: Arc::new(connection),
            controls,
        };
        writer.run().await;
    };
    let mut reader = std::pin::pin!(reader);
    let mut writer = std::pin::pin!(writer);
    tokio::select! {
        // The reader dropped its end of the control frames: the writer sends what
        // is left of them and ends.
        () = &mut reader => { let _ = timeout(CLOSE_TIMEOUT, writer).await; }
        () = &mut writer => { let _ = timeout(CLOSE_TIMEOUT, reader).await; }
    }
}

struct Reader<R> {
    read: R,
    session: Session,
    router: Router,
    control: mpsc::Sender<Control>,
    frames: FrameReader,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    async fn run(&mut self) {
        let mut is_asked = false;
        loop {
            match timeout(PING_AFTER, self.read.read_buf(self.frames.buffer())).await {
                Ok(Ok(0) | Err(_)) => return,
                Ok(Ok(_)) => is_asked = false,
                Err(_) if is_asked => return self.close(CloseReason::HeartbeatMissed).await,
                Err(_) => {
                    is_asked = true;
                    let _ = self.control.send(Control::Ping).await;
                    continue;
                }
            }
            loop {
                match self.frames.next_message() {
                    Ok(None) => break,
                    Ok(Some(incoming)) => {
                        if self.take(incoming).await == Flow::End {
                            return;
                        }
                    }
                    Err(error) => {
                        tracing::debug!(%error, "a client broke the WebSocket protocol");
                        let _ = self
                            .control
                            .send(Control::Close(error.close_code(), ""))
                            .await;
                        return;
                    }
                }
            }
        }
    }

    async fn take(&mut self, incoming: Incoming) -> Flow {
        match (incoming, self.session.arrival().encoding) {
            (Incoming::Text(text), Encoding::Json) => self.answer_json(&text).await,
            (Incoming::Binary(bytes), Encoding::Proto) => self.answer_proto(bytes).await,
            (Incoming::Binary(_), Encoding::Json) => {
                let _ = self
                    .control
                    .send(Control::Close(1003, "this subprotocol is text"))
                    .await;
                return Flow::End;
            }
            (Incoming::Text(_), Encoding::Proto) => {
                let _ = self
                    .control
                    .send(Control::Close(1003, "this subprotocol is binary"))
                    .await;
                return Flow::End;
            }
            (Incoming::Ping(payload), _) => {
                let _ = self.control.send(Control::Pong(payload)).await;
            }
            (Incoming::Pong(_), _) => {}
            (Incoming::Close(code), _) => {
                let _ = self
                    .control
                    .send(Control::Close(code.unwrap_or(1000), ""))
                    .await;
                return Flow::End;
            }
        }
        Flow::On
    }

    async fn answer_json(&mut self, text: &[u8]) {
        self.session.ready_for_command().await;
        match json::parse_client(text) {
            Ok(message) => self.answer(message).await,
            Err(error) => {
                let (id, error) = refusal(error);
                self.session.say_error(id, error);
            }
        }
    }

    async fn answer_proto(&mut self, bytes: Bytes) {
        self.session.ready_for_command().await;
        match ClientMessage::decode(bytes) {
            Ok(message) => self.answer(message).await,
            Err(error) => self.session.say_error(
                None,
                Error {
                    code: ErrorCode::InvalidArgument.into(),
                    message: format!("the frame is not a ClientMessage: {error}"),
                    retry_after_ms: None,
                },
            ),
        }
    }

    async fn answer(&mut self, message: ClientMessage) {
        let reply: ServerMessage = self.router.answer(&self.session, message).await;
        self.session.say(reply);
        self.session.resume();
    }

    async fn close(&mut self, reason: CloseReason) {
        let _ = self
            .control
            .send(Control::Close(reason.code(), reason.text()))
            .await;
    }
}

#[derive(PartialEq, Eq)]
enum Flow {
    On,
    End,
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

struct Writer<W> {
    write: W,
    connection: Arc<Connection>,
    controls: mpsc::Receiver<Control>,
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    async fn run(&mut self) {
        let mut out = Vec::new();
        let mut frames = VecDeque::new();
        loop {
            tokio::select! {
                control = self.controls.recv() => match control {
                    Some(Control::Ping) => frames.push_back(frame(Opcode::Ping, b"")),
                    Some(Control::Pong(payload)) => frames.push_back(frame(Opcode::Pong, &payload)),
                    Some(Control::Close(code, reason)) => return self.finish(code, reason).await,
                    None => return,
                },
                taken = self.connection.next(TAKE_BYTES, &mut out) => match taken {
                    Ok(()) => frames.extend(out.drain(..).map(|message| self.frame(&message))),
                    Err(reason) => return self.finish(reason.code(), reason.text()).await,
                },
            }
            if !self.send(&mut frames).await {
                return;
            }
        }
    }

    fn frame(&self, message: &Outgoing) -> Bytes {
        match (self.connection.arrival().encoding, message) {
            (Encoding::Json, Outgoing::Publication(publication)) => text_frame(publication),
            (Encoding::Proto, Outgoing::Publication(publication)) => binary_frame(publication),
            (Encoding::Json, message) => frame(Opcode::Text, &message.json()),
            (Encoding::Proto, message) => frame(Opcode::Binary, &message.proto()),
        }
    }

    /// Several frames leave in one write. False if the peer does not take them.
    async fn send(&mut self, frames: &mut VecDeque<Bytes>) -> bool {
        while !frames.is_empty() {
            let slices: Vec<_> = frames
                .iter()
                .take(MAX_SLICES)
                .map(|frame| IoSlice::new(frame))
                .collect();
            let mut written = match timeout(WRITE_TIMEOUT, self.write.write_vectored(&slices)).await
            {
                Ok(Ok(written)) if written > 0 => written,
                Ok(_) => return false,
                Err(_) => {
                    tracing::debug!(
                        connection = self.connection.id().as_str(),
                        "a client does not read"
                    );
                    self.connection.close(CloseReason::SlowConsumer);
                    return false;
                }
            };
            while let Some(front) = frames.front_mut() {
                let part = written.min(front.len());
                front.advance(part);
                written -= part;
                if !front.is_empty() {
                    break;
                }
                frames.pop_front();
            }
        }
        true
    }

    async fn finish(&mut self, code: u16, reason: &str) {
        let mut frames = VecDeque::from([close_frame(code, reason)]);
        let finish = async {
            self.send(&mut frames).await;
            let _ = self.write.shutdown().await;
        };
        let _ = timeout(CLOSE_TIMEOUT, finish).await;
    }
}

fn text_frame(publication: &Publication) -> Bytes {
    publication.frame(FrameKind::WebSocketText, |publication| {
        frame(Opcode::Text, &publication.json())
    })
}

fn binary_frame(publication: &Publication) -> Bytes {
    publication.frame(FrameKind::WebSocketBinary, |publication| {
        frame(Opcode::Binary, &publication.proto())
    })
}

/// The error that answers a message.
pub(crate) fn error_reply(id: Option<String>, error: Error) -> ServerMessage {
    ServerMessage {
        id,
        data: Some(Data::Error(error)),
        ..ServerMessage::default()
    }
}
