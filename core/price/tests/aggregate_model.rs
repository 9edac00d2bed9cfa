//! The aggregate against a simple model of its rules.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use proptest::prelude::*;
use rust_decimal::Decimal;
use support::{CapturingPublisher, NOW_US, config, price};
use tidewire_price::{
    Aggregator, LinkState,
    venue::{Size, Ticker, Trade, TradeId, VenueEvent},
};
use tidewire_proto::v1::{SourceState, TradeSide};

const SECOND_US: i64 = 1_000_000;
const NAMES: [&str; 4] = ["a", "b", "c", "d"];

#[derive(Debug, Clone)]
enum Action {
    Trade { source: usize, cents: i64 },
    Ticker { source: usize, cents: i64 },
    Disconnect(usize),
    Connect(usize),
    Pass { ms: i64 },
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let source = 0..NAMES.len();
    let action = prop_oneof![
        6 => (source.clone(), 9_000..11_000_i64).prop_map(|(source, cents)| Action::Trade { source, cents }),
        3 => (source.clone(), 9_000..11_000_i64).prop_map(|(source, cents)| Action::Ticker { source, cents }),
        1 => source.clone().prop_map(Action::Disconnect),
        1 => source.prop_map(Action::Connect),
        4 => (1..4_000_i64).prop_map(|ms| Action::Pass { ms }),
    ];
    prop::collection::vec(action, 1..120)
}

/// One source as the rules describe it.
#[derive(Debug, Clone, Default)]
struct Model {
    price: Option<Decimal>,
    heard_us: i64,
    lost_us: Option<i64>,
    is_live: bool,
    is_excluded: bool,
    /// Whether data arrived on this connection.
    has_data: bool,
    /// The longest silence between messages, in microseconds, and their number.
    longest_us: i64,
    silences: usize,
    trades: Vec<Decimal>,
}

impl Model {
    fn record(&mut self, price: Decimal, now_us: i64) {
        if self.has_data {
            let silence_us = now_us - self.heard_us;
            let most_us = if self.silences == 0 {
                silence_us
            } else {
                (self.longest_us * 4).max(1_000)
            };
            self.longest_us = self.longest_us.max(silence_us.min(most_us));
            self.silences += 1;
        }
        (self.price, self.heard_us, self.is_live, self.has_data) =
            (Some(price), now_us, true, true);
    }

    fn timeout_us(&self) -> i64 {
        let least_us = if self.silences < 32 {
            5 * SECOND_US
        } else {
            5 * SECOND_US / 2
        };
        (self.longest_us * 3).clamp(least_us, 100 * SECOND_US)
    }
}

fn median(mut prices: Vec<Decimal>) -> Option<Decimal> {
    prices.sort();
    match prices.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(prices[odd / 2]),
        even => Some((prices[even / 2 - 1] + prices[even / 2]) / Decimal::TWO),
    }
}

/// The prices of the included sources, without one.
fn included(models: &[Model], without: usize) -> Vec<Decimal> {
    let others = models
        .iter()
        .enumerate()
        .filter(|(place, _)| *place != without);
    let counted = others.filter(|(_, model)| model.is_live && !model.is_excluded);
    counted.filter_map(|(_, model)| model.price).collect()
}

const NONE: usize = usize::MAX;

/// Excludes above 2 % from the median of the others, includes again below 1 %.
fn exclude_outliers(models: &mut [Model], last_included_us: &mut i64, now_us: i64) {
    let percent = |from: Decimal, to: Decimal| (to - from).abs() / from * Decimal::ONE_HUNDRED;
    if included(models, NONE).is_empty() && now_us - *last_included_us >= 60 * SECOND_US {
        for model in models.iter_mut().filter(|model| model.is_live) {
            model.is_excluded = false;
        }
    }
    if let Some(median) = median(included(models, NONE)) {
        for model in models.iter_mut().filter(|model| model.is_live) {
            if model
                .price
                .is_some_and(|price| percent(median, price) <= Decimal::ONE)
            {
                model.is_excluded = false;
            }
        }
    }
    loop {
        let all = included(models, NONE);
        let mut furthest: Option<(Decimal, usize)> = None;
        for (place, model) in models.iter().enumerate() {
            let Some(price) = model.price.filter(|_| model.is_live && !model.is_excluded) else {
                continue;
            };
            let Some(median) = median(included(models, place)) else {
                continue;
            };
            let far = percent(median, price);
            let agree = all
                .iter()
                .filter(|other| percent(price, **other) <= Decimal::TWO)
                .count();
            let is_camp = agree > 1 && agree * 2 >= all.len();
            if far > Decimal::TWO && !is_camp && furthest.is_none_or(|(most, _)| far > most) {
                furthest = Some((far, place));
            }
        }
        match furthest {
            Some((_, place)) if all.len() >= 3 => models[place].is_excluded = true,
            _ => break,
        }
    }
    if !included(models, NONE).is_empty() {
        *last_included_us = now_us;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_aggregate_matches_the_model(actions in actions()) {
        let sources = NAMES.map(|name| format!("[[source]]\nkind = \"kraken\"\nname = {name:?}"));
        let text = format!("symbols = [\"BTC-USD\"]\nstale_after = \"5s\"\noutlier_percent = 2\n{}", sources.join("\n"));
        let publisher = CapturingPublisher::new();
        let mut aggregator = Aggregator::new(&config(&text), publisher.clone()).unwrap();
        let mut models = vec![Model::default(); NAMES.len()];
        let (mut now, mut last_included_us) = (NOW_US, 0);
        let mut last: Option<Decimal> = None;
        for (number, action) in actions.into_iter().enumerate() {
            let id = |source: usize| aggregator.source(NAMES[source]).unwrap();
            match action {
                Action::Trade { source, cents } => {
                    let price = Decimal::new(cents, 2);
                    let trade = Trade {
                        name: "BTC/USD".into(), id: TradeId::Sparse(number as u64), price, size: Size::Base(price),
                        side: TradeSide::Unspecified, venue_time_us: None,
                    };
                    let id = id(source);
                    aggregator.apply(id, &VenueEvent::Trade(trade), now);
                    models[source].trades.push(price);
                    models[source].record(price, now);
                    exclude_outliers(&mut models, &mut last_included_us, now);
                }
                Action::Ticker { source, cents } => {
                    let price = Decimal::new(cents, 2);
                    let ticker = Ticker { name: "BTC/USD".into(), last: Some(price), ..Ticker::default() };
                    let id = id(source);
                    aggregator.apply(id, &VenueEvent::Ticker(ticker), now);
                    models[source].record(price, now);
                    exclude_outliers(&mut models, &mut last_included_us, now);
                }
                Action::Disconnect(source) => {
                    let id = id(source);
                    aggregator.set_link_state(id, &LinkState::Lost(String::new()), now);
                    models[source].lost_us.get_or_insert(now);
                }
                Action::Connect(source) => {
                    let id = id(source);
                    aggregator.set_link_state(id, &LinkState::Connected, now);
                    (models[source].lost_us, models[source].has_data) = (None, false);
                }
                Action::Pass { ms } => {
                    now += ms * 1_000;
                    aggregator.tick(now);
                    let mut has_ended = false;
                    for model in &mut models {
                        let was_live = model.is_live;
                        if model.lost_us.is_some_and(|lost| lost + 2 * SECOND_US <= now) {
                            (model.lost_us, model.is_live) = (None, false);
                        }
                        model.is_live &= model.heard_us + model.timeout_us() > now;
                        has_ended |= was_live && !model.is_live;
                    }
                    if has_ended {
                        exclude_outliers(&mut models, &mut last_included_us, now);
                    }
                }
            }
            let live = median(included(&models, NONE));
            last = live.or(last);
            let answer = aggregator.price("BTC-USD", now).unwrap();
            let expected = last.map_or("null".to_owned(), |price| price.normalize().to_string());
            prop_assert_eq!(price(&answer), expected);
            prop_assert_eq!(answer.stale, live.is_none());
            prop_assert_eq!(answer.sources as usize, included(&models, NONE).len());
            for (detail, model) in answer.source_details.iter().zip(&models) {
                let state = match (model.is_live, model.is_excluded) {
                    (true, true) => SourceState::Excluded,
                    (true, false) => SourceState::Live,
                    (false, _) => SourceState::Stale,
                };
                prop_assert_eq!(detail.state(), state);
                prop_assert_eq!(detail.weight > 0.0, state == SourceState::Live);
                prop_assert_eq!(detail.reason.is_some(), state != SourceState::Live);
                prop_assert_eq!(detail.trades as usize, model.trades.len());
                let text = |price: Option<&Decimal>| price.map(|price| price.normalize().to_string());
                prop_assert_eq!(detail.min.clone().map(|min| min.value), text(model.trades.iter().min()));
                prop_assert_eq!(detail.max.clone().map(|max| max.value), text(model.trades.iter().max()));
            }
            // The last publication has the same values.
            if let Some(published) = publisher.prices("prices:BTC-USD").last() {
                prop_assert_eq!((price(published), published.sources, published.stale), (price(&answer), answer.sources, answer.stale));
            }
        }
    }
}
