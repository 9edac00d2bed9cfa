//! Heads by endpoint: the newest head that each one reported, and when endpoints are polled.
//!
//! An endpoint with a subscription pushes its heads; one without is polled. Polling costs the
//! operator calls, so it slows down while pushed heads advance the chain in time. It returns
//! to full speed when a pushed head is overdue or endpoints disagree.
//!
//! A report expires some time after its endpoint failed: an endpoint that is gone supports no head.
//! An endpoint is in trouble while it reports no head, and while its head cannot be followed.
//!
//! # Example
//! With a block every 12 s, a polled endpoint is called every 4 s. While pushed heads arrive in
//! time it is called once a minute. If no pushed head advances the chain for 18 s, it is called
//! every 4 s again.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until},
};

use crate::BlockRef;

/// The way in which an endpoint reported a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeadSource {
    /// By a subscription.
    Subscription,
    /// In response to a call.
    Poll,
}

/// The newest head of each endpoint.
#[derive(Debug)]
pub(crate) struct Heads {
    by_endpoint: Mutex<Vec<Entry>>,
    /// The time after a failure for which the head before it still counts. A single failure is no
    /// reason to leave a branch.
    grace: Duration,
    changed: Notify,
    /// When a pushed head last advanced the chain. None: polling at full speed is due.
    last_push: watch::Sender<Option<Instant>>,
}

/// The head of one endpoint, and its troubles.
#[derive(Debug, Clone, Default)]
struct Entry {
    report: Option<(BlockRef, HeadSource)>,
    /// Since when the endpoint reports no head.
    silent: Option<HeadTrouble>,
    /// Since when its heads cannot be followed.
    unusable: Option<HeadTrouble>,
}

/// The start of a trouble, and its newest reason.
#[derive(Debug, Clone)]
struct HeadTrouble {
    since: Instant,
    reason: String,
}

impl HeadTrouble {
    /// Goes on with a new reason.
    fn go_on(trouble: &mut Option<Self>, reason: &str) {
        let since = trouble
            .as_ref()
            .map_or_else(Instant::now, |before| before.since);
        let reason = reason.to_owned();
        *trouble = Some(Self { since, reason });
    }
}

impl Heads {
    /// A table of this number of endpoints, none of which has reported a head. A head counts for
    /// `grace` after its endpoint failed.
    pub(crate) fn new(endpoints: usize, grace: Duration) -> Self {
        let mut entry = Entry::default();
        HeadTrouble::go_on(&mut entry.silent, "no head yet");
        Self {
            by_endpoint: Mutex::new(vec![entry; endpoints]),
            grace,
            changed: Notify::new(),
            last_push: watch::channel(None).0,
        }
    }

    /// Records the head of an endpoint.
    pub(crate) fn report(&self, endpoint: usize, head: BlockRef, source: HeadSource) {
        if let Some(entry) = self.by_endpoint.lock().get_mut(endpoint) {
            entry.report = Some((head, source));
            entry.silent = None;
        }
        self.changed.notify_one();
    }

    /// Records that an endpoint reports no head: a call failed, or returned none.
    pub(crate) fn report_silence(&self, endpoint: usize, reason: &str) {
        if let Some(entry) = self.by_endpoint.lock().get_mut(endpoint) {
            HeadTrouble::go_on(&mut entry.silent, reason);
        }
        self.changed.notify_one();
    }

    /// Records that the head of an endpoint cannot be followed.
    pub(super) fn report_unusable(&self, endpoint: usize, reason: &str) {
        if let Some(entry) = self.by_endpoint.lock().get_mut(endpoint) {
            HeadTrouble::go_on(&mut entry.unusable, reason);
        }
    }

    /// Records that the head of an endpoint is on the chain.
    pub(super) fn report_usable(&self, endpoint: usize) {
        if let Some(entry) = self.by_endpoint.lock().get_mut(endpoint) {
            entry.unusable = None;
        }
    }

    /// Records that the chain has a new block: the heads are judged anew.
    pub(super) fn record_progress(&self) {
        for entry in self.by_endpoint.lock().iter_mut() {
            entry.unusable = None;
        }
    }

    /// The time since which an endpoint has no head that can be followed, and the reason. None while
    /// it has one.
    pub(crate) fn trouble(&self, endpoint: usize) -> Option<(Duration, String)> {
        let entries = self.by_endpoint.lock();
        let entry = entries.get(endpoint)?;
        let trouble = entry.silent.as_ref().or(entry.unusable.as_ref())?;
        Some((trouble.since.elapsed(), trouble.reason.clone()))
    }

    /// The head of each endpoint, by its index. None of one that is gone.
    pub(crate) fn all(&self) -> Vec<Option<BlockRef>> {
        let entries = self.by_endpoint.lock();
        let head = |entry: &Entry| {
            let silent = entry.silent.as_ref();
            let is_gone = silent.is_some_and(|silent| silent.since.elapsed() >= self.grace);
            entry.report.filter(|_| !is_gone).map(|(head, _)| head)
        };
        entries.iter().map(head).collect()
    }

    /// Waits for the next report of any endpoint. A report since the last wait ends the wait
    /// at once.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Records that the chain advanced to the head of this endpoint.
    pub(crate) fn record_advance(&self, endpoint: usize) {
        let entries = self.by_endpoint.lock();
        let report = entries.get(endpoint).and_then(|entry| entry.report);
        drop(entries);
        if report.is_some_and(|(_, source)| source == HeadSource::Subscription) {
            self.last_push.send_replace(Some(Instant::now()));
        }
    }

    /// Makes polling due at once: endpoints disagree, and polled heads may be old.
    pub(crate) fn poll_at_full_speed(&self) {
        self.last_push
            .send_if_modified(|last_push| last_push.take().is_some());
    }

    /// Waits until the next poll of an endpoint that was polled just now.
    pub(crate) async fn poll_due(&self, intervals: PollIntervals) {
        let polled = Instant::now();
        let mut last_push = self.last_push.subscribe();
        loop {
            let pushed = *last_push.borrow_and_update();
            let overdue = pushed.map_or(polled, |pushed| pushed + intervals.push_overdue);
            let due = overdue.clamp(polled + intervals.full, polled + intervals.reduced);
            tokio::select! {
                () = sleep_until(due) => return,
                changed = last_push.changed() => if changed.is_err() {
                    return;
                }
            }
        }
    }
}

/// The intervals between calls for the head of an endpoint.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PollIntervals {
    /// For an endpoint without a subscription.
    pub(crate) full: Duration,
    /// For the same endpoint while others push in time. These calls keep its health known.
    pub(crate) reduced: Duration,
    /// The time after a pushed head at which the next one is overdue.
    pub(crate) push_overdue: Duration,
    /// The silence after which an endpoint with a subscription is polled. A subscription may
    /// die while its connection lives.
    pub(crate) push_silence: Duration,
}

impl PollIntervals {
    /// The intervals for a chain with this block time.
    pub(crate) fn of(block_time: Duration) -> Self {
        Self {
            full: (block_time / 3).clamp(Duration::from_millis(50), Duration::from_secs(5)),
            reduced: (block_time * 10).clamp(Duration::from_secs(5), Duration::from_secs(60)),
            push_overdue: block_time * 3 / 2,
            push_silence: (block_time * 2).max(Duration::from_secs(2)),
        }
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::B256;
    use futures::FutureExt as _;
    use tokio::time::advance;

    use super::*;

    const BLOCK: Duration = Duration::from_secs(12);

    /// Endpoint 0 pushes, endpoint 1 is polled.
    fn heads() -> Heads {
        let head = BlockRef {
            number: 1,
            hash: B256::ZERO,
            parent: B256::ZERO,
        };
        let heads = Heads::new(2, BLOCK);
        heads.report(0, head, HeadSource::Subscription);
        heads.report(1, head, HeadSource::Poll);
        heads
    }

    /// The time until the next poll.
    async fn wait(heads: &Heads) -> Duration {
        let began = Instant::now();
        heads.poll_due(PollIntervals::of(BLOCK)).await;
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_counts_for_a_while_after_its_endpoint_failed() {
        let heads = heads();
        heads.report_silence(0, "gone");
        assert!(heads.all()[0].is_some());
        advance(BLOCK).await;
        heads.report_silence(0, "still gone");
        assert_eq!(heads.all()[0], None);
        assert_eq!(heads.trouble(0), Some((BLOCK, "still gone".to_owned())));
        assert!(heads.all()[1].is_some() && heads.trouble(1).is_none());
        let head = heads.all()[1].unwrap();
        heads.report(0, head, HeadSource::Poll);
        assert!(heads.all()[0].is_some() && heads.trouble(0).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn without_pushed_heads_endpoints_are_polled_at_full_speed() {
        let (heads, intervals) = (heads(), PollIntervals::of(BLOCK));
        assert_eq!(wait(&heads).await, intervals.full);
        // A polled head that advances the chain changes nothing.
        heads.record_advance(1);
        assert_eq!(wait(&heads).await, intervals.full);
    }

    #[tokio::test(start_paused = true)]
    async fn pushed_heads_that_come_in_time_slow_polling_down() {
        let (heads, intervals) = (heads(), PollIntervals::of(BLOCK));
        heads.record_advance(0);
        let wait = wait(&heads);
        tokio::pin!(wait);
        for _ in 0..4 {
            assert_eq!(wait.as_mut().now_or_never(), None);
            advance(BLOCK).await;
            heads.record_advance(0);
        }
        assert_eq!(wait.await, intervals.reduced);
    }

    #[tokio::test(start_paused = true)]
    async fn an_overdue_pushed_head_restores_full_speed_within_a_block_time() {
        let (heads, intervals) = (heads(), PollIntervals::of(BLOCK));
        heads.record_advance(0);
        let waited = wait(&heads).await;
        assert_eq!(waited, intervals.push_overdue);
        // The head was due after one block time. It is missed for less than another one.
        assert!(waited < 2 * BLOCK);
        assert_eq!(wait(&heads).await, intervals.full);
    }

    #[tokio::test(start_paused = true)]
    async fn a_disagreement_makes_polling_due_at_once() {
        let (heads, intervals) = (heads(), PollIntervals::of(BLOCK));
        heads.record_advance(0);
        let wait = wait(&heads);
        tokio::pin!(wait);
        assert_eq!(wait.as_mut().now_or_never(), None);
        advance(intervals.full).await;
        assert_eq!(wait.as_mut().now_or_never(), None);
        heads.poll_at_full_speed();
        assert_eq!(wait.await, intervals.full);
    }
}
