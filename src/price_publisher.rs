//! Price publisher: hands the events of the price engine to the broker while this node owns it, and sees
//! that they arrive.
//!
//! The newest event of each channel is kept. It is compared with the last publication of its channel when
//! a term begins, once some seconds after it was published, and from time to time: the earlier owner may
//! not have got to it, and Redis may have refused or lost it, or forgotten it after a day. If the channel lacks
//! it, it is published, again if need be. A symbol that publishes all the time is never compared.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::{StreamExt as _, stream};
use parking_lot::Mutex;
use tidewire_price::PriceEngine;
use tidewire_proto::v1::{Candle, PriceUpdate};
use tidewire_store::{EngineTerm, Tenure as _};
use tidewire_stream::{
    ChannelName, Event, PageLimit, Publisher, StreamCore, StreamError,
    broker::{Fence, History},
};
use tokio::time::Instant;

use crate::engine_store::raise_fence;

/// Time after a publication until its channel is compared: longer than a publication waits for Redis.
const ARRIVAL: Duration = Duration::from_secs(10);

/// Time between two comparisons of a channel.
const COMPARISON: Duration = Duration::from_secs(30);

/// The same after Redis was away. Publications that waited for it have arrived by then.
const RECOVERY: Duration = Duration::from_secs(2);

/// Time for which an event is the newest one of this node until it counts as the newest one there is. The
/// owner before may have been ahead by less.
const SETTLING: Duration = Duration::from_secs(2);

/// Difference between the times that two nodes give to one trade, at most: each corrects the clocks of
/// the venues by its own measurements.
const SKEW_MS: i64 = 250;

/// Channels that are read at once: the reads of a batch are one pipeline.
const READS: usize = 64;

/// Publishes the events of the price engine while this node owns it.
pub(crate) struct OwnedPublisher {
    stream: Arc<StreamCore>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    term: Option<OwnTerm>,
    /// The newest event of each channel.
    newest: HashMap<ChannelName, Newest>,
    /// Whether all of Redis was there at the last look.
    was_whole: bool,
}

/// A term of this node.
struct OwnTerm {
    term: EngineTerm,
    /// The proof of it.
    fence: Arc<Fence>,
    began: Instant,
}

/// The newest event of a channel.
struct Newest {
    /// None if this node has never had one.
    event: Option<Event>,
    since: Instant,
    /// When its channel is to be compared.
    due: Instant,
}

impl State {
    /// The proof that no other node owns the engine, if there is one now.
    fn fence(&self) -> Option<&Arc<Fence>> {
        let own = self.term.as_ref().filter(|own| own.term.is_valid())?;
        Some(&own.fence)
    }

    /// Adds the channels of symbols of which this node has heard nothing, although their sources would be
    /// stale by now.
    fn add_unheard(&mut self, unheard: Vec<(String, Duration)>, now: Instant) {
        let Some(began) = self.term.as_ref().map(|own| own.began) else {
            return;
        };
        for (symbol, stale_after) in unheard {
            let channel = ChannelName::parse(&format!("prices:{symbol}"));
            if let Ok(channel) = channel
                && now.duration_since(began) >= stale_after
            {
                let absent = Newest {
                    event: None,
                    since: now,
                    due: now,
                };
                self.newest.entry(channel).or_insert(absent);
            }
        }
    }
}

impl OwnedPublisher {
    pub(crate) fn new(stream: Arc<StreamCore>) -> Arc<Self> {
        Arc::new(Self {
            stream,
            state: Mutex::default(),
        })
    }

    pub(crate) fn set_term(&self, term: Option<(EngineTerm, Arc<Fence>)>) {
        let mut state = self.state.lock();
        let before = state.term.as_ref().map(|own| own.term.term().to_owned());
        let now = Instant::now();
        if before.as_deref() == term.as_ref().map(|(term, _)| term.term()) {
            return;
        }
        let all = state.newest.values_mut();
        all.for_each(|one| one.due = now);
        state.term = term.map(|(term, fence)| OwnTerm {
            term,
            fence,
            began: now,
        });
    }

    /// Has the owners of earlier terms refused before a term begins.
    pub(crate) async fn raise_fence(&self, next: Option<&(EngineTerm, Arc<Fence>)>) {
        let Some((_, fence)) = next else { return };
        let is_raised = {
            let state = self.state.lock();
            let own = state.term.as_ref();
            own.is_some_and(|own| own.fence == *fence)
        };
        if !is_raised {
            raise_fence(&self.stream, fence).await;
        }
    }

    /// Compares the channels that are due, and publishes what they lack.
    pub(crate) async fn compare(&self, prices: &PriceEngine) {
        let link = self.stream.broker().link();
        let is_away = link.as_ref().is_some_and(|link| !link.is_available);
        let is_whole = link.is_none_or(|link| link.is_whole);
        // Before the lock: the engine publishes under its own.
        let unheard = prices.unheard();
        let due: Vec<ChannelName> = {
            let mut state = self.state.lock();
            let now = Instant::now();
            if !std::mem::replace(&mut state.was_whole, is_whole) && is_whole {
                let all = state.newest.values_mut();
                all.for_each(|one| one.due = one.due.min(now + RECOVERY));
            }
            if is_away || state.fence().is_none() {
                return;
            }
            state.add_unheard(unheard, now);
            let due = state.newest.iter().filter(|(_, one)| one.due <= now);
            due.map(|(channel, _)| channel.clone()).collect()
        };
        let reads = stream::iter(due).map(async |channel| {
            let broker = self.stream.broker();
            let newest = broker.history(&channel, None, PageLimit::NEWEST).await;
            (channel, newest)
        });
        let mut reads = std::pin::pin!(reads.buffer_unordered(READS));
        while let Some((channel, history)) = reads.next().await {
            // Its server is away, or hangs: others may be there, and a later look tries again.
            if let Err(error) = self.compare_with(&channel, history) {
                tracing::debug!(%channel, %error, "a price is compared later");
                self.put_off(&channel);
            }
        }
    }

    /// Has a channel compared later, so that those of a server that is away do not hold up the others.
    fn put_off(&self, channel: &ChannelName) {
        let now = Instant::now();
        if let Some(held) = self.state.lock().newest.get_mut(channel) {
            held.due = held.due.max(now + RECOVERY);
        }
    }

    fn compare_with(
        &self,
        channel: &ChannelName,
        history: Result<History, StreamError>,
    ) -> Result<(), StreamError> {
        let history = history?;
        let newest = history.publications.last().map(|one| one.event());
        let mut state = self.state.lock();
        let now = Instant::now();
        let Some(fence) = state.fence().cloned() else {
            return Ok(());
        };
        // The engine may have published a newer one meanwhile.
        let held = state.newest.get_mut(channel).filter(|one| one.due <= now);
        let Some(held) = held else { return Ok(()) };
        let settled_at = held.since + SETTLING;
        let skew_ms = if now < settled_at { 0 } else { SKEW_MS };
        match missing(held.event.as_ref(), newest.as_deref(), skew_ms) {
            Some(event) => {
                held.due = now + ARRIVAL;
                self.stream.publish_fenced(channel, event, &fence);
            }
            None if now < settled_at => held.due = settled_at,
            None => held.due = now + COMPARISON,
        }
        Ok(())
    }
}

impl Publisher for OwnedPublisher {
    fn publish(&self, channel: &ChannelName, event: Event) {
        // Under the lock: the events of a channel keep their order.
        let mut state = self.state.lock();
        // In a term that is not certain at this moment, it is published by the next comparison.
        let wait = state.fence().map_or(Duration::ZERO, |_| ARRIVAL);
        let now = Instant::now();
        let newest = Newest {
            event: Some(event.clone()),
            since: now,
            due: now + wait,
        };
        match state.newest.get_mut(channel) {
            Some(known) => *known = newest,
            None => drop(state.newest.insert(channel.clone(), newest)),
        }
        if let Some(fence) = state.fence() {
            self.stream.publish_fenced(channel, event, fence);
        }
    }
}

/// The event that a channel lacks, given the newest one that this node `held` and the newest publication. A
/// price that is older by `skew_ms` at most may be newer.
/// Volumes, averages and times of arrival differ between nodes, and are no news by themselves.
fn missing(held: Option<&Event>, published: Option<&Event>, skew_ms: i64) -> Option<Event> {
    let Some(published) = published else {
        return held.cloned();
    };
    let is_missing = match (held, published) {
        (Some(Event::Price(held)), Event::Price(published))
            if is_newer(held, published, skew_ms) =>
        {
            true
        }
        // Without a source, nobody brings this price up to date.
        (Some(Event::Price(PriceUpdate { stale: true, .. })) | None, Event::Price(published)) => {
            let stale = PriceUpdate {
                stale: true,
                ..published.clone()
            };
            return (!published.stale).then_some(Event::Price(stale));
        }
        (Some(Event::Candle(held)), Event::Candle(published)) => goes_on(held, published),
        (Some(Event::MarketOverview(held)), Event::MarketOverview(published)) => {
            held.timestamp > published.timestamp
        }
        _ => false,
    };
    held.filter(|_| is_missing).cloned()
}

fn is_newer(held: &PriceUpdate, published: &PriceUpdate, skew_ms: i64) -> bool {
    held.timestamp.saturating_add(skew_ms) >= published.timestamp
        && (&held.price, held.stale) != (&published.price, published.stale)
}

/// Whether a candle is later than the published one, or a later state of it.
fn goes_on(held: &Candle, published: &Candle) -> bool {
    match held.start == published.start {
        false => held.start > published.start,
        true if published.closed => false,
        true => held.closed || held.close != published.close,
    }
}

#[cfg(test)]
mod tests {
    use tidewire_proto::v1::{Decimal, MarketOverview};

    use super::*;

    fn decimal(number: i64) -> Option<Decimal> {
        Some(Decimal::parse(&number.to_string()).unwrap())
    }

    fn price(timestamp: i64, price: i64, stale: bool) -> Event {
        Event::Price(PriceUpdate {
            timestamp,
            price: decimal(price),
            stale,
            ..PriceUpdate::default()
        })
    }

    fn candle(start: i64, close: i64, closed: bool) -> Event {
        Event::Candle(Candle {
            start,
            close: decimal(close),
            closed,
            ..Candle::default()
        })
    }

    fn overview(timestamp: i64) -> Event {
        Event::MarketOverview(MarketOverview {
            timestamp,
            ..MarketOverview::default()
        })
    }

    #[test]
    fn a_channel_lacks_what_is_newer_and_differs() {
        let published = price(5, 100, false);
        let lacks = |held: &Event| missing(Some(held), Some(&published), 0);
        assert_eq!(missing(Some(&published), None, 0), Some(published.clone()));
        assert_eq!(missing(None, None, 0), None);
        assert_eq!(lacks(&published), None);
        // The same price at another time of arrival is no news.
        assert_eq!(lacks(&price(6, 100, false)), None);
        let newer = price(6, 101, false);
        assert_eq!(lacks(&newer), Some(newer.clone()));
        let corrected = price(5, 101, false);
        assert_eq!(lacks(&corrected), Some(corrected.clone()));
        let earlier = price(4, 101, false);
        assert_eq!(lacks(&earlier), None);
        // Another node may give the same trade another time.
        let within = |skew_ms| missing(Some(&earlier), Some(&published), skew_ms);
        assert_eq!(within(1), Some(earlier.clone()));
        assert_eq!(within(0), None);
    }

    #[test]
    fn a_price_that_no_source_updates_is_published_as_stale() {
        let published = price(5, 100, false);
        let stale = Some(price(5, 100, true));
        for held in [Some(price(4, 90, true)), Some(price(5, 100, true)), None] {
            assert_eq!(
                missing(held.as_ref(), Some(&published), 0),
                stale,
                "{held:?}"
            );
        }
        // The last price of this node is newer: it is the one that is stale.
        let own = price(6, 101, true);
        assert_eq!(missing(Some(&own), Some(&published), 0), Some(own.clone()));
        for held in [Some(price(4, 90, true)), Some(price(5, 100, true)), None] {
            let published = stale.as_ref();
            assert_eq!(missing(held.as_ref(), published, 0), None, "{held:?}");
        }
    }

    #[test]
    fn a_candle_never_goes_back() {
        let lacks = |held: &Event, published: &Event| {
            missing(Some(held), Some(published), 0)
                .map(|missing| assert_eq!(missing, *held))
                .is_some()
        };
        let forming = candle(60, 100, false);
        assert!(!lacks(&candle(0, 90, true), &forming));
        assert!(!lacks(&forming, &forming));
        assert!(lacks(&candle(60, 101, false), &forming));
        assert!(lacks(&candle(60, 100, true), &forming));
        assert!(lacks(&candle(120, 100, false), &forming));
        assert!(!lacks(&candle(60, 101, false), &candle(60, 100, true)));
        assert!(!lacks(&candle(60, 101, true), &candle(60, 100, true)));
    }

    #[test]
    fn an_overview_is_replaced_by_a_later_one() {
        let published = overview(5);
        let later = overview(6);
        assert_eq!(
            missing(Some(&later), Some(&published), 0),
            Some(later.clone())
        );
        for held in [4, 5] {
            assert_eq!(missing(Some(&overview(held)), Some(&published), 0), None);
        }
        assert_eq!(missing(None, Some(&published), 0), None);
    }
}
