//! Malformed logs: they are published undecoded, and the chain continues.

use serde_json::{Value, json};
use tidewire_tests::{Client, Node, Server, Transport, within};

use crate::{ledger::Ledger, watching::server_on};

const CHANNEL: &str = "blocks:31337";
const TRANSFER: &str = "ddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef";
const BATCH: &str = "4a39dc06d4c0dbc64b70af90fd698a233a518aa5d07e595d983b8c0526c8f7fb";

/// Deploys a contract with this code, of 255 bytes at most.
pub(crate) async fn deploy(node: &Node, account: &str, code: &str) -> String {
    let length = code.len() / 2;
    // The constructor returns the code after its own twelve bytes.
    let data = format!("0x60{length:02x}600c60003960{length:02x}6000f3{code}");
    let request = json!([{"from": account, "data": data}]);
    let hash = node.call("eth_sendTransaction", request).await;
    // The node mines it a moment after it was sent.
    let mined = async {
        loop {
            let receipt = node.call("eth_getTransactionReceipt", json!([hash])).await;
            if let Some(contract) = receipt["contractAddress"].as_str() {
                return contract.to_owned();
            }
        }
    };
    within("a contract", mined).await
}

/// The code of a contract that logs its call data: the first words as topics, the rest as data.
fn log(topics: usize) -> String {
    let mut code = String::new();
    for topic in (0..topics).rev() {
        code += &format!("61{:04x}35", topic * 32);
    }
    let bytes = topics * 32;
    code + &format!("61{bytes:04x}36038061{bytes:04x}5f375fa{topics}00")
}

fn word(number: u64) -> String {
    format!("{number:064x}")
}

/// Calls a contract with these words, and returns the log that is published.
async fn call_and_read(
    client: &mut Client,
    channel: &str,
    node: &Node,
    (from, contract): (&str, &str),
    words: &[&str],
) -> Value {
    let data = format!("0x{}", words.concat());
    let request = json!([{"from": from, "to": contract, "data": data, "gas": "0x186a0"}]);
    let hash = node.call("eth_sendTransaction", request).await;
    let log = client.next_on(channel).await.expect("event_log").data;
    assert_eq!(log["txHash"], hash, "{log}");
    log
}

/// A client that follows a contract's events with these signatures, and their channel.
async fn watching(server: &Server, contract: &str, abi: &[&str]) -> (Client, String) {
    let mut client = Client::connect(Transport::WebSocketJson, server).await;
    let watch = json!({"chain": 31337, "events": {"addresses": [contract], "abi": abi}});
    let reply = client.request("watch", watch).await.expect("watching");
    let channel = reply.data["channel"].as_str().unwrap().to_owned();
    (client, channel)
}

#[tokio::test]
async fn a_log_with_other_indexed_fields_is_not_decoded() {
    let node = Node::start().await;
    let accounts = node.accounts().await;
    let server = server_on(Server::builder(), node.ws()).await;
    let to = format!("{:0>64}", accounts[1].trim_start_matches("0x"));
    let (zero, id) = (word(0), word(7));
    let indexed = "event Transfer(address indexed from, address indexed to, uint256 indexed id)";
    for (topics, words) in [
        // The id in the data, as in some old contracts; everything in the data; no id.
        (3, vec![TRANSFER, &zero, &to, &id]),
        (1, vec![TRANSFER, &zero, &to, &id]),
        (3, vec![TRANSFER, &zero, &to]),
    ] {
        let contract = deploy(&node, &accounts[0], &log(topics)).await;
        let (mut client, channel) = watching(&server, &contract, &[indexed]).await;
        let parties = (accounts[0].as_str(), contract.as_str());
        let log = call_and_read(&mut client, &channel, &node, parties, &words).await;
        assert_eq!(log["topics"].as_array().unwrap().len(), topics);
        assert_eq!(
            (&log["event"], &log["args"]),
            (&Value::Null, &Value::Null),
            "{log}"
        );
        let data = format!("0x{}", words[topics..].concat());
        assert_eq!(log["data"], data);
    }
}

#[tokio::test]
async fn numbers_above_128_bits_are_published_in_full() {
    let node = Node::start().await;
    let accounts = node.accounts().await;
    let server = server_on(Server::builder(), node.ws()).await;
    let contract = deploy(&node, &accounts[0], &log(4)).await;
    let indexed = "event Transfer(address indexed from, address indexed to, uint256 indexed id)";
    let (mut client, channel) = watching(&server, &contract, &[indexed]).await;
    let wallet = format!("wallet:{}", accounts[1].to_ascii_lowercase());
    client.subscribe(&wallet).await;
    let to = format!("{:0>64}", accounts[1].trim_start_matches("0x"));
    let (zero, most) = (word(0), "f".repeat(64));
    let parties = (accounts[0].as_str(), contract.as_str());
    let words = [TRANSFER, &zero, &to, &most];
    let log = call_and_read(&mut client, &channel, &node, parties, &words).await;
    let id = "115792089237316195423570985008687907853269984665640564039457584007913129639935";
    assert_eq!(log["args"]["id"], id, "{log}");
    let update = client.next_on(&wallet).await.expect("wallet_update").data;
    assert_eq!(update["data"]["tokenId"], id, "{update}");
}

#[tokio::test]
async fn malformed_batches_are_published_undecoded() {
    let node = Node::start().await;
    let accounts = node.accounts().await;
    let server = server_on(Server::builder(), node.ws()).await;
    let contract = deploy(&node, &accounts[0], &log(4)).await;
    let batch = "event TransferBatch(address indexed operator, address indexed from, address indexed to, uint256[] ids, uint256[] values)";
    let (mut client, channel) = watching(&server, &contract, &[batch]).await;
    let wallet = format!("wallet:{}", accounts[1].to_ascii_lowercase());
    client.subscribe(&wallet).await;
    client.subscribe(CHANNEL).await;
    let to = format!("{:0>64}", accounts[1].trim_start_matches("0x"));
    let (zero, most) = (word(0), "f".repeat(64));
    let parties = (accounts[0].as_str(), contract.as_str());
    let head = [BATCH, &zero, &zero, &to];
    // Two empty lists are decoded.
    let (first, second) = (word(64), word(96));
    let words = [&head[..], &[&first, &second, &zero, &zero]].concat();
    let log = call_and_read(&mut client, &channel, &node, parties, &words).await;
    let empty = (&json!([]), &json!([]));
    assert_eq!(
        (&log["args"]["ids"], &log["args"]["values"]),
        empty,
        "{log}"
    );
    // Lists longer than the data, lists that begin outside of it, and no lists.
    let long = [first.as_str(), &second, &most, &zero];
    let nowhere = [most.as_str(), &most, &zero, &zero];
    for data in [&long[..], &nowhere, &[]] {
        let words = [&head[..], data].concat();
        let log = call_and_read(&mut client, &channel, &node, parties, &words).await;
        assert_eq!(log["args"], Value::Null, "{log}");
        assert_eq!(log["data"], format!("0x{}", data.concat()));
    }
    // With more ids than amounts the lists are decoded, but no wallet receives a transfer.
    let (one, third, seven, nine) = (word(1), word(128), word(7), word(9));
    let words = [&head[..], &[&first, &third, &one, &one, &zero]].concat();
    let log = call_and_read(&mut client, &channel, &node, parties, &words).await;
    assert_eq!(log["args"]["ids"], json!(["1"]), "{log}");
    // A well-formed batch is the first that reaches the wallet.
    let words = [&head[..], &[&first, &third, &one, &seven, &one, &nine]].concat();
    call_and_read(&mut client, &channel, &node, parties, &words).await;
    let update = client.next_on(&wallet).await.expect("wallet_update").data;
    let data = &update["data"];
    let found = (&data["tokenId"], &data["amount"]);
    assert_eq!(found, (&json!("7"), &json!("9")), "{update}");
    let mut ledger = Ledger::default();
    ledger.follow(&mut client, &node, CHANNEL).await;
    ledger.check(&node).await;
}
