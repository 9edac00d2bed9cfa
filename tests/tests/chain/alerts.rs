//! Alerts on chains: gas of new blocks, states of transactions, and fires that a reorg takes back.

use serde_json::{Value, json};
use tidewire_tests::{Client, Message, Node, Server, Token, Transport};

use crate::{
    blocks::wait_for_block,
    watching::{server_on, server_with},
};

async fn connect(server: &Server) -> Client {
    let token = Token::of("ada").sign();
    Client::connect_as(Transport::WebSocketJson, server, Some(&token)).await
}

async fn register(client: &mut Client, condition: Value) -> String {
    let rule = json!({"condition": condition, "repeat": "recurring"});
    let registered = client.request("alert_register", rule).await;
    let registered = registered.expect("alert_registered").data;
    registered["id"].as_str().unwrap().to_owned()
}

/// The next push of a type to the user.
async fn push_of(client: &mut Client, kind: &str) -> Message {
    loop {
        let pushed = client.next_on("user:ada").await;
        if pushed.kind == kind {
            return pushed;
        }
    }
}

#[tokio::test]
async fn a_transaction_fires_its_rule_and_a_reorg_takes_the_fire_back() {
    let node = Node::start_with(&["--no-mining"]).await;
    let server = server_on(Server::builder(), node.ws()).await;
    let accounts = node.accounts().await;
    let mut ada = connect(&server).await;
    let hash = node.send(&accounts[0], &accounts[1], 5).await;
    let condition = json!({"kind": "transaction_state", "chain": 31337, "txHash": hash.to_uppercase().replace("0X", "0x"), "state": "confirming"});
    let id = register(&mut ada, condition).await;
    node.mine(1).await;
    let alert = push_of(&mut ada, "alert").await.data;
    assert_eq!(
        (&alert["alertId"], &alert["value"]),
        (&json!(id), &Value::Null)
    );
    assert_eq!(alert["rule"]["condition"]["txHash"], hash);
    let notification = push_of(&mut ada, "notification").await.data;
    assert_eq!(notification["type"], "transaction_confirmed");
    assert!(notification["body"].as_str().unwrap().contains(&hash));
    node.reorg(1).await;
    let back = push_of(&mut ada, "alert").await.data;
    assert_eq!(
        (&back["retracted"], &back["id"]),
        (&json!(true), &alert["id"])
    );
    let replaced = push_of(&mut ada, "notification").await.data;
    assert!(
        replaced["title"]
            .as_str()
            .unwrap()
            .starts_with("Taken back: ")
    );
    let listed = ada.request("notifications", json!({})).await;
    assert_eq!(
        listed.expect("notifications").data["items"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    let log = ada
        .request("alert_log", json!({}))
        .await
        .expect("alert_log")
        .data;
    assert_eq!(log["items"][0]["retracted"], true);
}

#[tokio::test]
async fn the_base_fee_of_a_block_fires_a_rule() {
    let node = Node::start_with(&["--no-mining"]).await;
    let server = server_on(Server::builder(), node.ws()).await;
    let mut ada = connect(&server).await;
    let above = json!({"kind": "gas_above", "chain": 31337, "gwei": 50});
    let id = register(&mut ada, above).await;
    for (wei, fires) in [("0x77359400", false), ("0x12a05f2000", true)] {
        node.call("anvil_setNextBlockBaseFeePerGas", json!([wei]))
            .await;
        node.mine(1).await;
        let height = node.height().await;
        while wait_for_block(&server, 31337).await["number"] != height {}
        if fires {
            let alert = push_of(&mut ada, "alert").await.data;
            assert_eq!(
                (&alert["alertId"], &alert["value"]),
                (&json!(id), &json!(80))
            );
        }
    }
    let log = ada
        .request("alert_log", json!({}))
        .await
        .expect("alert_log")
        .data;
    assert_eq!(log["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_transaction_is_followed_across_a_restart() {
    let folder = tempfile::TempDir::new().unwrap();
    let node = Node::start_with(&["--no-mining"]).await;
    let path = format!("path = {:?}", folder.path().display().to_string());
    let builder = || Server::builder().set("store", &path);
    let mut first = server_on(builder(), node.ws()).await;
    let accounts = node.accounts().await;
    let mut ada = connect(&first).await;
    let hash = node.send(&accounts[0], &accounts[1], 5).await;
    let condition =
        json!({"kind": "transaction_state", "chain": 31337, "txHash": hash, "state": "confirmed"});
    let id = register(&mut ada, condition).await;
    first.kill().await;
    node.mine(5).await;
    let second = server_on(builder(), node.ws()).await;
    let log = tidewire_tests::eventually("the fire", async || {
        let body = json!({"user": "ada"});
        let method = "AlertService/ListFires";
        let log = second
            .call(method, Some(&Token::service()), &body)
            .await
            .json();
        let items = log["items"].as_array().unwrap().clone();
        (!items.is_empty()).then_some(items)
    })
    .await;
    assert_eq!((log.len(), &log[0]["alertId"]), (1, &json!(id)));
}

#[tokio::test]
async fn a_reorg_while_the_server_is_away_takes_the_fire_back() {
    let folder = tempfile::TempDir::new().unwrap();
    let node = Node::start_with(&["--no-mining"]).await;
    let path = format!("path = {:?}", folder.path().display().to_string());
    let builder = || Server::builder().set("store", &path);
    let rest = "confirmations = 3\nfinality = 6\ndrop_after_ms = 1000";
    let mut first = server_with(builder(), node.ws(), rest).await;
    let accounts = node.accounts().await;
    let mut ada = connect(&first).await;
    let hash = node.send(&accounts[0], &accounts[1], 5).await;
    let condition =
        json!({"kind": "transaction_state", "chain": 31337, "txHash": hash, "state": "confirming"});
    register(&mut ada, condition).await;
    node.mine(1).await;
    push_of(&mut ada, "alert").await;
    first.kill().await;
    // The transaction is in no block and in no mempool any more.
    node.reorg(1).await;
    node.mine(2).await;
    let second = server_with(builder(), node.ws(), rest).await;
    tidewire_tests::eventually("the retraction", async || {
        let body = json!({"user": "ada"});
        let token = Token::service();
        let log = second.call("AlertService/ListFires", Some(&token), &body);
        let log = log.await.json();
        (log["items"][0]["retracted"] == true).then_some(())
    })
    .await;
}
