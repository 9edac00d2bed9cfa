//! TLS stream: encrypts and decrypts the bytes of one connection.
//!
//! A connection that is idle holds its keys and no buffer. Received bytes pass through a
//! buffer of the thread, and only those of an incomplete record are kept. Sent bytes are
//! encrypted into another buffer of the thread and written at once. Only bytes that the
//! socket does not accept are kept, and a flush waits for them: encrypted is not written.
//!
//! HTTP uses a stream as `AsyncRead` and `AsyncWrite`. The WebSocket adapter shares it
//! between its reader and its writer.

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    net::Shutdown,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, BytesMut};
use parking_lot::Mutex;
use rustls::{
    ServerConfig,
    pki_types::CertificateDer,
    server::{ServerConnectionData, UnbufferedServerConnection},
    unbuffered::{
        ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus, WriteTraffic,
    },
};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// Bytes of one read from the socket.
const READ_BYTES: usize = 64 << 10;

/// Bytes that `poll_write` takes at once. A stream keeps about this many unwritten bytes for
/// HTTP, at most.
const WRITE_BYTES: usize = 64 << 10;

/// Bytes of incomplete records, at most. A handshake message has up to 64 KiB (RFC 8446,
/// section 4), and the last record up to 16 KiB and some more.
const MAX_INCOMPLETE_BYTES: usize = 96 << 10;

/// Plaintext of one record (RFC 8446, section 5.1).
const RECORD_BYTES: usize = 16 << 10;

/// Bytes that a record is longer than its plaintext, at most: head, nonce, type and tag.
const RECORD_OVERHEAD: usize = 64;

/// Capacity that the buffer for sent bytes keeps, at most.
const MAX_KEPT_BYTES: usize = 256 << 10;

#[cfg(test)]
mod tests;

thread_local! {
    /// The encrypted bytes that a connection of this thread receives.
    static RECEIVED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    /// The encrypted bytes that a connection of this thread sends.
    static ENCRYPTED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The server's side of a TLS connection.
pub(crate) struct TlsStream {
    socket: TcpStream,
    records: Mutex<Records>,
}

/// The TLS state of a connection, and the bytes that it cannot pass on yet.
struct Records {
    connection: UnbufferedServerConnection,
    /// Received bytes of incomplete records.
    incomplete: BytesMut,
    /// Decrypted bytes that were not read yet.
    unread: BytesMut,
    /// Encrypted bytes that the socket has not accepted yet.
    unsent: BytesMut,
    /// Whether the client ended its direction, or broke the protocol.
    is_ended: bool,
    /// Whether the server ended its direction.
    is_shut_down: bool,
}

/// Encrypts the bytes of a connection.
type Traffic<'a> = WriteTraffic<'a, ServerConnectionData>;

impl TlsStream {
    /// Performs the handshake. The caller bounds the time.
    ///
    /// # Errors
    /// The connection broke, or the client violated the protocol.
    pub(super) async fn accept(socket: TcpStream, config: Arc<ServerConfig>) -> io::Result<Self> {
        let connection = UnbufferedServerConnection::new(config).map_err(invalid)?;
        let stream = Self {
            socket,
            records: Mutex::new(Records {
                connection,
                incomplete: BytesMut::new(),
                unread: BytesMut::new(),
                unsent: BytesMut::new(),
                is_ended: false,
                is_shut_down: false,
            }),
        };
        while stream.records.lock().connection.is_handshaking() {
            poll_fn(|cx| {
                let mut records = stream.records.lock();
                // The client may have sent a request right after its part of the handshake.
                let mut unread = std::mem::take(&mut records.unread);
                let received = records.poll_receive(&stream.socket, cx, &mut unread);
                records.unread = unread;
                received
            })
            .await?;
            poll_fn(|cx| stream.poll_flush(cx)).await?;
        }
        Ok(stream)
    }

    /// The client's certificate, if it sent one.
    pub(super) fn peer_certificate(&self) -> Option<CertificateDer<'static>> {
        let records = self.records.lock();
        records.connection.peer_certificates()?.first().cloned()
    }

    /// Waits for bytes and appends them to `out`. Returns 0 at the end of the stream.
    pub(crate) fn poll_receive(
        &self,
        cx: &mut Context<'_>,
        out: &mut BytesMut,
    ) -> Poll<io::Result<usize>> {
        let mut records = self.records.lock();
        let before = out.len();
        out.extend_from_slice(&records.unread);
        records.unread = BytesMut::new();
        while out.len() == before && !records.is_ended {
            ready!(records.poll_receive(&self.socket, cx, out))?;
        }
        Poll::Ready(Ok(out.len() - before))
    }

    /// Encrypts all of `bytes`, and writes what the socket accepts now. Returns the number of
    /// encrypted bytes that are left, which [`poll_flush`](Self::poll_flush) or the next write
    /// sends.
    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut records = self.records.lock();
        records.write(&self.socket, bytes.len(), |traffic, out| {
            traffic.encrypt(bytes, out)
        })
    }

    /// Waits until the socket accepts some of the encrypted bytes. Returns the number of those
    /// that are left.
    pub(crate) fn poll_flush_some(&self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut records = self.records.lock();
        while !records.unsent.is_empty() {
            ready!(self.socket.poll_write_ready(cx))?;
            match self.socket.try_write(&records.unsent) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                written => records.unsent.advance(written?),
            }
            if !records.unsent.is_empty() {
                return Poll::Ready(Ok(records.unsent.len()));
            }
        }
        records.unsent = BytesMut::new();
        Poll::Ready(Ok(0))
    }

    /// Waits until the socket has accepted everything that was encrypted.
    pub(crate) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while ready!(self.poll_flush_some(cx))? > 0 {}
        Poll::Ready(Ok(()))
    }

    /// Closes the direction to the client. Bytes that the socket does not accept are lost.
    pub(crate) fn shut_down(&self) {
        // Both fail if the client has disconnected.
        let _ = self.records.lock().write_close_notify(&self.socket);
        let _ = SockRef::from(&self.socket).shutdown(Shutdown::Write);
    }
}

impl Records {
    /// Waits for bytes of the socket, and appends what they decrypt to. That can be nothing.
    fn poll_receive(
        &mut self,
        socket: &TcpStream,
        cx: &mut Context<'_>,
        out: &mut BytesMut,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(socket.poll_read_ready(cx))?;
            let received = RECEIVED.with_borrow_mut(|buffer| self.receive(socket, buffer, out));
            match received {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                received => {
                    self.is_ended |= received.is_err();
                    // An answer of TLS itself, such as an alert. What the socket does not
                    // accept of it leaves with the next write.
                    let _ = self.push(socket);
                    return Poll::Ready(received);
                }
            }
        }
    }

    /// Reads from the socket once, and decrypts the complete records.
    fn receive(
        &mut self,
        socket: &TcpStream,
        buffer: &mut Vec<u8>,
        out: &mut BytesMut,
    ) -> io::Result<()> {
        let kept = self.incomplete.len();
        if kept > MAX_INCOMPLETE_BYTES {
            return Err(invalid("a message is longer than TLS permits"));
        }
        if buffer.len() < kept + READ_BYTES {
            buffer.resize(kept + READ_BYTES, 0);
        }
        let count = socket.try_read(&mut buffer[kept..kept + READ_BYTES])?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        buffer[..kept].copy_from_slice(&self.incomplete);
        let received = &mut buffer[..kept + count];
        let used = self.decrypt(received, out)?;
        self.incomplete = BytesMut::from(&received[used..]);
        Ok(())
    }

    /// Decrypts the complete records of `received`, and returns their length.
    fn decrypt(&mut self, received: &mut [u8], out: &mut BytesMut) -> io::Result<usize> {
        let mut used = 0;
        loop {
            let rest = &mut received[used..];
            let UnbufferedStatus { mut discard, state } = self.connection.process_tls_records(rest);
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record.map_err(invalid)?;
                        discard += record.discard;
                        out.extend_from_slice(record.payload);
                    }
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    encode(&mut data, &mut self.unsent)?;
                }
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => self.is_ended = true,
                Ok(_) => return Ok(used + discard),
                Err(error) => {
                    self.encode_alert(&mut received[used..]);
                    return Err(invalid(error));
                }
            }
            used += discard;
        }
    }

    /// Encodes the alert that tells the client why the connection fails.
    fn encode_alert(&mut self, received: &mut [u8]) {
        while self.connection.wants_write() {
            match self.connection.process_tls_records(received).state {
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    if encode(&mut data, &mut self.unsent).is_err() {
                        return;
                    }
                }
                _ => return,
            }
        }
    }

    /// Tells the client, once, that nothing follows.
    fn write_close_notify(&mut self, socket: &TcpStream) -> io::Result<usize> {
        if std::mem::replace(&mut self.is_shut_down, true) {
            return self.push(socket);
        }
        self.write(socket, 0, |traffic, out| traffic.queue_close_notify(out))
    }

    /// Encrypts `length` bytes by `encrypt`, and writes what the socket accepts now. Returns the
    /// number of unsent bytes.
    fn write(
        &mut self,
        socket: &TcpStream,
        length: usize,
        encrypt: impl Fn(&mut Traffic<'_>, &mut [u8]) -> Result<usize, EncryptError>,
    ) -> io::Result<usize> {
        ENCRYPTED
            .with_borrow_mut(|buffer| {
                let records = length / RECORD_BYTES + 1;
                let size = length + records * RECORD_OVERHEAD;
                if buffer.len() < size {
                    buffer.resize(size, 0);
                }
                let length = self.encrypt(buffer, encrypt)?;
                let mut encrypted = &buffer[..length];
                if self.unsent.is_empty() {
                    encrypted = &encrypted[send(socket, encrypted)?..];
                }
                self.unsent.extend_from_slice(encrypted);
                // Returns the memory after a burst.
                if buffer.len() > MAX_KEPT_BYTES {
                    *buffer = Vec::new();
                }
                Ok(())
            })
            .and_then(|()| self.push(socket))
    }

    /// Encrypts into `buffer`, and returns the number of encrypted bytes.
    fn encrypt(
        &mut self,
        buffer: &mut Vec<u8>,
        encrypt: impl Fn(&mut Traffic<'_>, &mut [u8]) -> Result<usize, EncryptError>,
    ) -> io::Result<usize> {
        loop {
            let UnbufferedStatus { discard, state } =
                self.connection.process_tls_records(&mut self.incomplete);
            let mut encrypted = None;
            match state.map_err(invalid)? {
                ConnectionState::WriteTraffic(mut traffic) => {
                    let mut result = encrypt(&mut traffic, buffer);
                    if let Err(EncryptError::InsufficientSize(size)) = &result {
                        buffer.resize(size.required_size, 0);
                        result = encrypt(&mut traffic, buffer);
                    }
                    encrypted = Some(result.map_err(io::Error::other)?);
                }
                ConnectionState::EncodeTlsData(mut data) => encode(&mut data, &mut self.unsent)?,
                ConnectionState::TransmitTlsData(data) => data.done(),
                ConnectionState::PeerClosed => self.is_ended = true,
                _ => return Err(io::ErrorKind::BrokenPipe.into()),
            }
            self.incomplete.advance(discard);
            if let Some(length) = encrypted {
                return Ok(length);
            }
        }
    }

    /// Writes what the socket accepts of the unsent bytes. Returns the number of those left.
    fn push(&mut self, socket: &TcpStream) -> io::Result<usize> {
        while !self.unsent.is_empty() {
            match send(socket, &self.unsent)? {
                0 => return Ok(self.unsent.len()),
                sent => self.unsent.advance(sent),
            }
        }
        self.unsent = BytesMut::new();
        Ok(0)
    }
}

/// Writes as many bytes as the socket accepts now. Calls the kernel directly: tokio's
/// readiness would touch another cache line.
fn send(socket: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    match SockRef::from(socket).send(bytes) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        sent => sent,
    }
}

/// Appends a record of TLS itself to `out`.
fn encode(
    data: &mut EncodeTlsData<'_, ServerConnectionData>,
    out: &mut BytesMut,
) -> io::Result<()> {
    // An empty buffer makes rustls name the size.
    if let Err(EncodeError::InsufficientSize(size)) = data.encode(&mut []) {
        let start = out.len();
        out.resize(start + size.required_size, 0);
        data.encode(&mut out[start..]).map_err(io::Error::other)?;
    }
    Ok(())
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl AsyncRead for TlsStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { socket, records } = self.get_mut();
        let records = records.get_mut();
        while records.unread.is_empty() {
            if records.is_ended {
                return Poll::Ready(Ok(()));
            }
            let mut unread = std::mem::take(&mut records.unread);
            let received = records.poll_receive(socket, cx, &mut unread);
            records.unread = unread;
            ready!(received)?;
        }
        let part = records.unread.len().min(buf.remaining());
        buf.put_slice(&records.unread[..part]);
        records.unread.advance(part);
        if records.unread.is_empty() {
            records.unread = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(TlsStream::poll_flush(&self, cx))?;
        let part = &buf[..buf.len().min(WRITE_BYTES)];
        self.try_write(part)?;
        Poll::Ready(Ok(part.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // Joined, since each write is a record and a system call of its own.
        let mut joined = Vec::new();
        for buf in bufs {
            let room = WRITE_BYTES - joined.len();
            joined.extend_from_slice(&buf[..buf.len().min(room)]);
        }
        self.poll_write(cx, &joined)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        TlsStream::poll_flush(&self, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { socket, records } = &mut *self;
        records.get_mut().write_close_notify(socket)?;
        ready!(TlsStream::poll_flush(&self, cx))?;
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
