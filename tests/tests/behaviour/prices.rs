//! Prices from venues to every transport.

use serde_json::{Value, json};
use tidewire_tests::{
    Client, Message, Server, ServerBuilder, Transport, VenueKind, VenueStandIn,
    venue::{SupplyStandIn, Ticker, Trade},
};

on_every_transport!(
    a_price_reaches_every_transport,
    each_venue_has_its_own_channel,
    several_symbols_share_a_frame,
    the_market_overview_is_published,
);

/// A symbol that all three venues trade.
const SYMBOL: &str = "ETH-BTC";

/// Starts stand-ins for three venues.
pub(crate) async fn venues() -> Vec<VenueStandIn> {
    let mut venues = Vec::new();
    for kind in VenueKind::THREE {
        venues.push(VenueStandIn::start(kind).await);
    }
    venues
}

/// Builds a server with prices of these symbols from these venues.
pub(crate) fn server_of(venues: &[VenueStandIn], symbols: &[&str]) -> ServerBuilder {
    let builder = Server::builder().set("prices", &format!("symbols = {symbols:?}"));
    venues.iter().fold(builder, |builder, venue| {
        let name = venue.kind().name();
        builder.source(name, name, &venue.url())
    })
}

pub(crate) async fn all_subscribed(venues: &[VenueStandIn]) {
    for venue in venues {
        venue.wait_subscribed(1).await;
    }
}

/// Sends one price per venue: 0.051, 0.052, 0.053.
pub(crate) async fn send_prices(venues: &[VenueStandIn], id: u64) {
    for (venue, price) in venues
        .iter()
        .zip(["0.05100000", "0.05200000", "0.05300000"])
    {
        venue.trade(&Trade {
            symbol: SYMBOL,
            id,
            price,
        });
        venue.wait_read().await;
    }
}

/// Reads the price of the symbol with its sources.
pub(crate) async fn get_price(server: &Server, symbol: &str) -> Value {
    let answer = server
        .call("PriceService/GetPrice", None, &json!({"symbol": symbol}))
        .await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()
}

/// Reads updates of one symbol, single or batched, until one matches.
pub(crate) async fn price_until(client: &mut Client, is_it: impl Fn(&Value) -> bool) -> Value {
    loop {
        for update in updates(&client.next().await) {
            if is_it(&update) {
                return update;
            }
        }
    }
}

/// Returns the updates of a `price` or a `price_batch`.
fn updates(message: &Message) -> Vec<Value> {
    match message.kind.as_str() {
        "price" => vec![message.data.clone()],
        "price_batch" => message.data["updates"].as_array().unwrap().clone(),
        _ => Vec::new(),
    }
}

async fn a_price_reaches_every_transport(transport: Transport) {
    let venues = venues().await;
    let server = server_of(&venues, &[SYMBOL]).start().await;
    let mut client = Client::connect(transport, &server).await;
    client.subscribe("prices:ETH-BTC").await;
    all_subscribed(&venues).await;
    send_prices(&venues, 1).await;
    let update = price_until(&mut client, |update| update["sources"] == 3).await;
    assert_eq!(update["symbol"], SYMBOL);
    assert_eq!(update["price"], 0.052);
    assert_eq!(update["confidence"], 0.001);
    assert_eq!(
        (&update["source"], &update["stale"]),
        (&json!("aggregate"), &json!(false))
    );
    // Values that no venue sent are not invented.
    assert_eq!(
        (&update["change24h"], &update["volume24h"]),
        (&Value::Null, &Value::Null)
    );

    // Every client gets the same price, at once or later.
    let asked = client
        .request("get_price", json!({"symbol": SYMBOL}))
        .await
        .expect("price");
    assert_eq!(asked.data["price"], 0.052);
    let price = get_price(&server, SYMBOL).await;
    assert_eq!(
        (&price["price"], &price["method"]),
        (&json!(0.052), &json!("median"))
    );
    let details = price["sourceDetails"].as_array().unwrap();
    assert_eq!(details.len(), 3);
    for (detail, expected) in details.iter().zip([0.051, 0.052, 0.053]) {
        assert_eq!(
            (&detail["price"], &detail["trades"]),
            (&json!(expected), &json!(1))
        );
        assert_eq!(detail["state"], "live");
        assert!((detail["weight"].as_f64().unwrap() - 1.0 / 3.0).abs() < 1e-9);
    }
    let mut late = Client::connect(transport, &server).await;
    late.subscribe("prices:ETH-BTC").await;
    assert_eq!(late.next().await.expect("price").data["price"], 0.052);
}

async fn each_venue_has_its_own_channel(transport: Transport) {
    let venues = venues().await;
    let server = server_of(&venues, &[SYMBOL]).start().await;
    let mut client = Client::connect(transport, &server).await;
    assert_eq!(
        client.subscribe("prices:ETH-BTC@kraken").await["error"],
        Value::Null
    );
    let unknown = client.subscribe("prices:ETH-BTC@nobody").await;
    assert_eq!(unknown["error"]["code"], "not_found");
    all_subscribed(&venues).await;
    send_prices(&venues, 1).await;
    let price = client.next().await.expect("price");
    assert_eq!(price.channel.as_deref(), Some("prices:ETH-BTC@kraken"));
    assert_eq!(
        (&price.data["price"], &price.data["source"]),
        (&json!(0.053), &json!("kraken"))
    );
}

async fn several_symbols_share_a_frame(transport: Transport) {
    const SYMBOLS: [&str; 4] = ["BTC-USD", "ETH-USD", "SOL-USD", "XRP-USD"];
    let venue = VenueStandIn::start(VenueKind::Coinbase).await;
    let server = server_of(std::slice::from_ref(&venue), &SYMBOLS)
        .set("stream", "batch_interval_ms = 300")
        .start()
        .await;
    let mut client = Client::connect(transport, &server).await;
    let channels: Vec<_> = SYMBOLS
        .iter()
        .map(|symbol| format!("prices:{symbol}"))
        .collect();
    let _ = client
        .request("subscribe", json!({"channels": channels}))
        .await
        .expect("subscribed");
    venue.wait_subscribed(1).await;
    for id in 1..=50 {
        for symbol in SYMBOLS {
            venue.trade(&Trade {
                symbol,
                id,
                price: &format!("{id}"),
            });
        }
    }
    let mut last = std::collections::BTreeMap::new();
    let mut batches = 0;
    while last.len() < 4 || last.values().any(|price| *price != 50.0) {
        let message = client.next().await;
        let updates = updates(&message);
        if message.kind == "price_batch" {
            batches += 1;
            assert_eq!((&message.channel, message.seq), (&None, None));
            assert!(message.data["timestamp"].is_i64());
            assert!(updates.len() > 1, "{}", message.text);
        }
        let mut in_this = std::collections::BTreeSet::new();
        for update in updates {
            let symbol = update["symbol"].as_str().unwrap().to_owned();
            assert!(
                in_this.insert(symbol.clone()),
                "{symbol} is twice in {}",
                message.text
            );
            let price = update["price"].as_f64().unwrap();
            let before = last.insert(symbol, price).unwrap_or_default();
            assert!(price >= before, "{price} after {before}");
        }
    }
    assert!(batches > 0);
}

async fn the_market_overview_is_published(transport: Transport) {
    let venue = VenueStandIn::start(VenueKind::Coinbase).await;
    let server = server_of(
        std::slice::from_ref(&venue),
        &["BTC-USD", "ETH-USD", "SOL-USD"],
    )
    .set("prices", "supply = { BTC = 20000000, ETH = 120000000 }")
    .start()
    .await;
    let mut client = Client::connect(transport, &server).await;
    client.subscribe("market:overview").await;
    venue.wait_subscribed(1).await;
    let ticker = |symbol, last, open| Ticker {
        symbol,
        last,
        open,
        volume: "1000",
    };
    venue.ticker(&ticker("BTC-USD", "60000", "50000"));
    venue.ticker(&ticker("ETH-USD", "3000", "4000"));
    venue.trade(&Trade {
        symbol: "ETH-USD",
        id: 1,
        price: "3000",
    });
    loop {
        let overview = client.next_of("market_overview").await;
        let data = &overview.data;
        if data["coverage"]["live"] != 2 || data["recentTrades"][0].is_null() {
            continue;
        }
        assert_eq!(overview.channel.as_deref(), Some("market:overview"));
        assert_eq!(data["coverage"]["symbols"], 3);
        let cap = 20_000_000.0 * 60_000.0 + 120_000_000.0 * 3_000.0;
        assert_eq!(data["totalMarketCap"], cap);
        assert_eq!(data["totalVolume"], 63_000_000.0);
        let dominance = data["btcDominance"].as_f64().unwrap();
        assert!((dominance - 20_000_000.0 * 60_000.0 / cap * 100.0).abs() < 1e-9);
        let movers = data["topMovers"].as_array().unwrap();
        assert_eq!(
            (&movers[0]["symbol"], &movers[1]["symbol"]),
            (&json!("ETH-USD"), &json!("BTC-USD"))
        );
        assert!((movers[0]["change24h"].as_f64().unwrap() + 25.0).abs() < 1e-9);
        let trade = &data["recentTrades"][0];
        assert_eq!(
            (&trade["symbol"], &trade["price"]),
            (&json!("ETH-USD"), &json!(3_000))
        );
        // Coinbase reports the maker's side.
        assert_eq!(
            (&trade["side"], &trade["source"]),
            (&json!("sell"), &json!("coinbase"))
        );
        return;
    }
}

#[tokio::test]
async fn a_supply_source_completes_the_configured_table() {
    let venue = VenueStandIn::start(VenueKind::Coinbase).await;
    let supply = SupplyStandIn::start(r#"{"BTC": 1, "ETH": "120000000"}"#).await;
    let source = format!("supply_source = {{ url = {:?} }}", supply.url());
    let server = server_of(std::slice::from_ref(&venue), &["BTC-USD", "ETH-USD"])
        .set("prices", "supply = { BTC = 20000000 }")
        .set("prices", &source)
        .start()
        .await;
    let mut client = Client::connect(Transport::WebSocketJson, &server).await;
    client.subscribe("market:overview").await;
    venue.wait_subscribed(1).await;
    for (symbol, price) in [("BTC-USD", "60000"), ("ETH-USD", "3000")] {
        venue.trade(&Trade {
            symbol,
            id: 1,
            price,
        });
    }
    loop {
        let overview = client.next_of("market_overview").await;
        let coverage = &overview.data["coverage"];
        if coverage["withSupply"] != 2 {
            continue;
        }
        assert!(coverage["supplyAgeMs"].is_u64(), "{coverage}");
        let cap = 20_000_000.0 * 60_000.0 + 120_000_000.0 * 3_000.0;
        assert_eq!(overview.data["totalMarketCap"], cap);
        return;
    }
}
