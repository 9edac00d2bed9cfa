//! Micro-benchmarks of the streaming core's public interface, in one process and without
//! sockets: the way of a publication to all transports, and the encodings on this way.
//!
//! ```text
//! cargo bench --bench stream                  # times
//! cargo bench --bench stream -- parse         # only benchmarks with this in their name
//! valgrind --tool=callgrind PATH --fixed      # a fixed number of repetitions, untimed
//! ```

mod support;

use std::{error::Error, hint::black_box, sync::Arc};

use bytes::Bytes;
use tidewire_proto::{
    json,
    v1::{ChannelSubscription, Decimal, PriceUpdate, SubscribeRequest},
};
use tidewire_stream::{
    AnonymousPolicy, Authenticator, ChannelName, Connection, ConnectionInfo, Encoding, Epoch,
    Event, Identity, Namespace, Namespaces, OutgoingMessage, Position, PriceBatch, Publication,
    PublishRight, ShardId, StreamCore, StreamOptions, SystemClock, Transport,
};
use tokio::runtime::Runtime;

use support::Bench;

/// Sessions that are subscribed to the channel.
const SESSIONS: usize = 1_000;
/// Publications that a transport takes in one batch.
const BATCH: usize = 8;
/// Prices in one frame.
const PRICES: usize = 50;
const CHANNEL: &str = "orders:1";
const PAYLOAD: &str = concat!(
    r#"{"symbol":"BTC-USD","price":61837.64,"change24h":1.84,"volume24h":28400000000,"#,
    r#""timestamp":1700000000000,"source":"aggregate","confidence":1.5,"sources":3,"stale":false,"#,
    r#""note":"about two hundred bytes"}"#
);
const SUBSCRIBE: &[u8] = br#"{"type":"subscribe","id":"7","data":{"channels":["prices:BTC-USD",{"channel":"orders:1","since":{"epoch":"0123456789ab","seq":42}}]}}"#;

fn main() -> Result<(), Box<dyn Error>> {
    let bench = Bench::from_arguments();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    fan_out(&bench, &runtime)?;
    encodings(&bench)?;
    parsing(&bench)
}

/// Benchmarks the way of publications to all transports.
fn fan_out(bench: &Bench, runtime: &Runtime) -> Result<(), Box<dyn Error>> {
    for (name, encoding) in [("json", Encoding::Json), ("proto", Encoding::Proto)] {
        let stream = stream()?;
        let connections = runtime.block_on(connect(&stream, encoding))?;
        for batch in [1, BATCH] {
            let name = format!("publish {batch} to {SESSIONS} sessions, {name}");
            bench.run(&name, 20, (SESSIONS * batch) as u32, || {
                runtime.block_on(publish_and_take(&stream, &connections, encoding, batch))
            })?;
        }
    }
    Ok(())
}

async fn publish_and_take(
    stream: &StreamCore,
    connections: &[Connection],
    encoding: Encoding,
    batch: usize,
) {
    for _ in 0..batch {
        let data = Bytes::from_static(PAYLOAD.as_bytes());
        let published = stream
            .publish_as(&Identity::Anonymous, CHANNEL, data, None)
            .await;
        debug_assert!(published.is_ok(), "anyone may publish here");
    }
    let mut out = Vec::with_capacity(batch);
    for connection in connections {
        // The publications are in the outbox: this does not wait.
        let taken = connection.next(64 << 10, &mut out).await;
        debug_assert!(
            taken.is_ok() && out.len() == batch,
            "one call returns all publications"
        );
        for message in out.drain(..) {
            black_box(encode(&message, encoding));
        }
    }
}

fn encodings(bench: &Bench) -> Result<(), Box<dyn Error>> {
    let channel = ChannelName::parse(CHANNEL)?;
    let message = || Event::Message(Bytes::from_static(PAYLOAD.as_bytes()));
    let make = |event| Publication::new(channel.clone(), position(), 1_700_000_000_000, event);
    bench.run("encode a publication, json", 20_000, 1, || {
        black_box(make(message()).json());
    })?;
    bench.run("encode a publication, proto", 20_000, 1, || {
        black_box(make(message()).proto());
    })?;
    bench.run("encode a price, json", 20_000, 1, || {
        black_box(make(Event::Price(price(1))).json());
    })?;
    bench.run("encode a price, proto", 20_000, 1, || {
        black_box(make(Event::Price(price(1))).proto());
    })?;
    let updates: Vec<_> = (0..PRICES)
        .map(|number| make(Event::Price(price(number))))
        .collect();
    let batch = OutgoingMessage::PriceBatch(PriceBatch {
        updates,
        time_ms: 1_700_000_000_000,
    });
    for (name, encoding) in [("json", Encoding::Json), ("proto", Encoding::Proto)] {
        let name = format!("join {PRICES} prices, {name}");
        bench.run(&name, 2_000, PRICES as u32, || {
            black_box(encode(&batch, encoding));
        })?;
    }
    Ok(())
}

fn parsing(bench: &Bench) -> Result<(), Box<dyn Error>> {
    let publish =
        format!(r#"{{"type":"publish","data":{{"channel":"{CHANNEL}","data":{PAYLOAD}}}}}"#);
    let ping: &[u8] = br#"{"type":"ping","id":"9","data":{"t":1700000000000}}"#;
    for (name, text) in [
        ("subscribe", SUBSCRIBE),
        ("publish", publish.as_bytes()),
        ("ping", ping),
    ] {
        json::parse_client(text).map_err(|error| format!("{name} is refused: {error:?}"))?;
        bench.run(&format!("parse {name}"), 20_000, 1, || {
            let _ = black_box(json::parse_client(black_box(text)));
        })?;
    }
    bench.run("check a document", 20_000, 1, || {
        let _ = black_box(json::check_document(black_box(PAYLOAD.as_bytes())));
    })?;
    Ok(())
}

fn encode(message: &OutgoingMessage, encoding: Encoding) -> Bytes {
    match encoding {
        Encoding::Json => message.json(),
        Encoding::Proto => message.proto(),
    }
}

fn position() -> Position {
    Position {
        epoch: Epoch::new("0123456789ab"),
        seq: 123_456,
    }
}

fn price(number: usize) -> PriceUpdate {
    PriceUpdate {
        symbol: format!("T{number:03}-USD"),
        price: Some(Decimal {
            value: "61837.64".to_owned(),
        }),
        change_24h: Some(1.84),
        volume_24h: Some(28_400_000_000.0),
        timestamp: 1_700_000_000_000,
        source: "aggregate".to_owned(),
        confidence: Some(Decimal {
            value: "1.5".to_owned(),
        }),
        sources: 3,
        ..PriceUpdate::default()
    }
}

fn stream() -> Result<Arc<StreamCore>, Box<dyn Error>> {
    let clock = Arc::new(SystemClock);
    let mut namespaces = Namespaces::built_in();
    namespaces.add(Namespace {
        publish: PublishRight::Public,
        ..Namespace::history("orders")
    })?;
    let authenticator = Authenticator::hs256(&[7; 32], AnonymousPolicy::Read, clock.clone())?;
    Ok(StreamCore::in_memory(
        namespaces,
        authenticator,
        clock,
        StreamOptions::default(),
    ))
}

/// Opens subscribed sessions, and takes their first messages.
async fn connect(
    stream: &Arc<StreamCore>,
    encoding: Encoding,
) -> Result<Vec<Connection>, Box<dyn Error>> {
    let mut connections = Vec::with_capacity(SESSIONS);
    for _ in 0..SESSIONS {
        let info = ConnectionInfo {
            caller: Identity::Anonymous.into(),
            transport: Transport::new("bench"),
            post_key: None,
            encoding,
            heartbeat: None,
            quota: None,
            // The publisher's thread delivers: the benchmark measures one thread.
            shard: ShardId::CALLER,
        };
        let connection = stream.connect(info).await;
        let channels = vec![ChannelSubscription {
            channel: CHANNEL.to_owned(),
            ..ChannelSubscription::default()
        }];
        connection
            .begin_command()
            .subscribe(SubscribeRequest { channels })
            .await?;
        let mut out = Vec::new();
        let taken = connection.next(64 << 10, &mut out).await;
        taken.map_err(|reason| format!("a session ended: {}", reason.text()))?;
        connections.push(connection);
    }
    Ok(connections)
}
