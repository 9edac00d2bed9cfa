//! One request over HTTP/1.1, encrypted if the address says so.

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

/// What comes back, and the connection that its body comes by. Dropped, that is closed.
pub(crate) type Answer = (Response<Incoming>, AbortOnDropHandle<()>);

/// Connects, and asks for what is at `url`.
///
/// # Errors
/// Says what went wrong.
pub(crate) async fn get(
    url: &str,
    accept: &'static str,
    tls: Arc<ClientConfig>,
) -> Result<Answer, String> {
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
        return ask(socket, &uri, accept).await;
    }
    let name = ServerName::try_from(host).map_err(|error| error.to_string())?;
    let socket = TlsConnector::from(tls)
        .connect(name, socket)
        .await
        .map_err(|error| error.to_string())?;
    ask(socket, &uri, accept).await
}

async fn ask<S>(socket: S, uri: &Uri, accept: &'static str) -> Result<Answer, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(socket))
        .await
        .map_err(|error| error.to_string())?;
    let connection = AbortOnDropHandle::new(tokio::spawn(async move {
        // How it ended shows in the body.
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
