//! Market: a venue whose price only rises, an observer of the prices that the cluster publishes, and alert
//! rules that the price passes.
//!
//! Each trade is higher than the one before. A price that goes back was therefore published by a server
//! that had lost the engine, and each rule has to fire exactly once.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use serde_json::Value;
use tidewire_stream::{
    ChannelName, ManualClock, Namespaces, PageLimit, Position, Publication,
    broker::{
        Broker as _, LocalDelivery, RedisBroker,
        memory::MemoryLimits,
        redis::{
            CertificateFiles, Cluster, NodeProtocol, RedisAddress, RedisOptions, RedisTls,
            Sentinels,
        },
    },
};
use tidewire_tests::{VenueStandIn, venue::Trade};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval},
};

use crate::cluster::Redis;

pub(crate) const SYMBOL: &str = "BTC-USD";

const CHANNEL: &str = "prices:BTC-USD";

/// Time between two trades. Each is published: it is longer than the interval of batches.
const PACE: Duration = Duration::from_millis(60);

/// The price of the first trade.
const FIRST: u64 = 10_000;

/// A venue, and what the cluster makes of its trades.
pub(crate) struct Market {
    /// The price of the newest trade.
    price: watch::Receiver<u64>,
    observer: Arc<Observer>,
    _broker: RedisBroker<Observer>,
    _trades: JoinSet<()>,
}

impl Market {
    /// Trades from now on, and observes the prices in Redis.
    pub(crate) async fn open(
        venue: VenueStandIn,
        redis: &Redis,
        round: watch::Receiver<Option<usize>>,
    ) -> Self {
        let (sender, price) = watch::channel(FIRST);
        let mut trades = JoinSet::new();
        trades.spawn(async move {
            let mut ticks = interval(PACE);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            for id in 1.. {
                ticks.tick().await;
                let price = FIRST + id;
                venue.trade(&Trade {
                    symbol: SYMBOL,
                    id,
                    price: &price.to_string(),
                });
                sender.send_replace(price);
            }
        });
        let observer = Arc::new(Observer {
            round,
            observed: Mutex::default(),
        });
        let mut namespaces = Namespaces::built_in();
        namespaces.share("prices").expect("a built-in namespace");
        let (cluster, sentinels) = match redis {
            Redis::Pair(pair) => (Cluster::default(), Sentinels::new(&[pair.sentinel()])),
            Redis::Shards(shards) => {
                let cluster = Cluster::new(&shards.seeds()).expect("addresses");
                (cluster, Ok(Sentinels::default()))
            }
        };
        let options = RedisOptions {
            address: RedisAddress::parse("redis://tidewire").expect("an address"),
            cluster,
            sentinels: sentinels.expect("an address"),
            tls: RedisTls::new(&CertificateFiles::default()).expect("no files"),
            prefix: "tidewire".to_owned(),
            timeout: Duration::from_secs(2),
            buffer_bytes: 1 << 20,
            comparison: RedisOptions::COMPARISON,
            protocol: NodeProtocol::CURRENT,
        };
        let broker = RedisBroker::start(
            Arc::new(namespaces),
            observer.clone(),
            ManualClock::at(0),
            MemoryLimits::default(),
            options,
        );
        let broker = broker.await.expect("a broker");
        let channel = ChannelName::parse(CHANNEL).expect("a channel");
        if let Some(joined) = broker.join(&channel) {
            joined.await.expect("a subscription");
        }
        let history = broker.history(&channel, None, PageLimit::NOTHING).await;
        let top = history.expect("a position").top;
        observer.note_newest(&channel, &top);
        Self {
            price,
            observer,
            _broker: broker,
            _trades: trades,
        }
    }

    /// The price of the newest trade.
    pub(crate) fn price(&self) -> u64 {
        *self.price.borrow()
    }

    /// Whether a price that the venue has had, or a later one, was published.
    pub(crate) fn has_published(&self, price: u64) -> bool {
        let observed = self.observer.observed.lock();
        observed.last().is_some_and(|one| one.price >= price)
    }

    /// The prices that were published, in order.
    pub(crate) fn tape(&self) -> Tape {
        Tape::new(&self.observer.observed.lock())
    }
}

/// A price that was published, or a notice of the newest position without one.
#[derive(Debug)]
struct Observed {
    epoch: String,
    seq: u64,
    /// The price, rounded. That of the publication before for a notice.
    price: u64,
    is_notice: bool,
    round: usize,
    at: Instant,
}

/// Notes all prices.
#[derive(Debug)]
struct Observer {
    round: watch::Receiver<Option<usize>>,
    observed: Mutex<Vec<Observed>>,
}

impl Observer {
    fn note(&self, position: &Position, price: Option<u64>) {
        let mut observed = self.observed.lock();
        let before = observed.last().map_or(0, |one| one.price);
        observed.push(Observed {
            epoch: position.epoch.as_str().to_owned(),
            seq: position.seq,
            price: price.unwrap_or(before),
            is_notice: price.is_none(),
            round: self.round.borrow().unwrap_or(usize::MAX),
            at: Instant::now(),
        });
    }
}

impl LocalDelivery for Observer {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "prices are between 10,000 and a million"
    )]
    fn deliver(&self, publication: &Arc<Publication>) -> bool {
        let data: Value = serde_json::from_slice(publication.json_data()).expect("a document");
        let price = data["price"].as_f64().expect("a price") as u64;
        self.note(publication.position(), Some(price));
        true
    }

    fn note_newest(&self, _: &ChannelName, newest: &Position) {
        self.note(newest, None);
    }

    fn has_subscribers(&self, channel: &ChannelName) -> bool {
        channel.as_str() == CHANNEL
    }
}

/// The publications on the channel of the prices.
#[derive(Debug, Default)]
pub(crate) struct Tape {
    pub(crate) published: usize,
    /// Positions that were delivered twice.
    pub(crate) doubled: usize,
    /// Prices that the observer did not get: after a reconnect the newest one alone is delivered, as on
    /// each channel of which only the newest counts.
    pub(crate) skipped: u64,
    /// Prices below one before.
    pub(crate) backwards: usize,
    /// The highest price.
    pub(crate) highest: u64,
    /// The longest time without a price in each round.
    pub(crate) silences: HashMap<usize, Duration>,
    pub(crate) examples: Vec<String>,
}

impl Tape {
    fn new(observed: &[Observed]) -> Self {
        let (mut tape, mut given, mut last) = (Self::default(), HashSet::new(), None);
        let mut before: Option<&Observed> = None;
        for one in observed {
            if one.is_notice {
                before = Some(one);
                continue;
            }
            tape.published += 1;
            if !given.insert((&one.epoch, one.seq)) {
                tape.doubled += 1;
                tape.examples
                    .push(format!("twice: {one:?} after {before:?}"));
            }
            if let Some(at) = before.filter(|at| at.epoch == one.epoch) {
                tape.skipped += one.seq.saturating_sub(at.seq + 1);
            }
            if one.price < tape.highest {
                tape.backwards += 1;
                tape.examples
                    .push(format!("back: {one:?} after {before:?}"));
            }
            tape.highest = tape.highest.max(one.price);
            let silence = last.map_or(Duration::ZERO, |last| one.at - last);
            let longest = tape.silences.entry(one.round).or_default();
            *longest = silence.max(*longest);
            (before, last) = (Some(one), Some(one.at));
        }
        tape
    }
}

/// A rule that a server has acknowledged.
#[derive(Debug, Clone)]
pub(crate) struct Rule {
    pub(crate) user: String,
    pub(crate) id: String,
    /// The price at which it fires.
    pub(crate) threshold: u64,
}

/// How often each rule fired.
#[derive(Debug, Default)]
pub(crate) struct Fires {
    pub(crate) expected: usize,
    /// Rules whose price was published, and that did not fire.
    pub(crate) missed: usize,
    /// Fires of a rule beyond the first one, in the log or as a notification.
    pub(crate) doubled: usize,
    /// Fires without a notification in the inbox.
    pub(crate) silent: usize,
    pub(crate) examples: Vec<String>,
}

impl Fires {
    /// Compares the rules with the ids of rules that fired, and of those that were notified of.
    pub(crate) fn new(rules: &[Rule], highest: u64, fired: &[String], notified: &[String]) -> Self {
        let count = |ids: &[String]| {
            let mut counts: HashMap<String, usize> = HashMap::new();
            for id in ids {
                *counts.entry(id.clone()).or_default() += 1;
            }
            counts
        };
        let (fired, notified) = (count(fired), count(notified));
        let mut fires = Self::default();
        for rule in rules.iter().filter(|rule| rule.threshold <= highest) {
            fires.expected += 1;
            let of = |counts: &HashMap<String, usize>| counts.get(&rule.id).copied().unwrap_or(0);
            let (in_log, in_inbox) = (of(&fired), of(&notified));
            fires.missed += usize::from(in_log == 0);
            fires.silent += usize::from(in_log > 0 && in_inbox == 0);
            fires.doubled += in_log.saturating_sub(1) + in_inbox.saturating_sub(1);
            if (in_log, in_inbox) != (1, 1) {
                let text = format!("{rule:?} fired {in_log} times, notified {in_inbox} times");
                fires.examples.push(text);
            }
        }
        fires
    }
}
