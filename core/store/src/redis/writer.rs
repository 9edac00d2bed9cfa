//! Writer: commits the batches of a term, in their order.
//!
//! Batches that wait share one script call under one number, the count of commits. After a lost
//! answer the call is repeated under the same number, and the script returns that it was done.
//!
//! If no answer comes in time, it is not known whether the batches were stored. The engines
//! would then remember something else than the store has. Such a term ends, and the engines open
//! anew. A batch that was certainly not stored fails alone.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tidewire_redis::{RedisConnection, RedisError, RedisOptions, Reply};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep, timeout_at},
};

use super::{
    command::{COMMIT, call, wait},
    failed,
    keys::{KeyNames, excluded, included},
    reads::PAUSE,
    term::Term,
};
use crate::{Batch, StoreError, Table, Write};

/// Batches that share one call at most.
const GROUP: usize = 256;

/// Writes of a call from which on it takes no further batch: a few milliseconds of Redis' time.
const GROUP_WRITES: usize = 1_024;

/// Time between two attempts of a writer without batches to find out that a fault is over.
const PROBES: Duration = Duration::from_millis(500);

/// A batch that waits for its commit.
pub(super) struct Job {
    pub(super) batch: Batch,
    pub(super) done: oneshot::Sender<Result<(), StoreError>>,
}

/// Writes the batches of a term.
pub(super) struct Writer {
    pub(super) options: RedisOptions,
    pub(super) keys: KeyNames,
    pub(super) replicas: u32,
    pub(super) term: Arc<Term>,
    pub(super) jobs: mpsc::Receiver<Job>,
    pub(super) urgent_jobs: mpsc::Receiver<Job>,
    pub(super) was_urgent: bool,
    pub(super) connection: Option<RedisConnection>,
}

/// The outcome of one call.
enum Outcome {
    Done,
    /// Nothing was stored.
    Refused(StoreError),
    /// The term is over.
    Ended(StoreError),
}

impl Writer {
    /// Writes until the term ends or all senders are gone.
    pub(super) async fn run(mut self) {
        let mut group = Vec::new();
        let mut is_failing = false;
        while self.term.end().is_none() {
            let term = self.term.clone();
            let has_jobs = tokio::select! {
                biased;
                _ = term.ended() => break,
                has_jobs = self.collect(&mut group) => has_jobs,
                // Without batches: an empty call finds out whether the fault is over.
                () = sleep(PROBES), if is_failing => true,
            };
            if !has_jobs {
                break;
            }
            let outcome = self.write(&group).await;
            let result = match outcome {
                Outcome::Done => Ok(()),
                Outcome::Refused(error) => Err(error),
                Outcome::Ended(error) => {
                    self.term.finish(error.clone());
                    Err(error)
                }
            };
            is_failing = result.is_err();
            if let Err(error) = &result
                && self.term.fault().as_ref() != Some(error)
            {
                tracing::error!(%error, batches = group.len(), "cannot write to the shared store");
            }
            self.term.fail_commits(result.clone().err());
            for job in group.drain(..) {
                // The caller may have stopped waiting. The write counts all the same.
                let _ = job.done.send(result.clone());
            }
        }
        let reason = self.term.end().unwrap_or(StoreError::Closed);
        self.jobs.close();
        self.urgent_jobs.close();
        while let Ok(job) = self.urgent_jobs.try_recv() {
            group.push(job);
        }
        while let Ok(job) = self.jobs.try_recv() {
            group.push(job);
        }
        for job in group {
            let _ = job.done.send(Err(reason.clone()));
        }
    }

    /// Waits for batches, and collects those of the next call. False if there will be none any
    /// more. May be cancelled without losing any.
    async fn collect(&mut self, group: &mut Vec<Job>) -> bool {
        // Others are not kept waiting twice in a row.
        let first = match self.was_urgent {
            true => self.jobs.try_recv().ok().map(|job| (job, false)),
            false => None,
        };
        let first = match first {
            Some(first) => Some(first),
            // Both queues belong to the same handles, so that both end together.
            None => tokio::select! {
                biased;
                Some(job) = self.urgent_jobs.recv() => Some((job, true)),
                Some(job) = self.jobs.recv() => Some((job, false)),
                else => None,
            },
        };
        let Some((job, is_urgent)) = first else {
            return false;
        };
        self.was_urgent = is_urgent;
        let queue = match is_urgent {
            true => &mut self.urgent_jobs,
            false => &mut self.jobs,
        };
        let mut writes = job.batch.writes().len();
        group.push(job);
        while group.len() < GROUP
            && writes < GROUP_WRITES
            && let Ok(job) = queue.try_recv()
        {
            writes += job.batch.writes().len();
            group.push(job);
        }
        true
    }

    /// Writes a group, and repeats the call until its outcome is known or its time is over.
    async fn write(&mut self, group: &[Job]) -> Outcome {
        // A probe has none, and changes nothing.
        let number = match group.is_empty() {
            true => 0,
            false => self.term.acknowledged() + 1,
        };
        let mut pipeline = self.encode(group, number);
        if self.replicas > 0 {
            let longest = self.options.timeout / 2;
            pipeline.extend(wait(self.replicas, longest));
        }
        let count = 1 + usize::from(self.replicas > 0);
        let deadline = Instant::now() + self.options.timeout;
        let mut is_in_doubt = false;
        loop {
            let term = self.term.clone();
            let attempt = async {
                tokio::select! {
                    biased;
                    reason = term.ended() => Err(Attempt::Ended(reason)),
                    tried = self.attempt(&pipeline, count, &mut is_in_doubt) => tried,
                }
            };
            let tried = timeout_at(deadline, attempt).await;
            let error = match tried {
                Ok(Ok(Reply::Text(answer))) => match &*answer {
                    b"done" => {
                        if !group.is_empty() {
                            self.term.acknowledge(number);
                        }
                        return Outcome::Done;
                    }
                    b"other" => return Outcome::Ended(StoreError::TakenOver),
                    _ => {
                        let text = String::from_utf8_lossy(&answer);
                        let found = text.strip_prefix("behind ").and_then(|n| n.parse().ok());
                        let lost = found.map(|found: u64| (number - 1).saturating_sub(found));
                        return Outcome::Ended(match lost {
                            Some(lost) => StoreError::Lost(lost),
                            None => failed(RedisError::Protocol(format!("{text:?} came"))),
                        });
                    }
                },
                Ok(Ok(other)) => {
                    let error = RedisError::Protocol(format!("{other:?} came, expected a text"));
                    return Outcome::Ended(failed(error));
                }
                Ok(Err(Attempt::Ended(reason))) => return Outcome::Ended(reason),
                Ok(Err(Attempt::Failed(error))) => {
                    self.connection = None;
                    error
                }
                Ok(Err(Attempt::Refused(error))) if error.is_transient() => {
                    self.connection = None;
                    // As when the slot of the store moves to another server of a cluster.
                    is_in_doubt |= is_partial(&error);
                    error
                }
                Ok(Err(Attempt::Refused(error))) => {
                    return match is_in_doubt || is_partial(&error) {
                        true => Outcome::Ended(StoreError::InDoubt(error.to_string())),
                        false => Outcome::Refused(failed(error)),
                    };
                }
                Err(_) => {
                    self.connection = None;
                    RedisError::TimedOut(self.options.timeout.as_millis())
                }
            };
            if Instant::now() + PAUSE >= deadline {
                return match is_in_doubt {
                    true => Outcome::Ended(StoreError::InDoubt(error.to_string())),
                    false => Outcome::Refused(failed(error)),
                };
            }
            self.term.fail_commits(Some(failed(&error)));
            sleep(PAUSE).await;
        }
    }

    /// Sends a pipeline once. `is_in_doubt` is set as long as it may have been carried out.
    async fn attempt(
        &mut self,
        pipeline: &[u8],
        count: usize,
        is_in_doubt: &mut bool,
    ) -> Result<Reply, Attempt> {
        if self.connection.is_none() {
            let lease = self.keys.lease();
            let opened = RedisConnection::open(&self.options, lease.as_bytes()).await;
            self.connection = Some(opened.map_err(Attempt::Failed)?);
        }
        let Some(connection) = &mut self.connection else {
            return Err(Attempt::Failed(RedisError::Connection("none".to_owned())));
        };
        connection.check_master().map_err(Attempt::Failed)?;
        let was_in_doubt = std::mem::replace(is_in_doubt, true);
        let asked = Instant::now();
        let replies = connection.exchange(pipeline, count).await;
        let mut replies = replies.map_err(Attempt::Failed)?.into_iter();
        // What a replaced master stored is lost: the promoted one is asked instead.
        let confirmed = connection.confirm_master(&self.options, asked).await;
        confirmed.map_err(Attempt::Failed)?;
        let reply = match replies.next() {
            Some(Reply::Error(text)) => {
                // Of this attempt it is known that it did nothing.
                *is_in_doubt = was_in_doubt;
                return Err(Attempt::Refused(RedisError::Refused(text)));
            }
            Some(reply) => reply,
            None => {
                let error = RedisError::Protocol("no answer came".to_owned());
                return Err(Attempt::Failed(error));
            }
        };
        match replies.next() {
            None => Ok(reply),
            Some(Reply::Integer(had)) if had >= i64::from(self.replicas) => Ok(reply),
            Some(Reply::Integer(had)) => Err(Attempt::Failed(RedisError::Connection(format!(
                "{had} replicas have the commit, expected {} as in store.replicas",
                self.replicas
            )))),
            Some(Reply::Error(text)) => Err(Attempt::Failed(RedisError::Refused(text))),
            Some(other) => Err(Attempt::Failed(RedisError::Protocol(format!(
                "{other:?} came, expected a number"
            )))),
        }
    }

    /// Encodes the call of a group under a number.
    fn encode(&self, group: &[Job], number: u64) -> Vec<u8> {
        let mut keys = vec![self.keys.lease()];
        let mut tables: HashMap<Table, usize> = HashMap::new();
        let mut arguments = vec![
            self.term.name.clone().into_bytes(),
            number.to_string().into_bytes(),
        ];
        for write in group.iter().flat_map(|job| job.batch.writes()) {
            let table = write.table();
            let next = tables.len() + 1;
            let index = *tables.entry(table).or_insert_with(|| {
                keys.extend([self.keys.values(table), self.keys.order(table)]);
                next
            });
            match write {
                Write::Put(_, key, value) => {
                    arguments.push(format!("p{index}").into_bytes());
                    arguments.extend([key.clone(), value.clone()]);
                }
                Write::Delete(_, key) => {
                    arguments.push(format!("d{index}").into_bytes());
                    arguments.push(key.clone());
                }
                Write::DeleteRange(_, from, to) => {
                    arguments.push(format!("r{index}").into_bytes());
                    arguments.extend([included(from), excluded(to)]);
                }
            }
        }
        call(COMMIT, &keys, &arguments)
    }
}

/// Whether a script failed at one of its commands, and may have done those before.
fn is_partial(error: &RedisError) -> bool {
    error.to_string().contains("user_script")
}

/// A failed attempt.
enum Attempt {
    /// The connection broke, or the replicas are late: the same call is repeated.
    Failed(RedisError),
    /// Redis refused the call.
    Refused(RedisError),
    /// The term ended meanwhile.
    Ended(StoreError),
}
