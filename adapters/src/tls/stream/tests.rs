use std::sync::OnceLock;

use proptest::prelude::*;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{PrivateKeyDer, ServerName},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket},
};
use tokio_rustls::{TlsConnector, client};

use super::*;

/// The configurations of the server and of its clients.
fn configs() -> &'static (Arc<ServerConfig>, Arc<ClientConfig>) {
    static CONFIGS: OnceLock<(Arc<ServerConfig>, Arc<ClientConfig>)> = OnceLock::new();
    CONFIGS.get_or_init(|| {
        let identity = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let certificate = identity.cert.der().clone();
        let key = PrivateKeyDer::try_from(identity.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(ring::default_provider());
        let server = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)
            .unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate).unwrap();
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        (Arc::new(server), Arc::new(client))
    })
}

/// A connection from a client with a small receive buffer.
async fn pair() -> (TlsStream, client::TlsStream<TcpStream>) {
    let (server, client) = configs().clone();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connecting = async {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(8 << 10).unwrap();
        let stream = socket.connect(address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let connector = TlsConnector::from(client);
        connector.connect(name, stream).await.unwrap()
    };
    let accepting = async {
        let (stream, _) = listener.accept().await.unwrap();
        TlsStream::accept(stream, server).await.unwrap()
    };
    tokio::join!(accepting, connecting)
}

/// Bytes that differ from place to place.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|place| (place % 251) as u8).collect()
}

/// The bytes of buffers that a stream keeps.
fn kept(stream: &TlsStream) -> usize {
    let records = stream.records.lock();
    [&records.incomplete, &records.unread, &records.unsent]
        .map(BytesMut::capacity)
        .iter()
        .sum()
}

#[tokio::test]
async fn bytes_that_the_socket_does_not_accept_leave_as_the_client_reads() {
    let (stream, mut client) = pair().await;
    let part = pattern(50_000);
    let mut parts = 1;
    let mut left = stream.try_write(&part).unwrap();
    while left == 0 {
        left = stream.try_write(&part).unwrap();
        parts += 1;
    }
    assert_eq!(left, stream.records.lock().unsent.len());
    // Nothing else is written, and still all bytes arrive.
    let flushing = async {
        while left > 0 {
            let before = left;
            left = poll_fn(|cx| stream.poll_flush_some(cx)).await.unwrap();
            assert!(left < before, "{left} of {before}");
            assert_eq!(left, stream.records.lock().unsent.len());
        }
    };
    let mut read = vec![0; parts * part.len()];
    tokio::join!(flushing, async {
        client.read_exact(&mut read).await.unwrap();
    });
    assert!(read.chunks(part.len()).all(|read| read == part));
    assert_eq!(kept(&stream), 0);
}

#[tokio::test]
async fn an_idle_stream_keeps_no_buffer() {
    let (mut stream, mut client) = pair().await;
    assert_eq!(kept(&stream), 0, "after the handshake");
    let mut read = [0; 5];
    client.write_all(b"hello").await.unwrap();
    stream.read_exact(&mut read).await.unwrap();
    stream.write_all(b"world").await.unwrap();
    stream.flush().await.unwrap();
    client.read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"world");
    assert_eq!(kept(&stream), 0);
}

#[tokio::test]
async fn both_sides_hear_that_nothing_follows() {
    let (mut stream, mut client) = pair().await;
    let mut rest = Vec::new();
    client.write_all(b"last").await.unwrap();
    client.shutdown().await.unwrap();
    stream.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"last");
    // The server may still answer.
    stream.write_all(b"answer").await.unwrap();
    stream.shutdown().await.unwrap();
    rest.clear();
    client.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"answer");
}

#[tokio::test]
async fn an_end_without_notice_is_an_error() {
    let (mut stream, mut client) = pair().await;
    client.get_mut().0.shutdown().await.unwrap();
    let error = stream.read(&mut [0; 8]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn new_keys_of_the_client_are_answered() {
    let (mut stream, mut client) = pair().await;
    let mut read = [0; 2];
    for _ in 0..3 {
        client.get_mut().1.refresh_traffic_keys().unwrap();
        client.write_all(b"up").await.unwrap();
        stream.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"up");
        stream.write_all(b"ok").await.unwrap();
        client.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"ok");
    }
}

#[tokio::test]
async fn bytes_that_are_no_tls_get_an_alert() {
    let (server, _) = configs().clone();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    // A handshake record that holds no handshake message.
    client
        .write_all(&[22, 3, 1, 0, 4, 255, 0, 0, 0])
        .await
        .unwrap();
    let error = TlsStream::accept(stream, server).await.err().unwrap();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    let mut alert = Vec::new();
    // Closed or reset after the alert.
    let _ = client.read_to_end(&mut alert).await;
    assert_eq!(alert.first(), Some(&21), "{alert:?}");
}

/// Sends parts of these lengths in one direction, and reads them in others.
async fn exchange(parts: &[usize], read_length: usize, is_from_client: bool) {
    let (stream, client) = pair().await;
    let all = pattern(parts.iter().sum());
    let (mut write, mut read): (
        Box<dyn AsyncWrite + Unpin + Send>,
        Box<dyn AsyncRead + Unpin + Send>,
    ) = match is_from_client {
        true => (Box::new(client), Box::new(stream)),
        false => (Box::new(stream), Box::new(client)),
    };
    let writing = async {
        let mut at = 0;
        for part in parts {
            write.write_all(&all[at..at + part]).await.unwrap();
            at += part;
        }
        write.shutdown().await.unwrap();
        // Open until all is read.
        write
    };
    let reading = async {
        let (mut got, mut part) = (Vec::new(), vec![0; read_length]);
        loop {
            match read.read(&mut part).await.unwrap() {
                0 => return got,
                count => got.extend_from_slice(&part[..count]),
            }
        }
    };
    let (_open, got) = tokio::join!(writing, reading);
    assert!(got == all, "{} of {} bytes", got.len(), all.len());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn bytes_arrive_whole_and_in_order(
        parts in prop::collection::vec(1_usize..70_000, 0..8),
        read_length in 1_usize..40_000,
        is_from_client: bool,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(exchange(&parts, read_length, is_from_client));
    }
}
