//! JWKS client: fetches the key set of an identity provider over HTTP.
//!
//! It sends one small GET every few minutes, over hyper and rustls, which the server uses
//! anyway. It follows no redirects and uses no proxies or cookies. Time and size are bounded.

use std::{path::Path, sync::Arc, time::Duration};

use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName};
use tidewire_stream::{
    auth::{JwksFuture, JwksSource},
    quotable_url, redacted_url,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use crate::tls;

/// The longest time of a fetch, connecting included.
const TIMEOUT: Duration = Duration::from_secs(3);

/// The longest accepted key set, in bytes.
const MAX_BYTES: usize = 256 << 10;

/// The reason why a key set URL cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JwksUrlError {
    /// The text, of which this is the part without secrets, is not an HTTP URL with a host.
    #[error("{0:?} is not a URL of a key set, expected http:// or https:// with a host")]
    Url(String),
    /// The file of trusted certificates cannot be used.
    #[error(transparent)]
    Roots(#[from] tls::TlsError),
    /// TLS cannot be configured.
    #[error("TLS cannot be configured: {0}")]
    Tls(#[from] rustls::Error),
}

/// A key set at a URL.
pub struct JwksUrl {
    uri: Uri,
    host: String,
    port: u16,
    tls: Option<TlsConnector>,
}

impl std::fmt::Debug for JwksUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&redacted_url(&self.uri.to_string()))
    }
}

impl JwksUrl {
    /// The key set at `url`. For https, an authority in the PEM file `roots` must have
    /// signed the provider's certificate. Without a file, the authorities of browsers count.
    ///
    /// # Errors
    /// The URL or the file cannot be used.
    pub fn new(url: &str, roots: Option<&Path>) -> Result<Self, JwksUrlError> {
        let wrong = || JwksUrlError::Url(quotable_url(url));
        let uri: Uri = url.parse().map_err(|_| wrong())?;
        let host = uri
            .host()
            .filter(|host| !host.is_empty())
            .ok_or_else(wrong)?;
        let host = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        let (tls, default_port) = match uri.scheme_str() {
            Some("http") => (None, 80),
            Some("https") => (Some(connector(roots)?), 443),
            _ => return Err(wrong()),
        };
        Ok(Self {
            port: uri.port_u16().unwrap_or(default_port),
            host,
            uri,
            tls,
        })
    }

    async fn get(&self) -> Result<Vec<u8>, String> {
        let address = (self.host.as_str(), self.port);
        let stream = TcpStream::connect(address).await.map_err(text)?;
        match &self.tls {
            None => self.send_get(stream).await,
            Some(tls) => {
                let name = ServerName::try_from(self.host.clone()).map_err(text)?;
                self.send_get(tls.connect(name, stream).await.map_err(text)?)
                    .await
            }
        }
    }

    async fn send_get<I>(&self, io: I) -> Result<Vec<u8>, String>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let path = self.uri.path_and_query().map_or("/", |path| path.as_str());
        let authority = self.uri.authority().map_or("", |host| host.as_str());
        // Without the user and password that a URL may contain.
        let host = authority.rsplit('@').next().unwrap_or_default();
        let request = Request::get(path)
            .header(header::HOST, host)
            .header(header::ACCEPT, "application/json")
            .header(header::CONNECTION, "close")
            .body(Empty::<Bytes>::new())
            .map_err(text)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await.map_err(text)?;
        let response = async {
            let response = sender.send_request(request).await.map_err(text)?;
            if response.status() != StatusCode::OK {
                return Err(format!(
                    "the response is {}, expected 200",
                    response.status()
                ));
            }
            let body = Limited::new(response.into_body(), MAX_BYTES);
            let body = body.collect().await.map_err(text)?;
            Ok(body.to_bytes().to_vec())
        };
        let mut response = std::pin::pin!(response);
        tokio::select! {
            biased;
            response = &mut response => response,
            // The response may be complete when the connection ends.
            _ = connection => response.await,
        }
    }
}

impl JwksSource for JwksUrl {
    fn fetch(&self) -> JwksFuture<'_> {
        Box::pin(async {
            tokio::time::timeout(TIMEOUT, self.get())
                .await
                .unwrap_or_else(|_| Err(format!("no response within {} s", TIMEOUT.as_secs())))
        })
    }
}

fn connector(roots: Option<&Path>) -> Result<TlsConnector, JwksUrlError> {
    let mut store = RootCertStore::empty();
    match roots {
        Some(path) => {
            for certificate in tls::certificates(&path.to_path_buf())? {
                store.add(certificate)?;
            }
        }
        None => store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(store)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_http_urls_with_a_host_are_accepted() {
        for url in [
            "",
            "x",
            "ftp://a/",
            "https:///x",
            "file:///etc/passwd",
            "a.example.com/x",
        ] {
            assert!(JwksUrl::new(url, None).is_err(), "{url}");
        }
        let url = JwksUrl::new("https://id.example.com/keys?x=1", None).unwrap();
        assert_eq!((url.host.as_str(), url.port), ("id.example.com", 443));
        let url = JwksUrl::new("http://[::1]:8080/keys", None).unwrap();
        assert_eq!((url.host.as_str(), url.port), ("::1", 8_080));
    }

    #[test]
    fn a_log_shows_the_host_alone() {
        let url = JwksUrl::new("http://u:secret@id.example.com/secret?k=secret", None).unwrap();
        assert_eq!(format!("{url:?}"), "http://id.example.com");
    }
}
