//! HTTP client: one GET over HTTP/1.1, with TLS for `https` URLs.
//!
//! A source needs a single request that streams its body, which hyper and rustls give without a
//! pool, redirects or cookies.

use std::sync::Arc;

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
/// The reason, as a text for the log.
pub(crate) async fn get(
    url: &str,
    accept: &'static str,
    tls: Arc<ClientConfig>,
) -> Result<StreamedResponse, String> {
    let uri: Uri = url.parse().map_err(|error| format!("{url}: {error}"))?;
    let host = uri.host().unwrap_or_default().to_owned();
    let is_encrypted = uri.scheme_str() == Some("https");
    let port = uri
        .port_u16()
        .unwrap_or(if is_encrypted { 443 } else { 80 });
    let socket = TcpStream::connect((host.as_str(), port))
        .await
        .map_err(|error| error.to_string())?;
    if !is_encrypted {
        return request(socket, &uri, accept).await;
    }
    let name = ServerName::try_from(host).map_err(|error| error.to_string())?;
    let socket = TlsConnector::from(tls)
        .connect(name, socket)
        .await
        .map_err(|error| error.to_string())?;
    request(socket, &uri, accept).await
}

async fn request<S>(socket: S, uri: &Uri, accept: &'static str) -> Result<StreamedResponse, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(socket))
        .await
        .map_err(|error| error.to_string())?;
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
        .map_err(|error| error.to_string())?;
    let response = sender
        .send_request(request)
        .await
        .map_err(|error| error.to_string())?;
    Ok((response, connection))
}
