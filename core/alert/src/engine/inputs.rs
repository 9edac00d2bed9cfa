//! Inputs: values that wait to be judged, one bounded lane for each subject.
//!
//! Engines add values from their own threads and never wait. A lane that is full is *conflated*:
//! of each run of values, only the lowest, the highest and the last stay, in their order. A
//! threshold that the run passed is still passed, so no crossing is lost. Of several passages of
//! one threshold within the run, one is left.
//!
//! # Example
//! From 99, the run 101, 97, 103, 100 becomes 97, 103, 100. A rule at 100 still sees it crossed
//! upward, and a rule at 98 downward.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use parking_lot::Mutex;
use rust_decimal::Decimal;
use tokio::sync::Notify;

use crate::{Input, Sources, Subject};

/// Inputs of one subject that wait before they are conflated.
const LANE: usize = 16;

/// Names that a lane compares with, so that the same sources share one allocation.
type Names = Arc<[Box<str>]>;

/// The lanes of all subjects. Engines share it.
#[derive(Debug, Default)]
pub(crate) struct Inputs {
    lanes: Mutex<Lanes>,
    /// Notified when something waits.
    pub(crate) added: Notify,
}

#[derive(Debug, Default)]
struct Lanes {
    symbols: HashMap<Box<str>, usize>,
    others: HashMap<Subject, usize>,
    all: Vec<Lane>,
    /// Lanes of transactions that nothing is about any more.
    free: Vec<usize>,
    /// Lanes with inputs, in turn.
    ready: VecDeque<usize>,
}

#[derive(Debug)]
struct Lane {
    subject: Arc<Subject>,
    inputs: VecDeque<Input>,
    names: Option<Names>,
}

impl Inputs {
    /// Adds an input of a symbol.
    pub(crate) fn add_symbol<'a>(
        &self,
        symbol: &str,
        names: impl Iterator<Item = &'a str> + Clone,
        input: impl FnOnce(Sources) -> Input,
    ) {
        let mut lanes = self.lanes.lock();
        let place = match lanes.symbols.get(symbol) {
            Some(place) => *place,
            None => {
                let place = lanes.open(Subject::Symbol(symbol.into()));
                lanes.symbols.insert(symbol.into(), place);
                place
            }
        };
        let sources = lanes.all[place].sources(names);
        lanes.push(place, input(sources));
        drop(lanes);
        self.added.notify_one();
    }

    /// Adds an input of a subject that has a lane. One without a lane is about no rule.
    pub(crate) fn add(&self, subject: &Subject, input: Input) {
        let mut lanes = self.lanes.lock();
        let Some(place) = lanes.others.get(subject).copied() else {
            return;
        };
        lanes.push(place, input);
        drop(lanes);
        self.added.notify_one();
    }

    /// Whether a subject has a lane.
    pub(crate) fn has(&self, subject: &Subject) -> bool {
        self.lanes.lock().others.contains_key(subject)
    }

    /// Opens the lane of a subject. Symbols have theirs from their first price on.
    pub(crate) fn open(&self, subject: &Subject) {
        let mut lanes = self.lanes.lock();
        if !matches!(subject, Subject::Symbol(_)) && !lanes.others.contains_key(subject) {
            let place = lanes.open(subject.clone());
            lanes.others.insert(subject.clone(), place);
        }
    }

    /// Closes the lane of a subject that no rule is about any more.
    pub(crate) fn close(&self, subject: &Subject) {
        let mut lanes = self.lanes.lock();
        if let Some(place) = lanes.others.remove(subject) {
            lanes.all[place].inputs.clear();
            lanes.ready.retain(|ready| *ready != place);
            lanes.free.push(place);
        }
    }

    /// Takes the next input of each of up to `most` subjects, in turn.
    pub(crate) fn take(&self, most: usize) -> Vec<(Arc<Subject>, Input)> {
        let mut lanes = self.lanes.lock();
        let count = most.min(lanes.ready.len());
        let mut batch = Vec::with_capacity(count);
        for _ in 0..count {
            let Some(place) = lanes.ready.pop_front() else {
                break;
            };
            let lane = &mut lanes.all[place];
            if let Some(input) = lane.inputs.pop_front() {
                batch.push((lane.subject.clone(), input));
            }
            if !lane.inputs.is_empty() {
                lanes.ready.push_back(place);
            }
        }
        batch
    }

    /// Puts an input back that cannot be judged yet, before those that were added since.
    pub(crate) fn put_back(&self, subject: &Subject, input: Input) {
        let mut lanes = self.lanes.lock();
        let place = match subject {
            Subject::Symbol(symbol) => lanes.symbols.get(symbol).copied(),
            other => lanes.others.get(other).copied(),
        };
        let Some(place) = place else { return };
        let lane = &mut lanes.all[place];
        let was_empty = lane.inputs.is_empty();
        lane.inputs.push_front(input);
        if was_empty {
            lanes.ready.push_back(place);
        }
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.lanes.lock().ready.is_empty()
    }
}

impl Lanes {
    fn open(&mut self, subject: Subject) -> usize {
        let lane = Lane {
            subject: Arc::new(subject),
            inputs: VecDeque::new(),
            names: None,
        };
        match self.free.pop() {
            Some(place) => {
                self.all[place] = lane;
                place
            }
            None => {
                self.all.push(lane);
                self.all.len() - 1
            }
        }
    }

    fn push(&mut self, place: usize, input: Input) {
        let lane = &mut self.all[place];
        if lane.inputs.is_empty() {
            self.ready.push_back(place);
        }
        lane.inputs.push_back(input);
        if lane.inputs.len() > LANE {
            conflate(&mut lane.inputs);
        }
    }
}

impl Lane {
    /// The names as sources. The same names share one allocation.
    fn sources<'a>(&mut self, names: impl Iterator<Item = &'a str> + Clone) -> Sources {
        let known = self.names.as_ref();
        if let Some(known) = known
            && known.iter().map(|name| &**name).eq(names.clone())
        {
            return Some(known.clone());
        }
        let names: Names = names.map(Box::from).collect();
        self.names = Some(names.clone());
        (!names.is_empty()).then_some(names)
    }
}

/// The value of an input that may be conflated with others of its kind.
fn value(input: &Input) -> Option<Decimal> {
    match input {
        Input::Price { tick, .. } | Input::Gas(tick) | Input::Portfolio { tick, .. } => {
            Some(tick.value)
        }
        _ => None,
    }
}

/// Shortens a lane. At most half of its bound stays.
fn conflate(inputs: &mut VecDeque<Input>) {
    let mut left = conflate_runs(inputs.drain(..));
    if left.len() > LANE / 2 {
        // Many short outages: one that is over within a full lane is no outage.
        let last = left.len() - 1;
        let mut place = 0;
        left.retain(|input| {
            place += 1;
            place > last || !matches!(input, Input::Stale)
        });
        left = conflate_runs(left.into_iter());
    }
    // States of transactions, of which only the newest count.
    let surplus = left.len().saturating_sub(LANE / 2);
    inputs.extend(left.into_iter().skip(surplus));
}

/// Replaces each run of values by its lowest, highest and last.
fn conflate_runs(inputs: impl Iterator<Item = Input>) -> Vec<Input> {
    let mut out = Vec::new();
    let mut run = Vec::new();
    for input in inputs {
        if value(&input).is_some() {
            run.push(input);
        } else {
            end_run(&mut run, &mut out);
            out.push(input);
        }
    }
    end_run(&mut run, &mut out);
    out
}

fn end_run(run: &mut Vec<Input>, out: &mut Vec<Input>) {
    let values: Vec<_> = run.iter().filter_map(value).collect();
    let places = 0..values.len();
    let low = places.clone().min_by_key(|place| values[*place]);
    let high = places.max_by_key(|place| values[*place]);
    let mut traded: Option<Decimal> = None;
    for (place, mut input) in run.drain(..).enumerate() {
        if let Input::Price { volume, .. } = &mut input {
            traded = match (traded, *volume) {
                (Some(before), Some(more)) => before.checked_add(more),
                (before, more) => before.or(more),
            };
            let is_left = Some(place) == low || Some(place) == high || place + 1 == values.len();
            if is_left {
                *volume = traded.take();
            }
        }
        if Some(place) == low || Some(place) == high || place + 1 == values.len() {
            out.push(input);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tick;

    fn price(value: i64, volume: Option<i64>) -> Input {
        Input::Price {
            tick: Tick::new(Decimal::from(value), 0),
            volume: volume.map(Decimal::from),
        }
    }

    fn values(inputs: &[Input]) -> Vec<String> {
        let show = |input: &Input| match input {
            Input::Price { tick, volume } => match volume {
                Some(volume) => format!("{}/{volume}", tick.value),
                None => tick.value.to_string(),
            },
            other => format!("{other:?}"),
        };
        inputs.iter().map(show).collect()
    }

    fn add(inputs: &Inputs, symbol: &str, value: i64) {
        inputs.add_symbol(symbol, ["a"].into_iter(), |sources| Input::Price {
            tick: Tick {
                sources,
                ..Tick::new(Decimal::from(value), 0)
            },
            volume: None,
        });
    }

    #[test]
    fn a_run_keeps_its_lowest_highest_and_last() {
        let run = [101, 97, 103, 100].map(|value| price(value, Some(1)));
        assert_eq!(
            values(&conflate_runs(run.into_iter())),
            ["97/2", "103/1", "100/1"]
        );
        let short = [price(1, None), Input::Stale, price(2, None)];
        assert_eq!(
            values(&conflate_runs(short.into_iter())),
            ["1", "Stale", "2"]
        );
    }

    #[test]
    fn a_full_lane_loses_no_extreme() {
        let inputs = Inputs::default();
        let all: Vec<i64> = (0..1_000).map(|n| 500 + (n * 7919) % 613).collect();
        for value in &all {
            add(&inputs, "BTC-USD", *value);
        }
        let mut left = Vec::new();
        while let Some((_, input)) = inputs.take(1).pop() {
            left.push(super::value(&input).unwrap());
        }
        assert!(left.len() <= LANE + 1, "{left:?}");
        let decimal = |value: Option<&i64>| value.map(|value| Decimal::from(*value));
        assert_eq!(left.iter().max().copied(), decimal(all.iter().max()));
        assert_eq!(left.iter().min().copied(), decimal(all.iter().min()));
        assert_eq!(left.last().copied(), decimal(all.last()));
    }

    #[test]
    fn subjects_take_turns_and_an_input_can_be_put_back() {
        let inputs = Inputs::default();
        for value in [1, 2] {
            add(&inputs, "A-USD", value);
        }
        add(&inputs, "B-USD", 9);
        let first = inputs.take(8);
        assert_eq!(first.len(), 2);
        let (subject, input) = first.into_iter().next().unwrap();
        inputs.put_back(&subject, input);
        let next: Vec<_> = std::iter::from_fn(|| inputs.take(1).pop()).collect();
        let next: Vec<_> = next.into_iter().map(|(_, input)| input).collect();
        assert_eq!(values(&next), ["1", "2"]);
        assert!(inputs.is_empty());
    }

    #[test]
    fn a_subject_without_a_lane_is_ignored() {
        let inputs = Inputs::default();
        let subject = Subject::Gas(1);
        inputs.add(&subject, Input::Stale);
        assert!(inputs.is_empty());
        inputs.open(&subject);
        inputs.add(&subject, Input::Stale);
        assert!(!inputs.is_empty());
        inputs.close(&subject);
        assert!(inputs.is_empty() && !inputs.has(&subject));
    }
}
