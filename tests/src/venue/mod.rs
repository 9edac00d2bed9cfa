//! Stand-ins for venues: they speak a venue's protocol as it is documented, on a
//! port of this machine, and say what a test or a recording tells them.

mod capture;
mod connection;
mod frames;
mod oracle;
mod protocol;
mod supply;
mod tls;

use std::{net::SocketAddr, sync::Arc};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot, watch},
    task::{JoinHandle, JoinSet},
};
use tokio_rustls::TlsAcceptor;

pub use capture::{Capture, CaptureError, Pace, Repeat, Script};
pub use frames::{Ticker, Trade};
pub use oracle::{BTC_FEED, OraclePrice, OracleStandIn};
pub use protocol::VenueKind;
pub use supply::SupplyStandIn;
pub use tls::Authority;

use crate::within;
use connection::{Command, Connection};

/// How a stand-in treats who connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// It answers as the venue does.
    Polite,
    /// It takes connections and says nothing at all.
    Mute,
}

/// A stand-in. Dropped, it is gone with all its connections.
#[derive(Debug)]
pub struct VenueStandIn {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

/// What the connections of a stand-in share.
struct Shared {
    kind: VenueKind,
    script: Option<Script>,
    tls: Option<TlsAcceptor>,
    manner: watch::Sender<Manner>,
    /// Connections that have subscribed.
    lives: watch::Sender<Vec<mpsc::UnboundedSender<Command>>>,
    /// How many connections were ever taken.
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

    /// Starts at this address, and plays `script` to everyone who subscribes.
    ///
    /// # Errors
    /// The address is taken.
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
            manner: watch::Sender::new(Manner::Polite),
            lives: watch::Sender::new(Vec::new()),
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

    /// Which venue it is.
    #[must_use]
    pub fn kind(&self) -> VenueKind {
        self.shared.kind
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL, for a server's configuration.
    #[must_use]
    pub fn url(&self) -> String {
        match self.shared.tls {
            None => format!("ws://{}", self.address),
            Some(_) => format!("wss://{}:{}", tls::HOST, self.address.port()),
        }
    }

    /// How many connections it ever took.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        *self.shared.accepted.borrow()
    }

    /// Waits until it took so many connections.
    ///
    /// # Panics
    /// They do not come.
    pub async fn wait_accepted(&self, count: u64) {
        let mut accepted = self.shared.accepted.subscribe();
        let reached = accepted.wait_for(|accepted| *accepted >= count);
        let _ = within(format!("connection {count} to a venue"), reached).await;
    }

    /// Waits until somebody is subscribed.
    ///
    /// # Panics
    /// Nobody comes.
    pub async fn subscribed(&self) {
        let mut lives = self.shared.lives.subscribe();
        let someone = lives.wait_for(|lives| lives.iter().any(|live| !live.is_closed()));
        let _ = within(
            format!("someone to subscribe to {:?}", self.kind()),
            someone,
        )
        .await;
    }

    /// Says a frame to all that are subscribed.
    pub fn say(&self, frame: impl Into<String>) {
        let frame = frame.into();
        for live in self.shared.lives.borrow().iter() {
            // Who has gone hears nothing.
            let _ = live.send(Command::Say(frame.clone()));
        }
    }

    /// Says a trade.
    pub fn trade(&self, trade: &Trade<'_>) {
        self.say(trade.frame(self.kind()));
    }

    /// Says a summary of the market.
    pub fn ticker(&self, ticker: &Ticker<'_>) {
        self.say(ticker.frame(self.kind()));
    }

    /// Waits until all that was said has been read at the other end: it answers a
    /// ping that went after it.
    ///
    /// # Panics
    /// Nobody answers.
    pub async fn heard(&self) {
        let lives = self.shared.lives.borrow().clone();
        for live in lives {
            let (answered, answer) = oneshot::channel();
            if live.send(Command::Ping(answered)).is_ok() {
                // An error: the connection ended, and nothing is on its way any more.
                let _ = within("a venue's frames to be read", answer).await;
            }
        }
    }

    /// Announces that it closes its connections soon, as the venues do that announce it.
    ///
    /// # Panics
    /// This venue does not.
    pub fn announce_end(&self) {
        let farewell = match self.kind() {
            VenueKind::Binance => r#"{"e":"serverShutdown","E":1723161257102}"#,
            VenueKind::Okx => {
                r#"{"event":"notice","code":"64008","msg":"The connection will soon be closed for a service upgrade. Please reconnect.","connId":"c"}"#
            }
            VenueKind::Bitstamp => r#"{"event":"bts:request_reconnect","channel":"","data":""}"#,
            other => panic!("{other:?} announces no end"),
        };
        self.say(farewell);
    }

    /// Waits until so many connections are subscribed at once.
    ///
    /// # Panics
    /// They do not come.
    pub async fn wait_subscribed(&self, count: usize) {
        let mut lives = self.shared.lives.subscribe();
        let all = lives.wait_for(|lives| {
            let live = lives.iter().filter(|live| !live.is_closed());
            live.count() >= count
        });
        let _ = within(format!("{count} subscriptions to {:?}", self.kind()), all).await;
    }

    /// Changes its manner, for connections to come; those that stand are cut.
    pub fn set_manner(&self, manner: Manner) {
        self.shared.manner.send_replace(manner);
        self.cut();
    }

    /// Cuts all connections that are subscribed. New ones are taken.
    pub fn cut(&self) {
        for live in self.shared.lives.send_replace(Vec::new()) {
            let _ = live.send(Command::Cut);
        }
    }

    /// Goes away: every connection breaks, and the port refuses new ones.
    pub async fn stop(&mut self) {
        if let Some(accepting) = self.accepting.take() {
            accepting.abort();
            // Ended, whichever way.
            let _ = accepting.await;
        }
        self.shared.lives.send_replace(Vec::new());
    }

    /// Comes back at the same port.
    ///
    /// # Panics
    /// Somebody else took the port.
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
            .field("manner", &self.manner)
            .finish_non_exhaustive()
    }
}

/// Takes connections. Its end ends them all.
async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        shared.accepted.send_modify(|accepted| *accepted += 1);
        connections.spawn(welcome(stream, shared.clone()));
        while connections.try_join_next().is_some() {}
    }
}

async fn welcome(stream: TcpStream, shared: Arc<Shared>) {
    // Trades are small: without this they wait for each other.
    let _ = stream.set_nodelay(true);
    let Some(tls) = &shared.tls else {
        return Connection::run(stream, shared).await;
    };
    // Who does not trust it goes away.
    if let Ok(stream) = tls.accept(stream).await {
        Connection::run(stream, shared.clone()).await;
    }
}
