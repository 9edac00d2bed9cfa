//! Redis store: tables in Redis, which all nodes share and one at a time owns.
//!
//! ```text
//! StoreLease ──(script lease)──► which node owns the store
//!     │ RedisStore of a term
//!     ├── commit ─▶ queue ─▶ writer ──(script commit)──► Redis
//!     └── get, scan ─▶ reads ──(scripts get, floor, scan)──► Redis
//! ```
//! - [`lease`] and [`keeper`]: one node has the lease, which ends soon after its last extension. An
//!   engine that publishes for all nodes has a lease of the same kind.
//! - [`preference`] and [`balance`]: which of the candidates should have it. Several leases are spread
//!   evenly over the nodes.
//! - [`clock`]: the lease is judged by a clock that goes on while the machine is suspended.
//! - [`term`]: each time that a node gets it is a term, whose number is the fencing token.
//! - [`writer`]: the script of a commit checks the term, and counts commits. A node that was paused
//!   and has lost the lease cannot write; and a Redis that lost commits is found out.
//! - [`keys`]: the names in Redis, all with one hash tag.
//!
//! A store is as durable as its Redis: see `docs/cluster.md`.

mod balance;
mod clock;
mod command;
mod exchange;
mod keeper;
mod keys;
mod lease;
mod preference;
mod reads;
mod term;
mod writer;

use std::sync::Arc;

use bytes::Bytes;
use tidewire_redis::{RedisError, RedisOptions, Reply, resp};
use tokio::sync::{mpsc, oneshot};

pub use self::{
    balance::{Balance, BalancedShard},
    lease::{Candidacy, EngineLease, EngineTerm, Lease, Ownership, StoreLease, Tenure},
    preference::{Prefer, Preference, TenureChange},
};
use self::{
    command::{FLOOR, GET, SCAN, call},
    keys::{KeyNames, end_of, excluded, included},
    reads::Reads,
    term::Term,
    writer::{Job, Writer},
};
use crate::{Batch, Key, Store, StoreError, StoreFuture, Table, Value};

/// Batches in the queue before a commit waits.
const QUEUE: usize = 256;

/// Writes of one batch at most: Redis takes a million arguments.
const MAX_WRITES: usize = 300_000;

/// Bytes of one batch at most.
const MAX_BYTES: usize = 256 << 20;

/// Entries and bytes at which a page of a scan ends. A longer scan reads several.
const PAGE: (usize, usize) = (4_096, 4 << 20);

/// Keys of one read at most. A longer list takes several.
const KEYS: usize = 4_096;

/// Options of a store in Redis.
#[derive(Debug, Clone)]
pub struct RedisStoreOptions {
    /// The server.
    pub redis: RedisOptions,
    /// Name of this node, by which other nodes know it as the owner.
    pub node: String,
    /// Replicas that must have a commit before it is acknowledged.
    pub replicas: u32,
    /// Whether this node may own the store.
    pub candidacy: Candidacy,
}

/// The shared store, in a term of this node. Cheap to clone.
#[derive(Debug, Clone)]
pub struct RedisStore {
    term: Arc<Term>,
    keys: KeyNames,
    reads: Reads,
    queue: mpsc::Sender<Job>,
    urgent: mpsc::Sender<Job>,
}

impl RedisStore {
    fn start(options: &RedisStoreOptions, keys: KeyNames, term: Arc<Term>) -> Self {
        let (queue, jobs) = mpsc::channel(QUEUE);
        let (urgent, urgent_jobs) = mpsc::channel(QUEUE);
        let writer = Writer {
            options: options.redis.clone(),
            keys: keys.clone(),
            replicas: options.replicas,
            term: term.clone(),
            jobs,
            urgent_jobs,
            was_urgent: false,
            connection: None,
        };
        tokio::spawn(writer.run());
        Self {
            reads: Reads::start(options.redis.clone(), &keys.lease(), term.clone()),
            term,
            keys,
            queue,
            urgent,
        }
    }

    /// Waits until the term ends, and returns why. Engines on this store must then be opened anew,
    /// on that of the next term.
    pub async fn ended(&self) -> StoreError {
        self.term.ended().await
    }

    /// Ends the term and the lease: engines cannot be opened here, and another node may be able to. This
    /// node takes part in the lease again after half a minute.
    pub fn give_up(&self) {
        self.term.give_up();
    }

    /// The name of the term.
    #[must_use]
    pub fn term(&self) -> &str {
        &self.term.name
    }

    /// The key in Redis of the lease.
    #[must_use]
    pub fn lease_key(&self) -> String {
        self.keys.lease()
    }

    /// Whether the term has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.term.end().is_some()
    }

    /// The time by the clock of Redis, in milliseconds since the Unix epoch.
    ///
    /// # Errors
    /// Redis does not answer in time, or the term has ended.
    pub async fn time_ms(&self) -> Result<i64, StoreError> {
        let mut command = Vec::new();
        resp::encode(&mut command, &["TIME"]);
        let mut parts = self.read_array(command).await?.into_iter();
        let mut next = || -> Option<i64> { parts.next()?.string().ok()?.parse().ok() };
        let time = next().zip(next());
        let time = time.map(|(seconds, micros)| seconds * 1_000 + micros / 1_000);
        time.ok_or_else(|| failed(RedisError::Protocol("the time is missing".to_owned())))
    }

    /// Reads, and checks afterwards that no other node can have written meanwhile.
    async fn read(&self, command: Vec<u8>) -> Result<Reply, StoreError> {
        let reply = match self.term.end() {
            None => self.reads.call(command).await,
            Some(reason) => Err(reason),
        };
        match (self.term.is_valid(), reply) {
            (true, reply) => reply,
            (false, Err(error)) => Err(self.term.end().unwrap_or(error)),
            (false, Ok(_)) => Err(self.term.fault().unwrap_or(StoreError::Closed)),
        }
    }

    async fn read_array(&self, command: Vec<u8>) -> Result<Vec<Reply>, StoreError> {
        self.read(command).await?.array().map_err(failed)
    }

    async fn page(
        &self,
        table: Table,
        from: &[u8],
        to: &[u8],
        limit: usize,
    ) -> Result<(Vec<(Key, Value)>, bool), StoreError> {
        let keys = [self.keys.values(table), self.keys.order(table)];
        let most = limit.min(PAGE.0).to_string();
        let bytes = PAGE.1.to_string();
        let command = call(SCAN, &keys, &[from, to, most.as_bytes(), bytes.as_bytes()]);
        let mut parts = self.read_array(command).await?.into_iter();
        let first = parts.next().map(Reply::text).transpose().map_err(failed)?;
        let has_more = first.as_deref() == Some(b"1");
        let mut page = Vec::new();
        while let (Some(key), Some(value)) = (parts.next(), parts.next()) {
            page.push((copied(key)?, copied(value)?));
        }
        Ok((page, has_more))
    }
}

impl Store for RedisStore {
    fn get(&self, table: Table, key: Key) -> StoreFuture<'_, Option<Value>> {
        Box::pin(async move {
            let mut command = Vec::new();
            let name = self.keys.values(table);
            resp::encode(&mut command, &[b"HGET", name.as_bytes(), &key]);
            optional(self.read(command).await?)
        })
    }

    fn get_many(&self, keys: Vec<(Table, Key)>) -> StoreFuture<'_, Vec<Option<Value>>> {
        Box::pin(async move {
            let mut values = Vec::with_capacity(keys.len());
            for part in keys.chunks(KEYS) {
                let mut tables: Vec<Table> = Vec::new();
                let mut arguments = Vec::with_capacity(2 * part.len());
                for (table, key) in part {
                    let known = tables.iter().position(|known| known == table);
                    let index = known.unwrap_or_else(|| {
                        tables.push(*table);
                        tables.len() - 1
                    });
                    arguments.push((index + 1).to_string().into_bytes());
                    arguments.push(key.clone());
                }
                let names: Vec<_> = tables
                    .iter()
                    .map(|table| self.keys.values(*table))
                    .collect();
                let found = self.read_array(call(GET, &names, &arguments)).await?;
                for value in found {
                    values.push(optional(value)?);
                }
            }
            complete(values, keys.len())
        })
    }

    fn get_floor(
        &self,
        table: Table,
        keys: Vec<Key>,
    ) -> StoreFuture<'_, Vec<Option<(Key, Value)>>> {
        Box::pin(async move {
            let names = [self.keys.values(table), self.keys.order(table)];
            let mut floors = Vec::with_capacity(keys.len());
            for part in keys.chunks(KEYS) {
                let bounds: Vec<_> = part.iter().map(|key| included(key)).collect();
                let found = self.read_array(call(FLOOR, &names, &bounds)).await?;
                let mut found = found.into_iter();
                while let (Some(key), Some(value)) = (found.next(), found.next()) {
                    floors.push(optional(key)?.zip(optional(value)?));
                }
            }
            complete(floors, keys.len())
        })
    }

    fn scan(
        &self,
        table: Table,
        prefix: Key,
        after: Option<Key>,
        limit: usize,
    ) -> StoreFuture<'_, Vec<(Key, Value)>> {
        Box::pin(async move {
            let to = end_of(&prefix);
            let mut from = match after {
                Some(after) if after >= prefix => excluded(&after),
                _ => included(&prefix),
            };
            let mut entries: Vec<(Key, Value)> = Vec::new();
            while entries.len() < limit {
                let (page, has_more) = self.page(table, &from, &to, limit - entries.len()).await?;
                entries.extend(page);
                match entries.last() {
                    Some((last, _)) if has_more => from = excluded(last),
                    _ => break,
                }
            }
            Ok(entries)
        })
    }

    fn commit(&self, batch: Batch) -> StoreFuture<'_, ()> {
        Box::pin(async move {
            if batch.is_empty() {
                return Ok(());
            }
            check_size(&batch)?;
            let queue = match batch.is_urgent() {
                true => &self.urgent,
                false => &self.queue,
            };
            let (done, written) = oneshot::channel();
            let ended = || self.term.end().unwrap_or(StoreError::Closed);
            // A writer without Redis refuses all that waits after the usual time.
            let queued = queue.send(Job { batch, done }).await;
            queued.map_err(|_| ended())?;
            written.await.unwrap_or_else(|_| Err(ended()))
        })
    }

    fn is_current(&self) -> bool {
        self.term.is_valid()
    }

    fn has_ended(&self) -> bool {
        self.term.end().is_some()
    }

    fn failure(&self) -> Option<StoreError> {
        self.term.fault()
    }
}

fn check_size(batch: &Batch) -> Result<(), StoreError> {
    let bytes = |write: &crate::Write| match write {
        crate::Write::Put(_, key, value) => key.len() + value.len(),
        crate::Write::Delete(_, key) => key.len(),
        crate::Write::DeleteRange(_, from, to) => from.len() + to.len(),
    };
    let (writes, bytes) = (
        batch.writes().len(),
        batch.writes().iter().map(bytes).sum::<usize>(),
    );
    match writes > MAX_WRITES || bytes > MAX_BYTES {
        true => Err(StoreError::Failed(format!(
            "a batch has {writes} writes and {bytes} bytes, expected at most {MAX_WRITES} and {MAX_BYTES}"
        ))),
        false => Ok(()),
    }
}

/// Checks that each key has an answer.
fn complete<T>(found: Vec<T>, expected: usize) -> Result<Vec<T>, StoreError> {
    match found.len() == expected {
        true => Ok(found),
        false => Err(failed(RedisError::Protocol(format!(
            "{} values came, expected {expected}",
            found.len()
        )))),
    }
}

/// A text with memory of its own: that of the reply is shared.
fn copied(reply: Reply) -> Result<Vec<u8>, StoreError> {
    let text: Bytes = reply.text().map_err(failed)?;
    Ok(text.to_vec())
}

fn optional(reply: Reply) -> Result<Option<Vec<u8>>, StoreError> {
    match reply {
        Reply::Nil => Ok(None),
        reply => copied(reply).map(Some),
    }
}

fn failed(error: impl std::borrow::Borrow<RedisError>) -> StoreError {
    StoreError::Failed(format!("Redis: {}", error.borrow()))
}
