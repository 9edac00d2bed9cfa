//! A broker under test, with a list of all that it delivered.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use tidewire_stream::{
    ChannelName, Class, ClientKey, Event, ManualClock, Namespace, Namespaces, PageLimit, Position,
    Publication, PublishRight, StreamError,
    broker::{
        Broker as _, Fence, History, LocalDelivery, RedisBroker, Sender,
        memory::MemoryLimits,
        redis::{
            CertificateFiles, Cluster, NodeProtocol, RedisAddress, RedisOptions, RedisTls,
            Sentinels,
        },
    },
};
use tidewire_tests::{RedisServer, eventually};

/// All that a broker delivered.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    subscribed: Mutex<HashSet<ChannelName>>,
    delivered: Mutex<HashMap<ChannelName, Vec<Delivered>>>,
}

/// One entry of a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Delivered {
    /// A publication: its epoch, its seq and its document.
    Publication(String, u64, String),
    /// A newest position without a publication.
    Newest(String, u64),
}

impl Recorder {
    pub(crate) fn on(&self, channel: &ChannelName) -> Vec<Delivered> {
        self.delivered
            .lock()
            .get(channel)
            .cloned()
            .unwrap_or_default()
    }

    /// The numbers and documents on a channel.
    pub(crate) fn publications(&self, channel: &ChannelName) -> Vec<(u64, String)> {
        let all = self.on(channel).into_iter();
        let all = all.filter_map(|one| match one {
            Delivered::Publication(_, seq, document) => Some((seq, document)),
            Delivered::Newest(..) => None,
        });
        all.collect()
    }

    fn push(&self, channel: &ChannelName, delivered: Delivered) {
        let mut all = self.delivered.lock();
        all.entry(channel.clone()).or_default().push(delivered);
    }
}

impl LocalDelivery for Recorder {
    fn deliver(&self, publication: &Arc<Publication>) -> bool {
        let position = publication.position();
        let document = document(publication);
        let epoch = position.epoch.as_str().to_owned();
        let one = Delivered::Publication(epoch, position.seq, document);
        self.push(publication.channel(), one);
        self.has_subscribers(publication.channel())
    }

    fn note_newest(&self, channel: &ChannelName, newest: &Position) {
        let epoch = newest.epoch.as_str().to_owned();
        self.push(channel, Delivered::Newest(epoch, newest.seq));
    }

    fn has_subscribers(&self, channel: &ChannelName) -> bool {
        self.subscribed.lock().contains(channel)
    }
}

pub(crate) fn document(publication: &Publication) -> String {
    match &*publication.event() {
        Event::Message(document) => String::from_utf8_lossy(document).into_owned(),
        _ => String::from_utf8_lossy(publication.json_data()).into_owned(),
    }
}

pub(crate) fn channel(name: &str) -> ChannelName {
    ChannelName::parse(name).unwrap()
}

/// A broker, and what it delivered.
pub(crate) struct Node {
    pub(crate) broker: RedisBroker<Recorder>,
    pub(crate) recorder: Arc<Recorder>,
}

pub(crate) fn options(redis: &RedisServer) -> RedisOptions {
    RedisOptions {
        address: RedisAddress::parse(&redis.url()).unwrap(),
        cluster: Cluster::default(),
        sentinels: Sentinels::default(),
        tls: RedisTls::new(&CertificateFiles::default()).unwrap(),
        prefix: "test".to_owned(),
        timeout: Duration::from_secs(5),
        buffer_bytes: 64 << 20,
        comparison: RedisOptions::COMPARISON,
        protocol: NodeProtocol::CURRENT,
    }
}

/// Publishes the document of 1 again on `orders:1` under this seq, of which pub/sub says nothing.
pub(crate) async fn lose_message(redis: &RedisServer, seq: u64) {
    let meta = redis.command(&["KEYS", "test:*:meta:orders:1"]).await;
    let meta = meta.lines().last().unwrap().trim().to_owned();
    let history = meta.replace("meta", "history");
    let script = "local first = redis.call('XRANGE', KEYS[2], '-', '+')[1]
        redis.call('XADD', KEYS[2], ARGV[1] .. '-0', 'd', first[2][2], 'm', '1 other:1')
        return redis.call('HSET', KEYS[1], 's', ARGV[1])";
    let command = ["EVAL", script, "2", &meta, &history, &seq.to_string()];
    assert_eq!(redis.command(&command).await, ":0\r\n");
}

/// `orders` keeps 1,000 publications, `short` keeps 5, `values` the newest one. Those in `shared` have
/// an engine that one node owns.
fn namespaces(shared: &[&str]) -> Arc<Namespaces> {
    let mut all = Namespaces::built_in();
    for namespace in shared {
        all.share(namespace).unwrap();
    }
    all.add(Namespace::history("orders")).unwrap();
    all.add(Namespace {
        history_size: 5,
        ..Namespace::history("short")
    })
    .unwrap();
    all.add(Namespace {
        class: Class::Latest,
        publish: PublishRight::Service,
        ..Namespace::latest("values")
    })
    .unwrap();
    Arc::new(all)
}

impl Node {
    pub(crate) async fn start(redis: &RedisServer) -> Self {
        Self::with(options(redis), MemoryLimits::default())
            .await
            .unwrap()
    }

    pub(crate) async fn with(
        options: RedisOptions,
        limits: MemoryLimits,
    ) -> Result<Self, StreamError> {
        Self::sharing(&["prices"], options, limits).await
    }

    /// A node where the engines of these namespaces are owned by one node.
    pub(crate) async fn sharing(
        shared: &[&str],
        options: RedisOptions,
        limits: MemoryLimits,
    ) -> Result<Self, StreamError> {
        let recorder = Arc::new(Recorder::default());
        // Its time does not matter: that of Redis does.
        let clock = ManualClock::at(0);
        let broker =
            RedisBroker::start(namespaces(shared), recorder.clone(), clock, limits, options);
        Ok(Self {
            broker: broker.await?,
            recorder,
        })
    }

    /// Subscribes, as a session does: first in the list of the hub, then at the broker.
    pub(crate) async fn try_subscribe(
        &self,
        channel: &ChannelName,
    ) -> Result<Position, StreamError> {
        self.recorder.subscribed.lock().insert(channel.clone());
        if let Some(joined) = self.broker.join(channel) {
            joined.await?;
        }
        let history = self.broker.history(channel, None, PageLimit::NOTHING);
        Ok(history.await?.top)
    }

    pub(crate) async fn subscribe(&self, channel: &ChannelName) -> Position {
        self.try_subscribe(channel).await.unwrap()
    }

    pub(crate) fn unsubscribe(&self, channel: &ChannelName) {
        self.broker.note_left(channel);
        self.recorder.subscribed.lock().remove(channel);
    }

    pub(crate) async fn try_publish(
        &self,
        channel: &ChannelName,
        document: &str,
        key: Option<&str>,
    ) -> Result<Position, StreamError> {
        let event = Event::Message(Bytes::copy_from_slice(document.as_bytes()));
        let sender = Sender {
            client: ClientKey::Unknown,
            is_limited: false,
        };
        self.broker.publish(channel, event, key, sender).await
    }

    pub(crate) async fn publish(&self, channel: &ChannelName, document: &str) -> Position {
        self.try_publish(channel, document, None).await.unwrap()
    }

    /// Publishes for an engine that this node owns, or owned.
    pub(crate) fn offer(&self, channel: &ChannelName, document: &str, fence: &Arc<Fence>) {
        let event = Event::Message(Bytes::copy_from_slice(document.as_bytes()));
        self.broker.offer_fenced(channel, event, fence);
    }

    /// Publishes under a key for an engine that this node owns, or owned.
    pub(crate) async fn offer_once(
        &self,
        channel: &ChannelName,
        document: &str,
        key: &str,
        fence: &Arc<Fence>,
    ) -> Result<(), StreamError> {
        let event = Event::Message(Bytes::copy_from_slice(document.as_bytes()));
        self.broker
            .offer_fenced_once(channel, event, key, fence)
            .await
    }

    pub(crate) async fn history(&self, channel: &ChannelName, since: Option<&Position>) -> History {
        let history = self.broker.history(channel, since, PageLimit::ALL);
        history.await.unwrap()
    }

    /// Waits until a channel has this many publications.
    pub(crate) async fn delivered(
        &self,
        channel: &ChannelName,
        count: usize,
    ) -> Vec<(u64, String)> {
        let what = format!("{count} publications on {channel}");
        eventually(what, async || {
            let all = self.recorder.publications(channel);
            (all.len() >= count).then_some(all)
        })
        .await
    }
}

impl Node {
    /// The fault of the broker.
    pub(crate) fn fault(&self) -> Option<String> {
        self.broker.link().and_then(|link| link.fault)
    }
}
