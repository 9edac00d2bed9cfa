//! The heads: what each endpoint says is its head, and whether those that push keep up.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until},
};

use crate::BlockRef;

/// How an endpoint came to tell of a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeadSource {
    /// By itself.
    Pushed,
    /// Because it was asked.
    MempoolPoller,
}

/// The newest head of each endpoint.
#[derive(Debug)]
pub(crate) struct Heads {
    heads: Mutex<Vec<Option<(BlockRef, HeadSource)>>>,
    changed: Notify,
    /// When the chain last went on by a head that was pushed. None: asking is due.
    pushed: watch::Sender<Option<Instant>>,
}

impl Heads {
    /// A heads for so many endpoints.
    pub(crate) fn new(endpoints: usize) -> Self {
        Self {
            heads: Mutex::new(vec![None; endpoints]),
            changed: Notify::new(),
            pushed: watch::channel(None).0,
        }
    }

    /// An endpoint says that this is its head.
    pub(crate) fn put(&self, endpoint: usize, head: BlockRef, told: HeadSource) {
        if let Some(place) = self.heads.lock().get_mut(endpoint) {
            *place = Some((head, told));
        }
        self.changed.notify_one();
    }

    /// All heads, by endpoint.
    pub(crate) fn heads(&self) -> Vec<Option<BlockRef>> {
        let heads = self.heads.lock();
        heads
            .iter()
            .map(|told| told.map(|(head, _)| head))
            .collect()
    }

    /// Waits for the next word of any endpoint. A word that came since the last wait is
    /// not missed.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// The chain went on to the head of this endpoint.
    pub(crate) fn went_on(&self, endpoint: usize) {
        let told = self.heads.lock().get(endpoint).copied().flatten();
        if told.is_some_and(|(_, told)| told == HeadSource::Pushed) {
            self.pushed.send_replace(Some(Instant::now()));
        }
    }

    /// Endpoints are not of one mind: those that do not push are asked at once, as what they
    /// said last may be old.
    pub(crate) fn doubt(&self) {
        self.pushed
            .send_if_modified(|pushed| pushed.take().is_some());
    }

    /// Waits until an endpoint is to be asked that was asked just now: at full pace, unless
    /// pushed heads lead the chain on in time. Then it is only looked at now and then, and
    /// at full pace again as soon as a head is late.
    pub(crate) async fn until_due(&self, pace: PollIntervals) {
        let asked = Instant::now();
        let mut pushed = self.pushed.subscribe();
        loop {
            let led = *pushed.borrow_and_update();
            let late = led.map_or(asked, |led| led + pace.late);
            let due = late.clamp(asked + pace.poll, asked + pace.look);
            tokio::select! {
                () = sleep_until(due) => return,
                changed = pushed.changed() => if changed.is_err() {
                    return;
                }
            }
        }
    }
}

/// How often endpoints are asked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PollIntervals {
    /// Those that do not push.
    pub(crate) poll: Duration,
    /// The same, while others push in time: whether they are there at all.
    pub(crate) look: Duration,
    /// When a head is late that was to be pushed.
    pub(crate) late: Duration,
    /// Those that push, after so much silence: a subscription may die alone.
    pub(crate) silence: Duration,
}

impl PollIntervals {
    /// The pace for a chain with this block time.
    pub(crate) fn of(block_time: Duration) -> Self {
        let poll = (block_time / 3).clamp(Duration::from_millis(50), Duration::from_secs(5));
        Self {
            poll,
            look: (block_time * 10).clamp(Duration::from_secs(5), Duration::from_secs(60)),
            late: block_time * 3 / 2,
            silence: (block_time * 2).max(Duration::from_secs(2)),
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

    fn heads() -> Heads {
        let head = BlockRef {
            number: 1,
            hash: B256::ZERO,
            parent: B256::ZERO,
        };
        let heads = Heads::new(2);
        heads.put(0, head, HeadSource::Pushed);
        heads.put(1, head, HeadSource::Polled);
        heads
    }

    async fn wait(heads: &Heads) -> Duration {
        let began = Instant::now();
        heads.until_due(PollIntervals::of(BLOCK)).await;
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn without_pushed_heads_all_are_asked_at_full_pace() {
        let (heads, pace) = (heads(), PollIntervals::of(BLOCK));
        assert_eq!(wait(&heads).await, pace.poll);
        // That the chain went on by asking changes nothing.
        heads.went_on(1);
        assert_eq!(wait(&heads).await, pace.poll);
    }

    #[tokio::test(start_paused = true)]
    async fn while_heads_are_pushed_in_time_others_are_only_looked_at() {
        let (heads, pace) = (heads(), PollIntervals::of(BLOCK));
        heads.went_on(0);
        let waiting = wait(&heads);
        tokio::pin!(waiting);
        for _ in 0..4 {
            assert_eq!(waiting.as_mut().now_or_never(), None);
            advance(BLOCK).await;
            heads.went_on(0);
        }
        assert_eq!(waiting.await, pace.look);
    }

    #[tokio::test(start_paused = true)]
    async fn once_pushed_heads_are_late_others_are_asked_within_a_block_time() {
        let (heads, pace) = (heads(), PollIntervals::of(BLOCK));
        heads.went_on(0);
        let waited = wait(&heads).await;
        assert_eq!(waited, pace.late);
        // The head was due after a block time, and is missed for less than another.
        assert!(waited < 2 * BLOCK);
        assert_eq!(wait(&heads).await, pace.poll);
    }

    #[tokio::test(start_paused = true)]
    async fn when_they_are_not_of_one_mind_others_are_asked_at_once() {
        let (heads, pace) = (heads(), PollIntervals::of(BLOCK));
        heads.went_on(0);
        let waiting = wait(&heads);
        tokio::pin!(waiting);
        assert_eq!(waiting.as_mut().now_or_never(), None);
        advance(pace.poll).await;
        assert_eq!(waiting.as_mut().now_or_never(), None);
        heads.doubt();
        assert_eq!(waiting.await, pace.poll);
    }
}
