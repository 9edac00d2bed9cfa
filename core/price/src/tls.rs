//! TLS of connections to venues: the web's certificate authorities and the operator's own.
//!
//! `ca_file` adds authorities for a proxy that inspects TLS, or for a private venue.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, pem::PemObject as _},
};

/// Why TLS cannot be set up.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum TlsError {
    /// The operator's file of certificates cannot be used.
    #[error("prices.ca_file {0:?}: {1}, expected a file of certificates in PEM")]
    CaFile(PathBuf, String),
    /// The crypto library refuses its configuration.
    #[error("connections to venues cannot be encrypted: {0}")]
    Setup(String),
}

/// The client configuration that all connections to venues share, so that a reconnect resumes
/// the TLS session.
///
/// # Errors
/// The file cannot be read, or holds no certificate.
pub(crate) fn tls_config(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, TlsError> {
    let mut roots = RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    };
    if let Some(path) = ca_file {
        let unusable = |reason: String| TlsError::CaFile(path.to_owned(), reason);
        let mut count = 0_usize;
        let read = CertificateDer::pem_file_iter(path);
        for certificate in read.map_err(|error| unusable(error.to_string()))? {
            let certificate = certificate.map_err(|error| unusable(error.to_string()))?;
            let added = roots.add(certificate);
            added.map_err(|error| unusable(error.to_string()))?;
            count += 1;
        }
        if count == 0 {
            return Err(unusable("it holds none".to_owned()));
        }
    }
    // The provider is explicit, because a library's engine may start before the process
    // installs one.
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::Setup(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_certificates_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let error = || tls_config(Some(&path)).unwrap_err().to_string();
        assert!(error().contains("ca.pem"), "{}", error());
        std::fs::write(&path, "no certificate").unwrap();
        assert!(error().contains("it holds none"), "{}", error());
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        std::fs::write(&path, broken).unwrap();
        assert!(error().contains("in PEM"), "{}", error());
        assert!(tls_config(None).is_ok());
    }
}
