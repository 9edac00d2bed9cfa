//! SSRF: the address that was checked is the address that is connected to.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures::future::BoxFuture;
use rcgen::{CertificateParams, KeyPair};
use rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer};
use tidewire_delivery::{Lookup, Outcome, Secret, Senders};
use tidewire_stream::{ManualClock, SharedClock};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use crate::{CREATED_MS, http_server::HttpServer, message, webhook_config};

/// A name service whose answers change with each question.
#[derive(Debug)]
struct ChangingLookup {
    answers: Vec<Vec<&'static str>>,
    count: Arc<AtomicUsize>,
}

impl Lookup for ChangingLookup {
    fn lookup(&self, _: String) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
        let number = self.count.fetch_add(1, Ordering::SeqCst);
        let last = self.answers.len() - 1;
        let answer = &self.answers[number.min(last)];
        let addresses = answer
            .iter()
            .map(|address| SocketAddr::new(address.parse().unwrap(), 0))
            .collect();
        Box::pin(async move { Ok(addresses) })
    }
}

fn senders(
    url: &str,
    allow_private: bool,
    answers: &[&[&'static str]],
) -> (Senders, Arc<AtomicUsize>) {
    let mut config = webhook_config(url);
    config.webhook[0].url = Secret::new(url);
    config.webhook[0].allow_private = allow_private;
    let clock: SharedClock = ManualClock::at(CREATED_MS);
    let count = Arc::new(AtomicUsize::new(0));
    let lookup: Arc<dyn Lookup> = Arc::new(ChangingLookup {
        answers: answers.iter().map(|answer| answer.to_vec()).collect(),
        count: count.clone(),
    });
    let senders = Senders::with_lookup(&config, &clock, &lookup).unwrap();
    (senders, count)
}

async fn attempt(senders: &Senders) -> Outcome {
    senders.webhooks().next().unwrap().send(&message("m")).await
}

#[tokio::test]
async fn a_name_that_turns_private_is_refused_at_the_connect() {
    let mut server = HttpServer::always("200 OK", "").await;
    let url = format!("https://rebind.example.com:{}/", server.port);
    for private in [
        "127.0.0.1",
        "::ffff:127.0.0.1",
        "10.0.0.1",
        "169.254.169.254",
        "0.0.0.0",
    ] {
        let (senders, count) = senders(&url, false, &[&[private]]);
        let Outcome::Permanent { reason } = attempt(&senders).await else {
            panic!("{private} is private");
        };
        assert!(
            reason.starts_with("the URL is refused: its address is "),
            "{reason}"
        );
        assert!(!reason.contains("rebind"), "{reason}");
        assert_eq!(
            count.load(Ordering::SeqCst),
            1,
            "one question, whose answer counts"
        );
    }
    assert!(server.is_quiet());
}

#[tokio::test]
async fn private_addresses_of_a_mixed_answer_are_dropped() {
    let mut server = HttpServer::always("200 OK", "").await;
    let url = format!("http://mixed.example.com:{}/", server.port);
    // The unusable address is dropped, and the other one is connected to.
    let (senders, _) = senders(&url, true, &[&["0.0.0.0", "224.0.0.1", "127.0.0.1"]]);
    assert_eq!(attempt(&senders).await, Outcome::Delivered);
    let host = server.request().await.header("host").to_owned();
    assert_eq!(host, format!("mixed.example.com:{}", server.port));
}

#[tokio::test]
async fn a_name_without_an_address_is_tried_again() {
    let (senders, _) = senders("https://none.example.com/", false, &[&[]]);
    assert!(matches!(attempt(&senders).await, Outcome::Retry { .. }));
}

#[tokio::test]
async fn a_private_address_in_the_url_is_refused_in_the_configuration() {
    for url in [
        "https://127.0.0.1/",
        "https://[::ffff:10.0.0.1]/",
        "http://example.com/",
    ] {
        let mut config = webhook_config(url);
        config.webhook[0].allow_private = false;
        let clock: SharedClock = ManualClock::at(CREATED_MS);
        let error = Senders::new(&config, &clock).unwrap_err().to_string();
        assert!(
            error.starts_with("`delivery.webhook \"ops\" url`: refused: its ")
                && error.contains("allow_private = true"),
            "{error}"
        );
    }
}

/// Accepts one TLS connection with a certificate for this name, and responds. Returns the port
/// and the file of the certificate's authority.
async fn tls_server(name: &str, folder: &Path) -> (u16, PathBuf) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let file = folder.join(format!("{name}.pem"));
    std::fs::write(&file, certificate.pem()).unwrap();
    let private = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], private)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        let Ok(mut socket) = TlsAcceptor::from(Arc::new(config)).accept(socket).await else {
            return;
        };
        let mut request = [0; 4_096];
        let _ = socket.read(&mut request).await.unwrap();
        let response = b"HTTP/1.1 204 OK\r\n\r\n";
        socket.write_all(response).await.unwrap();
        // The client closes.
        let _ = socket.read(&mut request).await;
    });
    (port, file)
}

#[tokio::test]
async fn the_certificate_is_that_of_the_name_and_not_of_the_address() {
    let folder = tempfile::tempdir().unwrap();
    for (host, is_right) in [("hook.example.com", true), ("other.example.com", false)] {
        let (port, ca_file) = tls_server("hook.example.com", folder.path()).await;
        let url = format!("https://{host}:{port}/");
        let mut config = webhook_config(&url);
        config.ca_file = Some(ca_file);
        let clock: SharedClock = ManualClock::at(CREATED_MS);
        let lookup: Arc<dyn Lookup> = Arc::new(ChangingLookup {
            answers: vec![vec!["127.0.0.1"]],
            count: Arc::default(),
        });
        let senders = Senders::with_lookup(&config, &clock, &lookup).unwrap();
        let outcome = attempt(&senders).await;
        match is_right {
            true => assert_eq!(outcome, Outcome::Delivered),
            false => assert!(matches!(outcome, Outcome::Retry { .. }), "{outcome:?}"),
        }
    }
}
