//! Tests of a queue: pauses, bounds, ends, and a random model.

use proptest::{collection::vec, prelude::*};
use tidewire_proto::v1::{Notification, Priority};
use tidewire_stream::UserId;

use super::*;
use crate::{Content, MessageId, OutgoingMessage, Target};

const SECOND: Duration = Duration::from_secs(1);

/// The time at which every message was created, in milliseconds.
const CREATED_MS: i64 = 1_000_000;

const LIMITS: QueueLimits = QueueLimits {
    jobs: 4,
    order: JobOrder::Offered,
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
    /// By how much the clock is ahead of the right one, of which the queue is in doubt.
    ahead_ms: i64,
}

impl Bench {
    fn new(limits: QueueLimits) -> Self {
        let start = Instant::now();
        let now = Now {
            instant: start,
            ms: CREATED_MS,
            retention_ms: CREATED_MS,
        };
        Self {
            queue: EndpointQueue::new(limits, now),
            start,
            at: Duration::ZERO,
            ahead_ms: 0,
        }
    }

    fn now(&self) -> Now {
        let retention_ms = CREATED_MS + i64::try_from(self.at.as_millis()).unwrap();
        Now {
            instant: self.start + self.at,
            ms: retention_ms + self.ahead_ms,
            retention_ms,
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

/// A clock that is in doubt ends nothing by its age, and sends nothing that has expired by it.
#[test]
fn a_clock_that_is_ahead_ends_no_message() {
    let mut bench = Bench::new(LIMITS);
    let mut expiring = job("expiring");
    expiring.message.expires_ms = Some(CREATED_MS + 3_600_000);
    bench.offer(expiring);
    bench.offer(job("a"));
    bench.ahead_ms = 400 * 24 * 3_600_000;
    let failed = bench.fail(None);
    assert_eq!(failed.job.id.as_str(), "a");
    // Its pause is that of the right clock.
    let pause_ms = failed.result.unwrap_err().not_before_ms - CREATED_MS;
    assert_eq!(pause_ms, 2_000);
    bench.at += 2 * SECOND;
    let again = bench.send();
    assert_eq!(again.id.as_str(), "a");
    bench.finish(again, Outcome::Delivered);
    assert_eq!(bench.wait(), Some(58 * SECOND));
    bench.ahead_ms = 0;
    bench.at += 58 * SECOND;
    assert_eq!(bench.send().id.as_str(), "expiring");
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

fn job_of(id: &str, user: &str, priority: Priority) -> Job {
    let mut job = job(id);
    job.message.user = UserId::new(user);
    if let Content::Notification(notification) = &mut job.message.content {
        notification.priority = priority.into();
    }
    job
}

#[test]
fn messages_that_fail_do_not_hold_up_a_good_one() {
    let mut bench = Bench::new(QueueLimits {
        jobs: 30,
        attempts: 50,
        longest_pause: 1_800 * SECOND,
        ..LIMITS
    });
    for number in 0..12 {
        bench.offer(job(&format!("bad{number:02}")));
    }
    for _ in 0..12 {
        bench.at = bench.at.max(bench.queue.probe_at - bench.start);
        bench.fail(None);
    }
    assert_eq!(bench.queue.failures, 12);
    // The endpoint pauses for half an hour, but for those without an attempt.
    bench.offer(job_of("good", "ada", Priority::High));
    bench.offer(job_of("urgent", "ada", Priority::Urgent));
    assert_eq!(bench.wait(), Some(PROBE_PAUSE));
    bench.at += PROBE_PAUSE;
    let sent = bench.send();
    assert_eq!(sent.id.as_str(), "urgent");
    bench.finish(sent, Outcome::Delivered);
    // It works: the order is that of the due times, until one fails again.
    assert_eq!(bench.fail(None).job.id.as_str(), "bad00");
    bench.at += 2 * SECOND;
    let sent = bench.send();
    assert_eq!(sent.id.as_str(), "good");
}

#[test]
fn a_message_that_is_refused_for_now_pauses_alone() {
    let mut bench = Bench::new(QueueLimits { jobs: 30, ..LIMITS });
    for number in 0..REFUSED_IN_A_ROW + 2 {
        bench.offer(job(&format!("bad{number:02}")));
    }
    let reason = "450 greylisted".to_owned();
    for _ in 0..=REFUSED_IN_A_ROW {
        let sent = bench.send();
        let refused = bench.finish(
            sent,
            Outcome::RetryMessage {
                reason: reason.clone(),
            },
        );
        let deferral = refused.result.unwrap_err();
        assert_eq!((deferral.attempts, refused.changed), (1, None));
    }
    // A server that refuses all of them so gets one a second.
    assert_eq!(bench.wait(), Some(REFUSED_PAUSE));
    bench.at += REFUSED_PAUSE;
    let sent = bench.send();
    bench.finish(sent, Outcome::Delivered);
    assert_eq!(bench.wait(), Some(SECOND), "the first one's pause of 2 s");
}

#[test]
fn users_take_turns_and_urgent_goes_first() {
    let mut bench = Bench::new(QueueLimits {
        jobs: 30,
        order: JobOrder::ByUser,
        ..LIMITS
    });
    for (id, user, priority) in [
        ("e1", "eve", Priority::High),
        ("e2", "eve", Priority::High),
        ("e3", "eve", Priority::High),
        ("a1", "ada", Priority::Low),
        ("a2", "ada", Priority::High),
        ("b1", "bob", Priority::Urgent),
    ] {
        bench.offer(job_of(id, user, priority));
    }
    let send = |bench: &mut Bench| {
        let sent = bench.send();
        let id = sent.id.as_str().to_owned();
        bench.finish(sent, Outcome::Delivered);
        id
    };
    let mut order: Vec<_> = (0..4).map(|_| send(&mut bench)).collect();
    // A newcomer waits for one of each.
    bench.offer(job_of("c1", "cleo", Priority::High));
    order.extend((0..3).map(|_| send(&mut bench)));
    assert_eq!(order, ["b1", "e1", "a1", "e2", "a2", "e3", "c1"]);
    assert!(bench.queue.rounds.is_empty(), "nobody has jobs");
}

#[test]
fn jobs_that_are_not_due_leave_and_urgent_ones_stay() {
    let mut bench = Bench::new(QueueLimits { jobs: 30, ..LIMITS });
    for id in ["a", "b", "c"] {
        bench.offer(job(id));
    }
    bench.offer(job_of("urgent", "ada", Priority::Urgent));
    assert!(bench.queue.shed(0, bench.now()).is_empty(), "all are due");
    // The urgent one, because the endpoint fails, and `b`.
    for _ in 0..3 {
        bench.at = bench.at.max(bench.queue.probe_at - bench.start);
        bench.fail(None);
    }
    assert!(bench.queue.shed(4, bench.now()).is_empty());
    let shed = bench.queue.shed(0, bench.now());
    let ids: Vec<_> = shed.iter().map(|job| job.id.as_str()).collect();
    assert_eq!(ids, ["b", "a"], "`c` has no attempt so far");
    let bob = Owner::User(UserId::new("bob"));
    assert_eq!(bench.queue.displace(&bob), None);
    let ops = Owner::Webhook("ops".into());
    for _ in 0..2 {
        assert!(bench.queue.displace(&ops).is_some());
    }
    assert!(bench.queue.is_empty());
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
                    let mut job = job(&format!("j{number}"));
                    let expires_ms = bench.now().retention_ms + 500_000;
                    job.message.expires_ms = (seconds % 2 == 0).then_some(expires_ms);
                    let id = job.id.clone();
                    if bench.offer(job) == Offer::Queued {
                        open.insert(id);
                    }
                }
                2 if seconds < 40 => bench.ahead_ms = match bench.ahead_ms {
                    0 => 400 * 24 * 3_600_000,
                    _ => 0,
                },
                2 => bench.at += u32::try_from(seconds).unwrap() * SECOND,
                3..6 => match bench.queue.next(bench.now()) {
                    Step::Send(job) => {
                        prop_assert!(!job.message.is_expired(bench.now().ms));
                        in_flight.push(*job);
                    }
                    Step::End(job, end) => {
                        let age_ms = bench.now().retention_ms - CREATED_MS;
                        let is_old = age_ms >= i64::try_from(LIMITS.max_age.as_millis()).unwrap();
                        prop_assert_eq!(is_old || end == JobEnd::Expired, true);
                        prop_assert!(is_old || job.message.is_expired(bench.now().retention_ms));
                        ended(&mut open, &job.id)?;
                    }
                    Step::Wait(at) => prop_assert!(at > bench.now().instant),
                    Step::Idle => {}
                },
                _ => if let Some(job) = in_flight.pop() {
                    let reason = String::new();
                    let after = Some(Duration::from_millis(seconds));
                    let outcome = match seconds % 7 {
                        0 => Outcome::Delivered,
                        1 => Outcome::Permanent { reason },
                        2 => Outcome::Paused { reason },
                        3 => Outcome::Misconfigured { reason },
                        4 => Outcome::Retry { after, reason },
                        5 => Outcome::RetryMessage { reason },
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
        bench.ahead_ms = 0;
        while let Step::End(job, _) = bench.queue.next(bench.now()) {
            ended(&mut open, &job.id)?;
        }
        prop_assert!(open.is_empty() && bench.queue.is_done(bench.now()));
    }
}
