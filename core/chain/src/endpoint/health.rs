//! How an endpoint did of late: which to ask first, and when to leave one alone.

use std::time::Duration;

use tokio::time::Instant;

use super::Failure;

/// The pause after a failure, doubled with each further one up to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LAST_PAUSE: Duration = Duration::from_secs(30);

/// A limit that is not told how long it lasts: likewise.
const FIRST_LIMIT: Duration = Duration::from_secs(1);
const LAST_LIMIT: Duration = Duration::from_secs(60);

/// Who serves another chain is asked again only in case that this was mended.
const WRONG_CHAIN_PAUSE: Duration = Duration::from_secs(30);

/// A limit, or a wrong answer, is forgotten after this time without another.
const MEMORY: Duration = Duration::from_secs(120);

/// How much the newest call counts.
const WEIGHT: f64 = 0.2;

/// How an endpoint did of late.
#[derive(Debug, Clone)]
pub(super) struct Health {
    latency_ms: f64,
    /// The share of calls that failed, the newest counting most.
    errors: f64,
    failures: u32,
    rest_until: Option<Instant>,
    limits: Strikes,
    lies: Strikes,
    /// Until when it rests whatever it answers meanwhile.
    barred_until: Option<Instant>,
}

/// What an answer in between does not make good: who limits, or lies, answers other calls.
#[derive(Debug, Clone, Copy, Default)]
struct Strikes {
    count: u32,
    forgotten: Option<Instant>,
}

impl Strikes {
    /// One more. Gives how many there were before.
    fn add(&mut self, now: Instant) -> u32 {
        if self.forgotten.is_none_or(|at| at <= now) {
            self.count = 0;
        }
        self.forgotten = Some(now + MEMORY);
        let before = self.count;
        self.count = self.count.saturating_add(1);
        before
    }
}

impl Default for Health {
    fn default() -> Self {
        Self {
            latency_ms: 100.0,
            errors: 0.0,
            failures: 0,
            rest_until: None,
            limits: Strikes::default(),
            lies: Strikes::default(),
            barred_until: None,
        }
    }
}

impl Health {
    /// A call was answered.
    pub(super) fn answered(&mut self, took: Duration) {
        self.latency_ms += WEIGHT * (took.as_secs_f64() * 1_000.0 - self.latency_ms);
        self.errors -= WEIGHT * self.errors;
        self.failures = 0;
        self.rest_until = None;
    }

    /// A call was not answered, or wrongly.
    pub(super) fn failed(&mut self, failure: &Failure, now: Instant) {
        let doubled = |first: Duration, last: Duration, before: u32| {
            first.saturating_mul(1 << before.min(10)).min(last)
        };
        let is_barred = matches!(
            failure,
            Failure::Limited { .. } | Failure::Nonsense(_) | Failure::WrongChain { .. }
        );
        let pause = match failure {
            // The node did its work.
            Failure::Refused { .. } | Failure::Unsupported(_) | Failure::Missing(_) => return,
            Failure::Limited { after, .. } => after.map_or_else(
                || doubled(FIRST_LIMIT, LAST_LIMIT, self.limits.add(now)),
                |after| after.min(LAST_LIMIT),
            ),
            Failure::WrongChain { .. } => WRONG_CHAIN_PAUSE,
            Failure::Nonsense(_) => doubled(FIRST_PAUSE, LAST_PAUSE, self.lies.add(now)),
            Failure::Unreachable(_) | Failure::TimedOut(_) => {
                doubled(FIRST_PAUSE, LAST_PAUSE, self.failures)
            }
        };
        self.errors += WEIGHT * (1.0 - self.errors);
        self.failures = self.failures.saturating_add(1);
        let until = Some(now + pause);
        self.rest_until = self.rest_until.max(until);
        if is_barred {
            self.barred_until = self.barred_until.max(until);
        }
    }

    /// How long it is to be left alone.
    pub(super) fn rest(&self, now: Instant) -> Duration {
        self.rest_until
            .max(self.barred_until)
            .map_or(Duration::ZERO, |until| until.saturating_duration_since(now))
    }

    /// The less, the better.
    pub(super) fn cost(&self) -> f64 {
        self.latency_ms * (1.0 + 20.0 * self.errors)
    }

    /// The share of calls that were answered, between 0 and 1.
    pub(super) fn score(&self) -> f64 {
        1.0 - self.errors
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn rests_grow_to_a_bound_and_end_with_an_answer() {
        let (mut health, now) = (Health::default(), Instant::now());
        let broken = Failure::Unreachable("x".to_owned());
        let mut last = Duration::ZERO;
        for _ in 0..40 {
            health.failed(&broken, now);
            assert!(health.rest(now) >= last && health.rest(now) <= LAST_PAUSE);
            last = health.rest(now);
        }
        assert_eq!(last, LAST_PAUSE);
        assert!(health.score() < 0.1);
        health.answered(Duration::from_millis(5));
        assert_eq!(health.rest(now), Duration::ZERO);
    }

    #[tokio::test]
    async fn a_limit_is_kept_as_it_is_told() {
        let (mut health, now) = (Health::default(), Instant::now());
        let after = Some(Duration::from_secs(7));
        let message = String::new();
        health.failed(&Failure::Limited { after, message }, now);
        assert_eq!(health.rest(now), Duration::from_secs(7));
    }

    #[tokio::test]
    async fn an_answer_in_between_ends_no_limit_and_forgives_no_lie() {
        for failure in [
            Failure::Limited {
                after: None,
                message: String::new(),
            },
            Failure::Nonsense(String::new()),
        ] {
            let (mut health, mut now) = (Health::default(), Instant::now());
            let mut last = Duration::ZERO;
            for _ in 0..4 {
                health.failed(&failure, now);
                health.answered(Duration::from_millis(5));
                assert!(health.rest(now) > last, "{failure}");
                last = health.rest(now);
                now += last;
            }
            now += MEMORY;
            assert_eq!(health.rest(now), Duration::ZERO);
            health.failed(&failure, now);
            assert!(health.rest(now) <= FIRST_LIMIT, "{failure}");
        }
    }

    #[tokio::test]
    async fn who_fails_costs_more_than_who_is_slow() {
        let now = Instant::now();
        let (mut slow, mut failing) = (Health::default(), Health::default());
        for _ in 0..20 {
            slow.answered(Duration::from_millis(300));
            failing.answered(Duration::from_millis(30));
            failing.failed(&Failure::TimedOut(Duration::from_secs(1)), now);
        }
        assert!(slow.cost() < failing.cost());
        // A refusal is an answer.
        let before = slow.cost();
        slow.failed(&Failure::Missing(String::new()), now);
        assert!((slow.cost() - before).abs() < f64::EPSILON);
    }
}
