//! Test venue: an engine connected to a venue that the test plays on a local socket.

use std::{future::Future, sync::Arc, time::Duration};

use futures::{SinkExt as _, StreamExt as _};
use tidewire_price::PriceEngine;
use tidewire_proto::v1::Source;
use tidewire_stream::ManualClock;
use tokio::{
    net::{TcpListener, TcpStream},
    task::yield_now,
    time::{advance, pause, resume, timeout},
};
use tokio_tungstenite::{WebSocketStream, accept_async, tungstenite::Message};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{CapturingPublisher, NOW_US, config, price};

/// The limit of every wait, so that a hanging test fails.
const HANG: Duration = Duration::from_secs(30);

pub struct TestVenue(pub TcpListener);

pub type VenuePeer = WebSocketStream<TcpStream>;

impl TestVenue {
    pub async fn open() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    pub fn url(&self) -> String {
        format!("ws://{}/feed", self.0.local_addr().unwrap())
    }

    /// The next connection, after it has subscribed.
    pub async fn accept(&self) -> (VenuePeer, String) {
        let (socket, _) = within(self.0.accept()).await.unwrap();
        let mut peer = within(accept_async(socket)).await.unwrap();
        let request = receive(&mut peer).await;
        (peer, request)
    }
}

pub async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(HANG, future).await.unwrap()
}

pub async fn receive(peer: &mut VenuePeer) -> String {
    match within(peer.next()).await.unwrap().unwrap() {
        Message::Text(text) => text.to_string(),
        other => panic!("{other:?}"),
    }
}

pub async fn send(peer: &mut VenuePeer, frame: &str) {
    within(peer.send(Message::text(frame))).await.unwrap();
}

pub struct Harness {
    pub engine: PriceEngine,
    pub publisher: Arc<CapturingPublisher>,
    pub clock: Arc<ManualClock>,
    pub tasks: TaskTracker,
    pub cancel: CancellationToken,
}

impl Harness {
    /// An engine with one source, not connected yet.
    pub fn new(kind: &str, url: &str, more: &str) -> Self {
        let text = format!("{more}\n[[source]]\nkind = {kind:?}\nurl = {url:?}");
        let (publisher, clock) = (CapturingPublisher::new(), ManualClock::at(NOW_US / 1_000));
        Self {
            engine: PriceEngine::new(&config(&text), publisher.clone(), clock.clone()).unwrap(),
            publisher,
            clock,
            tasks: TaskTracker::new(),
            cancel: CancellationToken::new(),
        }
    }

    pub fn connect(self) -> Self {
        self.engine.connect(&self.tasks, &self.cancel);
        self
    }

    pub fn source(&self) -> Source {
        self.engine.sources().remove(0)
    }

    pub async fn until(&self, is_reached: impl Fn(&Source) -> bool) {
        within(async {
            while !is_reached(&self.source()) {
                yield_now().await;
            }
        })
        .await;
    }

    pub async fn until_published(&self, channel: &str, expected: &str) {
        within(async {
            while self.publisher.prices(channel).last().map(price) != Some(expected) {
                yield_now().await;
            }
        })
        .await;
    }

    pub async fn stop(self) {
        self.cancel.cancel();
        self.tasks.close();
        within(self.tasks.wait()).await;
    }
}

/// Advances tokio's clock.
pub async fn advance_seconds(seconds: u64) {
    pause();
    advance(Duration::from_secs(seconds)).await;
    resume();
}
