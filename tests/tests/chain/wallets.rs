//! Wallets beyond a connection: users', followers' that come back, and all that across the
//! server's end.

use serde_json::{Value, json};
use tempfile::TempDir;
use tidewire_tests::{Client, HttpResponse, Node, Server, Token, Transport};

use crate::{blocks::wait_for_block, ledger::on_chain_with};

on_every_transport!(
    a_users_wallet_is_followed_while_nobody_is_connected,
    who_comes_back_to_a_wallet_has_missed_nothing,
    only_its_users_may_read_a_wallet_where_the_operator_says_so,
);

/// A server on this node that keeps what it keeps in this folder.
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

/// Ties a wallet to a user, or unties it.
pub(crate) async fn tie(server: &Server, method: &str, user: &str, address: &str) -> HttpResponse {
    let asked = json!({"user": user, "address": address});
    let method = format!("WatchService/{method}");
    server.call(&method, Some(&Token::service()), &asked).await
}

/// What a client was told of a wallet.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    pub(crate) epoch: String,
    pub(crate) seq: u64,
    pub(crate) updates: Vec<Value>,
}

impl Heard {
    /// Begins with a subscription.
    pub(crate) async fn begin(client: &mut Client, channel: &str) -> Self {
        let subscribed = client.subscribe(channel).await;
        Self {
            epoch: subscribed["epoch"].as_str().unwrap().to_owned(),
            seq: subscribed["seq"].as_u64().unwrap(),
            updates: Vec::new(),
        }
    }

    /// Goes on after what was heard; nothing may be missing.
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

    /// Reads until a block has told of this transaction, and of the balance.
    pub(crate) async fn until(&mut self, client: &mut Client, channel: &str, hash: &str) {
        loop {
            self.read(client, channel).await;
            let place = self.of("transaction").position(|update| {
                update["data"]["hash"] == hash && update["data"]["status"] == "confirming"
            });
            let block = place.and_then(|place| {
                self.of("transaction").nth(place).unwrap()["data"]["blockNumber"].as_u64()
            });
            let is_told = |block| {
                self.of("balance")
                    .any(|update| update["data"]["blockNumber"] == block)
            };
            if block.is_some_and(is_told) {
                return;
            }
        }
    }

    /// Reads until this transaction is in this state, and gives the update.
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

    /// The hashes of the transactions that blocks brought, in order.
    fn included(&self) -> Vec<&str> {
        let told = self.of("transaction");
        let told = told.filter(|update| update["data"]["status"] == "confirming");
        told.map(|update| update["data"]["hash"].as_str().unwrap())
            .collect()
    }
}

async fn a_users_wallet_is_followed_while_nobody_is_connected(transport: Transport) {
    let (node, folder) = (Node::start().await, TempDir::new().unwrap());
    let mut running = server(&folder, &node.ws()).await;
    let accounts = node.accounts().await;
    let channel = format!("wallet:{}", accounts[1].to_ascii_lowercase());
    let answer = tie(&running, "LinkWallet", "ada", &accounts[1]).await;
    assert_eq!((answer.status, answer.json()), (200, json!({})));
    let mut client = Client::connect(transport, &running).await;
    let mut heard = Heard::begin(&mut client, &channel).await;
    assert_eq!(heard.seq, 0);
    drop(client);
    // Killed before anything was ever said on its channel.
    running.kill().await;
    let first = node.send(&accounts[0], &accounts[1], 5).await;
    let mut running = server(&folder, &node.http()).await;
    let mut client = Client::connect(transport, &running).await;
    heard.resume(&mut client, &channel).await;
    heard.until(&mut client, &channel, &first).await;
    drop(client);
    // And again, now that there is a history.
    let second = node.send(&accounts[0], &accounts[1], 6).await;
    running.kill().await;
    let third = node.send(&accounts[0], &accounts[1], 7).await;
    let running = server(&folder, &node.ws()).await;
    let mut client = Client::connect(transport, &running).await;
    heard.resume(&mut client, &channel).await;
    heard.until(&mut client, &channel, &third).await;
    assert_eq!(heard.included(), [&first, &second, &third]);
    let deltas: Vec<_> = heard.of("balance").map(|u| &u["data"]["delta"]).collect();
    assert_eq!(deltas, ["5", "6", "7"]);
}

async fn who_comes_back_to_a_wallet_has_missed_nothing(transport: Transport) {
    let (node, folder) = (Node::start().await, TempDir::new().unwrap());
    let mut running = server(&folder, &node.ws()).await;
    let accounts = node.accounts().await;
    let channel = format!("wallet:{}", accounts[1].to_ascii_lowercase());
    let mut client = Client::connect(transport, &running).await;
    let mut heard = Heard::begin(&mut client, &channel).await;
    let first = node.send(&accounts[0], &accounts[1], 5).await;
    heard.until(&mut client, &channel, &first).await;
    drop(client);
    let second = node.send(&accounts[0], &accounts[1], 6).await;
    running.kill().await;
    let third = node.send(&accounts[0], &accounts[1], 7).await;
    let running = server(&folder, &node.ws()).await;
    let mut client = Client::connect(transport, &running).await;
    heard.resume(&mut client, &channel).await;
    heard.until(&mut client, &channel, &third).await;
    assert_eq!(heard.included(), [&first, &second, &third]);
    // A wallet that nobody has followed goes on from nowhere.
    let other = format!("wallet:{}", accounts[2].to_ascii_lowercase());
    let resumed = client.resume(&other, &heard.epoch, 0).await;
    assert_eq!(resumed["recovered"], false, "{resumed}");
}

#[tokio::test]
async fn killed_again_and_again_each_update_comes_once() {
    let (node, folder) = (Node::start().await, TempDir::new().unwrap());
    let mut running = server(&folder, &node.ws()).await;
    let accounts = node.accounts().await;
    let channel = format!("wallet:{}", accounts[1].to_ascii_lowercase());
    let mut client = Client::connect(Transport::WebSocketJson, &running).await;
    let mut heard = Heard::begin(&mut client, &channel).await;
    let mut sent = Vec::new();
    for round in 0..6 {
        for _ in 0..20 {
            sent.push(node.send(&accounts[0], &accounts[1], 1).await);
        }
        // Somewhere in the middle of them.
        let goal = &sent[round * 20 + 3 * round];
        heard.until(&mut client, &channel, goal).await;
        running.kill().await;
        running = server(&folder, &node.ws()).await;
        client = Client::connect(Transport::WebSocketJson, &running).await;
        heard.resume(&mut client, &channel).await;
    }
    let last = sent.last().unwrap();
    heard.until(&mut client, &channel, last).await;
    let mut told = heard.included();
    told.sort_unstable();
    sent.sort_unstable();
    assert_eq!(told, sent);
    let deltas = heard.of("balance").map(|update| {
        let delta = update["data"]["delta"].as_str().unwrap();
        delta.parse::<u64>().unwrap()
    });
    assert_eq!(deltas.sum::<u64>(), 120);
}

async fn only_its_users_may_read_a_wallet_where_the_operator_says_so(transport: Transport) {
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
    let answer = tie(&server, "LinkWallet", "ada", &accounts[1]).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let mut heard = Heard::begin(&mut client, &channel).await;
    let hash = node.send(&accounts[0], &accounts[1], 5).await;
    heard.until(&mut client, &channel, &hash).await;
    let eve = Token::of("eve").sign();
    let mut other = Client::connect_as(transport, &server, Some(&eve)).await;
    let refused = other.subscribe(&channel).await;
    assert_eq!(refused["error"]["code"], "permission_denied", "{refused}");
    // Untied, the user leaves it, and hears so.
    let answer = tie(&server, "UnlinkWallet", "ada", &accounts[1]).await;
    assert_eq!((answer.status, answer.json()), (200, json!({})));
    let left = client.next_of("unsubscribed").await;
    assert_eq!(left.data["channels"], json!([channel]));
    let refused = client.subscribe(&channel).await;
    assert_eq!(refused["error"]["code"], "permission_denied", "{refused}");
}

#[tokio::test]
async fn a_wallet_that_cannot_be_tied_says_why() {
    let node = Node::start().await;
    let server = on_chain_with(Server::builder(), 31337, &[node.ws()], "")
        .start()
        .await;
    let wallet = "0xd8da6bf26964af9d7eed9e03e53415d37aa96045";
    for method in ["LinkWallet", "UnlinkWallet"] {
        let name = format!("WatchService/{method}");
        let asked = json!({"user": "ada", "address": wallet});
        // Not even for oneself: anyone can say that any wallet is theirs.
        for token in [None, Some(Token::of("ada").sign())] {
            let answer = server.call(&name, token.as_deref(), &asked).await;
            assert_eq!(answer.status, 403, "{}", answer.body);
        }
        for (asked, said) in [
            (json!({"address": wallet}), "`user` is missing"),
            (json!({"user": "", "address": wallet}), "no user's id"),
            (json!({"user": "a b", "address": wallet}), "no user's id"),
            (json!({"user": "ada", "address": "0xd8"}), "no address"),
            (json!({"user": "ada"}), "no address"),
            (
                json!({"user": "ada", "address": wallet.replace("0xd8da", "0xD8da")}),
                "expected 0xd8dA6BF26964aF9D7eEd9e03E53415D37aA96045",
            ),
        ] {
            let answer = server.call(&name, Some(&Token::service()), &asked).await;
            assert_eq!(answer.status, 400, "{asked}: {}", answer.body);
            assert_eq!(answer.json()["code"], "invalid_argument");
            assert!(answer.body.contains(said), "{asked}: {}", answer.body);
        }
    }
    // As often as it is said.
    for method in ["LinkWallet", "LinkWallet", "UnlinkWallet", "UnlinkWallet"] {
        let checksummed = "0xd8dA6BF26964aF9D7eEd9e03E53415D37aA96045";
        let answer = tie(&server, method, "ada", checksummed).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
    for number in 0..100 {
        let answer = tie(&server, "LinkWallet", "ada", &format!("0x{number:040x}")).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
    let answer = tie(&server, "LinkWallet", "ada", wallet).await;
    assert_eq!(answer.status, 429, "{}", answer.body);
    assert!(answer.body.contains("has 100 wallets"), "{}", answer.body);
}

#[tokio::test]
async fn without_a_chain_there_is_nothing_to_tie() {
    let server = Server::start().await;
    let wallet = format!("0x{}", "ab".repeat(20));
    let answer = tie(&server, "LinkWallet", "ada", &wallet).await;
    assert_eq!(answer.json()["code"], "failed_precondition");
}

#[tokio::test]
async fn a_filter_of_events_goes_on_for_who_comes_back() {
    let (node, folder) = (Node::start().await, TempDir::new().unwrap());
    let accounts = node.accounts().await;
    let contract = crate::lies::logger(&node, &accounts[0]).await;
    let mut running = server(&folder, &node.ws()).await;
    let mut client = Client::connect(Transport::WebSocketJson, &running).await;
    let watch = json!({"chain": 31337, "events": {"addresses": [contract]}});
    let reply = client.request("watch", watch).await.expect("watching");
    let channel = reply.data["channel"].as_str().unwrap().to_owned();
    let first = node.send(&accounts[0], &contract, 0).await;
    let told = client.next_on(&channel).await.expect("event_log");
    assert_eq!(told.data["txHash"], first);
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
        let told = client.next_on(&channel).await.expect("event_log");
        assert_eq!((told.seq, &told.data["txHash"]), (Some(seq), &json!(hash)));
    }
    // What nobody has watched is no channel.
    let refused = client.subscribe("events:31337:0123").await;
    assert_eq!(refused["error"]["code"], "invalid_argument", "{refused}");
}
