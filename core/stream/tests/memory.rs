//! Memory of a session: everything that waits for a client is bounded and counted, and what is
//! left to the histories is read when the client reads.
#![allow(clippy::unwrap_used)]

mod support;

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use futures::FutureExt as _;
use tidewire_proto::v1::{
    ChannelSubscription, ErrorCode, Position as WirePosition, ServerMessage, SubscribeRequest,
    server_message::Data,
};
use tidewire_stream::{
    Connection, Identity, Namespace, OutgoingMessage, ShardId, StreamCore, StreamOptions,
};

use support::{client_on, core_with, open_history};

const OUTBOX: usize = 64 << 10;
const CHANNELS: usize = 40;
/// Publications of each channel, and the length of each in bytes.
const EACH: u64 = 20;
const LENGTH: usize = 4_000;

fn stream() -> Arc<StreamCore> {
    let orders = Namespace {
        history_size: usize::try_from(EACH).unwrap(),
        ..open_history("orders")
    };
    let options = StreamOptions {
        outbox_bytes: OUTBOX,
        ..StreamOptions::default()
    };
    core_with([orders], options).0
}

fn channel(index: usize) -> String {
    format!("orders:{index}")
}

async fn publish(stream: &StreamCore) {
    for index in 0..CHANNELS {
        for _ in 0..EACH {
            let data = Bytes::from(format!("{:?}", "x".repeat(LENGTH)));
            let channel = channel(index);
            let published = stream.publish_as(&Identity::Anonymous, &channel, data, None);
            published.await.unwrap();
        }
    }
}

/// Subscribes to every channel from its beginning, with one command.
async fn recover(stream: &StreamCore, connection: &Connection) {
    let epoch = stream
        .history_as(
            &Identity::Anonymous,
            &channel(0),
            None,
            tidewire_stream::PageLimit::NOTHING,
        )
        .await
        .unwrap()
        .1
        .top
        .epoch;
    let since = WirePosition {
        epoch: epoch.as_str().to_owned(),
        seq: 0,
    };
    let channels = (0..CHANNELS).map(|index| ChannelSubscription {
        channel: channel(index),
        since: Some(since.clone()),
        min_interval_ms: None,
    });
    let channels = channels.collect();
    let command = connection.begin_command();
    let subscribed = command.subscribe(SubscribeRequest { channels }).await;
    let subscribed = subscribed.unwrap();
    for result in &subscribed.channels {
        assert!(result.recovered, "{result:?}");
    }
    assert_bounded(connection);
    command.reply(ServerMessage {
        data: Some(Data::Subscribed(subscribed)),
        ..ServerMessage::default()
    });
    assert_bounded(connection);
}

/// The outbox, buffers of half as much, and one message that was begun.
fn assert_bounded(connection: &Connection) {
    let waiting = connection.waiting_bytes();
    assert!(waiting <= OUTBOX + OUTBOX / 2 + 2 * LENGTH, "{waiting}");
}

/// Reads everything, and returns the newest position of each channel and the number of gaps.
fn read_all(connection: &Connection) -> (HashMap<String, u64>, usize) {
    let (mut seqs, mut gaps) = (HashMap::new(), 0);
    loop {
        let mut out = Vec::new();
        if connection.next(16 << 10, &mut out).now_or_never().is_none() {
            return (seqs, gaps);
        }
        assert_bounded(connection);
        for message in out {
            match message {
                OutgoingMessage::Publication(publication) => {
                    let channel = publication.channel().as_str().to_owned();
                    let seq: &mut u64 = seqs.entry(channel).or_default();
                    assert_eq!(publication.seq(), *seq + 1, "each once, in order");
                    *seq += 1;
                }
                OutgoingMessage::Direct(message) => {
                    if let Some(Data::Gap(gap)) = message.to_message().data {
                        gaps += 1;
                        seqs.insert(gap.channel, gap.seq);
                    }
                }
                OutgoingMessage::PriceBatch(_) => unreachable!("there are no prices"),
            }
        }
    }
}

#[tokio::test]
async fn recovery_of_many_channels_holds_no_more_than_an_outbox_and_a_half() {
    let stream = stream();
    publish(&stream).await;
    let connection = stream.connect(client_on(ShardId::CALLER)).await;
    recover(&stream, &connection).await;
    let (seqs, gaps) = read_all(&connection);
    assert_eq!(gaps, 0, "every history still reaches back");
    assert_eq!(seqs.len(), CHANNELS);
    assert!(seqs.values().all(|seq| *seq == EACH), "{seqs:?}");
    assert_eq!(connection.waiting_bytes(), 0);
}

#[tokio::test]
async fn a_reader_that_waits_until_histories_dropped_what_it_missed_gets_gaps() {
    let stream = stream();
    publish(&stream).await;
    let connection = stream.connect(client_on(ShardId::CALLER)).await;
    recover(&stream, &connection).await;
    for _ in 0..3 {
        publish(&stream).await;
        assert_bounded(&connection);
    }
    let (seqs, gaps) = read_all(&connection);
    assert!(gaps > 0, "the histories do not reach back any more");
    assert_eq!(seqs.len(), CHANNELS);
    assert!(seqs.values().all(|seq| *seq == 4 * EACH), "{seqs:?}");
}

#[tokio::test]
async fn what_a_transport_took_counts_until_it_comes_back() {
    let stream = stream();
    publish(&stream).await;
    let connection = stream.connect(client_on(ShardId::CALLER)).await;
    read_all(&connection);
    recover(&stream, &connection).await;
    let before = connection.waiting_bytes();
    let mut out = Vec::new();
    connection.next(16 << 10, &mut out).await.unwrap();
    // The room in the outbox may be filled again at once, so that even more waits.
    assert!(connection.waiting_bytes() >= before, "taken is not sent");
    connection.record_unsent(0);
    assert!(connection.waiting_bytes() <= OUTBOX + OUTBOX / 2);
}

#[tokio::test]
async fn a_reply_that_would_not_fit_the_outbox_is_refused_before_it_is_made() {
    let stream = stream();
    let connection = stream.connect(client_on(ShardId::CALLER)).await;
    let names = |count: usize, name: &str| SubscribeRequest {
        channels: vec![
            ChannelSubscription {
                channel: name.to_owned(),
                ..ChannelSubscription::default()
            };
            count
        ],
    };
    let command = connection.begin_command();
    let error = command.subscribe(names(13_000, "q:")).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::InvalidArgument);
    // As many as fit are answered one by one, and their reply fits.
    let count = OUTBOX / 200;
    let subscribed = command.subscribe(names(count, "q:")).await.unwrap();
    assert_eq!(subscribed.channels.len(), count);
    let is_bad = |code: i32| code == i32::from(ErrorCode::InvalidArgument);
    for result in &subscribed.channels {
        let error = result.error.as_ref().unwrap();
        assert!(is_bad(error.code) && !error.message.is_empty(), "{error:?}");
    }
    command.reply(ServerMessage {
        data: Some(Data::Subscribed(subscribed)),
        ..ServerMessage::default()
    });
    assert!(
        connection.queued_bytes() <= OUTBOX,
        "{}",
        connection.queued_bytes()
    );
}

#[tokio::test]
async fn a_reply_counts_from_its_reservation_on() {
    let stream = stream();
    let connection = stream.connect(client_on(ShardId::CALLER)).await;
    read_all(&connection);
    let first = connection.reserve_reply(OUTBOX);
    assert_eq!(
        (first.bytes(), connection.waiting_bytes()),
        (OUTBOX, OUTBOX)
    );
    assert!(connection.is_reply_queue_full(), "the next command waits");
    let second = connection.reserve_reply(OUTBOX);
    assert_eq!(second.bytes(), OUTBOX / 8, "enough for an answer");
    drop((first, second));
    assert!(!connection.is_reply_queue_full());
    assert_eq!(connection.waiting_bytes(), 0);
}
