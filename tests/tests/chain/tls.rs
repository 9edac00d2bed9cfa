//! TLS endpoints with certificates of the operator's own authority.

use std::net::SocketAddr;

use serde_json::json;
use tempfile::TempDir;
use tidewire_tests::{
    Client, Node, Server, ServerBuilder, Transport, refused_start, tls::Authority, within,
};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::{blocks::wait_for_block, ledger::Ledger, watching::until};

const CHANNEL: &str = "blocks:31337";

/// A TLS proxy in front of a node. Dropping it closes all connections.
struct TlsProxy {
    address: SocketAddr,
    _connections: JoinSet<()>,
}

impl TlsProxy {
    async fn in_front_of(node: &Node, authority: &Authority, address: &str) -> Self {
        Self::of_protocol(node, authority, address, None).await
    }

    /// A proxy that passes on what is negotiated as `protocol`, and nothing else.
    async fn of_protocol(
        node: &Node,
        authority: &Authority,
        address: &str,
        protocol: Option<&'static str>,
    ) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = authority.acceptor_of(protocol);
        let http = node.http();
        let upstream = http.strip_prefix("http://").unwrap().to_owned();
        let mut connections = JoinSet::new();
        connections.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let (acceptor, upstream) = (acceptor.clone(), upstream.clone());
                open.spawn(async move {
                    let Ok(mut inside) = acceptor.accept(socket).await else {
                        return;
                    };
                    let negotiated = inside.get_ref().1.alpn_protocol();
                    if negotiated != protocol.map(str::as_bytes) {
                        return;
                    }
                    let Ok(mut outside) = TcpStream::connect(upstream).await else {
                        return;
                    };
                    // Either side may close the connection.
                    let _ = copy_bidirectional(&mut inside, &mut outside).await;
                });
            }
        });
        Self {
            address,
            _connections: connections,
        }
    }

    /// The URL with the name in the certificate.
    fn url(&self, scheme: &str) -> String {
        format!("{scheme}://localhost:{}", self.address.port())
    }
}

/// A server with these `endpoints` in its configuration.
fn on(endpoints: &str) -> ServerBuilder {
    Server::builder().table(&format!(
        "[[chain]]\nid = 31337\nendpoints = [{endpoints}]\nblock_time_ms = 200\nconfirmations = 3\nfinality = 6\n"
    ))
}

#[tokio::test]
async fn a_transaction_is_followed_over_tls_through_an_outage_of_the_endpoint() {
    for scheme in ["wss", "https"] {
        let (node, folder) = (Node::start().await, TempDir::new().unwrap());
        let authority = Authority::new();
        let ca_file = authority.write(folder.path());
        let front = TlsProxy::in_front_of(&node, &authority, "127.0.0.1:0").await;
        let endpoint = format!("{{ url = {:?}, ca_file = {ca_file:?} }}", front.url(scheme));
        let server = on(&endpoint).start().await;
        wait_for_block(&server, 31337).await;
        let mut client = Client::connect(Transport::WebSocketJson, &server).await;
        client.subscribe(CHANNEL).await;
        let mut ledger = Ledger::default();
        node.mine(3).await;
        ledger.follow(&mut client, &node, CHANNEL).await;
        let accounts = node.accounts().await;
        let hash = node.send(&accounts[0], &accounts[1], 5).await;
        let watch = json!({"chain": 31337, "txHash": hash});
        let _ = client.request("watch", watch).await.expect("watching");
        ledger.follow(&mut client, &node, CHANNEL).await;
        // The endpoint is lost while the chain continues, and returns.
        let address = front.address.to_string();
        drop(front);
        node.mine(9).await;
        let _front = TlsProxy::in_front_of(&node, &authority, &address).await;
        until(&mut client, &hash, "confirmed").await;
        until(&mut client, &hash, "finalized").await;
        ledger.follow(&mut client, &node, CHANNEL).await;
        ledger.check(&node).await;
        assert!(ledger.reorgs.is_empty());
    }
}

#[tokio::test]
async fn an_untrusted_endpoint_is_replaced_by_another() {
    for scheme in ["wss", "https"] {
        let (node, folder) = (Node::start().await, TempDir::new().unwrap());
        let authority = Authority::new();
        let front = TlsProxy::in_front_of(&node, &authority, "127.0.0.1:0").await;
        let other_file = Authority::new().write(folder.path());
        // One certificate is not trusted at all, one is checked against another authority.
        let plain = format!("{:?}", front.url(scheme));
        let signed = format!("{{ url = {plain}, ca_file = {other_file:?} }}");
        let server = on(&format!("{plain}, {signed}")).start().await;
        let count = within("refused certificates", async {
            loop {
                let failures = "tidewire_chain_call_failures_total";
                let count = server.metric(failures, scheme).await;
                if count >= 2.0 {
                    break count;
                }
            }
        });
        count.await;
        let line = server.log_line("the chain stands still").await;
        let host = front.url(scheme);
        for part in ["WARN", "chain=31337", &host, "certificate"] {
            assert!(line.contains(part), "{part} in {line}");
        }
        let request = json!({ "chain": 31337 });
        let answer = server
            .call("WatchService/GetLatestBlock", None, &request)
            .await;
        assert_eq!(answer.status, 503, "{}", answer.body);
        let with_plain = format!("{plain}, {signed}, {:?}", node.ws());
        let server = on(&with_plain).start().await;
        wait_for_block(&server, 31337).await;
    }
}

#[tokio::test]
async fn http_2_is_spoken_where_a_node_offers_it() {
    let (node, folder) = (Node::start().await, TempDir::new().unwrap());
    let authority = Authority::new();
    let ca_file = authority.write(folder.path());
    let front = TlsProxy::of_protocol(&node, &authority, "127.0.0.1:0", Some("h2")).await;
    let endpoint = format!(
        "{{ url = {:?}, ca_file = {ca_file:?} }}",
        front.url("https")
    );
    let server = on(&endpoint).start().await;
    wait_for_block(&server, 31337).await;
}

#[tokio::test]
async fn a_bad_certificate_file_is_reported_at_the_start() {
    let folder = TempDir::new().unwrap();
    for (content, what) in [(None, "missing.pem"), (Some("none"), "expected PEM")] {
        let path = folder.path().join("missing.pem");
        if let Some(content) = content {
            std::fs::write(&path, content).unwrap();
        }
        let config = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\n[prices]\nsymbols = []\n[[chain]]\nid = 1\nendpoints = [{{ url = \"wss://localhost:1\", ca_file = {path:?} }}]\n"
        );
        let output = refused_start(folder.path(), &config).await;
        assert!(output.contains(what), "{output}");
    }
}
