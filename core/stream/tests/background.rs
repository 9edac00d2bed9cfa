//! Background and `minIntervalMs`: a client in the background, or with an interval, is sent
//! fewer values and always the last one.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use proptest::prelude::*;
use tidewire_proto::v1::{ChannelSubscription, Decimal, PriceUpdate, SubscribeRequest, Visibility};
use tidewire_stream::{
    ChannelName, Class, Connection, Event, Identity, Namespace, OutgoingMessage, Publisher as _,
    ShardId, StreamCore, StreamOptions,
};
use tokio::time::{Instant, advance};

use support::{client_on, core_with, open_history, take};

const SYMBOLS: usize = 50;

fn stream() -> Arc<StreamCore> {
    let state = Namespace {
        class: Class::Latest,
        ..open_history("state")
    };
    core_with([state], StreamOptions::default()).0
}

async fn connect(stream: &Arc<StreamCore>) -> Connection {
    stream.connect(client_on(ShardId::CALLER)).await
}

async fn subscribe(connection: &Connection, channels: Vec<ChannelSubscription>) {
    let request = SubscribeRequest { channels };
    let subscribed = connection.begin_command().subscribe(request).await.unwrap();
    for channel in subscribed.channels {
        assert_eq!(channel.error, None);
    }
}

fn symbol(index: usize) -> String {
    format!("S{index}-USD")
}

fn channel(index: usize) -> ChannelName {
    ChannelName::parse(&format!("prices:{}", symbol(index))).unwrap()
}

/// A client that counts its messages.
struct Board {
    connection: Connection,
    frames: usize,
    bytes: usize,
    prices: BTreeMap<String, i64>,
}

impl Board {
    async fn open(stream: &Arc<StreamCore>) -> Self {
        let connection = connect(stream).await;
        let channels = (0..SYMBOLS).map(|index| ChannelSubscription {
            channel: channel(index).as_str().to_owned(),
            ..ChannelSubscription::default()
        });
        subscribe(&connection, channels.collect()).await;
        let mut board = Self {
            connection,
            frames: 0,
            bytes: 0,
            prices: BTreeMap::new(),
        };
        board.read();
        (board.frames, board.bytes) = (0, 0);
        board
    }

    fn read(&mut self) {
        for message in take(&self.connection) {
            self.frames += 1;
            self.bytes += message.json().len();
            let updates = match message {
                OutgoingMessage::Publication(publication) => vec![publication],
                OutgoingMessage::PriceBatch(prices) => prices.updates,
                OutgoingMessage::Direct(_) => continue,
            };
            for update in updates {
                let number = i64::try_from(update.seq()).unwrap();
                let before = self
                    .prices
                    .insert(update.channel().as_str().to_owned(), number);
                assert!(before < Some(number), "values never go back");
            }
        }
    }

    /// Sends a ping, and reads the pong.
    fn ping(&mut self) {
        let pong = self.connection.answer_ping(None);
        self.connection
            .begin_command()
            .reply(tidewire_proto::v1::ServerMessage {
                data: Some(tidewire_proto::v1::server_message::Data::Pong(pong)),
                ..Default::default()
            });
        self.read();
    }
}

fn move_prices(stream: &StreamCore, round: i64) {
    for index in 0..SYMBOLS {
        let update = PriceUpdate {
            symbol: symbol(index),
            price: Some(Decimal {
                value: format!("{}.25", 1_000 + round),
            }),
            change_24h: Some(1.25),
            volume_24h: Some(1_234_567.5),
            timestamp: 1_000_000 + round,
            source: "aggregate".to_owned(),
            ..PriceUpdate::default()
        };
        stream.publish(&channel(index), Event::Price(update));
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_in_the_background_costs_a_twentieth_at_most() {
    const SECONDS: i64 = 60;
    let stream = stream();
    move_prices(&stream, 0);
    let mut active = Board::open(&stream).await;
    let mut hidden = Board::open(&stream).await;
    hidden
        .connection
        .set_visibility(Visibility::Background)
        .unwrap();
    // Every symbol moves ten times a second.
    for round in 1..=SECONDS * 10 {
        move_prices(&stream, round);
        active.read();
        hidden.read();
        advance(Duration::from_millis(100)).await;
        if round * 100 % i64::from(hidden.connection.heartbeat_ms()) == 0 {
            hidden.ping();
        }
    }
    active.read();
    assert!(active.frames >= 500, "{}", active.frames);
    assert!(
        hidden.frames * 20 <= active.frames,
        "{} frames in the background, {} otherwise",
        hidden.frames,
        active.frames
    );
    assert!(
        hidden.bytes * 20 <= active.bytes,
        "{} bytes in the background, {} otherwise",
        hidden.bytes,
        active.bytes
    );
    println!(
        "in a minute: {} frames and {} bytes active, {} frames and {} bytes in the background",
        active.frames, active.bytes, hidden.frames, hidden.bytes
    );

    // In the foreground again: the newest value of every channel, once.
    let frames = hidden.frames;
    hidden
        .connection
        .set_visibility(Visibility::Active)
        .unwrap();
    hidden.read();
    assert_eq!(hidden.prices, active.prices);
    assert_eq!(hidden.frames, frames + 1);
}

/// An action on a channel with an interval.
#[derive(Debug, Clone, Copy)]
enum Action {
    Publish,
    Wait(u64),
    Read,
    Hide,
    Show,
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let action = prop_oneof![
        6 => Just(Action::Publish),
        4 => (0_u64..250).prop_map(Action::Wait),
        4 => Just(Action::Read),
        1 => Just(Action::Hide),
        1 => Just(Action::Show),
    ];
    proptest::collection::vec(action, 1..120)
}

struct Reader {
    connection: Connection,
    interval: Duration,
    seq: u64,
    at: Option<Instant>,
    hidden: bool,
}

impl Reader {
    fn read(&mut self) {
        let now = Instant::now();
        for message in take(&self.connection) {
            let OutgoingMessage::Publication(publication) = message else {
                continue;
            };
            assert!(!self.hidden, "nothing is sent in the background");
            assert!(
                publication.seq() > self.seq,
                "each value newer than the last"
            );
            if let Some(at) = self.at {
                assert!(now - at >= self.interval, "not before the interval is over");
            }
            self.seq = publication.seq();
            self.at = Some(now);
        }
    }
}

async fn play(interval_ms: u32, actions: Vec<Action>) {
    let stream = stream();
    let connection = connect(&stream).await;
    let channels = vec![ChannelSubscription {
        channel: "state:a".into(),
        since: None,
        min_interval_ms: Some(interval_ms),
    }];
    subscribe(&connection, channels).await;
    let mut reader = Reader {
        connection,
        interval: Duration::from_millis(interval_ms.into()),
        seq: 0,
        at: None,
        hidden: false,
    };
    let mut top = 0;
    for action in actions {
        match action {
            Action::Publish => {
                top += 1;
                let data = Bytes::from(top.to_string());
                let published = stream.publish_as(&Identity::Anonymous, "state:a", data, None);
                assert_eq!(published.await.unwrap().1.seq, top);
            }
            Action::Wait(ms) => advance(Duration::from_millis(ms)).await,
            Action::Read => reader.read(),
            Action::Hide | Action::Show => {
                // Messages on their way are delivered.
                reader.read();
                reader.hidden = matches!(action, Action::Hide);
                let visibility = match action {
                    Action::Hide => Visibility::Background,
                    _ => Visibility::Active,
                };
                reader.connection.set_visibility(visibility).unwrap();
            }
        }
        assert!(
            reader.connection.queued_items() <= 1,
            "one item for one channel"
        );
    }
    reader.hidden = false;
    reader
        .connection
        .set_visibility(Visibility::Active)
        .unwrap();
    reader.read();
    // A reader that waits gets the last value within one interval.
    let mut out = Vec::new();
    let due = Instant::now() + reader.interval;
    reader
        .connection
        .next_until(|| Some(due), usize::MAX, &mut out)
        .await
        .unwrap();
    let last = match out.pop() {
        Some(OutgoingMessage::Publication(publication)) => publication.seq(),
        _ => reader.seq,
    };
    assert_eq!(last, top, "the last value is always sent");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn an_interval_conflates_values_and_never_loses_the_last(
        interval_ms in 1_u32..400,
        actions in actions(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(play(interval_ms, actions));
    }
}
