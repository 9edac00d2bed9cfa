//! Stored jobs: what the dispatcher works on, and what it leaves of it.

use std::{
    collections::HashSet,
    future::ready,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tidewire_notification::{NotificationError, NotificationHub, NotificationId, Outgoing};
use tidewire_store::{Batch, Key, SharedStore, StoreError};
use tidewire_stream::{SharedClock, UserId};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    contacts::Contacts,
    dead_letters::{self, Counts, DeadLetters},
    record::{self, StoredJob},
    rules::Rules,
    tables,
};
use crate::{
    Channel, Count, Deferral, Dispatcher, EndpointId, Job, JobEnd, JobStore, MessageId, Offer,
    Target, Verdict,
    ledger::{Refusal, Source},
};

/// Pause after a failure of the store.
const RETRY: Duration = Duration::from_secs(1);

/// Pause until jobs are offered again for which there was no room at all.
const OFFER_AGAIN: Duration = Duration::from_secs(5);

/// Shortest time between two passes over the stored jobs, so that each finds room for several.
const REFILL_GAP: Duration = Duration::from_millis(20);

/// Rows of one read.
const PAGE: usize = 256;

/// The result of sending a dead letter again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryOutcome {
    /// It is a message again, and no dead letter any more.
    Queued,
    /// There is no dead letter with this id.
    Unknown,
    /// Its notification has expired.
    Expired,
    /// Its device is not registered any more, or its user has no mail address.
    NoEndpoint,
}

/// The jobs in a store. Cheap to clone.
#[derive(Clone)]
pub struct DurableJobs(Arc<Shared>);

struct Shared {
    store: SharedStore,
    hub: NotificationHub,
    contacts: Contacts,
    clock: SharedClock,
    dead: DeadLetters,
    /// Numbers of dead letters, once they are known.
    dead_counts: tokio::sync::Mutex<Option<Counts>>,
    /// Channels that have room for stored jobs again.
    with_room: Mutex<HashSet<Channel>>,
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
            dead_counts: tokio::sync::Mutex::default(),
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

    /// Sends a dead letter again, as if it were new: with all its attempts, and under the id of the
    /// message, by which its receiver recognises it.
    ///
    /// # Errors
    /// The store cannot be read or written.
    pub async fn retry(
        &self,
        dispatcher: &Dispatcher,
        id: &MessageId,
    ) -> Result<RetryOutcome, StoreError> {
        // Until the end, so that a second call finds no letter any more.
        let mut counts = self.0.dead_counts.lock().await;
        let Some((key, letter)) = self.0.dead.find(id).await? else {
            return Ok(RetryOutcome::Unknown);
        };
        let now_ms = self.0.clock.now_ms();
        let endpoint = EndpointId {
            channel: dead_letters::channel(letter.channel),
            name: letter.endpoint.as_str().into(),
        };
        let stored = StoredJob {
            attempts: 0,
            not_before_ms: 0,
            created_ms: now_ms,
            ..letter.job.unwrap_or_default()
        };
        if stored.expires_ms.is_some_and(|at_ms| at_ms <= now_ms) {
            return Ok(RetryOutcome::Expired);
        }
        let Some(job) = self.load(&endpoint, stored).await? else {
            return Ok(RetryOutcome::NoEndpoint);
        };
        let mut batch = Batch::new();
        batch.delete(tables::DEAD, key);
        Self::put(&mut batch, &job);
        self.0.store.commit(batch).await?;
        if let Some(counts) = counts.as_mut() {
            counts.remove(&job.owner());
        }
        self.offer(dispatcher, job);
        Ok(RetryOutcome::Queued)
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
        for channel in Channel::ALL {
            dispatcher.expect_refill(channel);
        }
        let work = async {
            let mut cursors: [Option<Key>; Channel::ALL.len()] = Default::default();
            let mut channels = HashSet::from(Channel::ALL);
            let mut all_at = Instant::now() + OFFER_AGAIN;
            loop {
                let start = Instant::now();
                let mut failed = None;
                for channel in channels {
                    let cursor = &mut cursors[channel as usize];
                    if let Err(error) = self.refill(dispatcher, channel, cursor).await {
                        tracing::warn!(%error, "stored messages wait for the store");
                        self.0.with_room.lock().insert(channel);
                        failed = Some(RETRY);
                    }
                }
                // Reading takes half of the time at most.
                let pause = start.elapsed().clamp(REFILL_GAP, OFFER_AGAIN);
                sleep(failed.unwrap_or(pause)).await;
                let is_ready = !self.0.with_room.lock().is_empty();
                tokio::select! {
                    () = ready(()), if is_ready => {}
                    () = self.0.room.notified() => {}
                    // An endpoint announces its room, but nothing announces that of a channel,
                    // and that a pause is over.
                    () = sleep_until(all_at) => {
                        all_at = Instant::now() + OFFER_AGAIN;
                        if self.0.has_refused.swap(false, Ordering::AcqRel) {
                            self.0.with_room.lock().extend(Channel::ALL);
                        }
                    }
                }
                channels = std::mem::take(&mut *self.0.with_room.lock());
            }
        };
        cancel.run_until_cancelled(work).await;
    }

    /// Offers a job that was stored just now. One for which there is no room is offered again
    /// later.
    pub(super) fn offer(&self, dispatcher: &Dispatcher, job: Job) -> Offer {
        let offer = dispatcher.offer_new(job);
        if offer == Offer::Full {
            self.left_in_store();
        }
        offer
    }

    /// Offers the stored jobs of a channel. `cursor` is where to begin: the endpoint at which the
    /// channel was full the last time, so that each endpoint has its turn.
    async fn refill(
        &self,
        dispatcher: &Dispatcher,
        channel: Channel,
        cursor: &mut Option<Key>,
    ) -> Result<(), StoreError> {
        dispatcher.begin_refill(channel);
        let begin = cursor.take();
        let mut refill = Refill {
            jobs: self,
            dispatcher,
            channel,
            full: HashSet::new(),
        };
        let stopped = refill.read_all(begin).await;
        dispatcher.end_pages(channel);
        match stopped? {
            None => dispatcher.end_refill(channel),
            Some(endpoint) => *cursor = Some(tables::jobs_of(&endpoint)),
        }
        Ok(())
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
                let user = UserId::new(&stored.user);
                self.0.contacts.email(&user).await?.map(Target::Email)
            }
        };
        Ok(target.and_then(|target| stored.job(target)))
    }

    /// Commits, however long the store fails. One that has ended keeps the message as it was: the next
    /// term, or the next start, sends it again under the same id.
    async fn commit(&self, batch: &Batch) {
        while let Err(error) = self.0.store.commit(batch.clone()).await {
            if self.has_ended(&error) {
                return;
            }
            tracing::warn!(%error, "the end of a message waits for the store");
            sleep(RETRY).await;
        }
    }

    /// Whether the store fails for good.
    fn has_ended(&self, error: &StoreError) -> bool {
        *error == StoreError::Closed || self.0.store.has_ended()
    }

    /// Decides about a message to a user: the user may have read it since it was planned, or have
    /// other preferences.
    async fn judge(&self, job: &Job) -> Result<Verdict, NotificationError> {
        let hub = &self.0.hub;
        let (user, channel) = (&job.message.user, job.target.endpoint().channel);
        let notifications = job.message.content.notifications().iter();
        let ids = notifications.filter_map(|one| NotificationId::parse(&one.id));
        let mut items = hub.unread_among(user, &ids.collect::<Vec<_>>()).await?;
        if items.is_empty() {
            return Ok(Verdict::Drop);
        }
        let rules = Rules::read(hub, user, self.0.clock.now_ms()).await?;
        items.retain(|item| rules.passes(hub, channel, item.class));
        let held = items
            .iter()
            .map(|item| rules.held_until_ms(channel, item.class));
        // One that nothing holds back takes the others of a digest with it.
        Ok(match held.min() {
            None => Verdict::Drop,
            Some(None) => Verdict::Send,
            Some(Some(until_ms)) => Verdict::Hold { until_ms },
        })
    }

    /// Stages the return of a user's held jobs to the queue, at most `limit`, and returns them.
    /// Jobs whose target has ended are removed.
    pub(super) async fn release(
        &self,
        batch: &mut Batch,
        user: &UserId,
        limit: usize,
    ) -> Result<(usize, Vec<Job>), StoreError> {
        let prefix = tables::held_of(user);
        let store = &self.0.store;
        let rows = store
            .scan(tables::HELD, prefix.clone(), None, limit)
            .await?;
        let mut jobs = Vec::new();
        for (key, value) in &rows {
            batch.delete(tables::HELD, key.clone());
            let endpoint = key.get(prefix.len()..).and_then(endpoint_of);
            let stored = record::decode::<StoredJob>("message", value);
            let (Some(endpoint), Ok(stored)) = (endpoint, stored) else {
                tracing::error!(user = user.as_str(), "a held message cannot be read");
                continue;
            };
            if let Some(mut job) = self.load(&endpoint, stored).await? {
                job.not_before_ms = 0;
                // Its age counts from here: the wait was the user's wish.
                job.message.created_ms = self.0.clock.now_ms();
                Self::put(batch, &job);
                jobs.push(job);
            }
        }
        Ok((rows.len(), jobs))
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
                // The job stays in the store.
                Err(error) if self.has_ended(&error) => return None,
                Err(_) => sleep(RETRY).await,
            }
        }
    }

    async fn count_dead(&self, job: &Job) {
        let mut known = self.0.dead_counts.lock().await;
        let counted = match known.take() {
            Some(mut counts) => {
                counts.add(job.owner());
                Ok(counts)
            }
            None => self.0.dead.count().await,
        };
        let Ok(mut counts) = counted else { return };
        if self.0.dead.trim(&mut counts).await.is_ok() {
            *known = Some(counts);
        }
    }
}

impl JobStore for DurableJobs {
    fn verdict<'a>(&'a self, job: &'a Job) -> BoxFuture<'a, Verdict> {
        Box::pin(async move {
            // A webhook is an event for a program: that the user has read it changes nothing.
            if let Target::Webhook(_) = job.target {
                return Verdict::Send;
            }
            let Some(target) = self.target(job).await else {
                return Verdict::Drop;
            };
            // Unknown is no reason to send nothing.
            match self.judge(job).await.unwrap_or(Verdict::Send) {
                Verdict::Send if target != job.target => Verdict::SendTo(Box::new(target)),
                verdict => verdict,
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
                JobEnd::Held { until_ms } => {
                    let (user, message) = (&job.message.user, &job.message);
                    let stored = StoredJob::new(message, job.attempts, 0);
                    let key = tables::held(user, &endpoint, &message.id);
                    batch.put(tables::HELD, key, record::encode(&stored));
                    let now_ms = self.0.clock.now_ms();
                    Outgoing::review(*until_ms, user.clone(), now_ms).put(&mut batch);
                }
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
                            if self.has_ended(&error) {
                                return;
                            }
                            tracing::warn!(%error, "the end of an endpoint waits for the store");
                            sleep(RETRY).await;
                        }
                    }
                }
            }
            self.commit(&batch).await;
            if Count::of(endpoint.channel, end) == Count::Dead {
                self.count_dead(job).await;
            }
            if let JobEnd::Held { .. } = end {
                self.0.hub.wake_outgoing();
            }
        })
    }

    fn has_room(&self, endpoint: &EndpointId) {
        self.0.with_room.lock().insert(endpoint.channel);
        self.0.room.notify_one();
    }

    fn left_in_store(&self) {
        self.0.has_refused.store(true, Ordering::Release);
    }
}

/// One pass over the stored jobs of a channel.
struct Refill<'a> {
    jobs: &'a DurableJobs,
    dispatcher: &'a Dispatcher,
    channel: Channel,
    /// Users of whom a mail found no place: later ones must not overtake it.
    full: HashSet<String>,
}

impl Refill<'_> {
    /// Offers the jobs of all endpoints, from one on and around. Returns the endpoint at which
    /// there was no room for anybody.
    async fn read_all(&mut self, begin: Option<Key>) -> Result<Option<EndpointId>, StoreError> {
        let stopped = self.read(begin.clone(), None).await?;
        match (stopped, begin) {
            (None, Some(begin)) => self.read(None, Some(begin)).await,
            (stopped, _) => Ok(stopped),
        }
    }

    /// Offers the jobs of the endpoints from one on, up to another one. Returns the endpoint at
    /// which there was no room for anybody.
    async fn read(
        &mut self,
        from: Option<Key>,
        until: Option<Key>,
    ) -> Result<Option<EndpointId>, StoreError> {
        let mut after = from;
        'page: loop {
            let prefix = vec![self.channel as u8];
            let store = &self.jobs.0.store;
            self.dispatcher.begin_page(self.channel);
            let rows = store
                .scan(tables::JOBS, prefix, after.clone(), PAGE)
                .await?;
            for (key, value) in &rows {
                if until.as_ref().is_some_and(|until| key >= until) {
                    return Ok(None);
                }
                let Some(endpoint) = endpoint_of(key) else {
                    continue;
                };
                let refusal = self.offer(&endpoint, key, value).await?;
                match (refusal, self.channel) {
                    (None | Some(Refusal::Behind | Refusal::NotDue), _)
                    | (Some(Refusal::Share), Channel::Email) => {}
                    // All mails are in one queue.
                    (Some(Refusal::Channel), _) | (Some(Refusal::Queue), Channel::Email) => {
                        return Ok(Some(endpoint));
                    }
                    (Some(Refusal::Queue | Refusal::Share), _) => {
                        after = Some(tables::after_jobs_of(&endpoint));
                        continue 'page;
                    }
                }
            }
            match rows.last() {
                Some((key, _)) if rows.len() == PAGE => after = Some(key.clone()),
                _ => return Ok(None),
            }
        }
    }

    /// Offers one job. Returns why there is no place.
    async fn offer(
        &mut self,
        endpoint: &EndpointId,
        key: &Key,
        value: &[u8],
    ) -> Result<Option<Refusal>, StoreError> {
        let stored: StoredJob = match record::decode("message", value) {
            Ok(stored) => stored,
            // It must not hold up the others for ever.
            Err(error) => {
                tracing::error!(%error, %endpoint, "a stored message is left alone");
                return Ok(None);
            }
        };
        let user = stored.user.clone();
        let is_due = stored.not_before_ms <= self.jobs.0.clock.now_ms();
        let is_left = match is_due {
            true => self.full.contains(&user),
            false => self.dispatcher.is_pressed(self.channel),
        };
        if is_left {
            self.jobs.left_in_store();
            return Ok(None);
        }
        let Some(job) = self.jobs.load(endpoint, stored).await? else {
            let mut batch = Batch::new();
            batch.delete(tables::JOBS, key.clone());
            self.jobs.0.store.commit(batch).await?;
            return Ok(None);
        };
        let (_, refusal) = self.dispatcher.offer_from(job, Source::Store);
        if refusal.is_some() {
            self.jobs.left_in_store();
        }
        if refusal == Some(Refusal::Share) && self.channel == Channel::Email {
            self.full.insert(user);
        }
        Ok(refusal)
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
