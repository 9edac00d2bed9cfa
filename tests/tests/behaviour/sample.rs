//! Sample data: where it plays, what it has, and that it never mixes with market data.

use serde_json::{Value, json};
use tempfile::TempDir;
use tidewire_tests::{
    Client, Server, ServerBuilder, Token, Transport, VenueKind, VenueStandIn, eventually,
    venue::Trade,
};

use crate::prices::get_price;

/// The wallet of the sample chain, and the chain.
const WALLET: &str = "wallet:0x5a3b1e00000000000000000000000000000000a1";
const BLOCKS: &str = "blocks:7357";

/// A replay of the sample whose data is in this folder.
fn replay(folder: &TempDir) -> ServerBuilder {
    let path = format!("path = {:?}", folder.path().display().to_string());
    Server::builder()
        .arguments(&["replay", "--loop"])
        .set("prices", "symbols = [\"BTC-USD\", \"ETH-USD\"]")
        .set("store", &path)
}

/// A server that counts as not configured, with this venue.
fn unconfigured(venue: &VenueStandIn) -> ServerBuilder {
    Server::builder()
        .arguments(&["--unconfigured"])
        .set("prices", "symbols = [\"BTC-USD\"]")
        .source("coinbase", "coinbase", &venue.url())
}

async fn sources(server: &Server) -> Value {
    server
        .call("PriceService/ListSources", None, &json!({}))
        .await
        .json()
}

#[tokio::test]
async fn every_part_has_sample_data_that_says_so() {
    let folder = TempDir::new().unwrap();
    let server = replay(&folder).start().await;
    assert_eq!(server.get("/readyz").await.body, "ready\ndata: sample\n");
    let token = Token::of("sample").sign();
    let mut client = Client::connect_as(Transport::WebSocketJson, &server, Some(&token)).await;
    assert_eq!(client.welcome().data["sample"], true);
    let candles = "candles:BTC-USD:1m";
    for channel in ["prices:BTC-USD", "market:overview", candles, WALLET, BLOCKS] {
        let result = client.subscribe(channel).await;
        assert_eq!(result["error"], Value::Null, "{channel}");
    }
    assert_eq!(client.next_on("prices:BTC-USD").await.data["sample"], true);
    assert_eq!(client.next_on(candles).await.data["sample"], true);
    let asked = json!({"symbol": "BTC-USD", "interval": "1m"});
    let page = client.request("get_candles", asked).await.data;
    assert_eq!(page["items"][0]["sample"], true, "{page}");
    let block = client.next_on(BLOCKS).await.data;
    assert_eq!(
        (&block["sample"], &block["chain"]),
        (&json!(true), &json!(7_357))
    );
    let overview = client.next_on("market:overview").await.data;
    assert_eq!(overview["sample"], true);
    eventually("a market cap", async || {
        let method = "PriceService/GetMarketOverview";
        let overview = server.call(method, None, &json!({})).await.json();
        overview["totalMarketCap"].as_f64()
    })
    .await;
    // The wallet pays or is paid every few blocks.
    assert_eq!(client.next_on(WALLET).await.data["sample"], true);
    let newest = server
        .call(
            "WatchService/GetLatestBlock",
            None,
            &json!({"chain": 7_357}),
        )
        .await;
    assert_eq!(newest.json()["sample"], true, "{}", newest.body);
    eventually("a notification", async || {
        let listed = client.request("notifications", json!({})).await.data;
        let first = listed["items"].as_array()?.last()?.clone();
        (first["title"] == "Sample data").then_some(())
    })
    .await;
    eventually("the alerts", async || {
        let listed = client.request("alerts", json!({})).await.data;
        (listed["items"].as_array()?.len() == 4).then_some(())
    })
    .await;
    // Nobody else is told of them.
    let mut ada = Client::connect_as(
        Transport::WebSocketJson,
        &server,
        Some(&Token::of("ada").sign()),
    )
    .await;
    assert_eq!(
        ada.request("unread_count", json!({})).await.data["unreadCount"],
        0
    );
}

#[tokio::test]
async fn histories_of_a_replay_and_its_chain_survive_a_restart() {
    let folder = TempDir::new().unwrap();
    let mut first = replay(&folder).start().await;
    let mut client = Client::connect(Transport::WebSocketJson, &first).await;
    client.subscribe(BLOCKS).await;
    let position = first.publish("demo:a", json!(1)).await;
    first.publish("demo:a", json!(2)).await;
    let block = client.next_on(BLOCKS).await;
    let blocks = client.subscribe(BLOCKS).await;
    first.terminate();
    assert!(first.ended().await.success(), "{}", first.log());

    let second = replay(&folder).start().await;
    let mut client = Client::connect(Transport::WebSocketJson, &second).await;
    let epoch = position["epoch"].as_str().unwrap();
    let resumed = client.resume("demo:a", epoch, 1).await;
    assert_eq!(resumed["recovered"], true, "{resumed}");
    assert_eq!(client.take("demo:a", 1).await, [(2, json!(2))]);
    let epoch = blocks["epoch"].as_str().unwrap();
    let seq = blocks["seq"].as_u64().unwrap();
    let resumed = client.resume(BLOCKS, epoch, seq).await;
    assert_eq!(resumed["recovered"], true, "{resumed}");
    // The chain goes on where it was.
    let next = client.next_on(BLOCKS).await;
    assert!(next.data["number"].as_u64() > block.data["number"].as_u64());
    second
        .log_line("the chain continues from a stored block")
        .await;
}

#[tokio::test]
async fn a_second_replay_beside_the_first_keeps_nothing() {
    let folder = TempDir::new().unwrap();
    let _first = replay(&folder).start().await;
    let second = replay(&folder).start().await;
    second.log_line("the replay has no store").await;
    // It listens before its first price.
    let mut client = Client::connect(Transport::WebSocketJson, &second).await;
    client.subscribe("prices:BTC-USD").await;
    assert_eq!(client.next_on("prices:BTC-USD").await.data["sample"], true);
}

#[tokio::test]
async fn without_configuration_and_venues_the_sample_plays_until_a_venue_delivers() {
    // It accepts connections, and delivers nothing.
    let venue = VenueStandIn::start(VenueKind::Coinbase).await;
    let server = unconfigured(&venue).start().await;
    assert!(
        server.log().contains("no venue answers"),
        "{}",
        server.log()
    );
    let tried = sources(&server).await["tried"].clone();
    assert_eq!(tried[0]["name"], "coinbase", "{tried}");
    assert_eq!(tried.as_array().unwrap().len(), 1);
    let ready = server.get("/readyz").await.body;
    assert_eq!(ready, "ready\ndata: sample, as none of 1 venues answers\n");
    let mut client = Client::connect(Transport::WebSocketJson, &server).await;
    assert_eq!(client.welcome().data["sample"], true);
    let sample_prices = client.subscribe("prices:BTC-USD").await;
    let sample = client.subscribe("demo:a").await;
    let sample_price = client.next_on("prices:BTC-USD").await;
    assert_eq!(sample_price.data["sample"], true);
    client.subscribe(BLOCKS).await;
    server.publish("demo:a", json!("on sample data")).await;

    venue.wait_subscribed(1).await;
    venue.trade(&Trade {
        symbol: "BTC-USD",
        id: 7,
        price: "123.25",
    });
    // Clients are sent away, and find another server.
    client.next_of("reconnect").await;
    client.drain().await;
    server.log_line("sample data ends").await;
    // The port stays. A request to the server that ends may fail.
    eventually("the server of market data", async || {
        let url = server.url("/v1/rpc/PriceService/ListSources");
        let response = server.http().post(url).body("{}").send().await.ok()?;
        let listed: Value = response.json().await.ok()?;
        let is_market = listed["sources"][0]["name"] == "coinbase" && listed["tried"].is_null();
        is_market.then_some(())
    })
    .await;
    let mut client = Client::connect(Transport::WebSocketJson, &server).await;
    assert_eq!(client.welcome().data["sample"], Value::Null);
    let epoch = sample["epoch"].as_str().unwrap();
    let resumed = client.resume("demo:a", epoch, 0).await;
    assert_eq!(resumed["recovered"], false, "{resumed}");
    assert_ne!(resumed["epoch"], sample["epoch"]);
    let prices = client.subscribe("prices:BTC-USD").await;
    assert_ne!(prices["epoch"], sample_prices["epoch"]);
    assert_eq!(client.subscribe(BLOCKS).await["error"]["code"], "not_found");
    // A venue numbers its trades on.
    eventually("a price of the market", async || {
        venue.wait_subscribed(1).await;
        venue.trade(&Trade {
            symbol: "BTC-USD",
            id: 8,
            price: "124.5",
        });
        let price = get_price(&server, "BTC-USD").await;
        (price["price"] == 124.5 && price["sample"] == Value::Null).then_some(())
    })
    .await;
    assert_eq!(sources(&server).await["tried"], Value::Null);
    assert_eq!(server.get("/readyz").await.body, "ready\n");
}

#[tokio::test]
async fn a_venue_that_delivers_at_once_leaves_no_room_for_the_sample() {
    let venue = VenueStandIn::start(VenueKind::Coinbase).await;
    let starting = tokio::spawn(unconfigured(&venue).start());
    venue.wait_subscribed(1).await;
    venue.trade(&Trade {
        symbol: "BTC-USD",
        id: 7,
        price: "123.25",
    });
    let server = starting.await.unwrap();
    assert!(!server.log().contains("sample"), "{}", server.log());
    let client = Client::connect(Transport::WebSocketJson, &server).await;
    assert_eq!(client.welcome().data["sample"], Value::Null);
}

#[tokio::test]
async fn a_configured_server_never_plays_the_sample() {
    let server = Server::builder()
        .set("prices", "symbols = [\"BTC-USD\"]")
        .source("coinbase", "coinbase", "ws://127.0.0.1:1")
        .start()
        .await;
    server.log_line("cannot reach coinbase").await;
    // The log says how to see something all the same.
    let hint = server.log_line("no venue answers").await;
    assert!(hint.contains("tidewire replay --loop"), "{hint}");
    let client = Client::connect(Transport::WebSocketJson, &server).await;
    assert_eq!(client.welcome().data["sample"], Value::Null);
    assert_eq!(sources(&server).await["tried"], Value::Null);
    // The server is ready, and its data is not.
    let ready = server.get("/readyz").await.body;
    assert!(ready.starts_with("ready\ndata: 0 of 1 venues\n"), "{ready}");
    let all = server.get("/readyz?verbose").await.json();
    assert_eq!(all["data"]["venues"], json!({"live": 0, "all": 1}));
}
