//! TLS of connections to Redis: the web's certificate authorities and the operator's own, and the
//! certificate of this server, for a Redis that asks its clients for one.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::error::RedisError;

/// Files of certificates, in PEM.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CertificateFiles {
    /// Authorities that are trusted besides those of the web.
    pub authorities: Option<PathBuf>,
    /// Certificate of this server and its private key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// The certificates of connections to Redis.
#[derive(Clone)]
pub struct RedisTls {
    config: Arc<ClientConfig>,
    has_identity: bool,
}

impl fmt::Debug for RedisTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisTls")
            .field("has_identity", &self.has_identity)
            .finish_non_exhaustive()
    }
}

impl RedisTls {
    /// Reads the files.
    ///
    /// # Errors
    /// A file cannot be used, named by its key in the configuration.
    pub fn new(files: &CertificateFiles) -> Result<Self, String> {
        let mut roots = RootCertStore {
            roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
        };
        if let Some(path) = &files.authorities {
            for certificate in certificates("broker.ca_file", path)? {
                let added = roots.add(certificate);
                added.map_err(|error| unusable("broker.ca_file", path, CERTIFICATES, &error))?;
            }
        }
        // The provider is explicit, because no process-wide one may be installed yet.
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("broker.url: connections cannot be encrypted: {error}"))?
            .with_root_certificates(roots);
        let config = match &files.identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = certificates("broker.tls_cert", certificate)?;
                let private = PrivateKeyDer::from_pem_file(key)
                    .map_err(|error| unusable("broker.tls_key", key, ANY_KEY, &error))?;
                let config = builder.with_client_auth_cert(chain, private);
                config.map_err(|error| unusable("broker.tls_key", key, PRIVATE_KEY, &error))?
            }
        };
        Ok(Self {
            config: Arc::new(config),
            has_identity: files.identity.is_some(),
        })
    }

    /// All that is wrong with the files, each by itself and named by its key.
    #[must_use]
    pub fn problems(
        authorities: Option<&Path>,
        certificate: Option<&Path>,
        key: Option<&Path>,
    ) -> Vec<String> {
        let of_authorities = CertificateFiles {
            authorities: authorities.map(Path::to_path_buf),
            identity: None,
        };
        let mut problems: Vec<_> = Self::new(&of_authorities).err().into_iter().collect();
        let chain = certificate.map(|path| certificates("broker.tls_cert", path));
        problems.extend(chain.and_then(Result::err));
        let private = key.map(|path| {
            PrivateKeyDer::from_pem_file(path)
                .map_err(|error| unusable("broker.tls_key", path, ANY_KEY, &error))
        });
        problems.extend(private.and_then(Result::err));
        // Whether they belong together shows once both can be read.
        if let (true, Some(certificate), Some(key)) = (problems.is_empty(), certificate, key) {
            let of_identity = CertificateFiles {
                authorities: None,
                identity: Some((certificate.to_path_buf(), key.to_path_buf())),
            };
            problems.extend(Self::new(&of_identity).err());
        }
        problems
    }

    /// Encrypts a connection.
    ///
    /// # Errors
    /// The server has no certificate for this host that is trusted, or does not speak TLS.
    pub async fn connect(
        &self,
        host: &str,
        stream: TcpStream,
    ) -> Result<TlsStream<TcpStream>, RedisError> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|error| RedisError::Tls(error.to_string()))?;
        let handshake = TlsConnector::from(self.config.clone()).connect(name, stream);
        Ok(handshake.await?)
    }
}

impl RedisTls {
    /// The error of a handshake. A server without TLS waits for more, or ends the connection.
    pub fn explain_handshake(error: RedisError) -> RedisError {
        match error {
            RedisError::Connection(_) | RedisError::TimedOut(_) => RedisError::Connection(format!(
                "{error}: the port may be one without TLS, which redis:// in `broker.url` is for"
            )),
            error => error,
        }
    }

    /// The error of the first command on a connection. A server that wants a certificate accepts
    /// the connection, and ends it then.
    pub fn explain_first(&self, error: RedisError) -> RedisError {
        match error {
            RedisError::Connection(text) if !self.has_identity => {
                RedisError::Connection(format!("{text}{WANTS_CERTIFICATE}"))
            }
            error => error,
        }
    }
}

const WANTS_CERTIFICATE: &str =
    ": it may ask for a certificate: set `broker.tls_cert` and `broker.tls_key`";
const CERTIFICATES: &str = "a file of certificates in PEM";
const ANY_KEY: &str = "a private key in PEM";
const PRIVATE_KEY: &str = "the private key of broker.tls_cert in PEM";

/// The certificates of a PEM file, one at least.
fn certificates(key: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let all: Vec<_> = read.map_err(|error| unusable(key, path, CERTIFICATES, &error))?;
    match all.is_empty() {
        true => Err(unusable(key, path, CERTIFICATES, &"it holds none")),
        false => Ok(all),
    }
}

fn unusable(key: &str, path: &Path, expected: &str, problem: &dyn fmt::Display) -> String {
    format!("{key} {}: {problem}, expected {expected}", path.display())
}

/// The fault of TLS in an error of a connection, with what to set. A server that wants another
/// certificate says so after the handshake. None if the connection broke.
pub fn fault(error: &std::io::Error) -> Option<RedisError> {
    let fault = error.get_ref()?.downcast_ref()?;
    Some(explained(fault))
}

fn explained(fault: &rustls::Error) -> RedisError {
    let advice = match fault {
        rustls::Error::InvalidCertificate(_) => {
            ": `broker.ca_file` must hold the authority of its certificate, which must be for the host in `broker.url`"
        }
        rustls::Error::InvalidMessage(_) => {
            ": it answers without TLS, expected `broker.url` with redis://, or the TLS port of Redis"
        }
        rustls::Error::AlertReceived(_) => WANTS_CERTIFICATE,
        _ => "",
    };
    RedisError::Tls(format!("{fault}{advice}"))
}
