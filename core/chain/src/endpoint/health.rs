//! Endpoint health: ranks endpoints for the next call, and makes failing ones back off.
//!
//! The endpoint with the lowest cost is called first: `latency × (1 + 20 × error rate)`. Both are
//! moving averages, in which the newest call has a weight of 20 %.
//!
//! | failure | back-off |
//! |---|---|
//! | unreachable, timed out, trouble with every call of a request | 250 ms, doubled with each one in a row, at most 30 s; a response ends it |
//! | invalid response | the same, but a response does not end it |
//! | rate limit | as long as the endpoint demands, else 1 s, doubled each time; at most 60 s; a response does not end it |
//! | another chain | 30 s; a response does not end it |
//!
//! # Example
//! An endpoint returns an invalid block and then a valid head. It still backs off for 250 ms,
//! and for 500 ms after the next invalid block. After 120 s without one, counting restarts.

use std::time::Duration;

use tidewire_stream::Backoff;
use tokio::time::Instant;

use super::Failure;

/// The back-off after a failure. It doubles with each further one in a row.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LAST_PAUSE: Duration = Duration::from_secs(30);

/// The back-off after a rate limit without a duration. It doubles too.
const FIRST_LIMIT: Duration = Duration::from_secs(1);
const LAST_LIMIT: Duration = Duration::from_secs(60);

/// The back-off of an endpoint that serves another chain. The operator may correct that.
const WRONG_CHAIN_PAUSE: Duration = Duration::from_secs(30);

/// The time without another strike after which a strike is forgotten.
const MEMORY: Duration = Duration::from_secs(120);

/// The weight of the newest call in the moving averages.
const WEIGHT: f64 = 0.2;

/// The recent performance of one endpoint.
#[derive(Debug)]
pub(super) struct Health {
    latency_ms: f64,
    /// The moving average of the share of failed calls, 0 to 1.
    error_rate: f64,
    /// The pauses after failures in a row.
    backoff: Backoff,
    /// The end of the back-off that a response ends early.
    backoff_until: Option<Instant>,
    rate_limits: Strikes,
    invalid_responses: Strikes,
    /// The end of the back-off that a response does not end.
    suspended_until: Option<Instant>,
}

/// The pauses after offences that a successful call does not reset. A node that limits some calls,
/// or returns invalid blocks, still responds to others.
#[derive(Debug)]
struct Strikes {
    backoff: Backoff,
    forget_at: Option<Instant>,
}

impl Strikes {
    fn new(first: Duration, longest: Duration) -> Self {
        Self {
            backoff: Backoff::new(first, longest),
            forget_at: None,
        }
    }

    /// Adds a strike, and returns the pause after it.
    fn next_pause(&mut self, now: Instant) -> Duration {
        if self.forget_at.is_none_or(|at| at <= now) {
            self.backoff.reset();
        }
        self.forget_at = Some(now + MEMORY);
        self.backoff.next_pause()
    }
}

impl Default for Health {
    fn default() -> Self {
        Self {
            latency_ms: 100.0,
            error_rate: 0.0,
            backoff: Backoff::new(FIRST_PAUSE, LAST_PAUSE),
            backoff_until: None,
            rate_limits: Strikes::new(FIRST_LIMIT, LAST_LIMIT),
            invalid_responses: Strikes::new(FIRST_PAUSE, LAST_PAUSE),
            suspended_until: None,
        }
    }
}

impl Health {
    /// Records a successful call and its latency.
    pub(super) fn record_success(&mut self, latency: Duration) {
        self.latency_ms += WEIGHT * (latency.as_secs_f64() * 1_000.0 - self.latency_ms);
        self.error_rate -= WEIGHT * self.error_rate;
        self.backoff.reset();
        self.backoff_until = None;
    }

    /// Records a failed call.
    pub(super) fn record_failure(&mut self, failure: &Failure, now: Instant) {
        let is_suspended = matches!(
            failure,
            Failure::RateLimited { .. } | Failure::Invalid(_) | Failure::WrongChain { .. }
        );
        let special = match failure {
            // The node works; it only cannot serve this call.
            Failure::Refused { .. }
            | Failure::Unsupported(_)
            | Failure::NotFound(_)
            | Failure::Incomplete => return,
            Failure::RateLimited { after, .. } => Some(after.map_or_else(
                || self.rate_limits.next_pause(now),
                |after| after.clamp(FIRST_PAUSE, LAST_LIMIT),
            )),
            Failure::WrongChain { .. } => Some(WRONG_CHAIN_PAUSE),
            Failure::Invalid(_) => Some(self.invalid_responses.next_pause(now)),
            Failure::Unreachable(_) | Failure::TimedOut(_) | Failure::Unavailable { .. } => None,
        };
        // Every failure in a row lengthens the usual pause, even one with a pause of its own.
        let usual = self.backoff.next_pause();
        let pause = special.unwrap_or(usual);
        self.error_rate += WEIGHT * (1.0 - self.error_rate);
        let until = Some(now + pause);
        self.backoff_until = self.backoff_until.max(until);
        if is_suspended {
            self.suspended_until = self.suspended_until.max(until);
        }
    }

    /// The rest of the back-off; zero if there is none.
    pub(super) fn backoff(&self, now: Instant) -> Duration {
        self.backoff_until
            .max(self.suspended_until)
            .map_or(Duration::ZERO, |until| until.saturating_duration_since(now))
    }

    /// Whether the endpoint returned an invalid response that is not forgotten yet.
    pub(super) fn is_distrusted(&self, now: Instant) -> bool {
        self.invalid_responses.forget_at.is_some_and(|at| at > now)
    }

    /// The cost of a call, in milliseconds. The endpoint with the lowest cost is called first.
    pub(super) fn cost(&self) -> f64 {
        self.latency_ms * (1.0 + 20.0 * self.error_rate)
    }

    /// The share of calls that succeeded, 0 to 1.
    pub(super) fn score(&self) -> f64 {
        1.0 - self.error_rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_back_off_grows_to_a_bound_and_ends_with_a_response() {
        let (mut health, now) = (Health::default(), Instant::now());
        let broken = Failure::Unreachable("x".to_owned());
        let mut last = Duration::ZERO;
        for _ in 0..40 {
            health.record_failure(&broken, now);
            assert!(health.backoff(now) >= last && health.backoff(now) <= LAST_PAUSE);
            last = health.backoff(now);
        }
        assert_eq!(last, LAST_PAUSE);
        assert!(health.score() < 0.1);
        health.record_success(Duration::from_millis(5));
        assert_eq!(health.backoff(now), Duration::ZERO);
    }

    #[tokio::test]
    async fn the_back_off_of_a_rate_limit_lasts_as_long_as_the_node_asks() {
        let (mut health, now) = (Health::default(), Instant::now());
        let after = Some(Duration::from_secs(7));
        let message = String::new();
        health.record_failure(&Failure::RateLimited { after, message }, now);
        assert_eq!(health.backoff(now), Duration::from_secs(7));
    }

    #[tokio::test]
    async fn a_response_ends_neither_a_rate_limit_nor_the_back_off_of_an_invalid_response() {
        for failure in [
            Failure::RateLimited {
                after: None,
                message: String::new(),
            },
            Failure::Invalid(String::new()),
        ] {
            let (mut health, mut now) = (Health::default(), Instant::now());
            let mut last = Duration::ZERO;
            for _ in 0..4 {
                health.record_failure(&failure, now);
                health.record_success(Duration::from_millis(5));
                assert!(health.backoff(now) > last, "{failure}");
                last = health.backoff(now);
                now += last;
            }
            now += MEMORY;
            assert_eq!(health.backoff(now), Duration::ZERO);
            health.record_failure(&failure, now);
            assert!(health.backoff(now) <= FIRST_LIMIT, "{failure}");
        }
    }

    #[tokio::test]
    async fn a_failing_endpoint_costs_more_than_a_slow_one() {
        let now = Instant::now();
        let (mut slow, mut failing) = (Health::default(), Health::default());
        for _ in 0..20 {
            slow.record_success(Duration::from_millis(300));
            failing.record_success(Duration::from_millis(30));
            failing.record_failure(&Failure::TimedOut(Duration::from_secs(1)), now);
        }
        assert!(slow.cost() < failing.cost());
        // A refusal does not count as a failure.
        let before = slow.cost();
        slow.record_failure(&Failure::NotFound(String::new()), now);
        assert!((slow.cost() - before).abs() < f64::EPSILON);
    }
}
