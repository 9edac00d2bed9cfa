//! HTTP client: one GET over HTTP/1.1, with TLS for `https` URLs.
//!
//! A source needs a single request that streams its body, which hyper and rustls give without a
//! pool, redirects or cookies.

use std::{error::Error, sync::Arc};

use bytes::Bytes;
use http::{Request, Response, Uri, header};
use http_body_util::Empty;
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

/// The response, and the connection that carries its body. Dropping it closes the connection.
pub(crate) type StreamedResponse = (Response<Incoming>, AbortOnDropHandle<()>);

/// Connects and requests `url`.
///
/// # Errors
/// The step that failed and its reason, as a text for the log.
pub(crate) async fn get(
    url: &str,
    accept: &'static str,
    tls: Arc<ClientConfig>,
) -> Result<StreamedResponse, String> {
    // The URL may hold a key.
    let uri: Uri = url
        .parse()
        .map_err(|error| format!("its URL cannot be read: {error}"))?;
    let host = uri.host().unwrap_or_default().to_owned();
    let is_encrypted = uri.scheme_str() == Some("https");
    let port = uri
        .port_u16()
        .unwrap_or(if is_encrypted { 443 } else { 80 });
    let socket = TcpStream::connect((host.as_str(), port))
        .await
        .map_err(|error| format!("cannot connect to {host}, port {port}: {error}"))?;
    if !is_encrypted {
        return request(socket, &uri, accept).await;
    }
    let no_tls = |error: &dyn Error| format!("TLS with {host} failed: {error}");
    let name = ServerName::try_from(host.clone()).map_err(|error| no_tls(&error))?;
    let socket = TlsConnector::from(tls)
        .connect(name, socket)
        .await
        .map_err(|error| no_tls(&error))?;
    request(socket, &uri, accept).await
}

async fn request<S>(socket: S, uri: &Uri, accept: &'static str) -> Result<StreamedResponse, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(socket))
        .await
        .map_err(|error| format!("HTTP cannot begin: {}", explain(&error)))?;
    let connection = AbortOnDropHandle::new(tokio::spawn(async move {
        // A failure of the connection shows in the body.
        let _ = connection.await;
    }));
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let request = Request::get(path)
        .header(header::HOST, authority)
        .header(header::ACCEPT, accept)
        .body(Empty::<Bytes>::new())
        .map_err(|error| format!("its URL makes no request: {error}"))?;
    let response = sender
        .send_request(request)
        .await
        .map_err(|error| format!("no response came: {}", explain(&error)))?;
    Ok((response, connection))
}

/// The text of an error with its cause, which hyper keeps apart.
pub(crate) fn explain(error: &hyper::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
