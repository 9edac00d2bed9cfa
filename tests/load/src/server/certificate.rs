//! Certificate of the servers, and the clients' trust in it.

use std::{fs, path::Path, sync::Arc};

use anyhow::Context as _;
use rustls::{ClientConfig, RootCertStore, crypto::ring};

/// File names in a server's folder.
pub(crate) const CERTIFICATE_FILE: &str = "cert.pem";
pub(crate) const KEY_FILE: &str = "key.pem";

/// A certificate for `localhost`, and the configuration of clients that trust it.
#[derive(Debug, Clone)]
pub(crate) struct Certificate {
    certificate: String,
    key: String,
    pub(crate) client: Arc<ClientConfig>,
}

impl Certificate {
    /// Issues a certificate. Clients resume no session, so that each connection costs a full
    /// handshake.
    ///
    /// # Errors
    /// The certificate cannot be used.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()])
            .context("no certificate")?;
        let mut roots = RootCertStore::empty();
        roots.add(issued.cert.der().clone())?;
        let mut client = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        client.resumption = rustls::client::Resumption::disabled();
        Ok(Self {
            certificate: issued.cert.pem(),
            key: issued.signing_key.serialize_pem(),
            client: Arc::new(client),
        })
    }

    /// Writes the certificate and its key to a server's folder.
    ///
    /// # Errors
    /// A file cannot be written.
    pub(crate) fn write(&self, folder: &Path) -> anyhow::Result<()> {
        fs::write(folder.join(CERTIFICATE_FILE), &self.certificate)?;
        fs::write(folder.join(KEY_FILE), &self.key)?;
        Ok(())
    }
}
