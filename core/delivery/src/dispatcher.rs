//! Dispatcher: one queue and one task for each endpoint that has jobs.
//!
//! An endpoint that hangs holds up its own queue only. A task ends when its queue is empty, so
//! memory does not grow with the number of endpoints. A channel makes a bounded number of
//! attempts at the same time, so slow push endpoints never use up those of webhooks and mails.

use std::{
    collections::HashMap,
    future::pending,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use parking_lot::Mutex;
use tidewire_stream::SharedClock;
use tokio::{
    sync::{Notify, Semaphore},
    time::{Instant, sleep_until},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Channel, Count, DeliveryMetrics, EndpointId, EndpointState, Job, JobEnd, JobStore, Offer,
    Outcome, Sender, Verdict,
    queue::{Consequence, EndpointQueue, Now, Room, Step},
};

/// Bounds of a dispatcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DispatcherLimits {
    /// Jobs in memory, of all endpoints.
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
    /// Jobs in all queues.
    jobs: AtomicUsize,
    permits: [Semaphore; Channel::ALL.len()],
    metrics: DeliveryMetrics,
    tasks: TaskTracker,
    stop: CancellationToken,
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
            jobs: AtomicUsize::new(0),
            permits: Channel::ALL.map(|_| Semaphore::new(limits.in_flight)),
            metrics: DeliveryMetrics::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        }))
    }

    /// Offers a stored job. A job that is in memory already is not added twice, so the store may
    /// offer all its jobs at any time. Must be called within a tokio runtime.
    pub fn offer(&self, job: Job) -> Offer {
        let shared = &self.0;
        let id = job.target.endpoint();
        let channel = id.channel;
        let now = shared.now();
        let mut endpoints = shared.endpoints.lock();
        if shared.stop.is_cancelled() {
            return Offer::Full;
        }
        let endpoint = endpoints.entry(id).or_insert_with_key(|id| {
            let limits = shared.sender.limits(id);
            let endpoint = Arc::new(Endpoint {
                id: id.clone(),
                queue: Mutex::new(EndpointQueue::new(limits, now)),
                offered: Notify::new(),
            });
            let task = run(shared.clone(), endpoint.clone());
            shared.tasks.spawn(task);
            endpoint
        });
        let mut queue = endpoint.queue.lock();
        // Only this function adds, under the lock of all endpoints.
        let room = match shared.jobs.load(Ordering::Relaxed) < shared.limits.jobs {
            true => Room::Free,
            false => Room::Full,
        };
        let offer = queue.offer(job, room, now);
        match offer {
            Offer::Queued => {
                shared.jobs.fetch_add(1, Ordering::Relaxed);
                endpoint.offered.notify_one();
            }
            Offer::Known => {}
            Offer::Full => shared.metrics.add(channel, Count::Full),
        }
        offer
    }

    /// Jobs in memory.
    #[must_use]
    pub fn jobs(&self) -> usize {
        self.0.jobs.load(Ordering::Relaxed)
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
}

impl Shared {
    fn now(&self) -> Now {
        Now {
            instant: Instant::now(),
            ms: self.clock.now_ms(),
        }
    }

    /// Makes one attempt, if the store still wants the job.
    async fn attempt(&self, mut job: Job) -> (Job, Option<Outcome>) {
        let channel = job.target.endpoint().channel;
        // The semaphore is never closed.
        let _permit = self.permits[channel as usize].acquire().await;
        match self.store.verdict(&job).await {
            Verdict::Send => {}
            Verdict::SendTo(target) => job.target = *target,
            Verdict::Drop => return (job, None),
        }
        // A panic must not end the endpoint's task: its queue would stand still for ever.
        let attempt = async { self.sender.send(&job).await };
        let attempt = AssertUnwindSafe(attempt).catch_unwind();
        let outcome = attempt.await.unwrap_or_else(|_| {
            tracing::error!(
                id = job.message.id.as_str(),
                "an attempt to send panicked"
            );
            Outcome::retry("internal error")
        });
        (job, Some(outcome))
    }

    /// Counts and stores the end of a job.
    async fn finish(&self, endpoint: &Endpoint, job: &Job, end: &JobEnd) {
        self.jobs.fetch_sub(1, Ordering::Relaxed);
        let count = Count::of(endpoint.id.channel, end);
        self.metrics.add(endpoint.id.channel, count);
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
            JobEnd::Delivered | JobEnd::Expired | JobEnd::Unwanted => {}
        }
        self.store.finished(job, end).await;
    }

    /// Records the outcome of an attempt.
    async fn conclude(&self, endpoint: &Endpoint, job: Job, outcome: Option<Outcome>) {
        let Some(outcome) = outcome else {
            endpoint.queue.lock().drop_job(&job);
            return self.finish(endpoint, &job, &JobEnd::Unwanted).await;
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
                self.metrics.add(endpoint.id.channel, Count::Retried);
                return self.store.deferred(&job, &deferral).await;
            }
        };
        self.finish(endpoint, &job, &end).await;
        if let JobEnd::Gone { reason, .. } = end {
            let others = endpoint.queue.lock().drain();
            for job in others {
                let (attempts, reason) = (job.attempts, reason.clone());
                let end = JobEnd::Gone { attempts, reason };
                self.finish(endpoint, &job, &end).await;
            }
        }
    }

    /// Forgets an endpoint that has nothing to do. Returns whether it had nothing to do.
    fn forget(&self, endpoint: &Endpoint) -> bool {
        // The lock of all endpoints first, as in `offer`: no job is added in between.
        let mut endpoints = self.endpoints.lock();
        let is_done = endpoint.queue.lock().is_done(self.now());
        if is_done {
            endpoints.remove(&endpoint.id);
        }
        is_done
    }
}

/// Sends the jobs of one endpoint, until there is none.
async fn run(shared: Arc<Shared>, endpoint: Arc<Endpoint>) {
    let mut attempts: FuturesUnordered<BoxFuture<'_, (Job, Option<Outcome>)>> =
        FuturesUnordered::new();
    loop {
        let is_stopping = shared.stop.is_cancelled();
        let step = match is_stopping {
            true => Step::Idle,
            false => endpoint.queue.lock().next(shared.now()),
        };
        let wake = match step {
            Step::Send(job) => {
                attempts.push(Box::pin(shared.attempt(*job)));
                continue;
            }
            Step::End(job, end) => {
                shared.finish(&endpoint, &job, &end).await;
                announce_room(&shared, &endpoint);
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
                shared.conclude(&endpoint, job, outcome).await;
                announce_room(&shared, &endpoint);
            }
            () = endpoint.offered.notified() => {}
            () = sleep => {}
            () = shared.stop.cancelled(), if !is_stopping => {}
        }
    }
}

/// Informs the store when a queue that refused jobs has room again.
fn announce_room(shared: &Shared, endpoint: &Endpoint) {
    let has_room = endpoint.queue.lock().take_room();
    if has_room {
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
