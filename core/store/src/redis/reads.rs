//! Reads: commands that may be repeated, on a connection that all reads of a term share.
//!
//! All commands that wait are sent as one pipeline. After a fault of the connection they are sent
//! again on the next one, as long as somebody waits for them.
//!
//! A connection may still lead to a server that was the master before, and nothing but its data shows
//! that. Each pipeline therefore begins with the lease: the server must have this term, and all
//! commits that were acknowledged before the pipeline was sent. Otherwise the connection is opened
//! again, and the reads are repeated.

use std::{sync::Arc, time::Duration};

use tidewire_redis::{RedisConnection, RedisError, RedisOptions, Reply, resp};
use tokio::sync::{mpsc, oneshot};

use super::{failed, term::Term};
use crate::StoreError;

/// Commands that wait for the connection at most. Beyond, callers wait for room.
const QUEUE: usize = 1_024;

/// Commands of one pipeline at most.
const PIPELINE: usize = 128;

/// Pause after a failed connection.
pub(super) const PAUSE: Duration = Duration::from_millis(100);

/// A read that waits.
struct Read {
    command: Vec<u8>,
    reply: oneshot::Sender<Result<Reply, RedisError>>,
}

/// The sending side.
#[derive(Debug, Clone)]
pub(super) struct Reads {
    queue: mpsc::Sender<Read>,
    timeout: Duration,
}

impl Reads {
    /// Starts the connection, which ends with the last sender or with the term.
    pub(super) fn start(options: RedisOptions, lease: &str, term: Arc<Term>) -> Self {
        let (queue, reads) = mpsc::channel(QUEUE);
        let timeout = options.timeout;
        let mut check = Vec::new();
        resp::encode(&mut check, &["HMGET", lease, "term", "commits"]);
        let server = Server {
            options,
            lease: lease.to_owned(),
            check,
            term: term.clone(),
        };
        tokio::spawn(async move {
            tokio::select! {
                () = server.serve(reads) => {}
                _ = term.ended() => {}
            }
        });
        Self { queue, timeout }
    }

    /// Sends a command, and waits for the answer.
    pub(super) async fn call(&self, command: Vec<u8>) -> Result<Reply, StoreError> {
        let (reply, answer) = oneshot::channel();
        let call = async {
            let sent = self.queue.send(Read { command, reply }).await;
            sent.map_err(|_| StoreError::Closed)?;
            let answer = answer.await.map_err(|_| StoreError::Closed)?;
            answer.map_err(failed)
        };
        let late = || failed(RedisError::TimedOut(self.timeout.as_millis()));
        tokio::time::timeout(self.timeout, call)
            .await
            .unwrap_or_else(|_| Err(late()))
    }
}

/// The side of the connection.
struct Server {
    options: RedisOptions,
    /// The key of the lease.
    lease: String,
    /// The command at the beginning of each pipeline.
    check: Vec<u8>,
    term: Arc<Term>,
}

impl Server {
    /// Serves reads until all senders are gone.
    async fn serve(&self, mut reads: mpsc::Receiver<Read>) {
        let mut pending = Vec::new();
        while let Err(error) = self.connect_and_serve(&mut reads, &mut pending).await {
            tracing::debug!(%error, "the connection of the store's reads is opened again");
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn connect_and_serve(
        &self,
        reads: &mut mpsc::Receiver<Read>,
        pending: &mut Vec<Read>,
    ) -> Result<(), RedisError> {
        let mut connection = RedisConnection::open(&self.options, self.lease.as_bytes()).await?;
        let mut pipeline = Vec::new();
        loop {
            pending.retain(|read| !read.reply.is_closed());
            if pending.is_empty() && reads.recv_many(pending, PIPELINE).await == 0 {
                return Ok(());
            }
            pipeline.clear();
            pipeline.extend_from_slice(&self.check);
            for read in &*pending {
                pipeline.extend_from_slice(&read.command);
            }
            connection.check_master()?;
            let acknowledged = self.term.acknowledged();
            let replies = connection.exchange(&pipeline, 1 + pending.len()).await?;
            let mut replies = replies.into_iter();
            self.check_lease(replies.next(), acknowledged)?;
            let (mut again, mut fault) = (Vec::new(), None);
            for (read, reply) in pending.drain(..).zip(replies) {
                let reply = match reply {
                    Reply::Error(text) => Err(RedisError::Refused(text)),
                    reply => Ok(reply),
                };
                match reply {
                    Err(error) if error.is_transient() => {
                        fault = Some(error);
                        again.push(read);
                    }
                    // A caller that has given up needs no answer.
                    reply => drop(read.reply.send(reply)),
                }
            }
            *pending = again;
            if let Some(error) = fault {
                return Err(error);
            }
        }
    }

    /// Checks that a server has this term, and what was acknowledged in it.
    fn check_lease(&self, reply: Option<Reply>, acknowledged: u64) -> Result<(), RedisError> {
        let lacks = || {
            let text =
                "the server lacks what the shared store acknowledged: another one is the master";
            RedisError::Connection(text.to_owned())
        };
        let mut parts = match reply {
            Some(Reply::Error(text)) => return Err(RedisError::Refused(text)),
            Some(reply) => reply.array()?.into_iter(),
            None => return Err(RedisError::Protocol("no answer came".to_owned())),
        };
        let (Some(Reply::Text(term)), Some(commits)) = (parts.next(), parts.next()) else {
            return Err(lacks());
        };
        let commits = match commits {
            Reply::Nil => 0,
            commits => commits.string()?.parse().unwrap_or(0_u64),
        };
        match *term == *self.term.name.as_bytes() && commits >= acknowledged {
            true => Ok(()),
            false => Err(lacks()),
        }
    }
}
