//! TLS: the certificate authorities that encrypted connections to nodes trust.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, pem::PemObject as _},
};

/// The reason why TLS to a chain's nodes cannot be set up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    /// A file of certificates cannot be read.
    #[error("the certificates of a chain's endpoint cannot be read from {}: {error}", .path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// The reason.
        error: String,
    },
    /// The TLS library refuses the configuration.
    #[error("connections to chains cannot be encrypted: {0}")]
    Setup(String),
}

/// A TLS configuration that trusts the public authorities, or only those in a PEM file.
///
/// # Errors
/// The file cannot be read or holds no certificate.
pub(crate) fn tls_config(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, TlsError> {
    let roots = match ca_file {
        Some(path) => read_roots(path).map_err(|error| TlsError::Authority {
            path: path.to_owned(),
            error,
        })?,
        None => RootCertStore {
            roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
        },
    };
    // The provider is named here, as no process-wide one may be installed yet.
    let tls = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::Setup(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(tls))
}

/// An HTTP client with a TLS configuration.
pub(super) fn http_client(tls: &ClientConfig) -> Result<reqwest::Client, TlsError> {
    let mut tls = tls.clone();
    // A WebSocket needs HTTP/1.1; calls over HTTP use HTTP/2 where the node offers it.
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .build()
        .map_err(|error| TlsError::Setup(error.to_string()))
}

fn read_roots(path: &Path) -> Result<RootCertStore, String> {
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| error.to_string())?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        let certificate = certificate.map_err(|error| error.to_string())?;
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    if roots.is_empty() {
        return Err("the file holds no certificate, expected PEM".to_owned());
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_a_file_without_certificates() {
        let path = std::env::temp_dir().join("tidewire-no-such-authority.pem");
        let error = tls_config(Some(&path)).unwrap_err().to_string();
        assert!(error.contains("tidewire-no-such-authority.pem"), "{error}");
        let error = tls_config(Some(Path::new(file!()))).map(|_| ());
        assert!(error.is_err());
        assert!(tls_config(None).is_ok());
    }
}
