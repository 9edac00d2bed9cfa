//! Oracle stand-in: Pyth Hermes, with Server-Sent Events of prices after its documentation.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    task::{JoinHandle, JoinSet},
};

use super::Behaviour;
use crate::within;

/// The feed of BTC-USD.
pub const BTC_FEED: &str = "e62df6c8b4a85fe1a67db44dc12de5db330f7ac66b72dc658afedf0f4a415b43";

const HEAD: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

/// The longest request, in bytes.
const REQUEST_BYTES: usize = 1 << 14;

/// A price in the oracle's form: whole numbers, times ten to the power of `expo`.
#[derive(Debug, Clone, Copy)]
pub struct OraclePrice<'a> {
    /// The feed.
    pub feed: &'a str,
    /// The price.
    pub price: &'a str,
    /// The confidence, as a distance from the price.
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

/// A stand-in. Dropping it closes all its connections.
#[derive(Debug)]
pub struct OracleStandIn {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    /// The known feeds.
    feeds: BTreeSet<String>,
    behaviour: watch::Sender<Behaviour>,
    /// The open streams. `None` ends one.
    subscribers: watch::Sender<Vec<mpsc::UnboundedSender<Option<String>>>>,
    requests: watch::Sender<u64>,
}

impl OracleStandIn {
    /// Starts on a free port, with these feeds.
    ///
    /// # Panics
    /// There is no free port.
    pub async fn start(feeds: &[&str]) -> Self {
        let shared = Shared {
            feeds: feeds.iter().map(|feed| (*feed).to_owned()).collect(),
            behaviour: watch::Sender::new(Behaviour::Documented),
            subscribers: watch::Sender::new(Vec::new()),
            requests: watch::Sender::new(0),
        };
        let mut stand_in = Self {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            shared: Arc::new(shared),
            accepting: None,
        };
        stand_in.restart().await;
        stand_in
    }

    /// The URL of its price stream, for a server's configuration.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/v2/updates/price/stream", self.address)
    }

    /// Waits until it has received `count` requests.
    ///
    /// # Panics
    /// They do not come in time.
    pub async fn wait_requests(&self, count: u64) {
        let mut requests = self.shared.requests.subscribe();
        let reached = requests.wait_for(|requests| *requests >= count);
        let _ = within(format!("request {count} to the oracle"), reached).await;
    }

    /// Waits until `count` streams are open at once.
    ///
    /// # Panics
    /// They are not opened in time.
    pub async fn wait_subscribed(&self, count: usize) {
        let mut subscribers = self.shared.subscribers.subscribe();
        let all = subscribers.wait_for(|subscribers| {
            let open = subscribers
                .iter()
                .filter(|subscriber| !subscriber.is_closed());
            open.count() >= count
        });
        let _ = within(format!("{count} streams of the oracle"), all).await;
    }

    /// Sends a price.
    pub fn price(&self, price: &OraclePrice<'_>) {
        self.data(&price.data());
    }

    /// Sends an event with this data.
    pub fn data(&self, data: &str) {
        self.send(&format!("data:{data}\n\n"));
    }

    /// Sends these bytes to all streams.
    pub fn send(&self, text: &str) {
        for subscriber in self.shared.subscribers.borrow().iter() {
            // A closed stream receives nothing.
            let _ = subscriber.send(Some(text.to_owned()));
        }
    }

    /// Ends all streams. New ones are accepted.
    pub fn disconnect(&self) {
        for subscriber in self.shared.subscribers.send_replace(Vec::new()) {
            let _ = subscriber.send(None);
        }
    }

    /// Changes its behaviour for new streams, and ends the open ones.
    pub fn set_behaviour(&self, behaviour: Behaviour) {
        self.shared.behaviour.send_replace(behaviour);
        self.disconnect();
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

/// Accepts connections. Aborting it closes them all.
async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        let shared = shared.clone();
        connections.spawn(async move {
            // The peer may close at any time.
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
    shared.requests.send_modify(|requests| *requests += 1);
    let request = String::from_utf8_lossy(&request).into_owned();
    if let Some(refusal) = refusal(&request, &shared.feeds) {
        return stream.write_all(refusal.as_bytes()).await;
    }
    if *shared.behaviour.borrow() == Behaviour::Mute {
        // The stream starts with a comment, and nothing follows.
        stream.write_all(HEAD.as_bytes()).await?;
        stream.write_all(chunk(":\n\n").as_bytes()).await?;
        return drain(stream).await;
    }
    stream.write_all(HEAD.as_bytes()).await?;
    let (sender, mut texts) = mpsc::unbounded_channel();
    shared.subscribers.send_modify(|subscribers| {
        subscribers
            .retain(|subscriber: &mpsc::UnboundedSender<Option<String>>| !subscriber.is_closed());
        subscribers.push(sender);
    });
    while let Some(Some(text)) = texts.recv().await {
        stream.write_all(chunk(&text).as_bytes()).await?;
    }
    Ok(())
}

/// Waits until the peer closes.
async fn drain(mut stream: TcpStream) -> std::io::Result<()> {
    let mut bytes = [0; 64];
    while stream.read(&mut bytes).await? > 0 {}
    Ok(())
}

fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

/// The response to an invalid request.
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
