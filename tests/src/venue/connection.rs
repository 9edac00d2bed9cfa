//! Connection: one client of a stand-in.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until},
};
use tokio_tungstenite::{
    WebSocketStream, accept_async,
    tungstenite::{self, Message},
};

use super::{Behaviour, Repeat, Shared, protocol::Subscriptions};

/// An order of the test to a connection.
#[derive(Debug)]
pub(super) enum Command {
    Send(String),
    /// Sends a ping, and reports the pong.
    Ping(oneshot::Sender<()>),
    Disconnect,
}

pub(super) struct Connection<S> {
    socket: WebSocketStream<S>,
    shared: Arc<Shared>,
    subscriptions: Subscriptions,
    pings: VecDeque<oneshot::Sender<()>>,
    /// The next line of the script, and when the script started.
    next: usize,
    began: Option<Instant>,
}

/// Whether the connection stays open.
#[derive(PartialEq, Eq)]
enum Next {
    Continue,
    Close,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub(super) async fn run(stream: S, shared: Arc<Shared>) {
        let Ok(socket) = accept_async(stream).await else {
            return;
        };
        let mut connection = Self {
            socket,
            subscriptions: Subscriptions::new(shared.kind),
            shared,
            pings: VecDeque::new(),
            next: 0,
            began: None,
        };
        // The peer may close at any time.
        let _ = connection.run_until_closed().await;
    }

    async fn run_until_closed(&mut self) -> tungstenite::Result<()> {
        let (sender, mut commands) = mpsc::unbounded_channel();
        let mut announced = false;
        loop {
            let due = self.due();
            tokio::select! {
                frame = self.socket.next() => match frame {
                    Some(frame) => if self.take(frame?).await? == Next::Close { return Ok(()) },
                    None => return Ok(()),
                },
                Some(command) = commands.recv() => {
                    if self.execute(command).await? == Next::Close { return Ok(()) }
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.play().await?;
                }
            }
            if !announced && self.subscriptions.is_complete() {
                announced = true;
                self.began = Some(Instant::now());
                self.shared.subscribers.send_modify(|subscribers| {
                    subscribers.retain(|subscriber| !subscriber.is_closed());
                    subscribers.push(sender.clone());
                });
            }
        }
    }

    async fn take(&mut self, frame: Message) -> tungstenite::Result<Next> {
        if *self.shared.behaviour.borrow() == Behaviour::Mute {
            return Ok(Next::Continue);
        }
        match frame {
            Message::Text(text) => {
                for answer in self.subscriptions.answer(&text) {
                    self.socket.send(Message::text(answer)).await?;
                }
            }
            Message::Pong(_) => {
                if let Some(answered) = self.pings.pop_front() {
                    // The test may have stopped waiting.
                    let _ = answered.send(());
                }
            }
            Message::Close(_) => return Ok(Next::Close),
            Message::Binary(_) | Message::Ping(_) | Message::Frame(_) => {}
        }
        Ok(Next::Continue)
    }

    async fn execute(&mut self, command: Command) -> tungstenite::Result<Next> {
        match command {
            Command::Send(frame) => self.socket.send(Message::text(frame)).await?,
            Command::Ping(answered) => {
                self.pings.push_back(answered);
                let payload = Bytes::from_static(b"stand-in");
                self.socket.send(Message::Ping(payload)).await?;
            }
            Command::Disconnect => return Ok(Next::Close),
        }
        Ok(Next::Continue)
    }

    /// When the script's next frame is due.
    fn due(&self) -> Option<Instant> {
        let script = self.shared.script.as_ref()?;
        let line = script.lines.get(self.next)?;
        Some(self.began? + script.speed.offset(line.offset))
    }

    /// Sends the frame that is due, and starts the script again at its end if it repeats.
    async fn play(&mut self) -> tungstenite::Result<()> {
        let shared = self.shared.clone();
        let Some(script) = &shared.script else {
            return Ok(());
        };
        let Some(line) = script.lines.get(self.next) else {
            return Ok(());
        };
        self.next += 1;
        if self.subscriptions.wants(&line.frame) {
            self.socket.send(Message::text(&line.frame)).await?;
        }
        if self.next == script.lines.len() && script.repeat == Repeat::Forever {
            self.next = 0;
            self.began = Some(Instant::now());
        }
        Ok(())
    }
}
