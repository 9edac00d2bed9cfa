//! Prices of venues and of recordings: fires at the price that made them.

use std::process::Stdio;

use serde_json::{Value, json};
use tempfile::TempDir;
use tidewire_tests::{
    Server, Token, Transport, VenueKind, VenueStandIn, command, interrupt, venue::Trade, within,
};

use super::{connect, push_of, register};
use crate::prices::server_of;

on_every_transport!(a_trade_of_a_venue_fires_a_rule);

async fn a_trade_of_a_venue_fires_a_rule(transport: Transport) {
    let venue = VenueStandIn::start(VenueKind::Kraken).await;
    let venues = std::slice::from_ref(&venue);
    let server = server_of(venues, &["BTC-USD"]).start().await;
    venue.wait_subscribed(1).await;
    let mut ada = connect(transport, &server, "ada").await;
    let rule = json!({"condition": {"kind": "price_crosses", "symbol": "BTC-USD", "threshold": 100, "direction": "up"}});
    let id = register(&server, "ada", rule).await;
    for (number, price) in (1..).zip(["99.5", "100.25"]) {
        venue.trade(&Trade {
            symbol: "BTC-USD",
            id: number,
            price,
        });
        venue.wait_read().await;
    }
    let alert = push_of(&mut ada, "ada", "alert").await.data;
    assert_eq!(alert["alertId"], id);
    assert_eq!(
        (&alert["value"], &alert["previous"]),
        (&json!(100.25), &json!(99.5))
    );
    assert_eq!(alert["sources"], json!(["kraken"]));
    let notification = push_of(&mut ada, "ada", "notification").await.data;
    assert_eq!(notification["data"]["price"], 100.25);
    assert_eq!(notification["body"], "BTC-USD is at 100.25.");
}

/// Records trades of a venue, and returns their prices.
async fn record(folder: &TempDir) -> Vec<i64> {
    let venue = VenueStandIn::start(VenueKind::Kraken).await;
    let venues = std::slice::from_ref(&venue);
    let config = server_of(venues, &["BTC-USD"]).toml();
    std::fs::write(folder.path().join("tidewire.toml"), config).unwrap();
    let arguments = ["record", "all.rec.gz", "--config", "tidewire.toml"];
    let mut child = command(folder.path(), &arguments)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    venue.wait_subscribed(1).await;
    let prices: Vec<i64> = (0..200).map(|n| 1_000 + (n * 37) % 101).collect();
    for (id, price) in (1..).zip(&prices) {
        venue.trade(&Trade {
            symbol: "BTC-USD",
            id,
            price: &price.to_string(),
        });
        venue.wait_read().await;
    }
    interrupt(&child);
    let status = within("the recording's end", child.wait()).await.unwrap();
    assert!(status.success());
    prices
}

#[tokio::test]
async fn a_replayed_recording_fires_the_rules_that_its_prices_pass() {
    let folder = TempDir::new().unwrap();
    let prices = record(&folder).await;
    let file = folder.path().join("all.rec.gz").display().to_string();
    let server = Server::builder()
        .arguments(&["replay", &file, "--speed", "1", "--loop"])
        .set("prices", "symbols = [\"BTC-USD\"]")
        .set("alerts", "fires_per_minute = 1000\nlog_items = 100000")
        .start()
        .await;
    // Each threshold fires once, when a price is at or above it.
    let thresholds: Vec<i64> = (990..=1_110).step_by(10).collect();
    for threshold in &thresholds {
        let rule = json!({"condition": {"kind": "price_above", "symbol": "BTC-USD", "threshold": threshold}});
        register(&server, "ada", rule).await;
    }
    let highest = prices.iter().max().unwrap();
    let expected = thresholds.iter().filter(|threshold| *threshold <= highest);
    let expected = expected.count();
    let log = tidewire_tests::eventually("the fires", async || {
        let body = json!({"user": "ada", "limit": 200});
        let method = "AlertService/ListFires";
        let log = server
            .call(method, Some(&Token::service()), &body)
            .await
            .json();
        let items = log["items"].as_array().unwrap().clone();
        (items.len() >= expected).then_some(items)
    })
    .await;
    assert_eq!(log.len(), expected);
    for fire in log {
        let threshold = &fire["rule"]["condition"]["threshold"];
        let (value, threshold) = (fire["value"].as_f64(), threshold.as_f64());
        assert!(value >= threshold, "{fire}");
        assert_ne!(fire["value"], Value::Null);
    }
}
