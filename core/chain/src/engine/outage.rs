//! Outage monitor: reports a chain that stands still because too few of its endpoints return
//! usable results: none, or fewer than must agree.
//!
//! The first report comes within five seconds, and further ones every minute. Each names the
//! endpoints by scheme and host, with the newest reason of each.
//!
//! An endpoint is of no use as well while it answers, but returns no head, or only heads that cannot
//! be linked or loaded.
//!
//! An outage ends with a result. If too many endpoints returned an invalid response lately, a new
//! block is needed, or two minutes without one more: such an endpoint returns results between
//! its invalid blocks, and clients would hear of an end and a beginning each time.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tidewire_proto::v1::Block;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    ChainOutage,
    endpoint::{EndpointPool, PoolOutage},
    fork_choice::Heads,
};

/// The time without any result after which a chain has an outage.
const FIRST_REPORT: Duration = Duration::from_secs(3);

/// The time between two reports of one outage.
const REPORT_INTERVAL: Duration = Duration::from_secs(60);

/// How often the endpoints are looked at.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Watches the endpoints of one chain.
pub(super) struct OutageMonitor {
    pub(super) chain: u64,
    /// The configured name of the chain.
    pub(super) name: String,
    pub(super) pool: EndpointPool,
    /// The heads of the endpoints.
    pub(super) heads: Arc<Heads>,
    /// The newest block of the chain.
    pub(super) newest: Arc<Mutex<Option<Block>>>,
    /// The number of endpoints that must agree.
    pub(super) agreement: usize,
    /// The outage of the chain, as requests read it.
    pub(super) outage: watch::Sender<Option<ChainOutage>>,
}

impl OutageMonitor {
    /// Watches until cancelled.
    pub(super) async fn run(self, cancel: CancellationToken) {
        cancel.run_until_cancelled(self.watch()).await;
    }

    async fn watch(&self) {
        let mut outage = OutageState::default();
        loop {
            sleep(CHECK_INTERVAL).await;
            let newest = self.newest.lock().as_ref().map(|block| block.hash.clone());
            let observation = Observation {
                trouble: self
                    .pool
                    .outage(self.agreement, |index| self.heads.trouble(index)),
                is_distrusted: self.pool.is_distrusted(self.agreement),
                newest,
            };
            let (chain, name) = (self.chain, &self.name);
            let report = outage.observe(observation, Instant::now());
            // Before the log: an operator who reads the line finds the state that it names.
            self.outage.send_if_modified(|known| {
                let before = std::mem::replace(known, outage.reported());
                before != *known
            });
            match report {
                Some(Report::StandsStill(trouble)) => tracing::warn!(
                    chain,
                    name,
                    seconds = trouble.age.as_secs(),
                    reason = trouble.reason,
                    "the chain stands still: {}",
                    trouble.outage
                ),
                Some(Report::Responds) => {
                    tracing::info!(chain, name, "an endpoint of the chain responds again");
                }
                None => {}
            }
        }
    }
}

/// The endpoints and the chain, as they are looked at.
struct Observation {
    /// The time without enough endpoints of use, and the state of each.
    trouble: Option<PoolOutage>,
    /// Whether too many endpoints returned an invalid response lately.
    is_distrusted: bool,
    /// The hash of the chain's newest block.
    newest: Option<String>,
}

/// A line for the log.
#[derive(Debug, PartialEq, Eq)]
enum Report {
    StandsStill(PoolOutage),
    Responds,
}

/// The outage of a chain, if it has one.
#[derive(Default)]
struct OutageState(Option<Outage>);

/// An outage that was reported.
struct Outage {
    /// The newest block as the outage began.
    newest: Option<String>,
    reported_at: Instant,
    /// Its newest cause.
    cause: ChainOutage,
}

impl OutageState {
    fn reported(&self) -> Option<ChainOutage> {
        self.0.as_ref().map(|outage| outage.cause)
    }

    fn observe(&mut self, seen: Observation, now: Instant) -> Option<Report> {
        let trouble = seen.trouble.filter(|trouble| trouble.age >= FIRST_REPORT);
        match (&mut self.0, trouble) {
            (None, None) => None,
            (None, Some(trouble)) => {
                self.0 = Some(Outage {
                    newest: seen.newest,
                    reported_at: now,
                    cause: trouble.outage,
                });
                Some(Report::StandsStill(trouble))
            }
            (Some(outage), Some(trouble)) => {
                outage.cause = trouble.outage;
                if now.saturating_duration_since(outage.reported_at) < REPORT_INTERVAL {
                    return None;
                }
                outage.reported_at = now;
                Some(Report::StandsStill(trouble))
            }
            (Some(outage), None) => {
                if seen.is_distrusted && outage.newest == seen.newest {
                    return None;
                }
                self.0 = None;
                Some(Report::Responds)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trouble(seconds: u64) -> PoolOutage {
        PoolOutage {
            age: Duration::from_secs(seconds),
            reason: "x".to_owned(),
            outage: ChainOutage {
                responding: 0,
                required: 1,
            },
        }
    }

    fn observation(seconds: Option<u64>, is_distrusted: bool, newest: &str) -> Observation {
        Observation {
            trouble: seconds.map(trouble),
            is_distrusted,
            newest: Some(newest.to_owned()),
        }
    }

    fn stands_still(seconds: u64) -> Option<Report> {
        Some(Report::StandsStill(trouble(seconds)))
    }

    #[test]
    fn an_outage_is_reported_after_three_seconds_and_each_minute() {
        let (mut outage, began) = (OutageState::default(), Instant::now());
        for second in 0..200 {
            let now = began + Duration::from_secs(second);
            let report = outage.observe(observation(Some(second), false, "a"), now);
            let is_due = [3, 63, 123, 183].contains(&second);
            assert_eq!(report, is_due.then(|| stands_still(second)).flatten());
            assert_eq!(outage.reported().is_some(), second >= 3);
        }
        let report = outage.observe(observation(None, false, "a"), began);
        assert_eq!(report, Some(Report::Responds));
        assert_eq!(outage.reported(), None);
    }

    #[test]
    fn results_between_invalid_responses_do_not_end_an_outage() {
        let (mut outage, now) = (OutageState::default(), Instant::now());
        outage.observe(observation(Some(3), true, "a"), now);
        for seconds in [None, Some(1), Some(4), None] {
            assert_eq!(outage.observe(observation(seconds, true, "a"), now), None);
            assert!(outage.reported().is_some());
        }
        let report = outage.observe(observation(None, true, "b"), now);
        assert_eq!(report, Some(Report::Responds), "a new block was read");
        outage.observe(observation(Some(3), true, "b"), now);
        let report = outage.observe(observation(None, false, "b"), now);
        assert_eq!(report, Some(Report::Responds), "no endpoint is distrusted");
    }
}
