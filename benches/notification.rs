//! Notification bench: durable notifications a second, broadcasts, unread counts, and the bytes
//! of a notification on the disk.
//!
//! ```text
//! cargo bench --workspace --bench notification               # all
//! cargo bench --workspace --bench notification -- broadcast  # only benches with this in their name
//! ```

mod support;

use std::{
    error::Error,
    fs,
    hint::black_box,
    io::{self, Write as _},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tidewire_notification::{EventSink, HubEvent, NotificationConfig, NotificationHub};
use tidewire_proto::{
    prost::Message as _,
    v1::{Notification, NotificationType, NotifyRequest, Priority},
};
use tidewire_store::{
    Batch, EmbeddedStore, MemoryStore, SharedStore, Store as _, StoreError, Table,
};
use tidewire_stream::{SystemClock, UserId};

use support::{Bench, resident};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// The allocator of the server: glibc's takes a third of the time of these benches.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A receiver that drops all events.
struct Nowhere;

impl EventSink for Nowhere {
    fn publish(&self, event: HubEvent) {
        black_box(event);
    }
}

fn main() -> Outcome<()> {
    let bench = Bench::from_arguments();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()?;
    runtime.block_on(async {
        for (users, batch) in [(10_000, 1_000), (10_000, 10_000), (100_000, 10_000)] {
            durable(&bench, users, batch, false).await?;
        }
        durable(&bench, 10_000, 10_000, true).await?;
        lanes(&bench).await?;
        broadcasts(&bench).await?;
        counts(&bench).await
    })
}

fn sender() -> UserId {
    UserId::new("backend")
}

fn user(number: usize) -> String {
    format!("user-{number:06}")
}

/// A notification as a wallet sends it: about 200 bytes encoded.
fn notification(number: usize) -> Notification {
    Notification {
        r#type: NotificationType::PaymentReceived.into(),
        priority: Priority::Medium.into(),
        title: "Payment received".to_owned(),
        body: format!(
            "You received {number}.25 USDC from 0x8ba1f109551bd432803012645ac136ddd64dba72"
        ),
        data: format!(
            r#"{{"chain":1,"amount":"{number}.25","token":"USDC","transaction":{number}}}"#
        )
        .into(),
        ..Notification::default()
    }
}

async fn open(store: SharedStore) -> Outcome<NotificationHub> {
    let config = NotificationConfig::default();
    Ok(NotificationHub::open(store, Arc::new(Nowhere), Arc::new(SystemClock), config).await?)
}

/// Bytes of the store's files once it has closed: its log is in its file then.
async fn file_bytes(folder: &Path) -> Outcome<u64> {
    // The writer's thread has the file open for a moment more.
    while matches!(EmbeddedStore::open(folder), Err(StoreError::InUse(_))) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        bytes += entry?.metadata()?.len();
    }
    Ok(bytes)
}

fn print(name: &str, text: &str) -> io::Result<()> {
    writeln!(io::stdout(), "{name:<64} {text}")
}

fn percentile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort_unstable();
    times
        .get(times.len() * percent / 100)
        .copied()
        .unwrap_or_default()
}

/// Durable notifications a second through batches, each acknowledged after its flush.
async fn durable(bench: &Bench, users: usize, batch: usize, with_keys: bool) -> Outcome<()> {
    let keys = if with_keys {
        ", each with an idempotency key"
    } else {
        ""
    };
    let name = format!("durable, {users} users, batches of {batch}{keys}");
    if !bench.wants(&name) {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let hub = open(Arc::new(EmbeddedStore::open(folder.path())?)).await?;
    let mut random = StdRng::seed_from_u64(7);
    let total = if bench.is_fixed { 2 * batch } else { 500_000 };
    let mut encoded = 0;
    let mut rates = Vec::new();
    let mut sent = 0;
    while sent < total {
        let requests: Vec<_> = (sent..sent + batch)
            .map(|number| {
                let notification = notification(number);
                NotifyRequest {
                    user: Some(user(random.random_range(0..users))),
                    notification: Some(notification),
                    idempotency_key: with_keys.then(|| format!("order-{number}")),
                    ..NotifyRequest::default()
                }
            })
            .collect();
        encoded += requests
            .iter()
            .flat_map(|request| &request.notification)
            .map(|one| one.encoded_len() + 60)
            .sum::<usize>();
        let start = Instant::now();
        for result in hub.notify_batch(&sender(), requests).await {
            result?;
        }
        rates.push(start.elapsed());
        sent += batch;
    }
    let whole: Duration = rates.iter().sum();
    let p99 = percentile(&mut rates, 99);
    let rate = sent as f64 / whole.as_secs_f64();
    drop(hub);
    let disk = file_bytes(folder.path()).await? as f64 / encoded as f64;
    let text = format!(
        "{rate:>9.0} /s, batch p99 {p99:?}, disk {disk:.2} × encoded ({} bytes)",
        encoded / sent
    );
    Ok(print(&name, &text)?)
}

/// Notifications and a journal on one store, each alone and both at once. The journal commits one
/// row after the other, as that of a chain does.
async fn lanes(bench: &Bench) -> Outcome<()> {
    let name = "hub and journal on one store";
    if !bench.wants(name) {
        return Ok(());
    }
    let length = Duration::from_secs(if bench.is_fixed { 1 } else { 10 });
    for (has_hub, has_journal) in [(true, false), (false, true), (true, true)] {
        let folder = tempfile::tempdir()?;
        let store = Arc::new(EmbeddedStore::open(folder.path())?);
        let hub = open(store.clone()).await?;
        let began = Instant::now();
        let notifying = tokio::spawn(async move {
            let (mut random, mut sent) = (StdRng::seed_from_u64(7), 0);
            while has_hub && began.elapsed() < length {
                let requests = (0..1_000).map(|number| NotifyRequest {
                    user: Some(user(random.random_range(0..10_000))),
                    notification: Some(notification(number)),
                    ..NotifyRequest::default()
                });
                let results = hub.notify_batch(&sender(), requests.collect()).await;
                sent += results.iter().filter(|result| result.is_ok()).count();
            }
            sent
        });
        let mut commits = Vec::new();
        while has_journal && began.elapsed() < length {
            let mut batch = Batch::new();
            let number = commits.len() as u64;
            batch.put(Table("journal"), number.to_be_bytes(), vec![7; 2_000]);
            let start = Instant::now();
            store.commit(batch).await?;
            commits.push(start.elapsed());
        }
        let sent = notifying.await?;
        let seconds = began.elapsed().as_secs_f64();
        let text = format!(
            "notifications {:.0} /s; journal {:.0} /s, p50 {:?}, p99 {:?}",
            sent as f64 / seconds,
            commits.len() as f64 / seconds,
            percentile(&mut commits, 50),
            percentile(&mut commits, 99),
        );
        print(name, &text)?;
    }
    Ok(())
}

/// The time to acknowledge a broadcast to a million users, beside that of a bare commit.
async fn broadcasts(bench: &Bench) -> Outcome<()> {
    let name = "broadcast to 1,000,000 users with inboxes";
    if !bench.wants(name) {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let store = Arc::new(EmbeddedStore::open(folder.path())?);
    let hub = open(store.clone()).await?;
    let users: usize = if bench.is_fixed { 10_000 } else { 1_000_000 };
    for first in (0..users).step_by(10_000) {
        let request = NotifyRequest {
            users: (first..first + 10_000).map(user).collect(),
            notification: Some(notification(first)),
            ..NotifyRequest::default()
        };
        hub.notify(&sender(), request).await?;
    }
    let (mut bare, mut acknowledged) = (Vec::new(), Vec::new());
    for number in 0..300_u32 {
        let mut batch = Batch::new();
        batch.put(Table("bench"), number.to_be_bytes(), vec![0; 200]);
        let start = Instant::now();
        store.commit(batch).await?;
        bare.push(start.elapsed());
        let request = NotifyRequest {
            everyone: true,
            notification: Some(notification(number as usize)),
            ..NotifyRequest::default()
        };
        let start = Instant::now();
        hub.notify(&sender(), request).await?;
        acknowledged.push(start.elapsed());
    }
    let mut times = |percent| {
        (
            percentile(&mut acknowledged, percent),
            percentile(&mut bare, percent),
        )
    };
    let (p50, p99) = (times(50), times(99));
    let text = format!(
        "p50 {:?} (bare commit {:?}), p99 {:?} (bare commit {:?})",
        p50.0, p50.1, p99.0, p99.1
    );
    Ok(print(name, &text)?)
}

/// The time to count what is unread.
async fn counts(bench: &Bench) -> Outcome<()> {
    let name = "unread count, 100,000 users × 100 notifications + 100 broadcasts";
    if !bench.wants(name) {
        return Ok(());
    }
    let before = resident().unwrap_or_default();
    let hub = open(Arc::new(MemoryStore::new())).await?;
    let (users, items) = if bench.is_fixed {
        (10_000, 2)
    } else {
        (100_000, 100)
    };
    for item in 0..items {
        for first in (0..users).step_by(10_000) {
            let mut one = notification(item);
            one.priority = (item % 4 + 1) as i32;
            one.r#type = (item % 8 + 1) as i32;
            let request = NotifyRequest {
                users: (first..first + 10_000).map(user).collect(),
                notification: Some(one),
                ..NotifyRequest::default()
            };
            hub.notify(&sender(), request).await?;
        }
    }
    for number in 0..100 {
        let mut one = notification(number);
        one.priority = (number % 4 + 1) as i32;
        let request = NotifyRequest {
            everyone: true,
            notification: Some(one),
            ..NotifyRequest::default()
        };
        hub.notify(&sender(), request).await?;
    }
    let mut random = StdRng::seed_from_u64(7);
    let mut times = Vec::new();
    for _ in 0..200_000 {
        let user = user(random.random_range(0..users));
        let start = Instant::now();
        black_box(hub.unread_count(&user).await?);
        times.push(start.elapsed());
    }
    let (p50, p99) = (percentile(&mut times, 50), percentile(&mut times, 99));
    let grown = resident().unwrap_or_default().saturating_sub(before) >> 20;
    let cached = hub.cache_bytes() >> 20;
    let text = format!(
        "p50 {p50:?}, p99 {p99:?}; {cached} MiB cached, {grown} MiB with the store in memory"
    );
    Ok(print(name, &text)?)
}
