//! TLS of outgoing connections: the web's certificate authorities and the operator's own.

use std::{path::Path, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, pem::PemObject as _},
};

use crate::DeliveryError;

/// The configuration of HTTPS requests. `ca_file` adds authorities to those of the web.
///
/// # Errors
/// The file cannot be read, or holds no certificate.
pub(crate) fn tls_config(ca_file: Option<&Path>) -> Result<ClientConfig, DeliveryError> {
    let mut roots = RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    };
    if let Some(path) = ca_file {
        for certificate in read_certificates("delivery.ca_file", path)? {
            let added = roots.add(certificate);
            added.map_err(|error| unusable("delivery.ca_file", path, &error.to_string()))?;
        }
    }
    // The provider is explicit, because no process-wide one may be installed yet.
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| DeliveryError::invalid("delivery", error.to_string()))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// The certificates of a PEM file, one at least.
pub(crate) fn read_certificates(
    key: &str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, DeliveryError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let all: Vec<_> = read.map_err(|error| unusable(key, path, &error.to_string()))?;
    match all.is_empty() {
        true => Err(unusable(key, path, "it holds none")),
        false => Ok(all),
    }
}

fn unusable(key: &str, path: &Path, problem: &str) -> DeliveryError {
    DeliveryError::invalid(
        key,
        format!(
            "{}: {problem}, expected a file of certificates in PEM",
            path.display()
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_certificates_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let error = || tls_config(Some(&path)).unwrap_err().to_string();
        assert!(error().contains("ca.pem"), "{}", error());
        std::fs::write(&path, "no certificate").unwrap();
        assert!(error().starts_with("`delivery.ca_file`: "), "{}", error());
        assert!(error().contains("it holds none"), "{}", error());
        assert!(tls_config(None).is_ok());
    }
}
