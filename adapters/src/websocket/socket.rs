//! The writing end of a WebSocket: takes what its session has and writes it without
//! ever waiting.
//!
//! The shard flushes a socket once a turn; whoever answers a command flushes it right
//! after. All that waits leaves in one write; a run that is all of it is written from
//! the bytes that everyone shares. What the peer does not take is kept, at most twice
//! [`TAKE_BYTES`] or a frame, and only then is there a task that waits for the
//! socket; meanwhile everything else waits in the session, which bounds it.
//! Reading and commands live in `connection`.

use std::{
    cell::RefCell,
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use tidewire_stream::{
    CloseReason, Encoding, FlushOutcome, FrameKind, OutgoingItem, OutgoingMessage, PriceBatch,
    Publication, PublicationBatch, Session, Sink,
};
use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};

use super::{
    deflate::{Agreement, Compressor, Part, joined_len, put_joined},
    frame::{Opcode, deflated_frame, frame, put_close, put_deflated_head, put_frame, put_head},
    io::WriteEnd,
    peer::{Check, Peer},
};
use crate::frame_kind;

/// What is taken from the session for one write, in bytes.
const TAKE_BYTES: usize = 64 << 10;

/// A peer that takes nothing for so long does not read.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// A reply of this size is compressed for its one reader; smaller ones are not worth the
/// time.
const DEFLATE_REPLY_BYTES: usize = 1 << 10;

/// Control frames that wait may take so many bytes; more are not answered, as RFC
/// 6455 allows (section 5.5.3).
const CONTROL_BYTES: usize = 2_048;

/// What was agreed on compressing messages, and how the server does it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deflate {
    pub(crate) agreement: Agreement,
    pub(crate) compressor: Compressor,
}

/// The writing end.
pub(super) struct Socket {
    this: Weak<Self>,
    session: Session,
    io: WriteEnd,
    deflate: Option<Deflate>,
    write: Mutex<Write>,
    /// Told when nothing is written any more.
    ended: Notify,
}

struct Write {
    state: State,
    /// Whether a task waits for the peer to take what it did not take at once.
    is_blocked: bool,
    /// Control frames, which go before what the session has.
    control: Vec<u8>,
    peer: Peer,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// The close frame is written, or waits to be.
    Closing,
    /// Nothing is written any more.
    Ended,
}

thread_local! {
    /// What one write takes along. One for each shard's thread: between two flushes
    /// there is nothing in it.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

#[derive(Default)]
struct Scratch {
    bytes: Vec<u8>,
    /// All of what is written, where that is shared with others: `bytes` is empty.
    shared: Option<Bytes>,
    taken: Vec<OutgoingItem>,
}

impl Sink for Socket {
    fn flush(&self, now: Instant) {
        let mut write = self.write.lock();
        if write.is_blocked {
            return;
        }
        self.check_peer(&mut write, now);
        SCRATCH.with_borrow_mut(|scratch| {
            while write.state != State::Ended && self.write_once(&mut write, now, scratch) {}
            // A burst does not keep its memory.
            if scratch.bytes.capacity() > 4 * TAKE_BYTES {
                *scratch = Scratch::default();
            }
        });
    }
}

impl Socket {
    /// The writing end of a session's connection: it writes `head`, and what the
    /// session has from now on.
    pub(super) fn attach(
        session: Session,
        io: WriteEnd,
        deflate: Option<Deflate>,
        head: Vec<u8>,
    ) -> Arc<Self> {
        let now = Instant::now();
        let peer = Peer::new(now, session.keep_alive_timeouts(now));
        let socket = Arc::new_cyclic(|this| Self {
            this: Weak::clone(this),
            session,
            io,
            deflate,
            write: Mutex::new(Write {
                state: State::Open,
                is_blocked: false,
                control: head,
                peer,
            }),
            ended: Notify::new(),
        });
        let sink: Weak<Self> = Arc::downgrade(&socket);
        socket.session.attach(sink);
        socket.flush(now);
        socket
    }

    /// Notes a sign of life, so many bytes of it.
    pub(super) fn heard(&self, now: Instant, bytes: usize) {
        self.session.record_received(bytes);
        self.write.lock().peer.heard(now);
    }

    /// Notes the answer to a ping.
    pub(super) fn ponged(&self, now: Instant) {
        let round_trip = self.write.lock().peer.answered(now);
        if let Some(round_trip) = round_trip {
            self.session.record_round_trip(round_trip);
        }
    }

    /// Sends what was answered to all that the peer said just now.
    pub(super) fn answered(&self, now: Instant) {
        let timeouts = self.session.keep_alive_timeouts(now);
        {
            let mut write = self.write.lock();
            if write.peer.spoke(now, timeouts) {
                write.ping();
            }
        }
        self.flush(now);
    }

    /// Answers a ping at the next flush.
    pub(super) fn pong(&self, payload: &[u8]) {
        let mut write = self.write.lock();
        if write.state == State::Open && write.control.len() + payload.len() < CONTROL_BYTES {
            put_frame(&mut write.control, Opcode::Pong, payload);
        }
    }

    /// Sends a close frame, the last one.
    pub(super) fn close(&self, code: u16, reason: &str) {
        self.write.lock().close(code, reason);
        self.flush(Instant::now());
    }

    /// Waits until nothing is written any more.
    pub(super) async fn ended(&self) {
        self.ended.notified().await;
    }

    /// Writes what waits, in one go. True if there may be more.
    fn write_once(&self, write: &mut Write, now: Instant, scratch: &mut Scratch) -> bool {
        let may_have_more = self.fill(write, now, scratch);
        let bytes = scratch.shared.as_deref().unwrap_or(&scratch.bytes);
        if bytes.is_empty() {
            if write.state == State::Closing {
                self.end(write);
            }
            return false;
        }
        match self.io.try_write(bytes) {
            Ok(written) if written == bytes.len() => {
                self.session.record_sent(written);
                may_have_more
            }
            Ok(written) => {
                // The rest is on its way, or nothing is any more.
                self.session.record_sent(bytes.len());
                write.is_blocked = true;
                // Lives as long as its reader, at least.
                if let Some(this) = self.this.upgrade() {
                    let rest = match &scratch.shared {
                        Some(shared) => shared.slice(written..),
                        None => Bytes::copy_from_slice(&scratch.bytes[written..]),
                    };
                    tokio::spawn(this.write_rest(rest));
                }
                false
            }
            Err(_) => {
                self.end(write);
                false
            }
        }
    }

    /// Gathers what leaves in the next write. True if there may be more.
    fn fill(&self, write: &mut Write, now: Instant, scratch: &mut Scratch) -> bool {
        scratch.bytes.clear();
        scratch.shared = None;
        if !write.control.is_empty() {
            scratch
                .bytes
                .append(&mut std::mem::take(&mut write.control));
        }
        if write.state != State::Open {
            return true;
        }
        let next_check = write.peer.next_check();
        let taken = self
            .session
            .take_outgoing(now, TAKE_BYTES, &mut scratch.taken, next_check);
        if !scratch.taken.is_empty() {
            write.peer.wrote(now);
        }
        let encoding = self.session.info().encoding;
        match (scratch.taken.as_slice(), self.deflate) {
            ([OutgoingItem::Batch(run)], None) if scratch.bytes.is_empty() => {
                scratch.shared = Some(frames(run, encoding).clone());
                scratch.taken.clear();
            }
            _ => {
                for item in scratch.taken.drain(..) {
                    put_item(&mut scratch.bytes, encoding, self.deflate, &item);
                }
            }
        }
        match taken {
            FlushOutcome::More => true,
            FlushOutcome::Drained | FlushOutcome::Idle => false,
            FlushOutcome::Close(reason) => {
                write.close(reason.code(), reason.text());
                if scratch.shared.is_none() {
                    scratch.bytes.append(&mut write.control);
                }
                true
            }
        }
    }

    /// Writes what the peer did not take at once, as it takes it.
    async fn write_rest(self: Arc<Self>, rest: Bytes) {
        let written = timeout(WRITE_TIMEOUT, self.io.write_all(&rest)).await;
        {
            let mut write = self.write.lock();
            write.is_blocked = false;
            match written {
                Ok(Ok(())) => {}
                Ok(Err(_)) => self.end(&mut write),
                Err(_) => {
                    tracing::debug!(
                        connection = self.session.id().as_str(),
                        "a client does not read"
                    );
                    self.session.close(CloseReason::SlowConsumer);
                    self.end(&mut write);
                }
            }
        }
        self.flush(Instant::now());
    }

    /// Asks a silent peer for a sign of life, and gives up one that gives none.
    fn check_peer(&self, write: &mut Write, now: Instant) {
        if now < write.peer.next_check() {
            return;
        }
        match write.peer.check(now, self.session.keep_alive_timeouts(now)) {
            Check::Wait => {}
            Check::Ask => write.ping(),
            Check::AskAgain => {
                self.session.record_missed_heartbeat();
                write.ping();
            }
            Check::GiveUp => {
                self.session.record_missed_heartbeat();
                let reason = CloseReason::HeartbeatMissed;
                write.close(reason.code(), reason.text());
            }
        }
    }

    fn end(&self, write: &mut Write) {
        write.state = State::Ended;
        self.io.shut_down();
        self.ended.notify_one();
    }
}

impl Write {
    fn close(&mut self, code: u16, reason: &str) {
        if self.state == State::Open {
            self.state = State::Closing;
            put_close(&mut self.control, code, reason);
        }
    }

    fn ping(&mut self) {
        if self.state == State::Open {
            put_frame(&mut self.control, Opcode::Ping, b"");
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

/// A publication's frame, made once for all who get it.
fn framed_once(publication: &Publication, encoding: Encoding) -> &Bytes {
    publication.frame(plain_kind(encoding), |publication| {
        frame(opcode(encoding), &payload(publication, encoding))
    })
}

/// The frames of a run, joined once for all who get it.
fn frames(run: &PublicationBatch, encoding: Encoding) -> &Bytes {
    run.frames(plain_kind(encoding), |one| framed_once(one, encoding))
}

/// A publication's compressed frame, made once; as it is where that is not shorter, or
/// not worth it.
fn deflated_once(publication: &Publication, encoding: Encoding, deflate: Deflate) -> &Bytes {
    let payload = payload(publication, encoding);
    if !deflate.agreement.fits(payload.len()) {
        return framed_once(publication, encoding);
    }
    let kind = match encoding {
        Encoding::Json => frame_kind::WEBSOCKET_TEXT_DEFLATED,
        Encoding::Proto => frame_kind::WEBSOCKET_BINARY_DEFLATED,
    };
    publication.frame(kind, |publication| {
        deflated_frame(opcode(encoding), &payload, deflate.compressor)
            .unwrap_or_else(|| framed_once(publication, encoding).clone())
    })
}

fn put_item(out: &mut Vec<u8>, encoding: Encoding, deflate: Option<Deflate>, item: &OutgoingItem) {
    match (item, deflate) {
        (OutgoingItem::Batch(run), None) => out.extend_from_slice(frames(run, encoding)),
        (OutgoingItem::Batch(run), Some(deflate)) => {
            for publication in run.publications() {
                out.extend_from_slice(deflated_once(publication, encoding, deflate));
            }
        }
        (OutgoingItem::Message(OutgoingMessage::Publication(publication)), None) => {
            out.extend_from_slice(framed_once(publication, encoding));
        }
        (OutgoingItem::Message(OutgoingMessage::Publication(publication)), Some(deflate)) => {
            out.extend_from_slice(deflated_once(publication, encoding, deflate));
        }
        (OutgoingItem::Message(OutgoingMessage::PriceBatch(prices)), Some(deflate))
            if encoding == Encoding::Json =>
        {
            put_deflated_prices(out, deflate, prices);
        }
        (OutgoingItem::Message(OutgoingMessage::PriceBatch(prices)), _) => {
            put_head(out, opcode(encoding), prices.len(encoding));
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
                .and_then(|deflate| deflated_frame(opcode, &bytes, deflate.compressor));
            match deflated {
                Some(frame) => out.extend_from_slice(&frame),
                None => put_frame(out, opcode, &bytes),
            }
        }
    }
}

/// Appends a batch of prices as it is compressed: its updates were, once for all clients,
/// and only what is around them is this client's own.
fn put_deflated_prices(out: &mut Vec<u8>, deflate: Deflate, prices: &PriceBatch) {
    let parts = || {
        prices.updates.iter().map(|update| {
            &update.frame(frame_kind::JSON_DATA_DEFLATED, |update| {
                Part::new(update.json_data(), deflate.compressor.level).0
            })[..]
        })
    };
    let mut after = Vec::with_capacity(64);
    prices.put_json_after(&mut after);
    let before = prices.json_before();
    let bytes = parts().map(<[u8]>::len).sum();
    let length = joined_len(before, prices.updates.len(), bytes, &after);
    let plain = prices.len(Encoding::Json);
    // Parts refer to nothing outside of themselves.
    let fits = |update: &Arc<Publication>| deflate.agreement.fits(update.json_data().len());
    if length < plain && prices.updates.iter().all(fits) {
        put_deflated_head(out, Opcode::Text, length);
        put_joined(out, before, parts(), &after);
    } else {
        put_head(out, Opcode::Text, plain);
        prices.put(Encoding::Json, out);
    }
}
