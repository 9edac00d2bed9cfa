//! Support: an evaluator with a clock, driven by short calls.
#![allow(dead_code, reason = "each suite uses what it needs")]

use std::collections::BTreeMap;

use tidewire_alert::{
    Catalog, Condition, Decimal, Evaluator, EvaluatorConfig, Fire, Input, Leaf, Limits, Now,
    Output, Phase, Repeat, Rule, RuleError, RuleState, SignalKind, Subject, SubjectValue, Test,
    Tick,
};
use tidewire_proto::v1::AlertRule;

pub(crate) const START_MS: i64 = 1_700_000_000_000;
pub(crate) const SECOND_MS: u64 = 1_000;
pub(crate) const HOUR_MS: u64 = 3_600_000;

pub(crate) fn decimal(text: &str) -> Decimal {
    text.parse().unwrap()
}

pub(crate) fn btc() -> Subject {
    Subject::Symbol("BTC-USD".into())
}

pub(crate) fn leaf(test: Test) -> Condition {
    signal(SignalKind::Value, test)
}

pub(crate) fn signal(signal: SignalKind, test: Test) -> Condition {
    Condition::Leaf(Leaf {
        subject: btc(),
        signal,
        test,
    })
}

pub(crate) fn above(threshold: &str) -> Condition {
    leaf(Test::Above(decimal(threshold)))
}

pub(crate) fn crosses_up(threshold: &str, hysteresis: &str) -> Condition {
    leaf(Test::CrossesUp {
        threshold: decimal(threshold),
        hysteresis: decimal(hysteresis),
    })
}

pub(crate) fn rule(condition: Condition) -> Rule {
    Rule {
        condition,
        repeat: Repeat::Recurring,
        cooldown_ms: 0,
        expires_at_ms: None,
        snoozed_until_ms: None,
        is_enabled: true,
        version: 1,
    }
}

pub(crate) struct World {
    pub(crate) evaluator: Evaluator,
    pub(crate) now: Now,
    pub(crate) outputs: Vec<Output>,
    rules: BTreeMap<u32, Rule>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with_chunk(1_024)
    }

    pub(crate) fn with_chunk(chunk: usize) -> Self {
        let config = EvaluatorConfig {
            chunk,
            ..EvaluatorConfig::default()
        };
        Self {
            evaluator: Evaluator::new(config),
            now: Now {
                wall_ms: START_MS,
                monotonic_ms: 10,
            },
            outputs: Vec::new(),
            rules: BTreeMap::new(),
        }
    }

    /// A world with one rule in slot 0.
    pub(crate) fn of(rule: &Rule) -> Self {
        let mut world = Self::new();
        world.insert(0, rule);
        world
    }

    pub(crate) fn insert(&mut self, slot: u32, rule: &Rule) {
        self.evaluator
            .insert(slot, rule, RuleState::new(), self.now)
            .unwrap();
        self.rules.insert(slot, rule.clone());
    }

    /// Changes a rule, with the next version.
    pub(crate) fn update(&mut self, slot: u32, change: impl FnOnce(&mut Rule)) {
        let rule = self.rules.get_mut(&slot).unwrap();
        change(rule);
        rule.version += 1;
        self.evaluator.update(slot, rule, self.now).unwrap();
    }

    pub(crate) fn advance(&mut self, ms: u64) {
        self.now.monotonic_ms += ms;
        self.now.wall_ms += i64::try_from(ms).unwrap();
        self.evaluator.advance(self.now);
    }

    pub(crate) fn apply(&mut self, subject: &Subject, input: Input) {
        let id = self.evaluator.intern(subject);
        self.evaluator.apply(id, input, self.now).unwrap();
    }

    pub(crate) fn price_of(&mut self, subject: &Subject, price: &str) -> Vec<u32> {
        let tick = Tick::new(decimal(price), self.now.wall_ms * 1_000);
        self.apply(subject, Input::Price { tick, volume: None });
        self.slots()
    }

    /// A price of BTC-USD. Returns the slots of the rules that fired.
    pub(crate) fn price(&mut self, price: &str) -> Vec<u32> {
        self.price_of(&btc(), price)
    }

    /// The number of fires of these prices.
    pub(crate) fn prices(&mut self, prices: &[&str]) -> usize {
        prices.iter().map(|price| self.price(price).len()).sum()
    }

    pub(crate) fn poll(&mut self) -> Vec<Output> {
        let mut outputs = Vec::new();
        while self.evaluator.poll(100, &mut outputs) {}
        self.outputs.extend(outputs.iter().cloned());
        outputs
    }

    pub(crate) fn fires(&mut self) -> Vec<Fire> {
        let fires = self.poll().into_iter().filter_map(|output| match output {
            Output::Fire(fire) => Some(fire),
            _ => None,
        });
        fires.collect()
    }

    pub(crate) fn slots(&mut self) -> Vec<u32> {
        self.fires().iter().map(|fire| fire.slot).collect()
    }

    pub(crate) fn phase(&self, slot: u32) -> Phase {
        self.evaluator.phase(slot, self.now).unwrap()
    }

    pub(crate) fn reason(&self, slot: u32) -> String {
        self.evaluator
            .explain(slot, &self.rules[&slot], self.now)
            .unwrap()
            .reason
    }

    /// Stores everything, stops, and starts again after `away_ms`.
    pub(crate) fn restart(&mut self, away_ms: u64) {
        self.poll();
        let values = self.evaluator.changed_values(usize::MAX);
        self.restart_from(values, away_ms);
    }

    /// Starts again with values that were stored before the states of the rules.
    pub(crate) fn restart_from(&mut self, values: Vec<(Subject, SubjectValue)>, away_ms: u64) {
        self.poll();
        let states: Vec<_> = self
            .rules
            .keys()
            .map(|slot| {
                (
                    *slot,
                    self.evaluator.state(*slot, self.now).unwrap().encode(),
                )
            })
            .collect();
        self.now.wall_ms += i64::try_from(away_ms).unwrap();
        self.now.monotonic_ms = 3;
        self.evaluator = Evaluator::new(EvaluatorConfig::default());
        for (subject, value) in values {
            self.evaluator.restore_value(&subject, value, self.now);
        }
        for (slot, state) in states {
            let state = RuleState::decode(&state).unwrap();
            self.evaluator
                .insert(slot, &self.rules[&slot], state, self.now)
                .unwrap();
        }
        self.evaluator.finish_load();
    }
}

/// A server that knows two symbols, one chain and one currency.
pub(crate) struct Names;

impl Catalog for Names {
    fn symbol(&self, name: &str) -> Option<String> {
        let name = name.to_ascii_uppercase();
        self.symbols().into_iter().find(|known| *known == name)
    }

    fn symbols(&self) -> Vec<String> {
        vec!["BTC-USD".to_owned(), "ETH-USD".to_owned()]
    }

    fn has_chain(&self, chain: u64) -> bool {
        chain == 1
    }

    fn has_currency(&self, currency: &str) -> bool {
        currency == "USD"
    }
}

/// Checks a rule as registration does.
pub(crate) fn check(rule: &AlertRule, template: Option<&str>) -> Result<Rule, RuleError> {
    let now = Now {
        wall_ms: START_MS,
        monotonic_ms: 1,
    };
    Rule::from_proto(rule, "ada", template, &Limits::default(), &Names, now)
}
