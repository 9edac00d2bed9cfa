//! What the passing of time does.

use tidewire_proto::v1::server_message::Data;

use super::{Aggregator, deadlines::Place, quote::Life, symbol::Told};

/// A lost connection may come back for so long before its prices count no more, in
/// microseconds.
const LOST_GRACE_US: i64 = 2_000_000;

/// Prices that are averages over time, or converted, are looked at this often, likewise.
const MOVE_US: i64 = 1_000_000;

impl Aggregator {
    /// Lets time pass: what has been silent for too long counts no more. Costs what
    /// is due, however many symbols there are; the overview, once a second, adds up the
    /// kept figures of each.
    pub fn tick(&mut self, now_us: i64) {
        let mut ended = Vec::new();
        self.end_lost(now_us, &mut ended);
        self.end_silent(now_us, &mut ended);
        self.tell_ended(ended, now_us);
        self.move_on(now_us);
        let overview = self.overview.renew(&self.symbols, &self.sources, now_us);
        if let Some(overview) = overview {
            self.publisher
                .publish(&self.overview_channel, Data::MarketOverview(overview));
        }
    }

    /// Tells what is left when these quotes count no more.
    pub(super) fn tell_ended(&mut self, mut ended: Vec<Place>, now_us: i64) {
        // Only now is told what is left: of two sources that go at once, none is for
        // a moment the only one.
        ended.sort_unstable();
        for place in &ended {
            self.tell_quote(*place);
        }
        ended.dedup_by_key(|place| place.symbol);
        for Place { symbol, quote } in ended {
            let stamp_us = self.symbols[symbol].quotes[quote].stamp_us;
            self.tell_aggregate(symbol, stamp_us, now_us);
        }
    }

    /// Lets averages move by the time that passed, and converted prices with their rates.
    fn move_on(&mut self, now_us: i64) {
        if now_us.saturating_sub(self.moved_us) < MOVE_US {
            return;
        }
        self.moved_us = now_us;
        self.renew_rates(now_us);
        for index in &self.moving {
            let symbol = &mut self.symbols[*index];
            let told = symbol.tell_moved(now_us, self.provenance, self.publisher.as_ref());
            if told == Told::News {
                symbol.listen(&self.listeners);
                self.overview.touch(*index);
            }
        }
    }

    /// Ends the quotes of sources whose connection did not come back.
    fn end_lost(&mut self, now_us: i64, ended: &mut Vec<Place>) {
        for (source, status) in self.sources.iter_mut().enumerate() {
            for (link, state) in status.links.iter_mut().enumerate() {
                let is_over = |lost_us: &mut i64| lost_us.saturating_add(LOST_GRACE_US) <= now_us;
                if state.lost_us.take_if(is_over).is_none() {
                    continue;
                }
                for place in self.places[source].values().flatten() {
                    let quote = &mut self.symbols[place.symbol].quotes[place.quote];
                    if quote.life == Life::Live && quote.link == link {
                        quote.life = Life::Lost;
                        ended.push(*place);
                    }
                }
            }
        }
    }

    /// Ends the quotes that have been silent for too long.
    fn end_silent(&mut self, now_us: i64, ended: &mut Vec<Place>) {
        while let Some((watched_us, place)) = self.deadlines.due(now_us) {
            let symbol = &mut self.symbols[place.symbol];
            let stale_after_us = symbol.stale_after_us();
            let quote = &mut symbol.quotes[place.quote];
            if quote.watched_us != Some(watched_us) {
                // Of what was there before it.
                continue;
            }
            let due_us = quote.due_us(stale_after_us);
            if due_us > now_us {
                quote.watched_us = Some(due_us);
                self.deadlines.set(due_us, place);
                continue;
            }
            quote.watched_us = None;
            if quote.life == Life::Live {
                quote.life = Life::Silent;
                ended.push(place);
            }
        }
    }
}
