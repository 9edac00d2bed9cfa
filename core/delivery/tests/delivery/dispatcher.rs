//! Dispatcher: queues of endpoints, and the boundary to the store.
//!
//! Time is tokio's and paused: it moves on when all tasks wait.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tidewire_delivery::{
    Channel, Count, Deferral, Dispatcher, DispatcherLimits, EndpointId, EndpointState, Job, JobEnd,
    JobId, JobOrder, JobStore, Offer, Outcome, QueueLimits, Sender, Senders, Target, Verdict,
};
use tidewire_stream::{Clock, ManualClock, SharedClock};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};

use crate::{CREATED_MS, message};

const LIMITS: QueueLimits = QueueLimits {
    jobs: 3,
    order: JobOrder::Offered,
    concurrency: 1,
    interval: Duration::ZERO,
    first_pause: Duration::from_secs(2),
    longest_pause: Duration::from_secs(60),
    attempts: 20,
    max_age: Duration::from_secs(86_400),
};

/// A wall clock that moves with tokio's.
#[derive(Debug)]
struct TokioClock(Instant);

impl Clock for TokioClock {
    fn now_ms(&self) -> i64 {
        CREATED_MS + i64::try_from(self.0.elapsed().as_millis()).unwrap()
    }
}

/// The next answer of an endpoint, and the time that it takes.
type Answer = (Duration, Outcome);

/// Endpoints that answer as scripted, the last answer for ever.
#[derive(Default)]
struct ScriptedSender {
    answers: Mutex<HashMap<String, Vec<Answer>>>,
    attempts: Mutex<Vec<(Duration, String, String)>>,
    start: Mutex<Option<Instant>>,
}

impl Sender for ScriptedSender {
    fn send<'a>(&'a self, job: &'a Job) -> BoxFuture<'a, Outcome> {
        let endpoint = job.target.endpoint().name.to_string();
        let at = self.start.lock().get_or_insert_with(Instant::now).elapsed();
        let id = job.message.id.as_str().to_owned();
        self.attempts.lock().push((at, endpoint.clone(), id));
        let (time, outcome) = {
            let mut answers = self.answers.lock();
            let answers = answers.get_mut(&endpoint).unwrap();
            match answers.len() {
                1 => answers[0].clone(),
                _ => answers.remove(0),
            }
        };
        Box::pin(async move {
            sleep(time).await;
            outcome
        })
    }

    fn limits(&self, _: &EndpointId) -> QueueLimits {
        LIMITS
    }
}

/// A call of the store.
#[derive(Debug, PartialEq)]
enum Call {
    Finished(String, JobEnd),
    Deferred(String, Deferral),
    Changed(String, EndpointState),
    Room(String),
}

struct RecordingStore {
    calls: mpsc::UnboundedSender<Call>,
    unwanted: Mutex<Vec<String>>,
}

impl RecordingStore {
    fn call(&self, call: Call) {
        let _ = self.calls.send(call);
    }
}

impl JobStore for RecordingStore {
    fn verdict<'a>(&'a self, job: &'a Job) -> BoxFuture<'a, Verdict> {
        let is_unwanted = self.unwanted.lock().iter().any(|id| id == job.id.as_str());
        Box::pin(async move {
            match is_unwanted {
                true => Verdict::Drop,
                false => Verdict::Send,
            }
        })
    }

    fn deferred<'a>(&'a self, job: &'a Job, deferral: &'a Deferral) -> BoxFuture<'a, ()> {
        self.call(Call::Deferred(job.id.as_str().to_owned(), deferral.clone()));
        Box::pin(async {})
    }

    fn finished<'a>(&'a self, job: &'a Job, end: &'a JobEnd) -> BoxFuture<'a, ()> {
        self.call(Call::Finished(job.id.as_str().to_owned(), end.clone()));
        Box::pin(async {})
    }

    fn endpoint_changed(&self, endpoint: &EndpointId, state: &EndpointState) {
        self.call(Call::Changed(endpoint.to_string(), state.clone()));
    }

    fn has_room(&self, endpoint: &EndpointId) {
        self.call(Call::Room(endpoint.to_string()));
    }
}

/// A store that keeps the ends of jobs only.
struct Ends(mpsc::UnboundedSender<(Job, JobEnd)>);

impl JobStore for Ends {
    fn verdict<'a>(&'a self, _: &'a Job) -> BoxFuture<'a, Verdict> {
        Box::pin(async { Verdict::Send })
    }

    fn deferred<'a>(&'a self, _: &'a Job, _: &'a Deferral) -> BoxFuture<'a, ()> {
        Box::pin(async {})
    }

    fn finished<'a>(&'a self, job: &'a Job, end: &'a JobEnd) -> BoxFuture<'a, ()> {
        let _ = self.0.send((job.clone(), end.clone()));
        Box::pin(async {})
    }
}

/// A dispatcher of real senders, and the ends of its jobs.
pub(crate) fn dispatcher(
    senders: Arc<Senders>,
) -> (Dispatcher, mpsc::UnboundedReceiver<(Job, JobEnd)>) {
    let (ends, received) = mpsc::unbounded_channel();
    let clock: SharedClock = ManualClock::at(CREATED_MS);
    let limits = DispatcherLimits {
        jobs: 10,
        in_flight: 10,
    };
    let dispatcher = Dispatcher::new(senders, Arc::new(Ends(ends)), clock, limits);
    (dispatcher, received)
}

struct Setup {
    dispatcher: Dispatcher,
    sender: Arc<ScriptedSender>,
    store: Arc<RecordingStore>,
    calls: mpsc::UnboundedReceiver<Call>,
    start: Instant,
}

impl Setup {
    fn new(answers: &[(&str, &[Answer])]) -> Self {
        Self::with_limits(answers, 100, 100)
    }

    fn with_limits(answers: &[(&str, &[Answer])], jobs: usize, in_flight: usize) -> Self {
        let sender = Arc::new(ScriptedSender::default());
        for (endpoint, answers) in answers {
            let mut all = sender.answers.lock();
            all.insert((*endpoint).to_owned(), answers.to_vec());
        }
        let start = Instant::now();
        *sender.start.lock() = Some(start);
        let (calls, received) = mpsc::unbounded_channel();
        let store = Arc::new(RecordingStore {
            calls,
            unwanted: Mutex::default(),
        });
        let clock: SharedClock = Arc::new(TokioClock(start));
        let limits = DispatcherLimits { jobs, in_flight };
        Self {
            dispatcher: Dispatcher::new(sender.clone(), store.clone(), clock, limits),
            sender,
            store,
            calls: received,
            start,
        }
    }

    fn offer(&self, endpoint: &str, id: &str) -> Offer {
        self.dispatcher.offer(job(endpoint, id))
    }

    async fn call(&mut self) -> Call {
        self.calls.recv().await.unwrap()
    }

    /// The id and end of the next job that is finished.
    async fn finished(&mut self) -> (String, JobEnd) {
        loop {
            if let Call::Finished(id, end) = self.call().await {
                return (id, end);
            }
        }
    }
}

fn job(endpoint: &str, id: &str) -> Job {
    Job::new(
        JobId::new(id),
        Target::Webhook(endpoint.into()),
        message(id),
    )
}

fn ok() -> Answer {
    (Duration::ZERO, Outcome::Delivered)
}

fn retry(after: Option<Duration>) -> Answer {
    let reason = "HTTP status 503".to_owned();
    (Duration::ZERO, Outcome::Retry { after, reason })
}

fn delivered(id: &str) -> (String, JobEnd) {
    (id.to_owned(), JobEnd::Delivered)
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_hangs_delays_no_other() {
    let hangs = (
        Duration::from_secs(30),
        Outcome::Permanent {
            reason: "no response in time".to_owned(),
        },
    );
    let mut setup = Setup::new(&[("slow", &[hangs]), ("fast", &[ok()])]);
    for id in ["s1", "s2"] {
        assert_eq!(setup.offer("slow", id), Offer::Queued);
    }
    for id in ["f1", "f2", "f3"] {
        assert_eq!(setup.offer("fast", id), Offer::Queued);
    }
    for id in ["f1", "f2", "f3"] {
        assert_eq!(setup.finished().await, delivered(id));
    }
    assert_eq!(setup.start.elapsed(), Duration::ZERO, "of paused time");
    let (id, end) = setup.finished().await;
    assert_eq!((id.as_str(), setup.start.elapsed().as_secs()), ("s1", 30));
    // A permanent error is a dead letter at once.
    assert!(matches!(end, JobEnd::Dead { attempts: 1, .. }));
    setup.finished().await;
    let metrics = setup.dispatcher.metrics();
    assert_eq!(metrics.get(Channel::Webhook, Count::Delivered), 3);
    assert_eq!(metrics.get(Channel::Webhook, Count::Dead), 2);
    assert_eq!(metrics.get(Channel::Email, Count::Delivered), 0);
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_fails_for_ten_minutes_receives_the_message_once_it_works() {
    let mut answers = vec![retry(None); 15];
    answers.push(ok());
    let mut setup = Setup::new(&[("ops", &answers)]);
    setup.offer("ops", "a");
    assert_eq!(setup.finished().await, delivered("a"));
    let attempts = setup.sender.attempts.lock().clone();
    assert_eq!(attempts.len(), 16);
    assert!(attempts.iter().all(|(_, _, id)| id == "a"), "the same id");
    // Each pause is within its bound: 2 s, 4 s, and so on up to 60 s.
    for (failures, pair) in attempts.windows(2).enumerate() {
        let longest = Duration::from_secs(60.min(2 << failures.min(10)));
        let pause = pair[1].0 - pair[0].0;
        // Tokio's timers round up to a millisecond.
        assert!(pause <= longest + Duration::from_millis(2), "{pause:?}");
    }
    assert_eq!(
        setup
            .dispatcher
            .metrics()
            .get(Channel::Webhook, Count::Retried),
        15
    );
}

#[tokio::test(start_paused = true)]
async fn a_demanded_wait_is_honoured_and_stored() {
    let wait = Duration::from_millis(400);
    let mut setup = Setup::new(&[("ops", &[retry(Some(wait)), ok()])]);
    setup.offer("ops", "a");
    let reason = "HTTP status 503".to_owned();
    let state = EndpointState::Failing {
        reason: reason.clone(),
    };
    assert_eq!(
        setup.call().await,
        Call::Changed("webhook:ops".to_owned(), state)
    );
    let deferral = Deferral {
        attempts: 1,
        not_before_ms: CREATED_MS + 400,
        reason,
    };
    assert_eq!(setup.call().await, Call::Deferred("a".to_owned(), deferral));
    let state = EndpointState::Working;
    assert_eq!(
        setup.call().await,
        Call::Changed("webhook:ops".to_owned(), state)
    );
    assert_eq!(setup.finished().await, delivered("a"));
    let at = setup.sender.attempts.lock()[1].0;
    assert!(
        (wait..wait + Duration::from_millis(2)).contains(&at),
        "{at:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_message_that_was_read_meanwhile_is_not_sent_again() {
    let wait = Duration::from_secs(10);
    let mut setup = Setup::new(&[("ops", &[retry(Some(wait)), ok()])]);
    setup.offer("ops", "a");
    setup.call().await;
    setup.store.unwanted.lock().push("a".to_owned());
    let (id, end) = setup.finished().await;
    assert_eq!((id.as_str(), end), ("a", JobEnd::Unwanted));
    assert_eq!(setup.sender.attempts.lock().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_gone_endpoint_ends_all_its_jobs_and_no_others() {
    let gone = Outcome::Gone {
        reason: "HTTP status 410".to_owned(),
    };
    let mut setup = Setup::new(&[("old", &[(Duration::from_secs(1), gone)]), ("new", &[ok()])]);
    for id in ["a", "b"] {
        setup.offer("old", id);
    }
    setup.offer("new", "c");
    assert_eq!(setup.finished().await, delivered("c"));
    for id in ["a", "b"] {
        let (found, end) = setup.finished().await;
        assert_eq!(found, id);
        assert!(matches!(end, JobEnd::Gone { .. }));
    }
    assert_eq!(setup.sender.attempts.lock().len(), 2);
    assert_eq!(setup.offer("new", "d"), Offer::Queued);
    assert_eq!(setup.finished().await, delivered("d"));
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_leaves_jobs_in_the_store_and_asks_for_them_later() {
    let mut setup = Setup::new(&[("ops", &[(Duration::from_secs(1), Outcome::Delivered)])]);
    for id in ["a", "b", "c"] {
        assert_eq!(setup.offer("ops", id), Offer::Queued);
    }
    assert_eq!(setup.offer("ops", "a"), Offer::Known);
    assert_eq!(setup.offer("ops", "d"), Offer::Full);
    assert_eq!(setup.dispatcher.jobs(), 3);
    for _ in 0..2 {
        assert!(matches!(setup.call().await, Call::Finished(..)));
    }
    assert_eq!(setup.call().await, Call::Room("webhook:ops".to_owned()));
    assert_eq!(setup.offer("ops", "d"), Offer::Queued);
    assert_eq!(setup.finished().await, delivered("c"));
    assert_eq!(setup.finished().await, delivered("d"));
    assert_eq!(
        setup
            .dispatcher
            .metrics()
            .get(Channel::Webhook, Count::Full),
        1
    );
}

#[tokio::test(start_paused = true)]
async fn all_endpoints_together_have_a_bound() {
    let slow = [(Duration::from_secs(5), Outcome::Delivered)];
    let mut setup = Setup::with_limits(&[("a", &slow), ("b", &slow)], 1, 100);
    assert_eq!(setup.offer("a", "1"), Offer::Queued);
    assert_eq!(setup.offer("b", "2"), Offer::Full);
    assert_eq!(setup.finished().await, delivered("1"));
    assert_eq!(setup.offer("b", "2"), Offer::Queued);
    assert_eq!(setup.finished().await, delivered("2"));
}

#[tokio::test(start_paused = true)]
async fn idle_endpoints_take_no_memory() {
    let mut setup = Setup::new(&[
        ("a", &[ok()]),
        ("b", &[retry(Some(Duration::from_secs(9))), ok()]),
    ]);
    setup.offer("a", "1");
    setup.offer("b", "2");
    for _ in 0..2 {
        setup.finished().await;
    }
    // The tasks end when all others wait.
    sleep(Duration::from_millis(1)).await;
    assert_eq!(
        (setup.dispatcher.endpoints(), setup.dispatcher.jobs()),
        (0, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_attempts_in_flight_and_begins_none() {
    let mut setup = Setup::new(&[("ops", &[(Duration::from_secs(3), Outcome::Delivered)])]);
    setup.offer("ops", "a");
    setup.offer("ops", "b");
    sleep(Duration::from_secs(1)).await;
    setup.dispatcher.stop().await;
    assert_eq!(setup.start.elapsed().as_secs(), 3);
    assert_eq!(setup.finished().await, delivered("a"));
    // `b` stays in the store.
    assert!(setup.calls.try_recv().is_err());
    assert_eq!(setup.offer("ops", "c"), Offer::Full);
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_an_attempt_does_not_stop_the_queue() {
    // An endpoint without a script panics.
    let mut setup = Setup::new(&[]);
    setup.offer("ops", "a");
    let Call::Changed(_, EndpointState::Failing { reason }) = setup.call().await else {
        panic!("the attempt failed");
    };
    assert_eq!(reason, "internal error");
    setup
        .sender
        .answers
        .lock()
        .insert("ops".to_owned(), vec![ok()]);
    assert_eq!(setup.finished().await, delivered("a"));
}

#[tokio::test(start_paused = true)]
async fn an_abandoned_dispatcher_waits_for_no_attempt() {
    let hangs = (Duration::from_secs(30), Outcome::Delivered);
    let mut setup = Setup::new(&[("slow", &[hangs])]);
    for id in ["s1", "s2"] {
        assert_eq!(setup.offer("slow", id), Offer::Queued);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    setup.dispatcher.abandon();
    assert_eq!(setup.offer("slow", "s3"), Offer::Full);
    setup.dispatcher.stop().await;
    assert_eq!(
        setup.start.elapsed(),
        Duration::from_secs(1),
        "of paused time"
    );
    assert!(setup.calls.try_recv().is_err(), "nothing is noted");
}
