//! Watching: transactions, events and wallets, from the node to clients on every transport.

use serde_json::{Value, json};
use tempfile::TempDir;
use tidewire_proto::{
    prost::Message as _,
    v1::{
        BlocksTarget, Position, TransactionState, TransactionTarget, WatchEvent, WatchRequest,
        watch_event::Data, watch_request::Target, watch_service_client::WatchServiceClient,
    },
};
use tidewire_tests::{
    Client, FaultyNode, Node, Server, ServerBuilder, Token, Transport,
    client::grpc::channel,
    faulty_node::{Reply, pass_through},
    within,
};
use tonic::Streaming;

use crate::{blocks::wait_for_block, ledger::on_chain_with};

on_every_transport!(
    a_transaction_is_followed_until_it_is_final,
    a_reorg_makes_a_transaction_pending_again,
    events_are_published_and_retracted,
    a_wallet_receives_transactions_and_balances,
    a_wallet_receives_pending_transactions,
);

/// A server on this node, where the 3rd block confirms and the 6th is final.
pub(crate) async fn server_on(builder: ServerBuilder, endpoint: String) -> Server {
    server_with(builder, endpoint, "confirmations = 3\nfinality = 6").await
}

pub(crate) async fn server_with(builder: ServerBuilder, endpoint: String, rest: &str) -> Server {
    let server = on_chain_with(builder, 31337, &[endpoint], rest)
        .start()
        .await;
    wait_for_block(&server, 31337).await;
    server
}

/// Reads the statuses of a transaction until this state, and returns that status.
pub(crate) async fn until(client: &mut Client, hash: &str, state: &str) -> Value {
    let channel = format!("tx:31337:{hash}");
    loop {
        let message = client.next_on(&channel).await.expect("transaction");
        if message.data["state"] == state {
            return message.data;
        }
    }
}

async fn a_transaction_is_followed_until_it_is_final(transport: Transport) {
    let node = Node::start_with(&["--no-mining"]).await;
    let server = server_on(Server::builder(), node.ws()).await;
    let accounts = node.accounts().await;
    let mut client = Client::connect(transport, &server).await;
    let hash = node.send(&accounts[0], &accounts[1], 5).await;
    let watch = json!({"chain": 31337, "txHash": hash});
    let reply = client.request("watch", watch.clone()).await;
    let reply = reply.expect("watching").data;
    assert_eq!(
        (&reply["state"], &reply["hash"]),
        (&json!("pending"), &json!(hash))
    );
    node.mine(1).await;
    let confirming = until(&mut client, &hash, "confirming").await;
    assert_eq!(confirming["confirmations"], 1);
    assert_eq!(confirming["blockHash"], node.hash(1).await);
    node.mine(2).await;
    let confirmed = until(&mut client, &hash, "confirmed").await;
    assert_eq!(
        (&confirmed["confirmations"], &confirmed["required"]),
        (&json!(3), &json!(3))
    );
    node.mine(8).await;
    until(&mut client, &hash, "finalized").await;
    let reply = client.request("unwatch", watch).await;
    assert_eq!(reply.expect("unwatched").data["txHash"], hash);
}

async fn a_reorg_makes_a_transaction_pending_again(transport: Transport) {
    for depth in [1, 3, 12] {
        let node = Node::start().await;
        node.mine(15).await;
        let server = server_with(Server::builder(), node.http(), "finality = 64").await;
        let accounts = node.accounts().await;
        let mut client = Client::connect(transport, &server).await;
        let hash = node.send(&accounts[0], &accounts[1], 5).await;
        let watch = json!({"chain": 31337, "txHash": hash});
        let _ = client.request("watch", watch).await.expect("watching");
        until(&mut client, &hash, "confirming").await;
        if depth > 1 {
            node.mine(depth - 1).await;
        }
        let height = node.height().await;
        within("the newest block", async {
            while wait_for_block(&server, 31337).await["number"] != height {}
        })
        .await;
        node.reorg(depth).await;
        loop {
            let pending = until(&mut client, &hash, "pending").await;
            if pending["reorged"] == true {
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_durable_watch_outlives_a_restart() {
    let (node, folder) = (
        Node::start_with(&["--no-mining"]).await,
        TempDir::new().unwrap(),
    );
    let path = format!("path = {:?}", folder.path().display().to_string());
    let builder = || Server::builder().set("store", &path);
    let mut server = server_on(builder(), node.ws()).await;
    let accounts = node.accounts().await;
    let hash = node.send(&accounts[0], &accounts[1], 5).await;
    let request = json!({"chain": 31337, "txHash": hash});
    let refused = server
        .call("WatchService/WatchTransaction", None, &request)
        .await;
    assert_eq!(refused.status, 403, "{}", refused.body);
    let token = Token::service();
    let answer = server
        .call("WatchService/WatchTransaction", Some(&token), &request)
        .await;
    assert_eq!(
        answer.json()["status"]["state"],
        "pending",
        "{}",
        answer.body
    );
    server.kill().await;
    node.mine(4).await;
    let server = server_on(builder(), node.ws()).await;
    let mut client = Client::connect(Transport::WebSocketJson, &server).await;
    client.subscribe(&format!("tx:31337:{hash}")).await;
    node.mine(8).await;
    until(&mut client, &hash, "finalized").await;
}

async fn events_are_published_and_retracted(transport: Transport) {
    let node = Node::start().await;
    let accounts = node.accounts().await;
    let contract = crate::faulty_endpoints::logger(&node, &accounts[0]).await;
    let server = server_on(Server::builder(), node.ws()).await;
    let mut client = Client::connect(transport, &server).await;
    let watch = json!({"chain": 31337, "events": {"addresses": [contract]}});
    let reply = client
        .request("watch", watch.clone())
        .await
        .expect("watching");
    let channel = reply.data["channel"].as_str().unwrap().to_owned();
    let hash = node.send(&accounts[0], &contract, 0).await;
    let received = client.next_on(&channel).await.expect("event_log").data;
    assert_eq!(
        (&received["txHash"], &received["removed"]),
        (&json!(hash), &json!(false))
    );
    node.reorg(1).await;
    let removed = client.next_on(&channel).await.expect("event_log").data;
    assert_eq!(
        (&removed["txHash"], &removed["removed"]),
        (&json!(hash), &json!(true))
    );
    let reply = client.request("unwatch", watch).await;
    let _ = reply.expect("unwatched");
}

async fn a_wallet_receives_transactions_and_balances(transport: Transport) {
    let node = Node::start().await;
    let server = server_on(Server::builder(), node.ws()).await;
    let accounts = node.accounts().await;
    let mut client = Client::connect(transport, &server).await;
    let channel = format!("wallet:{}", accounts[1].to_ascii_lowercase());
    client.subscribe(&channel).await;
    let hash = node.send(&accounts[0], &accounts[1], 5).await;
    let mut kinds = Vec::new();
    while kinds.len() < 2 {
        let update = client.next_on(&channel).await.expect("wallet_update").data;
        assert_eq!(update["chain"], 31337);
        // The node may report it as pending after its block.
        if update["data"]["status"] == "pending" {
            continue;
        }
        if update["type"] == "transaction" {
            assert_eq!(update["data"]["hash"], hash);
        } else {
            assert_eq!(update["data"]["delta"], "5", "{update}");
        }
        kinds.push(update["type"].as_str().unwrap().to_owned());
    }
    kinds.sort_unstable();
    assert_eq!(kinds, ["balance", "transaction"]);
}

async fn a_wallet_receives_pending_transactions(transport: Transport) {
    let node = Node::start_with(&["--no-mining"]).await;
    let server = server_on(Server::builder(), node.ws()).await;
    let accounts = node.accounts().await;
    let mut client = Client::connect(transport, &server).await;
    let channel = format!("wallet:{}", accounts[1].to_ascii_lowercase());
    client.subscribe(&channel).await;
    server.log_line("the mempool is read").await;
    // A transaction between other wallets is not published.
    node.send(&accounts[2], &accounts[3], 5).await;
    let hash = node.send(&accounts[0], &accounts[1], 5).await;
    let received = client.next_on(&channel).await.expect("wallet_update").data;
    let expected = (&json!(hash), &json!("pending"), &json!("in"));
    let data = &received["data"];
    let found = (&data["hash"], &data["status"], &data["direction"]);
    assert_eq!(found, expected, "{received}");
    node.mine(1).await;
    let received = client.next_on(&channel).await.expect("wallet_update").data;
    let data = &received["data"];
    let found = (&data["hash"], &data["status"], &data["direction"]);
    let expected = (&json!(hash), &json!("confirming"), &json!("in"));
    assert_eq!(found, expected, "{received}");
}

#[tokio::test]
async fn a_node_may_push_hashes_of_pending_transactions() {
    let node = Node::start_with(&["--no-mining"]).await;
    let faulty = FaultyNode::in_front_of(&node, pass_through).await;
    let server = server_on(Server::builder(), faulty.ws()).await;
    let accounts = node.accounts().await;
    let mut client = Client::connect(Transport::WebSocketJson, &server).await;
    let channel = format!("wallet:{}", accounts[1].to_ascii_lowercase());
    client.subscribe(&channel).await;
    server.log_line("the mempool is read").await;
    let hash = node.send(&accounts[0], &accounts[1], 5).await;
    faulty.push(json!(hash));
    let received = client.next_on(&channel).await.expect("wallet_update").data;
    let found = (&received["data"]["hash"], &received["data"]["status"]);
    assert_eq!(found, (&json!(hash), &json!("pending")), "{received}");
}

#[tokio::test]
async fn a_refused_watch_names_the_reason() {
    let node = Node::start().await;
    let server = server_on(Server::builder(), node.ws()).await;
    let mut client = Client::connect(Transport::WebSocketJson, &server).await;
    let hash = format!("0x{}", "ab".repeat(32));
    for (request, code) in [
        (json!({"chain": 5, "txHash": hash}), "not_found"),
        (
            json!({"chain": 31337, "txHash": "0xab"}),
            "invalid_argument",
        ),
        (json!({"chain": 31337}), "invalid_argument"),
        (
            json!({"chain": 31337, "events": {"addresses": ["0x1"]}}),
            "invalid_argument",
        ),
        (
            // The checksum is wrong.
            json!({"chain": 31337, "events": {"addresses": ["0x5Aaeb6053F3E94C9b9A09f33669435E7Ef1BeAed"]}}),
            "invalid_argument",
        ),
        (
            json!({"chain": 31337, "events": {"addresses": []}}),
            "invalid_argument",
        ),
    ] {
        let reply = client.request("watch", request.clone()).await;
        assert_eq!(reply.error_code(), code, "{request}: {}", reply.text);
    }
    // No node has seen this hash.
    let reply = client.request("watch", json!({"chain": 31337, "txHash": hash}));
    let reply = reply.await.expect("watching");
    assert_eq!(reply.data["state"], "unknown", "{}", reply.text);
}

/// The next event of a gRPC stream.
async fn next_event(stream: &mut Streaming<WatchEvent>) -> WatchEvent {
    let next = within("an event", stream.message()).await;
    next.unwrap().expect("the stream continues")
}

#[tokio::test]
async fn a_grpc_stream_resumes_from_a_position() {
    let node = Node::start_with(&["--no-mining"]).await;
    let server = server_on(Server::builder(), node.ws()).await;
    let accounts = node.accounts().await;
    let mut client = WatchServiceClient::new(channel(&server).await);
    let hash = node.send(&accounts[0], &accounts[1], 5).await;
    let request = |since: Option<Position>| {
        let target = Target::Transaction(TransactionTarget {
            chain: 31337,
            tx_hash: hash.clone(),
            abi: Vec::new(),
        });
        WatchRequest {
            target: Some(target),
            since,
        }
    };
    let mut stream = client.watch(request(None)).await.unwrap().into_inner();
    let first = next_event(&mut stream).await;
    assert_eq!(first.channel, format!("tx:31337:{hash}"));
    assert!(!first.epoch.is_empty(), "{first:?}");
    node.mine(1).await;
    let mut last = first.clone();
    let state = |event: &WatchEvent| match &event.data {
        Some(Data::Transaction(status)) => Some(status.state()),
        _ => None,
    };
    while state(&last) != Some(TransactionState::Confirming) {
        let next = next_event(&mut stream).await;
        assert_eq!((&next.epoch, next.seq), (&last.epoch, last.seq + 1));
        last = next;
    }
    drop(stream);
    // A resumed stream repeats nothing and sends no current status first.
    node.mine(2).await;
    let seen = |epoch: &str, seq| {
        Some(Position {
            epoch: epoch.to_owned(),
            seq,
        })
    };
    let since = seen(&last.epoch, last.seq - 1);
    let mut stream = client.watch(request(since)).await.unwrap().into_inner();
    assert_eq!(next_event(&mut stream).await, last);
    while state(&last) != Some(TransactionState::Confirmed) {
        let next = next_event(&mut stream).await;
        assert_eq!((&next.epoch, next.seq), (&last.epoch, last.seq + 1));
        last = next;
    }
    // A stream from an unknown epoch begins with a gap and the current status.
    let since = seen("another", 1);
    let mut stream = client.watch(request(since)).await.unwrap().into_inner();
    let missed = next_event(&mut stream).await;
    assert!(matches!(missed.data, Some(Data::Gap(_))), "{missed:?}");
    assert_eq!((&missed.epoch, missed.seq), (&last.epoch, last.seq));
    let now = next_event(&mut stream).await;
    assert_eq!(state(&now), Some(TransactionState::Confirmed));
}

#[tokio::test]
async fn a_client_that_watches_very_many_transactions_leaves_room_for_others() {
    let node = Node::start().await;
    // The node never answers requests about transactions that begin with `0xaa`.
    let silent = |method: &str, params: &Value, response: Value| {
        let hash = params[0].as_str().unwrap_or_default();
        match method == "eth_getTransactionByHash" && hash.starts_with("0xaa") {
            true => Reply::Silence,
            false => Reply::Response(response),
        }
    };
    let faulty = FaultyNode::in_front_of(&node, silent).await;
    let server = server_on(Server::builder(), faulty.http()).await;
    let mut stranger = Client::connect(Transport::WebSocketJson, &server).await;
    let channels: Vec<_> = (0..500)
        .map(|number| format!("tx:31337:0xaa{number:062x}"))
        .collect();
    let subscribed = stranger.request("subscribe", json!({"channels": channels}));
    let subscribed = subscribed.await.expect("subscribed");
    let results = subscribed.data["channels"].as_array().unwrap().clone();
    assert!(
        results.iter().all(|one| one["error"].is_null()),
        "{results:?}"
    );
    // Clients at the same address, with and without a token, and the blocks of the chain.
    let mut other = Client::connect(Transport::WebSocketJson, &server).await;
    let token = Token::of("ada").sign();
    let mut user = Client::connect_as(Transport::Grpc, &server, Some(&token)).await;
    other.subscribe("blocks:31337").await;
    for client in [&mut other, &mut user] {
        let hash = format!("0xbb{:062x}", 1);
        let reply = client.request("watch", json!({"chain": 31337, "txHash": hash}));
        assert_eq!(reply.await.expect("watching").data["state"], "unknown");
    }
    node.mine(1).await;
    let _ = other.next_on("blocks:31337").await.expect("block");
}

#[tokio::test]
async fn the_bytes_of_a_grpc_watch_are_counted() {
    let node = Node::start().await;
    let server = server_on(Server::builder(), node.ws()).await;
    let mut client = WatchServiceClient::new(channel(&server).await);
    let request = WatchRequest {
        target: Some(Target::Blocks(BlocksTarget { chain: 31337 })),
        since: None,
    };
    let received = request.encoded_len();
    let mut stream = client.watch(request).await.unwrap().into_inner();
    let mut sent = 0;
    for _ in 0..3 {
        node.mine(1).await;
        sent += next_event(&mut stream).await.encoded_len();
    }
    let method = "AdminService/ListConnections";
    let list = server.call(method, None, &json!({})).await.json();
    let connection = &list["connections"][0];
    let counted = (&connection["bytesSent"], &connection["bytesReceived"]);
    assert_eq!(counted, (&json!(sent), &json!(received)), "{list}");
}
