//! Index: the boundaries of one signal in order, in blocks.
//!
//! An entry is a key and a slot, twelve bytes. A block holds them in two arrays, and is split in
//! halves when it is full: at 128 entries, so that an insertion touches little memory, and in an
//! index of very many blocks at 512, so that the list of blocks stays short. A block grows by
//! sixteen entries at a time, which wastes less than doubling.

use crate::key::KeyRange;

/// Entries of a full block.
const SMALL_BLOCK: usize = 128;

/// Entries of a full block in an index of more than [`MANY`] blocks.
const LARGE_BLOCK: usize = 512;

/// Blocks beyond which blocks are large.
const MANY: usize = 512;

/// Entries by which a block grows.
const GROWTH: usize = 16;

/// Emptied blocks are removed once they are more than one of so many.
const EMPTIED_PART: usize = 4;

/// A position in the index: the key and slot of an entry.
pub(crate) type Entry = (i64, u32);

#[derive(Debug, Default)]
struct Block {
    keys: Vec<i64>,
    slots: Vec<u32>,
}

impl Block {
    fn entry(&self, at: usize) -> Entry {
        (self.keys[at], self.slots[at])
    }

    /// The number of entries before `entry`.
    fn rank(&self, entry: Entry) -> usize {
        let from = self.keys.partition_point(|key| *key < entry.0);
        let to = from + self.keys[from..].partition_point(|key| *key == entry.0);
        from + self.slots[from..to].partition_point(|slot| *slot < entry.1)
    }

    /// The number of entries up to `entry`.
    fn rank_after(&self, entry: Entry) -> usize {
        let rank = self.rank(entry);
        let is_here = rank < self.keys.len() && self.entry(rank) == entry;
        rank + usize::from(is_here)
    }
}

/// An ordered index of boundaries.
#[derive(Debug, Default)]
pub(crate) struct Index {
    /// The first entry of each block.
    firsts: Vec<Entry>,
    blocks: Vec<Block>,
    /// Blocks that purges emptied. They leave together, since each removal moves the lists.
    emptied: usize,
    length: usize,
}

impl Index {
    pub(crate) const fn len(&self) -> usize {
        self.length
    }

    /// The slots of all entries.
    pub(crate) fn slots(&self) -> impl Iterator<Item = u32> {
        self.blocks
            .iter()
            .flat_map(|block| block.slots.iter().copied())
    }

    /// The block that has `entry`, or in which it belongs.
    fn block_of(&self, entry: Entry) -> usize {
        let after = self.firsts.partition_point(|first| *first <= entry);
        after.saturating_sub(1)
    }

    /// Inserts an entry. A second equal one changes nothing.
    pub(crate) fn insert(&mut self, entry: Entry) {
        if self.blocks.is_empty() {
            self.blocks.push(Block::default());
            self.firsts.push(entry);
        }
        let mut number = self.block_of(entry);
        let full = if self.blocks.len() > MANY {
            LARGE_BLOCK
        } else {
            SMALL_BLOCK
        };
        if self.blocks[number].keys.len() >= full {
            self.split(number);
            number = self.block_of(entry);
        }
        let block = &mut self.blocks[number];
        let at = block.rank(entry);
        if at < block.keys.len() && block.entry(at) == entry {
            return;
        }
        if block.keys.len() == block.keys.capacity() {
            block.keys.reserve_exact(GROWTH);
        }
        if block.slots.len() == block.slots.capacity() {
            block.slots.reserve_exact(GROWTH);
        }
        block.keys.insert(at, entry.0);
        block.slots.insert(at, entry.1);
        self.firsts[number] = block.entry(0);
        self.length += 1;
    }

    /// Inserts many entries, which are sorted. All blocks are built anew and are full.
    pub(crate) fn merge(&mut self, entries: &[Entry]) {
        let total = self.length + entries.len();
        let full = if total > MANY * SMALL_BLOCK {
            LARGE_BLOCK
        } else {
            SMALL_BLOCK
        };
        let old = std::mem::take(self);
        self.firsts.reserve_exact(total.div_ceil(full));
        self.blocks.reserve_exact(total.div_ceil(full));
        let mut old = old
            .blocks
            .into_iter()
            .flat_map(|block| block.keys.into_iter().zip(block.slots))
            .peekable();
        let mut new = entries.iter().copied().peekable();
        let mut left = total;
        let mut last = None;
        loop {
            let is_new = match (old.peek(), new.peek()) {
                (Some(one), Some(other)) => other < one,
                (None, Some(_)) => true,
                (_, None) => false,
            };
            let next = if is_new { new.next() } else { old.next() };
            let Some(entry) = next else { break };
            left = left.saturating_sub(1);
            if last.replace(entry) == Some(entry) {
                continue;
            }
            if self
                .blocks
                .last()
                .is_none_or(|block| block.keys.len() == full)
            {
                let room = full.min(left + 1);
                self.firsts.push(entry);
                self.blocks.push(Block {
                    keys: Vec::with_capacity(room),
                    slots: Vec::with_capacity(room),
                });
            }
            if let Some(block) = self.blocks.last_mut() {
                block.keys.push(entry.0);
                block.slots.push(entry.1);
                self.length += 1;
            }
        }
    }

    fn split(&mut self, number: usize) {
        let block = &mut self.blocks[number];
        let length = block.keys.len();
        // Ascending insertions fill the last block, and would leave all blocks half empty.
        let at = match number + 1 == self.firsts.len() {
            true => length * 15 / 16,
            false => length / 2,
        };
        let upper = Block {
            keys: block.keys.split_off(at),
            slots: block.slots.split_off(at),
        };
        block.keys.shrink_to(at + GROWTH);
        block.slots.shrink_to(at + GROWTH);
        self.firsts.insert(number + 1, upper.entry(0));
        self.blocks.insert(number + 1, upper);
    }

    /// Removes an entry, if it is there.
    pub(crate) fn remove(&mut self, entry: Entry) {
        if self.blocks.is_empty() {
            return;
        }
        let number = self.block_of(entry);
        let block = &mut self.blocks[number];
        let at = block.rank(entry);
        if at >= block.keys.len() || block.entry(at) != entry {
            return;
        }
        block.keys.remove(at);
        block.slots.remove(at);
        self.length -= 1;
        self.tidy(number);
    }

    /// Restores the first entry of a block after removals, and merges small neighbours.
    fn tidy(&mut self, number: usize) {
        if self.blocks[number].keys.is_empty() {
            self.blocks.remove(number);
            self.firsts.remove(number);
            return;
        }
        self.firsts[number] = self.blocks[number].entry(0);
        let is_small = |block: &Block| block.keys.len() <= GROWTH;
        if is_small(&self.blocks[number])
            && self
                .blocks
                .get(number + 1)
                .is_some_and(|next| next.keys.len() <= SMALL_BLOCK / 2)
        {
            let next = self.blocks.remove(number + 1);
            self.firsts.remove(number + 1);
            self.blocks[number].keys.extend(next.keys);
            self.blocks[number].slots.extend(next.slots);
        }
    }

    /// Removes the entries from `low` to `high`, both included, whose slot `is_dead`.
    pub(crate) fn purge(&mut self, low: Entry, high: Entry, is_dead: impl Fn(u32) -> bool) {
        let mut number = self.block_of(low);
        while number < self.blocks.len() && self.firsts[number] <= high {
            let block = &mut self.blocks[number];
            let (from, until) = (block.rank(low), block.rank_after(high));
            let mut to = from;
            for at in from..until {
                if !is_dead(block.slots[at]) {
                    block.keys[to] = block.keys[at];
                    block.slots[to] = block.slots[at];
                    to += 1;
                }
            }
            if to < until {
                self.length -= until - to;
                block.keys.drain(to..until);
                block.slots.drain(to..until);
                match block.keys.is_empty() {
                    true => {
                        *block = Block::default();
                        self.emptied += 1;
                    }
                    false => self.firsts[number] = block.entry(0),
                }
            }
            number += 1;
        }
        if self.emptied * EMPTIED_PART > self.blocks.len() {
            self.remove_emptied();
        }
    }

    /// Removes the blocks that purges emptied.
    fn remove_emptied(&mut self) {
        self.emptied = 0;
        let blocks = &self.blocks;
        let mut number = 0;
        self.firsts.retain(|_| {
            number += 1;
            !blocks[number - 1].keys.is_empty()
        });
        self.blocks.retain(|block| !block.keys.is_empty());
    }

    /// Copies up to `most` entries of a range to `found`, upwards after `after`.
    pub(crate) fn ascending(
        &self,
        range: KeyRange,
        after: Option<Entry>,
        most: usize,
        found: &mut Vec<Entry>,
    ) {
        let start = after.map_or((range.low, 0), |(key, slot)| match slot.checked_add(1) {
            Some(slot) => (key, slot),
            None => (key + 1, 0),
        });
        let mut number = self.block_of(start);
        let Some(block) = self.blocks.get(number) else {
            return;
        };
        let mut at = block.rank(start);
        while let Some(block) = self.blocks.get(number) {
            while at < block.keys.len() {
                if block.keys[at] > range.high || found.len() >= most {
                    return;
                }
                found.push(block.entry(at));
                at += 1;
            }
            (number, at) = (number + 1, 0);
        }
    }

    /// Copies up to `most` entries of a range to `found`, downwards before `before`.
    pub(crate) fn descending(
        &self,
        range: KeyRange,
        before: Option<Entry>,
        most: usize,
        found: &mut Vec<Entry>,
    ) {
        if self.blocks.is_empty() {
            return;
        }
        let (mut number, mut at) = match before {
            Some(before) => {
                let number = self.block_of(before);
                (number, self.blocks[number].rank(before))
            }
            None => {
                let number = self.block_of((range.high, u32::MAX));
                let keys = &self.blocks[number].keys;
                (number, keys.partition_point(|key| *key <= range.high))
            }
        };
        loop {
            let block = &self.blocks[number];
            while at > 0 {
                at -= 1;
                if block.keys[at] < range.low || found.len() >= most {
                    return;
                }
                found.push(block.entry(at));
            }
            if number == 0 {
                return;
            }
            number -= 1;
            at = self.blocks[number].keys.len();
        }
    }

    /// The nearest keys around a range, both excluded, if the range has no entry.
    pub(crate) fn gap(&self, range: KeyRange) -> Option<KeyRange> {
        let mut found = Vec::with_capacity(1);
        self.ascending(
            KeyRange {
                low: range.low,
                high: i64::MAX,
            },
            None,
            1,
            &mut found,
        );
        let above = found.first().map_or(i64::MAX, |entry| entry.0);
        if above <= range.high {
            return None;
        }
        found.clear();
        let below = range.low.checked_sub(1).map(|high| KeyRange {
            low: i64::MIN,
            high,
        });
        if let Some(below) = below {
            self.descending(below, None, 1, &mut found);
        }
        let below = found.first().map_or(i64::MIN, |entry| entry.0);
        Some(KeyRange {
            low: below,
            high: above,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

    use super::*;

    #[test]
    fn merged_entries_are_in_their_order_once() {
        let mut random = StdRng::seed_from_u64(3);
        let (mut index, mut set) = (Index::default(), BTreeSet::new());
        for _ in 0..40 {
            let count = random.random_range(0..700);
            let draw =
                |random: &mut StdRng| (random.random_range(0..5_000), random.random_range(0..9));
            let mut entries: Vec<_> = (0..count).map(|_| draw(&mut random)).collect();
            entries.sort_unstable();
            index.merge(&entries);
            set.extend(entries);
            // A full block takes further entries.
            let one = draw(&mut random);
            index.insert(one);
            set.insert(one);
            let mut found = Vec::new();
            index.ascending(KeyRange::ALL, None, usize::MAX, &mut found);
            assert!(found.iter().eq(set.iter()));
            assert_eq!(index.len(), set.len());
        }
    }

    #[test]
    fn the_index_is_an_ordered_set() {
        let mut random = StdRng::seed_from_u64(2);
        let (mut index, mut set) = (Index::default(), BTreeSet::new());
        for step in 0..60_000_u32 {
            let entry = (random.random_range(-500..500), random.random_range(0..50));
            // The index grows, then shrinks.
            if random.random_ratio(if step < 30_000 { 3 } else { 1 }, 4) {
                index.insert(entry);
                set.insert(entry);
            } else {
                index.remove(entry);
                set.remove(&entry);
            }
            assert_eq!(index.len(), set.len());
            if step % 50 != 0 {
                continue;
            }
            let low = random.random_range(-520..520);
            let range = KeyRange {
                low,
                high: low + random.random_range(0..100),
            };
            let expected: Vec<_> = set
                .range((range.low, 0)..=(range.high, u32::MAX))
                .copied()
                .collect();
            let (mut upwards, mut downwards) = (Vec::new(), Vec::new());
            loop {
                let (before, mut chunk) = (upwards.len(), Vec::new());
                index.ascending(range, upwards.last().copied(), 7, &mut chunk);
                upwards.extend(chunk);
                let mut chunk = Vec::new();
                index.descending(range, downwards.last().copied(), 7, &mut chunk);
                downwards.extend(chunk);
                if upwards.len() == before {
                    break;
                }
            }
            assert_eq!(upwards, expected);
            downwards.reverse();
            assert_eq!(downwards, expected);
            let gap = index.gap(range);
            assert_eq!(gap.is_none(), !expected.is_empty());
            if let Some(gap) = gap {
                let below = set.range(..(range.low, 0)).next_back();
                assert_eq!(gap.low, below.map_or(i64::MIN, |entry| entry.0));
            }
            if random.random_ratio(1, 20) {
                let (low, high) = ((range.low, 0), (range.high, u32::MAX));
                index.purge(low, high, |slot| slot % 3 == 0);
                // Whole blocks are purged, so that only a part is required.
                index.purge((i64::MIN, 0), (i64::MAX, u32::MAX), |slot| slot % 3 == 0);
                set.retain(|entry| entry.1 % 3 != 0);
            }
        }
    }
}
