//! Restarts: the server stops or is killed, and continues where it was.

use serde_json::json;
use tempfile::TempDir;
use tidewire_tests::{Client, Node, Server, Transport, refused_start, within};

use crate::{
    blocks::wait_for_block,
    ledger::{Ledger, on_chain},
};

const CHANNEL: &str = "blocks:31337";

/// A server on this node, with its store in this folder.
async fn server(folder: &TempDir, endpoint: &str) -> Server {
    let path = format!("path = {:?}", folder.path().display().to_string());
    let builder = Server::builder().set("store", &path);
    on_chain(builder, 31337, &[endpoint.to_owned()])
        .start()
        .await
}

/// Resumes after the last block of the ledger; none may be missing.
async fn resume(server: &Server, epoch: &str, ledger: &Ledger) -> Client {
    let mut client = Client::connect(Transport::WebSocketJson, server).await;
    let resumed = client.resume(CHANNEL, epoch, ledger.seq()).await;
    assert_eq!(resumed["recovered"], true, "{resumed}");
    client
}

#[tokio::test]
async fn kills_during_a_thousand_blocks_lose_and_repeat_nothing() {
    let (node, folder) = (Node::start().await, TempDir::new().unwrap());
    let mut running = server(&folder, &node.ws()).await;
    wait_for_block(&running, 31337).await;
    let mut client = Client::connect(Transport::WebSocketJson, &running).await;
    let subscribed = client.subscribe(CHANNEL).await;
    let epoch = subscribed["epoch"].as_str().unwrap().to_owned();
    let mut ledger = Ledger::default();
    let accounts = node.accounts().await;
    let mining = async {
        for round in 0..50 {
            node.send(&accounts[0], &accounts[1], round + 1).await;
            node.mine(19).await;
        }
    };
    let following = async {
        for goal in [100, 300, 450, 700, 900] {
            ledger.follow_until(&mut client, CHANNEL, goal).await;
            running.kill().await;
            running = server(&folder, &node.ws()).await;
            client = resume(&running, &epoch, &ledger).await;
        }
    };
    within("a thousand blocks", async {
        tokio::join!(mining, following)
    })
    .await;
    ledger.follow(&mut client, &node, CHANNEL).await;
    // Every block came once.
    assert_eq!(ledger.blocks.len() as u64, node.height().await + 1);
    assert!(ledger.blocks.len() >= 950);
    ledger.check(&node).await;
}

#[tokio::test]
async fn a_reorg_during_an_outage_of_the_server_is_published() {
    for depth in [1, 3, 12] {
        let (node, folder) = (Node::start().await, TempDir::new().unwrap());
        let mut running = server(&folder, &node.ws()).await;
        wait_for_block(&running, 31337).await;
        let mut client = Client::connect(Transport::WebSocketJson, &running).await;
        let subscribed = client.subscribe(CHANNEL).await;
        let epoch = subscribed["epoch"].as_str().unwrap().to_owned();
        let mut ledger = Ledger::default();
        node.mine(20).await;
        ledger.follow(&mut client, &node, CHANNEL).await;
        running.terminate();
        assert!(running.ended().await.success());
        node.reorg(depth).await;
        node.mine(2).await;
        let running = server(&folder, &node.http()).await;
        let mut client = resume(&running, &epoch, &ledger).await;
        ledger.follow(&mut client, &node, CHANNEL).await;
        assert_eq!(ledger.reorgs, [usize::try_from(depth).unwrap()]);
        assert_eq!(ledger.blocks.len(), 23);
        ledger.check(&node).await;
    }
}

#[tokio::test]
async fn the_newest_block_is_known_before_a_node_answers() {
    let (mut node, folder) = (Node::start().await, TempDir::new().unwrap());
    node.mine(5).await;
    let mut running = server(&folder, &node.ws()).await;
    let newest = wait_for_block(&running, 31337).await;
    running.kill().await;
    node.stop().await;
    let running = server(&folder, &node.ws()).await;
    let request = json!({"chain": 31337});
    let answer = running
        .call("WatchService/GetLatestBlock", None, &request)
        .await;
    assert_eq!((answer.status, answer.json()), (200, newest.clone()));
    let mut client = Client::connect(Transport::WebSocketJson, &running).await;
    client.subscribe(CHANNEL).await;
    assert_eq!(client.next_on(CHANNEL).await.expect("block").data, newest);
}

#[tokio::test]
async fn a_damaged_store_is_reported_and_left_untouched() {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("store.redb"), "no store").unwrap();
    let config = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\n[prices]\nsymbols = []\n[store]\npath = {:?}\n[[chain]]\nid = 1\nendpoints = [\"ws://127.0.0.1:1\"]\n",
        folder.path().display().to_string()
    );
    let output = refused_start(folder.path(), &config).await;
    assert!(output.contains("store.redb is damaged"), "{output}");
}
