//! A stand-in for Pyth Hermes: Server-Sent Events of prices, as they are documented.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    task::{JoinHandle, JoinSet},
};

use super::Manner;
use crate::within;

/// The feed of BTC-USD.
pub const BTC_FEED: &str = "e62df6c8b4a85fe1a67db44dc12de5db330f7ac66b72dc658afedf0f4a415b43";

const HEAD: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

/// A request is no longer than this.
const REQUEST_BYTES: usize = 1 << 14;

/// A price as the oracle says it: whole numbers, times ten to the power of `expo`.
#[derive(Debug, Clone, Copy)]
pub struct OraclePrice<'a> {
    /// The feed.
    pub feed: &'a str,
    /// The price.
    pub price: &'a str,
    /// How far it may be off.
    pub conf: &'a str,
    /// The power of ten.
    pub expo: i32,
    /// When it was published, in seconds since the Unix epoch.
    pub publish_time: i64,
}

impl OraclePrice<'_> {
    fn data(&self) -> String {
        let Self {
            feed,
            price,
            conf,
            expo,
            publish_time,
        } = self;
        let price =
            json!({"price": price, "conf": conf, "expo": expo, "publish_time": publish_time});
        json!({
            "binary": {"encoding": "hex", "data": ["504e4155"]},
            "parsed": [{
                "id": feed, "price": price, "ema_price": price,
                "metadata": {"slot": 1, "proof_available_time": 2, "prev_publish_time": 3},
            }],
        })
        .to_string()
    }
}

/// A stand-in. Dropped, it is gone with all its connections.
#[derive(Debug)]
pub struct OracleStandIn {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    /// The feeds that there are.
    feeds: BTreeSet<String>,
    manner: watch::Sender<Manner>,
    /// Connections that are told prices. `None` ends one.
    lives: watch::Sender<Vec<mpsc::UnboundedSender<Option<String>>>>,
    asked: watch::Sender<u64>,
}

impl OracleStandIn {
    /// Starts on a free port, with these feeds.
    ///
    /// # Panics
    /// There is no free port.
    pub async fn start(feeds: &[&str]) -> Self {
        let shared = Shared {
            feeds: feeds.iter().map(|feed| (*feed).to_owned()).collect(),
            manner: watch::Sender::new(Manner::Polite),
            lives: watch::Sender::new(Vec::new()),
            asked: watch::Sender::new(0),
        };
        let mut stand_in = Self {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            shared: Arc::new(shared),
            accepting: None,
        };
        stand_in.restart().await;
        stand_in
    }

    /// Where prices are had, for a server's configuration.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/v2/updates/price/stream", self.address)
    }

    /// Waits until it was asked so often.
    ///
    /// # Panics
    /// Nobody asks.
    pub async fn wait_asked(&self, count: u64) {
        let mut asked = self.shared.asked.subscribe();
        let reached = asked.wait_for(|asked| *asked >= count);
        let _ = within(format!("request {count} to the oracle"), reached).await;
    }

    /// Waits until somebody hears it.
    ///
    /// # Panics
    /// Nobody comes.
    pub async fn subscribed(&self) {
        let mut lives = self.shared.lives.subscribe();
        let someone = lives.wait_for(|lives| lives.iter().any(|live| !live.is_closed()));
        let _ = within("someone to hear the oracle", someone).await;
    }

    /// Says a price.
    pub fn price(&self, price: &OraclePrice<'_>) {
        self.data(&price.data());
    }

    /// Says an event with this data.
    pub fn data(&self, data: &str) {
        self.say(&format!("data:{data}\n\n"));
    }

    /// Says these bytes to all that hear it.
    pub fn say(&self, text: &str) {
        for live in self.shared.lives.borrow().iter() {
            // Who has gone hears nothing.
            let _ = live.send(Some(text.to_owned()));
        }
    }

    /// Ends all streams. New ones are begun.
    pub fn cut(&self) {
        for live in self.shared.lives.send_replace(Vec::new()) {
            let _ = live.send(None);
        }
    }

    /// Changes its manner, for streams to come; those that stand are cut.
    pub fn set_manner(&self, manner: Manner) {
        self.shared.manner.send_replace(manner);
        self.cut();
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
        let listener = TcpListener::bind(self.address).await.expect("a port");
        self.address = listener.local_addr().expect("an address");
        self.accepting = Some(tokio::spawn(accept(listener, self.shared.clone())));
    }
}

impl Drop for OracleStandIn {
    fn drop(&mut self) {
        if let Some(accepting) = &self.accepting {
            accepting.abort();
        }
    }
}

/// Takes connections. Its end ends them all.
async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        let shared = shared.clone();
        connections.spawn(async move {
            // The peer went away: that is what peers do.
            let _ = serve(stream, &shared).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(mut stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") && request.len() < REQUEST_BYTES {
        request.push(stream.read_u8().await?);
    }
    shared.asked.send_modify(|asked| *asked += 1);
    let request = String::from_utf8_lossy(&request).into_owned();
    if let Some(refusal) = refusal(&request, &shared.feeds) {
        return stream.write_all(refusal.as_bytes()).await;
    }
    if *shared.manner.borrow() == Manner::Mute {
        // It begins, and says nothing but that it is there.
        stream.write_all(HEAD.as_bytes()).await?;
        stream.write_all(chunk(":\n\n").as_bytes()).await?;
        return drain(stream).await;
    }
    stream.write_all(HEAD.as_bytes()).await?;
    let (sender, mut texts) = mpsc::unbounded_channel();
    shared.lives.send_modify(|lives| {
        lives.retain(|live: &mpsc::UnboundedSender<Option<String>>| !live.is_closed());
        lives.push(sender);
    });
    while let Some(Some(text)) = texts.recv().await {
        stream.write_all(chunk(&text).as_bytes()).await?;
    }
    Ok(())
}

/// Waits for the peer to go.
async fn drain(mut stream: TcpStream) -> std::io::Result<()> {
    let mut bytes = [0; 64];
    while stream.read(&mut bytes).await? > 0 {}
    Ok(())
}

fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

/// The answer to a request that cannot be served.
fn refusal(request: &str, feeds: &BTreeSet<String>) -> Option<String> {
    let refuse = |status: &str, reason: &str| {
        let length = reason.len();
        format!(
            "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{reason}"
        )
    };
    let path = request.split(' ').nth(1).unwrap_or_default();
    let Some(query) = path.strip_prefix("/v2/updates/price/stream?") else {
        return Some(refuse("404 Not Found", "no such path"));
    };
    let mut ids = query
        .split('&')
        .filter_map(|pair| pair.strip_prefix("ids[]="));
    let unknown = ids.clone().find(|id| !feeds.contains(*id));
    match (unknown, ids.next()) {
        (Some(id), _) => Some(refuse(
            "404 Not Found",
            &format!("Price ids not found: {id}"),
        )),
        (None, None) => Some(refuse("400 Bad Request", "ids[] is missing")),
        (None, Some(_)) => None,
    }
}
