//! The supply source over a local socket, with good and bad responses.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use futures::FutureExt as _;
use support::{
    coinbase_ticker, read_config,
    test_venue::{Harness, TestVenue, advance_seconds, send, within},
};
use tidewire_proto::v1::MarketOverview;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::yield_now,
};

/// A supply source whose responses the test decides.
struct SupplySource(TcpListener);

impl SupplySource {
    async fn open() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    fn url(&self) -> String {
        format!("http://{}/supply.json", self.0.local_addr().unwrap())
    }

    /// The next request, read to its end. Time passes until it comes.
    async fn next_request(&self) -> TcpStream {
        let mut socket = None;
        // For hours, by the clock of the test.
        for _ in 0..2_000 {
            // Enough for every other task to run.
            for _ in 0..100 {
                yield_now().await;
            }
            socket = self.0.accept().now_or_never();
            if socket.is_some() {
                break;
            }
            advance_seconds(5).await;
        }
        let (mut socket, _) = socket.expect("a request").unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(within(socket.read_u8()).await.unwrap());
        }
        let request = String::from_utf8(request).unwrap();
        assert!(
            request.starts_with("GET /supply.json HTTP/1.1\r\n"),
            "{request}"
        );
        socket
    }

    async fn answer(&self, status: &str, body: &str) {
        let mut socket = self.next_request().await;
        let length = body.len();
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}");
        // A client that receives more than it accepts closes.
        let _ = within(socket.write_all(answer.as_bytes())).await;
    }
}

/// An engine with a price of BTC-USD at 100 and of ETH-USD at 10, and this source.
async fn start(source: &SupplySource, keys: &str) -> (Harness, TestVenue) {
    let venue = TestVenue::open().await;
    let config = format!(
        "symbols = [\"BTC-USD\", \"ETH-USD\"]\nwatchdog = \"200000s\"\nstale_after = \"200000s\"\nsupply = {{ BTC = 20 }}\n[supply_source]\nurl = {:?}\n{keys}",
        source.url()
    );
    let harness = Harness::new("coinbase", &venue.url(), &config).connect();
    (harness, venue)
}

async fn send_prices(harness: &Harness, venue: &TestVenue) -> support::test_venue::VenuePeer {
    let (mut peer, _) = venue.accept().await;
    send(&mut peer, &coinbase_ticker(1, "BTC-USD", "100")).await;
    send(&mut peer, &coinbase_ticker(1, "ETH-USD", "10")).await;
    harness.until_published("prices:ETH-USD", "10").await;
    peer
}

async fn overview_until(
    harness: &Harness,
    is_it: impl Fn(&MarketOverview) -> bool,
) -> MarketOverview {
    within(async {
        loop {
            let overview = harness.engine.overview();
            if is_it(&overview) {
                return overview;
            }
            yield_now().await;
        }
    })
    .await
}

#[tokio::test]
async fn the_source_fills_gaps_of_the_table_and_its_last_response_stays() {
    let source = SupplySource::open().await;
    let (harness, venue) = start(&source, "most_bytes = 1000\ntimeout = \"200000s\"").await;
    let _peer = send_prices(&harness, &venue).await;
    let before = harness.engine.overview();
    assert_eq!(before.total_market_cap, Some(2_000.0));
    let coverage = before.coverage.unwrap();
    assert_eq!((coverage.with_supply, coverage.supply_age_ms), (1, None));

    // The operator's table wins, and assets without a symbol are ignored.
    let good = r#"{"BTC": "1", "ETH": "300.5", "DOGE": null}"#;
    source.answer("200 OK", good).await;
    let published = overview_until(&harness, |overview| {
        overview.total_market_cap != Some(2_000.0)
    })
    .await;
    assert_eq!(published.total_market_cap, Some(2_000.0 + 3_005.0));
    let coverage = published.coverage.unwrap();
    assert_eq!((coverage.with_supply, coverage.supply_age_ms), (2, Some(0)));

    // Down, garbage, a wrong number, too long: the last response stays, with its age.
    harness.clock.advance(3_600_000);
    source.answer("503 Service Unavailable", "").await;
    let too_long = format!(r#"{{"ETH": "1", "x": "{}"}}"#, "0".repeat(1_000));
    for bad in [
        "garbage",
        "[1]",
        r#"{"ETH": "-5"}"#,
        r#"{"ETH":"#,
        &too_long,
    ] {
        source.answer("200 OK", bad).await;
    }
    let socket = source.next_request().await;
    drop(socket);
    let held = harness.engine.overview();
    assert_eq!(held.total_market_cap, Some(5_005.0));
    let age_ms = held.coverage.unwrap().supply_age_ms;
    assert_eq!(age_ms, Some(3_600_000));

    // It responds again. An asset that it leaves out is unknown again.
    source.answer("200 OK", r#"{"ETH": 400}"#).await;
    overview_until(&harness, |overview| {
        overview.total_market_cap == Some(6_000.0)
    })
    .await;
    source.answer("200 OK", "{}").await;
    let published = overview_until(&harness, |overview| {
        overview.total_market_cap == Some(2_000.0)
    })
    .await;
    assert_eq!(published.coverage.unwrap().with_supply, 1);
    harness.stop().await;
}

#[tokio::test]
async fn a_source_that_does_not_answer_is_polled_again() {
    let source = SupplySource::open().await;
    let (harness, _venue) = start(&source, "timeout = \"5s\"").await;
    let silent = source.next_request().await;
    source.answer("200 OK", r#"{"ETH": 400}"#).await;
    overview_until(&harness, |overview| {
        let coverage = overview.coverage.unwrap_or_default();
        coverage.supply_age_ms.is_some()
    })
    .await;
    drop(silent);
    harness.stop().await;
}

#[test]
fn keys_are_checked() {
    let check = |keys: &str| {
        let text = format!("[supply_source]\n{keys}");
        read_config(&text)?
            .check()
            .map_err(|error| error.to_string())
    };
    assert_eq!(check("url = \"https://example.com/supply\""), Ok(()));
    let cases = [
        (
            "url = \"ftp://x\"",
            "prices.supply_source.url is \"ftp://x\", expected http",
        ),
        (
            "url = \"http://x\"\ninterval = \"0s\"",
            "interval is 0s, expected 1ms at least",
        ),
        (
            "url = \"http://x\"\ntimeout = \"0s\"",
            "timeout is 0s, expected 1ms at least",
        ),
        (
            "url = \"http://x\"\nmost_bytes = 0",
            "most_bytes is 0, expected bytes between 1 and",
        ),
        ("url = \"http://x\"\ninterval = 5", "expected a duration"),
        ("url = \"http://x\"\nintervall = \"5s\"", "unknown field"),
        ("", "missing field"),
    ];
    for (keys, expected) in cases {
        let error = check(keys).unwrap_err();
        assert!(error.contains(expected), "{keys}: {error}");
    }
}
