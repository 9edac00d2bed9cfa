//! A panic inside the engine: the task that it ends starts again, and the source reports it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use support::{
    coinbase_match, price,
    test_venue::{Harness, TestVenue, send, within},
};
use tokio::task::yield_now;

#[tokio::test]
async fn a_connection_that_a_panic_ended_starts_again_and_its_source_says_why() {
    let venue = TestVenue::open().await;
    let harness = Harness::new("coinbase", &venue.url(), "symbols = [\"BTC-USD\"]").connect();
    let _listener = harness.engine.on_price(|tick| {
        assert_ne!(tick.price.to_string(), "13", "the listener fails");
    });
    let (mut peer, _) = venue.accept().await;
    send(&mut peer, &coinbase_match(1, "BTC-USD", "13")).await;
    harness
        .until(|source| {
            let error = source.last_error.as_deref().unwrap_or_default();
            error.contains("a fault of this server ended the connection")
                && error.contains("the listener fails")
        })
        .await;
    let (mut peer, _) = venue.accept().await;
    send(&mut peer, &coinbase_match(2, "BTC-USD", "14")).await;
    harness.until_published("prices:BTC-USD", "14").await;
    harness.stop().await;
}

#[tokio::test]
async fn a_tick_that_panics_leaves_the_other_prices_to_the_next() {
    let venue = TestVenue::open().await;
    let text = "symbols = [\"BTC-USD\", \"ETH-USD\"]\nwatchdog = \"7200s\"";
    let harness = Harness::new("coinbase", &venue.url(), text).connect();
    let _listener = harness.engine.on_price(|tick| {
        let is_stale_bitcoin = tick.stale && tick.symbol.as_str() == "BTC-USD";
        assert!(!is_stale_bitcoin, "the listener fails");
    });
    let (mut peer, _) = venue.accept().await;
    send(&mut peer, &coinbase_match(1, "BTC-USD", "13")).await;
    send(&mut peer, &coinbase_match(1, "ETH-USD", "5")).await;
    harness.until_published("prices:ETH-USD", "5").await;
    harness.clock.advance(31_000);
    within(async {
        let is_stale = |symbol| {
            let published = harness.publisher.prices(&format!("prices:{symbol}"));
            published.last().is_some_and(|last| last.stale)
        };
        while !is_stale("BTC-USD") || !is_stale("ETH-USD") {
            yield_now().await;
        }
    })
    .await;
    let answer = harness.engine.get_price("ETH-USD").unwrap();
    assert!(answer.stale && price(&answer) == "5");
    harness.stop().await;
}
