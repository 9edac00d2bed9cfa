//! Link: a TCP proxy between a client and a server, which can be cut, go silent, or close after a
//! number of HTTP/2 frames.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

/// Bytes of an HTTP/2 frame's header, of which the first three are the length (RFC 9113, 4.1).
const FRAME_HEADER: usize = 9;

/// State of the link.
#[derive(Debug, Clone, Copy)]
struct Control {
    upstream: SocketAddr,
    /// Connections with a lower number are cut.
    first: u64,
    /// Connections with a lower number drop all packets.
    silent_below: u64,
}

/// A running proxy. It stops on drop.
#[derive(Debug)]
pub struct Link {
    address: SocketAddr,
    control: watch::Sender<Control>,
    /// Number of the connections that were made.
    opened: watch::Receiver<u64>,
    /// Frames after which the next connection is closed.
    frames: Arc<Mutex<Option<usize>>>,
    _task: JoinSet<()>,
}

impl Link {
    /// Starts a proxy to this address.
    ///
    /// # Panics
    /// No port is free.
    pub async fn start(upstream: SocketAddr) -> Self {
        Self::start_at(Ipv4Addr::LOCALHOST, upstream).await
    }

    /// Starts a proxy at this address of this process.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    pub async fn start_at(address: Ipv4Addr, upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind((address, 0)).await.expect("a free port");
        let control = watch::Sender::new(Control {
            upstream,
            first: 0,
            silent_below: 0,
        });
        let (counter, opened) = watch::channel(0);
        let frames = Arc::new(Mutex::new(None));
        let mut task = JoinSet::new();
        let address = listener.local_addr().expect("an address");
        let (changes, limit) = (control.subscribe(), frames.clone());
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let number = *counter.borrow();
                counter.send_modify(|number| *number += 1);
                let frames = limit.lock().take();
                connections.spawn(forward(client, number, changes.clone(), frames));
            }
        });
        Self {
            address,
            control,
            opened,
            frames,
            _task: task,
        }
    }

    /// Returns the address that clients connect to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the number of connections up to now.
    #[must_use]
    pub fn opened(&self) -> u64 {
        *self.opened.borrow()
    }

    /// Closes all connections.
    pub fn cut(&self) {
        let first = self.opened();
        self.control.send_modify(|control| control.first = first);
    }

    /// Drops all packets of the present connections, for ever, and of those to come until
    /// [`pass`](Self::pass). No side notices.
    pub fn silence(&self) {
        self.control
            .send_modify(|control| control.silent_below = u64::MAX);
    }

    /// Lets new connections pass again.
    pub fn pass(&self) {
        let opened = self.opened();
        let pass = |control: &mut Control| control.silent_below = control.silent_below.min(opened);
        self.control.send_modify(pass);
    }

    /// Closes the next connection after the server's frame with this number, from 1.
    pub fn close_after_frame(&self, number: usize) {
        *self.frames.lock() = Some(number);
    }

    /// Sends new connections to another server.
    pub fn redirect(&self, upstream: SocketAddr) {
        self.control
            .send_modify(|control| control.upstream = upstream);
    }
}

async fn forward(
    client: TcpStream,
    number: u64,
    mut control: watch::Receiver<Control>,
    frames: Option<usize>,
) {
    let now = *control.borrow_and_update();
    let Ok(server) = TcpStream::connect(now.upstream).await else {
        return;
    };
    let is_silent = AtomicBool::new(number < now.silent_below);
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let watch = async {
        while control.changed().await.is_ok() {
            let now = *control.borrow_and_update();
            is_silent.fetch_or(number < now.silent_below, Ordering::SeqCst);
            if now.first > number {
                return;
            }
        }
    };
    tokio::select! {
        () = copy(&mut from_client, &mut to_server, &is_silent, None) => {}
        () = copy(&mut from_server, &mut to_client, &is_silent, frames) => {}
        () = watch => {}
    }
}

/// Copies until the end, or until a number of frames. A silent link reads and drops.
async fn copy(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    is_silent: &AtomicBool,
    frames: Option<usize>,
) {
    let mut frames = frames.map(FrameCounter::new);
    let mut buffer = [0; 4_096];
    while let Ok(read) = from.read(&mut buffer).await {
        let part = frames
            .as_mut()
            .and_then(|frames| frames.end_in(&buffer[..read]));
        let bytes = &buffer[..part.unwrap_or(read)];
        if !is_silent.load(Ordering::SeqCst) && to.write_all(bytes).await.is_err() {
            return;
        }
        if read == 0 || part.is_some() {
            return;
        }
    }
}

/// Counts frames in a stream of bytes.
#[derive(Debug)]
struct FrameCounter {
    left: usize,
    header: Vec<u8>,
    payload: usize,
}

impl FrameCounter {
    fn new(left: usize) -> Self {
        Self {
            left,
            header: Vec::new(),
            payload: 0,
        }
    }

    /// Returns the index after the last frame, if it ends in these bytes.
    fn end_in(&mut self, bytes: &[u8]) -> Option<usize> {
        for (index, byte) in bytes.iter().enumerate() {
            if self.payload > 0 {
                self.payload -= 1;
            } else {
                self.header.push(*byte);
                if let [high, middle, low, ..] = self.header[..]
                    && self.header.len() == FRAME_HEADER
                {
                    self.payload =
                        usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
                } else {
                    continue;
                }
                self.header.clear();
            }
            if self.payload == 0 {
                self.left = self.left.saturating_sub(1);
                if self.left == 0 {
                    return Some(index + 1);
                }
            }
        }
        None
    }
}
