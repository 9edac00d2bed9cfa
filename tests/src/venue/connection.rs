//! One connection to a stand-in.

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

use super::{Manner, Repeat, Shared, protocol::Subscriptions};

/// What a connection is told to do.
#[derive(Debug)]
pub(super) enum Command {
    Say(String),
    /// Ping, and tell when the answer comes.
    Ping(oneshot::Sender<()>),
    Cut,
}

pub(super) struct Connection<S> {
    socket: WebSocketStream<S>,
    shared: Arc<Shared>,
    subscriptions: Subscriptions,
    pings: VecDeque<oneshot::Sender<()>>,
    /// The next line of the script, and when the script began.
    next: usize,
    began: Option<Instant>,
}

/// Whether a connection goes on.
#[derive(PartialEq, Eq)]
enum Flow {
    On,
    End,
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
        // The peer went away: that is what peers do.
        let _ = connection.talk().await;
    }

    async fn talk(&mut self) -> tungstenite::Result<()> {
        let (sender, mut commands) = mpsc::unbounded_channel();
        let mut announced = false;
        loop {
            let due = self.due();
            tokio::select! {
                frame = self.socket.next() => match frame {
                    Some(frame) => if self.take(frame?).await? == Flow::End { return Ok(()) },
                    None => return Ok(()),
                },
                Some(command) = commands.recv() => {
                    if self.obey(command).await? == Flow::End { return Ok(()) }
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.play().await?;
                }
            }
            if !announced && self.subscriptions.is_complete() {
                announced = true;
                self.began = Some(Instant::now());
                self.shared.lives.send_modify(|lives| {
                    lives.retain(|live| !live.is_closed());
                    lives.push(sender.clone());
                });
            }
        }
    }

    async fn take(&mut self, frame: Message) -> tungstenite::Result<Flow> {
        if *self.shared.manner.borrow() == Manner::Mute {
            return Ok(Flow::On);
        }
        match frame {
            Message::Text(text) => {
                for answer in self.subscriptions.answer(&text) {
                    self.socket.send(Message::text(answer)).await?;
                }
            }
            Message::Pong(_) => {
                if let Some(answered) = self.pings.pop_front() {
                    // Nobody waits for it any more, at worst.
                    let _ = answered.send(());
                }
            }
            Message::Close(_) => return Ok(Flow::End),
            Message::Binary(_) | Message::Ping(_) | Message::Frame(_) => {}
        }
        Ok(Flow::On)
    }

    async fn obey(&mut self, command: Command) -> tungstenite::Result<Flow> {
        match command {
            Command::Say(frame) => self.socket.send(Message::text(frame)).await?,
            Command::Ping(answered) => {
                self.pings.push_back(answered);
                let payload = Bytes::from_static(b"stand-in");
                self.socket.send(Message::Ping(payload)).await?;
            }
            Command::Cut => return Ok(Flow::End),
        }
        Ok(Flow::On)
    }

    /// When the script has something to say next.
    fn due(&self) -> Option<Instant> {
        let script = self.shared.script.as_ref()?;
        let line = script.lines.get(self.next)?;
        Some(self.began? + script.pace.offset(line.offset))
    }

    /// Says what is due, and begins again at the end if it is to.
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
