//! TLS: server certificates from files, reloaded on change, and client certificates.
//!
//! A port with TLS accepts nothing else. A client that sends plain HTTP receives an error
//! that names https.

mod certificate;
mod stream;

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
    server::{ServerSessionMemoryCache, WebPkiClientVerifier},
};
use tidewire_proto::v1::ErrorCode;
use tidewire_stream::{Clock, Identity, Scope, StreamError, UserId, identity::UserIdentity};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

pub(crate) use stream::TlsStream;

/// Time between checks of the files for changes.
const WATCH_INTERVAL: Duration = Duration::from_secs(5);

/// Sessions of TLS 1.2 that are kept for resumption. Each has some 300 bytes.
const MAX_CACHED_SESSIONS: usize = 4_096;

/// Bytes read from a client of plain HTTP before its connection is closed.
const MAX_PLAIN_BYTES: u64 = 64 << 10;

/// The response to plain HTTP.
const PLAIN_HTTP: &[u8] = b"HTTP/1.1 400 Bad Request\r\n\
    content-type: application/json\r\n\
    content-length: 90\r\n\
    connection: close\r\n\r\n\
    {\"code\":\"invalid_argument\",\"message\":\"this port speaks TLS: use https:// or wss:// here\"}\n";

/// The paths of the certificate files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate chain of the server, in PEM.
    pub certificate: PathBuf,
    /// The private key of the server, in PEM.
    pub key: PathBuf,
    /// The authority that signs the certificates of back ends, in PEM.
    pub client_ca: Option<PathBuf>,
}

/// A file of [`TlsFiles`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsFile {
    /// The certificate chain.
    Certificate,
    /// The private key.
    Key,
    /// The authority of back ends.
    ClientCa,
}

/// All that is wrong with the files of TLS, each by itself. Whether they fit together is up to
/// [`TlsAcceptor::new`].
#[must_use]
pub fn file_problems(
    certificate: Option<&PathBuf>,
    key: Option<&PathBuf>,
    client_ca: Option<&PathBuf>,
) -> Vec<(TlsFile, TlsError)> {
    let mut problems = Vec::new();
    let pair = certificate.zip(key);
    let are_swapped = pair.is_some_and(|(certificate, key)| are_swapped(certificate, key));
    // Of two files in each other's place, the key's error says so.
    if let Some(path) = certificate.filter(|_| !are_swapped) {
        let read = certificates(path).err();
        problems.extend(read.map(|error| (TlsFile::Certificate, error)));
    }
    if let Some(path) = key {
        let read = private_key(path, are_swapped).err();
        problems.extend(read.map(|error| (TlsFile::Key, error)));
    }
    if let Some(path) = client_ca {
        let read = authorities(path).err();
        problems.extend(read.map(|error| (TlsFile::ClientCa, error)));
    }
    problems
}

/// The reason why TLS cannot be configured.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{path} cannot be read as PEM: {reason}")]
    File {
        /// The path of the file.
        path: PathBuf,
        /// The error of the reader.
        reason: String,
    },
    /// The certificate, key and authority do not fit together.
    #[error("the certificate, its key and the client CA cannot be used: {0}")]
    Config(String),
}

/// The reason why a TLS handshake failed.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// The client sent plain HTTP, and received an error.
    #[error("the client sent plain HTTP to a TLS port")]
    Plain,
    /// The connection or the handshake failed.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Accepts TLS connections. A reloaded certificate applies to new connections only.
pub struct TlsAcceptor {
    files: TlsFiles,
    config: RwLock<Arc<ServerConfig>>,
    loaded: Mutex<Fingerprint>,
}

impl std::fmt::Debug for TlsAcceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsAcceptor")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

/// The modification time and size of each file. A difference means a change.
type Fingerprint = Vec<Option<(SystemTime, u64)>>;

impl TlsAcceptor {
    /// Loads the files.
    ///
    /// # Errors
    /// A file cannot be read, or the files do not fit together.
    pub fn new(files: TlsFiles) -> Result<Arc<Self>, TlsError> {
        let loaded = fingerprint(&files);
        let config = load(&files)?;
        Ok(Arc::new(Self {
            files,
            config: RwLock::new(config),
            loaded: Mutex::new(loaded),
        }))
    }

    /// Performs the handshake. The caller bounds the time.
    ///
    /// # Errors
    /// The client sent plain HTTP, or the handshake failed.
    pub(crate) async fn accept(&self, mut stream: TcpStream) -> Result<TlsStream, AcceptError> {
        let mut first = [0];
        let is_plain = stream.peek(&mut first).await? == 1 && first[0].is_ascii_uppercase();
        if is_plain {
            refuse_plain_http(&mut stream).await?;
            return Err(AcceptError::Plain);
        }
        let config = self.config.read().clone();
        Ok(TlsStream::accept(stream, config).await?)
    }

    /// Reloads the files. On an error the current configuration stays in force.
    ///
    /// # Errors
    /// A file cannot be read, or the files do not fit together.
    pub fn reload(&self) -> Result<(), TlsError> {
        *self.loaded.lock() = fingerprint(&self.files);
        *self.config.write() = load(&self.files)?;
        Ok(())
    }

    /// Reloads the files whenever they change, for as long as it is polled.
    pub async fn watch(&self) {
        let mut ticks = tokio::time::interval(WATCH_INTERVAL);
        loop {
            ticks.tick().await;
            let has_changed = fingerprint(&self.files) != *self.loaded.lock();
            if has_changed {
                self.reload_and_log();
            }
        }
    }

    /// Reloads the files and logs the result.
    pub fn reload_and_log(&self) {
        match self.reload() {
            Ok(()) => tracing::info!("reloaded the TLS certificate"),
            Err(error) => tracing::error!(
                %error,
                "the TLS certificate cannot be reloaded; the last one stays in force"
            ),
        }
    }
}

/// Answers plain HTTP with an error.
async fn refuse_plain_http(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(PLAIN_HTTP).await?;
    stream.shutdown().await?;
    // With unread bytes the kernel would reset the connection, and lose the response.
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

fn load(files: &TlsFiles) -> Result<Arc<ServerConfig>, TlsError> {
    let wrong = |reason: String| TlsError::Config(reason);
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(error.to_string()))?;
    let builder = match &files.client_ca {
        Some(path) => {
            let roots = Arc::new(authorities(path)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider)
                    // Browsers have no certificate, and need none.
                    .allow_unauthenticated()
                    .build()
                    .map_err(|error| wrong(error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
        None => builder.with_no_client_auth(),
    };
    let key = private_key(&files.key, are_swapped(&files.certificate, &files.key))?;
    let mut config = builder
        .with_single_cert(certificates(&files.certificate)?, key)
        .map_err(|error| wrong(error.to_string()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // Sessions are resumed by tickets, and those of TLS 1.2 clients without tickets by the
    // cache. Both are new with each load: a resumed session keeps its client certificate, which
    // a new authority may not have signed.
    config.ticketer = ring::Ticketer::new().map_err(|error| wrong(error.to_string()))?;
    config.session_storage = ServerSessionMemoryCache::new(MAX_CACHED_SESSIONS);
    Ok(Arc::new(config))
}

/// Whether the certificate and the key are in each other's place.
fn are_swapped(certificate: &PathBuf, key: &PathBuf) -> bool {
    CertificateDer::from_pem_file(key).is_ok() && PrivateKeyDer::from_pem_file(certificate).is_ok()
}

fn private_key(path: &PathBuf, are_swapped: bool) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| TlsError::File {
        path: path.clone(),
        reason: match are_swapped {
            true => "it holds a certificate, and the other file a key: the two are in each other's place".to_owned(),
            false => error.to_string(),
        },
    })
}

/// The authorities of a PEM file.
fn authorities(path: &PathBuf) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        let added = roots.add(certificate);
        added.map_err(|error| TlsError::File {
            path: path.clone(),
            reason: error.to_string(),
        })?;
    }
    Ok(roots)
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
        return Err(wrong("the file has no certificate".to_owned()));
    }
    Ok(certificates)
}

/// The identity in the client certificate of a connection. Each request of the connection
/// carries it as an extension.
#[derive(Debug, Clone)]
pub(crate) struct PeerIdentity {
    user: UserId,
    /// When the certificate expires, in milliseconds since the Unix epoch.
    expires_at_ms: i64,
}

impl PeerIdentity {
    /// The identity of the client, if it sent a certificate.
    pub(crate) fn of(stream: &TlsStream) -> Option<Self> {
        Self::read(&stream.peer_certificate()?)
    }

    fn read(certificate: &CertificateDer<'_>) -> Option<Self> {
        let Some(expires_at_ms) = certificate::expires_at_ms(certificate) else {
            tracing::warn!("the end of a client certificate cannot be read: it grants nothing");
            return None;
        };
        let name = certificate::name_of(certificate).unwrap_or_else(|| "service".to_owned());
        Some(Self {
            user: UserId::new(&name),
            expires_at_ms,
        })
    }

    /// The identity of a back end with this name, valid as long as the certificate. An open
    /// connection may outlive it, and so may a resumed one.
    ///
    /// # Errors
    /// The certificate has expired.
    pub(crate) fn identity(&self, clock: &dyn Clock) -> Result<Identity, StreamError> {
        let now_ms = clock.now_ms();
        if self.expires_at_ms <= now_ms {
            return Err(StreamError::new(
                ErrorCode::Unauthenticated,
                "the client certificate has expired: connect again with a new one",
            ));
        }
        let mut identity = UserIdentity::new(self.user.clone(), self.expires_at_ms);
        identity.issued_at_ms = Some(now_ms);
        identity.scopes.insert(Scope::Service);
        Ok(identity.into())
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};
    use tidewire_stream::ManualClock;

    use super::*;

    #[test]
    fn an_identity_lasts_as_long_as_its_certificate() {
        let mut params = CertificateParams::new(["billing.internal".to_owned()]).unwrap();
        params.not_after = date_time_ymd(2030, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let peer = PeerIdentity::read(certificate.der()).unwrap();
        let expires_at_ms = (1_893_456_000 + 1) * 1_000;
        let clock = ManualClock::at(0);
        // Neither earlier than the certificate, however long that is, nor later.
        for now_ms in [0, expires_at_ms - 1] {
            clock.set(now_ms);
            let identity = peer.identity(&*clock).unwrap();
            assert_eq!(identity.expires_at_ms(), Some(expires_at_ms));
            assert_eq!(identity.user(), Some(&UserId::new("billing.internal")));
            assert!(identity.has(Scope::Service));
        }
        clock.set(expires_at_ms);
        let error = peer.identity(&*clock).unwrap_err();
        assert_eq!(error.code(), ErrorCode::Unauthenticated);
    }
}
