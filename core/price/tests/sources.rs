//! Connections to venues, against a venue of this test on a local socket.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::{future::Future, sync::Arc, time::Duration};

use futures::{SinkExt as _, StreamExt as _};
use support::{Journal, NOW_US, coinbase_match, config, kraken_trade, price};
use tidewire_price::{PriceEngine, Recording};
use tidewire_proto::v1::{ConnectionState, Source};
use tidewire_stream::ManualClock;
use tokio::{
    net::{TcpListener, TcpStream},
    task::yield_now,
    time::timeout,
};
use tokio_tungstenite::{WebSocketStream, accept_async, tungstenite::Message};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// A test that hangs fails after so long. No test waits for it.
const HANG: Duration = Duration::from_secs(30);

const ACK: &str = r#"{"type":"subscriptions","channels":[]}"#;

struct Venue(TcpListener);

type Peer = WebSocketStream<TcpStream>;

impl Venue {
    async fn open() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    fn url(&self) -> String {
        format!("ws://{}/feed", self.0.local_addr().unwrap())
    }

    /// The next connection, after it has subscribed.
    async fn accept(&self) -> (Peer, String) {
        let (socket, _) = within(self.0.accept()).await.unwrap();
        let mut peer = within(accept_async(socket)).await.unwrap();
        let request = receive(&mut peer).await;
        (peer, request)
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(HANG, future).await.unwrap()
}

async fn receive(peer: &mut Peer) -> String {
    match within(peer.next()).await.unwrap().unwrap() {
        Message::Text(text) => text.to_string(),
        other => panic!("{other:?}"),
    }
}

async fn say(peer: &mut Peer, frame: &str) {
    within(peer.send(Message::text(frame))).await.unwrap();
}

struct Bench {
    engine: PriceEngine,
    journal: Arc<Journal>,
    clock: Arc<ManualClock>,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

impl Bench {
    /// An engine on one venue, not connected yet.
    fn new(kind: &str, url: &str, more: &str) -> Self {
        let text = format!("{more}\n[[source]]\nkind = {kind:?}\nurl = {url:?}");
        let (journal, clock) = (Journal::new(), ManualClock::at(NOW_US / 1_000));
        Self {
            engine: PriceEngine::new(&config(&text), journal.clone(), clock.clone()).unwrap(),
            journal,
            clock,
            tasks: TaskTracker::new(),
            cancel: CancellationToken::new(),
        }
    }

    fn connect(self) -> Self {
        self.engine.connect(&self.tasks, &self.cancel);
        self
    }

    fn source(&self) -> Source {
        self.engine.sources().remove(0)
    }

    async fn until(&self, is_reached: impl Fn(&Source) -> bool) {
        within(async {
            while !is_reached(&self.source()) {
                yield_now().await;
            }
        })
        .await;
    }

    async fn until_told(&self, channel: &str, expected: &str) {
        within(async {
            while self.journal.prices(channel).last().map(price) != Some(expected) {
                yield_now().await;
            }
        })
        .await;
    }

    async fn stop(self) {
        self.cancel.cancel();
        self.tasks.close();
        within(self.tasks.wait()).await;
    }
}

const BTC: &str = r#"symbols = ["BTC-USD"]"#;

#[tokio::test]
async fn prices_come_through_garbage_and_lost_connections() {
    let venue = Venue::open().await;
    let bench = Bench::new("coinbase", &venue.url(), BTC).connect();
    let (mut peer, request) = venue.accept().await;
    assert_eq!(
        request,
        r#"{"channels":["ticker","matches","heartbeat"],"product_ids":["BTC-USD"],"type":"subscribe"}"#
    );
    bench
        .until(|source| source.state() == ConnectionState::Mute)
        .await;
    say(&mut peer, ACK).await;
    say(&mut peer, "garbage").await;
    say(&mut peer, &coinbase_match(1, "BTC-USD", "10.5")).await;
    bench.until_told("prices:BTC-USD@coinbase", "10.5").await;
    let source = bench.source();
    assert_eq!(
        (
            source.state(),
            source.frames,
            source.bad_frames,
            source.trades,
            source.connects
        ),
        (ConnectionState::Live, 3, 1, 1, 1)
    );
    // The connection breaks without a word, and comes back.
    drop(peer);
    let (mut peer, _) = venue.accept().await;
    bench.until(|source| source.connects == 2).await;
    say(&mut peer, &coinbase_match(2, "BTC-USD", "11")).await;
    bench.until_told("prices:BTC-USD", "11").await;
    assert_eq!(bench.source().state(), ConnectionState::Live);
    bench.stop().await;
}

#[tokio::test]
async fn a_lost_venue_makes_its_prices_stale_and_its_return_mends_them() {
    let venue = Venue::open().await;
    let bench = Bench::new("coinbase", &venue.url(), BTC).connect();
    let (mut peer, _) = venue.accept().await;
    say(&mut peer, &coinbase_match(1, "BTC-USD", "10")).await;
    bench.until_told("prices:BTC-USD", "10").await;
    let url = venue.url();
    let address = venue.0.local_addr().unwrap();
    drop((venue, peer));
    bench
        .until(|source| source.state() == ConnectionState::Waiting)
        .await;
    assert!(bench.source().last_error.is_some());
    bench.clock.advance(2_000);
    within(async {
        while !bench.engine.get_price("BTC-USD").unwrap().stale {
            yield_now().await;
        }
    })
    .await;
    let venue = Venue(TcpListener::bind(address).await.unwrap());
    assert_eq!(venue.url(), url);
    let (mut peer, _) = venue.accept().await;
    say(&mut peer, &coinbase_match(2, "BTC-USD", "12")).await;
    bench.until_told("prices:BTC-USD", "12").await;
    let told: Vec<_> = bench.journal.prices("prices:BTC-USD");
    let stale: Vec<_> = told
        .iter()
        .map(|update| (price(update), update.stale))
        .collect();
    assert_eq!(stale, [("10", false), ("10", true), ("12", false)]);
    bench.stop().await;
}

#[tokio::test]
async fn a_mute_connection_is_set_up_anew() {
    let venue = Venue::open().await;
    let config = format!("{BTC}\nwatchdog_ms = 400");
    let bench = Bench::new("coinbase", &venue.url(), &config).connect();
    // Connected, accepted, and only heartbeats.
    let (mut mute, _) = venue.accept().await;
    say(&mut mute, ACK).await;
    say(&mut mute, r#"{"type":"heartbeat","product_id":"BTC-USD"}"#).await;
    let (_peer, _) = venue.accept().await;
    let error = bench.source().last_error.unwrap();
    assert!(error.contains("connected, but no data"), "{error}");
    bench.stop().await;
}

#[tokio::test]
async fn one_refused_symbol_does_not_take_the_others_along() {
    let venue = Venue::open().await;
    let symbols = r#"symbols = ["BTC-USD", "NOPE-USD"]"#;
    let bench = Bench::new("coinbase", &venue.url(), symbols).connect();
    let (mut peer, request) = venue.accept().await;
    assert!(request.contains("NOPE-USD"));
    let refusal = r#"{"type":"error","message":"Failed to subscribe","reason":"NOPE-USD is not a valid product"}"#;
    say(&mut peer, refusal).await;
    let again = receive(&mut peer).await;
    assert!(again.contains("BTC-USD") && !again.contains("NOPE-USD"));
    let error = bench.source().last_error.unwrap();
    assert!(error.contains("NOPE-USD is not a valid product"), "{error}");
    bench.stop().await;
}

#[tokio::test]
async fn requests_are_all_sent_and_pings_answered() {
    let venue = Venue::open().await;
    let bench = Bench::new("kraken", &venue.url(), BTC).connect();
    let (mut peer, ticker) = venue.accept().await;
    let trade = receive(&mut peer).await;
    assert!(ticker.contains(r#""channel":"ticker""#) && trade.contains(r#""channel":"trade""#));
    within(peer.send(Message::Ping("payload".into())))
        .await
        .unwrap();
    let pong = within(peer.next()).await.unwrap().unwrap();
    assert_eq!(pong, Message::Pong("payload".into()));
    bench.stop().await;
}

#[tokio::test]
async fn an_announced_end_is_followed_by_a_new_connection() {
    let venue = Venue::open().await;
    let symbols = r#"symbols = ["BTC-USDT"]"#;
    let bench = Bench::new("binance", &venue.url(), symbols).connect();
    let (mut peer, request) = venue.accept().await;
    assert!(request.contains(r#"["btcusdt@trade","btcusdt@ticker"]"#));
    say(&mut peer, r#"{"e":"serverShutdown","E":1}"#).await;
    venue.accept().await;
    bench.until(|source| source.connects == 2).await;
    bench.stop().await;
}

#[tokio::test]
async fn at_full_speed_every_trade_counts() {
    const TRADES: u64 = 20_000;
    let venue = Venue::open().await;
    let bench = Bench::new("kraken", &venue.url(), BTC).connect();
    let (mut peer, _) = venue.accept().await;
    for id in 1..=TRADES {
        let frame = kraken_trade(id, "BTC/USD", &format!("{}.5", 100 + id % 50));
        within(peer.feed(Message::text(frame))).await.unwrap();
    }
    within(peer.flush()).await.unwrap();
    bench.until(|source| source.trades == TRADES).await;
    let answer = bench.engine.get_price("BTC-USD").unwrap();
    let detail = &answer.source_details[0];
    let bounds = [&detail.min, &detail.max].map(|bound| bound.clone().unwrap().value);
    assert_eq!(
        (detail.trades, bounds),
        (TRADES, ["100.5".to_owned(), "149.5".to_owned()])
    );
    assert_eq!(price(&answer), "100.5");
    bench.stop().await;
}

#[tokio::test]
async fn frames_that_are_too_long_end_the_connection() {
    let venue = Venue::open().await;
    let bench = Bench::new("kraken", &venue.url(), BTC).connect();
    let (mut peer, _) = venue.accept().await;
    // The peer may close before all of it is written.
    let _ = within(peer.send(Message::text("x".repeat(2 << 20)))).await;
    venue.accept().await;
    bench.until(|source| source.connects == 2).await;
    bench.stop().await;
}

#[tokio::test]
async fn what_venues_say_is_recorded() {
    let venue = Venue::open().await;
    let bench = Bench::new("coinbase", &venue.url(), BTC);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.rec.gz");
    let recording = {
        let (engine, path, cancel) = (bench.engine.clone(), path.clone(), bench.cancel.clone());
        tokio::spawn(async move { engine.record(&path, cancel).await })
    };
    let (mut peer, _) = venue.accept().await;
    let frame = coinbase_match(1, "BTC-USD", "10");
    say(&mut peer, ACK).await;
    say(&mut peer, &frame).await;
    bench.until(|source| source.frames == 2).await;
    bench.cancel.cancel();
    assert_eq!(within(recording).await.unwrap().unwrap(), 2);
    let recording = Recording::open(&path).unwrap();
    assert!(!recording.head().sample);
    let lines: Vec<_> = recording.collect();
    assert_eq!(lines[1].frame, frame.as_bytes());
    assert_eq!(lines[1].time_us, NOW_US);
}
