//! Wallets beyond a connection: links to users, clients that return, and restarts.

use serde_json::{Value, json};
use tempfile::TempDir;
use tidewire_tests::{Client, HttpResponse, Node, Server, Token, Transport};

use crate::{blocks::wait_for_block, ledger::on_chain_with};

on_every_transport!(
    a_linked_wallet_is_followed_while_nobody_is_connected,
    a_client_that_returns_to_a_wallet_misses_nothing,
    with_owner_access_only_linked_users_read_a_wallet,
);

/// A server on this node, with its store in this folder.
async fn server(folder: &TempDir, endpoint: &str) -> Server {
    server_with(folder, endpoint, "").await
}

pub(crate) async fn server_with(folder: &TempDir, endpoint: &str, rest: &str) -> Server {
    let path = format!("path = {:?}", folder.path().display().to_string());
    let builder = Server::builder().set("store", &path);
    let builder = on_chain_with(builder, 31337, &[endpoint.to_owned()], rest);
    let server = builder.start().await;
    wait_for_block(&server, 31337).await;
    server
}

/// Links a wallet to a user, or removes the link.
pub(crate) async fn link_call(
    server: &Server,
    method: &str,
    user: &str,
    address: &str,
) -> HttpResponse {
    let request = json!({"user": user, "address": address});
    let method = format!("WatchService/{method}");
    server
        .call(&method, Some(&Token::service()), &request)
        .await
}

/// The updates of a wallet that a client received.
#[derive(Debug, Default)]
pub(crate) struct WalletLog {
    pub(crate) epoch: String,
    pub(crate) seq: u64,
    pub(crate) updates: Vec<Value>,
}

impl WalletLog {
    /// Subscribes.
    pub(crate) async fn begin(client: &mut Client, channel: &str) -> Self {
        let subscribed = client.subscribe(channel).await;
        Self {
            epoch: subscribed["epoch"].as_str().unwrap().to_owned(),
            seq: subscribed["seq"].as_u64().unwrap(),
            updates: Vec::new(),
        }
    }

    /// Resumes after the last update; none may be missing.
    pub(crate) async fn resume(&self, client: &mut Client, channel: &str) {
        let resumed = client.resume(channel, &self.epoch, self.seq).await;
        assert_eq!(resumed["recovered"], true, "{resumed} after {self:?}");
    }

    pub(crate) async fn read(&mut self, client: &mut Client, channel: &str) -> Value {
        let message = client.next_on(channel).await.expect("wallet_update");
        assert_eq!(message.seq, Some(self.seq + 1), "{}", message.text);
        self.seq += 1;
        self.updates.push(message.data.clone());
        message.data
    }

    /// Reads until the updates of this transaction and of the balance in its block.
    pub(crate) async fn until(&mut self, client: &mut Client, channel: &str, hash: &str) {
        loop {
            self.read(client, channel).await;
            let index = self.of("transaction").position(|update| {
                update["data"]["hash"] == hash && update["data"]["status"] == "confirming"
            });
            let block = index.and_then(|index| {
                self.of("transaction").nth(index).unwrap()["data"]["blockNumber"].as_u64()
            });
            let has_balance = |block| {
                self.of("balance")
                    .any(|update| update["data"]["blockNumber"] == block)
            };
            if block.is_some_and(has_balance) {
                return;
            }
        }
    }

    /// Reads until this transaction is in this state, and returns the update.
    pub(crate) async fn status(
        &mut self,
        client: &mut Client,
        channel: &str,
        hash: &str,
        status: &str,
    ) -> Value {
        loop {
            let update = self.read(client, channel).await;
            if (&update["data"]["hash"], &update["data"]["status"])
                == (&json!(hash), &json!(status))
            {
                return update;
            }
        }
    }

    pub(crate) fn of<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.updates
            .iter()
            .filter(move |update| update["type"] == kind)
    }

    /// The hashes of included transactions, in order.
    fn included(&self) -> Vec<&str> {
        let updates = self.of("transaction");
        let included = updates.filter(|update| update["data"]["status"] == "confirming");
        included
            .map(|update| update["data"]["hash"].as_str().unwrap())
            .collect()
    }
}

async fn a_linked_wallet_is_followed_while_nobody_is_connected(transport: Transport) {
    let (node, folder) = (Node::start().await, TempDir::new().unwrap());
    let mut running = server(&folder, &node.ws()).await;
    let accounts = node.accounts().await;
    let channel = format!("wallet:{}", accounts[1].to_ascii_lowercase());
    let answer = link_call(&running, "LinkWallet", "ada", &accounts[1]).await;
    assert_eq!((answer.status, answer.json()), (200, json!({})));
    let mut client = Client::connect(transport, &running).await;
    let mut log = WalletLog::begin(&mut client, &channel).await;
    assert_eq!(log.seq, 0);
    drop(client);
    // Killed before any publication on its channel.
    running.kill().await;
    let first = node.send(&accounts[0], &accounts[1], 5).await;
    let mut running = server(&folder, &node.http()).await;
    let mut client = Client::connect(transport, &running).await;
    log.resume(&mut client, &channel).await;
    log.until(&mut client, &channel, &first).await;
    drop(client);
    // Killed again, with a history.
    let second = node.send(&accounts[0], &accounts[1], 6).await;
    running.kill().await;
    let third = node.send(&accounts[0], &accounts[1], 7).await;
    let running = server(&folder, &node.ws()).await;
    let mut client = Client::connect(transport, &running).await;
    log.resume(&mut client, &channel).await;
    log.until(&mut client, &channel, &third).await;
    assert_eq!(log.included(), [&first, &second, &third]);
    let deltas: Vec<_> = log.of("balance").map(|u| &u["data"]["delta"]).collect();
    assert_eq!(deltas, ["5", "6", "7"]);
}

async fn a_client_that_returns_to_a_wallet_misses_nothing(transport: Transport) {
    let (node, folder) = (Node::start().await, TempDir::new().unwrap());
    let mut running = server(&folder, &node.ws()).await;
    let accounts = node.accounts().await;
    let channel = format!("wallet:{}", accounts[1].to_ascii_lowercase());
    let mut client = Client::connect(transport, &running).await;
    let mut log = WalletLog::begin(&mut client, &channel).await;
    let first = node.send(&accounts[0], &accounts[1], 5).await;
    log.until(&mut client, &channel, &first).await;
    drop(client);
    let second = node.send(&accounts[0], &accounts[1], 6).await;
    running.kill().await;
    let third = node.send(&accounts[0], &accounts[1], 7).await;
    let running = server(&folder, &node.ws()).await;
    let mut client = Client::connect(transport, &running).await;
    log.resume(&mut client, &channel).await;
    log.until(&mut client, &channel, &third).await;
    assert_eq!(log.included(), [&first, &second, &third]);
    // A wallet without followers has no history to resume.
    let other = format!("wallet:{}", accounts[2].to_ascii_lowercase());
    let resumed = client.resume(&other, &log.epoch, 0).await;
    assert_eq!(resumed["recovered"], false, "{resumed}");
}

#[tokio::test]
async fn each_update_comes_once_across_kills() {
    let (node, folder) = (Node::start().await, TempDir::new().unwrap());
    let mut running = server(&folder, &node.ws()).await;
    let accounts = node.accounts().await;
    let channel = format!("wallet:{}", accounts[1].to_ascii_lowercase());
    let mut client = Client::connect(Transport::WebSocketJson, &running).await;
    let mut log = WalletLog::begin(&mut client, &channel).await;
    let mut sent = Vec::new();
    for round in 0..6 {
        for _ in 0..20 {
            sent.push(node.send(&accounts[0], &accounts[1], 1).await);
        }
        // Killed in the middle of the transactions.
        let goal = &sent[round * 20 + 3 * round];
        log.until(&mut client, &channel, goal).await;
        running.kill().await;
        running = server(&folder, &node.ws()).await;
        client = Client::connect(Transport::WebSocketJson, &running).await;
        log.resume(&mut client, &channel).await;
    }
    let last = sent.last().unwrap();
    log.until(&mut client, &channel, last).await;
    let mut received = log.included();
    received.sort_unstable();
    sent.sort_unstable();
    assert_eq!(received, sent);
    let deltas = log.of("balance").map(|update| {
        let delta = update["data"]["delta"].as_str().unwrap();
        delta.parse::<u64>().unwrap()
    });
    assert_eq!(deltas.sum::<u64>(), 120);
}

async fn with_owner_access_only_linked_users_read_a_wallet(transport: Transport) {
    let node = Node::start().await;
    let builder = Server::builder().namespace("wallet", "access = \"owner\"");
    let server = on_chain_with(builder, 31337, &[node.ws()], "")
        .start()
        .await;
    let accounts = node.accounts().await;
    let channel = format!("wallet:{}", accounts[1].to_ascii_lowercase());
    let ada = Token::of("ada").sign();
    let mut client = Client::connect_as(transport, &server, Some(&ada)).await;
    let refused = client.subscribe(&channel).await;
    assert_eq!(refused["error"]["code"], "permission_denied", "{refused}");
    let answer = link_call(&server, "LinkWallet", "ada", &accounts[1]).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let mut log = WalletLog::begin(&mut client, &channel).await;
    let hash = node.send(&accounts[0], &accounts[1], 5).await;
    log.until(&mut client, &channel, &hash).await;
    let eve = Token::of("eve").sign();
    let mut other = Client::connect_as(transport, &server, Some(&eve)).await;
    let refused = other.subscribe(&channel).await;
    assert_eq!(refused["error"]["code"], "permission_denied", "{refused}");
    // Without the link the user is unsubscribed.
    let answer = link_call(&server, "UnlinkWallet", "ada", &accounts[1]).await;
    assert_eq!((answer.status, answer.json()), (200, json!({})));
    let left = client.next_of("unsubscribed").await;
    assert_eq!(left.data["channels"], json!([channel]));
    let refused = client.subscribe(&channel).await;
    assert_eq!(refused["error"]["code"], "permission_denied", "{refused}");
}

#[tokio::test]
async fn a_refused_link_names_the_reason() {
    let node = Node::start().await;
    let server = on_chain_with(Server::builder(), 31337, &[node.ws()], "")
        .start()
        .await;
    let wallet = "0xd8da6bf26964af9d7eed9e03e53415d37aa96045";
    for method in ["LinkWallet", "UnlinkWallet"] {
        let name = format!("WatchService/{method}");
        let request = json!({"user": "ada", "address": wallet});
        // Users may not link their own: anyone can claim any wallet.
        for token in [None, Some(Token::of("ada").sign())] {
            let answer = server.call(&name, token.as_deref(), &request).await;
            assert_eq!(answer.status, 403, "{}", answer.body);
        }
        for (request, expected) in [
            (json!({"address": wallet}), "`user` is missing"),
            (
                json!({"user": "", "address": wallet}),
                "is not the id of a user: it ",
            ),
            (
                json!({"user": "a b", "address": wallet}),
                "is not the id of a user: it ",
            ),
            (
                json!({"user": "ada", "address": "0xd8"}),
                "is not 20 bytes of hex",
            ),
            (json!({"user": "ada"}), "is not 20 bytes of hex"),
            (
                json!({"user": "ada", "address": wallet.replace("0xd8da", "0xD8da")}),
                "expected 0xd8dA6BF26964aF9D7eEd9e03E53415D37aA96045",
            ),
        ] {
            let answer = server.call(&name, Some(&Token::service()), &request).await;
            assert_eq!(answer.status, 400, "{request}: {}", answer.body);
            assert_eq!(answer.json()["code"], "invalid_argument");
            assert!(answer.body.contains(expected), "{request}: {}", answer.body);
        }
    }
    // Linking and unlinking twice changes nothing.
    for method in ["LinkWallet", "LinkWallet", "UnlinkWallet", "UnlinkWallet"] {
        let checksummed = "0xd8dA6BF26964aF9D7eEd9e03E53415D37aA96045";
        let answer = link_call(&server, method, "ada", checksummed).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
    for number in 0..100 {
        let answer = link_call(&server, "LinkWallet", "ada", &format!("0x{number:040x}")).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
    let answer = link_call(&server, "LinkWallet", "ada", wallet).await;
    assert_eq!(answer.status, 429, "{}", answer.body);
    assert!(answer.body.contains("has 100 wallets"), "{}", answer.body);
}

#[tokio::test]
async fn without_a_chain_no_wallet_is_linked() {
    let server = Server::start().await;
    let wallet = format!("0x{}", "ab".repeat(20));
    let answer = link_call(&server, "LinkWallet", "ada", &wallet).await;
    assert_eq!(answer.json()["code"], "failed_precondition");
}

#[tokio::test]
async fn a_client_that_returns_to_an_event_filter_misses_nothing() {
    let (node, folder) = (Node::start().await, TempDir::new().unwrap());
    let accounts = node.accounts().await;
    let contract = crate::faulty_endpoints::logger(&node, &accounts[0]).await;
    let mut running = server(&folder, &node.ws()).await;
    let mut client = Client::connect(Transport::WebSocketJson, &running).await;
    let watch = json!({"chain": 31337, "events": {"addresses": [contract]}});
    let reply = client.request("watch", watch).await.expect("watching");
    let channel = reply.data["channel"].as_str().unwrap().to_owned();
    let first = node.send(&accounts[0], &contract, 0).await;
    let received = client.next_on(&channel).await.expect("event_log");
    assert_eq!(received.data["txHash"], first);
    let listed = client
        .request("history", json!({"channel": channel}))
        .await
        .expect("history");
    let epoch = listed.data["epoch"].as_str().unwrap().to_owned();
    drop(client);
    let second = node.send(&accounts[0], &contract, 0).await;
    running.kill().await;
    let third = node.send(&accounts[0], &contract, 0).await;
    let running = server(&folder, &node.ws()).await;
    let mut client = Client::connect(Transport::WebSocketJson, &running).await;
    let resumed = client.resume(&channel, &epoch, 1).await;
    assert_eq!(resumed["recovered"], true, "{resumed}");
    for (seq, hash) in [(2, &second), (3, &third)] {
        let received = client.next_on(&channel).await.expect("event_log");
        assert_eq!(
            (received.seq, &received.data["txHash"]),
            (Some(seq), &json!(hash))
        );
    }
    // A filter without a watch has no channel.
    let refused = client.subscribe("events:31337:0123").await;
    assert_eq!(refused["error"]["code"], "invalid_argument", "{refused}");
}
