//! Whom encrypted connections to nodes trust.

use std::{path::Path, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, pem::PemObject as _},
};

use crate::ConfigError;

/// Trusts whom browsers trust, or those alone whose certificates are in a file.
pub(crate) fn trust(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, ConfigError> {
    let roots = match ca_file {
        Some(path) => read(path).map_err(|error| ConfigError::Authority {
            path: path.to_owned(),
            error,
        })?,
        None => RootCertStore {
            roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
        },
    };
    // Named, not the process's: an engine works before any is installed.
    let tls = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| ConfigError::Tls(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(tls))
}

/// A client for HTTP that trusts the same.
pub(super) fn http_client(tls: &ClientConfig) -> Result<reqwest::Client, ConfigError> {
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls.clone())
        .build()
        .map_err(|error| ConfigError::Tls(error.to_string()))
}

fn read(path: &Path) -> Result<RootCertStore, String> {
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| error.to_string())?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        let certificate = certificate.map_err(|error| error.to_string())?;
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    if roots.is_empty() {
        return Err("there is no certificate in it, expected PEM".to_owned());
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_certificates_is_named() {
        let path = std::env::temp_dir().join("tidewire-no-such-authority.pem");
        let error = trust(Some(&path)).unwrap_err().to_string();
        assert!(error.contains("tidewire-no-such-authority.pem"), "{error}");
        let error = trust(Some(Path::new(file!()))).map(|_| ());
        assert!(error.is_err());
        assert!(trust(None).is_ok());
    }
}
