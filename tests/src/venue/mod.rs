//! Venue stand-ins: local servers with a venue's documented protocol. They send the frames of a
//! test or a capture.

mod capture;
mod connection;
mod frames;
mod oracle;
mod protocol;
mod supply;

use std::{net::SocketAddr, sync::Arc};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot, watch},
    task::{JoinHandle, JoinSet},
};
use tokio_rustls::TlsAcceptor;

pub use capture::{Capture, CaptureError, PlaybackSpeed, Repeat, Script};
pub use frames::{Ticker, Trade};
pub use oracle::{BTC_FEED, OraclePrice, OracleStandIn};
pub use protocol::VenueKind;
pub use supply::SupplyStandIn;

use crate::{tls::Authority, within};
use connection::{Command, Connection};

/// How a stand-in responds to its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// As the venue does.
    Documented,
    /// It accepts connections and sends nothing.
    Mute,
}

/// A stand-in. Dropping it closes all its connections.
#[derive(Debug)]
pub struct VenueStandIn {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

/// The state that a stand-in's connections share.
struct Shared {
    kind: VenueKind,
    script: Option<Script>,
    tls: Option<TlsAcceptor>,
    behaviour: watch::Sender<Behaviour>,
    /// The connections that have subscribed.
    subscribers: watch::Sender<Vec<mpsc::UnboundedSender<Command>>>,
    /// Connections accepted so far.
    accepted: watch::Sender<u64>,
}

impl VenueStandIn {
    /// Starts on a free port.
    ///
    /// # Panics
    /// There is no free port.
    pub async fn start(kind: VenueKind) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Self::listen(kind, any, None).await.expect("a free port")
    }

    /// Starts on a free port, behind TLS.
    ///
    /// # Panics
    /// There is no free port.
    pub async fn start_encrypted(kind: VenueKind, authority: &Authority) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let tls = Some(authority.acceptor());
        Self::open(kind, any, None, tls).await.expect("a free port")
    }

    /// Starts at this address, and plays `script` to each subscriber.
    ///
    /// # Errors
    /// The address is in use.
    pub async fn listen(
        kind: VenueKind,
        address: SocketAddr,
        script: Option<Script>,
    ) -> std::io::Result<Self> {
        Self::open(kind, address, script, None).await
    }

    async fn open(
        kind: VenueKind,
        address: SocketAddr,
        script: Option<Script>,
        tls: Option<TlsAcceptor>,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            kind,
            script,
            tls,
            behaviour: watch::Sender::new(Behaviour::Documented),
            subscribers: watch::Sender::new(Vec::new()),
            accepted: watch::Sender::new(0),
        });
        let mut stand_in = Self {
            address,
            shared,
            accepting: None,
        };
        stand_in.bind().await?;
        Ok(stand_in)
    }

    async fn bind(&mut self) -> std::io::Result<()> {
        let listener = TcpListener::bind(self.address).await?;
        self.address = listener.local_addr()?;
        self.accepting = Some(tokio::spawn(accept(listener, self.shared.clone())));
        Ok(())
    }

    /// The kind of its venue.
    #[must_use]
    pub fn kind(&self) -> VenueKind {
        self.shared.kind
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL, for a server's configuration.
    #[must_use]
    pub fn url(&self) -> String {
        match self.shared.tls {
            None => format!("ws://{}", self.address),
            Some(_) => format!("wss://localhost:{}", self.address.port()),
        }
    }

    /// Connections accepted so far.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        *self.shared.accepted.borrow()
    }

    /// Waits until it has accepted `count` connections.
    ///
    /// # Panics
    /// They are not opened in time.
    pub async fn wait_accepted(&self, count: u64) {
        let mut accepted = self.shared.accepted.subscribe();
        let reached = accepted.wait_for(|accepted| *accepted >= count);
        let _ = within(format!("connection {count} to a venue"), reached).await;
    }

    /// Sends a frame to all subscribers.
    pub fn send(&self, frame: impl Into<String>) {
        let frame = frame.into();
        for subscriber in self.shared.subscribers.borrow().iter() {
            // A closed connection receives nothing.
            let _ = subscriber.send(Command::Send(frame.clone()));
        }
    }

    /// Sends a trade.
    pub fn trade(&self, trade: &Trade<'_>) {
        self.send(trade.frame(self.kind()));
    }

    /// Sends a ticker.
    pub fn ticker(&self, ticker: &Ticker<'_>) {
        self.send(ticker.frame(self.kind()));
    }

    /// Waits until the clients have read everything sent so far: they answer a ping that was sent
    /// after it.
    ///
    /// # Panics
    /// A client does not answer in time.
    pub async fn wait_read(&self) {
        let subscribers = self.shared.subscribers.borrow().clone();
        for subscriber in subscribers {
            let (answered, answer) = oneshot::channel();
            if subscriber.send(Command::Ping(answered)).is_ok() {
                // An error means that the connection has ended, so nothing is left to read.
                let _ = within("a venue's frames to be read", answer).await;
            }
        }
    }

    /// Announces a shutdown of its connections, as the venue documents it.
    ///
    /// # Panics
    /// This venue announces none.
    pub fn announce_shutdown(&self) {
        let announcement = match self.kind() {
            VenueKind::Binance => r#"{"e":"serverShutdown","E":1723161257102}"#,
            VenueKind::Okx => {
                r#"{"event":"notice","code":"64008","msg":"The connection will soon be closed for a service upgrade. Please reconnect.","connId":"c"}"#
            }
            VenueKind::Bitstamp => r#"{"event":"bts:request_reconnect","channel":"","data":""}"#,
            other => panic!("{other:?} announces no end"),
        };
        self.send(announcement);
    }

    /// Waits until `count` connections are subscribed at once.
    ///
    /// # Panics
    /// They do not subscribe in time.
    pub async fn wait_subscribed(&self, count: usize) {
        let mut subscribers = self.shared.subscribers.subscribe();
        let all = subscribers.wait_for(|subscribers| {
            let open = subscribers
                .iter()
                .filter(|subscriber| !subscriber.is_closed());
            open.count() >= count
        });
        let _ = within(format!("{count} subscriptions to {:?}", self.kind()), all).await;
    }

    /// Changes its behaviour for new connections, and closes the open ones.
    pub fn set_behaviour(&self, behaviour: Behaviour) {
        self.shared.behaviour.send_replace(behaviour);
        self.disconnect();
    }

    /// Closes all subscribed connections. New ones are accepted.
    pub fn disconnect(&self) {
        for subscriber in self.shared.subscribers.send_replace(Vec::new()) {
            let _ = subscriber.send(Command::Disconnect);
        }
    }

    /// Stops: every connection breaks, and the port refuses new ones.
    pub async fn stop(&mut self) {
        if let Some(accepting) = self.accepting.take() {
            accepting.abort();
            // An aborted task returns an error.
            let _ = accepting.await;
        }
        self.shared.subscribers.send_replace(Vec::new());
    }

    /// Starts again at the same port.
    ///
    /// # Panics
    /// The port is in use.
    pub async fn restart(&mut self) {
        self.bind().await.expect("the port is still free");
    }
}

impl Drop for VenueStandIn {
    fn drop(&mut self) {
        if let Some(accepting) = &self.accepting {
            accepting.abort();
        }
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("kind", &self.kind)
            .field("behaviour", &self.behaviour)
            .finish_non_exhaustive()
    }
}

/// Accepts connections. Aborting it closes them all.
async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        shared.accepted.send_modify(|accepted| *accepted += 1);
        connections.spawn(serve_connection(stream, shared.clone()));
        while connections.try_join_next().is_some() {}
    }
}

async fn serve_connection(stream: TcpStream, shared: Arc<Shared>) {
    // Frames are small, and would otherwise wait for each other.
    let _ = stream.set_nodelay(true);
    let Some(tls) = &shared.tls else {
        return Connection::run(stream, shared).await;
    };
    // A client that does not trust the certificate closes.
    if let Ok(stream) = tls.accept(stream).await {
        Connection::run(stream, shared.clone()).await;
    }
}
