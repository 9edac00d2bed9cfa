//! Notifications of users about their wallets and about transactions that a back end watches.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use tempfile::TempDir;
use tidewire_stream::{Clock as _, SystemClock};
use tidewire_tests::{Client, Node, Server, Token, Transport, eventually};

use crate::{
    transaction_outcomes::deployed,
    wallets::{link_call, server_with},
};

/// Three blocks confirm.
const RULES: &str = "confirmations = 3\nfinality = 20\ncoin = \"ETH\"";

/// A node whose chain begins now. That of other tests began years ago, too early to notify anybody.
async fn node_of_today(arguments: &[&str]) -> Node {
    let seconds = (SystemClock.now_ms() / 1_000).to_string();
    let mut all = vec!["--timestamp", &seconds];
    all.extend(arguments);
    Node::start_with(&all).await
}

/// The newest notifications of a user, newest first. The user is not connected.
async fn inbox(server: &Server, user: &str) -> Vec<Value> {
    let request = json!({"user": user, "limit": 500});
    let method = "NotifyService/ListNotifications";
    let listed = server.call(method, Some(&Token::service()), &request).await;
    assert_eq!(listed.status, 200, "{}", listed.body);
    listed.json()["items"].as_array().unwrap().clone()
}

/// Waits until a user's newest notification reports this state, and returns the inbox.
async fn inbox_until(server: &Server, user: &str, state: &str) -> Vec<Value> {
    eventually(format!("{user} learns of {state}"), async || {
        let items = inbox(server, user).await;
        let newest = items.first()?;
        (newest["data"]["state"] == state).then_some(items.clone())
    })
    .await
}

async fn link(server: &Server, user: &str, address: &str) {
    let answer = link_call(server, "LinkWallet", user, address).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
}

/// Watches a transaction for a user, as a back end.
async fn watch_for(server: &Server, user: &str, hash: &str) {
    let request = json!({"chain": 31337, "txHash": hash, "user": user});
    let method = "WatchService/WatchTransaction";
    let answer = server.call(method, Some(&Token::service()), &request).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
}

/// Waits until the server has read the node's newest block.
async fn caught_up(server: &Server, node: &Node) {
    let newest = node.height().await;
    eventually(format!("block {newest}"), async || {
        let request = json!({"chain": 31337});
        let method = "WatchService/GetLatestBlock";
        let block = server.call(method, None, &request).await;
        (block.json()["number"].as_u64()? >= newest).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_offline_user_finds_a_payment_in_the_inbox_once() {
    let (node, folder) = (node_of_today(&[]).await, TempDir::new().unwrap());
    let mut server = server_with(&folder, &node.ws(), RULES).await;
    let accounts = node.accounts().await;
    link(&server, "ada", &accounts[1]).await;
    link(&server, "bob", &accounts[0]).await;
    let hash = node
        .send(&accounts[0], &accounts[1], 1_500_000_000_000_000_000)
        .await;
    node.mine(1).await;
    caught_up(&server, &node).await;
    assert_eq!(inbox(&server, "ada").await, Vec::<Value>::new());
    node.mine(1).await;
    let items = inbox_until(&server, "ada", "confirmed").await;
    let [item] = &items[..] else {
        panic!("{items:?}");
    };
    assert_eq!(item["type"], "payment_received", "{item}");
    assert_eq!(item["title"], "Payment received: 1.5 ETH", "{item}");
    let data = &item["data"];
    let expected = json!({
        "chain": 31337, "hash": hash, "state": "confirmed", "value": "1500000000000000000",
        "address": accounts[1].to_ascii_lowercase(), "from": accounts[0].to_ascii_lowercase(),
        "to": accounts[1].to_ascii_lowercase(), "blockNumber": 1,
        "blockHash": node.block(1).await["hash"],
    });
    assert_eq!(*data, expected);
    // The sender's user learns that the transaction is confirmed.
    let items = inbox_until(&server, "bob", "confirmed").await;
    assert_eq!(items.len(), 1, "{items:?}");
    assert_eq!(items[0]["type"], "transaction_confirmed");
    // Neither a restart nor further blocks repeat it.
    server.kill().await;
    node.mine(3).await;
    let server = server_with(&folder, &node.http(), RULES).await;
    node.mine(20).await;
    caught_up(&server, &node).await;
    assert_eq!(inbox(&server, "ada").await.len(), 1);
    assert_eq!(inbox(&server, "bob").await.len(), 1);
}

#[tokio::test]
async fn blocks_of_years_ago_notify_nobody_but_watchers() {
    let (node, folder) = (Node::start().await, TempDir::new().unwrap());
    let server = server_with(&folder, &node.ws(), RULES).await;
    let accounts = node.accounts().await;
    link(&server, "ada", &accounts[1]).await;
    let hash = node.send(&accounts[0], &accounts[1], 5).await;
    watch_for(&server, "bob", &hash).await;
    node.mine(3).await;
    inbox_until(&server, "bob", "confirmed").await;
    assert_eq!(inbox(&server, "ada").await, Vec::<Value>::new());
}

#[tokio::test]
async fn a_failed_transaction_notifies_its_sender_alone() {
    let (node, folder) = (node_of_today(&[]).await, TempDir::new().unwrap());
    let accounts = node.accounts().await;
    // PUSH0, PUSH0, REVERT.
    let contract = deployed(&node, &accounts[0], "5f5ffd").await;
    let server = server_with(&folder, &node.ws(), RULES).await;
    link(&server, "ada", &accounts[1]).await;
    link(&server, "bob", &contract).await;
    let request = json!([{"from": accounts[1], "to": contract, "gas": "0x186a0", "value": "0x5"}]);
    let hash = node.call("eth_sendTransaction", request).await;
    watch_for(&server, "eve", hash.as_str().unwrap()).await;
    node.mine(2).await;
    let items = inbox_until(&server, "ada", "failed").await;
    assert_eq!(items.len(), 1, "{items:?}");
    assert_eq!(items[0]["type"], "transaction_failed");
    assert_eq!(items[0]["data"]["hash"], hash);
    let items = inbox_until(&server, "eve", "failed").await;
    assert!(items[0]["data"]["reason"].is_string(), "{items:?}");
    assert_eq!(inbox(&server, "bob").await, Vec::<Value>::new());
}

#[tokio::test]
async fn a_reorg_takes_a_payment_back_in_the_same_place_of_the_inbox() {
    let (node, folder) = (node_of_today(&[]).await, TempDir::new().unwrap());
    let mut server = server_with(&folder, &node.ws(), RULES).await;
    let accounts = node.accounts().await;
    link(&server, "ada", &accounts[1]).await;
    let token = Token::of("ada").sign();
    let mut client = Client::connect_as(Transport::WebSocketJson, &server, Some(&token)).await;
    node.mine(2).await;
    let hash = node.send(&accounts[0], &accounts[1], 5).await;
    node.mine(2).await;
    let items = inbox_until(&server, "ada", "confirmed").await;
    assert_eq!(items.len(), 1, "{items:?}");
    let first = client.next_of("notification").await;
    assert_eq!(first.data["data"]["state"], "confirmed", "{}", first.text);
    // The server is killed, and the reorg happens meanwhile.
    server.kill().await;
    node.reorg(4).await;
    node.mine(1).await;
    let server = server_with(&folder, &node.ws(), RULES).await;
    let items = inbox_until(&server, "ada", "reorged").await;
    assert_eq!(items.len(), 1, "{items:?}");
    assert_eq!(items[0]["type"], "transaction_failed");
    assert_eq!(items[0]["data"]["hash"], hash);
    let title = items[0]["title"].as_str().unwrap();
    assert!(title.starts_with("Payment taken back: 0.0000"), "{title}");
    // The same payment again has another hash here, so it has a place of its own.
    node.send(&accounts[0], &accounts[1], 6).await;
    node.mine(2).await;
    assert_eq!(inbox_until(&server, "ada", "confirmed").await.len(), 2);
}

/// Kills the server at moments between the blocks and the inbox.
///
/// A repeated notification would replace the first one of its transaction, under another id.
#[tokio::test]
async fn kills_between_block_and_inbox_lose_and_repeat_nothing() {
    let (node, folder) = (node_of_today(&[]).await, TempDir::new().unwrap());
    let rules = "confirmations = 1\nfinality = 20\ncoin = \"ETH\"";
    let mut server = server_with(&folder, &node.ws(), rules).await;
    let accounts = node.accounts().await;
    for user in ["ada", "bob"] {
        link(&server, user, &accounts[1]).await;
    }
    let mut sent = BTreeSet::new();
    let mut seen: BTreeMap<(&str, String), Value> = BTreeMap::new();
    let mut check = |user: &'static str, items: &[Value]| {
        for item in items {
            let hash = item["data"]["hash"].as_str().unwrap().to_owned();
            let id = seen
                .entry((user, hash))
                .or_insert_with(|| item["id"].clone());
            assert_eq!(*id, item["id"], "{item}");
        }
    };
    for round in 0..25 {
        let goal = sent.len() + round % 8;
        for _ in 0..8 {
            sent.insert(node.send(&accounts[0], &accounts[1], 7).await);
        }
        // Some of the notifications are there, and others are on their way.
        let items = eventually("some of the notifications", async || {
            let items = inbox(&server, "ada").await;
            (items.len() >= goal).then_some(items)
        })
        .await;
        check("ada", &items);
        server.kill().await;
        server = server_with(&folder, &node.ws(), rules).await;
    }
    caught_up(&server, &node).await;
    for user in ["ada", "bob"] {
        let items = eventually("all notifications", async || {
            let items = inbox(&server, user).await;
            (items.len() >= sent.len()).then_some(items)
        })
        .await;
        check(user, &items);
        let hashes = items.iter().map(|item| item["data"]["hash"].as_str());
        let hashes: BTreeSet<_> = hashes.map(|hash| hash.unwrap().to_owned()).collect();
        assert_eq!((hashes, items.len()), (sent.clone(), sent.len()));
    }
    // Everything before this payment is sent.
    let last = node.send(&accounts[0], &accounts[1], 7).await;
    for user in ["ada", "bob"] {
        let items = eventually("the last notification", async || {
            let items = inbox(&server, user).await;
            (items.first()?["data"]["hash"] == last).then_some(items)
        })
        .await;
        check(user, &items);
        assert_eq!(items.len(), sent.len() + 1);
    }
}

#[tokio::test]
async fn a_stored_watch_survives_a_restart_and_notifies_its_users() {
    let node = node_of_today(&["--no-mining"]).await;
    let folder = TempDir::new().unwrap();
    let mut server = server_with(&folder, &node.ws(), RULES).await;
    let accounts = node.accounts().await;
    let hash = node.send(&accounts[0], &accounts[1], 5).await;
    for user in ["ada", "bob"] {
        watch_for(&server, user, &hash).await;
    }
    server.kill().await;
    node.mine(1).await;
    let mut server = server_with(&folder, &node.ws(), RULES).await;
    node.mine(1).await;
    caught_up(&server, &node).await;
    assert_eq!(inbox(&server, "ada").await, Vec::<Value>::new());
    server.kill().await;
    node.mine(1).await;
    let server = server_with(&folder, &node.ws(), RULES).await;
    for user in ["ada", "bob"] {
        let items = inbox_until(&server, user, "confirmed").await;
        assert_eq!(items[0]["type"], "transaction_confirmed");
        assert_eq!(items[0]["data"]["blockNumber"], 1);
    }
    // A back end that repeats its call, and the final state, notify nobody again.
    watch_for(&server, "ada", &hash).await;
    node.mine(30).await;
    caught_up(&server, &node).await;
    watch_for(&server, "ada", &hash).await;
    caught_up(&server, &node).await;
    assert_eq!(inbox(&server, "ada").await.len(), 1);
}

#[tokio::test]
async fn a_watched_transaction_that_is_replaced_notifies_its_user() {
    let node = node_of_today(&["--no-mining"]).await;
    let folder = TempDir::new().unwrap();
    let server = server_with(&folder, &node.ws(), RULES).await;
    let accounts = node.accounts().await;
    let send = async |gwei: u64| {
        let fee = format!("{:#x}", gwei * 1_000_000_000);
        let request = json!([{
            "from": accounts[0], "to": accounts[1], "value": "0x5", "nonce": "0x0",
            "maxFeePerGas": fee, "maxPriorityFeePerGas": fee,
        }]);
        let hash = node.call("eth_sendTransaction", request).await;
        hash.as_str().unwrap().to_owned()
    };
    let slow = send(5).await;
    watch_for(&server, "ada", &slow).await;
    let fast = send(10).await;
    node.mine(3).await;
    let items = inbox_until(&server, "ada", "replaced").await;
    assert_eq!(items[0]["type"], "transaction_failed");
    assert_eq!(items[0]["data"]["replacedBy"], fast, "{items:?}");
}

#[tokio::test]
async fn payments_of_tokens_replace_each_other_unless_they_are_listed() {
    let (node, folder) = (node_of_today(&[]).await, TempDir::new().unwrap());
    let accounts = node.accounts().await;
    let wallet = accounts[1].to_ascii_lowercase();
    // A token that logs a transfer of 5 to the wallet, and returns 5: PUSH1 5, PUSH0, MSTORE,
    // PUSH32 the receiver, PUSH0 the sender, PUSH32 the event, PUSH1 32, PUSH0, LOG3, PUSH1 32,
    // PUSH0, RETURN.
    let transfer = "ddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef";
    let code = format!(
        "60055f527f{:0>64}5f7f{transfer}60205fa360205ff3",
        &wallet[2..]
    );
    let unlisted = deployed(&node, &accounts[0], &code).await;
    let listed = deployed(&node, &accounts[0], &code).await;
    let rules = format!("{RULES}\ntokens = [\"{listed}\"]");
    let server = server_with(&folder, &node.ws(), &rules).await;
    link(&server, "ada", &wallet).await;
    for token in [&unlisted, &listed, &unlisted, &listed] {
        let request = json!([{"from": accounts[0], "to": token, "gas": "0x186a0"}]);
        node.call("eth_sendTransaction", request).await;
    }
    node.mine(2).await;
    let items = eventually("three notifications", async || {
        let items = inbox(&server, "ada").await;
        (items.len() >= 3).then_some(items)
    })
    .await;
    caught_up(&server, &node).await;
    let of = |token: &str| {
        let items = items.iter();
        items.filter(|item| item["data"]["token"] == token).count()
    };
    assert_eq!((of(&unlisted), of(&listed)), (1, 2), "{items:?}");
    assert_eq!(items[0]["data"]["decimals"], 5, "{items:?}");
    let title = items[0]["title"].as_str().unwrap();
    assert!(title.starts_with("Payment received: 0.00005 "), "{title}");
}

#[tokio::test]
async fn an_unlinked_wallet_and_a_server_without_the_switch_notify_nobody() {
    let (node, folder) = (node_of_today(&[]).await, TempDir::new().unwrap());
    let mut server = server_with(&folder, &node.ws(), RULES).await;
    let accounts = node.accounts().await;
    for user in ["ada", "bob"] {
        link(&server, user, &accounts[1]).await;
    }
    node.send(&accounts[0], &accounts[1], 5).await;
    caught_up(&server, &node).await;
    let answer = link_call(&server, "UnlinkWallet", "ada", &accounts[1]).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    node.mine(2).await;
    inbox_until(&server, "bob", "confirmed").await;
    assert_eq!(inbox(&server, "ada").await, Vec::<Value>::new());
    server.kill().await;
    let path = format!("path = {:?}", folder.path().display().to_string());
    let off = Server::builder()
        .set("store", &path)
        .set("notifications", "on_chain = false");
    let endpoints = [node.ws()];
    let off = crate::ledger::on_chain_with(off, 31337, &endpoints, RULES);
    let server = off.start().await;
    node.send(&accounts[0], &accounts[1], 5).await;
    node.mine(3).await;
    caught_up(&server, &node).await;
    assert_eq!(inbox(&server, "bob").await.len(), 1);
}

#[tokio::test]
async fn a_watch_for_a_malformed_user_is_refused() {
    let (node, folder) = (node_of_today(&[]).await, TempDir::new().unwrap());
    let server = server_with(&folder, &node.ws(), RULES).await;
    let hash = format!("0x{}", "ab".repeat(32));
    for user in ["", "a b", "a,b"] {
        let request = json!({"chain": 31337, "txHash": hash, "user": user});
        let method = "WatchService/WatchTransaction";
        let answer = server.call(method, Some(&Token::service()), &request).await;
        assert_eq!(answer.status, 400, "{}", answer.body);
        assert!(answer.body.contains("`user`"), "{}", answer.body);
    }
}
