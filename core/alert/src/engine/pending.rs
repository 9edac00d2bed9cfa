//! Pending outputs: fires and notices that wait for the writer.
//!
//! They leave in the order in which they were made, except that outputs of urgent rules and of
//! connected users go before the others when more wait than one batch has: nobody sees the fires of
//! a user without a connection before that user connects. The outputs of one rule stay in their
//! order, since an ordering looks at all of them. Others have their turn after [`TURNS`] orderings.

use std::collections::{HashSet, VecDeque};

use crate::Output;

/// Outputs that share one batch.
pub(crate) const CHUNK: usize = 512;

/// Outputs that an ordering looks at.
const SCAN: usize = 16_384;

/// Orderings that put outputs first, one after another, before the others have their turn.
const TURNS: u32 = 4;

/// Outputs by their number.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    /// Outputs that go first. All of them leave before the others are ordered again.
    first: VecDeque<(u64, Output)>,
    others: VecDeque<(u64, Output)>,
    /// The newest output at the last ordering.
    ordered: u64,
    /// Orderings that put outputs first since the others had their turn.
    turns: u32,
}

impl Pending {
    pub(crate) fn push(&mut self, number: u64, output: Output) {
        self.others.push_back((number, output));
    }

    pub(crate) fn len(&self) -> usize {
        self.first.len() + self.others.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_empty() && self.others.is_empty()
    }

    /// The least number.
    pub(crate) fn first_number(&self) -> Option<u64> {
        let ends = [self.first.front(), self.others.front()];
        let numbers = ends.into_iter().flatten().map(|(number, _)| *number);
        numbers.min()
    }

    /// Whether an ordering may change which outputs leave next. `newest` is the newest output.
    pub(crate) fn may_order(&self, newest: u64) -> bool {
        self.first.is_empty()
            && self.others.len() > CHUNK
            && self.turns < TURNS
            && self.ordered < newest
    }

    /// The slots of the outputs that an ordering looks at.
    pub(crate) fn to_order(&self) -> impl Iterator<Item = u32> {
        let outputs = self.others.iter().take(SCAN);
        outputs.map(|(_, output)| output.slot())
    }

    /// Puts outputs of some slots before the others.
    pub(crate) fn order(&mut self, newest: u64, is_first: impl Fn(u32) -> bool) {
        if !self.may_order(newest) {
            return;
        }
        self.ordered = newest;
        let count = self.others.len().min(SCAN);
        let mut left = VecDeque::with_capacity(count);
        for (number, output) in self.others.drain(..count) {
            match is_first(output.slot()) {
                true => self.first.push_back((number, output)),
                false => left.push_back((number, output)),
            }
        }
        if self.first.is_empty() {
            self.turns = 0;
        } else {
            self.turns += 1;
        }
        left.append(&mut self.others);
        self.others = left;
    }

    /// The outputs of the next batch. `after` leaves out the first ones.
    pub(crate) fn chunk(&self, after: usize) -> Vec<(u64, Output)> {
        let next = match self.first.is_empty() {
            true => &self.others,
            false => &self.first,
        };
        next.iter().skip(after).take(CHUNK).cloned().collect()
    }

    /// Removes outputs of the last chunk, which are stored.
    pub(crate) fn remove(&mut self, count: usize) {
        match self.first.is_empty() {
            true => {
                self.turns = 0;
                drop(self.others.drain(..count.min(self.others.len())));
            }
            false => drop(self.first.drain(..count.min(self.first.len()))),
        }
    }

    /// Takes the outputs of some slots, in their order.
    pub(crate) fn take_of(&mut self, slots: &HashSet<u32>) -> Vec<(u64, Output)> {
        let mut taken = Vec::new();
        for outputs in [&mut self.first, &mut self.others] {
            let is_of = |output: &Output| slots.contains(&output.slot());
            if !outputs.iter().any(|(_, output)| is_of(output)) {
                continue;
            }
            for (number, output) in std::mem::take(outputs) {
                match is_of(&output) {
                    true => taken.push((number, output)),
                    false => outputs.push_back((number, output)),
                }
            }
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(count: u64) -> Pending {
        let mut pending = Pending::default();
        for number in 1..=count {
            let slot = (number % 100) as u32;
            pending.push(number, Output::Change { slot });
        }
        pending
    }

    fn numbers(outputs: &[(u64, Output)]) -> Vec<u64> {
        outputs.iter().map(|(number, _)| *number).collect()
    }

    #[test]
    fn some_go_first_and_each_slot_stays_in_order() {
        let mut pending = pending(2_000);
        assert!(pending.may_order(2_000));
        pending.order(2_000, |slot| slot % 10 == 7);
        let first = pending.chunk(0);
        assert!(first.iter().all(|(number, _)| number % 10 == 7));
        assert!(numbers(&first).is_sorted());
        assert_eq!(first.len(), 200);
        assert_eq!(pending.first_number(), Some(1));
        assert!(!pending.may_order(2_001), "the first ones leave before");
        pending.remove(first.len());
        assert!(!pending.may_order(2_000), "nothing is new");
        let mut others = Vec::new();
        while !pending.is_empty() {
            let chunk = pending.chunk(0);
            others.extend(numbers(&chunk));
            pending.remove(chunk.len());
        }
        assert_eq!(others.len(), 1_800);
        assert!(others.is_sorted());
    }

    #[test]
    fn others_have_their_turn() {
        let mut pending = pending(1_000);
        let mut newest = 1_000;
        let mut orderings = 0;
        while pending.may_order(newest) {
            pending.order(newest, |slot| slot == 7);
            orderings += 1;
            pending.remove(CHUNK);
            newest += 1;
            pending.push(newest, Output::Change { slot: 7 });
        }
        assert_eq!(orderings, TURNS);
        assert_eq!(numbers(&pending.chunk(0))[0], 1);
        pending.remove(CHUNK);
        newest += 1;
        pending.push(newest, Output::Change { slot: 7 });
        while pending.len() < 2 * CHUNK {
            newest += 1;
            pending.push(newest, Output::Change { slot: 8 });
        }
        assert!(pending.may_order(newest));
    }

    #[test]
    fn outputs_of_a_slot_are_taken_in_order() {
        let mut pending = pending(1_000);
        pending.order(1_000, |slot| slot == 7);
        pending.push(1_107, Output::Change { slot: 7 });
        let taken = pending.take_of(&HashSet::from([7]));
        assert!(numbers(&taken).is_sorted());
        assert_eq!((taken.len(), pending.len()), (11, 990));
    }
}
