//! Whom a connection to a venue trusts: the web's authorities, and those that the
//! operator adds, for a proxy that looks into TLS or a venue of one's own.

use std::{path::Path, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, pem::PemObject as _},
};

use crate::ConfigError;

/// How connections to venues are encrypted. Shared by all of them, so that a venue
/// that is connected to again resumes its session.
///
/// # Errors
/// The file cannot be read, or holds no certificate.
pub(crate) fn tls_config(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, ConfigError> {
    let mut roots = RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    };
    if let Some(path) = ca_file {
        let unusable = |reason: String| ConfigError::CaFile(path.to_owned(), reason);
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
    // Named, not the process's: an engine works before any is installed.
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| ConfigError::Tls(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_certificate_is_refused() {
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
