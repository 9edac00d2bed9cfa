//! Oracle prices: integers with an exponent, over Server-Sent Events.

use serde_json::{Value, json};
use tidewire_tests::{
    Client, Server, ServerBuilder, Transport,
    venue::{BTC_FEED, Behaviour, OraclePrice, OracleStandIn},
};

use crate::prices::{get_price, price_until};

on_every_transport!(an_oracle_price_has_a_confidence);

/// Time of the prices, in seconds since the Unix epoch.
const TIME: i64 = 1_750_000_000;

fn price<'a>(price: &'a str, conf: &'a str, expo: i32, seconds: i64) -> OraclePrice<'a> {
    OraclePrice {
        feed: BTC_FEED,
        price,
        conf,
        expo,
        publish_time: TIME + seconds,
    }
}

fn server_of(oracle: &OracleStandIn, symbols: &[&str]) -> ServerBuilder {
    Server::builder()
        .set("prices", &format!("symbols = {symbols:?}"))
        .source("pyth", "pyth", &oracle.url())
}

/// Starts a server with a price of the oracle, and a subscribed client.
async fn subscribed_client(oracle: &OracleStandIn, builder: ServerBuilder) -> (Server, Client) {
    let server = builder.start().await;
    let mut client = Client::connect(Transport::WebSocketJson, &server).await;
    client.subscribe("prices:BTC-USD").await;
    oracle.wait_subscribed(1).await;
    oracle.price(&price("6183801", "150", -2, 0));
    let update = price_until(&mut client, |update| update["stale"] == false).await;
    assert_eq!(update["price"], 61_838.01);
    (server, client)
}

async fn source(server: &Server) -> Value {
    let answer = server
        .call("PriceService/ListSources", None, &json!({}))
        .await;
    answer.json()["sources"][0].clone()
}

async fn an_oracle_price_has_a_confidence(transport: Transport) {
    let oracle = OracleStandIn::start(&[BTC_FEED]).await;
    let server = server_of(&oracle, &["BTC-USD", "BTC-USDT"]).start().await;
    let mut client = Client::connect(transport, &server).await;
    client.subscribe("prices:BTC-USD").await;
    oracle.wait_subscribed(1).await;
    oracle.send(":\n\n");
    // 6,183,801,234,567 ± 250,000,000, times 10^-8.
    oracle.price(&price("6183801234567", "250000000", -8, 0));
    let update = price_until(&mut client, |_| true).await;
    assert_eq!(update["price"], 61_838.012_345_67);
    assert_eq!(
        (&update["confidence"], &update["sources"], &update["stale"]),
        (&json!(2.5), &json!(1), &json!(false))
    );
    // The oracle has neither trades nor 24-hour figures, and none are invented.
    assert_eq!(
        (&update["change24h"], &update["volume24h"]),
        (&json!(0), &Value::Null)
    );
    // Another exponent, on the same feed.
    oracle.price(&price("61839", "1", 0, 1));
    let update = price_until(&mut client, |update| update["price"] == 61_839).await;
    assert_eq!(update["confidence"], 1);
    let price = get_price(&server, "BTC-USD").await;
    let detail = &price["sourceDetails"][0];
    assert_eq!(
        (&detail["source"], &detail["trades"], &detail["state"]),
        (&json!("pyth"), &json!(0), &json!("live"))
    );
    // The oracle quotes in dollars, not in Tether.
    let tether = get_price(&server, "BTC-USDT").await;
    assert_eq!(tether["price"], Value::Null);
}

#[tokio::test]
async fn an_oracle_outage_ends_with_a_fresh_price() {
    let mut oracle = OracleStandIn::start(&[BTC_FEED]).await;
    let builder = server_of(&oracle, &["BTC-USD"]);
    let (server, mut client) = subscribed_client(&oracle, builder).await;
    oracle.stop().await;
    let update = price_until(&mut client, |update| update["stale"] == true).await;
    assert_eq!(
        (&update["price"], &update["sources"]),
        (&json!(61_838.01), &json!(0))
    );
    let waiting = source(&server).await;
    assert_eq!(waiting["state"], "waiting");
    oracle.restart().await;
    oracle.wait_subscribed(1).await;
    oracle.price(&price("6184000", "150", -2, 60));
    let update = price_until(&mut client, |update| update["stale"] == false).await;
    assert_eq!(update["price"], 61_840);
}

#[tokio::test]
async fn a_mute_oracle_becomes_stale() {
    let oracle = OracleStandIn::start(&[BTC_FEED]).await;
    let builder = server_of(&oracle, &["BTC-USD"])
        .set("prices", "watchdog_ms = 500")
        .set("prices", "stale_after_ms = 1000");
    let (server, mut client) = subscribed_client(&oracle, builder).await;
    // The oracle accepts the connection and sends only comments, which are no data.
    oracle.set_behaviour(Behaviour::Mute);
    oracle.wait_requests(3).await;
    let update = price_until(&mut client, |update| update["stale"] == true).await;
    assert_eq!(update["price"], 61_838.01);
    let mute = source(&server).await;
    let error = mute["lastError"].as_str().unwrap();
    assert!(error.contains("no data"), "{error}");
    oracle.set_behaviour(Behaviour::Documented);
    oracle.wait_subscribed(1).await;
    oracle.price(&price("6184000", "150", -2, 60));
    let update = price_until(&mut client, |update| update["stale"] == false).await;
    assert_eq!(update["price"], 61_840);
}

#[tokio::test]
async fn invalid_oracle_data_is_ignored() {
    let oracle = OracleStandIn::start(&[BTC_FEED]).await;
    let builder = server_of(&oracle, &["BTC-USD"]);
    let (server, mut client) = subscribed_client(&oracle, builder).await;
    let other = "a".repeat(64);
    oracle.data("{\"parsed\":[");
    oracle.data("nonsense");
    oracle.data("{}");
    oracle.data("{\"parsed\":[null]}");
    for (number, conf, expo) in [
        ("NaN", "1", -2),
        ("-6183801", "1", -2),
        ("0", "1", -2),
        ("61838.01", "1", 0),
        ("6183801", "1", 40),
        ("6183801", "1", -40),
        // Ten times as much, once.
        ("61838010", "150", -2),
    ] {
        oracle.price(&price(number, conf, expo, 1));
    }
    // A feed that the server did not request.
    oracle.price(&OraclePrice {
        feed: &other,
        ..price("1", "1", 0, 1)
    });
    oracle.price(&price("6184000", "150", -2, 2));
    let update = price_until(&mut client, |_| true).await;
    assert_eq!(update["price"], 61_840);
    let heard = source(&server).await;
    assert_eq!(
        (&heard["frames"], &heard["badFrames"], &heard["connects"]),
        (&json!(14), &json!(11), &json!(1))
    );
    // The oracle ends the stream with a reason, and the server reconnects.
    oracle.send("event: error\ndata: the reader is too slow\n\n");
    oracle.wait_requests(2).await;
    let error = source(&server).await["lastError"].clone();
    assert_eq!(error, "the venue ended the stream: the reader is too slow");
}

#[tokio::test]
async fn an_unknown_oracle_feed_is_reported() {
    let oracle = OracleStandIn::start(&[]).await;
    let server = server_of(&oracle, &["BTC-USD"]).start().await;
    oracle.wait_requests(2).await;
    let refused = source(&server).await;
    let error = refused["lastError"].as_str().unwrap();
    assert!(error.contains("answers 404 Not Found"), "{error}");
}
