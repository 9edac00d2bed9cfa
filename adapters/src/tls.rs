//! TLS: certificates from files, read again when they change, and clients that
//! prove themselves by a certificate of their own.
//!
//! With TLS there is nothing else on the port: whoever speaks plain HTTP is told so.

use std::{
    fs, io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use parking_lot::{Mutex, RwLock};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use tidewire_stream::{ChannelName, Clock, Identity, Scope, UserId, identity::UserIdentity};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// How often the files are looked at.
const WATCH: Duration = Duration::from_secs(5);

/// So much is read of what a client sends in plain HTTP.
const MAX_PLAIN_BYTES: u64 = 64 << 10;

/// What a client in plain HTTP is told.
const PLAIN_HTTP: &[u8] = b"HTTP/1.1 400 Bad Request\r\n\
    content-type: application/json\r\n\
    content-length: 90\r\n\
    connection: close\r\n\r\n\
    {\"code\":\"invalid_argument\",\"message\":\"this port speaks TLS: use https:// or wss:// here\"}\n";

/// A session of a client certificate is renewed after so long, in milliseconds.
const CERTIFICATE_SESSION_MS: i64 = 24 * 60 * 60 * 1_000;

/// Where the certificates lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's chain, in PEM.
    pub certificate: PathBuf,
    /// Its key, in PEM.
    pub key: PathBuf,
    /// Who signs the certificates of back ends, in PEM.
    pub client_ca: Option<PathBuf>,
}

/// Why TLS cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{path} cannot be read as PEM: {reason}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The files do not go together.
    #[error("the certificate, its key and the client CA cannot be used: {0}")]
    Config(String),
}

/// Why a connection does not come to be.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// The client speaks plain HTTP. It was told.
    #[error("the client does not speak TLS")]
    Plain,
    /// The handshake failed.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Takes TLS connections. New certificates are for new connections: those that
/// stand keep theirs.
pub struct Acceptor {
    files: TlsFiles,
    config: RwLock<Arc<ServerConfig>>,
    seen: Mutex<Fingerprint>,
}

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acceptor")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

/// What tells that a file changed.
type Fingerprint = Vec<Option<(SystemTime, u64)>>;

impl Acceptor {
    /// Reads the files.
    ///
    /// # Errors
    /// They cannot be read or do not go together.
    pub fn new(files: TlsFiles) -> Result<Arc<Self>, TlsError> {
        let seen = fingerprint(&files);
        let config = read(&files)?;
        Ok(Arc::new(Self {
            files,
            config: RwLock::new(config),
            seen: Mutex::new(seen),
        }))
    }

    /// Shakes hands. Whoever calls bounds the time.
    ///
    /// # Errors
    /// There is no TLS connection.
    pub async fn accept(&self, mut stream: TcpStream) -> Result<TlsStream<TcpStream>, AcceptError> {
        let mut first = [0];
        let is_plain = stream.peek(&mut first).await? == 1 && first[0].is_ascii_uppercase();
        if is_plain {
            tell_plain(&mut stream).await?;
            return Err(AcceptError::Plain);
        }
        let config = self.config.read().clone();
        Ok(TlsAcceptor::from(config).accept(stream).await?)
    }

    /// Reads the files again. What cannot be used changes nothing.
    ///
    /// # Errors
    /// They cannot be read or do not go together.
    pub fn reload(&self) -> Result<(), TlsError> {
        *self.seen.lock() = fingerprint(&self.files);
        *self.config.write() = read(&self.files)?;
        Ok(())
    }

    /// Reads the files again whenever they change, for as long as it is polled.
    pub async fn watch(&self) {
        let mut ticks = tokio::time::interval(WATCH);
        loop {
            ticks.tick().await;
            let has_changed = fingerprint(&self.files) != *self.seen.lock();
            if has_changed {
                self.reload_and_tell();
            }
        }
    }

    /// Reads the files again and says what came of it in the log.
    pub fn reload_and_tell(&self) {
        match self.reload() {
            Ok(()) => tracing::info!("the TLS certificate was read again"),
            Err(error) => tracing::error!(
                %error,
                "the TLS certificate cannot be read again; the last one stays in force"
            ),
        }
    }
}

/// Tells a client in plain HTTP what it should speak.
async fn tell_plain(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(PLAIN_HTTP).await?;
    stream.shutdown().await?;
    // What it sent has to be read, or the close would take the answer with it.
    let mut rest = stream.take(MAX_PLAIN_BYTES);
    tokio::io::copy(&mut rest, &mut tokio::io::sink()).await?;
    Ok(())
}

fn fingerprint(files: &TlsFiles) -> Fingerprint {
    let paths = [
        Some(&files.certificate),
        Some(&files.key),
        files.client_ca.as_ref(),
    ];
    paths
        .into_iter()
        .flatten()
        .map(|path| {
            let metadata = fs::metadata(path).ok()?;
            Some((metadata.modified().ok()?, metadata.len()))
        })
        .collect()
}

fn read(files: &TlsFiles) -> Result<Arc<ServerConfig>, TlsError> {
    let wrong = |reason: String| TlsError::Config(reason);
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(error.to_string()))?;
    let builder = match &files.client_ca {
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                roots
                    .add(certificate)
                    .map_err(|error| wrong(error.to_string()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                    // Browsers have none, and need none.
                    .allow_unauthenticated()
                    .build()
                    .map_err(|error| wrong(error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
        None => builder.with_no_client_auth(),
    };
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| TlsError::File {
        path: files.key.clone(),
        reason: error.to_string(),
    })?;
    let mut config = builder
        .with_single_cert(certificates(&files.certificate)?, key)
        .map_err(|error| wrong(error.to_string()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The certificates of a PEM file, at least one.
pub(crate) fn certificates(path: &PathBuf) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |reason: String| TlsError::File {
        path: path.clone(),
        reason,
    };
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| wrong(error.to_string()))?;
    if certificates.is_empty() {
        return Err(wrong("it holds no certificate".to_owned()));
    }
    Ok(certificates)
}

/// Who a connection's client certificate says it is. It is an extension of each
/// request of the connection.
#[derive(Debug, Clone)]
pub(crate) struct PeerIdentity(UserId);

impl PeerIdentity {
    /// The client of a connection, if it gave a certificate.
    pub(crate) fn of(stream: &TlsStream<TcpStream>) -> Option<Self> {
        let (_, connection) = stream.get_ref();
        let certificate = connection.peer_certificates()?.first()?;
        let name = name_of(certificate).unwrap_or_else(|| "service".to_owned());
        Some(Self(UserId::new(&name)))
    }

    /// It, as of now: a back end.
    pub(crate) fn identity(&self, clock: &dyn Clock) -> Identity {
        let expires_at_ms = clock.now_ms().saturating_add(CERTIFICATE_SESSION_MS);
        let mut identity = UserIdentity::new(self.0.clone(), expires_at_ms);
        identity.issued_at_ms = Some(clock.now_ms());
        identity.scopes.insert(Scope::Service);
        identity.into()
    }
}

/// The first name of a certificate that can be a user's.
fn name_of(certificate: &CertificateDer<'_>) -> Option<String> {
    let certificate = webpki::EndEntityCert::try_from(certificate).ok()?;
    let mut names = certificate
        .valid_uri_names()
        .chain(certificate.valid_dns_names());
    names
        .find(|name| ChannelName::user(name).is_ok())
        .map(str::to_owned)
}
