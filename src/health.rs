//! Health watch: finds out once a second which parts of the server do not work.
//!
//! A part whose fault comes and goes by itself, such as a venue that reconnects, counts as
//! faulty after a while only ([`BROKER_GRACE`], [`VENUES_GRACE`], [`SHARD_GRACE`],
//! [`chain_grace`]).

use std::{collections::HashMap, sync::Arc, time::Duration};

use tidewire_chain::{ChainConfig, ChainEngine};
use tidewire_price::PriceEngine;
use tidewire_proto::v1::ConnectionState;
use tidewire_store::{SharedStore, StoreLease};
use tidewire_stream::{Disclosure, HealthFault, PartReport, StreamCore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    agreement::Agreement, chain_owner::ChainOwners, price_owner::PriceOwner,
    unserved_term::UnservedTerm,
};

/// Name of the part that stands for the connection to Redis.
pub(crate) const BROKER_PART: &str = "broker";

/// Time between two looks at all parts.
const INTERVAL: Duration = Duration::from_secs(1);

/// Time for which no venue may be live: all may reconnect at the same time.
const VENUES_GRACE: Duration = Duration::from_secs(10);

/// Time for which a shard may be late before clients are told.
const SHARD_GRACE: Duration = Duration::from_secs(5);

/// Time for which the broker's connection may fail: a connection that was cut is opened again
/// within milliseconds.
const BROKER_GRACE: Duration = Duration::from_secs(2);

/// Time for which something that one node owns may have no owner: less than two looks, so that a hand-over
/// that one of them falls into is no fault.
const OWNER_GRACE: Duration = Duration::from_millis(900);

/// Blocks that a chain may miss before it counts as standing still.
const MISSED_BLOCKS: u32 = 20;

/// Shortest time after which a chain counts as standing still.
const MIN_CHAIN_GRACE: Duration = Duration::from_secs(60);

/// The parts that are watched.
pub(crate) struct HealthWatch {
    pub(crate) stream: Arc<StreamCore>,
    /// None if this node does not run the price engine.
    pub(crate) prices: Option<PriceEngine>,
    /// The part of this node in the lease of the price engine.
    pub(crate) price_owner: Option<Arc<PriceOwner>>,
    /// The part of this node in the leases of chains.
    pub(crate) chain_owners: Option<Arc<ChainOwners>>,
    pub(crate) chains: ChainEngine,
    pub(crate) chain_configs: Vec<ChainConfig>,
    pub(crate) store: Option<SharedStore>,
    /// The part of this node in a shared store.
    pub(crate) lease: Option<Arc<StoreLease>>,
    /// Whether this node serves that store while it owns it.
    pub(crate) unserved: Option<Arc<UnservedTerm>>,
    /// The comparison with the settings of other nodes.
    pub(crate) agreement: Option<Arc<Agreement>>,
}

/// The beginnings of faults that a hand-over between nodes causes for a moment.
#[derive(Default)]
struct OwnerFaults(HashMap<String, Instant>);

impl OwnerFaults {
    /// The report without a fault that has begun just now.
    fn settle(&mut self, report: PartReport, now: Instant) -> PartReport {
        let PartReport { part, fault } = report;
        if fault.is_none() {
            self.0.remove(&part);
            return PartReport { part, fault };
        }
        let since = *self.0.entry(part.clone()).or_insert(now);
        let has_lasted = now.saturating_duration_since(since) >= OWNER_GRACE;
        PartReport {
            part,
            fault: fault.filter(|_| has_lasted),
        }
    }
}

/// The last observation of a chain.
struct SeenBlock {
    hash: Option<String>,
    at: Instant,
}

impl HealthWatch {
    /// Watches until cancelled.
    pub(crate) async fn run(self, cancel: CancellationToken) {
        let mut ticks = tokio::time::interval(INTERVAL);
        let mut venues_live_at = Instant::now();
        // Since the start it may never have worked.
        let mut broker_well_at = None;
        let mut blocks = HashMap::new();
        let mut of_owners = OwnerFaults::default();
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = cancel.cancelled() => return,
            }
            let now = Instant::now();
            let mut reports = Vec::new();
            reports.extend(self.store.as_ref().map(|store| PartReport {
                part: "store".to_owned(),
                fault: store.failure().map(|error| error.to_string().into()),
            }));
            let of_store = self.lease.as_ref().map(|lease| PartReport {
                part: "shared store".to_owned(),
                fault: lease
                    .fault()
                    .map(|error| HealthFault::unusable(error.to_string()))
                    .or_else(|| Some(self.unserved.as_ref()?.fault()?.into())),
            });
            let of_prices = self.price_owner.as_ref().map(|owner| PartReport {
                part: "shared prices".to_owned(),
                fault: owner.fault().map(HealthFault::unusable),
            });
            let owned = of_store.into_iter().chain(of_prices);
            reports.extend(owned.map(|report| of_owners.settle(report, now)));
            reports.extend(self.broker(&mut broker_well_at, now));
            reports.extend(self.agreement.as_ref().map(|agreement| PartReport {
                part: "settings".to_owned(),
                fault: agreement.fault(),
            }));
            reports.extend(self.venues(&mut venues_live_at, now));
            reports.push(self.shards());
            reports.extend(self.chain_configs.iter().map(|chain| {
                let seen = blocks.entry(chain.id).or_insert(SeenBlock {
                    hash: None,
                    at: now,
                });
                of_owners.settle(self.chain(chain, seen, now), now)
            }));
            let reported = self.stream.report_health(reports);
            if cancel.run_until_cancelled(reported).await.is_none() {
                return;
            }
        }
    }

    /// The connection to Redis. None if this server keeps its channels by itself.
    fn broker(&self, well_at: &mut Option<Instant>, now: Instant) -> Option<PartReport> {
        let link = self.stream.broker().link()?;
        if link.fault.is_none() {
            *well_at = Some(now);
        }
        let is_brief = well_at.is_some_and(|at| now.saturating_duration_since(at) < BROKER_GRACE);
        Some(PartReport {
            part: BROKER_PART.to_owned(),
            fault: link.fault.filter(|_| !is_brief).map(|text| {
                match link.is_whole || !link.is_available {
                    true => HealthFault::unusable(text),
                    // One server of several.
                    false => HealthFault {
                        text,
                        disclosure: Disclosure::Summary("a part of it cannot be used"),
                    },
                }
            }),
        })
    }

    /// The shards together.
    fn shards(&self) -> PartReport {
        let late = self.stream.late_shards();
        let mut late = late.iter().filter(|one| one.late_for >= SHARD_GRACE);
        let fault = late.next().map(|one| {
            let seconds = one.late_for.as_secs();
            format!("{} has not finished a tick for {seconds} s", one.shard)
        });
        PartReport {
            part: "shards".to_owned(),
            fault: fault.map(HealthFault::from),
        }
    }

    /// The venues together. None if there are none.
    fn venues(&self, live_at: &mut Instant, now: Instant) -> Option<PartReport> {
        let mut sources = self.prices.as_ref()?.sources();
        // A source that trades none of the symbols is never connected.
        sources.retain(|one| !one.symbols.is_empty());
        if sources.is_empty() {
            return None;
        }
        if sources
            .iter()
            .any(|one| one.state() == ConnectionState::Live)
        {
            *live_at = now;
        }
        let is_away = now.saturating_duration_since(*live_at) >= VENUES_GRACE;
        Some(PartReport {
            part: "venues".to_owned(),
            fault: is_away.then(|| format!("none of {} is live", sources.len()).into()),
        })
    }

    fn chain(&self, chain: &ChainConfig, seen: &mut SeenBlock, now: Instant) -> PartReport {
        let part = format!("chain {}", chain.id);
        let engine = match &self.chain_owners {
            None => self.chains.clone(),
            Some(owners) => {
                let id = chain.id.to_string();
                let fault = owners.fault(&id);
                match owners.engine(&id).filter(|_| fault.is_none()) {
                    Some(engine) => engine,
                    // Another node follows the chain, or nobody does.
                    None => {
                        *seen = SeenBlock {
                            hash: None,
                            at: now,
                        };
                        let fault = fault.map(HealthFault::unusable);
                        return PartReport { part, fault };
                    }
                }
            }
        };
        let newest = engine.latest_block(chain.id).ok().map(|block| block.hash);
        if newest != seen.hash {
            *seen = SeenBlock {
                hash: newest,
                at: now,
            };
        }
        let grace = chain_grace(chain.block_time());
        let stands_still = now.saturating_duration_since(seen.at) >= grace;
        PartReport {
            part,
            fault: match (engine.outage(chain.id), stands_still) {
                (Some(outage), _) => Some(format!("it stands still, as {outage}").into()),
                (None, true) => {
                    let grace = humantime::format_duration(grace);
                    let fault =
                        format!("it stands still, without a new block for {grace} at least");
                    Some(fault.into())
                }
                (None, false) => None,
            },
        }
    }
}

/// Time after which a chain with this block time counts as standing still.
fn chain_grace(block_time: Duration) -> Duration {
    (block_time * MISSED_BLOCKS).max(MIN_CHAIN_GRACE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hand_over_is_no_fault_and_a_chain_without_an_owner_is() {
        let mut faults = OwnerFaults::default();
        let start = Instant::now();
        let mut settled = |fault: Option<&str>, seconds| {
            let report = PartReport {
                part: "chain 1".to_owned(),
                fault: fault.map(|text| text.to_owned().into()),
            };
            let settled = faults.settle(report, start + Duration::from_secs(seconds));
            settled.fault.map(|fault| fault.text)
        };
        assert_eq!(settled(Some("no owner"), 0), None);
        assert_eq!(settled(None, 1), None);
        assert_eq!(settled(Some("no owner"), 2), None);
        assert_eq!(settled(Some("no owner"), 3).as_deref(), Some("no owner"));
        assert_eq!(settled(None, 4), None);
        assert_eq!(settled(Some("no owner"), 5), None);
    }

    #[test]
    fn a_slow_chain_has_more_time() {
        assert_eq!(chain_grace(Duration::from_millis(250)), MIN_CHAIN_GRACE);
        assert_eq!(
            chain_grace(Duration::from_secs(12)),
            Duration::from_secs(240)
        );
    }
}
