//! Calls over HTTP: what alloy's own transport does, with a bound on what a node answers, and
//! without a word of its address in any log.

use std::task::{Context, Poll};

use alloy::{
    rpc::json_rpc::{RequestPacket, ResponsePacket},
    transports::{TransportError, TransportErrorKind, TransportFut},
};
use reqwest::{Client, Response, StatusCode, Url};
use tower_service::Service;

use super::failure::{retry_after, without_address};

/// A node that is asked over HTTP.
#[derive(Debug, Clone)]
pub(super) struct Http {
    client: Client,
    url: Url,
    /// How long an answer may be, in bytes.
    limit: usize,
}

impl Http {
    /// A node whose answers have at most `limit` bytes.
    pub(super) fn new(client: Client, url: Url, limit: usize) -> Self {
        Self { client, url, limit }
    }

    async fn ask(self, request: RequestPacket) -> Result<ResponsePacket, TransportError> {
        let asking = self.client.post(self.url).json(&request);
        let response = asking.headers(request.headers()).send().await;
        let response = response.map_err(|error| broken(&error))?;
        let status = response.status();
        let after = retry_after(response.headers());
        let is_limit = after.is_some() || status == StatusCode::TOO_MANY_REQUESTS;
        let body = read(response, self.limit).await?;
        // Nodes may have an error of JSON-RPC to tell whatever the status is.
        match serde_json::from_slice::<ResponsePacket>(&body) {
            Ok(answer) if status.is_success() || !is_limit && answer.is_error() => Ok(answer),
            Err(error) if status.is_success() => Err(TransportError::deser_err(error, text(&body))),
            _ => Err(TransportErrorKind::http_error_with_retry_after(
                status.as_u16(),
                text(&body),
                after,
            )),
        }
    }
}

async fn read(mut response: Response, limit: usize) -> Result<Vec<u8>, TransportError> {
    let mut body = Vec::new();
    while let Some(part) = response.chunk().await.map_err(|error| broken(&error))? {
        if body.len() + part.len() > limit {
            let error = format!("its answer has more than {limit} bytes");
            return Err(TransportErrorKind::custom_str(&error));
        }
        body.extend_from_slice(&part);
    }
    Ok(body)
}

/// The error says why, but its source may hold the address.
fn broken(error: &reqwest::Error) -> TransportError {
    let mut why = without_address(&error.to_string());
    let mut source = std::error::Error::source(error);
    while let Some(deeper) = source {
        why = format!("{why}: {}", without_address(&deeper.to_string()));
        source = deeper.source();
    }
    TransportErrorKind::custom_str(&why)
}

/// Its beginning: the rest may be a page.
fn text(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body.get(..500).unwrap_or(body));
    text.into_owned()
}

impl Service<RequestPacket> for Http {
    type Response = ResponsePacket;
    type Error = TransportError;
    type Future = TransportFut<'static>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: RequestPacket) -> Self::Future {
        Box::pin(self.clone().ask(request))
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

    /// Makes a call to a node that answers it with this, over and over if it is endless.
    async fn answered(head: &'static str, body: &'static str, is_endless: bool) -> Failure {
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
        let tls = tls::trust(None).unwrap();
        let client = tls::http_client(&tls).unwrap();
        let http = Http::new(client, url.parse().unwrap(), 10_000);
        let client = ClientBuilder::default().transport(http, false);
        let answer = client.request::<_, String>("eth_chainId", [(); 0]).await;
        serving.await.unwrap();
        answer.unwrap_err().into()
    }

    #[tokio::test]
    async fn an_answer_without_end_is_not_read_to_its_end() {
        let failure = answered("200 OK", "{\"jsonrpc\": \"2.0\", ", true).await;
        assert!(
            failure.to_string().contains("more than 10000 bytes"),
            "{failure}"
        );
    }

    #[tokio::test]
    async fn an_error_is_told_whatever_the_status() {
        let error = r#"{"jsonrpc":"2.0","id":0,"error":{"code":-32601,"message":"no"}}"#;
        for head in ["200 OK", "400 Bad Request", "500 Oops"] {
            let failure = answered(head, error, false).await;
            assert_eq!(failure, Failure::Unsupported("no".to_owned()), "{head}");
        }
        let limited = answered("429 Slow down\r\nretry-after: 7", error, false).await;
        let after = Some(Duration::from_secs(7));
        assert!(matches!(limited, Failure::Limited { after: told, .. } if told == after));
        let page = answered("502 Bad Gateway", "<html>", false).await;
        assert!(matches!(page, Failure::Unreachable(_)), "{page}");
    }

    #[tokio::test]
    async fn no_address_is_told_when_nobody_listens() {
        let tls = tls::trust(None).unwrap();
        let client = tls::http_client(&tls).unwrap();
        let url = "http://127.0.0.1:1/secret".parse().unwrap();
        let client = ClientBuilder::default().transport(Http::new(client, url, 1), false);
        let answer = client.request::<_, String>("eth_chainId", [(); 0]).await;
        let failure = Failure::from(answer.unwrap_err()).to_string();
        assert!(!failure.contains("secret"), "{failure}");
        assert!(failure.contains("refused"), "{failure}");
    }
}
