//! Stored jobs: what the dispatcher works on, and what it leaves of it.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tidewire_notification::{NotificationHub, NotificationId};
use tidewire_store::{Batch, Key, SharedStore, StoreError};
use tidewire_stream::SharedClock;
use tokio::{sync::Notify, time::sleep};
use tokio_util::sync::CancellationToken;

use super::{
    contacts::Contacts,
    dead_letters::DeadLetters,
    record::{self, StoredJob},
    tables,
};
use crate::{
    Channel, Deferral, Dispatcher, EndpointId, Job, JobEnd, JobStore, MessageId, Offer, Target,
    Verdict,
};

/// Pause after a failure of the store.
const RETRY: Duration = Duration::from_secs(1);

/// Pause until jobs are offered again for which there was no room at all.
const OFFER_AGAIN: Duration = Duration::from_secs(5);

/// Rows of one read.
const PAGE: usize = 256;

/// The jobs in a store. Cheap to clone.
#[derive(Clone)]
pub struct DurableJobs(Arc<Shared>);

struct Shared {
    store: SharedStore,
    hub: NotificationHub,
    contacts: Contacts,
    clock: SharedClock,
    dead: DeadLetters,
    /// Number of dead letters, once it is known.
    dead_count: tokio::sync::Mutex<Option<usize>>,
    /// Endpoints that have room for stored jobs again.
    with_room: Mutex<HashSet<EndpointId>>,
    room: Notify,
    /// Whether stored jobs are not in memory.
    has_refused: AtomicBool,
}

impl std::fmt::Debug for DurableJobs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DurableJobs").finish_non_exhaustive()
    }
}

impl DurableJobs {
    /// The jobs of a hub's notifications.
    #[must_use]
    pub fn new(
        store: SharedStore,
        hub: NotificationHub,
        contacts: Contacts,
        clock: SharedClock,
    ) -> Self {
        Self(Arc::new(Shared {
            dead: DeadLetters::new(store.clone()),
            store,
            hub,
            contacts,
            clock,
            dead_count: tokio::sync::Mutex::default(),
            with_room: Mutex::default(),
            room: Notify::new(),
            has_refused: AtomicBool::new(false),
        }))
    }

    /// The dead letters.
    #[must_use]
    pub fn dead_letters(&self) -> &DeadLetters {
        &self.0.dead
    }

    pub(super) fn hub(&self) -> &NotificationHub {
        &self.0.hub
    }

    pub(super) fn store(&self) -> &SharedStore {
        &self.0.store
    }

    pub(super) fn contacts(&self) -> &Contacts {
        &self.0.contacts
    }

    pub(super) fn clock(&self) -> &SharedClock {
        &self.0.clock
    }

    /// Stages a job.
    pub(super) fn put(batch: &mut Batch, job: &Job) {
        let key = tables::job(&job.target.endpoint(), &job.message.id);
        let stored = StoredJob::new(&job.message, job.attempts, job.not_before_ms);
        batch.put(tables::JOBS, key, record::encode(&stored));
    }

    /// Offers all stored jobs to the dispatcher, and from then on those for which there was no
    /// room, until cancelled.
    pub async fn run(&self, dispatcher: &Dispatcher, cancel: CancellationToken) {
        let work = async {
            while let Err(error) = self.offer_all(dispatcher, Key::new()).await {
                tracing::warn!(%error, "stored messages wait for the store");
                sleep(RETRY).await;
            }
            loop {
                tokio::select! {
                    () = self.0.room.notified() => {}
                    // An endpoint announces its room, but nothing announces that of all together.
                    () = sleep(OFFER_AGAIN), if self.0.has_refused.load(Ordering::Acquire) => {
                        self.0.has_refused.store(false, Ordering::Release);
                        if let Err(error) = self.offer_all(dispatcher, Key::new()).await {
                            tracing::warn!(%error, "stored messages wait for the store");
                            self.0.has_refused.store(true, Ordering::Release);
                        }
                    }
                }
                let endpoints = std::mem::take(&mut *self.0.with_room.lock());
                for endpoint in endpoints {
                    if let Err(error) = self.offer_all(dispatcher, tables::jobs_of(&endpoint)).await
                    {
                        tracing::warn!(%error, "stored messages wait for the store");
                        self.0.with_room.lock().insert(endpoint);
                        sleep(RETRY).await;
                        self.0.room.notify_one();
                    }
                }
            }
        };
        cancel.run_until_cancelled(work).await;
    }

    /// Offers a stored job. One for which there is no room is offered again later.
    pub(super) fn offer(&self, dispatcher: &Dispatcher, job: Job) -> Offer {
        let offer = dispatcher.offer(job);
        if offer == Offer::Full {
            self.0.has_refused.store(true, Ordering::Release);
        }
        offer
    }

    /// Offers the stored jobs whose keys begin with `prefix`.
    async fn offer_all(&self, dispatcher: &Dispatcher, prefix: Key) -> Result<(), StoreError> {
        let mut after = None;
        // Full queues ask for the rest later.
        let mut full: HashSet<EndpointId> = HashSet::new();
        loop {
            let rows = self
                .0
                .store
                .scan(tables::JOBS, prefix.clone(), after, PAGE)
                .await?;
            for (key, value) in &rows {
                let Some(endpoint) = endpoint_of(key) else {
                    continue;
                };
                if full.contains(&endpoint) {
                    continue;
                }
                let stored: StoredJob = match record::decode("message", value) {
                    Ok(stored) => stored,
                    // It must not hold up the others for ever.
                    Err(error) => {
                        tracing::error!(%error, %endpoint, "a stored message is left alone");
                        continue;
                    }
                };
                let Some(job) = self.load(&endpoint, stored).await? else {
                    let mut batch = Batch::new();
                    batch.delete(tables::JOBS, key.clone());
                    self.0.store.commit(batch).await?;
                    continue;
                };
                if self.offer(dispatcher, job) == Offer::Full {
                    full.insert(endpoint);
                }
            }
            match rows.last() {
                Some((key, _)) if rows.len() == PAGE => after = Some(key.clone()),
                _ => return Ok(()),
            }
        }
    }

    /// A stored job, with its target. None if the target has ended.
    async fn load(
        &self,
        endpoint: &EndpointId,
        stored: StoredJob,
    ) -> Result<Option<Job>, StoreError> {
        let target = match endpoint.channel {
            Channel::Webhook => Some(Target::Webhook(endpoint.name.clone())),
            Channel::Push => self.0.contacts.push_target(&endpoint.name).await?,
            Channel::Email => {
                let user = tidewire_stream::UserId::new(&stored.user);
                self.0.contacts.email(&user).await?.map(Target::Email)
            }
        };
        Ok(target.and_then(|target| stored.job(target)))
    }

    /// Commits, however long the store fails.
    async fn commit(&self, batch: &Batch) {
        while let Err(error) = self.0.store.commit(batch.clone()).await {
            if error == StoreError::Closed {
                return;
            }
            tracing::warn!(%error, "the end of a message waits for the store");
            sleep(RETRY).await;
        }
    }

    /// Whether a user still has to be reached.
    async fn is_unread(&self, job: &Job) -> bool {
        for notification in job.message.content.notifications() {
            let Some(id) = NotificationId::parse(&notification.id) else {
                continue;
            };
            match self.0.hub.unread(&job.message.user, id).await {
                Ok(None) => {}
                // Unknown is no reason to send nothing.
                Ok(Some(_)) | Err(_) => return true,
            }
        }
        false
    }

    /// The present target of a job's endpoint: the user may have another address by now. None if
    /// nothing may be sent to it any more. Waits for the store: what has ended must get nothing,
    /// and what has not must not be dropped.
    async fn target(&self, job: &Job) -> Option<Target> {
        loop {
            let found = match &job.target {
                Target::Webhook(_) => return Some(job.target.clone()),
                Target::Push { registration, .. } => {
                    self.0.contacts.push_target(registration).await
                }
                Target::Email(_) => {
                    let email = self.0.contacts.email(&job.message.user).await;
                    email.map(|email| email.map(Target::Email))
                }
            };
            match found {
                Ok(found) => return found,
                // The server stops; the job stays in the store.
                Err(StoreError::Closed) => return None,
                Err(_) => sleep(RETRY).await,
            }
        }
    }

    async fn count_dead(&self) {
        let mut count = self.0.dead_count.lock().await;
        let counted = match *count {
            Some(known) => Ok(known + 1),
            None => self.0.dead.count().await,
        };
        let trimmed = match counted {
            Ok(counted) => self.0.dead.trim(counted).await,
            Err(error) => Err(error),
        };
        *count = trimmed.ok();
    }
}

impl JobStore for DurableJobs {
    fn verdict<'a>(&'a self, job: &'a Job) -> BoxFuture<'a, Verdict> {
        Box::pin(async move {
            // A webhook is an event for a program: that the user has read it changes nothing.
            if let Target::Webhook(_) = job.target {
                return Verdict::Send;
            }
            match self.target(job).await {
                Some(target) if self.is_unread(job).await => match target == job.target {
                    true => Verdict::Send,
                    false => Verdict::SendTo(Box::new(target)),
                },
                _ => Verdict::Drop,
            }
        })
    }

    fn deferred<'a>(&'a self, job: &'a Job, deferral: &'a Deferral) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let mut batch = Batch::new();
            let job = Job {
                attempts: deferral.attempts,
                not_before_ms: deferral.not_before_ms,
                ..job.clone()
            };
            Self::put(&mut batch, &job);
            self.commit(&batch).await;
        })
    }

    fn finished<'a>(&'a self, job: &'a Job, end: &'a JobEnd) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let endpoint = job.target.endpoint();
            let mut batch = Batch::new();
            batch.delete(tables::JOBS, tables::job(&endpoint, &job.message.id));
            match end {
                JobEnd::Delivered | JobEnd::Expired | JobEnd::Unwanted => {}
                JobEnd::Dead { attempts, reason } => {
                    let now_ms = self.0.clock.now_ms();
                    DeadLetters::add(&mut batch, job, *attempts, reason, now_ms);
                }
                JobEnd::Gone { attempts, reason } if endpoint.channel == Channel::Webhook => {
                    // The operator must know.
                    let now_ms = self.0.clock.now_ms();
                    DeadLetters::add(&mut batch, job, *attempts, reason, now_ms);
                }
                JobEnd::Gone { .. } => {
                    batch.delete_range(
                        tables::JOBS,
                        tables::jobs_of(&endpoint),
                        tables::after_jobs_of(&endpoint),
                    );
                    if endpoint.channel == Channel::Push {
                        while let Err(error) = self.0.contacts.remove(&endpoint.name).await {
                            tracing::warn!(%error, "the end of an endpoint waits for the store");
                            if error == StoreError::Closed {
                                return;
                            }
                            sleep(RETRY).await;
                        }
                    }
                }
            }
            self.commit(&batch).await;
            if matches!(end, JobEnd::Dead { .. } | JobEnd::Gone { .. }) {
                self.count_dead().await;
            }
        })
    }

    fn has_room(&self, endpoint: &EndpointId) {
        self.0.with_room.lock().insert(endpoint.clone());
        self.0.room.notify_one();
    }
}

/// The endpoint of a job's key.
fn endpoint_of(key: &[u8]) -> Option<EndpointId> {
    let (channel, rest) = key.split_first()?;
    let channel = Channel::ALL
        .into_iter()
        .find(|known| *known as u8 == *channel)?;
    let end = rest.iter().position(|byte| *byte == 0)?;
    let name = std::str::from_utf8(rest.get(..end)?).ok()?;
    Some(EndpointId {
        channel,
        name: name.into(),
    })
}

/// The id of the message of a notification to an endpoint: the same at each attempt, and after a
/// crash in which the notification is planned again.
pub(super) fn message_id(
    id: NotificationId,
    user: &str,
    endpoint: &EndpointId,
) -> Option<MessageId> {
    use sha2::{Digest as _, Sha256};
    let mut hash = Sha256::new();
    hash.update(user);
    hash.update([0]);
    hash.update(endpoint.to_string());
    let hash = hash.finalize();
    let hash = hash.first_chunk().map(|bytes| u64::from_be_bytes(*bytes))?;
    MessageId::new(&format!("{id}-{hash:016x}")).ok()
}
