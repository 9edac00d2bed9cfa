//! Histories: random inputs, edits, stores and restarts, made on both evaluators.

use std::collections::BTreeMap;

use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use tidewire_alert::{
    Condition, Decimal, Evaluator, EvaluatorConfig, Input, Leaf, Now, Output, Repeat, Rule,
    RuleState, SignalKind, Subject, SubjectValue, Test, Tick,
};
use tidewire_proto::v1::TransactionState;

use crate::naive::{Arrival, CATCH_UP_MS, Event, Naive};

const SLOTS: u32 = 8;
const OPERATIONS: u32 = 60;

struct Run {
    random: StdRng,
    evaluator: Evaluator,
    naive: Naive,
    now: Now,
    version: u32,
    /// Whether each version has one test, and that of a plain value.
    forms: BTreeMap<u32, (bool, bool)>,
    rules: BTreeMap<u32, Rule>,
    events: BTreeMap<u32, Vec<Event>>,
    stored: BTreeMap<u32, RuleState>,
    stored_values: BTreeMap<Subject, SubjectValue>,
    is_verbose: bool,
    /// Whether values wait to be judged while time passes. A deferred passage may then fire later
    /// than its block ends, so that there are none.
    is_lazy: bool,
}

fn config(chunk: usize) -> EvaluatorConfig {
    EvaluatorConfig {
        catch_up_ms: CATCH_UP_MS,
        chunk,
    }
}

fn decimal(text: &str) -> Decimal {
    text.parse().unwrap()
}

fn subjects() -> [Subject; 5] {
    [
        Subject::Symbol("A".into()),
        Subject::Symbol("B".into()),
        Subject::Gas(1),
        Subject::Portfolio {
            user: "u".into(),
            portfolio: "p".into(),
        },
        Subject::Transaction {
            chain: 1,
            hash: "0x1".into(),
        },
    ]
}

const STATES: [TransactionState; 5] = [
    TransactionState::Pending,
    TransactionState::Confirming,
    TransactionState::Confirmed,
    TransactionState::Failed,
    TransactionState::Dropped,
];

impl Run {
    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from.choose(&mut self.random).unwrap().clone()
    }

    fn chance(&mut self, one_in: u32) -> bool {
        self.random.random_ratio(1, one_in)
    }

    fn threshold(&mut self) -> Decimal {
        // Two of them differ only beyond the digits of a double.
        decimal(self.pick(&[
            "95",
            "100",
            "100.5",
            "102",
            "100.00000000000000001",
            "99.99999999999999999",
        ]))
    }

    fn value(&mut self) -> Decimal {
        if self.chance(4) {
            return self.threshold();
        }
        let base = if self.chance(6) { 40..200 } else { 188..214 };
        Decimal::from(self.random.random_range(base)) / Decimal::TWO
    }

    fn leaf(&mut self) -> Leaf {
        let all = subjects();
        let number = self.pick(&[0, 0, 0, 0, 1, 1, 2, 3, 3, 4]);
        let subject = all[number].clone();
        if number == 4 {
            let test = Test::Reaches(self.pick(&STATES));
            return Leaf {
                subject,
                signal: SignalKind::State,
                test,
            };
        }
        let window_ms = self.pick(&[6_000, 6_000, 6_050]);
        let percent = decimal(self.pick(&["1", "5", "0.5"]));
        let signals = match number {
            0 | 1 => 6,
            3 => 5,
            _ => 1,
        };
        let pick = if self.chance(2) {
            0
        } else {
            self.random.random_range(0..signals)
        };
        let (signal, test) = match (number, pick) {
            (0 | 1, 1) | (3, 1) => {
                let test = if self.chance(2) {
                    Test::Above(percent)
                } else {
                    Test::Below(-percent)
                };
                (SignalKind::ChangePercent { window_ms }, test)
            }
            (0 | 1, 2) => {
                let slow_ms = 2 * window_ms;
                let test =
                    self.pick(&[Test::TurnsPositive, Test::TurnsNegative, Test::TurnsEither]);
                (
                    SignalKind::AverageGap {
                        fast_ms: window_ms,
                        slow_ms,
                    },
                    test,
                )
            }
            (0 | 1, 3) => (
                SignalKind::VolumeRatio {
                    window_ms: self.pick(&[600, 650]),
                },
                Test::Above(decimal(self.pick(&["1.5", "3"]))),
            ),
            (0 | 1, 4 | 5) => {
                let after: u32 = self.pick(&[1_000, 1_000, 5_000, 60_000]);
                (SignalKind::Age, Test::Above(Decimal::from(after)))
            }
            (3, 2) => (
                SignalKind::ChangeAbsolute { window_ms },
                Test::Above(Decimal::TWO),
            ),
            (3, 3) => {
                let window_ms = self.pick(&[None, Some(window_ms)]);
                (
                    SignalKind::DrawdownPercent { window_ms },
                    Test::Above(percent),
                )
            }
            (3, 4) => {
                let window_ms = self.pick(&[None, Some(window_ms)]);
                (
                    SignalKind::DrawdownAbsolute { window_ms },
                    Test::Above(Decimal::TWO),
                )
            }
            _ => (SignalKind::Value, self.value_test()),
        };
        Leaf {
            subject,
            signal,
            test,
        }
    }

    fn value_test(&mut self) -> Test {
        let threshold = self.threshold();
        let hysteresis = decimal(self.pick(&["0", "0", "2", "5"]));
        let high = threshold + decimal(self.pick(&["1", "4"]));
        let low = threshold;
        match self.random.random_range(0..8) {
            0 | 1 => Test::Above(threshold),
            2 | 3 => Test::Below(threshold),
            4 => Test::CrossesUp {
                threshold,
                hysteresis,
            },
            5 => Test::CrossesDown {
                threshold,
                hysteresis,
            },
            6 => Test::CrossesEither {
                threshold,
                hysteresis,
            },
            _ if self.chance(2) => Test::Enters { low, high },
            _ => Test::Exits { low, high },
        }
    }

    fn condition(&mut self) -> Condition {
        if !self.chance(3) {
            return Condition::Leaf(self.leaf());
        }
        let count = self.random.random_range(1..4);
        let mut list = Vec::new();
        let is_all = self.chance(2);
        let mut has_crossing = false;
        for _ in 0..count {
            let one = match self.chance(6) {
                true => Condition::Any(vec![
                    Condition::Leaf(self.leaf()),
                    Condition::Leaf(self.leaf()),
                ]),
                false => Condition::Leaf(self.leaf()),
            };
            let crosses = one.leaves().iter().any(|leaf| leaf.test.is_crossing());
            // As registration does, except for a window of their own.
            if is_all && crosses && has_crossing {
                continue;
            }
            has_crossing |= crosses;
            list.push(one);
        }
        if is_all {
            Condition::All(list)
        } else {
            Condition::Any(list)
        }
    }

    fn rule(&mut self) -> Rule {
        self.version += 1;
        let repeat = self.pick(&[
            Repeat::Recurring,
            Repeat::Recurring,
            Repeat::Times(1),
            Repeat::Times(2),
            Repeat::Times(20),
        ]);
        let cooldown_ms = self.pick(&[0, 0, 700, 5_000, 20_000, 400_000]);
        let snoozed_until_ms = self.time();
        Rule {
            condition: self.condition(),
            repeat,
            cooldown_ms: if self.is_lazy { 0 } else { cooldown_ms },
            expires_at_ms: self.time(),
            snoozed_until_ms: snoozed_until_ms.filter(|_| !self.is_lazy),
            is_enabled: !self.chance(12),
            version: self.version,
        }
    }

    fn time(&mut self) -> Option<i64> {
        let after = self.pick(&[500, 5_000, 100_000]);
        self.chance(6).then_some(self.now.wall_ms + after)
    }

    fn note(&mut self, rule: &Rule) {
        let leaves = rule.condition.leaves();
        let is_single = matches!(rule.condition, Condition::Leaf(_));
        let is_plain = is_single && leaves[0].signal == SignalKind::Value;
        self.forms.insert(rule.version, (is_single, is_plain));
    }

    fn pass_time(&mut self) {
        let step = match self.random.random_range(0..40) {
            0 => 70_000,
            1 => 400_000,
            2..10 => self.random.random_range(1_000..5_000),
            10..14 => 0,
            _ => self.random.random_range(1..300),
        };
        let target_ms = self.now.monotonic_ms + step;
        if !self.is_lazy {
            self.drain();
        }
        // The caller advances time at each deadline.
        while let Some(due_ms) = self
            .evaluator
            .next_deadline()
            .filter(|due_ms| *due_ms < target_ms)
        {
            self.shift((due_ms - self.now.monotonic_ms).max(1));
            self.evaluator.advance(self.now);
            self.naive.advance(self.now);
            if !self.is_lazy {
                self.drain();
            }
        }
        self.shift(target_ms - self.now.monotonic_ms);
        if self.chance(60) {
            self.now.wall_ms += self.pick(&[-3_600_000, -2_000, 2_000, 600_000]);
        }
    }

    fn shift(&mut self, ms: u64) {
        self.now.monotonic_ms += ms;
        self.now.wall_ms += ms as i64;
    }

    fn collect(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            let (slot, event) = match output {
                Output::Fire(fire) => {
                    let (is_single, is_plain) = self.forms[&fire.version];
                    let event = Event::Fire {
                        version: fire.version,
                        value: is_plain.then_some(fire.value),
                        price: if is_single { fire.price } else { Decimal::ZERO },
                        at: fire.at,
                        is_catch_up: fire.is_catch_up,
                    };
                    self.stored.insert(fire.slot, fire.state());
                    (fire.slot, event)
                }
                Output::Retract { slot, state, .. } => {
                    self.stored.insert(slot, state);
                    (slot, Event::Retract)
                }
                Output::Stop { slot, state, .. } => {
                    self.stored.insert(slot, state);
                    (slot, Event::Stop)
                }
                Output::Vanish { slot } => (slot, Event::Vanish),
                Output::Change { .. } => continue,
            };
            self.events.entry(slot).or_default().push(event);
        }
    }

    fn drain(&mut self) {
        let mut outputs = Vec::new();
        while self.evaluator.poll(3, &mut outputs) {}
        self.collect(outputs);
    }

    fn compare(&mut self) {
        self.drain();
        let now = self.now;
        for slot in 0..SLOTS {
            let (ours, theirs) = (self.events.get(&slot), self.naive.events.get(&slot));
            assert_eq!(ours, theirs, "slot {slot}: {:?}", self.rules.get(&slot));
            if let Some(phase) = self.naive.phase(slot, now) {
                assert_eq!(
                    self.evaluator.phase(slot, now),
                    Some(phase),
                    "slot {slot}: {:?}",
                    self.rules.get(&slot)
                );
            }
            if let Some(rule) = self.rules.get(&slot) {
                assert!(self.evaluator.explain(slot, rule, now).is_some());
            }
        }
    }

    fn say(&self, words: impl FnOnce() -> String) {
        if self.is_verbose {
            println!("  {}", words());
        }
    }

    fn apply(&mut self, subject: &Subject, input: Input) {
        self.say(|| format!("{subject:?} {input:?}"));
        let Some(id) = self.evaluator.subject(subject) else {
            self.evaluator.advance(self.now);
            return;
        };
        if self.evaluator.apply(id, input.clone(), self.now).is_err() {
            self.drain();
            self.evaluator.apply(id, input, self.now).unwrap();
        }
    }

    fn value_arrives(&mut self) {
        let all = subjects();
        let number = self.pick(&[0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 3, 3, 4]);
        let subject = all[number].clone();
        let formed_us = self.now.wall_ms * 1_000;
        if number == 4 {
            let (state, is_retraction) = (self.pick(&STATES), self.chance(3));
            let input = Input::Transaction {
                state,
                is_retraction,
                observed_us: formed_us,
            };
            self.apply(&subject, input);
            let value = Decimal::from(state as i32);
            self.naive.arrive(
                &subject,
                Arrival {
                    value,
                    volume: None,
                    currency: None,
                    is_retraction,
                },
                self.now,
            );
            return;
        }
        let value = self.value();
        let tick = Tick::new(value, formed_us);
        let mut arrival = Arrival {
            value,
            volume: None,
            currency: None,
            is_retraction: false,
        };
        let input = match number {
            2 => Input::Gas(tick),
            3 => {
                let currency: Box<str> = if self.chance(20) { "EUR" } else { "USD" }.into();
                arrival.currency = Some(currency.clone());
                Input::Portfolio { tick, currency }
            }
            _ => {
                let volume = self.random.random_range(0..20);
                let volume = (!self.chance(5)).then_some(Decimal::from(volume));
                arrival.volume = volume;
                Input::Price { tick, volume }
            }
        };
        self.apply(&subject, input);
        self.naive.arrive(&subject, arrival, self.now);
    }

    fn operation(&mut self) {
        if self.is_verbose {
            let count = |events: &BTreeMap<u32, Vec<Event>>| -> Vec<_> {
                events
                    .iter()
                    .map(|(slot, events)| (*slot, events.len()))
                    .collect()
            };
            println!(
                "{:?} {:?} {:?}",
                self.now,
                count(&self.events),
                count(&self.naive.events)
            );
        }
        if self.chance(3) {
            self.pass_time();
        }
        let now = self.now;
        let slot = self.random.random_range(0..SLOTS);
        match self.random.random_range(0..100) {
            0..62 => self.value_arrives(),
            62..70 => {
                self.evaluator.advance(now);
                self.naive.advance(now);
            }
            70..73 => {
                let subject = subjects()[self.pick(&[0, 1, 2])].clone();
                self.apply(&subject, Input::Stale);
                self.naive.stale(&subject, now);
            }
            73..75 => {
                let subject = subjects()[self.pick(&[0, 1])].clone();
                self.apply(&subject, Input::Correction);
                self.naive.correct(&subject, now);
            }
            75 => {
                let subject = subjects()[self.pick(&[0, 1])].clone();
                self.apply(&subject, Input::Vanished);
                self.naive.vanish(&subject, now);
            }
            // A bad tick.
            76 => self.apply_nothing(),
            77..84 => self.insert(slot),
            84..93 => self.update(slot),
            93..95 => {
                self.say(|| format!("remove {slot}"));
                self.rules.remove(&slot);
                self.evaluator.advance(now);
                self.evaluator.remove(slot);
                self.naive.advance(now);
                self.naive.remove(slot, now);
                self.drain();
                self.stored.remove(&slot);
                self.naive.store_rule(slot, now);
            }
            95..97 => self.store(),
            97 => self.restart(),
            _ => {
                let count = self.random.random_range(1..30);
                for _ in 0..count {
                    self.value_arrives();
                }
            }
        }
    }

    fn apply_nothing(&mut self) {
        let value = Decimal::from(self.pick(&[0, -5]));
        let tick = Tick::new(value, 0);
        self.apply(
            &subjects()[0],
            Input::Price {
                tick,
                volume: Some(Decimal::ONE),
            },
        );
        self.naive.advance(self.now);
    }

    fn insert(&mut self, slot: u32) {
        let (rule, now) = (self.rule(), self.now);
        self.note(&rule);
        self.say(|| format!("{slot}: {rule:?}"));
        // A slot has one rule after the other.
        self.evaluator.advance(now);
        self.evaluator.remove(slot);
        self.naive.advance(now);
        self.naive.remove(slot, now);
        self.evaluator
            .insert(slot, &rule, RuleState::new(), now)
            .unwrap();
        self.naive.insert(slot, rule.clone(), now);
        self.rules.insert(slot, rule);
        self.store_rule(slot);
    }

    fn store_rule(&mut self, slot: u32) {
        self.drain();
        let state = self.evaluator.state(slot, self.now).unwrap();
        self.stored.insert(slot, state);
        self.naive.store_rule(slot, self.now);
    }

    fn update(&mut self, slot: u32) {
        let Some(mut rule) = self.rules.get(&slot).cloned() else {
            return;
        };
        let other = self.rule();
        match self.random.random_range(0..9) {
            0 => rule.condition = other.condition,
            1 => rule.repeat = other.repeat,
            2 => rule.cooldown_ms = other.cooldown_ms,
            3 => rule.expires_at_ms = self.time(),
            4 | 5 => rule.snoozed_until_ms = other.snoozed_until_ms,
            6 | 7 => rule.is_enabled = !rule.is_enabled,
            _ => {}
        }
        rule.version = other.version;
        self.note(&rule);
        self.say(|| format!("{slot}: {rule:?}"));
        self.evaluator.update(slot, &rule, self.now).unwrap();
        self.naive.update(slot, rule.clone(), self.now);
        self.rules.insert(slot, rule);
        self.store_rule(slot);
    }

    fn store(&mut self) {
        self.say(|| "store".to_owned());
        self.drain();
        for slot in self.rules.keys() {
            self.stored
                .insert(*slot, self.evaluator.state(*slot, self.now).unwrap());
        }
        self.stored_values
            .extend(self.evaluator.changed_values(usize::MAX));
        self.naive.store(self.now);
    }

    fn restart(&mut self) {
        self.compare();
        let away = self.pick(&[10, 2_000, 100_000, 299_000, 400_000]);
        self.now = Now {
            wall_ms: self.now.wall_ms + away,
            monotonic_ms: self.pick(&[0, 7, 1_000_000]),
        };
        let chunk = self.pick(&[1, 2, 256]);
        self.say(|| format!("restart {:?}", self.now));
        self.naive.restart(self.now);
        self.evaluator = Evaluator::new(config(chunk));
        for (subject, value) in &self.stored_values {
            if self.naive.subjects.contains_key(subject) {
                self.evaluator
                    .restore_value(subject, value.clone(), self.now);
            }
        }
        for subject in &subjects()[..2] {
            self.evaluator.intern(subject);
        }
        for (slot, rule) in &self.rules {
            let state = RuleState::decode(&self.stored[slot].encode()).unwrap();
            // As the engine does.
            self.evaluator.load(None, *slot, rule, state, self.now);
        }
    }
}

/// Runs one history and returns the number of events.
pub(crate) fn run(seed: u64) -> u64 {
    let mut random = StdRng::seed_from_u64(seed);
    let chunk = *[1, 2, 256].choose(&mut random).unwrap();
    let mut run = Run {
        random,
        evaluator: Evaluator::new(config(chunk)),
        naive: Naive::default(),
        now: Now {
            wall_ms: 1_700_000_000_000,
            monotonic_ms: 5,
        },
        version: 0,
        forms: BTreeMap::new(),
        rules: BTreeMap::new(),
        events: BTreeMap::new(),
        stored: BTreeMap::new(),
        stored_values: BTreeMap::new(),
        is_lazy: seed.is_multiple_of(3),
        is_verbose: std::env::var("TIDEWIRE_MODEL_VERBOSE").is_ok(),
    };
    for subject in &subjects()[..2] {
        run.evaluator.intern(subject);
        run.naive.intern(subject);
    }
    for slot in 0..SLOTS / 2 {
        run.insert(slot);
    }
    for _ in 0..OPERATIONS {
        run.operation();
        match run.random.random_range(0..4) {
            0 => {
                let mut outputs = Vec::new();
                run.evaluator.poll(1, &mut outputs);
                run.collect(outputs);
            }
            1 => {}
            _ => run.compare(),
        }
    }
    run.compare();
    run.events.values().map(|events| events.len() as u64).sum()
}
