//! Wallet updates: transactions until they are final, retractions after reorgs, and gaps where no
//! node answers.

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
    wallets::{WalletLog, link_call, server_with},
};

on_every_transport!(
    a_wallet_receives_confirmed_and_final_across_a_restart,
    a_reorg_during_an_outage_retracts_wallet_updates,
    a_wallet_receives_the_outcome_of_a_pending_transaction,
    a_balance_that_no_node_returns_is_a_gap,
);

/// The states of a transaction in a wallet's updates, without `pending`, which a mempool may miss.
/// Each has whether the update was a retraction.
fn states<'a>(log: &'a WalletLog, hash: &'a str) -> Vec<(&'a str, bool)> {
    let updates = log.of("transaction").filter_map(move |update| {
        let status = update["data"]["status"].as_str()?;
        let is_it = update["data"]["hash"] == hash && status != "pending";
        is_it.then_some((status, update["removed"] == true))
    });
    updates.collect()
}

async fn a_wallet_receives_confirmed_and_final_across_a_restart(transport: Transport) {
    let (node, folder) = (Node::start().await, TempDir::new().unwrap());
    let stages = "confirmations = 3\nfinality = 6";
    let mut running = server_with(&folder, &node.ws(), stages).await;
    let accounts = node.accounts().await;
    let channel = format!("wallet:{}", accounts[1].to_ascii_lowercase());
    let mut client = Client::connect(transport, &running).await;
    let mut log = WalletLog::begin(&mut client, &channel).await;
    let hash = node.send(&accounts[0], &accounts[1], 5).await;
    log.until(&mut client, &channel, &hash).await;
    node.mine(2).await;
    let update = log.status(&mut client, &channel, &hash, "confirmed").await;
    assert_eq!(update["data"]["direction"], "in", "{update}");
    // The server is killed before the transaction is final.
    drop(client);
    running.kill().await;
    node.mine(1).await;
    let running = server_with(&folder, &node.http(), stages).await;
    let mut client = Client::connect(transport, &running).await;
    log.resume(&mut client, &channel).await;
    // Its block and five more make it final.
    node.mine(3).await;
    log.status(&mut client, &channel, &hash, "finalized").await;
    let expected = [
        ("confirming", false),
        ("confirmed", false),
        ("finalized", false),
    ];
    assert_eq!(states(&log, &hash), expected);
}

async fn a_reorg_during_an_outage_retracts_wallet_updates(transport: Transport) {
    let (node, folder) = (Node::start().await, TempDir::new().unwrap());
    node.mine(3).await;
    let stages = "confirmations = 3\nfinality = 64";
    let mut running = server_with(&folder, &node.ws(), stages).await;
    let accounts = node.accounts().await;
    let channel = format!("wallet:{}", accounts[1].to_ascii_lowercase());
    let mut client = Client::connect(transport, &running).await;
    let mut log = WalletLog::begin(&mut client, &channel).await;
    let hash = node.send(&accounts[0], &accounts[1], 5).await;
    log.until(&mut client, &channel, &hash).await;
    node.mine(2).await;
    log.status(&mut client, &channel, &hash, "confirmed").await;
    drop(client);
    running.kill().await;
    node.reorg(3).await;
    node.mine(1).await;
    let mut running = server_with(&folder, &node.ws(), stages).await;
    let mut client = Client::connect(transport, &running).await;
    log.resume(&mut client, &channel).await;
    // Every update is retracted, the last first.
    let before: Vec<_> = log.updates.clone();
    let sent = before.iter().rev();
    for sent in sent.filter(|update| update["data"]["status"] != "pending") {
        let update = log.read(&mut client, &channel).await;
        assert_eq!(update["removed"], true, "{update}");
        assert_eq!(update["data"], sent["data"]);
    }
    // After another kill nothing is retracted again.
    running.kill().await;
    let running = server_with(&folder, &node.ws(), stages).await;
    let mut client = Client::connect(transport, &running).await;
    log.resume(&mut client, &channel).await;
    let next = node.send(&accounts[0], &accounts[1], 6).await;
    log.until(&mut client, &channel, &next).await;
    let expected = [
        ("confirming", false),
        ("confirmed", false),
        ("confirmed", true),
        ("confirming", true),
    ];
    assert_eq!(states(&log, &hash), expected);
}

/// Sends with the first nonce of an account, at this gas price in Gwei.
async fn send_first(node: &Node, from: &str, to: &str, value: u64, gwei: u64) -> String {
    let fee = format!("{:#x}", gwei * 1_000_000_000);
    let request = json!([{
        "from": from, "to": to, "value": format!("{value:#x}"), "nonce": "0x0",
        "gas": "0x5208", "maxFeePerGas": fee, "maxPriorityFeePerGas": fee,
    }]);
    let hash = node.call("eth_sendTransaction", request).await;
    hash.as_str().unwrap().to_owned()
}

async fn a_wallet_receives_the_outcome_of_a_pending_transaction(transport: Transport) {
    let (node, folder) = (
        Node::start_with(&["--no-mining"]).await,
        TempDir::new().unwrap(),
    );
    let rule = "drop_after_ms = 1000";
    let mut running = server_with(&folder, &node.ws(), rule).await;
    let accounts = node.accounts().await;
    let channel = format!("wallet:{}", accounts[1].to_ascii_lowercase());
    let mut client = Client::connect(transport, &running).await;
    let mut log = WalletLog::begin(&mut client, &channel).await;
    running.log_line("the mempool is read").await;
    let mut sent = Vec::new();
    for from in [0, 2, 3, 4] {
        let hash = send_first(&node, &accounts[from], &accounts[1], 7, 5).await;
        log.status(&mut client, &channel, &hash, "pending").await;
        sent.push(hash);
    }
    let fast = send_first(&node, &accounts[0], &accounts[1], 7, 10).await;
    let cancel = send_first(&node, &accounts[2], &accounts[2], 0, 10).await;
    node.call("anvil_dropTransaction", json!([sent[2]])).await;
    let update = log.status(&mut client, &channel, &sent[2], "dropped").await;
    assert_eq!(update["data"]["value"], "7", "{update}");
    // The outcome of the others is sent after a restart.
    drop(client);
    running.kill().await;
    node.call("anvil_dropTransaction", json!([sent[3]])).await;
    node.mine(1).await;
    let running = server_with(&folder, &node.ws(), rule).await;
    let mut client = Client::connect(transport, &running).await;
    log.resume(&mut client, &channel).await;
    log.status(&mut client, &channel, &sent[3], "dropped").await;
    for (index, end, by) in [(0, "replaced", &fast), (1, "cancelled", &cancel)] {
        let update = log.of("transaction").find(|update| {
            update["data"]["hash"] == sent[index] && update["data"]["status"] == end
        });
        let update = update.unwrap_or_else(|| panic!("{end} in {:?}", log.updates));
        assert_eq!(update["data"]["replacedBy"], *by, "{update}");
        assert_eq!(states(&log, &sent[index]), [(end, false)]);
    }
}

#[tokio::test]
async fn a_wallet_receives_a_failed_transaction_as_failed() {
    let node = Node::start().await;
    let accounts = node.accounts().await;
    // PUSH0, PUSH0, REVERT.
    let contract = crate::transaction_outcomes::deployed(&node, &accounts[0], "5f5ffd").await;
    let folder = TempDir::new().unwrap();
    let running = server_with(&folder, &node.ws(), "confirmations = 2\nfinality = 3").await;
    let channel = format!("wallet:{}", accounts[1].to_ascii_lowercase());
    let mut client = Client::connect(Transport::WebSocketJson, &running).await;
    let mut log = WalletLog::begin(&mut client, &channel).await;
    let request = json!([{"from": accounts[1], "to": contract, "gas": "0x186a0"}]);
    let hash = node.call("eth_sendTransaction", request).await;
    let hash = hash.as_str().unwrap();
    log.status(&mut client, &channel, hash, "failed").await;
    // A failed transaction is neither confirmed nor final later.
    node.mine(5).await;
    let next = node.send(&accounts[0], &accounts[1], 6).await;
    log.until(&mut client, &channel, &next).await;
    assert_eq!(states(&log, hash), [("failed", false)]);
}

async fn a_balance_that_no_node_returns_is_a_gap(transport: Transport) {
    let node = Node::start().await;
    let accounts = node.accounts().await;
    let wallet = accounts[1].to_ascii_lowercase();
    // A token that logs a transfer of nothing to the wallet: PUSH32 the receiver, PUSH0 the
    // sender, PUSH32 the event, PUSH1 32, PUSH0, LOG3.
    let transfer = "ddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef";
    let code = format!("7f{:0>64}5f7f{transfer}60205fa3", &wallet[2..]);
    let token = crate::transaction_outcomes::deployed(&node, &accounts[0], &code).await;
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
    let log = WalletLog::begin(&mut client, &channel).await;
    let request = json!([{"from": accounts[0], "to": token, "gas": "0x186a0"}]);
    node.call("eth_sendTransaction", request).await;
    // Nothing was published there before.
    let gap = client.next_on(&channel).await.expect("gap");
    assert_ne!(gap.data["epoch"], log.epoch, "{}", gap.text);
    assert_eq!(gap.data["seq"], 0, "{}", gap.text);
    let resumed = client.resume(&channel, &log.epoch, log.seq).await;
    assert_eq!(resumed["recovered"], false, "{resumed}");
}

/// A thousand wallets without activity in a block cost no call to a node.
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
    let mut log = WalletLog::begin(&mut client, &channel).await;
    let mut reads_of_a_block = Vec::new();
    for round in 0..4_u8 {
        if round == 2 {
            for wallet in 0..1_000_u32 {
                let user = format!("user-{}", wallet / 100);
                let address = format!("0x{:040x}", 0x0abc_0000 + wallet);
                let answer = link_call(&server, "LinkWallet", &user, &address).await;
                assert_eq!(answer.status, 200, "{}", answer.body);
            }
        }
        let before = reads.load(Ordering::Relaxed);
        let hash = node.send(&accounts[0], &accounts[1], 5).await;
        log.until(&mut client, &channel, &hash).await;
        reads_of_a_block.push(reads.load(Ordering::Relaxed) - before);
    }
    // The first block may try which calls the node supports.
    assert!(reads_of_a_block[1] > 0, "{reads_of_a_block:?}");
    assert!(
        reads_of_a_block[2..]
            .iter()
            .all(|reads| *reads == reads_of_a_block[1]),
        "{reads_of_a_block:?}"
    );
}
