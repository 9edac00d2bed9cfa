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
    /// A trade whose number is `skipped` above the next one.
    Trade {
        source: usize,
        cents: i64,
        skipped: u64,
    },
    /// A trade that arrived before, with another price.
    RepeatedTrade {
        source: usize,
        which: prop::sample::Index,
        cents: i64,
    },
    /// A ticker, with the number of a trade at this distance from the highest one.
    Ticker {
        source: usize,
        cents: i64,
        number: Option<i64>,
    },
    /// The last ticker again.
    RepeatedTicker(usize),
    Disconnect(usize),
    Connect(usize),
    Pass {
        ms: i64,
    },
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let source = 0..NAMES.len();
    let cents = || {
        prop_oneof![
            20 => 9_000..11_000_i64,
            1 => 900..1_100_i64,
            1 => 90_000..110_000_i64,
            1 => Just(100_000_i64),
        ]
    };
    let skipped = prop_oneof![4 => Just(0_u64), 1 => 1..5_u64];
    let number = prop::option::of(-3..4_i64);
    let action = prop_oneof![
        6 => (source.clone(), cents(), skipped).prop_map(|(source, cents, skipped)| Action::Trade { source, cents, skipped }),
        1 => (source.clone(), any::<prop::sample::Index>(), cents())
            .prop_map(|(source, which, cents)| Action::RepeatedTrade { source, which, cents }),
        4 => (source.clone(), cents(), number).prop_map(|(source, cents, number)| Action::Ticker { source, cents, number }),
        2 => source.clone().prop_map(Action::RepeatedTicker),
        1 => source.clone().prop_map(Action::Disconnect),
        1 => source.prop_map(Action::Connect),
        4 => (1..4_000_i64).prop_map(|ms| Action::Pass { ms }),
        1 => (50_000..120_000_i64).prop_map(|ms| Action::Pass { ms }),
    ];
    prop::collection::vec(action, 1..120)
}

/// The longest silence between messages, in microseconds, and their number.
#[derive(Debug, Clone, Default)]
struct Silences {
    longest_us: i64,
    count: usize,
}

impl Silences {
    fn record(&mut self, silence_us: i64) {
        let most_us = if self.count == 0 {
            silence_us
        } else {
            (self.longest_us * 4).max(1_000)
        };
        self.longest_us = self.longest_us.max(silence_us.min(most_us));
        self.count += 1;
    }

    fn timeout_us(&self) -> i64 {
        let least_us = if self.count < 32 {
            5 * SECOND_US
        } else {
            5 * SECOND_US / 2
        };
        (self.longest_us * 3).clamp(least_us, 100 * SECOND_US)
    }
}

/// One source as the rules describe it.
#[derive(Debug, Clone, Default)]
struct Model {
    price: Option<Decimal>,
    heard_us: i64,
    lost_us: Option<i64>,
    is_open: bool,
    is_live: bool,
    is_excluded: bool,
    /// Whether data arrived on this connection.
    has_data: bool,
    silences: Silences,
    trades: Vec<Decimal>,
    /// All numbers that arrived, and the highest one on this connection.
    numbers: Vec<u64>,
    highest_here: Option<u64>,
    /// When the last trade arrived on this connection.
    traded_us: Option<i64>,
    trade_silences: Silences,
    last_ticker: Option<(Decimal, Option<u64>)>,
    /// The last number that a ticker had.
    ticker_number: Option<u64>,
    /// An absurd price, and the number of the trade if it was a trade's.
    suspect: Option<(Decimal, Told)>,
}

/// The witnesses of an absurd price.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Told {
    ByTrade(u64),
    /// By a ticker, with its trade's number.
    ByTicker(Option<u64>),
}

fn is_absurd(from: Decimal, to: Decimal) -> bool {
    let ratio = to / from;
    ratio > Decimal::from(5) || ratio < Decimal::new(2, 1)
}

impl Model {
    fn record(&mut self, now_us: i64) {
        if self.has_data {
            self.silences.record(now_us - self.heard_us);
        }
        (self.heard_us, self.is_live, self.has_data) = (now_us, true, true);
    }

    fn highest(&self) -> u64 {
        self.numbers.iter().copied().max().unwrap_or(0)
    }

    /// Numbers between the first and the highest that did not arrive.
    fn missing(&self) -> Option<u64> {
        let first = self.numbers.iter().copied().min()?;
        Some(self.highest() - first + 1 - self.numbers.len() as u64).filter(|missing| *missing > 0)
    }

    /// Whether a trade keeps the price, whatever a ticker without a number says.
    fn is_held(&self, now_us: i64) -> bool {
        let authority_us = if self.trade_silences.count < 32 {
            100 * SECOND_US
        } else {
            self.trade_silences.timeout_us()
        };
        self.traded_us
            .is_some_and(|at_us| now_us < at_us + authority_us)
    }

    fn trade(&mut self, price: Decimal, number: u64, now_us: i64) -> bool {
        self.numbers.push(number);
        self.highest_here = self.highest_here.max(Some(number));
        if self.price.is_some_and(|last| is_absurd(last, price)) {
            let is_second = self.suspect.is_some_and(|(suspect, told)| {
                !is_absurd(suspect, price)
                    && match told {
                        Told::ByTrade(_) => true,
                        Told::ByTicker(told) => told.is_some_and(|told| told != number),
                    }
            });
            if !is_second {
                self.suspect = Some((price, Told::ByTrade(number)));
                return false;
            }
        }
        self.suspect = None;
        if let Some(traded_us) = self.traded_us {
            self.trade_silences.record(now_us - traded_us);
        }
        self.traded_us = Some(now_us);
        self.trades.push(price);
        self.price = Some(price);
        self.record(now_us);
        true
    }

    /// Whether the ticker's price is used. If so, the prices of all sources are judged again.
    fn ticker(&mut self, price: Decimal, number: Option<u64>, now_us: i64) -> bool {
        let is_held = self.is_held(now_us);
        let is_suspect = self.price.is_some_and(|last| is_absurd(last, price));
        if is_suspect {
            let confirmed = self
                .suspect
                .filter(|(suspect, _)| !is_absurd(*suspect, price));
            let is_second = !is_held
                && confirmed.is_some_and(|(suspect, told)| match (told, number) {
                    (Told::ByTrade(told) | Told::ByTicker(Some(told)), Some(own)) => told != own,
                    (Told::ByTicker(None), None) => suspect != price,
                    _ => false,
                });
            if !is_second {
                let is_trade = matches!(self.suspect, Some((_, Told::ByTrade(_))));
                if !(is_held && is_trade) {
                    self.suspect = Some((price, Told::ByTicker(number)));
                }
                return false;
            }
        }
        if is_suspect || !is_held {
            self.suspect = None;
        }
        let is_newer = match number {
            Some(number) if self.numbers.contains(&number) => false,
            Some(number) if self.highest_here.is_some() => Some(number) > self.highest_here,
            _ => !is_held,
        };
        if is_newer {
            self.price = Some(price);
        }
        let told = (price, number.or(self.ticker_number));
        let is_repeated = self.has_data && self.last_ticker == Some(told);
        (self.last_ticker, self.ticker_number) = (Some(told), told.1);
        if !is_repeated {
            self.record(now_us);
        }
        !is_repeated || self.is_live
    }

    fn connect(&mut self) {
        self.lost_us = None;
        if !self.is_open {
            (self.has_data, self.highest_here, self.traded_us) = (false, None, None);
        }
        self.is_open = true;
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
        for action in actions {
            let id = |source: usize| aggregator.source(NAMES[source]).unwrap();
            let trade = |number: u64, price: Decimal| VenueEvent::Trade(Trade {
                name: "BTC/USD".into(), id: TradeId::Single(number), price, size: Size::Base(price),
                side: TradeSide::Unspecified, venue_time_us: None, unexpected: Vec::new(),
            });
            let ticker = |price: Decimal, number: Option<u64>| VenueEvent::Ticker(Ticker {
                name: "BTC/USD".into(), last: Some(price), last_id: number, ..Ticker::default()
            });
            match action {
                Action::Trade { source, cents, skipped } => {
                    let (price, model) = (Decimal::new(cents, 2), &mut models[source]);
                    let number = model.highest() + 1 + skipped;
                    let id = id(source);
                    aggregator.apply(id, &trade(number, price), now);
                    if model.trade(price, number, now) {
                        exclude_outliers(&mut models, &mut last_included_us, now);
                    }
                }
                Action::RepeatedTrade { source, which, cents } => {
                    let model = &mut models[source];
                    if model.numbers.is_empty() {
                        continue;
                    }
                    let number = *which.get(&model.numbers);
                    let id = id(source);
                    aggregator.apply(id, &trade(number, Decimal::new(cents, 2)), now);
                    model.highest_here = model.highest_here.max(Some(number));
                }
                Action::Ticker { source, cents, number } => {
                    let (price, model) = (Decimal::new(cents, 2), &mut models[source]);
                    let number = number.map(|more| model.highest().saturating_add_signed(more));
                    let id = id(source);
                    aggregator.apply(id, &ticker(price, number), now);
                    if model.ticker(price, number, now) {
                        exclude_outliers(&mut models, &mut last_included_us, now);
                    }
                }
                Action::RepeatedTicker(source) => {
                    let model = &mut models[source];
                    let Some((price, number)) = model.last_ticker else { continue };
                    let id = id(source);
                    aggregator.apply(id, &ticker(price, number), now);
                    if model.ticker(price, number, now) {
                        exclude_outliers(&mut models, &mut last_included_us, now);
                    }
                }
                Action::Disconnect(source) => {
                    let id = id(source);
                    aggregator.set_link_state(id, &LinkState::Lost(String::new()), now);
                    models[source].lost_us.get_or_insert(now);
                    models[source].is_open = false;
                }
                Action::Connect(source) => {
                    let id = id(source);
                    aggregator.set_link_state(id, &LinkState::Connected, now);
                    models[source].connect();
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
                        model.is_live &= model.heard_us + model.silences.timeout_us() > now;
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
                prop_assert_eq!(detail.missing, model.missing());
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
