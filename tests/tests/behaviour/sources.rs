//! Sources: venues of every kind, and changes of sources at run time.

use serde_json::{Value, json};
use tidewire_tests::{
    Client, Server, Transport, VenueKind, VenueStandIn,
    venue::{Ticker, Trade},
};

use crate::prices::{all_subscribed, get_price, price_until, server_of};

/// A symbol that all venues trade.
const SYMBOL: &str = "ETH-BTC";

async fn names(server: &Server) -> Vec<String> {
    let answer = server
        .call("PriceService/ListSources", None, &json!({}))
        .await
        .json();
    let sources = answer["sources"].as_array().unwrap().clone();
    let name = |source: &Value| source["name"].as_str().unwrap().to_owned();
    sources.iter().map(name).collect()
}

fn trade(venue: &VenueStandIn, id: u64, price: &str) {
    venue.trade(&Trade {
        symbol: SYMBOL,
        id,
        price,
    });
}

fn detail(price: &Value, source: &str) -> Value {
    let details = price["sourceDetails"].as_array().unwrap();
    let of_source = |detail: &&Value| detail["source"] == source;
    details.iter().find(of_source).unwrap().clone()
}

#[tokio::test]
async fn every_venue_counts_and_an_outlier_is_excluded() {
    let mut venues = Vec::new();
    for kind in VenueKind::ALL {
        venues.push(VenueStandIn::start(kind).await);
    }
    let server = server_of(&venues, &[SYMBOL]).start().await;
    all_subscribed(&venues).await;
    for venue in &venues {
        if venue.kind() != VenueKind::Bitstamp {
            venue.ticker(&Ticker {
                symbol: SYMBOL,
                last: "0.05",
                open: "0.04",
                volume: "100",
            });
        }
        trade(venue, 2, "0.05");
        venue.wait_read().await;
    }
    let price = get_price(&server, SYMBOL).await;
    assert_eq!(
        (&price["price"], &price["sources"]),
        (&json!(0.05), &json!(7))
    );
    // 25 % up at each venue that reports it. Each traded 100 × 0.05, and the server counts one
    // itself.
    assert!((price["change24h"].as_f64().unwrap() - 25.0).abs() < 1e-6);
    assert!((price["volume24h"].as_f64().unwrap() - 30.025).abs() < 1e-9);
    assert_eq!(price["dayCoveredMs"], Value::Null);
    for venue in &venues {
        let detail = detail(&price, venue.kind().name());
        assert_eq!(
            (&detail["state"], &detail["trades"]),
            (&json!("live"), &json!(1))
        );
    }

    // A venue that is 10 % off is excluded with the reason, and returns once it is right.
    let wrong = &venues[3];
    trade(wrong, 3, "0.055");
    wrong.wait_read().await;
    let price = get_price(&server, SYMBOL).await;
    assert_eq!(
        (&price["price"], &price["sources"]),
        (&json!(0.05), &json!(6))
    );
    let out = detail(&price, wrong.kind().name());
    assert_eq!(
        (&out["state"], &out["weight"]),
        (&json!("excluded"), &json!(0))
    );
    assert_eq!(out["reason"], "10 % from the median of the others, 0.05");
    trade(wrong, 4, "0.0501");
    wrong.wait_read().await;
    assert_eq!(get_price(&server, SYMBOL).await["sources"], 7);
}

#[tokio::test]
async fn missing_trades_are_reported() {
    const OTHER: &str = "SOL-BTC";
    let venue = VenueStandIn::start(VenueKind::Binance).await;
    let server = server_of(std::slice::from_ref(&venue), &[SYMBOL, OTHER])
        .start()
        .await;
    let mut client = Client::connect(Transport::WebSocketJson, &server).await;
    client.subscribe("prices:ETH-BTC@binance").await;
    venue.wait_subscribed(1).await;
    let say = |symbol, id| {
        venue.trade(&Trade {
            symbol,
            id,
            price: "0.05",
        });
    };
    say(SYMBOL, 1);
    say(OTHER, 1);
    let update = price_until(&mut client, |_| true).await;
    assert_eq!(update["missing"], Value::Null);
    // The price is unchanged. Missing trades are new information.
    say(SYMBOL, 5);
    let update = price_until(&mut client, |update| !update["missing"].is_null()).await;
    assert_eq!(
        (&update["missing"], &update["price"]),
        (&json!(3), &json!(0.05))
    );
    // A late trade.
    say(SYMBOL, 3);
    price_until(&mut client, |update| update["missing"] == 2).await;
    say(OTHER, 2);
    venue.wait_read().await;
    let price = get_price(&server, SYMBOL).await;
    assert_eq!(detail(&price, "binance")["missing"], 2);
    let other = get_price(&server, OTHER).await;
    assert_eq!(detail(&other, "binance")["missing"], Value::Null);
    let gaps = server
        .metric("tidewire_venue_gaps_total", "source=\"binance\"")
        .await;
    assert_eq!(gaps, 1.0);
}

#[tokio::test]
async fn sources_are_added_and_removed_while_the_server_runs() {
    let (first, second) = (
        VenueStandIn::start(VenueKind::Coinbase).await,
        VenueStandIn::start(VenueKind::Okx).await,
    );
    let server = server_of(std::slice::from_ref(&first), &[SYMBOL])
        .start()
        .await;
    let mut client = Client::connect(Transport::WebSocketJson, &server).await;
    client.subscribe("prices:ETH-BTC").await;
    first.wait_subscribed(1).await;
    trade(&first, 1, "0.05");
    price_until(&mut client, |update| update["sources"] == 1).await;

    let body = json!({"kind": "okx", "name": "second", "url": second.url()});
    let added = server.call("PriceService/AddSource", None, &body).await;
    assert_eq!(added.status, 200, "{}", added.body);
    let source = &added.json()["source"];
    assert_eq!(
        (&source["name"], &source["symbols"]),
        (&json!("second"), &json!([SYMBOL]))
    );
    second.wait_subscribed(1).await;
    trade(&second, 1, "0.051");
    let update = price_until(&mut client, |update| update["sources"] == 2).await;
    assert_eq!(update["price"], 0.0505);

    let wrong = [
        (
            json!({"kind": "okx", "name": "second"}),
            "failed_precondition",
        ),
        (json!({"kind": "mtgox"}), "invalid_argument"),
        (
            json!({"kind": "okx", "url": "http://x"}),
            "invalid_argument",
        ),
        (json!({"kind": "okx", "name": "A b"}), "invalid_argument"),
    ];
    for (body, code) in wrong {
        let refused = server.call("PriceService/AddSource", None, &body).await;
        assert_eq!(refused.json()["code"], code, "{body}");
        assert!(
            refused.json()["message"]
                .as_str()
                .unwrap()
                .contains("expected")
        );
    }

    let body = json!({"name": "coinbase"});
    let removed = server.call("PriceService/RemoveSource", None, &body).await;
    assert_eq!(removed.json(), body);
    let update = price_until(&mut client, |update| update["sources"] == 1).await;
    assert_eq!(update["price"], 0.051);
    assert_eq!(names(&server).await, ["second"]);
    let again = server.call("PriceService/RemoveSource", None, &body).await;
    assert_eq!(again.json()["code"], "not_found");
    // The last source goes, and the price becomes stale.
    let body = json!({"name": "second"});
    server.call("PriceService/RemoveSource", None, &body).await;
    price_until(&mut client, |update| update["stale"] == true).await;
}

#[tokio::test]
async fn a_configuration_reload_changes_the_sources() {
    let (first, second) = (
        VenueStandIn::start(VenueKind::Coinbase).await,
        VenueStandIn::start(VenueKind::Bybit).await,
    );
    let builder = server_of(std::slice::from_ref(&first), &[SYMBOL]);
    let server = builder.clone().start().await;
    first.wait_subscribed(1).await;
    let file = server.folder().join("tidewire.toml");
    let before = std::fs::read_to_string(&file).unwrap();
    std::fs::write(
        &file,
        format!("{before}\n[[prices.source]]\nkind = \"nope\"\n"),
    )
    .unwrap();
    server.hang_up();
    server.log_line("the configuration is not taken").await;
    assert_eq!(names(&server).await, ["coinbase"]);

    let after = before
        .replace(
            "kind = \"coinbase\"\nname = \"coinbase\"",
            "kind = \"bybit\"\nname = \"b\"",
        )
        .replace(&first.url(), &second.url());
    std::fs::write(&file, after).unwrap();
    server.hang_up();
    second.wait_subscribed(1).await;
    server.log_line("the configuration was read again").await;
    assert_eq!(names(&server).await, ["b"]);
    trade(&second, 1, "0.05");
    second.wait_read().await;
    assert_eq!(get_price(&server, SYMBOL).await["price"], 0.05);
}

#[tokio::test]
async fn tether_prices_convert_at_a_live_rate() {
    let (binance, kraken) = (
        VenueStandIn::start(VenueKind::Binance).await,
        VenueStandIn::start(VenueKind::Kraken).await,
    );
    let venues = [binance, kraken];
    let server = server_of(&venues, &["BTC-USD", "USDT-USD"])
        .set("prices", "convert = [\"USDT\"]")
        .start()
        .await;
    let mut client = Client::connect(Transport::WebSocketJson, &server).await;
    client.subscribe("prices:BTC-USD").await;
    all_subscribed(&venues).await;
    venues[0].trade(&Trade {
        symbol: "BTC-USDT",
        id: 1,
        price: "60000",
    });
    venues[0].wait_read().await;
    let price = get_price(&server, "BTC-USD").await;
    assert_eq!(
        (&price["price"], &price["stale"]),
        (&Value::Null, &json!(true))
    );
    venues[1].trade(&Trade {
        symbol: "USDT-USD",
        id: 1,
        price: "0.9985",
    });
    let update = price_until(&mut client, |update| update["stale"] == false).await;
    assert_eq!(update["price"], 59_910);
    let price = get_price(&server, "BTC-USD").await;
    let rate = &detail(&price, "binance")["rate"];
    assert_eq!(
        (&rate["symbol"], &rate["price"]),
        (&json!("USDT-USD"), &json!(0.9985))
    );
    assert!(rate["ageMs"].is_number());
}

/// Venues that announce their shutdown. Both connections receive all trades for a while, as at
/// a real venue.
#[tokio::test]
async fn a_venue_that_announces_its_shutdown_is_replaced_without_a_gap() {
    for kind in [VenueKind::Binance, VenueKind::Okx, VenueKind::Bitstamp] {
        let venue = VenueStandIn::start(kind).await;
        let server = server_of(std::slice::from_ref(&venue), &[SYMBOL])
            .start()
            .await;
        let mut client = Client::connect(Transport::WebSocketJson, &server).await;
        client.subscribe("prices:ETH-BTC").await;
        venue.wait_subscribed(1).await;
        trade(&venue, 1, "0.05");
        price_until(&mut client, |update| update["price"] == 0.05).await;
        venue.announce_shutdown();
        trade(&venue, 2, "0.051");
        venue.wait_subscribed(2).await;
        for (id, price) in [(3, "0.052"), (4, "0.053"), (5, "0.054")] {
            trade(&venue, id, price);
        }
        venue.wait_read().await;
        let mut seen = Vec::new();
        while seen.last() != Some(&json!(0.054)) {
            let update = price_until(&mut client, |_| true).await;
            assert_eq!(update["stale"], false, "{kind:?}");
            seen.push(update["price"].clone());
        }
        let price = get_price(&server, SYMBOL).await;
        let detail = detail(&price, kind.name());
        assert_eq!(
            (&detail["trades"], &detail["missing"]),
            (&json!(5), &Value::Null),
            "{kind:?}"
        );
        assert_eq!(venue.accepted(), 2, "{kind:?}");
    }
}
