//! Bare loop: a WebSocket server that frames each message once and writes it to each
//! subscriber.
//!
//! It has no sessions, history, heartbeat or shared queue. A socket that would block gets its
//! own buffer. Its cost is the cost of the kernel.

use std::{
    collections::HashMap,
    io::{self, Read as _, Write as _},
};

use anyhow::Context as _;
use mio::{
    Events, Interest, Poll, Token,
    net::{TcpListener, TcpStream},
};

use crate::{
    machine,
    wire::{
        http1,
        websocket::{self, opcode},
    },
};

/// How messages are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Writes {
    /// One write per subscriber and message.
    Each,
    /// One write per subscriber for all messages of one read.
    Coalesced,
}

const LISTENER: Token = Token(usize::MAX - 1);
/// Maximum buffered bytes per socket. Beyond it, the socket is dropped.
const QUEUE: usize = 16 << 20;

struct Peer {
    stream: TcpStream,
    is_open: bool,
    /// Unparsed bytes. Empty for subscribers, which send nothing.
    read: Vec<u8>,
    /// Bytes that the socket did not accept.
    queue: Vec<u8>,
}

/// Serves until killed. Prints its address on stderr.
///
/// # Errors
/// No port is free.
pub(crate) fn serve(writes: Writes) -> anyhow::Result<()> {
    machine::raise_open_files();
    let mut listener = TcpListener::bind("127.0.0.1:0".parse()?).context("no port")?;
    let poll = Poll::new()?;
    poll.registry()
        .register(&mut listener, LISTENER, Interest::READABLE)?;
    writeln!(io::stderr(), "listens on http://{}", listener.local_addr()?)?;
    let mut bare = Bare {
        poll,
        listener,
        writes,
        peers: Vec::new(),
        channels: HashMap::new(),
        buffer: vec![0; 256 << 10],
    };
    let mut events = Events::with_capacity(1_024);
    loop {
        match bare.poll.poll(&mut events, None) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            polled => polled?,
        }
        for event in &events {
            match event.token() {
                LISTENER => bare.accept()?,
                Token(key) => {
                    if event.is_writable() {
                        bare.flush(key);
                    }
                    if event.is_readable() {
                        bare.read(key);
                    }
                }
            }
        }
    }
}

struct Bare {
    poll: Poll,
    listener: TcpListener,
    writes: Writes,
    /// Peers by token. Slots are not reused, because a run is short.
    peers: Vec<Option<Peer>>,
    /// Subscribers of each channel.
    channels: HashMap<Vec<u8>, Vec<usize>>,
    buffer: Vec<u8>,
}

impl Bare {
    fn accept(&mut self) -> io::Result<()> {
        loop {
            let mut stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            stream.set_nodelay(true)?;
            let token = Token(self.peers.len());
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.poll
                .registry()
                .register(&mut stream, token, interest)?;
            self.peers.push(Some(Peer {
                stream,
                is_open: false,
                read: Vec::new(),
                queue: Vec::new(),
            }));
        }
    }

    /// Reads and handles everything available.
    fn read(&mut self, key: usize) {
        let mut buffer = std::mem::take(&mut self.buffer);
        while let Some(peer) = &mut self.peers[key] {
            match peer.stream.read(&mut buffer) {
                Ok(count) if count > 0 => {
                    peer.read.extend_from_slice(&buffer[..count]);
                    self.take(key);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Ok(_) | Err(_) => self.peers[key] = None,
            }
        }
        self.buffer = buffer;
    }

    fn take(&mut self, key: usize) {
        let Some(peer) = &mut self.peers[key] else {
            return;
        };
        if !peer.is_open {
            let Some(length) = http1::head_length(&peer.read) else {
                return;
            };
            let head: Vec<u8> = peer.read.drain(..length).collect();
            peer.is_open = true;
            let mut out = http1::grant(&head);
            websocket::server(&mut out, opcode::TEXT, b"ready");
            let names = http1::path(&head)
                .split_once("?ch=")
                .map_or("", |(_, names)| names);
            for name in names.split(',').filter(|name| !name.is_empty()) {
                self.channels.entry(name.into()).or_default().push(key);
            }
            self.send(key, &out);
        }
        let Some(peer) = &mut self.peers[key] else {
            return;
        };
        let mut read = std::mem::take(&mut peer.read);
        let done = self.publish(&mut read);
        read.drain(..done);
        if let Some(peer) = &mut self.peers[key] {
            // Frees a subscriber's read buffer, because it sends almost nothing.
            peer.read = if read.is_empty() && read.capacity() < 1 << 10 {
                Vec::new()
            } else {
                read
            };
        }
    }

    /// Handles a publisher's frames, and returns how many bytes they were.
    fn publish(&mut self, read: &mut [u8]) -> usize {
        let mut at = 0;
        let mut gathered: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        while let Some(frame) = websocket::frame(&read[at..]) {
            let Some(payload) = read[at..].get_mut(frame.payload..frame.end) else {
                break;
            };
            at += frame.end;
            websocket::unmask(payload, frame.mask.unwrap_or_default());
            let Some(end) = payload.iter().position(|&byte| byte == b'\n') else {
                continue;
            };
            let (channel, payload) = (&payload[..end], &payload[end + 1..]);
            if self.writes == Writes::Each {
                let mut out = Vec::with_capacity(payload.len() + 10);
                websocket::server(&mut out, opcode::TEXT, payload);
                self.deliver(channel, &out);
                continue;
            }
            let known = gathered.iter_mut().find(|(name, _)| name == channel);
            let out = match known {
                Some((_, out)) => out,
                None => {
                    gathered.push((channel.to_vec(), Vec::new()));
                    // The entry was pushed above.
                    let Some((_, out)) = gathered.last_mut() else {
                        continue;
                    };
                    out
                }
            };
            websocket::server(out, opcode::TEXT, payload);
        }
        for (channel, out) in gathered {
            self.deliver(&channel, &out);
        }
        at
    }

    fn deliver(&mut self, channel: &[u8], out: &[u8]) {
        let Some(subscribers) = self.channels.get_mut(channel) else {
            return;
        };
        let subscribers = std::mem::take(subscribers);
        for &key in &subscribers {
            self.send(key, out);
        }
        if let Some(slot) = self.channels.get_mut(channel) {
            *slot = subscribers;
        }
    }

    fn send(&mut self, key: usize, out: &[u8]) {
        let Some(peer) = &mut self.peers[key] else {
            return;
        };
        let mut written = 0;
        if peer.queue.is_empty() {
            written = match peer.stream.write(out) {
                Ok(written) => written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                Err(_) => {
                    self.peers[key] = None;
                    return;
                }
            };
        }
        peer.queue.extend_from_slice(&out[written..]);
        if peer.queue.len() > QUEUE {
            self.peers[key] = None;
        }
    }

    fn flush(&mut self, key: usize) {
        let Some(peer) = &mut self.peers[key] else {
            return;
        };
        while !peer.queue.is_empty() {
            match peer.stream.write(&peer.queue) {
                Ok(written) => drop(peer.queue.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.peers[key] = None;
                    return;
                }
            }
        }
        peer.queue = Vec::new();
    }
}
