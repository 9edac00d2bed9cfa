//! The aggregate against a model of its rules, written without any cleverness.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use proptest::prelude::*;
use rust_decimal::Decimal;
use support::{Journal, NOW_US, config, price};
use tidewire_price::{
    Aggregator, LinkState,
    venue::{Size, Ticker, Trade, TradeId, VenueEvent},
};
use tidewire_proto::v1::{SourceState, TradeSide};

const SECOND_US: i64 = 1_000_000;
const NAMES: [&str; 4] = ["a", "b", "c", "d"];

#[derive(Debug, Clone)]
enum Step {
    Trade { source: usize, cents: i64 },
    Ticker { source: usize, cents: i64 },
    Lose(usize),
    Connect(usize),
    Pass { ms: i64 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let source = 0..NAMES.len();
    let step = prop_oneof![
        6 => (source.clone(), 9_000..11_000_i64).prop_map(|(source, cents)| Step::Trade { source, cents }),
        3 => (source.clone(), 9_000..11_000_i64).prop_map(|(source, cents)| Step::Ticker { source, cents }),
        1 => source.clone().prop_map(Step::Lose),
        1 => source.prop_map(Step::Connect),
        4 => (1..4_000_i64).prop_map(|ms| Step::Pass { ms }),
    ];
    prop::collection::vec(step, 1..120)
}

/// One source as the rules state it.
#[derive(Debug, Clone, Default)]
struct Model {
    price: Option<Decimal>,
    heard_us: i64,
    lost_us: Option<i64>,
    is_live: bool,
    is_out: bool,
    /// Something came on this connection.
    has_spoken: bool,
    /// The longest silence between messages, in microseconds, and how many there were.
    longest_us: i64,
    silences: usize,
    trades: Vec<Decimal>,
}

impl Model {
    fn says(&mut self, price: Decimal, now_us: i64) {
        if self.has_spoken {
            let silence_us = now_us - self.heard_us;
            let most_us = if self.silences == 0 {
                silence_us
            } else {
                (self.longest_us * 4).max(1_000)
            };
            self.longest_us = self.longest_us.max(silence_us.min(most_us));
            self.silences += 1;
        }
        (self.price, self.heard_us, self.is_live, self.has_spoken) =
            (Some(price), now_us, true, true);
    }

    fn patience_us(&self) -> i64 {
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

/// The prices that count, without that of one source.
fn counted(models: &[Model], without: usize) -> Vec<Decimal> {
    let others = models
        .iter()
        .enumerate()
        .filter(|(place, _)| *place != without);
    let counted = others.filter(|(_, model)| model.is_live && !model.is_out);
    counted.filter_map(|(_, model)| model.price).collect()
}

const NOBODY: usize = usize::MAX;

/// Who is out: above 2 % from the median of the others, back below 1 %.
fn judge(models: &mut [Model], counted_us: &mut i64, now_us: i64) {
    let percent = |from: Decimal, to: Decimal| (to - from).abs() / from * Decimal::ONE_HUNDRED;
    if counted(models, NOBODY).is_empty() && now_us - *counted_us >= 60 * SECOND_US {
        for model in models.iter_mut().filter(|model| model.is_live) {
            model.is_out = false;
        }
    }
    if let Some(median) = median(counted(models, NOBODY)) {
        for model in models.iter_mut().filter(|model| model.is_live) {
            if model
                .price
                .is_some_and(|price| percent(median, price) <= Decimal::ONE)
            {
                model.is_out = false;
            }
        }
    }
    loop {
        let all = counted(models, NOBODY);
        let mut furthest: Option<(Decimal, usize)> = None;
        for (place, model) in models.iter().enumerate() {
            let Some(price) = model.price.filter(|_| model.is_live && !model.is_out) else {
                continue;
            };
            let Some(median) = median(counted(models, place)) else {
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
            Some((_, place)) if all.len() >= 3 => models[place].is_out = true,
            _ => break,
        }
    }
    if !counted(models, NOBODY).is_empty() {
        *counted_us = now_us;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_aggregate_is_that_of_the_rules(steps in steps()) {
        let sources = NAMES.map(|name| format!("[[source]]\nkind = \"kraken\"\nname = {name:?}"));
        let text = format!("symbols = [\"BTC-USD\"]\nstale_after = \"5s\"\noutlier_percent = 2\n{}", sources.join("\n"));
        let journal = Journal::new();
        let mut aggregator = Aggregator::new(&config(&text), journal.clone()).unwrap();
        let mut models = vec![Model::default(); NAMES.len()];
        let (mut now, mut counted_us) = (NOW_US, 0);
        let mut last: Option<Decimal> = None;
        for (number, step) in steps.into_iter().enumerate() {
            let id = |source: usize| aggregator.source(NAMES[source]).unwrap();
            match step {
                Step::Trade { source, cents } => {
                    let price = Decimal::new(cents, 2);
                    let trade = Trade {
                        name: "BTC/USD".into(), id: TradeId::Loose(number as u64), price, size: Size::Base(price),
                        side: TradeSide::Unspecified, venue_time_us: None,
                    };
                    let id = id(source);
                    aggregator.apply(id, &VenueEvent::Trade(trade), now);
                    models[source].trades.push(price);
                    models[source].says(price, now);
                    judge(&mut models, &mut counted_us, now);
                }
                Step::Ticker { source, cents } => {
                    let price = Decimal::new(cents, 2);
                    let ticker = Ticker { name: "BTC/USD".into(), last: Some(price), ..Ticker::default() };
                    let id = id(source);
                    aggregator.apply(id, &VenueEvent::Ticker(ticker), now);
                    models[source].says(price, now);
                    judge(&mut models, &mut counted_us, now);
                }
                Step::Lose(source) => {
                    let id = id(source);
                    aggregator.link(id, &LinkState::Lost(String::new()), now);
                    models[source].lost_us.get_or_insert(now);
                }
                Step::Connect(source) => {
                    let id = id(source);
                    aggregator.link(id, &LinkState::Connected, now);
                    (models[source].lost_us, models[source].has_spoken) = (None, false);
                }
                Step::Pass { ms } => {
                    now += ms * 1_000;
                    aggregator.tick(now);
                    let mut has_ended = false;
                    for model in &mut models {
                        let was_live = model.is_live;
                        if model.lost_us.is_some_and(|lost| lost + 2 * SECOND_US <= now) {
                            (model.lost_us, model.is_live) = (None, false);
                        }
                        model.is_live &= model.heard_us + model.patience_us() > now;
                        has_ended |= was_live && !model.is_live;
                    }
                    if has_ended {
                        judge(&mut models, &mut counted_us, now);
                    }
                }
            }
            let live = median(counted(&models, NOBODY));
            last = live.or(last);
            let answer = aggregator.price("BTC-USD", now).unwrap();
            let expected = last.map_or("null".to_owned(), |price| price.normalize().to_string());
            prop_assert_eq!(price(&answer), expected);
            prop_assert_eq!(answer.stale, live.is_none());
            prop_assert_eq!(answer.sources as usize, counted(&models, NOBODY).len());
            for (detail, model) in answer.source_details.iter().zip(&models) {
                let state = match (model.is_live, model.is_out) {
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
            // Whoever only listens knows the same.
            if let Some(told) = journal.prices("prices:BTC-USD").last() {
                prop_assert_eq!((price(told), told.sources, told.stale), (price(&answer), answer.sources, answer.stale));
            }
        }
    }
}
