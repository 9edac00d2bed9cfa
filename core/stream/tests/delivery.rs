//! Delivery against a model: a long random sequence of actions of several clients. Some wait
//! for messages, some are written to by their shard; all read at random speed.
//!
//! In any order of actions, a client of a history channel gets every publication once and in
//! order, or a `gap`. A client of a latest channel gets newer values only, and in the end the
//! newest.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::{
    collections::HashMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::FutureExt as _;
use parking_lot::Mutex;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use tidewire_proto::v1::{
    self, ChannelSubscription, SubscribeRequest, UnsubscribeRequest, Visibility,
    server_message::Data,
};
use tidewire_stream::{
    Class, Connection, FlushOutcome, Identity, Namespace, OutgoingItem, OutgoingMessage, Session,
    ShardId, Sink, StreamCore, StreamOptions,
};
use tokio::time::Instant;

use support::{client_on, core_with, open_history, run_shard, run_ticks};

const STEPS: usize = 100_000;
const SEEDS: [u64; 2] = [1, 20_261_124];
const CLIENTS: usize = 6;
const OUTBOX: usize = 2_000;
/// Upper bound of one message of this test, in bytes.
const ONE_MESSAGE: usize = 250;
const CHANNELS: [&str; 4] = ["orders:1", "orders:2", "log:1", "ticks:1"];

fn stream(shards: usize) -> Arc<StreamCore> {
    let namespaces = [
        ("orders", Class::History, 40),
        ("log", Class::History, 400),
        ("ticks", Class::Latest, 1),
    ];
    let namespaces = namespaces.map(|(name, class, history_size)| Namespace {
        class,
        history_size,
        ..open_history(name)
    });
    let options = StreamOptions {
        outbox_bytes: OUTBOX,
        shards,
        ..StreamOptions::default()
    };
    core_with(namespaces, options).0
}

/// A socket with room for a number of bytes.
struct Socket {
    session: Session,
    state: Mutex<SocketState>,
}

#[derive(Default)]
struct SocketState {
    room: usize,
    got: Vec<OutgoingMessage>,
    is_closed: bool,
}

impl Sink for Socket {
    fn flush(&self, now: Instant) {
        let mut state = self.state.lock();
        while state.room > 0 && !state.is_closed {
            let mut out = Vec::new();
            let later = now + Duration::from_secs(3_600);
            match self.session.take_outgoing(now, state.room, &mut out, later) {
                FlushOutcome::More | FlushOutcome::Drained => {
                    for item in out.drain(..) {
                        state.take(item);
                    }
                }
                FlushOutcome::Idle => return,
                FlushOutcome::Close(_) => state.is_closed = true,
            }
        }
    }
}

impl SocketState {
    fn take(&mut self, item: OutgoingItem) {
        let messages = match item {
            OutgoingItem::Message(message) => vec![message],
            OutgoingItem::Batch(batch) => {
                BATCHES.fetch_add(1, Ordering::Relaxed);
                let all = batch.publications().iter().cloned();
                all.map(OutgoingMessage::Publication).collect()
            }
        };
        let size: usize = messages.iter().map(|one| one.json().len()).sum();
        self.room = self.room.saturating_sub(size);
        self.got.extend(messages);
    }
}

/// Batches that sinks got: without batches, the test would not cover them.
static BATCHES: AtomicUsize = AtomicUsize::new(0);

enum Reading {
    /// The transport waits for messages.
    Pull,
    /// The shard writes.
    Push(Arc<Socket>),
}

/// Position of a client on a channel.
struct ChannelView {
    epoch: String,
    seq: u64,
    is_subscribed: bool,
}

struct Client {
    connection: Connection,
    reading: Reading,
    is_closed: bool,
    views: HashMap<&'static str, ChannelView>,
}

impl Client {
    async fn connect(stream: &Arc<StreamCore>, shard: ShardId) -> Self {
        let connection = stream.connect(client_on(shard)).await;
        let reading = if shard == ShardId::CALLER {
            Reading::Pull
        } else {
            let socket = Arc::new(Socket {
                session: Session::clone(&connection),
                state: Mutex::default(),
            });
            let weak: Weak<Socket> = Arc::downgrade(&socket);
            connection.attach(weak);
            Reading::Push(socket)
        };
        Self {
            connection,
            reading,
            is_closed: false,
            views: HashMap::new(),
        }
    }

    async fn subscribe(&mut self, channel: &'static str, resume: bool) {
        let is_latest = channel.starts_with("ticks");
        let since = self.views.get(channel).filter(|_| resume && !is_latest);
        let since = since.map(|view| v1::Position {
            epoch: view.epoch.clone(),
            seq: view.seq,
        });
        let was_subscribed = self
            .views
            .get(channel)
            .is_some_and(|view| view.is_subscribed);
        let channels = vec![ChannelSubscription {
            channel: channel.into(),
            since: since.clone(),
            min_interval_ms: None,
        }];
        let request = SubscribeRequest { channels };
        let subscribed = self.connection.begin_command().subscribe(request).await;
        let result = subscribed.unwrap().channels.remove(0);
        assert_eq!(result.error, None);
        if since.is_none() && was_subscribed && !is_latest {
            let view = &self.views[channel];
            assert!(result.seq <= view.seq, "a repeated subscribe is not ahead");
        }
        if since.is_some() || !was_subscribed {
            let seq = match since {
                Some(since) if result.recovered => since.seq,
                // A latest channel sends its newest value again.
                _ if is_latest => 0,
                _ => result.seq,
            };
            let view = ChannelView {
                epoch: result.epoch,
                seq,
                is_subscribed: true,
            };
            self.views.insert(channel, view);
        }
    }

    fn unsubscribe(&mut self, channel: &'static str) {
        let channels = vec![channel.to_owned()];
        let request = UnsubscribeRequest { channels };
        self.connection.unsubscribe(&request).unwrap();
        if let Some(view) = self.views.get_mut(channel) {
            view.is_subscribed = false;
        }
    }

    /// Reads about `bytes`. Returns false if there was nothing.
    fn read(&mut self, bytes: usize) -> bool {
        let mut out = Vec::new();
        match &self.reading {
            Reading::Pull => match self.connection.next(bytes, &mut out).now_or_never() {
                None => return false,
                Some(Ok(())) => {}
                Some(Err(_)) => self.is_closed = true,
            },
            Reading::Push(socket) => {
                socket.state.lock().room = bytes;
                socket.flush(Instant::now());
                let mut state = socket.state.lock();
                state.room = 0;
                out.append(&mut state.got);
                self.is_closed = state.is_closed;
            }
        }
        let had_some = !out.is_empty();
        for message in out {
            self.take(message);
        }
        had_some
    }

    fn take(&mut self, message: OutgoingMessage) {
        match message {
            OutgoingMessage::Publication(publication) => {
                let channel = publication.channel().as_str();
                let view = self.views.get_mut(channel).expect("it is subscribed");
                assert!(view.is_subscribed, "nothing is sent after unsubscribing");
                assert_eq!(view.epoch, publication.position().epoch.as_str());
                if channel.starts_with("ticks") {
                    assert!(publication.seq() > view.seq, "values never go back");
                } else {
                    assert_eq!(publication.seq(), view.seq + 1, "each once, in order");
                }
                view.seq = publication.seq();
            }
            OutgoingMessage::Direct(message) => {
                if let Some(Data::Gap(gap)) = &message.to_message().data {
                    let view = self.views.get_mut(gap.channel.as_str()).unwrap();
                    assert!(gap.seq > view.seq, "a gap goes forward");
                    view.seq = gap.seq;
                }
            }
            OutgoingMessage::PriceBatch(_) => unreachable!("there are no prices"),
        }
    }
}

async fn play(seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let stream = stream(2);
    let mut homes = vec![ShardId::CALLER];
    for shard in stream.hub().shards() {
        homes.push(shard);
        run_shard(&stream, shard);
    }
    let mut clients = Vec::new();
    for index in 0..CLIENTS {
        clients.push(Client::connect(&stream, homes[index % homes.len()]).await);
    }
    let mut tops: HashMap<&str, u64> = HashMap::new();
    for _ in 0..STEPS {
        let channel = *CHANNELS.choose(&mut rng).unwrap();
        let index = rng.random_range(0..clients.len());
        let client = &mut clients[index];
        match rng.random_range(0..100) {
            0..35 => {
                for _ in 0..rng.random_range(1..20) {
                    let top = tops.entry(channel).or_default();
                    *top += 1;
                    let data = Bytes::from(format!("{{\"n\":{top}}}"));
                    let (_, at) = stream
                        .publish_as(&Identity::Anonymous, channel, data, None)
                        .await
                        .unwrap();
                    assert_eq!(at.seq, *top);
                }
            }
            35..65 => {
                client.read(rng.random_range(1..4_000));
            }
            65..75 => run_ticks().await,
            75..85 => client.subscribe(channel, rng.random()).await,
            85..88 => client.unsubscribe(channel),
            88..93 => {
                let state = if rng.random() {
                    Visibility::Active
                } else {
                    Visibility::Background
                };
                client.connection.set_visibility(state).unwrap();
            }
            // The link breaks, and the client recovers its subscriptions.
            93..98 => {
                let home = *homes.choose(&mut rng).unwrap();
                let views = std::mem::take(&mut client.views);
                *client = Client::connect(&stream, home).await;
                client.views = views;
                let followed: Vec<_> = client
                    .views
                    .iter_mut()
                    .filter_map(|(channel, view)| {
                        std::mem::take(&mut view.is_subscribed).then_some(*channel)
                    })
                    .collect();
                for channel in followed {
                    client.subscribe(channel, true).await;
                }
            }
            _ => {
                // A fresh start: no earlier position counts.
                client.unsubscribe(channel);
                client.views.remove(channel);
            }
        }
        let queued = client.connection.queued_bytes();
        assert!(queued <= OUTBOX + ONE_MESSAGE, "the outbox is bounded");
    }
    settle(&mut clients).await;
    for client in &clients {
        for (channel, view) in client.views.iter().filter(|(_, view)| view.is_subscribed) {
            assert_eq!(view.seq, tops[channel], "{channel} is complete");
        }
    }
    drain(&stream, clients).await;
}

/// All clients are in the foreground and read until there is nothing more.
async fn settle(clients: &mut [Client]) {
    for client in clients.iter_mut() {
        client
            .connection
            .set_visibility(Visibility::Active)
            .unwrap();
    }
    // A quiet round may have begun to read a history, which the next round delivers.
    let mut quiet = 0;
    while quiet < 2 {
        run_ticks().await;
        let mut had_some = false;
        for client in clients.iter_mut() {
            had_some |= client.read(usize::MAX);
        }
        quiet = if had_some { 0 } else { quiet + 1 };
    }
}

/// A drain ends all sessions, and leaves nothing behind.
async fn drain(stream: &Arc<StreamCore>, mut clients: Vec<Client>) {
    stream.drain(Duration::from_secs(2)).await;
    run_ticks().await;
    for client in &mut clients {
        while client.read(usize::MAX) {}
        assert!(client.is_closed, "every session ends");
    }
    clients.clear();
    assert_eq!(
        stream.hub().channel_count(),
        0,
        "no subscription is left in the hub"
    );
    assert_eq!(stream.stats().connections(), 0);
}

/// A shard that runs no ticks is bounded too, and nothing is lost without a gap.
#[tokio::test(start_paused = true)]
async fn a_shard_that_cannot_keep_up_keeps_the_newest_of_each_channel() {
    const MANY: u64 = 40_000;
    let stream = stream(1);
    let home = stream.hub().shards().next().unwrap();
    let mut client = Client::connect(&stream, home).await;
    for channel in ["orders:1", "ticks:1"] {
        client.subscribe(channel, false).await;
    }
    for number in 1..=MANY {
        for channel in ["orders:1", "ticks:1"] {
            let data = Bytes::from(number.to_string());
            let published = stream.publish_as(&Identity::Anonymous, channel, data, None);
            published.await.unwrap();
        }
    }
    let waiting = stream.hub().shard(home).inbox_len();
    assert!(waiting <= 16_384, "{waiting} in the inbox");
    run_shard(&stream, home);
    let mut clients = [client];
    settle(&mut clients).await;
    for (channel, view) in &clients[0].views {
        assert_eq!(view.seq, MANY, "{channel} is complete, or has a gap");
    }
}

#[test]
fn no_publication_is_lost_repeated_or_reordered_without_a_gap() {
    for seed in SEEDS {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(play(seed));
    }
    let batches = BATCHES.load(Ordering::Relaxed);
    assert!(
        batches > 1_000,
        "{batches} batches are too few for this test"
    );
}
