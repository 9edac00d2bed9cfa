//! WebSocket writer: writes the messages of a session to its socket without waiting.
//!
//! The shard flushes a writer once per tick, and the reader flushes it after commands. A
//! flush takes up to [`BATCH_BYTES`] from the session and writes all of it with one system
//! call. A batch that needs nothing else is written from bytes that all subscribers share.
//!
//! When the socket accepts only a part, a task writes the rest as the peer reads. So it does
//! when TLS accepts more than its socket. Until then the writer takes nothing more from the
//! session, whose outbox is bounded. The writer therefore buffers at most twice
//! [`BATCH_BYTES`], or one frame. Reading and commands are in `reader`; the bytes of a frame
//! are made in `frame::encode`.

use std::{
    cell::RefCell,
    io,
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::{Buf as _, Bytes};
use parking_lot::Mutex;
use tidewire_stream::{
    CloseReason, Encoding, FlushOutcome, FrameKind, OutgoingItem, OutgoingMessage, PriceBatch,
    Publication, PublicationBatch, Session, Sink,
};
use tokio::{
    sync::Notify,
    time::{Instant, error::Elapsed, timeout},
};

use super::{
    byte_stream::ByteWriter,
    deflate::{Agreement, DeflatedPart, concat_len, write_concat},
    frame::{
        Opcode, encode_deflated_frame, encode_frame, write_close, write_deflated_header,
        write_frame, write_header,
    },
    keep_alive::{KeepAlive, KeepAliveAction},
};
use crate::{CompressionOptions, frame_kind};

/// Size of one write, in bytes: about one flush of the session.
const BATCH_BYTES: usize = 64 << 10;

/// Time in which the peer must take some of the blocked bytes. Then the connection is closed.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Time in which the peer must take the rest of a frame and the close frame. Together they are
/// shorter than the time after which the kernel closes the connection.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

/// The bit of a frame that ends its message. The server sends no fragments.
const FIN: u8 = 0x80;

/// The smallest reply that is compressed, in bytes. A reply has one reader, so that
/// compressing a smaller one costs more than it saves.
const DEFLATE_REPLY_BYTES: usize = 1 << 10;

/// Bytes of queued control frames, at most. Pings beyond are not answered, which RFC 6455
/// allows (section 5.5.3).
const CONTROL_BYTES: usize = 2_048;

/// The negotiated compression, and the options of the server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deflate {
    pub(crate) agreement: Agreement,
    pub(crate) options: CompressionOptions,
}

/// The writer of one connection.
pub(super) struct SocketWriter {
    this: Weak<Self>,
    session: Session,
    io: ByteWriter,
    deflate: Option<Deflate>,
    state: Mutex<WriterState>,
    /// Notified when nothing is written any more.
    ended: Notify,
}

struct WriterState {
    phase: WritePhase,
    /// Whether a task waits for the socket to accept the rest of a write.
    is_blocked: bool,
    /// Queued control frames. They are written before messages.
    control: Vec<u8>,
    keep_alive: KeepAlive,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum WritePhase {
    Open,
    /// The close frame is queued or written.
    Closing,
    /// Nothing is written any more.
    Ended,
}

thread_local! {
    /// The write buffer of a shard thread. It is empty between flushes.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

#[derive(Default)]
struct Scratch {
    bytes: Vec<u8>,
    /// The bytes of the write, if they are shared with other subscribers. `bytes` is then
    /// empty.
    shared: Option<Bytes>,
    items: Vec<OutgoingItem>,
}

impl Sink for SocketWriter {
    fn flush(&self, now: Instant) {
        let mut state = self.state.lock();
        if state.is_blocked {
            return;
        }
        self.check_keep_alive(&mut state, now);
        SCRATCH.with_borrow_mut(|scratch| {
            while state.phase != WritePhase::Ended && self.write_once(&mut state, now, scratch) {}
            // Returns the memory after a burst.
            if scratch.bytes.capacity() > 4 * BATCH_BYTES {
                *scratch = Scratch::default();
            }
        });
    }
}

impl SocketWriter {
    /// Attaches a writer to a session. It writes `head` first, then the session's
    /// messages.
    pub(super) fn attach(
        session: Session,
        io: ByteWriter,
        deflate: Option<Deflate>,
        head: Vec<u8>,
    ) -> Arc<Self> {
        let now = Instant::now();
        let keep_alive = KeepAlive::new(now, session.keep_alive_timeouts(now));
        let writer = Arc::new_cyclic(|this| Self {
            this: Weak::clone(this),
            session,
            io,
            deflate,
            state: Mutex::new(WriterState {
                phase: WritePhase::Open,
                is_blocked: false,
                control: head,
                keep_alive,
            }),
            ended: Notify::new(),
        });
        let sink: Weak<Self> = Arc::downgrade(&writer);
        writer.session.attach(sink);
        writer.flush(now);
        writer
    }

    /// Records received bytes.
    pub(super) fn record_read(&self, now: Instant, bytes: usize) {
        self.session.record_received(bytes);
        self.state.lock().keep_alive.record_read(now);
    }

    /// Records a pong.
    pub(super) fn record_pong(&self, now: Instant) {
        let round_trip = self.state.lock().keep_alive.record_pong(now);
        if let Some(round_trip) = round_trip {
            self.session.record_round_trip(round_trip);
        }
    }

    /// Flushes the replies to the commands that were just read.
    pub(super) fn flush_replies(&self, now: Instant) {
        let timeouts = self.session.keep_alive_timeouts(now);
        {
            let mut state = self.state.lock();
            if state.keep_alive.record_commands(now, timeouts) {
                state.ping();
            }
        }
        self.flush(now);
    }

    /// Queues a pong for the next flush.
    pub(super) fn queue_pong(&self, payload: &[u8]) {
        let mut state = self.state.lock();
        if state.phase == WritePhase::Open && state.control.len() + payload.len() < CONTROL_BYTES {
            write_frame(&mut state.control, Opcode::Pong, payload);
        }
    }

    /// Sends a close frame. Nothing is written after it.
    pub(super) fn close(&self, code: u16, reason: &str) {
        self.state.lock().close(code, reason);
        self.flush(Instant::now());
    }

    /// Waits until nothing is written any more.
    pub(super) async fn ended(&self) {
        self.ended.notified().await;
    }

    /// Writes the queued messages with one system call. True if there may be more.
    fn write_once(&self, state: &mut WriterState, now: Instant, scratch: &mut Scratch) -> bool {
        let may_have_more = self.fill(state, now, scratch);
        let bytes = scratch.shared.as_deref().unwrap_or(&scratch.bytes);
        if bytes.is_empty() {
            if state.phase == WritePhase::Closing {
                self.end(state);
            }
            return false;
        }
        match self.io.try_write(bytes) {
            Ok(written) => {
                // Counted as sent, since the rest is either written by the task or lost.
                self.session.record_sent(bytes.len());
                let left = bytes.len() - written.accepted + written.held;
                if left == 0 {
                    return may_have_more;
                }
                self.session.record_unsent(left);
                state.is_blocked = true;
                // Succeeds while the reader runs, which holds the writer.
                if let Some(this) = self.this.upgrade() {
                    let frame_end = frame_end(bytes, written.accepted);
                    let rest = match &scratch.shared {
                        Some(shared) => shared.slice(written.accepted..),
                        None => Bytes::copy_from_slice(&scratch.bytes[written.accepted..]),
                    };
                    let begun = frame_end.map(|end| end - written.accepted);
                    tokio::spawn(this.write_rest(rest, begun));
                }
                false
            }
            Err(_) => {
                self.end(state);
                false
            }
        }
    }

    /// Collects the bytes of the next write. True if there may be more.
    fn fill(&self, state: &mut WriterState, now: Instant, scratch: &mut Scratch) -> bool {
        scratch.bytes.clear();
        scratch.shared = None;
        if !state.control.is_empty() {
            scratch
                .bytes
                .append(&mut std::mem::take(&mut state.control));
        }
        if state.phase != WritePhase::Open {
            return true;
        }
        let next_check = state.keep_alive.next_check();
        let outcome = self
            .session
            .take_outgoing(now, BATCH_BYTES, &mut scratch.items, next_check);
        if !scratch.items.is_empty() {
            state.keep_alive.record_write(now);
        }
        let encoding = self.session.info().encoding;
        match (scratch.items.as_slice(), self.deflate) {
            ([OutgoingItem::Batch(batch)], None) if scratch.bytes.is_empty() => {
                scratch.shared = Some(batch_frames(batch, encoding).clone());
                scratch.items.clear();
            }
            _ => {
                for item in scratch.items.drain(..) {
                    write_item(&mut scratch.bytes, encoding, self.deflate, &item);
                }
            }
        }
        match outcome {
            FlushOutcome::More => true,
            FlushOutcome::Drained | FlushOutcome::Idle => false,
            FlushOutcome::Close(reason) => {
                state.close(reason.code(), reason.text());
                if scratch.shared.is_none() {
                    scratch.bytes.append(&mut state.control);
                }
                true
            }
        }
    }

    /// Writes the rest of a blocked write, as the socket accepts it. A client that reads
    /// slowly is served for as long as it takes some bytes in each [`WRITE_TIMEOUT`], and its
    /// session is not past the deadline to close. `begun` is the length of the frame at the
    /// beginning of `rest`, as far as it is in `rest`.
    async fn write_rest(self: Arc<Self>, mut rest: Bytes, begun: Option<usize>) {
        let blocked = rest.clone();
        let written = tokio::select! {
            written = self.write_while_taken(&mut rest) => written.ok(),
            () = self.session.close_deadline() => None,
        };
        if written.is_none() {
            tracing::debug!(
                connection = self.session.id().as_str(),
                "closing a client that does not read, or too slowly"
            );
            // A session that is closing keeps its reason.
            self.session.close(CloseReason::SlowConsumer);
            let taken = blocked.len() - rest.len();
            let frame = begun.and_then(|begun| begun_frame(&blocked, begun, taken));
            if let Some(frame) = frame {
                self.write_last(frame).await;
            }
        }
        {
            let mut state = self.state.lock();
            state.is_blocked = false;
            self.session.record_unsent(0);
            if !matches!(written, Some(Ok(()))) {
                self.end(&mut state);
            }
        }
        self.flush(Instant::now());
    }

    /// Writes bytes for as long as the client takes some of them in each [`WRITE_TIMEOUT`].
    async fn write_while_taken(&self, bytes: &mut Bytes) -> Result<io::Result<()>, Elapsed> {
        loop {
            match timeout(WRITE_TIMEOUT, self.io.write_some(bytes)).await? {
                Ok(left) => {
                    self.session.record_unsent(left);
                    if left == 0 {
                        return Ok(Ok(()));
                    }
                }
                Err(error) => return Ok(Err(error)),
            }
        }
    }

    /// Writes the rest of a frame, and the close frame after it: a client that reads again
    /// learns why it was cut.
    async fn write_last(&self, frame: Bytes) {
        let close = {
            let mut state = self.state.lock();
            let reason = self.session.close_reason();
            let reason = reason.unwrap_or(CloseReason::SlowConsumer);
            state.close(reason.code(), reason.text());
            std::mem::take(&mut state.control)
        };
        let mut last = Bytes::from([&frame[..], &close[..]].concat());
        let Ok(written) = self.io.try_write(&last) else {
            return;
        };
        last.advance(written.accepted);
        // The connection ends, whether the client takes the rest or not.
        let _ = timeout(CLOSE_PATIENCE, self.write_while_taken(&mut last)).await;
    }

    /// Pings a silent client, and closes a dead one.
    fn check_keep_alive(&self, state: &mut WriterState, now: Instant) {
        if now < state.keep_alive.next_check() {
            return;
        }
        match state
            .keep_alive
            .check(now, self.session.keep_alive_timeouts(now))
        {
            KeepAliveAction::Wait => {}
            KeepAliveAction::Ping => state.ping(),
            KeepAliveAction::PingAgain => {
                self.session.record_missed_heartbeat();
                state.ping();
            }
            KeepAliveAction::Close => {
                self.session.record_missed_heartbeat();
                let reason = CloseReason::HeartbeatMissed;
                self.session.close(reason);
                state.close(reason.code(), reason.text());
            }
        }
    }

    fn end(&self, state: &mut WriterState) {
        state.phase = WritePhase::Ended;
        self.io.shut_down();
        self.ended.notify_one();
    }
}

/// End of the frame at `at`, in bytes from the beginning: `frames` begins with a frame. None
/// for anything but whole frames of the server, such as the response to an upgrade.
fn frame_end(frames: &[u8], at: usize) -> Option<usize> {
    let mut end = 0;
    while end < at {
        let [first, length, rest @ ..] = frames.get(end..)? else {
            return None;
        };
        if first & FIN == 0 {
            return None;
        }
        let (header, payload) = match length {
            126 => (4, u64::from(u16::from_be_bytes(*rest.first_chunk()?))),
            127 => (10, u64::from_be_bytes(*rest.first_chunk()?)),
            short => (2, u64::from(*short)),
        };
        end += header + usize::try_from(payload).ok()?;
    }
    Some(end)
}

/// The rest of the frame that the client has begun to take: of `blocked`, whose first `begun`
/// bytes end a frame, it took `taken` bytes.
fn begun_frame(blocked: &Bytes, begun: usize, taken: usize) -> Option<Bytes> {
    let end = match taken.checked_sub(begun) {
        None | Some(0) => begun,
        Some(later) => begun + frame_end(blocked.get(begun..)?, later)?,
    };
    (end <= blocked.len()).then(|| blocked.slice(taken..end))
}

impl WriterState {
    fn close(&mut self, code: u16, reason: &str) {
        if self.phase == WritePhase::Open {
            self.phase = WritePhase::Closing;
            write_close(&mut self.control, code, reason);
        }
    }

    fn ping(&mut self) {
        if self.phase == WritePhase::Open {
            write_frame(&mut self.control, Opcode::Ping, b"");
        }
    }
}

fn opcode(encoding: Encoding) -> Opcode {
    match encoding {
        Encoding::Json => Opcode::Text,
        Encoding::Proto => Opcode::Binary,
    }
}

fn payload(publication: &Publication, encoding: Encoding) -> Bytes {
    match encoding {
        Encoding::Json => publication.json(),
        Encoding::Proto => publication.proto(),
    }
}

fn plain_kind(encoding: Encoding) -> FrameKind {
    match encoding {
        Encoding::Json => frame_kind::WEBSOCKET_TEXT,
        Encoding::Proto => frame_kind::WEBSOCKET_BINARY,
    }
}

/// The frame of a publication, encoded once for all subscribers.
fn shared_frame(publication: &Publication, encoding: Encoding) -> &Bytes {
    publication.frame(plain_kind(encoding), |publication| {
        encode_frame(opcode(encoding), &payload(publication, encoding))
    })
}

/// The frames of a batch, concatenated once for all subscribers.
fn batch_frames(batch: &PublicationBatch, encoding: Encoding) -> &Bytes {
    batch.frames(plain_kind(encoding), |one| shared_frame(one, encoding))
}

/// The compressed frame of a publication, encoded once for all subscribers. It is the
/// plain frame where compression does not make it shorter.
fn shared_deflated_frame(
    publication: &Publication,
    encoding: Encoding,
    deflate: Deflate,
) -> &Bytes {
    let payload = payload(publication, encoding);
    if !deflate.agreement.fits(payload.len()) {
        return shared_frame(publication, encoding);
    }
    let kind = match encoding {
        Encoding::Json => frame_kind::WEBSOCKET_TEXT_DEFLATED,
        Encoding::Proto => frame_kind::WEBSOCKET_BINARY_DEFLATED,
    };
    publication.frame(kind, |publication| {
        encode_deflated_frame(opcode(encoding), &payload, deflate.options)
            .unwrap_or_else(|| shared_frame(publication, encoding).clone())
    })
}

fn write_item(
    out: &mut Vec<u8>,
    encoding: Encoding,
    deflate: Option<Deflate>,
    item: &OutgoingItem,
) {
    match (item, deflate) {
        (OutgoingItem::Batch(batch), None) => out.extend_from_slice(batch_frames(batch, encoding)),
        (OutgoingItem::Batch(batch), Some(deflate)) => {
            for publication in batch.publications() {
                out.extend_from_slice(shared_deflated_frame(publication, encoding, deflate));
            }
        }
        (OutgoingItem::Message(OutgoingMessage::Publication(publication)), None) => {
            out.extend_from_slice(shared_frame(publication, encoding));
        }
        (OutgoingItem::Message(OutgoingMessage::Publication(publication)), Some(deflate)) => {
            out.extend_from_slice(shared_deflated_frame(publication, encoding, deflate));
        }
        (OutgoingItem::Message(OutgoingMessage::PriceBatch(prices)), Some(deflate))
            if encoding == Encoding::Json =>
        {
            write_deflated_prices(out, deflate, prices);
        }
        (OutgoingItem::Message(OutgoingMessage::PriceBatch(prices)), _) => {
            write_header(out, opcode(encoding), prices.len(encoding));
            prices.put(encoding, out);
        }
        (OutgoingItem::Message(message), deflate) => {
            let opcode = opcode(encoding);
            let bytes = match encoding {
                Encoding::Json => message.json(),
                Encoding::Proto => message.proto(),
            };
            let deflated = deflate
                .filter(|_| bytes.len() >= DEFLATE_REPLY_BYTES)
                .filter(|deflate| deflate.agreement.fits(bytes.len()))
                .and_then(|deflate| encode_deflated_frame(opcode, &bytes, deflate.options));
            match deflated {
                Some(frame) => out.extend_from_slice(&frame),
                None => write_frame(out, opcode, &bytes),
            }
        }
    }
}

/// Appends a compressed batch of prices. Each update was compressed once for all clients;
/// only the text around them is this client's own.
fn write_deflated_prices(out: &mut Vec<u8>, deflate: Deflate, prices: &PriceBatch) {
    let parts = || {
        prices.updates.iter().map(|update| {
            &update.frame(frame_kind::JSON_DATA_DEFLATED, |update| {
                DeflatedPart::new(update.json_data(), deflate.options.level).0
            })[..]
        })
    };
    let mut after = Vec::with_capacity(64);
    prices.put_json_after(&mut after);
    let before = prices.json_before();
    let bytes = parts().map(<[u8]>::len).sum();
    let length = concat_len(before, prices.updates.len(), bytes, &after);
    let plain = prices.len(Encoding::Json);
    // A part refers to nothing outside of itself, so its own length decides.
    let fits = |update: &Arc<Publication>| deflate.agreement.fits(update.json_data().len());
    if length < plain && prices.updates.iter().all(fits) {
        write_deflated_header(out, Opcode::Text, length);
        write_concat(out, before, parts(), &after);
    } else {
        write_header(out, Opcode::Text, plain);
        prices.put(Encoding::Json, out);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Wherever a client stops in a sequence of frames, the rest of its frame follows, and
        /// nothing else.
        #[test]
        fn the_rest_of_a_frame_ends_with_the_frame(
            lengths in prop::collection::vec(
                prop_oneof![0_usize..300, 65_000_usize..66_000], 1..8),
            blocked_at in any::<prop::sample::Index>(),
            stopped_at in any::<prop::sample::Index>(),
        ) {
            let mut frames = Vec::new();
            let mut ends = vec![0];
            for length in lengths {
                write_frame(&mut frames, Opcode::Text, &vec![b'x'; length]);
                ends.push(frames.len());
            }
            let accepted = blocked_at.index(frames.len());
            let taken = stopped_at.index(frames.len() - accepted + 1);
            let begun = frame_end(&frames, accepted).unwrap() - accepted;
            let rest = Bytes::copy_from_slice(&frames[accepted..]);
            let frame = begun_frame(&rest, begun, taken).unwrap();
            let stopped = accepted + taken;
            let end = ends.into_iter().find(|end| *end >= stopped).unwrap();
            prop_assert_eq!(&frame[..], &frames[stopped..end]);
        }
    }

    #[test]
    fn the_response_to_an_upgrade_is_no_frame() {
        assert_eq!(frame_end(b"HTTP/1.1 101 Switching Protocols", 3), None);
        assert_eq!(frame_end(b"", 0), Some(0));
        assert_eq!(frame_end(&[0x81], 1), None);
    }
}
