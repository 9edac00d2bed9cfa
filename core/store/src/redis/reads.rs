//! Reads: commands that may be repeated, on a connection that all reads of a term share.
//!
//! All commands that wait are sent as one pipeline. After a fault of the connection they are sent
//! again on the next one, as long as somebody waits for them.

use std::{sync::Arc, time::Duration};

use tidewire_redis::{RedisConnection, RedisError, RedisOptions, Reply};
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
    pub(super) fn start(options: RedisOptions, term: Arc<Term>) -> Self {
        let (queue, reads) = mpsc::channel(QUEUE);
        let timeout = options.timeout;
        tokio::spawn(async move {
            tokio::select! {
                () = serve(&options, reads) => {}
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

/// Serves reads until all senders are gone.
async fn serve(options: &RedisOptions, mut reads: mpsc::Receiver<Read>) {
    let mut pending = Vec::new();
    while let Err(error) = connect_and_serve(options, &mut reads, &mut pending).await {
        tracing::debug!(%error, "the connection of the store's reads is opened again");
        tokio::time::sleep(PAUSE).await;
    }
}

async fn connect_and_serve(
    options: &RedisOptions,
    reads: &mut mpsc::Receiver<Read>,
    pending: &mut Vec<Read>,
) -> Result<(), RedisError> {
    let mut connection = RedisConnection::open(options).await?;
    let mut pipeline = Vec::new();
    loop {
        pending.retain(|read| !read.reply.is_closed());
        if pending.is_empty() && reads.recv_many(pending, PIPELINE).await == 0 {
            return Ok(());
        }
        pipeline.clear();
        for read in &*pending {
            pipeline.extend_from_slice(&read.command);
        }
        connection.check_master()?;
        let replies = connection.exchange(&pipeline, pending.len()).await?;
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
