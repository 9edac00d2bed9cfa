//! How the feed of a wallet goes on: to the end of its transactions, back after reorgs, and
//! over what no node tells.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tidewire_tests::{Client, FaultyNode, Node, Server, Transport, faulty_node::Reply};

use crate::{
    blocks::wait_for_block,
    ledger::on_chain_with,
    wallets::{Heard, server_with, tie},
};

on_every_transport!(
    a_wallet_is_told_how_its_transactions_go_on,
    what_a_reorg_undid_while_the_server_was_away_is_taken_back,
    what_becomes_of_a_pending_transaction_is_told,
    a_balance_that_no_node_tells_is_a_gap_at_once,
);

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

async fn a_balance_that_no_node_tells_is_a_gap_at_once(transport: Transport) {
    let node = Node::start().await;
    let accounts = node.accounts().await;
    let wallet = accounts[1].to_ascii_lowercase();
    // A token that moves nothing to the wallet: PUSH32 the receiver, PUSH0 the sender, PUSH32
    // the event, PUSH1 32, PUSH0, LOG3.
    let transfer = "ddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef";
    let code = format!("7f{:0>64}5f7f{transfer}60205fa3", &wallet[2..]);
    let token = crate::lifecycle::deployed(&node, &accounts[0], &code).await;
    let script = |method: &str, _: &Value, truth: Value| match method {
        "eth_call" => Reply::Silence,
        _ => Reply::Response(truth),
    };
    let faulty = FaultyNode::in_front_of(&node, script).await;
    let rule = "call_timeout_ms = 200";
    let server = on_chain_with(Server::builder(), 31337, &[faulty.ws()], rule);
    let server = server.start().await;
    wait_for_block(&server, 31337).await;
    let channel = format!("wallet:{wallet}");
    let mut client = Client::connect(transport, &server).await;
    let heard = Heard::begin(&mut client, &channel).await;
    let asked = json!([{"from": accounts[0], "to": token, "gas": "0x186a0"}]);
    node.call("eth_sendTransaction", asked).await;
    // Nothing else is ever told there.
    let gap = client.next_on(&channel).await.expect("gap");
    assert_ne!(gap.data["epoch"], heard.epoch, "{}", gap.text);
    assert_eq!(gap.data["seq"], 0, "{}", gap.text);
    let resumed = client.resume(&channel, &heard.epoch, heard.seq).await;
    assert_eq!(resumed["recovered"], false, "{resumed}");
}

/// A thousand wallets that have no part in a block cost its node no call.
#[tokio::test]
async fn idle_wallets_cost_no_calls() {
    let (node, folder) = (Node::start().await, TempDir::new().unwrap());
    let reads = Arc::new(AtomicUsize::new(0));
    let counted = reads.clone();
    let faulty = FaultyNode::in_front_of(&node, move |method, _params, truth| {
        if ["eth_getBalance", "eth_call"].contains(&method) || method.contains("trace") {
            counted.fetch_add(1, Ordering::Relaxed);
        }
        Reply::Response(truth)
    });
    let faulty = faulty.await;
    let server = server_with(&folder, &faulty.ws(), "").await;
    let accounts = node.accounts().await;
    let channel = format!("wallet:{}", accounts[1].to_ascii_lowercase());
    let mut client = Client::connect(Transport::WebSocketJson, &server).await;
    let mut heard = Heard::begin(&mut client, &channel).await;
    let mut reads_of_a_block = Vec::new();
    for round in 0..4_u8 {
        if round == 2 {
            for wallet in 0..1_000_u32 {
                let user = format!("user-{}", wallet / 100);
                let address = format!("0x{:040x}", 0x0abc_0000 + wallet);
                let answer = tie(&server, "LinkWallet", &user, &address).await;
                assert_eq!(answer.status, 200, "{}", answer.body);
            }
        }
        let before = reads.load(Ordering::Relaxed);
        let hash = node.send(&accounts[0], &accounts[1], 5).await;
        heard.until(&mut client, &channel, &hash).await;
        reads_of_a_block.push(reads.load(Ordering::Relaxed) - before);
    }
    // The first block may ask what the node can do.
    assert!(reads_of_a_block[1] > 0, "{reads_of_a_block:?}");
    assert!(
        reads_of_a_block[2..]
            .iter()
            .all(|reads| *reads == reads_of_a_block[1]),
        "{reads_of_a_block:?}"
    );
}
