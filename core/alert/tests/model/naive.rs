//! Naive evaluator: `docs/alerts.md`, section "How a rule is judged", word by word. It keeps whole
//! histories and looks at every rule at every input.

use std::collections::{BTreeMap, BTreeSet};

use tidewire_alert::{Condition, Decimal, Leaf, Now, Phase, Repeat, Rule, SignalKind, Subject};

use crate::{
    numbers::{NaiveSubject, Source},
    truths::{is_back, is_crossing, is_true, tree},
};

pub(crate) const CATCH_UP_MS: u64 = 300_000;
const STOP_MS: i64 = 180_000;

/// An output, in the form that both evaluators have.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Event {
    Fire {
        version: u32,
        /// Of rules with one test of a plain value.
        value: Option<Decimal>,
        price: Decimal,
        at: Now,
        is_catch_up: bool,
    },
    Retract,
    Stop,
    Vanish,
}

/// The memory of one direction of a test: `None` before the first value.
pub(crate) type Side = Option<bool>;

#[derive(Debug, Clone)]
pub(crate) struct NaiveRule {
    pub(crate) rule: Rule,
    /// For each test, the sides of its directions.
    pub(crate) sides: Vec<[Side; 2]>,
    /// The directions that passed when the rule last fired or was to fire, and are not back.
    pub(crate) passed: Vec<[bool; 2]>,
    left: Option<u32>,
    cooldown_from_ms: Option<i64>,
    pub(crate) is_deferred: bool,
    /// The first value fires nothing.
    is_quiet: bool,
    /// Whether the last fire would not have been without its transactions.
    needs_transaction: bool,
    /// The newest value of its subjects at each fire in this run, by number. Values are forgotten
    /// with their subjects, so that an older one may be the newest again.
    pub(crate) fired_at: BTreeSet<u64>,
    is_stopped: bool,
    has_expired: bool,
    /// Whether the condition was true, without crossings.
    level: Option<bool>,
    recent_ms: Vec<i64>,
}

/// The effect of an input on a subject.
#[derive(Debug, Clone)]
pub(crate) struct Arrival {
    pub(crate) value: Decimal,
    pub(crate) volume: Option<Decimal>,
    pub(crate) currency: Option<Box<str>>,
    pub(crate) is_retraction: bool,
}

/// How the rules see a judgement.
#[derive(Debug, Clone, Copy, Default)]
struct View {
    is_baseline: bool,
    is_catch_up: bool,
    is_retraction: bool,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Naive {
    pub(crate) rules: BTreeMap<u32, NaiveRule>,
    pub(crate) subjects: BTreeMap<Subject, NaiveSubject>,
    pub(crate) events: BTreeMap<u32, Vec<Event>>,
    /// Rules as they were stored.
    pub(crate) stored: BTreeMap<u32, (NaiveRule, Now)>,
    stored_values: BTreeMap<Subject, NaiveSubject>,
    arrivals: u64,
}

pub(crate) fn ms(now: Now) -> i64 {
    i64::try_from(now.monotonic_ms).unwrap()
}

impl NaiveRule {
    fn new(rule: Rule) -> Self {
        let tests = rule.condition.leaves().len();
        Self {
            left: all_fires(&rule),
            rule,
            sides: vec![[None; 2]; tests],
            passed: vec![[false; 2]; tests],
            cooldown_from_ms: None,
            is_deferred: false,
            is_quiet: false,
            needs_transaction: false,
            fired_at: BTreeSet::new(),
            is_stopped: false,
            has_expired: false,
            level: None,
            recent_ms: Vec::new(),
        }
    }

    pub(crate) fn is_single(&self) -> bool {
        matches!(self.rule.condition, Condition::Leaf(_))
    }

    pub(crate) fn is_of_transaction(&self) -> bool {
        self.rule
            .condition
            .leaves()
            .iter()
            .any(|leaf| leaf.signal == SignalKind::State)
    }

    /// Whether it is judged at all.
    pub(crate) fn is_active(&self) -> bool {
        self.rule.is_enabled
            && !self.is_stopped
            && !self.has_expired
            && (self.left != Some(0) || self.is_of_transaction())
    }

    fn is_expired(&self, now: Now) -> bool {
        self.has_expired
            || self
                .rule
                .expires_at_ms
                .is_some_and(|expires| expires <= now.wall_ms)
    }

    fn is_cooling(&self, now: Now) -> bool {
        self.cooldown_from_ms
            .is_some_and(|from| ms(now) < from + i64::from(self.rule.cooldown_ms))
    }

    fn is_snoozed(&self, now: Now) -> bool {
        self.rule
            .snoozed_until_ms
            .is_some_and(|until| now.wall_ms < until)
    }
}

fn all_fires(rule: &Rule) -> Option<u32> {
    match rule.repeat {
        Repeat::Recurring => None,
        Repeat::Times(times) => Some(times),
    }
}

impl Naive {
    fn push(&mut self, slot: u32, event: Event) {
        self.events.entry(slot).or_default().push(event);
    }

    /// Begins and ends the histories that rules need.
    fn histories(&mut self, now: Now) {
        let rules = self.rules.values().filter(|rule| rule.is_active());
        let leaves: Vec<Leaf> = rules
            .flat_map(|rule| rule.rule.condition.leaves())
            .cloned()
            .collect();
        for leaf in &leaves {
            let subject = self
                .subjects
                .entry(leaf.subject.clone())
                .or_insert_with(NaiveSubject::new);
            let (source, value) = (subject.source, subject.value);
            if subject.histories.contains_key(&leaf.signal) {
                continue;
            }
            let history = match (source, value) {
                (Source::Live, Some(value)) => vec![(ms(now), value, None)],
                _ => Vec::new(),
            };
            subject.histories.insert(leaf.signal, history);
            if leaf.signal == SignalKind::Age {
                subject.last_live_ms = subject.last_live_ms.or(Some(ms(now)));
            }
            let number = subject.number(leaf.signal, now);
            subject.numbers.insert(leaf.signal, number);
        }
        for (key, subject) in &mut self.subjects {
            let is_needed = |kind: &SignalKind| {
                leaves
                    .iter()
                    .any(|leaf| leaf.subject == *key && leaf.signal == *kind)
            };
            subject.histories.retain(|kind, _| is_needed(kind));
        }
        // Only symbols are known without rules.
        self.subjects.retain(|key, subject| {
            matches!(key, Subject::Symbol(_)) || !subject.histories.is_empty()
        });
    }

    /// A symbol is known without rules.
    pub(crate) fn intern(&mut self, subject: &Subject) {
        self.subjects
            .entry(subject.clone())
            .or_insert_with(NaiveSubject::new);
    }

    pub(crate) fn insert(&mut self, slot: u32, rule: Rule, now: Now) {
        self.advance(now);
        self.rules.insert(slot, NaiveRule::new(rule));
        self.arm(slot, now);
    }

    pub(crate) fn remove(&mut self, slot: u32, now: Now) {
        self.rules.remove(&slot);
        self.histories(now);
    }

    /// Judges a rule by the current values, as far as they are known.
    fn arm(&mut self, slot: u32, now: Now) {
        self.histories(now);
        let mut subjects: Vec<_> = self.rules[&slot]
            .rule
            .subjects()
            .into_iter()
            .cloned()
            .collect();
        subjects.sort();
        for subject in subjects {
            self.judge(slot, Some(&subject), View::default(), now);
        }
        self.histories(now);
    }

    pub(crate) fn update(&mut self, slot: u32, rule: Rule, now: Now) {
        self.advance(now);
        let Some(old) = self.rules.get_mut(&slot) else {
            return;
        };
        let is_new_condition = old.rule.condition != rule.condition;
        let is_new = is_new_condition || old.rule.repeat != rule.repeat;
        let was_off = !old.rule.is_enabled || old.is_stopped;
        let is_expired = rule
            .expires_at_ms
            .is_some_and(|expires| expires <= now.wall_ms);
        let is_armed_again =
            rule.is_enabled && (was_off || is_new || old.is_expired(now) && !is_expired);
        if rule.cooldown_ms != old.rule.cooldown_ms {
            if !old.is_cooling(now) {
                old.cooldown_from_ms = None;
            }
            old.recent_ms.clear();
        }
        old.rule = rule;
        if is_new || is_armed_again && old.left == Some(0) {
            old.left = all_fires(&old.rule);
        }
        if is_new_condition {
            old.sides = vec![[None; 2]; old.rule.condition.leaves().len()];
            old.passed = vec![[false; 2]; old.sides.len()];
            old.fired_at.clear();
        }
        if is_armed_again {
            let left = old.left;
            *old = NaiveRule::new(old.rule.clone());
            old.left = left;
            old.is_quiet = true;
            // An armed rule begins the histories anew that it alone needs.
            let rule = old.rule.clone();
            let mut off = rule.clone();
            off.is_enabled = false;
            old.rule = off;
            let subjects = rule.subjects().into_iter();
            let known: Vec<_> = subjects
                .filter_map(|key| Some((key.clone(), self.subjects.get(key)?.clone())))
                .collect();
            self.histories(now);
            for (key, mut subject) in known {
                // Its value stays, the histories do not.
                subject.histories.clear();
                subject.numbers.clear();
                self.subjects.entry(key).or_insert(subject);
            }
            self.rules.get_mut(&slot).unwrap().rule = rule;
            self.arm(slot, now);
        } else {
            self.histories(now);
            self.end_block(slot, now);
        }
        self.histories(now);
    }

    pub(crate) fn advance(&mut self, now: Now) {
        let slots: Vec<_> = self.rules.keys().copied().collect();
        for slot in &slots {
            self.end_block(*slot, now);
        }
        self.histories(now);
        // Time changes the numbers of all subjects in one moment.
        for subject in self.subjects.values_mut() {
            subject.refresh(now);
        }
        for slot in slots {
            self.judge(slot, None, View::default(), now);
        }
        self.histories(now);
    }

    /// The end of a snooze or cooldown.
    fn end_block(&mut self, slot: u32, now: Now) {
        let Some(rule) = self.rules.get(&slot) else {
            return;
        };
        if !rule.is_deferred || !rule.is_active() || rule.is_cooling(now) || rule.is_snoozed(now) {
            return;
        }
        match self.stands(slot) {
            Some(true) => self.fire(slot, None, View::default(), now),
            Some(false) => self.rules.get_mut(&slot).unwrap().is_deferred = false,
            None => {}
        }
    }

    pub(crate) fn stale(&mut self, key: &Subject, now: Now) {
        self.advance(now);
        if let Some(subject) = self.subjects.get_mut(key)
            && subject.source == Source::Live
        {
            subject.source = Source::Stale { since_ms: ms(now) };
        }
    }

    pub(crate) fn correct(&mut self, key: &Subject, now: Now) {
        self.advance(now);
        if let Some(subject) = self.subjects.get_mut(key)
            && subject.source != Source::Never
        {
            subject.source = Source::Corrected;
        }
    }

    pub(crate) fn vanish(&mut self, key: &Subject, now: Now) {
        self.stale(key, now);
        let Some(subject) = self.subjects.get_mut(key) else {
            return;
        };
        if std::mem::replace(&mut subject.has_vanished, true) {
            return;
        }
        let slots: Vec<_> = self
            .rules
            .iter()
            .filter(|(_, rule)| {
                rule.is_active()
                    && rule
                        .rule
                        .condition
                        .leaves()
                        .iter()
                        .any(|leaf| leaf.subject == *key)
            })
            .map(|(slot, _)| *slot)
            .collect();
        for slot in slots {
            self.push(slot, Event::Vanish);
        }
    }

    pub(crate) fn arrive(&mut self, key: &Subject, arrival: Arrival, now: Now) {
        self.advance(now);
        let Some(subject) = self.subjects.get_mut(key) else {
            return;
        };
        let view = View {
            is_baseline: match subject.source {
                Source::Never | Source::Live => false,
                Source::Corrected => true,
                Source::Stale { since_ms } => ms(now) - since_ms > CATCH_UP_MS as i64,
                Source::Restored { wall_ms } => (now.wall_ms - wall_ms).abs() > CATCH_UP_MS as i64,
            },
            is_catch_up: matches!(subject.source, Source::Restored { .. }),
            is_retraction: arrival.is_retraction,
        };
        let is_other_currency = subject.value.is_some() && subject.currency != arrival.currency;
        let is_transaction = matches!(key, Subject::Transaction { .. });
        let view = View {
            is_baseline: view.is_baseline && !is_transaction || is_other_currency,
            is_catch_up: view.is_catch_up
                && !is_transaction
                && !view.is_baseline
                && !is_other_currency,
            ..view
        };
        subject.peak = Some(match subject.peak {
            Some(peak) if !view.is_baseline => peak.max(arrival.value),
            _ => arrival.value,
        });
        self.arrivals += 1;
        subject.arrival = self.arrivals;
        subject.value = Some(arrival.value);
        subject.currency = arrival.currency;
        subject.source = Source::Live;
        subject.last_live_ms = Some(ms(now));
        subject.wall_ms = now.wall_ms;
        subject.has_vanished = false;
        for history in subject.histories.values_mut() {
            if view.is_baseline {
                history.clear();
            }
            history.push((ms(now), arrival.value, arrival.volume));
        }
        subject.refresh(now);
        let slots: Vec<_> = self.rules.keys().copied().collect();
        for slot in slots {
            self.judge(slot, Some(key), view, now);
        }
        self.histories(now);
    }

    /// Judges a rule by the current numbers of one subject. `None` for all of them, which time
    /// changed.
    fn judge(&mut self, slot: u32, key: Option<&Subject>, view: View, now: Now) {
        let Some(rule) = self.rules.get(&slot) else {
            return;
        };
        if !rule.is_active() {
            return;
        }
        let leaves: Vec<Leaf> = rule.rule.condition.leaves().into_iter().cloned().collect();
        let is_judged = |leaf: &Leaf| key.is_none_or(|key| leaf.subject == *key);
        if !leaves.iter().any(is_judged) {
            return;
        }
        let mut sides = rule.sides.clone();
        let mut starts = false;
        let mut crossed = vec![false; leaves.len()];
        let mut rising = vec![[false; 2]; leaves.len()];
        let mut is_taken_back = false;
        let mut passes = false;
        let mut value = None;
        for (number, leaf) in leaves.iter().enumerate() {
            let subject = self.subjects.get(&leaf.subject);
            let of_leaf = subject.and_then(|subject| subject.known(leaf.signal));
            let is_live = subject.is_some_and(|subject| subject.source == Source::Live);
            let Some(of_leaf) = of_leaf.filter(|_| is_judged(leaf)) else {
                continue;
            };
            value = value.or(Some(of_leaf).filter(|_| leaf.signal == SignalKind::Value));
            let truths = is_true(&leaf.test, of_leaf);
            for (direction, side) in sides[number].iter_mut().enumerate() {
                let Some(is_true) = truths[direction] else {
                    continue;
                };
                // While no value arrives, an age only grows.
                if leaf.signal == SignalKind::Age && !is_live && *side == Some(true) {
                    continue;
                }
                match *side {
                    None => {
                        *side = Some(is_true);
                        starts |= is_true && !is_crossing(&leaf.test);
                    }
                    Some(false) if is_true => {
                        *side = Some(true);
                        if !view.is_baseline {
                            passes = true;
                            rising[number][direction] = true;
                            crossed[number] |= is_crossing(&leaf.test);
                        }
                    }
                    Some(true) if is_back(&leaf.test, direction, of_leaf, view.is_retraction) => {
                        *side = Some(false);
                        is_taken_back |= leaf.signal == SignalKind::State;
                    }
                    _ => {}
                }
            }
        }
        let known: Vec<_> = leaves.iter().map(|leaf| self.is_known(leaf)).collect();
        let truths = |crossing: &dyn Fn(usize) -> bool| -> Vec<Option<bool>> {
            leaves
                .iter()
                .enumerate()
                .map(|(number, leaf)| {
                    let truth = match is_crossing(&leaf.test) {
                        true => crossing(number),
                        false => sides[number].contains(&Some(true)),
                    };
                    (known[number] && sides[number][0].is_some()).then_some(truth)
                })
                .collect()
        };
        let condition = rule.rule.condition.clone();
        let at_once = tree(
            &condition,
            &mut truths(&|number| crossed[number]).into_iter(),
        );
        let level = tree(&condition, &mut truths(&|_| false).into_iter());
        let is_single = rule.is_single();
        let rule = self.rules.get_mut(&slot).unwrap();
        let rises = if is_single {
            passes || starts && !rule.is_quiet
        } else {
            let is_new = rule.level.is_none();
            let is_quiet = rule.is_quiet && !crossed.contains(&true);
            at_once == Some(true)
                && rule.level != Some(true)
                && (is_new || !view.is_baseline)
                && !is_quiet
        };
        let judged_single = is_single && sides[0][0].is_some() && known[0];
        if judged_single || !is_single && (at_once.is_some() || level.is_some()) {
            rule.is_quiet = false;
        }
        if !is_single && level.is_some() {
            rule.level = level;
        }
        for (passed, sides) in rule.passed.iter_mut().zip(&sides) {
            for (passed, side) in passed.iter_mut().zip(sides) {
                *passed &= *side == Some(true);
            }
        }
        rule.sides = sides;
        let (holds, stands) = (self.holds(slot), self.stands(slot));
        let rule = self.rules.get_mut(&slot).unwrap();
        if stands == Some(false) {
            rule.is_deferred = false;
        }
        if is_taken_back && rule.needs_transaction && holds != Some(true) {
            rule.needs_transaction = false;
            rule.level = rule.level.map(|_| false);
            rule.left = rule.left.map(|left| left + 1);
            rule.cooldown_from_ms = None;
            let copy = rule.clone();
            self.stored.insert(slot, (copy, now));
            self.push(slot, Event::Retract);
            return;
        }
        let is_blocked = rule.is_cooling(now) || rule.is_snoozed(now);
        if rises && rule.left != Some(0) {
            let is_deferred = is_blocked && !rule.is_expired(now);
            for (passed, rising) in rule.passed.iter_mut().zip(&rising) {
                for (passed, rising) in passed.iter_mut().zip(rising) {
                    *passed = *rising || *passed && is_deferred && rule.is_deferred;
                }
            }
            if is_deferred {
                rule.is_deferred = true;
            } else {
                self.fire(slot, value, view, now);
            }
        } else if stands == Some(true) && rule.is_deferred && !is_blocked {
            self.fire(slot, value, view, now);
        }
    }

    fn fire(&mut self, slot: u32, value: Option<Decimal>, view: View, now: Now) {
        let rule = self.rules.get_mut(&slot).unwrap();
        rule.is_deferred = false;
        if rule.is_expired(now) {
            rule.has_expired = true;
            return;
        }
        rule.recent_ms.retain(|fired| ms(now) - fired < STOP_MS);
        let can_stop =
            rule.rule.cooldown_ms < 12_000 && all_fires(&rule.rule).is_none_or(|times| times > 15);
        if can_stop && rule.recent_ms.len() == 15 {
            rule.is_stopped = true;
            rule.recent_ms.clear();
            self.stored.insert(slot, (self.rules[&slot].clone(), now));
            self.push(slot, Event::Stop);
            return;
        }
        if can_stop {
            rule.recent_ms.push(ms(now));
        }
        rule.left = rule.left.map(|left| left - 1);
        rule.cooldown_from_ms = (rule.rule.cooldown_ms > 0).then_some(ms(now));
        let needs = self.needs_transaction(slot);
        let newest = self.newest(slot).1;
        let rule = self.rules.get_mut(&slot).unwrap();
        rule.needs_transaction = needs;
        rule.fired_at.insert(newest);
        let leaves = rule.rule.condition.leaves();
        let leaf = leaves[0].clone();
        let is_plain = rule.is_single() && leaf.signal == SignalKind::Value;
        let version = rule.rule.version;
        self.stored.insert(slot, (self.rules[&slot].clone(), now));
        let price = self.subjects[&leaf.subject].value.unwrap_or_default();
        let is_single = self.rules[&slot].is_single();
        self.push(
            slot,
            Event::Fire {
                version,
                value: is_plain.then_some(value.unwrap_or(price)),
                price: if is_single { price } else { Decimal::ZERO },
                at: now,
                is_catch_up: view.is_catch_up,
            },
        );
    }

    /// Stores everything.
    pub(crate) fn store(&mut self, now: Now) {
        self.stored = self
            .rules
            .iter()
            .map(|(slot, rule)| (*slot, (rule.clone(), now)))
            .collect();
        // A stored value stays until another takes its place.
        let known = self.subjects.iter();
        let known = known.filter(|(_, subject)| subject.value.is_some());
        self.stored_values
            .extend(known.map(|(key, subject)| (key.clone(), subject.clone())));
    }

    /// Stores a rule that was changed.
    pub(crate) fn store_rule(&mut self, slot: u32, now: Now) {
        match self.rules.get(&slot) {
            Some(rule) => drop(self.stored.insert(slot, (rule.clone(), now))),
            None => drop(self.stored.remove(&slot)),
        }
    }

    /// A restart: all that was not stored is lost.
    pub(crate) fn restart(&mut self, now: Now) {
        self.subjects.clear();
        self.arrivals = 0;
        for (key, stored) in &self.stored_values {
            if stored.value.is_none() {
                continue;
            }
            let mut subject = NaiveSubject::new();
            subject.value = stored.value;
            subject.peak = stored.peak;
            subject.currency.clone_from(&stored.currency);
            subject.wall_ms = stored.wall_ms;
            subject.source = Source::Restored {
                wall_ms: stored.wall_ms,
            };
            subject.last_live_ms = Some(ms(now));
            self.subjects.insert(key.clone(), subject);
        }
        self.intern(&Subject::Symbol("A".into()));
        self.intern(&Subject::Symbol("B".into()));
        self.rules.clear();
        for (slot, (stored, at)) in &self.stored {
            let mut rule = stored.clone();
            rule.fired_at.clear();
            // Wall-clock age of a time of the old monotonic clock.
            let age = |old: i64| now.wall_ms - (at.wall_ms + old - ms(*at));
            let whole = i64::from(rule.rule.cooldown_ms);
            rule.cooldown_from_ms = stored
                .is_cooling(*at)
                .then_some(rule.cooldown_from_ms)
                .flatten()
                .map(|from| ms(now) + (whole - age(from)).clamp(0, whole) - whole);
            for fired in &mut rule.recent_ms {
                *fired = ms(now) - age(*fired).max(0);
            }
            self.rules.insert(*slot, rule);
        }
        self.histories(now);
        let slots: Vec<_> = self.rules.keys().copied().collect();
        for slot in slots {
            self.end_block(slot, now);
        }
        self.histories(now);
    }

    pub(crate) fn phase(&self, slot: u32, now: Now) -> Option<Phase> {
        let rule = self.rules.get(&slot)?;
        Some(if rule.is_stopped {
            Phase::Stopped
        } else if !rule.rule.is_enabled {
            Phase::Disabled
        } else if rule.left == Some(0) {
            Phase::Exhausted
        } else if rule.is_expired(now) {
            Phase::Expired
        } else if rule.is_snoozed(now) {
            Phase::Snoozed
        } else if rule.is_cooling(now) {
            Phase::Cooldown
        } else {
            return None;
        })
    }
}
