//! Dispatcher: one queue and one task for each endpoint that has jobs.
//!
//! An endpoint that hangs holds up its own queue only. A task ends when its queue is empty, so
//! memory does not grow with the number of endpoints.
//!
//! # Shares
//! Channels share neither memory nor attempts. Within a channel, users (and webhooks) have shares
//! of both: see [`Ledger`] and [`Permits`]. A job for which there is no place waits in the store.
//! When half of a channel's or a queue's places are taken, jobs that are not due leave memory too,
//! so those that wait out a pause never take the places of others.

use std::{
    collections::{HashMap, hash_map::Entry},
    future::pending,
    panic::AssertUnwindSafe,
    sync::Arc,
};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use parking_lot::{Mutex, MutexGuard};
use tidewire_stream::SharedClock;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Channel, Count, DeliveryMetrics, EndpointId, EndpointState, Job, JobEnd, JobStore, Offer,
    Outcome, Sender, Verdict,
    ledger::{Ledger, Owner, Refusal, Request, Source},
    permits::{Claim, Permits},
    queue::{Consequence, EndpointQueue, Now, Room, Step},
};

/// The part of a channel's attempts that one user's devices have at most.
const PUSH_SHARE: usize = 16;

/// Bounds of a dispatcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DispatcherLimits {
    /// Jobs in memory. Each channel has a third.
    pub jobs: usize,
    /// Attempts of one channel at the same time.
    pub in_flight: usize,
}

/// Sends jobs to their endpoints. Its clones are cheap.
#[derive(Clone)]
pub struct Dispatcher(Arc<Shared>);

struct Shared {
    sender: Arc<dyn Sender>,
    store: Arc<dyn JobStore>,
    clock: SharedClock,
    limits: DispatcherLimits,
    endpoints: Mutex<HashMap<EndpointId, Arc<Endpoint>>>,
    /// Locked after `endpoints` and an endpoint's queue.
    ledgers: [Mutex<Ledger>; Channel::ALL.len()],
    permits: [Permits; Channel::ALL.len()],
    metrics: DeliveryMetrics,
    tasks: TaskTracker,
    stop: CancellationToken,
    abandoned: CancellationToken,
}

struct Endpoint {
    id: EndpointId,
    queue: Mutex<EndpointQueue>,
    offered: Notify,
}

impl std::fmt::Debug for Dispatcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut debug = f.debug_struct("Dispatcher");
        debug.field("jobs", &self.jobs()).finish_non_exhaustive()
    }
}

impl Dispatcher {
    /// A dispatcher without jobs.
    #[must_use]
    pub fn new(
        sender: Arc<dyn Sender>,
        store: Arc<dyn JobStore>,
        clock: SharedClock,
        limits: DispatcherLimits,
    ) -> Self {
        Self(Arc::new(Shared {
            sender,
            store,
            clock,
            limits,
            endpoints: Mutex::default(),
            ledgers: Channel::ALL
                .map(|_| Mutex::new(Ledger::new(limits.jobs / Channel::ALL.len()))),
            permits: Channel::ALL.map(|channel| {
                let share = match channel {
                    Channel::Push => limits.in_flight / PUSH_SHARE,
                    // Their queues have a concurrency of their own.
                    Channel::Webhook | Channel::Email => limits.in_flight,
                };
                Permits::new(limits.in_flight, share)
            }),
            metrics: DeliveryMetrics::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            abandoned: CancellationToken::new(),
        }))
    }

    /// Offers a job of the store. A job that is in memory already is not added twice, so the
    /// store may offer all its jobs at any time. Must be called within a tokio runtime.
    pub fn offer(&self, job: Job) -> Offer {
        self.offer_from(job, Source::Store).0
    }

    /// Offers a job that was stored just now. If older ones of its owner wait in the store, it
    /// does not overtake them: it is refused, until a refill has offered all of them. An urgent
    /// one does, unless it goes to a webhook.
    pub fn offer_new(&self, job: Job) -> Offer {
        self.offer_from(job, Source::New).0
    }

    /// Offers a job, and returns why there is no place.
    pub(crate) fn offer_from(&self, job: Job, source: Source) -> (Offer, Option<Refusal>) {
        let id = job.target.endpoint();
        let (channel, owner) = (id.channel, job.owner());
        let attempts = job.attempts;
        let (offer, refusal) = self.0.place(id.clone(), job, source);
        let Some(refusal) = refusal else {
            return (offer, None);
        };
        self.0.metrics.add(channel, Count::Full);
        let has_room = {
            let mut ledger = self.0.ledger(channel);
            // One that waits for its next attempt has lost its place in the order.
            if refusal != Refusal::NotDue || attempts == 0 {
                ledger.fall_behind(&owner);
            }
            let places = self.0.sender.limits(&id).jobs;
            refusal == Refusal::Behind && ledger.has_room(&owner, places)
        };
        if has_room {
            self.0.store.has_room(&id);
        }
        (offer, Some(refusal))
    }

    /// Declares that the store may have jobs of a channel from before: no new job is accepted
    /// until a refill has offered them.
    pub(crate) fn expect_refill(&self, channel: Channel) {
        self.0.ledger(channel).all_fall_behind();
    }

    /// Declares that the store begins to offer all jobs of a channel.
    pub(crate) fn begin_refill(&self, channel: Channel) {
        self.0.ledger(channel).begin_refill();
    }

    /// Declares that a refill is about to read a page of the store.
    pub(crate) fn begin_page(&self, channel: Channel) {
        self.0.ledger(channel).begin_page();
    }

    /// Declares that a refill has offered its last page.
    pub(crate) fn end_pages(&self, channel: Channel) {
        self.0.ledger(channel).end_pages();
    }

    /// Declares that the store has offered all jobs of a channel since the refill began.
    pub(crate) fn end_refill(&self, channel: Channel) {
        self.0.ledger(channel).end_refill();
    }

    /// Whether a channel keeps no jobs in memory that are not due.
    pub(crate) fn is_pressed(&self, channel: Channel) -> bool {
        self.0.ledger(channel).is_pressed()
    }

    /// Jobs in memory.
    #[must_use]
    pub fn jobs(&self) -> usize {
        let ledgers = self.0.ledgers.iter();
        ledgers.map(|ledger| ledger.lock().used()).sum()
    }

    /// Endpoints with jobs in memory or a pause.
    #[must_use]
    pub fn endpoints(&self) -> usize {
        self.0.endpoints.lock().len()
    }

    /// The counts of all channels.
    #[must_use]
    pub fn metrics(&self) -> &DeliveryMetrics {
        &self.0.metrics
    }

    /// Begins no further attempt, and waits for those in flight. Jobs stay in the store.
    pub async fn stop(&self) {
        self.0.stop.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    /// Ends everything at once, also attempts in flight: their store has ended, so that their outcome can
    /// be noted nowhere. Jobs stay in the store.
    pub fn abandon(&self) {
        self.0.stop.cancel();
        self.0.abandoned.cancel();
        self.0.tasks.close();
    }
}

impl Shared {
    fn now(&self) -> Now {
        let ms = self.clock.now_ms();
        Now {
            instant: Instant::now(),
            ms,
            retention_ms: self.clock.retention_ms().min(ms),
        }
    }

    /// Gives a job a place in its endpoint's queue.
    fn place(
        self: &Arc<Self>,
        id: EndpointId,
        job: Job,
        source: Source,
    ) -> (Offer, Option<Refusal>) {
        let (now, owner, channel) = (self.now(), job.owner(), id.channel);
        let mut endpoints = self.endpoints.lock();
        // The server stops: the job stays in the store.
        if self.stop.is_cancelled() {
            return (Offer::Full, None);
        }
        let endpoint = endpoints.get(&id).cloned().unwrap_or_else(|| {
            let limits = self.sender.limits(&id);
            Arc::new(Endpoint {
                id: id.clone(),
                queue: Mutex::new(EndpointQueue::new(limits, now)),
                offered: Notify::new(),
            })
        });
        let mut queue = endpoint.queue.lock();
        let is_stale = source == Source::Store && self.ledger(channel).is_stale(&job.id);
        if queue.knows(&job) || is_stale {
            return (Offer::Known, None);
        }
        let request = Request {
            owner: &owner,
            source,
            is_urgent: job.is_urgent(),
            may_overtake: job.is_urgent() && channel != Channel::Webhook,
            is_due: queue.is_due(&job, now),
            is_queue_pressed: queue.is_pressed(),
            queue_places: match channel {
                // All users share one queue.
                Channel::Email => queue.places(),
                Channel::Webhook | Channel::Push => usize::MAX,
            },
        };
        // Places in the queue of mails are those of its channel.
        let mut room = match queue.is_full() && channel != Channel::Email {
            true => Err(Refusal::Queue),
            false => self.ledger(channel).take(&request),
        };
        if room == Err(Refusal::Channel) {
            drop(queue);
            room = match self.displace(&endpoints, channel, &owner) {
                true => self.ledger(channel).take(&request),
                // Somebody with fewer jobs may find one.
                false if self.ledger(channel).may_displace() => Err(Refusal::Share),
                false => room,
            };
            queue = endpoint.queue.lock();
        }
        if let Err(mut refusal) = room {
            if matches!(refusal, Refusal::Queue | Refusal::Channel) {
                // The queue announces when it has room.
                queue.offer(job, Room::Full, now);
            }
            if refusal == Refusal::Channel && self.ledger(channel).has_jobs(&owner) {
                // An owner without jobs may still get a place of somebody.
                refusal = Refusal::Share;
            }
            return (Offer::Full, Some(refusal));
        }
        let offer = queue.offer(job, Room::Free, now);
        drop(queue);
        // Only this function adds endpoints, under the lock of all.
        if let Entry::Vacant(vacant) = endpoints.entry(id) {
            vacant.insert(endpoint.clone());
            let (shared, endpoint) = (self.clone(), endpoint.clone());
            self.tasks.spawn(async move {
                let abandoned = shared.abandoned.clone();
                abandoned.run_until_cancelled(run(shared, endpoint)).await;
            });
        }
        endpoint.offered.notify_one();
        (offer, None)
    }

    fn ledger(&self, channel: Channel) -> MutexGuard<'_, Ledger> {
        self.ledgers[channel as usize].lock()
    }

    /// Leaves a job of another owner to the store, of the one with the most.
    fn displace(
        &self,
        endpoints: &HashMap<EndpointId, Arc<Endpoint>>,
        channel: Channel,
        owner: &Owner,
    ) -> bool {
        let Some(most) = self.ledger(channel).to_displace(owner) else {
            return false;
        };
        let all = endpoints.values();
        let mut of_channel = all.filter(|endpoint| endpoint.id.channel == channel);
        let left = of_channel.find_map(|endpoint| endpoint.queue.lock().displace(&most));
        if let Some(job) = &left {
            let mut ledger = self.ledger(channel);
            ledger.give_back(&most);
            ledger.has_left(&job.id);
            ledger.fall_behind(&most);
            drop(ledger);
            self.store.left_in_store();
        }
        left.is_some()
    }

    /// Makes one attempt, if the store still wants the job.
    async fn attempt(&self, mut job: Job, is_failing: bool) -> (Job, Result<Outcome, JobEnd>) {
        let channel = job.target.endpoint().channel;
        let claim = Claim {
            owner: job.owner(),
            goes_first: job.goes_first(),
            is_failing,
        };
        let _permit = self.permits[channel as usize].acquire(claim).await;
        match self.store.verdict(&job).await {
            Verdict::Send => {}
            Verdict::SendTo(target) => job.target = *target,
            Verdict::Drop => return (job, Err(JobEnd::Unwanted)),
            Verdict::Hold { until_ms } => return (job, Err(JobEnd::Held { until_ms })),
        }
        // A panic must not end the endpoint's task: its queue would stand still for ever.
        let attempt = async { self.sender.send(&job).await };
        let attempt = AssertUnwindSafe(attempt).catch_unwind();
        let outcome = attempt.await.unwrap_or_else(|_| {
            tracing::error!(id = job.message.id.as_str(), "an attempt to send panicked");
            Outcome::retry("internal error")
        });
        (job, Ok(outcome))
    }

    /// Counts and stores the end of a job.
    async fn finish(&self, endpoint: &Endpoint, job: &Job, end: &JobEnd) {
        let channel = endpoint.id.channel;
        self.ledger(channel).give_back(&job.owner());
        let count = Count::of(channel, end);
        self.metrics.add(channel, count);
        let (endpoint, id) = (&endpoint.id, job.message.id.as_str());
        match end {
            JobEnd::Dead { attempts, reason } | JobEnd::Gone { attempts, reason }
                if count == Count::Dead =>
            {
                tracing::warn!(%endpoint, id, attempts, reason, "a message is a dead letter");
            }
            JobEnd::Dead { reason, .. } | JobEnd::Gone { reason, .. } => {
                tracing::info!(%endpoint, id, reason, "an endpoint is gone");
            }
            JobEnd::Delivered | JobEnd::Expired | JobEnd::Unwanted | JobEnd::Held { .. } => {}
        }
        self.store.finished(job, end).await;
        self.ledger(channel).has_left(&job.id);
    }

    /// Records the outcome of an attempt.
    async fn conclude(&self, endpoint: &Endpoint, job: Job, outcome: Result<Outcome, JobEnd>) {
        // Before the queue forgets it.
        self.ledger(endpoint.id.channel).leaves(&job.id);
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(end) => {
                endpoint.queue.lock().drop_job(&job);
                return self.finish(endpoint, &job, &end).await;
            }
        };
        let now = self.now();
        let Consequence {
            job,
            result,
            changed,
        } = endpoint
            .queue
            .lock()
            .finish(job, outcome, now, rand::random::<f64>);
        if let Some(state) = changed {
            log(&endpoint.id, &state);
            self.store.endpoint_changed(&endpoint.id, &state);
        }
        let end = match result {
            Ok(end) => end,
            Err(deferral) => {
                self.ledger(endpoint.id.channel).stays(&job.id);
                self.metrics.add(endpoint.id.channel, Count::Retried);
                self.store.deferred(&job, &deferral).await;
                return self.shed(endpoint);
            }
        };
        self.finish(endpoint, &job, &end).await;
        if let JobEnd::Gone { reason, .. } = end {
            let others = {
                let mut queue = endpoint.queue.lock();
                let others = queue.drain();
                let mut ledger = self.ledger(endpoint.id.channel);
                others.iter().for_each(|job| ledger.leaves(&job.id));
                others
            };
            for job in others {
                let (attempts, reason) = (job.attempts, reason.clone());
                let end = JobEnd::Gone { attempts, reason };
                self.finish(endpoint, &job, &end).await;
            }
        }
    }

    /// Leaves jobs that are not due to the store, if there is little room.
    fn shed(&self, endpoint: &Endpoint) {
        let channel = endpoint.id.channel;
        let now = self.now();
        let mut queue = endpoint.queue.lock();
        let mut ledger = self.ledger(channel);
        let keep = match (ledger.is_pressed(), queue.is_pressed()) {
            (true, _) => 0,
            (false, true) => (queue.places() / 2).saturating_sub(1),
            (false, false) => return,
        };
        let shed = queue.shed(keep, now);
        for job in &shed {
            let owner = job.owner();
            ledger.give_back(&owner);
            ledger.has_left(&job.id);
            if job.attempts == 0 {
                ledger.fall_behind(&owner);
            }
        }
        drop((queue, ledger));
        if !shed.is_empty() {
            self.store.left_in_store();
        }
    }

    /// Forgets an endpoint that has nothing to do. Returns whether it had nothing to do. The
    /// pauses of endpoints without a job are forgotten when there are many.
    fn forget(&self, endpoint: &Endpoint) -> bool {
        // The lock of all endpoints first, as in `place`: no job is added in between.
        let mut endpoints = self.endpoints.lock();
        let is_done = {
            let queue = endpoint.queue.lock();
            queue.is_done(self.now()) || queue.is_empty() && endpoints.len() > self.limits.jobs
        };
        if is_done {
            endpoints.remove(&endpoint.id);
        }
        is_done
    }
}

/// Sends the jobs of one endpoint, until there is none.
async fn run(shared: Arc<Shared>, endpoint: Arc<Endpoint>) {
    let mut attempts: FuturesUnordered<BoxFuture<'_, (Job, Result<Outcome, JobEnd>)>> =
        FuturesUnordered::new();
    loop {
        let is_stopping = shared.stop.is_cancelled();
        let (step, is_failing) = match is_stopping {
            true => (Step::Idle, false),
            false => {
                let mut queue = endpoint.queue.lock();
                let step = queue.next(shared.now());
                if let Step::End(job, _) = &step {
                    shared.ledger(endpoint.id.channel).leaves(&job.id);
                }
                (step, queue.is_failing())
            }
        };
        let wake = match step {
            Step::Send(job) => {
                attempts.push(Box::pin(shared.attempt(*job, is_failing)));
                continue;
            }
            Step::End(job, end) => {
                let owner = job.owner();
                shared.finish(&endpoint, &job, &end).await;
                announce_room(&shared, &endpoint, &owner);
                continue;
            }
            Step::Wait(at) => Some(at),
            Step::Idle => None,
        };
        if attempts.is_empty() && (is_stopping || shared.forget(&endpoint)) {
            return;
        }
        let sleep = async {
            match wake {
                Some(at) => sleep_until(at).await,
                None => pending().await,
            }
        };
        tokio::select! {
            Some((job, outcome)) = attempts.next() => {
                let owner = job.owner();
                shared.conclude(&endpoint, job, outcome).await;
                announce_room(&shared, &endpoint, &owner);
            }
            () = endpoint.offered.notified() => {}
            () = sleep => {}
            () = shared.stop.cancelled(), if !is_stopping => {}
        }
    }
}

/// Informs the store when a queue that refused jobs has room again, or the owner of a job.
fn announce_room(shared: &Shared, endpoint: &Endpoint, owner: &Owner) {
    let (has_room, places) = {
        let mut queue = endpoint.queue.lock();
        (queue.take_room(), queue.places())
    };
    let channel = endpoint.id.channel;
    if has_room || shared.ledger(channel).has_room(owner, places) {
        shared.store.has_room(&endpoint.id);
    }
}

fn log(endpoint: &EndpointId, state: &EndpointState) {
    match state {
        EndpointState::Working => tracing::info!(%endpoint, "a delivery endpoint works again"),
        EndpointState::Failing { reason } => {
            tracing::warn!(%endpoint, reason, "a delivery endpoint fails");
        }
        EndpointState::Paused { reason } => {
            tracing::warn!(%endpoint, reason, "a delivery endpoint refuses this server");
        }
        EndpointState::Misconfigured { reason } => {
            tracing::error!(%endpoint, reason, "a delivery channel is misconfigured");
        }
    }
}
