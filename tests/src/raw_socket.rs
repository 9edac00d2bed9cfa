//! Raw sockets: WebSockets of clients that do not read, or that look at nothing that they read.

use std::io;

use tokio::{
    io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};

use crate::Server;

/// A WebSocket with a small receive buffer that is never read after its handshake.
///
/// # Panics
/// The server does not upgrade the connection.
pub async fn silent_socket(server: &Server, token: Option<&str>) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    upgraded(socket, server, token).await
}

/// A WebSocket after its handshake, to read bytes from.
///
/// # Panics
/// The server does not upgrade the connection.
pub async fn reading_socket(server: &Server, token: Option<&str>) -> TcpStream {
    upgraded(TcpSocket::new_v4().unwrap(), server, token).await
}

async fn upgraded(socket: TcpSocket, server: &Server, token: Option<&str>) -> TcpStream {
    let mut socket = socket.connect(server.address()).await.unwrap();
    let token = token.map(|token| format!("Authorization: Bearer {token}\r\n"));
    let token = token.unwrap_or_default();
    let head = format!(
        "GET /v1/ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{token}\r\n"
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut first = [0; 12];
    socket.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 101");
    socket
}

/// Sends a text frame, masked with zeros.
///
/// # Errors
/// The connection has ended.
///
/// # Panics
/// The text has 64 KiB or more.
pub async fn send(socket: &mut (impl AsyncWrite + Unpin), text: &str) -> io::Result<()> {
    let mut frame = vec![0x81];
    match u16::try_from(text.len()).unwrap() {
        short @ 0..126 => frame.push(0x80 | short.to_be_bytes()[1]),
        long => {
            frame.push(0xfe);
            frame.extend(long.to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(text.as_bytes());
    socket.write_all(&frame).await
}
