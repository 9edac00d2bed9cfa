//! Tick: changes as time passes. Silent quotes become stale, averages move, the market
//! overview is published.

use tidewire_proto::v1::server_message::Data;

use super::{
    Aggregator,
    quote::{Liveness, QuoteIndex},
    symbol_state::PublishOutcome,
};

/// How long a lost connection's prices still count, in microseconds, so that a quick reconnect does
/// not show.
const LOST_GRACE_US: i64 = 2_000_000;

/// How often averages and converted prices are computed again, in microseconds: often enough for a
/// chart.
const ADVANCE_US: i64 = 1_000_000;

impl Aggregator {
    /// Advances time to `now_us`, in microseconds since the Unix epoch. The cost grows with the
    /// deadlines that are due, not with the number of symbols. Once a second, the market overview
    /// adds up the figures of all symbols.
    pub fn tick(&mut self, now_us: i64) {
        self.follow_clock(now_us);
        self.end_lost(now_us);
        self.end_silent(now_us);
        self.publish_ended(now_us);
        self.advance_windows(now_us);
        let (symbols, sources) = (&self.symbols, &self.sources);
        let live = |symbol: usize| symbols[symbol].live_price();
        let source_name = |source: usize| sources[source].name();
        let overview = self.market.due_overview(now_us, live, source_name);
        if let Some(mut overview) = overview {
            overview.sample = self.provenance.is_sample();
            self.publisher
                .publish(&self.overview_channel, Data::MarketOverview(overview));
        }
    }

    /// Publishes the prices without the ended quotes.
    pub(super) fn publish_ended(&mut self, now_us: i64) {
        // Publishing waits until all of them have ended: when two sources end at once, neither
        // shows for a moment as the only one.
        self.ended.sort_unstable_by(|a, b| b.cmp(a));
        for position in (0..self.ended.len()).rev() {
            self.publish_quote(self.ended[position], now_us);
        }
        // Each symbol is taken out before it is published, so that a panic of one leaves the others
        // to the next tick.
        while let Some(QuoteIndex { symbol, quote }) = self.ended.pop() {
            while self.ended.last().is_some_and(|next| next.symbol == symbol) {
                self.ended.pop();
            }
            let timestamp_us = self.symbols[symbol].quotes[quote].timestamp_us;
            self.publish_aggregate(symbol, timestamp_us, now_us);
        }
    }

    /// Advances averages to now, and converted prices to the current rates.
    fn advance_windows(&mut self, now_us: i64) {
        if now_us.saturating_sub(self.windows_advanced_us) < ADVANCE_US {
            return;
        }
        self.windows_advanced_us = now_us;
        self.update_rates(now_us);
        for index in &self.window_symbols {
            let symbol = &mut self.symbols[*index];
            let outcome = symbol.republish_window(now_us, self.provenance, self.publisher.as_ref());
            if outcome == PublishOutcome::Published {
                symbol.notify(self.listeners.as_slice(), &self.sources);
                self.market.mark_outdated(*index);
            }
        }
    }

    /// Ends the quotes of connections that did not come back within [`LOST_GRACE_US`].
    fn end_lost(&mut self, now_us: i64) {
        for (source, status) in self.sources.iter_mut().enumerate() {
            for (link, state) in status.links.iter_mut().enumerate() {
                let is_over = |lost_us: &mut i64| lost_us.saturating_add(LOST_GRACE_US) <= now_us;
                if state.lost_us.take_if(is_over).is_none() {
                    continue;
                }
                for index in self.quotes_by_name[source].values().flatten() {
                    let quote = &mut self.symbols[index.symbol].quotes[index.quote];
                    if quote.liveness == Liveness::Live && quote.link == link {
                        quote.liveness = Liveness::Disconnected;
                        self.ended.push(*index);
                    }
                }
            }
        }
    }

    /// Ends the quotes that have been silent too long.
    fn end_silent(&mut self, now_us: i64) {
        while let Some((deadline_us, index)) = self.deadlines.pop_due(now_us) {
            let symbol = &mut self.symbols[index.symbol];
            let stale_after_us = symbol.stale_after_us();
            let quote = &mut symbol.quotes[index.quote];
            if quote.deadline_us != Some(deadline_us) {
                // A deadline of a quote that was removed or replaced.
                continue;
            }
            let stale_at_us = quote.stale_at_us(stale_after_us);
            if stale_at_us > now_us {
                quote.deadline_us = Some(stale_at_us);
                self.deadlines.push(stale_at_us, index);
                continue;
            }
            quote.deadline_us = None;
            if quote.liveness == Liveness::Live {
                quote.liveness = Liveness::Silent;
                self.ended.push(index);
            }
        }
    }
}
