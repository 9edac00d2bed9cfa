//! Urgent bench: the time from `notify` of an urgent notification to its arrival on the user's
//! socket, alone and while low ones saturate the process; and the time in which a broadcast reaches
//! all connected users.
//!
//! In process are the hub on a store on the disk, gathering, and the streaming core with one shard
//! and a socket for each user. Not in process are TLS, the HTTP request of the back end, and
//! WebSocket frames.
//!
//! ```text
//! cargo bench --workspace --bench urgent
//! cargo bench --workspace --bench urgent -- broadcast  # needs 20,000 open files
//! ```

mod support;

use std::{
    error::Error,
    io::{self, Write as _},
    os::unix::net::UnixStream,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rand::Rng as _;
use tidewire_notification::{
    Class, EventSink, HubEvent, NotificationConfig, NotificationHub, UserPushes,
};
use tidewire_proto::v1::{Notification, NotificationType, NotifyRequest, Priority};
use tidewire_store::{EmbeddedStore, MemoryStore, SharedStore};
use tidewire_stream::{
    AnonymousPolicy, Authenticator, Connection, ConnectionInfo, Encoding, FlushOutcome, Identity,
    Namespaces, OutgoingItem, Session, ShardId, Sink, StreamCore, StreamOptions, SystemClock,
    Transport, UserId, identity::UserIdentity,
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    runtime::Handle,
};
use tokio_util::sync::CancellationToken;

use support::Bench;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// The allocator of the server: glibc's takes a third of the time of these benches.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Users, each with one connection.
const USERS: usize = 1_000;

/// Senders of low notifications, each with one request on its way.
const SENDERS: usize = 8;

/// Users in one chunk of a fan-out, as in the server.
const CHUNK: usize = 256;

/// Time between two urgent notifications.
const PACE: Duration = Duration::from_millis(10);

/// Writes a session's messages to a socket, one on each line.
struct LineSink {
    session: Session,
    socket: UnixStream,
}

impl Sink for LineSink {
    fn flush(&self, now: tokio::time::Instant) {
        loop {
            let (mut items, mut bytes) = (Vec::new(), Vec::new());
            let again_at = now + Duration::from_secs(25);
            let outcome = self
                .session
                .take_outgoing(now, 64 << 10, &mut items, again_at);
            for item in &items {
                match item {
                    OutgoingItem::Message(message) => {
                        bytes.extend_from_slice(&message.json());
                        bytes.push(b'\n');
                    }
                    OutgoingItem::Batch(batch) => {
                        for one in batch.publications() {
                            bytes.extend_from_slice(&one.json());
                            bytes.push(b'\n');
                        }
                    }
                }
            }
            // A reader that is gone ends the bench.
            let is_written = (&self.socket).write_all(&bytes).is_ok();
            if !is_written || !matches!(outcome, FlushOutcome::More) {
                return;
            }
        }
    }
}

/// Passes events on as the server does.
struct Pushes {
    pushes: Arc<UserPushes>,
    /// The last broadcast.
    broadcast: Mutex<Option<(Arc<Notification>, Class)>>,
}

impl EventSink for Pushes {
    fn publish(&self, event: HubEvent) {
        match event {
            HubEvent::Notification {
                user,
                notification,
                unread_count,
                audience,
                ..
            } => self
                .pushes
                .notification(&user, notification, unread_count, audience),
            HubEvent::Broadcast {
                notification,
                class,
            } => *self.broadcast.lock() = Some((notification, class)),
            HubEvent::UnreadCount { user, unread_count } => {
                self.pushes.unread_count(&user, unread_count);
            }
            _ => {}
        }
    }
}

/// Times since the start in the titles of notifications, and what was measured.
struct Clock {
    start: Instant,
    urgent: Mutex<Vec<Duration>>,
    low: Mutex<Vec<Duration>>,
}

impl Clock {
    fn title(&self, kind: &str) -> String {
        format!("{kind} {};", self.start.elapsed().as_micros())
    }

    /// Notes the age of the first notification of a line.
    fn note(&self, line: &str) {
        let Some((_, title)) = line.split_once(r#""title":""#) else {
            return;
        };
        let Some((kind, rest)) = title.split_once(' ') else {
            return;
        };
        let sent = rest.split(';').next().and_then(|text| text.parse().ok());
        let Some(sent) = sent.map(Duration::from_micros) else {
            return;
        };
        let age = self.start.elapsed().saturating_sub(sent);
        match kind {
            "urgent" => self.urgent.lock().push(age),
            _ => self.low.lock().push(age),
        }
    }
}

fn request(user: usize, title: String, priority: Priority) -> NotifyRequest {
    NotifyRequest {
        user: Some(name_of(user)),
        notification: Some(Notification {
            r#type: NotificationType::PaymentReceived.into(),
            priority: priority.into(),
            title,
            body: "You received 25 USDC from 0x8ba1f109551bd432803012645ac136ddd64dba72".into(),
            ..Notification::default()
        }),
        ..NotifyRequest::default()
    }
}

fn name_of(user: usize) -> String {
    format!("user-{user:06}")
}

fn main() -> Outcome<()> {
    let bench = Bench::from_arguments();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        for batch in [0, 1, 100, 1_000] {
            measure(&bench, batch, Medium::Disk).await?;
        }
        reach(&bench).await?;
        measure(&bench, 100, Medium::Memory).await
    })
}

/// Where the store is.
#[derive(Clone, Copy)]
enum Medium {
    Disk,
    /// To see the rest of the way without the disk.
    Memory,
}

/// Measures beside low notifications in batches of this size. 0 stands for none.
async fn measure(bench: &Bench, batch: usize, medium: Medium) -> Outcome<()> {
    let name = match (batch, medium) {
        (0, _) => "urgent, alone".to_owned(),
        (batch, Medium::Disk) => {
            format!("urgent, beside {SENDERS} senders of low ones in batches of {batch}")
        }
        (batch, Medium::Memory) => {
            format!("urgent, store in memory, beside {SENDERS} senders in batches of {batch}")
        }
    };
    if !bench.wants(&name) {
        return Ok(());
    }
    let length = Duration::from_secs(if bench.is_fixed { 1 } else { 10 });
    let World {
        hub,
        clock,
        clients,
        cancel,
        ..
    } = &World::new(USERS, medium).await?;
    let is_over = Arc::new(AtomicBool::new(false));
    let sent = Arc::new(AtomicU64::new(0));
    let mut senders = tokio::task::JoinSet::new();
    for _ in 0..if batch == 0 { 0 } else { SENDERS } {
        let (hub, clock) = (hub.clone(), clock.clone());
        let (is_over, sent) = (is_over.clone(), sent.clone());
        senders.spawn(async move {
            while !is_over.load(Ordering::Relaxed) {
                let requests = (0..batch).map(|_| {
                    let user = rand::rng().random_range(0..USERS);
                    request(user, clock.title("low"), Priority::Low)
                });
                let requests = requests.collect();
                let results = hub.notify_batch(&UserId::new("backend"), requests).await;
                let count = results.iter().filter(|result| result.is_ok()).count();
                sent.fetch_add(count as u64, Ordering::Relaxed);
            }
        });
    }
    // Beginning and end of the load are not measured.
    tokio::time::sleep(length / 10).await;
    clock.urgent.lock().clear();
    let (began, before) = (Instant::now(), sent.load(Ordering::Relaxed));
    let mut acknowledged = Vec::new();
    while began.elapsed() < length {
        let user = rand::rng().random_range(0..USERS);
        let start = Instant::now();
        let one = request(user, clock.title("urgent"), Priority::Urgent);
        hub.notify(&UserId::new("backend"), one).await?;
        acknowledged.push(start.elapsed());
        tokio::time::sleep(PACE).await;
    }
    let rate = (sent.load(Ordering::Relaxed) - before) as f64 / began.elapsed().as_secs_f64();
    is_over.store(true, Ordering::Relaxed);
    while senders.join_next().await.is_some() {}
    tokio::time::sleep(Duration::from_secs(2)).await;
    cancel.cancel();
    let text = format!(
        "{}; acknowledged {}; low {rate:.0}/s, {}",
        summary(&mut clock.urgent.lock()),
        summary(&mut acknowledged),
        summary(&mut clock.low.lock()),
    );
    debug_assert_eq!(clients.len(), USERS);
    Ok(writeln!(io::stdout(), "{name}\n    {text}")?)
}

/// A hub, and users with a connection each.
struct World {
    hub: NotificationHub,
    sink: Arc<Pushes>,
    clock: Arc<Clock>,
    clients: Vec<(Connection, Arc<LineSink>)>,
    cancel: CancellationToken,
    _folder: tempfile::TempDir,
}

impl World {
    async fn new(users: usize, medium: Medium) -> Outcome<Self> {
        let folder = tempfile::tempdir()?;
        let stream = stream()?;
        let cancel = CancellationToken::new();
        let shard = run_shard(&stream, &cancel)?;
        let clock = Arc::new(Clock {
            start: Instant::now(),
            urgent: Mutex::default(),
            low: Mutex::default(),
        });
        let readers = run_readers(&cancel)?;
        let mut clients = Vec::new();
        for user in 0..users {
            clients.push(connect(&stream, shard, user, &clock, &readers).await?);
        }
        let pushes = Arc::new(UserPushes::new(stream.clone()));
        let store: SharedStore = match medium {
            Medium::Disk => Arc::new(EmbeddedStore::open(folder.path())?),
            Medium::Memory => Arc::new(MemoryStore::new()),
        };
        let sink = Arc::new(Pushes {
            pushes: pushes.clone(),
            broadcast: Mutex::default(),
        });
        let hub = NotificationHub::open(
            store,
            sink.clone(),
            Arc::new(SystemClock),
            NotificationConfig::default(),
        )
        .await?;
        let ended = cancel.clone();
        tokio::spawn(async move { pushes.run(ended).await });
        Ok(Self {
            hub,
            sink,
            clock,
            clients,
            cancel,
            _folder: folder,
        })
    }

    /// Waits until this many notifications of `times` have arrived.
    async fn arrived(times: &Mutex<Vec<Duration>>, count: usize) {
        while times.lock().len() < count {
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
    }
}

/// Measures the time in which a broadcast reaches all connected users after its commit, as the
/// server fans it out; and that of a loop that writes the same frames to the same sockets.
async fn reach(bench: &Bench) -> Outcome<()> {
    let users = if bench.is_fixed { 100 } else { 9_900 };
    let name = format!("broadcast to {users} connected users");
    if !bench.wants(&name) {
        return Ok(());
    }
    let world = World::new(users, Medium::Disk).await?;
    let names: Vec<_> = (0..users).map(|user| UserId::new(&name_of(user))).collect();
    let (mut reached, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..if bench.is_fixed { 1 } else { 20 } {
        world.clock.low.lock().clear();
        let mut broadcast = request(0, world.clock.title("broadcast"), Priority::High);
        broadcast.user = None;
        broadcast.everyone = true;
        world.hub.notify(&UserId::new("backend"), broadcast).await?;
        let (notification, class) = world.sink.broadcast.lock().take().ok_or("no broadcast")?;
        let start = Instant::now();
        for first in (0..users).step_by(CHUNK) {
            let chunk = &names[first..(first + CHUNK).min(users)];
            let publishing = world.hub.publish_broadcast(chunk, &notification, class);
            if let Some((_, error)) = publishing.await.pop() {
                return Err(error.into());
            }
            tokio::task::yield_now().await;
        }
        World::arrived(&world.clock.low, users).await;
        reached.push(start.elapsed());
        world.clock.low.lock().clear();
        let title = world.clock.title("broadcast");
        let one = Notification {
            title,
            unread_count: Some(1),
            ..Notification::clone(&notification)
        };
        let mut line =
            br#"{"type":"notification","channel":"user:user-000000","seq":1,"timestamp":1732300000000,"data":"#
                .to_vec();
        line.extend(tidewire_proto::json::to_vec(&one));
        line.extend(b"}\n");
        let start = Instant::now();
        for (_, sink) in &world.clients {
            (&sink.socket).write_all(&line)?;
        }
        World::arrived(&world.clock.low, users).await;
        bare.push(start.elapsed());
    }
    world.cancel.cancel();
    let text = format!(
        "{}\n    bare loop {}",
        summary(&mut reached),
        summary(&mut bare)
    );
    Ok(writeln!(io::stdout(), "{name}\n    {text}")?)
}

fn summary(times: &mut [Duration]) -> String {
    times.sort_unstable();
    let at = |part: usize| {
        times
            .get(times.len() * part / 1_000)
            .copied()
            .unwrap_or_default()
    };
    let last = times.last().copied().unwrap_or_default();
    format!(
        "p50 {:.1} ms, p99 {:.1} ms, longest {:.1} ms of {}",
        at(500).as_secs_f64() * 1e3,
        at(990).as_secs_f64() * 1e3,
        last.as_secs_f64() * 1e3,
        times.len()
    )
}

fn stream() -> Outcome<Arc<StreamCore>> {
    let clock = Arc::new(SystemClock);
    let authenticator = Authenticator::hs256(&[7; 32], AnonymousPolicy::Read, clock.clone())?;
    let options = StreamOptions {
        shards: 1,
        ..StreamOptions::default()
    };
    let namespaces = Namespaces::built_in();
    Ok(StreamCore::in_memory(
        namespaces,
        authenticator,
        clock,
        options,
    ))
}

/// Runs the shard on a thread of its own, as the server does.
fn run_shard(stream: &Arc<StreamCore>, cancel: &CancellationToken) -> Outcome<ShardId> {
    let id = stream.hub().shards().next().ok_or("there is no shard")?;
    let shard = stream.hub().shard(id).clone();
    let pause = stream.options().max_write_pause;
    let cancel = cancel.clone();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let shard_thread = std::thread::Builder::new().name(id.to_string());
    shard_thread.spawn(move || {
        runtime.block_on(cancel.run_until_cancelled(shard.run(pause)));
    })?;
    Ok(id)
}

/// Runs the readers of all sockets on a thread of their own, so that senders do not keep them from
/// reading.
fn run_readers(cancel: &CancellationToken) -> Outcome<Handle> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (handle, cancel) = (runtime.handle().clone(), cancel.clone());
    let reader_thread = std::thread::Builder::new().name("readers".to_owned());
    reader_thread.spawn(move || runtime.block_on(cancel.cancelled()))?;
    Ok(handle)
}

/// Connects a user, and reads what arrives.
async fn connect(
    stream: &Arc<StreamCore>,
    shard: ShardId,
    user: usize,
    clock: &Arc<Clock>,
    readers: &Handle,
) -> Outcome<(Connection, Arc<LineSink>)> {
    let identity = UserIdentity::new(UserId::new(&name_of(user)), i64::MAX);
    let info = ConnectionInfo {
        caller: Identity::from(identity).into(),
        transport: Transport::new("bench"),
        post_key: None,
        encoding: Encoding::Json,
        heartbeat: None,
        quota: None,
        shard,
    };
    let connection = stream.connect(info).await;
    let (socket, peer) = UnixStream::pair()?;
    peer.set_nonblocking(true)?;
    let sink = Arc::new(LineSink {
        session: Session::clone(&connection),
        socket,
    });
    let weak = Arc::downgrade(&sink);
    connection.attach(weak);
    let clock = clock.clone();
    let peer = {
        let _entered = readers.enter();
        tokio::net::UnixStream::from_std(peer)?
    };
    let mut lines = BufReader::new(peer).lines();
    readers.spawn(async move {
        while let Ok(Some(line)) = lines.next_line().await {
            clock.note(&line);
        }
    });
    Ok((connection, sink))
}
