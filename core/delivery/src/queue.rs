//! Endpoint queue: decides which job of one endpoint is sent when. A state machine without I/O.
//!
//! # Pauses
//! Two pauses follow a failed attempt, and both must be over:
//! - The job's own, by its attempts. One message that always fails does not hold up the others.
//! - The endpoint's, by its consecutive failures. An endpoint that is down is tried by one job at
//!   a time, not by all of them. A job without an attempt so far waits for [`PROBE_PAUSE`] of it
//!   at most: the failed messages may be at fault, and the endpoint may work. Each job is such a
//!   probe once, so probes are no more requests than without a failure.
//!
//! A receiver may refuse one message for now ([`Outcome::RetryMessage`]): only the first pause
//! follows.
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
//! - While the endpoint fails, messages without an attempt are tried first, the urgent ones of
//!   them before the others; then those with attempts, in the same way.
//! - The SMTP server is an endpoint of all users ([`JobOrder::ByUser`]): urgent mails without an
//!   attempt are sent first, and then one mail of each user in turn, so a user with many mails
//!   holds up no other. Each user's mails keep their order. The turns are those of start-time fair
//!   queueing: a job's round is one more than that of the user's job before it, and than the
//!   present round.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use tidewire_stream::UserId;
use tokio::time::Instant;

use crate::{
    Deferral, EndpointState, Job, JobEnd, JobId, JobOrder, Outcome, QueueLimits, ledger::Owner,
};

/// Longest pause of a failing endpoint before a job without an attempt, if `first_pause` is not
/// longer.
const PROBE_PAUSE: Duration = Duration::from_secs(10);

/// Messages in a row that the endpoint refuses for now, from which it gets one a second: a server
/// that refuses all of them so is not sent all of them at once.
const REFUSED_IN_A_ROW: u32 = 10;

/// The pause after each further one.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);

/// Pause of an endpoint that refuses this server. It is tried again then.
const REFUSAL_PAUSE: Duration = Duration::from_secs(60 * 60);

/// Pause of an endpoint whose channel is misconfigured.
const MISCONFIGURED_PAUSE: Duration = Duration::from_secs(60);

/// Time between two looks at messages that have expired by a clock that is in doubt.
const HELD: Duration = Duration::from_secs(60);

/// Longest time for which a stored job's time is believed: the clock may have been wrong.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 60 * 60);

/// The current time, on both clocks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    /// For pauses.
    pub(crate) instant: Instant,
    /// For times of the store, in milliseconds since the Unix epoch.
    pub(crate) ms: i64,
    /// For ages. Earlier than `ms` while the clock is in doubt.
    pub(crate) retention_ms: i64,
}

/// Place of a job in the order: when it is due, and when it was offered.
type Place = (Instant, u64);

/// A job that is not in flight.
#[derive(Debug)]
struct Ready {
    job: Job,
    /// The turn of its user, with [`JobOrder::ByUser`].
    round: u64,
}

/// The jobs of one endpoint.
#[derive(Debug)]
pub(crate) struct EndpointQueue {
    limits: QueueLimits,
    ready: BTreeMap<Place, Ready>,
    /// All jobs, those in flight too.
    known: HashSet<JobId>,
    in_flight: usize,
    offered: u64,
    /// No attempt begins before.
    open_at: Instant,
    /// No attempt of a job without one so far begins before.
    probe_at: Instant,
    /// Consecutive failures.
    failures: u32,
    /// Consecutive messages that the endpoint refused for now.
    refused: u32,
    /// The present turn.
    round: u64,
    /// The newest turn of each user with jobs here.
    rounds: HashMap<UserId, u64>,
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
    /// There is no room, or older ones wait in the store. The job stays in the store. Offer it
    /// again on [`JobStore::has_room`](crate::JobStore::has_room), and also every few seconds:
    /// nothing announces that a channel has room again.
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
            probe_at: now.instant,
            failures: 0,
            refused: 0,
            round: 0,
            rounds: HashMap::new(),
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

    /// Whether a job is in the queue or in flight.
    pub(crate) fn knows(&self, job: &Job) -> bool {
        self.known.contains(&job.id)
    }

    /// The number of places.
    pub(crate) fn places(&self) -> usize {
        self.limits.jobs
    }

    /// Whether the queue has no place left.
    pub(crate) fn is_full(&self) -> bool {
        self.known.len() >= self.limits.jobs
    }

    /// Whether half of the places are taken: jobs that are not due leave.
    pub(crate) fn is_pressed(&self) -> bool {
        self.known.len() * 2 >= self.limits.jobs
    }

    /// Whether the queue has no job.
    pub(crate) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Whether the newest attempt failed.
    pub(crate) fn is_failing(&self) -> bool {
        self.failures > 0
    }

    /// Whether an attempt of a job is due, if it were here. A job without an attempt so far
    /// always is: it is the next probe of an endpoint that pauses.
    pub(crate) fn is_due(&self, job: &Job, now: Now) -> bool {
        job.not_before_ms <= now.ms && (job.attempts == 0 || self.open_at <= now.instant)
    }

    /// Takes out jobs that are not due, until `keep` are left: the store offers them again. The
    /// urgent ones stay, and of the others those that are due first.
    pub(crate) fn shed(&mut self, keep: usize, now: Now) -> Vec<Job> {
        let mut surplus = self.known.len().saturating_sub(keep);
        let mut places = Vec::new();
        for (place, Ready { job, .. }) in self.ready.iter().rev() {
            if surplus == 0 {
                break;
            }
            if !job.is_urgent() && !self.is_due(job, now) {
                places.push(*place);
                surplus -= 1;
            }
        }
        places
            .into_iter()
            .filter_map(|place| self.remove(place))
            .collect()
    }

    /// Takes out an owner's last job that is not in flight.
    pub(crate) fn displace(&mut self, owner: &Owner) -> Option<Job> {
        let mut last = self.ready.iter().rev();
        let last = last.find(|(_, ready)| ready.job.owner() == *owner);
        let place = last.map(|(place, _)| *place)?;
        self.remove(place)
    }

    /// The next step.
    pub(crate) fn next(&mut self, now: Now) -> Step {
        self.hold_expired(now);
        let Some((place, _)) = self.ready.first_key_value() else {
            return match self.known.is_empty() && self.open_at > now.instant {
                true => Step::Wait(self.open_at),
                false => Step::Idle,
            };
        };
        let place = *place;
        // A message that is too old ends, also while the endpoint is paused.
        if let Some(step) = self.end_if_old(place, now) {
            return step;
        }
        let concurrency = match self.is_failing() {
            true => 1,
            false => self.limits.concurrency,
        };
        if self.in_flight >= concurrency {
            return Step::Idle;
        }
        let Some(place) = self.choose(now) else {
            return Step::Wait(self.next_due().min(self.next_end(now)));
        };
        if let Some(step) = self.end_if_old(place, now) {
            return step;
        }
        match self.ready.remove(&place) {
            Some(Ready { job, round }) => {
                self.in_flight += 1;
                self.open_at = now.instant + self.limits.interval;
                self.probe_at = self.open_at;
                // One that was sent before its turn moves nobody else's.
                if !job.goes_first() && !self.is_failing() {
                    self.round = self.round.max(round);
                }
                Step::Send(Box::new(job))
            }
            None => Step::Idle,
        }
    }

    /// The job that is sent next, if one is due.
    fn choose(&self, now: Now) -> Option<Place> {
        let due = self.ready.range(..=(now.instant, u64::MAX));
        let mut due = due.filter(|(_, ready)| self.opening(&ready.job) <= now.instant);
        let best = match (self.is_failing(), self.limits.order) {
            (false, JobOrder::Offered) => due.next(),
            (false, JobOrder::ByUser) => {
                due.min_by_key(|(place, Ready { job, round })| (!job.goes_first(), *round, **place))
            }
            (true, _) => due.min_by_key(|(place, Ready { job, round })| {
                let attempts = job.attempts;
                (attempts > 0, !job.is_urgent(), attempts, *round, **place)
            }),
        };
        best.map(|(place, _)| *place)
    }

    /// When the endpoint's pause is over for a job.
    fn opening(&self, job: &Job) -> Instant {
        match job.attempts {
            0 => self.probe_at,
            _ => self.open_at,
        }
    }

    /// When the first job is due, if none is yet.
    fn next_due(&self) -> Instant {
        let due = self
            .ready
            .iter()
            .map(|(place, Ready { job, .. })| place.0.max(self.opening(job)));
        due.min().unwrap_or(self.open_at)
    }

    /// Lets messages wait that have expired by a clock that is in doubt: they are not sent, and
    /// not ended either.
    fn hold_expired(&mut self, now: Now) {
        if now.retention_ms >= now.ms {
            return;
        }
        let due = self.ready.range(..=(now.instant, u64::MAX));
        let held = due.filter(|(_, ready)| {
            let message = &ready.job.message;
            message.is_expired(now.ms) && !message.is_expired(now.retention_ms)
        });
        let held: Vec<_> = held.map(|(place, _)| *place).collect();
        for place in held {
            if let Some(ready) = self.ready.remove(&place) {
                self.ready.insert((now.instant + HELD, self.offered), ready);
                self.offered += 1;
            }
        }
    }

    /// Ends a job that is too old.
    fn end_if_old(&mut self, place: Place, now: Now) -> Option<Step> {
        let end = self.end_by_age(&self.ready.get(&place)?.job, now)?;
        let job = self.remove(place)?;
        Some(Step::End(Box::new(job), end))
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
                (self.failures, self.refused) = (0, 0);
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
                self.refused = self.refused.saturating_add(1);
                if self.refused > REFUSED_IN_A_ROW {
                    self.close(now, REFUSED_PAUSE, REFUSED_PAUSE);
                }
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
                let longest = self.limits.first_pause.max(PROBE_PAUSE);
                let longest = after.map_or(longest, |after| after.max(longest));
                self.close(now, pause, pause.min(longest));
                if attempts >= self.limits.attempts {
                    return self.end(job, JobEnd::Dead { attempts, reason }, Some(state));
                }
                return self.defer(job, attempts, own, reason, state, now);
            }
        };
        // A refusal is no attempt: the message waits until it is too old.
        self.close(now, pause, pause);
        self.defer(job, attempts, pause, reason, state, now)
    }

    /// Ends a job in flight without an attempt.
    pub(crate) fn drop_job(&mut self, job: &Job) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.forget(&job.id);
    }

    /// Takes out all jobs that are not in flight, because the endpoint is gone.
    pub(crate) fn drain(&mut self) -> Vec<Job> {
        let ready = std::mem::take(&mut self.ready).into_values();
        let jobs: Vec<_> = ready.map(|ready| ready.job).collect();
        for job in &jobs {
            self.forget(&job.id);
        }
        jobs
    }

    fn insert(&mut self, job: Job, due: Instant) {
        let place = (due, self.offered);
        self.offered += 1;
        self.known.insert(job.id.clone());
        let round = match self.limits.order {
            JobOrder::Offered => 0,
            JobOrder::ByUser => self.next_round(&job.message.user),
        };
        self.ready.insert(place, Ready { job, round });
    }

    /// The turn of a user's next job.
    fn next_round(&mut self, user: &UserId) -> u64 {
        let newest = self.rounds.get(user).copied().unwrap_or(0);
        let round = newest.max(self.round) + 1;
        self.rounds.insert(user.clone(), round);
        round
    }

    fn remove(&mut self, place: Place) -> Option<Job> {
        let Ready { job, .. } = self.ready.remove(&place)?;
        self.forget(&job.id);
        Some(job)
    }

    fn forget(&mut self, id: &JobId) {
        self.known.remove(id);
        // Turns that are over order nothing any more. At twice the size, so that each job pays
        // for few of them.
        if self.rounds.len() > 2 * self.known.len() {
            let present = self.round;
            self.rounds.retain(|_, round| *round > present);
        }
    }

    fn close(&mut self, now: Now, pause: Duration, probe: Duration) {
        self.open_at = self.open_at.max(now.instant + pause);
        self.probe_at = self.probe_at.max(now.instant + probe);
    }

    /// A pause with full jitter.
    fn pause(&self, failures: u32, chance: f64) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        let longest = self.limits.first_pause.saturating_mul(1 << doublings);
        let longest = longest.min(self.limits.longest_pause);
        longest.mul_f64(chance.clamp(0.0, 1.0))
    }

    fn end(&mut self, job: Job, end: JobEnd, state: Option<EndpointState>) -> Consequence {
        self.forget(&job.id);
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
        // A step of the clock back must not lengthen the pause.
        let not_before_ms = now.retention_ms.saturating_add(wait);
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
        if job.message.is_expired(now.retention_ms) {
            return Some(JobEnd::Expired);
        }
        (self.dead_ms(job) <= now.retention_ms).then(|| {
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
        let ends = self.ready.first_key_value().map(|(_, Ready { job, .. })| {
            let dead_ms = self.dead_ms(job);
            job.message.expires_ms.unwrap_or(dead_ms).min(dead_ms)
        });
        let left = ends.unwrap_or(i64::MAX);
        let left = left.saturating_sub(now.retention_ms).max(0);
        now.instant + Duration::from_millis(left.unsigned_abs()).min(LONGEST_WAIT)
    }
}

#[cfg(test)]
mod tests;
