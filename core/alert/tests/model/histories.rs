//! Histories: random inputs, edits, stores and restarts, made on both evaluators.

mod rules;

use std::collections::BTreeMap;

use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use tidewire_alert::{
    Condition, Decimal, Evaluator, EvaluatorConfig, Input, Leaf, Now, Output, Rule, RuleState,
    SignalKind, Subject, SubjectValue, Tick,
};
use tidewire_proto::v1::TransactionState;

use crate::naive::{Arrival, CATCH_UP_MS, Event, Naive};

const SLOTS: u32 = 8;
const OPERATIONS: u32 = 60;

/// Subject that a history mostly has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Focus {
    /// All kinds of rules.
    Wide,
    /// One rule at a time about a portfolio or the gas price, which no other rule keeps.
    Alone,
    /// Crossings of either direction with cooldowns.
    Either,
    /// Transactions, beside prices that fire the same rules.
    Transactions,
}

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
    focus: Focus,
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

/// States that rules wait for, the frequent ones twice.
const STATES: [TransactionState; 10] = [
    TransactionState::Pending,
    TransactionState::Confirming,
    TransactionState::Confirming,
    TransactionState::Confirmed,
    TransactionState::Confirmed,
    TransactionState::Finalized,
    TransactionState::Failed,
    TransactionState::Replaced,
    TransactionState::Cancelled,
    TransactionState::Dropped,
];

impl Run {
    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from.choose(&mut self.random).unwrap().clone()
    }

    fn chance(&mut self, one_in: u32) -> bool {
        self.random.random_ratio(1, one_in)
    }

    fn value(&mut self) -> Decimal {
        if self.chance(4) {
            return self.threshold();
        }
        let base = if self.chance(6) { 40..200 } else { 188..214 };
        Decimal::from(self.random.random_range(base)) / Decimal::TWO
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
                    self.stored.insert(slot, *state);
                    (slot, Event::Retract)
                }
                Output::Stop { slot, state, .. } => {
                    self.stored.insert(slot, *state);
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

    fn slots(&self) -> u32 {
        match self.focus {
            Focus::Alone => 2,
            _ => SLOTS,
        }
    }

    fn compare(&mut self) {
        self.drain();
        let now = self.now;
        for slot in 0..self.slots() {
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
                let ours = self.evaluator.explain(slot, rule, now).unwrap();
                let is_plain = rule.condition.leaves()[ours.test].signal == SignalKind::Value;
                let value = ours.value.filter(|_| is_plain);
                assert_eq!(
                    (ours.decision, ours.holds, value),
                    self.naive.explanation(slot, now),
                    "slot {slot}: {} {rule:?}",
                    ours.reason
                );
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
        let number = match self.focus {
            Focus::Wide => self.pick(&[0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 3, 3, 4]),
            Focus::Alone => self.pick(&[2, 3, 3, 3]),
            Focus::Either => 0,
            Focus::Transactions => self.pick(&[0, 4]),
        };
        let subject = all[number].clone();
        let formed_us = self.now.wall_ms * 1_000;
        if number == 4 {
            let state = match self.chance(8) {
                true => TransactionState::Unknown,
                false => self.pick(&STATES),
            };
            let is_retraction = self.chance(3);
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
        let slot = self.random.random_range(0..self.slots());
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
        self.judge_before(&rule);
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

    /// Judges what waits, before an edit of a rule about a subject or a window that is forgotten
    /// with its last rule: whether that has fired for the last time decides what the edited rule
    /// knows. The page says so of windows.
    fn judge_before(&mut self, rule: &Rule) {
        let is_forgotten = |leaf: &Leaf| {
            let is_kept = matches!(leaf.signal, SignalKind::Value | SignalKind::Age);
            !is_kept || !matches!(leaf.subject, Subject::Symbol(_))
        };
        if rule.condition.leaves().into_iter().any(is_forgotten) {
            self.drain();
        }
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
        self.judge_before(&rule);
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
        self.evaluator.finish_load();
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
        focus: match seed % 8 {
            0 => Focus::Alone,
            1 => Focus::Either,
            2 => Focus::Transactions,
            _ => Focus::Wide,
        },
        is_verbose: std::env::var("TIDEWIRE_MODEL_VERBOSE").is_ok(),
    };
    for subject in &subjects()[..2] {
        run.evaluator.intern(subject);
        run.naive.intern(subject);
    }
    for slot in 0..run.slots() / 2 {
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
