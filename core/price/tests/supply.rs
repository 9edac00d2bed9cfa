//! The supply source: asked over a local socket, well and badly.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use futures::FutureExt as _;
use support::{
    coinbase_ticker, read_config,
    venue::{Bench, Venue, pass, say, within},
};
use tidewire_proto::v1::MarketOverview;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::yield_now,
};

/// A source of supplies that is told what to say.
struct SupplySource(TcpListener);

impl SupplySource {
    async fn open() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    fn url(&self) -> String {
        format!("http://{}/supply.json", self.0.local_addr().unwrap())
    }

    /// The next request, read whole. Time passes until it comes.
    async fn asked(&self) -> TcpStream {
        let mut socket = None;
        // For hours, by the clock of the test.
        for _ in 0..2_000 {
            // Enough for whoever has something to do.
            for _ in 0..100 {
                yield_now().await;
            }
            socket = self.0.accept().now_or_never();
            if socket.is_some() {
                break;
            }
            pass(5).await;
        }
        let (mut socket, _) = socket.expect("somebody asks").unwrap();
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
        let mut socket = self.asked().await;
        let length = body.len();
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}");
        // Who is told more than it takes goes away.
        let _ = within(socket.write_all(answer.as_bytes())).await;
    }
}

/// An engine with a price of BTC-USD at 100 and of ETH-USD at 10, and this source.
async fn bench(source: &SupplySource, keys: &str) -> (Bench, Venue) {
    let venue = Venue::open().await;
    let config = format!(
        "symbols = [\"BTC-USD\", \"ETH-USD\"]\nwatchdog = \"200000s\"\nstale_after = \"200000s\"\nsupply = {{ BTC = 20 }}\n[supply_source]\nurl = {:?}\n{keys}",
        source.url()
    );
    let bench = Bench::new("coinbase", &venue.url(), &config).connect();
    (bench, venue)
}

async fn say_prices(bench: &Bench, venue: &Venue) -> support::venue::Peer {
    let (mut peer, _) = venue.accept().await;
    say(&mut peer, &coinbase_ticker(1, "BTC-USD", "100")).await;
    say(&mut peer, &coinbase_ticker(1, "ETH-USD", "10")).await;
    bench.until_told("prices:ETH-USD", "10").await;
    peer
}

async fn overview_until(bench: &Bench, is_it: impl Fn(&MarketOverview) -> bool) -> MarketOverview {
    within(async {
        loop {
            let overview = bench.engine.overview();
            if is_it(&overview) {
                return overview;
            }
            yield_now().await;
        }
    })
    .await
}

#[tokio::test]
async fn the_source_fills_what_the_table_lacks_and_its_last_word_holds() {
    let source = SupplySource::open().await;
    let (bench, venue) = bench(&source, "most_bytes = 1000\ntimeout = \"200000s\"").await;
    let _peer = say_prices(&bench, &venue).await;
    let before = bench.engine.overview();
    assert_eq!(before.total_market_cap, Some(2_000.0));
    let coverage = before.coverage.unwrap();
    assert_eq!((coverage.with_supply, coverage.supply_age_ms), (1, None));

    // What the operator says counts before what it says, and what nobody asked for not at all.
    let good = r#"{"BTC": "1", "ETH": "300.5", "DOGE": null}"#;
    source.answer("200 OK", good).await;
    let told = overview_until(&bench, |overview| {
        overview.total_market_cap != Some(2_000.0)
    })
    .await;
    assert_eq!(told.total_market_cap, Some(2_000.0 + 3_005.0));
    let coverage = told.coverage.unwrap();
    assert_eq!((coverage.with_supply, coverage.supply_age_ms), (2, Some(0)));

    // Down, garbage, a wrong number, too long: what it said last holds, with its age.
    bench.clock.advance(3_600_000);
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
    let socket = source.asked().await;
    drop(socket);
    let held = bench.engine.overview();
    assert_eq!(held.total_market_cap, Some(5_005.0));
    let age_ms = held.coverage.unwrap().supply_age_ms;
    assert_eq!(age_ms, Some(3_600_000));

    // It is well again. What it does not say any more is not known.
    source.answer("200 OK", r#"{"ETH": 400}"#).await;
    overview_until(&bench, |overview| {
        overview.total_market_cap == Some(6_000.0)
    })
    .await;
    source.answer("200 OK", "{}").await;
    let told = overview_until(&bench, |overview| {
        overview.total_market_cap == Some(2_000.0)
    })
    .await;
    assert_eq!(told.coverage.unwrap().with_supply, 1);
    bench.stop().await;
}

#[tokio::test]
async fn a_source_that_does_not_answer_is_asked_again() {
    let source = SupplySource::open().await;
    let (bench, _venue) = bench(&source, "timeout = \"5s\"").await;
    let silent = source.asked().await;
    source.answer("200 OK", r#"{"ETH": 400}"#).await;
    overview_until(&bench, |overview| {
        let coverage = overview.coverage.unwrap_or_default();
        coverage.supply_age_ms.is_some()
    })
    .await;
    drop(silent);
    bench.stop().await;
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
