//! Supply stand-in: an HTTP server that returns one document.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// A supply source. Dropping it stops it.
#[derive(Debug)]
pub struct SupplyStandIn {
    address: SocketAddr,
    serving: JoinHandle<()>,
}

impl SupplyStandIn {
    /// Starts on a free port, and returns this document to every request.
    ///
    /// # Panics
    /// There is no free port.
    pub async fn start(document: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let length = document.len();
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{document}"
        );
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // The client may have closed.
                let _ = serve(stream, &answer).await;
            }
        });
        Self { address, serving }
    }

    /// The URL of the document.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/supply.json", self.address)
    }
}

impl Drop for SupplyStandIn {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(mut stream: TcpStream, answer: &str) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await?);
    }
    stream.write_all(answer.as_bytes()).await
}
