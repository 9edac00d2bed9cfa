//! Test certificates, and TLS connections that trust them.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair,
    SanType,
};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};

use crate::{Server, within};

/// A certificate authority.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Authority").finish()
    }
}

/// A certificate and its private key.
#[derive(Debug)]
pub struct Identity {
    certificate: CertificateDer<'static>,
    pem: String,
    key: KeyPair,
}

impl Authority {
    /// Creates an authority.
    ///
    /// # Panics
    /// Never: key generation does not fail.
    #[must_use]
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let mut name = DistinguishedName::new();
        name.push(DnType::CommonName, "an authority of the tests");
        params.distinguished_name = name;
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("a certificate"))
    }

    /// Issues a certificate for these DNS names.
    ///
    /// # Panics
    /// A name is not a DNS name.
    #[must_use]
    pub fn sign(&self, names: &[&str]) -> Identity {
        let mut params = CertificateParams::default();
        for name in names {
            let name = (*name).try_into().expect("a DNS name");
            params.subject_alt_names.push(SanType::DnsName(name));
        }
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.0).expect("a certificate");
        Identity {
            certificate: certificate.der().clone(),
            pem: certificate.pem(),
            key,
        }
    }

    /// Writes the authority's certificate to a file in this folder.
    ///
    /// # Panics
    /// The file cannot be written.
    #[must_use]
    pub fn write(&self, folder: &Path) -> PathBuf {
        let path = folder.join("ca.pem");
        fs::write(&path, self.0.pem()).expect("a file can be written");
        path
    }

    /// Builds an acceptor for `localhost`.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn acceptor(&self) -> TlsAcceptor {
        let identity = self.sign(&["localhost"]);
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring has them")
            .with_no_client_auth()
            .with_single_cert(vec![identity.certificate.clone()], identity.private())
            .expect("a certificate and its key");
        TlsAcceptor::from(Arc::new(config))
    }

    /// Opens a TLS connection that trusts this authority and offers `protocol`. Sends the
    /// client certificate if one is given.
    ///
    /// # Errors
    /// The handshake fails.
    ///
    /// # Panics
    /// The TCP connection fails.
    pub async fn connect(
        &self,
        server: &Server,
        protocol: &str,
        client: Option<&Identity>,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).expect("a certificate");
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring has them")
            .with_root_certificates(roots);
        let mut config = match client {
            Some(identity) => builder
                .with_client_auth_cert(vec![identity.certificate.clone()], identity.private())
                .expect("a certificate and its key"),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let stream = TcpStream::connect(server.address()).await;
        let stream = stream.expect("the server is there");
        let name = ServerName::try_from("localhost").expect("a name");
        let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
        within("a TLS handshake", connecting).await
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl Identity {
    /// Returns the certificate.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Writes the certificate and the key to these files.
    ///
    /// # Panics
    /// A file cannot be written.
    pub fn write(&self, certificate: &Path, key: &Path) {
        fs::write(certificate, &self.pem).expect("a file can be written");
        fs::write(key, self.key.serialize_pem()).expect("a file can be written");
    }

    fn private(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::try_from(self.key.serialize_der()).expect("a key")
    }
}
