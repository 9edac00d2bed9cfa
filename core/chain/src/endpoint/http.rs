//! HTTP transport: calls a node over HTTP with a bounded response size.
//!
//! It replaces alloy's own transport, which reads a response of any size and logs the URL. The
//! URL may hold an API key.

use std::{
    io::Read as _,
    task::{Context, Poll},
};

use alloy::{
    rpc::json_rpc::{RequestPacket, ResponsePacket},
    transports::{TransportError, TransportErrorKind, TransportFut},
};
use flate2::read::GzDecoder;
use reqwest::{Client, Response, StatusCode, Url, header};
use tidewire_stream::redact_url;
use tower_service::Service;

use super::failure::{retry_after, without_url};

/// The HTTP transport to one node.
#[derive(Debug, Clone)]
pub(super) struct Http {
    client: Client,
    url: Url,
    /// The largest response, in bytes.
    max_bytes: usize,
}

impl Http {
    /// A transport that rejects responses of more than `max_bytes`.
    pub(super) fn new(client: Client, url: Url, max_bytes: usize) -> Self {
        Self {
            client,
            url,
            max_bytes,
        }
    }

    async fn send(self, request: RequestPacket) -> Result<ResponsePacket, TransportError> {
        let excerpt = |body: &[u8]| excerpt(body, &self.url);
        let post = self.client.post(self.url.clone()).json(&request);
        let post = post.header(header::ACCEPT_ENCODING, "gzip");
        let response = post.headers(request.headers()).send().await;
        let response = response.map_err(|error| transport_error(&error))?;
        let status = response.status();
        let after = retry_after(response.headers());
        let is_rate_limit = after.is_some() || status == StatusCode::TOO_MANY_REQUESTS;
        let encoding = response.headers().get(header::CONTENT_ENCODING);
        let is_gzip = encoding.is_some_and(|encoding| encoding == "gzip");
        let mut body = read_body(response, self.max_bytes).await?;
        if is_gzip {
            body = inflate(&body, self.max_bytes)?;
        }
        // Some nodes send a JSON-RPC error with an HTTP error status.
        match serde_json::from_slice::<ResponsePacket>(&body) {
            Ok(packet) if status.is_success() || !is_rate_limit && packet.is_error() => Ok(packet),
            Err(error) if status.is_success() => {
                Err(TransportError::deser_err(error, excerpt(&body)))
            }
            _ => Err(TransportErrorKind::http_error_with_retry_after(
                status.as_u16(),
                excerpt(&body),
                after,
            )),
        }
    }
}

async fn read_body(mut response: Response, max_bytes: usize) -> Result<Vec<u8>, TransportError> {
    let mut body = Vec::new();
    while let Some(part) = response
        .chunk()
        .await
        .map_err(|error| transport_error(&error))?
    {
        if body.len() + part.len() > max_bytes {
            let error = format!("the response has more than {max_bytes} bytes");
            return Err(TransportErrorKind::custom_str(&error));
        }
        body.extend_from_slice(&part);
    }
    Ok(body)
}

/// Decompresses a body.
fn inflate(body: &[u8], max_bytes: usize) -> Result<Vec<u8>, TransportError> {
    let mut inflated = Vec::new();
    let limit = max_bytes as u64 + 1;
    let read = GzDecoder::new(body).take(limit).read_to_end(&mut inflated);
    let error = match read {
        Ok(_) if inflated.len() <= max_bytes => return Ok(inflated),
        Ok(_) => format!("the response has more than {max_bytes} bytes"),
        Err(error) => format!("the response is no valid gzip: {error}"),
    };
    Err(TransportErrorKind::custom_str(&error))
}

/// The error with all its causes, each without the URL.
fn transport_error(error: &reqwest::Error) -> TransportError {
    let mut message = without_url(&error.to_string());
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        message = format!("{message}: {}", without_url(&cause.to_string()));
        source = cause.source();
    }
    TransportErrorKind::custom_str(&message)
}

/// Bytes of a body that are read for its excerpt.
const EXCERPT_SOURCE: usize = 4_096;

/// Characters of an excerpt.
const EXCERPT: usize = 500;

/// The start of a body, for an error message. It may be a whole HTML page, which may quote the
/// URL: the parts that may hold a key are removed before the text is cut.
fn excerpt(body: &[u8], url: &Url) -> String {
    let text = String::from_utf8_lossy(body.get(..EXCERPT_SOURCE).unwrap_or(body));
    redact_url(&text, url.as_str())
        .chars()
        .take(EXCERPT)
        .collect()
}

impl Service<RequestPacket> for Http {
    type Response = ResponsePacket;
    type Error = TransportError;
    type Future = TransportFut<'static>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: RequestPacket) -> Self::Future {
        Box::pin(self.clone().send(request))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use alloy::rpc::client::ClientBuilder;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;
    use crate::endpoint::{Failure, tls};

    /// Calls a node that responds with this head and body. An endless body repeats for ever.
    async fn failure_of(head: &'static str, body: &'static str, is_endless: bool) -> Failure {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/secret", listener.local_addr().unwrap());
        let serving = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut request = [0; 4_096];
            let _ = socket.read(&mut request).await.unwrap();
            let head = format!("HTTP/1.1 {head}\r\nconnection: close\r\n\r\n");
            socket.write_all(head.as_bytes()).await.unwrap();
            while socket.write_all(body.as_bytes()).await.is_ok() && is_endless {}
        });
        let tls = tls::tls_config(None).unwrap();
        let client = tls::http_client(&tls).unwrap();
        let http = Http::new(client, url.parse().unwrap(), 10_000);
        let client = ClientBuilder::default().transport(http, false);
        let response = client.request::<_, String>("eth_chainId", [(); 0]).await;
        serving.await.unwrap();
        response.unwrap_err().into()
    }

    #[tokio::test]
    async fn an_endless_response_is_not_read_to_its_end() {
        let failure = failure_of("200 OK", "{\"jsonrpc\": \"2.0\", ", true).await;
        assert!(
            failure.to_string().contains("more than 10000 bytes"),
            "{failure}"
        );
    }

    #[tokio::test]
    async fn a_json_rpc_error_counts_whatever_the_status() {
        let error = r#"{"jsonrpc":"2.0","id":0,"error":{"code":-32601,"message":"no"}}"#;
        for head in ["200 OK", "400 Bad Request", "500 Oops"] {
            let failure = failure_of(head, error, false).await;
            assert_eq!(failure, Failure::Unsupported("no".to_owned()), "{head}");
        }
        let limited = failure_of("429 Slow down\r\nretry-after: 7", error, false).await;
        let after = Some(Duration::from_secs(7));
        assert!(matches!(limited, Failure::RateLimited { after: found, .. } if found == after));
        let page = failure_of("502 Bad Gateway", "<html>", false).await;
        assert!(matches!(page, Failure::Unreachable(_)), "{page}");
    }

    #[test]
    fn a_compressed_body_is_read_up_to_the_limit() {
        use std::io::Write as _;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&[b'x'; 100_000]).unwrap();
        let body = encoder.finish().unwrap();
        assert!(body.len() < 1_000);
        assert_eq!(inflate(&body, 100_000).unwrap(), [b'x'; 100_000]);
        let long = inflate(&body, 99_999).unwrap_err().to_string();
        assert!(long.contains("more than 99999 bytes"), "{long}");
        assert!(inflate(b"no gzip", 100).is_err());
    }

    #[tokio::test]
    async fn a_refused_connection_does_not_reveal_the_url() {
        let tls = tls::tls_config(None).unwrap();
        let client = tls::http_client(&tls).unwrap();
        let url = "http://127.0.0.1:1/secret".parse().unwrap();
        let client = ClientBuilder::default().transport(Http::new(client, url, 1), false);
        let response = client.request::<_, String>("eth_chainId", [(); 0]).await;
        let failure = Failure::from(response.unwrap_err()).to_string();
        assert!(!failure.contains("secret"), "{failure}");
        assert!(failure.contains("refused"), "{failure}");
    }
}
