//! A long random walk of several clients against a model: some read by themselves,
//! some are written to by their shard, all read as fast or slowly as chance wants.
//!
//! Whatever happens in whatever order, a client of a history channel gets every
//! publication once and in order, or is told that something is lost; a client of a
//! latest channel never goes back and ends with the newest value.
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

use support::{arrival, core_with, open_history};

const STEPS: usize = 100_000;
const SEEDS: [u64; 2] = [1, 20_261_124];
const CLIENTS: usize = 6;
const OUTBOX: usize = 2_000;
/// No message of this test is longer.
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

/// A socket that takes so many bytes and no more.
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
            OutgoingItem::Batch(run) => {
                RUNS.fetch_add(1, Ordering::Relaxed);
                let all = run.publications().iter().cloned();
                all.map(OutgoingMessage::Publication).collect()
            }
        };
        let size: usize = messages.iter().map(|one| one.json().len()).sum();
        self.room = self.room.saturating_sub(size);
        self.got.extend(messages);
    }
}

/// How many runs sinks were handed: the model means little if there are none.
static RUNS: AtomicUsize = AtomicUsize::new(0);

enum Reading {
    /// The transport asks for more.
    Pull,
    /// The shard writes.
    Push(Arc<Socket>),
}

/// What a client knows of a channel.
struct Known {
    epoch: String,
    seen: u64,
    follows: bool,
}

struct Client {
    connection: Connection,
    reading: Reading,
    is_closed: bool,
    known: HashMap<&'static str, Known>,
}

impl Client {
    async fn connect(stream: &Arc<StreamCore>, shard: ShardId) -> Self {
        let connection = stream.connect(arrival(shard)).await;
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
            known: HashMap::new(),
        }
    }

    async fn subscribe(&mut self, channel: &'static str, resume: bool) {
        let is_latest = channel.starts_with("ticks");
        let since = self.known.get(channel).filter(|_| resume && !is_latest);
        let since = since.map(|known| v1::Position {
            epoch: known.epoch.clone(),
            seq: known.seen,
        });
        let was_following = self.known.get(channel).is_some_and(|known| known.follows);
        let channels = vec![ChannelSubscription {
            channel: channel.into(),
            since: since.clone(),
            min_interval_ms: None,
        }];
        let request = SubscribeRequest { channels };
        let subscribed = self.connection.subscribe(request).await;
        let result = subscribed.unwrap().channels.remove(0);
        assert_eq!(result.error, None);
        if since.is_some() || !was_following {
            let seen = match since {
                Some(since) if result.recovered => since.seq,
                // A latest channel says its newest value again.
                _ if is_latest => 0,
                _ => result.seq,
            };
            let known = Known {
                epoch: result.epoch,
                seen,
                follows: true,
            };
            self.known.insert(channel, known);
        }
        self.connection.release_held();
    }

    fn unsubscribe(&mut self, channel: &'static str) {
        let channels = vec![channel.to_owned()];
        let request = UnsubscribeRequest { channels };
        self.connection.unsubscribe(&request).unwrap();
        if let Some(known) = self.known.get_mut(channel) {
            known.follows = false;
        }
    }

    /// Lets the client read about `bytes`. False if there was nothing.
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
                let known = self.known.get_mut(channel).expect("it is followed");
                assert!(known.follows, "nothing comes after leaving");
                assert_eq!(known.epoch, publication.position().epoch.as_str());
                if channel.starts_with("ticks") {
                    assert!(publication.seq() > known.seen, "never back");
                } else {
                    assert_eq!(publication.seq(), known.seen + 1, "each once, in order");
                }
                known.seen = publication.seq();
            }
            OutgoingMessage::Direct(message) => {
                if let Some(Data::Gap(gap)) = &message.data {
                    let known = self.known.get_mut(gap.channel.as_str()).unwrap();
                    assert!(gap.seq > known.seen, "a gap is a loss");
                    known.seen = gap.seq;
                }
            }
            OutgoingMessage::PriceBatch(_) => unreachable!("there are no prices"),
        }
    }
}

/// Lets the shards take their turns.
async fn turns() {
    tokio::time::sleep(Duration::from_millis(30)).await;
}

async fn walk(seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let stream = stream(2);
    let mut homes = vec![ShardId::CALLER];
    for shard in stream.hub().shards() {
        homes.push(shard);
        let shard = stream.hub().shard(shard).clone();
        tokio::spawn(async move { shard.run(Duration::from_millis(15)).await });
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
            65..75 => turns().await,
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
            // The link breaks, and the client comes back to what it followed.
            93..98 => {
                let home = *homes.choose(&mut rng).unwrap();
                let known = std::mem::take(&mut client.known);
                *client = Client::connect(&stream, home).await;
                client.known = known;
                let followed: Vec<_> = client
                    .known
                    .iter_mut()
                    .filter_map(|(channel, known)| {
                        std::mem::take(&mut known.follows).then_some(*channel)
                    })
                    .collect();
                for channel in followed {
                    client.subscribe(channel, true).await;
                }
            }
            _ => {
                // Nothing of an earlier visit counts.
                client.unsubscribe(channel);
                client.known.remove(channel);
            }
        }
        let queued = client.connection.queued_bytes();
        assert!(queued <= OUTBOX + ONE_MESSAGE, "the outbox is bounded");
    }
    settle(&mut clients).await;
    for client in &clients {
        for (channel, known) in client.known.iter().filter(|(_, known)| known.follows) {
            assert_eq!(known.seen, tops[channel], "{channel} is had as a whole");
        }
    }
    drain(&stream, clients).await;
}

/// Everyone looks and reads until there is nothing more.
async fn settle(clients: &mut [Client]) {
    for client in clients.iter_mut() {
        client
            .connection
            .set_visibility(Visibility::Active)
            .unwrap();
    }
    // A round without anything may have begun to read a history: the next one has it.
    let mut quiet = 0;
    while quiet < 2 {
        turns().await;
        let mut had_some = false;
        for client in clients.iter_mut() {
            had_some |= client.read(usize::MAX);
        }
        quiet = if had_some { 0 } else { quiet + 1 };
    }
}

/// A drain tells everyone, and leaves nobody behind.
async fn drain(stream: &Arc<StreamCore>, mut clients: Vec<Client>) {
    stream.drain(Duration::from_secs(2)).await;
    turns().await;
    for client in &mut clients {
        while client.read(usize::MAX) {}
        assert!(client.is_closed, "everyone is sent away");
    }
    clients.clear();
    assert_eq!(stream.hub().channel_count(), 0, "nobody is left in the hub");
    assert_eq!(stream.stats().connections(), 0);
}

/// A shard that takes no turns is bounded too, and nothing is lost in silence.
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
    let shard = stream.hub().shard(home).clone();
    assert!(shard.inbox_len() <= 16_384, "{} wait", shard.inbox_len());
    tokio::spawn(async move { shard.run(Duration::from_millis(15)).await });
    let mut clients = [client];
    settle(&mut clients).await;
    for (channel, known) in &clients[0].known {
        assert_eq!(known.seen, MANY, "{channel} is had, or its loss was told");
    }
}

#[test]
fn no_walk_loses_doubles_or_reorders_in_silence() {
    for seed in SEEDS {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(walk(seed));
    }
    let runs = RUNS.load(Ordering::Relaxed);
    assert!(
        runs > 1_000,
        "{runs} runs were handed out, too few to try them"
    );
}
