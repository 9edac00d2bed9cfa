//! Venue outages: venues that die, return, fall silent or send invalid data.

use serde_json::{Value, json};
use tempfile::TempDir;
use tidewire_tests::{
    Client, Server, Transport, VenueKind, VenueStandIn,
    tls::Authority,
    venue::{Behaviour, Trade},
};

use crate::prices::{all_subscribed, get_price, price_until, send_prices, server_of, venues};

/// Returns the state of a source.
async fn source(server: &Server, name: &str) -> Value {
    let answer = server
        .call("PriceService/ListSources", None, &json!({}))
        .await
        .json();
    let sources = answer["sources"].as_array().unwrap();
    sources
        .iter()
        .find(|source| source["name"] == name)
        .unwrap()
        .clone()
}

#[tokio::test]
async fn a_price_without_live_venues_is_stale() {
    let mut venues = venues().await;
    let server = server_of(&venues, &["ETH-BTC"]).start().await;
    let mut client = Client::connect(Transport::WebSocketJson, &server).await;
    client.subscribe("prices:ETH-BTC").await;
    all_subscribed(&venues).await;
    send_prices(&venues, 1).await;
    price_until(&mut client, |update| update["sources"] == 3).await;

    // One venue dies: the price comes from the other two.
    venues[0].stop().await;
    let update = price_until(&mut client, |update| update["sources"] != 3).await;
    assert_eq!(
        (&update["sources"], &update["stale"]),
        (&json!(2), &json!(false))
    );
    assert_eq!(update["price"], 0.0525);

    // All venues die: the last price is published once, marked stale.
    venues[1].stop().await;
    venues[2].stop().await;
    let update = price_until(&mut client, |update| update["stale"] == true).await;
    assert_eq!(update["sources"], 0);
    let last = update["price"].clone();
    assert!(last.is_number());
    let price = get_price(&server, "ETH-BTC").await;
    assert_eq!((&price["stale"], &price["price"]), (&json!(true), &last));
    for detail in price["sourceDetails"].as_array().unwrap() {
        assert_eq!(detail["state"], "stale");
        assert!(!detail["reason"].as_str().unwrap().is_empty());
    }
    client.settle().await;
    assert!(client.unread().is_empty(), "{:?}", client.unread());

    // The venues return, and the price recovers without help.
    for venue in &mut venues {
        venue.restart().await;
    }
    all_subscribed(&venues).await;
    send_prices(&venues, 2).await;
    let update = price_until(&mut client, |update| update["sources"] == 3).await;
    assert_eq!(
        (&update["stale"], &update["price"]),
        (&json!(false), &json!(0.052))
    );
    for venue in &venues {
        let name = venue.kind().name();
        let source = source(&server, name).await;
        assert_eq!(
            (&source["state"], &source["connects"]),
            (&json!("live"), &json!(2))
        );
        assert_eq!(source["trades"], 2);
    }
}

#[tokio::test]
async fn a_venue_behind_tls_needs_a_trusted_authority() {
    let authority = Authority::new();
    let venue = VenueStandIn::start_encrypted(VenueKind::Coinbase, &authority).await;
    let folder = TempDir::new().unwrap();
    let file = authority.write(folder.path());
    let builder = server_of(std::slice::from_ref(&venue), &["BTC-USD"]);

    let stranger = builder.clone().start().await;
    let line = stranger.log_line("cannot reach coinbase").await;
    assert!(
        line.contains(&venue.url()) && line.contains("certificate"),
        "{line}"
    );
    drop(stranger);

    let server = builder
        .set("prices", &format!("ca_file = {file:?}"))
        .start()
        .await;
    let mut client = Client::connect(Transport::WebSocketJson, &server).await;
    client.subscribe("prices:BTC-USD").await;
    venue.wait_subscribed(1).await;
    venue.trade(&Trade {
        symbol: "BTC-USD",
        id: 1,
        price: "61838.01",
    });
    price_until(&mut client, |update| update["price"] == 61838.01).await;
    assert_eq!(source(&server, "coinbase").await["state"], "live");
}

#[tokio::test]
async fn a_short_outage_is_invisible_to_clients() {
    let venue = VenueStandIn::start(VenueKind::Coinbase).await;
    let server = server_of(std::slice::from_ref(&venue), &["BTC-USD"])
        .start()
        .await;
    let mut client = Client::connect(Transport::WebSocketJson, &server).await;
    client.subscribe("prices:BTC-USD").await;
    venue.wait_subscribed(1).await;
    venue.trade(&Trade {
        symbol: "BTC-USD",
        id: 1,
        price: "100",
    });
    price_until(&mut client, |update| update["price"] == 100).await;
    venue.disconnect();
    venue.wait_accepted(2).await;
    venue.wait_subscribed(1).await;
    venue.trade(&Trade {
        symbol: "BTC-USD",
        id: 2,
        price: "101",
    });
    let update = client.next_of("price").await;
    assert_eq!(
        (&update.data["price"], &update.data["stale"]),
        (&json!(101), &json!(false))
    );
}

#[tokio::test]
async fn a_silent_venue_becomes_stale_and_is_reconnected() {
    let venue = VenueStandIn::start(VenueKind::Kraken).await;
    let server = server_of(std::slice::from_ref(&venue), &["BTC-USD"])
        .set("prices", "stale_after_ms = 300")
        .set("prices", "watchdog_ms = 600")
        .start()
        .await;
    let mut client = Client::connect(Transport::WebSocketJson, &server).await;
    client.subscribe("prices:BTC-USD").await;
    venue.wait_subscribed(1).await;
    venue.trade(&Trade {
        symbol: "BTC-USD",
        id: 1,
        price: "100",
    });
    price_until(&mut client, |update| update["stale"] == false).await;
    // The venue stays connected. Heartbeats are no data.
    venue.send(r#"{"channel":"heartbeat"}"#);
    price_until(&mut client, |update| update["stale"] == true).await;
    venue.wait_accepted(2).await;
    venue.set_behaviour(Behaviour::Mute);
    venue.wait_accepted(4).await;
    venue.set_behaviour(Behaviour::Documented);
    venue.wait_subscribed(1).await;
    venue.trade(&Trade {
        symbol: "BTC-USD",
        id: 2,
        price: "101",
    });
    let update = price_until(&mut client, |update| update["stale"] == false).await;
    assert_eq!(update["price"], 101);
}

#[tokio::test]
async fn invalid_frames_are_counted_and_prices_continue() {
    let venues = venues().await;
    let server = server_of(&venues, &["ETH-BTC"]).start().await;
    all_subscribed(&venues).await;
    send_prices(&venues, 1).await;
    let nonsense = ["{", "", "null", "[]", "\u{1f30a}", "{\"data\":", "42"];
    for venue in &venues {
        for frame in nonsense {
            venue.send(frame);
        }
        // Valid in form, but impossible.
        venue.trade(&Trade {
            symbol: "ETH-BTC",
            id: 2,
            price: "-1",
        });
        venue.trade(&Trade {
            symbol: "ETH-BTC",
            id: 3,
            price: "0",
        });
        venue.trade(&Trade {
            symbol: "DOGE-BTC",
            id: 4,
            price: "1",
        });
        venue.wait_read().await;
    }
    let price = get_price(&server, "ETH-BTC").await;
    assert_eq!(
        (&price["price"], &price["sources"]),
        (&json!(0.052), &json!(3))
    );
    for venue in &venues {
        let name = venue.kind().name();
        let label = format!("source=\"{name}\"");
        // The frames that are not JSON, the impossible prices, and the symbol.
        let bad = server
            .metric("tidewire_venue_bad_frames_total", &label)
            .await;
        assert!(bad >= 6.0, "{name}: {bad}");
        assert_eq!(
            server.metric("tidewire_venue_trades_total", &label).await,
            1.0,
            "{name}"
        );
        let source = source(&server, name).await;
        assert_eq!(source["badFrames"], json!(bad as u64), "{name}");
        assert!(source["lastError"].is_string(), "{name}");
    }
    send_prices(&venues, 5).await;
    let details = get_price(&server, "ETH-BTC").await["sourceDetails"].clone();
    for detail in details.as_array().unwrap() {
        assert_eq!(detail["trades"], 2);
    }
}

#[tokio::test]
async fn a_duplicate_trade_counts_once() {
    let venue = VenueStandIn::start(VenueKind::Binance).await;
    let server = server_of(std::slice::from_ref(&venue), &["BTC-USDT"])
        .start()
        .await;
    venue.wait_subscribed(1).await;
    for (id, price) in [(1, "10"), (2, "30"), (2, "99"), (1, "1"), (3, "20")] {
        venue.trade(&Trade {
            symbol: "BTC-USDT",
            id,
            price,
        });
    }
    venue.wait_read().await;
    let detail = get_price(&server, "BTC-USDT").await["sourceDetails"][0].clone();
    assert_eq!(
        (&detail["trades"], &detail["price"]),
        (&json!(3), &json!(20))
    );
    assert_eq!((&detail["min"], &detail["max"]), (&json!(10), &json!(30)));
}
