//! Wallets beyond a connection: users', followers' that come back, and all that across the
//! server's end.

use serde_json::{Value, json};
use tempfile::TempDir;
use tidewire_tests::{Answer, Client, Node, Server, Token, Transport};

use crate::{blocks::wait_for_block, ledger::on_chain_with};

on_every_transport!(
    a_users_wallet_is_followed_while_nobody_is_connected,
    who_comes_back_to_a_wallet_has_missed_nothing,
    only_its_users_may_read_a_wallet_where_the_operator_says_so,
    a_wallet_is_told_how_its_transactions_go_on,
    what_a_reorg_undid_while_the_server_was_away_is_taken_back,
    what_becomes_of_a_pending_transaction_is_told,
);

/// A server on this node that keeps what it keeps in this folder.
async fn server(folder: &TempDir, endpoint: &str) -> Server {
    server_with(folder, endpoint, "").await
}

async fn server_with(folder: &TempDir, endpoint: &str, rest: &str) -> Server {
    let path = format!("path = {:?}", folder.path().display().to_string());
    let builder = Server::builder().set("store", &path);
    let builder = on_chain_with(builder, 31337, &[endpoint.to_owned()], rest);
    let server = builder.start().await;
    wait_for_block(&server, 31337).await;
    server
}

/// Ties a wallet to a user, or unties it.
async fn tie(server: &Server, method: &str, user: &str, address: &str) -> Answer {
    let asked = json!({"user": user, "address": address});
    let method = format!("WatchService/{method}");
    server.call(&method, Some(&Token::service()), &asked).await
}

/// What a client was told of a wallet.
#[derive(Debug, Default)]
struct Heard {
    epoch: String,
    seq: u64,
    updates: Vec<Value>,
}

impl Heard {
    /// Begins with a subscription.
    async fn begin(client: &mut Client, channel: &str) -> Self {
        let subscribed = client.subscribe(channel).await;
        Self {
            epoch: subscribed["epoch"].as_str().unwrap().to_owned(),
            seq: subscribed["seq"].as_u64().unwrap(),
            updates: Vec::new(),
        }
    }

    /// Goes on after what was heard; nothing may be missing.
    async fn resume(&self, client: &mut Client, channel: &str) {
        let resumed = client.resume(channel, &self.epoch, self.seq).await;
        assert_eq!(resumed["recovered"], true, "{resumed} after {self:?}");
    }

    async fn read(&mut self, client: &mut Client, channel: &str) -> Value {
        let message = client.next_on(channel).await.expect("wallet_update");
        assert_eq!(message.seq, Some(self.seq + 1), "{}", message.text);
        self.seq += 1;
        self.updates.push(message.data.clone());
        message.data
    }

    /// Reads until a block has told of this transaction, and of the balance.
    async fn until(&mut self, client: &mut Client, channel: &str, hash: &str) {
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
    async fn status(
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

    fn of<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
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

/// The states that a transaction was told to be in, without what the pool tells or not.
fn states<'a>(heard: &'a Heard, hash: &'a str) -> Vec<(&'a str, bool)> {
    let told = heard.of("transaction").filter_map(move |update| {
        let status = update["data"]["status"].as_str()?;
        let is_it = update["data"]["hash"] == hash && status != "pending";
        is_it.then_some((status, update["removed"] == true))
    });
    told.collect()
}

async fn a_wallet_is_told_how_its_transactions_go_on(transport: Transport) {
    let (node, folder) = (Node::start().await, TempDir::new().unwrap());
    let stages = "confirmations = 3\nfinality = 6";
    let mut running = server_with(&folder, &node.ws(), stages).await;
    let accounts = node.accounts().await;
    let channel = format!("wallet:{}", accounts[1].to_ascii_lowercase());
    let mut client = Client::connect(transport, &running).await;
    let mut heard = Heard::begin(&mut client, &channel).await;
    let hash = node.send(&accounts[0], &accounts[1], 5).await;
    heard.until(&mut client, &channel, &hash).await;
    node.mine(2).await;
    let told = heard
        .status(&mut client, &channel, &hash, "confirmed")
        .await;
    assert_eq!(told["data"]["direction"], "in", "{told}");
    // It goes on to its end across the server's.
    drop(client);
    running.kill().await;
    node.mine(1).await;
    let running = server_with(&folder, &node.http(), stages).await;
    let mut client = Client::connect(transport, &running).await;
    heard.resume(&mut client, &channel).await;
    // Six blocks on it.
    node.mine(3).await;
    heard
        .status(&mut client, &channel, &hash, "finalized")
        .await;
    let expected = [
        ("confirming", false),
        ("confirmed", false),
        ("finalized", false),
    ];
    assert_eq!(states(&heard, &hash), expected);
}

async fn what_a_reorg_undid_while_the_server_was_away_is_taken_back(transport: Transport) {
    let (node, folder) = (Node::start().await, TempDir::new().unwrap());
    node.mine(3).await;
    let stages = "confirmations = 3\nfinality = 64";
    let mut running = server_with(&folder, &node.ws(), stages).await;
    let accounts = node.accounts().await;
    let channel = format!("wallet:{}", accounts[1].to_ascii_lowercase());
    let mut client = Client::connect(transport, &running).await;
    let mut heard = Heard::begin(&mut client, &channel).await;
    let hash = node.send(&accounts[0], &accounts[1], 5).await;
    heard.until(&mut client, &channel, &hash).await;
    node.mine(2).await;
    heard
        .status(&mut client, &channel, &hash, "confirmed")
        .await;
    drop(client);
    running.kill().await;
    node.reorg(3).await;
    node.mine(1).await;
    let mut running = server_with(&folder, &node.ws(), stages).await;
    let mut client = Client::connect(transport, &running).await;
    heard.resume(&mut client, &channel).await;
    // All of it, the last first.
    let before: Vec<_> = heard.updates.clone();
    let told = before.iter().rev();
    for told in told.filter(|update| update["data"]["status"] != "pending") {
        let update = heard.read(&mut client, &channel).await;
        assert_eq!(update["removed"], true, "{update}");
        assert_eq!(update["data"], told["data"]);
    }
    // And nothing of it again after another end.
    running.kill().await;
    let running = server_with(&folder, &node.ws(), stages).await;
    let mut client = Client::connect(transport, &running).await;
    heard.resume(&mut client, &channel).await;
    let next = node.send(&accounts[0], &accounts[1], 6).await;
    heard.until(&mut client, &channel, &next).await;
    let expected = [
        ("confirming", false),
        ("confirmed", false),
        ("confirmed", true),
        ("confirming", true),
    ];
    assert_eq!(states(&heard, &hash), expected);
}

/// Sends from an account's first nonce, for this many Gwei.
async fn send_first(node: &Node, from: &str, to: &str, value: u64, gwei: u64) -> String {
    let fee = format!("{:#x}", gwei * 1_000_000_000);
    let asked = json!([{
        "from": from, "to": to, "value": format!("{value:#x}"), "nonce": "0x0",
        "gas": "0x5208", "maxFeePerGas": fee, "maxPriorityFeePerGas": fee,
    }]);
    let hash = node.call("eth_sendTransaction", asked).await;
    hash.as_str().unwrap().to_owned()
}

async fn what_becomes_of_a_pending_transaction_is_told(transport: Transport) {
    let (node, folder) = (
        Node::start_with(&["--no-mining"]).await,
        TempDir::new().unwrap(),
    );
    let rule = "drop_after_ms = 1000";
    let mut running = server_with(&folder, &node.ws(), rule).await;
    let accounts = node.accounts().await;
    let channel = format!("wallet:{}", accounts[1].to_ascii_lowercase());
    let mut client = Client::connect(transport, &running).await;
    let mut heard = Heard::begin(&mut client, &channel).await;
    running.log_line("a pool is heard").await;
    let mut sent = Vec::new();
    for from in [0, 2, 3, 4] {
        let hash = send_first(&node, &accounts[from], &accounts[1], 7, 5).await;
        heard.status(&mut client, &channel, &hash, "pending").await;
        sent.push(hash);
    }
    let fast = send_first(&node, &accounts[0], &accounts[1], 7, 10).await;
    let cancel = send_first(&node, &accounts[2], &accounts[2], 0, 10).await;
    node.call("anvil_dropTransaction", json!([sent[2]])).await;
    let told = heard
        .status(&mut client, &channel, &sent[2], "dropped")
        .await;
    assert_eq!(told["data"]["value"], "7", "{told}");
    // What is told of the others is told after a restart too.
    drop(client);
    running.kill().await;
    node.call("anvil_dropTransaction", json!([sent[3]])).await;
    node.mine(1).await;
    let running = server_with(&folder, &node.ws(), rule).await;
    let mut client = Client::connect(transport, &running).await;
    heard.resume(&mut client, &channel).await;
    heard
        .status(&mut client, &channel, &sent[3], "dropped")
        .await;
    for (place, end, by) in [(0, "replaced", &fast), (1, "cancelled", &cancel)] {
        let told = heard.of("transaction").find(|update| {
            update["data"]["hash"] == sent[place] && update["data"]["status"] == end
        });
        let told = told.unwrap_or_else(|| panic!("{end} in {:?}", heard.updates));
        assert_eq!(told["data"]["replacedBy"], *by, "{told}");
        assert_eq!(states(&heard, &sent[place]), [(end, false)]);
    }
}

#[tokio::test]
async fn a_transaction_that_fails_is_told_as_such() {
    let node = Node::start().await;
    let accounts = node.accounts().await;
    // PUSH0, PUSH0, REVERT.
    let contract = crate::lifecycle::deployed(&node, &accounts[0], "5f5ffd").await;
    let folder = TempDir::new().unwrap();
    let running = server_with(&folder, &node.ws(), "confirmations = 2\nfinality = 3").await;
    let channel = format!("wallet:{}", accounts[1].to_ascii_lowercase());
    let mut client = Client::connect(Transport::WebSocketJson, &running).await;
    let mut heard = Heard::begin(&mut client, &channel).await;
    let asked = json!([{"from": accounts[1], "to": contract, "gas": "0x186a0"}]);
    let hash = node.call("eth_sendTransaction", asked).await;
    let hash = hash.as_str().unwrap();
    heard.status(&mut client, &channel, hash, "failed").await;
    // It is neither confirmed nor final as if it had worked.
    node.mine(5).await;
    let next = node.send(&accounts[0], &accounts[1], 6).await;
    heard.until(&mut client, &channel, &next).await;
    assert_eq!(states(&heard, hash), [("failed", false)]);
}
