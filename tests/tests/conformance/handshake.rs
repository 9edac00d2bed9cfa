//! Handshake: the upgrade over a raw socket.

use std::fmt::Write as _;

use tidewire_tests::{Server, within};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// The example of RFC 6455, section 1.3.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// The response to an upgrade.
#[derive(Debug)]
pub(crate) struct UpgradeResponse {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    /// Bytes that followed the response.
    pub(crate) rest: Vec<u8>,
}

impl UpgradeResponse {
    /// The value of a header that occurs at most once.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(header, _)| header == name);
        let value = values.next().map(|(_, value)| value.as_str());
        assert!(values.next().is_none(), "{name} occurs once");
        value
    }
}

/// Requests an upgrade, with these headers beside the usual ones.
pub(crate) async fn upgrade(
    server: &Server,
    headers: &[(&str, &str)],
) -> (TcpStream, UpgradeResponse) {
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let mut request = format!(
        "GET /v1/ws HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n",
        server.address()
    );
    for (name, value) in headers {
        write!(request, "{name}: {value}\r\n").unwrap();
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    let end = loop {
        let read = within("the response to an upgrade", stream.read_buf(&mut bytes)).await;
        assert_ne!(
            read.unwrap(),
            0,
            "the connection stays open during the response"
        );
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
    };
    let rest = bytes.split_off(end + 4);
    let text = String::from_utf8(bytes).unwrap();
    let mut lines = text.trim_end().split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap();
    let headers = lines
        .map(|line| line.split_once(':').unwrap())
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let answer = UpgradeResponse {
        status: status.parse().unwrap(),
        headers,
        rest,
    };
    if answer.status == 101 {
        assert_eq!(answer.header("sec-websocket-accept"), Some(ACCEPT));
        assert_eq!(answer.header("upgrade"), Some("websocket"));
        assert!(
            answer
                .header("connection")
                .unwrap()
                .eq_ignore_ascii_case("upgrade")
        );
    }
    (stream, answer)
}

#[tokio::test]
async fn without_an_offer_no_extension_or_subprotocol_is_chosen() {
    let server = Server::start().await;
    let (_stream, answer) = upgrade(&server, &[]).await;
    assert_eq!(answer.status, 101);
    assert_eq!(answer.header("sec-websocket-extensions"), None);
    assert_eq!(answer.header("sec-websocket-protocol"), None);
}

#[tokio::test]
async fn unknown_extensions_are_declined() {
    let server = Server::start().await;
    for offer in ["x-webkit-deflate-frame", "permessage-bzip2; a=1", "a, b;c"] {
        let (_stream, answer) = upgrade(&server, &[("Sec-WebSocket-Extensions", offer)]).await;
        assert_eq!(answer.status, 101, "{offer}");
        assert_eq!(answer.header("sec-websocket-extensions"), None, "{offer}");
    }
}
