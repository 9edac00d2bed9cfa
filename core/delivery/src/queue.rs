//! Endpoint queue: decides which job of one endpoint is sent when. A state machine without I/O.
//!
//! # Pauses
//! Two pauses follow a failed attempt, and both must be over:
//! - The job's own, by its attempts. One message that always fails does not hold up the others.
//! - The endpoint's, by its consecutive failures. An endpoint that is down is tried by one job at
//!   a time, not by all of them.
//!
//! Each is drawn from zero to a longest value ("full jitter"), which doubles with each failure:
//! with `first_pause` 2 s the first is up to 2 s, the second up to 4 s, and so on up to
//! `longest_pause`. A wait that the receiver demands (`Retry-After`) counts instead, exactly, after
//! the first failure. After further ones the longer of both counts: a receiver that demands
//! no wait and always fails does not use up all attempts at once.
//! Source: <https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/>
//!
//! # Order
//! Jobs are sent in the order of their due times, so in the order in which they were offered
//! while the endpoint works. A job that failed may come after newer ones.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use tokio::time::Instant;

use crate::{Deferral, EndpointState, Job, JobEnd, JobId, Outcome, QueueLimits};

/// Pause of an endpoint that refuses this server. It is tried again then.
const REFUSAL_PAUSE: Duration = Duration::from_secs(60 * 60);

/// Pause of an endpoint whose channel is misconfigured.
const MISCONFIGURED_PAUSE: Duration = Duration::from_secs(60);

/// Longest time for which a stored job's time is believed: the clock may have been wrong.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 60 * 60);

/// The current time, on both clocks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    /// For pauses.
    pub(crate) instant: Instant,
    /// For ages and the store, in milliseconds since the Unix epoch.
    pub(crate) ms: i64,
}

/// Place of a job in the order: when it is due, and when it was offered.
type Place = (Instant, u64);

/// The jobs of one endpoint.
#[derive(Debug)]
pub(crate) struct EndpointQueue {
    limits: QueueLimits,
    ready: BTreeMap<Place, Job>,
    /// All jobs, those in flight too.
    known: HashSet<JobId>,
    in_flight: usize,
    offered: u64,
    /// No attempt begins before.
    open_at: Instant,
    /// Consecutive failures.
    failures: u32,
    state: EndpointState,
    /// Whether a job was refused for lack of room since there last was room.
    is_refusing: bool,
}

/// Whether all queues together have room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    Free,
    Full,
}

/// The answer to an offered job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// The job is in the queue.
    Queued,
    /// The job was there already.
    Known,
    /// There is no room. The job stays in the store, to be offered later.
    Full,
}

/// The next step of a queue.
#[derive(Debug)]
pub(crate) enum Step {
    /// Make an attempt.
    Send(Box<Job>),
    /// The job ends without an attempt.
    End(Box<Job>, JobEnd),
    /// Nothing is to do before this time.
    Wait(Instant),
    /// Nothing is to do until a job is offered or an attempt ends.
    Idle,
}

/// The consequence of an attempt.
#[derive(Debug)]
pub(crate) struct Consequence {
    /// The job, with the attempts that were made.
    pub(crate) job: Job,
    /// The end of the job, or the time of its next attempt.
    pub(crate) result: Result<JobEnd, Deferral>,
    /// The endpoint's new state, if it changed.
    pub(crate) changed: Option<EndpointState>,
}

impl EndpointQueue {
    pub(crate) fn new(limits: QueueLimits, now: Now) -> Self {
        Self {
            limits,
            ready: BTreeMap::new(),
            known: HashSet::new(),
            in_flight: 0,
            offered: 0,
            open_at: now.instant,
            failures: 0,
            state: EndpointState::Working,
            is_refusing: false,
        }
    }

    /// Adds a job.
    pub(crate) fn offer(&mut self, job: Job, room: Room, now: Now) -> Offer {
        if self.known.contains(&job.id) {
            return Offer::Known;
        }
        if room == Room::Full || self.known.len() >= self.limits.jobs {
            self.is_refusing = true;
            return Offer::Full;
        }
        let wait = job.not_before_ms.saturating_sub(now.ms).max(0);
        let wait = Duration::from_millis(wait.unsigned_abs()).min(LONGEST_WAIT);
        self.insert(job, now.instant + wait);
        Offer::Queued
    }

    /// Whether the queue refused a job and has room again. Half of it must be free, so that the
    /// store offers many at once.
    pub(crate) fn take_room(&mut self) -> bool {
        let has_room = self.is_refusing && self.known.len() <= self.limits.jobs / 2;
        if has_room {
            self.is_refusing = false;
        }
        has_room
    }

    /// Whether the queue can be forgotten: it has no job, and its pause is over.
    pub(crate) fn is_done(&self, now: Now) -> bool {
        self.known.is_empty() && self.open_at <= now.instant
    }

    /// The next step.
    pub(crate) fn next(&mut self, now: Now) -> Step {
        let Some((place, job)) = self.ready.first_key_value() else {
            return match self.known.is_empty() && self.open_at > now.instant {
                true => Step::Wait(self.open_at),
                false => Step::Idle,
            };
        };
        let place = *place;
        // A message that is too old ends, also while the endpoint is paused.
        if let Some(end) = self.end_by_age(job, now) {
            return match self.remove(place) {
                Some(job) => Step::End(Box::new(job), end),
                None => Step::Idle,
            };
        }
        if self.in_flight >= self.limits.concurrency {
            return Step::Idle;
        }
        let due = place.0.max(self.open_at);
        if due > now.instant {
            return Step::Wait(due.min(self.next_end(now)));
        }
        match self.ready.remove(&place) {
            Some(job) => {
                self.in_flight += 1;
                self.open_at = now.instant + self.limits.interval;
                Step::Send(Box::new(job))
            }
            None => Step::Idle,
        }
    }

    /// Records the outcome of an attempt. `chance` gives a number from 0 to 1 for each call.
    pub(crate) fn finish(
        &mut self,
        job: Job,
        outcome: Outcome,
        now: Now,
        mut chance: impl FnMut() -> f64,
    ) -> Consequence {
        self.in_flight = self.in_flight.saturating_sub(1);
        let mut attempts = job.attempts;
        let (pause, reason, state) = match outcome {
            Outcome::Delivered => {
                self.failures = 0;
                return self.end(job, JobEnd::Delivered, Some(EndpointState::Working));
            }
            Outcome::Permanent { reason } => {
                // The endpoint answered: it works, and this message is at fault.
                self.failures = 0;
                attempts = attempts.saturating_add(1);
                return self.end(job, JobEnd::Dead { attempts, reason }, None);
            }
            Outcome::Gone { reason } => return self.end(job, JobEnd::Gone { reason }, None),
            Outcome::Paused { reason } => {
                let state = EndpointState::Paused {
                    reason: reason.clone(),
                };
                (REFUSAL_PAUSE, reason, state)
            }
            Outcome::Misconfigured { reason } => {
                let state = EndpointState::Misconfigured {
                    reason: reason.clone(),
                };
                (MISCONFIGURED_PAUSE, reason, state)
            }
            Outcome::Retry { after, reason } => {
                self.failures = self.failures.saturating_add(1);
                attempts = attempts.saturating_add(1);
                let state = EndpointState::Failing {
                    reason: reason.clone(),
                };
                let mut pause = |failures| {
                    let drawn = self.pause(failures, chance());
                    match (after, failures) {
                        (Some(after), 1) => after,
                        (Some(after), _) => after.max(drawn),
                        (None, _) => drawn,
                    }
                };
                let (pause, own) = (pause(self.failures), pause(attempts));
                self.close(now, pause);
                if attempts >= self.limits.attempts {
                    return self.end(job, JobEnd::Dead { attempts, reason }, Some(state));
                }
                return self.defer(job, attempts, own, reason, state, now);
            }
        };
        // A refusal is no attempt: the message waits until it is too old.
        self.close(now, pause);
        self.defer(job, attempts, pause, reason, state, now)
    }

    /// Ends a job in flight without an attempt.
    pub(crate) fn drop_job(&mut self, job: &Job) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.known.remove(&job.id);
    }

    /// Takes out all jobs that are not in flight, because the endpoint is gone.
    pub(crate) fn drain(&mut self) -> Vec<Job> {
        let jobs: Vec<_> = std::mem::take(&mut self.ready).into_values().collect();
        for job in &jobs {
            self.known.remove(&job.id);
        }
        jobs
    }

    fn insert(&mut self, job: Job, due: Instant) {
        let place = (due, self.offered);
        self.offered += 1;
        self.known.insert(job.id.clone());
        self.ready.insert(place, job);
    }

    fn remove(&mut self, place: Place) -> Option<Job> {
        let job = self.ready.remove(&place)?;
        self.known.remove(&job.id);
        Some(job)
    }

    fn close(&mut self, now: Now, pause: Duration) {
        self.open_at = self.open_at.max(now.instant + pause);
    }

    /// A pause with full jitter.
    fn pause(&self, failures: u32, chance: f64) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        let longest = self.limits.first_pause.saturating_mul(1 << doublings);
        let longest = longest.min(self.limits.longest_pause);
        longest.mul_f64(chance.clamp(0.0, 1.0))
    }

    fn end(&mut self, job: Job, end: JobEnd, state: Option<EndpointState>) -> Consequence {
        self.known.remove(&job.id);
        Consequence {
            job,
            result: Ok(end),
            changed: state.and_then(|state| self.change(state)),
        }
    }

    fn defer(
        &mut self,
        mut job: Job,
        attempts: u32,
        pause: Duration,
        reason: String,
        state: EndpointState,
        now: Now,
    ) -> Consequence {
        let changed = self.change(state);
        let wait = i64::try_from(pause.as_millis()).unwrap_or(i64::MAX);
        let not_before_ms = now.ms.saturating_add(wait);
        let deferral = Deferral {
            attempts,
            not_before_ms,
            reason,
        };
        job.attempts = attempts;
        job.not_before_ms = not_before_ms;
        self.insert(job.clone(), now.instant + pause);
        Consequence {
            job,
            result: Err(deferral),
            changed,
        }
    }

    /// Sets the state. Returns it if its kind is another one.
    fn change(&mut self, state: EndpointState) -> Option<EndpointState> {
        let is_same = std::mem::discriminant(&self.state) == std::mem::discriminant(&state);
        self.state = state.clone();
        (!is_same).then_some(state)
    }

    /// The end of a message that is too old.
    fn end_by_age(&self, job: &Job, now: Now) -> Option<JobEnd> {
        if job.message.is_expired(now.ms) {
            return Some(JobEnd::Expired);
        }
        (self.dead_ms(job) <= now.ms).then(|| {
            let reason = match &self.state {
                EndpointState::Working => "too old".to_owned(),
                EndpointState::Failing { reason }
                | EndpointState::Paused { reason }
                | EndpointState::Misconfigured { reason } => format!("too old: {reason}"),
            };
            JobEnd::Dead {
                attempts: job.attempts,
                reason,
            }
        })
    }

    /// When a job dies of age, in milliseconds since the Unix epoch.
    fn dead_ms(&self, job: &Job) -> i64 {
        let age = i64::try_from(self.limits.max_age.as_millis()).unwrap_or(i64::MAX);
        job.message.created_ms.saturating_add(age)
    }

    /// When the first job ends by its age, if that is before it is due.
    fn next_end(&self, now: Now) -> Instant {
        let ends = self.ready.first_key_value().map(|(_, job)| {
            let dead_ms = self.dead_ms(job);
            job.message.expires_ms.unwrap_or(dead_ms).min(dead_ms)
        });
        let left = ends.unwrap_or(i64::MAX).saturating_sub(now.ms).max(0);
        now.instant + Duration::from_millis(left.unsigned_abs()).min(LONGEST_WAIT)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};
    use tidewire_proto::v1::Notification;
    use tidewire_stream::UserId;

    use super::*;
    use crate::{MessageId, OutgoingMessage, Target};

    const SECOND: Duration = Duration::from_secs(1);

    /// The time at which every message was created, in milliseconds.
    const CREATED_MS: i64 = 1_000_000;

    const LIMITS: QueueLimits = QueueLimits {
        jobs: 4,
        concurrency: 1,
        interval: Duration::ZERO,
        first_pause: Duration::from_secs(2),
        longest_pause: Duration::from_secs(60),
        attempts: 3,
        max_age: Duration::from_secs(3_600),
    };

    fn job(id: &str) -> Job {
        let notification = Notification {
            timestamp: CREATED_MS,
            ..Notification::default()
        };
        let message = OutgoingMessage::notification(
            MessageId::new(id).unwrap(),
            UserId::new("ada"),
            notification,
        );
        Job::new(JobId::new(id), Target::Webhook("ops".into()), message)
    }

    /// A queue, and a clock that tests set.
    struct Bench {
        queue: EndpointQueue,
        start: Instant,
        at: Duration,
    }

    impl Bench {
        fn new(limits: QueueLimits) -> Self {
            let start = Instant::now();
            let now = Now {
                instant: start,
                ms: CREATED_MS,
            };
            Self {
                queue: EndpointQueue::new(limits, now),
                start,
                at: Duration::ZERO,
            }
        }

        fn now(&self) -> Now {
            Now {
                instant: self.start + self.at,
                ms: CREATED_MS + i64::try_from(self.at.as_millis()).unwrap(),
            }
        }

        fn offer(&mut self, job: Job) -> Offer {
            self.queue.offer(job, Room::Free, self.now())
        }

        fn send(&mut self) -> Job {
            match self.queue.next(self.now()) {
                Step::Send(job) => *job,
                step => panic!("expected a job, found {step:?}"),
            }
        }

        /// The time until the next step.
        fn wait(&mut self) -> Option<Duration> {
            match self.queue.next(self.now()) {
                Step::Wait(at) => Some(at - self.now().instant),
                Step::Idle => None,
                step => panic!("expected a wait, found {step:?}"),
            }
        }

        fn finish(&mut self, job: Job, outcome: Outcome) -> Consequence {
            self.queue.finish(job, outcome, self.now(), || 1.0)
        }

        /// Sends the next job, which fails.
        fn fail(&mut self, after: Option<Duration>) -> Consequence {
            let job = self.send();
            let reason = "HTTP status 503".to_owned();
            self.finish(job, Outcome::Retry { after, reason })
        }
    }

    #[test]
    fn jobs_are_sent_in_their_order_one_at_a_time() {
        let mut bench = Bench::new(LIMITS);
        assert_eq!(bench.wait(), None);
        for id in ["a", "b"] {
            assert_eq!(bench.offer(job(id)), Offer::Queued);
        }
        let first = bench.send();
        assert_eq!(first.id.as_str(), "a");
        assert_eq!(bench.wait(), None, "one is in flight");
        assert_eq!(bench.offer(job("a")), Offer::Known);
        let done = bench.finish(first, Outcome::Delivered);
        assert_eq!(done.result, Ok(JobEnd::Delivered));
        assert_eq!(done.changed, None, "it worked before");
        let second = bench.send();
        assert_eq!(second.id.as_str(), "b");
        assert!(!bench.queue.is_done(bench.now()));
        bench.finish(second, Outcome::Delivered);
        assert!(bench.queue.is_done(bench.now()));
    }

    #[test]
    fn a_full_queue_refuses_and_announces_room_once() {
        let mut bench = Bench::new(LIMITS);
        for id in ["a", "b", "c", "d"] {
            bench.offer(job(id));
        }
        assert_eq!(bench.offer(job("e")), Offer::Full);
        let sent = bench.send();
        bench.finish(sent, Outcome::Delivered);
        assert!(!bench.queue.take_room(), "three of four are there");
        let sent = bench.send();
        bench.finish(sent, Outcome::Delivered);
        assert!(bench.queue.take_room() && !bench.queue.take_room());
        let full = bench.queue.offer(job("f"), Room::Full, bench.now());
        assert_eq!(full, Offer::Full);
    }

    #[test]
    fn pauses_double_up_to_the_longest_and_have_full_jitter() {
        let bench = Bench::new(LIMITS);
        let longest: Vec<_> = (1..=7)
            .map(|failures| bench.queue.pause(failures, 1.0).as_secs())
            .collect();
        assert_eq!(longest, [2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(bench.queue.pause(u32::MAX, 1.0), 60 * SECOND);
        assert_eq!(bench.queue.pause(3, 0.0), Duration::ZERO);
        assert_eq!(bench.queue.pause(3, 0.25), 2 * SECOND);
    }

    #[test]
    fn a_failing_endpoint_is_tried_by_one_job_at_a_time() {
        let mut bench = Bench::new(LIMITS);
        bench.offer(job("a"));
        bench.offer(job("b"));
        let failed = bench.fail(None);
        assert_eq!(
            failed.result,
            Err(Deferral {
                attempts: 1,
                not_before_ms: CREATED_MS + 2_000,
                reason: "HTTP status 503".to_owned()
            })
        );
        assert!(matches!(
            failed.changed,
            Some(EndpointState::Failing { .. })
        ));
        // The other job waits with it: the endpoint is down.
        assert_eq!(bench.wait(), Some(2 * SECOND));
        bench.at += 2 * SECOND;
        let failed = bench.fail(None);
        assert_eq!((failed.job.id.as_str(), failed.changed), ("b", None));
        assert_eq!(
            bench.wait(),
            Some(4 * SECOND),
            "the second failure in a row"
        );
        bench.at += 4 * SECOND;
        let sent = bench.send();
        assert_eq!((sent.id.as_str(), sent.attempts), ("a", 1));
        let done = bench.finish(sent, Outcome::Delivered);
        assert_eq!(done.changed, Some(EndpointState::Working));
    }

    #[test]
    fn a_message_that_always_fails_holds_no_other_up() {
        let mut bench = Bench::new(LIMITS);
        bench.offer(job("bad"));
        bench.fail(None);
        for id in ["a", "b"] {
            bench.offer(job(id));
        }
        bench.at += 2 * SECOND;
        // `a` and `b` were due before the bad one.
        for expected in ["a", "b", "bad"] {
            let sent = bench.send();
            assert_eq!(sent.id.as_str(), expected);
            bench.finish(sent, Outcome::Delivered);
        }
    }

    #[test]
    fn a_demanded_wait_is_honoured_exactly() {
        let mut bench = Bench::new(LIMITS);
        bench.offer(job("a"));
        bench.offer(job("b"));
        let failed = bench.fail(Some(Duration::from_millis(400)));
        assert_eq!(failed.result.unwrap_err().not_before_ms, CREATED_MS + 400);
        assert_eq!(bench.wait(), Some(Duration::from_millis(400)));
        bench.at += Duration::from_millis(400);
        assert_eq!(bench.send().id.as_str(), "b");
    }

    #[test]
    fn a_job_dies_of_its_attempts() {
        let mut bench = Bench::new(LIMITS);
        bench.offer(job("a"));
        for pause in [1, 4] {
            assert!(bench.fail(Some(SECOND)).result.is_err());
            assert_eq!(bench.wait(), Some(pause * SECOND));
            bench.at += pause * SECOND;
        }
        let reason = "HTTP status 503".to_owned();
        let end = JobEnd::Dead {
            attempts: 3,
            reason,
        };
        assert_eq!(bench.fail(Some(SECOND)).result, Ok(end));
        // The queue remembers the pause of its endpoint, without a job too.
        assert!(!bench.queue.is_done(bench.now()));
        assert_eq!(bench.wait(), Some(8 * SECOND));
        bench.at += 8 * SECOND;
        assert!(bench.queue.is_done(bench.now()));
    }

    #[test]
    fn a_receiver_that_demands_no_wait_is_not_asked_in_a_loop() {
        let mut bench = Bench::new(LIMITS);
        bench.offer(job("a"));
        bench.fail(Some(Duration::ZERO));
        bench.fail(Some(Duration::ZERO));
        assert_eq!(bench.wait(), Some(4 * SECOND));
    }

    #[test]
    fn a_job_dies_of_its_age_while_the_endpoint_is_paused() {
        let mut bench = Bench::new(LIMITS);
        bench.offer(job("a"));
        bench.fail(Some(7_200 * SECOND));
        assert_eq!(bench.wait(), Some(3_600 * SECOND));
        bench.at += 3_600 * SECOND;
        let Step::End(_, end) = bench.queue.next(bench.now()) else {
            panic!("the job is too old");
        };
        let reason = "too old: HTTP status 503".to_owned();
        assert_eq!(
            end,
            JobEnd::Dead {
                attempts: 1,
                reason
            }
        );
    }

    #[test]
    fn an_expired_message_is_not_sent() {
        let mut bench = Bench::new(LIMITS);
        let mut expired = job("a");
        expired.message.expires_ms = Some(CREATED_MS + 500);
        expired.not_before_ms = CREATED_MS + 9_000;
        bench.offer(expired);
        assert_eq!(bench.wait(), Some(Duration::from_millis(500)));
        bench.at += Duration::from_millis(500);
        let step = bench.queue.next(bench.now());
        assert!(matches!(step, Step::End(_, JobEnd::Expired)), "{step:?}");
    }

    #[test]
    fn a_permanent_error_ends_one_job_and_a_gone_endpoint_all() {
        let mut bench = Bench::new(LIMITS);
        for id in ["a", "b", "c"] {
            bench.offer(job(id));
        }
        let sent = bench.send();
        let end = bench.finish(sent, Outcome::permanent("HTTP status 400"));
        assert!(matches!(end.result, Ok(JobEnd::Dead { attempts: 1, .. })));
        let sent = bench.send();
        let reason = "HTTP status 410".to_owned();
        let end = bench.finish(sent, Outcome::Gone { reason });
        assert!(matches!(end.result, Ok(JobEnd::Gone { .. })));
        let rest = bench.queue.drain();
        assert_eq!(rest.len(), 1);
        assert!(bench.queue.is_done(bench.now()));
    }

    #[test]
    fn a_refusal_pauses_the_endpoint_and_is_no_attempt() {
        let mut bench = Bench::new(LIMITS);
        bench.offer(job("a"));
        let sent = bench.send();
        let reason = "HTTP status 403".to_owned();
        let refused = bench.finish(
            sent,
            Outcome::Misconfigured {
                reason: reason.clone(),
            },
        );
        assert_eq!(refused.result.unwrap_err().attempts, 0);
        assert_eq!(bench.wait(), Some(MISCONFIGURED_PAUSE));
        bench.at += MISCONFIGURED_PAUSE;
        let sent = bench.send();
        let refused = bench.finish(sent, Outcome::Paused { reason });
        assert!(matches!(
            refused.changed,
            Some(EndpointState::Paused { .. })
        ));
        // The message dies of its age before the pause ends.
        assert_eq!(bench.wait(), Some(3_540 * SECOND));
    }

    #[test]
    fn a_rate_spaces_attempts() {
        let mut bench = Bench::new(QueueLimits {
            concurrency: 2,
            interval: SECOND / 5,
            ..LIMITS
        });
        for id in ["a", "b", "c"] {
            bench.offer(job(id));
        }
        bench.send();
        assert_eq!(bench.wait(), Some(SECOND / 5));
        bench.at += SECOND / 5;
        bench.send();
        bench.at += SECOND / 5;
        assert_eq!(bench.wait(), None, "two are in flight");
    }

    #[test]
    fn a_stored_time_of_the_next_attempt_counts_after_a_restart() {
        let mut bench = Bench::new(LIMITS);
        let mut stored = job("a");
        stored.not_before_ms = CREATED_MS + 30_000;
        bench.offer(stored);
        bench.offer(job("b"));
        assert_eq!(bench.send().id.as_str(), "b");
        // A time that a wrong clock has written is not waited for.
        let mut far = Bench::new(LIMITS);
        let mut wrong = job("c");
        wrong.not_before_ms = i64::MAX;
        far.offer(wrong);
        assert_eq!(far.wait(), Some(3_600 * SECOND));
    }

    proptest! {
        /// Every job that is accepted ends once, whatever its receiver answers, and the queue is
        /// never larger than its bound.
        #[test]
        fn every_job_ends_once(steps in vec((0_u8..8, 0_u64..400), 1..120)) {
            let mut bench = Bench::new(QueueLimits { concurrency: 2, ..LIMITS });
            let (mut open, mut in_flight) = (HashSet::new(), Vec::new());
            let ended = |open: &mut HashSet<JobId>, id: &JobId| {
                prop_assert!(open.remove(id), "{id:?} ended twice");
                Ok(())
            };
            for (number, (kind, seconds)) in steps.into_iter().enumerate() {
                match kind {
                    0 | 1 => {
                        let job = job(&format!("j{number}"));
                        let id = job.id.clone();
                        if bench.offer(job) == Offer::Queued {
                            open.insert(id);
                        }
                    }
                    2 => bench.at += u32::try_from(seconds).unwrap() * SECOND,
                    3..6 => match bench.queue.next(bench.now()) {
                        Step::Send(job) => in_flight.push(*job),
                        Step::End(job, _) => ended(&mut open, &job.id)?,
                        Step::Wait(at) => prop_assert!(at > bench.now().instant),
                        Step::Idle => {}
                    },
                    _ => if let Some(job) = in_flight.pop() {
                        let reason = String::new();
                        let after = Some(Duration::from_millis(seconds));
                        let outcome = match seconds % 6 {
                            0 => Outcome::Delivered,
                            1 => Outcome::Permanent { reason },
                            2 => Outcome::Paused { reason },
                            3 => Outcome::Misconfigured { reason },
                            4 => Outcome::Retry { after, reason },
                            _ => Outcome::Retry { after: None, reason },
                        };
                        let done = bench.finish(job, outcome);
                        if done.result.is_ok() {
                            ended(&mut open, &done.job.id)?;
                        }
                    },
                }
                prop_assert!(in_flight.len() <= 2 && open.len() <= LIMITS.jobs);
                prop_assert_eq!(open.len(), bench.queue.known.len());
            }
            for job in in_flight {
                bench.queue.drop_job(&job);
                ended(&mut open, &job.id)?;
            }
            // All that is left is too old one day.
            bench.at += LIMITS.max_age * 3;
            while let Step::End(job, _) = bench.queue.next(bench.now()) {
                ended(&mut open, &job.id)?;
            }
            prop_assert!(open.is_empty() && bench.queue.is_done(bench.now()));
        }
    }
}
