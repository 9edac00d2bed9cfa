//! Cluster bench: publications a second over Redis by one, two and three nodes, beside what
//! `redis-benchmark` reaches with the same script, and the time from a publication to its delivery.
//!
//! In process are the brokers, each with a subscriber on each channel; a server of Redis is started
//! for the run. Not in process are clients and sockets. `redis-server` and `redis-benchmark` 7.0 or
//! later have to be installed.
//!
//! ```text
//! cargo bench --workspace --bench cluster
//! cargo bench --workspace --bench cluster -- delivery
//! ```

mod support;

use std::{
    error::Error,
    io::{self, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tidewire_stream::{
    ChannelName, ClientKey, Event, Namespace, Namespaces, Position, Publication, SystemClock,
    broker::{
        Broker as _, LocalDelivery, RedisBroker, Sender,
        memory::MemoryLimits,
        redis::{
            CertificateFiles, Cluster, NodeProtocol, RedisAddress, RedisOptions, RedisTls,
            Sentinels,
        },
    },
};
use tokio::sync::Notify;

use support::Bench;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// The allocator of the server.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The script by which nodes publish.
const SCRIPT: &str = include_str!("../core/stream/src/broker/redis/scripts/publish.lua");

/// Length of a measurement.
const TIME: Duration = Duration::from_secs(5);

/// Publishers of a node, each with one publication on its way.
const PUBLISHERS: usize = 2_048;

/// Publications of one batch at most, as in the broker.
const BATCH: usize = 256;

/// Connections of a node that publish, as in the broker.
const WRITERS: usize = 2;

/// A document of usual length.
const DOCUMENT: &str = r#"{"id":"4711","state":"shipped","items":[{"sku":"A-1","count":2},{"sku":"B-2","count":1}],"total":"129.90","currency":"EUR","note":"leave it at the door, please"}"#;

/// A server of Redis for the run.
struct Redis {
    child: Child,
    port: u16,
    folder: std::path::PathBuf,
}

impl Drop for Redis {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir(&self.folder);
    }
}

impl Redis {
    async fn start() -> Outcome<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let folder = std::env::temp_dir().join(format!("tidewire-bench-{port}"));
        std::fs::create_dir_all(&folder)?;
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no"])
            .current_dir(&folder)
            .stdout(Stdio::null())
            .spawn()?;
        let redis = Self {
            child,
            port,
            folder,
        };
        let started = Instant::now();
        while redis.command(&["PING"]).is_err() {
            if started.elapsed() > Duration::from_secs(10) {
                return Err("redis-server does not answer".into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(redis)
    }

    /// The answer to one command, as RESP.
    fn command(&self, arguments: &[&str]) -> io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        let mut text = format!("*{}\r\n", arguments.len());
        for argument in arguments {
            text += &format!("${}\r\n{argument}\r\n", argument.len());
        }
        stream.write_all((text + "*1\r\n$4\r\nQUIT\r\n").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// Subscribes `count` connections to a shard channel, which read all that comes as fast as
    /// they can.
    fn subscribe(&self, name: &str, count: usize) -> io::Result<Vec<TcpStream>> {
        let mut streams = Vec::new();
        for _ in 0..count {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
            write!(stream, "SSUBSCRIBE {name}\r\n")?;
            let mut reader = stream.try_clone()?;
            std::thread::spawn(move || io::copy(&mut reader, &mut io::sink()));
            streams.push(stream);
        }
        Ok(streams)
    }

    /// Calls of the script a second, of `batch` publications each, as `redis-benchmark` counts
    /// them, with `subscribers` to the channel. Each call has another number, so that none is taken
    /// for a repetition.
    fn calls_per_second(
        &self,
        channel: &str,
        batch: usize,
        pipeline: usize,
        subscribers: usize,
    ) -> Outcome<f64> {
        let loaded = self.command(&["SCRIPT", "LOAD", SCRIPT])?;
        let digest = loaded.lines().nth(1).ok_or("no digest")?.to_owned();
        let name = |kind: &str| format!("bench:{{0}}:{kind}:{channel}");
        let listening = self.subscribe(&name("0"), subscribers)?;
        let calls = (300_000 / batch).max(5_000).to_string();
        let (batch, pipeline) = (batch.to_string(), pipeline.to_string());
        let (meta, history) = (name("meta"), name("history"));
        let shard_channel = name("0");
        let mut arguments = vec![
            "EVALSHA",
            &digest,
            "3",
            &meta,
            &history,
            "bench:{0}:fresh",
            &shard_channel,
            "benchmark",
            "__rand_int__",
            "",
            "0",
            "epoch",
            "1000",
            "600000",
            "90000000",
            "43200000",
            "300000",
            "any",
            "0",
            "",
            "",
            "",
            "",
            "",
            &batch,
        ];
        let count: usize = batch.parse()?;
        // As the broker encodes a document.
        arguments.extend(std::iter::repeat_n(DOCUMENT, count));
        let output = Command::new("redis-benchmark")
            .args(["-p", &self.port.to_string(), "-c", &WRITERS.to_string()])
            .args(["-n", &calls, "-P", &pipeline, "-r", "1000000000", "--csv"])
            .args(arguments)
            .output()?;
        for stream in listening {
            stream.shutdown(std::net::Shutdown::Both)?;
        }
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = text.lines().last().unwrap_or_default();
        // Six latencies come after the rate. The command before it has commas itself.
        let rate = line.rsplit("\",\"").nth(6);
        let rate = rate.and_then(|rate| rate.parse().ok());
        rate.ok_or_else(|| "redis-benchmark printed no rate".into())
    }
}

/// Counts deliveries, and notes when the last one came.
#[derive(Debug, Default)]
struct Subscriber {
    delivered: AtomicU64,
    last: Mutex<Option<Instant>>,
    wake: Notify,
}

impl LocalDelivery for Subscriber {
    fn deliver(&self, _publication: &Arc<Publication>) -> bool {
        self.delivered.fetch_add(1, Ordering::Relaxed);
        *self.last.lock() = Some(Instant::now());
        self.wake.notify_one();
        true
    }

    fn note_newest(&self, _channel: &ChannelName, _newest: &Position) {}

    fn has_subscribers(&self, _channel: &ChannelName) -> bool {
        true
    }
}

struct Node {
    broker: Arc<RedisBroker<Subscriber>>,
    subscriber: Arc<Subscriber>,
}

impl Node {
    async fn start(redis: &Redis) -> Outcome<Self> {
        let mut namespaces = Namespaces::built_in();
        namespaces.add(Namespace::history("orders"))?;
        let options = RedisOptions {
            address: RedisAddress::parse(&format!("redis://127.0.0.1:{}", redis.port))?,
            cluster: Cluster::default(),
            sentinels: Sentinels::default(),
            tls: RedisTls::new(&CertificateFiles::default())?,
            prefix: "bench".to_owned(),
            timeout: Duration::from_secs(5),
            buffer_bytes: 64 << 20,
            comparison: RedisOptions::COMPARISON,
            protocol: NodeProtocol::CURRENT,
        };
        let subscriber = Arc::new(Subscriber::default());
        let broker = RedisBroker::start(
            Arc::new(namespaces),
            subscriber.clone(),
            Arc::new(SystemClock),
            MemoryLimits::default(),
            options,
        );
        Ok(Self {
            broker: Arc::new(broker.await?),
            subscriber,
        })
    }

    async fn join(&self, channels: &[ChannelName]) -> Outcome<()> {
        for channel in channels {
            if let Some(joined) = self.broker.join(channel) {
                joined.await?;
            }
        }
        Ok(())
    }
}

async fn publish(broker: &RedisBroker<Subscriber>, channel: &ChannelName) -> Outcome<Position> {
    let sender = Sender {
        client: ClientKey::Unknown,
        is_limited: false,
    };
    let event = Event::Message(DOCUMENT.into());
    Ok(broker.publish(channel, event, None, sender).await?)
}

fn channels(count: usize) -> Outcome<Vec<ChannelName>> {
    let names = (0..count).map(|number| ChannelName::parse(&format!("orders:{number}")));
    Ok(names.collect::<Result<_, _>>()?)
}

/// Acknowledged publications a second of all nodes together.
async fn publications_per_second(nodes: &[Node], channels: &[ChannelName]) -> Outcome<f64> {
    let end = Instant::now() + TIME;
    let acknowledged = Arc::new(AtomicU64::new(0));
    let mut tasks = Vec::new();
    for node in nodes {
        for publisher in 0..PUBLISHERS {
            let (broker, acknowledged) = (node.broker.clone(), acknowledged.clone());
            let channel = channels[publisher % channels.len()].clone();
            tasks.push(tokio::spawn(async move {
                while Instant::now() < end {
                    if publish(&broker, &channel).await.is_ok() {
                        acknowledged.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }));
        }
    }
    for task in tasks {
        task.await?;
    }
    Ok(acknowledged.load(Ordering::Relaxed) as f64 / TIME.as_secs_f64())
}

/// The median and the 99th percentile of the time from a publication by the first node to its
/// delivery by the last one, at a low rate, in milliseconds.
async fn delivery_ms(nodes: &[Node], channel: &ChannelName) -> Outcome<(f64, f64)> {
    let (first, last) = (&nodes[0], &nodes[nodes.len() - 1].subscriber);
    let mut times = Vec::new();
    for _ in 0..1_000 {
        let before = last.delivered.load(Ordering::Relaxed);
        let began = Instant::now();
        publish(&first.broker, channel).await?;
        while last.delivered.load(Ordering::Relaxed) == before {
            last.wake.notified().await;
        }
        let at = last.last.lock().ok_or("nothing was delivered")?;
        times.push(at.saturating_duration_since(began).as_secs_f64() * 1e3);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    times.sort_by(f64::total_cmp);
    Ok((times[times.len() / 2], times[times.len() * 99 / 100]))
}

#[tokio::main(flavor = "multi_thread")]
async fn main() -> Outcome<()> {
    let bench = Bench::from_arguments();
    let mut out = io::stdout();
    for (name, count, batch, pipeline) in [
        // All publications of a channel that wait are one batch.
        ("publish/one-channel", 1, BATCH, 4),
        // Each publication is a call.
        ("publish/2048-channels", PUBLISHERS, 1, BATCH),
    ] {
        for servers in [1, 2, 3] {
            let name = format!("{name}/{servers}-nodes");
            if !bench.wants(&name) || bench.is_fixed {
                continue;
            }
            let redis = Redis::start().await?;
            let channels = channels(count)?;
            let mut nodes = Vec::new();
            for _ in 0..servers {
                let node = Node::start(&redis).await?;
                node.join(&channels).await?;
                nodes.push(node);
            }
            let own = publications_per_second(&nodes, &channels).await?;
            let rate = |subscribers| -> Outcome<f64> {
                let calls = redis.calls_per_second("bench", batch, pipeline, subscribers)?;
                Ok(calls * batch as f64)
            };
            // Without subscribers, pub/sub costs the nodes' figure alone.
            let (bare, heard) = (rate(0)?, rate(servers)?);
            writeln!(
                out,
                "{name:32} {own:>9.0} /s   redis-benchmark {bare:>9.0} /s, ratio {:.2}   with subscribers {heard:>9.0} /s, ratio {:.2}",
                own / bare,
                own / heard
            )?;
        }
    }
    for servers in [1, 2, 3] {
        let name = format!("delivery/{servers}-nodes");
        if !bench.wants(&name) || bench.is_fixed {
            continue;
        }
        let redis = Redis::start().await?;
        let channels = channels(1)?;
        let mut nodes = Vec::new();
        for _ in 0..servers {
            let node = Node::start(&redis).await?;
            node.join(&channels).await?;
            nodes.push(node);
        }
        let (median, p99) = delivery_ms(&nodes, &channels[0]).await?;
        writeln!(out, "{name:40} p50 {median:.2} ms   p99 {p99:.2} ms")?;
    }
    Ok(())
}
