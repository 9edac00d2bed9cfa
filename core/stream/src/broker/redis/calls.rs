//! Calls: commands that may be repeated, such as reads, on a connection that many share.
//!
//! All commands that wait are sent as one pipeline. After a fault of the connection they are sent
//! again on the next one, as long as somebody waits for them.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::{
    address::RedisOptions,
    connection::RedisConnection,
    error::RedisError,
    health::{Link, LinkHealth},
    resp::{self, Reply},
    script::{Digests, ScriptCall},
};
use crate::Backoff;

/// Commands that wait for the connection at most. Beyond, callers wait for room.
const QUEUE: usize = 4_096;

/// Commands of one pipeline at most.
const PIPELINE: usize = 256;

/// Pause after the first failed connection, and the longest.
pub(super) const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Pauses that are as long as the first one: a failover takes about a second.
const EAGER: u32 = 20;

/// The pauses between two connections.
pub(super) fn backoff() -> Backoff {
    Backoff::with_jitter(PAUSES.0, PAUSES.1).eager(EAGER)
}

/// Whether a command is sent again after a connection broke before its answer came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Repetition {
    /// It is: it may be carried out twice.
    Allowed,
    /// It fails: it is not known whether it was carried out.
    Forbidden,
}

/// A command.
#[derive(Debug)]
pub(super) enum RedisCommand {
    /// A script, loaded where it is unknown.
    Script(ScriptCall),
    /// Any other command.
    Plain(Vec<Bytes>),
}

#[derive(Debug)]
struct Call {
    command: RedisCommand,
    repetition: Repetition,
    reply: oneshot::Sender<Result<Reply, RedisError>>,
}

/// The sending side.
#[derive(Debug, Clone)]
pub(super) struct Calls {
    sender: mpsc::Sender<Call>,
    health: Arc<LinkHealth>,
    timeout: Duration,
}

impl Calls {
    /// Calls without a connection yet, and the worker that has to run for them.
    pub(super) fn new(options: &RedisOptions, health: Arc<LinkHealth>) -> (Self, Worker) {
        let (sender, queue) = mpsc::channel(QUEUE);
        let worker = Worker {
            options: options.clone(),
            health: health.clone(),
            queue,
        };
        let calls = Self {
            sender,
            health,
            timeout: options.timeout,
        };
        (calls, worker)
    }

    /// Sends a command, and waits for the answer.
    ///
    /// # Errors
    /// No answer came in time, or the server refused the command.
    pub(super) async fn call(&self, command: RedisCommand) -> Result<Reply, RedisError> {
        self.send(command, Repetition::Allowed).await
    }

    async fn send(
        &self,
        command: RedisCommand,
        repetition: Repetition,
    ) -> Result<Reply, RedisError> {
        let (reply, answer) = oneshot::channel();
        let call = async {
            let ended = || RedisError::Connection("the broker has ended".to_owned());
            let sent = self.sender.send(Call {
                command,
                repetition,
                reply,
            });
            let sent = sent.await;
            sent.map_err(|_| ended())?;
            answer.await.map_err(|_| ended())?
        };
        match tokio::time::timeout(self.timeout, call).await {
            Ok(reply) => reply,
            Err(_) => Err(self.health.timed_out(self.timeout)),
        }
    }

    /// Calls a script.
    ///
    /// # Errors
    /// As those of [`call`](Self::call).
    pub(super) async fn script(&self, call: ScriptCall) -> Result<Reply, RedisError> {
        self.call(RedisCommand::Script(call)).await
    }

    /// Calls a script that is carried out once at most.
    ///
    /// # Errors
    /// As those of [`call`](Self::call), and the connection broke.
    pub(super) async fn script_once(&self, call: ScriptCall) -> Result<Reply, RedisError> {
        self.send(RedisCommand::Script(call), Repetition::Forbidden)
            .await
    }

    /// Calls a script that mostly reads. A server that refuses writes carries it out as long as
    /// nothing has to be written.
    ///
    /// # Errors
    /// As those of [`call`](Self::call).
    pub(super) async fn read(&self, call: ScriptCall) -> Result<Reply, RedisError> {
        let refused = match self.script(call.clone()).await {
            Err(error) if error.refuses_writes() => error,
            reply => return reply,
        };
        match call.read_only() {
            Some(call) => self.script(call).await.map_err(|_| refused),
            None => Err(refused),
        }
    }
}

/// The side of the connection.
#[derive(Debug)]
pub(super) struct Worker {
    options: RedisOptions,
    health: Arc<LinkHealth>,
    queue: mpsc::Receiver<Call>,
}

impl Worker {
    /// Sends commands until all senders are gone.
    pub(super) async fn run(mut self) {
        let mut waiting = Vec::new();
        let mut backoff = backoff();
        loop {
            let version = self.options.sentinels.version();
            match self.connect_and_serve(&mut waiting, &mut backoff).await {
                Ok(()) => return,
                Err(error) => self.health.fail(Link::Reads, &error),
            }
            let pause = backoff.next_pause();
            self.options.sentinels.pause(version, pause).await;
        }
    }

    async fn connect_and_serve(
        &mut self,
        waiting: &mut Vec<Call>,
        backoff: &mut Backoff,
    ) -> Result<(), RedisError> {
        let mut connection = RedisConnection::open_master(&self.options, None).await?;
        let mut digests = Digests::load(&mut connection).await?;
        if waiting.is_empty() {
            self.health.recover(Link::Reads);
            backoff.reset();
        }
        let mut pipeline = Vec::new();
        loop {
            waiting.retain(|call| !call.reply.is_closed());
            if waiting.is_empty() && self.queue.recv_many(waiting, PIPELINE).await == 0 {
                return Ok(());
            }
            pipeline.clear();
            for call in &*waiting {
                match &call.command {
                    RedisCommand::Script(script) => digests.encode(&mut pipeline, script),
                    RedisCommand::Plain(arguments) => resp::encode(&mut pipeline, arguments),
                }
            }
            connection.check_master()?;
            let exchanged = connection.exchange(&pipeline, waiting.len()).await;
            let replies = exchanged.inspect_err(|error| fail_unrepeatable(waiting, error))?;
            let (mut again, mut passing) = (Vec::new(), None);
            for (call, reply) in waiting.drain(..).zip(replies) {
                let reply = match reply {
                    Reply::Error(text) => Err(RedisError::Refused(text)),
                    reply => Ok(reply),
                };
                match reply {
                    Err(error) if error.is_unknown_script() => again.push(call),
                    Err(error) if error.is_transient() => {
                        passing = Some(error);
                        again.push(call);
                    }
                    // A caller that has given up needs no answer.
                    reply => drop(call.reply.send(reply)),
                }
            }
            *waiting = again;
            if let Some(error) = passing {
                return Err(error);
            }
            self.health.recover(Link::Reads);
            backoff.reset();
            if !waiting.is_empty() {
                digests = Digests::load(&mut connection).await?;
            }
        }
    }
}

/// Fails the commands that may have been carried out, and must not be twice.
fn fail_unrepeatable(waiting: &mut Vec<Call>, error: &RedisError) {
    let is_unrepeatable = |call: &mut Call| call.repetition == Repetition::Forbidden;
    for call in waiting.extract_if(.., is_unrepeatable) {
        // A caller that has given up needs no answer.
        drop(call.reply.send(Err(error.clone())));
    }
}
