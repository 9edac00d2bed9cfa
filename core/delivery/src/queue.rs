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
    /// There is no room. The job stays in the store. Offer it again on
    /// [`JobStore::has_room`](crate::JobStore::has_room), and also every few seconds: nothing
    /// announces that all endpoints together have room again.
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
            Outcome::RetryMessage { reason } => {
                // The endpoint answered: it works, and other messages do not wait.
                self.failures = 0;
                attempts = attempts.saturating_add(1);
                let state = EndpointState::Working;
                if attempts >= self.limits.attempts {
                    return self.end(job, JobEnd::Dead { attempts, reason }, Some(state));
                }
                let pause = self.pause(attempts, chance());
                return self.defer(job, attempts, pause, reason, state, now);
            }
            Outcome::Gone { reason } => {
                attempts = attempts.saturating_add(1);
                return self.end(job, JobEnd::Gone { attempts, reason }, None);
            }
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
mod tests;
