//! Progress: a client that reads always comes to the newest publication, whatever the sizes of
//! publications, outbox and history are. Clients of every kind: those that wait for messages
//! and those that their shard writes to, with JSON and protobuf.
//!
//! A session without progress may spin, so every case runs on a thread of its own.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::{
    sync::{Arc, Weak, mpsc},
    time::Duration,
};

use bytes::Bytes;
use futures::FutureExt as _;
use parking_lot::Mutex;
use proptest::prelude::*;
use tidewire_proto::v1::{Visibility, server_message::Data};
use tidewire_stream::{
    Connection, ConnectionInfo, Encoding, FlushOutcome, Identity, Namespace, OutgoingItem,
    OutgoingMessage, Session, ShardId, Sink, StreamCore, StreamOptions,
};
use tokio::time::Instant;

use support::{client_on, core_with, open_history, run_shard, subscription};

const CHANNEL: &str = "orders:1";

/// Time in which a case ends, whatever the machine does beside it. A session that spins does
/// not end at all.
const CASE_TIMEOUT: Duration = Duration::from_secs(60);

/// Times that a client is read from at the end, at most, for each publication.
const READS_PER_PUBLICATION: usize = 4;

/// Bounds that the sizes of publications are around.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    outbox: usize,
    history_size: usize,
}

#[derive(Debug, Clone)]
enum Action {
    /// Publishes a burst, of sizes in bytes.
    Publish(Vec<usize>),
    /// Every client reads about this much.
    Read(usize),
    Show(bool),
}

/// Sizes around nothing, a half of the outbox, all of it, and twice as much.
fn size(outbox: usize) -> impl Strategy<Value = usize> {
    let bases = [1, outbox / 4, outbox / 2, outbox, 2 * outbox];
    (prop::sample::select(bases.to_vec()), -160_isize..160)
        .prop_map(|(base, delta)| base.saturating_add_signed(delta).max(1))
}

fn action(outbox: usize) -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => prop::collection::vec(size(outbox), 1..6).prop_map(Action::Publish),
        3 => (1..3 * outbox).prop_map(Action::Read),
        1 => any::<bool>().prop_map(Action::Show),
    ]
}

fn case() -> impl Strategy<Value = (Bounds, Vec<Action>)> {
    let bounds = (600_usize..6_000, 1_usize..30);
    bounds.prop_flat_map(|(outbox, history_size)| {
        let bounds = Bounds {
            outbox,
            history_size,
        };
        (Just(bounds), prop::collection::vec(action(outbox), 1..30))
    })
}

/// A socket that accepts a number of bytes.
struct Socket {
    session: Session,
    state: Mutex<(usize, Vec<OutgoingMessage>)>,
}

impl Sink for Socket {
    fn flush(&self, now: Instant) {
        let mut state = self.state.lock();
        let (room, got) = &mut *state;
        let mut out = Vec::new();
        let later = now + Duration::from_secs(3_600);
        while *room > 0 {
            let outcome = self.session.take_outgoing(now, *room, &mut out, later);
            for item in out.drain(..) {
                let messages = match item {
                    OutgoingItem::Message(message) => vec![message],
                    OutgoingItem::Batch(batch) => {
                        let all = batch.publications().iter().cloned();
                        all.map(OutgoingMessage::Publication).collect()
                    }
                };
                let bytes: usize = messages.iter().map(|one| one.json().len()).sum();
                *room = room.saturating_sub(bytes);
                got.extend(messages);
            }
            match outcome {
                FlushOutcome::More | FlushOutcome::Drained => {}
                FlushOutcome::Idle => return,
                FlushOutcome::Close(reason) => panic!("closed: {reason:?}"),
            }
        }
    }
}

struct Client {
    name: String,
    connection: Connection,
    socket: Option<Arc<Socket>>,
    seq: u64,
}

impl Client {
    async fn connect(stream: &Arc<StreamCore>, shard: ShardId, encoding: Encoding) -> Self {
        let info = ConnectionInfo {
            encoding,
            ..client_on(shard)
        };
        let connection = stream.connect(info).await;
        let socket = (shard != ShardId::CALLER).then(|| {
            let socket = Arc::new(Socket {
                session: Session::clone(&connection),
                state: Mutex::default(),
            });
            let weak: Weak<Socket> = Arc::downgrade(&socket);
            connection.attach(weak);
            socket
        });
        let command = connection.begin_command();
        command.subscribe(subscription(CHANNEL)).await.unwrap();
        drop(command);
        Self {
            name: format!("{shard}, {encoding:?}"),
            connection,
            socket,
            seq: 0,
        }
    }

    async fn read(&mut self, budget: usize) {
        let mut out = Vec::new();
        match &self.socket {
            None => {
                // A read that waits gets its messages at the next one.
                let _ = self.connection.next(budget, &mut out).now_or_never();
            }
            Some(socket) => {
                socket.state.lock().0 = budget;
                socket.flush(Instant::now());
                // In paused time: longer than a tick, and than the pause before another read of a
                // history.
                tokio::time::sleep(Duration::from_millis(100)).await;
                let mut state = socket.state.lock();
                state.0 = 0;
                out.append(&mut state.1);
            }
        }
        for message in out {
            match message {
                OutgoingMessage::Publication(publication) => {
                    assert_eq!(publication.seq(), self.seq + 1, "{}: in order", self.name);
                    self.seq = publication.seq();
                }
                OutgoingMessage::Direct(message) => {
                    if let Some(Data::Gap(gap)) = &message.to_message().data {
                        assert!(gap.seq > self.seq, "{}: a gap goes forward", self.name);
                        self.seq = gap.seq;
                    }
                }
                OutgoingMessage::PriceBatch(_) => unreachable!("there are no prices"),
            }
        }
    }
}

async fn play(bounds: Bounds, actions: Vec<Action>) {
    let orders = Namespace {
        history_size: bounds.history_size,
        ..open_history("orders")
    };
    let options = StreamOptions {
        outbox_bytes: bounds.outbox,
        publication_bytes: 1 << 20,
        shards: 1,
        ..StreamOptions::default()
    };
    let stream = core_with([orders], options).0;
    let shard = stream.hub().shards().next().unwrap();
    run_shard(&stream, shard);
    let mut clients = Vec::new();
    for home in [ShardId::CALLER, shard] {
        for encoding in [Encoding::Json, Encoding::Proto] {
            clients.push(Client::connect(&stream, home, encoding).await);
        }
    }
    let (mut top, mut largest) = (0, 0);
    for action in actions {
        match action {
            Action::Publish(sizes) => {
                for size in sizes {
                    let data = Bytes::from(format!("{:?}", "x".repeat(size)));
                    let published = stream.publish_as(&Identity::Anonymous, CHANNEL, data, None);
                    top = published.await.unwrap().1.seq;
                    largest = largest.max(size + 200);
                }
            }
            Action::Read(budget) => {
                for client in &mut clients {
                    client.read(budget).await;
                }
            }
            Action::Show(is_active) => {
                let state = match is_active {
                    true => Visibility::Active,
                    false => Visibility::Background,
                };
                for client in &clients {
                    client.connection.set_visibility(state).unwrap();
                }
            }
        }
        // An item that is larger than the outbox waits alone.
        for client in &clients {
            let queued = client.connection.queued_bytes();
            assert!(queued <= largest.max(bounds.outbox) + 1_000, "{queued}");
        }
    }
    for mut client in clients {
        client
            .connection
            .set_visibility(Visibility::Active)
            .unwrap();
        let most = 8 + READS_PER_PUBLICATION * usize::try_from(top).unwrap();
        for _ in 0..most {
            client.read(usize::MAX).await;
        }
        assert_eq!(client.seq, top, "{} is at the newest", client.name);
        assert_eq!(client.connection.queued_bytes(), 0);
    }
}

/// Runs a case on a thread of its own.
fn run(bounds: Bounds, actions: Vec<Action>) {
    let (done, ended) = mpsc::channel();
    let case = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(play(bounds, actions));
        let _ = done.send(());
    });
    match ended.recv_timeout(CASE_TIMEOUT) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("a session makes no progress"),
        // A case that panicked hung up, and the panic goes on here.
        Ok(()) | Err(mpsc::RecvTimeoutError::Disconnected) => {
            if let Err(panic) = case.join() {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

#[test]
fn a_publication_that_does_not_fit_beside_a_queued_one_follows_it() {
    for (outbox, sizes) in [
        (4_096, [1_000, 4_000]),
        (4_096, [2_000, 2_000]),
        (4_096, [10, 9_000]),
        (4_096, [9_000, 10]),
        (4_096, [9_000, 9_000]),
    ] {
        let bounds = Bounds {
            outbox,
            history_size: 1_000,
        };
        run(bounds, vec![Action::Publish(sizes.to_vec())]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 150,
        max_shrink_iters: 20,
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_client_that_reads_comes_to_the_newest((bounds, actions) in case()) {
        run(bounds, actions);
    }
}
