//! Bench of the alert engine with its store: loading, registrations, and the time from a price to the
//! publication of its fire.
//!
//! ```text
//! cargo bench --workspace --bench alert_engine                  # all
//! cargo bench --workspace --bench alert_engine -- load          # only benches with this in their name
//! ALERT_RULES=10000000 cargo bench --workspace --bench alert_engine -- load
//! ```

mod support;

use std::{
    env,
    error::Error,
    io::{self, Write as _},
    sync::Arc,
    time::{Duration, Instant},
};

use tidewire_alert::{
    AlertConfig, AlertEngine, AlertSink, Catalog, Decimal, SinkError, SinkFuture,
};
use tidewire_proto::{
    prost::Message as _,
    v1::{
        AlertCondition, AlertEvent, AlertRepeat, AlertRule, NotifyRequest, PriceThreshold, Unit,
        alert_condition::Kind, alert_repeat,
    },
};
use tidewire_store::{Batch, EmbeddedStore, SharedStore, Store as _, Table};
use tidewire_stream::{SystemClock, UserId};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use support::{Bench, resident};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Symbols of the rules.
const SYMBOLS: usize = 1_000;

/// Rules that are written in one batch.
const PART: usize = 50_000;

/// Passes fires on, and accepts all notifications.
struct Fires(mpsc::UnboundedSender<Instant>);

impl AlertSink for Fires {
    fn publish(&self, _user: &UserId, _event: AlertEvent) {
        // The bench may have stopped listening.
        let _ = self.0.send(Instant::now());
    }

    fn notify(&self, requests: Vec<NotifyRequest>) -> SinkFuture<'_, Vec<Result<(), SinkError>>> {
        Box::pin(async move { requests.iter().map(|_| Ok(())).collect() })
    }

    fn follow(&self, _user: &str, _chain: u64, _hash: &str) {}
}

struct Symbols;

impl Catalog for Symbols {
    fn symbol(&self, name: &str) -> Option<String> {
        Some(name.to_owned())
    }

    fn symbols(&self) -> Vec<String> {
        Vec::new()
    }

    fn has_chain(&self, _chain: u64) -> bool {
        true
    }

    fn has_currency(&self, _currency: &str) -> bool {
        true
    }
}

fn main() -> Outcome<()> {
    let bench = Bench::from_arguments();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()?;
    runtime.block_on(async {
        load(&bench).await?;
        registrations(&bench).await?;
        latency(&bench).await
    })
}

fn print(name: &str, text: &str) -> io::Result<()> {
    writeln!(io::stdout(), "{name:<56} {text}")
}

fn symbol(number: usize) -> String {
    format!("S{:04}-USD", number % SYMBOLS)
}

fn rule(number: usize, threshold: usize) -> AlertRule {
    AlertRule {
        condition: Some(AlertCondition {
            kind: Some(Kind::PriceAbove(PriceThreshold {
                symbol: symbol(number),
                threshold: Some(tidewire_proto::v1::Decimal {
                    value: threshold.to_string(),
                }),
                hysteresis: None,
            })),
        }),
        repeat: Some(AlertRepeat {
            repeat: Some(alert_repeat::Repeat::Recurring(Unit {})),
        }),
        ..AlertRule::default()
    }
}

async fn open(
    store: SharedStore,
    fires: mpsc::UnboundedSender<Instant>,
) -> Outcome<(AlertEngine, tidewire_alert::AlertTasks)> {
    let config = AlertConfig {
        rules_per_user: usize::MAX >> 1,
        fires_per_minute: u32::MAX,
        ..AlertConfig::default()
    };
    let (sink, clock) = (Arc::new(Fires(fires)), Arc::new(SystemClock));
    Ok(AlertEngine::open(store, sink, Arc::new(Symbols), clock, config).await?)
}

/// The time to load and arm rules that are in the store.
async fn load(bench: &Bench) -> Outcome<()> {
    let name = "load and arm";
    if !bench.wants(name) {
        return Ok(());
    }
    let count = match env::var("ALERT_RULES") {
        Ok(count) => count.parse()?,
        Err(_) if bench.is_fixed => 10_000,
        Err(_) => 1_000_000,
    };
    let folder = tempfile::tempdir()?;
    let store = Arc::new(EmbeddedStore::open(folder.path())?);
    for first in (0..count).step_by(PART) {
        let mut batch = Batch::new();
        for number in first..(first + PART).min(count) {
            let key = (number as u64 + 1).to_be_bytes();
            let stored = AlertRule {
                id: format!("{number:013}"),
                user: Some(format!("user-{:06}", number / 10)),
                version: Some(1),
                enabled: Some(true),
                ..rule(number, 1_000 + number % 100_000)
            };
            batch.put(Table("alert.rules"), key, stored.encode_to_vec());
        }
        store.commit(batch).await?;
    }
    let (fires, _listener) = mpsc::unbounded_channel();
    let before = resident();
    let start = Instant::now();
    let (engine, _tasks) = open(store, fires).await?;
    let took = start.elapsed();
    let bytes = resident().zip(before);
    let bytes = bytes.map_or(0, |(now, before)| now.saturating_sub(before) / count as u64);
    let rules = engine.stats().rules;
    let rate = rules as f64 / took.as_secs_f64();
    let text = format!("{rules} rules in {took:?}, {rate:.0} /s, {bytes} bytes of memory each");
    Ok(print(name, &text)?)
}

/// Registrations a second, each acknowledged after its flush.
async fn registrations(bench: &Bench) -> Outcome<()> {
    let name = "durable registrations, 256 at once";
    if !bench.wants(name) {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let (fires, _listener) = mpsc::unbounded_channel();
    let (engine, tasks) = open(Arc::new(EmbeddedStore::open(folder.path())?), fires).await?;
    let cancel = CancellationToken::new();
    let running = tokio::spawn(tasks.run(cancel.clone()));
    let total = if bench.is_fixed { 512 } else { 20_480 };
    let start = Instant::now();
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..256 {
        let engine = engine.clone();
        clients.spawn(async move {
            for number in (client..total).step_by(256) {
                let registered = engine.register("ada", rule(number, 1_000 + number), None);
                registered.await?;
            }
            Ok::<_, tidewire_alert::AlertError>(())
        });
    }
    for done in clients.join_all().await {
        done?;
    }
    let rate = total as f64 / start.elapsed().as_secs_f64();
    cancel.cancel();
    running.await?;
    Ok(print(name, &format!("{rate:.0} /s"))?)
}

/// The time from a price to the publication of its fire, which is stored in between.
async fn latency(bench: &Bench) -> Outcome<()> {
    let name = "from a price to the push of its fire";
    if !bench.wants(name) {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let (fires, mut published) = mpsc::unbounded_channel();
    let (engine, tasks) = open(Arc::new(EmbeddedStore::open(folder.path())?), fires).await?;
    let cancel = CancellationToken::new();
    let running = tokio::spawn(tasks.run(cancel.clone()));
    let total: usize = if bench.is_fixed { 10 } else { 500 };
    let mut once = rule(0, 0);
    once.repeat = None;
    for threshold in 0..total {
        if let Some(Kind::PriceAbove(price)) =
            once.condition.as_mut().and_then(|one| one.kind.as_mut())
        {
            price.threshold = Some(tidewire_proto::v1::Decimal {
                value: (1_000 + threshold).to_string(),
            });
        }
        engine.register("ada", once.clone(), None).await?;
    }
    let mut times = Vec::new();
    for threshold in 0..total {
        let price = Decimal::from(1_000 + threshold);
        let start = Instant::now();
        engine.price("S0000-USD", (price, 0), None, ["bench"].into_iter());
        if let Some(at) = published.recv().await {
            times.push(at.saturating_duration_since(start));
        }
    }
    cancel.cancel();
    running.await?;
    times.sort_unstable();
    let at = |percent: usize| times.get(times.len() * percent / 100).copied();
    let (p50, p99) = (at(50).unwrap_or_default(), at(99).unwrap_or(Duration::ZERO));
    Ok(print(
        name,
        &format!("p50 {p50:?}, p99 {p99:?}, with the flush"),
    )?)
}
