//! Socket of a load client, over plain TCP or TLS.

use std::{
    io::{self, Read, Write},
    net::Shutdown,
    sync::Arc,
};

use mio::net::TcpStream;
use rustls::{ClientConfig, ClientConnection, StreamOwned, pki_types::ServerName};

/// A socket that is read and written without waiting.
pub(crate) enum Socket {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Socket {
    /// A socket that performs a TLS handshake with `localhost` if `tls` is given.
    ///
    /// # Errors
    /// The configuration cannot be used.
    pub(crate) fn new(stream: TcpStream, tls: Option<&Arc<ClientConfig>>) -> io::Result<Self> {
        let Some(config) = tls else {
            return Ok(Self::Plain(stream));
        };
        Ok(Self::joined(connection(config)?, stream))
    }

    /// A socket that continues a TLS connection.
    pub(crate) fn joined(connection: ClientConnection, stream: TcpStream) -> Self {
        Self::Tls(Box::new(StreamOwned::new(connection, stream)))
    }

    /// Returns the TCP socket, for the event queue.
    pub(crate) fn source(&mut self) -> &mut TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => &mut stream.sock,
        }
    }

    /// Whether a read that does not fill its buffer has emptied the TCP socket.
    pub(crate) fn reads_whole(&self) -> bool {
        matches!(self, Self::Plain(_))
    }

    /// Closes both directions.
    pub(crate) fn close(&mut self) {
        // Fails if the server has closed already.
        let _ = self.source().shutdown(Shutdown::Both);
    }
}

/// The client's side of a TLS connection to `localhost`.
///
/// # Errors
/// The configuration cannot be used.
pub(crate) fn connection(config: &Arc<ClientConfig>) -> io::Result<ClientConnection> {
    let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
    ClientConnection::new(config.clone(), name).map_err(io::Error::other)
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    /// Writes what TLS holds.
    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Tls(stream) => {
                while stream.conn.wants_write() {
                    stream.conn.write_tls(&mut stream.sock)?;
                }
                Ok(())
            }
        }
    }
}
