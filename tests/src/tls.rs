//! Test certificates, and TLS connections that trust them.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair,
    SanType,
};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};

use crate::{Server, within};

tokio::task_local! {
    /// Set while a test runs over TLS.
    static OVER_TLS: ();
}

/// Runs a test whose servers serve over TLS, and whose clients connect to them over TLS.
pub async fn over_tls(test: impl Future<Output = ()>) {
    OVER_TLS.scope((), test).await;
}

/// Whether this task runs in [`over_tls`].
pub(crate) fn is_default() -> bool {
    OVER_TLS.try_with(|()| ()).is_ok()
}

/// Opens a TLS connection to `localhost` at this address.
///
/// # Errors
/// The connection or the handshake fails.
pub async fn connect(
    address: SocketAddr,
    config: Arc<ClientConfig>,
) -> io::Result<TlsStream<TcpStream>> {
    handshake(TcpStream::connect(address).await?, config).await
}

/// Performs a TLS handshake with `localhost` over a TCP connection.
///
/// # Errors
/// The handshake fails.
///
/// # Panics
/// Never.
pub async fn handshake(
    stream: TcpStream,
    config: Arc<ClientConfig>,
) -> io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from("localhost").expect("a name");
    TlsConnector::from(config).connect(name, stream).await
}

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

    /// Issues a certificate for these DNS names, and for 127.0.0.1.
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
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        params.subject_alt_names.push(SanType::IpAddress(loopback));
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
        self.acceptor_of(None)
    }

    /// Like [`acceptor`](Self::acceptor), for clients that offer `protocol`.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn acceptor_of(&self, protocol: Option<&str>) -> TlsAcceptor {
        let identity = self.sign(&["localhost"]);
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring has them")
            .with_no_client_auth()
            .with_single_cert(vec![identity.certificate.clone()], identity.private())
            .expect("a certificate and its key");
        config.alpn_protocols = protocol
            .map(|protocol| protocol.as_bytes().to_vec())
            .into_iter()
            .collect();
        TlsAcceptor::from(Arc::new(config))
    }

    /// Opens a TLS connection that trusts this authority and offers `protocol`. Sends the
    /// client certificate if one is given.
    ///
    /// # Errors
    /// The connection or the handshake fails.
    pub async fn connect(
        &self,
        server: &Server,
        protocol: &str,
        client: Option<&Identity>,
    ) -> io::Result<TlsStream<TcpStream>> {
        let config = self.client_config(protocol, client);
        within("a TLS handshake", connect(server.address(), config)).await
    }

    /// Builds the configuration of clients that trust this authority and offer `protocol`.
    /// They resume sessions among each other.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn client_config(&self, protocol: &str, client: Option<&Identity>) -> Arc<ClientConfig> {
        self.client_config_of(rustls::DEFAULT_VERSIONS, protocol, client)
    }

    /// Like [`client_config`](Self::client_config), for some versions of TLS.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn client_config_of(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        protocol: &str,
        client: Option<&Identity>,
    ) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).expect("a certificate");
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(versions)
            .expect("ring has them")
            .with_root_certificates(roots);
        let mut config = match client {
            Some(identity) => builder
                .with_client_auth_cert(vec![identity.certificate.clone()], identity.private())
                .expect("a certificate and its key"),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        Arc::new(config)
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
