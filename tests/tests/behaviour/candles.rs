//! Candles: made of a venue's trades, read and streamed, and kept over a crash.

use serde_json::{Value, json};
use tempfile::TempDir;
use tidewire_tests::{
    Client, Server, ServerBuilder, Token, Transport, VenueKind, VenueStandIn, eventually,
    venue::Trade,
};

use crate::prices::server_of;

on_every_transport!(candles_are_read_and_streamed);

fn trade(venue: &VenueStandIn, id: u64, price: &str) {
    let symbol = "BTC-USD";
    venue.trade(&Trade { symbol, id, price });
}

async fn builder() -> (ServerBuilder, VenueStandIn) {
    let venue = VenueStandIn::start(VenueKind::Kraken).await;
    let builder = server_of(std::slice::from_ref(&venue), &["BTC-USD"]);
    (builder, venue)
}

/// The day's candle, once it has this close.
async fn day(server: &Server, close: f64) -> Value {
    eventually("a candle with the last price", async || {
        let last = newest_day(server).await;
        last.filter(|last| last["close"] == close)
    })
    .await
}

async fn newest_day(server: &Server) -> Option<Value> {
    let body = json!({"symbol": "BTC-USD", "interval": "1d"});
    let answer = server.call("PriceService/GetCandles", None, &body).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()["items"].as_array().unwrap().last().cloned()
}

/// Trades, and waits until candles with the last price were seen and a write has ended since.
async fn trade_and_save(server: &Server, venue: &VenueStandIn, trades: &[(u64, &str)]) -> Value {
    let name = "tidewire_candle_saves_total";
    let before = server.metric(name, "").await;
    for (id, price) in trades {
        trade(venue, *id, price);
    }
    let close = trades.last().unwrap().1.parse().unwrap();
    let candle = day(server, close).await;
    server.metric_until(name, "", |saves| saves > before).await;
    candle
}

async fn candles_are_read_and_streamed(transport: Transport) {
    let (builder, venue) = builder().await;
    let server = builder.start().await;
    venue.wait_subscribed(1).await;
    let mut client = Client::connect(transport, &server).await;
    let subscribed = client.subscribe("candles:BTC-USD:1d").await;
    assert_eq!(subscribed["class"], "latest");
    for (id, price) in (1..).zip(["100.5", "99.25", "102", "101.125"]) {
        trade(&venue, id, price);
    }
    let mut candle = client.next_of("candle").await;
    while candle.data["close"] != 101.125 {
        candle = client.next_of("candle").await;
    }
    assert_eq!(candle.channel.as_deref(), Some("candles:BTC-USD:1d"));
    let data = candle.data;
    let expected = json!({
        "symbol": "BTC-USD", "interval": "1d", "start": data["start"], "open": 100.5, "high": 102,
        "low": 99.25, "close": 101.125, "volume": data["volume"], "closed": false, "sources": 1
    });
    assert_eq!(data, expected);
    assert_eq!(data["start"].as_i64().unwrap() % 86_400_000, 0);
    let ask = json!({"symbol": "BTC-USD", "interval": "1d", "limit": 5});
    let reply = client.request("get_candles", ask).await;
    assert_eq!(
        (reply.kind.as_str(), &reply.data),
        ("candles", &json!({"items": [data]}))
    );
    for (ask, code, part) in [
        (
            json!({"symbol": "BTC-USD", "interval": "2m"}),
            "invalid_argument",
            "1m, 5m, 1h, 1d",
        ),
        (
            json!({"symbol": "BTC-USD", "interval": "1m", "limit": 0}),
            "invalid_argument",
            "`limit`",
        ),
        (
            json!({"symbol": "BTC-USB", "interval": "1m"}),
            "not_found",
            "BTC-USD",
        ),
    ] {
        let reply = client.request("get_candles", ask).await;
        assert_eq!(reply.error_code(), code);
        let text = reply.data["message"].as_str().unwrap();
        assert!(text.contains(part), "{text}");
    }
}

#[tokio::test]
async fn an_unknown_channel_of_candles_is_refused() {
    let (builder, _venue) = builder().await;
    let server = builder.start().await;
    let mut client = Client::connect(Transport::WebSocketJson, &server).await;
    for channel in [
        "candles:BTC-USD",
        "candles:BTC-USD:2m",
        "candles:BTC-USB:1m",
    ] {
        let channels = json!({"channels": [channel]});
        let reply = client.request("subscribe", channels).await;
        assert_eq!(
            reply.data["channels"][0]["error"]["code"], "not_found",
            "{channel}"
        );
    }
    // Engines alone publish there.
    let publish = json!({"channel": "candles:BTC-USD:1m", "data": 1});
    let method = "StreamService/Publish";
    let answer = server.call(method, Some(&Token::service()), &publish).await;
    assert_eq!(
        answer.json()["code"],
        "permission_denied",
        "{}",
        answer.body
    );
}

#[tokio::test]
async fn candles_survive_a_crash() {
    let folder = TempDir::new().unwrap();
    let path = format!("path = {:?}", folder.path().display().to_string());
    let (builder, venue) = builder().await;
    let builder = builder.set("store", &path);
    let mut server = builder.clone().start().await;
    venue.wait_subscribed(1).await;
    let first = [(1, "100.5"), (2, "99.25")];
    let before = trade_and_save(&server, &venue, &first).await;
    // That write may have begun before these prices. The next one has them.
    trade_and_save(&server, &venue, &[(3, "99")]).await;
    server.kill().await;

    let server = builder.start().await;
    // It goes on forming. The venue may count the old connection for a moment.
    let mut ids = 4..;
    let traded = eventually("a trade on the new connection", async || {
        trade(&venue, ids.next()?, "98");
        let last = newest_day(&server).await;
        last.filter(|last| last["close"] == 98.0)
    });
    let after = traded.await;
    assert_eq!(after["closed"], false);
    // Unless midnight was between them.
    if after["start"] == before["start"] {
        assert_eq!(
            [&after["open"], &after["high"], &after["low"]],
            [100.5, 100.5, 98.0]
        );
        let volume = |candle: &Value| candle["volume"].as_f64().unwrap();
        assert!(volume(&after) > volume(&before), "{before} {after}");
    }
}
